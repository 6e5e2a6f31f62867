/* SPDX-License-Identifier: Apache-2.0 */
/* panel16.h - the packing "panel16" of quantized weights and the reading of its blocks into vectors.
 *
 * A panel is 16 outputs x k inputs in units of 64 inputs, with K-quants 256, one after the other, so that a product of one row reads one stream.
 * A unit's parts, each with an entry per block of 32 inputs:
 *   quants  256 bytes, dword (j, o) = low nibbles of output o: inputs 4j+i in the low halves of its bytes, 16+4j+i in the high ones.
 *           Q8_0: 512 bytes, dword (g, o) = qs[4g..4g+3] of output o, plus 128 (so that all quants are unsigned).
 *   high    five bits: 64 bytes, bit g of byte (o, i) belongs to input 4g+i of output o. Six: 128 bytes, the two bits at 2s of byte (t, o, i)
 *           belong to input 4(4t+s)+i
 *   scales  16 halves d, and where there is a minimum 16 halves m. K-quants: 16 bytes of scales and 16 of minimums; Q6_K: 16 of scales of
 *           the first and 16 of the second 16 inputs
 *   super   K-quants, one entry: 16 halves d, and where there is a minimum 16 halves -dmin; 64 bytes
 * The last unit and the last panel are filled up with zeros. A vector of 4 inputs x 16 outputs meets 4 broadcast activations: no horizontal sums.
 *
 * A few rows of activations read panels as they lie, each encoding with code of its own. Many rows, transposed products and other
 * arithmetics read p16_block, the form in which all encodings are the same: made a panel at a time, used for every row.
 */
#ifndef RAMET__PANEL16_H
#define RAMET__PANEL16_H
#include "blocks.h"
#include "registry.h"

enum { P16_Q4_0, P16_Q4_1, P16_Q5_0, P16_Q5_1, P16_Q8_0, P16_Q4_K, P16_Q5_K, P16_Q6_K };

static inline int p16_is_k(int enc) { return enc >= P16_Q4_K; }
static inline int p16_has_min(int enc) { return enc == P16_Q4_1 || enc == P16_Q5_1 || enc == P16_Q4_K || enc == P16_Q5_K; }
static inline int64_t p16_quants(int enc) { return enc == P16_Q8_0 ? 512 : 256; }
static inline int64_t p16_high(int enc) { return enc == P16_Q6_K ? 128 : enc == P16_Q5_0 || enc == P16_Q5_1 || enc == P16_Q5_K ? 64 : 0; }
static inline int64_t p16_scales(int enc) { return !p16_is_k(enc) && p16_has_min(enc) ? 64 : 32; }
static inline int64_t p16_super(int enc) { return p16_is_k(enc) ? 64 : 0; }
static inline int p16_unit(int enc) { return p16_is_k(enc) ? 8 : 2; } /* blocks */
static inline int64_t p16_unit_bytes(int enc) { return p16_unit(enc) * (p16_quants(enc) + p16_high(enc) + p16_scales(enc)) + p16_super(enc); }
/* Of a panel, whole lines of 64. */
static inline int64_t p16_bytes(int enc, int64_t k) { return (k / 32 + p16_unit(enc) - 1) / p16_unit(enc) * p16_unit_bytes(enc); }

/* Where the parts of block b lie. */
typedef struct p16_place { const uint8_t *quants, *high, *scales, *super; } p16_place;
static inline p16_place p16_at(const int enc, const uint8_t *panel, int64_t b) {
    const uint64_t n = (uint64_t)b >> (p16_is_k(enc) ? 3 : 1), i = (uint64_t)b & (uint64_t)(p16_unit(enc) - 1);
    const uint8_t *unit = panel + n * (uint64_t)p16_unit_bytes(enc), *high = unit + p16_unit(enc) * p16_quants(enc);
    const uint8_t *scales = high + p16_unit(enc) * p16_high(enc);
    return (p16_place){unit + i * (uint64_t)p16_quants(enc), high + i * (uint64_t)p16_high(enc), scales + i * (uint64_t)p16_scales(enc),
                       scales + p16_unit(enc) * p16_scales(enc)};
}
static inline int32_t p16_offset(int enc) { return enc == P16_Q4_0 ? 8 : enc == P16_Q5_0 ? 16 : enc == P16_Q8_0 ? 128 : enc == P16_Q6_K ? 32 : 0; }

extern const ramet__packing ramet__packing_panel16_Q4_0, ramet__packing_panel16_Q4_1, ramet__packing_panel16_Q5_0, ramet__packing_panel16_Q5_1,
    ramet__packing_panel16_Q8_0, ramet__packing_panel16_IQ4_NL, ramet__packing_panel16_Q4_K, ramet__packing_panel16_Q5_K, ramet__packing_panel16_Q6_K;

/* 16 outputs x 32 inputs of any encoding: dword (g, o) = quants of inputs 4g..4g+3 as unsigned bytes; w = d * q + m, a pair for each 16 inputs. */
typedef struct p16_block {
    uint8_t q[8][64];
    float d[2][16], m[2][16];
} p16_block;

#ifdef RAMET__VEC_H
/* Blocks from..to of a panel into dst[0..]. One copy a level. */
void FN_BASE(panel16_expand)(int enc, p16_block *dst, const uint8_t *panel, int64_t from, int64_t to);

/* A block, vector h of HALVES: inputs 4g..4g+3 of VL outputs as unsigned bytes */
INLINE vi p16_four(const int enc, const p16_place *at, int h, const int g) {
    const uint8_t *p = at->quants + h * VL * 4, *f = at->high + h * VL * 4;
    if (enc == P16_Q8_0) return viload(p + 64 * g);
    vi q = viload(p + 64 * (g % 4));
    q = g < 4 ? viand(q, viset8(15)) : vupper(q);
    if (!p16_high(enc)) return q;
    const int six = enc == P16_Q6_K, up = six ? 4 - 2 * (g % 4) : 4 - g; /* where its high bits come from */
    vi v = viload(f + (six ? g / 4 * 64 : 0));
    if (up > 0) v = visll(v, up);
    else if (up < 0) v = visrl(v, -up);
    return vior(q, viand(v, viset8(six ? 0x30 : 0x10)));
}
INLINE void p16_load(const int enc, vi q[8], const p16_place *at, int h) { UNROLL for (int g = 0; g < 8; g++) q[g] = p16_four(enc, at, h, g); }

/* w = d * q + m for the unsigned q of p16_load: inputs 0..15 (part 0) or 16..31 (part 1), which differ in Q6_K alone */
INLINE void p16_scale(const int enc, const int part, vf *d, vf *m, const p16_place *at, int h) {
    const uint8_t *s = at->scales + h * VL * (p16_is_k(enc) ? 1 : 2), *t = at->super + h * VL * 2;
    if (enc == P16_Q6_K) {
        *d = vmul(vhalf(t), vi8(s + 16 * part));
        *m = vmul(*d, vset(-(float)p16_offset(enc)));
    } else if (p16_is_k(enc)) {
        *d = vmul(vhalf(t), vu8(s));
        *m = vmul(vhalf(t + 32), vu8(s + 16));
    } else {
        *d = vhalf(s);
        *m = p16_has_min(enc) ? vhalf(s + 32) : vmul(*d, vset(-(float)p16_offset(enc)));
    }
}

/* The quants of a block as bytes by output: u8[o][i] */
INLINE void p16_by_output(uint8_t u8[16][32], const p16_block *w) {
    for (int h = 0; h < HALVES; h++)
        for (int s = 0; s < 2; s++) {
            vi q[4];
            UNROLL for (int g = 0; g < 4; g++) q[g] = viload(w->q[4 * s + g] + h * VL * 4);
            vi a = vilo32(q[0], q[1]), c = vihi32(q[0], q[1]), e = vilo32(q[2], q[3]), f = vihi32(q[2], q[3]);
            uint8_t t[4][VL * 4]; /* t[j] holds outputs 4l + j in its 128-bit lanes l */
            vistore(t[0], vilo64(a, e));
            vistore(t[1], vihi64(a, e));
            vistore(t[2], vilo64(c, f));
            vistore(t[3], vihi64(c, f));
            UNROLL for (int o = 0; o < VL; o++) memcpy(u8[h * VL + o] + 16 * s, t[o % 4] + o / 4 * 16, 16);
        }
}

/* dst[16][ld]: 16 outputs x 32 inputs of block b, as floats */
static inline void p16_strip(int enc, float *dst, int64_t ld, const uint8_t *panel, int64_t b) {
    _Alignas(64) p16_block w;
    uint8_t u8[16][32];
    FN_BASE(panel16_expand)(enc, &w, panel, b, b + 1);
    p16_by_output(u8, &w);
    for (int o = 0; o < 16; o++)
        UNROLL for (int i = 0; i < 32; i += VL)
            vstore(dst + o * ld + i, vfma(vset(w.d[i / 16][o]), vu8(u8[o] + i), vset(w.m[i / 16][o])));
}
#endif
#endif
