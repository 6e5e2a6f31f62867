/* SPDX-License-Identifier: Apache-2.0 */
/* elementwise.c - kernels over one row in vectors: arithmetic, sums, norms, activations, rotation, softmax, AdamW. */
#include "blocks.h"
#include "registry.h"
#include "simd/exp.h"

#define EACH(i, n) for (int64_t i = 0, left = (n); left > 0; i += VL, left -= VL)

void FN(add)(float *y, const float *a, const float *b, int64_t n) { EACH(i, n) vput(y + i, vadd(vget(a + i, left), vget(b + i, left)), left); }
void FN(mul)(float *y, const float *a, const float *b, int64_t n) { EACH(i, n) vput(y + i, vmul(vget(a + i, left), vget(b + i, left)), left); }
void FN(scale)(float *y, float s, const float *x, int64_t n) { EACH(i, n) vput(y + i, vmul(vset(s), vget(x + i, left)), left); }
void FN(axpy)(float *y, float s, const float *x, int64_t n) { EACH(i, n) vput(y + i, vfma(vset(s), vget(x + i, left), vget(y + i, left)), left); }

void FN(to_half)(uint16_t *y, const float *x, int64_t n) {
    int64_t i = 0;
#if defined(RAMET__VEC512)
    for (; i + VL <= n; i += VL) _mm256_storeu_si256((__m256i *)(void *)(y + i), _mm512_cvtps_ph(vload(x + i), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    for (; i + VL <= n; i += VL) _mm_storeu_si128((__m128i *)(void *)(y + i), _mm256_cvtps_ph(vload(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++) y[i] = ramet__f32_half(x[i]);
}

/* Sixteen running sums at every width, as in ref. */
INLINE float sum16(const vf s[HALVES]) { return vsum(HALVES == 1 ? s[0] : vadd(s[0], s[HALVES - 1])); }

float FN(dot)(const float *a, const float *b, int64_t n) {
    vf s[HALVES];
    for (int h = 0; h < HALVES; h++) s[h] = vzero();
    for (int64_t i = 0; i < n; i += 16)
        UNROLL for (int h = 0; h < HALVES; h++) {
            int64_t at = i + h * VL;
            s[h] = vfma(vget(a + at, n - at), vget(b + at, n - at), s[h]);
        }
    return sum16(s);
}

float FN(sum)(const float *x, int64_t n) {
    vf s[HALVES];
    for (int h = 0; h < HALVES; h++) s[h] = vzero();
    for (int64_t i = 0; i < n; i += 16)
        UNROLL for (int h = 0; h < HALVES; h++) s[h] = vadd(s[h], vget(x + i + h * VL, n - i - h * VL));
    return sum16(s);
}

float FN(max)(const float *x, int64_t n) {
    vf top = vset(-INFINITY);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) top = vmax(vload(x + i), top);
    float m = vtop(top);
    for (; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

double FN(sumsq)(const float *x, int64_t n) {
    vd s = vd_zero();
    EACH(i, n) s = vd_square(s, vget(x + i, left));
    return vd_sum(s);
}

/* 0 * x is 0 for every finite x and NaN for the rest */
int32_t FN(finite)(const float *x, int64_t n) {
    vf s = vzero();
    EACH(i, n) s = vadd(s, vmul(vzero(), vget(x + i, left)));
    return vsum(s) == 0.0f;
}

INLINE float inverse_rms(const float *x, int64_t n, float eps) { return n ? (float)(1.0 / sqrt(FN(sumsq)(x, n) / (double)n + (double)eps)) : 0.0f; }

void FN(rms_norm)(float *y, const float *x, const float *w, int64_t n, float eps) {
    vf r = vset(inverse_rms(x, n, eps));
    EACH(i, n) vput(y + i, vmul(vmul(vget(x + i, left), r), vget(w + i, left)), left);
}

void FN(rms_norm_grad)(float *dx, float *dw, const float *x, const float *w, const float *dy, int64_t n, float eps) {
    float r = inverse_rms(x, n, eps);
    vf s = vzero();
    EACH(i, n) s = vfma(vmul(vget(dy + i, left), vget(w + i, left)), vget(x + i, left), s);
    vf c = vset(n ? (float)((double)r * (double)r * (double)r * (double)vsum(s) / (double)n) : 0.0f), rv = vset(r);
    EACH(i, n) {
        vf xi = vget(x + i, left), g = vget(dy + i, left), wi = vget(w + i, left);
        if (dw) vput(dw + i, vfma(vmul(g, xi), rv, vget(dw + i, left)), left);
        vput(dx + i, vfnma(xi, c, vmul(vmul(g, wi), rv)), left);
    }
}

void FN(layer_norm)(float *y, const float *x, const float *w, const float *b, int64_t n, float eps) {
    vf mean = vset(n ? FN(sum)(x, n) / (float)n : 0.0f);
    EACH(i, n) vput(y + i, vsub(vget(x + i, left), mean), left);
    vf r = vset(inverse_rms(y, n, eps));
    EACH(i, n) vput(y + i, vfma(vmul(vget(y + i, left), r), vget(w + i, left), vget(b + i, left)), left);
}

/* The normal distribution beyond a, 0 <= a, and its density times sqrt(2 pi): Abramowitz & Stegun 7.1.26, error 8e-8. */
INLINE vf vtail(vf a, vf *density) {
    vf t = vdiv(vset(1.0f), vfma(vset(0.3275911f * 0.70710678f), a, vset(1.0f)));
    vf p = vset(0.5f * 1.061405429f);
    p = vfma(p, t, vset(0.5f * -1.453152027f));
    p = vfma(p, t, vset(0.5f * 1.421413741f));
    p = vfma(p, t, vset(0.5f * -0.284496736f));
    p = vfma(p, t, vset(0.5f * 0.254829592f));
    *density = vexp(vmul(vmul(a, a), vset(-0.5f)));
    return vmul(vmul(p, t), *density);
}

INLINE vf vwithin(vf x) { return vmin(vset(40.0f), vabs(x)); } /* what lies beyond weighs nothing; NaN stays */

void FN(gelu)(float *y, const float *x, int64_t n) {
    EACH(i, n) {
        vf v = vget(x + i, left), a = vwithin(v), density, tail = vtail(a, &density);
        vput(y + i, vfnma(a, tail, vmax(vzero(), v)), left);
    }
}

void FN(gelu_grad)(float *dx, const float *x, const float *dy, int64_t n) {
    EACH(i, n) {
        vf v = vget(x + i, left), a = vwithin(v), density, half = vsub(vset(0.5f), vtail(a, &density));
        vf change = vfma(vmul(a, vset(0.39894228f)), density, half); /* odd in x, like x times the density */
        vf slope = vadd(vset(0.5f), vcast(vixor(vicast(change), viand(vicast(v), viset(INT32_MIN)))));
        vput(dx + i, vmul(vget(dy + i, left), slope), left);
    }
}

void FN(silu)(float *y, const float *x, int64_t n) {
    EACH(i, n) {
        vf v = vget(x + i, left);
        vput(y + i, vmul(v, vsigmoid(v)), left);
    }
}

/* s (1 + x (1 - s)) */
INLINE vf slope(vf x, vf s) { return vmul(s, vfma(x, vsub(vset(1.0f), s), vset(1.0f))); }

void FN(silu_grad)(float *dx, const float *x, const float *dy, int64_t n) {
    EACH(i, n) {
        vf v = vget(x + i, left);
        vput(dx + i, vmul(vget(dy + i, left), slope(v, vsigmoid(v))), left);
    }
}

void FN(swiglu)(float *y, const float *g, const float *u, int64_t n) {
    EACH(i, n) {
        vf v = vget(g + i, left);
        vput(y + i, vmul(vmul(v, vsigmoid(v)), vget(u + i, left)), left);
    }
}

void FN(swiglu_grad)(float *dg, float *du, const float *g, const float *u, const float *dy, int64_t n) {
    EACH(i, n) {
        vf v = vget(g + i, left), s = vsigmoid(v), d = vget(dy + i, left), ui = vget(u + i, left);
        vput(dg + i, vmul(vmul(d, ui), slope(v, s)), left);
        vput(du + i, vmul(d, vmul(v, s)), left);
    }
}

/* The angles are laid out once for all heads, 64 pairs at a time. */
void FN(rope)(float *x, int64_t heads, int64_t head_dim, int64_t rot, const float *cs, float sign, int32_t halves) {
    enum { PAIRS = 64 };
    int64_t half = rot / 2;
    for (int64_t j = 0; j < half; j += PAIRS) {
        int64_t pairs = half - j < PAIRS ? half - j : PAIRS;
        float c[2 * PAIRS], s[2 * PAIRS];
        for (int64_t i = 0; i < pairs; i++) {
            float cosine = cs[2 * (j + i)], sine = sign * cs[2 * (j + i) + 1];
            if (halves) c[i] = cosine, s[i] = sine;
            else c[2 * i] = c[2 * i + 1] = cosine, s[2 * i] = -sine, s[2 * i + 1] = sine;
        }
        for (int64_t h = 0; h < heads; h++) {
            float *p = x + h * head_dim + (halves ? j : 2 * j), *q = p + half;
            if (halves) EACH(i, pairs) {
                vf a = vget(p + i, left), b = vget(q + i, left), cv = vget(c + i, left), sv = vget(s + i, left);
                vput(p + i, vfnma(b, sv, vmul(a, cv)), left);
                vput(q + i, vfma(b, cv, vmul(a, sv)), left);
            }
            else EACH(i, 2 * pairs) {
                vf a = vget(p + i, left);
                vput(p + i, vfma(vswap(a), vget(s + i, left), vmul(a, vget(c + i, left))), left);
            }
        }
    }
}

/* y = exp(x - m); the sum in double over parts that fp32 sums well */
INLINE double exp_sum(float *y, const float *x, float m, int64_t n) {
    double total = 0;
    for (int64_t at = 0; at < n; at += 512) {
        vf s = vzero();
        int64_t part = n - at < 512 ? n - at : 512;
        EACH(i, part) {
            vf e = vexp(vsub(left >= VL ? vload(x + at + i) : vload_n(x + at + i, left), vset(m)));
            if (left < VL) { /* what lies past the end must not be counted */
                float t[VL];
                vstore(t, e);
                for (int64_t l = left; l < VL; l++) t[l] = 0.0f;
                e = vload(t);
            }
            if (y) vput(y + at + i, e, left);
            s = vadd(s, e);
        }
        total += (double)vsum(s);
    }
    return total;
}

void FN(softmax)(float *y, const float *x, int64_t n) {
    double total = exp_sum(y, x, FN(max)(x, n), n);
    FN(scale)(y, (float)(1.0 / total), y, n);
}

float FN(logsumexp)(const float *x, int64_t n) {
    float m = FN(max)(x, n);
    if (m == -INFINITY) return m;
    return (float)((double)m + log(exp_sum(NULL, x, m, n)));
}

void FN(softmax_minus_onehot)(float *x, float lse, int64_t label, float s, int64_t n) {
    EACH(i, n) vput(x + i, vmul(vexp(vsub(vget(x + i, left), vset(lse))), vset(s)), left);
    if (label >= 0) x[label] -= s;
}

void FN(adamw)(float *p, float *m, float *v, float *g, int64_t n, float lr, float beta1, float beta2, float eps, float decay, float c1, float c2,
               float g_scale) {
    vf b1 = vset(beta1), r1 = vset(1.0f - beta1), b2 = vset(beta2), r2 = vset(1.0f - beta2);
    EACH(i, n) {
        vf gi = vmul(vget(g + i, left), vset(g_scale)), pi = vget(p + i, left);
        vf mi = vfma(b1, vget(m + i, left), vmul(r1, gi)), vi_ = vfma(b2, vget(v + i, left), vmul(vmul(r2, gi), gi));
        vf step = vdiv(vmul(mi, vset(c1)), vadd(vsqrt(vmul(vi_, vset(c2))), vset(eps)));
        vput(m + i, mi, left);
        vput(v + i, vi_, left);
        vput(p + i, vfnma(vset(lr), vfma(vset(decay), pi, step), pi), left);
        vput(g + i, vzero(), left);
    }
}
