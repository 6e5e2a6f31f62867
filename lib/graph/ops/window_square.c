/* SPDX-License-Identifier: Apache-2.0 */
/* window_square.c - gradients of single examples: how long each is, without holding one, and sums in which none is longer than a limit (Abadi et al.
 * 2016, arXiv:1607.00133). Each row of a run belongs to a window. A parameter's gradient is a sum over sites: products dy^T x, rows added up by id, sums of
 * rows. A piece of work makes one block of it from the rows of one window, in scratch, adds up its squares and forgets it. The sites' rows,
 * scaled by what a window's length asks for, then give the limited sum: one backward pass (Bu et al. 2022, arXiv:2210.00038). */
#include "graph/op.h"
#include <string.h>

#define BLOCK 192 /* rows and columns */
#define SITES ((RAMET__NODE_IN - 2) / 2)

/* in: the window of each row, of each out; then for each site dy and x, x being other rows (dy^T x), ids (dy added up by them) or -1 (the sum of dy).
 * attr: rows and columns of the gradient, windows; slot + 1 and which where it is that of an adapter. */
typedef struct sites { ramet__val dy[SITES], x[SITES]; int32_t n; int64_t rows, cols, slot, which; } sites;

static ramet__val square(ramet__graph *g, const sites *s, const ramet__val window[2], int64_t windows) {
    ramet__val in[RAMET__NODE_IN] = {window[0], window[1]};
    ramet__gshape out = ramet__gshape2(RAMET__AXIS_STATIC, windows, 1);
    ramet__attr attr = {.i = {s->rows, s->cols, windows, s->slot, s->which}};
    for (int32_t i = 0; i < s->n; i++) {
        in[2 + 2 * i] = s->dy[i];
        in[3 + 2 * i] = s->x[i];
    }
    return ramet__node_add(g, &ramet__opdef_window_square, in, 2 + 2 * s->n, &out, 1, &attr);
}

/* ---- from gradients to sites and back ---- */
static int32_t collect(ramet__graph *g, sites *s, ramet__val v) {
    const ramet__node *n = ramet__producer(g, v);
    if (!n || s->n == SITES) return 0;
    if (n->op == &ramet__opdef_add && n->attr.i[0] == 0) return collect(g, s, n->in[0]) && collect(g, s, n->in[1]);
    const ramet__op *op = n->op;
    const ramet__val a = n->in[0], b = n->n_in > 1 ? n->in[1] : -1;
    if (op == &ramet__opdef_rms_norm_dw) {
        ramet__node copy = *n;
        ramet__val out = -1;
        op->expand(g, &copy, &out);
        return collect(g, s, out);
    }
    if (op == &ramet__opdef_slot_tn) s->slot = n->attr.i[0] + 1, s->which = n->attr.i[1];
    else if (op == &ramet__opdef_sum_rows && ramet__graph_shape(g, a)->axis == RAMET__AXIS_STATIC) return 0;
    else if (op != &ramet__opdef_linear_dw && op != &ramet__opdef_embed_grad && op != &ramet__opdef_sum_rows) return 0;
    s->dy[s->n] = a;
    s->x[s->n++] = op == &ramet__opdef_sum_rows ? -1 : b;
    return 1;
}
/* The sum of the sites with every row times the factor of its window. */
static ramet__val limited(ramet__graph *g, const sites *s, const ramet__val factor[2]) {
    ramet__val sum = -1;
    for (int32_t i = 0; i < s->n; i++) {
        ramet__val dy = s->dy[i], x = s->x[i], part;
        const int32_t two = x >= 0 && ramet__graph_type(g, x) == RAMET__TYPE_F32, narrow = two && ramet__gcols(ramet__graph_shape(g, x)) < ramet__gcols(ramet__graph_shape(g, dy));
        const ramet__val scaled = ramet__op_row_scale(g, narrow ? x : dy, factor[ramet__graph_shape(g, dy)->axis == RAMET__AXIS_OUTS]);
        if (narrow) x = scaled;
        else dy = scaled;
        part = s->slot ? ramet__op_slot_tn(g, dy, x, s->slot - 1, s->which) : two ? ramet__op_linear_dw(g, dy, x) : x >= 0 ? ramet__op_embed_grad(g, dy, x, s->rows) : ramet__op_sum_rows(g, dy);
        sum = sum < 0 ? part : ramet__op_add(g, sum, part);
    }
    return sum;
}

ramet__val ramet__graph_limit_windows(ramet__graph *g, ramet__val *grads, int32_t n, const char *const *names, int64_t windows, float limit) {
    sites *s = ramet__calloc(g->rt->mem, (size_t)n + 1, sizeof *s);
    ramet__val total = -1, factor[2];
    if (!s) {
        ramet__graph_fail(g, RAMET_E_MEMORY, "graph: out of memory");
        return -1;
    }
    const ramet__val window[2] = {ramet__graph_input(g, "window", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0), ramet__graph_input(g, "window_out", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0)};
    for (int32_t i = 0; i < n && !g->status; i++) {
        if (grads[i] < 0) continue;
        const ramet__gshape shape = *ramet__graph_shape(g, grads[i]);
        s[i].rows = ramet__grows(&shape);
        s[i].cols = ramet__gcols(&shape);
        if (!collect(g, &s[i], grads[i]) || (s[i].slot && s[i].n > 1)) {
            const ramet__node *made = ramet__producer(g, grads[i]);
            ramet__graph_fail(g, RAMET_E_UNSUPPORTED, "the gradients of single windows for '%s' cannot be told apart (operation '%s')", names[i], made ? made->op->name : "none");
            break;
        }
        const ramet__val one = square(g, &s[i], window, windows);
        total = total < 0 ? one : ramet__op_add(g, total, one);
    }
    if (total >= 0 && !g->status) { /* min(1, limit / length) */
        const ramet__val one = ramet__graph_const(g, 1.0f), ratio = ramet__op_scale(g, ramet__op_rsqrt(g, total), limit);
        const ramet__val f = ramet__op_sub(g, ramet__op_fill(g, one, &(ramet__gshape){2, RAMET__AXIS_STATIC, {windows, 1}}),
                                           ramet__op_relu(g, ramet__op_add(g, ramet__op_scale(g, ratio, -1.0f), one)));
        for (int32_t i = 0; i < 2; i++) factor[i] = ramet__op_row_sum(g, ramet__op_embed(g, f, window[i]));
        for (int32_t i = 0; i < n; i++)
            if (grads[i] >= 0) grads[i] = limited(g, &s[i], factor);
    }
    ramet__free(s);
    return total;
}

/* ---- running ---- */
static int64_t across(const ramet__step *s) { return ramet__ceil_div(s->attr.i[1], BLOCK); }
static int64_t blocks(const ramet__step *s) { return ramet__ceil_div(s->attr.i[0], BLOCK) * across(s); }

static ramet_status prepare(ramet__plan *p, ramet__step *s) {
    const ramet__product *product = ramet__kernels_product(p->rt->kernels, "F32", ramet__plan_arithmetic(p));
    for (int32_t i = 0; i < 2; i++)
        if (s->in[i]->leaf == RAMET__LEAF_INPUT) RAMET__TRY(ramet__plan_check_ids(p, s->in[i], 0, s->attr.i[2], "window_square"));
    s->scratch_bytes = ramet__align(RAMET__MIN(s->attr.i[0], BLOCK) * RAMET__MIN(s->attr.i[1], BLOCK) * (int64_t)sizeof(float));
    if (p->mode != RAMET__MODE_EXACT && product->scheme->outer) {
        s->extra = (void *)(uintptr_t)product;
        s->scratch_bytes += product->scheme->scratch_bytes(1, s->attr.i[0], s->attr.i[1]);
    }
    s->shared_bytes = (uint64_t)(s->attr.i[2] * blocks(s)) * sizeof(double);
    if (s->attr.i[3]) p->one_adapter = 1;
    return RAMET_OK;
}
static double work(const ramet__plan *p, const ramet__step *s) {
    (void)p;
    return (double)s->attr.i[0] * (double)s->attr.i[1] * (double)s->in[2]->fixed;
}
static int64_t pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    (void)x;
    return phase == 0 ? s->attr.i[2] * blocks(s) : phase == 1 ? 1 : -1;
}
static void run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    const int64_t n_blocks = blocks(s), w = piece / n_blocks, at = piece % n_blocks, n0 = at / across(s) * BLOCK, k0 = at % across(s) * BLOCK;
    const int64_t n = RAMET__MIN(BLOCK, s->attr.i[0] - n0), k = RAMET__MIN(BLOCK, s->attr.i[1] - k0);
    double *part = s->shared;
    if (phase == 1) {
        for (int64_t i = 0; i < s->attr.i[2]; i++, part += n_blocks) {
            double sum = 0;
            for (int64_t j = 0; j < n_blocks; j++) sum += part[j];
            *ramet__row(s->out[0], i) = (float)sum;
        }
        return;
    }
    float *block = scratch, scale = 1.0f;
    if (s->attr.i[3] && s->attr.i[4] && x->run->n_adapters) scale = x->run->adapters[0][s->attr.i[3] - 1].scale;
    char *room = (char *)scratch + ramet__align((uint64_t)(RAMET__MIN(s->attr.i[0], BLOCK) * RAMET__MIN(s->attr.i[1], BLOCK)) * sizeof(float));
    int32_t any = 0;
    for (int32_t i = 2; i < s->n_in; i += 2) {
        const ramet__pval *dy = s->in[i], *v = s->in[i + 1], *window = s->in[dy->axis == RAMET__AXIS_OUTS];
        const int32_t *of = window->data, add = v && v->type == RAMET__TYPE_F32;
        int64_t r0 = 0, rows = ramet__count(x, dy), r1;
        while (r0 < rows && of[r0] != w) r0++;
        for (r1 = r0; r1 < rows && of[r1] == w;) r1++;
        if (r0 == r1) continue;
        if (!any && !add) memset(block, 0, (size_t)(n * k) * sizeof *block);
        const ramet__product *product = s->extra;
        if (add && product) product->scheme->outer(block, k, ramet__row(dy, r0) + n0, dy->cols, ramet__row(v, r0) + k0, v->cols, n, k, r1 - r0, any, 0, room);
        else if (add) x->k->gemm_tn(block, k, ramet__row(dy, r0) + n0, dy->cols, ramet__row(v, r0) + k0, v->cols, n, k, r1 - r0, 1.0f, any);
        for (int64_t r = r0; r < r1 && !add; r++) {
            const int64_t to = v ? ((const int32_t *)v->data)[r] - n0 : 0;
            if (to >= 0 && to < n) x->k->add(block + to * k, block + to * k, ramet__row(dy, r) + k0, k);
        }
        any = 1;
    }
    part[piece] = any ? (double)scale * scale * x->k->sumsq(block, n * k) : 0.0;
}
const ramet__op ramet__opdef_window_square = {.name = "window_square", .work = work, .prepare = prepare, .pieces = pieces, .run = run};
