/* SPDX-License-Identifier: Apache-2.0 */
/* test_kill.c - SIGKILL at random moments, to a process that writes checkpoints and to one that makes a store, commits and undoes. Afterwards the checkpoint is
 * the last one reported or the next, and goes on to the same bytes; the store opens, HEAD, ledger and every version are whole; and no temp file stays.
 *
 *     RAMET_KILLS=100 test_kill     as many kills of each kind; 20 by default
 *     RAMET_KILL_SEED=N test_kill   the same delays again
 */
#include "../tools/folder.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/runtime.h"
#include "format/json.h"
#include "ramet/ramet.h"
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <cmocka.h>

enum { STEPS = 6, VERSIONS = 30 }; /* steps of a tuner's run; versions before a store is made anew */

static const char *self;
static char folder[256];
static uint64_t seed;
static ramet_runtime *rt;
static ramet_model *tiny;

static void ok(ramet_status st) {
    if (!st) return;
    fprintf(stderr, "%s: %s\n", ramet_status_name(st), ramet_last_error());
    exit(1); /* also in the child, where cmocka does not run */
}

static const char *at(const char *name) { /* four may be in use at once */
    static char paths[4][400];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

static void open_model(void) {
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 1;
    ok(ramet_runtime_create(&rt, &o));
    ok(ramet_model_load_path(&tiny, rt, getenv("RAMET_TINY_MODEL")));
}

static void tuner(ramet_tuner **out, int64_t steps) {
    ramet_dataset *data = NULL;
    ramet_tuner_options o;
    ramet_tuner_options_init(&o, sizeof o);
    o.steps = steps;
    o.window = 32;
    o.rank = 2;
    o.learning_rate = 5e-3f;
    ok(ramet_dataset_create(&data, tiny));
    ok(ramet_dataset_add_file(data, at("text.jsonl")));
    ok(ramet_tuner_create(out, tiny, data, &o));
    ramet_dataset_free(data);
}

static int64_t step(ramet_tuner *t, int64_t steps) {
    ramet_tuner_report r = {.struct_size = sizeof r};
    ok(ramet_tuner_step(&r, t, steps, 0, NULL, NULL));
    return r.step;
}

/* ---- the processes that are killed: each line says what is done now ---- */
static void say(int64_t number) {
    printf("%lld\n", (long long)number);
    fflush(stdout);
}

static void write_checkpoints(void) {
    for (;;) {
        ramet_tuner *t = NULL;
        tuner(&t, STEPS);
        for (int64_t n = 0; n < STEPS;) {
            n = step(t, 1);
            ok(ramet_tuner_save(t, at("checkpoint")));
            say(n);
        }
        ramet_tuner_free(t);
    }
}

static void commit_and_undo(void) {
    ramet_store *s = NULL;
    ramet_candidate *c = NULL;
    ramet_task *task = NULL;
    ramet_gate_options o;
    int64_t version = 0;
    char update_path[400], text_path[400];
    const char *update = update_path, *text = text_path;
    snprintf(update_path, sizeof update_path, "%s/update", folder);
    snprintf(text_path, sizeof text_path, "%s/text.jsonl", folder);
    if (ramet__path_kind(at("store/HEAD")))
        ok(ramet_store_open(&s, rt, at("store")));
    else
        ok(ramet_store_init(&s, rt, at("store"), tiny));
    ok(ramet_task_from_files(&task, rt, "text", &text, 1));
    ok(ramet_store_head(&version, NULL, s));
    ramet_gate_options_init(&o, sizeof o);
    o.window = 32;
    for (;; say(version)) {
        int32_t passed = 0;
        if (version > 1) {
            ok(ramet_store_undo(&version, s));
            continue;
        }
        ok(ramet_brief_create(s, at("brief-again"), NULL));
        ok(ramet_feed(&c, s, "average", &update, 1, NULL));
        ok(ramet_gate(&passed, NULL, s, c, &task, 1, &o));
        ok(ramet_commit(&version, s, c));
        ramet_candidate_free(c);
    }
}

/* ---- the killer ---- */
/* Start a writer and kill it some time after its first line; answers the last number that it said. */
static int64_t killed(const char *work, int32_t round) {
    int ends[2], status;
    char text[65536];
    size_t n = 0;
    const uint64_t delay = ramet__rng_below(seed, (uint64_t)work[0], (uint64_t)round, 60000); /* microseconds */
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        dup2(ends[1], 1);
        close(ends[0]);
        close(ends[1]);
        execl(self, self, work, folder, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    if (round % 4) { /* every fourth is killed so soon after its start that it may not have said anything */
        const ssize_t got = read(ends[0], text, sizeof text - 1);
        if (got <= 0) fail_msg("%s ended by itself", work);
        n = (size_t)got;
    }
    nanosleep(&(struct timespec){.tv_nsec = (long)delay * 1000}, NULL);
    kill(child, SIGKILL);
    for (ssize_t got; n < sizeof text - 1 && (got = read(ends[0], text + n, sizeof text - 1 - n)) > 0;) n += (size_t)got;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFSIGNALED(status)) fail_msg("%s, seed %llu, round %d: ended by itself with %d", work, (unsigned long long)seed, round, status);
    while (n && text[n - 1] != '\n') n--; /* what was said by halves was not said */
    if (!n) return -1;
    text[n - 1] = 0;
    const char *last = strrchr(text, '\n');
    return strtoll(last ? last + 1 : text, NULL, 10);
}

static int64_t temps(const char *path) {
    int64_t n = 0;
    DIR *dir = opendir(path);
    if (!dir) return 0;
    for (const struct dirent *e; (e = readdir(dir));) n += strstr(e->d_name, ".tmp-") != NULL;
    closedir(dir);
    return n;
}

static char *adapter_bytes(size_t *size, ramet_tuner *t) {
    ramet_adapter *a = NULL;
    char *data = NULL;
    ok(ramet_tuner_adapter(&a, t));
    ok(ramet_adapter_save(a, at("adapter.gguf")));
    ok(ramet__file_read_all(&data, size, rt->mem, at("adapter.gguf"), 0));
    ramet_adapter_free(a);
    return data;
}

static int32_t kills(void) {
    const char *asked = getenv("RAMET_KILLS");
    return asked ? atoi(asked) : 20;
}

static void test_checkpoints(void **state) {
    char *want[STEPS + 1];
    size_t size[STEPS + 1], n;
    ramet_tuner *t = NULL;
    (void)state;
    if (getenv("RAMET_EMULATED")) skip(); /* the emulator does not start other programs */
    tuner(&t, STEPS);
    for (int64_t i = 1; i <= STEPS; i++) {
        assert_int_equal(step(t, 1), i);
        want[i] = adapter_bytes(&size[i], t);
    }
    ramet_tuner_free(t);
    int64_t before = 0; /* the step of the checkpoint that was there before the process started; 0: none */
    for (int32_t round = 0; round < kills(); round++) {
        int64_t said = killed("checkpoints", round), is;
        assert_true(temps(folder) <= 1);
        if (!ramet__path_kind(at("checkpoint"))) {
            assert_true(said < 0 && !before);
            continue;
        }
        tuner(&t, STEPS);
        ok(ramet_tuner_resume(t, at("checkpoint")));
        is = step(t, 0);
        if (said > 0 ? is != said && is != said % STEPS + 1 : is != before && is != 1)
            fail_msg("seed %llu, round %d: step %lld was saved, %lld is there", (unsigned long long)seed, round, (long long)said, (long long)is);
        for (int64_t i = is; i <= STEPS; i++) {
            if (i > is) step(t, 1);
            char *data = adapter_bytes(&n, t);
            assert_int_equal(n, size[i]);
            assert_memory_equal(data, want[i], n);
            ramet__free(data);
        }
        ramet_tuner_free(t);
        before = is;
    }
    assert_true(before > 0);
    tuner(&t, STEPS);
    ok(ramet_tuner_save(t, at("checkpoint")));
    assert_int_equal(temps(folder), 0);
    ramet_tuner_free(t);
    for (int64_t i = 1; i <= STEPS; i++) ramet__free(want[i]);
}

/* Every version that the ledger has is there with the digest that it tells. Answers the newest. */
static int64_t check_ledger(const char *text, size_t size, int64_t head) {
    ramet__arena arena = {.mem = rt->mem};
    int64_t newest = 0, number = 0, seen = 0;
    for (const char *p = text, *eol; p < text + size; p = eol + 1) {
        const ramet__json *line;
        const char *digest, *event;
        char name[64];
        ramet_model *m = NULL;
        assert_non_null(eol = memchr(p, '\n', (size_t)(text + size - p))); /* the last line is whole, too */
        ok(ramet__json_parse(&line, &arena, p, (size_t)(eol - p), NULL));
        ok(ramet__json_string(&event, line, "event", ""));
        if (strcmp(event, "init") && strcmp(event, "commit")) continue;
        ok(ramet__json_i64(&number, line, "version", 0));
        ok(ramet__json_string(&digest, line, "digest", ""));
        snprintf(name, sizeof name, "store/versions/%04lld.gguf", (long long)number);
        ok(ramet_model_load_path(&m, rt, at(name)));
        assert_string_equal(ramet_model_digest(m), digest);
        ramet_model_free(m);
        newest = number;
        seen |= number == head;
    }
    assert_true(seen);
    ramet__arena_free(&arena);
    return newest;
}

static void test_store(void **state) {
    char *ledger = NULL, *before = NULL;
    size_t size = 0, size_before = 0;
    int64_t last = 0; /* HEAD before the process started; 0: no store */
    (void)state;
    if (getenv("RAMET_EMULATED")) skip();
    for (int32_t round = 0; round < kills(); round++) {
        const int64_t said = killed("store", round), from = said > 0 ? said : last;
        ramet_store *s = NULL;
        ramet_model *m = NULL;
        int64_t head = 0;
        if (!ramet__path_kind(at("store/HEAD"))) {
            assert_true(from <= 0);
            continue;
        }
        ok(ramet_store_open(&s, rt, at("store")));
        ok(ramet_store_head(&head, &m, s));
        ok(ramet__file_read_all(&ledger, &size, rt->mem, at("store/ledger.jsonl"), 0));
        assert_true(size >= size_before);
        if (before) assert_memory_equal(ledger, before, size_before);
        const int64_t newest = check_ledger(ledger, size, head);
        if (said > 0 && head != from && head != (from > 1 ? 1 : newest))
            fail_msg("seed %llu, round %d: HEAD was %lld, is %lld of %lld", (unsigned long long)seed, round, (long long)from, (long long)head, (long long)newest);
        assert_int_equal(temps(at("store")) + temps(at("store/versions")) + temps(at("store/briefs")) + temps(at("store/measured")), 0);
        ramet_model_free(m);
        ramet_store_free(s);
        ramet__free(before);
        before = ledger;
        size_before = size;
        last = head;
        if (newest < VERSIONS) continue;
        assert_int_equal(folder_remove(at("store")), 0);
        ramet__free(before);
        before = NULL;
        size_before = 0;
        last = 0;
    }
    ramet__free(before);
}

static int setup(void **state) {
    ramet_store *s = NULL;
    ramet_tuner *t = NULL;
    ramet_update_options u;
    const char *asked = getenv("RAMET_KILL_SEED");
    (void)state;
    seed = asked ? strtoull(asked, NULL, 10) : (uint64_t)time(NULL);
    print_message("RAMET_KILL_SEED=%llu RAMET_KILLS=%d\n", (unsigned long long)seed, kills());
    if (!getenv("RAMET_TINY_MODEL") || folder_make(folder, sizeof folder, 0)) return -1;
    FILE *f = fopen(at("text.jsonl"), "w");
    if (!f) return -1;
    for (int i = 0; i < 4; i++) fprintf(f, "{\"text\":\"rivers run to the sea, and %d stones keep still\"}\n", i);
    fclose(f);
    open_model();
    ok(ramet_store_init(&s, rt, at("first"), tiny));
    ok(ramet_brief_create(s, at("brief"), NULL));
    tuner(&t, 20);
    step(t, 20);
    ramet_update_options_init(&u, sizeof u);
    ok(ramet_tuner_adapter(&u.adapter, t));
    u.examples = 8;
    ok(ramet_update_create(at("update"), tiny, at("brief"), &u));
    ramet_adapter_free(u.adapter);
    ramet_tuner_free(t);
    ramet_store_free(s);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    ramet_model_free(tiny);
    ramet_runtime_free(rt);
    return folder_remove(folder);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_checkpoints), cmocka_unit_test(test_store)};
    self = argv[0];
    if (argc != 3) return cmocka_run_group_tests(tests, setup, teardown);
    snprintf(folder, sizeof folder, "%s", argv[2]);
    open_model();
    if (!strcmp(argv[1], "store"))
        commit_and_undo();
    else
        write_checkpoints();
}
