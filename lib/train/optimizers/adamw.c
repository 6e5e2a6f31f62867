/* SPDX-License-Identifier: Apache-2.0 */
/* adamw.c - Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101), bias-corrected moments; the arithmetic is the
 * kernel's. */
#include <math.h>
#include "train/train.h"

static void update(const ramet__optimizer_step *u, float *p, float *g, void *const *state, int64_t n, float decay) {
    const double t = (double)u->step;
    const float c1 = (float)(1.0 / (1.0 - pow((double)u->beta1, t))), c2 = (float)(1.0 / (1.0 - pow((double)u->beta2, t)));
    u->kernels->adamw(p, state[0], state[1], g, n, u->rate, u->beta1, u->beta2, u->epsilon, decay, c1, c2, u->scale);
}

const ramet__optimizer ramet__optimizer_adamw = {"adamw", "Adam, decoupled weight decay", update, 2, {{4, 1}, {4, 1}}};
