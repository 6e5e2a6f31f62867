/* SPDX-License-Identifier: Apache-2.0 */
/* preference.c - direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290): for an answer c that is better than r,
 * loss = -log sigmoid(z), z = beta * ((log p(c) - log q(c)) - (log p(r) - log q(r))), q being the model before tuning. Its gradient is the sum
 * over tokens of -beta * sigmoid(-z) * (d log p(c) - d log p(r)): that of a cross-entropy with weights, which two runs forward give. So the
 * tuner's own plan, with the fused head, does the rest. */
#include <math.h>
#include "train/train.h"

struct ramet__preference {
    ramet__plan *policy, *reference; /* NULL: the policy without its adapter */
    double *sum;                     /* [pairs of a micro-batch] */
};

static ramet_status losses_plan(ramet__plan **out, ramet_tuner *t, const ramet__build_options *build) {
    ramet_status st = RAMET_OK;
    ramet__graph *g = NULL;
    const int64_t rows = t->rows.max_rows;
    const ramet__plan_options plan = {.mode = (ramet__mode)t->o.mode, .training = 1, .max_context = t->o.window}; /* training: its arithmetic */
    RAMET__GO(ramet__losses_graph(&g, t->model, build, rows, rows, t->rank));
    st = ramet__plan_create(out, g, &plan);
out:
    ramet__graph_free(g);
    return st;
}

ramet_status ramet__preference_create(ramet__preference **out, ramet_tuner *t, const ramet__build_options *build) {
    ramet_status st = RAMET_OK;
    const ramet__build_options plain = {0};
    ramet__preference *p = NULL;
    RAMET__NEW(p, ramet__calloc(t->rt->mem, 1, sizeof *p));
    RAMET__NEW(p->sum, ramet__calloc(t->rt->mem, (size_t)t->o.micro_batch, sizeof *p->sum));
    RAMET__GO(losses_plan(&p->policy, t, build));
    if (build->train || build->after) RAMET__GO(losses_plan(&p->reference, t, &plain));
    *out = p;
    p = NULL;
out:
    ramet__preference_free(p);
    return st;
}

void ramet__preference_free(ramet__preference *p) {
    if (!p) return;
    ramet__plan_free(p->policy);
    ramet__plan_free(p->reference);
    ramet__free(p->sum);
    ramet__free(p);
}

uint64_t ramet__preference_bytes(const ramet__preference *p) {
    return p ? ramet__plan_bytes(p->policy) + (p->reference ? ramet__plan_bytes(p->reference) : 0) : 0;
}

/* sum[pair] += sign * (log-likelihood of the chosen - of the rejected). */
static ramet_status add_margins(ramet__preference *p, ramet_tuner *t, int32_t reference, ramet_progress_fn progress, void *user) {
    ramet__plan *plan = reference && p->reference ? p->reference : p->policy;
    ramet__run run = {.adapters = t->adapter, .n_adapters = !reference && !t->o.full, .progress = progress, .progress_user = user};
    int64_t outs = 0;
    ramet__rows_bind(&t->rows, &run, 1);
    RAMET__TRY(ramet__plan_run(plan, &run));
    const float *loss = ramet__plan_output(plan, "losses", &outs, NULL);
    if (!loss || outs != t->rows.outs) return ramet__fail(RAMET_E_INTERNAL, "preference: the plan lacks its losses");
    for (int64_t i = 0; i < outs; i++) { /* sequences are chosen, rejected, chosen ... */
        const int32_t seq = t->rows.seq[t->rows.out[i]];
        p->sum[seq / 2] += ((seq & 1) == reference ? -1.0 : 1.0) * (double)loss[i];
    }
    return RAMET_OK;
}

ramet_status ramet__preference_weights(double *loss, ramet__preference *p, ramet_tuner *t, ramet_progress_fn progress, void *user) {
    const double beta = (double)t->o.preference_beta, share = 1.0 / (double)t->o.batch;
    const int32_t pairs = t->rows.n_seq / 2;
    for (int32_t i = 0; i < pairs; i++) p->sum[i] = 0.0;
    RAMET__TRY(add_margins(p, t, 0, progress, user));
    RAMET__TRY(add_margins(p, t, 1, progress, user));
    *loss = 0.0;
    for (int32_t i = 0; i < pairs; i++) {
        const double z = beta * p->sum[i], e = exp(-fabs(z)); /* softplus(-z) and sigmoid(-z) without overflow */
        *loss += share * (fmax(-z, 0.0) + log1p(e));
        t->ahead += z > 0.0;
        p->sum[i] = share * beta * (z > 0.0 ? e : 1.0) / (1.0 + e);
    }
    for (int64_t i = 0; i < t->rows.outs; i++) {
        const int32_t seq = t->rows.seq[t->rows.out[i]];
        t->rows.weight[i] = (float)(seq & 1 ? -p->sum[seq / 2] : p->sum[seq / 2]);
    }
    return RAMET_OK;
}
