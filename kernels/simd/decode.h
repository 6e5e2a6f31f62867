/* SPDX-License-Identifier: Apache-2.0 */
/* decode.h - rows of the encodings that are only read, as floats; k is a multiple of the block, 32 or, with a K, 256. */
#ifndef RAMET__DECODE_H
#define RAMET__DECODE_H
#include "blocks.h"
#define RAMET__DECODE2(name, suffix) ramet__decode_##name##_##suffix
#define RAMET__DECODE1(name, suffix) RAMET__DECODE2(name, suffix)
#define FN_DECODE(name) RAMET__DECODE1(name, RAMET__SUFFIX)
void FN_DECODE(Q5_1)(float *dst, const void *src, int64_t k);
void FN_DECODE(Q4_K)(float *dst, const void *src, int64_t k);
void FN_DECODE(Q5_K)(float *dst, const void *src, int64_t k);
void FN_DECODE(Q6_K)(float *dst, const void *src, int64_t k);
void FN_DECODE(IQ4_NL)(float *dst, const void *src, int64_t k);
#endif
