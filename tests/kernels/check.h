/* SPDX-License-Identifier: Apache-2.0 */
/* check.h - what the parts of the kernel checker share: random numbers, guarded memory, failure counting, the tables to check. */
#ifndef CHECK_H
#define CHECK_H
#include "kernels.h"
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ULP 5.9604645e-8 /* half a unit in the last place of 1.0f: one rounding */

uint64_t check_random(void);
float check_uniform(float lo, float hi);
int64_t check_range(int64_t lo, int64_t hi); /* both ends included */
void check_fill(float *x, int64_t n, float scale);

/* `bytes` of memory that end where an unreadable page begins; valid until the next check_release. Filled with NaN bits. */
void *check_memory(size_t bytes);
float *check_floats(int64_t n);
float *check_copy(const float *x, int64_t n);
void check_release(void);

/* Counts and prints; the first few of a kernel only. */
void check_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define CHECK(condition, ...) do { if (!(condition)) check_fail(__VA_ARGS__); } while (0)
/* |got - want| <= bound, NaN only where NaN is wanted. Answers 1 when it holds. */
int check_near(double got, double want, double bound);

extern const char *check_name; /* of the kernel under test, "avx512/linear/Q4_0/panel16/exact" */

void check_products(const ramet__kernels *ref, const ramet__kernels *k, int thorough);
void check_rows(const ramet__kernels *ref, const ramet__kernels *k, int thorough);
void check_gemm(const ramet__kernels *ref, const ramet__kernels *k, int thorough);
void check_attention(const ramet__kernels *ref, const ramet__kernels *k, int thorough);

/* Encoded random rows whose numbers are moderate. */
int64_t check_row_bytes(const char *encoding, int64_t k);
int64_t check_block(const char *encoding);
void check_encode(const char *encoding, uint8_t *rows, int64_t n, int64_t k);

void bench(const ramet__kernels *const *tables, int count, uint32_t cpu, const char *filter);
double bench_now(void);
#endif
