/* SPDX-License-Identifier: Apache-2.0 */
/* test_model_oom.c - the first, second, third ... allocation fails while a model is loaded, from GGUF and from a Hugging Face folder, and written. */
#include "support.h"
#include "../tools/failing.h"

static ramet_status load_and_save(ramet_runtime *runtime, void *source) {
    const char *path = scratch("-oom.gguf");
    ramet_status st;
    ramet_model *m = NULL;
    char *json = NULL;
    MAKE(m, ramet_model_load(&m, runtime, source, NULL));
    MAKE(json, ramet_model_describe(&json, m));
    st = ramet_model_save(m, path, NULL, NULL);
    assert_int_equal(ramet__path_kind(path), !st);
    if (st) goto out;
    assert_int_equal(remove(path), 0);
out:
    ramet_string_free(json);
    ramet_model_free(m);
    return st;
}

static int64_t read_file(void *dst, uint64_t offset, uint64_t size, void *file) {
    if (fseek(file, (long)offset, SEEK_SET)) return -1;
    return (int64_t)fread(dst, 1, size, file);
}

static void test_every_source(void **state) {
    FILE *f = fopen(tiny_path(), "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    ramet_source sources[] = {
        {.kind = RAMET_SOURCE_PATH, .path = tiny_path()},
        {.kind = RAMET_SOURCE_PATH, .path = tiny_path(), .untrusted = 1},
        {.kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = fileno(f)},
        {.kind = RAMET_SOURCE_CALLBACKS, .read = read_file, .length = (uint64_t)ftell(f), .user = f},
        {.kind = RAMET_SOURCE_PATH, .path = getenv("RAMET_TINY_FOLDER")},
        {.kind = RAMET_SOURCE_PATH, .path = getenv("RAMET_TINY_FOLDER"), .untrusted = 1},
    };
    for (int32_t i = 0; i < RAMET__COUNT(sources); i++) {
        sources[i].struct_size = sizeof *sources;
        fail_each(load_and_save, &sources[i], 50);
    }
    fclose(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_source)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
