/* SPDX-License-Identifier: Apache-2.0 */
/**
 * ramet/experimental.h - what is not yet promised: may change in any release. Taps on a running model.
 */
#ifndef RAMET_EXPERIMENTAL_H
#define RAMET_EXPERIMENTAL_H
#include "session.h"
#ifdef __cplusplus
extern "C" {
#endif
/** Called with the rows of a tapped place ("blk.3.out"): [rows, columns] floats, valid during the call. Non-zero cancels the run. */
typedef int32_t (*ramet_tap_fn)(const char *name, const float *values, int64_t rows, int64_t columns, void *user);
/** One window of ids through the model without a cache, reading every tap whose name begins with `prefix`. */
RAMET_API ramet_status ramet_model_tap(ramet_model *model, const int32_t *ids, int64_t count, const char *prefix, int32_t mode, ramet_tap_fn tap, void *user);
#ifdef __cplusplus
}
#endif
#endif
