/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c - sums over rows and columns, broadcasts, softmax and its relatives, and picking by an index a row: what
 * losses, norms and their second derivatives are made of. Sums have a fixed order: pieces of constant size, then the
 * pieces. */
#include "graph/op.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int32_t numbers(ramet__graph *g, ramet__val v, const char *op) {
    return ramet__want(g, ramet__is_val(g, v) && ramet__graph_type(g, v) == RAMET__TYPE_F32, op,
                       "no such value, or indices where numbers are needed");
}
static int32_t indices(ramet__graph *g, ramet__val v, const ramet__gshape *like, const char *op) {
    if (!ramet__want(g, ramet__is_val(g, v) && ramet__graph_type(g, v) == RAMET__TYPE_I32, op, "needs indices"))
        return 0;
    return ramet__want(g, shape(g, v)->axis == like->axis && ramet__grows(shape(g, v)) == ramet__grows(like), op,
                       "indices have other rows than the numbers");
}
static int32_t one_a_row(ramet__graph *g, ramet__val v, const ramet__gshape *like, const char *op) {
    ramet__gshape want = ramet__row_shape(like);
    return numbers(g, v, op) && ramet__want(g, ramet__same_shape(shape(g, v), &want), op, "needs one number a row");
}

/* ---- sum, sum_rows: partial results of constant row ranges in shared room, then one piece adds them up ---- */
#define RANGE 64 /* rows of a partial sum */
ramet__val ramet__op_sum(ramet__graph *g, ramet__val x) {
    if (!numbers(g, x, "sum")) return -1;
    if (ramet__is_scalar(shape(g, x))) return x;
    ramet__gshape out = ramet__gshape1(1);
    return ramet__node_add(g, &ramet__opdef_sum, &x, 1, &out, 1, NULL);
}
ramet__val ramet__op_sum_rows(ramet__graph *g, ramet__val x) {
    if (!numbers(g, x, "sum_rows")) return -1;
    ramet__gshape out = ramet__gshape1(ramet__gcols(shape(g, x)));
    return ramet__node_add(g, &ramet__opdef_sum_rows, &x, 1, &out, 1, NULL);
}
static void spread_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    ramet__gshape s = *shape(g, n->in[0]);
    din[0] = ramet__op_fill(g, dout[0], &s);
}
static ramet_status sum_prepare(ramet__plan *p, ramet__step *s) {
    (void)p;
    s->shared_bytes = (uint64_t)ramet__ceil_div(s->in[0]->fixed, RANGE) * (uint64_t)s->out[0]->cols * sizeof(double);
    return RAMET_OK;
}
static int64_t sum_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    return phase == 0 ? ramet__ceil_div(ramet__count(x, s->in[0]), RANGE) : phase == 1 ? 1 : -1;
}
static void sum_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    (void)scratch;
    int64_t rows = ramet__count(x, s->in[0]), cols = s->in[0]->cols, r0 = piece * RANGE,
            r1 = RAMET__MIN(rows, r0 + RANGE);
    double *part = s->shared, total = 0;
    if (phase == 0) {
        if (cols == 1)
            total = x->k->sum(ramet__row(s->in[0], r0), r1 - r0);
        else
            for (int64_t r = r0; r < r1; r++) total += x->k->sum(ramet__row(s->in[0], r), cols);
        part[piece] = total;
        return;
    }
    for (int64_t i = 0; i < ramet__ceil_div(rows, RANGE); i++) total += part[i];
    *(float *)s->out[0]->data = (float)total;
}
static void sum_rows_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    (void)scratch;
    int64_t rows = ramet__count(x, s->in[0]), cols = s->in[0]->cols;
    double *part = s->shared;
    float *y = s->out[0]->data;
    if (phase == 0) {
        double *to = part + piece * cols;
        memset(to, 0, (size_t)cols * sizeof *to);
        for (int64_t r = piece * RANGE; r < RAMET__MIN(rows, (piece + 1) * RANGE); r++) {
            const float *v = ramet__row(s->in[0], r);
            for (int64_t i = 0; i < cols; i++) to[i] += v[i];
        }
        return;
    }
    for (int64_t i = 0; i < cols; i++) {
        double total = 0;
        for (int64_t j = 0; j < ramet__ceil_div(rows, RANGE); j++) total += part[j * cols + i];
        y[i] = (float)total;
    }
}
const ramet__op ramet__opdef_sum = {
    .name = "sum", .gradient = spread_gradient, .prepare = sum_prepare, .pieces = sum_pieces, .run = sum_run};
const ramet__op ramet__opdef_sum_rows = {
    .name = "sum_rows", .gradient = spread_gradient, .prepare = sum_prepare, .pieces = sum_pieces, .run = sum_rows_run};

/* ---- one number a row or a group of columns, and back; attr: groups ---- */
ramet__val ramet__op_row_sum(ramet__graph *g, ramet__val x) {
    if (!numbers(g, x, "row_sum")) return -1;
    ramet__gshape out = ramet__row_shape(shape(g, x));
    ramet__attr attr = {.i = {1}};
    return ramet__node_add(g, &ramet__opdef_row_sum, &x, 1, &out, 1, &attr);
}
static int32_t divides(ramet__graph *g, int64_t groups, int64_t cols, const char *op) {
    return ramet__want(g, groups > 0 && cols > 0 && cols % groups == 0, op, "columns are not whole groups");
}
ramet__val ramet__op_group_sum(ramet__graph *g, ramet__val x, int64_t groups) {
    if (!numbers(g, x, "row_sum") || !divides(g, groups, ramet__gcols(shape(g, x)), "row_sum")) return -1;
    ramet__gshape out = ramet__gshape2(shape(g, x)->axis, ramet__grows(shape(g, x)), groups);
    ramet__attr attr = {.i = {groups}};
    return ramet__node_add(g, &ramet__opdef_row_sum, &x, 1, &out, 1, &attr);
}
ramet__val ramet__op_row_fill(ramet__graph *g, ramet__val v, int64_t n) {
    if (!numbers(g, v, "row_fill") || !divides(g, ramet__gcols(shape(g, v)), n, "row_fill")) return -1;
    ramet__gshape out = ramet__gshape2(shape(g, v)->axis, ramet__grows(shape(g, v)), n);
    ramet__attr attr = {.i = {ramet__gcols(shape(g, v))}};
    return ramet__node_add(g, &ramet__opdef_row_fill, &v, 1, &out, 1, &attr);
}
ramet__val ramet__op_row_scale(ramet__graph *g, ramet__val x, ramet__val v) {
    if (!numbers(g, x, "row_scale") || !one_a_row(g, v, shape(g, x), "row_scale")) return -1;
    ramet__val in[2] = {x, v};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_row_scale, in, 2, &out, 1, NULL);
}
ramet__val ramet__op_fill(ramet__graph *g, ramet__val v, const ramet__gshape *to) {
    if (!numbers(g, v, "fill")) return -1;
    if (ramet__same_shape(shape(g, v), to)) return v;
    int32_t scalar = ramet__is_scalar(shape(g, v));
    if (!ramet__want(g,
                     scalar || (shape(g, v)->rank == 1 && shape(g, v)->axis == RAMET__AXIS_STATIC &&
                                shape(g, v)->dim[0] == ramet__gcols(to)),
                     "fill", "needs one number or one row"))
        return -1;
    ramet__attr attr = {.i = {scalar}};
    return ramet__node_add(g, &ramet__opdef_fill, &v, 1, to, 1, &attr);
}
static void row_sum_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_row_fill(g, dout[0], ramet__gcols(shape(g, n->in[0])));
}
static void row_fill_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] =
        shape(g, n->in[0])->rank == 1 ? ramet__op_row_sum(g, dout[0]) : ramet__op_group_sum(g, dout[0], n->attr.i[0]);
}
static void row_scale_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_row_scale(g, dout[0], n->in[1]);
    din[1] = ramet__op_row_sum(g, ramet__op_mul(g, dout[0], n->in[0]));
}
static void fill_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    ramet__gshape s = *shape(g, n->in[0]);
    din[0] = ramet__sum_to(g, dout[0], &s);
}
#define EACH_ROW()                                                                                                     \
    (void)scratch;                                                                                                     \
    (void)x;                                                                                                           \
    for (int64_t r = r0; r < r1; r++)
static void row_sum_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    int64_t groups = s->attr.i[0], width = s->in[0]->cols / groups;
    EACH_ROW()
    for (int64_t i = 0; i < groups; i++)
        ramet__row(s->out[0], r)[i] = x->k->sum(ramet__row(s->in[0], r) + i * width, width);
}
static void row_fill_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    EACH_ROW() {
        float *y = ramet__row(s->out[0], r);
        const float *v = ramet__row(s->in[0], r);
        for (int64_t i = 0; i < s->attr.i[0]; i++)
            for (int64_t j = 0; j < s->out[0]->cols / s->attr.i[0]; j++) *y++ = v[i];
    }
}
static void row_scale_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    EACH_ROW() x->k->scale(ramet__row(s->out[0], r), *ramet__row(s->in[1], r), ramet__row(s->in[0], r), s->in[0]->cols);
}
static void fill_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    const float *v = s->in[0]->data;
    EACH_ROW() {
        float *y = ramet__row(s->out[0], r);
        for (int64_t i = 0; i < s->out[0]->cols; i++) y[i] = s->attr.i[0] ? *v : v[i];
    }
}
const ramet__op ramet__opdef_row_sum = {.name = "row_sum", .gradient = row_sum_gradient, .rows = row_sum_run};
const ramet__op ramet__opdef_row_fill = {.name = "row_fill", .gradient = row_fill_gradient, .rows = row_fill_run};
const ramet__op ramet__opdef_row_scale = {
    .name = "row_scale", .overwrites = {1}, .gradient = row_scale_gradient, .rows = row_scale_run};
const ramet__op ramet__opdef_fill = {.name = "fill", .gradient = fill_gradient, .rows = fill_run};

/* ---- softmax (attr: groups), log-sum-exp ---- */
ramet__val ramet__op_softmax(ramet__graph *g, ramet__val x, int64_t groups) {
    if (!numbers(g, x, "softmax") || !divides(g, groups, ramet__gcols(shape(g, x)), "softmax")) return -1;
    ramet__gshape out = *shape(g, x);
    ramet__attr attr = {.i = {groups}};
    return ramet__node_add(g, &ramet__opdef_softmax, &x, 1, &out, 1, &attr);
}
ramet__val ramet__op_lse(ramet__graph *g, ramet__val x) {
    if (!numbers(g, x, "lse")) return -1;
    ramet__gshape out = ramet__row_shape(shape(g, x));
    return ramet__node_add(g, &ramet__opdef_lse, &x, 1, &out, 1, NULL);
}
static void softmax_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout,
                             ramet__val *din) { /* y (dy - sum(y dy)) */
    ramet__val dy = ramet__op_mul(g, dout[0], n->out[0]);
    ramet__val sum = ramet__op_row_fill(g, ramet__op_group_sum(g, dy, n->attr.i[0]), ramet__gcols(shape(g, dy)));
    din[0] = ramet__op_sub(g, dy, ramet__op_mul(g, n->out[0], sum));
}
static void lse_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_row_scale(g, ramet__op_softmax(g, n->in[0], 1), dout[0]);
}
static void softmax_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    int64_t groups = s->attr.i[0], width = s->in[0]->cols / groups;
    EACH_ROW()
    for (int64_t i = 0; i < groups; i++)
        x->k->softmax(ramet__row(s->out[0], r) + i * width, ramet__row(s->in[0], r) + i * width, width);
}
static void lse_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    EACH_ROW() * ramet__row(s->out[0], r) = x->k->logsumexp(ramet__row(s->in[0], r), s->in[0]->cols);
}
const ramet__op ramet__opdef_softmax = {.name = "softmax", .gradient = softmax_gradient, .rows = softmax_run};
const ramet__op ramet__opdef_lse = {.name = "lse", .gradient = lse_gradient, .rows = lse_run};

/* ---- by index ---- */
ramet__val ramet__op_pick(ramet__graph *g, ramet__val x, ramet__val ids) {
    if (!numbers(g, x, "pick") || !indices(g, ids, shape(g, x), "pick")) return -1;
    ramet__val in[2] = {x, ids};
    ramet__gshape out = *shape(g, ids);
    return ramet__node_add(g, &ramet__opdef_pick, in, 2, &out, 1, NULL);
}
ramet__val ramet__op_onehot(ramet__graph *g, ramet__val v, ramet__val ids, int64_t n) {
    if (!numbers(g, v, "onehot") || !indices(g, ids, shape(g, v), "onehot") ||
        !ramet__want(g, ramet__same_shape(shape(g, v), shape(g, ids)) && n > 0, "onehot", "needs one index a number"))
        return -1;
    ramet__val in[2] = {v, ids};
    ramet__gshape out = ramet__gshape2(shape(g, v)->axis, ramet__grows(shape(g, v)), n);
    return ramet__node_add(g, &ramet__opdef_onehot, in, 2, &out, 1, NULL);
}
ramet__val ramet__op_keep(ramet__graph *g, ramet__val x, ramet__val ids) {
    if (!numbers(g, x, "keep") || !indices(g, ids, shape(g, x), "keep") ||
        !ramet__want(g, ramet__gcols(shape(g, ids)) == 1, "keep", "needs one index a row"))
        return -1;
    ramet__val in[2] = {x, ids};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_keep, in, 2, &out, 1, NULL);
}
static void pick_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_onehot(g, dout[0], n->in[1], ramet__gcols(shape(g, n->in[0])));
}
static void onehot_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_pick(g, dout[0], n->in[1]);
}
static void keep_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_keep(g, dout[0], n->in[1]);
}
static ramet_status pick_prepare(ramet__plan *p, ramet__step *s) {
    return ramet__plan_check_ids(p, s->in[1], INT32_MIN, s->in[0]->cols, "pick");
}
static ramet_status onehot_prepare(ramet__plan *p, ramet__step *s) {
    return ramet__plan_check_ids(p, s->in[1], INT32_MIN, s->out[0]->cols, "onehot");
}
static void pick_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    int64_t m = s->in[1]->cols;
    const int32_t *ids = s->in[1]->data;
    EACH_ROW()
    for (int64_t i = r * m; i < (r + 1) * m; i++)
        ((float *)s->out[0]->data)[i] = ids[i] < 0 ? 0.0f : ramet__row(s->in[0], r)[ids[i]];
}
static void onehot_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    int64_t m = s->in[1]->cols;
    const int32_t *ids = s->in[1]->data;
    EACH_ROW() {
        memset(ramet__row(s->out[0], r), 0, (size_t)s->out[0]->cols * sizeof(float));
        for (int64_t i = r * m; i < (r + 1) * m; i++)
            if (ids[i] >= 0) ramet__row(s->out[0], r)[ids[i]] += ((const float *)s->in[0]->data)[i];
    }
}
static void keep_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    const int32_t *ids = s->in[1]->data;
    size_t bytes = (size_t)s->out[0]->cols * sizeof(float);
    EACH_ROW() {
        if (ids[r] < 0)
            memset(ramet__row(s->out[0], r), 0, bytes);
        else if (s->out[0]->data != s->in[0]->data)
            memcpy(ramet__row(s->out[0], r), ramet__row(s->in[0], r), bytes);
    }
}
const ramet__op ramet__opdef_pick = {
    .name = "pick", .gradient = pick_gradient, .prepare = pick_prepare, .rows = pick_run};
const ramet__op ramet__opdef_onehot = {
    .name = "onehot", .gradient = onehot_gradient, .prepare = onehot_prepare, .rows = onehot_run};
const ramet__op ramet__opdef_keep = {.name = "keep", .overwrites = {1}, .gradient = keep_gradient, .rows = keep_run};

/* ---- losses that are made of the above ---- */
static ramet__val weighted(ramet__graph *g, ramet__val row, ramet__val weight) {
    return ramet__op_sum(g, ramet__op_mul(g, row, weight));
}
ramet__val ramet__op_mse(ramet__graph *g, ramet__val a, ramet__val b, ramet__val weight, ramet__val *row) {
    if (!numbers(g, a, "mse") || !numbers(g, b, "mse") || !one_a_row(g, weight, shape(g, a), "mse")) return -1;
    ramet__val d = ramet__op_sub(g, a, b);
    ramet__val mean =
        ramet__op_scale(g, ramet__op_row_sum(g, ramet__op_mul(g, d, d)), 1.0f / (float)ramet__gcols(shape(g, a)));
    if (row) *row = mean;
    return weighted(g, mean, weight);
}
/* sum t (log t - log q) = sum t (target - logits) - lse(target) + lse(logits) */
ramet__val ramet__op_kl(ramet__graph *g, ramet__val logits, ramet__val target, ramet__val weight, ramet__val *row) {
    if (!numbers(g, logits, "kl") || !numbers(g, target, "kl") || !one_a_row(g, weight, shape(g, logits), "kl"))
        return -1;
    ramet__val cross =
        ramet__op_row_sum(g, ramet__op_mul(g, ramet__op_softmax(g, target, 1), ramet__op_sub(g, target, logits)));
    ramet__val kl = ramet__op_add(g, cross, ramet__op_sub(g, ramet__op_lse(g, logits), ramet__op_lse(g, target)));
    if (row) *row = kl;
    return weighted(g, kl, weight);
}

/* ---- identities and edits ---- */
static ramet__val same(ramet__graph *g, const ramet__op *op, ramet__val x, const ramet__attr *attr) {
    if (!numbers(g, x, op->name)) return -1;
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, op, &x, 1, &out, 1, attr);
}
ramet__val ramet__op_stop_gradient(ramet__graph *g, ramet__val x) {
    return same(g, &ramet__opdef_stop_gradient, x, NULL);
}
ramet__val ramet__op_reverse_gradient(ramet__graph *g, ramet__val x, float strength) {
    ramet__attr attr = {.f = {strength}};
    return same(g, &ramet__opdef_reverse_gradient, x, &attr);
}
ramet__val ramet__op_tap(ramet__graph *g, ramet__val x, const char *name_format, ...) {
    char name[160];
    va_list args;
    va_start(args, name_format);
    int n = vsnprintf(name, sizeof name, name_format, args);
    va_end(args);
    if (!numbers(g, x, "tap") || !ramet__want(g, n > 0 && n < (int)sizeof name, "tap", "the name is empty or too long"))
        return -1;
    char *copy = ramet__arena_strndup(&g->names, name, (size_t)n);
    if (!copy) {
        ramet__graph_fail(g, ramet__alloc_status(), "tap: %s", ramet_last_error());
        return -1;
    }
    ramet__attr attr = {.p = copy};
    return same(g, &ramet__opdef_tap, x, &attr);
}
ramet__val ramet__op_edit(ramet__graph *g, ramet__val x, ramet__val r, ramet__val mask) {
    if (!numbers(g, x, "edit") || !numbers(g, r, "edit") ||
        !ramet__want(g, ramet__is_val(g, mask), "edit", "no such mask"))
        return -1;
    if (!ramet__want(g, ramet__same_shape(shape(g, x), shape(g, r)), "edit", "both sources must have one shape"))
        return -1;
    if (!ramet__want(g, shape(g, mask)->axis == shape(g, x)->axis && ramet__gcols(shape(g, mask)) == 1, "edit",
                     "needs one mask entry a row"))
        return -1;
    ramet__val in[3] = {x, r, mask};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_edit, in, 3, &out, 1, NULL);
}
static void pass_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    (void)g;
    (void)n;
    din[0] = dout[0];
}
static void reverse_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_scale(g, dout[0], -n->attr.f[0]);
}
static void edit_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    ramet__gshape s = *shape(g, n->in[0]);
    ramet__val zero = ramet__op_fill(g, ramet__graph_const(g, 0.0f), &s);
    din[0] = ramet__op_edit(g, dout[0], zero, n->in[2]);
    din[1] = ramet__op_edit(g, zero, dout[0], n->in[2]);
}
static void copy_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)x;
    (void)scratch;
    if (s->out[0]->data != s->in[0]->data)
        memcpy(ramet__row(s->out[0], r0), ramet__row(s->in[0], r0),
               (size_t)((r1 - r0) * s->out[0]->cols) * sizeof(float));
}
static void edit_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    const int32_t *mi = s->in[2]->data;
    const float *mf = s->in[2]->data;
    EACH_ROW() {
        const ramet__pval *from =
            (s->in[2]->type == RAMET__TYPE_I32 ? mi[r] != 0 : mf[r] != 0.0f) ? s->in[1] : s->in[0];
        if (from->data != s->out[0]->data)
            memcpy(ramet__row(s->out[0], r), ramet__row(from, r), (size_t)s->out[0]->cols * sizeof(float));
    }
}
const ramet__op ramet__opdef_stop_gradient = {
    .name = "stop_gradient", .overwrites = {1}, .gradient = pass_gradient, .rows = copy_run};
const ramet__op ramet__opdef_reverse_gradient = {
    .name = "reverse_gradient", .overwrites = {1}, .gradient = reverse_gradient, .rows = copy_run};
const ramet__op ramet__opdef_tap = {
    .name = "tap", .once = 1, .gradient = pass_gradient, .rows = copy_run}; /* run.c calls the host */
const ramet__op ramet__opdef_version = {.name = "version", .overwrites = {1}, .rows = copy_run};
const ramet__op ramet__opdef_edit = {.name = "edit", .overwrites = {3}, .gradient = edit_gradient, .rows = edit_run};
