/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_tile.h - many rows of panel16_int8.c on AVX2, AVX-VNNI and NEON; a part of that file. Loads are what such products wait for, so weights meet
 * several rows and activations all 16 outputs of a panel. The parts of a row are gathered block by block, what stands out after the rest, and a row's sums are added
 * in the same order as there: its bits are those of the row alone. */
#ifndef RAMET__PANEL16_TILE_H
#define RAMET__PANEL16_TILE_H
#ifdef __AVX2__
#include "simd/int16.h"
#endif

/* One row's part of a block; its sums lie `at` bytes after the group's */
typedef struct part {
    float d, s;
    int32_t start[2];
    int64_t at, none;
    int8_t q[]; /* 32 numbers, as the level's `dots` reads them */
} part;
INLINE int64_t part_bytes(const int kind);
INLINE part *nth(const int kind, const part *p, int64_t i) { return (part *)(void *)((uint8_t *)(uintptr_t)p + i * part_bytes(kind)); }

/* Of each level: put: q of part i from 32 bytes; arrange: a block's weights as dots reads them, in `room` or where they are; dots: dot[r][h] += products of inputs
 * 4 g.. for g in from..to of R parts. */
enum { ARRANGED = 1024 };
#if defined(__ARM_FEATURE_MATMUL_INT8)
/* smmla: the four sums of 8 products of two rows and two outputs. Of a pair of parts 8 inputs of one follow 8 of the other. */
INLINE int64_t part_bytes(const int kind) { return (void)kind, (int64_t)sizeof(part) + 32; }
INLINE int8_t *eight(const int kind, const part *p, int64_t pair, int j) { return nth(kind, p, 2 * pair + j / 2)->q + j % 2 * 16; }
INLINE void put(const int kind, part *p, int64_t i, vi q) {
    int8_t *to = eight(kind, p, i / 2, 0) + i % 2 * 8, *then = eight(kind, p, i / 2, 2) + i % 2 * 8;
    vst1_s32((void *)to, vget_low_s32(q.lo));
    vst1_s32((void *)(to + 16), vget_high_s32(q.lo));
    vst1_s32((void *)then, vget_low_s32(q.hi));
    vst1_s32((void *)(then + 16), vget_high_s32(q.hi));
}
INLINE const uint8_t *arrange(const int kind, uint8_t *room, const p16_block *w) {
    for (int j = 0; j < 4; j++)
        for (int v = 0; v < 4; v++) {
            const uint8x16_t flip = vdupq_n_u8(kind == BYTE ? 0x80 : 0);
            const uint32x4_t a = vreinterpretq_u32_u8(veorq_u8(vld1q_u8(w->q[2 * j] + 16 * v), flip)), b = vreinterpretq_u32_u8(veorq_u8(vld1q_u8(w->q[2 * j + 1] + 16 * v), flip));
            vst1q_u8(room + 128 * j + 32 * v, vreinterpretq_u8_u32(vzip1q_u32(a, b)));
            vst1q_u8(room + 128 * j + 32 * v + 16, vreinterpretq_u8_u32(vzip2q_u32(a, b)));
        }
    return room;
}
INLINE void dots(const int kind, const int deep, const int R, vi dot[4][2], const part *p, const uint8_t *w, const int from, const int to) {
    int32x4_t acc[2][8]; /* of a pair and two outputs: row 0, row 1 */
    (void)deep;
    UNROLL for (int i = 0; i < R / 2; i++) {
        acc[i][0] = vcombine_s32(vget_low_s32(dot[2 * i][0].lo), vget_low_s32(dot[2 * i + 1][0].lo)); /* all of a row are the same yet */
        UNROLL for (int o = 1; o < 8; o++) acc[i][o] = acc[i][0];
    }
    UNROLL for (int j = from / 2; j < to / 2; j++) {
        int8x16_t x[2];
        UNROLL for (int i = 0; i < R / 2; i++) x[i] = vld1q_s8(eight(kind, p, i, j));
        UNROLL for (int o = 0; o < 8; o += 2) {
            const int8x16_t v[2] = {vreinterpretq_s8_u8(vld1q_u8(w + 128 * j + 16 * o)), vreinterpretq_s8_u8(vld1q_u8(w + 128 * j + 16 * o + 16))};
            UNROLL for (int i = 0; i < R / 2; i++) UNROLL for (int e = 0; e < 2; e++) {
                acc[i][o + e] = vmmlaq_s32(acc[i][o + e], x[i], v[e]);
                IN_TURN(acc[i][o + e]);
            }
        }
    }
#define ROW(i, h, take) ((vi){take(acc[i][4 * (h)], acc[i][4 * (h) + 1]), take(acc[i][4 * (h) + 2], acc[i][4 * (h) + 3])})
#define FIRST(a, b) vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)))
#define SECOND(a, b) vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)))
    UNROLL for (int i = 0; i < R / 2; i++) UNROLL for (int h = 0; h < 2; h++) {
        dot[2 * i][h] = ROW(i, h, FIRST);
        dot[2 * i + 1][h] = ROW(i, h, SECOND);
    }
#undef ROW
#undef FIRST
#undef SECOND
}
#elif defined(__ARM_FEATURE_DOTPROD)
INLINE int64_t part_bytes(const int kind) { return (void)kind, (int64_t)sizeof(part) + 32; }
INLINE void put(const int kind, part *p, int64_t i, vi q) { vistore(nth(kind, p, i)->q, q); }
INLINE const uint8_t *arrange(const int kind, uint8_t *room, const p16_block *w) {
    if (kind != BYTE) return w->q[0];
    for (int i = 0; i < 512; i += 16) vst1q_u8(room + i, veorq_u8(vld1q_u8(w->q[0] + i), vdupq_n_u8(0x80)));
    return room;
}
INLINE void dots(const int kind, const int deep, const int R, vi dot[4][2], const part *p, const uint8_t *w, const int from, const int to) {
    int8x16_t x[4];
    (void)deep;
#define STEP(i)                                                                                                                   \
    {                                                                                                                             \
        const uint8_t *at = w + 64 * (4 * half + (i));                                                                            \
        const vi v[2] = {viload(at), viload(at + 32)};                                                                            \
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) {                                                  \
            dot[r][h].lo = vdotq_laneq_s32(dot[r][h].lo, vreinterpretq_s8_s32(v[h].lo), x[r], i);                                \
            dot[r][h].hi = vdotq_laneq_s32(dot[r][h].hi, vreinterpretq_s8_s32(v[h].hi), x[r], i);                                \
            IN_TURN(dot[r][h].lo);                                                                                                \
            IN_TURN(dot[r][h].hi);                                                                                                \
        }                                                                                                                         \
    }
    UNROLL for (int half = from / 4; half < to / 4; half++) {
        UNROLL for (int r = 0; r < R; r++) x[r] = vld1q_s8(nth(kind, p, r)->q + 16 * half);
        STEP(0) STEP(1) STEP(2) STEP(3)
    }
#undef STEP
}
#else
#ifdef RAMET__AVXVNNI
INLINE int is_wide(const int kind) { return (void)kind, 0; }
#else
INLINE int is_wide(const int kind) { return kind == BYTE; } /* no product of signed bytes: both sides as 16 bits, inputs 4g and 4g + 2 a pair, 4g + 1 and 4g + 3 in a second half */
#endif
INLINE int64_t part_bytes(const int kind) { return (int64_t)sizeof(part) + (is_wide(kind) ? 64 : 32); }
INLINE void widen(uint8_t *to, int64_t second, vi bytes) {
    vistore(to, simde_mm256_srai_epi16(simde_mm256_slli_epi16(bytes, 8), 8));
    vistore(to + second, simde_mm256_srai_epi16(bytes, 8));
}
INLINE void put(const int kind, part *p, int64_t i, vi q) {
    int8_t *to = nth(kind, p, i)->q;
    if (is_wide(kind)) widen((uint8_t *)to, 32, q);
    else vistore(to, q);
}
INLINE const uint8_t *arrange(const int kind, uint8_t *room, const p16_block *w) {
    if (!is_wide(kind)) return w->q[0];
    for (int g = 0; g < 8; g++) UNROLL for (int h = 0; h < 2; h++) widen(room + 128 * g + 32 * h, 64, vixor(viload(w->q[g] + 32 * h), viset8((int8_t)0x80)));
    return room;
}
INLINE void dots(const int kind, const int deep, const int R, vi dot[4][2], const part *p, const uint8_t *weights, const int from, const int to) {
    if (is_wide(kind)) {
        UNROLL for (int i = 2 * from; i < 2 * to; i++) {
            const vi w[2] = {viload(weights + 64 * i), viload(weights + 64 * i + 32)};
            UNROLL for (int r = 0; r < R; r++) {
                const vi x = four(nth(kind, p, r)->q + i % 2 * 32 + i / 2 * 4);
                UNROLL for (int h = 0; h < 2; h++) {
                    dot[r][h] = viadd(dot[r][h], simde_mm256_madd_epi16(w[h], x));
                    HERE(dot[r][h]);
                }
            }
        }
        return;
    }
#ifdef RAMET__AVXVNNI
    (void)deep;
    UNROLL for (int g = from; g < to; g++) {
        const vi w[2] = {viload(weights + 64 * g), viload(weights + 64 * g + 32)};
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) dot[r][h] = _mm256_dpbusd_avx_epi32(dot[r][h], w[h], four(nth(kind, p, r)->q + 4 * g));
    }
#else
    const vi one = simde_mm256_set1_epi16(1);
    UNROLL for (int f = from; f < to; f += deep) { /* 16 bits hold so many */
        vi s[4][2];
        UNROLL for (int g = f; g < f + deep; g++) {
            const vi w[2] = {viload(weights + 64 * g), viload(weights + 64 * g + 32)};
            UNROLL for (int r = 0; r < R; r++) {
                const vi x = four(nth(kind, p, r)->q + 4 * g);
                UNROLL for (int h = 0; h < 2; h++) {
                    const vi t = simde_mm256_maddubs_epi16(w[h], x);
                    s[r][h] = g > f ? simde_mm256_add_epi16(s[r][h], t) : t;
                    HERE(s[r][h]);
                }
            }
        }
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) {
            dot[r][h] = viadd(dot[r][h], simde_mm256_madd_epi16(s[r][h], one));
            HERE(dot[r][h]);
        }
    }
#endif
}
#endif

/* R parts against all outputs of a block */
INLINE void tile(const int kind, const int deep, const int R, vf sum[][2], const part *p, const p16_block *w, const uint8_t *q) {
    vi dot[4][2];
    vf low[4][2];
#ifdef RAMET__AVXVNNI
    const int starts = kind != MINIMUM; /* bytes too are unsigned there */
#else
    const int starts = kind == OFFSET || kind == SIXTEEN;
#endif
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) dot[r][h] = viset(starts ? nth(kind, p, r)->start[0] : 0);
    if (kind == SIXTEEN) {
        dots(kind, deep, R, dot, p, q, 0, 4);
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) {
            low[r][h] = vmul(vcvt(dot[r][h]), vload(w->d[0] + 8 * h));
            dot[r][h] = viset(nth(kind, p, r)->start[1]);
        }
        dots(kind, deep, R, dot, p, q, 4, 8);
    } else dots(kind, deep, R, dot, p, q, 0, 8);
    const float *last = w->d[kind == SIXTEEN];
    const vf d[2] = {vload(last), vload(last + 8)};
    UNROLL for (int r = 0; r < R; r++) {
        const vf scale = vset(nth(kind, p, r)->d), s = vset(nth(kind, p, r)->s);
        vf *at = (void *)((uint8_t *)sum + nth(kind, p, r)->at);
        ONE_ADDRESS(at);
        vf both[2] = {at[0], at[1]};
        UNROLL for (int h = 0; h < 2; h++) {
            if (kind == SIXTEEN) both[h] = vfma(vfma(vcvt(dot[r][h]), d[h], low[r][h]), scale, both[h]);
            else both[h] = vfma(vcvt(dot[r][h]), vmul(d[h], scale), both[h]);
            if (kind == MINIMUM) both[h] = vfma(vload(w->m[0] + 8 * h), s, both[h]);
        }
        at[0] = both[0];
        at[1] = both[1];
    }
}
/* All parts of a block */
INLINE void tiles(const int kind, const int deep, vf sum[][2], const part *p, int64_t count, const p16_block *w) {
    _Alignas(64) uint8_t room[ARRANGED];
    const uint8_t *q = arrange(kind, room, w);
    for (; count >= 4; count -= 4, p = nth(kind, p, 4)) {
        IN_MEMORY(q);
        tile(kind, deep, 4, sum, p, w, q);
    }
    if (count) tile(kind, deep, 2, sum, p, w, q);
}
typedef void tiles_fn(vf sum[][2], const part *p, int64_t count, const p16_block *w);
#define TILES(name, kind, deep) static void name(vf sum[][2], const part *p, int64_t count, const p16_block *w) { tiles(kind, deep, sum, p, count, w); }
/* 16 bits hold 8 * 15 * 127 * 2 = 30480 of four bits, 4 * 31 * 127 * 2 = 31496 of five, 2 * 63 * 127 * 2 = 32004 of six */
TILES(offset4, OFFSET, 8)
TILES(minimum4, MINIMUM, 8)
TILES(six, SIXTEEN, 2)
#if defined(__AVX2__) && !defined(RAMET__AVXVNNI)
TILES(offset5, OFFSET, 4)
TILES(minimum5, MINIMUM, 4)
#else
#define offset5 offset4
#define minimum5 minimum4
#endif
#ifdef RAMET__AVXVNNI
#define byte offset4
#else
TILES(byte, BYTE, 1)
#endif
static tiles_fn *const tiles_of[] = {[P16_Q4_0] = offset4, [P16_Q4_1] = minimum4, [P16_Q5_0] = offset5, [P16_Q5_1] = minimum5,
                                     [P16_Q8_0] = byte,    [P16_Q4_K] = minimum4, [P16_Q5_K] = minimum5, [P16_Q6_K] = six};

/* Of block b of a group of `rows` rows: its parts are 2 * rows * b.., count[b] in number, made even by one that adds nothing to the sums of a row that is not there */
static void gather(int kind, int which, part *to, int32_t *count, const uint8_t *x, int64_t x_stride, int64_t rows, int64_t k) {
    const int64_t blocks = k / 32;
    for (int64_t b = 0; b < blocks; b++) count[b] = 0;
    for (int64_t left = 0; left < 2; left++)
        for (int64_t r = 0; r < rows; r++) {
            const int8_row row = int8_row_at(x + r * x_stride + left * (int64_t)one_row(k), k);
            const int32_t *first = row.start[kind == SIXTEEN ? 3 : which], *second = row.start[4];
            for (int64_t b = 0; b < blocks; b++) {
                if (left && row.d[b] == 0.0f) continue;
                part *of = nth(kind, to, 2 * rows * b), *p = nth(kind, of, count[b]);
                put(kind, of, count[b]++, viload(row.q + 32 * b));
                p->d = row.d[b];
                p->s = row.s[b];
                p->start[0] = first[b];
                p->start[1] = second[b];
                p->at = r * (int64_t)(2 * sizeof(vf));
            }
        }
    for (int64_t b = 0; b < blocks; b++)
        if (count[b] & 1) {
            part *of = nth(kind, to, 2 * rows * b), *p = nth(kind, of, count[b]);
            put(kind, of, count[b]++, viset(0));
            p->d = p->s = 0.0f;
            p->start[0] = p->start[1] = 0;
            p->at = rows * (int64_t)(2 * sizeof(vf));
        }
}

/* Rows are gathered for each piece; counts, then parts */
static uint64_t counts_bytes(int64_t k) { return ramet__round64((uint64_t)(k / 32) * sizeof(int32_t)); }
static uint64_t parts_bytes(int64_t m, int64_t k) { return counts_bytes(k) + (uint64_t)(2 * (m < GROUP ? m : GROUP) * (k / 32) * part_bytes(BYTE)); }
#define SCRATCH tile_scratch
#ifdef __AVX2__
#define NAME "panel16_int8int16"
#define PIECES {{GROUP, 512}, {512, 256}}
#define TRANSPOSED(ENC) FN(panel16_transposed16_##ENC)
#define ROUND FN(int16_round)
static uint64_t tile_scratch(int64_t m, int64_t n, int64_t k) {
    const uint64_t back = FN(panel16_transposed16_scratch)(m), parts = parts_bytes(m, k);
    (void)n;
    return back > parts ? back : parts;
}
#else
#define NAME "panel16_int8"
#define PIECES {{GROUP, 512}, {128, 64}}
#define TRANSPOSED(ENC) FN_BASE(panel16_transposed_##ENC)
#define ROUND NULL
static uint64_t tile_scratch(int64_t m, int64_t n, int64_t k) {
    const uint64_t back = FN_BASE(panel16_scratch)(m, n, k), parts = parts_bytes(m, k);
    return back > parts ? back : parts;
}
#endif

NOINLINE static void forward(const int enc, const ramet__product_args *a) {
    const int64_t blocks = a->k / 32, bytes = p16_bytes(enc, a->k), unit = p16_unit(enc), each = p16_unit_bytes(enc);
    const int kind = kind_of(enc);
    int32_t *count = a->scratch;
    part *parts = (void *)((uint8_t *)a->scratch + counts_bytes(a->k));
    for (int64_t row = 0; row < a->m; row += GROUP) {
        const int64_t rows = a->m - row < GROUP ? a->m - row : GROUP;
        gather(kind, which_of(enc), parts, count, (const uint8_t *)a->x + row * a->x_stride, a->x_stride, rows, a->k);
        for (int64_t n = a->from; n < a->to; n += 16) {
            const uint8_t *panel = (const uint8_t *)a->packed + n / 16 * bytes;
            vf sum[GROUP + 1][2];
            for (int64_t r = 0; r <= rows; r++) sum[r][0] = sum[r][1] = vzero();
            for (int64_t b = 0; b < blocks; b += unit) {
                _Alignas(64) p16_block w[8];
                for (int64_t i = 0; i < each; i += 64) PREFETCH((uintptr_t)panel + (uintptr_t)(b / unit * each + i + AHEAD), 2);
                const int64_t end = b + unit < blocks ? b + unit : blocks;
                FN_BASE(panel16_expand)(enc, w, panel, b, end);
                for (int64_t i = b; i < end; i++) tiles_of[enc](sum, nth(kind, parts, 2 * rows * i), count[i], &w[i - b]);
            }
            finish_panel(a, row, rows, n, sum);
        }
    }
}
#endif
