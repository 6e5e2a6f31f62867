/* SPDX-License-Identifier: Apache-2.0 */
/* conv_bf16.c - convolutions in bf16 with fp32 sums: the tile of simd/tile.c over pairs, and what makes pairs. */
#undef RAMET__SUFFIX
#define RAMET__SUFFIX avx512_bf16
#define RAMET__PAIRS
#include "simd/tile.c"
#include "x86_avx512/pairs_bf16.h"

void FN(pairs)(float *y, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i += VL) vput(y + i, vcast(pairs_of(vget(a + i, n - i), b ? vget(b + i, n - i) : vzero())), n - i);
}
