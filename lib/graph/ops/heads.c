/* SPDX-License-Identifier: Apache-2.0 */
/* heads.c - products head by head between the rows of one sequence, causal or whole: what attention's second and higher
 * derivatives are made of. With row r the t-th of its sequence, key j the sequence's row j, and j <= t:
 *
 *   head_nt: s[r,h,j] = scale q[r,h] . k[j,h/g]     `hidden` where no such key exists
 *   head_nn: q[r,h]   = scale sum_j s[r,h,j] k[j,h/g]
 *   head_tn: k[j,c]   = scale sum_{r >= j, h of c} s[r,h,j] q[r,h]
 *
 * q [R, n_head*hd], k [R, n_kv*hd], g = n_head / n_kv, s [R, n_head*max_rows]; nn and tn do not read what is hidden.
 * The three are the derivatives of one trilinear form, so each one's gradient is made of the other two. */
#include "graph/op.h"

#define QUERIES 32 /* rows of a piece */

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
/* attr: n_head, n_kv, head_dim, whole; scale, hidden */
static ramet__val product(ramet__graph *g, const ramet__op *op, ramet__val a, ramet__val b, ramet__val seq,
                          const ramet__heads *h, float scale, float hidden) {
    if (!ramet__want(g,
                     ramet__is_val(g, a) && ramet__is_val(g, b) && ramet__is_val(g, seq) &&
                         ramet__graph_type(g, seq) == RAMET__TYPE_I32 && ramet__gcols(shape(g, seq)) == 1,
                     op->name, "needs two values and the sequence of each row"))
        return -1;
    if (!ramet__want(g, h->n_kv > 0 && h->dim > 0 && h->n > 0 && h->n % h->n_kv == 0, op->name,
                     "heads must be a multiple of key-value heads"))
        return -1;
    int64_t rows = ramet__grows(shape(g, seq)), q = h->n * h->dim, k = h->n_kv * h->dim, s = h->n * rows;
    int32_t nt = op == &ramet__opdef_head_nt, tn = op == &ramet__opdef_head_tn;
    ramet__gshape wa = ramet__gshape2(RAMET__AXIS_ROWS, rows, nt ? q : s),
                  wb = ramet__gshape2(RAMET__AXIS_ROWS, rows, tn ? q : k),
                  out = ramet__gshape2(RAMET__AXIS_ROWS, rows,
                                       nt   ? s
                                       : tn ? k
                                            : q);
    if (!ramet__want(g,
                     shape(g, seq)->axis == RAMET__AXIS_ROWS && ramet__same_shape(shape(g, a), &wa) &&
                         ramet__same_shape(shape(g, b), &wb),
                     op->name, "columns are not heads x head_dim or heads x rows, or rows differ"))
        return -1;
    ramet__val in[3] = {a, b, seq};
    ramet__attr attr = {.i = {h->n, h->n_kv, h->dim, h->whole}, .f = {scale, hidden}};
    return ramet__node_add(g, op, in, 3, &out, 1, &attr);
}
ramet__val ramet__op_head_nt(ramet__graph *g, ramet__val q, ramet__val k, ramet__val seq, const ramet__heads *h,
                             float scale, float hidden) {
    return product(g, &ramet__opdef_head_nt, q, k, seq, h, scale, hidden);
}
ramet__val ramet__op_head_nn(ramet__graph *g, ramet__val s, ramet__val k, ramet__val seq, const ramet__heads *h,
                             float scale) {
    return product(g, &ramet__opdef_head_nn, s, k, seq, h, scale, 0.0f);
}
ramet__val ramet__op_head_tn(ramet__graph *g, ramet__val s, ramet__val q, ramet__val seq, const ramet__heads *h,
                             float scale) {
    return product(g, &ramet__opdef_head_tn, s, q, seq, h, scale, 0.0f);
}

static ramet__heads heads_of(const ramet__node *n) { return (ramet__heads){n->attr.i[0], n->attr.i[1], n->attr.i[2], n->attr.i[3]}; }
static void nt_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    ramet__heads h = heads_of(n);
    if (ramet__needs(g, n, 0)) din[0] = ramet__op_head_nn(g, dout[0], n->in[1], n->in[2], &h, n->attr.f[0]);
    if (ramet__needs(g, n, 1)) din[1] = ramet__op_head_tn(g, dout[0], n->in[0], n->in[2], &h, n->attr.f[0]);
}
static void nn_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    ramet__heads h = heads_of(n);
    if (ramet__needs(g, n, 0)) din[0] = ramet__op_head_nt(g, dout[0], n->in[1], n->in[2], &h, n->attr.f[0], 0.0f);
    if (ramet__needs(g, n, 1)) din[1] = ramet__op_head_tn(g, n->in[0], dout[0], n->in[2], &h, n->attr.f[0]);
}
static void tn_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    ramet__heads h = heads_of(n);
    if (ramet__needs(g, n, 0)) din[0] = ramet__op_head_nt(g, n->in[1], dout[0], n->in[2], &h, n->attr.f[0], 0.0f);
    if (ramet__needs(g, n, 1)) din[1] = ramet__op_head_nn(g, n->in[0], dout[0], n->in[2], &h, n->attr.f[0]);
}

static ramet_status prepare(ramet__plan *p, ramet__step *s) {
    const ramet__spans *spans = NULL;
    RAMET__TRY(ramet__plan_spans(p, s->in[2], QUERIES, &spans));
    s->extra = (void *)(uintptr_t)spans;
    s->batch = p->workers;
    return RAMET_OK;
}
/* nt and nn: a piece is one head of a chunk of rows; tn: one key-value head of a whole run. */
static int64_t pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    const ramet__spans *spans = s->extra;
    (void)x;
    return phase ? -1 : s->op == &ramet__opdef_head_tn ? spans->n_runs * s->attr.i[1] : spans->n_chunks * s->attr.i[0];
}
static void rows_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    (void)phase;
    (void)scratch;
    int64_t n = s->attr.i[0], n_kv = s->attr.i[1], hd = s->attr.i[2], head = piece % n, kv = head / (n / n_kv) * hd;
    const ramet__spans *spans = s->extra;
    const ramet__span *c = &spans->chunks[piece / n];
    int64_t all = s->attr.i[3] ? ramet__run_rows(spans, c) : 0;
    const float *k = ramet__row(s->in[1], c->first) + kv;
    int32_t nt = s->op == &ramet__opdef_head_nt;
    int64_t keys = s->in[0]->fixed, ld = n_kv * hd; /* keys: the graph's most rows */
    for (int64_t r = c->row; r < c->row + c->rows; r++) {
        int64_t seen = all ? all : r - c->first + 1;
        if (nt) {
            float *y = ramet__row(s->out[0], r) + head * keys;
            x->k->gemm_nt(y, keys, ramet__row(s->in[0], r) + head * hd, hd, k, ld, 1, seen, hd, s->attr.f[0], 0);
            for (int64_t j = seen; j < keys; j++) y[j] = s->attr.f[1];
        } else {
            x->k->gemm_nn(ramet__row(s->out[0], r) + head * hd, hd, ramet__row(s->in[0], r) + head * keys, keys, k, ld,
                          1, hd, seen, s->attr.f[0], 0);
        }
    }
}
static void tn_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    (void)phase;
    (void)scratch;
    int64_t n = s->attr.i[0], n_kv = s->attr.i[1], hd = s->attr.i[2], group = n / n_kv, c = piece % n_kv,
            keys = s->in[0]->fixed;
    const ramet__span *run = &((const ramet__spans *)s->extra)->runs[piece / n_kv];
    for (int64_t j = 0, from = 0; j < run->rows; j++, from = s->attr.i[3] ? 0 : j)
        for (int64_t h = c * group; h < (c + 1) * group; h++)
            x->k->gemm_tn(ramet__row(s->out[0], run->row + j) + c * hd, hd,
                          ramet__row(s->in[0], run->row + from) + h * keys + j, n * keys,
                          ramet__row(s->in[1], run->row + from) + h * hd, n * hd, 1, hd, run->rows - from, s->attr.f[0],
                          h > c * group);
}
const ramet__op ramet__opdef_head_nt = {
    .name = "head_nt", .gradient = nt_gradient, .prepare = prepare, .pieces = pieces, .run = rows_run};
const ramet__op ramet__opdef_head_nn = {
    .name = "head_nn", .gradient = nn_gradient, .prepare = prepare, .pieces = pieces, .run = rows_run};
const ramet__op ramet__opdef_head_tn = {
    .name = "head_tn", .gradient = tn_gradient, .prepare = prepare, .pieces = pieces, .run = tn_run};
