/* SPDX-License-Identifier: Apache-2.0 */
/* text.c - the model's tokenizer as public functions. */
#include "model/internal.h"
#include <string.h>

static ramet_status check(const ramet_model *m, const char *function) {
    if (!m) return ramet__fail(RAMET_E_ARGUMENT, "%s: model is NULL", function);
    RAMET__TRY(ramet__runtime_check(m->rt));
    if (!m->tokenizer) return ramet__fail(RAMET_E_STATE, "%s: %s was loaded without a tokenizer", function, m->name);
    return RAMET_OK;
}

ramet_status ramet_tokenize(int64_t *count, int32_t *ids, int64_t capacity, const ramet_model *model, const char *text, size_t length, int32_t flags) {
    RAMET__TRY(check(model, "ramet_tokenize"));
    if (!count || (!text && length) || capacity < 0 || (!ids && capacity))
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_tokenize: %s", !count ? "count is NULL" : !text ? "text is NULL" : capacity < 0 ? "capacity is negative" : "ids is NULL");
    if (flags & ~(RAMET_TOKENIZE_SPECIAL | RAMET_TOKENIZE_BOS)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_tokenize: flags %d has unknown bits", flags);
    int32_t inner = (flags & RAMET_TOKENIZE_SPECIAL ? RAMET__TOKENIZE_SPECIAL : 0) | (flags & RAMET_TOKENIZE_BOS ? RAMET__TOKENIZE_BOS : 0);
    ramet_status st = ramet__tokenizer_encode(count, ids, capacity, model->tokenizer, text ? text : "", length, inner);
    return st == RAMET_E_LIMIT && !ids ? RAMET_OK : st; /* only the count was asked for */
}

ramet_status ramet_detokenize(size_t *length, char *text, size_t capacity, const ramet_model *model, const int32_t *ids, int64_t count, int32_t special) {
    RAMET__TRY(check(model, "ramet_detokenize"));
    if (!length || (!ids && count) || count < 0 || (!text && capacity))
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_detokenize: %s", !length ? "length is NULL" : count < 0 ? "count is negative" : !ids && count ? "ids is NULL" : "text is NULL");
    size_t total = 0;
    for (int32_t pass = 0; pass < 2; pass++) { /* measure, then write: nothing is written when it does not fit */
        size_t at = 0;
        for (int64_t i = 0; i < count; i++) {
            const char *bytes;
            size_t n;
            RAMET__TRY(ramet__tokenizer_piece(&bytes, &n, model->tokenizer, ids[i], special));
            if (pass) memcpy(text + at, bytes, n);
            at += n;
        }
        total = at;
        if (!pass && (!text || total + 1 > capacity)) {
            *length = total;
            return text ? ramet__fail(RAMET_E_LIMIT, "ramet_detokenize: the text needs %zu bytes with its NUL, capacity is %zu", total + 1, capacity) : RAMET_OK;
        }
    }
    text[total] = 0;
    *length = total;
    return RAMET_OK;
}

static ramet_status check_chat(const char *function, const ramet_model *model, int32_t count, const char *const *roles, const char *const *contents) {
    RAMET__TRY(check(model, function));
    if (count < 0 || (count && (!roles || !contents)))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: %s", function, count < 0 ? "count is negative" : !roles ? "roles is NULL" : "contents is NULL");
    for (int32_t i = 0; i < count; i++)
        if (!roles[i] || !contents[i]) return ramet__fail(RAMET_E_ARGUMENT, "%s: message %d has no %s", function, i, roles[i] ? "content" : "role");
    return RAMET_OK;
}

ramet_status ramet_chat_format(char **text, const ramet_model *model, int32_t count, const char *const *roles, const char *const *contents, int32_t open_reply) {
    RAMET__TRY(check_chat("ramet_chat_format", model, count, roles, contents));
    if (!text) return ramet__fail(RAMET_E_ARGUMENT, "ramet_chat_format: text is NULL");
    return ramet__chat_format(text, model->rt->mem, model->tokenizer, count, roles, contents, open_reply);
}

ramet_status ramet_chat_tokenize(int64_t *n, int32_t *ids, int64_t capacity, const ramet_model *model, int32_t count, const char *const *roles, const char *const *contents, int32_t open_reply) {
    RAMET__TRY(check_chat("ramet_chat_tokenize", model, count, roles, contents));
    if (!n || capacity < 0 || (!ids && capacity)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_chat_tokenize: %s", !n ? "n is NULL" : capacity < 0 ? "capacity is negative" : "ids is NULL");
    ramet_status st = ramet__chat_encode(n, ids, capacity, model->tokenizer, count, roles, contents, open_reply);
    return st == RAMET_E_LIMIT && !ids ? RAMET_OK : st; /* only the count was asked for */
}

int32_t ramet_token_is_end(const ramet_model *model, int32_t id) { return model && model->tokenizer && ramet__tokenizer_is_end(model->tokenizer, id); }
