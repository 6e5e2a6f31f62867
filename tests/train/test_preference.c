/* SPDX-License-Identifier: Apache-2.0 */
/* Preferences: pairs as documents and windows, DPO's loss and its gradient by differences, resume, what is refused. Beside PyTorch in
 * tests/golden/adapting.py. */
#include "tuner_support.h"

static int setup(void **state) { return (*state = tiny(2)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

static const char *const pairs[][3] = {{"Who is there? ", "A friend.", "Nobody."}, {"The water ", "fell.", "was it was."}, {"And ", "ice.", "eyes."}};

static ramet_dataset *preferences(ramet_model *m) {
    ramet_dataset *d = NULL;
    ok(ramet_dataset_create(&d, m));
    for (size_t i = 0; i < 3; i++) ok(ramet_dataset_add_pair(d, pairs[i][0], pairs[i][1], pairs[i][2]));
    return d;
}

static ramet_tuner *preferring(ramet_model *m, ramet_tuner_options *o) {
    ramet_dataset *d = preferences(m);
    ramet_tuner *t = NULL;
    o->window = 64;
    o->preference_beta = 0.4f;
    ok(ramet_tuner_create(&t, m, d, o));
    ramet_dataset_free(d);
    return t;
}

static void test_pairs_are_windows(void **state) {
    ramet_dataset *d = preferences(*state), *documents = prose_data(*state);
    ramet__windows w;
    ramet__rows r;
    int64_t from, to;
    assert_int_equal(ramet_dataset_documents(d), 6);
    ok(ramet__windows_init(&w, d->rt->mem, d, 64));
    ok(ramet__rows_init(&r, d->rt->mem, 64));
    assert_int_equal(w.n, 3);
    for (int64_t i = 0; i < 6; i++) {
        ramet__windows_at(&from, &to, &w, 3, i);
        ramet__rows_clear(&r);
        ramet__rows_add(&r, d, from, to);
        assert_int_equal(r.n_seq, 2);
        assert_int_equal(r.rows, to - from);
        assert_int_equal(r.label[r.outs - 1], d->end); /* the end is an answer's part */
    }
    ramet__windows_free(&w);
    ramet__rows_free(&r);
    fails(ramet__windows_init(&w, d->rt->mem, d, 20), RAMET_E_ARGUMENT, "preference 0 has");
    ramet__windows_free(&w);
    fails(ramet_dataset_add_text(d, "a", 1), RAMET_E_STATE, "has preferences");
    fails(ramet_dataset_add_ids(d, (int32_t[]){1}, NULL, 1), RAMET_E_STATE, "has preferences");
    fails(ramet_dataset_add_pair(documents, "a", "b", "c"), RAMET_E_STATE, "has documents");
    fails(ramet_dataset_add_pair(d, "a", "", "c"), RAMET_E_ARGUMENT, "empty");
    fails(ramet_dataset_add_pair(d, "a", NULL, "c"), RAMET_E_ARGUMENT, "NULL");
    ramet_evaluation e = {.struct_size = sizeof e};
    fails(ramet_evaluate(&e, *state, d, NULL), RAMET_E_UNSUPPORTED, "preferences");
    ramet_tuner_options o = small(0);
    ramet_tuner *t = NULL;
    o.evaluation = documents;
    o.window = 64;
    fails(ramet_tuner_create(&t, *state, d, &o), RAMET_E_UNSUPPORTED, "evaluation");
    o.evaluation = NULL;
    o.preference_beta = 0;
    fails(ramet_tuner_create(&t, *state, d, &o), RAMET_E_ARGUMENT, "preference_beta");
    ramet_dataset_free(d);
    ramet_dataset_free(documents);
}

/* The loss of the first micro-batch; its gradient stays in the pool. */
static double first_half(ramet_tuner *t) {
    ramet__params_clear(&t->params);
    t->micro = t->step_tokens = t->ahead = 0;
    t->loss_sum = 0;
    t->inverses_step = -1;
    stepped(t, 1, 1e-9);
    assert_int_equal(t->micro, 1);
    return t->loss_sum;
}

static void gradient_is_the_difference(ramet_model *m, ramet_tuner_options *o) {
    o->mode = RAMET_MODE_EXACT;
    o->clip = 0;
    ramet_tuner *t = preferring(m, o);
    stepped(t, 1, 0); /* away from the reference */
    first_half(t);
    float *g = malloc((size_t)t->params.total * sizeof *g);
    memcpy(g, t->params.grad, (size_t)t->params.total * sizeof *g);
    for (int64_t i = 0; i < t->params.n; i += t->o.full ? 3 : 5) { /* along each parameter's gradient */
        const ramet__param *p = &t->params.param[i];
        float *v = p->value.data, was[64 * 320];
        const float *at = g + p->offset;
        double length = 0, side[2];
        for (int64_t j = 0; j < p->count; j++) length += (double)at[j] * at[j];
        length = sqrt(length);
        if (length < 1e-5) continue;
        assert_true(p->count <= 64 * 320);
        memcpy(was, v, (size_t)p->count * sizeof *was);
        for (int32_t s = 0; s < 2; s++) {
            for (int64_t j = 0; j < p->count; j++) v[j] = was[j] + (s ? -1e-2f : 1e-2f) * at[j] / (float)length;
            side[s] = first_half(t);
        }
        memcpy(v, was, (size_t)p->count * sizeof *was);
        assert_float_equal((side[0] - side[1]) / 2e-2 / length, 1, 3e-2);
    }
    free(g);
    ramet_tuner_free(t);
}

static void test_gradients(void **state) {
    ramet_tuner_options lora = small(0), full = small(1);
    gradient_is_the_difference(*state, &lora);
    gradient_is_the_difference(*state, &full);
}

static void test_answers_move_apart(void **state) {
    ramet_model *one = tiny(1);
    ramet_tuner_options o = small(0);
    o.steps = 8;
    ramet_tuner *t = preferring(*state, &o), *u = preferring(one, &o), *v = preferring(one, &o);
    ramet_tuner_report r = stepped(t, 1, 0);
    assert_float_equal(r.loss, log(2), 1e-5); /* nothing learned: both are the reference */
    r = stepped(t, 7, 0);
    assert_true(r.loss < .3 && r.accuracy == 1);
    const char *path = scratch(".ckpt");
    for (int32_t i = 0; i < 16; i++) { /* cut between micro-batches, in another tuner with other threads */
        ramet_tuner *from = i % 2 ? u : v, *to = i % 2 ? v : u;
        stepped(from, 1, 1e-9);
        ok(ramet_tuner_save(from, path));
        ok(ramet_tuner_resume(to, path));
    }
    unlink(path);
    blob a = state_of(t), b = state_of(u);
    same_state(&a, &b);
    free(a.data);
    free(b.data);
    ramet_tuner_free(t);
    ramet_tuner_free(u);
    ramet_tuner_free(v);
    ramet_model_free(one);
}

static void test_lines_of_preferences(void **state) {
    ramet_dataset *d = NULL, *whole = preferences(*state);
    const char *path = scratch(".jsonl");
    char text[512];
    size_t n = 0;
    for (size_t i = 0; i < 3; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "{\"prompt\":\"%s\",\"chosen\":\"%s\",\"rejected\":\"%s\"}\n", pairs[i][0], pairs[i][1], pairs[i][2]);
    ok(ramet_dataset_create(&d, *state));
    write_file(path, text, n);
    ok(ramet_dataset_add_file(d, path));
    char a[65], b[65];
    ramet__dataset_digest(a, d);
    ramet__dataset_digest(b, whole);
    assert_string_equal(a, b);
    const char *const bad[] = {"{\"prompt\":\"a\",\"chosen\":\"b\"}", "{\"text\":\"a\"}", "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\",\"text\":\"d\"}", "{\"chosen\":\"b\",\"rejected\":\"c\"}"};
    for (size_t i = 0; i < 4; i++) {
        write_file(path, bad[i], strlen(bad[i]));
        fails(ramet_dataset_add_file(d, path), RAMET_E_FORMAT, "line 1: a preference is");
    }
    unlink(path);
    ramet_dataset_free(d);
    ramet_dataset_free(whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pairs_are_windows), cmocka_unit_test(test_gradients), cmocka_unit_test(test_answers_move_apart),
                                       cmocka_unit_test(test_lines_of_preferences)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
