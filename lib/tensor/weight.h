/* SPDX-License-Identifier: Apache-2.0 */
/* weight.h - one named tensor: encoded rows over mapped pages (or memory of its own) and, once a plan asked for it, its packing.
 * Reference counted: models that share a tensor share its pages and its packing. Immutable but for the packing, which is
 * made for the plans that use it: when the last of them is gone it stays, until the runtime's budget wants its room. */
#ifndef RAMET__WEIGHT_H
#define RAMET__WEIGHT_H
#include "base/file.h"
#include "base/runtime.h"
#include "tensor/tensor.h"
#include "kernels.h"

typedef struct ramet__weight ramet__weight;
/* Over bytes of a reader (mapped where it can be, else read into memory now). Retains the reader. */
ramet_status ramet__weight_from_reader(ramet__weight **out, ramet_runtime *rt, const char *name, ramet__enc enc, const ramet__shape *shape, ramet__reader *reader, uint64_t offset);
/* Owns zeroed memory: fill ramet__weight_mutable() before sharing it. */
ramet_status ramet__weight_new(ramet__weight **out, ramet_runtime *rt, const char *name, ramet__enc enc, const ramet__shape *shape);
/* The first `rows` rows of a weight, which it retains; packed on its own. */
ramet_status ramet__weight_first(ramet__weight **out, ramet__weight *w, int64_t rows);
ramet__weight *ramet__weight_retain(ramet__weight *w);
void ramet__weight_free(ramet__weight *w);
void *ramet__weight_mutable(ramet__weight *w); /* NULL for mapped ones */

const char *ramet__weight_name(const ramet__weight *w);
ramet__enc ramet__weight_enc(const ramet__weight *w);
const ramet__shape *ramet__weight_shape(const ramet__weight *w);
uint64_t ramet__weight_bytes(const ramet__weight *w);        /* encoded */
const void *ramet__weight_data(const ramet__weight *w);      /* encoded rows, always readable */
/* Rows r0..r1 (a row is the last dimension) as floats, dst[(r1-r0) * cols]. */
void ramet__weight_decode(float *dst, const ramet__weight *w, int64_t r0, int64_t r1);
/* E_INCONSISTENT naming the weight and its first bad row when a value or scale is NaN or infinite. Reads all of it, in parallel. */
ramet_status ramet__weight_check(const ramet__weight *w);
/* Make, where they are not there, the packings that the runtime's kernels want, in parallel, within the budget; those made by one
 * call stand side by side in memory, in this order. All of them stay until ramet__weights_release, which a failed call does not want. */
ramet_status ramet__weights_pack(ramet__weight *const *w, int64_t n);
/* They may be freed: when the budget would refuse something else, and nobody wants any that stands beside them; or with the weights. */
void ramet__weights_release(ramet__weight *const *w, int64_t n);
/* Give back the pages of the weight's whole file that were looked into; what is read there again comes back. */
void ramet__weight_leave_source(const ramet__weight *w);
const void *ramet__weight_packed(const ramet__weight *w);    /* between ramet__weights_pack and ramet__weights_release; the rows themselves for in-place packings */
/* The product to use after ramet__weights_pack, by arithmetic (RAMET__REDUCED, RAMET__EXACT, RAMET__BRAIN). */
const ramet__product *ramet__weight_product(const ramet__weight *w, int32_t arithmetic);
#endif
