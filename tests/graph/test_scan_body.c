/* SPDX-License-Identifier: Apache-2.0 */
/* test_scan_body.c - loops with a body: beside loops in C, one inside another, the same bits however many sequences run at once and on any number of
 * threads, no allocation while running, their memory in the plan's, a derivative that is not there, wrong use. test_gradient.c has the derivatives. */
#include "graph_test.h"

enum { R = 11, N = 3, S = 4 };
static const int32_t seq[R] = {5, 5, 1, 3, 3, 3, 3, 3, 9, 9, 9}, first[S] = {0, 2, 3, 8}, length[S] = {2, 1, 5, 3}, ids[R] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2};

static ramet__val rows_in(ramet__graph *g, const char *name, int64_t n) { return ramet__graph_input(g, name, RAMET__TYPE_F32, RAMET__AXIS_ROWS, n); }
static ramet__val index_in(ramet__graph *g, const char *name) { return ramet__graph_input(g, name, RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0); }

/* h' = relu(x + table[id] + h w^T), c' = h, y = h' * s, total = sum of y: two states that change places, an index, a whole value. */
static void build(ramet__graph *g, ramet_runtime *rt, ramet__var *w, ramet__var *table, int64_t at_once, int32_t reversed) {
    ramet__graph *b;
    ramet__val out[4] = {-1, -1, -1, -1};
    OK(ramet__graph_create(&b, rt, at_once, 0, 0));
    ramet__val c = rows_in(b, "c", N), h = rows_in(b, "h", N), x = rows_in(b, "x", N), id = index_in(b, "id"), s = ramet__graph_input(b, "s", RAMET__TYPE_F32, RAMET__AXIS_STATIC, N);
    ramet__val z = ramet__op_add(b, x, ramet__op_embed(b, ramet__graph_var(b, table), id));
    ramet__val next = ramet__op_relu(b, ramet__op_add(b, ramet__op_add(b, z, ramet__op_linear(b, h, ramet__graph_var(b, w), -1, NULL)), c)), y = ramet__op_mul(b, next, s);
    ramet__graph_output(b, "h", next);
    ramet__graph_output(b, "c", h);
    ramet__graph_output(b, "y", y);
    ramet__graph_output(b, "total", ramet__op_sum_rows(b, y));
    ramet__op_scan_body(g, b, (ramet__val[]){x, id, s}, (ramet__val[]){rows_in(g, "x", N), index_in(g, "id"), ramet__graph_input(g, "s", RAMET__TYPE_F32, RAMET__AXIS_STATIC, N)}, 3,
                        index_in(g, "seq"), reversed, out);
    OK(ramet__graph_status(g));
    const char *names[] = {"h", "c", "y", "total"};
    for (int32_t i = 0; i < 4; i++) ramet__graph_output(g, names[i], out[i]);
}

static void test_beside_a_loop_in_c(void **state) {
    (void)state;
    const float s[N] = {1, -2, 0.5f};
    float *x = random_floats(R * N, 8, 1);
    ramet__var w = make_var("w", N, N, 0.7f), table = make_var("table", 4, N, 0.5f);
    for (int32_t reversed = 0; reversed < 2; reversed++) {
        double h[R * N] = {0}, c[R * N] = {0}, y[R * N], total[N] = {0};
        float bits[R * N] = {0};
        for (int32_t q = 0; q < S; q++)
            for (int32_t t = 0; t < length[q]; t++) {
                const int32_t r = reversed ? first[q] + length[q] - 1 - t : first[q] + t, before = reversed ? r + 1 : r - 1;
                for (int32_t i = 0; i < N; i++) {
                    double z = x[r * N + i] + (double)table.data[ids[r] * N + i];
                    for (int32_t j = 0; j < N && t; j++) z += h[before * N + j] * w.data[i * N + j];
                    if (t) c[r * N + i] = h[before * N + i];
                    if (t) z += c[before * N + i];
                    h[r * N + i] = z > 0 ? z : 0;
                    total[i] += y[r * N + i] = h[r * N + i] * s[i];
                }
            }
        for (int32_t k = 0; k < 6; k++) { /* all, two, one sequence at once; one thread and three */
            ramet_runtime_options ro;
            ramet_runtime *rt;
            ramet__graph *g;
            ramet__plan *p;
            ramet_runtime_options_init(&ro, sizeof ro);
            ro.threads = k < 3 ? 1 : 3;
            ro.alloc = counting;
            OK(ramet_runtime_create(&rt, &ro));
            OK(ramet__graph_create(&g, rt, 2 * R, 0, 0));
            build(g, rt, &w, &table, k % 3 ? 3 - k % 3 : 8, reversed);
            OK(ramet__plan_create(&p, g, NULL));
            assert_true(ramet__plan_bytes(p) >= p->arena_bytes + ramet__plan_bytes(p->inner[0]) && ramet__plan_bytes(p->inner[0]) > 0);
            ramet__graph_free(g);
            ramet__run run = {.rows = R};
            give(&run, "x", x);
            give(&run, "id", ids);
            give(&run, "seq", seq);
            give(&run, "s", s);
            OK(ramet__plan_run(p, &run));
            const int64_t calls = alloc_calls;
            OK(ramet__plan_run(p, &run));
            assert_int_equal(alloc_calls, calls);
            near(output(p, "h"), h, R * N, 1e-6, "h");
            near(output(p, "c"), c, R * N, 1e-6, "c");
            near(output(p, "y"), y, R * N, 1e-6, "y");
            near(output(p, "total"), total, N, 1e-6, "total");
            if (k) assert_memory_equal(bits, output(p, "h"), sizeof bits);
            memcpy(bits, output(p, "h"), sizeof bits);
            int32_t wrong[R];
            memcpy(wrong, ids, sizeof wrong);
            wrong[7] = 4;
            for (int32_t i = 0; i < run.n_inputs; i++)
                if (!strcmp(run.input[i].name, "id")) run.input[i].data = wrong;
            FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &run), "'id'");
            char *text = ramet__plan_text(p);
            assert_non_null(strstr(text, "embed"));
            ramet__free(text);
            ramet__plan_free(p);
            ramet_runtime_free(rt);
        }
    }
    free(x);
    free(w.data);
    free(table.data);
}

/* A loop inside the step: its rows are those of the sequences that go on, in runs of the same `inner`. Here each is alone, so it gives x + 0. */
static void test_one_inside_another_and_a_gradient_through_both(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(1);
    ramet__graph *g, *b, *c;
    ramet__plan *p;
    ramet__val out[1], grad;
    OK(ramet__graph_create(&g, rt, R, 0, 0));
    OK(ramet__graph_create(&b, rt, 1, 0, 0));
    OK(ramet__graph_create(&c, rt, 1, 0, 0));
    ramet__val v = rows_in(c, "v", N);
    ramet__graph_output(c, "state", ramet__op_add(c, v, ramet__op_scale(c, rows_in(c, "state", N), 2)));
    ramet__val x = rows_in(b, "x", N), of = index_in(b, "of"), h = rows_in(b, "h", N);
    ramet__op_scan_body(b, c, &v, &x, 1, of, 0, out);
    ramet__graph_output(b, "h", ramet__op_add(b, out[0], ramet__op_mul(b, h, h)));
    ramet__val rows = rows_in(g, "x", N), seqs = index_in(g, "seq");
    ramet__op_scan_body(g, b, (ramet__val[]){x, of}, (ramet__val[]){rows, seqs}, 2, seqs, 0, out);
    OK(ramet__graph_status(g));
    OK(ramet__graph_gradient(g, ramet__op_sum(g, out[0]), &rows, 1, &grad));
    ramet__graph_output(g, "h", out[0]);
    ramet__graph_output(g, "grad", grad);
    OK(ramet__plan_create(&p, g, NULL));
    float *data = random_floats(R * N, 3, 0.5f);
    double want[R * N], slope[R * N];
    for (int32_t i = 0; i < R * N; i++) {
        const int32_t r = i / N, before = r > 0 && seq[r - 1] == seq[r];
        want[i] = data[i] + (before ? want[i - N] * want[i - N] : 0);
    }
    for (int32_t i = R * N - 1; i >= 0; i--) {
        const int32_t r = i / N, goes_on = r < R - 1 && seq[r + 1] == seq[r];
        slope[i] = 1 + (goes_on ? 2 * want[i] * slope[i + N] : 0);
    }
    ramet__run run = {.rows = R};
    give(&run, "x", data);
    give(&run, "seq", seq);
    OK(ramet__plan_run(p, &run));
    near(output(p, "h"), want, R * N, 1e-6, "h");
    near(output(p, "grad"), slope, R * N, 1e-6, "grad");
    ramet__plan_free(p);
    ramet__graph_free(g);
    free(data);
    ramet_runtime_free(rt);
}

static int32_t cancel(double fraction, const char *what, void *user) {
    (void)what;
    assert_true(fraction >= 0 && fraction <= 1);
    return ++*(int32_t *)user > 2;
}
static void test_wrong_use_is_answered_and_a_long_loop_can_be_cancelled(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(1), *other = test_runtime(1);
    const struct { const char *state, *message; int32_t columns; } cases[] = {
        {"h", NULL, N}, {"g", "'h' is given nothing", N}, {"h", "'x' of the body is [rows<=2, 2], and is given [rows<=4000, 3]", 2}};
    for (int32_t i = 0; i < 8; i++) {
        ramet__graph *g, *b;
        ramet__val out[2], grad;
        ramet__var w = make_var("w", N, N, 1);
        OK(ramet__graph_create(&g, rt, 4000, 4, 0));
        OK(ramet__graph_create(&b, i == 3 ? other : rt, 2, 4, 0));
        const int32_t c = i < 3 ? cases[i].columns : N;
        ramet__val x = rows_in(b, "x", c), h = rows_in(b, "h", c), y = ramet__op_add(b, x, h), from = rows_in(g, "x", N), of = index_in(g, "seq");
        if (i == 7) y = ramet__op_cache_attention(b, h, x, x, index_in(b, "s"), index_in(b, "p"), &(ramet__cache_layout){1, 1, N, 4, 0}, 0, 1);
        ramet__graph_output(b, i < 3 ? cases[i].state : "h", y);
        if (i == 4) ramet__op_write(b, &w, ramet__graph_var(b, &w), 0);
        if (i == 5) ramet__graph_output(b, "o", ramet__op_gather(b, x, ramet__graph_input(b, "o", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0)));
        const ramet__val to[3] = {x, i == 6 ? x : index_in(b, "s"), index_in(b, "p")}, in[3] = {from, i == 6 ? from : of, of};
        ramet__op_scan_body(g, b, to, in, i == 6 ? 2 : 3, of, 0, out);
        const char *const want[] = {NULL, cases[1].message, cases[2].message, "another runtime", "writes a variable", "'o' is neither rows", "given twice"};
        if (i == 7) {
            OK(ramet__graph_status(g));
            FAILS(RAMET_E_UNSUPPORTED, ramet__graph_gradient(g, ramet__op_sum(g, out[0]), &from, 1, &grad), "cache_attention");
        } else if (i) {
            FAILS(RAMET_E_ARGUMENT, ramet__graph_status(g), want[i]);
            ramet__graph_free(b);
        } else {
            ramet__plan *p;
            OK(ramet__graph_status(g));
            ramet__graph_output(g, "h", out[0]);
            OK(ramet__plan_create(&p, g, NULL));
            int32_t calls = 0, *zeros = calloc(4000, sizeof *zeros);
            float *data = random_floats(4000 * N, 1, 1);
            ramet__run run = {.rows = 4000, .progress = cancel, .progress_user = &calls};
            give(&run, "x", data);
            give(&run, "seq", zeros);
            ramet_status st = RAMET_OK;
            for (int32_t k = 0; k < 1000 && !st; k++) st = ramet__plan_run(p, &run); /* asked every 10 ms, so in the middle of one of them */
            if (st != RAMET_E_CANCELLED) fail_msg("%s after %d", ramet_status_name(st), calls);
            free(zeros);
            free(data);
            ramet__plan_free(p);
        }
        ramet__graph_free(g);
        free(w.data);
    }
    ramet_runtime_free(rt);
    ramet_runtime_free(other);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_beside_a_loop_in_c), cmocka_unit_test(test_one_inside_another_and_a_gradient_through_both),
                                       cmocka_unit_test(test_wrong_use_is_answered_and_a_long_loop_can_be_cancelled)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
