/* SPDX-License-Identifier: Apache-2.0 */
/* llama.c - the Llama family (Touvron et al. 2023): pre-norm residual layers, RMS norm, rotary positions, grouped-query
 * attention (Ainslie et al. 2023), SwiGLU feed-forward; no biases. Key and tensor names are llama.cpp's, Hugging Face's beside. */
#include "model/model.h"
#include <string.h>

static const ramet__weight_spec specs[] = {
    {"token_embd.weight", "model.embed_tokens.weight", NULL, RAMET__DIM_VOCAB, RAMET__DIM_EMBD, 0},
    {"blk.%d.attn_norm.weight", "model.layers.%d.input_layernorm.weight", NULL, RAMET__DIM_ONE, RAMET__DIM_EMBD, 0},
    {"blk.%d.attn_q.weight", "model.layers.%d.self_attn.q_proj.weight", "q_proj", RAMET__DIM_Q, RAMET__DIM_EMBD, 0},
    {"blk.%d.attn_k.weight", "model.layers.%d.self_attn.k_proj.weight", "k_proj", RAMET__DIM_KV, RAMET__DIM_EMBD, 0},
    {"blk.%d.attn_v.weight", "model.layers.%d.self_attn.v_proj.weight", "v_proj", RAMET__DIM_KV, RAMET__DIM_EMBD, 0},
    {"blk.%d.attn_output.weight", "model.layers.%d.self_attn.o_proj.weight", "o_proj", RAMET__DIM_EMBD, RAMET__DIM_Q, 0},
    {"blk.%d.ffn_norm.weight", "model.layers.%d.post_attention_layernorm.weight", NULL, RAMET__DIM_ONE, RAMET__DIM_EMBD, 0},
    {"blk.%d.ffn_gate.weight", "model.layers.%d.mlp.gate_proj.weight", "gate_proj", RAMET__DIM_FF, RAMET__DIM_EMBD, 0},
    {"blk.%d.ffn_up.weight", "model.layers.%d.mlp.up_proj.weight", "up_proj", RAMET__DIM_FF, RAMET__DIM_EMBD, 0},
    {"blk.%d.ffn_down.weight", "model.layers.%d.mlp.down_proj.weight", "down_proj", RAMET__DIM_EMBD, RAMET__DIM_FF, 0},
    {"output_norm.weight", "model.norm.weight", NULL, RAMET__DIM_ONE, RAMET__DIM_EMBD, 0},
    {"output.weight", "lm_head.weight", "lm_head", RAMET__DIM_VOCAB, RAMET__DIM_EMBD, 1}, /* absent: tied to the embedding */
};

/* ---- hyper-parameters ---- */

static ramet_status bounded(int32_t *out, int64_t v, const char *key) {
    if (v > INT32_MAX) return ramet__fail(RAMET_E_LIMIT, "%s is %lld, more than this library supports", key, (long long)v);
    if (v < INT32_MIN) return ramet__fail(RAMET_E_INCONSISTENT, "%s is %lld; it must be positive", key, (long long)v);
    *out = (int32_t)v;
    return RAMET_OK;
}

/* A whole number that must be there. */
static ramet_status must(int64_t *out, const ramet__gguf *g, const char *key) {
    if (!ramet__gguf_find(g, key)) return ramet__fail(RAMET_E_INCONSISTENT, "the key %s is missing; a llama model needs it", key);
    return ramet__gguf_i64(out, g, key, 0);
}

/* What the family has in later variants and this builder does not: named, never ignored. */
static ramet_status refuse_gguf(const ramet__gguf *g) {
    const char *scaling;
    double factor;
    int64_t n;
    RAMET__TRY(ramet__gguf_text(&scaling, g, "llama.rope.scaling.type", "none"));
    RAMET__TRY(ramet__gguf_f64(&factor, g, "llama.rope.scaling.factor", 1));
    if (strcmp(scaling, "none") && !(!strcmp(scaling, "linear") && factor == 1))
        return ramet__fail(RAMET_E_UNSUPPORTED, "llama.rope.scaling.type is \"%s\"; only unscaled rotary positions are supported", scaling);
    RAMET__TRY(ramet__gguf_f64(&factor, g, "llama.rope.scale_linear", 1));
    if (factor != 1) return ramet__fail(RAMET_E_UNSUPPORTED, "llama.rope.scale_linear is %g; only unscaled rotary positions are supported", factor);
    if (ramet__gguf_tensor_find(g, "rope_freqs.weight"))
        return ramet__fail(RAMET_E_UNSUPPORTED, "rotary frequency factors (tensor rope_freqs.weight, \"llama3\" scaling) are not supported");
    RAMET__TRY(ramet__gguf_i64(&n, g, "llama.expert_count", 0));
    if (n) return ramet__fail(RAMET_E_UNSUPPORTED, "llama.expert_count is %lld; mixtures of experts are not supported", (long long)n);
    RAMET__TRY(ramet__gguf_i64(&n, g, "llama.attention.sliding_window", 0));
    if (n) return ramet__fail(RAMET_E_UNSUPPORTED, "llama.attention.sliding_window is %lld; sliding windows are not supported", (long long)n);
    return RAMET_OK;
}

static ramet_status hparams_gguf(ramet__hparams *out, const ramet__gguf *g) {
    ramet__hparams h = {0};
    int64_t layers, heads, kv, hd, vd, rot, vocab;
    double eps, base;
    RAMET__TRY(refuse_gguf(g));
    RAMET__TRY(must(&layers, g, "llama.block_count"));
    RAMET__TRY(must(&h.n_ctx, g, "llama.context_length"));
    RAMET__TRY(must(&h.n_embd, g, "llama.embedding_length"));
    RAMET__TRY(must(&h.n_ff, g, "llama.feed_forward_length"));
    RAMET__TRY(must(&heads, g, "llama.attention.head_count"));
    RAMET__TRY(ramet__gguf_i64(&kv, g, "llama.attention.head_count_kv", heads));
    RAMET__TRY(bounded(&h.n_layer, layers, "llama.block_count"));
    RAMET__TRY(bounded(&h.n_head, heads, "llama.attention.head_count"));
    RAMET__TRY(bounded(&h.n_kv, kv, "llama.attention.head_count_kv"));
    if (h.n_head <= 0) return ramet__fail(RAMET_E_INCONSISTENT, "llama.attention.head_count is %d; it must be positive", h.n_head);
    RAMET__TRY(ramet__gguf_i64(&hd, g, "llama.attention.key_length", h.n_embd / h.n_head));
    RAMET__TRY(ramet__gguf_i64(&vd, g, "llama.attention.value_length", hd));
    if (vd != hd)
        return ramet__fail(RAMET_E_UNSUPPORTED, "llama.attention.value_length %lld differs from key_length %lld; not supported", (long long)vd, (long long)hd);
    RAMET__TRY(ramet__gguf_i64(&rot, g, "llama.rope.dimension_count", hd));
    RAMET__TRY(bounded(&h.head_dim, hd, "llama.attention.key_length"));
    RAMET__TRY(bounded(&h.rope_dim, rot, "llama.rope.dimension_count"));
    if (!ramet__gguf_find(g, "llama.attention.layer_norm_rms_epsilon"))
        return ramet__fail(RAMET_E_INCONSISTENT, "the key llama.attention.layer_norm_rms_epsilon is missing; a llama model needs it");
    RAMET__TRY(ramet__gguf_f64(&eps, g, "llama.attention.layer_norm_rms_epsilon", 0));
    RAMET__TRY(ramet__gguf_f64(&base, g, "llama.rope.freq_base", 10000));
    h.eps = (float)eps;
    h.rope_base = (float)base;
    const ramet__gguf_tensor *embd = ramet__gguf_tensor_find(g, "token_embd.weight");
    h.n_vocab = embd && embd->shape.rank == 2 ? embd->shape.dim[0] : 0;
    RAMET__TRY(ramet__gguf_i64(&vocab, g, "llama.vocab_size", h.n_vocab));
    if (embd && vocab != h.n_vocab)
        return ramet__fail(RAMET_E_INCONSISTENT, "llama.vocab_size is %lld but token_embd.weight has %lld rows", (long long)vocab, (long long)h.n_vocab);
    h.n_vocab = vocab;
    h.tied = !ramet__gguf_tensor_find(g, "output.weight");
    *out = h;
    return RAMET_OK;
}

/* A member of config.json that must be absent, null, false or the value given. */
static ramet_status only(const ramet__json *config, const char *key, const char *allowed) {
    const ramet__json *v = ramet__json_get(config, key);
    if (!v || v->type == RAMET__JSON_NULL || (v->type == RAMET__JSON_BOOL && !v->integer)) return RAMET_OK;
    if (v->type == RAMET__JSON_STRING && allowed && !strcmp(v->text, allowed)) return RAMET_OK;
    return ramet__fail(RAMET_E_UNSUPPORTED, "config.json: \"%s\" is %s%s%s; not supported", key, v->type == RAMET__JSON_STRING ? "\"" : "",
                       v->type == RAMET__JSON_STRING ? v->text : "set", v->type == RAMET__JSON_STRING ? "\"" : "");
}

static ramet_status need(int64_t *out, const ramet__json *config, const char *key) {
    const ramet__json *v = ramet__json_get(config, key);
    if (!v || v->type == RAMET__JSON_NULL) return ramet__fail(RAMET_E_INCONSISTENT, "config.json: \"%s\" is missing; a llama model needs it", key);
    return ramet__json_i64(out, config, key, 0);
}

static ramet_status hparams_hf(ramet__hparams *out, const ramet__json *config) {
    ramet__hparams h = {0};
    int64_t layers, heads, kv, hd;
    double eps, base, partial;
    RAMET__TRY(only(config, "attention_bias", NULL));
    RAMET__TRY(only(config, "mlp_bias", NULL));
    RAMET__TRY(only(config, "hidden_act", "silu"));
    RAMET__TRY(only(config, "quantization_config", NULL));
    RAMET__TRY(need(&layers, config, "num_hidden_layers"));
    RAMET__TRY(need(&h.n_ctx, config, "max_position_embeddings"));
    RAMET__TRY(need(&h.n_embd, config, "hidden_size"));
    RAMET__TRY(need(&h.n_ff, config, "intermediate_size"));
    RAMET__TRY(need(&heads, config, "num_attention_heads"));
    RAMET__TRY(need(&h.n_vocab, config, "vocab_size"));
    RAMET__TRY(ramet__json_i64(&kv, config, "num_key_value_heads", heads));
    RAMET__TRY(bounded(&h.n_layer, layers, "config.json: \"num_hidden_layers\""));
    RAMET__TRY(bounded(&h.n_head, heads, "config.json: \"num_attention_heads\""));
    RAMET__TRY(bounded(&h.n_kv, kv, "config.json: \"num_key_value_heads\""));
    if (h.n_head <= 0) return ramet__fail(RAMET_E_INCONSISTENT, "config.json: \"num_attention_heads\" is %d; it must be positive", h.n_head);
    RAMET__TRY(ramet__json_i64(&hd, config, "head_dim", h.n_embd / h.n_head));
    RAMET__TRY(bounded(&h.head_dim, hd, "config.json: \"head_dim\""));
    RAMET__TRY(ramet__json_f64(&eps, config, "rms_norm_eps", 1e-6));
    /* Newer files keep the rotary settings in "rope_parameters"; older ones have "rope_theta" and "rope_scaling". */
    const ramet__json *rope = ramet__json_get(config, "rope_parameters");
    const ramet__json *scaling = ramet__json_get(config, "rope_scaling");
    RAMET__TRY(ramet__json_f64(&base, config, "rope_theta", 10000));
    if (rope && rope->type == RAMET__JSON_OBJECT) RAMET__TRY(ramet__json_f64(&base, rope, "rope_theta", base));
    for (int32_t i = 0; i < 2; i++) {
        const ramet__json *r = i ? scaling : rope;
        const char *type;
        if (!r || r->type == RAMET__JSON_NULL) continue;
        if (r->type != RAMET__JSON_OBJECT) return ramet__fail(RAMET_E_FORMAT, "config.json: \"%s\" is not an object", i ? "rope_scaling" : "rope_parameters");
        RAMET__TRY(ramet__json_string(&type, r, "type", "default"));
        RAMET__TRY(ramet__json_string(&type, r, "rope_type", type));
        if (strcmp(type, "default")) return ramet__fail(RAMET_E_UNSUPPORTED, "config.json: rotary scaling \"%s\" is not supported", type);
    }
    RAMET__TRY(ramet__json_f64(&partial, config, "partial_rotary_factor", 1));
    if (partial != 1) return ramet__fail(RAMET_E_UNSUPPORTED, "config.json: \"partial_rotary_factor\" %g is not supported", partial);
    h.rope_dim = h.head_dim;
    h.eps = (float)eps;
    h.rope_base = (float)base;
    const ramet__json *tie = ramet__json_get(config, "tie_word_embeddings");
    h.tied = tie && tie->type == RAMET__JSON_BOOL && tie->integer;
    *out = h;
    return RAMET_OK;
}

static ramet_status write(ramet__gguf_writer *w, const ramet__hparams *h) {
    const struct { const char *key; int64_t value; } numbers[] = {
        {"llama.block_count", h->n_layer}, {"llama.context_length", h->n_ctx}, {"llama.embedding_length", h->n_embd},
        {"llama.feed_forward_length", h->n_ff}, {"llama.attention.head_count", h->n_head}, {"llama.attention.head_count_kv", h->n_kv},
        {"llama.attention.key_length", h->head_dim}, {"llama.attention.value_length", h->head_dim},
        {"llama.rope.dimension_count", h->rope_dim}, {"llama.vocab_size", h->n_vocab},
    };
    for (int32_t i = 0; i < RAMET__COUNT(numbers); i++) RAMET__TRY(ramet__gguf_put_u32(w, numbers[i].key, (uint32_t)numbers[i].value));
    RAMET__TRY(ramet__gguf_put_f32(w, "llama.rope.freq_base", h->rope_base));
    return ramet__gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", h->eps);
}

/* Rotary pairs are (2j, 2j+1) in GGUF and (j, j + rot/2) in Hugging Face files: the rows of q and k differ in order only. */
static int64_t hf_row(const ramet__hparams *h, const char *name, int64_t row) {
    if (!strstr(name, ".attn_q.") && !strstr(name, ".attn_k.")) return row;
    int64_t head = row / h->head_dim, i = row % h->head_dim;
    if (i >= h->rope_dim) return row;
    return head * h->head_dim + (i % 2) * (h->rope_dim / 2) + i / 2;
}

/* ---- the builder ---- */

typedef struct builder { ramet__graph *g; const ramet_model *m; const ramet__build_options *o; } builder;

static ramet__val weight(const builder *b, const char *format, int32_t layer, char name[RAMET__NAME_MAX]) {
    const ramet__weight_spec pattern = {.name = format};
    ramet__spec_name(name, &pattern, layer);
    ramet__var *var = b->o->train ? b->o->train(name, b->o->train_user) : NULL;
    if (var) return ramet__graph_var(b->g, var);
    ramet__weight *w = ramet__model_weight(b->m, name);
    if (w) return ramet__graph_weight(b->g, w);
    ramet__graph_fail(b->g, RAMET_E_INTERNAL, "the model has no weight %s", name);
    return -1;
}

static ramet__val linear(const builder *b, ramet__val x, const char *format, int32_t layer) {
    char name[RAMET__NAME_MAX];
    ramet__val w = weight(b, format, layer, name);
    const ramet__weight_spec *spec = ramet__arch_spec(b->m->arch, name, 0, NULL);
    const int32_t target = spec && spec->target && ramet__target_listed(b->o->targets, spec->target);
    ramet__slot slot;
    if (b->o->slots && target) slot = ramet__graph_slot(b->g, name, ramet__dim_size(&b->m->h, spec->rows), ramet__dim_size(&b->m->h, spec->cols)), slot.gain = b->o->gains;
    const ramet__val y = ramet__op_linear(b->g, x, w, -1, b->o->slots && target ? &slot : NULL);
    return b->o->after && target ? b->o->after(b->g, x, y, name, b->o->train_user) : y;
}

static ramet__val norm(const builder *b, ramet__val x, const char *format, int32_t layer) {
    char name[RAMET__NAME_MAX];
    return ramet__op_rms_norm(b->g, x, weight(b, format, layer, name), b->m->h.eps);
}

static ramet_status build(ramet__built *out, ramet__graph *g, const struct ramet_model *m, const ramet__build_options *o) {
    const ramet__hparams *h = &m->h;
    const builder bu = {g, m, o}, *b = &bu;
    const ramet__cache_layout cache = {h->n_layer, h->n_kv, h->head_dim, o->block, o->cache_type};
    char name[RAMET__NAME_MAX];
    ramet__val tokens = ramet__graph_input(g, "tokens", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
    ramet__val pos = ramet__graph_input(g, "pos", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
    ramet__val seq = ramet__graph_input(g, "seq", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);

    ramet__val x = ramet__op_embed(g, weight(b, "token_embd.weight", -1, name), tokens);
    for (int32_t i = 0; i < h->n_layer; i++) {
        x = ramet__op_tap(g, x, "blk.%d.in", i);
        ramet__val n = norm(b, x, "blk.%d.attn_norm.weight", i);
        ramet__val q = linear(b, n, "blk.%d.attn_q.weight", i);
        ramet__val k = linear(b, n, "blk.%d.attn_k.weight", i);
        ramet__val v = linear(b, n, "blk.%d.attn_v.weight", i);
        q = ramet__op_rope(g, q, pos, h->n_head, h->head_dim, h->rope_dim, h->rope_base, h->rope_halves);
        k = ramet__op_rope(g, k, pos, h->n_kv, h->head_dim, h->rope_dim, h->rope_base, h->rope_halves);
        ramet__val a = o->cached ? ramet__op_cache_attention(g, q, k, v, seq, pos, &cache, i, h->n_head)
                                 : ramet__op_attention(g, q, k, v, seq, h->n_head, h->n_kv, h->head_dim);
        x = ramet__op_add(g, x, linear(b, a, "blk.%d.attn_output.weight", i));
        n = norm(b, x, "blk.%d.ffn_norm.weight", i);
        ramet__val gate = linear(b, n, "blk.%d.ffn_gate.weight", i);
        ramet__val up = linear(b, n, "blk.%d.ffn_up.weight", i);
        ramet__val act = ramet__op_tap(g, ramet__op_mul(g, ramet__op_silu(g, gate), up), "blk.%d.ffn_act", i);
        x = ramet__op_add(g, x, linear(b, act, "blk.%d.ffn_down.weight", i));
        x = ramet__op_tap(g, x, "blk.%d.out", i);
    }
    if (o->rows) {
        out->rows = norm(b, x, "output_norm.weight", -1);
        return ramet__graph_status(g);
    }
    x = ramet__op_gather(g, x, ramet__graph_input(g, "outs", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0)); /* the head is wide: only rows that are wanted go through it */
    out->hidden = ramet__op_tap(g, norm(b, x, "output_norm.weight", -1), "hidden");
    out->logits = o->head ? ramet__op_linear(g, out->hidden, ramet__graph_weight(g, o->head), -1, NULL) : linear(b, out->hidden, ramet__model_head(m), -1);
    return ramet__graph_status(g);
}

extern const ramet__arch ramet__arch_llama;
const ramet__arch ramet__arch_llama = {
    .name = "llama",
    .summary = "Llama family: RMS norm, rotary positions, grouped-query attention, SwiGLU; also SmolLM2, Mistral-shaped files without sliding window",
    .specs = specs,
    .n_specs = RAMET__COUNT(specs),
    .hparams_gguf = hparams_gguf,
    .hparams_hf = hparams_hf,
    .write = write,
    .hf_row = hf_row,
    .build = build,
};
