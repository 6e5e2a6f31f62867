/* SPDX-License-Identifier: Apache-2.0 */
/* test_nets.c - graphs, variables and programs through the public header: a regression learned, files, wrong use. */
#include "../graph/graph_test.h"
#include "ramet/graph.h"
#include "ramet/session.h"
#include <unistd.h>

static int32_t apply(ramet_graph *g, const char *op, int32_t a, int32_t b, int32_t c, const char *settings) {
    int32_t in[3] = {a, b, c}, y = -1;
    OK(ramet_graph_apply(&y, 1, g, op, in, c >= 0 ? 3 : b >= 0 ? 2 : 1, settings));
    return y;
}
static int32_t input(ramet_graph *g, const char *name, int32_t type, int32_t axis, int64_t columns) {
    int32_t x = -1;
    OK(ramet_graph_input(&x, g, name, type, axis, columns));
    return x;
}
static int32_t variable(ramet_graph *g, ramet_variables *v, const char *name) {
    int32_t x = -1;
    OK(ramet_graph_variable(&x, g, v, name));
    return x;
}
typedef struct scene { ramet_runtime *rt; ramet_variables *v; ramet_graph *g; } scene;
static scene begin(int32_t threads) {
    scene s;
    s.rt = test_runtime(threads);
    OK(ramet_variables_create(&s.v, s.rt));
    OK(ramet_graph_create(&s.g, s.rt, 64, 8));
    return s;
}
static void end(scene *s) {
    ramet_graph_free(s->g);
    ramet_variables_free(s->v);
    ramet_runtime_free(s->rt);
}

static void test_linear_regression_is_learned(void **state) {
    (void)state;
    static const char *const names[] = {"x", "y"};
    static const float true_w[2][3] = {{1, -2, 0.5f}, {0.25f, 3, -1}}, true_b[2] = {0.75f, -0.5f};
    static const char *const optimizers[] = {"adamw", "sgd"};
    float first[6];
    for (int32_t i = 0; i < 3; i++) { /* adamw on one thread and on two, sgd */
        scene s = begin(1 + (i == 1));
        ramet_program *p;
        OK(ramet_variables_add(s.v, "w", 2, 3, "glorot", 1, 1));
        OK(ramet_variables_add(s.v, "b", 0, 2, "zeros", 0, 1));
        int32_t x = input(s.g, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 3), y = input(s.g, "y", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 2);
        int32_t loss = apply(s.g, "mse", apply(s.g, "linear", x, variable(s.g, s.v, "w"), variable(s.g, s.v, "b"), NULL), y, -1, NULL);
        OK(ramet_graph_output(s.g, "loss", loss));
        OK(ramet_graph_train(s.g, s.v, loss));
        OK(ramet_program_create(&p, s.g, RAMET_MODE_EXACT));
        ramet_step_options o;
        ramet_step_options_init(&o, sizeof o);
        o.optimizer = optimizers[i / 2];
        o.learning_rate = 0.03f;
        o.clip = 10;
        for (int64_t step = 0; step < 600; step++) {
            float in[48][3], out[48][2];
            for (int64_t r = 0; r < 48; r++)
                for (int32_t j = 0; j < 2; j++) {
                    for (int32_t k = 0; k < 3; k++) in[r][k] = uniform((uint64_t)step, r * 3 + k);
                    out[r][j] = true_b[j];
                    for (int32_t k = 0; k < 3; k++) out[r][j] += true_w[j][k] * in[r][k];
                }
            const void *data[] = {in, out};
            double norm;
            OK(ramet_program_run(p, 48, 0, names, data, 2, NULL, NULL));
            OK(ramet_variables_step(&norm, s.v, &o));
        }
        float w[6], b[2];
        OK(ramet_variables_read(w, 6, s.v, "w", 0));
        OK(ramet_variables_read(b, 2, s.v, "b", 0));
        for (int32_t j = 0; j < 6; j++) assert_float_equal(w[j], true_w[j / 3][j % 3], 2e-3);
        for (int32_t j = 0; j < 2; j++) assert_float_equal(b[j], true_b[j], 2e-3);
        if (i == 0) memcpy(first, w, sizeof w);
        else if (i == 1) assert_memory_equal(first, w, sizeof w);
        ramet_program_free(p);
        end(&s);
    }
}

static void test_a_gradient_that_is_not_finite_moves_nothing(void **state) {
    (void)state;
    scene s = begin(1);
    ramet_program *p;
    const char *names[] = {"x"};
    float x[1] = {INFINITY}, w[2];
    const void *data[] = {x};
    OK(ramet_variables_add(s.v, "w", 0, 1, "ones", 0, 1));
    int32_t loss = apply(s.g, "sum", apply(s.g, "mul", input(s.g, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 1), variable(s.g, s.v, "w"), -1, NULL), -1, -1, NULL);
    OK(ramet_graph_train(s.g, s.v, loss));
    OK(ramet_program_create(&p, s.g, 0));
    OK(ramet_program_run(p, 1, 0, names, data, 1, NULL, NULL));
    FAILS(RAMET_E_NUMERIC, ramet_variables_step(NULL, s.v, NULL), "not finite");
    OK(ramet_variables_read(w, 1, s.v, "w", 0));
    OK(ramet_variables_read(w + 1, 1, s.v, "w", 1));
    assert_true(w[0] == 1.0f && w[1] == 0.0f);
    x[0] = 2;
    OK(ramet_program_run(p, 1, 0, names, data, 1, NULL, NULL));
    OK(ramet_variables_read(w, 1, s.v, "w", 1));
    assert_true(w[0] == 2.0f);
    OK(ramet_variables_step(NULL, s.v, NULL));
    ramet_program_free(p);
    end(&s);
}

/* Gradients of two convolutions with rectifiers and pooling between; kept: what fusion would take away is an output. */
static int64_t convnet_gradients(float *out, int32_t threads, int32_t mode, int32_t kept) {
    static const struct { const char *name; int64_t rows, columns; } variables[] = {{"w1", 5, 27}, {"b1", 0, 5}, {"w2", 4, 45}, {"b2", 0, 4}};
    static float x[40][243];
    scene s = begin(threads);
    ramet_program *p;
    const char *names[] = {"x"};
    const void *data[] = {x};
    int64_t n = 0;
    for (int64_t r = 0; r < 40; r++)
        for (int64_t i = 0; i < 243; i++) x[r][i] = uniform(3, r * 243 + i);
    for (int32_t i = 0; i < 4; i++) OK(ramet_variables_add(s.v, variables[i].name, variables[i].rows, variables[i].columns, "uniform:.5", 7, 1));
    int32_t v = apply(s.g, "conv2d", input(s.g, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 243), variable(s.g, s.v, "w1"), variable(s.g, s.v, "b1"), "height=9,width=9,kernel=3,pad=1");
    if (kept) OK(ramet_graph_output(s.g, "first", v));
    v = apply(s.g, "relu", v, -1, -1, NULL);
    v = apply(s.g, "max_pool2d", v, -1, -1, "height=9,width=9,size=3,stride=2"); /* windows overlap */
    v = apply(s.g, "conv2d", v, variable(s.g, s.v, "w2"), variable(s.g, s.v, "b2"), "height=4,width=4,kernel=3,stride=2,pad=1");
    if (kept) OK(ramet_graph_output(s.g, "second", v));
    v = apply(s.g, "relu", v, -1, -1, NULL);
    v = apply(s.g, "max_pool2d", v, -1, -1, "height=2,width=2,size=2");
    v = apply(s.g, "mean", apply(s.g, "mul", v, v, -1, NULL), -1, -1, NULL);
    OK(ramet_graph_output(s.g, "loss", v));
    OK(ramet_graph_train(s.g, s.v, v));
    OK(ramet_program_create(&p, s.g, mode));
    OK(ramet_program_run(p, 40, 0, names, data, 1, NULL, NULL));
    for (int32_t i = 0; i < 4; i++) {
        int64_t count = (variables[i].rows ? variables[i].rows : 1) * variables[i].columns;
        OK(ramet_variables_read(out + n, count, s.v, variables[i].name, 1));
        n += count;
    }
    ramet_program_free(p);
    end(&s);
    return n;
}
static void test_convolutions_fused_in_pairs_and_by_threads(void **state) {
    (void)state;
    float exact[400], kept[400], balanced[400], other[400];
    int64_t n = convnet_gradients(exact, 1, RAMET_MODE_EXACT, 0);
    double difference = 0, length = 0;
    convnet_gradients(kept, 2, RAMET_MODE_EXACT, 1);
    convnet_gradients(balanced, 1, RAMET_MODE_BALANCED, 0);
    for (int64_t i = 0; i < n; i++) {
        assert_float_equal(exact[i], kept[i], 1e-6);
        difference += pow((double)balanced[i] - exact[i], 2);
        length += pow(exact[i], 2);
    }
    assert_true(length > 1e-3 && sqrt(difference / length) < 2e-2);
    for (int32_t threads = 2; threads < 5; threads++) {
        convnet_gradients(other, threads, RAMET_MODE_BALANCED, 0);
        assert_memory_equal(balanced, other, (size_t)n * sizeof *other);
    }
}

static void test_statistics_are_written_after_they_are_read(void **state) {
    (void)state;
    scene s = begin(2);
    ramet_program *p;
    const char *names[] = {"x"};
    const float x[4][2] = {{1, 0}, {2, 2}, {3, 4}, {6, 6}}, *y;
    const void *data[] = {x};
    float got[2];
    int32_t v[3], out[3];
    OK(ramet_variables_add(s.v, "w", 0, 2, "ones", 0, 1));
    OK(ramet_variables_add(s.v, "b", 0, 2, "zeros", 0, 1));
    OK(ramet_variables_add(s.v, "mean", 0, 2, "zeros", 0, 0));
    v[0] = input(s.g, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 2), v[1] = variable(s.g, s.v, "w"), v[2] = variable(s.g, s.v, "b");
    OK(ramet_graph_apply(out, 3, s.g, "batch_norm", v, 3, "eps=0"));
    OK(ramet_graph_output(s.g, "y", out[0]));
    OK(ramet_graph_output(s.g, "before", variable(s.g, s.v, "mean")));
    OK(ramet_graph_write(s.g, s.v, "mean", apply(s.g, "scale", out[1], -1, -1, "by=.5"), 1));
    OK(ramet_program_create(&p, s.g, 0));
    for (int32_t run = 1; run <= 2; run++) {
        OK(ramet_program_run(p, 4, 0, names, data, 1, NULL, NULL));
        OK(ramet_program_output(&y, NULL, NULL, p, "before"));
        assert_true(y[0] == 1.5f * (float)(run - 1) && y[1] == 1.5f * (float)(run - 1));
        OK(ramet_variables_read(got, 2, s.v, "mean", 0));
        assert_true(got[0] == 1.5f * (float)run && got[1] == 1.5f * (float)run);
    }
    OK(ramet_program_output(&y, NULL, NULL, p, "y"));
    assert_float_equal(y[0], -2 / sqrt(3.5), 1e-6);
    assert_float_equal(y[7], 3 / sqrt(5), 1e-6);
    ramet_program_free(p);
    end(&s);
}

static void test_calls_with_indices(void **state) {
    (void)state;
    scene s = begin(1);
    ramet_program *p;
    static const char *const names[] = {"x", "ids", "seq", "step", "outs", "segment"};
    static const float x[4][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}, {13, 14, 15, 16}};
    static const int32_t ids[4] = {2, 0, -1, 3}, seq[4] = {7, 7, 8, 8}, step = 3, outs[2] = {3, 1}, segment[4] = {0, 1, 1, 0};
    const void *data[] = {x, ids, seq, &step, outs, segment};
    int32_t rows = input(s.g, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 4), id = input(s.g, "ids", RAMET_TYPE_I32, RAMET_AXIS_ROWS, 0);
    int32_t seqs = input(s.g, "seq", RAMET_TYPE_I32, RAMET_AXIS_ROWS, 0), at = input(s.g, "step", RAMET_TYPE_I32, RAMET_AXIS_STATIC, 1);
    int32_t out = input(s.g, "outs", RAMET_TYPE_I32, RAMET_AXIS_OUTS, 0), part = input(s.g, "segment", RAMET_TYPE_I32, RAMET_AXIS_ROWS, 0);
    int32_t in[4] = {rows, rows, rows, seqs}, y[2];
    OK(ramet_variables_add(s.v, "table", 4, 2, "normal:.1", 5, 1));
    OK(ramet_graph_output(s.g, "pick", apply(s.g, "pick", rows, id, -1, NULL)));
    OK(ramet_graph_output(s.g, "onehot", apply(s.g, "onehot", apply(s.g, "row_sum", rows, -1, -1, NULL), id, -1, "columns=5")));
    OK(ramet_graph_output(s.g, "edit", apply(s.g, "edit", rows, apply(s.g, "scale", rows, -1, -1, "by=-1"), id, NULL)));
    OK(ramet_graph_output(s.g, "embed", apply(s.g, "embed", variable(s.g, s.v, "table"), id, -1, NULL)));
    OK(ramet_graph_output(s.g, "gather", apply(s.g, "gather", rows, out, -1, NULL)));
    OK(ramet_graph_output(s.g, "segment_mean", apply(s.g, "segment_mean", rows, part, -1, NULL)));
    OK(ramet_graph_output(s.g, "shift", apply(s.g, "shift", rows, seqs, -1, NULL)));
    OK(ramet_graph_output(s.g, "scan", apply(s.g, "scan", rows, rows, seqs, "reversed=1")));
    OK(ramet_graph_output(s.g, "dropout", apply(s.g, "dropout", rows, at, -1, "rate=.5")));
    OK(ramet_graph_apply(y, 1, s.g, "attention", in, 4, "heads=2,kv_heads=2,head_dim=2"));
    OK(ramet_graph_output(s.g, "attention", y[0]));
    OK(ramet_graph_apply(y, 1, s.g, "attention", in, 4, "heads=2,kv_heads=2,head_dim=2,whole=1"));
    OK(ramet_graph_output(s.g, "whole", y[0]));
    OK(ramet_graph_output(s.g, "cross_entropy", apply(s.g, "cross_entropy", rows, id, -1, NULL)));
    OK(ramet_graph_output(s.g, "stop", apply(s.g, "reverse_gradient", apply(s.g, "stop_gradient", rows, -1, -1, NULL), -1, -1, NULL)));
    OK(ramet_program_create(&p, s.g, 0));
    OK(ramet_program_run(p, 4, 2, names, data, 6, NULL, NULL));
    const struct { const char *name; int64_t rows, columns; int32_t at; double want; } wanted[] = {
        {"pick", 4, 1, 0, 3}, {"pick", 4, 1, 2, 0}, {"pick", 4, 1, 3, 16}, {"onehot", 4, 5, 5, 26}, {"onehot", 4, 5, 14, 0}, {"edit", 4, 4, 0, -1}, {"edit", 4, 4, 4, 5},
        {"embed", 4, 2, 4, 0}, {"gather", 2, 4, 0, 13}, {"gather", 2, 4, 4, 5}, {"segment_mean", 2, 4, 0, 7}, {"segment_mean", 2, 4, 7, 10}, {"shift", 4, 4, 3, 0},
        {"shift", 4, 4, 4, 1}, {"shift", 4, 4, 8, 0}, {"scan", 4, 4, 4, 5}, {"scan", 4, 4, 0, 26}, {"attention", 4, 4, 0, 1}, {"attention", 4, 4, 8, 9}, {"whole", 4, 4, 12, 13},
        {"cross_entropy", 1, 1, 0, (1.4401897 + 3.4401897 + 0.4401897) / 4}, {"stop", 4, 4, 15, 16}};
    for (int32_t i = 0; i < RAMET__COUNT(wanted); i++) {
        const float *got;
        int64_t r, c;
        OK(ramet_program_output(&got, &r, &c, p, wanted[i].name));
        if (r != wanted[i].rows || c != wanted[i].columns || fabs(got[wanted[i].at] - wanted[i].want) > 2e-3)
            fail_msg("%s[%d]: %g of %lld x %lld", wanted[i].name, wanted[i].at, (double)got[wanted[i].at], (long long)r, (long long)c);
    }
    const float *got;
    int32_t zeros = 0;
    OK(ramet_program_output(&got, NULL, NULL, p, "dropout"));
    for (int32_t i = 0; i < 16; i++) {
        assert_true(got[i] == 0.0f || got[i] == 2 * x[i / 4][i % 4]);
        zeros += got[i] == 0.0f;
    }
    assert_in_range(zeros, 3, 13);
    ramet_program_free(p);
    end(&s);
}

/* Several pieces of rows and columns, an expert that nobody chose, one row alone; both arithmetics, and the same bits by any number of threads. */
static void test_rows_by_expert(void **state) {
    (void)state;
    enum { ROWS = 150, E = 4, N = 200, K = 270 };
    static float x[ROWS * K], p[ROWS * N], choice[ROWS * E], w[E * N * K];
    static double want[ROWS * N + ROWS * K + E * N * K];
    static float kept[RAMET__COUNT(want)];
    static const char *const names[] = {"x", "p", "choice"}, *const outputs[] = {"y", "dx", "dw"};
    const int64_t at[4] = {0, ROWS * N, ROWS * N + ROWS * K, RAMET__COUNT(want)};
    double *y = want, *dx = want + at[1], *dw = want + at[2];
    for (int64_t i = 0; i < ROWS * K; i++) x[i] = uniform(1, i);
    for (int64_t i = 0; i < ROWS * N; i++) p[i] = uniform(2, i);
    for (int64_t i = 0; i < E * N * K; i++) w[i] = uniform(3, i);
    memset(want, 0, sizeof want);
    for (int64_t r = 0; r < ROWS; r++) {
        const int64_t e = r == 77 ? 3 : r % 7 ? 0 : 2;
        choice[r * E + e] = 1;
        for (int64_t i = 0; i < N; i++)
            for (int64_t j = 0; j < K; j++) {
                y[r * N + i] += (double)x[r * K + j] * w[(e * N + i) * K + j];
                dx[r * K + j] += (double)p[r * N + i] * w[(e * N + i) * K + j];
                dw[(e * N + i) * K + j] += (double)p[r * N + i] * x[r * K + j];
            }
    }
    for (int32_t mode = RAMET_MODE_EXACT, t = 0; t < 4; t++, mode = t < 2 ? RAMET_MODE_EXACT : RAMET_MODE_BALANCED) {
        scene s = begin(1 + t % 2);
        ramet_graph *g;
        ramet_program *program;
        int32_t grad[2];
        OK(ramet_graph_create(&g, s.rt, ROWS + 3, 0));
        OK(ramet_variables_add(s.v, "w", E * N, K, "zeros", 0, 1));
        OK(ramet_variables_write(s.v, "w", w, E * N * K));
        const int32_t wrt[2] = {input(g, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, K), variable(g, s.v, "w")}, probe = input(g, "p", RAMET_TYPE_F32, RAMET_AXIS_ROWS, N);
        const int32_t found = apply(g, "experts", wrt[0], wrt[1], input(g, "choice", RAMET_TYPE_F32, RAMET_AXIS_ROWS, E), NULL);
        OK(ramet_graph_gradient(grad, g, apply(g, "sum", apply(g, "mul", found, probe, -1, NULL), -1, -1, NULL), wrt, 2));
        OK(ramet_graph_output(g, "y", found));
        for (int32_t i = 0; i < 2; i++) OK(ramet_graph_output(g, outputs[1 + i], grad[i]));
        OK(ramet_program_create(&program, g, mode));
        OK(ramet_program_run(program, ROWS, 0, names, (const void *[]){x, p, choice}, 3, NULL, NULL));
        for (int32_t i = 0; i < 3; i++) {
            const float *got;
            const int64_t n = at[i + 1] - at[i];
            OK(ramet_program_output(&got, NULL, NULL, program, outputs[i]));
            near(got, want + at[i], n, mode == RAMET_MODE_EXACT ? 3e-6 : 2e-2, outputs[i]);
            if (t % 2) assert_memory_equal(got, kept + at[i], (size_t)n * sizeof *got);
            else memcpy(kept + at[i], got, (size_t)n * sizeof *got);
        }
        ramet_program_free(program);
        ramet_graph_free(g);
        end(&s);
    }
}

static void test_variables_go_through_a_file(void **state) {
    (void)state;
    char path[] = "/tmp/ramet-nets-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    scene s = begin(1), other = begin(1);
    float a[6], b[6];
    int64_t rows, columns;
    int32_t trainable;
    const char *name;
    OK(ramet_variables_add(s.v, "one", 2, 3, "he", 4, 1));
    OK(ramet_variables_add(s.v, "two", 0, 6, "uniform:.5", 4, 0));
    OK(ramet_variables_save(s.v, path));
    OK(ramet_variables_add(other.v, "two", 0, 6, "zeros", 0, 0));
    OK(ramet_variables_load(other.v, path));
    assert_int_equal(ramet_variables_count(other.v), 2);
    OK(ramet_variables_at(&name, &rows, &columns, &trainable, other.v, 1));
    assert_string_equal(name, "one");
    assert_true(rows == 2 && columns == 3 && trainable == 1);
    static const char *const names[] = {"one", "two"};
    for (int32_t i = 0; i < 2; i++) {
        OK(ramet_variables_read(a, 6, s.v, names[i], 0));
        OK(ramet_variables_read(b, 6, other.v, names[i], 0));
        assert_memory_equal(a, b, sizeof a);
    }
    scene third = begin(1);
    OK(ramet_variables_add(third.v, "two", 2, 3, "ones", 0, 1));
    FAILS(RAMET_E_INCONSISTENT, ramet_variables_load(third.v, path), "another shape");
    assert_int_equal(ramet_variables_count(third.v), 1);
    FAILS(RAMET_E_NOT_FOUND, ramet_variables_load(third.v, "/nowhere/at/all"), "nowhere");
    unlink(path);
    end(&third);
    end(&other);
    end(&s);
}

static void test_wrong_use_is_answered(void **state) {
    (void)state;
    scene s = begin(1), other = begin(1);
    int32_t y = -7, in[4] = {0};
    ramet_program *p;
    OK(ramet_variables_add(s.v, "w", 2, 3, "ones", 0, 1));
    FAILS(RAMET_E_ARGUMENT, ramet_variables_add(s.v, "w", 2, 3, "ones", 0, 1), "taken");
    FAILS(RAMET_E_ARGUMENT, ramet_variables_add(s.v, "v", 2, 3, "twos", 0, 1), "twos");
    FAILS(RAMET_E_ARGUMENT, ramet_variables_add(s.v, "v", 2, 3, "normal:x", 0, 1), "number");
    FAILS(RAMET_E_ARGUMENT, ramet_variables_add(s.v, "v", -1, 3, "ones", 0, 1), "sizes");
    FAILS(RAMET_E_ARGUMENT, ramet_variables_read((float[6]){0}, 5, s.v, "w", 0), "6 numbers");
    FAILS(RAMET_E_NOT_FOUND, ramet_variables_read((float[6]){0}, 6, s.v, "z", 0), "'z'");
    FAILS(RAMET_E_NOT_FOUND, ramet_graph_variable(&y, s.g, s.v, "z"), "'z'");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_variable(&y, s.g, other.v, "w"), "runtime");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_input(&y, s.g, "x", 5, 1, 3), "type 5");
    in[0] = input(s.g, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 3);
    in[1] = variable(s.g, s.v, "w");
    FAILS(RAMET_E_NOT_FOUND, ramet_graph_apply(&y, 1, s.g, "conv3d", in, 2, NULL), "conv3d");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "linear", in, 1, NULL), "x w bias?");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "relu", in, 2, NULL), "too many");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 2, s.g, "relu", in, 1, NULL), "no result 1");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "scale", in, 1, NULL), "'by' must be given");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "scale", in, 1, "by=2,by=3"), "twice");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "scale", in, 1, "by=two"), "no number");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "scale", in, 1, "to=2"), "unknown");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "conv2d", in, 2, "height=3,width=1,kernel=9"), "conv2d");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "conv2d", in, 2, "height=2,width=1,kernel=1"), "images");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "max_pool2d", in, 1, "height=1,width=3,size=2"), "window");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "slice", in, 1, "at=2,count=2"), "columns 2 to 3");
    in[2] = 99;
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "linear", in, 3, NULL), "99");
    in[2] = in[0];
    FAILS(RAMET_E_ARGUMENT, ramet_graph_apply(&y, 1, s.g, "linear", in, 3, NULL), "bias");
    assert_int_equal(y, -7);
    y = apply(s.g, "linear", in[0], in[1], -1, NULL); /* the graph is as good as before */
    FAILS(RAMET_E_ARGUMENT, ramet_graph_gradient(in + 2, s.g, y, in, 1), "one number");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_train(s.g, s.v, apply(s.g, "sum", in[0], -1, -1, NULL)), "none of the variables");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_write(s.g, s.v, "w", y, 0), "another size");
    ramet_graph *body;
    const char *const given[] = {"x", "w"};
    OK(ramet_graph_create(&body, s.rt, 4, 0));
    in[2] = input(body, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 3);
    const int32_t seq = input(s.g, "seq", RAMET_TYPE_I32, RAMET_AXIS_ROWS, 0);
    OK(ramet_graph_output(body, "y", in[2]));
    FAILS(RAMET_E_NOT_FOUND, ramet_graph_scan(in + 3, 1, s.g, body, given, in, 2, seq, 0), "reads no variable 'w'");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_scan(in + 2, 2, s.g, body, given, in, 1, seq, 0), "1 outputs, 2");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_scan(in + 3, 1, s.g, body, given, in, 1, in[0], 0), "one sequence number");
    OK(ramet_graph_scan(in + 3, 1, s.g, body, given, in, 1, seq, 0));
    OK(ramet_graph_output(s.g, "y", y));
    FAILS(RAMET_E_ARGUMENT, ramet_graph_output(s.g, "y", y), "twice");
    FAILS(RAMET_E_ARGUMENT, ramet_graph_scan(in + 3, 1, s.g, s.g, given, in, 1, seq, 0), "its own body");
    int32_t loss = apply(s.g, "sum", y, -1, -1, NULL);
    OK(ramet_graph_train(s.g, s.v, loss));
    FAILS(RAMET_E_ARGUMENT, ramet_graph_train(s.g, s.v, loss), "twice");
    FAILS(RAMET_E_ARGUMENT, ramet_program_create(&p, s.g, 77), "mode");
    OK(ramet_program_create(&p, s.g, RAMET_PROGRAM_TIMES));
    const float *out;
    const float x[3] = {1, 2, 3};
    const char *names[] = {"x", "z"};
    const void *data[] = {x, x};
    FAILS(RAMET_E_STATE, ramet_program_output(&out, NULL, NULL, p, "y"), "no run");
    FAILS(RAMET_E_ARGUMENT, ramet_program_run(p, 1, 0, names, data, 0, NULL, NULL), "'x' is missing");
    FAILS(RAMET_E_ARGUMENT, ramet_program_run(p, 1, 0, names, data, 2, NULL, NULL), "'z'");
    FAILS(RAMET_E_ARGUMENT, ramet_program_run(p, 65, 0, names, data, 1, NULL, NULL), "65 rows");
    FAILS(RAMET_E_ARGUMENT, ramet_program_run(p, 1, 0, names, data, 17, NULL, NULL), "17");
    OK(ramet_program_run(p, 1, 0, names, data, 1, NULL, NULL));
    FAILS(RAMET_E_NOT_FOUND, ramet_program_output(&out, NULL, NULL, p, "q"), "'q'");
    OK(ramet_program_output(&out, NULL, NULL, p, "y"));
    assert_true(out[1] == 6.0f);
    char *text;
    OK(ramet_program_describe(&text, p));
    assert_non_null(strstr(text, "linear"));
    ramet_string_free(text);
    ramet_step_options o;
    ramet_step_options_init(&o, sizeof o);
    o.optimizer = "nadam";
    FAILS(RAMET_E_NOT_FOUND, ramet_variables_step(NULL, s.v, &o), "nadam");
    ramet_step_options_init(&o, sizeof o);
    o.beta1 = 1;
    FAILS(RAMET_E_ARGUMENT, ramet_variables_step(NULL, s.v, &o), "out of range");
    ramet_program_free(p);
    end(&s);
    end(&other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_regression_is_learned), cmocka_unit_test(test_a_gradient_that_is_not_finite_moves_nothing),
        cmocka_unit_test(test_convolutions_fused_in_pairs_and_by_threads), cmocka_unit_test(test_statistics_are_written_after_they_are_read), cmocka_unit_test(test_calls_with_indices), cmocka_unit_test(test_rows_by_expert),
        cmocka_unit_test(test_variables_go_through_a_file), cmocka_unit_test(test_wrong_use_is_answered)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
