/* SPDX-License-Identifier: Apache-2.0 */
/* scan_body.c - a loop over the rows of each sequence whose step is a graph: recurrent nets of any kind. The body has a plan of its own inside the
 * plan; a step gathers one row of every sequence that is still going on (the longest first, so that these are the first rows), runs it, and
 * puts the results back. State is read from the results of the step before, so every state is a result.
 *
 * The gradient (back-propagation through time, Werbos 1990) is the same loop the other way round over another part of the same body graph: of
 * the rows that the step read, its state before it and the gradients of its results, the gradients of what it read. The step before
 * is computed again rather than kept. What would be summed up over the steps as a product of rows is one product of all rows after the loop. */
#include "graph/op.h"
#include <string.h>

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int32_t is_rows(const ramet__graph *g, ramet__val v) { return shape(g, v)->axis == RAMET__AXIS_ROWS; }

/* ---- building ---- */
typedef struct made { /* a node in the making */
    ramet__scan_body b;
    ramet__val in[RAMET__NODE_IN];
} made;

static int32_t pass(ramet__graph *g, made *m, ramet__val to, ramet__val in) {
    if (!ramet__want(g, m->b.n_in < RAMET__NODE_IN - 1, "scan", "the body reads more than %d rows, values and states", RAMET__NODE_IN - 1)) return 0;
    m->b.in[m->b.n_in] = to;
    m->in[m->b.n_in++] = in;
    return 1;
}

static int32_t find(const ramet__val *list, int32_t n, ramet__val v) {
    for (int32_t i = 0; i < n; i++)
        if (list[i] == v) return i;
    return -1;
}
/* Which result v is; a new one where there is room. -1: there is none. */
static int32_t result(made *m, ramet__val v) {
    const int32_t at = find(m->b.out, m->b.n_out, v);
    if (at >= 0 || m->b.n_out == RAMET__NODE_OUT) return at;
    m->b.out[m->b.n_out] = v;
    return m->b.n_out++;
}

/* The node, after which the graph has its own copy of m->b. */
static void finish(ramet__graph *g, made *m, ramet__val seq, int32_t reversed, ramet__val *out) {
    ramet__gshape shapes[RAMET__NODE_OUT];
    ramet__scan_body *keep = g->status ? NULL : ramet__arena_alloc(&g->names, sizeof *keep);
    if (!keep) {
        ramet__graph_fail(g, RAMET_E_MEMORY, "graph: out of memory");
        return;
    }
    *keep = m->b;
    for (int32_t j = 0; j < m->b.n_out; j++) {
        shapes[j] = *shape(m->b.g, m->b.out[j]);
        if (shapes[j].axis == RAMET__AXIS_ROWS) shapes[j].dim[0] = g->max_rows;
    }
    m->in[m->b.n_in] = seq;
    ramet__attr attr = {.i = {reversed}, .p = keep};
    const ramet__val first = ramet__node_add(g, &ramet__opdef_scan_body, m->in, m->b.n_in + 1, shapes, m->b.n_out, &attr);
    for (int32_t j = 0; j < m->b.n_out && first >= 0; j++) out[j] = first + j; /* results of a node are neighbours */
}

static int32_t fits(ramet__graph *g, const ramet__graph *body, ramet__val to, ramet__val in) {
    char a[96], b[96];
    const ramet__value *t = &body->values[to];
    const char *name = t->name ? t->name : t->var ? t->var->name : "";
    if (!ramet__want(g, ramet__is_val(g, in) && (t->leaf == RAMET__LEAF_INPUT || t->leaf == RAMET__LEAF_VAR), "scan", "no such value, or not an input or variable of the body")) return 0;
    ramet__gshape_text(a, shape(g, in));
    ramet__gshape_text(b, &t->shape);
    return ramet__want(g,
                       t->type == ramet__graph_type(g, in) && t->shape.axis == shape(g, in)->axis && ramet__gcols(&t->shape) == ramet__gcols(shape(g, in)) && (t->shape.axis == RAMET__AXIS_ROWS ? t->shape.rank >= shape(g, in)->rank || t->type == RAMET__TYPE_I32 : ramet__same_shape(&t->shape, shape(g, in))),
                       "scan", "'%s' of the body is %s, and is given %s, or another type", name, b, a);
}

static int32_t whole(ramet__graph *g, const ramet__graph *body) { /* what a body may be */
    int32_t ok = ramet__want(g, body->rt == g->rt, "scan", "the body belongs to another runtime") && ramet__want(g, body != g, "scan", "a graph cannot be its own body") &&
                 ramet__want(g, !body->n_writes && !body->n_slots, "scan", "the body writes a variable or has adapters; a loop's step cannot") &&
                 ramet__want(g, body->n_outputs >= 1 && body->n_outputs <= RAMET__NODE_OUT, "scan", "the body needs 1 to %d outputs", RAMET__NODE_OUT);
    for (int64_t i = 0; i < body->n_outputs && ok; i++)
        ok = ramet__want(g, shape(body, body->outputs[i].v)->axis != RAMET__AXIS_OUTS && ramet__graph_type(body, body->outputs[i].v) == RAMET__TYPE_F32, "scan",
                         "the body's output '%s' is neither rows nor a whole value of numbers", body->outputs[i].name);
    return ok;
}

void ramet__op_scan_body(ramet__graph *g, ramet__graph *body, const ramet__val *to, const ramet__val *in, int32_t n_in, ramet__val seq, int32_t reversed, ramet__val *out) {
    made m = {.b = {.g = body}};
    if (!whole(g, body) || !ramet__want(g, ramet__is_val(g, seq) && is_rows(g, seq) && ramet__graph_type(g, seq) == RAMET__TYPE_I32 && ramet__gcols(shape(g, seq)) == 1, "scan",
                                        "needs one sequence number a row of the run"))
        return;
    for (int32_t i = 0; i < n_in; i++)
        if (!fits(g, body, to[i], in[i]) || !ramet__want(g, find(m.b.in, i, to[i]) < 0, "scan", "an input of the body is given twice") ||
            !pass(g, &m, to[i], shape(body, to[i])->rank > shape(g, in[i])->rank && body->values[to[i]].type == RAMET__TYPE_F32 ? ramet__op_row_fill(g, in[i], 1) : in[i]))
            return;
    for (int64_t i = 0; i < body->n_outputs; i++) m.b.out[m.b.n_out++] = body->outputs[i].v;
    for (ramet__val v = 0; v < body->n_values; v++) {
        const ramet__value *x = &body->values[v];
        if (find(m.b.in, n_in, v) >= 0) continue;
        if (x->leaf == RAMET__LEAF_VAR && !pass(g, &m, v, ramet__graph_var(g, x->var))) return;
        if (x->leaf != RAMET__LEAF_INPUT) continue;
        int32_t next = 0;
        while (next < m.b.n_out && strcmp(body->outputs[next].name, x->name)) next++;
        if (!ramet__want(g, next < m.b.n_out && x->type == RAMET__TYPE_F32 && is_rows(body, v) && ramet__same_shape(&x->shape, shape(body, m.b.out[next])), "scan",
                         "the body's input '%s' is given nothing, and there is no output of that name and shape that would make it a state", x->name))
            return;
        m.b.next[m.b.n_state] = next;
        m.b.state[m.b.n_state++] = v;
    }
    if (ramet__grow(g->rt->mem, &g->bodies, &g->cap_bodies, g->n_bodies + 1, sizeof *g->bodies)) {
        ramet__graph_fail(g, RAMET_E_MEMORY, "graph: out of memory");
        return;
    }
    finish(g, &m, seq, reversed != 0, out);
    if (!g->status) g->bodies[g->n_bodies++] = body;
}

/* ---- gradient ---- */
/* Can v of the body, summed over steps when it is no rows, be had after the loop? Makes results what that takes. */
static int32_t offer(made *m, ramet__val v) {
    const ramet__graph *b = m->b.g;
    const ramet__node *n = ramet__producer(b, v);
    if (is_rows(b, v)) return find(m->b.in, m->b.n_in, v) >= 0 || result(m, v) >= 0;
    if (n && n->op == &ramet__opdef_add && n->attr.i[0] == 0) return offer(m, n->in[0]) && offer(m, n->in[1]);
    const int32_t two = n && n->op == &ramet__opdef_linear_dw, before = m->b.n_out;
    if (n && (two || n->op == &ramet__opdef_sum_rows || n->op == &ramet__opdef_sum) && is_rows(b, n->in[0])) {
        if (offer(m, n->in[0]) && (!two || offer(m, n->in[1]))) return 1;
        m->b.n_out = before;
    }
    return result(m, v) >= 0;
}
static ramet__val after(ramet__graph *g, const made *m, ramet__val v, const ramet__val *out) {
    const int32_t i = find(m->b.out, m->b.n_out, v), j = is_rows(m->b.g, v) ? find(m->b.in, m->b.n_in, v) : -1;
    const ramet__node *n = ramet__producer(m->b.g, v);
    if (i >= 0) return out[i];
    if (j >= 0) return m->in[j];
    if (n->op == &ramet__opdef_add) {
        const ramet__val a = after(g, m, n->in[0], out);
        return ramet__op_add(g, a, after(g, m, n->in[1], out));
    }
    const ramet__val x = after(g, m, n->in[0], out);
    if (n->op == &ramet__opdef_linear_dw) return ramet__op_linear_dw(g, x, after(g, m, n->in[1], out));
    return n->op == &ramet__opdef_sum ? ramet__op_sum(g, x) : ramet__op_sum_rows(g, x);
}
static ramet__val new_input(ramet__graph *b, ramet__val like) {
    const ramet__gshape s = *shape(b, like);
    const ramet__val v = ramet__value_new(b, &s, RAMET__TYPE_F32);
    if (v >= 0) {
        b->values[v].leaf = RAMET__LEAF_INPUT;
        b->values[v].name = "gradient";
    }
    return v;
}

static void gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    const ramet__scan_body *b = n->attr.p;
    const ramet__val seq = n->in[n->n_in - 1];
    const int32_t reversed = n->attr.i[0] != 0;
    ramet__graph *body = b->g;
    made m = {.b = {.g = body, .n_state = b->n_state}};
    ramet__val of[2 * RAMET__NODE_OUT], seed[2 * RAMET__NODE_OUT], wrt[RAMET__NODE_IN + RAMET__NODE_OUT], grad[RAMET__NODE_IN + RAMET__NODE_OUT], out[RAMET__NODE_OUT];
    int32_t n_of = 0, n_wrt = b->n_state, ok = 1;
    for (int32_t i = 0; i < b->n_in && ok; i++) ok = pass(g, &m, b->in[i], n->in[i]);
    for (int32_t i = 0; i < b->n_state && ok; i++) ok = pass(g, &m, wrt[i] = b->state[i], ramet__op_shift(g, n->out[b->next[i]], seq, reversed));
    for (int32_t j = 0; j < b->n_out && ok; j++) {
        if (dout[j] < 0) continue;
        of[n_of] = b->out[j];
        ok = pass(g, &m, seed[n_of++] = new_input(body, b->out[j]), dout[j]);
    }
    for (int32_t i = 0; i < b->n_state && ok; i++) {
        of[n_of] = b->out[b->next[i]];
        seed[n_of++] = m.b.state[i] = new_input(body, b->state[i]);
    }
    for (int32_t i = 0; i < b->n_in && ok; i++)
        if (ramet__needs(g, n, i)) wrt[n_wrt++] = b->in[i];
    if (!ok) return;
    if (ramet__graph_pull(body, of, seed, n_of, wrt, n_wrt, grad) || ramet__graph_status(body)) {
        ramet__graph_fail(g, body->status ? body->status : RAMET_E_MEMORY, "%s", ramet_last_error());
        body->status = RAMET_OK; /* what it made is read by nobody */
        ramet__free(body->message);
        body->message = NULL;
        return;
    }
    for (int32_t i = 0; i < b->n_state; i++) {
        const ramet__gshape s = *shape(body, b->state[i]);
        if (grad[i] < 0) grad[i] = ramet__op_fill(body, ramet__graph_const(body, 0.0f), &s);
        ok &= (m.b.next[i] = result(&m, grad[i])) >= 0;
    }
    for (int32_t i = b->n_state; i < n_wrt && ok; i++) ok = grad[i] < 0 || offer(&m, grad[i]);
    if (!ramet__want(g, ok, "gradient", "a scan's body has more than %d gradients", RAMET__NODE_OUT) || !m.b.n_out) return;
    finish(g, &m, seq, !reversed, out);
    for (int32_t i = 0, k = b->n_state; i < b->n_in && !g->status; i++)
        if (ramet__needs(g, n, i) && grad[k++] >= 0) din[i] = after(g, &m, grad[k - 1], out);
}

/* ---- running ---- */
typedef struct loop {
    const ramet__spans *spans;
    ramet__plan *inner;
    int64_t most;                                  /* sequences at once */
    ramet__pval *in[RAMET__NODE_IN + RAMET__NODE_OUT]; /* of the inner plan: inputs, then states */
    uint64_t room[RAMET__NODE_IN + RAMET__NODE_OUT];   /* of rows: where they are gathered */
    int32_t n, next[RAMET__NODE_OUT];
} loop;

static ramet_status prepare(ramet__plan *p, ramet__step *s) {
    const ramet__scan_body *b = s->attr.p;
    ramet__graph *body = b->g;
    ramet__named out[RAMET__NODE_OUT], *const outputs = body->outputs;
    const int64_t n_outputs = body->n_outputs;
    const ramet__plan_options o = {.mode = p->mode, .max_context = p->max_context, .training = p->training, .timing = p->timing};
    loop *l = ramet__arena_alloc(&p->names, sizeof *l);
    if (!l) return ramet__alloc_status();
    s->extra = l;
    RAMET__TRY(ramet__plan_spans(p, s->in[s->n_in - 1], RAMET__GROUP_ROWS, &l->spans));
    RAMET__TRY(ramet__grow(p->rt->mem, &p->inner, &p->cap_inner, p->n_inner + 1, sizeof *p->inner));
    for (int32_t j = 0; j < b->n_out; j++) out[j] = (ramet__named){"", b->out[j], 0, 0};
    body->outputs = out;
    body->n_outputs = b->n_out;
    const ramet_status st = ramet__plan_create(&l->inner, body, &o);
    body->outputs = outputs;
    body->n_outputs = n_outputs;
    RAMET__TRY(st);
    p->inner[p->n_inner++] = l->inner;
    l->most = body->max_rows;
    l->n = b->n_in + b->n_state;
    s->shared_bytes = ramet__align((uint64_t)p->max_rows * sizeof(int32_t));
    for (int32_t i = 0; i < l->n; i++) {
        ramet__pval *v = l->in[i] = &l->inner->vals[i < b->n_in ? b->in[i] : b->state[i - b->n_in]];
        l->room[i] = s->shared_bytes;
        if (v->axis == RAMET__AXIS_ROWS) s->shared_bytes += ramet__align((uint64_t)(v->fixed * v->cols) * sizeof(float));
    }
    memcpy(l->next, b->next, sizeof l->next);
    return RAMET_OK;
}
static double work(const ramet__plan *p, const ramet__step *s) {
    const loop *l = s->extra;
    return l->inner->work * (double)p->max_rows / (double)l->most;
}

static int64_t row_at(const ramet__step *s, const ramet__span *r, int64_t t) { return s->attr.i[0] ? r->row + r->rows - 1 - t : r->row + t; }

/* What the step reads of the first `active` sequences of `order`. */
static void gather(const ramet__step *s, const int32_t *order, int64_t active, int64_t t) {
    const loop *l = s->extra;
    const int32_t n_in = s->n_in - 1;
    for (int32_t i = 0; i < l->n; i++) {
        ramet__pval *v = l->in[i];
        if (v->axis != RAMET__AXIS_ROWS) {
            v->data = s->in[i]->data;
            continue;
        }
        const ramet__pval *from = i < n_in ? s->in[i] : s->out[l->next[i - n_in]];
        v->data = (char *)s->shared + l->room[i];
        if (i >= n_in && t == 0) memset(v->data, 0, (size_t)(active * v->cols) * sizeof(float));
        else
            for (int64_t k = 0; k < active; k++)
                memcpy(ramet__row(v, k), ramet__row(from, row_at(s, &l->spans->runs[order[k]], t - (i >= n_in))), (size_t)v->cols * sizeof(float));
    }
}
static void put(const ramet__step *s, const ramet__exec *x, const int32_t *order, int64_t active, int64_t t) {
    const loop *l = s->extra;
    for (int32_t j = 0; j < s->n_out; j++) {
        const ramet__pval *from = l->inner->outputs[j].v;
        if (s->out[j]->axis != RAMET__AXIS_ROWS) x->k->add(s->out[j]->data, s->out[j]->data, from->data, from->fixed * from->cols);
        else
            for (int64_t k = 0; k < active; k++) memcpy(ramet__row(s->out[j], row_at(s, &l->spans->runs[order[k]], t)), ramet__row(from, k), (size_t)from->cols * sizeof(float));
    }
}

ramet_status ramet__scan_body_run(const ramet__step *s, const ramet__exec *x, ramet__asking *a) {
    const loop *l = s->extra;
    const ramet__span *runs = l->spans->runs;
    const int64_t n = l->spans->n_runs;
    int32_t *order = s->shared;
    ramet__run run = {.progress = x->run->progress, .progress_user = x->run->progress_user};
    for (int64_t i = 0; i < n; i++) order[i] = (int32_t)i;
    for (int64_t gap = n / 2; gap > 0; gap /= 2) /* Shell sort: the longest first, of equals the first */
        for (int64_t i = gap, j; i < n; i++) {
            const int32_t item = order[i];
            for (j = i; j >= gap; j -= gap) {
                const int32_t o = order[j - gap];
                if (runs[o].rows > runs[item].rows || (runs[o].rows == runs[item].rows && o < item)) break;
                order[j] = o;
            }
            order[j] = item;
        }
    for (int32_t j = 0; j < s->n_out; j++)
        if (s->out[j]->axis != RAMET__AXIS_ROWS) memset(s->out[j]->data, 0, (size_t)(s->out[j]->fixed * s->out[j]->cols) * sizeof(float));
    for (int64_t first = 0; first < n; first += l->most) {
        int64_t active = RAMET__MIN(l->most, n - first);
        for (int64_t t = 0;; t++) {
            while (active && runs[order[first + active - 1]].rows <= t) active--;
            if (!active) break;
            run.rows = active;
            gather(s, order + first, active, t);
            RAMET__TRY(ramet__plan_go(l->inner, &run, a));
            put(s, x, order + first, active, t);
        }
    }
    return RAMET_OK;
}
const ramet__op ramet__opdef_scan_body = {.name = "scan_body", .once = 1, .work = work, .gradient = gradient, .prepare = prepare};
