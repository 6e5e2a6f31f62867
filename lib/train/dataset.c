/* SPDX-License-Identifier: Apache-2.0 */
/* dataset.c - documents as one stream of tokens with a flag "predict this" a token. Files of lines are read by jsonl.c. */
#include <string.h>
#include "train/train.h"

ramet_status ramet_dataset_create(ramet_dataset **out, ramet_model *model) {
    ramet_status st = RAMET_OK;
    ramet_dataset *d = NULL;
    if (!out) return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_create: out is NULL");
    if (!model) return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_create: model is NULL");
    RAMET__TRY(ramet__runtime_check(model->rt));
    RAMET__NEW(d, ramet__calloc(model->rt->mem, 1, sizeof *d));
    d->rt = ramet__runtime_retain(model->rt);
    d->model = ramet_model_retain(model);
    d->refs = 1;
    d->end = -1;
    if (model->tokenizer) { /* chat models end a turn with their eos; a text ends with <|endoftext|> where the vocabulary has it */
        d->end = ramet__tokenizer_find(model->tokenizer, "<|endoftext|>");
        if (d->end < 0) d->end = ramet__tokenizer_eos(model->tokenizer);
    }
    *out = d;
out:
    return st;
}

ramet_dataset *ramet__dataset_retain(ramet_dataset *d) {
    if (d) __atomic_add_fetch(&d->refs, 1, __ATOMIC_RELAXED);
    return d;
}

void ramet_dataset_free(ramet_dataset *d) {
    if (!d || __atomic_sub_fetch(&d->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
    ramet_runtime *rt = d->rt;
    ramet__free(d->ids);
    ramet__free(d->predict);
    ramet__free(d->docs);
    ramet__free(d->name);
    ramet_model_free(d->model);
    ramet__free(d);
    ramet_runtime_free(rt);
}

int64_t ramet_dataset_tokens(const ramet_dataset *d) { return d ? d->n : 0; }
int64_t ramet_dataset_documents(const ramet_dataset *d) { return d ? d->n_docs : 0; }
void ramet__dataset_seal(ramet_dataset *d) { __atomic_store_n(&d->sealed, 1, __ATOMIC_RELAXED); }

void ramet__dataset_cut(ramet_dataset *d, int64_t n, int64_t n_docs) {
    d->n = n;
    d->n_docs = n_docs;
}

void ramet__dataset_digest(char hex[65], const ramet_dataset *d) {
    ramet__sha256 s;
    ramet__sha256_init(&s);
    for (int64_t i = 0; i < d->n_docs; i++) ramet__sha256_add(&s, &d->docs[i].start, sizeof d->docs[i].start);
    if (d->pairs) ramet__sha256_add(&s, "pairs", 5);
    if (d->read) {
        ramet__sha256_add(&s, &d->n, sizeof d->n);
        ramet__sha256_add(&s, d->name, strlen(d->name));
    } else {
        ramet__sha256_add(&s, d->ids, (size_t)d->n * sizeof *d->ids);
        ramet__sha256_add(&s, d->predict, (size_t)d->n);
    }
    ramet__sha256_hex(&s, hex);
}

static ramet_status room(ramet_dataset *d, int64_t more) {
    if (more > INT32_MAX - d->n) return ramet__fail(RAMET_E_LIMIT, "dataset: more than %d tokens", INT32_MAX);
    RAMET__TRY(ramet__grow(d->rt->mem, &d->ids, &d->ids_cap, d->n + more, sizeof *d->ids));
    RAMET__TRY(ramet__grow(d->rt->mem, &d->predict, &d->predict_cap, d->n + more, sizeof *d->predict));
    return ramet__grow(d->rt->mem, &d->docs, &d->docs_cap, d->n_docs + 1, sizeof *d->docs);
}

static ramet_status check(const ramet_dataset *d, const char *function) {
    if (!d) return ramet__fail(RAMET_E_ARGUMENT, "%s: dataset is NULL", function);
    RAMET__TRY(ramet__runtime_check(d->rt));
    if (__atomic_load_n(&d->sealed, __ATOMIC_RELAXED))
        return ramet__fail(RAMET_E_STATE, "%s: the dataset is a host's source, or in use by a tuner or an evaluation; make another", function);
    return RAMET_OK;
}

static ramet_status check_text(const ramet_dataset *d, const char *function, int32_t pairs) {
    RAMET__TRY(check(d, function));
    if (d->n && d->pairs != pairs) return ramet__fail(RAMET_E_STATE, "%s: the dataset has %s; put the others into one of their own", function, pairs ? "documents" : "preferences");
    if (!d->model->tokenizer)
        return ramet__fail(RAMET_E_STATE, "%s: the model was loaded without a tokenizer; use ramet_dataset_add_ids", function);
    return RAMET_OK;
}

ramet_status ramet__dataset_add_pieces(ramet_dataset *d, const ramet__piece_text *piece, int32_t n, int32_t close) {
    const int64_t start = d->n;
    ramet_status st = RAMET_OK;
    for (int32_t i = 0; i < n; i++) {
        int64_t count = 0;
        const int32_t flags = (piece[i].special ? RAMET__TOKENIZE_SPECIAL : 0) | (d->n == start ? RAMET__TOKENIZE_BOS : 0);
        if (!piece[i].len) continue;
        if (piece[i].len > INT32_MAX / 2) { /* a token is at least one byte here, and room() counts them */
            st = ramet__fail(RAMET_E_LIMIT, "dataset: a text of %zu bytes; give it in parts", piece[i].len);
            goto out;
        }
        RAMET__GO(room(d, (int64_t)piece[i].len + 2));
        st = ramet__tokenizer_encode(&count, d->ids + d->n, d->ids_cap - d->n, d->model->tokenizer, piece[i].text, piece[i].len, flags);
        if (st == RAMET_E_LIMIT && count > d->ids_cap - d->n) { /* a normaliser may add */
            RAMET__GO(room(d, count));
            st = ramet__tokenizer_encode(&count, d->ids + d->n, d->ids_cap - d->n, d->model->tokenizer, piece[i].text, piece[i].len, flags);
        }
        if (st) goto out;
        RAMET__GO(room(d, count + 1));
        memset(d->predict + d->n, piece[i].predict ? 1 : 0, (size_t)count);
        d->n += count;
    }
    if (d->n == start) goto out;
    if (close && d->end >= 0) {
        RAMET__GO(room(d, 1));
        d->ids[d->n] = d->end;
        d->predict[d->n++] = 1;
    } else {
        close = 0;
    }
    d->docs[d->n_docs++] = (ramet__document){start, close};
out:
    if (st) d->n = start;
    return st;
}

ramet_status ramet_dataset_add_text(ramet_dataset *d, const char *text, size_t length) {
    RAMET__TRY(check_text(d, "ramet_dataset_add_text", 0));
    if (!text && length) return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_add_text: text is NULL");
    const ramet__piece_text piece = {text, length, 0, 1};
    return ramet__dataset_add_pieces(d, &piece, 1, 1);
}

ramet_status ramet_dataset_add_pair(ramet_dataset *d, const char *prompt, const char *chosen, const char *rejected) {
    ramet_status st = RAMET_OK;
    RAMET__TRY(check_text(d, "ramet_dataset_add_pair", 1));
    if (!prompt || !chosen || !rejected) return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_add_pair: %s is NULL", prompt ? "an answer" : "prompt");
    if (!*chosen || !*rejected) return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_add_pair: an answer is empty");
    const int64_t n = d->n, n_docs = d->n_docs;
    for (int32_t i = 0; i < 2 && !st; i++) {
        const char *answer = i ? rejected : chosen;
        const ramet__piece_text piece[2] = {{prompt, strlen(prompt), 0, 0}, {answer, strlen(answer), 0, 1}};
        st = ramet__dataset_add_pieces(d, piece, 2, 1);
    }
    d->pairs = 1;
    if (st) ramet__dataset_cut(d, n, n_docs);
    return st;
}

ramet_status ramet_dataset_add_ids(ramet_dataset *d, const int32_t *ids, const uint8_t *predict, int64_t count) {
    RAMET__TRY(check(d, "ramet_dataset_add_ids"));
    if (count < 0 || (count && !ids))
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_add_ids: %s", count < 0 ? "count is negative" : "ids is NULL");
    if (!count) return RAMET_OK;
    if (d->n && d->pairs) return ramet__fail(RAMET_E_STATE, "ramet_dataset_add_ids: the dataset has preferences; put documents into one of their own");
    d->pairs = 0;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= d->model->h.n_vocab)
            return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_add_ids: ids[%lld] is %d; the vocabulary has 0..%lld", (long long)i, ids[i],
                               (long long)d->model->h.n_vocab - 1);
    RAMET__TRY(room(d, count));
    memcpy(d->ids + d->n, ids, (size_t)count * sizeof *ids);
    for (int64_t i = 0; i < count; i++) d->predict[d->n + i] = predict ? predict[i] != 0 : 1;
    d->docs[d->n_docs++] = (ramet__document){d->n, 0};
    d->n += count;
    return RAMET_OK;
}

/* Whether text, read with control tokens allowed, gives other ids: then it spells one out, and is user text that must not become one. */
static ramet_status spells_control(int32_t *out, const ramet_dataset *d, const char *text, size_t len) {
    int64_t plain = 0, special = 0;
    ramet_status st = ramet__tokenizer_encode(&plain, NULL, 0, d->model->tokenizer, text, len, 0); /* E_LIMIT is the answer: counts only */
    if (st && st != RAMET_E_LIMIT) return st;
    st = ramet__tokenizer_encode(&special, NULL, 0, d->model->tokenizer, text, len, RAMET__TOKENIZE_SPECIAL);
    if (st && st != RAMET_E_LIMIT) return st;
    *out = plain != special;
    return RAMET_OK;
}

/* * A chat is its template's text cut where the flag changes: at the end of "<|im_start|>assistant\n" and at the end of each
 * turn. So a reply begins with a token of its own, exactly as when it is generated after the prompt. A content that spells out a
 * control token is a piece of its own that is read as plain text. */
ramet_status ramet_dataset_add_chat(ramet_dataset *d, int32_t count, const char *const *roles, const char *const *contents) {
    ramet_status st = RAMET_OK;
    char *whole = NULL, *part = NULL;
    ramet__piece_text *piece = NULL;
    int32_t n = 0;
    RAMET__TRY(check_text(d, "ramet_dataset_add_chat", 0));
    if (count <= 0 || !roles || !contents) return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_add_chat: no messages");
    for (int32_t i = 0; i < count; i++)
        if (!roles[i] || !contents[i])
            return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_add_chat: message %d lacks %s", i, roles[i] ? "content" : "role");
    ramet__mem *mem = d->rt->mem;
    RAMET__NEW(piece, ramet__calloc(mem, (size_t)count, 4 * sizeof *piece));
    RAMET__GO(ramet__chat_format(&whole, mem, d->model->tokenizer, count, roles, contents, 0));
    const size_t total = strlen(whole);
    size_t at = 0;
    for (int32_t i = 0; i < count; i++) {
        const int32_t reply = !strcmp(roles[i], "assistant");
        size_t body = at, end = total;
        if (reply) { /* where generation would begin */
            if (i) RAMET__GO(ramet__chat_format(&part, mem, d->model->tokenizer, i, roles, contents, 1));
            if (part) body = strlen(part);
            if (!part || body > total || body < at || memcmp(part, whole, body)) {
                st = ramet__fail(RAMET_E_UNSUPPORTED,
                                 "ramet_dataset_add_chat: message %d: the template does not give a reply's beginning as a prompt would", i);
                goto out;
            }
            ramet__free(part);
            part = NULL;
        }
        if (i + 1 < count) {
            RAMET__GO(ramet__chat_format(&part, mem, d->model->tokenizer, i + 1, roles, contents, 0));
            end = strlen(part);
            if (end > total || end < body || memcmp(part, whole, end)) {
                st = ramet__fail(RAMET_E_UNSUPPORTED, "ramet_dataset_add_chat: message %d: the template rewrites earlier turns", i);
                goto out;
            }
            ramet__free(part);
            part = NULL;
        }
        if (body > at) piece[n++] = (ramet__piece_text){whole + at, body - at, 1, 0};
        int32_t control = 0;
        const size_t len = strlen(contents[i]);
        const char *found = len ? strstr(whole + body, contents[i]) : NULL;
        RAMET__GO(spells_control(&control, d, contents[i], len));
        if (control && (!found || found + len > whole + end)) {
            st = ramet__fail(RAMET_E_UNSUPPORTED,
                             "ramet_dataset_add_chat: message %d spells out a control token and the template changes its text", i);
            goto out;
        }
        if (control) {
            const size_t from = (size_t)(found - whole);
            if (from > body) piece[n++] = (ramet__piece_text){whole + body, from - body, 1, reply};
            piece[n++] = (ramet__piece_text){whole + from, len, 0, reply};
            body = from + len;
        }
        if (end > body) piece[n++] = (ramet__piece_text){whole + body, end - body, 1, reply};
        at = end;
    }
    st = ramet__dataset_add_pieces(d, piece, n, 0);
out:
    ramet__free(whole);
    ramet__free(part);
    ramet__free(piece);
    return st;
}

ramet_status ramet_dataset_read(int32_t *ids, const ramet_dataset *dataset, int64_t from, int64_t count) {
    if (!dataset || (!ids && count)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_read: %s is NULL", dataset ? "ids" : "dataset");
    RAMET__TRY(ramet__runtime_check(dataset->rt));
    if (from < 0 || count < 0 || from > dataset->n || count > dataset->n - from)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_read: tokens %lld..%lld are outside 0..%lld", (long long)from,
                           (long long)(from + count), (long long)dataset->n);
    if (count && dataset->read) {
        uint8_t *predict = ramet__alloc(dataset->rt->mem, (size_t)count);
        const ramet_status st = predict ? ramet__source_read(ids, predict, dataset, from, count) : ramet__alloc_status();
        ramet__free(predict);
        return st;
    }
    if (count) memcpy(ids, dataset->ids + from, (size_t)count * sizeof *ids);
    return RAMET_OK;
}
