/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.c - building a tokenizer's tables from what a loader read, with every rule checked once for both file formats;
 * looking tokens up; and encoding, where special tokens are found before the text between them goes to bpe.c. */
#include "tokenizer/vocabulary.h"
#include <stdlib.h>
#include <string.h>

const char *const ramet__role_keys[RAMET__ROLES] = {
    "bos", "eos", "unknown", "padding", "eot", "eom", "seperator" /* sic, in the format */, "cls", "mask", "fim_pre", "fim_suf",
    "fim_mid", "fim_pad", "fim_rep", "fim_sep"
};

ramet__tokenizer *ramet__tokenizer_new(ramet__mem *mem) {
    ramet__tokenizer *t = ramet__calloc(mem, 1, sizeof(*t));
    if (!t) return NULL;
    t->mem = mem;
    t->arena.mem = mem;
    atomic_init(&t->refs, 1);
    for (int32_t i = 0; i < RAMET__ROLES; i++) t->roles[i] = -1;
    return t;
}

ramet__tokenizer *ramet__tokenizer_retain(ramet__tokenizer *tokenizer) {
    if (tokenizer) atomic_fetch_add_explicit(&tokenizer->refs, 1, memory_order_relaxed);
    return tokenizer;
}

void ramet__tokenizer_free(ramet__tokenizer *tokenizer) {
    if (!tokenizer || atomic_fetch_sub_explicit(&tokenizer->refs, 1, memory_order_acq_rel) != 1) return;
    ramet__arena_free(&tokenizer->arena);
    ramet__free(tokenizer);
}

/* ---- tables of texts ------------------------------------------------------------------------------------------- */

uint32_t ramet__hash_bytes(const char *s, size_t n) {
    uint64_t h = n * 0x9E3779B97F4A7C15u, v;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&v, s, 8);
        h = (h ^ v) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    v = 0;
    if (n >= 4) { /* the two halves may overlap */
        uint32_t a, b;
        memcpy(&a, s, 4);
        memcpy(&b, s + n - 4, 4);
        v = (uint64_t)a << 32 | b;
    } else {
        for (size_t i = 0; i < n; i++) v = v << 8 | (uint8_t)s[i];
    }
    h = (h ^ v) * 0xD6E8FEB86659FD93u;
    return (uint32_t)(h >> 32);
}

static uint32_t table_size(int64_t n) { /* a power of two, at most half full */
    uint32_t size = 16;
    while (size < 2 * n) size *= 2;
    return size;
}

static ramet_status table_make(ramet__text_table *table, ramet__arena *arena, int64_t n) {
    uint32_t size = table_size(n);
    table->slots = ramet__arena_alloc(arena, size * sizeof(table->slots[0]));
    if (!table->slots) return ramet__alloc_status();
    for (uint32_t i = 0; i < size; i++) table->slots[i].id = -1;
    table->mask = size - 1;
    return RAMET_OK;
}

/* A file could hold texts chosen to collide. Every look-up ends within one run of occupied slots, and honest tables have runs of some
 * dozens, so a long one is refused, and while building no run is walked further than that. */
#define RUN_MAX 4096
static ramet_status colliding(const char *what) {
    return ramet__fail(RAMET_E_LIMIT, "vocabulary: its %s collide in a hash table as if made to", what);
}

static ramet_status table_check(const ramet__text_table *table) {
    uint32_t run = 0;
    for (uint32_t i = 0; i <= table->mask; i++) {
        run = table->slots[i].id < 0 ? 0 : run + 1;
        if (run > RUN_MAX) return colliding("tokens");
    }
    return RAMET_OK;
}

/* The slot that holds the text, or the empty one where it belongs. Compares tokens' bytes (words) or text. */
static ramet__text_slot *table_slot(const ramet__text_table *table, const ramet__token *tokens, int32_t words, uint32_t hash,
                                    const char *s, size_t n) {
    for (uint32_t i = hash & table->mask;; i = (i + 1) & table->mask) {
        ramet__text_slot *slot = &table->slots[i];
        if (slot->id < 0) return slot;
        if (slot->hash != hash) continue;
        const ramet__token *token = &tokens[slot->id];
        if ((words ? token->bytes_len : token->text_len) == n && !memcmp(words ? token->bytes : token->text, s, n)) return slot;
    }
}

int32_t ramet__tokenizer_find_n(const ramet__tokenizer *t, const char *text, size_t len) {
    return table_slot(&t->by_text, t->tokens, 0, ramet__hash_bytes(text, len), text, len)->id;
}

int32_t ramet__tokenizer_find_word(const ramet__tokenizer *t, const char *bytes, size_t len) {
    return table_slot(&t->by_word, t->tokens, 1, ramet__hash_bytes(bytes, len), bytes, len)->id;
}

/* ---- building -------------------------------------------------------------------------------------------------- */

/* Bytes that a text in the byte alphabet stands for; 0 when it is not all in the alphabet (then it stands for itself). */
static size_t decode_text(char *dst, const char *text, size_t len) {
    size_t n = 0;
    uint32_t width;
    for (size_t i = 0; i < len; i += width) {
        int32_t byte = ramet__symbol_byte(ramet__utf8_next(text + i, text + len, &width));
        if (byte < 0) return 0;
        dst[n++] = (char)byte;
    }
    return n;
}

static ramet_status copy_texts(ramet__tokenizer *t) {
    size_t total = 0;
    for (int32_t i = 0; i < t->n; i++) total += (size_t)t->tokens[i].text_len + 1;
    char *texts = ramet__arena_alloc(&t->arena, total), *bytes = ramet__arena_alloc(&t->arena, total);
    if (!texts || !bytes) return ramet__alloc_status();
    for (int32_t i = 0; i < t->n; i++) {
        ramet__token *token = &t->tokens[i];
        memcpy(texts, token->text, token->text_len);
        token->text = token->bytes = texts;
        token->bytes_len = token->text_len;
        texts += token->text_len + 1;
        if (t->split == RAMET__SPLIT_BERT) {
            if (token->text_len > 2 && !memcmp(token->text, "##", 2)) token->bytes += 2, token->bytes_len -= 2;
            continue;
        }
        size_t n = t->types[i] == RAMET__TOKEN_NORMAL ? decode_text(bytes, token->text, token->text_len) : 0;
        if (!n) continue;
        token->bytes = bytes;
        token->bytes_len = (uint32_t)n;
        bytes += n + 1;
    }
    return RAMET_OK;
}

static ramet_status index_texts(ramet__tokenizer *t) {
    RAMET__TRY(table_make(&t->by_text, &t->arena, t->n));
    for (int32_t i = 0; i < t->n; i++) {
        const ramet__token *token = &t->tokens[i];
        uint32_t hash = ramet__hash_bytes(token->text, token->text_len);
        ramet__text_slot *slot = table_slot(&t->by_text, t->tokens, 0, hash, token->text, token->text_len);
        if (slot->id >= 0)
            return ramet__fail(RAMET_E_INCONSISTENT, "vocabulary: tokens %d and %d are both \"%.40s\"", slot->id, i, token->text);
        if ((((uint32_t)(slot - t->by_text.slots) - hash) & t->by_text.mask) > RUN_MAX) return colliding("tokens");
        *slot = (ramet__text_slot){ hash, i };
    }
    return table_check(&t->by_text);
}

static int32_t is_control(const ramet__tokenizer *t, int32_t id) {
    return t->types[id] == RAMET__TOKEN_CONTROL || t->types[id] == RAMET__TOKEN_UNKNOWN;
}

/* One token of plain text: what merges may use and make, so that user text never becomes a control id. */
static ramet_status plain_token(int32_t *id, const ramet__tokenizer *t, int64_t merge, const char *text, size_t len) {
    *id = ramet__tokenizer_find_n(t, text, len);
    if (*id < 0)
        return ramet__fail(RAMET_E_INCONSISTENT, "merge %lld: \"%.*s\" is not in the vocabulary", (long long)merge,
                           (int)RAMET__MIN(len, 80), text);
    if (is_control(t, *id))
        return ramet__fail(RAMET_E_INCONSISTENT, "merge %lld: \"%.*s\" is a control token", (long long)merge,
                           (int)RAMET__MIN(len, 80), text);
    return RAMET_OK;
}

static ramet_status index_merges(ramet__tokenizer *t, const ramet__merge_text *merges, int64_t n) {
    ramet_status st = RAMET_OK;
    ramet__text joined = { .mem = t->mem };
    uint32_t size = table_size(n), run;
    RAMET__NEW(t->merges, ramet__arena_alloc(&t->arena, (size_t)RAMET__MAX(n, 1) * sizeof(t->merges[0])));
    RAMET__NEW(t->merge_slots, ramet__arena_alloc(&t->arena, size * sizeof(t->merge_slots[0])));
    for (uint32_t i = 0; i < size; i++) t->merge_slots[i].rank = -1;
    t->merge_mask = size - 1;
    for (int64_t rank = 0; rank < n; rank++) {
        const ramet__merge_text *m = &merges[rank];
        ramet__merge *merge = &t->merges[rank];
        RAMET__GO(plain_token(&merge->left, t, rank, m->left, m->left_len));
        RAMET__GO(plain_token(&merge->right, t, rank, m->right, m->right_len));
        joined.len = 0;
        ramet__text_bytes(&joined, m->left, m->left_len);
        ramet__text_bytes(&joined, m->right, m->right_len);
        RAMET__GO(joined.status);
        RAMET__GO(plain_token(&merge->id, t, rank, joined.data, joined.len));
        ramet__merge_slot *slot = ramet__merge_slot_of(t, merge->left, merge->right);
        if (slot->rank >= 0) {
            st = ramet__fail(RAMET_E_INCONSISTENT, "merges %d and %lld join the same pair", slot->rank, (long long)rank);
            goto out;
        }
        *slot = (ramet__merge_slot){ merge->left, merge->right, (int32_t)rank };
        run = (uint32_t)(slot - t->merge_slots) - ramet__merge_home(t, merge->left, merge->right);
        if ((run & t->merge_mask) > RUN_MAX) RAMET__GO(colliding("merges"));
    }
    t->n_merges = (int32_t)n;
    run = 0;
    for (uint32_t i = 0; i < size; i++) {
        run = t->merge_slots[i].rank < 0 ? 0 : run + 1;
        if (run > RUN_MAX) RAMET__GO(colliding("merges"));
    }
out:
    ramet__text_free(&joined);
    return st;
}

static ramet_status index_bytes(ramet__tokenizer *t, int32_t *missing) {
    *missing = 0;
    for (int32_t b = 0; b < 256; b++) {
        char symbol[4];
        uint32_t n = ramet__utf8_put(symbol, ramet__byte_symbol((uint8_t)b));
        t->byte_ids[b] = ramet__tokenizer_find_n(t, symbol, n);
        if (t->byte_ids[b] < 0) ++*missing;
        else if (is_control(t, t->byte_ids[b]))
            return ramet__fail(RAMET_E_INCONSISTENT, "vocabulary: token %d stands for the plain byte 0x%02x and is a control token",
                               t->byte_ids[b], (unsigned)b);
    }
    for (uint32_t c = 0; c < 128; c++) t->ascii_class[c] = (uint8_t)ramet__unicode_class(c);
    return *missing < 256 ? RAMET_OK : ramet__fail(RAMET_E_INCONSISTENT, "vocabulary: it has no token for any single byte");
}

/* Most words of ordinary text are one token. Which tokens their own bytes encode to is found once, here. */
static ramet_status index_words(ramet__tokenizer *t) {
    RAMET__TRY(table_make(&t->by_word, &t->arena, t->n));
    for (int32_t i = 0; i < t->n; i++) {
        const ramet__token *token = &t->tokens[i];
        if (t->types[i] != RAMET__TOKEN_NORMAL || !token->bytes_len) continue;
        int32_t id = -1;
        ramet__ids ids = { 0, 1, &id };
        RAMET__TRY(ramet__bpe_merge_word(&ids, t, token->bytes, token->bytes_len));
        if (ids.n != 1 || id != i) continue;
        uint32_t hash = ramet__hash_bytes(token->bytes, token->bytes_len);
        ramet__text_slot *slot = table_slot(&t->by_word, t->tokens, 1, hash, token->bytes, token->bytes_len);
        if ((((uint32_t)(slot - t->by_word.slots) - hash) & t->by_word.mask) > RUN_MAX) return colliding("tokens");
        *slot = (ramet__text_slot){ hash, i };
        t->longest_word = RAMET__MAX(t->longest_word, token->bytes_len);
    }
    return table_check(&t->by_word);
}

typedef struct sort_entry { const char *text; uint32_t len; int32_t id; } sort_entry;

static int compare_entries(const void *a, const void *b) {
    const sort_entry *x = a, *y = b;
    int order = memcmp(x->text, y->text, RAMET__MIN(x->len, y->len));
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

static ramet_status index_specials(ramet__specials *specials, ramet__tokenizer *t, int32_t with_control) {
    ramet_status st = RAMET_OK;
    sort_entry *entries = NULL;
    int32_t n = 0;
    for (int32_t i = 0; i < t->n; i++) n += t->types[i] == RAMET__TOKEN_USER || (with_control && is_control(t, i));
    RAMET__NEW(entries, ramet__calloc(t->mem, (size_t)n + 1, sizeof(entries[0])));
    RAMET__NEW(specials->ids, ramet__arena_alloc(&t->arena, ((size_t)n + 1) * sizeof(specials->ids[0])));
    for (int32_t i = 0; i < t->n; i++) {
        if (t->types[i] != RAMET__TOKEN_USER && !(with_control && is_control(t, i))) continue;
        if (!t->tokens[i].text_len) {
            st = ramet__fail(RAMET_E_INCONSISTENT, "vocabulary: special token %d is empty", i);
            goto out;
        }
        entries[specials->n++] = (sort_entry){ t->tokens[i].text, t->tokens[i].text_len, i };
    }
    qsort(entries, (size_t)n, sizeof(entries[0]), compare_entries);
    for (int32_t i = 0; i < n; i++) {
        specials->ids[i] = entries[i].id;
        specials->first[(uint8_t)entries[i].text[0] + 1]++;
    }
    for (int32_t b = 0; b < 256; b++) specials->first[b + 1] += specials->first[b];
out:
    ramet__free(entries);
    return st;
}

static ramet_status finish_bert(ramet__tokenizer *t) {
    if (t->roles[RAMET__ROLE_UNKNOWN] < 0) return ramet__fail(RAMET_E_INCONSISTENT, "vocabulary: WordPiece needs an unknown token");
    for (int32_t i = 0; i < t->n; i++) t->longest_word = RAMET__MAX(t->longest_word, t->tokens[i].text_len);
    RAMET__TRY(index_specials(&t->control, t, 1));
    return index_specials(&t->user, t, 0);
}

ramet_status ramet__tokenizer_finish(ramet__tokenizer *t, const ramet__merge_text *merges, int64_t n_merges) {
    if (t->n < 1) return ramet__fail(RAMET_E_INCONSISTENT, "vocabulary: it has no tokens");
    for (int32_t i = 0; i < t->n; i++) {
        if (t->types[i] == RAMET__TOKEN_BYTE)
            return ramet__fail(RAMET_E_INCONSISTENT,
                               "vocabulary: token %d is a byte token (\"%.10s\"), which byte-level BPE does not have", i,
                               t->tokens[i].text);
    }
    for (int32_t i = 0; i < RAMET__ROLES; i++) {
        if (t->roles[i] >= t->n || t->roles[i] < -1)
            return ramet__fail(RAMET_E_INCONSISTENT, "%s token id %d is not in the vocabulary of %d tokens", ramet__role_keys[i],
                               t->roles[i], t->n);
    }
    int32_t missing;
    RAMET__TRY(copy_texts(t));
    RAMET__TRY(index_texts(t));
    if (t->split == RAMET__SPLIT_BERT) return finish_bert(t);
    RAMET__TRY(index_merges(t, merges, n_merges));
    RAMET__TRY(index_bytes(t, &missing));
    if (!missing) t->emit_unknown = 0;
    if (t->emit_unknown && t->roles[RAMET__ROLE_UNKNOWN] < 0)
        return ramet__fail(RAMET_E_INCONSISTENT, "vocabulary: bytes are missing and there is no unknown token");
    RAMET__TRY(index_words(t));
    RAMET__TRY(index_specials(&t->control, t, 1));
    return index_specials(&t->user, t, 0);
}

/* ---- encoding -------------------------------------------------------------------------------------------------- */

/* The longest special token that s begins with: its id, or -1. The sorted entries that match so far are a range, which each
 * further byte narrows by binary search; an entry that ends there is the first of its range. */
static int32_t match_special(const ramet__specials *specials, const ramet__tokenizer *t, const char *s, const char *end) {
    int32_t low = specials->first[(uint8_t)*s], high = specials->first[(uint8_t)*s + 1], found = -1;
    for (uint32_t depth = 1; low < high; depth++) {
        if (t->tokens[specials->ids[low]].text_len == depth) found = specials->ids[low++];
        if (s + depth >= end) break;
        uint8_t byte = (uint8_t)s[depth];
        int32_t bounds[2];
        for (int32_t k = 0; k < 2; k++) { /* first entry whose byte is >= byte, then > byte */
            int32_t a = low, b = high;
            while (a < b) {
                int32_t middle = a + (b - a) / 2;
                if ((uint8_t)t->tokens[specials->ids[middle]].text[depth] < byte + k) a = middle + 1;
                else b = middle;
            }
            bounds[k] = a;
        }
        low = bounds[0];
        high = bounds[1];
    }
    return found;
}

static ramet_status encode_plain(ramet__ids *out, const ramet__tokenizer *t, const char *s, size_t len) {
    if (t->split != RAMET__SPLIT_BERT) return ramet__bpe_encode(out, t, s, len);
    ramet__wordpiece_encode(out, t, s, len);
    return RAMET_OK;
}

ramet_status ramet__tokenizer_encode(int64_t *n, int32_t *ids, int64_t cap, const ramet__tokenizer *t, const char *text, size_t len,
                                     int32_t flags) {
    if (!n || !t || (!text && len) || (!ids && cap > 0) || cap < 0)
        return ramet__fail(RAMET_E_ARGUMENT, "tokenizer encode: a pointer is NULL or the capacity negative");
    if (len > INT32_MAX)
        return ramet__fail(RAMET_E_LIMIT, "tokenizer encode: text of %llu bytes; encode at most 2 GiB at a time",
                           (unsigned long long)len);
    ramet__ids out = { 0, cap, ids };
    if ((flags & RAMET__TOKENIZE_BOS) && t->add_bos && t->roles[RAMET__ROLE_BOS] >= 0) {
        if (cap > 0) ids[0] = t->roles[RAMET__ROLE_BOS];
        out.n = 1;
    }
    const ramet__specials *specials = (flags & RAMET__TOKENIZE_SPECIAL) ? &t->control : &t->user;
    const char *s = text, *begin = text, *end = text + len;
    while (specials->n && s < end) {
        int32_t id = specials->first[(uint8_t)*s] < specials->first[(uint8_t)*s + 1] ? match_special(specials, t, s, end) : -1;
        if (id < 0) {
            s++;
            continue;
        }
        RAMET__TRY(encode_plain(&out, t, begin, (size_t)(s - begin)));
        if (out.n < cap) ids[out.n] = id;
        out.n++;
        begin = s += t->tokens[id].text_len;
    }
    RAMET__TRY(encode_plain(&out, t, begin, (size_t)(end - begin)));
    if (t->split == RAMET__SPLIT_BERT && (flags & RAMET__TOKENIZE_BOS) && t->add_eos && t->roles[RAMET__ROLE_SEPARATOR] >= 0) {
        if (out.n < cap) ids[out.n] = t->roles[RAMET__ROLE_SEPARATOR];
        out.n++;
    }
    *n = out.n;
    if (out.n > cap)
        return ramet__fail(RAMET_E_LIMIT, "tokenizer encode: the text has %lld ids, the buffer takes %lld", (long long)out.n,
                           (long long)cap);
    return RAMET_OK;
}

/* ---- looking up ------------------------------------------------------------------------------------------------ */

ramet_status ramet__tokenizer_piece(const char **bytes, size_t *len, const ramet__tokenizer *t, int32_t id, int32_t special) {
    if (id < 0 || id >= t->n) return ramet__fail(RAMET_E_ARGUMENT, "token id %d is not in the vocabulary of %d tokens", id, t->n);
    int32_t silent = t->types[id] == RAMET__TOKEN_UNUSED || (!special && is_control(t, id));
    *bytes = t->tokens[id].bytes;
    *len = silent ? 0 : t->tokens[id].bytes_len;
    return RAMET_OK;
}

int32_t ramet__tokenizer_size(const ramet__tokenizer *t) { return t->n; }
int32_t ramet__tokenizer_bos(const ramet__tokenizer *t) { return t->roles[RAMET__ROLE_BOS]; }
int32_t ramet__tokenizer_eos(const ramet__tokenizer *t) { return t->roles[RAMET__ROLE_EOS]; }
const char *ramet__tokenizer_template(const ramet__tokenizer *t) { return t->chat_template; }
int32_t ramet__tokenizer_find(const ramet__tokenizer *t, const char *piece) { return ramet__tokenizer_find_n(t, piece, strlen(piece)); }

int32_t ramet__tokenizer_is_end(const ramet__tokenizer *t, int32_t id) {
    static const char *const ends[] = { "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<|end_of_text|>", "<end_of_turn>" };
    if (id < 0 || id >= t->n) return 0;
    if (id == t->roles[RAMET__ROLE_EOS] || id == t->roles[RAMET__ROLE_EOT] || id == t->roles[RAMET__ROLE_EOM]) return 1;
    if (t->types[id] != RAMET__TOKEN_CONTROL) return 0;
    for (int32_t i = 0; i < RAMET__COUNT(ends); i++) if (!strcmp(t->tokens[id].text, ends[i])) return 1;
    return 0;
}
