/* SPDX-License-Identifier: Apache-2.0 */
/* resize.h - what the tests' own allocators do in the end: a block of another size with what fits of the old one's content; size 0 frees. */
#ifndef TOOLS_RESIZE_H
#define TOOLS_RESIZE_H
#include <stdlib.h>
#include <string.h>

static inline void *resized(void *ptr, size_t old, size_t size, size_t alignment) {
    void *p = NULL;
    if (size && posix_memalign(&p, alignment < sizeof p ? sizeof p : alignment, size)) return NULL;
    if (size && ptr) memcpy(p, ptr, old < size ? old : size);
    free(ptr);
    return p;
}
#endif
