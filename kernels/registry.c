/* SPDX-License-Identifier: Apache-2.0 */
/* registry.c - the tables of kernels, generated from registry.def: ref fills a table, each level overwrites what it does
 * better (of two initializers of a field the later wins). Everything is static const. The build defines RAMET__BUILD_SIMD,
 * RAMET__BUILD_AVX2, RAMET__BUILD_AVX512 and RAMET__BUILD_DOTPROD for the libraries it links. */
#include "registry.h"
#include <string.h>

#ifdef __GNUC__
#pragma GCC diagnostic ignored "-Woverride-init"
#endif

#define FIELD(op, level) .op = ramet__##op##_##level,
#define ITEM(name, level) &ramet__product_##name##_##level,
#define DROP(name, level)

/* <table>_<level of the line>: what a line becomes in a table. */
#define ref_ref(f, x) f(x, ref)
#define ref_simd(f, x)
#define ref_vec(f, x)
#define ref_avx2(f, x)
#define ref_avx512(f, x)
#define ref_dotprod(f, x)
#define simd_ref(f, x) f(x, ref)
#define simd_simd(f, x) f(x, simd)
#define simd_vec(f, x) f(x, simd)
#define simd_avx2(f, x)
#define simd_avx512(f, x)
#define simd_dotprod(f, x)
#define avx2_ref(f, x) f(x, ref)
#define avx2_simd(f, x) f(x, avx2)
#define avx2_vec(f, x) f(x, avx2)
#define avx2_avx2(f, x) f(x, avx2)
#define avx2_avx512(f, x)
#define avx2_dotprod(f, x)
#define avx512_ref(f, x) f(x, ref)
#define avx512_simd(f, x) f(x, avx2)
#define avx512_vec(f, x) f(x, avx512)
#define avx512_avx2(f, x) f(x, avx2)
#define avx512_avx512(f, x) f(x, avx512)
#define avx512_dotprod(f, x)
#define dotprod_ref(f, x) f(x, ref)
#define dotprod_simd(f, x) f(x, simd)
#define dotprod_vec(f, x) f(x, simd)
#define dotprod_avx2(f, x)
#define dotprod_avx512(f, x)
#define dotprod_dotprod(f, x) f(x, dotprod)

/* ---- lists of products: what the CPU must have beside its level decides which lines are in ------------------------- */
#define RAMET__KERNEL(level, op, types)
#define WITH_base ITEM
#define WITH_vnni ITEM
#define WITH_bf16 ITEM
#define RAMET__PRODUCT(level, needs, packing, encoding, arithmetic) ref_##level(WITH_##needs, packing##_##encoding##_##arithmetic)
static const ramet__product *const products_ref[] = {
#include "registry.def"
    NULL};
#undef RAMET__PRODUCT
#ifdef RAMET__BUILD_SIMD
#define RAMET__PRODUCT(level, needs, packing, encoding, arithmetic) simd_##level(WITH_##needs, packing##_##encoding##_##arithmetic)
static const ramet__product *const products_simd[] = {
#include "registry.def"
    NULL};
#undef RAMET__PRODUCT
#endif
#ifdef RAMET__BUILD_DOTPROD
#define RAMET__PRODUCT(level, needs, packing, encoding, arithmetic) dotprod_##level(WITH_##needs, packing##_##encoding##_##arithmetic)
static const ramet__product *const products_dotprod[] = {
#include "registry.def"
    NULL};
#undef RAMET__PRODUCT
#endif
#ifdef RAMET__BUILD_AVX2
#define RAMET__PRODUCT(level, needs, packing, encoding, arithmetic) avx2_##level(WITH_##needs, packing##_##encoding##_##arithmetic)
static const ramet__product *const products_avx2[] = {
#include "registry.def"
    NULL};
#undef RAMET__PRODUCT
#endif
#ifdef RAMET__BUILD_AVX512
#define RAMET__PRODUCT(level, needs, packing, encoding, arithmetic) avx512_##level(WITH_##needs, packing##_##encoding##_##arithmetic)
static const ramet__product *const products_avx512_bf16[] = {
#include "registry.def"
    NULL};
#undef WITH_bf16
#define WITH_bf16 DROP
static const ramet__product *const products_avx512_vnni[] = {
#include "registry.def"
    NULL};
#undef WITH_vnni
#define WITH_vnni DROP
static const ramet__product *const products_avx512[] = {
#include "registry.def"
    NULL};
#undef RAMET__PRODUCT
#endif
#undef RAMET__KERNEL

/* ---- tables ------------------------------------------------------------------------------------------------------- */
#define RAMET__PRODUCT(level, needs, packing, encoding, arithmetic)
#define RAMET__KERNEL(level, op, types) ref_##level(FIELD, op)
static const ramet__kernels table_ref = {
#include "registry.def"
    .isa = "ref", .products = products_ref};
#undef RAMET__KERNEL
#ifdef RAMET__BUILD_SIMD
#define RAMET__KERNEL(level, op, types) simd_##level(FIELD, op)
static const ramet__kernels table_simd = {
#include "registry.def"
    .isa = "simd", .products = products_simd};
#undef RAMET__KERNEL
#endif
#ifdef RAMET__BUILD_DOTPROD
#define RAMET__KERNEL(level, op, types) dotprod_##level(FIELD, op)
static const ramet__kernels table_dotprod = {
#include "registry.def"
    .isa = "dotprod", .products = products_dotprod};
#undef RAMET__KERNEL
#endif
#ifdef RAMET__BUILD_AVX2
#define RAMET__KERNEL(level, op, types) avx2_##level(FIELD, op)
static const ramet__kernels table_avx2 = {
#include "registry.def"
    .isa = "avx2", .products = products_avx2};
#undef RAMET__KERNEL
#endif
#ifdef RAMET__BUILD_AVX512
#define RAMET__KERNEL(level, op, types) avx512_##level(FIELD, op)
static const ramet__kernels table_avx512 = {
#include "registry.def"
    .isa = "avx512", .products = products_avx512};
static const ramet__kernels table_avx512_vnni = {
#include "registry.def"
    .isa = "avx512", .products = products_avx512_vnni};
static const ramet__kernels table_avx512_bf16 = {
#include "registry.def"
    .isa = "avx512", .products = products_avx512_bf16};
#undef RAMET__KERNEL
#endif
#undef RAMET__PRODUCT

const ramet__kernels *ramet__kernels_get(int32_t isa, uint32_t cpu) {
#ifdef RAMET__BUILD_AVX512
    if (isa >= RAMET__LEVEL_AVX512 && cpu & RAMET__HAS_AVX512)
        return !(cpu & RAMET__HAS_VNNI) ? &table_avx512 : cpu & RAMET__HAS_BF16 ? &table_avx512_bf16 : &table_avx512_vnni;
#endif
#ifdef RAMET__BUILD_AVX2
    if (isa >= RAMET__LEVEL_AVX2 && cpu & RAMET__HAS_AVX2) return &table_avx2;
#endif
#ifdef RAMET__BUILD_DOTPROD
    if (isa >= RAMET__LEVEL_DOTPROD && cpu & RAMET__HAS_DOTPROD) return &table_dotprod;
#endif
#ifdef RAMET__BUILD_SIMD
    if (isa >= RAMET__LEVEL_SIMD) return &table_simd;
#endif
    return &table_ref;
}

const ramet__product *ramet__kernels_product(const ramet__kernels *k, const char *encoding, int32_t arithmetic, int64_t n, int64_t kdim) {
    const ramet__product *const *p = k->products, *of[3] = {NULL, NULL, NULL};
    while (*p && strcmp((*p)->packing->encoding, encoding)) p++;
    if (!*p) return NULL;
    /* The first line of an encoding decides the packing; all arithmetics are taken from it. */
    for (const ramet__packing *packing = (*p)->packing; *p; p++)
        if ((*p)->packing == packing && !of[(*p)->arithmetic]) of[(*p)->arithmetic] = *p;
    if (arithmetic == RAMET__BRAIN && !of[RAMET__BRAIN]) arithmetic = RAMET__REDUCED;
    return of[arithmetic] ? of[arithmetic] : of[RAMET__EXACT];
}

/* ---- listing ------------------------------------------------------------------------------------------------------- */
#define ENTRY(name, detail) {name, detail},
#ifdef RAMET__BUILD_SIMD
#define ENTRY_SIMD(post, detail) ENTRY("simd/" post, detail)
#else
#define ENTRY_SIMD(post, detail)
#endif
#ifdef RAMET__BUILD_AVX2
#define ENTRY_AVX2(post, detail) ENTRY("avx2/" post, detail)
#else
#define ENTRY_AVX2(post, detail)
#endif
#ifdef RAMET__BUILD_AVX512
#define ENTRY_AVX512(post, detail) ENTRY("avx512/" post, detail)
#else
#define ENTRY_AVX512(post, detail)
#endif
#ifdef RAMET__BUILD_DOTPROD
#define ENTRY_DOTPROD(post, detail) ENTRY("dotprod/" post, detail)
#else
#define ENTRY_DOTPROD(post, detail)
#endif
#define LIST_ref(post, detail) ENTRY("ref/" post, detail)
#define LIST_simd(post, detail) ENTRY_SIMD(post, detail) ENTRY_AVX2(post, detail)
#define LIST_vec(post, detail) ENTRY_SIMD(post, detail) ENTRY_AVX2(post, detail) ENTRY_AVX512(post, detail)
#define LIST_avx2(post, detail) ENTRY_AVX2(post, detail)
#define LIST_avx512(post, detail) ENTRY_AVX512(post, detail)
#define LIST_dotprod(post, detail) ENTRY_DOTPROD(post, detail)
#define NEEDS_base ""
#define NEEDS_vnni " with VNNI"
#define NEEDS_bf16 " with BF16"
static const struct { const char *name, *detail; } listing[] = {
#define RAMET__KERNEL(level, op, types) LIST_##level(#op, types)
#define RAMET__PRODUCT(level, needs, packing, encoding, arithmetic) \
    LIST_##level("linear/" #encoding "/" #packing "/" #arithmetic, #arithmetic " product of packing " #packing NEEDS_##needs)
#include "registry.def"
};

int32_t ramet__kernels_list(int32_t i, const char **name, const char **detail) {
    if (i < 0 || i >= (int32_t)(sizeof listing / sizeof *listing)) return 0;
    *name = listing[i].name;
    *detail = listing[i].detail;
    return 1;
}
