#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# emulated.sh SOURCE BUILD [meson test arguments]: a build whose AVX-VNNI, AVX-512 and AMX are models in C (-Demulate=avx512), and its unit and kernel
# suites, so that a CPU with AVX2 alone tests every level of x86-64. Exit 77 (skipped) without SIMDe or AVX2.
set -eu
source=$1 build=$2
shift 2
grep -qw avx2 /proc/cpuinfo || { echo "emulated: skipped, this CPU has no AVX2"; exit 77; }
echo '#include <simde/x86/avx512.h>' | ${CC:-cc} -x c -fsyntax-only - 2>/dev/null || { echo "emulated: skipped, no SIMDe (apt-get install libsimde-dev)"; exit 77; }
[ -f "$build/build.ninja" ] ||
  meson setup "$build" "$source" --buildtype=release -Demulate=avx512 -Dexamples=disabled -Dbenchmarks=disabled -Djni=disabled
meson compile -C "$build" -j 2
[ $# -gt 0 ] || set -- --suite unit --suite kernels
exec meson test -C "$build" --no-rebuild --print-errorlogs -t 10 "$@"
