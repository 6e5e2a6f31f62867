/* SPDX-License-Identifier: Apache-2.0 */
/* describe.c - a model or adapter as JSON, for people and scripts: what it is, size by part, lineage, metadata. */
#include "model/internal.h"
#include <math.h>
#include <string.h>

static void quote(ramet__text *t, const char *s) { ramet__json_quote(t, s, strlen(s)); }

static void number(ramet__text *t, double f) {
    if (isfinite(f)) ramet__text_float(t, "", 9, f);
    else ramet__text_add(t, "null");
}

/* One metadata value; long lists (the vocabulary) by their length. */
static void value(ramet__text *t, const ramet__gguf_value *v) {
    switch (v->type) {
    case RAMET__GGUF_STRING: ramet__json_quote(t, v->v.s.text, v->v.s.len); break;
    case RAMET__GGUF_BOOL: ramet__text_add(t, v->v.u ? "true" : "false"); break;
    case RAMET__GGUF_F32: case RAMET__GGUF_F64: number(t, v->v.f); break;
    case RAMET__GGUF_I8: case RAMET__GGUF_I16: case RAMET__GGUF_I32: case RAMET__GGUF_I64: ramet__text_add(t, "%lld", (long long)v->v.i); break;
    case RAMET__GGUF_ARRAY:
        if (v->element == RAMET__GGUF_STRING && v->count <= 32) {
            const ramet__gguf_string *s = v->v.array;
            ramet__text_add(t, "[");
            for (uint64_t i = 0; i < v->count; i++) {
                ramet__text_add(t, i ? "," : "");
                ramet__json_quote(t, s[i].text, s[i].len);
            }
            ramet__text_add(t, "]");
        } else ramet__text_add(t, "{\"count\":%llu}", (unsigned long long)v->count);
        break;
    default: ramet__text_add(t, "%llu", (unsigned long long)v->v.u);
    }
}

/* Parts of a model, by the first word that its weights' names have. */
static const struct { const char *part, *begin; } parts[] = {
    {"embedding", "token_embd"}, {"attention", "blk.%d.attn"}, {"feed_forward", "blk.%d.ffn"}, {"norms", NULL}, {"head", "output.weight"},
};

static int32_t part_of(const ramet__weight_spec *spec) {
    if (spec->rows == RAMET__DIM_ONE) return 3;
    for (int32_t i = 0; i < RAMET__COUNT(parts); i++)
        if (parts[i].begin && !strncmp(spec->name, parts[i].begin, strlen(parts[i].begin))) return i;
    return 3;
}

static void sizes(ramet__text *t, const ramet_model *m) {
    uint64_t bytes[RAMET__COUNT(parts)] = {0}, by_enc[RAMET__ENC_COUNT] = {0}, total = 0;
    int64_t count[RAMET__ENC_COUNT] = {0}, parameters = 0;
    for (int64_t i = 0; i < m->n_weights; i++) {
        const ramet__weight *w = m->weights[i];
        const ramet__weight_spec *spec = ramet__model_spec(m, ramet__weight_name(w), NULL);
        if (spec) bytes[part_of(spec)] += ramet__weight_bytes(w);
        by_enc[ramet__weight_enc(w)] += ramet__weight_bytes(w);
        count[ramet__weight_enc(w)]++;
        total += ramet__weight_bytes(w);
        parameters += ramet__shape_count(ramet__weight_shape(w));
    }
    ramet__text_add(t, ",\"parameters\":%lld,\"bytes\":%llu,\"parts\":{", (long long)parameters, (unsigned long long)total);
    for (int32_t i = 0; i < RAMET__COUNT(parts); i++) ramet__text_add(t, "%s\"%s\":%llu", i ? "," : "", parts[i].part, (unsigned long long)bytes[i]);
    ramet__text_add(t, "},\"encodings\":{");
    for (int32_t e = 0, first = 1; e < RAMET__ENC_COUNT; e++)
        if (count[e]) {
            ramet__text_add(t, "%s\"%s\":{\"tensors\":%lld,\"bytes\":%llu}", first ? "" : ",", ramet__encoding_get((ramet__enc)e)->name, (long long)count[e], (unsigned long long)by_enc[e]);
            first = 0;
        }
    ramet__text_add(t, "}");
}

ramet_status ramet_model_describe(char **json, const ramet_model *model) {
    if (!json || !model) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_describe: %s is NULL", json ? "model" : "json");
    RAMET__TRY(ramet__runtime_check(model->rt));
    const ramet__hparams *h = &model->h;
    ramet__text t = {.mem = model->rt->mem};
    ramet__text_add(&t, "{\"kind\":\"model\",\"file\":");
    quote(&t, model->name);
    ramet__text_add(&t, ",\"architecture\":\"%s\",\"layers\":%d,\"width\":%lld,\"heads\":%d,\"kv_heads\":%d,\"head_width\":%d,\"ffn_width\":%lld,\"vocabulary\":%lld,\"context\":%lld", model->arch->name, h->n_layer,
                    (long long)h->n_embd, h->n_head, h->n_kv, h->head_dim, (long long)h->n_ff, (long long)h->n_vocab, (long long)h->n_ctx);
    ramet__text_float(&t, ",\"rope_base\":", 9, (double)h->rope_base);
    ramet__text_float(&t, ",\"norm_epsilon\":", 9, (double)h->eps);
    ramet__text_add(&t, ",\"tied\":%s", h->tied ? "true" : "false");
    sizes(&t, model);
    ramet__text_add(&t, ",\"tokens\":%d,\"lineage\":", model->tokenizer ? ramet__tokenizer_size(model->tokenizer) : 0);
    if (model->lineage) ramet__lineage_json(&t, model->lineage);
    else ramet__text_add(&t, "null");
    ramet__text_add(&t, ",\"metadata\":{");
    for (int64_t i = 0, first = 1; model->meta && i < model->meta->n_kv; i++) {
        if (!strncmp(model->meta->kv[i].key, "ramet.lineage.", 14)) continue;
        if (!first) ramet__text_add(&t, ",");
        quote(&t, model->meta->kv[i].key);
        ramet__text_add(&t, ":");
        value(&t, &model->meta->kv[i].value);
        first = 0;
    }
    ramet__text_add(&t, "},\"leaves_the_device\":[]}"); /* nothing travels by itself */
    if (t.status) {
        ramet_status st = t.status;
        ramet__text_free(&t);
        return st;
    }
    *json = ramet__text_take(&t);
    return RAMET_OK;
}

static ramet_status describe_adapter(char **json, ramet_runtime *rt, const char *path) {
    ramet_adapter *a = NULL;
    ramet__text t = {.mem = rt->mem};
    int64_t parameters = 0, used[64] = {0};
    int32_t rank = 0;
    RAMET__TRY(ramet__adapter_load(&a, rt, NULL, path));
    const ramet__arch *arch = ramet__arch_find(a->arch);
    for (int64_t i = 0; i < a->n; i++) {
        const ramet__weight_spec *spec = arch ? ramet__arch_spec(arch, a->lora[i].name, 0, NULL) : NULL;
        rank = RAMET__MAX(rank, a->lora[i].rank);
        parameters += a->lora[i].rank * (a->lora[i].n + a->lora[i].k) + (a->lora[i].m ? a->lora[i].n : 0);
        if (spec && spec - arch->specs < RAMET__COUNT(used)) used[spec - arch->specs]++;
    }
    ramet__text_add(&t, "{\"kind\":\"adapter\",\"file\":");
    quote(&t, path);
    ramet__text_add(&t, ",\"architecture\":");
    quote(&t, a->arch);
    ramet__text_add(&t, ",\"rank\":%d", rank);
    ramet__text_float(&t, ",\"alpha\":", 9, (double)a->alpha);
    if (ramet__adapter_is_dora(a)) ramet__text_add(&t, ",\"dora\":true");
    ramet__text_add(&t, ",\"pairs\":%lld,\"parameters\":%lld,\"bytes\":%lld,\"base\":", (long long)a->n, (long long)parameters, 4 * (long long)parameters);
    if (a->base_digest[0]) quote(&t, a->base_digest);
    else ramet__text_add(&t, "null");
    ramet__text_add(&t, ",\"targets\":{");
    for (int32_t i = 0, first = 1; arch && i < RAMET__MIN(arch->n_specs, RAMET__COUNT(used)); i++)
        if (used[i]) ramet__text_add(&t, "%s\"%s\":%lld", first ? "" : ",", arch->specs[i].target ? arch->specs[i].target : arch->specs[i].name, (long long)used[i]), first = 0;
    ramet__text_add(&t, "},\"leaves_the_device\":[]}");
    ramet_adapter_free(a);
    ramet_status st = t.status;
    if (st) ramet__text_free(&t);
    else *json = ramet__text_take(&t);
    return st;
}

static int32_t has(ramet__mem *mem, const char *folder, const char *file) {
    char *path = ramet__format(mem, "%s/%s", folder, file);
    int32_t yes = path && ramet__path_kind(path) == 1;
    ramet__free(path);
    return yes;
}

/* "adapter" in general.type, without reading more than the metadata. */
static ramet_status is_adapter(int32_t *yes, ramet__mem *mem, ramet__reader *reader) {
    ramet__gguf *g = NULL;
    const char *type;
    RAMET__TRY(ramet__gguf_open(&g, mem, reader));
    ramet_status st = ramet__gguf_text(&type, g, "general.type", "model");
    if (!st) *yes = !strcmp(type, "adapter");
    ramet__gguf_free(g);
    return st;
}

ramet_status ramet__describe_model_file(char **json, ramet_runtime *rt, const char *path) {
    ramet_model_options o = {.struct_size = sizeof o, .tokenizer = 0};
    ramet_source source;
    ramet__reader *reader = NULL;
    ramet_model *m = NULL;
    ramet_status st = RAMET_OK;
    char magic[4] = "";
    int32_t adapter = 0;
    ramet_source_from_path(&source, sizeof source, path);
    if (ramet__path_kind(path) == 2) {
        adapter = has(rt->mem, path, "adapter_config.json");
        if (!adapter && !has(rt->mem, path, "config.json"))
            return ramet__fail(RAMET_E_UNSUPPORTED, "%s: a folder without config.json or adapter_config.json is neither model nor adapter", path);
    } else {
        RAMET__TRY(ramet__reader_open(&reader, rt->mem, &source));
        uint64_t size = ramet__reader_size(reader);
        if (size >= 4) RAMET__GO(ramet__reader_read(reader, magic, 0, 4));
        if (!memcmp(magic, "GGUF", 4)) RAMET__GO(is_adapter(&adapter, rt->mem, reader));
        else if (strstr(path, "adapter_model")) adapter = 1;
        else {
            st = ramet__fail(RAMET_E_UNSUPPORTED, "%s: neither a GGUF file nor a folder of a model or adapter", path);
            goto out;
        }
    }
    if (adapter) {
        st = describe_adapter(json, rt, path);
        goto out;
    }
    RAMET__GO(ramet_model_load(&m, rt, &source, &o));
    st = ramet_model_describe(json, m);
out:
    ramet_model_free(m);
    ramet__reader_free(reader);
    return st;
}
