/* SPDX-License-Identifier: Apache-2.0 */
/* variables.c - named tensors of small nets: made by a rule, saved, loaded, moved by an optimizer. Each is a pool of one parameter (params.h
 * of lib/train), so that any may be added at any time and none ever moves. */
#include "nets/nets.h"
#include "base/rng.h"
#include "format/safetensors.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

ramet_status ramet_variables_create(ramet_variables **out, ramet_runtime *rt) {
    RAMET__TRY(ramet__runtime_check(rt));
    ramet_variables *v = ramet__calloc(rt->mem, 1, sizeof *v);
    if (!v) return ramet__alloc_status();
    v->rt = ramet__runtime_retain(rt);
    atomic_init(&v->refs, 1);
    *out = v;
    return RAMET_OK;
}
ramet_variables *ramet__variables_retain(ramet_variables *v) {
    atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    return v;
}
static void drop(struct ramet__variable *q) {
    if (q) ramet__params_free(&q->pool);
    ramet__free(q);
}
void ramet_variables_free(ramet_variables *v) {
    if (!v || atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) != 1) return;
    for (int64_t i = 0; i < v->n; i++) drop(v->item[i]);
    ramet__free(v->item);
    ramet_runtime *rt = v->rt;
    ramet__free(v);
    ramet_runtime_free(rt);
}
static ramet_status check(const ramet_variables *v, const char *name) {
    if (!v || !name) return ramet__fail(RAMET_E_ARGUMENT, "variables: %s is NULL", v ? "the name" : "the handle");
    return ramet__runtime_check(v->rt);
}
static struct ramet__variable *look(const ramet_variables *v, const char *name) {
    for (int64_t i = 0; i < v->n; i++)
        if (!strcmp(v->item[i]->pool.param->name, name)) return v->item[i];
    return NULL;
}
struct ramet__variable *ramet__variables_find(const ramet_variables *v, const char *name) {
    struct ramet__variable *q = look(v, name);
    if (!q) ramet__fail(RAMET_E_NOT_FOUND, "variables: there is no '%s'", name);
    return q;
}

/* ---- adding ---- */
static ramet_status make(struct ramet__variable **out, ramet_variables *v, const char *name, int64_t rows, int64_t columns, int32_t trainable) {
    ramet_status st = RAMET_OK;
    struct ramet__variable *q = NULL;
    ramet__param *p;
    RAMET__GO(ramet__grow(v->rt->mem, &v->item, &v->cap, v->n + 1, sizeof *v->item));
    RAMET__NEW(q, ramet__calloc(v->rt->mem, 1, sizeof *q));
    RAMET__NEW(q->pool.param, p = ramet__calloc(v->rt->mem, 1, sizeof *p));
    q->pool.n = 1;
    q->trainable = trainable != 0;
    RAMET__NEW(p->name, ramet__strdup(v->rt->mem, name));
    p->shape = rows ? (ramet__shape){2, {rows, columns}} : (ramet__shape){1, {columns}};
    p->decay = rows != 0;
    RAMET__GO(ramet__params_init(&q->pool, v->rt, NULL));
    *out = q;
    return RAMET_OK;
out:
    drop(q);
    return st;
}
static ramet_status fill(const ramet__param *p, float *to, const char *rule, uint64_t seed) {
    static const char *const rules[] = {"zeros", "ones", "normal", "uniform", "he", "glorot"};
    int32_t kind = 0;
    size_t n = strcspn(rule, ":");
    while (kind < RAMET__COUNT(rules) && (strlen(rules[kind]) != n || strncmp(rules[kind], rule, n))) kind++;
    char *end = NULL;
    double size = rule[n] ? ramet__number(rule + n + 1, &end) : 1.0;
    if (kind == RAMET__COUNT(rules) || (rule[n] && (end == rule + n + 1 || *end || !isfinite(size))))
        return ramet__fail(RAMET_E_ARGUMENT, "variables: '%s': the rule '%.64s' is none of zeros, ones, normal, uniform, he, glorot, or its number is wrong",
                           p->name, rule);
    uint64_t stream = ramet__crc32c(0, p->name, strlen(p->name));
    double rows = p->shape.rank == 2 ? (double)p->shape.dim[0] : 0, columns = (double)ramet__shape_cols(&p->shape);
    if (kind == 4) size *= sqrt(2 / columns);
    if (kind == 5) size *= sqrt(6 / (rows + columns));
    for (int64_t i = 0; i < p->count; i++)
        to[i] = kind == 0 ? 0.0f
              : kind == 1 ? (float)size
              : kind % 2  ? (float)(size * (2 * ramet__rng_uniform(seed, stream, (uint64_t)i) - 1))
                          : (float)(size * ramet__rng_normal(seed, stream, (uint64_t)i));
    return RAMET_OK;
}
ramet_status ramet_variables_add(ramet_variables *v, const char *name, int64_t rows, int64_t columns, const char *rule, uint64_t seed, int32_t trainable) {
    RAMET__TRY(check(v, name));
    if (!*name || look(v, name)) return ramet__fail(RAMET_E_ARGUMENT, "variables: the name '%.64s' is %s", name, *name ? "taken" : "empty");
    if (rows < 0 || columns < 1 || columns > INT32_MAX || rows > INT32_MAX || RAMET__MAX(rows, 1) * columns > INT64_C(1) << 40)
        return ramet__fail(RAMET_E_ARGUMENT, "variables: '%.64s': rows %lld and columns %lld are not sizes", name, (long long)rows, (long long)columns);
    struct ramet__variable *q;
    RAMET__TRY(make(&q, v, name, rows, columns, trainable));
    ramet_status st = fill(q->pool.param, q->pool.value, rule ? rule : "zeros", seed);
    if (st) {
        drop(q);
        return st;
    }
    v->item[v->n++] = q;
    return RAMET_OK;
}

/* ---- looking ---- */
int64_t ramet_variables_count(const ramet_variables *v) { return v ? v->n : 0; }
ramet_status ramet_variables_at(const char **name, int64_t *rows, int64_t *columns, int32_t *trainable, const ramet_variables *v, int64_t index) {
    RAMET__TRY(check(v, ""));
    if (index < 0 || index >= v->n) return ramet__fail(RAMET_E_NOT_FOUND, "variables: %lld is not among the %lld", (long long)index, (long long)v->n);
    const ramet__param *p = v->item[index]->pool.param;
    if (name) *name = p->name;
    if (rows) *rows = p->shape.rank == 2 ? p->shape.dim[0] : 0;
    if (columns) *columns = ramet__shape_cols(&p->shape);
    if (trainable) *trainable = v->item[index]->trainable;
    return RAMET_OK;
}
static ramet_status sized(struct ramet__variable **q, const ramet_variables *v, const char *name, const void *data, int64_t count) {
    RAMET__TRY(check(v, name));
    if (!(*q = ramet__variables_find(v, name))) return RAMET_E_NOT_FOUND;
    if (!data || (*q)->pool.param->count != count)
        return ramet__fail(RAMET_E_ARGUMENT, "variables: '%s' has %lld numbers, not %lld", name, (long long)(*q)->pool.param->count, (long long)count);
    return RAMET_OK;
}
ramet_status ramet_variables_read(float *out, int64_t count, const ramet_variables *v, const char *name, int32_t gradient) {
    struct ramet__variable *q;
    RAMET__TRY(sized(&q, v, name, out, count));
    memcpy(out, gradient ? q->pool.grad : q->pool.value, (size_t)count * sizeof *out);
    return RAMET_OK;
}
ramet_status ramet_variables_write(ramet_variables *v, const char *name, const float *values, int64_t count) {
    struct ramet__variable *q;
    RAMET__TRY(sized(&q, v, name, values, count));
    memcpy(q->pool.value, values, (size_t)count * sizeof *values);
    return RAMET_OK;
}

/* ---- files ---- */
ramet_status ramet_variables_save(const ramet_variables *v, const char *path) {
    RAMET__TRY(check(v, path));
    ramet_status st = RAMET_OK;
    ramet__st_writer *w = NULL;
    RAMET__GO(ramet__st_writer_open(&w, v->rt->mem, path));
    RAMET__GO(ramet__st_meta(w, "ramet.kind", "variables"));
    for (int64_t i = 0; i < v->n; i++) {
        const ramet__param *p = v->item[i]->pool.param;
        RAMET__GO(ramet__st_declare(w, p->name, RAMET__ST_F32, p->shape.rank, p->shape.dim));
    }
    for (int64_t i = 0; i < v->n; i++) RAMET__GO(ramet__st_data(w, v->item[i]->pool.value, (uint64_t)v->item[i]->pool.param->count * sizeof(float)));
    return ramet__st_writer_commit(&w);
out:
    ramet__st_writer_drop(&w);
    return st;
}
ramet_status ramet_variables_load(ramet_variables *v, const char *path) {
    RAMET__TRY(check(v, path));
    ramet_status st = RAMET_OK;
    ramet__reader *reader = NULL;
    ramet__safetensors *file = NULL;
    struct ramet__variable **to = NULL;
    float **data = NULL;
    int64_t n = 0;
    ramet_source source;
    ramet_source_from_path(&source, sizeof source, path);
    RAMET__GO(ramet__reader_open(&reader, v->rt->mem, &source));
    RAMET__GO(ramet__safetensors_open(&file, v->rt->mem, reader));
    RAMET__NEW(to, ramet__calloc(v->rt->mem, (size_t)file->n_tensors + 1, sizeof *to));
    RAMET__NEW(data, ramet__calloc(v->rt->mem, (size_t)file->n_tensors + 1, sizeof *data));
    RAMET__GO(ramet__grow(v->rt->mem, &v->item, &v->cap, v->n + file->n_tensors, sizeof *v->item));
    for (; n < file->n_tensors; n++) { /* everything that can fail, into memory beside */
        const ramet__st_tensor *t = &file->tensors[n];
        const int64_t rows = t->rank == 2 ? t->dim[0] : 0, columns = t->rank ? t->dim[t->rank - 1] : 0;
        if (t->dtype != RAMET__ST_F32 || t->rank < 1 || t->rank > 2 || columns < 1 || (t->rank == 2 && rows < 1))
            RAMET__GO(ramet__fail(RAMET_E_UNSUPPORTED, "%s: '%s' is %s with %d dimensions; variables are F32 with 1 or 2", path, t->name, t->dtype_name, t->rank));
        to[n] = look(v, t->name);
        if (to[n]) {
            const ramet__shape *s = &to[n]->pool.param->shape, have = {t->rank, {t->dim[0], t->rank == 2 ? t->dim[1] : 0}};
            if (!ramet__shape_equal(s, &have)) RAMET__GO(ramet__fail(RAMET_E_INCONSISTENT, "%s: '%s' has another shape than the variable", path, t->name));
            RAMET__NEW(data[n], ramet__alloc(v->rt->mem, (size_t)t->bytes));
        } else
            RAMET__GO(make(&to[n], v, t->name, rows, columns, 1));
        st = ramet__safetensors_read(file, t, data[n] ? data[n] : to[n]->pool.value, t->bytes);
        if (st) {
            if (!data[n]) drop(to[n]);
            goto out;
        }
    }
    for (int64_t i = 0; i < n; i++)
        if (data[i]) memcpy(to[i]->pool.value, data[i], (size_t)file->tensors[i].bytes);
        else v->item[v->n++] = to[i];
out:
    for (int64_t i = 0; data && to && i < RAMET__MIN(n + 1, file ? file->n_tensors : 0); i++) {
        if (st && i < n && !data[i]) drop(to[i]);
        ramet__free(data[i]);
    }
    ramet__free(to);
    ramet__free(data);
    ramet__safetensors_free(file);
    ramet__reader_free(reader);
    return st;
}

/* ---- steps ---- */
static const ramet_step_options defaults = {sizeof defaults, "adamw", 1e-3f, 0.9f, 0.999f, 1e-8f, 0.0f, 0.0f};
void ramet_step_options_init(ramet_step_options *o, uint32_t size) { ramet__options_init(o, size, &defaults, sizeof defaults); }

ramet_status ramet_variables_step(double *norm, ramet_variables *v, const ramet_step_options *options) {
    RAMET__TRY(check(v, ""));
    ramet_step_options o = defaults;
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_variables_step"));
    const ramet__optimizer *optimizer = ramet__optimizer_find(o.optimizer ? o.optimizer : "adamw");
    char names[128];
    if (!optimizer)
        return ramet__fail(RAMET_E_NOT_FOUND, "variables: no optimizer '%.64s'; there are %s", o.optimizer, ramet__names(names, ramet__optimizer_list));
    if (!(o.learning_rate >= 0 && o.beta1 >= 0 && o.beta1 < 1 && o.beta2 >= 0 && o.beta2 < 1 && o.epsilon >= 0 && o.weight_decay >= 0 && o.clip >= 0))
        return ramet__fail(RAMET_E_ARGUMENT, "variables: a rate, beta, epsilon, decay or clip of the step is out of range");
    double sum = 0, one;
    for (int64_t i = 0; i < v->n; i++) {
        struct ramet__variable *q = v->item[i];
        if (!q->trainable || !q->summed) continue;
        RAMET__TRY(ramet__params_norm(&one, &q->pool, v->rt, optimizer == v->optimizer ? v->step + 1 : 1));
        sum += one * one;
    }
    sum = sqrt(sum);
    const int32_t bad = !isfinite(sum);
    if (!bad && optimizer != v->optimizer) {
        for (int64_t i = 0; i < v->n; i++) RAMET__TRY(ramet__params_use(&v->item[i]->pool, NULL));
        v->optimizer = optimizer;
        v->step = 0;
    }
    for (int64_t i = 0; i < v->n && !bad; i++) { /* all that can fail, before anything moves */
        struct ramet__variable *q = v->item[i];
        if (!q->trainable || !q->summed || q->pool.optimizer == optimizer) continue;
        ramet_status st = ramet__params_use(&q->pool, optimizer);
        if (st) return ramet__params_use(&q->pool, NULL), st;
    }
    ramet__optimizer_step u = {v->rt->kernels, v->step + 1, o.learning_rate, o.beta1, o.beta2, o.epsilon, o.clip > 0 && sum > o.clip ? (float)(o.clip / sum) : 1.0f};
    for (int64_t i = 0; i < v->n; i++) {
        struct ramet__variable *q = v->item[i];
        if (!q->trainable || !q->summed) continue;
        if (bad) ramet__params_clear(&q->pool);
        else RAMET__TRY(ramet__params_update(&q->pool, v->rt, &u, o.weight_decay));
    }
    if (bad) return ramet__fail(RAMET_E_NUMERIC, "variables: the gradients are not finite; lower the learning rate or look at the inputs");
    v->step++;
    if (norm) *norm = sum;
    return RAMET_OK;
}
