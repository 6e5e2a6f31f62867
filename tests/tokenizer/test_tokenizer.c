/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-level BPE: the peer's ids, a naive merge as reference, special tokens, any bytes, capacity, and many threads. */
#include "base/runtime.h"
#include "golden_tiny.h"
#include "support.h"
#include "tokenizer/vocabulary.h"
#include <time.h>

static ramet_runtime *runtime;
static ramet__mem *mem;
static ramet__tokenizer *tiny;

static int setup(void **state) {
    ramet_runtime_options options;
    ramet_runtime_options_init(&options, sizeof(options));
    options.threads = 2;
    if (ramet_runtime_create(&runtime, &options)) return 1;
    mem = runtime->mem;
    tiny = load_gguf(mem, getenv("RAMET_TINY_MODEL"));
    return 0;
}

static int teardown(void **state) {
    ramet__tokenizer_free(tiny);
    ramet_runtime_free(runtime);
    return 0;
}

static int64_t encode(int32_t *ids, int64_t cap, const char *text, size_t len, int32_t flags) {
    int64_t n = -1;
    if (ramet__tokenizer_encode(&n, ids, cap, tiny, text, len, flags)) fail_msg("encode: %s", ramet_last_error());
    return n;
}

static void gives_the_peers_ids(void **state) {
    for (size_t i = 0; i < sizeof(golden) / sizeof(golden[0]); i++) {
        int32_t ids[128];
        int64_t n = encode(ids, 128, golden[i].text, golden[i].len, RAMET__TOKENIZE_SPECIAL);
        if (n != golden[i].n || memcmp(ids, golden[i].special, (size_t)n * 4)) fail_msg("text %d, special", (int)i);
        n = encode(ids, 128, golden[i].text, golden[i].len, 0);
        if (n != golden[i].n_plain || memcmp(ids, golden[i].plain, (size_t)n * 4)) fail_msg("text %d, plain", (int)i);
    }
}

/* The definition: join the pair of lowest rank, leftmost first, until there is none. */
static int64_t naive(int32_t *ids, const char *word, size_t len) {
    int64_t n = 0;
    for (size_t i = 0; i < len; i++) ids[n++] = tiny->byte_ids[(uint8_t)word[i]];
    for (;;) {
        int32_t best = tiny->n_merges, at = -1;
        for (int32_t i = 0; i + 1 < n; i++) {
            for (int32_t m = 0; m < best; m++) {
                if (tiny->merges[m].left != ids[i] || tiny->merges[m].right != ids[i + 1]) continue;
                best = m;
                at = i;
            }
        }
        if (at < 0) return n;
        ids[at] = tiny->merges[best].id;
        memmove(&ids[at + 1], &ids[at + 2], (size_t)(n - at - 2) * sizeof(ids[0]));
        n--;
    }
}

static void merges_as_defined_for_short_and_long_words(void **state) {
    static const size_t lengths[] = { 1, 2, 3, 5, 9, 17, 30, 47, 48, 49, 50, 64, 100, 150 };
    uint32_t random = 12345;
    for (size_t l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++) {
        for (int trial = 0; trial < 20; trial++) {
            char word[256];
            int32_t got[256], wanted[256];
            for (size_t i = 0; i < lengths[l]; i++) {
                random = random * 1664525u + 1013904223u;
                word[i] = "theinandorsg"[(random >> 20) % 12];
            }
            int64_t n = encode(got, 256, word, lengths[l], 0), m = naive(wanted, word, lengths[l]);
            if (n != m || memcmp(got, wanted, (size_t)n * 4)) fail_msg("%.*s", (int)lengths[l], word);
        }
    }
}

static void a_word_of_a_megabyte_takes_no_quadratic_time(void **state) {
    size_t n = 1 << 20;
    char *text = malloc(n);
    int32_t *ids = malloc(n * 4);
    memset(text, 'e', n);
    memset(text + n / 2, 't', 1);
    clock_t start = clock();
    int64_t count = encode(ids, (int64_t)n, text, n, 0);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 5); /* takes about 0.1 s, quadratic ones hours */
    size_t bytes = 0;
    for (int64_t i = 0; i < count; i++) bytes += tiny->tokens[ids[i]].bytes_len;
    assert_int_equal(bytes, n);
    free(text);
    free(ids);
}

static void any_bytes_come_back(void **state) { /* every byte has a token here, so text survives, well-formed or not */
    uint32_t random = 99;
    for (int trial = 0; trial < 300; trial++) {
        char text[200], back[256];
        int32_t ids[200];
        size_t len = (size_t)(trial % 190) + 1, n_back = 0;
        for (size_t i = 0; i < len; i++) {
            random = random * 1664525u + 1013904223u;
            text[i] = trial % 3 ? (char)(random >> 24) : "\xf0\x9f\x98\x80 \xe2\x82\xc0\xed\xa0 ' "[(random >> 20) % 14];
        }
        int64_t n = encode(ids, 200, text, len, 0);
        for (int64_t i = 0; i < n; i++) {
            const char *piece;
            size_t piece_len;
            assert_int_equal(ramet__tokenizer_piece(&piece, &piece_len, tiny, ids[i], 0), RAMET_OK);
            assert_true(n_back + piece_len <= sizeof(back));
            memcpy(back + n_back, piece, piece_len);
            n_back += piece_len;
        }
        assert_int_equal(n_back, len);
        assert_memory_equal(back, text, len);
    }
}

static void ill_formed_bytes_are_characters_of_no_class(void **state) {
    static const struct { const char *text; size_t len, first;
    } cases[] = {
        /* bytes, and how many the first character takes */
        { "\xc0\xaf", 2, 1 },
        { "\xe0\x80\x80", 3, 1 },
        { "\xed\xa0\x80", 3, 1 },
        { "\xf4\x90\x80\x80", 4, 1 },
        { "\xf5\x80\x80\x80", 4, 1 },
        { "\xe2\x82", 2, 1 },
        { "\x80", 1, 1 },
        { "\xff", 1, 1 },
        { "\xf0\x9f\x98", 3, 1 },
        { "\xed\x9f\xbf", 3, 3 },
        { "\xf4\x8f\xbf\xbf", 4, 4 },
        { "\xc2\x80", 2, 2 },
        { "\xe0\xa0\x80", 3, 3 },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t width, code = ramet__utf8_next(cases[i].text, cases[i].text + cases[i].len, &width);
        assert_int_equal(width, cases[i].first);
        if (width == 1) assert_int_equal(ramet__unicode_class(code), RAMET__CHAR_OTHER);
    }
}

static void classes_are_unicodes(void **state) {
    static const struct { uint32_t code; ramet__char_class c;
    } cases[] = {
        { 'a', RAMET__CHAR_LETTER },         { '_', RAMET__CHAR_OTHER },     { '0', RAMET__CHAR_NUMBER },
        { ' ', RAMET__CHAR_SPACE },          { 0x85, RAMET__CHAR_SPACE },    { 0xA0, RAMET__CHAR_SPACE },
        { 0xAA, RAMET__CHAR_LETTER },        { 0xBD, RAMET__CHAR_NUMBER },   { 0x301, RAMET__CHAR_OTHER },
        { 0x664, RAMET__CHAR_NUMBER },       { 0x1680, RAMET__CHAR_SPACE },  { 0x180E, RAMET__CHAR_OTHER },
        { 0x200B, RAMET__CHAR_OTHER },       { 0x2028, RAMET__CHAR_SPACE },  { 0x2163, RAMET__CHAR_NUMBER },
        { 0x3000, RAMET__CHAR_SPACE },       { 0x4E00, RAMET__CHAR_LETTER }, { 0xD7A3, RAMET__CHAR_LETTER },
        { 0xFFFD, RAMET__CHAR_OTHER },       { 0x1F600, RAMET__CHAR_OTHER }, { 0x10FFFF, RAMET__CHAR_OTHER },
        { 0x11DE0, RAMET__CHAR_DIGIT_ONLY },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (ramet__unicode_class(cases[i].code) != cases[i].c) fail_msg("U+%04X", (unsigned)cases[i].code);
}

static void byte_alphabet_goes_both_ways(void **state) {
    for (int32_t b = 0; b < 256; b++) assert_int_equal(ramet__symbol_byte(ramet__byte_symbol((uint8_t)b)), b);
    assert_int_equal(ramet__byte_symbol(' '), 0x120);
    assert_int_equal(ramet__byte_symbol('\n'), 0x10A);
    assert_int_equal(ramet__byte_symbol(173), 0x143);
    assert_int_equal(ramet__symbol_byte(0x144), -1);
}

static void a_small_buffer_gets_the_count_and_nothing_beyond(void **state) {
    int32_t ids[8] = { -7, -7, -7, -7, -7, -7, -7, -7 };
    int64_t n = 0;
    const char text[] = "1 2 3 4 <|im_end|>";
    assert_int_equal(ramet__tokenizer_encode(&n, ids, 3, tiny, text, sizeof(text) - 1, RAMET__TOKENIZE_SPECIAL), RAMET_E_LIMIT);
    assert_int_equal(n, 9); /* four digits, four spaces, one control token */
    assert_true(ids[2] >= 0 && ids[3] == -7);
    assert_int_equal(ramet__tokenizer_encode(&n, NULL, 0, tiny, text, sizeof(text) - 1, 0), RAMET_E_LIMIT);
    assert_true(n > 9);
    assert_int_equal(ramet__tokenizer_encode(&n, NULL, 0, tiny, "", 0, 0), RAMET_OK);
    assert_int_equal(n, 0);
    assert_int_equal(ramet__tokenizer_encode(&n, NULL, 1, tiny, "", 0, 0), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__tokenizer_encode(&n, ids, 8, tiny, text, (size_t)1 << 31, 0), RAMET_E_LIMIT);
}

static void looks_tokens_up(void **state) {
    const char *piece;
    size_t len;
    assert_int_equal(ramet__tokenizer_size(tiny), 320);
    assert_int_equal(ramet__tokenizer_bos(tiny), 1);
    assert_int_equal(ramet__tokenizer_eos(tiny), 2);
    assert_int_equal(ramet__tokenizer_find(tiny, "<|im_end|>"), 2);
    assert_int_equal(ramet__tokenizer_find(tiny, "no such token"), -1);
    assert_true(ramet__tokenizer_is_end(tiny, 2) && ramet__tokenizer_is_end(tiny, 0));
    assert_false(ramet__tokenizer_is_end(tiny, 1) || ramet__tokenizer_is_end(tiny, 9) || ramet__tokenizer_is_end(tiny, -1) ||
                 ramet__tokenizer_is_end(tiny, 320));
    assert_int_equal(ramet__tokenizer_piece(&piece, &len, tiny, 1, 0), RAMET_OK);
    assert_int_equal(len, 0);
    assert_int_equal(ramet__tokenizer_piece(&piece, &len, tiny, 1, 1), RAMET_OK);
    assert_string_equal(piece, "<|im_start|>");
    assert_int_equal(len, 12);
    assert_int_equal(ramet__tokenizer_piece(&piece, &len, tiny, ramet__tokenizer_find(tiny, "\xc4\xa0"), 0), RAMET_OK);
    assert_true(len == 1 && *piece == ' ');
    assert_int_equal(ramet__tokenizer_piece(&piece, &len, tiny, 320, 0), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__tokenizer_piece(&piece, &len, tiny, -1, 0), RAMET_E_ARGUMENT);
}

static ramet_status encode_piece(void *context, int64_t piece, int32_t worker) {
    for (int round = 0; round < 50; round++) {
        int32_t ids[128];
        int64_t n;
        size_t i = (size_t)(piece + round) % (sizeof(golden) / sizeof(golden[0]));
        ramet__tokenizer *t = ramet__tokenizer_retain(tiny);
        RAMET__TRY(ramet__tokenizer_encode(&n, ids, 128, t, golden[i].text, golden[i].len, RAMET__TOKENIZE_SPECIAL));
        ramet__tokenizer_free(t);
        if (n != golden[i].n || memcmp(ids, golden[i].special, (size_t)n * 4)) return RAMET_E_INTERNAL;
    }
    return RAMET_OK;
}

static void many_threads_may_use_one(void **state) {
    assert_int_equal(ramet__parallel_for(runtime->threads, 40, encode_piece, NULL, NULL), RAMET_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_the_peers_ids), cmocka_unit_test(merges_as_defined_for_short_and_long_words),
        cmocka_unit_test(a_word_of_a_megabyte_takes_no_quadratic_time), cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(ill_formed_bytes_are_characters_of_no_class), cmocka_unit_test(classes_are_unicodes),
        cmocka_unit_test(byte_alphabet_goes_both_ways), cmocka_unit_test(a_small_buffer_gets_the_count_and_nothing_beyond),
        cmocka_unit_test(looks_tokens_up), cmocka_unit_test(many_threads_may_use_one),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, setup, teardown);
}
