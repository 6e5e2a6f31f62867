/* SPDX-License-Identifier: Apache-2.0 */
/* load_hf.c - a model from a Hugging Face folder. Weights are mapped pages where they can be used as they lie; rows of q and k
 * are put into GGUF's order (the architecture's hf_row) and norms become F32, so that both containers give one model. */
#include "model/internal.h"
#include <string.h>

typedef struct source { const ramet__hf *hf; ramet_model *m; } source;

/* Bytes of a tensor: mapped, or read into *own. */
static ramet_status bytes_of(const uint8_t **data, void **own, ramet__mem *mem, const ramet__safetensors *st, const ramet__st_tensor *t) {
    *data = ramet__reader_map(st->reader, t->offset, t->bytes);
    if (*data) return RAMET_OK;
    *own = ramet__alloc(mem, (size_t)t->bytes + 1);
    if (!*own) return ramet__alloc_status();
    *data = *own;
    return ramet__safetensors_read(st, t, *own, t->bytes);
}

/* A copy in another order of rows (arch) or another encoding (to F32). */
static ramet_status copied(ramet__weight **out, const source *s, const char *name, int32_t enc, const ramet__shape *shape, const ramet__safetensors *file, const ramet__st_tensor *t) {
    const ramet__arch *arch = s->m->arch;
    const ramet__encoding *e = ramet__encoding_get((ramet__enc)enc);
    const int64_t rows = ramet__shape_rows(shape), cols = ramet__shape_cols(shape);
    const uint64_t row = ramet__encoded_bytes(e, cols);
    const uint8_t *data;
    void *own = NULL;
    ramet__weight *w = NULL;
    ramet_status st;
    RAMET__GO(bytes_of(&data, &own, s->m->rt->mem, file, t));
    if (shape->rank == 1) {
        RAMET__GO(ramet__weight_new(&w, s->m->rt, name, RAMET__ENC_F32, shape));
        e->decode(ramet__weight_mutable(w), data, cols);
    } else {
        RAMET__GO(ramet__weight_new(&w, s->m->rt, name, (ramet__enc)enc, shape));
        uint8_t *dst = ramet__weight_mutable(w);
        for (int64_t r = 0; r < rows; r++) memcpy(dst + (uint64_t)r * row, data + (uint64_t)arch->hf_row(&s->m->h, name, r) * row, row);
    }
    *out = w;
    w = NULL;
out:
    ramet__weight_free(w);
    ramet__free(own);
    return st;
}

static int32_t reordered(const ramet__arch *arch, const ramet__hparams *h, const char *name, int64_t rows) {
    for (int64_t r = 0; arch->hf_row && r < rows; r++)
        if (arch->hf_row(h, name, r) != r) return 1;
    return 0;
}

static ramet_status fetch(ramet__weight **out, void *context, const ramet__weight_spec *spec, int32_t layer, const char *name, const ramet__shape *want) {
    const source *s = context;
    const ramet__safetensors *file;
    const ramet__st_tensor *t;
    char hf[RAMET__NAME_MAX];
    ramet__spec_hf_name(hf, spec, layer);
    if (spec->optional && s->m->h.tied) return RAMET_OK; /* a stored copy of the tied head is not used */
    ramet_status st = ramet__hf_find(s->hf, hf, &file, &t);
    if (st == RAMET_E_NOT_FOUND) return RAMET_OK;
    if (st) return st;
    int32_t enc = ramet__encoding_from_hf(t->dtype_name);
    if (enc < 0) return ramet__fail(RAMET_E_UNSUPPORTED, "the tensor %s is %s; F32, F16 and BF16 are supported", hf, t->dtype_name);
    ramet__shape shape = {.rank = t->rank};
    if (t->rank < 1 || t->rank > 2) return ramet__fail(RAMET_E_INCONSISTENT, "the tensor %s has %d dimensions; 1 or 2 are expected", hf, t->rank);
    for (int32_t i = 0; i < t->rank; i++) shape.dim[i] = t->dim[i];
    const int32_t fits = ramet__shape_equal(&shape, want);
    if (fits && ((shape.rank == 1 && enc != RAMET__ENC_F32) || (shape.rank == 2 && reordered(s->m->arch, &s->m->h, name, shape.dim[0]))))
        return copied(out, s, name, enc, &shape, file, t);
    return ramet__weight_from_reader(out, s->m->rt, name, (ramet__enc)enc, &shape, file->reader, t->offset);
}

static int32_t ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static int32_t listed(const char *const *names, const char *name) {
    for (; names && *names; names++)
        if (!strcmp(*names, name)) return 1;
    return 0;
}

/* A sentence encoder's folder says how tokens become one vector; without a word it is the mean. */
static ramet_status check_pooling(const ramet__hf *hf) {
    const ramet__json *pooling = NULL, *v;
    RAMET__TRY(ramet__hf_json(&pooling, hf, "1_Pooling/config.json"));
    if (!pooling) return RAMET_OK;
    for (size_t i = 0; i < pooling->len; i++) {
        v = &pooling->items[i];
        if (strncmp(pooling->keys[i], "pooling_mode_", 13) || v->type != RAMET__JSON_BOOL) continue;
        if ((v->integer != 0) != !strcmp(pooling->keys[i], "pooling_mode_mean_tokens"))
            return ramet__fail(RAMET_E_UNSUPPORTED, "1_Pooling/config.json: \"%s\" is %s; only the mean over tokens is supported", pooling->keys[i], v->integer ? "true" : "false");
    }
    return RAMET_OK;
}

static ramet_status refuse_unknown(const source *s) {
    for (int64_t i = 0; i < ramet__hf_count(s->hf); i++) {
        const ramet__safetensors *file;
        const ramet__st_tensor *t;
        int32_t layer;
        ramet__hf_at(s->hf, i, &file, &t);
        const ramet__weight_spec *spec = ramet__arch_spec(s->m->arch, t->name, 1, &layer);
        if (spec && layer < s->m->h.n_layer) continue;
        if (listed(s->m->arch->hf_unused, t->name)) continue;
        if (ends_with(t->name, ".rotary_emb.inv_freq")) continue; /* old files store what rope_theta gives */
        return ramet__fail(RAMET_E_UNSUPPORTED, "%s: the tensor %s (byte %llu) is none that a %s model of %d layers has", ramet__reader_name(file->reader), t->name,
                           (unsigned long long)t->offset, s->m->arch->name, s->m->h.n_layer);
    }
    return RAMET_OK;
}

static ramet_status load(ramet_model **out, ramet_runtime *rt, const ramet__hf *hf, const char *folder, const ramet_model_options *o) {
    const char *type;
    ramet__hparams h;
    source s = {hf, NULL};
    ramet_status st;
    RAMET__TRY(ramet__json_string(&type, ramet__hf_config(hf), "model_type", NULL));
    if (!type) return ramet__fail(RAMET_E_INCONSISTENT, "config.json: \"model_type\" is missing");
    const ramet__arch *arch = ramet__arch_find(type);
    if (!arch) return ramet__fail(RAMET_E_UNSUPPORTED, "config.json: the architecture \"%s\" is not supported; the list \"archs\" names those that are", type);
    RAMET__TRY(arch->hparams_hf(&h, ramet__hf_config(hf)));
    RAMET__TRY(ramet__hparams_check(&h, "config.json"));
    if (arch->encoder) RAMET__TRY(check_pooling(hf));
    RAMET__GO(ramet__model_new(&s.m, rt, arch, &h, folder));
    RAMET__GO(ramet__model_fill(s.m, fetch, &s));
    RAMET__GO(refuse_unknown(&s));
    if (!h.tied && !ramet__model_weight(s.m, "output.weight")) {
        st = ramet__fail(RAMET_E_INCONSISTENT, "config.json: \"tie_word_embeddings\" is not true, but there is no tensor lm_head.weight");
        goto out;
    }
    RAMET__GO(ramet__progress(o->progress, o->progress_user, 0.3, "checking weights"));
    RAMET__GO(ramet__model_check_finite(s.m));
    RAMET__GO(ramet__progress(o->progress, o->progress_user, 0.7, "reading the tokenizer"));
    if (o->tokenizer) {
        size_t size = 0, config_size = 0;
        const char *json = ramet__hf_tokenizer(hf, &size), *config = ramet__hf_tokenizer_config(hf, &config_size);
        if (!json) {
            st = ramet__fail(RAMET_E_NOT_FOUND, "the folder has no tokenizer.json; add it, or load without a tokenizer (options.tokenizer = 0)");
            goto out;
        }
        RAMET__GO(ramet__tokenizer_from_json(&s.m->tokenizer, rt->mem, json, size, config, config_size));
        RAMET__GO(ramet__model_check_tokenizer(s.m));
    }
    RAMET__GO(ramet__progress(o->progress, o->progress_user, 1, "loaded"));
    *out = s.m;
    return RAMET_OK;
out:
    ramet_model_free(s.m);
    return st;
}

ramet_status ramet__model_load_hf(ramet_model **out, ramet_runtime *rt, const char *folder, int32_t untrusted, const ramet_model_options *o) {
    ramet__hf *hf = NULL;
    RAMET__TRY(ramet__hf_open(&hf, rt->mem, folder, untrusted));
    ramet_status st = load(out, rt, hf, folder, o);
    ramet__name_file(st, folder);
    ramet__hf_free(hf);
    return st;
}
