/* SPDX-License-Identifier: Apache-2.0 */
/* tile.h - the instructions of AMX that are used. In assembly, each with a memory clobber: compilers' own forms lack it, and GCC 12 believes that
 * loading a configuration reads eight bytes. The tests compile with RAMET__EMULATE_AMX, where a model in C takes their place. */
#ifndef RAMET__TILE_AMX_H
#define RAMET__TILE_AMX_H
#include <stdint.h>

typedef struct tile_config { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; } tile_config; /* of a row of each tile; rows */

#ifdef RAMET__EMULATE_AMX
#include "x86_amx/emulated.h"
#else
#define tile_configure(c) __asm__ volatile("ldtilecfg %0" ::"m"(*(c)) : "memory")
#define tile_release() __asm__ volatile("tilerelease" ::: "memory")
#define tile_clear(t) __asm__ volatile("tilezero %%tmm" #t ::: "memory")
#define tile_load(t, from, stride) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(from), "r"((int64_t)(stride)) : "memory")
#define tile_store(t, to, stride) __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(to), "r"((int64_t)(stride)) : "memory")
#define tile_multiply(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory") /* c += a b, pairs of bf16 */
#endif
#endif
