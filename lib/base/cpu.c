/* SPDX-License-Identifier: Apache-2.0 */
/* cpu.c - CPUID and XGETBV on x86-64, the auxiliary vector on Linux for aarch64; other CPUs have the portable levels only. */
#include "cpu.h"
#include "ramet/base.h"
#include <string.h>
#if defined(__aarch64__) && defined(__linux__)
#  include <sys/auxv.h>
#elif defined(__x86_64__)
#  include <cpuid.h>
#  if defined(__linux__)
#    include <sys/syscall.h>
#    include <unistd.h>
#  endif
#endif

#if defined(__x86_64__)
static uint64_t xcr0(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

/* Linux gives the 8 KiB of tile state to a process that asks (once, inherited by its threads). */
static int amx_permitted(void) {
#  if defined(__linux__) && defined(SYS_arch_prctl)
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XFEATURE_XTILEDATA */) == 0;
#  else
    return 0;
#  endif
}

static int has(uint32_t word, uint32_t bits) { return (word & bits) == bits; }

uint32_t ramet__cpu_detect(void) {
    uint32_t a, b, c, d, flags = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    if (!has(c, 1u << 27)) return 0; /* OSXSAVE */
    const uint64_t state = xcr0();
    const int fma_avx_f16c = has(c, 1u << 12 | 1u << 28 | 1u << 29);
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const uint32_t b7 = b, c7 = c, d7 = d, more = a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) ? a : 0;
    if ((state & 0x6) != 0x6 || !fma_avx_f16c || !has(b7, 1u << 5)) return 0;
    flags |= RAMET__CPU_AVX2;
#ifdef RAMET__EMULATE_AVX512
    return flags | RAMET__CPU_AVXVNNI | RAMET__CPU_AVX512 | RAMET__CPU_AVX512_VNNI | RAMET__CPU_AVX512_BF16 | RAMET__CPU_AMX;
#endif
    if (has(more, 1u << 4)) flags |= RAMET__CPU_AVXVNNI;
    if ((state & 0xE6) != 0xE6 || !has(b7, 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31)) return flags;
    flags |= RAMET__CPU_AVX512;
    if (has(c7, 1u << 11)) flags |= RAMET__CPU_AVX512_VNNI;
    if (has(more, 1u << 5)) flags |= RAMET__CPU_AVX512_BF16;
#ifdef RAMET__EMULATE_AMX
    if (flags & RAMET__CPU_AVX512_BF16) return flags | RAMET__CPU_AMX;
#endif
    if (has(d7, 1u << 22 | 1u << 24 | 1u << 25) && (state & 0x60000) == 0x60000 && amx_permitted()) flags |= RAMET__CPU_AMX;
    return flags;
}
#elif defined(__aarch64__) && defined(__linux__)
uint32_t ramet__cpu_detect(void) {
    if (!(getauxval(AT_HWCAP) & 1u << 20 /* HWCAP_ASIMDDP */)) return 0;
    return getauxval(AT_HWCAP2) & 1u << 13 /* HWCAP2_I8MM */ ? RAMET__CPU_DOTPROD | RAMET__CPU_I8MM : RAMET__CPU_DOTPROD;
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD) /* what the compiler may take for granted, as on Apple's */
#  ifdef __ARM_FEATURE_MATMUL_INT8
uint32_t ramet__cpu_detect(void) { return RAMET__CPU_DOTPROD | RAMET__CPU_I8MM; }
#  else
uint32_t ramet__cpu_detect(void) { return RAMET__CPU_DOTPROD; }
#  endif
#else
uint32_t ramet__cpu_detect(void) { return 0; }
#endif

int32_t ramet__cpu_level(uint32_t flags) {
    if (flags & RAMET__CPU_AMX) return RAMET_ISA_AMX;
    if (flags & RAMET__CPU_AVX512) return RAMET_ISA_AVX512;
    if (flags & RAMET__CPU_AVXVNNI) return RAMET_ISA_AVXVNNI;
    if (flags & RAMET__CPU_AVX2) return RAMET_ISA_AVX2;
    if (flags & RAMET__CPU_I8MM) return RAMET_ISA_I8MM;
    if (flags & RAMET__CPU_DOTPROD) return RAMET_ISA_DOTPROD;
    return RAMET_ISA_SIMD; /* SSE2 and NEON are part of their architectures; elsewhere it is plain C */
}

uint32_t ramet__cpu_mask(uint32_t flags, int32_t isa) {
    enum { AVX2 = RAMET__CPU_AVX2, VNNI = AVX2 | RAMET__CPU_AVXVNNI, AVX512 = VNNI | RAMET__CPU_AVX512 | RAMET__CPU_AVX512_VNNI | RAMET__CPU_AVX512_BF16 };
    static const uint32_t allowed[RAMET__ISA_LAST + 1] = {[RAMET_ISA_AVX2] = AVX2, [RAMET_ISA_AVXVNNI] = VNNI, [RAMET_ISA_AVX512] = AVX512, [RAMET_ISA_AMX] = AVX512 | RAMET__CPU_AMX,
                                                         [RAMET_ISA_DOTPROD] = RAMET__CPU_DOTPROD, [RAMET_ISA_I8MM] = RAMET__CPU_DOTPROD | RAMET__CPU_I8MM};
    return isa < 0 ? 0 : flags & allowed[isa];
}

int32_t ramet__cpu_reach(uint32_t flags, int32_t isa) { return isa < RAMET_ISA_SIMD ? isa : ramet__cpu_level(ramet__cpu_mask(flags, isa)); }

static const char *const isa_names[] = {"ref", "simd", "avx2", "avx512", "amx", "dotprod", "avxvnni", "i8mm"};

int32_t ramet__cpu_isa_from_name(const char *name) {
    for (int32_t i = 0; i <= RAMET__ISA_LAST; i++)
        if (strcmp(name, isa_names[i]) == 0) return i;
    return -2;
}

const char *ramet__cpu_isa_name(int32_t isa) { return isa < 0 || isa > RAMET__ISA_LAST ? "unknown" : isa_names[isa]; }
