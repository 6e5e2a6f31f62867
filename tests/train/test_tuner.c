/* SPDX-License-Identifier: Apache-2.0 */
/* Steps, slices, checkpoints, results of a tuner. */
#include "tuner_support.h"

static int setup(void **state) { return (*state = tiny(2)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

static void test_loss_falls(void **state) {
    for (int32_t full = 0; full < 2; full++) {
        ramet_tuner_options o = small(full);
        o.steps = 30;
        o.warmup = 0.1f;
        ramet_tuner *t = made(*state, &o);
        const ramet_tuner_report first = stepped(t, 1, 0);
        assert_true(first.step == 1 && first.steps == 30 && !first.done && first.gradient_norm > 0 && first.loss > 4);
        assert_true(fabs(first.learning_rate - (double)o.learning_rate / 3) < 1e-9);
        const ramet_tuner_report last = stepped(t, 1000, 0);
        assert_true(last.step == 30 && last.done && last.seconds > 0 && last.tokens > 30 * 3 * 10);
        if (!(last.loss < 0.75 * first.loss)) print_error("full %d: %g -> %g\n", full, first.loss, last.loss);
        assert_true(last.loss < 0.75 * first.loss);
        assert_int_equal(stepped(t, 1, 0).step, 30); /* nothing is left to do */
        ramet_tuner_free(t);
    }
}

/* The gradients in the pool are those of the loss: central differences of single parameters. */
static double probe(ramet_tuner *t) {
    ramet__params_clear(&t->params);
    t->micro = t->step_tokens = 0;
    t->loss_sum = 0;
    stepped(t, 1, 1e-9);
    assert_int_equal(t->micro, 1);
    return t->loss_sum;
}

static void test_gradients_are_those_of_the_loss(void **state) {
    for (int32_t full = 0; full < 2; full++) {
        ramet_tuner_options o = small(full);
        o.mode = RAMET_MODE_EXACT;
        ramet_tuner *t = made(*state, &o);
        for (int64_t i = 0; !full && i < t->params.total; i++) t->params.value[i] += 0.02f * (float)ramet__rng_normal(1, 2, (uint64_t)i);
        probe(t);
        float *grad = malloc((size_t)t->params.total * sizeof *grad);
        assert_non_null(grad);
        memcpy(grad, t->params.grad, (size_t)t->params.total * sizeof *grad);
        for (int64_t i = 0; i < t->params.n; i++) { /* along each parameter's own gradient, where the slope is steepest */
            const ramet__param *p = &t->params.param[i];
            float *v = p->value.data, *keep = malloc((size_t)p->count * sizeof *keep);
            double slope = 0;
            assert_non_null(keep);
            memcpy(keep, v, (size_t)p->count * sizeof *keep);
            for (int64_t j = 0; j < p->count; j++) slope += (double)grad[p->offset + j] * (double)grad[p->offset + j];
            assert_true(slope > 0);
            const double step = 0.02 / slope; /* changes the loss by about 0.02 each way, far above rounding */
            const double limit = 0.02 / sqrt(slope), scale = RAMET__MIN(step, limit);
            for (int64_t j = 0; j < p->count; j++) v[j] = keep[j] + (float)(scale * (double)grad[p->offset + j]);
            const double up = probe(t);
            for (int64_t j = 0; j < p->count; j++) v[j] = keep[j] - (float)(scale * (double)grad[p->offset + j]);
            const double down = probe(t), measured = (up - down) / (2 * scale);
            if (fabs(measured - slope) > 0.02 * slope + 2e-6 / scale) print_error("%s: %g, differences %g\n", p->name, slope, measured);
            assert_true(fabs(measured - slope) <= 0.02 * slope + 2e-6 / scale);
            memcpy(v, keep, (size_t)p->count * sizeof *keep);
            free(keep);
        }
        free(grad);
        ramet_tuner_free(t);
    }
}

static void test_micro_batches_add_up(void **state) {
    float *want = NULL;
    for (int32_t micro = 1; micro <= 3; micro++) {
        ramet_tuner_options o = small(0);
        o.mode = RAMET_MODE_EXACT;
        o.micro_batch = micro;
        o.optimizer = "sgd"; /* proportional to the gradient: rounding stays rounding */
        o.learning_rate = 0.5f;
        ramet_tuner *t = made(*state, &o);
        stepped(t, 3, 0);
        const size_t n = (size_t)t->params.total;
        if (!want) {
            want = malloc(n * sizeof *want);
            assert_non_null(want);
            memcpy(want, t->params.value, n * sizeof *want);
        }
        for (size_t i = 0; i < n; i++) assert_true(fabsf(want[i] - t->params.value[i]) < 2e-5f);
        ramet_tuner_free(t);
    }
    free(want);
}

/* One uninterrupted run is the reference; then every thread count, and a run that is cut after every micro-batch, saved, and continued by a new
 * tuner with another number of threads, must go through the same checkpoints byte for byte. */
static void resumes_identically(ramet_tuner_options o) {
    blob want[4];
    char path[80];
    snprintf(path, sizeof path, "%s", scratch(".slice"));
    for (int32_t threads = 1; threads <= 4; threads++) {
        ramet_model *m = tiny(threads);
        ramet_tuner *t = made(m, &o);
        for (int64_t step = 0; step <= 3; step++) {
            if (step) stepped(t, 1, 0);
            const blob b = state_of(t);
            if (threads == 1) want[step] = b;
            same_state(&want[step], &b);
            if (threads > 1) free(b.data);
        }
        ramet_tuner_free(t);
        ramet_model_free(m);
    }
    int64_t step = 0;
    for (int32_t slice = 0; step < 3; slice++) {
        ramet_model *m = tiny(1 + slice % 4);
        ramet_tuner *t = made(m, &o);
        if (slice) ok(ramet_tuner_resume(t, path));
        const ramet_tuner_report r = stepped(t, 100, 1e-9);
        assert_int_equal(t->micro, (slice + 1) % 2); /* a deadline stops after one micro-batch */
        if (r.step > step) {
            const blob b = state_of(t);
            same_state(&want[r.step], &b);
            free(b.data);
        }
        step = r.step;
        ok(ramet_tuner_save(t, path));
        ramet_tuner_free(t);
        ramet_model_free(m);
    }
    unlink(path);
    for (int32_t i = 0; i < 4; i++) free(want[i].data);
}
static void test_resume_is_identical_lora(void **state) {
    (void)state;
    ramet_tuner_options o = small(0);
    resumes_identically(o);
    o.mode = RAMET_MODE_EXACT;
    resumes_identically(o);
}
static void test_resume_is_identical_full(void **state) {
    (void)state;
    ramet_tuner_options o = small(1);
    resumes_identically(o);
    o.mode = RAMET_MODE_EXACT;
    resumes_identically(o);
}
static void test_resume_is_identical_for_every_option(void **state) {
    const char *name;
    ramet_tuner_options o = small(0);
    for (int32_t i = 0; ramet__optimizer_list(i, &o.optimizer, NULL); i++) resumes_identically(o);
    o = small(0);
    for (int32_t i = 0; ramet__schedule_list(i, &name, NULL); i++) {
        o.schedule = i;
        resumes_identically(o);
    }
    o = small(1);
    o.optimizer = "adamw8";
    resumes_identically(o);
    o = small(0);
    o.rslora = 1;
    o.lora_plus = 4.0f;
    o.groups = "blk.0.*=0;*.attn_*=.5;*.ffn_down.*=1@1";
    o.average = "ema";
    resumes_identically(o);
    o = small(1);
    o.average = "swa";
    o.average_start = 0.3f;
    o.groups = "token_embd*=0";
    resumes_identically(o);
    ramet_dataset *held_out = prose_data(*state);
    for (int32_t full = 0; full < 2; full++) {
        o = small(full);
        o.on_nonfinite = RAMET_NONFINITE_SKIP;
        o.spike_factor = 3;
        o.evaluation = held_out;
        o.evaluate_every = 2;
        o.patience = 9;
        if (!full) o.average = "ema";
        resumes_identically(o);
    }
    ramet_dataset_free(held_out);
}

typedef struct canceller { int calls, after; } canceller;
static int32_t cancel_late(double fraction, const char *what, void *user) {
    canceller *c = user;
    assert_non_null(what);
    assert_true(fraction >= 0 && fraction <= 1);
    return ++c->calls > c->after;
}

/* Cancelled at its first question, at its second, and so on through every micro-batch: the end is that of a run that nobody disturbed. */
static void test_cancel_keeps_the_state(void **state) {
    const ramet_tuner_options o = small(0);
    ramet_tuner *t = made(*state, &o);
    stepped(t, 3, 0);
    const blob want = state_of(t);
    ramet_tuner_free(t);
    t = made(*state, &o);
    canceller c = {0};
    int32_t cancelled = 0;
    while (t->step < 3) {
        ramet_tuner_report r = {.struct_size = sizeof r};
        const int64_t step = t->step, micro = t->micro;
        c.calls = 0;
        const ramet_status st = ramet_tuner_step(&r, t, 1, 0, cancel_late, &c);
        if (st == RAMET_E_CANCELLED) assert_int_equal(r.steps, 0); /* the report is untouched */
        else assert_int_equal(st, RAMET_OK);
        cancelled += st == RAMET_E_CANCELLED;
        c.after = t->step == step && t->micro == micro ? c.after + 1 : 0;
    }
    assert_true(cancelled >= 6); /* before each micro-batch at least; inside one when it takes long */
    const blob got = state_of(t);
    same_state(&want, &got);
    free(want.data);
    free(got.data);
    ramet_tuner_free(t);
}

static int32_t reenter(double fraction, const char *what, void *user) {
    (void)fraction;
    (void)what;
    ramet_tuner *t = user;
    return ramet_tuner_step(NULL, t, 1, 0, NULL, NULL) != RAMET_E_STATE || ramet_tuner_save(t, "never") != RAMET_E_STATE;
}

static void test_nan_is_refused(void **state) {
    const ramet_tuner_options o = small(0);
    ramet_tuner *t = made(*state, &o);
    stepped(t, 3, 0);
    const blob want = state_of(t);
    ramet_tuner_free(t);
    t = made(*state, &o);
    stepped(t, 1, 0);
    const size_t bytes = (size_t)t->params.total * sizeof(float);
    float *before = malloc(bytes);
    assert_non_null(before);
    memcpy(before, t->params.value, bytes);
    stepped(t, 1, 1e-9);
    t->params.grad[3] = INFINITY;                                    /* a gradient that overflowed */
    fails(ramet_tuner_step(NULL, t, 1, 0, NULL, NULL), RAMET_E_NUMERIC, "gradients of step 2");
    assert_memory_equal(before, t->params.value, bytes);
    const float keep = t->params.value[0];
    t->params.value[0] = NAN;                                        /* a loss that is none */
    fails(ramet_tuner_step(NULL, t, 1, 0, NULL, NULL), RAMET_E_NUMERIC, "loss of step 2");
    t->params.value[0] = keep;
    assert_memory_equal(before, t->params.value, bytes);
    stepped(t, 2, 0);                                                /* and the step is made again from its beginning */
    const blob got = state_of(t);
    same_state(&want, &got);
    free(before);
    free(want.data);
    free(got.data);
    ramet_tuner_free(t);
    t = made(*state, &o);
    ok(ramet_tuner_step(NULL, t, 1, 0, reenter, t));
    ramet_tuner_free(t);
}

static void test_checkpoints_are_checked(void **state) {
    ramet_tuner_options o = small(0);
    ramet_tuner *t = made(*state, &o);
    char path[80];
    snprintf(path, sizeof path, "%s", scratch(".bad"));
    stepped(t, 1, 0);
    stepped(t, 1, 1e-9);
    const blob good = state_of(t);
    write_file(path, good.data, good.n);
    const char *const other[] = {"learning_rate", "window", "batch", "seed", "rank", "parameters", "steps", "optimizer", "full"};
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        ramet_tuner_options p = o;
        const char *w = other[i];
        if (!strcmp(w, "learning_rate")) p.learning_rate = 0.5f;
        if (!strcmp(w, "window")) p.window = 25;
        if (!strcmp(w, "batch")) p.batch = 4;
        if (!strcmp(w, "seed")) p.seed = 1;
        if (!strcmp(w, "rank")) p.rank = 5;
        if (!strcmp(w, "parameters")) p.targets = "q_proj";
        if (!strcmp(w, "steps")) p.steps = 4;
        if (!strcmp(w, "optimizer")) p.optimizer = "sgd";
        if (!strcmp(w, "full")) p.full = 1;
        ramet_tuner *u = made(*state, &p);
        const blob before = state_of(u);
        fails(ramet_tuner_resume(u, path), RAMET_E_INCONSISTENT, !strcmp(w, "full") ? "parameters differs" : w);
        const blob after = state_of(u);
        same_state(&before, &after); /* a refused file changes nothing */
        free(before.data);
        free(after.data);
        ramet_tuner_free(u);
    }
    ramet_tuner *u = made(*state, &o);
    const blob before = state_of(u);
    int32_t damaged = 0;
    for (size_t at = 100; at < good.n; at += good.n / 23) { /* a changed byte anywhere is noticed */
        char *bad = malloc(good.n);
        assert_non_null(bad);
        memcpy(bad, good.data, good.n);
        bad[at] ^= 0x10;
        write_file(path, bad, good.n);
        const ramet_status st = ramet_tuner_resume(u, path);
        assert_true(st < 0);
        damaged += strstr(ramet_last_error(), "is damaged") != NULL;
        free(bad);
    }
    assert_true(damaged > 10);
    for (size_t cut = 0; cut < good.n; cut += 1 + good.n / 11) {
        write_file(path, good.data, cut);
        assert_true(ramet_tuner_resume(u, path) < 0);
    }
    const blob after = state_of(u);
    same_state(&before, &after);
    write_file(path, good.data, good.n);
    ok(ramet_tuner_resume(u, path));
    const blob back = state_of(u);
    same_state(&good, &back);
    free(before.data);
    free(after.data);
    free(back.data);
    ramet_tuner_free(u);
    unlink(path);
    fails(ramet_tuner_resume(t, path), RAMET_E_NOT_FOUND, path);
    const blob still = state_of(t);
    same_state(&good, &still);
    free(still.data);
    free(good.data);
    ramet_tuner_free(t);
}

static double prose_loss(ramet_model *m, ramet_adapter *a) {
    ramet_dataset *d = prose_data(m);
    const double loss = loss_on(m, d, a);
    ramet_dataset_free(d);
    return loss;
}

static void test_result_is_an_adapter(void **state) {
    ramet_model *m = *state, *none = NULL;
    ramet_tuner_options o = small(0);
    ramet_adapter *a = NULL, *b = NULL;
    o.steps = 20;
    o.targets = "q_proj,up_proj";
    ramet_tuner *t = made(m, &o);
    stepped(t, 20, 0);
    ok(ramet_tuner_adapter(&a, t));
    fails(ramet_tuner_model(&none, t, NULL), RAMET_E_STATE, "ramet_tuner_adapter");
    ramet_tuner_free(t);
    assert_string_equal(a->base_digest, ramet_model_digest(m));
    assert_int_equal(a->n, 4);
    assert_true(a->lora[0].rank == 4 && a->lora[0].scale == 2.0f);
    assert_true(prose_loss(m, a) < prose_loss(m, NULL) - 0.2);
    /* beginning from it: the same adapter before any step, also when its pairs differ in rank */
    o.targets = NULL;
    o.initial = a;
    a->lora[1].rank = 3; /* drop a direction: row 3 of A, column 3 of B */
    for (int64_t r = 0; r < a->lora[1].n; r++) memmove(a->lora[1].b + r * 3, a->lora[1].b + r * 4, 3 * sizeof(float));
    const double before = prose_loss(m, a);
    t = made(m, &o);
    ok(ramet_tuner_adapter(&b, t));
    assert_int_equal(b->n, 4);
    assert_int_equal(b->lora[1].rank, 4);
    assert_memory_equal(a->lora[0].a, b->lora[0].a, 4 * (size_t)a->lora[0].k * sizeof(float));
    assert_true(fabs(prose_loss(m, b) - before) < 1e-6);
    ramet_adapter_free(b);
    stepped(t, 5, 0);
    ok(ramet_tuner_adapter(&b, t));
    assert_true(prose_loss(m, b) < before);
    for (int64_t j = 0; j < b->lora[1].k; j++) assert_true(b->lora[1].a[3 * b->lora[1].k + j] == 0.0f); /* padding stays zero */
    ramet_tuner_free(t);
    ramet_adapter_free(a);
    ramet_adapter_free(b);
}

static void test_result_is_a_model(void **state) {
    ramet_model *m = *state, *same = NULL, *tuned = NULL, *small_one = NULL;
    ramet_tuner_options o = small(1);
    ramet_adapter *none = NULL;
    o.steps = 20;
    ramet_tuner *t = made(m, &o);
    ok(ramet_tuner_model(&same, t, NULL));
    assert_string_equal(ramet_model_digest(same), ramet_model_digest(m)); /* nothing was learned yet */
    stepped(t, 20, 0);
    ok(ramet_tuner_model(&tuned, t, NULL));
    ok(ramet_tuner_model(&small_one, t, "q8_0"));
    fails(ramet_tuner_model(&same, t, "q9"), RAMET_E_ARGUMENT, "q9");
    fails(ramet_tuner_adapter(&none, t), RAMET_E_STATE, "ramet_tuner_model");
    ramet_tuner_free(t);
    const double before = prose_loss(m, NULL), after = prose_loss(tuned, NULL);
    assert_true(after < before - 0.3);
    assert_true(fabs(prose_loss(small_one, NULL) - after) < 0.05);
    assert_int_equal(ramet__weight_enc(ramet__model_weight(small_one, "blk.0.ffn_up.weight")), RAMET__ENC_Q8_0);
    assert_int_equal(ramet__weight_enc(ramet__model_weight(small_one, "output_norm.weight")), RAMET__ENC_F32);
    assert_string_equal(tuned->lineage->parent_digest, ramet_model_digest(m));
    assert_non_null(strstr(tuned->lineage->steps, "\"step\":\"tune\""));
    /* tuned again: the same parent, one more step, a JSON list still */
    t = made(tuned, &o);
    ramet_model *again = NULL;
    ok(ramet_tuner_model(&again, t, NULL));
    ramet_tuner_free(t);
    assert_string_equal(again->lineage->parent_digest, ramet_model_digest(m));
    assert_non_null(strstr(again->lineage->steps, "},{\"step\":\"tune\""));
    assert_non_null(strstr(again->lineage->steps, ramet_model_digest(tuned)));
    ramet_model_free(same);
    ramet_model_free(again);
    ramet_model_free(tuned);
    ramet_model_free(small_one);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_falls),
        cmocka_unit_test(test_gradients_are_those_of_the_loss),
        cmocka_unit_test(test_micro_batches_add_up),
        cmocka_unit_test(test_resume_is_identical_lora),
        cmocka_unit_test(test_resume_is_identical_full),
        cmocka_unit_test(test_resume_is_identical_for_every_option),
        cmocka_unit_test(test_cancel_keeps_the_state),
        cmocka_unit_test(test_nan_is_refused),
        cmocka_unit_test(test_checkpoints_are_checked),
        cmocka_unit_test(test_result_is_an_adapter),
        cmocka_unit_test(test_result_is_a_model),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
