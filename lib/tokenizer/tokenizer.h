/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.h - text <-> ids. Immutable, reference counted. Byte-level BPE, and BERT's WordPiece; other models are refused by
 * name. Built from GGUF metadata or from a Hugging Face tokenizer.json; written back as GGUF metadata. */
#ifndef RAMET__TOKENIZER_H
#define RAMET__TOKENIZER_H
#include "base/alloc.h"
#include "format/gguf.h"

typedef struct ramet__tokenizer ramet__tokenizer;
/* From "tokenizer.ggml.*" keys. E_NOT_FOUND when the file has none; E_UNSUPPORTED for models or pre-tokenizers not known, the nameless
 * and the "default" one among them: what they split by is a guess. Keeps nothing of gguf. */
ramet_status ramet__tokenizer_from_gguf(ramet__tokenizer **out, ramet__mem *mem, const ramet__gguf *gguf);
/* From tokenizer.json text and (may be NULL) tokenizer_config.json text. */
ramet_status ramet__tokenizer_from_json(ramet__tokenizer **out, ramet__mem *mem, const char *json, size_t size, const char *config,
                                        size_t config_size);
ramet__tokenizer *ramet__tokenizer_retain(ramet__tokenizer *tokenizer);
void ramet__tokenizer_free(ramet__tokenizer *tokenizer);

#define RAMET__TOKENIZE_SPECIAL 1 /* text like <|im_start|> becomes control ids; off by default: user text never does */
#define RAMET__TOKENIZE_BOS 2     /* put the model's beginning-of-text id in front where the model asks for one; BERT: [CLS], and [SEP] behind */
/* Writes ids from ids[0] on, at most cap; *n is the number that the text has, also when cap was too small (E_LIMIT, nothing beyond cap
 * written). len is at most INT32_MAX (E_LIMIT). Any bytes are text: one that is not part of well-formed UTF-8 counts as a character
 * that is neither letter, number nor space. Bytes that the vocabulary has no token for are dropped, as the peers drop them, or become
 * the unknown token where tokenizer.json says so. User-defined tokens are always found, control tokens only with SPECIAL; of
 * several that begin at one place the longest. Any thread. */
ramet_status ramet__tokenizer_encode(int64_t *n, int32_t *ids, int64_t cap, const ramet__tokenizer *t, const char *text, size_t len,
                                     int32_t flags);
/* Bytes of one id (control ids give no bytes unless `special`). The pointer lives as long as the tokenizer. */
ramet_status ramet__tokenizer_piece(const char **bytes, size_t *len, const ramet__tokenizer *t, int32_t id, int32_t special);
int32_t ramet__tokenizer_size(const ramet__tokenizer *t);
int32_t ramet__tokenizer_bos(const ramet__tokenizer *t); /* -1: none */
int32_t ramet__tokenizer_eos(const ramet__tokenizer *t);
int32_t ramet__tokenizer_is_end(const ramet__tokenizer *t, int32_t id); /* eos, <|im_end|>, <|endoftext|>: generation stops */
int32_t ramet__tokenizer_find(const ramet__tokenizer *t, const char *piece); /* id of an exact token text, -1: none */
const char *ramet__tokenizer_template(const ramet__tokenizer *t); /* the chat template's text, or NULL */
/* Declare "tokenizer.*" keys so that the written file tokenizes the same. */
ramet_status ramet__tokenizer_to_gguf(const ramet__tokenizer *t, ramet__gguf_writer *w);
/* One chat as text for encode with SPECIAL. Templates recognised: ChatML ("chatml"). E_UNSUPPORTED names others.
 * roles and contents have n entries; add_generation_prompt opens the assistant's turn. The model's own default system
 * message is put in front where its template does so. */
ramet_status ramet__chat_format(char **text, ramet__mem *mem, const ramet__tokenizer *t, int32_t n, const char *const *roles,
                                const char *const *contents, int32_t add_generation_prompt);
/* The same chat as ids, and the safe way for what users write: roles and contents never become control ids, also where they spell
 * "<|im_end|>"; otherwise the ids are those of the formatted text. Capacity rule as encode. */
ramet_status ramet__chat_encode(int64_t *n_ids, int32_t *ids, int64_t cap, const ramet__tokenizer *t, int32_t n, const char *const *roles,
                                const char *const *contents, int32_t add_generation_prompt);
#endif
