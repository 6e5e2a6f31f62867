/* SPDX-License-Identifier: Apache-2.0 */
/* test_feed_oom.c - the first, second, third ... allocation fails on the way from a store through brief, update, feed and gate to a measured candidate:
 * a clean E_MEMORY, or the work is done without; every block goes back, and HEAD stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "ramet/ramet.h"

static char folder[256], store_path[300], brief_path[300], update_path[300], made_path[300], text_path[300], ledger_path[320];
static off_t ledger_size;
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
static void ok(ramet_status st) {
    if (st) fail_msg("%s: %s", ramet_status_name(st), ramet_last_error());
}

/* Tune the store's model for a step and write the update. */
static ramet_status send_update(ramet_store *store, const char *path) {
    ramet_status st;
    ramet_model *head = NULL;
    ramet_dataset *data = NULL;
    ramet_tuner *tuner = NULL;
    ramet_adapter *adapter = NULL;
    ramet_tuner_options o;
    ramet_update_options u;
    ramet_tuner_options_init(&o, sizeof o);
    ramet_update_options_init(&u, sizeof u);
    o.steps = 1;
    o.window = 8;
    o.batch = o.micro_batch = 1;
    o.rank = 1;
    GO(ramet_store_head(NULL, &head, store));
    GO(ramet_dataset_create(&data, head));
    GO(ramet_dataset_add_file(data, text_path));
    GO(ramet_tuner_create(&tuner, head, data, &o));
    GO(ramet_tuner_step(NULL, tuner, 1, 0, NULL, NULL));
    GO(ramet_tuner_adapter(&adapter, tuner));
    u.adapter = adapter;
    u.examples = 8;
    GO(ramet_update_create(path, head, brief_path, &u));
out:
    ramet_adapter_free(adapter);
    ramet_tuner_free(tuner);
    ramet_dataset_free(data);
    ramet_model_free(head);
    return st;
}

static ramet_status turn(ramet_runtime *rt) {
    ramet_status st;
    ramet_store *store = NULL;
    ramet_candidate *candidate = NULL;
    ramet_task *task = NULL;
    ramet_gate_options o;
    char *json = NULL, *log = NULL;
    const char *updates[1] = {update_path}, *texts[1] = {text_path};
    int32_t passed = -1;
    ramet_gate_options_init(&o, sizeof o);
    o.window = 16;
    GO(ramet_store_open(&store, rt, store_path));
    GO(ramet_brief_create(store, made_path, NULL));
    GO(ramet_feed(&candidate, store, "average", updates, 1, NULL));
    GO(ramet_task_from_files(&task, rt, "held out", texts, 1));
    GO(ramet_gate(&passed, &json, store, candidate, &task, 1, &o));
    assert_in_range(passed, 0, 1);
    GO(ramet_store_log(&log, store));
out:
    ramet_string_free(log);
    ramet_string_free(json);
    ramet_task_free(task);
    ramet_candidate_free(candidate);
    ramet_store_free(store);
    return st;
}

static ramet_runtime *runtime_of(ramet_alloc_fn alloc) {
    ramet_runtime *rt = NULL;
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 1;
    o.alloc = alloc;
    ok(ramet_runtime_create(&rt, &o));
    return rt;
}

/* Every turn enters its steps in the ledger; each attempt begins with the same one. */
static void rewind_ledger(void) {
    assert_int_equal(truncate(ledger_path, ledger_size), 0);
}

static void test_a_turn(void **state) {
    (void)state;
    ramet_runtime *rt = runtime_of(failing);
    uint64_t bytes, now;
    ok(turn(rt)); /* what the runtime keeps is made now */
    const int64_t before = live;
    ramet_runtime_bytes(rt, &bytes, NULL);
    int64_t n = 1;
    for (;; n++) {
        ramet_status st = RAMET_OK;
        for (lasting = 0; lasting < 2; lasting++) {
            rewind_ledger();
            countdown = n;
            failed = 0;
            st = turn(rt);
            countdown = 0;
            ramet_runtime_bytes(rt, &now, NULL);
            if (live != before || now != bytes)
                fail_msg("allocation %lld, %s: %lld blocks and %lld bytes were lost; the call said: %s", (long long)n, lasting ? "lasting" : "once",
                         (long long)(live - before), (long long)(now - bytes), ramet_last_error());
            if (st && (!failed || st != RAMET_E_MEMORY)) /* a block that cannot shrink stays as it is: no error */
                fail_msg("allocation %lld, %s: %s: %s", (long long)n, lasting ? "lasting" : "once", ramet_status_name(st),
                         ramet_last_error());
        }
        if (!failed) {
            ok(st);
            break;
        }
    }
    assert_true(n > 100);
    ramet_store *store = NULL;
    int64_t version = 0;
    ok(ramet_store_open(&store, rt, store_path));
    ok(ramet_store_head(&version, NULL, store));
    assert_int_equal(version, 1);
    ramet_store_free(store);
    ramet_runtime_free(rt);
    assert_int_equal(live, 0);
}

static int setup(void **state) {
    (void)state;
    const char *path = getenv("RAMET_TINY_MODEL"), *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/ramet-oom-XXXXXX", tmp ? tmp : "/tmp");
    if (!path || !mkdtemp(folder)) return -1;
    snprintf(store_path, sizeof store_path, "%s/store", folder);
    snprintf(brief_path, sizeof brief_path, "%s/brief", folder);
    snprintf(update_path, sizeof update_path, "%s/update", folder);
    snprintf(made_path, sizeof made_path, "%s/made", folder);
    snprintf(text_path, sizeof text_path, "%s/text.jsonl", folder);
    FILE *f = fopen(text_path, "w");
    if (!f) return -1;
    for (int i = 0; i < 4; i++) fprintf(f, "{\"text\":\"rivers run to the sea, and %d stones keep still\"}\n", i);
    fclose(f);
    ramet_runtime *rt = runtime_of(NULL);
    ramet_model *model = NULL;
    ramet_store *store = NULL;
    ok(ramet_model_load_path(&model, rt, path));
    ok(ramet_store_init(&store, rt, store_path, model));
    ok(ramet_brief_create(store, brief_path, NULL));
    ok(send_update(store, update_path));
    ramet_store_free(store);
    ramet_model_free(model);
    ramet_runtime_free(rt);
    snprintf(ledger_path, sizeof ledger_path, "%s/ledger.jsonl", store_path);
    struct stat status;
    if (stat(ledger_path, &status)) return -1;
    ledger_size = status.st_size;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char command[400];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_turn)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
