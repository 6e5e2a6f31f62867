/* SPDX-License-Identifier: Apache-2.0 */
/* draft.c - guesses of what a text goes on with, which one run of the model checks (speculative decoding, Leviathan et al. 2023): from what
 * followed the same tokens before (Saxena 2023, prompt lookup decoding), else by a smaller model. Costs and gains are counted in steps of the
 * model and never timed, so that the same call makes the same runs. */
#include "infer/session.h"
#include <math.h>
#include <string.h>

#define ROW .2f      /* what one row more costs a run of few rows */
#define STAKE 4.0f   /* what a way of guessing may lose before it rests, and the most that it can have saved */
enum { PAUSE = 4, MOST_PAUSE = 64 };
enum { LOOK_UP, MODEL };

static double step_bytes(const ramet_model *m, int64_t vocabulary) {
    double bytes = 0;
    for (int64_t i = 0; i < m->n_weights; i++) {
        const char *name = ramet__weight_name(m->weights[i]);
        const double all = (double)ramet__weight_bytes(m->weights[i]);
        if (!strcmp(name, ramet__model_head(m))) bytes += all * (double)vocabulary / (double)m->h.n_vocab;
        else if (strcmp(name, "token_embd.weight")) bytes += all;
    }
    return bytes;
}
float ramet__draft_cost(const ramet_model *model, const ramet_model *small, int64_t vocabulary) {
    return (float)(step_bytes(small, vocabulary) / step_bytes(model, model->h.n_vocab));
}

ramet_status ramet__draft_tokens(const ramet_model *model, const ramet_model *small) {
    const ramet__tokenizer *a = model->tokenizer, *b = small->tokenizer;
    for (int32_t id = 0; a && b && a != b && id < RAMET__MIN(ramet__tokenizer_size(a), ramet__tokenizer_size(b)); id++) {
        const char *x, *y;
        size_t n, m;
        RAMET__TRY(ramet__tokenizer_piece(&x, &n, a, id, 1));
        RAMET__TRY(ramet__tokenizer_piece(&y, &m, b, id, 1));
        if (n != m || memcmp(x, y, n))
            return ramet__fail(RAMET_E_INCONSISTENT, "ramet_session_create: token %d is '%.*s' in the model and '%.*s' in the draft model; guessing needs one vocabulary", id, (int)RAMET__MIN(n, 40), x,
                               (int)RAMET__MIN(m, 40), y);
    }
    return RAMET_OK;
}

ramet_status ramet__draft_init(ramet__draft *d, ramet_session *s, int32_t sequence, int64_t most, int64_t tokens, const ramet_sampling *sampling, ramet_progress_fn progress, void *user) {
    ramet_status st = RAMET_OK;
    *d = (ramet__draft){.s = s, .sequence = sequence, .sampling = sampling, .most = most, .reach = most, .account = {{STAKE, 0, PAUSE}, {STAKE, 0, PAUSE}}, .progress = progress, .user = user};
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

/* Behind the n tokens at t: what followed the latest earlier place of their last 3 or else of their last `least`. How many: `most`, or 0 when
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
        const ramet_status st = ramet_sample(guess, logits, small->vocabulary, d->sampling, d->sequence, length + 1 + d->guesses); /* the draw that the model's own choice will have */
        if (st) return ramet__prefix(st, "the draft model: ");
        chance *= expf(logits[*guess] - small->model->rt->kernels->logsumexp(logits, small->vocabulary));
        if (chance < ROW) break;
        d->guesses++;
        if (chance < ROW + d->s->draft_cost) break;
    }
    return RAMET_OK;
}

/* What the last guesses brought; their way rests when that is too little, the longer the more often. */
static void settle(ramet__draft *d, int64_t right) {
    struct ramet__draft_account *a = &d->account[d->steps ? MODEL : LOOK_UP];
    const float gain = (float)right - ROW * (float)d->guesses - d->s->draft_cost * (float)d->steps;
    a->balance = RAMET__MIN(a->balance + gain, STAKE);
    if (gain > 0) a->pause = PAUSE;
    if (a->balance >= 0) return;
    a->balance = 0;
    a->rest = a->pause;
    a->pause = RAMET__MIN(2 * a->pause, MOST_PAUSE);
}
static int32_t rests(struct ramet__draft_account *a) { return a->rest && a->rest--; }

ramet_status ramet__draft_guess(int64_t *guesses, ramet__draft *d, int32_t *t, int64_t n, int64_t limit, int64_t right) {
    if (!d->steps && right) d->reach = d->most;
    settle(d, right);
    const int32_t asks = d->ids && !rests(&d->account[MODEL]);
    d->steps = d->guesses = 0;
    if (!rests(&d->account[LOOK_UP])) d->guesses = look_up(t, n, RAMET__MIN(d->reach, limit), asks ? 3 : 2);
    if (d->guesses) d->reach = (d->reach + 1) / 2; /* wrong guesses cost rows: half as many until one is right */
    else if (asks) RAMET__TRY(ask(d, t, n, RAMET__MIN(d->most, limit)));
    *guesses = d->guesses;
    return RAMET_OK;
}
