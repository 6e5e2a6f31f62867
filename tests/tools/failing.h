/* SPDX-License-Identifier: Apache-2.0 */
/* failing.h - the first, second, third ... allocation of a piece of work fails, alone or with all that follow, until it runs through: each time it is
 * a clean E_MEMORY, or the work is done without; every block goes back, and outputs are as they were. After SQLite's out-of-memory loop. */
#ifndef TOOLS_FAILING_H
#define TOOLS_FAILING_H
#include "ramet/ramet.h"
#include "resize.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct { int64_t countdown, live; int32_t lasting, failed, needed; } failing; /* needed: a block that did not only want to shrink was refused */

static void *failing_alloc(void *ptr, size_t old, size_t size, size_t alignment, void *user) {
    (void)user;
    if (!size) {
        failing.live -= ptr != NULL;
        return resized(ptr, old, size, alignment);
    }
    if (failing.countdown > 0 && --failing.countdown == 0) {
        if (failing.lasting) failing.countdown = 1;
        failing.failed = 1;
        failing.needed |= size > old;
        return NULL;
    }
    void *p = resized(ptr, old, size, alignment);
    failing.live += p && !ptr;
    return p;
}

/* For attempts: leave by `out` when a call fails. MAKE: and then its result must not have been touched. */
#define GO(call) do { if ((st = (call))) goto out; } while (0)
#define MAKE(result, call) do { \
        (result) = (void *)&failing; \
        st = (call); \
        if (((void *)(result) == (void *)&failing) != (st != 0)) fail_msg("%s: %d, and its result was %s", #call, st, st ? "touched" : "not set"); \
        if (st) { (result) = NULL; goto out; } \
    } while (0)

typedef ramet_status (*attempt_fn)(ramet_runtime *runtime, void *user);

/* at_least: fewer allocations than that mean that the attempt does not do its work. */
static inline void fail_each(attempt_fn attempt, void *user, int64_t at_least) {
    static const char *const kinds[] = {"once", "lasting"};
    ramet_runtime_options o;
    ramet_runtime *runtime = NULL;
    uint64_t bytes, now;
    int64_t n = 0;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 1;
    o.alloc = failing_alloc;
    memset(&failing, 0, sizeof failing);
    if (ramet_runtime_create(&runtime, &o) || attempt(runtime, user)) fail_msg("nothing was refused: %s", ramet_last_error()); /* what the runtime keeps is made now */
    const int64_t before = failing.live;
    ramet_runtime_bytes(runtime, &bytes, NULL);
    do {
        n++;
        for (failing.lasting = 0; failing.lasting < 2; failing.lasting++) {
            const char *kind = kinds[failing.lasting];
            failing.countdown = n;
            failing.failed = failing.needed = 0;
            const ramet_status st = attempt(runtime, user);
            failing.countdown = 0;
            ramet_runtime_bytes(runtime, &now, NULL);
            if (failing.live != before || now != bytes)
                fail_msg("allocation %lld, %s: %lld blocks and %lld bytes were lost; the call said: %s", (long long)n, kind, (long long)(failing.live - before),
                         (long long)(now - bytes), ramet_last_error());
            if (st ? !failing.failed || st != RAMET_E_MEMORY : failing.lasting && failing.needed)
                fail_msg("allocation %lld, %s: %s: %s", (long long)n, kind, ramet_status_name(st), st ? ramet_last_error() : "");
        }
    } while (failing.failed);
    assert_true(n > at_least);
    ramet_runtime_free(runtime);
    assert_int_equal(failing.live, 0);
}
#endif
