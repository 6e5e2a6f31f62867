/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - what a ramet_model holds; architectures; the builder that turns a model into graph nodes; lineage; adapters. */
#ifndef RAMET__MODEL_H
#define RAMET__MODEL_H
#include "ramet/model.h"
#include "format/hf.h"
#include "graph/plan.h"
#include "tokenizer/tokenizer.h"

/* Hyper-parameters in the field's words; what a family does not have stays 0. */
typedef struct ramet__hparams {
    int32_t n_layer, n_head, n_kv, head_dim, rope_dim;
    int64_t n_embd, n_ff, n_vocab, n_ctx;
    int64_t n_types;     /* kinds of tokens an encoder tells apart; 0: a decoder, which has rotary positions */
    float eps, rope_base;
    int32_t tied;        /* the output head is the embedding */
    int32_t rope_halves; /* 0 for GGUF llama (pairs interleaved) */
} ramet__hparams;

/* What a weight's dimension stands for: pruning slices by it, lineage lifts by it, loading checks by it. */
typedef enum { RAMET__DIM_ONE, RAMET__DIM_VOCAB, RAMET__DIM_EMBD, RAMET__DIM_FF, RAMET__DIM_Q, RAMET__DIM_KV, RAMET__DIM_CONTEXT, RAMET__DIM_TYPES } ramet__dim;

typedef struct ramet__weight_spec {
    const char *name;      /* "blk.%d.ffn_up.weight", or without %d for a model-wide one */
    const char *hf;        /* "model.layers.%d.mlp.up_proj.weight" */
    const char *target;    /* adapter target name as PEFT has it ("up_proj"), NULL: takes no adapter */
    ramet__dim rows, cols; /* rows DIM_ONE: a vector of `cols` */
    int32_t optional;
} ramet__weight_spec;

typedef struct ramet__build_options {
    int32_t cached;        /* attention over caches (sessions) or among the run's own rows (training, evaluation) */
    int32_t block;         /* positions in a cache block */
    int32_t cache_type;    /* ramet__cache_type */
    int32_t embed;         /* an encoder's vectors: only they or rows can be built of it */
    int32_t rows;          /* only built.rows */
    ramet__weight *head;   /* NULL, or: what makes logits, without a slot, in place of the model's own */
    int32_t slots;         /* adapter slots on every target */
    int32_t gains;         /* slots take DoRA adapters too */
    const char *targets;   /* NULL: all; else comma-separated PEFT names that get slots */
    ramet__var *(*train)(const char *name, void *user); /* NULL, or: a variable that stands in for this weight (full tuning) */
    ramet__val (*after)(ramet__graph *g, ramet__val x, ramet__val y, const char *name, void *user); /* NULL, or: what a target's y = x W^T becomes */
    void *train_user;              /* of both */
} ramet__build_options;
typedef struct ramet__built {
    ramet__val rows;       /* [ROWS, n_embd] after the last norm; only when asked for */
    ramet__val hidden;     /* [OUTS, n_embd] after the last norm; of an encoder: of each sequence, which seq numbers from 0 */
    ramet__val logits;     /* [OUTS, n_vocab]; -1: an encoder */
} ramet__built;
/* Inputs a built graph has: "tokens" I32 [R], "pos" I32 [R], "seq" I32 [R], "outs" I32 [O] (row numbers). Taps: "blk.%d.in", "blk.%d.out" (the
 * residual stream before/after a layer), "blk.%d.ffn_act" (input of ffn_down), "hidden". */

typedef struct ramet__arch {
    const char *name, *summary;
    const ramet__weight_spec *specs; int32_t n_specs;
    const char *const *hf_unused; /* tensors of a folder that are not read, NULL-terminated; NULL: none */
    int32_t encoder;              /* makes embeddings, no text */
    ramet_status (*hparams_gguf)(ramet__hparams *out, const ramet__gguf *gguf);
    ramet_status (*hparams_hf)(ramet__hparams *out, const ramet__json *config);
    /* Declare this family's keys ("llama.block_count" ...), overriding what the source file said. */
    ramet_status (*write)(ramet__gguf_writer *w, const ramet__hparams *h);
    /* HF rows may need reordering (llama's q and k for interleaved rotary pairs). rows: encoded rows of one weight, in place order map. NULL: none */
    int64_t (*hf_row)(const ramet__hparams *h, const char *name, int64_t row); /* source row of our row */
    ramet_status (*build)(ramet__built *out, ramet__graph *g, const struct ramet_model *model, const ramet__build_options *o);
} ramet__arch;
const ramet__arch *ramet__arch_find(const char *name); /* NULL: none */
#define RAMET__NAME_MAX 96 /* a weight's name with its NUL */
void ramet__spec_name(char name[RAMET__NAME_MAX], const ramet__weight_spec *spec, int32_t layer);    /* "blk.3.ffn_up.weight" */
void ramet__spec_hf_name(char name[RAMET__NAME_MAX], const ramet__weight_spec *spec, int32_t layer); /* "model.layers.3.mlp.up_proj.weight" */
/* The spec and layer (-1: model-wide) of a weight's name; hf: by its Hugging Face name. NULL: no such weight. */
const ramet__weight_spec *ramet__arch_spec(const ramet__arch *arch, const char *name, int32_t hf, int32_t *layer);
/* 1 when `target` ("q_proj") is in a comma-separated list; NULL list: 1. */
int32_t ramet__target_listed(const char *targets, const char *target);
/* 1: full tuning of a list of targets moves this weight: one of them, or "norms" of vectors; NULL: all. */
int32_t ramet__weight_listed(const struct ramet_model *m, const ramet__weight *w, const char *targets);
/* Every name of the list has to be a target of the architecture, or `also` (NULL: none). */
ramet_status ramet__targets_check(const ramet__arch *arch, const char *targets, const char *also);
int32_t ramet__arch_list(int32_t i, const char **name, const char **detail);

/* The variant's record of where it comes from. Layers and channels are the immediate parent's numbers. NULL lists: all, in order. */
typedef struct ramet__lineage {
    char *parent_digest;           /* of the immediate parent; NULL: not born of another model */
    char *root_digest;             /* of the first ancestor in the store that made it */
    int32_t n_layer; int32_t *layer;    /* parent's layer of each of ours */
    int64_t n_ff; int32_t *ff;     /* [n_layer * n_ff] parent's channel of each of ours, sorted in each layer; NULL: all */
    char *steps;                   /* JSON array text of what was done, for people: [{"step":"prune","layers":..},...] */
} ramet__lineage;

struct ramet_model {
    ramet_runtime *rt;
    _Atomic int32_t refs;
    const ramet__arch *arch;
    ramet__hparams h;
    int64_t n_weights; ramet__weight **weights;  /* order of the arch's specs, layer by layer */
    int64_t *index; int64_t index_size;          /* hash of names */
    ramet__gguf *meta;                           /* source metadata kept through a rewrite; NULL for HF folders */
    _Atomic int32_t *meta_refs;                  /* models derived from one another share `meta` */
    ramet__tokenizer *tokenizer;                 /* may be NULL */
    ramet__lineage *lineage;                     /* may be NULL */
    char *name;                                  /* file name for messages */
    char digest[65]; _Atomic int32_t digest_state; /* made on first use */
};
ramet__weight *ramet__model_weight(const ramet_model *m, const char *name);         /* NULL: none */
static inline const char *ramet__model_head(const ramet_model *m) { return m->h.tied ? "token_embd.weight" : "output.weight"; }
const ramet__weight_spec *ramet__model_spec(const ramet_model *m, const char *name, int32_t *layer);
int64_t ramet__dim_size(const ramet__hparams *h, ramet__dim dim);

/* A new model with other hyper-parameters, weights and lineage, metadata and tokenizer of `base`: how shrink and feedback make models.
 * weights: retained, one for each spec of the arch at `h` (checked). Takes ownership of lineage on success. */
ramet_status ramet__model_derive(ramet_model **out, const ramet_model *base, const ramet__hparams *h, ramet__weight *const *weights, int64_t n, ramet__lineage *lineage);
/* ramet_model_save with `extra` keys of the caller's put into the metadata (they replace equal ones); also used by the store. */
ramet_status ramet__model_save(const ramet_model *m, const char *path, const ramet__gguf_kv *extra, int64_t n_extra, ramet_progress_fn progress, void *user);
/* What ramet_describe_path answers for a model (GGUF, Hugging Face folder) or adapter (GGUF, PEFT); E_UNSUPPORTED: something else. */
ramet_status ramet__describe_model_file(char **json, ramet_runtime *rt, const char *path);
/* Checks that hyper-parameters are possible and within limits; `where` begins the message. */
ramet_status ramet__hparams_check(const ramet__hparams *h, const char *where);

ramet_status ramet__lineage_new(ramet__lineage **out, ramet__mem *mem, int32_t n_layer, int64_t n_ff, int32_t with_ff);
ramet_status ramet__lineage_copy(ramet__lineage **out, ramet__mem *mem, const ramet__lineage *l);
void ramet__lineage_free(ramet__lineage *l);

/* Adapter: one pair of matrices for each target. a [rank,k], b [n,rank], F32. effective scale = alpha / rank (or alpha/sqrt(rank) for rsLoRA). */
typedef struct ramet__lora { char *name; int64_t n, k; int32_t rank; float *a, *b; float scale; float *m; } ramet__lora; /* name: of the weight; m: DoRA's magnitudes [n], NULL: LoRA */
struct ramet_adapter {
    ramet_runtime *rt;
    _Atomic int32_t refs;
    char base_digest[65];   /* "" when not known */
    char *arch;
    ramet__hparams h;       /* of the model it is for: PEFT files order the rows of q and k by them */
    float alpha;
    int64_t n; ramet__lora *lora;
};
/* An empty adapter with room for n pairs (model NULL: only to describe a file), and one more pair of zeros, A [rank,k], B [n,rank]. */
ramet_status ramet__adapter_alloc(ramet_adapter **out, ramet_runtime *rt, const ramet_model *model, const char *arch, float alpha, int64_t n);
ramet_status ramet__adapter_add(ramet_adapter *a, const char *name, int64_t n, int64_t k, int64_t rank, float scale);
ramet_status ramet__adapter_new(ramet_adapter **out, const ramet_model *model, const char *targets, int32_t rank, float alpha, uint64_t seed); /* A: Kaiming-uniform, B: 0, as PEFT */
const ramet__lora *ramet__adapter_find(const ramet_adapter *a, const char *name);
/* DoRA (dora.c): all pairs of an adapter have magnitudes, or none. |W + scale B.A| of each row of w. */
static inline int32_t ramet__adapter_is_dora(const ramet_adapter *a) { return a->n && a->lora[0].m; }
ramet_status ramet__lora_norms(float *norm, ramet_runtime *rt, const ramet__lora *l, float scale, const ramet__weight *w);
/* What the outputs of every pair are multiplied by when the adapter is used on `model` with `scale`; NULL: a LoRA. Caller frees. And those of one pair. */
ramet_status ramet__adapter_gains(float **out, const ramet_adapter *a, const ramet_model *model, float scale);
const float *ramet__adapter_gain(const float *gains, const ramet_adapter *a, const ramet__lora *l);
ramet_status ramet__adapter_plain(const ramet_adapter *a, const char *what); /* E_UNSUPPORTED for DoRA */
ramet_status ramet__adapter_check_shape(const ramet_model *model, const char *name, int64_t n, int64_t k);
/* dst[n,k] = sum over adapters of scale * B.A for one weight; 0 when none names it. */
void ramet__adapter_delta(float *dst, const ramet_adapter *const *adapters, const float *scales, int32_t count, const ramet__weight *w);
#endif
