/* SPDX-License-Identifier: Apache-2.0 */
/* session.h - what a ramet_session holds; shared by session.c, generate.c, batch.c and state.c. */
#ifndef RAMET__SESSION_H
#define RAMET__SESSION_H
#include "infer/adapters.h"
#include "infer/cache.h"
#include "infer/utf8.h"
#include "ramet/session.h"

extern const char *const ramet__mode_names[3];

struct ramet_session {
    ramet_model *model;
    ramet_session_options o;   /* draft_model: NULL */
    ramet_session *drafter;    /* the draft model's, with the same sequences, or NULL */
    float draft_cost;          /* a step of it in steps of the model */
    int64_t vocabulary;        /* columns of logits */
    ramet__plan *plan;
    ramet__cache cache;
    ramet__adapters adapters;
    int32_t *adapter;          /* of each sequence, -1: none */
    int32_t *pos, *outs, *rows_adapter, *zeros; /* inputs of one run, max_rows each */
    int64_t *start;            /* scratch of a call: positions of each sequence so far, -1: not named */
    float *logits;             /* [max_outputs, vocabulary], made when one call's logits come from several runs */
    int32_t busy;              /* inside a call: callbacks may not come back */
    int64_t last_rows; double last_seconds;
};

/* E_ARGUMENT, E_FORK, or E_STATE when called from a callback of the same session. */
ramet_status ramet__session_enter(const ramet_session *s, const char *function);
ramet_status ramet__session_enter_sequence(const ramet_session *s, int32_t sequence, const char *function); /* the same, and E_ARGUMENT: no such sequence */
/* ramet_session_run without the check of re-entry. */
ramet_status ramet__session_rows(const float **logits, int64_t *outputs, ramet_session *s, const int32_t *ids, const int32_t *sequence, const uint8_t *want, int64_t rows,
                                 ramet_progress_fn progress, void *user);
/* Guesses of what a sequence goes on with (draft.c), while one text is generated. */
typedef struct ramet__draft {
    ramet_session *s;
    int32_t sequence;
    const ramet_sampling *sampling;
    int64_t most;              /* guesses of a run */
    int64_t reach;             /* of the next look-up */
    int64_t guesses, steps;    /* of the run before, and the draft model's part in them */
    struct ramet__draft_account {
        float balance;         /* steps of the model that its guesses have saved, less what they took */
        int64_t rest, pause;   /* tokens that it leaves out, and next time */
    } account[2];              /* of looking up, of the draft model */
    int32_t *ids, *rows;       /* what it has not seen yet, as a run wants it */
    ramet_progress_fn progress; void *user;
} ramet__draft;
/* A step of `small`, whose head has so many rows, in steps of the model: by the bytes that they read. */
float ramet__draft_cost(const ramet_model *model, const ramet_model *small, int64_t vocabulary);
/* Guesses are ids: E_INCONSISTENT with the first that does not mean the same in both models */
ramet_status ramet__draft_tokens(const ramet_model *model, const ramet_model *small);
/* tokens: most that the sequence will hold. Free it in any case. */
ramet_status ramet__draft_init(ramet__draft *d, ramet_session *s, int32_t sequence, int64_t most, int64_t tokens, const ramet_sampling *sampling, ramet_progress_fn progress, void *user);
void ramet__draft_free(ramet__draft *d);
/* How many, at most `limit`, were written behind the n tokens at t; the last of them is about to run in the session. right: guesses of the run before that held. */
ramet_status ramet__draft_guess(int64_t *guesses, ramet__draft *d, int32_t *t, int64_t n, int64_t limit, int64_t right);

/* Append the text that token `id` completes; last: nothing follows. */
ramet_status ramet__session_text(ramet__text *text, const ramet_session *s, int32_t id, ramet__utf8 *u, int32_t last);
#endif
