/* SPDX-License-Identifier: Apache-2.0 */
/* experts.c - each row times the matrix of its own expert: w [E*n,k] holds one [n,k] after another, and the first largest number of a row of
 * `choice` [rows,E] says which (Shazeer 2017). y = x W^T, x W, and the matrices' gradient y^T x are closed under differentiation; a choice has none.
 * A run sorts the rows by expert, so that every product is one of neighbours, and a row costs what one expert does. */
#include "graph/op.h"
#include <string.h>

enum { NT, NN, TN }; /* attr.i[0] */
#define CHUNK 64     /* rows of one expert in a piece */
#define COLS 128     /* columns of a piece where the kernels name none */
#define OWNED 192    /* rows and columns of a matrix's gradient in a piece */
#define GATHER 8     /* rows that a piece puts in order */

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static ramet__val node(ramet__graph *g, ramet__val a, ramet__val b, ramet__val choice, int64_t form) {
    static const char op[] = "experts";
    if (!ramet__want(g, ramet__is_val(g, a) && ramet__is_val(g, b) && ramet__is_val(g, choice) && shape(g, a)->rank == 2 && shape(g, b)->rank == 2 && shape(g, choice)->rank == 2, op,
                     "needs rows, matrices and choices"))
        return -1;
    const ramet__gshape *x = shape(g, a), *w = shape(g, b), *c = shape(g, choice);
    const int64_t experts = ramet__gcols(c), n = form == TN ? ramet__gcols(x) : ramet__grows(w) / experts, k = ramet__gcols(w);
    char tx[96], tw[96], tc[96];
    ramet__gshape_text(tx, x);
    ramet__gshape_text(tw, w);
    ramet__gshape_text(tc, c);
    if (!ramet__want(g, c->axis == x->axis && ramet__grows(c) == ramet__grows(x) &&
                            (form == TN || (w->axis == RAMET__AXIS_STATIC && n * experts == ramet__grows(w) && ramet__gcols(x) == (form == NT ? k : n))), op,
                     "rows %s and choices %s do not go with matrices %s", tx, tc, tw))
        return -1;
    const ramet__val in[3] = {a, b, choice};
    const ramet__attr attr = {.i = {form, n, k, experts}};
    const ramet__gshape out = form == TN ? ramet__gshape2(RAMET__AXIS_STATIC, experts * n, k) : ramet__gshape2(x->axis, ramet__grows(x), form == NT ? n : k);
    return ramet__node_add(g, &ramet__opdef_experts, in, 3, &out, 1, &attr);
}
ramet__val ramet__op_experts(ramet__graph *g, ramet__val x, ramet__val w, ramet__val choice) { return node(g, x, w, choice, NT); }
static void gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    const ramet__val a = n->in[0], b = n->in[1], c = n->in[2], d = dout[0];
    const int64_t form = n->attr.i[0];
    if (ramet__needs(g, n, 0)) din[0] = form == NT ? node(g, d, b, c, NN) : form == NN ? node(g, d, b, c, NT) : node(g, b, d, c, NT);
    if (ramet__needs(g, n, 1)) din[1] = form == NT ? node(g, d, a, c, TN) : form == NN ? node(g, a, d, c, TN) : node(g, a, d, c, NN);
}

typedef struct info {
    const ramet__product *product; /* NULL: general products */
    uint64_t a, b, stride;         /* in shared room: rows in order, prepared for a product, and those of the other factor; bytes between the first */
    uint64_t scratch;              /* of a worker: first the kernel's, then results */
    int64_t cols;                  /* of a piece */
} info;
static int64_t *starts(const ramet__step *s) { return s->shared; }           /* [E+1], then [E] while sorting */
static int32_t *order(const ramet__step *s) { return (int32_t *)(starts(s) + 2 * s->attr.i[3] + 1); }
static float *ordered(const ramet__step *s, uint64_t at, int64_t row, int64_t cols) { return (float *)(void *)((char *)s->shared + at) + row * cols; }

static ramet_status prepare(ramet__plan *p, ramet__step *s) {
    info *f = s->extra = ramet__arena_alloc(&p->names, sizeof *f);
    if (!f) return ramet__alloc_status();
    const int64_t form = s->attr.i[0], n = s->attr.i[1], k = s->attr.i[2], rows = s->in[0]->fixed;
    const ramet__product *product = ramet__kernels_product(p->rt->kernels, "F32", ramet__plan_arithmetic(p));
    const int32_t rounds = p->mode != RAMET__MODE_EXACT && product->scheme->outer && product->packing->in_place && (form == TN || s->in[1]->leaf == RAMET__LEAF_VAR);
    *f = (info){.product = rounds ? product : NULL, .cols = form == TN ? OWNED : rounds ? product->scheme->piece[form == NT ? RAMET__FORWARD : RAMET__BACK].cols : COLS};
    f->stride = rounds && form == NT ? product->scheme->prepared_bytes(k) : (uint64_t)s->in[0]->cols * sizeof(float);
    f->a = ramet__align((uint64_t)(2 * s->attr.i[3] + 1) * sizeof(int64_t) + (uint64_t)rows * sizeof(int32_t));
    f->b = f->a + ramet__align((uint64_t)rows * f->stride);
    s->shared_bytes = f->b + (form == TN ? (uint64_t)(rows * k) * sizeof(float) : 0);
    f->scratch = rounds ? ramet__align(product->scheme->scratch_bytes(form == TN ? 1 : CHUNK, n, k)) : 0;
    s->scratch_bytes = f->scratch + (form == TN ? 0 : (uint64_t)(CHUNK * s->out[0]->cols) * sizeof(float));
    return RAMET_OK;
}
static double work(const ramet__plan *p, const ramet__step *s) {
    (void)p;
    return (double)s->in[0]->fixed * (double)s->attr.i[1] * (double)s->attr.i[2];
}
static void sort(const ramet__step *s, int64_t rows) {
    const int64_t experts = s->attr.i[3];
    int64_t *start = starts(s), *next = start + experts + 1;
    memset(start, 0, (size_t)(experts + 1) * sizeof *start);
    for (int32_t pass = 0; pass < 2; pass++) {
        for (int64_t r = 0; r < rows; r++) {
            const float *c = ramet__row(s->in[2], r);
            int64_t e = 0;
            for (int64_t i = 1; i < experts; i++)
                if (c[i] > c[e]) e = i;
            if (pass) order(s)[next[e]++] = (int32_t)r;
            else start[e + 1]++;
        }
        for (int64_t e = 0; e < experts && !pass; e++) next[e] = start[e], start[e + 1] += start[e];
    }
}
static int64_t pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    const info *f = s->extra;
    const int64_t experts = s->attr.i[3];
    int64_t chunks = 0;
    if (phase < 2) return phase ? ramet__ceil_div(ramet__count(x, s->in[0]), GATHER) : 1;
    if (phase > 2) return -1;
    if (s->attr.i[0] == TN) return experts * ramet__ceil_div(s->attr.i[1], OWNED) * ramet__ceil_div(s->attr.i[2], OWNED);
    for (int64_t e = 0; e < experts; e++) chunks += ramet__ceil_div(starts(s)[e + 1] - starts(s)[e], CHUNK);
    return chunks * ramet__ceil_div(s->out[0]->cols, f->cols);
}
static void block_of_gradient(const ramet__step *s, const ramet__exec *x, int64_t piece, void *scratch) {
    const info *f = s->extra;
    const int64_t n = s->attr.i[1], k = s->attr.i[2], down = ramet__ceil_div(n, OWNED), across = ramet__ceil_div(k, OWNED), e = piece / (down * across);
    const int64_t n0 = piece / across % down * OWNED, n1 = RAMET__MIN(n, n0 + OWNED), k0 = piece % across * OWNED, k1 = RAMET__MIN(k, k0 + OWNED);
    const int64_t r0 = starts(s)[e], rows = starts(s)[e + 1] - r0;
    float *dw = ramet__row(s->out[0], e * n + n0) + k0;
    const float *a = ordered(s, f->a, r0, n) + n0, *b = ordered(s, f->b, r0, k) + k0;
    if (!rows)
        for (int64_t r = 0; r < n1 - n0; r++) memset(dw + r * k, 0, (size_t)(k1 - k0) * sizeof *dw);
    else if (f->product) f->product->scheme->outer(dw, k, a, n, b, k, n1 - n0, k1 - k0, rows, 0, 0, scratch);
    else x->k->gemm_tn(dw, k, a, n, b, k, n1 - n0, k1 - k0, rows, 1.0f, 0);
}
static void run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    const info *f = s->extra;
    const int64_t form = s->attr.i[0], n = s->attr.i[1], k = s->attr.i[2], rows = ramet__count(x, s->in[0]), in = s->in[0]->cols, out = s->out[0]->cols;
    if (phase == 0) {
        sort(s, rows);
        return;
    }
    if (phase == 1) {
        for (int64_t i = piece * GATHER; i < RAMET__MIN(rows, (piece + 1) * GATHER); i++) {
            void *to = (char *)s->shared + f->a + (uint64_t)i * f->stride;
            if (f->product && form == NT) ramet__prepare(x->plan, f->product, to, ramet__row(s->in[0], order(s)[i]), in);
            else memcpy(to, ramet__row(s->in[0], order(s)[i]), (size_t)in * sizeof(float));
            if (form == TN) memcpy(ordered(s, f->b, i, k), ramet__row(s->in[1], order(s)[i]), (size_t)k * sizeof(float));
        }
        return;
    }
    if (form == TN) {
        block_of_gradient(s, x, piece, scratch);
        return;
    }
    const int64_t across = ramet__ceil_div(out, f->cols), c0 = piece % across * f->cols, c1 = RAMET__MIN(out, c0 + f->cols);
    int64_t e = 0, chunk = piece / across, here;
    for (; chunk >= (here = ramet__ceil_div(starts(s)[e + 1] - starts(s)[e], CHUNK)); e++) chunk -= here;
    const int64_t r0 = starts(s)[e] + chunk * CHUNK, m = RAMET__MIN(CHUNK, starts(s)[e + 1] - r0);
    const void *a = (const char *)s->shared + f->a + (uint64_t)r0 * f->stride;
    const float *w = ramet__row(s->in[1], e * n);
    float *y = (float *)(void *)((char *)scratch + f->scratch);
    if (f->product) {
        const ramet__product_args args = {.m = m, .n = n, .k = k, .from = c0, .to = c1, .x = a, .x_stride = form == NT ? (int64_t)f->stride : in, .packed = w, .y = y, .y_stride = out, .scratch = scratch};
        (form == NT ? f->product->forward : f->product->transposed)(&args);
    } else if (form == NT) x->k->gemm_nt(y + c0, out, a, in, w + c0 * k, k, m, c1 - c0, k, 1.0f, 0);
    else x->k->gemm_nn(y + c0, out, a, in, w + c0, k, m, c1 - c0, n, 1.0f, 0);
    for (int64_t r = 0; r < m; r++) memcpy(ramet__row(s->out[0], order(s)[r0 + r]) + c0, y + r * out + c0, (size_t)(c1 - c0) * sizeof *y);
}
const ramet__op ramet__opdef_experts = {.name = "experts", .work = work, .gradient = gradient, .prepare = prepare, .pieces = pieces, .run = run};
