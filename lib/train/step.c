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

static int64_t micro_count(const ramet_tuner *t) { return (t->o.batch + t->o.micro_batch - 1) / t->o.micro_batch; }

/* The batch's predictions, on which every micro-batch's weights depend. */
static int64_t batch_predictions(const ramet_tuner *t) {
    int64_t count = 0, from, to;
    for (int64_t i = 0; i < t->o.batch; i++) {
        ramet__windows_at(&from, &to, &t->windows, t->o.seed, t->step * t->o.batch + i);
        count += ramet__rows_count(t->data, from, to);
    }
    return count;
}

/* Forget the present step's gradients: it begins again. */
static void restart_step(ramet_tuner *t) {
    ramet__params_clear(&t->params);
    t->micro = t->step_tokens = 0;
    t->loss_sum = 0.0;
}

static ramet_status micro_batch(ramet_tuner *t, watch *w) {
    ramet__run run = {0};
    const int64_t first = t->micro * t->o.micro_batch, last = RAMET__MIN(first + t->o.micro_batch, t->o.batch);
    int64_t from, to;
    ramet_progress_fn fn = w->fn ? watch_plan : NULL;
    w->share = 1.0 / ((double)t->o.steps * (double)micro_count(t));
    w->base = w->share * ((double)t->step * (double)micro_count(t) + (double)t->micro);
    RAMET__TRY(ramet__progress(w->fn, w->user, w->base, "tuning"));
    ramet__rows_clear(&t->rows);
    for (int64_t i = first; i < last; i++) {
        ramet__windows_at(&from, &to, &t->windows, t->o.seed, t->step * t->o.batch + i);
        const int64_t at = t->rows.outs * t->o.teacher_top;
        ramet__rows_add(&t->rows, t->data, from, to);
        if (t->teacher) RAMET__TRY(ramet__teacher_run(t->teacher, t->teacher_ids + at, t->teacher_p + at, t->data, from, to, fn, w));
        if (t->labels.give) RAMET__TRY(t->labels.give(t->teacher_ids + at, t->teacher_p + at, t->data, from, to, t->labels.user));
    }
    const float weight = (float)(1.0 / (double)batch_predictions(t));
    for (int64_t i = 0; i < t->rows.outs; i++) t->rows.weight[i] = weight;
    ramet__rows_bind(&t->rows, &run, 1);
    if (t->teacher_ids) {
        run.input[run.n_inputs].name = "teacher_ids";
        run.input[run.n_inputs++].data = t->teacher_ids;
        run.input[run.n_inputs].name = "teacher_p";
        run.input[run.n_inputs++].data = t->teacher_p;
    }
    run.adapters = t->adapter;
    run.n_adapters = t->o.full ? 0 : 1;
    run.progress = fn;
    run.progress_user = w;
    RAMET__TRY(ramet__plan_run(t->plan, &run));
    const float *loss = ramet__plan_output(t->plan, "loss", NULL, NULL);
    if (!loss) return ramet__fail(RAMET_E_INTERNAL, "tuner: the plan lacks its loss");
    if (!isfinite(*loss)) {
        restart_step(t);
        return ramet__fail(
            RAMET_E_NUMERIC,
            "ramet_tuner_step: the loss of step %lld is not finite; no weight was changed. Lower the learning rate or check the data",
            (long long)t->step + 1);
    }
    t->loss_sum += *loss;
    t->step_tokens += t->rows.outs;
    t->micro++;
    return RAMET_OK;
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

static ramet_status update(ramet_tuner *t) {
    double norm = 0.0;
    RAMET__TRY(ramet__params_norm(&norm, &t->params, t->rt, t->step + 1));
    if (!isfinite(norm)) {
        restart_step(t);
        return ramet__fail(
            RAMET_E_NUMERIC,
            "ramet_tuner_step: the gradients of step %lld are not finite; no weight was changed. Lower the learning rate or check the data",
            (long long)t->step + 1);
    }
    const double rate = ramet__schedule(t->o.schedule, t->o.learning_rate, t->o.warmup, t->step, t->o.steps);
    const ramet__optimizer_step u = {.kernels = t->rt->kernels,
                                     .step = t->step + 1,
                                     .rate = (float)rate,
                                     .beta1 = t->o.beta1,
                                     .beta2 = t->o.beta2,
                                     .epsilon = t->o.epsilon,
                                     .scale = t->o.clip > 0.0f && norm > (double)t->o.clip ? (float)((double)t->o.clip / norm) : 1.0f};
    RAMET__TRY(ramet__params_update(&t->params, t->rt, &u, t->o.weight_decay));
    t->norm = norm;
    t->rate = rate;
    t->loss = t->loss_sum;
    t->tokens += t->step_tokens;
    t->loss_sum = 0.0;
    t->micro = t->step_tokens = 0;
    t->step++;
    return average(t);
}

static void fill_report(ramet_tuner_report *out, const ramet_tuner *t) {
    const ramet_tuner_report r = {.done = t->step >= t->o.steps,
                                  .step = t->step,
                                  .steps = t->o.steps,
                                  .loss = t->loss,
                                  .gradient_norm = t->norm,
                                  .learning_rate = t->rate,
                                  .tokens = t->tokens + t->step_tokens,
                                  .seconds = t->seconds};
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
    while (!st && t->step < goal && (first || deadline == 0.0 || now() - begin < deadline)) {
        if (t->micro < micro_count(t)) st = micro_batch(t, &w);
        if (!st && t->micro == micro_count(t)) st = update(t);
        first = 0;
    }
    t->busy = 0;
    t->seconds += now() - begin;
    if (!st && report) fill_report(report, t);
    return st;
}
