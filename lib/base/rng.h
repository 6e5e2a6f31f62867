/* SPDX-License-Identifier: Apache-2.0 */
/* rng.h - counter-based random numbers (Philox 4x32-10, Salmon et al., SC'11): a value is a function of (seed, stream,
 * counter), so any draw can be made again from three integers, by any thread, in any order. */
#ifndef RAMET__RNG_H
#define RAMET__RNG_H
#include <stdint.h>
void ramet__rng_block(uint32_t out[4], uint64_t seed, uint64_t stream, uint64_t counter);
uint32_t ramet__rng_u32(uint64_t seed, uint64_t stream, uint64_t counter);
double ramet__rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter);      /* [0,1), 53 bits */
double ramet__rng_normal(uint64_t seed, uint64_t stream, uint64_t counter);       /* Box-Muller */
uint64_t ramet__rng_below(uint64_t seed, uint64_t stream, uint64_t counter, uint64_t n); /* unbiased enough: 64-bit multiply */
/* perm[i] of a pseudo-random permutation of 0..n-1, computed without storing it (cycle-walking Feistel). */
uint64_t ramet__rng_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n);
#endif
