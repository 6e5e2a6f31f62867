/* SPDX-License-Identifier: Apache-2.0 */
#include "base_test.h"
#include "base/threads.h"
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

static ramet__mem *mem;

static int make_mem(void **state) { return ramet__mem_create(&mem, NULL, NULL, 0); }
static int free_mem(void **state) {
    uint64_t now;
    ramet__mem_bytes(mem, &now, NULL);
    ramet__mem_free(mem);
    return now > 512; /* every pool was freed: the mem alone is left */
}

static ramet__threads *pool_of(int32_t threads) {
    ramet__threads *t;
    assert_ok(ramet__threads_create(&t, mem, threads, NULL, NULL));
    return t;
}

/* ---- pieces: each once, worker numbers unique ---- */
#define PIECES 500
typedef struct seen { _Atomic int32_t runs[PIECES], busy[64], clash; int32_t count; int64_t yield_every; } seen;

static ramet_status mark(void *context, int64_t piece, int32_t worker) {
    seen *s = context;
    if (worker < 0 || worker >= s->count || atomic_exchange(&s->busy[worker], 1)) atomic_fetch_add(&s->clash, 1);
    atomic_fetch_add(&s->runs[piece], 1);
    if (s->yield_every && piece % s->yield_every == 0) sched_yield();
    if (worker >= 0 && worker < s->count) atomic_store(&s->busy[worker], 0);
    return RAMET_OK;
}

static int all_once(const seen *s, int64_t pieces) {
    for (int64_t i = 0; i < PIECES; i++)
        if (atomic_load(&s->runs[i]) != (i < pieces)) return 0;
    return atomic_load(&s->clash) == 0;
}

static void test_every_piece_runs_once(void **state) {
    static const int64_t sizes[] = {0, 1, 2, 3, 17, PIECES};
    for (int32_t threads = 1; threads <= 6; threads++) {
        ramet__threads *t = pool_of(threads);
        assert_int_equal(ramet__threads_count(t), threads);
        for (int round = 0; round < 60; round++) {
            seen s = {.count = threads, .yield_every = round % 5};
            const int64_t pieces = sizes[round % 6];
            assert_ok(ramet__parallel_for(t, pieces, mark, &s, NULL));
            assert_true(all_once(&s, pieces));
        }
        ramet__threads_free(t);
    }
    seen s = {.count = 1};
    assert_ok(ramet__parallel_for(NULL, 10, mark, &s, NULL));
    assert_true(all_once(&s, 10));
    assert_int_equal(ramet__threads_count(NULL), 1);
    ramet__threads_free(NULL);
}

/* A piece that waits for another one to begin ends only when two threads work. */
typedef struct meet { _Atomic int32_t arrived, want; } meet;
static ramet_status meet_piece(void *context, int64_t piece, int32_t worker) {
    meet *m = context;
    atomic_fetch_add(&m->arrived, 1);
    struct timespec t0, t;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    do {
        if (atomic_load(&m->arrived) >= atomic_load(&m->want)) return RAMET_OK;
        sched_yield();
        clock_gettime(CLOCK_MONOTONIC, &t);
    } while (t.tv_sec - t0.tv_sec < 10);
    return RAMET_E_STATE;
}

static void test_workers_work_at_the_same_time(void **state) {
    for (int32_t threads = 2; threads <= 4; threads++) {
        ramet__threads *t = pool_of(threads);
        for (int round = 0; round < 20; round++) {
            meet m = {0, threads};
            assert_ok(ramet__parallel_for(t, threads, meet_piece, &m, NULL));
            if (round % 4 == 3) usleep(1000); /* workers are asleep: they are woken */
        }
        ramet__threads_free(t);
    }
}

/* ---- failures ---- */
typedef struct failing { int64_t first, second; _Atomic int64_t run; } failing;
static ramet_status fail_some(void *context, int64_t piece, int32_t worker) {
    failing *f = context;
    atomic_fetch_add(&f->run, 1);
    if (piece == f->first) {
        for (int i = 0; i < 3; i++) sched_yield(); /* the higher one fails earlier in time */
        return RAMET_E_NUMERIC;
    }
    return piece >= f->second ? RAMET_E_FORMAT : RAMET_OK;
}

static void test_the_lowest_failed_piece_is_reported(void **state) {
    for (int32_t threads = 1; threads <= 4; threads++) {
        ramet__threads *t = pool_of(threads);
        for (int round = 0; round < 40; round++) {
            failing f = {.first = 10, .second = 11};
            int64_t piece = -1;
            assert_int_equal(ramet__parallel_for(t, 100000, fail_some, &f, &piece), RAMET_E_NUMERIC);
            assert_int_equal(piece, 10);
            assert_in_range(atomic_load(&f.run), 11, 11 + threads * 50); /* no new piece after a failure */
            assert_int_equal(ramet__parallel_for(t, 100, fail_some, &f, NULL), RAMET_E_NUMERIC);
            f.first = f.second = 1000;
            piece = -1;
            assert_ok(ramet__parallel_for(t, 100, fail_some, &f, &piece)); /* nothing left behind */
            assert_int_equal(piece, -1);
        }
        ramet__threads_free(t);
    }
}

/* ---- many callers, nested runs ---- */
typedef struct caller { ramet__threads *t; int rounds, bad; } caller;
static void *call_many(void *arg) {
    caller *c = arg;
    for (int i = 0; i < c->rounds; i++) {
        seen s = {.count = ramet__threads_count(c->t), .yield_every = 7};
        if (ramet__parallel_for(c->t, 20 + i % 30, mark, &s, NULL) || !all_once(&s, 20 + i % 30)) c->bad++;
    }
    return NULL;
}

static void test_many_callers_share_the_workers(void **state) {
    enum { CALLERS = 20 }; /* more than there are places for runs */
    ramet__threads *t = pool_of(3);
    pthread_t thread[CALLERS];
    caller c[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        c[i] = (caller){t, 60, 0};
        assert_int_equal(pthread_create(&thread[i], NULL, call_many, &c[i]), 0);
    }
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(c[i].bad, 0);
    }
    ramet__threads_free(t);
}

/* A run that is stuck does not hold up another one: the second ends while the first waits for it. */
typedef struct stuck { _Atomic int32_t release; ramet__threads *t; } stuck;
static ramet_status stuck_piece(void *context, int64_t piece, int32_t worker) {
    stuck *s = context;
    while (!atomic_load(&s->release)) sched_yield();
    return RAMET_OK;
}
static void *stuck_caller(void *arg) {
    stuck *s = arg;
    return (void *)(intptr_t)ramet__parallel_for(s->t, 8, stuck_piece, s, NULL);
}

static void test_runs_do_not_wait_for_one_another(void **state) {
    stuck s = {.t = pool_of(3)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stuck_caller, &s), 0);
    usleep(2000); /* all workers hang in the first run by now, or will */
    for (int i = 0; i < 50; i++) {
        seen m = {.count = 3};
        assert_ok(ramet__parallel_for(s.t, 40, mark, &m, NULL));
        assert_true(all_once(&m, 40));
    }
    atomic_store(&s.release, 1);
    void *result = &s;
    pthread_join(thread, &result);
    assert_null(result);
    ramet__threads_free(s.t);
}

typedef struct nest { ramet__threads *t; _Atomic int32_t leaves; int32_t depth; } nest;
static ramet_status nested(void *context, int64_t piece, int32_t worker) {
    nest *n = context;
    if (n->depth == 0) {
        atomic_fetch_add(&n->leaves, 1);
        return RAMET_OK;
    }
    nest inner = {n->t, 0, n->depth - 1};
    const ramet_status st = ramet__parallel_for(n->t, 5, nested, &inner, NULL);
    atomic_fetch_add(&n->leaves, atomic_load(&inner.leaves));
    return st;
}

static void test_nested_runs_end(void **state) {
    ramet__threads *t = pool_of(3);
    nest n = {t, 0, 3};
    assert_ok(ramet__parallel_for(t, 5, nested, &n, NULL));
    assert_int_equal(n.leaves, 625);
    ramet__threads_free(t);
}

/* ---- floating-point control ---- */
/* On x86-64 fesetround and fegetround work on the x87 unit too, which ramet does not use. */
static void round_down(void) {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x2000);
#else
    fesetround(FE_DOWNWARD);
#endif
}

static ramet_status check_fp(void *context, int64_t piece, int32_t worker) {
    volatile float tiny = 1e-39f, half = 0.5f, one = 1, three = 3, minus = -1;
    const int denormals = tiny * half > 0, nearest = one / three == 0x1.555556p-2f && minus / three == -0x1.555556p-2f;
    round_down(); /* does not leak into the next piece or out */
    return denormals && nearest ? RAMET_OK : RAMET_E_NUMERIC;
}

static void host_serial(int64_t pieces, ramet_piece_fn piece, void *context, void *user) {
    for (int64_t i = 0; i < pieces; i++) piece(context, pieces - 1 - i, 0); /* any order is allowed */
}

static void test_floating_point_control_is_set_and_restored(void **state) {
    ramet__threads *t[4] = {NULL, pool_of(1), pool_of(3), NULL};
    fesetround(FE_UPWARD);
#if defined(__x86_64__)
    const unsigned int csr = (__builtin_ia32_stmxcsr() | 0x8040) & ~0x3Fu; /* flush to zero, denormals are zero */
    __builtin_ia32_ldmxcsr(csr);
#endif
    const ramet_status made = ramet__threads_create(&t[3], mem, 2, host_serial, NULL);
    ramet_status st[4];
    for (int i = 0; i < 4; i++) st[i] = ramet__parallel_for(t[i], 64, check_fp, NULL, NULL);
    const int rounding = fegetround();
#if defined(__x86_64__)
    const unsigned int after = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x1F80);
#endif
    fesetround(FE_TONEAREST);
    assert_ok(made);
    for (int i = 0; i < 4; i++) assert_int_equal(st[i], RAMET_OK);
    assert_int_equal(rounding, FE_UPWARD);
#if defined(__x86_64__)
    assert_int_equal(after & ~0x3Fu, csr);
#endif
    for (int i = 1; i < 4; i++) ramet__threads_free(t[i]);
}

/* ---- the host's executor ---- */
typedef struct host { int32_t workers, calls; int broken; } host;
typedef struct host_job { ramet_piece_fn piece; void *context; int64_t pieces; _Atomic int64_t next; } host_job;
typedef struct host_arg { host_job *job; int32_t worker; } host_arg;

static void *host_main(void *arg) {
    host_arg *a = arg;
    for (int64_t i; (i = atomic_fetch_add(&a->job->next, 1)) < a->job->pieces;) a->job->piece(a->job->context, i, a->worker);
    return NULL;
}

static void host_threads(int64_t pieces, ramet_piece_fn piece, void *context, void *user) {
    host *h = user;
    host_job job = {piece, context, pieces, 0};
    host_arg args[8];
    pthread_t thread[8];
    h->calls++;
    for (int32_t i = 0; i < h->workers; i++) {
        args[i] = (host_arg){&job, i};
        if (i && pthread_create(&thread[i], NULL, host_main, &args[i])) abort();
    }
    host_main(&args[0]);
    for (int32_t i = 1; i < h->workers; i++) pthread_join(thread[i], NULL);
}

static void test_the_host_may_run_the_pieces(void **state) {
    host h = {.workers = 4};
    ramet__threads *t;
    assert_ok(ramet__threads_create(&t, mem, 4, host_threads, &h));
    for (int round = 0; round < 10; round++) {
        seen s = {.count = 4, .yield_every = 3};
        assert_ok(ramet__parallel_for(t, PIECES, mark, &s, NULL));
        assert_true(all_once(&s, PIECES));
        failing f = {.first = 10, .second = 11};
        int64_t piece = -1;
        assert_int_equal(ramet__parallel_for(t, 100, fail_some, &f, &piece), RAMET_E_NUMERIC);
        assert_int_equal(piece, 10);
    }
    assert_int_equal(h.calls, 20);
    ramet__threads_free(t);
    assert_ok(ramet__threads_create(&t, mem, 4, host_serial, NULL)); /* backwards: still the lowest */
    failing f = {.first = 10, .second = 20};
    int64_t piece = -1;
    assert_int_equal(ramet__parallel_for(t, 100, fail_some, &f, &piece), RAMET_E_NUMERIC);
    assert_int_equal(piece, 10);
    ramet__threads_free(t);
}

static void bad_executor(int64_t pieces, ramet_piece_fn piece, void *context, void *user) {
    const int kind = *(int *)user;
    for (int64_t i = 0; i < pieces - (kind == 0); i++) piece(context, i, kind == 1 ? 2 : kind == 2 ? -1 : 0);
    if (kind == 3) piece(context, pieces, 0);
    if (kind == 4) piece(context, -1, 0);
    if (kind == 5) piece(context, 0, 0);
}

static void test_a_broken_executor_is_answered(void **state) {
    static const char *const says[] = {"ran 9 of 10", "out of range", "out of range", "out of range", "out of range", "ran 11 of 10"};
    for (int kind = 0; kind < 6; kind++) {
        ramet__threads *t;
        seen s = {.count = 2};
        assert_ok(ramet__threads_create(&t, mem, 2, bad_executor, &kind));
        assert_fails(ramet__parallel_for(t, 10, mark, &s, NULL), RAMET_E_STATE, says[kind]);
        ramet__threads_free(t);
    }
}

static ramet_status call_again(void *context, int64_t piece, int32_t worker) {
    void **both = context; /* the trampoline and its context, as an executor sees them: here piece 0 is entered twice */
    if (piece == 0 && both[0]) {
        both[0] = NULL;
        (*(ramet_piece_fn *)both[1])(both[2], 1, worker);
    }
    return RAMET_OK;
}

static void *again[3];
static ramet_piece_fn again_fn;
static void same_worker_executor(int64_t pieces, ramet_piece_fn piece, void *context, void *user) {
    again_fn = piece;
    again[0] = again;
    again[1] = &again_fn;
    again[2] = context;
    for (int64_t i = 0; i < pieces; i++) piece(context, i, 0);
}

static void test_an_executor_with_two_pieces_on_one_worker_is_answered(void **state) {
    ramet__threads *t;
    assert_ok(ramet__threads_create(&t, mem, 2, same_worker_executor, NULL));
    assert_fails(ramet__parallel_for(t, 3, call_again, again, NULL), RAMET_E_STATE, "same worker number");
    ramet__threads_free(t);
}

/* ---- quiet when idle, quick when busy, no signals ---- */
static void test_idle_workers_use_no_processor(void **state) {
    ramet__threads *t = pool_of(2);
    seen s = {.count = 2};
    assert_ok(ramet__parallel_for(t, 100, mark, &s, NULL));
    usleep(5000);
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    usleep(100000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    const int64_t used = (int64_t)(b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
    assert_in_range(used, 0, 10000000); /* of 100 ms: a spinning worker would use all */
    ramet__threads_free(t);
}

static _Atomic int64_t on_worker;
static pthread_t main_thread;
static void on_signal(int number) {
    if (!pthread_equal(pthread_self(), main_thread)) atomic_fetch_add(&on_worker, 1);
}

static void test_signals_stay_with_the_host(void **state) {
    struct sigaction act = {.sa_handler = on_signal}, old;
    main_thread = pthread_self();
    sigaction(SIGUSR1, &act, &old);
    ramet__threads *t = pool_of(3);
    sigset_t block, before;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &block, &before); /* a worker that did not block it would take it */
    kill(getpid(), SIGUSR1);
    usleep(2000);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    assert_int_equal(atomic_load(&on_worker), 0);
    ramet__threads_free(t);
    sigaction(SIGUSR1, &old, NULL);
}

static void test_create_checks_the_count(void **state) {
    ramet__threads *t = NULL;
    assert_fails(ramet__threads_create(&t, mem, 0, NULL, NULL), RAMET_E_ARGUMENT, "threads 0");
    assert_fails(ramet__threads_create(&t, mem, RAMET__THREADS_MOST + 1, NULL, NULL), RAMET_E_ARGUMENT, "threads 1025");
    assert_null(t);
    assert_in_range(ramet__threads_usable(), 1, RAMET__THREADS_MOST);
}

/* In a child, because its address space is limited there to less than the stacks need. */
static void test_threads_that_cannot_start_are_answered(void **state) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    skip(); /* sanitizers need the address space */
#endif
    if (getenv("RAMET_EMULATED")) skip(); /* qemu-user shares the limit with what it runs */
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(20);
        const struct rlimit small = {100u << 20, 100u << 20};
        ramet__threads *t = NULL;
        if (setrlimit(RLIMIT_AS, &small)) _exit(1);
        if (ramet__threads_create(&t, mem, 1000, NULL, NULL) != RAMET_E_MEMORY || t) _exit(2);
        if (!strstr(ramet_last_error(), "could not be started")) _exit(3);
        uint64_t now;
        ramet__mem_bytes(mem, &now, NULL);
        _exit(now > 512 ? 4 : 0);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* Two pieces fail, in either order of time: the lower is reported. */
typedef struct pair { meet m; int64_t slow; } pair;
static ramet_status fail_both(void *context, int64_t piece, int32_t worker) {
    pair *p = context;
    if (meet_piece(&p->m, piece, worker)) return RAMET_E_STATE;
    if (piece == p->slow) usleep(2000);
    return piece == 0 ? RAMET_E_NUMERIC : RAMET_E_FORMAT;
}

static void test_the_lower_of_two_failures_in_either_order(void **state) {
    host h = {.workers = 2};
    ramet__threads *t[2] = {pool_of(2), NULL};
    assert_ok(ramet__threads_create(&t[1], mem, 2, host_threads, &h));
    for (int i = 0; i < 12; i++) {
        pair p = {{0, 2}, i / 2 % 2};
        int64_t piece = -1;
        assert_int_equal(ramet__parallel_for(t[i % 2], 2, fail_both, &p, &piece), RAMET_E_NUMERIC);
        assert_int_equal(piece, 0);
    }
    for (int i = 0; i < 2; i++) ramet__threads_free(t[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_piece_runs_once),
        cmocka_unit_test(test_workers_work_at_the_same_time),
        cmocka_unit_test(test_the_lowest_failed_piece_is_reported),
        cmocka_unit_test(test_many_callers_share_the_workers),
        cmocka_unit_test(test_runs_do_not_wait_for_one_another),
        cmocka_unit_test(test_nested_runs_end),
        cmocka_unit_test(test_floating_point_control_is_set_and_restored),
        cmocka_unit_test(test_the_host_may_run_the_pieces),
        cmocka_unit_test(test_a_broken_executor_is_answered),
        cmocka_unit_test(test_an_executor_with_two_pieces_on_one_worker_is_answered),
        cmocka_unit_test(test_idle_workers_use_no_processor),
        cmocka_unit_test(test_signals_stay_with_the_host),
        cmocka_unit_test(test_create_checks_the_count),
        cmocka_unit_test(test_the_lower_of_two_failures_in_either_order),
        cmocka_unit_test(test_threads_that_cannot_start_are_answered),
    };
    return cmocka_run_group_tests(tests, make_mem, free_mem);
}
