/* SPDX-License-Identifier: Apache-2.0 */
/* test_run_adapters.c - adapters in a run: rows use their own, gradients of both orders, the gradient of a whole model. */
#include "train_run.h"

static void test_rows_use_their_own_adapter(void **state) {
    (void)state;
    enum { N = 40, K = 32, R = 6 };
    ramet_runtime *rt = test_runtime(2);
    ramet__weight *w = make_weight(rt, "weight", RAMET__ENC_F32, N, K, 1);
    float f[N * K], *x = random_floats(R * K, 1, 1), *a[2], *b[2];
    ramet__weight_decode(f, w, 0, N);
    ramet__slot_entry e[2];
    for (int32_t i = 0; i < 2; i++) {
        a[i] = random_floats((3 - i) * K, 20 + (uint64_t)i, 1);
        b[i] = random_floats((3 - i) * N, 30 + (uint64_t)i, 1);
        e[i] = (ramet__slot_entry){a[i], b[i], 0.7f + (float)i, 3 - i};
    }
    const ramet__slot_entry *list[2] = {&e[0], &e[1]};
    static const int32_t of[R] = {0, 1, -1, -1, 1, 0};
    ramet__graph *g;
    ramet__plan *p;
    OK(ramet__graph_create(&g, rt, R, 0, 3));
    ramet__slot s = ramet__graph_slot(g, "weight", N, K);
    ramet__graph_output(g, "y",
                        ramet__op_linear(g, ramet__graph_input(g, "x", RAMET__TYPE_F32, RAMET__AXIS_ROWS, K),
                                         ramet__graph_weight(g, w), -1, &s));
    OK(ramet__plan_create(&p, g, NULL));
    for (int32_t with = 0; with < 3; with++) { /* none; all rows the first; rows by number */
        ramet__run r = {.rows = R, .adapters = list, .n_adapters = with ? 2 : 0, .row_adapter = with == 2 ? of : NULL};
        give(&r, "x", x);
        OK(ramet__plan_run(p, &r));
        double want[R * N] = {0};
        for (int32_t i = 0; i < R; i++)
            for (int32_t n = 0; n < N; n++)
                for (int32_t k = 0; k < K; k++) {
                    int32_t which = with == 0 ? -1 : with == 1 ? 0 : of[i];
                    double v = f[n * K + k];
                    for (int32_t q = 0; which >= 0 && q < e[which].rank; q++)
                        v += (double)e[which].scale * b[which][n * e[which].rank + q] * a[which][q * K + k];
                    want[i * N + n] += v * x[i * K + k];
                }
        near(output(p, "y"), want, R * N, 3e-6, "adapters");
    }
    ramet__run r = {.rows = R, .adapters = list, .n_adapters = 2, .row_adapter = of};
    give(&r, "x", x);
    e[1].rank = 4;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "rank 4");
    e[1].rank = 2;
    r.n_adapters = 1;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "row_adapter[1]");
    ramet__plan_free(p);
    ramet__graph_free(g);
    for (int32_t i = 0; i < 2; i++) {
        free(a[i]);
        free(b[i]);
    }
    free(x);
    ramet__weight_free(w);
    ramet_runtime_free(rt);
}

/* Balanced products of many rows are made otherwise than few, and so is what adapters add: ranks of any size, runs of rows of any length, gradients. */
static void same_norm(const float *got, const float *want, int64_t n, const char *what) {
    double off = 0, all = 0;
    for (int64_t i = 0; i < n; i++) off += pow((double)got[i] - want[i], 2), all += pow(want[i], 2);
    if (!(off <= 1e-4 * all && all > 0)) fail_msg("%s differs by %.2g of its norm", what, sqrt(off / all));
}
static void test_adapters_of_many_rows_in_balanced(void **state) {
    (void)state;
    enum { N = 288, K = 64, R = 300, MOST = 70 };
    static const int32_t ranks[] = {5, 16, MOST};
    ramet_runtime *rt = test_runtime(2);
    ramet__weight *w = make_weight(rt, "weight", RAMET__ENC_Q8_0, N, K, 0.3f);
    float *x = random_floats((int64_t)R * K, 1, 1), *a[3], *b[3];
    ramet__slot_entry e[3];
    const ramet__slot_entry *list[3];
    int32_t of[R];
    for (int32_t i = 0; i < 3; i++) {
        a[i] = random_floats((int64_t)ranks[i] * K, 20 + (uint64_t)i, .3f);
        b[i] = random_floats((int64_t)ranks[i] * N, 30 + (uint64_t)i, .3f);
        e[i] = (ramet__slot_entry){a[i], b[i], 0.7f + (float)i, ranks[i]};
        list[i] = &e[i];
    }
    for (int32_t i = 0; i < R; i++) of[i] = i < 3 ? i : i < 100 ? 1 : i < 117 ? -1 : i < 250 ? 0 : 2;
    for (int32_t one = 0; one < 2; one++) { /* forward with three adapters; gradients of one */
        ramet__graph *g;
        OK(ramet__graph_create(&g, rt, R, 0, MOST));
        ramet__slot s = ramet__graph_slot(g, "weight", N, K);
        ramet__val in = ramet__graph_input(g, "x", RAMET__TYPE_F32, RAMET__AXIS_ROWS, K);
        ramet__val h = ramet__op_silu(g, in), y = ramet__op_linear(g, h, ramet__graph_weight(g, w), -1, &s), wrt[3] = {s.a, s.b, in}, grad[3];
        ramet__graph_output(g, "y", y);
        static const char *const names[] = {"y", "a", "b", "x"};
        if (one) {
            OK(ramet__graph_gradient(g, ramet__op_sum(g, ramet__op_mul(g, ramet__op_silu(g, y), y)), wrt, 3, grad));
            for (int32_t i = 0; i < 3; i++) ramet__graph_output(g, names[1 + i], grad[i]);
        }
        ramet__plan *p[2];
        for (int32_t mode = RAMET__MODE_EXACT; mode <= RAMET__MODE_BALANCED; mode++) {
            ramet__plan_options o = {.mode = (ramet__mode)mode, .training = one};
            OK(ramet__plan_create(&p[mode], g, &o));
        }
        for (int32_t rank = 0; rank < 3; rank++) {
            ramet__run r = {.rows = R, .adapters = one ? list + rank : list, .n_adapters = one ? 1 : 3, .row_adapter = one ? NULL : of};
            give(&r, "x", x);
            for (int32_t i = 0; i < 2; i++) OK(ramet__plan_run(p[i], &r));
            for (int32_t i = 0; i < (one ? 4 : 1); i++) {
                int64_t rows, cols;
                const float *want = ramet__plan_output(p[RAMET__MODE_EXACT], names[i], &rows, &cols);
                same_norm(output(p[RAMET__MODE_BALANCED], names[i]), want, rows * cols, names[i]);
            }
        }
        for (int32_t i = 0; i < 2; i++) ramet__plan_free(p[i]);
        ramet__graph_free(g);
    }
    for (int32_t i = 0; i < 3; i++) free(a[i]), free(b[i]);
    free(x);
    ramet__weight_free(w);
    ramet_runtime_free(rt);
}

/* Gradients of A and B (adapter of a rank below the plan's maximum) and a Hessian-vector product through both. */
static void test_adapter_gradients_of_both_orders(void **state) {
    (void)state;
    enum { N = 18, K = 32, R = 5, Q = 3 };
    ramet_runtime *rt = test_runtime(2);
    ramet__weight *w = make_weight(rt, "weight", RAMET__ENC_Q4_0, N, K, 0.3f);
    float *m[2] = {random_floats(Q * K, 1, .5f), random_floats(Q * N, 2, .5f)}, *x = random_floats(R * K, 3, 1);
    ramet__var along[2] = {{"da", {2, {4, K}}, random_floats(4 * K, 4, 1)},
                           {"db", {2, {N, 4}}, random_floats(4 * N, 5, 1)}};
    ramet__slot_entry e = {m[0], m[1], 1.3f, Q};
    const ramet__slot_entry *list[1] = {&e};
    ramet__graph *g;
    ramet__plan *p;
    OK(ramet__graph_create(&g, rt, R, 0, 4));
    ramet__slot s = ramet__graph_slot(g, "weight", N, K);
    ramet__val y = ramet__op_linear(g, ramet__graph_input(g, "x", RAMET__TYPE_F32, RAMET__AXIS_ROWS, K),
                                    ramet__graph_weight(g, w), -1, &s);
    ramet__val loss = ramet__op_sum(g, ramet__op_mul(g, ramet__op_silu(g, y), y)), wrt[2] = {s.a, s.b}, grad[2],
               hess[2];
    OK(ramet__graph_gradient(g, loss, wrt, 2, grad));
    ramet__val dot = ramet__op_add(g, ramet__op_sum(g, ramet__op_mul(g, grad[0], ramet__graph_var(g, &along[0]))),
                                   ramet__op_sum(g, ramet__op_mul(g, grad[1], ramet__graph_var(g, &along[1]))));
    OK(ramet__graph_gradient(g, dot, wrt, 2, hess));
    static const char *const names[] = {"loss", "dot", "a", "b", "ha", "hb"};
    const ramet__val vals[] = {loss, dot, grad[0], grad[1], hess[0], hess[1]};
    for (int32_t i = 0; i < 6; i++) ramet__graph_output(g, names[i], vals[i]);
    ramet__plan_options o = {.mode = RAMET__MODE_EXACT};
    OK(ramet__plan_create(&p, g, &o));
    ramet__run r = {.rows = R, .adapters = list, .n_adapters = 1};
    give(&r, "x", x);
    for (int32_t i = 0; i < 2; i++)
        for (int32_t order = 0; order < 2; order++) {
            int64_t n = i ? N * Q : Q * K;
            double got = 0, norm = 0, slope[2];
            float *saved = malloc((size_t)n * sizeof *saved), *d = malloc((size_t)n * sizeof *d);
            memcpy(saved, m[i], (size_t)n * sizeof *saved);
            for (int64_t j = 0; j < n; j++)
                d[j] = along[i].data[i ? j / Q * 4 + j % Q : j]; /* B's gradient has rows of 4, the adapter's of 3 */
            OK(ramet__plan_run(p, &r));
            const float *gr = output(p, names[2 + i + 2 * order]);
            for (int64_t j = 0; j < n; j++) {
                double v = gr[i ? j / Q * 4 + j % Q : j];
                got += v * d[j];
                norm += v * v;
            }
            for (int64_t j = 0; j < (i ? N * 4 : 4 * K); j++)
                if (i ? j % 4 == 3 : j >= 3 * K) assert_true(gr[j] == 0.0f);
            for (int32_t k = 0; k < 2; k++) {
                double f[2], h = k ? 0.01 : 0.02;
                for (int32_t sign = 0; sign < 2; sign++) {
                    for (int64_t j = 0; j < n; j++) m[i][j] = saved[j] + (float)(sign ? -h : h) * d[j];
                    OK(ramet__plan_run(p, &r));
                    f[sign] = output(p, names[order])[0];
                }
                slope[k] = (f[0] - f[1]) / (2 * h);
            }
            memcpy(m[i], saved, (size_t)n * sizeof *saved);
            double want = (4 * slope[1] - slope[0]) / 3;
            if (!(fabs(got - want) <= 4e-3 * (fabs(want) + 0.1 * sqrt(norm)))) {
                print_error("%s: %.8g, differences %.8g\n", names[2 + i + 2 * order], got, want);
                fail();
            }
            free(saved);
            free(d);
        }
    const ramet__slot_entry *two[2] = {&e, &e};
    r.adapters = two;
    r.n_adapters = 2;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "one adapter");
    ramet__plan_free(p);
    ramet__graph_free(g);
    free(m[0]);
    free(m[1]);
    free(x);
    free(along[0].data);
    free(along[1].data);
    ramet__weight_free(w);
    ramet_runtime_free(rt);
}

/* The whole training graph, with everything that fusion and recomputation do to it: one direction through all matrices.
 */
static void test_gradient_of_a_whole_model(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(2);
    llama m;
    tiny_adapter a;
    OK(llama_make(&m, rt));
    adapter_make(&a, 50, RANK);
    ramet__plan *p = train_plan(rt, &m, RAMET__MODE_EXACT);
    const ramet__slot_entry *list[1] = {a.e};
    ramet__run r = train_run(list, 1);
    OK(ramet__plan_run(p, &r));
    double got = 0, norm = 0, slope[2];
    float *saved[2 * SLOTS], *d[2 * SLOTS];
    for (int32_t i = 0; i < 2 * SLOTS; i++) {
        char name[8];
        snprintf(name, sizeof name, "%c%d", i % 2 ? 'b' : 'a', i / 2);
        int64_t n = RANK * (i % 2 ? llama_n[i / 2 % PER_LAYER] : llama_k[i / 2 % PER_LAYER]);
        const float *g = output(p, name);
        d[i] = random_floats(n, 900 + (uint64_t)i, 0.1f);
        saved[i] = malloc((size_t)n * sizeof **saved);
        memcpy(saved[i], i % 2 ? a.e[i / 2].b : a.e[i / 2].a, (size_t)n * sizeof **saved);
        for (int64_t j = 0; j < n; j++) {
            got += (double)g[j] * d[i][j];
            norm += (double)g[j] * g[j];
        }
    }
    for (int32_t k = 0; k < 2; k++) {
        double f[2], h = k ? 0.02 : 0.04;
        for (int32_t sign = 0; sign < 2; sign++) {
            for (int32_t i = 0; i < 2 * SLOTS; i++) {
                float *to = (float *)(uintptr_t)(i % 2 ? a.e[i / 2].b : a.e[i / 2].a);
                for (int64_t j = 0; j < RANK * (i % 2 ? llama_n[i / 2 % PER_LAYER] : llama_k[i / 2 % PER_LAYER]); j++)
                    to[j] = saved[i][j] + (float)(sign ? -h : h) * d[i][j];
            }
            OK(ramet__plan_run(p, &r));
            f[sign] = output(p, "loss")[0];
        }
        slope[k] = (f[0] - f[1]) / (2 * h);
    }
    double want = (4 * slope[1] - slope[0]) / 3;
    if (!(fabs(got - want) <= 2e-3 * (fabs(want) + 0.1 * 0.1 * sqrt(norm)))) {
        print_error("gradient %.8g, differences %.8g\n", got, want);
        fail();
    }
    for (int32_t i = 0; i < 2 * SLOTS; i++) {
        free(d[i]);
        free(saved[i]);
    }
    ramet__plan_free(p);
    llama_free(&m);
    adapter_free(&a);
    ramet_runtime_free(rt);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows_use_their_own_adapter), cmocka_unit_test(test_adapters_of_many_rows_in_balanced), cmocka_unit_test(test_adapter_gradients_of_both_orders),
                                       cmocka_unit_test(test_gradient_of_a_whole_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
