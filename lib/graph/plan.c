/* SPDX-License-Identifier: Apache-2.0 */
/* plan.c - from a graph to steps in one arena: copy the nodes, fuse (fuse.c), order, pack the weights, let every
 * operation prepare itself, choose what is computed twice (recompute.c), place values by how long they live (layout.c). run.c runs it. */
#include "graph/op.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- what operations ask for ---- */
ramet_status ramet__plan_check_ids(ramet__plan *p, const ramet__pval *v, int64_t low, int64_t high, const char *op) {
    if (v->leaf != RAMET__LEAF_INPUT)
        return ramet__fail(RAMET_E_UNSUPPORTED, "plan: indices of %s must be an input", op);
    for (int64_t i = 0; i < p->n_checks; i++) {
        ramet__check *c = &p->checks[i];
        if (c->v != v || (c->high < 0) != (high < 0)) continue;
        c->low = RAMET__MAX(c->low, low);
        c->high = RAMET__MIN(c->high, high);
        return RAMET_OK;
    }
    RAMET__TRY(ramet__grow(p->rt->mem, &p->checks, &p->cap_checks, p->n_checks + 1, sizeof *p->checks));
    p->checks[p->n_checks++] = (ramet__check){v, low, high, op};
    return RAMET_OK;
}

ramet_status ramet__plan_rope(ramet__plan *p, int64_t rot, float base, const float **cs) {
    for (int32_t i = 0; i < p->n_ropes; i++)
        if (p->ropes[i].rot == rot && p->ropes[i].base == base) {
            *cs = p->ropes[i].cs;
            return RAMET_OK;
        }
    if (p->n_ropes == RAMET__COUNT(p->ropes))
        return ramet__fail(RAMET_E_LIMIT, "plan: more than %d kinds of rotary embedding", RAMET__COUNT(p->ropes));
    if (p->max_context < 1)
        return ramet__fail(RAMET_E_ARGUMENT, "plan: max_context must be at least 1 for rotary embedding");
    float *t = ramet__calloc(p->rt->mem, (size_t)p->max_context, (size_t)rot * sizeof *t);
    if (!t) return ramet__alloc_status();
    for (int64_t j = 0; j < rot / 2; j++) {
        double rate = pow((double)base, -2.0 * (double)j / (double)rot);
        for (int64_t i = 0; i < p->max_context; i++) {
            t[i * rot + 2 * j] = (float)cos((double)i * rate);
            t[i * rot + 2 * j + 1] = (float)sin((double)i * rate);
        }
    }
    p->ropes[p->n_ropes++] = (ramet__rope_table){rot, base, t};
    *cs = t;
    return RAMET_OK;
}

static ramet_status spans_room(ramet__plan *p, ramet__spans *s, const ramet__pval *key, int64_t chunk) {
    s->key = key;
    s->chunk = chunk;
    s->runs = ramet__arena_alloc(&p->names, (size_t)p->max_rows * sizeof *s->runs);
    s->chunks = ramet__arena_alloc(&p->names, (size_t)p->max_rows * sizeof *s->chunks);
    return s->runs && s->chunks ? RAMET_OK : ramet__alloc_status();
}
ramet_status ramet__plan_spans(ramet__plan *p, const ramet__pval *key, int64_t chunk, const ramet__spans **out) {
    if (key->leaf != RAMET__LEAF_INPUT)
        return ramet__fail(RAMET_E_UNSUPPORTED, "plan: the sequence of each row must be an input");
    for (int32_t i = 0; i < p->n_spans; i++)
        if (p->spans[i].key == key && p->spans[i].chunk == chunk) {
            *out = &p->spans[i];
            return RAMET_OK;
        }
    if (p->n_spans == RAMET__COUNT(p->spans))
        return ramet__fail(RAMET_E_LIMIT, "plan: more than %d inputs that group rows", RAMET__COUNT(p->spans));
    RAMET__TRY(spans_room(p, &p->spans[p->n_spans], key, chunk));
    *out = &p->spans[p->n_spans++];
    return RAMET_OK;
}
ramet_status ramet__plan_cache(ramet__plan *p, const ramet__pval *seq, const ramet__pval *pos, int64_t block) {
    if (p->cache_block && (p->cache_seq != seq || p->cache_pos != pos || p->cache_block != block))
        return ramet__fail(RAMET_E_UNSUPPORTED,
                           "plan: caches with different sequences, positions or block sizes in one graph");
    p->cache_seq = seq;
    p->cache_pos = pos;
    p->cache_block = block;
    return ramet__plan_check_ids(p, pos, 0, p->max_context, "cache_attention");
}

/* ---- values ---- */
static ramet_status make_values(ramet__plan *p, const ramet__graph *g, const ramet__work *w) {
    p->n_vals = g->n_values;
    p->vals = ramet__calloc(p->rt->mem, (size_t)p->n_vals + 1, sizeof *p->vals);
    p->inputs = ramet__calloc(p->rt->mem, (size_t)p->n_vals + 1, sizeof *p->inputs);
    p->input_used = ramet__calloc(p->rt->mem, (size_t)p->n_vals + 1, 1);
    p->weights = ramet__calloc(p->rt->mem, (size_t)p->n_vals + 1, sizeof *p->weights);
    if (!p->vals || !p->inputs || !p->input_used || !p->weights) return ramet__alloc_status();
    for (int64_t i = 0; i < g->n_values; i++) {
        const ramet__value *v = &g->values[i];
        ramet__pval *to = &p->vals[i];
        *to = (ramet__pval){.fixed = ramet__grows(&v->shape),
                            .cols = ramet__gcols(&v->shape),
                            .axis = v->shape.axis,
                            .type = v->type,
                            .leaf = v->leaf,
                            .slot = -1,
                            .buffer = -1,
                            .keep = w->keep[i]};
        if (v->name) {
            to->name = ramet__arena_strndup(&p->names, v->name, strlen(v->name));
            if (!to->name) return ramet__alloc_status();
        }
        if (v->leaf == RAMET__LEAF_INPUT) {
            p->input_used[p->n_inputs] = w->uses[i] > 0;
            p->inputs[p->n_inputs++] = to;
        }
        if (v->leaf == RAMET__LEAF_SLOT) to->slot = v->index;
        if (v->leaf == RAMET__LEAF_VAR) {
            to->var = v->var;
            to->data = v->var->data;
        }
        if (v->leaf == RAMET__LEAF_WEIGHT && w->uses[i]) {
            to->weight = ramet__weight_retain(v->weight);
            p->weights[p->n_weights++] = to->weight;
        }
    }
    return RAMET_OK;
}

static int32_t reads_encoded(const ramet__node *n, int32_t i) { return (n->op->encoded >> i & 1) != 0; }

#define SMALL_WEIGHT 16384 /* numbers */

static int32_t in_product(const ramet__work *w, int64_t value) {
    for (int64_t j = 0; j < w->n_nodes; j++)
        for (int32_t k = 0; w->nodes[j].op && w->nodes[j].op != &ramet__opdef_embed && k < w->nodes[j].n_in; k++)
            if (w->nodes[j].in[k] == value && reads_encoded(&w->nodes[j], k)) return 1;
    return 0;
}

static ramet_status pack_weights(ramet__plan *p, const ramet__graph *g, const ramet__work *w) {
    int64_t n = 0;
    p->packed = ramet__calloc(p->rt->mem, (size_t)p->n_weights + 1, sizeof *p->packed);
    if (!p->packed) return ramet__alloc_status();
    for (int64_t i = 0; i < g->n_values; i++)
        if (p->vals[i].leaf == RAMET__LEAF_WEIGHT && w->uses[i] && in_product(w, i)) p->packed[n++] = p->vals[i].weight;
    RAMET__TRY(ramet__weights_pack(p->packed, n));
    p->n_packed = n;
    return RAMET_OK;
}

/* Pack what products read; decode what operations read as floats; constants. */
static ramet_status make_weights(ramet__plan *p, const ramet__graph *g, ramet__work *w) {
    uint64_t bytes = 0;
    RAMET__TRY(pack_weights(p, g, w));
    for (int32_t pass = 0; pass < 2; pass++) {
        if (pass == 1 && bytes) {
            p->floats = ramet__alloc(p->rt->mem, (size_t)bytes);
            if (!p->floats) return ramet__alloc_status();
            p->floats_bytes = bytes;
        }
        uint64_t at = 0;
        for (int64_t i = 0; i < g->n_values; i++) {
            ramet__pval *v = &p->vals[i];
            if (!w->uses[i] || (v->leaf != RAMET__LEAF_WEIGHT && v->leaf != RAMET__LEAF_CONST)) continue;
            int32_t floats = w->keep[i] > 0 || v->leaf == RAMET__LEAF_CONST;
            for (int64_t j = 0; j < w->n_nodes; j++) {
                ramet__node *n = &w->nodes[j];
                for (int32_t k = 0; n->op && k < n->n_in; k++) floats |= n->in[k] == i && !reads_encoded(n, k);
                if (pass == 0 && n->op == &ramet__opdef_embed && n->in[0] == i) n->attr.i[0] = in_product(w, i);
            }
            if (!floats) continue;
            const void *data = v->leaf == RAMET__LEAF_WEIGHT && ramet__weight_enc(v->weight) == RAMET__ENC_F32
                                   ? ramet__weight_data(v->weight)
                                   : NULL;
            /* a small one is copied: a look into a mapped file brings in far more than it */
            if (data && (uintptr_t)data % sizeof(float) == 0 && v->fixed * v->cols > SMALL_WEIGHT) {
                v->data = (void *)(uintptr_t)data;
                continue;
            }
            if (pass == 1) {
                v->data = (char *)p->floats + at;
                if (v->leaf == RAMET__LEAF_CONST)
                    *(float *)v->data = g->values[i].number;
                else {
                    ramet__weight_decode(v->data, v->weight, 0, v->fixed);
                    ramet__weight_leave_source(v->weight);
                }
            }
            at += ramet__align((uint64_t)(v->fixed * v->cols) * sizeof(float));
        }
        bytes = at;
    }
    return RAMET_OK;
}

/* ---- steps ---- */
static ramet_status make_steps(ramet__plan *p, const ramet__work *w, const int32_t *order, int64_t n) {
    p->steps = ramet__calloc(p->rt->mem, (size_t)n + 1, sizeof *p->steps);
    if (!p->steps) return ramet__alloc_status();
    p->n_steps = n;
    for (int64_t i = 0; i < n; i++) {
        const ramet__node *node = &w->nodes[order[i]];
        ramet__step *s = &p->steps[i];
        s->op = node->op;
        s->n_in = node->n_in;
        s->n_out = node->n_out;
        s->attr = node->attr;
        s->shared_buffer = -1;
        for (int32_t j = 0; j < s->n_in; j++) s->in[j] = node->in[j] < 0 ? NULL : &p->vals[node->in[j]];
        for (int32_t j = 0; j < s->n_out; j++) s->out[j] = node->out[j] < 0 ? NULL : &p->vals[node->out[j]];
        if (s->op == &ramet__opdef_tap) { /* reads only */
            s->out[0] = s->in[0];
            s->attr.p = ramet__arena_strndup(&p->names, node->attr.p, strlen(node->attr.p));
            if (!s->attr.p) return ramet__alloc_status();
        }
        s->chunk = ramet__piece_rows(s->out[0]->cols);
        s->batch = 64 * (int64_t)p->workers;
        for (int32_t j = 0; j < s->n_in; j++)
            if (s->in[j] && s->in[j]->leaf == RAMET__LEAF_SLOT && s->op != &ramet__opdef_slot_nt && s->op != &ramet__opdef_slot_nn &&
                s->op->run != ramet__opdef_linear.run && s->op != &ramet__opdef_linear_dx)
                return ramet__fail(RAMET_E_UNSUPPORTED,
                                   "plan: slot '%s' is read by operation '%s'; only linear reads slots", s->in[j]->name,
                                   s->op->name);
        if (s->op->prepare) RAMET__TRY(s->op->prepare(p, s));
    }
    return RAMET_OK;
}

static ramet_status make_results(ramet__plan *p, const ramet__graph *g, const ramet__work *w) {
    p->outputs = ramet__calloc(p->rt->mem, (size_t)g->n_outputs + 1, sizeof *p->outputs);
    p->writes = ramet__calloc(p->rt->mem, (size_t)g->n_writes + 1, sizeof *p->writes);
    if (!p->outputs || !p->writes) return ramet__alloc_status();
    for (int64_t i = 0; i < g->n_outputs; i++) {
        ramet__val v = g->outputs[i].v;
        while (w->alias[v] != v) v = w->alias[v];
        const char *name = ramet__arena_strndup(&p->names, g->outputs[i].name, strlen(g->outputs[i].name));
        if (!name) return ramet__alloc_status();
        p->outputs[p->n_outputs].name = name;
        p->outputs[p->n_outputs++].v = &p->vals[v];
    }
    for (int64_t i = 0; i < g->n_writes; i++) {
        ramet__val v = g->writes[i].v;
        while (w->alias[v] != v) v = w->alias[v];
        p->writes[p->n_writes].var = g->writes[i].var;
        p->writes[p->n_writes].accumulate = g->writes[i].accumulate;
        p->writes[p->n_writes++].v = &p->vals[v];
    }
    return RAMET_OK;
}

/* Sums that would be added to a variable after the last step are added as they are made, where they come from a chain of steps that each add to the
 * result of the one before: the first of them then begins with the variable, and neither room nor a pass over it is needed. */
static ramet_status add_directly(ramet__plan *p) {
    ramet_status st = RAMET_OK;
    int64_t *maker = NULL, n = 0;
    int32_t *uses = NULL;
    RAMET__NEW(maker, ramet__calloc(p->rt->mem, (size_t)p->n_vals + 1, sizeof *maker)); /* step + 1 */
    RAMET__NEW(uses, ramet__calloc(p->rt->mem, (size_t)p->n_vals + 1, sizeof *uses));
    for (int64_t i = 0; i < p->n_steps; i++) {
        const ramet__step *s = &p->steps[i];
        for (int32_t j = 0; j < s->n_in; j++)
            if (s->in[j]) uses[s->in[j] - p->vals]++;
        for (int32_t j = 0; j < s->n_out && s->op != &ramet__opdef_tap; j++)
            if (s->out[j]) maker[s->out[j] - p->vals] = i + 1;
    }
    for (int64_t i = 0; i < p->n_writes; i++) {
        const struct ramet__plan_write w = p->writes[i];
        int32_t good = w.accumulate;
        ramet__step *first = NULL;
        for (ramet__pval *v = w.v; good && v;) {
            ramet__step *s = maker[v - p->vals] ? &p->steps[maker[v - p->vals] - 1] : NULL;
            good = s && s->op->base && s->op->base < s->n_in && s->n_out == 1 && v->keep == (v == w.v) && uses[v - p->vals] == (v != w.v);
            if (!good) break;
            first = s;
            v = s->in[s->op->base];
        }
        for (int64_t v = 0; v < p->n_vals && good; v++) good = p->vals[v].leaf != RAMET__LEAF_VAR || p->vals[v].var != w.var || !uses[v];
        if (!good) {
            p->writes[n++] = w;
            continue;
        }
        for (ramet__pval *v = w.v, *before; v; v = before) {
            const ramet__step *s = &p->steps[maker[v - p->vals] - 1];
            before = s->in[s->op->base];
            v->leaf = RAMET__LEAF_VAR;
            v->data = w.var->data;
        }
        first->in[first->op->base] = first->out[0];
    }
    p->n_writes = n;
out:
    ramet__free(maker);
    ramet__free(uses);
    return st;
}

/* Results that every reader would round to bf16 are rounded as they are made: half the bytes to write and to read, the same bits. */
static ramet_status choose_narrow(ramet__plan *p) {
    if (!p->plain) return RAMET_OK;
    for (int64_t i = 0; i < p->n_steps; i++)
        for (int32_t j = 0; j < p->steps[i].n_out; j++) {
            ramet__pval *v = p->steps[i].out[j];
            if (v && p->steps[i].op->narrow >> j & 1)
                v->narrow = v->axis == RAMET__AXIS_ROWS && v->leaf == RAMET__LEAF_NONE && !v->keep && v->cols % 32 == 0 && ramet__plan_arithmetic_of(p, v->fixed) == RAMET__BRAIN;
        }
    for (int64_t i = 0; i < p->n_steps; i++)
        for (int32_t j = 0; j < p->steps[i].n_in; j++) {
            const ramet__step *s = &p->steps[i];
            if (s->in[j] && s->in[j]->narrow) s->in[j]->narrow = s->op->takes_narrow && s->op->takes_narrow(p, s, j);
        }
    for (int64_t i = 0; i < p->n_steps; i++) {
        ramet__step *s = &p->steps[i];
        for (int32_t j = 0; j < s->n_out; j++) /* a row of each, before it is rounded */
            if (s->out[j] && s->out[j]->narrow) s->scratch_bytes = RAMET__MAX(s->scratch_bytes, (uint64_t)(s->n_out * s->out[j]->cols) * sizeof(float));
    }
    return RAMET_OK;
}

ramet_status ramet__plan_create(ramet__plan **out, ramet__graph *g, const ramet__plan_options *options) {
    static const ramet__plan_options none = {0};
    const ramet__plan_options *o = options ? options : &none;
    RAMET__TRY(ramet__graph_status(g));
    ramet_status st = RAMET_OK;
    ramet__mem *mem = g->rt->mem;
    ramet__plan *p = NULL;
    int32_t *order = NULL;
    int64_t n = 0;
    ramet__work w = {.g = g, .mem = mem, .n_nodes = g->n_nodes, .tap_prefix = o->tap_prefix};
    RAMET__NEW(p, ramet__calloc(mem, 1, sizeof *p));
    p->rt = ramet__runtime_retain(g->rt);
    p->names.mem = mem;
    p->mode = o->mode;
    p->max_context = o->max_context;
    p->timing = o->timing;
    p->training = o->training;
    p->max_rows = g->max_rows;
    p->max_outs = g->max_outs;
    p->max_rank = g->max_rank;
    p->n_slots = (int32_t)g->n_slots;
    p->plain = ramet__kernels_product(p->rt->kernels, "F32", RAMET__BRAIN);
    if (!p->plain->packing->in_place || !p->plain->scheme->rounds || !p->plain->scheme->outer) p->plain = NULL;
    p->workers = RAMET__MAX(1, ramet__threads_count(g->rt->threads));
    p->last_rows = p->last_outs = -1;
    size_t nv = (size_t)g->n_values + 1;
    RAMET__NEW(w.nodes, ramet__calloc(mem, (size_t)g->n_nodes + 1, sizeof *w.nodes));
    RAMET__NEW(w.uses, ramet__calloc(mem, nv, sizeof *w.uses));
    RAMET__NEW(w.keep, ramet__calloc(mem, nv, sizeof *w.keep));
    RAMET__NEW(w.maker, ramet__calloc(mem, nv, sizeof *w.maker));
    RAMET__NEW(w.alias, ramet__calloc(mem, nv, sizeof *w.alias));
    if (g->n_nodes) memcpy(w.nodes, g->nodes, (size_t)g->n_nodes * sizeof *w.nodes);
    for (int64_t i = 0; i < g->n_values; i++) w.alias[i] = (ramet__val)i;
    for (int64_t i = 0; i < g->n_outputs; i++) w.keep[g->outputs[i].v]++;
    for (int64_t i = 0; i < g->n_writes; i++) w.keep[g->writes[i].v]++;
    RAMET__GO(ramet__fuse(&w));
    RAMET__GO(ramet__work_order(&w, &order, &n));
    RAMET__GO(make_values(p, g, &w));
    RAMET__GO(make_weights(p, g, &w));
    RAMET__GO(spans_room(p, &p->groups, NULL, RAMET__GROUP_ROWS));
    RAMET__NEW(p->bound, ramet__arena_alloc(&p->names, (size_t)p->n_slots + 1));
    RAMET__GO(make_steps(p, &w, order, n));
    RAMET__GO(make_results(p, g, &w));
    if (o->direct_sums) RAMET__GO(add_directly(p));
    RAMET__GO(choose_narrow(p));
    RAMET__GO(ramet__plan_fit(p, o->byte_budget, o->held_bytes));
    RAMET__GO(ramet__plan_allocate(p));
    *out = p;
    p = NULL;
out:
    ramet__free(w.nodes);
    ramet__free(w.uses);
    ramet__free(w.keep);
    ramet__free(w.maker);
    ramet__free(w.alias);
    ramet__free(order);
    ramet__plan_free(p);
    return st;
}

void ramet__plan_free(ramet__plan *p) {
    if (!p) return;
    ramet__weights_release(p->packed, p->n_packed);
    for (int64_t i = 0; i < p->n_weights; i++) ramet__weight_free(p->weights[i]);
    for (int32_t i = 0; i < p->n_ropes; i++) ramet__free(p->ropes[i].cs);
    for (int64_t i = 0; i < p->n_inner; i++) ramet__plan_free(p->inner[i]);
    ramet__free(p->inner);
    ramet__free(p->vals);
    ramet__free(p->again);
    ramet__free(p->inputs);
    ramet__free(p->input_used);
    ramet__free(p->weights);
    ramet__free(p->packed);
    ramet__free(p->steps);
    ramet__free(p->buffers);
    ramet__free(p->checks);
    ramet__free(p->outputs);
    ramet__free(p->writes);
    ramet__free(p->arena);
    ramet__free(p->scratch);
    ramet__free(p->floats);
    ramet__arena_free(&p->names);
    ramet_runtime *rt = p->rt;
    ramet__free(p);
    ramet_runtime_free(rt);
}

uint64_t ramet__plan_bytes(const ramet__plan *p) {
    uint64_t bytes = p->arena_bytes + p->scratch_bytes + p->floats_bytes;
    for (int64_t i = 0; i < p->n_inner; i++) bytes += ramet__plan_bytes(p->inner[i]);
    for (int32_t i = 0; i < p->n_ropes; i++) bytes += (uint64_t)(p->max_context * p->ropes[i].rot) * sizeof(float);
    return bytes;
}

double ramet__plan_recomputed(const ramet__plan *p) { return p->work > 0.0 ? p->again_work / p->work : 0.0; }

/* "computed again: 24 x linear, 9.1% of the work" */
static void text_again(ramet__text *t, const ramet__plan *p) {
    int32_t any = 0;
    for (int64_t i = 0; i < p->n_steps; i++) {
        int64_t before = 0, n = 0;
        for (int64_t j = 0; p->steps[i].again && j < p->n_steps; j++)
            if (p->steps[j].again && p->steps[j].op == p->steps[i].op) *(j < i ? &before : &n) += 1;
        if (!n || before) continue;
        ramet__text_add(t, "%s %" PRId64 " x %s", any++ ? "," : "computed again:", n, p->steps[i].op->name);
    }
    if (any) ramet__text_add(t, ", %.1f%% of the work\n", 100.0 * ramet__plan_recomputed(p));
}

char *ramet__plan_text(const ramet__plan *p) {
    ramet__text t = {.mem = p->rt->mem};
    int64_t inner = 0;
    for (int64_t i = 0; i < p->n_steps; i++) {
        const ramet__step *s = &p->steps[i];
        ramet__text_add(&t, "%4" PRId64 " %-18s %6" PRId64 " x %-6" PRId64, i, s->op->name, s->out[0]->fixed,
                        s->out[0]->cols);
        for (int32_t j = 0; j < s->n_in; j++)
            if (s->in[j] && s->in[j]->weight) {
                ramet__text_add(&t, " %s", ramet__weight_name(s->in[j]->weight));
                if (s->op->encoded >> j & 1 && s->op != &ramet__opdef_embed)
                    ramet__text_add(&t, ":%s",
                                    ramet__weight_product(s->in[j]->weight, ramet__plan_arithmetic_of(p, s->op->run == ramet__opdef_linear.run ? s->out[0]->fixed : 0))->scheme->name);
            }
        for (int32_t j = 0; j < s->n_in; j++)
            if (s->in[j] && s->in[j]->leaf == RAMET__LEAF_SLOT)
                ramet__text_add(&t, " %s.%c", s->in[j]->name, s->in[j]->slot % 2 ? 'B' : 'A');
        if (s->op->base && s->op->base < s->n_in && s->in[s->op->base])
            ramet__text_add(&t, " += %s", s->in[s->op->base]->data == s->out[0]->data ? "in place" : "copy");
        for (int32_t j = 0; j < s->n_in; j++)
            if (s->in[j] && s->in[j]->buffer >= 0 && s->in[j]->buffer == s->out[0]->buffer && !s->op->base &&
                s->op != &ramet__opdef_tap) {
                ramet__text_add(&t, " in place");
                break;
            }
        if (s->shared_bytes) ramet__text_add(&t, " shared %" PRIu64, s->shared_bytes);
        if (s->scratch_bytes) ramet__text_add(&t, " scratch %" PRIu64, s->scratch_bytes);
        if (s->again) ramet__text_add(&t, " again");
        if (s->runs) ramet__text_add(&t, " %.1f us", (double)s->nanoseconds / 1000.0 / (double)s->runs);
        ramet__text_add(&t, "\n");
        if (s->op != &ramet__opdef_scan_body) continue;
        char *body = ramet__plan_text(p->inner[inner++]);
        ramet__text_add(&t, "%s", body ? body : "");
        ramet__free(body);
    }
    ramet__text_add(&t, "%" PRId64 " steps, arena %" PRIu64 " bytes, scratch %d x %" PRIu64 " bytes\n", p->n_steps,
                    p->arena_bytes, p->workers, p->worker_bytes);
    text_again(&t, p);
    return ramet__text_take(&t);
}
