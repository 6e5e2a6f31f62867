/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_bf16.c - products of panel16 for CPUs with BF16 beside VNNI: forward in int8 (simd/panel16_int8.c), transposed with W
 * decoded to bf16 and dy rounded to bf16. */
#include "simd/panel16_int8.h"
#include "simd/panel16.h"
#include "x86_avx512/strip_bf16.h"

/* dst[8 pairs][STRIP][2]: 16 outputs x 32 inputs of block b */
INLINE void decode_strip(const int enc, uint16_t *dst, const uint8_t *panel, int64_t blocks, int64_t b) {
    uint8_t u8[16][32];
    float d[16], m[16];
    p16_by_output(enc, u8, d, m, panel, blocks, b);
    UNROLL for (int o = 0; o < 16; o += 2)
        UNROLL for (int i = 0; i < 32; i += 16) {
            __m512 even = vfma(vset(d[o]), vu8(u8[o] + i), vset(m[o])), odd = vfma(vset(d[o + 1]), vu8(u8[o + 1] + i), vset(m[o + 1]));
            vistore(dst + (o / 2 * STRIP + i) * 2, pairs_of(even, odd));
        }
}

#define PRODUCT(ENC)                                                                                                                \
    static void decode_##ENC(uint16_t *dst, const ramet__product_args *a, int64_t n, int64_t k) {                                   \
        decode_strip(P16_##ENC, dst, (const uint8_t *)a->packed + n / 16 * p16_bytes(P16_##ENC, a->k), a->k / 32, k / 32);          \
    }                                                                                                                               \
    static void transposed_##ENC(const ramet__product_args *a) { strip_transposed(decode_##ENC, a); }                               \
    const ramet__product FN(product_panel16_##ENC##_int8bf16) = {"panel16_int8_bf16", &ramet__packing_panel16_##ENC, 0,             \
                                                                 FN(int8_prepared_bytes), FN(int8_prepare), strip_scratch,          \
                                                                 FN(panel16_int8_forward_##ENC), transposed_##ENC, 128, 64};
PRODUCT(Q4_0)
PRODUCT(Q4_1)
PRODUCT(Q5_0)
PRODUCT(Q8_0)
