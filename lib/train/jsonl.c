/* SPDX-License-Identifier: Apache-2.0 */
/* jsonl.c - a file as documents: JSON lines {"text"}, {"prompt","completion"}, {"messages":[{"role","content"}]} or
 * {"prompt","chosen","rejected"}, one plain text, or ids (tokens.c). All of a file is added or nothing. */
#include <string.h>
#include "format/json.h"
#include "train/train.h"

/* A member that must be a string; *found 0 when absent. A NUL inside would cut the text silently, so it is an error. */
static ramet_status text_member(const ramet__json **out, const ramet__json *object, const char *key) {
    const ramet__json *v = ramet__json_get(object, key);
    *out = v;
    if (!v) return RAMET_OK;
    if (v->type != RAMET__JSON_STRING) return ramet__fail(RAMET_E_FORMAT, "\"%s\" is not a string", key);
    return RAMET_OK;
}

static ramet_status add_messages(ramet_dataset *d, const ramet__json *messages, ramet__arena *arena) {
    if (messages->type != RAMET__JSON_ARRAY || !messages->len)
        return ramet__fail(RAMET_E_FORMAT, "\"messages\" is not a list of at least one message");
    if (messages->len > 100000) return ramet__fail(RAMET_E_LIMIT, "\"messages\" has %zu entries; at most 100000", messages->len);
    const char **roles = ramet__arena_alloc(arena, 2 * messages->len * sizeof *roles);
    if (!roles) return ramet__alloc_status();
    const char **contents = roles + messages->len;
    for (size_t i = 0; i < messages->len; i++) {
        const ramet__json *role, *content;
        RAMET__TRY(text_member(&role, &messages->items[i], "role"));
        RAMET__TRY(text_member(&content, &messages->items[i], "content"));
        if (!role || !content) return ramet__fail(RAMET_E_FORMAT, "message %zu lacks \"%s\"", i, role ? "content" : "role");
        if (strlen(role->text) != role->len || strlen(content->text) != content->len)
            return ramet__fail(RAMET_E_FORMAT, "message %zu holds a NUL character", i);
        roles[i] = role->text;
        contents[i] = content->text;
    }
    return ramet_dataset_add_chat(d, (int32_t)messages->len, roles, contents);
}

static ramet_status add_line(ramet_dataset *d, const char *line, size_t len) {
    ramet_status st = RAMET_OK;
    ramet__arena arena = {.mem = d->rt->mem};
    const ramet__json *root, *text, *prompt, *completion, *messages, *chosen, *rejected;
    RAMET__GO(ramet__json_parse(&root, &arena, line, len, NULL));
    if (root->type != RAMET__JSON_OBJECT) {
        st = ramet__fail(RAMET_E_FORMAT, "not a JSON object");
        goto out;
    }
    RAMET__GO(text_member(&text, root, "text"));
    RAMET__GO(text_member(&prompt, root, "prompt"));
    RAMET__GO(text_member(&completion, root, "completion"));
    RAMET__GO(text_member(&chosen, root, "chosen"));
    RAMET__GO(text_member(&rejected, root, "rejected"));
    messages = ramet__json_get(root, "messages");
    if (prompt && chosen && rejected && !text && !completion && !messages) {
        if (strlen(prompt->text) != prompt->len || strlen(chosen->text) != chosen->len || strlen(rejected->text) != rejected->len)
            st = ramet__fail(RAMET_E_FORMAT, "a preference holds a NUL character");
        else st = ramet_dataset_add_pair(d, prompt->text, chosen->text, rejected->text);
    } else if (chosen || rejected || d->pairs) {
        st = ramet__fail(RAMET_E_FORMAT, "a preference is \"prompt\", \"chosen\" and \"rejected\", and all lines are or none");
    } else if ((text != NULL) + (prompt || completion) + (messages != NULL) != 1 || !prompt != !completion) {
        st = ramet__fail(RAMET_E_FORMAT, "give exactly one of \"text\", \"prompt\" with \"completion\", or \"messages\"");
    } else if (text) {
        const ramet__piece_text piece = {text->text, text->len, 0, 1};
        st = ramet__dataset_add_pieces(d, &piece, 1, 1);
    } else if (prompt) {
        const ramet__piece_text piece[2] = {{prompt->text, prompt->len, 0, 0}, {completion->text, completion->len, 0, 1}};
        st = ramet__dataset_add_pieces(d, piece, 2, 1);
    } else {
        st = add_messages(d, messages, &arena);
    }
out:
    ramet__arena_free(&arena);
    return st;
}

static int32_t blank(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r') return 0;
    return 1;
}

ramet_status ramet_dataset_add_file(ramet_dataset *d, const char *path) {
    ramet_status st = RAMET_OK;
    char *data = NULL;
    size_t size = 0;
    if (!d || !path) return ramet__fail(RAMET_E_ARGUMENT, "ramet_dataset_add_file: %s is NULL", d ? "path" : "dataset");
    RAMET__TRY(ramet__runtime_check(d->rt));
    if (d->sealed)
        return ramet__fail(RAMET_E_STATE, "ramet_dataset_add_file: the dataset is a host's source, or in use by a tuner or an evaluation; make another");
    const int32_t tokens = ramet__is_token_file(path);
    if (!tokens && !d->model->tokenizer) return ramet__fail(RAMET_E_STATE, "ramet_dataset_add_file: the model was loaded without a tokenizer");
    const int64_t n = d->n, n_docs = d->n_docs;
    RAMET__TRY(ramet__file_read_all(&data, &size, d->rt->mem, path, 0));
    const size_t name = strlen(path);
    if (tokens) {
        st = ramet__dataset_add_tokens(d, path, data, size);
        if (st) st = ramet__prefix(st, "%s: ", path);
        goto out;
    }
    if (name < 6 || strcmp(path + name - 6, ".jsonl")) {
        st = ramet_dataset_add_text(d, data, size);
        if (st) st = ramet__prefix(st, "%s: ", path);
        goto out;
    }
    int64_t line = 1;
    for (size_t at = 0; at < size; line++) {
        const char *end = memchr(data + at, '\n', size - at);
        const size_t len = end ? (size_t)(end - data) - at : size - at;
        if (!blank(data + at, len) && (st = add_line(d, data + at, len)) != RAMET_OK) {
            st = ramet__prefix(st, "%s: line %lld: ", path, (long long)line);
            goto out;
        }
        at += len + 1;
    }
out:
    if (st) ramet__dataset_cut(d, n, n_docs);
    ramet__free(data);
    return st;
}
