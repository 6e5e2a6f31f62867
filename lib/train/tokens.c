/* SPDX-License-Identifier: Apache-2.0 */
/* tokens.c - tokens that are ids already: files of them, and a host that keeps them and is asked window by window. Documents end after each
 * end-of-text id. */
#include <stdlib.h>
#include <string.h>
#include "train/train.h"

/* Tokens [from, n) as documents. */
static ramet_status split(ramet_dataset *d, int64_t from) {
    for (int64_t start = from, i = from; i < d->n; i++)
        if (i + 1 == d->n || d->ids[i] == d->end) {
            RAMET__TRY(ramet__grow(d->rt->mem, &d->docs, &d->docs_cap, d->n_docs + 1, sizeof *d->docs));
            d->docs[d->n_docs++] = (ramet__document){start, 0};
            start = i + 1;
        }
    return RAMET_OK;
}

static ramet_status id_outside(const ramet_dataset *d, int64_t at, int64_t id) {
    return ramet__fail(RAMET_E_INCONSISTENT, "token %lld is %lld; the vocabulary has 0..%lld: was it made with another tokenizer?", (long long)at,
                       (long long)id, (long long)d->model->h.n_vocab - 1);
}

/* ---- files ---- */

typedef struct layout { int32_t size, is_signed; size_t at; int64_t n; } layout; /* bytes an id; where the first is */

static int64_t id_at(const uint8_t *p, const layout *l) { /* little-endian */
    uint64_t v = 0;
    for (int32_t i = 0; i < l->size; i++) v |= (uint64_t)p[i] << 8 * i;
    const int32_t unused = 64 - 8 * l->size;
    return l->is_signed ? (int64_t)(v << unused) >> unused : v > INT64_MAX ? INT64_MAX : (int64_t)v;
}

/* The header of numpy.save (NEP 1): a Python dictionary of a fixed shape. */
static ramet_status npy_layout(layout *l, const char *data, size_t size) {
    static const char *const types[] = {"|u1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"};
    char head[256] = "";
    const size_t wide = size > 6 && data[6] > 1 ? 12 : 10; /* version 1 has two bytes of length, later ones four */
    if (size < wide || memcmp(data, "\x93NUMPY", 6)) return ramet__fail(RAMET_E_FORMAT, "not a file of numpy.save");
    size_t length = 0;
    for (size_t i = 8; i < wide; i++) length |= (size_t)(uint8_t)data[i] << 8 * (i - 8);
    if (length > size - wide) return ramet__fail(RAMET_E_FORMAT, "the header (%zu bytes) reaches past the end of the file", length);
    memcpy(head, data + wide, RAMET__MIN(length, sizeof head - 1));
    const char *type = strstr(head, "'descr': '"), *shape = strstr(head, "'shape': (");
    char *end = NULL;
    l->size = 0;
    for (int32_t i = 0; type && i < RAMET__COUNT(types); i++)
        if (!strncmp(type + 10, types[i], 3) && type[13] == '\'') {
            l->size = types[i][2] - '0';
            l->is_signed = types[i][1] == 'i';
        }
    if (!l->size) return ramet__fail(RAMET_E_UNSUPPORTED, "the array has to hold little-endian integers (dtype uint16, uint32, int32 ...): %.80s", head);
    l->n = shape ? strtoll(shape + 10, &end, 10) : -1;
    l->at = wide + length;
    if (!shape || end == shape + 10 || strncmp(end, ",)", 2)) return ramet__fail(RAMET_E_UNSUPPORTED, "the array has to have one dimension: %.80s", head);
    if (l->n < 0 || (uint64_t)l->n != (size - l->at) / (size_t)l->size || (size - l->at) % (size_t)l->size)
        return ramet__fail(RAMET_E_FORMAT, "%lld ids of %d bytes do not fill the %zu bytes behind the header", (long long)l->n, l->size, size - l->at);
    return RAMET_OK;
}

int32_t ramet__is_token_file(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot && (!strcmp(dot, ".u16") || !strcmp(dot, ".u32") || !strcmp(dot, ".npy"));
}

ramet_status ramet__dataset_add_tokens(ramet_dataset *d, const char *path, const char *data, size_t size) {
    const char *dot = strrchr(path, '.');
    layout l = {strcmp(dot, ".u16") ? 4 : 2, 0, 0, 0};
    if (!strcmp(dot, ".npy")) RAMET__TRY(npy_layout(&l, data, size));
    else if (size % (size_t)l.size) return ramet__fail(RAMET_E_FORMAT, "%zu bytes are no whole number of ids of %d bytes", size, l.size);
    else l.n = (int64_t)(size / (size_t)l.size);
    const int64_t first = d->n;
    if (l.n > INT32_MAX - first) return ramet__fail(RAMET_E_LIMIT, "dataset: more than %d tokens; give them by ramet_dataset_create_source", INT32_MAX);
    RAMET__TRY(ramet__grow(d->rt->mem, &d->ids, &d->ids_cap, first + l.n, sizeof *d->ids));
    RAMET__TRY(ramet__grow(d->rt->mem, &d->predict, &d->predict_cap, first + l.n, sizeof *d->predict));
    for (int64_t i = 0; i < l.n; i++) {
        const int64_t id = id_at((const uint8_t *)data + l.at + (size_t)i * (size_t)l.size, &l);
        if (id < 0 || id >= d->model->h.n_vocab) return id_outside(d, i, id);
        d->ids[first + i] = (int32_t)id;
    }
    if (l.n) memset(d->predict + first, 1, (size_t)l.n);
    d->n = first + l.n;
    return split(d, first);
}

/* ---- a host's ---- */

ramet_status ramet_dataset_create_source(ramet_dataset **out, ramet_model *model, int64_t tokens, const char *name, ramet_tokens_fn read, void *user) {
    ramet_dataset *d = NULL;
    if (!read) return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_create_source: read is NULL");
    if (tokens < 2 || tokens > INT64_MAX / 2) return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_create_source: tokens is %lld; at least 2 are needed", (long long)tokens);
    if (!out) return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_create_source: out is NULL");
    RAMET__TRY(ramet_dataset_create(&d, model));
    if (!(d->name = ramet__strdup(d->rt->mem, name ? name : ""))) {
        ramet_dataset_free(d);
        return ramet__alloc_status();
    }
    d->n = tokens;
    d->read = read;
    d->user = user;
    d->sealed = 1;
    *out = d;
    return RAMET_OK;
}

ramet_status ramet__source_read(int32_t *ids, uint8_t *predict, const ramet_dataset *d, int64_t from, int64_t count) {
    memset(predict, 1, (size_t)count);
    const int32_t failed = d->read(ids, predict, from, count, d->user);
    if (failed) return ramet__fail(RAMET_E_IO, "the source answered %d for tokens %lld..%lld", failed, (long long)from, (long long)(from + count));
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= d->model->h.n_vocab) return id_outside(d, from + i, ids[i]);
    return RAMET_OK;
}

ramet_status ramet__dataset_view(const ramet_dataset **view, int64_t *from, int64_t *to, ramet_dataset *stage, const ramet_dataset *d) {
    *view = d;
    if (!d->read) return RAMET_OK;
    const int64_t at = stage->n, count = RAMET__MIN(*to + 1, d->n) - *from; /* the last row predicts the token behind the window */
    RAMET__TRY(ramet__grow(d->rt->mem, &stage->ids, &stage->ids_cap, at + count, sizeof *stage->ids));
    RAMET__TRY(ramet__grow(d->rt->mem, &stage->predict, &stage->predict_cap, at + count, sizeof *stage->predict));
    RAMET__TRY(ramet__source_read(stage->ids + at, stage->predict + at, d, *from, count));
    stage->n += count;
    const ramet_status st = split(stage, at);
    if (st) stage->n = at;
    *to += at - *from;
    *from = at;
    *view = stage;
    return st;
}
