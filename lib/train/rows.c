/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c - windows of the token stream as flat rows of a run: who predicts what, which rows see one another, in which order
 * windows come. */
#include <string.h>
#include "base/rng.h"
#include "train/train.h"

ramet_status ramet__rows_init(ramet__rows *r, ramet__mem *mem, int64_t max_rows) {
    ramet_status st = RAMET_OK;
    const size_t stride = RAMET__ROUND_UP((size_t)max_rows * sizeof(int32_t), RAMET__ALIGN);
    char *m;
    memset(r, 0, sizeof *r);
    RAMET__NEW(r->memory, ramet__calloc(mem, 8, stride));
    m = r->memory;
    r->max_rows = max_rows;
    r->tokens = (int32_t *)m;
    r->pos = (int32_t *)(m + stride);
    r->seq = (int32_t *)(m + 2 * stride);
    r->out = (int32_t *)(m + 3 * stride);
    r->label = (int32_t *)(m + 4 * stride);
    r->weight = (float *)(m + 5 * stride);
    r->window = (int32_t *)(m + 6 * stride);
    r->window_out = (int32_t *)(m + 7 * stride);
out:
    return st;
}

void ramet__rows_free(ramet__rows *r) {
    ramet__free(r->memory);
    memset(r, 0, sizeof *r);
}

void ramet__rows_clear(ramet__rows *r) { r->rows = r->outs = r->n_seq = 0; }

/* The document that holds stream token `at`. */
static int64_t document_of(const ramet_dataset *d, int64_t at) {
    int64_t low = 0, high = d->n_docs;
    while (high - low > 1) {
        const int64_t mid = low + (high - low) / 2;
        if (d->docs[mid].start <= at) low = mid;
        else high = mid;
    }
    return low;
}

static int64_t document_end(const ramet_dataset *d, int64_t doc) { return doc + 1 < d->n_docs ? d->docs[doc + 1].start : d->n; }

static void put(ramet__rows *r, int32_t id, int64_t pos) {
    r->tokens[r->rows] = id;
    r->pos[r->rows] = (int32_t)pos;
    r->seq[r->rows] = r->n_seq;
    r->rows++;
}

static void predict(ramet__rows *r, int32_t label) { /* from the row that was put last */
    r->out[r->outs] = (int32_t)(r->rows - 1);
    r->label[r->outs] = label;
    r->weight[r->outs] = 1.0f;
    r->outs++;
}

int64_t ramet__rows_add(ramet__rows *r, const ramet_dataset *d, int64_t from, int64_t to) {
    const int64_t before = r->outs;
    for (int64_t at = from, doc = document_of(d, from); at < to; doc++, r->n_seq++) {
        const int64_t end = document_end(d, doc), stop = RAMET__MIN(end, to);
        for (int64_t first = at; at < stop; at++) {
            put(r, d->ids[at], at - first);
            if (at + 1 < end && d->predict[at + 1]) predict(r, d->ids[at + 1]);
        }
    }
    return r->outs - before;
}

int64_t ramet__rows_add_whole(ramet__rows *r, const ramet_dataset *d, int64_t from, int64_t to, int64_t first, int64_t last,
                              int32_t first_id) {
    const int64_t before = r->outs;
    for (int64_t at = from; at < to; at++) {
        put(r, at == from && first_id >= 0 ? first_id : d->ids[at], at - from);
        if (at - from >= first && at - from <= last && d->predict[at + 1]) predict(r, d->ids[at + 1]);
    }
    r->n_seq++;
    return r->outs - before;
}

int64_t ramet__rows_count(const ramet_dataset *d, int64_t from, int64_t to) {
    int64_t count = 0;
    for (int64_t at = from, doc = document_of(d, from); at < to; doc++) {
        const int64_t end = document_end(d, doc), stop = RAMET__MIN(end, to);
        for (; at < stop; at++) count += at + 1 < end && d->predict[at + 1];
    }
    return count;
}

void ramet__rows_bind(const ramet__rows *r, ramet__run *run, int32_t loss) {
    const struct {
        const char *name;
        const void *data;
    } inputs[] = {{"tokens", r->tokens}, {"pos", r->pos}, {"seq", r->seq}, {"outs", r->out}, {"labels", r->label}, {"weight", r->weight}};
    run->rows = r->rows;
    run->outs = r->outs;
    run->n_seqs = r->n_seq;
    run->n_inputs = loss ? 6 : 4;
    for (int32_t i = 0; i < run->n_inputs; i++) {
        run->input[i].name = inputs[i].name;
        run->input[i].data = inputs[i].data;
    }
}

ramet_status ramet__windows_init(ramet__windows *w, ramet__mem *mem, const ramet_dataset *d, int64_t width) {
    ramet_status st = RAMET_OK;
    const int64_t all = d->pairs ? d->n_docs / 2 : (d->n - (d->read != NULL) + width - 1) / width; /* nothing is predicted from the last token */
    memset(w, 0, sizeof *w);
    w->data = d;
    w->width = width;
    if (d->read) RAMET__GO(ramet_dataset_create(&w->stage, d->model));
    RAMET__NEW(w->start, ramet__calloc(mem, (size_t)RAMET__MAX(all, 1), sizeof *w->start));
    for (int64_t i = 0; d->pairs && i < all; i++) {
        const int64_t tokens = document_end(d, 2 * i + 1) - d->docs[2 * i].start;
        w->start[w->n++] = d->docs[2 * i].start;
        if (tokens > width) {
            st = ramet__fail(RAMET_E_ARGUMENT, "preference %lld has %lld tokens in its two answers with their prompts; the window has to hold both (now %lld)",
                             (long long)i, (long long)tokens, (long long)width);
            goto out;
        }
    }
    for (int64_t i = 0; !d->pairs && i < all; i++)
        if (d->read || ramet__rows_count(d, i * width, RAMET__MIN((i + 1) * width, d->n)) > 0) w->start[w->n++] = i * width;
out:
    return st;
}

void ramet__windows_free(ramet__windows *w) {
    ramet__free(w->start);
    ramet__free(w->place);
    ramet_dataset_free(w->stage);
    memset(w, 0, sizeof *w);
}

#define STREAM_WINDOWS 0x77696e646f777300u /* counter streams of the order of windows: this + epoch */

static void window_at(int64_t *from, int64_t *to, const ramet__windows *w, uint64_t seed, int64_t index) {
    const int64_t epoch = index / w->n;
    const uint64_t drawn = ramet__rng_permute(seed, STREAM_WINDOWS + (uint64_t)epoch, (uint64_t)(index % w->n), (uint64_t)w->n);
    *from = w->start[drawn];
    *to = w->data->pairs ? document_end(w->data, 2 * (int64_t)drawn + 1) : RAMET__MIN(*from + w->width, w->data->n);
}

ramet_status ramet__windows_hold(ramet__windows *w, uint64_t seed, int64_t first, int64_t count) {
    ramet_status st = RAMET_OK;
    const ramet_dataset *view;
    if (!w->stage || (w->held && w->first == first)) return RAMET_OK;
    if (!w->place) RAMET__NEW(w->place, ramet__calloc(w->data->rt->mem, (size_t)count, 2 * sizeof *w->place));
    ramet__dataset_cut(w->stage, 0, 0);
    w->held = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t *p = w->place + 2 * i;
        window_at(&p[0], &p[1], w, seed, first + i);
        RAMET__GO(ramet__dataset_view(&view, &p[0], &p[1], w->stage, w->data));
    }
    w->first = first;
    w->held = count;
out:
    return st;
}

const ramet_dataset *ramet__windows_at(int64_t *from, int64_t *to, const ramet__windows *w, uint64_t seed, int64_t index) {
    if (!w->stage) {
        window_at(from, to, w, seed, index);
        return w->data;
    }
    *from = w->place[2 * (index - w->first)];
    *to = w->place[2 * (index - w->first) + 1];
    return w->stage;
}
