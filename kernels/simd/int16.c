/* SPDX-License-Identifier: Apache-2.0 */
/* int16.c - see int16.h */
#include "simd/int16.h"
#include "simd/tile.h"

#define LARGEST 8191.0f
#define LEAST 0x1p-100f /* a block of smaller numbers counts as zeros: the inverse of its step would not be finite */
INLINE float inverse(float top) { return top > LEAST ? LARGEST / top : 0.0f; }
INLINE vi rounded(const float *x, float by) { return vtoi(vmul(vload(x), vset(by))); }

void FN(int16_round)(int16_t *q, float *d, const float *x, int64_t n) {
    float last[32] = {0};
    for (int64_t i = 0; i < n; i += 32, x += 32, q += 32) {
        if (n - i < 32) x = memcpy(last, x, (size_t)(n - i) * sizeof *x);
        vf top = vmax(vmax(vabs(vload(x)), vabs(vload(x + 8))), vmax(vabs(vload(x + 16)), vabs(vload(x + 24))));
        const float most = vtop(top), by = inverse(most);
        *d++ = most / LARGEST;
        UNROLL for (int j = 0; j < 32; j += 16)
            vistore(q + j, simde_mm256_permute4x64_epi64(simde_mm256_packs_epi32(rounded(x + j, by), rounded(x + j + 8, by)), 0xd8));
    }
}

void FN(int16_columns)(int32_t *pairs, float *d, const float *w, int64_t ld, int64_t depth) {
    for (int64_t b = 0; b < depth; b += 32, d += INT16_COLS)
        for (int64_t c = 0; c < INT16_COLS; c += VL) {
            const float *first = w + b * ld + c;
            vf top = vzero();
            for (int64_t i = 0; i < 32; i++) top = vmax(top, vabs(vload(first + i * ld)));
            const vf by = vwhere(top, vset(LEAST), vdiv(vset(LARGEST), top), vzero());
            vstore(d + c, vdiv(top, vset(LARGEST)));
            for (int64_t i = 0; i < 32; i += 2) {
                const vi low = vtoi(vmul(vload(first + i * ld), by)), high = vtoi(vmul(vload(first + (i + 1) * ld), by));
                vistore(pairs + (b + i) / 2 * INT16_COLS + c, simde_mm256_blend_epi16(low, visll(high, 16), 0xaa));
            }
        }
}

void FN(int16_outputs)(int32_t *pairs, float *d, const float *const w[INT16_COLS], int64_t n) {
    int16_t q[INT16_COLS][INT16_DEPTH];
    float each[INT16_DEPTH / 32];
    const int64_t blocks = (n + 31) / 32;
    for (int64_t o = 0; o < INT16_COLS; o++) {
        FN(int16_round)(q[o], each, w[o], n);
        for (int64_t b = 0; b < blocks; b++) d[b * INT16_COLS + o] = each[b];
    }
    tile_turn((float *)(void *)pairs, INT16_COLS, (const float *)(const void *)q, INT16_DEPTH / 2, INT16_COLS, 16 * blocks); /* pairs move as floats do */
}

/* R rows, all columns */
INLINE void tile(const int R, float *y, int64_t y_stride, const int16_t *q, const float *d, int64_t q_bytes, int64_t d_bytes, const int32_t *pairs, const float *w_d, int64_t blocks, const float *bias,
                 int32_t add) {
    vf sum[4][2];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) {
        sum[r][h] = add ? vload(y + r * y_stride + h * VL) : vzero();
        if (bias) sum[r][h] = vadd(sum[r][h], vload(bias + h * VL));
    }
    for (int64_t b = 0; b < blocks; b++, q += 32, d++, w_d += INT16_COLS) {
        vi dot[4][2];
        UNROLL for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = viset(0);
        for (int64_t four = 0; four < 16; four += 4) UNROLL for (int i = 0; i < 4; i++, pairs += INT16_COLS) {
            const vi w[2] = {viload(pairs), viload(pairs + VL)};
            UNROLL for (int r = 0; r < R; r++) {
                int32_t pair;
                memcpy(&pair, (const uint8_t *)(q + 2 * (four + i)) + r * q_bytes, sizeof pair);
                const vi x = viset(pair);
                UNROLL for (int h = 0; h < 2; h++) {
                    dot[r][h] = viadd(dot[r][h], simde_mm256_madd_epi16(w[h], x));
                    HERE(dot[r][h]);
                }
            }
        }
        UNROLL for (int r = 0; r < R; r++) {
            const vf scale = vset(*(const float *)(const void *)((const uint8_t *)d + r * d_bytes));
            UNROLL for (int h = 0; h < 2; h++) sum[r][h] = vfma(vcvt(dot[r][h]), vmul(vload(w_d + h * VL), scale), sum[r][h]);
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int h = 0; h < 2; h++) vstore(y + r * y_stride + h * VL, sum[r][h]);
}

void FN(int16_tile)(float *y, int64_t y_stride, int64_t m, int64_t cols, const int16_t *q, const float *d, int64_t q_bytes, int64_t d_bytes, const int32_t *pairs, const float *w_d,
                    int64_t blocks, const float *bias, int32_t add) {
    float row[INT16_COLS] = {0}, own[INT16_COLS] = {0};
    const size_t bytes = (size_t)(cols < INT16_COLS ? cols : INT16_COLS) * sizeof *y;
#define NEXT(R) r += R, y += R * y_stride, q = (const void *)((const uint8_t *)q + R * q_bytes), d = (const void *)((const uint8_t *)d + R * d_bytes)
    int64_t r = 0;
    if (cols >= INT16_COLS) {
        for (; r + 4 <= m; NEXT(4)) tile(4, y, y_stride, q, d, q_bytes, d_bytes, pairs, w_d, blocks, bias, add);
    } else if (bias) bias = memcpy(own, bias, bytes);
    for (; r < m; NEXT(1)) {
        memcpy(row, y, bytes);
        tile(1, row, 0, q, d, q_bytes, d_bytes, pairs, w_d, blocks, bias, add);
        memcpy(y, row, bytes);
    }
}
