/* SPDX-License-Identifier: Apache-2.0 */
/* adapter_gguf.c - LoRA adapters as llama.cpp's --lora takes them: general.type "adapter", adapter.type "lora",
 * adapter.lora.alpha, tensors <weight>.lora_a [rank, inputs] and <weight>.lora_b [outputs, rank]. */
#include "model/internal.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define BASE_KEY "ramet.adapter.base"

static ramet_status expect(const ramet__gguf *g, const char *key, const char *value) {
    const char *is;
    RAMET__TRY(ramet__gguf_text(&is, g, key, ""));
    return strcmp(is, value) ? ramet__fail(RAMET_E_INCONSISTENT, "%s is \"%s\", not \"%s\": this is no LoRA adapter", key, is, value) : RAMET_OK;
}

static ramet_status read_floats(float *dst, ramet__mem *mem, const ramet__gguf *g, const ramet__gguf_tensor *t) {
    const int64_t n = ramet__shape_count(&t->shape);
    const void *data = ramet__reader_map(g->reader, t->offset, t->bytes);
    void *own = NULL;
    ramet_status st = RAMET_OK;
    if (!data) {
        RAMET__NEW(own, ramet__alloc(mem, (size_t)t->bytes + 1));
        RAMET__GO(ramet__reader_read(g->reader, own, t->offset, t->bytes));
        data = own;
    }
    ramet__encoding_get(t->enc)->decode(dst, data, n);
out:
    ramet__free(own);
    return st;
}

/* "blk.0.attn_q.weight.lora_a" -> length of the weight's name; -1: neither half */
static int64_t stem(const char *name, const char *half) {
    size_t n = strlen(name), m = strlen(half);
    return n > m && n - m < RAMET__NAME_MAX && !strcmp(name + n - m, half) ? (int64_t)(n - m) : -1;
}

static ramet_status load(ramet_adapter **out, ramet_runtime *rt, const ramet_model *model, const ramet__gguf *g) {
    const char *arch, *base;
    double alpha;
    ramet_adapter *a = NULL;
    ramet_status st;
    RAMET__TRY(expect(g, "general.type", "adapter"));
    RAMET__TRY(expect(g, "adapter.type", "lora"));
    RAMET__TRY(ramet__gguf_text(&arch, g, "general.architecture", ""));
    RAMET__TRY(ramet__gguf_text(&base, g, BASE_KEY, ""));
    RAMET__TRY(ramet__gguf_f64(&alpha, g, "adapter.lora.alpha", 0));
    if (!isfinite(alpha) || alpha < 0) return ramet__fail(RAMET_E_INCONSISTENT, "adapter.lora.alpha is %g; it must be a number >= 0", alpha);
    if (model && strcmp(arch, model->arch->name)) return ramet__fail(RAMET_E_INCONSISTENT, "the adapter is for \"%s\" models, this is \"%s\"", arch, model->arch->name);
    if (strlen(base) != 64 && *base) return ramet__fail(RAMET_E_FORMAT, BASE_KEY " is no digest of 64 hex digits");
    RAMET__GO(ramet__adapter_alloc(&a, rt, model, arch, (float)alpha, g->n_tensors));
    memcpy(a->base_digest, base, strlen(base) + 1);
    for (int64_t i = 0; i < g->n_tensors; i++) {
        const ramet__gguf_tensor *ta = &g->tensors[i];
        char name[RAMET__NAME_MAX], other[RAMET__NAME_MAX + 8];
        int64_t len = stem(ta->name, ".lora_a"), len_b = stem(ta->name, ".lora_b");
        if (len < 0 && len_b < 0) {
            st = ramet__fail(RAMET_E_UNSUPPORTED, "the tensor %s is neither .lora_a nor .lora_b", ta->name);
            goto out;
        }
        snprintf(name, sizeof name, "%.*s", (int)(len < 0 ? len_b : len), ta->name);
        snprintf(other, sizeof other, "%s%s", name, len < 0 ? ".lora_a" : ".lora_b");
        const ramet__gguf_tensor *tb = ramet__gguf_tensor_find(g, other);
        if (!tb) {
            st = ramet__fail(RAMET_E_INCONSISTENT, "the tensor %s has no partner %s", ta->name, other);
            goto out;
        }
        if (len < 0) continue; /* pairs are made at their A */
        if (ta->shape.rank != 2 || tb->shape.rank != 2 || ta->shape.dim[0] != tb->shape.dim[1]) {
            st = ramet__fail(RAMET_E_INCONSISTENT, "the ranks of %s and its partner differ, or one is no matrix", ta->name);
            goto out;
        }
        const int64_t rank = ta->shape.dim[0], k = ta->shape.dim[1], n = tb->shape.dim[0];
        if (model) RAMET__GO(ramet__adapter_check_shape(model, name, n, k));
        RAMET__GO(ramet__adapter_add(a, name, n, k, rank, alpha > 0 ? (float)alpha / (float)RAMET__MAX(rank, 1) : 1)); /* alpha 0: unscaled, as llama.cpp */
        RAMET__GO(read_floats(a->lora[a->n - 1].a, rt->mem, g, ta));
        RAMET__GO(read_floats(a->lora[a->n - 1].b, rt->mem, g, tb));
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

ramet_status ramet__adapter_load_gguf(ramet_adapter **out, ramet_runtime *rt, const ramet_model *model, ramet__reader *reader) {
    ramet__gguf *g = NULL;
    RAMET__TRY(ramet__gguf_open(&g, rt->mem, reader));
    ramet_status st = load(out, rt, model, g);
    ramet__gguf_free(g);
    return st;
}

static ramet_status write_b(ramet__gguf_writer *w, const ramet_adapter *a, const ramet__lora *l) {
    const float fold = ramet__adapter_fold(a, l);
    for (int64_t r = 0; r < l->n; r++) {
        float row[256];
        for (int32_t j = 0; j < l->rank; j += 256) {
            const int32_t n = RAMET__MIN(256, l->rank - j);
            for (int32_t i = 0; i < n; i++) row[i] = l->b[r * l->rank + j + i] * fold;
            RAMET__TRY(ramet__gguf_data(w, row, (uint64_t)n * sizeof *row));
        }
    }
    return RAMET_OK;
}

ramet_status ramet__adapter_save_gguf(const ramet_adapter *a, const char *path) {
    ramet__gguf_writer *w = NULL;
    ramet_status st;
    char name[RAMET__NAME_MAX + 8];
    if (ramet__adapter_is_dora(a)) return ramet__fail(RAMET_E_UNSUPPORTED, "%s: GGUF has no DoRA adapters; save it as a PEFT folder, or merge it into its model", path);
    RAMET__GO(ramet__gguf_writer_open(&w, a->rt->mem, path));
    RAMET__GO(ramet__gguf_put_text(w, "general.architecture", a->arch, strlen(a->arch)));
    RAMET__GO(ramet__gguf_put_text(w, "general.type", "adapter", 7));
    RAMET__GO(ramet__gguf_put_text(w, "adapter.type", "lora", 4));
    RAMET__GO(ramet__gguf_put_f32(w, "adapter.lora.alpha", a->alpha));
    RAMET__GO(ramet__gguf_put_u32(w, "general.file_type", 0));
    if (a->base_digest[0]) RAMET__GO(ramet__gguf_put_text(w, BASE_KEY, a->base_digest, strlen(a->base_digest)));
    for (int64_t i = 0; i < a->n; i++) {
        const ramet__lora *l = &a->lora[i];
        const ramet__shape sa = {2, {l->rank, l->k}}, sb = {2, {l->n, l->rank}};
        snprintf(name, sizeof name, "%s.lora_a", l->name);
        RAMET__GO(ramet__gguf_declare(w, name, &sa, RAMET__ENC_F32));
        snprintf(name, sizeof name, "%s.lora_b", l->name);
        RAMET__GO(ramet__gguf_declare(w, name, &sb, RAMET__ENC_F32));
    }
    for (int64_t i = 0; i < a->n; i++) {
        const ramet__lora *l = &a->lora[i];
        RAMET__GO(ramet__gguf_data(w, l->a, (uint64_t)l->rank * (uint64_t)l->k * sizeof *l->a));
        RAMET__GO(write_b(w, a, l));
    }
    st = ramet__gguf_writer_commit(&w);
out:
    ramet__gguf_writer_drop(&w);
    return st;
}
