/* SPDX-License-Identifier: Apache-2.0 */
/* adamw8.c - AdamW with moments of 8 bits (Dettmers et al. 2022, arXiv:2110.02861): blocks of 256 share a scale, the block's largest
 * magnitude. The first moment is scale * sign * (q/127)^2, the second scale * (q/255)^4, so that small numbers keep a relative precision.
 * Rounding is stochastic, drawn from (step, place) alone: a moment that changes by less than a code a step still moves, and the
 * bits do not depend on threads. A second moment above zero never becomes zero: its reciprocal root is a step. */
#include <math.h>
#include "train/train.h"

#define BLOCK RAMET__STATE_BLOCK

static float draw(uint32_t x) { /* [0,1): a mixed counter (the finalizer of MurmurHash3) */
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return (float)((x ^ x >> 16) >> 8) * 0x1p-24f;
}
static float first_at(float q) { return q * q * (1.0f / (127.0f * 127.0f)); }
static float second_at(float q) { return q * q * (q * q) * (1.0f / (255.0f * 255.0f * 255.0f * 255.0f)); }

static void decode(float *m, float *v, const int8_t *cm, const uint8_t *cv, float sm, float sv, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float q = (float)cm[i];
        m[i] = sm * (q < 0 ? -first_at(q) : first_at(q));
        v[i] = sv * second_at((float)cv[i]);
    }
}

static void encode(int8_t *cm, uint8_t *cv, float *sm, float *sv, const float *m, const float *v, int64_t n, uint32_t seed) {
    float a = 0.0f, b = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        a = RAMET__MAX(a, fabsf(m[i]));
        b = RAMET__MAX(b, v[i]);
    }
    *sm = a;
    *sv = b;
    for (int64_t i = 0; i < n; i++) {
        const float u = draw(seed + (uint32_t)i), x = a > 0 ? fabsf(m[i]) / a : 0.0f, y = b > 0 ? v[i] / b : 0.0f;
        float q = RAMET__MIN(126.0f, floorf(127.0f * sqrtf(x))), low = first_at(q);
        q += x - low > u * (first_at(q + 1) - low);
        cm[i] = (int8_t)(m[i] < 0 ? -q : q);
        q = RAMET__MIN(254.0f, floorf(255.0f * sqrtf(sqrtf(y))));
        low = second_at(q);
        q += y - low > u * (second_at(q + 1) - low);
        cv[i] = (uint8_t)(v[i] > 0 ? RAMET__MAX(1.0f, q) : 0.0f);
    }
}

static void update(const ramet__optimizer_step *u, float *p, float *g, void *const *state, int64_t n, float decay) {
    const double t = (double)u->step;
    const float c1 = (float)(1.0 / (1.0 - pow((double)u->beta1, t))), c2 = (float)(1.0 / (1.0 - pow((double)u->beta2, t)));
    float m[BLOCK], v[BLOCK];
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t count = RAMET__MIN(BLOCK, n - at);
        int8_t *cm = (int8_t *)state[0] + at;
        uint8_t *cv = (uint8_t *)state[1] + at;
        float *sm = (float *)state[2] + at / BLOCK, *sv = (float *)state[3] + at / BLOCK;
        decode(m, v, cm, cv, *sm, *sv, count);
        u->kernels->adamw(p + at, m, v, g + at, count, u->rate, u->beta1, u->beta2, u->epsilon, decay, c1, c2, u->scale);
        encode(cm, cv, sm, sv, m, v, count, (uint32_t)u->step * 0x9e3779b9u + (uint32_t)(u->place + at));
    }
}

const ramet__optimizer ramet__optimizer_adamw8 = {"adamw8", "AdamW, moments of 8 bits", update, 4, {{1, 1}, {1, 1}, {4, BLOCK}, {4, BLOCK}}};
