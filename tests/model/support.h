/* SPDX-License-Identifier: Apache-2.0 */
/* support.h - for the tests of this folder and of infer/: a runtime, the tiny fixture, paths to scratch files. */
#ifndef MODEL_SUPPORT_H
#define MODEL_SUPPORT_H
#include "model/model.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static ramet_runtime *rt;

static inline ramet_runtime *runtime_of(int32_t threads) {
    ramet_runtime_options o;
    ramet_runtime *made = NULL;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = threads;
    if (ramet_runtime_create(&made, &o)) fail_msg("runtime: %s", ramet_last_error());
    return made;
}

static inline int make_runtime(void **state) {
    rt = runtime_of(2);
    return 0;
}

static inline int drop_runtime(void **state) {
    uint64_t now = 1;
    ramet_runtime_bytes(rt, &now, NULL);
    ramet_runtime_free(rt);
    if (now > 65536) print_error("%llu bytes are still held\n", (unsigned long long)now);
    return now > 65536;
}

static inline const char *tiny_path(void) {
    const char *path = getenv("RAMET_TINY_MODEL");
    if (!path) skip();
    return path;
}

#define OK(call) do { ramet_status st_ = (call); if (st_) fail_msg("%s: %s: %s", #call, ramet_status_name(st_), ramet_last_error()); } while (0)
/* The call fails with `status` and a message that holds `part`. */
#define REFUSED(status, part, call) do { ramet_status st_ = (call); \
    if (st_ != (status) || !strstr(ramet_last_error(), part)) fail_msg("%s: %s: \"%s\"; expected %s with \"%s\"", #call, ramet_status_name(st_), st_ ? ramet_last_error() : "", ramet_status_name(status), part); } while (0)

static inline ramet_model *tiny(void) {
    ramet_model *m = NULL;
    OK(ramet_model_load_path(&m, rt, tiny_path()));
    return m;
}

static inline const char *scratch(const char *end) {
    static char path[4][96];
    static int at;
    char *p = path[at++ % 4];
    snprintf(p, sizeof path[0], "scratch-%ld%s", (long)getpid(), end);
    return p;
}
#endif
