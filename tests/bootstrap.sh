#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bootstrap.sh BUILD: from git, make, a C compiler and python3 to a configured build folder. Called by the Makefile.
# What the system lacks (C headers, venv, SIMDe, cmocka, pkg-config) comes from its package manager; Meson and Ninja go into .venv.
set -eu
build=${1:-build}
cd "$(dirname "$0")/.."
say() { echo "bootstrap: $*"; }

compiler=${CC:-cc}
command -v "${compiler%% *}" >/dev/null || { say "no C compiler ($compiler): install gcc or clang, or set CC"; exit 1; }
command -v python3 >/dev/null || { say "no python3: install it"; exit 1; }

# Each thing is looked for where the build will look for it, so an own installation counts.
finds() { printf '%s\n' "$1" | $compiler ${CPPFLAGS:-} ${CFLAGS:-} -E -x c - >/dev/null 2>&1; }
missing() {
  list=
  python3 -c 'import venv, ensurepip' 2>/dev/null || [ -x .venv/bin/meson ] || list="$list python3-venv"
  command -v pkg-config >/dev/null || list="$list pkg-config"
  finds '#include <stdio.h>' || list="$list libc6-dev" # gcc only recommends it
  finds '#include <simde/x86/avx2.h>' || list="$list libsimde-dev"
  finds '#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>' || list="$list libcmocka-dev"
  echo "$list"
}
packages=$(missing)
if [ -n "$packages" ]; then
  root=
  if [ "$(id -u)" != 0 ]; then root=$(command -v sudo || echo none); fi
  if [ "$root" != none ] && command -v apt-get >/dev/null; then
    say "installing$packages"
    $root apt-get update -q || say "apt-get update failed; trying with the lists that are there"
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages || true
    packages=$(missing)
  fi
fi
if [ -n "$packages" ]; then
  say "missing, under their Debian names:$packages"
  say "as root: apt-get install$packages"
  say "elsewhere: the C library's headers, the python venv module, pkg-config, the SIMDe headers and cmocka; then run this again"
  exit 1
fi

if ! .venv/bin/meson --version >/dev/null 2>&1 || ! .venv/bin/ninja --version >/dev/null 2>&1; then
  rm -rf .venv
  say "Meson and Ninja into .venv"
  python3 -m venv .venv
  .venv/bin/python -m pip install -q --disable-pip-version-check 'meson>=1.1,<2' ninja ||
    { say "pip could not fetch meson and ninja; with both on the PATH: meson setup $build && meson test -C $build"; rm -rf .venv; exit 1; }
fi
# The tests of the Python package want NumPy; without it they are skipped.
.venv/bin/python -c 'import numpy' 2>/dev/null || .venv/bin/python -m pip install -q --disable-pip-version-check 'numpy>=1.22' ||
  say "pip could not fetch numpy: the tests of the Python package will be skipped"
PATH="$PWD/.venv/bin:$PATH"
[ -f "$build/build.ninja" ] || meson setup "$build"
