/* SPDX-License-Identifier: Apache-2.0 */
/* test_run.c - what a run promises: the same bits for any number of threads, rows that do not feel their neighbours in
 * exact mode, writes that come last and whole, taps, no allocation, and an answer to every wrong input. */
#include "graph/ops/linear.h"
#include "train_run.h"
#include <time.h>

static int32_t steps_of(const ramet__plan *p, const char *op) {
    int32_t n = 0;
    for (int64_t i = 0; i < p->n_steps; i++) n += !strcmp(p->steps[i].op->name, op);
    return n;
}

static void test_bits_do_not_depend_on_threads(void **state) {
    (void)state;
    for (int32_t mode = 0; mode < 3; mode++) {
        float *first = NULL;
        for (int32_t threads = 1; threads <= 5; threads += 2) {
            ramet_runtime *rt = test_runtime(threads);
            llama m;
            tiny_adapter a;
            OK(llama_make(&m, rt));
            adapter_make(&a, 50, RANK);
            ramet__plan *p = train_plan(rt, &m, (ramet__mode)mode);
            const ramet__slot_entry *list[1] = {a.e};
            ramet__run r = train_run(list, 1);
            OK(ramet__plan_run(p, &r));
            int64_t n = 0;
            float *all = calloc(1 << 20, sizeof *all);
            for (int64_t i = 0; i < p->n_outputs; i++) {
                int64_t rows, cols;
                const float *y = ramet__plan_output(p, p->outputs[i].name, &rows, &cols);
                memcpy(all + n, y, (size_t)(rows * cols) * sizeof *y);
                n += rows * cols;
            }
            assert_true(n > 2 * SLOTS * RANK * D && isfinite(output(p, "loss")[0]));
            if (!first)
                first = all;
            else {
                assert_memory_equal(first, all, (size_t)n * sizeof *all);
                free(all);
            }
            ramet__plan_free(p);
            llama_free(&m);
            adapter_free(&a);
            ramet_runtime_free(rt);
        }
        free(first);
    }
}

/* Logits of every position of a sequence, fed in pieces of `step` rows, beside `other` rows of a second sequence. */
static void feed(float *logits, ramet__plan *p, int32_t step, int32_t other, const ramet__slot_entry *const *adapters,
                 const int32_t *adapter_of) {
    ramet__cache_layout layout = {L, KV, HD, BLOCK};
    void *blocks[2][4];
    for (int32_t s = 0; s < 2; s++)
        for (int32_t b = 0; b < 4; b++) blocks[s][b] = calloc(1, ramet__cache_block_bytes(&layout));
    ramet__seq_view views[2] = {{blocks[0], 4}, {blocks[1], 4}};
    for (int32_t at = 0, beside = 0; at < T; at += step) {
        int32_t tk[2 * T], ps[2 * T], sq[2 * T], os[2 * T], ra[2 * T], n = 0, mine = RAMET__MIN(step, T - at),
                                                                       extra = RAMET__MIN(other, T - beside);
        for (int32_t i = 0; i < extra; i++, n++, beside++) {
            tk[n] = tokens[(beside * 5 + 3) % T];
            ps[n] = beside;
            sq[n] = 1;
            ra[n] = 0;
        }
        for (int32_t i = 0; i < mine; i++, n++) {
            tk[n] = tokens[at + i];
            ps[n] = at + i;
            sq[n] = 0;
            os[i] = n;
            ra[n] = adapter_of ? adapter_of[0] : 0;
        }
        ramet__run r = {.rows = n,
                        .outs = mine,
                        .seqs = views,
                        .n_seqs = 2,
                        .adapters = adapters,
                        .n_adapters = adapters ? 2 : 0,
                        .row_adapter = adapters ? ra : NULL};
        give(&r, "tokens", tk);
        give(&r, "pos", ps);
        give(&r, "seq", sq);
        give(&r, "outs", os);
        OK(ramet__plan_run(p, &r));
        memcpy(logits + at * V, output(p, "logits"), (size_t)(mine * V) * sizeof *logits);
    }
    for (int32_t s = 0; s < 2; s++)
        for (int32_t b = 0; b < 4; b++) free(blocks[s][b]);
}
static ramet__plan *cache_plan(ramet_runtime *rt, const llama *m, int32_t slots) {
    ramet__graph *g;
    ramet__plan *p;
    ramet__plan_options o = {.mode = RAMET__MODE_EXACT, .max_context = 16};
    OK(ramet__graph_create(&g, rt, 2 * T, T, RANK));
    ramet__graph_output(g, "logits", llama_build(g, m, 1, slots));
    OK(ramet__plan_create(&p, g, &o));
    ramet__graph_free(g);
    return p;
}
static void test_exact_rows_do_not_feel_their_neighbours(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(2);
    llama m;
    tiny_adapter a[2];
    static float first[T * V], next[T * V];
    OK(llama_make(&m, rt));
    adapter_make(&a[0], 50, RANK);
    adapter_make(&a[1], 90, 2);
    const ramet__slot_entry *list[2] = {a[0].e, a[1].e};
    const int32_t one = 1;
    ramet__plan *p = cache_plan(rt, &m, 1);
    for (int32_t with = 0; with < 2; with++) {
        feed(first, p, T, 0, with ? list : NULL, &one);
        static const int32_t ways[][2] = {{1, 0}, {5, 0}, {1, 1}, {7, 3}, {12, 12}};
        for (int32_t i = 0; i < RAMET__COUNT(ways); i++) {
            feed(next, p, ways[i][0], ways[i][1], with ? list : NULL, &one);
            assert_memory_equal(first, next, sizeof first);
        }
    }
    ramet__plan_free(p);
    llama_free(&m);
    adapter_free(&a[0]);
    adapter_free(&a[1]);
    ramet_runtime_free(rt);
}

static void test_exact_rows_through_a_variable(void **state) {
    (void)state;
    enum { N = 70, K = 150, R = 33 };
    ramet_runtime *rt = test_runtime(1);
    ramet__var w = make_var("w", N, K, 1);
    float *x = random_floats(R * K, 1, 1), all[R * N];
    ramet__graph *g;
    ramet__plan *p;
    OK(ramet__graph_create(&g, rt, R, 0, 0));
    ramet__graph_output(g, "y",
                        ramet__op_linear(g, ramet__graph_input(g, "x", RAMET__TYPE_F32, RAMET__AXIS_ROWS, K),
                                         ramet__graph_var(g, &w), -1, NULL));
    OK(ramet__plan_create(&p, g, NULL));
    ramet__run r = {.rows = R};
    give(&r, "x", x);
    OK(ramet__plan_run(p, &r));
    memcpy(all, output(p, "y"), sizeof all);
    for (int32_t i = 0; i < R; i++)
        for (int32_t n = 1; n <= RAMET__MIN(3, R - i); n++) {
            r.rows = n;
            r.input[0].data = x + i * K;
            OK(ramet__plan_run(p, &r));
            assert_memory_equal(output(p, "y"), all + i * N, (size_t)(n * N) * sizeof *all);
        }
    ramet__plan_free(p);
    ramet__graph_free(g);
    free(x);
    free(w.data);
    ramet_runtime_free(rt);
}

static void test_cached_and_whole_runs_agree_and_fuse(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(2);
    llama m;
    static float logits[T * V];
    OK(llama_make(&m, rt));
    ramet__plan *p = cache_plan(rt, &m, 0);
    feed(logits, p, 3, 0, NULL, NULL);
    /* one layer: norm, q+k+v, rope, rope, attention, o+residual, norm, gate+up+swiglu, down+residual */
    assert_int_equal(p->n_steps, 1 + 9 * L + 3);
    assert_int_equal(steps_of(p, "add") + steps_of(p, "silu") + steps_of(p, "mul") + steps_of(p, "tap"), 0);
    assert_int_equal(steps_of(p, "linear_swiglu"), L);
    ramet__plan_free(p);
    ramet__graph *g;
    ramet__plan_options o = {.mode = RAMET__MODE_EXACT, .max_context = 16};
    OK(ramet__graph_create(&g, rt, T, T, 0));
    ramet__graph_output(g, "logits", llama_build(g, &m, 0, 0));
    OK(ramet__plan_create(&p, g, &o));
    ramet__graph_free(g);
    int32_t all[T], same[T] = {0};
    for (int32_t i = 0; i < T; i++) all[i] = i;
    ramet__run r = {.rows = T, .outs = T};
    give(&r, "tokens", tokens);
    give(&r, "pos", all);
    give(&r, "seq", same);
    give(&r, "outs", all);
    OK(ramet__plan_run(p, &r));
    double want[T * V];
    for (int32_t i = 0; i < T * V; i++) want[i] = logits[i];
    near(output(p, "logits"), want, T * V, 1e-5, "logits");
    ramet__plan_free(p);
    p = train_plan(rt, &m, RAMET__MODE_EXACT);
    assert_int_equal(steps_of(p, "head_loss"), 1);
    assert_int_equal(steps_of(p, "add") + steps_of(p, "mul") + steps_of(p, "silu"), 0);
    assert_int_equal(steps_of(p, "swiglu_grad"), L);
    assert_in_range(steps_of(p, "rms_norm"), 2 * L + 2, 4 * L + 1); /* some are computed again for the gradient */
    assert_in_range(steps_of(p, "swiglu"), L + 1, 2 * L);
    char *text = ramet__plan_text(p);
    assert_non_null(strstr(text, "head_loss"));
    ramet__free(text);
    ramet__plan_free(p);
    llama_free(&m);
    ramet_runtime_free(rt);
}

/* ---- adapters ---- */
/* A long step asks between batches of its pieces, and the cut changes no bit. */
static int32_t count_questions(double fraction, const char *what, void *user) {
    (void)what;
    assert_true(fraction >= 0 && fraction <= 1);
    struct timespec pause = {0, 11000000}; /* so that every chance to ask is taken */
    nanosleep(&pause, NULL);
    ++*(int32_t *)user;
    return 0;
}
/* swiglu of two products by itself gives the bits that it has when the products are kept too, whatever the rows, workers and arithmetic. */
static void test_gated_products_are_those_that_are_kept(void **state) {
    (void)state;
    enum { N = 288, K = 64, R = 300 };
    static const int64_t rows[] = {1, 7, 20, R};
    for (int32_t mode = RAMET__MODE_EXACT; mode <= RAMET__MODE_BALANCED; mode++)
        for (int32_t workers = 1; workers <= 3; workers += 2) {
            ramet_runtime *rt = test_runtime(workers);
            ramet__weight *w[3] = {make_weight(rt, "gate", RAMET__ENC_Q4_0, N, K, 0.5f), make_weight(rt, "up", RAMET__ENC_Q8_0, N, K, 0.5f), make_weight(rt, "down", RAMET__ENC_Q8_0, K, N, 0.5f)};
            float *x = random_floats((int64_t)R * K, 3, 1);
            ramet__plan *p[2];
            for (int32_t kept = 0; kept < 2; kept++) {
                ramet__graph *g;
                ramet__plan_options o = {.mode = (ramet__mode)mode};
                OK(ramet__graph_create(&g, rt, R, 0, 0));
                ramet__val in = ramet__graph_input(g, "x", RAMET__TYPE_F32, RAMET__AXIS_ROWS, K);
                ramet__val gate = ramet__op_linear(g, in, ramet__graph_weight(g, w[0]), -1, NULL), up = ramet__op_linear(g, in, ramet__graph_weight(g, w[1]), -1, NULL);
                ramet__val y = ramet__op_mul(g, ramet__op_silu(g, gate), up);
                ramet__graph_output(g, "y", ramet__op_linear(g, y, ramet__graph_weight(g, w[2]), -1, NULL));
                if (kept) ramet__graph_output(g, "gate", gate);
                OK(ramet__plan_create(&p[kept], g, &o));
                ramet__graph_free(g);
                assert_int_equal(steps_of(p[kept], "linear_swiglu"), !kept);
            }
            for (int32_t i = 0; i < RAMET__COUNT(rows); i++) {
                ramet__run r = {.rows = rows[i]};
                give(&r, "x", x);
                OK(ramet__plan_run(p[0], &r));
                OK(ramet__plan_run(p[1], &r));
                assert_memory_equal(output(p[0], "y"), output(p[1], "y"), (size_t)(rows[i] * K) * sizeof *x);
            }
            for (int32_t i = 0; i < 2; i++) ramet__plan_free(p[i]);
            for (int32_t i = 0; i < 3; i++) ramet__weight_free(w[i]);
            free(x);
            ramet_runtime_free(rt);
        }
}

/* Attention's results that are rounded for their reader have the bits of those that are kept, with heads so narrow that two share a vector. */
static void test_narrow_heads_beside_each_other(void **state) {
    (void)state;
    enum { COUNT = 4, WIDE = 8, C = COUNT * WIDE, N = 64, R = 300, SEQ = 30 };
    ramet_runtime *rt = test_runtime(4);
    ramet__weight *w = make_weight(rt, "w", RAMET__ENC_Q8_0, N, C, 0.5f);
    float *in[3] = {random_floats(R * C, 1, 1), random_floats(R * C, 2, 1), random_floats(R * C, 3, 1)};
    static const char *const names[] = {"q", "k", "v"};
    int32_t seq[R];
    for (int32_t i = 0; i < R; i++) seq[i] = i / SEQ;
    ramet__plan *p[2];
    for (int32_t kept = 0; kept < 2; kept++) {
        ramet__graph *g;
        ramet__plan_options o = {.mode = RAMET__MODE_BALANCED};
        ramet__val v[3];
        OK(ramet__graph_create(&g, rt, R, 0, 0));
        for (int32_t i = 0; i < 3; i++) v[i] = ramet__graph_input(g, names[i], RAMET__TYPE_F32, RAMET__AXIS_ROWS, C);
        ramet__val a = ramet__op_attention_whole(g, v[0], v[1], v[2], ramet__graph_input(g, "seq", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0), COUNT, COUNT, WIDE);
        ramet__graph_output(g, "y", ramet__op_linear(g, a, ramet__graph_weight(g, w), -1, NULL));
        if (kept) ramet__graph_output(g, "a", a);
        OK(ramet__plan_create(&p[kept], g, &o));
        ramet__graph_free(g);
    }
    for (int32_t again = 0; again < 40; again++) {
        ramet__run r = {.rows = R};
        for (int32_t i = 0; i < 3; i++) give(&r, names[i], in[i]);
        give(&r, "seq", seq);
        for (int32_t i = 0; i < 2; i++) OK(ramet__plan_run(p[i], &r));
        assert_memory_equal(output(p[0], "y"), output(p[1], "y"), R * N * sizeof(float));
    }
    for (int32_t i = 0; i < 2; i++) ramet__plan_free(p[i]);
    for (int32_t i = 0; i < 3; i++) free(in[i]);
    ramet__weight_free(w);
    ramet_runtime_free(rt);
}

static void test_progress_is_asked_within_a_long_step(void **state) {
    (void)state;
    enum { N = 64, K = 64, R = 64 * 40 };
    ramet_runtime *rt = test_runtime(1);
    ramet__weight *w = make_weight(rt, "head", RAMET__ENC_Q8_0, N, K, 0.5f);
    float *x = random_floats((int64_t)R * K, 1, 1), *ones = malloc(R * sizeof *ones), loss[2];
    int32_t *label = malloc(R * sizeof *label), questions = 0;
    for (int32_t i = 0; i < R; i++) {
        ones[i] = 1.0f / R;
        label[i] = i % N;
    }
    ramet__graph *g;
    ramet__plan *p;
    OK(ramet__graph_create(&g, rt, R, 0, 0));
    ramet__val xv = ramet__graph_input(g, "x", RAMET__TYPE_F32, RAMET__AXIS_ROWS, K);
    ramet__val l = ramet__graph_input(g, "labels", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
    ramet__val o = ramet__graph_input(g, "ones", RAMET__TYPE_F32, RAMET__AXIS_ROWS, 0);
    ramet__graph_output(
        g, "loss",
        ramet__op_cross_entropy(g, ramet__op_linear(g, xv, ramet__graph_weight(g, w), -1, NULL), l, o, NULL));
    OK(ramet__plan_create(&p, g, NULL));
    assert_int_equal(p->n_steps, 1);
    for (int32_t ask = 0; ask < 2; ask++) {
        ramet__run r = {.rows = R, .progress = ask ? count_questions : NULL, .progress_user = &questions};
        give(&r, "x", x);
        give(&r, "labels", label);
        give(&r, "ones", ones);
        OK(ramet__plan_run(p, &r));
        loss[ask] = output(p, "loss")[0];
    }
    assert_true(questions > 10);
    assert_true(loss[0] == loss[1] && loss[0] > 0);
    ramet__plan_free(p);
    ramet__graph_free(g);
    ramet__weight_free(w);
    free(x);
    free(ones);
    free(label);
    ramet_runtime_free(rt);
}

/* ---- variables ---- */
static int32_t cancel(double fraction, const char *what, void *user) {
    (void)fraction;
    (void)what;
    return *(int32_t *)user;
}
static int32_t stop_at(const char *name, const float *rows, int64_t n, int64_t cols, void *user) {
    (void)rows;
    (void)n;
    (void)cols;
    return !strcmp(name, user);
}

static void test_writes_commit_last(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(1);
    ramet__var a = make_var("a", 4, 0, 1), b = make_var("b", 4, 0, 1), sum = make_var("sum", 4, 0, 1);
    float a0[4], b0[4], s0[4];
    memcpy(a0, a.data, sizeof a0);
    memcpy(b0, b.data, sizeof b0);
    memcpy(s0, sum.data, sizeof s0);
    ramet__graph *g;
    ramet__plan *p;
    OK(ramet__graph_create(&g, rt, 1, 1, 0));
    ramet__val av = ramet__graph_var(g, &a), bv = ramet__graph_var(g, &b), product = ramet__op_mul(g, av, bv);
    ramet__op_write(g, &a, bv, 0); /* exchange */
    ramet__op_write(g, &b, av, 0);
    ramet__op_write(g, &sum, product, 1);
    ramet__val later = ramet__op_mul(g, ramet__graph_var(g, &sum), ramet__graph_var(g, &a)); /* new versions */
    ramet__graph_output(g, "later", ramet__op_tap(g, later, "later"));
    ramet__val grad, total = ramet__op_sum(g, later);
    ramet__graph *bad = g;
    ramet__plan_options o = {.tap_prefix = "la"};
    OK(ramet__plan_create(&p, g, &o));
    ramet__run r = {.tap = stop_at, .tap_user = (void *)(uintptr_t) "later"};
    FAILS(RAMET_E_CANCELLED, ramet__plan_run(p, &r), "later");
    assert_memory_equal(a.data, a0, sizeof a0);
    assert_memory_equal(sum.data, s0, sizeof s0);
    assert_null(ramet__plan_output(p, "later", NULL, NULL));
    r.tap = NULL;
    OK(ramet__plan_run(p, &r));
    assert_memory_equal(a.data, b0, sizeof a0);
    assert_memory_equal(b.data, a0, sizeof a0);
    for (int32_t i = 0; i < 4; i++) {
        assert_true(sum.data[i] == s0[i] + a0[i] * b0[i]);
        assert_true(output(p, "later")[i] == (s0[i] + a0[i] * b0[i]) * b0[i]);
    }
    FAILS(RAMET_E_UNSUPPORTED, ramet__graph_gradient(bad, total, &av, 1, &grad), "through the write of variable");
    ramet__plan_free(p);
    ramet__graph_free(g);
    free(a.data);
    free(b.data);
    free(sum.data);
    ramet_runtime_free(rt);
}

static void test_uses_of_one_value_add_up_and_gradients_can_be_stopped_or_reversed(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(1);
    ramet__var a = make_var("a", 4, 0, 1);
    ramet__graph *g;
    ramet__plan *p;
    OK(ramet__graph_create(&g, rt, 1, 1, 0));
    ramet__val v = ramet__graph_var(g, &a), grad, none,
               unused = ramet__graph_input(g, "unused", RAMET__TYPE_F32, RAMET__AXIS_STATIC, 4);
    ramet__val y = ramet__op_add(g, ramet__op_mul(g, v, ramet__op_stop_gradient(g, v)),
                                 ramet__op_scale(g, ramet__op_reverse_gradient(g, v, 0.5f), 3));
    ramet__val loss = ramet__op_sum(g, y);
    OK(ramet__graph_gradient(g, loss, &v, 1, &grad));
    OK(ramet__graph_gradient(g, loss, &unused, 1, &none));
    assert_int_equal(none, -1);
    ramet__graph_output(g, "y", y);
    ramet__graph_output(g, "grad", grad);
    OK(ramet__plan_create(&p, g, NULL));
    ramet__run r = {0};
    OK(ramet__plan_run(p, &r));
    for (int32_t i = 0; i < 4; i++) {
        assert_true(fabs(output(p, "y")[i] - (a.data[i] * a.data[i] + 3 * a.data[i])) < 1e-6);
        assert_true(fabs(output(p, "grad")[i] - (a.data[i] - 1.5)) < 1e-6);
    }
    ramet__plan_free(p);
    ramet__graph_free(g);
    free(a.data);
    ramet_runtime_free(rt);
}

/* ---- taps, progress, allocation ---- */
typedef struct seen {
    int32_t n;
    char names[4][16];
    double sum;
} seen;
static int32_t look(const char *name, const float *rows, int64_t n, int64_t cols, void *user) {
    seen *s = user;
    if (s->n < 4) snprintf(s->names[s->n], sizeof s->names[0], "%s", name);
    s->n++;
    for (int64_t i = 0; i < n * cols; i++) s->sum += rows[i];
    return 0;
}
static void test_taps_progress_and_no_allocation_while_running(void **state) {
    (void)state;
    ramet_runtime_options o;
    ramet_runtime *rt;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 2;
    o.alloc = counting;
    OK(ramet_runtime_create(&rt, &o));
    llama m;
    tiny_adapter a;
    OK(llama_make(&m, rt));
    adapter_make(&a, 50, RANK);
    const ramet__slot_entry *list[1] = {a.e};
    ramet__graph *g;
    ramet__plan *p, *tapped;
    OK(ramet__graph_create(&g, rt, T, T, RANK));
    llama_train(g, &m);
    ramet__plan_options po = {.mode = RAMET__MODE_BALANCED, .max_context = 16, .timing = 1},
                        pt = {.mode = RAMET__MODE_BALANCED, .max_context = 16, .tap_prefix = "blk."};
    OK(ramet__plan_create(&p, g, &po));
    OK(ramet__plan_create(&tapped, g, &pt));
    ramet__graph_free(g);
    ramet__run r = train_run(list, 1);
    int64_t before = alloc_calls;
    for (int32_t i = 0; i < 3; i++) OK(ramet__plan_run(p, &r));
    assert_int_equal(alloc_calls, before);
    seen s = {0};
    r.tap = look;
    r.tap_user = &s;
    float loss = output(p, "loss")[0];
    OK(ramet__plan_run(p, &r));
    assert_int_equal(s.n, 0); /* this plan was made without taps */
    OK(ramet__plan_run(tapped, &r));
    assert_int_equal(s.n, L);
    assert_string_equal(s.names[0], "blk.0.in");
    assert_string_equal(s.names[1], "blk.1.in");
    assert_true(s.sum != 0 && output(tapped, "loss")[0] == loss);
    int32_t stop = 0;
    r.progress = cancel;
    r.progress_user = &stop;
    OK(ramet__plan_run(p, &r));
    stop = 1;
    FAILS(RAMET_E_CANCELLED, ramet__plan_run(p, &r), "");
    ramet__plan_free(p);
    ramet__plan_free(tapped);
    llama_free(&m);
    adapter_free(&a);
    ramet_runtime_free(rt);
}

/* Sums that begin with the variable: of one product, of a look-up and a product of the same table, and one that no chain makes and is added at the end. */
static void test_sums_may_be_added_directly(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(2);
    float *want[3];
    uint64_t bytes = 0;
    for (int32_t direct = 0; direct <= 1; direct++) {
        ramet__var v[3] = {make_var("table", V, D, 0.5f), make_var("w", D, D, 0.2f), make_var("norm", D, 0, 1)};
        ramet__var sum[3] = {make_var("s0", V, D, 1), make_var("s1", D, D, 1), make_var("s2", D, 0, 1)};
        ramet__val wrt[3], grad[3];
        ramet__graph *g;
        ramet__plan *p;
        const ramet__plan_options o = {.max_context = 16, .direct_sums = direct};
        OK(ramet__graph_create(&g, rt, T, T, 0));
        for (int32_t i = 0; i < 3; i++) wrt[i] = ramet__graph_var(g, &v[i]);
        ramet__val x = ramet__op_embed(g, wrt[0], ramet__graph_input(g, "tokens", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0));
        x = ramet__op_rms_norm(g, ramet__op_linear(g, x, wrt[1], -1, NULL), wrt[2], 1e-5f);
        x = ramet__op_gather(g, x, ramet__graph_input(g, "outs", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0));
        const ramet__val loss = ramet__op_cross_entropy(g, ramet__op_linear(g, x, wrt[0], -1, NULL), ramet__graph_input(g, "labels", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0),
                                                        ramet__graph_input(g, "weight", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 0), NULL);
        OK(ramet__graph_gradient(g, loss, wrt, 3, grad));
        for (int32_t i = 0; i < 3; i++) ramet__op_write(g, &sum[i], grad[i], 1);
        ramet__graph_output(g, "loss", loss);
        OK(ramet__plan_create(&p, g, &o));
        assert_int_equal(p->n_writes, direct ? 1 : 3);
        assert_true(!direct || ramet__plan_bytes(p) < bytes);
        bytes = ramet__plan_bytes(p);
        ramet__run r = {.rows = T, .outs = 10};
        give(&r, "tokens", tokens);
        give(&r, "outs", outs);
        give(&r, "labels", labels);
        give(&r, "weight", weight);
        for (int32_t i = 0; i < 2; i++) OK(ramet__plan_run(p, &r));
        for (int32_t i = 0; i < 3; i++) {
            for (int64_t j = 0; direct && j < ramet__shape_count(&sum[i].shape); j++) assert_true(fabsf(sum[i].data[j] - want[i][j]) <= 1e-5f);
            if (direct) free(want[i]);
            else want[i] = sum[i].data;
            if (direct) free(sum[i].data);
            free(v[i].data);
        }
        ramet__plan_free(p);
        ramet__graph_free(g);
    }
    ramet_runtime_free(rt);
}

/* ---- wrong inputs ---- */
static void test_every_wrong_input_is_answered(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(1);
    llama m;
    OK(llama_make(&m, rt));
    ramet__graph *g;
    ramet__plan *p;
    ramet__plan_options o = {.max_context = 16};
    OK(ramet__graph_create(&g, rt, T, 2, 0));
    ramet__graph_output(g, "logits", llama_build(g, &m, 1, 0));
    o.byte_budget = 1000;
    FAILS(RAMET_E_BUDGET, ramet__plan_create(&p, g, &o), "bytes");
    o.byte_budget = 0;
    o.max_context = 0;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_create(&p, g, &o), "max_context");
    o.max_context = 16;
    OK(ramet__plan_create(&p, g, &o));
    o.byte_budget = ramet__plan_bytes(p);
    ramet__plan_free(p);
    OK(ramet__plan_create(&p, g, &o)); /* what it says is enough */
    ramet__cache_layout layout = {L, KV, HD, BLOCK};
    void *blocks[4];
    for (int32_t b = 0; b < 4; b++) blocks[b] = calloc(1, ramet__cache_block_bytes(&layout));
    ramet__seq_view views[2] = {{blocks, 4}, {blocks, 1}};
    int32_t tk[3] = {1, 2, 3}, ps[3] = {0, 1, 2}, sq[3] = {0, 0, 0}, os[2] = {2, 0};
    ramet__run r = {.rows = 3, .outs = 2, .seqs = views, .n_seqs = 2};
    give(&r, "tokens", tk);
    give(&r, "pos", ps);
    give(&r, "seq", sq);
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "'outs' is missing");
    give(&r, "outs", os);
    give(&r, "typo", os);
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "no input 'typo'");
    r.n_inputs--;
    OK(ramet__plan_run(p, &r));
    tk[1] = V;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "'tokens'[1] is 96");
    tk[1] = 2;
    os[0] = 3;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "'outs'[0] is 3");
    os[0] = -1;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "'outs'[0] is -1");
    os[0] = 2;
    ps[2] = 16;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "'pos'[2] is 16");
    ps[2] = 3;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "expected 2");
    ps[2] = 2;
    sq[2] = 2;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "sequence 2");
    sq[2] = 0;
    sq[1] = 1;
    ps[1] = 0;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "together");
    sq[1] = 0;
    sq[0] = sq[1] = sq[2] = 1;
    ps[0] = 3;
    ps[1] = 4;
    ps[2] = 5;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "1 cache blocks");
    r.rows = T + 1;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "at most 12");
    r.rows = 3;
    r.outs = 3;
    FAILS(RAMET_E_ARGUMENT, ramet__plan_run(p, &r), "at most 2");
    r.outs = 0;
    ramet__run empty = {.n_inputs = 0};
    OK(ramet__plan_run(p, &empty));
    assert_null(ramet__plan_output(p, "nothing", NULL, NULL));
    ramet__plan_free(p);
    ramet__graph_free(g);
    for (int32_t b = 0; b < 4; b++) free(blocks[b]);

    OK(ramet__graph_create(&g, rt, T, 2, 0));
    ramet__val x = ramet__graph_input(g, "x", RAMET__TYPE_F32, RAMET__AXIS_ROWS, D + 1);
    assert_int_equal(ramet__op_linear(g, x, ramet__graph_weight(g, m.linear[0]), -1, NULL), -1);
    FAILS(RAMET_E_ARGUMENT, ramet__graph_status(g), "linear0 [64, 64]");
    assert_int_equal(ramet__op_silu(g, x), -1); /* the first failure sticks */
    FAILS(RAMET_E_ARGUMENT, ramet__plan_create(&p, g, &o), "linear0");
    ramet__graph_free(g);
    llama_free(&m);
    ramet_runtime_free(rt);
}

static void test_operations_without_derivative_say_so(void **state) {
    (void)state;
    ramet_runtime *rt = test_runtime(1);
    ramet__graph *g;
    OK(ramet__graph_create(&g, rt, 4, 4, 0));
    ramet__cache_layout layout = {1, 1, 8, 4};
    ramet__val x = ramet__graph_input(g, "x", RAMET__TYPE_F32, RAMET__AXIS_ROWS, 8),
               seq = ramet__graph_input(g, "seq", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0),
               pos = ramet__graph_input(g, "pos", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0), d;
    ramet__val loss = ramet__op_sum(g, ramet__op_cache_attention(g, x, x, x, seq, pos, &layout, 0, 1));
    FAILS(RAMET_E_UNSUPPORTED, ramet__graph_gradient(g, loss, &x, 1, &d), "cache_attention");
    ramet__graph_free(g);
    ramet_runtime_free(rt);
}

static void test_every_operation_is_listed(void **state) {
    (void)state;
    static const ramet__op *const ops[] = {
#define RAMET__OP(name, summary) &ramet__opdef_##name,
#include "graph/ops.def"
#undef RAMET__OP
    };
    const char *name, *detail;
    for (int32_t i = 0; i < RAMET__COUNT(ops); i++) {
        assert_true(ramet__op_list(i, &name, &detail));
        assert_string_equal(name, ops[i]->name);
        assert_true(strlen(detail) > 3);
        assert_true(ops[i]->rows || (ops[i]->pieces && ops[i]->run) || ops[i] == &ramet__opdef_scan_body);
    }
    assert_false(ramet__op_list(RAMET__COUNT(ops), &name, &detail));
}

/* The time of the worker that is done last, in even shares, when each next piece goes to who is free first. */
static double last_done(linear_piece of, int64_t rows, int64_t cols, int32_t workers) {
    double done[8] = {0};
    for (int64_t c = 0; c < cols; c += of.cols)
        for (int64_t r = 0; r < rows; r += of.rows) {
            int32_t free_one = 0;
            for (int32_t w = 1; w < workers; w++)
                if (done[w] < done[free_one]) free_one = w;
            done[free_one] += (double)(RAMET__MIN(of.rows, rows - r) * RAMET__MIN(of.cols, cols - c));
        }
    double last = 0;
    for (int32_t w = 0; w < workers; w++) last = fmax(last, done[w]);
    return last * workers / (double)(rows * cols);
}

/* Speed alone would tell, bits do not: products of real widths are cut so that no worker waits for a third of its time. */
static void test_pieces_keep_workers_busy(void **state) {
    (void)state;
    static const int64_t widths[] = {192, 384, 576, 1536, 2048, 5632, 49152}, counts[] = {1, 2, 8, 64, 100, 128, 256, 500, 512, 2048};
    static const char *const encodings[] = {"F32", "BF16", "Q4_0", "Q8_0", "Q6_K"};
    for (int32_t isa = RAMET_ISA_SIMD; isa <= RAMET_ISA_I8MM; isa++) {
        const ramet__kernels *k = ramet__kernels_get(isa, ramet__cpu_mask(UINT32_MAX, isa));
        for (int32_t i = 0; i < RAMET__COUNT(widths) * 3; i++)
            for (int32_t workers = 1; workers <= 8; workers++) {
                const ramet__product *outer = ramet__kernels_product(k, "F32", RAMET__BRAIN);
                const int64_t n = widths[i / 3], cols = widths[i % 3];
                const linear_piece of = ramet__linear_dw_piece(outer->scheme->outer ? outer : NULL, n, cols, workers);
                const double last = last_done(of, n, cols, workers);
                if (last > (workers <= 2 ? 1.1 : n * cols < 150000 * workers ? 2.01 : 1.34))
                    fail_msg("level %d, %d x %d, %d workers: pieces of %d x %d end after %.2f", isa, (int)n, (int)cols, workers, (int)of.rows, (int)of.cols, last);
            }
        for (int32_t e = 0; e < RAMET__COUNT(encodings); e++)
            for (int32_t arithmetic = 0; arithmetic < 3; arithmetic++)
                for (int32_t way = RAMET__FORWARD; way <= RAMET__BACK; way++)
                    for (int32_t c = 0; c < RAMET__COUNT(counts) * RAMET__COUNT(widths); c++)
                        for (int32_t workers = 1; workers <= 8; workers++) {
                            const int64_t rows = counts[c / RAMET__COUNT(widths)], cols = widths[c % RAMET__COUNT(widths)];
                            linear_part part = {0};
                            ramet__linear_most(&part, ramet__kernels_product(k, encodings[e], arithmetic), way, rows);
                            const linear_piece of = ramet__linear_piece(&part, rows, cols, workers);
                            const double last = last_done(of, rows, cols, workers);
                            if (last > (cols < 64 * workers ? 1.67 : 1.34)) /* narrow ones have few pieces of 32 columns */
                                fail_msg("level %d, %s, arithmetic %d, way %d, %d rows, %d columns, %d workers: pieces of %d x %d end after %.2f", isa, encodings[e], arithmetic, way, (int)rows, (int)cols,
                                         workers, (int)of.rows, (int)of.cols, last);
                        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits_do_not_depend_on_threads),
        cmocka_unit_test(test_exact_rows_do_not_feel_their_neighbours),
        cmocka_unit_test(test_exact_rows_through_a_variable),
        cmocka_unit_test(test_cached_and_whole_runs_agree_and_fuse),
        cmocka_unit_test(test_gated_products_are_those_that_are_kept), cmocka_unit_test(test_narrow_heads_beside_each_other), cmocka_unit_test(test_progress_is_asked_within_a_long_step),
        cmocka_unit_test(test_writes_commit_last),
        cmocka_unit_test(test_uses_of_one_value_add_up_and_gradients_can_be_stopped_or_reversed),
        cmocka_unit_test(test_taps_progress_and_no_allocation_while_running),
        cmocka_unit_test(test_sums_may_be_added_directly),
        cmocka_unit_test(test_every_wrong_input_is_answered),
        cmocka_unit_test(test_operations_without_derivative_say_so),
        cmocka_unit_test(test_pieces_keep_workers_busy),
        cmocka_unit_test(test_every_operation_is_listed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
