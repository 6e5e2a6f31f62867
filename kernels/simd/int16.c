/* SPDX-License-Identifier: Apache-2.0 */
/* int16.c - products of floats by integers of 16 bits, for CPUs whose pairs of such multiply twice as fast as floats do and that have no bf16: of rows that are
 * floats in every direction, of panel16 the transposed one.
 * Both sides are rounded in blocks of 32 along the sum to 13 bits and a sign, so that a block's sum fits 32 bits: 32 * 8191 * 8191 < 2^31. The error is
 * below 2^-13 of the block's largest number, less than bf16's. Blocks are added in fp32, in order, so an output's bits depend on nothing else in the call. */
#include "simd/int16.h"
#include "simd/panel16.h"
#include "simd/rows.h"
#include "simd/tile.h"

enum { DEPTH = 256, COLS = 16, STRIP = 64, ROWS = 512 }; /* of a stretch of the sum; columns of a tile, of a strip; rows of an outer product at a time */
#define LARGEST 8191.0f
#define LEAST 0x1p-100f /* a block of smaller numbers counts as zeros: the inverse of its step would not be finite */

/* x = d * q; a rounded row is of such blocks */
typedef struct block { int16_t q[32]; float d; } block;
typedef struct stretch { block of[DEPTH / 32]; } stretch;
/* COLS columns of a stretch, rounded, pairs of numbers that follow one another in the sum */
typedef struct columns { float d[DEPTH / 32][COLS]; int32_t pairs[DEPTH / 2][COLS]; } columns;
/* The scratch of a call: a strip as floats, then its columns; where rows are rounded in the call, they follow */
typedef struct room { float w[DEPTH * STRIP]; columns c; stretch rows[]; } room;
static uint64_t room_bytes(int64_t rows) { return sizeof(room) + (uint64_t)rows * sizeof(stretch); }

/* n numbers, filled up with zeros to whole blocks; also in their own place */
static void round_row(void *to, const float *x, int64_t n) {
    float last[32] = {0};
    block *b = to;
    for (int64_t i = 0; i < n; i += 32, x += 32, b++) {
        if (n - i < 32) x = memcpy(last, x, (size_t)(n - i) * sizeof *x);
        const vf v[4] = {vload(x), vload(x + 8), vload(x + 16), vload(x + 24)}, top = vmax(vmax(vabs(v[0]), vabs(v[1])), vmax(vabs(v[2]), vabs(v[3])));
        const float most = vtop(top);
        const vf by = vset(most > LEAST ? LARGEST / most : 0.0f);
        UNROLL for (int j = 0; j < 2; j++)
            vistore(b->q + 16 * j, simde_mm256_permute4x64_epi64(simde_mm256_packs_epi32(vtoi(vmul(v[2 * j], by)), vtoi(vmul(v[2 * j + 1], by))), 0xd8));
        b->d = most / LARGEST;
    }
}
void FN(int16_round)(uint16_t *dst, const float *dy, int64_t n) { round_row(dst, dy, n); }

/* Columns of w[depth][STRIP], depth a multiple of 32 */
static void round_columns(columns *to, const float *w, int64_t depth) {
    for (int64_t b = 0; b < depth; b += 32)
        for (int64_t c = 0; c < COLS; c += VL) {
            const float *first = w + b * STRIP + c;
            vf top = vzero();
            for (int64_t i = 0; i < 32; i++) top = vmax(top, vabs(vload(first + i * STRIP)));
            const vf by = vwhere(top, vset(LEAST), vdiv(vset(LARGEST), top), vzero());
            vstore(to->d[b / 32] + c, vdiv(top, vset(LARGEST)));
            for (int64_t i = 0; i < 32; i += 2) {
                const vi low = vtoi(vmul(vload(first + i * STRIP), by)), high = vtoi(vmul(vload(first + (i + 1) * STRIP), by));
                vistore(to->pairs[(b + i) / 2] + c, simde_mm256_blend_epi16(low, visll(high, 16), 0xaa));
            }
        }
}

/* Columns that are rows w[COLS][n] of a weight, n up to DEPTH */
static void round_outputs(columns *to, const float *const w[COLS], int64_t n) {
    int32_t q[COLS][DEPTH / 2]; /* pairs */
    const int64_t blocks = (n + 31) / 32;
    for (int64_t o = 0; o < COLS; o++) {
        stretch row;
        round_row(&row, w[o], n);
        for (int64_t b = 0; b < blocks; b++) {
            memcpy(q[o] + 16 * b, row.of[b].q, sizeof row.of[b].q);
            to->d[b][o] = row.of[b].d;
        }
    }
    tile_turn((float *)(void *)to->pairs, COLS, (const float *)(const void *)q, DEPTH / 2, COLS, 16 * blocks); /* pairs move as floats do */
}

INLINE vi add_pairs(vi sum, vi a, vi b) {
#ifdef RAMET__AVXVNNI
    return _mm256_dpwssd_avx_epi32(sum, a, b);
#else
    sum = viadd(sum, simde_mm256_madd_epi16(a, b));
    HERE(sum);
    return sum;
#endif
}

/* R rows, all columns */
INLINE void tile(const int R, float *y, int64_t y_stride, const block *x, int64_t x_stride, const columns *c, int64_t blocks, const float *bias, int32_t add) {
    vf sum[4][2];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) {
        sum[r][h] = add ? vload(y + r * y_stride + h * VL) : vzero();
        if (bias) sum[r][h] = vadd(sum[r][h], vload(bias + h * VL));
    }
    const int32_t *pairs = c->pairs[0];
    const float *w_d = c->d[0];
    for (int64_t b = 0; b < blocks; b++, x++, w_d += COLS) {
        vi dot[4][2];
        UNROLL for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = viset(0);
        for (int64_t four = 0; four < 16; four += 4) UNROLL for (int i = 0; i < 4; i++, pairs += COLS) {
            const vi w[2] = {viload(pairs), viload(pairs + VL)};
            UNROLL for (int r = 0; r < R; r++) {
                int32_t pair;
                memcpy(&pair, (const uint8_t *)(x->q + 2 * (four + i)) + r * x_stride, sizeof pair);
                UNROLL for (int h = 0; h < 2; h++) dot[r][h] = add_pairs(dot[r][h], w[h], viset(pair));
            }
        }
        UNROLL for (int r = 0; r < R; r++) {
            const vf scale = vset(*(const float *)(const void *)((const uint8_t *)&x->d + r * x_stride));
            UNROLL for (int h = 0; h < 2; h++) sum[r][h] = vfma(vcvt(dot[r][h]), vmul(vload(w_d + h * VL), scale), sum[r][h]);
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) vstore(y + r * y_stride + h * VL, sum[r][h]);
}

/* What comes next is fetched to L2 meanwhile, a little with every tile: `count` pieces of so many bytes, each so far after the one before */
typedef struct ahead { const uint8_t *first; int64_t stride, count, bytes; } ahead;
INLINE void fetch(const ahead *next, int64_t part, int64_t parts) {
    const int64_t lines = next->bytes / 64;
    for (int64_t i = next->count * part / parts; i < next->count * (part + 1) / parts; i++)
        for (int64_t l = 0; l < lines; l++) PREFETCH((uintptr_t)next->first + (uintptr_t)(i * next->stride + 64 * l), 2);
}

/* y[m, cols] = (add: y +) (bias +) the sum over a stretch of `depth`; rows are x_stride bytes apart; cols beyond COLS are left alone */
NOINLINE static void tiles(float *y, int64_t y_stride, int64_t m, int64_t cols, const block *x, int64_t x_stride, const columns *c, int64_t depth, const float *bias, int32_t add, ahead next) {
    float part[COLS] = {0}, own[COLS] = {0};
    const size_t bytes = (size_t)(cols < COLS ? cols : COLS) * sizeof *y;
    const int64_t blocks = (depth + 31) / 32;
    int64_t r = 0;
#define ROW (const void *)((const uint8_t *)x + r * x_stride)
    if (cols >= COLS) {
        for (; r + 4 <= m; r += 4) {
            fetch(&next, r / 4, m / 4);
            tile(4, y + r * y_stride, y_stride, ROW, x_stride, c, blocks, bias, add);
        }
    } else if (bias) bias = memcpy(own, bias, bytes);
    for (; r < m; r++) {
        memcpy(part, y + r * y_stride, bytes);
        tile(1, part, 0, ROW, x_stride, c, blocks, bias, add);
        memcpy(y + r * y_stride, part, bytes);
    }
#undef ROW
}

/* The rows of a room against width columns of its strip w[depth] */
static void strip(float *y, int64_t y_stride, int64_t m, int64_t width, room *at, int64_t depth, int32_t add, ahead next) {
    const int64_t whole = (depth + 31) / 32 * 32;
    memset(at->w + depth * STRIP, 0, (size_t)((whole - depth) * STRIP) * sizeof *at->w);
    for (int64_t i = 0; i < width; i += COLS) {
        round_columns(&at->c, at->w + i, whole);
        const int64_t from = next.count * i / STRIP, to = next.count * (i + COLS) / STRIP;
        tiles(y + i, y_stride, m, width - i, at->rows->of, sizeof(stretch), &at->c, depth, NULL, add, (ahead){next.first + from * next.stride, next.stride, to - from, next.bytes});
    }
}

/* How weights lie: rows of so many bytes that are decoded, or (decode NULL) panels of an encoding */
typedef struct source { decoder *decode; int64_t bytes; int enc; } source;

NOINLINE static void transposed(source s, const ramet__product_args *a) {
    room *at = a->scratch;
    for (int64_t n = 0; n < a->n; n += DEPTH) {
        const int64_t depth = a->n - n < DEPTH ? a->n - n : DEPTH;
        for (int64_t r = 0; r < a->m; r++) {
            if (a->rounded) memcpy(&at->rows[r], (const block *)(const void *)((const uint8_t *)a->x + r * a->x_stride) + n / 32, (size_t)((depth + 31) / 32) * sizeof(block));
            else round_row(&at->rows[r], (const float *)a->x + r * a->x_stride + n, depth);
        }
        for (int64_t k = a->from; k < a->to; k += STRIP) {
            const int64_t width = a->to - k < STRIP ? a->to - k : STRIP;
            ahead next = {(const uint8_t *)a->packed + n * s.bytes, s.bytes, k + STRIP < a->to ? depth : 0, STRIP * s.bytes / a->k};
            if (s.decode) next.first += (k + STRIP) * s.bytes / a->k;
            else next = (ahead){(const uint8_t *)a->packed + n / 16 * s.bytes + (k + STRIP) * s.bytes / a->k, s.bytes, next.count / 16, STRIP * s.bytes / a->k};
            if (s.decode)
                for (int64_t o = 0; o < depth; o++) s.decode(at->w + o * STRIP, (const uint8_t *)a->packed + (n + o) * s.bytes, k, width);
            else
                for (int64_t o = 0; o < depth; o += 16)
                    for (int64_t i = 0; i < width; i += 32) p16_strip(s.enc, at->w + o * STRIP + i, STRIP, (const uint8_t *)a->packed + (n + o) / 16 * s.bytes, (k + i) / 32);
            strip(a->y + k, a->y_stride, a->m, width, at, depth, n > 0 || a->accumulate, next);
        }
    }
}

uint64_t FN(panel16_transposed16_scratch)(int64_t m) { return room_bytes(m); }
#define TRANSPOSED(ENC) \
    void FN(panel16_transposed16_##ENC)(const ramet__product_args *a) { transposed((source){NULL, p16_bytes(P16_##ENC, a->k), P16_##ENC}, a); }
TRANSPOSED(Q4_0)
TRANSPOSED(Q4_1)
TRANSPOSED(Q5_0)
TRANSPOSED(Q5_1)
TRANSPOSED(Q8_0)
TRANSPOSED(Q4_K)
TRANSPOSED(Q5_K)
TRANSPOSED(Q6_K)

/* ---- rows ---- */
static uint64_t prepared_bytes(int64_t k) { return ramet__round64((uint64_t)((k + 31) / 32) * sizeof(block)); }
static void prepare(void *dst, const float *x, int64_t k) { round_row(dst, x, k); }
static uint64_t scratch_bytes(int64_t m, int64_t n, int64_t k) {
    (void)n, (void)k;
    return room_bytes(m > ROWS ? m : ROWS);
}

NOINLINE static void forward(source s, const ramet__product_args *a) {
    room *at = a->scratch;
    for (int64_t n = a->from; n < a->to; n += COLS)
        for (int64_t k = 0; k < a->k; k += DEPTH) {
            const int64_t depth = a->k - k < DEPTH ? a->k - k : DEPTH;
            const float *w[COLS];
            for (int64_t o = 0; o < COLS; o++) {
                const uint8_t *from = (const uint8_t *)a->packed + (n + o < a->to ? n + o : a->to - 1) * s.bytes; /* past the end: the last row again, its sums dropped */
                if (s.decode) s.decode(at->w + o * DEPTH, from, k, depth);
                w[o] = s.decode ? at->w + o * DEPTH : (const float *)(const void *)from + k;
            }
            round_outputs(&at->c, w, depth);
            const uint8_t *first = (const uint8_t *)a->packed + n * s.bytes;
            ahead next = {k + depth < a->k ? first + (k + depth) * s.bytes / a->k : first + COLS * s.bytes, s.bytes, n + 2 * COLS <= a->to ? COLS : 0, DEPTH * s.bytes / a->k};
            tiles(a->y + n, a->y_stride, a->m, a->to - n, (const block *)a->x + k / 32, a->x_stride, &at->c, depth, k || !a->bias ? NULL : a->bias + n, k || a->accumulate, next);
        }
}

/* Columns of a become rows */
static void outer(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, int32_t accumulate, int32_t rounded, void *scratch) {
    room *at = scratch;
    (void)rounded; /* never: a prepared row is another thing than bf16 in place of its floats */
    for (int64_t i = 0; i < k; i += DEPTH, a += DEPTH * lda, b += DEPTH * ldb, accumulate = 1) {
        const int64_t depth = k - i < DEPTH ? k - i : DEPTH;
        for (int64_t from = 0; from < m; from += ROWS) {
            const int64_t count = m - from < ROWS ? m - from : ROWS;
            for (int64_t r = 0; r < count; r++) {
                if (r % STRIP == 0) tile_turn(at->w, DEPTH, a + from + r, lda, depth, count - r < STRIP ? count - r : STRIP);
                round_row(&at->rows[r], at->w + r % STRIP * DEPTH, depth);
            }
            for (int64_t j = 0; j < n; j += STRIP) {
                const int64_t width = n - j < STRIP ? n - j : STRIP;
                for (int64_t o = 0; o < depth; o++) memcpy(at->w + o * STRIP, b + o * ldb + j, (size_t)width * sizeof *b);
                strip(c + from * ldc + j, ldc, count, width, at, depth, accumulate, (ahead){0});
            }
        }
    }
}

static const ramet__scheme scheme = {"rows_int16", RAMET__BRAIN, prepared_bytes, prepare, scratch_bytes, {{ROWS, 128}, {ROWS, 128}, {384, 384}}, outer, FN(int16_round), NULL};
#define IN_PLACE_F32 NULL /* F32 going forward: rows are floats as they lie */
#define IN_PLACE_F16 decode_F16
#define IN_PLACE_BF16 decode_BF16
#define PRODUCT(ENC)                                                                                                                          \
    static void forward_##ENC(const ramet__product_args *a) { forward((source){IN_PLACE_##ENC, ramet__row_##ENC(a->k), 0}, a); }                \
    static void transposed_##ENC(const ramet__product_args *a) { transposed((source){decode_##ENC, ramet__row_##ENC(a->k), 0}, a); }            \
    const ramet__product FN(product_rows_##ENC##_int16) = {&scheme, &ramet__packing_rows_##ENC, forward_##ENC, transposed_##ENC};
PRODUCT(F32)
PRODUCT(F16)
PRODUCT(BF16)
