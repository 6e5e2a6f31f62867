/* SPDX-License-Identifier: Apache-2.0 */
/* panel16.h - the packing "panel16" of quantized weights and the reading of its blocks into vectors.
 *
 * A panel is 16 outputs x k inputs. Its parts, one after the other, each with an entry per block of 32 inputs:
 *   quants  Q4_0 Q4_1 Q5_0: 256 bytes, dword (j, o) = bytes qs[4j..4j+3] of output o: inputs 4j+i in the low nibbles, 16+4j+i in
 *           the high ones. Q8_0: 512 bytes, dword (g, o) = qs[4g..4g+3] of output o, plus 128 (so that all quants are unsigned).
 *   fifth   Q5_0 only: 64 bytes, bit 4o+i of the little-endian 64-bit word g belongs to input 4g+i of output o
 *   scales  16 halves d, and for Q4_1 16 halves m
 * The last panel is filled up with zeros. A vector of 4 inputs x 16 outputs meets 4 broadcast activations: no horizontal sums.
 */
#ifndef RAMET__PANEL16_H
#define RAMET__PANEL16_H
#include "blocks.h"
#include "registry.h"

enum { P16_Q4_0, P16_Q4_1, P16_Q5_0, P16_Q8_0 };

static inline int64_t p16_quants(int enc) { return enc == P16_Q8_0 ? 512 : 256; }
static inline int64_t p16_fifth(int enc) { return enc == P16_Q5_0 ? 64 : 0; }
static inline int64_t p16_scales(int enc) { return enc == P16_Q4_1 ? 64 : 32; }
static inline int64_t p16_bytes(int enc, int64_t k) {
    return (int64_t)ramet__round64((uint64_t)(k / 32 * (p16_quants(enc) + p16_fifth(enc) + p16_scales(enc))));
}
static inline int32_t p16_offset(int enc) { return enc == P16_Q4_0 ? 8 : enc == P16_Q5_0 ? 16 : enc == P16_Q8_0 ? 128 : 0; }

extern const ramet__packing ramet__packing_panel16_Q4_0, ramet__packing_panel16_Q4_1, ramet__packing_panel16_Q5_0, ramet__packing_panel16_Q8_0,
    ramet__packing_panel16_IQ4_NL;

#ifdef RAMET__VEC_H
/* Block b of a panel, vector h of HALVES: q[g] holds inputs 4g..4g+3 of VL outputs as unsigned bytes. */
INLINE void p16_load(const int enc, vi q[8], const uint8_t *panel, int64_t blocks, int64_t b, int h) {
    const uint8_t *p = panel + b * p16_quants(enc) + h * VL * 4;
    if (enc == P16_Q8_0) {
        UNROLL for (int g = 0; g < 8; g++) q[g] = viload(p + 64 * g);
        return;
    }
    const vi low = viset8(15);
    UNROLL for (int j = 0; j < 4; j++) {
        vi v = viload(p + 64 * j);
        q[j] = viand(v, low);
        q[j + 4] = viand(visrl(v, 4), low);
    }
    if (enc == P16_Q5_0) {
        const uint8_t *f = panel + blocks * 256 + b * 64;
        UNROLL for (int g = 0; g < 8; g++) q[g] = vior(q[g], vhigh(f + 8 * g, h));
    }
}

/* w = d * q + m for the unsigned q of p16_load */
INLINE void p16_scale(const int enc, vf *d, vf *m, const uint8_t *panel, int64_t blocks, int64_t b, int h) {
    const uint8_t *s = panel + blocks * (p16_quants(enc) + p16_fifth(enc)) + b * p16_scales(enc) + h * VL * 2;
    *d = vhalf(s);
    *m = enc == P16_Q4_1 ? vhalf(s + 32) : vmul(*d, vset(-(float)p16_offset(enc)));
}

/* 16 outputs x 32 inputs of block b as bytes by output: u8[o][i]; d[o], m[o] their scales. */
INLINE void p16_by_output(const int enc, uint8_t u8[16][32], float d[16], float m[16], const uint8_t *panel, int64_t blocks, int64_t b) {
    UNROLL for (int h = 0; h < HALVES; h++) {
        vi q[8];
        vf dv, mv;
        p16_load(enc, q, panel, blocks, b, h);
        p16_scale(enc, &dv, &mv, panel, blocks, b, h);
        vstore(d + h * VL, dv);
        vstore(m + h * VL, mv);
        UNROLL for (int s = 0; s < 2; s++) {
            vi a = vilo32(q[4 * s], q[4 * s + 1]), c = vihi32(q[4 * s], q[4 * s + 1]);
            vi e = vilo32(q[4 * s + 2], q[4 * s + 3]), f = vihi32(q[4 * s + 2], q[4 * s + 3]);
            uint8_t t[4][VL * 4]; /* t[j] holds outputs 4l + j in its 128-bit lanes l */
            vistore(t[0], vilo64(a, e));
            vistore(t[1], vihi64(a, e));
            vistore(t[2], vilo64(c, f));
            vistore(t[3], vihi64(c, f));
            UNROLL for (int o = 0; o < VL; o++) memcpy(u8[h * VL + o] + 16 * s, t[o % 4] + o / 4 * 16, 16);
        }
    }
}
#endif
#endif
