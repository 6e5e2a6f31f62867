/* SPDX-License-Identifier: Apache-2.0 */
/* session.c - a model being run: one plan made for the session's maxima serves prefill, decoding and several sequences at
 * once; keys and values stand in blocks that are added between runs. Rows beyond a plan's maximum are cut into several runs,
 * and the sequences advance only when all of them are done. */
#include "infer/session.h"
#include <limits.h>
#include <string.h>
#include <time.h>

static const ramet_session_options defaults = {
    .struct_size = sizeof(ramet_session_options), .mode = RAMET_MODE_BALANCED, .max_context = 2048, .max_rows = 512, .max_sequences = 8, .max_rank = 64, .max_outputs = 8,
};

void ramet_session_options_init(ramet_session_options *options, uint32_t struct_size) { ramet__options_init(options, struct_size, &defaults, sizeof defaults); }

static ramet_status check_options(ramet_session_options *o, const ramet_model *model) {
    const struct { const char *name; int64_t value, limit; } ranges[] = {
        {"max_context", o->max_context, (int64_t)1 << 30}, {"max_rows", o->max_rows, 1 << 16}, {"max_sequences", o->max_sequences, 1 << 16}, {"max_outputs", o->max_outputs, 1 << 16},
    };
    for (int32_t i = 0; i < RAMET__COUNT(ranges); i++)
        if (ranges[i].value < 1 || ranges[i].value > ranges[i].limit)
            return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_create: %s is %lld; 1 to %lld are possible", ranges[i].name, (long long)ranges[i].value, (long long)ranges[i].limit);
    if (o->max_rank < 0 || o->max_rank > 4096) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_create: max_rank is %d; 0 to 4096 are possible", o->max_rank);
    if (o->mode < RAMET_MODE_EXACT || o->mode > RAMET_MODE_FAST) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_create: mode %d is none of RAMET_MODE_*", o->mode);
    if (o->cache < RAMET_CACHE_DEFAULT || o->cache > RAMET_CACHE_INT8) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_create: cache %d is none of RAMET_CACHE_*", o->cache);
    if (o->cache == RAMET_CACHE_INT8 && o->mode == RAMET_MODE_EXACT)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_create: a cache in int8 is rounded, which mode exact is not; choose balanced or fast");
    o->max_context = RAMET__MIN(o->max_context, model->h.n_ctx);
    return RAMET_OK;
}

/* ---- making ---- */

_Static_assert((int)RAMET__MODE_EXACT == RAMET_MODE_EXACT && (int)RAMET__MODE_BALANCED == RAMET_MODE_BALANCED && (int)RAMET__MODE_FAST == RAMET_MODE_FAST,
               "a plan's modes have the API's numbers");

const char *const ramet__mode_names[3] = {"exact", "balanced", "fast"};

static ramet_status make_plan(ramet_session *s, ramet__weight *head) {
    const ramet_model *m = s->model;
    const ramet__build_options b = {.cached = 1, .block = RAMET__CACHE_BLOCK, .cache_type = s->cache.layout.type, .slots = s->o.max_rank > 0, .gains = s->o.dora, .head = head};
    const ramet__plan_options p = {.mode = (ramet__mode)s->o.mode, .max_context = s->o.max_context};
    ramet__graph *g = NULL;
    ramet__built built;
    ramet_status st;
    RAMET__GO(ramet__graph_create(&g, m->rt, s->o.max_rows, RAMET__MIN(s->o.max_outputs, s->o.max_rows), s->o.max_rank));
    RAMET__GO(m->arch->build(&built, g, m, &b));
    ramet__graph_output(g, "logits", built.logits);
    RAMET__GO(ramet__plan_create(&s->plan, g, &p));
    RAMET__GO(ramet__adapters_init(&s->adapters, m, g, s->o.max_rank, s->o.dora));
out:
    ramet__graph_free(g);
    return st;
}

/* vocabulary: of the logits; fewer than the model's: the first so many. */
static ramet_status create(ramet_session **out, ramet_model *model, const ramet_session_options *options, int64_t vocabulary) {
    const ramet_session_options o = *options;
    ramet_session *s = NULL;
    ramet__weight *head = NULL;
    ramet_status st;
    ramet__mem *mem = model->rt->mem;
    const ramet__cache_layout layout = {model->h.n_layer, model->h.n_kv, model->h.head_dim, RAMET__CACHE_BLOCK, o.mode == RAMET_MODE_EXACT ? RAMET__CACHE_F32 : o.cache == RAMET_CACHE_INT8 ? RAMET__CACHE_INT8 : RAMET__CACHE_F16};
    RAMET__NEW(s, ramet__calloc(mem, 1, sizeof *s));
    s->model = ramet_model_retain(model);
    s->o = o;
    s->vocabulary = vocabulary;
    if (vocabulary < model->h.n_vocab) RAMET__GO(ramet__weight_first(&head, ramet__model_weight(model, ramet__model_head(model)), vocabulary));
    RAMET__GO(ramet__cache_init(&s->cache, mem, &layout, o.max_sequences, o.max_context));
    RAMET__GO(make_plan(s, head));
    RAMET__NEW(s->adapter, ramet__alloc(mem, (size_t)o.max_sequences * sizeof *s->adapter));
    RAMET__NEW(s->start, ramet__alloc(mem, (size_t)o.max_sequences * sizeof *s->start));
    RAMET__NEW(s->pos, ramet__alloc(mem, (size_t)o.max_rows * sizeof *s->pos));
    RAMET__NEW(s->outs, ramet__alloc(mem, (size_t)o.max_outputs * sizeof *s->outs));
    RAMET__NEW(s->rows_adapter, ramet__alloc(mem, (size_t)o.max_rows * sizeof *s->rows_adapter));
    RAMET__NEW(s->zeros, ramet__calloc(mem, (size_t)o.max_rows, sizeof *s->zeros));
    for (int32_t i = 0; i < o.max_sequences; i++) s->adapter[i] = -1;
    *out = s;
    s = NULL;
out:
    ramet__weight_free(head);
    ramet_session_free(s);
    return st;
}

static ramet_status add_drafter(ramet_session *s, ramet_model *small, int64_t vocabulary) {
    ramet_session_options o = defaults;
    if (small->h.n_vocab != s->vocabulary)
        return ramet__fail(RAMET_E_INCONSISTENT, "ramet_session_create: the draft model has %lld tokens, the model %lld; guessing needs one vocabulary", (long long)small->h.n_vocab,
                           (long long)s->vocabulary);
    RAMET__TRY(ramet__draft_tokens(s->model, small));
    if (vocabulary < 0 || vocabulary > s->vocabulary)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_create: draft_vocabulary is %lld; 0 (all) to %lld are possible", (long long)vocabulary, (long long)s->vocabulary);
    if (!vocabulary) vocabulary = s->vocabulary;
    o.max_context = RAMET__MIN(s->o.max_context, small->h.n_ctx);
    o.max_rows = s->o.max_rows;
    o.max_sequences = s->o.max_sequences;
    o.max_outputs = 1;
    o.max_rank = 0;
    s->draft_cost = ramet__draft_cost(s->model, small, vocabulary);
    const ramet_status st = create(&s->drafter, small, &o, vocabulary);
    return st ? ramet__prefix(st, "the draft model: ") : RAMET_OK;
}

ramet_status ramet_session_create(ramet_session **out, ramet_model *model, const ramet_session_options *options) {
    ramet_session_options o = defaults;
    ramet_session *s = NULL;
    ramet_status st;
    if (!out || !model) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_create: %s is NULL", out ? "model" : "out");
    RAMET__TRY(ramet__runtime_check(model->rt));
    if (options) RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_session_create"));
    RAMET__TRY(check_options(&o, model));
    if (o.draft_vocabulary && !o.draft_model)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_create: draft_vocabulary is %lld but there is no draft_model", (long long)o.draft_vocabulary);
    ramet_model *small = o.draft_model;
    o.draft_model = NULL;
    RAMET__GO(create(&s, model, &o, model->h.n_vocab));
    if (small) RAMET__GO(add_drafter(s, small, o.draft_vocabulary));
    *out = s;
    return RAMET_OK;
out:
    ramet_session_free(s);
    return st;
}

void ramet_session_free(ramet_session *session) {
    if (!session) return;
    ramet_session_free(session->drafter);
    ramet__plan_free(session->plan);
    ramet__cache_free(&session->cache);
    ramet__adapters_free(&session->adapters);
    ramet__free(session->adapter);
    ramet__free(session->start);
    ramet__free(session->pos);
    ramet__free(session->outs);
    ramet__free(session->rows_adapter);
    ramet__free(session->zeros);
    ramet__free(session->logits);
    ramet_model *model = session->model;
    ramet__free(session);
    ramet_model_free(model);
}

ramet_status ramet__session_enter(const ramet_session *s, const char *function) {
    if (!s) return ramet__fail(RAMET_E_ARGUMENT, "%s: session is NULL", function);
    RAMET__TRY(ramet__runtime_check(s->model->rt));
    if (s->busy) return ramet__fail(RAMET_E_STATE, "%s: called from inside a callback of the same session", function);
    return RAMET_OK;
}

ramet_status ramet__session_enter_sequence(const ramet_session *s, int32_t sequence, const char *function) {
    RAMET__TRY(ramet__session_enter(s, function));
    if (sequence >= 0 && sequence < s->o.max_sequences) return RAMET_OK;
    return ramet__fail(RAMET_E_ARGUMENT, "%s: sequence %d; the session has 0 to %d (max_sequences)", function, sequence, s->o.max_sequences - 1);
}

ramet_status ramet_session_attach(int32_t *index, ramet_session *session, ramet_adapter *adapter, float scale) {
    RAMET__TRY(ramet__session_enter(session, "ramet_session_attach"));
    return ramet__adapters_attach(index, &session->adapters, adapter, scale, "ramet_session_attach");
}

ramet_status ramet_session_detach(ramet_session *session, int32_t index) {
    RAMET__TRY(ramet__session_enter(session, "ramet_session_detach"));
    RAMET__TRY(ramet__adapters_check(&session->adapters, index, "ramet_session_detach"));
    for (int32_t i = 0; i < session->o.max_sequences; i++)
        if (session->adapter[i] == index) session->adapter[i] = -1;
    ramet__adapters_detach(&session->adapters, index);
    return RAMET_OK;
}

ramet_status ramet_session_use(ramet_session *session, int32_t sequence, int32_t adapter_index) {
    RAMET__TRY(ramet__session_enter_sequence(session, sequence, "ramet_session_use"));
    if (adapter_index != -1) RAMET__TRY(ramet__adapters_check(&session->adapters, adapter_index, "ramet_session_use"));
    session->adapter[sequence] = adapter_index;
    return RAMET_OK;
}

/* ---- sequences ---- */

ramet_status ramet_session_truncate(ramet_session *session, int32_t sequence, int64_t keep) {
    RAMET__TRY(ramet__session_enter_sequence(session, sequence, "ramet_session_truncate"));
    int64_t length = session->cache.seqs[sequence].length;
    if (keep < 0 || keep > length) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_truncate: keep is %lld; sequence %d holds %lld tokens", (long long)keep, sequence, (long long)length);
    ramet__cache_cut(&session->cache, sequence, keep);
    return RAMET_OK;
}

ramet_status ramet_session_fork(ramet_session *session, int32_t to_sequence, int32_t from_sequence, int64_t keep) {
    RAMET__TRY(ramet__session_enter_sequence(session, to_sequence, "ramet_session_fork"));
    RAMET__TRY(ramet__session_enter_sequence(session, from_sequence, "ramet_session_fork"));
    const int64_t length = session->cache.seqs[from_sequence].length;
    if (to_sequence == from_sequence) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_fork: to and from are both sequence %d; ramet_session_truncate shortens one", to_sequence);
    if (keep < 0 || keep > length)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_fork: keep is %lld; sequence %d holds %lld tokens", (long long)keep, from_sequence, (long long)length);
    ramet__cache_share(&session->cache, to_sequence, from_sequence, keep);
    session->adapter[to_sequence] = session->adapter[from_sequence];
    return RAMET_OK;
}

int64_t ramet_session_length(const ramet_session *session, int32_t sequence) {
    if (!session || sequence < 0 || sequence >= session->o.max_sequences) return 0;
    return session->cache.seqs[sequence].length;
}

/* ---- running ---- */

/* One call's rows. `start`: where each sequence stands while the call goes on. */
typedef struct call {
    ramet_session *s;
    const int32_t *ids, *sequence;
    const uint8_t *want;
    int64_t rows, done;
    ramet_progress_fn progress; void *user;
} call;

static int32_t seq_at(const call *c, int64_t row) { return c->sequence ? c->sequence[row] : 0; }

static int32_t wanted(const call *c, int64_t row) {
    if (c->want) return c->want[row] != 0;
    return row + 1 == c->rows || seq_at(c, row + 1) != seq_at(c, row);
}

static int32_t part_progress(double fraction, const char *what, void *user) {
    const call *c = user;
    return c->progress(((double)c->done + fraction * (double)RAMET__MIN((int64_t)c->s->o.max_rows, c->rows - c->done)) / (double)c->rows, what, c->user);
}

static ramet_status check_rows(int64_t *outputs, const call *c) {
    const ramet_session *s = c->s;
    int64_t outs = 0;
    for (int32_t i = 0; i < s->o.max_sequences; i++) s->start[i] = -1;
    for (int64_t i = 0; i < c->rows; i++) {
        const int32_t q = seq_at(c, i);
        if (q < 0 || q >= s->o.max_sequences)
            return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_run: row %lld names sequence %d; the session has 0 to %d (max_sequences)", (long long)i, q, s->o.max_sequences - 1);
        if (i && seq_at(c, i - 1) != q && s->start[q] >= 0)
            return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_run: row %lld continues sequence %d after another one; put a sequence's rows together", (long long)i, q);
        if (s->start[q] < 0) s->start[q] = s->cache.seqs[q].length;
        if (c->ids[i] < 0 || c->ids[i] >= s->model->h.n_vocab)
            return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_run: row %lld has id %d; the vocabulary is 0 to %lld", (long long)i, c->ids[i], (long long)s->model->h.n_vocab - 1);
        if (++s->start[q] > s->o.max_context)
            return ramet__fail(RAMET_E_LIMIT, "ramet_session_run: sequence %d would hold more than %lld tokens (max_context)", q, (long long)s->o.max_context);
        outs += wanted(c, i);
    }
    if (outs > s->o.max_outputs)
        return ramet__fail(RAMET_E_LIMIT, "ramet_session_run: %lld rows of logits are wanted, the session gives at most %d (max_outputs)", (long long)outs, s->o.max_outputs);
    *outputs = outs;
    return RAMET_OK;
}

/* Rows done .. done+n-1 through the plan; *outs: how many rows of logits it made. */
static ramet_status run_part(int64_t *outs, call *c, int64_t n) {
    ramet_session *s = c->s;
    int64_t o = 0;
    for (int64_t i = 0; i < n; i++) {
        const int32_t q = seq_at(c, c->done + i);
        s->pos[i] = (int32_t)s->start[q]++;
        ramet__cache_ids(&s->cache, s->cache.seqs[q].blocks[s->pos[i] / RAMET__CACHE_BLOCK])[s->pos[i] % RAMET__CACHE_BLOCK] = c->ids[c->done + i];
        s->rows_adapter[i] = s->adapter[q];
        if (wanted(c, c->done + i)) s->outs[o++] = (int32_t)i;
    }
    ramet__run run = {
        .rows = n, .outs = o,
        .input = {{"tokens", c->ids + c->done}, {"pos", s->pos}, {"seq", c->sequence ? c->sequence + c->done : s->zeros}, {"outs", s->outs}}, .n_inputs = 4,
        .seqs = s->cache.views, .n_seqs = s->cache.n,
        .adapters = s->adapters.table, .n_adapters = (int32_t)s->adapters.n, .row_adapter = s->adapters.n ? s->rows_adapter : NULL,
        .progress = c->progress ? part_progress : NULL, .progress_user = c,
    };
    *outs = o;
    return ramet__plan_run(s->plan, &run);
}

static ramet_status all_rows(const float **logits, call *c, int64_t outputs) {
    ramet_session *s = c->s;
    const int64_t vocab = s->vocabulary;
    const int32_t several = c->rows > s->o.max_rows;
    int64_t have = 0;
    for (int32_t i = 0; i < s->o.max_sequences; i++)
        if (s->start[i] >= 0) {
            RAMET__TRY(ramet__cache_reserve(&s->cache, i, s->start[i]));
            s->start[i] = s->cache.seqs[i].length;
        }
    if (several && !s->logits) {
        s->logits = ramet__alloc(s->model->rt->mem, (size_t)s->o.max_outputs * (size_t)vocab * sizeof *s->logits);
        if (!s->logits) return ramet__alloc_status();
    }
    while (c->done < c->rows) {
        const int64_t n = RAMET__MIN((int64_t)s->o.max_rows, c->rows - c->done);
        int64_t outs;
        RAMET__TRY(ramet__progress(c->progress, c->user, (double)c->done / (double)c->rows, "running"));
        RAMET__TRY(run_part(&outs, c, n));
        c->done += n;
        *logits = ramet__plan_output(s->plan, "logits", NULL, NULL);
        if (several) memcpy(s->logits + have * vocab, *logits, (size_t)outs * (size_t)vocab * sizeof *s->logits); /* the next run overwrites the plan's */
        have += outs;
    }
    if (several) *logits = s->logits;
    return RAMET_OK;
}

static double now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

ramet_status ramet__session_rows(const float **logits, int64_t *outputs, ramet_session *s, const int32_t *ids, const int32_t *sequence, const uint8_t *want, int64_t rows,
                                 ramet_progress_fn progress, void *user) {
    call c = {s, ids, sequence, want, rows, 0, progress, user};
    const double begin = now();
    const float *made = NULL;
    int64_t outs = 0;
    RAMET__TRY(check_rows(&outs, &c));
    s->busy = 1;
    ramet_status st = all_rows(&made, &c, outs);
    s->busy = 0;
    for (int32_t i = 0; i < s->o.max_sequences; i++) /* all of it, or what was there before */
        if (s->start[i] >= 0) ramet__cache_cut(&s->cache, i, st ? s->cache.seqs[i].length : s->start[i]);
    if (st) return st;
    s->last_rows = rows;
    s->last_seconds = now() - begin;
    if (logits) *logits = made;
    if (outputs) *outputs = outs;
    return RAMET_OK;
}

ramet_status ramet_session_run(const float **logits, int64_t *outputs, ramet_session *session, const int32_t *ids, const int32_t *sequence, const uint8_t *want, int64_t rows,
                               ramet_progress_fn progress, void *user) {
    RAMET__TRY(ramet__session_enter(session, "ramet_session_run"));
    if (!ids) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_run: ids is NULL");
    if (rows < 1) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_run: rows is %lld; at least 1", (long long)rows);
    return ramet__session_rows(logits, outputs, session, ids, sequence, want, rows, progress, user);
}

ramet_status ramet_session_describe(char **json, const ramet_session *session) {
    RAMET__TRY(ramet__session_enter(session, "ramet_session_describe"));
    if (!json) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_describe: json is NULL");
    const ramet_session *s = session, *small = s->drafter;
    int64_t attached = 0;
    for (int64_t i = 0; i < s->adapters.n; i++) attached += ramet__adapters_has(&s->adapters, (int32_t)i);
    char *text = ramet__format(s->model->rt->mem,
                               "{\"mode\":\"%s\",\"plan_bytes\":%llu,\"cache_bytes\":%llu,\"max_context\":%lld,\"max_rows\":%d,\"max_sequences\":%d,\"adapters\":%lld,"
                               "\"last_rows\":%lld,\"last_seconds\":%.6f}",
                               ramet__mode_names[s->o.mode], (unsigned long long)(ramet__plan_bytes(s->plan) + (small ? ramet__plan_bytes(small->plan) : 0)),
                               (unsigned long long)(ramet__cache_bytes(&s->cache) + (small ? ramet__cache_bytes(&small->cache) : 0)), (long long)s->o.max_context, s->o.max_rows,
                               s->o.max_sequences, (long long)attached, (long long)s->last_rows, s->last_seconds);
    if (!text) return ramet__alloc_status();
    *json = text;
    return RAMET_OK;
}
