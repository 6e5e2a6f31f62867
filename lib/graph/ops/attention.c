/* SPDX-License-Identifier: Apache-2.0 */
/* attention.c - grouped-query attention, causal or whole, among the rows of a run that share a sequence (training, evaluation),
 * its gradient, and the same over a sequence's cache (sessions). Scores never leave a piece: the kernel keeps running
 * maxima and sums (Dao et al. 2022); the second output, the log-sum-exp of each query and head, is what the gradient
 * needs. */
#include "graph/op.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

#define QUERIES 96    /* rows of a piece and heads of a group: at most so many; kernels turn keys over for each piece */
#define BLOCK 64      /* keys that a piece without a cache looks at together */
#define HIDDEN -1e30f /* a score that no exponential sees */

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int32_t check(ramet__graph *g, ramet__val q, ramet__val k, ramet__val v, ramet__val seq, int64_t n_head,
                     int64_t n_kv, int64_t hd, const char *op) {
    if (!ramet__want(g,
                     ramet__is_val(g, q) && ramet__is_val(g, k) && ramet__is_val(g, v) && ramet__is_val(g, seq) &&
                         ramet__graph_type(g, seq) == RAMET__TYPE_I32,
                     op, "needs q, k, v and the sequence of each row"))
        return 0;
    if (!ramet__want(g, n_kv > 0 && hd > 0 && n_head > 0 && n_head % n_kv == 0, op,
                     "heads must be a multiple of key-value heads"))
        return 0;
    return ramet__want(g,
                       ramet__gcols(shape(g, q)) == n_head * hd && ramet__gcols(shape(g, k)) == n_kv * hd &&
                           ramet__same_shape(shape(g, k), shape(g, v)) && ramet__gcols(shape(g, seq)) == 1 &&
                           shape(g, q)->axis == RAMET__AXIS_ROWS && shape(g, k)->axis == RAMET__AXIS_ROWS &&
                           shape(g, seq)->axis == RAMET__AXIS_ROWS,
                       op, "columns are not heads x head_dim, or rows differ");
}
/* attr: n_head, n_kv, head_dim, whole (every row sees all of its sequence) */
static ramet__val among_rows(ramet__graph *g, ramet__val q, ramet__val k, ramet__val v, ramet__val seq, int64_t n_head,
                             int64_t n_kv, int64_t head_dim, int32_t whole) {
    if (!check(g, q, k, v, seq, n_head, n_kv, head_dim, "attention")) return -1;
    ramet__val in[4] = {q, k, v, seq};
    ramet__attr attr = {.i = {n_head, n_kv, head_dim, whole}};
    ramet__gshape out[2] = {*shape(g, q), ramet__gshape2(RAMET__AXIS_ROWS, ramet__grows(shape(g, q)), n_head)};
    return ramet__node_add(g, &ramet__opdef_attention, in, 4, out, 2, &attr);
}
ramet__val ramet__op_attention(ramet__graph *g, ramet__val q, ramet__val k, ramet__val v, ramet__val seq,
                               int64_t n_head, int64_t n_kv, int64_t head_dim) {
    return among_rows(g, q, k, v, seq, n_head, n_kv, head_dim, 0);
}
ramet__val ramet__op_attention_whole(ramet__graph *g, ramet__val q, ramet__val k, ramet__val v, ramet__val seq,
                                     int64_t n_head, int64_t n_kv, int64_t head_dim) {
    return among_rows(g, q, k, v, seq, n_head, n_kv, head_dim, 1);
}
static void gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    ramet__val in[7] = {n->in[0], n->in[1], n->in[2], n->in[3], n->out[0], n->out[1], dout[0]};
    ramet__gshape out[3] = {*shape(g, n->in[0]), *shape(g, n->in[1]), *shape(g, n->in[2])};
    if (dout[0] < 0 || ramet__node_add(g, &ramet__opdef_attention_grad, in, 7, out, 3, &n->attr) < 0) return;
    memcpy(din, g->nodes[g->n_nodes - 1].out, 3 * sizeof *din);
}

typedef struct scratch_map {
    const void **k, **v;
    int32_t *limit;
    void *kernel;
} scratch_map;
static uint64_t scratch_size(int64_t blocks, uint64_t kernel) {
    return ramet__align((uint64_t)blocks * sizeof(void *)) * 2 + ramet__align(QUERIES * sizeof(int32_t)) +
           ramet__align(kernel);
}
static scratch_map scratch_cut(void *scratch, int64_t blocks) {
    char *at = scratch;
    uint64_t list = ramet__align((uint64_t)blocks * sizeof(void *));
    return (scratch_map){(const void **)(void *)at, (const void **)(void *)(at + list), (int32_t *)(at + 2 * list),
                         at + 2 * list + ramet__align(QUERIES * sizeof(int32_t))};
}

static int64_t queries(const ramet__step *s) { return s->attr.i[0] / s->attr.i[1] > 1 ? RAMET__MAX(32, QUERIES / (s->attr.i[0] / s->attr.i[1]) / 16 * 16) : QUERIES; }
/* Attention follows the arithmetic of products. A cache is read in bf16 when there are rows enough to turn its blocks for: BRAIN_HEADS of them and of a
 * group's heads; in training, always, so that a window's bits do not depend on what it is computed with. */
#define BRAIN_HEADS 16
static int32_t in_brain(const ramet__exec *x, int64_t heads) {
    return x->k->attention_brain && ramet__plan_arithmetic_of(x->plan, x->rows) == RAMET__BRAIN && (x->plan->training || heads >= BRAIN_HEADS);
}
static uint64_t kernel_scratch(const ramet__plan *p, const ramet__step *s, int64_t block) {
    const ramet__kernels *k = p->rt->kernels;
    const int64_t group = s->attr.i[0] / s->attr.i[1], hd = s->attr.i[2];
    const uint64_t bytes = k->attention_scratch(queries(s), group, hd, block);
    return k->attention_brain ? RAMET__MAX(bytes, k->attention_brain_scratch(queries(s), group, hd, block)) : bytes;
}
/* Results of a piece's `rows` rows and one group of heads, which stand side by side at o, rounded to their places */
static void round_piece(const ramet__step *s, const ramet__exec *x, const float *o, int64_t row, int64_t rows, int64_t head) {
    const int64_t n = s->attr.i[0] / s->attr.i[1] * s->attr.i[2], whole = n / 16 * 16;
    for (int64_t r = 0; r < rows; r++) {
        uint16_t *to = (uint16_t *)(void *)ramet__row(s->out[0], row + r) + head * n, end[16];
        if (whole) x->plan->plain->scheme->round(to, o + r * n, whole);
        if (whole == n) continue;
        x->plan->plain->scheme->round(end, o + r * n + whole, n - whole); /* writes 16: the next head's, which may be another thread's */
        memcpy(to + whole, end, (size_t)(n - whole) * sizeof *to);
    }
}

static ramet_status prepare(ramet__plan *p, ramet__step *s) {
    const ramet__spans *spans = NULL;
    RAMET__TRY(ramet__plan_spans(p, s->in[3], queries(s), &spans));
    s->extra = (void *)(uintptr_t)spans;
    s->scratch_bytes = scratch_size(ramet__ceil_div(p->max_rows, BLOCK), kernel_scratch(p, s, BLOCK)) + (uint64_t)(queries(s) * s->attr.i[0] / s->attr.i[1] * s->attr.i[2]) * sizeof(float);
    return RAMET_OK;
}
static double work(const ramet__plan *p, const ramet__step *s) { /* two products, or five of the gradient */
    const int64_t seen = RAMET__MIN(p->max_rows, RAMET__MAX(1, p->max_context));
    return (s->op == &ramet__opdef_attention ? 2.0 : 5.0) * (double)s->in[0]->fixed * (double)s->in[0]->cols * (double)seen / (s->attr.i[3] ? 1.0 : 2.0);
}
static int64_t pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    (void)x;
    return phase ? -1 : ((const ramet__spans *)s->extra)->n_chunks * s->attr.i[1];
}
static void run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    (void)phase;
    int64_t n_head = s->attr.i[0], n_kv = s->attr.i[1], hd = s->attr.i[2], group = n_head / n_kv, head = piece % n_kv;
    const ramet__spans *spans = s->extra;
    const ramet__span *c = &spans->chunks[spans->n_chunks - 1 - piece / n_kv]; /* the last look at most keys: first, so that no thread ends with one alone */
    scratch_map m = scratch_cut(scratch, ramet__ceil_div(x->plan->max_rows, BLOCK));
    int64_t last = s->attr.i[3] ? ramet__run_rows(spans, c) : c->row + c->rows - c->first; /* keys that the last query sees */
    for (int64_t b = 0; b * BLOCK < last; b++) {
        m.k[b] = ramet__row(s->in[1], c->first + b * BLOCK) + head * hd;
        m.v[b] = ramet__row(s->in[2], c->first + b * BLOCK) + head * hd;
    }
    for (int32_t r = 0; r < c->rows; r++) m.limit[r] = s->attr.i[3] ? (int32_t)last : c->row + r - c->first + 1;
    const int32_t narrow = ramet__narrow(x, s->out[0]);
    float *o = narrow ? (float *)(void *)((char *)m.kernel + ramet__align(kernel_scratch(x->plan, s, BLOCK))) : ramet__row(s->out[0], c->row) + head * group * hd;
    (in_brain(x, c->rows * group) ? x->k->attention_brain : x->k->attention)(
        o, narrow ? group * hd : n_head * hd, ramet__row(s->out[1], c->row) + head * group, n_head,
        ramet__row(s->in[0], c->row) + head * group * hd, n_head * hd, c->rows, group, hd, m.k, m.v, RAMET__KV_ROWS, n_kv * hd, BLOCK, m.limit,
        1.0f / sqrtf((float)hd), m.kernel);
    if (narrow) round_piece(s, x, o, c->row, c->rows, head);
}
const ramet__op ramet__opdef_attention = {
    .name = "attention", .narrow = 1, .work = work, .gradient = gradient, .prepare = prepare, .pieces = pieces, .run = run};

/* ---- gradient: in = q, k, v, seq, o, lse, do; out = dq, dk, dv. A piece owns one key-value head of one run of rows.
 * ---- */
/* p = softmax(scale q k), dp = do v, ds = p (dp - sum(p dp)). o and lse are functions of q, k, v, made again here. */
static void grad_expand(ramet__graph *g, const ramet__node *n, ramet__val *out) {
    ramet__heads h = {n->attr.i[0], n->attr.i[1], n->attr.i[2], n->attr.i[3]};
    float scale = 1.0f / sqrtf((float)h.dim);
    ramet__val q = n->in[0], k = n->in[1], v = n->in[2], seq = n->in[3], d_o = n->in[6];
    ramet__val p = ramet__op_softmax(g, ramet__op_head_nt(g, q, k, seq, &h, scale, HIDDEN), h.n);
    ramet__val t = ramet__op_mul(g, p, ramet__op_head_nt(g, d_o, v, seq, &h, 1.0f, 0.0f));
    ramet__val sum = ramet__op_row_fill(g, ramet__op_group_sum(g, t, h.n), ramet__gcols(shape(g, t)));
    ramet__val ds = ramet__op_sub(g, t, ramet__op_mul(g, p, sum));
    out[0] = ramet__op_head_nn(g, ds, k, seq, &h, scale);
    out[1] = ramet__op_head_tn(g, ds, q, seq, &h, scale);
    out[2] = ramet__op_head_tn(g, p, d_o, seq, &h, 1.0f);
}
/* A long run's query heads are pieces of their own, since key-value heads alone may be few for the threads: each has sums for keys and values, in shared
 * room [head of the group, key or value, row, key-value head], that are added in order. */
#define LONG_RUN 512
static int32_t is_long(const ramet__span *run) { return run->rows >= LONG_RUN; }
static ramet_status grad_prepare(ramet__plan *p, ramet__step *s) {
    const ramet__spans *spans = NULL;
    RAMET__TRY(ramet__plan_spans(p, s->in[3], queries(s), &spans));
    s->extra = (void *)(uintptr_t)spans;
    const ramet__kernels *k = p->rt->kernels;
    const int64_t group = s->attr.i[0] / s->attr.i[1], hd = s->attr.i[2];
    s->scratch_bytes = k->attention_grad_scratch(p->max_rows, group, hd);
    if (k->attention_brain) s->scratch_bytes = RAMET__MAX(s->scratch_bytes, k->attention_grad_brain_scratch(p->max_rows, group, hd));
    if (group > 1 && p->max_rows >= LONG_RUN && (!p->max_context || p->max_context >= LONG_RUN)) s->shared_bytes = 2 * (uint64_t)(group * s->in[1]->fixed * s->in[1]->cols) * sizeof(float);
    s->batch = p->workers;
    return RAMET_OK;
}
static int64_t grad_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    const ramet__spans *spans = s->extra;
    const int64_t group = s->attr.i[0] / s->attr.i[1];
    int64_t n = 0, rows = 0;
    for (int64_t i = 0; i < spans->n_runs; i++) {
        const int32_t parts = s->shared_bytes && is_long(&spans->runs[i]);
        n += s->attr.i[1] * (parts ? group : 1);
        if (parts) rows = x->rows;
    }
    return phase == 0 ? n : phase == 1 ? ramet__ceil_div(rows, QUERIES) : -1;
}
/* Sums of keys (0) or values (1) of one head of every group */
static float *part_of(const ramet__step *s, int64_t head, int32_t values) { return (float *)s->shared + (2 * head + values) * s->in[1]->fixed * s->in[1]->cols; }
static void grad_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    const int64_t n_head = s->attr.i[0], n_kv = s->attr.i[1], hd = s->attr.i[2], group = n_head / n_kv;
    const ramet__span *c = ((const ramet__spans *)s->extra)->runs;
    if (phase == 1) {
        for (int64_t row = piece * QUERIES; row < RAMET__MIN(x->rows, (piece + 1) * QUERIES); row++) {
            while (row >= c->row + c->rows) c++;
            for (int32_t v = 0; v < 2 && is_long(c); v++) {
                float *to = ramet__row(s->out[1 + v], row);
                const int64_t n = n_kv * hd;
                memcpy(to, part_of(s, 0, v) + row * n, (size_t)n * sizeof *to);
                for (int64_t h = 1; h < group; h++) x->k->add(to, to, part_of(s, h, v) + row * n, n);
            }
        }
        return;
    }
    int64_t parts = 1;
    for (;; c++) {
        parts = s->shared_bytes && is_long(c) ? group : 1;
        if (piece < n_kv * parts) break;
        piece -= n_kv * parts;
    }
    const int64_t head = piece / parts, part = piece % parts, heads = group / parts, r = c->row, q = (head * group + part) * hd, kv = head * hd;
    float *dk = parts > 1 ? part_of(s, part, 0) + r * n_kv * hd : ramet__row(s->out[1], r), *dv = parts > 1 ? part_of(s, part, 1) + r * n_kv * hd : ramet__row(s->out[2], r);
    (in_brain(x, c->rows * group) ? x->k->attention_grad_brain : x->k->attention_grad)(
        ramet__row(s->out[0], r) + q, dk + kv, dv + kv, ramet__row(s->in[0], r) + q, ramet__row(s->in[1], r) + kv, ramet__row(s->in[2], r) + kv,
        ramet__row(s->in[4], r) + q, ramet__row(s->in[6], r) + q, ramet__row(s->in[5], r) + head * group + part, n_head, n_head * hd, n_kv * hd, c->rows, heads, hd,
        !s->attr.i[3], 1.0f / sqrtf((float)hd), scratch);
}
const ramet__op ramet__opdef_attention_grad = {
    .name = "attention_grad", .work = work, .expand = grad_expand, .prepare = grad_prepare, .pieces = grad_pieces, .run = grad_run};

/* ---- over a cache: in = q, k, v, seq, pos. First every row's k and v are written, then every query looks. ----
 * Keys are cut into ranges of a constant length, each with a softmax of its own; what they give is joined in order. In a run of few rows every range is a
 * piece (Dao et al. 2023, "Flash-Decoding"), so that few heads do for many threads; else a piece goes through its ranges. Same bits. */
#define RANGE 256      /* keys; more where contexts have more than RANGES of them */
#define RANGES 64
#define SPLIT_ROWS 16  /* a run of so many rows is cut by ranges */

typedef struct cache_info {
    ramet__cache_layout layout;
    const ramet__spans *spans;
    int64_t blocks;
    int64_t range, ranges; /* keys of a range; ranges of the longest context */
} cache_info;
/* attr: n_head, n_kv, head_dim, block, layers, layer, type */
ramet__val ramet__op_cache_attention(ramet__graph *g, ramet__val q, ramet__val k, ramet__val v, ramet__val seq,
                                     ramet__val pos, const ramet__cache_layout *cache, int32_t layer, int64_t n_head) {
    if (!ramet__want(g, cache && cache->block > 0 && layer >= 0 && layer < cache->layers, "cache_attention",
                     "no such layer in the cache"))
        return -1;
    if (!check(g, q, k, v, seq, n_head, cache->n_kv, cache->head_dim, "cache_attention")) return -1;
    if (!ramet__want(g,
                     ramet__is_val(g, pos) && ramet__graph_type(g, pos) == RAMET__TYPE_I32 &&
                         ramet__same_shape(shape(g, pos), shape(g, seq)),
                     "cache_attention", "needs the position of each row"))
        return -1;
    ramet__val in[5] = {q, k, v, seq, pos};
    ramet__attr attr = {.i = {n_head, cache->n_kv, cache->head_dim, cache->block, cache->layers, layer, cache->type}};
    ramet__gshape out = *shape(g, q);
    return ramet__node_add(g, &ramet__opdef_cache_attention, in, 5, &out, 1, &attr);
}
static ramet_status cache_prepare(ramet__plan *p, ramet__step *s) {
    cache_info *info = ramet__arena_alloc(&p->names, sizeof *info);
    if (!info) return ramet__alloc_status();
    s->extra = info;
    if (p->max_context < 1)
        return ramet__fail(RAMET_E_ARGUMENT, "plan: max_context must be at least 1 for attention over a cache");
    int64_t n_head = s->attr.i[0], group = n_head / s->attr.i[1], hd = s->attr.i[2], block = s->attr.i[3];
    info->blocks = ramet__ceil_div(p->max_context, block);
    info->range = RAMET__ROUND_UP(RAMET__MAX(RANGE, ramet__ceil_div(p->max_context, RANGES)), block);
    info->ranges = ramet__ceil_div(p->max_context, info->range);
    info->layout = (ramet__cache_layout){(int32_t)s->attr.i[4], (int32_t)s->attr.i[1], (int32_t)hd, (int32_t)block, (int32_t)s->attr.i[6]};
    RAMET__TRY(ramet__plan_spans(p, s->in[3], queries(s), &info->spans));
    RAMET__TRY(ramet__plan_cache(p, s->in[3], s->in[4], block));
    s->scratch_bytes = scratch_size(info->blocks, kernel_scratch(p, s, block)) +
                       ramet__align((uint64_t)(queries(s) * group * (2 * hd + 3)) * sizeof(float));
    if (info->ranges > 1) s->shared_bytes = ramet__align((uint64_t)(RAMET__MIN(SPLIT_ROWS, s->in[0]->fixed) * info->ranges * n_head * (hd + 1)) * sizeof(float));
    return RAMET_OK;
}
/* Ranges that a chunk's last row sees. */
static int64_t ranges_of(const ramet__step *s, const ramet__span *c) {
    const cache_info *info = s->extra;
    const int32_t *pos = s->in[4]->data;
    return pos[c->row + c->rows - 1] / info->range + 1;
}
static int32_t split(const ramet__step *s, const ramet__exec *x) { return x->rows <= SPLIT_ROWS && !ramet__narrow(x, s->out[0]); }
static int64_t cache_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    const cache_info *info = s->extra;
    const ramet__spans *spans = info->spans;
    int64_t n = 0, most = 0;
    if (phase == 0) return spans->n_chunks;
    for (int64_t i = 0; i < spans->n_chunks; i++) {
        int64_t ranges = ranges_of(s, &spans->chunks[i]);
        n += ranges;
        most = RAMET__MAX(most, ranges);
    }
    if (phase == 1) return (split(s, x) ? n : spans->n_chunks) * s->attr.i[1];
    return phase == 2 ? (!split(s, x) || most < 2 ? 0 : x->rows) : -1;
}
/* K, or V, of a head in a block */
static void *cache_at(const ramet__step *s, void *block, int64_t head, int32_t value) {
    const cache_info *info = s->extra;
    const int64_t n_kv = s->attr.i[1], layer = s->attr.i[5];
    return (char *)block + (uint64_t)((2 * layer + value) * n_kv + head) * ramet__cache_head_bytes(&info->layout);
}
/* One position of one head in int8: numbers `step` apart, and their scale. What is not finite stays so, in the scale. */
static void put_int8(void *to, int64_t place, int64_t first, int64_t step, const float *x, int64_t hd, int64_t size) {
    float top = 0;
    int32_t finite = 1;
    for (int64_t d = 0; d < hd; d++) {
        const float a = fabsf(x[d]);
        finite &= a < INFINITY;
        top = RAMET__MAX(top, a);
    }
    const float inverse = finite && top > 1e-30f ? 127.0f / top : 0.0f; /* finite too */
    int8_t *q = (int8_t *)to + first;
    for (int64_t d = 0; d < hd; d++) q[d * step] = finite ? (int8_t)lrintf(x[d] * inverse) : 1;
    ((float *)(void *)((char *)to + ramet__kv_scales(size * hd)))[place] = finite ? top / 127.0f : NAN;
}
/* One position of one head: a column of K, a row of V. */
static void cache_put(const ramet__step *s, const ramet__kernels *kernels, void *block, int64_t head, int64_t place, const float *k, const float *v) {
    const int64_t hd = s->attr.i[2], size = s->attr.i[3];
    void *keys = cache_at(s, block, head, 0), *values = cache_at(s, block, head, 1);
    if (s->attr.i[6] == RAMET__CACHE_INT8) {
        put_int8(keys, place, place, size, k, hd, size);
        put_int8(values, place, place * hd, 1, v, hd, size);
    } else if (s->attr.i[6] == RAMET__CACHE_F16) {
        uint16_t *to = keys, half[64];
        for (int64_t d = 0; d < hd; d += 64) {
            int64_t n = RAMET__MIN(64, hd - d);
            kernels->to_half(half, k + d, n);
            for (int64_t i = 0; i < n; i++) to[(d + i) * size + place] = half[i];
        }
        kernels->to_half((uint16_t *)values + place * hd, v, hd);
    } else {
        float *to = keys;
        for (int64_t d = 0; d < hd; d++) to[d * size + place] = k[d];
        memcpy((float *)values + place * hd, v, (size_t)hd * sizeof *to);
    }
}
/* Keys of one range for the rows of a chunk and one key-value head. */
static void look(const ramet__step *s, const ramet__exec *x, const ramet__span *c, int64_t head, int64_t range, float *o, int64_t o_row, float *lse,
                 int64_t lse_row, void *scratch) {
    const cache_info *info = s->extra;
    int64_t n_head = s->attr.i[0], n_kv = s->attr.i[1], hd = s->attr.i[2], size = s->attr.i[3], group = n_head / n_kv, from = range * info->range;
    const int32_t *pos = s->in[4]->data;
    const ramet__seq_view *seq = &x->run->seqs[c->key];
    scratch_map m = scratch_cut(scratch, info->blocks);
    int64_t last = RAMET__MIN(info->range, pos[c->row + c->rows - 1] + 1 - from);
    for (int64_t b = 0; b * size < last; b++) {
        m.k[b] = cache_at(s, seq->blocks[from / size + b], head, 0);
        m.v[b] = cache_at(s, seq->blocks[from / size + b], head, 1);
    }
    for (int32_t r = 0; r < c->rows; r++) m.limit[r] = (int32_t)RAMET__MAX(0, RAMET__MIN(last, pos[c->row + r] + 1 - from));
    (in_brain(x, c->rows * group) && s->attr.i[6] != RAMET__CACHE_INT8 ? x->k->attention_brain : x->k->attention)(
        o, o_row, lse, lse_row, ramet__row(s->in[0], c->row) + head * group * hd, n_head * hd, c->rows, group, hd, m.k, m.v,
        RAMET__KV_CACHE + (int32_t)s->attr.i[6], hd, size, m.limit, 1.0f / sqrtf((float)hd), m.kernel);
}
/* sum: of all ranges so far, to be divided by total; o, lse: of the next one */
static void join(const ramet__kernels *k, float *sum, float *top, float *total, const float *o, float lse, int64_t hd) {
    if (*total == 0.0f) {
        memcpy(sum, o, (size_t)hd * sizeof *o);
        *top = lse;
        *total = 1.0f;
        return;
    }
    float best = RAMET__MAX(*top, lse), old = expf(*top - best), new = expf(lse - best);
    k->scale(sum, old, sum, hd);
    k->axpy(sum, new, o, hd);
    *total = *total * old + new;
    *top = best;
}
static void cache_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    const cache_info *info = s->extra;
    int64_t n_head = s->attr.i[0], n_kv = s->attr.i[1], hd = s->attr.i[2], size = s->attr.i[3], group = n_head / n_kv, most = info->ranges;
    const int32_t *pos = s->in[4]->data;
    const ramet__span *c = info->spans->chunks;
    /* of a run of few rows: o of each [row, range, head], then their log-sum-exps */
    float *parts = s->shared, *lses = parts + RAMET__MIN(SPLIT_ROWS, s->in[0]->fixed) * most * n_head * hd;
    if (phase == 0) {
        c += piece;
        for (int64_t r = c->row; r < c->row + c->rows; r++)
            for (int64_t head = 0; head < n_kv; head++)
                cache_put(s, x->k, x->run->seqs[c->key].blocks[pos[r] / size], head, pos[r] % size, ramet__row(s->in[1], r) + head * hd,
                          ramet__row(s->in[2], r) + head * hd);
        return;
    }
    if (phase == 2) { /* a row */
        while (piece >= c->row + c->rows) c++;
        if (ranges_of(s, c) == 1) return;
        for (int64_t h = 0; h < n_head; h++) {
            float *y = ramet__row(s->out[0], piece) + h * hd, top, total = 0.0f;
            for (int64_t i = 0, at = piece * most * n_head + h; i <= pos[piece] / info->range; i++, at += n_head)
                join(x->k, y, &top, &total, parts + at * hd, lses[at], hd);
            x->k->scale(y, 1.0f / total, y, hd);
        }
        return;
    }
    int64_t head, range = -1;
    if (!split(s, x)) {
        c += info->spans->n_chunks - 1 - piece / n_kv; /* as above: what looks at most keys first */
        head = piece % n_kv;
    } else {
        for (; piece >= ranges_of(s, c) * n_kv; c++) piece -= ranges_of(s, c) * n_kv;
        range = piece / n_kv;
        head = piece % n_kv;
    }
    const int64_t ranges = ranges_of(s, c), heads = c->rows * group, q = head * group;
    const int32_t narrow = ramet__narrow(x, s->out[0]);
    float *o = (float *)(void *)((char *)scratch + scratch_size(info->blocks, kernel_scratch(x->plan, s, size)));
    if (ranges == 1) {
        look(s, x, c, head, 0, narrow ? o : ramet__row(s->out[0], c->row) + q * hd, narrow ? group * hd : n_head * hd, NULL, 0, scratch);
        if (narrow) round_piece(s, x, o, c->row, c->rows, head);
    } else if (range >= 0) {
        const int64_t at = (c->row * most + range) * n_head + q;
        look(s, x, c, head, range, parts + at * hd, most * n_head * hd, lses + at, most * n_head, scratch);
    } else {
        float *sum = o + heads * hd, *lse = sum + heads * hd, *top = lse + heads, *total = top + heads;
        memset(total, 0, (size_t)heads * sizeof *total);
        for (int64_t i = 0; i < ranges; i++) {
            look(s, x, c, head, i, o, group * hd, lse, group, scratch);
            for (int64_t r = 0; r < heads; r++)
                if (pos[c->row + r / group] / info->range >= i) join(x->k, sum + r * hd, top + r, total + r, o + r * hd, lse[r], hd);
        }
        for (int64_t r = 0; r < heads; r++)
            x->k->scale(narrow ? sum + r * hd : ramet__row(s->out[0], c->row + r / group) + (q + r % group) * hd, 1.0f / total[r], sum + r * hd, hd);
        if (narrow) round_piece(s, x, sum, c->row, c->rows, head);
    }
}
const ramet__op ramet__opdef_cache_attention = {
    .name = "cache_attention", .narrow = 1, .once = 1, .overwrites = {1}, .prepare = cache_prepare, .pieces = cache_pieces, .run = cache_run};
