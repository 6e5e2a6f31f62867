/* SPDX-License-Identifier: Apache-2.0 */
/* params.c - what a tuner trains, as one pool: values, gradient sums and the optimizer's moments lie at equal offsets. Work is
 * cut into pieces of a constant size that never span two parameters, so sums and updates have the same bits for any number of
 * threads. */
#include <math.h>
#include <string.h>
#include "train/train.h"

#define PIECE 32768 /* floats: 128 KiB of each of value, gradient and moments */

static int64_t padded(int64_t n) { return RAMET__ROUND_UP(n, RAMET__ALIGN / (int64_t)sizeof(float)); }

ramet_status ramet__params_init(ramet__params *p, ramet_runtime *rt, const ramet__optimizer *optimizer) {
    ramet_status st = RAMET_OK;
    p->mem = rt->mem;
    p->optimizer = optimizer;
    p->total = p->n_pieces = 0;
    for (int64_t i = 0; i < p->n; i++) {
        ramet__param *q = &p->param[i];
        q->count = ramet__shape_count(&q->shape);
        q->offset = p->total;
        p->total += padded(q->count);
        p->n_pieces += (q->count + PIECE - 1) / PIECE;
    }
    RAMET__NEW(p->piece, ramet__calloc(p->mem, (size_t)p->n_pieces, sizeof *p->piece));
    RAMET__NEW(p->partial, ramet__calloc(p->mem, (size_t)p->n_pieces, sizeof *p->partial));
    RAMET__NEW(p->value, ramet__calloc(p->mem, (size_t)p->total, sizeof(float)));
    RAMET__NEW(p->grad, ramet__calloc(p->mem, (size_t)p->total, sizeof(float)));
    for (int32_t m = 0; m < optimizer->moments; m++) RAMET__NEW(p->moment[m], ramet__calloc(p->mem, (size_t)p->total, sizeof(float)));
    int64_t at = 0;
    for (int64_t i = 0; i < p->n; i++) {
        ramet__param *q = &p->param[i];
        for (int64_t done = 0; done < q->count; done += PIECE) {
            p->piece[at].offset = q->offset + done;
            p->piece[at].count = RAMET__MIN(PIECE, q->count - done);
            p->piece[at++].decay = q->decay;
        }
        q->value = (ramet__var){q->name, q->shape, p->value + q->offset};
        q->grad = (ramet__var){q->name, q->shape, p->grad + q->offset};
    }
out:
    return st;
}

void ramet__params_free(ramet__params *p) {
    for (int64_t i = 0; p->param && i < p->n; i++) ramet__free(p->param[i].name);
    ramet__free(p->param);
    ramet__free(p->piece);
    ramet__free(p->partial);
    ramet__free(p->value);
    ramet__free(p->grad);
    for (int32_t m = 0; m < RAMET__MOMENTS; m++) ramet__free(p->moment[m]);
    memset(p, 0, sizeof *p);
}

typedef struct work { const ramet__params *p; const ramet__kernels *k; const ramet__optimizer_step *u; float decay; } work;

static ramet_status square(void *context, int64_t piece, int32_t worker) {
    const work *w = context;
    const struct ramet__params_piece *q = &w->p->piece[piece];
    (void)worker;
    w->p->partial[piece] = w->k->sumsq(w->p->grad + q->offset, q->count);
    return RAMET_OK;
}

ramet_status ramet__params_norm(double *norm, const ramet__params *p, ramet_runtime *rt) {
    work w = {p, rt->kernels, NULL, 0.0f};
    RAMET__TRY(ramet__parallel_for(rt->threads, p->n_pieces, square, &w, NULL));
    double sum = 0.0;
    for (int64_t i = 0; i < p->n_pieces; i++) sum += p->partial[i];
    *norm = sqrt(sum);
    return RAMET_OK;
}

static ramet_status step(void *context, int64_t piece, int32_t worker) {
    const work *w = context;
    const ramet__params *p = w->p;
    const struct ramet__params_piece *q = &p->piece[piece];
    float *moment[RAMET__MOMENTS] = {NULL};
    (void)worker;
    for (int32_t m = 0; m < p->optimizer->moments; m++) moment[m] = p->moment[m] + q->offset;
    p->optimizer->update(w->u, p->value + q->offset, p->grad + q->offset, moment, q->count, q->decay ? w->decay : 0.0f);
    return RAMET_OK;
}

ramet_status ramet__params_update(const ramet__params *p, ramet_runtime *rt, const ramet__optimizer_step *u, float decay) {
    work w = {p, rt->kernels, u, decay};
    return ramet__parallel_for(rt->threads, p->n_pieces, step, &w, NULL);
}

void ramet__params_clear(const ramet__params *p) { memset(p->grad, 0, (size_t)p->total * sizeof(float)); }
