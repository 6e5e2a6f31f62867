/* SPDX-License-Identifier: Apache-2.0 */
/* store.c - a folder of a parent's versions.
 *
 *   HEAD                  the live version's number; replacing this file is what commits
 *   ledger.jsonl          what was absorbed, refused and why, gated, committed, undone: one object a line
 *   versions/0001.gguf    whole models
 *   briefs/<nonce>.safetensors   copies of the briefs sent, so that soft labels can be matched to their inputs
 *   measured/             HEAD's losses on texts that gates used, so that the next candidate need not wait for them
 *   LOCK                  held by whoever changes anything
 *
 * Order of a commit: model file, ledger line, HEAD - each whole or not at all. A crash between two of them leaves the old HEAD. */
#include "base/system.h"
#include "feedback/feedback.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *ramet__store_path(const ramet_store *s, const char *format, ...) {
    char name[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(name, sizeof name, format, ap);
    va_end(ap);
    return ramet__format(s->rt->mem, "%s/%s", s->folder, name);
}

/* ---- ledger ---- */
static ramet_status remember_version(ramet_store *s, const ramet__json *line) {
    int64_t number, parent;
    const char *digest;
    RAMET__TRY(ramet__json_i64(&number, line, "version", 0));
    RAMET__TRY(ramet__json_i64(&parent, line, "parent", 0));
    RAMET__TRY(ramet__json_string(&digest, line, "digest", ""));
    if (number < 1 || parent < 0 || parent >= number || strlen(digest) != 64)
        return ramet__fail(RAMET_E_FORMAT, "a commit line has no sound version, parent and digest");
    RAMET__TRY(ramet__grow(s->rt->mem, &s->versions, &s->cap_versions, s->n_versions + 1, sizeof *s->versions));
    ramet__version *v = &s->versions[s->n_versions++];
    v->number = number;
    v->parent = parent;
    memcpy(v->digest, digest, 65);
    return RAMET_OK;
}

static ramet_status remember_nonces(ramet_store *s, const ramet__json *line) {
    const ramet__json *list = ramet__json_get(line, "nonces");
    for (size_t i = 0; list && list->type == RAMET__JSON_ARRAY && i < list->len; i++) {
        if (list->items[i].type != RAMET__JSON_STRING) continue;
        RAMET__TRY(ramet__grow(s->rt->mem, &s->nonces, &s->cap_nonces, s->n_nonces + 1, sizeof *s->nonces));
        char *text = ramet__strdup(s->rt->mem, list->items[i].text);
        if (!text) return ramet__alloc_status();
        s->nonces[s->n_nonces++] = (ramet__nonce_used){text, s->versions[s->n_versions - 1].number};
    }
    return RAMET_OK;
}

static void forget(ramet_store *s) {
    for (int64_t i = 0; i < s->n_nonces; i++) ramet__free(s->nonces[i].text);
    s->n_nonces = s->n_versions = 0;
}

static ramet_status read_ledger(ramet_store *s) {
    char *path = NULL, *text = NULL;
    size_t size = 0;
    ramet__arena arena = {.mem = s->rt->mem};
    ramet_status st;
    int64_t number = 0;
    forget(s);
    RAMET__NEW(path, ramet__store_path(s, "ledger.jsonl"));
    RAMET__GO(ramet__file_read_all(&text, &size, s->rt->mem, path, 0));
    for (char *p = text, *end = text + size; p < end;) {
        char *eol = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((eol ? eol : end) - p);
        const ramet__json *line;
        const char *event;
        number++;
        if (n) {
            st = ramet__json_parse(&line, &arena, p, n, NULL);
            if (!st) st = ramet__json_string(&event, line, "event", "");
            if (!st && (!strcmp(event, "init") || !strcmp(event, "commit"))) st = remember_version(s, line);
            if (!st && !strcmp(event, "commit")) st = remember_nonces(s, line);
            if (st) { st = ramet__prefix(st, "%s line %lld: ", path, (long long)number); goto out; }
        }
        p += n + 1;
    }
out:
    ramet__arena_free(&arena);
    ramet__free(text);
    ramet__free(path);
    return st;
}

ramet_status ramet__ledger_add(ramet_store *s, const char *event, const char *members) {
    char *path = NULL, *text = NULL, when[21];
    size_t size = 0;
    ramet__writer *w = NULL;
    ramet__text line = {.mem = s->rt->mem};
    ramet_status st = RAMET_OK;
    RAMET__NEW(path, ramet__store_path(s, "ledger.jsonl"));
    if (ramet__path_kind(path)) RAMET__GO(ramet__file_read_all(&text, &size, s->rt->mem, path, 0));
    ramet__utc(when);
    ramet__text_add(&line, "{\"event\":\"%s\",\"time\":\"%s\"%s%s}\n", event, when, *members ? "," : "", members);
    RAMET__GO(line.status);
    RAMET__GO(ramet__writer_open(&w, s->rt->mem, path));
    RAMET__GO(ramet__writer_write(w, text ? text : "", size));
    RAMET__GO(ramet__writer_write(w, line.data, line.len));
    RAMET__GO(ramet__writer_commit(&w));
out:
    ramet__writer_drop(&w);
    ramet__text_free(&line);
    ramet__free(text);
    ramet__free(path);
    return st;
}

/* ---- HEAD ---- */
static ramet_status read_head(ramet_store *s) {
    char *path = NULL, *text = NULL;
    size_t size;
    ramet_status st;
    RAMET__NEW(path, ramet__store_path(s, "HEAD"));
    if (!ramet__path_kind(path)) { st = ramet__fail(RAMET_E_NOT_FOUND, "%s: is not a store (no HEAD); make one with `ramet init` or ramet_store_init", s->folder); goto out; }
    RAMET__GO(ramet__file_read_all(&text, &size, s->rt->mem, path, 64));
    char *end;
    long long v = strtoll(text, &end, 10);
    if (end == text || (*end && *end != '\n') || v < 1) { st = ramet__fail(RAMET_E_FORMAT, "%s: does not hold a version number", path); goto out; }
    s->head = v;
out:
    ramet__free(text);
    ramet__free(path);
    return st;
}

/* HEAD is written beside the old one before the ledger tells of it, so that what is left to do afterwards needs no memory. */
static ramet_status prepare_head(ramet__writer **w, ramet_store *s, int64_t version) {
    char *path = NULL, text[32];
    ramet_status st;
    snprintf(text, sizeof text, "%lld\n", (long long)version);
    RAMET__NEW(path, ramet__store_path(s, "HEAD"));
    RAMET__GO(ramet__writer_open(w, s->rt->mem, path));
    st = ramet__writer_write(*w, text, strlen(text));
out:
    ramet__free(path);
    return st;
}

static ramet_status move_head(ramet__writer **w, ramet_store *s, int64_t version) {
    RAMET__TRY(ramet__writer_commit(w));
    s->head = version;
    return RAMET_OK;
}

static ramet_status take_lock(ramet_store *s) {
    char *path = NULL;
    ramet_status st;
    RAMET__NEW(path, ramet__store_path(s, "LOCK"));
    RAMET__GO(ramet__lock_take(&s->lock, path));
out:
    ramet__free(path);
    return st;
}

ramet_status ramet__store_lock(ramet_store *s) {
    RAMET__TRY(ramet__runtime_check(s->rt));
    if (s->lock >= 0) return ramet__fail(RAMET_E_STATE, "%s: the store is in use by a call on this handle", s->folder);
    RAMET__TRY(take_lock(s));
    ramet_status st = read_head(s);
    if (!st) st = read_ledger(s);
    if (!st && !ramet__store_version(s, s->head))
        st = ramet__fail(RAMET_E_INCONSISTENT, "%s: HEAD is version %lld, which the ledger does not know", s->folder, (long long)s->head);
    if (st) ramet__store_unlock(s);
    return st;
}

void ramet__store_unlock(ramet_store *s) {
    ramet__lock_release(s->lock);
    s->lock = -1;
}

const ramet__version *ramet__store_version(const ramet_store *s, int64_t number) {
    for (int64_t i = s->n_versions; i-- > 0;) /* the newest record of a number counts */
        if (s->versions[i].number == number) return &s->versions[i];
    return NULL;
}

int32_t ramet__store_gap(const ramet_store *s, const char *digest) {
    int32_t gap = 0;
    for (const ramet__version *v = ramet__store_version(s, s->head); v; v = v->parent ? ramet__store_version(s, v->parent) : NULL, gap++)
        if (!strcmp(v->digest, digest)) return gap;
    return -1;
}

int32_t ramet__store_absorbed(const ramet_store *s, const char *nonce) {
    for (int64_t i = 0; i < s->n_nonces; i++) {
        if (strcmp(s->nonces[i].text, nonce)) continue;
        for (const ramet__version *v = ramet__store_version(s, s->head); v; v = v->parent ? ramet__store_version(s, v->parent) : NULL)
            if (v->number == s->nonces[i].version) return 1;
    }
    return 0;
}

ramet_status ramet__store_model(ramet_model **borrowed, ramet_store *s) {
    char *path = NULL;
    ramet_status st = RAMET_OK;
    if (!s->model || s->model_version != s->head) {
        ramet_model *m;
        RAMET__NEW(path, ramet__store_path(s, "versions/%04lld.gguf", (long long)s->head));
        RAMET__GO(ramet_model_load_path(&m, s->rt, path));
        ramet_model_free(s->model);
        s->model = m;
        s->model_version = s->head;
    }
    *borrowed = s->model;
out:
    ramet__free(path);
    return st;
}

/* ---- public ---- */
static ramet_status store_new(ramet_store **out, ramet_runtime *rt, const char *folder) {
    ramet_store *s = ramet__calloc(rt->mem, 1, sizeof *s);
    if (!s) return ramet__alloc_status();
    s->lock = -1;
    s->rt = ramet__runtime_retain(rt);
    if (!(s->folder = ramet__strdup(rt->mem, folder))) {
        ramet_store_free(s);
        return ramet__alloc_status();
    }
    *out = s;
    return RAMET_OK;
}

void ramet_store_free(ramet_store *s) {
    if (!s) return;
    ramet_runtime *rt = s->rt;
    ramet__store_unlock(s);
    forget(s);
    ramet__free(s->nonces);
    ramet__free(s->versions);
    ramet_model_free(s->model);
    ramet__free(s->folder);
    ramet__free(s);
    ramet_runtime_free(rt);
}

ramet_status ramet__store_add_version(ramet_store *s, const ramet_model *model, int64_t parent, const char *event, const char *members) {
    char *path = NULL, *line = NULL;
    ramet__writer *head = NULL;
    ramet_status st;
    int64_t number = 1;
    for (int64_t i = 0; i < s->n_versions; i++) number = RAMET__MAX(number, s->versions[i].number + 1);
    const char *digest = ramet_model_digest(model);
    if (!digest) return ramet__alloc_status();
    RAMET__NEW(path, ramet__store_path(s, "versions/%04lld.gguf", (long long)number));
    RAMET__GO(ramet_model_save(model, path, NULL, NULL));
    RAMET__NEW(line, ramet__format(s->rt->mem, "\"version\":%lld,\"parent\":%lld,\"digest\":\"%s\"%s%s", (long long)number, (long long)parent, digest, *members ? "," : "", members));
    RAMET__GO(prepare_head(&head, s, number));
    RAMET__GO(ramet__ledger_add(s, event, line));
    RAMET__GO(read_ledger(s));
    RAMET__GO(move_head(&head, s, number));
out:
    ramet__writer_drop(&head);
    ramet__free(line);
    ramet__free(path);
    return st;
}

ramet_status ramet_store_init(ramet_store **out, ramet_runtime *runtime, const char *folder, const ramet_model *model) {
    ramet_store *s = NULL;
    char *path = NULL;
    ramet_model *root = NULL;
    ramet_status st;
    if (!out || !folder || !model) return ramet__fail(RAMET_E_ARGUMENT, "ramet_store_init: out, folder and model must not be NULL");
    RAMET__TRY(ramet__runtime_check(runtime));
    RAMET__GO(store_new(&s, runtime, folder));
    static const char *const folders[] = {"versions", "briefs"};
    for (int32_t i = 0; i < RAMET__COUNT(folders); i++) {
        RAMET__NEW(path, ramet__store_path(s, "%s", folders[i]));
        RAMET__GO(ramet__dir_make(path));
        ramet__free(path);
        path = NULL;
    }
    RAMET__GO(take_lock(s));
    RAMET__NEW(path, ramet__store_path(s, "HEAD"));
    if (ramet__path_kind(path)) { st = ramet__fail(RAMET_E_STATE, "%s: is a store already; open it, or choose another folder", folder); goto out; }
    /* A parent stands at the root of its own family: whatever it was born of, its variants are its children. */
    RAMET__GO(ramet__model_derive(&root, model, &model->h, model->weights, model->n_weights, NULL));
    RAMET__GO(ramet__store_add_version(s, root, 0, "init", ""));
    ramet__store_unlock(s);
    *out = s;
    s = NULL;
out:
    ramet__free(path);
    ramet_model_free(root);
    ramet_store_free(s);
    return st;
}

/* What a killed process left; a write to the same file would remove it too, but the names of briefs do not come back. */
static ramet_status sweep(ramet_store *s) {
    static const char *const folders[] = {".", "versions", "briefs", "measured"};
    for (int32_t i = 0; i < RAMET__COUNT(folders); i++) {
        char *path = ramet__store_path(s, "%s", folders[i]);
        if (!path) return ramet__alloc_status();
        ramet__writer_sweep(path, NULL);
        ramet__free(path);
    }
    return RAMET_OK;
}

ramet_status ramet_store_open(ramet_store **out, ramet_runtime *runtime, const char *folder) {
    ramet_store *s = NULL;
    ramet_status st;
    if (!out || !folder) return ramet__fail(RAMET_E_ARGUMENT, "ramet_store_open: out and folder must not be NULL");
    RAMET__TRY(ramet__runtime_check(runtime));
    RAMET__GO(store_new(&s, runtime, folder));
    RAMET__GO(read_head(s)); /* before the lock, so that a wrong path does not grow a LOCK file */
    RAMET__GO(ramet__store_lock(s));
    RAMET__GO(sweep(s));
    ramet__store_unlock(s);
    *out = s;
    s = NULL;
out:
    ramet_store_free(s);
    return st;
}

ramet_status ramet_store_head(int64_t *version, ramet_model **model, ramet_store *s) {
    ramet_model *m = NULL;
    if (!s) return ramet__fail(RAMET_E_ARGUMENT, "ramet_store_head: store must not be NULL");
    RAMET__TRY(ramet__store_lock(s));
    ramet_status st = model ? ramet__store_model(&m, s) : RAMET_OK;
    ramet__store_unlock(s);
    if (st) return st;
    if (version) *version = s->head;
    if (model) *model = ramet_model_retain(m);
    return RAMET_OK;
}

ramet_status ramet_store_undo(int64_t *version, ramet_store *s) {
    char line[96];
    ramet__writer *head = NULL;
    ramet_status st = RAMET_OK;
    if (!s) return ramet__fail(RAMET_E_ARGUMENT, "ramet_store_undo: store must not be NULL");
    RAMET__TRY(ramet__store_lock(s));
    int64_t from = s->head, to = ramet__store_version(s, s->head)->parent;
    if (!to) { st = ramet__fail(RAMET_E_STATE, "%s: version %lld has no parent; there is nothing to undo", s->folder, (long long)from); goto out; }
    snprintf(line, sizeof line, "\"from\":%lld,\"to\":%lld", (long long)from, (long long)to);
    RAMET__GO(prepare_head(&head, s, to));
    RAMET__GO(ramet__ledger_add(s, "undo", line));
    RAMET__GO(move_head(&head, s, to));
    if (version) *version = to;
out:
    ramet__writer_drop(&head);
    ramet__store_unlock(s);
    return st;
}

ramet_status ramet_store_log(char **json, ramet_store *s) {
    char *path = NULL, *text = NULL;
    size_t size;
    ramet__text list;
    ramet_status st;
    if (!json || !s) return ramet__fail(RAMET_E_ARGUMENT, "ramet_store_log: json and store must not be NULL");
    RAMET__TRY(ramet__store_lock(s));
    list = (ramet__text){.mem = s->rt->mem};
    RAMET__NEW(path, ramet__store_path(s, "ledger.jsonl"));
    RAMET__GO(ramet__file_read_all(&text, &size, s->rt->mem, path, 0));
    ramet__text_add(&list, "[");
    for (size_t i = 0; i < size; i++)
        if (text[i] != '\n') ramet__text_bytes(&list, text + i, 1);
        else if (i + 1 < size) ramet__text_add(&list, ",");
    ramet__text_add(&list, "]");
    RAMET__GO(list.status);
    RAMET__NEW(*json, ramet__text_take(&list));
out:
    ramet__store_unlock(s);
    ramet__text_free(&list);
    ramet__free(text);
    ramet__free(path);
    return st;
}
