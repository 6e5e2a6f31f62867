/* SPDX-License-Identifier: Apache-2.0 */
/* decode_low.c - rows of ggml's encodings below five bits that are only read, most by products in fp32: Q2_K, Q3_K, IQ4_XS, MXFP4, ternary,
 * and the IQ family, whose codes choose points of a grid. Plain loops, one copy for all levels. Layouts as in ggml; each begins with its bytes. */
#include "blocks.h"
#include "ref/iq_grids.inc"

static float half_at(const uint8_t *p) { return ramet__half_f32((uint16_t)(p[0] | p[1] << 8)); }
static uint32_t word_at(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }
static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* 16 bytes of scales (low half) and minimums (high half) of 16 elements, 64 of quants, d[2], dmin[2]: in each 128 elements, quarter j of 32 has
 * the bits at 2 j of 32 bytes. w = d * scale * q - dmin * minimum */
void ramet__decode_Q2_K_ref(float *dst, const void *src, int64_t k) {
    for (const uint8_t *b = src; k > 0; k -= 256, b += 84, dst += 256) {
        float d = half_at(b + 80), dmin = half_at(b + 82);
        for (int i = 0; i < 256; i++) {
            int q = b[16 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3, s = b[i / 16];
            dst[i] = d * (float)(s & 15) * (float)q - dmin * (float)(s >> 4);
        }
    }
}

/* 32 bytes of third bits (bit j of byte i is of element 32 j + i; set means no 4 is taken away), 64 of quants as in Q2_K, 12 of scales of six
 * bits, less 32: four low bits of 16 in 8 bytes, two high ones in 4, d[2]. w = d * scale * (q - 4) */
void ramet__decode_Q3_K_ref(float *dst, const void *src, int64_t k) {
    for (const uint8_t *b = src; k > 0; k -= 256, b += 110, dst += 256) {
        float d = half_at(b + 108);
        for (int i = 0; i < 256; i++) {
            int q = b[32 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3, third = b[i % 32] >> i / 32 & 1, j = i / 16;
            int s = (b[96 + j % 8] >> j / 8 * 4 & 15) | (b[104 + j % 4] >> j / 4 * 2 & 3) << 4;
            dst[i] = d * (float)(s - 32) * (float)(q - (third ? 0 : 4));
        }
    }
}

/* d[2], two high bits of 8 scales in 2 bytes, four low ones in 4, less 32, 128 of nibbles that choose a value: elements j and j + 16 of 32 share a byte */
void ramet__decode_IQ4_XS_ref(float *dst, const void *src, int64_t k) {
    for (const uint8_t *b = src; k > 0; k -= 256, b += 136, dst += 256)
        for (int j = 0; j < 8; j++) {
            int s = (b[4 + j / 2] >> j % 2 * 4 & 15) | (b[2 + j / 4] >> j % 4 * 2 & 3) << 4;
            float d = half_at(b) * (float)(s - 32);
            for (int i = 0; i < 32; i++) dst[32 * j + i] = d * (float)iq4_values[b[8 + 16 * j + i % 16] >> i / 16 * 4 & 15];
        }
}

/* 48 bytes of five base-3 digits each, 4 of four, d[2]: a byte is the digits' fraction of 243 as 256ths, rounded up, so that the leading digit is
 * 3 times the byte over 256 and the next that of the rest. w = d * (digit - 1) */
void ramet__decode_TQ1_0_ref(float *dst, const void *src, int64_t k) {
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    for (const uint8_t *b = src; k > 0; k -= 256, b += 54) {
        static const struct { int from, bytes, digits; } parts[3] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};
        float d = half_at(b + 52);
        for (int p = 0; p < 3; p++)
            for (int n = 0; n < parts[p].digits; n++)
                for (int i = 0; i < parts[p].bytes; i++) *dst++ = d * (float)(((uint8_t)(b[parts[p].from + i] * power[n]) * 3 >> 8) - 1);
    }
}

/* 64 bytes of quants as in Q2_K, d[2]. w = d * (q - 1) */
void ramet__decode_TQ2_0_ref(float *dst, const void *src, int64_t k) {
    for (const uint8_t *b = src; k > 0; k -= 256, b += 66, dst += 256)
        for (int i = 0; i < 256; i++) dst[i] = half_at(b + 64) * (float)((b[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3) - 1);
}

/* OCP microscaling: an exponent byte (2^(e - 127)), nibbles of 4-bit floats, here doubled; elements j and j + 16 share a byte */
void ramet__decode_MXFP4_ref(float *dst, const void *src, int64_t k) {
    static const int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    for (const uint8_t *b = src; k > 0; k -= 32, b += 17, dst += 32) {
        float d = ramet__bits_f32(b[0] < 2 ? 0x00200000u << b[0] : (uint32_t)(b[0] - 1) << 23); /* 2^(e - 128), subnormal for 0 and 1 */
        for (int i = 0; i < 32; i++) dst[i] = d * (float)values[b[1 + i % 16] >> i / 16 * 4 & 15];
    }
}

/* ---- IQ2, IQ3: magnitudes are points of a grid, signs lie apart --------------------------------------------------------------- */

/* Eight numbers: of a point of eight two-bit codes, or of two points of four. Bit i of `signs`: number i is negative. */
static void put_2(float *dst, float d, uint16_t point, uint32_t signs) {
    static const float values[4] = {8, 25, 43};
    for (int i = 0; i < 8; i++) dst[i] = d * values[point >> 2 * i & 3] * (signs >> i & 1 ? -1.0f : 1.0f);
}
static void put_3(float *dst, float d, const float values[8], uint16_t p0, uint16_t p1, uint32_t signs) {
    for (int i = 0; i < 8; i++) dst[i] = d * values[(i < 4 ? p0 : p1) >> i % 4 * 4 & 7] * (signs >> i & 1 ? -1.0f : 1.0f);
}
/* Seven signs; the eighth makes their number even. */
static uint32_t even(uint32_t seven) {
    uint32_t p = seven ^ seven >> 4;
    p ^= p >> 2;
    return seven | ((p ^ p >> 1) & 1) << 7;
}

/* d[2], for 32 elements 4 bytes of points and a word: four times seven signs, and a scale in four bits */
void ramet__decode_IQ2_XXS_ref(float *dst, const void *src, int64_t k) {
    for (const uint8_t *b = src; k > 0; k -= 256, b += 66, dst += 256)
        for (int j = 0; j < 32; j++) {
            const uint8_t *q = b + 2 + j / 4 * 8;
            uint32_t w = word_at(q + 4);
            put_2(dst + 8 * j, half_at(b) * (0.5f + (float)(w >> 28)) * 0.25f, grid_IQ2_XXS[q[j % 4]], even(w >> j % 4 * 7 & 127));
        }
}
/* d[2], 32 times a point in nine bits and seven signs, 8 bytes of scales of 16 elements in four bits */
void ramet__decode_IQ2_XS_ref(float *dst, const void *src, int64_t k) {
    for (const uint8_t *b = src; k > 0; k -= 256, b += 74, dst += 256)
        for (int j = 0; j < 32; j++) {
            uint32_t q = (uint32_t)b[2 + 2 * j] | (uint32_t)b[3 + 2 * j] << 8;
            int s = b[66 + j / 4] >> j / 2 % 2 * 4 & 15;
            put_2(dst + 8 * j, half_at(b) * (0.5f + (float)s) * 0.25f, grid_IQ2_XS[q & 511], even(q >> 9));
        }
}
/* d[2], 32 bytes of points, 32 of signs, 8 of the points' two bits above, 8 of scales as in IQ2_XS */
void ramet__decode_IQ2_S_ref(float *dst, const void *src, int64_t k) {
    for (const uint8_t *b = src; k > 0; k -= 256, b += 82, dst += 256)
        for (int j = 0; j < 32; j++) {
            int s = b[74 + j / 4] >> j / 2 % 2 * 4 & 15, point = b[2 + j] | (b[66 + j / 4] >> j % 4 * 2 & 3) << 8;
            put_2(dst + 8 * j, half_at(b) * (0.5f + (float)s) * 0.25f, grid_IQ2_S[point], b[34 + j]);
        }
}
/* d[2], 64 bytes of points, for 32 elements a word as in IQ2_XXS */
void ramet__decode_IQ3_XXS_ref(float *dst, const void *src, int64_t k) {
    static const float values[8] = {4, 12, 20, 28, 36, 44, 52, 62};
    for (const uint8_t *b = src; k > 0; k -= 256, b += 98, dst += 256)
        for (int j = 0; j < 32; j++) {
            uint32_t w = word_at(b + 66 + j / 4 * 4);
            put_3(dst + 8 * j, half_at(b) * (0.5f + (float)(w >> 28)) * 0.5f, values, grid_IQ3_XXS[b[2 + 2 * j]], grid_IQ3_XXS[b[3 + 2 * j]],
                  even(w >> j % 4 * 7 & 127));
        }
}
/* d[2], 64 bytes of points, 8 of the bit above, 32 of signs, 4 of scales of 32 elements in four bits */
void ramet__decode_IQ3_S_ref(float *dst, const void *src, int64_t k) {
    static const float values[8] = {1, 3, 5, 7, 9, 11, 13, 15};
    for (const uint8_t *b = src; k > 0; k -= 256, b += 110, dst += 256)
        for (int j = 0; j < 32; j++) {
            int s = b[106 + j / 8] >> j / 4 % 2 * 4 & 15, high = b[66 + j / 4] >> j % 4 * 2;
            put_3(dst + 8 * j, half_at(b) * (float)(1 + 2 * s), values, grid_IQ3_S[b[2 + 2 * j] | (high & 1) << 8],
                  grid_IQ3_S[b[3 + 2 * j] | (high >> 1 & 1) << 8], b[74 + j]);
        }
}

/* ---- IQ1: points of -1, 0, 1, moved by an eighth ------------------------------------------------------------------------------- */
static void put_1(float *dst, float d, uint16_t point, float delta) {
    for (int i = 0; i < 8; i++) dst[i] = d * ((float)((point >> 2 * i & 3) - 1) + delta);
}
/* d[2], 32 bytes of points, for 32 elements 2 bytes: the points' three bits above, a scale in three bits, the sign of the shift */
void ramet__decode_IQ1_S_ref(float *dst, const void *src, int64_t k) {
    for (const uint8_t *b = src; k > 0; k -= 256, b += 50, dst += 256)
        for (int j = 0; j < 32; j++) {
            int h = b[34 + j / 4 * 2] | b[35 + j / 4 * 2] << 8;
            put_1(dst + 8 * j, half_at(b) * (float)(2 * (h >> 12 & 7) + 1), grid_IQ1_S[b[2 + j] | (h >> j % 4 * 3 & 7) << 8], h & 0x8000 ? -0.125f : 0.125f);
        }
}
/* 32 bytes of points, 16 of nibbles: the points' three bits above and the sign of the shift, 8 of scales: in each two bytes four of 16 elements, three
 * bits each, and above them a nibble of d, the lowest first */
void ramet__decode_IQ1_M_ref(float *dst, const void *src, int64_t k) {
    for (const uint8_t *b = src; k > 0; k -= 256, b += 56, dst += 256) {
        const uint8_t *s = b + 48;
        float d = ramet__half_f32((uint16_t)(s[1] >> 4 | s[3] >> 4 << 4 | s[5] >> 4 << 8 | s[7] >> 4 << 12));
        for (int j = 0; j < 32; j++) {
            int h = b[32 + j / 2] >> j % 2 * 4, scale = (s[j / 8 * 2] | s[j / 8 * 2 + 1] << 8) >> j % 8 / 2 * 3 & 7;
            put_1(dst + 8 * j, d * (float)(2 * scale + 1), grid_IQ1_S[b[j] | (h & 7) << 8], h & 8 ? -0.125f : 0.125f);
        }
    }
}
