/* SPDX-License-Identifier: Apache-2.0 */
/* product_rows.c - the definition of the products: the packing "rows" reads encoded rows in place, a row of W is decoded to
 * floats, sums are in double over k (forward) or n (transposed) in order. */
#include "blocks.h"
#include "registry.h"

typedef void (*decoder)(float *dst, const void *src, int64_t k);

static uint64_t prepared_bytes(int64_t k) { return ramet__round64((uint64_t)k * 4); }
static void prepare(void *dst, const float *x, int64_t k) { memcpy(dst, x, (size_t)k * 4); }
static uint64_t scratch_bytes(int64_t m, int64_t n, int64_t k) { return ramet__round64((uint64_t)k * 4) + ramet__round64((uint64_t)m * (uint64_t)k * 8); }
static uint64_t no_bytes(int64_t n, int64_t k) { return 0; }

static void forward(const ramet__product_args *a, decoder decode, int64_t row_bytes) {
    float *w = a->scratch;
    for (int64_t n = a->from; n < a->to; n++) {
        decode(w, (const uint8_t *)a->packed + n * row_bytes, a->k);
        for (int64_t m = 0; m < a->m; m++) {
            const float *x = (const float *)(const void *)((const uint8_t *)a->x + m * a->x_stride);
            float *y = a->y + m * a->y_stride + n;
            double s = 0;
            for (int64_t i = 0; i < a->k; i++) s += (double)x[i] * (double)w[i];
            if (a->bias) s += (double)a->bias[n];
            *y = (float)(a->accumulate ? s + (double)*y : s);
        }
    }
}

static void transposed(const ramet__product_args *a, decoder decode, int64_t row_bytes) {
    float *w = a->scratch;
    double *sum = (double *)(void *)((uint8_t *)a->scratch + ramet__round64((uint64_t)a->k * 4));
    int64_t width = a->to - a->from;
    for (int64_t i = 0; i < a->m * width; i++) sum[i] = 0;
    for (int64_t n = 0; n < a->n; n++) {
        decode(w, (const uint8_t *)a->packed + n * row_bytes, a->k);
        for (int64_t m = 0; m < a->m; m++) {
            double dy = ((const float *)a->x)[m * a->x_stride + n];
            for (int64_t i = 0; i < width; i++) sum[m * width + i] += dy * (double)w[a->from + i];
        }
    }
    for (int64_t m = 0; m < a->m; m++)
        for (int64_t i = 0; i < width; i++) {
            float *y = a->y + m * a->y_stride + a->from + i;
            *y = (float)(a->accumulate ? sum[m * width + i] + (double)*y : sum[m * width + i]);
        }
}

static const ramet__scheme scheme = {"rows", RAMET__EXACT, prepared_bytes, prepare, scratch_bytes, {{128, 64}, {128, 64}}, NULL, NULL, NULL};
#define ROWS(ENC)                                                                                                                   \
    static void decode_##ENC(float *dst, const void *packed, int64_t n, int64_t k, int64_t row) {                                   \
        ramet__decode_##ENC(dst, (const uint8_t *)packed + row * ramet__row_##ENC(k), k);                                           \
    }                                                                                                                               \
    static void forward_##ENC(const ramet__product_args *a) { forward(a, ramet__decode_##ENC, ramet__row_##ENC(a->k)); }            \
    static void transposed_##ENC(const ramet__product_args *a) { transposed(a, ramet__decode_##ENC, ramet__row_##ENC(a->k)); }      \
    const ramet__packing ramet__packing_rows_##ENC = {"rows", #ENC, 1, 32, 1, no_bytes, NULL, NULL, decode_##ENC};                   \
    const ramet__product ramet__product_rows_##ENC##_exact_ref = {&scheme, &ramet__packing_rows_##ENC, forward_##ENC, transposed_##ENC};
ROWS(F32)
ROWS(F16)
ROWS(BF16)
ROWS(Q4_0)
ROWS(Q4_1)
ROWS(Q5_0)
ROWS(Q8_0)
ROWS(Q5_1)
ROWS(Q4_K)
ROWS(Q5_K)
ROWS(Q6_K)
ROWS(IQ4_NL)
#define ROWS_LOW(ENC, elements, bytes) ROWS(ENC)
RAMET__LOW(ROWS_LOW)
