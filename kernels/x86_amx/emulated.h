/* SPDX-License-Identifier: Apache-2.0 */
/* emulated.h - a model of AMX's tiles in C, for CPUs without them (meson setup -Demulate=amx): every shape is checked as the CPU does, which
 * would raise #UD, and sums are made in its order: pairs of the even and of the odd numbers apart, both added to the tile at the end. */
#ifndef RAMET__EMULATED_H
#define RAMET__EMULATED_H
#include <string.h>

static _Thread_local struct { tile_config c; uint8_t tile[8][16][64]; } amx;

static inline void amx_must(int sound) { if (!sound) __builtin_trap(); }
static inline int amx_ready(int t) { return amx.c.palette == 1 && amx.c.rows[t] && amx.c.bytes[t]; }

static inline void amx_configure(const tile_config *c) {
    amx_must(c->palette == 1 && !c->start);
    for (int t = 0; t < 16; t++) amx_must(c->rows[t] <= (t < 8 ? 16 : 0) && c->bytes[t] <= (t < 8 ? 64 : 0) && !c->rows[t] == !c->bytes[t]);
    memset(&amx, 0, sizeof amx);
    amx.c = *c;
}
static inline void amx_load(int t, const void *from, int64_t stride) {
    amx_must(amx_ready(t));
    memset(amx.tile[t], 0, sizeof amx.tile[t]);
    for (int r = 0; r < amx.c.rows[t]; r++) memcpy(amx.tile[t][r], (const uint8_t *)from + r * stride, amx.c.bytes[t]);
}
static inline void amx_store(int t, void *to, int64_t stride) {
    amx_must(amx_ready(t));
    for (int r = 0; r < amx.c.rows[t]; r++) memcpy((uint8_t *)to + r * stride, amx.tile[t][r], amx.c.bytes[t]);
}
static inline void amx_clear(int t) {
    amx_must(amx_ready(t));
    memset(amx.tile[t], 0, sizeof amx.tile[t]);
}
static inline float amx_brain(const uint8_t *at) {
    uint16_t bits;
    memcpy(&bits, at, 2);
    uint32_t wide = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &wide, 4);
    return f;
}
static inline void amx_multiply(int c, int a, int b) {
    amx_must(amx_ready(a) && amx_ready(b) && amx_ready(c) && amx.c.rows[a] == amx.c.rows[c] && amx.c.bytes[b] == amx.c.bytes[c] && amx.c.bytes[a] == 4 * amx.c.rows[b]);
    for (int m = 0; m < amx.c.rows[c]; m++)
        for (int n = 0; n < amx.c.bytes[c] / 4; n++) {
            float sum[2] = {0, 0}, was;
            for (int k = 0; k < amx.c.rows[b]; k++)
                for (int i = 0; i < 2; i++) sum[i] += amx_brain(amx.tile[a][m] + 4 * k + 2 * i) * amx_brain(amx.tile[b][k] + 4 * n + 2 * i);
            memcpy(&was, amx.tile[c][m] + 4 * n, 4);
            was += sum[0] + sum[1];
            memcpy(amx.tile[c][m] + 4 * n, &was, 4);
        }
}
#define tile_configure(c) amx_configure(c)
#define tile_release() memset(&amx.c, 0, sizeof amx.c)
#define tile_clear(t) amx_clear(t)
#define tile_load(t, from, stride) amx_load(t, from, stride)
#define tile_store(t, to, stride) amx_store(t, to, stride)
#define tile_multiply(c, a, b) amx_multiply(c, a, b)
#endif
