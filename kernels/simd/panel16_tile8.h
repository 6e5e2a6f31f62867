/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_tile8.h - many rows of panel16_int8.c in vectors of 8 outputs; a part of that file. Loads are what such products wait for, so a vector of
 * weights meets several rows and a broadcast of activations both halves of a panel. The parts of a row are gathered block by block, what stands
 * out after the rest, and a row's sums are added in the same order as there: its bits are those of the row alone. */
#ifndef RAMET__PANEL16_TILE8_H
#define RAMET__PANEL16_TILE8_H
#include "simd/int16.h"

/* One row's part of a block; its sums lie `at` bytes after the group's. q: 32 numbers of 8 bits or, where weights are BYTE, which AVX2 cannot multiply by such, of
 * 16: 4g and 4g + 2 are pair g, 4g + 1 and 4g + 3 pair g of the second half. */
typedef struct part {
    float d, s;
    int32_t start[2];
    int64_t at, none;
    int8_t q[];
} part;
#ifdef __AVXVNNI__
INLINE int is_wide(const int kind) { return (void)kind, 0; }
#else
INLINE int is_wide(const int kind) { return kind == BYTE; }
#endif
INLINE int64_t part_bytes(const int kind) { return (int64_t)sizeof(part) + (is_wide(kind) ? 64 : 32); }
INLINE part *nth(const int kind, const part *p, int64_t i) { return (part *)(void *)((uint8_t *)(uintptr_t)p + i * part_bytes(kind)); }
INLINE void widen(vi to[2], vi bytes) {
    to[0] = simde_mm256_srai_epi16(simde_mm256_slli_epi16(bytes, 8), 8);
    to[1] = simde_mm256_srai_epi16(bytes, 8);
}

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
                part *p = nth(kind, to, 2 * rows * b + count[b]++);
                vi q[2] = {viload(row.q + 32 * b)};
                if (is_wide(kind)) widen(q, q[0]);
                vistore(p->q, q[0]);
                if (is_wide(kind)) vistore(p->q + 32, q[1]);
                p->d = row.d[b];
                p->s = row.s[b];
                p->start[0] = first[b];
                p->start[1] = second[b];
                p->at = r * (int64_t)(2 * sizeof(vf));
            }
        }
    for (int64_t b = 0; b < blocks; b++)
        if (count[b] & 1) {
            part *p = memset(nth(kind, to, 2 * rows * b + count[b]++), 0, (size_t)part_bytes(kind));
            p->at = rows * (int64_t)(2 * sizeof(vf));
        }
}

/* dot[r][h] += products of inputs 4 g.. for g in from..to; wide: the block's weights where is_wide */
INLINE void dots(const int kind, const int deep, const int R, vi dot[4][2], const part *p, const p16_block *block, const uint8_t *wide, const int from, const int to) {
    if (is_wide(kind)) {
        UNROLL for (int g = from; g < to; g++) UNROLL for (int i = 0; i < 2; i++) {
            const vi w[2] = {viload(wide + 128 * g + 64 * i), viload(wide + 128 * g + 64 * i + 32)};
            UNROLL for (int r = 0; r < R; r++) {
                const vi x = four(nth(kind, p, r)->q + 32 * i + 4 * g);
                UNROLL for (int h = 0; h < 2; h++) {
                    dot[r][h] = viadd(dot[r][h], simde_mm256_madd_epi16(w[h], x));
                    HERE(dot[r][h]);
                }
            }
        }
        return;
    }
#ifdef __AVXVNNI__
    (void)deep;
    UNROLL for (int g = from; g < to; g++) {
        const vi w[2] = {viload(block->q[g]), viload(block->q[g] + 32)};
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) dot[r][h] = _mm256_dpbusd_avx_epi32(dot[r][h], w[h], four(nth(kind, p, r)->q + 4 * g));
    }
#else
    const vi one = simde_mm256_set1_epi16(1);
    UNROLL for (int f = from; f < to; f += deep) {
        vi s[4][2];
        UNROLL for (int g = f; g < f + deep; g++) {
            const vi w[2] = {viload(block->q[g]), viload(block->q[g] + 32)};
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

/* R parts against both halves of a block */
INLINE void tile8(const int kind, const int deep, const int R, vf sum[][2], const part *p, const p16_block *w, const uint8_t *wide) {
    vi dot[4][2];
    vf low[4][2];
#ifdef __AVXVNNI__
    const int starts = kind != MINIMUM;
#else
    const int starts = kind == OFFSET || kind == SIXTEEN;
#endif
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) dot[r][h] = viset(starts ? nth(kind, p, r)->start[0] : 0);
    if (kind == SIXTEEN) {
        dots(kind, deep, R, dot, p, w, wide, 0, 4);
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) {
            low[r][h] = vmul(vcvt(dot[r][h]), vload(w->d[0] + 8 * h));
            dot[r][h] = viset(nth(kind, p, r)->start[1]);
        }
        dots(kind, deep, R, dot, p, w, wide, 4, 8);
    } else dots(kind, deep, R, dot, p, w, wide, 0, 8);
    UNROLL for (int r = 0; r < R; r++) {
        const vf scale = vset(nth(kind, p, r)->d), s = vset(nth(kind, p, r)->s);
        vf *at = (void *)((uint8_t *)sum + nth(kind, p, r)->at);
        UNROLL for (int h = 0; h < 2; h++) {
            if (kind == SIXTEEN) at[h] = vfma(vfma(vcvt(dot[r][h]), vload(w->d[1] + 8 * h), low[r][h]), scale, at[h]);
            else at[h] = vfma(vcvt(dot[r][h]), vmul(vload(w->d[0] + 8 * h), scale), at[h]);
            if (kind == MINIMUM) at[h] = vfma(vload(w->m[0] + 8 * h), s, at[h]);
        }
    }
}
/* All parts of a block */
INLINE void tiles8(const int kind, const int deep, vf sum[][2], const part *p, int64_t count, const p16_block *w) {
    _Alignas(64) uint8_t bytes[1024], *wide = bytes; /* [g][half of a part's][outputs] */
    if (is_wide(kind)) {
        for (int i = 0; i < 16; i++) {
            vi both[2];
            widen(both, vixor(viload((const uint8_t *)w->q + 32 * i), viset8((int8_t)0x80)));
            vistore(bytes + i / 2 * 128 + i % 2 * 32, both[0]);
            vistore(bytes + i / 2 * 128 + i % 2 * 32 + 64, both[1]);
        }
        IN_MEMORY(wide);
    }
    for (; count >= 4; count -= 4, p = nth(kind, p, 4)) tile8(kind, deep, 4, sum, p, w, wide);
    if (count) tile8(kind, deep, 2, sum, p, w, wide);
}
/* 16 bits hold 8 * 15 * 127 * 2 = 30480 of four bits, 4 * 31 * 127 * 2 = 31496 of five, 2 * 63 * 127 * 2 = 32004 of six */
typedef void tiles_fn(vf sum[][2], const part *p, int64_t count, const p16_block *w);
#define TILES(name, kind, deep) static void name(vf sum[][2], const part *p, int64_t count, const p16_block *w) { tiles8(kind, deep, sum, p, count, w); }
TILES(offset4, OFFSET, 8)
TILES(minimum4, MINIMUM, 8)
TILES(six, SIXTEEN, 2)
#ifdef __AVXVNNI__
#define offset5 offset4
#define minimum5 minimum4
#define byte offset4
#else
TILES(offset5, OFFSET, 4)
TILES(minimum5, MINIMUM, 4)
TILES(byte, BYTE, 1)
#endif
static tiles_fn *const tiles_of[] = {[P16_Q4_0] = offset4, [P16_Q4_1] = minimum4, [P16_Q5_0] = offset5, [P16_Q5_1] = minimum5,
                                     [P16_Q8_0] = byte,    [P16_Q4_K] = minimum4, [P16_Q5_K] = minimum5, [P16_Q6_K] = six};

#define NAME "panel16_int8int16"
#define SCRATCH tile8_scratch
#define ROUND FN(int16_round)
#define PIECES {{GROUP, 512}, {512, 256}} /* rows are gathered for each piece */
#define TRANSPOSED(ENC) FN(panel16_transposed16_##ENC)
/* Counts, then parts */
static uint64_t counts_bytes(int64_t k) { return ramet__round64((uint64_t)(k / 32) * sizeof(int32_t)); }
static uint64_t tile8_scratch(int64_t m, int64_t n, int64_t k) {
    (void)n;
    const uint64_t back = FN(panel16_transposed16_scratch)(m), parts = counts_bytes(k) + (uint64_t)(2 * (m < GROUP ? m : GROUP) * (k / 32) * part_bytes(BYTE));
    return back > parts ? back : parts;
}

NOINLINE static void forward(const int enc, const ramet__product_args *a) {
    const int64_t blocks = a->k / 32, bytes = p16_bytes(enc, a->k), unit = p16_unit(enc), each = p16_unit_bytes(enc);
    int32_t *count = a->scratch;
    part *parts = (void *)((uint8_t *)a->scratch + counts_bytes(a->k));
    for (int64_t row = 0; row < a->m; row += GROUP) {
        const int64_t rows = a->m - row < GROUP ? a->m - row : GROUP;
        gather(kind_of(enc), which_of(enc), parts, count, (const uint8_t *)a->x + row * a->x_stride, a->x_stride, rows, a->k);
        for (int64_t n = a->from; n < a->to; n += 16) {
            const uint8_t *panel = (const uint8_t *)a->packed + n / 16 * bytes;
            vf sum[GROUP + 1][2];
            for (int64_t r = 0; r <= rows; r++) sum[r][0] = sum[r][1] = vzero();
            for (int64_t b = 0; b < blocks; b += unit) {
                _Alignas(64) p16_block w[8];
                for (int64_t i = 0; i < each; i += 64) PREFETCH((uintptr_t)panel + (uintptr_t)(b / unit * each + i + AHEAD), 2);
                const int64_t end = b + unit < blocks ? b + unit : blocks;
                FN_BASE(panel16_expand)(enc, w, panel, b, end);
                for (int64_t i = b; i < end; i++) tiles_of[enc](sum, nth(kind_of(enc), parts, 2 * rows * i), count[i], &w[i - b]);
            }
            for (int h = 0; h < 2 && n + 8 * h < a->to; h++) {
                const vf bias = a->bias ? vget(a->bias + n + 8 * h, a->to - n - 8 * h) : vzero();
                for (int64_t r = 0; r < rows; r++) finish(a, row + r, n + 8 * h, bias, sum[r][h]);
            }
        }
    }
}
#endif
