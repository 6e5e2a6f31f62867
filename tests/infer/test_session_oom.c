/* SPDX-License-Identifier: Apache-2.0 */
/* test_session_oom.c - the first, second, third ... allocation fails while a model is run: what the session held before a call it holds after it. */
#include "../model/support.h"
#include "../tools/failing.h"
#include "ramet/experimental.h"

static ramet_status run(ramet_runtime *runtime, void *user) {
    static const int32_t ids[] = {1, 77, 290, 15, 15, 200, 310};
    (void)user;
    ramet_status st;
    ramet_model *model = NULL;
    ramet_session *session = NULL;
    ramet_session_options o;
    ramet_sampling greedy; /* and guesses */
    const float *logits = NULL;
    char *data = NULL;
    uint64_t size = 0;
    int64_t rows = -1, made = -1;
    ramet_session_options_init(&o, sizeof o);
    ramet_sampling_init(&greedy, sizeof greedy);
    greedy.draft = 4;
    o.max_context = 32;
    o.max_rows = 8;
    MAKE(model, ramet_model_load_path(&model, runtime, tiny_path()));
    o.draft_model = model;
    o.draft_vocabulary = 300;
    MAKE(session, ramet_session_create(&session, model, &o));
    st = ramet_session_run(&logits, &rows, session, ids, NULL, NULL, 7, NULL, NULL);
    assert_int_equal(rows, st ? -1 : 1);
    assert_int_equal(logits != NULL, !st);
    assert_int_equal(ramet_session_length(session, 0), st ? 0 : 7);
    if (st) goto out;
    st = ramet_session_generate(&made, session, 1, ids, 7, 3, &greedy, NULL, NULL, NULL);
    assert_int_equal(made, st ? -1 : 3);
    if (st) goto out;
    assert_int_equal(ramet_session_length(session, 1), 10);
    /* a fork allocates nothing; its first run copies the block that both hold */
    assert_int_equal(ramet_session_fork(session, 2, 1, 9), RAMET_OK);
    st = ramet_session_run(NULL, NULL, session, ids, (const int32_t[]){2}, NULL, 1, NULL, NULL);
    assert_int_equal(ramet_session_length(session, 2), st ? 9 : 10);
    assert_int_equal(ramet_session_length(session, 1), 10);
    if (st) goto out;
    st = ramet_session_pack(&data, &size, session, 1);
    assert_true(st ? !data && !size : data && size);
    if (st) goto out;
    const ramet_source saved = {.struct_size = sizeof saved, .kind = RAMET_SOURCE_MEMORY, .data = data, .length = size};
    st = ramet_session_load(session, 0, &saved);
    assert_int_equal(ramet_session_length(session, 0), st ? 7 : 10);
out:
    ramet_string_free(data);
    ramet_session_free(session);
    ramet_model_free(model);
    return st;
}

typedef struct all { int32_t tokens, ended; } all;
static int32_t count(int64_t number, int32_t event, int32_t id, const char *text, size_t length, void *user) {
    all *a = user;
    if (event == RAMET_EVENT_TOKEN) a->tokens++;
    else a->ended++;
    return 0;
}

/* Two requests; a step that fails has made no token, and where one makes room for the other nothing fails. */
static ramet_status batch(ramet_runtime *runtime, void *user) {
    static const int32_t ids[] = {1, 77, 290, 15, 15, 200, 310};
    (void)user;
    ramet_status st;
    ramet_model *model = NULL;
    ramet_session *session = NULL;
    ramet_batcher *batcher = NULL;
    ramet_session_options o;
    ramet_request r;
    char *json = NULL;
    int64_t left = 2, number;
    all heard = {0};
    ramet_session_options_init(&o, sizeof o);
    ramet_request_init(&r, sizeof r);
    o.max_context = 80;
    o.max_rows = 8;
    r.ids = ids;
    r.count = 7;
    r.max_tokens = 60;
    MAKE(model, ramet_model_load_path(&model, runtime, tiny_path()));
    MAKE(session, ramet_session_create(&session, model, &o));
    GO(ramet_session_run(NULL, NULL, session, ids, NULL, NULL, 7, NULL, NULL));
    st = ramet_batcher_create(&batcher, session, NULL);
    assert_int_equal(ramet_session_length(session, 0), st ? 7 : 0);
    assert_true(!batcher == (st != 0));
    if (st) goto out;
    GO(ramet_batcher_submit(&number, batcher, &r));
    GO(ramet_batcher_submit(&number, batcher, &r));
    while (left) {
        const all before = heard;
        st = ramet_batcher_step(&left, batcher, count, NULL, &heard);
        if (!st && left) continue;
        if (st) assert_memory_equal(&before, &heard, sizeof heard);
        if (st) goto out;
    }
    assert_int_equal(heard.ended, 2);
    MAKE(json, ramet_batcher_describe(&json, batcher));
out:
    ramet_string_free(json);
    ramet_batcher_free(batcher);
    ramet_session_free(session);
    ramet_model_free(model);
    return st;
}

static void test_batch(void **state) { fail_each(batch, NULL, 100); }
static void test_run_and_generate(void **state) { fail_each(run, NULL, 100); }

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_run_and_generate), cmocka_unit_test(test_batch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
