/* SPDX-License-Identifier: Apache-2.0 */
/* test_graph_oom.c - the first, second, third ... allocation fails while a graph is built, differentiated, planned:
 * always a clean E_MEMORY and everything given back. */
#include "tiny_llama.h"
#include "../tools/failing.h"

static ramet_status attempt(ramet_runtime *rt, void *train) {
    ramet_status st = RAMET_OK;
    llama m;
    ramet__graph *g = NULL;
    ramet__plan *p = NULL;
    ramet__plan_options o = {.max_context = 16, .byte_budget = train ? *(uint64_t *)train : 0};
    RAMET__GO(llama_make(&m, rt));
    RAMET__GO(ramet__graph_create(&g, rt, 8, 8, RANK));
    if (train)
        llama_train(g, &m);
    else
        ramet__graph_output(g, "logits", llama_build(g, &m, 1, 1));
    RAMET__GO(ramet__plan_create(&p, g, &o));
out:
    ramet__plan_free(p);
    ramet__graph_free(g);
    llama_free(&m);
    return st;
}

static void test_inference(void **state) {
    (void)state;
    fail_each(attempt, NULL, 40);
}
static void test_training(void **state) {
    (void)state;
    uint64_t none = 0;
    fail_each(attempt, &none, 40);
}
static void test_training_under_a_budget(void **state) {
    (void)state;
    uint64_t budget = 1;
    ramet_runtime *rt = test_runtime(1);
    FAILS(RAMET_E_BUDGET, attempt(rt, &budget), "at least ");
    budget = strtoull(strstr(ramet_last_error(), "at least ") + 9, NULL, 10);
    ramet_runtime_free(rt);
    fail_each(attempt, &budget, 40);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_inference), cmocka_unit_test(test_training), cmocka_unit_test(test_training_under_a_budget)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
