/* SPDX-License-Identifier: Apache-2.0 */
/* tuner.c - a model being adapted: one plan for a micro-batch of windows that computes the loss and adds gradients into a pool,
 * and an optimizer step after each batch. LoRA (Hu et al. 2021, arXiv:2106.09685) trains the pairs bound to the plan's adapter
 * slots; full tuning trains F32 masters that stand in for the weights. The state between two micro-batches is the pool plus a few
 * numbers: a checkpoint. */
#include <math.h>
#include <string.h>
#include "train/train.h"

/* ---- what is trained ---- */

static ramet_status name_param(ramet_tuner *t, ramet__param *p, const char *name, const char *suffix, int64_t rows, int64_t cols) {
    p->shape = cols ? (ramet__shape){2, {rows, cols}} : (ramet__shape){1, {rows}};
    p->decay = cols != 0; /* as usual: matrices decay, norms do not */
    p->name = ramet__format(t->rt->mem, "%s%s", name, suffix);
    return p->name ? RAMET_OK : ramet__alloc_status();
}

/* Pairs like those of `from`, all with the largest rank: rows of A and columns of B that are zero stay zero, their gradients
 * being products with one another. */
static ramet_status set_pairs(ramet_tuner *t, const ramet_adapter *from) {
    ramet_status st = RAMET_OK;
    t->n_targets = from->n;
    t->rank = 0;
    t->each = 2 + ramet__adapter_is_dora(from);
    for (int64_t i = 0; i < from->n; i++) t->rank = RAMET__MAX(t->rank, from->lora[i].rank);
    RAMET__NEW(t->target, ramet__calloc(t->rt->mem, (size_t)RAMET__MAX(from->n, 1), sizeof *t->target));
    RAMET__NEW(t->params.param, ramet__calloc(t->rt->mem, (size_t)RAMET__MAX(from->n, 1), (size_t)t->each * sizeof *t->params.param));
    t->params.n = t->each * from->n;
    for (int64_t i = 0; i < from->n; i++) {
        const ramet__lora *l = &from->lora[i];
        RAMET__NEW(t->target[i].name, ramet__strdup(t->rt->mem, l->name));
        t->target[i].scale = l->scale;
        t->target[i].n = l->n;
        t->target[i].k = l->k;
        RAMET__GO(name_param(t, &t->params.param[t->each * i], l->name, ".lora_a", t->rank, l->k));
        RAMET__GO(name_param(t, &t->params.param[t->each * i + 1], l->name, ".lora_b", l->n, t->rank));
        if (l->m) RAMET__GO(name_param(t, &t->params.param[t->each * i + 2], l->name, ".magnitude", l->n, 0));
    }
    RAMET__GO(ramet__params_init(&t->params, t->rt, ramet__optimizer_find(t->o.optimizer)));
    for (int64_t i = 0; i < from->n; i++) t->params.param[t->each * i + 1].rate = t->o.lora_plus;
    for (int64_t i = 0; i < from->n; i++) {
        const ramet__lora *l = &from->lora[i];
        float *b = t->params.param[t->each * i + 1].value.data;
        if (l->m) memcpy(t->params.param[t->each * i + 2].value.data, l->m, (size_t)l->n * sizeof(float));
        memcpy(t->params.param[t->each * i].value.data, l->a, (size_t)l->rank * (size_t)l->k * sizeof(float));
        for (int64_t r = 0; r < l->n; r++) memcpy(b + r * t->rank, l->b + r * l->rank, (size_t)l->rank * sizeof(float));
    }
out:
    return st;
}

/* Room for what the norms of a DoRA's directions are in every step. */
static ramet_status set_inverses(ramet_tuner *t) {
    ramet_status st = RAMET_OK;
    int64_t total = 0, at = 0;
    t->inverses_step = -1;
    for (int64_t i = 0; i < t->n_targets; i++) total += t->target[i].n;
    RAMET__NEW(t->inverses, ramet__calloc(t->rt->mem, (size_t)total, sizeof *t->inverses));
    for (int64_t i = 0; i < t->n_targets; at += t->target[i++].n)
        t->target[i].inverse = (ramet__var){t->target[i].name, {1, {t->target[i].n}}, t->inverses + at};
out:
    return st;
}

ramet_status ramet__tuner_inverses(ramet_tuner *t) {
    if (t->each < 3 || t->inverses_step == t->step) return RAMET_OK;
    for (int64_t i = 0; i < t->n_targets; i++) {
        const ramet__tuner_target *x = &t->target[i];
        const ramet__param *p = &t->params.param[t->each * i];
        const ramet__lora l = {.n = x->n, .k = x->k, .rank = t->rank, .a = p[0].value.data, .b = p[1].value.data};
        float *inverse = x->inverse.data;
        RAMET__TRY(ramet__lora_norms(inverse, t->rt, &l, x->scale, ramet__model_weight(t->model, x->name)));
        for (int64_t r = 0; r < x->n; r++) inverse[r] = inverse[r] > 0 ? 1 / inverse[r] : 0;
    }
    t->inverses_step = t->step;
    return RAMET_OK;
}

/* DoRA: the norm of the direction counts as a constant in the gradient, as the paper has it (section 4.3). */
static ramet__val times_gain(ramet__graph *g, ramet__val x, ramet__val y, const char *name, void *user) {
    ramet_tuner *t = user;
    (void)x;
    for (int64_t i = 0; i < t->n_targets; i++)
        if (!strcmp(t->target[i].name, name)) {
            ramet__var *m = &t->params.param[t->each * i + 2].value;
            return ramet__op_mul(g, y, ramet__op_mul(g, ramet__graph_var(g, m), ramet__graph_var(g, &t->target[i].inverse)));
        }
    return y;
}

static ramet_status set_adapter(ramet_tuner *t, const ramet_adapter *initial) {
    ramet_status st = RAMET_OK;
    ramet_adapter *fresh = NULL;
    if (initial) {
        for (int64_t i = 0; i < initial->n; i++) {
            const ramet__weight *w = ramet__model_weight(t->model, initial->lora[i].name);
            if (!w || ramet__weight_shape(w)->rank != 2 || ramet__weight_shape(w)->dim[0] != initial->lora[i].n ||
                ramet__weight_shape(w)->dim[1] != initial->lora[i].k)
                return ramet__fail(RAMET_E_INCONSISTENT, "ramet_tuner_create: the initial adapter's \"%s\" does not fit the model",
                                   initial->lora[i].name);
        }
        t->o.alpha = initial->alpha;
    } else {
        RAMET__TRY(ramet__adapter_new(&fresh, t->model, t->o.targets, t->o.rank, t->o.alpha, t->o.seed));
        if (t->o.rslora) /* Kalajdzievski 2023, arXiv:2312.03732 */
            for (int64_t i = 0; i < fresh->n; i++) fresh->lora[i].scale = (float)((double)t->o.alpha / sqrt((double)t->o.rank));
        for (int64_t i = 0; t->o.dora && i < fresh->n; i++) {
            ramet__lora *l = &fresh->lora[i];
            RAMET__NEW(l->m, ramet__alloc(t->rt->mem, (size_t)l->n * sizeof *l->m));
            RAMET__GO(ramet__lora_norms(l->m, t->rt, l, 0, ramet__model_weight(t->model, l->name)));
        }
    }
    const ramet_adapter *from = initial ? initial : fresh;
    if (from->n) RAMET__GO(set_pairs(t, from));
    else
        st = ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_create: no weight takes an adapter (targets \"%s\")",
                         t->o.targets ? t->o.targets : "all");
    if (!st && initial) { /* a checkpoint may only be continued from the same beginning */
        ramet__sha256 s;
        ramet__sha256_init(&s);
        ramet__sha256_add(&s, t->params.value, (size_t)t->params.total * sizeof(float));
        ramet__sha256_hex(&s, t->initial_digest);
    }
    if (!st && t->each == 3) st = set_inverses(t);
out:
    ramet_adapter_free(fresh);
    return st;
}

static ramet_status set_masters(ramet_tuner *t) {
    ramet_status st = RAMET_OK;
    const ramet_model *m = t->model;
    RAMET__NEW(t->params.param, ramet__calloc(t->rt->mem, (size_t)m->n_weights, sizeof *t->params.param));
    for (int64_t i = 0; i < m->n_weights; i++) {
        const ramet__shape *s = ramet__weight_shape(m->weights[i]);
        if (!ramet__weight_listed(m, m->weights[i], t->o.targets)) continue;
        RAMET__GO(name_param(t, &t->params.param[t->params.n++], ramet__weight_name(m->weights[i]), "", s->dim[0], s->rank > 1 ? s->dim[1] : 0));
    }
    if (!t->params.n) {
        st = ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_create: the model has none of the weights \"%s\"", t->o.targets);
        goto out;
    }
    RAMET__GO(ramet__params_init(&t->params, t->rt, ramet__optimizer_find(t->o.optimizer)));
    for (int64_t i = 0; i < t->params.n; i++) {
        const ramet__weight *w = ramet__model_weight(m, t->params.param[i].name);
        ramet__weight_decode(t->params.param[i].value.data, w, 0, ramet__shape_rows(ramet__weight_shape(w)));
        ramet__weight_leave_source(w); /* the master stands in for it */
    }
out:
    return st;
}

static ramet__var *master_of(const char *name, void *user) {
    ramet_tuner *t = user;
    for (int64_t i = 0; i < t->params.n; i++)
        if (!strcmp(t->params.param[i].name, name)) return &t->params.param[i].value;
    return NULL;
}

/* ---- the plan ---- */

static ramet__val loss_of(const ramet_tuner *t, ramet__graph *g, ramet__val logits) {
    const ramet__val labels = ramet__graph_input(g, "labels", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0);
    const ramet__val weight = ramet__graph_input(g, "weight", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 0);
    const float soft = t->labels.give ? 1.0f : t->teacher ? t->o.teacher_weight : 0.0f;
    ramet__val hard = -1, kl = -1;
    if (soft < 1.0f) hard = ramet__op_cross_entropy(g, logits, labels, weight, NULL);
    if (soft <= 0.0f) return hard;
    const ramet__val ids = ramet__graph_input(g, "teacher_ids", RAMET__TYPE_I32, RAMET__AXIS_OUTS, t->o.teacher_top);
    const ramet__val p = ramet__graph_input(g, "teacher_p", RAMET__TYPE_F32, RAMET__AXIS_OUTS, t->o.teacher_top);
    kl = ramet__op_kl_skewed(g, logits, ids, p, weight, t->teacher && t->o.teacher_divergence == RAMET_DIVERGENCE_REVERSE, t->teacher ? t->o.teacher_skew : 0.0f, NULL);
    if (soft >= 1.0f) return kl;
    return ramet__op_add(g, ramet__op_scale(g, kl, soft), ramet__op_scale(g, hard, 1.0f - soft));
}

/* Of the tuner without its plan. */
static uint64_t held_bytes(const ramet_tuner *t) {
    const uint64_t rows = (uint64_t)t->o.micro_batch * (uint64_t)t->o.window, soft = t->teacher_ids ? rows * (uint64_t)t->o.teacher_top * 8 : 0;
    return ramet__params_bytes(&t->params) + ramet__teacher_bytes(t->teacher) + ramet__preference_bytes(t->preference) + soft + rows * 8 * sizeof(int32_t) + (uint64_t)t->windows.n * sizeof *t->windows.start;
}

uint64_t ramet__tuner_bytes(const ramet_tuner *t) { return held_bytes(t) + ramet__plan_bytes(t->plan); }

ramet_status ramet_tuner_describe(char **out, const ramet_tuner *t) {
    if (!out || !t) return ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_describe: %s is NULL", out ? "tuner" : "out");
    char *text = ramet__plan_text(t->plan);
    if (!text) return ramet__alloc_status();
    *out = text;
    return RAMET_OK;
}

static ramet_status make_plan(ramet_tuner *t, int32_t all_slots) {
    ramet_status st = RAMET_OK;
    ramet__graph *g = NULL;
    ramet__val *wrt = NULL, *grad = NULL;
    int64_t *which = NULL, moving = 0;
    const char **names = NULL;
    ramet__built built;
    const int64_t rows = (int64_t)t->o.micro_batch * t->o.window, n = t->params.n;
    const ramet__build_options build = {
        .slots = !t->o.full, .targets = all_slots ? NULL : t->o.targets, .train = t->o.full ? master_of : NULL, .after = t->each == 3 ? times_gain : NULL, .train_user = t};
    if (t->data->pairs) RAMET__TRY(ramet__preference_create(&t->preference, t, &build));
    const ramet__plan_options plan = {.mode = (ramet__mode)t->o.mode, .training = 1, .direct_sums = t->o.full, .timing = 1, .max_context = t->o.window, .byte_budget = t->o.byte_budget, .held_bytes = held_bytes(t)};
    RAMET__NEW(wrt, ramet__calloc(t->rt->mem, (size_t)n, sizeof *wrt));
    RAMET__NEW(grad, ramet__calloc(t->rt->mem, (size_t)n, sizeof *grad));
    RAMET__NEW(which, ramet__calloc(t->rt->mem, (size_t)n, sizeof *which));
    RAMET__GO(ramet__graph_create(&g, t->rt, rows, rows, t->rank));
    RAMET__GO(t->model->arch->build(&built, g, t->model, &build));
    const ramet__val loss = loss_of(t, g, built.logits);
    if (t->o.full) {
        for (int64_t i = 0; i < n; i++) wrt[i] = ramet__graph_var(g, &t->params.param[i].value);
    } else {
        for (int64_t i = 0; i < t->n_targets; i++) {
            const ramet__slot slot = ramet__graph_slot(g, t->target[i].name, t->target[i].n, t->target[i].k);
            wrt[t->each * i] = slot.a;
            wrt[t->each * i + 1] = slot.b;
            if (t->each == 3) wrt[t->each * i + 2] = ramet__graph_var(g, &t->params.param[t->each * i + 2].value);
        }
        t->n_slots = ramet__graph_slot_count(g);
        RAMET__NEW(t->entries, ramet__calloc(t->rt->mem, (size_t)RAMET__MAX(t->n_slots, 1), sizeof *t->entries));
        for (int64_t i = 0; i < t->n_targets; i++) {
            const int32_t at = ramet__graph_slot_index(g, t->target[i].name);
            if (at >= 0)
                t->entries[at] = (ramet__slot_entry){t->params.param[t->each * i].value.data, t->params.param[t->each * i + 1].value.data,
                                                     t->target[i].scale, t->rank, NULL};
        }
        t->adapter[0] = t->entries;
    }
    for (int64_t i = 0; i < n; i++) /* what is frozen for good needs no gradient */
        if (t->params.param[i].rate > 0.0f) {
            wrt[moving] = wrt[i];
            which[moving++] = i;
        }
    RAMET__GO(ramet__graph_gradient(g, loss, wrt, (int32_t)moving, grad));
    if (t->o.example_clip > 0.0f) {
        RAMET__NEW(names, ramet__calloc(t->rt->mem, (size_t)n, sizeof *names));
        for (int64_t i = 0; i < moving; i++) names[i] = t->params.param[which[i]].name;
        ramet__graph_output(g, "example_square", ramet__graph_limit_windows(g, grad, (int32_t)moving, names, t->o.micro_batch, t->o.example_clip / (float)t->o.batch));
    }
    for (int64_t i = 0; i < moving; i++)
        if (grad[i] >= 0) ramet__op_write(g, &t->params.param[which[i]].grad, grad[i], 1);
    ramet__graph_output(g, "loss", loss);
    RAMET__GO(ramet__graph_status(g));
    RAMET__GO(ramet__plan_create(&t->plan, g, &plan));
out:
    ramet__graph_free(g);
    ramet__free(wrt);
    ramet__free(grad);
    ramet__free(which);
    ramet__free(names);
    return st;
}

static ramet_status set_up(ramet_tuner *t, const ramet_tuner_options *given) {
    ramet__mem *mem = t->rt->mem;
    ramet_tuner_options *o = &t->o;
    *o = *given;
    o->teacher = NULL;
    o->initial = NULL;
    o->evaluation = NULL;
    o->targets = o->groups = NULL;
    if (o->average) o->average = strcmp(o->average, "ema") ? "swa" : "ema";
    if (o->average_start == -1.0f) o->average_start = o->average && !strcmp(o->average, "swa") ? 0.75f : 0.0f;
    t->params.average = o->average != NULL;
    t->params.best = t->evaluation != NULL;
    t->params.path = given->state_path;
    o->state_path = NULL;
    t->params.keep = given->state_keep;
    o->optimizer = given->optimizer ? ramet__optimizer_find(given->optimizer)->name : ramet__optimizer_adamw.name;
    o->micro_batch = RAMET__MIN(o->micro_batch, o->batch / o->workers);
    if (o->learning_rate == 0.0f) o->learning_rate = o->full ? 2e-5f : 2e-4f;
    if (!given->teacher) o->teacher_weight = 0.0f;
    if (given->targets) {
        if (!(t->targets = ramet__strdup(mem, given->targets))) return ramet__alloc_status();
        o->targets = t->targets;
    }
    if (given->groups) {
        if (!(t->groups = ramet__strdup(mem, given->groups))) return ramet__alloc_status();
        o->groups = t->groups;
    }
    RAMET__TRY(ramet__windows_init(&t->windows, mem, t->data, o->window));
    if (!t->windows.n)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_create: the dataset (%lld tokens) has nothing to predict", (long long)t->data->n);
    if (!o->steps) o->steps = RAMET__MAX(1, (int64_t)ceil(o->epochs * (double)t->windows.n / (double)o->batch));
    ramet__dataset_digest(t->data_digest, t->data);
    if (t->evaluation) {
        if (!t->evaluation->n || (!t->evaluation->read && !ramet__rows_count(t->evaluation, 0, t->evaluation->n)))
            return ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_create: the evaluation dataset (%lld tokens) has nothing to predict", (long long)t->evaluation->n);
        ramet__dataset_digest(t->evaluation_digest, t->evaluation);
    }
    if (o->full) RAMET__TRY(set_masters(t));
    else RAMET__TRY(set_adapter(t, given->initial));
    RAMET__TRY(ramet__params_groups(&t->params, o->groups));
    if (given->teacher && o->teacher_weight > 0.0f) {
        const char *digest = ramet_model_digest(given->teacher);
        if (!digest) return ramet__fail(RAMET_E_INTERNAL, "ramet_tuner_create: the teacher has no digest");
        memcpy(t->teacher_digest, digest, sizeof t->teacher_digest);
        RAMET__TRY(ramet__teacher_create(&t->teacher, given->teacher, o->mode, o->window, o->teacher_top));
    }
    if (t->teacher || t->labels.give) {
        const size_t cells = (size_t)o->micro_batch * (size_t)o->window * (size_t)o->teacher_top;
        if (!(t->teacher_ids = ramet__calloc(mem, cells, sizeof *t->teacher_ids))) return ramet__alloc_status();
        if (!(t->teacher_p = ramet__calloc(mem, cells, sizeof *t->teacher_p))) return ramet__alloc_status();
    }
    RAMET__TRY(ramet__rows_init(&t->rows, mem, (int64_t)o->micro_batch * o->window));
    return make_plan(t, given->initial != NULL);
}

ramet_status ramet_tuner_create(ramet_tuner **out, ramet_model *model, ramet_dataset *data, const ramet_tuner_options *options) {
    return ramet__tuner_create(out, model, data, options, NULL);
}

ramet_status ramet__tuner_create(ramet_tuner **out, ramet_model *model, ramet_dataset *data, const ramet_tuner_options *options,
                                 const ramet__labels *labels) {
    ramet_status st = RAMET_OK;
    ramet_tuner *t = NULL;
    ramet_tuner_options o;
    ramet_tuner_options_init(&o, sizeof o);
    if (!out || !model || !data)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_tuner_create: %s is NULL", !out ? "out" : !model ? "model" : "data");
    RAMET__TRY(ramet__runtime_check(model->rt));
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_tuner_create"));
    RAMET__TRY(ramet__tuner_check(&o, model, data));
    RAMET__NEW(t, ramet__calloc(model->rt->mem, 1, sizeof *t));
    t->rt = ramet__runtime_retain(model->rt);
    t->model = ramet_model_retain(model);
    t->data = ramet__dataset_retain(data);
    ramet__dataset_seal(data);
    if (o.evaluation) {
        t->evaluation = ramet__dataset_retain(o.evaluation);
        ramet__dataset_seal(o.evaluation);
    }
    if (labels) t->labels = *labels;
    RAMET__GO(set_up(t, &o));
    ramet__log(t->rt, RAMET_LOG_INFO,
               "tuner: %lld parameters, %lld windows, %lld steps; plan %llu bytes, parameters and optimizer %llu, teacher %llu",
               (long long)t->params.total, (long long)t->windows.n, (long long)t->o.steps, (unsigned long long)ramet__plan_bytes(t->plan),
               (unsigned long long)ramet__params_bytes(&t->params),
               (unsigned long long)ramet__teacher_bytes(t->teacher));
    *out = t;
    t = NULL;
out:
    ramet_tuner_free(t);
    return st;
}

void ramet_tuner_free(ramet_tuner *t) {
    if (!t) return;
    ramet_runtime *rt = t->rt;
    ramet__plan_free(t->plan);
    ramet__teacher_free(t->teacher);
    ramet__preference_free(t->preference);
    ramet__free(t->teacher_ids);
    ramet__free(t->teacher_p);
    ramet__free(t->entries);
    ramet__rows_free(&t->rows);
    ramet__params_free(&t->params);
    for (int64_t i = 0; t->target && i < t->n_targets; i++) ramet__free(t->target[i].name);
    ramet__free(t->target);
    ramet__free(t->inverses);
    ramet__windows_free(&t->windows);
    ramet__free(t->targets);
    ramet__free(t->groups);
    ramet_dataset_free(t->data);
    ramet_dataset_free(t->evaluation);
    ramet_model_free(t->model);
    ramet__free(t);
    ramet_runtime_free(rt);
}
