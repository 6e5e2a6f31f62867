/* SPDX-License-Identifier: Apache-2.0 */
/* gate.c - a candidate measured against the live parent on held-out tasks, window by window: the difference's mean and its
 * paired 95% interval. Passes when no task is worse than allowed and the tasks that count are better on average. */
#include "feedback/feedback.h"
#include "train/train.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

void ramet_gate_options_init(ramet_gate_options *options, uint32_t struct_size) {
    ramet_gate_options o = {.struct_size = struct_size, .max_worse = .01, .window = 512, .mode = RAMET_MODE_BALANCED};
    ramet__options_init(options, struct_size, &o, sizeof o);
}

typedef struct paired { double parent, candidate, low, high; int64_t tokens; int32_t windows; } paired;
typedef struct measured { float *loss; int64_t tokens; double mean; } measured;

static ramet_status measure(measured *out, ramet_model *model, ramet_dataset *d, const ramet_gate_options *o) {
    ramet_evaluate_options e;
    ramet_evaluation r = {.struct_size = sizeof r};
    ramet_status st;
    ramet_evaluate_options_init(&e, sizeof e);
    e.window = o->window;
    e.mode = o->mode;
    e.max_tokens = o->max_tokens;
    e.progress = o->progress;
    e.progress_user = o->progress_user;
    e.losses_capacity = ramet_dataset_tokens(d);
    RAMET__NEW(out->loss, ramet__calloc(model->rt->mem, (size_t)e.losses_capacity, sizeof(float)));
    e.losses = out->loss;
    RAMET__GO(ramet_evaluate(&r, model, d, &e));
    out->tokens = r.tokens;
    out->mean = r.loss;
out:
    return st;
}

/* HEAD is measured once for each text and setting: many candidates are compared with it. The store keeps the losses under a name
 * that says all they depend on; a file that does not fit is measured again. */
static char *kept_path(const ramet_store *s, const ramet_dataset *d, const ramet_gate_options *o) {
    ramet__sha256 sha;
    char data[65], key[65], settings[160];
    ramet__dataset_digest(data, d);
    snprintf(settings, sizeof settings, "%s %d %d %lld %s", ramet_version_string(), o->window, o->mode, (long long)o->max_tokens, ramet_runtime_isa(s->rt));
    ramet__sha256_init(&sha);
    ramet__sha256_add(&sha, ramet__store_version(s, s->head)->digest, 64);
    ramet__sha256_add(&sha, data, 64);
    ramet__sha256_add(&sha, settings, strlen(settings));
    ramet__sha256_hex(&sha, key);
    return ramet__store_path(s, "measured/%.32s.safetensors", key);
}

static ramet_status read_kept(measured *out, ramet__mem *mem, const char *path) {
    ramet_source source;
    ramet__reader *reader = NULL;
    ramet__safetensors *file = NULL;
    ramet_status st;
    ramet_source_from_path(&source, sizeof source, path);
    source.untrusted = 1;
    RAMET__GO(ramet__reader_open(&reader, mem, &source));
    RAMET__GO(ramet__safetensors_open(&file, mem, reader));
    const ramet__st_tensor *t = ramet__safetensors_find(file, "losses");
    if (!t || t->dtype != RAMET__ST_F32 || t->rank != 1 || t->dim[0] < 1) { st = ramet__fail(RAMET_E_FORMAT, "%s: has no losses", path); goto out; }
    RAMET__NEW(out->loss, ramet__alloc(mem, t->bytes));
    RAMET__GO(ramet__safetensors_read(file, t, out->loss, t->bytes));
    out->tokens = t->dim[0];
    for (int64_t i = 0; i < out->tokens; i++) out->mean += (double)out->loss[i] / (double)out->tokens;
    if (!isfinite(out->mean)) st = ramet__fail(RAMET_E_FORMAT, "%s: holds NaN or infinity", path);
out:
    ramet__safetensors_free(file);
    ramet__reader_free(reader);
    return st;
}

static ramet_status keep(const measured *m, ramet_store *s, const char *path) {
    ramet__st_writer *w = NULL;
    char *folder = ramet__store_path(s, "measured");
    ramet_status st;
    if (!folder) return ramet__alloc_status();
    RAMET__GO(ramet__dir_make(folder));
    RAMET__GO(ramet__st_writer_open(&w, s->rt->mem, path));
    RAMET__GO(ramet__st_meta(w, "ramet.kind", "measured"));
    RAMET__GO(ramet__st_declare(w, "losses", RAMET__ST_F32, 1, &m->tokens));
    RAMET__GO(ramet__st_data(w, m->loss, (uint64_t)m->tokens * sizeof *m->loss));
    RAMET__GO(ramet__st_writer_commit(&w));
out:
    ramet__st_writer_drop(&w);
    ramet__free(folder);
    return st;
}

static ramet_status measure_head(measured *out, ramet_store *s, ramet_model *head, ramet_dataset *d, const ramet_gate_options *o) {
    char *path = kept_path(s, d, o);
    ramet_status st = RAMET_OK;
    if (!path) return ramet__alloc_status();
    if (ramet__path_kind(path) == 1) {
        if (!read_kept(out, s->rt->mem, path)) goto out;
        ramet__free(out->loss);
        *out = (measured){0};
    }
    RAMET__GO(measure(out, head, d, o));
    st = keep(out, s, path);
out:
    ramet__free(path);
    return st;
}

static ramet_status compare(paired *out, ramet_store *s, ramet_model *parent, ramet_model *candidate, ramet_task *task, const ramet_gate_options *o) {
    ramet_dataset *d = NULL;
    measured a = {0}, b = {0};
    ramet_status st;
    RAMET__TRY(ramet_task_dataset(&d, task, parent));
    RAMET__GO(measure_head(&a, s, parent, d, o));
    RAMET__GO(measure(&b, candidate, d, o));
    if (a.tokens != b.tokens) { st = ramet__fail(RAMET_E_INTERNAL, "ramet_gate: parent and candidate were scored on different tokens"); goto out; }
    int64_t each = o->window - 1 - o->window / 2, n = (a.tokens + each - 1) / each; /* half of each window is scored; the last may be cut */
    double mean = b.mean - a.mean, var = 0;
    for (int64_t w = 0; w < n; w++) {
        double diff = 0;
        int64_t end = RAMET__MIN((w + 1) * each, a.tokens);
        for (int64_t t = w * each; t < end; t++) diff += (double)b.loss[t] - a.loss[t];
        diff = diff / (double)(end - w * each) - mean;
        var += diff * diff;
    }
    double half = n > 1 ? ramet__t95(n - 1) * sqrt(var / (double)(n - 1) / (double)n) : INFINITY;
    *out = (paired){a.mean, b.mean, mean - half, mean + half, a.tokens, (int32_t)n};
out:
    ramet__free(a.loss);
    ramet__free(b.loss);
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
    if (isfinite(v)) ramet__text_float(t, "", 6, v);
    else ramet__text_add(t, "null");
}

static ramet_status check_base(const ramet_store *s, const ramet_candidate *c) {
    if (!strcmp(ramet__store_version(s, s->head)->digest, c->base_digest)) return RAMET_OK;
    return ramet__fail(RAMET_E_REFUSED, "HEAD moved to version %lld since the candidate was made from version %lld; feed the updates again", (long long)s->head, (long long)c->base_version);
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
    ramet_model *held = NULL; /* the store may move on while we measure, which takes minutes and no lock */
    RAMET__GO(check_base(store, candidate));
    RAMET__GO(ramet__store_model(&parent, store));
    held = ramet_model_retain(parent);
    ramet__store_unlock(store);
    ramet__text_add(&r, "\"tasks\":[");
    for (int32_t i = 0; i < count; i++) {
        paired p = {0};
        const char *name = ramet__task_name(tasks[i]);
        RAMET__GO(compare(&p, store, parent, candidate->model, tasks[i], &o));
        int32_t guard = i >= count - o.guards, worse = !(p.candidate <= p.parent * (1 + o.max_worse));
        ok &= !worse;
        if (!guard) gain += p.parent - p.candidate;
        ramet__text_add(&r, "%s{\"task\":", i ? "," : "");
        ramet__json_quote(&r, name, strlen(name));
        ramet__text_add(&r, ",\"guard\":%s", guard ? "true" : "false");
        ramet__text_float(&r, ",\"parent\":", 6, p.parent);
        ramet__text_float(&r, ",\"candidate\":", 6, p.candidate);
        ramet__text_float(&r, ",\"difference\":", 6, p.candidate - p.parent);
        ramet__text_add(&r, ",\"interval\":[");
        number_or_null(&r, p.low);
        ramet__text_add(&r, ",");
        number_or_null(&r, p.high);
        ramet__text_add(&r, "],\"tokens\":%lld,\"windows\":%d,\"worse\":%s}", (long long)p.tokens, p.windows, worse ? "true" : "false");
    }
    ok &= gain > 0;
    ramet__text_float(&r, "],\"max_worse\":", 6, o.max_worse);
    ramet__text_float(&r, ",\"mean_gain\":", 6, gain / (count - o.guards));
    ramet__text_add(&r, ",\"passed\":%s", ok ? "true" : "false");
    RAMET__GO(r.status);
    RAMET__GO(ramet__store_lock(store));
    RAMET__GO(check_base(store, candidate));
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
    ramet_model_free(held);
    ramet__text_free(&r);
    return st;
}
