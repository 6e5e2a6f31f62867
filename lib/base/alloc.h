/* SPDX-License-Identifier: Apache-2.0 */
/* alloc.h - the one allocator with its byte budget. Blocks remember their size and their ramet__mem in a hidden prefix, so
 * ramet__free(p) needs nothing else. Thread-safe. Never returns a partial result; failure sets the message. */
#ifndef RAMET__ALLOC_H
#define RAMET__ALLOC_H
#include "status.h"

typedef struct ramet__mem ramet__mem; /* lives in the runtime: callback, budget, atomic counters */

#define RAMET__ALIGN 64 /* every block: one cache line, one AVX-512 register */

/* A mem lives until ramet__mem_free and until its last block is freed, so that strings may outlive the runtime.
 * alloc NULL: the C library's. budget 0: none. Counted: blocks with their prefixes, and the mem itself. */
ramet_status ramet__mem_create(ramet__mem **out, ramet_alloc_fn alloc, void *user, uint64_t budget);
void ramet__mem_free(ramet__mem *mem);
void ramet__mem_bytes(const ramet__mem *mem, uint64_t *now, uint64_t *peak);
uint64_t ramet__mem_budget(const ramet__mem *mem); /* 0: none */
/* Asked when the budget is exceeded, by any thread: frees something that can be made again and answers 1, or 0 when there is nothing. NULL: nobody is asked. */
void ramet__mem_on_need(ramet__mem *mem, int32_t (*need)(void *user), void *user);

/* NULL with E_MEMORY or E_BUDGET in the message (status by ramet__mem_status) when it cannot be had. */
void *ramet__alloc(ramet__mem *mem, size_t bytes);
void *ramet__calloc(ramet__mem *mem, size_t count, size_t size); /* checked product, zeroed */
void *ramet__realloc(ramet__mem *mem, void *ptr, size_t bytes);   /* ptr may be NULL; on failure ptr stays valid */
void ramet__free(void *ptr);
/* The status of this thread's last failed allocation: RAMET_E_MEMORY or RAMET_E_BUDGET. */
ramet_status ramet__alloc_status(void);
void ramet__alloc_status_set(ramet_status status); /* alloc.c alone */
char *ramet__strdup(ramet__mem *mem, const char *text);
char *ramet__strndup(ramet__mem *mem, const char *text, size_t n);
/* Text made by printf rules, owned by the caller (ramet__free / ramet_string_free). NULL on failure. */
char *ramet__format(ramet__mem *mem, const char *format, ...) RAMET__PRINTF(2, 3);

/* st = allocation status; goto out, when `ptr = expr` is NULL */
#define RAMET__NEW(ptr, expr) do { if (!((ptr) = (expr))) { st = ramet__alloc_status(); goto out; } } while (0)

/* A growing array: `items` of `*capacity` elements of `size` bytes; makes room for `need`. */
ramet_status ramet__grow(ramet__mem *mem, void *items_ptr, int64_t *capacity, int64_t need, size_t size);

/* A growing text, always NUL-terminated once written. Zero it, set mem; free with ramet__text_free. */
typedef struct ramet__text { ramet__mem *mem; char *data; size_t len, cap; ramet_status status; } ramet__text;
void ramet__text_add(ramet__text *text, const char *format, ...) RAMET__PRINTF(2, 3); /* a failure sticks in status */
/* `before`, then one number in %g with so many digits and a '.' in every locale, as files need it. */
void ramet__text_float(ramet__text *text, const char *before, int32_t digits, double value);
void ramet__text_bytes(ramet__text *text, const void *bytes, size_t n);
void ramet__text_free(ramet__text *text);
/* The text as a string of its own (then the caller's); resets the text. NULL with status set on an earlier failure. */
char *ramet__text_take(ramet__text *text);

/* Allocations that die together. Zero it, set mem. */
typedef struct ramet__arena { ramet__mem *mem; struct ramet__arena_block *first; size_t used; } ramet__arena;
void *ramet__arena_alloc(ramet__arena *arena, size_t bytes); /* zeroed, 16-aligned; NULL on failure */
char *ramet__arena_strndup(ramet__arena *arena, const char *text, size_t n);
void ramet__arena_free(ramet__arena *arena);
#endif
