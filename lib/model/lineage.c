/* SPDX-License-Identifier: Apache-2.0 */
/* lineage.c - the variant's record of where its layers and channels come from, kept in the file under "ramet.lineage.*". */
#include "model/internal.h"
#include <string.h>

#define KEY "ramet.lineage."

ramet_status ramet__lineage_new(ramet__lineage **out, ramet__mem *mem, int32_t n_layer, int64_t n_ff, int32_t with_ff) {
    ramet__lineage *l = ramet__calloc(mem, 1, sizeof *l);
    if (!l) return ramet__alloc_status();
    l->n_layer = n_layer;
    l->n_ff = n_ff;
    l->layer = ramet__calloc(mem, (size_t)n_layer, sizeof *l->layer);
    if (with_ff) l->ff = ramet__calloc(mem, (size_t)n_layer * (size_t)n_ff, sizeof *l->ff);
    if (!l->layer || (with_ff && !l->ff)) {
        ramet__lineage_free(l);
        return ramet__alloc_status();
    }
    for (int32_t i = 0; i < n_layer; i++) {
        l->layer[i] = i;
        for (int64_t j = 0; with_ff && j < n_ff; j++) l->ff[i * n_ff + j] = (int32_t)j;
    }
    *out = l;
    return RAMET_OK;
}

void ramet__lineage_free(ramet__lineage *l) {
    if (!l) return;
    ramet__free(l->parent_digest);
    ramet__free(l->root_digest);
    ramet__free(l->layer);
    ramet__free(l->ff);
    ramet__free(l->steps);
    ramet__free(l);
}

/* The steps are put into JSON answers as they are, so they must be JSON. */
static ramet_status check_steps(ramet__mem *mem, const char *steps) {
    ramet__arena arena = {.mem = mem};
    const ramet__json *json;
    ramet_status st = ramet__json_parse(&json, &arena, steps, strlen(steps), NULL);
    if (st) ramet__prefix(st, KEY "steps: ");
    else if (json->type != RAMET__JSON_ARRAY) st = ramet__fail(RAMET_E_FORMAT, KEY "steps is no JSON array");
    ramet__arena_free(&arena);
    return st;
}

static ramet_status set(char **to, ramet__mem *mem, const char *text) {
    if (text && !(*to = ramet__strdup(mem, text))) return ramet__alloc_status();
    return RAMET_OK;
}

ramet_status ramet__lineage_copy(ramet__lineage **out, ramet__mem *mem, const ramet__lineage *l) {
    ramet__lineage *c = NULL;
    ramet_status st;
    if (!l) {
        *out = NULL;
        return RAMET_OK;
    }
    RAMET__GO(ramet__lineage_new(&c, mem, l->n_layer, l->n_ff, l->ff != NULL));
    if (l->layer) memcpy(c->layer, l->layer, (size_t)l->n_layer * sizeof *c->layer);
    if (l->ff) memcpy(c->ff, l->ff, (size_t)l->n_layer * (size_t)l->n_ff * sizeof *c->ff);
    RAMET__GO(set(&c->parent_digest, mem, l->parent_digest));
    RAMET__GO(set(&c->root_digest, mem, l->root_digest));
    RAMET__GO(set(&c->steps, mem, l->steps));
    *out = c;
    return RAMET_OK;
out:
    ramet__lineage_free(c);
    return st;
}

ramet_status ramet__lineage_write(ramet__gguf_writer *w, const ramet__lineage *l) {
    if (l->parent_digest) RAMET__TRY(ramet__gguf_put_text(w, KEY "parent", l->parent_digest, strlen(l->parent_digest)));
    if (l->root_digest) RAMET__TRY(ramet__gguf_put_text(w, KEY "root", l->root_digest, strlen(l->root_digest)));
    if (l->layer) RAMET__TRY(ramet__gguf_put_array(w, KEY "layers", RAMET__GGUF_I32, (uint64_t)l->n_layer, l->layer));
    if (l->ff) RAMET__TRY(ramet__gguf_put_array(w, KEY "ffn", RAMET__GGUF_I32, (uint64_t)l->n_layer * (uint64_t)l->n_ff, l->ff));
    if (l->steps) RAMET__TRY(ramet__gguf_put_text(w, KEY "steps", l->steps, strlen(l->steps)));
    return RAMET_OK;
}

/* A list of numbers, each at least 0 and rising within stretches of `stretch`. */
static ramet_status read_list(int32_t *dst, const ramet__gguf *g, const char *key, int64_t n, int64_t stretch, int32_t *there) {
    const ramet__gguf_value *v = ramet__gguf_find(g, key);
    *there = v != NULL;
    if (!v) return RAMET_OK;
    if (v->type != RAMET__GGUF_ARRAY || v->element != RAMET__GGUF_I32) return ramet__fail(RAMET_E_FORMAT, "%s is not a list of 32-bit integers", key);
    if (v->count != (uint64_t)n) return ramet__fail(RAMET_E_INCONSISTENT, "%s has %llu entries; the model's sizes need %lld", key, (unsigned long long)v->count, (long long)n);
    memcpy(dst, v->v.array, (size_t)n * sizeof *dst);
    for (int64_t i = 0; i < n; i++)
        if (dst[i] < 0 || (i % stretch && dst[i] <= dst[i - 1]))
            return ramet__fail(RAMET_E_INCONSISTENT, "%s: entry %lld is %d; entries must rise from 0 on", key, (long long)i, dst[i]);
    return RAMET_OK;
}

ramet_status ramet__lineage_read(ramet__lineage **out, ramet__mem *mem, const ramet__gguf *g, const ramet__hparams *h) {
    const char *parent, *root, *steps;
    ramet__lineage *l = NULL;
    ramet_status st = RAMET_OK;
    int32_t layers, ffn;
    RAMET__TRY(ramet__gguf_text(&parent, g, KEY "parent", NULL));
    RAMET__TRY(ramet__gguf_text(&root, g, KEY "root", NULL));
    RAMET__TRY(ramet__gguf_text(&steps, g, KEY "steps", NULL));
    if (steps) RAMET__TRY(check_steps(mem, steps));
    const int32_t with_ff = ramet__gguf_find(g, KEY "ffn") != NULL;
    if (!parent && !root && !steps && !with_ff && !ramet__gguf_find(g, KEY "layers")) return RAMET_OK;
    RAMET__GO(ramet__lineage_new(&l, mem, h->n_layer, h->n_ff, with_ff));
    RAMET__GO(read_list(l->layer, g, KEY "layers", h->n_layer, 1, &layers));
    RAMET__GO(read_list(l->ff, g, KEY "ffn", (int64_t)h->n_layer * h->n_ff, h->n_ff, &ffn));
    if (!layers) {
        ramet__free(l->layer);
        l->layer = NULL;
    }
    RAMET__GO(set(&l->parent_digest, mem, parent));
    RAMET__GO(set(&l->root_digest, mem, root));
    RAMET__GO(set(&l->steps, mem, steps));
    *out = l;
    return RAMET_OK;
out:
    ramet__lineage_free(l);
    return st;
}

static void quoted(ramet__text *t, const char *key, const char *value) {
    ramet__text_add(t, "\"%s\":", key);
    if (value) ramet__json_quote(t, value, strlen(value));
    else ramet__text_add(t, "null");
    ramet__text_add(t, ",");
}

void ramet__lineage_json(ramet__text *t, const ramet__lineage *l) {
    ramet__text_add(t, "{");
    quoted(t, "parent", l->parent_digest);
    quoted(t, "root", l->root_digest);
    ramet__text_add(t, "\"layers\":");
    if (l->layer) {
        ramet__text_add(t, "[");
        for (int32_t i = 0; i < l->n_layer; i++) ramet__text_add(t, "%s%d", i ? "," : "", l->layer[i]);
        ramet__text_add(t, "]");
    } else ramet__text_add(t, "null");
    ramet__text_add(t, ",\"ffn_channels\":%lld,\"ffn_chosen\":%s,\"steps\":%s}", (long long)l->n_ff, l->ff ? "true" : "false", l->steps ? l->steps : "[]");
}
