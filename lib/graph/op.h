/* SPDX-License-Identifier: Apache-2.0 */
/* op.h - what graph/, and only graph/, knows: nodes and values, what an operation is, the plan's steps.
 *
 * An operation is one ramet__op (in ops/) and a line in ops.def. Its builder, declared in graph.h or at the end of this
 * file, holds the shape rule; the struct holds the gradient and `expand` (as graph nodes), which inputs its outputs may
 * overwrite, and how it is prepared and run. Every value is seen by running code as [count, cols] floats or int32.
 */
#ifndef RAMET__OP_H
#define RAMET__OP_H
#include "graph/plan.h"

#define RAMET__NODE_IN 24
#define RAMET__NODE_OUT 12
#define RAMET__OVERWRITING 3 /* results that may take the place of an input */

typedef struct ramet__attr {
    int64_t i[7];
    float f[2];
    const void *p;
} ramet__attr;
typedef struct ramet__node {
    const ramet__op *op; /* NULL: removed by fusion */
    int32_t n_in, n_out;
    ramet__val in[RAMET__NODE_IN], out[RAMET__NODE_OUT]; /* -1: an optional input that is not there */
    ramet__attr attr;
} ramet__node;

typedef enum {
    RAMET__LEAF_NONE,
    RAMET__LEAF_INPUT,
    RAMET__LEAF_WEIGHT,
    RAMET__LEAF_VAR,
    RAMET__LEAF_CONST,
    RAMET__LEAF_SLOT
} ramet__leaf;
typedef struct ramet__value {
    ramet__gshape shape;
    ramet__type type;
    ramet__leaf leaf;
    int32_t node, index; /* producer and which of its outputs; node -1: a leaf */
    const char *name;    /* inputs and slots */
    ramet__weight *weight;
    ramet__var *var;
    float number; /* CONST */
} ramet__value;

typedef struct ramet__named {
    const char *name;
    ramet__val v;
    int32_t n, k;
} ramet__named;
typedef struct ramet__written {
    ramet__var *var;
    ramet__val v, version;
    int32_t accumulate;
} ramet__written;

struct ramet__graph {
    ramet_runtime *rt;
    ramet_status status;
    char *message; /* of the first failure */
    int64_t max_rows, max_outs;
    int32_t max_rank;
    ramet__arena names;
    ramet__node *nodes;
    int64_t n_nodes, cap_nodes;
    ramet__value *values;
    int64_t n_values, cap_values;
    ramet__named *outputs;
    int64_t n_outputs, cap_outputs;
    ramet__slot *slots;
    int64_t n_slots, cap_slots; /* the name is that of the value a */
    ramet__written *writes;
    int64_t n_writes, cap_writes;
    struct ramet__graph **bodies; /* of scans with a body; owned */
    int64_t n_bodies, cap_bodies;
    const int32_t *depends; /* while differentiating: values that depend on what is asked for */
};

/* ---- running ---- */
typedef struct ramet__pval { /* a value as running code sees it */
    void *data;
    int64_t fixed, cols; /* fixed: rows of a static value, else its maximum */
    ramet__axis axis;
    ramet__type type;
    ramet__leaf leaf;
    const char *name;
    ramet__weight *weight;
    ramet__var *var;
    int32_t slot;   /* SLOT: index * 2 + (0: A, 1: B); else -1 */
    int32_t buffer; /* index in the plan's buffers; -1: not in the arena */
    int32_t keep;   /* outputs and writes that read it after the last step */
    int64_t last;   /* the last step that reads it */
    int32_t narrow; /* in runs of products in bf16 its rows are rounded to that, each at the beginning of its floats' place */
} ramet__pval;

/* Runs of rows: neighbours with the same key, cut into chunks of at most `chunk` rows that never cross two runs. */
typedef struct ramet__span {
    int32_t row, rows, key, first;
} ramet__span; /* first: row where the run of this chunk begins */
typedef struct ramet__spans {
    const ramet__pval *key;
    int64_t chunk, n_runs, n_chunks;
    ramet__span *runs, *chunks;
} ramet__spans;

typedef struct ramet__step ramet__step;
typedef struct ramet__exec { /* one run */
    ramet__plan *plan;
    const ramet__run *run;
    const ramet__kernels *k;
    int64_t rows, outs;
} ramet__exec;

struct ramet__step {
    const ramet__op *op;
    int32_t n_in, n_out;
    ramet__pval *in[RAMET__NODE_IN], *out[RAMET__NODE_OUT]; /* NULL: not there */
    ramet__attr attr;
    int64_t chunk;          /* rows of a piece, constant: never depends on the number of threads */
    uint64_t shared_bytes;  /* room that all pieces of this step share */
    uint64_t scratch_bytes; /* room of each worker */
    void *shared;
    void *extra;   /* the operation's own, from the plan's arena */
    int64_t batch; /* pieces between two questions to the progress callback, in runs of many rows */
    int32_t shared_buffer, again; /* again: a second run of an earlier step */
    uint64_t nanoseconds, runs;
};

#define RAMET__GROUP_ROWS 64 /* rows of one adapter in a piece */

/* A layout of pieces is a sequence of phases with a barrier after each; a phase of one piece runs on the caller. */
struct ramet__op {
    const char *name;
    uint32_t overwrites[RAMET__OVERWRITING]; /* bit i: this output may take the place of input i after its last reader */
    int32_t base;                         /* optional input that the result is added to; 0: has none */
    uint32_t encoded;                     /* bit i: reads input i as an encoded weight when it is one */
    uint32_t narrow; /* bit j: result j can be written rounded to bf16 */
    /* Whether input j can be read so, which must not change a bit: it would be rounded anyway. NULL: none can. */
    int32_t (*takes_narrow)(const ramet__plan *p, const ramet__step *s, int32_t j);
    int32_t once;                         /* writes, or calls the host: never computed again */
    double (*work)(const ramet__plan *p, const ramet__step *s); /* multiplications; NULL: as many as it has results */
    int32_t (*halve)(ramet__step *s); /* half as many rows a piece, for less scratch and the same bits; 0: no. NULL: it cannot */
    /* d(loss)/d(in[i]) into din[i] (preset -1) for inputs that ramet__needs(). dout[j] is -1 where nothing flows. */
    void (*gradient)(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din);
    /* The same results from operations that have a gradient. */
    void (*expand)(ramet__graph *g, const ramet__node *n, ramet__val *out);
    ramet_status (*prepare)(ramet__plan *p, ramet__step *s);
    /* Rows r0..r1 of output 0, when rows are independent ... */
    void (*rows)(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch);
    /* ... or any number of phases: pieces answers -1 after the last. */
    int64_t (*pieces)(const ramet__step *s, const ramet__exec *x, int32_t phase);
    void (*run)(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch);
};

#define RAMET__OP(name, summary) extern const ramet__op ramet__opdef_##name;
#include "graph/ops.def"
#undef RAMET__OP

typedef struct ramet__buffer {
    int64_t first, last;
    uint64_t bytes, offset;
} ramet__buffer; /* alive from step first to step last */
typedef struct ramet__check {
    const ramet__pval *v;
    int64_t low, high;
    const char *op;
} ramet__check; /* high -1: rows of the run */
typedef struct ramet__rope_table {
    int64_t rot;
    float base;
    float *cs;
} ramet__rope_table; /* [max_context, rot/2, 2] */

struct ramet__plan {
    ramet_runtime *rt;
    ramet__arena names; /* every small thing of the plan */
    ramet__mode mode;
    int64_t max_rows, max_outs, max_context;
    int32_t max_rank, n_slots, workers;
    int32_t one_adapter; /* gradients of a slot are those of one adapter */
    uint8_t *bound;      /* [n_slots] whether a row of the run has a change there */
    int32_t timing, training;
    const ramet__product *plain; /* of floats as they lie in memory, in bf16; NULL: the CPU has no such product */
    ramet__pval *vals, *again; /* again: results of steps that run a second time */
    int64_t n_vals;
    ramet__step *steps;
    int64_t n_steps;
    ramet__buffer *buffers;
    int64_t n_buffers;
    ramet__check *checks;
    int64_t n_checks, cap_checks;
    ramet__rope_table ropes[4];
    int32_t n_ropes;
    ramet__spans spans[4];
    int32_t n_spans;
    ramet__spans groups; /* rows by adapter; key NULL: row_adapter of the run */
    ramet__pval **inputs;
    int64_t n_inputs; /* that the graph names, used or not */
    uint8_t *input_used;
    struct ramet__plan_out {
        const char *name;
        ramet__pval *v;
    } * outputs;
    int64_t n_outputs;
    struct ramet__plan_write {
        ramet__var *var;
        ramet__pval *v;
        int32_t accumulate;
    } * writes;
    int64_t n_writes;
    ramet__weight **weights;
    int64_t n_weights;              /* retained */
    ramet__weight **packed;         /* those whose packings are used */
    int64_t n_packed;
    void *arena, *scratch, *floats; /* floats: weights and constants that operations read as floats */
    uint64_t arena_bytes, scratch_bytes, worker_bytes, floats_bytes;
    ramet__plan **inner; /* of scans with a body; owned */
    int64_t n_inner, cap_inner;
    double work, again_work; /* of all steps, of those that run again: multiplications and the like */
    const ramet__pval *cache_seq, *cache_pos; /* of attention over caches */
    int64_t cache_block;
    int64_t last_rows, last_outs;
    int32_t running;
};

/* of the plan's products */
static inline int32_t ramet__plan_arithmetic(const ramet__plan *p) {
    return p->mode == RAMET__MODE_EXACT ? RAMET__EXACT : p->mode == RAMET__MODE_BALANCED && p->training ? RAMET__BRAIN : RAMET__REDUCED;
}
/* of a product of so many rows at once */
static inline int32_t ramet__plan_arithmetic_of(const ramet__plan *p, int64_t rows) {
    const int32_t arithmetic = ramet__plan_arithmetic(p), from = p->rt->kernels->brain_rows;
    return arithmetic == RAMET__REDUCED && from && rows >= from ? RAMET__BRAIN : arithmetic;
}
/* Whether the rows of a value are bf16 in this run */
static inline int32_t ramet__narrow(const ramet__exec *x, const ramet__pval *v) { return v->narrow && ramet__plan_arithmetic_of(x->plan, x->rows) == RAMET__BRAIN; }
/* A row of activations as the product wants it */
static inline void ramet__prepare(const ramet__plan *p, const ramet__product *product, void *to, const float *x, int64_t k) {
    const ramet__scheme *scheme = product->scheme;
    if (p->mode == RAMET__MODE_FAST && scheme->prepare_fast) scheme->prepare_fast(to, x, k);
    else scheme->prepare(to, x, k);
}
/* Whether result `out` may take the place of input `in`. A narrow result stands elsewhere in its rows than the floats it is made of: only who has whole
 * rows in hand may write it over them. */
static inline int32_t ramet__overwrites(const ramet__step *s, int32_t out, int32_t in) {
    return out < RAMET__OVERWRITING && (s->op->overwrites[out] >> in & 1) && (s->op->rows || !s->out[out] || !s->out[out]->narrow);
}
static inline int64_t ramet__count(const ramet__exec *x, const ramet__pval *v) {
    return v->axis == RAMET__AXIS_ROWS ? x->rows : v->axis == RAMET__AXIS_OUTS ? x->outs : v->fixed;
}
/* What a slot's second matrix (which 1: scale t B^T) or first one (0: t A) makes of the low-rank activations t, added to y[r0..r1, c0..c1) of `cols` columns, by
 * each row's adapter; y is where column 0 of row r0 is or would be, y_ld the floats between rows. Where products are in bf16, rows of t are rounded before, to `ld` bytes each; 0: they are used as they are. slot.c */
uint64_t ramet__slot_stride(const ramet__plan *p, int64_t rows);
void ramet__slot_round(const ramet__exec *x, int64_t slot, int32_t which, const ramet__pval *t, char *rounded, int64_t r0, int64_t r1);
void ramet__slot_add(const ramet__exec *x, int64_t slot, int32_t which, const ramet__pval *t, const char *rounded, float *y, int64_t y_ld, int64_t cols, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                     void *scratch);
uint64_t ramet__slot_add_bytes(const ramet__plan *p, int64_t rows, int64_t cols);
/* Rows of the whole run that a chunk belongs to. */
static inline int64_t ramet__run_rows(const ramet__spans *s, const ramet__span *chunk) {
    const ramet__span *last = chunk;
    while (last + 1 < s->chunks + s->n_chunks && last[1].first == chunk->first) last++;
    return last->row + last->rows - chunk->first;
}
static inline float *ramet__row(const ramet__pval *v, int64_t row) { return (float *)v->data + row * v->cols; }
static inline int64_t ramet__ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline uint64_t ramet__align(uint64_t bytes) { return RAMET__ROUND_UP(bytes, (uint64_t)RAMET__ALIGN); }
/* Rows of `cols` floats that make a piece worth handing to a thread. */
static inline int64_t ramet__piece_rows(int64_t cols) { return RAMET__MAX(1, 16384 / RAMET__MAX(1, cols)); }

/* ---- building, for ops/ and gradient.c ---- */
ramet__val ramet__value_new(ramet__graph *g, const ramet__gshape *shape, ramet__type type);
/* Adds a node with n_out F32 results of these shapes; answers the first, or -1 after a failure. */
ramet__val ramet__node_add(ramet__graph *g, const ramet__op *op, const ramet__val *in, int32_t n_in,
                           const ramet__gshape *shapes, int32_t n_out, const ramet__attr *attr) RAMET__RARE;
int32_t ramet__is_val(const ramet__graph *g, ramet__val v); /* a value of this graph, and the graph has not failed */
int32_t ramet__needs(const ramet__graph *g, const ramet__node *n,
                     int32_t i); /* there, numbers, and a gradient for it is asked for */
const ramet__node *ramet__producer(const ramet__graph *g, ramet__val v); /* NULL: a leaf */
int32_t ramet__same_shape(const ramet__gshape *a, const ramet__gshape *b);
int64_t ramet__gcols(const ramet__gshape *s); /* columns as running code sees them */
int64_t ramet__grows(const ramet__gshape *s); /* most rows */
ramet__gshape ramet__gshape1(int64_t n);      /* static [n] */
ramet__gshape ramet__gshape2(ramet__axis axis, int64_t rows, int64_t cols);
ramet__gshape ramet__row_shape(const ramet__gshape *s);         /* [R] for [R,n] */
void ramet__gshape_text(char text[96], const ramet__gshape *s); /* "[R<=512, 576]" */
int32_t ramet__is_scalar(const ramet__gshape *s);
int32_t ramet__want(ramet__graph *g, int32_t ok, const char *op, const char *format, ...)
    RAMET__PRINTF(4, 5) RAMET__RARE;                                                             /* fails the graph when !ok */
ramet__val ramet__sum_to(ramet__graph *g, ramet__val v, const ramet__gshape *shape); /* undo a broadcast */

/* Primitive operations that gradients and `expand` use besides those of graph.h. */
ramet__val ramet__op_silu_grad(ramet__graph *g, ramet__val x, ramet__val dy);
ramet__val ramet__op_gelu_grad(ramet__graph *g, ramet__val x, ramet__val dy);
ramet__val ramet__op_erf(ramet__graph *g, ramet__val x);
ramet__val ramet__op_sigmoid(ramet__graph *g, ramet__val x);
ramet__val ramet__op_exp(ramet__graph *g, ramet__val x);
ramet__val ramet__op_log(ramet__graph *g, ramet__val x);
ramet__val ramet__op_recip(ramet__graph *g, ramet__val x);
ramet__val ramet__op_rsqrt(ramet__graph *g, ramet__val x);
ramet__val ramet__op_step(ramet__graph *g, ramet__val x);                      /* 1 where x > 0, else 0 */
ramet__val ramet__op_top(ramet__graph *g, ramet__val x);                       /* 1 at the first largest of each row, else 0 */
ramet__val ramet__op_row_sum(ramet__graph *g, ramet__val x);                   /* [R,n] -> [R] */
ramet__val ramet__op_row_scale(ramet__graph *g, ramet__val x, ramet__val s);   /* [R,n] * s[R] */
ramet__val ramet__op_row_fill(ramet__graph *g, ramet__val s, int64_t n);       /* [R] or [R,m] -> [R,n], m divides n */
ramet__val ramet__op_group_sum(ramet__graph *g, ramet__val x, int64_t groups); /* [R,n] -> [R,groups] */
ramet__val ramet__op_fill(ramet__graph *g, ramet__val v, const ramet__gshape *shape); /* [1] or [n] -> shape */
ramet__val ramet__op_softmax(ramet__graph *g, ramet__val x,
                             int64_t groups);            /* of each of `groups` equal parts of a row */
ramet__val ramet__op_lse(ramet__graph *g, ramet__val x); /* log-sum-exp of each row [R] */
/* x[r, ids[r,i]], shaped as ids, [R] or [R,m]; negative: 0. And back: s[r,i] added to column ids[r,i] of [R,n]. */
ramet__val ramet__op_pick(ramet__graph *g, ramet__val x, ramet__val ids);
ramet__val ramet__op_onehot(ramet__graph *g, ramet__val s, ramet__val ids, int64_t n);
ramet__val ramet__op_keep(ramet__graph *g, ramet__val x, ramet__val ids); /* 0 where ids[r] < 0 */
ramet__val ramet__op_rms_norm_grad(ramet__graph *g, ramet__val x, ramet__val w, ramet__val dy, float eps);
ramet__val ramet__op_rms_norm_dw(ramet__graph *g, ramet__val x, ramet__val dy, float eps);
ramet__val ramet__op_rope_signed(ramet__graph *g, ramet__val x, ramet__val pos, const ramet__attr *attr, float sign);
ramet__val ramet__op_embed_grad(ramet__graph *g, ramet__val dy, ramet__val ids, int64_t n); /* -> [n, d] */
ramet__val ramet__op_gather_grad(ramet__graph *g, ramet__val dy, ramet__val index, const ramet__gshape *shape);
ramet__val ramet__op_linear_dx(ramet__graph *g, ramet__val dy, ramet__val w); /* dy[R,n] w[n,k] -> [R,k] */
ramet__val ramet__op_linear_dw(ramet__graph *g, ramet__val dy, ramet__val x); /* dy[R,n]^T x[R,k] -> [n,k] */
/* Products head by head among rows of one sequence (heads.c); whole: each row with all of them, else causal. */
typedef struct ramet__heads {
    int64_t n, n_kv, dim, whole;
} ramet__heads;
ramet__val ramet__op_head_nt(ramet__graph *g, ramet__val q, ramet__val k, ramet__val seq, const ramet__heads *h,
                             float scale, float hidden); /* -> s [R, n*max_rows] */
ramet__val ramet__op_head_nn(ramet__graph *g, ramet__val s, ramet__val k, ramet__val seq, const ramet__heads *h,
                             float scale); /* -> [R, n*dim] */
ramet__val ramet__op_head_tn(ramet__graph *g, ramet__val s, ramet__val q, ramet__val seq, const ramet__heads *h,
                             float scale); /* -> [R, n_kv*dim] */
/* Products with one matrix of a slot (which: 0 A, 1 B), rows by adapter, times the adapter's scale for B. m: the slot
 * value, or a plain value of its shape that stands in for it. base: -1, or what the result is added to. */
ramet__val ramet__op_slot_nt(ramet__graph *g, ramet__val x, ramet__val m, ramet__val base, int64_t slot,
                             int64_t which);                                                             /* x m^T */
ramet__val ramet__op_slot_nn(ramet__graph *g, ramet__val dy, ramet__val m, int64_t slot, int64_t which); /* dy m */
ramet__val ramet__op_slot_tn(ramet__graph *g, ramet__val dy, ramet__val x, int64_t slot, int64_t which); /* dy^T x */

/* ---- scans with a body (scan_body.c) ---- */
typedef struct ramet__scan_body { /* of a node: its inputs but the last, seq, are given to in[], its results come from out[] */
    ramet__graph *g;
    int32_t n_in, n_state, n_out;
    ramet__val in[RAMET__NODE_IN], state[RAMET__NODE_OUT], out[RAMET__NODE_OUT]; /* values of g */
    int32_t next[RAMET__NODE_OUT]; /* out[next[i]] is state[i] of the next step */
} ramet__scan_body;
typedef struct ramet__asking ramet__asking;
ramet_status ramet__scan_body_run(const ramet__step *s, const ramet__exec *x, ramet__asking *a);
ramet_status ramet__plan_go(ramet__plan *p, const ramet__run *run, ramet__asking *a); /* ramet__plan_run with inputs bound */

/* The gradient of sum(of[i] * seed[i]), which is never made, for wrt[i] -> grads[i], -1 where nothing flows. */
ramet_status ramet__graph_pull(ramet__graph *g, const ramet__val *of, const ramet__val *seed, int32_t n_of, const ramet__val *wrt, int32_t n, ramet__val *grads);

/* ---- planning, for ops/ ---- */
ramet_status ramet__plan_check_ids(ramet__plan *p, const ramet__pval *v, int64_t low, int64_t high, const char *op);
ramet_status ramet__plan_rope(ramet__plan *p, int64_t rot, float base, const float **cs);
/* Rows are written to caches at `pos` of `seq`: checks both at run start. */
ramet_status ramet__plan_cache(ramet__plan *p, const ramet__pval *seq, const ramet__pval *pos, int64_t block);
ramet_status ramet__plan_spans(ramet__plan *p, const ramet__pval *key, int64_t chunk, const ramet__spans **out);
/* Cut keys into runs and chunks; at run start, into room made at plan time. */
void ramet__spans_build(ramet__spans *s, const int32_t *key, int64_t rows);

/* A copy of the graph's nodes that fusion may rewrite. */
typedef struct ramet__work {
    const ramet__graph *g;
    ramet__mem *mem;
    ramet__node *nodes;
    int64_t n_nodes;     /* op NULL: removed */
    int32_t *uses;       /* of each value, by living nodes, outputs and writes */
    int32_t *keep;       /* of each value: outputs and writes that read it */
    int32_t *maker;      /* node that makes it, or -1 */
    ramet__val *alias; /* value that stands for it */
    const char *tap_prefix;
} ramet__work;
ramet_status ramet__fuse(ramet__work *w);
void ramet__work_count(ramet__work *w); /* recount uses and makers, remove what nobody reads */
ramet_status ramet__work_order(ramet__work *w, int32_t **order, int64_t *n); /* topological; caller frees */

/* ---- layout.c, recompute.c ---- */
uint64_t ramet__value_bytes(const ramet__pval *v);
int32_t ramet__same_size(const ramet__pval *a, const ramet__pval *b);
ramet_status ramet__plan_layout(ramet__plan *p); /* buffers and their places: sets arena_bytes; may be called again after the steps have changed */
ramet_status ramet__plan_allocate(ramet__plan *p);
/* Cheap results that are read again much later are computed again there instead of being kept, and under a budget whatever
 * frees most for its work. E_BUDGET names the smallest budget; held: bytes of it that are the caller's already. */
ramet_status ramet__plan_fit(ramet__plan *p, uint64_t budget, uint64_t held);
#endif
