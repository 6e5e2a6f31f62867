/* SPDX-License-Identifier: Apache-2.0 */
/* scan.c - a linear recurrence over the rows of a sequence (Blelloch 1990), what state-space and linear-attention
 * layers and discounted returns are made of, and rows moved by one in their sequence. a[t] belongs to the edge from row
 * t-1 to row t, in both directions, so a sequence's first a is not read:
 *
 *   forward y[t] = x[t] + a[t] y[t-1]        reversed y[t] = x[t] + a[t+1] y[t+1]
 *
 * The gradient for x is the scan of dy the other way round; that for a[t] is the product of the numbers that the edge
 * joins. */
#include "graph/op.h"
#include <string.h>

#define COLS 256 /* columns of a piece */

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int32_t check(ramet__graph *g, ramet__val x, ramet__val seq, const char *op) {
    if (!ramet__want(g,
                     ramet__is_val(g, x) && ramet__graph_type(g, x) == RAMET__TYPE_F32 && ramet__is_val(g, seq) &&
                         ramet__graph_type(g, seq) == RAMET__TYPE_I32,
                     op, "needs rows and the sequence of each"))
        return 0;
    return ramet__want(g,
                       shape(g, x)->axis == RAMET__AXIS_ROWS && shape(g, seq)->axis == RAMET__AXIS_ROWS &&
                           ramet__gcols(shape(g, seq)) == 1,
                       op, "needs one sequence number a row of the run");
}
/* attr: 1 reversed, 0 forward */
ramet__val ramet__op_scan(ramet__graph *g, ramet__val a, ramet__val x, ramet__val seq, int32_t reversed) {
    if (!check(g, x, seq, "scan") || !ramet__want(g,
                                                  ramet__is_val(g, a) && ramet__graph_type(g, a) == RAMET__TYPE_F32 &&
                                                      ramet__same_shape(shape(g, a), shape(g, x)),
                                                  "scan", "coefficients have another shape than the rows"))
        return -1;
    ramet__val in[3] = {a, x, seq};
    ramet__attr attr = {.i = {reversed != 0}};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_scan, in, 3, &out, 1, &attr);
}
/* attr: 1 from the next row, 0 from the one before; zero where there is none */
ramet__val ramet__op_shift(ramet__graph *g, ramet__val x, ramet__val seq, int32_t reversed) {
    if (!check(g, x, seq, "shift")) return -1;
    ramet__val in[2] = {x, seq};
    ramet__attr attr = {.i = {reversed != 0}};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_shift, in, 2, &out, 1, &attr);
}

static void scan_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    int32_t reversed = (int32_t)n->attr.i[0];
    ramet__val seq = n->in[2], y = n->out[0], dx = ramet__op_scan(g, n->in[0], dout[0], seq, !reversed);
    din[1] = dx;
    if (ramet__needs(g, n, 0))
        din[0] = reversed ? ramet__op_mul(g, ramet__op_shift(g, dx, seq, 0), y)
                          : ramet__op_mul(g, dx, ramet__op_shift(g, y, seq, 0));
}
static void shift_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_shift(g, dout[0], n->in[1], !n->attr.i[0]);
}

static ramet_status prepare(ramet__plan *p, ramet__step *s) {
    const ramet__spans *spans = NULL;
    RAMET__TRY(ramet__plan_spans(p, s->in[s->n_in - 1], RAMET__GROUP_ROWS, &spans));
    s->extra = (void *)(uintptr_t)spans;
    return RAMET_OK;
}
static int64_t pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    (void)x;
    return phase ? -1 : ((const ramet__spans *)s->extra)->n_runs * ramet__ceil_div(s->out[0]->cols, COLS);
}
/* A piece is a block of columns of one sequence; its rows are walked in the order of the recurrence. */
static void run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    (void)x;
    (void)phase;
    (void)scratch;
    int64_t cols = s->out[0]->cols, across = ramet__ceil_div(cols, COLS), c = piece % across * COLS,
            n = RAMET__MIN(COLS, cols - c);
    const ramet__span *r = &((const ramet__spans *)s->extra)->runs[piece / across];
    int32_t reversed = (int32_t)s->attr.i[0], scan = s->op == &ramet__opdef_scan;
    for (int64_t i = 0; i < r->rows; i++) {
        int64_t t = r->row + (reversed ? r->rows - 1 - i : i), before = reversed ? t + 1 : t - 1;
        float *y = ramet__row(s->out[0], t) + c;
        if (!scan) {
            if (i)
                memcpy(y, ramet__row(s->in[0], before) + c, (size_t)n * sizeof *y);
            else
                memset(y, 0, (size_t)n * sizeof *y);
            continue;
        }
        const float *v = ramet__row(s->in[1], t) + c, *a = ramet__row(s->in[0], i && reversed ? before : t) + c;
        const float *last = i ? ramet__row(s->out[0], before) + c : NULL;
        for (int64_t j = 0; j < n; j++) y[j] = v[j] + (last ? a[j] * last[j] : 0.0f);
    }
}
const ramet__op ramet__opdef_scan = {
    .name = "scan", .overwrites = {2}, .gradient = scan_gradient, .prepare = prepare, .pieces = pieces, .run = run};
const ramet__op ramet__opdef_shift = {
    .name = "shift", .gradient = shift_gradient, .prepare = prepare, .pieces = pieces, .run = run};
