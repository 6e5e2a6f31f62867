/* SPDX-License-Identifier: Apache-2.0 */
/* graph_test.h - what the tests of graph/ share: random variables and weights, a run by names, tolerances. */
#ifndef GRAPH_TEST_H
#define GRAPH_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/rng.h"
#include "graph/op.h"
#include "../tools/resize.h"

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        ramet_status ok_ = (call);                                                                                     \
        if (ok_) {                                                                                                     \
            print_error("%s:%d: %s: %s\n", __FILE__, __LINE__, ramet_status_name(ok_), ramet_last_error());            \
            fail();                                                                                                    \
        }                                                                                                              \
    } while (0)
#define FAILS(status, call, text)                                                                                      \
    do {                                                                                                               \
        ramet_status got_ = (call);                                                                                    \
        if (got_ != (status) || !strstr(ramet_last_error(), text)) {                                                   \
            print_error("%s:%d: got %s '%s', wanted %s '%s'\n", __FILE__, __LINE__, ramet_status_name(got_),           \
                        ramet_last_error(), ramet_status_name(status), text);                                          \
            fail();                                                                                                    \
        }                                                                                                              \
    } while (0)

static inline ramet_runtime *test_runtime(int32_t threads) {
    ramet_runtime_options o;
    ramet_runtime *rt = NULL;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = threads;
    OK(ramet_runtime_create(&rt, &o));
    return rt;
}
static inline float uniform(uint64_t stream, int64_t i) {
    return (float)(2.0 * ramet__rng_uniform(7, stream, (uint64_t)i) - 1.0);
}
static inline float *random_floats(int64_t n, uint64_t stream, float size) {
    float *x = malloc((size_t)RAMET__MAX(1, n) * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = size * uniform(stream, i);
    return x;
}
/* A variable [n, k] (k 0: [n]) of random numbers; its name's first byte seeds them. */
static inline ramet__var make_var(const char *name, int64_t n, int64_t k, float size) {
    ramet__var v = {.name = name, .shape = {k ? 2 : 1, {n, k}}};
    v.data = random_floats(k ? n * k : n, (uint64_t)name[0] * 256 + (uint64_t)name[1], size);
    return v;
}
static inline ramet__weight *make_weight(ramet_runtime *rt, const char *name, ramet__enc enc, int64_t n, int64_t k,
                                         float size) {
    ramet__shape shape = {k ? 2 : 1, {n, k}};
    ramet__weight *w = NULL;
    int64_t count = k ? n * k : n;
    float *x = random_floats(count, (uint64_t)name[0] * 256 + (uint64_t)name[strlen(name) - 1], size);
    OK(ramet__weight_new(&w, rt, name, enc, &shape));
    ramet__encoding_get(enc)->encode(ramet__weight_mutable(w), x, count);
    free(x);
    return w;
}
static inline void give(ramet__run *run, const char *name, const void *data) {
    run->input[run->n_inputs].name = name;
    run->input[run->n_inputs++].data = data;
}
static inline const float *output(const ramet__plan *p, const char *name) {
    const float *x = ramet__plan_output(p, name, NULL, NULL);
    if (!x) fail_msg("no output '%s'", name);
    return x;
}
/* |got - want| <= tolerance * size, element by element */
static inline void near(const float *got, const double *want, int64_t n, double tolerance, const char *what) {
    double size = 1e-30;
    for (int64_t i = 0; i < n; i++) size = RAMET__MAX(size, fabs(want[i]));
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= tolerance * size)) {
            print_error("%s[%lld]: got %.9g, want %.9g (size %.3g)\n", what, (long long)i, got[i], want[i], size);
            fail();
        }
}
/* An allocator that counts its calls. */
static int64_t alloc_calls;
static inline void *counting(void *ptr, size_t old, size_t size, size_t alignment, void *user) {
    (void)user;
    __atomic_fetch_add(&alloc_calls, 1, __ATOMIC_RELAXED);
    return resized(ptr, old, size, alignment);
}
#endif
