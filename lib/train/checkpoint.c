/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.c - a tuner's whole state as one safetensors file. Metadata: "ramet.kind", what the tuner was made of
 * ("ramet.tuner.*": must be equal to resume), how far it is ("ramet.state.*"), and a CRC-32C a section ("ramet.crc.*"). Sections:
 * those of the pool, but the gradients only when a step is half done; tensors are "<section>/<parameter>". The same state gives the same bytes,
 * whatever calls led to it. */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "format/safetensors.h"
#include "train/train.h"

#define PAIRS 96
typedef struct pairs { int32_t n; char key[PAIRS][40]; char value[PAIRS][256]; } pairs;

static void put(pairs *p, const char *key, const char *format, ...) RAMET__PRINTF(3, 4);
static void put(pairs *p, const char *key, const char *format, ...) {
    va_list args;
    va_start(args, format);
    snprintf(p->key[p->n], sizeof p->key[0], "%s", key);
    vsnprintf(p->value[p->n], sizeof p->value[0], format, args);
    va_end(args);
    if (strcmp(format, "%s")) ramet__number_point(p->value[p->n]);
    p->n++;
}

/* What must be the same. Long lists (targets) go in as a digest. */
static ramet_status identity(pairs *p, const ramet_tuner *t) {
    const ramet_tuner_options *o = &t->o;
    const char *model = ramet_model_digest(t->model);
    char targets[65];
    ramet__sha256 s;
    if (!model) return ramet__fail(RAMET_E_INTERNAL, "checkpoint: the model has no digest");
    ramet__sha256_init(&s);
    for (int64_t i = 0; i < t->params.n; i++) ramet__sha256_add(&s, t->params.param[i].name, strlen(t->params.param[i].name) + 1);
    ramet__sha256_hex(&s, targets);
    put(p, "ramet.tuner.model", "%s", model);
    put(p, "ramet.tuner.data", "%s", t->data_digest);
    put(p, "ramet.tuner.parameters", "%s", targets);
    put(p, "ramet.tuner.initial", "%s", t->initial_digest);
    put(p, "ramet.tuner.optimizer", "%s", t->params.optimizer->name);
    put(p, "ramet.tuner.full", "%d", o->full);
    put(p, "ramet.tuner.rank", "%d", t->rank);
    put(p, "ramet.tuner.alpha", "%.9g", (double)o->alpha);
    put(p, "ramet.tuner.mode", "%d", o->mode);
    put(p, "ramet.tuner.window", "%d", o->window);
    put(p, "ramet.tuner.batch", "%d", o->batch);
    put(p, "ramet.tuner.micro_batch", "%d", o->micro_batch);
    put(p, "ramet.tuner.steps", "%lld", (long long)o->steps);
    put(p, "ramet.tuner.learning_rate", "%.9g", (double)o->learning_rate);
    put(p, "ramet.tuner.warmup", "%.9g", (double)o->warmup);
    put(p, "ramet.tuner.schedule", "%d", o->schedule);
    put(p, "ramet.tuner.weight_decay", "%.9g", (double)o->weight_decay);
    put(p, "ramet.tuner.beta1", "%.9g", (double)o->beta1);
    put(p, "ramet.tuner.beta2", "%.9g", (double)o->beta2);
    put(p, "ramet.tuner.epsilon", "%.9g", (double)o->epsilon);
    put(p, "ramet.tuner.clip", "%.9g", (double)o->clip);
    put(p, "ramet.tuner.seed", "%llu", (unsigned long long)o->seed);
    ramet__sha256_init(&s);
    ramet__sha256_add(&s, o->groups ? o->groups : "", o->groups ? strlen(o->groups) : 0);
    ramet__sha256_hex(&s, targets);
    put(p, "ramet.tuner.groups", "%s", o->groups ? targets : "");
    put(p, "ramet.tuner.rslora", "%d", o->rslora);
    put(p, "ramet.tuner.dora", "%d", o->dora);
    put(p, "ramet.tuner.preference_beta", "%.9g", (double)o->preference_beta);
    put(p, "ramet.tuner.example_clip", "%.9g", (double)o->example_clip);
    put(p, "ramet.tuner.lora_plus", "%.9g", (double)o->lora_plus);
    put(p, "ramet.tuner.average", "%s", o->average ? o->average : "");
    put(p, "ramet.tuner.average_decay", "%.9g", (double)o->average_decay);
    put(p, "ramet.tuner.average_start", "%.9g", (double)o->average_start);
    put(p, "ramet.tuner.on_nonfinite", "%d", o->on_nonfinite);
    put(p, "ramet.tuner.spike_factor", "%.9g", (double)o->spike_factor);
    put(p, "ramet.tuner.evaluation", "%s", t->evaluation_digest);
    put(p, "ramet.tuner.evaluate_every", "%lld", (long long)o->evaluate_every);
    put(p, "ramet.tuner.patience", "%d", o->patience);
    put(p, "ramet.tuner.teacher", "%s", t->teacher_digest);
    put(p, "ramet.tuner.teacher_weight", "%.9g", (double)o->teacher_weight);
    put(p, "ramet.tuner.teacher_divergence", "%d", t->teacher ? o->teacher_divergence : 0);
    put(p, "ramet.tuner.teacher_skew", "%.9g", t->teacher ? (double)o->teacher_skew : 0.0);
    put(p, "ramet.tuner.teacher_top", "%d", t->teacher ? o->teacher_top : 0);
    return RAMET_OK;
}

/* What changes from step to step: numbers of the tuner by name, the same for writing and reading. */
static const struct { const char *key; size_t at; } integers[] = {
#define INTEGER(name) {"ramet.state." #name, offsetof(ramet_tuner, name)}
    INTEGER(step), INTEGER(micro), INTEGER(tokens), INTEGER(step_tokens), INTEGER(skipped), INTEGER(evaluated), INTEGER(evaluations), INTEGER(best_step),
    INTEGER(worse), INTEGER(n_history), INTEGER(ahead), INTEGER(example_over)}, doubles[] = {
    INTEGER(loss_sum), INTEGER(loss), INTEGER(norm), INTEGER(rate), INTEGER(evaluation_loss), INTEGER(best_loss), INTEGER(accuracy), INTEGER(example_sum), INTEGER(example_norm), INTEGER(example_clipped)};
#undef INTEGER
static const char *const history_key[2] = {"ramet.state.losses", "ramet.state.norms"};

static void state(pairs *p, const ramet_tuner *t) { /* %a: they come back with the same bits */
    char text[256];
    for (int32_t i = 0; i < RAMET__COUNT(integers); i++)
        put(p, integers[i].key, "%lld", (long long)*(const int64_t *)((const char *)t + integers[i].at));
    for (int32_t i = 0; i < RAMET__COUNT(doubles); i++) put(p, doubles[i].key, "%a", *(const double *)((const char *)t + doubles[i].at));
    for (int32_t i = 0; i < 2; i++) { /* a float has at most 15 characters */
        size_t at = 0;
        text[0] = 0;
        for (int64_t j = 0; j < RAMET__MIN(t->n_history, RAMET__HISTORY); j++)
            at += (size_t)snprintf(text + at, sizeof text - at, " %a", (double)t->history[i][j]);
        ramet__number_point(text);
        put(p, history_key[i], "%s", text);
    }
}

/* ---- sections ---- */

static const ramet__section *section(const ramet_tuner *t, int32_t s, int64_t micro) { /* NULL: the file has none */
    return t->params.section[s].data && (s != RAMET__GRAD || micro) ? &t->params.section[s] : NULL;
}

/* One parameter's part: its name and shape in the file. A section with fewer elements than parameters is a flat list. */
static void part(char name[256], ramet__shape *shape, const ramet__section *s, const ramet__param *p) {
    snprintf(name, 256, "%s/%s", s->name, p->name);
    *shape = s->layout.every == 1 ? p->shape : (ramet__shape){1, {ramet__section_count(s, p)}};
}
static ramet__st_dtype dtype(const ramet__section *s) { return s->layout.size == 1 ? RAMET__ST_U8 : RAMET__ST_F32; }
static size_t part_bytes(const ramet__section *s, const ramet__param *p) { return (size_t)(ramet__section_count(s, p) * s->layout.size); }

static uint32_t section_crc(const ramet_tuner *t, const ramet__section *s) {
    uint32_t crc = 0;
    for (int64_t i = 0; i < t->params.n; i++) {
        const ramet__param *p = &t->params.param[i];
        crc = ramet__crc32c(crc, ramet__section_at(s, p->offset), part_bytes(s, p));
    }
    return crc;
}

static ramet_status usable(const ramet_tuner *t, const char *path, const char *function) {
    if (!t || !path) return ramet__fail(RAMET_E_ARGUMENT, "%s: %s is NULL", function, t ? "path" : "tuner");
    RAMET__TRY(ramet__runtime_check(t->rt));
    if (t->busy) return ramet__fail(RAMET_E_STATE, "%s: called from inside a callback of ramet_tuner_step", function);
    return RAMET_OK;
}

ramet_status ramet_tuner_save(ramet_tuner *t, const char *path) {
    ramet_status st = RAMET_OK;
    ramet__st_writer *w = NULL;
    pairs *p = NULL;
    char name[256];
    ramet__shape shape;
    RAMET__TRY(usable(t, path, "ramet_tuner_save"));
    if (t->broken) return ramet__fail(RAMET_E_STATE, "ramet_tuner_save: an earlier resume was cut short; resume again");
    if (t->o.workers > 1 && t->micro)
        return ramet__fail(RAMET_E_STATE, "ramet_tuner_save: a step is under way, and its sums are this worker's alone; save between steps");
    RAMET__NEW(p, ramet__calloc(t->rt->mem, 1, sizeof *p));
    put(p, "ramet.kind", "checkpoint");
    put(p, "ramet.version", "1");
    RAMET__GO(identity(p, t));
    state(p, t);
    for (int32_t i = 0; i < RAMET__SECTIONS; i++) {
        const ramet__section *s = section(t, i, t->micro);
        char key[40];
        if (!s) continue;
        snprintf(key, sizeof key, "ramet.crc.%s", s->name);
        put(p, key, "%08x", section_crc(t, s));
    }
    RAMET__GO(ramet__st_writer_open(&w, t->rt->mem, path));
    for (int32_t i = 0; i < p->n; i++) RAMET__GO(ramet__st_meta(w, p->key[i], p->value[i]));
    for (int32_t i = 0; i < RAMET__SECTIONS; i++) {
        const ramet__section *s = section(t, i, t->micro);
        for (int64_t j = 0; s && j < t->params.n; j++) {
            part(name, &shape, s, &t->params.param[j]);
            RAMET__GO(ramet__st_declare(w, name, dtype(s), shape.rank, shape.dim));
        }
    }
    for (int32_t i = 0; i < RAMET__SECTIONS; i++) {
        const ramet__section *s = section(t, i, t->micro);
        for (int64_t j = 0; s && j < t->params.n; j++)
            RAMET__GO(ramet__st_data(w, ramet__section_at(s, t->params.param[j].offset), part_bytes(s, &t->params.param[j])));
    }
    st = ramet__st_writer_commit(&w);
out:
    ramet__st_writer_drop(&w);
    ramet__free(p);
    return st;
}

/* ---- resume ---- */

static ramet_status read_integer(int64_t *out, const ramet__safetensors *f, const char *key, int64_t low, int64_t high) {
    const char *text = ramet__safetensors_meta(f, key);
    char *end = NULL;
    const long long v = text ? strtoll(text, &end, 10) : 0;
    if (!text || end == text || *end || v < low || v > high)
        return ramet__fail(RAMET_E_FORMAT, "metadata \"%s\" is not a number in %lld..%lld", key, (long long)low, (long long)high);
    *out = v;
    return RAMET_OK;
}

static ramet_status read_double(double *out, const ramet__safetensors *f, const char *key) {
    const char *text = ramet__safetensors_meta(f, key);
    char *end = NULL;
    const double v = text ? ramet__number(text, &end) : 0;
    if (!text || end == text || *end || !(v - v == 0.0)) return ramet__fail(RAMET_E_FORMAT, "metadata \"%s\" is not a finite number", key);
    *out = v;
    return RAMET_OK;
}

static ramet_status read_history(float *out, const ramet__safetensors *f, const char *key) {
    const char *text = ramet__safetensors_meta(f, key);
    char *end = NULL;
    for (int32_t i = 0; text && *text && i < RAMET__HISTORY; i++, text = end) {
        text += *text == ' ';
        out[i] = (float)ramet__number(text, &end);
        if (end == text || !(out[i] - out[i] == 0.0f)) break;
    }
    return text && !*text ? RAMET_OK : ramet__fail(RAMET_E_FORMAT, "metadata \"%s\" is no list of at most %d finite numbers", key, RAMET__HISTORY);
}

static ramet_status check_identity(const ramet_tuner *t, const ramet__safetensors *f, pairs *p) {
    const char *kind = ramet__safetensors_meta(f, "ramet.kind"), *version = ramet__safetensors_meta(f, "ramet.version");
    if (!kind || strcmp(kind, "checkpoint")) return ramet__fail(RAMET_E_FORMAT, "not a checkpoint (metadata \"ramet.kind\")");
    if (!version || strcmp(version, "1"))
        return ramet__fail(RAMET_E_UNSUPPORTED, "checkpoint version %s; this library reads 1", version ? version : "?");
    RAMET__TRY(identity(p, t));
    for (int32_t i = 0; i < p->n; i++) {
        const char *theirs = ramet__safetensors_meta(f, p->key[i]);
        if (!theirs) return ramet__fail(RAMET_E_FORMAT, "metadata \"%s\" is missing", p->key[i]);
        if (strcmp(theirs, p->value[i]))
            return ramet__fail(RAMET_E_INCONSISTENT, "%s differs: the checkpoint has \"%.64s\", the tuner \"%s\"",
                               p->key[i] + strlen("ramet.tuner."), theirs, p->value[i]);
    }
    return RAMET_OK;
}

/* Every tensor there with its shape, every checksum right, every number finite; nothing of the tuner is touched. */
static ramet_status check_sections(const ramet_tuner *t, const ramet__safetensors *f, int64_t micro, float *room) {
    char name[256], key[40];
    int64_t expected = 0;
    ramet__shape shape;
    for (int32_t i = 0; i < RAMET__SECTIONS; i++) {
        const ramet__section *s = section(t, i, micro);
        uint32_t crc = 0;
        if (!s) continue;
        for (int64_t j = 0; j < t->params.n; j++, expected++) {
            const ramet__param *p = &t->params.param[j];
            part(name, &shape, s, p);
            const ramet__st_tensor *x = ramet__safetensors_find(f, name);
            int32_t fits = x && x->dtype == dtype(s) && x->rank == shape.rank;
            for (int32_t d = 0; fits && d < shape.rank; d++) fits = x->dim[d] == shape.dim[d];
            if (!fits)
                return ramet__fail(x ? RAMET_E_INCONSISTENT : RAMET_E_FORMAT, "tensor \"%s\" %s", name,
                                   x ? "has another shape or type" : "is missing");
            RAMET__TRY(ramet__safetensors_read(f, x, room, part_bytes(s, p)));
            crc = ramet__crc32c(crc, room, part_bytes(s, p));
            if (dtype(s) == RAMET__ST_F32 && !t->rt->kernels->finite(room, ramet__section_count(s, p)))
                return ramet__fail(RAMET_E_NUMERIC, "tensor \"%s\" holds NaN or infinity", name);
        }
        snprintf(key, sizeof key, "ramet.crc.%s", s->name);
        const char *text = ramet__safetensors_meta(f, key);
        char mine[16];
        snprintf(mine, sizeof mine, "%08x", crc);
        if (!text || strcmp(text, mine))
            return ramet__fail(RAMET_E_FORMAT, "section \"%s\" is damaged: its checksum is %s, the file says %s", s->name, mine,
                               text ? text : "nothing");
    }
    if (expected != f->n_tensors)
        return ramet__fail(RAMET_E_FORMAT, "%lld tensors; this state has %lld", (long long)f->n_tensors, (long long)expected);
    return RAMET_OK;
}

ramet_status ramet_tuner_resume(ramet_tuner *t, const char *path) {
    ramet_status st = RAMET_OK;
    ramet__reader *reader = NULL;
    ramet__safetensors *f = NULL;
    pairs *p = NULL;
    float *room = NULL;
    char name[256];
    ramet__shape shape;
    ramet_source source;
    int64_t integer[RAMET__COUNT(integers)], largest = 0;
    double real[RAMET__COUNT(doubles)];
    float history[2][RAMET__HISTORY] = {{0}};
    RAMET__TRY(usable(t, path, "ramet_tuner_resume"));
    const int64_t micros = t->o.workers > 1 ? 0 : ramet__tuner_micros(t);
    for (int64_t i = 0; i < t->params.n; i++) largest = RAMET__MAX(largest, t->params.param[i].count);
    RAMET__NEW(p, ramet__calloc(t->rt->mem, 1, sizeof *p));
    RAMET__NEW(room, ramet__alloc(t->rt->mem, (size_t)largest * sizeof(float)));
    ramet_source_from_path(&source, sizeof source, path);
    source.untrusted = 1; /* somebody may write the next checkpoint over it */
    RAMET__GO(ramet__reader_open(&reader, t->rt->mem, &source));
    RAMET__GO(ramet__safetensors_open(&f, t->rt->mem, reader));
    RAMET__GO(check_identity(t, f, p));
    for (int32_t i = 0; i < RAMET__COUNT(integers); i++)
        RAMET__GO(read_integer(&integer[i], f, integers[i].key, 0, i == 0 ? t->o.steps : i == 1 ? micros : INT64_MAX / 2));
    for (int32_t i = 0; i < RAMET__COUNT(doubles); i++) RAMET__GO(read_double(&real[i], f, doubles[i].key));
    for (int32_t i = 0; i < 2; i++) RAMET__GO(read_history(history[i], f, history_key[i]));
    const int64_t micro = integer[1];
    RAMET__GO(check_sections(t, f, micro, room));
    t->broken = 1; /* until all is read: a disk that fails now leaves a mixture that nobody may use */
    ramet__params_clear(&t->params);
    for (int32_t i = 0; i < RAMET__SECTIONS; i++) {
        const ramet__section *s = section(t, i, micro);
        for (int64_t j = 0; s && j < t->params.n; j++) {
            const ramet__param *q = &t->params.param[j];
            part(name, &shape, s, q);
            RAMET__GO(ramet__safetensors_read(f, ramet__safetensors_find(f, name), ramet__section_at(s, q->offset), part_bytes(s, q)));
        }
    }
    for (int32_t i = 0; i < RAMET__COUNT(integers); i++) memcpy((char *)t + integers[i].at, &integer[i], sizeof integer[i]);
    for (int32_t i = 0; i < RAMET__COUNT(doubles); i++) memcpy((char *)t + doubles[i].at, &real[i], sizeof real[i]);
    memcpy(t->history, history, sizeof history);
    t->broken = 0;
    t->inverses_step = -1;
out:
    if (st) st = ramet__prefix(st, "%s: ", path);
    ramet__safetensors_free(f);
    ramet__reader_free(reader);
    ramet__free(room);
    ramet__free(p);
    return st;
}
