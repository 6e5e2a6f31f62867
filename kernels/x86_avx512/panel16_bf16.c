/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_bf16.c - products of panel16 for CPUs with BF16 beside VNNI: forward in int8 (simd/panel16_int8.c) or, four times as precise at
 * about two thirds of the speed, in bf16; transposed with W decoded to bf16 and dy rounded to bf16. */
#include "simd/panel16_int8.h"
#include "simd/panel16.h"
#include "x86_avx512/strip_bf16.h"

enum { AHEAD = 2 }; /* panels, or blocks of one panel: a strip walks across panels, which no processor foresees */
INLINE void fetch(int enc, const uint8_t *panel, int64_t b) {
    const p16_place at = p16_at(enc, panel, b);
    for (int64_t i = 0; i < p16_quants(enc); i += 64) _mm_prefetch(at.quants + i, _MM_HINT_T0);
    _mm_prefetch(at.scales, _MM_HINT_T0);
}

/* dst[8 pairs][STRIP][2]: 16 outputs x 32 inputs, those of a->packed that begin at n and k */
static void decode_strip(int enc, uint16_t *dst, const ramet__product_args *a, int64_t n, int64_t k) {
    _Alignas(64) p16_block w;
    uint8_t u8[16][32];
    const uint8_t *panel = (const uint8_t *)a->packed + n / 16 * p16_bytes(enc, a->k);
    if (n + 16 * AHEAD < a->n) fetch(enc, panel + AHEAD * p16_bytes(enc, a->k), k / 32);
    FN(panel16_expand)(enc, &w, panel, k / 32, k / 32 + 1);
    p16_by_output(u8, &w);
    for (int o = 0; o < 16; o += 2)
        UNROLL for (int i = 0; i < 32; i += 16) {
            const float *d = w.d[i / 16] + o, *m = w.m[i / 16] + o;
            __m512 even = vfma(vset(d[0]), vu8(u8[o] + i), vset(m[0])), odd = vfma(vset(d[1]), vu8(u8[o + 1] + i), vset(m[1]));
            vistore(dst + (o / 2 * STRIP + i) * 2, pairs_of(even, odd));
        }
}

/* dst[pairs of inputs][STRIP][2], 16 of the STRIP columns: blocks b0..b1 of a panel; next: the panel that will be asked for */
static void decode_inputs(int enc, uint16_t *dst, const uint8_t *panel, const uint8_t *next, int64_t b0, int64_t b1) {
    _Alignas(64) p16_block w;
    const vi byte = viset(255);
    for (int64_t b = b0; b < b1; b++) {
        fetch(enc, b + AHEAD < b1 ? panel : next, b + AHEAD < b1 ? b + AHEAD : b0);
        FN(panel16_expand)(enc, &w, panel, b, b + 1);
        UNROLL for (int g = 0; g < 8; g++, dst += 4 * STRIP) {
            vi q = viload(w.q[g]);
            vf d = vload(w.d[g / 4]), m = vload(w.m[g / 4]);
            vf w0 = vfma(d, vcvt(viand(q, byte)), m), w1 = vfma(d, vcvt(viand(visrl(q, 8), byte)), m);
            vf w2 = vfma(d, vcvt(viand(visrl(q, 16), byte)), m), w3 = vfma(d, vcvt(visrl(q, 24)), m);
            vistore(dst, pairs_of(w0, w1));
            vistore(dst + 2 * STRIP, pairs_of(w2, w3));
        }
    }
}

static void brain_forward(int enc, int64_t bytes, strip_tiles *multiply, int64_t wide, const ramet__product_args *a) {
    uint16_t *w = a->scratch;
    const int64_t blocks = a->k / 32, each = chunk_of(a->k) / 32;
    for (int64_t n = a->from; n < a->to; n += wide) {
        int64_t width = a->to - n < wide ? a->to - n : wide;
        for (int64_t b = 0; b < blocks; b += each) {
            int64_t end = b + each < blocks ? b + each : blocks, pairs = (end - b) * 16;
            for (int64_t i = 0; i < width; i += 16) {
                const uint8_t *panel = (const uint8_t *)a->packed + (n + i) / 16 * bytes;
                decode_inputs(enc, w + i / STRIP * strip_size(pairs) + i % STRIP * 2, panel, n + i + 16 < a->to ? panel + bytes : panel, b, end);
            }
            multiply(a->y + n, a->y_stride, a->m, width, b > 0 || a->accumulate, (const uint32_t *)a->x + b * 16, a->x_stride / 4, w, pairs);
        }
        add_bias(a, n, width);
    }
}

static const ramet__scheme int8_bf16 = {"panel16_int8_bf16", RAMET__REDUCED, FN(int8_prepared_bytes), FN(int8_prepare), strip_scratch, {{128, 64}, {128, 64}}, NULL, round_row, FN(int8_prepare_fast)};
static const ramet__scheme brain = {"panel16_bf16", RAMET__BRAIN, rounded_bytes, prepare_row, strip_scratch, {{256, 64}, {256, 64}}, NULL, round_row, NULL, 1};
#define PRODUCT_AS(ENC, AS) /* AS: the encoding whose panels it has */                                                              \
    const ramet__product FN(product_panel16_##ENC##_int8bf16) = {&int8_bf16, &ramet__packing_panel16_##ENC, FN(panel16_int8_forward_##AS), transposed_##AS}; \
    const ramet__product FN(product_panel16_##ENC##_bf16) = {&brain, &ramet__packing_panel16_##ENC, forward_##AS, transposed_##AS}; \
    AMX_PRODUCT(ENC, AS)
#define PRODUCT(ENC)                                                                                                                \
    static void decode_##ENC(uint16_t *dst, const ramet__product_args *a, int64_t n, int64_t k) { decode_strip(P16_##ENC, dst, a, n, k); } \
    static void transposed_##ENC(const ramet__product_args *a) { strip_transposed(decode_##ENC, tiles, NARROW, a); }                        \
    static void forward_##ENC(const ramet__product_args *a) { brain_forward(P16_##ENC, p16_bytes(P16_##ENC, a->k), tiles, NARROW, a); }     \
    AMX(ENC)                                                                                                                        \
    PRODUCT_AS(ENC, ENC)
#ifdef RAMET__BUILD_AMX /* the same by AMX */
static const ramet__scheme brain_amx = {"panel16_bf16", RAMET__BRAIN, rounded_bytes, prepare_row, wide_scratch, {{256, WIDE}, {256, WIDE}}, NULL, round_row, NULL, 1};
#define AMX(ENC)                                                                                                                    \
    static void amx_transposed_##ENC(const ramet__product_args *a) { strip_transposed(decode_##ENC, ramet__tiles_amx, WIDE, a); }         \
    static void amx_forward_##ENC(const ramet__product_args *a) { brain_forward(P16_##ENC, p16_bytes(P16_##ENC, a->k), ramet__tiles_amx, WIDE, a); }
#define AMX_PRODUCT(ENC, AS) const ramet__product ramet__product_panel16_##ENC##_bf16_amx = {&brain_amx, &ramet__packing_panel16_##ENC, amx_forward_##AS, amx_transposed_##AS};
#else
#define AMX(ENC)
#define AMX_PRODUCT(ENC, AS)
#endif
PRODUCT(Q4_0)
PRODUCT(Q4_1)
PRODUCT(Q5_0)
PRODUCT(Q5_1)
PRODUCT(Q8_0)
PRODUCT(Q4_K)
PRODUCT(Q5_K)
PRODUCT(Q6_K)
PRODUCT_AS(IQ4_NL, Q8_0)
