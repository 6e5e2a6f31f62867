/* SPDX-License-Identifier: Apache-2.0 */
/* images.c - the definition of rectifiers, the largest of windows, and convolution by rows and by tiles. */
#include "registry.h"

void ramet__relu_ref(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] < 0 ? 0.0f : x[i];
}
void ramet__relu_grad_ref(float *dx, const float *x, const float *dy, int64_t n) {
    for (int64_t i = 0; i < n; i++) dx[i] = x[i] > 0 ? dy[i] : 0.0f;
}
static int64_t largest(const float *x, const int64_t *at, int64_t count, int64_t i) {
    int64_t best = 0;
    for (int64_t t = 1; t < count; t++)
        if (x[at[t] + i] > x[at[best] + i]) best = t;
    return at[best] + i;
}
void ramet__max_pick_ref(float *y, const float *x, const float *v, const int64_t *at, int64_t count, int64_t n, int64_t windows, int64_t step) {
    for (int64_t w = 0; w < windows; w++)
        for (int64_t i = 0; i < n; i++) y[w * n + i] = v[w * step + largest(x + w * step, at, count, i)];
}
void ramet__max_place_ref(float *dx, const float *x, const float *dy, const int64_t *at, int64_t count, int64_t n, int64_t windows, int64_t step, int32_t add,
                          int32_t positive) {
    for (int64_t w = 0; w < windows; w++, dx += step, x += step, dy += n)
        for (int64_t i = 0; i < n; i++) {
            const int64_t best = largest(x, at, count, i);
            for (int64_t t = 0; t < count && !add; t++) dx[at[t] + i] = 0.0f;
            if (!positive || x[best] > 0) dx[best] += dy[i];
        }
}
void ramet__conv_row_ref(float *y, const float *x, int64_t x_row, int64_t x_line, const float *w, int64_t lines, int64_t depth, const float *bias, int64_t m,
                         int64_t n) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double s = bias ? bias[j] : 0.0;
            for (int64_t l = 0; l < lines; l++)
                for (int64_t d = 0; d < depth; d++) s += (double)x[i * x_row + l * x_line + d] * (double)w[(l * depth + d) * n + j];
            y[i * n + j] = (float)s;
        }
}
void ramet__conv_dx_ref(float *dx, int64_t x_row, int64_t x_line, const float *dy, const float *w, int64_t ldw, int64_t lines, int64_t m, int64_t n, int64_t depth) {
    for (int64_t l = 0; l < lines; l++)
        for (int64_t i = 0; i < m; i++)
            for (int64_t d = 0; d < depth; d++) {
                double s = 0.0;
                for (int64_t o = 0; o < n; o++) s += (double)dy[(l * m + i) * n + o] * (double)w[o * ldw + d];
                dx[l * x_line + i * x_row + d] += (float)s;
            }
}
void ramet__conv_dw_ref(float *dw, const float *x, int64_t x_row, int64_t x_line, const float *dy, int64_t lines, int64_t m, int64_t n, int64_t depth, int32_t accumulate) {
    for (int64_t d = 0; d < depth; d++)
        for (int64_t j = 0; j < n; j++) {
            double s = accumulate ? dw[d * n + j] : 0.0;
            for (int64_t l = 0; l < lines; l++)
                for (int64_t i = 0; i < m; i++) s += (double)dy[(l * m + i) * n + j] * (double)x[l * x_line + i * x_row + d];
            dw[d * n + j] = (float)s;
        }
}
/* Rows of B^T, and of A for 2 and 4 results: the powers of the points, of infinity the last */
static const float image_tile[6][6] = {{4, 0, -5, 0, 1, 0}, {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0}, {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
static const float two_results[6][2] = {{1, 0}, {1, 1}, {1, -1}, {1, 2}, {1, -2}, {0, 1}};
static const float four_results[6][4] = {{1, 0, 0, 0}, {1, 1, 1, 1}, {1, -1, 1, -1}, {1, 2, 4, 8}, {1, -2, 4, -8}, {0, 0, 0, 1}};
void ramet__winograd_ref(int32_t kind, float *y, int64_t y_line, int64_t y_step, const float *x, int64_t x_line, int64_t x_step, const float *bias, int64_t n) {
    const int32_t back = kind == RAMET__WINOGRAD_BACK, turned = back || kind >= RAMET__WINOGRAD_RESULT2;
    const float *matrix = kind <= RAMET__WINOGRAD_BACK ? image_tile[0] : kind == RAMET__WINOGRAD_SPREAD2 || kind == RAMET__WINOGRAD_RESULT2 ? two_results[0] : four_results[0];
    const int64_t cols = kind <= RAMET__WINOGRAD_BACK ? 6 : matrix == two_results[0] ? 2 : 4, from = turned ? 6 : cols, to = turned ? cols : 6;
    for (int64_t c = 0; c < n; c++)
        for (int64_t i = 0; i < to; i++)
            for (int64_t j = 0; j < to; j++) {
                float *at = y + i * y_line + j * y_step + c;
                double sum = back ? *at : bias ? bias[c] : 0.0;
                for (int64_t a = 0; a < from; a++)
                    for (int64_t b = 0; b < from; b++)
                        sum += (double)(turned ? matrix[a * cols + i] : matrix[i * cols + a]) * (double)(turned ? matrix[b * cols + j] : matrix[j * cols + b]) * (double)x[a * x_line + b * x_step + c];
                *at = (float)sum;
            }
}
