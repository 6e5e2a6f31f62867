/* SPDX-License-Identifier: Apache-2.0 */
/* test_batch.c - requests that come and go at random: each has the tokens that it has alone, whatever runs beside it. */
#include "../model/support.h"
#include "base/rng.h"
#include "infer/session.h"
#include "ramet/experimental.h"

enum { REQUESTS = 40, PROMPT = 90, TOKENS = 60, CONTEXT = 120, ADAPTERS = 2 };

typedef struct dice { uint64_t stream, at; } dice;
static int32_t below(dice *d, int32_t n) { return (int32_t)ramet__rng_below(77, d->stream, d->at++, (uint64_t)n); }

typedef struct plan { int32_t ids[PROMPT], count, max_tokens, adapter; ramet_sampling sampling; int32_t alone[TOKENS]; int64_t n_alone; } plan;
typedef struct heard { int64_t number; int32_t ids[TOKENS], n, done, drop_at; size_t text; } heard;
static plan plans[REQUESTS];
static heard heards[REQUESTS];
static ramet_adapter *adapters[ADAPTERS];

static ramet_session *session_with(ramet_model *m, int32_t mode, int32_t rows, int32_t sequences) {
    ramet_session_options o;
    ramet_session *s = NULL;
    int32_t index;
    ramet_session_options_init(&o, sizeof o);
    o.mode = mode;
    o.max_rows = rows;
    o.max_context = CONTEXT;
    o.max_sequences = sequences;
    o.max_rank = 4;
    OK(ramet_session_create(&s, m, &o));
    for (int i = 0; i < ADAPTERS; i++) OK(ramet_session_attach(&index, s, adapters[i], 1));
    return s;
}

static int32_t keep(int32_t sequence, int32_t id, const char *text, size_t length, void *user) {
    plan *p = user;
    p->alone[p->n_alone++] = id;
    return 0;
}

/* Prompts of which many begin alike, and what each gives alone. */
static void make_plans(ramet_model *m) {
    dice d = {0};
    for (int i = 0; i < ADAPTERS; i++) {
        OK(ramet__adapter_new(&adapters[i], m, "q_proj,v_proj", 4, 4, 7));
        for (int64_t j = 0; j < adapters[i]->n; j++)
            for (int64_t k = 0; k < adapters[i]->lora[j].n * 4; k++) adapters[i]->lora[j].b[k] = (float)((k * 37 + i) % 101 - 50) / 400;
    }
    for (int i = 0; i < REQUESTS; i++) {
        plan *p = &plans[i];
        const plan *like = i && below(&d, 3) ? &plans[below(&d, i)] : NULL;
        *p = (plan){.count = 1 + below(&d, PROMPT), .max_tokens = 1 + below(&d, TOKENS), .adapter = below(&d, ADAPTERS + 1) - 1};
        if (like && below(&d, 2)) p->adapter = like->adapter;
        for (int j = 0, same = like ? below(&d, like->count + 1) : 0; j < p->count; j++) p->ids[j] = j < same ? like->ids[j] : 3 + below(&d, 300);
        ramet_sampling_init(&p->sampling, sizeof p->sampling);
        if (below(&d, 2)) p->sampling.temperature = 1.5f, p->sampling.seed = (uint64_t)i;
        ramet_session *s = session_with(m, RAMET_MODE_EXACT, 128, 1);
        OK(ramet_session_use(s, 0, p->adapter));
        OK(ramet_session_generate(NULL, s, 0, p->ids, p->count, p->max_tokens, &p->sampling, keep, NULL, p));
        ramet_session_free(s);
    }
}

static void drop_plans(void) {
    for (int i = 0; i < ADAPTERS; i++) ramet_adapter_free(adapters[i]);
}

static ramet_status submit(ramet_batcher *b, int i) {
    ramet_request r;
    ramet_request_init(&r, sizeof r);
    r.ids = plans[i].ids;
    r.count = plans[i].count;
    r.max_tokens = plans[i].max_tokens;
    r.adapter = plans[i].adapter;
    r.sampling = &plans[i].sampling;
    return ramet_batcher_submit(&heards[i].number, b, &r);
}

static int32_t hear(int64_t number, int32_t event, int32_t id, const char *text, size_t length, void *user) {
    heard *h = heards;
    while (h->number != number) assert_true(++h < heards + REQUESTS);
    assert_int_equal(h->done, 0);
    assert_int_equal(text[length], 0);
    if (event != RAMET_EVENT_TOKEN) h->done = event;
    else h->ids[h->n++] = id;
    assert_int_not_equal(event, RAMET_EVENT_FAILED);
    if (h->drop_at == h->n) h->done = -1;
    return h->done == -1;
}

static double number_of(const ramet_batcher *b, const char *key) {
    char *json = NULL, quoted[32];
    OK(ramet_batcher_describe(&json, b));
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const double v = atof(strstr(json, quoted) + strlen(quoted));
    ramet_string_free(json);
    return v;
}

static void test_batch_random_arrivals_and_cancels(void **state) {
    static const struct { int32_t rows, sequences, chunk, blocks; } how[] = {{128, 8, 64, 0}, {128, 8, 5, 4}, {7, 3, 3, 0}, {16, 6, 16, 3}, {128, 1, 64, 2}, {64, 8, 1, 9}};
    ramet_model *m = tiny();
    int64_t shared = 0, preempted = 0, ends = 0;
    make_plans(m);
    for (int h = 0; h < 2 * RAMET__COUNT(how); h++) {
        dice d = {(uint64_t)h + 1};
        ramet_session *s = session_with(m, RAMET_MODE_EXACT, how[h / 2].rows, how[h / 2].sequences);
        ramet_batcher *b = NULL;
        ramet_batcher_options o;
        ramet_batcher_options_init(&o, sizeof o);
        o.chunk = how[h / 2].chunk;
        o.cache_bytes = (uint64_t)how[h / 2].blocks * ramet__cache_block_bytes(&s->cache.layout);
        OK(ramet_batcher_create(&b, s, &o));
        memset(heards, 0, sizeof heards);
        int64_t left = 1;
        for (int next = 0, steps = 0; next < REQUESTS || left; steps++) {
            assert_true(steps < 20000);
            while (next < REQUESTS && !below(&d, 3)) {
                heards[next].drop_at = below(&d, 5) ? -1 : 1 + below(&d, TOKENS);
                OK(submit(b, next++));
            }
            if (next && !below(&d, 20)) {
                heard *one = &heards[below(&d, next)];
                if (one->done) REFUSED(RAMET_E_NOT_FOUND, "is done", ramet_batcher_cancel(b, one->number));
                else {
                    OK(ramet_batcher_cancel(b, one->number));
                    one->done = -1;
                }
            }
            OK(ramet_batcher_step(&left, b, hear, NULL, NULL));
            if (o.cache_bytes) assert_true(ramet__cache_bytes(&s->cache) <= o.cache_bytes);
        }
        for (int i = 0; i < REQUESTS; i++) {
            const heard *one = &heards[i];
            const int32_t room = RAMET__MIN(plans[i].max_tokens, CONTEXT - plans[i].count);
            assert_memory_equal(one->ids, plans[i].alone, (size_t)one->n * sizeof *one->ids);
            assert_int_not_equal(one->done, 0);
            if (one->done == -1) continue;
            assert_int_equal(one->n, plans[i].n_alone);
            assert_int_equal(one->done, one->n < room ? RAMET_EVENT_END : RAMET_EVENT_LENGTH);
            ends += one->done == RAMET_EVENT_END;
        }
        shared += (int64_t)number_of(b, "shared");
        preempted += (int64_t)number_of(b, "preempted");
        assert_true(number_of(b, "running") == 0 && number_of(b, "waiting") == 0);
        ramet_batcher_free(b);
        assert_int_equal(ramet__cache_bytes(&s->cache), 0);
        ramet_session_free(s);
    }
    if (shared < 1000 || preempted < 10 || ends < 5) fail_msg("%lld tokens shared, %lld preempted, %lld ends: too few to have been tested", (long long)shared, (long long)preempted, (long long)ends);
    drop_plans();
    ramet_model_free(m);
}

/* While one decodes, the prompt of another comes in chunks; requests that begin alike compute that once. */
static void test_batch_chunks_and_shares(void **state) {
    ramet_model *m = tiny();
    ramet_batcher *b = NULL;
    ramet_batcher_options o;
    int64_t left;
    make_plans(m);
    ramet_session *s = session_with(m, RAMET_MODE_EXACT, 128, 4);
    ramet_batcher_options_init(&o, sizeof o);
    o.chunk = 8;
    OK(ramet_batcher_create(&b, s, &o));
    memset(heards, 0, sizeof heards);
    for (int i = 0; i < 4; i++) {
        heards[i].drop_at = -1;
        plans[i] = (plan){.count = i ? 80 : 2, .max_tokens = 20, .adapter = -1, .sampling = plans[i].sampling};
        for (int j = 0; j < plans[i].count; j++) plans[i].ids[j] = i && j < 70 ? 40 + j : 150 + 7 * i + j;
    }
    OK(submit(b, 0));
    OK(ramet_batcher_step(&left, b, hear, NULL, NULL));
    for (int i = 1; i < 4; i++) OK(submit(b, i));
    for (int i = 0; i < 10; i++) { /* the first goes on in every step */
        OK(ramet_batcher_step(&left, b, hear, NULL, NULL));
        if (heards[0].n != 2 + i) fail_msg("%d tokens after %d steps, done %d", heards[0].n, i + 2, heards[0].done);
    }
    assert_int_equal(heards[1].n, 1); /* 80 tokens are ten chunks */
    while (left) OK(ramet_batcher_step(&left, b, hear, NULL, NULL));
    assert_true(number_of(b, "shared") >= 2 * 64);
    /* and a finished one is gone on from, its reply included */
    const double before = number_of(b, "shared");
    memcpy(plans[4].ids, plans[0].ids, 2 * sizeof(int32_t));
    memcpy(plans[4].ids + 2, heards[0].ids, 19 * sizeof(int32_t));
    plans[4].count = 21;
    plans[4].adapter = -1;
    heards[4].drop_at = -1;
    OK(submit(b, 4));
    OK(ramet_batcher_step(&left, b, hear, NULL, NULL));
    assert_int_equal(number_of(b, "shared") - before, 20);
    ramet_batcher_free(b);
    ramet_session_free(s);
    drop_plans();
    ramet_model_free(m);
}

static ramet_batcher *inside;
static ramet_session *under;
static int32_t last_event;
static char last_text[200];
static int32_t come_back(int64_t number, int32_t event, int32_t id, const char *text, size_t length, void *user) {
    ramet_request r;
    int64_t other;
    ramet_request_init(&r, sizeof r);
    last_event = event;
    snprintf(last_text, sizeof last_text, "%s", text);
    REFUSED(RAMET_E_STATE, "callback", ramet_batcher_submit(&other, inside, &r));
    REFUSED(RAMET_E_STATE, "callback", ramet_batcher_cancel(inside, number));
    REFUSED(RAMET_E_STATE, "callback", ramet_batcher_step(NULL, inside, come_back, NULL, NULL));
    REFUSED(RAMET_E_STATE, "callback", ramet_session_truncate(under, 0, 0));
    return 0;
}
static int32_t stop(double fraction, const char *what, void *user) { return 1; }

static void test_batch_refuses(void **state) {
    ramet_model *m = tiny();
    ramet_batcher_options o;
    ramet_request r;
    int64_t number, left = -1;
    make_plans(m);
    ramet_session *s = under = session_with(m, RAMET_MODE_BALANCED, 32, 2);
    ramet_batcher_options_init(&o, sizeof o);
    o.chunk = 0;
    REFUSED(RAMET_E_ARGUMENT, "chunk", ramet_batcher_create(&inside, s, &o));
    o.chunk = 1;
    o.cache_bytes = ramet__cache_block_bytes(&s->cache.layout);
    OK(ramet_batcher_create(&inside, s, &o));
    OK(ramet_batcher_step(&left, inside, hear, NULL, NULL));
    assert_int_equal(left, 0);
    ramet_request_init(&r, sizeof r);
    REFUSED(RAMET_E_ARGUMENT, "empty", ramet_batcher_submit(&number, inside, &r));
    r.ids = plans[0].ids;
    r.count = CONTEXT;
    REFUSED(RAMET_E_LIMIT, "max_context", ramet_batcher_submit(&number, inside, &r));
    r.count = 2;
    r.max_tokens = 63;
    REFUSED(RAMET_E_LIMIT, "cache_bytes", ramet_batcher_submit(&number, inside, &r));
    r.max_tokens = 0;
    REFUSED(RAMET_E_ARGUMENT, "max_tokens", ramet_batcher_submit(&number, inside, &r));
    r.max_tokens = 5;
    r.adapter = 2;
    REFUSED(RAMET_E_ARGUMENT, "attached as 2", ramet_batcher_submit(&number, inside, &r));
    r.adapter = 1;
    r.ids = (int32_t[]){5, 320};
    REFUSED(RAMET_E_ARGUMENT, "token 1", ramet_batcher_submit(&number, inside, &r));
    r.ids = plans[0].ids;
    ramet_sampling sampling;
    ramet_sampling_init(&sampling, sizeof sampling);
    r.sampling = &sampling;
    sampling.draft = 2;
    REFUSED(RAMET_E_UNSUPPORTED, "draft", ramet_batcher_submit(&number, inside, &r));
    sampling.draft = 0;
    sampling.temperature = -1;
    REFUSED(RAMET_E_ARGUMENT, "temperature", ramet_batcher_submit(&number, inside, &r));
    r.sampling = NULL;
    REFUSED(RAMET_E_NOT_FOUND, "request 1", ramet_batcher_cancel(inside, 1));
    OK(ramet_batcher_submit(&number, inside, &r));
    assert_int_equal(number, 1);
    REFUSED(RAMET_E_CANCELLED, "", ramet_batcher_step(&left, inside, hear, stop, NULL));
    OK(ramet_batcher_step(&left, inside, come_back, NULL, NULL));
    assert_int_equal(left, 1);
    assert_int_equal(last_event, RAMET_EVENT_TOKEN);
    OK(ramet_session_detach(s, 1));
    OK(ramet_batcher_step(&left, inside, come_back, NULL, NULL));
    assert_int_equal(left, 0);
    assert_int_equal(last_event, RAMET_EVENT_FAILED);
    assert_non_null(strstr(last_text, "detached"));
    ramet_batcher_free(inside);
    ramet_session_free(s);
    drop_plans();
    ramet_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_random_arrivals_and_cancels),
        cmocka_unit_test(test_batch_chunks_and_shares),
        cmocka_unit_test(test_batch_refuses),
    };
    return cmocka_run_group_tests(tests, make_runtime, drop_runtime);
}
