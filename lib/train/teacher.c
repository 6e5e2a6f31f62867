/* SPDX-License-Identifier: Apache-2.0 */
/* teacher.c - soft labels: the teacher runs on the student's rows, one window at a time (its logits are the only full ones ever
 * held), and each row keeps its likeliest classes; the rest is one bin (top-k distillation as ramet__op_kl_top has it; Hinton et
 * al. 2015, arXiv:1503.02531). */
#include <math.h>
#include <string.h>
#include "train/train.h"

struct ramet__teacher {
    ramet_runtime *rt;
    ramet_model *model;
    ramet__plan *plan;
    ramet__rows rows;
    int32_t top;
};

ramet_status ramet__teacher_create(ramet__teacher **out, ramet_model *model, int32_t mode, int64_t window, int32_t top) {
    ramet_status st = RAMET_OK;
    ramet__graph *g = NULL;
    ramet__built built;
    ramet__teacher *t;
    const ramet__build_options build = {0};
    const ramet__plan_options plan = {.mode = (ramet__mode)mode, .max_context = window};
    RAMET__NEW(t, ramet__calloc(model->rt->mem, 1, sizeof *t));
    t->rt = model->rt;
    t->model = ramet_model_retain(model);
    t->top = top;
    RAMET__GO(ramet__rows_init(&t->rows, t->rt->mem, window));
    RAMET__GO(ramet__graph_create(&g, t->rt, window, window, 0));
    RAMET__GO(model->arch->build(&built, g, model, &build));
    ramet__graph_output(g, "logits", built.logits);
    RAMET__GO(ramet__graph_status(g));
    RAMET__GO(ramet__plan_create(&t->plan, g, &plan));
    *out = t;
    t = NULL;
out:
    ramet__graph_free(g);
    ramet__teacher_free(t);
    return st;
}

void ramet__teacher_free(ramet__teacher *t) {
    if (!t) return;
    ramet__plan_free(t->plan);
    ramet__rows_free(&t->rows);
    ramet_model_free(t->model);
    ramet__free(t);
}

uint64_t ramet__teacher_bytes(const ramet__teacher *t) { return t ? ramet__plan_bytes(t->plan) : 0; }

void ramet__top_probabilities(int32_t *ids, float *p, int32_t top, const float *logits, int64_t n, const ramet__kernels *k) {
    const float lse = k->logsumexp(logits, n);
    int32_t held = 0;
    for (int64_t i = 0; i < n;
         i++) { /* insertion into a short sorted list: after the first few hundred classes almost all fail one comparison */
        const float x = logits[i];
        if (held == top && !(x > p[top - 1])) continue;
        int32_t at = held < top ? held++ : top - 1;
        for (; at > 0 && x > p[at - 1]; at--) {
            p[at] = p[at - 1];
            ids[at] = ids[at - 1];
        }
        p[at] = x;
        ids[at] = (int32_t)i;
    }
    for (int32_t i = 0; i < held; i++) p[i] = expf(p[i] - lse);
    for (int32_t i = held; i < top; i++) {
        p[i] = 0.0f;
        ids[i] = -1;
    }
}

typedef struct select { const ramet__kernels *k; const float *logits; int64_t n; int32_t top, *ids; float *p; } select_work;

static ramet_status select_row(void *context, int64_t row, int32_t worker) {
    const select_work *s = context;
    (void)worker;
    ramet__top_probabilities(s->ids + row * s->top, s->p + row * s->top, s->top, s->logits + row * s->n, s->n, s->k);
    return RAMET_OK;
}

ramet_status ramet__teacher_run(ramet__teacher *t, int32_t *ids, float *p, const ramet_dataset *d, int64_t from, int64_t to,
                                ramet_progress_fn progress, void *user) {
    ramet__run run = {.progress = progress, .progress_user = user};
    int64_t outs = 0, n = 0;
    ramet__rows_clear(&t->rows);
    ramet__rows_add(&t->rows, d, from, to);
    ramet__rows_bind(&t->rows, &run, 0);
    RAMET__TRY(ramet__plan_run(t->plan, &run));
    const float *logits = ramet__plan_output(t->plan, "logits", &outs, &n);
    if (!logits || outs != t->rows.outs) return ramet__fail(RAMET_E_INTERNAL, "teacher: the plan lacks its logits");
    select_work s = {t->rt->kernels, logits, n, t->top, ids, p};
    return ramet__parallel_for(t->rt->threads, outs, select_row, &s, NULL);
}
