/* SPDX-License-Identifier: Apache-2.0 */
/* fuse.c - rewrites a plan's copy of the nodes after differentiation: identities disappear, unread nodes too, and
 * patterns become fused operations that are never differentiated. Every pass matches on who reads a value, so a value that is an
 * output, is written to a variable, or has a further reader is left alone. */
#include "graph/op.h"
#include <string.h>

static ramet__val real(const ramet__work *w, ramet__val v) {
    while (v >= 0 && w->alias[v] != v) v = w->alias[v];
    return v;
}
static int32_t is_kept_tap(const ramet__work *w, const ramet__node *n) {
    return n->op == &ramet__opdef_tap && w->tap_prefix && !strncmp(n->attr.p, w->tap_prefix, strlen(w->tap_prefix));
}

void ramet__work_count(ramet__work *w) {
    for (int32_t again = 1; again;) {
        again = 0;
        memcpy(w->uses, w->keep, (size_t)w->g->n_values * sizeof *w->uses);
        for (int64_t v = 0; v < w->g->n_values; v++) w->maker[v] = -1;
        for (int64_t i = 0; i < w->n_nodes; i++) {
            ramet__node *n = &w->nodes[i];
            if (!n->op) continue;
            for (int32_t j = 0; j < n->n_in; j++)
                if (n->in[j] >= 0) w->uses[n->in[j]]++;
            for (int32_t j = 0; j < n->n_out; j++) w->maker[n->out[j]] = (int32_t)i;
        }
        for (int64_t i = w->n_nodes - 1; i >= 0; i--) { /* readers come after: most of a dead chain goes in one sweep */
            ramet__node *n = &w->nodes[i];
            if (!n->op || is_kept_tap(w, n)) continue;
            int32_t read = 0;
            for (int32_t j = 0; j < n->n_out; j++) read |= w->uses[n->out[j]];
            if (read) continue;
            for (int32_t j = 0; j < n->n_in; j++)
                if (n->in[j] >= 0) w->uses[n->in[j]]--;
            n->op = NULL;
            again = 1;
        }
    }
}

/* The only maker / the single-use test / the next reader of v from node `from` on. */
static ramet__node *maker(ramet__work *w, ramet__val v) {
    return v >= 0 && w->maker[v] >= 0 ? &w->nodes[w->maker[v]] : NULL;
}
static int32_t once(const ramet__work *w, ramet__val v) { return w->uses[v] == 1 && !w->keep[v]; }
static int32_t reads(const ramet__node *n, ramet__val v) {
    for (int32_t j = 0; n->op && j < n->n_in; j++)
        if (n->in[j] == v) return 1;
    return 0;
}
static ramet__node *reader(ramet__work *w, ramet__val v, int64_t *from) {
    for (int64_t i = *from; i < w->n_nodes; i++)
        if (reads(&w->nodes[i], v)) {
            *from = i + 1;
            return &w->nodes[i];
        }
    return NULL;
}
static ramet__val other(const ramet__node *n, ramet__val v) { return n->in[0] == v ? n->in[1] : n->in[0]; }

/* ---- identities ---- */
static void drop_identities(ramet__work *w) {
    for (int64_t i = 0; i < w->n_nodes; i++) {
        ramet__node *n = &w->nodes[i];
        for (int32_t j = 0; j < n->n_in; j++) n->in[j] = real(w, n->in[j]);
        int32_t copies = n->op == &ramet__opdef_version && n->attr.i[0];
        if (n->op != &ramet__opdef_stop_gradient && n->op != &ramet__opdef_reverse_gradient &&
            n->op != &ramet__opdef_tap && (n->op != &ramet__opdef_version || copies))
            continue;
        w->alias[n->out[0]] = n->in[0];
        if (!is_kept_tap(w, n)) n->op = NULL;
    }
    for (int64_t v = 0; v < w->g->n_values; v++)
        if (real(w, (ramet__val)v) != v && w->keep[v]) {
            w->keep[real(w, (ramet__val)v)] += w->keep[v];
            w->keep[v] = 0;
        }
}

/* ---- silu(g) * u, and its gradient dg = silu_grad(g, dm * u), du = dm * silu(g) ---- */
static void fuse_swiglu(ramet__work *w) {
    for (int64_t i = 0; i < w->n_nodes; i++) {
        ramet__node *s = &w->nodes[i];
        if (s->op != &ramet__opdef_silu || w->keep[s->out[0]] || w->uses[s->out[0]] > 2) continue;
        ramet__val sv = s->out[0], gate = s->in[0];
        int64_t from = 0;
        ramet__node *m = reader(w, sv, &from);
        if (!m || m->op != &ramet__opdef_mul || m->attr.i[0] != 0 || m->in[0] == m->in[1]) continue;
        ramet__val up = other(m, sv);
        if (w->uses[sv] == 2) {
            ramet__node *du = reader(w, sv, &from), *dgate = NULL, *dsilu = NULL;
            if (!du || du->op != &ramet__opdef_mul || du->attr.i[0] != 0 || du->in[0] == du->in[1]) continue;
            ramet__val dm = other(du, sv);
            for (int64_t at = 0; (dgate = reader(w, gate, &at));) {
                if (dgate->op != &ramet__opdef_silu_grad || dgate->in[0] != gate) continue;
                dsilu = maker(w, dgate->in[1]);
                if (dsilu && dsilu->op == &ramet__opdef_mul && dsilu->attr.i[0] == 0 && once(w, dsilu->out[0]) &&
                    ((dsilu->in[0] == dm && dsilu->in[1] == up) || (dsilu->in[0] == up && dsilu->in[1] == dm)))
                    break;
            }
            if (!dgate) continue;
            ramet__val out[2] = {dgate->out[0], du->out[0]};
            *du = (ramet__node){
                .op = &ramet__opdef_swiglu_grad, .n_in = 3, .n_out = 2, .in = {gate, up, dm}, .out = {out[0], out[1]}};
            dgate->op = dsilu->op = NULL;
        }
        m->op = &ramet__opdef_swiglu;
        m->in[0] = gate;
        m->in[1] = up;
        s->op = NULL;
        ramet__work_count(w);
    }
}

/* ---- vocabulary product + loss (+ gradient + transposed product) ---- */
static int32_t depends_on(ramet__work *w, ramet__val v, const ramet__node *node, int32_t depth) {
    const ramet__node *n = maker(w, v);
    if (!n) return 0;
    if (n == node || depth > 16) return 1; /* deep: say yes, which only leaves the pattern unfused */
    for (int32_t j = 0; j < n->n_in; j++)
        if (n->in[j] >= 0 && depends_on(w, n->in[j], node, depth + 1)) return 1;
    return 0;
}
static void fuse_head(ramet__work *w) {
    for (int64_t i = 0; i < w->n_nodes; i++) {
        ramet__node *l = &w->nodes[i];
        int32_t kl = l->op == &ramet__opdef_kl_top;
        if (l->op != &ramet__opdef_cross_entropy && !kl) continue;
        ramet__val z = l->in[0];
        ramet__node *product = maker(w, z), *grad = NULL, *dx = NULL;
        if (!product || product->op != &ramet__opdef_linear || w->keep[z] || product->in[2] >= 0 ||
            product->in[3] >= 0 || w->g->values[product->in[1]].leaf != RAMET__LEAF_WEIGHT)
            continue;
        if (w->uses[z] == 2) {
            int64_t from = 0;
            while ((grad = reader(w, z, &from)) == l) {
            }
            const ramet__op *want = kl ? &ramet__opdef_kl_top_grad : &ramet__opdef_cross_entropy_grad;
            if (!grad || grad->op != want || grad->in[0] != z || grad->in[1] != l->in[1] ||
                (kl && grad->in[3] != l->in[3]) || !once(w, grad->out[0]))
                continue;
            from = 0;
            dx = reader(w, grad->out[0], &from);
            if (!dx || dx->op != &ramet__opdef_linear_dx || dx->in[0] != grad->out[0] || dx->in[1] != product->in[1] ||
                depends_on(w, grad->in[2], l, 0))
                continue;
        } else if (w->uses[z] != 1)
            continue;
        ramet__node n = {
            .op = &ramet__opdef_head_loss,
            .n_in = 6,
            .n_out = dx ? 3 : 2,
            .in = {product->in[0], product->in[1], l->in[1], l->in[2], kl ? l->in[3] : -1, grad ? grad->in[2] : -1},
            .out = {l->out[0], l->out[1], dx ? dx->out[0] : -1},
            .attr = l->attr};
        product->op = NULL;
        if (grad) grad->op = dx->op = NULL;
        *l = n;
        ramet__work_count(w);
    }
}

/* ---- a + f(...): f adds to a itself ---- */
static int32_t into_base(ramet__work *w, ramet__val term, ramet__val sum, const ramet__gshape *shape) {
    for (;;) {
        ramet__node *n = once(w, term) ? maker(w, term) : NULL;
        if (!n || !n->op->base || n->out[0] != term || !ramet__same_shape(&w->g->values[term].shape, shape) ||
            (n->op == &ramet__opdef_linear && n->attr.i[0] != 1) ||
            (n->op == &ramet__opdef_slot_nt && n->attr.i[2])) /* what is added to a product must not be multiplied by its gain */
            return 0;
        ramet__val *base = &n->in[n->op->base];
        if (*base < 0) {
            *base = sum;
            return 1;
        }
        term = *base;
    }
}
static void fuse_add(ramet__work *w) {
    for (int64_t i = 0; i < w->n_nodes; i++) {
        ramet__node *a = &w->nodes[i];
        if (a->op != &ramet__opdef_add || a->attr.i[0] != 0 || a->in[0] == a->in[1]) continue;
        const ramet__gshape *shape = &w->g->values[a->out[0]].shape;
        for (int32_t j = 1; j >= 0; j--) {
            ramet__val term = a->in[j];
            if (!into_base(w, term, a->in[!j], shape)) continue;
            ramet__node *n = maker(w, term);
            n->out[0] = a->out[0];
            a->op = NULL;
            ramet__work_count(w);
            break;
        }
    }
}

/* ---- products of one x: up to three parts of one node, so that its rows are prepared once and there is one barrier
 * ---- */
#define PARTS 3
static int32_t groups(const ramet__work *w, const ramet__node *n) {
    return n->op == &ramet__opdef_linear && n->attr.i[0] == 1 && n->in[3] < 0 && w->maker[n->in[1]] < 0 &&
           (n->in[2] < 0 || w->maker[n->in[2]] < 0);
}
static void fuse_products(ramet__work *w) {
    for (int64_t i = 0; i < w->n_nodes; i++) {
        ramet__node *a = &w->nodes[i];
        if (!groups(w, a)) continue;
        for (int64_t j = i + 1; j < w->n_nodes && a->attr.i[0] < PARTS; j++) {
            ramet__node *b = &w->nodes[j];
            if (!groups(w, b) || b->in[0] != a->in[0]) continue;
            int64_t part = a->attr.i[0]++;
            memcpy(&a->in[1 + 3 * part], &b->in[1], 3 * sizeof *a->in);
            a->n_in = (int32_t)(4 + 3 * part);
            a->out[part] = b->out[0];
            a->n_out = (int32_t)part + 1;
            b->op = NULL;
        }
    }
    ramet__work_count(w);
}

/* ---- what an adapter's second matrix adds to a product, and its first to the gradient of the product's input: added to each piece while it is at hand ---- */
#define SLOTS (1 + 3 * PARTS)
static int32_t of_slot(const ramet__work *w, const ramet__node *n, const ramet__op *op, int64_t which) {
    return n && n->op == op && n->attr.i[1] == which && !n->attr.i[2] && w->g->values[n->in[1]].leaf == RAMET__LEAF_SLOT;
}
static void fuse_slots(ramet__work *w) {
    for (int64_t i = 0; i < w->n_nodes; i++) {
        ramet__node *s = &w->nodes[i], *n = s->op ? maker(w, s->in[2]) : NULL;
        if (of_slot(w, s, &ramet__opdef_slot_nt, 1)) {
            const ramet__node *t = maker(w, s->in[0]);
            if (!n || n->op != &ramet__opdef_linear || !once(w, s->in[2]) || !of_slot(w, t, &ramet__opdef_slot_nt, 0) || t->in[0] != n->in[0] || t->in[2] >= 0) continue;
            for (; n->n_in < SLOTS + 2 * PARTS; n->n_in++) n->in[n->n_in] = -1;
            for (int32_t part = 0; part < n->n_out; part++) {
                if (n->out[part] != s->in[2]) continue;
                n->in[SLOTS + 2 * part] = s->in[0];
                n->in[SLOTS + 2 * part + 1] = s->in[1];
                n->attr.i[1 + part] = s->attr.i[0];
                n->out[part] = s->out[0];
            }
            s->op = NULL;
        } else if (of_slot(w, s, &ramet__opdef_slot_nn, 0)) {
            int64_t from = 0;
            ramet__node *after = once(w, s->out[0]) ? reader(w, s->out[0], &from) : NULL;
            if (n && n->op == &ramet__opdef_linear_dx && n->n_in == 3 && once(w, s->in[2]) && !depends_on(w, s->in[0], n, 0)) n->out[0] = s->out[0];
            else if (after && after->op == &ramet__opdef_linear_dx && after->n_in == 3 && after->in[2] == s->out[0] && after->in[0] != s->out[0]) {
                n = after;
                n->in[2] = s->in[2];
            } else continue;
            n->in[3] = s->in[0];
            n->in[4] = s->in[1];
            n->n_in = 5;
            n->attr.i[1] = s->attr.i[0];
            s->op = NULL;
        } else continue;
        ramet__work_count(w);
    }
}

/* ---- swiglu of two products, gelu of one, that nobody else reads: they are never stored ---- */
static void fuse_gate(ramet__work *w) {
    for (int64_t i = 0; i < w->n_nodes; i++) {
        ramet__node *s = &w->nodes[i], *n = s->op ? maker(w, s->in[0]) : NULL;
        const int64_t parts = s->op == &ramet__opdef_swiglu ? 2 : s->op == &ramet__opdef_gelu ? 1 : 0;
        if (!parts || !n || n->op != &ramet__opdef_linear || n->attr.i[0] != parts) continue;
        int32_t good = 1;
        for (int32_t j = 0; j < parts; j++) good &= n->out[j] == s->in[j] && once(w, n->out[j]) && n->in[3 + 3 * j] < 0;
        if (!good) continue;
        n->op = parts == 2 ? &ramet__opdef_linear_swiglu : &ramet__opdef_linear_gelu;
        n->out[0] = s->out[0];
        n->n_out = 1;
        s->op = NULL;
        ramet__work_count(w);
    }
}

/* ---- small nets: relu(conv2d(...)) in the lines that were just made, and where the gradient of the largest of windows of a relu goes, only above zero ---- */
static void fuse_relu(ramet__work *w) {
    for (int64_t i = 0; i < w->n_nodes; i++) {
        ramet__node *n = &w->nodes[i];
        const int32_t back = n->op == &ramet__opdef_relu_grad;
        if (!back && n->op != &ramet__opdef_relu) continue;
        const ramet__val from = n->in[back];
        ramet__node *p = once(w, from) ? maker(w, from) : NULL;
        if (!p || (back ? p->op != &ramet__opdef_max_place || p->in[0] != n->in[0] : p->op != &ramet__opdef_conv2d)) continue;
        if (back) p->attr.i[6] = 1;
        else p->attr.f[0] = 1.0f;
        p->out[0] = n->out[0];
        n->op = NULL;
        ramet__work_count(w);
    }
}

ramet_status ramet__fuse(ramet__work *w) {
    drop_identities(w);
    ramet__work_count(w);
    fuse_swiglu(w);
    fuse_head(w);
    fuse_add(w);
    fuse_products(w);
    fuse_slots(w);
    fuse_gate(w);
    fuse_relu(w);
    return RAMET_OK;
}

/* As built, but what a node reads comes before it: fusion moves some results to an earlier or later node. */
ramet_status ramet__work_order(ramet__work *w, int32_t **order, int64_t *n) {
    ramet_status st = RAMET_OK;
    int64_t count = 0, depth = 0;
    uint8_t *state = NULL; /* 0 new, 1 open, 2 done */
    int32_t *list = NULL, *stack = NULL;
    RAMET__NEW(state, ramet__calloc(w->mem, (size_t)w->n_nodes + 1, 1));
    RAMET__NEW(list, ramet__calloc(w->mem, (size_t)w->n_nodes + 1, sizeof *list));
    RAMET__NEW(stack, ramet__calloc(w->mem, (size_t)w->n_nodes + 1, sizeof *stack));
    for (int64_t i = 0; i < w->n_nodes; i++) {
        if (!w->nodes[i].op || state[i]) continue;
        stack[depth++] = (int32_t)i;
        state[i] = 1;
        while (depth) {
            int32_t at = stack[depth - 1], next = -1;
            const ramet__node *node = &w->nodes[at];
            for (int32_t j = 0; j < node->n_in && next < 0; j++) {
                int32_t m = node->in[j] < 0 ? -1 : w->maker[node->in[j]];
                if (m >= 0 && state[m] == 0)
                    next = m;
                else if (m >= 0 && state[m] == 1) {
                    st = ramet__fail(RAMET_E_INTERNAL, "plan: a cycle through operation '%s'", node->op->name);
                    goto out;
                }
            }
            if (next >= 0) {
                state[next] = 1;
                stack[depth++] = next;
                continue;
            }
            state[at] = 2;
            list[count++] = at;
            depth--;
        }
    }
    *order = list;
    *n = count;
    list = NULL;
out:
    ramet__free(state);
    ramet__free(list);
    ramet__free(stack);
    return st;
}
