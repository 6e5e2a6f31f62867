/* SPDX-License-Identifier: Apache-2.0 */
/* runtime.h - what a ramet_runtime holds. Made once, immutable after but for its list of spares, reference counted. */
#ifndef RAMET__RUNTIME_H
#define RAMET__RUNTIME_H
#include "alloc.h"
#include "cpu.h"
#include "threads.h"
#include <pthread.h>

struct ramet__kernels; /* kernels/kernels.h: the table for the chosen ISA level */

/* What can be made again: it goes when the budget would be exceeded and nobody uses it, the oldest first. All under the runtime's lock. */
typedef struct ramet__spare {
    struct ramet__spare *older;
    int64_t uses;
    void (*drop)(struct ramet__spare *); /* frees it */
} ramet__spare;

struct ramet_runtime {
    ramet__mem *mem;
    ramet__threads *threads;
    const struct ramet__kernels *kernels;
    int32_t isa;             /* RAMET_ISA_* in use */
    uint32_t cpu;            /* RAMET__CPU_* flags in use, masked by isa */
    ramet_log_fn log;
    void *log_user;
    int32_t log_level;
    int64_t pid;             /* of the creating process: ramet__runtime_check answers E_FORK elsewhere */
    _Atomic int32_t refs;
    pthread_mutex_t lock;    /* of the spares */
    struct ramet__spare *spares; /* newest first */
};

ramet_runtime *ramet__runtime_retain(ramet_runtime *runtime);
/* Takes one from the list and frees it. The lock is held. */
void ramet__spare_drop(ramet_runtime *runtime, ramet__spare *spare);
/* E_ARGUMENT for NULL, E_FORK in a forked child. Every public entry that is not a free calls it. */
ramet_status ramet__runtime_check(const ramet_runtime *runtime);
void ramet__log(const ramet_runtime *runtime, int32_t level, const char *format, ...) RAMET__PRINTF(3, 4);

/* Progress: calls fn if it is not NULL; E_CANCELLED with a message when it asks to stop. */
ramet_status ramet__progress(ramet_progress_fn fn, void *user, double fraction, const char *what);

/* Copy a caller's option struct over defaults: `size` = our sizeof. Checks struct_size (>= 4, at most 4096) and that bytes
 * we do not know are zero (E_UNSUPPORTED: built for a newer version). out must already hold defaults. */
ramet_status ramet__options(void *out, uint32_t size, const void *given, const char *function);
/* The body of every public _options_init: our `size` bytes of defaults into the caller's struct_size bytes, zeros after. */
void ramet__options_init(void *options, uint32_t struct_size, const void *defaults, uint32_t size);
#endif
