/* SPDX-License-Identifier: Apache-2.0 */
/* program.c - a plan from outside, with the variables that it reads and writes. */
#include "nets/nets.h"
#include "ramet/session.h"
#include <string.h>

struct ramet_program {
    ramet__plan *plan;
    ramet_runtime *rt;
    ramet_variables **variables; int64_t n;
};

ramet_status ramet_program_create(ramet_program **out, ramet_graph *graph, int32_t mode) {
    if (!graph) return ramet__fail(RAMET_E_ARGUMENT, "program: the graph is NULL");
    ramet_runtime *rt = graph->g->rt;
    RAMET__TRY(ramet__runtime_check(rt));
    ramet__plan_options o = {.max_context = RAMET__MAX(graph->context, 1), .training = 1, .timing = (mode & RAMET_PROGRAM_TIMES) != 0};
    switch (mode & ~RAMET_PROGRAM_TIMES) {
    case RAMET_MODE_EXACT: o.mode = RAMET__MODE_EXACT; break;
    case RAMET_MODE_BALANCED: o.mode = RAMET__MODE_BALANCED; break;
    case RAMET_MODE_FAST: o.mode = RAMET__MODE_FAST; break;
    default: return ramet__fail(RAMET_E_ARGUMENT, "program: %d is no mode", mode);
    }
    ramet_status st = RAMET_OK;
    ramet_program *p = NULL;
    RAMET__NEW(p, ramet__calloc(rt->mem, 1, sizeof *p));
    p->rt = ramet__runtime_retain(rt);
    RAMET__NEW(p->variables, ramet__calloc(rt->mem, (size_t)graph->n + 1, sizeof *p->variables));
    for (; p->n < graph->n; p->n++) p->variables[p->n] = ramet__variables_retain(graph->variables[p->n]);
    RAMET__GO(ramet__plan_create(&p->plan, graph->g, &o));
    *out = p;
    return RAMET_OK;
out:
    ramet_program_free(p);
    return st;
}
void ramet_program_free(ramet_program *p) {
    if (!p) return;
    ramet__plan_free(p->plan);
    for (int64_t i = 0; i < p->n; i++) ramet_variables_free(p->variables[i]);
    ramet__free(p->variables);
    ramet_runtime *rt = p->rt;
    ramet__free(p);
    ramet_runtime_free(rt);
}
ramet_status ramet_program_run(ramet_program *p, int64_t rows, int64_t outs, const char *const *names, const void *const *data, int32_t n, ramet_progress_fn progress, void *user) {
    if (!p || (n && (!names || !data))) return ramet__fail(RAMET_E_ARGUMENT, "run: the %s NULL", p ? "inputs are" : "program is");
    ramet__run run = {.rows = rows, .outs = outs, .n_inputs = n, .progress = progress, .progress_user = user};
    if (n < 0 || n > RAMET__COUNT(run.input))
        return ramet__fail(RAMET_E_ARGUMENT, "run: %d inputs are not in 0..%d", n, RAMET__COUNT(run.input));
    for (int32_t i = 0; i < n; i++) {
        run.input[i].name = names[i];
        run.input[i].data = data[i];
    }
    return ramet__plan_run(p->plan, &run);
}
ramet_status ramet_program_output(const float **values, int64_t *rows, int64_t *columns, const ramet_program *p, const char *name) {
    if (!p || !name || !values) return ramet__fail(RAMET_E_ARGUMENT, "program: an argument is NULL");
    if (p->plan->last_rows < 0) return ramet__fail(RAMET_E_STATE, "program: no run has succeeded yet");
    const float *found = ramet__plan_output(p->plan, name, rows, columns);
    if (!found) return ramet__fail(RAMET_E_NOT_FOUND, "program: there is no output '%.64s'", name);
    *values = found;
    return RAMET_OK;
}
ramet_status ramet_program_describe(char **text, const ramet_program *p) {
    if (!p || !text) return ramet__fail(RAMET_E_ARGUMENT, "program: an argument is NULL");
    char *t = ramet__plan_text(p->plan);
    if (!t) return ramet__alloc_status();
    *text = t;
    return RAMET_OK;
}
