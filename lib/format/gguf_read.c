/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_read.c - reads the header of a GGUF v3 file; see gguf.h. Every number in the file is a claim: counts and lengths are
 * compared with the bytes that are left before anything is allocated or multiplied. */
#include "format/gguf.h"
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#  error "GGUF numbers are used as they lie in the file: this host must be little-endian"
#endif

typedef unsigned long long ull; /* for printf */

enum { BUFFER = 65536, MIN_KV = 8 + 1 + 4 + 1, MIN_TENSOR = 8 + 1 + 4 + 4 + 8, MAX_KEY = 65535, MAX_NAME = 63 };
#define MAX_ALIGNMENT 65536u

/* ---- a cursor over the reader, with a window of buffered bytes -------------------------------------------------- */

typedef struct cursor {
    ramet__reader *reader;
    uint64_t at, size;
    uint64_t from; size_t have; /* the window: bytes from..from+have are in buffer */
    uint8_t *buffer;
} cursor;

static ramet_status ends(const cursor *c, const char *what, uint64_t wanted) {
    return ramet__fail(RAMET_E_FORMAT, "GGUF: the file ends inside %s at byte %llu: %llu bytes wanted, %llu left", what, (ull)c->at,
                       (ull)wanted, (ull)(c->size - c->at));
}

static ramet_status take(cursor *c, void *dst, uint64_t n, const char *what) {
    if (n > c->size - c->at) return ends(c, what, n);
    uint8_t *d = dst;
    while (n) {
        if (c->at < c->from || c->at >= c->from + c->have) {
            if (n >= BUFFER) { /* large: straight to its place */
                RAMET__TRY(ramet__reader_read(c->reader, d, c->at, n));
                c->at += n;
                return RAMET_OK;
            }
            c->have = 0;
            size_t want = (size_t)RAMET__MIN((uint64_t)BUFFER, c->size - c->at);
            RAMET__TRY(ramet__reader_read(c->reader, c->buffer, c->at, want));
            c->from = c->at;
            c->have = want;
        }
        size_t part = (size_t)RAMET__MIN(n, c->from + c->have - c->at);
        memcpy(d, c->buffer + (c->at - c->from), part);
        d += part;
        c->at += part;
        n -= part;
    }
    return RAMET_OK;
}

static ramet_status take32(cursor *c, uint32_t *v, const char *what) { return take(c, v, 4, what); }
static ramet_status take64(cursor *c, uint64_t *v, const char *what) { return take(c, v, 8, what); }

/* A length and so many bytes, NUL added. `longest` 0: what the file holds. */
static ramet_status take_string(cursor *c, ramet__arena *arena, ramet__gguf_string *out, uint64_t longest, const char *what) {
    ramet_status st = RAMET_OK;
    uint64_t begin = c->at, len;
    char *text;
    RAMET__GO(take64(c, &len, what));
    if (len > c->size - c->at) { st = ends(c, what, len); goto out; }
    if (longest && len > longest) {
        st = ramet__fail(RAMET_E_FORMAT, "GGUF: %s of %llu bytes at byte %llu; at most %llu are allowed", what, (ull)len,
                         (ull)begin, (ull)longest);
        goto out;
    }
    RAMET__NEW(text, ramet__arena_alloc(arena, (size_t)len + 1));
    RAMET__GO(take(c, text, len, what));
    text[len] = 0;
    out->text = text;
    out->len = len;
out:
    return st;
}

/* Names are not empty, UTF-8, and free of NULs. */
static ramet_status take_name(cursor *c, ramet__arena *arena, const char **out, uint64_t longest, const char *what) {
    ramet__gguf_string s = {0};
    uint64_t begin = c->at;
    RAMET__TRY(take_string(c, arena, &s, longest, what));
    if (!s.len) return ramet__fail(RAMET_E_FORMAT, "GGUF: empty %s at byte %llu", what, (ull)begin);
    if (strlen(s.text) != s.len)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: %s with a NUL at byte %llu", what, (ull)(begin + 8 + strlen(s.text)));
    size_t valid = ramet__utf8_valid(s.text, (size_t)s.len);
    if (valid < s.len) return ramet__fail(RAMET_E_FORMAT, "GGUF: %s is not UTF-8 at byte %llu", what, (ull)(begin + 8 + valid));
    *out = s.text;
    return RAMET_OK;
}

/* ---- metadata -------------------------------------------------------------------------------------------------- */

int32_t ramet__gguf_type_bytes(ramet__gguf_type type) {
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return (uint32_t)type < sizeof bytes ? bytes[type] : 0;
}

static ramet_status take_type(cursor *c, ramet__gguf_type *type, const char *key, const char *what) {
    uint32_t t;
    RAMET__TRY(take32(c, &t, what));
    if (t > RAMET__GGUF_F64)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: key \"%s\": %s is %u at byte %llu; types are 0..12", key, what, t,
                           (ull)(c->at - 4));
    *type = (ramet__gguf_type)t;
    return RAMET_OK;
}

static ramet_status not_bool(const char *key, uint64_t at, int value) {
    return ramet__fail(RAMET_E_FORMAT, "GGUF: key \"%s\": bool is %d at byte %llu; 0 or 1 is allowed", key, value, (ull)at);
}

static ramet_status take_scalar(cursor *c, ramet__gguf_value *v, const char *key) {
    union {
        uint8_t raw[8];
        uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; uint64_t u64; int64_t i64;
        float f32; double f64;
    } x = {{0}};
    RAMET__TRY(take(c, x.raw, (uint64_t)ramet__gguf_type_bytes(v->type), "a value"));
    switch (v->type) {
    case RAMET__GGUF_U8: v->v.u = x.u8; break;
    case RAMET__GGUF_I8: v->v.i = x.i8; break;
    case RAMET__GGUF_U16: v->v.u = x.u16; break;
    case RAMET__GGUF_I16: v->v.i = x.i16; break;
    case RAMET__GGUF_U32: v->v.u = x.u32; break;
    case RAMET__GGUF_I32: v->v.i = x.i32; break;
    case RAMET__GGUF_F32: v->v.f = (double)x.f32; break;
    case RAMET__GGUF_BOOL:
        if (x.u8 > 1) return not_bool(key, c->at - 1, x.u8);
        v->v.u = x.u8;
        break;
    case RAMET__GGUF_U64: v->v.u = x.u64; break;
    case RAMET__GGUF_I64: v->v.i = x.i64; break;
    default: v->v.f = x.f64; break;
    }
    return RAMET_OK;
}

static ramet_status take_array(cursor *c, ramet__arena *arena, ramet__gguf_value *v, const char *key) {
    ramet_status st = RAMET_OK;
    uint64_t count, begin = c->at;
    RAMET__GO(take_type(c, &v->element, key, "an array's element type"));
    RAMET__GO(take64(c, &count, "an array's length"));
    if (v->element == RAMET__GGUF_ARRAY) {
        st = ramet__fail(RAMET_E_UNSUPPORTED, "GGUF: key \"%s\": array of arrays at byte %llu; flatten it", key, (ull)begin);
        goto out;
    }
    uint64_t least = v->element == RAMET__GGUF_STRING ? 8 : (uint64_t)ramet__gguf_type_bytes(v->element);
    if (count > (c->size - c->at) / least) {
        st = ramet__fail(RAMET_E_FORMAT,
                         "GGUF: key \"%s\": array of %llu elements at byte %llu does not fit into the %llu bytes left", key,
                         (ull)count, (ull)begin, (ull)(c->size - c->at));
        goto out;
    }
    v->count = count;
    if (v->element == RAMET__GGUF_STRING) {
        ramet__gguf_string *s;
        RAMET__NEW(s, ramet__arena_alloc(arena, (size_t)(count + !count) * sizeof *s));
        for (uint64_t i = 0; i < count; i++) RAMET__GO(take_string(c, arena, &s[i], 0, "a string of an array"));
        v->v.array = s;
    } else {
        uint8_t *data;
        RAMET__NEW(data, ramet__arena_alloc(arena, (size_t)(count * least + !count)));
        RAMET__GO(take(c, data, count * least, "an array"));
        for (uint64_t i = 0; v->element == RAMET__GGUF_BOOL && i < count; i++)
            if (data[i] > 1) { st = not_bool(key, c->at - count + i, data[i]); goto out; }
        v->v.array = data;
    }
out:
    return st;
}

static ramet_status take_kv(cursor *c, ramet__arena *arena, ramet__gguf_kv *kv) {
    RAMET__TRY(take_name(c, arena, &kv->key, MAX_KEY, "key"));
    RAMET__TRY(take_type(c, &kv->value.type, kv->key, "value type"));
    kv->value.count = 1;
    if (kv->value.type == RAMET__GGUF_STRING) return take_string(c, arena, &kv->value.v.s, 0, "a string value");
    if (kv->value.type == RAMET__GGUF_ARRAY) return take_array(c, arena, &kv->value, kv->key);
    return take_scalar(c, &kv->value, kv->key);
}

static ramet_status read_metadata(cursor *c, ramet__gguf *g) {
    RAMET__TRY(ramet__index_init(&g->kv_index, &g->arena, g->n_kv));
    for (int64_t i = 0; i < g->n_kv; i++) {
        RAMET__TRY(take_kv(c, &g->arena, &g->kv[i]));
        ramet__index_set(&g->kv_index, i, g->kv[i].key, strlen(g->kv[i].key));
    }
    int64_t again = ramet__index_sort(&g->kv_index);
    if (again >= 0)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: key \"%.64s\" occurs twice before byte %llu", g->kv[again].key, (ull)c->at);
    const ramet__gguf_value *v = ramet__gguf_find(g, "general.alignment");
    g->alignment = 32;
    if (!v) return RAMET_OK;
    if (v->type != RAMET__GGUF_U32)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: key \"general.alignment\" before byte %llu must be a uint32", (ull)c->at);
    if (!v->v.u || (v->v.u & (v->v.u - 1)) || v->v.u > MAX_ALIGNMENT)
        return ramet__fail(RAMET_E_FORMAT,
                           "GGUF: key \"general.alignment\" before byte %llu is %llu; powers of two up to %u are allowed",
                           (ull)c->at, (ull)v->v.u, MAX_ALIGNMENT);
    g->alignment = (uint32_t)v->v.u;
    return RAMET_OK;
}

/* ---- tensors --------------------------------------------------------------------------------------------------- */

/* Numbers that ggml gave out: a name for what is real, "" for what it took back. Longer than encodings.def on purpose. */
static const char *const ggml_types[] = {
    "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1",                          /* 0 */
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",        /* 10 */
    "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M",                /* 20 */
    "BF16", "", "", "", "TQ1_0", "TQ2_0", "", "", "", "MXFP4",                                      /* 30 */
    "NVFP4", "Q1_0",                                                                                /* 40 */
};

static ramet_status encoding_of(uint32_t type, const char *name, uint64_t at, ramet__enc *enc) {
    int32_t e = ramet__encoding_from_gguf(type);
    if (e >= 0) { *enc = (ramet__enc)e; return RAMET_OK; }
    if (type >= (uint32_t)RAMET__COUNT(ggml_types))
        return ramet__fail(RAMET_E_FORMAT, "GGUF: tensor \"%s\": no encoding has number %d, at byte %llu", name, (int32_t)type,
                           (ull)at);
    if (!*ggml_types[type])
        return ramet__fail(RAMET_E_UNSUPPORTED,
                           "GGUF: tensor \"%s\": encoding %u, at byte %llu, was withdrawn from the format; convert the model again",
                           name, type, (ull)at);
    return ramet__fail(RAMET_E_UNSUPPORTED,
                       "GGUF: tensor \"%s\": encoding %s, at byte %llu, is not in this build; "
                       "convert the model to one that `ramet list encodings` has",
                       name, ggml_types[type], (ull)at);
}

/* Bytes of a tensor, with every product checked. Zero dimensions are allowed, but must not hide a product that overflows. */
static ramet_status measure(ramet__gguf_tensor *t, uint64_t at) {
    int64_t count = 1, elements = 1;
    for (int32_t i = 0; i < t->shape.rank; i++) {
        int64_t d = t->shape.dim[i];
        elements *= d ? 1 : 0;
        if (d && count > INT64_MAX / d)
            return ramet__fail(RAMET_E_FORMAT, "GGUF: tensor \"%s\": more than 2^63 elements, at byte %llu", t->name, (ull)at);
        if (d) count *= d;
    }
    const ramet__encoding *e = ramet__encoding_get(t->enc);
    int64_t row = ramet__shape_cols(&t->shape);
    if (row % e->block)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: tensor \"%s\": rows of %lld are not a multiple of %s's block of %d, at byte %llu",
                           t->name, (long long)row, e->name, e->block, (ull)at);
    if (count / e->block > INT64_MAX / e->bytes)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: tensor \"%s\": more than 2^63 bytes, at byte %llu", t->name, (ull)at);
    t->bytes = elements ? ramet__encoded_bytes(e, count) : 0;
    return RAMET_OK;
}

static ramet_status take_tensor(cursor *c, ramet__arena *arena, ramet__gguf_tensor *t) {
    uint64_t begin = c->at;
    uint32_t rank, type;
    RAMET__TRY(take_name(c, arena, &t->name, MAX_NAME, "tensor name"));
    RAMET__TRY(take32(c, &rank, "a tensor's rank"));
    if (rank > RAMET__MAX_RANK)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: tensor \"%s\": rank %u at byte %llu; at most 4", t->name, rank, (ull)(c->at - 4));
    t->shape.rank = (int32_t)rank;
    for (uint32_t i = 0; i < rank; i++) {
        uint64_t d;
        RAMET__TRY(take64(c, &d, "a tensor's dimensions"));
        if (d > INT64_MAX)
            return ramet__fail(RAMET_E_FORMAT, "GGUF: tensor \"%s\": negative dimension at byte %llu", t->name, (ull)(c->at - 8));
        t->shape.dim[rank - 1 - i] = (int64_t)d;
    }
    RAMET__TRY(take32(c, &type, "a tensor's encoding"));
    RAMET__TRY(encoding_of(type, t->name, c->at - 4, &t->enc));
    RAMET__TRY(measure(t, begin));
    return take64(c, &t->offset, "a tensor's offset");
}

static ramet_status pad(uint64_t *v, uint32_t alignment, const char *what, uint64_t at) {
    if (*v > (uint64_t)INT64_MAX - alignment)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: %s: end is beyond 2^63, at byte %llu", what, (ull)at);
    *v = (*v + alignment - 1) / alignment * alignment;
    return RAMET_OK;
}

static ramet_status read_tensors(cursor *c, ramet__gguf *g) {
    uint64_t end = 0; /* of the data so far, from the start of the data */
    RAMET__TRY(ramet__index_init(&g->tensor_index, &g->arena, g->n_tensors));
    for (int64_t i = 0; i < g->n_tensors; i++) {
        ramet__gguf_tensor *t = &g->tensors[i];
        RAMET__TRY(take_tensor(c, &g->arena, t));
        ramet__index_set(&g->tensor_index, i, t->name, strlen(t->name));
        if (t->offset % g->alignment)
            return ramet__fail(RAMET_E_FORMAT,
                               "GGUF: tensor \"%s\": offset %llu at byte %llu is not a multiple of the alignment %u", t->name,
                               (ull)t->offset, (ull)(c->at - 8), g->alignment);
        if (t->offset != end)
            return ramet__fail(RAMET_E_FORMAT,
                               "GGUF: tensor \"%s\": offset %llu at byte %llu leaves a gap or overlaps; what is before it ends at %llu",
                               t->name, (ull)t->offset, (ull)(c->at - 8), (ull)end);
        if (t->bytes > INT64_MAX - end)
            return ramet__fail(RAMET_E_FORMAT, "GGUF: tensor \"%s\": ends beyond 2^63, at byte %llu", t->name, (ull)c->at);
        end += t->bytes;
        RAMET__TRY(pad(&end, g->alignment, t->name, c->at));
    }
    int64_t again = ramet__index_sort(&g->tensor_index);
    if (again >= 0)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: tensor \"%s\" occurs twice before byte %llu", g->tensors[again].name, (ull)c->at);

    uint64_t begin = c->at;
    RAMET__TRY(pad(&begin, g->alignment, "header", c->at));
    if (!g->n_tensors && c->at == c->size) return RAMET_OK; /* a vocabulary alone need not be padded */
    if (begin > c->size || end > c->size - begin)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: the file ends at byte %llu, but its tensors end at byte %llu: it was cut short",
                           (ull)c->size, (ull)(begin + end));
    if (end < c->size - begin)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: %llu bytes follow the last tensor at byte %llu", (ull)(c->size - begin - end),
                           (ull)(begin + end));
    for (int64_t i = 0; i < g->n_tensors; i++) g->tensors[i].offset += begin;
    return RAMET_OK;
}

/* ---- the file -------------------------------------------------------------------------------------------------- */

static ramet_status check_count(const cursor *c, uint64_t count, uint64_t least, uint64_t limit, const char *what, uint64_t at) {
    if (count > UINT64_MAX / least)
        return ramet__fail(RAMET_E_LIMIT, "GGUF: %llu %s at byte %llu; at most %llu", (ull)count, what, (ull)at, (ull)limit);
    if (count > (c->size - c->at) / least)
        return ramet__fail(RAMET_E_FORMAT, "GGUF: %llu %s at byte %llu do not fit into the %llu bytes left", (ull)count, what,
                           (ull)at, (ull)(c->size - c->at));
    if (count > limit)
        return ramet__fail(RAMET_E_LIMIT, "GGUF: %llu %s at byte %llu; at most %llu", (ull)count, what, (ull)at, (ull)limit);
    return RAMET_OK;
}

static ramet_status read_all(cursor *c, ramet__gguf *g) {
    ramet_status st = RAMET_OK;
    char magic[4];
    uint32_t version;
    uint64_t n_tensors, n_kv;
    if (c->size < 24) { st = ends(c, "the first 24 bytes", 24); goto out; }
    RAMET__GO(take(c, magic, 4, "the magic"));
    if (memcmp(magic, "GGUF", 4) != 0) {
        st = ramet__fail(RAMET_E_FORMAT, "GGUF: the file does not begin with \"GGUF\" at byte 0");
        goto out;
    }
    RAMET__GO(take32(c, &version, "the version"));
    if (version != 3) {
        st = ramet__fail(RAMET_E_UNSUPPORTED, version == 0x03000000
                         ? "GGUF: big-endian file (version %u at byte 4); convert it to little-endian"
                         : "GGUF: version %u at byte 4; only 3 is supported", version);
        goto out;
    }
    RAMET__GO(take64(c, &n_tensors, "the tensor count"));
    RAMET__GO(take64(c, &n_kv, "the key count"));
    RAMET__GO(check_count(c, n_tensors, MIN_TENSOR, RAMET__GGUF_MAX_TENSORS, "tensors", 8));
    RAMET__GO(check_count(c, n_kv, MIN_KV, RAMET__GGUF_MAX_KV, "keys", 16));
    RAMET__NEW(g->kv, ramet__arena_alloc(&g->arena, (size_t)(n_kv + 1) * sizeof *g->kv));
    RAMET__NEW(g->tensors, ramet__arena_alloc(&g->arena, (size_t)(n_tensors + 1) * sizeof *g->tensors));
    g->n_kv = (int64_t)n_kv;
    g->n_tensors = (int64_t)n_tensors;
    RAMET__GO(read_metadata(c, g));
    RAMET__GO(read_tensors(c, g));
out:
    return st;
}

ramet_status ramet__gguf_open(ramet__gguf **out, ramet__mem *mem, ramet__reader *reader) {
    ramet_status st = RAMET_OK;
    ramet__gguf *g = NULL;
    cursor c = {.reader = reader, .size = ramet__reader_size(reader)};
    RAMET__NEW(c.buffer, ramet__alloc(mem, BUFFER));
    RAMET__NEW(g, ramet__calloc(mem, 1, sizeof *g));
    g->arena.mem = mem;
    g->reader = ramet__reader_retain(reader);
    st = read_all(&c, g);
    if (st) { st = ramet__prefix(st, "%s: ", ramet__reader_name(reader)); goto out; }
    *out = g;
    g = NULL;
out:
    ramet__gguf_free(g);
    ramet__free(c.buffer);
    return st;
}

void ramet__gguf_free(ramet__gguf *g) {
    if (!g) return;
    ramet__arena_free(&g->arena);
    ramet__reader_free(g->reader);
    ramet__free(g);
}

/* ---- getters --------------------------------------------------------------------------------------------------- */

const ramet__gguf_value *ramet__gguf_find(const ramet__gguf *g, const char *key) {
    int64_t i = ramet__index_find(&g->kv_index, key, strlen(key));
    return i < 0 ? NULL : &g->kv[i].value;
}

const ramet__gguf_tensor *ramet__gguf_tensor_find(const ramet__gguf *g, const char *name) {
    int64_t i = ramet__index_find(&g->tensor_index, name, strlen(name));
    return i < 0 ? NULL : &g->tensors[i];
}

static ramet_status wrong(const ramet__gguf *g, const char *key, const char *wanted) {
    return ramet__fail(RAMET_E_FORMAT, "%s: key \"%s\" must be %s", ramet__reader_name(g->reader), key, wanted);
}

ramet_status ramet__gguf_i64(int64_t *out, const ramet__gguf *g, const char *key, int64_t fallback) {
    const ramet__gguf_value *v = ramet__gguf_find(g, key);
    if (!v) { *out = fallback; return RAMET_OK; }
    switch (v->type) {
    case RAMET__GGUF_I8: case RAMET__GGUF_I16: case RAMET__GGUF_I32: case RAMET__GGUF_I64: *out = v->v.i; return RAMET_OK;
    case RAMET__GGUF_U8: case RAMET__GGUF_U16: case RAMET__GGUF_U32: case RAMET__GGUF_U64: case RAMET__GGUF_BOOL:
        if (v->v.u > INT64_MAX) return wrong(g, key, "an integer below 2^63");
        *out = (int64_t)v->v.u;
        return RAMET_OK;
    default: return wrong(g, key, "an integer");
    }
}

ramet_status ramet__gguf_f64(double *out, const ramet__gguf *g, const char *key, double fallback) {
    const ramet__gguf_value *v = ramet__gguf_find(g, key);
    if (!v) { *out = fallback; return RAMET_OK; }
    switch (v->type) {
    case RAMET__GGUF_F32: case RAMET__GGUF_F64: *out = v->v.f; return RAMET_OK;
    case RAMET__GGUF_I8: case RAMET__GGUF_I16: case RAMET__GGUF_I32: case RAMET__GGUF_I64: *out = (double)v->v.i; return RAMET_OK;
    case RAMET__GGUF_U8: case RAMET__GGUF_U16: case RAMET__GGUF_U32: case RAMET__GGUF_U64: *out = (double)v->v.u; return RAMET_OK;
    default: return wrong(g, key, "a number");
    }
}

ramet_status ramet__gguf_text(const char **out, const ramet__gguf *g, const char *key, const char *fallback) {
    const ramet__gguf_value *v = ramet__gguf_find(g, key);
    if (!v) { *out = fallback; return RAMET_OK; }
    if (v->type != RAMET__GGUF_STRING) return wrong(g, key, "a string");
    if (strlen(v->v.s.text) != v->v.s.len) return wrong(g, key, "a string without NULs");
    *out = v->v.s.text;
    return RAMET_OK;
}
