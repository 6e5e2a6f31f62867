/* SPDX-License-Identifier: Apache-2.0 */
#include "base_test.h"
#include "base/alloc.h"
#include <locale.h>
#include <errno.h>
#include <pthread.h>

static void test_status_names_are_pinned(void **state) {
    static const struct { ramet_status status; const char *name; } pinned[] = {
        {0, "RAMET_OK"}, {-1, "RAMET_E_ARGUMENT"}, {-2, "RAMET_E_MEMORY"}, {-3, "RAMET_E_BUDGET"}, {-4, "RAMET_E_IO"},
        {-5, "RAMET_E_FORMAT"}, {-6, "RAMET_E_LIMIT"}, {-7, "RAMET_E_UNSUPPORTED"}, {-8, "RAMET_E_INCONSISTENT"},
        {-9, "RAMET_E_CANCELLED"}, {-10, "RAMET_E_STATE"}, {-11, "RAMET_E_NOT_FOUND"}, {-12, "RAMET_E_REFUSED"},
        {-13, "RAMET_E_NUMERIC"}, {-14, "RAMET_E_FORK"}, {-15, "RAMET_E_INTERNAL"},
    };
    for (int32_t i = 0; i < RAMET__COUNT(pinned); i++) assert_string_equal(ramet_status_name(pinned[i].status), pinned[i].name);
    assert_string_equal(ramet_status_name(1), "unknown");
    assert_string_equal(ramet_status_name(-16), "unknown");
    assert_string_equal(ramet_status_name(INT32_MIN), "unknown");
}

static void test_version_text_and_number_agree(void **state) {
    char text[32];
    const uint32_t v = ramet_version();
    snprintf(text, sizeof text, "%u.%u.%u", v >> 16, v >> 8 & 255, v & 255);
    assert_string_equal(text, ramet_version_string());
    assert_int_equal(v >> 16, RAMET_VERSION_MAJOR);
}

static void test_message_is_one_clean_line(void **state) {
    assert_int_equal(ramet__fail(RAMET_E_FORMAT, "name \"%s\" at %d", "a\nb\x1b", 7), RAMET_E_FORMAT);
    assert_string_equal(ramet_last_error(), "name \"a b \" at 7");
}

static void test_message_may_contain_the_last_message(void **state) {
    ramet__fail(RAMET_E_IO, "inner");
    ramet__fail(RAMET_E_IO, "outer: %s", ramet_last_error());
    assert_string_equal(ramet_last_error(), "outer: inner");
    assert_int_equal(ramet__prefix(RAMET_E_FORMAT, "%s: ", "m.gguf"), RAMET_E_FORMAT);
    assert_string_equal(ramet_last_error(), "m.gguf: outer: inner");
}

static void test_long_message_is_cut_between_characters(void **state) {
    for (size_t lead = 0; lead < 4; lead++) { /* whatever the cut hits: no half character at the end */
        char text[4001] = "xxx";
        for (size_t i = lead; i + 3 < sizeof text; i += 3) memcpy(text + i, "\xE2\x82\xAC", 3);
        ramet__fail(RAMET_E_IO, "%s", text);
        const char *m = ramet_last_error();
        const size_t n = strlen(m);
        assert_in_range(n, 1000, 1023);
        assert_memory_equal(m, text, n);
        assert_int_equal((n - lead) % 3, 0);
        for (int i = 0; i < 50; i++) ramet__prefix(RAMET_E_IO, "%s", text); /* stays inside its buffer */
        assert_in_range(strlen(ramet_last_error()), 1000, 1023);
    }
}

static void test_errno_picks_the_status(void **state) {
    assert_fails(ramet__fail_errno(ENOENT, "%s", "f"), RAMET_E_NOT_FOUND, "f: No such file");
    assert_fails(ramet__fail_errno(ENOSPC, "f"), RAMET_E_IO, "No space left");
    assert_fails(ramet__fail_errno(ENOMEM, "f"), RAMET_E_MEMORY, "f: ");
    assert_fails(ramet__fail_errno(123456, "f"), RAMET_E_IO, "f: ");
}

static void *other_thread(void *arg) {
    const int empty = ramet_last_error()[0] == 0;
    ramet__fail(RAMET_E_IO, "other");
    *(int *)arg = empty && strcmp(ramet_last_error(), "other") == 0;
    return NULL;
}

static void test_message_belongs_to_its_thread(void **state) {
    pthread_t thread;
    int good = 0;
    ramet__fail(RAMET_E_IO, "mine");
    assert_int_equal(pthread_create(&thread, NULL, other_thread, &good), 0);
    pthread_join(thread, NULL);
    assert_true(good);
    assert_string_equal(ramet_last_error(), "mine");
}

static void test_numbers_do_not_follow_the_locale(void **state) {
    static const struct { const char *text; double value; int32_t used; } rows[] = {
        {"1.5", 1.5, 3}, {"-.25e2;x", -25, 6}, {"0x1.8p+3", 12, 8}, {"2,pad=1", 2, 1}, {"x", 0, 0}, {"", 0, 0}, {"nan", 0, 0}, {"inf", 0, 0},
        {"0000000000000000000000000000000000000000000000000000000000000001", 0, 0}};
    (void)state;
    for (int32_t comma = 0; comma < 2; comma++) {
        if (comma && !setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "de_DE")) break;
        for (int32_t i = 0; i < RAMET__COUNT(rows); i++) {
            char *end, printed[32];
            const double value = ramet__number(rows[i].text, &end);
            if (value != rows[i].value || end - rows[i].text != rows[i].used) fail_msg("%s reads as %g, %d bytes", rows[i].text, value, (int)(end - rows[i].text));
            snprintf(printed, sizeof printed, "%.9g", 0.5);
            ramet__number_point(printed);
            assert_string_equal(printed, "0.5");
        }
    }
    setlocale(LC_NUMERIC, "C");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_names_are_pinned),
        cmocka_unit_test(test_version_text_and_number_agree),
        cmocka_unit_test(test_message_is_one_clean_line),
        cmocka_unit_test(test_message_may_contain_the_last_message),
        cmocka_unit_test(test_long_message_is_cut_between_characters),
        cmocka_unit_test(test_errno_picks_the_status),
        cmocka_unit_test(test_message_belongs_to_its_thread),
        cmocka_unit_test(test_numbers_do_not_follow_the_locale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
