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
    double keep;            /**< fraction of the layers' parameters to keep when layers and ffn are -1: channels go while half of them stay, then layers; default 0.7 */
    const int32_t *ids;     /**< calibration tokens: windows of `window`; required */
    int64_t count;
    int32_t window;         /**< default 0: 512, or the model's context where that is shorter */
    ramet_progress_fn progress;
    void *progress_user;
} ramet_prune_options;
RAMET_API void ramet_prune_options_init(ramet_prune_options *options, uint32_t struct_size);
/**
 * A new, smaller dense model. Layers: 1 - cosine between the stream before and after (ShortGPT, Men et al. 2024). FFN channels: root mean square of the
 * activation x norm of the down column over the calibration text; the down columns that stay are then fitted by least squares to what all of them gave there.
 * Lineage says where every layer and channel comes from. Beside the models it takes n_ff^2 floats a layer, at most 1 GiB at once or one layer.
 */
RAMET_API ramet_status ramet_prune(ramet_model **out, ramet_model *model, const ramet_prune_options *options);

typedef struct ramet_rebase_options {
    uint32_t struct_size;
    const int32_t *ids;     /**< calibration tokens for a variant without some FFN channels; NULL (default): columns are cut and not fitted */
    int64_t count;
    int32_t window;         /**< as in ramet_prune_options */
    ramet_progress_fn progress;
    void *progress_user;
} ramet_rebase_options;
RAMET_API void ramet_rebase_options_init(ramet_rebase_options *options, uint32_t struct_size);
/** The same variant of a newer parent: `variant`'s lineage applied to new_parent's weights, in `variant`'s encodings; with the calibration text that it was
 * pruned by, as ramet_prune would make it. `variant` must be born of an ancestor of the same shape as new_parent (E_INCONSISTENT otherwise).
 * options NULL: the defaults. */
RAMET_API ramet_status ramet_rebase(ramet_model **out, const ramet_model *variant, ramet_model *new_parent, const ramet_rebase_options *options);
/** Carry an adapter trained on a pruned variant onto its parent through the variant's lineage: rows and columns land where they came from,
 * the rest is zero (LoRAM, Zhang et al. 2025). */
RAMET_API ramet_status ramet_adapter_lift(ramet_adapter **out, const ramet_adapter *adapter, const ramet_model *variant, const ramet_model *parent);

#ifdef __cplusplus
}
#endif
#endif
