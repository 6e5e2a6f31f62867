/* SPDX-License-Identifier: Apache-2.0 */
/**
 * ramet/model.h - models, their tokenizers, adapters: loading, looking, saving, merging.
 */
#ifndef RAMET_MODEL_H
#define RAMET_MODEL_H
#include "base.h"
#ifdef __cplusplus
extern "C" {
#endif

/** Hyper-parameters + named weights + tokenizer. Immutable, reference counted, usable from all threads at once. */
typedef struct ramet_model ramet_model;
/** A low-rank (LoRA) change to named weights. Immutable once made, reference counted, usable from all threads at once. */
typedef struct ramet_adapter ramet_adapter;

typedef struct ramet_model_options {
    uint32_t struct_size;
    int32_t tokenizer;               /**< 1 (default): a file without a usable tokenizer is an error; 0: load without one */
    ramet_progress_fn progress;
    void *progress_user;
} ramet_model_options;
RAMET_API void ramet_model_options_init(ramet_model_options *options, uint32_t struct_size);

/**
 * Load a GGUF file, or (kind PATH) a Hugging Face folder with config.json, *.safetensors and tokenizer.json. Weights stay
 * mapped pages where the source allows. Errors: E_IO, E_FORMAT, E_LIMIT, E_UNSUPPORTED, E_INCONSISTENT, E_MEMORY, E_BUDGET.
 */
RAMET_API ramet_status ramet_model_load(ramet_model **out, ramet_runtime *runtime, const ramet_source *source, const ramet_model_options *options);
/** The same for a path, with defaults. */
RAMET_API ramet_status ramet_model_load_path(ramet_model **out, ramet_runtime *runtime, const char *path);
RAMET_API ramet_model *ramet_model_retain(ramet_model *model);
RAMET_API void ramet_model_free(ramet_model *model);
/** Write as GGUF v3: all weights in their encodings, all metadata, tokenizer, lineage. Whole or not at all. */
RAMET_API ramet_status ramet_model_save(const ramet_model *model, const char *path, ramet_progress_fn progress, void *user);

/** "llama". Lives as long as the model. */
RAMET_API const char *ramet_model_architecture(const ramet_model *model);
/**
 * A number by name: "vocabulary", "layers", "width", "heads", "kv_heads", "head_width", "ffn_width", "context", "parameters"
 * (count, tied once), "bytes" (encoded weights). E_NOT_FOUND otherwise.
 */
RAMET_API ramet_status ramet_model_number(int64_t *out, const ramet_model *model, const char *name);
/** SHA-256 over the logical weights (names, shapes, encoded values): 64 hex digits; survives a change of container. Computed
 * on first use (reads all weights). Lives as long as the model. NULL on failure (see ramet_last_error). */
RAMET_API const char *ramet_model_digest(const ramet_model *model);
/** Lineage and all metadata as JSON text for people and scripts; caller frees with ramet_string_free. */
RAMET_API ramet_status ramet_model_describe(char **json, const ramet_model *model);

/** One weight. Pointers live as long as the model. */
typedef struct ramet_tensor_info {
    uint32_t struct_size;
    int32_t rank;
    int64_t dim[4];       /**< slowest first: a linear weight is [outputs, inputs] */
    const char *name;     /**< "blk.0.attn_q.weight" */
    const char *encoding; /**< "Q4_1" */
    uint64_t bytes;
} ramet_tensor_info;
RAMET_API int64_t ramet_model_tensor_count(const ramet_model *model);
RAMET_API ramet_status ramet_model_tensor_at(ramet_tensor_info *out, const ramet_model *model, int64_t index);
RAMET_API ramet_status ramet_model_tensor_find(int64_t *index, const ramet_model *model, const char *name);
/** Decode a weight to floats: dst must hold `count` = all elements, in row order. */
RAMET_API ramet_status ramet_model_tensor_read(float *dst, int64_t count, const ramet_model *model, int64_t index);

/** What a file is, whatever it is (model, adapter, brief, update, checkpoint, store folder), as one JSON object: kind, size by part, what it
 * would send off the device. Caller frees with ramet_string_free. */
RAMET_API ramet_status ramet_describe_path(char **json, ramet_runtime *runtime, const char *path);

/* ---- tokenizer ---- */
#define RAMET_TOKENIZE_SPECIAL 1 /**< spelled-out control tokens in the text count; off: user text never becomes control ids */
#define RAMET_TOKENIZE_BOS 2     /**< put the beginning-of-text id in front if the model wants one */
/** Text to ids. *count is how many the text has, also when capacity is too small (then E_LIMIT and ids is untouched beyond it). ids may
 * be NULL with capacity 0 to ask for the count: that is RAMET_OK. */
RAMET_API ramet_status ramet_tokenize(int64_t *count, int32_t *ids, int64_t capacity, const ramet_model *model, const char *text, size_t length, int32_t flags);
/** Ids to text. *length without the final NUL; same capacity rule. `special`: spell out control ids. */
RAMET_API ramet_status ramet_detokenize(size_t *length, char *text, size_t capacity, const ramet_model *model, const int32_t *ids, int64_t count, int32_t special);
/** Messages to one prompt text by the model's chat template (for RAMET_TOKENIZE_SPECIAL). Caller frees with ramet_string_free. */
RAMET_API ramet_status ramet_chat_format(char **text, const ramet_model *model, int32_t count, const char *const *roles, const char *const *contents, int32_t open_reply);
/** The same messages as ids, ready to run, and the safe way for what users write: a content that spells "<|im_end|>" stays text.
 * Capacity rule as in ramet_tokenize. */
RAMET_API ramet_status ramet_chat_tokenize(int64_t *n, int32_t *ids, int64_t capacity, const ramet_model *model, int32_t count, const char *const *roles, const char *const *contents, int32_t open_reply);
/** 1 if the id ends a reply. */
RAMET_API int32_t ramet_token_is_end(const ramet_model *model, int32_t id);

/* ---- adapters ---- */
/** Load a LoRA adapter for `model`: GGUF as llama.cpp's --lora takes, or PEFT (folder with adapter_config.json and
 * adapter_model.safetensors, or the safetensors file beside its config). E_INCONSISTENT: other shapes, no target, other base. */
RAMET_API ramet_status ramet_adapter_load(ramet_adapter **out, const ramet_model *model, const char *path);
/** Save: a path that ends in ".gguf" writes GGUF, any other a PEFT folder. E_UNSUPPORTED: a DoRA as GGUF. */
RAMET_API ramet_status ramet_adapter_save(const ramet_adapter *adapter, const char *path);
RAMET_API ramet_adapter *ramet_adapter_retain(ramet_adapter *adapter);
RAMET_API void ramet_adapter_free(ramet_adapter *adapter);
/** "rank" (largest), "alpha", "targets", "parameters", "bytes", "dora" (1: it is one). */
RAMET_API ramet_status ramet_adapter_number(double *out, const ramet_adapter *adapter, const char *name);
/** A new model with scale * B.A added into the weights it names, of a DoRA (only one) with its magnitudes. encoding: name for the changed weights, NULL: each its own. */
RAMET_API ramet_status ramet_model_merge(ramet_model **out, const ramet_model *model, const ramet_adapter *const *adapters, const float *scales, int32_t count, const char *encoding, ramet_progress_fn progress, void *user);

#ifdef __cplusplus
}
#endif
#endif
