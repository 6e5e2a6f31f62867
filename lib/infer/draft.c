/* SPDX-License-Identifier: Apache-2.0 */
/* draft.c - guesses of what a text goes on with, which one run of the model checks (speculative decoding, Leviathan et al. 2023): from what
 * followed the same tokens before (Saxena 2023, prompt lookup decoding), else by a smaller model. Costs and gains are counted in steps of the
 * model and never timed, so that the same call makes the same runs. */
#include "infer/session.h"
#include <math.h>
#include <string.h>

#define ROW .2f      /* what one row more costs a run of few rows */
#define STAKE 2.0f   /* what the draft model may lose before it rests, and the most that it can have saved */
#define MOST_PAUSE 128

ramet_status ramet__draft_init(ramet__draft *d, ramet_session *s, int32_t sequence, int64_t most, int64_t tokens, const ramet_sampling *sampling, ramet_progress_fn progress, void *user) {
    ramet_status st = RAMET_OK;
    *d = (ramet__draft){.s = s, .sequence = sequence, .sampling = sampling, .most = most, .reach = most, .balance = STAKE, .pause = 8, .progress = progress, .user = user};
    if (!s->drafter || !most) return RAMET_OK;
    RAMET__NEW(d->ids, ramet__alloc(s->model->rt->mem, (size_t)tokens * sizeof *d->ids));
    RAMET__NEW(d->rows, ramet__alloc(s->model->rt->mem, (size_t)tokens * sizeof *d->rows));
    for (int64_t i = 0; i < tokens; i++) d->rows[i] = sequence;
out:
    return st;
}

void ramet__draft_free(ramet__draft *d) {
    ramet__free(d->ids);
    ramet__free(d->rows);
}

/* Behind the n tokens at t: what followed the latest earlier place of their last 3 or, down to `least`, fewer. How many: `most`, or 0 when
 * there is no such place. A place that overlaps the end continues into its own guesses: a period goes on. */
static int64_t look_up(int32_t *t, int64_t n, int64_t most, int64_t least) {
    for (int64_t k = RAMET__MIN(3, n - 1); k >= least; k--)
        for (int64_t end = n - 1; end >= k; end--) {
            if (memcmp(t + end - k, t + n - k, (size_t)k * sizeof *t)) continue;
            for (int64_t i = 0; i < most; i++) t[n + i] = t[end + i];
            return most;
        }
    return 0;
}

/* The draft model's logits behind `id`, which comes after what the session's sequence holds; what it has not seen of that runs first. */
static ramet_status catch_up(const float **logits, ramet__draft *d, int32_t id) {
    ramet_session *s = d->s, *small = s->drafter;
    const int64_t length = s->cache.seqs[d->sequence].length, most = RAMET__MIN(length, small->cache.seqs[d->sequence].length);
    int64_t same = 0;
    while (same < most && ramet__cache_id(&s->cache, d->sequence, same) == ramet__cache_id(&small->cache, d->sequence, same)) same++;
    ramet__cache_cut(&small->cache, d->sequence, same);
    for (int64_t i = same; i < length; i++) d->ids[i - same] = ramet__cache_id(&s->cache, d->sequence, i);
    d->ids[length - same] = id;
    return ramet__session_rows(logits, NULL, small, d->ids, d->rows, NULL, length - same + 1, d->progress, d->user);
}

/* As long as another guess is likely enough to pay for its row and the step that makes it. */
static ramet_status ask(ramet__draft *d, int32_t *t, int64_t n, int64_t most) {
    ramet_session *small = d->s->drafter;
    const int64_t length = d->s->cache.seqs[d->sequence].length;
    const float *logits = NULL;
    float chance = 1; /* that all guesses so far hold, as the draft model has it */
    most = RAMET__MIN(most, small->o.max_context - length - 1);
    while (d->guesses < most) {
        int32_t *guess = t + n + d->guesses;
        if (!d->steps++) RAMET__TRY(catch_up(&logits, d, t[n - 1]));
        else RAMET__TRY(ramet__session_rows(&logits, NULL, small, guess - 1, d->rows, NULL, 1, NULL, NULL));
        RAMET__TRY(ramet_sample(guess, logits, small->vocabulary, d->sampling, d->sequence, length + 1 + d->guesses)); /* the draw that the model's own choice will have */
        chance *= expf(logits[*guess] - small->model->rt->kernels->logsumexp(logits, small->vocabulary));
        if (chance < ROW) break;
        d->guesses++;
        if (chance < ROW + d->s->draft_cost) break;
    }
    return RAMET_OK;
}

/* What the last guesses brought the draft model; it rests when that is too little, the longer the more often. */
static void settle(ramet__draft *d, int64_t right) {
    const float gain = (float)right - ROW * (float)d->guesses - d->s->draft_cost * (float)d->steps;
    d->balance = RAMET__MIN(d->balance + gain, STAKE);
    if (gain > 0) d->pause = 8;
    if (d->balance >= 0) return;
    d->balance = 0;
    d->rest = d->pause;
    d->pause = RAMET__MIN(2 * d->pause, MOST_PAUSE);
}

ramet_status ramet__draft_guess(int64_t *guesses, ramet__draft *d, int32_t *t, int64_t n, int64_t limit, int64_t right) {
    if (d->steps) settle(d, right);
    else if (right) d->reach = d->most;
    const int32_t asks = d->ids && !d->rest;
    d->rest -= d->rest > 0;
    d->steps = 0;
    d->guesses = look_up(t, n, RAMET__MIN(d->reach, limit), asks ? 3 : 1);
    if (d->guesses) d->reach = (d->reach + 1) / 2; /* wrong guesses cost rows: half as many until one is right */
    else if (asks) RAMET__TRY(ask(d, t, n, RAMET__MIN(d->most, limit)));
    *guesses = d->guesses;
    return RAMET_OK;
}
