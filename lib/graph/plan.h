/* SPDX-License-Identifier: Apache-2.0 */
/* plan.h - a graph fused and laid out for its maxima: order, kernels, one arena, pieces of work; and running it.
 * Nothing is planned or allocated while running. A plan is used by one thread at a time; two plans may run at once. */
#ifndef RAMET__PLAN_H
#define RAMET__PLAN_H
#include "graph.h"

typedef struct ramet__plan ramet__plan;
typedef enum { RAMET__MODE_EXACT, RAMET__MODE_BALANCED, RAMET__MODE_FAST } ramet__mode;

/* Called on the run's thread after the tapped value is ready; must not call back into the plan. Non-zero stops the run (E_CANCELLED). */
typedef int32_t (*ramet__tap_fn)(const char *name, const float *rows, int64_t n_rows, int64_t cols, void *user);

typedef struct ramet__plan_options {
    ramet__mode mode;
    const char *tap_prefix; /* taps whose name begins so are read; NULL: none */
    uint64_t byte_budget;   /* of ramet__plan_bytes and held_bytes; 0: only the runtime's. Under a budget more is computed twice, with the same bits; E_BUDGET names the least */
    uint64_t held_bytes;    /* of byte_budget that the caller holds already */
    int64_t max_context;    /* longest position + 1 (rope tables, block tables) */
    int32_t training;       /* balanced: products that a gradient goes through keep activations in bf16 where the CPU has it */
    int32_t direct_sums;    /* accumulating writes are made step by step, without room for their sums: a run that fails leaves them half done */
    int32_t timing;         /* measure each step's time for ramet__plan_text */
} ramet__plan_options;

/* Packs the weights it uses, fuses, orders, lays out. The graph may be freed afterwards. */
ramet_status ramet__plan_create(ramet__plan **out, ramet__graph *g, const ramet__plan_options *options);
void ramet__plan_free(ramet__plan *p);
uint64_t ramet__plan_bytes(const ramet__plan *p);  /* arena, scratch, tables */
double ramet__plan_recomputed(const ramet__plan *p); /* fraction of its work that is done a second time */

/* One adapter as a run sees it: entry per slot of the graph (by ramet__graph_slot_index order); rank 0: none there. */
/* gain [n]: the result of the product and its change is multiplied by it; NULL: is not. For slots made with gain. */
typedef struct ramet__slot_entry { const float *a, *b; float scale; int32_t rank; const float *gain; } ramet__slot_entry;
typedef struct ramet__seq_view { void *const *blocks; int64_t n_blocks; } ramet__seq_view; /* see ramet__cache_layout */

typedef struct ramet__run {
    int64_t rows, outs;
    struct { const char *name; const void *data; } input[16]; int32_t n_inputs; /* every input that the graph names */
    const ramet__seq_view *seqs; int32_t n_seqs;         /* what seq [R] counts, for cached attention */
    const ramet__slot_entry *const *adapters; int32_t n_adapters; /* adapters[i][slot] */
    const int32_t *row_adapter;                          /* [rows] index into adapters or -1; NULL: all rows 0 if n_adapters else none */
    ramet__tap_fn tap; void *tap_user;
    ramet_progress_fn progress; void *progress_user;     /* asked between steps; writes to variables are not interrupted */
} ramet__run;

/* Checks counts, ids and positions, then runs. On any failure before the writes no variable has changed (but see direct_sums). */
ramet_status ramet__plan_run(ramet__plan *p, const ramet__run *run);
/* Pointer to an output of the last run, rows in *rows, columns in *cols (either may be NULL). NULL: no such name. */
const float *ramet__plan_output(const ramet__plan *p, const char *name, int64_t *rows, int64_t *cols);
/* One line a step: op, shape, kernel, pieces, bytes (for ramet bench --steps and tests). Caller frees. */
char *ramet__plan_text(const ramet__plan *p);
#endif
