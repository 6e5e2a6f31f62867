/* SPDX-License-Identifier: Apache-2.0 */
/* feedback.h - inside of the way back: the store's ledger, an opened update, the method table, one feed in progress. */
#ifndef RAMET__FEEDBACK_H
#define RAMET__FEEDBACK_H
#include "format/json.h"
#include "format/safetensors.h"
#include "shrink/shrink.h"
#include "ramet/feedback.h"

/* ---- store ---- */
typedef struct ramet__version { int64_t number, parent; char digest[65]; } ramet__version; /* parent 0: none */
typedef struct ramet__nonce_used { char *text; int64_t version; } ramet__nonce_used;
#define RAMET__MAX_UPDATES 64 /* in one feed */
struct ramet_store {
    ramet_runtime *rt;
    char *folder;
    int64_t head;                 /* as last read under the lock */
    ramet__version *versions; int64_t n_versions, cap_versions;
    ramet__nonce_used *nonces; int64_t n_nonces, cap_nonces; /* of updates that commits took in */
    ramet_model *model;           /* HEAD's, loaded on first use */
    int64_t model_version;
    int32_t lock;                 /* descriptor while held, -1 */
};
ramet_status ramet__store_lock(ramet_store *s);   /* between processes; reads HEAD and the ledger again */
void ramet__store_unlock(ramet_store *s);
char *ramet__store_path(const ramet_store *s, const char *format, ...) RAMET__PRINTF(2, 3); /* caller frees; NULL on failure */
const ramet__version *ramet__store_version(const ramet_store *s, int64_t number);
/* How many commits lie between HEAD and the ancestor with this digest: 0 HEAD itself; -1: not an ancestor. */
int32_t ramet__store_gap(const ramet_store *s, const char *digest);
/* 1 when HEAD or an ancestor took this update in; after an undo it may come again. */
int32_t ramet__store_absorbed(const ramet_store *s, const char *nonce);
/* Append one JSON object's members (without braces) to the ledger; "event" and "time" are added. Lock must be held. */
ramet_status ramet__ledger_add(ramet_store *s, const char *event, const char *members);
ramet_status ramet__store_model(ramet_model **borrowed, ramet_store *s); /* HEAD's model, kept by the store */
/* Save as the next version, enter `event` with version, parent, digest and `members` in the ledger, move HEAD. Lock held. */
ramet_status ramet__store_add_version(ramet_store *s, const ramet_model *model, int64_t parent, const char *event, const char *members);

const char *ramet__task_name(const ramet_task *t);

/* ---- update ---- */
typedef struct ramet__update {
    char *path;
    char digest[65];              /* of the file's bytes: what the ledger names */
    ramet__safetensors *file;
    const char *task, *nonce, *parent, *brief; /* in the file's arena */
    uint32_t what;
    int64_t examples;
    double loss_before, loss_after;
    int32_t gap;                  /* commits since its parent */
    double weight;                /* the method's or the caller's, after the discount for the gap */
    ramet__lineage *lineage;
    ramet_adapter *delta;         /* lifted into HEAD's shape; NULL: carries none */
    double norm;                  /* sum of squares' root over B.A */
} ramet__update;
/* Open and check everything that needs no method: kind, digest known, nonce new, finite, examples, shapes, norm. E_REFUSED names the rule. */
ramet_status ramet__update_open(ramet__update *out, ramet_store *s, const char *path);
void ramet__update_close(ramet__update *u);
/* Soft labels (RAMET_UPDATE_LOGITS): the brief's probe text, which windows of it the variant labelled, and how its labels
 * changed: for each row of the labelled windows `top` classes. */
typedef struct ramet__probe { int64_t windows, window, labelled, top; int32_t *text, *topic, *which; int32_t *ids; float *birth, *change; } ramet__probe;
ramet_status ramet__update_probe(ramet__probe *out, const ramet__update *u, ramet_store *s);
void ramet__probe_free(ramet__probe *p);
/* windows * window ids that the parent writes about a topic (a line of at most 200 bytes). */
ramet_status ramet__write_topic(int32_t *out, ramet_model *parent, const char *topic, int64_t windows, int64_t window, uint64_t seed, ramet_progress_fn progress, void *user);
/* 32 hex digits of 16 random bytes. */
void ramet__nonce(char text[33], const uint8_t bytes[16]);

/* ---- methods ---- */
typedef struct ramet__option { const char *name; double fallback, min, max; const char *help; } ramet__option;
#define RAMET__MAX_OPTIONS 8
typedef struct ramet__feed {
    ramet_store *store;
    ramet_model *parent;          /* HEAD */
    ramet__update *updates; int32_t n;
    double option[RAMET__MAX_OPTIONS]; /* in the order of the method's table */
    int32_t encoding;             /* of changed weights; -1: auto */
    ramet_progress_fn progress; void *progress_user;
    double change, rounding;      /* norms, for the record */
    int64_t changed;              /* weights */
} ramet__feed;
typedef struct ramet__method {
    const char *name, *summary;
    int32_t stable;
    uint32_t needs;               /* RAMET_UPDATE_* payloads: what its half beside the variant has to send */
    const ramet__option *options; int32_t n_options;
    ramet_status (*accept)(const ramet__feed *f, const ramet__update *u); /* E_REFUSED with the reason; NULL: takes all that carry its payload */
    double (*weight)(const ramet__feed *f, const ramet__update *u);       /* default weight of one update */
    ramet_status (*step)(ramet_model **out, ramet__feed *f);              /* the half beside the parent */
} ramet__method;
const ramet__method *ramet__method_find(const char *name);
int32_t ramet__method_list(int32_t i, const char **name, const char **detail);

/* Weight-space methods: for each weight that an update names, out[count] = what to add to the parent. delta[i] are dense, already lifted. */
typedef void (*ramet__merge_fn)(float *out, const float *const *delta, const double *weight, int32_t n, int64_t count, const double *option, float *scratch);
ramet_status ramet__merge(ramet_model **out, ramet__feed *f, ramet__merge_fn fn); /* scratch: count floats */

/* ---- candidate ---- */
struct ramet_candidate {
    ramet_runtime *rt;
    ramet_model *model;
    int64_t base_version;
    char base_digest[65];
    char *record;   /* JSON object: method, updates, encodings, norms */
    int32_t gated;  /* 0 not yet, 1 passed, -1 failed */
};
/* Keep a candidate that passed as the store's pending one; drop it when it fails a later gate. Lock held. */
ramet_status ramet__candidate_pend(ramet_store *s, const ramet_candidate *c);
double ramet__t95(int64_t degrees_of_freedom); /* two-sided 95% point of Student's t */
#endif
