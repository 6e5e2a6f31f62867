/* SPDX-License-Identifier: Apache-2.0 */
/* graph.h - a list of semantic operations in SSA form; gradients are graphs too. Architectures, losses and gradient rules
 * build; plan.h fuses, lays out and runs.
 *
 * Building never returns a status: an error sticks to the graph (first one wins) and every later call returns -1, so that
 * model code reads like the model. ramet__graph_status(), and ramet__plan_create(), answer it.
 *
 * Rows: dimension 0 of an activation follows an axis whose count is known only when a run starts (at most the graph's
 * maximum). One plan serves decoding one token, prefill, several sequences, packed training windows.
 */
#ifndef RAMET__GRAPH_H
#define RAMET__GRAPH_H
#include "tensor/weight.h"

typedef int32_t ramet__val; /* a value of the graph; -1: none */
typedef struct ramet__graph ramet__graph;
typedef struct ramet__op ramet__op;

typedef enum { RAMET__TYPE_F32, RAMET__TYPE_I32 } ramet__type;
typedef enum {
    RAMET__AXIS_STATIC, /* dim[0] is what it says */
    RAMET__AXIS_ROWS,   /* rows of the run */
    RAMET__AXIS_OUTS,   /* rows of the run whose outputs are wanted (logits, losses) */
    RAMET__AXIS_COUNT
} ramet__axis;

typedef struct ramet__gshape { int32_t rank; ramet__axis axis; int64_t dim[RAMET__MAX_RANK]; } ramet__gshape; /* dim[0]: the maximum */

/* A named tensor outside the arena that runs may write: trained weight, gradient sum, running statistic. F32. The owner (a
 * tuner, a session) allocates; it must outlive the plans that name it. */
typedef struct ramet__var { const char *name; ramet__shape shape; float *data; } ramet__var;

/* Keys and values of one sequence lie in blocks of `block` positions; a block holds, for each layer, K of each head [head_dim, block] (as scores
 * read it: a position is a column) then V of each head [block, head_dim], in floats, IEEE halves, or int8 with a float scale of each position behind them. */
typedef enum { RAMET__CACHE_F32, RAMET__CACHE_F16, RAMET__CACHE_INT8 } ramet__cache_type;
typedef struct ramet__cache_layout { int32_t layers, n_kv, head_dim, block, type; } ramet__cache_layout;
static inline uint64_t ramet__cache_head_bytes(const ramet__cache_layout *c) { /* K or V of a head */
    const uint64_t n = (uint64_t)c->block * (uint64_t)c->head_dim;
    return c->type == RAMET__CACHE_INT8 ? ramet__kv_scales((int64_t)n) + (uint64_t)c->block * sizeof(float) : n * (c->type == RAMET__CACHE_F16 ? 2u : 4u);
}
static inline uint64_t ramet__cache_block_bytes(const ramet__cache_layout *c) { return (uint64_t)c->layers * 2u * (uint64_t)c->n_kv * ramet__cache_head_bytes(c); }

ramet_status ramet__graph_create(ramet__graph **out, ramet_runtime *rt, int64_t max_rows, int64_t max_outs, int32_t max_rank);
void ramet__graph_free(ramet__graph *g);
ramet_status ramet__graph_status(const ramet__graph *g);
ramet_runtime *ramet__graph_runtime(const ramet__graph *g);
void ramet__graph_fail(ramet__graph *g, ramet_status status, const char *format, ...) RAMET__PRINTF(3, 4);
const ramet__gshape *ramet__graph_shape(const ramet__graph *g, ramet__val v);
ramet__type ramet__graph_type(const ramet__graph *g, ramet__val v);

/* ---- leaves ---- */
/* A run-time input by name: the run gives a pointer to count x dim[1..] elements. The same name gives the same value. */
ramet__val ramet__graph_input(ramet__graph *g, const char *name, ramet__type type, ramet__axis axis, int64_t cols); /* cols 0: rank 1 */
ramet__val ramet__graph_weight(ramet__graph *g, ramet__weight *w);        /* retained; same weight, same value */
ramet__val ramet__graph_var(ramet__graph *g, ramet__var *var);            /* its current version */
ramet__val ramet__graph_const(ramet__graph *g, float value);              /* shape [1] */
/* The adapter slot of one use of a linear weight [n,k]: two values A [rank,k] and B [n,rank] bound at run time to a table
 * from row to (A, B, scale, rank <= max_rank). Only linear reads them. Gradients have max_rank rows (A) or columns (B), zero
 * beyond the adapter's own rank, and a run that computes them takes one adapter. Named by the weight ("blk.0.attn_q.weight").
 * The same name gives the same slot. */
typedef struct ramet__slot { ramet__val a, b; int32_t gain; } ramet__slot; /* gain 1: adapters may have one (plan.h); off by default */
ramet__slot ramet__graph_slot(ramet__graph *g, const char *name, int64_t n, int64_t k);
int32_t ramet__graph_slot_index(const ramet__graph *g, const char *name); /* -1: none */
int32_t ramet__graph_slot_count(const ramet__graph *g);

/* ---- operations (lib/graph/ops/<op>.c; ops.def is the list) ---- */
/* rows of the table [v,d] for ids [R] -> [R,d]. Table: weight or var. Negative ids give zeros. */
ramet__val ramet__op_embed(ramet__graph *g, ramet__val table, ramet__val ids);
/* y[R,n] = x[R,k] w[n,k]^T (+ bias[n]) (+ slot: scale_row * (x A^T) B^T). w: weight or var; bias -1; slot NULL. */
ramet__val ramet__op_linear(ramet__graph *g, ramet__val x, ramet__val w, ramet__val bias, const ramet__slot *slot);
ramet__val ramet__op_rms_norm(ramet__graph *g, ramet__val x, ramet__val w, float eps);
ramet__val ramet__op_layer_norm(ramet__graph *g, ramet__val x, ramet__val w, ramet__val b, float eps); /* Ba et al. 2016; w and b have one number a column */
ramet__val ramet__op_l2_normalize(ramet__graph *g, ramet__val x);        /* each row over its length */
/* Rotary embedding (Su et al. 2021) of [R, heads*head_dim] at pos [R]; first `rot` of each head; pairs (2j,2j+1) or halves. */
ramet__val ramet__op_rope(ramet__graph *g, ramet__val x, ramet__val pos, int64_t heads, int64_t head_dim, int64_t rot, float base,
                          int32_t halves);
/* Causal attention among the rows of this run that have the same seq [R]; rows of one sequence stand together, in order.
 * q [R, n_head*hd], k and v [R, n_kv*hd] -> [R, n_head*hd]. Differentiable. */
ramet__val ramet__op_attention(ramet__graph *g, ramet__val q, ramet__val k, ramet__val v, ramet__val seq, int64_t n_head,
                               int64_t n_kv, int64_t head_dim);
/* The same, but every row sees all rows of its sequence (encoders). */
ramet__val ramet__op_attention_whole(ramet__graph *g, ramet__val q, ramet__val k, ramet__val v, ramet__val seq, int64_t n_head,
                                     int64_t n_kv, int64_t head_dim);
/* The same over the sequence's cache, after this run's k and v were written at pos [R]. Not differentiable. */
ramet__val ramet__op_cache_attention(ramet__graph *g, ramet__val q, ramet__val k, ramet__val v, ramet__val seq, ramet__val pos,
                                     const ramet__cache_layout *cache, int32_t layer, int64_t n_head);
/* The loop over rows: y[t] = x[t] + a[t] y[t-1] in each sequence, or reversed y[t] = x[t] + a[t+1] y[t+1]; a, x [R,n]. And each row's
 * neighbour in its sequence: the one before (reversed: after) it, zeros where there is none. */
ramet__val ramet__op_scan(ramet__graph *g, ramet__val a, ramet__val x, ramet__val seq, int32_t reversed);
ramet__val ramet__op_shift(ramet__graph *g, ramet__val x, ramet__val seq, int32_t reversed);
/* The loop with a body of its own. Each step runs `body` on one row of every sequence (reversed: the last first). to[i], an input or variable of the
 * body, is given in[i]: rows, of which a step sees its own, or the same whole value in every step; other variables of the body are read as they are.
 * The body's other inputs are carried state: rows, zero at first, then the body's output of that name. Its outputs are the results out[], in
 * their order: rows of all steps; of whole values the sum over steps. As many sequences are run at once as the body's max_rows says. The
 * body becomes the graph's, but not after a failure. Differentiable to any order: the gradient is a scan the other way round. */
void ramet__op_scan_body(ramet__graph *g, ramet__graph *body, const ramet__val *to, const ramet__val *in, int32_t n_in, ramet__val seq,
                         int32_t reversed, ramet__val *out);
ramet__val ramet__op_add(ramet__graph *g, ramet__val a, ramet__val b);   /* same shape, or b [1], [cols] broadcast */
ramet__val ramet__op_sub(ramet__graph *g, ramet__val a, ramet__val b);
ramet__val ramet__op_mul(ramet__graph *g, ramet__val a, ramet__val b);   /* same broadcasts */
ramet__val ramet__op_scale(ramet__graph *g, ramet__val a, float s);
ramet__val ramet__op_silu(ramet__graph *g, ramet__val x);                /* silu(gate)*up fuses into one kernel */
ramet__val ramet__op_gelu(ramet__graph *g, ramet__val x);                /* x * Phi(x) (Hendrycks & Gimpel 2016), the form with erf */
ramet__val ramet__op_gelu_tanh(ramet__graph *g, ramet__val x);           /* their approximation */
ramet__val ramet__op_relu(ramet__graph *g, ramet__val x);
ramet__val ramet__op_tanh(ramet__graph *g, ramet__val x);
ramet__val ramet__op_softplus(ramet__graph *g, ramet__val x);            /* log(1 + exp(x)) */
ramet__val ramet__op_slice(ramet__graph *g, ramet__val x, int64_t at, int64_t count);   /* columns at .. at+count-1 */
ramet__val ramet__op_place(ramet__graph *g, ramet__val x, int64_t at, int64_t columns); /* x at column `at` of zeros */
ramet__val ramet__op_fold(ramet__graph *g, ramet__val x, int64_t columns);   /* [R,n] -> [R,columns]: sums of columns j, j+columns, ... */
ramet__val ramet__op_repeat(ramet__graph *g, ramet__val x, int64_t columns); /* [R,n] -> [R,columns], its transpose */
ramet__val ramet__op_over_rows(ramet__graph *g, ramet__val x, ramet__val like); /* x / rows that `like` has in the run */
/* Zero with probability `rate`, else times 1/(1-rate); the mask is a function of (seed, step [1], element). */
ramet__val ramet__op_dropout(ramet__graph *g, ramet__val x, ramet__val step, double rate, int64_t seed);
/* Images [R, height*width*channels], channels last; w [outputs, kernel*kernel*channels]; bias [outputs] or -1. */
ramet__val ramet__op_conv2d(ramet__graph *g, ramet__val x, ramet__val w, ramet__val bias, int64_t height, int64_t width, int64_t kernel,
                            int64_t stride, int64_t pad);
/* Windows of down x across elements; those that would reach over the edge are left out. */
ramet__val ramet__op_max_pool(ramet__graph *g, ramet__val x, int64_t height, int64_t width, int64_t down, int64_t across, int64_t stride);
ramet__val ramet__op_pool_sum(ramet__graph *g, ramet__val x, int64_t height, int64_t width, int64_t down, int64_t across, int64_t stride);
/* The mean of the rows [R,d] of each segment [R] -> [OUTS,d]; segment: the number of the result a row belongs to. Each has a row. */
ramet__val ramet__op_segment_mean(ramet__graph *g, ramet__val x, ramet__val segment);
ramet__val ramet__op_experts(ramet__graph *g, ramet__val x, ramet__val w, ramet__val choice); /* x [R,k], w [E*n,k], choice [R,E] -> [R,n] */
ramet__val ramet__op_gather(ramet__graph *g, ramet__val x, ramet__val index); /* rows index [OUTS] of x [R,d] -> [OUTS,d] */
ramet__val ramet__op_sum(ramet__graph *g, ramet__val x);                 /* all elements -> [1] */
ramet__val ramet__op_sum_rows(ramet__graph *g, ramet__val x);            /* [R,n] -> [n] */
/* Losses: `weight` [O] multiplies each row's term; *row (may be NULL) gets the unweighted terms [O]. -> [1] */
ramet__val ramet__op_cross_entropy(ramet__graph *g, ramet__val logits, ramet__val labels, ramet__val weight, ramet__val *row); /* label < 0: term 0 */
/* KL(t || softmax(logits)) in nats against targets given on `top` ids a row plus one bin for the rest: ids [O,top] (negative:
 * unused; no id twice in a row), p [O,top]; what is missing to 1 is the rest's mass. No derivative for p. */
/* The same skewed: KL(t || skew t + (1 - skew) q), or reverse: KL(q || (1 - skew) t + skew q). */
ramet__val ramet__op_kl_skewed(ramet__graph *g, ramet__val logits, ramet__val ids, ramet__val p, ramet__val weight, int32_t reverse, float skew, ramet__val *row);
ramet__val ramet__op_kl_top(ramet__graph *g, ramet__val logits, ramet__val ids, ramet__val p, ramet__val weight, ramet__val *row);
ramet__val ramet__op_kl(ramet__graph *g, ramet__val logits, ramet__val target_logits, ramet__val weight, ramet__val *row);
ramet__val ramet__op_mse(ramet__graph *g, ramet__val x, ramet__val y, ramet__val weight, ramet__val *row); /* mean over columns */
ramet__val ramet__op_stop_gradient(ramet__graph *g, ramet__val x);
ramet__val ramet__op_reverse_gradient(ramet__graph *g, ramet__val x, float strength); /* identity; gradient times -strength (Ganin 2016) */
/* A named place. Costs nothing unless a plan asks for the tap: then the host's callback reads the rows. */
ramet__val ramet__op_tap(ramet__graph *g, ramet__val x, const char *name_format, ...) RAMET__PRINTF(3, 4);
/* An edit: rows with mask[R] != 0 are replaced by the same row of r. */
ramet__val ramet__op_edit(ramet__graph *g, ramet__val x, ramet__val r, ramet__val mask);
/* Commit `v` into the variable (after all readers of the old version); accumulate: add to it. Differentiating through is an error. */
void ramet__op_write(ramet__graph *g, ramet__var *var, ramet__val v, int32_t accumulate);

/* A value that the run leaves readable afterwards, by name (ramet__plan_output). */
void ramet__graph_output(ramet__graph *g, const char *name, ramet__val v);

/* Extend the graph by d(loss)/d(wrt[i]) -> grads[i] (loss [1]; -1 where loss does not depend on it). wrt: vars, slot values,
 * inputs, any value. Uses of one value add up. Ops without a rule are expanded first; not differentiable: E_UNSUPPORTED naming the op. */
ramet_status ramet__graph_gradient(ramet__graph *g, ramet__val loss, const ramet__val *wrt, int32_t n, ramet__val *grads);
/* Gradients grads[0..n) of a loss over rows, each belonging to one of `windows` windows (inputs "window" [rows] and "window_out" [outs], rising), become sums
 * of those windows' own gradients, all of them together no longer than `limit`. Answers the squared lengths before [windows, 1]. names: for messages. */
ramet__val ramet__graph_limit_windows(ramet__graph *g, ramet__val *grads, int32_t n, const char *const *names, int64_t windows, float limit);
/* For ramet_list("ops", i). */
int32_t ramet__op_list(int32_t i, const char **name, const char **detail);
#endif
