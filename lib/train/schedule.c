/* SPDX-License-Identifier: Apache-2.0 */
/* schedule.c - the learning rate as a function of the step alone, so that a resumed run needs nothing but its step. Cosine decay:
 * Loshchilov & Hutter 2017 (arXiv:1608.03983), one cycle down to a tenth. */
#include <math.h>
#include "train/train.h"

double ramet__schedule(int32_t schedule, double rate, double warmup, int64_t t, int64_t steps) {
    const int64_t warm = (int64_t)ceil(warmup * (double)steps - 1e-6); /* 0.1f of 30 steps is 3 */
    if (t < warm) return rate * (double)(t + 1) / (double)warm;
    if (schedule == RAMET_SCHEDULE_CONSTANT) return rate;
    const int64_t last = steps - 1 - warm; /* the last step is the end of the cycle */
    const double x = last > 0 ? (double)(t - warm) / (double)last : 0.0;
    return rate * (0.1 + 0.9 * 0.5 * (1.0 + cos(3.14159265358979323846 * x)));
}
