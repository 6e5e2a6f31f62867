/* SPDX-License-Identifier: Apache-2.0 */
#include "base_test.h"
#include "base/runtime.h"
#include "kernels.h"
#include <sys/wait.h>

static void test_options_init_writes_no_further_than_told(void **state) {
    unsigned char room[sizeof(ramet_runtime_options) + 64];
    static const uint32_t sizes[] = {4, 8, 24, sizeof(ramet_runtime_options), sizeof(ramet_runtime_options) + 32};
    for (size_t i = 0; i < 5; i++) {
        memset(room, 0xEE, sizeof room);
        ramet_runtime_options_init((ramet_runtime_options *)(void *)room, sizes[i]);
        uint32_t told;
        memcpy(&told, room, 4);
        assert_int_equal(told, sizes[i]);
        for (size_t j = sizes[i]; j < sizeof room; j++) assert_int_equal(room[j], 0xEE);
        for (size_t j = sizeof(ramet_runtime_options); j < sizes[i]; j++) assert_int_equal(room[j], 0);
    }
    memset(room, 0xEE, sizeof room);
    ramet_runtime_options_init((ramet_runtime_options *)(void *)room, 3);
    ramet_runtime_options_init((ramet_runtime_options *)(void *)room, UINT32_MAX);
    ramet_runtime_options_init(NULL, 8);
    assert_int_equal(room[0], 0xEE);
}

static void test_old_and_new_callers_are_served(void **state) {
    ramet_runtime *r = NULL;
    struct { ramet_runtime_options o; uint64_t newer; } big;
    ramet_runtime_options_init(&big.o, sizeof big);
    big.o.threads = 1;
    assert_ok(ramet_runtime_create(&r, &big.o));
    ramet_runtime_free(r);
    r = NULL;
    big.newer = 1;
    assert_fails(ramet_runtime_create(&r, &big.o), RAMET_E_UNSUPPORTED, "newer than this library");
    assert_null(r);
    struct { uint32_t struct_size; int32_t threads; } old = {8, 3}; /* a caller that knows two members */
    assert_ok(ramet_runtime_create(&r, (const ramet_runtime_options *)(const void *)&old));
    assert_int_equal(ramet_runtime_threads(r), 3);
    assert_int_equal(r->log_level, RAMET_LOG_WARNING);
    ramet_runtime_free(r);
    old.struct_size = 0;
    assert_fails(ramet_runtime_create(&r, (const ramet_runtime_options *)(const void *)&old), RAMET_E_ARGUMENT, "struct_size");
    old.struct_size = 70000;
    assert_fails(ramet_runtime_create(&r, (const ramet_runtime_options *)(const void *)&old), RAMET_E_ARGUMENT, "struct_size");
}

static void test_defaults_and_bad_arguments(void **state) {
    ramet_runtime *r = NULL;
    assert_ok(ramet_runtime_create(&r, NULL));
    assert_int_equal(ramet_runtime_threads(r), ramet__threads_usable());
    assert_ok(ramet__runtime_check(r));
    uint64_t now = 0, peak = 0;
    ramet_runtime_bytes(r, &now, &peak);
    assert_true(now >= sizeof *r && peak >= now);
    ramet_runtime_bytes(r, NULL, NULL);
    ramet_runtime_bytes(NULL, &now, &peak);
    assert_true(now == 0 && peak == 0);
    assert_ptr_equal(ramet__runtime_retain(r), r);
    ramet_runtime_free(r);
    assert_ok(ramet__runtime_check(r)); /* the second reference still holds it */
    ramet_runtime_free(r);
    ramet_runtime_free(NULL);
    assert_fails(ramet_runtime_create(NULL, NULL), RAMET_E_ARGUMENT, "out is NULL");
    assert_fails(ramet__runtime_check(NULL), RAMET_E_ARGUMENT, "NULL");
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    r = NULL;
    o.threads = -1;
    assert_fails(ramet_runtime_create(&r, &o), RAMET_E_ARGUMENT, "threads -1");
    o.threads = 1000000;
    assert_fails(ramet_runtime_create(&r, &o), RAMET_E_ARGUMENT, "threads 1000000");
    o.threads = 1;
    o.isa = 17;
    assert_fails(ramet_runtime_create(&r, &o), RAMET_E_ARGUMENT, "isa 17");
    o.isa = RAMET_ISA_AUTO;
    o.byte_budget = 500;
    assert_fails(ramet_runtime_create(&r, &o), RAMET_E_BUDGET, "at least");
    assert_null(r);
}

/* Create with allocation 1, 2, 3 ... failing. */
static void test_create_survives_every_failing_allocation(void **state) {
    counting c = {0};
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 2;
    o.alloc = counting_alloc;
    o.alloc_user = &c;
    ramet_status st = RAMET_E_MEMORY;
    int64_t n = 0;
    while (st) {
        ramet_runtime *r = NULL;
        c.calls = 0;
        c.fail_at = ++n;
        st = ramet_runtime_create(&r, &o);
        assert_true(st == RAMET_OK || (st == RAMET_E_MEMORY && !r));
        ramet_runtime_free(r);
        assert_int_equal(c.blocks + c.bytes + c.wrong, 0);
    }
    assert_true(n > 3);
}

typedef struct lines { int count; int32_t level; char last[1024]; } lines;
static void keep_line(int32_t level, const char *line, void *user) {
    lines *l = user;
    l->count++;
    l->level = level;
    snprintf(l->last, sizeof l->last, "%s", line);
}

static void test_log_level_and_lines(void **state) {
    lines l = {0};
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 1;
    o.log = keep_line;
    o.log_user = &l;
    ramet_runtime *r;
    assert_ok(ramet_runtime_create(&r, &o));
    l.count = 0;
    ramet__log(r, RAMET_LOG_INFO, "not wanted");
    assert_int_equal(l.count, 0);
    ramet__log(r, RAMET_LOG_WARNING, "two\nlines %d", 5);
    assert_int_equal(l.count, 1);
    assert_int_equal(l.level, RAMET_LOG_WARNING);
    assert_string_equal(l.last, "two lines 5");
    ramet__log(NULL, RAMET_LOG_ERROR, "nobody");
    ramet_runtime_free(r);
}

static const char *create_with(const char *env, int32_t isa, lines *l, ramet_status *st) {
    static char name[16];
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 1;
    o.isa = isa;
    o.log = keep_line;
    o.log_user = l;
    ramet_runtime *r;
    if (env) setenv("RAMET_ISA", env, 1);
    else unsetenv("RAMET_ISA");
    *st = ramet_runtime_create(&r, &o);
    unsetenv("RAMET_ISA");
    if (*st) return "";
    assert_non_null(r->kernels);
    assert_int_equal(r->cpu, ramet__cpu_mask(ramet__cpu_detect(), r->isa));
    snprintf(name, sizeof name, "%s", ramet_runtime_isa(r));
    ramet_runtime_free(r);
    return name;
}

static void test_isa_choice(void **state) {
    lines l = {0};
    ramet_status st;
    const int32_t level = ramet__cpu_level(ramet__cpu_detect());
    assert_true(level >= RAMET_ISA_SIMD);
    assert_string_equal(create_with(NULL, RAMET_ISA_AUTO, &l, &st), ramet__cpu_isa_name(level));
    for (int32_t isa = 0; isa <= RAMET__ISA_LAST; isa++) {
        const int32_t reach = ramet__cpu_reach(ramet__cpu_detect(), isa);
        l.count = 0;
        const char *name = ramet__cpu_isa_name(isa), *env = create_with(name, RAMET_ISA_AUTO, &l, &st);
        assert_ok(st); /* the environment clamps and warns */
        assert_string_equal(env, ramet__cpu_isa_name(reach));
        assert_int_equal(l.count, isa != reach);
        const char *asked = create_with("ref", isa, &l, &st); /* the option wins over the environment, and is refused when beyond */
        if (isa == reach) assert_string_equal(asked, name);
        else assert_fails(st, RAMET_E_UNSUPPORTED, name);
    }
    l.count = 0;
    assert_string_equal(create_with("avx3", RAMET_ISA_AUTO, &l, &st), ramet__cpu_isa_name(level));
    assert_int_equal(l.count, 1);
    assert_contains(l.last, "avx3");
}

static void test_cpu_names_levels_and_masks(void **state) {
    const uint32_t all = RAMET__CPU_AVX2 | RAMET__CPU_AVX512 | RAMET__CPU_AVX512_VNNI | RAMET__CPU_AVX512_BF16 | RAMET__CPU_AMX | RAMET__CPU_DOTPROD | RAMET__CPU_AVXVNNI | RAMET__CPU_I8MM;
    for (int32_t isa = 0; isa <= RAMET__ISA_LAST; isa++) {
        assert_int_equal(ramet__cpu_isa_from_name(ramet__cpu_isa_name(isa)), isa);
        assert_int_equal(ramet__cpu_level(ramet__cpu_mask(all, isa)), isa < RAMET_ISA_SIMD ? RAMET_ISA_SIMD : isa);
    }
    assert_int_equal(ramet__cpu_isa_from_name("AVX2"), -2);
    assert_string_equal(ramet__cpu_isa_name(-1), "unknown");
    assert_int_equal(ramet__cpu_mask(all, RAMET_ISA_SIMD), 0);
    assert_int_equal(ramet__cpu_mask(all, RAMET_ISA_AVX2), RAMET__CPU_AVX2);
    assert_int_equal(ramet__cpu_mask(all, RAMET_ISA_DOTPROD), RAMET__CPU_DOTPROD);
#if defined(__x86_64__) && !defined(RAMET__EMULATE_AVX512)
    const uint32_t have = ramet__cpu_detect(); /* the compiler's own detection is the second opinion */
    assert_int_equal(!!(have & RAMET__CPU_AVX2), __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
    assert_int_equal(!!(have & RAMET__CPU_AVX512), __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"));
    assert_int_equal(!!(have & RAMET__CPU_AVX512_VNNI), !!__builtin_cpu_supports("avx512vnni"));
    assert_int_equal(!!(have & RAMET__CPU_AVX512_BF16), !!__builtin_cpu_supports("avx512bf16"));
#endif
}

static int32_t answer(double fraction, const char *what, void *user) {
    assert_true(fraction == 0.5);
    assert_string_equal(what, "packing");
    return *(int32_t *)user;
}

static void test_progress_cancels(void **state) {
    int32_t go = 0, stop = 1;
    assert_ok(ramet__progress(NULL, NULL, 0.5, "packing"));
    assert_ok(ramet__progress(answer, &go, 0.5, "packing"));
    assert_fails(ramet__progress(answer, &stop, 0.5, "packing"), RAMET_E_CANCELLED, "while packing");
}

static ramet_status nothing(void *context, int64_t piece, int32_t worker) { return RAMET_OK; }

/* In the child: an error from the check, freeing works and does not hang, a new runtime works. */
static void test_fork_leaves_only_freeing(void **state) {
    if (getenv("RAMET_EMULATED")) skip(); /* qemu-user aborts in the child of a process with threads */
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 3;
    ramet_runtime *r, *fresh;
    assert_ok(ramet_runtime_create(&r, &o));
    assert_ok(ramet__parallel_for(r->threads, 100, nothing, NULL, NULL));
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(20);
        if (ramet__runtime_check(r) != RAMET_E_FORK) _exit(1);
        ramet_runtime_free(r);
#ifdef __SANITIZE_THREAD__
        o.threads = 1; /* the sanitizer allows no new threads here */
#endif
        if (ramet_runtime_create(&fresh, &o)) _exit(2);
        if (ramet__runtime_check(fresh) || ramet__parallel_for(fresh->threads, 100, nothing, NULL, NULL)) _exit(3);
        ramet_runtime_free(fresh);
        _exit(0);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_ok(ramet__runtime_check(r));
    ramet_runtime_free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options_init_writes_no_further_than_told),
        cmocka_unit_test(test_old_and_new_callers_are_served),
        cmocka_unit_test(test_defaults_and_bad_arguments),
        cmocka_unit_test(test_create_survives_every_failing_allocation),
        cmocka_unit_test(test_log_level_and_lines),
        cmocka_unit_test(test_isa_choice),
        cmocka_unit_test(test_cpu_names_levels_and_masks),
        cmocka_unit_test(test_progress_cancels),
        cmocka_unit_test(test_fork_leaves_only_freeing),
    };
    unsetenv("RAMET_ISA");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
