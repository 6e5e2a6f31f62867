/* SPDX-License-Identifier: Apache-2.0 */
/* topic.c - the parent writes the probe inputs about a topic itself: soft labels on them speak of the topic, and nothing of
 * anybody's text was needed. Sampled, so that the windows differ (data-free distillation, as in self-instruct, Wang et al. 2023). */
#include "feedback/feedback.h"
#include "infer/session.h"
#include <stdio.h>
#include <string.h>

enum { LANES = 16, MOST_PROMPT = 256 };

/* Different kinds of text about one thing. */
static const char *const forms[] = {"Write a long and detailed text about %s.",          "Write a chapter of a textbook about %s.",
                                    "Explain one particular thing in %s, step by step.", "Write a page of a reference manual about %s.",
                                    "Define several terms of %s, in full sentences.",    "Describe a typical case in %s, with all its details.",
                                    "Tell a beginner how something in %s is done.",      "Write an encyclopedia article about something in %s."};

/* By the model's template where it has one, else the request itself. *n <= MOST_PROMPT. */
static ramet_status prompt(int32_t *ids, int64_t *n, const ramet_model *m, const char *topic, int64_t form) {
    char request[320];
    const char *const role = "user", *const content = request;
    snprintf(request, sizeof request, forms[form % RAMET__COUNT(forms)], topic);
    if (ramet__tokenizer_template(m->tokenizer)) return ramet_chat_tokenize(n, ids, MOST_PROMPT, m, 1, &role, &content, 1);
    return ramet_tokenize(n, ids, MOST_PROMPT, m, request, strlen(request), RAMET_TOKENIZE_BOS);
}

/* `n` windows at once, each the answer to a request of its own; a text that would end goes on. */
static ramet_status write_some(int32_t *out, ramet_session *s, float *row, const char *topic, int64_t first, int64_t n, int64_t window, uint64_t seed) {
    const ramet_model *m = s->model;
    const int64_t vocab = m->h.n_vocab;
    int32_t ids[MOST_PROMPT], lane[LANES], next[LANES] = {0};
    uint8_t want[LANES];
    const float *logits;
    int64_t length, outputs;
    ramet_sampling o;
    ramet_sampling_init(&o, sizeof o);
    o.temperature = .8f;
    o.top_k = 40;
    o.seed = seed;
    memset(want, 1, sizeof want);
    for (int64_t t = 0; t < window; t++) {
        if (t) RAMET__TRY(ramet_session_run(&logits, &outputs, s, next, lane, want, n, NULL, NULL));
        for (int64_t i = 0; i < n; i++) {
            if (!t) { /* its prompt first */
                int32_t rows[MOST_PROMPT];
                RAMET__TRY(prompt(ids, &length, m, topic, first + i));
                for (int64_t k = 0; k < length; k++) rows[k] = (int32_t)i;
                RAMET__TRY(ramet_session_truncate(s, (int32_t)i, 0));
                RAMET__TRY(ramet_session_run(&logits, &outputs, s, ids, rows, NULL, length, NULL, NULL));
                lane[i] = (int32_t)i;
            }
            memcpy(row, logits + (t ? i * vocab : 0), (size_t)vocab * sizeof *row);
            do {
                RAMET__TRY(ramet_sample(&next[i], row, vocab, &o, (int32_t)(first + i), t));
                row[next[i]] = -1e30f;
            } while (ramet_token_is_end(m, next[i]));
            out[i * window + t] = next[i];
        }
    }
    return RAMET_OK;
}

ramet_status ramet__write_topic(int32_t *out, ramet_model *parent, const char *topic, int64_t windows, int64_t window, uint64_t seed, ramet_progress_fn progress, void *user) {
    ramet_session_options so;
    ramet_session *s = NULL;
    float *row = NULL;
    int64_t longest = 0;
    ramet_status st = RAMET_OK;
    ramet_session_options_init(&so, sizeof so);
    so.max_sequences = so.max_outputs = (int32_t)RAMET__MIN(windows, LANES);
    for (int64_t i = 0, n; i < RAMET__COUNT(forms); i++) {
        int32_t ids[MOST_PROMPT];
        RAMET__TRY(prompt(ids, &n, parent, topic, i));
        longest = RAMET__MAX(longest, n);
    }
    so.max_context = window + longest;
    if (so.max_context > parent->h.n_ctx)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: to write about \"%s\" takes %lld tokens of context, the model has %lld; make probe_window smaller",
                           topic, (long long)so.max_context, (long long)parent->h.n_ctx);
    RAMET__NEW(row, ramet__alloc(parent->rt->mem, (size_t)parent->h.n_vocab * sizeof *row));
    RAMET__GO(ramet_session_create(&s, parent, &so));
    for (int64_t w = 0; w < windows; w += LANES) {
        RAMET__GO(ramet__progress(progress, user, (double)w / (double)windows, "writing about the topics"));
        RAMET__GO(write_some(out + w * window, s, row, topic, w, RAMET__MIN(windows - w, LANES), window, seed));
    }
out:
    ramet__free(row);
    ramet_session_free(s);
    return st;
}
