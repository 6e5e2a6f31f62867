/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors_write.c - writes a safetensors file; see safetensors.h. The header is known only when all is declared, so it is
 * written with the first data. It is padded with spaces to a multiple of 64: mapped numbers are then aligned. */
#include "format/safetensors.h"
#include "format/json.h"
#include <string.h>

typedef unsigned long long ull;

typedef struct declared { const char *name; uint64_t bytes; } declared;
struct ramet__st_writer {
    ramet__mem *mem;
    ramet__writer *file;           /* NULL: into memory */
    ramet__text memory;
    ramet__arena arena;
    ramet__text meta, header;      /* the insides of two JSON objects */
    declared *tensors; int64_t n, cap;
    const char **keys; int64_t n_keys, keys_cap;
    uint64_t end;                  /* of declared data */
    int32_t written;               /* the header is */
    int64_t at; uint64_t done;     /* the tensor that is being given, and its bytes so far */
};

ramet_status ramet__st_writer_open(ramet__st_writer **out, ramet__mem *mem, const char *path) {
    ramet_status st = RAMET_OK;
    ramet__st_writer *w;
    RAMET__NEW(w, ramet__calloc(mem, 1, sizeof *w));
    w->mem = w->memory.mem = w->arena.mem = w->meta.mem = w->header.mem = mem;
    if (path) RAMET__GO(ramet__writer_open(&w->file, mem, path));
    *out = w;
    w = NULL;
out:
    if (w) ramet__st_writer_drop(&w);
    return st;
}

void ramet__st_writer_drop(ramet__st_writer **pw) {
    ramet__st_writer *w = *pw;
    if (!w) return;
    *pw = NULL;
    ramet__writer_drop(&w->file);
    ramet__text_free(&w->memory);
    ramet__text_free(&w->meta);
    ramet__text_free(&w->header);
    ramet__free(w->tensors);
    ramet__free(w->keys);
    ramet__arena_free(&w->arena);
    ramet__free(w);
}

static ramet_status not_begun(const ramet__st_writer *w, const char *name) {
    return w->written ? ramet__fail(RAMET_E_STATE, "safetensors: \"%.64s\" declared after the first data", name) : RAMET_OK;
}

ramet_status ramet__st_meta(ramet__st_writer *w, const char *key, const char *value) {
    ramet_status st = RAMET_OK;
    const char *copy;
    RAMET__TRY(not_begun(w, key));
    RAMET__TRY(ramet__grow(w->mem, &w->keys, &w->keys_cap, w->n_keys + 1, sizeof *w->keys));
    RAMET__NEW(copy, ramet__arena_strndup(&w->arena, key, strlen(key)));
    w->keys[w->n_keys++] = copy;
    if (w->meta.len) ramet__text_bytes(&w->meta, ",", 1);
    ramet__json_quote(&w->meta, key, strlen(key));
    ramet__text_bytes(&w->meta, ":", 1);
    ramet__json_quote(&w->meta, value, strlen(value));
    st = w->meta.status;
out:
    return st;
}

ramet_status ramet__st_declare(ramet__st_writer *w, const char *name, ramet__st_dtype dtype, int32_t rank, const int64_t *dim) {
    ramet_status st = RAMET_OK;
    const char *copy, *dtype_name = NULL;
    uint64_t bytes = (uint64_t)ramet__st_dtype_bytes(dtype, &dtype_name), room = (uint64_t)INT64_MAX - w->end;
    RAMET__TRY(not_begun(w, name));
    if (!bytes || rank < 0 || rank > RAMET__ST_MAX_RANK || !strcmp(name, "__metadata__"))
        return ramet__fail(RAMET_E_ARGUMENT,
                           "safetensors: tensor \"%.64s\": a dtype that cannot be written, a rank that is not 0..%d, or a reserved name",
                           name, RAMET__ST_MAX_RANK);
    if (ramet__utf8_valid(name, strlen(name)) < strlen(name))
        return ramet__fail(RAMET_E_ARGUMENT, "safetensors: the name of tensor %lld is not UTF-8", (long long)w->n);
    if (w->n >= RAMET__ST_MAX_TENSORS)
        return ramet__fail(RAMET_E_LIMIT, "safetensors: more than %d tensors", RAMET__ST_MAX_TENSORS);
    for (int32_t i = 0; i < rank; i++) {
        if (dim[i] < 0 || (dim[i] && bytes > room / (uint64_t)dim[i]))
            return ramet__fail(RAMET_E_ARGUMENT, "safetensors: tensor \"%.64s\": negative dimension, or more than 2^63 bytes",
                               name);
        bytes *= (uint64_t)dim[i];
    }
    RAMET__TRY(ramet__grow(w->mem, &w->tensors, &w->cap, w->n + 1, sizeof *w->tensors));
    RAMET__NEW(copy, ramet__arena_strndup(&w->arena, name, strlen(name)));
    w->tensors[w->n++] = (declared){copy, bytes};
    if (w->header.len) ramet__text_bytes(&w->header, ",", 1);
    ramet__json_quote(&w->header, name, strlen(name));
    ramet__text_add(&w->header, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name);
    for (int32_t i = 0; i < rank; i++) ramet__text_add(&w->header, "%s%lld", i ? "," : "", (long long)dim[i]);
    ramet__text_add(&w->header, "],\"data_offsets\":[%llu,%llu]}", (ull)w->end, (ull)(w->end + bytes));
    w->end += bytes;
    st = w->header.status;
out:
    return st;
}

static ramet_status refuse_twice(ramet__st_writer *w) {
    ramet__index index = {0};
    RAMET__TRY(ramet__index_init(&index, &w->arena, w->n));
    for (int64_t i = 0; i < w->n; i++) ramet__index_set(&index, i, w->tensors[i].name, strlen(w->tensors[i].name));
    int64_t again = ramet__index_sort(&index);
    if (again >= 0) return ramet__fail(RAMET_E_ARGUMENT, "safetensors: tensor \"%.64s\" declared twice", w->tensors[again].name);
    RAMET__TRY(ramet__index_init(&index, &w->arena, w->n_keys));
    for (int64_t i = 0; i < w->n_keys; i++) ramet__index_set(&index, i, w->keys[i], strlen(w->keys[i]));
    again = ramet__index_sort(&index);
    if (again >= 0) return ramet__fail(RAMET_E_ARGUMENT, "safetensors: metadata \"%.64s\" put twice", w->keys[again]);
    return RAMET_OK;
}

static ramet_status put(ramet__st_writer *w, const void *bytes, uint64_t size) {
    if (w->file) return ramet__writer_write(w->file, bytes, (size_t)size);
    ramet__text_bytes(&w->memory, bytes, (size_t)size);
    return w->memory.status;
}

static ramet_status write_header(ramet__st_writer *w) {
    ramet_status st = RAMET_OK;
    ramet__text all = {.mem = w->mem};
    if (w->written) return RAMET_OK;
    RAMET__GO(w->meta.status ? w->meta.status : w->header.status); /* a failure that the caller did not heed */
    RAMET__GO(refuse_twice(w));
    ramet__text_bytes(&all, "{", 1);
    if (w->n_keys) {
        ramet__text_bytes(&all, "\"__metadata__\":{", 16);
        ramet__text_bytes(&all, w->meta.data, w->meta.len);
        ramet__text_bytes(&all, "},", w->n ? 2 : 1);
    }
    if (w->n) ramet__text_bytes(&all, w->header.data, w->header.len);
    ramet__text_bytes(&all, "}", 1);
    while (!all.status && (8 + all.len) % 64) ramet__text_bytes(&all, " ", 1);
    RAMET__GO(all.status);
    if (all.len > RAMET__ST_MAX_HEADER) {
        st = ramet__fail(RAMET_E_LIMIT, "safetensors: header of %zu bytes; the format allows %d", all.len, RAMET__ST_MAX_HEADER);
        goto out;
    }
    uint64_t n = all.len;
    RAMET__GO(put(w, &n, 8));
    RAMET__GO(put(w, all.data, all.len));
    w->written = 1;
out:
    ramet__text_free(&all);
    return st;
}

ramet_status ramet__st_data(ramet__st_writer *w, const void *bytes, uint64_t size) {
    RAMET__TRY(write_header(w));
    while (w->at < w->n && w->done == w->tensors[w->at].bytes) { w->at++; w->done = 0; } /* finished ones, and empty ones */
    if (w->at == w->n) return size ? ramet__fail(RAMET_E_STATE, "safetensors: more data than was declared") : RAMET_OK;
    if (size > w->tensors[w->at].bytes - w->done)
        return ramet__fail(RAMET_E_STATE, "safetensors: tensor \"%.64s\" is given %llu bytes too many", w->tensors[w->at].name,
                           (ull)(size - (w->tensors[w->at].bytes - w->done)));
    RAMET__TRY(put(w, bytes, size));
    w->done += size;
    return RAMET_OK;
}

static ramet_status whole(ramet__st_writer *w) {
    RAMET__TRY(write_header(w));
    while (w->at < w->n && w->done == w->tensors[w->at].bytes) { w->at++; w->done = 0; }
    if (w->at == w->n) return RAMET_OK;
    return ramet__fail(RAMET_E_STATE, "safetensors: tensor \"%.64s\" lacks %llu bytes", w->tensors[w->at].name, (ull)(w->tensors[w->at].bytes - w->done));
}

ramet_status ramet__st_writer_commit(ramet__st_writer **pw) {
    ramet_status st = whole(*pw);
    if (!st) st = ramet__writer_commit(&(*pw)->file);
    ramet__st_writer_drop(pw);
    return st;
}

ramet_status ramet__st_writer_take(void **data, uint64_t *size, ramet__st_writer **pw) {
    ramet_status st = whole(*pw);
    if (!st) {
        *size = (*pw)->memory.len;
        *data = (*pw)->memory.data;
        (*pw)->memory.data = NULL;
    }
    ramet__st_writer_drop(pw);
    return st;
}
