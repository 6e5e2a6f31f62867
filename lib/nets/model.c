/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - a language model or encoder inside a graph of one's own: frozen, with trained low-rank pairs, or with trained weights. What is trained
 * are variables with the names that tuners use (<weight>, <weight>.lora_a, <weight>.lora_b); an adapter or a model comes back from them. */
#include "nets/nets.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const ramet_graph_model_options defaults = {sizeof defaults, 0, 0, 32.0f, NULL, 0};
void ramet_graph_model_options_init(ramet_graph_model_options *o, uint32_t size) { ramet__options_init(o, size, &defaults, sizeof defaults); }

typedef struct inside { ramet__graph *g; ramet_variables *v; const ramet_model *m; ramet_graph_model_options o; } inside;

/* The variable of a name, which is made where it is not there. NULL: the graph has failed. */
static struct ramet__variable *variable(inside *in, const char *name, int64_t rows, int64_t columns, const char *rule) {
    for (int64_t i = 0; i < in->v->n; i++) {
        struct ramet__variable *q = in->v->item[i];
        const ramet__shape want = rows ? (ramet__shape){2, {rows, columns}} : (ramet__shape){1, {columns}};
        if (strcmp(q->pool.param->name, name)) continue;
        if (ramet__shape_equal(&q->pool.param->shape, &want)) return q;
        ramet__graph_fail(in->g, RAMET_E_INCONSISTENT, "ramet_graph_model: the variable '%s' has another shape than the model's", name);
        return NULL;
    }
    const ramet_status st = ramet_variables_add(in->v, name, rows, columns, rule, in->o.seed, 1);
    if (st) ramet__graph_fail(in->g, st, "%s", ramet_last_error());
    return st ? NULL : in->v->item[in->v->n - 1];
}

static ramet__var *trained(const char *name, void *user) {
    inside *in = user;
    const ramet__weight *w = ramet__model_weight(in->m, name);
    if (!in->o.full || !w || !ramet__weight_listed(in->m, w, in->o.targets)) return NULL;
    const ramet__shape *s = ramet__weight_shape(w);
    const int64_t before = in->v->n;
    struct ramet__variable *q = variable(in, name, s->rank > 1 ? s->dim[0] : 0, ramet__shape_cols(s), "zeros");
    if (q && in->v->n > before) ramet__weight_decode(q->pool.value, w, 0, ramet__shape_rows(s));
    return q ? &q->pool.param->value : NULL;
}

static ramet__val changed(ramet__graph *g, ramet__val x, ramet__val y, const char *name, void *user) {
    inside *in = user;
    const ramet__shape *s = ramet__weight_shape(ramet__model_weight(in->m, name));
    char full[RAMET__NAME_MAX + 8], rule[32];
    const size_t n = strlen(name);
    ramet__val half[2];
    if (!in->o.rank) return y;
    memcpy(full, name, n);
    snprintf(rule, sizeof rule, "uniform:%.9g", 1 / sqrt((double)s->dim[1])); /* as tuners begin */
    ramet__number_point(rule);
    for (int32_t i = 0; i < 2; i++) {
        memcpy(full + n, i ? ".lora_b" : ".lora_a", 8);
        struct ramet__variable *q = i ? variable(in, full, s->dim[0], in->o.rank, "zeros") : variable(in, full, in->o.rank, s->dim[1], rule);
        if (!q) return -1;
        half[i] = ramet__graph_var(g, &q->pool.param->value);
    }
    const ramet__val low = ramet__op_scale(g, ramet__op_linear(g, x, half[0], -1, NULL), in->o.alpha / (float)in->o.rank); /* scaled while it is narrow */
    return ramet__op_add(g, y, ramet__op_linear(g, low, half[1], -1, NULL));
}

static ramet_status check(const inside *in) {
    const ramet_graph_model_options *o = &in->o;
    if (o->rank < 0 || o->rank > 1024 || (o->full != 0 && o->full != 1) || (o->full && o->rank))
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_graph_model: rank %d and full %d: give a rank in 1..1024, or full 1, or neither for a frozen model", o->rank, o->full);
    if (o->rank && !(o->alpha >= 1e-6f && o->alpha <= 1e6f)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_graph_model: alpha %g is not in 1e-6..1e6", (double)o->alpha);
    return ramet__targets_check(in->m->arch, o->targets, o->full ? "norms" : NULL);
}

ramet_status ramet_graph_model(int32_t *rows, ramet_graph *graph, ramet_variables *variables, const ramet_model *model, const ramet_graph_model_options *options) {
    inside in = {NULL, variables, model, defaults};
    ramet__built built = {-1, -1, -1};
    RAMET__TRY(ramet__nets_check(graph));
    if (!rows || !model) return ramet__fail(RAMET_E_ARGUMENT, "ramet_graph_model: %s is NULL", rows ? "model" : "rows");
    if (model->rt != graph->g->rt) return ramet__fail(RAMET_E_ARGUMENT, "ramet_graph_model: the model belongs to another runtime");
    RAMET__TRY(ramet__options(&in.o, sizeof in.o, options, "ramet_graph_model"));
    RAMET__TRY(check(&in));
    if (in.o.full || in.o.rank) RAMET__TRY(ramet__nets_keep(NULL, graph, variables, ""));
    in.g = graph->g;
    const ramet__build_options build = {.rows = 1, .targets = in.o.targets, .train = trained, .after = changed, .train_user = &in};
    model->arch->build(&built, graph->g, model, &build);
    graph->context = RAMET__MAX(graph->context, model->h.n_ctx);
    return ramet__nets_answer(rows, graph, built.rows);
}

/* ---- what was learned ---- */

static struct ramet__variable *find(const ramet_variables *v, const char *name, const char *end) {
    const size_t n = strlen(name);
    for (int64_t i = 0; i < v->n; i++)
        if (!strncmp(v->item[i]->pool.param->name, name, n) && !strcmp(v->item[i]->pool.param->name + n, end)) return v->item[i];
    return NULL;
}

static ramet_status usable(const void *out, const ramet_variables *v, const ramet_model *m, const char *function) {
    if (!out || !v || !m) return ramet__fail(RAMET_E_ARGUMENT, "%s: %s is NULL", function, !out ? "out" : v ? "model" : "variables");
    return ramet__runtime_check(m->rt);
}

ramet_status ramet_variables_adapter(ramet_adapter **out, const ramet_variables *v, const ramet_model *m, float alpha) {
    ramet_status st = RAMET_OK;
    ramet_adapter *a = NULL;
    RAMET__TRY(usable(out, v, m, "ramet_variables_adapter"));
    const char *digest = ramet_model_digest(m);
    if (!digest) return ramet__alloc_status();
    RAMET__TRY(ramet__adapter_alloc(&a, m->rt, m, m->arch->name, alpha, m->n_weights));
    memcpy(a->base_digest, digest, sizeof a->base_digest);
    for (int64_t i = 0; i < m->n_weights; i++) {
        const char *name = ramet__weight_name(m->weights[i]);
        const struct ramet__variable *pair[2] = {find(v, name, ".lora_a"), find(v, name, ".lora_b")};
        if (!pair[0] || !pair[1]) continue;
        const ramet__shape *sa = &pair[0]->pool.param->shape, *sb = &pair[1]->pool.param->shape;
        RAMET__GO(ramet__adapter_check_shape(m, name, sb->dim[0], sa->dim[1]));
        RAMET__GO(ramet__adapter_add(a, name, sb->dim[0], sa->dim[1], sa->dim[0], alpha / (float)sa->dim[0]));
        memcpy(a->lora[a->n - 1].a, pair[0]->pool.value, (size_t)pair[0]->pool.param->count * sizeof(float));
        memcpy(a->lora[a->n - 1].b, pair[1]->pool.value, (size_t)pair[1]->pool.param->count * sizeof(float));
    }
    if (!a->n) {
        st = ramet__fail(RAMET_E_NOT_FOUND, "ramet_variables_adapter: there are no pairs (<weight>.lora_a, .lora_b) for weights of %s", m->name);
        goto out;
    }
    *out = a;
    a = NULL;
out:
    ramet_adapter_free(a);
    return st;
}

ramet_status ramet_variables_model(ramet_model **out, const ramet_variables *v, const ramet_model *m, const char *encoding) {
    ramet_status st = RAMET_OK;
    ramet__weight **weights = NULL;
    ramet__lineage *lineage = NULL;
    ramet__enc enc;
    RAMET__TRY(usable(out, v, m, "ramet_variables_model"));
    RAMET__TRY(ramet__encoding_named(&enc, encoding ? encoding : "F32", "ramet_variables_model"));
    RAMET__NEW(weights, ramet__calloc(m->rt->mem, (size_t)m->n_weights, sizeof *weights));
    int64_t found = 0;
    for (int64_t i = 0; i < m->n_weights; i++) {
        const struct ramet__variable *q = find(v, ramet__weight_name(m->weights[i]), "");
        if (q && ramet__shape_equal(&q->pool.param->shape, ramet__weight_shape(m->weights[i]))) {
            RAMET__GO(ramet__weight_encode(&weights[i], m->rt, ramet__weight_name(m->weights[i]), &q->pool.param->shape, q->pool.value, enc));
            found++;
        } else weights[i] = ramet__weight_retain(m->weights[i]);
    }
    if (!found) {
        st = ramet__fail(RAMET_E_NOT_FOUND, "ramet_variables_model: no variable is a weight of %s", m->name);
        goto out;
    }
    RAMET__GO(ramet__lineage_copy(&lineage, m->rt->mem, m->lineage));
    RAMET__GO(ramet__model_derive(out, m, &m->h, weights, m->n_weights, lineage));
    lineage = NULL;
out:
    for (int64_t i = 0; weights && i < m->n_weights; i++) ramet__weight_free(weights[i]);
    ramet__free(weights);
    ramet__lineage_free(lineage);
    return st;
}
