/* SPDX-License-Identifier: Apache-2.0 */
/* pairs_bf16.h - two vectors rounded to bf16, number beside number: what vdpbf16ps multiplies. */
#ifndef RAMET__PAIRS_BF16_H
#define RAMET__PAIRS_BF16_H
#include "simd/vec.h"

/* two vectors of 16 floats to 16 pairs of bf16 */
INLINE __m512i pairs_of(__m512 even, __m512 odd) {
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                                19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}
#endif
