/* SPDX-License-Identifier: Apache-2.0 */
/**
 * ramet/experimental.h - what is not yet promised: may change in any release. Taps on a running model; embeddings of texts;
 * many requests at once.
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
    int32_t max_rank;      /**< largest adapter rank that can be attached; default 64 */
    int32_t dora;          /**< 1: DoRA adapters can be attached, which costs every run a little; default 0 */
} ramet_embedder_options;
RAMET_API void ramet_embedder_options_init(ramet_embedder_options *options, uint32_t struct_size);
/** Retains the model. E_UNSUPPORTED: the model is no encoder. Since 0.1. */
RAMET_API ramet_status ramet_embedder_create(ramet_embedder **out, ramet_model *model, const ramet_embedder_options *options);
RAMET_API void ramet_embedder_free(ramet_embedder *embedder);
/**
 * Adapters of the encoder, as of a session: attach gives an index, which detach frees; `use` names the one of the following calls, -1 (default):
 * none. E_LIMIT: rank above max_rank; E_STATE: a DoRA, and the embedder was made without `dora`; E_INCONSISTENT: other shapes. Since 0.1.
 */
RAMET_API ramet_status ramet_embedder_attach(int32_t *index, ramet_embedder *embedder, ramet_adapter *adapter, float scale);
RAMET_API ramet_status ramet_embedder_detach(ramet_embedder *embedder, int32_t index);
RAMET_API ramet_status ramet_embedder_use(ramet_embedder *embedder, int32_t adapter_index);
/**
 * `count` texts to vectors of length 1: text i is ids[offsets[i]] to ids[offsets[i + 1] - 1], as ramet_tokenize with RAMET_TOKENIZE_BOS gives
 * them; offsets has count + 1 entries from 0 on. out: [count, "width" of the model] floats. Texts of one call share runs without padding
 * and do not see one another. E_ARGUMENT: an empty text, one longer than the model's context or max_rows, an id that is none; then and
 * only then `out` is untouched. E_CANCELLED through `progress` (may be NULL). Nothing is allocated. Since 0.1.
 */
RAMET_API ramet_status ramet_embed(float *out, ramet_embedder *embedder, const int32_t *ids, const int64_t *offsets, int64_t count, ramet_progress_fn progress, void *user);

/**
 * Many requests at once over one session (continuous batching, Yu et al. 2022). A step is one run: the next token of every request that
 * decodes, and in the rows left over the prompts of those that have joined, chunk by chunk. A request begins with what another sequence of
 * the same adapter holds of its tokens (a fork), those of finished requests included until their room is needed. When keys and values
 * take too much room, finished ones go first; then the youngest request waits and is computed again later.
 * In mode EXACT a request's tokens are those of ramet_session_generate in sequence 0 of a session of its own, whatever else is going on;
 * in other modes up to rounding.
 * The session's sequences are the batcher's while it lives; attaching adapters stays the host's. One thread at a time uses both.
 */
typedef struct ramet_batcher ramet_batcher;
typedef struct ramet_batcher_options {
    uint32_t struct_size;
    int32_t chunk;        /**< most prompt tokens of a step in which others decode; default 64 */
    uint64_t cache_bytes; /**< most bytes of keys and values; 0 (default): until the runtime's budget or allocator refuses */
} ramet_batcher_options;
RAMET_API void ramet_batcher_options_init(ramet_batcher_options *options, uint32_t struct_size);
/** Empties all sequences of the session, which must outlive the batcher. At most min(max_sequences, max_outputs, max_rows) requests run at once. Since 0.1. */
RAMET_API ramet_status ramet_batcher_create(ramet_batcher **out, ramet_session *session, const ramet_batcher_options *options);
/** Requests that are not done end without an event; the session's sequences are empty then. */
RAMET_API void ramet_batcher_free(ramet_batcher *batcher);

typedef struct ramet_request {
    uint32_t struct_size;
    int32_t adapter;                /**< attached to the session, -1 (default): none */
    const int32_t *ids;             /**< the prompt; copied */
    int64_t count;                  /**< of ids, at least 1 */
    int64_t max_tokens;             /**< at most so many follow, and no more than fit max_context; default 128, at least 1 */
    const ramet_sampling *sampling; /**< copied; NULL (default): greedy. `draft` must be 0 */
} ramet_request;
RAMET_API void ramet_request_init(ramet_request *request, uint32_t struct_size);
/**
 * Queue a request; *number (1, 2, ...) names it. E_ARGUMENT; E_LIMIT: the prompt does not fit max_context, or the request cache_bytes;
 * E_STATE: from a callback. Since 0.1.
 */
RAMET_API ramet_status ramet_batcher_submit(int64_t *number, ramet_batcher *batcher, const ramet_request *request);
/** Drop a request without an event. E_NOT_FOUND: it is done, or there was none; E_STATE: from a callback. Since 0.1. */
RAMET_API ramet_status ramet_batcher_cancel(ramet_batcher *batcher, int64_t number);

#define RAMET_EVENT_TOKEN 0  /**< one more token: its id, and the text that is now complete as for ramet_token_fn */
#define RAMET_EVENT_END 1    /**< done: the model ended its reply, by this id */
#define RAMET_EVENT_LENGTH 2 /**< done: max_tokens or max_context is reached */
#define RAMET_EVENT_FAILED 3 /**< done: text is why (logits that are no numbers, a detached adapter) */
/** Called on the stepping thread after a run. Non-zero drops this request. */
typedef int32_t (*ramet_event_fn)(int64_t number, int32_t event, int32_t id, const char *text, size_t length, void *user);
/**
 * One run and its events. *left (may be NULL): requests that are not done; 0: nothing to do. On failure, and E_CANCELLED by `progress`, no token
 * was made: step again, or cancel some. E_MEMORY, E_BUDGET: even one request alone finds no room. Since 0.1.
 */
RAMET_API ramet_status ramet_batcher_step(int64_t *left, ramet_batcher *batcher, ramet_event_fn on_event, ramet_progress_fn progress, void *user);
/** {"running","waiting","steps","rows","shared","preempted"}; shared: tokens that were not computed again. Caller frees. Since 0.1. */
RAMET_API ramet_status ramet_batcher_describe(char **json, const ramet_batcher *batcher);
#ifdef __cplusplus
}
#endif
#endif
