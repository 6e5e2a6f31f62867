/* SPDX-License-Identifier: Apache-2.0 */
/* Several workers, here threads with a runtime each, tune as one does: bit for bit where the sums have the same order. */
#include <pthread.h>
#include "support.h"

enum { MOST = 4 };
typedef struct group {
    pthread_barrier_t barrier;
    float *values[MOST];
    int32_t workers, sum_order[MOST], broken; /* broken: the step's number at which all_reduce answers 7 */
    int32_t calls;
} group;
typedef struct member { group *team; ramet_tuner *t; ramet_tuner_options o; int32_t worker; ramet_status st; char message[160]; ramet_tuner_report r; } member;

static int32_t all_reduce(float *values, int64_t count, void *user) {
    const member *me = user;
    group *team = me->team;
    float *sum = malloc((size_t)count * sizeof *sum);
    if (!sum) return 1;
    team->values[me->worker] = values;
    pthread_barrier_wait(&team->barrier);
    for (int64_t i = 0; i < count; i++) {
        sum[i] = 0;
        for (int32_t w = 0; w < team->workers; w++) sum[i] += team->values[team->sum_order[w]][i];
    }
    if (!me->worker) team->calls++;
    pthread_barrier_wait(&team->barrier);
    memcpy(values, sum, (size_t)count * sizeof *sum);
    free(sum);
    return team->calls == team->broken ? 7 : 0;
}

static void *run(void *user) {
    member *me = user;
    me->r.struct_size = sizeof me->r;
    me->st = ramet_tuner_step(&me->r, me->t, 3, 0, NULL, NULL);
    snprintf(me->message, sizeof me->message, "%s", me->st ? ramet_last_error() : "");
    return NULL;
}

static ramet_tuner_options options(void) {
    ramet_tuner_options o;
    ramet_tuner_options_init(&o, sizeof o);
    o.rank = 4;
    o.window = 24;
    o.batch = 4;
    o.steps = 6;
    o.learning_rate = 1e-2f;
    o.spike_factor = 50;
    return o;
}

static ramet_tuner *made(const ramet_tuner_options *o) {
    ramet_model *m = tiny(1);
    ramet_dataset *d = prose_data(m);
    ramet_tuner *t = NULL;
    ok(ramet_tuner_create(&t, m, d, o));
    ramet_dataset_free(d);
    ramet_model_free(m);
    return t;
}

static void start(group *team, member *all, ramet_tuner_options o, int32_t workers, int32_t backwards) {
    *team = (struct group){.workers = workers};
    assert_int_equal(pthread_barrier_init(&team->barrier, NULL, (unsigned)workers), 0);
    for (int32_t w = 0; w < workers; w++) {
        team->sum_order[w] = backwards ? workers - 1 - w : w;
        all[w] = (member){.team = team, .worker = w, .o = o};
        all[w].o.worker = w;
        all[w].o.workers = workers;
        all[w].o.all_reduce = all_reduce;
        all[w].o.all_reduce_user = &all[w];
        all[w].t = made(&all[w].o);
    }
}

static void step3(member *all, int32_t workers) {
    pthread_t thread[MOST];
    for (int32_t w = 0; w < workers; w++) assert_int_equal(pthread_create(&thread[w], NULL, run, &all[w]), 0);
    for (int32_t w = 0; w < workers; w++) pthread_join(thread[w], NULL);
}

static void end(group *team, member *all) {
    for (int32_t w = 0; w < team->workers; w++) ramet_tuner_free(all[w].t);
    pthread_barrier_destroy(&team->barrier);
}

static void as_one(int32_t full, int32_t workers, int32_t backwards) { /* full: gradients join their sum one product at a time, an order of their own */
    const int32_t rounding = full || backwards;
    ramet_tuner_options o = options();
    group team;
    member all[MOST];
    o.full = full;
    o.micro_batch = o.batch / workers; /* one a worker */
    if (full) o.learning_rate = 1e-3f;
    if (rounding) o.mode = RAMET_MODE_EXACT; /* rounding to bf16 would make steps of rounding */
    ramet_tuner *one = made(&o);
    ramet_tuner_report r = {.struct_size = sizeof r};
    ok(ramet_tuner_step(&r, one, 6, 0, NULL, NULL));
    start(&team, all, o, workers, backwards);
    step3(all, workers);
    const char *path = scratch(".workers"); /* any worker's checkpoint is everybody's */
    ok(ramet_tuner_save(all[workers - 1].t, path));
    for (int32_t w = 0; w < workers; w++) {
        assert_int_equal(all[w].st, RAMET_OK);
        ok(ramet_tuner_resume(all[w].t, path));
    }
    remove(path);
    step3(all, workers);
    const size_t bytes = (size_t)one->params.total * sizeof(float);
    for (int32_t w = 0; w < workers; w++) {
        assert_true(all[w].st == RAMET_OK && all[w].r.done && all[w].r.tokens == r.tokens);
        assert_true(fabs(all[w].r.loss - r.loss) < (rounding ? 1e-4 : 1e-6) * r.loss);
        assert_memory_equal(all[w].t->params.value, all[0].t->params.value, bytes);
    }
    if (!rounding) assert_memory_equal(one->params.value, all[0].t->params.value, bytes);
    end(&team, all);
    ramet_tuner_free(one);
}

static void test_workers_tune_as_one(void **state) {
    (void)state;
    as_one(0, 2, 0);
    as_one(0, 4, 0);
    as_one(1, 2, 0);
    as_one(0, 4, 1); /* another order of sums: within rounding, still equal among themselves */
}

static void test_failures_reach_all(void **state) {
    ramet_tuner_options o = options();
    group team;
    member all[MOST];
    (void)state;
    start(&team, all, o, 2, 0);
    team.broken = 2;
    step3(all, 2);
    for (int32_t w = 0; w < 2; w++) {
        assert_int_equal(all[w].st, RAMET_E_IO);
        assert_non_null(strstr(all[w].message, "all_reduce answered 7 in step 2"));
        assert_int_equal(all[w].t->step, 1);
    }
    all[1].t->params.value[0] = NAN; /* one worker's loss */
    step3(all, 2);
    for (int32_t w = 0; w < 2; w++) {
        assert_int_equal(all[w].st, RAMET_E_NUMERIC);
        assert_non_null(strstr(all[w].message, "loss of step 2"));
    }
    end(&team, all);
    ramet_model *m = tiny(1);
    ramet_dataset *d = prose_data(m);
    ramet_tuner *t = NULL;
    o.worker = o.workers = 2;
    fails(ramet_tuner_create(&t, m, d, &o), RAMET_E_ARGUMENT, "worker 2 of 2");
    o.worker = 1;
    fails(ramet_tuner_create(&t, m, d, &o), RAMET_E_ARGUMENT, "need all_reduce");
    o.all_reduce = all_reduce;
    o.workers = 3;
    fails(ramet_tuner_create(&t, m, d, &o), RAMET_E_ARGUMENT, "no multiple of 3 workers");
    o.workers = 2;
    o.micro_batch = 1;
    ok(ramet_tuner_create(&t, m, d, &o));
    ok(ramet_tuner_step(NULL, t, 1, 1e-9, NULL, NULL));
    fails(ramet_tuner_save(t, "never"), RAMET_E_STATE, "between steps");
    ramet_tuner_free(t);
    ramet_dataset_free(d);
    ramet_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_workers_tune_as_one), cmocka_unit_test(test_failures_reach_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
