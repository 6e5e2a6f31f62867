/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_json.c - a tokenizer from Hugging Face's tokenizer.json (and tokenizer_config.json). What would change ids and is
 * not known here is refused by name. Truncation and padding are settings of a call there and are not read. */
#include "tokenizer/vocabulary.h"
#include "format/json.h"
#include <stdio.h>
#include <string.h>

static ramet_status wrong(const ramet__json *value, const char *what) {
    return ramet__fail(RAMET_E_FORMAT, "tokenizer.json: %s (at byte %llu)", what, value ? (unsigned long long)value->offset : 0ull);
}

static ramet_status unsupported(const ramet__json *value, const char *what, const char *name) {
    return ramet__fail(RAMET_E_UNSUPPORTED, "tokenizer.json: %s \"%.60s\" is not supported (at byte %llu)", what, name,
                       value ? (unsigned long long)value->offset : 0ull);
}

static int32_t is_type(const ramet__json *value, ramet__json_type type) { return value && value->type == type; }
static int32_t is_set(const ramet__json *value) { return value && value->type != RAMET__JSON_NULL; }

static ramet_status get_flag(int32_t *out, const ramet__json *object, const char *key, int32_t fallback) {
    const ramet__json *value = ramet__json_get(object, key);
    if (is_set(value) && value->type != RAMET__JSON_BOOL)
        return ramet__fail(RAMET_E_FORMAT, "tokenizer.json: \"%s\" is not true or false (at byte %llu)", key,
                           (unsigned long long)value->offset);
    *out = is_set(value) ? value->integer != 0 : fallback;
    return RAMET_OK;
}

/* Refuse when a flag is not as this library has it. */
static ramet_status need_flag(const ramet__json *object, const char *key, int32_t fallback, int32_t needed) {
    int32_t flag = needed;
    RAMET__TRY(get_flag(&flag, object, key, fallback));
    return flag == needed ? RAMET_OK : unsupported(object, needed ? "false as" : "true as", key);
}

static ramet_status get_id(int32_t *out, const ramet__json *value) {
    if (!is_type(value, RAMET__JSON_NUMBER) || !value->is_integer || value->integer < 0)
        return wrong(value, "a token's id is not a whole number from 0 on");
    if (value->integer >= RAMET__TOKENS_MAX)
        return ramet__fail(RAMET_E_LIMIT, "tokenizer.json: token id %lld, at most %d (at byte %llu)", (long long)value->integer,
                           RAMET__TOKENS_MAX - 1, (unsigned long long)value->offset);
    *out = (int32_t)value->integer;
    return RAMET_OK;
}

/* ---- vocabulary ------------------------------------------------------------------------------------------------ */

static ramet_status set_token(ramet__tokenizer *t, int32_t id, const char *text, size_t len, ramet__token_type type,
                              const ramet__json *where) {
    ramet__token *token = &t->tokens[id];
    if (token->text && (token->text_len != len || memcmp(token->text, text, len)))
        return ramet__fail(RAMET_E_INCONSISTENT, "tokenizer.json: id %d is both \"%.40s\" and \"%.40s\" (at byte %llu)", id,
                           token->text, text, (unsigned long long)where->offset);
    if (len > INT32_MAX) return wrong(where, "a token is too long");
    token->text = text;
    token->text_len = (uint32_t)len;
    t->types[id] = (uint8_t)type;
    return RAMET_OK;
}

static ramet_status read_added(ramet__tokenizer *t, const ramet__json *added) {
    for (size_t i = 0; added && i < added->len; i++) {
        static const char *const flags[] = { "lstrip", "rstrip", "single_word" };
        const ramet__json *item = &added->items[i], *content = ramet__json_get(item, "content");
        int32_t id = 0, special = 0;
        RAMET__TRY(get_id(&id, ramet__json_get(item, "id")));
        if (!is_type(content, RAMET__JSON_STRING)) return wrong(item, "an added token has no content");
        RAMET__TRY(get_flag(&special, item, "special", 0));
        for (int32_t k = 0; k < 3; k++) RAMET__TRY(need_flag(item, flags[k], 0, 0));
        RAMET__TRY(set_token(t, id, content->text, content->len, special ? RAMET__TOKEN_CONTROL : RAMET__TOKEN_USER, content));
    }
    return RAMET_OK;
}

static ramet_status read_vocabulary(ramet__tokenizer *t, const ramet__json *vocab, const ramet__json *added) {
    if (!is_type(vocab, RAMET__JSON_OBJECT)) return wrong(vocab, "model.vocab is not an object");
    if (!vocab->len)
        return ramet__fail(RAMET_E_INCONSISTENT, "tokenizer.json: model.vocab is empty (at byte %llu)",
                           (unsigned long long)vocab->offset);
    if (is_set(added) && added->type != RAMET__JSON_ARRAY) return wrong(added, "added_tokens is not an array");
    if (!is_set(added)) added = NULL;
    int32_t id = 0, last = 0;
    for (size_t i = 0; i < vocab->len; i++) {
        RAMET__TRY(get_id(&id, &vocab->items[i]));
        last = RAMET__MAX(last, id);
    }
    for (size_t i = 0; added && i < added->len; i++) {
        RAMET__TRY(get_id(&id, ramet__json_get(&added->items[i], "id")));
        last = RAMET__MAX(last, id);
    }
    uint64_t known = vocab->len + (added ? added->len : 0);
    if ((uint64_t)last > 2 * known + 65536) /* gaps are fine, but memory follows what the file holds */
        return ramet__fail(RAMET_E_LIMIT, "tokenizer.json: token id %d in a vocabulary of %llu tokens", last, (unsigned long long)known);
    t->n = last + 1;
    t->tokens = ramet__arena_alloc(&t->arena, (size_t)t->n * sizeof(t->tokens[0]));
    t->types = ramet__arena_alloc(&t->arena, (size_t)t->n);
    if (!t->tokens || !t->types) return ramet__alloc_status();
    for (size_t i = 0; i < vocab->len; i++) {
        id = (int32_t)vocab->items[i].integer;
        RAMET__TRY(set_token(t, id, vocab->keys[i], strlen(vocab->keys[i]), RAMET__TOKEN_NORMAL, &vocab->items[i]));
    }
    RAMET__TRY(read_added(t, added));
    for (int32_t i = 0; i < t->n; i++) { /* a gap is a token that never occurs, written as converters to GGUF do */
        if (t->tokens[i].text) continue;
        char name[32];
        int n = snprintf(name, sizeof(name), "[PAD%d]", i);
        char *text = ramet__arena_strndup(&t->arena, name, (size_t)n);
        if (!text) return ramet__alloc_status();
        t->tokens[i] = (ramet__token){ text, text, (uint32_t)n, (uint32_t)n };
        t->types[i] = RAMET__TOKEN_UNUSED;
    }
    return RAMET_OK;
}

static ramet_status read_merges(ramet__merge_text **out, int64_t *n, ramet__mem *mem, const ramet__json *list) {
    if (!is_type(list, RAMET__JSON_ARRAY)) return wrong(list, "model.merges is not an array");
    if (list->len > RAMET__MERGES_MAX)
        return ramet__fail(RAMET_E_LIMIT, "tokenizer.json: %llu merges, at most %d", (unsigned long long)list->len,
                           RAMET__MERGES_MAX);
    ramet__merge_text *merges = *out = ramet__calloc(mem, list->len + 1, sizeof(merges[0]));
    if (!merges) return ramet__alloc_status();
    *n = (int64_t)list->len;
    for (size_t i = 0; i < list->len; i++) { /* "a b", or since 2024 ["a", "b"] */
        const ramet__json *item = &list->items[i], *left = item, *right = item;
        const char *space = NULL;
        if (item->type == RAMET__JSON_ARRAY && item->len == 2) {
            left = &item->items[0];
            right = &item->items[1];
        }
        if (left->type != RAMET__JSON_STRING || right->type != RAMET__JSON_STRING || left->len > INT32_MAX || right->len > INT32_MAX)
            return wrong(item, "a merge is neither \"a b\" nor [\"a\", \"b\"]");
        if (left == item && item->len > 2) space = memchr(item->text + 1, ' ', item->len - 2);
        if (left == item ? !space
                         : memchr(left->text, ' ', left->len) || memchr(right->text, ' ', right->len) || !left->len || !right->len)
            return ramet__fail(RAMET_E_INCONSISTENT,
                               "tokenizer.json: merge %llu is not two pieces, with a space between but none inside (at byte %llu)",
                               (unsigned long long)i, (unsigned long long)item->offset);
        if (left == item)
            merges[i] = (ramet__merge_text){ item->text, space + 1, (uint32_t)(space - item->text),
                                             (uint32_t)(item->text + item->len - space - 1) };
        else merges[i] = (ramet__merge_text){ left->text, right->text, (uint32_t)left->len, (uint32_t)right->len };
    }
    return RAMET_OK;
}

static void find_role(ramet__tokenizer *t, ramet__role role, const char *text) { /* before there is an index */
    for (int32_t i = 0; text && i < t->n; i++)
        if (t->tokens[i].text_len == strlen(text) && !memcmp(t->tokens[i].text, text, strlen(text))) t->roles[role] = i;
}

static ramet_status read_wordpiece(ramet__tokenizer *t, const ramet__json *root, const ramet__json *model) {
    const char *text;
    int64_t chars;
    RAMET__TRY(ramet__json_string(&text, model, "continuing_subword_prefix", "##"));
    if (strcmp(text, "##")) return unsupported(model, "continuing_subword_prefix", text);
    RAMET__TRY(ramet__json_i64(&chars, model, "max_input_chars_per_word", 100));
    if (chars != 100) return unsupported(model, "model option", "max_input_chars_per_word");
    RAMET__TRY(read_vocabulary(t, ramet__json_get(model, "vocab"), ramet__json_get(root, "added_tokens")));
    RAMET__TRY(ramet__json_string(&text, model, "unk_token", "[UNK]"));
    find_role(t, RAMET__ROLE_UNKNOWN, text);
    if (t->roles[RAMET__ROLE_UNKNOWN] < 0) return unsupported(model, "unk_token", text);
    return RAMET_OK;
}

static ramet_status read_model(ramet__tokenizer *t, ramet__merge_text **merges, int64_t *n_merges, const ramet__json *root) {
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const ramet__json *model = ramet__json_get(root, "model"), *dropout = ramet__json_get(model, "dropout");
    const char *type, *text;
    if (!is_type(model, RAMET__JSON_OBJECT)) return wrong(root, "there is no \"model\" object");
    /* files older than 2020 name no type; merges say that it is BPE */
    RAMET__TRY(ramet__json_string(&type, model, "type", ramet__json_get(model, "merges") ? "BPE" : "none"));
    if (!strcmp(type, "WordPiece") != (t->split == RAMET__SPLIT_BERT)) return unsupported(model, "with this normalizer, model", type);
    if (t->split == RAMET__SPLIT_BERT) return read_wordpiece(t, root, model);
    if (strcmp(type, "BPE")) return unsupported(model, "model", type);
    if (is_set(dropout) && !(dropout->type == RAMET__JSON_NUMBER && dropout->number == 0))
        return unsupported(dropout, "model option", "dropout");
    for (int32_t i = 0; i < 2; i++) {
        RAMET__TRY(ramet__json_string(&text, model, affixes[i], ""));
        if (*text) return unsupported(model, "model option", affixes[i]);
    }
    RAMET__TRY(need_flag(model, "byte_fallback", 0, 0));
    RAMET__TRY(need_flag(model, "ignore_merges", 0, 0));
    RAMET__TRY(read_vocabulary(t, ramet__json_get(model, "vocab"), ramet__json_get(root, "added_tokens")));
    RAMET__TRY(read_merges(merges, n_merges, t->mem, ramet__json_get(model, "merges")));
    RAMET__TRY(ramet__json_string(&text, model, "unk_token", NULL));
    if (!text) return RAMET_OK;
    RAMET__TRY(need_flag(model, "fuse_unk", 0, 0));
    t->emit_unknown = 1;
    for (int32_t i = 0; i < t->n; i++) /* once, before there is an index */
        if (t->tokens[i].text_len == strlen(text) && !memcmp(t->tokens[i].text, text, strlen(text))) t->roles[RAMET__ROLE_UNKNOWN] = i;
    if (t->roles[RAMET__ROLE_UNKNOWN] < 0)
        return ramet__fail(RAMET_E_INCONSISTENT, "tokenizer.json: unk_token \"%.60s\" is not in the vocabulary", text);
    return RAMET_OK;
}

/* ---- what surrounds the model ---------------------------------------------------------------------------------- */

/* The elements of {"type": "Sequence", <key>: [...]}, or the value alone. */
static void elements(const ramet__json **items, size_t *n, const ramet__json *value, const char *type, const char *key) {
    const ramet__json *list = strcmp(type, "Sequence") ? NULL : ramet__json_get(value, key);
    *items = is_type(list, RAMET__JSON_ARRAY) ? list->items : value;
    *n = is_type(list, RAMET__JSON_ARRAY) ? list->len : 1;
}

static ramet_status read_pre_tokenizer(ramet__tokenizer *t, const ramet__json *pre) {
    const char *type;
    const ramet__json *items;
    size_t n;
    if (!is_set(pre)) return unsupported(pre, "pre_tokenizer", "null");
    RAMET__TRY(ramet__json_string(&type, pre, "type", ""));
    elements(&items, &n, pre, type, "pretokenizers");
    int32_t byte_level = 0, digits = 0;
    if (!strcmp(type, "BertPreTokenizer") && t->split == RAMET__SPLIT_BERT) return RAMET_OK;
    if (t->split == RAMET__SPLIT_BERT) return unsupported(pre, "after BertNormalizer, pre_tokenizer", type);
    for (size_t i = 0; i < n; i++) {
        RAMET__TRY(ramet__json_string(&type, &items[i], "type", ""));
        if (byte_level || (digits && !strcmp(type, "Digits"))) return unsupported(&items[i], "after another, pre_tokenizer", type);
        if (!strcmp(type, "Digits")) {
            RAMET__TRY(need_flag(&items[i], "individual_digits", 0, 1));
            digits = 1;
        } else if (!strcmp(type, "ByteLevel")) {
            RAMET__TRY(need_flag(&items[i], "add_prefix_space", 1, 0));
            RAMET__TRY(need_flag(&items[i], "use_regex", 1, 1));
            byte_level = 1;
        } else return unsupported(&items[i], "pre_tokenizer", type);
    }
    if (!byte_level) return unsupported(pre, "pre_tokenizer", "without ByteLevel");
    t->split = digits ? RAMET__SPLIT_DIGITS_GPT2 : RAMET__SPLIT_GPT2;
    t->pre = digits ? "smollm" : "gpt-2";
    return RAMET_OK;
}

/* A template that puts one token in front says which is the beginning of text; one that puts more is refused. */
static ramet_status read_post_processor(const char **bos, const char **eos, const ramet__json *post) {
    const char *type;
    const ramet__json *items;
    size_t n;
    if (!is_set(post)) return RAMET_OK;
    RAMET__TRY(ramet__json_string(&type, post, "type", ""));
    elements(&items, &n, post, type, "processors");
    for (size_t i = 0; i < n; i++) {
        RAMET__TRY(ramet__json_string(&type, &items[i], "type", ""));
        if (!strcmp(type, "ByteLevel")) continue;
        const ramet__json *single = ramet__json_get(&items[i], "single");
        if (strcmp(type, "TemplateProcessing") || !is_type(single, RAMET__JSON_ARRAY))
            return unsupported(&items[i], "post_processor", type);
        const ramet__json *first = single->len ? ramet__json_get(&single->items[0], "SpecialToken") : NULL;
        size_t rest = first ? 1 : 0;
        const ramet__json *last = eos && single->len == rest + 2 ? ramet__json_get(&single->items[rest + 1], "SpecialToken") : NULL;
        if (single->len != rest + 1 + (last ? 1 : 0) || !ramet__json_get(&single->items[rest], "Sequence"))
            return unsupported(&items[i], "post_processor", type);
        if (first) RAMET__TRY(ramet__json_string(bos, first, "id", NULL));
        if (last) RAMET__TRY(ramet__json_string(eos, last, "id", NULL));
    }
    return RAMET_OK;
}

/* "bos_token": "<s>" or {"content": "<s>"} */
static ramet_status config_token(int32_t *id, const ramet__tokenizer *t, const ramet__json *config, const char *key) {
    const ramet__json *value = ramet__json_get(config, key);
    if (is_type(value, RAMET__JSON_OBJECT)) value = ramet__json_get(value, "content");
    if (!is_set(value)) return RAMET_OK;
    if (value->type != RAMET__JSON_STRING)
        return ramet__fail(RAMET_E_FORMAT, "tokenizer_config.json: \"%s\" is not a token (at byte %llu)", key,
                           (unsigned long long)value->offset);
    *id = ramet__tokenizer_find_n(t, value->text, value->len);
    if (*id < 0)
        return ramet__fail(RAMET_E_INCONSISTENT, "tokenizer_config.json: \"%s\" names \"%.60s\", which is not in the vocabulary",
                           key, value->text);
    return RAMET_OK;
}

static ramet_status read_config(ramet__tokenizer *t, const ramet__json *config) {
    static const struct { const char *key; ramet__role role;
    } tokens[] = {
        { "bos_token", RAMET__ROLE_BOS },     { "eos_token", RAMET__ROLE_EOS },       { "unk_token", RAMET__ROLE_UNKNOWN },
        { "pad_token", RAMET__ROLE_PADDING }, { "sep_token", RAMET__ROLE_SEPARATOR }, { "cls_token", RAMET__ROLE_CLS },
        { "mask_token", RAMET__ROLE_MASK },
    };
    if (config->type != RAMET__JSON_OBJECT) return ramet__fail(RAMET_E_FORMAT, "tokenizer_config.json: it is not an object");
    for (int32_t i = 0; i < RAMET__COUNT(tokens); i++) {
        if (t->roles[tokens[i].role] < 0) RAMET__TRY(config_token(&t->roles[tokens[i].role], t, config, tokens[i].key));
    }
    RAMET__TRY(get_flag(&t->add_bos, config, "add_bos_token", 0));
    RAMET__TRY(need_flag(config, "add_prefix_space", 0, 0)); /* it overrides the pre-tokenizer's */
    const ramet__json *template = ramet__json_get(config, "chat_template");
    if (is_type(template, RAMET__JSON_ARRAY)) { /* several by name: the default */
        const ramet__json *list = template;
        template = NULL;
        for (size_t i = 0; i < list->len; i++) {
            const char *name;
            RAMET__TRY(ramet__json_string(&name, &list->items[i], "name", ""));
            if (!strcmp(name, "default")) template = ramet__json_get(&list->items[i], "template");
        }
    }
    if (!is_set(template)) return RAMET_OK;
    if (template->type != RAMET__JSON_STRING)
        return ramet__fail(RAMET_E_FORMAT, "tokenizer_config.json: \"chat_template\" is not a text (at byte %llu)",
                           (unsigned long long)template->offset);
    t->chat_template = ramet__arena_strndup(&t->arena, template->text, template->len);
    return t->chat_template ? RAMET_OK : ramet__alloc_status();
}

/* Small letters without accents, or neither: what wordpiece.c has tables for. */
static ramet_status read_bert(ramet__tokenizer *t, const ramet__json *normalizer) {
    int32_t accents;
    RAMET__TRY(need_flag(normalizer, "clean_text", 1, 1));
    RAMET__TRY(need_flag(normalizer, "handle_chinese_chars", 1, 1));
    RAMET__TRY(get_flag(&t->lowercase, normalizer, "lowercase", 1));
    RAMET__TRY(get_flag(&accents, normalizer, "strip_accents", t->lowercase));
    if (accents != t->lowercase) return unsupported(normalizer, accents ? "true as" : "false as", "strip_accents");
    t->split = RAMET__SPLIT_BERT;
    t->pre = "bert";
    return RAMET_OK;
}

ramet_status ramet__tokenizer_from_json(ramet__tokenizer **out, ramet__mem *mem, const char *json, size_t size, const char *config,
                                        size_t config_size) {
    ramet_status st = RAMET_OK;
    ramet__arena arena = { .mem = mem };
    ramet__tokenizer *t = NULL;
    ramet__merge_text *merges = NULL;
    int64_t n_merges = 0;
    const ramet__json *root, *settings = NULL, *part;
    const char *type, *bos = NULL, *eos = NULL;
    st = ramet__json_parse(&root, &arena, json, size, NULL);
    if (st) {
        ramet__prefix(st, "tokenizer.json: ");
        goto out;
    }
    if (config) st = ramet__json_parse(&settings, &arena, config, config_size, NULL);
    if (st) {
        ramet__prefix(st, "tokenizer_config.json: ");
        goto out;
    }
    if (root->type != RAMET__JSON_OBJECT) {
        st = wrong(root, "it is not an object");
        goto out;
    }
    RAMET__NEW(t, ramet__tokenizer_new(mem));
    part = ramet__json_get(root, "normalizer");
    if (is_set(part)) {
        RAMET__GO(ramet__json_string(&type, part, "type", ""));
        if (strcmp(type, "BertNormalizer")) {
            st = unsupported(part, "normalizer", type);
            goto out;
        }
        RAMET__GO(read_bert(t, part));
    }
    part = ramet__json_get(root, "decoder");
    if (is_set(part)) {
        RAMET__GO(ramet__json_string(&type, part, "type", ""));
        if (strcmp(type, t->split == RAMET__SPLIT_BERT ? "WordPiece" : "ByteLevel")) {
            st = unsupported(part, "decoder", type);
            goto out;
        }
    }
    RAMET__GO(read_pre_tokenizer(t, ramet__json_get(root, "pre_tokenizer")));
    RAMET__GO(read_post_processor(&bos, t->split == RAMET__SPLIT_BERT ? &eos : NULL, ramet__json_get(root, "post_processor")));
    RAMET__GO(read_model(t, &merges, &n_merges, root));
    RAMET__GO(ramet__tokenizer_finish(t, merges, n_merges));
    if (settings) RAMET__GO(read_config(t, settings));
    if (bos) {
        t->roles[RAMET__ROLE_BOS] = ramet__tokenizer_find(t, bos);
        t->add_bos = 1;
        if (t->roles[RAMET__ROLE_BOS] < 0) {
            st = ramet__fail(RAMET_E_INCONSISTENT, "tokenizer.json: post_processor names \"%.60s\", which is not in the vocabulary", bos);
            goto out;
        }
    }
    if (eos) {
        t->roles[RAMET__ROLE_SEPARATOR] = ramet__tokenizer_find(t, eos);
        t->add_eos = 1;
        if (t->roles[RAMET__ROLE_SEPARATOR] < 0) {
            st = ramet__fail(RAMET_E_INCONSISTENT, "tokenizer.json: post_processor names \"%.60s\", which is not in the vocabulary", eos);
            goto out;
        }
    }
    *out = t;
    t = NULL;
out:
    ramet__free(merges);
    ramet__tokenizer_free(t);
    ramet__arena_free(&arena);
    return st;
}
