/* SPDX-License-Identifier: Apache-2.0 */
/* slot.c - products with the low-rank matrices A [rank,k] and B [n,rank] that a run binds to a slot (LoRA, Hu et al.
 * 2021): t = x A^T, y = base + scale t B^T, and what their gradients need. Rows are grouped by adapter; rows without
 * one give zero (or leave base). The three forms are closed under differentiation. Values of rank columns have the
 * plan's maximum rank; columns beyond an adapter's own rank are zero. */
#include "graph/op.h"
#include <string.h>

#define OWNED 256 /* columns or rows of a gradient that a piece owns */

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
/* attr: slot, which, whether the result may have a gain */
static ramet__val product(ramet__graph *g, const ramet__op *op, ramet__val x, ramet__val m, ramet__val base,
                          int64_t slot, int64_t which) {
    int32_t dim = op == &ramet__opdef_slot_nt;
    if (!ramet__want(g, ramet__is_val(g, x) && ramet__is_val(g, m) && slot >= 0 && slot < g->n_slots, op->name,
                     "no such value or slot"))
        return -1;
    if (!ramet__want(g, shape(g, x)->axis == RAMET__AXIS_ROWS, op->name, "adapters act on rows of the run")) return -1;
    if (!ramet__want(g, shape(g, m)->rank == 2 && ramet__gcols(shape(g, x)) == shape(g, m)->dim[dim], op->name,
                     "shapes do not go together"))
        return -1;
    ramet__val in[3] = {x, m, base};
    ramet__attr attr = {.i = {slot, which}};
    ramet__gshape out = ramet__gshape2(RAMET__AXIS_ROWS, ramet__grows(shape(g, x)), shape(g, m)->dim[!dim]);
    return ramet__node_add(g, op, in, 3, &out, 1, &attr);
}
ramet__val ramet__op_slot_nt(ramet__graph *g, ramet__val x, ramet__val m, ramet__val base, int64_t slot,
                             int64_t which) {
    return product(g, &ramet__opdef_slot_nt, x, m, base, slot, which);
}
ramet__val ramet__op_slot_nn(ramet__graph *g, ramet__val dy, ramet__val m, int64_t slot, int64_t which) {
    return product(g, &ramet__opdef_slot_nn, dy, m, -1, slot, which);
}
ramet__val ramet__op_slot_tn(ramet__graph *g, ramet__val dy, ramet__val x, int64_t slot, int64_t which) {
    if (!ramet__want(g, ramet__is_val(g, dy) && ramet__is_val(g, x) && slot >= 0 && slot < g->n_slots, "slot_tn",
                     "no such value or slot"))
        return -1;
    ramet__val in[3] = {dy, x, -1};
    ramet__attr attr = {.i = {slot, which}};
    ramet__gshape out = ramet__gshape2(RAMET__AXIS_STATIC, ramet__gcols(shape(g, dy)), ramet__gcols(shape(g, x)));
    return ramet__node_add(g, &ramet__opdef_slot_tn, in, 3, &out, 1, &attr);
}

static void nt_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    if (ramet__needs(g, n, 0)) din[0] = ramet__op_slot_nn(g, dout[0], n->in[1], n->attr.i[0], n->attr.i[1]);
    if (ramet__needs(g, n, 1)) din[1] = ramet__op_slot_tn(g, dout[0], n->in[0], n->attr.i[0], n->attr.i[1]);
    din[2] = dout[0];
}
static void nn_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    if (ramet__needs(g, n, 0)) din[0] = ramet__op_slot_nt(g, dout[0], n->in[1], -1, n->attr.i[0], n->attr.i[1]);
    if (ramet__needs(g, n, 1)) din[1] = ramet__op_slot_tn(g, n->in[0], dout[0], n->attr.i[0], n->attr.i[1]);
}
static void tn_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    if (ramet__needs(g, n, 0)) din[0] = ramet__op_slot_nt(g, n->in[1], dout[0], -1, n->attr.i[0], n->attr.i[1]);
    if (ramet__needs(g, n, 1)) din[1] = ramet__op_slot_nn(g, n->in[0], dout[0], n->attr.i[0], n->attr.i[1]);
}

/* The matrix that rows of one adapter use: NULL when they have none here. ld: floats between its rows. */
typedef struct bound {
    const float *m;
    int64_t ld, rank;
    float scale;
    const float *gain;
} bound;
static bound matrix_of(const ramet__step *s, const ramet__exec *x, int32_t adapter) {
    bound b = {NULL, 0, 0, 0.0f, NULL};
    if (adapter < 0) return b;
    const ramet__slot_entry *e = &x->run->adapters[adapter][s->attr.i[0]];
    if (!e->rank) return b;
    const ramet__pval *m = s->in[1];
    int64_t which = s->attr.i[1];
    b.rank = e->rank;
    b.scale = which ? e->scale : 1.0f;
    b.gain = which ? e->gain : NULL;
    b.m = m->leaf == RAMET__LEAF_SLOT ? (which ? e->b : e->a) : m->data;
    b.ld = m->leaf != RAMET__LEAF_SLOT || !which ? m->cols : e->rank;
    return b;
}
/* The product in bf16 that a run of so many rows is multiplied with, NULL: in fp32. */
static const ramet__product *brain(const ramet__plan *p, int64_t rows) {
    return p->rt->kernels->brain_rows && ramet__plan_arithmetic_of(p, rows) == RAMET__BRAIN ? p->plain : NULL;
}
/* dst = scale src, rows of n floats that are ld apart in src */
static float *scaled(const ramet__exec *x, float *dst, float scale, const float *src, int64_t ld, int64_t rows, int64_t n) {
    for (int64_t r = 0; r < rows; r++) x->k->scale(dst + r * n, scale, src + r * ld, n);
    return dst;
}
uint64_t ramet__slot_stride(const ramet__plan *p, int64_t rows) {
    const ramet__product *product = brain(p, rows);
    return product ? ramet__align(product->scheme->prepared_bytes(p->max_rank)) : 0;
}
uint64_t ramet__slot_add_bytes(const ramet__plan *p, int64_t rows, int64_t cols) {
    const ramet__product *product = brain(p, p->max_rows);
    return product ? RAMET__MAX(product->scheme->scratch_bytes(rows, cols, p->max_rank), product->scheme->scratch_bytes(rows, p->max_rank, cols)) : 0;
}
/* Calls `each` for every run of rows r0..r1 whose adapter has this slot. */
#define EACH_ADAPTER(slot, r0, r1)                                                                                                          \
    for (const ramet__span *g = x->plan->groups.runs, *end = g + x->plan->groups.n_runs; g < end && x->plan->bound[slot]; g++)              \
        for (int64_t from = RAMET__MAX(r0, g->row), to = RAMET__MIN(r1, g->row + g->rows); from < to && g->key >= 0 && x->run->adapters[g->key][slot].rank; from = to)
void ramet__slot_round(const ramet__exec *x, int64_t slot, int32_t which, const ramet__pval *t, char *rounded, int64_t r0, int64_t r1) {
    const ramet__product *product = brain(x->plan, x->rows);
    const int64_t ld = (int64_t)ramet__slot_stride(x->plan, x->rows);
    EACH_ADAPTER(slot, r0, r1) {
        const ramet__slot_entry *e = &x->run->adapters[g->key][slot];
        float row[64];
        for (int64_t r = from; r < to; r++)
            for (int64_t c = 0; c < e->rank; c += 64) { /* 128 bytes are whole prepared rows */
                const int64_t n = RAMET__MIN(64, e->rank - c);
                x->k->scale(row, which ? e->scale : 1.0f, ramet__row(t, r) + c, n);
                product->scheme->prepare(rounded + r * ld + c * 2, row, n);
            }
    }
}
void ramet__slot_add(const ramet__exec *x, int64_t slot, int32_t which, const ramet__pval *t, const char *rounded, float *y, int64_t y_ld, int64_t cols, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                     void *scratch) {
    const ramet__product *product = brain(x->plan, x->rows);
    const int64_t ld = (int64_t)ramet__slot_stride(x->plan, x->rows);
    EACH_ADAPTER(slot, r0, r1) {
        const ramet__slot_entry *e = &x->run->adapters[g->key][slot];
        float *into = y + (from - r0) * y_ld;
        if (product) {
            const ramet__product_args a = {.m = to - from, .n = which ? cols : e->rank, .k = which ? e->rank : cols, .from = c0, .to = c1, .x = rounded + from * ld, .x_stride = ld, .rounded = 1,
                                           .packed = which ? e->b : e->a, .y = into, .y_stride = y_ld, .accumulate = 1, .scratch = scratch};
            (which ? product->forward : product->transposed)(&a);
        } else if (which) x->k->gemm_nt(into + c0, y_ld, ramet__row(t, from), t->cols, e->b + c0 * e->rank, e->rank, to - from, c1 - c0, e->rank, e->scale, 1);
        else x->k->gemm_nn(into + c0, y_ld, ramet__row(t, from), t->cols, e->a + c0, cols, to - from, c1 - c0, e->rank, 1.0f, 1);
    }
}

/* The wide side is what is rounded; the narrow one may have to be scaled before. */
static int32_t takes_narrow(const ramet__plan *p, const ramet__step *s, int32_t j) {
    const int32_t which = (int32_t)s->attr.i[1];
    if (!brain(p, p->max_rows)) return 0;
    if (s->op == &ramet__opdef_slot_tn) return j == !which;
    return j == 0 && s->in[1]->leaf == RAMET__LEAF_SLOT && which == (s->op == &ramet__opdef_slot_nn);
}
static double work(const ramet__plan *p, const ramet__step *s) {
    return (double)p->max_rows * (double)p->max_rank * (double)(s->attr.i[1] == (s->op == &ramet__opdef_slot_nt) ? s->out[0]->cols : s->in[0]->cols);
}
static ramet_status rows_prepare(ramet__plan *p, ramet__step *s) {
    if (s->in[1]->leaf != RAMET__LEAF_SLOT) p->one_adapter = 1;
    const ramet__product *product = brain(p, p->max_rows);
    const int64_t in = s->in[0]->cols, out = s->out[0]->cols, nt = s->op == &ramet__opdef_slot_nt;
    if (product)
        s->scratch_bytes = ramet__align(product->scheme->scratch_bytes(RAMET__GROUP_ROWS, nt ? out : in, nt ? in : out)) +
                           ramet__align(product->scheme->prepared_bytes(in) * RAMET__GROUP_ROWS) + RAMET__GROUP_ROWS * (uint64_t)p->max_rank * sizeof(float);
    return RAMET_OK;
}
/* y (+)= v m^T (nt) or v m, m being the adapter's matrix [n, k] */
static void rows_brain(const ramet__step *s, const ramet__exec *x, const ramet__product *product, const bound *b, float *y, const float *v, int64_t rows, int32_t add, void *scratch) {
    const int64_t in = s->in[0]->cols, out = s->out[0]->cols, which = s->attr.i[1], nt = s->op == &ramet__opdef_slot_nt;
    const int64_t n = which ? (nt ? out : in) : b->rank, k = which ? b->rank : nt ? in : out;
    const ramet__scheme *scheme = product->scheme;
    char *prepared = (char *)scratch + ramet__align(scheme->scratch_bytes(RAMET__GROUP_ROWS, nt ? out : in, nt ? in : out));
    float *narrow = (float *)(void *)(prepared + ramet__align(scheme->prepared_bytes(in) * RAMET__GROUP_ROWS));
    ramet__product_args a = {.m = rows, .n = n, .k = k, .to = nt ? n : k, .packed = b->m, .y = y, .y_stride = out, .accumulate = add, .scratch = scratch};
    a.x = v;
    a.rounded = ramet__narrow(x, s->in[0]);
    a.x_stride = a.rounded ? in * (int64_t)sizeof *v : in;
    if (nt && a.rounded) {
        product->forward(&a);
        return;
    }
    if (nt) {
        int64_t ld = in;
        if (b->scale != 1.0f) v = scaled(x, narrow, b->scale, v, in, rows, k), ld = k; /* rows of rank: which is 1 */
        a.x = prepared;
        a.x_stride = (int64_t)scheme->prepared_bytes(k);
        for (int64_t r = 0; r < rows; r++) scheme->prepare(prepared + r * a.x_stride, v + r * ld, k);
        product->forward(&a);
        return;
    }
    if (b->scale != 1.0f) a.y = narrow, a.y_stride = k, a.accumulate = 0;
    product->transposed(&a);
    for (int64_t r = 0; b->scale != 1.0f && r < rows; r++) {
        if (add) x->k->axpy(y + r * out, b->scale, narrow + r * k, k);
        else x->k->scale(y + r * out, b->scale, narrow + r * k, k);
    }
}
static int64_t rows_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    /* Nothing bound: a base that stands there already is the result; columns of rank go to steps of the same slot, which look away. */
    int32_t narrow = (s->op == &ramet__opdef_slot_nt) != s->attr.i[1];
    int32_t idle = !x->plan->bound[s->attr.i[0]] && (s->in[2] ? s->in[2]->data == s->out[0]->data : narrow);
    return phase || idle ? -1 : x->plan->groups.n_chunks;
}
static void rows_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    (void)phase;
    const ramet__span *c = &x->plan->groups.chunks[piece];
    bound b = matrix_of(s, x, c->key);
    int64_t in = s->in[0]->cols, out = s->out[0]->cols, which = s->attr.i[1], nt = s->op == &ramet__opdef_slot_nt;
    const float *v = ramet__row(s->in[0], c->row);
    float *y = ramet__row(s->out[0], c->row);
    int32_t add = s->in[2] != NULL;
    if (add && s->in[2]->data != s->out[0]->data)
        memcpy(y, ramet__row(s->in[2], c->row), (size_t)(c->rows * out) * sizeof *y);
    if (!add && (!b.m || b.rank < x->plan->max_rank)) memset(y, 0, (size_t)(c->rows * out) * sizeof *y);
    if (!b.m) return;
    const ramet__product *product = b.ld == (which ? b.rank : nt ? in : out) ? brain(x->plan, x->rows) : NULL;
    if (product) {
        rows_brain(s, x, product, &b, y, v, c->rows, add, scratch);
        for (int64_t r = 0; b.gain && r < c->rows; r++) x->k->mul(y + r * out, y + r * out, b.gain, out);
    } else if (nt) {
        x->k->gemm_nt(y, out, v, in, b.m, b.ld, c->rows, which ? out : b.rank, which ? b.rank : in, b.scale, add);
        for (int64_t r = 0; b.gain && r < c->rows; r++) x->k->mul(y + r * out, y + r * out, b.gain, out);
    } else
        x->k->gemm_nn(y, out, v, in, b.m, b.ld, c->rows, which ? b.rank : out, which ? in : b.rank, b.scale, add);
}
const ramet__op ramet__opdef_slot_nt = {.name = "slot_nt",
                                        .work = work,
                                        .overwrites = {4},
                                        .base = 2,
                                        .gradient = nt_gradient,
                                        .takes_narrow = takes_narrow,
                                        .prepare = rows_prepare,
                                        .pieces = rows_pieces,
                                        .run = rows_run};
const ramet__op ramet__opdef_slot_nn = {.name = "slot_nn",
                                        .work = work,
                                        .overwrites = {4},
                                        .base = 2,
                                        .gradient = nn_gradient,
                                        .takes_narrow = takes_narrow,
                                        .prepare = rows_prepare,
                                        .pieces = rows_pieces,
                                        .run = rows_run};

static ramet_status tn_prepare(ramet__plan *p, ramet__step *s) {
    p->one_adapter = 1;
    const ramet__product *product = brain(p, p->max_rows);
    if (product)
        s->scratch_bytes = ramet__align(product->scheme->scratch_bytes(1, s->out[0]->fixed, s->out[0]->cols)) + (uint64_t)((p->max_rows + OWNED) * p->max_rank) * sizeof(float);
    return RAMET_OK;
}
static int64_t tn_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    (void)x;
    return phase ? -1 : ramet__ceil_div(s->attr.i[1] ? s->out[0]->fixed : s->out[0]->cols, OWNED);
}
/* Column c of a row at v */
static const float *at(const ramet__exec *x, const ramet__pval *of, const float *v, int64_t c) {
    return ramet__narrow(x, of) ? (const float *)(const void *)((const uint16_t *)(const void *)v + c) : v + c;
}
static void tn_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    (void)phase;
    const ramet__product *product = brain(x->plan, x->rows);
    int64_t n = s->out[0]->fixed, k = s->out[0]->cols, which = s->attr.i[1], c0 = piece * OWNED,
            c1 = RAMET__MIN(which ? n : k, c0 + OWNED);
    float *y = (float *)s->out[0]->data;
    const ramet__pval *base = s->in[2];
    for (int64_t r = which ? c0 : 0; r < (which ? c1 : n); r++) {
        int64_t from = which ? 0 : c0, cols = which ? k : c1 - c0;
        if (!base)
            memset(y + r * k + from, 0, (size_t)cols * sizeof *y);
        else if (base->data != s->out[0]->data)
            memcpy(y + r * k + from, ramet__row(base, r) + from, (size_t)cols * sizeof *y);
    }
    const ramet__spans *groups = &x->plan->groups;
    for (int64_t i = 0; i < groups->n_runs; i++) {
        const ramet__span *g = &groups->runs[i];
        if (g->key < 0 || !x->run->adapters[g->key][s->attr.i[0]].rank) continue;
        const ramet__slot_entry *e = &x->run->adapters[g->key][s->attr.i[0]];
        const float *dy = ramet__row(s->in[0], g->row), *v = ramet__row(s->in[1], g->row);
        if (product) {
            float *narrow = (float *)(void *)((char *)scratch + ramet__align(product->scheme->scratch_bytes(1, n, k)));
            if (which) { /* turned over: fewer rows are, as rank is the smaller side */
                float *turned = narrow + x->plan->max_rows * x->plan->max_rank;
                product->scheme->outer(turned, c1 - c0, scaled(x, narrow, e->scale, v, k, g->rows, e->rank), e->rank, at(x, s->in[0], dy, c0), n, e->rank, c1 - c0, g->rows, 0, ramet__narrow(x, s->in[0]), scratch);
                for (int64_t r = c0; r < c1; r++)
                    for (int64_t j = 0; j < e->rank; j++) y[r * k + j] += turned[j * (c1 - c0) + r - c0];
            } else product->scheme->outer(y + c0, k, dy, n, at(x, s->in[1], v, c0), k, e->rank, c1 - c0, g->rows, 1, ramet__narrow(x, s->in[1]), scratch);
        } else if (which)
            x->k->gemm_tn(y + c0 * k, k, dy + c0, n, v, k, c1 - c0, e->rank, g->rows, e->scale, 1);
        else
            x->k->gemm_tn(y + c0, k, dy, n, v + c0, k, e->rank, c1 - c0, g->rows, 1.0f, 1);
    }
}
const ramet__op ramet__opdef_slot_tn = {.name = "slot_tn",
                                        .overwrites = {4},
                                        .base = 2,
                                        .gradient = tn_gradient,
                                        .takes_narrow = takes_narrow,
                                        .prepare = tn_prepare,
                                        .pieces = tn_pieces,
                                        .run = tn_run};
