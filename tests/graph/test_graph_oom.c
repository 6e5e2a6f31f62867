/* SPDX-License-Identifier: Apache-2.0 */
/* test_graph_oom.c - the first, second, third ... allocation fails while a graph is built, differentiated, planned:
 * always a clean E_MEMORY and everything given back. */
#include "tiny_llama.h"

static int64_t countdown, live;
static int32_t failed,
    lasting; /* every later allocation fails too; otherwise one that tries again with less may succeed */
static void *failing(void *ptr, size_t old, size_t size, size_t alignment, void *user) {
    (void)user;
    if (!size) {
        live -= ptr != NULL;
        free(ptr);
        return NULL;
    }
    if (countdown > 0 && --countdown == 0) {
        if (lasting) countdown = 1;
        failed = 1;
        return NULL;
    }
    void *p = NULL;
    if (posix_memalign(&p, alignment < sizeof p ? sizeof p : alignment, size)) return NULL;
    if (ptr) {
        memcpy(p, ptr, old < size ? old : size);
        free(ptr);
    } else
        live++;
    return p;
}

static ramet_status attempt(ramet_runtime *rt, int32_t train) {
    ramet_status st = RAMET_OK;
    llama m;
    ramet__graph *g = NULL;
    ramet__plan *p = NULL;
    ramet__plan_options o = {.max_context = 16};
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

static void fail_each(int32_t train) {
    ramet_runtime_options o;
    ramet_runtime *rt;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 1;
    o.alloc = failing;
    countdown = 0;
    OK(ramet_runtime_create(&rt, &o));
    OK(attempt(rt, train));
    int64_t before = live, n = 1;
    for (;; n++) {
        ramet_status st;
        for (lasting = 0; lasting < 2; lasting++) {
            countdown = n;
            failed = 0;
            st = attempt(rt, train);
            countdown = 0;
            assert_int_equal(live, before);
            if (failed && (st || lasting)) FAILS(RAMET_E_MEMORY, st, "");
        }
        if (!failed) {
            OK(st);
            break;
        }
    }
    assert_true(n > 40);
    ramet_runtime_free(rt);
    assert_int_equal(live, 0);
}
static void test_inference(void **state) {
    (void)state;
    fail_each(0);
}
static void test_training(void **state) {
    (void)state;
    fail_each(1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_inference), cmocka_unit_test(test_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
