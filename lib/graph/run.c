/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - one run of a plan: check what the caller gave, cut rows into runs of a sequence and of an adapter, do the
 * steps, then commit writes to variables. Nothing is allocated; a step of one piece runs on the caller without a
 * barrier. */
#include "graph/op.h"
#include <inttypes.h>
#include <string.h>
#include <time.h>

#define ASK_NS 10000000 /* between two questions to the progress callback; the first comes with the first step */

#define FEW_ROWS 16 /* a run so short that its steps are not worth cutting */

static uint64_t now_ns(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void ramet__spans_build(ramet__spans *s, const int32_t *key, int64_t rows) {
    s->n_runs = s->n_chunks = 0;
    for (int64_t r = 0; r < rows;) {
        int64_t end = r + 1;
        int32_t id = key ? key[r] : 0;
        while (end < rows && (key ? key[end] : 0) == id) end++;
        s->runs[s->n_runs++] = (ramet__span){(int32_t)r, (int32_t)(end - r), id, (int32_t)r};
        for (int64_t c = r; c < end; c += s->chunk)
            s->chunks[s->n_chunks++] =
                (ramet__span){(int32_t)c, (int32_t)RAMET__MIN(s->chunk, end - c), id, (int32_t)r};
        r = end;
    }
}

/* ---- checks ---- */
static ramet_status bind_inputs(ramet__plan *p, const ramet__run *run) {
    if (run->n_inputs < 0 || run->n_inputs > RAMET__COUNT(run->input))
        return ramet__fail(RAMET_E_ARGUMENT, "run: n_inputs %d is not in 0..%d", run->n_inputs,
                           RAMET__COUNT(run->input));
    for (int64_t i = 0; i < p->n_inputs; i++) p->inputs[i]->data = NULL;
    for (int32_t j = 0; j < run->n_inputs; j++) {
        ramet__pval *v = NULL;
        for (int64_t i = 0; i < p->n_inputs && run->input[j].name; i++)
            if (!strcmp(p->inputs[i]->name, run->input[j].name)) v = p->inputs[i];
        if (!v)
            return ramet__fail(RAMET_E_ARGUMENT, "run: the graph has no input '%s'",
                               run->input[j].name ? run->input[j].name : "NULL");
        v->data = (void *)(uintptr_t)run->input[j].data;
    }
    for (int64_t i = 0; i < p->n_inputs; i++) {
        const ramet__pval *v = p->inputs[i];
        int32_t empty =
            (v->axis == RAMET__AXIS_ROWS && run->rows == 0) || (v->axis == RAMET__AXIS_OUTS && run->outs == 0);
        if (p->input_used[i] && !v->data && !empty)
            return ramet__fail(RAMET_E_ARGUMENT, "run: input '%s' is missing", v->name);
    }
    return RAMET_OK;
}

static ramet_status check_ids(const ramet__plan *p, const ramet__exec *x) {
    for (int64_t i = 0; i < p->n_checks; i++) {
        const ramet__check *c = &p->checks[i];
        int64_t n = ramet__count(x, c->v) * c->v->cols, high = c->high < 0 ? x->rows : c->high;
        const int32_t *id = c->v->data;
        for (int64_t j = 0; j < n; j++)
            if (id[j] < c->low || id[j] >= high)
                return ramet__fail(RAMET_E_ARGUMENT, "run: %s: '%s'[%" PRId64 "] is %d, not below %" PRId64 "%s", c->op,
                                   c->v->name, j, id[j], high, c->low == 0 ? " or negative" : "");
    }
    return RAMET_OK;
}

static ramet_status check_adapters(ramet__plan *p, const ramet__run *run) {
    if (run->n_adapters < 0 || (run->n_adapters && !run->adapters))
        return ramet__fail(RAMET_E_ARGUMENT, "run: %d adapters without a table", run->n_adapters);
    if (p->one_adapter && run->n_adapters > 1)
        return ramet__fail(RAMET_E_ARGUMENT, "run: gradients of adapters are those of one adapter, %d were given",
                           run->n_adapters);
    for (int32_t i = 0; i < run->n_adapters; i++) {
        if (p->n_slots && !run->adapters[i]) return ramet__fail(RAMET_E_ARGUMENT, "run: adapters[%d] is NULL", i);
        for (int32_t j = 0; j < p->n_slots; j++) {
            const ramet__slot_entry *e = &run->adapters[i][j];
            if (e->rank < 0 || e->rank > p->max_rank)
                return ramet__fail(RAMET_E_ARGUMENT,
                                   "run: adapters[%d] has rank %d in slot %d; the plan was made for at most %d", i,
                                   e->rank, j, p->max_rank);
            if (e->rank && (!e->a || !e->b))
                return ramet__fail(RAMET_E_ARGUMENT, "run: adapters[%d] has no matrices in slot %d", i, j);
        }
    }
    if (run->row_adapter)
        for (int64_t r = 0; r < run->rows; r++)
            if (run->row_adapter[r] < -1 || run->row_adapter[r] >= run->n_adapters)
                return ramet__fail(RAMET_E_ARGUMENT, "run: row_adapter[%" PRId64 "] is %d; there are %d adapters", r,
                                   run->row_adapter[r], run->n_adapters);
    if (!p->n_slots) {
        p->groups.n_runs = p->groups.n_chunks = 0;
        return RAMET_OK;
    }
    ramet__spans_build(&p->groups, run->row_adapter, run->rows);
    if (!run->row_adapter && !run->n_adapters) { /* one run of rows without an adapter */
        for (int64_t i = 0; i < p->groups.n_runs; i++) p->groups.runs[i].key = -1;
        for (int64_t i = 0; i < p->groups.n_chunks; i++) p->groups.chunks[i].key = -1;
    }
    memset(p->bound, 0, (size_t)p->n_slots);
    for (int64_t i = 0; i < p->groups.n_runs; i++)
        for (int32_t j = 0; j < p->n_slots && p->groups.runs[i].key >= 0; j++)
            p->bound[j] |= run->adapters[p->groups.runs[i].key][j].rank > 0;
    return RAMET_OK;
}

/* Sequences exist, each stands together once, its positions follow one another, and their blocks are there. */
static ramet_status check_cache(const ramet__plan *p, const ramet__run *run) {
    const ramet__spans *s = NULL;
    for (int32_t i = 0; i < p->n_spans; i++)
        if (p->spans[i].key == p->cache_seq) s = &p->spans[i];
    if (!p->cache_block || !s) return RAMET_OK;
    const int32_t *pos = p->cache_pos->data;
    for (int64_t i = 0; i < s->n_runs; i++) {
        const ramet__span *r = &s->runs[i];
        if (r->key < 0 || r->key >= run->n_seqs || !run->seqs)
            return ramet__fail(RAMET_E_ARGUMENT, "run: row %d has sequence %d; there are %d", r->row, r->key,
                               run->n_seqs);
        for (int64_t j = 0; j < i; j++)
            if (s->runs[j].key == r->key)
                return ramet__fail(RAMET_E_ARGUMENT, "run: rows of sequence %d do not stand together (rows %d and %d)",
                                   r->key, s->runs[j].row, r->row);
        for (int32_t k = 1; k < r->rows; k++)
            if (pos[r->row + k] != pos[r->row] + k)
                return ramet__fail(RAMET_E_ARGUMENT, "run: row %d of sequence %d is at position %d, expected %d",
                                   r->row + k, r->key, pos[r->row + k], pos[r->row] + k);
        int64_t blocks = (pos[r->row] + (int64_t)r->rows - 1) / p->cache_block + 1;
        const ramet__seq_view *view = &run->seqs[r->key];
        if (view->n_blocks < blocks || !view->blocks)
            return ramet__fail(RAMET_E_ARGUMENT,
                               "run: sequence %d has %" PRId64 " cache blocks, position %d needs %" PRId64, r->key,
                               view->n_blocks, pos[r->row] + r->rows - 1, blocks);
        for (int64_t b = 0; b < blocks; b++)
            if (!view->blocks[b])
                return ramet__fail(RAMET_E_ARGUMENT, "run: sequence %d: block %" PRId64 " is NULL", r->key, b);
    }
    return RAMET_OK;
}

/* ---- steps ---- */
typedef struct piece_context {
    const ramet__step *s;
    const ramet__exec *x;
    int32_t phase;
    int64_t from;
} piece_context;

static ramet_status run_piece(void *context, int64_t piece, int32_t worker) {
    const piece_context *c = context;
    const ramet__step *s = c->s;
    const ramet__plan *p = c->x->plan;
    void *scratch = p->worker_bytes ? (char *)p->scratch + (uint64_t)worker * p->worker_bytes : NULL;
    piece += c->from;
    if (s->op->rows) {
        int64_t rows = ramet__count(c->x, s->out[0]), r0 = piece * s->chunk;
        s->op->rows(s, c->x, r0, RAMET__MIN(rows, r0 + s->chunk), scratch);
    } else
        s->op->run(s, c->x, c->phase, piece, scratch);
    return RAMET_OK;
}

struct ramet__asking {
    uint64_t last;
    const ramet__plan *plan; /* the one that was asked to run, not a body inside */
    int64_t done;
};
static ramet_status ask(const ramet__run *run, ramet__asking *a) {
    if (!run->progress) return RAMET_OK;
    uint64_t t = now_ns();
    if (t - a->last < ASK_NS) return RAMET_OK;
    a->last = t;
    return ramet__progress(run->progress, run->progress_user, (double)a->done / (double)RAMET__MAX(1, a->plan->n_steps),
                           "running");
}

static ramet_status do_pieces(const ramet__plan *p, piece_context *c, int64_t pieces, ramet__asking *a) {
    if (pieces == 1) {
        const uint64_t fp = ramet__fp_enter();
        c->from = 0;
        run_piece(c, 0, 0);
        ramet__fp_leave(fp);
        return RAMET_OK;
    }
    int64_t batch = c->x->run->progress && c->x->rows > FEW_ROWS ? c->s->batch : pieces;
    for (c->from = 0; c->from < pieces; c->from += batch) {
        if (c->from) RAMET__TRY(ask(c->x->run, a));
        RAMET__TRY(ramet__parallel_for(p->rt->threads, RAMET__MIN(batch, pieces - c->from), run_piece, c, NULL));
    }
    return RAMET_OK;
}

static ramet_status do_step(const ramet__plan *p, const ramet__step *s, const ramet__exec *x, ramet__asking *a) {
    piece_context c = {s, x, 0, 0};
    if (s->op == &ramet__opdef_tap) {
        const ramet__run *run = x->run;
        if (!run->tap) return RAMET_OK;
        return run->tap(s->attr.p, s->in[0]->data, ramet__count(x, s->in[0]), s->in[0]->cols, run->tap_user)
                   ? ramet__fail(RAMET_E_CANCELLED, "run: stopped by the reader of '%s'", (const char *)s->attr.p)
                   : RAMET_OK;
    }
    if (s->op == &ramet__opdef_scan_body) return ramet__scan_body_run(s, x, a);
    if (s->op->rows) return do_pieces(p, &c, ramet__ceil_div(ramet__count(x, s->out[0]), s->chunk), a);
    for (;; c.phase++) {
        int64_t n = s->op->pieces(s, x, c.phase);
        if (n < 0) return RAMET_OK;
        if (n) RAMET__TRY(do_pieces(p, &c, n, a));
    }
}

/* ---- writes ---- */
#define WRITE_PIECE 65536
typedef struct write_context {
    const ramet__kernels *k;
    float *to;
    const float *from;
    int64_t n;
    int32_t accumulate;
} write_context;
static ramet_status write_piece(void *context, int64_t piece, int32_t worker) {
    const write_context *c = context;
    int64_t at = piece * WRITE_PIECE, n = RAMET__MIN(WRITE_PIECE, c->n - at);
    (void)worker;
    if (c->accumulate)
        c->k->add(c->to + at, c->to + at, c->from + at, n);
    else if (c->to != c->from)
        memcpy(c->to + at, c->from + at, (size_t)n * sizeof(float));
    return RAMET_OK;
}

ramet_status ramet__plan_run(ramet__plan *p, const ramet__run *run) {
    RAMET__TRY(ramet__runtime_check(p->rt));
    if (p->running) return ramet__fail(RAMET_E_STATE, "run: the plan is running; callbacks must not run it again");
    if (run->rows < 0 || run->rows > p->max_rows)
        return ramet__fail(RAMET_E_ARGUMENT, "run: %" PRId64 " rows; the plan was made for at most %" PRId64, run->rows,
                           p->max_rows);
    if (run->outs < 0 || run->outs > p->max_outs)
        return ramet__fail(RAMET_E_ARGUMENT, "run: %" PRId64 " outs; the plan was made for at most %" PRId64, run->outs,
                           p->max_outs);
    ramet__asking a = {0, p, 0};
    RAMET__TRY(bind_inputs(p, run));
    return ramet__plan_go(p, run, &a);
}

ramet_status ramet__plan_go(ramet__plan *p, const ramet__run *run, ramet__asking *a) {
    ramet__exec x = {p, run, p->rt->kernels, run->rows, run->outs};
    RAMET__TRY(check_ids(p, &x));
    RAMET__TRY(check_adapters(p, run));
    for (int32_t i = 0; i < p->n_spans; i++) ramet__spans_build(&p->spans[i], p->spans[i].key->data, run->rows);
    RAMET__TRY(check_cache(p, run));
    ramet_status st = RAMET_OK;
    p->running = 1;
    p->last_rows = p->last_outs = -1;
    for (int64_t i = 0; i < p->n_steps; i++) {
        ramet__step *s = &p->steps[i];
        uint64_t t = p->timing ? now_ns() : 0;
        RAMET__GO(do_step(p, s, &x, a));
        if (p->timing) {
            s->nanoseconds += now_ns() - t;
            s->runs++;
        }
        if (a->plan == p) a->done = i + 1;
        RAMET__GO(ask(run, a));
    }
    for (int64_t i = 0; i < p->n_writes; i++) {
        const struct ramet__plan_write *w = &p->writes[i];
        write_context c = {x.k, w->var->data, w->v->data, ramet__shape_count(&w->var->shape), w->accumulate};
        RAMET__GO(ramet__parallel_for(p->rt->threads, ramet__ceil_div(c.n, WRITE_PIECE), write_piece, &c, NULL));
    }
    p->last_rows = run->rows;
    p->last_outs = run->outs;
out:
    p->running = 0;
    return st;
}

const float *ramet__plan_output(const ramet__plan *p, const char *name, int64_t *rows, int64_t *cols) {
    for (int64_t i = 0; i < p->n_outputs; i++) {
        if (strcmp(p->outputs[i].name, name)) continue;
        const ramet__pval *v = p->outputs[i].v;
        if (p->last_rows < 0) return NULL;
        if (rows)
            *rows = v->axis == RAMET__AXIS_ROWS ? p->last_rows : v->axis == RAMET__AXIS_OUTS ? p->last_outs : v->fixed;
        if (cols) *cols = v->cols;
        return v->data;
    }
    return NULL;
}
