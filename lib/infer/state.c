/* SPDX-License-Identifier: Apache-2.0 */
/* state.c - one sequence of a session as a safetensors file: "ids" [n], the tokens, and "cache" [blocks, layers * 2 * kv heads, block * head
 * width], keys and values as they stand in the blocks of cache.c (unused places zero; int8 with the bytes of its scales). Metadata: "ramet.kind", what it was made with
 * ("ramet.sequence.*": must be equal to go on) and a CRC-32C of both tensors. */
#include "format/safetensors.h"
#include "infer/session.h"
#include <stdio.h>
#include <string.h>

#define VERSION "1"
enum { MODEL, MODE, ADAPTER, PAIRS };
static const char *const keys[PAIRS] = {"ramet.sequence.model", "ramet.sequence.mode", "ramet.sequence.adapter"};
typedef struct identity { char value[PAIRS][65]; } identity;

/* What a sequence's adapter does to the plan's weights; "": nothing. */
static void digest_adapter(char hex[65], const ramet_session *s, int32_t index) {
    const ramet_model *m = s->model;
    const ramet__adapters *a = &s->adapters;
    ramet__sha256 sha;
    hex[0] = 0;
    if (index < 0) return;
    ramet__sha256_init(&sha);
    for (int64_t i = 0; i < m->n_weights; i++) {
        const ramet__slot_entry *e = a->slot_of[i] < 0 ? a->empty : &a->list[index].entries[a->slot_of[i]];
        const ramet__shape *shape = ramet__weight_shape(m->weights[i]);
        if (!e->rank) continue;
        ramet__sha256_add(&sha, ramet__weight_name(m->weights[i]), strlen(ramet__weight_name(m->weights[i])) + 1);
        ramet__sha256_add(&sha, &e->rank, sizeof e->rank);
        ramet__sha256_add(&sha, &e->scale, sizeof e->scale);
        ramet__sha256_add(&sha, e->a, (size_t)(e->rank * shape->dim[1]) * sizeof *e->a);
        ramet__sha256_add(&sha, e->b, (size_t)(e->rank * shape->dim[0]) * sizeof *e->b);
        if (e->gain) ramet__sha256_add(&sha, e->gain, (size_t)shape->dim[0] * sizeof *e->gain);
    }
    ramet__sha256_hex(&sha, hex);
}

static ramet_status identify(identity *id, const ramet_session *s, int32_t sequence) {
    const char *model = ramet_model_digest(s->model);
    if (!model) return ramet__alloc_status();
    snprintf(id->value[MODEL], sizeof id->value[MODEL], "%s", model);
    snprintf(id->value[MODE], sizeof id->value[MODE], "%s", ramet__mode_names[s->o.mode]);
    digest_adapter(id->value[ADAPTER], s, s->adapter[sequence]);
    return RAMET_OK;
}

typedef struct form { int64_t dim[3]; ramet__st_dtype type; uint64_t block; } form; /* of "cache"; block: bytes of one */

static form form_of(const ramet__cache_layout *l, int64_t length) {
    static const struct { ramet__st_dtype type; int64_t size; } types[] = {{RAMET__ST_F32, 4}, {RAMET__ST_F16, 2}, {RAMET__ST_I8, 1}};
    return (form){{(length + l->block - 1) / l->block, (int64_t)l->layers * 2 * l->n_kv, (int64_t)ramet__cache_head_bytes(l) / types[l->type].size}, types[l->type].type, ramet__cache_block_bytes(l)};
}

ramet_status ramet_session_tokens(int32_t *ids, int64_t count, const ramet_session *session, int32_t sequence) {
    RAMET__TRY(ramet__session_enter_sequence(session, sequence, "ramet_session_tokens"));
    const ramet__sequence *q = &session->cache.seqs[sequence];
    if (count < 0 || count > q->length || (count && !ids))
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_tokens: %lld tokens are wanted%s; sequence %d holds %lld", (long long)count, ids ? "" : " into NULL", sequence,
                           (long long)q->length);
    for (int64_t i = 0; i < count; i += RAMET__CACHE_BLOCK)
        memcpy(ids + i, ramet__cache_ids(&session->cache, q->blocks[i / RAMET__CACHE_BLOCK]), (size_t)RAMET__MIN(RAMET__CACHE_BLOCK, count - i) * sizeof *ids);
    return RAMET_OK;
}

/* ---- saving ---- */

/* All of the state into a writer. */
static ramet_status put(ramet__st_writer *w, const ramet_session *s, int32_t sequence) {
    const ramet__sequence *q = &s->cache.seqs[sequence];
    const form f = form_of(&s->cache.layout, q->length);
    const int64_t last = q->length / RAMET__CACHE_BLOCK; /* below it blocks are full */
    ramet_status st = RAMET_OK;
    identity id;
    int32_t *ids = NULL;
    void *tail = NULL;
    char crc[9];
    RAMET__NEW(ids, ramet__alloc(s->model->rt->mem, (size_t)q->length * sizeof *ids));
    RAMET__NEW(tail, ramet__alloc(s->model->rt->mem, (size_t)f.block));
    RAMET__GO(identify(&id, s, sequence));
    RAMET__GO(ramet_session_tokens(ids, q->length, s, sequence));
    if (last < q->n_blocks) {
        memcpy(tail, q->blocks[last], (size_t)f.block);
        ramet__cache_clean(&s->cache, tail, q->length % RAMET__CACHE_BLOCK);
    }
    uint32_t sum = ramet__crc32c(0, ids, (size_t)q->length * sizeof *ids);
    for (int64_t i = 0; i < f.dim[0]; i++) sum = ramet__crc32c(sum, i < last ? q->blocks[i] : tail, (size_t)f.block);
    snprintf(crc, sizeof crc, "%08x", sum);
    RAMET__GO(ramet__st_meta(w, "ramet.kind", "sequence"));
    RAMET__GO(ramet__st_meta(w, "ramet.version", VERSION));
    for (int32_t i = 0; i < PAIRS; i++) RAMET__GO(ramet__st_meta(w, keys[i], id.value[i]));
    RAMET__GO(ramet__st_meta(w, "ramet.crc", crc));
    RAMET__GO(ramet__st_declare(w, "ids", RAMET__ST_I32, 1, &q->length));
    RAMET__GO(ramet__st_declare(w, "cache", f.type, 3, f.dim));
    RAMET__GO(ramet__st_data(w, ids, (uint64_t)q->length * sizeof *ids));
    for (int64_t i = 0; i < f.dim[0]; i++) RAMET__GO(ramet__st_data(w, i < last ? q->blocks[i] : tail, f.block));
out:
    ramet__free(ids);
    ramet__free(tail);
    return st;
}

/* path NULL: into memory */
static ramet_status save(void **data, uint64_t *size, const ramet_session *s, int32_t sequence, const char *path, const char *function) {
    ramet__st_writer *w = NULL;
    ramet_status st;
    RAMET__TRY(ramet__session_enter_sequence(s, sequence, function));
    if (!s->cache.seqs[sequence].length) return ramet__fail(RAMET_E_STATE, "%s: sequence %d is empty; there is nothing to save", function, sequence);
    RAMET__TRY(ramet__st_writer_open(&w, s->model->rt->mem, path));
    st = put(w, s, sequence);
    if (!st) st = path ? ramet__st_writer_commit(&w) : ramet__st_writer_take(data, size, &w);
    ramet__st_writer_drop(&w);
    return st;
}

ramet_status ramet_session_save(const ramet_session *session, int32_t sequence, const char *path) {
    if (!path) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_save: path is NULL");
    return save(NULL, NULL, session, sequence, path, "ramet_session_save");
}

ramet_status ramet_session_pack(char **data, uint64_t *size, const ramet_session *session, int32_t sequence) {
    void *made = NULL;
    if (!data || !size) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_pack: %s is NULL", data ? "size" : "data");
    RAMET__TRY(save(&made, size, session, sequence, NULL, "ramet_session_pack"));
    *data = made;
    return RAMET_OK;
}

/* ---- loading ---- */

static ramet_status check_identity(const ramet__safetensors *f, const ramet_session *s, int32_t sequence) {
    static const char *const advice[PAIRS] = {"run the tokens again with this one", "open a session with that mode",
                                              "let the sequence use that adapter first (ramet_session_use), with the same scale"};
    const char *kind = ramet__safetensors_meta(f, "ramet.kind"), *version = ramet__safetensors_meta(f, "ramet.version");
    identity id;
    if (!kind || strcmp(kind, "sequence")) return ramet__fail(RAMET_E_FORMAT, "not a saved sequence (metadata \"ramet.kind\")");
    if (!version || strcmp(version, VERSION))
        return ramet__fail(RAMET_E_UNSUPPORTED, "a saved sequence of version %.16s; this library reads " VERSION, version ? version : "?");
    RAMET__TRY(identify(&id, s, sequence));
    for (int32_t i = 0; i < PAIRS; i++) {
        const char *theirs = ramet__safetensors_meta(f, keys[i]), *name = strrchr(keys[i], '.') + 1;
        if (!theirs) return ramet__fail(RAMET_E_FORMAT, "metadata \"%s\" is missing", keys[i]);
        if (strcmp(theirs, id.value[i]))
            return ramet__fail(RAMET_E_INCONSISTENT, "saved with another %s (\"%.12s\", here \"%.12s\"); %s", name, theirs, id.value[i], advice[i]);
    }
    return RAMET_OK;
}

static ramet_status find(const ramet__st_tensor **out, const ramet__safetensors *f, const char *name, ramet__st_dtype type, int32_t rank) {
    *out = ramet__safetensors_find(f, name);
    if (!*out || (*out)->rank != rank) return ramet__fail(RAMET_E_FORMAT, "tensor \"%s\" is missing or not of rank %d", name, rank);
    return (*out)->dtype == type ? RAMET_OK : ramet__fail(RAMET_E_INCONSISTENT, "tensor \"%s\" is %s, this session's is another type", name, (*out)->dtype_name);
}

/* Everything into a cache of its own, checked. */
static ramet_status get(ramet__cache *c, const ramet__safetensors *f, const ramet_session *s) {
    const ramet__st_tensor *ids, *blocks;
    const char *text = ramet__safetensors_meta(f, "ramet.crc");
    char crc[9];
    RAMET__TRY(find(&ids, f, "ids", RAMET__ST_I32, 1));
    RAMET__TRY(find(&blocks, f, "cache", form_of(&c->layout, 1).type, 3));
    const int64_t n = ids->dim[0];
    if (n < 1) return ramet__fail(RAMET_E_FORMAT, "the sequence is empty");
    if (n > s->o.max_context)
        return ramet__fail(RAMET_E_LIMIT, "the sequence has %lld tokens, this session's max_context is %lld", (long long)n, (long long)s->o.max_context);
    const form is = form_of(&c->layout, n);
    if (memcmp(is.dim, blocks->dim, sizeof is.dim) || f->n_tensors != 2)
        return ramet__fail(RAMET_E_INCONSISTENT, "tensor \"cache\" does not have the shape that %lld tokens take here, or is not alone", (long long)n);
    RAMET__TRY(ramet__cache_reserve(c, 0, n));
    uint32_t sum = 0;
    for (int64_t i = 0; i < n; i += RAMET__CACHE_BLOCK) {
        const int64_t part = RAMET__MIN(RAMET__CACHE_BLOCK, n - i);
        int32_t *to = ramet__cache_ids(c, c->seqs[0].blocks[i / RAMET__CACHE_BLOCK]);
        RAMET__TRY(ramet__reader_read(f->reader, to, ids->offset + (uint64_t)i * sizeof *to, (uint64_t)part * sizeof *to));
        sum = ramet__crc32c(sum, to, (size_t)part * sizeof *to);
    }
    for (int64_t i = 0; i < is.dim[0]; i++) {
        RAMET__TRY(ramet__reader_read(f->reader, c->seqs[0].blocks[i], blocks->offset + (uint64_t)i * is.block, is.block));
        sum = ramet__crc32c(sum, c->seqs[0].blocks[i], (size_t)is.block);
    }
    snprintf(crc, sizeof crc, "%08x", sum);
    if (!text || strcmp(text, crc)) return ramet__fail(RAMET_E_FORMAT, "damaged: the checksum is %s, the file says %.8s", crc, text ? text : "nothing");
    c->seqs[0].length = n;
    for (int64_t i = 0; i < n; i++) {
        const int32_t id = ramet__cache_ids(c, c->seqs[0].blocks[i / RAMET__CACHE_BLOCK])[i % RAMET__CACHE_BLOCK];
        if (id < 0 || id >= s->model->h.n_vocab) return ramet__fail(RAMET_E_INCONSISTENT, "token %lld is %d; the vocabulary is 0 to %lld", (long long)i, id, (long long)s->model->h.n_vocab - 1);
    }
    return RAMET_OK;
}

ramet_status ramet_session_load(ramet_session *session, int32_t sequence, const ramet_source *source) {
    ramet_session *s = session;
    ramet__reader *reader = NULL;
    ramet__safetensors *f = NULL;
    ramet__cache made = {0};
    ramet_status st;
    RAMET__TRY(ramet__session_enter_sequence(s, sequence, "ramet_session_load"));
    if (!source) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_load: source is NULL");
    RAMET__TRY(ramet__reader_open(&reader, s->model->rt->mem, source));
    RAMET__GO(ramet__safetensors_open(&f, s->model->rt->mem, reader));
    RAMET__GO(check_identity(f, s, sequence));
    RAMET__GO(ramet__cache_init(&made, s->model->rt->mem, &s->cache.layout, 1, s->o.max_context));
    RAMET__GO(get(&made, f, s));
    ramet__cache_take(&s->cache, sequence, &made);
out:
    if (st) st = ramet__prefix(st, "%s: ", ramet__reader_name(reader));
    ramet__cache_free(&made);
    ramet__safetensors_free(f);
    ramet__reader_free(reader);
    return st;
}
