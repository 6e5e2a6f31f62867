/* SPDX-License-Identifier: Apache-2.0 */
/* tap.c - one window of ids through a model without a cache, reading tapped places (experimental.h). The plan is made for the
 * call and dropped after it. */
#include "model/model.h"
#include "ramet/experimental.h"

typedef struct relay { ramet_tap_fn tap; void *user; } relay;

static int32_t pass_on(const char *name, const float *rows, int64_t n_rows, int64_t cols, void *user) {
    const relay *r = user;
    return r->tap(name, rows, n_rows, cols, r->user);
}

ramet_status ramet_model_tap(ramet_model *model, const int32_t *ids, int64_t count, const char *prefix, int32_t mode, ramet_tap_fn tap, void *user) {
    if (!model || !ids || !prefix || !tap)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_tap: %s is NULL", !model ? "model" : !ids ? "ids" : !prefix ? "prefix" : "tap");
    RAMET__TRY(ramet__runtime_check(model->rt));
    if (count < 1 || count > model->h.n_ctx) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_tap: %lld ids; 1 to %lld (the model's context) are possible", (long long)count, (long long)model->h.n_ctx);
    if (mode < 0 || mode > 2) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_tap: mode %d is none of RAMET_MODE_*", mode);
    const ramet__build_options b = {.cached = 0};
    const ramet__plan_options p = {.mode = (ramet__mode)mode, .tap_prefix = prefix, .max_context = count};
    ramet__graph *g = NULL;
    ramet__plan *plan = NULL;
    ramet__built built;
    int32_t *pos = NULL, *seq = NULL;
    ramet_status st;
    relay r = {tap, user};
    const int32_t last = (int32_t)count - 1;
    RAMET__NEW(pos, ramet__alloc(model->rt->mem, (size_t)count * sizeof *pos));
    RAMET__NEW(seq, ramet__calloc(model->rt->mem, (size_t)count, sizeof *seq));
    for (int64_t i = 0; i < count; i++) pos[i] = (int32_t)i;
    RAMET__GO(ramet__graph_create(&g, model->rt, count, 1, 0));
    RAMET__GO(model->arch->build(&built, g, model, &b));
    ramet__graph_output(g, "logits", built.logits);
    RAMET__GO(ramet__plan_create(&plan, g, &p));
    ramet__run run = {.rows = count, .outs = 1, .input = {{"tokens", ids}, {"pos", pos}, {"seq", seq}, {"outs", &last}}, .n_inputs = 4, .tap = pass_on, .tap_user = &r};
    st = ramet__plan_run(plan, &run);
out:
    ramet__plan_free(plan);
    ramet__graph_free(g);
    ramet__free(pos);
    ramet__free(seq);
    return st;
}
