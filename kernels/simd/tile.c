/* SPDX-License-Identifier: Apache-2.0 */
/* tile.c - the register block of every fp32 product, compiled once a level; and of convolutions over pairs of bf16, when RAMET__PAIRS is defined. */
#include "registry.h"
#include "simd/tile.h"

#ifdef RAMET__PAIRS
#define STEP 2 /* numbers that a multiplication takes */
#define MULTIPLY(x, w, sum) _mm512_dpbf16_ps(sum, (__m512bh)(x), (__m512bh)(w))
#define CONV(name) FN(name##_pairs)
#undef TILE_R
#define TILE_R 8
#else
#define STEP 1
#define MULTIPLY vfma
#define CONV FN
#endif
#define STEPS(n) (((n) + STEP - 1) / STEP)

/* sum[r][v] += a[r * a_row + i * a_step] * b[i * ldb + v * VL] for i in 0..depth */
INLINE void tile_fma(const int R, const int NV, vf sum[TILE_R][TILE_NV], const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t ldb,
                     int64_t depth) {
    for (int64_t i = 0; i < depth; i++, a += a_step, b += ldb) {
        vf w[TILE_NV];
        UNROLL for (int v = 0; v < NV; v++) w[v] = vload(b + v * VL);
        UNROLL for (int r = 0; r < R; r++) {
            vf x = vset(a[r * a_row]);
            if (STEP == 2) SAME_PAIRS(x);
            UNROLL for (int v = 0; v < NV; v++) sum[r][v] = MULTIPLY(x, w[v], sum[r][v]);
        }
    }
}

INLINE void tile_run(const int R, const int NV, float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t ldb, int64_t depth, const tile_out *t) {
    vf sum[TILE_R][TILE_NV];
    UNROLL for (int v = 0; v < NV; v++) {
#ifdef RAMET__PAIRS /* a bias comes first, and there is nothing else at the end */
        vf first = t->bias ? vload(t->bias + v * VL) : vzero();
#else
        vf first = vzero();
#endif
        UNROLL for (int r = 0; r < R; r++) sum[r][v] = t->start ? vload(c + r * ldc + v * VL) : first;
    }
    int64_t l = 0;
    do tile_fma(R, NV, sum, a + l * t->a_line, a_row, a_step, b + l * t->b_line, ldb, depth);
    while (++l < t->lines);
#define EACH_SUM UNROLL for (int v = 0; v < NV; v++) UNROLL for (int r = 0; r < R; r++)
#ifndef RAMET__PAIRS
    if (t->alpha != 1.0f) EACH_SUM sum[r][v] = vmul(sum[r][v], vset(t->alpha));
    if (t->bias) EACH_SUM sum[r][v] = vadd(sum[r][v], vload(t->bias + v * VL));
    if (t->add) EACH_SUM sum[r][v] = vadd(sum[r][v], vload(c + r * ldc + v * VL));
#endif
    EACH_SUM vstore(c + r * ldc + v * VL, sum[r][v]);
#undef EACH_SUM
}

INLINE void tile_rows_nv(const int NV, float *c, int64_t ldc, int64_t m, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t ldb, int64_t depth, const tile_out *t) {
    int64_t r = 0;
    for (; r + TILE_R <= m; r += TILE_R) tile_run(TILE_R, NV, c + r * ldc, ldc, a + r * a_row, a_row, a_step, b, ldb, depth, t);
#ifdef RAMET__VEC512
    for (; r + 4 <= m; r += 4) tile_run(4, NV, c + r * ldc, ldc, a + r * a_row, a_row, a_step, b, ldb, depth, t);
#endif
#ifndef RAMET__PAIRS
    for (; r + 2 <= m; r += 2) tile_run(2, NV, c + r * ldc, ldc, a + r * a_row, a_row, a_step, b, ldb, depth, t);
#endif
    for (; r < m; r++) tile_run(1, NV, c + r * ldc, ldc, a + r * a_row, a_row, a_step, b, ldb, depth, t);
}
/* All columns of one vector, or of two */
static void whole(float *c, int64_t ldc, int64_t m, int64_t cols, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t ldb, int64_t depth, const tile_out *t) {
    if (cols > VL) tile_rows_nv(TILE_NV, c, ldc, m, a, a_row, a_step, b, ldb, depth, t);
    else tile_rows_nv(1, c, ldc, m, a, a_row, a_step, b, ldb, depth, t);
}
void tile_rows(float *c, int64_t ldc, int64_t m, int64_t cols, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t ldb,
               int64_t depth, const tile_out *t) {
    enum { ROWS = 4 * TILE_R };
    if (cols >= TILE_N || cols == VL) {
        whole(c, ldc, m, cols, a, a_row, a_step, b, ldb, depth, t);
        return;
    }
    float part[ROWS * TILE_N] = {0}, bias[TILE_N] = {0}; /* a part of a vector's columns goes through whole ones */
    const size_t bytes = (size_t)cols * sizeof *c;
    tile_out u = *t;
    if (t->bias) u.bias = memcpy(bias, t->bias, bytes);
    for (int64_t r = 0; r < m; r += ROWS) {
        const int64_t rows = m - r < ROWS ? m - r : ROWS;
        for (int64_t i = 0; i < rows && (t->start || t->add); i++) memcpy(part + i * TILE_N, c + (r + i) * ldc, bytes);
        whole(part, TILE_N, rows, cols, a + r * a_row, a_row, a_step, b, ldb, depth, &u);
        for (int64_t i = 0; i < rows; i++) memcpy(c + (r + i) * ldc, part + i * TILE_N, bytes);
    }
}

#ifndef RAMET__PAIRS
void tile_turn(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t depth) {
    for (int64_t r = 0; r < rows; r += VL) {
        const float *p[VL];
        int64_t left = rows - r, i = 0;
        for (int64_t j = 0; j < VL; j++) p[j] = src + (r + (j < left ? j : left - 1)) * lds;
        for (; i + 4 <= depth; i += 4) {
            vi v[4];
            UNROLL for (int t = 0; t < 4; t++) {
                const float *q[VL / 4];
                UNROLL for (int l = 0; l < VL / 4; l++) q[l] = p[4 * l + t] + i;
                v[t] = vicast(vlanes(q));
            }
            vi a = vilo32(v[0], v[1]), b = vihi32(v[0], v[1]), c = vilo32(v[2], v[3]), d = vihi32(v[2], v[3]);
            vput(dst + i * ldd + r, vcast(vilo64(a, c)), left);
            vput(dst + (i + 1) * ldd + r, vcast(vihi64(a, c)), left);
            vput(dst + (i + 2) * ldd + r, vcast(vilo64(b, d)), left);
            vput(dst + (i + 3) * ldd + r, vcast(vihi64(b, d)), left);
        }
        for (; i < depth; i++)
            for (int64_t j = 0; j < VL && j < left; j++) dst[i * ldd + r + j] = p[j][i];
    }
}
#endif

/* ---- convolution: the rows of a are an image's own, at the stride's distance; nothing is gathered ---- */
static void convolve(float *y, int64_t ldy, int64_t m, int64_t n, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t ldb, int64_t depth, tile_out t) {
    for (int64_t j = 0; j < n; j += TILE_N) {
        tile_rows(y + j, ldy, m, n - j < TILE_N ? n - j : TILE_N, a, a_row, a_step, b + j, ldb, depth, &t);
        if (t.bias) t.bias += TILE_N;
    }
}
void CONV(conv_row)(float *y, const float *x, int64_t x_row, int64_t x_line, const float *w, int64_t lines, int64_t depth, const float *bias, int64_t m, int64_t n) {
    convolve(y, n, m, n, x, x_row, STEP, w, n, STEPS(depth), (tile_out){1.0f, bias, 0, 0, lines, x_line, STEPS(depth) * n});
}
void CONV(conv_dx)(float *dx, int64_t x_row, int64_t x_line, const float *dy, const float *w, int64_t ldw, int64_t lines, int64_t m, int64_t n, int64_t depth) {
    for (int64_t i = 0; i < m; i++) convolve(dx + i * x_row, x_line, lines, depth, dy + i * n, m * n, STEP, w, ldw, STEPS(n), (tile_out){1.0f, NULL, 0, 1, 0, 0, 0});
}
void CONV(conv_dw)(float *dw, const float *x, int64_t x_row, int64_t x_line, const float *dy, int64_t lines, int64_t m, int64_t n, int64_t depth, int32_t accumulate) {
    convolve(dw, n, depth, n, x, 1, STEP * x_row, dy, n, STEPS(m), (tile_out){1.0f, NULL, 0, accumulate, lines, x_line, STEPS(m) * n});
}
