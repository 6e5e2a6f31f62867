/* SPDX-License-Identifier: Apache-2.0 */
/* winograd.h - convolutions of stride 1 with 36 multiplications for each m x m results (m = 7 - kernel) in place of m * m * kernel * kernel: minimal filtering, Lavin and
 * Gray 2016. Its sums are rounded otherwise, some 1e-6 of the largest result away, so exact mode does without. winograd.c; conv2d.c is its user. */
#ifndef RAMET__WINOGRAD_H
#define RAMET__WINOGRAD_H
#include "graph/op.h"

enum { HEIGHT, WIDTH, CHANNELS, KERNEL, STRIDE, PAD, OUTPUTS }; /* attr.i of a convolution */
#define SLACK 32 /* floats that kernels may read too far */

/* a: attr.i. Whether that is less work for so many images; images that give the products of a place rows enough */
int32_t ramet__winograd_pays(const int64_t *a, int64_t images);
int64_t ramet__winograd_images(const int64_t *a);
/* Floats: of a worker's memory, of a matrix's transform, of the room to make that in */
int64_t ramet__winograd_scratch(const int64_t *a);
int64_t ramet__winograd_matrix(const int64_t *a);
int64_t ramet__winograd_room(const int64_t *a);
/* u: transform of w [outputs, kernel, kernel, channels]; for dx (back) turned over. room: ramet__winograd_room */
void ramet__winograd_share(const ramet__kernels *k, const int64_t *a, float *u, const float *w, float *room, int32_t back);
/* Of images r0..r1 of x and y: y = conv(x) + bias, rectified where asked, or x = the gradient for y, u being ramet__winograd_share's; or u = the transformed gradient of the matrix */
enum { RAMET__WINOGRAD_Y, RAMET__WINOGRAD_DX, RAMET__WINOGRAD_DW };
void ramet__winograd_run(const ramet__kernels *k, const int64_t *a, int32_t what, float *x, float *y, float *u, const float *bias, int32_t relu, int64_t r0, int64_t r1, float *scratch);
/* dw of the sum of such gradients. room: ramet__winograd_room */
void ramet__winograd_dw_end(const ramet__kernels *k, const int64_t *a, float *dw, const float *u, float *room);
#endif
