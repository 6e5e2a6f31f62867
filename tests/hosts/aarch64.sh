#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# aarch64.sh SOURCE BUILD [meson test arguments]: cross-build for aarch64 and run the unit, kernel and lint suites under qemu-user.
# Wants gcc-aarch64-linux-gnu and qemu-user; the aarch64 cmocka and SIMDe come from Debian into a folder of their own, without root
# and without touching the system's list of architectures. CC=clang compiles with that, and links with GCC's library all the same. Exit 77 (skipped)
# when a tool or package is not there.
set -eu
source=$1 build=$2
shift 2
for tool in aarch64-linux-gnu-gcc qemu-aarch64 apt-get dpkg-deb meson; do
  command -v $tool >/dev/null || { echo "aarch64: skipped, no $tool (apt-get install gcc-aarch64-linux-gnu qemu-user)"; exit 77; }
done
sysroot=${XDG_CACHE_HOME:-$HOME/.cache}/ramet/aarch64
if [ ! -e "$sysroot/usr/include/cmocka.h" ] || [ ! -d "$sysroot/usr/include/simde" ]; then
  mkdir -p "$sysroot/apt/lists/partial" "$sysroot/apt/archives/partial"
  apt() { # the system's sources and keys, lists of our own
    apt-get -q -o APT::Architectures::=arm64 -o Dir::State::lists="$sysroot/apt/lists" -o Dir::Cache="$sysroot/apt" \
      -o Dir::Cache::archives="$sysroot/apt/archives" -o APT::Sandbox::User=root -o Acquire::Languages=none "$@"
  }
  (cd "$sysroot/apt" && apt update && apt download libcmocka-dev:arm64 libcmocka0:arm64 libsimde-dev) ||
    { echo "aarch64: skipped, apt-get could not download cmocka for arm64"; exit 77; }
  for package in "$sysroot"/apt/*.deb; do dpkg-deb -x "$package" "$sysroot"; done
  rm -rf "$sysroot/apt"
fi
if [ ! -f "$build/build.ninja" ]; then
  printf '[constants]\nsysroot = %s\n' "'$sysroot'" > "$sysroot/sysroot.ini"
  compiler=
  case ${CC:-} in *clang*)
    compiler="--cross-file $build/clang.ini"
    mkdir -p "$build"
    printf "[binaries]\nc = ['%s', '--target=aarch64-linux-gnu']\n" "$CC" > "$build/clang.ini" ;;
  esac
  # shellcheck disable=SC2086 # two words or none
  meson setup "$build" "$source" --cross-file "$sysroot/sysroot.ini" --cross-file "$source/tests/cross/aarch64-linux-gnu.ini" $compiler -Djni=disabled
fi
meson compile -C "$build" -j 2
file=$(find "$build/lib" -name 'libramet.so.*.*' | head -n 1)
aarch64-linux-gnu-strip -o "$build/stripped.so" "$file"
echo "aarch64: stripped library $(wc -c < "$build/stripped.so") bytes"
[ $# -gt 0 ] || set -- --suite unit --suite kernels --suite lint --suite hosts
exec meson test -C "$build" --no-rebuild --print-errorlogs -t 10 "$@"
