/* SPDX-License-Identifier: Apache-2.0 */
/* linear_grad.c - gradients of a product: dx = dy W and dW = dy^T x. */
#include "graph/ops/linear.h"
#include <string.h>

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
ramet__val ramet__op_linear_dx(ramet__graph *g, ramet__val dy, ramet__val w) {
    if (!ramet__linear_check(g, dy, w, 0, "linear_dx")) return -1;
    ramet__val in[3] = {dy, w, -1};
    ramet__gshape out = ramet__gshape2(shape(g, dy)->axis, ramet__grows(shape(g, dy)), shape(g, w)->dim[1]);
    return ramet__node_add(g, &ramet__opdef_linear_dx, in, 3, &out, 1, NULL);
}
ramet__val ramet__op_linear_dw(ramet__graph *g, ramet__val dy, ramet__val x) {
    if (!ramet__want(g, ramet__is_val(g, dy) && ramet__is_val(g, x), "linear_dw", "no such value")) return -1;
    if (!ramet__want(g,
                     shape(g, dy)->axis == shape(g, x)->axis && ramet__grows(shape(g, dy)) == ramet__grows(shape(g, x)),
                     "linear_dw", "needs the same rows"))
        return -1;
    ramet__val in[3] = {dy, x, -1};
    ramet__gshape out = ramet__gshape2(RAMET__AXIS_STATIC, ramet__gcols(shape(g, dy)), ramet__gcols(shape(g, x)));
    return ramet__node_add(g, &ramet__opdef_linear_dw, in, 3, &out, 1, NULL);
}

static void dx_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    if (ramet__needs(g, n, 0)) din[0] = ramet__op_linear(g, dout[0], n->in[1], -1, NULL);
    if (ramet__needs(g, n, 1)) din[1] = ramet__op_linear_dw(g, n->in[0], dout[0]);
}
static void dw_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    if (ramet__needs(g, n, 0)) din[0] = ramet__op_linear(g, n->in[1], dout[0], -1, NULL);
    if (ramet__needs(g, n, 1)) din[1] = ramet__op_linear_dx(g, n->in[0], dout[0]);
}

/* ---- dx: in = dy, W, base, and what a slot adds: the gradient of its low-rank activations, its matrix ---- */
static double dx_work(const ramet__plan *p, const ramet__step *s) {
    (void)p;
    return (double)s->in[0]->fixed * (double)s->in[0]->cols * (double)s->out[0]->cols;
}
static ramet_status dx_prepare(ramet__plan *p, ramet__step *s) {
    linear_part *part = ramet__arena_alloc(&p->names, sizeof *part);
    if (!part) return ramet__alloc_status();
    s->extra = part;
    const ramet__pval *w = s->in[1];
    ramet__linear_most(part, ramet__linear_product(p, w, ramet__plan_arithmetic(p)), RAMET__BACK, s->in[0]->fixed);
    if (s->n_in > 3) {
        s->scratch_bytes = ramet__slot_add_bytes(p, RAMET__MIN(s->in[0]->fixed, part->rows), s->out[0]->cols);
        s->shared_bytes = ramet__slot_stride(p, s->in[0]->fixed) * (uint64_t)s->in[0]->fixed;
    }
    if (!part->product) return RAMET_OK;
    s->scratch_bytes = RAMET__MAX(s->scratch_bytes, part->product->scheme->scratch_bytes(RAMET__MIN(s->in[0]->fixed, part->rows), w->fixed, w->cols));
    if (part->product->scheme->round) {
        part->stride = ramet__align(ramet__rounded_bytes(w->fixed));
        part->at = ramet__align(s->shared_bytes); /* after a slot's */
        s->shared_bytes = part->at + part->stride * (uint64_t)s->in[0]->fixed;
    }
    return RAMET_OK;
}
static int32_t dx_takes_narrow(const ramet__plan *p, const ramet__step *s, int32_t j) {
    (void)p;
    return j == 0 && ((const linear_part *)s->extra)->stride;
}
static int64_t dx_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    const linear_part *part = s->extra;
    int64_t rows = ramet__count(x, s->in[0]);
    const int32_t rounds = part->stride && !ramet__narrow(x, s->in[0]), slot = s->n_in > 3 && ramet__slot_stride(x->plan, x->rows);
    if (phase == 0) return rounds || slot ? ramet__ceil_div(rows, PREPARE_ROWS) : 0;
    if (phase > 1) return -1;
    const linear_piece of = ramet__linear_piece(part, rows, s->out[0]->cols, x->plan->workers);
    return ramet__ceil_div(rows, of.rows) * ramet__ceil_div(s->out[0]->cols, of.cols);
}
static void dx_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    const linear_part *part = s->extra;
    const ramet__pval *w = s->in[1], *base = s->in[2];
    const int32_t narrow = ramet__narrow(x, s->in[0]);
    if (phase == 0) {
        const int64_t from = piece * PREPARE_ROWS, to = RAMET__MIN(ramet__count(x, s->in[0]), from + PREPARE_ROWS);
        for (int64_t r = from; r < to && part->stride && !narrow; r++)
            part->product->scheme->round((uint16_t *)(void *)((char *)s->shared + part->at + (uint64_t)r * part->stride), ramet__row(s->in[0], r), s->in[0]->cols);
        if (s->n_in > 3 && ramet__slot_stride(x->plan, x->rows)) ramet__slot_round(x, s->attr.i[1], 0, s->in[3], s->shared, from, to);
        return;
    }
    const int64_t rows = ramet__count(x, s->in[0]), n = s->in[0]->cols, k = s->out[0]->cols;
    const linear_piece of = ramet__linear_piece(part, rows, k, x->plan->workers);
    const int64_t across = ramet__ceil_div(k, of.cols), r0 = piece / across * of.rows, r1 = RAMET__MIN(rows, r0 + of.rows), c0 = piece % across * of.cols, c1 = RAMET__MIN(k, c0 + of.cols);
    float *y = ramet__row(s->out[0], r0);
    if (base && base->data != s->out[0]->data)
        for (int64_t r = r0; r < r1; r++)
            memcpy(ramet__row(s->out[0], r) + c0, ramet__row(base, r) + c0, (size_t)(c1 - c0) * sizeof(float));
    if (part->product) {
        ramet__product_args a = {.m = r1 - r0,
                                 .n = n,
                                 .k = k,
                                 .from = c0,
                                 .to = c1,
                                 .x = part->stride && !narrow ? (const char *)s->shared + part->at + (uint64_t)r0 * part->stride : (const void *)ramet__row(s->in[0], r0),
                                 .x_stride = narrow ? n * (int64_t)sizeof *y : part->stride ? (int64_t)part->stride : n,
                                 .rounded = part->stride != 0,
                                 .packed = packed_of(w),
                                 .y = y,
                                 .y_stride = k,
                                 .accumulate = base != NULL,
                                 .scratch = scratch};
        part->product->transposed(&a);
    } else {
        x->k->gemm_nn(y + c0, k, ramet__row(s->in[0], r0), n, (const float *)w->data + c0, k, r1 - r0, c1 - c0, n, 1.0f,
                      base != NULL);
    }
    if (s->n_in > 3) ramet__slot_add(x, s->attr.i[1], 0, s->in[3], s->shared, y, k, k, r0, r1, c0, c1, scratch);
}
const ramet__op ramet__opdef_linear_dx = {.name = "linear_dx",
                                          .overwrites = {1u << 2},
                                          .base = 2,
                                          .encoded = 1u << 1,
                                          .work = dx_work,
                                          .gradient = dx_gradient,
                                          .takes_narrow = dx_takes_narrow,
                                          .prepare = dx_prepare,
                                          .pieces = dx_pieces,
                                          .run = dx_run};

/* ---- dW: in = dy, x, base; a piece owns a block of W and sums over all rows ---- */
#define LEAST_DW 96
static double dw_work(const ramet__plan *p, const ramet__step *s) {
    (void)p;
    return (double)s->in[0]->fixed * (double)s->in[0]->cols * (double)s->in[1]->cols;
}
static ramet_status dw_prepare(ramet__plan *p, ramet__step *s) {
    const ramet__product *product = ramet__kernels_product(p->rt->kernels, "F32", ramet__plan_arithmetic(p));
    if (p->mode == RAMET__MODE_EXACT || !product->scheme->outer) return RAMET_OK;
    s->extra = (void *)(uintptr_t)product;
    s->scratch_bytes = product->scheme->scratch_bytes(1, s->out[0]->fixed, s->out[0]->cols);
    return RAMET_OK;
}
static int64_t share(int64_t size, int64_t most) { return RAMET__ROUND_UP(ramet__ceil_div(size, ramet__ceil_div(size, most)), 32); }
linear_piece ramet__linear_dw_piece(const ramet__product *product, int64_t n, int64_t k, int64_t workers) {
    const ramet__piece most = product ? product->scheme->piece[RAMET__OUTER] : (ramet__piece){DENSE_ROWS, DENSE_ROWS};
    const int64_t least = product ? LEAST_DW : DENSE_ROWS / 2;
    linear_piece of = {share(n, most.rows), share(k, most.cols)};
    for (;;) {
        const int64_t pieces = ramet__ceil_div(n, of.rows) * ramet__ceil_div(k, of.cols);
        if (10 * (RAMET__ROUND_UP(pieces, workers) - pieces) <= pieces || RAMET__MAX(of.rows, of.cols) < 2 * least) return of;
        if (of.rows >= of.cols) of.rows = share(n, of.rows / 2);
        else of.cols = share(k, of.cols / 2);
    }
}
static linear_piece dw_piece(const ramet__step *s, const ramet__exec *x) { return ramet__linear_dw_piece(s->extra, s->out[0]->fixed, s->out[0]->cols, x->plan->workers); }
static int64_t dw_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    const linear_piece of = dw_piece(s, x);
    return phase ? -1 : ramet__ceil_div(s->out[0]->fixed, of.rows) * ramet__ceil_div(s->out[0]->cols, of.cols);
}
static int32_t dw_takes_narrow(const ramet__plan *p, const ramet__step *s, int32_t j) {
    (void)p;
    return j == 1 && s->extra;
}
static void dw_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    (void)phase;
    const ramet__product *product = s->extra;
    const ramet__pval *dy = s->in[0], *v = s->in[1], *base = s->in[2];
    const linear_piece of = dw_piece(s, x);
    const int64_t n = s->out[0]->fixed, k = s->out[0]->cols, across = ramet__ceil_div(k, of.cols);
    const int64_t n0 = piece / across * of.rows, n1 = RAMET__MIN(n, n0 + of.rows), k0 = piece % across * of.cols, k1 = RAMET__MIN(k, k0 + of.cols);
    if (base && base->data != s->out[0]->data)
        for (int64_t r = n0; r < n1; r++)
            memcpy(ramet__row(s->out[0], r) + k0, ramet__row(base, r) + k0, (size_t)(k1 - k0) * sizeof(float));
    float *dw = ramet__row(s->out[0], n0) + k0;
    const float *a = (const float *)dy->data + n0, *b = (const float *)v->data + k0;
    if (ramet__narrow(x, v)) b = (const float *)(const void *)((const uint16_t *)v->data + k0);
    if (product) product->scheme->outer(dw, k, a, n, b, k, n1 - n0, k1 - k0, ramet__count(x, dy), base != NULL, ramet__narrow(x, v), scratch);
    else x->k->gemm_tn(dw, k, a, n, b, k, n1 - n0, k1 - k0, ramet__count(x, dy), 1.0f, base != NULL);
}
const ramet__op ramet__opdef_linear_dw = {.name = "linear_dw",
                                          .overwrites = {1u << 2},
                                          .base = 2,
                                          .work = dw_work,
                                          .gradient = dw_gradient,
                                          .takes_narrow = dw_takes_narrow,
                                          .prepare = dw_prepare,
                                          .pieces = dw_pieces,
                                          .run = dw_run};
