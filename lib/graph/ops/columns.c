/* SPDX-License-Identifier: Apache-2.0 */
/* columns.c - parts of rows and their transposes (slice and place, fold and repeat), means over the rows of a run, dropout. All are linear in
 * their first input. */
#include "graph/op.h"
#include "base/rng.h"
#include <string.h>

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int32_t numbers(ramet__graph *g, ramet__val v, const char *op) {
    return ramet__want(g, ramet__is_val(g, v) && ramet__graph_type(g, v) == RAMET__TYPE_F32, op, "no such value, or indices where numbers are needed");
}
/* The same rows with other columns; one row [n] stays one row. */
static ramet__gshape with_columns(const ramet__gshape *s, int64_t n) {
    return s->rank == 1 && s->axis == RAMET__AXIS_STATIC ? ramet__gshape1(n) : ramet__gshape2(s->axis, ramet__grows(s), n);
}
static ramet__val one(ramet__graph *g, const ramet__op *op, ramet__val x, int64_t n, int64_t at) {
    ramet__gshape out = with_columns(shape(g, x), n);
    ramet__attr attr = {.i = {at}};
    return ramet__node_add(g, op, &x, 1, &out, 1, &attr);
}
ramet__val ramet__op_slice(ramet__graph *g, ramet__val x, int64_t at, int64_t count) {
    if (!numbers(g, x, "slice") || !ramet__want(g, at >= 0 && count > 0 && at <= ramet__gcols(shape(g, x)) - count, "slice",
                                                "columns %lld to %lld are not among the %lld that there are", (long long)at,
                                                (long long)(at + count - 1), (long long)ramet__gcols(shape(g, x))))
        return -1;
    return one(g, &ramet__opdef_slice, x, count, at);
}
ramet__val ramet__op_place(ramet__graph *g, ramet__val x, int64_t at, int64_t columns) {
    if (!numbers(g, x, "place") ||
        !ramet__want(g, at >= 0 && at <= columns - ramet__gcols(shape(g, x)), "place", "the columns do not fit into %lld", (long long)columns))
        return -1;
    return one(g, &ramet__opdef_place, x, columns, at);
}
static ramet__val whole(ramet__graph *g, const ramet__op *op, ramet__val x, int64_t n, int32_t up) {
    if (!numbers(g, x, op->name)) return -1;
    int64_t cols = ramet__gcols(shape(g, x));
    if (!ramet__want(g, n > 0 && (up ? n % cols : cols % n) == 0, op->name, "%lld columns are no multiple", (long long)(up ? n : cols))) return -1;
    return n == cols ? x : one(g, op, x, n, 0);
}
ramet__val ramet__op_fold(ramet__graph *g, ramet__val x, int64_t columns) { return whole(g, &ramet__opdef_fold, x, columns, 0); }
ramet__val ramet__op_repeat(ramet__graph *g, ramet__val x, int64_t columns) { return whole(g, &ramet__opdef_repeat, x, columns, 1); }
ramet__val ramet__op_over_rows(ramet__graph *g, ramet__val x, ramet__val like) {
    if (!numbers(g, x, "over_rows") || !ramet__want(g, ramet__is_val(g, like), "over_rows", "no such value")) return -1;
    ramet__val in[2] = {x, like};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_over_rows, in, 2, &out, 1, NULL);
}
ramet__val ramet__op_dropout(ramet__graph *g, ramet__val x, ramet__val step, double rate, int64_t seed) {
    if (!numbers(g, x, "dropout") || !ramet__want(g, rate >= 0 && rate < 1, "dropout", "the rate must be at least 0 and below 1") ||
        !ramet__want(g, ramet__is_val(g, step) && ramet__graph_type(g, step) == RAMET__TYPE_I32 && ramet__is_scalar(shape(g, step)), "dropout",
                     "needs the step's number, an input of indices [1]"))
        return -1;
    ramet__val in[2] = {x, step};
    ramet__attr attr = {.i = {seed}, .f = {(float)rate}};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_dropout, in, 2, &out, 1, &attr);
}

static int64_t in_cols(const ramet__graph *g, const ramet__node *n) { return ramet__gcols(shape(g, n->in[0])); }
static void slice_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_place(g, dout[0], n->attr.i[0], in_cols(g, n));
}
static void place_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_slice(g, dout[0], n->attr.i[0], in_cols(g, n));
}
static void fold_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_repeat(g, dout[0], in_cols(g, n));
}
static void repeat_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_fold(g, dout[0], in_cols(g, n));
}
static void over_rows_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_over_rows(g, dout[0], n->in[1]);
}
static void dropout_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) { /* the same mask */
    din[0] = ramet__op_dropout(g, dout[0], n->in[1], n->attr.f[0], n->attr.i[0]);
}

#define ROWS(name)                                                                                                                          \
    static void name(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch)
#define EACH_ROW                                                                                                                            \
    (void)scratch;                                                                                                                          \
    (void)x;                                                                                                                                \
    int64_t n = s->in[0]->cols, m = s->out[0]->cols;                                                                                        \
    const float *v = ramet__row(s->in[0], r0);                                                                                              \
    float *y = ramet__row(s->out[0], r0);                                                                                                   \
    for (int64_t r = r0; r < r1; r++, v += n, y += m)
ROWS(slice_run) { EACH_ROW memcpy(y, v + s->attr.i[0], (size_t)m * sizeof *y); }
ROWS(place_run) {
    EACH_ROW {
        memset(y, 0, (size_t)m * sizeof *y);
        memcpy(y + s->attr.i[0], v, (size_t)n * sizeof *y);
    }
}
static ramet_status fold_prepare(ramet__plan *p, ramet__step *s) {
    (void)p;
    s->scratch_bytes = (uint64_t)(s->in[0]->cols / 2) * sizeof(float);
    return RAMET_OK;
}
ROWS(fold_run) { /* halves are added while there are two: long vectors, and no sum waits for the last */
    float *half = scratch;
    EACH_ROW {
        int64_t parts = n / m;
        const float *from = v;
        for (; parts % 2 == 0 && parts > 2; parts /= 2, from = half) x->k->add(half, from, from + parts / 2 * m, parts / 2 * m);
        memcpy(y, from, (size_t)m * sizeof *y);
        for (int64_t i = 1; i < parts; i++) x->k->add(y, y, from + i * m, m);
    }
}
ROWS(repeat_run) { EACH_ROW for (int64_t i = 0; i < m; i += n) memcpy(y + i, v, (size_t)n * sizeof *y); }
ROWS(over_rows_run) { EACH_ROW x->k->scale(y, 1.0f / (float)RAMET__MAX(1, ramet__count(x, s->in[1])), v, n); }
ROWS(dropout_run) {
    uint64_t seed = (uint64_t)s->attr.i[0], stream = (uint64_t)(uint32_t)*(const int32_t *)s->in[1]->data;
    float keep = 1.0f / (1.0f - s->attr.f[0]);
    uint32_t limit = (uint32_t)((double)s->attr.f[0] * 4294967296.0), draw[4];
    EACH_ROW for (int64_t i = 0; i < n; i++) {
        if (i % 4 == 0) ramet__rng_block(draw, seed, stream, (uint64_t)(r * ((n + 3) / 4) + i / 4));
        y[i] = draw[i % 4] < limit ? 0.0f : v[i] * keep;
    }
}
const ramet__op ramet__opdef_slice = {.name = "slice", .gradient = slice_gradient, .rows = slice_run};
const ramet__op ramet__opdef_place = {.name = "place", .gradient = place_gradient, .rows = place_run};
const ramet__op ramet__opdef_fold = {.name = "fold", .gradient = fold_gradient, .prepare = fold_prepare, .rows = fold_run};
const ramet__op ramet__opdef_repeat = {.name = "repeat", .gradient = repeat_gradient, .rows = repeat_run};
const ramet__op ramet__opdef_over_rows = {.name = "over_rows", .overwrites = {1}, .gradient = over_rows_gradient, .rows = over_rows_run};
const ramet__op ramet__opdef_dropout = {.name = "dropout", .overwrites = {1}, .gradient = dropout_gradient, .rows = dropout_run};
