/* SPDX-License-Identifier: Apache-2.0 */
/* base_test.h - what the tests of this folder share: cmocka with its includes, an allocator that counts and fails, a folder. */
#ifndef BASE_TEST_H
#define BASE_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* Checks every contract of ramet_alloc_fn. fail_at: the n-th allocation from now answers NULL, and all after it (0: none). */
typedef struct counting { int64_t calls, fail_at, blocks, bytes, wrong; } counting;

static inline void *counting_alloc(void *ptr, size_t old_size, size_t new_size, size_t alignment, void *user) {
    counting *c = user;
    if (alignment == 0 || alignment > 4096 || (alignment & (alignment - 1)) || (!ptr && old_size) || (!ptr && !new_size)) c->wrong++;
    if (ptr && *(size_t *)(void *)((char *)ptr - alignment) != old_size) c->wrong++;
    if (new_size == 0) {
        c->blocks--;
        c->bytes -= (int64_t)old_size;
        free((char *)ptr - alignment);
        return NULL;
    }
    c->calls++;
    if ((c->fail_at && c->calls >= c->fail_at) || new_size > (size_t)1 << 40) return NULL;
    void *block;
    if (posix_memalign(&block, alignment, new_size + alignment)) return NULL;
    char *made = (char *)block + alignment;
    *(size_t *)(void *)(made - alignment) = new_size;
    memset(made, 0xA5, new_size);
    if (ptr) {
        memcpy(made, ptr, old_size < new_size ? old_size : new_size);
        free((char *)ptr - alignment);
        c->bytes -= (int64_t)old_size;
        c->blocks--;
    }
    c->blocks++;
    c->bytes += (int64_t)new_size;
    return made;
}

static inline void test_folder(char path[64]) {
    snprintf(path, 64, "/tmp/ramet-test-XXXXXX");
    if (!mkdtemp(path)) fail_msg("no test folder");
}

#define assert_contains(text, part) do { if (!strstr((text), (part))) fail_msg("\"%s\" lacks \"%s\"", (text), (part)); } while (0)
#define assert_fails(call, status, part) do { assert_int_equal((call), (status)); assert_contains(ramet_last_error(), (part)); } while (0)
#define assert_ok(call) do { if (call) fail_msg("%s: %s", #call, ramet_last_error()); } while (0)
#endif
