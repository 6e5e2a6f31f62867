/* SPDX-License-Identifier: Apache-2.0 */
/* generate.c - a prompt in, tokens out, streamed as whole UTF-8 characters; several tokens a run where the text repeats itself
 * or a draft model guesses right (draft.c). */
#include "infer/session.h"
#include <string.h>

ramet_status ramet__session_text(ramet__text *text, const ramet_session *s, int32_t id, ramet__utf8 *u, int32_t last) {
    const char *bytes = "";
    size_t n = 0;
    if (s->model->tokenizer && id < ramet__tokenizer_size(s->model->tokenizer)) RAMET__TRY(ramet__tokenizer_piece(&bytes, &n, s->model->tokenizer, id, 0));
    ramet__utf8_add(text, u, bytes, n, last);
    return text->status;
}

/* Give the caller one token. *stop: it wants no more. */
static ramet_status deliver(int32_t *stop, ramet_session *s, int32_t sequence, int32_t id, ramet__utf8 *u, int32_t last, ramet_token_fn on_token, void *user) {
    ramet__text text = {.mem = s->model->rt->mem};
    ramet_status st = RAMET_OK;
    RAMET__GO(ramet__session_text(&text, s, id, u, last));
    s->busy = 1;
    *stop = on_token && on_token(sequence, id, text.data ? text.data : "", text.len, user);
    s->busy = 0;
out:
    ramet__text_free(&text);
    return st;
}

static ramet_status check_generate(const ramet_session *s, int32_t sequence, const int32_t *prompt, int64_t prompt_length, int64_t max_tokens,
                                   const ramet_sampling *o) {
    if (sequence < 0 || sequence >= s->o.max_sequences)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_generate: sequence %d; the session has 0 to %d (max_sequences)", sequence,
                           s->o.max_sequences - 1);
    if (!prompt || prompt_length < 1) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_generate: the prompt is empty; give at least one token");
    const int64_t room = s->o.max_context - s->cache.seqs[sequence].length;
    if (prompt_length > room)
        return ramet__fail(RAMET_E_LIMIT, "ramet_session_generate: the prompt has %lld tokens; sequence %d has room for %lld more (max_context)",
                           (long long)prompt_length, sequence, (long long)room);
    if (max_tokens < 0) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_generate: max_tokens is %lld; it must be >= 0", (long long)max_tokens);
    if (o->draft < 0) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_generate: draft is %d; it must be >= 0", o->draft);
    return RAMET_OK;
}

ramet_status ramet_session_generate(int64_t *generated, ramet_session *session, int32_t sequence, const int32_t *prompt, int64_t prompt_length, int64_t max_tokens,
                                    const ramet_sampling *sampling, ramet_token_fn on_token, ramet_progress_fn progress, void *user) {
    ramet_session *s = session;
    ramet_sampling o;
    const float *logits;
    int32_t *rows = NULL, *text = NULL, id, stop = 0;
    uint8_t *want = NULL;
    int64_t made = 0, n = prompt_length; /* tokens of text */
    int64_t ahead = 0;                   /* guesses that ran and stand behind them */
    ramet__draft draft = {0};
    ramet__utf8 u = {{0}, 0};
    ramet_status st;
    RAMET__TRY(ramet__session_enter(s, "ramet_session_generate"));
    ramet_sampling_init(&o, sizeof o);
    RAMET__TRY(ramet__options(&o, sizeof o, sampling, "ramet_session_generate"));
    RAMET__TRY(check_generate(s, sequence, prompt, prompt_length, max_tokens, &o));
    ramet__sequence *q = &s->cache.seqs[sequence];
    const int64_t most = RAMET__MIN(o.draft, RAMET__MIN(s->o.max_outputs, s->o.max_rows) - 1);
    const int64_t room = RAMET__MIN(max_tokens, s->o.max_context - q->length - prompt_length), widest = RAMET__MAX(prompt_length, most + 1);
    RAMET__NEW(text, ramet__alloc(s->model->rt->mem, (size_t)(prompt_length + room) * sizeof *text));
    RAMET__NEW(rows, ramet__alloc(s->model->rt->mem, (size_t)widest * sizeof *rows));
    RAMET__NEW(want, ramet__alloc(s->model->rt->mem, (size_t)(most + 1)));
    memcpy(text, prompt, (size_t)prompt_length * sizeof *text);
    memset(want, 1, (size_t)(most + 1));
    RAMET__GO(ramet__draft_init(&draft, s, sequence, most, q->length + prompt_length + room, &o, progress, user));
    for (int64_t i = 0; i < widest; i++) rows[i] = sequence;
    RAMET__GO(ramet__session_rows(&logits, NULL, s, prompt, rows, NULL, prompt_length, progress, user));
    while (!stop && made < room) {
        const int64_t length = q->length;
        RAMET__GO(ramet_sample(&id, logits, s->vocabulary, &o, sequence, length));
        if (ramet_token_is_end(s->model, id)) break;
        /* the sequence holds what was delivered: the token runs before the caller sees it */
        if (ahead && id == text[n]) { /* as guessed: it ran, and the next row of logits is what follows it */
            ahead--;
            logits += s->vocabulary;
        } else {
            text[n] = id;
            RAMET__GO(ramet__draft_guess(&ahead, &draft, text, n + 1, room - made - 1, draft.guesses - ahead));
            RAMET__GO(ramet__session_rows(&logits, NULL, s, text + n, rows, want, 1 + ahead, progress, user));
        }
        q->length = length + 1; /* guesses stand behind it until they are met or overwritten */
        n++;
        made++;
        RAMET__GO(deliver(&stop, s, sequence, id, &u, made == room, on_token, user));
    }
    if (generated) *generated = made;
out:
    ramet__cache_cut(&s->cache, sequence, q->length);
    ramet__draft_free(&draft);
    ramet__free(text);
    ramet__free(rows);
    ramet__free(want);
    return st;
}
