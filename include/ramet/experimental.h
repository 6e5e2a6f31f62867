/* SPDX-License-Identifier: Apache-2.0 */
/**
 * ramet/experimental.h - what is not yet promised: may change in any release. Taps on a running model; embeddings of texts.
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

/** An encoder (architecture "bert") being run. One thread at a time uses one; several of one model run at once. */
typedef struct ramet_embedder ramet_embedder;
typedef struct ramet_embedder_options {
    uint32_t struct_size;
    int32_t mode;          /**< RAMET_MODE_*; default BALANCED */
    int32_t max_rows;      /**< most tokens of one run inside, and of one text; default 4096 */
    int32_t max_sequences; /**< most texts of one run inside; default 64 */
} ramet_embedder_options;
RAMET_API void ramet_embedder_options_init(ramet_embedder_options *options, uint32_t struct_size);
/** Retains the model. E_UNSUPPORTED: the model is no encoder. Since 0.1. */
RAMET_API ramet_status ramet_embedder_create(ramet_embedder **out, ramet_model *model, const ramet_embedder_options *options);
RAMET_API void ramet_embedder_free(ramet_embedder *embedder);
/**
 * `count` texts to vectors of length 1: text i is ids[offsets[i]] to ids[offsets[i + 1] - 1], as ramet_tokenize with RAMET_TOKENIZE_BOS gives
 * them; offsets has count + 1 entries from 0 on. out: [count, "width" of the model] floats. Texts of one call share runs without padding
 * and do not see one another. E_ARGUMENT: an empty text, one longer than the model's context or max_rows, an id that is none; then and
 * only then `out` is untouched. E_CANCELLED through `progress` (may be NULL). Nothing is allocated. Since 0.1.
 */
RAMET_API ramet_status ramet_embed(float *out, ramet_embedder *embedder, const int32_t *ids, const int64_t *offsets, int64_t count, ramet_progress_fn progress, void *user);
#ifdef __cplusplus
}
#endif
#endif
