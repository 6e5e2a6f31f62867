/* SPDX-License-Identifier: Apache-2.0 */
/* linear.h - what products and their gradients share: their check, and how a product is chosen and cut into pieces. linear.c */
#ifndef RAMET__LINEAR_H
#define RAMET__LINEAR_H
#include "graph/op.h"

#define PREPARE_ROWS 8 /* rows of a piece that prepares activations */
#define DENSE_ROWS 128 /* rows of a piece of a general product; of dW columns too */

typedef struct linear_part {
    const ramet__product *product; /* NULL: general product */
    uint64_t at, stride;           /* its prepared activations in shared room */
    int32_t prepares;              /* the first part with this way of preparing */
    int64_t rows, cols;            /* the most of a piece */
} linear_part;
typedef struct linear_piece { int64_t rows, cols; } linear_piece;

/* Rows x go with side `dim` of the matrix w; else the graph has failed. */
int32_t ramet__linear_check(ramet__graph *g, ramet__val x, ramet__val w, int32_t dim, const char *op);
/* A variable's floats are rounded as an encoded weight's where the plan's arithmetic is not exact and the CPU has what that takes. */
const ramet__product *ramet__linear_product(const ramet__plan *p, const ramet__pval *w, int32_t arithmetic);
/* What a product takes at a time, RAMET__FORWARD or RAMET__BACK, of at most so many rows */
void ramet__linear_most(linear_part *part, const ramet__product *product, int32_t way, int64_t rows);
/* rows, cols: of the result. The largest pieces that leave no worker waiting long for another; bits do not depend on them. */
linear_piece ramet__linear_piece(const linear_part *part, int64_t rows, int64_t cols, int64_t workers);
/* Rows and columns of dW[n, k]: smaller where workers would wait, while that is worth what a piece rounds of both sides. product NULL: general product */
linear_piece ramet__linear_dw_piece(const ramet__product *product, int64_t n, int64_t k, int64_t workers);
static inline const void *packed_of(const ramet__pval *w) { return w->leaf == RAMET__LEAF_WEIGHT ? ramet__weight_packed(w->weight) : w->data; }
#endif
