/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.h - the encoded blocks as they lie in files (ggml's layouts), and the conversion of 16-bit floats.
 * Everything is static inline: each ISA library compiles its own copy with its own flags. Little-endian hosts only. */
#ifndef RAMET__BLOCKS_H
#define RAMET__BLOCKS_H
#include <stdint.h>
#include <string.h>

#define RAMET__QK 32 /* elements of every quantized block */

/* w = d * (q - 8); byte j holds element j in its low nibble and element j + 16 in its high one */
typedef struct { uint16_t d; uint8_t qs[16]; } ramet__q4_0;
/* w = d * q + m */
typedef struct { uint16_t d, m; uint8_t qs[16]; } ramet__q4_1;
/* w = d * (q - 16); bit j of qh is the fifth bit of element j */
typedef struct { uint16_t d; uint8_t qh[4]; uint8_t qs[16]; } ramet__q5_0;
/* w = d * q */
typedef struct { uint16_t d; int8_t qs[32]; } ramet__q8_0;
_Static_assert(sizeof(ramet__q4_0) == 18 && sizeof(ramet__q4_1) == 20 && sizeof(ramet__q5_0) == 22 && sizeof(ramet__q8_0) == 34, "blocks are packed");

static inline float ramet__bits_f32(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t ramet__f32_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

/* IEEE half to single, subnormals and NaN included: the exponent is rebased by a multiplication that is exact. */
static inline float ramet__half_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, mag = (uint32_t)(h & 0x7fffu) << 13;
    float f = ramet__bits_f32(mag) * ramet__bits_f32(0x77800000u); /* 2^112 */
    if ((h & 0x7c00u) == 0x7c00u) return ramet__bits_f32(sign | 0x7f800000u | mag);
    return ramet__bits_f32(sign | ramet__f32_bits(f));
}

/* Nearest even; beyond 65504: infinity; a NaN stays one. */
static inline uint16_t ramet__f32_half(float f) {
    uint32_t u = ramet__f32_bits(f), sign = u >> 16 & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (mag >> 13 & 0x3ffu));
    if (mag >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (mag < 0x38800000u) { /* subnormal: the sum with 0.5 rounds at 2^-24 */
        return (uint16_t)(sign | (ramet__f32_bits(ramet__bits_f32(mag) + 0.5f) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((mag + 0xfffu + (mag >> 13 & 1u) - 0x38000000u) >> 13));
}

static inline float ramet__brain_f32(uint16_t h) { return ramet__bits_f32((uint32_t)h << 16); }

/* Nearest even; a NaN stays one. */
static inline uint16_t ramet__f32_brain(float f) {
    uint32_t u = ramet__f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* One row of k elements as floats. k is a multiple of 32 for the quantized ones. */
static inline void ramet__decode_F32(float *dst, const void *src, int64_t k) { memcpy(dst, src, (size_t)k * 4); }

static inline void ramet__decode_F16(float *dst, const void *src, int64_t k) {
    const uint16_t *s = src;
    for (int64_t i = 0; i < k; i++) dst[i] = ramet__half_f32(s[i]);
}

static inline void ramet__decode_BF16(float *dst, const void *src, int64_t k) {
    const uint16_t *s = src;
    for (int64_t i = 0; i < k; i++) dst[i] = ramet__brain_f32(s[i]);
}

static inline void ramet__decode_Q4_0(float *dst, const void *src, int64_t k) {
    const ramet__q4_0 *b = src;
    for (int64_t i = 0; i < k; i += 32, b++) {
        float d = ramet__half_f32(b->d);
        for (int j = 0; j < 16; j++) {
            dst[i + j] = d * (float)((b->qs[j] & 15) - 8);
            dst[i + j + 16] = d * (float)((b->qs[j] >> 4) - 8);
        }
    }
}

static inline void ramet__decode_Q4_1(float *dst, const void *src, int64_t k) {
    const ramet__q4_1 *b = src;
    for (int64_t i = 0; i < k; i += 32, b++) {
        float d = ramet__half_f32(b->d), m = ramet__half_f32(b->m);
        for (int j = 0; j < 16; j++) {
            dst[i + j] = d * (float)(b->qs[j] & 15) + m;
            dst[i + j + 16] = d * (float)(b->qs[j] >> 4) + m;
        }
    }
}

static inline void ramet__decode_Q5_0(float *dst, const void *src, int64_t k) {
    const ramet__q5_0 *b = src;
    for (int64_t i = 0; i < k; i += 32, b++) {
        float d = ramet__half_f32(b->d);
        uint32_t qh = (uint32_t)b->qh[0] | (uint32_t)b->qh[1] << 8 | (uint32_t)b->qh[2] << 16 | (uint32_t)b->qh[3] << 24;
        for (int j = 0; j < 16; j++) {
            dst[i + j] = d * (float)((int)((b->qs[j] & 15u) | ((qh >> j) & 1u) << 4) - 16);
            dst[i + j + 16] = d * (float)((int)((b->qs[j] >> 4) | ((qh >> (j + 16)) & 1u) << 4) - 16);
        }
    }
}

static inline void ramet__decode_Q8_0(float *dst, const void *src, int64_t k) {
    const ramet__q8_0 *b = src;
    for (int64_t i = 0; i < k; i += 32, b++) {
        float d = ramet__half_f32(b->d);
        for (int j = 0; j < 32; j++) dst[i + j] = d * (float)b->qs[j];
    }
}

/* Those that are only read: ref/decode.c and, LOW(name, elements and bytes of a block), ref/decode_low.c. */
#define RAMET__LOW(X) \
    X(Q2_K, 256, 84)    X(Q3_K, 256, 110)    X(IQ2_XXS, 256, 66)    X(IQ2_XS, 256, 74) \
    X(IQ3_XXS, 256, 98)    X(IQ1_S, 256, 50)    X(IQ3_S, 256, 110)    X(IQ2_S, 256, 82) \
    X(IQ4_XS, 256, 136)    X(IQ1_M, 256, 56)    X(TQ1_0, 256, 54)    X(TQ2_0, 256, 66) \
    X(MXFP4, 32, 17)
#define RAMET__DECODER(name, elements, bytes) void ramet__decode_##name##_ref(float *dst, const void *src, int64_t k);
RAMET__DECODER(Q5_1, 32, 24)
RAMET__DECODER(Q4_K, 256, 144)
RAMET__DECODER(Q5_K, 256, 176)
RAMET__DECODER(Q6_K, 256, 210)
RAMET__DECODER(IQ4_NL, 32, 18)
RAMET__LOW(RAMET__DECODER)
#undef RAMET__DECODER
#define ramet__decode_Q5_1 ramet__decode_Q5_1_ref
#define ramet__decode_Q4_K ramet__decode_Q4_K_ref
#define ramet__decode_Q5_K ramet__decode_Q5_K_ref
#define ramet__decode_Q6_K ramet__decode_Q6_K_ref
#define ramet__decode_IQ4_NL ramet__decode_IQ4_NL_ref
#define ramet__decode_Q2_K ramet__decode_Q2_K_ref
#define ramet__decode_Q3_K ramet__decode_Q3_K_ref
#define ramet__decode_IQ2_XXS ramet__decode_IQ2_XXS_ref
#define ramet__decode_IQ2_XS ramet__decode_IQ2_XS_ref
#define ramet__decode_IQ3_XXS ramet__decode_IQ3_XXS_ref
#define ramet__decode_IQ1_S ramet__decode_IQ1_S_ref
#define ramet__decode_IQ3_S ramet__decode_IQ3_S_ref
#define ramet__decode_IQ2_S ramet__decode_IQ2_S_ref
#define ramet__decode_IQ4_XS ramet__decode_IQ4_XS_ref
#define ramet__decode_IQ1_M ramet__decode_IQ1_M_ref
#define ramet__decode_TQ1_0 ramet__decode_TQ1_0_ref
#define ramet__decode_TQ2_0 ramet__decode_TQ2_0_ref
#define ramet__decode_MXFP4 ramet__decode_MXFP4_ref

/* Bytes of an encoded row of k elements. */
static inline int64_t ramet__row_F32(int64_t k) { return k * 4; }
static inline int64_t ramet__row_F16(int64_t k) { return k * 2; }
static inline int64_t ramet__row_BF16(int64_t k) { return k * 2; }
static inline int64_t ramet__row_Q4_0(int64_t k) { return k / 32 * 18; }
static inline int64_t ramet__row_Q4_1(int64_t k) { return k / 32 * 20; }
static inline int64_t ramet__row_Q5_0(int64_t k) { return k / 32 * 22; }
static inline int64_t ramet__row_Q8_0(int64_t k) { return k / 32 * 34; }
static inline int64_t ramet__row_Q5_1(int64_t k) { return k / 32 * 24; }
static inline int64_t ramet__row_Q4_K(int64_t k) { return k / 256 * 144; }
static inline int64_t ramet__row_Q5_K(int64_t k) { return k / 256 * 176; }
static inline int64_t ramet__row_Q6_K(int64_t k) { return k / 256 * 210; }
static inline int64_t ramet__row_IQ4_NL(int64_t k) { return k / 32 * 18; }
#define RAMET__ROW(name, elements, bytes) static inline int64_t ramet__row_##name(int64_t k) { return k / elements * bytes; }
RAMET__LOW(RAMET__ROW)
#undef RAMET__ROW

static inline uint64_t ramet__round64(uint64_t n) { return (n + 63u) & ~(uint64_t)63u; }
#endif
