/* SPDX-License-Identifier: Apache-2.0 */
/* Documents, flags, windows, rows. */
#include "support.h"

static int setup(void **state) { return (*state = tiny(1)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

static ramet_dataset *with_ids(ramet_model *model, int32_t docs, const int32_t *length) { /* ids count up over the whole stream */
    ramet_dataset *d = NULL;
    int32_t ids[64], next = 10;
    ok(ramet_dataset_create(&d, model));
    for (int32_t i = 0; i < docs; i++) {
        for (int32_t j = 0; j < length[i]; j++) ids[j] = next++;
        ok(ramet_dataset_add_ids(d, ids, NULL, length[i]));
    }
    return d;
}

static void test_rows_split_by_document(void **state) {
    const int32_t length[] = {3, 4, 1, 2};
    ramet_dataset *d = with_ids(*state, 4, length);
    ramet__rows r;
    ok(ramet__rows_init(&r, d->rt->mem, 16));
    assert_int_equal(ramet__rows_add(&r, d, 0, 8), 5); /* 10 11 12 | 13 14 15 16 | 17 */
    const int32_t tokens[] = {10, 11, 12, 13, 14, 15, 16, 17}, pos[] = {0, 1, 2, 0, 1, 2, 3, 0}, seq[] = {0, 0, 0, 1, 1, 1, 1, 2};
    const int32_t out[] = {0, 1, 3, 4, 5}, label[] = {11, 12, 14, 15, 16};
    assert_int_equal(r.rows, 8);
    assert_int_equal(r.n_seq, 3);
    assert_memory_equal(r.tokens, tokens, sizeof tokens);
    assert_memory_equal(r.pos, pos, sizeof pos);
    assert_memory_equal(r.seq, seq, sizeof seq);
    assert_memory_equal(r.out, out, sizeof out);
    assert_memory_equal(r.label, label, sizeof label);
    ramet__rows_clear(&r);
    assert_int_equal(ramet__rows_add(&r, d, 4, 6), 2); /* from the middle of a document: positions restart, the label past the end counts */
    assert_int_equal(r.pos[0], 0);
    assert_int_equal(r.label[1], 16);
    assert_int_equal(ramet__rows_add(&r, d, 7, 10), 1); /* a second window goes behind, with sequences of its own */
    assert_int_equal(r.seq[2], 1);
    assert_int_equal(r.seq[3], 2);
    assert_int_equal(r.out[2], 3);
    for (int64_t from = 0; from < d->n; from++) /* counting agrees with making */
        for (int64_t to = from + 1; to <= d->n; to++) {
            ramet__rows_clear(&r);
            assert_int_equal(ramet__rows_add(&r, d, from, to), ramet__rows_count(d, from, to));
        }
    ramet__rows_clear(&r); /* one sequence over documents */
    assert_int_equal(ramet__rows_add_whole(&r, d, 0, 8, 4, 6, 5), 3);
    assert_int_equal(r.n_seq, 1);
    assert_int_equal(r.tokens[0], 5);
    assert_int_equal(r.pos[7], 7);
    assert_int_equal(r.out[0], 4);
    assert_int_equal(r.label[2], 17);
    ramet__rows_free(&r);
    ramet_dataset_free(d);
}

static void test_windows_visit_all_in_every_epoch(void **state) {
    ramet_dataset *d = NULL;
    int32_t ids[103];
    uint8_t predict[103] = {0};
    int64_t from, to, order[3][14];
    ramet__windows w;
    ok(ramet_dataset_create(&d, *state));
    for (int32_t i = 0; i < 103; i++) ids[i] = i;
    for (int32_t i = 0; i < 103; i++) predict[i] = i < 40 || i > 47; /* window 5 (40..47) predicts only 48 */
    predict[48] = 0;
    ok(ramet_dataset_add_ids(d, ids, predict, 103));
    ok(ramet__windows_init(&w, d->rt->mem, d, 8));
    assert_int_equal(w.n, 12); /* of 13: window 5 has nothing to predict */
    for (int32_t epoch = 0; epoch < 3; epoch++) {
        int64_t seen = 0;
        for (int64_t i = 0; i < 12; i++) {
            assert_ptr_equal(ramet__windows_at(&from, &to, &w, 7, epoch * 12 + i), d);
            assert_true(from % 8 == 0 && from != 40 && to == (from == 96 ? 103 : from + 8));
            order[epoch][i] = from;
            seen |= (int64_t)1 << from / 8;
        }
        assert_int_equal(seen, 0x1fff & ~(1 << 5));
    }
    assert_true(memcmp(order[0], order[1], 12 * sizeof order[0][0]) && memcmp(order[1], order[2], 12 * sizeof order[0][0]));
    ramet__windows_at(&from, &to, &w, 8, 0);
    int64_t other = from != order[0][0];
    for (int64_t i = 1; i < 12; i++) {
        ramet__windows_at(&from, &to, &w, 8, i);
        other |= from != order[0][i];
    }
    assert_true(other); /* another seed, another order */
    ramet__windows_free(&w);
    ramet_dataset_free(d);
}

static void test_text_is_closed(void **state) {
    ramet_model *m = *state;
    ramet_dataset *d = prose_data(m);
    int32_t ids[256];
    int64_t n = 0;
    ok(ramet_tokenize(&n, ids, 256, m, prose[0], strlen(prose[0]), 0));
    assert_int_equal(ramet_dataset_documents(d), 4);
    assert_int_equal(d->docs[1].start, n + 1);
    assert_memory_equal(d->ids, ids, (size_t)n * sizeof *ids);
    assert_int_equal(d->ids[n], 0); /* <|endoftext|> */
    assert_true(d->predict[0] && d->predict[n] && d->docs[0].closed);
    const int64_t before = ramet_dataset_tokens(d);
    ok(ramet_dataset_add_text(d, "", 0)); /* adds nothing */
    ok(ramet_dataset_add_text(d, "a <|im_end|> b", 14));
    for (int64_t i = before; i < d->n - 1; i++) assert_int_not_equal(d->ids[i], 2); /* spelled out, not meant */
    assert_int_equal(ramet_dataset_documents(d), 5);
    ramet_dataset_free(d);
}

/* Text of the tokens whose flag is `flag`. */
static char *told(const ramet_dataset *d, int32_t flag) {
    static char text[2048];
    int32_t ids[1024];
    int64_t n = 0;
    size_t len = 0;
    for (int64_t i = 0; i < d->n; i++)
        if (d->predict[i] == flag) ids[n++] = d->ids[i];
    ok(ramet_detokenize(&len, text, sizeof text - 1, d->model, ids, n, 1));
    text[len] = 0;
    return text;
}

static void test_chat_predicts_replies(void **state) {
    ramet_model *m = *state;
    ramet_dataset *d = NULL;
    const char *roles[] = {"system", "user", "assistant", "user", "assistant"};
    const char *contents[] = {"Be brief.", "Who is there?", "A friend.", "Say <|im_end|> twice.", "No <|im_start|> here."};
    ok(ramet_dataset_create(&d, m));
    ok(ramet_dataset_add_chat(d, 5, roles, contents));
    assert_string_equal(told(d, 1), "A friend.<|im_end|>\nNo <|im_start|> here.<|im_end|>\n");
    assert_string_equal(told(d, 0),
                        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho is there?<|im_end|>\n<|im_start|>assistant\n"
                        "<|im_start|>user\nSay <|im_end|> twice.<|im_end|>\n<|im_start|>assistant\n");
    int32_t starts = 0, ends = 0;
    for (int64_t i = 0; i < d->n; i++) starts += d->ids[i] == 1, ends += d->ids[i] == 2;
    assert_int_equal(starts, 5); /* what users spell out is no control token */
    assert_int_equal(ends, 5);
    /* everything before the last reply is what generation would be given */
    char *prompt = NULL;
    int32_t ids[512];
    int64_t n = 0;
    contents[3] = "Again?";
    ramet_dataset_free(d);
    ok(ramet_dataset_create(&d, m));
    ok(ramet_dataset_add_chat(d, 5, roles, contents));
    ok(ramet_chat_format(&prompt, m, 4, roles, contents, 1));
    ok(ramet_tokenize(&n, ids, 512, m, prompt, strlen(prompt), RAMET_TOKENIZE_SPECIAL));
    assert_memory_equal(d->ids, ids, (size_t)n * sizeof *ids);
    ramet_string_free(prompt);
    fails(ramet_dataset_add_chat(d, 0, roles, contents), RAMET_E_ARGUMENT, "messages");
    ramet_dataset_free(d);
}

static void test_lines(void **state) {
    ramet_dataset *d = NULL;
    const char *path = scratch(".jsonl");
    const char good[] = "{\"text\":\"one\"}\n\n{\"prompt\":\"Q: 1+1? \",\"completion\":\"two\"}\r\n"
                        "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"yes\"}],\"id\":7}";
    ok(ramet_dataset_create(&d, *state));
    write_file(path, good, strlen(good));
    ok(ramet_dataset_add_file(d, path));
    assert_int_equal(ramet_dataset_documents(d), 3);
    assert_string_equal(told(d, 1), "one<|endoftext|>two<|endoftext|>yes<|im_end|>\n");
    assert_non_null(strstr(told(d, 0), "Q: 1+1? "));
    const struct { const char *text; const char *part;
    } bad[] = {
        {"{\"text\":\"a\"}\n{\"text\":\"b\"\n", "line 2: "},
        {"\n\n[1]\n", "line 3: not a JSON object"},
        {"{\"text\":1}", "line 1: \"text\" is not a string"},
        {"{\"text\":\"a\",\"prompt\":\"b\",\"completion\":\"c\"}", "exactly one"},
        {"{\"prompt\":\"b\"}", "exactly one"},
        {"{}", "exactly one"},
        {"{\"messages\":[]}", "at least one message"},
        {"{\"messages\":[{\"role\":\"user\"}]}", "message 0 lacks \"content\""},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}", "NUL"},
        {"{\"text\":\"\xff\"}", "line 1: "},
    };
    const int64_t tokens = ramet_dataset_tokens(d);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(path, bad[i].text, strlen(bad[i].text));
        fails(ramet_dataset_add_file(d, path), RAMET_E_FORMAT, bad[i].part);
        assert_non_null(strstr(ramet_last_error(), path));
        assert_int_equal(ramet_dataset_tokens(d), tokens); /* nothing of a bad file stays */
        assert_int_equal(ramet_dataset_documents(d), 3);
    }
    unlink(path);
    assert_true(ramet_dataset_add_file(d, path) < 0);
    const char *plain = scratch(".txt");
    write_file(plain, "one\ntwo", 7);
    ok(ramet_dataset_add_file(d, plain));
    assert_int_equal(ramet_dataset_documents(d), 4);
    unlink(plain);
    ramet_dataset_free(d);
}

/* Ids in files: documents end after end-of-text, here 0. */
static void test_files_of_tokens(void **state) {
    ramet_dataset *d = NULL;
    const uint16_t two[] = {5, 6, 0, 7, 319, 0, 8};
    const uint32_t four[] = {9, 0};
    const int64_t start[] = {0, 3, 6, 7, 9};
    char npy[256] = "\x93NUMPY\x01";
    const struct { const char *head; int32_t size; const void *data; size_t bytes; int32_t status; const char *part; } bad[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 0, four, 8, RAMET_E_UNSUPPORTED, "integers"},
        {"{'descr': '>u4', 'fortran_order': False, 'shape': (2,), }", 0, four, 8, RAMET_E_UNSUPPORTED, "little-endian"},
        {"{'descr': '<u4', 'fortran_order': False, 'shape': (1, 2), }", 0, four, 8, RAMET_E_UNSUPPORTED, "one dimension"},
        {"{'descr': '<u4', 'fortran_order': False, 'shape': (3,), }", 0, four, 8, RAMET_E_FORMAT, "do not fill"},
        {"{'descr': '<u4', 'fortran_order': False, 'shape': (2,), }", 0, four, 7, RAMET_E_FORMAT, "do not fill"},
        {"{'descr': '<u4', 'fortran_order': False, 'shape': (2,), }", 300, four, 8, RAMET_E_FORMAT, "past the end"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }", 0, "\xff\xff\xff\xff", 4, RAMET_E_INCONSISTENT, "token 0 is -1"},
        {"{'descr': '<u8', 'fortran_order': False, 'shape': (1,), }", 0, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, RAMET_E_INCONSISTENT, "token 0 is 9223372036854775807"},
    };
    ok(ramet_dataset_create(&d, *state));
    const char *u16 = scratch(".u16"), *u32 = scratch(".u32"), *array = scratch(".npy");
    write_file(u16, two, sizeof two);
    write_file(u32, four, sizeof four);
    ok(ramet_dataset_add_file(d, u16));
    ok(ramet_dataset_add_file(d, u32));
    for (int32_t size = 2; size <= 8; size *= 2) { /* the same two ids in the three sizes */
        uint8_t data[16] = {9};
        const int32_t n = snprintf(npy + 10, sizeof npy - 10, "{'descr': '<i%d', 'fortran_order': False, 'shape': (2,), }\n", size);
        npy[8] = (char)n;
        memcpy(npy + 10 + n, data, 2 * (size_t)size);
        write_file(array, npy, 10 + (size_t)n + 2 * (size_t)size);
        ok(ramet_dataset_add_file(d, array));
        assert_memory_equal(d->ids + d->n - 2, ((int32_t[]){9, 0}), 8);
    }
    assert_int_equal(d->n_docs, 7);
    for (int32_t i = 0; i < 5; i++) assert_int_equal(d->docs[i].start, start[i]);
    assert_true(d->ids[4] == 319 && d->ids[7] == 9 && d->predict[0]);
    const int64_t n = d->n;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const size_t head = strlen(bad[i].head);
        npy[8] = (char)(bad[i].size ? bad[i].size - 256 : (int32_t)head);
        npy[9] = bad[i].size > 255;
        memcpy(npy + 10, bad[i].head, head);
        memcpy(npy + 10 + head, bad[i].data, bad[i].bytes);
        write_file(array, npy, 10 + head + bad[i].bytes);
        fails(ramet_dataset_add_file(d, array), bad[i].status, bad[i].part);
        assert_int_equal(d->n, n);
    }
    for (size_t cut = 0; cut < 10; cut++) {
        write_file(array, npy, cut);
        fails(ramet_dataset_add_file(d, array), RAMET_E_FORMAT, array);
    }
    write_file(u16, two, 3);
    fails(ramet_dataset_add_file(d, u16), RAMET_E_FORMAT, "whole number");
    write_file(u16, "\x40\x01", 2);
    fails(ramet_dataset_add_file(d, u16), RAMET_E_INCONSISTENT, "token 0 is 320");
    assert_int_equal(d->n_docs, 7);
    unlink(u16);
    unlink(u32);
    unlink(array);
    ramet_dataset_free(d);
}

static void test_refuses_bad_arguments(void **state) {
    ramet_dataset *d = NULL;
    const int32_t ids[] = {1, 2, 320}, negative[] = {-1};
    fails(ramet_dataset_create(&d, NULL), RAMET_E_ARGUMENT, "model");
    ok(ramet_dataset_create(&d, *state));
    fails(ramet_dataset_add_ids(d, ids, NULL, 3), RAMET_E_ARGUMENT, "ids[2] is 320");
    fails(ramet_dataset_add_ids(d, negative, NULL, 1), RAMET_E_ARGUMENT, "ids[0] is -1");
    fails(ramet_dataset_add_ids(d, ids, NULL, -1), RAMET_E_ARGUMENT, "negative");
    assert_int_equal(ramet_dataset_tokens(d), 0);
    ramet__dataset_seal(d);
    fails(ramet_dataset_add_text(d, "a", 1), RAMET_E_STATE, "in use");
    fails(ramet_dataset_add_ids(d, ids, NULL, 1), RAMET_E_STATE, "in use");
    ramet_dataset_free(d);
    ramet_dataset_free(NULL);
    assert_int_equal(ramet_dataset_tokens(NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_split_by_document),
        cmocka_unit_test(test_windows_visit_all_in_every_epoch),
        cmocka_unit_test(test_text_is_closed),
        cmocka_unit_test(test_chat_predicts_replies),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_files_of_tokens),
        cmocka_unit_test(test_refuses_bad_arguments),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
