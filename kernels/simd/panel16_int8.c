/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_int8.c - products of panel16 with activations quantized to int8 by blocks of 32: integer dot products inside a block, fp32
 * between blocks. One dot of a block per ISA: dpbusd on AVX-512 VNNI, maddubs on AVX2, sdot on NEON. A row's bits do not depend on the others.
 * The transposed product stays in fp32. */
#include "simd/panel16_int8.h"
#include "simd/tile.h"
#include "simd/panel16.h"

uint64_t FN(int8_prepared_bytes)(int64_t k) { return ramet__round64((uint64_t)((k + 63) / 64 * 64 + k / 32 * 20)); }

void FN(int8_prepare)(void *dst, const float *x, int64_t k) {
    int64_t blocks = k / 32;
    int8_t *q = dst;
    float *d = (float *)(void *)(q + (k + 63) / 64 * 64), *s = d + blocks;
    int32_t *start = (int32_t *)(void *)(s + blocks);
    for (int64_t b = 0; b < blocks; b++, x += 32, q += 32) {
        vf v[32 / VL], top = vzero();
        UNROLL for (int i = 0; i < 32 / VL; i++) {
            v[i] = vload(x + i * VL);
            top = vmax(top, vabs(v[i]));
        }
        float amax = vtop(top);
        vf inverse = vset(amax > 0.0f ? 127.0f / amax : 0.0f);
        vi sum = viset(0);
        UNROLL for (int i = 0; i < 32 / VL; i++) {
            vi t = vtoi(vmul(v[i], inverse));
            sum = viadd(sum, t);
            vstore_i8(q + i * VL, t);
        }
        int32_t total = (int32_t)vsum(vcvt(sum)); /* below 2^24: exact */
        d[b] = amax / 127.0f;
        s[b] = d[b] * (float)total;
        start[b] = -8 * total;
        start[blocks + b] = -16 * total;
        start[2 * blocks + b] = -128 * total;
    }
}

INLINE vi four(const int8_t *x) { int32_t v; memcpy(&v, x, 4); return viset(v); }

/* sum over 32 inputs of q * x, from `start`; q unsigned as p16_load gives them */
INLINE vi block_dot(const int enc, vi start, const vi q[8], const int8_t *x) {
#ifdef RAMET__VEC512
    UNROLL for (int g = 0; g < 8; g++) start = _mm512_dpbusd_epi32(start, q[g], four(x + 4 * g));
    return start;
#elif defined(__ARM_FEATURE_DOTPROD)
    const int8x16_t x0 = vld1q_s8(x), x1 = vld1q_s8(x + 16);
    int32x4_t s[2];
    UNROLL for (int h = 0; h < 2; h++) {
        /* both factors are signed: what reaches 128 is turned into q - 128 and starts from zero */
        const int big = enc == P16_Q8_0;
        s[h] = big ? vdupq_n_s32(0) : simde__m128i_to_neon_i32(h ? simde_mm256_extracti128_si256(start, 1) : simde_mm256_castsi256_si128(start));
#define SDOT(g, from, lane)                                                                                                          \
        s[h] = vdotq_laneq_s32(s[h], veorq_s8(simde__m128i_to_neon_i8(h ? simde_mm256_extracti128_si256(q[g], 1) : simde_mm256_castsi256_si128(q[g])), \
                                              vdupq_n_s8(big ? -128 : 0)), from, lane)
        SDOT(0, x0, 0); SDOT(1, x0, 1); SDOT(2, x0, 2); SDOT(3, x0, 3);
        SDOT(4, x1, 0); SDOT(5, x1, 1); SDOT(6, x1, 2); SDOT(7, x1, 3);
#undef SDOT
    }
    return simde_mm256_set_m128i(simde__m128i_from_neon_i32(s[1]), simde__m128i_from_neon_i32(s[0]));
#else
    const vi one = simde_mm256_set1_epi16(1);
    vi s[8];
    if (enc == P16_Q8_0) {
        /* 255 * 127 * 2 overflows 16 bits: low seven bits and the top bit apart, |sum| <= 127 * 127 * 2 each */
        const vi top = viset8((int8_t)0x80), low = viset8(127);
        UNROLL for (int g = 0; g < 8; g++) {
            vi v = four(x + 4 * g), t = simde_mm256_maddubs_epi16(viand(q[g], low), v);
            vi u = simde_mm256_maddubs_epi16(viand(visrl(viand(q[g], top), 7), viset8(1)), v);
            s[g] = viadd(simde_mm256_madd_epi16(t, one), visll(simde_mm256_madd_epi16(u, one), 7));
        }
        UNROLL for (int g = 0; g < 8; g++) start = viadd(start, s[g]);
        return start;
    }
    /* nibbles: 8 * 15 * 127 * 2 = 30480, five bits: 4 * 31 * 127 * 2 = 31496, fit 16 bits */
    UNROLL for (int g = 0; g < 8; g++) s[g] = simde_mm256_maddubs_epi16(q[g], four(x + 4 * g));
    vi a = simde_mm256_add_epi16(simde_mm256_add_epi16(s[0], s[1]), simde_mm256_add_epi16(s[2], s[3]));
    vi b = simde_mm256_add_epi16(simde_mm256_add_epi16(s[4], s[5]), simde_mm256_add_epi16(s[6], s[7]));
    if (enc != P16_Q5_0) return viadd(start, simde_mm256_madd_epi16(simde_mm256_add_epi16(a, b), one));
    return viadd(start, viadd(simde_mm256_madd_epi16(a, one), simde_mm256_madd_epi16(b, one)));
#endif
}

#ifdef RAMET__VEC512
enum { ROWS = 12 };
#else
enum { ROWS = 4 };
#endif

#ifdef __GNUC__
#define PREFETCH(p) __builtin_prefetch(p, 0, 2) /* to L2 */
#else
#define PREFETCH(p) (void)(p)
#endif

/* R rows against the half h of panel p */
INLINE void panel_rows(const int enc, const int R, const ramet__product_args *a, int64_t row, int64_t p, int h) {
    int64_t blocks = a->k / 32;
    const int which = enc == P16_Q4_0 ? 0 : enc == P16_Q5_0 ? 1 : 2;
    const uint8_t *panel = (const uint8_t *)a->packed + p * p16_bytes(enc, a->k), *x = (const uint8_t *)a->x + row * a->x_stride;
    int8_row first = int8_row_at(x, a->k);
    vf sum[ROWS];
    UNROLL for (int r = 0; r < R; r++) sum[r] = vzero();
    const int64_t each = p16_quants(enc) + p16_fifth(enc) + p16_scales(enc);
    for (int64_t b = 0; b < blocks; b++) {
        vi q[8];
        vf d, m;
        /* One row waits for memory: quants and scales are two streams that hardware loses at every panel; fetch the next one. */
        if (R == 1 && h == 0 && p * 16 + 16 < a->to)
            UNROLL for (int64_t i = 0; i < each; i += 64) PREFETCH(panel + p16_bytes(enc, a->k) + b * each + i);
        p16_load(enc, q, panel, blocks, b, h);
        p16_scale(enc, &d, &m, panel, blocks, b, h);
        UNROLL for (int r = 0; r < R; r++) {
            int64_t at = r * a->x_stride; /* every part of a row lies x_stride bytes after the row before */
            const int32_t *start = (const int32_t *)(const void *)((const uint8_t *)(const void *)(first.start[which] + b) + at);
            const float *scale = (const float *)(const void *)((const uint8_t *)(const void *)(first.d + b) + at);
            vi dot = block_dot(enc, enc == P16_Q4_1 ? viset(0) : viset(*start), q, first.q + b * 32 + at);
            sum[r] = vfma(vcvt(dot), vmul(d, vset(*scale)), sum[r]);
            if (enc == P16_Q4_1) sum[r] = vfma(m, vset(scale[blocks]), sum[r]);
        }
    }
    int64_t n = p * 16 + h * VL, left = a->to - n;
    vf bias = a->bias ? vget(a->bias + n, left) : vzero();
    UNROLL for (int r = 0; r < R; r++) {
        float *y = a->y + (row + r) * a->y_stride + n;
        vf v = sum[r];
        if (a->bias) v = vadd(v, bias);
        if (a->accumulate) v = vadd(v, vget(y, left));
        vput(y, v, left);
    }
}

INLINE void forward(const int enc, const ramet__product_args *a) {
    for (int64_t p = a->from / 16; p * 16 < a->to; p++)
        for (int h = 0; h < HALVES; h++) {
            int64_t r = 0;
            for (; r + ROWS <= a->m; r += ROWS) panel_rows(enc, ROWS, a, r, p, h);
            for (; r + 4 <= a->m; r += 4) panel_rows(enc, 4, a, r, p, h);
            for (; r < a->m; r++) panel_rows(enc, 1, a, r, p, h);
        }
}

#define PRODUCT(ENC)                                                                                                                \
    void FN(panel16_int8_forward_##ENC)(const ramet__product_args *a) { forward(P16_##ENC, a); }                                    \
    const ramet__product FN(product_panel16_##ENC##_int8) = {"panel16_int8", &ramet__packing_panel16_##ENC, RAMET__REDUCED,                      \
                                                             FN(int8_prepared_bytes), FN(int8_prepare), FN_BASE(panel16_scratch),        \
                                                             FN(panel16_int8_forward_##ENC), FN_BASE(panel16_transposed_##ENC), 128, 64};
PRODUCT(Q4_0)
PRODUCT(Q4_1)
PRODUCT(Q5_0)
PRODUCT(Q8_0)
/* packed as Q8_0 */
const ramet__product FN(product_panel16_IQ4_NL_int8) = {"panel16_int8", &ramet__packing_panel16_IQ4_NL, RAMET__REDUCED,
                                                        FN(int8_prepared_bytes), FN(int8_prepare), FN_BASE(panel16_scratch),
                                                        FN(panel16_int8_forward_Q8_0), FN_BASE(panel16_transposed_Q8_0), 128, 64};
