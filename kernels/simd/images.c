/* SPDX-License-Identifier: Apache-2.0 */
/* images.c - what small nets spend their time in besides products: rectifiers and the largest of windows. */
#include "registry.h"
#include "simd/vec.h"

#define EACH(i, n) for (int64_t i = 0, left = (n); left > 0; i += VL, left -= VL)

void FN(relu)(float *y, const float *x, int64_t n) {
    EACH(i, n) {
        vf v = vget(x + i, left);
        vput(y + i, vwhere(vzero(), v, vzero(), v), left);
    }
}
void FN(relu_grad)(float *dx, const float *x, const float *dy, int64_t n) {
    EACH(i, n) vput(dx + i, vwhere(vget(x + i, left), vzero(), vget(dy + i, left), vzero()), left);
}
void FN(max_pick)(float *y, const float *x, const float *v, const int64_t *at, int64_t count, int64_t n, int64_t windows, int64_t step) {
    for (int64_t w = 0; w < windows; w++, y += n, x += step, v += step)
        EACH(i, n) {
            vf most = vget(x + at[0] + i, left), found = vget(v + at[0] + i, left);
            for (int64_t t = 1; t < count; t++) {
                vf next = vget(x + at[t] + i, left);
                found = vwhere(next, most, vget(v + at[t] + i, left), found);
                most = vwhere(next, most, next, most);
            }
            vput(y + i, found, left);
        }
}
void FN(max_place)(float *dx, const float *x, const float *dy, const int64_t *at, int64_t count, int64_t n, int64_t windows, int64_t step, int32_t add, int32_t positive) {
    for (int64_t w = 0; w < windows; w++, dx += step, x += step, dy += n)
        EACH(i, n) {
            vf most = vget(x + at[0] + i, left), d = vget(dy + i, left);
            for (int64_t t = 1; t < count; t++) {
                vf next = vget(x + at[t] + i, left);
                most = vwhere(next, most, next, most);
            }
            if (positive) d = vwhere(most, vzero(), d, vzero());
            for (int64_t t = 0; t < count; t++) { /* it stays with the first that is not below the largest */
                float *to = dx + at[t] + i;
                vf here = vget(x + at[t] + i, left), y = vwhere(most, here, vzero(), d);
                d = vwhere(most, here, d, vzero());
                vput(to, add ? vadd(vget(to, left), y) : y, left);
            }
        }
}
