/* SPDX-License-Identifier: Apache-2.0 */
/**
 * ramet/session.h - a model being run: sequences with cached keys and values, logits, sampling, streaming generation.
 *
 * One session is used by one thread at a time; several sessions of one model run at the same time on different threads.
 */
#ifndef RAMET_SESSION_H
#define RAMET_SESSION_H
#include "model.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct ramet_session ramet_session;

#define RAMET_MODE_EXACT 0    /**< fp32 arithmetic; a row's bits do not depend on its neighbours */
#define RAMET_MODE_BALANCED 1 /**< default: reduced-precision products where the loss does not show; caches in IEEE halves */
#define RAMET_MODE_FAST 2     /**< as balanced, but int8 products round all activations once: many rows are faster, at some loss of accuracy (README, "Speed") */

#define RAMET_CACHE_DEFAULT 0 /**< keys and values in floats (exact) or IEEE halves */
#define RAMET_CACHE_INT8 1    /**< in int8, with a scale for each position and head: half the bytes, at some loss of accuracy (README, "Serving"); not in mode exact. AMX does not read it: attention of prompts takes longer there */

typedef struct ramet_session_options {
    uint32_t struct_size;
    int32_t mode;              /**< RAMET_MODE_*; default BALANCED */
    int64_t max_context;       /**< most positions of one sequence; default 2048, at most the model's */
    int32_t max_rows;          /**< most tokens given to one run inside; default 512; longer prompts are cut into several */
    int32_t max_sequences;     /**< default 8 */
    int32_t max_rank;          /**< largest adapter rank that can be attached; default 64 */
    int32_t max_outputs;       /**< most rows of logits a run may want; default 8 */
    int32_t dora;              /**< 1: DoRA adapters can be attached, which costs every run a little; default 0 */
    ramet_model *draft_model;  /**< NULL (default), or a smaller model with the same vocabulary that guesses for ramet_sampling.draft
                                    (Leviathan et al. 2023, speculative decoding). Retained; its keys and values are beside the session's own. Since 0.1 */
    int64_t draft_vocabulary;  /**< the draft model only guesses ids below this, so its head is as much smaller; a byte-pair vocabulary begins with
                                    what is frequent. 0 (default): all. Since 0.1 */
    int32_t cache;             /**< RAMET_CACHE_*; default DEFAULT. Since 0.1 */
} ramet_session_options;
RAMET_API void ramet_session_options_init(ramet_session_options *options, uint32_t struct_size);

RAMET_API ramet_status ramet_session_create(ramet_session **out, ramet_model *model, const ramet_session_options *options);
RAMET_API void ramet_session_free(ramet_session *session);

/**
 * Adapters. Attach gives an index >= 0 to name in rows; nothing is planned again. Index 0.. in order of attaching; detach frees the
 * index for the next attach. A sequence uses one adapter (default -1: none): ramet_session_use sets it, effective for rows run later. Detaching sets sequences that
 * used the adapter back to none. E_LIMIT: rank above max_rank; E_STATE: a DoRA, and the session was made without `dora`; E_INCONSISTENT: other shapes.
 */
RAMET_API ramet_status ramet_session_attach(int32_t *index, ramet_session *session, ramet_adapter *adapter, float scale);
RAMET_API ramet_status ramet_session_detach(ramet_session *session, int32_t index);
RAMET_API ramet_status ramet_session_use(ramet_session *session, int32_t sequence, int32_t adapter_index);

/** Drop what a sequence holds from position `keep` on (0: all). */
RAMET_API ramet_status ramet_session_truncate(ramet_session *session, int32_t sequence, int64_t keep);
/**
 * Make to_sequence a copy of the first `keep` tokens of from_sequence, with its adapter; what it held is dropped. Nothing is computed
 * and nothing copied: blocks of the cache are shared until one of the two writes into its last one (Kwon et al. 2023). Both go on as
 * if each had run the tokens itself. E_ARGUMENT: no such sequence, both the same, or keep above from_sequence's length.
 */
RAMET_API ramet_status ramet_session_fork(ramet_session *session, int32_t to_sequence, int32_t from_sequence, int64_t keep);
/** Tokens that a sequence holds. */
RAMET_API int64_t ramet_session_length(const ramet_session *session, int32_t sequence);
/** The first `count` of these tokens into ids. E_ARGUMENT: there are fewer. Since 0.1. */
RAMET_API ramet_status ramet_session_tokens(int32_t *ids, int64_t count, const ramet_session *session, int32_t sequence);

/**
 * A sequence's tokens, keys and values as a file, whole or not at all: what goes on from it later, here or in another session of the same model
 * and mode, has the bits that it would have had. E_STATE: the sequence is empty. Reads all weights once for the model's digest. Since 0.1.
 */
RAMET_API ramet_status ramet_session_save(const ramet_session *session, int32_t sequence, const char *path);
/** The same bytes in memory; the caller frees *data with ramet_string_free. Since 0.1. */
RAMET_API ramet_status ramet_session_pack(char **data, uint64_t *size, const ramet_session *session, int32_t sequence);
/**
 * Give a sequence what was saved; what it held is dropped. On failure it is as it was. The adapter is not in the file: let the sequence use
 * it first. E_INCONSISTENT: saved with another model, mode, adapter or scale; E_LIMIT: more tokens than max_context; E_FORMAT: not such a
 * file, or damaged. Since 0.1.
 */
RAMET_API ramet_status ramet_session_load(ramet_session *session, int32_t sequence, const ramet_source *source);

/**
 * Run tokens: row i appends id[i] to sequence[i] (NULL: all to 0). Rows of one sequence are consecutive. want[i] != 0 asks for the logits
 * of that row (NULL: only the last row of each sequence). On success the caches hold the rows; on failure or cancel the
 * sequences are as they were. Logits: *logits points at [outputs, vocabulary] floats inside the session, valid until its next call.
 */
RAMET_API ramet_status ramet_session_run(const float **logits, int64_t *outputs, ramet_session *session, const int32_t *ids, const int32_t *sequence, const uint8_t *want, int64_t rows, ramet_progress_fn progress, void *user);

/** How the next token is chosen. Filters in this order: top_k, top_p, min_p, then temperature. Deterministic given the seed. */
typedef struct ramet_sampling {
    uint32_t struct_size;
    float temperature; /**< 0: greedy (default) */
    int32_t top_k;     /**< 0 (default): off */
    float top_p;       /**< 1 (default): off (Holtzman et al. 2020) */
    float min_p;       /**< 0 (default): off (Nguyen et al. 2024) */
    uint64_t seed;     /**< default 0; the draw at a position is a function of (seed, sequence, position) */
    int32_t draft;     /**< 0 (default): off. ramet_session_generate: most tokens guessed a run, from what followed the same tokens
                            earlier in the prompt and the reply (Saxena 2023, prompt lookup decoding), else by the session's draft model; each rests
                            while its guesses cost more than they save. Fewer than the session's max_outputs
                            and max_rows. One run checks them and those that were to be chosen anyway stay: the same text in `exact` mode,
                            up to rounding in the others */
} ramet_sampling;
RAMET_API void ramet_sampling_init(ramet_sampling *sampling, uint32_t struct_size);
/** Choose from one row of logits. `counter`: position, so that a draw can be made again. */
RAMET_API ramet_status ramet_sample(int32_t *id, const float *logits, int64_t vocabulary, const ramet_sampling *sampling, int32_t sequence, int64_t counter);

/** One token of a reply: its id and the text that is now complete (whole UTF-8 characters; may be empty). Non-zero stops (not an error). */
typedef int32_t (*ramet_token_fn)(int32_t sequence, int32_t id, const char *text, size_t length, void *user);
/**
 * Run a prompt in `sequence` and generate at most max_tokens, streaming. Ends at an end-of-reply id, max_tokens, a full context or a non-zero
 * answer of on_token. An end id is neither delivered nor counted; on success the sequence holds the prompt and every delivered token. *generated
 * (may be NULL): tokens made. Cancelled through `progress`: E_CANCELLED, the sequence as far as it got.
 */
RAMET_API ramet_status ramet_session_generate(int64_t *generated, ramet_session *session, int32_t sequence, const int32_t *prompt, int64_t prompt_length, int64_t max_tokens, const ramet_sampling *sampling, ramet_token_fn on_token, ramet_progress_fn progress, void *user);

/** Last-run timing and memory, the draft model's with it, for display: {"plan_bytes":..,"cache_bytes":..}. Caller frees. */
RAMET_API ramet_status ramet_session_describe(char **json, const ramet_session *session);

#ifdef __cplusplus
}
#endif
#endif
