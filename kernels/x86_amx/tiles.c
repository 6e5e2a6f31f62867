/* SPDX-License-Identifier: Apache-2.0 */
/* tiles.c - rows of pairs of bf16 against a strip of W by AMX: what x86_avx512/strip_bf16.h does with vectors. Its strips are what a tile of
 * weights wants to be (16 pairs x 16 columns), its rounded rows what a tile of activations does, so a block of 32 x 32 sums is four tiles that
 * stay in registers for the whole depth. Edges are tiles with fewer rows or columns: every row has the same bits, whatever stands beside it.
 * The configuration is loaded when the shape changes and released at the end: the thread is somebody else's. */
#include "x86_avx512/strip_tiles.h"
#include "x86_amx/tile.h"

enum { SIDE = 16, BLOCK = 32 };

/* tiles 0..3: sums, by rows and columns; 4, 5: rows of x; 6, 7: columns of w. Nothing is loaded into a tile that the shape leaves out. */
static void shape(tile_config *c, int64_t *now, int64_t rows, int64_t cols, int64_t pairs) {
    const int64_t wanted = rows << 16 | cols << 8 | pairs;
    if (*now == wanted) return;
    *now = wanted;
    for (int t = 0; t < 8; t++) {
        const int below = t < 4 ? t / 2 : t == 5, right = t < 4 ? t % 2 : t == 7;
        const int64_t r = rows - SIDE * below, n = cols - SIDE * right;
        c->rows[t] = (uint8_t)(t >= 6 ? pairs : r > SIDE ? SIDE : r > 0 ? r : 0);
        c->bytes[t] = (uint16_t)(4 * (t == 4 || t == 5 ? pairs : n > SIDE ? SIDE : n > 0 ? n : 0));
        if (!c->rows[t] || !c->bytes[t]) c->rows[t] = 0, c->bytes[t] = 0;
    }
    tile_configure(c);
}

/* One block: `steps` times `pairs` pairs of the depth. lower, right: it has more than 16 rows, columns. */
static inline __attribute__((always_inline)) void block(const int lower, const int right, float *y, int64_t ldy, int start, const uint32_t *x, int64_t ldx, const uint16_t *w, int64_t steps) {
    float *const y1 = y + SIDE * ldy;
    if (start) {
        tile_load(0, y, 4 * ldy);
        if (right) tile_load(1, y + SIDE, 4 * ldy);
        if (lower) tile_load(2, y1, 4 * ldy);
        if (lower && right) tile_load(3, y1 + SIDE, 4 * ldy);
    } else {
        tile_clear(0);
        if (right) tile_clear(1);
        if (lower) tile_clear(2);
        if (lower && right) tile_clear(3);
    }
    for (; steps; steps--, x += SIDE, w += SIDE * 2 * STRIP) {
        tile_load(6, w, 4 * STRIP);
        tile_load(4, x, 4 * ldx);
        tile_multiply(0, 4, 6);
        if (right) {
            tile_load(7, w + 2 * SIDE, 4 * STRIP);
            tile_multiply(1, 4, 7);
        }
        if (lower) {
            tile_load(5, x + SIDE * ldx, 4 * ldx);
            tile_multiply(2, 5, 6);
            if (right) tile_multiply(3, 5, 7);
        }
    }
    tile_store(0, y, 4 * ldy);
    if (right) tile_store(1, y + SIDE, 4 * ldy);
    if (lower) tile_store(2, y1, 4 * ldy);
    if (lower && right) tile_store(3, y1 + SIDE, 4 * ldy);
}

static void run(int64_t rows, int64_t cols, float *y, int64_t ldy, int start, const uint32_t *x, int64_t ldx, const uint16_t *w, int64_t steps) {
    switch ((rows > SIDE) * 2 + (cols > SIDE)) {
    case 0: block(0, 0, y, ldy, start, x, ldx, w, steps); break;
    case 1: block(0, 1, y, ldy, start, x, ldx, w, steps); break;
    case 2: block(1, 0, y, ldy, start, x, ldx, w, steps); break;
    default: block(1, 1, y, ldy, start, x, ldx, w, steps);
    }
}

void ramet__tiles_amx(float *y, int64_t ldy, int64_t rows, int64_t width, int start, const uint32_t *x, int64_t ldx, const uint16_t *w, int64_t pairs) {
    tile_config c = {.palette = 1};
    int64_t now = 0;
    const int64_t whole = pairs / SIDE, rest = pairs % SIDE;
    for (int64_t r = 0; r < rows; r += BLOCK) /* rows first: then a row of y is written in one go, which memory wants more than w wants the first cache */
        for (int64_t i = 0; i < width; i += BLOCK) {
            const int64_t h = rows - r < BLOCK ? rows - r : BLOCK, n = width - i < BLOCK ? width - i : BLOCK;
            const uint16_t *from = w + i / STRIP * strip_size(pairs) + i % STRIP * 2;
            float *to = y + r * ldy + i;
            if (whole) {
                shape(&c, &now, h, n, SIDE);
                run(h, n, to, ldy, start, x + r * ldx, ldx, from, whole);
            }
            if (rest) {
                shape(&c, &now, h, n, rest);
                run(h, n, to, ldy, start || whole, x + r * ldx + whole * SIDE, ldx, from + whole * SIDE * 2 * STRIP, 1);
            }
        }
    tile_release();
}
