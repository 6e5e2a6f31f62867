/* SPDX-License-Identifier: Apache-2.0 */
/* sampling.c - choosing a token from one row of logits, without memory of its own.
 *
 * Every filter keeps a beginning of one order (larger logit first, then smaller id), so what is kept is described by a cut:
 * all keys above `key`, and the first `ties` ids that have it. The cut is found by radix selection over the bits of the
 * logits (three passes of 11 bits), never by sorting. */
#include "base/rng.h"
#include "base/runtime.h"
#include "ramet/session.h"
#include <math.h>
#include <string.h>

static const ramet_sampling defaults = {.struct_size = sizeof(ramet_sampling), .temperature = 0, .top_k = 0, .top_p = 1, .min_p = 0};

void ramet_sampling_init(ramet_sampling *sampling, uint32_t struct_size) { ramet__options_init(sampling, struct_size, &defaults, sizeof defaults); }

typedef struct cut { uint32_t key; int64_t ties; } cut;
typedef struct row { const float *x; int64_t n; float max; int32_t best; } row;

/* Floats as unsigned numbers in the same order; -0 is +0. */
static uint32_t key_of(float f) {
    uint32_t u;
    f += 0.0f;
    memcpy(&u, &f, sizeof u);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static int32_t kept(const cut *c, int64_t *ties, float f) {
    const uint32_t k = key_of(f);
    return k > c->key || (k == c->key && (*ties)++ < c->ties);
}

static double mass(const row *r, float f) { return exp((double)f - (double)r->max); }

/* The shortest beginning of the order within `limit` whose weight reaches `want`; the weight of a token is 1 (by_mass 0) or its mass. */
static cut shortest(const row *r, const cut *limit, double want, int32_t by_mass) {
    static const int32_t shifts[] = {21, 10, 0}, widths[] = {11, 11, 10};
    uint32_t prefix = 0;
    double above = 0; /* weight of keys over the prefix */
    for (int32_t pass = 0; pass < 3; pass++) {
        double weight[2048];
        const uint32_t buckets = 1u << widths[pass];
        int64_t ties = 0;
        memset(weight, 0, sizeof weight);
        for (int64_t i = 0; i < r->n; i++) {
            const uint32_t k = key_of(r->x[i]);
            if (pass && (k >> (shifts[pass] + widths[pass])) != prefix) continue;
            if (k < limit->key || (k == limit->key && ties++ >= limit->ties)) continue;
            weight[(k >> shifts[pass]) & (buckets - 1)] += by_mass ? mass(r, r->x[i]) : 1;
        }
        uint32_t b = buckets, lowest = 0;
        while (!weight[lowest] && lowest + 1 < buckets) lowest++; /* the last bucket that holds anything: rounding must not pass it */
        while (b-- > lowest + 1 && above + weight[b] < want) above += weight[b];
        prefix = (prefix << widths[pass]) | b;
    }
    cut c = {prefix, 0};
    int64_t ties = 0, all = 0;
    for (int64_t i = 0; i < r->n; i++) all += key_of(r->x[i]) == prefix;
    if (prefix == limit->key) all = RAMET__MIN(all, limit->ties);
    double one = 0;
    for (int64_t i = 0; i < r->n && !one; i++)
        if (key_of(r->x[i]) == prefix) one = by_mass ? mass(r, r->x[i]) : 1;
    while (ties < all && (ties == 0 || above + one * (double)ties < want)) ties++;
    c.ties = ties;
    return c;
}

static ramet_status check(const ramet_sampling *s, const float *logits, int64_t vocabulary) {
    if (!logits || vocabulary < 1 || vocabulary > INT32_MAX) return ramet__fail(RAMET_E_ARGUMENT, "ramet_sample: %s", logits ? "vocabulary is out of range" : "logits is NULL");
    if (!isfinite(s->temperature) || s->temperature < 0) return ramet__fail(RAMET_E_ARGUMENT, "sampling: temperature is %g; it must be a number >= 0", (double)s->temperature);
    if (s->top_k < 0) return ramet__fail(RAMET_E_ARGUMENT, "sampling: top_k is %d; it must be >= 0", s->top_k);
    if (!(s->top_p >= 0 && s->top_p <= 1)) return ramet__fail(RAMET_E_ARGUMENT, "sampling: top_p is %g; it must be in 0..1", (double)s->top_p);
    if (!(s->min_p >= 0 && s->min_p <= 1)) return ramet__fail(RAMET_E_ARGUMENT, "sampling: min_p is %g; it must be in 0..1", (double)s->min_p);
    if (s->draft < 0) return ramet__fail(RAMET_E_ARGUMENT, "sampling: draft is %d; it must be >= 0", s->draft);
    return RAMET_OK;
}

/* The kept token in which the draw falls, ids in order. */
static int32_t draw(const row *r, const cut *c, const ramet_sampling *s, double u) {
    double total = 0, at = 0;
    int64_t ties = 0;
    int32_t last = r->best;
    for (int64_t i = 0; i < r->n; i++)
        if (kept(c, &ties, r->x[i])) total += exp(((double)r->x[i] - (double)r->max) / (double)s->temperature);
    ties = 0;
    for (int64_t i = 0; i < r->n; i++) {
        if (!kept(c, &ties, r->x[i])) continue;
        const double p = exp(((double)r->x[i] - (double)r->max) / (double)s->temperature);
        if (p > 0) last = (int32_t)i;
        at += p;
        if (u * total < at) return (int32_t)i;
    }
    return last; /* u * total rounded up to the whole */
}

ramet_status ramet_sample(int32_t *id, const float *logits, int64_t vocabulary, const ramet_sampling *sampling, int32_t sequence, int64_t counter) {
    ramet_sampling s = defaults;
    row r = {logits, vocabulary, -INFINITY, -1};
    cut c = {0, INT64_MAX};
    if (sampling) RAMET__TRY(ramet__options(&s, sizeof s, sampling, "ramet_sample"));
    if (!id) return ramet__fail(RAMET_E_ARGUMENT, "ramet_sample: id is NULL");
    RAMET__TRY(check(&s, logits, vocabulary));
    for (int64_t i = 0; i < vocabulary; i++) {
        if (!(logits[i] < INFINITY)) return ramet__fail(RAMET_E_NUMERIC, "the logit of id %lld is NaN or infinite", (long long)i); /* -infinity: a masked id */
        if (logits[i] > r.max) r.max = logits[i], r.best = (int32_t)i;
    }
    if (r.best < 0) return ramet__fail(RAMET_E_NUMERIC, "every logit is -infinity: no id is left to choose");
    if (s.temperature == 0) {
        *id = r.best;
        return RAMET_OK;
    }
    if (s.top_k && s.top_k < vocabulary) c = shortest(&r, &c, s.top_k, 0);
    if (s.top_p < 1) {
        double total = 0;
        int64_t ties = 0;
        for (int64_t i = 0; i < vocabulary; i++)
            if (kept(&c, &ties, logits[i])) total += mass(&r, logits[i]);
        c = shortest(&r, &c, (double)s.top_p * total, 1);
    }
    if (s.min_p > 0) { /* p >= min_p * largest p */
        const float least = (float)((double)r.max + log((double)s.min_p));
        const uint32_t k = key_of(RAMET__MIN(least, r.max));
        if (k > c.key) c = (cut){k, INT64_MAX};
    }
    *id = draw(&r, &c, &s, ramet__rng_uniform(s.seed, (uint64_t)(uint32_t)sequence, (uint64_t)counter));
    return RAMET_OK;
}
