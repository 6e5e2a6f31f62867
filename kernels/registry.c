/* SPDX-License-Identifier: Apache-2.0 */
/* registry.c - the tables of kernels and the list of products, generated from registry.def: ref fills a table, each level overwrites
 * what it does better (of two initializers of a field the later wins). Everything is static const. The build defines RAMET__BUILD_SIMD,
 * RAMET__BUILD_AVX2, _AVXVNNI, _AVX512, _AMX, _DOTPROD and _I8MM for the libraries it links. */
#include "registry.h"
#include <string.h>

#ifdef __GNUC__
#pragma GCC diagnostic ignored "-Woverride-init"
#pragma GCC diagnostic ignored "-Woverlength-strings"
#endif

#define FIELD(op, level) .op = ramet__##op##_##level,

/* <table>_<level of the line>: what a line becomes in a table. */
#define ref_ref(f, x) f(x, ref)
#define ref_simd(f, x)
#define ref_vec(f, x)
#define ref_wide(f, x)
#define ref_avx2(f, x)
#define ref_avx512(f, x)
#define ref_dotprod(f, x)
#define ref_bf16(f, x)
#define ref_amx(f, x)
#define simd_ref(f, x) f(x, ref)
#define simd_simd(f, x) f(x, simd)
#define simd_vec(f, x) f(x, simd)
#ifdef __aarch64__
#define simd_wide(f, x) f(x, simd)
#else
#define simd_wide(f, x)
#endif
#define simd_avx2(f, x)
#define simd_avx512(f, x)
#define simd_dotprod(f, x)
#define simd_bf16(f, x)
#define simd_amx(f, x)
#define avx2_ref(f, x) f(x, ref)
#define avx2_simd(f, x) f(x, avx2)
#define avx2_vec(f, x) f(x, avx2)
#define avx2_wide(f, x) f(x, avx2)
#define avx2_avx2(f, x) f(x, avx2)
#define avx2_avx512(f, x)
#define avx2_dotprod(f, x)
#define avx2_bf16(f, x)
#define avx2_amx(f, x)
#define avx512_ref(f, x) f(x, ref)
#define avx512_simd(f, x) f(x, avx2)
#define avx512_vec(f, x) f(x, avx512)
#define avx512_wide(f, x) f(x, avx2)
#define avx512_avx2(f, x) f(x, avx2)
#define avx512_avx512(f, x) f(x, avx512)
#define avx512_dotprod(f, x)
#define avx512_bf16(f, x)
#define avx512_amx(f, x)
#define dotprod_ref(f, x) f(x, ref)
#define dotprod_simd(f, x) f(x, simd)
#define dotprod_vec(f, x) f(x, simd)
#define dotprod_wide(f, x) f(x, simd)
#define dotprod_avx2(f, x)
#define dotprod_avx512(f, x)
#define dotprod_dotprod(f, x) f(x, dotprod)
#define dotprod_bf16(f, x)
#define dotprod_amx(f, x)

/* ---- lists: an entry for every level that a line is compiled for; each table reads one list of products under its bit */
enum { IN_REF = 1, IN_SIMD = 2, IN_DOTPROD = 4, IN_AVX2 = 8, IN_AVX512 = 16, IN_AVX512_VNNI = 32, IN_AVX512_BF16 = 64, IN_AVXVNNI = 128, IN_I8MM = 256, IN_AMX = 512, IN_ALL = 1023 };
enum { ALL_AVX2 = IN_AVX2 | IN_AVXVNNI, ALL_SIMD = IN_SIMD | IN_DOTPROD | IN_I8MM };
#define IN_base (IN_AVX512 | IN_vnni)
#define IN_vnni (IN_AVX512_VNNI | IN_bf16)
#define IN_bf16 (IN_AVX512_BF16 | IN_AMX)
#define IN_alone 0
#define NONE(level, ...)
#ifdef RAMET__BUILD_SIMD
#define SIMD(f, ...) f(simd, ALL_SIMD, __VA_ARGS__)
#else
#define SIMD(f, ...)
#endif
#ifdef RAMET__BUILD_AVX2
#define AVX2(f, in, ...) f(avx2, in, __VA_ARGS__)
#else
#define AVX2(f, in, ...)
#endif
#ifdef RAMET__BUILD_AVX512
#define AVX512(f, in, ...) f(avx512, in, __VA_ARGS__)
#else
#define AVX512(f, in, ...)
#endif
#ifdef RAMET__BUILD_AMX
#define AMX(f, ...) f(amx, IN_AMX, __VA_ARGS__)
#else
#define AMX(f, ...)
#endif
#ifdef RAMET__BUILD_DOTPROD
#define DOTPROD(f, ...) f(dotprod, IN_DOTPROD | IN_I8MM, __VA_ARGS__)
#else
#define DOTPROD(f, ...)
#endif
#ifdef RAMET__BUILD_AVXVNNI
#define AVXVNNI(f, ...) f(avxvnni, IN_AVXVNNI, __VA_ARGS__)
#else
#define AVXVNNI(f, ...)
#endif
#ifdef RAMET__BUILD_I8MM
#define I8MM(f, ...) f(i8mm, IN_I8MM, __VA_ARGS__)
#else
#define I8MM(f, ...)
#endif
#define EACH_ref(f, needs, ...) f(ref, IN_ALL, __VA_ARGS__)
#define EACH_simd(f, needs, ...) SIMD(f, __VA_ARGS__) AVX2(f, ALL_AVX2 | IN_base, __VA_ARGS__)
#ifdef __aarch64__
#define EACH_wide(f, needs, ...) SIMD(f, __VA_ARGS__)
#else
#define EACH_wide(f, needs, ...) AVX2(f, ALL_AVX2 | IN_base, __VA_ARGS__)
#endif
#define EACH_vec(f, needs, ...) SIMD(f, __VA_ARGS__) AVX2(f, ALL_AVX2, __VA_ARGS__) AVX512(f, IN_##needs, __VA_ARGS__)
#define EACH_avx2(f, needs, ...) AVX2(f, ALL_AVX2 | IN_##needs, __VA_ARGS__)
#define EACH_avxvnni(f, needs, ...) AVXVNNI(f, __VA_ARGS__)
#define EACH_avx512(f, needs, ...) AVX512(f, IN_##needs, __VA_ARGS__)
#define EACH_amx(f, needs, ...) AMX(f, __VA_ARGS__)
#define EACH_dotprod(f, needs, ...) DOTPROD(f, __VA_ARGS__)
#define EACH_i8mm(f, needs, ...) I8MM(f, __VA_ARGS__)
#define EACH_bf16(f, needs, ...) AVX512(f, IN_bf16, __VA_ARGS__)

#define RAMET__KERNEL(level, op, types)
#define RAMET__PRODUCT(level, needs, packing, encoding, arithmetic) EACH_##level(ITEM, needs, packing##_##encoding##_##arithmetic)
#define ITEM(level, in, name) &ramet__product_##name##_##level,
static const ramet__product *const products[] = {
#include "registry.def"
};
#undef ITEM
#define ITEM(level, in, name) in,
static const uint16_t product_in[] = {
#include "registry.def"
};
#undef RAMET__PRODUCT
#undef RAMET__KERNEL

#define NEEDS_base ""
#define NEEDS_alone ""
#define NEEDS_vnni "needs VNNI"
#define NEEDS_bf16 "needs BF16"
#define ENTRY(level, in, name, detail) #level "/" name "\0" detail "\0"
#define RAMET__KERNEL(level, op, types) EACH_##level(ENTRY, base, #op, types)
#define RAMET__PRODUCT(level, needs, packing, encoding, arithmetic) \
    EACH_##level(ENTRY, needs, "linear/" #encoding "/" #packing "/" #arithmetic, NEEDS_##needs)
static const char listing[] = /* name, detail, name ...: one string wants no pointers that a loader would have to set */
#include "registry.def"
    ;
#undef RAMET__PRODUCT
#undef RAMET__KERNEL

/* ---- tables ------------------------------------------------------------------------------------------------------- */
#define RAMET__PRODUCT(level, needs, packing, encoding, arithmetic)
#define RAMET__KERNEL(level, op, types) ref_##level(FIELD, op)
static const ramet__kernels table_ref = {
#include "registry.def"
    .isa = "ref", .table = IN_REF};
#undef RAMET__KERNEL
#ifdef RAMET__BUILD_SIMD
#define RAMET__KERNEL(level, op, types) simd_##level(FIELD, op)
static const ramet__kernels table_simd = {
#include "registry.def"
    .isa = "simd", .table = IN_SIMD};
#undef RAMET__KERNEL
#endif
#ifdef RAMET__BUILD_DOTPROD
#define RAMET__KERNEL(level, op, types) dotprod_##level(FIELD, op)
static const ramet__kernels table_dotprod = {
#include "registry.def"
    .isa = "dotprod", .table = IN_DOTPROD};
#ifdef RAMET__BUILD_I8MM
static const ramet__kernels table_i8mm = {
#include "registry.def"
    .isa = "i8mm", .table = IN_I8MM};
#endif
#undef RAMET__KERNEL
#endif
#ifdef RAMET__BUILD_AVX2
#define RAMET__KERNEL(level, op, types) avx2_##level(FIELD, op)
static const ramet__kernels table_avx2 = {
#include "registry.def"
    .isa = "avx2", .table = IN_AVX2, .brain_rows = 32};
#ifdef RAMET__BUILD_AVXVNNI
static const ramet__kernels table_avxvnni = {
#include "registry.def"
    .isa = "avxvnni", .table = IN_AVXVNNI, .brain_rows = 32};
#endif
#undef RAMET__KERNEL
#endif
#ifdef RAMET__BUILD_AVX512
#define RAMET__KERNEL(level, op, types) avx512_##level(FIELD, op)
static const ramet__kernels table_avx512 = {
#include "registry.def"
    .isa = "avx512", .table = IN_AVX512};
static const ramet__kernels table_avx512_vnni = {
#include "registry.def"
    .isa = "avx512", .table = IN_AVX512_VNNI};
#undef avx512_bf16
#define avx512_bf16(f, x) f(x, avx512_bf16)
static const ramet__kernels table_avx512_bf16 = {
#include "registry.def"
    .isa = "avx512", .table = IN_AVX512_BF16};
#ifdef RAMET__BUILD_AMX
#undef avx512_amx
#define avx512_amx(f, x) f(x, amx)
static const ramet__kernels table_amx = {
#include "registry.def"
    .isa = "amx", .table = IN_AMX, .brain_rows = 16};
#endif
#undef RAMET__KERNEL
#endif
#undef RAMET__PRODUCT

const ramet__kernels *ramet__kernels_get(int32_t isa, uint32_t cpu) {
#ifdef RAMET__BUILD_AMX
    if (cpu & RAMET__HAS_AMX && cpu & RAMET__HAS_VNNI && cpu & RAMET__HAS_BF16) return &table_amx;
#endif
#ifdef RAMET__BUILD_AVX512
    if (cpu & RAMET__HAS_AVX512)
        return !(cpu & RAMET__HAS_VNNI) ? &table_avx512 : cpu & RAMET__HAS_BF16 ? &table_avx512_bf16 : &table_avx512_vnni;
#endif
#ifdef RAMET__BUILD_AVXVNNI
    if (cpu & RAMET__HAS_AVXVNNI) return &table_avxvnni;
#endif
#ifdef RAMET__BUILD_AVX2
    if (cpu & RAMET__HAS_AVX2) return &table_avx2;
#endif
#ifdef RAMET__BUILD_I8MM
    if (cpu & RAMET__HAS_I8MM) return &table_i8mm;
#endif
#ifdef RAMET__BUILD_DOTPROD
    if (cpu & RAMET__HAS_DOTPROD) return &table_dotprod;
#endif
#ifdef RAMET__BUILD_SIMD
    if (isa >= RAMET__LEVEL_SIMD) return &table_simd;
#endif
    return &table_ref;
}

const ramet__product *ramet__kernels_products(const ramet__kernels *k, int32_t *i) {
    for (; *i < (int32_t)(sizeof product_in / sizeof *product_in); ++*i)
        if (product_in[*i] & k->table) return products[(*i)++];
    return NULL;
}

const ramet__product *ramet__kernels_product(const ramet__kernels *k, const char *encoding, int32_t arithmetic) {
    const ramet__product *p, *of[3] = {NULL, NULL, NULL};
    const ramet__packing *packing = NULL; /* that of the encoding's first line: all arithmetics are taken from it */
    for (int32_t i = 0; (p = ramet__kernels_products(k, &i));) {
        if (packing ? p->packing != packing : strcmp(p->packing->encoding, encoding)) continue;
        packing = p->packing;
        if (!of[p->scheme->arithmetic]) of[p->scheme->arithmetic] = p;
    }
    if (arithmetic == RAMET__BRAIN && !of[RAMET__BRAIN]) arithmetic = RAMET__REDUCED;
    return of[arithmetic] ? of[arithmetic] : of[RAMET__EXACT];
}

int32_t ramet__kernels_list(int32_t i, const char **name, const char **detail) {
    const char *at = listing, *end = listing + sizeof listing - 1;
    for (int64_t skip = 2 * (int64_t)i; skip > 0 && at < end; skip--) at += strlen(at) + 1;
    if (i < 0 || at >= end) return 0;
    *name = at;
    *detail = at + strlen(at) + 1;
    return 1;
}
