/* SPDX-License-Identifier: Apache-2.0 */
/* rms_norm.c - y = x / rms(x) * w (Zhang & Sennrich 2019), its gradients for x and for w. */
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
ramet__val ramet__op_rms_norm_grad(ramet__graph *g, ramet__val x, ramet__val w, ramet__val dy, float eps) {
    if (!check(g, x, w, dy, eps, "rms_norm_grad")) return -1;
    ramet__val in[4] = {x, w, dy, -1};
    ramet__attr attr = {.f = {eps}};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_rms_norm_grad, in, 4, &out, 1, &attr);
}
ramet__val ramet__op_rms_norm_dw(ramet__graph *g, ramet__val x, ramet__val dy, float eps) {
    if (!check(g, x, -2, dy, eps, "rms_norm_dw")) return -1;
    ramet__val in[2] = {x, dy};
    ramet__attr attr = {.f = {eps}};
    ramet__gshape out = ramet__gshape1(ramet__gcols(shape(g, x)));
    return ramet__node_add(g, &ramet__opdef_rms_norm_dw, in, 2, &out, 1, &attr);
}

static void rms_norm_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_rms_norm_grad(g, n->in[0], n->in[1], dout[0], n->attr.f[0]);
    if (ramet__needs(g, n, 1))
        din[1] = ramet__op_rms_norm_dw(g, n->in[0], dout[0], n->attr.f[0]);
}
/* r = 1 / sqrt(mean x^2 + eps) for each row */
static ramet__val inverse(ramet__graph *g, ramet__val x, float eps) {
    ramet__val mean =
        ramet__op_scale(g, ramet__op_row_sum(g, ramet__op_mul(g, x, x)), 1.0f / (float)ramet__gcols(shape(g, x)));
    return ramet__op_rsqrt(g, ramet__op_add(g, mean, ramet__graph_const(g, eps)));
}
/* dx = r (g - xh mean(g xh)),  g = dy w,  xh = x r */
static void grad_expand(ramet__graph *g, const ramet__node *n, ramet__val *out) {
    ramet__val x = n->in[0], r = inverse(g, x, n->attr.f[0]);
    ramet__val xh = ramet__op_row_scale(g, x, r), gy = ramet__op_mul(g, n->in[2], n->in[1]);
    ramet__val mean =
        ramet__op_scale(g, ramet__op_row_sum(g, ramet__op_mul(g, gy, xh)), 1.0f / (float)ramet__gcols(shape(g, x)));
    out[0] = ramet__op_row_scale(g, ramet__op_sub(g, gy, ramet__op_row_scale(g, xh, mean)), r);
}
static void dw_expand(ramet__graph *g, const ramet__node *n, ramet__val *out) {
    ramet__val xh = ramet__op_row_scale(g, n->in[0], inverse(g, n->in[0], n->attr.f[0]));
    out[0] = ramet__op_sum_rows(g, ramet__op_mul(g, n->in[1], xh));
}

static void norm_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    const int32_t narrow = ramet__narrow(x, s->out[0]);
    for (int64_t r = r0; r < r1; r++) {
        x->k->rms_norm(narrow ? scratch : ramet__row(s->out[0], r), ramet__row(s->in[0], r), s->in[1]->data, s->in[0]->cols, s->attr.f[0]);
        if (narrow) x->plan->plain->scheme->round((uint16_t *)(void *)ramet__row(s->out[0], r), scratch, s->in[0]->cols);
    }
}
static ramet_status grad_prepare(ramet__plan *p, ramet__step *s) {
    (void)p;
    s->scratch_bytes = (uint64_t)s->in[0]->cols * sizeof(float);
    return RAMET_OK;
}
static void grad_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    int64_t n = s->in[0]->cols;
    for (int64_t r = r0; r < r1; r++) {
        float *dx = scratch, *y = ramet__row(s->out[0], r); /* out may be dy or x: their row is read whole first */
        x->k->rms_norm_grad(dx, NULL, ramet__row(s->in[0], r), s->in[1]->data, ramet__row(s->in[2], r), n,
                            s->attr.f[0]);
        if (s->in[3])
            x->k->add(y, ramet__row(s->in[3], r), dx, n);
        else
            memcpy(y, dx, (size_t)n * sizeof *y);
    }
}
static ramet_status dw_prepare(ramet__plan *p, ramet__step *s) {
    (void)p;
    s->shared_bytes = (uint64_t)ramet__ceil_div(s->in[0]->fixed, RANGE) * (uint64_t)s->in[0]->cols * sizeof(float);
    return RAMET_OK;
}
static int64_t dw_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    return phase == 0 ? ramet__ceil_div(ramet__count(x, s->in[0]), RANGE) : phase == 1 ? 1 : -1;
}
static void dw_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    (void)scratch;
    int64_t rows = ramet__count(x, s->in[0]), n = s->in[0]->cols;
    float *part = s->shared, *dw = s->out[0]->data;
    if (phase == 0) {
        float *to = part + piece * n;
        memset(to, 0, (size_t)n * sizeof *to);
        for (int64_t r = piece * RANGE; r < RAMET__MIN(rows, (piece + 1) * RANGE); r++) {
            const float *v = ramet__row(s->in[0], r), *dy = ramet__row(s->in[1], r);
            float inv = (float)(1.0 / sqrt(x->k->sumsq(v, n) / (double)n + (double)s->attr.f[0]));
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
