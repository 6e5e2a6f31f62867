/* SPDX-License-Identifier: Apache-2.0 */
/* test_hessian.c - a Hessian-vector product of a whole two-layer llama: the gradient of (gradient . direction), through
 * every operation of the model, its norms and its adapters, against central differences of the gradient. */
#include "tiny_llama.h"

enum { T = 12, N = 10, LEAVES = 2 * SLOTS };
static const int32_t tokens[T] = {5, 17, 3, 90, 41, 5, 60, 8, 8, 33, 71, 2},
                     pos[T] = {0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4}, seq[T] = {1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0},
                     outs[N] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 10}, labels[N] = {17, 3, 90, 41, 5, 60, 8, -1, 71, 2};
static const float weight[N] = {.1f, .1f, .2f, .1f, .1f, .1f, .3f, .1f, .1f, .1f};

static int64_t count_of(int32_t i) { return RANK * (i % 2 ? llama_n[i / 2 % PER_LAYER] : llama_k[i / 2 % PER_LAYER]); }

static void test_hessian_vector_product_of_a_llama(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(2);
    llama m;
    tiny_adapter a;
    ramet__graph *g;
    ramet__plan *p;
    ramet__plan_options o = {.mode = RAMET__MODE_EXACT, .max_context = 16};
    static ramet__var along[LEAVES];
    ramet__val wrt[LEAVES], grad[LEAVES], hess[LEAVES], dot = -1;
    char name[8];
    OK(llama_make(&m, rt));
    adapter_make(&a, 50, RANK);
    OK(ramet__graph_create(&g, rt, T, T, RANK));
    ramet__val loss = ramet__op_cross_entropy(
        g, llama_build(g, &m, 0, 1), ramet__graph_input(g, "labels", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0),
        ramet__graph_input(g, "weight", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 0), NULL);
    for (int32_t i = 0; i < LEAVES; i++) {
        int64_t n = llama_n[i / 2 % PER_LAYER], k = llama_k[i / 2 % PER_LAYER];
        ramet__slot s = ramet__graph_slot(g, ramet__weight_name(m.linear[i / 2]), n, k);
        wrt[i] = i % 2 ? s.b : s.a;
        along[i] = (ramet__var){"direction",
                                {2, {i % 2 ? n : RANK, i % 2 ? RANK : k}},
                                random_floats(count_of(i), 900 + (uint64_t)i, 0.1f)};
    }
    OK(ramet__graph_gradient(g, loss, wrt, LEAVES, grad));
    for (int32_t i = 0; i < LEAVES; i++) {
        ramet__val t = ramet__op_sum(g, ramet__op_mul(g, grad[i], ramet__graph_var(g, &along[i])));
        dot = dot < 0 ? t : ramet__op_add(g, dot, t);
    }
    OK(ramet__graph_gradient(g, dot, wrt, LEAVES, hess));
    for (int32_t i = 0; i < LEAVES; i++) {
        assert_true(hess[i] >= 0);
        snprintf(name, sizeof name, "h%d", i);
        ramet__graph_output(g, name, hess[i]);
    }
    ramet__graph_output(g, "dot", dot);
    OK(ramet__plan_create(&p, g, &o));
    ramet__graph_free(g);

    const ramet__slot_entry *list[1] = {a.e};
    ramet__run r = {.rows = T, .outs = N, .adapters = list, .n_adapters = 1};
    give(&r, "tokens", tokens);
    give(&r, "pos", pos);
    give(&r, "seq", seq);
    give(&r, "outs", outs);
    give(&r, "labels", labels);
    give(&r, "weight", weight);
    for (int32_t i = 0; i < LEAVES; i++) { /* each matrix alone */
        int64_t n = count_of(i);
        float *x = (float *)(uintptr_t)(i % 2 ? a.e[i / 2].b : a.e[i / 2].a),
              *saved = malloc((size_t)n * sizeof *saved), *d = random_floats(n, 300 + (uint64_t)i, 1);
        double got = 0, norm = 0, slope[2];
        memcpy(saved, x, (size_t)n * sizeof *saved);
        snprintf(name, sizeof name, "h%d", i);
        OK(ramet__plan_run(p, &r));
        const float *h = output(p, name);
        for (int64_t j = 0; j < n; j++) {
            got += (double)h[j] * d[j];
            norm += (double)h[j] * h[j];
        }
        for (int32_t k = 0; k < 2; k++) {
            double f[2], step = k ? 0.01 : 0.02;
            for (int32_t sign = 0; sign < 2; sign++) {
                for (int64_t j = 0; j < n; j++) x[j] = saved[j] + (float)(sign ? -step : step) * d[j];
                OK(ramet__plan_run(p, &r));
                f[sign] = output(p, "dot")[0];
            }
            slope[k] = (f[0] - f[1]) / (2 * step);
        }
        memcpy(x, saved, (size_t)n * sizeof *saved);
        double want = (4 * slope[1] - slope[0]) / 3;
        if (!(norm > 0 && fabs(got - want) <= 4e-3 * (fabs(want) + 0.1 * sqrt(norm)) + 2e-5)) {
            print_error("matrix %d: Hessian-vector product %.8g, differences %.8g (norm %.3g)\n", i, got, want,
                        sqrt(norm));
            fail();
        }
        free(saved);
        free(d);
    }
    for (int32_t i = 0; i < LEAVES; i++) free(along[i].data);
    ramet__plan_free(p);
    adapter_free(&a);
    llama_free(&m);
    ramet_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hessian_vector_product_of_a_llama)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
