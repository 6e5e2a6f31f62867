/* SPDX-License-Identifier: Apache-2.0 */
/* A dataset that the host keeps: the same windows, losses and checkpoints as the same tokens in memory; what a host may do wrong. */
#include "tuner_support.h"

#define TOKENS 250
typedef struct host { int32_t ids[TOKENS]; int32_t calls, fails_at, outside; } host;

static int32_t give(int32_t *ids, uint8_t *predict, int64_t from, int64_t count, void *user) {
    host *h = user;
    if (++h->calls == h->fails_at) return 7;
    assert_true(from >= 0 && count > 0 && from + count <= TOKENS);
    memcpy(ids, h->ids + from, (size_t)count * sizeof *ids);
    for (int64_t i = 0; i < count; i++) predict[i] = (from + i) % 5 != 3;
    if (h->outside) ids[count - 1] = 320;
    return 0;
}

static void fill(host *h) { /* documents of different lengths, some empty */
    *h = (host){.calls = 0};
    for (int32_t i = 0; i < TOKENS; i++) h->ids[i] = i % 37 == 11 || i == 12 ? 0 : 3 + (i * 29) % 200;
}

static ramet_dataset *in_memory(ramet_model *m, const host *h) {
    ramet_dataset *d = NULL;
    uint8_t predict[TOKENS];
    ok(ramet_dataset_create(&d, m));
    for (int32_t i = 0; i < TOKENS; i++) predict[i] = i % 5 != 3;
    for (int32_t i = 0, start = 0; i < TOKENS; i++)
        if (i + 1 == TOKENS || !h->ids[i]) {
            ok(ramet_dataset_add_ids(d, h->ids + start, predict + start, i + 1 - start));
            start = i + 1;
        }
    return d;
}

static int setup(void **state) { return (*state = tiny(1)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

static void test_a_source_trains_as_memory_does(void **state) {
    ramet_model *m = *state;
    host h;
    ramet_tuner_options o = small(0);
    ramet_tuner *t[3];
    ramet_adapter *a[2];
    fill(&h);
    ramet_dataset *d[2] = {in_memory(m, &h)};
    ok(ramet_dataset_create_source(&d[1], m, TOKENS, "host", give, &h));
    o.steps = 9; /* over two epochs of eleven windows */
    for (int32_t i = 0; i < 2; i++) ok(ramet_tuner_create(&t[i], m, d[i], &o));
    ok(ramet_tuner_create(&t[2], m, d[1], &o));
    stepped(t[0], 9, 0);
    for (int32_t i = 0; i < 9; i++) { /* stopped between micro-batches and resumed in another tuner */
        const char *path = scratch(".ckpt");
        stepped(t[1], 1, 1e-9);
        ok(ramet_tuner_save(t[1], path));
        ok(ramet_tuner_resume(t[2], path));
        unlink(path);
        stepped(t[2], 1, 0);
        ok(ramet_tuner_save(t[2], path));
        ok(ramet_tuner_resume(t[1], path));
        unlink(path);
    }
    for (int32_t i = 0; i < 2; i++) ok(ramet_tuner_adapter(&a[i], t[i]));
    for (int64_t i = 0; i < a[0]->n; i++) {
        assert_memory_equal(a[0]->lora[i].a, a[1]->lora[i].a, (size_t)(a[0]->lora[i].rank * a[0]->lora[i].k) * sizeof(float));
        assert_memory_equal(a[0]->lora[i].b, a[1]->lora[i].b, (size_t)(a[0]->lora[i].rank * a[0]->lora[i].n) * sizeof(float));
    }
    assert_true(loss_on(m, d[0], a[0]) == loss_on(m, d[1], a[0]));
    int32_t ids[TOKENS];
    ok(ramet_dataset_read(ids, d[1], 0, TOKENS));
    assert_memory_equal(ids, h.ids, sizeof ids);
    for (int32_t i = 0; i < 3; i++) ramet_tuner_free(t[i]);
    for (int32_t i = 0; i < 2; i++) ramet_adapter_free(a[i]), ramet_dataset_free(d[i]);
}

/* Batches without anything to predict: steps that change nothing. */
static int32_t only_ends(int32_t *ids, uint8_t *predict, int64_t from, int64_t count, void *user) {
    (void)predict;
    (void)from;
    (void)user;
    memset(ids, 0, (size_t)count * sizeof *ids);
    return 0;
}
static void test_a_source_may_have_nothing(void **state) {
    ramet_model *m = *state;
    ramet_dataset *d = NULL;
    ramet_tuner *t = NULL;
    ramet_tuner_options o = small(0);
    o.weight_decay = 0;
    ok(ramet_dataset_create_source(&d, m, 100, NULL, only_ends, NULL));
    ok(ramet_tuner_create(&t, m, d, &o));
    const size_t bytes = (size_t)t->params.total * sizeof(float);
    float *before = malloc(bytes);
    memcpy(before, t->params.value, bytes);
    const ramet_tuner_report r = stepped(t, 3, 0);
    assert_true(r.done && r.loss == 0 && r.tokens == 0);
    assert_memory_equal(before, t->params.value, bytes);
    free(before);
    ramet_tuner_free(t);
    ramet_dataset_free(d);
}

static void test_a_source_may_fail(void **state) {
    ramet_model *m = *state;
    host h;
    ramet_dataset *d = NULL, *other = NULL;
    ramet_tuner *t = NULL, *u = NULL;
    const ramet_tuner_options o = small(0);
    int32_t id = 1;
    fill(&h);
    fails(ramet_dataset_create_source(&d, m, TOKENS, "", NULL, NULL), RAMET_E_ARGUMENT, "read is NULL");
    fails(ramet_dataset_create_source(&d, m, 1, "", give, &h), RAMET_E_ARGUMENT, "tokens is 1");
    ok(ramet_dataset_create_source(&d, m, TOKENS, "one", give, &h));
    ok(ramet_dataset_create_source(&other, m, TOKENS, "two", give, &h));
    fails(ramet_dataset_add_ids(d, &id, NULL, 1), RAMET_E_STATE, "source");
    ok(ramet_tuner_create(&t, m, d, &o));
    ok(ramet_tuner_create(&u, m, other, &o));
    assert_int_equal(h.calls, 0); /* read when used */
    h.fails_at = 2;
    fails(ramet_tuner_step(NULL, t, 1, 0, NULL, NULL), RAMET_E_IO, "answered 7 for tokens");
    h.outside = 1;
    fails(ramet_tuner_step(NULL, t, 1, 0, NULL, NULL), RAMET_E_INCONSISTENT, "is 320");
    h.outside = 0;
    stepped(t, 1, 0);
    const char *path = scratch(".ckpt");
    ok(ramet_tuner_save(t, path));
    fails(ramet_tuner_resume(u, path), RAMET_E_INCONSISTENT, "data differs");
    unlink(path);
    ramet_tuner_free(t);
    ramet_tuner_free(u);
    ramet_dataset_free(d);
    ramet_dataset_free(other);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_source_trains_as_memory_does), cmocka_unit_test(test_a_source_may_fail), cmocka_unit_test(test_a_source_may_have_nothing)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
