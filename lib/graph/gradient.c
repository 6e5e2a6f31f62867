/* SPDX-License-Identifier: Apache-2.0 */
/* gradient.c - reverse-mode differentiation that extends the graph, so that a gradient can be differentiated again.
 *
 * A node without a rule is replaced, for this purpose only, by what its `expand` builds: the new nodes are walked
 * backwards in its place, and what reaches their inputs (the same values as its own) adds up like any other use. */
#include "graph/op.h"
#include <string.h>

typedef struct reverse {
    ramet__graph *g;
    ramet__mem *mem;
    ramet__val *grad;
    int64_t cap_grad; /* of each value; -1: nothing yet */
    int32_t *depends;
    int64_t cap_depends; /* on one of wrt */
    int64_t known;       /* values that both arrays cover */
} reverse;

static ramet_status cover(reverse *r) {
    RAMET__TRY(ramet__grow(r->mem, &r->grad, &r->cap_grad, r->g->n_values, sizeof *r->grad));
    RAMET__TRY(ramet__grow(r->mem, &r->depends, &r->cap_depends, r->g->n_values, sizeof *r->depends));
    for (; r->known < r->g->n_values; r->known++) {
        r->grad[r->known] = -1;
        r->depends[r->known] = 0;
    }
    r->g->depends = r->depends;
    return RAMET_OK;
}

static void mark(reverse *r, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
        const ramet__node *n = &r->g->nodes[i];
        int32_t any = 0;
        for (int32_t j = 0; j < n->n_in; j++) any |= ramet__needs(r->g, n, j);
        if (n->op == &ramet__opdef_stop_gradient) any = 0;
        for (int32_t j = 0; j < n->n_out; j++)
            if (any) r->depends[n->out[j]] = 1;
    }
}

static void flow(reverse *r, ramet__val v, ramet__val d) {
    if (d < 0) return;
    r->grad[v] = r->grad[v] < 0 ? d : ramet__op_add(r->g, r->grad[v], d);
}

static ramet_status walk(reverse *r, int64_t from, int64_t to) {
    ramet__graph *g = r->g;
    for (int64_t i = to - 1; i >= from; i--) {
        const ramet__node n = g->nodes[i]; /* a copy: the array grows */
        ramet__val dout[RAMET__NODE_OUT], din[RAMET__NODE_IN];
        int32_t any = 0, wanted = 0;
        for (int32_t j = 0; j < n.n_out; j++) any |= (dout[j] = r->grad[n.out[j]]) >= 0;
        for (int32_t j = 0; j < n.n_in; j++) wanted |= ramet__needs(g, &n, j);
        if (!any || !wanted || n.op == &ramet__opdef_stop_gradient) continue;
        if (n.op->gradient) {
            for (int32_t j = 0; j < RAMET__NODE_IN; j++) din[j] = -1;
            n.op->gradient(g, &n, dout, din);
            RAMET__TRY(ramet__graph_status(g));
            RAMET__TRY(cover(r));
            for (int32_t j = 0; j < n.n_in; j++)
                if (ramet__needs(g, &n, j)) flow(r, n.in[j], din[j]);
        } else if (n.op->expand) {
            int64_t first = g->n_nodes;
            ramet__val out[RAMET__NODE_OUT];
            for (int32_t j = 0; j < RAMET__NODE_OUT; j++) out[j] = -1;
            n.op->expand(g, &n, out);
            RAMET__TRY(ramet__graph_status(g));
            int64_t last = g->n_nodes;
            RAMET__TRY(cover(r));
            mark(r, first, last);
            for (int32_t j = 0; j < n.n_out; j++)
                if (out[j] >= 0) flow(r, out[j], dout[j]);
            RAMET__TRY(cover(r));
            RAMET__TRY(walk(r, first, last));
        } else {
            const ramet__var *var = n.op == &ramet__opdef_version ? n.attr.p : NULL;
            ramet__graph_fail(g, RAMET_E_UNSUPPORTED,
                              var ? "gradient: cannot differentiate through the write of variable '%s'"
                                  : "gradient: operation '%s' has no derivative",
                              var ? var->name : n.op->name);
        }
        RAMET__TRY(ramet__graph_status(g));
        RAMET__TRY(cover(r));
    }
    return RAMET_OK;
}

ramet_status ramet__graph_pull(ramet__graph *g, const ramet__val *of, const ramet__val *seed, int32_t n_of, const ramet__val *wrt, int32_t n, ramet__val *grads) {
    reverse r = {.g = g, .mem = g->rt->mem};
    ramet_status st = RAMET_OK;
    int64_t nodes = g->n_nodes;
    RAMET__GO(cover(&r));
    for (int32_t i = 0; i < n; i++) r.depends[wrt[i]] = 1;
    mark(&r, 0, nodes);
    for (int32_t i = 0; i < n_of; i++) flow(&r, of[i], seed[i]);
    RAMET__GO(ramet__graph_status(g));
    RAMET__GO(cover(&r));
    RAMET__GO(walk(&r, 0, nodes));
    for (int32_t i = 0; i < n; i++) grads[i] = r.grad[wrt[i]];
out:
    g->depends = NULL;
    ramet__free(r.grad);
    ramet__free(r.depends);
    return st;
}

ramet_status ramet__graph_gradient(ramet__graph *g, ramet__val loss, const ramet__val *wrt, int32_t n,
                                   ramet__val *grads) {
    RAMET__TRY(ramet__graph_status(g));
    if (!ramet__is_val(g, loss) || !ramet__is_scalar(&g->values[loss].shape))
        return ramet__fail(RAMET_E_ARGUMENT, "gradient: the loss must be one number, [1]");
    for (int32_t i = 0; i < n; i++)
        if (!ramet__is_val(g, wrt[i]) || g->values[wrt[i]].type != RAMET__TYPE_F32)
            return ramet__fail(RAMET_E_ARGUMENT, "gradient: wrt[%d] is not a value of numbers", i);
    const ramet__val seed = ramet__graph_const(g, 1.0f);
    RAMET__TRY(ramet__graph_status(g));
    return ramet__graph_pull(g, &loss, &seed, 1, wrt, n, grads);
}
