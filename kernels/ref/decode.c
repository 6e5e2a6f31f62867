/* SPDX-License-Identifier: Apache-2.0 */
/* decode.c - rows of the encodings that are only read: ggml's blocks of 256 with 6-bit scales inside ("K-quants"), Q5_1, IQ4_NL.
 * Plain loops, the definition for lib/tensor and the reference; decode_low.c has more of them. Layouts as in ggml. */
#include "blocks.h"

static float half_at(const uint8_t *p) { return ramet__half_f32((uint16_t)(p[0] | p[1] << 8)); }

/* d[2], m[2], 32 fifth bits, nibbles (elements j and j + 16 share a byte): w = d * q + m */
void ramet__decode_Q5_1_ref(float *dst, const void *src, int64_t k) {
    const uint8_t *b = src;
    for (; k > 0; k -= 32, b += 24, dst += 32) {
        float d = half_at(b), m = half_at(b + 2);
        for (int j = 0; j < 32; j++) {
            int q = j < 16 ? b[8 + j] & 15 : b[8 + j - 16] >> 4;
            dst[j] = d * (float)(q | (b[4 + j / 8] >> j % 8 & 1) << 4) + m;
        }
    }
}

/* d[2], nibbles that choose one of 16 values */
void ramet__decode_IQ4_NL_ref(float *dst, const void *src, int64_t k) {
    static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    const uint8_t *b = src;
    for (; k > 0; k -= 32, b += 18, dst += 32) {
        float d = half_at(b);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)values[b[2 + j] & 15];
            dst[j + 16] = d * (float)values[b[2 + j] >> 4];
        }
    }
}

/* Scale and minimum of the j-th 32 elements, six bits each, in 12 bytes. */
static void scale_of(const uint8_t *s, int j, float *scale, float *minimum) {
    int a = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4, b = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
    *scale = (float)a;
    *minimum = (float)b;
}

/* d[2], dmin[2], 12 bytes of scales, (Q5_K: 32 bytes of fifth bits, bit j of byte i is of element 32 j + i,) 128 bytes of nibbles: 64
 * elements share 32 bytes, the low halves first. w = d * scale * q - dmin * minimum */
static void decode_4_5(float *dst, const uint8_t *b, int64_t k, int five) {
    for (; k > 0; k -= 256, b += five ? 176 : 144) {
        float d = half_at(b), dmin = half_at(b + 2);
        const uint8_t *high = b + 16, *q = high + (five ? 32 : 0);
        for (int j = 0; j < 8; j++, dst += 32) {
            float scale, minimum;
            scale_of(b + 4, j, &scale, &minimum);
            scale *= d;
            minimum *= dmin;
            const uint8_t *from = q + j / 2 * 32;
            const int shift = j % 2 * 4;
            if (five)
                for (int i = 0; i < 32; i++) dst[i] = scale * (float)((from[i] >> shift & 15) | (high[i] >> j & 1) << 4) - minimum;
            else
                for (int i = 0; i < 32; i++) dst[i] = scale * (float)(from[i] >> shift & 15) - minimum;
        }
    }
}
void ramet__decode_Q4_K_ref(float *dst, const void *src, int64_t k) { decode_4_5(dst, src, k, 0); }
void ramet__decode_Q5_K_ref(float *dst, const void *src, int64_t k) { decode_4_5(dst, src, k, 1); }

/* 128 bytes of low nibbles, 64 of two high bits, 16 signed scales, d[2]: in each half of 128 elements, quarter j of 32 has its low bits in
 * bytes (j & 1) * 32 + i, nibble j / 2, its high bits in byte i at 2 j. w = d * scale * (q - 32), a scale for 16 elements */
void ramet__decode_Q6_K_ref(float *dst, const void *src, int64_t k) {
    const uint8_t *b = src;
    for (; k > 0; k -= 256, b += 210) {
        float d = half_at(b + 208);
        for (int j = 0; j < 8; j++, dst += 32) {
            const uint8_t *low = b + j / 4 * 64 + j % 2 * 32, *high = b + 128 + j / 4 * 32;
            const int8_t *scale = (const int8_t *)b + 192 + j * 2;
            const int nibble = j % 4 / 2 * 4, pair = j % 4 * 2;
            for (int h = 0; h < 32; h += 16) {
                float ds = d * (float)scale[h / 16];
                for (int i = h; i < h + 16; i++) dst[i] = ds * (float)(((low[i] >> nibble & 15) | (high[i] >> pair & 3) << 4) - 32);
            }
        }
    }
}
