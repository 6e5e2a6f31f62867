/* SPDX-License-Identifier: Apache-2.0 */
/* test_forward.c - every operation's forward result against its definition in plain C and double. */
#include "graph_test.h"

#define R 7
#define O 4
static const int32_t ids[R] = {3, 0, 3, -1, 6, 2, 2}, pos[R] = {5, 6, 7, 0, 1, 2, 3}, seq[R] = {1, 1, 1, 0, 0, 0, 0},
                     outs[O] = {6, 1, 1, 0}, mask[R] = {0, 1, 0, 0, 2, 0, 1};

typedef struct one {
    ramet_runtime *rt;
    ramet__graph *g;
    ramet__plan *p;
    ramet__run run;
    float *data[8];
    int32_t n;
} one;
static one begin(void) {
    one t = {.rt = test_runtime(2)};
    OK(ramet__graph_create(&t.g, t.rt, R, O, 4));
    t.run.rows = R;
    t.run.outs = O;
    return t;
}
static ramet__val rows(one *t, const char *name, ramet__axis axis, int64_t cols, float size) {
    float *x = t->data[t->n++] =
        random_floats((axis == RAMET__AXIS_ROWS ? R : O) * RAMET__MAX(1, cols), (uint64_t)name[0], size);
    give(&t->run, name, x);
    return ramet__graph_input(t->g, name, RAMET__TYPE_F32, axis, cols);
}
static ramet__val index_of(one *t, const char *name, ramet__axis axis, int64_t cols, const int32_t *data) {
    give(&t->run, name, data);
    return ramet__graph_input(t->g, name, RAMET__TYPE_I32, axis, cols);
}
static const float *result(one *t, ramet__val v, ramet__mode mode) {
    ramet__plan_options o = {.mode = mode, .max_context = 16};
    ramet__graph_output(t->g, "y", v);
    OK(ramet__plan_create(&t->p, t->g, &o));
    OK(ramet__plan_run(t->p, &t->run));
    return output(t->p, "y");
}
static void end(one *t) {
    ramet__plan_free(t->p);
    ramet__graph_free(t->g);
    ramet_runtime_free(t->rt);
    for (int32_t i = 0; i < t->n; i++) free(t->data[i]);
}

/* ---- one element from the same element ---- */
static double f_add(double a, double b) { return a + b; }
static double f_sub(double a, double b) { return a - b; }
static double f_mul(double a, double b) { return a * b; }
static double f_scale(double a, double b) {
    (void)b;
    return -1.5 * a;
}
static double f_sigmoid(double a, double b) {
    (void)b;
    return 1 / (1 + exp(-a));
}
static double f_silu(double a, double b) { return a * f_sigmoid(a, b); }
static double f_swiglu(double a, double b) { return f_silu(a, 0) * b; }
static double f_silu_grad(double a, double b) {
    double s = f_sigmoid(a, 0);
    return b * s * (1 + a * (1 - s));
}
static double f_exp(double a, double b) {
    (void)b;
    return exp(a);
}
static double f_log(double a, double b) {
    (void)b;
    return log(a * a + 1);
}
static double f_recip(double a, double b) {
    (void)b;
    return 1 / (a * a + 1);
}
static double f_rsqrt(double a, double b) {
    (void)b;
    return 1 / sqrt(a * a + 1);
}
static ramet__val plus(one *t, ramet__val a) {
    return ramet__op_add(t->g, ramet__op_mul(t->g, a, a), ramet__graph_const(t->g, 1));
}
static ramet__val b_scale(one *t, ramet__val a, ramet__val b) {
    (void)b;
    return ramet__op_scale(t->g, a, -1.5f);
}
static ramet__val b_add(one *t, ramet__val a, ramet__val b) { return ramet__op_add(t->g, a, b); }
static ramet__val b_sub(one *t, ramet__val a, ramet__val b) { return ramet__op_sub(t->g, a, b); }
static ramet__val b_mul(one *t, ramet__val a, ramet__val b) { return ramet__op_mul(t->g, a, b); }
static ramet__val b_sigmoid(one *t, ramet__val a, ramet__val b) {
    (void)b;
    return ramet__op_sigmoid(t->g, a);
}
static ramet__val b_silu(one *t, ramet__val a, ramet__val b) {
    (void)b;
    return ramet__op_silu(t->g, a);
}
static ramet__val b_swiglu(one *t, ramet__val a, ramet__val b) {
    return ramet__op_mul(t->g, ramet__op_silu(t->g, a), b);
}
static ramet__val b_silu_grad(one *t, ramet__val a, ramet__val b) { return ramet__op_silu_grad(t->g, a, b); }
static ramet__val b_exp(one *t, ramet__val a, ramet__val b) {
    (void)b;
    return ramet__op_exp(t->g, a);
}
static ramet__val b_log(one *t, ramet__val a, ramet__val b) {
    (void)b;
    return ramet__op_log(t->g, plus(t, a));
}
static ramet__val b_recip(one *t, ramet__val a, ramet__val b) {
    (void)b;
    return ramet__op_recip(t->g, plus(t, a));
}
static ramet__val b_rsqrt(one *t, ramet__val a, ramet__val b) {
    (void)b;
    return ramet__op_rsqrt(t->g, plus(t, a));
}

static void test_elementwise(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double (*f)(double, double);
        ramet__val (*build)(one *, ramet__val, ramet__val);
    } ops[] = {{"add", f_add, b_add},
               {"sub", f_sub, b_sub},
               {"mul", f_mul, b_mul},
               {"scale", f_scale, b_scale},
               {"sigmoid", f_sigmoid, b_sigmoid},
               {"silu", f_silu, b_silu},
               {"swiglu", f_swiglu, b_swiglu},
               {"silu_grad", f_silu_grad, b_silu_grad},
               {"exp", f_exp, b_exp},
               {"log", f_log, b_log},
               {"recip", f_recip, b_recip},
               {"rsqrt", f_rsqrt, b_rsqrt}};
    for (int32_t i = 0; i < RAMET__COUNT(ops); i++) {
        one t = begin();
        double want[R * 19];
        ramet__val a = rows(&t, "a", RAMET__AXIS_ROWS, 19, 4), b = rows(&t, "b", RAMET__AXIS_ROWS, 19, 2);
        const float *y = result(&t, ops[i].build(&t, a, b), RAMET__MODE_EXACT);
        for (int32_t j = 0; j < R * 19; j++) want[j] = ops[i].f(t.data[0][j], t.data[1][j]);
        near(y, want, R * 19, 2e-6, ops[i].name);
        end(&t);
    }
}
static void test_broadcasts_of_one_row_and_one_number(void **state) {
    (void)state;
    ramet__var row = make_var("row", 5, 0, 1), number = make_var("number", 1, 0, 1);
    one t = begin();
    ramet__val x = rows(&t, "a", RAMET__AXIS_ROWS, 5, 1), r = ramet__graph_var(t.g, &row),
               n = ramet__graph_var(t.g, &number);
    const float *y =
        result(&t, ramet__op_sub(t.g, ramet__op_mul(t.g, ramet__op_add(t.g, r, x), n), ramet__op_mul(t.g, r, r)),
               RAMET__MODE_EXACT);
    double want[R * 5];
    for (int32_t i = 0; i < R * 5; i++)
        want[i] = ((double)t.data[0][i] + row.data[i % 5]) * number.data[0] - (double)row.data[i % 5] * row.data[i % 5];
    near(y, want, R * 5, 1e-6, "broadcast");
    end(&t);
    free(row.data);
    free(number.data);
}

/* ---- whole rows ---- */
static double lse_of(const float *x, int64_t n) {
    double m = x[0], s = 0;
    for (int64_t i = 1; i < n; i++) m = fmax(m, x[i]);
    for (int64_t i = 0; i < n; i++) s += exp(x[i] - m);
    return m + log(s);
}
static void test_row_operations(void **state) {
    (void)state;
    for (int32_t k = 0; k < 10; k++) {
        static const char *const names[] = {"sum",     "sum_rows", "row_sum", "row_scale", "row_fill",
                                            "softmax", "lse",      "pick",    "onehot",    "keep"};
        one t = begin();
        ramet__val a = rows(&t, "a", RAMET__AXIS_ROWS, 9, 3), b = rows(&t, "b", RAMET__AXIS_ROWS, 0, 1),
                   i = index_of(&t, "ids", RAMET__AXIS_ROWS, 0, ids), v = -1;
        double want[R * 9] = {0};
        int64_t n = R * 9;
        const float *x = t.data[0], *s = t.data[1];
        switch (k) {
        case 0:
            v = ramet__op_sum(t.g, a);
            n = 1;
            for (int32_t j = 0; j < R * 9; j++) want[0] += x[j];
            break;
        case 1:
            v = ramet__op_sum_rows(t.g, a);
            n = 9;
            for (int32_t j = 0; j < R * 9; j++) want[j % 9] += x[j];
            break;
        case 2:
            v = ramet__op_row_sum(t.g, a);
            n = R;
            for (int32_t j = 0; j < R * 9; j++) want[j / 9] += x[j];
            break;
        case 3:
            v = ramet__op_row_scale(t.g, a, b);
            for (int32_t j = 0; j < R * 9; j++) want[j] = (double)x[j] * s[j / 9];
            break;
        case 4:
            v = ramet__op_row_fill(t.g, b, 9);
            for (int32_t j = 0; j < R * 9; j++) want[j] = s[j / 9];
            break;
        case 5:
            v = ramet__op_softmax(t.g, a, 1);
            for (int32_t j = 0; j < R * 9; j++) want[j] = exp(x[j] - lse_of(x + j / 9 * 9, 9));
            break;
        case 6:
            v = ramet__op_lse(t.g, a);
            n = R;
            for (int32_t j = 0; j < R; j++) want[j] = lse_of(x + j * 9, 9);
            break;
        case 7:
            v = ramet__op_pick(t.g, a, i);
            n = R;
            for (int32_t j = 0; j < R; j++) want[j] = ids[j] < 0 ? 0 : x[j * 9 + ids[j]];
            break;
        case 8:
            v = ramet__op_onehot(t.g, b, i, 9);
            for (int32_t j = 0; j < R; j++)
                if (ids[j] >= 0) want[j * 9 + ids[j]] = s[j];
            break;
        default:
            v = ramet__op_keep(t.g, a, i);
            for (int32_t j = 0; j < R * 9; j++) want[j] = ids[j / 9] < 0 ? 0 : x[j];
        }
        if (k < 3 || k == 5 || k == 6) t.run.n_inputs = 1; /* what a graph does not name must not be given */
        if (k == 3 || k == 4) t.run.n_inputs = 2;
        give(&t.run, "b", s);
        give(&t.run, "ids", ids);
        near(result(&t, v, RAMET__MODE_EXACT), want, n, 2e-6, names[k]);
        end(&t);
    }
}
static void test_rows_by_number(void **state) {
    (void)state;
    ramet__var table = make_var("table", 8, 6, 1);
    for (int32_t k = 0; k < 4; k++) {
        static const char *const names[] = {"embed", "gather", "gather_grad", "edit"};
        one t = begin();
        double want[R * 6] = {0};
        int64_t n = R * 6;
        ramet__val v, a = rows(&t, "a", k == 2 ? RAMET__AXIS_OUTS : RAMET__AXIS_ROWS, 6, 1);
        const float *x = t.data[0];
        if (k == 0) {
            v = ramet__op_embed(t.g, ramet__graph_var(t.g, &table), index_of(&t, "ids", RAMET__AXIS_ROWS, 0, ids));
            for (int32_t j = 0; j < R * 6; j++) want[j] = ids[j / 6] < 0 ? 0 : table.data[ids[j / 6] * 6 + j % 6];
        } else if (k == 1) {
            v = ramet__op_gather(t.g, a, index_of(&t, "outs", RAMET__AXIS_OUTS, 0, outs));
            n = O * 6;
            for (int32_t j = 0; j < O * 6; j++) want[j] = x[outs[j / 6] * 6 + j % 6];
        } else if (k == 2) {
            ramet__gshape shape = ramet__gshape2(RAMET__AXIS_ROWS, R, 6);
            v = ramet__op_gather_grad(t.g, a, index_of(&t, "outs", RAMET__AXIS_OUTS, 0, outs), &shape);
            for (int32_t j = 0; j < O * 6; j++) want[outs[j / 6] * 6 + j % 6] += x[j];
        } else {
            v = ramet__op_edit(t.g, a, rows(&t, "b", RAMET__AXIS_ROWS, 6, 1),
                               index_of(&t, "mask", RAMET__AXIS_ROWS, 0, mask));
            for (int32_t j = 0; j < R * 6; j++) want[j] = mask[j / 6] ? t.data[1][j] : x[j];
        }
        near(result(&t, v, RAMET__MODE_EXACT), want, n, 1e-6, names[k]);
        end(&t);
    }
    free(table.data);
}
/* More columns than a piece; both directions; sequences of three and four rows. */
static void test_scan_and_shift(void **state) {
    (void)state;
    enum { N = 300 };
    for (int32_t i = 0; i < 4; i++) {
        one t = begin();
        int32_t reversed = i % 2;
        ramet__val a = rows(&t, "a", RAMET__AXIS_ROWS, N, 1.2f), x = rows(&t, "x", RAMET__AXIS_ROWS, N, 1),
                   s = index_of(&t, "seq", RAMET__AXIS_ROWS, 0, seq);
        double want[R * N];
        for (int32_t k = 0; k < R; k++) {
            int32_t r = reversed ? R - 1 - k : k, before = reversed ? r + 1 : r - 1,
                    there = before >= 0 && before < R && seq[before] == seq[r];
            for (int32_t j = 0; j < N; j++)
                if (i < 2)
                    want[r * N + j] = t.data[1][r * N + j] +
                                      (there ? t.data[0][(reversed ? before : r) * N + j] * want[before * N + j] : 0);
                else
                    want[r * N + j] = there ? t.data[1][before * N + j] : 0;
        }
        near(result(&t, i < 2 ? ramet__op_scan(t.g, a, x, s, reversed) : ramet__op_shift(t.g, x, s, reversed),
                    RAMET__MODE_EXACT),
             want, R * N, 1e-6, i < 2 ? "scan" : "shift");
        end(&t);
    }
}
static void test_embed_grad_adds_rows_up(void **state) {
    (void)state;
    one t = begin();
    double want[8 * 6] = {0};
    const float *y = result(&t,
                            ramet__op_embed_grad(t.g, rows(&t, "a", RAMET__AXIS_ROWS, 6, 1),
                                                 index_of(&t, "ids", RAMET__AXIS_ROWS, 0, ids), 8),
                            RAMET__MODE_EXACT);
    for (int32_t j = 0; j < R * 6; j++)
        if (ids[j / 6] >= 0) want[ids[j / 6] * 6 + j % 6] += t.data[0][j];
    near(y, want, 8 * 6, 1e-6, "embed_grad");
    end(&t);
}
static void test_embed_of_every_encoding(void **state) {
    (void)state;
    for (int32_t e = 0; e < RAMET__ENC_COUNT && ramet__encoding_get((ramet__enc)e)->encode; e++)
        for (int32_t tied = 0; tied < 2; tied++) { /* tied: read from the packing of the head */
            one t = begin();
            ramet__weight *w = make_weight(t.rt, "table", (ramet__enc)e, 48, 64, 1);
            ramet__val table = ramet__graph_weight(t.g, w),
                       x = ramet__op_embed(t.g, table, index_of(&t, "ids", RAMET__AXIS_ROWS, 0, ids));
            if (tied) ramet__graph_output(t.g, "head", ramet__op_linear(t.g, x, table, -1, NULL));
            const float *y = result(&t, x, RAMET__MODE_EXACT);
            double want[R * 64] = {0};
            float row[64];
            for (int32_t r = 0; r < R; r++) {
                if (ids[r] < 0) continue;
                ramet__weight_decode(row, w, ids[r], ids[r] + 1);
                for (int32_t j = 0; j < 64; j++) want[r * 64 + j] = row[j];
            }
            near(y, want, R * 64, 1e-7, "embed");
            ramet__weight_free(w);
            end(&t);
        }
}
static void test_rms_norm_and_its_weight_of_another_encoding(void **state) {
    (void)state;
    for (int32_t half = 0; half < 2; half++) {
        one t = begin();
        ramet__weight *w = make_weight(t.rt, "norm", half ? RAMET__ENC_BF16 : RAMET__ENC_F32, 24, 0, 1);
        const float *y = result(
            &t, ramet__op_rms_norm(t.g, rows(&t, "a", RAMET__AXIS_ROWS, 24, 2), ramet__graph_weight(t.g, w), 1e-2f),
            RAMET__MODE_EXACT);
        float f[24];
        double want[R * 24];
        ramet__weight_decode(f, w, 0, 1);
        for (int32_t r = 0; r < R; r++) {
            double s = 0;
            for (int32_t j = 0; j < 24; j++) s += (double)t.data[0][r * 24 + j] * t.data[0][r * 24 + j];
            for (int32_t j = 0; j < 24; j++) want[r * 24 + j] = t.data[0][r * 24 + j] / sqrt(s / 24 + 1e-2) * f[j];
        }
        near(y, want, R * 24, 1e-6, "rms_norm");
        ramet__weight_free(w);
        end(&t);
    }
}
static void test_rope_both_layouts(void **state) {
    (void)state;
    for (int32_t halves = 0; halves < 2; halves++) {
        one t = begin();
        const float *y = result(&t,
                                ramet__op_rope(t.g, rows(&t, "a", RAMET__AXIS_ROWS, 20, 1),
                                               index_of(&t, "pos", RAMET__AXIS_ROWS, 0, pos), 2, 10, 8, 500, halves),
                                RAMET__MODE_EXACT);
        double want[R * 20];
        for (int32_t r = 0; r < R; r++)
            for (int32_t h = 0; h < 2; h++) {
                const float *x = t.data[0] + r * 20 + h * 10;
                double *z = want + r * 20 + h * 10;
                for (int32_t j = 0; j < 10; j++) z[j] = x[j];
                for (int32_t j = 0; j < 4; j++) {
                    int32_t a = halves ? j : 2 * j, b = halves ? j + 4 : 2 * j + 1;
                    double angle = pos[r] * pow(500, -2.0 * j / 8);
                    z[a] = x[a] * cos(angle) - x[b] * sin(angle);
                    z[b] = x[a] * sin(angle) + x[b] * cos(angle);
                }
            }
        near(y, want, R * 20, 1e-6, "rope");
        end(&t);
    }
}

/* ---- products ---- */
static void test_linear_of_every_encoding_and_mode(void **state) {
    (void)state;
    for (int32_t e = 0; e < RAMET__ENC_COUNT && ramet__encoding_get((ramet__enc)e)->encode; e++)
        for (int32_t mode = 0; mode < 3; mode++)
            for (int32_t dx = 0; dx < 2; dx++) {
                one t = begin();
                const int64_t n = 80, k = 96;
                ramet__weight *w = make_weight(t.rt, "weight", (ramet__enc)e, n, k, 0.5f);
                ramet__var bias = make_var("bias", n, 0, 1);
                ramet__val x = rows(&t, "a", RAMET__AXIS_ROWS, dx ? n : k, 1);
                float *f = malloc((size_t)(n * k) * sizeof *f);
                double want[R * 96] = {0};
                ramet__weight_decode(f, w, 0, n);
                for (int32_t r = 0; r < R; r++)
                    for (int64_t i = 0; i < n; i++)
                        for (int64_t j = 0; j < k; j++) {
                            if (dx)
                                want[r * k + j] += (double)t.data[0][r * n + i] * f[i * k + j];
                            else
                                want[r * n + i] +=
                                    (double)t.data[0][r * k + j] * f[i * k + j] + (j == 0 ? bias.data[i] : 0);
                        }
                ramet__val wv = ramet__graph_weight(t.g, w),
                           v = dx ? ramet__op_linear_dx(t.g, x, wv)
                                  : ramet__op_linear(t.g, x, wv, ramet__graph_var(t.g, &bias), NULL);
                near(result(&t, v, (ramet__mode)mode), want, R * (dx ? k : n), mode ? 2e-2 : 3e-6,
                     dx ? "linear_dx" : "linear");
                free(f);
                free(bias.data);
                ramet__weight_free(w);
                end(&t);
            }
}
static void test_linear_of_variables(void **state) {
    (void)state;
    for (int32_t kind = 0; kind < 3; kind++) {
        one t = begin();
        const int64_t n = 150, k = 140; /* more than one piece */
        ramet__var w = make_var("w", n, k, 1);
        ramet__val x = rows(&t, "a", RAMET__AXIS_ROWS, kind == 1 ? n : k, 1), wv = ramet__graph_var(t.g, &w), v;
        double *want = calloc((size_t)(n * k), sizeof *want);
        if (kind == 0)
            v = ramet__op_linear(t.g, x, wv, -1, NULL);
        else if (kind == 1)
            v = ramet__op_linear_dx(t.g, x, wv);
        else
            v = ramet__op_linear_dw(t.g, rows(&t, "b", RAMET__AXIS_ROWS, n, 1), x);
        for (int32_t r = 0; r < R; r++)
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < k; j++) {
                    if (kind == 0)
                        want[r * n + i] += (double)t.data[0][r * k + j] * w.data[i * k + j];
                    else if (kind == 1)
                        want[r * k + j] += (double)t.data[0][r * n + i] * w.data[i * k + j];
                    else
                        want[i * k + j] += (double)t.data[1][r * n + i] * t.data[0][r * k + j];
                }
        near(result(&t, v, RAMET__MODE_EXACT), want, kind == 2 ? n * k : R * (kind ? k : n), 3e-6,
             "linear of a variable");
        free(want);
        free(w.data);
        end(&t);
    }
}

/* ---- attention ---- */
static void attend(double *y, const float *q, const float *k, const float *v, int64_t n_head, int64_t n_kv, int64_t hd,
                   int64_t keys) {
    for (int64_t h = 0; h < n_head; h++) {
        double p[256], m = -1e30, s = 0;
        int64_t kv = h / (n_head / n_kv) * hd;
        for (int64_t i = 0; i < keys; i++) {
            p[i] = 0;
            for (int64_t d = 0; d < hd; d++)
                p[i] += (double)q[h * hd + d] * k[i * n_kv * hd + kv + d] / sqrt((double)hd);
            m = fmax(m, p[i]);
        }
        for (int64_t i = 0; i < keys; i++) s += p[i] = exp(p[i] - m);
        for (int64_t d = 0; d < hd; d++) {
            double o = 0;
            for (int64_t i = 0; i < keys; i++) o += p[i] / s * v[i * n_kv * hd + kv + d];
            y[h * hd + d] = o;
        }
    }
}
static void test_attention(void **state) {
    (void)state;
    one t = begin();
    const int64_t heads = 6, kv = 2, hd = 8;
    ramet__val q = rows(&t, "q", RAMET__AXIS_ROWS, heads * hd, 2), k = rows(&t, "k", RAMET__AXIS_ROWS, kv * hd, 2),
               v = rows(&t, "v", RAMET__AXIS_ROWS, kv * hd, 1);
    const float *y =
        result(&t, ramet__op_attention(t.g, q, k, v, index_of(&t, "seq", RAMET__AXIS_ROWS, 0, seq), heads, kv, hd),
               RAMET__MODE_EXACT);
    double want[R * 48];
    for (int32_t r = 0; r < R; r++) {
        int32_t first = r;
        while (first > 0 && seq[first - 1] == seq[r]) first--;
        attend(want + r * 48, t.data[0] + r * 48, t.data[1] + first * 16, t.data[2] + first * 16, heads, kv, hd,
               r - first + 1);
    }
    near(y, want, R * 48, 2e-6, "attention");
    end(&t);
}
static void test_attention_of_all_with_all(void **state) {
    (void)state;
    one t = begin();
    ramet__val q = rows(&t, "q", RAMET__AXIS_ROWS, 48, 2), k = rows(&t, "k", RAMET__AXIS_ROWS, 16, 2), v = rows(&t, "v", RAMET__AXIS_ROWS, 16, 1);
    const float *y = result(&t, ramet__op_attention_whole(t.g, q, k, v, index_of(&t, "seq", RAMET__AXIS_ROWS, 0, seq), 6, 2, 8), RAMET__MODE_EXACT);
    double want[R * 48];
    for (int32_t r = 0; r < R; r++) {
        int32_t first = r, end = r + 1;
        while (first > 0 && seq[first - 1] == seq[r]) first--;
        while (end < R && seq[end] == seq[r]) end++;
        attend(want + r * 48, t.data[0] + r * 48, t.data[1] + first * 16, t.data[2] + first * 16, 6, 2, 8, end - first);
    }
    near(y, want, R * 48, 2e-6, "attention of all with all");
    end(&t);
}
/* A sequence of several chunks of queries beside a short one: each row still sees all of its own. */
static void test_attention_of_all_over_chunks(void **state) {
    (void)state;
    enum { LEN = 150, ALL = LEN + 7 };
    one t = {.rt = test_runtime(2)};
    OK(ramet__graph_create(&t.g, t.rt, ALL, 1, 0));
    t.run.rows = ALL;
    t.run.outs = 1;
    int32_t which[ALL];
    double want[ALL * 8];
    for (int32_t i = 0; i < ALL; i++) which[i] = i < LEN;
    float *x = random_floats(ALL * 8, 4, 2);
    give(&t.run, "x", x);
    ramet__val v = ramet__graph_input(t.g, "x", RAMET__TYPE_F32, RAMET__AXIS_ROWS, 8);
    const float *y = result(&t, ramet__op_attention_whole(t.g, v, v, v, index_of(&t, "seq", RAMET__AXIS_ROWS, 0, which), 1, 1, 8), RAMET__MODE_EXACT);
    for (int32_t r = 0; r < ALL; r++) {
        const float *keys = x + (r < LEN ? 0 : LEN * 8);
        attend(want + r * 8, x + r * 8, keys, keys, 1, 1, 8, r < LEN ? LEN : ALL - LEN);
    }
    near(y, want, ALL * 8, 4e-6, "attention of all over chunks");
    end(&t);
    free(x);
}
static void test_encoder_operations(void **state) {
    (void)state;
    static const int32_t segment[R] = {3, 3, 0, 1, 1, 2, 2};
    const int64_t n = 20;
    one t = begin();
    ramet__val x = rows(&t, "x", RAMET__AXIS_ROWS, n, 3);
    const float *v = t.data[0];
    ramet__var w = make_var("w", n, 0, 1), b = make_var("b", n, 0, 1);
    ramet__val pooled = ramet__op_segment_mean(t.g, x, index_of(&t, "segment", RAMET__AXIS_ROWS, 0, segment));
    ramet__graph_output(t.g, "pooled", pooled);
    ramet__graph_output(t.g, "unit", ramet__op_l2_normalize(t.g, pooled));
    ramet__graph_output(t.g, "gelu", ramet__op_gelu(t.g, x));
    ramet__graph_output(t.g, "tanh", ramet__op_gelu_tanh(t.g, x));
    const float *y = result(&t, ramet__op_layer_norm(t.g, x, ramet__graph_var(t.g, &w), ramet__graph_var(t.g, &b), 1e-5f), RAMET__MODE_EXACT);
    double want[R * 20], pool[O * 20] = {0}, count[O] = {0}, square[O] = {0};
    for (int32_t r = 0; r < R; r++) {
        double mean = 0, var = 0;
        for (int32_t i = 0; i < n; i++) mean += v[r * n + i] / (double)n;
        for (int32_t i = 0; i < n; i++) var += (v[r * n + i] - mean) * (v[r * n + i] - mean) / (double)n;
        for (int32_t i = 0; i < n; i++) want[r * n + i] = (v[r * n + i] - mean) / sqrt(var + 1e-5) * w.data[i] + b.data[i];
        count[segment[r]]++;
        for (int32_t i = 0; i < n; i++) pool[segment[r] * n + i] += v[r * n + i];
    }
    near(y, want, R * n, 2e-6, "layer_norm");
    for (int32_t i = 0; i < O * n; i++) pool[i] /= count[i / n], square[i / n] += pool[i] * pool[i];
    near(output(t.p, "pooled"), pool, O * n, 1e-6, "segment_mean");
    for (int32_t i = 0; i < O * n; i++) pool[i] /= sqrt(square[i / n]);
    near(output(t.p, "unit"), pool, O * n, 1e-6, "l2_normalize");
    for (int32_t i = 0; i < R * n; i++) want[i] = v[i] * 0.5 * erfc(-v[i] / sqrt(2));
    near(output(t.p, "gelu"), want, R * n, 1e-6, "gelu");
    for (int32_t i = 0; i < R * n; i++) want[i] = v[i] * 0.5 * (1 + tanh(0.7978845608 * (v[i] + 0.044715 * v[i] * v[i] * v[i])));
    near(output(t.p, "tanh"), want, R * n, 1e-6, "gelu with tanh");
    end(&t);
    free(w.data);
    free(b.data);
}
/* Keys come into the cache in three runs of different cuts; every query sees all positions up to its own. */
static void test_cache_attention(void **state) {
    (void)state;
    enum { HEADS = 4, KV = 2, HD = 8, BLOCK = 4, LEN = 14 };
    ramet__cache_layout layout = {.layers = 2, .n_kv = KV, .head_dim = HD, .block = BLOCK};
    float *q = random_floats(2 * LEN * HEADS * HD, 1, 2), *k = random_floats(2 * LEN * KV * HD, 2, 2),
          *v = random_floats(2 * LEN * KV * HD, 3, 1);
    void *blocks[2][4];
    for (int32_t s = 0; s < 2; s++)
        for (int32_t b = 0; b < 4; b++) blocks[s][b] = calloc(1, ramet__cache_block_bytes(&layout));
    one t = begin();
    ramet__val qv = ramet__graph_input(t.g, "q", RAMET__TYPE_F32, RAMET__AXIS_ROWS, HEADS * HD),
               kv = ramet__graph_input(t.g, "k", RAMET__TYPE_F32, RAMET__AXIS_ROWS, KV * HD);
    ramet__val vv = ramet__graph_input(t.g, "v", RAMET__TYPE_F32, RAMET__AXIS_ROWS, KV * HD),
               sv = ramet__graph_input(t.g, "seq", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
    ramet__val pv = ramet__graph_input(t.g, "pos", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
    ramet__graph_output(t.g, "y", ramet__op_cache_attention(t.g, qv, kv, vv, sv, pv, &layout, 1, HEADS));
    ramet__plan_options o = {.mode = RAMET__MODE_EXACT, .max_context = 16};
    OK(ramet__plan_create(&t.p, t.g, &o));
    ramet__seq_view views[2] = {{blocks[0], 4}, {blocks[1], 4}};
    int32_t at[2] = {0, 0};
    static const int32_t cuts[][2] = {{5, 2}, {1, 1}, {0, 7}, {7, 0}, {1, 4}};
    for (int32_t c = 0; c < RAMET__COUNT(cuts); c++) {
        float rq[R * HEADS * HD], rk[R * KV * HD], rv[R * KV * HD];
        int32_t rs[R], rp[R], n = 0;
        for (int32_t s = 1; s >= 0; s--)
            for (int32_t i = 0; i < cuts[c][s]; i++, n++) {
                int32_t from = s * LEN + at[s];
                memcpy(rq + n * HEADS * HD, q + from * HEADS * HD, sizeof *rq * HEADS * HD);
                memcpy(rk + n * KV * HD, k + from * KV * HD, sizeof *rk * KV * HD);
                memcpy(rv + n * KV * HD, v + from * KV * HD, sizeof *rv * KV * HD);
                rs[n] = s;
                rp[n] = at[s]++;
            }
        ramet__run run = {.rows = n, .seqs = views, .n_seqs = 2};
        give(&run, "q", rq);
        give(&run, "k", rk);
        give(&run, "v", rv);
        give(&run, "seq", rs);
        give(&run, "pos", rp);
        OK(ramet__plan_run(t.p, &run));
        double want[R * HEADS * HD];
        for (int32_t r = 0; r < n; r++)
            attend(want + r * HEADS * HD, rq + r * HEADS * HD, k + rs[r] * LEN * KV * HD, v + rs[r] * LEN * KV * HD,
                   HEADS, KV, HD, rp[r] + 1);
        near(output(t.p, "y"), want, n * HEADS * HD, 2e-6, "cache_attention");
    }
    assert_int_equal(at[0], LEN);
    assert_int_equal(at[1], LEN);
    for (int32_t b = 0; b < 4; b++)
        for (uint64_t i = 0; i < ramet__cache_block_bytes(&layout) / 8; i++)
            assert_true(((float *)blocks[0][b])[i] == 0.0f); /* layer 0 was not touched */
    for (int32_t s = 0; s < 2; s++)
        for (int32_t b = 0; b < 4; b++) free(blocks[s][b]);
    free(q);
    free(k);
    free(v);
    end(&t);
}

/* ---- losses ---- */
static const int32_t labels[O] = {2, -1, 40, 0}, top_ids[O * 3] = {2, 0, 5, 1, -1, -1, 40, 3, 4, 7, 8, 9};
static const float top_p[O * 3] = {.5f, .2f, .1f, .9f, 0, 0, .3f, .3f, .4f, 0, 1, 0};
static double skewed(double p, double q, int32_t reverse) { /* one bin's term, skew 1/4 */
    if (reverse) return q * log(q / (0.75 * p + 0.25 * q));
    return p > 0 ? p * log(p / (0.25 * p + 0.75 * q)) : 0;
}
static void losses(double *total, double *row, const float *z, const float *w, int64_t n, int32_t kl) {
    *total = 0;
    for (int32_t r = 0; r < O; r++, z += n) {
        double lse = lse_of(z, n), mass = 0, q = 0;
        row[r] = kl || labels[r] < 0 ? 0 : lse - z[labels[r]];
        for (int32_t i = 0; kl && i < 3; i++) {
            int32_t id = top_ids[r * 3 + i];
            double p = top_p[r * 3 + i];
            if (id < 0) continue;
            mass += p;
            q += exp(z[id] - lse);
            if (kl == 1 && p > 0) row[r] += p * (log(p) - (z[id] - lse));
            if (kl > 1) row[r] += skewed(p, exp(z[id] - lse), kl == 3);
        }
        if (kl > 1) row[r] += skewed(1 - mass > 1e-6 ? 1 - mass : 0, 1 - q, kl == 3);
        if (kl == 1 && 1 - mass > 1e-6) row[r] += (1 - mass) * (log(1 - mass) - log(1 - q));
        *total += row[r] * w[r];
    }
}
static void test_losses_alone_and_fused_with_the_head(void **state) {
    (void)state;
    for (int32_t kl = 0; kl < 4; kl++) /* 2, 3: skewed, skewed and reverse */
        for (int32_t fused = 0; fused < 2; fused++) {
            one t = begin();
            const int64_t n = 48, k = 32;
            ramet__weight *w = make_weight(t.rt, "head", RAMET__ENC_Q8_0, n, k, 1);
            float f[48 * 32], z[O * 48];
            ramet__weight_decode(f, w, 0, n);
            ramet__val x = rows(&t, "x", RAMET__AXIS_OUTS, k, 1), weight = rows(&t, "weight", RAMET__AXIS_OUTS, 0, 1),
                       row, l, logits = ramet__op_linear(t.g, x, ramet__graph_weight(t.g, w), -1, NULL);
            if (!fused) ramet__graph_output(t.g, "logits", logits);
            if (kl) {
                ramet__val i = index_of(&t, "ids", RAMET__AXIS_OUTS, 3, top_ids);
                give(&t.run, "p", top_p);
                ramet__val p = ramet__graph_input(t.g, "p", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 3);
                l = kl == 1 ? ramet__op_kl_top(t.g, logits, i, p, weight, &row)
                            : ramet__op_kl_skewed(t.g, logits, i, p, weight, kl == 3, 0.25f, &row);
            } else
                l = ramet__op_cross_entropy(t.g, logits, index_of(&t, "ids", RAMET__AXIS_OUTS, 0, labels), weight,
                                            &row);
            ramet__graph_output(t.g, "row", row);
            const float *y = result(&t, l, RAMET__MODE_EXACT);
            int32_t head = 0;
            for (int64_t i = 0; i < t.p->n_steps; i++) head += t.p->steps[i].op == &ramet__opdef_head_loss;
            assert_int_equal(head, fused);
            for (int32_t r = 0; r < O; r++)
                for (int64_t i = 0; i < n; i++) {
                    double s = 0;
                    for (int64_t j = 0; j < k; j++) s += (double)t.data[0][r * k + j] * f[i * k + j];
                    z[r * n + i] = (float)s;
                }
            double total, rows_want[O], size = 0;
            losses(&total, rows_want, z, t.data[1], n, kl);
            for (int32_t r = 0; r < O; r++) size += fabs(rows_want[r] * (double)t.data[1][r]);
            near(output(t.p, "row"), rows_want, O, 1e-5, "row");
            if (kl < 2) near(y, &total, 1, 1e-5, "loss");
            else assert_true(fabs(*y - total) <= 1e-5 * size); /* terms of both signs cancel */
            ramet__weight_free(w);
            end(&t);
        }
}
static void test_kl_and_mse(void **state) {
    (void)state;
    for (int32_t kl = 0; kl < 2; kl++) {
        one t = begin();
        ramet__val a = rows(&t, "a", RAMET__AXIS_OUTS, 9, 2), b = rows(&t, "b", RAMET__AXIS_OUTS, 9, 2),
                   w = rows(&t, "w", RAMET__AXIS_OUTS, 0, 1);
        double want = 0;
        for (int32_t r = 0; r < O; r++) {
            const float *x = t.data[0] + r * 9, *y = t.data[1] + r * 9;
            double row = 0, lx = lse_of(x, 9), ly = lse_of(y, 9);
            for (int32_t i = 0; i < 9; i++)
                row +=
                    kl ? exp(y[i] - ly) * (y[i] - ly - x[i] + lx) : ((double)x[i] - y[i]) * ((double)x[i] - y[i]) / 9;
            want += row * t.data[2][r];
        }
        near(result(&t, kl ? ramet__op_kl(t.g, a, b, w, NULL) : ramet__op_mse(t.g, a, b, w, NULL), RAMET__MODE_EXACT),
             &want, 1, 1e-5, kl ? "kl" : "mse");
        end(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_elementwise),
                                       cmocka_unit_test(test_broadcasts_of_one_row_and_one_number),
                                       cmocka_unit_test(test_row_operations),
                                       cmocka_unit_test(test_rows_by_number),
                                       cmocka_unit_test(test_scan_and_shift),
                                       cmocka_unit_test(test_embed_grad_adds_rows_up),
                                       cmocka_unit_test(test_embed_of_every_encoding),
                                       cmocka_unit_test(test_rms_norm_and_its_weight_of_another_encoding),
                                       cmocka_unit_test(test_rope_both_layouts),
                                       cmocka_unit_test(test_linear_of_every_encoding_and_mode),
                                       cmocka_unit_test(test_linear_of_variables),
                                       cmocka_unit_test(test_attention), cmocka_unit_test(test_attention_of_all_with_all),
                                       cmocka_unit_test(test_attention_of_all_over_chunks), cmocka_unit_test(test_encoder_operations),
                                       cmocka_unit_test(test_cache_attention),
                                       cmocka_unit_test(test_losses_alone_and_fused_with_the_head),
                                       cmocka_unit_test(test_kl_and_mse)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
