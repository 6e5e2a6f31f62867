/* SPDX-License-Identifier: Apache-2.0 */
/* topic.c - the parent writes the probe inputs about a topic itself: soft labels on them speak of the topic, and nothing of
 * anybody's text was needed. Sampled, so that the windows differ (data-free distillation, as in self-instruct, Wang et al. 2023). */
#include "feedback/feedback.h"
#include "infer/session.h"
#include <stdio.h>
#include <string.h>

enum { LANES = 32, MOST_PROMPT = 256 };

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

/* The next token of each lane: the lanes are independent, so all workers choose. */
typedef struct choice { const ramet_model *m; const float *logits[LANES]; float *row; int32_t next[LANES]; const ramet_sampling *o; int64_t first, position; } choice;

static ramet_status choose(void *context, int64_t lane, int32_t worker) {
    choice *c = context;
    const int64_t vocab = c->m->h.n_vocab;
    float *row = c->row + worker * vocab;
    memcpy(row, c->logits[lane], (size_t)vocab * sizeof *row);
    do { /* a text that would end goes on */
        RAMET__TRY(ramet_sample(&c->next[lane], row, vocab, c->o, (int32_t)(c->first + lane), c->position));
        row[c->next[lane]] = -1e30f;
    } while (ramet_token_is_end(c->m, c->next[lane]));
    return RAMET_OK;
}

/* `n` windows at once, each the answer to a request of its own. `start` holds the logits after their prompts. */
static ramet_status write_some(int32_t *out, ramet_session *s, float *start, choice *c, const char *topic, int64_t n, int64_t windows, int64_t window, ramet_progress_fn progress, void *user) {
    const int64_t vocab = c->m->h.n_vocab;
    int32_t ids[MOST_PROMPT], rows[MOST_PROMPT], lane[LANES];
    uint8_t want[LANES];
    const float *logits;
    int64_t length, outputs;
    memset(want, 1, sizeof want);
    for (int64_t i = 0; i < n; i++) {
        RAMET__TRY(prompt(ids, &length, c->m, topic, c->first + i));
        for (int64_t k = 0; k < length; k++) rows[k] = (int32_t)i;
        RAMET__TRY(ramet_session_truncate(s, (int32_t)i, 0));
        RAMET__TRY(ramet_session_run(&logits, &outputs, s, ids, rows, NULL, length, NULL, NULL));
        c->logits[i] = memcpy(start + i * vocab, logits, (size_t)vocab * sizeof *start);
        lane[i] = (int32_t)i;
    }
    for (c->position = 0; c->position < window; c->position++) {
        const double done = (double)c->first + (double)n * (double)c->position / (double)window;
        RAMET__TRY(ramet__progress(progress, user, done / (double)windows, "writing about a topic"));
        if (c->position) {
            RAMET__TRY(ramet_session_run(&logits, &outputs, s, c->next, lane, want, n, NULL, NULL));
            for (int64_t i = 0; i < n; i++) c->logits[i] = logits + i * vocab;
        }
        RAMET__TRY(ramet__parallel_for(c->m->rt->threads, n, choose, c, NULL));
        for (int64_t i = 0; i < n; i++) out[i * window + c->position] = c->next[i];
    }
    return RAMET_OK;
}

ramet_status ramet__write_topic(int32_t *out, ramet_model *parent, const char *topic, int64_t windows, int64_t window, uint64_t seed, ramet_progress_fn progress, void *user) {
    ramet_session_options so;
    ramet_session *s = NULL;
    ramet_sampling o;
    float *start = NULL;
    choice c = {.m = parent, .o = &o};
    int64_t longest = 0, lanes = RAMET__MIN(windows, LANES);
    ramet_status st = RAMET_OK;
    ramet_session_options_init(&so, sizeof so);
    so.max_sequences = so.max_outputs = (int32_t)lanes;
    for (int64_t i = 0, n; i < RAMET__COUNT(forms); i++) {
        int32_t ids[MOST_PROMPT];
        RAMET__TRY(prompt(ids, &n, parent, topic, i));
        longest = RAMET__MAX(longest, n);
    }
    so.max_context = window + longest;
    if (so.max_context > parent->h.n_ctx)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_brief_create: to write about \"%s\" takes %lld tokens of context, the model has %lld; make probe_window smaller",
                           topic, (long long)so.max_context, (long long)parent->h.n_ctx);
    ramet_sampling_init(&o, sizeof o);
    o.temperature = .8f;
    o.top_k = 40;
    o.seed = seed;
    RAMET__NEW(start, ramet__calloc(parent->rt->mem, (size_t)(lanes * parent->h.n_vocab), sizeof *start));
    RAMET__NEW(c.row, ramet__calloc(parent->rt->mem, (size_t)(ramet__threads_count(parent->rt->threads) * parent->h.n_vocab), sizeof *c.row));
    RAMET__GO(ramet_session_create(&s, parent, &so));
    for (c.first = 0; c.first < windows; c.first += LANES)
        RAMET__GO(write_some(out + c.first * window, s, start, &c, topic, RAMET__MIN(windows - c.first, LANES), windows, window, progress, user));
out:
    ramet__free(start);
    ramet__free(c.row);
    ramet_session_free(s);
    return st;
}
