/* SPDX-License-Identifier: Apache-2.0 */
/* absorb.c - an update opened beside the parent, and every check that needs no method: kind, parent known, nonce new, finite
 * numbers, shapes that fit, norm in bounds. Nothing is computed before all of them passed. */
#include "feedback/feedback.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RELATIVE_NORM 1.0 /* a change as large as the weight it changes is not an adaptation */
#define MAX_EXAMPLES 1000000000000.0

static ramet_status refuse(const ramet__update *u, const char *why) { return ramet__fail(RAMET_E_REFUSED, "%s: refused: %s", u->path, why); }

static ramet_status read_text(const char **out, const ramet__update *u, const char *key) {
    *out = ramet__safetensors_meta(u->file, key);
    return *out ? RAMET_OK : ramet__fail(RAMET_E_FORMAT, "%s: metadata %s is missing; is this an update?", u->path, key);
}

static ramet_status read_number(double *out, const ramet__update *u, const char *key) {
    const char *text;
    char *end;
    RAMET__TRY(read_text(&text, u, key));
    *out = ramet__number(text, &end);
    if (end == text || *end || !isfinite(*out)) return ramet__fail(RAMET_E_FORMAT, "%s: metadata %s is \"%.32s\", not a number", u->path, key, text);
    return RAMET_OK;
}

static ramet_status read_lineage(ramet__update *u, const ramet_model *parent) {
    const ramet__st_tensor *layer = ramet__safetensors_find(u->file, "lineage.layer"), *ff = ramet__safetensors_find(u->file, "lineage.ff");
    ramet__mem *mem = parent->rt->mem;
    if (!layer) {
        if (ff) return ramet__fail(RAMET_E_INCONSISTENT, "%s: lineage.ff without lineage.layer", u->path);
        RAMET__TRY(ramet__lineage_new(&u->lineage, mem, parent->h.n_layer, parent->h.n_ff, 0));
        for (int32_t i = 0; i < parent->h.n_layer; i++) u->lineage->layer[i] = i;
        return RAMET_OK;
    }
    if (layer->dtype != RAMET__ST_I32 || layer->rank != 1 || layer->dim[0] < 1 || layer->dim[0] > parent->h.n_layer)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: lineage.layer must be I32 [1..%d]", u->path, parent->h.n_layer);
    if (ff && (ff->dtype != RAMET__ST_I32 || ff->rank != 2 || ff->dim[0] != layer->dim[0] || ff->dim[1] < 1 || ff->dim[1] > parent->h.n_ff))
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: lineage.ff must be I32 [%lld, 1..%lld]", u->path, (long long)layer->dim[0], (long long)parent->h.n_ff);
    RAMET__TRY(ramet__lineage_new(&u->lineage, mem, (int32_t)layer->dim[0], ff ? ff->dim[1] : parent->h.n_ff, ff != NULL));
    RAMET__TRY(ramet__safetensors_read(u->file, layer, u->lineage->layer, layer->bytes));
    if (ff) RAMET__TRY(ramet__safetensors_read(u->file, ff, u->lineage->ff, ff->bytes));
    return RAMET_OK; /* ramet__lift checks the numbers against the parent */
}

static ramet_status read_matrix(float *dst, const ramet__update *u, const ramet__st_tensor *t) {
    RAMET__TRY(ramet__safetensors_read(u->file, t, dst, t->bytes));
    for (int64_t i = 0; i < t->dim[0] * t->dim[1]; i++)
        if (!isfinite(dst[i])) return ramet__fail(RAMET_E_REFUSED, "%s: refused: %s holds NaN or infinity at element %lld", u->path, t->name, (long long)i);
    return RAMET_OK;
}

static int32_t is_delta_a(const char *name) {
    size_t len = strlen(name);
    return !strncmp(name, "delta.", 6) && len > 8 && !strcmp(name + len - 2, ".a");
}

static int32_t is_matrix(const ramet__st_tensor *t) { return t->dtype == RAMET__ST_F32 && t->rank == 2 && t->dim[0] > 0 && t->dim[1] > 0; }

/* One pair delta.<weight>.a, .b: shapes are checked against what the lineage says of the variant before anything is allocated. */
static ramet_status read_pair(ramet_adapter *a, const ramet__update *u, const ramet__st_tensor *ta, const ramet_model *parent) {
    char name[RAMET__NAME_MAX], other[RAMET__NAME_MAX + 16];
    size_t len = strlen(ta->name) - 8;
    if (len >= sizeof name) return ramet__fail(RAMET_E_REFUSED, "%s: refused: %.64s... is no matrix of this family", u->path, ta->name);
    memcpy(name, ta->name + 6, len);
    name[len] = 0;
    snprintf(other, sizeof other, "delta.%s.b", name);
    const ramet__st_tensor *tb = ramet__safetensors_find(u->file, other);
    if (!tb) return ramet__fail(RAMET_E_INCONSISTENT, "%s: %s without %s", u->path, ta->name, other);
    if (!is_matrix(ta) || !is_matrix(tb)) return ramet__fail(RAMET_E_INCONSISTENT, "%s: %s and %s must be F32 matrices", u->path, ta->name, other);
    if (ta->dim[0] != tb->dim[1] || ta->dim[0] > 4096)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: %s has rank %lld, %s %lld", u->path, ta->name, (long long)ta->dim[0], other, (long long)tb->dim[1]);
    int32_t layer;
    const ramet__weight_spec *spec = ramet__model_spec(parent, name, &layer);
    if (!spec || spec->rows == RAMET__DIM_ONE || layer >= u->lineage->n_layer) return ramet__fail(RAMET_E_REFUSED, "%s: refused: %s is no matrix of the variant", u->path, name);
    ramet__hparams own = parent->h; /* the variant's sizes */
    own.n_ff = u->lineage->n_ff;
    int64_t n = ramet__dim_size(&own, spec->rows), k = ramet__dim_size(&own, spec->cols);
    if (tb->dim[0] != n || ta->dim[1] != k)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: the change of %s is %lldx%lld, the variant's weight %lldx%lld", u->path, name, (long long)tb->dim[0], (long long)ta->dim[1], (long long)n, (long long)k);
    RAMET__TRY(ramet__adapter_add(a, name, n, k, ta->dim[0], 1));
    RAMET__TRY(read_matrix(a->lora[a->n - 1].a, u, ta));
    return read_matrix(a->lora[a->n - 1].b, u, tb);
}

/* The low-rank differences, in the variant's own shape. */
static ramet_status read_delta(ramet_adapter **out, const ramet__update *u, const ramet_model *parent) {
    ramet_adapter *a = NULL;
    int64_t n = 0;
    ramet_status st;
    for (int64_t i = 0; i < u->file->n_tensors; i++) n += is_delta_a(u->file->tensors[i].name);
    if (!n) return ramet__fail(RAMET_E_FORMAT, "%s: says it carries differences, but has no delta tensors", u->path);
    RAMET__TRY(ramet__adapter_alloc(&a, parent->rt, parent, parent->arch->name, 1, n));
    for (int64_t i = 0; i < u->file->n_tensors; i++)
        if (is_delta_a(u->file->tensors[i].name)) RAMET__GO(read_pair(a, u, &u->file->tensors[i], parent));
    *out = a;
    return RAMET_OK;
out:
    ramet_adapter_free(a);
    return st;
}

/* |B.A|^2 without forming it: sum over (i,j) of (A A^T)ij (B^T B)ij. */
static double product_norm2(const ramet__lora *l) {
    double sum = 0;
    for (int32_t i = 0; i < l->rank; i++)
        for (int32_t j = 0; j < l->rank; j++) {
            double aa = 0, bb = 0;
            for (int64_t k = 0; k < l->k; k++) aa += (double)l->a[i * l->k + k] * l->a[j * l->k + k];
            for (int64_t k = 0; k < l->n; k++) bb += (double)l->b[k * l->rank + i] * l->b[k * l->rank + j];
            sum += aa * bb;
        }
    return sum > 0 ? sum : 0;
}

static ramet_status check_norm(ramet__update *u, const ramet_model *parent) {
    double total = 0;
    float *row = ramet__calloc(parent->rt->mem, (size_t)RAMET__MAX(parent->h.n_embd, RAMET__MAX(parent->h.n_ff, (int64_t)parent->h.n_head * parent->h.head_dim)), sizeof *row);
    if (!row) return ramet__alloc_status();
    ramet_status st = RAMET_OK;
    for (int64_t i = 0; i < u->delta->n && !st; i++) {
        const ramet__lora *l = &u->delta->lora[i];
        const ramet__weight *w = ramet__model_weight(parent, l->name);
        double change = product_norm2(l), own = 0;
        for (int64_t r = 0; r < l->n; r++) {
            ramet__weight_decode(row, w, r, r + 1);
            for (int64_t k = 0; k < l->k; k++) own += (double)row[k] * row[k];
        }
        total += change;
        if (sqrt(change) > MAX_RELATIVE_NORM * sqrt(own))
            st = ramet__fail(RAMET_E_REFUSED, "%s: refused: its change of %s has norm %.3g, more than the weight's own %.3g", u->path, l->name, sqrt(change), sqrt(own));
    }
    u->norm = sqrt(total);
    ramet__free(row);
    return st;
}

static ramet_status digest_file(char hex[65], ramet__reader *reader) {
    ramet__sha256 sha;
    uint8_t part[4096];
    ramet__sha256_init(&sha);
    for (uint64_t at = 0, size = ramet__reader_size(reader); at < size; at += sizeof part) {
        uint64_t n = RAMET__MIN((uint64_t)sizeof part, size - at);
        RAMET__TRY(ramet__reader_read(reader, part, at, n));
        ramet__sha256_add(&sha, part, n);
    }
    ramet__sha256_hex(&sha, hex);
    return RAMET_OK;
}

static uint32_t parse_what(const char *text) {
    if (!strcmp(text, "delta")) return RAMET_UPDATE_DELTA;
    if (!strcmp(text, "logits")) return RAMET_UPDATE_LOGITS;
    return !strcmp(text, "delta,logits") ? RAMET_UPDATE_DELTA | RAMET_UPDATE_LOGITS : 0;
}

ramet_status ramet__update_open(ramet__update *u, ramet_store *s, const char *path) {
    ramet_source source;
    ramet__reader *reader = NULL;
    ramet_adapter *own = NULL;
    ramet_model *parent;
    const char *kind, *what, *arch;
    double examples;
    ramet_status st;
    *u = (ramet__update){0};
    ramet_source_from_path(&source, sizeof source, path);
    source.untrusted = 1; /* it comes from elsewhere */
    RAMET__NEW(u->path, ramet__strdup(s->rt->mem, path));
    RAMET__GO(ramet__reader_open(&reader, s->rt->mem, &source));
    RAMET__GO(digest_file(u->digest, reader));
    RAMET__GO(ramet__safetensors_open(&u->file, s->rt->mem, reader));
    RAMET__GO(read_text(&kind, u, "ramet.kind"));
    if (strcmp(kind, "update")) { st = ramet__fail(RAMET_E_FORMAT, "%s: is a %.32s, not an update", path, kind); goto out; }
    RAMET__GO(read_text(&u->nonce, u, "ramet.nonce"));
    if (ramet__store_absorbed(s, u->nonce)) { st = refuse(u, "it was absorbed before"); goto out; }
    RAMET__GO(read_text(&u->parent, u, "ramet.parent"));
    u->gap = ramet__store_gap(s, u->parent);
    if (u->gap < 0) { st = refuse(u, "its parent is not HEAD or an ancestor of HEAD"); goto out; }
    RAMET__GO(read_text(&u->brief, u, "ramet.brief"));
    RAMET__GO(read_text(&u->task, u, "ramet.task"));
    RAMET__GO(read_text(&what, u, "ramet.what"));
    if (!(u->what = parse_what(what))) { st = ramet__fail(RAMET_E_UNSUPPORTED, "%s: carries \"%.32s\", which this build does not know", path, what); goto out; }
    RAMET__GO(read_number(&examples, u, "ramet.examples"));
    if (!(examples >= 1 && examples <= MAX_EXAMPLES)) { st = refuse(u, "the number of examples is not in 1..10^12"); goto out; }
    u->examples = (int64_t)examples;
    RAMET__GO(read_number(&u->loss_before, u, "ramet.loss_before"));
    RAMET__GO(read_number(&u->loss_after, u, "ramet.loss_after"));
    RAMET__GO(ramet__store_model(&parent, s));
    RAMET__GO(read_text(&arch, u, "ramet.architecture"));
    if (strcmp(arch, parent->arch->name)) { st = ramet__fail(RAMET_E_INCONSISTENT, "%s: is of a %.32s model, the parent is a %s", path, arch, parent->arch->name); goto out; }
    RAMET__GO(read_lineage(u, parent));
    if (u->what & RAMET_UPDATE_DELTA) {
        RAMET__GO(read_delta(&own, u, parent));
        RAMET__GO(ramet__lift(&u->delta, own, u->lineage, path, parent));
        RAMET__GO(check_norm(u, parent));
    }
out:
    ramet_adapter_free(own);
    ramet__reader_free(reader);
    if (st) ramet__update_close(u);
    return st;
}

void ramet__update_close(ramet__update *u) {
    ramet_adapter_free(u->delta);
    ramet__lineage_free(u->lineage);
    ramet__safetensors_free(u->file);
    ramet__free(u->path);
    *u = (ramet__update){0};
}

/* ---- soft labels ---- */
static ramet_status read_half(float **out, const ramet__update *u, const char *name, int64_t rows, int64_t top, ramet__mem *mem) {
    const ramet__st_tensor *t = ramet__safetensors_find(u->file, name);
    uint16_t *half = NULL;
    ramet_status st;
    if (!t || t->dtype != RAMET__ST_F16 || t->rank != 2 || t->dim[0] != rows || t->dim[1] != top)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: %s must be F16 [%lld, %lld]", u->path, name, (long long)rows, (long long)top);
    RAMET__NEW(half, ramet__alloc(mem, t->bytes));
    RAMET__GO(ramet__safetensors_read(u->file, t, half, t->bytes));
    RAMET__NEW(*out, ramet__calloc(mem, (size_t)(rows * top), sizeof **out));
    for (int64_t i = 0; i < rows * top; i++) {
        (*out)[i] = ramet__f16_to_f32(half[i]);
        if (!isfinite((*out)[i])) { st = ramet__fail(RAMET_E_REFUSED, "%s: refused: %s holds NaN or infinity at element %lld", u->path, name, (long long)i); goto out; }
    }
out:
    ramet__free(half);
    return st;
}

ramet_status ramet__update_probe(ramet__probe *out, const ramet__update *u, ramet_store *s) {
    ramet__mem *mem = s->rt->mem;
    char *path = NULL;
    ramet_source source;
    ramet__reader *reader = NULL;
    ramet__safetensors *brief = NULL;
    ramet__probe p = {0};
    ramet_model *parent;
    ramet_status st;
    const ramet__st_tensor *ids = ramet__safetensors_find(u->file, "probe.ids"), *which = ramet__safetensors_find(u->file, "probe.which");
    if (strlen(u->brief) != 32 || strspn(u->brief, "0123456789abcdef") != 32) return refuse(u, "its brief's nonce is malformed"); /* it becomes a file name */
    RAMET__NEW(path, ramet__store_path(s, "briefs/%s.safetensors", u->brief));
    if (!ramet__path_kind(path)) { st = refuse(u, "this store sent no such brief"); goto out; }
    ramet_source_from_path(&source, sizeof source, path);
    RAMET__GO(ramet__reader_open(&reader, mem, &source));
    RAMET__GO(ramet__safetensors_open(&brief, mem, reader));
    RAMET__GO(ramet__store_model(&parent, s));
    const ramet__st_tensor *text = ramet__safetensors_find(brief, "probe.text"), *topic = ramet__safetensors_find(brief, "probe.topic");
    if (!text || text->dtype != RAMET__ST_I32 || text->rank != 2 || !topic || topic->dtype != RAMET__ST_I32 || topic->rank != 1 || topic->dim[0] != text->dim[0]) { st = ramet__fail(RAMET_E_INCONSISTENT, "%s: the brief has no probe inputs", path); goto out; }
    p.windows = text->dim[0];
    p.window = text->dim[1];
    if (!which || which->dtype != RAMET__ST_I32 || which->rank != 1 || which->dim[0] < 1 || which->dim[0] > p.windows) {
        st = ramet__fail(RAMET_E_INCONSISTENT, "%s: probe.which must be I32 [1..%lld]", u->path, (long long)p.windows);
        goto out;
    }
    p.labelled = which->dim[0];
    if (!ids || ids->dtype != RAMET__ST_I32 || ids->rank != 2 || ids->dim[0] != p.labelled * p.window || ids->dim[1] < 1 || ids->dim[1] > 1024) {
        st = ramet__fail(RAMET_E_INCONSISTENT, "%s: probe.ids must be I32 [%lld, 1..1024]", u->path, (long long)(p.labelled * p.window));
        goto out;
    }
    p.top = ids->dim[1];
    RAMET__NEW(p.text, ramet__alloc(mem, text->bytes));
    RAMET__GO(ramet__safetensors_read(brief, text, p.text, text->bytes));
    RAMET__NEW(p.topic, ramet__alloc(mem, topic->bytes));
    RAMET__GO(ramet__safetensors_read(brief, topic, p.topic, topic->bytes));
    RAMET__NEW(p.which, ramet__alloc(mem, which->bytes));
    RAMET__GO(ramet__safetensors_read(u->file, which, p.which, which->bytes));
    for (int64_t i = 0; i < p.labelled; i++)
        if (p.which[i] < (i ? p.which[i - 1] + 1 : 0) || p.which[i] >= p.windows) { st = refuse(u, "probe.which is not a rising list of the brief's windows"); goto out; }
    for (int64_t i = 0; i < p.labelled; i++) /* a variant speaks of its own topic, and of no other's */
        if (p.topic[p.which[i]] != p.topic[p.which[0]]) { st = refuse(u, "it labels windows of more than one topic"); goto out; }
    RAMET__NEW(p.ids, ramet__alloc(mem, ids->bytes));
    RAMET__GO(ramet__safetensors_read(u->file, ids, p.ids, ids->bytes));
    for (int64_t i = 0; i < ids->dim[0] * p.top; i++)
        if (p.ids[i] < 0 || p.ids[i] >= parent->h.n_vocab) { st = refuse(u, "a probe class is outside the vocabulary"); goto out; }
    RAMET__GO(read_half(&p.birth, u, "probe.birth", ids->dim[0], p.top, mem));
    RAMET__GO(read_half(&p.change, u, "probe.change", ids->dim[0], p.top, mem));
    *out = p;
    p = (ramet__probe){0};
out:
    ramet__probe_free(&p);
    ramet__safetensors_free(brief);
    ramet__reader_free(reader);
    ramet__free(path);
    return st;
}

void ramet__probe_free(ramet__probe *p) {
    ramet__free(p->text);
    ramet__free(p->topic);
    ramet__free(p->which);
    ramet__free(p->ids);
    ramet__free(p->birth);
    ramet__free(p->change);
    *p = (ramet__probe){0};
}
