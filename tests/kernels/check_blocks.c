/* SPDX-License-Identifier: Apache-2.0 */
/* check_blocks.c - general products, attention and its gradient against ref, with bounds from the operands. */
#include "check.h"

static char name[64];
static void begin(const ramet__kernels *k, const char *op) {
    snprintf(name, sizeof name, "%s/%s", k->isa, op);
    check_name = name;
}

typedef void gemm(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, float alpha, int32_t accumulate);

static void check_one_gemm(gemm *f, int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, int32_t accumulate) {
    int64_t ra = ta ? k : m, ca = ta ? m : k, rb = tb ? n : k, cb = tb ? k : n;
    int64_t lda = ca + check_range(0, 3), ldb = cb + check_range(0, 3), ldc = n + check_range(0, 3);
    int64_t na = ra ? (ra - 1) * lda + ca : 0, nb = rb ? (rb - 1) * ldb + cb : 0, nc = (m - 1) * ldc + n;
    float *a = check_floats(na), *b = check_floats(nb), *c = check_floats(nc), *old;
    check_fill(a, na, 1); check_fill(b, nb, 1); check_fill(c, nc, 1);
    old = check_copy(c, nc);
    f(c, ldc, a, lda, b, ldb, m, n, k, alpha, accumulate);
    for (int64_t i = 0; i < m; i++) {
        if (i) CHECK(!memcmp(c + i * ldc - (ldc - n), old + i * ldc - (ldc - n), (size_t)(ldc - n) * 4), "wrote between rows");
        for (int64_t j = 0; j < n; j++) {
            double sum = 0, size = 0;
            for (int64_t l = 0; l < k; l++) {
                double v = (double)(ta ? a[l * lda + i] : a[i * lda + l]) * (double)(tb ? b[j * ldb + l] : b[l * ldb + j]);
                sum += v; size += fabs(v);
            }
            double start = accumulate ? (double)old[i * ldc + j] : 0.0, want = start + (double)alpha * sum;
            double bound = ULP * (((double)k + 4) * size * fabs((double)alpha) + 4 * fabs(start) + 1e-30);
            CHECK(check_near(c[i * ldc + j], want, bound), "m %lld n %lld k %lld alpha %g add %d: [%lld][%lld] is %.9g, not %.9g", (long long)m, (long long)n,
                  (long long)k, (double)alpha, accumulate, (long long)i, (long long)j, (double)c[i * ldc + j], want);
        }
    }
    /* the last row alone has the same bits */
    if (m > 1 && !accumulate) {
        float *alone = check_floats(n);
        f(alone, n, ta ? a + m - 1 : a + (m - 1) * lda, lda, b, ldb, 1, n, k, alpha, 0);
        CHECK(!memcmp(alone, c + (m - 1) * ldc, (size_t)n * 4), "m %lld n %lld k %lld: a row alone has other bits", (long long)m, (long long)n, (long long)k);
    }
}

void check_gemm(const ramet__kernels *ref, const ramet__kernels *k, int thorough) {
    static const int64_t sizes[][3] = {{1, 1, 1}, {1, 16, 576}, {3, 8, 64}, {5, 33, 7}, {12, 32, 16}, {13, 31, 17}, {50, 65, 40}, {7, 100, 8},
                                       {25, 17, 300}, {2, 40, 0}, {61, 48, 129}, {97, 16, 33}, {4, 5, 530}};
    for (int s = 0; s < 13; s++)
        for (int variant = 0; variant < 3; variant++) {
            int64_t m = sizes[s][0], n = sizes[s][1], d = sizes[s][2];
            float alpha = variant == 1 ? -0.5f : 1.0f;
            begin(k, "gemm_nt"); check_one_gemm(k->gemm_nt, 0, 1, m, n, d, alpha, variant);
            begin(k, "gemm_nn"); check_one_gemm(k->gemm_nn, 0, 0, m, n, d, alpha, variant);
            begin(k, "gemm_tn"); check_one_gemm(k->gemm_tn, 1, 0, m, n, d, alpha, variant);
            check_release();
        }
}

/* Numbers that bf16 has: of a product in bf16 only what it rounds itself is left to the bound. */
static void brain_numbers(int brain, float *x, int64_t n) {
    for (int64_t i = 0; brain && i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        bits &= 0xffff0000u;
        memcpy(&x[i], &bits, 4);
    }
}
#define BRAIN_ROUNDING 0x1p-8 /* of weights, above and below the line */

/* Attention over a block table: memory of keys that no row sees holds NaN. brain: in bf16, of numbers that bf16 has. */
static void check_cache(const ramet__kernels *ref, const ramet__kernels *k, int brain, int32_t layout, int64_t rows, int64_t group, int64_t hd, int64_t block, int64_t past) {
    int64_t length = past + rows, blocks = (length + block - 1) / block, q_row = group * hd + 5, o_row = group * hd + 3, kv_row = hd + (block > 16 ? 7 : 0), lse_row = group + 1;
    const void **kb = check_memory((size_t)blocks * sizeof *kb), **vb = check_memory((size_t)blocks * sizeof *vb);
    int32_t *limit = check_memory((size_t)rows * 4);
    float *q = check_floats((rows - 1) * q_row + group * hd), *o = check_floats((rows - 1) * o_row + group * hd), *want = check_copy(o, (rows - 1) * o_row + group * hd);
    float *lse = check_floats(rows * lse_row), *lse_want = check_copy(lse, rows * lse_row), scale = brain ? 0.25f : 1.0f / sqrtf((float)hd);
    __typeof__(k->attention) attention = brain ? k->attention_brain : k->attention;
    check_fill(q, (rows - 1) * q_row + group * hd, 2);
    brain_numbers(brain, q, (rows - 1) * q_row + group * hd);
    for (int64_t r = 0; r < rows; r++) limit[r] = (int32_t)(r % 7 == 3 && past > 2 ? check_range(0, past) : past + r + 1);
    int64_t most = 0;
    for (int64_t r = 0; r < rows; r++) most = limit[r] > most ? limit[r] : most;
    for (int64_t b = 0; b < blocks; b++) {
        float *kk = check_floats((block - 1) * kv_row + hd), *vv = check_floats((block - 1) * kv_row + hd);
        int64_t seen = most - b * block < block ? most - b * block : block;
        for (int64_t j = 0; j < seen; j++) {
            check_fill(kk + j * kv_row, hd, 2);
            check_fill(vv + j * kv_row, hd, 1);
            brain_numbers(brain, kk + j * kv_row, hd);
            brain_numbers(brain, vv + j * kv_row, hd);
        }
        kb[b] = kk; vb[b] = vv;
        if (layout == RAMET__KV_ROWS) continue;
        float *turned = check_floats(hd * block), *values = check_floats(block * hd);
        for (int64_t j = 0; j < seen; j++)
            for (int64_t i = 0; i < hd; i++) turned[i * block + j] = kk[j * kv_row + i], values[j * hd + i] = vv[j * kv_row + i];
        kb[b] = turned; vb[b] = values;
        if (layout == RAMET__KV_CACHE) continue;
        if (layout == RAMET__KV_CACHE_INT8) {
            const uint64_t scales = ramet__kv_scales(hd * block);
            int8_t *byte_k = check_memory(scales + (size_t)block * 4), *byte_v = check_memory(scales + (size_t)block * 4);
            check_fill((float *)(void *)(byte_k + scales), block, 2.0f / 127);
            check_fill((float *)(void *)(byte_v + scales), block, 1.0f / 127);
            for (int64_t i = 0; i < hd * block; i++) byte_k[i] = (int8_t)check_range(-127, 127), byte_v[i] = (int8_t)check_range(-127, 127);
            kb[b] = byte_k; vb[b] = byte_v;
            continue;
        }
        uint16_t *half_k = check_memory((size_t)(hd * block) * 2), *half_v = check_memory((size_t)(hd * block) * 2);
        k->to_half(half_k, turned, hd * block);
        k->to_half(half_v, values, hd * block);
        kb[b] = half_k; vb[b] = half_v;
    }
    void *scratch = check_memory((size_t)((brain ? k->attention_brain_scratch : k->attention_scratch)(rows, group, hd, block) + 63u) & ~(size_t)63u);
    void *scratch_ref = check_memory((size_t)(ref->attention_scratch(rows, group, hd, block) + 63u) & ~(size_t)63u);
    attention(o, o_row, lse, lse_row, q, q_row, rows, group, hd, kb, vb, layout, kv_row, block, limit, scale, scratch);
    ref->attention(want, o_row, lse_want, lse_row, q, q_row, rows, group, hd, kb, vb, layout, kv_row, block, limit, scale, scratch_ref);
    /* scores are below 4 sqrt(hd), with an error of hd roundings of that; so is the relative error of a weight, and |v| <= 1 */
    double score = 4 * (double)hd * (double)scale, bound = ULP * (2 * (double)hd * score * 0.25 + 2 * (double)length + 60) + (brain ? BRAIN_ROUNDING : 0);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < group; h++) {
            for (int64_t i = 0; i < hd; i++) {
                float a = o[r * o_row + h * hd + i], b = want[r * o_row + h * hd + i];
                CHECK(check_near(a, b, bound), "rows %lld group %lld hd %lld block %lld limit %d: [%lld][%lld][%lld] is %.9g, not %.9g", (long long)rows, (long long)group,
                      (long long)hd, (long long)block, limit[r], (long long)r, (long long)h, (long long)i, (double)a, (double)b);
            }
            CHECK(check_near(lse[r * lse_row + h], lse_want[r * lse_row + h], bound + ULP * 4 * score), "lse %.9g, not %.9g", (double)lse[r * lse_row + h], (double)lse_want[r * lse_row + h]);
        }
    for (int64_t r = 0; r < rows; r += rows > 5 ? 5 : 1) {
        float *alone = check_floats(group * hd), none = 0;
        attention(alone, group * hd, NULL, 0, q + r * q_row, q_row, 1, group, hd, kb, vb, layout, kv_row, block, limit + r, scale, scratch);
        CHECK(!memcmp(alone, o + r * o_row, (size_t)(group * hd) * 4), "row %lld of %lld alone has other bits", (long long)r, (long long)rows);
        (void)none;
    }
    check_release();
}

static void check_grad(const ramet__kernels *ref, const ramet__kernels *k, int brain, int64_t rows, int64_t group, int64_t hd, int32_t causal) {
    int64_t q_row = group * hd + 3, kv_row = hd + 2, lse_row = group, nq = (rows - 1) * q_row + group * hd, nk = (rows - 1) * kv_row + hd;
    float *q = check_floats(nq), *kk = check_floats(nk), *v = check_floats(nk), *o = check_floats(nq), *d_o = check_floats(nq), *lse = check_floats(rows * lse_row);
    float *dq = check_floats(nq), *dk = check_floats(nk), *dv = check_floats(nk), *wq = check_floats(nq), *wk = check_floats(nk), *wv = check_floats(nk), scale = 1.0f / sqrtf((float)hd);
    int32_t *limit = check_memory((size_t)rows * 4);
    check_fill(q, nq, 2); check_fill(kk, nk, 2); check_fill(v, nk, 1); check_fill(d_o, nq, 1);
    brain_numbers(brain, q, nq); brain_numbers(brain, kk, nk); brain_numbers(brain, v, nk); brain_numbers(brain, d_o, nq);
    for (int64_t r = 0; r < rows; r++) limit[r] = (int32_t)(causal ? r + 1 : rows);
    const void *kb[1] = {kk}, *vb[1] = {v};
    void *scratch = check_memory((size_t)(ref->attention_scratch(rows, group, hd, rows) + 63u) & ~(size_t)63u);
    ref->attention(o, q_row, lse, lse_row, q, q_row, rows, group, hd, kb, vb, RAMET__KV_ROWS, kv_row, rows, limit, scale, scratch);
    scratch = check_memory((size_t)((brain ? k->attention_grad_brain_scratch : k->attention_grad_scratch)(rows, group, hd) + 63u) & ~(size_t)63u);
    (brain ? k->attention_grad_brain : k->attention_grad)(dq, dk, dv, q, kk, v, o, d_o, lse, lse_row, q_row, kv_row, rows, group, hd, causal, scale, scratch);
    scratch = check_memory((size_t)(ref->attention_grad_scratch(rows, group, hd) + 63u) & ~(size_t)63u);
    ref->attention_grad(wq, wk, wv, q, kk, v, o, d_o, lse, lse_row, q_row, kv_row, rows, group, hd, causal, scale, scratch);
    /* |p| rows sum to 1, |ds| <= p 2 hd scale: dq of a row is within 2 hd scale * 2; dk, dv of a key add that over rows and heads */
    double relative = ULP * (4 * (double)hd * sqrt((double)hd) + 2 * (double)rows + 40) + (brain ? BRAIN_ROUNDING : 0), row = 4 * sqrt((double)hd), column = (double)(rows * group);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < group * hd; i++)
            CHECK(check_near(dq[r * q_row + i], wq[r * q_row + i], relative * row), "rows %lld hd %lld: dq[%lld][%lld] is %.9g, not %.9g", (long long)rows, (long long)hd,
                  (long long)r, (long long)i, (double)dq[r * q_row + i], (double)wq[r * q_row + i]);
        for (int64_t i = 0; i < hd; i++) {
            double seen = causal ? fmin(column, 8 * (double)group + column / (double)(r + 1) * 4) : column;
            CHECK(check_near(dk[r * kv_row + i], wk[r * kv_row + i], relative * row * seen), "rows %lld hd %lld: dk[%lld][%lld] is %.9g, not %.9g", (long long)rows, (long long)hd,
                  (long long)r, (long long)i, (double)dk[r * kv_row + i], (double)wk[r * kv_row + i]);
            CHECK(check_near(dv[r * kv_row + i], wv[r * kv_row + i], relative * seen), "rows %lld hd %lld: dv[%lld][%lld] is %.9g, not %.9g", (long long)rows, (long long)hd,
                  (long long)r, (long long)i, (double)dv[r * kv_row + i], (double)wv[r * kv_row + i]);
        }
    }
    check_release();
}

static void check_attention_of(const ramet__kernels *ref, const ramet__kernels *k, int brain, int thorough) {
    static const int64_t shapes[][5] = {{1, 3, 64, 32, 0}, {1, 3, 64, 16, 100}, {1, 3, 64, 64, 150}, {1, 1, 8, 5, 33}, {40, 3, 64, 32, 0}, {35, 4, 16, 64, 70},
                                        {9, 2, 80, 24, 50}, {70, 1, 20, 128, 3}, {6, 2, 7, 64, 90}, {200, 3, 64, 256, 100}}; /* rows, group, hd, block, past */
    static const int64_t grads[][3] = {{1, 1, 8}, {33, 3, 64}, {64, 2, 20}, {130, 1, 80}, {300, 3, 64}}; /* rows, group, hd */
    begin(k, brain ? "attention_brain" : "attention");
    for (int32_t layout = RAMET__KV_ROWS; layout <= (brain ? RAMET__KV_CACHE_F16 : RAMET__KV_CACHE_INT8); layout++)
        for (int i = 0; i < (thorough ? 10 : 9); i++) check_cache(ref, k, brain, layout, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], shapes[i][4]);
    begin(k, brain ? "attention_grad_brain" : "attention_grad");
    for (int32_t causal = 0; causal < 2; causal++)
        for (int i = 0; i < (thorough ? 5 : 4); i++) check_grad(ref, k, brain, grads[i][0], grads[i][1], grads[i][2], causal);
}
void check_attention(const ramet__kernels *ref, const ramet__kernels *k, int thorough) {
    check_attention_of(ref, k, 0, thorough);
    if (k->attention_brain) check_attention_of(ref, k, 1, thorough);
}
