/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_gguf.c - a tokenizer from a GGUF file's "tokenizer.*" keys. */
#include "tokenizer/vocabulary.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Names that llama.cpp gives to the two splits. Its "default" is a third one and is not guessed here. */
static const struct { const char *name; ramet__split split; } pre_names[] = {
    { "gpt-2", RAMET__SPLIT_GPT2 }, { "smollm", RAMET__SPLIT_DIGITS_GPT2 }, /* these two are what to_gguf writes for tokenizer.json */
    { "starcoder", RAMET__SPLIT_DIGITS_GPT2 }, { "refact", RAMET__SPLIT_DIGITS_GPT2 }, { "command-r", RAMET__SPLIT_DIGITS_GPT2 },
    { "codeshell", RAMET__SPLIT_DIGITS_GPT2 }, { "exaone", RAMET__SPLIT_DIGITS_GPT2 }, { "minerva-7b", RAMET__SPLIT_DIGITS_GPT2 },
    { "phi-2", RAMET__SPLIT_GPT2 }, { "gigachat", RAMET__SPLIT_GPT2 }, { "mpt", RAMET__SPLIT_GPT2 }, { "olmo", RAMET__SPLIT_GPT2 },
    { "jais", RAMET__SPLIT_GPT2 }, { "trillion", RAMET__SPLIT_GPT2 },
};

static ramet_status find_array(const ramet__gguf_value **out, const ramet__gguf *gguf, const char *key, ramet__gguf_type element) {
    const ramet__gguf_value *value = *out = ramet__gguf_find(gguf, key);
    if (value && (value->type != RAMET__GGUF_ARRAY || value->element != element))
        return ramet__fail(RAMET_E_FORMAT, "%s: it is not an array of %s", key,
            element == RAMET__GGUF_STRING ? "strings" : element == RAMET__GGUF_I32 ? "int32" : "float32");
    return RAMET_OK;
}

static ramet_status read_tokens(ramet__tokenizer *t, const ramet__gguf *gguf) {
    const ramet__gguf_value *tokens, *types, *scores;
    RAMET__TRY(find_array(&tokens, gguf, "tokenizer.ggml.tokens", RAMET__GGUF_STRING));
    RAMET__TRY(find_array(&types, gguf, "tokenizer.ggml.token_type", RAMET__GGUF_I32));
    RAMET__TRY(find_array(&scores, gguf, "tokenizer.ggml.scores", RAMET__GGUF_F32));
    if (!tokens || !tokens->count)
        return ramet__fail(RAMET_E_INCONSISTENT, "tokenizer.ggml.tokens: %s", tokens ? "it is empty" : "it is missing");
    if (tokens->count > RAMET__TOKENS_MAX)
        return ramet__fail(RAMET_E_LIMIT, "tokenizer.ggml.tokens: %llu tokens, at most %d", (unsigned long long)tokens->count,
                           RAMET__TOKENS_MAX);
    if (types && types->count != tokens->count)
        return ramet__fail(RAMET_E_INCONSISTENT, "tokenizer.ggml.token_type: %llu types for %llu tokens",
                           (unsigned long long)types->count, (unsigned long long)tokens->count);
    if (scores && scores->count != tokens->count)
        return ramet__fail(RAMET_E_INCONSISTENT, "tokenizer.ggml.scores: %llu scores for %llu tokens",
                           (unsigned long long)scores->count, (unsigned long long)tokens->count);
    t->n = (int32_t)tokens->count;
    t->tokens = ramet__arena_alloc(&t->arena, (size_t)t->n * sizeof(t->tokens[0]));
    t->types = ramet__arena_alloc(&t->arena, (size_t)t->n);
    if (!t->tokens || !t->types) return ramet__alloc_status();
    const ramet__gguf_string *texts = tokens->v.array;
    for (int32_t i = 0; i < t->n; i++) {
        int32_t type = RAMET__TOKEN_NORMAL;
        float score = 0;
        if (types) memcpy(&type, (const char *)types->v.array + (size_t)i * sizeof(type), sizeof(type));
        if (scores) memcpy(&score, (const char *)scores->v.array + (size_t)i * sizeof(score), sizeof(score));
        if (type < 0 || type > RAMET__TOKEN_BYTE)
            return ramet__fail(RAMET_E_FORMAT, "tokenizer.ggml.token_type: token %d has type %d; there are 1 to 6", i, type);
        if (isnan(score)) return ramet__fail(RAMET_E_INCONSISTENT, "tokenizer.ggml.scores: the score of token %d is not a number", i);
        if (texts[i].len > INT32_MAX)
            return ramet__fail(RAMET_E_LIMIT, "tokenizer.ggml.tokens: token %d has %llu bytes", i,
                               (unsigned long long)texts[i].len);
        t->tokens[i].text = texts[i].text;
        t->tokens[i].text_len = (uint32_t)texts[i].len;
        t->types[i] = (uint8_t)(type ? type : RAMET__TOKEN_NORMAL); /* 0: undefined */
    }
    return RAMET_OK;
}

/* A file of BERT marks where words begin (U+2581); the vocabulary itself where they go on ("##"). */
static ramet_status turn_marks(ramet__tokenizer *t) {
    for (int32_t i = 0; i < t->n; i++) {
        ramet__token *token = &t->tokens[i];
        if (t->types[i] != RAMET__TOKEN_NORMAL || !token->text_len) continue;
        if (token->text_len > 3 && !memcmp(token->text, "\xe2\x96\x81", 3)) {
            token->text += 3;
            token->text_len -= 3;
            continue;
        }
        char *text = ramet__arena_alloc(&t->arena, (size_t)token->text_len + 3);
        if (!text) return ramet__alloc_status();
        memcpy(text, "##", 2);
        memcpy(text + 2, token->text, token->text_len);
        token->text = text;
        token->text_len += 2;
    }
    return RAMET_OK;
}

static ramet_status read_merges(ramet__merge_text **out, int64_t *n, ramet__mem *mem, const ramet__gguf *gguf) {
    const ramet__gguf_value *value;
    RAMET__TRY(find_array(&value, gguf, "tokenizer.ggml.merges", RAMET__GGUF_STRING));
    if (!value) return ramet__fail(RAMET_E_INCONSISTENT, "tokenizer.ggml.merges: it is missing");
    if (value->count > RAMET__MERGES_MAX)
        return ramet__fail(RAMET_E_LIMIT, "tokenizer.ggml.merges: %llu merges, at most %d", (unsigned long long)value->count,
                           RAMET__MERGES_MAX);
    const ramet__gguf_string *texts = value->v.array;
    *n = (int64_t)value->count;
    ramet__merge_text *merges = *out = ramet__calloc(mem, (size_t)*n + 1, sizeof(merges[0]));
    if (!merges) return ramet__alloc_status();
    for (int64_t i = 0; i < *n; i++) {
        const char *space =
            texts[i].len > 2 && texts[i].len <= INT32_MAX ? memchr(texts[i].text + 1, ' ', (size_t)texts[i].len - 2) : NULL;
        if (!space)
            return ramet__fail(RAMET_E_INCONSISTENT, "tokenizer.ggml.merges: merge %lld is not two pieces with a space between",
                               (long long)i);
        uint32_t left = (uint32_t)(space - texts[i].text);
        merges[i] = (ramet__merge_text){ texts[i].text, space + 1, left, (uint32_t)texts[i].len - left - 1 };
    }
    return RAMET_OK;
}

static ramet_status read_flag(int32_t *out, const ramet__gguf *gguf, const char *key) {
    const ramet__gguf_value *value = ramet__gguf_find(gguf, key);
    if (value && value->type != RAMET__GGUF_BOOL) return ramet__fail(RAMET_E_FORMAT, "%s: it is not a bool", key);
    *out = value && value->v.u != 0;
    return RAMET_OK;
}

ramet_status ramet__tokenizer_from_gguf(ramet__tokenizer **out, ramet__mem *mem, const ramet__gguf *gguf) {
    ramet_status st = RAMET_OK;
    ramet__tokenizer *t = NULL;
    ramet__merge_text *merges = NULL;
    int64_t n_merges = 0;
    const char *model, *pre, *template;
    RAMET__TRY(ramet__gguf_text(&model, gguf, "tokenizer.ggml.model", NULL));
    if (!model) return ramet__fail(RAMET_E_NOT_FOUND, "tokenizer.ggml.model: the file has no tokenizer");
    const int32_t bert = !strcmp(model, "bert");
    if (strcmp(model, "gpt2") && !bert)
        return ramet__fail(RAMET_E_UNSUPPORTED,
                           "tokenizer.ggml.model: \"%.40s\" is not supported; supported: gpt2 (byte-level BPE), bert (WordPiece)", model);
    RAMET__TRY(ramet__gguf_text(&pre, gguf, "tokenizer.ggml.pre", "default"));
    RAMET__TRY(ramet__gguf_text(&template, gguf, "tokenizer.chat_template", NULL));
    RAMET__NEW(t, ramet__tokenizer_new(mem));
    for (int32_t i = 0; i < RAMET__COUNT(pre_names); i++) {
        if (strcmp(pre, pre_names[i].name)) continue;
        t->pre = pre_names[i].name;
        t->split = pre_names[i].split;
    }
    if (bert) {
        t->split = RAMET__SPLIT_BERT;
        t->pre = "bert";
        t->lowercase = 1;
    }
    if (!t->pre) {
        st = ramet__fail(
            RAMET_E_UNSUPPORTED,
            "tokenizer.ggml.pre: \"%.40s\" is not supported; supported are gpt-2, smollm and others that split like them", pre);
        goto out;
    }
    if (template) RAMET__NEW(t->chat_template, ramet__arena_strndup(&t->arena, template, strlen(template)));
    for (int32_t i = 0; i < RAMET__ROLES; i++) {
        char key[64];
        int64_t id;
        snprintf(key, sizeof(key), "tokenizer.ggml.%s_token_id", ramet__role_keys[i]);
        RAMET__GO(ramet__gguf_i64(&id, gguf, key, -1));
        if (ramet__gguf_find(gguf, key) && id == UINT32_MAX) id = -1; /* how some converters say none */
        if (id < -1 || id > INT32_MAX) {
            st = ramet__fail(RAMET_E_INCONSISTENT, "%s: %lld is not in the vocabulary", key, (long long)id);
            goto out;
        }
        t->roles[i] = (int32_t)id;
    }
    RAMET__GO(read_flag(&t->add_bos, gguf, "tokenizer.ggml.add_bos_token"));
    RAMET__GO(read_flag(&t->add_eos, gguf, "tokenizer.ggml.add_eos_token"));
    RAMET__GO(read_flag(&t->emit_unknown, gguf, "ramet.tokenizer.emit_unknown"));
    RAMET__GO(read_tokens(t, gguf));
    if (bert) RAMET__GO(turn_marks(t));
    else RAMET__GO(read_merges(&merges, &n_merges, mem, gguf));
    RAMET__GO(ramet__tokenizer_finish(t, merges, n_merges));
    *out = t;
    t = NULL;
out:
    ramet__free(merges);
    ramet__tokenizer_free(t);
    return st;
}
