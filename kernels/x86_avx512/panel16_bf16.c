/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_bf16.c - products of panel16 for CPUs with BF16 beside VNNI: forward in int8 (simd/panel16_int8.c) or, four times as precise at
 * about two thirds of the speed, in bf16; transposed with W decoded to bf16 and dy rounded to bf16. */
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

/* dst[pairs of inputs][STRIP][2], 16 of the STRIP columns: blocks b0..b1 of a panel */
INLINE void decode_inputs(const int enc, uint16_t *dst, const uint8_t *panel, int64_t blocks, int64_t b0, int64_t b1) {
    for (int64_t b = b0; b < b1; b++) {
        vi q[8];
        vf d, m;
        p16_load(enc, q, panel, blocks, b, 0);
        p16_scale(enc, &d, &m, panel, blocks, b, 0);
        UNROLL for (int g = 0; g < 8; g++, dst += 4 * STRIP) {
            const vi byte = viset(255);
            vf w0 = vfma(d, vcvt(viand(q[g], byte)), m), w1 = vfma(d, vcvt(viand(visrl(q[g], 8), byte)), m);
            vf w2 = vfma(d, vcvt(viand(visrl(q[g], 16), byte)), m), w3 = vfma(d, vcvt(visrl(q[g], 24)), m);
            vistore(dst, pairs_of(w0, w1));
            vistore(dst + 2 * STRIP, pairs_of(w2, w3));
        }
    }
}

static uint64_t brain_bytes(int64_t k) { return ramet__round64((uint64_t)k * 2); }
static void brain_prepare(void *dst, const float *x, int64_t k) {
    memset((char *)dst + k * 2, 0, (size_t)(brain_bytes(k) - (uint64_t)k * 2));
    round_row(dst, x, k);
}

typedef void input_decoder(uint16_t *dst, const uint8_t *panel, int64_t blocks, int64_t b0, int64_t b1);
static void brain_forward(input_decoder *decode, int64_t bytes, const ramet__product_args *a) {
    uint16_t *w = a->scratch;
    int64_t blocks = a->k / 32, each = CHUNK / 32;
    for (int64_t n = a->from; n < a->to; n += STRIP) {
        int64_t width = a->to - n < STRIP ? a->to - n : STRIP;
        for (int64_t b = 0; b < blocks; b += each) {
            int64_t end = b + each < blocks ? b + each : blocks;
            for (int64_t i = 0; i < width; i += 16) decode(w + 2 * i, (const uint8_t *)a->packed + (n + i) / 16 * bytes, blocks, b, end);
            tiles(a->y + n, a->y_stride, a->m, width, b > 0 || a->accumulate, (const uint32_t *)a->x + b * 16, a->x_stride / 4, w, (end - b) * 16);
        }
        for (int64_t r = 0; a->bias && r < a->m; r++)
            for (int64_t i = 0; i < width; i++) a->y[r * a->y_stride + n + i] += a->bias[n + i];
    }
}

#define PRODUCT(ENC)                                                                                                                \
    static void decode_##ENC(uint16_t *dst, const ramet__product_args *a, int64_t n, int64_t k) {                                   \
        decode_strip(P16_##ENC, dst, (const uint8_t *)a->packed + n / 16 * p16_bytes(P16_##ENC, a->k), a->k / 32, k / 32);          \
    }                                                                                                                               \
    static void transposed_##ENC(const ramet__product_args *a) { strip_transposed(decode_##ENC, a); }                               \
    const ramet__product FN(product_panel16_##ENC##_int8bf16) = {"panel16_int8_bf16", &ramet__packing_panel16_##ENC, RAMET__REDUCED,             \
                                                                 FN(int8_prepared_bytes), FN(int8_prepare), strip_scratch,          \
                                                                 FN(panel16_int8_forward_##ENC), transposed_##ENC, 128, 64};        \
    static void inputs_##ENC(uint16_t *dst, const uint8_t *panel, int64_t blocks, int64_t b0, int64_t b1) {                         \
        decode_inputs(P16_##ENC, dst, panel, blocks, b0, b1);                                                                       \
    }                                                                                                                               \
    static void forward_##ENC(const ramet__product_args *a) { brain_forward(inputs_##ENC, p16_bytes(P16_##ENC, a->k), a); }         \
    const ramet__product FN(product_panel16_##ENC##_bf16) = {"panel16_bf16", &ramet__packing_panel16_##ENC, RAMET__BRAIN,           \
                                                             brain_bytes, brain_prepare, strip_scratch,                             \
                                                             forward_##ENC, transposed_##ENC, 256, 64};
PRODUCT(Q4_0)
PRODUCT(Q4_1)
PRODUCT(Q5_0)
PRODUCT(Q8_0)
/* packed as Q8_0 */
const ramet__product FN(product_panel16_IQ4_NL_int8bf16) = {"panel16_int8_bf16", &ramet__packing_panel16_IQ4_NL, RAMET__REDUCED,
                                                            FN(int8_prepared_bytes), FN(int8_prepare), strip_scratch,
                                                            FN(panel16_int8_forward_Q8_0), transposed_Q8_0, 128, 64};
const ramet__product FN(product_panel16_IQ4_NL_bf16) = {"panel16_bf16", &ramet__packing_panel16_IQ4_NL, RAMET__BRAIN, brain_bytes, brain_prepare,
                                                        strip_scratch, forward_Q8_0, transposed_Q8_0, 256, 64};
