/* SPDX-License-Identifier: Apache-2.0 */
/* test_feed_oom.c - the first, second, third ... allocation fails on the way from a store through brief, update, feed and gate to a measured candidate,
 * and while a store is made, a candidate committed and undone: HEAD moved if and only if the call says so. */
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
#include "../tools/failing.h"
#include "../tools/folder.h"

static char folder[256], store_path[300], brief_path[300], update_path[300], made_path[300], candidate_path[300], text_path[300], ledger_path[320];
static off_t ledger_size;

static void ok(ramet_status st) {
    if (st) fail_msg("%s: %s", ramet_status_name(st), ramet_last_error());
}

/* Tune the store's model until it passes a gate and write the update. */
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
    o.steps = 20;
    o.window = 32;
    o.learning_rate = 5e-3f;
    o.rank = 1;
    GO(ramet_store_head(NULL, &head, store));
    MAKE(data, ramet_dataset_create(&data, head));
    GO(ramet_dataset_add_file(data, text_path));
    MAKE(tuner, ramet_tuner_create(&tuner, head, data, &o));
    GO(ramet_tuner_step(NULL, tuner, o.steps, 0, NULL, NULL));
    MAKE(adapter, ramet_tuner_adapter(&adapter, tuner));
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

static ramet_status turn(ramet_runtime *rt, void *user) {
    (void)user;
    ramet_status st;
    ramet_store *store = NULL;
    ramet_candidate *candidate = NULL;
    ramet_task *task = NULL;
    ramet_gate_options o;
    char *json = NULL, *log = NULL;
    const char *updates[1] = {update_path}, *texts[1] = {text_path};
    int32_t passed = -1;
    assert_int_equal(truncate(ledger_path, ledger_size), 0); /* every turn enters its steps; each attempt begins with the same ledger */
    ramet_gate_options_init(&o, sizeof o);
    o.window = 16;
    MAKE(store, ramet_store_open(&store, rt, store_path));
    GO(ramet_brief_create(store, made_path, NULL));
    MAKE(candidate, ramet_feed(&candidate, store, "average", updates, 1, NULL));
    MAKE(task, ramet_task_from_files(&task, rt, "held out", texts, 1));
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

static void test_a_turn(void **state) {
    (void)state;
    fail_each(turn, NULL, 100);
}

static int64_t head_of(const char *path) {
    char name[320];
    long long version = 0;
    snprintf(name, sizeof name, "%s/HEAD", path);
    FILE *f = fopen(name, "r");
    if (f && fscanf(f, "%lld", &version) != 1) fail_msg("%s holds no number", name);
    if (f) fclose(f);
    return version;
}

/* HEAD is 0 before; 1 after the store is made; 2 after a commit; 1 after undo. */
static ramet_status commit_and_undo(ramet_runtime *rt, void *user) {
    const char *path = made_path;
    ramet_status st;
    (void)user;
    ramet_model *model = NULL;
    ramet_store *store = NULL;
    ramet_candidate *candidate = NULL;
    ramet_task *task = NULL;
    ramet_gate_options o;
    char *json = NULL;
    const char *texts[1] = {text_path};
    int64_t version = -1;
    int32_t passed = -1;
    assert_int_equal(folder_remove(path), 0);
    MAKE(model, ramet_model_load_path(&model, rt, getenv("RAMET_TINY_MODEL")));
    st = ramet_store_init(&store, rt, path, model);
    assert_int_equal(head_of(path), st ? 0 : 1);
    if (st) goto out;
    MAKE(candidate, ramet_candidate_load(&candidate, store, candidate_path));
    MAKE(task, ramet_task_from_files(&task, rt, "held out", texts, 1));
    ramet_gate_options_init(&o, sizeof o);
    o.window = 16;
    MAKE(json, ramet_candidate_describe(&json, candidate));
    GO(ramet_gate(&passed, NULL, store, candidate, &task, 1, &o));
    assert_int_equal(passed, 1);
    st = ramet_commit(&version, store, candidate);
    assert_int_equal(head_of(path), st ? 1 : 2);
    assert_int_equal(version, st ? -1 : 2);
    if (st) goto out;
    st = ramet_store_undo(&version, store);
    assert_int_equal(head_of(path), st ? 2 : 1);
    assert_int_equal(version, st ? 2 : 1);
out:
    ramet_string_free(json);
    ramet_task_free(task);
    ramet_candidate_free(candidate);
    ramet_store_free(store);
    ramet_model_free(model);
    return st;
}

static void test_commit_and_undo(void **state) {
    (void)state;
    fail_each(commit_and_undo, NULL, 100);
}

static int setup(void **state) {
    (void)state;
    const char *path = getenv("RAMET_TINY_MODEL");
    if (!path || folder_make(folder, sizeof folder, 1)) return -1;
    snprintf(store_path, sizeof store_path, "%s/store", folder);
    snprintf(brief_path, sizeof brief_path, "%s/brief", folder);
    snprintf(update_path, sizeof update_path, "%s/update", folder);
    snprintf(made_path, sizeof made_path, "%s/made", folder);
    snprintf(text_path, sizeof text_path, "%s/text.jsonl", folder);
    FILE *f = fopen(text_path, "w");
    if (!f) return -1;
    for (int i = 0; i < 4; i++) fprintf(f, "{\"text\":\"rivers run to the sea, and %d stones keep still\"}\n", i);
    fclose(f);
    snprintf(candidate_path, sizeof candidate_path, "%s/candidate", folder);
    ramet_runtime *rt = NULL;
    ramet_model *model = NULL;
    ramet_store *store = NULL;
    ramet_candidate *candidate = NULL;
    const char *updates[1] = {update_path};
    ok(ramet_runtime_create(&rt, NULL));
    ok(ramet_model_load_path(&model, rt, path));
    ok(ramet_store_init(&store, rt, store_path, model));
    ok(ramet_brief_create(store, brief_path, NULL));
    ok(send_update(store, update_path));
    ok(ramet_feed(&candidate, store, "average", updates, 1, NULL));
    ok(ramet_candidate_save(candidate, candidate_path));
    ramet_candidate_free(candidate);
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
    return folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_turn), cmocka_unit_test(test_commit_and_undo)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
