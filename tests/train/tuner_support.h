/* SPDX-License-Identifier: Apache-2.0 */
/* tuner_support.h - for the tests of the tuner: a small one on four sentences, its steps, its state as bytes, the loss of what it gives. */
#ifndef TUNER_SUPPORT_H
#define TUNER_SUPPORT_H
#include "support.h"

static inline ramet_tuner_options small(int32_t full) { /* two micro-batches a step, of 2 and of 1 window */
    ramet_tuner_options o;
    ramet_tuner_options_init(&o, sizeof o);
    o.full = full;
    o.rank = 4;
    o.alpha = 8.0f;
    o.window = 24;
    o.batch = 3;
    o.micro_batch = 2;
    o.steps = 3;
    o.learning_rate = full ? 2e-3f : 1e-2f;
    o.mode = RAMET_MODE_BALANCED;
    o.weight_decay = 0.01f;
    return o;
}

static inline ramet_tuner *made(ramet_model *m, const ramet_tuner_options *o) {
    ramet_tuner *t = NULL;
    ramet_dataset *d = prose_data(m);
    ok(ramet_tuner_create(&t, m, d, o));
    ramet_dataset_free(d); /* the tuner keeps it */
    return t;
}

static inline ramet_tuner_report stepped(ramet_tuner *t, int64_t n, double deadline) {
    ramet_tuner_report r = {.struct_size = sizeof r};
    ok(ramet_tuner_step(&r, t, n, deadline, NULL, NULL));
    return r;
}

typedef struct blob { char *data; size_t n; } blob;
static inline blob state_of(ramet_tuner *t) {
    const char *path = scratch(".ckpt");
    blob b;
    ok(ramet_tuner_save(t, path));
    b.data = whole_file(path, &b.n);
    unlink(path);
    return b;
}
static inline void same_state(const blob *a, const blob *b) {
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->data, b->data, a->n);
}

static inline double loss_on(ramet_model *m, ramet_dataset *d, ramet_adapter *a) {
    ramet_evaluate_options o;
    ramet_evaluation e = {.struct_size = sizeof e};
    ramet_evaluate_options_init(&o, sizeof o);
    o.window = 24;
    o.score = RAMET_SCORE_ALL;
    o.mode = RAMET_MODE_EXACT;
    o.adapter = a;
    ok(ramet_evaluate(&e, m, d, &o));
    return e.loss;
}
#endif
