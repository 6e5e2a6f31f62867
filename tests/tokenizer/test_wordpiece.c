/* SPDX-License-Identifier: Apache-2.0 */
/* test_wordpiece.c - BERT's tokenizer from tokenizer.json, and written to GGUF and read again. The ids are those of the package
 * tokenizers 0.23.3 for this vocabulary, special tokens in the text apart, which user text never becomes here. */
#include "format/gguf.h"
#include "base/runtime.h"
#include "support.h"
#include <unistd.h>

static const char json[] =
    "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 0, \"special\": true, \"content\": \"[PAD]\", \"single_word\": false, \"lstr"
    "ip\": false, \"rstrip\": false, \"normalized\": false}, {\"id\": 1, \"special\": true, \"content\": \"[UNK]\", \"single_word"
    "\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false}, {\"id\": 2, \"special\": true, \"content\": \"[CLS]"
    "\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false}, {\"id\": 3, \"special\": true, \"c"
    "ontent\": \"[SEP]\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false}], \"normalizer\":"
    " {\"type\": \"BertNormalizer\", \"clean_text\": true, \"handle_chinese_chars\": true, \"strip_accents\": null, \"lowercas"
    "e\": true}, \"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}, \"post_processor\": {\"type\": \"TemplateProcessing\", \"si"
    "ngle\": [{\"SpecialToken\": {\"id\": \"[CLS]\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"SpecialTok"
    "en\": {\"id\": \"[SEP]\", \"type_id\": 0}}], \"pair\": [{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"B"
    "\", \"type_id\": 1}}], \"special_tokens\": {\"[CLS]\": {\"id\": \"[CLS]\", \"ids\": [2], \"tokens\": [\"[CLS]\"]}, \"[SEP]\": {\"i"
    "d\": \"[SEP]\", \"ids\": [3], \"tokens\": [\"[SEP]\"]}}}, \"decoder\": {\"type\": \"WordPiece\", \"prefix\": \"##\", \"cleanup\": t"
    "rue}, \"model\": {\"type\": \"WordPiece\", \"unk_token\": \"[UNK]\", \"continuing_subword_prefix\": \"##\", \"max_input_chars"
    "_per_word\": 100, \"vocab\": {\"[PAD]\": 0, \"[UNK]\": 1, \"[CLS]\": 2, \"[SEP]\": 3, \"un\": 4, \"##aff\": 5, \"##able\": 6, \""
    "aff\": 7, \"the\": 8, \"cafe\": 9, \"!\": 10, \"'\": 11, \"s\": 12, \"\\u4e2d\": 13, \"\\u6587\": 14, \"##s\": 15, \"i\": 16, \"a\": "
    "17, \"##b\": 18, \".\": 19, \"ss\": 20}}}";
static const struct { const char *text; size_t len; int32_t n, ids[112]; } golden[] = {
   {"Unaffable THE caf\303\251's", 21, 9, {2, 4, 5, 6, 8, 9, 11, 12, 3}},
   {"\344\270\255\346\226\207, the\302\240\342\200\215!", 17, 7, {2, 13, 14, 1, 8, 10, 3}},
   {"", 0, 2, {2, 3}},
   {"ab abb a\314\201b", 11, 9, {2, 17, 18, 17, 18, 18, 17, 18, 3}},
   {"\342\204\253ss \341\272\236 \304\260", 12, 7, {2, 17, 15, 15, 1, 16, 3}},
   {"abbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
    "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", 100, 102, {2, 17, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 18, 3}},
   {"abbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", 101, 3, {2, 1, 3}},
   {"the\000\007\011!\357\277\275the", 13, 5, {2, 8, 10, 8, 3}},
};

static ramet_runtime *rt;
static ramet__tokenizer *load(void) {
    ramet__tokenizer *t = NULL;
    if (ramet__tokenizer_from_json(&t, rt->mem, json, strlen(json), NULL, 0)) fail_msg("%s", ramet_last_error());
    return t;
}
static void check(const ramet__tokenizer *t) {
    for (int32_t i = 0; i < RAMET__COUNT(golden); i++) {
        int32_t ids[128];
        int64_t n = 0;
        assert_int_equal(ramet__tokenizer_encode(&n, ids, 128, t, golden[i].text, golden[i].len, RAMET__TOKENIZE_BOS), RAMET_OK);
        assert_int_equal(n, golden[i].n);
        assert_memory_equal(ids, golden[i].ids, (size_t)n * sizeof ids[0]);
        if (n > 2) { /* without what stands around it, and into too little room */
            int32_t few[2] = {-7, -7};
            const ramet_status st = ramet__tokenizer_encode(&n, few, 1, t, golden[i].text, golden[i].len, 0);
            assert_int_equal(st, n > 1 ? RAMET_E_LIMIT : RAMET_OK);
            assert_int_equal(n, golden[i].n - 2);
            assert_int_equal(few[0], golden[i].ids[1]);
            assert_int_equal(few[1], -7);
        }
    }
}
static void test_wordpiece_matches_the_peer(void **state) {
    (void)state;
    ramet__tokenizer *t = load();
    check(t);
    int32_t ids[16];
    int64_t n;
    assert_int_equal(ramet__tokenizer_encode(&n, ids, 16, t, "[SEP]", 5, 0), RAMET_OK);
    for (int64_t i = 0; i < n; i++) assert_int_not_equal(ids[i], 3); /* user text never becomes a control id */
    assert_int_equal(ramet__tokenizer_encode(&n, ids, 16, t, "[SEP]", 5, RAMET__TOKENIZE_SPECIAL), RAMET_OK);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 3);
    ramet__tokenizer_free(t);
}
static void test_wordpiece_survives_gguf(void **state) {
    (void)state;
    char path[] = "/tmp/ramet-wordpiece-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    ramet__tokenizer *t = load();
    ramet__gguf_writer *w = NULL;
    assert_int_equal(ramet__gguf_writer_open(&w, rt->mem, path), RAMET_OK);
    assert_int_equal(ramet__tokenizer_to_gguf(t, w), RAMET_OK);
    assert_int_equal(ramet__gguf_writer_commit(&w), RAMET_OK);
    ramet__tokenizer_free(t);
    t = load_gguf(rt->mem, path);
    check(t);
    ramet__tokenizer_free(t);
    unlink(path);
}
static void refuse(const char *from, const char *to) {
    char text[sizeof json + 64];
    const char *at = strstr(json, from);
    ramet__tokenizer *t = NULL;
    assert_non_null(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
    assert_int_not_equal(ramet__tokenizer_from_json(&t, rt->mem, text, strlen(text), NULL, 0), RAMET_OK);
    assert_null(t);
}
static void test_wordpiece_refuses_what_it_does_not_know(void **state) {
    (void)state;
    refuse("\"strip_accents\": null", "\"strip_accents\": false");
    refuse("\"continuing_subword_prefix\": \"##\"", "\"continuing_subword_prefix\": \"@@\"");
    refuse("\"max_input_chars_per_word\": 100", "\"max_input_chars_per_word\": 50");
    refuse("\"unk_token\": \"[UNK]\"", "\"unk_token\": \"[NONE]\"");
    refuse("\"BertPreTokenizer\"", "\"Whitespace\"");
    refuse("\"type\": \"WordPiece\", \"unk", "\"type\": \"BPE\", \"unk");
    refuse("\"handle_chinese_chars\": true", "\"handle_chinese_chars\": false");
}
int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wordpiece_matches_the_peer), cmocka_unit_test(test_wordpiece_survives_gguf),
                                       cmocka_unit_test(test_wordpiece_refuses_what_it_does_not_know)};
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 1;
    if (ramet_runtime_create(&rt, &o)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ramet_runtime_free(rt);
    return failed;
}
