/* SPDX-License-Identifier: Apache-2.0 */
#include "base_test.h"
#include "base/rng.h"
#include <math.h>

/* Random123 1.14, tests/kat_vectors, "philox4x32 10". */
static void test_philox_known_answers(void **state) {
    static const struct { uint64_t counter, stream, seed; uint32_t out[4]; } kat[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x85a308d3243f6a88, 0x0370734413198a2e, 0x299f31d0a4093822, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        ramet__rng_block(out, kat[i].seed, kat[i].stream, kat[i].counter);
        assert_memory_equal(out, kat[i].out, sizeof out);
        assert_int_equal(ramet__rng_u32(kat[i].seed, kat[i].stream, kat[i].counter), kat[i].out[0]);
    }
}

/* With n draws the mean is within 5 standard errors; a fixed seed makes the answer certain. */
static void test_uniform_and_normal_moments(void **state) {
    enum { N = 100000 };
    double sum = 0, sum2 = 0, least = 1, most = 0, nsum = 0, nsum2 = 0, nsum4 = 0;
    for (uint64_t i = 0; i < N; i++) {
        const double u = ramet__rng_uniform(1, 2, i), z = ramet__rng_normal(3, 4, i);
        assert_true(u >= 0 && u < 1 && isfinite(z));
        sum += u, sum2 += u * u, least = fmin(least, u), most = fmax(most, u);
        nsum += z, nsum2 += z * z, nsum4 += z * z * z * z;
    }
    assert_true(fabs(sum / N - 0.5) < 5 * sqrt(1.0 / 12 / N));
    assert_true(fabs(sum2 / N - 1.0 / 3) < 5 * sqrt(4.0 / 45 / N));
    assert_true(least < 1e-3 && most > 0.999);
    assert_true(fabs(nsum / N) < 5 / sqrt(N));
    assert_true(fabs(nsum2 / N - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(nsum4 / N - 3) < 5 * sqrt(96.0 / N));
}

static void test_below_is_the_high_product(void **state) {
    int64_t count[7] = {0};
    for (uint64_t i = 0; i < 70000; i++) {
        const uint64_t x = ramet__rng_below(5, 0, i, 7);
        assert_true(x < 7);
        count[x]++;
    }
    for (int i = 0; i < 7; i++) assert_in_range(count[i], 9500, 10500); /* 5 standard deviations of 93 */
    static const uint64_t n[] = {1, 2, UINT32_MAX, (uint64_t)1 << 32, 0x123456789abcdef1, UINT64_MAX};
    for (size_t k = 0; k < 6; k++)
        for (uint64_t i = 0; i < 1000; i++) {
            uint32_t r[4];
            ramet__rng_block(r, 6, 1, i);
#ifdef __SIZEOF_INT128__
            __extension__ typedef unsigned __int128 wide;
            const wide product = (wide)((uint64_t)r[1] << 32 | r[0]) * n[k];
            assert_true(ramet__rng_below(6, 1, i, n[k]) == (uint64_t)(product >> 64));
#endif
            assert_true(ramet__rng_below(6, 1, i, n[k]) < n[k]);
        }
    assert_int_equal(ramet__rng_below(5, 0, 0, 0), 0);
}

static void test_permute_is_a_permutation(void **state) {
    static const uint64_t sizes[] = {1, 2, 3, 5, 63, 64, 65, 100, 256, 257, 1000, 4097};
    static unsigned char seen[4097];
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        memset(seen, 0, sizeof seen);
        for (uint64_t i = 0; i < sizes[k]; i++) {
            const uint64_t x = ramet__rng_permute(9, k, i, sizes[k]);
            assert_true(x < sizes[k]);
            assert_int_equal(seen[x]++, 0);
        }
    }
    const uint64_t huge = ((uint64_t)1 << 62) + 12345; /* the walk ends there too */
    for (uint64_t i = 0; i < 100; i++) assert_true(ramet__rng_permute(9, 1, i, huge) < huge);
    for (uint64_t i = 0; i < 100; i++) assert_true(ramet__rng_permute(9, 1, UINT64_MAX - 1 - i, UINT64_MAX) < UINT64_MAX);
}

/* Chi-squared of where one index goes over many streams; the bounds hold with probability 1 - 1e-6, the seed is fixed. */
static void test_permute_reaches_every_place(void **state) {
    enum { N = 5, BIG = 100, DRAWS = 20000 };
    int64_t order[120] = {0}, place[BIG] = {0};
    for (uint64_t s = 0; s < DRAWS; s++) {
        int64_t code = 0;
        uint64_t p[N];
        for (uint64_t i = 0; i < N; i++) p[i] = ramet__rng_permute(11, s, i, N);
        for (int i = 0; i < N; i++) { /* factorial number of the permutation */
            int64_t smaller = 0;
            for (int j = i + 1; j < N; j++) smaller += p[j] < p[i];
            code = code * (N - i) + smaller;
        }
        order[code]++;
        place[ramet__rng_permute(12, s, 17, BIG)]++;
    }
    double chi = 0, chi_big = 0;
    for (int i = 0; i < 120; i++) chi += pow((double)order[i] - DRAWS / 120.0, 2) / (DRAWS / 120.0);
    for (int i = 0; i < BIG; i++) chi_big += pow((double)place[i] - (double)DRAWS / BIG, 2) / ((double)DRAWS / BIG);
    assert_true(chi < 203);     /* 119 degrees of freedom */
    assert_true(chi_big < 177); /* 99 degrees of freedom */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_uniform_and_normal_moments),
        cmocka_unit_test(test_below_is_the_high_product),
        cmocka_unit_test(test_permute_is_a_permutation),
        cmocka_unit_test(test_permute_reaches_every_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
