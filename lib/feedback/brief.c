/* SPDX-License-Identifier: Apache-2.0 */
/* brief.c - what a parent sends down: its version and digest, the method and settings of the round, a nonce, and the probe
 * inputs on which soft labels are wanted. A safetensors file; the store keeps a copy under the nonce. */
#include "base/rng.h"
#include "base/system.h"
#include "feedback/feedback.h"
#include "train/train.h"
#include <stdio.h>
#include <string.h>

void ramet_brief_options_init(ramet_brief_options *options, uint32_t struct_size) {
    ramet_brief_options o = {.struct_size = struct_size, .probe_windows = 64, .probe_window = 256};
    ramet__options_init(options, struct_size, &o, sizeof o);
}

void ramet__nonce(char text[33], const uint8_t bytes[16]) {
    for (int i = 0; i < 16; i++) snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

/* Windows spread over the whole probe text, each inside it, chosen by the seed. */
static ramet_status choose_probe(int32_t **ids, int64_t *windows, const ramet_brief_options *o, ramet_model *model) {
    ramet_dataset *d = NULL;
    ramet_status st;
    int32_t *out = NULL;
    RAMET__TRY(ramet_dataset_create(&d, model));
    for (int32_t i = 0; i < o->probe_count; i++) RAMET__GO(ramet_dataset_add_file(d, o->probe_paths[i]));
    int64_t whole = ramet_dataset_tokens(d) / o->probe_window;
    if (whole < 1) { st = ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: the probe text has %lld tokens, less than one window of %d", (long long)ramet_dataset_tokens(d), o->probe_window); goto out; }
    int64_t n = RAMET__MIN(whole, (int64_t)o->probe_windows);
    RAMET__NEW(out, ramet__calloc(model->rt->mem, (size_t)n * (size_t)o->probe_window, sizeof *out));
    for (int64_t i = 0; i < n; i++)
        memcpy(out + i * o->probe_window, d->ids + ramet__rng_permute(o->seed, 0, (uint64_t)i, (uint64_t)whole) * (uint64_t)o->probe_window, (size_t)o->probe_window * sizeof *out);
    *ids = out;
    *windows = n;
    out = NULL;
out:
    ramet__free(out);
    ramet_dataset_free(d);
    return st;
}

static ramet_status write_brief(ramet_store *s, const char *path, const ramet_brief_options *o, const char *nonce, const int32_t *ids, int64_t windows) {
    ramet__st_writer *w = NULL;
    char number[32];
    const ramet__version *v = ramet__store_version(s, s->head);
    ramet_status st;
    RAMET__GO(ramet__st_writer_open(&w, s->rt->mem, path));
    RAMET__GO(ramet__st_meta(w, "ramet.kind", "brief"));
    snprintf(number, sizeof number, "%lld", (long long)s->head);
    RAMET__GO(ramet__st_meta(w, "ramet.version", number));
    RAMET__GO(ramet__st_meta(w, "ramet.parent", v->digest));
    RAMET__GO(ramet__st_meta(w, "ramet.method", o->method ? o->method : "any"));
    RAMET__GO(ramet__st_meta(w, "ramet.nonce", nonce));
    if (windows) {
        int64_t dim[2] = {windows, o->probe_window};
        RAMET__GO(ramet__st_declare(w, "probe.text", RAMET__ST_I32, 2, dim));
        RAMET__GO(ramet__st_data(w, ids, (uint64_t)windows * (uint64_t)o->probe_window * sizeof *ids));
    }
    RAMET__GO(ramet__st_writer_commit(&w));
out:
    ramet__st_writer_drop(&w);
    return st;
}

ramet_status ramet_brief_create(ramet_store *store, const char *path, const ramet_brief_options *options) {
    ramet_brief_options o;
    uint8_t bytes[16];
    char nonce[33], *copy = NULL, *line = NULL;
    int32_t *ids = NULL;
    int64_t windows = 0;
    ramet_model *head;
    ramet_status st;
    if (!store || !path) return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: store and path must not be NULL");
    ramet_brief_options_init(&o, sizeof o);
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_brief_create"));
    if (o.method && !ramet__method_find(o.method)) return ramet__fail(RAMET_E_NOT_FOUND, "no method is named \"%s\"; the list \"methods\" has them", o.method);
    if (o.probe_count < 0 || (o.probe_count && !o.probe_paths)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: probe_count %d without probe_paths", o.probe_count);
    if (o.probe_windows < 1 || o.probe_window < 2) return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: probe_windows and probe_window must be at least 1 and 2");
    RAMET__TRY(ramet__store_lock(store));
    RAMET__GO(ramet__store_model(&head, store));
    if (o.probe_window > head->h.n_ctx) { st = ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: probe_window %d is over the model's context of %lld", o.probe_window, (long long)head->h.n_ctx); goto out; }
    if (o.probe_count) RAMET__GO(choose_probe(&ids, &windows, &o, head));
    RAMET__GO(ramet__entropy(bytes, sizeof bytes));
    ramet__nonce(nonce, bytes);
    RAMET__NEW(copy, ramet__store_path(store, "briefs/%s.safetensors", nonce));
    RAMET__GO(write_brief(store, copy, &o, nonce, ids, windows));
    RAMET__GO(write_brief(store, path, &o, nonce, ids, windows));
    RAMET__NEW(line, ramet__format(store->rt->mem, "\"version\":%lld,\"nonce\":\"%s\",\"probe_windows\":%lld", (long long)store->head, nonce, (long long)windows));
    RAMET__GO(ramet__ledger_add(store, "brief", line));
out:
    ramet__store_unlock(store);
    ramet__free(line);
    ramet__free(copy);
    ramet__free(ids);
    return st;
}
