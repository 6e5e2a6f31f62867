/* SPDX-License-Identifier: Apache-2.0 */
/* shrink.h - shared by quantize, prune, rebase and the feedback layer: a lineage applied to a parent's weights. */
#ifndef RAMET__SHRINK_H
#define RAMET__SHRINK_H
#include "model/model.h"
#include "ramet/shrink.h"

/* The encoding that weight `name` of the result gets; `source` is the parent's weight that it comes from. */
typedef ramet__enc (*ramet__choose_enc)(const char *name, const ramet__weight *source, void *user);

/* Calibration text: tokens in windows. ids NULL: none, progress alone. */
typedef struct ramet__calibration {
    const int32_t *ids;
    int64_t count;
    int32_t window; /* 0: 512, or the model's context where that is shorter */
    ramet_progress_fn progress;
    void *progress_user;
} ramet__calibration;
/* Fills in window; E_ARGUMENT naming `call` when the text cannot be used with the model. */
ramet_status ramet__calibration_check(ramet__calibration *text, const ramet_model *model, const char *call);

/* The model that `map` (layers and channels in parent's numbers) makes of `parent`, with `record` as its lineage (taken on
 * success; may be NULL). Weights that no step touches are shared with the parent, not copied. With calibration text
 * a variant that loses FFN channels has its ffn_down fitted to the parent's outputs. */
ramet_status ramet__lineage_apply(ramet_model **out, ramet_model *parent, const ramet__lineage *map, ramet__lineage *record, ramet__choose_enc choose,
                                  void *user, const ramet__calibration *text);
/* Those ffn_down [map->n_layer], in choose's encodings. */
ramet_status ramet__refit(ramet__weight **down, ramet_model *parent, const ramet__lineage *map, ramet__choose_enc choose, void *user, const ramet__calibration *text);
/* `later` made from a model whose own lineage is `earlier`, seen from earlier's parent. Both may be NULL except later. */
ramet_status ramet__lineage_compose(ramet__lineage **out, ramet__mem *mem, const ramet__lineage *earlier, const ramet__lineage *later);
/* Append a step object's text ({"step":...}) to lineage->steps. */
ramet_status ramet__lineage_step(ramet__lineage *lineage, ramet__mem *mem, const char *object);
/* A child of `model`: *map in the model's own numbers, *record as its lineage will say: of the model's parent when the model is
 * itself a variant, otherwise of the model. layer [n_layer] and ff [n_layer * n_ff] may be NULL: all. Both are the caller's. */
ramet_status ramet__lineage_child(ramet__lineage **map, ramet__lineage **record, const ramet_model *model, int32_t n_layer, const int32_t *layer,
                                  int64_t n_ff, const int32_t *ff, const char *step);

/* dst weight = src weight re-encoded, optionally with chosen rows/columns (NULL: all), in parallel over rows. */
ramet_status ramet__weight_select(ramet__weight **out, ramet_runtime *rt, const ramet__weight *src, const char *name, ramet__enc enc,
                                  const int32_t *rows, int64_t n_rows, const int32_t *cols, int64_t n_cols);
/* An adapter of a variant with `lineage` carried into `parent`'s shape. variant: its name for messages. */
ramet_status ramet__lift(ramet_adapter **out, const ramet_adapter *adapter, const ramet__lineage *lineage, const char *variant, const ramet_model *parent);

/* The encoding to use when `wanted` may not divide a row of `cols`: wanted itself, or F16. */
ramet__enc ramet__enc_fit(ramet__enc wanted, int64_t cols);
#endif
