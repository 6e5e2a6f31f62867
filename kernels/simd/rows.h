/* SPDX-License-Identifier: Apache-2.0 */
/* rows.h - rows of the encodings that are floats, as they lie in a file, to fp32. */
#ifndef RAMET__ROWS_H
#define RAMET__ROWS_H
#include "blocks.h"
#include "registry.h"
#include "simd/vec.h"

/* Elements k0.. of a row, filled up with zeros to a multiple of 16; k0 and, but at a row's end, count are multiples of 32. */
typedef void decoder(float *dst, const uint8_t *row, int64_t k0, int64_t count);

INLINE void fill_up(float *dst, int64_t count) { for (int64_t i = count; i % 16; i++) dst[i] = 0.0f; }

static void decode_F32(float *dst, const uint8_t *row, int64_t k0, int64_t count) {
    memcpy(dst, row + k0 * 4, (size_t)count * 4);
    fill_up(dst, count);
}
static void decode_F16(float *dst, const uint8_t *row, int64_t k0, int64_t count) {
    int64_t i = 0;
    row += k0 * 2;
    for (; i + VL <= count; i += VL) vstore(dst + i, vhalf(row + i * 2));
    ramet__decode_F16(dst + i, row + i * 2, count - i);
    fill_up(dst, count);
}
static void decode_BF16(float *dst, const uint8_t *row, int64_t k0, int64_t count) {
    int64_t i = 0;
    row += k0 * 2;
    for (; i + VL <= count; i += VL) vstore(dst + i, vbrain(row + i * 2));
    ramet__decode_BF16(dst + i, row + i * 2, count - i);
    fill_up(dst, count);
}
#endif
