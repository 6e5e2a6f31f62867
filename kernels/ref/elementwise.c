/* SPDX-License-Identifier: Apache-2.0 */
/* elementwise.c - the definition of the kernels over one row: arithmetic, sums, norms, activations, rotation, softmax, AdamW. */
#include "blocks.h"
#include "registry.h"
#include <math.h>

void ramet__add_ref(float *y, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

void ramet__mul_ref(float *y, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = a[i] * b[i];
}

void ramet__axpy_ref(float *y, float s, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += s * x[i];
}

void ramet__to_half_ref(uint16_t *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = ramet__f32_half(x[i]);
}
void ramet__scale_ref(float *y, float s, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = s * x[i];
}

/* Sixteen running sums, element i into sum i % 16, then a tree: what every vector width can do alike. */
static float tree(float l[16]) {
    for (int w = 8; w; w /= 2)
        for (int j = 0; j < w; j++) l[j] += l[j + w];
    return l[0];
}

float ramet__dot_ref(const float *a, const float *b, int64_t n) {
    float l[16] = {0};
    for (int64_t i = 0; i < n; i++) l[i % 16] += a[i] * b[i];
    return tree(l);
}

float ramet__sum_ref(const float *x, int64_t n) {
    float l[16] = {0};
    for (int64_t i = 0; i < n; i++) l[i % 16] += x[i];
    return tree(l);
}

float ramet__max_ref(const float *x, int64_t n) {
    float m = -INFINITY;
    for (int64_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

double ramet__sumsq_ref(const float *x, int64_t n) {
    double l[16] = {0};
    for (int64_t i = 0; i < n; i++) l[i % 16] += (double)x[i] * (double)x[i];
    for (int w = 8; w; w /= 2)
        for (int j = 0; j < w; j++) l[j] += l[j + w];
    return l[0];
}

int32_t ramet__finite_ref(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if ((ramet__f32_bits(x[i]) & 0x7f800000u) == 0x7f800000u) return 0;
    return 1;
}

static double inverse_rms(const float *x, int64_t n, float eps) {
    return n ? 1.0 / sqrt(ramet__sumsq_ref(x, n) / (double)n + (double)eps) : 0.0;
}

void ramet__rms_norm_ref(float *y, const float *x, const float *w, int64_t n, float eps) {
    double r = inverse_rms(x, n, eps);
    for (int64_t i = 0; i < n; i++) y[i] = (float)((double)x[i] * r * (double)w[i]);
}

/* With g = dy * w: dx = r g - x r^3 (g . x) / n. */
void ramet__rms_norm_grad_ref(float *dx, float *dw, const float *x, const float *w, const float *dy, int64_t n, float eps) {
    double r = inverse_rms(x, n, eps), gx = 0;
    for (int64_t i = 0; i < n; i++) gx += (double)dy[i] * (double)w[i] * (double)x[i];
    double c = n ? r * r * r * gx / (double)n : 0.0;
    for (int64_t i = 0; i < n; i++) {
        double g = (double)dy[i] * (double)w[i], xi = x[i];
        if (dw) dw[i] += (float)((double)dy[i] * xi * r);
        dx[i] = (float)(r * g - xi * c);
    }
}

void ramet__layer_norm_ref(float *y, const float *x, const float *w, const float *b, int64_t n, float eps) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < n; i++) mean += (double)x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
    for (int64_t i = 0; i < n; i++) y[i] = (float)(((double)x[i] - mean) / sqrt(square + (double)eps) * (double)w[i] + (double)b[i]);
}

static double normal(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }

void ramet__gelu_ref(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)((double)x[i] * normal(x[i]));
}

void ramet__gelu_grad_ref(float *dx, const float *x, const float *dy, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double v = x[i];
        dx[i] = (float)((double)dy[i] * (normal(v) + v * 0.39894228040143268 * exp(-0.5 * v * v)));
    }
}

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

void ramet__silu_ref(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)((double)x[i] * sigmoid(x[i]));
}

static double silu_slope(double x) { double s = sigmoid(x); return s * (1.0 + x * (1.0 - s)); }

void ramet__silu_grad_ref(float *dx, const float *x, const float *dy, int64_t n) {
    for (int64_t i = 0; i < n; i++) dx[i] = (float)((double)dy[i] * silu_slope(x[i]));
}

void ramet__swiglu_ref(float *y, const float *g, const float *u, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)((double)g[i] * sigmoid(g[i]) * (double)u[i]);
}

void ramet__swiglu_grad_ref(float *dg, float *du, const float *g, const float *u, const float *dy, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double gi = g[i], ui = u[i], d = dy[i];
        dg[i] = (float)(d * ui * silu_slope(gi));
        du[i] = (float)(d * gi * sigmoid(gi));
    }
}

void ramet__rope_ref(float *x, int64_t heads, int64_t head_dim, int64_t rot, const float *cs, float sign, int32_t halves) {
    for (int64_t h = 0; h < heads; h++, x += head_dim)
        for (int64_t j = 0; j < rot / 2; j++) {
            float *p = halves ? x + j : x + 2 * j, *q = halves ? x + j + rot / 2 : x + 2 * j + 1;
            float c = cs[2 * j], s = sign * cs[2 * j + 1], a = *p, b = *q;
            *p = a * c - b * s;
            *q = a * s + b * c;
        }
}

void ramet__softmax_ref(float *y, const float *x, int64_t n) {
    double m = ramet__max_ref(x, n), s = 0;
    for (int64_t i = 0; i < n; i++) s += exp((double)x[i] - m);
    for (int64_t i = 0; i < n; i++) y[i] = (float)(exp((double)x[i] - m) / s);
}

float ramet__logsumexp_ref(const float *x, int64_t n) {
    double m = ramet__max_ref(x, n), s = 0;
    if (m == -(double)INFINITY) return -INFINITY;
    for (int64_t i = 0; i < n; i++) s += exp((double)x[i] - m);
    return (float)(m + log(s));
}

void ramet__softmax_minus_onehot_ref(float *x, float lse, int64_t label, float s, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)(exp((double)x[i] - (double)lse) * (double)s);
    if (label >= 0) x[label] -= s;
}

void ramet__adamw_ref(float *p, float *m, float *v, float *g, int64_t n, float lr, float beta1, float beta2, float eps, float decay,
                      float c1, float c2, float g_scale) {
    for (int64_t i = 0; i < n; i++) {
        float gi = g[i] * g_scale;
        m[i] = beta1 * m[i] + (1.0f - beta1) * gi;
        v[i] = beta2 * v[i] + (1.0f - beta2) * gi * gi;
        p[i] = p[i] - lr * (m[i] * c1 / (sqrtf(v[i] * c2) + eps) + decay * p[i]);
        g[i] = 0.0f;
    }
}
