/* SPDX-License-Identifier: Apache-2.0 */
/* hessian_tool.c - what hessian.py drives: gradient and Hessian-vector product of a model's loss for all its weights.
 *   hessian_tool MODEL IN OUT
 * IN, safetensors: "tokens" and "labels" I32 [sequences, length], and by each weight's name a direction, F32. OUT: "loss" [1], and
 * for each weight "grad/NAME" and "hvp/NAME". Exact mode. */
#include "format/safetensors.h"
#include "graph/op.h"
#include "model/model.h"
#include <stdio.h>
#include <string.h>

typedef struct master { ramet__var value, along; ramet__val grad, hvp; } master;
typedef struct work {
    ramet_runtime *rt;
    ramet_model *model;
    ramet__safetensors *in;
    master *weight; /* [model->n_weights] */
    int64_t sequences, length;
    int32_t *tokens, *labels, *pos, *seq, *outs;
    float *share;
    ramet__plan *plan;
} work;

static ramet__var *master_of(const char *name, void *user) {
    work *w = user;
    for (int64_t i = 0; i < w->model->n_weights; i++)
        if (!strcmp(w->weight[i].value.name, name)) return &w->weight[i].value;
    return NULL;
}

static ramet_status read_tensor(void *dst, const work *w, const char *name, int64_t count) {
    const ramet__st_tensor *t = ramet__safetensors_find(w->in, name);
    if (!t || t->bytes != 4 * (uint64_t)count) return ramet__fail(RAMET_E_ARGUMENT, "%s is missing or has another size", name);
    return ramet__safetensors_read(w->in, t, dst, t->bytes);
}

static ramet_status read_all(work *w, const char *path) {
    ramet_status st = RAMET_OK;
    ramet__reader *reader = NULL;
    ramet_source source;
    ramet_source_from_path(&source, sizeof source, path);
    RAMET__GO(ramet__reader_open(&reader, w->rt->mem, &source));
    RAMET__GO(ramet__safetensors_open(&w->in, w->rt->mem, reader));
    const ramet__st_tensor *t = ramet__safetensors_find(w->in, "tokens");
    if (!t || t->rank != 2 || t->dim[0] < 1 || t->dim[1] < 1) {
        st = ramet__fail(RAMET_E_ARGUMENT, "tokens [sequences, length] are missing");
        goto out;
    }
    w->sequences = t->dim[0];
    w->length = t->dim[1];
    int64_t n = w->sequences * w->length;
    int32_t **list[] = {&w->tokens, &w->labels, &w->pos, &w->seq, &w->outs};
    for (int32_t i = 0; i < RAMET__COUNT(list); i++) RAMET__NEW(*list[i], ramet__calloc(w->rt->mem, (size_t)n, sizeof(int32_t)));
    RAMET__NEW(w->share, ramet__calloc(w->rt->mem, (size_t)n, sizeof *w->share));
    RAMET__GO(read_tensor(w->tokens, w, "tokens", n));
    RAMET__GO(read_tensor(w->labels, w, "labels", n));
    for (int64_t i = 0; i < n; i++) {
        w->pos[i] = (int32_t)(i % w->length);
        w->seq[i] = (int32_t)(i / w->length);
        w->outs[i] = (int32_t)i;
        w->share[i] = 1.0f / (float)n;
    }
    RAMET__NEW(w->weight, ramet__calloc(w->rt->mem, (size_t)w->model->n_weights, sizeof *w->weight));
    for (int64_t i = 0; i < w->model->n_weights; i++) {
        const ramet__weight *from = w->model->weights[i];
        const ramet__shape shape = *ramet__weight_shape(from);
        const int64_t count = ramet__shape_count(&shape);
        w->weight[i].value = (ramet__var){.name = ramet__weight_name(from), .shape = shape};
        w->weight[i].along = (ramet__var){.name = ramet__weight_name(from), .shape = shape};
        RAMET__NEW(w->weight[i].value.data, ramet__calloc(w->rt->mem, (size_t)count, sizeof(float)));
        RAMET__NEW(w->weight[i].along.data, ramet__calloc(w->rt->mem, (size_t)count, sizeof(float)));
        ramet__weight_decode(w->weight[i].value.data, from, 0, shape.rank == 2 ? shape.dim[0] : 1);
        RAMET__GO(read_tensor(w->weight[i].along.data, w, ramet__weight_name(from), count));
    }
out:
    ramet__reader_free(reader);
    return st;
}

static ramet_status differentiate(work *w) {
    ramet_status st = RAMET_OK;
    ramet__graph *g = NULL;
    ramet__built built;
    const int64_t rows = w->sequences * w->length, n = w->model->n_weights;
    const ramet__build_options build = {.train = master_of, .train_user = w};
    const ramet__plan_options options = {.mode = RAMET__MODE_EXACT, .max_context = w->length};
    ramet__val *list = NULL, dot = -1;
    char name[RAMET__NAME_MAX + 8];
    RAMET__NEW(list, ramet__calloc(w->rt->mem, 2 * (size_t)n, sizeof *list));
    RAMET__GO(ramet__graph_create(&g, w->rt, rows, rows, 0));
    RAMET__GO(w->model->arch->build(&built, g, w->model, &build));
    const ramet__val loss = ramet__op_cross_entropy(g, built.logits, ramet__graph_input(g, "labels", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0),
                                                    ramet__graph_input(g, "weight", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 0), NULL);
    for (int64_t i = 0; i < n; i++) list[i] = ramet__graph_var(g, &w->weight[i].value);
    RAMET__GO(ramet__graph_gradient(g, loss, list, (int32_t)n, list + n));
    for (int64_t i = 0; i < n; i++) {
        w->weight[i].grad = list[n + i];
        const ramet__val term = ramet__op_sum(g, ramet__op_mul(g, list[n + i], ramet__graph_var(g, &w->weight[i].along)));
        dot = dot < 0 ? term : ramet__op_add(g, dot, term);
    }
    RAMET__GO(ramet__graph_gradient(g, dot, list, (int32_t)n, list + n));
    ramet__graph_output(g, "loss", loss);
    for (int64_t i = 0; i < n; i++)
        for (int32_t second = 0; second < 2; second++) {
            snprintf(name, sizeof name, "%s/%s", second ? "hvp" : "grad", w->weight[i].value.name);
            ramet__graph_output(g, name, second ? list[n + i] : w->weight[i].grad);
        }
    RAMET__GO(ramet__plan_create(&w->plan, g, &options));
    ramet__run run = {.rows = rows, .outs = rows};
    const struct { const char *name; const void *data; } inputs[] = {{"tokens", w->tokens}, {"pos", w->pos}, {"seq", w->seq},
                                                                     {"outs", w->outs}, {"labels", w->labels}, {"weight", w->share}};
    for (; run.n_inputs < RAMET__COUNT(inputs); run.n_inputs++) {
        run.input[run.n_inputs].name = inputs[run.n_inputs].name;
        run.input[run.n_inputs].data = inputs[run.n_inputs].data;
    }
    st = ramet__plan_run(w->plan, &run);
out:
    ramet__graph_free(g);
    ramet__free(list);
    return st;
}

static ramet_status write_all(const work *w, const char *path) {
    ramet_status st = RAMET_OK;
    ramet__st_writer *out = NULL;
    char name[RAMET__NAME_MAX + 8];
    const int64_t one = 1;
    RAMET__GO(ramet__st_writer_open(&out, w->rt->mem, path));
    RAMET__GO(ramet__st_declare(out, "loss", RAMET__ST_F32, 1, &one));
    for (int32_t data = 0; data < 2; data++) {
        if (data) RAMET__GO(ramet__st_data(out, ramet__plan_output(w->plan, "loss", NULL, NULL), sizeof(float)));
        for (int64_t i = 0; i < 2 * w->model->n_weights; i++) {
            const ramet__var *v = &w->weight[i / 2].value;
            snprintf(name, sizeof name, "%s/%s", i % 2 ? "hvp" : "grad", v->name);
            if (data)
                RAMET__GO(ramet__st_data(out, ramet__plan_output(w->plan, name, NULL, NULL),
                                         (uint64_t)ramet__shape_count(&v->shape) * sizeof(float)));
            else RAMET__GO(ramet__st_declare(out, name, RAMET__ST_F32, v->shape.rank, v->shape.dim));
        }
    }
    st = ramet__st_writer_commit(&out);
out:
    if (out) ramet__st_writer_drop(&out);
    return st;
}

int main(int argc, char **argv) {
    ramet_status st = RAMET_OK;
    work w = {0};
    if (argc != 4) return 2;
    RAMET__GO(ramet_runtime_create(&w.rt, NULL));
    RAMET__GO(ramet_model_load_path(&w.model, w.rt, argv[1]));
    RAMET__GO(read_all(&w, argv[2]));
    RAMET__GO(differentiate(&w));
    RAMET__GO(write_all(&w, argv[3]));
out:
    if (st) fprintf(stderr, "%s: %s\n", ramet_status_name(st), ramet_last_error());
    ramet__plan_free(w.plan);
    for (int64_t i = 0; w.weight && i < w.model->n_weights; i++) {
        ramet__free(w.weight[i].value.data);
        ramet__free(w.weight[i].along.data);
    }
    int32_t *list[] = {w.tokens, w.labels, w.pos, w.seq, w.outs};
    for (int32_t i = 0; i < RAMET__COUNT(list); i++) ramet__free(list[i]);
    ramet__free(w.share);
    ramet__free(w.weight);
    ramet__safetensors_free(w.in);
    ramet_model_free(w.model);
    ramet_runtime_free(w.rt);
    return st != 0;
}
