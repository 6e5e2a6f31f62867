/* SPDX-License-Identifier: Apache-2.0 */
/* test_budget.c - a tuner's byte budget: what it holds is known before it starts, what does not fit is computed again and the state after each
 * step has the same bytes, and a budget that is too small is refused with the one that would do. */
#include "tuner_support.h"

static uint64_t least_of(ramet_model *m, ramet_tuner_options o) {
    ramet_tuner *t = NULL;
    ramet_dataset *d = prose_data(m);
    o.byte_budget = 1;
    fails(ramet_tuner_create(&t, m, d, &o), RAMET_E_BUDGET, "at least ");
    ramet_dataset_free(d);
    return strtoull(strstr(ramet_last_error(), "at least ") + 9, NULL, 10);
}

static void same_bits(ramet_tuner_options o) {
    blob want[3];
    for (int32_t threads = 1; threads <= 2; threads++) {
        ramet_model *m = tiny(threads);
        o.byte_budget = 0;
        ramet_tuner *t = made(m, &o);
        const ramet_tuner_report free_of_budget = stepped(t, 0, 0);
        for (int32_t i = 0; threads == 1 && i < 3; i++) {
            stepped(t, 1, 0);
            want[i] = state_of(t);
        }
        ramet_tuner_free(t);
        const uint64_t least = least_of(m, o), most = free_of_budget.bytes;
        assert_true(least < most && free_of_budget.plan_bytes < most);
        for (int32_t part = 0; part <= 2; part++) {
            o.byte_budget = least + (most - 1 - least) * (uint64_t)part / 2;
            t = made(m, &o);
            const ramet_tuner_report r = stepped(t, 0, 0);
            assert_int_equal(r.step, 0);
            assert_true(r.bytes <= o.byte_budget && r.recomputed > free_of_budget.recomputed);
            for (int32_t i = 0; i < 3; i++) {
                stepped(t, 1, 0);
                const blob b = state_of(t);
                same_state(&want[i], &b);
                free(b.data);
            }
            ramet_tuner_free(t);
        }
        ramet_model_free(m);
    }
    for (int32_t i = 0; i < 3; i++) free(want[i].data);
}

static void test_lora_has_the_same_bits(void **state) {
    (void)state;
    for (int32_t mode = RAMET_MODE_EXACT; mode <= RAMET_MODE_BALANCED; mode++) {
        ramet_tuner_options o = small(0);
        o.mode = mode;
        same_bits(o);
    }
}
static void test_full_tuning_has_the_same_bits(void **state) {
    (void)state;
    for (int32_t mode = RAMET_MODE_EXACT; mode <= RAMET_MODE_BALANCED; mode++) {
        ramet_tuner_options o = small(1);
        o.mode = mode;
        same_bits(o);
    }
}

/* The report counts what the runtime holds for the tuner, within the small change of names and tables. */
static void test_bytes_are_those_held(void **state) {
    (void)state;
    ramet_model *m = tiny(1);
    const ramet_tuner_options o = small(0);
    uint64_t before, with;
    ramet_tuner *t = made(m, &o); /* weights are packed now */
    ramet_tuner_free(t);
    ramet_runtime_bytes(m->rt, &before, NULL);
    t = made(m, &o);
    ramet_runtime_bytes(m->rt, &with, NULL);
    const ramet_tuner_report r = stepped(t, 0, 0);
    assert_true(r.bytes <= with - before);
    assert_true(with - before - r.bytes < 400000);
    char *text = NULL;
    ok(ramet_tuner_describe(&text, t));
    assert_non_null(strstr(text, "linear"));
    ramet_string_free(text);
    fails(ramet_tuner_describe(NULL, t), RAMET_E_ARGUMENT, "out is NULL");
    fails(ramet_tuner_describe(&text, NULL), RAMET_E_ARGUMENT, "tuner is NULL");
    ramet_tuner_free(t);
    ramet_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lora_has_the_same_bits), cmocka_unit_test(test_full_tuning_has_the_same_bits), cmocka_unit_test(test_bytes_are_those_held)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
