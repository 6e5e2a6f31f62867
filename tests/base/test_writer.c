/* SPDX-License-Identifier: Apache-2.0 */
#include "base_test.h"
#include "base/file.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char folder[64], path[96];
static ramet__mem *mem;

static int setup(void **state) {
    test_folder(folder);
    snprintf(path, sizeof path, "%s/target", folder);
    return ramet__mem_create(&mem, NULL, NULL, 0);
}

/* Fails when a temp file is left over: the folder is not empty. */
static int teardown(void **state) {
    uint64_t now;
    ramet__mem_bytes(mem, &now, NULL);
    ramet__mem_free(mem);
    unlink(path);
    return rmdir(folder) != 0 || now > 512;
}

static ramet_status put(const char *name, const void *data, size_t size) {
    ramet__writer *w;
    RAMET__TRY(ramet__writer_open(&w, mem, name));
    const ramet_status st = ramet__writer_write(w, data, size);
    if (!st) return ramet__writer_commit(&w);
    ramet__writer_drop(&w);
    return st;
}

static void assert_file(const char *name, const void *data, size_t size) {
    char *got;
    size_t n;
    assert_ok(ramet__file_read_all(&got, &n, mem, name, 0));
    assert_int_equal(n, size);
    assert_memory_equal(got, data, size);
    ramet__free(got);
}

static int32_t entries(void) {
    char **names;
    int32_t n = 0;
    assert_ok(ramet__dir_list(&names, mem, folder));
    while (names[n]) n++;
    ramet__free(names);
    return n;
}

static void test_small_and_large_pieces_arrive_in_order(void **state) {
    enum { MOST = 900000 };
    unsigned char *want = malloc(MOST);
    for (int i = 0; i < MOST; i++) want[i] = (unsigned char)(i * 7 + (i >> 10));
    static const size_t step[] = {1, 5000, 262144, 262143, 262145, 3, 0, 50000};
    ramet__writer *w;
    assert_ok(ramet__writer_open(&w, mem, path));
    size_t at = 0;
    for (int i = 0; i < 8; i++) {
        assert_int_equal(ramet__writer_offset(w), at);
        assert_ok(ramet__writer_write(w, want + at, step[i]));
        at += step[i];
    }
    assert_int_equal(ramet__path_kind(path), 0); /* nothing there before the commit */
    assert_int_equal(entries(), 1);
    assert_ok(ramet__writer_commit(&w));
    assert_null(w);
    assert_file(path, want, at);
    assert_int_equal(entries(), 1);
    free(want);
}

static void test_dropping_keeps_the_old_file(void **state) {
    assert_ok(put(path, "old", 3));
    ramet__writer *w;
    assert_ok(ramet__writer_open(&w, mem, path));
    assert_ok(ramet__writer_write(w, "new content", 11));
    ramet__writer_drop(&w);
    assert_null(w);
    ramet__writer_drop(&w);
    ramet__writer_drop(NULL);
    assert_file(path, "old", 3);
    assert_int_equal(entries(), 1);
    assert_ok(put(path, "new", 3));
    assert_file(path, "new", 3);
    assert_ok(put(path, "", 0));
    assert_file(path, "", 0);
}

/* A file-size limit stands for the full disk: the same failing write(2). */
static void test_a_full_disk_keeps_the_old_file(void **state) {
    static char big[600000];
    struct rlimit old, small;
    assert_ok(put(path, "old", 3));
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 300000;
    setrlimit(RLIMIT_FSIZE, &small);
    ramet__writer *w = NULL;
    const ramet_status opened = ramet__writer_open(&w, mem, path);
    const ramet_status first = ramet__writer_write(w, big, sizeof big);
    char said[256];
    snprintf(said, sizeof said, "%s", ramet_last_error());
    const ramet_status again = ramet__writer_write(w, "x", 1), commit = ramet__writer_commit(&w);
    ramet__writer *late = NULL;
    const ramet_status late_open = ramet__writer_open(&late, mem, path); /* fails in the commit: the last bytes are in the buffer */
    for (int i = 0; i < 350; i++) ramet__writer_write(late, big, 1000);
    const ramet_status late_commit = ramet__writer_commit(&late);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(opened, RAMET_OK);
    assert_int_equal(first, RAMET_E_IO);
    assert_contains(said, "offset 300000");
    assert_int_equal(again, RAMET_E_IO);
    assert_int_equal(commit, RAMET_E_IO);
    assert_int_equal(late_open, RAMET_OK);
    assert_int_equal(late_commit, RAMET_E_IO);
    assert_null(w);
    assert_null(late);
    assert_file(path, "old", 3);
    assert_int_equal(entries(), 1);
}

static void test_rights_and_links_are_kept(void **state) {
    char link[96];
    struct stat info;
    snprintf(link, sizeof link, "%s/link", folder);
    assert_ok(put(path, "old", 3));
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(symlink(path, link), 0);
    assert_ok(put(link, "through", 7));
    assert_int_equal(lstat(link, &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_file(path, "through", 7);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
    assert_ok(ramet__file_remove(link));
    assert_fails(ramet__file_remove(link), RAMET_E_NOT_FOUND, "link: cannot be removed");
    assert_fails(ramet__file_remove(NULL), RAMET_E_ARGUMENT, "NULL");
}

static void test_bad_targets(void **state) {
    ramet__writer *w = NULL;
    char below[128];
    snprintf(below, sizeof below, "%s/none/target", folder);
    assert_fails(ramet__writer_open(&w, mem, NULL), RAMET_E_ARGUMENT, "NULL");
    assert_fails(ramet__writer_open(&w, mem, ""), RAMET_E_ARGUMENT, "empty");
    assert_fails(ramet__writer_open(&w, mem, below), RAMET_E_NOT_FOUND, "none/target");
    assert_fails(ramet__writer_open(&w, mem, folder), RAMET_E_ARGUMENT, "not a regular file");
    assert_fails(ramet__writer_open(&w, mem, "/dev/null"), RAMET_E_ARGUMENT, "not a regular file");
    assert_null(w);
    char here[64];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(folder), 0); /* a name without a folder */
    const ramet_status st = put("target", "rel", 3);
    assert_int_equal(chdir(here), 0);
    assert_ok(st);
    assert_file(path, "rel", 3);
}

static void test_open_survives_every_failing_allocation(void **state) {
    counting c = {0};
    ramet__mem *failing;
    ramet__writer *w = NULL;
    assert_ok(ramet__mem_create(&failing, counting_alloc, &c, 0));
    for (int64_t n = 1; n <= 5; n++) {
        c.calls = 0;
        c.fail_at = n;
        assert_int_equal(ramet__writer_open(&w, failing, path), RAMET_E_MEMORY);
        assert_null(w);
        assert_int_equal(c.blocks, 1);
    }
    ramet__mem_free(failing);
    assert_int_equal(c.blocks + c.wrong, 0);
}

static void test_folders(void **state) {
    char deep[128], part[128];
    snprintf(deep, sizeof deep, "%s/a/b//c/", folder);
    assert_ok(ramet__dir_make(deep));
    assert_ok(ramet__dir_make(deep)); /* there already */
    assert_int_equal(ramet__path_kind(deep), 2);
    snprintf(part, sizeof part, "%s/a/x", folder);
    assert_ok(put(part, "1", 1));
    assert_int_equal(ramet__path_kind(part), 1);
    snprintf(deep, sizeof deep, "%s/a/x/y", folder);
    assert_fails(ramet__dir_make(deep), RAMET_E_IO, "cannot be made");
    snprintf(part, sizeof part, "%s/a/A", folder);
    assert_ok(put(part, "1", 1));
    char **names;
    snprintf(deep, sizeof deep, "%s/a", folder);
    assert_ok(ramet__dir_list(&names, mem, deep));
    assert_string_equal(names[0], "A");
    assert_string_equal(names[1], "b");
    assert_string_equal(names[2], "x");
    assert_null(names[3]);
    ramet__free(names);
    snprintf(deep, sizeof deep, "%s/a/b/c", folder);
    assert_ok(ramet__dir_list(&names, mem, deep));
    assert_null(names[0]);
    ramet__free(names);
    names = NULL;
    snprintf(deep, sizeof deep, "%s/a/zzz", folder);
    assert_fails(ramet__dir_list(&names, mem, deep), RAMET_E_NOT_FOUND, "zzz");
    assert_fails(ramet__dir_list(&names, mem, NULL), RAMET_E_ARGUMENT, "NULL");
    assert_fails(ramet__dir_make(""), RAMET_E_ARGUMENT, "empty");
    assert_null(names);
    assert_int_equal(ramet__path_kind(deep), 0);
    assert_int_equal(ramet__path_kind(NULL), 0);
    static const char *const files[] = {"x", "A"}, *const folders[] = {"b/c", "b", ""};
    for (int i = 0; i < 2; i++) {
        snprintf(deep, sizeof deep, "%s/a/%s", folder, files[i]);
        assert_ok(ramet__file_remove(deep));
    }
    for (int i = 0; i < 3; i++) {
        snprintf(deep, sizeof deep, "%s/a/%s", folder, folders[i]);
        assert_int_equal(rmdir(deep), 0);
    }
}

static void make(const char *suffix) {
    char name[128];
    snprintf(name, sizeof name, "%s%s", path, suffix);
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    fclose(f);
}

static void test_what_killed_writers_left_is_removed(void **state) {
    static const char *const stay[] = {".tmp-abcdefg", ".tmp-ABCDEFGH", ".tmp-abcdefgh.tmp", "2.tmp-abcdefgh"};
    ramet__writer *one, *two;
    unlink(path);
    for (size_t i = 0; i < sizeof stay / sizeof *stay; i++) make(stay[i]);
    make(".tmp-abcdefgh");
    make(".tmp-22222222");
    assert_int_equal(entries(), 6);
    assert_ok(ramet__writer_open(&one, mem, path));
    assert_int_equal(entries(), 5); /* the two are gone, and one is being written */
    assert_ok(ramet__writer_open(&two, mem, path));
    assert_int_equal(entries(), 6); /* a living writer keeps its file */
    ramet__writer_sweep(folder, NULL);
    assert_int_equal(entries(), 5); /* the other target's */
    assert_ok(ramet__writer_write(one, "one", 3));
    assert_ok(ramet__writer_write(two, "two", 3));
    assert_ok(ramet__writer_commit(&two));
    assert_file(path, "two", 3);
    assert_ok(ramet__writer_commit(&one));
    assert_file(path, "one", 3);
    for (size_t i = 0; i < 3; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", path, stay[i]);
        assert_ok(ramet__file_remove(name));
    }
    assert_int_equal(entries(), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_and_large_pieces_arrive_in_order),
        cmocka_unit_test(test_dropping_keeps_the_old_file),
        cmocka_unit_test(test_a_full_disk_keeps_the_old_file),
        cmocka_unit_test(test_rights_and_links_are_kept),
        cmocka_unit_test(test_bad_targets),
        cmocka_unit_test(test_open_survives_every_failing_allocation),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_what_killed_writers_left_is_removed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
