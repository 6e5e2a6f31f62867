/* SPDX-License-Identifier: Apache-2.0 */
/* tile16x64.c - the packing "tile16x64": 16 outputs x 64 inputs a tile, as matrix units want their weights, in plain C. It shows that
 * a packing which no row of W survives serves one row of activations, sixteen, and the transposed product; callers see no difference.
 *
 * A tile is its numbers, then its scales; tiles of 16 outputs follow one another along k, padded with zeros to 16 x 64:
 *   Q8_0  1024 bytes, input 4g+i of output o at (g * 16 + o) * 4 + i; 2 x 16 halves d, by block and output
 *   Q4_0  512 bytes in the same order of 32 inputs: the first block in the low nibbles, the second in the high ones; 2 x 16 halves
 *   BF16  2048 bytes, input 2g+i of output o at element (g * 16 + o) * 2 + i
 */
#include "blocks.h"
#include "registry.h"

enum { OUT = 16, IN = 64, Q8_0 = 0, Q4_0, BF16 };
static const int64_t number_bytes[] = {1024, 512, 2048}, tile_bytes[] = {1088, 576, 2048}, block_bytes[] = {34, 18, 2};

static int64_t tiles(int64_t k) { return (k + IN - 1) / IN; }
static uint64_t packed_bytes(int enc, int64_t n, int64_t k) { return (uint64_t)((n + OUT - 1) / OUT * tiles(k) * tile_bytes[enc]); }
static int64_t row_bytes(int enc, int64_t k) { return enc == BF16 ? k * 2 : k / 32 * block_bytes[enc]; }

/* Move one output's numbers between its encoded row and its tiles: the two directions are one walk. */
static void move(int enc, uint8_t *row, uint8_t *tile, int64_t k, int64_t o, int to_tiles) {
    if (enc == BF16) {
        for (int64_t i = 0; i < k; i++) {
            uint8_t *t = tile + i / IN * tile_bytes[enc] + ((i % IN / 2 * OUT + o) * 2 + i % 2) * 2;
            memcpy(to_tiles ? t : row + 2 * i, to_tiles ? row + 2 * i : t, 2);
        }
        return;
    }
    for (int64_t b = 0; b < k / 32; b++) {
        uint8_t *src = row + b * block_bytes[enc], *t = tile + b / 2 * tile_bytes[enc], *d = t + number_bytes[enc] + (b % 2 * OUT + o) * 2;
        memcpy(to_tiles ? d : src, to_tiles ? src : d, 2);
        for (int64_t i = 0; i < 32; i++) {
            int64_t at = (i / 4 * OUT + o) * 4 + i % 4;
            if (enc == Q8_0) {
                uint8_t *q = t + b % 2 * 512 + at, *s = src + 2 + i;
                if (to_tiles) *q = *s;
                else *s = *q;
                continue;
            }
            uint8_t *q = t + at, *s = src + 2 + i % 16;
            int tile_shift = b % 2 ? 4 : 0, row_shift = i < 16 ? 0 : 4;
            if (to_tiles) *q = (uint8_t)((*q & ~(15 << tile_shift)) | (*s >> row_shift & 15) << tile_shift);
            else *s = (uint8_t)((*s & ~(15 << row_shift)) | (*q >> tile_shift & 15) << row_shift);
        }
    }
}

static void pack(int enc, void *packed, const void *rows, int64_t n, int64_t k, int64_t n0, int64_t n1) {
    for (int64_t p = n0 / OUT; p * OUT < n1; p++) {
        uint8_t *tile = (uint8_t *)packed + p * tiles(k) * tile_bytes[enc];
        memset(tile, 0, (size_t)(tiles(k) * tile_bytes[enc]));
        for (int64_t o = 0; o < OUT && p * OUT + o < n; o++) move(enc, (uint8_t *)(uintptr_t)rows + (p * OUT + o) * row_bytes(enc, k), tile, k, o, 1);
    }
}

static void unpack(int enc, void *rows, const void *packed, int64_t k, int64_t n0, int64_t n1) {
    for (int64_t r = n0; r < n1; r++)
        move(enc, (uint8_t *)rows + r * row_bytes(enc, k), (uint8_t *)(uintptr_t)packed + r / OUT * tiles(k) * tile_bytes[enc], k, r % OUT, 0);
}

static float number(int enc, const uint8_t *tile, int64_t o, int64_t i) {
    uint16_t h;
    if (enc == BF16) {
        memcpy(&h, tile + ((i / 2 * OUT + o) * 2 + i % 2) * 2, 2);
        return ramet__brain_f32(h);
    }
    memcpy(&h, tile + number_bytes[enc] + (i / 32 * OUT + o) * 2, 2);
    if (enc == Q8_0) return ramet__half_f32(h) * (float)(int8_t)tile[(i / 4 * OUT + o) * 4 + i % 4];
    return ramet__half_f32(h) * (float)((tile[(i % 32 / 4 * OUT + o) * 4 + i % 4] >> (i < 32 ? 0 : 4) & 15) - 8);
}

static void decode(int enc, float *dst, const void *packed, int64_t k, int64_t row) {
    const uint8_t *tile = (const uint8_t *)packed + row / OUT * tiles(k) * tile_bytes[enc];
    for (int64_t i = 0; i < k; i++) dst[i] = number(enc, tile + i / IN * tile_bytes[enc], row % OUT, i % IN);
}

static uint64_t prepared_bytes(int64_t k) { return ramet__round64((uint64_t)(tiles(k) * IN) * 4); }
static void prepare(void *dst, const float *x, int64_t k) {
    memset(dst, 0, (size_t)prepared_bytes(k));
    memcpy(dst, x, (size_t)k * 4);
}
static uint64_t scratch_bytes(int64_t m, int64_t n, int64_t k) { return OUT * IN * 4 + 16u * IN * 8; }

/* Up to 16 rows against the tiles of 16 outputs; one row is the same walk with a matrix of sums one row high. */
static void forward(int enc, const ramet__product_args *a) {
    float *w = a->scratch;
    for (int64_t n = a->from; n < a->to; n += OUT)
        for (int64_t row = 0; row < a->m; row += 16) {
            int64_t rows = a->m - row < 16 ? a->m - row : 16, outputs = a->to - n < OUT ? a->to - n : OUT;
            double sum[16][OUT] = {{0}};
            for (int64_t t = 0; t < tiles(a->k); t++) {
                const uint8_t *tile = (const uint8_t *)a->packed + (n / OUT * tiles(a->k) + t) * tile_bytes[enc];
                for (int64_t i = 0; i < IN; i++)
                    for (int64_t o = 0; o < OUT; o++) w[i * OUT + o] = number(enc, tile, o, i);
                for (int64_t r = 0; r < rows; r++) {
                    const float *x = (const float *)(const void *)((const uint8_t *)a->x + (row + r) * a->x_stride) + t * IN;
                    for (int64_t i = 0; i < IN; i++)
                        for (int64_t o = 0; o < OUT; o++) sum[r][o] += (double)x[i] * (double)w[i * OUT + o];
                }
            }
            for (int64_t r = 0; r < rows; r++)
                for (int64_t o = 0; o < outputs; o++) {
                    float *y = a->y + (row + r) * a->y_stride + n + o;
                    double s = sum[r][o] + (a->bias ? (double)a->bias[n + o] : 0.0);
                    *y = (float)(a->accumulate ? s + (double)*y : s);
                }
        }
}

/* Tiles of 64 inputs; a range may begin and end in the middle of one (k_block is 32). */
static void transposed(int enc, const ramet__product_args *a) {
    float *w = a->scratch;
    double *sum = (double *)(void *)(w + OUT * IN);
    for (int64_t t = a->from / IN; t * IN < a->to; t++)
        for (int64_t row = 0; row < a->m; row += 16) {
            int64_t rows = a->m - row < 16 ? a->m - row : 16;
            memset(sum, 0, 16 * IN * sizeof *sum);
            for (int64_t n = 0; n < a->n; n += OUT) {
                const uint8_t *tile = (const uint8_t *)a->packed + (n / OUT * tiles(a->k) + t) * tile_bytes[enc];
                int64_t outputs = a->n - n < OUT ? a->n - n : OUT;
                for (int64_t o = 0; o < outputs; o++)
                    for (int64_t i = 0; i < IN; i++) w[o * IN + i] = number(enc, tile, o, i);
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t o = 0; o < outputs; o++) {
                        double dy = ((const float *)a->x)[(row + r) * a->x_stride + n + o];
                        for (int64_t i = 0; i < IN; i++) sum[r * IN + i] += dy * (double)w[o * IN + i];
                    }
            }
            for (int64_t r = 0; r < rows; r++)
                for (int64_t i = t * IN; i < (t + 1) * IN; i++) {
                    if (i < a->from || i >= a->to) continue;
                    float *y = a->y + (row + r) * a->y_stride + i;
                    double s = sum[r * IN + i % IN];
                    *y = (float)(a->accumulate ? s + (double)*y : s);
                }
        }
}

static const ramet__scheme scheme = {"tile16x64", RAMET__EXACT, prepared_bytes, prepare, scratch_bytes, {{16, 64}, {16, 64}}, NULL, NULL, NULL};
#define PRODUCT(ENC)                                                                                                                         \
    static uint64_t bytes_##ENC(int64_t n, int64_t k) { return packed_bytes(ENC, n, k); }                                                    \
    static void pack_##ENC(void *packed, const void *rows, int64_t n, int64_t k, int64_t n0, int64_t n1) { pack(ENC, packed, rows, n, k, n0, n1); } \
    static void unpack_##ENC(void *rows, const void *packed, int64_t n, int64_t k, int64_t n0, int64_t n1) { unpack(ENC, rows, packed, k, n0, n1); } \
    static void decode_##ENC(float *dst, const void *packed, int64_t n, int64_t k, int64_t row) { decode(ENC, dst, packed, k, row); }        \
    static void forward_##ENC(const ramet__product_args *a) { forward(ENC, a); }                                                             \
    static void transposed_##ENC(const ramet__product_args *a) { transposed(ENC, a); }                                                       \
    static const ramet__packing packing_##ENC = {"tile16x64", #ENC, OUT, 32, 0, bytes_##ENC, pack_##ENC, unpack_##ENC, decode_##ENC};        \
    const ramet__product ramet__product_tile16x64_##ENC##_exact_ref = {&scheme, &packing_##ENC, forward_##ENC, transposed_##ENC};
PRODUCT(Q8_0)
PRODUCT(Q4_0)
PRODUCT(BF16)
