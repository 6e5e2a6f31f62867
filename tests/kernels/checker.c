/* SPDX-License-Identifier: Apache-2.0 */
/* checker.c - tests and benchmark of every kernel that this CPU can run, against ref or against sums in double.
 *   checker [--seed N] [--thorough] [--isa NAME] [--only TEXT]    exit code 1 when a kernel is wrong
 *   checker --bench [--isa NAME] [--only TEXT]                    speeds beside what this machine can do
 */
#include "check.h"
#include "base/cpu.h"
#include "ramet/base.h"
#include "registry.h"
#include <stdarg.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

_Static_assert((int)RAMET__LEVEL_REF == RAMET_ISA_REF && (int)RAMET__LEVEL_SIMD == RAMET_ISA_SIMD && (int)RAMET__LEVEL_AVX2 == RAMET_ISA_AVX2 &&
                   (int)RAMET__LEVEL_AVX512 == RAMET_ISA_AVX512 && (int)RAMET__LEVEL_AMX == RAMET_ISA_AMX && (int)RAMET__LEVEL_DOTPROD == RAMET_ISA_DOTPROD && (int)RAMET__LEVEL_AVXVNNI == RAMET_ISA_AVXVNNI &&
                   (int)RAMET__LEVEL_I8MM == RAMET_ISA_I8MM, "levels of kernels and of the API");
_Static_assert(RAMET__HAS_AVX2 == RAMET__CPU_AVX2 && RAMET__HAS_AVX512 == RAMET__CPU_AVX512 && RAMET__HAS_VNNI == RAMET__CPU_AVX512_VNNI &&
                   RAMET__HAS_BF16 == RAMET__CPU_AVX512_BF16 && RAMET__HAS_AMX == RAMET__CPU_AMX && RAMET__HAS_DOTPROD == RAMET__CPU_DOTPROD &&
                   RAMET__HAS_AVXVNNI == RAMET__CPU_AVXVNNI && RAMET__HAS_I8MM == RAMET__CPU_I8MM, "flags of kernels and of base");

static uint64_t state;
static int failures, shown;
const char *check_name = "";

uint64_t check_random(void) { /* splitmix64 */
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
float check_uniform(float lo, float hi) { return lo + (hi - lo) * (float)(check_random() >> 40) * 0x1p-24f; }
int64_t check_range(int64_t lo, int64_t hi) { return lo + (int64_t)(check_random() % (uint64_t)(hi - lo + 1)); }
void check_fill(float *x, int64_t n, float scale) { for (int64_t i = 0; i < n; i++) x[i] = check_uniform(-scale, scale); }

static struct { void *base; size_t bytes; } maps[256];
static int map_count;

void *check_memory(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    uint8_t *base = mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || map_count == 256 || mprotect(base + whole, page, PROT_NONE)) {
        fprintf(stderr, "checker: no memory\n");
        exit(2);
    }
    maps[map_count].base = base;
    maps[map_count++].bytes = whole + page;
    memset(base, 0xff, whole);
    return base + whole - bytes;
}
float *check_floats(int64_t n) { return check_memory((size_t)n * sizeof(float)); }
float *check_copy(const float *x, int64_t n) { float *y = check_floats(n); memcpy(y, x, (size_t)n * sizeof(float)); return y; }
void check_release(void) { while (map_count) { map_count--; munmap(maps[map_count].base, maps[map_count].bytes); } }

void check_fail(const char *format, ...) {
    static const char *last;
    failures++;
    if (last != check_name) shown = 0;
    last = check_name;
    if (shown++ >= 5) return;
    va_list args;
    va_start(args, format);
    printf("  WRONG %s: ", check_name);
    vprintf(format, args);
    printf("\n");
    va_end(args);
}
int check_near(double got, double want, double bound) { return isnan(want) ? isnan(got) : isinf(want) ? got == want : fabs(got - want) <= bound; }

int main(int argc, char **argv) {
    int benchmark = 0, thorough = 0, wanted = RAMET_ISA_AUTO;
    const char *only = NULL;
    uint64_t seed = (uint64_t)time(NULL);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--bench")) benchmark = 1;
        else if (!strcmp(argv[i], "--thorough")) thorough = 1;
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc) seed = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--isa") && i + 1 < argc) wanted = ramet__cpu_isa_from_name(argv[++i]);
        else if (!strcmp(argv[i], "--only") && i + 1 < argc) only = argv[++i];
        else { fprintf(stderr, "usage: checker [--bench] [--thorough] [--seed N] [--isa NAME] [--only TEXT]\n"); return 2; }
    }
    /* Every table there is for this CPU: the levels, and AVX-512 without what may be missing beside it. */
    uint32_t cpu = ramet__cpu_detect();
    const ramet__kernels *tables[10], *ref = ramet__kernels_get(RAMET__LEVEL_REF, 0);
    int count = 0;
    for (int32_t level = RAMET__LEVEL_REF; level <= RAMET__LEVEL_I8MM; level++)
        for (uint32_t drop = 0; drop < 3; drop++) {
            uint32_t flags = ramet__cpu_mask(cpu, level) & ~(drop == 1 ? RAMET__HAS_BF16 : drop == 2 ? RAMET__HAS_BF16 | RAMET__HAS_VNNI : 0u);
            const ramet__kernels *k = ramet__kernels_get(level, flags);
            int seen = wanted >= 0 && strcmp(k->isa, ramet__cpu_isa_name(wanted));
            for (int i = 0; i < count; i++) seen |= tables[i] == k;
            if (!seen) tables[count++] = k;
        }
    if (benchmark) {
        bench(tables, count, cpu, only);
        return 0;
    }
    printf("seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < count; i++) {
        static const struct { const char *name; void (*run)(const ramet__kernels *, const ramet__kernels *, int); } parts[] = {
            {"products", check_products}, {"rows", check_rows}, {"gemm", check_gemm}, {"attention", check_attention}};
        for (int p = 0; p < 4; p++) {
            if (only && !strstr(parts[p].name, only)) continue;
            double start = bench_now();
            int before = failures;
            state = seed;
            parts[p].run(ref, tables[i], thorough);
            printf("%-8s%-12s%s %.2f s\n", tables[i]->isa, parts[p].name, failures == before ? "ok   " : "WRONG", bench_now() - start);
        }
    }
    check_release();
    printf("%d wrong\n", failures);
    return failures != 0;
}
