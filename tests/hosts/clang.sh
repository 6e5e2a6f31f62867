#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# clang.sh SOURCE BUILD: the library built by clang, as the NDK and macOS build it, and its unit, kernel and lint suites; then the same for
# aarch64 (aarch64.sh), where its tools are there. CC chooses the clang. Exit 77 (skipped) without one.
set -eu
source=$1 build=$2
found=
for clang in ${CC:-} clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14; do
  case $clang in *clang*) if command -v "$clang" >/dev/null; then found=$clang; break; fi ;; esac
done
[ -n "$found" ] || { echo "clang: skipped, no clang (apt-get install clang)"; exit 77; }
export CC="$found"
[ -f "$build/build.ninja" ] || meson setup "$build" "$source" --buildtype=release -Dexamples=disabled -Dbenchmarks=disabled -Djni=disabled
meson compile -C "$build" -j 2
meson test -C "$build" --no-rebuild --print-errorlogs -t 10 --suite unit --suite kernels --suite lint
status=0
"$(dirname "$0")/aarch64.sh" "$source" "$build-aarch64" || status=$?
[ $status = 77 ] || exit $status
