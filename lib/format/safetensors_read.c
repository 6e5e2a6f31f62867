/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors_read.c - reads the header of a safetensors file; see safetensors.h. Layout: 8 bytes of length, a JSON object of so
 * many bytes, then the data. Facts: the safetensors project's README, "Format". */
#include "format/safetensors.h"
#include "format/json.h"
#include <math.h>
#include <string.h>

typedef unsigned long long ull;

static const struct { const char *name; int32_t bits; ramet__st_dtype dtype; } dtypes[] = {
    {"F32", 32, RAMET__ST_F32}, {"F16", 16, RAMET__ST_F16}, {"BF16", 16, RAMET__ST_BF16}, {"I32", 32, RAMET__ST_I32},
    {"I64", 64, RAMET__ST_I64}, {"U8", 8, RAMET__ST_U8}, {"I8", 8, RAMET__ST_I8}, {"BOOL", 8, RAMET__ST_OTHER},
    {"I16", 16, RAMET__ST_OTHER}, {"U16", 16, RAMET__ST_OTHER}, {"U32", 32, RAMET__ST_OTHER}, {"U64", 64, RAMET__ST_OTHER},
    {"F64", 64, RAMET__ST_OTHER}, {"C64", 64, RAMET__ST_OTHER}, {"F8_E5M2", 8, RAMET__ST_OTHER}, {"F8_E4M3", 8, RAMET__ST_OTHER},
    {"F8_E8M0", 8, RAMET__ST_OTHER}, {"F8_E4M3FNUZ", 8, RAMET__ST_OTHER}, {"F8_E5M2FNUZ", 8, RAMET__ST_OTHER},
    {"F6_E2M3", 6, RAMET__ST_OTHER}, {"F6_E3M2", 6, RAMET__ST_OTHER}, {"F4", 4, RAMET__ST_OTHER},
};

static ramet_status bad(const char *name, const ramet__json *v, const char *what) {
    return ramet__fail(RAMET_E_FORMAT, "safetensors: tensor \"%.64s\": %s, at byte %llu", name, what, (ull)v->offset + 8);
}

/* A number of an array: an integer, not negative, written without fraction or exponent. */
static int natural(const ramet__json *v) {
    int minus_zero = v->type == RAMET__JSON_NUMBER && v->number == 0 && signbit(v->number);
    return v->type == RAMET__JSON_NUMBER && v->is_integer && v->integer >= 0 && !minus_zero;
}

static ramet_status read_shape(ramet__st_tensor *t, const ramet__json *shape, int32_t bits) {
    uint64_t count = 1, zero = 0;
    if (shape->type != RAMET__JSON_ARRAY) return bad(t->name, shape, "\"shape\" is not an array");
    if (shape->len > RAMET__ST_MAX_RANK)
        return ramet__fail(RAMET_E_LIMIT, "safetensors: tensor \"%.64s\": rank %zu at byte %llu; at most %d", t->name, shape->len,
                           (ull)shape->offset + 8, RAMET__ST_MAX_RANK);
    t->rank = (int32_t)shape->len;
    for (size_t i = 0; i < shape->len; i++) {
        const ramet__json *d = &shape->items[i];
        if (!natural(d)) return bad(t->name, d, "a dimension is not a non-negative integer");
        t->dim[i] = d->integer;
        if (!d->integer) zero = 1;
        else if (count > (uint64_t)INT64_MAX / (uint64_t)d->integer)
            return bad(t->name, d, "its dimensions multiply to more than 2^63");
        else count *= (uint64_t)d->integer;
    }
    if (count > (uint64_t)INT64_MAX / 64) return bad(t->name, shape, "more than 2^57 elements");
    uint64_t total = zero ? 0 : count * (uint64_t)bits;
    if (total % 8) return bad(t->name, shape, "its elements do not fill whole bytes");
    t->bytes = total / 8;
    return RAMET_OK;
}

static ramet_status read_tensor(ramet__st_tensor *t, const ramet__json *v, uint64_t data, uint64_t size) {
    const ramet__json *dtype = ramet__json_get(v, "dtype"), *shape = ramet__json_get(v, "shape"),
        *range = ramet__json_get(v, "data_offsets");
    if (v->type != RAMET__JSON_OBJECT) return bad(t->name, v, "not an object");
    if (!dtype || !shape || !range || v->len != 3)
        return bad(t->name, v, "its fields must be dtype, shape and data_offsets, no others");
    if (dtype->type != RAMET__JSON_STRING) return bad(t->name, dtype, "\"dtype\" is not a string");
    int32_t found = -1;
    for (int32_t i = 0; i < RAMET__COUNT(dtypes); i++)
        if (strlen(dtypes[i].name) == dtype->len && !memcmp(dtypes[i].name, dtype->text, dtype->len)) found = i;
    if (found < 0)
        return ramet__fail(RAMET_E_UNSUPPORTED, "safetensors: tensor \"%.64s\": unknown dtype \"%.32s\" at byte %llu", t->name,
                           dtype->text, (ull)dtype->offset + 8);
    t->dtype = dtypes[found].dtype;
    t->dtype_name = dtypes[found].name;
    RAMET__TRY(read_shape(t, shape, dtypes[found].bits));
    if (range->type != RAMET__JSON_ARRAY || range->len != 2 || !natural(&range->items[0]) || !natural(&range->items[1]))
        return bad(t->name, range, "\"data_offsets\" must be two non-negative integers");
    uint64_t begin = (uint64_t)range->items[0].integer, end = (uint64_t)range->items[1].integer;
    if (end < begin) return bad(t->name, range, "its data ends before it begins");
    if (end - begin != t->bytes)
        return ramet__fail(RAMET_E_FORMAT,
                           "safetensors: tensor \"%.64s\": %llu bytes of data, but dtype and shape want %llu, at byte %llu",
                           t->name, (ull)(end - begin), (ull)t->bytes, (ull)range->offset + 8);
    if (end > size - data) return bad(t->name, range, "its data ends after the file");
    t->offset = data + begin;
    return RAMET_OK;
}

static int by_offset(const void *pa, const void *pb) {
    const ramet__st_tensor *a = pa, *b = pb;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1;
    return strcmp(a->name, b->name);
}

static ramet_status read_meta(ramet__safetensors *s, const ramet__json *v) {
    ramet_status st = RAMET_OK;
    if (v->type != RAMET__JSON_OBJECT)
        return ramet__fail(RAMET_E_FORMAT, "safetensors: \"__metadata__\" is not an object, at byte %llu", (ull)v->offset + 8);
    RAMET__NEW(s->meta_key, ramet__arena_alloc(&s->arena, (v->len + 1) * sizeof *s->meta_key));
    RAMET__NEW(s->meta_value, ramet__arena_alloc(&s->arena, (v->len + 1) * sizeof *s->meta_value));
    RAMET__GO(ramet__index_init(&s->meta_index, &s->arena, (int64_t)v->len));
    for (size_t i = 0; i < v->len; i++) {
        const ramet__json *value = &v->items[i];
        if (value->type != RAMET__JSON_STRING || strlen(value->text) != value->len || strlen(v->keys[i]) != v->key_len[i])
            return ramet__fail(RAMET_E_FORMAT, "safetensors: metadata \"%.64s\" is not a string without NULs, at byte %llu",
                               v->keys[i], (ull)value->offset + 8);
        RAMET__NEW(s->meta_key[i], ramet__arena_strndup(&s->arena, v->keys[i], v->key_len[i]));
        RAMET__NEW(s->meta_value[i], ramet__arena_strndup(&s->arena, value->text, value->len));
        ramet__index_set(&s->meta_index, (int64_t)i, s->meta_key[i], v->key_len[i]);
    }
    s->n_meta = (int64_t)v->len;
    ramet__index_sort(&s->meta_index);
out:
    return st;
}

static ramet_status read_tensors(ramet__safetensors *s, const ramet__json *header, uint64_t data, uint64_t size) {
    ramet_status st = RAMET_OK;
    const ramet__json *meta = ramet__json_get(header, "__metadata__");
    int64_t n = (int64_t)header->len - (meta ? 1 : 0), at = 0;
    if (n > RAMET__ST_MAX_TENSORS)
        return ramet__fail(RAMET_E_LIMIT, "safetensors: %lld tensors in the header at byte 8; at most %d", (long long)n,
                           RAMET__ST_MAX_TENSORS);
    if (meta) RAMET__TRY(read_meta(s, meta));
    RAMET__NEW(s->tensors, ramet__arena_alloc(&s->arena, (size_t)(n + 1) * sizeof *s->tensors));
    s->n_tensors = n;
    for (size_t i = 0; i < header->len; i++) {
        if (&header->items[i] == meta) continue;
        ramet__st_tensor *t = &s->tensors[at++];
        if (strlen(header->keys[i]) != header->key_len[i]) return bad(header->keys[i], &header->items[i], "its name holds a NUL");
        RAMET__NEW(t->name, ramet__arena_strndup(&s->arena, header->keys[i], header->key_len[i]));
        RAMET__GO(read_tensor(t, &header->items[i], data, size));
    }
    ramet__sort(s->tensors, n, sizeof *s->tensors, by_offset);
    uint64_t end = data;
    for (int64_t i = 0; i < n; end += s->tensors[i++].bytes) {
        const ramet__st_tensor *t = &s->tensors[i];
        if (t->offset == end) continue;
        st = ramet__fail(RAMET_E_FORMAT,
                         "safetensors: the data of tensor \"%.64s\" begins at byte %llu, but what is before it ends at %llu: %s",
                         t->name, (ull)t->offset, (ull)end, t->offset > end ? "a gap" : "they overlap");
        goto out;
    }
    if (end != size)
        st = ramet__fail(RAMET_E_FORMAT, "safetensors: %llu bytes follow the last tensor at byte %llu", (ull)(size - end),
                         (ull)end);
    RAMET__GO(st);
    RAMET__GO(ramet__index_init(&s->index, &s->arena, n));
    for (int64_t i = 0; i < n; i++) ramet__index_set(&s->index, i, s->tensors[i].name, strlen(s->tensors[i].name));
    ramet__index_sort(&s->index); /* the JSON reader has refused names that occur twice */
out:
    return st;
}

static ramet_status read_header(ramet__safetensors *s, ramet__mem *mem, ramet__reader *reader) {
    ramet_status st = RAMET_OK;
    ramet__arena scratch = {.mem = mem};
    const ramet__json_limits limits = {.depth = 8, .values = 16 * (uint64_t)RAMET__ST_MAX_TENSORS, .too_deep = RAMET_E_FORMAT};
    const ramet__json *header = NULL;
    char *text = NULL;
    uint64_t size = ramet__reader_size(reader), n = 0;
    if (size < 8)
        return ramet__fail(RAMET_E_FORMAT, "safetensors: the file ends at byte %llu, inside the first 8 bytes", (ull)size);
    RAMET__GO(ramet__reader_read(reader, &n, 0, 8));
    if (n > RAMET__ST_MAX_HEADER || n > size - 8 || n < 2) {
        st = ramet__fail(RAMET_E_FORMAT,
                         "safetensors: header of %llu bytes, at byte 0; it must have 2..%d and fit into the file's %llu", (ull)n,
                         RAMET__ST_MAX_HEADER, (ull)size);
        goto out;
    }
    RAMET__NEW(text, ramet__alloc(mem, (size_t)n));
    RAMET__GO(ramet__reader_read(reader, text, 8, n));
    if (text[0] != '{') { st = ramet__fail(RAMET_E_FORMAT, "safetensors: the header does not begin with '{' at byte 8"); goto out; }
    st = ramet__json_parse(&header, &scratch, text, (size_t)n, &limits);
    if (st) { st = ramet__prefix(st, "safetensors: header at byte 8: "); goto out; }
    RAMET__GO(read_tensors(s, header, 8 + n, size));
out:
    ramet__arena_free(&scratch);
    ramet__free(text);
    return st;
}

ramet_status ramet__safetensors_open(ramet__safetensors **out, ramet__mem *mem, ramet__reader *reader) {
    ramet_status st = RAMET_OK;
    ramet__safetensors *s;
    RAMET__NEW(s, ramet__calloc(mem, 1, sizeof *s));
    s->arena.mem = mem;
    s->reader = ramet__reader_retain(reader);
    st = read_header(s, mem, reader);
    if (st) { st = ramet__prefix(st, "%s: ", ramet__reader_name(reader)); goto out; }
    *out = s;
    s = NULL;
out:
    ramet__safetensors_free(s);
    return st;
}

void ramet__safetensors_free(ramet__safetensors *s) {
    if (!s) return;
    ramet__arena_free(&s->arena);
    ramet__reader_free(s->reader);
    ramet__free(s);
}

const ramet__st_tensor *ramet__safetensors_find(const ramet__safetensors *s, const char *name) {
    int64_t i = ramet__index_find(&s->index, name, strlen(name));
    return i < 0 ? NULL : &s->tensors[i];
}

const char *ramet__safetensors_meta(const ramet__safetensors *s, const char *key) {
    int64_t i = ramet__index_find(&s->meta_index, key, strlen(key));
    return i < 0 ? NULL : s->meta_value[i];
}

ramet_status ramet__safetensors_read(const ramet__safetensors *s, const ramet__st_tensor *t, void *dst, uint64_t size) {
    if (size != t->bytes)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: tensor \"%.64s\" has %llu bytes, but %llu are wanted",
                           ramet__reader_name(s->reader), t->name, (ull)t->bytes, (ull)size);
    return ramet__reader_read(s->reader, dst, t->offset, size);
}

int32_t ramet__st_dtype_bytes(ramet__st_dtype dtype, const char **name) {
    for (int32_t i = 0; i < RAMET__COUNT(dtypes); i++) {
        if (dtypes[i].dtype != dtype || dtype == RAMET__ST_OTHER) continue;
        if (name) *name = dtypes[i].name;
        return dtypes[i].bits / 8;
    }
    return 0;
}
