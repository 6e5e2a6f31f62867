/* SPDX-License-Identifier: Apache-2.0 */
/* evaluate.c - loss and perplexity of a model on a dataset, by windows; the plan has only the scored rows go through the head,
 * whose loss is fused, so logits are never held. HALF scores what the llama.cpp project's perplexity program scores with the same
 * window. */
#include <math.h>
#include <string.h>
#include <time.h>
#include "train/train.h"

#define ROWS 1024 /* of one run, about: enough to keep the products busy, few enough for small arenas */

void ramet_evaluate_options_init(ramet_evaluate_options *options, uint32_t struct_size) {
    const ramet_evaluate_options defaults = {.window = 512, .score = RAMET_SCORE_HALF, .mode = RAMET_MODE_BALANCED, .adapter_scale = 1.0f};
    ramet__options_init(options, struct_size, &defaults, sizeof defaults);
}

typedef struct measure {
    ramet_runtime *rt;
    ramet_model *model;
    const ramet_dataset *data;
    ramet_dataset *stage;             /* of a source */
    ramet_evaluate_options o;
    int64_t stream, windows, per_run; /* tokens; windows; windows a run */
    int32_t first_id;                 /* takes the place of each window's first token; -1: none */
    ramet__plan *plan;
    ramet__rows rows;
    ramet__slot_entry *entries; const ramet__slot_entry *adapter[1];
    float *gains;                     /* of a DoRA */
    int64_t *outs_of;                 /* [per_run]: scored rows of each window of the run */
    double *sum; int64_t *count;      /* [windows]: its scored losses */
    int64_t done, scored;             /* windows; tokens */
    double share;
} measure;

static ramet_status check_options(const ramet_evaluate_options *o, const ramet_model *m, const ramet_dataset *d) {
    const char *f = "ramet_evaluate";
    if (d->pairs) return ramet__fail(RAMET_E_UNSUPPORTED, "%s: preferences have no likelihood to measure; give documents", f);
    if (o->window < 4 || o->window > m->h.n_ctx)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: window %d is not in 4..%lld, the model's context", f, o->window, (long long)m->h.n_ctx);
    if (o->score != RAMET_SCORE_HALF && o->score != RAMET_SCORE_ALL)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: score %d is none of RAMET_SCORE_*", f, o->score);
    if (o->mode < RAMET_MODE_EXACT || o->mode > RAMET_MODE_FAST)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: mode %d is none of RAMET_MODE_*", f, o->mode);
    if (o->max_tokens < 0) return ramet__fail(RAMET_E_ARGUMENT, "%s: max_tokens is negative", f);
    if (o->losses_capacity < 0 || (o->losses_capacity && !o->losses))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: losses is NULL or its capacity negative", f);
    if (o->adapter && !isfinite(o->adapter_scale)) return ramet__fail(RAMET_E_ARGUMENT, "%s: adapter_scale is not finite", f);
    if (d->model->h.n_vocab > m->h.n_vocab)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: the data's model has %lld tokens, this one %lld", f, (long long)d->model->h.n_vocab,
                           (long long)m->h.n_vocab);
    return RAMET_OK;
}

/* The beginning-of-text id where the model's tokenizer puts one in front of every text. */
static int32_t wanted_bos(const ramet_model *m) {
    int32_t id = -1;
    int64_t n = 0;
    if (!m->tokenizer || ramet__tokenizer_encode(&n, &id, 1, m->tokenizer, "", 0, RAMET__TOKENIZE_BOS)) return -1;
    return n == 1 ? id : -1;
}

static ramet_status bind_adapter(measure *m, const ramet__graph *g) {
    const ramet_adapter *a = m->o.adapter;
    ramet_status st = RAMET_OK;
    RAMET__NEW(m->entries, ramet__calloc(m->rt->mem, (size_t)RAMET__MAX(ramet__graph_slot_count(g), 1), sizeof *m->entries));
    m->adapter[0] = m->entries;
    RAMET__GO(ramet__adapter_gains(&m->gains, a, m->model, m->o.adapter_scale));
    for (int64_t i = 0; i < a->n; i++) {
        const ramet__lora *l = &a->lora[i];
        const int32_t at = ramet__graph_slot_index(g, l->name);
        const ramet__weight *w = ramet__model_weight(m->model, l->name);
        const ramet__shape *s = w ? ramet__weight_shape(w) : NULL;
        if (at < 0 || !s || s->rank != 2 || s->dim[0] != l->n || s->dim[1] != l->k)
            return ramet__fail(RAMET_E_INCONSISTENT, "ramet_evaluate: the adapter's \"%s\" [%lld, %lld] does not fit the model", l->name,
                               (long long)l->n, (long long)l->k);
        m->entries[at] = (ramet__slot_entry){l->a, l->b, l->scale * m->o.adapter_scale, l->rank, ramet__adapter_gain(m->gains, a, l)};
    }
out:
    return st;
}

ramet_status ramet__losses_graph(ramet__graph **out, const ramet_model *m, const ramet__build_options *build, int64_t rows, int64_t outs, int32_t rank) {
    ramet_status st = RAMET_OK;
    ramet__graph *g = NULL;
    ramet__built built;
    ramet__val row = -1;
    RAMET__GO(ramet__graph_create(&g, m->rt, rows, outs, rank));
    RAMET__GO(m->arch->build(&built, g, m, build));
    const ramet__val labels = ramet__graph_input(g, "labels", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0);
    const ramet__val weight = ramet__graph_input(g, "weight", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 0);
    ramet__op_cross_entropy(g, built.logits, labels, weight, &row);
    ramet__graph_output(g, "losses", row);
    RAMET__GO(ramet__graph_status(g));
    *out = g;
    g = NULL;
out:
    ramet__graph_free(g);
    return st;
}

static ramet_status make_plan(measure *m) {
    ramet_status st = RAMET_OK;
    ramet__graph *g = NULL;
    int32_t rank = 0;
    const ramet_adapter *a = m->o.adapter;
    for (int64_t i = 0; a && i < a->n; i++) rank = RAMET__MAX(rank, a->lora[i].rank);
    const int64_t rows = m->per_run * m->o.window,
                  outs = m->o.score == RAMET_SCORE_HALF ? m->per_run * (m->o.window - 1 - m->o.window / 2) : rows;
    const ramet__build_options build = {.slots = a != NULL, .gains = a && ramet__adapter_is_dora(a)};
    const ramet__plan_options plan = {.mode = (ramet__mode)m->o.mode, .max_context = m->o.window};
    RAMET__GO(ramet__losses_graph(&g, m->model, &build, rows, outs, rank));
    if (a) RAMET__GO(bind_adapter(m, g));
    RAMET__GO(ramet__plan_create(&m->plan, g, &plan));
out:
    ramet__graph_free(g);
    return st;
}

static int32_t watch(double fraction, const char *what, void *user) {
    const measure *m = user;
    (void)what;
    return m->o.progress(((double)m->done + (fraction > 0 ? fraction * m->share : 0.0)) / (double)m->windows, "evaluating",
                         m->o.progress_user);
}

/* The next windows as rows; their number in *n. Windows without a scored row are counted as done. */
static ramet_status take_windows(measure *m, int64_t *n) {
    const ramet_dataset *d;
    ramet__rows_clear(&m->rows);
    if (m->stage) ramet__dataset_cut(m->stage, 0, 0);
    for (*n = 0; *n < m->per_run && m->done + *n < m->windows; ++*n) {
        int64_t from = (m->done + *n) * m->o.window, to = RAMET__MIN(from + m->o.window, m->stream);
        const int64_t left = m->o.max_tokens ? m->o.max_tokens - m->scored - m->rows.outs : INT64_MAX, before = m->rows.outs;
        if (left <= 0) break;
        RAMET__TRY(ramet__dataset_view(&d, &from, &to, m->stage, m->data));
        if (m->o.score == RAMET_SCORE_HALF)
            ramet__rows_add_whole(&m->rows, d, from, to, m->o.window / 2, m->o.window - 2, m->first_id);
        else ramet__rows_add(&m->rows, d, from, to);
        m->outs_of[*n] = RAMET__MIN(m->rows.outs - before, left);
        m->rows.outs = before + m->outs_of[*n];
    }
    return RAMET_OK;
}

static ramet_status run_windows(measure *m) {
    ramet__run run = {
        .adapters = m->adapter, .n_adapters = m->o.adapter ? 1 : 0, .progress = m->o.progress ? watch : NULL, .progress_user = m};
    int64_t n = 0, outs = 0;
    RAMET__TRY(ramet__progress(m->o.progress, m->o.progress_user, (double)m->done / (double)m->windows, "evaluating"));
    RAMET__TRY(take_windows(m, &n));
    m->share = (double)n;
    if (m->rows.outs) {
        ramet__rows_bind(&m->rows, &run, 1);
        RAMET__TRY(ramet__plan_run(m->plan, &run));
        const float *losses = ramet__plan_output(m->plan, "losses", &outs, NULL);
        if (!losses || outs != m->rows.outs) return ramet__fail(RAMET_E_INTERNAL, "evaluate: the plan lacks its losses");
        for (int64_t i = 0, at = 0; i < n; i++)
            for (int64_t j = 0; j < m->outs_of[i]; j++, at++, m->scored++) {
                if (!isfinite(losses[at]))
                    return ramet__fail(RAMET_E_NUMERIC,
                                       "ramet_evaluate: the loss of scored token %lld is not finite; the model's weights are broken",
                                       (long long)m->scored);
                m->sum[m->done + i] += (double)losses[at];
                m->count[m->done + i]++;
                if (m->scored < m->o.losses_capacity) m->o.losses[m->scored] = losses[at];
            }
    }
    m->done += n;
    return RAMET_OK;
}

/* Mean of all tokens; its error as a ratio of sums over windows (Cochran 1977, section 2.11), since windows may score unequal numbers. */
static void summarize(ramet_evaluation *r, const measure *m) {
    double sum = 0.0, spread = 0.0;
    for (int64_t i = 0; i < m->done; i++) {
        sum += m->sum[i];
        r->windows += m->count[i] > 0;
    }
    r->tokens = m->scored;
    r->loss = sum / (double)m->scored;
    r->perplexity = exp(r->loss);
    for (int64_t i = 0; i < m->done; i++) {
        const double d = m->sum[i] - r->loss * (double)m->count[i];
        spread += d * d;
    }
    const double w = (double)r->windows;
    r->standard_error = r->windows > 1 ? sqrt(spread * w / (w - 1.0)) / (double)m->scored : 0.0;
}

ramet_status ramet_evaluate(ramet_evaluation *out, ramet_model *model, ramet_dataset *data, const ramet_evaluate_options *options) {
    ramet_status st = RAMET_OK;
    ramet_evaluation result = {.struct_size = sizeof result};
    struct timespec begin, end;
    measure m = {.model = model, .data = data};
    ramet_evaluate_options_init(&m.o, sizeof m.o);
    if (!out || !model || !data)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_evaluate: %s is NULL", !out ? "out" : !model ? "model" : "data");
    if (out->struct_size < sizeof out->struct_size) return ramet__fail(RAMET_E_ARGUMENT, "ramet_evaluate: set out->struct_size");
    RAMET__TRY(ramet__runtime_check(model->rt));
    RAMET__TRY(ramet__options(&m.o, sizeof m.o, options, "ramet_evaluate"));
    RAMET__TRY(check_options(&m.o, model, data));
    clock_gettime(CLOCK_MONOTONIC, &begin);
    ramet__dataset_seal(data);
    m.rt = model->rt;
    m.first_id = wanted_bos(model);
    m.stream =
        data->n - (data->n_docs && data->docs[data->n_docs - 1].closed ? 1 : 0); /* the id that closes the last text separates nothing */
    m.windows = m.o.score == RAMET_SCORE_HALF ? m.stream / m.o.window : (m.stream + m.o.window - 1) / m.o.window;
    m.per_run = RAMET__MAX(1, RAMET__MIN(ROWS / m.o.window, m.windows));
    if (!m.windows)
        return ramet__fail(RAMET_E_ARGUMENT,
                           "ramet_evaluate: the data has %lld tokens, less than one window of %d; give a smaller window or score all (RAMET_SCORE_ALL)",
                           (long long)m.stream, m.o.window);
    ramet__mem *mem = m.rt->mem;
    RAMET__NEW(m.sum, ramet__calloc(mem, (size_t)m.windows, sizeof *m.sum));
    RAMET__NEW(m.count, ramet__calloc(mem, (size_t)m.windows, sizeof *m.count));
    RAMET__NEW(m.outs_of, ramet__calloc(mem, (size_t)m.per_run, sizeof *m.outs_of));
    RAMET__GO(ramet__rows_init(&m.rows, mem, m.per_run * m.o.window));
    RAMET__GO(make_plan(&m));
    if (data->read) RAMET__GO(ramet_dataset_create(&m.stage, data->model));
    while (m.done < m.windows && (!m.o.max_tokens || m.scored < m.o.max_tokens)) RAMET__GO(run_windows(&m));
    if (!m.scored) {
        st = ramet__fail(RAMET_E_ARGUMENT, "ramet_evaluate: the data has nothing to score");
        goto out;
    }
    summarize(&result, &m);
    clock_gettime(CLOCK_MONOTONIC, &end);
    result.seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    ramet__options_init(out, out->struct_size, &result, sizeof result);
out:
    ramet__plan_free(m.plan);
    ramet_dataset_free(m.stage);
    ramet__rows_free(&m.rows);
    ramet__free(m.entries);
    ramet__free(m.gains);
    ramet__free(m.outs_of);
    ramet__free(m.sum);
    ramet__free(m.count);
    return st;
}
