/* SPDX-License-Identifier: Apache-2.0 */
/* linear.c - y = x W^T (+ bias) (+ base). W is an encoded weight (a product of the kernels: activations prepared once, then
 * pieces of rows x outputs) or plain numbers (general products). Gradients: linear_grad.c.
 *
 * Fusion turns several products of one x into one node of up to three parts: in = x, then W, bias and base of each
 * part, then of each part what a slot adds: its low-rank activations and its matrix. The first product of an adapter slot is a node of its own
 * (slot.c), so that these activations are there for the gradient.
 */
#include "graph/ops/linear.h"
#include <string.h>

#define PARTS 3
#define SLOTS (1 + 3 * PARTS) /* the first input of slots */
#define DENSE_COLS 128
#define MANY_PIECES 8
#define WHOLE_COLS 64 /* pieces have so many columns, times a number */
#define LEAST_COLS 32 /* or times this, where workers would wait; and at least so many rows */
#define LEAST_ROWS 32
#define ROW_STEP 8 /* bands of rows have so many, times a number */

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
int32_t ramet__linear_check(ramet__graph *g, ramet__val x, ramet__val w, int32_t dim, const char *op) {
    if (!ramet__want(g, ramet__is_val(g, x) && ramet__is_val(g, w) && ramet__graph_type(g, x) == RAMET__TYPE_F32, op,
                     "no such value"))
        return 0;
    if (!ramet__want(g, shape(g, w)->rank == 2 && shape(g, w)->axis == RAMET__AXIS_STATIC, op,
                     "the weight must be a matrix"))
        return 0;
    char tx[96], tw[96];
    ramet__gshape_text(tx, shape(g, x));
    ramet__gshape_text(tw, shape(g, w));
    const char *name = g->values[w].weight ? ramet__weight_name(g->values[w].weight)
                       : g->values[w].var  ? g->values[w].var->name
                                           : "";
    return ramet__want(g, shape(g, x)->rank == 2 && ramet__gcols(shape(g, x)) == shape(g, w)->dim[dim], op,
                       "rows %s do not go with the weight %s %s", tx, name, tw);
}

ramet__val ramet__op_linear(ramet__graph *g, ramet__val x, ramet__val w, ramet__val bias, const ramet__slot *slot) {
    if (!ramet__linear_check(g, x, w, 1, "linear")) return -1;
    int64_t n = shape(g, w)->dim[0], k = shape(g, w)->dim[1];
    if (bias >= 0 &&
        !ramet__want(g,
                     ramet__is_val(g, bias) && ramet__grows(shape(g, bias)) == 1 && ramet__gcols(shape(g, bias)) == n,
                     "linear", "the bias must have one number an output"))
        return -1;
    const int32_t gain = slot && slot->gain; /* multiplies the product alone: the bias comes after it */
    ramet__val in[4] = {x, w, gain ? -1 : bias, -1};
    ramet__attr attr = {.i = {1}};
    ramet__gshape out = ramet__gshape2(shape(g, x)->axis, ramet__grows(shape(g, x)), n);
    ramet__val y = ramet__node_add(g, &ramet__opdef_linear, in, 4, &out, 1, &attr);
    if (!slot || y < 0) return y;
    if (!ramet__want(g,
                     ramet__is_val(g, slot->a) && ramet__is_val(g, slot->b) &&
                         g->values[slot->a].leaf == RAMET__LEAF_SLOT && shape(g, slot->a)->dim[1] == k &&
                         shape(g, slot->b)->dim[0] == n,
                     "linear", "the slot has another shape than the weight"))
        return -1;
    int64_t index = g->values[slot->a].index / 2;
    ramet__val t = ramet__op_slot_nt(g, x, slot->a, -1, index, 0);
    y = ramet__op_slot_nt(g, t, slot->b, y, index, 1);
    if (y >= 0 && gain) g->nodes[g->n_nodes - 1].attr.i[2] = 1;
    return gain && bias >= 0 ? ramet__op_add(g, y, bias) : y;
}
static void linear_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    if (ramet__needs(g, n, 0)) din[0] = ramet__op_linear_dx(g, dout[0], n->in[1]);
    if (ramet__needs(g, n, 1)) din[1] = ramet__op_linear_dw(g, dout[0], n->in[0]);
    if (ramet__needs(g, n, 2)) din[2] = ramet__op_sum_rows(g, dout[0]);
}
/* ---- forward ---- */
/* Few rows wait for memory, and streams of weights are the faster the longer they are: each worker has one stretch of the outputs of all parts, in
 * blocks of BLOCK. An output's bits do not depend on the cut. */
#define FEW_ROWS 8
#define BLOCK 16
typedef struct linear_info {
    int32_t parts;
    linear_part few[PARTS], many[PARTS]; /* many: used where so many rows are multiplied otherwise */
    uint64_t slot_at, slot_stride;       /* rounded activations of slots in shared room, of each part in turn */
    uint64_t gate_at;                    /* of a gated step: a piece of both parts, in a worker's room */
} linear_info;
/* linear_swiglu: two parts, of which silu(first) * second alone is kept; linear_gelu: one, of which gelu is */
static int32_t gated(const ramet__step *s) { return s->op != &ramet__opdef_linear; }
static int64_t cols_of(const ramet__step *s, int32_t part) { return s->in[1 + 3 * part]->fixed; }
static const linear_part *parts_of(const ramet__step *s, const ramet__plan *p, int64_t rows) {
    const linear_info *info = s->extra;
    return ramet__plan_arithmetic_of(p, rows) == ramet__plan_arithmetic(p) ? info->few : info->many;
}
static int32_t linear_takes_narrow(const ramet__plan *p, const ramet__step *s, int32_t j) {
    const linear_part *part = parts_of(s, p, s->in[0]->fixed);
    int32_t all = j == 0;
    for (int32_t i = 0; i < ((const linear_info *)s->extra)->parts; i++) all &= part[i].product && part[i].product->scheme->rounds;
    return all;
}

const ramet__product *ramet__linear_product(const ramet__plan *p, const ramet__pval *w, int32_t arithmetic) {
    const ramet__product *product;
    if (w->leaf == RAMET__LEAF_WEIGHT) return ramet__weight_product(w->weight, arithmetic);
    if (w->leaf != RAMET__LEAF_VAR || p->mode == RAMET__MODE_EXACT) return NULL;
    product = ramet__kernels_product(p->rt->kernels, "F32", arithmetic);
    return product->packing->in_place && product->scheme->outer ? product : NULL;
}

void ramet__linear_most(linear_part *part, const ramet__product *product, int32_t way, int64_t rows) {
    part->product = product;
    part->rows = product ? product->scheme->piece[way].rows : DENSE_ROWS;
    if (product && product->scheme->rounds && rows >= MANY_PIECES * part->rows) part->rows *= 2;
    part->cols = product ? product->scheme->piece[way].cols : DENSE_COLS;
}
/* Of so many bands, at most `most` in each */
static int64_t even_rows(int64_t most, int64_t rows, int64_t bands) { return RAMET__MIN(most, RAMET__ROUND_UP(ramet__ceil_div(rows, bands), ROW_STEP)); }
/* Pieces of fewer rows and columns, in even bands, of which the last is done first: a piece's time is its size, and what it
 * arranges for that: a row as long as 8 columns take, a column as long as 4 rows. */
static linear_piece share_out(linear_piece most, int64_t rows, int64_t cols, int64_t step, int64_t workers) {
    const int64_t down = ramet__ceil_div(rows, most.rows), across = ramet__ceil_div(cols, most.cols);
    linear_piece best = most;
    int64_t least = INT64_MAX;
    for (int64_t bands = down; bands <= down + 2 * workers; bands++) {
        const int64_t r = even_rows(most.rows, rows, bands);
        if (bands > down && r < LEAST_ROWS) break;
        for (int64_t n = across; n <= across + 2 * workers; n++) {
            const int64_t c = RAMET__MIN(most.cols, RAMET__ROUND_UP(ramet__ceil_div(cols, n), step)), tall = RAMET__MIN(r, rows);
            const int64_t pieces = ramet__ceil_div(rows, r) * ramet__ceil_div(cols, c), time = ramet__ceil_div(pieces, workers) * (tall * c + 8 * tall + 4 * c);
            if (time < least) {
                least = time;
                best = (linear_piece){r, c};
            }
        }
    }
    return best;
}
/* Whether so many pieces leave workers waiting long */
static int32_t waits(int64_t pieces, int64_t workers) { return 6 * (RAMET__ROUND_UP(pieces, workers) - pieces) > pieces; }
linear_piece ramet__linear_piece(const linear_part *part, int64_t rows, int64_t cols, int64_t workers) {
    int64_t of = part->rows, down, across = ramet__ceil_div(cols, part->cols);
    while ((down = ramet__ceil_div(rows, of)), of >= 2 * DENSE_ROWS && waits(down * across, workers)) of /= 2;
    if (waits(down * across, workers)) {
        const int64_t step = part->product ? RAMET__MAX(LEAST_COLS, part->product->packing->k_block) : LEAST_COLS;
        return share_out((linear_piece){of, part->cols}, rows, cols, step, workers);
    }
    return (linear_piece){even_rows(of, rows, down), RAMET__MIN(part->cols, RAMET__ROUND_UP(ramet__ceil_div(cols, across), WHOLE_COLS))};
}
/* The parts of a step that has at most so many rows; their prepared activations take `bytes` of shared room. */
static void cut_parts(linear_part *part, ramet__plan *p, ramet__step *s, int64_t rows, int32_t arithmetic) {
    uint64_t bytes = 0;
    const int64_t k = s->in[0]->cols;
    for (int32_t i = 0; i < s->attr.i[0]; i++) {
        const ramet__pval *w = s->in[1 + 3 * i];
        ramet__linear_most(&part[i], ramet__linear_product(p, w, arithmetic), RAMET__FORWARD, rows);
        const ramet__product *product = part[i].product;
        if (!product) continue;
        s->scratch_bytes = RAMET__MAX(s->scratch_bytes, product->scheme->scratch_bytes(RAMET__MIN(rows, part[i].rows), w->fixed, k));
        part[i].prepares = 1;
        for (int32_t j = 0; j < i && part[i].prepares; j++) {
            const linear_part *other = &part[j];
            if (!other->product || other->product->scheme->prepare != product->scheme->prepare || other->product->scheme->prepared_bytes != product->scheme->prepared_bytes) continue;
            part[i].prepares = 0;
            part[i].at = other->at;
            part[i].stride = other->stride;
        }
        if (!part[i].prepares) continue;
        part[i].at = bytes;
        part[i].stride = product->scheme->prepared_bytes(k);
        bytes += ramet__align(part[i].stride * (uint64_t)rows);
    }
    s->shared_bytes = RAMET__MAX(s->shared_bytes, bytes);
}
/* What a slot adds to a part: its low-rank activations, or NULL */
static const ramet__pval *slot_of(const ramet__step *s, int32_t part) { return s->n_in > SLOTS ? s->in[SLOTS + 2 * part] : NULL; }
static char *rounded_slot(const ramet__step *s, int32_t part) {
    const linear_info *info = s->extra;
    return (char *)s->shared + info->slot_at + (uint64_t)(part * s->in[0]->fixed) * info->slot_stride;
}
static int32_t rounds_slot(const ramet__step *s, const ramet__exec *x, int32_t part) {
    return slot_of(s, part) && x->plan->bound[s->attr.i[1 + part]] && ramet__slot_stride(x->plan, x->rows);
}
static ramet_status linear_prepare(ramet__plan *p, ramet__step *s) {
    linear_info *info = ramet__arena_alloc(&p->names, sizeof *info);
    if (!info) return ramet__alloc_status();
    s->extra = info;
    info->parts = (int32_t)s->attr.i[0];
    const int64_t rows = s->in[0]->fixed;
    const int32_t few = ramet__plan_arithmetic(p), many = ramet__plan_arithmetic_of(p, rows);
    cut_parts(info->few, p, s, many == few ? rows : p->rt->kernels->brain_rows - 1, few);
    if (many != few) cut_parts(info->many, p, s, rows, many);
    info->slot_at = ramet__align(s->shared_bytes);
    info->slot_stride = ramet__slot_stride(p, rows);
    for (int32_t i = 0; i < info->parts; i++)
        if (slot_of(s, i)) {
            const int64_t piece = RAMET__MIN(rows, RAMET__MAX(info->few[i].rows, info->many[i].rows));
            s->shared_bytes = info->slot_at + (uint64_t)((i + 1) * rows) * info->slot_stride;
            s->scratch_bytes = RAMET__MAX(s->scratch_bytes, ramet__slot_add_bytes(p, piece, cols_of(s, i)));
        }
    if (gated(s)) {
        int64_t numbers = FEW_ROWS * cols_of(s, 0);
        for (int32_t i = 0; i < info->parts; i++) numbers = RAMET__MAX(numbers, RAMET__MAX(info->few[i].rows * info->few[i].cols, info->many[i].rows * info->many[i].cols));
        info->gate_at = ramet__align(s->scratch_bytes);
        s->scratch_bytes = info->gate_at + 2 * (uint64_t)numbers * sizeof(float);
    }
    return RAMET_OK;
}
static double linear_work(const ramet__plan *p, const ramet__step *s) {
    (void)p;
    double n = 0.0;
    for (int32_t i = 0; i < s->attr.i[0]; i++) n += (double)cols_of(s, i);
    return n * (double)s->in[0]->fixed * (double)s->in[0]->cols;
}
static int64_t blocks_of(const ramet__step *s) {
    int64_t n = 0;
    for (int32_t i = 0; i < (gated(s) ? 1 : ((const linear_info *)s->extra)->parts); i++) n += ramet__ceil_div(cols_of(s, i), BLOCK);
    return n;
}
static linear_piece piece_of(const ramet__step *s, const ramet__exec *x, const linear_part *part, int32_t i, int64_t rows) {
    return ramet__linear_piece(&part[i], rows, cols_of(s, i), x->plan->workers);
}
/* Of a gated step */
static linear_piece gate_of(const ramet__step *s, const ramet__exec *x, const linear_part *part, int64_t rows) {
    linear_piece a = piece_of(s, x, part, 0, rows), b = s->attr.i[0] > 1 ? piece_of(s, x, part, 1, rows) : a;
    return (linear_piece){RAMET__MIN(a.rows, b.rows), RAMET__MIN(a.cols, b.cols)};
}
static int64_t pieces_in(linear_piece of, int64_t rows, int64_t cols) { return ramet__ceil_div(rows, of.rows) * ramet__ceil_div(cols, of.cols); }
static int64_t linear_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    const int32_t parts = ((const linear_info *)s->extra)->parts;
    int64_t rows = ramet__count(x, s->in[0]), n = 0;
    const linear_part *part = parts_of(s, x->plan, rows);
    if (phase == 0) {
        for (int32_t i = 0; i < parts; i++) {
            const ramet__pval *base = s->in[3 + 3 * i];
            if (rounds_slot(s, x, i) || (part[i].prepares && !ramet__narrow(x, s->in[0])) || (base && base->data != s->out[i]->data))
                return ramet__ceil_div(rows, PREPARE_ROWS);
        }
        return 0;
    }
    if (phase > 1) return -1;
    if (rows <= FEW_ROWS) return x->plan->workers;
    if (gated(s)) return pieces_in(gate_of(s, x, part, rows), rows, cols_of(s, 0));
    for (int32_t i = 0; i < parts; i++) n += pieces_in(piece_of(s, x, part, i, rows), rows, cols_of(s, i));
    return n;
}
static void linear_prepare_rows(const ramet__step *s, const ramet__exec *x, const linear_part *part, int64_t r0, int64_t r1) {
    for (int32_t i = 0; i < ((const linear_info *)s->extra)->parts; i++, part++) {
        const ramet__pval *base = s->in[3 + 3 * i];
        if (part->prepares && !ramet__narrow(x, s->in[0]))
            for (int64_t r = r0; r < r1; r++)
                ramet__prepare(x->plan, part->product, (char *)s->shared + part->at + (uint64_t)r * part->stride, ramet__row(s->in[0], r), s->in[0]->cols);
        if (rounds_slot(s, x, i)) ramet__slot_round(x, s->attr.i[1 + i], 1, slot_of(s, i), rounded_slot(s, i), r0, r1);
        if (base && base->data != s->out[i]->data)
            memcpy(ramet__row(s->out[i], r0), ramet__row(base, r0), (size_t)((r1 - r0) * base->cols) * sizeof(float));
    }
}
/* Rows r0..r1, outputs c0..c1 of part i; y: where output 0 of row r0 is or would be, ld: floats between rows */
static void block(const ramet__step *s, const ramet__exec *x, const linear_part *part, int32_t i, float *y, int64_t ld, int64_t r0, int64_t r1, int64_t c0, int64_t c1, void *scratch) {
    const ramet__pval *w = s->in[1 + 3 * i], *bias = s->in[2 + 3 * i], *base = s->in[3 + 3 * i];
    const int64_t k = s->in[0]->cols;
    const int32_t narrow = ramet__narrow(x, s->in[0]);
    if (part->product) {
        ramet__product_args a = {.m = r1 - r0,
                                 .n = cols_of(s, i),
                                 .k = k,
                                 .from = c0,
                                 .to = c1,
                                 .x = narrow ? (const void *)ramet__row(s->in[0], r0) : (const char *)s->shared + part->at + (uint64_t)r0 * part->stride,
                                 .x_stride = narrow ? k * (int64_t)sizeof *y : (int64_t)part->stride,
                                 .packed = packed_of(w),
                                 .y = y,
                                 .y_stride = ld,
                                 .bias = bias ? bias->data : NULL,
                                 .accumulate = base != NULL,
                                 .scratch = scratch};
        part->product->forward(&a);
    } else {
        x->k->gemm_nt(y + c0, ld, ramet__row(s->in[0], r0), k, ramet__row(w, c0), k, r1 - r0, c1 - c0, k, 1.0f, base != NULL);
        for (int64_t r = 0; bias && r < r1 - r0; r++) x->k->add(y + r * ld + c0, y + r * ld + c0, (const float *)bias->data + c0, c1 - c0);
    }
    if (slot_of(s, i)) ramet__slot_add(x, s->attr.i[1 + i], 1, slot_of(s, i), rounded_slot(s, i), y, ld, cols_of(s, i), r0, r1, c0, c1, scratch);
}
static void gated_block(const ramet__step *s, const ramet__exec *x, const linear_part *part, int64_t r0, int64_t r1, int64_t c0, int64_t c1, void *scratch) {
    const int64_t width = c1 - c0;
    const int32_t narrow = ramet__narrow(x, s->out[0]);
    float *a = (float *)(void *)((char *)scratch + ((const linear_info *)s->extra)->gate_at), *b = a + (r1 - r0) * width;
    for (int32_t i = 0; i < s->attr.i[0]; i++) block(s, x, &part[i], i, (i ? b : a) - c0, width, r0, r1, c0, c1, scratch);
    for (int64_t r = r0; r < r1; r++, a += width, b += width) {
        float *to = narrow ? a : ramet__row(s->out[0], r) + c0;
        if (s->op == &ramet__opdef_linear_swiglu) x->k->swiglu(to, a, b, width);
        else x->k->gelu(to, a, width);
        if (narrow) x->plan->plain->scheme->round((uint16_t *)(void *)ramet__row(s->out[0], r) + c0, a, width);
    }
}
static void linear_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    int64_t rows = ramet__count(x, s->in[0]), from, to, n;
    const linear_part *part = parts_of(s, x->plan, rows);
    if (phase == 0) {
        linear_prepare_rows(s, x, part, piece * PREPARE_ROWS, RAMET__MIN(rows, (piece + 1) * PREPARE_ROWS));
        return;
    }
    if (rows <= FEW_ROWS) {
        from = blocks_of(s) * piece / x->plan->workers;
        to = blocks_of(s) * (piece + 1) / x->plan->workers;
        if (gated(s)) {
            if (from < to) gated_block(s, x, part, 0, rows, from * BLOCK, RAMET__MIN(cols_of(s, 0), to * BLOCK), scratch);
            return;
        }
        for (int32_t i = 0; i < ((const linear_info *)s->extra)->parts; i++, part++, from -= n, to -= n) {
            n = ramet__ceil_div(cols_of(s, i), BLOCK);
            if (from < n && to > 0 && from < to)
                block(s, x, part, i, ramet__row(s->out[i], 0), cols_of(s, i), 0, rows, RAMET__MAX(0, from) * BLOCK, RAMET__MIN(cols_of(s, i), to * BLOCK), scratch);
        }
        return;
    }
    for (int32_t i = 0;; i++, piece -= n) { /* which part this piece belongs to */
        const linear_piece of = gated(s) ? gate_of(s, x, part, rows) : piece_of(s, x, part, i, rows);
        const int64_t cols = cols_of(s, i), across = ramet__ceil_div(cols, of.cols), r0 = piece / across * of.rows, c0 = piece % across * of.cols;
        n = pieces_in(of, rows, cols);
        if (piece >= n) continue;
        const int64_t r1 = RAMET__MIN(rows, r0 + of.rows), c1 = RAMET__MIN(cols, c0 + of.cols);
        if (gated(s)) gated_block(s, x, part, r0, r1, c0, c1, scratch);
        else block(s, x, &part[i], i, ramet__row(s->out[i], r0), cols, r0, r1, c0, c1, scratch);
        return;
    }
}
const ramet__op ramet__opdef_linear = {.name = "linear",
                                       .overwrites = {1u << 3, 1u << 6, 1u << 9},
                                       .base = 3,
                                       .encoded = 1u << 1 | 1u << 4 | 1u << 7,
                                       .work = linear_work,
                                       .gradient = linear_gradient,
                                       .takes_narrow = linear_takes_narrow,
                                       .prepare = linear_prepare,
                                       .pieces = linear_pieces,
                                       .run = linear_run};
const ramet__op ramet__opdef_linear_swiglu = {.name = "linear_swiglu",
                                              .narrow = 1,
                                              .encoded = 1u << 1 | 1u << 4,
                                              .work = linear_work,
                                              .takes_narrow = linear_takes_narrow,
                                              .prepare = linear_prepare,
                                              .pieces = linear_pieces,
                                              .run = linear_run};
const ramet__op ramet__opdef_linear_gelu = {.name = "linear_gelu",
                                            .narrow = 1,
                                            .encoded = 1u << 1,
                                            .work = linear_work,
                                            .takes_narrow = linear_takes_narrow,
                                            .prepare = linear_prepare,
                                            .pieces = linear_pieces,
                                            .run = linear_run};

