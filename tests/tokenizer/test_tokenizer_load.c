/* SPDX-License-Identifier: Apache-2.0 */
/* Loading tokenizers: what tokenizer.json and GGUF may say, the answer to everything else, and memory running out. */
#include "base/runtime.h"
#include "support.h"
#include "tokenizer/vocabulary.h"
#include <math.h>
#include <unistd.h>

static ramet__mem *mem;
static int64_t allocations_left = -1; /* -1: no limit */

static void *counted(void *ptr, size_t old_size, size_t new_size, size_t alignment, void *user) {
    (void)old_size; (void)user;
    if (!new_size) {
        free(ptr);
        return NULL;
    }
    if (allocations_left == 0) return NULL;
    if (allocations_left > 0) allocations_left--;
    if (ptr) { /* realloc does not keep the alignment */
        void *moved = aligned_alloc(alignment, RAMET__ROUND_UP(new_size, alignment));
        if (!moved) return NULL;
        memcpy(moved, ptr, RAMET__MIN(old_size, new_size));
        free(ptr);
        return moved;
    }
    return aligned_alloc(alignment, RAMET__ROUND_UP(new_size, alignment));
}

static uint64_t bytes_held(void) {
    uint64_t now;
    ramet__mem_bytes(mem, &now, NULL);
    return now;
}

static int setup(void **state) { return ramet__mem_create(&mem, counted, NULL, 0); }
static int teardown(void **state) {
    ramet__mem_free(mem);
    return 0;
}

/* ---- tokenizer.json -------------------------------------------------------------------------------------------- */

#define VOCAB "{\"a\":0,\"b\":1,\"c\":2,\"\\u0120\":3,\"ab\":4,\"abc\":5,\"\\u0120abc\":6,\"1\":7,\"11\":8}"
#define MERGES "[\"a b\",\"ab c\",\"\\u0120 abc\",\"1 1\"]"
#define ADDED "[{\"id\":9,\"content\":\"<|end|>\",\"special\":true},{\"id\":12,\"content\":\"<user>\",\"special\":false,\"lstrip\":false}]"
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
#define DIGITS "{\"type\":\"Digits\",\"individual_digits\":true}"
#define SEQUENCE "{\"type\":\"Sequence\",\"pretokenizers\":[" DIGITS "," BYTE_LEVEL "]}"

typedef struct parts {
    const char *vocab, *merges, *added, *pre, *post, *normalizer, *decoder, *options, *config;
} parts; /* NULL: as in a good file */

static ramet_status from_parts(ramet__tokenizer **t, const parts *p) {
    static char text[1 << 14];
    snprintf(text, sizeof(text),
             "{\"version\":\"1.0\",\"added_tokens\":%s,\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":%s,"
             "\"model\":{%s\"vocab\":%s,\"merges\":%s}}",
             p->added ? p->added : ADDED, p->normalizer ? p->normalizer : "null", p->pre ? p->pre : SEQUENCE,
             p->post ? p->post : "null", p->decoder ? p->decoder : "{\"type\":\"ByteLevel\"}",
             p->options ? p->options : "\"type\":\"BPE\",\"unk_token\":null,", p->vocab ? p->vocab : VOCAB,
             p->merges ? p->merges : MERGES);
    return ramet__tokenizer_from_json(t, mem, text, strlen(text), p->config, p->config ? strlen(p->config) : 0);
}

static ramet__tokenizer *good_parts(const parts *p) {
    ramet__tokenizer *t = NULL;
    if (from_parts(&t, p)) fail_msg("%s", ramet_last_error());
    return t;
}

static void expect_ids(const ramet__tokenizer *t, const char *text, int32_t flags, int32_t n_wanted, const int32_t *wanted) {
    int32_t ids[64];
    int64_t n;
    if (ramet__tokenizer_encode(&n, ids, 64, t, text, strlen(text), flags)) fail_msg("%s: %s", text, ramet_last_error());
    if (n != n_wanted || memcmp(ids, wanted, (size_t)n * sizeof(ids[0]))) fail_msg("%s: %d ids, first %d", text, (int)n, n ? ids[0] : -1);
}
#define IDS(...) (int32_t)(sizeof((int32_t[]){ __VA_ARGS__ }) / 4), (const int32_t[]){ __VA_ARGS__ }

static void reads_tokenizer_json(void **state) {
    static const parts forms[] = {
        { 0 },
        { .merges = "[[\"a\",\"b\"],[\"ab\",\"c\"],[\"\\u0120\",\"abc\"],[\"1\",\"1\"]]" },
        { .options = "" },
        { .post = "{\"type\":\"ByteLevel\",\"trim_offsets\":false}",
          .decoder = "null",
          .options = "\"type\":\"BPE\",\"dropout\":null,\"continuing_subword_prefix\":\"\",\"byte_fallback\":false," },
    };
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        ramet__tokenizer *t = good_parts(&forms[i]);
        assert_int_equal(ramet__tokenizer_size(t), 13); /* ids 10 and 11 are a gap */
        assert_int_equal(ramet__tokenizer_find(t, "[PAD10]"), 10);
        assert_int_equal(ramet__tokenizer_bos(t), -1);
        expect_ids(t, " abcab11", 0, IDS(6, 4, 7, 7));
        expect_ids(t, "a<|end|>b<user>c", RAMET__TOKENIZE_SPECIAL, IDS(0, 9, 1, 12, 2));
        expect_ids(t, "a<|end|>b<user>c", 0, IDS(0, 1, 12, 2)); /* the marker's bytes have no token here */
        expect_ids(t, "[PAD10]", RAMET__TOKENIZE_SPECIAL, IDS(7)); /* plain text: of its bytes only "1" has a token */
        assert_true(ramet__tokenizer_is_end(t, 9));
        ramet__tokenizer_free(t);
    }
    ramet__tokenizer *t = good_parts(&(parts){ .pre = BYTE_LEVEL });
    expect_ids(t, "11", 0, IDS(8)); /* GPT-2 keeps digits together */
    ramet__tokenizer_free(t);
}

static void merges_the_leftmost_of_equals(void **state) {
    ramet__tokenizer *t = good_parts(&(parts){ .vocab = "{\"a\":0,\"aa\":1}", .merges = "[\"a a\"]", .added = "[]" });
    for (int32_t n = 3; n < 80; n += 38) { /* 41 and fewer by scanning, 79 by the heap */
        char word[80];
        int32_t ids[80];
        int64_t n_ids;
        memset(word, 'a', sizeof(word));
        assert_int_equal(ramet__tokenizer_encode(&n_ids, ids, 80, t, word, (size_t)n, 0), RAMET_OK);
        assert_int_equal(n_ids, n / 2 + 1);
        for (int32_t i = 0; i < n_ids; i++) assert_int_equal(ids[i], i < n / 2);
    }
    ramet__tokenizer_free(t);
}

static void reads_configuration(void **state) {
    ramet__tokenizer *t = good_parts(&(parts){
        .config = "{\"bos_token\":{\"content\":\"<|end|>\"},\"eos_token\":\"<user>\",\"pad_token\":null,\"add_bos_token\":true,"
                  "\"chat_template\":[{\"name\":\"tools\",\"template\":\"x\"},{\"name\":\"default\",\"template\":\"hello\"}]}" });
    assert_int_equal(ramet__tokenizer_bos(t), 9);
    assert_int_equal(ramet__tokenizer_eos(t), 12);
    assert_string_equal(ramet__tokenizer_template(t), "hello");
    expect_ids(t, "ab", RAMET__TOKENIZE_BOS, IDS(9, 4));
    expect_ids(t, "ab", 0, IDS(4));
    ramet__tokenizer_free(t);
    t = good_parts(&(parts){ .post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<|end|>\",\"type_"
                                     "id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]}" });
    expect_ids(t, "ab", RAMET__TOKENIZE_BOS, IDS(9, 4));
    ramet__tokenizer_free(t);
    t = good_parts(&(parts){ .options = "\"unk_token\":\"<user>\"," });
    expect_ids(t, "axb", 0, IDS(0, 12, 1));
    ramet__tokenizer_free(t);
}

static void answers_bad_tokenizer_json(void **state) {
    static const struct { parts p; ramet_status status; const char *message;
    } cases[] = {
        { { .vocab = "{\"a\":-1}" }, RAMET_E_FORMAT, "whole number" },
        { { .vocab = "{\"a\":1.5}" }, RAMET_E_FORMAT, "whole number" },
        { { .vocab = "{\"a\":\"0\"}" }, RAMET_E_FORMAT, "whole number" },
        { { .vocab = "{\"a\":2147483648}" }, RAMET_E_LIMIT, "2147483648" },
        { { .vocab = "{\"a\":3000000}" }, RAMET_E_LIMIT, "3000000" },
        { { .vocab = "{\"a\":0,\"b\":0}", .merges = "[]" }, RAMET_E_INCONSISTENT, "id 0 is both" },
        { { .vocab = "{\"a\":0,\"a\":1}" }, RAMET_E_FORMAT, "a" },
        { { .vocab = "{\"\\ud800\":0}" }, RAMET_E_FORMAT, "" },
        { { .vocab = "{\"a\":1e0}" }, RAMET_E_FORMAT, "whole number" },
        { { .vocab = "{\"a\":18446744073709551616}" }, RAMET_E_FORMAT, "whole number" },
        { { .vocab = "{\"\xff\":0}" }, RAMET_E_FORMAT, "UTF-8" },
        { { .added = "[{\"id\":2147483648,\"content\":\"x\"}]" }, RAMET_E_LIMIT, "2147483648" },
        { { .added = "[{\"id\":-1,\"content\":\"x\"}]" }, RAMET_E_FORMAT, "whole number" },
        { { .normalizer = "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}" }, RAMET_E_UNSUPPORTED, "Precompiled" },
        { { .vocab = "{}" }, RAMET_E_INCONSISTENT, "empty" },
        { { .vocab = "[\"a\"]" }, RAMET_E_FORMAT, "not an object" },
        { { .vocab = "{\"long\":0}", .merges = "[]" }, RAMET_E_INCONSISTENT, "single byte" },
        { { .added = "[{\"id\":0,\"content\":\"<x>\",\"special\":true}]" }, RAMET_E_INCONSISTENT, "id 0 is both" },
        { { .added = "[{\"id\":20,\"content\":\"a\",\"special\":true}]" }, RAMET_E_INCONSISTENT, "tokens 0 and 20" },
        { { .added = "[{\"id\":0,\"content\":\"a\",\"special\":true}]" }, RAMET_E_INCONSISTENT, "control" },
        { { .added = "[{\"id\":4,\"content\":\"ab\",\"special\":true}]" }, RAMET_E_INCONSISTENT, "control" },
        { { .added = "[{\"id\":20,\"content\":\"\",\"special\":true}]" }, RAMET_E_INCONSISTENT, "empty" },
        { { .added = "[{\"id\":20,\"special\":true}]" }, RAMET_E_FORMAT, "content" },
        { { .added = "[{\"content\":\"x\"}]" }, RAMET_E_FORMAT, "id" },
        { { .added = "7" }, RAMET_E_FORMAT, "added_tokens" },
        { { .added = "[{\"id\":20,\"content\":\"<m>\",\"lstrip\":true}]" }, RAMET_E_UNSUPPORTED, "lstrip" },
        { { .added = "[{\"id\":20,\"content\":\"<m>\",\"special\":1}]" }, RAMET_E_FORMAT, "special" },
        { { .merges = "[\"ab\"]" }, RAMET_E_INCONSISTENT, "merge 0" },
        { { .merges = "[\"a b\",\"\"]" }, RAMET_E_INCONSISTENT, "merge 1" },
        { { .merges = "[[\"a\",\"b c\"]]" }, RAMET_E_INCONSISTENT, "merge 0" },
        { { .merges = "[[\"a\",\"b\",\"c\"]]" }, RAMET_E_FORMAT, "merge" },
        { { .merges = "[[\"a\",1]]" }, RAMET_E_FORMAT, "merge" },
        { { .merges = "{}" }, RAMET_E_FORMAT, "merges" },
        { { .merges = "[\"a x\"]" }, RAMET_E_INCONSISTENT, "\"x\"" },
        { { .merges = "[\"b a\"]" }, RAMET_E_INCONSISTENT, "\"ba\"" },
        { { .merges = "[\"a b\",\"a b\"]" }, RAMET_E_INCONSISTENT, "same pair" },
        { { .pre = "null" }, RAMET_E_UNSUPPORTED, "pre_tokenizer" },
        { { .pre = "{\"type\":\"Metaspace\"}" }, RAMET_E_UNSUPPORTED, "Metaspace" },
        { { .pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a+)+\"}}" }, RAMET_E_UNSUPPORTED, "Split" },
        { { .pre = "{\"type\":\"ByteLevel\"}" }, RAMET_E_UNSUPPORTED, "add_prefix_space" },
        { { .pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}" }, RAMET_E_UNSUPPORTED, "use_regex" },
        { { .pre = DIGITS }, RAMET_E_UNSUPPORTED, "ByteLevel" },
        { { .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[]}" }, RAMET_E_UNSUPPORTED, "ByteLevel" },
        { { .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL "," DIGITS "]}" }, RAMET_E_UNSUPPORTED, "Digits" },
        { { .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":false}," BYTE_LEVEL "]}" },
          RAMET_E_UNSUPPORTED,
          "individual_digits" },
        { { .post = "{\"type\":\"BertProcessing\"}" }, RAMET_E_UNSUPPORTED, "BertProcessing" },
        { { .post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"<|end|>"
                    "\"}}]}" },
          RAMET_E_UNSUPPORTED,
          "TemplateProcessing" },
        { { .post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}"
                    "]}" },
          RAMET_E_INCONSISTENT,
          "<s>" },
        { { .normalizer = "{\"type\":\"NFC\"}" }, RAMET_E_UNSUPPORTED, "NFC" },
        { { .decoder = "{\"type\":\"WordPiece\"}" }, RAMET_E_UNSUPPORTED, "WordPiece" },
        { { .options = "\"type\":\"Unigram\"," }, RAMET_E_UNSUPPORTED, "Unigram" },
        { { .options = "\"type\":7," }, RAMET_E_FORMAT, "type" },
        { { .options = "\"dropout\":0.1," }, RAMET_E_UNSUPPORTED, "dropout" },
        { { .options = "\"ignore_merges\":true," }, RAMET_E_UNSUPPORTED, "ignore_merges" },
        { { .options = "\"byte_fallback\":true," }, RAMET_E_UNSUPPORTED, "byte_fallback" },
        { { .options = "\"end_of_word_suffix\":\"</w>\"," }, RAMET_E_UNSUPPORTED, "end_of_word_suffix" },
        { { .options = "\"unk_token\":\"<unk>\"," }, RAMET_E_INCONSISTENT, "<unk>" },
        { { .options = "\"unk_token\":\"<user>\",\"fuse_unk\":true," }, RAMET_E_UNSUPPORTED, "fuse_unk" },
        { { .config = "{\"eos_token\":\"</s>\"}" }, RAMET_E_INCONSISTENT, "</s>" },
        { { .config = "{\"eos_token\":7}" }, RAMET_E_FORMAT, "eos_token" },
        { { .config = "[]" }, RAMET_E_FORMAT, "object" },
        { { .config = "{\"chat_template\":7}" }, RAMET_E_FORMAT, "chat_template" },
        { { .config = "{" }, RAMET_E_FORMAT, "tokenizer_config.json" },
        { { .config = "{\"add_prefix_space\":true}" }, RAMET_E_UNSUPPORTED, "add_prefix_space" },
    };
    uint64_t before = bytes_held();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ramet__tokenizer *t = NULL;
        ramet_status st = from_parts(&t, &cases[i].p);
        if (st != cases[i].status || t || !strstr(ramet_last_error(), cases[i].message))
            fail_msg("case %d: %s, \"%s\", wanted %s with \"%s\"", (int)i, ramet_status_name(st), st ? ramet_last_error() : "",
                     ramet_status_name(cases[i].status), cases[i].message);
        assert_int_equal(bytes_held(), before);
    }
    static const struct { const char *text; ramet_status status;
    } whole[] = {
        { "", RAMET_E_FORMAT },
        { "{", RAMET_E_FORMAT },
        { "[]", RAMET_E_FORMAT },
        { "{}", RAMET_E_UNSUPPORTED },
        { "{\"pre_tokenizer\":" BYTE_LEVEL "}", RAMET_E_FORMAT },
    };
    for (size_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++) {
        ramet__tokenizer *t = NULL;
        if (ramet__tokenizer_from_json(&t, mem, whole[i].text, strlen(whole[i].text), NULL, 0) != whole[i].status)
            fail_msg("%s: %s", whole[i].text, ramet_last_error());
        assert_int_equal(bytes_held(), before);
    }
}

static void every_truncation_of_tokenizer_json_is_an_error(void **state) {
    static const char whole[] = "{\"pre_tokenizer\":" SEQUENCE ",\"added_tokens\":" ADDED ",\"model\":{\"type\":\"BPE\",\"vocab\":" VOCAB ",\"merges\":" MERGES "}}";
    uint64_t before = bytes_held();
    ramet__tokenizer *t = NULL;
    for (size_t n = 0; n < sizeof(whole) - 1; n++) {
        char *cut = malloc(n + !n); /* exact: reading past the end is seen by the sanitizers */
        memcpy(cut, whole, n);
        if (ramet__tokenizer_from_json(&t, mem, cut, n, NULL, 0) != RAMET_E_FORMAT || t) fail_msg("cut to %d: %s", (int)n, ramet_last_error());
        assert_int_equal(bytes_held(), before);
        free(cut);
    }
    if (ramet__tokenizer_from_json(&t, mem, whole, sizeof(whole) - 1, NULL, 0)) fail_msg("%s", ramet_last_error());
    ramet__tokenizer_free(t);
}

static void deep_nesting_is_refused(void **state) {
    enum { DEEP = 100000 };
    char *text = malloc(DEEP);
    ramet__tokenizer *t = NULL;
    assert_non_null(text);
    for (int object = 0; object < 2; object++) {
        for (size_t i = 0; i < DEEP; i++) text[i] = object ? "{\"a\":"[i % 5] : '[';
        assert_int_equal(ramet__tokenizer_from_json(&t, mem, text, DEEP, NULL, 0), RAMET_E_LIMIT);
        assert_int_equal(ramet__tokenizer_from_json(&t, mem, "{}", 2, text, DEEP), RAMET_E_LIMIT);
        assert_null(t);
    }
    free(text);
}

/* A template is recognised, never run: what would loop or nest without end is refused at once, as is one whose markers the vocabulary lacks. */
static void answers_bad_templates(void **state) {
    static const struct { const char *config; ramet_status status; const char *message;
    } cases[] = {
        { "{}", RAMET_E_UNSUPPORTED, "no chat template" },
        { "{\"chat_template\":\"{% for i in range(1000000000) %}x{% endfor %}\"}", RAMET_E_UNSUPPORTED, "not ChatML" },
        { "{\"chat_template\":\"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}\"}", RAMET_E_UNSUPPORTED, "not ChatML" },
        { "{\"chat_template\":\"<|im_start|>{{ role }}<|im_end|>\"}", RAMET_E_INCONSISTENT, "names <|im_start|>" },
    };
    static const char *const roles[] = { "user" }, *const contents[] = { "a" };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ramet__tokenizer *t = good_parts(&(parts){ .config = cases[i].config });
        int32_t ids[8];
        int64_t n = -1;
        assert_int_equal(ramet__chat_encode(&n, ids, 8, t, 1, roles, contents, 1), cases[i].status);
        if (n != -1 || !strstr(ramet_last_error(), cases[i].message)) fail_msg("%s: %s", cases[i].config, ramet_last_error());
        ramet__tokenizer_free(t);
    }
}

static void refuses_a_vocabulary_made_to_collide(void **state) { /* 4200 texts whose search begins in the first eighth of the table */
    enum { N = 4200, SIZE = 16384 };
    ramet__text text = { .mem = mem };
    ramet__tokenizer *t = NULL;
    uint64_t before = bytes_held();
    ramet__text_add(&text, "{\"pre_tokenizer\":" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0");
    for (int32_t id = 1, i = 0; id < N; i++) {
        char word[32];
        int n = snprintf(word, sizeof(word), "w%d", i);
        if ((ramet__hash_bytes(word, (size_t)n) & (SIZE - 1)) < SIZE / 8) ramet__text_add(&text, ",\"%s\":%d", word, id++);
    }
    ramet__text_add(&text, "}}}");
    assert_int_equal(text.status, RAMET_OK);
    assert_int_equal(ramet__tokenizer_from_json(&t, mem, text.data, text.len, NULL, 0), RAMET_E_LIMIT);
    assert_non_null(strstr(ramet_last_error(), "collide"));
    ramet__text_free(&text);
    assert_int_equal(bytes_held(), before);
}

/* ---- GGUF ------------------------------------------------------------------------------------------------------ */

typedef struct file { uint8_t data[4096]; size_t n; uint64_t pairs; } file;
static void put(file *f, const void *p, size_t n) {
    assert_true(f->n + n <= sizeof(f->data));
    memcpy(f->data + f->n, p, n);
    f->n += n;
}
static void put_u32(file *f, uint32_t v) { put(f, &v, 4); }
static void put_u64(file *f, uint64_t v) { put(f, &v, 8); }
static void put_string(file *f, const char *s) {
    put_u64(f, strlen(s));
    put(f, s, strlen(s));
}
static void put_key(file *f, const char *key, uint32_t type) {
    put_string(f, key);
    put_u32(f, type);
    f->pairs++;
}
static void put_text(file *f, const char *key, const char *value) {
    put_key(f, key, RAMET__GGUF_STRING);
    put_string(f, value);
}
static void put_list(file *f, const char *key, const char *values) { /* separated by '|' */
    char copy[512], *rest = copy, *one;
    uint64_t n = *values != 0;
    for (const char *p = values; *p; p++) n += *p == '|';
    snprintf(copy, sizeof(copy), "%s", values);
    put_key(f, key, RAMET__GGUF_ARRAY);
    put_u32(f, RAMET__GGUF_STRING);
    put_u64(f, n);
    while (*values && (one = strsep(&rest, "|"))) put_string(f, one);
}

typedef struct meta {
    const char *model, *pre, *tokens, *merges, *role;
    uint32_t role_id;
    int32_t n_types, types[12];
    float score;
    int32_t n_scores, scores_element; /* 0: F32 */
} meta;

static ramet_status from_meta(ramet__tokenizer **t, const meta *m) {
    file f = { .n = 24 };
    if (strcmp(m->model ? m->model : "", "-")) put_text(&f, "tokenizer.ggml.model", m->model ? m->model : "gpt2");
    if (strcmp(m->pre ? m->pre : "", "-")) put_text(&f, "tokenizer.ggml.pre", m->pre ? m->pre : "smollm");
    if (strcmp(m->tokens ? m->tokens : "", "-"))
        put_list(&f, "tokenizer.ggml.tokens",
                 m->tokens ? m->tokens
                           : "a|b|c|\xc4\xa0|ab|abc|\xc4\xa0"
                             "abc|1|11|<end>|<user>");
    if (strcmp(m->merges ? m->merges : "", "-")) put_list(&f, "tokenizer.ggml.merges", m->merges ? m->merges : "a b|ab c|\xc4\xa0 abc|1 1");
    if (m->role) {
        put_key(&f, m->role, RAMET__GGUF_U32);
        put_u32(&f, m->role_id);
    }
    if (m->n_types) {
        put_key(&f, "tokenizer.ggml.token_type", RAMET__GGUF_ARRAY);
        put_u32(&f, RAMET__GGUF_I32);
        put_u64(&f, (uint64_t)m->n_types);
        put(&f, m->types, (size_t)m->n_types * 4);
    }
    if (m->n_scores) {
        put_key(&f, "tokenizer.ggml.scores", RAMET__GGUF_ARRAY);
        put_u32(&f, m->scores_element ? (uint32_t)m->scores_element : RAMET__GGUF_F32);
        put_u64(&f, (uint64_t)m->n_scores);
        for (int32_t i = 0; i < m->n_scores; i++) put(&f, &m->score, 4);
    }
    uint32_t head[2] = { 0x46554747, 3 };
    uint64_t counts[2] = { 0, f.pairs };
    memcpy(f.data, head, 8);
    memcpy(f.data + 8, counts, 16);
    ramet_source source = { .struct_size = sizeof(source), .kind = RAMET_SOURCE_MEMORY, .data = f.data, .length = f.n };
    return try_gguf(t, mem, &source);
}

static void reads_gguf(void **state) {
    ramet__tokenizer *t = NULL;
    meta m = { .n_types = 11,
               .types = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4 },
               .role = "tokenizer.ggml.eot_token_id",
               .role_id = 10,
               .n_scores = 11 };
    if (from_meta(&t, &m)) fail_msg("%s", ramet_last_error());
    expect_ids(t, " abcab11<end><user>", 0, IDS(6, 4, 7, 7, 10));
    expect_ids(t, " abcab11<end><user>", RAMET__TOKENIZE_SPECIAL, IDS(6, 4, 7, 7, 9, 10));
    assert_true(ramet__tokenizer_is_end(t, 10));
    ramet__tokenizer_free(t);
    if (from_meta(&t, &(meta){ .pre = "gpt-2" })) fail_msg("%s", ramet_last_error());
    expect_ids(t, "11", 0, IDS(8));
    ramet__tokenizer_free(t);
}

static void answers_bad_gguf(void **state) {
    static const struct { meta m; ramet_status status; const char *message;
    } cases[] = {
        { { .model = "-" }, RAMET_E_NOT_FOUND, "tokenizer" },
        { { .model = "llama" }, RAMET_E_UNSUPPORTED, "llama" },
        { { .pre = "qwen2" }, RAMET_E_UNSUPPORTED, "qwen2" },
        { { .pre = "-" }, RAMET_E_UNSUPPORTED, "default" },
        { { .tokens = "-" }, RAMET_E_INCONSISTENT, "tokens" },
        { { .tokens = "" }, RAMET_E_INCONSISTENT, "tokens" },
        { { .tokens = "a|b|ab|a", .merges = "a b" }, RAMET_E_INCONSISTENT, "tokens 0 and 3" },
        { { .merges = "-" }, RAMET_E_INCONSISTENT, "merges" },
        { { .merges = "a b|abc" }, RAMET_E_INCONSISTENT, "merge 1" },
        { { .merges = "a b| a" }, RAMET_E_INCONSISTENT, "merge 1" },
        { { .merges = "a z" }, RAMET_E_INCONSISTENT, "\"z\"" },
        { { .n_types = 10, .types = { 1 } }, RAMET_E_INCONSISTENT, "10 types" },
        { { .n_types = 11, .types = { 1, 7 } }, RAMET_E_FORMAT, "type 7" },
        { { .n_types = 11, .types = { -1 } }, RAMET_E_FORMAT, "type -1" },
        { { .n_types = 11, .types = { 6 } }, RAMET_E_INCONSISTENT, "byte token" },
        { { .n_types = 11, .types = { 3 } }, RAMET_E_INCONSISTENT, "control" },
        { { .n_scores = 10 }, RAMET_E_INCONSISTENT, "10 scores" },
        { { .n_scores = 11, .scores_element = RAMET__GGUF_I32 }, RAMET_E_FORMAT, "scores" },
        { { .n_scores = 11, .score = NAN }, RAMET_E_INCONSISTENT, "score" },
        { { .role = "tokenizer.ggml.bos_token_id", .role_id = 11 }, RAMET_E_INCONSISTENT, "11" },
        { { .role = "tokenizer.ggml.eos_token_id", .role_id = 0x80000000u }, RAMET_E_INCONSISTENT, "eos" },
        { { .role = "tokenizer.chat_template" }, RAMET_E_FORMAT, "chat_template" },
        { { .role = "tokenizer.ggml.add_bos_token" }, RAMET_E_FORMAT, "add_bos" },
    };
    uint64_t before = bytes_held();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ramet__tokenizer *t = NULL;
        ramet_status st = from_meta(&t, &cases[i].m);
        if (st != cases[i].status || t || !strstr(ramet_last_error(), cases[i].message))
            fail_msg("case %d: %s, \"%s\", wanted %s with \"%s\"", (int)i, ramet_status_name(st), st ? ramet_last_error() : "",
                     ramet_status_name(cases[i].status), cases[i].message);
        assert_int_equal(bytes_held(), before);
    }
}

/* ---- and back into GGUF ---------------------------------------------------------------------------------------- */

static void expect_same(const ramet__tokenizer *a, const ramet__tokenizer *b) {
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->n_merges, b->n_merges);
    assert_memory_equal(a->types, b->types, (size_t)a->n);
    for (int32_t i = 0; i < a->n; i++) {
        assert_int_equal(a->tokens[i].text_len, b->tokens[i].text_len);
        assert_string_equal(a->tokens[i].text, b->tokens[i].text);
    }
    if (a->n_merges) assert_memory_equal(a->merges, b->merges, (size_t)a->n_merges * sizeof(a->merges[0]));
    assert_memory_equal(a->roles, b->roles, sizeof(a->roles));
    assert_int_equal(a->split, b->split);
    assert_string_equal(a->pre, b->pre);
    assert_int_equal(a->add_bos, b->add_bos);
    assert_int_equal(a->emit_unknown, b->emit_unknown);
    assert_string_equal(a->chat_template ? a->chat_template : "(none)", b->chat_template ? b->chat_template : "(none)");
}

static ramet__tokenizer *through_gguf(const ramet__tokenizer *t) {
    char path[64];
    ramet__gguf_writer *w;
    snprintf(path, sizeof(path), "tokenizer-%ld.gguf", (long)getpid());
    if (ramet__gguf_writer_open(&w, mem, path) || ramet__tokenizer_to_gguf(t, w) || ramet__gguf_writer_commit(&w))
        fail_msg("%s", ramet_last_error());
    ramet__tokenizer *back = load_gguf(mem, path);
    remove(path);
    return back;
}

static void comes_back_from_gguf(void **state) {
    static const parts forms[] = {
        { 0 },
        { .pre = BYTE_LEVEL, .options = "\"unk_token\":\"<user>\"," },
        { .merges = "[]" },
        { .config = "{\"bos_token\":\"<|end|>\",\"eos_token\":\"<user>\",\"pad_token\":\"a\",\"add_bos_token\":true,\"chat_"
                    "template\":\"{{ x }}\"}" },
    };
    uint64_t before = bytes_held();
    for (size_t i = 0; i <= sizeof(forms) / sizeof(forms[0]); i++) {
        ramet__tokenizer *t = i < sizeof(forms) / sizeof(forms[0]) ? good_parts(&forms[i])
                                                                   : load_gguf(mem, getenv("RAMET_TINY_MODEL")),
                         *back = through_gguf(t);
        expect_same(t, back);
        ramet__tokenizer_free(t);
        ramet__tokenizer_free(back);
        assert_int_equal(bytes_held(), before);
    }
}

static void survives_every_failed_allocation(void **state) {
    uint64_t before = bytes_held();
    for (int kind = 0; kind < 2; kind++) {
        for (int64_t k = 0;; k++) {
            ramet__tokenizer *t = NULL;
            int32_t ids[200];
            int64_t n;
            char word[200];
            memset(word, 'a', sizeof(word));
            allocations_left = k;
            ramet_status st = kind ? from_meta(&t, &(meta){ 0 }) : from_parts(&t, &(parts){ .config = "{\"chat_template\":\"x\"}" });
            if (!st) st = ramet__tokenizer_encode(&n, ids, 200, t, word, sizeof(word), 0);
            allocations_left = -1;
            ramet__tokenizer_free(t);
            assert_int_equal(bytes_held(), before);
            if (!st) {
                assert_true(k > 10);
                break;
            }
            assert_int_equal(st, RAMET_E_MEMORY);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_tokenizer_json), cmocka_unit_test(reads_configuration), cmocka_unit_test(merges_the_leftmost_of_equals), cmocka_unit_test(answers_bad_tokenizer_json),
        cmocka_unit_test(every_truncation_of_tokenizer_json_is_an_error), cmocka_unit_test(deep_nesting_is_refused), cmocka_unit_test(answers_bad_templates),
        cmocka_unit_test(refuses_a_vocabulary_made_to_collide),
        cmocka_unit_test(reads_gguf), cmocka_unit_test(answers_bad_gguf), cmocka_unit_test(comes_back_from_gguf),
        cmocka_unit_test(survives_every_failed_allocation),
    };
    return cmocka_run_group_tests_name("tokenizer_load", tests, setup, teardown);
}
