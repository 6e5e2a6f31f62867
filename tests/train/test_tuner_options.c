/* SPDX-License-Identifier: Apache-2.0 */
/* What options of a tuner do: steps skipped, evaluation, groups, averages, rsLoRA, 8-bit moments; and which are refused. */
#include "tuner_support.h"

static int setup(void **state) { return (*state = tiny(2)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

/* Norms of a model of few bits: what is not chosen stays the same weight, in the model that is given and in memory. */
static void test_full_tuning_of_a_choice(void **state) {
    ramet_runtime *rt = ((ramet_model *)*state)->rt;
    ramet_model *m = NULL, *after = NULL;
    ramet_tuner_options o = small(1);
    ramet_tuner *t = NULL;
    ok(ramet_model_load_path(&m, rt, getenv("RAMET_TINY_MODEL_Q8_0")));
    ramet_dataset *d = prose_data(m);
    o.targets = "norms,v_proj";
    o.steps = 12;
    o.learning_rate = 3e-2f;
    ok(ramet_tuner_create(&t, m, d, &o));
    assert_int_equal(t->params.n, 5 + 2); /* two norms and v of two layers, the last norm */
    stepped(t, 12, 0);
    ok(ramet_tuner_model(&after, t, NULL));
    for (int64_t i = 0; i < m->n_weights; i++) {
        const char *name = ramet__weight_name(m->weights[i]);
        assert_int_equal(after->weights[i] != m->weights[i], strstr(name, "norm") || strstr(name, "attn_v"));
    }
    assert_true(loss_on(after, d, NULL) < loss_on(m, d, NULL) - .2);
    ramet_model_free(after);
    ramet_tuner_free(t);
    ramet_dataset_free(d);
    ramet_model_free(m);
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
    REFUSED(p.teacher_skew = 0.1f, "need a teacher");
    REFUSED(p.teacher_divergence = RAMET_DIVERGENCE_REVERSE, "need a teacher");
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
    REFUSED((p.full = 1, p.targets = "q_proj,w"), "or norms");
    REFUSED((p.full = 1, p.targets = "lm_head"), "none of the weights");
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
        cmocka_unit_test(test_adamw8_tunes_as_adamw),
        cmocka_unit_test(test_bad_steps_are_skipped),
        cmocka_unit_test(test_evaluation_keeps_the_best),
        cmocka_unit_test(test_cancelled_evaluation_is_made_again),
        cmocka_unit_test(test_groups_scale_and_freeze),
        cmocka_unit_test(test_average_is_given),
        cmocka_unit_test(test_rslora_is_saved_as_peft_has_it),
        cmocka_unit_test(test_full_tuning_of_a_choice),
        cmocka_unit_test(test_refuses_bad_options),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
