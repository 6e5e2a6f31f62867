/* SPDX-License-Identifier: Apache-2.0 */
/* embed.c - texts to vectors with an encoder (experimental.h). One plan for the embedder's maxima; the rows of many texts stand side
 * by side in a run, without padding, and as many whole texts as fit go into each. */
#include "infer/adapters.h"
#include "ramet/experimental.h"
#include <string.h>

struct ramet_embedder {
    ramet_model *model;
    ramet_embedder_options o;
    ramet__plan *plan;
    ramet__adapters adapters;
    int32_t adapter;            /* that the next calls use, -1: none */
    int32_t *pos, *seq, *zeros; /* [max_rows] */
    int32_t busy;
};

static const ramet_embedder_options defaults = {.struct_size = sizeof(ramet_embedder_options), .mode = RAMET_MODE_BALANCED, .max_rows = 4096, .max_sequences = 64, .max_rank = 64};
void ramet_embedder_options_init(ramet_embedder_options *options, uint32_t struct_size) { ramet__options_init(options, struct_size, &defaults, sizeof defaults); }

static ramet_status make_plan(ramet_embedder *e) {
    const ramet__build_options b = {.embed = 1, .slots = e->o.max_rank > 0, .gains = e->o.dora};
    const ramet__plan_options p = {.mode = (ramet__mode)e->o.mode, .max_context = e->model->h.n_ctx};
    ramet__graph *g = NULL;
    ramet__built built;
    ramet_status st;
    RAMET__GO(ramet__graph_create(&g, e->model->rt, e->o.max_rows, e->o.max_sequences, e->o.max_rank));
    RAMET__GO(e->model->arch->build(&built, g, e->model, &b));
    ramet__graph_output(g, "embedding", built.hidden);
    RAMET__GO(ramet__plan_create(&e->plan, g, &p));
    st = ramet__adapters_init(&e->adapters, e->model, g, e->o.max_rank, e->o.dora);
out:
    ramet__graph_free(g);
    return st;
}

ramet_status ramet_embedder_create(ramet_embedder **out, ramet_model *model, const ramet_embedder_options *options) {
    ramet_embedder_options o = defaults;
    ramet_embedder *e = NULL;
    ramet_status st;
    if (!out || !model) return ramet__fail(RAMET_E_ARGUMENT, "ramet_embedder_create: %s is NULL", out ? "model" : "out");
    RAMET__TRY(ramet__runtime_check(model->rt));
    if (options) RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_embedder_create"));
    if (!model->arch->encoder)
        return ramet__fail(RAMET_E_UNSUPPORTED, "ramet_embedder_create: %s is a %s model, which has no embedding of texts; the architecture bert has", model->name, model->arch->name);
    if (o.mode < RAMET_MODE_EXACT || o.mode > RAMET_MODE_FAST) return ramet__fail(RAMET_E_ARGUMENT, "ramet_embedder_create: mode %d is none of RAMET_MODE_*", o.mode);
    if (o.max_rows < 1 || o.max_rows > 1 << 16 || o.max_sequences < 1 || o.max_sequences > 1 << 16)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_embedder_create: max_rows is %d, max_sequences %d; 1 to 65536 are possible", o.max_rows, o.max_sequences);
    if (o.max_rank < 0 || o.max_rank > 4096 || (o.dora & ~1))
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_embedder_create: max_rank is %d, dora %d; 0 to 4096 and 0 or 1 are possible", o.max_rank, o.dora);
    o.max_sequences = RAMET__MIN(o.max_sequences, o.max_rows);
    ramet__mem *mem = model->rt->mem;
    RAMET__NEW(e, ramet__calloc(mem, 1, sizeof *e));
    e->model = ramet_model_retain(model);
    e->o = o;
    e->adapter = -1;
    RAMET__NEW(e->pos, ramet__alloc(mem, (size_t)o.max_rows * sizeof *e->pos));
    RAMET__NEW(e->seq, ramet__alloc(mem, (size_t)o.max_rows * sizeof *e->seq));
    RAMET__NEW(e->zeros, ramet__calloc(mem, (size_t)o.max_rows, sizeof *e->zeros));
    RAMET__GO(make_plan(e));
    *out = e;
    return RAMET_OK;
out:
    ramet_embedder_free(e);
    return st;
}

void ramet_embedder_free(ramet_embedder *e) {
    if (!e) return;
    ramet_model *model = e->model;
    ramet__plan_free(e->plan);
    ramet__adapters_free(&e->adapters);
    ramet__free(e->pos);
    ramet__free(e->seq);
    ramet__free(e->zeros);
    ramet__free(e);
    ramet_model_free(model);
}

static ramet_status enter(const ramet_embedder *e, const char *function) {
    if (!e) return ramet__fail(RAMET_E_ARGUMENT, "%s: embedder is NULL", function);
    RAMET__TRY(ramet__runtime_check(e->model->rt));
    return e->busy ? ramet__fail(RAMET_E_STATE, "%s: called from inside a callback of the same embedder", function) : RAMET_OK;
}

ramet_status ramet_embedder_attach(int32_t *index, ramet_embedder *embedder, ramet_adapter *adapter, float scale) {
    RAMET__TRY(enter(embedder, "ramet_embedder_attach"));
    return ramet__adapters_attach(index, &embedder->adapters, adapter, scale, "ramet_embedder_attach");
}

ramet_status ramet_embedder_detach(ramet_embedder *embedder, int32_t index) {
    RAMET__TRY(enter(embedder, "ramet_embedder_detach"));
    RAMET__TRY(ramet__adapters_check(&embedder->adapters, index, "ramet_embedder_detach"));
    if (embedder->adapter == index) embedder->adapter = -1;
    ramet__adapters_detach(&embedder->adapters, index);
    return RAMET_OK;
}

ramet_status ramet_embedder_use(ramet_embedder *embedder, int32_t adapter_index) {
    RAMET__TRY(enter(embedder, "ramet_embedder_use"));
    if (adapter_index != -1) RAMET__TRY(ramet__adapters_check(&embedder->adapters, adapter_index, "ramet_embedder_use"));
    embedder->adapter = adapter_index;
    return RAMET_OK;
}

static ramet_status check(const ramet_embedder *e, const int32_t *ids, const int64_t *offsets, int64_t count) {
    const ramet__hparams *h = &e->model->h;
    const int64_t most = RAMET__MIN(h->n_ctx, (int64_t)e->o.max_rows);
    if (offsets[0] != 0) return ramet__fail(RAMET_E_ARGUMENT, "ramet_embed: offsets[0] is %lld; it must be 0", (long long)offsets[0]);
    for (int64_t i = 0; i < count; i++) {
        if (offsets[i + 1] <= offsets[i] || offsets[i + 1] - offsets[i] > most)
            return ramet__fail(RAMET_E_ARGUMENT, "ramet_embed: text %lld goes from id %lld to %lld; it must have 1 to %lld ids (the model's context, max_rows)", (long long)i,
                               (long long)offsets[i], (long long)offsets[i + 1], (long long)most);
        for (int64_t k = offsets[i]; k < offsets[i + 1]; k++)
            if (ids[k] < 0 || ids[k] >= h->n_vocab)
                return ramet__fail(RAMET_E_ARGUMENT, "ramet_embed: ids[%lld] is %d; the vocabulary has %lld", (long long)k, ids[k], (long long)h->n_vocab);
    }
    return RAMET_OK;
}

ramet_status ramet_embed(float *out, ramet_embedder *e, const int32_t *ids, const int64_t *offsets, int64_t count, ramet_progress_fn progress, void *user) {
    if (!out || !e || !ids || !offsets || count < 1)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_embed: %s", !out ? "out is NULL" : !e ? "embedder is NULL" : !ids ? "ids is NULL" : !offsets ? "offsets is NULL" : "count must be at least 1");
    RAMET__TRY(enter(e, "ramet_embed"));
    RAMET__TRY(check(e, ids, offsets, count));
    const size_t width = (size_t)e->model->h.n_embd;
    ramet_status st = RAMET_OK;
    e->busy = 1;
    for (int64_t first = 0, last; !st && first < count; first = last) {
        int64_t rows = 0;
        for (last = first; last < count && last - first < e->o.max_sequences && offsets[last + 1] - offsets[first] <= e->o.max_rows; last++)
            for (int64_t k = 0; k < offsets[last + 1] - offsets[last]; k++, rows++) {
                e->pos[rows] = (int32_t)k;
                e->seq[rows] = (int32_t)(last - first);
            }
        const ramet__run run = {.rows = rows, .outs = last - first, .n_inputs = 4,
                                .input = {{"tokens", ids + offsets[first]}, {"pos", e->pos}, {"seq", e->seq}, {"type", e->zeros}},
                                .adapters = e->adapter < 0 ? NULL : &e->adapters.table[e->adapter], .n_adapters = e->adapter >= 0};
        st = ramet__progress(progress, user, (double)first / (double)count, "embedding");
        if (!st) st = ramet__plan_run(e->plan, &run);
        if (!st) memcpy(out + (size_t)first * width, ramet__plan_output(e->plan, "embedding", NULL, NULL), (size_t)(last - first) * width * sizeof *out);
    }
    e->busy = 0;
    return st;
}
