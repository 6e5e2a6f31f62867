/* SPDX-License-Identifier: Apache-2.0 */
/* check_tiles.c - kernels/x86_amx/tiles.c over its model of AMX, on any CPU: every edge of rows, columns and depth, beside sums of integers, which
 * bf16 and fp32 hold exactly. Exit code 1 when a sum is wrong or something outside was written; the model traps on shapes that a CPU refuses. */
#include "x86_avx512/strip_tiles.h"
#include <stdio.h>
#include <string.h>

enum { ROWS = 50, PAIRS = 40, STRIPS = 4, WIDE = STRIPS * STRIP, LDX = PAIRS + 3, LDY = WIDE + 5 };

static uint32_t state = 1;
static int draw(void) { return (int)((state = state * 1664525u + 1013904223u) >> 24) % 17 - 8; }
static uint16_t brain(int v) {
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (uint16_t)(bits >> 16);
}

int main(void) {
    static const int rows[] = {1, 15, 16, 17, 32, 33, ROWS}, widths[] = {1, 15, 16, 17, 32, 48, STRIP, STRIP + 1, 130, WIDE}, pairs[] = {1, 15, 16, 17, 32, PAIRS};
    static int xi[ROWS][2 * LDX], wi[PAIRS][WIDE][2], old[ROWS][LDY];
    static uint16_t x[ROWS][2 * LDX], w[STRIPS * (PAIRS + 15) * STRIP * 2];
    static float y[ROWS][LDY];
    int wrong = 0, done = 0;
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < 2 * LDX; i++) x[r][i] = brain(xi[r][i] = draw());
    for (int p = 0; p < PAIRS; p++)
        for (int c = 0; c < WIDE; c++)
            for (int i = 0; i < 2; i++) wi[p][c][i] = draw();
    for (int d = 0; d < 6; d++) {
        for (int p = 0; p < pairs[d]; p++)
            for (int c = 0; c < WIDE; c++)
                for (int i = 0; i < 2; i++) w[c / STRIP * strip_size(pairs[d]) + (p * STRIP + c % STRIP) * 2 + i] = brain(wi[p][c][i]);
        for (int a = 0; a < 7; a++)
            for (int b = 0; b < 10; b++)
                for (int start = 0; start < 2; start++, done++) {
                    for (int r = 0; r < ROWS; r++)
                        for (int c = 0; c < LDY; c++) y[r][c] = (float)(old[r][c] = draw());
                    ramet__tiles_amx(y[0], LDY, rows[a], widths[b], start, (const uint32_t *)(const void *)x, LDX, w, pairs[d]);
                    for (int r = 0; r < ROWS; r++)
                        for (int c = 0; c < LDY; c++) {
                            const int inside = r < rows[a] && c < widths[b];
                            int sum = inside && !start ? 0 : old[r][c];
                            for (int p = 0; inside && p < pairs[d]; p++) sum += xi[r][2 * p] * wi[p][c][0] + xi[r][2 * p + 1] * wi[p][c][1];
                            if (y[r][c] != (float)sum && wrong++ < 5)
                                printf("rows %d width %d pairs %d start %d: [%d][%d] is %g, not %d\n", rows[a], widths[b], pairs[d], start, r, c, (double)y[r][c], sum);
                        }
                }
    }
    printf("%d shapes, %d wrong\n", done, wrong);
    return wrong != 0;
}
