/* SPDX-License-Identifier: Apache-2.0 */
/**
 * ramet/train.h - data, tuners (LoRA and full, with or without a teacher), checkpoints, evaluation.
 */
#ifndef RAMET_TRAIN_H
#define RAMET_TRAIN_H
#include "session.h"
#ifdef __cplusplus
extern "C" {
#endif

/** Tokens with document bounds and a per-token flag "predict this"; immutable once built; reference counted. */
typedef struct ramet_dataset ramet_dataset;
RAMET_API ramet_status ramet_dataset_create(ramet_dataset **out, ramet_model *model);
/** Append one document of plain text; an end-of-text id closes it. Not after the dataset was given to a tuner or evaluation (E_STATE). */
RAMET_API ramet_status ramet_dataset_add_text(ramet_dataset *dataset, const char *text, size_t length);
/** Append ids with predict flags (NULL: all). */
RAMET_API ramet_status ramet_dataset_add_ids(ramet_dataset *dataset, const int32_t *ids, const uint8_t *predict, int64_t count);
/** Append one chat; only assistant turns are predicted. */
RAMET_API ramet_status ramet_dataset_add_chat(ramet_dataset *dataset, int32_t count, const char *const *roles, const char *const *contents);
/** Append a preference: after the prompt the first answer is better than the second. A dataset has preferences or documents (E_STATE); a tuner of preferences minimizes
 * the loss of DPO, a pair being one window. E_ARGUMENT: an answer is empty. Since 0.1. */
RAMET_API ramet_status ramet_dataset_add_pair(ramet_dataset *dataset, const char *prompt, const char *chosen, const char *rejected);
/** Append a file: .jsonl: a document a line ({"text"}, {"prompt","completion"} or {"messages":[{"role","content"}]}) or preferences ({"prompt","chosen","rejected"}); .u16, .u32: ids of 2 or 4 bytes, little-endian; .npy:
 * NumPy's, one dimension of integers; of ids a document ends after each end-of-text id; anything else: one document of text. All of a file or nothing. */
RAMET_API ramet_status ramet_dataset_add_file(ramet_dataset *dataset, const char *path);
/** ids[0..count) := tokens from.. of a stream; predict[i], 1 before the call, := 0 for a token that is not to be learned. 0, or anything else: it failed. */
typedef int32_t (*ramet_tokens_fn)(int32_t *ids, uint8_t *predict, int64_t from, int64_t count, void *user);
/**
 * A dataset of `tokens` tokens that the host keeps: `read` is asked for each window just before its use, on the calling thread, always with the same answer; a
 * document ends after each end-of-text id. Nothing can be added. `name` (NULL: "") stands for the data in checkpoints: resume wants the same name and size.
 * `read` and `user` are in use until the dataset and every tuner of it is freed. Errors while reading: E_IO, it failed; E_INCONSISTENT, an id outside the vocabulary. Since 0.1.
 */
RAMET_API ramet_status ramet_dataset_create_source(ramet_dataset **out, ramet_model *model, int64_t tokens, const char *name, ramet_tokens_fn read, void *user);
RAMET_API void ramet_dataset_free(ramet_dataset *dataset);
RAMET_API int64_t ramet_dataset_tokens(const ramet_dataset *dataset);
RAMET_API int64_t ramet_dataset_documents(const ramet_dataset *dataset);
/** Copy tokens [from, from + count) of the stream of all documents. E_ARGUMENT: outside 0..ramet_dataset_tokens(). */
RAMET_API ramet_status ramet_dataset_read(int32_t *ids, const ramet_dataset *dataset, int64_t from, int64_t count);

#define RAMET_SCHEDULE_COSINE 0
#define RAMET_SCHEDULE_CONSTANT 1
#define RAMET_SCHEDULE_LINEAR 2
#define RAMET_SCHEDULE_WSD 3 /**< warm-up, stable, in the last fifth down */

/** values[i] := the sum of values[i] over all workers, the same bits for each. 0, or anything else: it failed. */
typedef int32_t (*ramet_all_reduce_fn)(float *values, int64_t count, void *user);

typedef struct ramet_tuner_options {
    uint32_t struct_size;
    int32_t full;            /**< 0 (default): LoRA; 1: every weight, or those of `targets` (F32 masters) */
    int32_t rank;            /**< default 16 */
    float alpha;             /**< default 32 */
    const char *targets;     /**< comma-separated PEFT names, "q_proj,v_proj"; NULL (default): all linear layers. full: also "norms", norms and biases; NULL: all weights */
    int32_t mode;            /**< RAMET_MODE_*; default BALANCED */
    int32_t window;          /**< tokens a packed window; default 256 */
    int32_t batch;           /**< windows an optimizer step; default 4 */
    int32_t micro_batch;     /**< windows run at once; the sums do not depend on it beyond rounding; default 2 */
    int64_t steps;           /**< optimizer steps; 0: by epochs */
    double epochs;           /**< default 1 */
    float learning_rate;     /**< default 2e-4 LoRA, 2e-5 full (0) */
    float warmup;            /**< fraction of steps; default .03 */
    int32_t schedule;        /**< RAMET_SCHEDULE_*; default COSINE; all but CONSTANT end at a tenth. Names: ramet_list("schedules"), in this order */
    float weight_decay;      /**< default 0 */
    float beta1, beta2, epsilon; /**< defaults .9 .999 1e-8 */
    float clip;              /**< global gradient norm; default 1; 0: off */
    uint64_t seed;           /**< default 0: order of windows, initial A */
    ramet_model *teacher;    /**< NULL, or: distil - KL to the teacher's distribution on the same windows (same vocabulary) */
    float teacher_weight;    /**< of the KL against the cross-entropy: default 1 (only KL) when a teacher is given */
    int32_t teacher_top;     /**< classes kept a position, the rest one bin; default 64 */
    ramet_adapter *initial;  /**< NULL, or: start from this adapter (copied); rank, alpha and targets are then its own */
    const char *optimizer;   /**< NULL (default): "adamw"; "adamw8": 2 bytes of state a parameter for 8; "sgd", "nesterov": momentum beta1, decoupled decay */
    int32_t rslora;          /**< 1: the adapter's scale is alpha / sqrt(rank) (rsLoRA); default 0: alpha / rank. Not with `initial` */
    float lora_plus;         /**< learning rate of B over that of A (LoRA+); default 1 */
    const char *groups;      /**< NULL, or "PATTERN=FACTOR[@STEP];...": the first pattern (with * and ?) that matches a trained tensor's whole name, such as
                                  blk.0.attn_q.weight.lora_b, gives the factor of its learning rate, until STEP steps are made 0. 0 freezes:
                                  "blk.0.*=0;*.ffn_*=.5;*=1@100". A pattern that matches nothing is E_ARGUMENT */
    const char *average;     /**< NULL, "ema" (of average_decay) or "swa" (mean): what ramet_tuner_adapter and _model give is the average of the weights after each step */
    float average_decay;     /**< default .999 */
    float average_start;     /**< fraction of the steps before the average begins; default -1: 0 for ema, .75 for swa */
    int32_t on_nonfinite;    /**< RAMET_NONFINITE_*; default STOP: E_NUMERIC; SKIP: the step is counted, no weight changes */
    float spike_factor;      /**< a step whose loss or gradient norm is beyond this times the median of the last 15 is skipped; at least 5 steps go before; default 0: off */
    ramet_dataset *evaluation; /**< NULL, or: measured as RAMET_SCORE_ALL in windows of the tuner's; what the tuner gives is the best state measured */
    int64_t evaluate_every;  /**< steps; default 0: only after the last */
    int32_t patience;        /**< tuning ends after so many evaluations in a row without a new best; default 0: off */
    ramet_all_reduce_fn all_reduce; /**< NULL, or: tuning by several processes, all with the same options, model and data. Called once a step, on the calling thread, between
                                  the last micro-batch and the update, with the sums of this worker's batch / workers windows. All workers then hold the same weights: those of
                                  one process bit for bit when the sums have the same order (LoRA, one micro-batch a worker, added in the order of the workers), else within rounding.
                                  A worker that fails or is cancelled leaves the others waiting: ending them is the host's part. Failed: E_IO, the step begins again */
    void *all_reduce_user;
    int32_t worker, workers; /**< this one, from 0, and how many; batch is the whole batch and a multiple of workers; default 0 of 1. With several, checkpoints are
                                  written between steps alone (E_STATE) */
    int32_t teacher_divergence; /**< RAMET_DIVERGENCE_*; default FORWARD: KL(teacher || student); REVERSE: KL(student || teacher), which seeks the teacher's modes */
    float teacher_skew;      /**< 0 (default) to below 1: the second distribution is mixed with so much of the first (DistiLLM), which bounds the loss; REVERSE wants some, say .1 */
    uint64_t byte_budget;    /**< most bytes the tuner may hold beyond the model's own weights and the data: parameters, optimizer, teacher's plan, activations (evaluation while
                                  tuning has its own). What does not fit is computed again in the backward part, with the same bits in the result; E_BUDGET names the least that would do.
                                  default 0: the runtime's budget alone */
    int32_t dora;            /**< 1: DoRA (Liu et al. 2024): every output has a trained magnitude, the pairs change directions; PEFT's use_dora. Default 0. Not with `initial` */
    float preference_beta;   /**< of a dataset of preferences: DPO's beta; default .1. The reference is the model without an adapter, of full tuning as it was */
    float example_clip;      /**< each window's own gradient (of its mean loss, so to say: batch times its part of the loss) is brought down to this norm before they are added up,
                                  which bounds what one example can do. A norm that none reaches changes nothing. Not with DoRA or rates that begin at a step; default 0: off */
    float *example_norms;    /**< NULL, or room for batch / workers numbers: the norms of the last step's windows before that, in their order. In use while the tuner is */
    const char *state_path;  /**< NULL, or: the optimizer's state lies in a new file of this name instead of memory (full tuning with adamw: 8 bytes a weight), with the same bits; byte_budget does
                                  not count it. The disk's room is taken at once: E_IO when there is not enough, or the file exists */
    int32_t state_keep;      /**< 0 (default): the file loses its name as soon as it is made, and ends with the tuner; 1: it stays */
} ramet_tuner_options;
RAMET_API void ramet_tuner_options_init(ramet_tuner_options *options, uint32_t struct_size);

#define RAMET_DIVERGENCE_FORWARD 0
#define RAMET_DIVERGENCE_REVERSE 1
#define RAMET_NONFINITE_STOP 0
#define RAMET_NONFINITE_SKIP 1

/** A model being adapted. */
typedef struct ramet_tuner ramet_tuner;
RAMET_API ramet_status ramet_tuner_create(ramet_tuner **out, ramet_model *model, ramet_dataset *data, const ramet_tuner_options *options);
RAMET_API void ramet_tuner_free(ramet_tuner *tuner);

typedef struct ramet_tuner_report {
    uint32_t struct_size;
    int32_t done;            /**< 1: all steps are made, or patience is at its end */
    int64_t step, steps;     /**< made, in all */
    double loss;             /**< mean over the predicted tokens of the last step */
    double gradient_norm, learning_rate;
    int64_t tokens;          /**< predicted so far */
    double seconds;          /**< spent inside ramet_tuner_step so far */
    int64_t skipped;         /**< steps without a change: not finite, or spikes */
    int64_t evaluations;     /**< made so far; before the first the next three are 0 */
    double evaluation_loss;  /**< of the last */
    double best_loss;        /**< of the best, after best_step steps */
    int64_t best_step;
    uint64_t bytes;          /**< that the tuner holds in every step, as byte_budget counts them; known before the first */
    uint64_t plan_bytes;     /**< of them activations and scratch */
    double recomputed;       /**< fraction of a step's work that is done a second time to save memory */
    double accuracy;         /**< of preferences: share of the last step's pairs (of this worker) whose better answer has gained on the worse */
    double example_norm;     /**< of example_clip: mean norm of the last step's windows (of this worker) before clipping */
    double example_clipped;  /**< and the share of them that was clipped */
} ramet_tuner_report;
/**
 * Advance by at most max_steps optimizer steps (0: only report), and stop (between micro-batches) when `deadline` seconds have passed (0: none); at
 * least one micro-batch is done. report (may be NULL): set its struct_size; filled on success. A step cut by the deadline is continued by the next call. Cancelled: E_CANCELLED within 100 ms or one graph node; the state stays resumable (full tuning: at the beginning of the present step). NaN or infinity in loss or gradients:
 * E_NUMERIC before any weight changes, or the step is skipped (on_nonfinite).
 */
RAMET_API ramet_status ramet_tuner_step(ramet_tuner_report *report, ramet_tuner *tuner, int64_t max_steps, double deadline, ramet_progress_fn progress, void *user);
/** What a step consists of, as text: a line an operation with its room and, once it has run, its mean time; and what is computed again. Caller frees (ramet_string_free). */
RAMET_API ramet_status ramet_tuner_describe(char **out, const ramet_tuner *tuner);
/** One file with weights, optimizer, schedule, random state, data cursor, accumulation; whole or not at all; a checksum a section. Resume continues byte-identically. */
RAMET_API ramet_status ramet_tuner_save(ramet_tuner *tuner, const char *path);
/** Continue from a checkpoint; model, data and options must be the same (E_INCONSISTENT names what differs). */
RAMET_API ramet_status ramet_tuner_resume(ramet_tuner *tuner, const char *path);
/** What was learned so far: an adapter (LoRA) ... */
RAMET_API ramet_status ramet_tuner_adapter(ramet_adapter **out, ramet_tuner *tuner);
/** ... or a model (full), what was tuned in `encoding` (NULL: F32; vectors always), the rest as it was. */
RAMET_API ramet_status ramet_tuner_model(ramet_model **out, ramet_tuner *tuner, const char *encoding);

#define RAMET_SCORE_HALF 0 /**< disjoint windows; predictions made from positions window/2 .. window-2 scored, as llama.cpp's perplexity */
#define RAMET_SCORE_ALL 1  /**< windows split by document, as a tuner sees them; every token that the data's flags predict, but a document's first */
typedef struct ramet_evaluate_options {
    uint32_t struct_size;
    int32_t window;          /**< default 512 */
    int32_t score;           /**< default RAMET_SCORE_HALF */
    int32_t mode;            /**< default BALANCED */
    int64_t max_tokens;      /**< stop after exactly so many scored tokens; 0 (default): all */
    ramet_adapter *adapter;  /**< NULL: none */
    float adapter_scale;     /**< default 1 */
    float *losses;           /**< NULL, or room for losses_capacity: each scored token's loss, in order */
    int64_t losses_capacity;
    ramet_progress_fn progress;
    void *progress_user;
} ramet_evaluate_options;
RAMET_API void ramet_evaluate_options_init(ramet_evaluate_options *options, uint32_t struct_size);
typedef struct ramet_evaluation {
    uint32_t struct_size;
    int32_t windows;
    int64_t tokens;          /**< scored */
    double loss;             /**< mean negative log-likelihood, nats */
    double standard_error;   /**< of loss, over windows; 0 when there is only one */
    double perplexity, seconds;
} ramet_evaluation;
/**
 * Measure a model on data: no logits are held, losses come from the fused head. The stream is all documents in order, each closed by the
 * end-of-text id except the last. HALF: attention spans the whole window, a remainder shorter than a window is left out, and where the model
 * wants a beginning-of-text id it takes the place of each window's first token. Errors: E_ARGUMENT (also: nothing to score), E_CANCELLED,
 * E_INCONSISTENT (the adapter does not fit), E_NUMERIC (a loss is not finite), E_MEMORY, E_BUDGET.
 */
RAMET_API ramet_status ramet_evaluate(ramet_evaluation *out, ramet_model *model, ramet_dataset *data, const ramet_evaluate_options *options);

#ifdef __cplusplus
}
#endif
#endif
