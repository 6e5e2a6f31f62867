/* SPDX-License-Identifier: Apache-2.0 */
/* test_budget.c - under a byte budget a plan computes more of it twice: with the same bits, never above the budget, down to the least that
 * its refusal names; the runtime's budget counts too. */
#include "tiny_llama.h"

enum { T = 48 }; /* rows, in three sequences */
typedef struct inputs { int32_t tokens[T], pos[T], seq[T], outs[T], labels[T]; float weight[T]; } inputs;

static void fill(inputs *in) {
    for (int32_t i = 0; i < T; i++) {
        in->tokens[i] = i * 37 % V;
        in->pos[i] = i % 16;
        in->seq[i] = i / 16;
        in->outs[i] = i;
        in->labels[i] = i * 31 % V;
        in->weight[i] = 1.0f / T;
    }
}

static ramet__graph *lora(ramet_runtime *rt, const llama *m) {
    ramet__graph *g;
    OK(ramet__graph_create(&g, rt, T, T, RANK));
    llama_train(g, m);
    return g;
}

/* The outputs of a run, one after another. */
static float *results(ramet__plan *p, const inputs *in, const tiny_adapter *a, int64_t *n) {
    const ramet__slot_entry *list[1] = {a->e};
    ramet__run r = {.rows = T, .outs = T, .adapters = list, .n_adapters = 1};
    float *all = malloc(1 << 22);
    give(&r, "tokens", in->tokens);
    give(&r, "pos", in->pos);
    give(&r, "seq", in->seq);
    give(&r, "outs", in->outs);
    give(&r, "labels", in->labels);
    give(&r, "weight", in->weight);
    OK(ramet__plan_run(p, &r));
    *n = 0;
    for (int64_t i = 0; i < p->n_outputs; i++) {
        int64_t rows, cols;
        const float *y = ramet__plan_output(p, p->outputs[i].name, &rows, &cols);
        memcpy(all + *n, y, (size_t)(rows * cols) * sizeof *y);
        *n += rows * cols;
    }
    assert_true(*n * 4 <= 1 << 22);
    return all;
}

static uint64_t named(void) { /* in the last refusal */
    const char *at = strstr(ramet_last_error(), "at least ");
    if (!at) fail_msg("no least budget in: %s", ramet_last_error());
    return strtoull(at + 9, NULL, 10);
}

static void test_every_budget_gives_the_same_bits(void **state) {
    (void)state;
    inputs in;
    fill(&in);
    for (int32_t mode = RAMET__MODE_EXACT; mode <= RAMET__MODE_BALANCED; mode++) {
        float *want = NULL;
        for (int32_t threads = 1; threads <= 2; threads++) {
            ramet_runtime *rt = test_runtime(threads);
            llama m;
            tiny_adapter a;
            ramet__plan *p;
            ramet__plan_options o = {.mode = (ramet__mode)mode, .training = 1, .max_context = 16};
            int64_t n, all;
            OK(llama_make(&m, rt));
            adapter_make(&a, 50, RANK);
            ramet__graph *g = lora(rt, &m);
            OK(ramet__plan_create(&p, g, &o));
            const uint64_t most = ramet__plan_bytes(p);
            const double work = ramet__plan_recomputed(p);
            float *x = results(p, &in, &a, &all);
            if (!want) want = x;
            else {
                assert_memory_equal(want, x, (size_t)all * sizeof *x);
                free(x);
            }
            ramet__plan_free(p);
            o.byte_budget = 1;
            FAILS(RAMET_E_BUDGET, ramet__plan_create(&p, g, &o), "the budget is 1");
            const uint64_t least = named();
            assert_true(least < most);
            for (int32_t i = 0; i <= 8; i++) { /* from the least to just below what is wanted */
                o.byte_budget = least + (most - 1 - least) * (uint64_t)i / 8;
                OK(ramet__plan_create(&p, g, &o));
                assert_true(ramet__plan_bytes(p) <= o.byte_budget);
                assert_true(ramet__plan_recomputed(p) > work && ramet__plan_recomputed(p) < .5);
                x = results(p, &in, &a, &n);
                assert_int_equal(n, all);
                assert_memory_equal(want, x, (size_t)all * sizeof *x);
                free(x);
                ramet__plan_free(p);
            }
            o.byte_budget = least - 1;
            FAILS(RAMET_E_BUDGET, ramet__plan_create(&p, g, &o), "raise it");
            assert_int_equal(named(), least);
            o.byte_budget = least + 999; /* what the caller holds counts too */
            o.held_bytes = 1000;
            FAILS(RAMET_E_BUDGET, ramet__plan_create(&p, g, &o), "raise it");
            assert_int_equal(named(), least + 1000);
            ramet__graph_free(g);
            adapter_free(&a);
            llama_free(&m);
            ramet_runtime_free(rt);
        }
        free(want);
    }
}

static void test_the_text_says_what_is_computed_again(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(1);
    llama m;
    ramet__plan *p;
    ramet__plan_options o = {.max_context = 16, .byte_budget = 1};
    OK(llama_make(&m, rt));
    ramet__graph *g = lora(rt, &m);
    FAILS(RAMET_E_BUDGET, ramet__plan_create(&p, g, &o), "at least");
    o.byte_budget = named();
    OK(ramet__plan_create(&p, g, &o));
    char *text = ramet__plan_text(p), share[40];
    snprintf(share, sizeof share, " x linear");
    const char *at = strstr(text, "computed again: ");
    assert_non_null(at);
    assert_non_null(strstr(at, share));
    snprintf(share, sizeof share, ", %.1f%% of the work", 100.0 * ramet__plan_recomputed(p));
    assert_non_null(strstr(at, share));
    ramet_string_free(text);
    ramet__plan_free(p);
    ramet__graph_free(g);
    llama_free(&m);
    ramet_runtime_free(rt);
}

/* The share of what is computed twice is one of multiplications: products going back count as those going forward. */
static void test_products_going_back_are_work(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(1);
    llama m;
    ramet__plan *p;
    ramet__plan_options o = {.training = 1, .max_context = 16};
    double forward = 0.0, back = 0.0;
    OK(llama_make(&m, rt));
    ramet__graph *g = lora(rt, &m);
    OK(ramet__plan_create(&p, g, &o));
    for (int64_t i = 0; i < p->n_steps; i++) {
        const ramet__step *s = &p->steps[i];
        if (!strcmp(s->op->name, "linear_dx")) back += s->op->work(p, s);
        else if (!strncmp(s->op->name, "linear", 6) && strcmp(s->op->name, "linear_dw")) forward += s->op->work(p, s);
    }
    assert_true(forward > 0.0 && back > .5 * forward && back <= forward); /* the first layer's inputs need no gradient */
    ramet__plan_free(p);
    ramet__graph_free(g);
    llama_free(&m);
    ramet_runtime_free(rt);
}

/* A plan that did not fit into what the runtime has left takes less. */
static void test_the_runtimes_budget_is_kept(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(1);
    llama m;
    ramet__plan *p;
    const ramet__plan_options o = {.max_context = 16};
    uint64_t before, now;
    OK(llama_make(&m, rt));
    ramet__graph *g = lora(rt, &m);
    OK(ramet__plan_create(&p, g, &o));
    const uint64_t wanted = ramet__plan_bytes(p);
    ramet_runtime_bytes(rt, &before, NULL);
    ramet__plan_free(p);
    ramet__graph_free(g);
    llama_free(&m);
    ramet_runtime_free(rt);
    ramet_runtime_options ro;
    ramet_runtime_options_init(&ro, sizeof ro);
    ro.threads = 1;
    ro.byte_budget = before - 1;
    OK(ramet_runtime_create(&rt, &ro));
    OK(llama_make(&m, rt));
    g = lora(rt, &m);
    OK(ramet__plan_create(&p, g, &o));
    ramet_runtime_bytes(rt, &now, NULL);
    assert_true(ramet__plan_bytes(p) < wanted && now < before);
    ramet__plan_free(p);
    ramet__graph_free(g);
    llama_free(&m);
    ramet_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_budget_gives_the_same_bits), cmocka_unit_test(test_the_text_says_what_is_computed_again),
                                       cmocka_unit_test(test_products_going_back_are_work), cmocka_unit_test(test_the_runtimes_budget_is_kept)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
