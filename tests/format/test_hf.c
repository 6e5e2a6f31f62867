/* SPDX-License-Identifier: Apache-2.0 */
/* A Hugging Face folder: one file, shards, and indexes that point outside the folder. */
#include "format/hf.h"
#include "support.h"
#include <sys/stat.h>

static ramet__mem *mem;
static char folder[64];

static void put(const char *name, const void *data, size_t n) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}
static void put_text(const char *name, const char *text) { put(name, text, strlen(text)); }
static void take_away(const char *name) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    remove(path);
}

/* A file with tensors of one byte: its name's first letter. */
static void put_shard(const char *file, const char *names) {
    char path[160];
    ramet__st_writer *w = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    assert_int_equal(ramet__st_writer_open(&w, mem, path), RAMET_OK);
    for (const char *c = names; *c; c++)
        assert_int_equal(ramet__st_declare(w, (char[]){*c, 0}, RAMET__ST_U8, 1, (const int64_t[]){1}), RAMET_OK);
    for (const char *c = names; *c; c++) assert_int_equal(ramet__st_data(w, c, 1), RAMET_OK);
    assert_int_equal(ramet__st_writer_commit(&w), RAMET_OK);
}

static int setup(void **state) {
    snprintf(folder, sizeof folder, "scratch-hf-%ld", (long)getpid());
    return ramet__mem_create(&mem, NULL, NULL, 0) || ramet__dir_make(folder);
}

static int teardown(void **state) {
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
                                        "model.safetensors.index.json", "one.safetensors", "two.safetensors", "link.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) take_away(names[i]);
    rmdir(folder);
    assert_all_freed(mem);
    ramet__mem_free(mem);
    return 0;
}

static int fresh(void **state) { /* each test begins with a config and two shards */
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "model.safetensors",
                                        "model.safetensors.index.json", "link.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) take_away(names[i]);
    put_text("config.json", "{\"model_type\":\"llama\"}");
    put_shard("one.safetensors", "ab");
    put_shard("two.safetensors", "cde");
    return 0;
}

static uint8_t byte_of(const ramet__hf *hf, const char *name) {
    const ramet__safetensors *st = NULL;
    const ramet__st_tensor *t = NULL;
    uint8_t v = 0;
    assert_int_equal(ramet__hf_find(hf, name, &st, &t), RAMET_OK);
    assert_int_equal(ramet__safetensors_read(st, t, &v, 1), RAMET_OK);
    return v;
}

static void one_file(void **state) {
    ramet__hf *hf = NULL;
    const ramet__safetensors *st = NULL;
    const ramet__st_tensor *t = NULL;
    const char *type = NULL;
    size_t n = 1;
    put_shard("model.safetensors", "xyz");
    put_text("tokenizer.json", "{} ");
    if (ramet__hf_open(&hf, mem, folder, 0)) fail_msg("%s", ramet_last_error());
    assert_int_equal(ramet__json_string(&type, ramet__hf_config(hf), "model_type", NULL), RAMET_OK);
    assert_string_equal(type, "llama");
    assert_string_equal(ramet__hf_tokenizer(hf, &n), "{} ");
    assert_int_equal(n, 3);
    assert_null(ramet__hf_tokenizer_config(hf, &n));
    assert_int_equal(n, 0);
    assert_int_equal(ramet__hf_count(hf), 3);
    ramet__hf_at(hf, 2, &st, &t);
    assert_string_equal(t->name, "z");
    assert_int_equal(byte_of(hf, "y"), 'y');
    assert_int_equal(ramet__hf_find(hf, "a", &st, &t), RAMET_E_NOT_FOUND);
    assert_non_null(strstr(ramet_last_error(), "\"a\""));
    ramet__hf_free(hf);
}

static void shards(void **state) {
    ramet__hf *hf = NULL;
    const ramet__safetensors *st = NULL;
    const ramet__st_tensor *t = NULL;
    put_text("model.safetensors.index.json",
             "{\"metadata\":{\"total_size\":5},\"weight_map\":{\"c\":\"two.safetensors\",\"a\":\"one.safetensors\",\"e\":\"two.safetensors\",\"b\":\"one.safetensors\"}}");
    if (ramet__hf_open(&hf, mem, folder, 0)) fail_msg("%s", ramet_last_error());
    assert_int_equal(ramet__hf_count(hf), 4);
    ramet__hf_at(hf, 0, &st, &t);
    assert_string_equal(t->name, "c"); /* the order of the index */
    assert_int_equal(st->n_tensors, 3);
    for (const char *c = "abce"; *c; c++) assert_int_equal(byte_of(hf, (char[]){*c, 0}), *c);
    assert_int_equal(ramet__hf_find(hf, "d", &st, &t), RAMET_E_NOT_FOUND); /* in a shard, not in the index */
    ramet__hf_free(hf);
}

static void what_is_wrong_is_named(void **state) {
    static const struct { const char *index; ramet_status status; const char *says; } rows[] = {
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", RAMET_E_FORMAT, "byte 19"},
        {"{\"weight_map\":{\"a\":\"..\"}}", RAMET_E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", RAMET_E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", RAMET_E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":\"c:one.safetensors\"}}", RAMET_E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\\u0000\"}}", RAMET_E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", RAMET_E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":\"link.safetensors\"}}", RAMET_E_FORMAT, "symbolic link"},
        {"{\"weight_map\":{\"a\":1}}", RAMET_E_FORMAT, "byte 19"},
        {"{\"weight_map\":[]}", RAMET_E_FORMAT, "weight_map"},
        {"{}", RAMET_E_FORMAT, "weight_map"},
        {"[]", RAMET_E_FORMAT, "not an object"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\"", RAMET_E_FORMAT, "byte 36"},
        {"{\"weight_map\":{\"a\":\"none.safetensors\"}}", RAMET_E_NOT_FOUND, "none.safetensors"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"one.safetensors\"}}", RAMET_E_INCONSISTENT, "\"c\""},
        {"{\"weight_map\":{\"a\":\"config.json\"}}", RAMET_E_FORMAT, "safetensors"},
    };
    char link[160];
    snprintf(link, sizeof link, "%s/link.safetensors", folder);
    assert_int_equal(symlink("one.safetensors", link), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ramet__hf *hf = NULL;
        put_text("model.safetensors.index.json", rows[i].index);
        ramet_status st = ramet__hf_open(&hf, mem, folder, 0);
        if (st != rows[i].status || hf || !strstr(ramet_last_error(), rows[i].says) || !strstr(ramet_last_error(), folder))
            fail_msg("%s: %s \"%s\"", rows[i].index, ramet_status_name(st), ramet_last_error());
    }
}

static void what_is_missing_is_named(void **state) {
    ramet__hf *hf = NULL;
    assert_int_equal(ramet__hf_open(&hf, mem, folder, 0), RAMET_E_NOT_FOUND);
    assert_non_null(strstr(ramet_last_error(), "model.safetensors"));
    put_shard("model.safetensors", "x");
    put_text("config.json", "[1]");
    assert_int_equal(ramet__hf_open(&hf, mem, folder, 0), RAMET_E_FORMAT);
    take_away("config.json");
    assert_int_equal(ramet__hf_open(&hf, mem, folder, 0), RAMET_E_NOT_FOUND);
    assert_non_null(strstr(ramet_last_error(), "config.json"));
    assert_int_equal(ramet__hf_open(&hf, mem, "no-such-folder", 0), RAMET_E_NOT_FOUND);
    assert_null(hf);
}

static void failing_allocations_leave_nothing(void **state) {
    int done = 0;
    put_text("model.safetensors.index.json", "{\"weight_map\":{\"c\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
    for (int64_t k = 0; !done; k++) {
        failing f = {INT64_MAX};
        ramet__mem *small = NULL;
        ramet__hf *hf = NULL;
        assert_int_equal(ramet__mem_create(&small, failing_alloc, &f, 0), RAMET_OK);
        f.left = k;
        ramet_status st = ramet__hf_open(&hf, small, folder, 0);
        if (st && st != RAMET_E_MEMORY) fail_msg("allocation %lld: %s", (long long)k, ramet_last_error());
        done = st == RAMET_OK;
        ramet__hf_free(hf);
        assert_all_freed(small);
        ramet__mem_free(small);
        assert_true(k < 1000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(one_file, fresh), cmocka_unit_test_setup(shards, fresh),
            cmocka_unit_test_setup(what_is_wrong_is_named, fresh),
        cmocka_unit_test_setup(what_is_missing_is_named, fresh), cmocka_unit_test_setup(failing_allocations_leave_nothing, fresh),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
