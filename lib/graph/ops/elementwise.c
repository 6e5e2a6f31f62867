/* SPDX-License-Identifier: Apache-2.0 */
/* elementwise.c - operations whose every element depends on the same element of their inputs, with rows or single
 * numbers broadcast. swiglu and swiglu_grad are made by fusion only. */
#include "graph/op.h"
#include <math.h>
#include <string.h>

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int32_t numbers(ramet__graph *g, ramet__val v, const char *op) {
    if (!ramet__want(g, ramet__is_val(g, v), op, "no such value")) return 0;
    return ramet__want(g, ramet__graph_type(g, v) == RAMET__TYPE_F32, op, "needs numbers, not indices");
}

/* ---- two inputs ---- */
enum { SAME, SCALAR, ROW, NO_BROADCAST };
static int64_t broadcast(const ramet__gshape *a, const ramet__gshape *b) {
    if (ramet__same_shape(a, b)) return SAME;
    if (ramet__is_scalar(b)) return SCALAR;
    if (b->rank == 1 && b->axis == RAMET__AXIS_STATIC && b->dim[0] == ramet__gcols(a)) return ROW;
    return NO_BROADCAST;
}

static ramet__val binary(ramet__graph *g, const ramet__op *op, ramet__val a, ramet__val b) {
    if (!numbers(g, a, op->name) || !numbers(g, b, op->name)) return -1;
    ramet__attr attr = {.i = {broadcast(shape(g, a), shape(g, b))}};
    if (attr.i[0] == NO_BROADCAST && op != &ramet__opdef_sub && broadcast(shape(g, b), shape(g, a)) != NO_BROADCAST) {
        ramet__val t = a;
        a = b;
        b = t;
        attr.i[0] = broadcast(shape(g, a), shape(g, b));
    }
    char ta[96], tb[96];
    ramet__gshape_text(ta, shape(g, a));
    ramet__gshape_text(tb, shape(g, b));
    if (!ramet__want(g, attr.i[0] != NO_BROADCAST, op->name, "shapes %s and %s do not go together", ta, tb)) return -1;
    ramet__val in[2] = {a, b};
    ramet__gshape out = *shape(g, a);
    return ramet__node_add(g, op, in, 2, &out, 1, &attr);
}

ramet__val ramet__sum_to(ramet__graph *g, ramet__val v, const ramet__gshape *want) {
    if (v < 0 || ramet__same_shape(shape(g, v), want)) return v;
    return ramet__is_scalar(want) ? ramet__op_sum(g, v) : ramet__op_sum_rows(g, v);
}

/* What `v` repeats, when it is one number repeated; else v. Keeps the seed of a gradient from being spread out. */
static ramet__val unfilled(const ramet__graph *g, ramet__val v) {
    const ramet__node *n = ramet__producer(g, v);
    return n && n->op == &ramet__opdef_fill && ramet__is_scalar(shape(g, n->in[0])) ? n->in[0] : v;
}
static int32_t is_one(const ramet__graph *g, ramet__val v) {
    return ramet__is_val(g, v) && g->values[v].leaf == RAMET__LEAF_CONST && g->values[v].number == 1.0f;
}

ramet__val ramet__op_add(ramet__graph *g, ramet__val a, ramet__val b) { return binary(g, &ramet__opdef_add, a, b); }
ramet__val ramet__op_sub(ramet__graph *g, ramet__val a, ramet__val b) { return binary(g, &ramet__opdef_sub, a, b); }
ramet__val ramet__op_mul(ramet__graph *g, ramet__val a, ramet__val b) {
    if (ramet__is_val(g, a) && ramet__is_val(g, b) && ramet__same_shape(shape(g, a), shape(g, b))) {
        if (unfilled(g, b) != b)
            b = unfilled(g, b);
        else if (unfilled(g, a) != a) {
            ramet__val t = unfilled(g, a);
            a = b;
            b = t;
        }
        if (is_one(g, b)) return a;
    }
    return binary(g, &ramet__opdef_mul, a, b);
}

static void add_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = dout[0];
    din[1] = ramet__sum_to(g, dout[0], shape(g, n->in[1]));
}
static void sub_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = dout[0];
    din[1] = ramet__op_scale(g, ramet__sum_to(g, dout[0], shape(g, n->in[1])), -1.0f);
}
static void mul_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    ramet__gshape b = *shape(g, n->in[1]);
    din[0] = ramet__op_mul(g, dout[0], n->in[1]);
    din[1] = ramet__sum_to(g, ramet__op_mul(g, dout[0], n->in[0]), &b);
}

typedef void (*pair_fn)(const ramet__kernels *k, float *y, const float *a, const float *b, int64_t n);
static void add_n(const ramet__kernels *k, float *y, const float *a, const float *b, int64_t n) { k->add(y, a, b, n); }
static void mul_n(const ramet__kernels *k, float *y, const float *a, const float *b, int64_t n) { k->mul(y, a, b, n); }
static void sub_n(const ramet__kernels *k, float *y, const float *a, const float *b, int64_t n) {
    (void)k;
    for (int64_t i = 0; i < n; i++) y[i] = a[i] - b[i];
}
static void pair_rows(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, pair_fn fn) {
    int64_t cols = s->in[0]->cols;
    const float *b = s->in[1]->data;
    if (s->attr.i[0] == SAME)
        fn(x->k, ramet__row(s->out[0], r0), ramet__row(s->in[0], r0), ramet__row(s->in[1], r0), (r1 - r0) * cols);
    else
        for (int64_t r = r0; r < r1; r++) {
            float *y = ramet__row(s->out[0], r);
            const float *a = ramet__row(s->in[0], r);
            if (s->attr.i[0] == ROW)
                fn(x->k, y, a, b, cols);
            else if (fn == mul_n)
                for (int64_t i = 0; i < cols; i++) y[i] = a[i] * *b;
            else
                for (int64_t i = 0; i < cols; i++) y[i] = fn == add_n ? a[i] + *b : a[i] - *b;
        }
}
static void add_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)scratch;
    pair_rows(s, x, r0, r1, add_n);
}
static void sub_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)scratch;
    pair_rows(s, x, r0, r1, sub_n);
}
static void mul_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)scratch;
    pair_rows(s, x, r0, r1, mul_n);
}
const ramet__op ramet__opdef_add = {.name = "add", .overwrites = {3}, .gradient = add_gradient, .rows = add_run};
const ramet__op ramet__opdef_sub = {.name = "sub", .overwrites = {3}, .gradient = sub_gradient, .rows = sub_run};
const ramet__op ramet__opdef_mul = {.name = "mul", .overwrites = {3}, .gradient = mul_gradient, .rows = mul_run};

/* ---- one input ---- */
static ramet__val unary(ramet__graph *g, const ramet__op *op, ramet__val x, const ramet__attr *attr) {
    if (!numbers(g, x, op->name)) return -1;
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, op, &x, 1, &out, 1, attr);
}
ramet__val ramet__op_scale(ramet__graph *g, ramet__val a, float s) {
    ramet__attr attr = {.f = {s}};
    return s == 1.0f && ramet__is_val(g, a) ? a : unary(g, &ramet__opdef_scale, a, &attr);
}
ramet__val ramet__op_silu(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_silu, x, NULL); }
ramet__val ramet__op_sigmoid(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_sigmoid, x, NULL); }
ramet__val ramet__op_exp(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_exp, x, NULL); }
ramet__val ramet__op_log(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_log, x, NULL); }
ramet__val ramet__op_recip(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_recip, x, NULL); }
ramet__val ramet__op_rsqrt(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_rsqrt, x, NULL); }
ramet__val ramet__op_step(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_step, x, NULL); }
ramet__val ramet__op_relu(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_relu, x, NULL); }
ramet__val ramet__op_tanh(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_tanh, x, NULL); }
ramet__val ramet__op_softplus(ramet__graph *g, ramet__val x) { return unary(g, &ramet__opdef_softplus, x, NULL); }
static ramet__val unary_grad(ramet__graph *g, const ramet__op *op, ramet__val x, ramet__val dy) {
    if (!numbers(g, x, op->name) || !numbers(g, dy, op->name) ||
        !ramet__want(g, ramet__same_shape(shape(g, x), shape(g, dy)), op->name, "shapes differ"))
        return -1;
    ramet__val in[2] = {x, dy};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, op, in, 2, &out, 1, NULL);
}
ramet__val ramet__op_silu_grad(ramet__graph *g, ramet__val x, ramet__val dy) {
    return unary_grad(g, &ramet__opdef_silu_grad, x, dy);
}

static void scale_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_scale(g, dout[0], n->attr.f[0]);
}
static void silu_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_silu_grad(g, n->in[0], dout[0]);
}
/* silu_grad = dy * s * (1 + x (1 - s)),  s = sigmoid(x) */
static void silu_grad_expand(ramet__graph *g, const ramet__node *n, ramet__val *out) {
    ramet__val s = ramet__op_sigmoid(g, n->in[0]);
    ramet__val inner =
        ramet__op_add(g, ramet__op_sub(g, n->in[0], ramet__op_mul(g, n->in[0], s)), ramet__graph_const(g, 1.0f));
    out[0] = ramet__op_mul(g, n->in[1], ramet__op_mul(g, s, inner));
}
static void sigmoid_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    ramet__val y = n->out[0];
    din[0] = ramet__op_mul(g, dout[0], ramet__op_sub(g, y, ramet__op_mul(g, y, y)));
}
static void exp_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_mul(g, dout[0], n->out[0]);
}
static void log_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_mul(g, dout[0], ramet__op_recip(g, n->in[0]));
}
static void recip_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_scale(g, ramet__op_mul(g, dout[0], ramet__op_mul(g, n->out[0], n->out[0])), -1.0f);
}
static void rsqrt_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout,
                           ramet__val *din) { /* -y^3/2 */
    ramet__val y = n->out[0];
    din[0] = ramet__op_scale(g, ramet__op_mul(g, dout[0], ramet__op_mul(g, y, ramet__op_mul(g, y, y))), -0.5f);
}
/* by the result, which is positive where x is: x may be overwritten */
static void relu_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = unary_grad(g, &ramet__opdef_relu_grad, n->out[0], dout[0]);
}
static void relu_grad_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[1] = unary_grad(g, &ramet__opdef_relu_grad, n->in[0], dout[0]);
}
static void tanh_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) { /* 1 - y^2 */
    din[0] = ramet__op_sub(g, dout[0], ramet__op_mul(g, dout[0], ramet__op_mul(g, n->out[0], n->out[0])));
}
static void softplus_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_mul(g, dout[0], ramet__op_sigmoid(g, n->in[0]));
}
static void step_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    (void)g;
    (void)n;
    (void)dout;
    (void)din; /* zero wherever it exists: nothing flows */
}

#define SPAN()                                                                                                         \
    int64_t n = (r1 - r0) * s->in[0]->cols;                                                                            \
    float *y = ramet__row(s->out[0], r0);                                                                              \
    const float *v = ramet__row(s->in[0], r0);                                                                         \
    (void)scratch
static void scale_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    x->k->scale(y, s->attr.f[0], v, n);
}
static void silu_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    x->k->silu(y, v, n);
}
static void silu_grad_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    x->k->silu_grad(y, v, ramet__row(s->in[1], r0), n);
}
static void swiglu_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    const int64_t cols = s->in[0]->cols;
    if (!ramet__narrow(x, s->out[0])) {
        x->k->swiglu(y, v, ramet__row(s->in[1], r0), n);
        return;
    }
    for (int64_t r = r0; r < r1; r++) {
        x->k->swiglu(scratch, ramet__row(s->in[0], r), ramet__row(s->in[1], r), cols);
        x->plan->plain->scheme->round((uint16_t *)(void *)ramet__row(s->out[0], r), scratch, cols);
    }
}
static void swiglu_grad_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    const int64_t cols = s->in[0]->cols;
    const int32_t narrow[2] = {ramet__narrow(x, s->out[0]), ramet__narrow(x, s->out[1])};
    if (!narrow[0] && !narrow[1]) {
        x->k->swiglu_grad(y, ramet__row(s->out[1], r0), v, ramet__row(s->in[1], r0), ramet__row(s->in[2], r0), n);
        return;
    }
    float *d[2] = {scratch, (float *)scratch + cols};
    for (int64_t r = r0; r < r1; r++) {
        x->k->swiglu_grad(d[0], d[1], ramet__row(s->in[0], r), ramet__row(s->in[1], r), ramet__row(s->in[2], r), cols);
        for (int32_t j = 0; j < 2; j++) {
            if (narrow[j]) x->plan->plain->scheme->round((uint16_t *)(void *)ramet__row(s->out[j], r), d[j], cols);
            else memcpy(ramet__row(s->out[j], r), d[j], (size_t)cols * sizeof *d[j]);
        }
    }
}
static void sigmoid_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    (void)x;
    for (int64_t i = 0; i < n; i++) y[i] = 1.0f / (1.0f + expf(-v[i]));
}
static void exp_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    (void)x;
    for (int64_t i = 0; i < n; i++) y[i] = expf(v[i]);
}
static void log_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    (void)x;
    for (int64_t i = 0; i < n; i++) y[i] = logf(v[i]);
}
static void recip_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    (void)x;
    for (int64_t i = 0; i < n; i++) y[i] = 1.0f / v[i];
}
static void rsqrt_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    (void)x;
    for (int64_t i = 0; i < n; i++) y[i] = 1.0f / sqrtf(v[i]);
}
static void step_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    (void)x;
    for (int64_t i = 0; i < n; i++) y[i] = v[i] > 0 ? 1.0f : 0.0f;
}
static void relu_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    x->k->relu(y, v, n);
}
static void relu_grad_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    x->k->relu_grad(y, v, ramet__row(s->in[1], r0), n);
}
static void tanh_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    (void)x;
    for (int64_t i = 0; i < n; i++) y[i] = tanhf(v[i]);
}
static void softplus_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    SPAN();
    (void)x;
    for (int64_t i = 0; i < n; i++) y[i] = (v[i] > 0 ? v[i] : 0.0f) + log1pf(expf(-fabsf(v[i])));
}

const ramet__op ramet__opdef_relu = {.name = "relu", .overwrites = {1}, .gradient = relu_gradient, .rows = relu_run};
const ramet__op ramet__opdef_relu_grad = {
    .name = "relu_grad", .overwrites = {3}, .gradient = relu_grad_gradient, .rows = relu_grad_run};
const ramet__op ramet__opdef_tanh = {.name = "tanh", .overwrites = {1}, .gradient = tanh_gradient, .rows = tanh_run};
const ramet__op ramet__opdef_softplus = {
    .name = "softplus", .overwrites = {1}, .gradient = softplus_gradient, .rows = softplus_run};
const ramet__op ramet__opdef_scale = {
    .name = "scale", .overwrites = {1}, .gradient = scale_gradient, .rows = scale_run};
const ramet__op ramet__opdef_silu = {.name = "silu", .overwrites = {1}, .gradient = silu_gradient, .rows = silu_run};
const ramet__op ramet__opdef_silu_grad = {
    .name = "silu_grad", .overwrites = {3}, .expand = silu_grad_expand, .rows = silu_grad_run};
const ramet__op ramet__opdef_swiglu = {.name = "swiglu", .narrow = 1, .overwrites = {3}, .rows = swiglu_run};
const ramet__op ramet__opdef_swiglu_grad = {
    .name = "swiglu_grad", .narrow = 3, .overwrites = {1 | 4, 2 | 4}, .rows = swiglu_grad_run};
const ramet__op ramet__opdef_sigmoid = {
    .name = "sigmoid", .overwrites = {1}, .gradient = sigmoid_gradient, .rows = sigmoid_run};
const ramet__op ramet__opdef_exp = {.name = "exp", .overwrites = {1}, .gradient = exp_gradient, .rows = exp_run};
const ramet__op ramet__opdef_log = {.name = "log", .overwrites = {1}, .gradient = log_gradient, .rows = log_run};
const ramet__op ramet__opdef_recip = {
    .name = "recip", .overwrites = {1}, .gradient = recip_gradient, .rows = recip_run};
const ramet__op ramet__opdef_rsqrt = {
    .name = "rsqrt", .overwrites = {1}, .gradient = rsqrt_gradient, .rows = rsqrt_run};
const ramet__op ramet__opdef_step = {.name = "step", .overwrites = {1}, .gradient = step_gradient, .rows = step_run};
