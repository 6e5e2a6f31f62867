/* SPDX-License-Identifier: Apache-2.0 */
/* schedule.c - the learning rate as a function of the step alone, so that a resumed run needs nothing but its step. All that fall end at a
 * tenth. Cosine: Loshchilov & Hutter 2017 (arXiv:1608.03983), one cycle; warm-up-stable-decay: Hu et al. 2024 (arXiv:2404.06395). */
#include <math.h>
#include "train/train.h"

/* x: 0 at the end of the warm-up, 1 at the last step */
static double cosine(double x) { return 0.1 + 0.9 * 0.5 * (1.0 + cos(3.14159265358979323846 * x)); }
static double constant(double x) { return x >= 0 ? 1.0 : 0.0; }
static double linear(double x) { return 1.0 - 0.9 * x; }
static double wsd(double x) { return x > 0.8 ? linear((x - 0.8) / 0.2) : 1.0; }

static const struct { const char *name, *summary; double (*at)(double x); } table[] = {
    [RAMET_SCHEDULE_COSINE] = {"cosine", "half a cosine down to a tenth", cosine},
    [RAMET_SCHEDULE_CONSTANT] = {"constant", "the same rate after the warm-up", constant},
    [RAMET_SCHEDULE_LINEAR] = {"linear", "a straight line down to a tenth", linear},
    [RAMET_SCHEDULE_WSD] = {"wsd", "warm-up, stable, in the last fifth straight down to a tenth", wsd},
};

int32_t ramet__schedule_list(int32_t i, const char **name, const char **detail) {
    if (i < 0 || i >= RAMET__COUNT(table)) return 0;
    if (name) *name = table[i].name;
    if (detail) *detail = table[i].summary;
    return 1;
}

double ramet__schedule(int32_t schedule, double rate, double warmup, int64_t t, int64_t steps) {
    const int64_t warm = (int64_t)ceil(warmup * (double)steps - 1e-6); /* 0.1f of 30 steps is 3 */
    if (t < warm) return rate * (double)(t + 1) / (double)warm;
    const int64_t last = steps - 1 - warm; /* the last step is the end of the cycle */
    return rate * table[schedule].at(last > 0 ? (double)(t - warm) / (double)last : 0.0);
}
