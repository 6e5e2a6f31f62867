/* SPDX-License-Identifier: Apache-2.0 */
/* Steps, slices, checkpoints, results of a tuner. */
#include "support.h"

static int setup(void **state) { return (*state = tiny(2)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

static ramet_tuner_options small(int32_t full) { /* two micro-batches a step, of 2 and of 1 window */
    ramet_tuner_options o;
    ramet_tuner_options_init(&o, sizeof o);
    o.full = full;
    o.rank = 4;
    o.alpha = 8.0f;
    o.window = 24;
    o.batch = 3;
    o.micro_batch = 2;
    o.steps = 3;
    o.learning_rate = full ? 2e-3f : 1e-2f;
    o.mode = RAMET_MODE_BALANCED;
    o.weight_decay = 0.01f;
    return o;
}

static ramet_tuner *made(ramet_model *m, const ramet_tuner_options *o) {
    ramet_tuner *t = NULL;
    ramet_dataset *d = prose_data(m);
    ok(ramet_tuner_create(&t, m, d, o));
    ramet_dataset_free(d); /* the tuner keeps it */
    return t;
}

static ramet_tuner_report stepped(ramet_tuner *t, int64_t n, double deadline) {
    ramet_tuner_report r = {.struct_size = sizeof r};
    ok(ramet_tuner_step(&r, t, n, deadline, NULL, NULL));
    return r;
}

typedef struct blob { char *data; size_t n; } blob;
static blob state_of(ramet_tuner *t) {
    const char *path = scratch(".ckpt");
    blob b;
    ok(ramet_tuner_save(t, path));
    b.data = whole_file(path, &b.n);
    unlink(path);
    return b;
}
static void same_state(const blob *a, const blob *b) {
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->data, b->data, a->n);
}

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

/* Bad steps are counted and change nothing; those after them go on. */
static void test_bad_steps_are_skipped(void **state) {
    ramet_tuner_options o = small(0);
    o.on_nonfinite = RAMET_NONFINITE_SKIP;
    o.spike_factor = 20;
    o.steps = 12;
    ramet_tuner *t = made(*state, &o);
    const size_t bytes = (size_t)t->params.total * sizeof(float);
    float *before = malloc(bytes);
    assert_non_null(before);
    stepped(t, 7, 0);
    memcpy(before, t->params.value, bytes);
    stepped(t, 1, 1e-9);
    t->params.grad[3] = INFINITY; /* step 8: gradients */
    ramet_tuner_report r = stepped(t, 1, 0);
    assert_true(r.step == 8 && r.skipped == 1 && isfinite(r.loss));
    assert_memory_equal(before, t->params.value, bytes);
    t->params.value[0] = NAN; /* step 9: the first micro-batch's loss */
    r = stepped(t, 1, 0);
    t->params.value[0] = before[0];
    assert_true(r.step == 9 && r.skipped == 2 && isfinite(r.loss));
    stepped(t, 1, 1e-9);
    t->params.grad[t->params.param[1].offset] = 100; /* step 10: a spike */
    r = stepped(t, 1, 0);
    assert_true(r.step == 10 && r.skipped == 3 && r.gradient_norm > 99);
    assert_memory_equal(before, t->params.value, bytes);
    const blob b = state_of(t); /* the history too is in the checkpoint */
    char path[80];
    snprintf(path, sizeof path, "%s", scratch(".skip"));
    write_file(path, b.data, b.n);
    ramet_tuner *u = made(*state, &o);
    ok(ramet_tuner_resume(u, path));
    unlink(path);
    assert_true(u->n_history == 8 && u->skipped == 3);
    assert_memory_equal(u->history, t->history, sizeof t->history);
    stepped(u, 1, 1e-9);
    u->params.grad[t->params.param[1].offset] = 100; /* one spike in the history does not move its median */
    r = stepped(u, 1, 0);
    assert_true(r.skipped == 4);
    r = stepped(u, 1, 0);
    assert_true(r.done && r.step == 12 && r.skipped == 4);
    assert_true(memcmp(before, u->params.value, bytes) != 0);
    free(b.data);
    free(before);
    ramet_tuner_free(t);
    ramet_tuner_free(u);
}

static double loss_on(ramet_model *m, ramet_dataset *d, ramet_adapter *a) {
    ramet_evaluate_options o;
    ramet_evaluation e = {.struct_size = sizeof e};
    ramet_evaluate_options_init(&o, sizeof o);
    o.window = 24;
    o.score = RAMET_SCORE_ALL;
    o.mode = RAMET_MODE_EXACT;
    o.adapter = a;
    ok(ramet_evaluate(&e, m, d, &o));
    return e.loss;
}

/* Tuned on texts that say the contrary of the held-out ones, it soon gets worse: it ends by patience and gives the best state. */
static void test_evaluation_keeps_the_best(void **state) {
    ramet_model *m = *state;
    for (int32_t full = 0; full < 2; full++) {
        ramet_tuner_options o = small(full);
        ramet_dataset *held_out = NULL;
        ramet_tuner_report r = {0};
        ok(ramet_dataset_create(&held_out, m));
        ok(ramet_dataset_add_text(held_out, "QXZ 0123 {}[] qxz 9876 ~~ QXZ 0123 {}[] qxz 9876 ~~", 51));
        o.mode = RAMET_MODE_EXACT;
        o.steps = 200;
        o.evaluation = held_out;
        o.evaluate_every = 2;
        o.patience = 3;
        ramet_tuner *t = made(m, &o);
        int64_t best = 0;
        double low = INFINITY;
        do {
            r = stepped(t, 1, 0);
            if (r.step % 2 == 0 && r.evaluation_loss < low) {
                low = r.evaluation_loss;
                best = r.step;
            }
        } while (!r.done);
        assert_true(r.step < 200 && r.step == r.best_step + 6 && r.best_step == best && r.best_loss == low && r.evaluations == r.step / 2);
        assert_true(r.evaluation_loss > low);
        assert_int_equal(stepped(t, 5, 0).step, r.step); /* it has ended */
        ramet_adapter *a = NULL;
        ramet_model *tuned = NULL;
        if (full) ok(ramet_tuner_model(&tuned, t, NULL));
        else ok(ramet_tuner_adapter(&a, t));
        assert_true(fabs(loss_on(tuned ? tuned : m, held_out, a) - low) < 1e-9);
        ramet_adapter_free(a);
        ramet_model_free(tuned);
        ramet_tuner_free(t);
        ramet_dataset_free(held_out);
    }
}

static int32_t cancel_evaluation(double fraction, const char *what, void *user) {
    (void)fraction;
    (void)user;
    return !strcmp(what, "evaluating");
}

static void test_cancelled_evaluation_is_made_again(void **state) {
    ramet_tuner_options o = small(0);
    ramet_dataset *held_out = prose_data(*state);
    o.steps = 1;
    o.evaluation = held_out;
    ramet_tuner *t = made(*state, &o);
    assert_int_equal(ramet_tuner_step(NULL, t, 1, 0, cancel_evaluation, NULL), RAMET_E_CANCELLED);
    ramet_tuner_report r = stepped(t, 0, 0);
    assert_true(r.step == 1 && !r.done && r.evaluations == 0);
    r = stepped(t, 1, 0);
    assert_true(r.step == 1 && r.done && r.evaluations == 1 && r.best_step == 1 && r.best_loss > 0);
    ramet_tuner_free(t);
    ramet_dataset_free(held_out);
}

/* The state after one step of plain descent, all of it proportional to the rates. */
static float *after_one(ramet_model *m, ramet_tuner_options o, int64_t steps, ramet_tuner **kept) {
    o.mode = RAMET_MODE_EXACT;
    o.optimizer = "sgd";
    o.learning_rate = 0.5f;
    o.weight_decay = o.warmup = o.clip = 0;
    o.schedule = RAMET_SCHEDULE_CONSTANT;
    ramet_tuner *t = made(m, &o);
    float *v = malloc((size_t)t->params.total * sizeof *v);
    assert_non_null(v);
    stepped(t, steps, 0);
    memcpy(v, t->params.value, (size_t)t->params.total * sizeof *v);
    if (kept) *kept = t;
    else ramet_tuner_free(t);
    return v;
}

static void test_groups_scale_and_freeze(void **state) {
    ramet_tuner_options o = small(0);
    ramet_tuner *t = NULL;
    ramet_adapter *start = NULL;
    t = made(*state, &o);
    stepped(t, 3, 0); /* B is not zero any more: all gradients are there */
    ok(ramet_tuner_adapter(&start, t));
    ramet_tuner_free(t);
    o.initial = start;
    float *plain = after_one(*state, o, 1, &t), *from = malloc((size_t)t->params.total * sizeof *from);
    assert_non_null(from);
    o.groups = " blk.0.attn_?.*=0; *.ffn_*=.25;*.lora_b=1@1;blk.1.*=2";
    o.lora_plus = 4.0f;
    ramet_tuner *fresh = made(*state, &o);
    memcpy(from, fresh->params.value, (size_t)fresh->params.total * sizeof *from);
    ramet_tuner_free(fresh);
    float *one = after_one(*state, o, 1, NULL), *two = after_one(*state, o, 2, NULL);
    int32_t seen[4] = {0};
    for (int64_t i = 0; i < t->params.n; i++) {
        const ramet__param *p = &t->params.param[i];
        const int32_t b = strstr(p->name, ".lora_b") != NULL;
        const int32_t frozen = strstr(p->name, "blk.0.attn_") && !strstr(p->name, "output"), ffn = strstr(p->name, ".ffn_") != NULL, late = !frozen && !ffn && b;
        const double factor = frozen || late ? 0 : (ffn ? .25 : strstr(p->name, "blk.1.") ? 2 : 1) * (b ? 4 : 1);
        double moved = 0;
        for (int64_t j = p->offset; j < p->offset + p->count; j++) {
            const double want = factor * ((double)plain[j] - from[j]);
            assert_true(fabs(one[j] - from[j] - want) <= 1e-6 + 1e-4 * fabs(want));
            moved += fabs((double)two[j] - one[j]);
        }
        assert_true(frozen ? moved == 0 : moved > 0);
        seen[frozen ? 0 : ffn ? 1 : late ? 2 : 3]++;
    }
    assert_true(seen[0] && seen[1] && seen[2] && seen[3]);
    ramet_tuner_free(t);
    ramet_adapter_free(start);
    free(plain);
    free(from);
    free(one);
    free(two);
}

/* Both averages from the weights after each step, by their formulas. */
static void test_average_is_given(void **state) {
    for (int32_t i = 0; i < 4; i++) {
        ramet_tuner_options o = small(i % 2);
        o.steps = 8;
        o.average = i / 2 ? "swa" : "ema";
        o.average_decay = 0.75f;
        if (i / 2) o.average_start = 0.5f;
        ramet_tuner *t = made(*state, &o);
        double *want = calloc((size_t)t->params.total, sizeof *want);
        assert_non_null(want);
        for (int32_t step = 1, n = 0; step <= 8; step++) {
            stepped(t, 1, 0);
            if (i / 2 && step <= 4) {
                assert_ptr_equal(ramet__tuner_given(t)->data, t->params.value);
                continue;
            }
            const double keep = n == 0 ? 0 : i / 2 ? (double)n / (n + 1) : 0.75;
            for (int64_t j = 0; j < t->params.total; j++) want[j] = keep * want[j] + (1 - keep) * (double)t->params.value[j];
            n++;
        }
        const ramet__param *p = &t->params.param[1];
        const float *got = NULL;
        ramet_adapter *a = NULL;
        ramet_model *m = NULL;
        if (i % 2) ok(ramet_tuner_model(&m, t, NULL));
        else ok(ramet_tuner_adapter(&a, t));
        float *decoded = malloc((size_t)p->count * sizeof *decoded);
        assert_non_null(decoded);
        if (m) ramet__weight_decode(decoded, ramet__model_weight(m, p->name), 0, ramet__shape_rows(&p->shape));
        got = m ? decoded : a->lora[0].b;
        double apart = 0;
        for (int64_t j = 0; j < p->count; j++) {
            assert_true(fabs(got[j] - want[p->offset + j]) < 1e-6);
            apart += fabs(want[p->offset + j] - (double)p->value.data[j]);
        }
        assert_true(apart > 1e-4 * (double)p->count / 10);
        free(decoded);
        free(want);
        ramet_adapter_free(a);
        ramet_model_free(m);
        ramet_tuner_free(t);
    }
}

/* rsLoRA: its scale, and a PEFT folder that says so, with B as it is. */
static void test_rslora_is_saved_as_peft_has_it(void **state) {
    ramet_tuner_options o = small(0);
    ramet_adapter *a = NULL, *b = NULL;
    size_t n;
    char file[160];
    o.rslora = 1;
    o.rank = 3;
    ramet_tuner *t = made(*state, &o);
    stepped(t, 2, 0);
    ok(ramet_tuner_adapter(&a, t));
    ramet_tuner_free(t);
    assert_true(a->lora[0].scale == (float)(8 / sqrt(3)));
    const char *folder = scratch(".rs");
    ok(ramet_adapter_save(a, folder));
    ok(ramet_adapter_load(&b, *state, folder));
    snprintf(file, sizeof file, "%s/adapter_config.json", folder);
    char *text = whole_file(file, &n);
    text[n] = 0;
    assert_non_null(strstr(text, "\"use_rslora\": true"));
    free(text);
    unlink(file);
    snprintf(file, sizeof file, "%s/adapter_model.safetensors", folder);
    unlink(file);
    rmdir(folder);
    assert_int_equal(a->n, b->n);
    for (int64_t i = 0; i < a->n; i++) {
        const ramet__lora *x = &a->lora[i], *y = ramet__adapter_find(b, x->name);
        assert_true(y && x->scale == y->scale);
        assert_memory_equal(x->b, y->b, (size_t)(x->n * x->rank) * sizeof(float));
    }
    ramet_adapter_free(a);
    ramet_adapter_free(b);
}

/* Moments of 8 bits: 2 bytes a parameter and the scales, and nearly the same losses. */
static void test_adamw8_tunes_as_adamw(void **state) {
    double loss[2], worst = 0;
    uint64_t bytes[2];
    ramet_tuner *t[2];
    for (int32_t i = 0; i < 2; i++) {
        ramet_tuner_options o = small(0);
        o.steps = 100;
        o.learning_rate = 2e-3f;
        o.optimizer = i ? "adamw8" : "adamw";
        t[i] = made(*state, &o);
        bytes[i] = ramet__params_bytes(&t[i]->params);
    }
    assert_int_equal(bytes[0], 16 * t[0]->params.total);
    assert_int_equal(bytes[1], 10 * t[1]->params.total + 8 * (t[1]->params.total / RAMET__STATE_BLOCK));
    for (int32_t step = 0; step < 100; step++) {
        for (int32_t i = 0; i < 2; i++) loss[i] = stepped(t[i], 1, 0).loss;
        worst = RAMET__MAX(worst, fabs(loss[1] / loss[0] - 1));
    }
    print_message("adamw8: the farthest loss of 100 steps is %.3f%% from adamw's\n", 100 * worst);
    assert_true(worst < 5e-3);
    for (int32_t i = 0; i < 2; i++) ramet_tuner_free(t[i]);
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

static double loss_of(ramet_model *m, ramet_adapter *a) {
    ramet_dataset *d = prose_data(m);
    ramet_evaluate_options o;
    ramet_evaluation e = {.struct_size = sizeof e};
    ramet_evaluate_options_init(&o, sizeof o);
    o.window = 24;
    o.score = RAMET_SCORE_ALL;
    o.mode = RAMET_MODE_EXACT;
    o.adapter = a;
    ok(ramet_evaluate(&e, m, d, &o));
    ramet_dataset_free(d);
    return e.loss;
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
    assert_true(loss_of(m, a) < loss_of(m, NULL) - 0.2);
    /* beginning from it: the same adapter before any step, also when its pairs differ in rank */
    o.targets = NULL;
    o.initial = a;
    a->lora[1].rank = 3; /* drop a direction: row 3 of A, column 3 of B */
    for (int64_t r = 0; r < a->lora[1].n; r++) memmove(a->lora[1].b + r * 3, a->lora[1].b + r * 4, 3 * sizeof(float));
    const double before = loss_of(m, a);
    t = made(m, &o);
    ok(ramet_tuner_adapter(&b, t));
    assert_int_equal(b->n, 4);
    assert_int_equal(b->lora[1].rank, 4);
    assert_memory_equal(a->lora[0].a, b->lora[0].a, 4 * (size_t)a->lora[0].k * sizeof(float));
    assert_true(fabs(loss_of(m, b) - before) < 1e-6);
    ramet_adapter_free(b);
    stepped(t, 5, 0);
    ok(ramet_tuner_adapter(&b, t));
    assert_true(loss_of(m, b) < before);
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
    const double before = loss_of(m, NULL), after = loss_of(tuned, NULL);
    assert_true(after < before - 0.3);
    assert_true(fabs(loss_of(small_one, NULL) - after) < 0.05);
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

static void test_refuses_bad_options(void **state) {
    ramet_model *m = *state;
    ramet_dataset *d = prose_data(m), *empty = NULL;
    ramet_tuner *t = NULL;
    ok(ramet_dataset_create(&empty, m));
    const ramet_tuner_options o = small(0);
    fails(ramet_tuner_create(&t, m, empty, &o), RAMET_E_ARGUMENT, "nothing to predict");
#define REFUSED(change, part)                                                                                                              \
    do {                                                                                                                                   \
        ramet_tuner_options p = small(0);                                                                                                  \
        change;                                                                                                                            \
        fails(ramet_tuner_create(&t, m, d, &p), RAMET_E_ARGUMENT, part);                                                                   \
        assert_null(t);                                                                                                                    \
    } while (0)
    REFUSED(p.rank = 0, "rank 0");
    REFUSED(p.alpha = NAN, "alpha");
    REFUSED(p.window = 257, "window 257");
    REFUSED(p.window = 1, "window 1");
    REFUSED(p.batch = 0, "batch 0");
    REFUSED(p.micro_batch = 0, "micro_batch 0");
    REFUSED(p.learning_rate = -1, "learning_rate");
    REFUSED(p.learning_rate = INFINITY, "learning_rate");
    REFUSED(p.beta2 = 1, "beta2");
    REFUSED(p.steps = -1, "steps");
    REFUSED((p.steps = 0, p.epochs = 0), "epochs");
    REFUSED(p.mode = 9, "mode 9");
    REFUSED(p.schedule = 4, "schedule 4 is none of RAMET_SCHEDULE_*; there are, from 0: cosine, constant, linear, wsd");
    REFUSED(p.warmup = 1.5f, "warmup");
    REFUSED(p.clip = NAN, "clip");
    REFUSED(p.optimizer = "lion", "no optimizer \"lion\"; there are adamw, adamw8, sgd, nesterov");
    REFUSED(p.on_nonfinite = 2, "on_nonfinite 2");
    REFUSED(p.spike_factor = 0.5f, "spike_factor");
    REFUSED(p.evaluate_every = 1, "need an evaluation dataset");
    REFUSED((p.evaluation = d, p.patience = 2), "patience needs evaluate_every");
    REFUSED((p.evaluation = d, p.evaluate_every = -1), "evaluate_every is negative");
    REFUSED(p.evaluation = empty, "evaluation dataset (0 tokens) has nothing to predict");
    REFUSED(p.groups = "blk.7.*=0", "\"blk.7.*\" matches nothing that is trained; a name is for example blk.0.");
    REFUSED(p.groups = "blk.*=0;", "freeze everything");
    REFUSED(p.groups = "blk.*", "is not PATTERN=FACTOR");
    REFUSED(p.groups = "blk.*=-1", "is not PATTERN=FACTOR");
    REFUSED(p.groups = "blk.*=1@", "is not PATTERN=FACTOR");
    REFUSED(p.groups = "blk.*=1@3x;", "\"blk.*=1@3x\" is not PATTERN=FACTOR");
    REFUSED(p.average = "mean", "average \"mean\"");
    REFUSED(p.average_decay = 1.5f, "average_decay");
    REFUSED(p.average_start = NAN, "average_start");
    REFUSED(p.lora_plus = 0, "lora_plus");
    REFUSED(p.rslora = 2, "rslora is 2");
    REFUSED((p.full = 1, p.rslora = 1), "no adapter");
    REFUSED(p.targets = "nobody", "nobody");
    REFUSED((p.teacher = m, p.teacher_top = 0), "teacher_top 0");
    REFUSED((p.teacher = m, p.teacher_weight = 2), "teacher_weight");
    REFUSED((p.teacher = m, p.teacher_divergence = 2), "teacher_divergence 2");
    REFUSED((p.teacher = m, p.teacher_skew = 1), "teacher_skew");
    REFUSED((p.full = 1, p.targets = "q_proj"), "targets");
    ramet_tuner_options e = small(0);
    e.steps = 0;
    e.epochs = 2;
    ok(ramet_tuner_create(&t, m, d, &e));
    assert_int_equal(t->o.steps, (2 * t->windows.n + 2) / 3);
    fails(ramet_tuner_step(NULL, t, -1, 0, NULL, NULL), RAMET_E_ARGUMENT, "max_steps");
    fails(ramet_tuner_step(NULL, t, 1, NAN, NULL, NULL), RAMET_E_ARGUMENT, "deadline");
    fails(ramet_dataset_add_text(d, "a", 1), RAMET_E_STATE, "in use");
    ramet_tuner_free(t);
    ramet_tuner_free(NULL);
    ramet_dataset_free(d);
    ramet_dataset_free(empty);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_falls),
        cmocka_unit_test(test_gradients_are_those_of_the_loss),
        cmocka_unit_test(test_micro_batches_add_up),
        cmocka_unit_test(test_resume_is_identical_lora),
        cmocka_unit_test(test_resume_is_identical_full),
        cmocka_unit_test(test_resume_is_identical_for_every_option),
        cmocka_unit_test(test_adamw8_tunes_as_adamw),
        cmocka_unit_test(test_bad_steps_are_skipped),
        cmocka_unit_test(test_evaluation_keeps_the_best),
        cmocka_unit_test(test_cancelled_evaluation_is_made_again),
        cmocka_unit_test(test_groups_scale_and_freeze),
        cmocka_unit_test(test_average_is_given),
        cmocka_unit_test(test_rslora_is_saved_as_peft_has_it),
        cmocka_unit_test(test_cancel_keeps_the_state),
        cmocka_unit_test(test_nan_is_refused),
        cmocka_unit_test(test_checkpoints_are_checked),
        cmocka_unit_test(test_result_is_an_adapter),
        cmocka_unit_test(test_result_is_a_model),
        cmocka_unit_test(test_refuses_bad_options),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
