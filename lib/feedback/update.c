/* SPDX-License-Identifier: Apache-2.0 */
/* update.c - the half beside the variant: what it learned, as differences from its own birth state, in one safetensors file
 * that any tool opens, so that a person can see what leaves the device.
 *
 *   delta.<weight>.a [rank,k], delta.<weight>.b [n,rank]   the change of a weight of the variant is b.a
 *   lineage.layer, lineage.ff                              where the variant's layers and channels come from in its parent
 *   probe.which [labelled]                                 windows of the brief's probe text
 *   probe.ids [rows,top], probe.birth, probe.change        log-probabilities of the tuned variant's top classes on their rows: at birth,
 *                                                          and how much they changed */
#include "base/system.h"
#include "feedback/feedback.h"
#include "train/train.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

void ramet_update_options_init(ramet_update_options *options, uint32_t struct_size) {
    ramet_update_options o = {.struct_size = struct_size, .what = RAMET_UPDATE_DELTA, .top = 64};
    ramet__options_init(options, struct_size, &o, sizeof o);
}

/* ---- soft labels ---- */
typedef struct labels { int64_t windows, rows, top; int32_t *which, *ids; uint16_t *birth, *change; } labels;

static void labels_free(labels *l) {
    ramet__free(l->which);
    ramet__free(l->ids);
    ramet__free(l->birth);
    ramet__free(l->change);
}

static ramet_status run_window(const float **logits, ramet_session *s, const int32_t *ids, const uint8_t *want, int64_t n, int32_t adapter, const ramet_update_options *o) {
    int64_t outputs;
    RAMET__TRY(ramet_session_truncate(s, 0, 0));
    RAMET__TRY(ramet_session_use(s, 0, adapter));
    return ramet_session_run(logits, &outputs, s, ids, NULL, want, n, o->progress, o->progress_user);
}

/* out->which is set. */
static ramet_status make_labels(labels *out, ramet_model *variant, const int32_t *text, int64_t window, const ramet_update_options *o) {
    ramet__mem *mem = variant->rt->mem;
    ramet_session_options so;
    ramet_session *s = NULL;
    uint8_t *want = NULL;
    float *now = NULL;
    const float *logits;
    const ramet__kernels *k = variant->rt->kernels;
    int32_t adapter;
    int64_t vocab = variant->h.n_vocab, windows = out->windows, rows = windows * window, top = RAMET__MIN((int64_t)o->top, vocab);
    ramet_status st;
    ramet_session_options_init(&so, sizeof so);
    so.max_context = so.max_rows = so.max_outputs = (int32_t)window;
    so.max_sequences = 1;
    so.dora = ramet__adapter_is_dora(o->adapter);
    for (int64_t i = 0; i < o->adapter->n; i++) so.max_rank = RAMET__MAX(so.max_rank, o->adapter->lora[i].rank);
    RAMET__TRY(ramet_session_create(&s, variant, &so));
    RAMET__GO(ramet_session_attach(&adapter, s, o->adapter, 1));
    RAMET__NEW(want, ramet__alloc(mem, (size_t)window));
    memset(want, 1, (size_t)window);
    out->rows = rows;
    out->top = top;
    RAMET__NEW(out->ids, ramet__calloc(mem, (size_t)(rows * top), sizeof *out->ids));
    RAMET__NEW(out->birth, ramet__calloc(mem, (size_t)(rows * top), sizeof *out->birth));
    RAMET__NEW(out->change, ramet__calloc(mem, (size_t)(rows * top), sizeof *out->change));
    RAMET__NEW(now, ramet__calloc(mem, (size_t)(window * top), sizeof *now));
    for (int64_t w = 0; w < windows && !st; w++) {
        st = ramet__progress(o->progress, o->progress_user, (double)w / (double)windows, "labelling the probe text");
        if (!st) st = run_window(&logits, s, text + out->which[w] * window, want, window, adapter, o);
        for (int64_t r = 0; r < window && !st; r++) {
            int32_t *ids = out->ids + (w * window + r) * top;
            ramet__top_probabilities(ids, now + r * top, (int32_t)top, logits + r * vocab, vocab, k);
            float lse = k->logsumexp(logits + r * vocab, vocab);
            for (int64_t i = 0; i < top; i++) now[r * top + i] = logits[r * vocab + ids[i]] - lse;
        }
        if (!st) st = run_window(&logits, s, text + out->which[w] * window, want, window, -1, o);
        for (int64_t r = 0; r < window && !st; r++) {
            int64_t at = (w * window + r) * top;
            float lse = k->logsumexp(logits + r * vocab, vocab);
            for (int64_t i = 0; i < top; i++) {
                float birth = logits[r * vocab + out->ids[at + i]] - lse;
                out->birth[at + i] = ramet__f32_to_f16(birth);
                out->change[at + i] = ramet__f32_to_f16(now[r * top + i] - birth);
            }
        }
    }
out:
    ramet__free(now);
    ramet__free(want);
    ramet_session_free(s);
    return st;
}

/* ---- the file ---- */
static ramet_status declare_delta(ramet__st_writer *w, const ramet_adapter *a, ramet__mem *mem, int32_t data) {
    char name[128];
    float *b = NULL;
    ramet_status st = RAMET_OK;
    for (int64_t i = 0; i < a->n; i++) {
        const ramet__lora *l = &a->lora[i];
        int64_t da[2] = {l->rank, l->k}, db[2] = {l->n, l->rank}, nb = l->n * l->rank;
        if (!data) {
            snprintf(name, sizeof name, "delta.%s.a", l->name);
            RAMET__GO(ramet__st_declare(w, name, RAMET__ST_F32, 2, da));
            snprintf(name, sizeof name, "delta.%s.b", l->name);
            RAMET__GO(ramet__st_declare(w, name, RAMET__ST_F32, 2, db));
            continue;
        }
        RAMET__GO(ramet__st_data(w, l->a, (uint64_t)(l->rank * l->k) * sizeof(float)));
        RAMET__NEW(b, ramet__calloc(mem, (size_t)nb, sizeof *b));
        for (int64_t k = 0; k < nb; k++) b[k] = l->b[k] * l->scale; /* the scale goes into b: the change is b.a, nothing else to know */
        RAMET__GO(ramet__st_data(w, b, (uint64_t)nb * sizeof *b));
        ramet__free(b);
        b = NULL;
    }
out:
    ramet__free(b);
    return st;
}

static ramet_status meta_number(ramet__st_writer *w, const char *key, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.9g", value);
    ramet__number_point(text);
    return ramet__st_meta(w, key, text);
}

static ramet_status write_update(const char *path, const ramet_model *variant, const ramet__safetensors *brief, const ramet__lineage *l, const labels *soft, const ramet_update_options *o) {
    ramet__mem *mem = variant->rt->mem;
    ramet__st_writer *w = NULL;
    uint8_t bytes[16];
    char nonce[33];
    int64_t dim[2];
    ramet_status st;
    const char *digest = ramet_model_digest(variant);
    if (!digest) return ramet__alloc_status();
    RAMET__TRY(ramet__entropy(bytes, sizeof bytes));
    ramet__nonce(nonce, bytes);
    RAMET__GO(ramet__st_writer_open(&w, mem, path));
    RAMET__GO(ramet__st_meta(w, "ramet.kind", "update"));
    RAMET__GO(ramet__st_meta(w, "ramet.parent", ramet__safetensors_meta(brief, "ramet.parent")));
    RAMET__GO(ramet__st_meta(w, "ramet.brief", ramet__safetensors_meta(brief, "ramet.nonce")));
    RAMET__GO(ramet__st_meta(w, "ramet.nonce", nonce));
    RAMET__GO(ramet__st_meta(w, "ramet.variant", digest));
    RAMET__GO(ramet__st_meta(w, "ramet.architecture", variant->arch->name));
    RAMET__GO(ramet__st_meta(w, "ramet.task", o->task ? o->task : ""));
    RAMET__GO(ramet__st_meta(w, "ramet.what", o->what == (RAMET_UPDATE_DELTA | RAMET_UPDATE_LOGITS) ? "delta,logits" : o->what == RAMET_UPDATE_LOGITS ? "logits" : "delta"));
    RAMET__GO(meta_number(w, "ramet.examples", (double)o->examples));
    RAMET__GO(meta_number(w, "ramet.loss_before", o->loss_before));
    RAMET__GO(meta_number(w, "ramet.loss_after", o->loss_after));
    RAMET__GO(ramet__st_meta(w, "ramet.steps", l && l->steps ? l->steps : "[]"));
    int32_t n_layer = variant->h.n_layer;
    int64_t n_ff = variant->h.n_ff;
    dim[0] = n_layer;
    dim[1] = n_ff;
    int32_t pruned = l && l->layer, channels = l && l->ff;
    if (pruned) RAMET__GO(ramet__st_declare(w, "lineage.layer", RAMET__ST_I32, 1, dim));
    if (channels) RAMET__GO(ramet__st_declare(w, "lineage.ff", RAMET__ST_I32, 2, dim));
    if (o->what & RAMET_UPDATE_DELTA) RAMET__GO(declare_delta(w, o->adapter, mem, 0));
    if (o->what & RAMET_UPDATE_LOGITS) {
        dim[0] = soft->windows;
        RAMET__GO(ramet__st_declare(w, "probe.which", RAMET__ST_I32, 1, dim));
        dim[0] = soft->rows;
        dim[1] = soft->top;
        RAMET__GO(ramet__st_declare(w, "probe.ids", RAMET__ST_I32, 2, dim));
        RAMET__GO(ramet__st_declare(w, "probe.birth", RAMET__ST_F16, 2, dim));
        RAMET__GO(ramet__st_declare(w, "probe.change", RAMET__ST_F16, 2, dim));
    }
    if (pruned) RAMET__GO(ramet__st_data(w, l->layer, (uint64_t)n_layer * sizeof(int32_t)));
    if (channels) RAMET__GO(ramet__st_data(w, l->ff, (uint64_t)n_layer * (uint64_t)n_ff * sizeof(int32_t)));
    if (o->what & RAMET_UPDATE_DELTA) RAMET__GO(declare_delta(w, o->adapter, mem, 1));
    if (o->what & RAMET_UPDATE_LOGITS) {
        uint64_t n = (uint64_t)soft->rows * (uint64_t)soft->top;
        RAMET__GO(ramet__st_data(w, soft->which, (uint64_t)soft->windows * sizeof *soft->which));
        RAMET__GO(ramet__st_data(w, soft->ids, n * sizeof *soft->ids));
        RAMET__GO(ramet__st_data(w, soft->birth, n * sizeof *soft->birth));
        RAMET__GO(ramet__st_data(w, soft->change, n * sizeof *soft->change));
    }
    RAMET__GO(ramet__st_writer_commit(&w));
out:
    ramet__st_writer_drop(&w);
    return st;
}

static ramet_status open_brief(ramet__safetensors **out, ramet__mem *mem, const char *path) {
    ramet_source source;
    ramet__reader *reader = NULL;
    ramet__safetensors *b = NULL;
    ramet_status st;
    ramet_source_from_path(&source, sizeof source, path);
    source.untrusted = 1;
    RAMET__TRY(ramet__reader_open(&reader, mem, &source));
    RAMET__GO(ramet__safetensors_open(&b, mem, reader));
    const char *kind = ramet__safetensors_meta(b, "ramet.kind"), *parent = ramet__safetensors_meta(b, "ramet.parent"), *nonce = ramet__safetensors_meta(b, "ramet.nonce");
    if (!kind || strcmp(kind, "brief") || !parent || strlen(parent) != 64 || !nonce || strlen(nonce) != 32) {
        st = ramet__fail(RAMET_E_FORMAT, "%s: is not a brief (ramet brief makes one)", path);
        goto out;
    }
    *out = b;
    b = NULL;
out:
    ramet__safetensors_free(b);
    ramet__reader_free(reader);
    return st;
}

/* The line of `topics` that is `task`; -1: none. */
static int32_t find_topic(const char *topics, const char *task) {
    const size_t n = task ? strlen(task) : 0;
    if (!n || !topics) return -1;
    for (int32_t t = 0; topics; t++) {
        const char *end = strchr(topics, '\n');
        if ((end ? (size_t)(end - topics) : strlen(topics)) == n && !memcmp(topics, task, n)) return t;
        topics = end ? end + 1 : NULL;
    }
    return -1;
}

/* The probe text, and in l the windows that are this task's to label. */
static ramet_status probe_text(int32_t **ids, int64_t *window, labels *l, const ramet__safetensors *brief, const ramet_model *variant, const char *task, const char *path) {
    const ramet__st_tensor *t = ramet__safetensors_find(brief, "probe.text"), *tt = ramet__safetensors_find(brief, "probe.topic");
    const int32_t wanted = find_topic(ramet__safetensors_meta(brief, "ramet.topics"), task);
    ramet_status st;
    int32_t *text = NULL, *topic = NULL;
    if (!t) return ramet__fail(RAMET_E_ARGUMENT, "%s: has no probe inputs, so there is nothing to label; send delta, or ask for a brief with probe text", path);
    if (t->dtype != RAMET__ST_I32 || t->rank != 2 || t->dim[0] < 1 || t->dim[1] < 2 || t->dim[1] > variant->h.n_ctx)
        return ramet__fail(RAMET_E_FORMAT, "%s: probe.text must be I32 [windows, 2..%lld]", path, (long long)variant->h.n_ctx);
    if (!tt || tt->dtype != RAMET__ST_I32 || tt->rank != 1 || tt->dim[0] != t->dim[0]) return ramet__fail(RAMET_E_FORMAT, "%s: probe.topic must be I32 [%lld]", path, (long long)t->dim[0]);
    RAMET__NEW(text, ramet__alloc(variant->rt->mem, t->bytes));
    RAMET__NEW(topic, ramet__alloc(variant->rt->mem, tt->bytes));
    RAMET__GO(ramet__safetensors_read(brief, t, text, t->bytes));
    RAMET__GO(ramet__safetensors_read(brief, tt, topic, tt->bytes));
    for (int64_t i = 0; i < t->dim[0] * t->dim[1]; i++)
        if (text[i] < 0 || text[i] >= variant->h.n_vocab) { st = ramet__fail(RAMET_E_INCONSISTENT, "%s: probe id %d is outside the vocabulary of %lld", path, text[i], (long long)variant->h.n_vocab); goto out; }
    RAMET__NEW(l->which, ramet__calloc(variant->rt->mem, (size_t)t->dim[0], sizeof *l->which));
    for (int64_t w = 0; w < t->dim[0]; w++)
        if (topic[w] == wanted) l->which[l->windows++] = (int32_t)w;
    if (!l->windows) {
        st = ramet__fail(RAMET_E_ARGUMENT, "%s: has no probe inputs for the task \"%s\"; name one of its topics, send delta, or ask for a brief with probe text", path, task ? task : "");
        goto out;
    }
    *ids = text;
    text = NULL;
    *window = t->dim[1];
out:
    ramet__free(topic);
    ramet__free(text);
    return st;
}

ramet_status ramet_update_create(const char *path, ramet_model *variant, const char *brief_path, const ramet_update_options *options) {
    ramet_update_options o;
    ramet__safetensors *brief = NULL;
    labels soft = {0};
    int32_t *text = NULL;
    int64_t window = 0;
    ramet_status st;
    if (!path || !variant || !brief_path) return ramet__fail(RAMET_E_ARGUMENT, "ramet_update_create: path, variant and brief_path must not be NULL");
    RAMET__TRY(ramet__runtime_check(variant->rt));
    ramet_update_options_init(&o, sizeof o);
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_update_create"));
    if (!o.what || o.what & ~(RAMET_UPDATE_DELTA | RAMET_UPDATE_LOGITS)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_update_create: what %d is not a set of RAMET_UPDATE_*", o.what);
    if (!o.adapter) return ramet__fail(RAMET_E_ARGUMENT, "ramet_update_create: options.adapter is needed: what the variant learned");
    if (o.what & RAMET_UPDATE_DELTA) RAMET__TRY(ramet__adapter_plain(o.adapter, "ramet_update_create"));
    if (o.examples < 1) return ramet__fail(RAMET_E_ARGUMENT, "ramet_update_create: examples must be the number of tokens tuned on, not %lld", (long long)o.examples);
    if (o.top < 1 || o.top > 1024) return ramet__fail(RAMET_E_ARGUMENT, "ramet_update_create: top %d is not in 1..1024", o.top);
    RAMET__TRY(open_brief(&brief, variant->rt->mem, brief_path));
    const ramet__lineage *l = variant->lineage && variant->lineage->parent_digest ? variant->lineage : NULL;
    const char *parent = ramet__safetensors_meta(brief, "ramet.parent"), *own = l ? l->parent_digest : ramet_model_digest(variant);
    if (!own) { st = ramet__alloc_status(); goto out; }
    if (strcmp(own, parent)) {
        st = ramet__fail(RAMET_E_INCONSISTENT, "%s: is of parent %.12s, but %s was born of %.12s; rebase the variant first", brief_path, parent, variant->name, own);
        goto out;
    }
    if (o.what & RAMET_UPDATE_LOGITS) {
        RAMET__GO(probe_text(&text, &window, &soft, brief, variant, o.task, brief_path));
        RAMET__GO(make_labels(&soft, variant, text, window, &o));
    }
    RAMET__GO(write_update(path, variant, brief, l, &soft, &o));
out:
    labels_free(&soft);
    ramet__free(text);
    ramet__safetensors_free(brief);
    return st;
}
