#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# package.sh BUILD PROGRAM.c CC...: install into a scratch folder, then build and run a program against what was installed, found through
# pkg-config and (where cmake is there) through find_package.
set -eu
build=$1 program=$2
shift 2
case $1 in *ccache) shift ;; esac # a launcher is no compiler
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
meson=$(command -v meson || echo "$(dirname "$0")/../../.venv/bin/meson")
DESTDIR="$scratch/root" "$meson" install -C "$build" --no-rebuild --quiet
pc=$(find "$scratch/root" -name ramet.pc)
[ -n "$pc" ] || { echo "package: no ramet.pc was installed"; exit 1; }
for expected in ramet.h base.h; do
  find "$scratch/root" -path "*/ramet/$expected" | grep -q . || { echo "package: $expected was not installed"; exit 1; }
done
export PKG_CONFIG_PATH="$(dirname "$pc")" PKG_CONFIG_SYSROOT_DIR="$scratch/root"
libraries=$(dirname "$(dirname "$pc")")
# shellcheck disable=SC2046 -- the flags are words
"$@" "$program" -o "$scratch/by-pkg-config" $(pkg-config --cflags --libs ramet)
LD_LIBRARY_PATH="$libraries" "$scratch/by-pkg-config"
if [ -f "$libraries/libramet.a" ]; then
  "$@" "$program" -o "$scratch/static" $(pkg-config --cflags ramet) "$libraries/libramet.a" -lm -pthread
  "$scratch/static"
fi
if cmake --version >/dev/null 2>&1; then
  mkdir "$scratch/cmake"
  cat > "$scratch/cmake/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.16)
project(program C)
find_package(ramet $(pkg-config --modversion ramet) REQUIRED)
find_package(ramet 99.0 QUIET)
if(ramet_FOUND)
  message(FATAL_ERROR "version 99.0 was accepted")
endif()
add_executable(by-cmake $program)
target_link_libraries(by-cmake ramet::ramet)
END
  cmake -S "$scratch/cmake" -B "$scratch/cmake/build" -Dramet_DIR="$libraries/cmake/ramet" -DCMAKE_C_COMPILER="$1" > "$scratch/log" 2>&1 &&
    cmake --build "$scratch/cmake/build" >> "$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
  LD_LIBRARY_PATH="$libraries" "$scratch/cmake/build/by-cmake"
fi
