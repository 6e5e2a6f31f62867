/* SPDX-License-Identifier: Apache-2.0 */
/* index.h - finds a name among many, and the first name that occurs twice. Entries are sorted by (hash, bytes), so that no
 * choice of names makes building slower than n log n or a look-up slower than log n. Used by every reader of this folder. */
#ifndef RAMET__INDEX_H
#define RAMET__INDEX_H
#include "base/alloc.h"

typedef struct ramet__index_entry { uint64_t hash; const char *name; size_t len; int64_t at; } ramet__index_entry;
typedef struct ramet__index { int64_t n; ramet__index_entry *entry; } ramet__index;

/* Make room for n names in the arena; then set each entry's name, len and at (any numbers), then sort. Names must outlive it. */
ramet_status ramet__index_init(ramet__index *index, ramet__arena *arena, int64_t n);
static inline void ramet__index_set(ramet__index *index, int64_t i, const char *name, size_t len) {
    index->entry[i] = (ramet__index_entry){0, name, len, i};
}
/* -1, or the `at` of an entry whose name another entry with a lower `at` has too. */
int64_t ramet__index_sort(ramet__index *index);
/* The `at` of a name, -1 when it is not there. */
int64_t ramet__index_find(const ramet__index *index, const char *name, size_t len);

/* Heap sort (Williams 1964): in place, n log n in the worst case. `size` at most 256. */
void ramet__sort(void *items, int64_t n, size_t size, int (*order)(const void *a, const void *b));

/* The length of the valid UTF-8 at the start of the bytes (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF). */
size_t ramet__utf8_valid(const char *bytes, size_t n);
#endif
