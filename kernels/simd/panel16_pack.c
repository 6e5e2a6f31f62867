/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_pack.c - to panels, for which each encoding has code of its own since a first token waits for it, back to encoded rows, and one row as
 * floats. Plain C, shared by every level. */
#include "simd/vec.h"
#include "simd/panel16.h"

static uint32_t load32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static void store32(void *p, uint32_t v) { memcpy(p, &v, 4); }
static void or32(void *p, uint32_t v) { store32(p, v | load32(p)); }

/* The rows of each encoding: inputs and bytes of a block, where its quants are and the bits above their four. */
static const struct { int inputs, bytes, quants, high; void (*decode)(float *dst, const void *src, int64_t k); } formats[] = {
    [P16_Q4_0] = {32, 18, 2, 0, ramet__decode_Q4_0},      [P16_Q4_1] = {32, 20, 4, 0, ramet__decode_Q4_1},
    [P16_Q5_0] = {32, 22, 6, 2, ramet__decode_Q5_0},      [P16_Q5_1] = {32, 24, 8, 4, ramet__decode_Q5_1},
    [P16_Q8_0] = {32, 34, 2, 0, ramet__decode_Q8_0},      [P16_Q4_K] = {256, 144, 16, 0, ramet__decode_Q4_K},
    [P16_Q5_K] = {256, 176, 48, 16, ramet__decode_Q5_K},  [P16_Q6_K] = {256, 210, 0, 128, ramet__decode_Q6_K}};

/* Where a panel keeps 32 inputs, the j-th of their block, of one output. */
typedef struct place { uint8_t *quants, *high, *scales, *super; int j; } place;

INLINE place place_of(const int enc, const void *packed, int64_t k, int64_t row, int64_t b) {
    int64_t o = row % 16;
    p16_place at = p16_at(enc, (const uint8_t *)packed + row / 16 * p16_bytes(enc, k), b);
#define WRITABLE(p) ((uint8_t *)(uintptr_t)(p))
    return (place){WRITABLE(at.quants) + o * 4, WRITABLE(at.high) + o * 4, WRITABLE(at.scales) + o * (p16_is_k(enc) ? 1 : 2),
                   WRITABLE(at.super) + o * 2, (int)(b % (formats[enc].inputs / 32))};
}

/* In a block's bytes, the word whose nibbles at `shift` are the low bits of inputs 4g..4g+3. */
INLINE int low_at(const int enc, int j, int g, int *shift) {
    if (!p16_is_k(enc)) {
        *shift = g / 4 * 4;
        return formats[enc].quants + g % 4 * 4;
    }
    *shift = enc == P16_Q6_K ? j % 4 / 2 * 4 : j % 2 * 4;
    return formats[enc].quants + (enc == P16_Q6_K ? j / 4 * 64 + j % 2 * 32 : j / 2 * 32) + g * 4;
}
/* The same for the bits above in K-quants. */
INLINE int high_at(const int enc, int j, int g, int *shift) {
    *shift = enc == P16_Q6_K ? j % 4 * 2 : j;
    return formats[enc].high + (enc == P16_Q6_K ? j / 4 * 32 : 0) + g * 4;
}
/* Where they are in `high` of a panel. */
INLINE int64_t high_of(const int enc, int g, int *shift) {
    *shift = enc == P16_Q6_K ? g % 4 * 2 : g;
    return enc == P16_Q6_K ? g / 4 * 64 : 0;
}

enum { NIBBLES = 0x0f0f0f0f, BITS = 0x01010101, PAIRS = 0x03030303 };

INLINE void pack_quants(const int enc, const place *at, const uint8_t *src) {
    uint32_t low[8], above[2] = {0, 0};
    int shift, to;
    if (enc == P16_Q8_0) {
        UNROLL for (int g = 0; g < 8; g++) store32(at->quants + 64 * g, load32(src + 2 + 4 * g) ^ 0x80808080u);
        return;
    }
    UNROLL for (int g = 0; g < 8; g++) {
        const uint8_t *from = src + low_at(enc, at->j, g, &shift);
        low[g] = load32(from) >> shift & NIBBLES;
    }
    UNROLL for (int g = 0; g < 4; g++) store32(at->quants + 64 * g, low[g] | low[g + 4] << 4);
    if (!p16_high(enc)) return;
    UNROLL for (int g = 0; g < 8; g++) {
        uint32_t high;
        if (p16_is_k(enc)) {
            const uint8_t *from = src + high_at(enc, at->j, g, &shift);
            high = load32(from) >> shift & (enc == P16_Q6_K ? PAIRS : BITS);
        } else high = (load32(src + formats[enc].high) >> (4 * g) & 15u) * 0x00204081u & BITS; /* bit i to byte i */
        const int64_t word = high_of(enc, g, &to);
        above[word / 64] |= high << to;
    }
    store32(at->high, above[0]);
    if (p16_high(enc) > 64) store32(at->high + 64, above[1]);
}

static void unpack_quants(int enc, const place *at, uint8_t *dst) {
    int shift, from;
    if (enc == P16_Q8_0) {
        for (int g = 0; g < 8; g++) or32(dst + 2 + 4 * g, load32(at->quants + 64 * g) ^ 0x80808080u);
        return;
    }
    for (int g = 0; g < 8; g++) {
        uint8_t *to = dst + low_at(enc, at->j, g, &shift);
        or32(to, (load32(at->quants + g % 4 * 64) >> g / 4 * 4 & NIBBLES) << shift);
    }
    for (int g = 0; g < 8 && p16_high(enc); g++) {
        int64_t word = high_of(enc, g, &from);
        uint32_t high = load32(at->high + word) >> from & (enc == P16_Q6_K ? PAIRS : BITS);
        if (p16_is_k(enc)) {
            uint8_t *to = dst + high_at(enc, at->j, g, &shift);
            or32(to, high << shift);
        } else or32(dst + formats[enc].high, (high * 0x10204080u >> 28) << (4 * g)); /* bit 0 of byte i to bit i */
    }
}

/* Scales to the panel, or from it. Those of Q4_K and Q5_K lie in 12 bytes, six bits each. */
INLINE void move_scales(const int enc, const place *at, uint8_t *row, const int unpack) {
    uint8_t *s = at->scales;
    int j = at->j;
    if (!p16_is_k(enc)) {
        memcpy(unpack ? row : s, unpack ? s : row, 2);
        if (p16_has_min(enc)) memcpy(unpack ? row + 2 : s + 32, unpack ? s + 32 : row + 2, 2);
        return;
    }
    if (enc == P16_Q6_K) {
        uint8_t *scale = row + 192 + 2 * j, *d = row + 208;
        memcpy(unpack ? scale : s, unpack ? s : scale, 1);
        memcpy(unpack ? scale + 1 : s + 16, unpack ? s + 16 : scale + 1, 1);
        memcpy(unpack ? d : at->super, unpack ? at->super : d, 2);
        return;
    }
    memcpy(unpack ? row : at->super, unpack ? at->super : row, 2);
    memcpy(unpack ? row + 2 : at->super + 32, unpack ? at->super + 32 : row + 2, 2);
    (unpack ? row + 2 : at->super + 32)[1] ^= 0x80; /* -dmin */
    uint8_t *six = row + 4 + j;
    if (!unpack) {
        s[0] = j < 4 ? six[0] & 63 : (uint8_t)((six[4] & 15) | six[-4] >> 6 << 4);
        s[16] = j < 4 ? six[4] & 63 : (uint8_t)(six[4] >> 4 | six[0] >> 6 << 4);
    } else if (j < 4) {
        six[0] |= s[0];
        six[4] |= s[16];
    } else {
        six[4] |= (uint8_t)((s[0] & 15) | s[16] << 4);
        six[-4] |= (uint8_t)(s[0] >> 4 << 6);
        six[0] |= (uint8_t)(s[16] >> 4 << 6);
    }
}

INLINE int64_t row_bytes(const int enc, int64_t k) { return k / formats[enc].inputs * formats[enc].bytes; }

INLINE void pack(const int enc, uint8_t *packed, const uint8_t *rows, int64_t n, int64_t k, int64_t n0, int64_t n1) {
    for (int64_t r = n0; r < n1; r++) {
        if (r % 16 == 0) memset(packed + r / 16 * p16_bytes(enc, k), 0, (size_t)p16_bytes(enc, k));
        for (int64_t b = 0; b < k / 32; b++) {
            uint8_t *src = WRITABLE(rows) + r * row_bytes(enc, k) + b / (formats[enc].inputs / 32) * formats[enc].bytes;
            place at = place_of(enc, packed, k, r, b);
            pack_quants(enc, &at, src);
            move_scales(enc, &at, src, 0);
        }
    }
}

/* The block with inputs 32b.. of one row */
static void unpack_block(int enc, uint8_t *dst, const uint8_t *packed, int64_t k, int64_t row, int64_t b) {
    memset(dst, 0, (size_t)formats[enc].bytes);
    for (int64_t end = b + formats[enc].inputs / 32; b < end; b++) {
        place at = place_of(enc, packed, k, row, b);
        unpack_quants(enc, &at, dst);
        move_scales(enc, &at, dst, 1);
    }
}

static void unpack(int enc, uint8_t *rows, const uint8_t *packed, int64_t k, int64_t n0, int64_t n1) {
    rows += n0 * row_bytes(enc, k);
    for (int64_t r = n0; r < n1; r++)
        for (int64_t i = 0; i < k; i += formats[enc].inputs, rows += formats[enc].bytes) unpack_block(enc, rows, packed, k, r, i / 32);
}

static void decode(int enc, float *dst, const uint8_t *packed, int64_t k, int64_t row) {
    uint16_t block[105]; /* at an even address */
    for (int64_t i = 0; i < k; i += formats[enc].inputs) {
        unpack_block(enc, (uint8_t *)block, packed, k, row, i / 32);
        formats[enc].decode(dst + i, block, formats[enc].inputs);
    }
}

/* ---- IQ4_NL lies in panels as Q8_0: its 16 values fit in signed bytes. Twice the file's bytes, no kernel of its own. ---- */
static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
enum { IQ4_BYTES = 18 };

static uint64_t bytes_IQ4_NL(int64_t n, int64_t k) { return (uint64_t)((n + 15) / 16 * p16_bytes(P16_Q8_0, k)); }
static void pack_IQ4_NL(void *packed, const void *rows, int64_t n, int64_t k, int64_t n0, int64_t n1) {
    int64_t bytes = p16_bytes(P16_Q8_0, k);
    const uint8_t *src = (const uint8_t *)rows + n0 * (k / 32) * IQ4_BYTES;
    for (int64_t r = n0; r < n1; r++) {
        if (r % 16 == 0) memset((uint8_t *)packed + r / 16 * bytes, 0, (size_t)bytes);
        for (int64_t b = 0; b < k / 32; b++, src += IQ4_BYTES) {
            place at = place_of(P16_Q8_0, packed, k, r, b);
            memcpy(at.scales, src, 2);
            for (int i = 0; i < 32; i++) {
                int q = i < 16 ? src[2 + i] & 15 : src[2 + i - 16] >> 4;
                at.quants[i / 4 * 64 + i % 4] = (uint8_t)(iq4_values[q] + 128);
            }
        }
    }
}
static void unpack_IQ4_NL(void *rows, const void *packed, int64_t n, int64_t k, int64_t n0, int64_t n1) {
    uint8_t *dst = (uint8_t *)rows + n0 * (k / 32) * IQ4_BYTES;
    for (int64_t r = n0; r < n1; r++)
        for (int64_t b = 0; b < k / 32; b++, dst += IQ4_BYTES) {
            place at = place_of(P16_Q8_0, packed, k, r, b);
            memcpy(dst, at.scales, 2);
            memset(dst + 2, 0, 16);
            for (int i = 0; i < 32; i++) {
                int v = at.quants[i / 4 * 64 + i % 4] - 128, q = 0;
                while (q < 15 && iq4_values[q] != v) q++;
                dst[2 + i % 16] |= (uint8_t)(q << i / 16 * 4);
            }
        }
}

#define PACKING(ENC)                                                                                                                    \
    static uint64_t bytes_##ENC(int64_t n, int64_t k) { return (uint64_t)((n + 15) / 16 * p16_bytes(P16_##ENC, k)); }                   \
    static void pack_##ENC(void *packed, const void *rows, int64_t n, int64_t k, int64_t n0, int64_t n1) {                              \
        pack(P16_##ENC, packed, rows, n, k, n0, n1);                                                                                    \
    }                                                                                                                                   \
    static void unpack_##ENC(void *rows, const void *packed, int64_t n, int64_t k, int64_t n0, int64_t n1) {                            \
        unpack(P16_##ENC, rows, packed, k, n0, n1);                                                                                     \
    }                                                                                                                                   \
    static void decode_##ENC(float *dst, const void *packed, int64_t n, int64_t k, int64_t row) { decode(P16_##ENC, dst, packed, k, row); } \
    const ramet__packing ramet__packing_panel16_##ENC = {"panel16", #ENC, 16, 32, 0, bytes_##ENC, pack_##ENC, unpack_##ENC, decode_##ENC};

PACKING(Q4_0)
PACKING(Q4_1)
PACKING(Q5_0)
PACKING(Q5_1)
PACKING(Q8_0)
PACKING(Q4_K)
PACKING(Q5_K)
PACKING(Q6_K)
const ramet__packing ramet__packing_panel16_IQ4_NL = {"panel16", "IQ4_NL", 16, 32, 0, bytes_IQ4_NL, pack_IQ4_NL, unpack_IQ4_NL, decode_Q8_0};
