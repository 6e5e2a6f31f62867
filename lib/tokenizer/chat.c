/* SPDX-License-Identifier: Apache-2.0 */
/* chat.c - conversations in the form a model was trained on. A template is a Jinja program; instead of running it, a known form is
 * recognised by its text: ChatML, "<|im_start|>role\ncontent<|im_end|>\n" a message. */
#include "tokenizer/vocabulary.h"
#include <string.h>

#define TURN_START "<|im_start|>"
#define TURN_END "<|im_end|>"

static ramet_status recognise(const ramet__tokenizer *t) {
    const char *template = t->chat_template;
    if (!template) return ramet__fail(RAMET_E_UNSUPPORTED, "chat: the model has no chat template; write the prompt as plain text");
    if (!strstr(template, TURN_START) || !strstr(template, TURN_END))
        return ramet__fail(RAMET_E_UNSUPPORTED, "chat: the model's template is not ChatML (it begins \"%.40s\"); supported: chatml",
                           template);
    for (int32_t i = 0; i < 2; i++) {
        const char *name = i ? TURN_END : TURN_START;
        if (ramet__tokenizer_find(t, name) < 0)
            return ramet__fail(RAMET_E_INCONSISTENT, "chat: the template names %s, which is not in the vocabulary", name);
    }
    return RAMET_OK;
}

/* The system message that the template puts in front when the chat has none: the text of a string literal that holds a whole system
 * turn, '<|im_start|>system\n...<|im_end|>'. Appends it unescaped; *found says whether there is one. */
static ramet_status default_system(ramet__text *text, int32_t *found, const char *template) {
    static const char opening[] = TURN_START "system";
    *found = 0;
    for (const char *at = template; (at = strstr(at, opening)); at++) {
        const char *s = at + sizeof(opening) - 1, *end = strstr(s, TURN_END);
        if (!strncmp(s, "\\n", 2)) s += 2;
        else if (*s == '\n') s++;
        else continue;
        char quote = at > template && (at[-1] == '"' || at[-1] == '\'') ? at[-1] : 0;
        const char *p = s;
        while (end && p < end && *p != quote) p += *p == '\\' && p + 1 < end ? 2 : 1;
        if (!quote || !end || p != end) continue; /* the literal ends before its turn does: the content is the user's */
        for (p = s; p < end; p++) {
            char c = *p;
            if (c == '\\' && p + 1 < end) {
                c = *++p;
                c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
            }
            ramet__text_bytes(text, &c, 1);
        }
        *found = 1;
        break;
    }
    return text->status;
}

static void turn(ramet__text *text, const char *role, const char *content) {
    ramet__text_add(text, TURN_START "%s\n", role);
    ramet__text_bytes(text, content, strlen(content));
    ramet__text_add(text, TURN_END "\n");
}

static ramet_status check(const char *function, const ramet__tokenizer *t, int32_t n, const char *const *roles,
                          const char *const *contents) {
    if (n < 0 || (n && (!roles || !contents)))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: n is negative or roles or contents is NULL", function);
    for (int32_t i = 0; i < n; i++)
        if (!roles[i] || !contents[i])
            return ramet__fail(RAMET_E_ARGUMENT, "%s: role or content of message %d is NULL", function, i);
    return recognise(t);
}

ramet_status ramet__chat_format(char **text, ramet__mem *mem, const ramet__tokenizer *t, int32_t n, const char *const *roles,
                                const char *const *contents, int32_t add_generation_prompt) {
    ramet_status st = RAMET_OK;
    ramet__text out = { .mem = mem }, system = { .mem = mem };
    int32_t found = 0;
    char *whole = NULL;
    RAMET__TRY(check("chat format", t, n, roles, contents));
    if (n && strcmp(roles[0], "system")) RAMET__GO(default_system(&system, &found, t->chat_template));
    if (found) turn(&out, "system", system.data ? system.data : "");
    for (int32_t i = 0; i < n; i++) turn(&out, roles[i], contents[i]);
    if (add_generation_prompt) ramet__text_add(&out, TURN_START "assistant\n");
    ramet__text_bytes(&out, "", 0); /* an empty chat is an empty text */
    RAMET__GO(out.status);
    RAMET__NEW(whole, ramet__text_take(&out));
    *text = whole;
out:
    ramet__text_free(&system);
    ramet__text_free(&out);
    return st;
}

/* Appends the ids of `text`, without special tokens, then `end` if it is not negative. */
static ramet_status append(ramet__ids *out, const ramet__tokenizer *t, const char *text, size_t len, int32_t end) {
    int64_t n = 0, left = RAMET__MAX(out->cap - out->n, 0);
    ramet_status st = ramet__tokenizer_encode(&n, left ? out->ids + out->n : NULL, left, t, text, len, 0);
    if (st && !(st == RAMET_E_LIMIT && n > left)) return st;
    out->n += n;
    if (end < 0) return RAMET_OK;
    if (out->n < out->cap) out->ids[out->n] = end;
    out->n++;
    return RAMET_OK;
}

ramet_status ramet__chat_encode(int64_t *n_ids, int32_t *ids, int64_t cap, const ramet__tokenizer *t, int32_t n, const char *const *roles,
                                const char *const *contents, int32_t add_generation_prompt) {
    ramet_status st = RAMET_OK;
    ramet__text system = { .mem = t->mem }, body = { .mem = t->mem };
    ramet__ids out = { 0, cap, ids };
    int32_t found = 0;
    if (!n_ids || cap < 0 || (cap && !ids))
        return ramet__fail(RAMET_E_ARGUMENT, "chat encode: a pointer is NULL or the capacity negative");
    RAMET__TRY(check("chat encode", t, n, roles, contents));
    int32_t start = ramet__tokenizer_find(t, TURN_START), end = ramet__tokenizer_find(t, TURN_END);
    if (n && strcmp(roles[0], "system")) RAMET__GO(default_system(&system, &found, t->chat_template));
    for (int32_t i = -found; i < n + !!add_generation_prompt; i++) {
        const char *role = i < 0 ? "system" : i < n ? roles[i] : "assistant";
        const char *content = i < 0 ? system.data : i < n ? contents[i] : "";
        RAMET__GO(append(&out, t, "", 0, start));
        body.len = 0; /* role and content are one text between control ids, as in the formatted chat */
        ramet__text_bytes(&body, role, strlen(role));
        ramet__text_bytes(&body, "\n", 1);
        if (content) ramet__text_bytes(&body, content, strlen(content));
        RAMET__GO(body.status);
        RAMET__GO(append(&out, t, body.data, body.len, i < n ? end : -1));
        if (i < n) RAMET__GO(append(&out, t, "\n", 1, -1));
    }
    *n_ids = out.n;
    if (out.n > cap)
        st = ramet__fail(RAMET_E_LIMIT, "chat encode: the chat has %lld ids, the buffer takes %lld", (long long)out.n,
                         (long long)cap);
out:
    ramet__text_free(&body);
    ramet__text_free(&system);
    return st;
}
