/* SPDX-License-Identifier: Apache-2.0 */
/* params.c - what a tuner trains, as one pool: sections for values, gradient sums and the optimizer's state, with equal offsets. Work is
 * cut into pieces of a constant size that never span two parameters, so sums and updates have the same bits for any number of
 * threads. */
#include <math.h>
#include <string.h>
#include "base/system.h"
#include "train/train.h"

#define PIECE 32768 /* parameters: 128 KiB of each of value, gradient and moments */

void *ramet__section_at(const ramet__section *s, int64_t offset) { return s->data + offset / s->layout.every * s->layout.size; }

int64_t ramet__section_count(const ramet__section *s, const ramet__param *p) { return (p->count + s->layout.every - 1) / s->layout.every; }

static uint64_t section_bytes(const ramet__params *p, ramet__layout layout) { return (uint64_t)(p->total / layout.every * layout.size); }

static ramet_status section(ramet__params *p, int32_t i, ramet__layout layout, char **room) {
    static const char *const names[RAMET__SECTIONS] = {"value", "grad", "average", "best", "moment0", "moment1", "moment2", "moment3"};
    ramet__section *s = &p->section[i];
    s->name = names[i];
    s->layout = layout;
    s->data = room ? *room : ramet__calloc(p->mem, (size_t)(p->total / layout.every + (i == RAMET__GRAD ? 2 : 0)), (size_t)layout.size);
    if (room) *room += RAMET__ROUND_UP(section_bytes(p, layout), RAMET__ALIGN);
    return s->data ? RAMET_OK : ramet__alloc_status();
}

ramet_status ramet__params_use(ramet__params *p, const ramet__optimizer *optimizer) {
    for (int32_t i = RAMET__STATE; i < RAMET__SECTIONS; i++) {
        if (!p->room) ramet__free(p->section[i].data);
        p->section[i].data = NULL;
    }
    ramet__room_close(p->room, p->room_bytes);
    p->room = NULL;
    p->room_bytes = 0;
    p->optimizer = optimizer;
    for (int32_t i = 0; p->path && optimizer && i < optimizer->n_states; i++) p->room_bytes += RAMET__ROUND_UP(section_bytes(p, optimizer->state[i]), RAMET__ALIGN);
    if (p->room_bytes) RAMET__TRY(ramet__room_open(&p->room, p->path, p->room_bytes, p->keep));
    p->path = NULL; /* the caller's, and used once */
    char *at = p->room;
    for (int32_t i = 0; optimizer && i < optimizer->n_states; i++) RAMET__TRY(section(p, RAMET__STATE + i, optimizer->state[i], p->room ? &at : NULL));
    return RAMET_OK;
}

ramet_status ramet__params_init(ramet__params *p, ramet_runtime *rt, const ramet__optimizer *optimizer) {
    ramet_status st = RAMET_OK;
    p->mem = rt->mem;
    p->total = p->n_pieces = 0;
    for (int64_t i = 0; i < p->n; i++) {
        ramet__param *q = &p->param[i];
        q->count = ramet__shape_count(&q->shape);
        q->rate = 1.0f;
        q->from = 0;
        q->offset = p->total;
        p->total += RAMET__ROUND_UP(q->count, RAMET__STATE_BLOCK);
        p->n_pieces += (q->count + PIECE - 1) / PIECE;
    }
    RAMET__NEW(p->piece, ramet__calloc(p->mem, (size_t)p->n_pieces, sizeof *p->piece));
    RAMET__NEW(p->partial, ramet__calloc(p->mem, (size_t)p->n_pieces, sizeof *p->partial));
    for (int32_t i = 0; i < RAMET__STATE; i++)
        if ((i != RAMET__AVERAGE || p->average) && (i != RAMET__BEST || p->best)) RAMET__GO(section(p, i, (ramet__layout){sizeof(float), 1}, NULL));
    RAMET__GO(ramet__params_use(p, optimizer));
    p->value = (float *)p->section[RAMET__VALUE].data;
    p->grad = (float *)p->section[RAMET__GRAD].data;
    int64_t at = 0;
    for (int64_t i = 0; i < p->n; i++) {
        ramet__param *q = &p->param[i];
        for (int64_t done = 0; done < q->count; done += PIECE) {
            p->piece[at].offset = q->offset + done;
            p->piece[at].count = RAMET__MIN(PIECE, q->count - done);
            p->piece[at++].param = i;
        }
        q->value = (ramet__var){q->name, q->shape, p->value + q->offset};
        q->grad = (ramet__var){q->name, q->shape, p->grad + q->offset};
    }
out:
    return st;
}

uint64_t ramet__params_bytes(const ramet__params *p) {
    uint64_t bytes = 0;
    for (int32_t i = 0; i < RAMET__SECTIONS; i++)
        if (p->section[i].data && !(p->room && i >= RAMET__STATE)) bytes += section_bytes(p, p->section[i].layout);
    return bytes;
}

void ramet__params_free(ramet__params *p) {
    for (int64_t i = 0; p->param && i < p->n; i++) ramet__free(p->param[i].name);
    ramet__free(p->param);
    ramet__free(p->piece);
    ramet__free(p->partial);
    for (int32_t i = 0; i < RAMET__SECTIONS && !(p->room && i == RAMET__STATE); i++) ramet__free(p->section[i].data);
    ramet__room_close(p->room, p->room_bytes);
    memset(p, 0, sizeof *p);
}

typedef struct work { const ramet__params *p; const ramet__kernels *k; const ramet__optimizer_step *u; float decay; int64_t step; } work;

static int32_t rests(const ramet__param *q, int64_t step) { return q->rate == 0.0f || step <= q->from; }

static ramet_status square(void *context, int64_t piece, int32_t worker) {
    const work *w = context;
    const struct ramet__params_piece *q = &w->p->piece[piece];
    (void)worker;
    if (rests(&w->p->param[q->param], w->step)) memset(w->p->grad + q->offset, 0, (size_t)q->count * sizeof(float));
    w->p->partial[piece] = w->k->sumsq(w->p->grad + q->offset, q->count);
    return RAMET_OK;
}

ramet_status ramet__params_norm(double *norm, const ramet__params *p, ramet_runtime *rt, int64_t step) {
    work w = {p, rt->kernels, NULL, 0.0f, step};
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
    const ramet__param *r = &p->param[q->param];
    ramet__optimizer_step u = *w->u;
    void *state[RAMET__STATES] = {NULL};
    (void)worker;
    if (rests(r, u.step)) return RAMET_OK;
    u.rate *= r->rate;
    u.step -= r->from; /* its moments begin when it does */
    for (int32_t i = 0; i < p->optimizer->n_states; i++) state[i] = ramet__section_at(&p->section[RAMET__STATE + i], q->offset);
    u.place = q->offset;
    p->optimizer->update(&u, p->value + q->offset, p->grad + q->offset, state, q->count, r->decay ? w->decay : 0.0f);
    for (int32_t i = 0; p->room && i < p->optimizer->n_states; i++) {
        const ramet__layout *l = &p->optimizer->state[i];
        ramet__room_rest(state[i], (uint64_t)((q->count + l->every - 1) / l->every * l->size));
    }
    return RAMET_OK;
}

ramet_status ramet__params_update(const ramet__params *p, ramet_runtime *rt, const ramet__optimizer_step *u, float decay) {
    work w = {p, rt->kernels, u, decay, u->step};
    return ramet__parallel_for(rt->threads, p->n_pieces, step, &w, NULL);
}

static ramet_status blend(void *context, int64_t piece, int32_t worker) {
    const work *w = context;
    const struct ramet__params_piece *q = &w->p->piece[piece];
    float *a = ramet__section_at(&w->p->section[RAMET__AVERAGE], q->offset);
    (void)worker;
    w->k->scale(a, w->decay, a, q->count);
    w->k->axpy(a, 1.0f - w->decay, w->p->value + q->offset, q->count);
    return RAMET_OK;
}

ramet_status ramet__params_average(const ramet__params *p, ramet_runtime *rt, float keep) {
    work w = {p, rt->kernels, NULL, keep, 0};
    return ramet__parallel_for(rt->threads, p->n_pieces, blend, &w, NULL);
}

void ramet__params_clear(const ramet__params *p) { memset(p->grad, 0, (size_t)p->total * sizeof(float)); }
