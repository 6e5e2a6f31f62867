/* SPDX-License-Identifier: Apache-2.0 */
/* JSON: what RFC 8259 allows is read, everything else is answered with an offset, and hostile sizes stay cheap. */
#include "format/json.h"
#include "support.h"
#include <locale.h>
#include <math.h>
#include <time.h>

static ramet__mem *mem;
static int setup(void **state) { return ramet__mem_create(&mem, NULL, NULL, 0); }
static int teardown(void **state) { /* everything a parse took is given back, failures included */
    assert_all_freed(mem);
    ramet__mem_free(mem);
    return 0;
}

static const ramet__json *parse(ramet__arena *arena, const char *text) {
    const ramet__json *v = NULL;
    arena->mem = mem;
    if (ramet__json_parse(&v, arena, text, strlen(text), NULL)) fail_msg("%s: %s", text, ramet_last_error());
    return v;
}

static void reads_every_kind_of_value(void **state) {
    ramet__arena arena = {0};
    const ramet__json *v = parse(&arena,
                                 " {\"a\": [1, -2.5e1, true, false, null, \"x\\n\\u00e9\\ud83d\\ude00\\/\\\"\"], \"b\":{}, \"c\" : [ ] ,\"\": 0}\n");
    assert_int_equal(v->type, RAMET__JSON_OBJECT);
    assert_int_equal(v->len, 4);
    assert_string_equal(v->keys[0], "a");
    assert_string_equal(v->keys[3], "");
    const ramet__json *a = ramet__json_get(v, "a");
    assert_int_equal(a->type, RAMET__JSON_ARRAY);
    assert_int_equal(a->len, 6);
    assert_true(a->items[0].is_integer && a->items[0].integer == 1);
    assert_true(!a->items[1].is_integer && a->items[1].number == -25);
    assert_true(a->items[2].type == RAMET__JSON_BOOL && a->items[2].integer == 1);
    assert_true(a->items[3].type == RAMET__JSON_BOOL && a->items[3].integer == 0);
    assert_int_equal(a->items[4].type, RAMET__JSON_NULL);
    assert_string_equal(a->items[5].text, "x\n\xc3\xa9\xf0\x9f\x98\x80/\"");
    assert_int_equal(a->items[5].len, 10);
    assert_int_equal(a->offset, 7);
    assert_int_equal(ramet__json_get(v, "b")->len, 0);
    assert_int_equal(ramet__json_get(v, "c")->len, 0);
    assert_null(ramet__json_get(v, "d"));
    assert_null(ramet__json_get(a, "a"));
    assert_null(ramet__json_get(NULL, "a"));
    ramet__arena_free(&arena);
}

static void reads_numbers(void **state) {
    static const struct { const char *text; int32_t integer; int64_t i; double f; } rows[] = {
        {"0", 1, 0, 0}, {"-0", 1, 0, -0.0}, {"9223372036854775807", 1, INT64_MAX, 0x1p63},
            {"-9223372036854775808", 1, INT64_MIN, -0x1p63},
        {"9223372036854775808", 0, 0, 0x1p63}, {"-9223372036854775809", 0, 0, -0x1p63}, {"99999999999999999999999", 0, 0, 1e23},
            {"1.0", 0, 0, 1},
        {"1e2", 0, 0, 100}, {"0.1", 0, 0, 0.1}, {"1e-400", 0, 0, 0}, {"5e-324", 0, 0, 0x1p-1074},
            {"1.7976931348623157E+308", 0, 0, 0x1.fffffffffffffp1023},
        {"9007199254740993.0", 0, 0, 9007199254740992.0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ramet__arena arena = {0};
        const ramet__json *v = parse(&arena, rows[i].text);
        assert_int_equal(v->is_integer, rows[i].integer);
        if (rows[i].integer) assert_true(v->integer == rows[i].i);
        if (v->number != rows[i].f || signbit(v->number) != signbit(rows[i].f)) fail_msg("%s reads as %a", rows[i].text, v->number);
        ramet__arena_free(&arena);
    }
}

static void ignores_the_locale(void **state) {
    ramet__arena arena = {0};
    ramet__text text = {.mem = mem};
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "de_DE")) skip();
    assert_true(parse(&arena, "1.5")->number == 1.5);
    ramet__json_number(&text, 0.1);
    setlocale(LC_NUMERIC, "C");
    assert_string_equal(text.data, "0.1");
    ramet__text_free(&text);
    ramet__arena_free(&arena);
}

#define TEXT(s) s, sizeof(s) - 1
static void refuses_what_is_not_json(void **state) {
    static const struct { const char *text; size_t n; ramet_status status; const char *says; } rows[] = {
        {TEXT(""), RAMET_E_FORMAT, "byte 0"}, {TEXT("  "), RAMET_E_FORMAT, "byte 2"}, {TEXT("{"), RAMET_E_FORMAT, "byte 1"},
            {TEXT("["), RAMET_E_FORMAT, "byte 1"},
        {TEXT("[1"), RAMET_E_FORMAT, "byte 2"}, {TEXT("[1,]"), RAMET_E_FORMAT, "byte 3"}, {TEXT("[,1]"), RAMET_E_FORMAT, "byte 1"},
            {TEXT("[1 2]"), RAMET_E_FORMAT, "byte 3"},
        {TEXT("[1}"), RAMET_E_FORMAT, "byte 2"}, {TEXT("{\"a\":1]"), RAMET_E_FORMAT, "byte 6"},
            {TEXT("{\"a\" 1}"), RAMET_E_FORMAT, "byte 5"},
        {TEXT("{\"a\":1,}"), RAMET_E_FORMAT, "byte 7"}, {TEXT("{a:1}"), RAMET_E_FORMAT, "byte 1"},
            {TEXT("{1:1}"), RAMET_E_FORMAT, "byte 1"}, {TEXT("{\"a\":}"), RAMET_E_FORMAT, "byte 5"},
        {TEXT("]"), RAMET_E_FORMAT, "byte 0"}, {TEXT("1 1"), RAMET_E_FORMAT, "byte 2"}, {TEXT("{}\0"), RAMET_E_FORMAT, "byte 2"},
            {TEXT("\xef\xbb\xbf{}"), RAMET_E_FORMAT, "byte 0"},
        {TEXT("nul"), RAMET_E_FORMAT, "byte 0"}, {TEXT("True"), RAMET_E_FORMAT, "byte 0"}, {TEXT("NaN"), RAMET_E_FORMAT, "byte 0"},
            {TEXT("-Infinity"), RAMET_E_FORMAT, "byte 0"},
        {TEXT("01"), RAMET_E_FORMAT, "byte 0"}, {TEXT("-01"), RAMET_E_FORMAT, "byte 0"}, {TEXT("+1"), RAMET_E_FORMAT, "byte 0"},
            {TEXT("1."), RAMET_E_FORMAT, "byte 0"}, {TEXT(".5"), RAMET_E_FORMAT, "byte 0"},
        {TEXT("1e"), RAMET_E_FORMAT, "byte 0"}, {TEXT("1e+"), RAMET_E_FORMAT, "byte 0"}, {TEXT("0x10"), RAMET_E_FORMAT, "byte 1"},
            {TEXT("1e999"), RAMET_E_LIMIT, "byte 0"},
        {TEXT("/**/1"), RAMET_E_FORMAT, "byte 0"}, {TEXT("'a'"), RAMET_E_FORMAT, "byte 0"}, {TEXT("\"a"), RAMET_E_FORMAT, "byte 0"},
            {TEXT("\"a\\"), RAMET_E_FORMAT, "byte 0"},
        {TEXT("\"\t\""), RAMET_E_FORMAT, "byte 1"}, {TEXT("\"\0\""), RAMET_E_FORMAT, "byte 1"},
            {TEXT("\"\\x\""), RAMET_E_FORMAT, "byte 1"}, {TEXT("\"\\u12\""), RAMET_E_FORMAT, "byte 1"},
        {TEXT("\"\\u12g4\""), RAMET_E_FORMAT, "byte 1"}, {TEXT("\"a\\ud800\""), RAMET_E_FORMAT, "byte 2"},
            {TEXT("\"\\udc00\""), RAMET_E_FORMAT, "byte 1"},
        {TEXT("\"\\ud800\\u0041\""), RAMET_E_FORMAT, "byte 1"}, {TEXT("\"\\ud800\\ud800\""), RAMET_E_FORMAT, "byte 1"},
            {TEXT("\"\\ud800x\\udc00\""), RAMET_E_FORMAT, "byte 1"},
        {TEXT("\"\xff\""), RAMET_E_FORMAT, "byte 1"}, {TEXT("\"\xc0\x80\""), RAMET_E_FORMAT, "byte 1"},
            {TEXT("\"a\xed\xa0\x80\""), RAMET_E_FORMAT, "byte 2"},
        {TEXT("\"\xf4\x90\x80\x80\""), RAMET_E_FORMAT, "byte 1"}, {TEXT("\"\xe2\x82\""), RAMET_E_FORMAT, "byte 1"},
        {TEXT("{\"a\":1,\"a\":2}"), RAMET_E_FORMAT, "byte 7"}, {TEXT("{\"a\":1,\"\\u0061\":2}"), RAMET_E_FORMAT, "\"a\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ramet__arena arena = {.mem = mem};
        const ramet__json *v = NULL;
        char *exact = malloc(rows[i].n + !rows[i].n); /* no byte behind it: the sanitizers see reading past the end */
        memcpy(exact, rows[i].text, rows[i].n);
        ramet_status st = ramet__json_parse(&v, &arena, exact, rows[i].n, NULL);
        if (st != rows[i].status || v || !strstr(ramet_last_error(), rows[i].says))
            fail_msg("row %zu `%s`: %s \"%s\", wanted \"%s\"", i, rows[i].text, ramet_status_name(st), ramet_last_error(),
                     rows[i].says);
        free(exact);
        ramet__arena_free(&arena);
    }
}

static void every_truncation_is_an_error(void **state) {
    static const char text[] = "{\"a\":[1,{\"b\":\"\\ud83d\\ude00\\\\\"},true],\"c\":null,\"d\":{\"e\":-1.5e3}}";
    for (size_t n = 0; n < sizeof text - 1; n++) {
        ramet__arena arena = {.mem = mem};
        const ramet__json *v = NULL;
        char *exact = malloc(n + !n);
        memcpy(exact, text, n);
        assert_int_equal(ramet__json_parse(&v, &arena, exact, n, NULL), RAMET_E_FORMAT);
        free(exact);
        ramet__arena_free(&arena);
    }
}

static void nesting_is_bounded(void **state) {
    enum { DEEP = 100000 };
    char *text = malloc(2 * DEEP);
    ramet__json_limits limits = {.depth = 3, .too_deep = RAMET_E_FORMAT};
    for (int object = 0; object < 2; object++) {
        ramet__arena arena = {.mem = mem};
        const ramet__json *v = NULL;
        memset(text, '[', DEEP);
        memset(text + DEEP, ']', DEEP);
        assert_int_equal(ramet__json_parse(&v, &arena, text, 2 * DEEP, NULL), RAMET_E_LIMIT);
        assert_non_null(strstr(ramet_last_error(), "byte 64"));
        assert_int_equal(ramet__json_parse(&v, &arena, text + DEEP - 64, 128, NULL), RAMET_OK);
        assert_int_equal(ramet__json_parse(&v, &arena, text + DEEP - 4, 8, &limits), RAMET_E_FORMAT);
        assert_int_equal(ramet__json_parse(&v, &arena, text + DEEP - 3, 6, &limits), RAMET_OK);
        ramet__arena_free(&arena);
    }
    free(text);
    ramet__arena arena = {.mem = mem};
    const ramet__json *v = NULL;
    limits = (ramet__json_limits){.values = 3};
    assert_int_equal(ramet__json_parse(&v, &arena, "[1,2]", 5, &limits), RAMET_OK);
    assert_int_equal(ramet__json_parse(&v, &arena, "[1,2,3]", 7, &limits), RAMET_E_LIMIT);
    ramet__arena_free(&arena);
}

static void large_objects_are_quick(void **state) {
    enum { KEYS = 262144 };
    ramet__text text = {.mem = mem};
    ramet__text_add(&text, "{");
    for (int i = 0; i < KEYS; i++) ramet__text_add(&text, "%s\"key %d\":%d", i ? "," : "", i, i);
    ramet__text_add(&text, "}");
    ramet__arena arena = {.mem = mem};
    const ramet__json *v = NULL;
    clock_t begin = clock();
    assert_int_equal(ramet__json_parse(&v, &arena, text.data, text.len, NULL), RAMET_OK);
    for (int i = 0; i < KEYS; i++) {
        char key[32];
        snprintf(key, sizeof key, "key %d", i);
        assert_int_equal(ramet__json_get(v, key)->integer, i);
    }
    assert_null(ramet__json_get(v, "key"));
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    if (seconds > 20) fail_msg("262144 keys took %.1f s: that is quadratic", seconds); /* 0.2 s; a square would be minutes */
    text.data[text.len - 1] = ',';
    ramet__text_add(&text, "\"key 77\":0}");
    assert_int_equal(ramet__json_parse(&v, &arena, text.data, text.len, NULL), RAMET_E_FORMAT);
    assert_non_null(strstr(ramet_last_error(), "\"key 77\""));
    ramet__arena_free(&arena);
    ramet__text_free(&text);
}

static void getters_name_what_is_wrong(void **state) {
    ramet__arena arena = {0};
    const ramet__json *v = parse(&arena,
                                 "{\"i\":3,\"f\":2.5,\"s\":\"x\",\"n\":null,\"nul\":\"a\\u0000b\",\"big\":9223372036854775808}");
    int64_t i = 0;
    double f = 0;
    const char *s = NULL;
    assert_int_equal(ramet__json_i64(&i, v, "i", 7), RAMET_OK);
    assert_int_equal(i, 3);
    assert_int_equal(ramet__json_i64(&i, v, "n", 7), RAMET_OK);
    assert_int_equal(i, 7);
    assert_int_equal(ramet__json_i64(&i, v, "absent", 8), RAMET_OK);
    assert_int_equal(i, 8);
    assert_int_equal(ramet__json_i64(&i, v, "f", 7), RAMET_E_FORMAT);
    assert_non_null(strstr(ramet_last_error(), "\"f\""));
    assert_non_null(strstr(ramet_last_error(), "byte 11"));
    assert_int_equal(ramet__json_i64(&i, v, "big", 7), RAMET_E_FORMAT);
    assert_int_equal(ramet__json_i64(&i, v, "s", 7), RAMET_E_FORMAT);
    assert_int_equal(i, 8);
    assert_int_equal(ramet__json_f64(&f, v, "i", 0), RAMET_OK);
    assert_true(f == 3);
    assert_int_equal(ramet__json_f64(&f, v, "s", 0), RAMET_E_FORMAT);
    assert_int_equal(ramet__json_string(&s, v, "s", NULL), RAMET_OK);
    assert_string_equal(s, "x");
    assert_int_equal(ramet__json_string(&s, v, "i", NULL), RAMET_E_FORMAT);
    assert_int_equal(ramet__json_string(&s, v, "nul", NULL), RAMET_E_FORMAT);
    assert_int_equal(ramet__json_get(v, "nul")->len, 3);
    ramet__arena_free(&arena);
}

static void writes_what_it_reads(void **state) {
    static const char nasty[] = "a\"\\\n\t\r\x01\x7f\0\xc3\xa9\xff\xf0\x9f\x98\x80\xe2\x82";
    static const char want[] = "a\"\\\n\t\r\x01\x7f\0\xc3\xa9\xef\xbf\xbd\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbd";
    static const double numbers[] = {0, -0.0, 1, 0.1, 1.0 / 3, 1e300, 5e-324, 123456789012345678.0, -2.5};
    ramet__text text = {.mem = mem};
    ramet__text_add(&text, "[");
    ramet__json_quote(&text, nasty, sizeof nasty - 1);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        ramet__text_add(&text, ",");
        ramet__json_number(&text, numbers[i]);
    }
    ramet__text_add(&text, ",");
    ramet__json_number(&text, NAN);
    ramet__text_add(&text, "]");
    ramet__arena arena = {0};
    const ramet__json *v = parse(&arena, text.data);
    assert_int_equal(v->items[0].len, sizeof want - 1);
    assert_memory_equal(v->items[0].text, want, sizeof want - 1);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) assert_true(v->items[1 + i].number == numbers[i]);
    assert_int_equal(v->items[v->len - 1].type, RAMET__JSON_NULL);
    assert_non_null(strstr(text.data, ",0.1,"));
    ramet__arena_free(&arena);
    ramet__text_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_kind_of_value), cmocka_unit_test(reads_numbers), cmocka_unit_test(ignores_the_locale),
            cmocka_unit_test(refuses_what_is_not_json),
        cmocka_unit_test(every_truncation_is_an_error), cmocka_unit_test(nesting_is_bounded),
            cmocka_unit_test(large_objects_are_quick),
        cmocka_unit_test(getters_name_what_is_wrong), cmocka_unit_test(writes_what_it_reads),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
