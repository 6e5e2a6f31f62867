/* SPDX-License-Identifier: Apache-2.0 */
/* test_example.c - gradients of single windows: norms and clipped sums are those of windows run one at a time, in LoRA, full tuning (a tied table, norms and
 * biases), preferences; a limit that none reaches changes nothing; what is refused. */
#include "tuner_support.h"

static int setup(void **state) { return (*state = tiny(2)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

enum { BATCH = 5, ONCE = 3 };

static ramet_tuner *begun(ramet_model *m, ramet_tuner_options o, int32_t pairs) {
    ramet_tuner *t = NULL;
    ramet_dataset *d;
    if (!pairs) return made(m, &o);
    ok(ramet_dataset_create(&d, m));
    for (int32_t i = 0; i < BATCH; i++) ok(ramet_dataset_add_pair(d, prose[i % 4], i % 2 ? "No." : "A friend.", i % 3 ? "Ice!" : "was it was"));
    o.window = 160;
    ok(ramet_tuner_create(&t, m, d, &o));
    ramet_dataset_free(d);
    return t;
}

static void compare(ramet_model *m, ramet_tuner_options o, int32_t pairs, double tolerance) {
    float norms[BATCH];
    double own[BATCH], all = 0, limit = 0;
    o.batch = BATCH;
    o.clip = 0;
    o.micro_batch = 1;
    ramet_tuner *t = begun(m, o, pairs);
    const int64_t n = t->params.total;
    double *g = calloc((size_t)(n * BATCH), sizeof *g), *sum = calloc((size_t)n, sizeof *sum);
    for (int64_t i = 0; i < n; i++) /* B of a fresh adapter is zero, and so would be the gradient of A */
        if (!o.full) t->params.value[i] += 0.05f * (float)(i % 7 - 3);
    float *start = malloc((size_t)n * sizeof *start);
    memcpy(start, t->params.value, (size_t)n * sizeof *start);
    for (int32_t w = 0; w < ONCE; w++) {
        stepped(t, 1, 1e-9);
        for (int64_t i = 0; i < n; i++) {
            g[w * n + i] = (double)t->params.grad[i] - sum[i];
            sum[i] = (double)t->params.grad[i];
        }
        own[w] = 0;
        for (int64_t i = 0; i < n; i++) own[w] += g[w * n + i] * g[w * n + i];
        own[w] = sqrt(own[w]) * BATCH;
        limit += own[w] / ONCE; /* some are longer, some are not */
    }
    ramet_tuner_free(t);
    o.micro_batch = ONCE;
    o.example_norms = norms;
    for (int32_t pass = 0; pass < 2; pass++) {
        double size = 0;
        o.example_clip = pass ? 1e30f : (float)limit;
        t = begun(m, o, pairs);
        memcpy(t->params.value, start, (size_t)n * sizeof *start);
        stepped(t, 1, 1e-9);
        for (int32_t w = 0; w < ONCE; w++)
            if (!(fabs(norms[w] / own[w] - 1) <= tolerance)) fail_msg("window %d: norm %g, alone %g", w, (double)norms[w], own[w]);
        assert_true(own[0] > limit || own[1] > limit || own[2] > limit);
        for (int64_t i = 0; i < n; i++) {
            sum[i] = 0;
            for (int32_t w = 0; w < ONCE; w++) sum[i] += g[w * n + i] * (pass ? 1 : fmin(1, limit / own[w]));
            size = fmax(size, fabs(sum[i]));
        }
        for (int64_t i = 0; i < n; i++)
            if (!(fabs((double)t->params.grad[i] - sum[i]) <= tolerance * size)) fail_msg("gradient %lld: %g, want %g of %g", (long long)i, (double)t->params.grad[i], sum[i], size);
        const ramet_tuner_report r = stepped(t, 1, 0);
        for (int32_t w = 0; w < BATCH; w++) all += norms[w] / BATCH;
        assert_int_equal(r.step, 1);
        assert_true(fabs(r.example_norm / all - 1) < 1e-6 && (pass ? r.example_clipped == 0 : r.example_clipped > 0 && r.example_clipped < 1));
        all = 0;
        ramet_tuner_free(t);
    }
    free(start);
    free(g);
    free(sum);
}

static void test_clipped_sums_are_those_of_windows_alone(void **state) {
    for (int32_t full = 0; full < 2; full++)
        for (int32_t pairs = 0; pairs < 2; pairs++) {
            ramet_tuner_options o = small(full);
            o.mode = RAMET_MODE_EXACT;
            compare(*state, o, pairs, 2e-5);
        }
    ramet_tuner_options o = small(1);
    o.targets = "norms";
    o.mode = RAMET_MODE_EXACT;
    compare(*state, o, 0, 2e-5);
    o = small(1);
    compare(*state, o, 0, 2e-2); /* products in bf16 */
}

static void test_a_step_cut_in_two_goes_on_with_the_same_bits(void **state) {
    ramet_tuner_options o = small(0);
    o.example_clip = 0.5f;
    ramet_tuner *whole = made(*state, &o), *cut = made(*state, &o), *resumed = made(*state, &o);
    const char *path = scratch(".cut");
    const ramet_tuner_report r = stepped(whole, 2, 0);
    stepped(cut, 1, 1e-9);
    ok(ramet_tuner_save(cut, path));
    ok(ramet_tuner_resume(resumed, path));
    const ramet_tuner_report again = stepped(resumed, 2, 0);
    blob a = state_of(whole), b = state_of(resumed);
    same_state(&a, &b);
    assert_true(r.example_norm > 0 && r.example_norm == again.example_norm && r.example_clipped == again.example_clipped);
    o.example_clip = 0.25f;
    ramet_tuner *other = made(*state, &o);
    fails(ramet_tuner_resume(other, path), RAMET_E_INCONSISTENT, "example_clip");
    unlink(path);
    free(a.data);
    free(b.data);
    ramet_tuner_free(other);
    ramet_tuner_free(whole);
    ramet_tuner_free(cut);
    ramet_tuner_free(resumed);
}

static void test_what_is_refused(void **state) {
    ramet_tuner *t = NULL;
    ramet_dataset *d = prose_data(*state);
    ramet_tuner_options o = small(0);
    o.example_clip = -1;
    fails(ramet_tuner_create(&t, *state, d, &o), RAMET_E_ARGUMENT, "example_clip");
    o.example_clip = 1;
    o.dora = 1;
    fails(ramet_tuner_create(&t, *state, d, &o), RAMET_E_UNSUPPORTED, "dora");
    o.dora = 0;
    o.groups = "*=1@2";
    fails(ramet_tuner_create(&t, *state, d, &o), RAMET_E_UNSUPPORTED, "groups");
    float norms[3];
    o = small(0);
    o.example_norms = norms;
    fails(ramet_tuner_create(&t, *state, d, &o), RAMET_E_ARGUMENT, "example_norms");
    ramet_dataset_free(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clipped_sums_are_those_of_windows_alone),
        cmocka_unit_test(test_a_step_cut_in_two_goes_on_with_the_same_bits),
        cmocka_unit_test(test_what_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
