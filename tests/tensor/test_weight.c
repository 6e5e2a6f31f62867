/* SPDX-License-Identifier: Apache-2.0 */
/* Weights: rows over a reader or of their own, packed once, whatever the number of threads, within the budget. */
#include "tensor/weight.h"
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static ramet_runtime *runtime(int32_t threads, uint64_t budget) {
    ramet_runtime *rt = NULL;
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = threads;
    o.byte_budget = budget;
    if (ramet_runtime_create(&rt, &o)) fail_msg("%s", ramet_last_error());
    return rt;
}

static const ramet__shape shape = {2, {70, 96}};

/* 70 rows of 96 in an encoding, as bytes that the caller frees. */
static uint8_t *rows_of(ramet__enc enc, uint64_t *bytes, size_t before) {
    const ramet__encoding *e = ramet__encoding_get(enc);
    float x[70 * 96];
    for (int i = 0; i < 70 * 96; i++) x[i] = sinf((float)i * 0.7f) * (1 + (float)(i % 13));
    *bytes = ramet__encoded_bytes(e, 70 * 96);
    uint8_t *data = malloc(before + *bytes);
    e->encode(data + before, x, 70 * 96);
    return data;
}

static ramet__reader *memory(ramet_runtime *rt, const void *data, uint64_t n) {
    ramet_source source = {.struct_size = sizeof source, .kind = RAMET_SOURCE_MEMORY, .data = data, .length = n};
    ramet__reader *reader = NULL;
    if (ramet__reader_open(&reader, rt->mem, &source)) fail_msg("%s", ramet_last_error());
    return reader;
}

static void shares_the_pages_of_its_reader(void **state) {
    ramet_runtime *rt = runtime(1, 0);
    uint64_t bytes;
    for (int e = 0; e < RAMET__ENC_COUNT && ramet__encoding_get((ramet__enc)e)->encode; e++) {
        for (size_t before = 0; before < 2; before++) {
            uint8_t *data = rows_of((ramet__enc)e, &bytes, before);
            ramet__reader *reader = memory(rt, data, before + bytes);
            ramet__weight *w = NULL;
            float got[2 * 96], want[2 * 96];
            if (ramet__weight_from_reader(&w, rt, "w", (ramet__enc)e, &shape, reader, before)) fail_msg("%s", ramet_last_error());
            ramet__reader_free(reader); /* the weight keeps it */
            if (before) assert_ptr_not_equal(ramet__weight_data(w), data + before); /* odd address: copied */
            else assert_ptr_equal(ramet__weight_data(w), data);
            assert_memory_equal(ramet__weight_data(w), data + before, bytes);
            assert_int_equal(ramet__weight_bytes(w), bytes);
            assert_string_equal(ramet__weight_name(w), "w");
            ramet__encoding_get((ramet__enc)e)->decode(want, data + before + bytes / 70 * 5, 2 * 96);
            ramet__weight_decode(got, w, 5, 7);
            assert_memory_equal(got, want, sizeof want);
            assert_int_equal(ramet__weight_check(w), RAMET_OK);
            ramet__weight *again = ramet__weight_retain(w);
            ramet__weight_free(w);
            assert_int_equal(ramet__weight_enc(again), e);
            ramet__weight_free(again);
            free(data);
        }
    }
    ramet__weight_free(NULL);
    ramet_runtime_free(rt);
}

static void first_rows_outlive_the_whole(void **state) {
    ramet_runtime *rt = runtime(2, 0);
    uint64_t bytes;
    uint8_t *data = rows_of(RAMET__ENC_Q8_0, &bytes, 0);
    ramet__reader *reader = memory(rt, data, bytes);
    ramet__weight *w = NULL, *first = NULL;
    float got[37 * 96], want[37 * 96];
    assert_int_equal(ramet__weight_from_reader(&w, rt, "w", RAMET__ENC_Q8_0, &shape, reader, 0), RAMET_OK);
    assert_int_equal(ramet__weight_first(&first, w, 37), RAMET_OK);
    ramet__reader_free(reader);
    ramet__weight_free(w);
    assert_int_equal(ramet__weight_shape(first)->dim[0], 37);
    assert_int_equal(ramet__weight_bytes(first), bytes / 70 * 37);
    assert_int_equal(ramet__weights_pack(&first, 1), RAMET_OK);
    ramet__weight_decode(got, first, 0, 37);
    ramet__encoding_get(RAMET__ENC_Q8_0)->decode(want, data, 37 * 96);
    assert_memory_equal(got, want, sizeof want);
    const ramet__product *p = ramet__weight_product(first, RAMET__EXACT);
    p->packing->decode(got, ramet__weight_packed(first), 37, 96, 36); /* the last row of the packing */
    assert_memory_equal(got, want + 36 * 96, 96 * sizeof *want);
    ramet__weight_free(first);
    ramet_runtime_free(rt);
    free(data);
}

static void packs_the_same_on_any_number_of_threads(void **state) {
    for (int e = 0; e < RAMET__ENC_COUNT && ramet__encoding_get((ramet__enc)e)->encode; e++) {
        uint8_t *first = NULL;
        for (int32_t threads = 1; threads <= 4; threads++) {
            ramet_runtime *rt = runtime(threads, 0);
            uint64_t bytes;
            uint8_t *data = rows_of((ramet__enc)e, &bytes, 0);
            ramet__reader *reader = memory(rt, data, bytes);
            ramet__weight *w = NULL;
            assert_int_equal(ramet__weight_from_reader(&w, rt, "w", (ramet__enc)e, &shape, reader, 0), RAMET_OK);
            assert_null(ramet__weight_packed(w));
            if (ramet__weights_pack(&w, 1)) fail_msg("%s", ramet_last_error());
            const void *packed = ramet__weight_packed(w);
            assert_int_equal(ramet__weights_pack(&w, 1), RAMET_OK);
            assert_ptr_equal(ramet__weight_packed(w), packed); /* made once */
            const ramet__packing *packing = ramet__weight_product(w, 1)->packing;
            assert_ptr_equal(packing, ramet__weight_product(w, 0)->packing);
            assert_int_equal(ramet__weight_product(w, RAMET__EXACT)->scheme->arithmetic, RAMET__EXACT);
            float got[96], want[96];
            for (int64_t row = 0; row < 70; row++) {
                packing->decode(got, packed, 70, 96, row);
                ramet__weight_decode(want, w, row, row + 1);
                assert_memory_equal(got, want, sizeof want);
            }
            if (packing->in_place) {
                assert_ptr_equal(packed, data);
            } else {
                uint64_t n = packing->bytes(70, 96);
                if (!first) { first = malloc(n); memcpy(first, packed, n); }
                assert_memory_equal(packed, first, n);
                uint8_t *back = calloc(1, bytes);
                packing->unpack(back, packed, 70, 96, 0, 70);
                assert_memory_equal(back, data, bytes);
                free(back);
            }
            ramet__weight_free(w);
            ramet__reader_free(reader);
            ramet_runtime_free(rt);
            free(data);
        }
        free(first);
    }
}

static void *pack_it(void *w) { return (void *)(intptr_t)ramet__weights_pack((ramet__weight **)&w, 1); }

static void two_threads_pack_once(void **state) {
    ramet_runtime *rt = runtime(2, 0);
    ramet__weight *w = NULL;
    const ramet__shape big = {2, {4096, 256}};
    uint64_t before, after;
    pthread_t thread[4];
    assert_int_equal(ramet__weight_new(&w, rt, "w", RAMET__ENC_Q4_0, &big), RAMET_OK);
    memset(ramet__weight_mutable(w), 0, ramet__weight_bytes(w));
    ramet_runtime_bytes(rt, &before, NULL);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&thread[i], NULL, pack_it, w), 0);
    for (int i = 0; i < 4; i++) {
        void *st = NULL;
        pthread_join(thread[i], &st);
        assert_null(st);
    }
    ramet_runtime_bytes(rt, &after, NULL);
    const ramet__packing *packing = ramet__weight_product(w, 0)->packing;
    uint64_t size = packing->in_place ? 0 : packing->bytes(4096, 256);
    assert_in_range(after - before, size, size + 4096); /* one copy, counted */
    ramet__weight_free(w);
    ramet_runtime_free(rt);
}

static void refuses_what_does_not_fit(void **state) {
    ramet_runtime *rt = runtime(1, 0);
    uint64_t bytes;
    uint8_t *data = rows_of(RAMET__ENC_Q8_0, &bytes, 0);
    ramet__reader *reader = memory(rt, data, bytes);
    ramet__weight *w = NULL;
    const ramet__shape odd = {2, {70, 95}}, huge = {3, {INT64_MAX, INT64_MAX, 32}}, negative = {1, {-32}};
    assert_int_equal(ramet__weight_from_reader(&w, rt, "w", RAMET__ENC_Q8_0, &shape, reader, 1), RAMET_E_FORMAT);
    assert_non_null(strstr(ramet_last_error(), "\"w\""));
    assert_int_equal(ramet__weight_from_reader(&w, rt, "w", RAMET__ENC_Q8_0, &shape, reader, UINT64_MAX), RAMET_E_FORMAT);
    assert_int_equal(ramet__weight_new(&w, rt, "w", RAMET__ENC_Q8_0, &odd), RAMET_E_INCONSISTENT);
    assert_int_equal(ramet__weight_new(&w, rt, "w", RAMET__ENC_Q8_0, &huge), RAMET_E_INCONSISTENT);
    assert_int_equal(ramet__weight_new(&w, rt, "w", RAMET__ENC_Q8_0, &negative), RAMET_E_INCONSISTENT);
    assert_int_equal(ramet__weight_new(&w, rt, "w", RAMET__ENC_COUNT, &shape), RAMET_E_ARGUMENT);
    assert_null(w);
    ramet__reader_free(reader);
    ramet_runtime_free(rt);
    free(data);
}

static void finds_the_row_that_is_not_finite(void **state) {
    ramet_runtime *rt = runtime(2, 0);
    ramet__weight *w = NULL;
    assert_int_equal(ramet__weight_new(&w, rt, "bad one", RAMET__ENC_F32, &(ramet__shape){2, {3000, 96}}), RAMET_OK);
    float *x = ramet__weight_mutable(w);
    assert_int_equal(ramet__weight_check(w), RAMET_OK);
    x[2345 * 96 + 95] = NAN;
    assert_int_equal(ramet__weight_check(w), RAMET_E_INCONSISTENT);
    assert_non_null(strstr(ramet_last_error(), "weight bad one "));
    assert_non_null(strstr(ramet_last_error(), "row 2345"));
    ramet__weight_free(w);
    ramet_runtime_free(rt);
}

static void a_budget_refuses_the_packing(void **state) {
    ramet_runtime *rt = runtime(1, 3 << 20);
    ramet__weight *w = NULL;
    const ramet__shape big = {2, {512, 1024}};
    assert_int_equal(ramet__weight_new(&w, rt, "w", RAMET__ENC_F32, &big), RAMET_OK); /* 2 MiB */
    ramet_status st = ramet__weights_pack(&w, 1);
    if (!st) assert_true(ramet__weight_product(w, 0)->packing->in_place); /* nothing to refuse */
    else assert_int_equal(st, RAMET_E_BUDGET);
    ramet__weight_free(w);
    assert_int_equal(ramet__weight_new(&w, rt, "w", RAMET__ENC_F32, &(ramet__shape){2, {1024, 1024}}), RAMET_E_BUDGET);
    ramet_runtime_free(rt);
}

static void packings_that_nobody_uses_make_room(void **state) {
    const ramet__shape big = {2, {512, 2048}};
    uint64_t packing = 0, before, now;
    for (int32_t measured = 0; measured < 2; measured++) { /* first without a budget: how large the packing is */
        ramet_runtime *rt = runtime(2, measured ? 2 * (2048 / 32 * 18 * 512) + packing * 3 / 2 : 0);
        ramet__weight *w[2] = {NULL, NULL};
        for (int i = 0; i < 2; i++) {
            assert_int_equal(ramet__weight_new(&w[i], rt, i ? "second" : "first", RAMET__ENC_Q4_0, &big), RAMET_OK);
            memset(ramet__weight_mutable(w[i]), 0x11 + i, ramet__weight_bytes(w[i]));
        }
        ramet_runtime_bytes(rt, &before, NULL);
        assert_int_equal(ramet__weights_pack(w, 1), RAMET_OK);
        ramet_runtime_bytes(rt, &now, NULL);
        packing = now - before;
        const ramet__packing *kind = ramet__weight_product(w[0], 0)->packing;
        if (kind->in_place) packing = 0;
        if (packing && measured) {
            uint8_t *first = malloc(packing);
            const uint64_t bytes = kind->bytes(512, 2048);
            memcpy(first, ramet__weight_packed(w[0]), bytes);
            assert_int_equal(ramet__weights_pack(&w[1], 1), RAMET_E_BUDGET);
            assert_memory_equal(ramet__weight_packed(w[0]), first, bytes); /* it is in use */
            ramet__weights_release(w, 1);
            assert_memory_equal(ramet__weight_packed(w[0]), first, bytes); /* and stays while nothing else is wanted */
            assert_int_equal(ramet__weights_pack(&w[1], 1), RAMET_OK);
            assert_null(ramet__weight_packed(w[0]));
            assert_int_equal(ramet__weights_pack(w, 2), RAMET_E_BUDGET);
            ramet__weights_release(&w[1], 1);
            assert_int_equal(ramet__weights_pack(w, 1), RAMET_OK); /* made again */
            assert_null(ramet__weight_packed(w[1]));
            assert_memory_equal(ramet__weight_packed(w[0]), first, bytes);
            free(first);
        }
        for (int i = 0; i < 2; i++) ramet__weight_free(w[i]);
        ramet_runtime_bytes(rt, &now, NULL);
        assert_true(now < before);
        ramet_runtime_free(rt);
    }
}

typedef struct failing { int64_t left; } failing;
static void *failing_alloc(void *ptr, size_t old_size, size_t new_size, size_t alignment, void *user) {
    failing *f = user;
    void *fresh = NULL;
    if (!new_size) { free(ptr); return NULL; }
    if (f->left-- <= 0 || posix_memalign(&fresh, alignment < sizeof(void *) ? sizeof(void *) : alignment, new_size)) return NULL;
    if (ptr) { memcpy(fresh, ptr, old_size < new_size ? old_size : new_size); free(ptr); }
    return fresh;
}

static void failing_allocations_leave_nothing(void **state) {
    uint64_t bytes, before, after;
    uint8_t *data = rows_of(RAMET__ENC_Q4_1, &bytes, 1);
    int done = 0;
    for (int64_t k = 0; !done; k++) {
        failing f = {INT64_MAX};
        ramet_runtime *rt = NULL;
        ramet_runtime_options o;
        ramet_runtime_options_init(&o, sizeof o);
        o.threads = 1;
        o.alloc = failing_alloc;
        o.alloc_user = &f;
        assert_int_equal(ramet_runtime_create(&rt, &o), RAMET_OK);
        ramet__reader *reader = memory(rt, data, bytes + 1);
        ramet_runtime_bytes(rt, &before, NULL);
        ramet__weight *w = NULL;
        f.left = k;
        ramet_status st = ramet__weight_from_reader(&w, rt, "w", RAMET__ENC_Q4_1, &shape, reader, 1); /* odd: copied */
        if (!st) st = ramet__weights_pack(&w, 1);
        if (st && st != RAMET_E_MEMORY) fail_msg("allocation %lld: %s", (long long)k, ramet_last_error());
        done = st == RAMET_OK;
        f.left = INT64_MAX;
        if (w) assert_int_equal(ramet__weights_pack(&w, 1), RAMET_OK); /* a failure is not remembered */
        ramet__weight_free(w);
        ramet_runtime_bytes(rt, &after, NULL);
        assert_int_equal(after, before);
        ramet__reader_free(reader);
        ramet_runtime_free(rt);
        assert_true(k < 100);
    }
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_the_pages_of_its_reader), cmocka_unit_test(first_rows_outlive_the_whole), cmocka_unit_test(packs_the_same_on_any_number_of_threads),
            cmocka_unit_test(two_threads_pack_once),
        cmocka_unit_test(refuses_what_does_not_fit), cmocka_unit_test(finds_the_row_that_is_not_finite),
            cmocka_unit_test(a_budget_refuses_the_packing),
        cmocka_unit_test(packings_that_nobody_uses_make_room),
        cmocka_unit_test(failing_allocations_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
