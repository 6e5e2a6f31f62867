/* SPDX-License-Identifier: Apache-2.0 */
/* test_session.c - a session against a plain double-precision llama; the same bits however the rows are cut and mixed. */
#include "sessions.h"

/* ---- the reference: everything in double, one position after another ---- */

static const float *weight(const ramet_model *m, const char *format, int layer) {
    char name[64];
    snprintf(name, sizeof name, format, layer);
    return ramet__weight_data(ramet__model_weight(m, name));
}

static void product(double *y, const float *w, const double *x, int n, int k) {
    for (int i = 0; i < n; i++) {
        y[i] = 0;
        for (int j = 0; j < k; j++) y[i] += (double)w[i * k + j] * x[j];
    }
}

static void norm(double *y, const double *x, const float *w) {
    double s = 0;
    for (int i = 0; i < D; i++) s += x[i] * x[i];
    for (int i = 0; i < D; i++) y[i] = x[i] / sqrt(s / D + 1e-5) * w[i];
}

static void rotate(double *x, int heads, int pos) {
    for (int h = 0; h < heads; h++)
        for (int j = 0; j < HD / 2; j++) {
            double a = pos * pow(10000, -2.0 * j / HD), *p = x + h * HD + 2 * j, u = p[0], v = p[1];
            p[0] = u * cos(a) - v * sin(a), p[1] = u * sin(a) + v * cos(a);
        }
}

static void reference(double logits[VOCAB], const ramet_model *m, const int32_t *ids, int n) {
    static double keys[LAYERS][MAX][KV * HD], values[LAYERS][MAX][KV * HD];
    double x[D], h[FF], q[D], o[D], g[FF], u[FF];
    for (int t = 0; t < n; t++) {
        const float *row = weight(m, "token_embd.weight", 0) + ids[t] * D;
        for (int i = 0; i < D; i++) x[i] = row[i];
        for (int l = 0; l < LAYERS; l++) {
            norm(h, x, weight(m, "blk.%d.attn_norm.weight", l));
            product(q, weight(m, "blk.%d.attn_q.weight", l), h, D, D);
            product(keys[l][t], weight(m, "blk.%d.attn_k.weight", l), h, KV * HD, D);
            product(values[l][t], weight(m, "blk.%d.attn_v.weight", l), h, KV * HD, D);
            rotate(q, HEADS, t);
            rotate(keys[l][t], KV, t);
            for (int a = 0; a < HEADS; a++) {
                double p[MAX], sum = 0;
                const int kv = a / (HEADS / KV) * HD;
                for (int s = 0; s <= t; s++) {
                    double dot = 0;
                    for (int i = 0; i < HD; i++) dot += q[a * HD + i] * keys[l][s][kv + i];
                    sum += p[s] = exp(dot / sqrt(HD));
                }
                for (int i = 0; i < HD; i++) {
                    o[a * HD + i] = 0;
                    for (int s = 0; s <= t; s++) o[a * HD + i] += p[s] / sum * values[l][s][kv + i];
                }
            }
            product(h, weight(m, "blk.%d.attn_output.weight", l), o, D, D);
            for (int i = 0; i < D; i++) x[i] += h[i];
            norm(h, x, weight(m, "blk.%d.ffn_norm.weight", l));
            product(g, weight(m, "blk.%d.ffn_gate.weight", l), h, FF, D);
            product(u, weight(m, "blk.%d.ffn_up.weight", l), h, FF, D);
            for (int i = 0; i < FF; i++) u[i] *= g[i] / (1 + exp(-g[i]));
            product(h, weight(m, "blk.%d.ffn_down.weight", l), u, D, FF);
            for (int i = 0; i < D; i++) x[i] += h[i];
        }
    }
    norm(h, x, weight(m, "output_norm.weight", 0));
    product(logits, weight(m, "token_embd.weight", 0), h, VOCAB, D);
}

static double distance(const float *is, const double *want) { /* largest difference over the scale of the logits */
    double most = 0, scale = 0;
    for (int i = 0; i < VOCAB; i++) most = fmax(most, fabs(is[i] - want[i])), scale = fmax(scale, fabs(want[i]));
    return most / scale;
}

/* Logits of every position of `text`, one run after another with `step` rows each. */
static void all_logits(float *out, ramet_session *s, int32_t sequence, int step) {
    int32_t seq[TEXT];
    uint8_t want[TEXT];
    for (int i = 0; i < TEXT; i++) seq[i] = sequence, want[i] = 1;
    for (int i = 0; i < TEXT; i += step) {
        const float *logits;
        int64_t outs, n = RAMET__MIN(step, TEXT - i);
        OK(ramet_session_run(&logits, &outs, s, text + i, seq, want, n, NULL, NULL));
        assert_int_equal(outs, n);
        memcpy(out + i * VOCAB, logits, (size_t)n * VOCAB * sizeof *out);
    }
}

static float base[TEXT * VOCAB]; /* exact mode, one token a run */

static void make_base(ramet_model *m) {
    ramet_session *s = session_of(m, RAMET_MODE_EXACT, 32);
    all_logits(base, s, 0, 1);
    ramet_session_free(s);
}

static void test_session_exact_against_reference(void **state) {
    ramet_model *m = tiny();
    make_base(m);
    for (int n = 1; n <= TEXT; n += n < 3 ? 1 : 8) {
        double want[VOCAB];
        reference(want, m, text, n);
        const double d = distance(base + (n - 1) * VOCAB, want);
        if (d > 1e-5) fail_msg("position %d: logits are %g off their scale", n - 1, d);
    }
    ramet_model_free(m);
}

static void test_session_modes_are_near(void **state) {
    static float other[TEXT * VOCAB];
    for (int q8 = 0; q8 < 2; q8++) {
        ramet_model *m = NULL;
        const char *path = getenv(q8 ? "RAMET_TINY_MODEL_Q8_0" : "RAMET_TINY_MODEL");
        if (!path) skip();
        OK(ramet_model_load_path(&m, rt, path));
        make_base(m);
        for (int32_t mode = RAMET_MODE_BALANCED; mode <= RAMET_MODE_FAST; mode++)
            for (int how = 0; how < 4; how++) {
                const int step = how % 2 ? TEXT : 1;
                ramet_session *s = NULL;
                ramet_session_options o;
                ramet_session_options_init(&o, sizeof o);
                o.mode = mode;
                o.cache = how / 2 ? RAMET_CACHE_INT8 : RAMET_CACHE_DEFAULT;
                o.max_outputs = 32;
                OK(ramet_session_create(&s, m, &o));
                double worst = 0;
                all_logits(other, s, 0, step);
                for (int t = 0; t < TEXT; t++) {
                    double want[VOCAB];
                    for (int i = 0; i < VOCAB; i++) want[i] = base[t * VOCAB + i];
                    worst = fmax(worst, distance(other + t * VOCAB, want));
                }
                if (worst > .05) fail_msg("mode %d, cache %d, %d rows a run: logits are %g off exact mode's", mode, o.cache, step, worst);
                ramet_session_free(s);
            }
        ramet_model_free(m);
    }
}

static void test_session_bits_do_not_depend_on_the_cut(void **state) {
    static float other[TEXT * VOCAB];
    ramet_model *m = tiny();
    make_base(m);
    static const struct { int step, rows; } cases[] = {{TEXT, 32}, {7, 32}, {TEXT, 3}, {TEXT, 19}, {TEXT, 1}, {2, 2}};
    for (int32_t c = 0; c < RAMET__COUNT(cases); c++) {
        ramet_session_options o;
        ramet_session *s = NULL;
        ramet_session_options_init(&o, sizeof o);
        o.mode = RAMET_MODE_EXACT;
        o.max_rows = cases[c].rows;
        o.max_outputs = 32; /* more than one run has rows: several runs fill them */
        OK(ramet_session_create(&s, m, &o));
        all_logits(other, s, 0, cases[c].step);
        assert_memory_equal(base, other, sizeof base);
        assert_int_equal(ramet_session_length(s, 0), TEXT);
        ramet_session_free(s);
    }
    ramet_model_free(m);
}

/* Prefill at once and in pieces, one token a run, in each mode and from F32 and Q8_0; exact mode also gives what the others of its kind give. */
static void test_session_bits_do_not_depend_on_threads(void **state) {
    static const int32_t modes[] = {RAMET_MODE_EXACT, RAMET_MODE_BALANCED, RAMET_MODE_FAST}, steps[] = {TEXT, 7, 1};
    enum { RUNS = RAMET__COUNT(modes) * RAMET__COUNT(steps) };
    static float want[2][RUNS][TEXT * VOCAB], got[TEXT * VOCAB];
    ramet_model *m = tiny();
    make_base(m);
    for (int32_t threads = 1; threads <= 4; threads++)
        for (int32_t q8 = 0; q8 < 2; q8++) {
            ramet_runtime *r = runtime_of(threads);
            ramet_model *t = NULL;
            OK(ramet_model_load_path(&t, r, q8 ? getenv("RAMET_TINY_MODEL_Q8_0") : tiny_path()));
            for (int32_t run = 0; run < RUNS; run++) {
                ramet_session *s = session_of(t, modes[run / RAMET__COUNT(steps)], 32);
                all_logits(threads > 1 ? got : want[q8][run], s, 1, steps[run % RAMET__COUNT(steps)]);
                if (threads > 1) assert_memory_equal(want[q8][run], got, sizeof got);
                if (!q8 && !modes[run / RAMET__COUNT(steps)]) assert_memory_equal(want[q8][run], base, sizeof base);
                ramet_session_free(s);
            }
            ramet_model_free(t);
            ramet_runtime_free(r);
        }
    ramet_model_free(m);
}

static void test_session_sequences_together(void **state) {
    ramet_model *m = tiny();
    make_base(m);
    ramet_session *s = session_of(m, RAMET_MODE_EXACT, 32);
    int32_t ids[32], seq[32];
    const float *logits;
    int64_t outs;
    int n = 0;
    /* 2: the first 5 of the text; 0: other ids; 3: the first 2 */
    for (int i = 0; i < 5; i++) ids[n] = text[i], seq[n++] = 2;
    for (int i = 0; i < 9; i++) ids[n] = 100 + i, seq[n++] = 0;
    for (int i = 0; i < 2; i++) ids[n] = text[i], seq[n++] = 3;
    OK(ramet_session_run(&logits, &outs, s, ids, seq, NULL, n, NULL, NULL));
    assert_int_equal(outs, 3);
    assert_memory_equal(logits, base + 4 * VOCAB, VOCAB * sizeof *base);
    assert_memory_equal(logits + 2 * VOCAB, base + 1 * VOCAB, VOCAB * sizeof *base);
    n = 0; /* then: decode both, and a prompt beside them */
    ids[n] = text[2], seq[n++] = 3;
    ids[n] = text[5], seq[n++] = 2;
    for (int i = 0; i < 20; i++) ids[n] = text[i], seq[n++] = 1;
    OK(ramet_session_run(&logits, &outs, s, ids, seq, NULL, n, NULL, NULL));
    assert_memory_equal(logits, base + 2 * VOCAB, VOCAB * sizeof *base);
    assert_memory_equal(logits + VOCAB, base + 5 * VOCAB, VOCAB * sizeof *base);
    assert_memory_equal(logits + 2 * VOCAB, base + 19 * VOCAB, VOCAB * sizeof *base);
    assert_int_equal(ramet_session_length(s, 0), 9);
    assert_int_equal(ramet_session_length(s, 1), 20);
    assert_int_equal(ramet_session_length(s, 2), 6);
    assert_int_equal(ramet_session_length(s, 3), 3);
    /* cut and run again: the same bits */
    OK(ramet_session_truncate(s, 1, 3));
    OK(ramet_session_run(&logits, &outs, s, text + 3, (int32_t[]){1, 1, 1, 1}, NULL, 4, NULL, NULL));
    assert_memory_equal(logits, base + 6 * VOCAB, VOCAB * sizeof *base);
    ramet_session_free(s);
    ramet_model_free(m);
}

/* 150 tokens: two whole blocks and a part. Forked sequences go on in other ways; each has the bits of one that ran everything itself. */
static void test_session_fork(void **state) {
    enum { PREFIX = 150, MORE = 5 };
    static const int64_t keeps[] = {PREFIX, 128, 100, 64, 1, 0};
    static float alone[VOCAB];
    int32_t ids[PREFIX], to_1[PREFIX], to_2[PREFIX];
    ramet_model *m = tiny();
    for (int i = 0; i < PREFIX; i++) ids[i] = (i * 37 + 11) % VOCAB, to_1[i] = 1, to_2[i] = 2;
    for (int32_t mode = RAMET_MODE_EXACT; mode <= RAMET_MODE_BALANCED; mode++)
        for (int32_t c = 0; c < RAMET__COUNT(keeps); c++) {
            ramet_session *s = session_of(m, mode, 256), *t = session_of(m, mode, 256);
            const float *logits;
            const int64_t keep = keeps[c];
            OK(ramet_session_run(NULL, NULL, s, ids, NULL, NULL, PREFIX, NULL, NULL));
            const uint64_t before = ramet__cache_bytes(&s->cache);
            OK(ramet_session_run(NULL, NULL, s, ids, to_1, NULL, 7, NULL, NULL)); /* dropped by the fork */
            OK(ramet_session_fork(s, 1, 0, keep));
            assert_int_equal(ramet_session_length(s, 1), keep);
            assert_int_equal(ramet__cache_bytes(&s->cache), before);
            OK(ramet_session_fork(s, 2, 1, keep));
            assert_int_equal(ramet__cache_bytes(&s->cache), before);
            /* 1 writes first, then 0 from the same place; 2 must not see either */
            OK(ramet_session_run(NULL, NULL, s, text, to_1, NULL, MORE, NULL, NULL));
            OK(ramet_session_truncate(s, 0, keep));
            OK(ramet_session_run(NULL, NULL, s, text + 9, NULL, NULL, MORE, NULL, NULL));
            for (int q = 0; q < 3; q++) {
                const int32_t *more = q == 0 ? text + 9 : q == 1 ? text : text + 4;
                const int64_t first = mode == RAMET_MODE_EXACT ? keep : PREFIX; /* balanced may multiply many rows otherwise than few */
                if (first) OK(ramet_session_run(NULL, NULL, t, ids, NULL, NULL, first, NULL, NULL));
                OK(ramet_session_truncate(t, 0, keep));
                OK(ramet_session_run(&logits, NULL, t, more, NULL, NULL, MORE, NULL, NULL));
                if (q < 2) OK(ramet_session_run(&logits, NULL, t, text + 15, NULL, NULL, 1, NULL, NULL));
                memcpy(alone, logits, sizeof alone);
                OK(ramet_session_truncate(t, 0, 0));
                if (q < 2) OK(ramet_session_run(&logits, NULL, s, text + 15, (int32_t[]){q}, NULL, 1, NULL, NULL));
                else OK(ramet_session_run(&logits, NULL, s, more, to_2, NULL, MORE, NULL, NULL));
                assert_memory_equal(logits, alone, sizeof alone);
            }
            for (int q = 0; q < 3; q++) OK(ramet_session_truncate(s, q, 0));
            assert_int_equal(ramet__cache_bytes(&s->cache), 0);
            OK(ramet_session_run(NULL, NULL, s, ids, NULL, NULL, PREFIX, NULL, NULL));
            OK(ramet_session_fork(s, 3, 0, PREFIX)); /* freed while shared */
            REFUSED(RAMET_E_ARGUMENT, "holds 150", ramet_session_fork(s, 1, 0, PREFIX + 1));
            REFUSED(RAMET_E_ARGUMENT, "keep is -1", ramet_session_fork(s, 1, 0, -1));
            REFUSED(RAMET_E_ARGUMENT, "both sequence 0", ramet_session_fork(s, 0, 0, 1));
            REFUSED(RAMET_E_ARGUMENT, "sequence 8", ramet_session_fork(s, 8, 0, 1));
            REFUSED(RAMET_E_ARGUMENT, "sequence -1", ramet_session_fork(s, 1, -1, 1));
            ramet_session_free(s);
            ramet_session_free(t);
        }
    ramet_model_free(m);
}

static void test_session_cancel_and_reenter(void **state) {
    ramet_model *m = tiny();
    make_base(m);
    ramet_session *s = session_of(m, RAMET_MODE_EXACT, 4);
    const float *logits;
    int64_t outs;
    OK(ramet_session_run(&logits, &outs, s, text, NULL, NULL, 2, NULL, NULL));
    stopper p = {0, 1 << 30, s, 0};
    OK(ramet_session_run(&logits, &outs, s, text + 2, NULL, NULL, 1, stop_after, &p));
    assert_int_equal(p.inside, RAMET_E_STATE);
    OK(ramet_session_truncate(s, 0, 2));
    const int every = p.calls;
    assert_true(every >= 1);
    for (int at = 0; at < 4 * every; at++) { /* 17 rows are 5 runs: stop before, between and inside them */
        p = (stopper){0, at, NULL, 0};
        REFUSED(RAMET_E_CANCELLED, "", ramet_session_run(&logits, &outs, s, text + 2, NULL, NULL, 17, stop_after, &p));
        assert_int_equal(ramet_session_length(s, 0), 2);
    }
    OK(ramet_session_run(&logits, &outs, s, text + 2, NULL, NULL, TEXT - 2, NULL, NULL));
    assert_memory_equal(logits, base + (TEXT - 1) * VOCAB, VOCAB * sizeof *base);
    ramet_session_free(s);
    ramet_model_free(m);
}

static void test_session_refuses(void **state) {
    ramet_model *m = tiny();
    ramet_session *s = session_of(m, RAMET_MODE_EXACT, 32), *none = NULL;
    ramet_session_options o;
    const float *logits = NULL;
    int64_t outs = -1;
    static int32_t many[300];
    static uint8_t want[300];
    memset(want, 1, sizeof want);
    REFUSED(RAMET_E_ARGUMENT, "id 320", ramet_session_run(&logits, &outs, s, (int32_t[]){1, 320}, NULL, NULL, 2, NULL, NULL));
    REFUSED(RAMET_E_ARGUMENT, "id -1", ramet_session_run(&logits, &outs, s, (int32_t[]){-1}, NULL, NULL, 1, NULL, NULL));
    REFUSED(RAMET_E_ARGUMENT, "rows is 0", ramet_session_run(&logits, &outs, s, many, NULL, NULL, 0, NULL, NULL));
    REFUSED(RAMET_E_ARGUMENT, "sequence 8", ramet_session_run(&logits, &outs, s, many, (int32_t[]){8}, NULL, 1, NULL, NULL));
    REFUSED(RAMET_E_ARGUMENT, "together", ramet_session_run(&logits, &outs, s, many, (int32_t[]){0, 1, 0}, NULL, 3, NULL, NULL));
    REFUSED(RAMET_E_LIMIT, "200 tokens", ramet_session_run(&logits, &outs, s, many, NULL, NULL, 201, NULL, NULL));
    REFUSED(RAMET_E_LIMIT, "max_outputs", ramet_session_run(&logits, &outs, s, many, NULL, want, 33, NULL, NULL));
    REFUSED(RAMET_E_ARGUMENT, "holds 0", ramet_session_truncate(s, 0, 1));
    REFUSED(RAMET_E_ARGUMENT, "sequence 9", ramet_session_truncate(s, 9, 0));
    assert_null(logits);
    assert_int_equal(outs, -1);
    assert_int_equal(ramet_session_length(s, 0), 0);
    ramet_session_options_init(&o, sizeof o);
    o.max_rows = 0;
    REFUSED(RAMET_E_ARGUMENT, "max_rows", ramet_session_create(&none, m, &o));
    ramet_session_options_init(&o, sizeof o);
    o.mode = 7;
    REFUSED(RAMET_E_ARGUMENT, "mode", ramet_session_create(&none, m, &o));
    o.mode = RAMET_MODE_EXACT;
    o.cache = RAMET_CACHE_INT8;
    REFUSED(RAMET_E_ARGUMENT, "choose balanced", ramet_session_create(&none, m, &o));
    o.cache = 2;
    REFUSED(RAMET_E_ARGUMENT, "none of RAMET_CACHE", ramet_session_create(&none, m, &o));
    assert_null(none);
    OK(ramet_session_run(&logits, &outs, s, many, NULL, NULL, 200, NULL, NULL)); /* exactly full */
    ramet_session_free(s);
    ramet_model_free(m);
}

static ramet_adapter *learned_of(const ramet_model *m, const char *targets, int32_t rank, int salt) {
    ramet_adapter *a = NULL;
    OK(ramet__adapter_new(&a, m, targets, rank, 4, (uint64_t)salt));
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t j = 0; j < a->lora[i].n * rank; j++) a->lora[i].b[j] = (float)((j * 37 + i * 11 + salt) % 101 - 50) / 800;
    return a;
}

static ramet_adapter *learned(const ramet_model *m, int32_t rank, int salt) { return learned_of(m, NULL, rank, salt); }

static void test_session_adapters(void **state) {
    ramet_model *m = tiny(), *merged = NULL;
    make_base(m);
    ramet_adapter *a = learned(m, 4, 0), *b = learned(m, 8, 5), *wide = learned(m, 9, 1);
    const ramet_adapter *first = a;
    const float half = 0.5f, *logits;
    static float with_a[TEXT * VOCAB], other[TEXT * VOCAB];
    int32_t ia = -1, ib = -1, none = -1;
    int64_t outs;
    ramet_session *s = session_of(m, RAMET_MODE_EXACT, 64), *t;
    OK(ramet_session_attach(&ia, s, a, 0.5f));
    OK(ramet_session_attach(&ib, s, b, 1));
    assert_int_equal(ia, 0);
    assert_int_equal(ib, 1);
    REFUSED(RAMET_E_LIMIT, "max_rank", ramet_session_attach(&none, s, wide, 1));
    REFUSED(RAMET_E_ARGUMENT, "attached as 2", ramet_session_use(s, 0, 2));
    /* attached but not used: nothing changes */
    all_logits(other, s, 3, TEXT);
    assert_memory_equal(base, other, sizeof base);
    OK(ramet_session_truncate(s, 3, 0));
    /* against the merged model */
    OK(ramet_session_use(s, 1, ia));
    all_logits(with_a, s, 1, TEXT);
    OK(ramet_model_merge(&merged, m, &first, &half, 1, NULL, NULL, NULL));
    t = session_of(merged, RAMET_MODE_EXACT, 64);
    all_logits(other, t, 0, TEXT);
    ramet_session_free(t);
    for (int i = 0; i < TEXT; i++) {
        double want[VOCAB], plain[VOCAB];
        for (int j = 0; j < VOCAB; j++) want[j] = other[i * VOCAB + j], plain[j] = base[i * VOCAB + j];
        assert_true(distance(with_a + i * VOCAB, want) < 1e-5);
        assert_true(distance(with_a + i * VOCAB, plain) > 1e-3);
    }
    /* three sequences with a, with b and with none in one run: the bits they have alone */
    OK(ramet_session_use(s, 2, ib));
    int32_t ids[3 * TEXT], seq[3 * TEXT];
    static float alone_b[VOCAB];
    OK(ramet_session_run(&logits, &outs, s, text, (int32_t[TEXT]){2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2}, NULL, TEXT, NULL, NULL));
    memcpy(alone_b, logits, sizeof alone_b);
    for (int q = 1; q < 4; q++) OK(ramet_session_truncate(s, q, 0));
    for (int i = 0; i < 3 * TEXT; i++) ids[i] = text[i % TEXT], seq[i] = 3 - i / TEXT;
    OK(ramet_session_run(&logits, &outs, s, ids, seq, NULL, 3 * TEXT, NULL, NULL));
    assert_memory_equal(logits, base + (TEXT - 1) * VOCAB, VOCAB * sizeof *base);
    assert_memory_equal(logits + VOCAB, alone_b, VOCAB * sizeof *base);
    assert_memory_equal(logits + 2 * VOCAB, with_a + (TEXT - 1) * VOCAB, VOCAB * sizeof *base);
    /* detached: sequences that used it have none; the index is free again */
    OK(ramet_session_detach(s, ia));
    REFUSED(RAMET_E_ARGUMENT, "attached as 0", ramet_session_detach(s, ia));
    OK(ramet_session_truncate(s, 1, 0));
    all_logits(other, s, 1, TEXT);
    assert_memory_equal(base, other, sizeof base);
    OK(ramet_session_attach(&ia, s, b, 1));
    assert_int_equal(ia, 0);
    ramet_session_free(s);
    ramet_model_free(merged);
    ramet_adapter_free(a);
    ramet_adapter_free(b);
    ramet_adapter_free(wide);
    ramet_model_free(m);
}

/* Eight sequences of one run with an adapter each, of other places and ranks, and one without: what sessions that know one adapter say. */
static void test_session_adapters_side_by_side(void **state) {
    static const char *const targets[] = {"q_proj,v_proj", NULL, "down_proj", "q_proj", "k_proj,o_proj", "gate_proj,up_proj", "q_proj,v_proj"};
    enum { N = 8, ROUNDS = 4 };
    static float alone[N][ROUNDS][VOCAB];
    ramet_model *m = tiny();
    const float *logits;
    int32_t index, one[TEXT] = {0}, ids[N * TEXT], seq[N * TEXT];
    int64_t outs;
    ramet_session *s = session_of(m, RAMET_MODE_EXACT, 64);
    for (int q = 0; q < N; q++) {
        ramet_session *t = session_of(m, RAMET_MODE_EXACT, 64);
        if (q < N - 1) {
            ramet_adapter *a = learned_of(m, targets[q], 1 + q, q);
            OK(ramet_session_attach(&index, s, a, 1));
            OK(ramet_session_use(s, q, index));
            OK(ramet_session_attach(&index, t, a, 1));
            OK(ramet_session_use(t, 0, index));
            ramet_adapter_free(a);
        }
        for (int r = 0; r < ROUNDS; r++) { /* a prompt of its own length, then token by token */
            const int n = r ? 1 : TEXT - q;
            OK(ramet_session_run(&logits, &outs, t, text + (r ? r + q : 0), one, NULL, n, NULL, NULL));
            memcpy(alone[q][r], logits, sizeof alone[q][r]);
        }
        ramet_session_free(t);
    }
    for (int r = 0; r < ROUNDS; r++) {
        int rows = 0;
        for (int q = N - 1; q >= 0; q--)
            for (int i = 0; i < (r ? 1 : TEXT - q); i++, rows++) ids[rows] = text[i + (r ? r + q : 0)], seq[rows] = q;
        OK(ramet_session_run(&logits, &outs, s, ids, seq, NULL, rows, NULL, NULL));
        assert_int_equal(outs, N);
        for (int q = 0; q < N; q++) assert_memory_equal(logits + (N - 1 - q) * VOCAB, alone[q][r], sizeof alone[q][r]);
    }
    ramet_session_free(s);
    ramet_model_free(m);
}

typedef struct taps { int n; char names[32][32]; int64_t rows[32], cols[32]; float hidden[64]; int cancel; } taps;

static int32_t on_tap(const char *name, const float *values, int64_t rows, int64_t columns, void *user) {
    taps *t = user;
    snprintf(t->names[t->n], 32, "%s", name);
    t->rows[t->n] = rows, t->cols[t->n++] = columns;
    if (!strcmp(name, "hidden")) memcpy(t->hidden, values, sizeof t->hidden);
    return t->cancel;
}

static void test_model_tap(void **state) {
    ramet_model *m = tiny();
    make_base(m);
    taps t = {0}, all = {0}, c = {.cancel = 1};
    OK(ramet_model_tap(m, text, TEXT, "blk.1.", RAMET_MODE_EXACT, on_tap, &t));
    assert_int_equal(t.n, 3);
    assert_string_equal(t.names[0], "blk.1.in");
    assert_string_equal(t.names[1], "blk.1.ffn_act");
    assert_string_equal(t.names[2], "blk.1.out");
    assert_int_equal(t.rows[1], TEXT);
    assert_int_equal(t.cols[1], FF);
    OK(ramet_model_tap(m, text, TEXT, "hidden", RAMET_MODE_EXACT, on_tap, &all));
    assert_int_equal(all.n, 1);
    /* hidden times the tied head is the session's logits */
    double x[D], want[VOCAB];
    for (int i = 0; i < D; i++) x[i] = all.hidden[i];
    product(want, weight(m, "token_embd.weight", 0), x, VOCAB, D);
    assert_true(distance(base + (TEXT - 1) * VOCAB, want) < 1e-5);
    REFUSED(RAMET_E_CANCELLED, "", ramet_model_tap(m, text, TEXT, "blk.0", RAMET_MODE_EXACT, on_tap, &c));
    assert_int_equal(c.n, 1);
    ramet_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_session_exact_against_reference),
        cmocka_unit_test(test_session_modes_are_near),
        cmocka_unit_test(test_session_bits_do_not_depend_on_the_cut),
        cmocka_unit_test(test_session_bits_do_not_depend_on_threads),
        cmocka_unit_test(test_session_sequences_together),
        cmocka_unit_test(test_session_fork),
        cmocka_unit_test(test_session_cancel_and_reenter),
        cmocka_unit_test(test_session_refuses),
        cmocka_unit_test(test_session_adapters),
        cmocka_unit_test(test_session_adapters_side_by_side),
        cmocka_unit_test(test_model_tap),
    };
    return cmocka_run_group_tests(tests, make_runtime, drop_runtime);
}
