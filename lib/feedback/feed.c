/* SPDX-License-Identifier: Apache-2.0 */
/* feed.c - the method table, and updates absorbed by one of its methods into a candidate. */
#include "feedback/feedback.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RAMET__METHOD(name) extern const ramet__method ramet__method_##name;
#include "methods.def"
#undef RAMET__METHOD
static const ramet__method *const methods[] = {
#define RAMET__METHOD(name) &ramet__method_##name,
#include "methods.def"
#undef RAMET__METHOD
};

/* An update of an older parent counts less with every commit since, and not at all after MAX_GAP. */
#define DISCOUNT .7
#define MAX_GAP 4

const ramet__method *ramet__method_find(const char *name) {
    for (int32_t i = 0; i < RAMET__COUNT(methods); i++)
        if (!strcmp(methods[i]->name, name)) return methods[i];
    return NULL;
}

int32_t ramet__method_list(int32_t i, const char **name, const char **detail) {
    if (i < 0 || i >= RAMET__COUNT(methods)) return 0;
    *name = methods[i]->name;
    *detail = methods[i]->summary;
    return 1;
}

void ramet_feed_options_init(ramet_feed_options *options, uint32_t struct_size) {
    ramet_feed_options o = {.struct_size = struct_size};
    ramet__options_init(options, struct_size, &o, sizeof o);
}

/* "density=.5,scale=1.2" over the method's table. */
static ramet_status parse_options(double *value, const ramet__method *m, const char *text) {
    for (int32_t i = 0; i < m->n_options; i++) value[i] = m->options[i].fallback;
    for (const char *p = text; p && *p;) {
        const char *eq = strchr(p, '='), *comma = strchr(p, ',');
        const ramet__option *o = NULL;
        if (!eq || (comma && eq > comma)) return ramet__fail(RAMET_E_ARGUMENT, "options \"%s\": expected name=number,...", text);
        for (int32_t i = 0; i < m->n_options; i++)
            if (strlen(m->options[i].name) == (size_t)(eq - p) && !strncmp(m->options[i].name, p, (size_t)(eq - p))) o = &m->options[i];
        if (!o) return ramet__fail(RAMET_E_ARGUMENT, "method %s has no option \"%.*s\"%s%s", m->name, (int)(eq - p), p, m->n_options ? "; it has " : "", m->n_options ? m->options[0].name : "");
        char *end;
        double v = ramet__number(eq + 1, &end);
        if (end == eq + 1 || (*end && *end != ',')) return ramet__fail(RAMET_E_ARGUMENT, "option %s of method %s needs a number", o->name, m->name);
        if (!(v >= o->min && v <= o->max)) return ramet__fail(RAMET_E_ARGUMENT, "option %s of method %s is %g, outside %g..%g", o->name, m->name, v, o->min, o->max);
        value[o - m->options] = v;
        p = *end ? end + 1 : end;
    }
    return RAMET_OK;
}

static ramet_status note_refusal(ramet_store *s, const ramet__method *m, const char *path, const char *digest) {
    ramet__text line = {.mem = s->rt->mem};
    const char *why = ramet_last_error();
    ramet__text_add(&line, "\"method\":\"%s\",\"update\":\"%s\",\"file\":", m->name, digest);
    ramet__json_quote(&line, path, strlen(path));
    ramet__text_add(&line, ",\"why\":");
    ramet__json_quote(&line, why, strlen(why));
    ramet_status st = line.status ? line.status : ramet__ledger_add(s, "refuse", line.data);
    ramet__text_free(&line);
    return st;
}

/* Open, check, and ask the method. A refusal goes into the ledger and leaves the update out; anything else ends the feed. */
static ramet_status take(ramet__feed *f, const ramet__method *m, const char *path, double weight, int32_t *refused) {
    ramet__update *u = &f->updates[f->n];
    ramet_status st = ramet__update_open(u, f->store, path);
    int32_t opened = !st;
    for (int32_t i = 0; !st && i < f->n; i++)
        if (!strcmp(f->updates[i].nonce, u->nonce)) st = ramet__fail(RAMET_E_REFUSED, "%s: refused: it is given twice", path);
    if (!st && (m->needs & ~u->what))
        st = ramet__fail(RAMET_E_REFUSED, "%s: refused: method %s needs %s, which it does not carry", path, m->name, m->needs & RAMET_UPDATE_LOGITS ? "soft labels (logits)" : "weight differences (delta)");
    if (!st && u->gap > MAX_GAP) st = ramet__fail(RAMET_E_REFUSED, "%s: refused: its parent is %d commits old, the limit is %d", path, u->gap, MAX_GAP);
    if (!st && m->accept) st = m->accept(f, u);
    if (!st) {
        u->weight = (isfinite(weight) ? weight : m->weight ? m->weight(f, u) : 1) * pow(DISCOUNT, u->gap);
        f->n++;
        return RAMET_OK;
    }
    if (st == RAMET_E_REFUSED || st == RAMET_E_FORMAT || st == RAMET_E_INCONSISTENT) { /* bad files from outside do not stop the others */
        ramet_status noted = note_refusal(f->store, m, path, opened ? u->digest : "");
        (*refused)++;
        if (opened) ramet__update_close(u);
        return noted ? noted : st;
    }
    if (opened) ramet__update_close(u);
    return st;
}

static ramet_status make_record(char **record, char **ledger, const ramet__feed *f, const ramet__method *m, const ramet_model *result) {
    ramet__mem *mem = f->store->rt->mem;
    ramet__text r = {.mem = mem};
    int64_t bytes, parent_bytes;
    RAMET__TRY(ramet_model_number(&bytes, result, "bytes"));
    RAMET__TRY(ramet_model_number(&parent_bytes, f->parent, "bytes"));
    ramet__text_add(&r, "\"method\":\"%s\",\"options\":{", m->name);
    for (int32_t i = 0; i < m->n_options; i++) {
        ramet__text_add(&r, "%s\"%s\"", i ? "," : "", m->options[i].name);
        ramet__text_float(&r, ":", 6, f->option[i]);
    }
    ramet__text_add(&r, "},\"base_version\":%lld,\"updates\":[", (long long)f->store->head);
    for (int32_t i = 0; i < f->n; i++) {
        const ramet__update *u = &f->updates[i];
        ramet__text_add(&r, "%s{\"digest\":\"%s\",\"task\":", i ? "," : "", u->digest);
        ramet__json_quote(&r, u->task, strlen(u->task));
        ramet__text_add(&r, ",\"examples\":%lld", (long long)u->examples);
        ramet__text_float(&r, ",\"loss_before\":", 6, u->loss_before);
        ramet__text_float(&r, ",\"loss_after\":", 6, u->loss_after);
        ramet__text_float(&r, ",\"weight\":", 6, u->weight);
        ramet__text_add(&r, ",\"commits_old\":%d", u->gap);
        ramet__text_float(&r, ",\"norm\":", 6, u->norm);
        ramet__text_add(&r, "}");
    }
    ramet__text_add(&r, "],\"nonces\":[");
    for (int32_t i = 0; i < f->n; i++) {
        ramet__text_add(&r, "%s", i ? "," : "");
        ramet__json_quote(&r, f->updates[i].nonce, strlen(f->updates[i].nonce));
    }
    ramet__text_add(&r, "],\"changed_weights\":%lld", (long long)f->changed);
    ramet__text_float(&r, ",\"change_norm\":", 6, f->change);
    ramet__text_float(&r, ",\"rounding_norm\":", 6, f->rounding);
    ramet__text_add(&r, ",\"bytes\":%lld,\"parent_bytes\":%lld", (long long)bytes, (long long)parent_bytes);
    ramet_status st = r.status;
    if (!st && !(*ledger = ramet__strdup(mem, r.data))) st = ramet__alloc_status();
    if (!st && !(*record = ramet__format(mem, "{%s}", r.data))) st = ramet__alloc_status();
    ramet__text_free(&r);
    return st;
}

ramet_status ramet_feed(ramet_candidate **out, ramet_store *store, const char *method, const char *const *update_paths, int32_t count, const ramet_feed_options *options) {
    ramet_feed_options o;
    ramet__feed f = {.store = store, .encoding = -1};
    ramet_candidate *c = NULL;
    char *ledger = NULL;
    int32_t refused = 0;
    ramet_status st;
    if (!out || !store || !method || !update_paths || count < 1) return ramet__fail(RAMET_E_ARGUMENT, "ramet_feed: out, store, method and at least one update are needed");
    if (count > RAMET__MAX_UPDATES) return ramet__fail(RAMET_E_LIMIT, "ramet_feed: %d updates at once, at most %d", count, RAMET__MAX_UPDATES);
    ramet_feed_options_init(&o, sizeof o);
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_feed"));
    const ramet__method *m = ramet__method_find(method);
    if (!m) return ramet__fail(RAMET_E_NOT_FOUND, "no method is named \"%s\"; the list \"methods\" has them", method);
    RAMET__TRY(parse_options(f.option, m, o.options));
    if (o.encoding && strcmp(o.encoding, "auto")) {
        ramet__enc enc;
        RAMET__TRY(ramet__encoding_named(&enc, o.encoding, "encoding (\"auto\" chooses)"));
        f.encoding = (int32_t)enc;
    }
    if (o.weights && o.weights_count != count) return ramet__fail(RAMET_E_ARGUMENT, "ramet_feed: %d weights for %d updates", o.weights_count, count);
    for (int32_t i = 0; o.weights && i < count; i++)
        if (!(o.weights[i] >= 0 && o.weights[i] <= 1e6f)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_feed: weight %d is %g, outside 0..1e6", i, (double)o.weights[i]);
    f.progress = o.progress;
    f.progress_user = o.progress_user;
    RAMET__TRY(ramet__store_lock(store));
    RAMET__GO(ramet__store_model(&f.parent, store));
    RAMET__NEW(f.updates, ramet__calloc(store->rt->mem, (size_t)count, sizeof *f.updates));
    for (int32_t i = 0; i < count; i++) {
        int32_t before = refused;
        st = take(&f, m, update_paths[i], o.weights ? (double)o.weights[i] : (double)NAN, &refused);
        if (st && refused == before) goto out;
    }
    if (!f.n) { /* the message of the last refusal stands */
        st = RAMET_E_REFUSED;
        goto out;
    }
    RAMET__NEW(c, ramet__calloc(store->rt->mem, 1, sizeof *c));
    c->rt = ramet__runtime_retain(store->rt);
    RAMET__GO(m->step(&c->model, &f));
    c->base_version = store->head;
    memcpy(c->base_digest, ramet__store_version(store, store->head)->digest, 65);
    RAMET__GO(make_record(&c->record, &ledger, &f, m, c->model));
    RAMET__GO(ramet__ledger_add(store, "absorb", ledger));
    *out = c;
    c = NULL;
out:
    ramet__store_unlock(store);
    for (int32_t i = 0; i < f.n; i++) ramet__update_close(&f.updates[i]);
    ramet__free(f.updates);
    ramet__free(ledger);
    ramet_candidate_free(c);
    return st;
}
