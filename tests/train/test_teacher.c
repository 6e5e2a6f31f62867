/* SPDX-License-Identifier: Apache-2.0 */
/* Soft labels, and learning from them. */
#include "support.h"

static int setup(void **state) { return (*state = tiny(2)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

static void test_top_probabilities(void **state) {
    ramet_model *m = *state;
    float logits[100], p[8];
    int32_t ids[8];
    double sum = 0, held = 0;
    for (int32_t i = 0; i < 100; i++) {
        logits[i] = (float)((i * 37) % 50) * 0.1f; /* each value twice: i and i + 50 */
        sum += exp((double)logits[i]);
    }
    ramet__top_probabilities(ids, p, 8, logits, 100, m->rt->kernels);
    for (int32_t i = 0; i < 8; i++) {
        assert_true(logits[ids[i]] == (float)(49 - i / 2) * 0.1f);
        assert_true(fabs((double)p[i] - exp((double)logits[ids[i]]) / sum) < 1e-6);
        if (i % 2) assert_int_equal(ids[i], ids[i - 1] + 50); /* the lower id first among equals */
        held += (double)p[i];
    }
    assert_true(held < 1);
    ramet__top_probabilities(ids, p, 8, logits, 5, m->rt->kernels); /* fewer classes than places */
    assert_int_equal(ids[5], -1);
    assert_true(p[7] == 0.0f);
}

static ramet_tuner_options soft(ramet_model *teacher, float weight) {
    ramet_tuner_options o;
    ramet_tuner_options_init(&o, sizeof o);
    o.rank = 4;
    o.alpha = 8.0f;
    o.window = 32;
    o.batch = 4;
    o.steps = 25;
    o.learning_rate = 1e-2f;
    o.mode = RAMET_MODE_EXACT;
    o.teacher = teacher;
    o.teacher_weight = weight;
    o.teacher_top = 32;
    return o;
}

static ramet_tuner_report run(ramet_model *m, const ramet_tuner_options *o, int64_t steps, ramet_model **model) {
    ramet_tuner *t = NULL;
    ramet_dataset *d = prose_data(m);
    ramet_tuner_report r = {.struct_size = sizeof r};
    ok(ramet_tuner_create(&t, m, d, o));
    ok(ramet_tuner_step(&r, t, steps, 0, NULL, NULL));
    if (model) ok(ramet_tuner_model(model, t, NULL));
    ramet_tuner_free(t);
    ramet_dataset_free(d);
    return r;
}

static void test_a_model_has_nothing_to_learn_from_itself(void **state) {
    const ramet_tuner_options o = soft(*state, 1.0f);
    const ramet_tuner_report r = run(*state, &o, 1, NULL);
    assert_true(fabs(r.loss) < 1e-4);
    assert_true(r.gradient_norm < 1e-3);
}

static void test_student_moves_to_teacher(void **state) {
    ramet_model *m = *state, *teacher = NULL;
    ramet_tuner_options o = soft(NULL, 1.0f);
    o.full = 1;
    o.learning_rate = 3e-3f;
    run(m, &o, 25, &teacher);
    o = soft(teacher, 1.0f);
    const double kl = run(m, &o, 1, NULL).loss, after = run(m, &o, 25, NULL).loss;
    assert_true(kl > 0.05);
    if (!(after < 0.6 * kl)) print_error("KL %g -> %g\n", kl, after);
    assert_true(after < 0.6 * kl);
    for (int32_t i = 0; i < 3; i++) { /* and so it does by the other divergences, each below the forward one by the skew */
        o.teacher_divergence = i ? RAMET_DIVERGENCE_REVERSE : RAMET_DIVERGENCE_FORWARD;
        o.teacher_skew = i == 1 ? 0.0f : 0.25f;
        const double first = run(m, &o, 1, NULL).loss, last = run(m, &o, 25, NULL).loss;
        if (!(last < 0.8 * first)) print_error("divergence %d: %g -> %g\n", i, first, last);
        assert_true(first > 0.01 && last < 0.8 * first && (i == 1 || first < kl));
    }
    o = soft(NULL, 1.0f);
    const double hard = run(m, &o, 1, NULL).loss;
    o = soft(teacher, 0.0f);
    assert_true(fabs(run(m, &o, 1, NULL).loss - hard) < 1e-6); /* a teacher without weight teaches nothing */
    o = soft(teacher, 0.25f);
    assert_true(fabs(run(m, &o, 1, NULL).loss - (0.25 * kl + 0.75 * hard)) < 1e-4);
    ramet_model_free(teacher);
}

static void test_many_steps_are_the_same_for_any_threads(void **state) {
    double norm = 0, loss = 0;
    (void)state;
    for (int32_t threads = 1; threads <= 4; threads++) {
        ramet_model *m = tiny(threads);
        ramet_tuner_options o = soft(m, 0.5f);
        o.mode = RAMET_MODE_BALANCED;
        const ramet_tuner_report r = run(m, &o, 2, NULL);
        if (threads == 1) {
            norm = r.gradient_norm;
            loss = r.loss;
        }
        assert_true(r.gradient_norm == norm && r.loss == loss);
        ramet_model_free(m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_top_probabilities),
        cmocka_unit_test(test_a_model_has_nothing_to_learn_from_itself),
        cmocka_unit_test(test_student_moves_to_teacher),
        cmocka_unit_test(test_many_steps_are_the_same_for_any_threads),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
