/* SPDX-License-Identifier: Apache-2.0 */
/* merge.c - weight-space methods: parent + f(differences), weight by weight, in parallel, and the choice of encoding.
 *
 * Requantizing to the parent's own 4 bits would round most of a small change away: the old values lie on the grid, and a change
 * under half a step falls back onto it. "auto" takes for each changed weight the first of its own encoding, Q8_0, Q8_0 rounded by
 * chance, BF16, F32 in which the change survives (its projection on the encoded difference is within MAX_LOST of 1) and the rounding is
 * small beside the weight itself (MAX_NOISE of its norm: noise at that level does not show in the loss; 4 bits have about 7%, Q8_0 0.5%,
 * by chance 0.7%). Rounding by chance (up with the probability of the part cut off: nearest, after adding noise of one step's width)
 * keeps a change smaller than a step in the mean; so a parent already in Q8_0 takes turn after turn without growing. */
#include "base/rng.h"
#include "feedback/feedback.h"
#include <math.h>
#include <string.h>

#define MAX_LOST .1
#define MAX_NOISE .01

typedef struct merge_job {
    ramet__feed *f;
    ramet__merge_fn fn;
    ramet__weight **result;      /* one for each of the parent's weights */
    double *change2, *rounding2; /* squared norms, one for each */
    float *room;                 /* per worker: (n + 4) * max_count floats */
    int64_t max_count;
    uint64_t seed;               /* of rounding by chance: another one for each parent, or the same weights would go up every turn */
} merge_job;

typedef struct rounding { double error2, lost; } rounding; /* squared norm; share of the change that did not survive */

static ramet_status encode_to(ramet__weight **out, rounding *r, ramet_runtime *rt, const ramet__weight *like, ramet__enc enc, const float *values, const float *rounded, const float *change,
                              double change2, float *back) {
    const ramet__shape *shape = ramet__weight_shape(like);
    int64_t count = ramet__shape_count(shape);
    double along = 0;
    RAMET__TRY(ramet__weight_new(out, rt, ramet__weight_name(like), enc, shape));
    ramet__encoding_get(enc)->encode(ramet__weight_mutable(*out), rounded, count);
    ramet__weight_decode(back, *out, 0, ramet__shape_rows(shape));
    r->error2 = 0;
    for (int64_t i = 0; i < count; i++) {
        double error = (double)back[i] - values[i];
        r->error2 += error * error;
        along += error * change[i];
    }
    r->lost = fabs(along) / change2;
    return RAMET_OK;
}

/* values with noise of the width of a Q8_0 step, uniform around 0, in their places. */
static void add_noise(float *out, const float *values, int64_t count, uint64_t seed, uint64_t stream) {
    const int64_t block = ramet__encoding_get(RAMET__ENC_Q8_0)->block;
    for (int64_t b = 0; b < count; b += block) {
        float largest = 0;
        for (int64_t i = b; i < b + block; i++) largest = fmaxf(largest, fabsf(values[i]));
        const float unit = largest / 127 / 0x1p16f;
        for (int64_t i = b; i < b + block; i += 8) {
            uint32_t drawn[4];
            ramet__rng_block(drawn, seed, stream, (uint64_t)i / 8);
            for (int32_t k = 0; k < 8; k++) out[i + k] = values[i + k] + unit * ((float)(drawn[k / 2] >> 16 * (k % 2) & 0xffff) - 32767.5f);
        }
    }
}

static ramet_status merge_piece(void *context, int64_t piece, int32_t worker) {
    merge_job *j = context;
    ramet__feed *f = j->f;
    const ramet__weight *w = f->parent->weights[piece];
    const char *name = ramet__weight_name(w);
    int64_t count = ramet__shape_count(ramet__weight_shape(w)), cols = ramet__shape_cols(ramet__weight_shape(w));
    float *room = j->room + (int64_t)worker * (f->n + 4) * j->max_count;
    float *sum = room, *merged = room + j->max_count, *scratch = merged + j->max_count, *back = scratch + j->max_count;
    const float *delta[RAMET__MAX_UPDATES];
    double weight[RAMET__MAX_UPDATES], change2 = 0, own2 = 0;
    rounding r;
    int32_t any = 0;
    for (int32_t u = 0; u < f->n; u++) {
        delta[u] = NULL;
        weight[u] = f->updates[u].weight;
        const ramet_adapter *a = f->updates[u].delta;
        if (!a || !ramet__adapter_find(a, name)) continue;
        float *dense = back + (u + 1) * j->max_count, one = 1;
        ramet__adapter_delta(dense, &a, &one, 1, w);
        delta[u] = dense;
        any = 1;
    }
    if (any) {
        j->fn(merged, delta, weight, f->n, count, f->option, scratch);
        for (int64_t i = 0; i < count; i++) change2 += (double)merged[i] * merged[i];
    }
    if (!(change2 > 0)) {
        j->result[piece] = ramet__weight_retain((ramet__weight *)(uintptr_t)w);
        return isfinite(change2) ? RAMET_OK : RAMET_E_NUMERIC;
    }
    ramet__weight_decode(sum, w, 0, ramet__shape_rows(ramet__weight_shape(w)));
    for (int64_t i = 0; i < count; i++) {
        own2 += (double)sum[i] * sum[i];
        sum[i] += merged[i];
    }
    const struct { ramet__enc enc; int32_t by_chance; } ladder[] = {
        {ramet__encoding_to_write(ramet__weight_enc(w)), 0}, {RAMET__ENC_Q8_0, 0}, {RAMET__ENC_Q8_0, 1}, {RAMET__ENC_BF16, 0}, {RAMET__ENC_F32, 0}};
    j->change2[piece] = change2;
    for (int32_t i = f->encoding < 0 ? 0 : RAMET__COUNT(ladder) - 1; i < RAMET__COUNT(ladder); i++) {
        ramet__enc enc = f->encoding < 0 ? ladder[i].enc : (ramet__enc)f->encoding;
        const int32_t by_chance = f->encoding < 0 && ladder[i].by_chance;
        if (cols % ramet__encoding_get(enc)->block) {
            if (f->encoding >= 0) enc = RAMET__ENC_F16;
            else continue;
        }
        ramet__weight_free(j->result[piece]);
        j->result[piece] = NULL;
        if (by_chance) add_noise(scratch, sum, count, j->seed, (uint64_t)piece);
        RAMET__TRY(encode_to(&j->result[piece], &r, f->parent->rt, w, enc, sum, by_chance ? scratch : sum, merged, change2, back));
        j->rounding2[piece] = r.error2;
        if (r.lost <= MAX_LOST && r.error2 <= MAX_NOISE * MAX_NOISE * own2) break;
    }
    return RAMET_OK;
}

ramet_status ramet__merge(ramet_model **out, ramet__feed *f, ramet__merge_fn fn) {
    ramet_model *p = f->parent;
    ramet__mem *mem = p->rt->mem;
    merge_job j = {.f = f, .fn = fn};
    const char *version = ramet__store_version(f->store, f->store->head)->digest;
    int64_t failed = -1;
    ramet_status st;
    memcpy(&j.seed, version, sizeof j.seed);
    for (int64_t i = 0; i < p->n_weights; i++) { /* room for the largest weight that an update names, not for the embedding */
        int32_t named = 0;
        for (int32_t u = 0; u < f->n; u++) named |= f->updates[u].delta && ramet__adapter_find(f->updates[u].delta, ramet__weight_name(p->weights[i])) != NULL;
        if (named) j.max_count = RAMET__MAX(j.max_count, RAMET__ROUND_UP(ramet__shape_count(ramet__weight_shape(p->weights[i])), 16));
    }
    RAMET__NEW(j.result, ramet__calloc(mem, (size_t)p->n_weights, sizeof *j.result));
    RAMET__NEW(j.change2, ramet__calloc(mem, (size_t)p->n_weights, sizeof *j.change2));
    RAMET__NEW(j.rounding2, ramet__calloc(mem, (size_t)p->n_weights, sizeof *j.rounding2));
    RAMET__NEW(j.room, ramet__calloc(mem, (size_t)ramet__threads_count(p->rt->threads) * (size_t)(f->n + 4) * (size_t)RAMET__MAX(j.max_count, 1), sizeof(float)));
    RAMET__GO(ramet__progress(f->progress, f->progress_user, -1, "merging weights"));
    st = ramet__parallel_for(p->rt->threads, p->n_weights, merge_piece, &j, &failed);
    if (st) {
        st = ramet__fail(st, "merging %s failed: %s", failed >= 0 ? ramet__weight_name(p->weights[failed]) : "weights",
                         st == RAMET_E_NUMERIC ? "the merged change is not finite" : "no memory for the new weight; raise the byte budget");
        goto out;
    }
    f->change = f->rounding = 0;
    f->changed = 0;
    for (int64_t i = 0; i < p->n_weights; i++) {
        f->change += j.change2[i];
        f->rounding += j.rounding2[i];
        f->changed += j.change2[i] > 0;
    }
    f->change = sqrt(f->change);
    f->rounding = sqrt(f->rounding);
    RAMET__GO(ramet__model_derive(out, p, &p->h, j.result, p->n_weights, NULL));
out:
    for (int64_t i = 0; j.result && i < p->n_weights; i++) ramet__weight_free(j.result[i]);
    ramet__free(j.result);
    ramet__free(j.change2);
    ramet__free(j.rounding2);
    ramet__free(j.room);
    return st;
}
