/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_pack.c - to panels, back to encoded rows, and one row as floats. Plain C, shared by every level. */
#include "simd/panel16.h"

static uint32_t load32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }

/* The parts of a block of each encoding. */
static const int block_bytes[] = {18, 20, 22, 34}, at_quants[] = {2, 4, 6, 2};

static void pack(int enc, uint8_t *packed, const uint8_t *rows, int64_t n, int64_t k, int64_t n0, int64_t n1) {
    int64_t blocks = k / 32, bytes = p16_bytes(enc, k);
    for (int64_t p = n0 / 16; p * 16 < n1; p++) {
        uint8_t *quants = packed + p * bytes, *fifth = quants + blocks * p16_quants(enc), *scales = fifth + blocks * p16_fifth(enc);
        memset(quants, 0, (size_t)bytes);
        for (int64_t o = 0; o < 16 && p * 16 + o < n; o++) {
            const uint8_t *src = rows + (p * 16 + o) * blocks * block_bytes[enc];
            for (int64_t b = 0; b < blocks; b++, src += block_bytes[enc]) {
                uint8_t *q = quants + b * p16_quants(enc) + o * 4, *s = scales + b * p16_scales(enc) + o * 2;
                for (int j = 0; j < p16_quants(enc) / 64; j++) {
                    uint32_t v = load32(src + at_quants[enc] + 4 * j);
                    if (enc == P16_Q8_0) v ^= 0x80808080u;
                    memcpy(q + 64 * j, &v, 4);
                }
                memcpy(s, src, 2);
                if (enc == P16_Q4_1) memcpy(s + 32, src + 2, 2);
                if (enc == P16_Q5_0)
                    for (int g = 0; g < 8; g++) {
                        uint32_t bits = load32(src + 2) >> (4 * g) & 15u;
                        fifth[b * 64 + g * 8 + o / 2] |= (uint8_t)(bits << (o % 2 * 4));
                    }
            }
        }
    }
}

static void unpack_row(int enc, uint8_t *dst, const uint8_t *packed, int64_t k, int64_t row) {
    int64_t blocks = k / 32, o = row % 16;
    const uint8_t *quants = packed + row / 16 * p16_bytes(enc, k), *fifth = quants + blocks * p16_quants(enc), *scales = fifth + blocks * p16_fifth(enc);
    for (int64_t b = 0; b < blocks; b++, dst += block_bytes[enc]) {
        const uint8_t *q = quants + b * p16_quants(enc) + o * 4, *s = scales + b * p16_scales(enc) + o * 2;
        for (int j = 0; j < p16_quants(enc) / 64; j++) {
            uint32_t v = load32(q + 64 * j);
            if (enc == P16_Q8_0) v ^= 0x80808080u;
            memcpy(dst + at_quants[enc] + 4 * j, &v, 4);
        }
        memcpy(dst, s, 2);
        if (enc == P16_Q4_1) memcpy(dst + 2, s + 32, 2);
        if (enc == P16_Q5_0) {
            uint32_t bits = 0;
            for (int g = 0; g < 8; g++) bits |= (uint32_t)(fifth[b * 64 + g * 8 + o / 2] >> (o % 2 * 4) & 15u) << (4 * g);
            memcpy(dst + 2, &bits, 4);
        }
    }
}

static void unpack(int enc, uint8_t *rows, const uint8_t *packed, int64_t k, int64_t n0, int64_t n1) {
    for (int64_t r = n0; r < n1; r++) unpack_row(enc, rows + r * (k / 32) * block_bytes[enc], packed, k, r);
}

static void decode_block(int enc, float *dst, const uint8_t *q, const uint8_t *fifth, const uint8_t *s, int64_t o) {
    uint16_t h[2];
    memcpy(h, s, 2);
    memcpy(h + 1, enc == P16_Q4_1 ? s + 32 : s, 2);
    float d = ramet__half_f32(h[0]), m = ramet__half_f32(h[1]);
    for (int i = 0; i < 32; i++) {
        int g = i / 4, v;
        if (enc == P16_Q8_0) v = q[64 * g + i % 4];
        else v = g < 4 ? q[64 * g + i % 4] & 15 : q[64 * (g - 4) + i % 4] >> 4;
        if (enc == P16_Q5_0) v |= (fifth[g * 8 + o / 2] >> (o % 2 * 4 + i % 4) & 1) << 4;
        dst[i] = d * (float)(v - p16_offset(enc));
        if (enc == P16_Q4_1) dst[i] += m;
    }
}

/* ---- IQ4_NL lies in panels as Q8_0: its 16 values fit in signed bytes. Twice the file's bytes, no kernel of its own. ---- */
static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
enum { IQ4_BYTES = 18 };

static uint64_t bytes_IQ4_NL(int64_t n, int64_t k) { return (uint64_t)((n + 15) / 16 * p16_bytes(P16_Q8_0, k)); }
static void pack_IQ4_NL(void *packed, const void *rows, int64_t n, int64_t k, int64_t n0, int64_t n1) {
    int64_t blocks = k / 32, bytes = p16_bytes(P16_Q8_0, k);
    for (int64_t r = n0; r < n1; r++) {
        uint8_t *quants = (uint8_t *)packed + r / 16 * bytes, *scales = quants + blocks * 512;
        const uint8_t *src = (const uint8_t *)rows + r * blocks * IQ4_BYTES;
        if (r % 16 == 0) memset(quants, 0, (size_t)bytes);
        for (int64_t b = 0; b < blocks; b++, src += IQ4_BYTES) {
            memcpy(scales + b * 32 + r % 16 * 2, src, 2);
            for (int i = 0; i < 32; i++) {
                int q = i < 16 ? src[2 + i] & 15 : src[2 + i - 16] >> 4;
                quants[b * 512 + i / 4 * 64 + r % 16 * 4 + i % 4] = (uint8_t)(iq4_values[q] + 128);
            }
        }
    }
}
static void unpack_IQ4_NL(void *rows, const void *packed, int64_t n, int64_t k, int64_t n0, int64_t n1) {
    int64_t blocks = k / 32;
    for (int64_t r = n0; r < n1; r++) {
        const uint8_t *quants = (const uint8_t *)packed + r / 16 * p16_bytes(P16_Q8_0, k), *scales = quants + blocks * 512;
        uint8_t *dst = (uint8_t *)rows + r * blocks * IQ4_BYTES;
        for (int64_t b = 0; b < blocks; b++, dst += IQ4_BYTES) {
            memcpy(dst, scales + b * 32 + r % 16 * 2, 2);
            memset(dst + 2, 0, 16);
            for (int i = 0; i < 32; i++) {
                int v = quants[b * 512 + i / 4 * 64 + r % 16 * 4 + i % 4] - 128, q = 0;
                while (q < 15 && iq4_values[q] != v) q++;
                dst[2 + i % 16] |= (uint8_t)(q << i / 16 * 4);
            }
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
    static void decode_##ENC(float *dst, const void *packed, int64_t n, int64_t k, int64_t row) {                                       \
        int64_t blocks = k / 32, o = row % 16;                                                                                          \
        const uint8_t *quants = (const uint8_t *)packed + row / 16 * p16_bytes(P16_##ENC, k);                                           \
        const uint8_t *scales = quants + blocks * (p16_quants(P16_##ENC) + p16_fifth(P16_##ENC));                                       \
        const uint8_t *fifth = quants + blocks * p16_quants(P16_##ENC);                                                                 \
        for (int64_t b = 0; b < blocks; b++)                                                                                            \
            decode_block(P16_##ENC, dst + 32 * b, quants + b * p16_quants(P16_##ENC) + o * 4, fifth + b * 64,                           \
                         scales + b * p16_scales(P16_##ENC) + o * 2, o);                                                                \
    }                                                                                                                                   \
    const ramet__packing ramet__packing_panel16_##ENC = {"panel16", #ENC, 16, 32, 0, bytes_##ENC, pack_##ENC, unpack_##ENC, decode_##ENC};

PACKING(Q4_0)
PACKING(Q4_1)
PACKING(Q5_0)
PACKING(Q8_0)
const ramet__packing ramet__packing_panel16_IQ4_NL = {"panel16", "IQ4_NL", 16, 32, 0, bytes_IQ4_NL, pack_IQ4_NL, unpack_IQ4_NL, decode_Q8_0};
