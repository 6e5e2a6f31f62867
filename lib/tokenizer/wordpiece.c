/* SPDX-License-Identifier: Apache-2.0 */
/* wordpiece.c - WordPiece (Wu et al. 2016) as BERT has it: control characters go, white space and punctuation cut the text into
 * words, a Chinese character is a word, letters become small and lose their accents; a word is cut greedily into the longest
 * pieces of the vocabulary, those after the first with "##" in front, or is the unknown token when that fails. */
#include "tokenizer/vocabulary.h"
#include <string.h>

#include "tokenizer/bert_tables.inc"

typedef enum { WORD, REMOVED, SPACE, CHINESE, PUNCTUATION, ACCENT } kind;
enum { WORD_CHARS = 100, ROOM = 2 + 4 * WORD_CHARS }; /* longer words are unknown, as the peer has it */

/* The last entry of a sorted table whose code point, above `shift` bits, is at most `code`. */
static uint32_t find(const uint32_t *table, uint32_t count, uint32_t width, uint32_t shift, uint32_t code) {
    uint32_t low = 0, high = count;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (table[middle * width] >> shift <= code) low = middle;
        else high = middle;
    }
    return low;
}

static kind kind_of(uint32_t code) { return (kind)(kinds[find(kinds, RAMET__COUNT(kinds), 1, 3, code)] & 7); }

/* Small and without accents: up to three characters. */
static int32_t plain(uint32_t to[3], uint32_t code) {
    if (code >= 0xAC00 && code < 0xAC00 + 11172) { /* a Hangul syllable's parts (Unicode 3.12) */
        uint32_t s = code - 0xAC00;
        to[0] = 0x1100 + s / 588;
        to[1] = 0x1161 + s % 588 / 28;
        to[2] = 0x11A7 + s % 28;
        return s % 28 ? 3 : 2;
    }
    to[0] = code;
    const uint32_t i = find(moves, RAMET__COUNT(moves), 1, 10, code), first = moves[i] >> 10, step = moves[i] & 128 ? 2 : 1;
    if (code >= first && (code - first) % step == 0 && (code - first) / step < (moves[i] & 127)) to[0] = ((moves[i] >> 8 & 3) << 16 | becomes[i]) + (code - first);
    const uint32_t *l = longer + 4 * find(longer, RAMET__COUNT(longer) / 4, 4, 0, code);
    if (l[0] != code) return 1;
    memcpy(to, l + 1, 3 * sizeof to[0]);
    return to[2] ? 3 : 2;
}

typedef struct word { const ramet__tokenizer *t; ramet__ids *out; int32_t chars, bytes; char text[ROOM]; } word; /* room for "##" first */

static void put(ramet__ids *out, int32_t id) {
    if (out->n < out->cap) out->ids[out->n] = id;
    out->n++;
}

static int32_t lookup(const ramet__tokenizer *t, const char *s, size_t n) {
    int32_t id = ramet__tokenizer_find_n(t, s, n);
    return id >= 0 && t->types[id] == RAMET__TOKEN_NORMAL ? id : -1;
}

static void flush(word *w) {
    const ramet__tokenizer *t = w->t;
    const int64_t before = w->out->n;
    const int32_t known = w->chars <= WORD_CHARS, bytes = w->bytes;
    w->chars = w->bytes = 0;
    if (!bytes) return;
    for (int32_t at = 0; known && at < bytes;) {
        char *s = w->text + 2 + at, saved[2];
        int32_t prefix = at ? 2 : 0, n = RAMET__MIN(bytes - at, (int32_t)t->longest_word), id = -1;
        memcpy(saved, s - 2, 2);
        if (prefix) memcpy(s - 2, "##", 2);
        for (; n > 0; n--) {
            if (at + n < bytes && (s[n] & 0xC0) == 0x80) continue; /* inside a character */
            id = lookup(t, s - prefix, (size_t)(n + prefix));
            if (id >= 0) break;
        }
        memcpy(s - 2, saved, 2);
        if (id < 0) break;
        put(w->out, id);
        at += n;
        if (at == bytes) return;
    }
    w->out->n = before;
    put(w->out, t->roles[RAMET__ROLE_UNKNOWN]);
}

static void add(word *w, uint32_t code) {
    if (++w->chars <= WORD_CHARS) w->bytes += (int32_t)ramet__utf8_put(w->text + 2 + w->bytes, code);
}

static void alone(word *w, uint32_t code) {
    flush(w);
    add(w, code);
    flush(w);
}

void ramet__wordpiece_encode(ramet__ids *out, const ramet__tokenizer *t, const char *s, size_t len) {
    word w = {.t = t, .out = out};
    const char *end = s + len;
    uint32_t width;
    for (; s < end; s += width) {
        uint32_t code = ramet__utf8_next(s, end, &width), to[3] = {code};
        kind k = kind_of(code);
        if (k == REMOVED || (k == ACCENT && t->lowercase)) continue;
        if (k == SPACE) {
            flush(&w);
            continue;
        }
        int32_t n = t->lowercase ? plain(to, code) : 1;
        for (int32_t i = 0; i < n; i++) {
            if (k == CHINESE || kind_of(to[i]) == PUNCTUATION) alone(&w, to[i]);
            else add(&w, to[i]);
        }
    }
    flush(&w);
}
