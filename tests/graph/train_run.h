/* SPDX-License-Identifier: Apache-2.0 */
/* train_run.h - a training run of two sequences through the tiny llama. */
#ifndef TRAIN_RUN_H
#define TRAIN_RUN_H
#include "tiny_llama.h"

#define T 12
static const int32_t tokens[T] = {1, 5, 9, 2, 95, 0, 7, 7, 33, 60, 4, 8},
                     position[T] = {0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4},
                     sequence[T] = {0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1};
static const int32_t outs[T] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 10}, labels[T] = {5, 9, 2, 95, -1, 7, 33, 60, 4, 8};
static const float weight[T] = {.1f, .1f, .1f, .1f, .1f, .1f, .1f, .1f, .1f, .1f};

static inline ramet__run train_run(const ramet__slot_entry *const *adapters, int32_t n) {
    ramet__run r = {.rows = T, .outs = 10, .adapters = adapters, .n_adapters = n};
    give(&r, "tokens", tokens);
    give(&r, "pos", position);
    give(&r, "seq", sequence);
    give(&r, "outs", outs);
    give(&r, "labels", labels);
    give(&r, "weight", weight);
    return r;
}
static inline ramet__plan *train_plan(ramet_runtime *rt, const llama *m, ramet__mode mode) {
    ramet__graph *g;
    ramet__plan *p;
    ramet__plan_options o = {.mode = mode, .max_context = 16};
    OK(ramet__graph_create(&g, rt, T, T, RANK));
    llama_train(g, m);
    OK(ramet__plan_create(&p, g, &o));
    ramet__graph_free(g);
    return p;
}
#endif
