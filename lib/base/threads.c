/* SPDX-License-Identifier: Apache-2.0 */
/* threads.c - parallel_for over a pool of pthreads, or over the host's executor.
 *
 * A run takes one of SLOTS places. Callers and workers claim pieces by counting `next` up; a caller works too, then waits
 * only for pieces that others have begun. A run that finds no place free is done by its caller alone. `users` counts who
 * looks at a slot; the slot can be taken again when nobody does. While a slot is closed, `next` is at CLOSED or above. */
#include "threads.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#  include <immintrin.h>
#endif

#define SLOTS 16
#define CLOSED (INT64_MAX / 2)
#define SPIN_NS 50000 /* before an idle worker or a waiting caller goes to sleep */
#define STACK_BYTES ((size_t)1 << 20)

typedef struct slot {
    _Alignas(64) _Atomic int64_t next;
    _Alignas(64) _Atomic int64_t done; /* pieces finished */
    _Atomic int32_t users;
    _Atomic int32_t stop;    /* a piece failed */
    _Atomic int32_t waiting; /* the caller sleeps */
    ramet__piece_fn fn;
    void *context;
    int64_t pieces;
    int64_t failed_piece; /* under pool->lock */
    ramet_status failed;
} slot;

typedef struct worker {
    struct ramet__threads *pool;
    pthread_t thread;
    int32_t id; /* 1.. ; a caller is 0 */
} worker;

struct ramet__threads {
    slot slots[SLOTS];
    _Alignas(64) _Atomic uint64_t epoch; /* counts runs published */
    _Atomic int32_t sleepers;
    _Atomic int32_t quit;
    pthread_mutex_t lock;
    pthread_cond_t wake, finished;
    int32_t count, started;
    int32_t spin_ns;
    int64_t pid;
    ramet_executor_fn executor;
    void *user;
    worker *workers;
};

/* ---- floating-point control ------------------------------------------------------------------------------------ */

/* Flags raised inside are dropped too: the host's register comes back as it was. */
#if defined(__x86_64__)
uint64_t ramet__fp_enter(void) {
    const uint32_t saved = _mm_getcsr();
    if ((saved & ~0x3Fu) != 0x1F80) _mm_setcsr(0x1F80);
    return saved;
}
void ramet__fp_leave(uint64_t saved) { _mm_setcsr((uint32_t)saved); }
#elif defined(__aarch64__)
uint64_t ramet__fp_enter(void) {
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    if (saved) __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return saved;
}
void ramet__fp_leave(uint64_t saved) {
    if (saved) __asm__ volatile("msr fpcr, %0" : : "r"(saved));
}
#else
uint64_t ramet__fp_enter(void) { return 0; }
void ramet__fp_leave(uint64_t saved) { (void)saved; }
#endif

static ramet_status run_piece(ramet__piece_fn fn, void *context, int64_t piece, int32_t id) {
    const uint64_t saved = ramet__fp_enter();
    const ramet_status st = fn(context, piece, id);
    ramet__fp_leave(saved);
    return st;
}

/* ---- waiting --------------------------------------------------------------------------------------------------- */

static int64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void pause_briefly(void) {
    for (int i = 0; i < 8; i++) {
#if defined(__x86_64__)
        _mm_pause();
#elif defined(__aarch64__)
        __asm__ volatile("isb" ::: "memory");
#else
        sched_yield();
#endif
    }
}

/* ---- the pool -------------------------------------------------------------------------------------------------- */

/* Claim and run pieces of a slot. All pieces below a claimed one were claimed before it, and what is claimed is run, so
 * the lowest failed piece is the same for any timing. */
static void work_on(ramet__threads *pool, slot *s, int32_t id) {
    int64_t mine = 0, failed_piece = 0;
    ramet_status failed = RAMET_OK;
    while (!failed && !atomic_load_explicit(&s->stop, memory_order_relaxed)) {
        const int64_t piece = atomic_fetch_add_explicit(&s->next, 1, memory_order_acquire);
        if (piece >= CLOSED || piece >= s->pieces) break;
        failed = run_piece(s->fn, s->context, piece, id);
        failed_piece = piece;
        mine++;
    }
    if (failed) {
        atomic_store_explicit(&s->stop, 1, memory_order_relaxed);
        pthread_mutex_lock(&pool->lock);
        if (!s->failed || failed_piece < s->failed_piece) {
            s->failed = failed;
            s->failed_piece = failed_piece;
        }
        pthread_mutex_unlock(&pool->lock);
    }
    if (mine) atomic_fetch_add(&s->done, mine); /* sequentially consistent: pairs with `waiting` below */
    if (mine && id > 0 && atomic_load(&s->waiting)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->finished);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* Look at every slot once; true when one had a piece. A slot with no user is free and must not be touched. */
static int look_for_work(ramet__threads *pool, int32_t id) {
    int found = 0;
    for (int32_t i = 0; i < SLOTS; i++) {
        slot *s = &pool->slots[(id + i) % SLOTS];
        int32_t users = atomic_load_explicit(&s->users, memory_order_acquire);
        while (users > 0 && !atomic_compare_exchange_weak(&s->users, &users, users + 1)) {}
        if (users <= 0) continue;
        const int64_t next = atomic_load_explicit(&s->next, memory_order_acquire);
        if (next < CLOSED && next < s->pieces) {
            work_on(pool, s, id);
            found = 1;
        }
        atomic_fetch_sub(&s->users, 1);
    }
    return found;
}

static void *worker_main(void *arg) {
    worker *w = arg;
    ramet__threads *pool = w->pool;
    for (;;) {
        const uint64_t epoch = atomic_load(&pool->epoch);
        if (atomic_load(&pool->quit)) return NULL;
        if (look_for_work(pool, w->id)) continue;
        if (pool->spin_ns) {
            const int64_t until = clock_ns() + pool->spin_ns;
            do pause_briefly();
            while (atomic_load_explicit(&pool->epoch, memory_order_relaxed) == epoch && clock_ns() < until);
        }
        if (atomic_load(&pool->epoch) != epoch) continue;
        pthread_mutex_lock(&pool->lock);
        atomic_fetch_add(&pool->sleepers, 1);
        while (atomic_load(&pool->epoch) == epoch) pthread_cond_wait(&pool->wake, &pool->lock);
        atomic_fetch_sub(&pool->sleepers, 1);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* Tell idle workers: those that spin see the epoch, those that sleep are woken, no more of them than there are pieces. */
static void publish(ramet__threads *pool, int64_t pieces) {
    atomic_fetch_add(&pool->epoch, 1);
    const int32_t sleepers = atomic_load(&pool->sleepers);
    if (sleepers == 0) return;
    pthread_mutex_lock(&pool->lock);
    if (pieces - 1 >= sleepers) pthread_cond_broadcast(&pool->wake);
    else for (int64_t i = 1; i < pieces; i++) pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

static void wait_done(ramet__threads *pool, slot *s, int64_t claimed) {
    if (pool->spin_ns && atomic_load(&s->done) < claimed) {
        const int64_t until = clock_ns() + pool->spin_ns;
        do pause_briefly();
        while (atomic_load_explicit(&s->done, memory_order_relaxed) < claimed && clock_ns() < until);
    }
    if (atomic_load(&s->done) >= claimed) return;
    pthread_mutex_lock(&pool->lock);
    (void)atomic_exchange(&s->waiting, 1); /* a store would do, but qemu lets a load pass an aarch64 store-release: a worker's news was lost there */
    while (atomic_load(&s->done) < claimed) pthread_cond_wait(&pool->finished, &pool->lock);
    atomic_store(&s->waiting, 0);
    pthread_mutex_unlock(&pool->lock);
}

static slot *take_slot(ramet__threads *pool) {
    for (int32_t i = 0; i < SLOTS; i++) {
        int32_t nobody = 0;
        if (atomic_compare_exchange_strong(&pool->slots[i].users, &nobody, 1)) return &pool->slots[i];
    }
    return NULL;
}

static ramet_status run_serial(int64_t pieces, ramet__piece_fn fn, void *context, int64_t *failed_piece) {
    for (int64_t i = 0; i < pieces; i++) {
        const ramet_status st = run_piece(fn, context, i, 0);
        if (st) {
            if (failed_piece) *failed_piece = i;
            return st;
        }
    }
    return RAMET_OK;
}

static ramet_status run_pool(ramet__threads *pool, int64_t pieces, ramet__piece_fn fn, void *context, int64_t *failed_piece) {
    slot *s = take_slot(pool);
    if (!s) return run_serial(pieces, fn, context, failed_piece);
    s->fn = fn;
    s->context = context;
    s->pieces = pieces;
    s->failed = RAMET_OK;
    atomic_store_explicit(&s->done, 0, memory_order_relaxed);
    atomic_store_explicit(&s->stop, 0, memory_order_relaxed);
    atomic_store_explicit(&s->next, 0, memory_order_release);
    publish(pool, pieces);
    work_on(pool, s, 0);
    const int64_t next = atomic_exchange(&s->next, CLOSED);
    wait_done(pool, s, RAMET__MIN(next, pieces));
    ramet_status failed = s->failed; /* written before `done` was counted up */
    if (failed && failed_piece) *failed_piece = s->failed_piece;
    atomic_fetch_sub(&s->users, 1);
    return failed;
}

/* ---- the host's executor ---------------------------------------------------------------------------------------- */

typedef struct host_run {
    ramet__piece_fn fn;
    void *context;
    int64_t pieces;
    int32_t count;
    _Atomic int64_t called;
    _Atomic int64_t lowest; /* failed piece so far; INT64_MAX: none */
    _Atomic int32_t abuse;  /* the executor broke its rule */
    pthread_mutex_t lock;
    ramet_status failed;
    _Atomic uint32_t busy[RAMET__THREADS_MOST / 32]; /* worker numbers in use */
} host_run;

static void host_piece(void *context, int64_t piece, int32_t id) {
    host_run *run = context;
    if (piece < 0 || piece >= run->pieces || id < 0 || id >= run->count) {
        atomic_store(&run->abuse, 1);
        return;
    }
    const uint32_t bit = 1u << id % 32;
    if (atomic_fetch_or(&run->busy[id / 32], bit) & bit) {
        atomic_store(&run->abuse, 2);
        return;
    }
    /* Any order may come; pieces above a failed one are left out, those below are run: the lowest failure is found. */
    if (piece < atomic_load(&run->lowest)) {
        const ramet_status st = run_piece(run->fn, run->context, piece, id);
        if (st) {
            pthread_mutex_lock(&run->lock);
            if (piece < atomic_load(&run->lowest)) {
                atomic_store(&run->lowest, piece);
                run->failed = st;
            }
            pthread_mutex_unlock(&run->lock);
        }
    }
    atomic_fetch_and(&run->busy[id / 32], ~bit);
    atomic_fetch_add(&run->called, 1);
}

static ramet_status run_host(ramet__threads *pool, int64_t pieces, ramet__piece_fn fn, void *context, int64_t *failed_piece) {
    host_run run = {.fn = fn, .context = context, .pieces = pieces, .count = pool->count, .lowest = INT64_MAX};
    if (pthread_mutex_init(&run.lock, NULL)) return ramet__fail(RAMET_E_MEMORY, "no memory for a lock");
    pool->executor(pieces, host_piece, &run, pool->user);
    pthread_mutex_destroy(&run.lock);
    const int64_t lowest = atomic_load(&run.lowest);
    if (lowest < INT64_MAX) {
        if (failed_piece) *failed_piece = lowest;
        return run.failed;
    }
    const int32_t abuse = atomic_load(&run.abuse);
    const int64_t called = atomic_load(&run.called);
    if (!abuse && called == pieces) return RAMET_OK;
    if (failed_piece) *failed_piece = 0;
    if (abuse == 2) return ramet__fail(RAMET_E_STATE, "the host's executor ran two pieces at once with the same worker number");
    if (abuse) return ramet__fail(RAMET_E_STATE, "the host's executor gave a piece or worker number out of range (%lld pieces, %d workers)", (long long)pieces, pool->count);
    return ramet__fail(RAMET_E_STATE, "the host's executor ran %lld of %lld pieces", (long long)called, (long long)pieces);
}

/* ---- interface -------------------------------------------------------------------------------------------------- */

ramet_status ramet__parallel_for(ramet__threads *threads, int64_t pieces, ramet__piece_fn fn, void *context, int64_t *failed_piece) {
    if (pieces <= 1 || !threads || threads->count == 1) return run_serial(pieces, fn, context, failed_piece);
    if (threads->executor) return run_host(threads, pieces, fn, context, failed_piece);
    return run_pool(threads, pieces, fn, context, failed_piece);
}

int32_t ramet__threads_count(const ramet__threads *threads) { return threads ? threads->count : 1; }

#if defined(__linux__)
/* Processors by a control group's quota ("max 100000" or "150000 100000"), rounded up; 0: no quota known. */
static int32_t quota(void) {
    char text[64] = "";
    const int fd = open("/sys/fs/cgroup/cpu.max", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    const ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    long long most, period;
    const int n = size > 0 ? sscanf(text, "%lld %lld", &most, &period) : 0;
    if (n != 2 || most <= 0 || period <= 0) return 0;
    return (int32_t)RAMET__MIN((most + period - 1) / period, RAMET__THREADS_MOST);
}
#endif

int32_t ramet__threads_usable(void) {
    int64_t n = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
    const int32_t q = quota();
    if (q > 0) n = RAMET__MIN(n, q);
#endif
    return (int32_t)RAMET__MAX(1, RAMET__MIN(n, RAMET__THREADS_MOST));
}

/* Started with all signals blocked: handlers run on the host's threads. */
static ramet_status start_workers(ramet__threads *pool) {
    pthread_attr_t attr;
    sigset_t all, old;
    int code = pthread_attr_init(&attr);
    if (code) return ramet__fail_errno(code, "a thread could not be prepared");
    code = pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int32_t i = 0; !code && i < pool->count - 1; i++) {
        worker *w = &pool->workers[i];
        w->pool = pool;
        w->id = i + 1;
        code = pthread_create(&w->thread, &attr, worker_main, w);
        if (!code) pool->started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (!code) return RAMET_OK;
    ramet__fail_errno(code, "thread %d of %d could not be started; ask for fewer threads", pool->started + 2, pool->count);
    return RAMET_E_MEMORY;
}

ramet_status ramet__threads_create(ramet__threads **out, ramet__mem *mem, int32_t threads, ramet_executor_fn executor, void *user) {
    if (threads < 1 || threads > RAMET__THREADS_MOST)
        return ramet__fail(RAMET_E_ARGUMENT, "threads %d is not in 1..%d", threads, RAMET__THREADS_MOST);
    ramet_status st = RAMET_OK;
    ramet__threads *pool;
    int locks = 0;
    RAMET__NEW(pool, ramet__calloc(mem, 1, sizeof *pool));
    for (int32_t i = 0; i < SLOTS; i++) atomic_init(&pool->slots[i].next, CLOSED);
    pool->count = threads;
    pool->executor = executor;
    pool->user = user;
    pool->pid = getpid();
    /* With more threads than processors, spinning takes time from the thread that is waited for. */
    pool->spin_ns = threads <= ramet__threads_usable() ? SPIN_NS : 0;
    if (pthread_mutex_init(&pool->lock, NULL) == 0 && ++locks && pthread_cond_init(&pool->wake, NULL) == 0 && ++locks &&
        pthread_cond_init(&pool->finished, NULL) == 0)
        locks++;
    if (locks < 3) {
        if (locks > 1) pthread_cond_destroy(&pool->wake);
        if (locks > 0) pthread_mutex_destroy(&pool->lock);
        ramet__free(pool);
        return ramet__fail(RAMET_E_MEMORY, "the threads' locks could not be made");
    }
    if (!executor && threads > 1) {
        RAMET__NEW(pool->workers, ramet__calloc(mem, (size_t)(threads - 1), sizeof *pool->workers));
        RAMET__GO(start_workers(pool));
    }
    *out = pool;
    return RAMET_OK;
out:
    ramet__threads_free(pool);
    return st;
}

void ramet__threads_free(ramet__threads *pool) {
    if (!pool) return;
    if (pool->pid == getpid()) { /* in a forked child the workers do not exist, and the locks may be held for ever */
        atomic_store(&pool->quit, 1);
        pthread_mutex_lock(&pool->lock);
        atomic_fetch_add(&pool->epoch, 1);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
        for (int32_t i = 0; i < pool->started; i++) pthread_join(pool->workers[i].thread, NULL);
        pthread_cond_destroy(&pool->finished);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->lock);
    }
    ramet__free(pool->workers);
    ramet__free(pool);
}
