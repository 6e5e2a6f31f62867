/* SPDX-License-Identifier: Apache-2.0 */
/* nesterov.c - gradient descent with Nesterov's momentum beta1, in the form of Sutskever et al. 2013 (ICML) that uses one gradient:
 * m = beta1*m + g; p -= rate * (g + beta1*m + decay*p). */
#include <string.h>
#include "train/train.h"

static void update(const ramet__optimizer_step *u, float *p, float *g, void *const *state, int64_t n, float decay) {
    const ramet__kernels *k = u->kernels;
    float *m = state[0];
    k->scale(m, u->beta1, m, n);
    k->axpy(m, u->scale, g, n);
    if (decay != 0.0f) k->scale(p, 1.0f - u->rate * decay, p, n);
    k->axpy(p, -u->rate * u->scale, g, n);
    k->axpy(p, -u->rate * u->beta1, m, n);
    memset(g, 0, (size_t)n * sizeof *g);
}

const ramet__optimizer ramet__optimizer_nesterov = {"nesterov", "gradient descent, Nesterov's momentum beta1", update, 1, {{4, 1}}};
