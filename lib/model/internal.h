/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of lib/model share and no other layer uses. */
#ifndef RAMET__MODEL_INTERNAL_H
#define RAMET__MODEL_INTERNAL_H
#include "model/model.h"

/* An empty model; its weights are then filled in by the architecture's table. */
ramet_status ramet__model_new(ramet_model **out, ramet_runtime *rt, const ramet__arch *arch, const ramet__hparams *h, const char *name);
/* Give the weight `name` (a new reference) or leave *out NULL when the source has none. */
typedef ramet_status (*ramet__fetch_fn)(ramet__weight **out, void *context, const ramet__weight_spec *spec, int32_t layer, const char *name, const ramet__shape *want);
ramet_status ramet__model_fill(ramet_model *m, ramet__fetch_fn fetch, void *context);
ramet_status ramet__model_check_finite(const ramet_model *m);

ramet_status ramet__model_load_gguf(ramet_model **out, ramet_runtime *rt, ramet__reader *reader, const ramet_model_options *o);
ramet_status ramet__model_load_hf(ramet_model **out, ramet_runtime *rt, const char *folder, int32_t untrusted, const ramet_model_options *o);

/* The tokenizer has to fit the embedding. */
ramet_status ramet__model_check_tokenizer(const ramet_model *m);
/* Put the file's name in front of the message unless it is there. */
ramet_status ramet__name_file(ramet_status st, const char *name);

/* Lineage <-> "ramet.lineage.*" keys. */
ramet_status ramet__lineage_read(ramet__lineage **out, ramet__mem *mem, const ramet__gguf *gguf, const ramet__hparams *h);
ramet_status ramet__lineage_write(ramet__gguf_writer *w, const ramet__lineage *l);
void ramet__lineage_json(ramet__text *text, const ramet__lineage *l);

/* Adapters: checks, and the files' two halves: `model` NULL reads without
 * checking against a model (to describe a file). */
ramet_status ramet__adapter_finite(const ramet_adapter *a);
ramet_status ramet__adapter_check_base(const ramet_model *model, const char *digest);
float ramet__adapter_fold(const ramet_adapter *a, const ramet__lora *l); /* B is multiplied by this in files */
ramet_status ramet__adapter_load(ramet_adapter **out, ramet_runtime *rt, const ramet_model *model, const char *path);
ramet_status ramet__adapter_load_gguf(ramet_adapter **out, ramet_runtime *rt, const ramet_model *model, ramet__reader *reader);
ramet_status ramet__adapter_load_peft(ramet_adapter **out, ramet_runtime *rt, const ramet_model *model, const char *path);
ramet_status ramet__adapter_save_gguf(const ramet_adapter *a, const char *path);
ramet_status ramet__adapter_save_peft(const ramet_adapter *a, const char *path);
/* Rows r0..r1 of ramet__adapter_delta. */
void ramet__adapter_delta_rows(float *dst, const ramet_adapter *const *adapters, const float *scales, int32_t count, const ramet__weight *w, int64_t r0, int64_t r1);
#endif
