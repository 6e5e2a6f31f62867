/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_int8.c - products of panel16 with activations quantized to int8 by blocks of 32: integer dot products inside a block, fp32
 * between blocks. One dot of a block per ISA: dpbusd on AVX-512 VNNI and AVX-VNNI, maddubs on AVX2, sdot on NEON, and smmla for pairs of rows. A row's bits do not depend on the others.
 * A block of activations that stands out of its row carries most of the row's rounding noise: what rounding left of it is rounded as well, and
 * multiplied like a block of its own; what that costs and gains: benchmarks/inference/accuracy.py. A block of a panel is unpacked into registers once
 * for as many rows as fit L1. The transposed product stays in fp32 or, where a CPU has AVX2 alone, goes by integers of 16 bits. */
#include "simd/panel16_int8.h"
#include "simd/tile.h"
#include "simd/panel16.h"

static uint64_t one_row(int64_t k) { return ramet__round64((uint64_t)((k + 63) / 64 * 64 + k / 32 * 28)); }

#ifndef RAMET__FEW_ROWS
uint64_t FN(int8_prepared_bytes)(int64_t k) { return 2 * one_row(k); }

/* q = 32 numbers, none over `top`, as int8; the sum of the first 16 and 4096 times that of the others. v becomes what is left where that is wanted. */
INLINE int32_t round_block(int8_t *q, vf *v, float top, int32_t left) {
    vf inverse = vset(top > 0.0f ? 127.0f / top : 0.0f), each = vset(-top / 127.0f);
    vi t[32 / VL];
    vi sum = viset(0); /* |sum of a half| <= 2032: all below 2^24, so exact in floats */
    UNROLL for (int i = 0; i < 32 / VL; i++) {
        t[i] = vtoi(vmul(v[i], inverse));
        sum = viadd(sum, i * VL < 16 ? t[i] : visll(t[i], 12));
        vstore_i8(q + i * VL, t[i]);
    }
    if (left) UNROLL for (int i = 0; i < 32 / VL; i++) v[i] = vfma(vcvt(t[i]), each, v[i]);
    return (int32_t)vsum(vcvt(sum));
}

/* The arrays behind d, from the blocks' sums, which stand where the first of the starts will */
static void finish_row(float *d, int64_t blocks) {
    float *s = d + blocks;
    int32_t *start = (int32_t *)(void *)(s + blocks);
    int64_t b = 0;
    for (; b + VL <= blocks; b += VL) {
        const vi both = viload(start + b), high = visra(viadd(both, viset(2048)), 12), low = visub(both, visll(high, 12)), total = viadd(low, high), none = viset(0);
        vstore(s + b, vmul(vload(d + b), vcvt(total)));
        vistore(start + b, visub(none, visll(total, 3)));
        vistore(start + blocks + b, visub(none, visll(total, 4)));
        vistore(start + 2 * blocks + b, visub(none, visll(total, 7)));
        vistore(start + 3 * blocks + b, visub(none, visll(low, 5)));
        vistore(start + 4 * blocks + b, visub(none, visll(high, 5)));
    }
    for (; b < blocks; b++) {
        const int32_t both = start[b], high = (both + 2048) >> 12, low = both - high * 4096, total = low + high;
        s[b] = d[b] * (float)total;
        start[b] = -8 * total;
        start[blocks + b] = -16 * total;
        start[2 * blocks + b] = -128 * total;
        start[3 * blocks + b] = -32 * low;
        start[4 * blocks + b] = -32 * high;
    }
}

/* least: the square from which on a largest value stands out, in mean squares of the row */
static void prepare(void *dst, const float *x, int64_t k, float least) {
    const int64_t blocks = k / 32;
    int8_t *q[2] = {dst, (int8_t *)dst + one_row(k)}; /* x, and what rounding left of it */
    float *d[2];
    int32_t *sum[2];
    vf squares[32 / VL];
    for (int i = 0; i < 2; i++) {
        d[i] = (float *)(void *)(q[i] + (blocks + 1) / 2 * 64);
        sum[i] = (int32_t *)(void *)(d[i] + 2 * blocks);
    }
    UNROLL for (int i = 0; i < 32 / VL; i++) squares[i] = vzero();
    for (int64_t b = 0; b < blocks; b++) UNROLL for (int i = 0; i < 32 / VL; i++) {
        vf v = vload(x + 32 * b + i * VL);
        squares[i] = vfma(v, v, squares[i]);
    }
    UNROLL for (int i = 1; i < 32 / VL; i++) squares[0] = vadd(squares[0], squares[i]);
    float out = least / (float)k * vsum(squares[0]);
    for (int64_t b = 0; b < blocks; b++, x += 32) {
        vf v[32 / VL], each = vzero();
        UNROLL for (int i = 0; i < 32 / VL; i++) {
            v[i] = vload(x + i * VL);
            each = vmax(each, vabs(v[i]));
        }
        float top = vtop(each);
        int32_t again = top * top > out;
        d[1][b] = 0.0f;
        sum[1][b] = 0;
        for (int i = 0;; i++, again = 0, top /= 254.0f) {
            d[i][b] = top / 127.0f;
            sum[i][b] = round_block(q[i] + 32 * b, v, top, again);
            if (!again) break;
        }
    }
    for (int i = 0; i < 2; i++) finish_row(d[i], blocks);
}
void FN(int8_prepare)(void *dst, const float *x, int64_t k) { prepare(dst, x, k, (float)RAMET__STANDS_OUT); }
void FN(int8_prepare_fast)(void *dst, const float *x, int64_t k) { prepare(dst, x, k, (float)k); } /* none exceeds the sum of all squares */
#endif

/* What encodings differ in here: offsets of quants up to five bits, the offset of quants of eight, minimums, two scales a block. */
enum { OFFSET, BYTE, MINIMUM, SIXTEEN };
INLINE int kind_of(const int enc) { return enc == P16_Q6_K ? SIXTEEN : p16_has_min(enc) ? MINIMUM : enc == P16_Q8_0 ? BYTE : OFFSET; }
/* Which start of int8_row is that of the encoding's offset */
INLINE int which_of(const int enc) { return enc == P16_Q4_0 ? 0 : enc == P16_Q5_0 ? 1 : 2; }

INLINE vi four(const int8_t *x) { int32_t v; memcpy(&v, x, 4); return viset(v); }

/* sum over 4 * G inputs of q * x, from `start`; q unsigned as p16_load gives them */
INLINE vi block_dot(const int kind, const int G, vi start, const vi *q, const int8_t *x) {
#ifdef RAMET__VEC512
    UNROLL for (int g = 0; g < G; g++) start = _mm512_dpbusd_epi32(start, q[g], four(x + 4 * g));
    return start;
#elif defined(__ARM_FEATURE_DOTPROD)
    const int8x16_t x0 = vld1q_s8(x), x1 = G > 4 ? vld1q_s8(x + 16) : x0;
    const int big = kind == BYTE; /* both factors are signed: what reaches 128 is turned into q - 128 and starts from zero */
    if (big) start = viset(0);
#define SDOT(g, from, lane)                                                                                                          \
    {                                                                                                                               \
        const vi w = big ? vixor(q[g], viset8((int8_t)0x80)) : q[g];                                                                \
        start.lo = vdotq_laneq_s32(start.lo, vreinterpretq_s8_s32(w.lo), from, lane);                                               \
        start.hi = vdotq_laneq_s32(start.hi, vreinterpretq_s8_s32(w.hi), from, lane);                                               \
    }
    SDOT(0, x0, 0) SDOT(1, x0, 1) SDOT(2, x0, 2) SDOT(3, x0, 3)
    if (G > 4) { SDOT(4, x1, 0) SDOT(5, x1, 1) SDOT(6, x1, 2) SDOT(7, x1, 3) }
#undef SDOT
    return start;
#else
    const vi one = simde_mm256_set1_epi16(1);
    vi s[8];
    if (kind == BYTE) {
        /* unsigned quants of eight bits overflow 16: their signed value's magnitude, its sign given to x, |sum of two| <= 128 * 127 * 2 */
        vi sum = viset(0);
        UNROLL for (int g = 0; g < G; g++) {
            vi w = vixor(q[g], viset8((int8_t)0x80));
            s[g] = simde_mm256_maddubs_epi16(simde_mm256_abs_epi8(w), simde_mm256_sign_epi8(four(x + 4 * g), w));
        }
        UNROLL for (int g = 0; g < G; g++) sum = viadd(sum, simde_mm256_madd_epi16(s[g], one));
        return sum;
    }
    /* 16 bits hold 4 * 31 * 127 * 2 = 31496 of five bits, 2 * 63 * 127 * 2 = 32004 of six */
    const int each = kind == SIXTEEN ? 2 : 4;
    UNROLL for (int g = 0; g < G; g++) s[g] = simde_mm256_maddubs_epi16(q[g], four(x + 4 * g));
    UNROLL for (int g = 0; g < G; g += each) {
        vi t = simde_mm256_add_epi16(s[g], s[g + 1]);
        if (each == 4) t = simde_mm256_add_epi16(t, simde_mm256_add_epi16(s[g + 2], s[g + 3]));
        start = viadd(start, simde_mm256_madd_epi16(t, one));
    }
    return start;
#endif
}

/* Rows at a time: their sums stand in L1, and so do their activations unless rows are long */
#if VL == 8
enum { GROUP = 64 };
#else
enum { GROUP = 48 };
#endif

/* Rows that meet a panel where it lies: arranging its blocks for them does not pay yet */
#ifdef RAMET__VEC512
enum { FEW = 1 };
#elif defined(RAMET__FEW_ROWS)
enum { FEW = 3 };
#else
enum { FEW = 5 };
#endif

/* Few rows wait for memory. Hardware follows the stream, but not over the end of a page: what is this far ahead is fetched, to L1 for one row,
 * which keeps up with no more, to L2 for several, whose activations live in L1. */
enum { NEAR = 4096, AHEAD = 8192 };

/* sum + block b of one row, whose parts lie `at` bytes after `first`; `which`: the place of the offset in int8_row; d1: of the second 16 inputs */
INLINE vf add_block(const int kind, int which, vf sum, const vi q[8], vf d, vf d1, vf m, const int8_row *first, int64_t blocks, int64_t b, int64_t at) {
#define PART(array) ((const void *)((const uint8_t *)(const void *)((array) + b) + at))
    const float *scale = PART(first->d);
    const int8_t *x = first->q + b * 32 + at;
    if (kind == SIXTEEN) {
        vi low = block_dot(kind, 4, viset(*(const int32_t *)PART(first->start[3])), q, x);
        vi high = block_dot(kind, 4, viset(*(const int32_t *)PART(first->start[4])), q + 4, x + 16);
        return vfma(vfma(vcvt(high), d1, vmul(vcvt(low), d)), vset(*scale), sum);
    }
    vi dot = block_dot(kind, 8, kind == MINIMUM ? viset(0) : viset(*(const int32_t *)PART(first->start[which])), q, x);
    sum = vfma(vcvt(dot), vmul(d, vset(*scale)), sum);
    return kind == MINIMUM ? vfma(m, vset(scale[blocks]), sum) : sum;
#undef PART
}

INLINE void finish(const ramet__product_args *a, int64_t row, int64_t n, vf bias, vf sum) {
    float *y = a->y + row * a->y_stride + n;
    if (a->bias) sum = vadd(sum, bias);
    if (a->accumulate) sum = vadd(sum, vget(y, a->to - n));
    vput(y, sum, a->to - n);
}

/* sum[r] of `rows` rows += vector h of block b of a panel, whose parts lie `at` */
INLINE void add_rows(const int enc, vf *sum, const p16_place *at, int h, const int8_row *first, int64_t rows, int64_t stride, int64_t rest, int64_t blocks, int64_t b) {
    vi q[8];
    vf d, d1, m, unused;
    p16_load(enc, q, at, h);
    p16_scale(enc, 0, &d, &m, at, h);
    p16_scale(enc, 1, &d1, &unused, at, h);
    for (int64_t r = 0; r < rows; r++) {
        int64_t at_x = r * stride;
        const float *left = (const float *)(const void *)((const uint8_t *)(const void *)(first->d + b) + at_x + rest);
        const int64_t last = *left != 0.0f ? at_x + rest : at_x;
        do sum[r] = add_block(kind_of(enc), which_of(enc), sum[r], q, d, d1, m, first, blocks, b, at_x);
        while ((at_x += rest) <= last);
    }
}

#ifndef RAMET__FEW_ROWS
/* sum[h * stride + r] of `rows` rows to outputs n.. */
NOINLINE static void finish_panel(const ramet__product_args *a, int64_t rows, int64_t n, const vf *sum, int64_t stride) {
    for (int h = 0; h < HALVES; h++, n += VL) {
        const vf bias = a->bias ? vget(a->bias + n, a->to - n) : vzero();
        for (int64_t r = 0; r < rows; r++) finish(a, r, n, bias, sum[h * stride + r]);
    }
}
/* One row against panel p where it lies: both vectors of outputs meet its activations together. K-quants take so much unpacking that this is seen. */
INLINE void single_row(const int enc, const ramet__product_args *a, int64_t p) {
    const int64_t blocks = a->k / 32, each = p16_unit_bytes(enc) / p16_unit(enc), rest = (int64_t)one_row(a->k);
    const uint8_t *panel = (const uint8_t *)a->packed + p * p16_bytes(enc, a->k);
    const int8_row first = int8_row_at(a->x, a->k);
    const float *left = (const float *)(const void *)((const uint8_t *)(const void *)first.d + rest);
    vf sum[HALVES];
    UNROLL for (int h = 0; h < HALVES; h++) sum[h] = vzero();
    for (int64_t b = 0; b < blocks; b++) {
        UNROLL for (int64_t i = 0; i < each; i += 64) PREFETCH((uintptr_t)panel + (uintptr_t)(b * each + i + NEAR), 3);
        const p16_place at = p16_at(enc, panel, b);
        int64_t at_x = 0;
        do UNROLL for (int h = 0; h < HALVES; h++) {
            vi q[8];
            vf d, d1, m, unused;
            p16_load(enc, q, &at, h);
            p16_scale(enc, 0, &d, &m, &at, h);
            p16_scale(enc, 1, &d1, &unused, &at, h);
            sum[h] = add_block(kind_of(enc), which_of(enc), sum[h], q, d, d1, m, &first, blocks, b, at_x);
        }
        while ((at_x += rest) == rest && left[b] != 0.0f);
    }
    finish_panel(a, 1, p * 16, sum, 1);
}
/* A few rows, each vector of outputs after the other */
INLINE void few_rows(const int enc, const ramet__product_args *a, int64_t p) {
    const int64_t rows = FEW == 1 ? 1 : a->m;
    const int64_t blocks = a->k / 32, each = p16_unit_bytes(enc) / p16_unit(enc), rest = (int64_t)one_row(a->k);
    const uint8_t *panel = (const uint8_t *)a->packed + p * p16_bytes(enc, a->k);
    const int8_row first = int8_row_at(a->x, a->k);
    vf sum[HALVES][FEW];
    for (int h = 0; h < HALVES; h++) for (int64_t r = 0; r < rows; r++) sum[h][r] = vzero();
    for (int64_t b = 0; b < blocks; b++) {
        UNROLL for (int64_t i = 0; i < each; i += 64) PREFETCH((uintptr_t)panel + (uintptr_t)(b * each + i + NEAR), 3);
        const p16_place at = p16_at(enc, panel, b);
        for (int h = 0; h < HALVES; h++) add_rows(enc, sum[h], &at, h, &first, rows, a->x_stride, rest, blocks, b);
    }
    finish_panel(a, rows, p * 16, sum[0], FEW);
}
#endif

#if VL == 8
#include "simd/panel16_tile.h"
#else
/* Rows row.. against a vector of outputs, n.. */
INLINE void many(const int enc, const ramet__product_args *a, int64_t row, int64_t n) {
    const int64_t blocks = a->k / 32, each = p16_unit_bytes(enc) / p16_unit(enc), rest = (int64_t)one_row(a->k), rows = a->m - row < GROUP ? a->m - row : GROUP;
    const uint8_t *panel = (const uint8_t *)a->packed + n / 16 * p16_bytes(enc, a->k);
    const int8_row first = int8_row_at((const uint8_t *)a->x + row * a->x_stride, a->k);
    vf sum[GROUP];
    for (int64_t r = 0; r < rows; r++) sum[r] = vzero();
    for (int64_t b = 0; b < blocks; b++) {
        UNROLL for (int64_t i = 0; i < each; i += 64) PREFETCH((uintptr_t)panel + (uintptr_t)(b * each + i + AHEAD), 2);
        const p16_place at = p16_at(enc, panel, b);
        add_rows(enc, sum, &at, (int)(n % 16 / VL), &first, rows, a->x_stride, rest, blocks, b);
    }
    const vf bias = a->bias ? vget(a->bias + n, a->to - n) : vzero();
    for (int64_t r = 0; r < rows; r++) finish(a, row + r, n, bias, sum[r]);
}
#define PIECES {{128, 64}, {128, 64}}
#define SCRATCH FN_BASE(panel16_scratch)
#define TRANSPOSED(ENC) FN_BASE(panel16_transposed_##ENC)
#define ROUND NULL
#define NAME "panel16_int8"
INLINE void forward(const int enc, const ramet__product_args *a) {
    for (int64_t n = a->from; n < a->to; n += VL)
        for (int64_t r = 0; r < a->m; r += GROUP) many(enc, a, r, n);
}
#endif
#ifdef RAMET__FEW_ROWS
#define FORWARD(ENC)                                                                                                                \
    static void forward_##ENC(const ramet__product_args *a) {                                                                       \
        if (a->m <= FEW) FN_FEW(panel16_int8_forward_##ENC)(a);                                                                     \
        else forward(P16_##ENC, a);                                                                                                 \
    }
#define OF(ENC) forward_##ENC
#else
#define FORWARD(ENC)                                                                                                                \
    void FN(panel16_int8_forward_##ENC)(const ramet__product_args *a) {                                                             \
        if (VL == 8 && p16_is_k(P16_##ENC) && a->m == 1) for (int64_t p = a->from / 16; p * 16 < a->to; p++) single_row(P16_##ENC, a, p); \
        else if (a->m <= FEW) for (int64_t p = a->from / 16; p * 16 < a->to; p++) few_rows(P16_##ENC, a, p);                        \
        else forward(P16_##ENC, a);                                                                                                 \
    }
#define OF(ENC) FN(panel16_int8_forward_##ENC)
#endif

static const ramet__scheme scheme = {NAME, RAMET__REDUCED, FN_FEW(int8_prepared_bytes), FN_FEW(int8_prepare), SCRATCH, PIECES, NULL, ROUND,
                                      FN_FEW(int8_prepare_fast)};
#define PRODUCT_AS(ENC, AS) /* AS: the encoding whose panels it has */                                                              \
    const ramet__product FN(product_panel16_##ENC##_int8) = {&scheme, &ramet__packing_panel16_##ENC,                        \
                                                             OF(AS), TRANSPOSED(AS)};
#define PRODUCT(ENC)                                                                                                                \
    FORWARD(ENC)                                                                                                                    \
    PRODUCT_AS(ENC, ENC)
PRODUCT(Q4_0)
PRODUCT(Q4_1)
PRODUCT(Q5_0)
PRODUCT(Q5_1)
PRODUCT(Q8_0)
PRODUCT(Q4_K)
PRODUCT(Q5_K)
PRODUCT(Q6_K)
PRODUCT_AS(IQ4_NL, Q8_0)
