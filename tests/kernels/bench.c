/* SPDX-License-Identifier: Apache-2.0 */
/* bench.c - speeds of the kernels beside this machine's own limits, measured in the same run: fp32 FMA, int8 and bf16 dot products
 * from registers (bf16 by AMX where it is), and reading memory larger than the caches, in large pages where the system gives them. One thread. */
#include "check.h"
#include "blocks.h"
#include "registry.h"
#include "x86_amx/tile.h"
#include <sys/mman.h>
#include <time.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct limits { double fma, int8, bf16, bytes, bytes2; } limits; /* GFLOP/s, GOP/s, GFLOP/s, GB/s of 512 and of 24 MiB */
static volatile float sink;

#ifdef __x86_64__
/* Twelve independent chains from registers; answers operations (2 per multiply-add) per second / 1e9. */
#define PROBE(name, isa, type, zero, step, per_step)                                      \
    __attribute__((target(isa))) static double name(void) {                               \
        double best = 0;                                                                  \
        for (int trial = 0; trial < 5; trial++) {                                         \
            type s[12];                                                                   \
            double t = bench_now();                                                       \
            _Pragma("GCC unroll 12") for (int j = 0; j < 12; j++) s[j] = zero;            \
            for (int i = 0; i < 400000; i++)                                              \
                _Pragma("GCC unroll 12") for (int j = 0; j < 12; j++) {                   \
                    step;                                                                 \
                    __asm__ volatile("" : "+v"(s[j]));                                    \
                }                                                                         \
            t = bench_now() - t;                                                          \
            best = fmax(best, 400000.0 * 12 * per_step / t * 1e-9);                       \
            float out[16];                                                                \
            memcpy(out, &s[0], sizeof s[0]);                                              \
            sink = out[0];                                                                \
        }                                                                                 \
        return best;                                                                      \
    }
PROBE(probe_fma256, "avx2,fma", __m256, _mm256_set1_ps(1e-9f), s[j] = _mm256_fmadd_ps(s[j], s[j], s[j]), 16)
PROBE(probe_fma512, "avx512f", __m512, _mm512_set1_ps(1e-9f), s[j] = _mm512_fmadd_ps(s[j], s[j], s[j]), 32)
PROBE(probe_int8, "avx512f,avx512vnni", __m512i, _mm512_set1_epi32(1), s[j] = _mm512_dpbusd_epi32(s[j], s[j], s[j]), 128)
PROBE(probe_int8_256, "avx2", __m256i, _mm256_set1_epi32(1), s[j] = _mm256_add_epi16(s[j], _mm256_maddubs_epi16(s[j], s[j])), 64)
/* Four tiles of sums, as a product of 32 x 32 has them; all tiles are 16 rows of 64 bytes and hold zeros. */
#define PROBE_AMX(name, instruction, per_step)                                            \
    static double name(void) {                                                            \
        static const tile_config c = {.palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}}; \
        double best = 0;                                                                  \
        tile_configure(&c);                                                               \
        for (int trial = 0; trial < 5; trial++) {                                         \
            double t = bench_now();                                                       \
            for (int i = 0; i < 100000; i++)                                              \
                __asm__ volatile(instruction " %%tmm6, %%tmm4, %%tmm0; " instruction " %%tmm7, %%tmm4, %%tmm1; " \
                                 instruction " %%tmm6, %%tmm5, %%tmm2; " instruction " %%tmm7, %%tmm5, %%tmm3" ::: "memory"); \
            best = fmax(best, 100000.0 * 4 * per_step / (bench_now() - t) * 1e-9);        \
        }                                                                                 \
        tile_release();                                                                   \
        return best;                                                                      \
    }
#if defined(RAMET__BUILD_AMX) && !defined(RAMET__EMULATE_AMX)
PROBE_AMX(probe_amx_bf16, "tdpbf16ps", 16384)
#endif
PROBE(probe_bf16, "avx512f,avx512bf16", __m512, _mm512_set1_ps(1e-9f), s[j] = _mm512_dpbf16_ps(s[j], (__m512bh)s[j], (__m512bh)s[j]), 64)
#endif

static double probe_read(const uint8_t *p, size_t bytes) {
    double best = 0;
    for (int trial = 0; trial < 5; trial++) {
        double t = bench_now();
        uint64_t s[8] = {0};
        for (size_t i = 0; i < bytes; i += 64) {
            const uint64_t *q = (const uint64_t *)(const void *)(p + i);
            for (int j = 0; j < 8; j++) s[j] += q[j];
        }
        t = bench_now() - t;
        sink = (float)(s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7]);
        best = fmax(best, (double)bytes / t * 1e-9);
    }
    return best;
}

static limits measure(const ramet__kernels *k, uint32_t cpu, const uint8_t *memory, size_t bytes) {
    limits l = {0, 0, 0, probe_read(memory, bytes), probe_read(memory, 24u << 20)};
#ifdef __x86_64__
    if (cpu & RAMET__HAS_AVX2) l.fma = probe_fma256(), l.int8 = probe_int8_256();
    if ((!strcmp(k->isa, "avx512") || !strcmp(k->isa, "amx")) && cpu & RAMET__HAS_AVX512) {
        l.fma = probe_fma512();
        if (cpu & RAMET__HAS_VNNI) l.int8 = probe_int8();
        if (cpu & RAMET__HAS_BF16) l.bf16 = probe_bf16();
    }
#if defined(RAMET__BUILD_AMX) && !defined(RAMET__EMULATE_AMX)
    if (!strcmp(k->isa, "amx")) l.bf16 = probe_amx_bf16();
#endif
#endif
    return l;
}

/* Best seconds of a call, tried for about `budget` seconds. */
#define TIME(seconds, budget, call)                                                       \
    do {                                                                                  \
        double bench_end = bench_now() + (budget);                                        \
        seconds = 1e30;                                                                   \
        for (int bench_i = 0; bench_i < 3 || bench_now() < bench_end; bench_i++) {        \
            double bench_t = bench_now();                                                 \
            call;                                                                         \
            seconds = fmin(seconds, bench_now() - bench_t);                               \
        }                                                                                 \
    } while (0)

/* A matrix as the engine cuts it: pieces of so many rows x columns. */
static void run(const ramet__product *p, ramet__product_args a, int transposed) {
    const ramet__piece most = p->scheme->piece[transposed ? RAMET__BACK : RAMET__FORWARD];
    int64_t cols = transposed ? a.k : a.n, m = a.m;
    const uint8_t *x = a.x;
    float *y = a.y;
    for (int64_t r = 0; r < m; r += most.rows)
        for (int64_t c = 0; c < cols; c += most.cols) {
            a.m = m - r < most.rows ? m - r : most.rows;
            a.from = c; a.to = cols - c < most.cols ? cols : c + most.cols;
            a.x = x + r * a.x_stride * (transposed ? 4 : 1);
            a.y = y + r * a.y_stride;
            (transposed ? p->transposed : p->forward)(&a);
        }
}

static void bench_product(const ramet__product *p, const limits *l, uint8_t *memory, size_t memory_bytes, int slow) {
    static const int64_t shapes[][3] = {{1, 384, 576}, {1, 49152, 576}, {1, 1536, 576}, {2, 1536, 576}, {3, 1536, 576}, {4, 1536, 576}, {5, 1536, 576}, {8, 1536, 576}, {1, 576, 1536}, {256, 576, 576}, {256, 192, 576}, {256, 1536, 576}, {256, 576, 1536}, {512, 1536, 576}};
    int bf16 = strstr(p->scheme->name, "bf16") != NULL, int8 = strstr(p->scheme->name, "int8") != NULL;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
        if (slow && (m > 256 || n > 2000)) continue;
        const ramet__packing *g = p->packing;
        k = (k + check_block(g->encoding) - 1) / check_block(g->encoding) * check_block(g->encoding);
        uint64_t row_bytes = (uint64_t)check_row_bytes(g->encoding, k), each = g->in_place ? (uint64_t)n * row_bytes : g->bytes(n, k);
        uint8_t *rows = malloc((size_t)((uint64_t)n * row_bytes));
        check_encode(g->encoding, rows, n, k);
        /* few rows: copies of the weight side by side, so that each comes from memory; the first shape stays in the cache */
        each = (each + 63u) & ~(uint64_t)63u;
        int64_t copies = s && m <= 8 ? (int64_t)(memory_bytes / 2 / each) : 1;
        if (copies < 1) copies = 1;
        for (int64_t c = 0; c < copies; c++) {
            if (g->in_place) memcpy(memory + (uint64_t)c * each, rows, (size_t)((uint64_t)n * row_bytes));
            else if (c == 0) g->pack(memory, rows, n, k, 0, n);
            else memcpy(memory + (uint64_t)c * each, memory, (size_t)each);
        }
        int64_t wide = n > k ? n : k;
        float *x = malloc((size_t)(m * wide) * 4), *y = malloc((size_t)(m * wide) * 4);
        uint64_t pb = p->scheme->prepared_bytes(k);
        uint8_t *px = aligned_alloc(64, (size_t)((uint64_t)m * pb));
        void *scratch = aligned_alloc(64, (size_t)((p->scheme->scratch_bytes(m, n, k) + 127u) & ~(uint64_t)63u));
        check_fill(x, m * wide, 1);
        double prepare, seconds;
        TIME(prepare, 0.02, for (int64_t r = 0; r < m; r++) p->scheme->prepare(px + (uint64_t)r * pb, x + r * k, k));
        ramet__product_args a = {0};
        a.m = m; a.n = n; a.k = k; a.packed = memory; a.scratch = scratch;
        a.x = px; a.x_stride = (int64_t)pb; a.y = y; a.y_stride = n; a.to = n;
        if (m <= 8) {
            TIME(seconds, 0.2, for (int64_t c = 0; c < copies; c++) { a.packed = memory + (uint64_t)c * each; p->forward(&a); });
            seconds /= (double)copies;
            double rate = (double)each / seconds * 1e-9;
            printf("  %-5s %-20s %4d x %5d x %4d  forward    %8.1f GB/s  %3.0f%% of reading%s\n", g->encoding, p->scheme->name, (int)m, (int)n, (int)k, rate, 100 * rate / l->bytes,
                   s ? "" : ", in cache");
        } else {
            double flops = 2.0 * (double)m * (double)n * (double)k * 1e-9, limit = int8 ? l->int8 : bf16 ? l->bf16 : l->fma;
            TIME(seconds, 0.1, run(p, a, 0));
            printf("  %-5s %-20s %4d x %5d x %4d  forward    %8.1f GFLOP/s  %3.0f%% of %s (prepare adds %.0f%%)\n", g->encoding, p->scheme->name, (int)m, (int)n, (int)k,
                   flops / seconds, limit > 0 ? 100 * flops / seconds / limit : 0.0, int8 ? "int8" : bf16 ? "bf16" : "fp32", 100 * prepare / seconds);
            a.x = x; a.x_stride = n; a.y_stride = k;
            limit = bf16 ? l->bf16 : l->fma;
            TIME(seconds, 0.1, run(p, a, 1));
            printf("  %-5s %-20s %4d x %5d x %4d  transposed %8.1f GFLOP/s  %3.0f%% of %s\n", g->encoding, p->scheme->name, (int)m, (int)n, (int)k, flops / seconds,
                   limit > 0 ? 100 * flops / seconds / limit : 0.0, bf16 ? "bf16" : "fp32");
        }
        free(rows); free(x); free(y); free(px); free(scratch);
    }
}

static void bench_gemm(const ramet__kernels *k, const limits *l) {
    static const struct { const char *what; int kind; int64_t m, n, k; } shapes[] = {
        {"adapter down nt", 0, 256, 16, 576}, {"adapter up   nt", 0, 256, 576, 16}, {"adapter up   nt", 0, 256, 1536, 64}, {"adapter dx   nn", 1, 256, 576, 16},
        {"adapter dA   tn", 2, 16, 576, 256}, {"dW           tn", 2, 576, 1536, 256}, {"square       nt", 0, 512, 512, 512}, {"square       nn", 1, 512, 512, 512}};
    for (int s = 0; s < 8; s++) {
        int64_t m = shapes[s].m, n = shapes[s].n, d = shapes[s].k;
        float *a = malloc((size_t)(m * d) * 4), *b = malloc((size_t)(n * d) * 4), *c = malloc((size_t)(m * n) * 4);
        check_fill(a, m * d, 1); check_fill(b, n * d, 1);
        double seconds;
        TIME(seconds, 0.05, shapes[s].kind == 0 ? k->gemm_nt(c, n, a, d, b, d, m, n, d, 1, 0) : shapes[s].kind == 1 ? k->gemm_nn(c, n, a, d, b, n, m, n, d, 1, 0)
                                                                                          : k->gemm_tn(c, n, a, m, b, n, m, n, d, 1, 0));
        double rate = 2e-9 * (double)(m * n * d) / seconds;
        printf("  %s %4d x %4d x %4d %8.1f GFLOP/s %3.0f%% of fp32\n", shapes[s].what, (int)m, (int)n, (int)d, rate, l->fma > 0 ? 100 * rate / l->fma : 0.0);
        free(a); free(b); free(c);
    }
}

/* One kv head with 3 query heads of 64, as SmolLM2 has them. */
static void bench_attention_of(const ramet__kernels *k, const limits *l, int brain) {
    __typeof__(k->attention) attention = brain ? k->attention_brain : k->attention;
    __typeof__(k->attention_grad) attention_grad = brain ? k->attention_grad_brain : k->attention_grad;
    const double limit_of = brain ? l->bf16 : l->fma;
    const char *what = brain ? "bf16" : "fp32";
    static const int64_t shapes[][2] = {{1, 512}, {1, 2048}, {128, 128}, {256, 256}, {512, 512}};
    enum { GROUP = 3, HD = 64, BLOCK = 64 };
    for (int s = 0; s < 5; s++) {
        int64_t rows = shapes[s][0], keys = shapes[s][1], wide = GROUP * HD;
        float *q = malloc((size_t)(rows * wide) * 4), *o = malloc((size_t)(rows * wide) * 4), *dq = malloc((size_t)(rows * wide) * 4), *d_o = malloc((size_t)(rows * wide) * 4);
        float *kk = malloc((size_t)(keys * HD) * 4), *v = malloc((size_t)(keys * HD) * 4), *dk = malloc((size_t)(keys * HD) * 4), *dv = malloc((size_t)(keys * HD) * 4);
        float *lse = malloc((size_t)(rows * GROUP) * 4);
        const void *kb[64], *vb[64];
        int32_t limit[512];
        check_fill(q, rows * wide, 1); check_fill(kk, keys * HD, 1); check_fill(v, keys * HD, 1); check_fill(d_o, rows * wide, 1);
        for (int64_t b = 0; b < keys / BLOCK; b++) kb[b] = kk + b * BLOCK * HD, vb[b] = v + b * BLOCK * HD;
        for (int64_t r = 0; r < rows; r++) limit[r] = (int32_t)(keys - rows + r + 1);
        uint64_t bytes = (brain ? k->attention_brain_scratch : k->attention_scratch)(rows, GROUP, HD, BLOCK), grad = (brain ? k->attention_grad_brain_scratch : k->attention_grad_scratch)(rows, GROUP, HD);
        void *scratch = aligned_alloc(64, (size_t)((bytes > grad ? bytes : grad) + 127u) & ~(size_t)63u);
        double seconds, pairs = 0;
        for (int64_t r = 0; r < rows; r++) pairs += limit[r] * GROUP;
        TIME(seconds, 0.05, attention(o, wide, lse, GROUP, q, wide, rows, GROUP, HD, kb, vb, RAMET__KV_ROWS, HD, BLOCK, limit, 0.125f, scratch));
        double rate = 4e-9 * HD * pairs / seconds;
        printf("  attention      %4d rows %4d keys %8.1f us %8.1f GFLOP/s %3.0f%% of %s\n", (int)rows, (int)keys, seconds * 1e6, rate, limit_of > 0 ? 100 * rate / limit_of : 0.0, what);
        if (rows == 1) {
            uint16_t *half = malloc((size_t)(2 * keys * HD) * 2);
            k->to_half(half, kk, keys * HD);
            k->to_half(half + keys * HD, v, keys * HD);
            for (int64_t b = 0; b < keys / BLOCK; b++) kb[b] = half + b * BLOCK * HD, vb[b] = half + (keys + b * BLOCK) * HD;
            TIME(seconds, 0.05, attention(o, wide, lse, GROUP, q, wide, rows, GROUP, HD, kb, vb, RAMET__KV_CACHE_F16, HD, BLOCK, limit, 0.125f, scratch));
            printf("  attention f16  %4d rows %4d keys %8.1f us %8.1f GFLOP/s, %.1f GB/s\n", (int)rows, (int)keys, seconds * 1e6, 4e-9 * HD * pairs / seconds, 4e-9 * HD * (double)keys / seconds);
            free(half);
        }
        if (rows == keys) {
            TIME(seconds, 0.05, attention_grad(dq, dk, dv, q, kk, v, o, d_o, lse, GROUP, wide, HD, rows, GROUP, HD, 1, 0.125f, scratch));
            rate = 10e-9 * HD * pairs / seconds;
            printf("  attention_grad %4d rows %4d keys %8.1f us %8.1f GFLOP/s %3.0f%% of %s\n", (int)rows, (int)keys, seconds * 1e6, rate, limit_of > 0 ? 100 * rate / limit_of : 0.0, what);
        }
        free(q); free(o); free(dq); free(d_o); free(kk); free(v); free(dk); free(dv); free(lse); free(scratch);
    }
}
static void bench_attention(const ramet__kernels *k, const limits *l) {
    bench_attention_of(k, l, 0);
    if (k->attention_brain) bench_attention_of(k, l, 1);
}

static void bench_rows(const ramet__kernels *k) {
    enum { N = 1536 };
    float *a = malloc(N * 4), *b = malloc(N * 4), *c = malloc(N * 4), *d = malloc(N * 4), *e = malloc(N * 4), *f = malloc(49152 * 4), *g = malloc(49152 * 4);
    check_fill(a, N, 2); check_fill(b, N, 2); check_fill(c, N, 2); check_fill(f, 49152, 8);
    double t;
#define ROW(what, n, call) TIME(t, 0.02, for (int j = 0; j < 20; j++) call); printf("  %-20s %6d %8.2f elements/ns\n", what, n, 20.0 * n / t * 1e-9)
    ROW("add", N, k->add(d, a, b, N));
    ROW("dot", N, sink = k->dot(a, b, N));
    ROW("rms_norm", 576, k->rms_norm(d, a, b, 576, 1e-5f));
    ROW("rms_norm_grad", 576, k->rms_norm_grad(d, e, a, b, c, 576, 1e-5f));
    ROW("swiglu", N, k->swiglu(d, a, b, N));
    ROW("swiglu_grad", N, k->swiglu_grad(d, e, a, b, c, N));
    ROW("logsumexp", 49152, sink = k->logsumexp(f, 49152));
    ROW("softmax", 49152, k->softmax(g, f, 49152));
    free(a); free(b); free(c); free(d); free(e); free(f); free(g);
}

void bench(const ramet__kernels *const *tables, int count, uint32_t cpu, const char *only) {
    const size_t bytes = (size_t)256 << 20, page = (size_t)2 << 20;
    uint8_t *memory = aligned_alloc(page, bytes);
    if (!memory) return;
#ifdef MADV_HUGEPAGE
    (void)!madvise(memory, bytes, MADV_HUGEPAGE); /* packings ask for large pages too: small ones read slower and would flatter the kernels */
#endif
    memset(memory, 1, bytes);
    for (int i = 0; i < count; i++) {
        const ramet__kernels *k = tables[i];
        if (!strcmp(k->isa, "ref")) continue;
        limits l = measure(k, cpu, memory, bytes);
        printf("%s: fp32 %.0f GFLOP/s, int8 %.0f GOP/s, bf16 %.0f GFLOP/s, reading %zu MiB %.1f GB/s, 24 MiB %.1f GB/s\n", k->isa, l.fma, l.int8, l.bf16, bytes >> 20, l.bytes, l.bytes2);
        if (!i || strcmp(tables[i - 1]->isa, k->isa)) {
            if (!only || strstr("gemm", only)) bench_gemm(k, &l);
            if (!only || strstr("attention", only)) bench_attention(k, &l);
            if (!only || strstr("rows", only)) bench_rows(k);
        }
        const ramet__product *p, *q;
        for (int32_t at = 0; (p = ramet__kernels_products(k, &at));) {
            char name[96];
            snprintf(name, sizeof name, "%s/linear/%s/%s", k->isa, p->packing->encoding, p->scheme->name);
            int seen = 0; /* tables of higher levels list the products of lower ones too */
            for (int j = 0; j < i; j++)
                for (int32_t below = 0; (q = ramet__kernels_products(tables[j], &below));) seen |= q == p;
            if (seen || !strcmp(p->scheme->name, "tile16x64") || (only && !strstr(name, only))) continue;
            bench_product(p, &l, memory, bytes, 0);
        }
    }
    free(memory);
}
