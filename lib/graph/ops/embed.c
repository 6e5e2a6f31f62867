/* SPDX-License-Identifier: Apache-2.0 */
/* embed.c - rows of a table by id, rows of activations by number, and their gradients. A gradient adds rows up where
 * they came from; a piece owns a range of destinations and looks at every index in order, so the sums have one order.
 */
#include "graph/op.h"
#include <string.h>

#define OWNED 2048 /* destination rows of a piece, when they are many */

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int32_t check(ramet__graph *g, ramet__val x, ramet__val ids, const char *op) {
    if (!ramet__want(g, ramet__is_val(g, x) && ramet__graph_type(g, x) == RAMET__TYPE_F32 && shape(g, x)->rank == 2, op,
                     "needs rows of numbers"))
        return 0;
    return ramet__want(
        g, ramet__is_val(g, ids) && ramet__graph_type(g, ids) == RAMET__TYPE_I32 && ramet__gcols(shape(g, ids)) == 1,
        op, "needs one index a row");
}

ramet__val ramet__op_embed(ramet__graph *g, ramet__val table, ramet__val ids) {
    if (!check(g, table, ids, "embed")) return -1;
    ramet__val in[2] = {table, ids};
    ramet__gshape out = ramet__gshape2(shape(g, ids)->axis, ramet__grows(shape(g, ids)), ramet__gcols(shape(g, table)));
    return ramet__node_add(g, &ramet__opdef_embed, in, 2, &out, 1, NULL);
}
ramet__val ramet__op_embed_grad(ramet__graph *g, ramet__val dy, ramet__val ids, int64_t n) {
    if (!check(g, dy, ids, "embed_grad")) return -1;
    ramet__val in[3] = {dy, ids, -1};
    ramet__gshape out = ramet__gshape2(RAMET__AXIS_STATIC, n, ramet__gcols(shape(g, dy)));
    return ramet__node_add(g, &ramet__opdef_embed_grad, in, 3, &out, 1, NULL);
}
ramet__val ramet__op_gather(ramet__graph *g, ramet__val x, ramet__val index) {
    if (!check(g, x, index, "gather")) return -1;
    ramet__val in[2] = {x, index};
    ramet__gshape out = ramet__gshape2(shape(g, index)->axis, ramet__grows(shape(g, index)), ramet__gcols(shape(g, x)));
    return ramet__node_add(g, &ramet__opdef_gather, in, 2, &out, 1, NULL);
}
ramet__val ramet__op_gather_grad(ramet__graph *g, ramet__val dy, ramet__val index, const ramet__gshape *out) {
    if (!check(g, dy, index, "gather_grad")) return -1;
    ramet__val in[2] = {dy, index};
    return ramet__node_add(g, &ramet__opdef_gather_grad, in, 2, out, 1, NULL);
}

/* Rows add up where a gather would have taken them from; rows of ones count themselves. */
ramet__val ramet__op_segment_mean(ramet__graph *g, ramet__val x, ramet__val segment) {
    if (!check(g, x, segment, "segment_mean") ||
        !ramet__want(g, shape(g, x)->axis == RAMET__AXIS_ROWS && shape(g, segment)->axis == RAMET__AXIS_ROWS, "segment_mean",
                     "needs rows of the run and the segment of each"))
        return -1;
    ramet__gshape sums = ramet__gshape2(RAMET__AXIS_OUTS, g->max_outs, ramet__gcols(shape(g, x)));
    ramet__gshape counts = ramet__gshape2(RAMET__AXIS_OUTS, g->max_outs, 1);
    ramet__gshape ones = ramet__gshape2(RAMET__AXIS_ROWS, g->max_rows, 1);
    ramet__val n = ramet__op_gather_grad(g, ramet__op_fill(g, ramet__graph_const(g, 1.0f), &ones), segment, &counts);
    ramet__val inverse = ramet__op_recip(g, ramet__op_row_sum(g, n));
    return ramet__op_row_scale(g, ramet__op_gather_grad(g, x, segment, &sums), inverse);
}

static void embed_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_embed_grad(g, dout[0], n->in[1], ramet__grows(shape(g, n->in[0])));
}
static void embed_grad_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_embed(g, dout[0], n->in[1]);
}
static void gather_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    ramet__gshape s = *shape(g, n->in[0]);
    din[0] = ramet__op_gather_grad(g, dout[0], n->in[1], &s);
}
static void gather_grad_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_gather(g, dout[0], n->in[1]);
}

/* attr.i[0], set while planning: the weight's packing is made and is to be read. */
static ramet_status embed_prepare(ramet__plan *p, ramet__step *s) {
    return ramet__plan_check_ids(p, s->in[1], INT32_MIN, s->in[0]->fixed, "embed");
}
static void embed_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)x;
    (void)scratch;
    const int32_t *ids = s->in[1]->data;
    const ramet__pval *t = s->in[0];
    const ramet__product *product =
        t->leaf == RAMET__LEAF_WEIGHT && s->attr.i[0] ? ramet__weight_product(t->weight, RAMET__EXACT) : NULL;
    for (int64_t r = r0; r < r1; r++) {
        float *y = ramet__row(s->out[0], r);
        if (ids[r] < 0)
            memset(y, 0, (size_t)t->cols * sizeof *y);
        else if (product)
            product->packing->decode(y, ramet__weight_packed(t->weight), t->fixed, t->cols, ids[r]);
        else if (t->leaf == RAMET__LEAF_WEIGHT)
            ramet__weight_decode(y, t->weight, ids[r], ids[r] + 1);
        else
            memcpy(y, ramet__row(t, ids[r]), (size_t)t->cols * sizeof *y);
    }
}
static ramet_status gather_prepare(ramet__plan *p, ramet__step *s) {
    return ramet__plan_check_ids(p, s->in[1], 0, s->in[0]->axis == RAMET__AXIS_ROWS ? -1 : s->in[0]->fixed, "gather");
}
static void gather_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)x;
    (void)scratch;
    const int32_t *index = s->in[1]->data;
    for (int64_t r = r0; r < r1; r++)
        memcpy(ramet__row(s->out[0], r), ramet__row(s->in[0], index[r]), (size_t)s->out[0]->cols * sizeof(float));
}
/* Both gradients: destination rows r0..r1, indices in order; that of embed adds to a base. */
static ramet_status add_up_prepare(ramet__plan *p, ramet__step *s) {
    s->chunk = RAMET__MIN(OWNED, RAMET__MAX(32, ramet__piece_rows(s->out[0]->cols)));
    if (s->op == &ramet__opdef_embed_grad)
        return ramet__plan_check_ids(p, s->in[1], INT32_MIN, s->out[0]->fixed, "embed_grad");
    return ramet__plan_check_ids(p, s->in[1], 0, s->out[0]->axis == RAMET__AXIS_ROWS ? -1 : s->out[0]->fixed,
                                 "gather_grad");
}
static void add_up_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)scratch;
    const int32_t *index = s->in[1]->data;
    int64_t cols = s->out[0]->cols, n = ramet__count(x, s->in[1]);
    const ramet__pval *base = s->in[2];
    if (!base) memset(ramet__row(s->out[0], r0), 0, (size_t)((r1 - r0) * cols) * sizeof(float));
    else if (base->data != s->out[0]->data) memcpy(ramet__row(s->out[0], r0), ramet__row(base, r0), (size_t)((r1 - r0) * cols) * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        if (index[i] < r0 || index[i] >= r1) continue;
        float *y = ramet__row(s->out[0], index[i]);
        x->k->add(y, y, ramet__row(s->in[0], i), cols);
    }
}
const ramet__op ramet__opdef_embed = {
    .name = "embed", .encoded = 1, .gradient = embed_gradient, .prepare = embed_prepare, .rows = embed_run};
const ramet__op ramet__opdef_embed_grad = {
    .name = "embed_grad", .overwrites = {4}, .base = 2, .gradient = embed_grad_gradient, .prepare = add_up_prepare, .rows = add_up_run};
const ramet__op ramet__opdef_gather = {
    .name = "gather", .gradient = gather_gradient, .prepare = gather_prepare, .rows = gather_run};
const ramet__op ramet__opdef_gather_grad = {
    .name = "gather_grad", .gradient = gather_grad_gradient, .prepare = add_up_prepare, .rows = add_up_run};
