/* SPDX-License-Identifier: Apache-2.0 */
/* check_rows.c - the kernels over one row against ref: lengths around every vector width, misaligned, ending at an unreadable page,
 * in place where callers do so, extreme values. */
#include "check.h"
#include "registry.h"

static const int64_t lengths[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 576, 577, 1536, 4099};
enum { LENGTHS = sizeof lengths / sizeof *lengths };
static char name[64];

static void begin(const ramet__kernels *k, const char *op) {
    snprintf(name, sizeof name, "%s/%s", k->isa, op);
    check_name = name;
}

/* relative to the size of what was added up, plus what lies under the normal numbers */
static void same(const float *got, const float *want, const float *size, int64_t n, double roundings) {
    for (int64_t i = 0; i < n; i++) {
        double bound = roundings * ULP * fabs((double)(size ? size[i] : want[i])) + 1e-37;
        CHECK(check_near(got[i], want[i], bound), "n %lld: [%lld] is %.9g, not %.9g", (long long)n, (long long)i, (double)got[i], (double)want[i]);
    }
}

static void check_simple(const ramet__kernels *ref, const ramet__kernels *k, int64_t n) {
    float *a = check_floats(n), *b = check_floats(n), *y = check_floats(n), *z = check_floats(n), *size = check_floats(n);
    check_fill(a, n, 3);
    check_fill(b, n, 3);
    begin(k, "add"); k->add(y, a, b, n); ref->add(z, a, b, n); same(y, z, NULL, n, 0);
    begin(k, "mul"); k->mul(y, a, b, n); ref->mul(z, a, b, n); same(y, z, NULL, n, 0);
    begin(k, "scale"); k->scale(y, 1.7f, a, n); ref->scale(z, 1.7f, a, n); same(y, z, NULL, n, 0);
    {
        static const float odd[] = {65504, 65519.99f, 65520, 1e-8f, 0x1p-24f, 0x1.8p-24f, 0x1p-25f, 0x1.000002p-25f, 6.1e-5f, 0x1.ffcp-15f, 0x1.ffep-15f, -0.0f, INFINITY, -INFINITY,
                                    1e30f, 2049, 2051, 0x1p-14f, 0.1f, -1.0009766f};
        uint16_t got[20], want[20];
        begin(k, "to_half");
        k->to_half(got, odd, 20); ref->to_half(want, odd, 20);
        CHECK(!memcmp(got, want, sizeof got), "odd numbers: other halves than ref");
    }
    {
        begin(k, "to_half");
        uint16_t *half = check_memory((size_t)(2 * n) * 2 + 2);
        k->to_half(half, a, n); ref->to_half(half + n, a, n);
        CHECK(!memcmp(half, half + n, (size_t)n * 2), "n %lld: other halves than ref", (long long)n);
        for (int64_t i = 0; i < n; i++) {
            double got = (double)ramet__half_f32(half[i]), far = fabs(got - (double)a[i]);
            CHECK(fabsf(a[i]) > 65504 || far <= fmax(fabs((double)a[i]) * 0x1p-11, 0x1p-25), "n %lld: %.9g became %.9g", (long long)n, (double)a[i], got);
        }
    }
    memcpy(y, b, (size_t)n * 4); memcpy(z, b, (size_t)n * 4);
    for (int64_t i = 0; i < n; i++) size[i] = fabsf(b[i]) + 1.7f * fabsf(a[i]);
    begin(k, "axpy"); k->axpy(y, -1.7f, a, n); ref->axpy(z, -1.7f, a, n); same(y, z, size, n, 2);
    memcpy(y, a, (size_t)n * 4);
    begin(k, "add in place"); k->add(y, y, b, n); ref->add(z, a, b, n); same(y, z, NULL, n, 0);
    double dot = 0, dots = 0, sum = 0, sums = 0, sq = 0;
    float top = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        dot += (double)a[i] * (double)b[i]; dots += fabs((double)a[i] * (double)b[i]);
        sum += (double)a[i]; sums += fabs((double)a[i]);
        sq += (double)a[i] * (double)a[i];
        top = fmaxf(top, a[i]);
    }
    double deep = (double)(n / 16 + 6);
    begin(k, "dot"); CHECK(check_near(k->dot(a, b, n), dot, dots * ULP * deep), "n %lld: %g, not %g", (long long)n, (double)k->dot(a, b, n), dot);
    begin(k, "sum"); CHECK(check_near(k->sum(a, n), sum, sums * ULP * deep), "n %lld: %g, not %g", (long long)n, (double)k->sum(a, n), sum);
    begin(k, "max"); CHECK(k->max(a, n) == top, "n %lld: %g, not %g", (long long)n, (double)k->max(a, n), (double)top);
    begin(k, "sumsq"); CHECK(check_near(k->sumsq(a, n), sq, sq * 1.2e-16 * (double)(n + 2)), "n %lld: %g, not %g", (long long)n, k->sumsq(a, n), sq);
    begin(k, "finite");
    CHECK(k->finite(a, n) == 1, "n %lld: finite numbers refused", (long long)n);
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    if (n) {
        int64_t at = check_range(0, n - 1);
        for (int i = 0; i < 3; i++) {
            memcpy(y, a, (size_t)n * 4);
            y[at] = bad[i];
            CHECK(k->finite(y, n) == 0, "n %lld: %g at %lld not seen", (long long)n, (double)bad[i], (long long)at);
        }
        memcpy(y, a, (size_t)n * 4);
        y[at] = 3e38f;
        CHECK(k->finite(y, n) == 1, "n %lld: 3e38 refused", (long long)n);
    }
}

static void check_norms(const ramet__kernels *ref, const ramet__kernels *k, int64_t n) {
    float *x = check_floats(n), *w = check_floats(n), *dy = check_floats(n), *y = check_floats(n), *z = check_floats(n), *size = check_floats(n);
    float *dw = check_floats(n), *dz = check_floats(n);
    check_fill(x, n, 2); check_fill(w, n, 1); check_fill(dy, n, 1); check_fill(dw, n, 1);
    memcpy(dz, dw, (size_t)n * 4);
    begin(k, "rms_norm"); k->rms_norm(y, x, w, n, 1e-5f); ref->rms_norm(z, x, w, n, 1e-5f); same(y, z, NULL, n, 4);
    double mean = 0, far = 0, var = 0;
    for (int64_t i = 0; i < n; i++) mean += (double)x[i] / (double)n, far += fabs((double)x[i]) / (double)n;
    for (int64_t i = 0; i < n; i++) var += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
    for (int64_t i = 0; i < n; i++) size[i] = (float)(fabs((double)w[i]) * (fabs((double)x[i]) + far * (double)(n / 16 + 6)) / sqrt(var + 1e-5) + fabs((double)dy[i]));
    begin(k, "layer_norm"); k->layer_norm(y, x, w, dy, n, 1e-5f); ref->layer_norm(z, x, w, dy, n, 1e-5f); same(y, z, size, n, 4);
    memcpy(y, x, (size_t)n * 4);
    k->layer_norm(y, y, w, dy, n, 1e-5f); same(y, z, size, n, 4);
    double r = 0, gx = 0;
    for (int64_t i = 0; i < n; i++) r += (double)x[i] * (double)x[i], gx += fabs((double)dy[i] * (double)w[i] * (double)x[i]);
    r = n ? 1 / sqrt(r / (double)n + 1e-5) : 0;
    for (int64_t i = 0; i < n; i++) size[i] = (float)(r * fabs((double)dy[i] * (double)w[i]) + fabs((double)x[i]) * r * r * r * gx / (double)n * (double)(n / 8 + 4));
    begin(k, "rms_norm_grad"); k->rms_norm_grad(y, dw, x, w, dy, n, 1e-5f); ref->rms_norm_grad(z, dz, x, w, dy, n, 1e-5f); same(y, z, size, n, 6);
    for (int64_t i = 0; i < n; i++) size[i] = fabsf(dz[i]) + 2 * fabsf(dy[i] * x[i]) * (float)r;
    same(dw, dz, size, n, 6);
    k->rms_norm_grad(y, NULL, x, w, dy, n, 1e-5f);
}

static void check_activations(const ramet__kernels *ref, const ramet__kernels *k, int64_t n, float scale) {
    float *g = check_floats(n), *u = check_floats(n), *dy = check_floats(n), *y = check_floats(n), *z = check_floats(n), *y2 = check_floats(n), *z2 = check_floats(n);
    float *size = check_floats(n);
    check_fill(g, n, scale); check_fill(u, n, 2); check_fill(dy, n, 1);
    begin(k, "silu"); k->silu(y, g, n); ref->silu(z, g, n); same(y, z, NULL, n, 12);
    begin(k, "swiglu"); k->swiglu(y, g, u, n); ref->swiglu(z, g, u, n); same(y, z, NULL, n, 12);
    for (int64_t i = 0; i < n; i++) size[i] = fabsf(g[i]);
    begin(k, "gelu"); k->gelu(y, g, n); ref->gelu(z, g, n); same(y, z, size, n, 6);
    for (int64_t i = 0; i < n; i++) size[i] = fabsf(dy[i]);
    begin(k, "gelu_grad"); k->gelu_grad(y, g, dy, n); ref->gelu_grad(z, g, dy, n); same(y, z, size, n, 8);
    /* the slope crosses zero: its two parts bound the error */
    for (int64_t i = 0; i < n; i++) {
        double s = 1 / (1 + exp(-(double)g[i]));
        size[i] = (float)(fabs((double)dy[i]) * s * (1 + fabs((double)g[i])));
    }
    begin(k, "silu_grad"); k->silu_grad(y, g, dy, n); ref->silu_grad(z, g, dy, n); same(y, z, size, n, 16);
    for (int64_t i = 0; i < n; i++) size[i] *= fabsf(u[i]);
    begin(k, "swiglu_grad"); k->swiglu_grad(y, y2, g, u, dy, n); ref->swiglu_grad(z, z2, g, u, dy, n);
    same(y, z, size, n, 16);
    same(y2, z2, NULL, n, 16);
}

static void check_images(const ramet__kernels *ref, const ramet__kernels *k, int64_t n) {
    static const int64_t at[4] = {0, 5, 2, 9};
    float *x = check_floats(n + 9), *dy = check_floats(n + 9), *y = check_floats(n + 9), *z = check_floats(n + 9);
    check_fill(x, n + 9, 3);
    check_fill(dy, n + 9, 3);
    for (int64_t i = 0; i + 1 < n + 9; i += 3) x[i] = i % 2 ? x[i + 1] : 0.0f; /* equals, zeros */
    begin(k, "relu"); k->relu(y, x, n); ref->relu(z, x, n); same(y, z, NULL, n, 0);
    begin(k, "relu_grad"); k->relu_grad(y, x, dy, n); ref->relu_grad(z, x, dy, n); same(y, z, NULL, n, 0);
    begin(k, "max_pick"); k->max_pick(y, x, dy, at, 4, n, 1, 0); ref->max_pick(z, x, dy, at, 4, n, 1, 0); same(y, z, NULL, n, 0);
    if (!n) return;
    static const int64_t apart[3] = {0, 4099, 8198};
    float *wide = check_floats(3 * 4099), *dx = check_floats(3 * 4099), *want = check_floats(3 * 4099);
    check_fill(wide, 3 * 4099, 2);
    for (int64_t i = 0; i < 3 * 4099; i++) dx[i] = want[i] = 0.5f;
    for (int32_t i = 0; i < 4; i++) { /* added or not, all or positive ones; two windows where there is room */
        const int64_t windows = 2 * n <= 4099 ? 2 : 1;
        float *two = check_floats(2 * n), *picked = check_floats(2 * n), *found = check_floats(2 * n);
        check_fill(two, 2 * n, 3);
        begin(k, "max_place");
        k->max_place(dx, wide, two, apart, 3, n, windows, n, i & 1, i / 2); ref->max_place(want, wide, two, apart, 3, n, windows, n, i & 1, i / 2);
        same(dx, want, NULL, 3 * 4099, 0);
        begin(k, "max_pick");
        k->max_pick(picked, wide, wide, apart, 3, n, windows, n); ref->max_pick(found, wide, wide, apart, 3, n, windows, n); same(picked, found, NULL, windows * n, 0);
    }
}
/* Every transform of a tile of n channels, neighbours a little further apart than they must be */
static void check_winograd(const ramet__kernels *k, int64_t n) {
    const int64_t step = n + 3, line = 6 * step + 5, count = 6 * line;
    float *x = check_floats(count), *y = check_floats(count), *z = check_floats(count), *bias = check_floats(n), *size = check_floats(count);
    check_fill(x, count, 1);
    check_fill(bias, n, 1);
    for (int64_t i = 0; i < count; i++) size[i] = 361.0f; /* the magnitudes of the largest row of a matrix are 19 */
    begin(k, "winograd");
    for (int32_t kind = RAMET__WINOGRAD_IMAGE; kind <= RAMET__WINOGRAD_RESULT4; kind++)
        for (int32_t with = 0; with <= (kind >= RAMET__WINOGRAD_RESULT2); with++) {
            for (int64_t i = 0; i < count; i++) y[i] = z[i] = 0.25f;
            k->winograd(kind, y, line, step, x, line, step, with ? bias : NULL, n);
            ramet__winograd_ref(kind, z, line, step, x, line, step, with ? bias : NULL, n);
            same(y, z, size, count, 4);
        }
}
/* m results of n channels from `lines` lines of `depth` */
static void check_conv(const ramet__kernels *ref, const ramet__kernels *k, int64_t m, int64_t n, int64_t lines, int64_t depth, int64_t step) {
    int64_t line = (m - 1) * step + depth, nx = lines * line + 32, nw = lines * depth * n + 32;
    float *x = check_floats(nx), *w = check_floats(nw), *bias = check_floats(n), *y = check_floats(m * n), *z = check_floats(m * n), *size = check_floats(lines * n * depth + m * n);
    check_fill(x, nx, 1);
    check_fill(w, nw, 1);
    check_fill(bias, n, 1);
    for (int64_t i = 0; i < lines * n * depth + m * n; i++) size[i] = (float)(lines * depth + 1);
    begin(k, "conv_row");
    k->conv_row(y, x, step, line, w, lines, depth, bias, m, n); ref->conv_row(z, x, step, line, w, lines, depth, bias, m, n); same(y, z, size, m * n, 2);
    k->conv_row(y, x, step, line, w, lines, depth, NULL, m, n); ref->conv_row(z, x, step, line, w, lines, depth, NULL, m, n); same(y, z, size, m * n, 2);
    int64_t ny = lines * m * n, nd = depth * n, apart = m * step + depth;
    float *dy = check_floats(ny + 32), *dw = check_floats(nd + 1), *want = check_floats(nd + 1), *dx = check_floats(lines * apart), *sum = check_floats(lines * apart);
    check_fill(dy, ny + 32, 1);
    for (int64_t i = 0; i < nd + 1; i++) dw[i] = want[i] = 0.25f;
    for (int64_t i = 0; i < lines * n * depth + m * n; i++) size[i] = (float)(lines * m + 1);
    begin(k, "conv_dw");
    for (int32_t more = 0; more < 2; more++) {
        k->conv_dw(dw, x, step, line, dy, lines, m, n, depth, more); ref->conv_dw(want, x, step, line, dy, lines, m, n, depth, more);
        same(dw, want, size, nd, 4);
    }
    CHECK(dw[nd] == 0.25f, "wrote beyond the end");
    for (int64_t i = 0; i < lines * apart; i++) dx[i] = sum[i] = 0.25f;
    float *much = check_floats(lines * apart); /* every result takes part in depth / step + 1 sums */
    for (int64_t i = 0; i < lines * apart; i++) much[i] = (float)((n + 1) * (depth / step + 2));
    begin(k, "conv_dx");
    k->conv_dx(dx, step, apart, dy, w, depth, lines, m, n, depth); ref->conv_dx(sum, step, apart, dy, w, depth, lines, m, n, depth);
    same(dx, sum, much, lines * apart, 4);
}

static float *brains(const float *x, int64_t n) {
    float *y = check_floats(n);
    for (int64_t i = 0; i < n; i++) y[i] = ramet__brain_f32(ramet__f32_brain(x[i]));
    return y;
}
/* Lines of n numbers, two by two, as pairs. */
static float *paired(const ramet__kernels *k, const float *x, int64_t lines, int64_t n) {
    float *y = check_floats((lines + 1) / 2 * n + 32);
    for (int64_t i = 0; i < lines; i += 2) k->pairs(y + i / 2 * n, x + i * n, i + 1 < lines ? x + (i + 1) * n : NULL, n);
    return y;
}
static float *sliding(const ramet__kernels *k, const float *x, int64_t n, int64_t apart) {
    float *y = check_floats(n + 32);
    int64_t both = n > apart ? n - apart : 0;
    k->pairs(y, x, x + apart, both);
    k->pairs(y + both, x + both, NULL, n - both);
    return y;
}
/* Pairs of bf16 against ref on numbers that are bf16. */
static void check_pairs(const ramet__kernels *ref, const ramet__kernels *k, int64_t m, int64_t n, int64_t lines, int64_t depth, int64_t step) {
    int64_t line = (m - 1) * step + depth, nx = lines * line, ny = lines * m * n, nw = lines * depth * n, apart = m * step + depth, nd = depth * n;
    float *x = check_floats(nx), *w = check_floats(nw + 32), *dy = check_floats(ny), *y = check_floats(m * n), *z = check_floats(m * n), *bias = check_floats(n);
    float *size = check_floats(nx + nd + m * n + lines * apart);
    check_fill(x, nx, 1);
    check_fill(w, nw, 1);
    check_fill(dy, ny, 1);
    check_fill(bias, n, 1);
    begin(k, "pairs");
    float *two = sliding(k, x, nx, 1);
    for (int64_t i = 0; i < nx; i++) {
        uint16_t half[2];
        memcpy(half, &two[i], sizeof half);
        CHECK(half[0] == ramet__f32_brain(x[i]) && half[1] == (i + 1 < nx ? ramet__f32_brain(x[i + 1]) : 0), "n %lld: [%lld] is another pair", (long long)nx, (long long)i);
    }
    for (int64_t i = 0; i < nx + nd + m * n + lines * apart; i++) size[i] = (float)(lines * (depth + m) + n + 1);
    float *bx = brains(x, nx), *bw = brains(w, nw), *by = brains(dy, ny), *wp = check_floats(lines * ((depth + 1) / 2) * n + 32);
    for (int64_t l = 0; l < lines; l++) memcpy(wp + l * ((depth + 1) / 2) * n, paired(k, w + l * depth * n, depth, n), (size_t)((depth + 1) / 2 * n) * sizeof *wp);
    begin(k, "conv_row_pairs");
    k->conv_row_pairs(y, two, step, line, wp, lines, depth, bias, m, n); ref->conv_row(z, bx, step, line, bw, lines, depth, bias, m, n); same(y, z, size, m * n, 4);
    begin(k, "conv_dx_pairs"); /* of the first line's matrix, [n, depth] */
    float *dx = check_floats(lines * apart), *want = check_floats(lines * apart);
    for (int64_t i = 0; i < lines * apart; i++) dx[i] = want[i] = 0.25f;
    k->conv_dx_pairs(dx, step, apart, sliding(k, dy, ny, 1), paired(k, w, n, depth), depth, lines, m, n, depth);
    ref->conv_dx(want, step, apart, by, bw, depth, lines, m, n, depth);
    for (int64_t i = 0; i < lines * apart; i++) size[i] = (float)((n + 1) * (depth / step + 2));
    same(dx, want, size, lines * apart, 4);
    begin(k, "conv_dw_pairs");
    float *dw = check_floats(nd), *is = check_floats(nd), *dyp = check_floats(lines * ((m + 1) / 2) * n + 32);
    for (int64_t l = 0; l < lines; l++) memcpy(dyp + l * ((m + 1) / 2) * n, paired(k, dy + l * m * n, m, n), (size_t)((m + 1) / 2 * n) * sizeof *dyp);
    for (int64_t i = 0; i < nd; i++) dw[i] = is[i] = 0.25f;
    for (int32_t more = 0; more < 2; more++) {
        k->conv_dw_pairs(dw, sliding(k, x, nx, step), step, line, dyp, lines, m, n, depth, more); ref->conv_dw(is, bx, step, line, by, lines, m, n, depth, more);
        for (int64_t i = 0; i < nd; i++) size[i] = (float)(2 * lines * m + 1);
        same(dw, is, size, nd, 4);
    }
}

static void check_softmax(const ramet__kernels *ref, const ramet__kernels *k, int64_t n, float scale) {
    float *x = check_floats(n), *y = check_floats(n), *z = check_floats(n);
    check_fill(x, n, scale);
    if (n > 3 && scale > 50) x[1] = -INFINITY;
    /* an argument of size s is known to s * 2^-24, and so is its exponential, relatively */
    double bound = 16 + 2 * (double)scale + 40;
    begin(k, "softmax"); k->softmax(y, x, n); ref->softmax(z, x, n); same(y, z, NULL, n, bound);
    float a = k->logsumexp(x, n), b = ref->logsumexp(x, n);
    begin(k, "logsumexp"); CHECK(check_near(a, b, ULP * (fabs((double)b) + 48)), "n %lld: %.9g, not %.9g", (long long)n, (double)a, (double)b);
    int64_t label = n ? check_range(-1, n - 1) : -1;
    memcpy(y, x, (size_t)n * 4); memcpy(z, x, (size_t)n * 4);
    begin(k, "softmax_minus_onehot"); k->softmax_minus_onehot(y, b, label, 0.25f, n); ref->softmax_minus_onehot(z, b, label, 0.25f, n);
    for (int64_t i = 0; i < n; i++) {
        double size = fabs((double)z[i]) + (i == label ? 0.5 : 0);
        CHECK(check_near(y[i], z[i], size * ULP * bound + 1e-37), "n %lld label %lld: [%lld] is %.9g, not %.9g", (long long)n, (long long)label, (long long)i, (double)y[i], (double)z[i]);
    }
}

/* The exponential itself, seen through softmax_minus_onehot with lse 0 and s 1. */
static void check_exp(const ramet__kernels *k) {
    begin(k, "exp");
    int simd = !strcmp(k->isa, "simd");
    float x[64], y[64];
    for (int round = 0; round < 400; round++) {
        check_fill(x, 64, round % 2 ? 89 : 2);
        memcpy(y, x, sizeof x);
        k->softmax_minus_onehot(y, 0, -1, 1, 64);
        for (int i = 0; i < 64; i++) {
            double want = exp((double)x[i]), bound = want * 2 * ULP * (simd ? 3 : 1.5) + 1.5e-45;
            if (want < 3.4e38 || !isinf((double)y[i])) CHECK(fabs((double)y[i] - want) <= bound, "e^%.9g is %.9g, not %.9g", (double)x[i], (double)y[i], want);
        }
    }
    float edge[8] = {INFINITY, -INFINITY, NAN, 0, -0.0f, 100, -200, 88.7f};
    k->softmax_minus_onehot(edge, 0, -1, 1, 8);
    CHECK(isinf(edge[0]) && edge[1] == 0 && isnan(edge[2]) && edge[3] == 1 && edge[4] == 1 && isinf(edge[5]) && edge[6] == 0 && edge[7] > 3.3e38f,
          "extremes: %g %g %g %g %g %g %g %g", (double)edge[0], (double)edge[1], (double)edge[2], (double)edge[3], (double)edge[4], (double)edge[5], (double)edge[6], (double)edge[7]);
}

static void check_gelu_extremes(const ramet__kernels *k) {
    float x[16] = {INFINITY, -INFINITY, NAN, 0, -0.0f, 100, -100, 3e38f, -3e38f}, y[16], one[16];
    for (int i = 0; i < 16; i++) one[i] = 1;
    begin(k, "gelu"); k->gelu(y, x, 9);
    CHECK(isinf(y[0]) && y[1] == 0 && isnan(y[2]) && y[3] == 0 && y[4] == 0 && y[5] == 100 && y[6] == 0 && y[7] == 3e38f && y[8] == 0, "extremes");
    begin(k, "gelu_grad"); k->gelu_grad(y, x, one, 9);
    CHECK(y[0] == 1 && y[1] == 0 && isnan(y[2]) && fabsf(y[3] - 0.5f) < 1e-6f && y[5] == 1 && y[6] == 0 && y[7] == 1 && y[8] == 0, "extremes");
}

static void check_rope(const ramet__kernels *ref, const ramet__kernels *k) {
    static const int64_t shapes[][3] = {{1, 64, 64}, {9, 64, 64}, {3, 80, 32}, {2, 6, 6}, {1, 2, 2}, {2, 300, 300}, {1, 64, 0}};
    for (int s = 0; s < 7; s++)
        for (int32_t halves = 0; halves < 2; halves++) {
            int64_t heads = shapes[s][0], hd = shapes[s][1], rot = shapes[s][2], n = heads * hd;
            float *x = check_floats(n), *cs = check_floats(rot), *y, *z, *size = check_floats(n);
            check_fill(x, n, 2);
            for (int64_t i = 0; i < rot / 2; i++) {
                float a = check_uniform(-3, 3);
                cs[2 * i] = cosf(a); cs[2 * i + 1] = sinf(a);
            }
            for (int64_t i = 0; i < n; i++) size[i] = 4;
            y = check_copy(x, n); z = check_copy(x, n);
            begin(k, "rope");
            k->rope(y, heads, hd, rot, cs, 1, halves); ref->rope(z, heads, hd, rot, cs, 1, halves); same(y, z, size, n, 2);
            k->rope(y, heads, hd, rot, cs, -1, halves); same(y, x, size, n, 6);
            for (int64_t h = 0; h < heads; h++) CHECK(!memcmp(y + h * hd + rot, x + h * hd + rot, (size_t)(hd - rot) * 4), "touched beyond rot");
            check_release();
        }
}

static void check_adamw(const ramet__kernels *ref, const ramet__kernels *k, int64_t n) {
    float *p = check_floats(n), *m = check_floats(n), *v = check_floats(n), *g = check_floats(n);
    check_fill(p, n, 1); check_fill(m, n, 0.1f); check_fill(v, n, 0.1f); check_fill(g, n, 3);
    for (int64_t i = 0; i < n; i++) v[i] = fabsf(v[i]);
    float *p2 = check_copy(p, n), *m2 = check_copy(m, n), *v2 = check_copy(v, n), *g2 = check_copy(g, n), *size = check_floats(n);
    begin(k, "adamw");
    k->adamw(p, m, v, g, n, 1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 2.0f, 3.0f, 0.5f);
    ref->adamw(p2, m2, v2, g2, n, 1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 2.0f, 3.0f, 0.5f);
    for (int64_t i = 0; i < n; i++) size[i] = 0.3f;
    same(m, m2, size, n, 4);
    same(v, v2, NULL, n, 6);
    for (int64_t i = 0; i < n; i++) size[i] = fabsf(p2[i]) + 0.2f;
    same(p, p2, size, n, 4);
    for (int64_t i = 0; i < n; i++) CHECK(g[i] == 0, "gradient not zeroed");
}

void check_rows(const ramet__kernels *ref, const ramet__kernels *k, int thorough) {
    for (int round = 0; round < (thorough ? 20 : 1); round++) {
        for (int i = 0; i < LENGTHS; i++) {
            check_simple(ref, k, lengths[i]);
            check_norms(ref, k, lengths[i]);
            check_adamw(ref, k, lengths[i]);
            check_release();
            check_activations(ref, k, lengths[i], 4);
            check_activations(ref, k, lengths[i], 60);
            check_images(ref, k, lengths[i]);
            check_softmax(ref, k, lengths[i], 3);
            if (lengths[i]) check_softmax(ref, k, lengths[i], 60);
            check_release();
        }
        static const int64_t sizes[][5] = {{1, 1, 1, 1, 1}, {3, 2, 2, 5, 1}, {24, 16, 5, 5, 1}, {8, 32, 5, 80, 16}, {13, 33, 3, 27, 18}, {5, 70, 3, 40, 8}, {17, 8, 1, 17, 3}, {12, 17, 2, 33, 33}};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            if (k->winograd) check_winograd(k, 8 * (int64_t)(i % 3 + 1));
            check_conv(ref, k, sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], sizes[i][4]);
            if (k->pairs) check_pairs(ref, k, sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], sizes[i][4]);
            check_release();
        }
        check_exp(k);
        if (strcmp(k->isa, "ref")) check_gelu_extremes(k);
        check_rope(ref, k);
    }
}
