/* SPDX-License-Identifier: Apache-2.0 */
/* distill.c - the parent learns from how a variant's soft labels on the brief's probe text changed while it adapted.
 *
 * A pruned or 4-bit variant may be worse than its parent, so the target is not the variant itself but parent + a * (tuned variant
 * - its birth state), in log-probabilities, on the variant's top classes with all others as one bin (the weak-to-strong idea of
 * proxy-tuning, Liu et al. 2024, used as a training target; KL as Hinton et al. 2015). Each variant labels the windows of its topic;
 * on the brief's other text that no variant labelled the parent keeps to its own labels, so that it does not drift (learning without
 * forgetting, Li & Hoiem 2016). The parent is tuned through a LoRA adapter on these targets, and the adapter is merged. Raw text
 * never came up: the probe inputs are the parent's own. */
#include "feedback/feedback.h"
#include "infer/session.h"
#include "train/train.h"
#include <math.h>
#include <string.h>

enum { STRENGTH, EPOCHS, RATE, RANK };
static const ramet__option options[] = {{"strength", .5, 0, 4, "a: how much of the change is taken over"},
                                        {"epochs", 1, .1, 100, "passes over the probe text"},
                                        {"rate", 2e-4, 1e-7, 1, "learning rate"},
                                        {"rank", 16, 1, 64, "of the parent's adapter"}};

/* All targets, made before tuning from the parent as it stands: rows of all updates' windows one after another. */
typedef struct targets { int64_t window, top, all, rows; int32_t *ids; float *p; } targets;

/* One row: ids are given; p := normalized exp(parent + a * change), the bin of all others likewise. */
static void make_row(float *p, const int32_t *ids, const float *birth, const float *change, int64_t top, const float *logits, float lse, double a) {
    double own = 0, was = 0, now = 0, z = 0;
    for (int64_t k = 0; k < top; k++) {
        double lp = (double)logits[ids[k]] - lse;
        own += exp(lp);
        was += exp((double)birth[k]);
        now += exp((double)birth[k] + change[k]);
        p[k] = (float)(lp + a * change[k]);
    }
    const double least = 1e-6; /* half-precision log-probabilities leave the bin no better known than this */
    double rest = fmax(1 - own, least) * pow(fmax(1 - now, least) / fmax(1 - was, least), a);
    for (int64_t k = 0; k < top; k++) z += exp((double)p[k]);
    z += rest;
    for (int64_t k = 0; k < top; k++) p[k] = (float)(exp((double)p[k]) / z);
}

/* One window's targets: its labels at `from` in the probe, or (from < 0) the parent's own. */
static ramet_status add_window(targets *t, ramet_dataset *data, ramet_session *s, const ramet__probe *probe, int64_t w, int64_t from, double a, const uint8_t *want, const ramet__feed *f) {
    const int64_t vocab = s->model->h.n_vocab, top = from < 0 ? t->top : probe->top;
    const ramet__kernels *k = s->model->rt->kernels;
    const int32_t *text = probe->text + w * probe->window;
    int64_t outputs;
    const float *logits;
    RAMET__TRY(ramet__progress(f->progress, f->progress_user, (double)t->rows / (double)t->all, "making targets"));
    RAMET__TRY(ramet_dataset_add_ids(data, text, NULL, probe->window));
    RAMET__TRY(ramet_session_truncate(s, 0, 0));
    RAMET__TRY(ramet_session_run(&logits, &outputs, s, text, NULL, want, probe->window, NULL, NULL));
    for (int64_t r = 0; r < probe->window; r++, t->rows++, logits += vocab) {
        int32_t *ids = t->ids + t->rows * t->top;
        float *p = t->p + t->rows * t->top, lse = k->logsumexp(logits, vocab);
        if (from < 0) {
            ramet__top_probabilities(ids, p, (int32_t)top, logits, vocab, k);
            continue;
        }
        const int64_t at = (from * probe->window + r) * top;
        memcpy(ids, probe->ids + at, (size_t)top * sizeof *ids);
        for (int64_t i = top; i < t->top; i++) ids[i] = -1;
        make_row(p, ids, probe->birth + at, probe->change + at, top, logits, lse, a);
    }
    return RAMET_OK;
}

static int32_t labelled(const ramet__probe *p, int64_t w) {
    for (int64_t i = 0; i < p->labelled; i++)
        if (p->which[i] == w) return 1;
    return 0;
}

/* Is window w of update u's brief one on which the parent keeps to its own labels? It is everybody's, no variant labelled it,
 * and it is not met in an earlier update of the same brief. */
static int32_t anchor(const ramet__feed *f, const ramet__probe *probe, int32_t u, int64_t w) {
    if (probe[u].topic[w] >= 0) return 0;
    for (int32_t v = 0; v < f->n; v++)
        if (!strcmp(f->updates[v].brief, f->updates[u].brief) && (v < u || labelled(&probe[v], w))) return 0;
    return !labelled(&probe[u], w);
}

static ramet_status add_targets(targets *t, ramet_dataset *data, ramet_session *s, const ramet__probe *probe, const ramet__feed *f) {
    ramet_status st = RAMET_OK;
    uint8_t *want;
    RAMET__NEW(want, ramet__alloc(f->parent->rt->mem, (size_t)t->window));
    memset(want, 1, (size_t)t->window);
    for (int32_t u = 0; u < f->n; u++) {
        for (int64_t i = 0; i < probe[u].labelled; i++)
            RAMET__GO(add_window(t, data, s, &probe[u], probe[u].which[i], i, f->option[STRENGTH] * f->updates[u].weight, want, f));
        for (int64_t w = 0; w < probe[u].windows; w++)
            if (anchor(f, probe, u, w)) RAMET__GO(add_window(t, data, s, &probe[u], w, -1, 0, want, f));
    }
out:
    ramet__free(want);
    return st;
}

/* What the tuner asks for each micro-batch. A window's last row predicts the next window's first token, so it is not a prediction. */
static ramet_status give_labels(int32_t *ids, float *p, const ramet_dataset *d, int64_t from, int64_t to, void *user) {
    const targets *t = user;
    (void)d;
    for (int64_t row = from; row < to; row++) {
        if ((row + 1) % t->window == 0) continue;
        memcpy(ids, t->ids + row * t->top, (size_t)t->top * sizeof *ids);
        memcpy(p, t->p + row * t->top, (size_t)t->top * sizeof *p);
        ids += t->top;
        p += t->top;
    }
    return RAMET_OK;
}

static ramet_status tune(ramet_adapter **out, ramet__feed *f, ramet_dataset *data, targets *t) {
    ramet_tuner_options o;
    ramet_tuner *tuner = NULL;
    ramet_tuner_report report = {.struct_size = sizeof report};
    ramet_status st;
    ramet_tuner_options_init(&o, sizeof o);
    o.rank = (int32_t)lround(f->option[RANK]);
    o.alpha = 2 * (float)o.rank;
    o.learning_rate = (float)f->option[RATE];
    o.epochs = f->option[EPOCHS];
    o.window = (int32_t)t->window;
    o.batch = (int32_t)RAMET__MAX(1024 / t->window, 1);
    o.micro_batch = (int32_t)RAMET__MAX(512 / t->window, 1);
    o.teacher_top = (int32_t)t->top;
    const ramet__labels labels = {give_labels, t};
    RAMET__TRY(ramet__tuner_create(&tuner, f->parent, data, &o, &labels));
    do RAMET__GO(ramet_tuner_step(&report, tuner, 1, 0, f->progress, f->progress_user));
    while (!report.done);
    RAMET__GO(ramet_tuner_adapter(out, tuner));
out:
    ramet_tuner_free(tuner);
    return st;
}

/* The adapter's own change goes through the same merge as everybody's: one difference, weight 1. */
static void take_first(float *out, const float *const *delta, const double *weight, int32_t n, int64_t count, const double *option, float *scratch) {
    (void)weight, (void)n, (void)option, (void)scratch;
    for (int64_t i = 0; i < count; i++) out[i] = delta[0] ? delta[0][i] : 0;
}

static ramet_status step(ramet_model **out, ramet__feed *f) {
    ramet__mem *mem = f->parent->rt->mem;
    ramet__probe *probe = NULL;
    targets t = {0};
    ramet_dataset *data = NULL;
    ramet_session_options so;
    ramet_session *s = NULL;
    ramet__update learned = {0};
    ramet_status st;
    RAMET__NEW(probe, ramet__calloc(mem, (size_t)f->n, sizeof *probe));
    for (int32_t u = 0; u < f->n; u++) {
        RAMET__GO(ramet__update_probe(&probe[u], &f->updates[u], f->store));
        if (u && probe[u].window != probe[0].window) { st = ramet__fail(RAMET_E_INCONSISTENT, "the updates answer briefs with windows of %lld and %lld tokens", (long long)probe[0].window, (long long)probe[u].window); goto out; }
        t.top = RAMET__MAX(t.top, probe[u].top);
    }
    for (int32_t u = 0; u < f->n; u++) {
        t.all += probe[u].labelled * probe[u].window;
        for (int64_t w = 0; w < probe[u].windows; w++)
            if (anchor(f, probe, u, w)) t.all += probe[u].window;
    }
    t.window = probe[0].window;
    RAMET__NEW(t.ids, ramet__calloc(mem, (size_t)(t.all * t.top), sizeof *t.ids));
    RAMET__NEW(t.p, ramet__calloc(mem, (size_t)(t.all * t.top), sizeof *t.p));
    RAMET__GO(ramet_dataset_create(&data, f->parent));
    ramet_session_options_init(&so, sizeof so);
    so.max_context = so.max_rows = so.max_outputs = (int32_t)t.window;
    so.max_sequences = 1;
    RAMET__GO(ramet_session_create(&s, f->parent, &so));
    RAMET__GO(add_targets(&t, data, s, probe, f));
    for (int32_t u = 0; u < f->n; u++) ramet__probe_free(&probe[u]);
    ramet_session_free(s);
    s = NULL;
    RAMET__GO(tune(&learned.delta, f, data, &t));
    learned.weight = 1;
    ramet__feed own = *f;
    own.updates = &learned;
    own.n = 1;
    RAMET__GO(ramet__merge(out, &own, take_first));
    f->change = own.change;
    f->rounding = own.rounding;
    f->changed = own.changed;
out:
    for (int32_t u = 0; probe && u < f->n; u++) ramet__probe_free(&probe[u]);
    ramet__free(probe);
    ramet__free(t.ids);
    ramet__free(t.p);
    ramet_session_free(s);
    ramet_dataset_free(data);
    ramet_adapter_free(learned.delta);
    return st;
}

const ramet__method ramet__method_distill = {
    .name = "distill", .summary = "the parent tuned on how the variants' soft labels on its probe text changed, each on its topic; options strength, epochs, rate, rank", .stable = 1,
    .needs = RAMET_UPDATE_LOGITS, .options = options, .n_options = RAMET__COUNT(options), .step = step,
};
