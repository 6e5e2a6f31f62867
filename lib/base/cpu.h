/* SPDX-License-Identifier: Apache-2.0 */
/* cpu.h - which instructions this CPU and operating system allow. kernels/registry uses the flags. */
#ifndef RAMET__CPU_H
#define RAMET__CPU_H
#include <stdint.h>
#define RAMET__CPU_AVX2 (1u << 0)       /* AVX2, FMA, F16C */
#define RAMET__CPU_AVX512 (1u << 1)     /* F, BW, VL, DQ, CD */
#define RAMET__CPU_AVX512_VNNI (1u << 2)
#define RAMET__CPU_AVX512_BF16 (1u << 3)
#define RAMET__CPU_AMX (1u << 4)        /* int8 and bf16, permission granted */
#define RAMET__CPU_DOTPROD (1u << 5)    /* aarch64: sdot, udot */
#define RAMET__CPU_AVXVNNI (1u << 6)    /* vpdpbusd beside AVX2 */
#define RAMET__CPU_I8MM (1u << 7)       /* aarch64: smmla */
#define RAMET__ISA_LAST RAMET_ISA_I8MM                             /* of the numbers */
uint32_t ramet__cpu_detect(void);                                 /* what is there */
int32_t ramet__cpu_level(uint32_t flags);                         /* highest RAMET_ISA_* these flags give */
uint32_t ramet__cpu_mask(uint32_t flags, int32_t isa);            /* flags allowed at a level */
int32_t ramet__cpu_reach(uint32_t flags, int32_t isa);             /* the highest RAMET_ISA_* that is there and not beyond isa */
int32_t ramet__cpu_isa_from_name(const char *name);               /* RAMET_ISA_*, or -2 */
const char *ramet__cpu_isa_name(int32_t isa);
#endif
