/* SPDX-License-Identifier: Apache-2.0 */
/* graph.c - building: values, nodes, leaves, slots, outputs, writes. Errors stick to the graph. See graph.h. */
#include "graph/op.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

ramet_status ramet__graph_create(ramet__graph **out, ramet_runtime *rt, int64_t max_rows, int64_t max_outs,
                                 int32_t max_rank) {
    RAMET__TRY(ramet__runtime_check(rt));
    if (max_rows < 1 || max_rows > INT32_MAX || max_outs < 0 || max_outs > INT32_MAX || max_rank < 0 ||
        max_rank > 65536)
        return ramet__fail(RAMET_E_ARGUMENT,
                           "graph: max_rows %" PRId64 ", max_outs %" PRId64 ", max_rank %d: out of range", max_rows,
                           max_outs, max_rank);
    ramet__graph *g = ramet__calloc(rt->mem, 1, sizeof *g);
    if (!g) return ramet__alloc_status();
    g->rt = ramet__runtime_retain(rt);
    g->max_rows = max_rows;
    g->max_outs = max_outs;
    g->max_rank = max_rank;
    g->names.mem = rt->mem;
    *out = g;
    return RAMET_OK;
}

void ramet__graph_free(ramet__graph *g) {
    if (!g) return;
    for (int64_t i = 0; i < g->n_values; i++) ramet__weight_free(g->values[i].weight);
    for (int64_t i = 0; i < g->n_bodies; i++) ramet__graph_free(g->bodies[i]);
    ramet__free(g->bodies);
    ramet__free(g->nodes);
    ramet__free(g->values);
    ramet__free(g->outputs);
    ramet__free(g->slots);
    ramet__free(g->writes);
    ramet__free(g->message);
    ramet__arena_free(&g->names);
    ramet_runtime *rt = g->rt;
    ramet__free(g);
    ramet_runtime_free(rt);
}

ramet_status ramet__graph_status(const ramet__graph *g) {
    if (!g->status) return RAMET_OK;
    return g->message ? ramet__fail(g->status, "%s", g->message) : ramet__fail(g->status, "graph: out of memory");
}
ramet_runtime *ramet__graph_runtime(const ramet__graph *g) { return g->rt; }

/* Remember the thread's current message as the graph's first failure. */
static void stick(ramet__graph *g, ramet_status status) {
    if (g->status || !status) return;
    g->status = status;
    char copy[512];
    snprintf(copy, sizeof copy, "%s", ramet_last_error());
    g->message = ramet__strdup(g->rt->mem, copy);
    if (!g->message) ramet__fail(status, "%s", copy);
}

void ramet__graph_fail(ramet__graph *g, ramet_status status, const char *format, ...) {
    if (g->status) return;
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ramet__fail(status, "%s", text);
    stick(g, status);
}

int32_t ramet__want(ramet__graph *g, int32_t ok, const char *op, const char *format, ...) {
    if (g->status) return 0;
    if (ok) return 1;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ramet__graph_fail(g, RAMET_E_ARGUMENT, "%s: %s", op, text);
    return 0;
}

/* ---- shapes ---- */
int32_t ramet__is_val(const ramet__graph *g, ramet__val v) { return !g->status && v >= 0 && v < g->n_values; }
const ramet__gshape *ramet__graph_shape(const ramet__graph *g, ramet__val v) {
    static const ramet__gshape none = {0, RAMET__AXIS_STATIC, {0}};
    return v >= 0 && v < g->n_values ? &g->values[v].shape : &none;
}
ramet__type ramet__graph_type(const ramet__graph *g, ramet__val v) {
    return v >= 0 && v < g->n_values ? g->values[v].type : RAMET__TYPE_F32;
}
const ramet__node *ramet__producer(const ramet__graph *g, ramet__val v) {
    return v >= 0 && v < g->n_values && g->values[v].node >= 0 ? &g->nodes[g->values[v].node] : NULL;
}
int32_t ramet__needs(const ramet__graph *g, const ramet__node *n, int32_t i) {
    return i < n->n_in && n->in[i] >= 0 && g->values[n->in[i]].type == RAMET__TYPE_F32 &&
           (!g->depends || g->depends[n->in[i]]);
}
int32_t ramet__same_shape(const ramet__gshape *a, const ramet__gshape *b) {
    if (a->rank != b->rank || a->axis != b->axis) return 0;
    for (int32_t i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i]) return 0;
    return 1;
}
int32_t ramet__is_scalar(const ramet__gshape *s) {
    return s->rank == 1 && s->axis == RAMET__AXIS_STATIC && s->dim[0] == 1;
}
int64_t ramet__gcols(const ramet__gshape *s) {
    if (s->rank == 1) return s->axis == RAMET__AXIS_STATIC ? s->dim[0] : 1;
    int64_t n = 1;
    for (int32_t i = 1; i < s->rank; i++) n *= s->dim[i];
    return n;
}
int64_t ramet__grows(const ramet__gshape *s) { return s->rank == 1 && s->axis == RAMET__AXIS_STATIC ? 1 : s->dim[0]; }
ramet__gshape ramet__gshape1(int64_t n) { return (ramet__gshape){1, RAMET__AXIS_STATIC, {n}}; }
ramet__gshape ramet__gshape2(ramet__axis axis, int64_t rows, int64_t cols) {
    return (ramet__gshape){2, axis, {rows, cols}};
}
ramet__gshape ramet__row_shape(const ramet__gshape *s) {
    /* a static [n,k] has no rank-1 form with rows of its own: [n,1] keeps them */
    return s->axis == RAMET__AXIS_STATIC ? ramet__gshape2(RAMET__AXIS_STATIC, ramet__grows(s), 1)
                                         : (ramet__gshape){1, s->axis, {s->dim[0]}};
}
void ramet__gshape_text(char text[96], const ramet__gshape *s) {
    size_t n = 0;
    text[n++] = '[';
    for (int32_t i = 0; i < s->rank && n < 80; i++) {
        const char *axis = i || s->axis == RAMET__AXIS_STATIC ? "" : s->axis == RAMET__AXIS_ROWS ? "rows<=" : "outs<=";
        n += (size_t)snprintf(text + n, 96 - n, "%s%s%" PRId64, i ? ", " : "", axis, s->dim[i]);
    }
    snprintf(text + RAMET__MIN(n, 94), 2, "]");
}

/* ---- values and nodes ---- */
ramet__val ramet__value_new(ramet__graph *g, const ramet__gshape *shape, ramet__type type) {
    if (g->status) return -1;
    ramet_status st = ramet__grow(g->rt->mem, &g->values, &g->cap_values, g->n_values + 1, sizeof *g->values);
    if (st) {
        stick(g, st);
        return -1;
    }
    g->values[g->n_values] = (ramet__value){.shape = *shape, .type = type, .node = -1};
    return (ramet__val)g->n_values++;
}

ramet__val ramet__node_add(ramet__graph *g, const ramet__op *op, const ramet__val *in, int32_t n_in,
                           const ramet__gshape *shapes, int32_t n_out, const ramet__attr *attr) {
    if (g->status) return -1;
    ramet_status st = ramet__grow(g->rt->mem, &g->nodes, &g->cap_nodes, g->n_nodes + 1, sizeof *g->nodes);
    if (st) {
        stick(g, st);
        return -1;
    }
    ramet__node n = {.op = op, .n_in = n_in, .n_out = n_out};
    if (attr) n.attr = *attr;
    for (int32_t i = 0; i < n_in; i++) n.in[i] = in[i];
    for (int32_t i = 0; i < n_out; i++) {
        n.out[i] = ramet__value_new(g, &shapes[i], RAMET__TYPE_F32);
        if (n.out[i] < 0) return -1;
        g->values[n.out[i]].node = (int32_t)g->n_nodes;
        g->values[n.out[i]].index = i;
    }
    g->nodes[g->n_nodes++] = n;
    return n.out[0];
}

/* ---- leaves ---- */
static char *keep_name(ramet__graph *g, const char *name) {
    char *copy = g->status ? NULL : ramet__arena_strndup(&g->names, name, strlen(name));
    if (!copy && !g->status) stick(g, ramet__alloc_status());
    return copy;
}

ramet__val ramet__graph_input(ramet__graph *g, const char *name, ramet__type type, ramet__axis axis, int64_t cols) {
    if (!ramet__want(g, name && *name && cols >= 0, "input", "needs a name and columns >= 0")) return -1;
    int64_t most = axis == RAMET__AXIS_ROWS ? g->max_rows : axis == RAMET__AXIS_OUTS ? g->max_outs : 1;
    ramet__gshape shape =
        cols || axis == RAMET__AXIS_STATIC ? ramet__gshape2(axis, most, cols) : (ramet__gshape){1, axis, {most}};
    if (axis == RAMET__AXIS_STATIC) shape = ramet__gshape1(RAMET__MAX(1, cols));
    for (int64_t i = 0; i < g->n_values; i++) {
        const ramet__value *v = &g->values[i];
        if (v->leaf != RAMET__LEAF_INPUT || strcmp(v->name, name)) continue;
        return ramet__want(g, v->type == type && ramet__same_shape(&v->shape, &shape), "input",
                           "'%s' was named before with another type or shape", name)
                   ? (ramet__val)i
                   : -1;
    }
    char *copy = keep_name(g, name);
    ramet__val v = copy ? ramet__value_new(g, &shape, type) : -1;
    if (v >= 0) {
        g->values[v].leaf = RAMET__LEAF_INPUT;
        g->values[v].name = copy;
    }
    return v;
}

static ramet__gshape from_shape(const ramet__shape *s) {
    ramet__gshape out = {s->rank, RAMET__AXIS_STATIC, {0}};
    for (int32_t i = 0; i < s->rank && i < RAMET__MAX_RANK; i++) out.dim[i] = s->dim[i];
    return out;
}

ramet__val ramet__graph_weight(ramet__graph *g, ramet__weight *w) {
    if (!ramet__want(g, w != NULL, "weight", "is NULL")) return -1;
    for (int64_t i = 0; i < g->n_values; i++)
        if (g->values[i].weight == w) return (ramet__val)i;
    ramet__gshape shape = from_shape(ramet__weight_shape(w));
    if (!ramet__want(g, shape.rank == 1 || shape.rank == 2, "weight", "'%s' has %d dimensions; 1 or 2 are supported",
                     ramet__weight_name(w), shape.rank))
        return -1;
    ramet__val v = ramet__value_new(g, &shape, RAMET__TYPE_F32);
    if (v >= 0) {
        g->values[v].leaf = RAMET__LEAF_WEIGHT;
        g->values[v].weight = ramet__weight_retain(w);
    }
    return v;
}

ramet__val ramet__graph_var(ramet__graph *g, ramet__var *var) {
    if (!ramet__want(g, var && var->data && var->name, "variable", "is NULL or has no name or data")) return -1;
    ramet__val leaf = -1;
    for (int64_t i = 0; i < g->n_values && leaf < 0; i++)
        if (g->values[i].leaf == RAMET__LEAF_VAR && g->values[i].var == var) leaf = (ramet__val)i;
    ramet__gshape shape = from_shape(&var->shape);
    if (leaf < 0) {
        if (!ramet__want(g, shape.rank == 1 || shape.rank == 2, "variable",
                         "'%s' has %d dimensions; 1 or 2 are supported", var->name, shape.rank))
            return -1;
        leaf = ramet__value_new(g, &shape, RAMET__TYPE_F32);
        if (leaf >= 0) {
            g->values[leaf].leaf = RAMET__LEAF_VAR;
            g->values[leaf].var = var;
        }
    }
    /* after a write: its value, behind a node that refuses to be differentiated */
    for (int64_t i = 0; i < g->n_writes; i++) {
        ramet__written *w = &g->writes[i];
        if (w->var != var) continue;
        if (w->version < 0) {
            ramet__val v = w->accumulate ? ramet__op_add(g, leaf, w->v) : w->v;
            ramet__attr attr = {.p = var};
            ramet__val version = ramet__node_add(g, &ramet__opdef_version, &v, 1, &shape, 1, &attr);
            g->writes[i].version = version;
        }
        return g->writes[i].version;
    }
    return leaf;
}

ramet__val ramet__graph_const(ramet__graph *g, float value) {
    for (int64_t i = 0; i < g->n_values; i++) {
        if (g->values[i].leaf == RAMET__LEAF_CONST && !memcmp(&g->values[i].number, &value, sizeof value))
            return g->status ? -1 : (ramet__val)i;
    }
    ramet__gshape shape = ramet__gshape1(1);
    ramet__val v = ramet__value_new(g, &shape, RAMET__TYPE_F32);
    if (v >= 0) {
        g->values[v].leaf = RAMET__LEAF_CONST;
        g->values[v].number = value;
    }
    return v;
}

int32_t ramet__graph_slot_index(const ramet__graph *g, const char *name) {
    for (int64_t i = 0; i < g->n_slots; i++)
        if (!strcmp(g->values[g->slots[i].a].name, name)) return (int32_t)i;
    return -1;
}
int32_t ramet__graph_slot_count(const ramet__graph *g) { return (int32_t)g->n_slots; }

ramet__slot ramet__graph_slot(ramet__graph *g, const char *name, int64_t n, int64_t k) {
    ramet__slot none = {-1, -1, 0};
    if (!ramet__want(g, name && *name && n > 0 && k > 0, "slot", "needs a name and sizes > 0")) return none;
    if (!ramet__want(g, g->max_rank > 0, "slot", "'%s': the graph was made with max_rank 0", name)) return none;
    int32_t at = ramet__graph_slot_index(g, name);
    if (at >= 0) {
        ramet__slot s = g->slots[at];
        return ramet__want(g, g->values[s.a].shape.dim[1] == k && g->values[s.b].shape.dim[0] == n, "slot",
                           "'%s' was named before with another shape", name)
                   ? s
                   : none;
    }
    ramet_status st = ramet__grow(g->rt->mem, &g->slots, &g->cap_slots, g->n_slots + 1, sizeof *g->slots);
    if (st) {
        stick(g, st);
        return none;
    }
    char *copy = keep_name(g, name);
    ramet__gshape sa = ramet__gshape2(RAMET__AXIS_STATIC, g->max_rank, k),
                  sb = ramet__gshape2(RAMET__AXIS_STATIC, n, g->max_rank);
    ramet__slot s = {copy ? ramet__value_new(g, &sa, RAMET__TYPE_F32) : -1,
                     copy ? ramet__value_new(g, &sb, RAMET__TYPE_F32) : -1, 0};
    if (s.a < 0 || s.b < 0) return none;
    for (int32_t i = 0; i < 2; i++) {
        ramet__value *v = &g->values[i ? s.b : s.a];
        v->leaf = RAMET__LEAF_SLOT;
        v->name = copy;
        v->index = (int32_t)g->n_slots * 2 + i;
    }
    g->slots[g->n_slots++] = s;
    return s;
}

void ramet__op_write(ramet__graph *g, ramet__var *var, ramet__val v, int32_t accumulate) {
    if (!ramet__want(g, var && var->data && var->name, "write", "the variable is NULL or has no name or data")) return;
    if (!ramet__want(g, ramet__is_val(g, v) && g->values[v].type == RAMET__TYPE_F32, "write", "'%s': no such value",
                     var->name))
        return;
    ramet__gshape shape = from_shape(&var->shape);
    const ramet__gshape *s = &g->values[v].shape;
    if (!ramet__want(g,
                     s->axis == RAMET__AXIS_STATIC &&
                         ramet__grows(s) * ramet__gcols(s) == ramet__grows(&shape) * ramet__gcols(&shape),
                     "write", "'%s': the value has another size than the variable", var->name))
        return;
    for (int64_t i = 0; i < g->n_writes; i++)
        if (!ramet__want(g, g->writes[i].var != var, "write", "'%s' is written twice in one graph", var->name)) return;
    const ramet__node *n = ramet__producer(g, v);
    ramet__val from = v;
    for (; n && n->n_in == 1 && n->op->gradient &&
           (n->op == &ramet__opdef_stop_gradient || n->op == &ramet__opdef_reverse_gradient ||
            n->op == &ramet__opdef_tap);
         n = ramet__producer(g, from))
        from = n->in[0];
    if (g->values[from].leaf == RAMET__LEAF_VAR) { /* may be written itself: copy before the last stage */
        ramet__attr attr = {.i = {1}, .p = var};
        v = ramet__node_add(g, &ramet__opdef_version, &v, 1, s, 1, &attr);
    }
    ramet_status st = ramet__grow(g->rt->mem, &g->writes, &g->cap_writes, g->n_writes + 1, sizeof *g->writes);
    if (st) {
        stick(g, st);
        return;
    }
    g->writes[g->n_writes++] = (ramet__written){var, v, -1, accumulate != 0};
}

void ramet__graph_output(ramet__graph *g, const char *name, ramet__val v) {
    if (!ramet__want(g, name && *name && ramet__is_val(g, v), "output", "needs a name and a value")) return;
    if (!ramet__want(g, g->values[v].leaf != RAMET__LEAF_SLOT, "output", "'%s': a slot's matrices are the caller's",
                     name))
        return;
    for (int64_t i = 0; i < g->n_outputs; i++)
        if (!ramet__want(g, strcmp(g->outputs[i].name, name) != 0, "output", "'%s' is named twice", name)) return;
    ramet_status st = ramet__grow(g->rt->mem, &g->outputs, &g->cap_outputs, g->n_outputs + 1, sizeof *g->outputs);
    if (st) {
        stick(g, st);
        return;
    }
    char *copy = keep_name(g, name);
    if (copy) g->outputs[g->n_outputs++] = (ramet__named){copy, v, 0, 0};
}

/* ---- the list ---- */
int32_t ramet__op_list(int32_t i, const char **name, const char **detail) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverlength-strings"
    static const char ops[] = /* name, summary, name ... */
#define RAMET__OP(op, summary) #op "\0" summary "\0"
#include "graph/ops.def"
#undef RAMET__OP
        ;
#pragma GCC diagnostic pop
    const char *at = ops, *end = ops + sizeof ops - 1;
    for (int64_t skip = 2 * (int64_t)i; skip > 0 && at < end; skip--) at += strlen(at) + 1;
    if (i < 0 || at >= end) return 0;
    *name = at;
    *detail = at + strlen(at) + 1;
    return 1;
}
