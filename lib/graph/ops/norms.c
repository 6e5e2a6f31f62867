/* SPDX-License-Identifier: Apache-2.0 */
/* norms.c - y = x / rms(x) * w (Zhang & Sennrich 2019), y = (x - mean) / sqrt(variance + eps) * w + b (Ba et al. 2016), their gradients for x and for w; rows
 * over their own length. */
#include "graph/op.h"
#include <string.h>
#include <math.h>

#define RANGE 64 /* rows of a partial dw */

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int32_t check(ramet__graph *g, ramet__val x, ramet__val w, ramet__val dy, float eps, const char *op) {
    if (!ramet__want(g, ramet__is_val(g, x) && ramet__graph_type(g, x) == RAMET__TYPE_F32, op, "no such value"))
        return 0;
    if (!ramet__want(g, eps >= 0, op, "eps must not be negative")) return 0;
    if (w != -2 && !ramet__want(g,
                                ramet__is_val(g, w) && shape(g, w)->axis == RAMET__AXIS_STATIC &&
                                    shape(g, w)->rank == 1 && shape(g, w)->dim[0] == ramet__gcols(shape(g, x)),
                                op, "the weight must have one number a column"))
        return 0;
    return dy == -2 || ramet__want(g, ramet__is_val(g, dy) && ramet__same_shape(shape(g, x), shape(g, dy)), op,
                                   "the gradient has another shape than x");
}
ramet__val ramet__op_rms_norm(ramet__graph *g, ramet__val x, ramet__val w, float eps) {
    if (!check(g, x, w, -2, eps, "rms_norm")) return -1;
    ramet__val in[2] = {x, w};
    ramet__attr attr = {.f = {eps}};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_rms_norm, in, 2, &out, 1, &attr);
}
/* in[3]: what the result is added to, set by fusion */
static ramet__val dx(ramet__graph *g, const ramet__op *op, ramet__val x, ramet__val w, ramet__val dy, float eps) {
    if (!check(g, x, w, dy, eps, op->name)) return -1;
    ramet__val in[4] = {x, w, dy, -1};
    ramet__attr attr = {.f = {eps}};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, op, in, 4, &out, 1, &attr);
}
ramet__val ramet__op_rms_norm_grad(ramet__graph *g, ramet__val x, ramet__val w, ramet__val dy, float eps) { return dx(g, &ramet__opdef_rms_norm_grad, x, w, dy, eps); }
static ramet__val dw(ramet__graph *g, const ramet__op *op, ramet__val x, ramet__val dy, float eps) {
    if (!check(g, x, -2, dy, eps, op->name)) return -1;
    ramet__val in[2] = {x, dy};
    ramet__attr attr = {.f = {eps}};
    ramet__gshape out = ramet__gshape1(ramet__gcols(shape(g, x)));
    return ramet__node_add(g, op, in, 2, &out, 1, &attr);
}
ramet__val ramet__op_rms_norm_dw(ramet__graph *g, ramet__val x, ramet__val dy, float eps) { return dw(g, &ramet__opdef_rms_norm_dw, x, dy, eps); }
ramet__val ramet__op_layer_norm(ramet__graph *g, ramet__val x, ramet__val w, ramet__val b, float eps) {
    if (!check(g, x, w, -2, eps, "layer_norm") || !check(g, x, b, -2, eps, "layer_norm")) return -1;
    ramet__val in[3] = {x, w, b};
    ramet__attr attr = {.f = {eps}};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_layer_norm, in, 3, &out, 1, &attr);
}

static void rms_norm_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_rms_norm_grad(g, n->in[0], n->in[1], dout[0], n->attr.f[0]);
    if (ramet__needs(g, n, 1))
        din[1] = ramet__op_rms_norm_dw(g, n->in[0], dout[0], n->attr.f[0]);
}
static void layer_norm_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = dx(g, &ramet__opdef_layer_norm_grad, n->in[0], n->in[1], dout[0], n->attr.f[0]);
    if (ramet__needs(g, n, 1)) din[1] = dw(g, &ramet__opdef_layer_norm_dw, n->in[0], dout[0], n->attr.f[0]);
    if (ramet__needs(g, n, 2)) din[2] = ramet__op_sum_rows(g, dout[0]);
}
static ramet__val row_mean(ramet__graph *g, ramet__val x) {
    return ramet__op_scale(g, ramet__op_row_sum(g, x), 1.0f / (float)ramet__gcols(shape(g, x)));
}
static ramet__val centred(ramet__graph *g, ramet__val x) {
    return ramet__op_sub(g, x, ramet__op_row_fill(g, row_mean(g, x), ramet__gcols(shape(g, x))));
}
/* r = 1 / sqrt(mean x^2 + eps) for each row */
static ramet__val inverse(ramet__graph *g, ramet__val x, float eps) {
    return ramet__op_rsqrt(g, ramet__op_add(g, row_mean(g, ramet__op_mul(g, x, x)), ramet__graph_const(g, eps)));
}
/* dx = r (g - xh mean(g xh)),  g = dy w,  xh = x r; of layer_norm with x and g centred */
static void grad_expand(ramet__graph *g, const ramet__node *n, ramet__val *out) {
    const int32_t centre = n->op == &ramet__opdef_layer_norm_grad;
    ramet__val x = centre ? centred(g, n->in[0]) : n->in[0], r = inverse(g, x, n->attr.f[0]), xh = ramet__op_row_scale(g, x, r), gy = ramet__op_mul(g, n->in[2], n->in[1]);
    ramet__val along = ramet__op_row_scale(g, xh, row_mean(g, ramet__op_mul(g, gy, xh)));
    out[0] = ramet__op_row_scale(g, ramet__op_sub(g, centre ? centred(g, gy) : gy, along), r);
}
static void dw_expand(ramet__graph *g, const ramet__node *n, ramet__val *out) {
    ramet__val x = n->op == &ramet__opdef_layer_norm_dw ? centred(g, n->in[0]) : n->in[0];
    out[0] = ramet__op_sum_rows(g, ramet__op_mul(g, n->in[1], ramet__op_row_scale(g, x, inverse(g, x, n->attr.f[0]))));
}

static void norm_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    const int32_t narrow = ramet__narrow(x, s->out[0]);
    for (int64_t r = r0; r < r1; r++) {
        x->k->rms_norm(narrow ? scratch : ramet__row(s->out[0], r), ramet__row(s->in[0], r), s->in[1]->data, s->in[0]->cols, s->attr.f[0]);
        if (narrow) x->plan->plain->scheme->round((uint16_t *)(void *)ramet__row(s->out[0], r), scratch, s->in[0]->cols);
    }
}
static void layer_norm_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)scratch;
    for (int64_t r = r0; r < r1; r++)
        x->k->layer_norm(ramet__row(s->out[0], r), ramet__row(s->in[0], r), s->in[1]->data, s->in[2]->data, s->in[0]->cols, s->attr.f[0]);
}
/* c = v - mean of v; answers 1 / sqrt(mean c^2 + eps) */
static float centre(const ramet__kernels *k, float *c, const float *v, int64_t n, float eps) {
    const float mean = k->sum(v, n) / (float)n;
    for (int64_t i = 0; i < n; i++) c[i] = v[i] - mean;
    return (float)(1.0 / sqrt(k->sumsq(c, n) / (double)n + (double)eps));
}
static ramet_status grad_prepare(ramet__plan *p, ramet__step *s) {
    (void)p;
    s->scratch_bytes = 2 * (uint64_t)s->in[0]->cols * sizeof(float);
    return RAMET_OK;
}
static void grad_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    int64_t n = s->in[0]->cols;
    for (int64_t r = r0; r < r1; r++) {
        float *dx = scratch, *c = dx + n, *y = ramet__row(s->out[0], r); /* out may be dy or x: their row is read whole first */
        const float *v = ramet__row(s->in[0], r), *dy = ramet__row(s->in[2], r), *w = s->in[1]->data;
        if (s->op == &ramet__opdef_rms_norm_grad)
            x->k->rms_norm_grad(dx, NULL, v, w, dy, n, s->attr.f[0]);
        else {
            const float inv = centre(x->k, c, v, n, s->attr.f[0]);
            x->k->mul(dx, dy, w, n);
            const float mean = x->k->sum(dx, n) / (float)n, along = x->k->dot(dx, c, n) / (float)n * inv * inv;
            for (int64_t i = 0; i < n; i++) dx[i] = inv * (dx[i] - mean - along * c[i]);
        }
        if (s->in[3])
            x->k->add(y, ramet__row(s->in[3], r), dx, n);
        else
            memcpy(y, dx, (size_t)n * sizeof *y);
    }
}
static ramet_status dw_prepare(ramet__plan *p, ramet__step *s) {
    (void)p;
    s->scratch_bytes = (uint64_t)s->in[0]->cols * sizeof(float);
    s->shared_bytes = (uint64_t)ramet__ceil_div(s->in[0]->fixed, RANGE) * (uint64_t)s->in[0]->cols * sizeof(float);
    return RAMET_OK;
}
static int64_t dw_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    return phase == 0 ? ramet__ceil_div(ramet__count(x, s->in[0]), RANGE) : phase == 1 ? 1 : -1;
}
static void dw_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    int64_t rows = ramet__count(x, s->in[0]), n = s->in[0]->cols;
    float *part = s->shared, *c = scratch, *dw = s->out[0]->data;
    if (phase == 0) {
        float *to = part + piece * n;
        memset(to, 0, (size_t)n * sizeof *to);
        for (int64_t r = piece * RANGE; r < RAMET__MIN(rows, (piece + 1) * RANGE); r++) {
            const float *v = ramet__row(s->in[0], r), *dy = ramet__row(s->in[1], r);
            float inv;
            if (s->op == &ramet__opdef_layer_norm_dw) inv = centre(x->k, c, v, n, s->attr.f[0]), v = c;
            else inv = (float)(1.0 / sqrt(x->k->sumsq(v, n) / (double)n + (double)s->attr.f[0]));
            for (int64_t i = 0; i < n; i++) to[i] += dy[i] * v[i] * inv;
        }
        return;
    }
    memset(dw, 0, (size_t)n * sizeof *dw);
    for (int64_t j = 0; j < ramet__ceil_div(rows, RANGE); j++) x->k->add(dw, dw, part + j * n, n);
}
const ramet__op ramet__opdef_rms_norm = {
    .name = "rms_norm", .narrow = 1, .overwrites = {1}, .gradient = rms_norm_gradient, .rows = norm_run};
const ramet__op ramet__opdef_rms_norm_grad = {.name = "rms_norm_grad",
                                              .overwrites = {1 | 4 | 8},
                                              .base = 3,
                                              .expand = grad_expand,
                                              .prepare = grad_prepare,
                                              .rows = grad_run};
const ramet__op ramet__opdef_rms_norm_dw = {
    .name = "rms_norm_dw", .expand = dw_expand, .prepare = dw_prepare, .pieces = dw_pieces, .run = dw_run};
const ramet__op ramet__opdef_layer_norm = {.name = "layer_norm", .overwrites = {1}, .gradient = layer_norm_gradient, .rows = layer_norm_run};
const ramet__op ramet__opdef_layer_norm_grad = {
    .name = "layer_norm_grad", .overwrites = {1 | 4 | 8}, .base = 3, .expand = grad_expand, .prepare = grad_prepare, .rows = grad_run};
const ramet__op ramet__opdef_layer_norm_dw = {.name = "layer_norm_dw", .expand = dw_expand, .prepare = dw_prepare, .pieces = dw_pieces, .run = dw_run};

ramet__val ramet__op_l2_normalize(ramet__graph *g, ramet__val x) {
    ramet__val square = ramet__op_row_sum(g, ramet__op_mul(g, x, x));
    return ramet__op_row_scale(g, x, ramet__op_rsqrt(g, ramet__op_add(g, square, ramet__graph_const(g, 1e-24f))));
}
