/* SPDX-License-Identifier: Apache-2.0 */
#include "base_test.h"
#include "base/file.h"
#include <fcntl.h>
#include <sys/stat.h>

enum { SIZE = 300000 };
static char folder[64], path[96], padded[96];
static unsigned char content[SIZE];
static ramet__mem *mem;

static void put(const char *name, const void *data, size_t size) {
    const int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), size);
    close(fd);
}

static int setup(void **state) {
    test_folder(folder);
    snprintf(path, sizeof path, "%s/file", folder);
    snprintf(padded, sizeof padded, "%s/padded", folder);
    for (int i = 0; i < SIZE; i++) content[i] = (unsigned char)(i * 31 + (i >> 8));
    put(path, content, SIZE);
    unsigned char *wide = calloc(1, SIZE + 6000);
    memcpy(wide + 5001, content, SIZE); /* not at a page's begin */
    put(padded, wide, SIZE + 6000);
    free(wide);
    return ramet__mem_create(&mem, NULL, NULL, 0);
}

static int teardown(void **state) {
    uint64_t now;
    ramet__mem_bytes(mem, &now, NULL);
    ramet__mem_free(mem);
    unlink(path);
    unlink(padded);
    return rmdir(folder) != 0 || now > 512;
}

static int64_t one_byte(void *dst, uint64_t offset, uint64_t size, void *user) {
    *(unsigned char *)dst = ((const unsigned char *)user)[offset];
    return 1;
}
static int64_t some_bytes(void *dst, uint64_t offset, uint64_t size, void *user) {
    const uint64_t n = size > 1000 ? size / 2 + 1 : size;
    memcpy(dst, (const unsigned char *)user + offset, n);
    return (int64_t)n;
}

/* The same bytes by every way in, at page borders and at the ends; the same verdict beyond them. */
static void test_all_sources_give_the_same_bytes(void **state) {
    const int fd = open(path, O_RDONLY), fd_padded = open(padded, O_RDONLY);
    const struct { ramet_source s; int mapped; } way[] = {
        {{.kind = RAMET_SOURCE_PATH, .path = path}, 1},
        {{.kind = RAMET_SOURCE_PATH, .path = path, .untrusted = 1}, 0},
        {{.kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = fd}, 1},
        {{.kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = fd_padded, .offset = 5001, .length = SIZE}, 1},
        {{.kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = fd_padded, .offset = 5001, .length = SIZE, .untrusted = 1}, 0},
        {{.kind = RAMET_SOURCE_MEMORY, .data = content, .length = SIZE}, 1},
        {{.kind = RAMET_SOURCE_CALLBACKS, .read = one_byte, .user = content, .length = SIZE}, 0},
        {{.kind = RAMET_SOURCE_CALLBACKS, .read = some_bytes, .user = content, .length = SIZE}, 0},
    };
    static const struct { uint64_t offset, size; } range[] = {{0, SIZE}, {0, 0}, {SIZE, 0}, {SIZE - 1, 1}, {4095, 2}, {4096, 4096}, {17, 100000}};
    ramet__reader *reader[8];
    for (int i = 0; i < 8; i++) {
        ramet_source s = way[i].s;
        s.struct_size = sizeof s;
        assert_ok(ramet__reader_open(&reader[i], mem, &s));
    }
    close(fd); /* the caller may close after the call */
    close(fd_padded);
    unsigned char *got = malloc(SIZE);
    for (int i = 0; i < 8; i++) {
        ramet__reader *r = reader[i];
        assert_int_equal(ramet__reader_size(r), SIZE);
        for (int k = 0; k < 7; k++) {
            memset(got, 0, SIZE);
            assert_ok(ramet__reader_read(r, got, range[k].offset, range[k].size));
            assert_memory_equal(got, content + range[k].offset, range[k].size);
            const unsigned char *map = ramet__reader_map(r, range[k].offset, range[k].size);
            assert_int_equal(map != NULL, way[i].mapped);
            if (map) assert_memory_equal(map, content + range[k].offset, range[k].size);
        }
        assert_fails(ramet__reader_read(r, got, SIZE, 1), RAMET_E_FORMAT, "offset 300000");
        assert_fails(ramet__reader_read(r, got, SIZE - 1, 2), RAMET_E_FORMAT, "beyond the end");
        assert_fails(ramet__reader_read(r, got, 1, UINT64_MAX), RAMET_E_FORMAT, "beyond the end");
        assert_fails(ramet__reader_read(r, got, UINT64_MAX, 2), RAMET_E_FORMAT, "beyond the end");
        assert_null(ramet__reader_map(r, SIZE - 1, 2));
        assert_null(ramet__reader_map(r, UINT64_MAX, 2));
        ramet__reader_drop(r, 10, SIZE - 20); /* the bytes come back */
        ramet__reader_drop(r, UINT64_MAX, 2);
        assert_ok(ramet__reader_read(r, got, 0, SIZE));
        assert_memory_equal(got, content, SIZE);
    }
    assert_string_equal(ramet__reader_name(reader[0]), path);
    assert_string_equal(ramet__reader_name(reader[5]), "<memory>");
    assert_ptr_equal(ramet__reader_retain(reader[0]), reader[0]);
    ramet__reader_free(reader[0]);
    for (int i = 0; i < 8; i++) ramet__reader_free(reader[i]);
    ramet__reader_free(NULL);
    free(got);
}

static void test_bad_sources_are_refused(void **state) {
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    const int fd = open(path, O_RDONLY);
    const struct { ramet_source s; ramet_status st; const char *says; } bad[] = {
        {{.kind = 4}, RAMET_E_ARGUMENT, "kind 4"},
        {{.kind = -1}, RAMET_E_ARGUMENT, "kind -1"},
        {{.kind = RAMET_SOURCE_PATH}, RAMET_E_ARGUMENT, "path is NULL"},
        {{.kind = RAMET_SOURCE_PATH, .path = ""}, RAMET_E_ARGUMENT, "path is empty"},
        {{.kind = RAMET_SOURCE_PATH, .path = "/nowhere/at/all"}, RAMET_E_NOT_FOUND, "/nowhere/at/all: cannot be opened"},
        {{.kind = RAMET_SOURCE_PATH, .path = folder}, RAMET_E_ARGUMENT, "is a folder"},
        {{.kind = RAMET_SOURCE_PATH, .path = "/dev/zero"}, RAMET_E_ARGUMENT, "not a regular file"},
        {{.kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = -1}, RAMET_E_IO, "Bad file descriptor"},
        {{.kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = pipes[0]}, RAMET_E_ARGUMENT, "not a regular file"},
        {{.kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = fd, .offset = SIZE + 1}, RAMET_E_ARGUMENT, "beyond the file"},
        {{.kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = fd, .offset = 1, .length = SIZE}, RAMET_E_ARGUMENT, "beyond the file"},
        {{.kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = fd, .offset = 2, .length = UINT64_MAX}, RAMET_E_ARGUMENT, "beyond the file"},
        {{.kind = RAMET_SOURCE_MEMORY, .length = 1}, RAMET_E_ARGUMENT, "data is NULL"},
        {{.kind = RAMET_SOURCE_CALLBACKS, .length = 1}, RAMET_E_ARGUMENT, "read is NULL"},
    };
    ramet__reader *r = NULL;
    for (int i = 0; i < RAMET__COUNT(bad); i++) {
        ramet_source s = bad[i].s;
        s.struct_size = sizeof s;
        assert_fails(ramet__reader_open(&r, mem, &s), bad[i].st, bad[i].says);
        assert_null(r);
    }
    assert_fails(ramet__reader_open(&r, mem, NULL), RAMET_E_ARGUMENT, "source is NULL");
    ramet_source s = {0};
    assert_fails(ramet__reader_open(&r, mem, &s), RAMET_E_ARGUMENT, "struct_size 0");
    close(fd);
    close(pipes[0]);
    close(pipes[1]);
}

static void test_a_named_pipe_does_not_block(void **state) {
    char name[96];
    snprintf(name, sizeof name, "%s/pipe", folder);
    assert_int_equal(mkfifo(name, 0600), 0);
    ramet_source s;
    ramet__reader *r;
    ramet_source_from_path(&s, sizeof s, name);
    assert_int_equal(s.kind, RAMET_SOURCE_PATH);
    assert_fails(ramet__reader_open(&r, mem, &s), RAMET_E_ARGUMENT, "not a regular file");
    unlink(name);
}

static void test_empty_contents(void **state) {
    char name[96];
    snprintf(name, sizeof name, "%s/empty", folder);
    put(name, "", 0);
    ramet_source s[3] = {{.kind = RAMET_SOURCE_PATH, .path = name}, {.kind = RAMET_SOURCE_MEMORY}, {.kind = RAMET_SOURCE_CALLBACKS, .read = one_byte}};
    for (int i = 0; i < 3; i++) {
        ramet__reader *r;
        char c;
        s[i].struct_size = sizeof s[i];
        assert_ok(ramet__reader_open(&r, mem, &s[i]));
        assert_int_equal(ramet__reader_size(r), 0);
        assert_ok(ramet__reader_read(r, &c, 0, 0));
        assert_fails(ramet__reader_read(r, &c, 0, 1), RAMET_E_FORMAT, "offset 0");
        ramet__reader_free(r);
    }
    unlink(name);
}

static void test_a_shrinking_untrusted_file_is_an_io_error(void **state) {
    char name[96], byte[100];
    snprintf(name, sizeof name, "%s/shrinks", folder);
    put(name, content, 1000);
    ramet_source s;
    ramet_source_from_path(&s, sizeof s, name);
    s.untrusted = 1;
    ramet__reader *r;
    assert_ok(ramet__reader_open(&r, mem, &s));
    assert_int_equal(truncate(name, 500), 0);
    assert_ok(ramet__reader_read(r, byte, 400, 100));
    assert_fails(ramet__reader_read(r, byte, 450, 100), RAMET_E_IO, "shrank");
    assert_contains(ramet_last_error(), "offset 500");
    ramet__reader_free(r);
    unlink(name);
}

static int64_t misbehave(void *dst, uint64_t offset, uint64_t size, void *user) { return *(int64_t *)user; }

static void test_bad_callbacks_are_answered(void **state) {
    static const struct { int64_t answer; const char *says; } bad[] = {{0, "gave no bytes at offset 5"}, {-1, "failed at offset 5"}, {INT64_MIN, "failed"}, {11, "answered 11 for 10"}, {INT64_MAX, "answered"}};
    for (int i = 0; i < RAMET__COUNT(bad); i++) {
        int64_t answer = bad[i].answer;
        ramet_source s = {.struct_size = sizeof s, .kind = RAMET_SOURCE_CALLBACKS, .read = misbehave, .user = &answer, .length = 100};
        ramet__reader *r;
        char got[100];
        assert_ok(ramet__reader_open(&r, mem, &s));
        assert_fails(ramet__reader_read(r, got, 5, 10), RAMET_E_IO, bad[i].says);
        ramet__reader_free(r);
    }
}

static void test_a_source_of_an_older_caller(void **state) {
    ramet_source s;
    memset(&s, 0xEE, sizeof s);
    ramet_source_from_path(&s, 16, path); /* struct_size, kind, path */
    assert_int_equal(s.struct_size, 16);
    assert_int_equal(((unsigned char *)&s)[16], 0xEE);
    ramet__reader *r;
    assert_ok(ramet__reader_open(&r, mem, &s));
    assert_int_equal(ramet__reader_size(r), SIZE);
    ramet__reader_free(r);
}

static void test_read_all(void **state) {
    char *data = NULL;
    size_t size = 7;
    assert_ok(ramet__file_read_all(&data, &size, mem, path, 0));
    assert_int_equal(size, SIZE);
    assert_memory_equal(data, content, SIZE);
    assert_int_equal(data[SIZE], 0);
    ramet__free(data);
    data = NULL;
    assert_fails(ramet__file_read_all(&data, &size, mem, path, SIZE - 1), RAMET_E_LIMIT, "300000 bytes; at most 299999");
    assert_fails(ramet__file_read_all(&data, &size, mem, "/nowhere", 0), RAMET_E_NOT_FOUND, "/nowhere");
    assert_null(data);
    counting c = {0};
    ramet__mem *failing;
    assert_ok(ramet__mem_create(&failing, counting_alloc, &c, 0));
    for (int64_t n = 1; n <= 2; n++) {
        c.fail_at = c.calls + n;
        assert_int_equal(ramet__file_read_all(&data, &size, failing, path, 0), RAMET_E_MEMORY);
        assert_null(data);
        c.calls = c.fail_at;
    }
    ramet__mem_free(failing);
    assert_int_equal(c.blocks + c.wrong, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_sources_give_the_same_bytes),
        cmocka_unit_test(test_bad_sources_are_refused),
        cmocka_unit_test(test_a_named_pipe_does_not_block),
        cmocka_unit_test(test_empty_contents),
        cmocka_unit_test(test_a_shrinking_untrusted_file_is_an_io_error),
        cmocka_unit_test(test_bad_callbacks_are_answered),
        cmocka_unit_test(test_a_source_of_an_older_caller),
        cmocka_unit_test(test_read_all),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
