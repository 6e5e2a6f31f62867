/* SPDX-License-Identifier: Apache-2.0 */
/* vocabulary.h - what a ramet__tokenizer holds, between tokenizer.c (build, look up, special tokens), bpe.c (text to ids), and
 * the two loaders. Filled by a loader, checked and completed by ramet__tokenizer_finish, constant from then on. */
#ifndef RAMET__VOCABULARY_H
#define RAMET__VOCABULARY_H
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"
#include <stdatomic.h>

typedef enum { /* numbers as in "tokenizer.ggml.token_type" */
    RAMET__TOKEN_NORMAL = 1, RAMET__TOKEN_UNKNOWN, RAMET__TOKEN_CONTROL, RAMET__TOKEN_USER, RAMET__TOKEN_UNUSED, RAMET__TOKEN_BYTE
} ramet__token_type;

typedef struct ramet__token {
    const char *text;   /* as in the vocabulary: normal tokens in the byte alphabet ("\u0120the"), others plain; NUL added */
    const char *bytes;  /* what it stands for; may be `text` */
    uint32_t text_len, bytes_len;
} ramet__token;

typedef struct ramet__merge_text { const char *left, *right; uint32_t left_len, right_len; } ramet__merge_text;
typedef struct ramet__merge { int32_t left, right, id; } ramet__merge; /* its index is its rank: lower goes first */
typedef struct ramet__merge_slot { int32_t left, right, rank; } ramet__merge_slot; /* rank -1: empty */
typedef struct ramet__text_slot { uint32_t hash; int32_t id; } ramet__text_slot; /* id -1: empty */
typedef struct ramet__text_table { ramet__text_slot *slots; uint32_t mask; } ramet__text_table;

/* Tokens found in the text before it is cut into words. Sorted by text, so that a prefix is a range of entries. */
typedef struct ramet__specials {
    int32_t n;
    int32_t *ids;
    int32_t first[257]; /* entries that begin with byte b: [first[b], first[b+1]) */
} ramet__specials;

typedef enum { /* ids of tokens with a part to play; the keys are in ramet__role_keys */
    RAMET__ROLE_BOS, RAMET__ROLE_EOS, RAMET__ROLE_UNKNOWN, RAMET__ROLE_PADDING, RAMET__ROLE_EOT, RAMET__ROLE_EOM, RAMET__ROLE_SEPARATOR,
    RAMET__ROLE_CLS, RAMET__ROLE_MASK, RAMET__ROLE_FIM_PRE, RAMET__ROLE_FIM_SUF, RAMET__ROLE_FIM_MID, RAMET__ROLE_FIM_PAD,
    RAMET__ROLE_FIM_REP, RAMET__ROLE_FIM_SEP, RAMET__ROLES
} ramet__role;
extern const char *const ramet__role_keys[RAMET__ROLES];

typedef enum { RAMET__SPLIT_GPT2, RAMET__SPLIT_DIGITS_GPT2, RAMET__SPLIT_BERT } ramet__split; /* digits one by one first; words of WordPiece */

typedef struct ramet__ids { int64_t n, cap; int32_t *ids; } ramet__ids; /* counts beyond cap, writes up to it */

struct ramet__tokenizer {
    ramet__mem *mem;
    ramet__arena arena;
    _Atomic int32_t refs;
    /* filled by the loader; texts may point into the loader's memory until finish copies them */
    int32_t n;
    ramet__token *tokens;
    uint8_t *types;
    ramet__split split;
    const char *pre;            /* its name in GGUF */
    int32_t roles[RAMET__ROLES]; /* -1: none */
    int32_t add_bos, add_eos;   /* add_eos is kept for rewriting only */
    int32_t lowercase;          /* BERT: small letters without accents */
    int32_t emit_unknown;       /* a byte without a token becomes the unknown token; otherwise it is dropped, as peers do */
    const char *chat_template;  /* NULL: none */
    /* made by finish */
    ramet__text_table by_text;  /* every token */
    ramet__text_table by_word;  /* normal tokens that their own bytes encode to: a word found here needs no merging */
    uint32_t longest_word;
    int32_t n_merges;
    ramet__merge *merges;
    ramet__merge_slot *merge_slots;
    uint32_t merge_mask;
    int32_t byte_ids[256];      /* -1: the vocabulary lacks it */
    uint8_t ascii_class[128];
    ramet__specials control, user; /* with RAMET__TOKENIZE_SPECIAL; without */
};

#define RAMET__TOKENS_MAX (1 << 22)
#define RAMET__MERGES_MAX (1 << 23)

ramet__tokenizer *ramet__tokenizer_new(ramet__mem *mem); /* one reference, roles -1; NULL on failure */
/* Check what the loader filled in, copy texts, build the tables. On failure the caller frees t. */
ramet_status ramet__tokenizer_finish(ramet__tokenizer *t, const ramet__merge_text *merges, int64_t n_merges);
int32_t ramet__tokenizer_find_n(const ramet__tokenizer *t, const char *text, size_t len);
int32_t ramet__tokenizer_find_word(const ramet__tokenizer *t, const char *bytes, size_t len); /* in by_word */

/* wordpiece.c */
void ramet__wordpiece_encode(ramet__ids *out, const ramet__tokenizer *t, const char *s, size_t len);
/* bpe.c: ids of text without special tokens; of one word, by merging. */
ramet_status ramet__bpe_encode(ramet__ids *out, const ramet__tokenizer *t, const char *s, size_t len);
ramet_status ramet__bpe_merge_word(ramet__ids *out, const ramet__tokenizer *t, const char *s, size_t len);
uint32_t ramet__hash_bytes(const char *s, size_t n);
/* The slot of a pair, or the empty one (rank -1) where it belongs; and the slot where the search begins. */
uint32_t ramet__merge_home(const ramet__tokenizer *t, int32_t left, int32_t right);
ramet__merge_slot *ramet__merge_slot_of(const ramet__tokenizer *t, int32_t left, int32_t right);
/* The byte alphabet: the code point that stands for a byte in token texts, and back. */
uint32_t ramet__byte_symbol(uint8_t byte);
int32_t ramet__symbol_byte(uint32_t code); /* -1: not of the alphabet */
#endif
