/* SPDX-License-Identifier: Apache-2.0 */
/* runtime.c - ramet_runtime: allocator, threads, instruction set, log; and the checks every public function begins with. */
#include "runtime.h"
#include "kernels.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPTIONS_MOST 4096 /* no option struct of any version is larger; protects against an uninitialised struct_size */

ramet_status ramet__options(void *out, uint32_t size, const void *given, const char *function) {
    if (!given) return RAMET_OK;
    uint32_t theirs;
    memcpy(&theirs, given, sizeof theirs);
    if (theirs < sizeof theirs || theirs > OPTIONS_MOST)
        return ramet__fail(RAMET_E_ARGUMENT, "%s: struct_size %u is not the size of a struct; fill it with the matching _init", function, theirs);
    for (uint32_t i = size; i < theirs; i++)
        if (((const unsigned char *)given)[i])
            return ramet__fail(RAMET_E_UNSUPPORTED, "%s: an option at byte %u of the struct is newer than this library (%s)", function, i, ramet_version_string());
    memcpy(out, given, RAMET__MIN(size, theirs));
    memcpy(out, &size, sizeof size);
    return RAMET_OK;
}

void ramet__options_init(void *options, uint32_t struct_size, const void *defaults, uint32_t size) {
    if (!options || struct_size < sizeof struct_size || struct_size > OPTIONS_MOST) return;
    memset(options, 0, struct_size);
    memcpy(options, defaults, RAMET__MIN(size, struct_size));
    memcpy(options, &struct_size, sizeof struct_size);
}

void ramet_runtime_options_init(ramet_runtime_options *options, uint32_t struct_size) {
    const ramet_runtime_options defaults = {.log_level = RAMET_LOG_WARNING, .isa = RAMET_ISA_AUTO};
    ramet__options_init(options, struct_size, &defaults, sizeof defaults);
}

void ramet_source_from_path(ramet_source *source, uint32_t struct_size, const char *path) {
    const ramet_source defaults = {.kind = RAMET_SOURCE_PATH, .path = path};
    ramet__options_init(source, struct_size, &defaults, sizeof defaults);
}

void ramet__log(const ramet_runtime *runtime, int32_t level, const char *format, ...) {
    if (!runtime || !runtime->log || level > runtime->log_level) return;
    char line[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0) return;
    for (char *c = line; *c; c++)
        if (*c == '\n' || *c == '\r') *c = ' ';
    runtime->log(level, line, runtime->log_user);
}

/* The highest level allowed: the option, else RAMET_ISA in the environment, else all the CPU has. */
static ramet_status choose_isa(ramet_runtime *r, int32_t wanted) {
    const uint32_t flags = ramet__cpu_detect();
    const int32_t level = ramet__cpu_level(flags);
    r->isa = level;
    if (wanted < RAMET_ISA_AUTO || wanted > RAMET__ISA_LAST)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_runtime_create: isa %d is none of RAMET_ISA_*", wanted);
    if (wanted != RAMET_ISA_AUTO && wanted != ramet__cpu_reach(flags, wanted))
        return ramet__fail(RAMET_E_UNSUPPORTED, "ramet_runtime_create: isa %s is asked for, but this CPU has %s; ask for auto (RAMET_ISA_AUTO)",
                           ramet__cpu_isa_name(wanted), ramet__cpu_isa_name(level));
    if (wanted != RAMET_ISA_AUTO) {
        r->isa = wanted;
    } else {
        const char *name = getenv("RAMET_ISA");
        if (name && *name) {
            const int32_t asked = ramet__cpu_isa_from_name(name);
            if (asked < 0)
                ramet__log(r, RAMET_LOG_WARNING, "RAMET_ISA=%.40s is ignored: it is none of ref simd avx2 avxvnni avx512 amx dotprod i8mm", name);
            else if (asked != ramet__cpu_reach(flags, asked))
                ramet__log(r, RAMET_LOG_WARNING, "RAMET_ISA=%s is beyond this CPU; %s is used", name, ramet__cpu_isa_name(ramet__cpu_reach(flags, asked)));
            if (asked >= 0) r->isa = ramet__cpu_reach(flags, asked);
        }
    }
    r->cpu = ramet__cpu_mask(flags, r->isa);
    r->kernels = ramet__kernels_get(r->isa, r->cpu);
    return RAMET_OK;
}

void ramet__spare_drop(ramet_runtime *r, ramet__spare *s) {
    ramet__spare **at = &r->spares;
    while (*at != s) at = &(*at)->older;
    *at = s->older;
    s->drop(s);
}
static int32_t drop_oldest(void *runtime) {
    ramet_runtime *r = runtime;
    ramet__spare *idle = NULL;
    pthread_mutex_lock(&r->lock);
    for (ramet__spare *s = r->spares; s; s = s->older)
        if (!s->uses) idle = s;
    if (idle) ramet__spare_drop(r, idle);
    pthread_mutex_unlock(&r->lock);
    return idle != NULL;
}

static void destroy(ramet_runtime *r) {
    ramet__mem *mem = r->mem;
    ramet__mem_on_need(mem, NULL, NULL);
    ramet__threads_free(r->threads);
    pthread_mutex_destroy(&r->lock);
    ramet__free(r);
    ramet__mem_free(mem);
}

ramet_status ramet_runtime_create(ramet_runtime **out, const ramet_runtime_options *options) {
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    if (!out) return ramet__fail(RAMET_E_ARGUMENT, "ramet_runtime_create: out is NULL");
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_runtime_create"));
    if (o.threads < 0 || o.threads > RAMET__THREADS_MOST)
        return ramet__fail(RAMET_E_ARGUMENT, "ramet_runtime_create: threads %d is not in 0..%d", o.threads, RAMET__THREADS_MOST);

    ramet__mem *mem;
    RAMET__TRY(ramet__mem_create(&mem, o.alloc, o.alloc_user, o.byte_budget));
    ramet_runtime *r = ramet__calloc(mem, 1, sizeof *r);
    if (!r || pthread_mutex_init(&r->lock, NULL)) {
        const ramet_status no = r ? ramet__fail(RAMET_E_MEMORY, "ramet_runtime_create: no mutex could be made") : ramet__alloc_status();
        ramet__free(r);
        ramet__mem_free(mem);
        return no;
    }
    r->mem = mem;
    r->log = o.log;
    r->log_user = o.log_user;
    r->log_level = o.log_level;
    r->pid = getpid();
    atomic_init(&r->refs, 1);
    ramet__mem_on_need(mem, drop_oldest, r);
    ramet_status st;
    RAMET__GO(choose_isa(r, o.isa));
    RAMET__GO(ramet__threads_create(&r->threads, mem, o.threads ? o.threads : ramet__threads_usable(), o.executor, o.executor_user));
out:
    if (st) {
        destroy(r);
        return st;
    }
    *out = r;
    return RAMET_OK;
}

ramet_runtime *ramet__runtime_retain(ramet_runtime *runtime) {
    atomic_fetch_add_explicit(&runtime->refs, 1, memory_order_relaxed);
    return runtime;
}

void ramet_runtime_free(ramet_runtime *runtime) {
    if (runtime && atomic_fetch_sub_explicit(&runtime->refs, 1, memory_order_acq_rel) == 1) destroy(runtime);
}

ramet_status ramet__runtime_check(const ramet_runtime *runtime) {
    if (!runtime) return ramet__fail(RAMET_E_ARGUMENT, "the runtime is NULL");
    if (runtime->pid != getpid())
        return ramet__fail(RAMET_E_FORK, "this handle was made before fork(); make a new runtime in the child (only freeing works on the old one)");
    return RAMET_OK;
}

void ramet_runtime_bytes(const ramet_runtime *runtime, uint64_t *now, uint64_t *peak) {
    if (runtime) {
        ramet__mem_bytes(runtime->mem, now, peak);
        return;
    }
    if (now) *now = 0;
    if (peak) *peak = 0;
}

int32_t ramet_runtime_threads(const ramet_runtime *runtime) { return runtime ? ramet__threads_count(runtime->threads) : 0; }
const char *ramet_runtime_isa(const ramet_runtime *runtime) { return ramet__cpu_isa_name(runtime ? runtime->isa : -1); }

ramet_status ramet__progress(ramet_progress_fn fn, void *user, double fraction, const char *what) {
    if (fn && fn(fraction, what, user)) return ramet__fail(RAMET_E_CANCELLED, "cancelled by the progress callback while %s", what);
    return RAMET_OK;
}
