/* SPDX-License-Identifier: Apache-2.0 */
/* batch.c - many requests over one session (Orca, Yu et al. 2022; experimental.h). A request knows more tokens than its sequence holds: one
 * more when it decodes, the rest of its prompt before, all of them when it lost its blocks. A step runs what is missing and chooses a
 * token where nothing is. Sequences of finished requests keep their tokens for those that begin alike. */
#include "infer/session.h"
#include "ramet/experimental.h"
#include <string.h>

typedef struct request {
    struct request *next;          /* all that are not done, oldest first */
    int64_t number, prompt, room;  /* room: most tokens that may follow */
    int64_t n;                     /* of ids */
    int32_t adapter, sequence;     /* -1: waits */
    ramet_sampling sampling;
    ramet__utf8 part;
    int32_t ids[];                 /* [prompt + room] */
} request;

struct ramet_batcher {
    ramet_session *s;
    ramet_batcher_options o;
    request *first;
    int64_t most_blocks, numbers, clock;
    int32_t width, running, waiting;
    request **owner;               /* [max_sequences] NULL: free, or kept from a finished one */
    int64_t *used;                 /* [max_sequences] when it was given up */
    int32_t *made_with;            /* [max_sequences] its tokens' adapter */
    int32_t *ids, *sequence;       /* a run's rows, [max_rows] */
    uint8_t *want;
    request **asks;                /* [width] whose logits the run gives */
    ramet__text text;
    int64_t steps, rows, shared, preempted;
};

static const ramet_batcher_options defaults = {.struct_size = sizeof(ramet_batcher_options), .chunk = 64};
void ramet_batcher_options_init(ramet_batcher_options *options, uint32_t struct_size) { ramet__options_init(options, struct_size, &defaults, sizeof defaults); }
static const ramet_request request_defaults = {.struct_size = sizeof(ramet_request), .adapter = -1, .max_tokens = 128};
void ramet_request_init(ramet_request *r, uint32_t struct_size) { ramet__options_init(r, struct_size, &request_defaults, sizeof request_defaults); }

ramet_status ramet_batcher_create(ramet_batcher **out, ramet_session *session, const ramet_batcher_options *options) {
    ramet_batcher_options o = defaults;
    ramet_batcher *b = NULL;
    ramet_status st;
    RAMET__TRY(ramet__session_enter(session, "ramet_batcher_create"));
    if (!out) return ramet__fail(RAMET_E_ARGUMENT, "ramet_batcher_create: out is NULL");
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_batcher_create"));
    if (o.chunk < 1) return ramet__fail(RAMET_E_ARGUMENT, "ramet_batcher_create: chunk is %d; it must be at least 1", o.chunk);
    ramet__mem *mem = session->model->rt->mem;
    const size_t n = (size_t)session->o.max_sequences, rows = (size_t)session->o.max_rows;
    RAMET__NEW(b, ramet__calloc(mem, 1, sizeof *b));
    b->s = session;
    b->o = o;
    b->text.mem = mem;
    b->width = RAMET__MIN(session->o.max_sequences, RAMET__MIN(session->o.max_outputs, session->o.max_rows));
    b->most_blocks = o.cache_bytes ? (int64_t)RAMET__MIN(o.cache_bytes / ramet__cache_block_bytes(&session->cache.layout), INT32_MAX) : INT64_MAX;
    RAMET__NEW(b->owner, ramet__calloc(mem, n, sizeof *b->owner));
    RAMET__NEW(b->used, ramet__calloc(mem, n, sizeof *b->used));
    RAMET__NEW(b->made_with, ramet__calloc(mem, n, sizeof *b->made_with));
    RAMET__NEW(b->ids, ramet__alloc(mem, rows * sizeof *b->ids));
    RAMET__NEW(b->sequence, ramet__alloc(mem, rows * sizeof *b->sequence));
    RAMET__NEW(b->want, ramet__alloc(mem, rows));
    RAMET__NEW(b->asks, ramet__alloc(mem, (size_t)b->width * sizeof *b->asks));
    for (int32_t i = 0; i < session->o.max_sequences; i++) ramet__cache_cut(&session->cache, i, 0);
    *out = b;
    return RAMET_OK;
out:
    ramet_batcher_free(b);
    return st;
}

void ramet_batcher_free(ramet_batcher *batcher) {
    if (!batcher) return;
    for (request *r = batcher->first, *next; r; r = next) {
        next = r->next;
        ramet__free(r);
    }
    for (int32_t i = 0; batcher->asks && i < batcher->s->o.max_sequences; i++) ramet__cache_cut(&batcher->s->cache, i, 0); /* one that was not made has taken nothing */
    ramet__free(batcher->owner);
    ramet__free(batcher->used);
    ramet__free(batcher->made_with);
    ramet__free(batcher->ids);
    ramet__free(batcher->sequence);
    ramet__free(batcher->want);
    ramet__free(batcher->asks);
    ramet__text_free(&batcher->text);
    ramet__free(batcher);
}

static ramet_status enter(const ramet_batcher *b, const char *function) {
    if (!b) return ramet__fail(RAMET_E_ARGUMENT, "%s: batcher is NULL", function);
    return ramet__session_enter(b->s, function);
}

static int64_t blocks_for(int64_t tokens) { return (tokens + RAMET__CACHE_BLOCK - 1) / RAMET__CACHE_BLOCK; }
static int64_t held(const ramet_batcher *b, const request *r) { return r->sequence < 0 ? 0 : b->s->cache.seqs[r->sequence].length; }
static int32_t attached(const ramet_batcher *b, int32_t adapter) { return adapter == -1 || ramet__adapters_has(&b->s->adapters, adapter); }

ramet_status ramet_batcher_submit(int64_t *number, ramet_batcher *b, const ramet_request *given) {
    ramet_request o = request_defaults;
    RAMET__TRY(enter(b, "ramet_batcher_submit"));
    if (!number || !given) return ramet__fail(RAMET_E_ARGUMENT, "ramet_batcher_submit: %s is NULL", number ? "request" : "number");
    RAMET__TRY(ramet__options(&o, sizeof o, given, "ramet_batcher_submit"));
    const ramet_session *s = b->s;
    ramet_sampling sampling;
    ramet_sampling_init(&sampling, sizeof sampling);
    RAMET__TRY(ramet__options(&sampling, sizeof sampling, o.sampling, "ramet_batcher_submit"));
    int32_t id;
    RAMET__TRY(ramet_sample(&id, &(float){0}, 1, &sampling, 0, 0)); /* its checks */
    if (sampling.draft) return ramet__fail(RAMET_E_UNSUPPORTED, "ramet_batcher_submit: draft is %d; drafts are for ramet_session_generate, it must be 0", sampling.draft);
    if (!o.ids || o.count < 1) return ramet__fail(RAMET_E_ARGUMENT, "ramet_batcher_submit: the prompt is empty; give at least one token");
    if (o.max_tokens < 1) return ramet__fail(RAMET_E_ARGUMENT, "ramet_batcher_submit: max_tokens is %lld; it must be at least 1", (long long)o.max_tokens);
    if (!attached(b, o.adapter)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_batcher_submit: no adapter is attached as %d", o.adapter);
    if (o.count >= s->o.max_context)
        return ramet__fail(RAMET_E_LIMIT, "ramet_batcher_submit: the prompt has %lld tokens; with one more it must fit max_context, %lld", (long long)o.count, (long long)s->o.max_context);
    for (int64_t i = 0; i < o.count; i++)
        if (o.ids[i] < 0 || o.ids[i] >= s->model->h.n_vocab)
            return ramet__fail(RAMET_E_ARGUMENT, "ramet_batcher_submit: token %lld is %d; the vocabulary is 0 to %lld", (long long)i, o.ids[i], (long long)s->model->h.n_vocab - 1);
    const int64_t room = RAMET__MIN(o.max_tokens, s->o.max_context - o.count), need = blocks_for(o.count + room);
    if (need > b->most_blocks)
        return ramet__fail(RAMET_E_LIMIT, "ramet_batcher_submit: %lld tokens take %llu bytes of keys and values; cache_bytes is %llu", (long long)(o.count + room),
                           (unsigned long long)((uint64_t)need * ramet__cache_block_bytes(&s->cache.layout)), (unsigned long long)b->o.cache_bytes);
    request *r = ramet__calloc(s->model->rt->mem, 1, sizeof *r + (size_t)(o.count + room) * sizeof *r->ids), **end = &b->first;
    if (!r) return ramet__alloc_status();
    *r = (request){.number = ++b->numbers, .prompt = o.count, .room = room, .n = o.count, .adapter = o.adapter, .sequence = -1, .sampling = sampling};
    memcpy(r->ids, o.ids, (size_t)o.count * sizeof *r->ids);
    while (*end) end = &(*end)->next;
    *end = r;
    b->waiting++;
    *number = r->number;
    return RAMET_OK;
}

/* Takes its sequence from a request; the tokens stay there. */
static void release(ramet_batcher *b, request *r) {
    if (r->sequence < 0) return;
    b->owner[r->sequence] = NULL;
    b->used[r->sequence] = ++b->clock;
    r->sequence = -1;
    b->running--;
    b->waiting++;
}

static void drop(ramet_batcher *b, request *r) {
    request **at = &b->first;
    release(b, r);
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    b->waiting--;
    ramet__free(r);
}

ramet_status ramet_batcher_cancel(ramet_batcher *b, int64_t number) {
    RAMET__TRY(enter(b, "ramet_batcher_cancel"));
    for (request *r = b->first; r; r = r->next)
        if (r->number == number) {
            drop(b, r);
            return RAMET_OK;
        }
    return ramet__fail(RAMET_E_NOT_FOUND, "ramet_batcher_cancel: request %lld is done, or there was none", (long long)number);
}

/* ---- room ---- */

/* The kept sequence that was given up first, but not `except`; -1: none. */
static int32_t oldest_kept(const ramet_batcher *b, int32_t except) {
    int32_t found = -1;
    for (int32_t i = 0; i < b->s->o.max_sequences; i++)
        if (!b->owner[i] && i != except && b->s->cache.seqs[i].n_blocks && (found < 0 || b->used[i] < b->used[found])) found = i;
    return found;
}

/* Give back blocks: of a finished request, or else of the youngest of several that run. 0: none is left. */
static int32_t relieve(ramet_batcher *b, int32_t except, int32_t running) {
    int32_t q = oldest_kept(b, except);
    if (q < 0) {
        request *youngest = NULL;
        if (!running || b->running < 2) return 0;
        for (request *r = b->first; r; r = r->next)
            if (r->sequence >= 0) youngest = r;
        q = youngest->sequence;
        release(b, youngest);
        b->preempted++;
    }
    ramet__cache_cut(&b->s->cache, q, 0);
    return 1;
}

/* ---- joining ---- */

static int64_t alike(const int32_t *a, const int32_t *b, int64_t most) {
    int64_t n = 0;
    while (n < most && a[n] == b[n]) n++;
    return n;
}

/* How many of a request's tokens a sequence holds; at least one is left to run. */
static int64_t alike_held(const ramet_batcher *b, const request *r, int32_t q) {
    const ramet__sequence *s = &b->s->cache.seqs[q];
    const int64_t most = RAMET__MIN(s->length, r->n - 1);
    int64_t n = 0;
    while (n < most) {
        const int64_t part = RAMET__MIN(RAMET__CACHE_BLOCK, most - n), same = alike(ramet__cache_ids(&b->s->cache, s->blocks[n / RAMET__CACHE_BLOCK]), r->ids + n, part);
        n += same;
        if (same < part) break;
    }
    return n;
}

/* Give a waiting request a sequence. 0: there is none, or no room, and younger ones wait as well. */
static int32_t join(ramet_batcher *b, request *r) {
    ramet__cache *c = &b->s->cache;
    int32_t from = -1, to = -1;
    int64_t same = 0;
    for (int32_t i = 0; i < b->s->o.max_sequences; i++) {
        const int64_t n = b->s->adapter[i] == r->adapter ? alike_held(b, r, i) : 0;
        if (n > same) same = n, from = i;
        if (!b->owner[i] && !c->seqs[i].length) to = i;
    }
    for (request *a = b->first; a; a = a->next) { /* one that is computing a block or more of them just now is waited for */
        if (a->sequence < 0 || a->adapter != r->adapter || a->n - held(b, a) < 2) continue;
        const int64_t known = alike(a->ids, r->ids, RAMET__MIN(a->n, r->n) - 1);
        if (known >= RAMET__CACHE_BLOCK && known > RAMET__MAX(same, held(b, a))) return 1;
    }
    if (to < 0) to = oldest_kept(b, from);
    if (to < 0 && from >= 0 && !b->owner[from]) to = from;
    if (to < 0) return 0;
    while ((int64_t)c->n_blocks + blocks_for(r->n + 1) - same / RAMET__CACHE_BLOCK > b->most_blocks) {
        if (relieve(b, from, 0)) continue;
        if (b->running) return 0;
        if (from >= 0) ramet__cache_cut(c, from, 0); /* alone it fits */
        from = -1;
        same = 0;
        break;
    }
    if (from == to) ramet__cache_cut(c, to, same);
    else if (from >= 0) ramet__cache_share(c, to, from, same);
    else ramet__cache_cut(c, to, 0);
    b->s->adapter[to] = b->made_with[to] = r->adapter;
    b->owner[to] = r;
    r->sequence = to;
    b->running++;
    b->waiting--;
    b->shared += same;
    return 1;
}

/* ---- stepping ---- */

static int64_t add_rows(ramet_batcher *b, request *r, int64_t rows, int64_t n, int64_t *asks) {
    const int64_t from = held(b, r);
    for (int64_t i = 0; i < n; i++) {
        b->ids[rows + i] = r->ids[from + i];
        b->sequence[rows + i] = r->sequence;
        b->want[rows + i] = from + i + 1 == r->n;
    }
    if (from + n == r->n) b->asks[(*asks)++] = r;
    return rows + n;
}

/* The next run: a row of each that decodes, then parts of prompts, oldest first. *need: blocks that it allocates. */
static int64_t fill(ramet_batcher *b, int64_t *asks, int64_t *need) {
    int64_t rows = 0, part;
    *asks = *need = 0;
    for (request *r = b->first; r; r = r->next)
        if (r->sequence >= 0 && r->n - held(b, r) == 1) {
            *need += ramet__cache_need(&b->s->cache, r->sequence, r->n);
            rows = add_rows(b, r, rows, 1, asks);
        }
    int64_t left = b->s->o.max_rows - rows;
    if (rows) left = RAMET__MIN(left, b->o.chunk);
    for (request *r = b->first; r; r = r->next) {
        if (r->sequence < 0 || r->n - held(b, r) == 1 || !(part = RAMET__MIN(left, r->n - held(b, r)))) continue;
        *need += ramet__cache_need(&b->s->cache, r->sequence, held(b, r) + part);
        rows = add_rows(b, r, rows, part, asks);
        left -= part;
    }
    return rows;
}

typedef struct reader { ramet_event_fn fn; void *user; } reader;

static int32_t tell(ramet_batcher *b, const request *r, const reader *to, int32_t event, int32_t id, const char *text, size_t length) {
    if (!to->fn) return 0;
    b->s->busy = 1;
    const int32_t stop = to->fn(r->number, event, id, text, length, to->user);
    b->s->busy = 0;
    return stop;
}

static void fail_request(ramet_batcher *b, request *r, const reader *to, const char *why) {
    if (r->sequence >= 0) ramet__cache_cut(&b->s->cache, r->sequence, 0);
    tell(b, r, to, RAMET_EVENT_FAILED, -1, why, strlen(why));
    drop(b, r);
}

/* One request's next token out of its row of logits. */
static void choose(ramet_batcher *b, request *r, const float *logits, const reader *to) {
    int32_t id, stop;
    if (ramet_sample(&id, logits, b->s->model->h.n_vocab, &r->sampling, 0, r->n)) {
        fail_request(b, r, to, ramet_last_error());
        return;
    }
    if (ramet_token_is_end(b->s->model, id)) {
        tell(b, r, to, RAMET_EVENT_END, id, "", 0);
        drop(b, r);
        return;
    }
    r->ids[r->n++] = id;
    const int32_t last = r->n == r->prompt + r->room;
    b->text.len = 0;
    if (b->text.data) b->text.data[0] = 0;
    if (ramet__session_text(&b->text, b->s, id, &r->part, last)) {
        ramet__text_free(&b->text);
        fail_request(b, r, to, ramet_last_error());
        return;
    }
    stop = tell(b, r, to, RAMET_EVENT_TOKEN, id, b->text.data ? b->text.data : "", b->text.len);
    if (last && !stop) tell(b, r, to, RAMET_EVENT_LENGTH, -1, "", 0);
    if (last || stop) drop(b, r);
}

ramet_status ramet_batcher_step(int64_t *left, ramet_batcher *b, ramet_event_fn on_event, ramet_progress_fn progress, void *user) {
    const reader to = {on_event, user};
    const float *logits;
    int64_t rows, asks, need;
    ramet_status st = RAMET_OK;
    RAMET__TRY(enter(b, "ramet_batcher_step"));
    for (int32_t i = 0; i < b->s->o.max_sequences; i++) /* detaching has set its sequences back to none */
        if (!b->owner[i] && b->s->adapter[i] != b->made_with[i]) ramet__cache_cut(&b->s->cache, i, 0);
    for (request *r = b->first, *next; r; r = next) {
        next = r->next;
        if (!attached(b, r->adapter) || (r->sequence >= 0 && b->s->adapter[r->sequence] != r->adapter)) fail_request(b, r, &to, "its adapter was detached");
    }
    for (request *r = b->first; r && b->running < b->width; r = r->next)
        if (r->sequence < 0 && !join(b, r)) break;
    for (;;) {
        if (!(rows = fill(b, &asks, &need))) break;
        st = (int64_t)b->s->cache.n_blocks + need > b->most_blocks ? RAMET_E_BUDGET
             : ramet__session_rows(&logits, NULL, b->s, b->ids, b->sequence, b->want, rows, progress, user);
        if (!st) break;
        if ((st != RAMET_E_BUDGET && st != RAMET_E_MEMORY) || !relieve(b, -1, 1)) return st;
    }
    b->steps += rows > 0;
    b->rows += rows;
    for (int64_t i = 0; rows && i < asks; i++) choose(b, b->asks[i], logits + i * b->s->model->h.n_vocab, &to);
    if (left) *left = b->running + b->waiting;
    return RAMET_OK;
}

ramet_status ramet_batcher_describe(char **json, const ramet_batcher *b) {
    RAMET__TRY(enter(b, "ramet_batcher_describe"));
    if (!json) return ramet__fail(RAMET_E_ARGUMENT, "ramet_batcher_describe: json is NULL");
    char *text = ramet__format(b->s->model->rt->mem, "{\"running\":%d,\"waiting\":%d,\"steps\":%lld,\"rows\":%lld,\"shared\":%lld,\"preempted\":%lld}", b->running, b->waiting,
                               (long long)b->steps, (long long)b->rows, (long long)b->shared, (long long)b->preempted);
    if (!text) return ramet__alloc_status();
    *json = text;
    return RAMET_OK;
}
