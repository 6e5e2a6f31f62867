/* SPDX-License-Identifier: Apache-2.0 */
/* prune.c - a smaller dense model: whole layers and FFN channels removed by what calibration text says of them.
 *
 * Layers: importance 1 - mean cosine(stream before, stream after) (Men et al., "ShortGPT", 2024). Channels: root mean square of
 * the activation entering ffn_down times the norm of the column of ffn_down that it meets. One pass over the text measures both;
 * another fits what is left of ffn_down to the parent's outputs (refit.c). */
#include "ramet/experimental.h"
#include "shrink/shrink.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ramet_prune_options_init(ramet_prune_options *options, uint32_t struct_size) {
    ramet_prune_options o = {.struct_size = struct_size, .layers = -1, .ffn = -1, .keep = .7};
    ramet__options_init(options, struct_size, &o, sizeof o);
}

/* ---- what the calibration text says ---- */
typedef struct measure {
    const ramet__hparams *h;
    float *in;       /* [window, n_embd]: the stream before the layer being measured */
    double *cosine;  /* [n_layer] sums over rows */
    double *act;     /* [n_layer, n_ff] sums of squares */
    int64_t rows;
    ramet_status status;
} measure;

static int32_t read_tap(const char *name, const float *values, int64_t rows, int64_t cols, void *user) {
    measure *c = user;
    int layer = 0, n = 0;
    if (sscanf(name, "blk.%d.%n", &layer, &n) != 1 || layer < 0 || layer >= c->h->n_layer) return 0;
    const char *what = name + n;
    if (!strcmp(what, "in")) memcpy(c->in, values, (size_t)rows * (size_t)cols * sizeof *values);
    else if (!strcmp(what, "out")) {
        for (int64_t r = 0; r < rows; r++) {
            const float *a = c->in + r * cols, *b = values + r * cols;
            double ab = 0, aa = 0, bb = 0;
            for (int64_t i = 0; i < cols; i++) { ab += (double)a[i] * b[i]; aa += (double)a[i] * a[i]; bb += (double)b[i] * b[i]; }
            c->cosine[layer] += aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 1;
        }
    } else if (!strcmp(what, "ffn_act")) {
        double *sum = c->act + (int64_t)layer * c->h->n_ff;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < cols; i++) sum[i] += (double)values[r * cols + i] * values[r * cols + i];
    }
    return 0;
}

static ramet_status measure_all(measure *c, ramet_model *model, const ramet__calibration *text) {
    ramet__mem *mem = model->rt->mem;
    ramet_status st = RAMET_OK;
    c->h = &model->h;
    RAMET__NEW(c->in, ramet__calloc(mem, (size_t)text->window * (size_t)model->h.n_embd, sizeof(float)));
    RAMET__NEW(c->cosine, ramet__calloc(mem, (size_t)model->h.n_layer, sizeof(double)));
    RAMET__NEW(c->act, ramet__calloc(mem, (size_t)model->h.n_layer * (size_t)model->h.n_ff, sizeof(double)));
    for (int64_t at = 0; at < text->count; at += text->window) {
        int64_t n = RAMET__MIN((int64_t)text->window, text->count - at);
        RAMET__GO(ramet__progress(text->progress, text->progress_user, (double)at / (double)text->count, "measuring layers and channels"));
        RAMET__GO(ramet_model_tap(model, text->ids + at, n, "blk.", RAMET_MODE_BALANCED, read_tap, c));
        c->rows += n;
    }
out:
    return st;
}

/* ---- which stay ---- */
typedef struct ranked { double score; int32_t index; } ranked;
static int by_score(const void *a, const void *b) { /* best first; equal scores by index so that the choice is the same everywhere */
    const ranked *x = a, *y = b;
    return x->score < y->score ? 1 : x->score > y->score ? -1 : x->index - y->index;
}
static int by_index(const void *a, const void *b) { return *(const int32_t *)a - *(const int32_t *)b; }

static void keep_best(int32_t *kept, int64_t n_keep, ranked *r, int64_t n) {
    qsort(r, (size_t)n, sizeof *r, by_score);
    for (int64_t i = 0; i < n_keep; i++) kept[i] = r[i].index;
    qsort(kept, (size_t)n_keep, sizeof *kept, by_index);
}

static ramet_status column_norms(double *norm, const ramet_model *model, int32_t layer) {
    char name[64];
    ramet_status st = RAMET_OK;
    float *row = NULL;
    snprintf(name, sizeof name, "blk.%d.ffn_down.weight", layer);
    const ramet__weight *w = ramet__model_weight(model, name);
    if (!w) return ramet__fail(RAMET_E_UNSUPPORTED, "%s: architecture %s has no %s, so its FFN channels cannot be ranked", model->name, model->arch->name, name);
    int64_t rows = ramet__shape_rows(ramet__weight_shape(w)), cols = ramet__shape_cols(ramet__weight_shape(w));
    RAMET__NEW(row, ramet__calloc(model->rt->mem, (size_t)cols, sizeof *row));
    memset(norm, 0, (size_t)cols * sizeof *norm);
    for (int64_t r = 0; r < rows; r++) {
        ramet__weight_decode(row, w, r, r + 1);
        for (int64_t c = 0; c < cols; c++) norm[c] += (double)row[c] * row[c];
    }
    for (int64_t c = 0; c < cols; c++) norm[c] = sqrt(norm[c]);
out:
    ramet__free(row);
    return st;
}

/* Turn `keep` (a fraction of the layers' parameters) into channels, while half of them stay, and layers beyond that: channels fitted again cost far less
 * than layers do (SmolLM2-135M without a third of its layers' parameters, loss on general text: 4.2 by channels, 4.6 by both). */
static void split_keep(int32_t *drop_layers, int64_t *drop_ff, const ramet_model *m, double keep) {
    double attn = 0, ffn = 0;
    for (int64_t i = 0; i < m->n_weights; i++) {
        int32_t layer;
        const ramet__weight_spec *s = ramet__model_spec(m, ramet__weight_name(m->weights[i]), &layer);
        if (!s || layer) continue; /* count layer 0 */
        double n = (double)ramet__shape_count(ramet__weight_shape(m->weights[i]));
        if (s->rows == RAMET__DIM_FF || s->cols == RAMET__DIM_FF) ffn += n;
        else if (strchr(s->name, '%')) attn += n;
    }
    int32_t layers = (int32_t)lround(RAMET__MIN(keep * (attn + ffn) / (attn + ffn / 2), 1) * m->h.n_layer);
    if (layers < 1) layers = 1;
    double rest = keep * m->h.n_layer / layers; /* fraction of each kept layer */
    double f = ffn > 0 ? (rest * (attn + ffn) - attn) / ffn : 1;
    int64_t ff = (int64_t)llround(f * (double)m->h.n_ff / 32) * 32;
    *drop_layers = m->h.n_layer - layers;
    *drop_ff = m->h.n_ff - RAMET__MAX(RAMET__MIN(ff, m->h.n_ff), RAMET__MIN(32, m->h.n_ff));
}

static ramet__enc own_encoding(const char *name, const ramet__weight *source, void *user) {
    (void)name; (void)user;
    return ramet__weight_enc(source);
}

static ramet_status check(const ramet_prune_options *o, const ramet_model *m, const int32_t *layers, const int64_t *ff) {
    if (!(o->keep > 0 && o->keep <= 1)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_prune: keep %g is not in (0, 1]", o->keep);
    if (*layers < 0 || *layers >= m->h.n_layer) return ramet__fail(RAMET_E_ARGUMENT, "ramet_prune: %d of %d layers cannot be removed", *layers, m->h.n_layer);
    if (*ff < 0 || *ff >= m->h.n_ff) return ramet__fail(RAMET_E_ARGUMENT, "ramet_prune: %lld of %lld channels cannot be removed", (long long)*ff, (long long)m->h.n_ff);
    if (*ff % 32) return ramet__fail(RAMET_E_ARGUMENT, "ramet_prune: channels are removed in multiples of 32, not %lld", (long long)*ff);
    if (!*layers && !*ff) return ramet__fail(RAMET_E_ARGUMENT, "ramet_prune: nothing to remove (layers, ffn or keep)");
    return RAMET_OK;
}

ramet_status ramet_prune(ramet_model **out, ramet_model *model, const ramet_prune_options *options) {
    ramet_prune_options o;
    measure c = {0};
    ramet__lineage *map = NULL, *record = NULL;
    ranked *rank = NULL;
    double *norm = NULL;
    int32_t *layer = NULL, *ff = NULL;
    char *step = NULL;
    ramet_status st;
    if (!out || !model) return ramet__fail(RAMET_E_ARGUMENT, "ramet_prune: out and model must not be NULL");
    RAMET__TRY(ramet__runtime_check(model->rt));
    ramet_prune_options_init(&o, sizeof o);
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_prune"));
    ramet__calibration text = {o.ids, o.count, o.window, o.progress, o.progress_user};
    RAMET__TRY(ramet__calibration_check(&text, model, "ramet_prune"));
    int32_t drop_layers = RAMET__MAX(o.layers, 0);
    int64_t drop_ff = RAMET__MAX(o.ffn, 0);
    if (o.layers < 0 && o.ffn < 0 && o.keep > 0 && o.keep <= 1) split_keep(&drop_layers, &drop_ff, model, o.keep);
    RAMET__TRY(check(&o, model, &drop_layers, &drop_ff));

    const ramet__hparams *h = &model->h;
    ramet__mem *mem = model->rt->mem;
    int32_t n_layer = h->n_layer - drop_layers;
    int64_t n_ff = h->n_ff - drop_ff;
    RAMET__GO(measure_all(&c, model, &text));
    RAMET__NEW(rank, ramet__calloc(mem, (size_t)RAMET__MAX((int64_t)h->n_layer, h->n_ff), sizeof *rank));
    RAMET__NEW(norm, ramet__calloc(mem, (size_t)h->n_ff, sizeof *norm));
    RAMET__NEW(layer, ramet__calloc(mem, (size_t)n_layer, sizeof *layer));
    for (int32_t i = 0; i < h->n_layer; i++) {
        double score = 1 - c.cosine[i] / (double)c.rows;
        if (!isfinite(score)) { st = ramet__fail(RAMET_E_NUMERIC, "%s: layer %d gives NaN or infinity on the calibration text", model->name, i); goto out; }
        rank[i] = (ranked){score, i};
    }
    keep_best(layer, n_layer, rank, h->n_layer);
    if (drop_ff) {
        RAMET__NEW(ff, ramet__calloc(mem, (size_t)n_layer * (size_t)n_ff, sizeof *ff));
        for (int32_t i = 0; i < n_layer; i++) {
            RAMET__GO(column_norms(norm, model, layer[i]));
            for (int64_t k = 0; k < h->n_ff; k++) rank[k] = (ranked){sqrt(c.act[layer[i] * h->n_ff + k]) * norm[k], (int32_t)k};
            keep_best(ff + i * n_ff, n_ff, rank, h->n_ff);
        }
    }
    RAMET__NEW(step, ramet__format(mem, "{\"step\":\"prune\",\"layers\":%d,\"ffn\":%lld,\"calibration_tokens\":%lld}", drop_layers, (long long)drop_ff, (long long)c.rows));
    RAMET__GO(ramet__lineage_child(&map, &record, model, n_layer, layer, n_ff, ff, step));
    RAMET__GO(ramet__lineage_apply(out, model, map, record, own_encoding, NULL, &text));
    record = NULL;
out:
    ramet__lineage_free(map);
    ramet__lineage_free(record);
    ramet__free(step); ramet__free(ff); ramet__free(layer); ramet__free(norm); ramet__free(rank);
    ramet__free(c.in); ramet__free(c.cosine); ramet__free(c.act);
    return st;
}
