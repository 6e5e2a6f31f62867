/* SPDX-License-Identifier: Apache-2.0 */
/* result.c - what a tuner has learned so far, as an adapter or as a model of its own. */
#include <string.h>
#include "train/train.h"

static ramet_status usable(const ramet_tuner *t, const void *out, const char *function, int32_t full) {
    if (!t || !out) return ramet__fail(RAMET_E_ARGUMENT, "%s: %s is NULL", function, t ? "out" : "tuner");
    RAMET__TRY(ramet__runtime_check(t->rt));
    if (t->broken) return ramet__fail(RAMET_E_STATE, "%s: an earlier resume was cut short; resume again", function);
    if (t->o.full != full)
        return ramet__fail(RAMET_E_STATE, "%s: this tuner makes %s", function,
                           full ? "an adapter; use ramet_tuner_adapter" : "a model; use ramet_tuner_model");
    return RAMET_OK;
}

const ramet__section *ramet__tuner_now(const ramet_tuner *t) {
    return &t->params.section[ramet__tuner_averaged(t) > 0 ? RAMET__AVERAGE : RAMET__VALUE];
}

const ramet__section *ramet__tuner_given(const ramet_tuner *t) {
    return t->evaluations ? &t->params.section[RAMET__BEST] : ramet__tuner_now(t);
}

ramet_status ramet_tuner_adapter(ramet_adapter **out, ramet_tuner *t) {
    RAMET__TRY(usable(t, out, "ramet_tuner_adapter", 0));
    return ramet__tuner_adapter(out, t, ramet__tuner_given(t));
}

ramet_status ramet__tuner_adapter(ramet_adapter **out, const ramet_tuner *t, const ramet__section *from) {
    ramet_status st = RAMET_OK;
    ramet_adapter *a = NULL;
    const char *digest = ramet_model_digest(t->model);
    if (!digest) return ramet__fail(RAMET_E_INTERNAL, "ramet_tuner_adapter: the model has no digest");
    RAMET__TRY(ramet__adapter_alloc(&a, t->rt, t->model, t->model->arch->name, t->o.alpha, t->n_targets));
    memcpy(a->base_digest, digest, sizeof a->base_digest);
    for (int64_t i = 0; i < t->n_targets; i++) {
        const ramet__tuner_target *x = &t->target[i];
        const ramet__param *pa = &t->params.param[t->each * i], *pb = pa + 1;
        RAMET__GO(ramet__adapter_add(a, x->name, x->n, x->k, t->rank, x->scale));
        memcpy(a->lora[i].a, ramet__section_at(from, pa->offset), (size_t)pa->count * sizeof(float));
        memcpy(a->lora[i].b, ramet__section_at(from, pb->offset), (size_t)pb->count * sizeof(float));
        if (t->each < 3) continue;
        RAMET__NEW(a->lora[i].m, ramet__alloc(t->rt->mem, (size_t)x->n * sizeof(float)));
        memcpy(a->lora[i].m, ramet__section_at(from, pb[1].offset), (size_t)x->n * sizeof(float));
    }
    *out = a;
    a = NULL;
out:
    ramet_adapter_free(a);
    return st;
}

/* ---- full: a model ---- */

typedef struct encode_work { const ramet__encoding *e; const float *src; char *dst; int64_t rows, cols; } encode_work;
#define ENCODE_ROWS 64

static ramet_status encode_rows(void *context, int64_t piece, int32_t worker) {
    const encode_work *w = context;
    const int64_t r0 = piece * ENCODE_ROWS, n = RAMET__MIN(ENCODE_ROWS, w->rows - r0) * w->cols;
    (void)worker;
    w->e->encode(w->dst + ramet__encoded_bytes(w->e, r0 * w->cols), w->src + r0 * w->cols, n);
    return RAMET_OK;
}

ramet_status ramet__weight_encode(ramet__weight **out, ramet_runtime *rt, const char *name, const ramet__shape *shape, const float *values, ramet__enc enc) {
    const int64_t cols = ramet__shape_cols(shape);
    if (shape->rank < 2 || cols % ramet__encoding_get(enc)->block) enc = RAMET__ENC_F32;
    ramet__weight *w = NULL;
    RAMET__TRY(ramet__weight_new(&w, rt, name, enc, shape));
    encode_work work = {ramet__encoding_get(enc), values, ramet__weight_mutable(w), ramet__shape_rows(shape), cols};
    const ramet_status st = ramet__parallel_for(rt->threads, (work.rows + ENCODE_ROWS - 1) / ENCODE_ROWS, encode_rows, &work, NULL);
    if (st) ramet__weight_free(w);
    else *out = w;
    return st;
}

/* Tuning keeps every shape, so the map to the parent of a variant stays true and its steps grow by one; a model without a past becomes the
 * parent. Either way the step names the model that was tuned. */
static ramet_status lineage_after(ramet__lineage **out, const ramet_tuner *t) {
    ramet_status st = RAMET_OK;
    ramet__mem *mem = t->rt->mem;
    ramet__lineage *l = NULL;
    ramet__text steps = {.mem = mem};
    const char *base = ramet_model_digest(t->model), *old = t->model->lineage && t->model->lineage->steps ? t->model->lineage->steps : "[]";
    const size_t end = strlen(old) - 1; /* at the closing bracket */
    if (!base) return ramet__fail(RAMET_E_INTERNAL, "ramet_tuner_model: the model has no digest");
    if (t->model->lineage) {
        RAMET__GO(ramet__lineage_copy(&l, mem, t->model->lineage));
    } else {
        RAMET__GO(ramet__lineage_new(&l, mem, t->model->h.n_layer, t->model->h.n_ff, 0));
    }
    if (!l->parent_digest) RAMET__NEW(l->parent_digest, ramet__strdup(mem, base));
    if (!l->root_digest) RAMET__NEW(l->root_digest, ramet__strdup(mem, l->parent_digest));
    ramet__text_bytes(&steps, old, end);
    ramet__text_add(&steps,
                    "%s{\"step\":\"tune\",\"base\":\"%s\",\"steps\":%lld,\"tokens\":%lld,\"loss\":%.6g,\"learning_rate\":%.6g%s%s%s}]",
                    strcmp(old, "[]") ? "," : "", base, (long long)t->step, (long long)t->tokens, t->loss, (double)t->o.learning_rate,
                    t->teacher ? ",\"teacher\":\"" : "", t->teacher ? t->teacher_digest : "", t->teacher ? "\"" : "");
    ramet__free(l->steps);
    l->steps = ramet__text_take(&steps);
    if (!l->steps) {
        st = ramet__alloc_status();
        goto out;
    }
    *out = l;
    l = NULL;
out:
    ramet__lineage_free(l);
    ramet__text_free(&steps);
    return st;
}

ramet_status ramet_tuner_model(ramet_model **out, ramet_tuner *t, const char *encoding) {
    ramet__enc enc;
    RAMET__TRY(usable(t, out, "ramet_tuner_model", 1));
    RAMET__TRY(ramet__encoding_named(&enc, encoding ? encoding : "F32", "ramet_tuner_model"));
    return ramet__tuner_model(out, t, enc, ramet__tuner_given(t));
}

ramet_status ramet__tuner_model(ramet_model **out, const ramet_tuner *t, ramet__enc enc, const ramet__section *from) {
    ramet_status st = RAMET_OK;
    ramet__weight **weights = NULL;
    ramet__lineage *lineage = NULL;
    const int64_t n = t->model->n_weights;
    RAMET__NEW(weights, ramet__calloc(t->rt->mem, (size_t)n, sizeof *weights));
    for (int64_t i = 0, j = 0; i < n; i++) { /* the parameters have the order of the weights */
        ramet__weight *w = t->model->weights[i];
        if (j < t->params.n && !strcmp(t->params.param[j].name, ramet__weight_name(w))) {
            const ramet__param *p = &t->params.param[j++];
            RAMET__GO(ramet__weight_encode(&weights[i], t->rt, p->name, &p->shape, ramet__section_at(from, p->offset), enc));
        }
        else weights[i] = ramet__weight_retain(w);
    }
    RAMET__GO(lineage_after(&lineage, t));
    RAMET__GO(ramet__model_derive(out, t->model, &t->model->h, weights, n, lineage));
    lineage = NULL;
out:
    for (int64_t i = 0; weights && i < n; i++) ramet__weight_free(weights[i]);
    ramet__free(weights);
    ramet__lineage_free(lineage);
    return st;
}
