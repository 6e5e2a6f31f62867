/* SPDX-License-Identifier: Apache-2.0 */
/* bert.c - BERT (Devlin et al. 2019) as sentence encoders have it (Reimers & Gurevych 2019): learned positions, post-norm layers
 * with biases, every token sees all of its text, the mean over a text's tokens scaled to length 1. Names are llama.cpp's, Hugging
 * Face's beside. */
#include "model/model.h"
#include <string.h>

#define PAIR(name, hf, target, rows, cols) \
    {name ".weight", hf ".weight", target, rows, cols, 0}, {name ".bias", hf ".bias", NULL, RAMET__DIM_ONE, rows, 0}
#define NORM(name, hf) \
    {name ".weight", hf ".weight", NULL, RAMET__DIM_ONE, RAMET__DIM_EMBD, 0}, {name ".bias", hf ".bias", NULL, RAMET__DIM_ONE, RAMET__DIM_EMBD, 0}
static const ramet__weight_spec specs[] = {
    {"token_embd.weight", "embeddings.word_embeddings.weight", NULL, RAMET__DIM_VOCAB, RAMET__DIM_EMBD, 0},
    {"position_embd.weight", "embeddings.position_embeddings.weight", NULL, RAMET__DIM_CONTEXT, RAMET__DIM_EMBD, 0},
    {"token_types.weight", "embeddings.token_type_embeddings.weight", NULL, RAMET__DIM_TYPES, RAMET__DIM_EMBD, 0},
    NORM("token_embd_norm", "embeddings.LayerNorm"),
    PAIR("blk.%d.attn_q", "encoder.layer.%d.attention.self.query", "query", RAMET__DIM_Q, RAMET__DIM_EMBD),
    PAIR("blk.%d.attn_k", "encoder.layer.%d.attention.self.key", "key", RAMET__DIM_KV, RAMET__DIM_EMBD),
    PAIR("blk.%d.attn_v", "encoder.layer.%d.attention.self.value", "value", RAMET__DIM_KV, RAMET__DIM_EMBD),
    PAIR("blk.%d.attn_output", "encoder.layer.%d.attention.output.dense", "dense", RAMET__DIM_EMBD, RAMET__DIM_Q),
    NORM("blk.%d.attn_output_norm", "encoder.layer.%d.attention.output.LayerNorm"),
    PAIR("blk.%d.ffn_up", "encoder.layer.%d.intermediate.dense", "dense", RAMET__DIM_FF, RAMET__DIM_EMBD),
    PAIR("blk.%d.ffn_down", "encoder.layer.%d.output.dense", "dense", RAMET__DIM_EMBD, RAMET__DIM_FF),
    NORM("blk.%d.layer_output_norm", "encoder.layer.%d.output.LayerNorm"),
};
/* What a folder holds beside: numbers 0, 1, 2 ..., and a head that sentence embeddings do not use. */
static const char *const unused[] = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias", NULL};

typedef struct number { const char *key; int64_t *value; } number;
static ramet_status finish(ramet__hparams *out, ramet__hparams *h, int64_t layers, int64_t heads, double eps) {
    if (layers < 1 || layers > 4096 || heads < 1 || heads > 4096 || h->n_types < 1 || h->n_types > 4096 || h->n_embd % heads)
        return ramet__fail(RAMET_E_INCONSISTENT, "bert: %lld layers, %lld heads in a width of %lld, %lld token types", (long long)layers, (long long)heads,
                           (long long)h->n_embd, (long long)h->n_types);
    h->n_layer = (int32_t)layers;
    h->n_head = h->n_kv = (int32_t)heads;
    h->head_dim = (int32_t)RAMET__MIN(h->n_embd / heads, INT32_MAX);
    h->eps = (float)eps;
    h->tied = 1;
    *out = *h;
    return RAMET_OK;
}

static ramet_status hparams_gguf(ramet__hparams *out, const ramet__gguf *g) {
    ramet__hparams h = {0};
    int64_t layers, heads, pooling;
    double eps;
    const number numbers[] = {{"bert.block_count", &layers}, {"bert.context_length", &h.n_ctx}, {"bert.embedding_length", &h.n_embd},
                              {"bert.feed_forward_length", &h.n_ff}, {"bert.attention.head_count", &heads}};
    for (int32_t i = 0; i < RAMET__COUNT(numbers); i++) {
        if (!ramet__gguf_find(g, numbers[i].key)) return ramet__fail(RAMET_E_INCONSISTENT, "the key %s is missing; a bert model needs it", numbers[i].key);
        RAMET__TRY(ramet__gguf_i64(numbers[i].value, g, numbers[i].key, 0));
    }
    RAMET__TRY(ramet__gguf_f64(&eps, g, "bert.attention.layer_norm_epsilon", 1e-12));
    RAMET__TRY(ramet__gguf_i64(&pooling, g, "bert.pooling_type", 1));
    if (pooling != 1) return ramet__fail(RAMET_E_UNSUPPORTED, "bert.pooling_type is %lld; only 1, the mean over tokens, is supported", (long long)pooling);
    const ramet__gguf_tensor *embd = ramet__gguf_tensor_find(g, "token_embd.weight"), *types = ramet__gguf_tensor_find(g, "token_types.weight");
    h.n_vocab = embd && embd->shape.rank == 2 ? embd->shape.dim[0] : 0;
    h.n_types = types && types->shape.rank == 2 ? types->shape.dim[0] : 2;
    return finish(out, &h, layers, heads, eps);
}

static ramet_status hparams_hf(ramet__hparams *out, const ramet__json *config) {
    ramet__hparams h = {0};
    int64_t layers, heads;
    double eps;
    const char *text;
    const number numbers[] = {{"num_hidden_layers", &layers}, {"max_position_embeddings", &h.n_ctx}, {"hidden_size", &h.n_embd},
                              {"intermediate_size", &h.n_ff}, {"num_attention_heads", &heads}, {"vocab_size", &h.n_vocab}, {"type_vocab_size", &h.n_types}};
    for (int32_t i = 0; i < RAMET__COUNT(numbers); i++) {
        if (!ramet__json_get(config, numbers[i].key)) return ramet__fail(RAMET_E_INCONSISTENT, "config.json: \"%s\" is missing; a bert model needs it", numbers[i].key);
        RAMET__TRY(ramet__json_i64(numbers[i].value, config, numbers[i].key, 0));
    }
    RAMET__TRY(ramet__json_string(&text, config, "hidden_act", "gelu"));
    if (strcmp(text, "gelu")) return ramet__fail(RAMET_E_UNSUPPORTED, "config.json: \"hidden_act\" is \"%s\"; only gelu is supported", text);
    RAMET__TRY(ramet__json_string(&text, config, "position_embedding_type", "absolute"));
    if (strcmp(text, "absolute")) return ramet__fail(RAMET_E_UNSUPPORTED, "config.json: \"position_embedding_type\" is \"%s\"; only absolute is supported", text);
    RAMET__TRY(ramet__json_f64(&eps, config, "layer_norm_eps", 1e-12));
    return finish(out, &h, layers, heads, eps);
}

static ramet_status write(ramet__gguf_writer *w, const ramet__hparams *h) {
    const struct { const char *key; int64_t value; } numbers[] = {
        {"bert.block_count", h->n_layer}, {"bert.context_length", h->n_ctx}, {"bert.embedding_length", h->n_embd}, {"bert.feed_forward_length", h->n_ff},
        {"bert.attention.head_count", h->n_head}, {"bert.pooling_type", 1}, {"tokenizer.ggml.token_type_count", h->n_types},
    };
    for (int32_t i = 0; i < RAMET__COUNT(numbers); i++) RAMET__TRY(ramet__gguf_put_u32(w, numbers[i].key, (uint32_t)numbers[i].value));
    RAMET__TRY(ramet__gguf_put_bool(w, "bert.attention.causal", 0));
    return ramet__gguf_put_f32(w, "bert.attention.layer_norm_epsilon", h->eps);
}

/* ---- the builder ---- */

typedef struct builder { ramet__graph *g; const ramet_model *m; const ramet__build_options *o; int32_t layer; } builder;

static ramet__val weight(const builder *b, const char *stem, const char *end, char name[RAMET__NAME_MAX]) {
    char pattern[RAMET__NAME_MAX];
    const size_t n = strlen(stem);
    memcpy(pattern, stem, n);
    memcpy(pattern + n, end, strlen(end) + 1);
    const ramet__weight_spec spec = {.name = pattern};
    ramet__spec_name(name, &spec, b->layer);
    ramet__var *var = b->o->train ? b->o->train(name, b->o->train_user) : NULL;
    if (var) return ramet__graph_var(b->g, var);
    ramet__weight *w = ramet__model_weight(b->m, name);
    if (w) return ramet__graph_weight(b->g, w);
    ramet__graph_fail(b->g, RAMET_E_INTERNAL, "the model has no weight %s", name);
    return -1;
}
static ramet__val linear(const builder *b, ramet__val x, const char *stem) {
    char name[RAMET__NAME_MAX], bias[RAMET__NAME_MAX];
    const ramet__val w = weight(b, stem, ".weight", name), v = weight(b, stem, ".bias", bias);
    const ramet__weight_spec *spec = ramet__arch_spec(b->m->arch, name, 0, NULL);
    const int32_t target = ramet__target_listed(b->o->targets, spec->target);
    ramet__slot slot;
    if (b->o->slots && target) slot = ramet__graph_slot(b->g, name, ramet__dim_size(&b->m->h, spec->rows), ramet__dim_size(&b->m->h, spec->cols)), slot.gain = b->o->gains;
    const ramet__val y = ramet__op_linear(b->g, x, w, v, b->o->slots && target ? &slot : NULL);
    return b->o->after && target ? b->o->after(b->g, x, y, name, b->o->train_user) : y;
}
static ramet__val norm(const builder *b, ramet__val x, const char *stem) {
    char name[RAMET__NAME_MAX];
    const ramet__val w = weight(b, stem, ".weight", name);
    return ramet__op_layer_norm(b->g, x, w, weight(b, stem, ".bias", name), b->m->h.eps);
}

static ramet_status build(ramet__built *out, ramet__graph *g, const struct ramet_model *m, const ramet__build_options *o) {
    const ramet__hparams *h = &m->h;
    builder b = {g, m, o, -1};
    char name[RAMET__NAME_MAX];
    if (!o->embed && !o->rows)
        return ramet__fail(RAMET_E_UNSUPPORTED, "%s is a bert model, which makes embeddings and no text; use ramet_embedder_create (ramet embed, model.embed)", m->name);
    ramet__val tokens = ramet__graph_input(g, "tokens", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
    ramet__val pos = ramet__graph_input(g, "pos", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
    ramet__val type = ramet__graph_input(g, "type", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
    ramet__val seq = ramet__graph_input(g, "seq", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
    ramet__val x = ramet__op_embed(g, weight(&b, "token_embd", ".weight", name), tokens);
    x = ramet__op_add(g, x, ramet__op_embed(g, weight(&b, "token_types", ".weight", name), type));
    x = ramet__op_add(g, x, ramet__op_embed(g, weight(&b, "position_embd", ".weight", name), pos));
    x = norm(&b, x, "token_embd_norm");
    for (b.layer = 0; b.layer < h->n_layer; b.layer++) {
        x = ramet__op_tap(g, x, "blk.%d.in", b.layer);
        ramet__val q = linear(&b, x, "blk.%d.attn_q"), k = linear(&b, x, "blk.%d.attn_k"), v = linear(&b, x, "blk.%d.attn_v");
        ramet__val a = ramet__op_attention_whole(g, q, k, v, seq, h->n_head, h->n_kv, h->head_dim);
        x = norm(&b, ramet__op_add(g, x, linear(&b, a, "blk.%d.attn_output")), "blk.%d.attn_output_norm");
        ramet__val f = ramet__op_gelu(g, linear(&b, x, "blk.%d.ffn_up"));
        x = norm(&b, ramet__op_add(g, x, linear(&b, f, "blk.%d.ffn_down")), "blk.%d.layer_output_norm");
        x = ramet__op_tap(g, x, "blk.%d.out", b.layer);
    }
    if (o->rows) {
        out->rows = x;
        return ramet__graph_status(g);
    }
    out->hidden = ramet__op_l2_normalize(g, ramet__op_segment_mean(g, x, seq));
    out->logits = -1;
    return ramet__graph_status(g);
}

extern const ramet__arch ramet__arch_bert;
const ramet__arch ramet__arch_bert = {
    .name = "bert",
    .summary = "BERT sentence encoders: learned positions, layer norm, GELU, attention of all with all, mean over tokens; embeddings only",
    .specs = specs,
    .n_specs = RAMET__COUNT(specs),
    .hf_unused = unused,
    .encoder = 1,
    .hparams_gguf = hparams_gguf,
    .hparams_hf = hparams_hf,
    .write = write,
    .build = build,
};
