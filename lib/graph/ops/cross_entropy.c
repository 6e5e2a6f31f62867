/* SPDX-License-Identifier: Apache-2.0 */
/* cross_entropy.c - losses over a vocabulary, their gradients for logits, and both fused with the vocabulary product.
 *
 * cross_entropy: -log softmax(logits)[label]. kl_top: KL(t || q), t given on some classes plus one bin for all others:
 *   sum_i p_i (log p_i - log q_i) + r (log r - log(1 - Q)),  r = 1 - sum p,  Q = sum of q over the given classes.
 *   d/dz_i = q_i - p_i on a given class, q_i (P - r Q / (1 - Q)) elsewhere (P = sum p).
 * Its attributes skew it (Ko et al. 2024, arXiv:2402.03898): i[0] 0: KL(t || a t + (1-a) q), 1: KL(q || (1-a) t + a q), a = f[0], over the same bins.
 *   With g_b = d(term)/dq_b for bin b and G = sum_b q_b g_b: d/dz_i = q_i (g_b - G), b the bin of class i.
 * head_loss: logits only ever exist for a few rows in a worker's scratch (product, loss, gradient in place, transposed
 * product). coef[r] = d(loss)/d(row r's term): the seed of the gradient. */
#include "graph/op.h"
#include <math.h>
#include <string.h>

#define ROWS 64       /* rows of a head_loss piece: each decodes all of W */
#define MORE_ROWS 128 /* where products are so fast that decoding is much of the time, and there are so many rows for every worker */
#define MASKED -1e30f /* a logit that no exponential sees */
#define REST 1e-6f    /* a smaller rest is rounding */
#define FLOOR 1e-12f  /* of what a model leaves to the rest, in second derivatives */

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int32_t check(ramet__graph *g, ramet__val logits, ramet__val ids, ramet__val p, ramet__val weight,
                     const char *op) {
    if (!ramet__want(g,
                     ramet__is_val(g, logits) && ramet__is_val(g, ids) &&
                         ramet__graph_type(g, ids) == RAMET__TYPE_I32 && ramet__is_val(g, weight),
                     op, "needs logits, indices and weights"))
        return 0;
    ramet__gshape row = ramet__row_shape(shape(g, logits));
    if (!ramet__want(g,
                     shape(g, logits)->rank == 2 && shape(g, ids)->axis == shape(g, logits)->axis &&
                         ramet__grows(shape(g, ids)) == ramet__grows(shape(g, logits)),
                     op, "indices have other rows than the logits"))
        return 0;
    if (!ramet__want(g, p != -1 || ramet__gcols(shape(g, ids)) == 1, op, "needs one label a row")) return 0;
    if (p >= 0 && !ramet__want(g, ramet__is_val(g, p) && ramet__same_shape(shape(g, p), shape(g, ids)), op,
                               "probabilities have another shape than the ids"))
        return 0;
    return ramet__want(g, ramet__same_shape(&row, shape(g, weight)), op, "needs one weight a row");
}
static ramet__val loss(ramet__graph *g, const ramet__op *op, const ramet__val *in, int32_t n, const ramet__attr *attr,
                       ramet__val *row) {
    ramet__gshape out[2] = {ramet__gshape1(1), ramet__row_shape(shape(g, in[0]))};
    ramet__val l = ramet__node_add(g, op, in, n, out, 2, attr);
    if (l >= 0 && row) *row = g->nodes[g->n_nodes - 1].out[1];
    return l;
}
ramet__val ramet__op_cross_entropy(ramet__graph *g, ramet__val logits, ramet__val labels, ramet__val weight,
                                   ramet__val *row) {
    if (!check(g, logits, labels, -1, weight, "cross_entropy")) return -1;
    ramet__val in[3] = {logits, labels, weight};
    return loss(g, &ramet__opdef_cross_entropy, in, 3, NULL, row);
}
ramet__val ramet__op_kl_top(ramet__graph *g, ramet__val logits, ramet__val ids, ramet__val p, ramet__val weight,
                            ramet__val *row) {
    return ramet__op_kl_skewed(g, logits, ids, p, weight, 0, 0.0f, row);
}
ramet__val ramet__op_kl_skewed(ramet__graph *g, ramet__val logits, ramet__val ids, ramet__val p, ramet__val weight,
                               int32_t reverse, float skew, ramet__val *row) {
    if (!ramet__want(g, ramet__is_val(g, p), "kl_top", "needs the target's probabilities") ||
        !check(g, logits, ids, p, weight, "kl_top"))
        return -1;
    ramet__val in[4] = {logits, ids, weight, p};
    ramet__attr attr = {.i = {reverse}, .f = {skew}};
    return loss(g, &ramet__opdef_kl_top, in, 4, &attr, row);
}

/* Both: d(loss) -> coef = weight * dloss (+ drow) */
static ramet__val coefficient(ramet__graph *g, const ramet__node *n, const ramet__val *dout) {
    ramet__val c = dout[0] < 0 ? -1
                   : g->values[dout[0]].leaf == RAMET__LEAF_CONST && g->values[dout[0]].number == 1.0f
                       ? n->in[2]
                       : ramet__op_mul(g, n->in[2], dout[0]);
    return dout[1] < 0 ? c : c < 0 ? dout[1] : ramet__op_add(g, c, dout[1]);
}
static void loss_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    int32_t kl = n->op == &ramet__opdef_kl_top;
    if (ramet__needs(g, n, 0)) {
        ramet__val in[4] = {n->in[0], n->in[1], coefficient(g, n, dout), kl ? n->in[3] : -1};
        ramet__gshape out = *shape(g, n->in[0]);
        din[0] = ramet__node_add(g, kl ? &ramet__opdef_kl_top_grad : &ramet__opdef_cross_entropy_grad, in, 3 + kl, &out,
                                 1, kl ? &n->attr : NULL);
    }
    if (ramet__needs(g, n, 2) && dout[0] >= 0) din[2] = ramet__op_mul(g, n->out[1], dout[0]);
    if (kl && ramet__needs(g, n, 3))
        ramet__graph_fail(g, RAMET_E_UNSUPPORTED, "gradient: kl_top has no derivative for the target's probabilities");
}
/* coef (softmax - onehot), 0 where the label is negative */
static void grad_expand(ramet__graph *g, const ramet__node *n, ramet__val *out) {
    ramet__val c = ramet__op_keep(g, n->in[2], n->in[1]);
    out[0] = ramet__op_sub(g, ramet__op_row_scale(g, ramet__op_softmax(g, n->in[0], 1), c),
                           ramet__op_onehot(g, c, n->in[1], ramet__gcols(shape(g, n->in[0]))));
}
/* coef (q c + onehot(q (P + r - c) - p)), c = P - r Q / U; U, what q leaves to all other classes, is summed over them
 */
static ramet__val floored(ramet__graph *g, ramet__val v) { return ramet__op_add(g, v, ramet__graph_const(g, FLOOR)); }
/* g of a bin, as slope() has it */
static ramet__val slope_of(ramet__graph *g, const ramet__attr *attr, ramet__val p, ramet__val q) {
    float a = attr->f[0], of_p = attr->i[0] ? 1.0f - a : a, of_q = 1.0f - of_p;
    ramet__val m = floored(g, ramet__op_add(g, ramet__op_scale(g, p, of_p), ramet__op_scale(g, q, of_q)));
    ramet__val top = ramet__op_mul(g, ramet__op_scale(g, attr->i[0] ? q : p, of_q), ramet__op_recip(g, m));
    if (!attr->i[0]) return ramet__op_scale(g, top, -1.0f);
    return ramet__op_sub(g, ramet__op_sub(g, ramet__op_log(g, floored(g, q)), ramet__op_log(g, m)), top);
}
static void kl_grad_expand(ramet__graph *g, const ramet__node *n, ramet__val *out) {
    ramet__val ids = n->in[1], p = n->in[3], q = ramet__op_softmax(g, n->in[0], 1), qk = ramet__op_pick(g, q, ids);
    int64_t cols = ramet__gcols(shape(g, q));
    ramet__val P = ramet__op_row_sum(g, ramet__op_onehot(g, p, ids, cols));
    ramet__val r = ramet__op_scale(g, ramet__op_sub(g, P, ramet__graph_const(g, 1.0f)), -1.0f);
    r = ramet__op_mul(g, r, ramet__op_step(g, ramet__op_sub(g, r, ramet__graph_const(g, REST))));
    ramet__val U = ramet__op_row_sum(g, ramet__op_sub(g, q, ramet__op_onehot(g, qk, ids, cols)));
    if (n->attr.i[0] || n->attr.f[0] != 0.0f) {
        ramet__val s = slope_of(g, &n->attr, p, qk), rest = slope_of(g, &n->attr, r, U), sq = ramet__op_mul(g, qk, s);
        ramet__val G = ramet__op_add(g, ramet__op_row_sum(g, sq), ramet__op_mul(g, U, rest));
        ramet__val at = ramet__op_sub(g, sq, ramet__op_row_scale(g, qk, rest));
        out[0] = ramet__op_row_scale(g, ramet__op_add(g, ramet__op_row_scale(g, q, ramet__op_sub(g, rest, G)), ramet__op_onehot(g, at, ids, cols)),
                                     n->in[2]);
        return;
    }
    ramet__val ratio = ramet__op_mul(g, ramet__op_row_sum(g, qk),
                                     ramet__op_recip(g, ramet__op_add(g, U, ramet__graph_const(g, FLOOR))));
    ramet__val c = ramet__op_sub(g, P, ramet__op_mul(g, r, ratio));
    ramet__val at = ramet__op_sub(g, ramet__op_row_scale(g, qk, ramet__op_sub(g, ramet__op_add(g, P, r), c)), p);
    out[0] = ramet__op_row_scale(g, ramet__op_add(g, ramet__op_row_scale(g, q, c), ramet__op_onehot(g, at, ids, cols)),
                                 n->in[2]);
}

/* ---- one row: the term, and with `grad` the logits become their gradient. `z` is writable and restored otherwise.
 * ---- */
static float entropy_row(const ramet__kernels *k, float *z, int64_t n, int32_t label, int32_t grad, float coef) {
    if (label < 0) {
        if (grad) memset(z, 0, (size_t)n * sizeof *z);
        return 0.0f;
    }
    float lse = k->logsumexp(z, n), term = lse - z[label];
    if (grad) k->softmax_minus_onehot(z, lse, label, coef, n);
    return term;
}
/* A bin's part of the skewed divergence, and its derivative for q up to a constant, which the softmax takes out again. */
static double slope(double *g, const ramet__attr *attr, double p, double q) {
    const double a = attr->f[0], m = (attr->i[0] ? (1 - a) * p + a * q : a * p + (1 - a) * q) + FLOOR;
    if (!attr->i[0]) {
        *g = -(1 - a) * p / m;
        return p > 0 ? p * log(p / m) : 0;
    }
    const double l = log((q + FLOOR) / m);
    *g = l - a * q / m;
    return q * l;
}
static float skewed_row(const ramet__kernels *k, float *z, int64_t n, const int32_t *ids, const float *p, int64_t top,
                        float *saved, int32_t grad, float coef, const ramet__attr *attr) {
    double mass = 0, term = 0, G = 0, g, rest;
    float lse = k->logsumexp(z, n);
    for (int64_t i = 0; i < top; i++) {
        if (ids[i] < 0) continue;
        saved[i] = z[ids[i]];
        z[ids[i]] = MASKED;
        const double q = exp((double)saved[i] - lse);
        mass += p[i];
        term += slope(&g, attr, p[i], q);
        G += q * g;
    }
    const double U = exp(k->logsumexp(z, n) - (double)lse), r = 1.0 - mass < REST ? 0.0 : 1.0 - mass;
    for (int64_t i = 0; i < top; i++)
        if (ids[i] >= 0) z[ids[i]] = saved[i];
    term += slope(&rest, attr, r, U);
    G += U * rest;
    if (!grad) return (float)term;
    k->softmax_minus_onehot(z, lse, -1, (float)((rest - G) * coef), n);
    for (int64_t i = 0; i < top; i++) {
        if (ids[i] < 0) continue;
        const double q = exp((double)saved[i] - lse);
        slope(&g, attr, p[i], q);
        z[ids[i]] = (float)(q * (g - G) * coef);
    }
    return (float)term;
}
static float kl_row(const ramet__kernels *k, float *z, int64_t n, const int32_t *ids, const float *p, int64_t top,
                    float *saved, int32_t grad, float coef, const ramet__attr *attr) {
    if (attr->i[0] || attr->f[0] != 0.0f) return skewed_row(k, z, n, ids, p, top, saved, grad, coef, attr);
    double mass = 0, Q = 0, term = 0;
    float lse = k->logsumexp(z, n);
    for (int64_t i = 0; i < top; i++) {
        if (ids[i] < 0) continue;
        saved[i] = z[ids[i]];
        mass += p[i];
        Q += exp((double)saved[i] - lse);
        if (p[i] > 0) term += p[i] * (log(p[i]) - ((double)saved[i] - lse));
    }
    double rest = RAMET__MAX(0.0, 1.0 - mass), c = mass;
    if (rest < REST) rest = 0;
    if (rest > 0) { /* log of the mass that the model leaves to all other classes, without cancellation */
        for (int64_t i = 0; i < top; i++)
            if (ids[i] >= 0) z[ids[i]] = MASKED;
        double other = k->logsumexp(z, n);
        for (int64_t i = 0; i < top; i++)
            if (ids[i] >= 0) z[ids[i]] = saved[i];
        term += rest * (log(rest) - (other - lse));
        c -= rest * Q * exp(RAMET__MIN(80.0, (double)lse - other));
    }
    if (!grad) return (float)term;
    k->softmax_minus_onehot(z, lse, -1, (float)(c * coef), n);
    for (int64_t i = 0; i < top; i++)
        if (ids[i] >= 0) z[ids[i]] = (float)((exp((double)saved[i] - lse) * (mass + rest) - p[i]) * coef);
    return (float)term;
}

/* ---- with logits at hand: in = logits, ids, weight or coef, p ---- */
static ramet_status loss_prepare(ramet__plan *p, ramet__step *s) {
    int32_t kl = s->op == &ramet__opdef_kl_top || s->op == &ramet__opdef_kl_top_grad;
    s->scratch_bytes = (uint64_t)(s->in[0]->cols + (kl ? s->in[1]->cols : 0)) * sizeof(float);
    return ramet__plan_check_ids(p, s->in[1], INT32_MIN, s->in[0]->cols, s->op->name);
}
static int64_t loss_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    return phase == 0 ? ramet__count(x, s->in[0]) : phase == 1 ? 1 : -1;
}
static void total(const ramet__step *s, const ramet__exec *x,
                  const ramet__pval *weight) { /* one order: row after row */
    const float *row = s->out[1]->data, *w = weight->data;
    double sum = 0;
    for (int64_t r = 0; r < ramet__count(x, s->out[1]); r++) sum += (double)row[r] * w[r];
    *(float *)s->out[0]->data = (float)sum;
}
static void loss_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t r, void *scratch) {
    if (phase == 1) {
        total(s, x, s->in[2]);
        return;
    }
    int64_t n = s->in[0]->cols, top = s->in[1]->cols;
    float *z = scratch, *row = (float *)s->out[1]->data + r;
    const int32_t *ids = (const int32_t *)s->in[1]->data + r * top;
    if (s->op == &ramet__opdef_cross_entropy) {
        *row = entropy_row(x->k, ramet__row(s->in[0], r), n, *ids, 0, 0.0f);
        return;
    }
    memcpy(z, ramet__row(s->in[0], r), (size_t)n * sizeof *z);
    *row = kl_row(x->k, z, n, ids, ramet__row(s->in[3], r), top, z + n, 0, 0.0f, &s->attr);
}
static void grad_rows(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    int64_t n = s->in[0]->cols, top = s->in[1]->cols;
    const float *coef = s->in[2]->data;
    for (int64_t r = r0; r < r1; r++) {
        float *z = ramet__row(s->out[0], r);
        const int32_t *ids = (const int32_t *)s->in[1]->data + r * top;
        if (s->out[0]->data != s->in[0]->data) memcpy(z, ramet__row(s->in[0], r), (size_t)n * sizeof *z);
        if (s->op == &ramet__opdef_cross_entropy_grad)
            entropy_row(x->k, z, n, *ids, 1, coef[r]);
        else
            kl_row(x->k, z, n, ids, ramet__row(s->in[3], r), top, scratch, 1, coef[r], &s->attr);
    }
}
const ramet__op ramet__opdef_cross_entropy = {.name = "cross_entropy",
                                              .gradient = loss_gradient,
                                              .prepare = loss_prepare,
                                              .pieces = loss_pieces,
                                              .run = loss_run};
const ramet__op ramet__opdef_cross_entropy_grad = {
    .name = "cross_entropy_grad", .overwrites = {1}, .expand = grad_expand, .prepare = loss_prepare, .rows = grad_rows};
const ramet__op ramet__opdef_kl_top = {
    .name = "kl_top", .gradient = loss_gradient, .prepare = loss_prepare, .pieces = loss_pieces, .run = loss_run};
const ramet__op ramet__opdef_kl_top_grad = {
    .name = "kl_top_grad", .overwrites = {1}, .expand = kl_grad_expand, .prepare = loss_prepare, .rows = grad_rows};

/* ---- fused with the product, made by fusion only: in = x, W, ids, weight, p (kl_top), coef (with a gradient); out =
 * loss, row, dx ---- */
typedef struct head_info {
    const ramet__product *product;
    int64_t rows, ld; /* of a piece; floats between its rows of logits, of which none is a multiple of a page: they would share few of the cache's sets */
    uint64_t stride, prepared, logits, saved;
} head_info;
static void head_room(ramet__step *s, head_info *info, int64_t rows) {
    const ramet__pval *w = s->in[1];
    info->rows = rows;
    info->stride = info->product->scheme->prepared_bytes(w->cols);
    info->prepared = ramet__align(info->stride * (uint64_t)rows);
    info->ld = RAMET__ROUND_UP(w->fixed, 16) + 16;
    info->logits = ramet__align((uint64_t)(info->ld * rows) * sizeof(float));
    info->saved = ramet__align((uint64_t)s->in[2]->cols * sizeof(float));
    s->scratch_bytes = info->prepared + info->logits + info->saved + info->product->scheme->scratch_bytes(rows, w->fixed, w->cols);
}
/* Whether a row's logits do not depend on its neighbours, which int8 and rows of floats do not promise. */
static int32_t rows_alone(const head_info *info) { return info->product->scheme->arithmetic == RAMET__EXACT || info->product->scheme->arithmetic == RAMET__BRAIN; }
static int32_t head_halve(ramet__step *s) {
    head_info *info = s->extra;
    if (info->rows < 16 || !rows_alone(info)) return 0;
    head_room(s, info, info->rows / 2);
    return 1;
}
static ramet_status head_prepare(ramet__plan *p, ramet__step *s) {
    head_info *info = ramet__arena_alloc(&p->names, sizeof *info);
    if (!info) return ramet__alloc_status();
    s->extra = info;
    const ramet__pval *w = s->in[1];
    info->product = ramet__weight_product(w->weight, ramet__plan_arithmetic(p));
    head_room(s, info, p->rt->kernels->brain_rows && info->product->scheme->arithmetic == RAMET__BRAIN && s->in[0]->fixed >= MORE_ROWS * p->workers ? MORE_ROWS : ROWS);
    s->batch = 2 * p->workers;
    return ramet__plan_check_ids(p, s->in[2], INT32_MIN, w->fixed, "loss");
}
static double head_work(const ramet__plan *p, const ramet__step *s) {
    (void)p;
    return (double)s->n_out * (double)s->in[0]->fixed * (double)s->in[1]->fixed * (double)s->in[1]->cols;
}
static int64_t head_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    return phase == 0 ? ramet__ceil_div(ramet__count(x, s->in[0]), ((const head_info *)s->extra)->rows) : phase == 1 ? 1 : -1;
}
static void head_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    if (phase == 1) {
        total(s, x, s->in[3]);
        return;
    }
    const head_info *info = s->extra;
    const ramet__pval *w = s->in[1], *p = s->in[4];
    int64_t n = w->fixed, k = w->cols, ld = info->ld, top = s->in[2]->cols, r0 = piece * info->rows,
            m = RAMET__MIN(ramet__count(x, s->in[0]) - r0, info->rows);
    char *at = scratch;
    float *z = (float *)(at + info->prepared), *saved = (float *)(at + info->prepared + info->logits),
          *row = (float *)s->out[1]->data + r0;
    void *inner = at + info->prepared + info->logits + info->saved;
    for (int64_t r = 0; r < m; r++)
        ramet__prepare(x->plan, info->product, at + (uint64_t)r * info->stride, ramet__row(s->in[0], r0 + r), k);
    ramet__product_args a = {.m = m,
                             .n = n,
                             .k = k,
                             .from = 0,
                             .to = n,
                             .x = at,
                             .x_stride = (int64_t)info->stride,
                             .packed = ramet__weight_packed(w->weight),
                             .y = z,
                             .y_stride = ld,
                             .scratch = inner};
    info->product->forward(&a);
    int32_t grad = s->n_out > 2 && s->out[2] != NULL;
    for (int64_t r = 0; r < m; r++) {
        const int32_t *ids = (const int32_t *)s->in[2]->data + (r0 + r) * top;
        float coef = grad ? ((const float *)s->in[5]->data)[r0 + r] : 0.0f;
        row[r] = p ? kl_row(x->k, z + r * ld, n, ids, ramet__row(p, r0 + r), top, saved, grad, coef, &s->attr)
                   : entropy_row(x->k, z + r * ld, n, *ids, grad, coef);
        if (grad && info->product->scheme->round) info->product->scheme->round((uint16_t *)(void *)(z + r * ld), z + r * ld, n);
    }
    if (!grad) return;
    const int32_t rounded = info->product->scheme->round != NULL;
    ramet__product_args t = {.m = m,
                             .n = n,
                             .k = k,
                             .from = 0,
                             .to = k,
                             .x = z,
                             .x_stride = rounded ? ld * (int64_t)sizeof *z : ld,
                             .rounded = rounded,
                             .packed = a.packed,
                             .y = ramet__row(s->out[2], r0),
                             .y_stride = k,
                             .scratch = inner};
    info->product->transposed(&t);
}
const ramet__op ramet__opdef_head_loss = {.name = "head_loss",
                                          .overwrites = {0, 0, 1},
                                          .encoded = 2,
                                          .work = head_work,
                                          .halve = head_halve,
                                          .prepare = head_prepare,
                                          .pieces = head_pieces,
                                          .run = head_run};
