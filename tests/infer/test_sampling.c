/* SPDX-License-Identifier: Apache-2.0 */
/* test_sampling.c - filters against a plain sort, draws against their probabilities; and whole UTF-8 characters out of pieces. */
#include "../model/support.h"
#include "base/rng.h"
#include "infer/utf8.h"
#include "ramet/session.h"

#define N 500

static float logits[N];

static void make_logits(uint64_t seed) { /* with ties and a masked id */
    for (int i = 0; i < N; i++) logits[i] = (float)(floor(40 * ramet__rng_normal(seed, 0, (uint64_t)i)) / 16);
    logits[17] = -INFINITY;
    logits[18] = -0.0f, logits[19] = 0.0f;
}

/* The definition: sort, cut, renormalize. p[i]: probability of id i. */
static void reference(double *p, const ramet_sampling *s) {
    int order[N], n = N;
    double top = -INFINITY, sum = 0;
    for (int i = 0; i < N; i++) order[i] = i, p[i] = 0, top = fmax(top, logits[i]);
    for (int i = 1; i < N; i++) /* stable: larger first, then smaller id */
        for (int j = i; j && logits[order[j]] > logits[order[j - 1]]; j--) {
            int t = order[j];
            order[j] = order[j - 1], order[j - 1] = t;
        }
    if (s->top_k && s->top_k < n) n = s->top_k;
    if (s->top_p < 1) {
        double total = 0, at = 0;
        int m = 0;
        for (int i = 0; i < n; i++) total += exp(logits[order[i]] - top);
        while (m < n && (m == 0 || at < s->top_p * total)) at += exp(logits[order[m++]] - top);
        n = m;
    }
    if (s->min_p > 0)
        for (int i = n; i > 1; i--)
            if (exp(logits[order[i - 1]] - top) < s->min_p) n = i - 1;
    for (int i = 0; i < n; i++) sum += p[order[i]] = exp((logits[order[i]] - top) / s->temperature);
    for (int i = 0; i < N; i++) p[i] /= sum;
}

static void test_sampling_follows_the_definition(void **state) {
    static const struct { float temperature; int32_t top_k; float top_p, min_p; } cases[] = {
        {1, 0, 1, 0}, {.7f, 1, 1, 0}, {1.5f, 7, 1, 0}, {1, 0, .5f, 0}, {1, 0, 0, 0}, {.8f, 40, .9f, .05f}, {2, 0, .95f, .2f}, {1, 3, .99f, 0}, {1, 0, 1, 1}, {1, 499, .999f, 0}, {100, 1000, 1, .001f},
    };
    for (int32_t c = 0; c < RAMET__COUNT(cases); c++)
        for (uint64_t seed = 0; seed < 3; seed++) {
            enum { DRAWS = 2000 };
            ramet_sampling s;
            double p[N], chi = 0;
            int count[N] = {0}, cells = 0, again;
            ramet_sampling_init(&s, sizeof s);
            s.temperature = cases[c].temperature, s.top_k = cases[c].top_k, s.top_p = cases[c].top_p, s.min_p = cases[c].min_p, s.seed = seed;
            make_logits(seed + 10);
            reference(p, &s);
            for (int d = 0; d < DRAWS; d++) {
                int32_t id = -1;
                OK(ramet_sample(&id, logits, N, &s, 3, d));
                count[id]++;
                if (d == 5) {
                    OK(ramet_sample(&again, logits, N, &s, 3, d));
                    assert_int_equal(id, again);
                }
            }
            for (int i = 0; i < N; i++) {
                if (count[i] && p[i] == 0) fail_msg("case %d: id %d was drawn, but the filters drop it", c, i);
                if (DRAWS * p[i] < 5) continue;
                chi += (count[i] - DRAWS * p[i]) * (count[i] - DRAWS * p[i]) / (DRAWS * p[i]);
                cells++;
            }
            if (cells > 1 && chi > cells + 6 * sqrt(2.0 * cells)) fail_msg("case %d: chi square %.1f over %d ids", c, chi, cells);
        }
}

static void test_sampling_greedy_and_bad(void **state) {
    ramet_sampling s;
    int32_t id = -1;
    ramet_sampling_init(&s, sizeof s);
    make_logits(1);
    logits[3] = 50, logits[400] = 50;
    OK(ramet_sample(&id, logits, N, &s, 0, 0));
    assert_int_equal(id, 3);
    OK(ramet_sample(&id, logits, N, NULL, 0, 0));
    assert_int_equal(id, 3);
    s.temperature = NAN;
    REFUSED(RAMET_E_ARGUMENT, "temperature", ramet_sample(&id, logits, N, &s, 0, 0));
    s.temperature = 1;
    s.top_p = 1.5f;
    REFUSED(RAMET_E_ARGUMENT, "top_p", ramet_sample(&id, logits, N, &s, 0, 0));
    s.top_p = 1;
    s.top_k = -1;
    REFUSED(RAMET_E_ARGUMENT, "top_k", ramet_sample(&id, logits, N, &s, 0, 0));
    s.top_k = 0;
    logits[9] = NAN;
    REFUSED(RAMET_E_NUMERIC, "id 9", ramet_sample(&id, logits, N, &s, 0, 0));
    for (int i = 0; i < N; i++) logits[i] = -INFINITY;
    REFUSED(RAMET_E_NUMERIC, "no id", ramet_sample(&id, logits, N, &s, 0, 0));
}

static void test_utf8_whole_characters(void **state) {
    static const struct { const char *in, *out; } cases[] = {
        {"plain", "plain"}, {"h\xC3\xA9llo \xE2\x82\xAC \xF0\x9F\x98\x80", "h\xC3\xA9llo \xE2\x82\xAC \xF0\x9F\x98\x80"}, {"\x80", "\xEF\xBF\xBD"}, {"\xC0\xAF", "\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xE2\x82", "\xEF\xBF\xBD"}, {"\xE2\x82z", "\xEF\xBF\xBDz"}, {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}, {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xE2\xE2\x82\xAC", "\xEF\xBF\xBD\xE2\x82\xAC"}, {"\xF0\x9F\x98", "\xEF\xBF\xBD"}, {"", ""},
    };
    for (int32_t c = 0; c < RAMET__COUNT(cases); c++)
        for (size_t step = 1; step < 5; step++) { /* cut into pieces of every length */
            ramet__text t = {.mem = rt->mem};
            ramet__utf8 u = {{0}, 0};
            const size_t n = strlen(cases[c].in);
            for (size_t i = 0; i < n; i += step) ramet__utf8_add(&t, &u, cases[c].in + i, RAMET__MIN(step, n - i), 0);
            ramet__utf8_add(&t, &u, "", 0, 1);
            assert_string_equal(t.data ? t.data : "", cases[c].out);
            ramet__text_free(&t);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampling_follows_the_definition),
        cmocka_unit_test(test_sampling_greedy_and_bad),
        cmocka_unit_test(test_utf8_whole_characters),
    };
    return cmocka_run_group_tests(tests, make_runtime, drop_runtime);
}
