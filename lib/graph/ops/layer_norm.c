/* SPDX-License-Identifier: Apache-2.0 */
/* layer_norm.c - y = (x - mean) / sqrt(variance + eps) * w + b over each row (Ba et al. 2016), and rows over their own
 * length. The gradient is made of sums and products over rows, so it can be differentiated again. */
#include "graph/op.h"

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int32_t one_row(const ramet__graph *g, ramet__val v, ramet__val like) {
    return ramet__is_val(g, v) && shape(g, v)->axis == RAMET__AXIS_STATIC && shape(g, v)->rank == 1 &&
           shape(g, v)->dim[0] == ramet__gcols(shape(g, like));
}
ramet__val ramet__op_layer_norm(ramet__graph *g, ramet__val x, ramet__val w, ramet__val b, float eps) {
    if (!ramet__want(g, ramet__is_val(g, x) && ramet__graph_type(g, x) == RAMET__TYPE_F32, "layer_norm", "no such value") ||
        !ramet__want(g, eps >= 0, "layer_norm", "eps must not be negative") ||
        !ramet__want(g, one_row(g, w, x) && one_row(g, b, x), "layer_norm", "weight and bias must have one number a column"))
        return -1;
    ramet__val in[3] = {x, w, b};
    ramet__attr attr = {.f = {eps}};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_layer_norm, in, 3, &out, 1, &attr);
}
static ramet__val row_mean(ramet__graph *g, ramet__val x) {
    return ramet__op_scale(g, ramet__op_row_sum(g, x), 1.0f / (float)ramet__gcols(shape(g, x)));
}
static ramet__val centred(ramet__graph *g, ramet__val x) {
    return ramet__op_sub(g, x, ramet__op_row_fill(g, row_mean(g, x), ramet__gcols(shape(g, x))));
}
/* dx = r (g - mean(g) - xh mean(g xh)),  g = dy w,  xh = (x - mean) r */
static void gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    ramet__val in[3] = {n->in[0], n->in[1], n->in[2]}, c = centred(g, in[0]);
    ramet__val r = ramet__op_rsqrt(
        g, ramet__op_add(g, row_mean(g, ramet__op_mul(g, c, c)), ramet__graph_const(g, n->attr.f[0])));
    ramet__val xh = ramet__op_row_scale(g, c, r);
    if (ramet__needs(g, n, 0)) {
        ramet__val gy = ramet__op_mul(g, dout[0], in[1]);
        ramet__val along = ramet__op_row_scale(g, xh, row_mean(g, ramet__op_mul(g, gy, xh)));
        din[0] = ramet__op_row_scale(g, ramet__op_sub(g, centred(g, gy), along), r);
    }
    if (ramet__needs(g, n, 1)) din[1] = ramet__op_sum_rows(g, ramet__op_mul(g, dout[0], xh));
    if (ramet__needs(g, n, 2)) din[2] = ramet__op_sum_rows(g, dout[0]);
}
static void run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)scratch;
    for (int64_t r = r0; r < r1; r++)
        x->k->layer_norm(ramet__row(s->out[0], r), ramet__row(s->in[0], r), s->in[1]->data, s->in[2]->data, s->in[0]->cols,
                         s->attr.f[0]);
}
const ramet__op ramet__opdef_layer_norm = {
    .name = "layer_norm", .overwrites = {1}, .gradient = gradient, .rows = run};

ramet__val ramet__op_l2_normalize(ramet__graph *g, ramet__val x) {
    ramet__val square = ramet__op_row_sum(g, ramet__op_mul(g, x, x));
    return ramet__op_row_scale(g, x, ramet__op_rsqrt(g, ramet__op_add(g, square, ramet__graph_const(g, 1e-24f))));
}
