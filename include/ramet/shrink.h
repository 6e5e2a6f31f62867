/* SPDX-License-Identifier: Apache-2.0 */
/**
 * ramet/shrink.h - variants: quantize, prune to smaller dense shapes, rebase onto a newer parent.
 */
#ifndef RAMET_SHRINK_H
#define RAMET_SHRINK_H
#include "model.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct ramet_quantize_options {
    uint32_t struct_size;
    const char *encoding;   /**< "Q4_0": for the linear weights; default "Q4_0" */
    const char *head;       /**< for embedding and output head; NULL (default): Q8_0, or `encoding` where that is F32, F16, BF16 */
    const char *algorithm;  /**< "nearest" (default) */
    ramet_progress_fn progress;
    void *progress_user;
} ramet_quantize_options;
RAMET_API void ramet_quantize_options_init(ramet_quantize_options *options, uint32_t struct_size);
/** A new model with its weights in another encoding (norms stay F32); rows that the encoding's block does not divide keep the nearest that fits. */
RAMET_API ramet_status ramet_quantize(ramet_model **out, ramet_model *model, const ramet_quantize_options *options);

typedef struct ramet_prune_options {
    uint32_t struct_size;
    int32_t layers;         /**< layers to remove (those that change the residual stream least); -1 (default): by `keep` */
    int64_t ffn;            /**< FFN channels to remove per layer (multiple of 32); -1 (default): by `keep` */
    double keep;            /**< fraction of the parameters of the layers to keep when layers and ffn are -1; default 0.7 */
    const int32_t *ids;     /**< calibration tokens: windows of `window`; required */
    int64_t count;
    int32_t window;         /**< default 0: 512, or the model's context where that is shorter */
    ramet_progress_fn progress;
    void *progress_user;
} ramet_prune_options;
RAMET_API void ramet_prune_options_init(ramet_prune_options *options, uint32_t struct_size);
/**
 * A new, smaller dense model. Layers: 1 - cosine between the stream before and after (ShortGPT, Men et al. 2024). FFN channels: mean |activation| x
 * norm of the down column over the calibration text. Lineage says where every layer and channel comes from.
 */
RAMET_API ramet_status ramet_prune(ramet_model **out, ramet_model *model, const ramet_prune_options *options);

/** The same variant of a newer parent: `variant`'s lineage applied to new_parent's weights, in `variant`'s encodings. `variant` must be born of an
 * ancestor of the same shape as new_parent (E_INCONSISTENT otherwise). */
RAMET_API ramet_status ramet_rebase(ramet_model **out, const ramet_model *variant, ramet_model *new_parent, ramet_progress_fn progress, void *user);
/** Carry an adapter trained on a pruned variant onto its parent through the variant's lineage: rows and columns land where they came from,
 * the rest is zero (LoRAM, Zhang et al. 2025). */
RAMET_API ramet_status ramet_adapter_lift(ramet_adapter **out, const ramet_adapter *adapter, const ramet_model *variant, const ramet_model *parent);

#ifdef __cplusplus
}
#endif
#endif
