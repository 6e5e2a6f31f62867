/* SPDX-License-Identifier: Apache-2.0 */
/* threads.h - one parallel_for over our own pool or the host's executor. The caller always works; two runs at once never
 * wait for one another (idle workers join whichever has pieces left); nothing spins while idle. Floating-point control
 * (MXCSR/FPCR) is set to the default per piece and restored. */
#ifndef RAMET__THREADS_H
#define RAMET__THREADS_H
#include "alloc.h"

#define RAMET__THREADS_MOST 1024
typedef struct ramet__threads ramet__threads;
/* A piece returns a status; on failure no new piece is started, and the caller gets the status of the lowest failed piece.
 * Pieces do not set messages (they run on other threads); the caller composes one from *failed_piece. */
typedef ramet_status (*ramet__piece_fn)(void *context, int64_t piece, int32_t worker);

ramet_status ramet__threads_create(ramet__threads **out, ramet__mem *mem, int32_t threads, ramet_executor_fn executor, void *user);
void ramet__threads_free(ramet__threads *threads); /* in a forked child: frees without joining */
int32_t ramet__threads_count(const ramet__threads *threads);
/* failed_piece may be NULL. threads NULL: serial. `worker` is in 0..count-1, unique among pieces running at once. */
ramet_status ramet__parallel_for(ramet__threads *threads, int64_t pieces, ramet__piece_fn fn, void *context, int64_t *failed_piece);

/* Floating-point control for work on the calling thread outside parallel_for: default rounding, denormals kept. Enter returns
 * what leave puts back. */
uint64_t ramet__fp_enter(void);
void ramet__fp_leave(uint64_t saved);
int32_t ramet__threads_usable(void); /* processors this process may use: affinity and container quota; at least 1 */
#endif
