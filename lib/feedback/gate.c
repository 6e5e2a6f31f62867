/* SPDX-License-Identifier: Apache-2.0 */
/* gate.c - a candidate measured against the live parent on held-out tasks, window by window: the difference's mean and its
 * paired 95% interval. Passes when no task is worse than allowed and the tasks that count are better on average. */
#include "feedback/feedback.h"
#include <math.h>
#include <string.h>

void ramet_gate_options_init(ramet_gate_options *options, uint32_t struct_size) {
    ramet_gate_options o = {.struct_size = struct_size, .max_worse = .01, .window = 512, .mode = RAMET_MODE_BALANCED};
    ramet__options_init(options, struct_size, &o, sizeof o);
}

typedef struct paired { double parent, candidate, low, high; int64_t tokens; int32_t windows; } paired;

static ramet_status measure(paired *out, ramet_model *parent, ramet_model *candidate, ramet_task *task, const ramet_gate_options *o) {
    ramet__mem *mem = parent->rt->mem;
    ramet_dataset *d = NULL;
    ramet_evaluate_options e;
    ramet_evaluation r[2] = {{.struct_size = sizeof r[0]}, {.struct_size = sizeof r[1]}};
    ramet_model *model[2] = {parent, candidate};
    float *loss[2] = {NULL, NULL};
    ramet_status st;
    RAMET__TRY(ramet_task_dataset(&d, task, parent));
    ramet_evaluate_options_init(&e, sizeof e);
    e.window = o->window;
    e.mode = o->mode;
    e.max_tokens = o->max_tokens;
    e.progress = o->progress;
    e.progress_user = o->progress_user;
    e.losses_capacity = ramet_dataset_tokens(d);
    for (int i = 0; i < 2; i++) {
        RAMET__NEW(loss[i], ramet__calloc(mem, (size_t)e.losses_capacity, sizeof(float)));
        e.losses = loss[i];
        RAMET__GO(ramet_evaluate(&r[i], model[i], d, &e));
    }
    int64_t n = r[0].windows, each = r[0].tokens / n;
    double mean = r[1].loss - r[0].loss, var = 0;
    for (int64_t w = 0; w < n; w++) {
        double diff = 0;
        for (int64_t t = w * each; t < (w + 1) * each; t++) diff += (double)loss[1][t] - loss[0][t];
        diff = diff / (double)each - mean;
        var += diff * diff;
    }
    double half = n > 1 ? ramet__t95(n - 1) * sqrt(var / (double)(n - 1) / (double)n) : INFINITY;
    *out = (paired){r[0].loss, r[1].loss, mean - half, mean + half, r[0].tokens, (int32_t)n};
out:
    ramet__free(loss[0]);
    ramet__free(loss[1]);
    ramet_dataset_free(d);
    return st;
}

/* Two-sided 95% point of Student's t (Cornish-Fisher expansion about the normal; exact to 1% from 3 degrees on). */
double ramet__t95(int64_t df) {
    static const double small[] = {12.706, 4.303};
    if (df < 3) return small[df < 1 ? 0 : df - 1];
    double z = 1.959964, v = (double)df, z3 = z * z * z, z5 = z3 * z * z;
    return z + (z3 + z) / (4 * v) + (5 * z5 + 16 * z3 + 3 * z) / (96 * v * v);
}

static void number_or_null(ramet__text *t, double v) {
    if (isfinite(v)) ramet__text_add(t, "%.6g", v);
    else ramet__text_add(t, "null");
}

ramet_status ramet_gate(int32_t *passed, char **json, ramet_store *store, ramet_candidate *candidate, ramet_task *const *tasks, int32_t count, const ramet_gate_options *options) {
    ramet_gate_options o;
    ramet_model *parent;
    ramet_status st;
    double gain = 0;
    int32_t ok = 1;
    if (!passed || !store || !candidate || !tasks || count < 1) return ramet__fail(RAMET_E_ARGUMENT, "ramet_gate: passed, store, candidate and at least one task are needed");
    ramet_gate_options_init(&o, sizeof o);
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_gate"));
    if (!(o.max_worse >= 0)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_gate: max_worse %g is negative", o.max_worse);
    if (o.guards < 0 || o.guards >= count) return ramet__fail(RAMET_E_ARGUMENT, "ramet_gate: %d guards of %d tasks leave none that counts", o.guards, count);
    RAMET__TRY(ramet__store_lock(store));
    ramet__text r = {.mem = store->rt->mem};
    if (strcmp(ramet__store_version(store, store->head)->digest, candidate->base_digest)) {
        st = ramet__fail(RAMET_E_REFUSED, "HEAD moved to version %lld since the candidate was made from version %lld; feed the updates again", (long long)store->head,
                         (long long)candidate->base_version);
        goto out;
    }
    RAMET__GO(ramet__store_model(&parent, store));
    ramet__text_add(&r, "\"tasks\":[");
    for (int32_t i = 0; i < count; i++) {
        paired p = {0};
        const char *name = ramet__task_name(tasks[i]);
        RAMET__GO(measure(&p, parent, candidate->model, tasks[i], &o));
        int32_t guard = i >= count - o.guards, worse = !(p.candidate <= p.parent * (1 + o.max_worse));
        ok &= !worse;
        if (!guard) gain += p.parent - p.candidate;
        ramet__text_add(&r, "%s{\"task\":", i ? "," : "");
        ramet__json_quote(&r, name, strlen(name));
        ramet__text_add(&r, ",\"guard\":%s,\"parent\":%.6g,\"candidate\":%.6g,\"difference\":%.6g,\"interval\":[", guard ? "true" : "false", p.parent, p.candidate, p.candidate - p.parent);
        number_or_null(&r, p.low);
        ramet__text_add(&r, ",");
        number_or_null(&r, p.high);
        ramet__text_add(&r, "],\"tokens\":%lld,\"windows\":%d,\"worse\":%s}", (long long)p.tokens, p.windows, worse ? "true" : "false");
    }
    ok &= gain > 0;
    ramet__text_add(&r, "],\"max_worse\":%.6g,\"mean_gain\":%.6g,\"passed\":%s", o.max_worse, gain / (count - o.guards), ok ? "true" : "false");
    RAMET__GO(r.status);
    int32_t before = candidate->gated;
    candidate->gated = ok ? 1 : -1;
    if ((st = ramet__candidate_pend(store, candidate)) || (st = ramet__ledger_add(store, "gate", r.data))) {
        candidate->gated = before;
        goto out;
    }
    if (json) RAMET__NEW(*json, ramet__format(store->rt->mem, "{%s}", r.data));
    *passed = ok;
out:
    ramet__store_unlock(store);
    ramet__text_free(&r);
    return st;
}
