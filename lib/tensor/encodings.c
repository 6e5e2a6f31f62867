/* SPDX-License-Identifier: Apache-2.0 */
/* encodings.c - how numbers lie in bytes: decode (the definition of each encoding) and encode (round to nearest), and the
 * table that encodings.def generates. Blocks are laid out as ggml lays them out, and encode gives the same bytes as its
 * reference quantizers, so that a file quantized here equals one quantized there. Where that reference leaves the result
 * to the machine (NaN, or a block so small that 1/scale overflows), the number is clamped here.
 *
 * Blocks hold fp16 at even addresses only by courtesy of the container: everything is read byte by byte or by memcpy. */
#include "tensor/tensor.h"
#include "blocks.h"
#include <math.h>
#include <string.h>

/* ---- single numbers -------------------------------------------------------------------------------------------- */

static float float_of_bits(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static uint32_t bits_of_float(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

float ramet__f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    if (exponent == 31) return float_of_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float f = (float)fraction * 0x1p-24f; /* exact: a denormal is a multiple of 2^-24 */
    return sign ? -f : f;
}

uint16_t ramet__f32_to_f16(float f) {
    uint32_t u = bits_of_float(f), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff)); /* NaN stays NaN, made quiet */
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00);                    /* 65520 and up round to infinity */
    if (a < 0x38800000) { /* below 2^-14: let the float adder round to a multiple of 2^-24 */
        float r = float_of_bits(a) + 0x1p-1f;
        return (uint16_t)(sign | (bits_of_float(r) - 0x3f000000));
    }
    return (uint16_t)(sign | (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13);
}

float ramet__bf16_to_f32(uint16_t h) { return float_of_bits((uint32_t)h << 16); }

uint16_t ramet__f32_to_bf16(float f) {
    uint32_t u = bits_of_float(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 64);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static uint16_t load16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static void store16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v; p[1] = (uint8_t)(v >> 8); }

/* ---- one number a block ---------------------------------------------------------------------------------------- */

static void decode_F32(float *dst, const void *src, int64_t n) { if (n) memmove(dst, src, (size_t)n * 4); }
static void encode_F32(void *dst, const float *src, int64_t n) { if (n) memmove(dst, src, (size_t)n * 4); }

static void decode_F16(float *dst, const void *src, int64_t n) {
    const uint8_t *s = src;
    for (int64_t i = 0; i < n; i++) dst[i] = ramet__f16_to_f32(load16(s + 2 * i));
}
static void encode_F16(void *dst, const float *src, int64_t n) {
    uint8_t *d = dst;
    for (int64_t i = 0; i < n; i++) store16(d + 2 * i, ramet__f32_to_f16(src[i]));
}
static void decode_BF16(float *dst, const void *src, int64_t n) {
    const uint8_t *s = src;
    for (int64_t i = 0; i < n; i++) dst[i] = ramet__bf16_to_f32(load16(s + 2 * i));
}
static void encode_BF16(void *dst, const float *src, int64_t n) {
    uint8_t *d = dst;
    for (int64_t i = 0; i < n; i++) store16(d + 2 * i, ramet__f32_to_bf16(src[i]));
}

/* ---- blocks of 32 ---------------------------------------------------------------------------------------------- */

enum { BLOCK = 32, HALF = BLOCK / 2 };

/* Truncate x to 0..top; NaN gives 0. */
static uint32_t to_code(float x, uint32_t top) { return x > 0 ? x < (float)top ? (uint32_t)x : top : 0; }

/* The value of largest magnitude, with its sign: it gets the code whose magnitude is largest. The first one wins. */
static float extreme(const float *x) {
    float best = 0, magnitude = 0;
    for (int i = 0; i < BLOCK; i++) {
        if (fabsf(x[i]) > magnitude) { magnitude = fabsf(x[i]); best = x[i]; }
    }
    return best;
}

static float inverse(float d) { return d != 0 ? 1.0f / d : 0.0f; }

/* Q4_0: fp16 d, 16 bytes of nibbles (elements j and j + 16 share a byte). value = d * (code - 8) */
static void decode_Q4_0(float *dst, const void *src, int64_t n) {
    const uint8_t *s = src;
    for (int64_t b = 0; b < n / BLOCK; b++, s += 18, dst += BLOCK) {
        float d = ramet__f16_to_f32(load16(s));
        for (int j = 0; j < HALF; j++) {
            dst[j] = d * (float)((s[2 + j] & 15) - 8);
            dst[j + HALF] = d * (float)((s[2 + j] >> 4) - 8);
        }
    }
}
static void encode_Q4_0(void *dst, const float *src, int64_t n) {
    uint8_t *s = dst;
    for (int64_t b = 0; b < n / BLOCK; b++, s += 18, src += BLOCK) {
        float d = extreme(src) / -8, id = inverse(d);
        store16(s, ramet__f32_to_f16(d));
        for (int j = 0; j < HALF; j++)
            s[2 + j] = (uint8_t)(to_code(src[j] * id + 8.5f, 15) | to_code(src[j + HALF] * id + 8.5f, 15) << 4);
    }
}

/* Q4_1: fp16 d, fp16 m, nibbles. value = d * code + m */
static void decode_Q4_1(float *dst, const void *src, int64_t n) {
    const uint8_t *s = src;
    for (int64_t b = 0; b < n / BLOCK; b++, s += 20, dst += BLOCK) {
        float d = ramet__f16_to_f32(load16(s)), m = ramet__f16_to_f32(load16(s + 2));
        for (int j = 0; j < HALF; j++) {
            dst[j] = d * (float)(s[4 + j] & 15) + m;
            dst[j + HALF] = d * (float)(s[4 + j] >> 4) + m;
        }
    }
}
static void encode_Q4_1(void *dst, const float *src, int64_t n) {
    uint8_t *s = dst;
    for (int64_t b = 0; b < n / BLOCK; b++, s += 20, src += BLOCK) {
        float low = src[0], high = src[0];
        for (int j = 1; j < BLOCK; j++) {
            if (src[j] < low) low = src[j];
            if (src[j] > high) high = src[j];
        }
        float d = (high - low) / 15, id = inverse(d);
        store16(s, ramet__f32_to_f16(d));
        store16(s + 2, ramet__f32_to_f16(low));
        for (int j = 0; j < HALF; j++)
            s[4 + j] = (uint8_t)(to_code((src[j] - low) * id + 0.5f, 15) | to_code((src[j + HALF] - low) * id + 0.5f, 15) << 4);
    }
}

/* Q5_0: fp16 d, 32 fifth bits (bit j is element j), nibbles. value = d * (code - 16) */
static void decode_Q5_0(float *dst, const void *src, int64_t n) {
    const uint8_t *s = src;
    for (int64_t b = 0; b < n / BLOCK; b++, s += 22, dst += BLOCK) {
        float d = ramet__f16_to_f32(load16(s));
        for (int j = 0; j < HALF; j++) {
            int high0 = s[2 + j / 8] >> j % 8 & 1, high1 = s[4 + j / 8] >> j % 8 & 1;
            dst[j] = d * (float)(((s[6 + j] & 15) | high0 << 4) - 16);
            dst[j + HALF] = d * (float)((s[6 + j] >> 4 | high1 << 4) - 16);
        }
    }
}
static void encode_Q5_0(void *dst, const float *src, int64_t n) {
    uint8_t *s = dst;
    for (int64_t b = 0; b < n / BLOCK; b++, s += 22, src += BLOCK) {
        float d = extreme(src) / -16, id = inverse(d);
        store16(s, ramet__f32_to_f16(d));
        memset(s + 2, 0, 4);
        for (int j = 0; j < HALF; j++) {
            uint32_t c0 = to_code(src[j] * id + 16.5f, 31), c1 = to_code(src[j + HALF] * id + 16.5f, 31);
            s[6 + j] = (uint8_t)((c0 & 15) | (c1 & 15) << 4);
            s[2 + j / 8] |= (uint8_t)((c0 >> 4) << j % 8);
            s[4 + j / 8] |= (uint8_t)((c1 >> 4) << j % 8);
        }
    }
}

/* Q8_0: fp16 d, 32 signed bytes. value = d * code; halves round away from zero */
static void decode_Q8_0(float *dst, const void *src, int64_t n) {
    const uint8_t *s = src;
    for (int64_t b = 0; b < n / BLOCK; b++, s += 34, dst += BLOCK) {
        float d = ramet__f16_to_f32(load16(s));
        for (int j = 0; j < BLOCK; j++) dst[j] = d * (float)(int8_t)s[2 + j];
    }
}
static void encode_Q8_0(void *dst, const float *src, int64_t n) {
    uint8_t *s = dst;
    for (int64_t b = 0; b < n / BLOCK; b++, s += 34, src += BLOCK) {
        float d = fabsf(extreme(src)) / 127, id = inverse(d);
        store16(s, ramet__f32_to_f16(d));
        for (int j = 0; j < BLOCK; j++) {
            float v = src[j] * id, a = fabsf(v);
            a = a < 127 ? a : a >= 127 ? 127 : 0; /* NaN: 0 */
            int code = (int)a;
            code += a - (float)code >= 0.5f;
            code = v < 0 ? -code : code;
            s[2 + j] = (uint8_t)(int8_t)code;
        }
    }
}

/* ---- read only: decoded by kernels/ref/decode.c and decode_low.c ------------------------------------------------- */
#define decode_Q5_1 ramet__decode_Q5_1
#define encode_Q5_1 NULL
#define decode_Q4_K ramet__decode_Q4_K
#define encode_Q4_K NULL
#define decode_Q5_K ramet__decode_Q5_K
#define encode_Q5_K NULL
#define decode_Q6_K ramet__decode_Q6_K
#define encode_Q6_K NULL
#define decode_IQ4_NL ramet__decode_IQ4_NL
#define encode_IQ4_NL NULL
#define decode_Q2_K ramet__decode_Q2_K
#define encode_Q2_K NULL
#define decode_Q3_K ramet__decode_Q3_K
#define encode_Q3_K NULL
#define decode_IQ2_XXS ramet__decode_IQ2_XXS
#define encode_IQ2_XXS NULL
#define decode_IQ2_XS ramet__decode_IQ2_XS
#define encode_IQ2_XS NULL
#define decode_IQ3_XXS ramet__decode_IQ3_XXS
#define encode_IQ3_XXS NULL
#define decode_IQ1_S ramet__decode_IQ1_S
#define encode_IQ1_S NULL
#define decode_IQ3_S ramet__decode_IQ3_S
#define encode_IQ3_S NULL
#define decode_IQ2_S ramet__decode_IQ2_S
#define encode_IQ2_S NULL
#define decode_IQ4_XS ramet__decode_IQ4_XS
#define encode_IQ4_XS NULL
#define decode_IQ1_M ramet__decode_IQ1_M
#define encode_IQ1_M NULL
#define decode_TQ1_0 ramet__decode_TQ1_0
#define encode_TQ1_0 NULL
#define decode_TQ2_0 ramet__decode_TQ2_0
#define encode_TQ2_0 NULL
#define decode_MXFP4 ramet__decode_MXFP4
#define encode_MXFP4 NULL

/* ---- the table ------------------------------------------------------------------------------------------------- */

static const ramet__encoding table[RAMET__ENC_COUNT] = {
#define RAMET__ENCODING(NAME, block, bytes, gguf_type, hf_dtype, summary) \
    [RAMET__ENC_##NAME] = {#NAME, block, bytes, gguf_type, hf_dtype, summary, decode_##NAME, encode_##NAME},
#include "tensor/encodings.def"
#undef RAMET__ENCODING
};

const ramet__encoding *ramet__encoding_get(ramet__enc enc) {
    return (uint32_t)enc < RAMET__ENC_COUNT ? &table[enc] : NULL;
}

static int same_name(const char *a, const char *b) { /* ASCII, whatever the host's locale */
    for (; *a && *b; a++, b++) {
        int x = *a >= 'a' && *a <= 'z' ? *a - 32 : *a, y = *b >= 'a' && *b <= 'z' ? *b - 32 : *b;
        if (x != y) return 0;
    }
    return *a == *b;
}

ramet__enc ramet__encoding_to_write(ramet__enc enc) { return table[enc].encode ? enc : RAMET__ENC_Q8_0; }

int32_t ramet__encoding_find(const char *name) {
    for (int32_t i = 0; name && i < RAMET__ENC_COUNT; i++)
        if (same_name(table[i].name, name)) return i;
    return -1;
}

ramet_status ramet__encoding_named(ramet__enc *out, const char *name, const char *what) {
    const int32_t e = ramet__encoding_find(name);
    if (e < 0) return ramet__fail(RAMET_E_ARGUMENT, "%s: no encoding is named \"%s\"; the list \"encodings\" has them", what, name ? name : "");
    if (!table[e].encode) return ramet__fail(RAMET_E_UNSUPPORTED, "%s: %s can be read but not written; Q4_0, Q4_1, Q5_0, Q8_0 and floats can", what, table[e].name);
    *out = (ramet__enc)e;
    return RAMET_OK;
}

int32_t ramet__encoding_from_gguf(uint32_t type) {
    for (int32_t i = 0; i < RAMET__ENC_COUNT; i++)
        if (table[i].gguf_type >= 0 && (uint32_t)table[i].gguf_type == type) return i;
    return -1;
}

int32_t ramet__encoding_from_hf(const char *dtype) {
    for (int32_t i = 0; dtype && i < RAMET__ENC_COUNT; i++)
        if (table[i].hf_dtype && !strcmp(table[i].hf_dtype, dtype)) return i;
    return -1;
}

/* No early exit within a part, so that the compiler makes wide loops of these. */
static int finite32(const uint8_t *s, int64_t n) {
    uint32_t bad = 0, u;
    for (int64_t i = 0; i < n; i++) {
        memcpy(&u, s + 4 * i, 4);
        bad |= (u & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}
static int finite16(const uint8_t *s, int64_t n, uint16_t exponent) {
    uint16_t bad = 0, u;
    for (int64_t i = 0; i < n; i++) {
        memcpy(&u, s + 2 * i, 2);
        bad |= (u & exponent) == exponent;
    }
    return !bad;
}

int32_t ramet__encoded_finite(ramet__enc enc, const void *data, int64_t n) {
    const uint8_t *s = data;
    const ramet__encoding *e = &table[enc];
    if (e->block == 1) {
        for (int64_t i = 0; i < n; i += 4096) {
            int64_t part = RAMET__MIN(n - i, (int64_t)4096);
            const uint8_t *p = s + i * e->bytes;
            if (!(enc == RAMET__ENC_F32 ? finite32(p, part) : finite16(p, part, enc == RAMET__ENC_F16 ? 0x7c00 : 0x7f80))) return 0;
        }
        return 1;
    }
    /* where blocks have fp16 scales: at their beginning, some a minimum after it, but for these */
    static const uint8_t at[RAMET__ENC_COUNT][2] = {
        [RAMET__ENC_Q4_1] = {0, 2},     [RAMET__ENC_Q5_1] = {0, 2},   [RAMET__ENC_Q4_K] = {0, 2},     [RAMET__ENC_Q5_K] = {0, 2},   [RAMET__ENC_Q6_K] = {208, 208},
        [RAMET__ENC_Q2_K] = {80, 82},   [RAMET__ENC_Q3_K] = {108, 108}, [RAMET__ENC_TQ1_0] = {52, 52}, [RAMET__ENC_TQ2_0] = {64, 64}};
    for (int64_t i = 0; i < n / e->block; i++, s += e->bytes) {
        uint32_t d = load16(s + at[enc][0]), m = load16(s + at[enc][1]);
        if (enc == RAMET__ENC_IQ1_M) d = m = (uint32_t)(s[53] >> 4) << 8 | (uint32_t)(s[55] >> 4) << 12; /* upper nibbles of the scales; exponent only */
        if (enc == RAMET__ENC_MXFP4) d = m = s[0] > 252 ? 0x7c00 : 0; /* 12 * 2^(e - 128) is beyond floats */
        if ((d & 0x7c00) == 0x7c00 || (m & 0x7c00) == 0x7c00) return 0;
    }
    return 1;
}

/* ---- shapes ---------------------------------------------------------------------------------------------------- */

int32_t ramet__shape_equal(const ramet__shape *a, const ramet__shape *b) {
    if (a->rank != b->rank) return 0;
    for (int32_t i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i]) return 0;
    return 1;
}

void ramet__shape_text(char text[96], const ramet__shape *s) {
    char *p = text; /* 4 numbers of at most 20 characters, separators and brackets fit in 96 */
    *p++ = '[';
    for (int32_t i = 0; i < s->rank && i < RAMET__MAX_RANK; i++) {
        char digits[20];
        int k = 0;
        int64_t v = s->dim[i];
        uint64_t u = v < 0 ? (uint64_t)0 - (uint64_t)v : (uint64_t)v;
        if (i) { *p++ = ','; *p++ = ' '; }
        if (v < 0) *p++ = '-';
        do { digits[k++] = (char)('0' + u % 10); u /= 10; } while (u);
        while (k) *p++ = digits[--k];
    }
    *p++ = ']';
    *p = 0;
}
