/* SPDX-License-Identifier: Apache-2.0 */
/* test_generate.c - text from a session: greedy and sampled, stopped, and with guessed tokens, which change neither ids nor text. */
#include "sessions.h"

typedef struct stream { int32_t ids[200]; int n, stop_at, runs; char text[2048]; } stream;

static int32_t collect(int32_t sequence, int32_t id, const char *bytes, size_t length, void *user) {
    stream *s = user;
    assert_int_equal(sequence, 2);
    s->ids[s->n++] = id;
    strncat(s->text, bytes, length);
    return s->n == s->stop_at;
}

static void test_generate(void **state) {
    ramet_model *m = tiny();
    ramet_session *s = session_of(m, RAMET_MODE_EXACT, 32);
    stream a = {.stop_at = 99}, b = {.stop_at = 3}, c = {.stop_at = 99}, d = {.stop_at = 99};
    int64_t made = -1, outs;
    const float *logits;
    int32_t id;
    OK(ramet_session_generate(&made, s, 2, text, 4, 12, NULL, collect, NULL, &a));
    assert_int_equal(made, a.n);
    assert_int_equal(ramet_session_length(s, 2), 4 + made);
    /* greedy by hand */
    OK(ramet_session_run(&logits, &outs, s, text, NULL, NULL, 4, NULL, NULL));
    for (int i = 0; i < a.n; i++) {
        OK(ramet_sample(&id, logits, VOCAB, NULL, 0, 0));
        assert_int_equal(id, a.ids[i]);
        OK(ramet_session_run(&logits, &outs, s, &id, NULL, NULL, 1, NULL, NULL));
    }
    if (a.n < 12) {
        OK(ramet_sample(&id, logits, VOCAB, NULL, 0, 0));
        assert_true(ramet_token_is_end(m, id));
    }
    /* the host stops it */
    OK(ramet_session_truncate(s, 2, 0));
    OK(ramet_session_generate(&made, s, 2, text, 4, 12, NULL, collect, NULL, &b));
    assert_int_equal(made, RAMET__MIN(3, a.n));
    assert_memory_equal(a.ids, b.ids, (size_t)b.n * sizeof *a.ids);
    /* sampled: the same seed, the same text; the context ends it */
    ramet_sampling sampling;
    ramet_sampling_init(&sampling, sizeof sampling);
    sampling.temperature = 3;
    sampling.top_k = 200;
    sampling.seed = 11;
    for (int i = 0; i < 2; i++) {
        OK(ramet_session_truncate(s, 2, 0));
        OK(ramet_session_generate(&made, s, 2, text, TEXT, 40, &sampling, collect, NULL, i ? &d : &c));
    }
    assert_int_equal(c.n, d.n);
    assert_memory_equal(c.ids, d.ids, sizeof c.ids);
    OK(ramet_session_truncate(s, 2, 0));
    static int32_t full[198];
    a.n = 0;
    OK(ramet_session_generate(&made, s, 2, full, 198, 40, NULL, collect, NULL, &a));
    assert_true(made <= 2);
    assert_true(ramet_session_length(s, 2) <= 200);
    REFUSED(RAMET_E_ARGUMENT, "empty", ramet_session_generate(&made, s, 2, full, 0, 40, NULL, NULL, NULL, NULL));
    stopper p = {0, 0, NULL, 0};
    OK(ramet_session_truncate(s, 2, 0));
    REFUSED(RAMET_E_CANCELLED, "", ramet_session_generate(&made, s, 2, full, 10, 40, NULL, NULL, stop_after, &p));
    assert_int_equal(ramet_session_length(s, 2), 0);
    char *json = NULL;
    OK(ramet_session_describe(&json, s));
    assert_non_null(strstr(json, "\"mode\":\"exact\""));
    ramet_string_free(json);
    ramet_session_free(s);
    ramet_model_free(m);
}

static int32_t count_runs(double fraction, const char *what, void *user) {
    stream *s = user;
    s->runs += fraction == 0 && !strcmp(what, "running");
    return 0;
}

/* Guessed tokens change neither ids nor text nor what the sequence holds, and the repeated text takes fewer runs. */
static void test_generate_with_a_draft(void **state) {
    static const struct { int32_t draft; float temperature; int32_t rows; int64_t most; } cases[] = {
        {8, 0, 32, 100}, {3, 0, 32, 7}, {100, 0, 32, 100}, {100, 0, 4, 100}, {8, .4f, 32, 100},
        {8, 3, 32, 30}, {31, .2f, 32, 300}, {8, 0, 1, 100}};
    ramet_model *m = tiny();
    int32_t prompt[40];
    for (int i = 0; i < 40; i++) prompt[i] = text[i % 10];
    for (int32_t c = 0; c < RAMET__COUNT(cases); c++) {
        stream plain = {.stop_at = 1000}, guessed = {.stop_at = 1000}, part = {0};
        int64_t made[2], outs;
        ramet_sampling o;
        ramet_session *s = session_of(m, RAMET_MODE_EXACT, cases[c].rows), *t = session_of(m, RAMET_MODE_EXACT, cases[c].rows);
        ramet_sampling_init(&o, sizeof o);
        o.temperature = cases[c].temperature;
        o.seed = 5;
        OK(ramet_session_generate(&made[0], s, 2, prompt, 40, cases[c].most, &o, collect, count_runs, &plain));
        o.draft = cases[c].draft;
        OK(ramet_session_generate(&made[1], t, 2, prompt, 40, cases[c].most, &o, collect, count_runs, &guessed));
        assert_int_equal(made[0], made[1]);
        assert_int_equal(plain.n, guessed.n);
        assert_memory_equal(plain.ids, guessed.ids, sizeof plain.ids);
        assert_string_equal(plain.text, guessed.text);
        assert_int_equal(ramet_session_length(t, 2), 40 + made[0]);
        if (cases[c].rows == 1) assert_int_equal(guessed.runs, plain.runs);
        else if (!cases[c].temperature) assert_true(guessed.runs < plain.runs);
        /* stopped in the middle of a draft, both go on alike */
        const float *a, *b;
        part.stop_at = plain.n / 2;
        OK(ramet_session_truncate(s, 2, 40 + part.stop_at));
        OK(ramet_session_truncate(t, 2, 0));
        OK(ramet_session_generate(&made[1], t, 2, prompt, 40, cases[c].most, &o, collect, count_runs, &part));
        assert_int_equal(ramet_session_length(t, 2), 40 + part.stop_at);
        OK(ramet_session_run(&a, &outs, s, text + 7, (int32_t[]){2}, NULL, 1, NULL, NULL));
        OK(ramet_session_run(&b, &outs, t, text + 7, (int32_t[]){2}, NULL, 1, NULL, NULL));
        assert_memory_equal(a, b, VOCAB * sizeof *a);
        o.draft = -1;
        REFUSED(RAMET_E_ARGUMENT, "draft is -1", ramet_session_generate(&made[1], t, 2, prompt, 1, 1, &o, NULL, NULL, NULL));
        ramet_session_free(s);
        ramet_session_free(t);
    }
    ramet_model_free(m);
}

/* Guesses stand behind a sequence's end, which a fork shares: they may not reach the other one. */
static void test_draft_in_a_forked_sequence(void **state) {
    ramet_model *m = tiny();
    int32_t prompt[40];
    stream plain = {.stop_at = 1000}, guessed = {.stop_at = 1000};
    int64_t made[2], outs;
    const float *a, *b;
    ramet_sampling o;
    ramet_session *s = session_of(m, RAMET_MODE_EXACT, 32), *t = session_of(m, RAMET_MODE_EXACT, 32);
    for (int i = 0; i < 40; i++) prompt[i] = text[i % 10];
    ramet_sampling_init(&o, sizeof o);
    OK(ramet_session_generate(&made[0], s, 2, prompt, 40, 60, &o, collect, count_runs, &plain));
    OK(ramet_session_run(NULL, NULL, s, prompt, NULL, NULL, 20, NULL, NULL));
    o.draft = 8;
    OK(ramet_session_run(NULL, NULL, t, prompt, NULL, NULL, 20, NULL, NULL));
    OK(ramet_session_fork(t, 2, 0, 20));
    OK(ramet_session_generate(&made[1], t, 2, prompt + 20, 20, 60, &o, collect, count_runs, &guessed));
    assert_int_equal(made[0], made[1]);
    assert_memory_equal(plain.ids, guessed.ids, sizeof plain.ids);
    assert_true(guessed.runs < plain.runs);
    OK(ramet_session_run(&a, &outs, s, text + 7, NULL, NULL, 1, NULL, NULL));
    OK(ramet_session_run(&b, &outs, t, text + 7, NULL, NULL, 1, NULL, NULL));
    assert_memory_equal(a, b, VOCAB * sizeof *a);
    ramet_session_free(s);
    ramet_session_free(t);
    ramet_model_free(m);
}

static ramet_session *session_with(ramet_model *m, ramet_model *small, int64_t vocabulary) {
    ramet_session_options o;
    ramet_session *s = NULL;
    ramet_session_options_init(&o, sizeof o);
    o.mode = RAMET_MODE_EXACT;
    o.max_context = 200;
    o.draft_model = small;
    o.draft_vocabulary = vocabulary;
    OK(ramet_session_create(&s, m, &o));
    return s;
}

/* The same model, but sure of what it says: the last norm's weights are much larger. */
static ramet_model *sure_of(ramet_model *m, int64_t context) {
    ramet_model *sure = NULL;
    ramet__hparams h = m->h;
    ramet__weight *weights[64], *norm = NULL, *old = ramet__model_weight(m, "output_norm.weight");
    OK(ramet__weight_new(&norm, rt, "output_norm.weight", RAMET__ENC_F32, ramet__weight_shape(old)));
    for (int64_t i = 0; i < D; i++) ((float *)ramet__weight_mutable(norm))[i] = 100 * ((const float *)ramet__weight_data(old))[i];
    for (int64_t i = 0; i < m->n_weights; i++) weights[i] = m->weights[i] == old ? norm : m->weights[i];
    h.n_ctx = context;
    OK(ramet__model_derive(&sure, m, &h, weights, m->n_weights, NULL));
    ramet__weight_free(norm);
    return sure;
}

/* The tiny model with another name for a token */
static ramet_model *with_another_token(void) {
    static char bytes[1 << 20];
    ramet_model *m = NULL;
    FILE *f = fopen(tiny_path(), "rb");
    assert_non_null(f);
    const size_t size = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    for (size_t i = 0; i + 10 < size; i++)
        if (!memcmp(bytes + i, "<|im_end|>", 10)) {
            bytes[i + 5] = 'b';
            break;
        }
    const ramet_source source = {.struct_size = sizeof source, .kind = RAMET_SOURCE_MEMORY, .data = bytes, .length = size};
    OK(ramet_model_load(&m, rt, &source, NULL));
    return m;
}

/* A draft model changes neither ids nor text, whatever it is, and one that guesses right saves runs: the model itself, a pruned sibling, a head of few ids. */
static void test_generate_with_a_draft_model(void **state) {
    ramet_model *m = tiny(), *sure = sure_of(m, 200), *brief = sure_of(m, 17), *sibling = NULL; /* brief: the text goes on behind its context */
    ramet_prune_options prune;
    ramet_prune_options_init(&prune, sizeof prune);
    prune.layers = 1;
    prune.ids = text;
    prune.count = TEXT;
    OK(ramet_prune(&sibling, m, &prune));
    const struct { ramet_model *small; int64_t vocabulary; float temperature; int32_t draft; } cases[] = {
        {sure, 0, 0, 4}, {sure, 0, 0, 1}, {sure, 300, 0, 7}, {sure, 16, 0, 4}, {sure, 1, 2, 3}, {brief, 0, 0, 4}, {m, 0, .7f, 7}, {sibling, 0, 0, 4}, {sibling, 160, 1, 4}};
    for (int32_t c = 0; c < RAMET__COUNT(cases); c++) {
        stream plain = {.stop_at = 1000}, guessed = {.stop_at = 1000}, later[2] = {{.stop_at = 1000}, {.stop_at = 1000}};
        int64_t made[2], outs;
        const float *a, *b;
        ramet_sampling o;
        ramet_session *s = session_with(m, NULL, 0), *t = session_with(m, cases[c].small, cases[c].vocabulary);
        t->draft_cost = .1f; /* one as large as the model could not pay */
        ramet_sampling_init(&o, sizeof o);
        o.temperature = cases[c].temperature;
        o.seed = 3;
        OK(ramet_session_generate(&made[0], s, 2, text, 13, 9, &o, collect, count_runs, &plain));
        o.draft = cases[c].draft;
        OK(ramet_session_generate(&made[1], t, 2, text, 13, 9, &o, collect, count_runs, &guessed));
        assert_int_equal(made[0], made[1]);
        assert_memory_equal(plain.ids, guessed.ids, sizeof plain.ids);
        assert_string_equal(plain.text, guessed.text);
        if (!c) assert_true(guessed.runs < plain.runs); /* those of the model, and of the other when it catches up */
        /* the host takes the text back and goes another way, to the end of the context, in blocks that it shares: the draft model comes along */
        for (int32_t i = 0; i < 2; i++) {
            ramet_session *each = i ? t : s;
            o.draft = i ? cases[c].draft : 0;
            OK(ramet_session_truncate(each, 2, 14));
            OK(ramet_session_run(NULL, NULL, each, text + 3, (int32_t[]){2, 2, 2, 2}, NULL, 4, NULL, NULL));
            OK(ramet_session_fork(each, 3, 2, 17));
            OK(ramet_session_fork(each, 2, 3, 17));
            OK(ramet_session_generate(&made[i], each, 2, text + 9, 2, 200, &o, collect, NULL, &later[i]));
        }
        assert_int_equal(made[0], made[1]);
        assert_memory_equal(later[0].ids, later[1].ids, sizeof later[0].ids);
        OK(ramet_session_truncate(s, 2, ramet_session_length(s, 2) - 2));
        OK(ramet_session_truncate(t, 2, ramet_session_length(t, 2) - 2));
        OK(ramet_session_run(&a, &outs, s, text + 7, (int32_t[]){2}, NULL, 1, NULL, NULL));
        OK(ramet_session_run(&b, &outs, t, text + 7, (int32_t[]){2}, NULL, 1, NULL, NULL));
        assert_memory_equal(a, b, VOCAB * sizeof *a);
        ramet_session_free(s);
        ramet_session_free(t);
    }
    ramet_session_options o;
    ramet_session *s = NULL;
    ramet_session_options_init(&o, sizeof o);
    o.draft_model = sibling;
    o.draft_vocabulary = VOCAB + 1;
    REFUSED(RAMET_E_ARGUMENT, "draft_vocabulary is 321; 0 (all) to 320", ramet_session_create(&s, m, &o));
    o.draft_model = NULL;
    o.draft_vocabulary = 5;
    REFUSED(RAMET_E_ARGUMENT, "there is no draft_model", ramet_session_create(&s, m, &o));
    o.draft_model = sibling;
    o.draft_vocabulary = -1;
    REFUSED(RAMET_E_ARGUMENT, "draft_vocabulary is -1", ramet_session_create(&s, m, &o));
    o.draft_vocabulary = 0;
    ramet_model *stranger = with_another_token();
    o.draft_model = stranger;
    REFUSED(RAMET_E_INCONSISTENT, "token 2 is '<|im_end|>' in the model and '<|im_bnd|>' in the draft model", ramet_session_create(&s, m, &o));
    ramet_model_free(stranger);
    assert_null(s);
    ramet_model_free(sibling);
    ramet_model_free(sure);
    ramet_model_free(brief);
    ramet_model_free(m);
}

/* What it guesses is its own text; after guesses that were wrong it rests, each time for longer. */
static void test_a_draft_model_rests(void **state) {
    ramet_model *m = tiny(), *sure = sure_of(m, 200);
    ramet_session *s = session_with(m, sure, 0);
    ramet_sampling o;
    ramet__draft d = {0};
    stream plain = {.stop_at = 1000};
    int32_t t[64];
    int64_t guesses, rested = 0, longest = 0;
    ramet_sampling_init(&o, sizeof o);
    OK(ramet_session_generate(NULL, s, 2, text, 13, 5, NULL, collect, NULL, &plain));
    OK(ramet_session_truncate(s, 2, 12));
    s->draft_cost = .1f;
    memcpy(t, text, 13 * sizeof *t);
    OK(ramet__draft_init(&d, s, 2, 4, 64, &o, NULL, NULL));
    OK(ramet__draft_guess(&guesses, &d, t, 13, 10, 0));
    assert_int_equal(guesses, 4);
    assert_memory_equal(t + 13, plain.ids, 4 * sizeof *t);
    OK(ramet__draft_guess(&guesses, &d, t, 13, 2, 4));
    assert_int_equal(guesses, 2);
    for (int i = 0; i < 100; i++) {
        OK(ramet__draft_guess(&guesses, &d, t, 13, 10, 0));
        rested = guesses ? 0 : rested + 1;
        longest = RAMET__MAX(longest, rested);
    }
    assert_true(longest >= 32);
    ramet__draft_free(&d);
    ramet_session_free(s);
    ramet_model_free(sure);
    ramet_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generate),
        cmocka_unit_test(test_generate_with_a_draft),
        cmocka_unit_test(test_draft_in_a_forked_sequence),
        cmocka_unit_test(test_generate_with_a_draft_model),
        cmocka_unit_test(test_a_draft_model_rests),
    };
    return cmocka_run_group_tests(tests, make_runtime, drop_runtime);
}
