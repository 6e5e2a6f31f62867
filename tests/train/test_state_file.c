/* SPDX-License-Identifier: Apache-2.0 */
/* test_state_file.c - the optimizer's state in a file: the bits of one in memory, checkpoints that go from one to the other, the file's name and size, a disk
 * without room, a file that is there already. */
#include "tuner_support.h"
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static int setup(void **state) { return (*state = tiny(2)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

static void test_the_same_bits_as_in_memory(void **state) {
    static const char *const optimizers[] = {"adamw", "adamw8", "sgd"};
    for (int32_t i = 0; i < 6; i++) {
        ramet_tuner_options o = small(i % 2);
        const char *path = scratch(".moments"), *checkpoint = scratch(".half");
        struct stat s;
        o.optimizer = optimizers[i / 2];
        ramet_tuner *memory = made(*state, &o);
        o.state_path = path;
        o.state_keep = i == 0;
        ramet_tuner *file = made(*state, &o);
        assert_int_equal(stat(path, &s), i == 0 ? 0 : -1); /* without a name from the first */
        if (i == 0) assert_true((uint64_t)s.st_size >= (uint64_t)file->params.total * 8 && (uint64_t)s.st_blocks * 512 >= (uint64_t)s.st_size);
        assert_true(ramet__tuner_bytes(file) + (uint64_t)file->params.total < ramet__tuner_bytes(memory));
        stepped(memory, 2, 0);
        stepped(file, 2, 0);
        ok(ramet_tuner_save(memory, checkpoint)); /* of the one, */
        ok(ramet_tuner_resume(file, checkpoint)); /* for the other */
        stepped(memory, 1, 0);
        stepped(file, 1, 0);
        blob a = state_of(memory), b = state_of(file);
        same_state(&a, &b);
        free(a.data);
        free(b.data);
        ramet_tuner_free(memory);
        ramet_tuner_free(file);
        assert_int_equal(access(path, F_OK), i == 0 ? 0 : -1);
        unlink(path);
        unlink(checkpoint);
    }
}

static void test_what_is_refused(void **state) {
    ramet_tuner_options o = small(1);
    ramet_tuner *t = NULL;
    ramet_dataset *d = prose_data(*state);
    const char *path = scratch(".moments");
    o.state_keep = 1;
    fails(ramet_tuner_create(&t, *state, d, &o), RAMET_E_ARGUMENT, "state_path");
    write_file(path, "mine", 4);
    o.state_path = path;
    fails(ramet_tuner_create(&t, *state, d, &o), RAMET_E_IO, "exists");
    unlink(path);
    o.state_path = "no/such/folder";
    fails(ramet_tuner_create(&t, *state, d, &o), RAMET_E_NOT_FOUND, "no/such/folder");
    struct rlimit before, none; /* the disk is full */
    getrlimit(RLIMIT_FSIZE, &before);
    none = before;
    none.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &none);
    o.state_path = path;
    fails(ramet_tuner_create(&t, *state, d, &o), RAMET_E_IO, "no room for");
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(access(path, F_OK), -1);
    ramet_dataset_free(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_same_bits_as_in_memory), cmocka_unit_test(test_what_is_refused)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
