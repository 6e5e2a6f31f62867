/* SPDX-License-Identifier: Apache-2.0 */
/* graph.c - graphs from outside: every call is checked and answered, and a failure does not stay in the graph. Nodes that a failed call left
 * behind are read by nobody, and planning drops them. */
#include "nets/nets.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

ramet_status ramet_graph_create(ramet_graph **out, ramet_runtime *rt, int64_t max_rows, int64_t max_outs) {
    RAMET__TRY(ramet__runtime_check(rt));
    ramet_graph *graph = ramet__calloc(rt->mem, 1, sizeof *graph);
    if (!graph) return ramet__alloc_status();
    ramet_status st = ramet__graph_create(&graph->g, rt, max_rows, max_outs, 0);
    if (st) ramet__free(graph);
    else *out = graph;
    return st;
}
void ramet_graph_free(ramet_graph *graph) {
    if (!graph) return;
    ramet__graph *g = graph->g;
    ramet_variables **variables = graph->variables;
    int64_t n = graph->n;
    ramet__free(graph);
    ramet__graph_free(g);
    for (int64_t i = 0; i < n; i++) ramet_variables_free(variables[i]);
    ramet__free(variables);
}

ramet_status ramet__nets_check(const ramet_graph *graph) {
    if (!graph) return ramet__fail(RAMET_E_ARGUMENT, "graph: the handle is NULL");
    return ramet__runtime_check(graph->g->rt);
}
/* What the graph says about the last call, and a graph that can go on. */
static ramet_status settle(ramet_graph *graph) {
    ramet__graph *g = graph->g;
    ramet_status st = ramet__graph_status(g);
    g->status = RAMET_OK;
    ramet__free(g->message);
    g->message = NULL;
    return st;
}
ramet_status ramet__nets_answer(int32_t *out, ramet_graph *graph, ramet__val v) {
    RAMET__TRY(settle(graph));
    if (v < 0) return ramet__fail(RAMET_E_INTERNAL, "graph: a value was not made");
    *out = v;
    return RAMET_OK;
}
static ramet_status value(const ramet_graph *graph, ramet__val v, const char *what) {
    return ramet__is_val(graph->g, v) ? RAMET_OK : ramet__fail(RAMET_E_ARGUMENT, "graph: %s: %d is no value of this graph", what, v);
}
ramet_status ramet__nets_keep(struct ramet__variable **q, ramet_graph *graph, ramet_variables *v, const char *name) {
    if (!v || !name) return ramet__fail(RAMET_E_ARGUMENT, "graph: the %s is NULL", v ? "name" : "variables handle");
    if (v->rt != graph->g->rt) return ramet__fail(RAMET_E_ARGUMENT, "graph: the variables belong to another runtime");
    if (q && !(*q = ramet__variables_find(v, name))) return RAMET_E_NOT_FOUND;
    for (int64_t i = 0; i < graph->n; i++)
        if (graph->variables[i] == v) return RAMET_OK;
    RAMET__TRY(ramet__grow(v->rt->mem, &graph->variables, &graph->cap, graph->n + 1, sizeof *graph->variables));
    graph->variables[graph->n++] = ramet__variables_retain(v);
    return RAMET_OK;
}

ramet_status ramet_graph_input(int32_t *out, ramet_graph *graph, const char *name, int32_t type, int32_t axis, int64_t columns) {
    RAMET__TRY(ramet__nets_check(graph));
    if ((type != RAMET_TYPE_F32 && type != RAMET_TYPE_I32) || axis < RAMET_AXIS_STATIC || axis > RAMET_AXIS_OUTS || columns > INT32_MAX)
        return ramet__fail(RAMET_E_ARGUMENT, "graph: input '%.64s': type %d, axis %d or columns %lld is out of range", name ? name : "NULL", type, axis, (long long)columns);
    return ramet__nets_answer(out, graph, ramet__graph_input(graph->g, name, type == RAMET_TYPE_I32 ? RAMET__TYPE_I32 : RAMET__TYPE_F32, (ramet__axis)axis, columns));
}
ramet_status ramet_graph_constant(int32_t *out, ramet_graph *graph, float number) {
    RAMET__TRY(ramet__nets_check(graph));
    return ramet__nets_answer(out, graph, ramet__graph_const(graph->g, number));
}
ramet_status ramet_graph_variable(int32_t *out, ramet_graph *graph, ramet_variables *variables, const char *name) {
    struct ramet__variable *q;
    RAMET__TRY(ramet__nets_check(graph));
    RAMET__TRY(ramet__nets_keep(&q, graph, variables, name));
    return ramet__nets_answer(out, graph, ramet__graph_var(graph->g, &q->pool.param->value));
}

/* ---- operations by name ---- */
static const char calls[] = /* name, detail, name, detail ...: one text needs no table of pointers */
#define RAMET__CALL(name, signature, summary) #name "\0" signature ": " summary "\0"
#include "nets/calls.def"
#undef RAMET__CALL
    ;
int32_t ramet__call_list(int32_t i, const char **name, const char **detail) {
    const char *at = calls;
    if (i < 0 || i >= RAMET__CALLS) return 0;
    for (; i > 0; i--)
        for (int32_t half = 0; half < 2; half++) at += strlen(at) + 1;
    *name = at;
    if (detail) *detail = at + strlen(at) + 1;
    return 1;
}

/* The next word of a signature; its length, 0 at the end. */
static size_t word(const char **at) {
    *at += strspn(*at, " ");
    return **at == ':' || **at == '-' ? 0 : strcspn(*at, " :");
}
typedef struct parsed { ramet__val in[RAMET__CALL_IN]; double set[8]; int32_t n_out; } parsed;

static ramet_status parse(parsed *p, const char *name, const char *detail, const int32_t *in, int32_t n_in, const char *settings) {
    const char *at = detail, *rest = settings ? settings : "", *key[8];
    size_t n, length[8];
    int32_t inputs = 0, sets = 0, given[8] = {0};
    for (int32_t words = 0; (n = word(&at)); at += n, words++) { /* settings are those with a '=' */
        size_t base = strcspn(at, "= ");
        if (base >= n) { /* an input */
            p->in[inputs] = inputs < n_in ? in[inputs] : -1;
            if (p->in[inputs] < 0 && at[n - 1] != '?') return ramet__fail(RAMET_E_ARGUMENT, "graph: %s: input %d is missing: %s", name, inputs, detail);
            inputs++;
            continue;
        }
        key[sets] = at;
        length[sets] = base;
        char *end;
        p->set[sets] = base + 1 < n ? ramet__number(at + base + 1, &end) : NAN;
        sets++;
    }
    if (n_in > inputs) return ramet__fail(RAMET_E_ARGUMENT, "graph: %s: %d inputs are too many: %s", name, n_in, detail);
    while (*rest) {
        size_t base = strcspn(rest, "=,");
        int32_t i = 0;
        while (i < sets && (length[i] != base || strncmp(key[i], rest, base))) i++;
        char *end = NULL;
        double x = rest[base] == '=' ? ramet__number(rest + base + 1, &end) : 0;
        if (i == sets || !end || end == rest + base + 1 || (*end && *end != ',') || !isfinite(x) || given[i] || fabs(x) > 9e15)
            return ramet__fail(RAMET_E_ARGUMENT, "graph: %s: the setting '%.40s' is unknown, given twice or no number: %s", name, rest, detail);
        p->set[i] = x;
        given[i] = 1;
        rest = end + (*end == ',');
    }
    for (int32_t i = 0; i < sets; i++)
        if (isnan(p->set[i])) return ramet__fail(RAMET_E_ARGUMENT, "graph: %s: the setting '%.*s' must be given: %s", name, (int)length[i], key[i], detail);
    return RAMET_OK;
}

ramet_status ramet_graph_apply(int32_t *outs, int32_t n_outs, ramet_graph *graph, const char *op, const int32_t *in, int32_t n_in, const char *settings) {
    RAMET__TRY(ramet__nets_check(graph));
    const char *name = "", *detail = "";
    int32_t call = 0;
    while (op && ramet__call_list(call, &name, &detail) && strcmp(name, op)) call++;
    if (!op || call == RAMET__CALLS) return ramet__fail(RAMET_E_NOT_FOUND, "graph: there is no operation '%.64s'", op ? op : "NULL");
    if (!outs || n_outs < 1 || n_in < 0 || (n_in && !in)) return ramet__fail(RAMET_E_ARGUMENT, "graph: %s: no place for a result, or inputs are NULL", op);
    for (int32_t i = 0; i < n_in; i++)
        if (in[i] != -1) RAMET__TRY(value(graph, in[i], op));
    parsed p;
    RAMET__TRY(parse(&p, name, detail, in, n_in, settings));
    ramet__val out[RAMET__CALL_OUT] = {-1, -1, -1, -1};
    ramet__call_build(graph->g, (ramet__call)call, p.in, p.set, out);
    RAMET__TRY(settle(graph));
    for (int32_t i = 0; i < n_outs; i++)
        if (i >= RAMET__CALL_OUT || out[i] < 0) return ramet__fail(RAMET_E_ARGUMENT, "graph: %s has no result %d: %s", op, i, detail);
    memcpy(outs, out, (size_t)n_outs * sizeof *outs);
    return RAMET_OK;
}

ramet_status ramet_graph_shape(int32_t *axis, int64_t *rows, int64_t *columns, const ramet_graph *graph, int32_t v) {
    RAMET__TRY(ramet__nets_check(graph));
    RAMET__TRY(value(graph, v, "shape"));
    const ramet__gshape *s = ramet__graph_shape(graph->g, v);
    if (axis) *axis = (int32_t)s->axis;
    if (rows) *rows = ramet__grows(s);
    if (columns) *columns = ramet__gcols(s);
    return RAMET_OK;
}
/* An input of the body by its name, or a variable that it reads. */
static ramet__val place(const ramet__graph *b, const char *name) {
    for (int32_t pass = 0; pass < 2 && name; pass++)
        for (int64_t i = 0; i < b->n_values; i++) {
            const ramet__value *v = &b->values[i];
            if (pass ? v->leaf == RAMET__LEAF_VAR && !strcmp(v->var->name, name) : v->leaf == RAMET__LEAF_INPUT && !strcmp(v->name, name)) return (ramet__val)i;
        }
    return -1;
}
ramet_status ramet_graph_scan(int32_t *outs, int32_t n_outs, ramet_graph *graph, ramet_graph *body, const char *const *names, const int32_t *in, int32_t n_in, int32_t seq, int32_t reversed) {
    ramet__val to[RAMET__NODE_IN], out[RAMET__NODE_OUT];
    RAMET__TRY(ramet__nets_check(graph));
    RAMET__TRY(ramet__nets_check(body));
    if (!outs || n_outs < 1 || n_in < 0 || n_in >= RAMET__NODE_IN || (n_in && (!in || !names)))
        return ramet__fail(RAMET_E_ARGUMENT, "graph: scan: no place for a result, inputs are NULL, or %d are more than %d", n_in, RAMET__NODE_IN - 1);
    for (int32_t i = 0; i < n_in; i++)
        if ((to[i] = place(body->g, names[i])) < 0)
            return ramet__fail(RAMET_E_NOT_FOUND, "graph: scan: the body has no input and reads no variable '%.64s'", names[i] ? names[i] : "NULL");
    for (int64_t i = 0; i < body->n; i++) RAMET__TRY(ramet__nets_keep(NULL, graph, body->variables[i], ""));
    if (n_outs > body->g->n_outputs) return ramet__fail(RAMET_E_ARGUMENT, "graph: scan: the body has %d outputs, %d are asked for", (int)body->g->n_outputs, n_outs);
    ramet__op_scan_body(graph->g, body->g, to, in, n_in, seq, reversed, out);
    RAMET__TRY(settle(graph));
    memcpy(outs, out, (size_t)n_outs * sizeof *outs);
    graph->context = RAMET__MAX(graph->context, body->context);
    body->g = NULL;
    ramet_graph_free(body);
    return RAMET_OK;
}
ramet_status ramet_graph_gradient(int32_t *grads, ramet_graph *graph, int32_t loss, const int32_t *wrt, int32_t n) {
    RAMET__TRY(ramet__nets_check(graph));
    if (n < 0 || (n && (!wrt || !grads))) return ramet__fail(RAMET_E_ARGUMENT, "graph: gradient: %d values, or a pointer is NULL", n);
    ramet_status st = ramet__graph_gradient(graph->g, loss, wrt, n, grads);
    return settle(graph), st;
}
ramet_status ramet_graph_train(ramet_graph *graph, ramet_variables *variables, int32_t loss) {
    RAMET__TRY(ramet__nets_check(graph));
    RAMET__TRY(ramet__nets_keep(NULL, graph, variables, ""));
    ramet__mem *mem = graph->g->rt->mem;
    ramet_status st = RAMET_OK;
    struct ramet__variable **q = NULL;
    ramet__val *wrt = NULL, *grad = NULL;
    int32_t n = 0;
    const int64_t writes = graph->g->n_writes;
    RAMET__NEW(q, ramet__calloc(mem, (size_t)variables->n + 1, sizeof *q));
    RAMET__NEW(wrt, ramet__calloc(mem, (size_t)variables->n + 1, sizeof *wrt));
    RAMET__NEW(grad, ramet__calloc(mem, (size_t)variables->n + 1, sizeof *grad));
    for (int64_t i = 0; i < variables->n; i++)
        for (int64_t j = 0; variables->item[i]->trainable && j < graph->g->n_values; j++)
            if (graph->g->values[j].var == &variables->item[i]->pool.param->value) {
                q[n] = variables->item[i];
                wrt[n++] = (ramet__val)j;
                break;
            }
    RAMET__GO(ramet__graph_gradient(graph->g, loss, wrt, n, grad));
    int32_t any = 0;
    for (int32_t i = 0; i < n; i++) {
        if (grad[i] < 0) continue;
        ramet__op_write(graph->g, &q[i]->pool.param->grad, grad[i], 1);
        RAMET__GO(ramet__graph_status(graph->g));
        q[i]->summed = any = 1;
    }
    if (!any) st = ramet__fail(RAMET_E_ARGUMENT, "graph: train: the loss depends on none of the variables");
out:
    ramet__free(q);
    ramet__free(wrt);
    ramet__free(grad);
    if (st) graph->g->n_writes = writes;
    settle(graph);
    return st;
}
ramet_status ramet_graph_output(ramet_graph *graph, const char *name, int32_t v) {
    RAMET__TRY(ramet__nets_check(graph));
    ramet__graph *g = graph->g;
    if (ramet__is_val(g, v) && g->values[v].leaf == RAMET__LEAF_VAR) { /* as it was when the run began: a copy */
        ramet__gshape shape = *ramet__graph_shape(g, v);
        ramet__attr attr = {.i = {1}, .p = g->values[v].var};
        v = ramet__node_add(g, &ramet__opdef_version, &v, 1, &shape, 1, &attr);
    }
    ramet__graph_output(g, name, v);
    return settle(graph);
}
ramet_status ramet_graph_write(ramet_graph *graph, ramet_variables *variables, const char *name, int32_t v, int32_t accumulate) {
    struct ramet__variable *q;
    RAMET__TRY(ramet__nets_check(graph));
    RAMET__TRY(ramet__nets_keep(&q, graph, variables, name));
    ramet__op_write(graph->g, &q->pool.param->value, v, accumulate);
    return settle(graph);
}
