/* SPDX-License-Identifier: Apache-2.0 */
#include "base_test.h"
#include "base/alloc.h"
#include <pthread.h>

static uint64_t now(const ramet__mem *mem) { uint64_t n; ramet__mem_bytes(mem, &n, NULL); return n; }
static uint64_t peak(const ramet__mem *mem) { uint64_t n; ramet__mem_bytes(mem, NULL, &n); return n; }

/* Every test gets a mem over the counting allocator, and is checked for leaks and broken calls at the end. */
typedef struct fixture { counting c; ramet__mem *mem; } fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    return f ? ramet__mem_create(&f->mem, counting_alloc, &f->c, 0) : -1;
}

static int teardown(void **state) {
    fixture *f = *state;
    ramet__mem_free(f->mem);
    const int bad = f->c.wrong || f->c.blocks || f->c.bytes;
    if (bad) print_error("wrong %d, blocks %d, bytes %d\n", (int)f->c.wrong, (int)f->c.blocks, (int)f->c.bytes);
    free(f);
    return bad;
}

static void test_blocks_are_aligned_and_counted(void **state) {
    fixture *f = *state;
    const uint64_t empty = now(f->mem);
    void *p[40];
    for (size_t i = 0; i < 40; i++) {
        assert_non_null(p[i] = ramet__alloc(f->mem, i * i));
        assert_int_equal((uintptr_t)p[i] % RAMET__ALIGN, 0);
        memset(p[i], 1, i * i);
        assert_int_equal(now(f->mem), f->c.bytes);
    }
    const uint64_t full = now(f->mem);
    for (size_t i = 0; i < 40; i++) ramet__free(p[i]);
    ramet__free(NULL);
    assert_int_equal(now(f->mem), empty);
    assert_int_equal(peak(f->mem), full);
}

static void test_calloc_checks_the_product_and_zeroes(void **state) {
    fixture *f = *state;
    unsigned char *p = ramet__calloc(f->mem, 10, 30);
    assert_non_null(p);
    for (int i = 0; i < 300; i++) assert_int_equal(p[i], 0);
    ramet__free(p);
    assert_null(ramet__calloc(f->mem, SIZE_MAX / 2, 3));
    assert_int_equal(ramet__alloc_status(), RAMET_E_MEMORY);
    assert_null(ramet__calloc(f->mem, (size_t)1 << 33, (size_t)1 << 31)); /* wraps to 0 */
    assert_null(ramet__alloc(f->mem, SIZE_MAX - 10));
    assert_null(ramet__alloc(f->mem, (size_t)PTRDIFF_MAX));
    assert_contains(ramet_last_error(), "out of memory");
}

static void test_realloc_keeps_contents_in_both_directions(void **state) {
    fixture *f = *state;
    char *p = ramet__realloc(f->mem, NULL, 10);
    memcpy(p, "012345678", 10);
    assert_non_null(p = ramet__realloc(f->mem, p, 100000));
    assert_string_equal(p, "012345678");
    assert_non_null(p = ramet__realloc(f->mem, p, 5));
    assert_memory_equal(p, "01234", 5);
    assert_int_equal(now(f->mem), f->c.bytes);
    f->c.fail_at = f->c.calls + 1;
    assert_null(ramet__realloc(f->mem, p, 1000));
    assert_int_equal(ramet__alloc_status(), RAMET_E_MEMORY);
    assert_memory_equal(p, "01234", 5);
    assert_ptr_equal(ramet__realloc(f->mem, p, 2), p); /* shrinking cannot fail */
    assert_int_equal(now(f->mem), f->c.bytes);
    ramet__free(p);
}

static void test_budget_is_exact_and_names_what_would_do(void **state) {
    ramet__mem *mem;
    counting c = {0};
    assert_ok(ramet__mem_create(&mem, counting_alloc, &c, 10000));
    assert_int_equal(ramet__mem_budget(mem), 10000);
    const uint64_t empty = now(mem);
    void *p = ramet__alloc(mem, 10000 - (size_t)empty - 64);
    assert_non_null(p);
    assert_int_equal(now(mem), 10000);
    const int64_t calls = c.calls;
    assert_null(ramet__alloc(mem, 36));
    assert_int_equal(c.calls, calls); /* refused before asking the host */
    assert_int_equal(ramet__alloc_status(), RAMET_E_BUDGET);
    assert_contains(ramet_last_error(), "at least 10100");
    assert_null(ramet__realloc(mem, p, 20000));
    assert_int_equal(ramet__alloc_status(), RAMET_E_BUDGET);
    assert_ptr_equal(ramet__realloc(mem, p, 100), p); /* no room for a second block: stays */
    ramet__free(p);
    assert_non_null(p = ramet__alloc(mem, 1000));
    assert_non_null(p = ramet__realloc(mem, p, 8000)); /* both blocks fit for the moment of copying */
    assert_int_equal(now(mem), empty + 8064);
    assert_in_range(peak(mem), empty + 8064, 10000);
    ramet__free(p);
    ramet__mem_free(mem);
    assert_int_equal(c.blocks + c.bytes + c.wrong, 0);
    assert_fails(ramet__mem_create(&mem, NULL, NULL, 1), RAMET_E_BUDGET, "at least");
}

static void test_a_string_may_outlive_the_mem(void **state) {
    ramet__mem *mem;
    counting c = {0};
    assert_ok(ramet__mem_create(&mem, counting_alloc, &c, 0));
    char *text = ramet__strdup(mem, "survivor");
    ramet__mem_free(mem);
    assert_string_equal(text, "survivor");
    ramet_string_free(text);
    ramet_string_free(NULL);
    assert_int_equal(c.blocks + c.bytes + c.wrong, 0);
}

static void test_libc_allocator_resizes(void **state) {
    ramet__mem *mem;
    assert_ok(ramet__mem_create(&mem, NULL, NULL, 0));
    unsigned char *p = NULL;
    for (size_t n = 1; n < 20000000; n = n * 3 + 1) {
        assert_non_null(p = ramet__realloc(mem, p, n));
        assert_int_equal((uintptr_t)p % RAMET__ALIGN, 0);
        if (n > 1) assert_true(p[0] == 7 && p[(n - 1) / 3 - 1] == 7);
        memset(p, 7, n);
    }
    ramet__free(p);
    ramet__mem_free(mem);
}

static void test_format_and_copies(void **state) {
    fixture *f = *state;
    char *a = ramet__format(f->mem, "%s-%05d", "x", 42), *b = ramet__strndup(f->mem, "abcdef", 3), *c = ramet__strdup(f->mem, "");
    assert_string_equal(a, "x-00042");
    assert_string_equal(b, "abc");
    assert_string_equal(c, "");
    ramet__free(a);
    ramet__free(b);
    ramet__free(c);
}

static void test_grow_is_amortised_and_checked(void **state) {
    fixture *f = *state;
    int32_t *items = NULL;
    int64_t cap = 0;
    for (int32_t i = 0; i < 10000; i++) {
        assert_ok(ramet__grow(f->mem, &items, &cap, i + 1, sizeof *items));
        assert_true(cap > i);
        items[i] = i;
    }
    for (int32_t i = 0; i < 10000; i++) assert_int_equal(items[i], i);
    assert_true(f->c.calls < 40);
    int32_t *before = items;
    assert_int_equal(ramet__grow(f->mem, &items, &cap, INT64_MAX, sizeof *items), RAMET_E_MEMORY);
    assert_ptr_equal(items, before);
    ramet__free(items);
}

static void test_grow_takes_the_exact_size_under_a_tight_budget(void **state) {
    ramet__mem *mem;
    assert_ok(ramet__mem_create(&mem, NULL, NULL, 3500));
    char *items = NULL;
    int64_t cap = 0;
    assert_ok(ramet__grow(mem, &items, &cap, 1400, 1));
    assert_ok(ramet__grow(mem, &items, &cap, 1500, 1)); /* 2100 would not fit beside 1400 */
    assert_int_equal(cap, 1500);
    assert_int_equal(ramet__grow(mem, &items, &cap, 5000, 1), RAMET_E_BUDGET);
    ramet__free(items);
    ramet__mem_free(mem);
}

static void test_text_grows_and_is_taken(void **state) {
    fixture *f = *state;
    ramet__text t = {.mem = f->mem};
    char want[5000] = "";
    for (int i = 0; i < 1000; i++) {
        ramet__text_add(&t, "%d,", i);
        snprintf(want + strlen(want), 8, "%d,", i);
        assert_int_equal(t.data[t.len], 0);
    }
    ramet__text_bytes(&t, "a\0b", 3);
    assert_int_equal(t.len, strlen(want) + 3);
    char *s = ramet__text_take(&t);
    assert_string_equal(s, strcat(want, "a"));
    assert_null(t.data);
    assert_int_equal(t.len + t.cap, 0);
    ramet__free(s);
    s = ramet__text_take(&t);
    assert_string_equal(s, "");
    ramet__free(s);
    ramet__text_add(&t, "%3000d", 1); /* longer than the first guess */
    assert_int_equal(strlen(t.data), 3000);
    ramet__text_free(&t);
    ramet__text_free(&t);
}

static void test_text_failure_sticks(void **state) {
    fixture *f = *state;
    ramet__text t = {.mem = f->mem};
    ramet__text_add(&t, "begin");
    f->c.fail_at = f->c.calls + 1;
    ramet__text_add(&t, "%200d", 1);
    f->c.fail_at = 0;
    ramet__text_add(&t, "more");
    assert_int_equal(t.status, RAMET_E_MEMORY);
    assert_null(ramet__text_take(&t));
    assert_int_equal(t.status, RAMET_E_MEMORY);
    ramet__text_free(&t);
}

static void test_arena_pieces_do_not_overlap(void **state) {
    fixture *f = *state;
    ramet__arena a = {.mem = f->mem};
    unsigned char *p[600];
    size_t size[600];
    for (size_t i = 0; i < 600; i++) {
        size[i] = i % 50 == 49 ? 3000 + i * 100 : i % 97;
        assert_non_null(p[i] = ramet__arena_alloc(&a, size[i]));
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        for (size_t j = 0; j < size[i]; j++) assert_int_equal(p[i][j], 0);
        memset(p[i], (int)(i % 251) + 1, size[i]);
    }
    for (size_t i = 0; i < 600; i++)
        for (size_t j = 0; j < size[i]; j++) assert_int_equal(p[i][j], i % 251 + 1);
    assert_string_equal(ramet__arena_strndup(&a, "hello", 4), "hell");
    assert_null(ramet__arena_alloc(&a, SIZE_MAX));
    ramet__arena_free(&a);
    assert_non_null(ramet__arena_alloc(&a, 1)); /* usable again */
    ramet__arena_free(&a);
}

/* One scenario that uses everything, with allocation 1, 2, 3 ... failing: an error each time, no leak, until it succeeds. */
static ramet_status scenario(ramet__mem *mem) {
    ramet_status st = RAMET_OK;
    ramet__text t = {.mem = mem};
    ramet__arena a = {.mem = mem};
    char *s = NULL, *taken = NULL;
    int64_t *items = NULL, cap = 0;
    void *piece;
    RAMET__NEW(s, ramet__format(mem, "%d", 1));
    for (int i = 0; i < 50; i++) RAMET__GO(ramet__grow(mem, &items, &cap, i * 10, sizeof *items));
    for (int i = 0; i < 20; i++) RAMET__NEW(piece, ramet__arena_alloc(&a, 1000));
    for (int i = 0; i < 100; i++) ramet__text_add(&t, "line %d\n", i);
    RAMET__GO(t.status);
    taken = ramet__text_take(&t);
    RAMET__GO(t.status);
out:
    ramet__free(taken);
    ramet__free(s);
    ramet__free(items);
    ramet__text_free(&t);
    ramet__arena_free(&a);
    return st;
}

static void test_every_failing_allocation_is_answered(void **state) {
    fixture *f = *state;
    const int64_t blocks = f->c.blocks;
    int64_t fails = 0;
    for (int64_t n = 1;; n++) {
        f->c.fail_at = f->c.calls + n;
        const ramet_status st = scenario(f->mem);
        const int reached = f->c.calls >= f->c.fail_at;
        assert_int_equal(f->c.blocks, blocks);
        if (!reached) {
            assert_ok(st);
            break;
        }
        fails += st == RAMET_E_MEMORY;
        assert_true(st == RAMET_E_MEMORY || st == RAMET_OK); /* OK: a shrink or a smaller step stood in */
    }
    f->c.fail_at = 0;
    assert_true(fails >= 15);
}

static void *churn(void *arg) {
    for (size_t i = 0; i < 20000; i++) ramet__free(ramet__alloc(arg, i % 500));
    return NULL;
}

static void test_counters_are_exact_under_threads(void **state) {
    ramet__mem *mem;
    assert_ok(ramet__mem_create(&mem, NULL, NULL, 3000));
    const uint64_t empty = now(mem);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, churn, mem), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    assert_int_equal(now(mem), empty);
    assert_true(peak(mem) <= 3000);
    ramet__mem_free(mem);
}

int main(void) {
#define WITH_MEM(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_MEM(test_blocks_are_aligned_and_counted),
        WITH_MEM(test_calloc_checks_the_product_and_zeroes),
        WITH_MEM(test_realloc_keeps_contents_in_both_directions),
        cmocka_unit_test(test_budget_is_exact_and_names_what_would_do),
        cmocka_unit_test(test_a_string_may_outlive_the_mem),
        cmocka_unit_test(test_libc_allocator_resizes),
        WITH_MEM(test_format_and_copies),
        WITH_MEM(test_grow_is_amortised_and_checked),
        cmocka_unit_test(test_grow_takes_the_exact_size_under_a_tight_budget),
        WITH_MEM(test_text_grows_and_is_taken),
        WITH_MEM(test_text_failure_sticks),
        WITH_MEM(test_arena_pieces_do_not_overlap),
        WITH_MEM(test_every_failing_allocation_is_answered),
        cmocka_unit_test(test_counters_are_exact_under_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
