/* SPDX-License-Identifier: Apache-2.0 */
/* DoRA: gradients of magnitudes by differences of losses; attached, merged, stored and resumed it is the same; what it cannot be is refused. Its
 * pairs' gradients are beside PEFT's in tests/golden/adapting.py. */
#include "infer/session.h"
#include "ramet/shrink.h"
#include "tuner_support.h"
#include "../tools/folder.h"

static int setup(void **state) { return (*state = tiny(2)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

static ramet_tuner_options dora(void) {
    ramet_tuner_options o = small(0);
    o.dora = 1;
    o.mode = RAMET_MODE_EXACT;
    return o;
}

static ramet_adapter *learned(ramet_model *m) {
    ramet_tuner_options o = dora();
    ramet_adapter *a = NULL;
    ramet_tuner *t = made(m, &o);
    stepped(t, 3, 0);
    ok(ramet_tuner_adapter(&a, t));
    ramet_tuner_free(t);
    return a;
}

static void test_magnitudes_begin_as_norms(void **state) {
    ramet_tuner_options o = dora();
    ramet_adapter *a = NULL;
    ramet_tuner *t = made(*state, &o);
    double loss;
    ok(ramet_tuner_adapter(&a, t));
    ramet_dataset *d = prose_data(*state);
    loss = loss_on(*state, d, NULL);
    assert_float_equal(loss_on(*state, d, a), loss, 1e-6); /* B is 0: m W / |W| = W */
    ramet_dataset_free(d);
    ramet_adapter_free(a);
    ramet_tuner_free(t);
}

static void test_gradient_of_magnitudes(void **state) {
    ramet_model *m = *state;
    ramet_adapter *a = learned(m), *after = NULL;
    ramet_dataset *d = prose_data(m);
    ramet_tuner_options o = small(0);
    ramet_tuner *t = NULL;
    o.initial = a;
    o.mode = RAMET_MODE_EXACT;
    o.optimizer = "sgd"; /* a step of rate 1 takes the gradient off */
    o.beta1 = o.clip = o.warmup = o.weight_decay = 0;
    o.schedule = RAMET_SCHEDULE_CONSTANT;
    o.learning_rate = o.steps = 1;
    o.batch = (int32_t)((ramet_dataset_tokens(d) + o.window - 1) / o.window);
    ok(ramet_tuner_create(&t, m, d, &o));
    const double loss = stepped(t, 1, 0).loss;
    assert_float_equal(loss, loss_on(m, d, a), 1e-5);
    ok(ramet_tuner_adapter(&after, t));
    for (int64_t i = 0; i < a->n; i += 3) {
        ramet__lora *l = &a->lora[i];
        double product = 0, length = 0;
        float *step = malloc((size_t)l->n * sizeof *step), *was = l->m;
        for (int64_t j = 0; j < l->n; j++) { /* along the gradient itself, where the difference is largest */
            const double g = (double)l->m[j] - after->lora[i].m[j];
            length += g * g;
        }
        double side[2];
        for (int32_t s = 0; s < 2; s++) {
            for (int64_t j = 0; j < l->n; j++) step[j] = was[j] + (s ? -1.0f : 1.0f) * 2e-2f * (was[j] - after->lora[i].m[j]) / (float)sqrt(length);
            l->m = step;
            side[s] = loss_on(m, d, a);
        }
        l->m = was;
        product = (side[0] - side[1]) / 4e-2;
        assert_true(length > 1e-8);
        assert_float_equal(product / sqrt(length), 1, 2e-2);
        free(step);
    }
    ramet_tuner_free(t);
    ramet_adapter_free(after);
    ramet_adapter_free(a);
    ramet_dataset_free(d);
}

static void logits(float *out, ramet_model *m, ramet_adapter *a, const int32_t *ids, int32_t n) {
    ramet_session_options o;
    ramet_session *s = NULL;
    const float *is;
    int64_t outs;
    int32_t index;
    ramet_session_options_init(&o, sizeof o);
    o.mode = RAMET_MODE_EXACT;
    o.max_context = 64;
    if (a) {
        ok(ramet_session_create(&s, m, &o));
        fails(ramet_session_attach(&index, s, a, 1), RAMET_E_STATE, "dora = 1");
        ramet_session_free(s);
        o.dora = 1;
    }
    ok(ramet_session_create(&s, m, &o));
    if (a) ok(ramet_session_attach(&index, s, a, 1));
    if (a) ok(ramet_session_use(s, 0, index));
    ok(ramet_session_run(&is, &outs, s, ids, NULL, NULL, n, NULL, NULL));
    memcpy(out, is, 320 * sizeof *out);
    ramet_session_free(s);
}

static void test_attached_merged_and_stored(void **state) {
    ramet_model *m = *state, *merged = NULL;
    ramet_adapter *a = learned(m), *b = NULL;
    ramet_dataset *d = prose_data(m);
    const ramet_adapter *const one[] = {a}, *const two[] = {a, a};
    const double loss = loss_on(m, d, a);
    char *json = NULL;
    static float with[320], into[320], plain[320];
    assert_true(loss < loss_on(m, d, NULL) - .1);
    ok(ramet_model_merge(&merged, m, one, NULL, 1, NULL, NULL, NULL));
    assert_float_equal(loss_on(merged, d, NULL), loss, 1e-5);
    logits(with, m, a, d->ids, 20);
    logits(into, merged, NULL, d->ids, 20);
    logits(plain, m, NULL, d->ids, 20);
    double differs = 0, changed = 0;
    for (int32_t i = 0; i < 320; i++) differs = fmax(differs, fabs(with[i] - into[i])), changed = fmax(changed, fabs(with[i] - plain[i]));
    assert_true(differs < 1e-4 && changed > .1);
    ramet_model_free(merged);
    ok(ramet_model_merge(&merged, m, one, NULL, 1, "Q8_0", NULL, NULL)); /* into few bits */
    assert_float_equal(loss_on(merged, d, NULL), loss, 1e-2);
    const char *folder = scratch("-peft");
    ok(ramet_adapter_save(a, folder));
    ok(ramet_adapter_load(&b, m, folder));
    for (int64_t i = 0; i < a->n; i++) {
        const ramet__lora *x = &a->lora[i], *y = ramet__adapter_find(b, x->name);
        assert_memory_equal(x->m, y->m, (size_t)x->n * sizeof(float));
        assert_memory_equal(x->b, y->b, (size_t)(x->n * x->rank) * sizeof(float));
    }
    assert_true(loss_on(m, d, b) == loss);
    ok(ramet_describe_path(&json, m->rt, folder));
    assert_non_null(strstr(json, "\"dora\":true"));
    ramet_string_free(json);
    fails(ramet_adapter_save(a, "unused.gguf"), RAMET_E_UNSUPPORTED, "GGUF has no DoRA");
    fails(ramet_model_merge(&merged, m, two, NULL, 2, NULL, NULL, NULL), RAMET_E_UNSUPPORTED, "merged alone");
    fails(ramet__adapter_plain(a, "here"), RAMET_E_UNSUPPORTED, "here: a DoRA");
    char config[256], *text;
    size_t size;
    snprintf(config, sizeof config, "%s/adapter_config.json", folder); /* a file that says LoRA beside magnitudes */
    text = whole_file(config, &size);
    text[size] = 0;
    memcpy(strstr(text, "\"use_dora\": true") + 12, "null", 4);
    write_file(config, text, size);
    ramet_adapter *c = NULL;
    fails(ramet_adapter_load(&c, m, folder), RAMET_E_INCONSISTENT, "belongs to DoRA");
    free(text);
    folder_remove(folder);
    ramet_adapter_free(a);
    ramet_adapter_free(b);
    ramet_model_free(merged);
    ramet_dataset_free(d);
}

static void test_resumes_with_the_same_bits(void **state) {
    ramet_model *one = tiny(1);
    ramet_tuner_options o = dora();
    ramet_tuner *t = made(*state, &o), *u = made(one, &o);
    const char *path = scratch(".ckpt");
    for (int32_t i = 0; i < 6; i++) { /* cut between all micro-batches, and other threads */
        ramet_tuner *v = i % 2 ? t : u, *next = i % 2 ? u : t;
        stepped(v, 1, 1e-9);
        ok(ramet_tuner_save(v, path));
        ok(ramet_tuner_resume(next, path));
    }
    unlink(path);
    ramet_tuner *whole = made(*state, &o);
    stepped(whole, 3, 0);
    blob a = state_of(whole), b = state_of(u);
    same_state(&a, &b);
    free(a.data);
    free(b.data);
    o.full = 1;
    ramet_dataset *d = prose_data(one);
    ramet_tuner *none = NULL;
    fails(ramet_tuner_create(&none, one, d, &o), RAMET_E_ARGUMENT, "no adapter");
    ramet_dataset_free(d);
    ramet_tuner_free(t);
    ramet_tuner_free(u);
    ramet_tuner_free(whole);
    ramet_model_free(one);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_magnitudes_begin_as_norms), cmocka_unit_test(test_gradient_of_magnitudes),
                                       cmocka_unit_test(test_attached_merged_and_stored), cmocka_unit_test(test_resumes_with_the_same_bits)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
