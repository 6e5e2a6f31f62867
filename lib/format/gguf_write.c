/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_write.c - writes a GGUF v3 file; see gguf.h. The header is known only when all is declared, so it is written with the
 * first data. Offsets are computed from the shapes: tensors lie in the order declared, each padded to the alignment. */
#include "format/gguf.h"
#include <string.h>

typedef unsigned long long ull;

/* value as it lies in the file */
typedef struct put { const char *key; ramet__gguf_type type; const void *bytes; uint64_t size; } put;
typedef struct declared { const char *name; ramet__shape shape; ramet__enc enc; uint64_t bytes; } declared;
struct ramet__gguf_writer {
    ramet__mem *mem;
    ramet__writer *file;
    ramet__arena arena;
    put *kv; int64_t n_kv, kv_cap;
    declared *tensors; int64_t n, cap;
    uint32_t alignment;
    int32_t written;               /* the header is */
    int64_t at; uint64_t done;     /* the tensor that is being given, and its bytes so far */
};

ramet_status ramet__gguf_writer_open(ramet__gguf_writer **out, ramet__mem *mem, const char *path) {
    ramet_status st = RAMET_OK;
    ramet__gguf_writer *w;
    RAMET__NEW(w, ramet__calloc(mem, 1, sizeof *w));
    w->mem = w->arena.mem = mem;
    w->alignment = 32;
    RAMET__GO(ramet__writer_open(&w->file, mem, path));
    *out = w;
    w = NULL;
out:
    if (w) ramet__gguf_writer_drop(&w);
    return st;
}

void ramet__gguf_writer_drop(ramet__gguf_writer **pw) {
    ramet__gguf_writer *w = *pw;
    if (!w) return;
    *pw = NULL;
    ramet__writer_drop(&w->file);
    ramet__free(w->kv);
    ramet__free(w->tensors);
    ramet__arena_free(&w->arena);
    ramet__free(w);
}

/* ---- metadata -------------------------------------------------------------------------------------------------- */

/* The bytes of one number, as many as its type has. */
static void scalar_bytes(uint8_t raw[8], const ramet__gguf_value *v) {
    float f32 = (float)v->v.f;
    memset(raw, 0, 8);
    if (v->type == RAMET__GGUF_F32) memcpy(raw, &f32, 4);
    else if (v->type == RAMET__GGUF_F64) memcpy(raw, &v->v.f, 8);
    else memcpy(raw, &v->v.u, 8); /* little-endian: the low bytes come first, signed or not */
}

static int fits(const ramet__gguf_value *v) {
    switch (v->type) {
    case RAMET__GGUF_U8: return v->v.u <= UINT8_MAX;
    case RAMET__GGUF_U16: return v->v.u <= UINT16_MAX;
    case RAMET__GGUF_U32: return v->v.u <= UINT32_MAX;
    case RAMET__GGUF_BOOL: return v->v.u <= 1;
    case RAMET__GGUF_I8: return v->v.i >= INT8_MIN && v->v.i <= INT8_MAX;
    case RAMET__GGUF_I16: return v->v.i >= INT16_MIN && v->v.i <= INT16_MAX;
    case RAMET__GGUF_I32: return v->v.i >= INT32_MIN && v->v.i <= INT32_MAX;
    default: return 1;
    }
}

/* A value as it lies in the file, in the arena. */
static ramet_status serialize(ramet__gguf_writer *w, put *p, const char *key, const ramet__gguf_value *v) {
    ramet_status st = RAMET_OK;
    uint8_t *d;
    const ramet__gguf_string *s = v->type == RAMET__GGUF_ARRAY ? v->v.array : &v->v.s;
    uint64_t n = v->type == RAMET__GGUF_ARRAY ? v->count : 1;
    ramet__gguf_type type = v->type == RAMET__GGUF_ARRAY ? v->element : v->type;
    if ((uint32_t)type > RAMET__GGUF_F64 || type == RAMET__GGUF_ARRAY)
        return ramet__fail(RAMET_E_UNSUPPORTED, "GGUF: key \"%.64s\": type %d cannot be written", key, (int)type);
    if (v->type != RAMET__GGUF_ARRAY && type != RAMET__GGUF_STRING && !fits(v))
        return ramet__fail(RAMET_E_ARGUMENT, "GGUF: key \"%.64s\": the number does not fit its type", key);
    uint64_t size = v->type == RAMET__GGUF_ARRAY ? 12 : 0, one = (uint64_t)ramet__gguf_type_bytes(type);
    if (type == RAMET__GGUF_STRING) {
        for (uint64_t i = 0; i < n; i++) size += 8 + s[i].len;
    } else {
        size += n * one;
    }
    RAMET__NEW(d, ramet__arena_alloc(&w->arena, (size_t)size + 1));
    p->bytes = d;
    p->size = size;
    p->type = v->type;
    if (v->type == RAMET__GGUF_ARRAY) {
        uint32_t element = (uint32_t)type;
        memcpy(d, &element, 4);
        memcpy(d + 4, &n, 8);
        d += 12;
        if (type != RAMET__GGUF_STRING && n) memcpy(d, v->v.array, (size_t)(n * one));
    } else if (type != RAMET__GGUF_STRING) {
        uint8_t raw[8];
        scalar_bytes(raw, v);
        memcpy(d, raw, (size_t)one);
    }
    for (uint64_t i = 0; type == RAMET__GGUF_STRING && i < n; i++) {
        memcpy(d, &s[i].len, 8);
        if (s[i].len) memcpy(d + 8, s[i].text, (size_t)s[i].len);
        d += 8 + s[i].len;
    }
out:
    return st;
}

ramet_status ramet__gguf_put(ramet__gguf_writer *w, const char *key, const ramet__gguf_value *value) {
    ramet_status st = RAMET_OK;
    put p = {0};
    size_t len = strlen(key);
    if (w->written) return ramet__fail(RAMET_E_STATE, "GGUF: key \"%.64s\" put after the first data", key);
    if (!len || len > 65535 || ramet__utf8_valid(key, len) < len)
        return ramet__fail(RAMET_E_ARGUMENT, "GGUF: key \"%.64s\" is empty, too long or not UTF-8", key);
    RAMET__TRY(serialize(w, &p, key, value));
    if (!strcmp(key, "general.alignment")) {
        uint64_t a = value->v.u;
        if (value->type != RAMET__GGUF_U32 || !a || (a & (a - 1)) || a > 65536)
            return ramet__fail(RAMET_E_ARGUMENT, "GGUF: general.alignment must be a uint32 and a power of two up to 65536");
        w->alignment = (uint32_t)a;
    }
    for (int64_t i = 0; i < w->n_kv; i++) {
        if (strcmp(w->kv[i].key, key) != 0) continue;
        p.key = w->kv[i].key;
        w->kv[i] = p;
        return RAMET_OK;
    }
    if (w->n_kv >= RAMET__GGUF_MAX_KV) return ramet__fail(RAMET_E_LIMIT, "GGUF: more than %d keys", RAMET__GGUF_MAX_KV);
    RAMET__TRY(ramet__grow(w->mem, &w->kv, &w->kv_cap, w->n_kv + 1, sizeof *w->kv));
    RAMET__NEW(p.key, ramet__arena_strndup(&w->arena, key, len));
    w->kv[w->n_kv++] = p;
out:
    return st;
}

ramet_status ramet__gguf_put_u32(ramet__gguf_writer *w, const char *key, uint32_t value) {
    ramet__gguf_value v = {.type = RAMET__GGUF_U32, .count = 1, .v.u = value};
    return ramet__gguf_put(w, key, &v);
}
ramet_status ramet__gguf_put_i64(ramet__gguf_writer *w, const char *key, int64_t value) {
    ramet__gguf_value v = {.type = RAMET__GGUF_I64, .count = 1, .v.i = value};
    return ramet__gguf_put(w, key, &v);
}
ramet_status ramet__gguf_put_f32(ramet__gguf_writer *w, const char *key, float value) {
    ramet__gguf_value v = {.type = RAMET__GGUF_F32, .count = 1, .v.f = (double)value};
    return ramet__gguf_put(w, key, &v);
}
ramet_status ramet__gguf_put_bool(ramet__gguf_writer *w, const char *key, int32_t value) {
    ramet__gguf_value v = {.type = RAMET__GGUF_BOOL, .count = 1, .v.u = value != 0};
    return ramet__gguf_put(w, key, &v);
}
ramet_status ramet__gguf_put_text(ramet__gguf_writer *w, const char *key, const char *text, size_t len) {
    ramet__gguf_value v = {.type = RAMET__GGUF_STRING, .count = 1, .v.s = {text, len}};
    return ramet__gguf_put(w, key, &v);
}
ramet_status ramet__gguf_put_array(ramet__gguf_writer *w, const char *key, ramet__gguf_type element, uint64_t count,
                                   const void *array) {
    ramet__gguf_value v = {.type = RAMET__GGUF_ARRAY, .element = element, .count = count, .v.array = array};
    return ramet__gguf_put(w, key, &v);
}

/* ---- tensors --------------------------------------------------------------------------------------------------- */

ramet_status ramet__gguf_declare(ramet__gguf_writer *w, const char *name, const ramet__shape *shape, ramet__enc enc) {
    ramet_status st = RAMET_OK;
    const ramet__encoding *e = ramet__encoding_get(enc);
    size_t len = strlen(name);
    declared d = {.shape = *shape, .enc = enc};
    int64_t count = 1;
    if (w->written) return ramet__fail(RAMET_E_STATE, "GGUF: tensor \"%.64s\" declared after the first data", name);
    if (!len || len > 63 || ramet__utf8_valid(name, len) < len)
        return ramet__fail(RAMET_E_ARGUMENT, "GGUF: tensor name \"%.80s\" is empty, longer than 63 bytes or not UTF-8", name);
    if (!e || e->gguf_type < 0 || shape->rank < 0 || shape->rank > RAMET__MAX_RANK)
        return ramet__fail(RAMET_E_ARGUMENT, "GGUF: tensor \"%s\": an encoding or rank that the format lacks", name);
    for (int32_t i = 0; i < shape->rank; i++) {
        if (shape->dim[i] < 0 || (shape->dim[i] && count > INT64_MAX / 64 / shape->dim[i]))
            return ramet__fail(RAMET_E_ARGUMENT, "GGUF: tensor \"%s\": negative dimension, or more than 2^57 elements", name);
        count *= shape->dim[i];
    }
    if (ramet__shape_cols(shape) % e->block)
        return ramet__fail(RAMET_E_ARGUMENT, "GGUF: tensor \"%s\": rows of %lld are not a multiple of %s's block of %d", name,
                           (long long)ramet__shape_cols(shape), e->name, e->block);
    if (w->n >= RAMET__GGUF_MAX_TENSORS) return ramet__fail(RAMET_E_LIMIT, "GGUF: more than %d tensors", RAMET__GGUF_MAX_TENSORS);
    d.bytes = ramet__encoded_bytes(e, count);
    RAMET__TRY(ramet__grow(w->mem, &w->tensors, &w->cap, w->n + 1, sizeof *w->tensors));
    RAMET__NEW(d.name, ramet__arena_strndup(&w->arena, name, len));
    w->tensors[w->n++] = d;
out:
    return st;
}

static ramet_status write_string(ramet__gguf_writer *w, const char *s) {
    uint64_t len = strlen(s);
    RAMET__TRY(ramet__writer_write(w->file, &len, 8));
    return ramet__writer_write(w->file, s, (size_t)len);
}

static ramet_status write_padding(ramet__gguf_writer *w) {
    static const uint8_t zeros[256];
    uint64_t at = ramet__writer_offset(w->file), n = (w->alignment - at % w->alignment) % w->alignment;
    for (; n > sizeof zeros; n -= sizeof zeros) RAMET__TRY(ramet__writer_write(w->file, zeros, sizeof zeros));
    return ramet__writer_write(w->file, zeros, (size_t)n);
}

static ramet_status write_tensor_info(ramet__gguf_writer *w, const declared *t, uint64_t offset) {
    uint32_t rank = (uint32_t)t->shape.rank, type = (uint32_t)ramet__encoding_get(t->enc)->gguf_type;
    RAMET__TRY(write_string(w, t->name));
    RAMET__TRY(ramet__writer_write(w->file, &rank, 4));
    for (uint32_t i = 0; i < rank; i++) RAMET__TRY(ramet__writer_write(w->file, &t->shape.dim[rank - 1 - i], 8));
    RAMET__TRY(ramet__writer_write(w->file, &type, 4));
    return ramet__writer_write(w->file, &offset, 8);
}

static ramet_status write_header(ramet__gguf_writer *w) {
    ramet__index index = {0};
    uint32_t version = 3;
    uint64_t n_tensors = (uint64_t)w->n, n_kv = (uint64_t)w->n_kv, offset = 0;
    if (w->written) return RAMET_OK;
    RAMET__TRY(ramet__index_init(&index, &w->arena, w->n));
    for (int64_t i = 0; i < w->n; i++) ramet__index_set(&index, i, w->tensors[i].name, strlen(w->tensors[i].name));
    int64_t again = ramet__index_sort(&index);
    if (again >= 0) return ramet__fail(RAMET_E_ARGUMENT, "GGUF: tensor \"%s\" declared twice", w->tensors[again].name);
    w->written = 1;
    RAMET__TRY(ramet__writer_write(w->file, "GGUF", 4));
    RAMET__TRY(ramet__writer_write(w->file, &version, 4));
    RAMET__TRY(ramet__writer_write(w->file, &n_tensors, 8));
    RAMET__TRY(ramet__writer_write(w->file, &n_kv, 8));
    for (int64_t i = 0; i < w->n_kv; i++) {
        uint32_t type = (uint32_t)w->kv[i].type;
        RAMET__TRY(write_string(w, w->kv[i].key));
        RAMET__TRY(ramet__writer_write(w->file, &type, 4));
        RAMET__TRY(ramet__writer_write(w->file, w->kv[i].bytes, (size_t)w->kv[i].size));
    }
    for (int64_t i = 0; i < w->n; i++) {
        RAMET__TRY(write_tensor_info(w, &w->tensors[i], offset));
        if (w->tensors[i].bytes > (uint64_t)INT64_MAX - w->alignment - offset)
            return ramet__fail(RAMET_E_ARGUMENT, "GGUF: tensors of more than 2^63 bytes in all");
        offset = RAMET__ROUND_UP(offset + w->tensors[i].bytes, w->alignment);
    }
    return write_padding(w);
}

/* Past tensors that are complete, empty ones too. */
static ramet_status advance(ramet__gguf_writer *w) {
    while (w->at < w->n && w->done == w->tensors[w->at].bytes) {
        RAMET__TRY(write_padding(w));
        w->at++;
        w->done = 0;
    }
    return RAMET_OK;
}

ramet_status ramet__gguf_data(ramet__gguf_writer *w, const void *bytes, uint64_t size) {
    RAMET__TRY(write_header(w));
    RAMET__TRY(advance(w));
    if (w->at == w->n) return size ? ramet__fail(RAMET_E_STATE, "GGUF: more data than was declared") : RAMET_OK;
    uint64_t room = w->tensors[w->at].bytes - w->done;
    if (size > room)
        return ramet__fail(RAMET_E_STATE, "GGUF: tensor \"%s\" is given %llu bytes too many", w->tensors[w->at].name,
                           (ull)(size - room));
    RAMET__TRY(ramet__writer_write(w->file, bytes, (size_t)size));
    w->done += size;
    return RAMET_OK;
}

ramet_status ramet__gguf_writer_commit(ramet__gguf_writer **pw) {
    ramet__gguf_writer *w = *pw;
    ramet_status st = RAMET_OK;
    RAMET__GO(write_header(w));
    RAMET__GO(advance(w));
    if (w->at < w->n) {
        st = ramet__fail(RAMET_E_STATE, "GGUF: tensor \"%s\" lacks %llu bytes", w->tensors[w->at].name,
                         (ull)(w->tensors[w->at].bytes - w->done));
        goto out;
    }
    st = ramet__writer_commit(&w->file);
out:
    ramet__gguf_writer_drop(pw);
    return st;
}
