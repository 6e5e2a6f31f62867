/* SPDX-License-Identifier: Apache-2.0 */
/* generate.c - a prompt in, tokens out, streamed as whole UTF-8 characters. */
#include "infer/session.h"
#include "infer/utf8.h"

/* Give the caller one token. *stop: it wants no more. */
static ramet_status deliver(int32_t *stop, ramet_session *s, int32_t sequence, int32_t id, ramet__utf8 *u, int32_t last, ramet_token_fn on_token, void *user) {
    ramet__text text = {.mem = s->model->rt->mem};
    const char *bytes = "";
    size_t n = 0;
    ramet_status st = RAMET_OK;
    if (s->model->tokenizer && id < ramet__tokenizer_size(s->model->tokenizer)) RAMET__GO(ramet__tokenizer_piece(&bytes, &n, s->model->tokenizer, id, 0));
    ramet__utf8_add(&text, u, bytes, n, last);
    RAMET__GO(text.status);
    s->busy = 1;
    *stop = on_token && on_token(sequence, id, text.data ? text.data : "", text.len, user);
    s->busy = 0;
out:
    ramet__text_free(&text);
    return st;
}

ramet_status ramet_session_generate(int64_t *generated, ramet_session *session, int32_t sequence, const int32_t *prompt, int64_t prompt_length, int64_t max_tokens,
                                    const ramet_sampling *sampling, ramet_token_fn on_token, ramet_progress_fn progress, void *user) {
    ramet_session *s = session;
    const float *logits;
    int32_t id, stop = 0;
    int64_t made = 0;
    ramet__utf8 u = {{0}, 0};
    RAMET__TRY(ramet__session_enter(s, "ramet_session_generate"));
    if (sequence < 0 || sequence >= s->o.max_sequences)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_generate: sequence %d; the session has 0 to %d (max_sequences)", sequence, s->o.max_sequences - 1);
    if (!prompt || prompt_length < 1) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_generate: the prompt is empty; give at least one token");
    if (max_tokens < 0) return ramet__fail(RAMET_E_ARGUMENT, "ramet_session_generate: max_tokens is %lld; it must be >= 0", (long long)max_tokens);
    int32_t *rows = ramet__alloc(s->model->rt->mem, (size_t)prompt_length * sizeof *rows);
    if (!rows) return ramet__alloc_status();
    for (int64_t i = 0; i < prompt_length; i++) rows[i] = sequence;
    ramet_status st = ramet__session_rows(&logits, NULL, s, prompt, rows, NULL, prompt_length, progress, user);
    ramet__free(rows);
    while (!st && !stop && made < max_tokens) {
        const int64_t length = s->cache.seqs[sequence].length;
        if (length >= s->o.max_context) break; /* no room to hold another token */
        st = ramet_sample(&id, logits, s->model->h.n_vocab, sampling, sequence, length);
        if (st || ramet_token_is_end(s->model, id)) break;
        /* the sequence holds what was delivered: the token runs before the caller sees it */
        st = ramet__session_rows(&logits, NULL, s, &id, &sequence, NULL, 1, progress, user);
        if (st) break;
        made++;
        st = deliver(&stop, s, sequence, id, &u, made == max_tokens || length + 1 >= s->o.max_context, on_token, user);
    }
    if (!st && generated) *generated = made;
    return st;
}
