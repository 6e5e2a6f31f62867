/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - the life of a model: putting weights together by the architecture's table, checking them, looking at them,
 * deriving models from one another, and the digest. Reading files is load_gguf.c and load_hf.c. */
#include "model/internal.h"
#include "model/model.h"
#include <stdatomic.h>
#include <string.h>

/* ---- names ---- */

static uint64_t hash(const char *s) { /* FNV-1a: names are the architecture's, not an attacker's */
    uint64_t h = 1469598103934665603u;
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 1099511628211u;
    return h;
}

static int64_t find(const ramet_model *m, const char *name) {
    if (!m->index_size) return -1;
    for (uint64_t i = hash(name);; i++) {
        int64_t at = m->index[i & (uint64_t)(m->index_size - 1)];
        if (!at) return -1;
        if (!strcmp(ramet__weight_name(m->weights[at - 1]), name)) return at - 1;
    }
}

static ramet_status make_index(ramet_model *m) {
    m->index_size = 16;
    while (m->index_size < 2 * m->n_weights) m->index_size *= 2;
    m->index = ramet__calloc(m->rt->mem, (size_t)m->index_size, sizeof *m->index);
    if (!m->index) return ramet__alloc_status();
    for (int64_t w = 0; w < m->n_weights; w++) {
        uint64_t i = hash(ramet__weight_name(m->weights[w]));
        while (m->index[i & (uint64_t)(m->index_size - 1)]) i++;
        m->index[i & (uint64_t)(m->index_size - 1)] = w + 1;
    }
    return RAMET_OK;
}

ramet__weight *ramet__model_weight(const ramet_model *m, const char *name) {
    int64_t i = find(m, name);
    return i < 0 ? NULL : m->weights[i];
}

const ramet__weight_spec *ramet__model_spec(const ramet_model *m, const char *name, int32_t *layer) {
    int32_t n;
    const ramet__weight_spec *spec = ramet__arch_spec(m->arch, name, 0, &n);
    if (!spec || n >= m->h.n_layer) return NULL;
    if (layer) *layer = n;
    return spec;
}

/* ---- making ---- */

ramet_status ramet__model_new(ramet_model **out, ramet_runtime *rt, const ramet__arch *arch, const ramet__hparams *h, const char *name) {
    ramet_model *m = ramet__calloc(rt->mem, 1, sizeof *m);
    if (!m) return ramet__alloc_status();
    m->rt = ramet__runtime_retain(rt);
    atomic_init(&m->refs, 1);
    m->arch = arch;
    m->h = *h;
    m->name = ramet__strdup(rt->mem, name);
    if (!m->name) {
        ramet_model_free(m);
        return ramet__alloc_status();
    }
    *out = m;
    return RAMET_OK;
}

static void wanted_shape(ramet__shape *s, const ramet__hparams *h, const ramet__weight_spec *spec) {
    *s = (ramet__shape){.rank = spec->rows == RAMET__DIM_ONE ? 1 : 2};
    if (s->rank == 2) s->dim[0] = ramet__dim_size(h, spec->rows);
    s->dim[s->rank - 1] = ramet__dim_size(h, spec->cols);
}

static ramet_status add(ramet_model *m, const ramet__weight_spec *spec, int32_t layer, ramet__fetch_fn fetch, void *context) {
    char name[RAMET__NAME_MAX], has[96], wants[96];
    ramet__shape want;
    ramet__weight *w = NULL;
    ramet__spec_name(name, spec, layer);
    wanted_shape(&want, &m->h, spec);
    RAMET__TRY(fetch(&w, context, spec, layer, name, &want));
    if (!w) {
        if (spec->optional) return RAMET_OK;
        return ramet__fail(RAMET_E_INCONSISTENT, "the weight %s is missing", name);
    }
    m->weights[m->n_weights++] = w;
    if (ramet__shape_equal(ramet__weight_shape(w), &want)) return RAMET_OK;
    ramet__shape_text(has, ramet__weight_shape(w));
    ramet__shape_text(wants, &want);
    return ramet__fail(RAMET_E_INCONSISTENT, "the weight %s is %s; the model's sizes need %s", name, has, wants);
}

ramet_status ramet__model_fill(ramet_model *m, ramet__fetch_fn fetch, void *context) {
    const ramet__arch *arch = m->arch;
    int32_t from = 0;
    m->weights = ramet__calloc(m->rt->mem, (size_t)arch->n_specs * (size_t)m->h.n_layer, sizeof *m->weights);
    if (!m->weights) return ramet__alloc_status();
    while (from < arch->n_specs) { /* a stretch of per-layer specs goes layer by layer */
        int32_t to = from;
        while (to < arch->n_specs && strstr(arch->specs[to].name, "%d")) to++;
        if (to == from) {
            RAMET__TRY(add(m, &arch->specs[from++], -1, fetch, context));
            continue;
        }
        for (int32_t layer = 0; layer < m->h.n_layer; layer++)
            for (int32_t i = from; i < to; i++) RAMET__TRY(add(m, &arch->specs[i], layer, fetch, context));
        from = to;
    }
    return make_index(m);
}

/* ---- finite ---- */

ramet_status ramet__model_check_finite(const ramet_model *m) {
    for (int64_t i = 0; i < m->n_weights; i++) RAMET__TRY(ramet__weight_check(m->weights[i]));
    return RAMET_OK;
}

/* ---- deriving ---- */

typedef struct given { ramet__weight *const *weights; int64_t n, next; } given;

/* Weights come in the order of the table as a rule; any order is found. */
static ramet_status fetch_given(ramet__weight **out, void *context, const ramet__weight_spec *spec, int32_t layer, const char *name, const ramet__shape *want) {
    given *g = context;
    for (int64_t i = 0; i < g->n; i++) {
        int64_t at = (g->next + i) % g->n;
        if (strcmp(ramet__weight_name(g->weights[at]), name)) continue;
        *out = ramet__weight_retain(g->weights[at]);
        g->next = at + 1;
        return RAMET_OK;
    }
    return RAMET_OK;
}

ramet_status ramet__model_derive(ramet_model **out, const ramet_model *base, const ramet__hparams *h, ramet__weight *const *weights, int64_t n, ramet__lineage *lineage) {
    ramet_model *m = NULL;
    ramet_status st;
    given g = {weights, n, 0};
    if (lineage && lineage->n_layer != h->n_layer)
        return ramet__fail(RAMET_E_ARGUMENT, "the lineage names %d layers, the model has %d", lineage->n_layer, h->n_layer);
    RAMET__TRY(ramet__hparams_check(h, base->name));
    RAMET__GO(ramet__model_new(&m, base->rt, base->arch, h, base->name));
    RAMET__GO(ramet__model_fill(m, fetch_given, &g));
    if (m->n_weights != n) {
        st = ramet__fail(RAMET_E_INCONSISTENT, "%lld weights were given, the model's table takes %lld", (long long)n, (long long)m->n_weights);
        goto out;
    }
    m->h.tied = !ramet__model_weight(m, "output.weight");
    if (base->meta) {
        m->meta = base->meta;
        m->meta_refs = base->meta_refs;
        atomic_fetch_add_explicit(m->meta_refs, 1, memory_order_relaxed);
    }
    if (base->tokenizer) m->tokenizer = ramet__tokenizer_retain(base->tokenizer);
    m->lineage = lineage;
    *out = m;
    return RAMET_OK;
out:
    ramet_model_free(m);
    return st;
}

ramet_model *ramet_model_retain(ramet_model *model) {
    if (model) atomic_fetch_add_explicit(&model->refs, 1, memory_order_relaxed);
    return model;
}

void ramet_model_free(ramet_model *model) {
    if (!model || atomic_fetch_sub(&model->refs, 1) > 1) return;
    ramet_runtime *rt = model->rt;
    for (int64_t i = 0; i < model->n_weights; i++) ramet__weight_free(model->weights[i]);
    ramet__free(model->weights);
    ramet__free(model->index);
    if (model->meta && atomic_fetch_sub(model->meta_refs, 1) == 1) {
        ramet__gguf_free(model->meta);
        ramet__free(model->meta_refs);
    }
    ramet__tokenizer_free(model->tokenizer);
    ramet__lineage_free(model->lineage);
    ramet__free(model->name);
    ramet__free(model);
    ramet_runtime_free(rt);
}

/* ---- looking ---- */

static ramet_status check_model(const ramet_model *m, const char *function) {
    if (!m) return ramet__fail(RAMET_E_ARGUMENT, "%s: model is NULL", function);
    return ramet__runtime_check(m->rt);
}

const char *ramet_model_architecture(const ramet_model *model) { return model ? model->arch->name : ""; }

ramet_status ramet_model_number(int64_t *out, const ramet_model *model, const char *name) {
    RAMET__TRY(check_model(model, "ramet_model_number"));
    if (!out || !name) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_number: %s is NULL", out ? "name" : "out");
    const ramet__hparams *h = &model->h;
    int64_t parameters = 0, bytes = 0;
    for (int64_t i = 0; i < model->n_weights; i++) {
        parameters += ramet__shape_count(ramet__weight_shape(model->weights[i]));
        bytes += (int64_t)ramet__weight_bytes(model->weights[i]);
    }
    const struct { const char *name; int64_t value; } numbers[] = {
        {"vocabulary", h->n_vocab}, {"layers", h->n_layer}, {"width", h->n_embd},  {"heads", h->n_head},        {"kv_heads", h->n_kv},
        {"head_width", h->head_dim}, {"ffn_width", h->n_ff}, {"context", h->n_ctx}, {"parameters", parameters}, {"bytes", bytes},
    };
    for (int32_t i = 0; i < RAMET__COUNT(numbers); i++)
        if (!strcmp(numbers[i].name, name)) {
            *out = numbers[i].value;
            return RAMET_OK;
        }
    return ramet__fail(RAMET_E_NOT_FOUND, "ramet_model_number: no number is called \"%s\"; see ramet/model.h for the list", name);
}

int64_t ramet_model_tensor_count(const ramet_model *model) { return model ? model->n_weights : 0; }

static ramet_status check_index(const ramet_model *m, int64_t index, const char *function) {
    RAMET__TRY(check_model(m, function));
    if (index >= 0 && index < m->n_weights) return RAMET_OK;
    return ramet__fail(RAMET_E_ARGUMENT, "%s: index %lld; the model has %lld weights", function, (long long)index, (long long)m->n_weights);
}

ramet_status ramet_model_tensor_at(ramet_tensor_info *out, const ramet_model *model, int64_t index) {
    RAMET__TRY(check_index(model, index, "ramet_model_tensor_at"));
    if (!out) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_tensor_at: out is NULL");
    const uint32_t size = out->struct_size;
    if (size < sizeof size) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_tensor_at: out->struct_size is %u; set it to the size of the struct", size);
    const ramet__weight *w = model->weights[index];
    const ramet__shape *s = ramet__weight_shape(w);
    ramet_tensor_info info = {.struct_size = size, .rank = s->rank, .name = ramet__weight_name(w),
                              .encoding = ramet__encoding_get(ramet__weight_enc(w))->name, .bytes = ramet__weight_bytes(w)};
    for (int32_t i = 0; i < s->rank; i++) info.dim[i] = s->dim[i];
    memcpy(out, &info, RAMET__MIN(size, sizeof info));
    return RAMET_OK;
}

ramet_status ramet_model_tensor_find(int64_t *index, const ramet_model *model, const char *name) {
    RAMET__TRY(check_model(model, "ramet_model_tensor_find"));
    if (!index || !name) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_tensor_find: %s is NULL", index ? "name" : "index");
    int64_t at = find(model, name);
    if (at < 0) return ramet__fail(RAMET_E_NOT_FOUND, "%s has no weight \"%s\"", model->name, name);
    *index = at;
    return RAMET_OK;
}

ramet_status ramet_model_tensor_read(float *dst, int64_t count, const ramet_model *model, int64_t index) {
    RAMET__TRY(check_index(model, index, "ramet_model_tensor_read"));
    const ramet__weight *w = model->weights[index];
    int64_t n = ramet__shape_count(ramet__weight_shape(w));
    if (!dst) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_tensor_read: dst is NULL");
    if (count != n)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_tensor_read: count is %lld; %s has %lld elements", (long long)count, ramet__weight_name(w), (long long)n);
    ramet__weight_decode(dst, w, 0, ramet__shape_rows(ramet__weight_shape(w)));
    return RAMET_OK;
}

/* ---- digest: over logical weights in the order of their names, so that neither container nor file order matters ---- */

static void digest_text(ramet__sha256 *sha, const char *text) { ramet__sha256_add(sha, text, strlen(text) + 1); }

static void digest_number(ramet__sha256 *sha, uint64_t n) {
    uint8_t le[8];
    for (int32_t i = 0; i < 8; i++) le[i] = (uint8_t)(n >> (8 * i));
    ramet__sha256_add(sha, le, sizeof le);
}

static void sift(ramet__weight **w, int64_t at, int64_t n) { /* heap sort: qsort may allocate */
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && strcmp(ramet__weight_name(w[child]), ramet__weight_name(w[child + 1])) < 0) child++;
        if (strcmp(ramet__weight_name(w[at]), ramet__weight_name(w[child])) >= 0) return;
        ramet__weight *t = w[at];
        w[at] = w[child], w[child] = t;
    }
}

static ramet_status digest(char hex[65], const ramet_model *m) {
    const int64_t n = m->n_weights;
    ramet__sha256 sha;
    ramet__weight **order = ramet__alloc(m->rt->mem, (size_t)n * sizeof(ramet__weight *));
    if (!order) return ramet__alloc_status();
    memcpy(order, m->weights, (size_t)n * sizeof *order);
    for (int64_t i = n / 2; i-- > 0;) sift(order, i, n);
    for (int64_t end = n; end-- > 1;) {
        ramet__weight *t = order[0];
        order[0] = order[end], order[end] = t;
        sift(order, 0, end);
    }
    ramet__sha256_init(&sha);
    for (int64_t i = 0; i < n; i++) {
        const ramet__shape *s = ramet__weight_shape(order[i]);
        digest_text(&sha, ramet__weight_name(order[i]));
        digest_text(&sha, ramet__encoding_get(ramet__weight_enc(order[i]))->name);
        digest_number(&sha, (uint64_t)s->rank);
        for (int32_t d = 0; d < s->rank; d++) digest_number(&sha, (uint64_t)s->dim[d]);
        ramet__sha256_add(&sha, ramet__weight_data(order[i]), ramet__weight_bytes(order[i]));
    }
    ramet__sha256_hex(&sha, hex);
    ramet__free(order);
    return RAMET_OK;
}

/* States: 0 not made, 1 one thread is storing, 2 there. Threads that ask at once each compute it; one stores; nobody waits long. */
const char *ramet_model_digest(const ramet_model *model) {
    char hex[65];
    if (check_model(model, "ramet_model_digest")) return NULL;
    ramet_model *m = (ramet_model *)(uintptr_t)model; /* a cache, not a change */
    if (atomic_load(&m->digest_state) == 2) return m->digest;
    if (digest(hex, m)) return NULL;
    int32_t none = 0;
    if (atomic_compare_exchange_strong(&m->digest_state, &none, 1)) {
        memcpy(m->digest, hex, sizeof hex);
        atomic_store(&m->digest_state, 2);
    }
    while (atomic_load(&m->digest_state) != 2) {} /* the length of a 65-byte copy */
    return m->digest;
}
