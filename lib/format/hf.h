/* SPDX-License-Identifier: Apache-2.0 */
/* hf.h - a Hugging Face folder: config.json, tokenizer.json, tokenizer_config.json, and model.safetensors or the shards that
 * model.safetensors.index.json names. Used by model/, which binds the names. */
#ifndef RAMET__HF_H
#define RAMET__HF_H
#include "format/json.h"
#include "format/safetensors.h"

typedef struct ramet__hf ramet__hf;
/* untrusted: read instead of map. Errors: E_NOT_FOUND (no config.json, no weights), E_FORMAT (a file is wrong; a shard's name is not a plain file name of this folder
 * or is a symbolic link), E_INCONSISTENT (the index names a tensor that its shard lacks), and what reading answers. */
ramet_status ramet__hf_open(ramet__hf **out, ramet__mem *mem, const char *folder, int32_t untrusted);
void ramet__hf_free(ramet__hf *hf);
/* E_NOT_FOUND naming the tensor. Out parameters belong to hf. */
ramet_status ramet__hf_find(const ramet__hf *hf, const char *name, const ramet__safetensors **st, const ramet__st_tensor **t);
/* All tensors, for at in 0..count-1, in the order of the file or the index. */
int64_t ramet__hf_count(const ramet__hf *hf);
void ramet__hf_at(const ramet__hf *hf, int64_t at, const ramet__safetensors **st, const ramet__st_tensor **t);

const ramet__json *ramet__hf_config(const ramet__hf *hf);                       /* an object, never NULL */
const char *ramet__hf_tokenizer(const ramet__hf *hf, size_t *size);             /* text of tokenizer.json, NULL: absent */
const char *ramet__hf_tokenizer_config(const ramet__hf *hf, size_t *size);      /* text of tokenizer_config.json, NULL: absent */
/* Another JSON object of the folder, alive as long as it; *out stays as it is when there is no such file. */
ramet_status ramet__hf_json(const ramet__json **out, const ramet__hf *hf, const char *name);
#endif
