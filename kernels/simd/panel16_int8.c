/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_int8.c - products of panel16 with activations quantized to int8 by blocks of 32: integer dot products inside a block, fp32
 * between blocks. One dot of a block per ISA: dpbusd on AVX-512 VNNI and AVX-VNNI, maddubs on AVX2, sdot on NEON, and smmla for pairs of rows. A row's bits do not depend on the others.
 * A block of activations that stands out of its row carries most of the row's rounding noise: what rounding left of it is rounded as well, and
 * multiplied like a block of its own; what that costs and gains: benchmarks/inference/accuracy.py. One row unpacks a
 * panel as it goes; for more, a block is unpacked once. The transposed product stays in fp32 or, where a CPU has AVX2 alone, goes by integers of 16 bits. */
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

/* A vector of a block, unpacked */
typedef struct held { vi q[8]; vf d, d1, m; } held;
INLINE held hold(const int enc, const p16_place *at, int h) {
    held w;
    vf unused;
    p16_load(enc, w.q, at, h);
    p16_scale(enc, 0, &w.d, &w.m, at, h);
    p16_scale(enc, 1, &w.d1, &unused, at, h);
    return w;
}

#if !defined(RAMET__VEC512) && !defined(__ARM_FEATURE_DOTPROD)
/* So many products of pairs 16 bits hold: 8 * 15 * 127 * 2 = 30480 of four bits, 4 * 31 * 127 * 2 = 31496 of five, 2 * 63 * 127 * 2 = 32004 of six, 128 * 127 * 2 = 32512 of a byte's
 * magnitude */
INLINE int deep_of(const int enc) { return enc == P16_Q8_0 ? 1 : enc == P16_Q6_K ? 2 : p16_high(enc) ? 4 : 8; }
#endif

/* dot[v] += inputs of groups from..to of a row times vectors h + v of a block, of which there are V: the one held, or unpacked from where they lie */
INLINE void block_dots(const int enc, const int V, vi *dot, const int8_t *x, const held *w, const p16_place *at, int h, const int from, const int to) {
#define UNPACKED(g, v) (w ? w->q[g] : p16_four(enc, at, h + (v), g))
#ifdef RAMET__VEC512
    UNROLL for (int g = from; g < to; g++) dot[0] = _mm512_dpbusd_epi32(dot[0], UNPACKED(g, 0), four(x + 4 * g));
#elif defined(__ARM_FEATURE_DOTPROD)
#define STEP(i)                                                                                                                   \
    UNROLL for (int v = 0; v < V; v++) {                                                                                          \
        vi u = UNPACKED(4 * half + (i), v);                                                                                       \
        if (enc == P16_Q8_0) u = vixor(u, viset8((int8_t)0x80)); /* both factors are signed there */                              \
        dot[v].lo = vdotq_laneq_s32(dot[v].lo, vreinterpretq_s8_s32(u.lo), some, i);                                              \
        dot[v].hi = vdotq_laneq_s32(dot[v].hi, vreinterpretq_s8_s32(u.hi), some, i);                                              \
    }
    UNROLL for (int half = from / 4; half < to / 4; half++) {
        const int8x16_t some = vld1q_s8(x + 16 * half);
        STEP(0) STEP(1) STEP(2) STEP(3)
    }
#undef STEP
#else
    const int deep = deep_of(enc);
    UNROLL for (int f = from; f < to; f += deep) {
        vi sum[HALVES];
        UNROLL for (int g = f; g < f + deep; g++) {
            const vi some = four(x + 4 * g);
            UNROLL for (int v = 0; v < V; v++) {
                vi u = UNPACKED(g, v), t = some;
                if (enc == P16_Q8_0) { /* unsigned quants of eight bits overflow 16: their signed value's magnitude, its sign given to x */
                    u = vixor(u, viset8((int8_t)0x80));
                    t = simde_mm256_sign_epi8(t, u);
                    u = simde_mm256_abs_epi8(u);
                }
                u = simde_mm256_maddubs_epi16(u, t);
                sum[v] = g > f ? simde_mm256_add_epi16(sum[v], u) : u;
                HERE(sum[v]);
            }
        }
        UNROLL for (int v = 0; v < V; v++) dot[v] = viadd(dot[v], simde_mm256_madd_epi16(sum[v], simde_mm256_set1_epi16(1)));
    }
#endif
#undef UNPACKED
}

/* Rows at a time: their sums stand in L1, and so do their activations unless rows are long */
#if VL == 8
enum { GROUP = 64 };
#else
enum { GROUP = 48 };
#endif

/* Few rows wait for memory. Hardware follows the stream, but not over the end of a page: what is this far ahead is fetched, to L1 for few rows,
 * which keep up with no more, to L2 for many, whose activations live in L1. */
enum { NEAR = 4096, AHEAD = 8192 };

#define BEHIND(array, bytes) ((const void *)((const uint8_t *)(const void *)(array) + (bytes)))

/* A row's part of a block: what rounding made of it, or what it left. start: where its sums start, of 16 inputs each in Q6_K */
typedef struct row_part { const int8_t *q; float d, s; int32_t start[2]; } row_part;
INLINE row_part part_at(const int enc, const int8_row *row, int64_t blocks, int64_t b, int64_t to) {
    const float *scale = BEHIND(row->d + b, to);
    const int six = kind_of(enc) == SIXTEEN;
    return (row_part){row->q + b * 32 + to, scale[0], scale[blocks], {*(const int32_t *)BEHIND(row->start[six ? 3 : which_of(enc)] + b, to), *(const int32_t *)BEHIND(row->start[4] + b, to)}};
}

/* sum[v] += a row's part of a block times vectors h + v as in block_dots */
INLINE void add_block(const int enc, const int V, vf *sum, const held *w, const p16_place *at, int h, const row_part *x) {
    const int kind = kind_of(enc), six = kind == SIXTEEN;
#ifdef RAMET__VEC512
    const int starts = kind != MINIMUM; /* bytes too are unsigned there */
#else
    const int starts = kind == OFFSET || six;
#endif
    vi dot[HALVES], dot1[HALVES];
    UNROLL for (int v = 0; v < V; v++) dot[v] = viset(starts ? x->start[0] : 0);
    block_dots(enc, V, dot, x->q, w, at, h, 0, six ? 4 : 8);
    if (six) {
        UNROLL for (int v = 0; v < V; v++) dot1[v] = viset(x->start[1]);
        block_dots(enc, V, dot1, x->q, w, at, h, 4, 8);
    }
    UNROLL for (int v = 0; v < V; v++) {
        vf d, d1, m, unused;
        if (w) d = w->d, d1 = w->d1, m = w->m;
        else {
            p16_scale(enc, 0, &d, &m, at, h + v);
            if (six) p16_scale(enc, 1, &d1, &unused, at, h + v);
        }
        if (six) sum[v] = vfma(vfma(vcvt(dot1[v]), d1, vmul(vcvt(dot[v]), d)), vset(x->d), sum[v]);
        else sum[v] = vfma(vcvt(dot[v]), vmul(d, vset(x->d)), sum[v]);
        if (kind == MINIMUM) sum[v] = vfma(m, vset(x->s), sum[v]);
    }
}

INLINE void finish(const ramet__product_args *a, int64_t row, int64_t n, vf bias, vf sum) {
    float *y = a->y + row * a->y_stride + n;
    if (a->bias) sum = vadd(sum, bias);
    if (a->accumulate) sum = vadd(sum, vget(y, a->to - n));
    vput(y, sum, a->to - n);
}
/* sum[r][h] of `rows` rows to outputs n.. */
NOINLINE static void finish_panel(const ramet__product_args *a, int64_t row, int64_t rows, int64_t n, vf sum[][HALVES]) {
    for (int h = 0; h < HALVES && n < a->to; h++, n += VL) {
        const vf bias = a->bias ? vget(a->bias + n, a->to - n) : vzero();
        for (int64_t r = 0; r < rows; r++) finish(a, row + r, n, bias, sum[r][h]);
    }
}

/* Rows row.., up to `most`, against panel p where it lies. One row meets all vectors of a block together: they are unpacked as they are used, and again for what stands out of the row;
 * several meet one vector after the other, which is held for them. */
INLINE void some_rows(const int enc, const ramet__product_args *a, int64_t row, int64_t p, const int most) {
    const int64_t blocks = a->k / 32, each = p16_unit_bytes(enc) / p16_unit(enc), rest = (int64_t)one_row(a->k), rows = most == 1 ? 1 : a->m - row < most ? a->m - row : most;
    const uint8_t *panel = (const uint8_t *)a->packed + p * p16_bytes(enc, a->k);
    const int8_row first = int8_row_at((const uint8_t *)a->x + row * a->x_stride, a->k);
    vf sum[GROUP][HALVES];
    for (int64_t r = 0; r < rows; r++) for (int h = 0; h < HALVES; h++) sum[r][h] = vzero();
    for (int64_t b = 0; b < blocks; b++) {
        UNROLL for (int64_t i = 0; i < each; i += 64) {
            if (most < GROUP) PREFETCH((uintptr_t)panel + (uintptr_t)(b * each + i + NEAR), 3);
            else PREFETCH((uintptr_t)panel + (uintptr_t)(b * each + i + AHEAD), 2);
        }
        p16_place at = p16_at(enc, panel, b);
        if (most == 1) {
            int64_t to = 0;
            do {
                IN_MEMORY(at.quants);
                const row_part x = part_at(enc, &first, blocks, b, to);
                add_block(enc, HALVES, sum[0], NULL, &at, 0, &x);
            } while ((to += rest) == rest && *(const float *)BEHIND(first.d + b, rest) != 0.0f);
        } else
            for (int h = 0; h < HALVES; h++) {
                const held w = hold(enc, &at, h);
                for (int64_t r = 0; r < rows; r++) {
                    int64_t to = r * a->x_stride;
                    const int64_t last = *(const float *)BEHIND(first.d + b, to + rest) != 0.0f ? to + rest : to;
                    do {
                        const row_part x = part_at(enc, &first, blocks, b, to);
                        add_block(enc, 1, &sum[r][h], &w, &at, h, &x);
                    } while ((to += rest) <= last);
                }
            }
    }
    finish_panel(a, row, rows, p * 16, sum);
}

#if VL == 8
#include "simd/panel16_tile.h"
#else
#define PIECES {{128, 64}, {128, 64}}
#define SCRATCH FN_BASE(panel16_scratch)
#define TRANSPOSED(ENC) FN_BASE(panel16_transposed_##ENC)
#define ROUND NULL
#define NAME "panel16_int8"
INLINE void forward(const int enc, const ramet__product_args *a) {
    for (int64_t p = a->from / 16; p * 16 < a->to; p++)
        for (int64_t r = 0; r < a->m; r += GROUP) some_rows(enc, a, r, p, GROUP);
}
#endif
/* So many rows meet a panel where it lies: gathering more, and arranging its blocks for them, pays. */
enum { MOST_FEW = 12 };
#if VL == 16 || defined(RAMET__AVXVNNI)
#define FEW(enc) 1
#elif defined(__AVX2__)
#define FEW(enc) ((enc) == P16_Q8_0 ? MOST_FEW : 5)
#else
#define FEW(enc) 8
#endif
#ifdef RAMET__FEW_ROWS
#define FORWARD(ENC)                                                                                                                \
    static void forward_##ENC(const ramet__product_args *a) {                                                                       \
        if (a->m <= FEW(P16_##ENC)) FN_FEW(panel16_int8_forward_##ENC)(a);                                                          \
        else forward(P16_##ENC, a);                                                                                                 \
    }
#define OF(ENC) forward_##ENC
#else
/* Few rows' parts of each block, with where their sums stand; 2 * rows * b are block b's */
typedef struct few_part { row_part x; vf *sum; } few_part;
static void list_parts(int enc, int32_t *count, few_part *list, vf sum[][HALVES], const ramet__product_args *a) {
    const int64_t blocks = a->k / 32, room = 2 * a->m;
    for (int64_t i = 0; i < room; i++) { /* all rows, then what rounding left of them */
        const int64_t r = i < a->m ? i : i - a->m;
        const int8_row row = int8_row_at((const uint8_t *)a->x + r * a->x_stride + (i < a->m ? 0 : (int64_t)one_row(a->k)), a->k);
        few_part *to = list;
        for (int64_t b = 0; b < blocks; b++, to += room) {
            if (i == 0) count[b] = 0;
            if (i < a->m || row.d[b] != 0.0f) to[count[b]++] = (few_part){part_at(enc, &row, blocks, b, 0), sum[r]};
        }
    }
}
/* A panel where it lies: each vector of a block is held for all its parts */
INLINE void meet(const int enc, const uint8_t *panel, int64_t blocks, const int32_t *count, const few_part *list, int64_t room) {
    const int64_t each = p16_unit_bytes(enc) / p16_unit(enc);
    for (int64_t b = 0; b < blocks; b++, list += room) {
        UNROLL for (int64_t i = 0; i < each; i += 64) PREFETCH((uintptr_t)panel + (uintptr_t)(b * each + i + NEAR), 3);
        const p16_place at = p16_at(enc, panel, b);
        const few_part *end = list + count[b];
        for (int h = 0; h < HALVES; h++) {
            const held w = hold(enc, &at, h);
            for (const few_part *p = list; p < end; p++) add_block(enc, 1, p->sum + h, &w, &at, h, &p->x);
        }
    }
}
typedef void meet_fn(const uint8_t *panel, int64_t blocks, const int32_t *count, const few_part *list, int64_t room);
NOINLINE static void several_rows(int enc, meet_fn *met, const ramet__product_args *a) {
    const int64_t blocks = a->k / 32, bytes = p16_bytes(enc, a->k);
    int32_t *count = a->scratch;
    few_part *list = (void *)((uint8_t *)a->scratch + ramet__round64((uint64_t)blocks * sizeof *count));
    vf sum[MOST_FEW][HALVES];
    list_parts(enc, count, list, sum, a);
    for (int64_t n = a->from; n < a->to; n += 16) {
        for (int64_t r = 0; r < a->m; r++) for (int h = 0; h < HALVES; h++) sum[r][h] = vzero();
        met((const uint8_t *)a->packed + n / 16 * bytes, blocks, count, list, 2 * a->m);
        finish_panel(a, 0, a->m, n, sum);
    }
}
INLINE void single_row(const int enc, const ramet__product_args *a) {
    for (int64_t p = a->from / 16; p * 16 < a->to; p++) some_rows(enc, a, 0, p, 1);
}
#define FORWARD(ENC)                                                                                                                \
    static void meet_##ENC(const uint8_t *panel, int64_t blocks, const int32_t *count, const few_part *list, int64_t room) {        \
        meet(P16_##ENC, panel, blocks, count, list, room);                                                                          \
    }                                                                                                                               \
    void FN(panel16_int8_forward_##ENC)(const ramet__product_args *a) {                                                             \
        if (a->m > FEW(P16_##ENC)) forward(P16_##ENC, a);                                                                           \
        else if (a->m > 1) several_rows(P16_##ENC, meet_##ENC, a);                                                                   \
        else single_row(P16_##ENC, a);                                                                                              \
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
