/* SPDX-License-Identifier: Apache-2.0 */
/* step.c - a tuner's loop: micro-batches add gradients into the pool, an update ends the step; then averages and evaluation. What happens depends
 * on the checkpoint's numbers alone, so that a run may be cut between any two micro-batches. */
#include <math.h>
#include <string.h>
#include <time.h>
#include "train/train.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- stepping ---- */

typedef struct watch { const ramet_tuner *t; ramet_progress_fn fn; void *user; double base, share; } watch;

/* The plan's fraction of a micro-batch as a fraction of the whole work. */
static int32_t watch_plan(double fraction, const char *what, void *user) {
    const watch *w = user;
    (void)what;
    return w->fn(w->base + (fraction > 0 ? fraction * w->share : 0.0), "tuning", w->user);
}

static int64_t share(const ramet_tuner *t) { return t->o.batch / t->o.workers; } /* windows of this worker */

int64_t ramet__tuner_micros(const ramet_tuner *t) { return (share(t) + t->o.micro_batch - 1) / t->o.micro_batch; }

/* The batch's predictions, on which every micro-batch's weights depend. */
static int64_t batch_predictions(const ramet_tuner *t) {
    int64_t count = 0, from, to;
    for (int64_t i = 0; i < t->o.batch; i++) {
        const ramet_dataset *d = ramet__windows_at(&from, &to, &t->windows, t->o.seed, t->step * t->o.batch + i);
        count += ramet__rows_count(d, from, to);
    }
    return count;
}

/* Forget the present step's gradients: it begins again. */
static void restart_step(ramet_tuner *t) {
    ramet__params_clear(&t->params);
    t->micro = t->step_tokens = t->ahead = t->example_over = 0;
    t->loss_sum = t->example_sum = 0.0;
}

int64_t ramet__tuner_averaged(const ramet_tuner *t) {
    const int64_t start = RAMET__MIN(t->o.steps - 1, (int64_t)ceil((double)t->o.average_start * (double)t->o.steps - 1e-6));
    return t->o.average ? RAMET__MAX(0, t->step - start) : 0;
}

/* EMA, or the mean of all (SWA: Izmailov et al. 2018, arXiv:1803.05407); the first one is a copy, as in torch.optim.swa_utils. */
static ramet_status average(const ramet_tuner *t) {
    const int64_t n = ramet__tuner_averaged(t) - 1;
    if (n < 0) return RAMET_OK;
    return ramet__params_average(&t->params, t->rt, n == 0 ? 0.0f : strcmp(t->o.average, "ema") ? (float)((double)n / (double)(n + 1)) : t->o.average_decay);
}

/* Skipped: without a change of the weights. */
static ramet_status end_step(ramet_tuner *t, int32_t skipped) {
    restart_step(t);
    t->skipped += skipped;
    t->step++;
    return average(t);
}

static ramet_status not_finite(ramet_tuner *t, const char *what) {
    if (t->o.on_nonfinite == RAMET_NONFINITE_SKIP) return end_step(t, 1);
    restart_step(t);
    return ramet__fail(RAMET_E_NUMERIC,
                       "ramet_tuner_step: the %s of step %lld %s not finite; no weight was changed. Lower the learning rate or check the data, or skip such steps (on_nonfinite)",
                       what, (long long)t->step + 1, what[0] == 'l' ? "is" : "are");
}

static float median(const float *x, int64_t n) { /* of few: insertion */
    float s[RAMET__HISTORY];
    for (int64_t i = 0; i < n; i++) {
        int64_t at = i;
        for (; at > 0 && s[at - 1] > x[i]; at--) s[at] = s[at - 1];
        s[at] = x[i];
    }
    return s[n / 2];
}

/* Spikes enter the history too: when the data has changed for good, the median follows. */
static int32_t is_spike(ramet_tuner *t, double loss, double norm) {
    const float now[2] = {(float)loss, (float)norm};
    int32_t spike = 0;
    if (t->o.spike_factor == 0.0f) return 0;
    for (int32_t i = 0; i < 2; i++) {
        spike |= t->n_history >= 5 && now[i] > t->o.spike_factor * median(t->history[i], RAMET__MIN(t->n_history, RAMET__HISTORY));
        t->history[i][t->n_history % RAMET__HISTORY] = now[i];
    }
    t->n_history++;
    return spike;
}

static ramet_status micro_batch(ramet_tuner *t, watch *w) {
    ramet__run run = {0};
    double preferred = 0.0;
    const int64_t own = t->o.worker * share(t), first = own + t->micro * t->o.micro_batch;
    const int64_t last = RAMET__MIN(first + t->o.micro_batch, own + share(t));
    int64_t from, to;
    ramet_progress_fn fn = w->fn ? watch_plan : NULL;
    w->share = 1.0 / ((double)t->o.steps * (double)ramet__tuner_micros(t));
    w->base = w->share * ((double)t->step * (double)ramet__tuner_micros(t) + (double)t->micro);
    RAMET__TRY(ramet__progress(w->fn, w->user, w->base, "tuning"));
    RAMET__TRY(ramet__tuner_inverses(t));
    RAMET__TRY(ramet__windows_hold(&t->windows, t->o.seed, t->step * t->o.batch, t->o.batch));
    ramet__rows_clear(&t->rows);
    for (int64_t i = first; i < last; i++) {
        const ramet_dataset *d = ramet__windows_at(&from, &to, &t->windows, t->o.seed, t->step * t->o.batch + i);
        const int64_t at = t->rows.outs * t->o.teacher_top, row = t->rows.rows, out = t->rows.outs;
        ramet__rows_add(&t->rows, d, from, to);
        for (int64_t r = row; r < t->rows.rows; r++) t->rows.window[r] = (int32_t)(i - first);
        for (int64_t r = out; r < t->rows.outs; r++) t->rows.window_out[r] = (int32_t)(i - first);
        if (t->teacher) RAMET__TRY(ramet__teacher_run(t->teacher, t->teacher_ids + at, t->teacher_p + at, d, from, to, fn, w));
        if (t->labels.give) RAMET__TRY(t->labels.give(t->teacher_ids + at, t->teacher_p + at, d, from, to, t->labels.user));
    }
    const float weight = (float)(1.0 / (double)RAMET__MAX(batch_predictions(t), 1)); /* a source's batch may have none: its gradients are zero */
    for (int64_t i = 0; i < t->rows.outs; i++) t->rows.weight[i] = weight;
    if (t->preference) RAMET__TRY(ramet__preference_weights(&preferred, t->preference, t, fn, w));
    ramet__rows_bind(&t->rows, &run, 1);
    if (t->teacher_ids) {
        run.input[run.n_inputs].name = "teacher_ids";
        run.input[run.n_inputs++].data = t->teacher_ids;
        run.input[run.n_inputs].name = "teacher_p";
        run.input[run.n_inputs++].data = t->teacher_p;
    }
    if (t->o.example_clip > 0.0f) {
        run.input[run.n_inputs].name = "window";
        run.input[run.n_inputs++].data = t->rows.window;
        run.input[run.n_inputs].name = "window_out";
        run.input[run.n_inputs++].data = t->rows.window_out;
    }
    run.adapters = t->adapter;
    run.n_adapters = t->o.full ? 0 : 1;
    run.progress = fn;
    run.progress_user = w;
    const ramet_status st = ramet__plan_run(t->plan, &run);
    if (st && t->o.full) restart_step(t); /* some gradients were added already */
    if (st) return st;
    const float *loss = ramet__plan_output(t->plan, "loss", NULL, NULL);
    if (!loss) return ramet__fail(RAMET_E_INTERNAL, "tuner: the plan lacks its loss");
    if (!isfinite(*loss) && !t->o.all_reduce) return not_finite(t, "loss"); /* workers decide together, after their sums */
    if (t->o.example_clip > 0.0f) {
        const float *square = ramet__plan_output(t->plan, "example_square", NULL, NULL);
        for (int64_t i = 0; square && i < last - first; i++) {
            const double norm = sqrt((double)square[i]) * (double)t->o.batch;
            t->example_sum += norm;
            t->example_over += norm > (double)t->o.example_clip;
            if (t->o.example_norms) t->o.example_norms[first - own + i] = (float)norm;
        }
    }
    t->loss_sum += t->preference ? preferred : *loss;
    t->step_tokens += t->rows.outs;
    t->micro++;
    return RAMET_OK;
}

/* The sums of all workers, with the loss as two floats behind the gradients; what is not finite reaches all of them. */
static ramet_status reduce(ramet_tuner *t) {
    float *tail = t->params.grad + t->params.total;
    tail[0] = (float)t->loss_sum;
    tail[1] = (float)(t->loss_sum - (double)tail[0]);
    const int32_t failed = t->o.all_reduce(t->params.grad, t->params.total + 2, t->o.all_reduce_user);
    t->loss_sum = (double)tail[0] + (double)tail[1];
    t->step_tokens = batch_predictions(t);
    if (!failed) return RAMET_OK;
    restart_step(t);
    return ramet__fail(RAMET_E_IO, "ramet_tuner_step: all_reduce answered %d in step %lld; no weight was changed", failed, (long long)t->step + 1);
}

static ramet_status update(ramet_tuner *t) {
    double norm = 0.0;
    if (t->o.all_reduce) RAMET__TRY(reduce(t));
    if (!isfinite(t->loss_sum)) return not_finite(t, "loss");
    RAMET__TRY(ramet__params_norm(&norm, &t->params, t->rt, t->step + 1));
    if (!isfinite(norm)) return not_finite(t, "gradients");
    const double rate = ramet__schedule(t->o.schedule, t->o.learning_rate, t->o.warmup, t->step, t->o.steps);
    const ramet__optimizer_step u = {.kernels = t->rt->kernels,
                                     .step = t->step + 1,
                                     .rate = (float)rate,
                                     .beta1 = t->o.beta1,
                                     .beta2 = t->o.beta2,
                                     .epsilon = t->o.epsilon,
                                     .scale = t->o.clip > 0.0f && norm > (double)t->o.clip ? (float)((double)t->o.clip / norm) : 1.0f};
    const int32_t spike = is_spike(t, t->loss_sum, norm);
    if (!spike) RAMET__TRY(ramet__params_update(&t->params, t->rt, &u, t->o.weight_decay));
    t->norm = norm;
    t->rate = rate;
    t->loss = t->loss_sum;
    t->tokens += t->step_tokens;
    t->accuracy = (double)t->ahead / (double)share(t);
    t->example_norm = t->example_sum / (double)share(t);
    t->example_clipped = (double)t->example_over / (double)share(t);
    return end_step(t, spike);
}

/* ---- evaluation ---- */

static int32_t watch_evaluation(double fraction, const char *what, void *user) { /* no part of the fraction of the steps */
    const watch *w = user;
    (void)fraction;
    return w->fn((double)w->t->step / (double)w->t->o.steps, what, w->user);
}

static int32_t evaluation_is_due(const ramet_tuner *t) {
    if (!t->evaluation || !t->step || t->evaluated == t->step) return 0;
    return t->step == t->o.steps || (t->o.evaluate_every && t->step % t->o.evaluate_every == 0);
}

/* One that was cancelled is made again by the next call. */
static ramet_status evaluate(ramet_tuner *t, watch *w) {
    ramet_status st = RAMET_OK;
    ramet_adapter *adapter = NULL;
    ramet_model *model = NULL;
    ramet_evaluate_options o;
    ramet_evaluation e = {.struct_size = sizeof e};
    const ramet__section *now_given = ramet__tuner_now(t);
    ramet_evaluate_options_init(&o, sizeof o);
    o.window = t->o.window;
    o.mode = t->o.mode;
    o.score = RAMET_SCORE_ALL;
    o.progress = w->fn ? watch_evaluation : NULL;
    o.progress_user = w;
    if (t->o.full) RAMET__GO(ramet__tuner_model(&model, t, RAMET__ENC_F32, now_given));
    else RAMET__GO(ramet__tuner_adapter(&adapter, t, now_given));
    o.adapter = adapter;
    RAMET__GO(ramet_evaluate(&e, model ? model : t->model, t->evaluation, &o));
    t->evaluated = t->step;
    t->evaluation_loss = e.loss;
    t->worse++;
    if (!t->evaluations++ || e.loss < t->best_loss) {
        t->best_loss = e.loss;
        t->best_step = t->step;
        t->worse = 0;
        memcpy(t->params.section[RAMET__BEST].data, now_given->data, (size_t)t->params.total * sizeof(float));
    }
out:
    ramet_adapter_free(adapter);
    ramet_model_free(model);
    return st;
}

int32_t ramet__tuner_done(const ramet_tuner *t) {
    return (t->step >= t->o.steps && !evaluation_is_due(t)) || (t->o.patience && t->worse >= t->o.patience);
}

static void fill_report(ramet_tuner_report *out, const ramet_tuner *t) {
    const ramet_tuner_report r = {.done = ramet__tuner_done(t),
                                  .step = t->step,
                                  .steps = t->o.steps,
                                  .loss = t->loss,
                                  .gradient_norm = t->norm,
                                  .learning_rate = t->rate,
                                  .tokens = t->tokens + t->step_tokens,
                                  .seconds = t->seconds,
                                  .skipped = t->skipped,
                                  .evaluations = t->evaluations,
                                  .evaluation_loss = t->evaluation_loss,
                                  .best_loss = t->best_loss,
                                  .best_step = t->best_step,
                                  .accuracy = t->preference ? t->accuracy : 0.0,
                                  .example_norm = t->example_norm,
                                  .example_clipped = t->example_clipped,
                                  .bytes = ramet__tuner_bytes(t),
                                  .plan_bytes = ramet__plan_bytes(t->plan),
                                  .recomputed = ramet__plan_recomputed(t->plan)};
    ramet__options_init(out, out->struct_size, &r, sizeof r);
}

ramet_status ramet_tuner_step(ramet_tuner_report *report, ramet_tuner *t, int64_t max_steps, double deadline, ramet_progress_fn progress,
                              void *user) {
    ramet_status st = RAMET_OK;
    if (!t) return ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_step: tuner is NULL");
    RAMET__TRY(ramet__runtime_check(t->rt));
    if (max_steps < 0 || !(deadline >= 0)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_step: max_steps or deadline is negative");
    if (report && report->struct_size < sizeof report->struct_size)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_step: set report->struct_size");
    if (t->busy) return ramet__fail(RAMET_E_STATE, "ramet_tuner_step: called from inside its own callback");
    if (t->broken) return ramet__fail(RAMET_E_STATE, "ramet_tuner_step: an earlier resume was cut short; resume again");
    const double begin = now();
    const int64_t goal = max_steps < t->o.steps - t->step ? t->step + max_steps : t->o.steps;
    watch w = {t, progress, user, 0, 0};
    int32_t first = 1; /* a short deadline still makes progress */
    t->busy = 1;
    if (max_steps && evaluation_is_due(t)) st = evaluate(t, &w);
    while (!st && t->step < goal && !ramet__tuner_done(t) && (first || deadline == 0.0 || now() - begin < deadline)) {
        const int64_t step = t->step;
        if (t->micro < ramet__tuner_micros(t)) st = micro_batch(t, &w);
        if (!st && t->step == step && t->micro == ramet__tuner_micros(t)) st = update(t);
        if (!st && evaluation_is_due(t)) st = evaluate(t, &w);
        first = 0;
    }
    t->busy = 0;
    t->seconds += now() - begin;
    if (!st && report) fill_report(report, t);
    return st;
}
