/* SPDX-License-Identifier: Apache-2.0 */
/* brief.c - what a parent sends down: its version and digest, the method and settings of the round, a nonce, and the probe
 * inputs on which soft labels are wanted. A safetensors file; the store keeps a copy under the nonce.
 *
 *   probe.text [windows,window]   ids
 *   probe.topic [windows]         whose: an index into the lines of the metadata "ramet.topics", -1: everybody's */
#include "base/rng.h"
#include "base/system.h"
#include "feedback/feedback.h"
#include "train/train.h"
#include <stdio.h>
#include <string.h>

void ramet_brief_options_init(ramet_brief_options *options, uint32_t struct_size) {
    ramet_brief_options o = {.struct_size = struct_size, .probe_windows = 64, .probe_window = 256, .topic_windows = 64};
    ramet__options_init(options, struct_size, &o, sizeof o);
}

void ramet__nonce(char text[33], const uint8_t bytes[16]) {
    for (int i = 0; i < 16; i++) snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

/* A topic is NAME, or NAME=ABOUT: what to write about, in words. */
static int name_length(const char *topic) { return (int)strcspn(topic, "="); }
static const char *about(const char *topic) {
    const char *is = strchr(topic, '=');
    return is ? is + 1 : topic;
}

typedef struct probe { int32_t *text, *topic; int64_t windows; } probe;

/* Windows spread over the whole probe text, each inside it, chosen by the seed; then what the parent writes about the topics. */
static ramet_status make_probe(probe *p, const ramet_brief_options *o, ramet_model *model) {
    ramet_dataset *d = NULL;
    ramet_status st = RAMET_OK;
    int64_t whole = 0, general = 0;
    if (o->probe_count) {
        RAMET__TRY(ramet_dataset_create(&d, model));
        for (int32_t i = 0; i < o->probe_count; i++) RAMET__GO(ramet_dataset_add_file(d, o->probe_paths[i]));
        whole = ramet_dataset_tokens(d) / o->probe_window;
        if (whole < 1) { st = ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: the probe text has %lld tokens, less than one window of %d", (long long)ramet_dataset_tokens(d), o->probe_window); goto out; }
        general = RAMET__MIN(whole, (int64_t)o->probe_windows);
    }
    p->windows = general + (int64_t)o->topic_count * o->topic_windows;
    if (!p->windows) goto out;
    RAMET__NEW(p->text, ramet__calloc(model->rt->mem, (size_t)p->windows * (size_t)o->probe_window, sizeof *p->text));
    RAMET__NEW(p->topic, ramet__calloc(model->rt->mem, (size_t)p->windows, sizeof *p->topic));
    for (int64_t w = 0; w < p->windows; w++) p->topic[w] = w < general ? -1 : (int32_t)((w - general) / o->topic_windows);
    for (int64_t w = 0; w < general; w++)
        memcpy(p->text + w * o->probe_window, d->ids + ramet__rng_permute(o->seed, 0, (uint64_t)w, (uint64_t)whole) * (uint64_t)o->probe_window, (size_t)o->probe_window * sizeof *d->ids);
    for (int32_t t = 0; t < o->topic_count; t++)
        RAMET__GO(ramet__write_topic(p->text + (general + (int64_t)t * o->topic_windows) * o->probe_window, model, about(o->topics[t]), o->topic_windows, o->probe_window, o->seed, o->progress, o->progress_user));
out:
    ramet_dataset_free(d);
    return st;
}

static ramet_status add_topics(ramet__st_writer *w, const ramet_brief_options *o, ramet__mem *mem) {
    ramet__text names = {.mem = mem};
    ramet_status st;
    for (int32_t t = 0; t < o->topic_count; t++) ramet__text_add(&names, "%s%.*s", t ? "\n" : "", name_length(o->topics[t]), o->topics[t]);
    st = names.status;
    if (!st) st = ramet__st_meta(w, "ramet.topics", names.data);
    ramet__text_free(&names);
    return st;
}

static ramet_status write_brief(ramet_store *s, const char *path, const ramet_brief_options *o, const char *nonce, const probe *p) {
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
    if (o->topic_count) RAMET__GO(add_topics(w, o, s->rt->mem));
    if (p->windows) {
        int64_t dim[2] = {p->windows, o->probe_window};
        RAMET__GO(ramet__st_declare(w, "probe.text", RAMET__ST_I32, 2, dim));
        RAMET__GO(ramet__st_declare(w, "probe.topic", RAMET__ST_I32, 1, dim));
        RAMET__GO(ramet__st_data(w, p->text, (uint64_t)p->windows * (uint64_t)o->probe_window * sizeof *p->text));
        RAMET__GO(ramet__st_data(w, p->topic, (uint64_t)p->windows * sizeof *p->topic));
    }
    RAMET__GO(ramet__st_writer_commit(&w));
out:
    ramet__st_writer_drop(&w);
    return st;
}

static ramet_status check_options(const ramet_brief_options *o) {
    if (o->method && !ramet__method_find(o->method)) return ramet__fail(RAMET_E_NOT_FOUND, "no method is named \"%s\"; the list \"methods\" has them", o->method);
    if (o->probe_count < 0 || (o->probe_count && !o->probe_paths)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: probe_count %d without probe_paths", o->probe_count);
    if (o->probe_windows < 1 || o->probe_window < 2) return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: probe_windows and probe_window must be at least 1 and 2");
    if (o->topic_count < 0 || (o->topic_count && !o->topics)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: topic_count %d without topics", o->topic_count);
    if (o->topic_windows < 1 || o->topic_windows > 4096 || o->topic_count > 256)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: %d topics of %d windows; at most 256 topics, of 1 to 4096 windows", o->topic_count, o->topic_windows);
    for (int32_t t = 0; t < o->topic_count; t++) {
        const char *topic = o->topics[t];
        const int n = topic ? name_length(topic) : 0;
        if (!n || !*about(topic) || strlen(topic) > 200 || strchr(topic, '\n'))
            return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: topic %d must be NAME or NAME=ABOUT, one line of at most 200 bytes", t);
        for (int32_t k = 0; k < t; k++)
            if (n == name_length(o->topics[k]) && !memcmp(topic, o->topics[k], (size_t)n)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: topic \"%.*s\" is given twice", n, topic);
    }
    return RAMET_OK;
}

ramet_status ramet_brief_create(ramet_store *store, const char *path, const ramet_brief_options *options) {
    ramet_brief_options o;
    uint8_t bytes[16];
    char nonce[33], *copy = NULL, *line = NULL;
    probe p = {0};
    ramet_model *head;
    ramet_status st;
    if (!store || !path) return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: store and path must not be NULL");
    ramet_brief_options_init(&o, sizeof o);
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_brief_create"));
    RAMET__TRY(check_options(&o));
    RAMET__TRY(ramet__store_lock(store));
    RAMET__GO(ramet__store_model(&head, store));
    if (o.probe_window > head->h.n_ctx) { st = ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: probe_window %d is over the model's context of %lld", o.probe_window, (long long)head->h.n_ctx); goto out; }
    RAMET__GO(make_probe(&p, &o, head));
    RAMET__GO(ramet__entropy(bytes, sizeof bytes));
    ramet__nonce(nonce, bytes);
    RAMET__NEW(copy, ramet__store_path(store, "briefs/%s.safetensors", nonce));
    RAMET__GO(write_brief(store, copy, &o, nonce, &p));
    RAMET__GO(write_brief(store, path, &o, nonce, &p));
    RAMET__NEW(line, ramet__format(store->rt->mem, "\"version\":%lld,\"nonce\":\"%s\",\"probe_windows\":%lld", (long long)store->head, nonce, (long long)p.windows));
    RAMET__GO(ramet__ledger_add(store, "brief", line));
out:
    ramet__store_unlock(store);
    ramet__free(line);
    ramet__free(copy);
    ramet__free(p.text);
    ramet__free(p.topic);
    return st;
}
