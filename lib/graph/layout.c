/* SPDX-License-Identifier: Apache-2.0 */
/* layout.c - where a plan's values live: a buffer is one or more values that take over from one another, or a step's shared room; buffers that
 * are not alive at the same time share bytes of one arena. */
#include "graph/op.h"
#include <inttypes.h>
#include <string.h>

uint64_t ramet__value_bytes(const ramet__pval *v) {
    return ramet__align((uint64_t)RAMET__MAX(1, v->fixed * v->cols) * sizeof(float));
}

int32_t ramet__same_size(const ramet__pval *a, const ramet__pval *b) {
    return a->axis == b->axis && a->fixed == b->fixed && a->cols == b->cols;
}

static ramet_status make_buffers(ramet__plan *p) {
    ramet__free(p->buffers);
    p->n_buffers = 0;
    int64_t most = 1;
    for (int64_t i = 0; i < p->n_steps; i++) most += p->steps[i].n_out + 1;
    p->buffers = ramet__calloc(p->rt->mem, (size_t)most, sizeof *p->buffers);
    if (!p->buffers) return ramet__alloc_status();
    for (int64_t i = 0; i < p->n_steps; i++) { /* last reader of each value */
        const ramet__step *s = &p->steps[i];
        for (int32_t j = 0; j < s->n_in; j++)
            if (s->in[j]) s->in[j]->last = i;
        for (int32_t j = 0; j < s->n_out; j++)
            if (s->out[j] && s->op != &ramet__opdef_tap) {
                s->out[j]->last = i;
                s->out[j]->buffer = -1;
            }
    }
    for (int64_t v = 0; v < p->n_vals; v++)
        if (p->vals[v].keep) p->vals[v].last = p->n_steps;
    for (int64_t i = 0; i < p->n_steps; i++) {
        ramet__step *s = &p->steps[i];
        if (s->op == &ramet__opdef_tap) continue;
        for (int32_t j = 0; j < s->n_out; j++) {
            ramet__pval *out = s->out[j];
            if (!out || out->leaf) continue;
            int64_t until = out->last;
            for (int32_t k = 0; k < s->n_in && out->buffer < 0; k++) {
                const ramet__pval *in = s->in[k];
                if (!ramet__overwrites(s, j, k) || !in || in->buffer < 0 || p->buffers[in->buffer].last != i ||
                    !ramet__same_size(in, out))
                    continue;
                int32_t clash = 0; /* another role of the same memory in this step that may not be overwritten */
                for (int32_t m = 0; m < s->n_in; m++)
                    clash |= s->in[m] && s->in[m]->buffer == in->buffer && !ramet__overwrites(s, j, m);
                for (int32_t m = 0; m < j; m++) clash |= s->out[m] && s->out[m]->buffer == in->buffer;
                if (clash) continue;
                out->buffer = in->buffer;
                p->buffers[in->buffer].last = until;
            }
            if (out->buffer >= 0) continue;
            out->buffer = (int32_t)p->n_buffers;
            p->buffers[p->n_buffers++] = (ramet__buffer){i, until, ramet__value_bytes(out), 0};
        }
        if (!s->shared_bytes) continue;
        s->shared_buffer = (int32_t)p->n_buffers;
        p->buffers[p->n_buffers++] = (ramet__buffer){i, i, ramet__align(s->shared_bytes), 0};
    }
    return RAMET_OK;
}

/* Largest first, each at the lowest place where nothing that lives at the same time is. */
static ramet_status place(ramet__plan *p) {
    ramet_status st = RAMET_OK;
    int64_t n = p->n_buffers, n_placed = 0;
    p->arena_bytes = 0;
    int32_t *by_size = NULL, *placed = NULL;
    RAMET__NEW(by_size, ramet__calloc(p->rt->mem, (size_t)n + 1, sizeof *by_size));
    RAMET__NEW(placed, ramet__calloc(p->rt->mem, (size_t)n + 1, sizeof *placed));
    for (int64_t i = 0; i < n; i++) by_size[i] = (int32_t)i;
    for (int64_t gap = n / 2; gap > 0; gap /= 2) /* Shell sort: by bytes falling, then by number */
        for (int64_t i = gap; i < n; i++) {
            int32_t item = by_size[i];
            int64_t j = i;
            for (; j >= gap; j -= gap) {
                int32_t o = by_size[j - gap];
                if (p->buffers[o].bytes > p->buffers[item].bytes ||
                    (p->buffers[o].bytes == p->buffers[item].bytes && o < item))
                    break;
                by_size[j] = o;
            }
            by_size[j] = item;
        }
    for (int64_t i = 0; i < n; i++) {
        ramet__buffer *b = &p->buffers[by_size[i]];
        uint64_t at = 0;
        for (int64_t j = 0; j < n_placed; j++) { /* sorted by offset */
            const ramet__buffer *o = &p->buffers[placed[j]];
            if (o->last < b->first || o->first > b->last) continue;
            if (o->offset >= at + b->bytes) break;
            at = RAMET__MAX(at, o->offset + o->bytes);
        }
        b->offset = at;
        p->arena_bytes = RAMET__MAX(p->arena_bytes, at + b->bytes);
        int64_t j = n_placed++;
        for (; j > 0 && p->buffers[placed[j - 1]].offset > at; j--) placed[j] = placed[j - 1];
        placed[j] = by_size[i];
    }
out:
    ramet__free(by_size);
    ramet__free(placed);
    return st;
}

ramet_status ramet__plan_layout(ramet__plan *p) {
    RAMET__TRY(make_buffers(p));
    return place(p);
}

static ramet_status room(void **out, const ramet__plan *p, uint64_t bytes) {
    if (!bytes) return RAMET_OK;
    if (!(*out = ramet__alloc(p->rt->mem, (size_t)bytes)))
        return ramet__prefix(ramet__alloc_status(), "plan: needs %" PRIu64 " bytes of activations and scratch: ", p->arena_bytes + p->scratch_bytes);
    memset(*out, 0, (size_t)bytes); /* touched now, so that a run meets no page fault */
    return RAMET_OK;
}

ramet_status ramet__plan_allocate(ramet__plan *p) {
    RAMET__TRY(room(&p->arena, p, p->arena_bytes));
    RAMET__TRY(room(&p->scratch, p, p->scratch_bytes));
    for (int64_t i = 0; i < p->n_steps; i++) {
        ramet__step *s = &p->steps[i];
        for (int32_t j = 0; j < s->n_out; j++)
            if (s->out[j] && s->out[j]->buffer >= 0) s->out[j]->data = (char *)p->arena + p->buffers[s->out[j]->buffer].offset;
        if (s->shared_buffer >= 0) s->shared = (char *)p->arena + p->buffers[s->shared_buffer].offset;
    }
    return RAMET_OK;
}
