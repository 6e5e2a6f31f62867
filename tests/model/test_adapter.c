/* SPDX-License-Identifier: Apache-2.0 */
/* test_adapter.c - adapters made, saved and loaded in both containers, refused when they do not fit, and merged. */
#include "support.h"

static ramet_adapter *learned(const ramet_model *m, int32_t rank) { /* with a B that is not zero */
    ramet_adapter *a = NULL;
    OK(ramet__adapter_new(&a, m, NULL, rank, 8, 7));
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t j = 0; j < a->lora[i].n * rank; j++) a->lora[i].b[j] = (float)((j * 37 + i * 11) % 101 - 50) / 500;
    return a;
}

static void same(const ramet_adapter *a, const ramet_adapter *b) {
    assert_int_equal(a->n, b->n);
    assert_string_equal(a->base_digest, b->base_digest);
    for (int64_t i = 0; i < a->n; i++) {
        const ramet__lora *x = &a->lora[i], *y = ramet__adapter_find(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->rank, y->rank);
        assert_float_equal(x->scale, y->scale, 1e-7);
        assert_memory_equal(x->a, y->a, (size_t)(x->rank * x->k) * sizeof(float));
        assert_memory_equal(x->b, y->b, (size_t)(x->rank * x->n) * sizeof(float));
    }
}

static void test_adapter_new(void **state) {
    ramet_model *m = tiny();
    ramet_adapter *a = NULL;
    double v;
    OK(ramet__adapter_new(&a, m, "q_proj, down_proj", 4, 8, 1));
    assert_int_equal(a->n, 4);
    const ramet__lora *l = ramet__adapter_find(a, "blk.1.ffn_down.weight");
    assert_int_equal(l->n, 64);
    assert_int_equal(l->k, 128);
    double sum = 0, square = 0, most = 0;
    for (int64_t i = 0; i < l->k * 4; i++) sum += l->a[i], square += (double)l->a[i] * l->a[i], most = fmax(most, fabs(l->a[i]));
    assert_true(most <= 1 / sqrt(128.0) && most > .97 / sqrt(128.0)); /* uniform in -+1/sqrt(k) ... */
    assert_true(fabs(sum / (128 * 4)) < .01 && fabs(square / (128 * 4) * 3 * 128 - 1) < .15); /* ... mean 0, variance 1/(3k) */
    for (int64_t i = 0; i < l->n * 4; i++) assert_float_equal(l->b[i], 0, 0);
    OK(ramet_adapter_number(&v, a, "parameters"));
    assert_float_equal(v, 4 * (2 * (64 + 64) + 2 * (64 + 128)), 0);
    ramet_adapter_free(a);
    OK(ramet__adapter_new(&a, m, NULL, 2, 8, 1));
    assert_int_equal(a->n, 14); /* seven linear weights a layer, not the embedding */
    ramet_adapter_free(a);
    a = NULL;
    REFUSED(RAMET_E_ARGUMENT, "\"w_proj\"", ramet__adapter_new(&a, m, "q_proj,w_proj", 4, 8, 1));
    REFUSED(RAMET_E_ARGUMENT, "none of these", ramet__adapter_new(&a, m, "lm_head", 4, 8, 1));
    REFUSED(RAMET_E_ARGUMENT, "rank", ramet__adapter_new(&a, m, NULL, 0, 8, 1));
    REFUSED(RAMET_E_ARGUMENT, "alpha", ramet__adapter_new(&a, m, NULL, 4, NAN, 1));
    ramet_model_free(m);
}

static void remove_folder(const char *path) {
    char file[160];
    snprintf(file, sizeof file, "%s/adapter_model.safetensors", path);
    remove(file);
    snprintf(file, sizeof file, "%s/adapter_config.json", path);
    remove(file);
    rmdir(path);
}

static void test_adapter_files_agree(void **state) {
    ramet_model *m = tiny();
    ramet_adapter *a = learned(m, 4), *b = NULL;
    const char *gguf = scratch(".gguf"), *peft = scratch("-peft");
    char *json = NULL;
    OK(ramet_adapter_save(a, gguf));
    OK(ramet_adapter_load(&b, m, gguf));
    same(a, b);
    OK(ramet_adapter_save(b, peft));
    ramet_adapter_free(b);
    OK(ramet_adapter_load(&b, m, peft));
    same(a, b);
    ramet_adapter_free(b);
    OK(ramet__describe_model_file(&json, rt, gguf));
    assert_non_null(strstr(json, "\"kind\":\"adapter\""));
    assert_non_null(strstr(json, "\"q_proj\":2"));
    ramet_string_free(json);
    OK(ramet__describe_model_file(&json, rt, peft));
    assert_non_null(strstr(json, "\"rank\":4,\"alpha\":8"));
    ramet_string_free(json);
    OK(ramet__describe_model_file(&json, rt, tiny_path()));
    assert_non_null(strstr(json, "\"kind\":\"model\""));
    ramet_string_free(json);
    remove(gguf);
    remove_folder(peft);
    ramet_adapter_free(a);
    ramet_model_free(m);
}

/* Scales that differ between targets, and ranks that do, survive both containers. */
static void test_adapter_mixed_ranks(void **state) {
    ramet_model *m = tiny();
    ramet_adapter *a = NULL, *b = NULL;
    const ramet__weight *q = ramet__model_weight(m, "blk.0.attn_q.weight"), *up = ramet__model_weight(m, "blk.1.ffn_up.weight");
    static float want[128 * 64], is[128 * 64];
    OK(ramet__adapter_alloc(&a, rt, m, "llama", 8, 2));
    OK(ramet__adapter_add(a, "blk.0.attn_q.weight", 64, 64, 3, 0.5f));
    OK(ramet__adapter_add(a, "blk.1.ffn_up.weight", 128, 64, 5, 2));
    for (int64_t i = 0; i < 2; i++) {
        for (int64_t j = 0; j < a->lora[i].rank * a->lora[i].k; j++) a->lora[i].a[j] = (float)(j % 7 - 3);
        for (int64_t j = 0; j < a->lora[i].rank * a->lora[i].n; j++) a->lora[i].b[j] = (float)(j % 5 - 2);
    }
    const char *paths[] = {scratch(".gguf"), scratch("-peft")};
    for (int p = 0; p < 2; p++) {
        OK(ramet_adapter_save(a, paths[p]));
        OK(ramet_adapter_load(&b, m, paths[p]));
        const ramet_adapter *one = a, *two = b;
        for (int w = 0; w < 2; w++) {
            const ramet__weight *weight = w ? up : q;
            ramet__adapter_delta(want, &one, NULL, 1, weight);
            ramet__adapter_delta(is, &two, NULL, 1, weight);
            for (int64_t i = 0; i < (w ? 128 : 64) * 64; i++) assert_float_equal(want[i], is[i], 1e-4);
        }
        ramet_adapter_free(b);
    }
    remove(paths[0]);
    remove_folder(paths[1]);
    ramet_adapter_free(a);
    ramet_model_free(m);
}

typedef struct bad { const char *key; float number; const char *text; int64_t rank_a, rank_b, k, n; const char *weight; ramet_status status; const char *part; } bad;

static void test_adapter_refuses(void **state) {
    static const bad cases[] = {
        {"adapter.lora.alpha", NAN, NULL, 2, 2, 64, 64, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "alpha"},
        {"adapter.lora.alpha", -1, NULL, 2, 2, 64, 64, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "alpha"},
        {"general.type", 0, "model", 2, 2, 64, 64, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "no LoRA"},
        {"adapter.type", 0, "ia3", 2, 2, 64, 64, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "ia3"},
        {"general.architecture", 0, "gpt2", 2, 2, 64, 64, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "gpt2"},
        {"ramet.adapter.base", 0, "1111111111111111111111111111111111111111111111111111111111111111", 2, 2, 64, 64, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "digest"},
        {"ramet.adapter.base", 0, "11", 2, 2, 64, 64, "blk.0.attn_q.weight", RAMET_E_FORMAT, "digest"},
        {NULL, 0, NULL, 2, 3, 64, 64, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "ranks"},
        {NULL, 0, NULL, 0, 0, 64, 64, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "rank"},
        {NULL, 0, NULL, 2, 2, 32, 64, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "[64, 32]"},
        {NULL, 0, NULL, 2, 2, 64, 32, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "[32, 64]"},
        {NULL, 0, NULL, 2, 2, 64, 64, "blk.2.attn_q.weight", RAMET_E_INCONSISTENT, "does not have"},
        {NULL, 0, NULL, 2, 2, 64, 320, "token_embd.weight", RAMET_E_UNSUPPORTED, "takes no adapter"},
        {NULL, 0, NULL, 2, -1, 64, 64, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "no partner"},
        {"", NAN, NULL, 2, 2, 64, 64, "blk.0.attn_q.weight", RAMET_E_INCONSISTENT, "NaN"},
        {"none", 0, NULL, 2, 2, 64, 64, NULL, RAMET_E_INCONSISTENT, "no weight"},
    };
    ramet_model *m = tiny();
    for (int32_t i = 0; i < RAMET__COUNT(cases); i++) {
        const bad *c = &cases[i];
        ramet__gguf_writer *w = NULL;
        ramet_adapter *a = NULL;
        char name[96];
        static float zeros[4096];
        const char *path = scratch(".gguf");
        OK(ramet__gguf_writer_open(&w, rt->mem, path));
        OK(ramet__gguf_put_text(w, "general.architecture", "llama", 5));
        OK(ramet__gguf_put_text(w, "general.type", "adapter", 7));
        OK(ramet__gguf_put_text(w, "adapter.type", "lora", 4));
        OK(ramet__gguf_put_f32(w, "adapter.lora.alpha", 16));
        if (c->key && c->text) OK(ramet__gguf_put_text(w, c->key, c->text, strlen(c->text)));
        else if (c->key && *c->key && c->weight) OK(ramet__gguf_put_f32(w, c->key, c->number));
        const ramet__shape sa = {2, {c->rank_a, c->k}}, sb = {2, {c->n, c->rank_b}};
        zeros[0] = c->key && !*c->key ? NAN : 0;
        if (c->weight) {
            snprintf(name, sizeof name, "%s.lora_a", c->weight);
            OK(ramet__gguf_declare(w, name, &sa, RAMET__ENC_F32));
            snprintf(name, sizeof name, "%s.lora_b", c->weight);
            if (c->rank_b >= 0) OK(ramet__gguf_declare(w, name, &sb, RAMET__ENC_F32));
            OK(ramet__gguf_data(w, zeros, (uint64_t)(c->rank_a * c->k) * 4));
            if (c->rank_b >= 0) OK(ramet__gguf_data(w, zeros, (uint64_t)(c->n * c->rank_b) * 4));
        }
        OK(ramet__gguf_writer_commit(&w));
        REFUSED(c->status, c->part, ramet_adapter_load(&a, m, path));
        assert_null(a);
    }
    remove(scratch(".gguf"));
    ramet_model_free(m);
}

static void test_peft_config_refuses(void **state) {
    static const struct { const char *text; ramet_status status; const char *part; } cases[] = {
        {"{\"peft_type\":\"LOHA\",\"r\":4,\"lora_alpha\":8}", RAMET_E_UNSUPPORTED, "LOHA"},
        {"{\"r\":0,\"lora_alpha\":8}", RAMET_E_INCONSISTENT, "positive"},
        {"{\"r\":4,\"lora_alpha\":-8}", RAMET_E_INCONSISTENT, "positive"},
        {"{\"r\":4,\"lora_alpha\":8,\"use_dora\":true}", RAMET_E_INCONSISTENT, "a DoRA adapter needs"},
        {"{\"r\":4,\"lora_alpha\":8,\"bias\":\"all\"}", RAMET_E_UNSUPPORTED, "bias"},
        {"{\"r\":4,\"lora_alpha\":8,\"modules_to_save\":[\"lm_head\"]}", RAMET_E_UNSUPPORTED, "modules_to_save"},
        {"{\"r\":4,\"lora_alpha\":8,\"alpha_pattern\":{\"q_proj\":2}}", RAMET_E_UNSUPPORTED, "alpha_pattern"},
        {"{\"r\":4,\"lora_alpha\":8,\"init_lora_weights\":\"pissa_niter_4\"}", RAMET_E_UNSUPPORTED, "pissa"},
        {"{\"r\":-4,\"lora_alpha\":8}", RAMET_E_INCONSISTENT, "positive"},
        {"{\"r\":4.5,\"lora_alpha\":8}", RAMET_E_FORMAT, "\"r\""},
        {"{\"r\":\"4\",\"lora_alpha\":8}", RAMET_E_FORMAT, "\"r\""},
        {"{\"r\":4,\"lora_alpha\":\"8\"}", RAMET_E_FORMAT, "lora_alpha"},
        {"{\"r\":4,\"lora_alpha\":NaN}", RAMET_E_FORMAT, "byte"},
        {"{\"r\":4,\"r\":4,\"lora_alpha\":8}", RAMET_E_FORMAT, "twice"},
        {"[]", RAMET_E_FORMAT, "object"},
        {"{\"r\":4,", RAMET_E_FORMAT, ""},
    };
    ramet_model *m = tiny();
    ramet_adapter *a = learned(m, 4), *b = NULL;
    const char *peft = scratch("-peft");
    char config[160];
    OK(ramet_adapter_save(a, peft));
    snprintf(config, sizeof config, "%s/adapter_config.json", peft);
    for (int32_t i = 0; i < RAMET__COUNT(cases); i++) {
        FILE *f = fopen(config, "w");
        fputs(cases[i].text, f);
        fclose(f);
        REFUSED(cases[i].status, cases[i].part, ramet_adapter_load(&b, m, peft));
        assert_null(b);
    }
    FILE *f = fopen(config, "w"); /* rank-stabilised: alpha / sqrt(rank); through the file itself, not its folder */
    fputs("{\"r\":4,\"lora_alpha\":8,\"use_rslora\":true,\"modules_to_save\":null,\"init_lora_weights\":true}", f);
    fclose(f);
    snprintf(config, sizeof config, "%s/adapter_model.safetensors", peft);
    OK(ramet_adapter_load(&b, m, config));
    assert_float_equal(b->lora[0].scale, 4, 1e-6);
    ramet_adapter_free(b);
    remove_folder(peft);
    ramet_adapter_free(a);
    ramet_model_free(m);
}

#define Q "base_model.model.model.layers.0.self_attn.q_proj"
static void test_peft_weights_refuse(void **state) {
    static const struct { const char *a, *b; int32_t dtype; int64_t da[2], db[2]; float first; ramet_status status; const char *part; } cases[] = {
        {Q ".lora_A.weight", Q ".lora_B.weight", RAMET__ST_F32, {4, 64}, {64, 4}, 0, RAMET_OK, ""},
        {Q ".lora_A.weight", Q ".lora_B.weight", RAMET__ST_F32, {4, 64}, {64, 3}, 0, RAMET_E_INCONSISTENT, "ranks"},
        {Q ".lora_A.weight", Q ".lora_B.weight", RAMET__ST_F32, {0, 64}, {64, 0}, 0, RAMET_E_INCONSISTENT, "rank"},
        {Q ".lora_A.weight", Q ".lora_B.weight", RAMET__ST_F32, {4, 32}, {64, 4}, 0, RAMET_E_INCONSISTENT, "[64, 32]"},
        {Q ".lora_A.weight", Q ".lora_B.weight", RAMET__ST_F32, {4, 64}, {32, 4}, 0, RAMET_E_INCONSISTENT, "[32, 64]"},
        {Q ".lora_A.weight", Q ".lora_B.weight", RAMET__ST_I32, {4, 64}, {64, 4}, 0, RAMET_E_UNSUPPORTED, "I32"},
        {Q ".lora_A.weight", Q ".lora_B.weight", RAMET__ST_F32, {4, 64}, {64, 4}, NAN, RAMET_E_INCONSISTENT, "NaN"},
        {Q ".lora_A.weight", Q ".lora_B.weight", RAMET__ST_F32, {4, 64}, {64, 4}, INFINITY, RAMET_E_INCONSISTENT, "infinity"},
        {Q ".lora_A.weight", NULL, RAMET__ST_F32, {4, 64}, {0}, 0, RAMET_E_INCONSISTENT, "no partner"},
        {Q ".lora_B.weight", NULL, RAMET__ST_F32, {64, 4}, {0}, 0, RAMET_E_INCONSISTENT, "no partner"},
        {"x.lora_A.weight", "x.lora_B.weight", RAMET__ST_F32, {4, 64}, {64, 4}, 0, RAMET_E_UNSUPPORTED, "x.lora_A.weight"},
        {"base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight", "base_model.model.model.layers.2.self_attn.q_proj.lora_B.weight", RAMET__ST_F32, {4, 64}, {64, 4}, 0,
         RAMET_E_INCONSISTENT, "does not have"},
        {NULL, NULL, RAMET__ST_F32, {0}, {0}, 0, RAMET_E_INCONSISTENT, "no weight"},
    };
    ramet_model *m = tiny();
    ramet_adapter *a = learned(m, 4);
    char peft[96], path[160], before[65];
    strcpy(before, ramet_model_digest(m));
    snprintf(peft, sizeof peft, "%s", scratch("-peft"));
    OK(ramet_adapter_save(a, peft));
    ramet_adapter_free(a);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", peft);
    for (int32_t i = 0; i < RAMET__COUNT(cases); i++) {
        ramet__st_writer *w = NULL;
        float values[4 * 64] = {cases[i].first};
        a = NULL;
        OK(ramet__st_writer_open(&w, rt->mem, path));
        if (cases[i].a) OK(ramet__st_declare(w, cases[i].a, cases[i].dtype, 2, cases[i].da));
        if (cases[i].b) OK(ramet__st_declare(w, cases[i].b, cases[i].dtype, 2, cases[i].db));
        if (cases[i].a) OK(ramet__st_data(w, values, (uint64_t)(4 * cases[i].da[0] * cases[i].da[1])));
        if (cases[i].b) OK(ramet__st_data(w, values, (uint64_t)(4 * cases[i].db[0] * cases[i].db[1])));
        OK(ramet__st_writer_commit(&w));
        if (cases[i].status) REFUSED(cases[i].status, cases[i].part, ramet_adapter_load(&a, m, peft));
        else OK(ramet_adapter_load(&a, m, peft));
        assert_true((a == NULL) == (cases[i].status != RAMET_OK));
        ramet_adapter_free(a);
    }
    ramet__st_writer *w = NULL; /* the same weight under two adapters' names */
    static const float zeros[4 * 64];
    static const char *const names[] = {Q ".lora_A.weight", Q ".lora_A.two.weight", Q ".lora_B.weight", Q ".lora_B.two.weight"};
    OK(ramet__st_writer_open(&w, rt->mem, path));
    for (int32_t i = 0; i < 4; i++) OK(ramet__st_declare(w, names[i], RAMET__ST_F32, 2, i < 2 ? cases[0].da : cases[0].db));
    for (int32_t i = 0; i < 4; i++) OK(ramet__st_data(w, zeros, sizeof zeros));
    OK(ramet__st_writer_commit(&w));
    REFUSED(RAMET_E_INCONSISTENT, "two pairs", ramet_adapter_load(&a, m, peft));
    m->digest_state = 0; /* computed again: the base is bit-unchanged */
    assert_string_equal(ramet_model_digest(m), before);
    remove_folder(peft);
    ramet_model_free(m);
}

static void test_merge(void **state) {
    ramet_model *m = tiny(), *out = NULL, *q8 = NULL;
    ramet_adapter *a = learned(m, 4), *b = NULL;
    char before[65];
    strcpy(before, ramet_model_digest(m));
    OK(ramet__adapter_new(&b, m, "v_proj", 2, 2, 3));
    const ramet_adapter *both[] = {a, b};
    const float scales[] = {0.5f, 1};
    for (int64_t j = 0; j < 64; j++) b->lora[0].b[j] = 1;
    OK(ramet_model_merge(&out, m, both, scales, 2, NULL, NULL, NULL));
    for (int64_t i = 0; i < m->n_weights; i++) {
        const char *name = ramet__weight_name(m->weights[i]);
        const ramet__lora *la = ramet__adapter_find(a, name), *lb = ramet__adapter_find(b, name);
        const float *w = ramet__weight_data(m->weights[i]), *o = ramet__weight_data(ramet__model_weight(out, name));
        if (!la) {
            assert_ptr_equal(m->weights[i], ramet__model_weight(out, name)); /* shared pages */
            continue;
        }
        for (int64_t r = 0; r < la->n; r++)
            for (int64_t c = 0; c < la->k; c++) {
                double want = w[r * la->k + c];
                for (int j = 0; j < 4; j++) want += 0.5 * 2 * la->b[r * 4 + j] * la->a[j * la->k + c];
                for (int j = 0; lb && j < 2; j++) want += lb->b[r * 2 + j] * lb->a[j * la->k + c];
                assert_float_equal(o[r * la->k + c], want, 1e-5);
            }
    }
    OK(ramet_model_merge(&q8, m, both, scales, 1, "Q8_0", NULL, NULL));
    assert_int_equal(ramet__weight_enc(ramet__model_weight(q8, "blk.0.ffn_up.weight")), RAMET__ENC_Q8_0);
    assert_int_equal(ramet__weight_enc(ramet__model_weight(q8, "token_embd.weight")), RAMET__ENC_F32);
    ramet_model_free(q8);
    q8 = NULL;
    const float huge = 1e38f, nan = NAN;
    REFUSED(RAMET_E_NUMERIC, "too large", ramet_model_merge(&q8, m, both, &huge, 1, "F16", NULL, NULL));
    REFUSED(RAMET_E_ARGUMENT, "scale", ramet_model_merge(&q8, m, both, &nan, 1, NULL, NULL, NULL));
    REFUSED(RAMET_E_ARGUMENT, "\"Q9\"", ramet_model_merge(&q8, m, both, scales, 1, "Q9", NULL, NULL));
    assert_null(q8);
    m->digest_state = 0; /* computed again: the base is bit-unchanged */
    assert_string_equal(ramet_model_digest(m), before);
    assert_string_not_equal(ramet_model_digest(out), before);
    ramet_model_free(out);
    ramet_adapter_free(a);
    ramet_adapter_free(b);
    ramet_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adapter_new),         cmocka_unit_test(test_adapter_files_agree), cmocka_unit_test(test_adapter_mixed_ranks),
        cmocka_unit_test(test_adapter_refuses),     cmocka_unit_test(test_peft_config_refuses), cmocka_unit_test(test_merge),
        cmocka_unit_test(test_peft_weights_refuse),
    };
    return cmocka_run_group_tests(tests, make_runtime, drop_runtime);
}
