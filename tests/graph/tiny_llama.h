/* SPDX-License-Identifier: Apache-2.0 */
/* tiny_llama.h - a two-layer llama-shaped graph over random Q4_0 weights with adapter slots: for inference over a cache
 * or for training. What a real architecture builds, small enough to be run hundreds of times. */
#ifndef TINY_LLAMA_H
#define TINY_LLAMA_H
#include "graph_test.h"

enum {
    L = 2,
    D = 64,
    F = 128,
    V = 96,
    HEADS = 4,
    KV = 2,
    HD = 16,
    RANK = 4,
    BLOCK = 4,
    PER_LAYER = 7,
    SLOTS = L * PER_LAYER
};
typedef struct llama {
    ramet__weight *norm[2 * L + 1], *linear[SLOTS], *head;
} llama;

static const int64_t llama_n[PER_LAYER] = {HEADS * HD, KV *HD, KV *HD, D, F, F, D},
                     llama_k[PER_LAYER] = {D, D, D, HEADS *HD, D, D, F};

/* The first failure, so that the tests of exhausted memory can use it. */
static inline ramet_status llama_weight(ramet__weight **out, ramet_runtime *rt, const char *name, ramet__enc enc,
                                        int64_t n, int64_t k, uint64_t seed, float size) {
    ramet__shape shape = {k ? 2 : 1, {n, k}};
    RAMET__TRY(ramet__weight_new(out, rt, name, enc, &shape));
    float *x = random_floats(k ? n * k : n, seed, size);
    ramet__encoding_get(enc)->encode(ramet__weight_mutable(*out), x, k ? n * k : n);
    free(x);
    return RAMET_OK;
}
static inline ramet_status llama_make(llama *m, ramet_runtime *rt) {
    memset(m, 0, sizeof *m);
    char name[32];
    for (int32_t i = 0; i < 2 * L + 1; i++) {
        snprintf(name, sizeof name, "norm%d", i);
        RAMET__TRY(llama_weight(&m->norm[i], rt, name, RAMET__ENC_F32, D, 0, 100 + (uint64_t)i, 1));
    }
    for (int32_t i = 0; i < SLOTS; i++) {
        snprintf(name, sizeof name, "linear%d", i);
        RAMET__TRY(llama_weight(&m->linear[i], rt, name, RAMET__ENC_Q4_0, llama_n[i % PER_LAYER],
                                llama_k[i % PER_LAYER], 200 + (uint64_t)i, 0.2f));
    }
    return llama_weight(&m->head, rt, "head", RAMET__ENC_Q8_0, V, D, 1, 0.5f);
}
static inline void llama_free(llama *m) {
    for (int32_t i = 0; i < 2 * L + 1; i++) ramet__weight_free(m->norm[i]);
    for (int32_t i = 0; i < SLOTS; i++) ramet__weight_free(m->linear[i]);
    ramet__weight_free(m->head);
}
static inline ramet__val llama_linear(ramet__graph *g, const llama *m, int32_t i, ramet__val x, int32_t slots) {
    ramet__slot s = {-1, -1};
    if (slots)
        s = ramet__graph_slot(g, ramet__weight_name(m->linear[i]), llama_n[i % PER_LAYER], llama_k[i % PER_LAYER]);
    return ramet__op_linear(g, x, ramet__graph_weight(g, m->linear[i]), -1, slots ? &s : NULL);
}
static inline ramet__val llama_build(ramet__graph *g, const llama *m, int32_t cached,
                                     int32_t slots) { /* -> logits [OUTS, V] */
    ramet__cache_layout layout = {L, KV, HD, BLOCK};
    ramet__val table = ramet__graph_weight(g, m->head),
               pos = ramet__graph_input(g, "pos", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0),
               seq = ramet__graph_input(g, "seq", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
    ramet__val x = ramet__op_embed(g, table, ramet__graph_input(g, "tokens", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0));
    for (int32_t l = 0; l < L; l++) {
        int32_t w = l * PER_LAYER;
        x = ramet__op_tap(g, x, "blk.%d.in", l);
        ramet__val n = ramet__op_rms_norm(g, x, ramet__graph_weight(g, m->norm[2 * l]), 1e-5f);
        ramet__val q = ramet__op_rope(g, llama_linear(g, m, w, n, slots), pos, HEADS, HD, HD, 10000, 0),
                   k = ramet__op_rope(g, llama_linear(g, m, w + 1, n, slots), pos, KV, HD, HD, 10000, 0);
        ramet__val v = llama_linear(g, m, w + 2, n, slots);
        ramet__val a = cached ? ramet__op_cache_attention(g, q, k, v, seq, pos, &layout, l, HEADS)
                              : ramet__op_attention(g, q, k, v, seq, HEADS, KV, HD);
        x = ramet__op_add(g, x, llama_linear(g, m, w + 3, a, slots));
        n = ramet__op_rms_norm(g, x, ramet__graph_weight(g, m->norm[2 * l + 1]), 1e-5f);
        ramet__val gate = ramet__op_silu(g, llama_linear(g, m, w + 4, n, slots));
        x = ramet__op_add(
            g, x, llama_linear(g, m, w + 6, ramet__op_mul(g, gate, llama_linear(g, m, w + 5, n, slots)), slots));
    }
    x = ramet__op_gather(g, ramet__op_rms_norm(g, x, ramet__graph_weight(g, m->norm[2 * L]), 1e-5f),
                         ramet__graph_input(g, "outs", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0));
    return ramet__op_linear(g, x, table, -1, NULL);
}
/* Cross-entropy and, for each slot, the gradients of A and B as outputs "a0", "b0" ... */
static inline ramet__val llama_train(ramet__graph *g, const llama *m) {
    ramet__val loss = ramet__op_cross_entropy(
        g, llama_build(g, m, 0, 1), ramet__graph_input(g, "labels", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0),
        ramet__graph_input(g, "weight", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 0), NULL);
    ramet__val wrt[2 * SLOTS], grad[2 * SLOTS];
    for (int32_t i = 0; i < SLOTS; i++) {
        ramet__slot s =
            ramet__graph_slot(g, ramet__weight_name(m->linear[i]), llama_n[i % PER_LAYER], llama_k[i % PER_LAYER]);
        wrt[2 * i] = s.a;
        wrt[2 * i + 1] = s.b;
    }
    if (ramet__graph_gradient(g, loss, wrt, 2 * SLOTS, grad)) return -1;
    for (int32_t i = 0; i < 2 * SLOTS; i++) {
        char name[8];
        snprintf(name, sizeof name, "%c%d", i % 2 ? 'b' : 'a', i / 2);
        ramet__graph_output(g, name, grad[i]);
    }
    ramet__graph_output(g, "loss", loss);
    return loss;
}
/* Adapter matrices of every slot. */
typedef struct tiny_adapter {
    ramet__slot_entry e[SLOTS];
} tiny_adapter;
static inline void adapter_make(tiny_adapter *a, uint64_t seed, int32_t rank) {
    for (int32_t i = 0; i < SLOTS; i++)
        a->e[i] = (ramet__slot_entry){random_floats(rank * llama_k[i % PER_LAYER], seed + 2 * (uint64_t)i, 0.3f),
                                      random_floats(rank * llama_n[i % PER_LAYER], seed + 2 * (uint64_t)i + 1, 0.3f),
                                      0.5f, rank};
}
static inline void adapter_free(tiny_adapter *a) {
    for (int32_t i = 0; i < SLOTS; i++) {
        free((void *)(uintptr_t)a->e[i].a);
        free((void *)(uintptr_t)a->e[i].b);
    }
}
#endif
