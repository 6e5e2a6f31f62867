/* SPDX-License-Identifier: Apache-2.0 */
/* check_products.c - every product of a table: packing round trips, forward and transposed against sums in double with bounds scaled
 * by the operands, bits that must not depend on rows or ranges, and memory outside its range untouched. */
#include "check.h"
#include "blocks.h"

/* at: where blocks have halves, -1 none */
static const struct { const char *name; int64_t block, bytes; void (*decode)(float *, const void *, int64_t); int at[2]; } encodings[] = {
    {"F32", 1, 4, ramet__decode_F32, {-1, -1}},    {"F16", 1, 2, ramet__decode_F16, {0, -1}},    {"BF16", 1, 2, ramet__decode_BF16, {0, -1}},
    {"Q4_0", 32, 18, ramet__decode_Q4_0, {0, -1}}, {"Q4_1", 32, 20, ramet__decode_Q4_1, {0, 2}}, {"Q5_0", 32, 22, ramet__decode_Q5_0, {0, -1}},
    {"Q8_0", 32, 34, ramet__decode_Q8_0, {0, -1}}, {"Q5_1", 32, 24, ramet__decode_Q5_1, {0, 2}}, {"IQ4_NL", 32, 18, ramet__decode_IQ4_NL, {0, -1}},
    {"Q4_K", 256, 144, ramet__decode_Q4_K, {0, 2}}, {"Q5_K", 256, 176, ramet__decode_Q5_K, {0, 2}}, {"Q6_K", 256, 210, ramet__decode_Q6_K, {208, -1}},
    {"Q2_K", 256, 84, ramet__decode_Q2_K, {80, 82}}, {"Q3_K", 256, 110, ramet__decode_Q3_K, {108, -1}}, {"IQ4_XS", 256, 136, ramet__decode_IQ4_XS, {0, -1}},
    {"TQ1_0", 256, 54, ramet__decode_TQ1_0, {52, -1}}, {"TQ2_0", 256, 66, ramet__decode_TQ2_0, {64, -1}}, {"MXFP4", 32, 17, ramet__decode_MXFP4, {-1, -1}},
    {"IQ1_S", 256, 50, ramet__decode_IQ1_S, {0, -1}}, {"IQ1_M", 256, 56, ramet__decode_IQ1_M, {-1, -1}}, {"IQ2_XXS", 256, 66, ramet__decode_IQ2_XXS, {0, -1}},
    {"IQ2_XS", 256, 74, ramet__decode_IQ2_XS, {0, -1}}, {"IQ2_S", 256, 82, ramet__decode_IQ2_S, {0, -1}}, {"IQ3_XXS", 256, 98, ramet__decode_IQ3_XXS, {0, -1}},
    {"IQ3_S", 256, 110, ramet__decode_IQ3_S, {0, -1}}};
enum { ENCODINGS = sizeof encodings / sizeof *encodings };

static int find(const char *encoding) {
    for (int i = 0; i < ENCODINGS; i++)
        if (!strcmp(encodings[i].name, encoding)) return i;
    fprintf(stderr, "checker: encoding %s\n", encoding);
    exit(2);
}
int64_t check_block(const char *encoding) { return encodings[find(encoding)].block; }
int64_t check_row_bytes(const char *encoding, int64_t k) { int e = find(encoding); return k / encodings[e].block * encodings[e].bytes; }

static uint16_t random_half(void) { return (uint16_t)((check_random() & 0x83ffu) | (uint64_t)check_range(5, 14) << 10); }

/* Random bits for quants; scales and floats of a few binades, both signs. */
void check_encode(const char *encoding, uint8_t *rows, int64_t n, int64_t k) {
    int e = find(encoding);
    int64_t total = n * k / encodings[e].block;
    for (int64_t i = 0; i < total; i++, rows += encodings[e].bytes) {
        float f = check_uniform(-2, 2);
        if (encodings[e].bytes == 4) { memcpy(rows, &f, 4); continue; }
        for (int64_t j = 0; j < encodings[e].bytes; j++) rows[j] = (uint8_t)check_random();
        for (int j = 0; j < 2; j++) {
            uint16_t h = encodings[e].decode == ramet__decode_BF16 ? ramet__f32_brain(f) : random_half();
            if (encodings[e].at[j] >= 0) memcpy(rows + encodings[e].at[j], &h, 2);
        }
        if (encodings[e].decode == ramet__decode_MXFP4) rows[0] = (uint8_t)check_range(118, 130);
        if (encodings[e].decode == ramet__decode_IQ1_M) rows[55] = (uint8_t)((rows[55] & 0x8f) | check_range(2, 3) << 4); /* the exponent's upper bits */
    }
}

typedef struct world { /* one weight with its packing and operands */
    const ramet__product *p;
    int64_t n, k;
    uint8_t *rows;
    const void *packed;
    float *w; /* [n][k] decoded */
    int fast; /* activations prepared for mode fast */
} world;

static void pack(world *t) {
    const ramet__packing *g = t->p->packing;
    int64_t row_bytes = check_row_bytes(g->encoding, t->k);
    if (g->in_place) {
        t->packed = t->rows;
        CHECK(g->bytes(t->n, t->k) == 0, "in place, yet bytes() = %llu", (unsigned long long)g->bytes(t->n, t->k));
    } else {
        uint8_t *packed = check_memory((size_t)g->bytes(t->n, t->k)), *back = check_memory((size_t)(t->n * row_bytes));
        for (int64_t n = 0; n < t->n; n += g->n_block) g->pack(packed, t->rows, t->n, t->k, n, n + g->n_block < t->n ? n + g->n_block : t->n);
        t->packed = packed;
        g->unpack(back, packed, t->n, t->k, 0, t->n / 2);
        g->unpack(back, packed, t->n, t->k, t->n / 2, t->n);
        CHECK(!memcmp(back, t->rows, (size_t)(t->n * row_bytes)), "unpack is not what was packed (n %lld, k %lld)", (long long)t->n, (long long)t->k);
    }
    float *row = check_floats(t->k);
    for (int64_t n = 0; n < t->n; n++) {
        g->decode(row, t->packed, t->n, t->k, n);
        CHECK(!memcmp(row, t->w + n * t->k, (size_t)t->k * 4), "decode of row %lld differs", (long long)n);
    }
}

/* What an arithmetic may lose: forward from rounding activations to int8 by blocks (half a step) or bf16, and fp32 sums. */
static int is_int8(const ramet__product *p) { return strstr(p->scheme->name, "int8") != NULL; }
static int is_bf16(const ramet__product *p) { return strstr(p->scheme->name, "bf16") != NULL; }
static int is_int16(const ramet__product *p) { return strstr(p->scheme->name, "int16") != NULL; } /* going forward, or back only where int8 goes forward */
#define BF16 (0x1p-8 * 2.01) /* two factors, each within 2^-8 */
#define HALF_STEP16 (0.501 / 8191)

/* n numbers of two sides, so far apart, in blocks of 32: half a step of either side's largest number for each number of the other */
static double int16_bound(const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t n) {
    double bound = 0;
    for (int64_t at = 0; at < n; at += 32) {
        double top[2] = {0, 0}, sum[2] = {0, 0};
        for (int64_t i = at; i < n && i < at + 32; i++)
            for (int s = 0; s < 2; s++) {
                double v = fabs((double)(s ? b[i * b_step] : a[i * a_step]));
                top[s] = fmax(top[s], v), sum[s] += v;
            }
        bound += HALF_STEP16 * (top[0] * sum[1] + top[1] * sum[0] + 32 * HALF_STEP16 * top[0] * top[1]);
    }
    return bound;
}

static double forward_bound(const world *t, const float *x, const float *w, double size) {
    double loss = 0;
    if ((t->p->scheme->arithmetic == RAMET__EXACT)) return size * ULP * (double)(t->k + 8);
    if (is_int8(t->p)) {
        double squares = 0;
        for (int64_t i = 0; i < t->k; i++) squares += (double)x[i] * (double)x[i];
        for (int64_t b = 0; b < t->k; b += 32) {
            double top = 0, weight = 0;
            for (int64_t i = b; i < b + 32; i++) top = fmax(top, fabs((double)x[i])), weight += fabs((double)w[i]);
            int twice = !t->fast && top * top * (double)t->k > 1.0001 * RAMET__STANDS_OUT * squares;
            loss += top / 127 * 0.501 * weight / (twice ? 254 : 1);
            size += top * weight; /* offsets cancel within a block */
        }
    } else loss = is_int16(t->p) ? int16_bound(x, 1, w, 1, t->k) : BF16 * size;
    return loss + 20 * size * ULP * (double)(t->k / 32 + 8) + size * ULP * (is_int8(t->p) ? 0 : (double)t->k);
}

static void *prepared(const world *t, const float *x, int64_t ldx, int64_t m) {
    uint64_t bytes = t->p->scheme->prepared_bytes(t->k);
    uint8_t *rows = check_memory((size_t)(bytes * (uint64_t)m));
    CHECK(bytes % 64 == 0, "prepared_bytes is %llu", (unsigned long long)bytes);
    for (int64_t r = 0; r < m; r++) (t->fast ? t->p->scheme->prepare_fast : t->p->scheme->prepare)(rows + (uint64_t)r * bytes, x + r * ldx, t->k);
    return rows;
}

static ramet__product_args arguments(const world *t, int64_t m, int64_t from, int64_t to) {
    ramet__product_args a = {0};
    a.m = m; a.n = t->n; a.k = t->k; a.from = from; a.to = to; a.packed = t->packed;
    a.scratch = check_memory((size_t)(t->p->scheme->scratch_bytes(m, t->n, t->k) + 63u) & ~(size_t)63u);
    return a;
}

static void forward(const world *t, int64_t m, int with_bias, int accumulate, int integers) {
    int64_t ldy = t->n + check_range(0, 3), ldx = t->k + check_range(0, 5);
    float *x = check_floats((m - 1) * ldx + t->k), *y = check_floats((m - 1) * ldy + t->n), *bias = check_floats(t->n), *old;
    check_fill(x, (m - 1) * ldx + t->k, 3);
    check_fill(y, (m - 1) * ldy + t->n, 1);
    check_fill(bias, t->n, 1);
    for (int64_t r = 0; r < m && t->k >= 64; r += 3) x[r * ldx + 37] = x[r * ldx + t->k - 1] = r % 2 ? 40.0f : -40.0f;
    if (integers) /* every block holds +-127: quantizing to int8 loses nothing */
        for (int64_t r = 0; r < m; r++)
            for (int64_t i = 0; i < t->k; i++) x[r * ldx + i] = (float)(i % 32 == 5 ? (r % 2 ? -127 : 127) : check_range(-127, 127)) * 0.125f;
    old = check_copy(y, (m - 1) * ldy + t->n);
    const ramet__packing *g = t->p->packing;
    ramet__product_args a = arguments(t, m, 0, t->n);
    a.x = prepared(t, x, ldx, m);
    a.x_stride = (int64_t)t->p->scheme->prepared_bytes(t->k);
    a.y = y; a.y_stride = ldy; a.bias = with_bias ? bias : NULL; a.accumulate = accumulate;
    /* in two ranges, the second first */
    int64_t cut = t->n / 2 / g->n_block * g->n_block;
    if (cut) {
        a.from = cut;
        t->p->forward(&a);
        for (int64_t r = 0; r < m; r++)
            CHECK(!memcmp(y + r * ldy, old + r * ldy, (size_t)cut * 4), "forward wrote outside of its range");
        a.from = 0; a.to = cut;
    }
    t->p->forward(&a);
    for (int64_t r = 0; r < m; r++) {
        if (r) CHECK(!memcmp(y + r * ldy - (ldy - t->n), old + r * ldy - (ldy - t->n), (size_t)(ldy - t->n) * 4), "forward wrote between rows");
        for (int64_t n = 0; n < t->n; n++) {
            const float *xr = x + r * ldx, *w = t->w + n * t->k;
            double sum = (with_bias ? (double)bias[n] : 0.0) + (accumulate ? (double)old[r * ldy + n] : 0.0), size = fabs(sum) + 2;
            for (int64_t i = 0; i < t->k; i++) sum += (double)xr[i] * (double)w[i], size += fabs((double)xr[i] * (double)w[i]);
            double bound = forward_bound(t, xr, w, size);
            if (integers && is_int8(t->p)) {
                /* sums of integers are exact; what remains is fp32 between blocks, of numbers as large as their offsets */
                double large = size;
                for (int64_t i = 0; i < t->k; i++) large += fabs((double)xr[i]) * fabs((double)w[i]) * 2;
                bound = 40 * large * ULP * (double)(t->k / 32 + 8);
            }
            CHECK(check_near(y[r * ldy + n], sum, bound), "forward m %lld n %lld k %lld: [%lld][%lld] is %.9g, not %.9g +- %.2g", (long long)m,
                  (long long)t->n, (long long)t->k, (long long)r, (long long)n, (double)y[r * ldy + n], sum, bound);
        }
    }
    if ((t->p->scheme->arithmetic != RAMET__EXACT && !is_int8(t->p)) || accumulate) return;
    /* a row alone has the same bits */
    float *alone = check_floats(t->n);
    for (int64_t r = 0; r < m; r += m > 4 ? 3 : 1) {
        a.m = 1; a.from = 0; a.to = t->n; a.y = alone; a.y_stride = t->n;
        ramet__product_args b = a;
        b.x = (const uint8_t *)a.x + r * a.x_stride;
        t->p->forward(&b);
        CHECK(!memcmp(alone, y + r * ldy, (size_t)t->n * 4), "forward: row %lld of %lld has other bits alone", (long long)r, (long long)m);
    }
}

static void transposed(const world *t, int64_t m, int accumulate) {
    int64_t ldy = t->n + check_range(0, 3), ldx = t->k + check_range(0, 5);
    float *dy = check_floats((m - 1) * ldy + t->n), *dx = check_floats((m - 1) * ldx + t->k), *old;
    check_fill(dy, (m - 1) * ldy + t->n, 1);
    check_fill(dx, (m - 1) * ldx + t->k, 1);
    old = check_copy(dx, (m - 1) * ldx + t->k);
    const ramet__packing *g = t->p->packing;
    ramet__product_args a = arguments(t, m, 0, t->k);
    a.x = dy; a.x_stride = ldy; a.y = dx; a.y_stride = ldx; a.accumulate = accumulate;
    int64_t cut = t->k / 2 / g->k_block * g->k_block;
    if (cut) {
        a.from = cut;
        t->p->transposed(&a);
        for (int64_t r = 0; r < m; r++)
            CHECK(!memcmp(dx + r * ldx, old + r * ldx, (size_t)cut * 4), "transposed wrote outside of its range");
        a.from = 0; a.to = cut;
    }
    t->p->transposed(&a);
    for (int64_t r = 0; r < m; r++) {
        if (r) CHECK(!memcmp(dx + r * ldx - (ldx - t->k), old + r * ldx - (ldx - t->k), (size_t)(ldx - t->k) * 4), "transposed wrote between rows");
        for (int64_t i = 0; i < t->k; i++) {
            double sum = accumulate ? (double)old[r * ldx + i] : 0.0, size = fabs(sum) + 1e-30;
            for (int64_t n = 0; n < t->n; n++) {
                double v = (double)dy[r * ldy + n] * (double)t->w[n * t->k + i];
                sum += v; size += fabs(v);
            }
            double bound = size * ULP * (double)(t->n + 8) + (!(t->p->scheme->arithmetic == RAMET__EXACT) && is_bf16(t->p) ? BF16 * size : 0.0);
            if (is_int16(t->p)) bound += int16_bound(dy + r * ldy, 1, t->w + i, t->k, t->n);
            CHECK(check_near(dx[r * ldx + i], sum, bound), "transposed m %lld n %lld k %lld: [%lld][%lld] is %.9g, not %.9g +- %.2g", (long long)m,
                  (long long)t->n, (long long)t->k, (long long)r, (long long)i, (double)dx[r * ldx + i], sum, bound);
        }
    }
    if (t->p->scheme->round) { /* before, in place: the same bits */
        float *same = check_copy(old, (m - 1) * ldx + t->k), *rows = check_floats(m * (ldy + 16));
        for (int64_t r = 0; r < m; r++) {
            memcpy(rows + r * (ldy + 16), dy + r * ldy, (size_t)t->n * 4);
            t->p->scheme->round((uint16_t *)(void *)(rows + r * (ldy + 16)), rows + r * (ldy + 16), t->n);
        }
        ramet__product_args b = a;
        b.x = rows; b.x_stride = (ldy + 16) * 4; b.rounded = 1; b.y = same; b.from = 0; b.to = t->k;
        t->p->transposed(&b);
        CHECK(!memcmp(same, dx, (size_t)((m - 1) * ldx + t->k) * 4), "transposed of rounded rows has other bits");
    }
    if (!(t->p->scheme->arithmetic == RAMET__EXACT) || accumulate) return;
    float *alone = check_floats(t->k);
    for (int64_t r = 0; r < m; r += m > 4 ? 3 : 1) {
        a.m = 1; a.from = 0; a.to = t->k; a.y = alone; a.y_stride = t->k; a.x = dy + r * ldy;
        t->p->transposed(&a);
        CHECK(!memcmp(alone, dx + r * ldx, (size_t)t->k * 4), "exact transposed: row %lld of %lld has other bits alone", (long long)r, (long long)m);
    }
}

/* dW [n, k] of m rows */
static void outer(const world *t, int64_t m, int accumulate) {
    int64_t lda = t->n + check_range(0, 3), ldb = t->k + check_range(0, 3), ldc = t->k + check_range(0, 5), size = (t->n - 1) * ldc + t->k;
    float *a = check_floats((m - 1) * lda + t->n), *b = check_floats((m - 1) * ldb + t->k), *c = check_floats(size), *old;
    check_fill(a, (m - 1) * lda + t->n, 1);
    check_fill(b, (m - 1) * ldb + t->k, 1);
    check_fill(c, size, 1);
    old = check_copy(c, size);
    const float *wide = check_copy(b, (m - 1) * ldb + t->k);
    t->p->scheme->outer(c, ldc, a, lda, b, ldb, t->n, t->k, m, accumulate, 0, arguments(t, m, 0, t->k).scratch);
    if (t->p->scheme->rounds) { /* rows of b that were rounded before */
        float *again = check_copy(old, size);
        uint16_t *half = check_memory((size_t)(2 * t->k + 30));
        for (int64_t r = 0; r < m; r++) {
            t->p->scheme->round(half, b + r * ldb, t->k);
            memcpy(b + r * ldb, half, (size_t)t->k * 2);
        }
        t->p->scheme->outer(again, ldc, a, lda, b, ldb, t->n, t->k, m, accumulate, 1, arguments(t, m, 0, t->k).scratch);
        CHECK(!memcmp(again, c, (size_t)size * 4), "outer of %lld rounded rows has other bits", (long long)m);
    }
    for (int64_t n = 0; n < t->n; n++) {
        if (n) CHECK(!memcmp(c + n * ldc - (ldc - t->k), old + n * ldc - (ldc - t->k), (size_t)(ldc - t->k) * 4), "outer wrote between rows");
        for (int64_t i = 0; i < t->k; i++) {
            double sum = accumulate ? (double)old[n * ldc + i] : 0.0, all = fabs(sum) + 1e-30;
            for (int64_t r = 0; r < m; r++) {
                double v = (double)a[r * lda + n] * (double)wide[r * ldb + i];
                sum += v; all += fabs(v);
            }
            CHECK(check_near(c[n * ldc + i], sum, all * ULP * (double)(m + 8) + (is_int16(t->p) ? int16_bound(a + n, lda, b + i, ldb, m) : BF16 * all)), "outer of %lld rows: [%lld][%lld] is %.9g, not %.9g", (long long)m, (long long)n, (long long)i,
                  (double)c[n * ldc + i], sum);
        }
    }
}

static void check_product(const ramet__product *p, int thorough) {
    static const int64_t sizes[][2] = {{1, 32}, {15, 64}, {16, 96}, {17, 32}, {40, 160}, {67, 96}, {33, 576}, {530, 64}, {1043, 32}};
    static const int64_t odd[] = {1, 7, 15, 16, 17, 31, 33, 100, 257};
    static const int64_t rows[] = {1, 2, 3, 5, 13, 50};
    int64_t block = check_block(p->packing->encoding);
    for (int s = 0; s < 9; s++) {
        world t = {p, sizes[s][0], block == 1 ? odd[s] : (sizes[s][1] + block - 1) / block * block, NULL, NULL, NULL, 0};
        int64_t row_bytes = check_row_bytes(p->packing->encoding, t.k);
        t.rows = check_memory((size_t)(t.n * row_bytes));
        t.w = check_floats(t.n * t.k);
        check_encode(p->packing->encoding, t.rows, t.n, t.k);
        for (int64_t n = 0; n < t.n; n++) encodings[find(p->packing->encoding)].decode(t.w + n * t.k, t.rows + n * row_bytes, t.k);
        pack(&t);
        for (int r = 0; r < 6; r++) {
            if (t.n > 500 && !thorough && r != s % 5) continue;
            forward(&t, rows[r], r & 1, r == 2 || r == 5, 0);
            if (block > 1) forward(&t, rows[r], 0, 0, 1);
            t.fast = p->scheme->prepare_fast != NULL;
            if (t.fast) forward(&t, rows[r], 0, 0, 0);
            t.fast = 0;
            transposed(&t, rows[r], r == 1 || r == 4);
            if (p->scheme->outer) outer(&t, rows[r] + (s == 4 ? 1030 : 0), r == 1 || r == 4);
        }
        if (thorough && s == 4) {
            forward(&t, 130, 1, 0, 0);
            transposed(&t, 130, 0);
        }
        check_release();
    }
}

void check_products(const ramet__kernels *ref, const ramet__kernels *k, int thorough) {
    static char name[96];
    static const ramet__product *done[256];
    static int count;
    const ramet__product *p;
    for (int32_t at = 0; (p = ramet__kernels_products(k, &at));) {
        int seen = 0;
        for (int i = 0; i < count; i++) seen |= done[i] == p;
        if (seen) continue; /* tables of higher levels list those of lower ones too */
        if (count < 256) done[count++] = p;
        snprintf(name, sizeof name, "%s/linear/%s/%s", k->isa, p->packing->encoding, p->scheme->name);
        check_name = name;
        check_product(p, thorough);
    }
    /* Both arithmetics of an encoding read one packing. */
    for (int e = 0; e < ENCODINGS; e++) {
        const ramet__product *a = ramet__kernels_product(k, encodings[e].name, 0), *b = ramet__kernels_product(k, encodings[e].name, 1);
        snprintf(name, sizeof name, "%s/linear/%s", k->isa, encodings[e].name);
        check_name = name;
        CHECK(a && b && b->scheme->arithmetic == RAMET__EXACT && a->packing == b->packing, "choice of product");
    }
}
