/* SPDX-License-Identifier: Apache-2.0 */
/* gelu.c - y = x Phi(x), Phi the normal distribution (Hendrycks & Gimpel 2016); its gradient; erf, of which its second
 * derivative is made. */
#include "graph/op.h"
#include <math.h>

static ramet__val unary(ramet__graph *g, const ramet__op *op, ramet__val x, ramet__val dy) {
    if (!ramet__want(g, ramet__is_val(g, x) && ramet__graph_type(g, x) == RAMET__TYPE_F32, op->name, "needs numbers"))
        return -1;
    ramet__val in[2] = {x, dy};
    ramet__gshape out = *ramet__graph_shape(g, x);
    return ramet__node_add(g, op, in, dy < 0 ? 1 : 2, &out, 1, NULL);
}
ramet__val ramet__op_gelu(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_gelu, x, -1); }
ramet__val ramet__op_erf(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_erf, x, -1); }
ramet__val ramet__op_gelu_grad(ramet__graph *g, ramet__val x, ramet__val dy) {
    if (!ramet__want(g,
                     ramet__is_val(g, x) && ramet__is_val(g, dy) &&
                         ramet__same_shape(ramet__graph_shape(g, x), ramet__graph_shape(g, dy)),
                     "gelu_grad", "shapes differ"))
        return -1;
    return unary(g, &ramet__opdef_gelu_grad, x, dy);
}
/* 1 + tanh(z) = 2 sigmoid(2 z) */
ramet__val ramet__op_gelu_tanh(ramet__graph *g, ramet__val x) {
    ramet__val cube = ramet__op_scale(g, ramet__op_mul(g, x, ramet__op_mul(g, x, x)), 0.044715f);
    return ramet__op_mul(g, x, ramet__op_sigmoid(g, ramet__op_scale(g, ramet__op_add(g, x, cube), 1.59576912f)));
}

static void gelu_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_gelu_grad(g, n->in[0], dout[0]);
}
/* exp(-s x^2) */
static ramet__val bell(ramet__graph *g, ramet__val x, float s) {
    return ramet__op_exp(g, ramet__op_scale(g, ramet__op_mul(g, x, x), -s));
}
/* dy (Phi + x phi) = dy ((1 + erf(x / sqrt 2)) / 2 + x exp(-x^2 / 2) / sqrt(2 pi)) */
static void gelu_grad_expand(ramet__graph *g, const ramet__node *n, ramet__val *out) {
    ramet__val x = n->in[0], dy = n->in[1];
    ramet__val phi = ramet__op_scale(g, ramet__op_mul(g, x, bell(g, x, 0.5f)), 0.39894228f);
    ramet__val half = ramet__op_scale(g, ramet__op_erf(g, ramet__op_scale(g, x, 0.70710678f)), 0.5f);
    out[0] = ramet__op_mul(g, dy, ramet__op_add(g, ramet__op_add(g, half, phi), ramet__graph_const(g, 0.5f)));
}
static void erf_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_scale(g, ramet__op_mul(g, dout[0], bell(g, n->in[0], 1.0f)), 1.12837917f);
}

static void gelu_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)scratch;
    x->k->gelu(ramet__row(s->out[0], r0), ramet__row(s->in[0], r0), (r1 - r0) * s->in[0]->cols);
}
static void gelu_grad_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)scratch;
    x->k->gelu_grad(ramet__row(s->out[0], r0), ramet__row(s->in[0], r0), ramet__row(s->in[1], r0),
                    (r1 - r0) * s->in[0]->cols);
}
static void erf_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)x;
    (void)scratch;
    const float *v = ramet__row(s->in[0], r0);
    float *y = ramet__row(s->out[0], r0);
    for (int64_t i = 0; i < (r1 - r0) * s->in[0]->cols; i++) y[i] = erff(v[i]);
}
const ramet__op ramet__opdef_gelu = {.name = "gelu", .overwrites = {1}, .gradient = gelu_gradient, .rows = gelu_run};
const ramet__op ramet__opdef_gelu_grad = {
    .name = "gelu_grad", .overwrites = {3}, .expand = gelu_grad_expand, .rows = gelu_grad_run};
const ramet__op ramet__opdef_erf = {.name = "erf", .overwrites = {1}, .gradient = erf_gradient, .rows = erf_run};
