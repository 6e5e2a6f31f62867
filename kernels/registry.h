/* SPDX-License-Identifier: Apache-2.0 */
/* registry.h - declares every kernel of registry.def, and the numbers that ramet__kernels_get takes. */
#ifndef RAMET__REGISTRY_H
#define RAMET__REGISTRY_H
#include "blocks.h"
#include "kernels.h"

/* RAMET_ISA_* and RAMET__CPU_*, repeated because kernels include nothing above themselves; the checker compares them. */
enum { RAMET__LEVEL_REF, RAMET__LEVEL_SIMD, RAMET__LEVEL_AVX2, RAMET__LEVEL_AVX512, RAMET__LEVEL_AMX, RAMET__LEVEL_DOTPROD, RAMET__LEVEL_AVXVNNI, RAMET__LEVEL_I8MM };
enum { RAMET__HAS_AVX2 = 1, RAMET__HAS_AVX512 = 2, RAMET__HAS_VNNI = 4, RAMET__HAS_BF16 = 8, RAMET__HAS_AMX = 16, RAMET__HAS_DOTPROD = 32, RAMET__HAS_AVXVNNI = 64, RAMET__HAS_I8MM = 128 };

#define RAMET__DECLARE(op, level) extern __typeof__(*((ramet__kernels *)0)->op) ramet__##op##_##level;
#define RAMET__DECLARE_ref(op) RAMET__DECLARE(op, ref)
#define RAMET__DECLARE_simd(op) RAMET__DECLARE(op, simd) RAMET__DECLARE(op, avx2)
#define RAMET__DECLARE_wide RAMET__DECLARE_simd
#define RAMET__DECLARE_vec(op) RAMET__DECLARE(op, simd) RAMET__DECLARE(op, avx2) RAMET__DECLARE(op, avx512)
#define RAMET__DECLARE_avx2(op) RAMET__DECLARE(op, avx2)
#define RAMET__DECLARE_avx512(op) RAMET__DECLARE(op, avx512)
#define RAMET__DECLARE_bf16(op) RAMET__DECLARE(op, avx512_bf16)
#define RAMET__DECLARE_amx(op) RAMET__DECLARE(op, amx)
#define RAMET__DECLARE_PRODUCT(name, level) extern const ramet__product ramet__product_##name##_##level;
#define RAMET__DECLARE_PRODUCT_ref(name) RAMET__DECLARE_PRODUCT(name, ref)
#define RAMET__DECLARE_PRODUCT_simd(name) RAMET__DECLARE_PRODUCT(name, simd) RAMET__DECLARE_PRODUCT(name, avx2)
#define RAMET__DECLARE_PRODUCT_vec(name) RAMET__DECLARE_PRODUCT_simd(name) RAMET__DECLARE_PRODUCT(name, avx512)
#define RAMET__DECLARE_PRODUCT_avx2(name) RAMET__DECLARE_PRODUCT(name, avx2)
#define RAMET__DECLARE_PRODUCT_avx512(name) RAMET__DECLARE_PRODUCT(name, avx512)
#define RAMET__DECLARE_PRODUCT_amx(name) RAMET__DECLARE_PRODUCT(name, amx)
#define RAMET__DECLARE_PRODUCT_avxvnni(name) RAMET__DECLARE_PRODUCT(name, avxvnni)
#define RAMET__DECLARE_PRODUCT_dotprod(name) RAMET__DECLARE_PRODUCT(name, dotprod)
#define RAMET__DECLARE_PRODUCT_i8mm(name) RAMET__DECLARE_PRODUCT(name, i8mm)
#define RAMET__KERNEL(level, op, types) RAMET__DECLARE_##level(op)
#define RAMET__PRODUCT(level, needs, packing, encoding, arithmetic) RAMET__DECLARE_PRODUCT_##level(packing##_##encoding##_##arithmetic)
#include "registry.def"
RAMET__DECLARE(winograd, ref) /* a definition that no table has */
#undef RAMET__KERNEL
#undef RAMET__PRODUCT

/* Packings that several levels read. */
extern const ramet__packing ramet__packing_rows_F32, ramet__packing_rows_F16, ramet__packing_rows_BF16;
#define RAMET__PACKING(name, elements, bytes) extern const ramet__packing ramet__packing_rows_##name;
RAMET__LOW(RAMET__PACKING)
#undef RAMET__PACKING
#endif
