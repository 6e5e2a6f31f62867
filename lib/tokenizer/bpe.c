/* SPDX-License-Identifier: Apache-2.0 */
/* bpe.c - byte-level BPE. Text is cut into words by the GPT-2 pattern (Radford et al. 2019),
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * for some models after every number character was cut off on its own; a word's bytes become symbols, and the adjacent pair
 * with the lowest rank, leftmost first, is merged until none is left (Sennrich et al. 2016). */
#include "tokenizer/vocabulary.h"
#include <string.h>

/* Bytes that are printable in Latin-1 stand for themselves; the others are numbered from U+0100 on. */
static int32_t is_plain(uint32_t b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255); }

uint32_t ramet__byte_symbol(uint8_t byte) {
    if (is_plain(byte)) return byte;
    if (byte <= 32) return 256u + byte;
    return byte == 173 ? 256u + 67u : 256u + 33u + (byte - 127u); /* 33 below '!', then 127..160, then 173 */
}

int32_t ramet__symbol_byte(uint32_t code) {
    if (code < 256) return is_plain(code) ? (int32_t)code : -1;
    code -= 256;
    if (code <= 32) return (int32_t)code;
    if (code <= 66) return (int32_t)(code - 33 + 127);
    return code == 67 ? 173 : -1;
}

static void put(ramet__ids *out, int32_t id) {
    if (out->n < out->cap) out->ids[out->n] = id;
    out->n++;
}

/* ---- words ----------------------------------------------------------------------------------------------------- */

static ramet__char_class class_at(const ramet__tokenizer *t, const char *s, const char *end, uint32_t *width) {
    if ((uint8_t)*s < 0x80) {
        *width = 1;
        return (ramet__char_class)t->ascii_class[(uint8_t)*s];
    }
    ramet__char_class c = ramet__unicode_class(ramet__utf8_next(s, end, width));
    if (c == RAMET__CHAR_DIGIT_ONLY) c = t->split == RAMET__SPLIT_DIGITS_GPT2 ? RAMET__CHAR_NUMBER : RAMET__CHAR_OTHER;
    return c;
}

static const char *run_end(const ramet__tokenizer *t, const char *s, const char *end, ramet__char_class c) {
    uint32_t width;
    while (s < end && class_at(t, s, end, &width) == c) s += width;
    return s;
}

static size_t contraction(const char *s, const char *end) { /* at an apostrophe */
    if (end - s >= 2 && (s[1] == 's' || s[1] == 't' || s[1] == 'm' || s[1] == 'd')) return 2;
    if (end - s >= 3 && ((s[1] == 'r' && s[2] == 'e') || (s[1] == 'v' && s[2] == 'e') || (s[1] == 'l' && s[2] == 'l'))) return 3;
    return 0;
}

/* The end of the word that begins at s < end. */
static const char *word_end(const ramet__tokenizer *t, const char *s, const char *end) {
    int32_t digits = t->split == RAMET__SPLIT_DIGITS_GPT2;
    uint32_t width;
    ramet__char_class c = class_at(t, s, end, &width);
    if (c == RAMET__CHAR_NUMBER && digits) return s + width;
    if (*s == '\'') {
        size_t n = contraction(s, end);
        if (n) return s + n;
    }
    if (c != RAMET__CHAR_SPACE) return run_end(t, s + width, end, c);
    if (*s == ' ' && s + 1 < end) {
        ramet__char_class next = class_at(t, s + 1, end, &width);
        if (next != RAMET__CHAR_SPACE && !(digits && next == RAMET__CHAR_NUMBER)) return run_end(t, s + 1 + width, end, next);
    }
    /* white space: all of it at the end of the text or of a part cut by digits, else all but its last character, if more than one */
    const char *last = s, *p = s;
    while (p < end) {
        c = class_at(t, p, end, &width);
        if (c != RAMET__CHAR_SPACE) break;
        last = p;
        p += width;
    }
    if (p == end || (digits && c == RAMET__CHAR_NUMBER) || last == s) return p;
    return last;
}

/* ---- merging --------------------------------------------------------------------------------------------------- */

uint32_t ramet__merge_home(const ramet__tokenizer *t, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return (uint32_t)((pair * 0x9E3779B97F4A7C15u) >> 32) & t->merge_mask;
}

ramet__merge_slot *ramet__merge_slot_of(const ramet__tokenizer *t, int32_t left, int32_t right) {
    for (uint32_t i = ramet__merge_home(t, left, right);; i = (i + 1) & t->merge_mask) {
        ramet__merge_slot *slot = &t->merge_slots[i];
        if (slot->rank < 0 || (slot->left == left && slot->right == right)) return slot;
    }
}

static uint32_t pair_rank(const ramet__tokenizer *t, int32_t left, int32_t right) {
    return (uint32_t)ramet__merge_slot_of(t, left, right)->rank; /* no such pair: -1, UINT32_MAX */
}

#define SHORT_WORD 48 /* symbols; up to here a scan for the lowest rank beats a heap */

static void merge_short(ramet__ids *out, const ramet__tokenizer *t, int32_t *ids, int32_t n) {
    uint32_t ranks[SHORT_WORD]; /* of the pair (i, i+1) */
    for (int32_t i = 0; i + 1 < n; i++) ranks[i] = pair_rank(t, ids[i], ids[i + 1]);
    while (n > 1) {
        int32_t best = 0;
        for (int32_t i = 1; i + 1 < n; i++) if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == UINT32_MAX) break;
        ids[best] = t->merges[ranks[best]].id;
        n--;
        memmove(&ids[best + 1], &ids[best + 2], (size_t)(n - best - 1) * sizeof(ids[0]));
        memmove(&ranks[best], &ranks[best + 1], (size_t)(n - best - 1) * sizeof(ranks[0]));
        if (best > 0) ranks[best - 1] = pair_rank(t, ids[best - 1], ids[best]);
        if (best + 1 < n) ranks[best] = pair_rank(t, ids[best], ids[best + 1]);
    }
    for (int32_t i = 0; i < n; i++) put(out, ids[i]);
}

static void sift_down(uint64_t *heap, int64_t n, int64_t i) {
    uint64_t value = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= value) break;
        heap[i] = heap[child];
    }
    heap[i] = value;
}

static void sift_up(uint64_t *heap, int64_t i) {
    uint64_t value = heap[i];
    for (; i > 0 && heap[(i - 1) / 2] > value; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = value;
}

/* O(n log n): symbols in a linked list; the heap orders rank << 32 | position. An entry is stale when the rank at its position
 * is another by now. Each merge takes one entry and adds at most two, so 2n entries are enough. */
static ramet_status merge_long(ramet__ids *out, const ramet__tokenizer *t, int32_t *ids, int64_t n) {
    ramet_status st = RAMET_OK;
    int32_t *next = NULL, *previous = NULL;
    uint32_t *ranks = NULL;
    uint64_t *heap = NULL;
    RAMET__NEW(next, ramet__alloc(t->mem, (size_t)n * sizeof(next[0])));
    RAMET__NEW(previous, ramet__alloc(t->mem, (size_t)n * sizeof(previous[0])));
    RAMET__NEW(ranks, ramet__alloc(t->mem, (size_t)n * sizeof(ranks[0])));
    RAMET__NEW(heap, ramet__alloc(t->mem, (size_t)n * 2 * sizeof(heap[0])));
    int64_t in_heap = 0;
    for (int64_t i = 0; i < n; i++) {
        next[i] = i + 1 < n ? (int32_t)(i + 1) : -1;
        previous[i] = (int32_t)(i - 1);
        ranks[i] = i + 1 < n ? pair_rank(t, ids[i], ids[i + 1]) : UINT32_MAX;
        if (ranks[i] != UINT32_MAX) heap[in_heap++] = (uint64_t)ranks[i] << 32 | (uint64_t)i;
    }
    for (int64_t i = in_heap / 2 - 1; i >= 0; i--) sift_down(heap, in_heap, i);
    while (in_heap) {
        uint64_t top = heap[0];
        heap[0] = heap[--in_heap];
        if (in_heap) sift_down(heap, in_heap, 0);
        int32_t at = (int32_t)(top & UINT32_MAX);
        if (ranks[at] != top >> 32) continue;
        int32_t gone = next[at], changed[2] = { previous[at], at };
        ids[at] = t->merges[ranks[at]].id;
        next[at] = next[gone];
        if (next[at] >= 0) previous[next[at]] = at;
        ranks[gone] = UINT32_MAX;
        for (int32_t k = 0; k < 2; k++) {
            int32_t i = changed[k];
            if (i < 0) continue;
            ranks[i] = next[i] >= 0 ? pair_rank(t, ids[i], ids[next[i]]) : UINT32_MAX;
            if (ranks[i] == UINT32_MAX) continue;
            heap[in_heap] = (uint64_t)ranks[i] << 32 | (uint32_t)i;
            sift_up(heap, in_heap++);
        }
    }
    for (int32_t i = 0; i >= 0; i = next[i]) put(out, ids[i]);
out:
    ramet__free(heap);
    ramet__free(ranks);
    ramet__free(previous);
    ramet__free(next);
    return st;
}

static int64_t symbols_of(int32_t *ids, const ramet__tokenizer *t, const char *s, size_t len) {
    int64_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int32_t id = t->byte_ids[(uint8_t)s[i]];
        if (id < 0 && t->emit_unknown) id = t->roles[RAMET__ROLE_UNKNOWN];
        if (id >= 0) ids[n++] = id;
    }
    return n;
}

ramet_status ramet__bpe_merge_word(ramet__ids *out, const ramet__tokenizer *t, const char *s, size_t len) {
    if (len <= SHORT_WORD) {
        int32_t ids[SHORT_WORD];
        merge_short(out, t, ids, (int32_t)symbols_of(ids, t, s, len));
        return RAMET_OK;
    }
    int32_t *ids = ramet__alloc(t->mem, len * sizeof(ids[0]));
    if (!ids) return ramet__alloc_status();
    ramet_status st = RAMET_OK;
    int64_t n = symbols_of(ids, t, s, len);
    if (n > 0) st = merge_long(out, t, ids, n);
    ramet__free(ids);
    return st;
}

ramet_status ramet__bpe_encode(ramet__ids *out, const ramet__tokenizer *t, const char *s, size_t len) {
    const char *end = s + len;
    while (s < end) {
        const char *e = word_end(t, s, end);
        size_t n = (size_t)(e - s);
        int32_t id = n <= t->longest_word ? ramet__tokenizer_find_word(t, s, n) : -1;
        if (id >= 0) put(out, id);
        else RAMET__TRY(ramet__bpe_merge_word(out, t, s, n));
        s = e;
    }
    return RAMET_OK;
}
