/* SPDX-License-Identifier: Apache-2.0 */
/* train.h - what the files of lib/train share: tokens and windows, rows of a run, parameters with their optimizer, the teacher, the tuner.
 *
 * A document is a run of tokens; the documents of a dataset stand one after another in one stream. Window w is the stream's tokens
 * [w*width, (w+1)*width): one row each, and row p predicts the stream's next token where that belongs to the same document and its
 * flag says so. A document's part of a window is a sequence of its own: attention never crosses documents and positions restart. */
#ifndef RAMET__TRAIN_H
#define RAMET__TRAIN_H
#include "model/model.h"
#include "ramet/train.h"

/* ---- data (dataset.c, jsonl.c, tokens.c) ---- */
typedef struct ramet__document { int64_t start; int32_t closed; } ramet__document; /* closed: its last token is an end-of-text id that we added */
struct ramet_dataset {
    ramet_runtime *rt;
    ramet_model *model;
    int32_t refs, sealed, pairs, end; /* pairs: documents are a better answer, a worse one, a better ...; end: the id that closes a document, -1: none */
    int64_t n, ids_cap, predict_cap; int32_t *ids; uint8_t *predict;
    int64_t n_docs, docs_cap; ramet__document *docs;
    ramet_tokens_fn read; void *user; char *name; /* of a host's source: n tokens that are not here */
};
ramet_dataset *ramet__dataset_retain(ramet_dataset *d);
void ramet__dataset_seal(ramet_dataset *d);                       /* no more documents from here on */
void ramet__dataset_cut(ramet_dataset *d, int64_t n, int64_t n_docs); /* back to an earlier size */
void ramet__dataset_digest(char hex[65], const ramet_dataset *d); /* SHA-256 over documents, ids and flags */
/* A document from pieces of text; predict[i]: whether piece i is predicted. Empty text adds nothing. */
typedef struct ramet__piece_text { const char *text; size_t len; int32_t special, predict; } ramet__piece_text;
int32_t ramet__is_token_file(const char *path);
ramet_status ramet__dataset_add_tokens(ramet_dataset *d, const char *path, const char *data, size_t size);
ramet_status ramet__source_read(int32_t *ids, uint8_t *predict, const ramet_dataset *d, int64_t from, int64_t count);
/* Stream tokens [from, to) where they can be read: d itself, or of a source a stage that they are read into, behind what it has. */
ramet_status ramet__dataset_view(const ramet_dataset **view, int64_t *from, int64_t *to, ramet_dataset *stage, const ramet_dataset *d);
ramet_status ramet__dataset_add_pieces(ramet_dataset *d, const ramet__piece_text *piece, int32_t n, int32_t close);

/* ---- rows of one run (rows.c) ---- */
typedef struct ramet__rows {
    int64_t max_rows, rows, outs;
    int32_t n_seq;
    int32_t *tokens, *pos, *seq;      /* [max_rows] */
    int32_t *out, *label;             /* [max_rows]: rows that predict, and what */
    float *weight;                    /* [max_rows]: of each prediction in the loss */
    int32_t *window, *window_out;     /* [max_rows]: which of the windows in the run a row, a prediction, belongs to */
    void *memory;
} ramet__rows;
ramet_status ramet__rows_init(ramet__rows *r, ramet__mem *mem, int64_t max_rows);
void ramet__rows_free(ramet__rows *r);
void ramet__rows_clear(ramet__rows *r);
/* Append the rows of stream tokens [from, to), split by document. Returns how many predictions were added. */
int64_t ramet__rows_add(ramet__rows *r, const ramet_dataset *d, int64_t from, int64_t to);
/* Append them as one sequence; predictions made from rows first..last (counted from `from`) whose next token has its flag. first_id >= 0
 * replaces the first token. */
int64_t ramet__rows_add_whole(ramet__rows *r, const ramet_dataset *d, int64_t from, int64_t to, int64_t first, int64_t last, int32_t first_id);
int64_t ramet__rows_count(const ramet_dataset *d, int64_t from, int64_t to); /* predictions that ramet__rows_add would add */
/* Put tokens, pos, seq, outs (and labels, weight when `loss`) into a run. */
void ramet__rows_bind(const ramet__rows *r, ramet__run *run, int32_t loss);

/* Windows with at least one prediction, in stream order, or pairs; drawn in an order that (seed, index) give. */
typedef struct ramet__windows {
    const ramet_dataset *data;
    int64_t width, n, *start;
    ramet_dataset *stage; int64_t first, held, *place; /* of a source: windows first .. first + held of the sequence, each at two numbers of place */
} ramet__windows;
ramet_status ramet__windows_init(ramet__windows *w, ramet__mem *mem, const ramet_dataset *d, int64_t width);
void ramet__windows_free(ramet__windows *w);
/* Windows [first, first + count) of an endless sequence of shuffled epochs are there for ramet__windows_at until the next call; count: always the same. */
ramet_status ramet__windows_hold(ramet__windows *w, uint64_t seed, int64_t first, int64_t count);
/* The index-th: tokens [*from, *to) of the answer. */
const ramet_dataset *ramet__windows_at(int64_t *from, int64_t *to, const ramet__windows *w, uint64_t seed, int64_t index);

/* ---- optimizers (optimizers.def, optimizers/<name>.c) ---- */
typedef struct ramet__optimizer_step { /* one step's settings, the same for every piece */
    const ramet__kernels *kernels;
    int64_t step;                /* from 1 */
    float rate, beta1, beta2, epsilon;
    float scale;                 /* gradients are multiplied by it first (clipping) */
    int64_t place;               /* of p in the pool: what random rounding is drawn from */
} ramet__optimizer_step;
#define RAMET__STATES 4
#define RAMET__STATE_BLOCK 256   /* a piece of work begins at a multiple of it */
typedef struct ramet__layout { int32_t size, every; } ramet__layout; /* elements of 4 (F32) or 1 byte, one for `every` parameters (1 or STATE_BLOCK) */
typedef struct ramet__optimizer {
    const char *name, *summary;
    void (*update)(const ramet__optimizer_step *u, float *p, float *g, void *const *state, int64_t n, float decay); /* zeroes g */
    int32_t n_states; ramet__layout state[RAMET__STATES]; /* kept between steps, zero at first */
} ramet__optimizer;
const ramet__optimizer *ramet__optimizer_find(const char *name); /* NULL: no such */
int32_t ramet__optimizer_list(int32_t i, const char **name, const char **detail);
#define RAMET__OPTIMIZER(NAME) extern const ramet__optimizer ramet__optimizer_##NAME;
#include "train/optimizers.def"
#undef RAMET__OPTIMIZER

/* The names of a table as "a, b, c", for messages; cut where the room ends. */
const char *ramet__names(char room[128], int32_t (*list)(int32_t i, const char **name, const char **detail));

/* Learning rate of step t (0..steps-1): linear warm-up over `warmup` of the steps, then RAMET_SCHEDULE_*. (schedule.c) */
int32_t ramet__schedule_list(int32_t i, const char **name, const char **detail); /* i: RAMET_SCHEDULE_* */
double ramet__schedule(int32_t schedule, double rate, double warmup, int64_t t, int64_t steps);

/* ---- trained parameters: one pool for values, gradients and the optimizer's state (params.c) ---- */
typedef struct ramet__param {
    char *name; ramet__shape shape; int64_t offset, count; int32_t decay;
    float rate; int64_t from;     /* factor of the learning rate, 0 before step `from`; ramet__params_init sets 1 and 0 */
    ramet__var grad, value;       /* into the pool */
} ramet__param;
enum { RAMET__VALUE, RAMET__GRAD, RAMET__AVERAGE, RAMET__BEST, RAMET__STATE, RAMET__SECTIONS = RAMET__STATE + RAMET__STATES };
typedef struct ramet__section { const char *name; ramet__layout layout; char *data; } ramet__section; /* NULL: not there; names are a checkpoint's */
typedef struct ramet__params {
    ramet__mem *mem;
    const ramet__optimizer *optimizer;
    int32_t average, best;        /* has these sections */
    const char *path; int32_t keep; void *room; uint64_t room_bytes; /* NULL, or: the optimizer's state lies in this file */
    int64_t n; ramet__param *param;
    int64_t total, n_pieces;      /* floats of the pool (each parameter padded to STATE_BLOCK); pieces of constant size */
    struct ramet__params_piece { int64_t offset, count, param; } *piece;
    ramet__section section[RAMET__SECTIONS];
    float *value, *grad;          /* those two sections; behind the gradients is room for two numbers that are summed with them */
    double *partial;              /* [n_pieces] */
} ramet__params;
/* param[0..n) hold names (owned), shapes and decay flags; lays out and allocates zeroed pools. Free also after a failure. */
ramet_status ramet__params_init(ramet__params *p, ramet_runtime *rt, const ramet__optimizer *optimizer);
/* Another optimizer, with state of zeros; NULL: none. */
ramet_status ramet__params_use(ramet__params *p, const ramet__optimizer *optimizer);
void ramet__params_free(ramet__params *p);
/* Where pool element `offset` has its own in a section; how many elements a parameter has there. */
uint64_t ramet__params_bytes(const ramet__params *p); /* of all sections */
void *ramet__section_at(const ramet__section *s, int64_t offset);
int64_t ramet__section_count(const ramet__section *s, const ramet__param *p);
/* "pattern=factor[@step];..." multiplies the rates of what it names; E_ARGUMENT. (options.c) */
ramet_status ramet__params_groups(ramet__params *p, const char *groups);
/* L2 norm of all gradients, those of parameters that rest in this step (from 1) being dropped first: pieces of constant size, added in order, so any thread count gives the same bits. NaN and infinity
 * show in it. */
ramet_status ramet__params_norm(double *norm, const ramet__params *p, ramet_runtime *rt, int64_t step);
ramet_status ramet__params_update(const ramet__params *p, ramet_runtime *rt, const ramet__optimizer_step *u, float decay);
ramet_status ramet__params_average(const ramet__params *p, ramet_runtime *rt, float keep); /* average := keep * average + (1 - keep) * value */
void ramet__params_clear(const ramet__params *p); /* gradients := 0 */

/* ---- the teacher of a distillation (teacher.c) ---- */
typedef struct ramet__teacher ramet__teacher;
ramet_status ramet__teacher_create(ramet__teacher **out, ramet_model *model, int32_t mode, int64_t window, int32_t top);
void ramet__teacher_free(ramet__teacher *t);
uint64_t ramet__teacher_bytes(const ramet__teacher *t);
/* Its distribution after each predicting row of stream tokens [from, to): ids [outs,top] and p [outs,top], most likely first. */
ramet_status ramet__teacher_run(ramet__teacher *t, int32_t *ids, float *p, const ramet_dataset *d, int64_t from, int64_t to,
                                ramet_progress_fn progress, void *user);
/* Most likely `top` of n logits, likeliest first (lower id first among equals), with their probabilities. */
void ramet__top_probabilities(int32_t *ids, float *p, int32_t top, const float *logits, int64_t n, const ramet__kernels *k);

/* Soft labels that somebody made before: the same answer as ramet__teacher_run for stream tokens [from, to), one window. */
typedef struct ramet__labels {
    ramet_status (*give)(int32_t *ids, float *p, const ramet_dataset *d, int64_t from, int64_t to, void *user);
    void *user;
} ramet__labels;

/* ---- preferences (preference.c) ---- */
typedef struct ramet__preference ramet__preference;
/* build: as the tuner's plan is built; with rows and entries made. */
ramet_status ramet__preference_create(ramet__preference **out, struct ramet_tuner *t, const ramet__build_options *build);
void ramet__preference_free(ramet__preference *p);
uint64_t ramet__preference_bytes(const ramet__preference *p);
/* The loss of the micro-batch in t->rows, and weights of its predictions that give its gradient. */
ramet_status ramet__preference_weights(double *loss, ramet__preference *p, struct ramet_tuner *t, ramet_progress_fn progress, void *user);
/* A graph of the losses of a run's predictions, "losses" [outs] (evaluate.c). */
ramet_status ramet__losses_graph(ramet__graph **out, const ramet_model *m, const ramet__build_options *build, int64_t rows, int64_t outs, int32_t rank);

/* ---- the tuner (options.c, tuner.c, step.c, result.c, checkpoint.c) ---- */
#define RAMET__HISTORY 15
/* Of LoRA: params each*i is A, each*i+1 is B, of DoRA each*i+2 the magnitudes. inverse: 1 / |W + scale B.A| of each row, in this step */
typedef struct ramet__tuner_target { char *name; float scale; int64_t n, k; ramet__var inverse; } ramet__tuner_target;
struct ramet_tuner {
    ramet_runtime *rt;
    ramet_model *model;
    ramet_dataset *data, *evaluation;
    ramet_tuner_options o;         /* as given, defaults filled in; texts are ours, teacher, initial and evaluation NULL */
    char *targets, *groups;
    ramet__windows windows;
    ramet__params params;
    int64_t n_targets; ramet__tuner_target *target;
    int32_t each;                  /* parameters a target: 2, of DoRA 3 */
    float *inverses; int64_t inverses_step; /* of DoRA; the step that they are of, -1: none */
    int32_t rank;                  /* of every pair in the pool: the largest of the adapter's */
    ramet__slot_entry *entries; const ramet__slot_entry *adapter[1]; int32_t n_slots;
    ramet__plan *plan;
    ramet__rows rows;
    ramet__preference *preference;
    ramet__teacher *teacher; ramet__labels labels; /* one of them, or none */
    int32_t *teacher_ids; float *teacher_p; char teacher_digest[65];
    char data_digest[65], initial_digest[65], evaluation_digest[65];
    /* what a checkpoint holds besides the pool */
    int64_t step, micro;           /* steps made; micro-batches of the present step made */
    int64_t tokens, step_tokens;   /* predicted in whole steps so far, and in the present step */
    double loss_sum;               /* of the present step's micro-batches */
    double loss, norm, rate;       /* of the last whole step */
    double example_sum; int64_t example_over;          /* norms of the present step's windows; how many were clipped */
    double example_norm, example_clipped;              /* of the last */
    int64_t ahead; double accuracy; /* pairs of the present step whose better answer is ahead; their share in the last */
    int64_t skipped;               /* steps */
    int64_t evaluated, evaluations, best_step, worse; /* step of the last evaluation; how many; step of the best; how many since it */
    double evaluation_loss, best_loss;
    int64_t n_history; float history[2][RAMET__HISTORY]; /* of finite losses and norms: their number, the last of them, step n at n % HISTORY */
    double seconds;
    int32_t busy, broken;
};
ramet_status ramet__tuner_inverses(ramet_tuner *t);              /* bring the norms of a DoRA to the present step (tuner.c) */
int64_t ramet__tuner_micros(const ramet_tuner *t);              /* micro-batches a step, of this worker */
int32_t ramet__tuner_done(const ramet_tuner *t);
uint64_t ramet__tuner_bytes(const ramet_tuner *t);              /* as byte_budget counts them */
/* ramet_tuner_adapter and ramet_tuner_model of a section of the pool. */
ramet_status ramet__tuner_adapter(ramet_adapter **out, const ramet_tuner *t, const ramet__section *from);
ramet_status ramet__tuner_model(ramet_model **out, const ramet_tuner *t, ramet__enc enc, const ramet__section *from);
/* Numbers as a weight; vectors, and rows that the encoding's block does not divide, are F32 (result.c). */
ramet_status ramet__weight_encode(ramet__weight **out, ramet_runtime *rt, const char *name, const ramet__shape *shape, const float *values, ramet__enc enc);
const ramet__section *ramet__tuner_now(const ramet_tuner *t);   /* the section that is evaluated: the average where it has begun */
const ramet__section *ramet__tuner_given(const ramet_tuner *t); /* the section that holds what the tuner gives now (result.c) */
int64_t ramet__tuner_averaged(const ramet_tuner *t);            /* weights in the average so far (step.c) */
ramet_status ramet__tuner_check(const ramet_tuner_options *o, const ramet_model *model, const ramet_dataset *data); /* options.c */
/* ramet_tuner_create with labels in a teacher's place (NULL: none); the loss is the KL to them alone. */
ramet_status ramet__tuner_create(ramet_tuner **out, ramet_model *model, ramet_dataset *data, const ramet_tuner_options *options, const ramet__labels *labels);
#endif
