/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - a tuner's options: defaults, limits, and the language of groups ("pattern=factor@step;..."). */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "train/train.h"

void ramet_tuner_options_init(ramet_tuner_options *options, uint32_t struct_size) {
    const ramet_tuner_options defaults = {
        .rank = 16, .alpha = 32.0f, .mode = RAMET_MODE_BALANCED, .window = 256, .batch = 4, .micro_batch = 2, .epochs = 1.0,
        .warmup = 0.03f, .schedule = RAMET_SCHEDULE_COSINE, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .clip = 1.0f,
        .teacher_weight = 1.0f, .teacher_top = 64, .lora_plus = 1.0f, .average_decay = 0.999f, .average_start = -1.0f, .workers = 1, .preference_beta = 0.1f};
    ramet__options_init(options, struct_size, &defaults, sizeof defaults);
}

static int32_t within(double x, double low, double high) { return x >= low && x <= high; } /* NaN is not */

ramet_status ramet__tuner_check(const ramet_tuner_options *o, const ramet_model *model, const ramet_dataset *data) {
    const char *f = "ramet_tuner_create";
    const int64_t context = model->h.n_ctx;
    char names[128];
    if (o->full != 0 && o->full != 1) return ramet__fail(RAMET_E_ARGUMENT, "%s: full is %d; give 0 or 1", f, o->full);
    if (!o->full && !within(o->rank, 1, 1024)) return ramet__fail(RAMET_E_ARGUMENT, "%s: rank %d is not in 1..1024", f, o->rank);
    if (!o->full && !within(o->alpha, 1e-6, 1e6))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: alpha %g is not in 1e-6..1e6", f, (double)o->alpha);
    if (o->full && o->initial) return ramet__fail(RAMET_E_ARGUMENT, "%s: full tuning takes no initial adapter", f);
    if (o->full) RAMET__TRY(ramet__targets_check(model->arch, o->targets, "norms"));
    if (o->mode < RAMET_MODE_EXACT || o->mode > RAMET_MODE_FAST)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: mode %d is none of RAMET_MODE_*", f, o->mode);
    if (o->window < 2 || o->window > context)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: window %d is not in 2..%lld, the model's context", f, o->window, (long long)context);
    if (!within(o->batch, 1, 65536)) return ramet__fail(RAMET_E_ARGUMENT, "%s: batch %d is not in 1..65536", f, o->batch);
    if (!within(o->micro_batch, 1, 65536) || (int64_t)o->micro_batch * o->window > 1 << 20)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: micro_batch %d windows of %d: give at least one window and at most %d rows", f,
                           o->micro_batch, o->window, 1 << 20);
    if (o->steps < 0) return ramet__fail(RAMET_E_ARGUMENT, "%s: steps is negative", f);
    if (!o->steps && !within(o->epochs, 1e-9, 1e9))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: epochs %g: give steps, or epochs above 0", f, o->epochs);
    if (!within(o->learning_rate, 0, 1e3))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: learning_rate %g is not in 0..1000", f, (double)o->learning_rate);
    if (!within(o->warmup, 0, 1)) return ramet__fail(RAMET_E_ARGUMENT, "%s: warmup %g is not in 0..1", f, (double)o->warmup);
    if (!ramet__schedule_list(o->schedule, NULL, NULL))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: schedule %d is none of RAMET_SCHEDULE_*; there are, from 0: %s", f, o->schedule,
                           ramet__names(names, ramet__schedule_list));
    if (!within(o->weight_decay, 0, 1e3))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: weight_decay %g is not in 0..1000", f, (double)o->weight_decay);
    if (!within(o->beta1, 0, 1) || o->beta1 == 1.0f || !within(o->beta2, 0, 1) || o->beta2 == 1.0f)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: beta1 %g and beta2 %g must be in 0..1 and below 1", f, (double)o->beta1,
                           (double)o->beta2);
    if (!within(o->epsilon, 1e-30, 1)) return ramet__fail(RAMET_E_ARGUMENT, "%s: epsilon %g is not in 1e-30..1", f, (double)o->epsilon);
    if (!within(o->clip, 0, 1e30)) return ramet__fail(RAMET_E_ARGUMENT, "%s: clip %g is negative or not a number", f, (double)o->clip);
    if (!within(o->example_clip, 0, 3e38)) return ramet__fail(RAMET_E_ARGUMENT, "%s: example_clip %g is negative or not a number", f, (double)o->example_clip);
    if (o->example_clip > 0 && (o->dora || (o->groups && strchr(o->groups, '@'))))
        return ramet__fail(RAMET_E_UNSUPPORTED, "%s: example_clip goes neither with dora nor with groups that begin at a step", f);
    if (o->example_norms && o->example_clip == 0.0f) return ramet__fail(RAMET_E_ARGUMENT, "%s: example_norms needs example_clip (1e30: measure only)", f);
    if ((o->state_keep != 0 && o->state_keep != 1) || (o->state_keep && !o->state_path))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: state_keep is %d; give 0, or 1 with a state_path", f, o->state_keep);
    if (o->rslora != 0 && o->rslora != 1) return ramet__fail(RAMET_E_ARGUMENT, "%s: rslora is %d; give 0 or 1", f, o->rslora);
    if (!within(o->lora_plus, 1e-6, 1e6)) return ramet__fail(RAMET_E_ARGUMENT, "%s: lora_plus %g is not in 1e-6..1e6", f, (double)o->lora_plus);
    if (!within(o->preference_beta, 1e-6, 1e6)) return ramet__fail(RAMET_E_ARGUMENT, "%s: preference_beta %g is not in 1e-6..1e6", f, (double)o->preference_beta);
    if ((data->pairs && o->teacher) || (o->evaluation && (data->pairs || o->evaluation->pairs)))
        return ramet__fail(RAMET_E_UNSUPPORTED, "%s: preferences go with neither teacher nor evaluation", f);
    if (o->dora != 0 && o->dora != 1) return ramet__fail(RAMET_E_ARGUMENT, "%s: dora is %d; give 0 or 1", f, o->dora);
    if (o->dora && (o->full || o->initial))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: dora: %s", f, o->full ? "full tuning has no adapter" : "the initial adapter has its own magnitudes or none");
    if ((o->rslora && o->initial) || (o->full && (o->rslora || o->lora_plus != 1.0f)))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: %s", f, o->full ? "full tuning has no adapter for rslora and lora_plus" : "rslora: the initial adapter has its own scale");
    if (o->average && strcmp(o->average, "ema") && strcmp(o->average, "swa"))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: average \"%s\" is neither \"ema\" nor \"swa\"", f, o->average);
    if (!within(o->average_decay, 0, 1)) return ramet__fail(RAMET_E_ARGUMENT, "%s: average_decay %g is not in 0..1", f, (double)o->average_decay);
    if (o->average_start != -1.0f && !within(o->average_start, 0, 1))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: average_start %g is not in 0..1", f, (double)o->average_start);
    if (!within(o->workers, 1, 65536) || o->worker < 0 || o->worker >= o->workers)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: worker %d of %d workers: workers count from 0", f, o->worker, o->workers);
    if (o->batch % o->workers) return ramet__fail(RAMET_E_ARGUMENT, "%s: batch %d is no multiple of %d workers", f, o->batch, o->workers);
    if (o->workers > 1 && !o->all_reduce) return ramet__fail(RAMET_E_ARGUMENT, "%s: %d workers need all_reduce", f, o->workers);
    if (o->on_nonfinite != RAMET_NONFINITE_STOP && o->on_nonfinite != RAMET_NONFINITE_SKIP)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: on_nonfinite %d is none of RAMET_NONFINITE_*", f, o->on_nonfinite);
    if (o->spike_factor != 0.0f && !within(o->spike_factor, 1, 1e30))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: spike_factor %g is neither 0 (off) nor at least 1", f, (double)o->spike_factor);
    if (o->evaluate_every < 0 || o->patience < 0)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: %s is negative", f, o->patience < 0 ? "patience" : "evaluate_every");
    if (!o->evaluation && (o->evaluate_every || o->patience))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: evaluate_every and patience need an evaluation dataset", f);
    if (o->patience && !o->evaluate_every) return ramet__fail(RAMET_E_ARGUMENT, "%s: patience needs evaluate_every", f);
    if (o->evaluation && o->window < 4) return ramet__fail(RAMET_E_ARGUMENT, "%s: evaluation needs a window of at least 4", f);
    if (o->evaluation && o->evaluation->model->h.n_vocab > model->h.n_vocab)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: the evaluation's model has %lld tokens, this one %lld", f,
                           (long long)o->evaluation->model->h.n_vocab, (long long)model->h.n_vocab);
    if (o->optimizer && !ramet__optimizer_find(o->optimizer))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: no optimizer \"%s\"; there are %s", f, o->optimizer,
                           ramet__names(names, ramet__optimizer_list));
    if (data->model->h.n_vocab > model->h.n_vocab)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: the data's model has %lld tokens, this one %lld", f,
                           (long long)data->model->h.n_vocab, (long long)model->h.n_vocab);
    if (!o->teacher && (o->teacher_divergence != RAMET_DIVERGENCE_FORWARD || o->teacher_skew != 0.0f))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: teacher_divergence and teacher_skew need a teacher", f);
    if (!o->teacher) return RAMET_OK;
    if (!within(o->teacher_weight, 0, 1))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: teacher_weight %g is not in 0..1", f, (double)o->teacher_weight);
    if (o->teacher->h.n_vocab != model->h.n_vocab)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: the teacher has %lld tokens, the model %lld; distilling needs one vocabulary", f,
                           (long long)o->teacher->h.n_vocab, (long long)model->h.n_vocab);
    if (!within(o->teacher_top, 1, (double)RAMET__MIN(4096, model->h.n_vocab)))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: teacher_top %d is not in 1..%lld", f, o->teacher_top,
                           (long long)RAMET__MIN(4096, model->h.n_vocab));
    if (o->teacher_divergence != RAMET_DIVERGENCE_FORWARD && o->teacher_divergence != RAMET_DIVERGENCE_REVERSE)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: teacher_divergence %d is none of RAMET_DIVERGENCE_*", f, o->teacher_divergence);
    if (!within(o->teacher_skew, 0, 0.999))
        return ramet__fail(RAMET_E_ARGUMENT, "%s: teacher_skew %g is not in 0 to .999", f, (double)o->teacher_skew);
    if (o->window > o->teacher->h.n_ctx)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: window %d is beyond the teacher's context %lld", f, o->window,
                           (long long)o->teacher->h.n_ctx);
    return RAMET_OK;
}

/* ---- groups ---- */

static int32_t matches(const char *p, const char *end, const char *s) { /* * any text, ? one byte; on a mismatch the last * takes one more */
    const char *star = NULL, *back = NULL;
    for (;;) {
        if (p < end && *p == '*') {
            star = p++;
            back = s;
        } else if (!*s) return p == end;
        else if (p < end && (*p == '?' || *p == *s)) p++, s++;
        else if (star) {
            p = star + 1;
            s = ++back;
        } else return 0;
    }
}

typedef struct group { const char *pattern, *end; float factor; int64_t from; } group;

/* The group at *at, which moves behind it. */
static ramet_status read_group(group *g, const char **at) {
    const char *p = *at + strspn(*at, " "), *equals = strpbrk(p, "=;");
    char *end = NULL, *after = NULL;
    double factor = 0;
    long long from = 0;
    int32_t good = equals && *equals == '=' && equals > p;
    if (good) {
        factor = ramet__number(equals + 1, &end);
        good = end > equals + 1 && within(factor, 0, 1e6);
        if (good && *end == '@') {
            from = strtoll(end + 1, &after, 10);
            good = after > end + 1 && from >= 0;
            end = after;
        }
        if (good) end += strspn(end, " ");
    }
    if (!good || (*end && *end != ';'))
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_create: groups: \"%.*s\" is not PATTERN=FACTOR or PATTERN=FACTOR@STEP, both 0 or more",
                           (int)strcspn(p, ";"), p);
    *g = (group){p, equals, (float)factor, from};
    *at = *end ? end + 1 : end;
    return RAMET_OK;
}

ramet_status ramet__params_groups(ramet__params *p, const char *groups) {
    group g;
    int32_t moving = 0;
    for (const char *at = groups; at && *at;) {
        int32_t used = 0;
        RAMET__TRY(read_group(&g, &at));
        for (int64_t i = 0; i < p->n && !used; i++) used = matches(g.pattern, g.end, p->param[i].name);
        if (!used)
            return ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_create: groups: \"%.*s\" matches nothing that is trained; a name is for example %s",
                               (int)(g.end - g.pattern), g.pattern, p->param[0].name);
    }
    for (int64_t i = 0; i < p->n; i++) {
        for (const char *at = groups; at && *at;) {
            RAMET__TRY(read_group(&g, &at));
            if (!matches(g.pattern, g.end, p->param[i].name)) continue;
            p->param[i].rate *= g.factor;
            p->param[i].from = g.from;
            break;
        }
        moving |= p->param[i].rate > 0.0f;
    }
    return moving ? RAMET_OK : ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_create: groups \"%s\" freeze everything", groups);
}
