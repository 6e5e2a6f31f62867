/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_gguf_write.c - a tokenizer as "tokenizer.*" keys of a GGUF file, for llama.cpp and for tokenizer_gguf.c. */
#include "tokenizer/vocabulary.h"
#include <stdio.h>
#include <string.h>

static ramet_status write_arrays(const ramet__tokenizer *t, ramet__gguf_writer *w) {
    ramet_status st = RAMET_OK;
    ramet__gguf_string *texts = NULL;
    int32_t *types = NULL;
    ramet__text joined = { .mem = t->mem };
    ramet__arena marks = { .mem = t->mem };
    int64_t n = RAMET__MAX(t->n, t->n_merges);
    RAMET__NEW(texts, ramet__calloc(t->mem, (size_t)n, sizeof(texts[0])));
    RAMET__NEW(types, ramet__calloc(t->mem, (size_t)t->n, sizeof(types[0])));
    for (int32_t i = 0; i < t->n; i++) {
        const ramet__token *token = &t->tokens[i];
        texts[i] = (ramet__gguf_string){ token->text, token->text_len };
        types[i] = t->types[i];
        if (t->split != RAMET__SPLIT_BERT || types[i] != RAMET__TOKEN_NORMAL) continue;
        if (token->bytes != token->text) { /* goes on: without its "##" */
            texts[i] = (ramet__gguf_string){ token->bytes, token->bytes_len };
            continue;
        }
        char *marked = ramet__arena_alloc(&marks, (size_t)token->text_len + 3);
        if (!marked) RAMET__GO(ramet__alloc_status());
        memcpy(marked, "\xe2\x96\x81", 3); /* U+2581 where a word begins */
        memcpy(marked + 3, token->text, token->text_len);
        texts[i] = (ramet__gguf_string){ marked, (uint64_t)token->text_len + 3 };
    }
    RAMET__GO(ramet__gguf_put_array(w, "tokenizer.ggml.tokens", RAMET__GGUF_STRING, (uint64_t)t->n, texts));
    RAMET__GO(ramet__gguf_put_array(w, "tokenizer.ggml.token_type", RAMET__GGUF_I32, (uint64_t)t->n, types));
    for (int32_t i = 0; i < t->n_merges; i++) { /* one text "a b\0c d\0...", which may move while it grows: pointers after */
        const ramet__token *left = &t->tokens[t->merges[i].left], *right = &t->tokens[t->merges[i].right];
        ramet__text_bytes(&joined, left->text, left->text_len);
        ramet__text_bytes(&joined, " ", 1);
        ramet__text_bytes(&joined, right->text, (size_t)right->text_len + 1);
        texts[i].len = (uint64_t)left->text_len + 1 + right->text_len;
    }
    RAMET__GO(joined.status);
    const char *at = joined.data;
    for (int32_t i = 0; i < t->n_merges; i++) {
        texts[i].text = at;
        at += texts[i].len + 1;
    }
    if (t->split != RAMET__SPLIT_BERT) RAMET__GO(ramet__gguf_put_array(w, "tokenizer.ggml.merges", RAMET__GGUF_STRING, (uint64_t)t->n_merges, texts));
out:
    ramet__arena_free(&marks);
    ramet__text_free(&joined);
    ramet__free(types);
    ramet__free(texts);
    return st;
}

ramet_status ramet__tokenizer_to_gguf(const ramet__tokenizer *t, ramet__gguf_writer *w) {
    const int32_t bert = t->split == RAMET__SPLIT_BERT;
    if (bert && !t->lowercase)
        return ramet__fail(RAMET_E_UNSUPPORTED, "tokenizer: a GGUF file cannot say that BERT's letters keep case and accents");
    RAMET__TRY(ramet__gguf_put_text(w, "tokenizer.ggml.model", bert ? "bert" : "gpt2", 4));
    RAMET__TRY(ramet__gguf_put_text(w, "tokenizer.ggml.pre", t->pre, strlen(t->pre)));
    RAMET__TRY(write_arrays(t, w));
    for (int32_t i = 0; i < RAMET__ROLES; i++) {
        char key[64];
        if (t->roles[i] < 0) continue;
        snprintf(key, sizeof(key), "tokenizer.ggml.%s_token_id", ramet__role_keys[i]);
        RAMET__TRY(ramet__gguf_put_u32(w, key, (uint32_t)t->roles[i]));
    }
    RAMET__TRY(ramet__gguf_put_bool(w, "tokenizer.ggml.add_bos_token", t->add_bos));
    if (t->add_eos) RAMET__TRY(ramet__gguf_put_bool(w, "tokenizer.ggml.add_eos_token", 1));
    if (t->emit_unknown) RAMET__TRY(ramet__gguf_put_bool(w, "ramet.tokenizer.emit_unknown", 1));
    if (t->chat_template) RAMET__TRY(ramet__gguf_put_text(w, "tokenizer.chat_template", t->chat_template, strlen(t->chat_template)));
    return RAMET_OK;
}
