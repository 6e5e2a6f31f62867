/* SPDX-License-Identifier: Apache-2.0 */
/* support.h - for the tests of this folder: a growing byte string, and the same bytes behind every kind of reader. */
#ifndef FORMAT_SUPPORT_H
#define FORMAT_SUPPORT_H
#include "base/file.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

typedef struct bytes { uint8_t *data; size_t n; } bytes;

static inline void add(bytes *b, const void *p, size_t n) {
    b->data = realloc(b->data, b->n + n + 1);
    assert_non_null(b->data);
    if (n) memcpy(b->data + b->n, p, n);
    b->n += n;
}
static inline void add8(bytes *b, uint8_t v) { add(b, &v, 1); }
static inline void add32(bytes *b, uint32_t v) { add(b, &v, 4); }
static inline void add64(bytes *b, uint64_t v) { add(b, &v, 8); }

enum { BY_MEMORY, BY_BYTE_READS, BY_MAPPING, BY_READING, BY_DESCRIPTOR, WAYS };
static const char *const way_names[WAYS] = {"memory", "one-byte reads", "mapping", "reading", "descriptor with offset"};
enum { BEFORE = 13 }; /* bytes of something else before the content behind a descriptor; as many follow */

static inline int64_t one_byte(void *dst, uint64_t offset, uint64_t size, void *user) {
    const bytes *b = user;
    if (offset >= b->n || !size) return 0;
    memcpy(dst, b->data + offset, 1);
    return 1;
}

/* One file a test program, overwritten for each case; the group's teardown removes it. */
static inline const char *scratch_path(void) {
    static char path[64];
    if (!*path) snprintf(path, sizeof path, "scratch-%ld.bin", (long)getpid());
    return path;
}

/* The bytes, opened in one way; *b must outlive the reader. */
static inline ramet__reader *open_way(ramet__mem *mem, const bytes *b, int way) {
    ramet_source source = {.struct_size = sizeof source};
    ramet__reader *reader = NULL;
    if (way == BY_MEMORY) {
        source.kind = RAMET_SOURCE_MEMORY;
        source.data = b->data;
        source.length = b->n;
    } else if (way == BY_BYTE_READS) {
        source.kind = RAMET_SOURCE_CALLBACKS;
        source.read = one_byte;
        source.length = b->n;
        source.user = (void *)(uintptr_t)b;
    } else {
        FILE *f = fopen(scratch_path(), "wb");
        assert_non_null(f);
        if (way == BY_DESCRIPTOR) assert_int_equal(fwrite("GGUF12345678{}", 1, BEFORE, f), BEFORE);
        if (b->n) assert_int_equal(fwrite(b->data, 1, b->n, f), b->n);
        if (way == BY_DESCRIPTOR && b->n) assert_int_equal(fwrite("GGUF12345678{}", 1, BEFORE, f), BEFORE); /* length 0 means to the end */
        fclose(f);
        source.kind = RAMET_SOURCE_PATH;
        source.path = scratch_path();
        source.untrusted = way == BY_READING;
    }
    int file = -1;
    if (way == BY_DESCRIPTOR) {
        file = open(scratch_path(), O_RDONLY);
        assert_true(file >= 0);
        source.kind = RAMET_SOURCE_DESCRIPTOR;
        source.descriptor = file;
        source.offset = BEFORE;
        source.length = b->n;
    }
    if (ramet__reader_open(&reader, mem, &source)) fail_msg("open by %s: %s", way_names[way], ramet_last_error());
    if (file >= 0) close(file); /* the reader keeps its own */
    return reader;
}

/* A mem whose allocations fail from number `left` on, for loops that fail at every point. */
typedef struct failing { int64_t left; } failing;
static inline void *failing_alloc(void *ptr, size_t old_size, size_t new_size, size_t alignment, void *user) {
    failing *f = user;
    void *fresh = NULL;
    if (!new_size) { free(ptr); return NULL; }
    if (f->left-- <= 0 || posix_memalign(&fresh, alignment < sizeof(void *) ? sizeof(void *) : alignment, new_size)) return NULL;
    if (ptr) { memcpy(fresh, ptr, old_size < new_size ? old_size : new_size); free(ptr); }
    return fresh;
}

/* What a mem holds must be what a fresh one holds: nothing leaked. */
static inline void assert_all_freed(ramet__mem *mem) {
    uint64_t now = 0, bare = 0;
    ramet__mem *fresh = NULL;
    assert_int_equal(ramet__mem_create(&fresh, NULL, NULL, 0), RAMET_OK);
    ramet__mem_bytes(fresh, &bare, NULL);
    ramet__mem_free(fresh);
    ramet__mem_bytes(mem, &now, NULL);
    assert_int_equal(now, bare);
}
#endif
