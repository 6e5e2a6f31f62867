/* SPDX-License-Identifier: Apache-2.0 */
/* winograd.c - the transforms of convolutions by minimal filtering: a tile's rows, then its columns, for a vector of channels at a time. Polynomials meet at the points 0, 1, -1, 2, -2
 * and infinity; what the matrices are: kernels.h. */
#include "registry.h"
#include "simd/vec.h"

enum { MOST = 6 };
INLINE int inputs(const int kind) { return kind == RAMET__WINOGRAD_SPREAD2 ? 2 : kind == RAMET__WINOGRAD_SPREAD4 ? 4 : 6; }
INLINE int outputs(const int kind) { return kind == RAMET__WINOGRAD_RESULT2 ? 2 : kind == RAMET__WINOGRAD_RESULT4 ? 4 : 6; }

/* y = matrix x */
INLINE void line(const int kind, vf *y, const vf *x) {
    const vf two = vset(2.0f), four = vset(4.0f), five = vset(5.0f);
    if (kind == RAMET__WINOGRAD_IMAGE) {
        const vf even = vfnma(four, x[2], x[4]), odd = vfnma(four, x[1], x[3]), near = vsub(x[4], x[2]), far = vsub(x[3], x[1]);
        y[0] = vfma(four, x[0], vfnma(five, x[2], x[4]));
        y[1] = vadd(even, odd);
        y[2] = vsub(even, odd);
        y[3] = vfma(two, far, near);
        y[4] = vfnma(two, far, near);
        y[5] = vfma(four, x[1], vfnma(five, x[3], x[5]));
        return;
    }
    if (kind == RAMET__WINOGRAD_SPREAD2 || kind == RAMET__WINOGRAD_SPREAD4) {
        const int more = kind == RAMET__WINOGRAD_SPREAD4;
        const vf even = more ? vadd(x[0], x[2]) : x[0], odd = more ? vadd(x[1], x[3]) : x[1];
        const vf even2 = more ? vfma(four, x[2], x[0]) : x[0], odd2 = more ? vfma(four, x[3], x[1]) : x[1];
        y[0] = x[0];
        y[1] = vadd(even, odd);
        y[2] = vsub(even, odd);
        y[3] = vfma(two, odd2, even2);
        y[4] = vfnma(two, odd2, even2);
        y[5] = x[more ? 3 : 1];
        return;
    }
    const vf even = vadd(x[1], x[2]), odd = vsub(x[1], x[2]), even2 = vadd(x[3], x[4]), odd2 = vsub(x[3], x[4]);
    if (kind == RAMET__WINOGRAD_BACK) {
        y[0] = vmul(four, x[0]);
        y[1] = vfnma(two, odd2, vmul(four, vsub(x[5], odd)));
        y[2] = vsub(vfnma(four, even, vfnma(five, x[0], vzero())), even2);
        y[3] = vfnma(five, x[5], vfma(two, odd2, odd));
        y[4] = vadd(x[0], vadd(even, even2));
        y[5] = x[5];
        return;
    }
    y[0] = vadd(x[0], vadd(even, even2));
    y[1] = vfma(two, odd2, odd);
    if (kind == RAMET__WINOGRAD_RESULT4) {
        y[2] = vfma(four, even2, even);
        y[3] = vadd(vfma(vset(8.0f), odd2, odd), x[5]);
    } else y[1] = vadd(y[1], x[5]);
}
INLINE void tile(const int kind, float *y, int64_t y_line, int64_t y_step, const float *x, int64_t x_line, int64_t x_step, const float *bias, int64_t n) {
    for (int64_t c = 0; c < n; c += VL, x += VL, y += VL) {
        vf from[MOST], to[MOST], half[MOST][MOST];
        const vf first = bias ? vload(bias + c) : vzero();
        for (int j = 0; j < inputs(kind); j++) {
            UNROLL for (int i = 0; i < inputs(kind); i++) from[i] = vload(x + i * x_line + j * x_step);
            line(kind, to, from);
            UNROLL for (int i = 0; i < outputs(kind); i++) half[i][j] = to[i];
        }
        for (int i = 0; i < outputs(kind); i++) {
            float *at = y + i * y_line;
            UNROLL for (int j = 0; j < inputs(kind); j++) from[j] = half[i][j];
            line(kind, to, from);
            UNROLL for (int j = 0; j < outputs(kind); j++, at += y_step) vstore(at, kind == RAMET__WINOGRAD_BACK ? vadd(vload(at), to[j]) : bias ? vadd(first, to[j]) : to[j]);
        }
    }
}
void FN(winograd)(int32_t kind, float *y, int64_t y_line, int64_t y_step, const float *x, int64_t x_line, int64_t x_step, const float *bias, int64_t n) {
    switch (kind) {
    case RAMET__WINOGRAD_IMAGE: tile(RAMET__WINOGRAD_IMAGE, y, y_line, y_step, x, x_line, x_step, NULL, n); break;
    case RAMET__WINOGRAD_BACK: tile(RAMET__WINOGRAD_BACK, y, y_line, y_step, x, x_line, x_step, NULL, n); break;
    case RAMET__WINOGRAD_SPREAD2: tile(RAMET__WINOGRAD_SPREAD2, y, y_line, y_step, x, x_line, x_step, NULL, n); break;
    case RAMET__WINOGRAD_SPREAD4: tile(RAMET__WINOGRAD_SPREAD4, y, y_line, y_step, x, x_line, x_step, NULL, n); break;
    case RAMET__WINOGRAD_RESULT2: tile(RAMET__WINOGRAD_RESULT2, y, y_line, y_step, x, x_line, x_step, bias, n); break;
    case RAMET__WINOGRAD_RESULT4: tile(RAMET__WINOGRAD_RESULT4, y, y_line, y_step, x, x_line, x_step, bias, n); break;
    }
}
