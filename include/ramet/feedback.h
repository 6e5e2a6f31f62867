/* SPDX-License-Identifier: Apache-2.0 */
/**
 * ramet/feedback.h - the way back: store, brief, update, method, candidate, gate.
 *
 *     store --brief--> variant --adapt on a task--> update --absorb--> method --step--> candidate --gate--> commit --> store
 */
#ifndef RAMET_FEEDBACK_H
#define RAMET_FEEDBACK_H
#include "train.h"
#include "shrink.h"
#ifdef __cplusplus
extern "C" {
#endif

/* ---- task: what a model is measured and adapted on ---- */
#define RAMET_TASK_TEXT 0         /**< implemented */
#define RAMET_TASK_LABELLED 1
#define RAMET_TASK_UNLABELLED 2
#define RAMET_TASK_TABLE 3
#define RAMET_TASK_ENVIRONMENT 4
#define RAMET_TASK_DISTRIBUTION 5 /**< a distribution of tasks */
typedef struct ramet_task ramet_task;
/** The host's side of a task. `kind` says which members are used; others are ignored. All are called on the calling thread. */
typedef struct ramet_task_callbacks {
    uint32_t struct_size;
    int32_t kind;
    /** TEXT: document `index` (0,1,2 ...): set *text,*length (host's memory, valid until the next call); return 1, 0 at the end, negative on failure. */
    int32_t (*document)(const char **text, size_t *length, int64_t index, void *user);
    /** LABELLED, UNLABELLED, TABLE: row `index`: fill `features` (width floats) and *label; return 1, 0 at the end, negative on failure. */
    int32_t (*row)(float *features, int64_t width, int64_t *label, int64_t index, void *user);
    int64_t width;
    /** ENVIRONMENT: start an episode with a seed, then act; fill observation (width floats), *reward, *done. Negative on failure. */
    int32_t (*reset)(float *observation, int64_t width, uint64_t seed, void *user);
    int32_t (*act)(float *observation, int64_t width, double *reward, int32_t *done, int64_t action, void *user);
    /** DISTRIBUTION: draw a task with a seed; the library frees it. */
    ramet_status (*draw)(ramet_task **task, uint64_t seed, void *user);
    void *user;
} ramet_task_callbacks;
/** A task from callbacks. Kinds that no method of this build uses yet: E_UNSUPPORTED naming the kind. */
RAMET_API ramet_status ramet_task_create(ramet_task **out, ramet_runtime *runtime, const char *name, const ramet_task_callbacks *callbacks);
/** A text task from files (see ramet_dataset_add_file). */
RAMET_API ramet_status ramet_task_from_files(ramet_task **out, ramet_runtime *runtime, const char *name, const char *const *paths, int32_t count);
RAMET_API void ramet_task_free(ramet_task *task);
/** Its tokens for a model, read through the callbacks once. */
RAMET_API ramet_status ramet_task_dataset(ramet_dataset **out, ramet_task *task, ramet_model *model);

/* ---- store: a folder of a parent's versions ---- */
typedef struct ramet_store ramet_store;
/** Make a store at `folder` (must not be one yet) with `model` as version 1. */
RAMET_API ramet_status ramet_store_init(ramet_store **out, ramet_runtime *runtime, const char *folder, const ramet_model *model);
RAMET_API ramet_status ramet_store_open(ramet_store **out, ramet_runtime *runtime, const char *folder);
RAMET_API void ramet_store_free(ramet_store *store);
/** HEAD's version number, and its model (a new reference); each out may be NULL. */
RAMET_API ramet_status ramet_store_head(int64_t *version, ramet_model **model, ramet_store *store);
/** HEAD steps back to its parent version; the ledger keeps the record. E_STATE at version 1. */
RAMET_API ramet_status ramet_store_undo(int64_t *version, ramet_store *store);
/** The ledger as a JSON array, oldest first: absorbed, refused (and why), gated, committed, undone. Caller frees. */
RAMET_API ramet_status ramet_store_log(char **json, ramet_store *store);

/* ---- brief: downward ---- */
typedef struct ramet_brief_options {
    uint32_t struct_size;
    const char *method;             /**< NULL: settings fit every method */
    const char *const *probe_paths; /**< text files whose windows become the probe inputs for soft labels; may be none */
    int32_t probe_count;
    int32_t probe_windows;          /**< default 64 */
    int32_t probe_window;           /**< tokens each; default 256 */
    uint64_t seed;                  /**< choice of windows, and what the parent writes */
    const char *const *topics;      /**< the parent itself writes probe inputs about each: "medicine", or "medicine=signs and symptoms of diseases", a line of
                                         at most 200 bytes; a variant whose task is the name labels these windows alone, every other variant those of the files */
    int32_t topic_count;
    int32_t topic_windows;          /**< for each topic; default 64 */
    ramet_progress_fn progress;
    void *progress_user;
} ramet_brief_options;
RAMET_API void ramet_brief_options_init(ramet_brief_options *options, uint32_t struct_size);
/** Write a brief of HEAD: version, digest, round, method and settings, probe ids, nonce. A safetensors file. */
RAMET_API ramet_status ramet_brief_create(ramet_store *store, const char *path, const ramet_brief_options *options);

/* ---- update: upward ---- */
#define RAMET_UPDATE_DELTA 1  /**< low-rank differences from the variant's birth state */
#define RAMET_UPDATE_LOGITS 2 /**< soft labels on the brief's probe inputs of its topic: birth state and now, top classes + rest */
typedef struct ramet_update_options {
    uint32_t struct_size;
    int32_t what;            /**< RAMET_UPDATE_* bits; default DELTA */
    ramet_adapter *adapter;  /**< what the variant learned */
    const char *task;        /**< a name for the ledger, and of the brief's topic whose windows are labelled; no data */
    int64_t examples;        /**< predicted tokens it was tuned on; > 0 */
    double loss_before, loss_after; /**< on the variant's own held-out text; 0: not measured */
    int32_t top;             /**< classes a probe position; default 64 */
    ramet_progress_fn progress;
    void *progress_user;
} ramet_update_options;
RAMET_API void ramet_update_options_init(ramet_update_options *options, uint32_t struct_size);
/** Variant's half: write an update to `path`. variant: as born (lineage says of whom). */
RAMET_API ramet_status ramet_update_create(const char *path, ramet_model *variant, const char *brief_path, const ramet_update_options *options);

/* ---- method, candidate ---- */
/** The parent that would result: method, updates used, a model. */
typedef struct ramet_candidate ramet_candidate;
typedef struct ramet_feed_options {
    uint32_t struct_size;
    const float *weights;    /**< one for each update; NULL: the method's default */
    int32_t weights_count;
    const char *options;     /**< "density=.5,scale=1.2": the method's own, names from ramet_list("methods") detail; NULL: defaults */
    const char *encoding;    /**< of changed weights; NULL or "auto": the smallest in which the change survives rounding (see ramet_candidate_describe) */
    ramet_progress_fn progress;
    void *progress_user;
} ramet_feed_options;
RAMET_API void ramet_feed_options_init(ramet_feed_options *options, uint32_t struct_size);
/**
 * Absorb updates by a method ("average", "task_arithmetic", "ties", "lift", "distill") into a candidate for the store's HEAD. Each update is checked before any work (digest known,
 * finite, norm bound, nonce not used); a refused one is entered in the ledger with the reason and, when it is the only one, answered E_REFUSED.
 */
RAMET_API ramet_status ramet_feed(ramet_candidate **out, ramet_store *store, const char *method, const char *const *update_paths, int32_t count, const ramet_feed_options *options);
/** To a GGUF file with its record in the metadata, and back. */
RAMET_API ramet_status ramet_candidate_save(const ramet_candidate *candidate, const char *path);
RAMET_API ramet_status ramet_candidate_load(ramet_candidate **out, ramet_store *store, const char *path);
RAMET_API void ramet_candidate_free(ramet_candidate *candidate);
RAMET_API ramet_status ramet_candidate_model(ramet_model **out, const ramet_candidate *candidate);
/** JSON: method, updates, bytes, parent_bytes, encodings of changed weights, norm of the change and of its rounding error, verdict. Caller frees. */
RAMET_API ramet_status ramet_candidate_describe(char **json, const ramet_candidate *candidate);

/** Measure the candidate against HEAD on held-out tasks: passes if no task's loss is worse by more than max_worse (fraction) and the mean is better. */
typedef struct ramet_gate_options {
    uint32_t struct_size;
    double max_worse;        /**< default .01 */
    int32_t window;          /**< default 512 */
    int64_t max_tokens;      /**< scored, each task; 0 (default): all */
    int32_t mode;            /**< default BALANCED */
    int32_t guards;          /**< the last `guards` tasks are only guards: they may not get worse, their gain does not count; default 0 */
    ramet_progress_fn progress;
    void *progress_user;
} ramet_gate_options;
RAMET_API void ramet_gate_options_init(ramet_gate_options *options, uint32_t struct_size);
/** *passed 0 or 1; *json (may be NULL): per task parent and candidate loss, difference, paired 95% interval. The verdict goes into the ledger. */
RAMET_API ramet_status ramet_gate(int32_t *passed, char **json, ramet_store *store, ramet_candidate *candidate, ramet_task *const *tasks, int32_t count, const ramet_gate_options *options);
/** Make a candidate that passed its gate HEAD, atomically. E_REFUSED: not gated, failed, or HEAD moved since. */
RAMET_API ramet_status ramet_commit(int64_t *version, ramet_store *store, ramet_candidate *candidate);

/* ---- slot: the live model of a program ---- */
/** Holds one model that may be exchanged while sessions run; sessions keep what they opened. All functions from any thread. */
typedef struct ramet_slot ramet_slot;
RAMET_API ramet_status ramet_slot_create(ramet_slot **out, ramet_model *model);
RAMET_API ramet_status ramet_slot_get(ramet_model **model, ramet_slot *slot); /**< a new reference */
RAMET_API ramet_status ramet_slot_set(ramet_slot *slot, ramet_model *model);
RAMET_API void ramet_slot_free(ramet_slot *slot);

#ifdef __cplusplus
}
#endif
#endif
