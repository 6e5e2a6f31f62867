/* SPDX-License-Identifier: Apache-2.0 */
/* adapter_peft.c - LoRA adapters as Hugging Face PEFT has them: adapter_config.json beside adapter_model.safetensors, tensors
 * base_model.model.<module>.lora_A.weight [rank, inputs] and lora_B.weight [outputs, rank]. Rows of B for q and k are in
 * Hugging Face's order in the file and in ours (the architecture's hf_row) in memory. */
#include "model/internal.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PREFIX "base_model.model."
#define BASE_KEY "ramet.adapter.base"
#define WEIGHTS "adapter_model.safetensors"
#define CONFIG "adapter_config.json"
#define MAGNITUDE ".lora_magnitude_vector"

typedef struct config { double alpha; int32_t rs, dora; } config;

/* Members that change the meaning of the tensors in ways this reader does not follow. */
static ramet_status refuse(const ramet__json *c) {
    static const char *const off[] = {"lora_bias", "fan_in_fan_out", "alora_invocation_tokens", "use_qalora", "megatron_config", "trainable_token_indices"};
    static const char *const empty[] = {"modules_to_save", "alpha_pattern", "target_parameters", "layer_replication"};
    static const char *const base[] = {"pissa", "olora", "corda", "loftq", "eva"};
    const char *text;
    for (int32_t i = 0; i < RAMET__COUNT(off); i++) {
        const ramet__json *v = ramet__json_get(c, off[i]);
        if (v && v->type != RAMET__JSON_NULL && !(v->type == RAMET__JSON_BOOL && !v->integer)) return ramet__fail(RAMET_E_UNSUPPORTED, CONFIG ": \"%s\" is not supported", off[i]);
    }
    for (int32_t i = 0; i < RAMET__COUNT(empty); i++) {
        const ramet__json *v = ramet__json_get(c, empty[i]);
        if (v && v->type != RAMET__JSON_NULL && v->len) return ramet__fail(RAMET_E_UNSUPPORTED, CONFIG ": \"%s\" is not supported", empty[i]);
    }
    RAMET__TRY(ramet__json_string(&text, c, "bias", "none"));
    if (strcmp(text, "none")) return ramet__fail(RAMET_E_UNSUPPORTED, CONFIG ": \"bias\" is \"%s\"; only \"none\" is supported", text);
    const ramet__json *init = ramet__json_get(c, "init_lora_weights");
    for (int32_t i = 0; init && init->type == RAMET__JSON_STRING && i < RAMET__COUNT(base); i++)
        if (!strncmp(init->text, base[i], strlen(base[i])))
            return ramet__fail(RAMET_E_UNSUPPORTED, CONFIG ": \"init_lora_weights\" is \"%s\", which changes the base model; convert it to plain LoRA first", init->text);
    return RAMET_OK;
}

static ramet_status read_config(config *out, ramet__mem *mem, const char *path) {
    ramet__arena arena = {.mem = mem};
    const ramet__json *c;
    const char *type;
    char *text = NULL;
    size_t size;
    ramet_status st;
    int64_t r;
    double alpha;
    RAMET__GO(ramet__file_read_all(&text, &size, mem, path, 1 << 20));
    RAMET__GO(ramet__json_parse(&c, &arena, text, size, NULL));
    if (c->type != RAMET__JSON_OBJECT) {
        st = ramet__fail(RAMET_E_FORMAT, CONFIG " is not an object");
        goto out;
    }
    RAMET__GO(ramet__json_string(&type, c, "peft_type", "LORA"));
    if (strcmp(type, "LORA")) {
        st = ramet__fail(RAMET_E_UNSUPPORTED, CONFIG ": \"peft_type\" is \"%s\"; only \"LORA\" is supported", type);
        goto out;
    }
    RAMET__GO(refuse(c));
    RAMET__GO(ramet__json_i64(&r, c, "r", 8));
    RAMET__GO(ramet__json_f64(&alpha, c, "lora_alpha", 8));
    if (r <= 0 || !isfinite(alpha) || alpha <= 0) {
        st = ramet__fail(RAMET_E_INCONSISTENT, CONFIG ": \"r\" is %lld and \"lora_alpha\" %g; both must be positive", (long long)r, alpha);
        goto out;
    }
    const ramet__json *rs = ramet__json_get(c, "use_rslora");
    const ramet__json *dora = ramet__json_get(c, "use_dora");
    *out = (config){alpha, rs && rs->type == RAMET__JSON_BOOL && rs->integer, dora && dora->type == RAMET__JSON_BOOL && dora->integer};
out:
    ramet__arena_free(&arena);
    ramet__free(text);
    return st;
}

static ramet_status read_floats(float *dst, ramet__mem *mem, const ramet__safetensors *st, const ramet__st_tensor *t) {
    int32_t enc = ramet__encoding_from_hf(t->dtype_name);
    void *own = NULL;
    ramet_status status;
    if (enc < 0) return ramet__fail(RAMET_E_UNSUPPORTED, "the tensor %s is %s; F32, F16 and BF16 are supported", t->name, t->dtype_name);
    own = ramet__alloc(mem, (size_t)t->bytes + 1);
    if (!own) return ramet__alloc_status();
    status = ramet__safetensors_read(st, t, own, t->bytes);
    if (!status) ramet__encoding_get((ramet__enc)enc)->decode(dst, own, t->rank == 2 ? t->dim[0] * t->dim[1] : t->dim[0]);
    ramet__free(own);
    return status;
}

/* "base_model.model.X.lora_A.weight", also with an adapter's name ("lora_A.default.weight"), or "base_model.model.X.lora_magnitude_vector": our name
 * of X's weight. */
static int32_t split(char name[RAMET__NAME_MAX], char half[32], const char *tensor, const ramet__arch *arch) {
    char hf[RAMET__NAME_MAX];
    const ramet__weight_spec *spec;
    int32_t layer;
    const char *at = strstr(tensor, ".lora_");
    if (strncmp(tensor, PREFIX, strlen(PREFIX)) || !at || (at[6] != 'A' && at[6] != 'B' && strncmp(at, MAGNITUDE, strlen(MAGNITUDE))) || strlen(at) >= 32) return 0;
    const char *module = tensor + strlen(PREFIX);
    if ((size_t)(at - module) + 8 > sizeof hf) return 0;
    snprintf(hf, sizeof hf, "%.*s.weight", (int)(at - module), module);
    spec = ramet__arch_spec(arch, hf, 1, &layer);
    if (!spec) return 0;
    ramet__spec_name(name, spec, layer);
    snprintf(half, 32, "%s", at);
    return 1;
}

/* Rows of `row` numbers, one an output. */
static void reorder(float *ours, const float *file, size_t row, const ramet__arch *arch, const ramet__hparams *h, const ramet__lora *l, int32_t back) {
    for (int64_t r = 0; r < l->n; r++) {
        int64_t from = arch->hf_row && h->head_dim ? arch->hf_row(h, l->name, r) : r;
        if (back) memcpy(ours + (size_t)from * row, file + (size_t)r * row, row * sizeof(float));
        else memcpy(ours + (size_t)r * row, file + (size_t)from * row, row * sizeof(float));
    }
}

static ramet_status load_pair(ramet_adapter *a, const config *c, const ramet__arch *arch, const ramet_model *model, const ramet__safetensors *file, const ramet__st_tensor *ta,
                              const char *name, const char *half) {
    char other[RAMET__NAME_MAX + 64];
    float *b = NULL;
    ramet_status st;
    snprintf(other, sizeof other, "%.*s.lora_B%s", (int)(strlen(ta->name) - strlen(half)), ta->name, half + 7);
    const ramet__st_tensor *tb = ramet__safetensors_find(file, other);
    if (!tb) return ramet__fail(RAMET_E_INCONSISTENT, "the tensor %s has no partner %s", ta->name, other);
    if (ta->rank != 2 || tb->rank != 2 || ta->dim[0] != tb->dim[1]) return ramet__fail(RAMET_E_INCONSISTENT, "the ranks of %s and its partner differ, or one is no matrix", ta->name);
    const int64_t rank = ta->dim[0], k = ta->dim[1], n = tb->dim[0];
    if (model) RAMET__TRY(ramet__adapter_check_shape(model, name, n, k));
    if (model && ramet__adapter_find(a, name)) return ramet__fail(RAMET_E_INCONSISTENT, "%s has two pairs, one of them %s", name, ta->name);
    const double scale = rank > 0 ? c->alpha / (c->rs ? sqrt((double)rank) : (double)rank) : 0;
    RAMET__TRY(ramet__adapter_add(a, name, n, k, rank, (float)scale));
    ramet__lora *l = &a->lora[a->n - 1];
    RAMET__GO(read_floats(l->a, a->rt->mem, file, ta));
    RAMET__NEW(b, ramet__alloc(a->rt->mem, (size_t)n * (size_t)rank * sizeof *b));
    RAMET__GO(read_floats(b, a->rt->mem, file, tb));
    reorder(l->b, b, (size_t)rank, arch, &a->h, l, 0);
    if (c->dora) {
        snprintf(other, sizeof other, "%.*s" MAGNITUDE, (int)(strlen(ta->name) - strlen(half)), ta->name);
        const ramet__st_tensor *tm = ramet__safetensors_find(file, other);
        if (!tm || tm->rank != 1 || tm->dim[0] != n) {
            st = ramet__fail(RAMET_E_INCONSISTENT, "a DoRA adapter needs %s with %lld numbers", other, (long long)n);
            goto out;
        }
        RAMET__GO(read_floats(b, a->rt->mem, file, tm)); /* rank >= 1: there is room */
        RAMET__NEW(l->m, ramet__alloc(a->rt->mem, (size_t)n * sizeof *l->m));
        reorder(l->m, b, 1, arch, &a->h, l, 0);
    }
out:
    ramet__free(b);
    return st;
}

static ramet_status load(ramet_adapter **out, ramet_runtime *rt, const ramet_model *model, const ramet__safetensors *file, const config *c) {
    const ramet__arch *arch = model ? model->arch : ramet__arch_find("llama"); /* PEFT files do not name the family */
    const char *base = ramet__safetensors_meta(file, BASE_KEY);
    ramet_adapter *a = NULL;
    ramet_status st;
    if (base && strlen(base) != 64) return ramet__fail(RAMET_E_FORMAT, BASE_KEY " is no digest of 64 hex digits");
    RAMET__GO(ramet__adapter_alloc(&a, rt, model, arch->name, (float)c->alpha, file->n_tensors));
    if (base) memcpy(a->base_digest, base, 65);
    for (int64_t i = 0; i < file->n_tensors; i++) {
        char name[RAMET__NAME_MAX], half[32];
        if (!split(name, half, file->tensors[i].name, arch)) {
            st = ramet__fail(RAMET_E_UNSUPPORTED, "the tensor %s is no half of a LoRA pair for a weight that %s models have", file->tensors[i].name, arch->name);
            goto out;
        }
        if (half[6] == 'A') {
            RAMET__GO(load_pair(a, c, arch, model, file, &file->tensors[i], name, half));
            continue;
        }
        if (half[6] == 'm') {
            if (c->dora) continue;
            st = ramet__fail(RAMET_E_INCONSISTENT, "the tensor %s belongs to DoRA, which " CONFIG " does not say (\"use_dora\")", file->tensors[i].name);
            goto out;
        }
        char other[RAMET__NAME_MAX + 64];
        const char *tensor = file->tensors[i].name;
        snprintf(other, sizeof other, "%.*s.lora_A%s", (int)(strlen(tensor) - strlen(half)), tensor, half + 7);
        if (!ramet__safetensors_find(file, other)) {
            st = ramet__fail(RAMET_E_INCONSISTENT, "the tensor %s has no partner %s", tensor, other);
            goto out;
        }
    }
    if (a->n && c->dora && file->n_tensors != 3 * a->n) {
        st = ramet__fail(RAMET_E_INCONSISTENT, "the adapter has magnitudes (" MAGNITUDE ") without a pair");
        goto out;
    }
    if (!a->n) {
        st = ramet__fail(RAMET_E_INCONSISTENT, "the adapter changes no weight");
        goto out;
    }
    RAMET__GO(ramet__adapter_finite(a));
    RAMET__GO(ramet__adapter_check_base(model, base));
    *out = a;
    return RAMET_OK;
out:
    ramet_adapter_free(a);
    return st;
}

ramet_status ramet__adapter_load_peft(ramet_adapter **out, ramet_runtime *rt, const ramet_model *model, const char *path) {
    ramet__text weights = {.mem = rt->mem}, settings = {.mem = rt->mem};
    ramet__reader *reader = NULL;
    ramet__safetensors *file = NULL;
    ramet_source source;
    config c = {0};
    ramet_status st;
    const char *slash = strrchr(path, '/');
    if (ramet__path_kind(path) == 2) {
        ramet__text_add(&weights, "%s/" WEIGHTS, path);
        ramet__text_add(&settings, "%s/" CONFIG, path);
    } else {
        ramet__text_add(&weights, "%s", path);
        ramet__text_add(&settings, "%.*s" CONFIG, slash ? (int)(slash + 1 - path) : 0, path);
    }
    st = weights.status ? weights.status : settings.status;
    if (st) goto out;
    RAMET__GO(read_config(&c, rt->mem, settings.data));
    ramet_source_from_path(&source, sizeof source, weights.data);
    RAMET__GO(ramet__reader_open(&reader, rt->mem, &source));
    RAMET__GO(ramet__safetensors_open(&file, rt->mem, reader));
    st = load(out, rt, model, file, &c);
out:
    ramet__safetensors_free(file);
    ramet__reader_free(reader);
    ramet__text_free(&weights);
    ramet__text_free(&settings);
    return st;
}

/* ---- saving ---- */

static void module_name(char module[RAMET__NAME_MAX], const ramet__arch *arch, const ramet__lora *l, const char **target) {
    int32_t layer;
    const ramet__weight_spec *spec = ramet__arch_spec(arch, l->name, 0, &layer);
    ramet__spec_hf_name(module, spec, layer);
    module[strlen(module) - strlen(".weight")] = 0;
    *target = spec->target;
}

/* Whether all scales are rsLoRA's: then the configuration says so, and B stays as it is. */
static int32_t stabilized(const ramet_adapter *a, float alpha) {
    int32_t same = 1, all = 1;
    for (int64_t i = 0; i < a->n; i++) {
        same &= a->lora[i].scale == alpha / (float)a->lora[i].rank;
        all &= a->lora[i].scale == (float)((double)alpha / sqrt((double)a->lora[i].rank));
    }
    return all && !same;
}

static void config_text(ramet__text *t, const ramet_adapter *a, const ramet__arch *arch, int32_t rank, float alpha) {
    char module[RAMET__NAME_MAX];
    const char *target;
    int32_t first = 1;
    ramet__text_add(t, "{\n  \"peft_type\": \"LORA\",\n  \"task_type\": \"%s\",\n  \"base_model_name_or_path\": null,\n  \"r\": %d,\n",
                    arch->encoder ? "FEATURE_EXTRACTION" : "CAUSAL_LM", rank);
    ramet__text_float(t, "  \"lora_alpha\": ", 9, (double)alpha);
    ramet__text_add(t, ",\n  \"lora_dropout\": 0.0,\n  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n  \"use_rslora\": %s,\n  \"use_dora\": %s,\n  \"inference_mode\": true,\n  \"target_modules\": [",
                    stabilized(a, alpha) ? "true" : "false", ramet__adapter_is_dora(a) ? "true" : "false");
    for (int32_t s = 0; s < arch->n_specs; s++) {
        int32_t used = 0;
        for (int64_t i = 0; i < a->n && arch->specs[s].target && !used; i++) used = ramet__arch_spec(arch, a->lora[i].name, 0, NULL) == &arch->specs[s];
        if (used) ramet__text_add(t, "%s\"%s\"", first ? "" : ", ", arch->specs[s].target), first = 0;
    }
    ramet__text_add(t, "],\n  \"rank_pattern\": {");
    first = 1;
    for (int64_t i = 0; i < a->n; i++) {
        if (a->lora[i].rank == rank) continue;
        module_name(module, arch, &a->lora[i], &target);
        ramet__text_add(t, "%s\"%s\": %d", first ? "" : ", ", module, a->lora[i].rank);
        first = 0;
    }
    ramet__text_add(t, "}\n}\n");
}

static ramet_status write_config(const ramet_adapter *a, const ramet__arch *arch, const char *path, float alpha) {
    ramet__text text = {.mem = a->rt->mem};
    ramet__writer *w = NULL;
    ramet_status st;
    int32_t rank = 1;
    for (int64_t i = 0; i < a->n; i++) rank = RAMET__MAX(rank, a->lora[i].rank);
    config_text(&text, a, arch, rank, alpha);
    RAMET__GO(text.status);
    RAMET__GO(ramet__writer_open(&w, a->rt->mem, path));
    RAMET__GO(ramet__writer_write(w, text.data, text.len));
    st = ramet__writer_commit(&w);
out:
    ramet__writer_drop(&w);
    ramet__text_free(&text);
    return st;
}

static ramet_status write_weights(const ramet_adapter *a, const ramet__arch *arch, const char *path, float alpha) {
    ramet__st_writer *w = NULL;
    float *b = NULL;
    ramet_status st;
    char module[RAMET__NAME_MAX], name[RAMET__NAME_MAX + 64];
    const char *target;
    RAMET__GO(ramet__st_writer_open(&w, a->rt->mem, path));
    RAMET__GO(ramet__st_meta(w, "format", "pt"));
    if (a->base_digest[0]) RAMET__GO(ramet__st_meta(w, BASE_KEY, a->base_digest));
    for (int64_t i = 0; i < 2 * a->n; i++) {
        const ramet__lora *l = &a->lora[i / 2];
        const int64_t da[2] = {l->rank, l->k}, db[2] = {l->n, l->rank};
        module_name(module, arch, l, &target);
        snprintf(name, sizeof name, PREFIX "%s.lora_%c.weight", module, i % 2 ? 'B' : 'A');
        RAMET__GO(ramet__st_declare(w, name, RAMET__ST_F32, 2, i % 2 ? db : da));
        snprintf(name, sizeof name, PREFIX "%s" MAGNITUDE, module);
        if (i % 2 && l->m) RAMET__GO(ramet__st_declare(w, name, RAMET__ST_F32, 1, db));
    }
    for (int64_t i = 0; i < a->n; i++) {
        const ramet__lora *l = &a->lora[i];
        const int64_t nb = l->n * l->rank;
        const float fold = stabilized(a, alpha) ? 1.0f : l->scale / (alpha / (float)l->rank);
        RAMET__GO(ramet__st_data(w, l->a, (uint64_t)l->rank * (uint64_t)l->k * sizeof *l->a));
        RAMET__NEW(b, ramet__alloc(a->rt->mem, (size_t)nb * sizeof *b));
        reorder(b, l->b, (size_t)l->rank, arch, &a->h, l, 1);
        for (int64_t j = 0; j < nb; j++) b[j] *= fold;
        RAMET__GO(ramet__st_data(w, b, (uint64_t)nb * sizeof *b));
        if (l->m) {
            reorder(b, l->m, 1, arch, &a->h, l, 1);
            RAMET__GO(ramet__st_data(w, b, (uint64_t)l->n * sizeof *b));
        }
        ramet__free(b);
        b = NULL;
    }
    st = ramet__st_writer_commit(&w);
out:
    ramet__free(b);
    ramet__st_writer_drop(&w);
    return st;
}

ramet_status ramet__adapter_save_peft(const ramet_adapter *a, const char *path) {
    ramet__text weights = {.mem = a->rt->mem}, settings = {.mem = a->rt->mem};
    const ramet__arch *arch = ramet__arch_find(a->arch);
    /* GGUF allows alpha 0 for "unscaled"; PEFT has no such word, so the scale goes into B */
    const float alpha = a->alpha > 0 ? a->alpha : 1;
    ramet_status st;
    if (!arch || !a->h.head_dim) return ramet__fail(RAMET_E_STATE, "the adapter was read without its model; it can be saved as .gguf only");
    RAMET__GO(ramet__dir_make(path));
    ramet__text_add(&weights, "%s/" WEIGHTS, path);
    ramet__text_add(&settings, "%s/" CONFIG, path);
    st = weights.status ? weights.status : settings.status;
    if (st) goto out;
    RAMET__GO(write_weights(a, arch, weights.data, alpha));
    st = write_config(a, arch, settings.data, alpha);
out:
    ramet__text_free(&weights);
    ramet__text_free(&settings);
    return st;
}
