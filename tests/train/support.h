/* SPDX-License-Identifier: Apache-2.0 */
/* support.h - for the tests of this folder: the tiny model under a runtime with any number of threads, texts, whole files. */
#ifndef TRAIN_SUPPORT_H
#define TRAIN_SUPPORT_H
#include "base/rng.h"
#include "train/train.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define ok(call)                                                                                                                           \
    do {                                                                                                                                   \
        ramet_status st_ = (call);                                                                                                         \
        if (st_) print_error("%s: %s\n", #call, ramet_last_error());                                                                       \
        assert_int_equal(st_, RAMET_OK);                                                                                                   \
    } while (0)
#define fails(call, status, part) do { \
        assert_int_equal((call), (status)); \
        if (!strstr(ramet_last_error(), (part))) fail_msg("the message is: %s", ramet_last_error()); \
    } while (0)

static inline ramet_model *tiny(int32_t threads) {
    const char *path = getenv("RAMET_TINY_MODEL");
    ramet_runtime_options o;
    ramet_runtime *rt = NULL;
    ramet_model *model = NULL;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = threads;
    assert_non_null(path);
    ok(ramet_runtime_create(&rt, &o));
    ok(ramet_model_load_path(&model, rt, path));
    ramet_runtime_free(rt);
    return model;
}

static const char *const prose[] = {
    "The river was in flood and the bridge had gone; the miller and his son stood on the bank and shouted to the other side.",
    "Nobody heard them there. It was the end of the year, and all the men were in the forest for wood.",
    "A shoot of a plant that lives on its own ground is still joined to the one that it came from.",
    "In the morning there was ice on the stones, and the water fell as fast as it had risen.",
};

static inline ramet_dataset *prose_data(ramet_model *model) {
    ramet_dataset *d = NULL;
    ok(ramet_dataset_create(&d, model));
    for (size_t i = 0; i < 4; i++) ok(ramet_dataset_add_text(d, prose[i], strlen(prose[i])));
    return d;
}

static inline char *whole_file(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *size, f), *size);
    fclose(f);
    return data;
}

static inline void write_file(const char *path, const void *data, size_t size) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static inline const char *scratch(const char *suffix) { /* one static name a suffix call; unique to the process */
    static char path[4][80];
    static int at;
    at = (at + 1) % 4;
    snprintf(path[at], sizeof path[at], "train-%ld%s", (long)getpid(), suffix);
    return path[at];
}
#endif
