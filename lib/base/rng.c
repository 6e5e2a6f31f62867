/* SPDX-License-Identifier: Apache-2.0 */
/* rng.c - Philox 4x32-10: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
 * Key = seed, counter words 0-1 = counter, words 2-3 = stream. */
#include "rng.h"
#include <math.h>

void ramet__rng_block(uint32_t out[4], uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

static uint64_t word64(const uint32_t *two) { return (uint64_t)two[1] << 32 | two[0]; }

uint32_t ramet__rng_u32(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t r[4];
    ramet__rng_block(r, seed, stream, counter);
    return r[0];
}

double ramet__rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t r[4];
    ramet__rng_block(r, seed, stream, counter);
    return (double)(word64(r) >> 11) * 0x1p-53;
}

double ramet__rng_normal(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t r[4];
    ramet__rng_block(r, seed, stream, counter);
    const double u = ((double)(word64(r) >> 11) + 1) * 0x1p-53; /* (0,1]: its logarithm is finite */
    const double v = (double)(word64(r + 2) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(6.283185307179586476925286766559 * v);
}

uint64_t ramet__rng_below(uint64_t seed, uint64_t stream, uint64_t counter, uint64_t n) {
    uint32_t r[4];
    ramet__rng_block(r, seed, stream, counter);
    /* High half of the 128-bit product of two 64-bit words, by 32-bit parts. */
    const uint64_t n0 = (uint32_t)n, n1 = n >> 32;
    const uint64_t mid = r[1] * n0 + ((r[0] * n0) >> 32);
    const uint64_t mid2 = r[0] * n1 + (uint32_t)mid;
    return r[1] * n1 + (mid >> 32) + (mid2 >> 32);
}

/* Below this many elements a Feistel network on so few bits reaches only some of the permutations; ranks reach all. */
#define RANK_MOST 64
#define FEISTEL_ROUNDS 6

static uint64_t rank_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n) {
    uint32_t r[4];
    ramet__rng_block(r, seed, stream, index);
    const uint64_t mine = word64(r);
    uint64_t rank = 0;
    for (uint64_t j = 0; j < n; j++) {
        ramet__rng_block(r, seed, stream, j);
        const uint64_t other = word64(r);
        rank += other < mine || (other == mine && j < index);
    }
    return rank;
}

uint64_t ramet__rng_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n) {
    if (index >= n) return index;
    if (n <= RANK_MOST) return rank_permute(seed, stream, index, n);
    int half = 1; /* two halves of `half` bits cover n; less than 4n values, so a walk takes less than 4 steps on average */
    while (half < 32 && (n - 1) >> (2 * half)) half++;
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    uint64_t x = index;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
            /* counter: the half (at most 32 bits) and, above it, a mark that no rank or draw by index uses */
            const uint64_t mixed = left ^ (ramet__rng_u32(seed, stream, (round + 1) << 56 | right) & mask);
            left = right;
            right = mixed;
        }
        x = left << half | right;
    } while (x >= n);
    return x;
}
