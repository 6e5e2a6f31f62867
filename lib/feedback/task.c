/* SPDX-License-Identifier: Apache-2.0 */
/* task.c - what a model is measured and adapted on, given by the host's callbacks. Text is implemented; the other kinds have
 * their callbacks in the interface and answer E_UNSUPPORTED until a method uses them. */
#include "feedback/feedback.h"
#include <string.h>

struct ramet_task {
    ramet_runtime *rt;
    char *name;
    ramet_task_callbacks cb;
    char **paths; int32_t n_paths; /* a task from files has these instead of callbacks */
};

static const char *const kinds[] = {"text", "labelled", "unlabelled", "table", "environment", "distribution"};

static ramet_status task_new(ramet_task **out, ramet_runtime *rt, const char *name) {
    ramet_task *t = ramet__calloc(rt->mem, 1, sizeof *t);
    if (!t) return ramet__alloc_status();
    t->rt = ramet__runtime_retain(rt);
    if (!(t->name = ramet__strdup(rt->mem, name ? name : "task"))) {
        ramet_task_free(t);
        return ramet__alloc_status();
    }
    *out = t;
    return RAMET_OK;
}

ramet_status ramet_task_create(ramet_task **out, ramet_runtime *runtime, const char *name, const ramet_task_callbacks *callbacks) {
    ramet_task_callbacks cb = {.struct_size = sizeof cb};
    if (!out || !callbacks) return ramet__fail(RAMET_E_ARGUMENT, "ramet_task_create: out and callbacks must not be NULL");
    RAMET__TRY(ramet__runtime_check(runtime));
    RAMET__TRY(ramet__options(&cb, sizeof cb, callbacks, "ramet_task_create"));
    if (cb.kind < 0 || cb.kind >= RAMET__COUNT(kinds)) return ramet__fail(RAMET_E_ARGUMENT, "ramet_task_create: kind %d is not one of RAMET_TASK_*", cb.kind);
    if (cb.kind != RAMET_TASK_TEXT) return ramet__fail(RAMET_E_UNSUPPORTED, "ramet_task_create: no method of this build uses %s tasks; RAMET_TASK_TEXT is supported", kinds[cb.kind]);
    if (!cb.document) return ramet__fail(RAMET_E_ARGUMENT, "ramet_task_create: a text task needs the document callback");
    RAMET__TRY(task_new(out, runtime, name));
    (*out)->cb = cb;
    return RAMET_OK;
}

ramet_status ramet_task_from_files(ramet_task **out, ramet_runtime *runtime, const char *name, const char *const *paths, int32_t count) {
    ramet_task *t = NULL;
    ramet_status st;
    if (!out || !paths || count < 1) return ramet__fail(RAMET_E_ARGUMENT, "ramet_task_from_files: out and at least one path are needed");
    RAMET__TRY(ramet__runtime_check(runtime));
    RAMET__TRY(task_new(&t, runtime, name));
    RAMET__NEW(t->paths, ramet__calloc(runtime->mem, (size_t)count, sizeof *t->paths));
    for (; t->n_paths < count; t->n_paths++) RAMET__NEW(t->paths[t->n_paths], ramet__strdup(runtime->mem, paths[t->n_paths]));
    *out = t;
    return RAMET_OK;
out:
    ramet_task_free(t);
    return st;
}

void ramet_task_free(ramet_task *t) {
    if (!t) return;
    ramet_runtime *rt = t->rt;
    for (int32_t i = 0; i < t->n_paths; i++) ramet__free(t->paths[i]);
    ramet__free(t->paths);
    ramet__free(t->name);
    ramet__free(t);
    ramet_runtime_free(rt);
}

const char *ramet__task_name(const ramet_task *t) { return t->name; }

ramet_status ramet_task_dataset(ramet_dataset **out, ramet_task *task, ramet_model *model) {
    ramet_dataset *d = NULL;
    ramet_status st;
    if (!out || !task || !model) return ramet__fail(RAMET_E_ARGUMENT, "ramet_task_dataset: no argument may be NULL");
    RAMET__TRY(ramet_dataset_create(&d, model));
    for (int32_t i = 0; i < task->n_paths; i++) RAMET__GO(ramet_dataset_add_file(d, task->paths[i]));
    for (int64_t i = 0; task->cb.document; i++) {
        const char *text = NULL;
        size_t length = 0;
        int32_t more = task->cb.document(&text, &length, i, task->cb.user);
        if (more < 0) { st = ramet__fail(RAMET_E_IO, "task %s: the host's document callback failed at document %lld", task->name, (long long)i); goto out; }
        if (!more) break;
        if (!text) { st = ramet__fail(RAMET_E_ARGUMENT, "task %s: the host gave no text for document %lld", task->name, (long long)i); goto out; }
        RAMET__GO(ramet_dataset_add_text(d, text, length));
    }
    *out = d;
    return RAMET_OK;
out:
    ramet_dataset_free(d);
    return st;
}
