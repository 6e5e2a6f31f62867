/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors: what is refused, and how, by every way of reading; and that what is written reads back. */
#include "format/safetensors.h"
#include "support.h"

static ramet__mem *mem;
static int setup(void **state) { return ramet__mem_create(&mem, NULL, NULL, 0); }
static int teardown(void **state) {
    assert_all_freed(mem);
    ramet__mem_free(mem);
    remove(scratch_path());
    return 0;
}

static bytes build(const char *header, size_t n, uint64_t claimed, size_t data) {
    bytes b = {0};
    add64(&b, claimed);
    add(&b, header, n);
    for (size_t i = 0; i < data; i++) add8(&b, (uint8_t)i);
    return b;
}

static ramet_status open_bytes(const bytes *b, int way, ramet__safetensors **s) {
    ramet__reader *reader = open_way(mem, b, way);
    ramet_status st = ramet__safetensors_open(s, mem, reader);
    ramet__reader_free(reader);
    return st;
}

#define H(s) s, sizeof(s) - 1
#define ONE(fields) H("{\"a\":{" fields "}}")
#define F RAMET_E_FORMAT
#define L RAMET_E_LIMIT
#define U RAMET_E_UNSUPPORTED
static const char valid[] = "{\"__metadata__\":{\"format\":\"pt\",\"\":\"\"},\"b\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[16,24]},"
                            "\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},\"z\":{\"data_offsets\":[24,24],\"shape\":[0,7],\"dtype\":\"BF16\"}}   ";
static const struct { const char *what; const char *header; size_t n; size_t data; ramet_status status; const char *says; } rows[] = {
    {"valid", H(valid), 24, RAMET_OK, ""},
    {"empty", H("{}"), 0, RAMET_OK, ""},
    {"empty metadata", H("{\"__metadata__\":{}}"), 0, RAMET_OK, ""},
    {"spaces after it", H("{}      "), 0, RAMET_OK, ""},
    {"sub-byte type", ONE("\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]"), 2, RAMET_OK, ""},
    {"six bits", ONE("\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[0,3]"), 3, RAMET_OK, ""},
    {"rank 8", ONE("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,2],\"data_offsets\":[0,2]"), 2, RAMET_OK, ""},
    {"not an object", H("[]"), 0, F, "byte 8"},
    {"space before it", H(" {}"), 0, F, "byte 8"},
    {"only a brace", H("{"), 0, F, "byte 0"},
    {"bad UTF-8", H("{\"a\xff\":{}}"), 0, F, "byte 3"},
    {"NULs after it", H("{}\0\0\0\0\0\0"), 0, F, "byte 2"},
    {"text after it", H("{}{}"), 0, F, "byte 2"},
    {"tensor twice", H("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}"), 2, F, "twice"},
    {"metadata twice", H("{\"__metadata__\":{},\"__metadata__\":{}}"), 0, F, "twice"},
    {"metadata of a number", H("{\"__metadata__\":{\"k\":1}}"), 0, F, "metadata \"k\""},
    {"metadata of an object", H("{\"__metadata__\":{\"k\":{}}}"), 0, F, "metadata \"k\""},
    {"metadata no object", H("{\"__metadata__\":\"x\"}"), 0, F, "not an object"},
    {"deep", ONE("\"dtype\":\"U8\",\"shape\":[[[[[[[[1]]]]]]]],\"data_offsets\":[0,1]"), 1, F, "deeper"},
    {"deep enough", ONE("\"dtype\":\"U8\",\"shape\":[[1]],\"data_offsets\":[0,1]"), 1, F, "dimension"},
    {"unknown dtype", ONE("\"dtype\":\"F128\",\"shape\":[1],\"data_offsets\":[0,16]"), 16, U, "F128"},
    {"dtype in small letters", ONE("\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, U, "f32"},
    {"dtype a number", ONE("\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]"), 4, F, "byte"},
    {"no dtype", ONE("\"shape\":[1],\"data_offsets\":[0,4]"), 4, F, "fields"},
    {"no shape", ONE("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), 4, F, "fields"},
    {"no offsets", ONE("\"dtype\":\"F32\",\"shape\":[1]"), 4, F, "fields"},
    {"one field more", ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":0"), 4, F, "fields"},
    {"tensor no object", H("{\"a\":1}"), 0, F, "not an object"},
    {"shape no array", ONE("\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]"), 4, F, "array"},
    {"float dimension", ONE("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]"), 4, F, "dimension"},
    {"negative dimension", ONE("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4, F, "dimension"},
    {"negative zero", ONE("\"dtype\":\"F32\",\"shape\":[-0],\"data_offsets\":[0,0]"), 0, F, "dimension"},
    {"exponent dimension", ONE("\"dtype\":\"F32\",\"shape\":[1e0],\"data_offsets\":[0,4]"), 4, F, "dimension"},
    {"huge dimension", ONE("\"dtype\":\"F32\",\"shape\":[18446744073709551617],\"data_offsets\":[0,4]"), 4, F, "dimension"},
    {"product wraps", ONE("\"dtype\":\"U8\",\"shape\":[4194305,4194305,211106198978564],\"data_offsets\":[0,4]"), 4, F, "2^63"},
    {"product hidden by a zero", ONE("\"dtype\":\"U8\",\"shape\":[4611686018427387904,4,0],\"data_offsets\":[0,0]"), 0, F, "2^63"},
    {"bits wrap", ONE("\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]"), 0, F, "2^57"},
    {"odd count of half bytes", ONE("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]"), 2, F, "whole bytes"},
    {"rank 9", ONE("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]"), 1, L, "rank 9"},
    {"first offset not 0", ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]"), 2, F, "gap"},
    {"gap", H("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}"), 3, F, "gap"},
    {"overlap", H("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}"), 3, F, "overlap"},
    {"end before begin", ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,1]"), 2, F, "before it begins"},
    {"range unlike the shape", ONE("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"), 4, F, "want 8"},
    {"one offset", ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]"), 1, F, "two"},
    {"three offsets", ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]"), 1, F, "two"},
    {"negative offset", ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]"), 1, F, "two"},
    {"offset past the end", ONE("\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]"), 3, F, "after the file"},
    {"trailing bytes", ONE("\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]"), 5, F, "1 bytes follow"},
    {"trailing bytes of nothing", H("{}"), 1, F, "follow"},
    {"name with NUL", H("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}"), 1, F, "NUL"},
};

static void check(const bytes *b, const char *what, ramet_status status, const char *says) {
    char first[1024] = "";
    for (int way = b->n ? 0 : 1; way < WAYS; way++) {
        ramet__safetensors *s = NULL;
        ramet_status st = open_bytes(b, way, &s);
        if (st != status) fail_msg("%s by %s: %s (%s)", what, way_names[way], ramet_status_name(st), st ? ramet_last_error() : "");
        assert_true((s == NULL) == (st != RAMET_OK));
        ramet__safetensors_free(s);
        if (!st) continue;
        const char *m = ramet_last_error(), *at = strstr(m, "safetensors: ");
        if (!at || !strstr(m, says) || !strstr(m, "byte")) fail_msg("%s by %s: the message is \"%s\"", what, way_names[way], m);
        if (!*first) snprintf(first, sizeof first, "%s", at);
        else assert_string_equal(at, first);
    }
}

static void answers_as_the_table_says(void **state) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bytes b = build(rows[i].header, rows[i].n, rows[i].n, rows[i].data);
        check(&b, rows[i].what, rows[i].status, rows[i].says);
        free(b.data);
    }
    static const struct { const char *what; uint64_t claimed; } lengths[] = {{"2^64-1", UINT64_MAX}, {"100,000,001", 100000001},
            {"past the file", 3}, {"0", 0}, {"wraps", UINT64_MAX - 7}};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        bytes b = build("{}", 2, lengths[i].claimed, 0);
        check(&b, lengths[i].what, F, "byte 0");
        free(b.data);
    }
}

static void every_truncation_is_an_error(void **state) {
    bytes b = build(valid, sizeof valid - 1, sizeof valid - 1, 24);
    for (size_t n = 0; n < b.n; n++) {
        bytes cut = {malloc(n + !n), n};
        memcpy(cut.data, b.data, n);
        for (int way = n ? 0 : 1; way < (n % 16 ? 2 : WAYS); way++) {
            ramet__safetensors *s = NULL;
            if (open_bytes(&cut, way, &s) != F || s) fail_msg("cut to %zu by %s", n, way_names[way]);
        }
        free(cut.data);
    }
    free(b.data);
}

static void reads_tensors_and_metadata(void **state) {
    bytes b = build(valid, sizeof valid - 1, sizeof valid - 1, 24);
    for (int way = 0; way < WAYS; way++) {
        ramet__safetensors *s = NULL;
        uint8_t data[16];
        if (open_bytes(&b, way, &s)) fail_msg("%s", ramet_last_error());
        assert_int_equal(s->n_tensors, 3);
        assert_string_equal(s->tensors[0].name, "a"); /* by offset */
        assert_string_equal(s->tensors[1].name, "b");
        assert_int_equal(s->n_meta, 2);
        assert_string_equal(ramet__safetensors_meta(s, "format"), "pt");
        assert_string_equal(ramet__safetensors_meta(s, ""), "");
        assert_null(ramet__safetensors_meta(s, "x"));
        const ramet__st_tensor *a = ramet__safetensors_find(s, "a"), *z = ramet__safetensors_find(s, "z");
        assert_int_equal(a->dtype, RAMET__ST_F32);
        assert_int_equal(a->rank, 2);
        assert_int_equal(a->dim[1], 2);
        assert_int_equal(a->offset, 8 + sizeof valid - 1);
        assert_int_equal(z->bytes, 0);
        assert_string_equal(z->dtype_name, "BF16");
        assert_null(ramet__safetensors_find(s, "__metadata__"));
        assert_int_equal(ramet__safetensors_read(s, a, data, 16), RAMET_OK);
        for (int i = 0; i < 16; i++) assert_int_equal(data[i], i);
        assert_int_equal(ramet__safetensors_read(s, a, data, 12), RAMET_E_INCONSISTENT);
        ramet__safetensors_free(s);
    }
    free(b.data);
}

static void too_many_tensors_are_refused(void **state) {
    enum { N = RAMET__ST_MAX_TENSORS + 1 };
    bytes b = {malloc(8 + 2 + (size_t)N * 13), 0};
    char *p = (char *)b.data + 8;
    for (int i = 0; i < N; i++) p += sprintf(p, "%c\"%07d\":0", i ? ',' : '{', i);
    *p++ = '}';
    b.n = (size_t)(p - (char *)b.data);
    uint64_t n = b.n - 8;
    memcpy(b.data, &n, 8);
    ramet__safetensors *s = NULL;
    assert_int_equal(open_bytes(&b, BY_MEMORY, &s), L);
    free(b.data);
}

static void failing_allocations_leave_nothing(void **state) {
    bytes b = build(valid, sizeof valid - 1, sizeof valid - 1, 24);
    int done = 0;
    for (int64_t k = 0; !done; k++) {
        failing f = {INT64_MAX};
        ramet__mem *small = NULL;
        ramet__safetensors *s = NULL;
        assert_int_equal(ramet__mem_create(&small, failing_alloc, &f, 0), RAMET_OK);
        ramet__reader *reader = open_way(small, &b, BY_BYTE_READS);
        f.left = k;
        ramet_status st = ramet__safetensors_open(&s, small, reader);
        if (st && st != RAMET_E_MEMORY) fail_msg("allocation %lld: %s", (long long)k, ramet_last_error());
        done = st == RAMET_OK;
        ramet__safetensors_free(s);
        ramet__reader_free(reader);
        assert_all_freed(small);
        ramet__mem_free(small);
        assert_true(k < 1000);
    }
    free(b.data);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

static void writes_what_it_reads(void **state) {
    ramet__st_writer *w = NULL;
    const int64_t dim[2] = {2, 3}, zero[2] = {0, 5};
    const float x[6] = {1, 2, 3, 4, 5, 6};
    const uint8_t u[3] = {7, 8, 9};
    assert_int_equal(ramet__st_writer_open(&w, mem, scratch_path()), RAMET_OK);
    assert_int_equal(ramet__st_meta(w, "k\"1", "a\nb"), RAMET_OK);
    assert_int_equal(ramet__st_meta(w, "k2", ""), RAMET_OK);
    assert_int_equal(ramet__st_declare(w, "empty", RAMET__ST_I8, 2, zero), RAMET_OK);
    assert_int_equal(ramet__st_declare(w, "x", RAMET__ST_F32, 2, dim), RAMET_OK);
    assert_int_equal(ramet__st_declare(w, "u", RAMET__ST_U8, 1, (const int64_t[]){3}), RAMET_OK);
    assert_int_equal(ramet__st_declare(w, "s", RAMET__ST_U8, 0, NULL), RAMET_OK);
    assert_int_equal(ramet__st_data(w, x, 8), RAMET_OK);
    assert_int_equal(ramet__st_data(w, x + 2, 16), RAMET_OK);
    assert_int_equal(ramet__st_data(w, u, 3), RAMET_OK);
    assert_int_equal(ramet__st_data(w, u, 1), RAMET_OK);
    if (ramet__st_writer_commit(&w)) fail_msg("%s", ramet_last_error());
    assert_null(w);
    ramet_source source;
    ramet__reader *reader = NULL;
    ramet__safetensors *s = NULL;
    float got[6];
    ramet_source_from_path(&source, sizeof source, scratch_path());
    assert_int_equal(ramet__reader_open(&reader, mem, &source), RAMET_OK);
    if (ramet__safetensors_open(&s, mem, reader)) fail_msg("%s", ramet_last_error());
    assert_int_equal(s->n_tensors, 4);
    assert_string_equal(ramet__safetensors_meta(s, "k\"1"), "a\nb");
    assert_int_equal(ramet__safetensors_read(s, ramet__safetensors_find(s, "x"), got, sizeof got), RAMET_OK);
    assert_memory_equal(got, x, sizeof x);
    assert_int_equal(ramet__safetensors_find(s, "x")->offset % 64, 0); /* aligned when mapped */
    assert_int_equal(ramet__safetensors_find(s, "s")->rank, 0);
    ramet__safetensors_free(s);
    ramet__reader_free(reader);
}

static void misuse_of_the_writer_is_refused(void **state) {
    ramet__st_writer *w = NULL;
    const int64_t three[1] = {3}, negative[1] = {-3}, huge[3] = {INT64_MAX, INT64_MAX, 2};
    remove(scratch_path());
    assert_int_equal(ramet__st_writer_open(&w, mem, scratch_path()), RAMET_OK);
    assert_int_equal(ramet__st_declare(w, "a", RAMET__ST_OTHER, 1, three), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__st_declare(w, "a", RAMET__ST_U8, 9, huge), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__st_declare(w, "a", RAMET__ST_U8, 1, negative), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__st_declare(w, "a", RAMET__ST_U8, 3, huge), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__st_declare(w, "__metadata__", RAMET__ST_U8, 1, three), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__st_declare(w, "a\xff", RAMET__ST_U8, 1, three), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__st_declare(w, "a", RAMET__ST_U8, 1, three), RAMET_OK);
    assert_int_equal(ramet__st_data(w, "abcd", 4), RAMET_E_STATE);
    assert_int_equal(ramet__st_data(w, "ab", 2), RAMET_OK);
    assert_int_equal(ramet__st_meta(w, "late", ""), RAMET_E_STATE);
    assert_int_equal(ramet__st_declare(w, "late", RAMET__ST_U8, 1, three), RAMET_E_STATE);
    assert_int_equal(ramet__st_writer_commit(&w), RAMET_E_STATE);
    assert_null(w);
    assert_int_equal(ramet__path_kind(scratch_path()), 0);
    assert_int_equal(ramet__st_writer_open(&w, mem, scratch_path()), RAMET_OK);
    assert_int_equal(ramet__st_declare(w, "a", RAMET__ST_U8, 1, three), RAMET_OK);
    assert_int_equal(ramet__st_declare(w, "a", RAMET__ST_U8, 1, three), RAMET_OK);
    assert_int_equal(ramet__st_data(w, "abc", 3), RAMET_E_ARGUMENT);
    ramet__st_writer_drop(&w);
    assert_int_equal(ramet__path_kind(scratch_path()), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_as_the_table_says), cmocka_unit_test(every_truncation_is_an_error),
            cmocka_unit_test(reads_tensors_and_metadata),
        cmocka_unit_test(too_many_tensors_are_refused), cmocka_unit_test(failing_allocations_leave_nothing),
            cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(misuse_of_the_writer_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
