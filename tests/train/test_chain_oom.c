/* SPDX-License-Identifier: Apache-2.0 */
/* test_chain_oom.c - the first, second, third ... allocation fails while a model is loaded and run, tuned, written and merged: the call that meets it
 * answers E_MEMORY, or does without; what was made before it can be freed, and every block goes back. */
#include "support.h"

static int64_t countdown, live;
static int32_t failed, lasting; /* lasting: every later allocation fails too; otherwise one that tries again with less may succeed */
static void *failing(void *ptr, size_t old, size_t size, size_t alignment, void *user) {
    (void)user;
    if (!size) {
        live -= ptr != NULL;
        free(ptr);
        return NULL;
    }
    if (countdown > 0 && --countdown == 0) {
        if (lasting) countdown = 1;
        failed = 1;
        return NULL;
    }
    void *p = NULL;
    if (posix_memalign(&p, alignment < sizeof p ? sizeof p : alignment, size)) return NULL;
    if (ptr) {
        memcpy(p, ptr, old < size ? old : size);
        free(ptr);
    } else
        live++;
    return p;
}

#define GO(call) do { if ((st = (call))) goto out; } while (0)
typedef ramet_status (*attempt_fn)(ramet_runtime *rt);

static ramet_status run(ramet_runtime *rt) {
    static const int32_t ids[] = {1, 77, 290, 15, 15, 200, 310};
    ramet_status st;
    ramet_model *model = NULL;
    ramet_session *session = NULL;
    ramet_session_options o;
    ramet_sampling greedy;
    const float *logits = NULL;
    int64_t rows = 0, made = 0;
    ramet_session_options_init(&o, sizeof o);
    ramet_sampling_init(&greedy, sizeof greedy);
    o.max_context = 32;
    o.max_rows = 8;
    GO(ramet_model_load_path(&model, rt, getenv("RAMET_TINY_MODEL")));
    GO(ramet_session_create(&session, model, &o));
    GO(ramet_session_run(&logits, &rows, session, ids, NULL, NULL, 7, NULL, NULL));
    assert_int_equal(rows, 1);
    GO(ramet_session_generate(&made, session, 1, ids, 7, 3, &greedy, NULL, NULL, NULL));
    assert_int_equal(made, 3);
out:
    ramet_session_free(session);
    ramet_model_free(model);
    return st;
}

static ramet_status tune(ramet_runtime *rt) {
    ramet_status st;
    ramet_model *model = NULL, *merged = NULL;
    ramet_dataset *data = NULL;
    ramet_tuner *tuner = NULL;
    ramet_adapter *adapter = NULL;
    ramet_tuner_options o;
    const float scale = 1;
    const char *text = scratch("oom.gguf");
    ramet_tuner_options_init(&o, sizeof o);
    o.rank = 2;
    o.window = 8;
    o.batch = o.micro_batch = 1;
    o.steps = 2;
    GO(ramet_model_load_path(&model, rt, getenv("RAMET_TINY_MODEL")));
    GO(ramet_dataset_create(&data, model));
    for (size_t i = 0; i < 4; i++) GO(ramet_dataset_add_text(data, prose[i], strlen(prose[i])));
    GO(ramet_tuner_create(&tuner, model, data, &o));
    GO(ramet_tuner_step(NULL, tuner, 1, 0, NULL, NULL));
    GO(ramet_tuner_adapter(&adapter, tuner));
    GO(ramet_model_merge(&merged, model, (const ramet_adapter *const[]){adapter}, &scale, 1, NULL, NULL, NULL));
    GO(ramet_adapter_save(adapter, text));
    GO(ramet_tuner_save(tuner, text));
    GO(ramet_model_save(merged, text, NULL, NULL));
out:
    remove(text);
    ramet_adapter_free(adapter);
    ramet_model_free(merged);
    ramet_tuner_free(tuner);
    ramet_dataset_free(data);
    ramet_model_free(model);
    return st;
}

static void fail_each(attempt_fn attempt) {
    ramet_runtime_options o;
    ramet_runtime *rt = NULL;
    uint64_t bytes, now;
    if (!getenv("RAMET_TINY_MODEL")) skip();
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 1;
    o.alloc = failing;
    countdown = 0;
    ok(ramet_runtime_create(&rt, &o));
    ok(attempt(rt)); /* what the runtime keeps is made now */
    const int64_t before = live;
    ramet_runtime_bytes(rt, &bytes, NULL);
    int64_t n = 1;
    for (;; n++) {
        ramet_status st = RAMET_OK;
        for (lasting = 0; lasting < 2; lasting++) {
            countdown = n;
            failed = 0;
            st = attempt(rt);
            countdown = 0;
            ramet_runtime_bytes(rt, &now, NULL);
            if (live != before || now != bytes)
                fail_msg("allocation %lld, %s: %lld blocks and %lld bytes were lost; the call said: %s", (long long)n, lasting ? "lasting" : "once",
                         (long long)(live - before), (long long)(now - bytes), ramet_last_error());
            if (failed && (st || lasting) && st != RAMET_E_MEMORY)
                fail_msg("allocation %lld, %s: %s: %s", (long long)n, lasting ? "lasting" : "once", ramet_status_name(st), ramet_last_error());
        }
        if (!failed) {
            ok(st);
            break;
        }
    }
    assert_true(n > 100);
    ramet_runtime_free(rt);
    assert_int_equal(live, 0);
}
static void test_load_and_run(void **state) {
    (void)state;
    fail_each(run);
}
static void test_load_tune_and_write(void **state) {
    (void)state;
    fail_each(tune);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_load_and_run), cmocka_unit_test(test_load_tune_and_write)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
