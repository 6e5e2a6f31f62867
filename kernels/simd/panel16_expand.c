/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_expand.c - blocks of a panel in the form that all encodings share (panel16.h), for products that use them more than once. */
#include "simd/vec.h"
#include "simd/panel16.h"

#if VL == 16 || defined(__AVX2__) || defined(RAMET__NEON)
#define EACH INLINE /* encoding has code of its own */
#else
#define EACH NOINLINE static /* the floor has one for all */
#endif
EACH void expand(const int enc, p16_block *dst, const uint8_t *panel, int64_t from, int64_t to) {
    for (; from < to; from++, dst++) {
        const p16_place at = p16_at(enc, panel, from);
        for (int h = 0; h < HALVES; h++) {
            vi q[8];
            vf d, m;
            p16_load(enc, q, &at, h);
            UNROLL for (int g = 0; g < 8; g++) vistore(dst->q[g] + h * VL * 4, q[g]);
            UNROLL for (int part = 0; part < 2; part++) {
                p16_scale(enc, part, &d, &m, &at, h);
                vstore(dst->d[part] + h * VL, d);
                vstore(dst->m[part] + h * VL, m);
            }
        }
    }
}

void FN(panel16_expand)(int enc, p16_block *dst, const uint8_t *panel, int64_t from, int64_t to) {
    switch (enc) {
    case P16_Q4_0: expand(P16_Q4_0, dst, panel, from, to); break;
    case P16_Q4_1: expand(P16_Q4_1, dst, panel, from, to); break;
    case P16_Q5_0: expand(P16_Q5_0, dst, panel, from, to); break;
    case P16_Q5_1: expand(P16_Q5_1, dst, panel, from, to); break;
    case P16_Q8_0: expand(P16_Q8_0, dst, panel, from, to); break;
    case P16_Q4_K: expand(P16_Q4_K, dst, panel, from, to); break;
    case P16_Q5_K: expand(P16_Q5_K, dst, panel, from, to); break;
    default: expand(P16_Q6_K, dst, panel, from, to);
    }
}
