/* SPDX-License-Identifier: Apache-2.0 */
/* save.c - a model as GGUF v3. The source's metadata is kept as it was; what the model itself knows (sizes, file type,
 * tokenizer, lineage) overrides it. */
#include "model/internal.h"
#include <string.h>

static int32_t starts(const char *text, const char *with) { return !strncmp(text, with, strlen(with)); }

/* llama.cpp's general.file_type: the encoding that most linear weights have. */
static uint32_t file_type(const ramet_model *m) {
    static const struct { ramet__enc enc; uint32_t type; } types[] = {
        {RAMET__ENC_F32, 0}, {RAMET__ENC_F16, 1}, {RAMET__ENC_Q4_0, 2}, {RAMET__ENC_Q4_1, 3}, {RAMET__ENC_Q8_0, 7}, {RAMET__ENC_Q5_0, 8}, {RAMET__ENC_BF16, 32}, {RAMET__ENC_Q5_1, 9}, {RAMET__ENC_Q4_K, 15}, {RAMET__ENC_Q5_K, 17}, {RAMET__ENC_Q6_K, 18}, {RAMET__ENC_IQ4_NL, 25},
    };
    int64_t count[RAMET__ENC_COUNT] = {0};
    int32_t most = RAMET__ENC_F32;
    for (int64_t i = 0; i < m->n_weights; i++) {
        const ramet__weight_spec *spec = ramet__model_spec(m, ramet__weight_name(m->weights[i]), NULL);
        if (spec && spec->target) count[ramet__weight_enc(m->weights[i])] += ramet__shape_count(ramet__weight_shape(m->weights[i]));
    }
    for (int32_t e = 0; e < RAMET__ENC_COUNT; e++)
        if (count[e] > count[most]) most = e;
    for (int32_t i = 0; i < RAMET__COUNT(types); i++)
        if ((int32_t)types[i].enc == most) return types[i].type;
    return 1024; /* llama.cpp's "guessed": its loaders then look at the tensors */
}

static int32_t quantized(const ramet_model *m) {
    for (int64_t i = 0; i < m->n_weights; i++)
        if (ramet__encoding_get(ramet__weight_enc(m->weights[i]))->block > 1) return 1;
    return 0;
}

static ramet_status metadata(ramet__gguf_writer *w, const ramet_model *m, const ramet__gguf_kv *extra, int64_t n_extra) {
    const char *arch = m->arch->name;
    RAMET__TRY(ramet__gguf_put_text(w, "general.architecture", arch, strlen(arch)));
    RAMET__TRY(ramet__gguf_put_text(w, "general.type", "model", 5));
    for (int64_t i = 0; m->meta && i < m->meta->n_kv; i++) {
        const ramet__gguf_kv *kv = &m->meta->kv[i];
        if (starts(kv->key, "ramet.lineage.") || starts(kv->key, "split.") || !strcmp(kv->key, "general.alignment")) continue; /* ours below; the writer's */
        RAMET__TRY(ramet__gguf_put(w, kv->key, &kv->value));
    }
    if (!m->meta || !ramet__gguf_find(m->meta, "general.name")) {
        const char *name = strrchr(m->name, '/');
        name = name && name[1] ? name + 1 : m->name;
        RAMET__TRY(ramet__gguf_put_text(w, "general.name", name, strlen(name)));
    }
    RAMET__TRY(m->arch->write(w, &m->h));
    RAMET__TRY(ramet__gguf_put_u32(w, "general.file_type", file_type(m)));
    if (quantized(m)) RAMET__TRY(ramet__gguf_put_u32(w, "general.quantization_version", 2));
    if (m->tokenizer && !m->meta) RAMET__TRY(ramet__tokenizer_to_gguf(m->tokenizer, w));
    if (m->lineage) RAMET__TRY(ramet__lineage_write(w, m->lineage));
    for (int64_t i = 0; i < n_extra; i++) RAMET__TRY(ramet__gguf_put(w, extra[i].key, &extra[i].value));
    return RAMET_OK;
}

ramet_status ramet__model_save(const ramet_model *m, const char *path, const ramet__gguf_kv *extra, int64_t n_extra, ramet_progress_fn progress, void *user) {
    ramet__gguf_writer *w = NULL;
    ramet_status st;
    RAMET__GO(ramet__gguf_writer_open(&w, m->rt->mem, path));
    RAMET__GO(metadata(w, m, extra, n_extra));
    for (int64_t i = 0; i < m->n_weights; i++)
        RAMET__GO(ramet__gguf_declare(w, ramet__weight_name(m->weights[i]), ramet__weight_shape(m->weights[i]), ramet__weight_enc(m->weights[i])));
    for (int64_t i = 0; i < m->n_weights; i++) {
        RAMET__GO(ramet__progress(progress, user, (double)i / (double)m->n_weights, "writing weights"));
        RAMET__GO(ramet__gguf_data(w, ramet__weight_data(m->weights[i]), ramet__weight_bytes(m->weights[i])));
    }
    RAMET__GO(ramet__progress(progress, user, 1, "writing weights"));
    st = ramet__gguf_writer_commit(&w);
out:
    ramet__gguf_writer_drop(&w);
    return st;
}

ramet_status ramet_model_save(const ramet_model *model, const char *path, ramet_progress_fn progress, void *user) {
    if (!model || !path) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_save: %s is NULL", model ? "path" : "model");
    RAMET__TRY(ramet__runtime_check(model->rt));
    return ramet__model_save(model, path, NULL, 0, progress, user);
}
