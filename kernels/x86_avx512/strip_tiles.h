/* SPDX-License-Identifier: Apache-2.0 */
/* strip_tiles.h - what multiplies a strip of W in bf16: with vectors (strip_bf16.h) or by AMX (x86_amx/tiles.c). */
#ifndef RAMET__STRIP_TILES_H
#define RAMET__STRIP_TILES_H
#include <stdint.h>

enum { STRIP = 64 }; /* columns of a strip of W: w[pairs][STRIP][2] */

/* Numbers of a strip with so many pairs; a wider piece of W is strips side by side, so far apart. */
static inline int64_t strip_size(int64_t pairs) { return (pairs + 15) / 16 * 16 * STRIP * 2; }

/* y[rows, width] = x . w, or y + x . w (start); a row of x is `pairs` pairs of bf16, ldx of them apart */
typedef void strip_tiles(float *y, int64_t ldy, int64_t rows, int64_t width, int start, const uint32_t *x, int64_t ldx, const uint16_t *w, int64_t pairs);
strip_tiles ramet__tiles_amx;
#endif
