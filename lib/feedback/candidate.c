/* SPDX-License-Identifier: Apache-2.0 */
/* candidate.c - the parent that would result, as a file and back, and its commit. A candidate that passed its gate waits in the
 * store as pending.gguf, so that the process that commits need not be the one that measured. */
#include "feedback/feedback.h"
#include <stdio.h>
#include <string.h>

#define KEY_RECORD "ramet.candidate.record"
#define KEY_BASE "ramet.candidate.base"

void ramet_candidate_free(ramet_candidate *c) {
    if (!c) return;
    ramet_runtime *rt = c->rt;
    ramet_model_free(c->model);
    ramet__free(c->record);
    ramet__free(c);
    ramet_runtime_free(rt);
}

static ramet__gguf_kv text_key(const char *key, const char *text) {
    return (ramet__gguf_kv){key, {.type = RAMET__GGUF_STRING, .count = 1, .v.s = {text, strlen(text)}}};
}

ramet_status ramet_candidate_save(const ramet_candidate *c, const char *path) {
    if (!c || !path) return ramet__fail(RAMET_E_ARGUMENT, "ramet_candidate_save: candidate and path must not be NULL");
    RAMET__TRY(ramet__runtime_check(c->rt));
    const ramet__gguf_kv extra[] = {text_key(KEY_RECORD, c->record), text_key(KEY_BASE, c->base_digest)};
    return ramet__model_save(c->model, path, extra, RAMET__COUNT(extra), NULL, NULL);
}

/* The base's version number in the store: the newest with that digest. */
static int64_t version_of(const ramet_store *s, const char *digest) {
    for (int64_t i = s->n_versions; i-- > 0;)
        if (!strcmp(s->versions[i].digest, digest)) return s->versions[i].number;
    return 0;
}

static ramet_status load(ramet_candidate **out, ramet_store *s, const char *path) {
    ramet_candidate *c = NULL;
    const char *record, *base;
    ramet_status st;
    RAMET__NEW(c, ramet__calloc(s->rt->mem, 1, sizeof *c));
    c->rt = ramet__runtime_retain(s->rt);
    RAMET__GO(ramet_model_load_path(&c->model, s->rt, path));
    if (!c->model->meta) { st = ramet__fail(RAMET_E_FORMAT, "%s: is not a candidate (ramet feed makes one)", path); goto out; }
    RAMET__GO(ramet__gguf_text(&record, c->model->meta, KEY_RECORD, NULL));
    RAMET__GO(ramet__gguf_text(&base, c->model->meta, KEY_BASE, NULL));
    if (!record || !base || strlen(base) != 64) { st = ramet__fail(RAMET_E_FORMAT, "%s: is a model, but not a candidate (ramet feed makes one)", path); goto out; }
    memcpy(c->base_digest, base, 65);
    if (!(c->base_version = version_of(s, base))) { st = ramet__fail(RAMET_E_INCONSISTENT, "%s: its base %.12s is not a version of store %s", path, base, s->folder); goto out; }
    RAMET__NEW(c->record, ramet__strdup(s->rt->mem, record));
    *out = c;
    return RAMET_OK;
out:
    ramet_candidate_free(c);
    return st;
}

ramet_status ramet_candidate_load(ramet_candidate **out, ramet_store *store, const char *path) {
    char *pending = NULL;
    ramet_status st;
    if (!out || !store) return ramet__fail(RAMET_E_ARGUMENT, "ramet_candidate_load: out and store must not be NULL");
    RAMET__TRY(ramet__store_lock(store));
    if (!path) {
        RAMET__NEW(pending, ramet__store_path(store, "pending.gguf"));
        if (!ramet__path_kind(pending)) { st = ramet__fail(RAMET_E_NOT_FOUND, "%s: no candidate waits that passed its gate (ramet gate)", store->folder); goto out; }
    }
    RAMET__GO(load(out, store, path ? path : pending));
    if (!path) (*out)->gated = 1;
out:
    ramet__store_unlock(store);
    ramet__free(pending);
    return st;
}

ramet_status ramet_candidate_model(ramet_model **out, const ramet_candidate *c) {
    if (!out || !c) return ramet__fail(RAMET_E_ARGUMENT, "ramet_candidate_model: out and candidate must not be NULL");
    RAMET__TRY(ramet__runtime_check(c->rt));
    *out = ramet_model_retain(c->model);
    return RAMET_OK;
}

ramet_status ramet_candidate_describe(char **json, const ramet_candidate *c) {
    if (!json || !c) return ramet__fail(RAMET_E_ARGUMENT, "ramet_candidate_describe: json and candidate must not be NULL");
    RAMET__TRY(ramet__runtime_check(c->rt));
    size_t n = strlen(c->record);
    char *text = ramet__format(c->rt->mem, "%.*s,\"base_digest\":\"%s\",\"verdict\":\"%s\"}", (int)(n - 1), c->record, c->base_digest,
                               c->gated > 0 ? "passed" : c->gated < 0 ? "failed" : "not measured");
    if (!text) return ramet__alloc_status();
    *json = text;
    return RAMET_OK;
}

ramet_status ramet__candidate_pend(ramet_store *s, const ramet_candidate *c) {
    char *pending = NULL;
    ramet_candidate *waiting = NULL;
    ramet_status st = RAMET_OK;
    RAMET__NEW(pending, ramet__store_path(s, "pending.gguf"));
    if (c->gated > 0) RAMET__GO(ramet_candidate_save(c, pending));
    else if (ramet__path_kind(pending) && !load(&waiting, s, pending)) { /* its earlier success does not outlive this failure */
        const char *old = ramet_model_digest(waiting->model), *new = ramet_model_digest(c->model);
        if (old && new && !strcmp(old, new) && !strcmp(waiting->base_digest, c->base_digest)) RAMET__GO(ramet__file_remove(pending));
    }
out:
    ramet_candidate_free(waiting);
    ramet__free(pending);
    return st;
}

ramet_status ramet_commit(int64_t *version, ramet_store *store, ramet_candidate *c) {
    char *members = NULL, *pending = NULL;
    ramet_status st;
    if (!store || !c) return ramet__fail(RAMET_E_ARGUMENT, "ramet_commit: store and candidate must not be NULL");
    if (!c->gated) return ramet__fail(RAMET_E_REFUSED, "the candidate has not been measured by a gate; do that first");
    if (c->gated < 0) return ramet__fail(RAMET_E_REFUSED, "the candidate failed its gate");
    RAMET__TRY(ramet__store_lock(store));
    if (strcmp(ramet__store_version(store, store->head)->digest, c->base_digest)) {
        st = ramet__fail(RAMET_E_REFUSED, "HEAD moved to version %lld since the candidate was made from version %lld; feed the updates again", (long long)store->head,
                         (long long)c->base_version);
        goto out;
    }
    RAMET__NEW(members, ramet__strndup(store->rt->mem, c->record + 1, strlen(c->record) - 2));
    RAMET__NEW(pending, ramet__store_path(store, "pending.gguf"));
    RAMET__GO(ramet__store_add_version(store, c->model, store->head, "commit", members));
    (void)ramet__file_remove(pending); /* where it is or stays: it is not made from this HEAD, so nobody can commit it again */
    if (version) *version = store->head;
out:
    ramet__store_unlock(store);
    ramet__free(members);
    ramet__free(pending);
    return st;
}
