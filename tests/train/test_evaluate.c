/* SPDX-License-Identifier: Apache-2.0 */
/* Which predictions are scored, and that their losses are those of the logits. */
#include "support.h"

static int setup(void **state) { return (*state = tiny(2)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

static ramet_evaluate_options options(int32_t window, int32_t score, float *losses, int64_t capacity) {
    ramet_evaluate_options o;
    ramet_evaluate_options_init(&o, sizeof o);
    o.window = window;
    o.score = score;
    o.mode = RAMET_MODE_EXACT;
    o.losses = losses;
    o.losses_capacity = capacity;
    return o;
}

static ramet_evaluation evaluated(ramet_model *m, ramet_dataset *d, const ramet_evaluate_options *o) {
    ramet_evaluation e = {.struct_size = sizeof e};
    ok(ramet_evaluate(&e, m, d, o));
    return e;
}

static ramet_dataset *ids_data(ramet_model *m, int64_t n) {
    ramet_dataset *d = NULL;
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    assert_non_null(ids);
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)ramet__rng_below(3, 1, (uint64_t)i, 320);
    ok(ramet_dataset_create(&d, m));
    ok(ramet_dataset_add_ids(d, ids, NULL, n));
    free(ids);
    return d;
}

/* -log softmax(logits)[label] of window `from`, in double, from a plan that has full logits. */
static double *reference(ramet_model *m, const ramet_dataset *d, int64_t from, int64_t width) {
    ramet__graph *g = NULL;
    ramet__plan *p = NULL;
    ramet__built built;
    ramet__rows r;
    ramet__run run = {0};
    int64_t outs = 0, v = 0;
    const ramet__build_options b = {0};
    const ramet__plan_options o = {.mode = RAMET__MODE_EXACT, .max_context = width};
    double *loss = malloc((size_t)width * sizeof *loss);
    assert_non_null(loss);
    ok(ramet__graph_create(&g, m->rt, width, width, 0));
    ok(m->arch->build(&built, g, m, &b));
    ramet__graph_output(g, "logits", built.logits);
    ok(ramet__plan_create(&p, g, &o));
    ok(ramet__rows_init(&r, m->rt->mem, width));
    ramet__rows_add_whole(&r, d, from, from + width, 0, width - 2, -1);
    ramet__rows_bind(&r, &run, 0);
    ok(ramet__plan_run(p, &run));
    const float *logits = ramet__plan_output(p, "logits", &outs, &v);
    assert_int_equal(outs, width - 1);
    for (int64_t i = 0; i < outs; i++) {
        double sum = 0;
        for (int64_t j = 0; j < v; j++) sum += exp((double)logits[i * v + j]);
        loss[i] = log(sum) - (double)logits[i * v + d->ids[from + i + 1]];
    }
    ramet__rows_free(&r);
    ramet__plan_free(p);
    ramet__graph_free(g);
    return loss;
}

static void test_half_scores_second_halves(void **state) {
    ramet_model *m = *state;
    ramet_dataset *d = ids_data(m, 700);
    float losses[1024];
    ramet_evaluate_options o = options(64, RAMET_SCORE_HALF, losses, 1024);
    ramet_evaluation e = evaluated(m, d, &o);
    assert_int_equal(e.windows, 10); /* 700 / 64; 60 tokens are left out */
    assert_int_equal(e.tokens, 10 * 31); /* from positions 32..62 */
    double sum = 0, window[10] = {0}, spread = 0;
    for (int64_t w = 0; w < 10; w++) {
        double *want = reference(m, d, w * 64, 64);
        for (int64_t i = 0; i < 31; i++) {
            assert_true(fabs(want[32 + i] - (double)losses[w * 31 + i]) < 1e-5 * want[32 + i]);
            window[w] += want[32 + i] / 31;
        }
        sum += window[w];
        free(want);
    }
    assert_true(fabs(e.loss - sum / 10) < 1e-5 && fabs(e.perplexity - exp(e.loss)) < 1e-9 * e.perplexity);
    for (int64_t w = 0; w < 10; w++) spread += (window[w] - sum / 10) * (window[w] - sum / 10);
    assert_true(fabs(e.standard_error - sqrt(spread / 9 / 10)) < 1e-4 * e.standard_error);
    ramet_dataset_free(d);
    d = ids_data(m, 256);
    o = options(256, RAMET_SCORE_HALF, NULL, 0);
    e = evaluated(m, d, &o);
    assert_int_equal(e.tokens, 127);
    assert_true(e.standard_error == 0.0);
    ramet_dataset_free(d);
}

static void test_stops_at_exactly_max_tokens(void **state) {
    ramet_model *m = *state;
    ramet_dataset *d = ids_data(m, 700);
    float all[1024], some[64];
    ramet_evaluate_options o = options(64, RAMET_SCORE_HALF, all, 1024);
    evaluated(m, d, &o);
    for (int64_t stop = 1; stop < 80; stop += 26) {
        o = options(64, RAMET_SCORE_HALF, some, 40);
        o.max_tokens = stop;
        some[39] = -1.0f;
        const ramet_evaluation e = evaluated(m, d, &o);
        double sum = 0;
        assert_int_equal(e.tokens, stop);
        assert_memory_equal(some, all, (size_t)RAMET__MIN(stop, 40) * sizeof *all); /* no more than there is room for */
        for (int64_t i = 0; i < stop; i++) sum += (double)all[i];
        assert_true(fabs(e.loss - sum / (double)stop) < 1e-9);
    }
    ramet_dataset_free(d);
}

static void test_all_keeps_documents_apart(void **state) {
    ramet_model *m = *state;
    ramet_dataset *d = prose_data(m);
    float together[1024], alone[1024];
    ramet_evaluate_options o = options(256, RAMET_SCORE_ALL, together, 1024);
    const ramet_evaluation e = evaluated(m, d, &o);
    assert_int_equal(e.tokens, d->n - 4);
    int64_t at = 0;
    for (int32_t i = 0; i < 4; i++) {
        ramet_dataset *one = NULL;
        ok(ramet_dataset_create(&one, m));
        ok(ramet_dataset_add_text(one, prose[i], strlen(prose[i])));
        const int64_t inside = 256 - d->docs[i].start; /* until the first window ends */
        o = options(256, RAMET_SCORE_ALL, alone, 1024);
        const ramet_evaluation f = evaluated(m, one, &o);
        assert_memory_equal(together + at, alone, (size_t)RAMET__MIN(f.tokens, inside) * sizeof *alone);
        at += f.tokens;
        ramet_dataset_free(one);
        if (inside < f.tokens) break;
    }
    assert_true(at > 100);
    ramet_dataset_free(d);
}

static void test_flags_are_kept(void **state) {
    ramet_model *m = *state;
    ramet_dataset *d = NULL;
    int32_t ids[128];
    uint8_t predict[128];
    ok(ramet_dataset_create(&d, m));
    for (int32_t i = 0; i < 128; i++) ids[i] = i + 3, predict[i] = i % 3 == 0;
    ok(ramet_dataset_add_ids(d, ids, predict, 128));
    ramet_evaluate_options o = options(64, RAMET_SCORE_HALF, NULL, 0);
    assert_int_equal(evaluated(m, d, &o).tokens, 11 + 10); /* multiples of 3 in 33..63 and in 97..127 */
    o = options(64, RAMET_SCORE_ALL, NULL, 0);
    assert_int_equal(evaluated(m, d, &o).tokens, 42);
    ramet_dataset_free(d);
}

static void test_same_bits_for_any_threads(void **state) {
    float want[3][1024], got[1024];
    double loss[3] = {0};
    (void)state;
    for (int32_t threads = 1; threads <= 4; threads++)
        for (int32_t mode = RAMET_MODE_EXACT; mode <= RAMET_MODE_FAST; mode++) {
            ramet_model *m = tiny(threads);
            ramet_dataset *d = ids_data(m, 700);
            ramet_evaluate_options o = options(64, RAMET_SCORE_HALF, threads > 1 ? got : want[mode], 1024);
            o.mode = mode;
            const ramet_evaluation e = evaluated(m, d, &o);
            assert_int_equal(e.tokens, 310);
            if (threads == 1) loss[mode] = e.loss;
            else assert_memory_equal(want[mode], got, 310 * sizeof *got);
            assert_true(loss[mode] == e.loss);
            ramet_dataset_free(d);
            ramet_model_free(m);
        }
}

static void test_adapter_counts(void **state) {
    ramet_model *m = *state;
    ramet_dataset *d = ids_data(m, 256);
    ramet_adapter *a = NULL;
    ok(ramet__adapter_new(&a, m, "q_proj,down_proj", 4, 8.0f, 1));
    ramet_evaluate_options o = options(64, RAMET_SCORE_HALF, NULL, 0);
    const double plain = evaluated(m, d, &o).loss;
    o.adapter = a;
    assert_true(fabs(evaluated(m, d, &o).loss - plain) < 1e-6); /* B is zero */
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t j = 0; j < a->lora[i].n * a->lora[i].rank; j++) a->lora[i].b[j] = 0.05f * (float)(j % 7 - 3);
    const double with = evaluated(m, d, &o).loss;
    assert_true(fabs(with - plain) > 1e-3);
    ramet_model *merged = NULL;
    const ramet_adapter *const list[] = {a};
    const float scale[] = {0.5f};
    ok(ramet_model_merge(&merged, m, list, scale, 1, NULL, NULL, NULL));
    o.adapter_scale = 0.5f;
    const double half = evaluated(m, d, &o).loss;
    o.adapter = NULL;
    assert_true(fabs(evaluated(merged, d, &o).loss - half) < 1e-5);
    a->lora[0].k--;
    o.adapter = a;
    ramet_evaluation e = {.struct_size = sizeof e};
    fails(ramet_evaluate(&e, m, d, &o), RAMET_E_INCONSISTENT, "does not fit");
    a->lora[0].k++;
    ramet_adapter_free(a);
    ramet_model_free(merged);
    ramet_dataset_free(d);
}

static int32_t stop_late(double fraction, const char *what, void *user) {
    (void)what;
    assert_true(fraction >= 0 && fraction <= 1);
    return ++*(int *)user > 1;
}

static void test_refuses(void **state) {
    ramet_model *m = *state;
    ramet_dataset *d = ids_data(m, 2000), *empty = NULL; /* at windows of 16 two runs, and a question before each */
    ramet_evaluation e = {.struct_size = sizeof e, .tokens = -5};
    ramet_evaluate_options o = options(257, RAMET_SCORE_HALF, NULL, 0);
    int calls = 0;
    fails(ramet_evaluate(&e, m, d, &o), RAMET_E_ARGUMENT, "window 257");
    o = options(64, 2, NULL, 0);
    fails(ramet_evaluate(&e, m, d, &o), RAMET_E_ARGUMENT, "score 2");
    ok(ramet_dataset_create(&empty, m));
    fails(ramet_evaluate(&e, m, empty, NULL), RAMET_E_ARGUMENT, "window 512");
    o = options(64, RAMET_SCORE_HALF, NULL, 0);
    fails(ramet_evaluate(&e, m, empty, &o), RAMET_E_ARGUMENT, "less than one window");
    o.progress = stop_late;
    o.progress_user = &calls;
    o.window = 16;
    assert_int_equal(ramet_evaluate(&e, m, d, &o), RAMET_E_CANCELLED);
    assert_int_equal(e.tokens, -5); /* untouched on failure */
    ramet_dataset_free(d);
    ramet_dataset_free(empty);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half_scores_second_halves),
        cmocka_unit_test(test_stops_at_exactly_max_tokens),
        cmocka_unit_test(test_all_keeps_documents_apart),
        cmocka_unit_test(test_flags_are_kept),
        cmocka_unit_test(test_same_bits_for_any_threads),
        cmocka_unit_test(test_adapter_counts),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
