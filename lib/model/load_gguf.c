/* SPDX-License-Identifier: Apache-2.0 */
/* load_gguf.c - a model from a GGUF file: the architecture's hyper-parameters and weights, tokenizer, lineage. Whatever the
 * file has and the architecture does not know is an error, never ignored: a forgotten bias would only give wrong numbers. */
#include "model/internal.h"
#include <stdatomic.h>
#include <string.h>

static ramet_status fetch(ramet__weight **out, void *context, const ramet__weight_spec *spec, int32_t layer, const char *name, const ramet__shape *want) {
    ramet_model *m = context;
    const ramet__gguf_tensor *t = ramet__gguf_tensor_find(m->meta, name);
    if (!t) return RAMET_OK;
    if (spec->rows == RAMET__DIM_ONE && t->enc != RAMET__ENC_F32)
        return ramet__fail(RAMET_E_UNSUPPORTED, "the norm %s is %s; only F32 is supported", name, ramet__encoding_get(t->enc)->name);
    return ramet__weight_from_reader(out, m->rt, name, t->enc, &t->shape, m->meta->reader, t->offset);
}

static ramet_status refuse_unknown(const ramet_model *m) {
    for (int64_t i = 0; i < m->meta->n_tensors; i++) {
        const ramet__gguf_tensor *t = &m->meta->tensors[i];
        if (!ramet__model_weight(m, t->name))
            return ramet__fail(RAMET_E_UNSUPPORTED, "the tensor %s (byte %llu) is none that a %s model of %d layers has", t->name, (unsigned long long)t->offset, m->arch->name, m->h.n_layer);
    }
    return RAMET_OK;
}

static ramet_status load(ramet_model **out, ramet_runtime *rt, ramet__gguf **gguf, const ramet_model_options *o) {
    const ramet__gguf *g = *gguf;
    const char *type, *name;
    ramet__hparams h;
    ramet_model *m = NULL;
    ramet_status st = RAMET_OK;
    int64_t split;
    RAMET__TRY(ramet__gguf_text(&type, g, "general.type", "model"));
    if (!strcmp(type, "adapter")) return ramet__fail(RAMET_E_UNSUPPORTED, "this is an adapter; load its model, and this as its adapter");
    RAMET__TRY(ramet__gguf_i64(&split, g, "split.count", 1));
    if (split > 1) return ramet__fail(RAMET_E_UNSUPPORTED, "this is one of %lld parts; join them first (llama-gguf-split --merge)", (long long)split);
    RAMET__TRY(ramet__gguf_text(&name, g, "general.architecture", NULL));
    if (!name) return ramet__fail(RAMET_E_INCONSISTENT, "the key general.architecture is missing; is this a model?");
    const ramet__arch *arch = ramet__arch_find(name);
    if (!arch) return ramet__fail(RAMET_E_UNSUPPORTED, "the architecture \"%s\" is not supported; the list \"archs\" names those that are", name);
    RAMET__TRY(arch->hparams_gguf(&h, g));
    RAMET__TRY(ramet__hparams_check(&h, "metadata"));

    RAMET__GO(ramet__model_new(&m, rt, arch, &h, ramet__reader_name(g->reader)));
    RAMET__NEW(m->meta_refs, ramet__alloc(rt->mem, sizeof *m->meta_refs));
    atomic_init(m->meta_refs, 1);
    m->meta = *gguf;
    *gguf = NULL;
    RAMET__GO(ramet__model_fill(m, fetch, m));
    RAMET__GO(refuse_unknown(m));
    RAMET__GO(ramet__progress(o->progress, o->progress_user, 0.1, "checking weights"));
    RAMET__GO(ramet__model_check_finite(m));
    RAMET__GO(ramet__progress(o->progress, o->progress_user, 0.7, "reading the tokenizer"));
    if (o->tokenizer) {
        st = ramet__tokenizer_from_gguf(&m->tokenizer, rt->mem, m->meta);
        if (st == RAMET_E_NOT_FOUND) st = ramet__fail(RAMET_E_NOT_FOUND, "the file has no tokenizer; load it without one (options.tokenizer = 0)");
        if (st) goto out;
        RAMET__GO(ramet__model_check_tokenizer(m));
    }
    RAMET__GO(ramet__lineage_read(&m->lineage, rt->mem, m->meta, &h));
    RAMET__GO(ramet__progress(o->progress, o->progress_user, 1, "loaded"));
    *out = m;
    return RAMET_OK;
out:
    ramet_model_free(m);
    return st;
}

ramet_status ramet__model_load_gguf(ramet_model **out, ramet_runtime *rt, ramet__reader *reader, const ramet_model_options *o) {
    ramet__gguf *g = NULL;
    RAMET__TRY(ramet__gguf_open(&g, rt->mem, reader)); /* names the file itself */
    ramet_status st = load(out, rt, &g, o);
    ramet__name_file(st, ramet__reader_name(reader));
    ramet__gguf_free(g);
    return st;
}
