/* SPDX-License-Identifier: Apache-2.0 */
/* winograd.c - tiles of 6 x 6 of the image give m x m results: with polynomials through the points 0, 1, -1, 2, -2 and infinity, y = A^T [(G w G^T) * (B^T x B)] A, where *
 * goes number by number, so that for each of 36 places all tiles are one product of channels by outputs. Gradients are the same steps turned over:
 * dx = B [(G w G^T) * (A dy A^T)] B^T, dw = G^T [(B^T x B) * (A dy A^T)] G. The kernel `winograd` has A and B; G, met once a run, is here. */
#include "graph/ops/winograd.h"
#include <string.h>

enum { POINTS = 6, PLACES = POINTS * POINTS, TILES = 48, LEAST = 32, WHOLE = 8, MOST = 65536 }; /* together; of a run; channels are a multiple; numbers of a matrix */

/* c[m, n] = a[m, depth] b[depth, n], all dense */
static void times(const ramet__kernels *k, float *c, const float *a, int64_t m, int64_t depth, const float *b, int64_t n) { k->conv_row(c, a, depth, 0, b, 1, depth, NULL, m, n); }

/* What an image and a worker's memory consist of */
typedef struct layout {
    int64_t m, high, wide, out_high, out_wide, line, frame; /* results of a tile; tiles; results; floats of a line and of all of the frame */
    int64_t c, n, x_row, y_row, most;                       /* channels, outputs; floats of an image, of its results; rows of tiles at a time */
    int64_t v_place, u_place;                               /* floats of a place, some more than its tiles: places share no sets of a cache */
    float *image, *edge, *v, *u;                            /* the frame; a tile of results that reaches over the edge; tiles of the image; of results */
} layout;
static int64_t out_side(int64_t side, const int64_t *a) { return side + 2 * a[PAD] - a[KERNEL] + 1; }
static layout layout_of(const int64_t *a, float *scratch) {
    layout l = {.m = POINTS + 1 - a[KERNEL], .out_high = out_side(a[HEIGHT], a), .out_wide = out_side(a[WIDTH], a), .c = a[CHANNELS], .n = a[OUTPUTS]};
    l.x_row = a[HEIGHT] * a[WIDTH] * l.c;
    l.y_row = l.out_high * l.out_wide * l.n;
    l.high = ramet__ceil_div(l.out_high, l.m);
    l.wide = ramet__ceil_div(l.out_wide, l.m);
    l.line = (l.wide * l.m + a[KERNEL] - 1) * l.c;
    l.frame = (l.high * l.m + a[KERNEL] - 1) * l.line;
    l.most = RAMET__MAX(1, TILES / l.wide);
    l.v_place = l.most * l.wide * l.c + WHOLE;
    l.u_place = l.most * l.wide * l.n + WHOLE;
    if (!scratch) return l;
    l.image = scratch;
    l.edge = l.image + l.frame;
    l.v = l.edge + l.m * l.m * l.n;
    l.u = l.v + PLACES * l.v_place;
    return l;
}
int64_t ramet__winograd_scratch(const int64_t *a) {
    const layout l = layout_of(a, NULL);
    return l.frame + l.m * l.m * l.n + PLACES * (l.v_place + l.u_place) + SLACK;
}
int64_t ramet__winograd_matrix(const int64_t *a) { return PLACES * a[CHANNELS] * a[OUTPUTS]; }
int64_t ramet__winograd_room(const int64_t *a) { return a[KERNEL] * (a[KERNEL] + POINTS) * a[CHANNELS] * a[OUTPUTS] + SLACK; }
int64_t ramet__winograd_images(const int64_t *a) {
    const layout l = layout_of(a, NULL);
    return ramet__ceil_div(TILES, l.high * l.wide);
}
int32_t ramet__winograd_pays(const int64_t *a, int64_t images) {
    if (a[STRIDE] != 1 || (a[KERNEL] != 3 && a[KERNEL] != 5) || a[CHANNELS] % WHOLE || a[OUTPUTS] % WHOLE || a[CHANNELS] * a[OUTPUTS] > MOST) return 0;
    const layout l = layout_of(a, NULL);
    return images * l.high * l.wide >= LEAST && 3 * PLACES * l.high * l.wide < 2 * a[KERNEL] * a[KERNEL] * l.out_high * l.out_wide;
}

static void copy(float *to, const float *from, int64_t n) { memcpy(to, from, (size_t)n * sizeof *to); }
static void clear(float *to, int64_t n) { memset(to, 0, (size_t)n * sizeof *to); }

/* ---- an image, in its frame of zeros ---- */
static float *inside(const int64_t *a, const layout *l, int64_t y) { return l->image + (a[PAD] + y) * l->line + a[PAD] * l->c; }
static void enter(const int64_t *a, const layout *l, const float *from) {
    const int64_t n = a[WIDTH] * l->c;
    for (int64_t y = 0; y < a[HEIGHT]; y++) copy(inside(a, l, y), from + y * n, n);
}
static void leave(const int64_t *a, const layout *l, float *to) {
    const int64_t n = a[WIDTH] * l->c;
    for (int64_t y = 0; y < a[HEIGHT]; y++) copy(to + y * n, inside(a, l, y), n);
}
/* ---- row ty of its tiles, which stand from number `at` on in each place ---- */
static void image_tiles(const ramet__kernels *k, const layout *l, int64_t ty, int64_t at) {
    for (int64_t tx = 0; tx < l->wide; tx++)
        k->winograd(RAMET__WINOGRAD_IMAGE, l->v + (at + tx) * l->c, POINTS * l->v_place, l->v_place, l->image + ty * l->m * l->line + tx * l->m * l->c, l->line, l->c, NULL, l->c);
}
static void back_tiles(const ramet__kernels *k, const layout *l, int64_t ty, int64_t at) {
    for (int64_t tx = 0; tx < l->wide; tx++)
        k->winograd(RAMET__WINOGRAD_BACK, l->image + ty * l->m * l->line + tx * l->m * l->c, l->line, l->c, l->v + (at + tx) * l->c, POINTS * l->v_place, l->v_place, NULL, l->c);
}
/* Numbers of a tile of results from or to `edge`: those of them that there are */
static void edge_tile(const layout *l, float *y, int64_t ty, int64_t tx, int32_t gather) {
    if (gather) clear(l->edge, l->m * l->m * l->n);
    for (int64_t i = 0; i < RAMET__MIN(l->m, l->out_high - ty * l->m); i++) {
        float *at = y + ((ty * l->m + i) * l->out_wide + tx * l->m) * l->n, *edge = l->edge + i * l->m * l->n;
        const int64_t n = RAMET__MIN(l->m, l->out_wide - tx * l->m) * l->n;
        if (gather) copy(edge, at, n);
        else copy(at, edge, n);
    }
}
static void result_tiles(const ramet__kernels *k, const layout *l, float *y, const float *bias, int64_t ty, int64_t at, int32_t gather) {
    for (int64_t tx = 0; tx < l->wide; tx++) {
        const int32_t whole = (ty + 1) * l->m <= l->out_high && (tx + 1) * l->m <= l->out_wide;
        float *here = whole ? y + (ty * l->m * l->out_wide + tx * l->m) * l->n : l->edge, *place = l->u + (at + tx) * l->n;
        const int64_t line = (whole ? l->out_wide : l->m) * l->n;
        if (gather && !whole) edge_tile(l, y, ty, tx, 1);
        if (gather) k->winograd(l->m == 2 ? RAMET__WINOGRAD_SPREAD2 : RAMET__WINOGRAD_SPREAD4, place, POINTS * l->u_place, l->u_place, here, line, l->n, NULL, l->n);
        else k->winograd(l->m == 2 ? RAMET__WINOGRAD_RESULT2 : RAMET__WINOGRAD_RESULT4, here, line, l->n, place, POINTS * l->u_place, l->u_place, bias, l->n);
        if (!gather && !whole) edge_tile(l, y, ty, tx, 0);
    }
}
/* Rows t.. of tiles of all images, numbered through */
#define EACH_ROW(l) for (int64_t i = 0, r = t / (l).high, ty = t % (l).high; i < rows; i++, r = (t + i) / (l).high, ty = (t + i) % (l).high)

void ramet__winograd_run(const ramet__kernels *k, const int64_t *a, int32_t what, float *x, float *y, float *u, const float *bias, int32_t relu, int64_t r0, int64_t r1, float *scratch) {
    const layout l = layout_of(a, scratch);
    clear(l.image, l.frame);
    for (int64_t t = r0 * l.high, rows; (rows = RAMET__MIN(l.most, r1 * l.high - t)) > 0; t += rows) {
        EACH_ROW(l) {
            if (what != RAMET__WINOGRAD_DX) {
                if (ty == 0) enter(a, &l, x + r * l.x_row);
                image_tiles(k, &l, ty, i * l.wide);
            }
            if (what != RAMET__WINOGRAD_Y) result_tiles(k, &l, y + r * l.y_row, NULL, ty, i * l.wide, 1);
        }
        for (int64_t p = 0; p < PLACES; p++) {
            float *of_image = l.v + p * l.v_place, *of_results = l.u + p * l.u_place, *matrix = u + p * l.c * l.n;
            if (what == RAMET__WINOGRAD_Y) times(k, of_results, of_image, rows * l.wide, l.c, matrix, l.n);
            else if (what == RAMET__WINOGRAD_DX) times(k, of_image, of_results, rows * l.wide, l.n, matrix, l.c);
            else k->conv_dw(matrix, of_image, l.c, 0, of_results, 1, rows * l.wide, l.n, l.c, t > r0 * l.high);
        }
        if (what == RAMET__WINOGRAD_DW) continue;
        EACH_ROW(l) {
            float *image = x + r * l.x_row, *results = y + r * l.y_row;
            const int32_t last = ty == l.high - 1;
            if (what == RAMET__WINOGRAD_Y) {
                result_tiles(k, &l, results, bias, ty, i * l.wide, 0);
                if (relu && last) k->relu(results, results, l.y_row);
                continue;
            }
            if (ty == 0) clear(l.image, l.frame);
            back_tiles(k, &l, ty, i * l.wide);
            if (last) leave(a, &l, image);
        }
    }
}

/* ---- the matrix and its gradient ---- */
/* G [POINTS, side], or turned over: powers of the points, and a scale each */
static void filter_matrix(float *g, int64_t side, int32_t turned) {
    static const float point[] = {0, 1, -1, 2, -2}, scale[] = {1.0f / 4, -1.0f / 6, -1.0f / 6, 1.0f / 24, 1.0f / 24};
    for (int64_t p = 0; p < POINTS; p++) {
        float power = p < POINTS - 1 ? scale[p] : 0.0f;
        for (int64_t i = 0; i < side; i++) {
            g[turned ? i * POINTS + p : p * side + i] = p < POINTS - 1 ? power : (float)(i == side - 1);
            power *= point[p % (POINTS - 1)];
        }
    }
}
void ramet__winograd_share(const ramet__kernels *k, const int64_t *a, float *u, const float *w, float *room, int32_t back) {
    float g[PLACES];
    const int64_t c = a[CHANNELS], n = a[OUTPUTS], side = a[KERNEL], taps = side * side, all = c * n;
    float *half = room + taps * all;
    filter_matrix(g, side, 0);
    for (int64_t o = 0; o < n; o++)
        for (int64_t t = 0; t < taps; t++, w += c) {
            float *to = room + t * all;
            if (back) copy(to + o * c, w, c);
            else for (int64_t i = 0; i < c; i++) to[i * n + o] = w[i];
        }
    times(k, half, g, POINTS, side, room, side * all);
    for (int64_t v = 0; v < POINTS; v++) times(k, u + v * POINTS * all, g, POINTS, side, half + v * side * all, all);
}
void ramet__winograd_dw_end(const ramet__kernels *k, const int64_t *a, float *dw, const float *u, float *room) {
    float g[PLACES];
    const int64_t c = a[CHANNELS], n = a[OUTPUTS], side = a[KERNEL], taps = side * side, all = c * n;
    float *half = room + taps * all;
    filter_matrix(g, side, 1);
    times(k, half, g, side, POINTS, u, POINTS * all);
    for (int64_t i = 0; i < side; i++) times(k, room + i * side * all, g, side, POINTS, half + i * POINTS * all, all);
    for (int64_t o = 0; o < n; o++)
        for (int64_t t = 0; t < taps; t++, dw += c)
            for (int64_t i = 0; i < c; i++) dw[i] = room[t * all + i * n + o];
}
