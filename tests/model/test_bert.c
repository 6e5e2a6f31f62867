/* SPDX-License-Identifier: Apache-2.0 */
/* test_bert.c - a tiny bert of random weights against its definition in plain C and double (Devlin et al. 2019, with the mean over
 * tokens and length 1 of Reimers & Gurevych 2019); texts of one run do not see one another; what an encoder cannot do is said. */
#include "model/internal.h"
#include "base/rng.h"
#include "ramet/experimental.h"
#include "support.h"

enum { LAYERS = 2, D = 8, HEADS = 2, HD = D / HEADS, FF = 12, VOCAB = 11, CONTEXT = 40, TEXTS = 3 };
static const int32_t ids[] = {2, 5, 3, 10, 1, 2, 0, 9, 9, 4, 7, 3, 2};
static const int64_t offsets[TEXTS + 1] = {0, 4, 5, 13};

static ramet_status fetch(ramet__weight **out, void *context, const ramet__weight_spec *spec, int32_t layer, const char *name, const ramet__shape *want) {
    uint64_t stream = 0;
    (void)context, (void)spec, (void)layer;
    RAMET__TRY(ramet__weight_new(out, rt, name, RAMET__ENC_F32, want));
    float *x = ramet__weight_mutable(*out);
    for (const char *p = name; *p; p++) stream = stream * 31 + (uint8_t)*p;
    for (int64_t i = 0; i < ramet__shape_count(want); i++) x[i] = (float)(2 * ramet__rng_uniform(5, stream, (uint64_t)i) - 1);
    return RAMET_OK;
}
static ramet_model *make(void) {
    const ramet__hparams h = {.n_layer = LAYERS, .n_head = HEADS, .n_kv = HEADS, .head_dim = HD, .n_embd = D, .n_ff = FF, .n_vocab = VOCAB, .n_ctx = CONTEXT, .n_types = 2, .eps = 1e-12f, .tied = 1};
    ramet_model *m = NULL;
    OK(ramet__hparams_check(&h, "test"));
    OK(ramet__model_new(&m, rt, ramet__arch_find("bert"), &h, "tiny bert"));
    OK(ramet__model_fill(m, fetch, NULL));
    return m;
}

/* ---- the definition ---- */
static const float *w(const ramet_model *m, const char *format, int32_t layer) {
    char name[RAMET__NAME_MAX];
    const ramet__weight_spec spec = {.name = format};
    ramet__spec_name(name, &spec, layer);
    return ramet__weight_data(ramet__model_weight(m, name));
}
static void dense(double *y, const double *x, const float *weight, const float *bias, int n, int k) {
    for (int i = 0; i < n; i++) {
        y[i] = bias[i];
        for (int j = 0; j < k; j++) y[i] += (double)weight[i * k + j] * x[j];
    }
}
static void norm(double *x, const float *weight, const float *bias) {
    double mean = 0, var = 0;
    for (int i = 0; i < D; i++) mean += x[i] / D;
    for (int i = 0; i < D; i++) var += (x[i] - mean) * (x[i] - mean) / D;
    for (int i = 0; i < D; i++) x[i] = (x[i] - mean) / sqrt(var + 1e-12) * (double)weight[i] + (double)bias[i];
}
static void define(double *out, const ramet_model *m, const int32_t *text, int n) {
    double x[CONTEXT][D], q[CONTEXT][D], k[CONTEXT][D], v[CONTEXT][D], a[D], y[D], f[FF], length = 0;
    for (int t = 0; t < n; t++) {
        for (int i = 0; i < D; i++)
            x[t][i] = (double)w(m, "token_embd.weight", -1)[text[t] * D + i] + (double)w(m, "position_embd.weight", -1)[t * D + i] + (double)w(m, "token_types.weight", -1)[i];
        norm(x[t], w(m, "token_embd_norm.weight", -1), w(m, "token_embd_norm.bias", -1));
    }
    for (int l = 0; l < LAYERS; l++) {
        for (int t = 0; t < n; t++) {
            dense(q[t], x[t], w(m, "blk.%d.attn_q.weight", l), w(m, "blk.%d.attn_q.bias", l), D, D);
            dense(k[t], x[t], w(m, "blk.%d.attn_k.weight", l), w(m, "blk.%d.attn_k.bias", l), D, D);
            dense(v[t], x[t], w(m, "blk.%d.attn_v.weight", l), w(m, "blk.%d.attn_v.bias", l), D, D);
        }
        for (int t = 0; t < n; t++) {
            for (int h = 0; h < D; h += HD) {
                double p[CONTEXT], sum = 0;
                for (int i = h; i < h + HD; i++) a[i] = 0;
                for (int s = 0; s < n; s++) {
                    p[s] = 0;
                    for (int i = h; i < h + HD; i++) p[s] += q[t][i] * k[s][i] / sqrt(HD);
                    sum += p[s] = exp(p[s]);
                }
                for (int s = 0; s < n; s++)
                    for (int i = h; i < h + HD; i++) a[i] += p[s] / sum * v[s][i];
            }
            dense(y, a, w(m, "blk.%d.attn_output.weight", l), w(m, "blk.%d.attn_output.bias", l), D, D);
            for (int i = 0; i < D; i++) x[t][i] += y[i];
            norm(x[t], w(m, "blk.%d.attn_output_norm.weight", l), w(m, "blk.%d.attn_output_norm.bias", l));
            dense(f, x[t], w(m, "blk.%d.ffn_up.weight", l), w(m, "blk.%d.ffn_up.bias", l), FF, D);
            for (int i = 0; i < FF; i++) f[i] *= 0.5 * erfc(-f[i] / sqrt(2));
            dense(y, f, w(m, "blk.%d.ffn_down.weight", l), w(m, "blk.%d.ffn_down.bias", l), D, FF);
            for (int i = 0; i < D; i++) x[t][i] += y[i];
            norm(x[t], w(m, "blk.%d.layer_output_norm.weight", l), w(m, "blk.%d.layer_output_norm.bias", l));
        }
    }
    for (int i = 0; i < D; i++) {
        out[i] = 0;
        for (int t = 0; t < n; t++) out[i] += x[t][i] / n;
        length += out[i] * out[i];
    }
    for (int i = 0; i < D; i++) out[i] /= sqrt(length);
}

static void test_embeddings_match_the_definition(void **state) {
    ramet_model *m = make();
    (void)state;
    for (int32_t max = 8; max <= 64; max *= 8) { /* cut into several runs, and in one */
        ramet_embedder_options o;
        ramet_embedder *e = NULL;
        float got[TEXTS * D];
        ramet_embedder_options_init(&o, sizeof o);
        o.mode = RAMET_MODE_EXACT;
        o.max_rows = max;
        OK(ramet_embedder_create(&e, m, &o));
        for (int again = 0; again < 2; again++) {
            OK(ramet_embed(got, e, ids, offsets, TEXTS, NULL, NULL));
            for (int t = 0; t < TEXTS; t++) {
                double want[D];
                define(want, m, ids + offsets[t], (int)(offsets[t + 1] - offsets[t]));
                for (int i = 0; i < D; i++)
                    if (!(fabs((double)got[t * D + i] - want[i]) < 5e-6)) fail_msg("text %d [%d]: %.9g, not %.9g", t, i, (double)got[t * D + i], want[i]);
            }
        }
        ramet_embedder_free(e);
    }
    ramet_model_free(m);
}
static void test_saved_it_stays(void **state) {
    ramet_model *m = make(), *loaded = NULL;
    ramet_model_options o;
    const char *path = scratch("-bert.gguf");
    (void)state;
    OK(ramet_model_save(m, path, NULL, NULL));
    ramet_model_options_init(&o, sizeof o);
    o.tokenizer = 0;
    ramet_source source;
    ramet_source_from_path(&source, sizeof source, path);
    OK(ramet_model_load(&loaded, rt, &source, &o));
    assert_string_equal(ramet_model_digest(loaded), ramet_model_digest(m));
    assert_memory_equal(&loaded->h, &m->h, sizeof m->h);
    ramet_model_free(loaded);
    ramet_model_free(m);
    unlink(path);
}
static void vectors(float *out, ramet_model *m, ramet_adapter *adapter, float scale, int32_t dora) {
    ramet_embedder_options o;
    ramet_embedder *e = NULL;
    int32_t index;
    ramet_embedder_options_init(&o, sizeof o);
    o.mode = RAMET_MODE_EXACT;
    o.dora = dora;
    OK(ramet_embedder_create(&e, m, &o));
    if (adapter) {
        OK(ramet_embedder_attach(&index, e, adapter, scale));
        OK(ramet_embedder_use(e, index));
    }
    OK(ramet_embed(out, e, ids, offsets, TEXTS, NULL, NULL));
    ramet_embedder_free(e);
}
/* On every linear layer, or with its magnitudes a DoRA */
static ramet_adapter *learned(const ramet_model *m, int32_t rank, int32_t dora) {
    ramet_adapter *a = NULL;
    OK(ramet__adapter_new(&a, m, NULL, rank, 4, 1));
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t j = 0; j < a->lora[i].n * rank; j++) a->lora[i].b[j] = (float)((j * 37 + i * 11) % 101 - 50) / 100;
    if (!dora) return a;
    for (int64_t i = 0; i < a->n; i++) {
        assert_non_null(a->lora[i].m = ramet__alloc(rt->mem, (size_t)a->lora[i].n * sizeof(float)));
        for (int64_t j = 0; j < a->lora[i].n; j++) a->lora[i].m[j] = 1 + (float)j / 8;
    }
    return a;
}
/* What is attached gives what is merged, and leaves nothing behind. */
static void test_adapters(void **state) {
    ramet_model *m = make(), *llama = tiny();
    float plain[TEXTS * D], got[TEXTS * D], want[TEXTS * D];
    (void)state;
    vectors(plain, m, NULL, 1, 0);
    for (int32_t dora = 0; dora < 2; dora++) {
        ramet_adapter *a = learned(m, 2, dora);
        ramet_model *merged = NULL;
        const float scale = dora ? 1.0f : 0.5f;
        OK(ramet_model_merge(&merged, m, (const ramet_adapter *const *)&a, &scale, 1, NULL, NULL, NULL));
        vectors(want, merged, NULL, 1, 0);
        vectors(got, m, a, scale, dora);
        double moved = 0;
        for (int i = 0; i < TEXTS * D; i++) {
            moved = fmax(moved, fabs((double)(got[i] - plain[i])));
            if (!(fabs((double)(got[i] - want[i])) < 1e-5)) fail_msg("%s [%d]: %.9g attached, %.9g merged", dora ? "DoRA" : "LoRA", i, (double)got[i], (double)want[i]);
        }
        assert_true(moved > 0.05);
        ramet_model_free(merged);
        ramet_adapter_free(a);
    }
    ramet_adapter *a = learned(m, 2, 0), *dora = learned(m, 2, 1), *wide = learned(m, 3, 0), *other = NULL;
    ramet_embedder_options o;
    ramet_embedder *e = NULL;
    int32_t index = -7;
    OK(ramet__adapter_new(&other, llama, NULL, 2, 4, 1));
    ramet_embedder_options_init(&o, sizeof o);
    o.mode = RAMET_MODE_EXACT;
    o.max_rank = 2;
    OK(ramet_embedder_create(&e, m, &o));
    REFUSED(RAMET_E_ARGUMENT, "adapter is NULL", ramet_embedder_attach(&index, e, NULL, 1));
    REFUSED(RAMET_E_ARGUMENT, "finite", ramet_embedder_attach(&index, e, a, NAN));
    REFUSED(RAMET_E_LIMIT, "rank is 3", ramet_embedder_attach(&index, e, wide, 1));
    REFUSED(RAMET_E_STATE, "dora = 1", ramet_embedder_attach(&index, e, dora, 1));
    REFUSED(RAMET_E_INCONSISTENT, "ramet_embedder_attach", ramet_embedder_attach(&index, e, other, 1));
    REFUSED(RAMET_E_ARGUMENT, "attached as 0", ramet_embedder_use(e, 0));
    REFUSED(RAMET_E_ARGUMENT, "embedder is NULL", ramet_embedder_use(NULL, -1));
    assert_int_equal(index, -7);
    OK(ramet_embedder_attach(&index, e, a, 1));
    OK(ramet_embed(got, e, ids, offsets, TEXTS, NULL, NULL)); /* attached, not used */
    assert_memory_equal(got, plain, sizeof plain);
    OK(ramet_embedder_use(e, index));
    OK(ramet_embed(got, e, ids, offsets, TEXTS, NULL, NULL));
    assert_memory_not_equal(got, plain, sizeof plain);
    OK(ramet_embedder_detach(e, index)); /* the one in use */
    OK(ramet_embed(got, e, ids, offsets, TEXTS, NULL, NULL));
    assert_memory_equal(got, plain, sizeof plain);
    REFUSED(RAMET_E_ARGUMENT, "attached as 0", ramet_embedder_detach(e, index));
    ramet_embedder_free(e);
    e = NULL;
    o.max_rank = 0;
    OK(ramet_embedder_create(&e, m, &o));
    REFUSED(RAMET_E_STATE, "max_rank 0", ramet_embedder_attach(&index, e, a, 1));
    ramet_embedder_free(e);
    o.max_rank = -1;
    REFUSED(RAMET_E_ARGUMENT, "max_rank is -1", ramet_embedder_create(&e, m, &o));
    ramet_adapter_free(a);
    ramet_adapter_free(dora);
    ramet_adapter_free(wide);
    ramet_adapter_free(other);
    ramet_model_free(m);
    ramet_model_free(llama);
}
static void test_what_does_not_fit_is_refused(void **state) {
    ramet_model *m = make(), *llama = tiny();
    ramet_embedder *e = NULL;
    ramet_session *s = NULL;
    float out[D] = {7};
    const int64_t empty[2] = {0, 0}, late[2] = {1, 2}, two[2] = {0, 2}, many[2] = {0, CONTEXT + 1};
    const int32_t bad[2] = {0, VOCAB}, zeros[CONTEXT + 1] = {0};
    (void)state;
    REFUSED(RAMET_E_UNSUPPORTED, "embeddings", ramet_session_create(&s, m, NULL));
    REFUSED(RAMET_E_UNSUPPORTED, "llama", ramet_embedder_create(&e, llama, NULL));
    OK(ramet_embedder_create(&e, m, NULL));
    REFUSED(RAMET_E_ARGUMENT, "text 0", ramet_embed(out, e, ids, empty, 1, NULL, NULL));
    REFUSED(RAMET_E_ARGUMENT, "offsets[0]", ramet_embed(out, e, ids, late, 1, NULL, NULL));
    REFUSED(RAMET_E_ARGUMENT, "ids[1] is 11", ramet_embed(out, e, bad, two, 1, NULL, NULL));
    REFUSED(RAMET_E_ARGUMENT, "1 to 40 ids", ramet_embed(out, e, zeros, many, 1, NULL, NULL));
    REFUSED(RAMET_E_ARGUMENT, "count", ramet_embed(out, e, ids, two, 0, NULL, NULL));
    assert_true(out[0] == 7);
    ramet_embedder_free(e);
    ramet_embedder_free(NULL);
    ramet_model_free(m);
    ramet_model_free(llama);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_embeddings_match_the_definition), cmocka_unit_test(test_saved_it_stays), cmocka_unit_test(test_adapters),
                                       cmocka_unit_test(test_what_does_not_fit_is_refused)};
    return cmocka_run_group_tests(tests, make_runtime, drop_runtime);
}
