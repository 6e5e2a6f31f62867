/* SPDX-License-Identifier: Apache-2.0 */
/* container.c - strings, growing arrays, growing texts and arenas over the allocator. */
#include "alloc.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

char *ramet__strndup(ramet__mem *mem, const char *text, size_t n) {
    if (n == SIZE_MAX) n--;
    char *copy = ramet__alloc(mem, n + 1);
    if (!copy) return NULL;
    if (n) memcpy(copy, text, n);
    copy[n] = 0;
    return copy;
}

char *ramet__strdup(ramet__mem *mem, const char *text) { return ramet__strndup(mem, text, strlen(text)); }

char *ramet__format(ramet__mem *mem, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = ramet__alloc(mem, n < 0 ? 1 : (size_t)n + 1);
    if (text) {
        text[0] = 0;
        if (n >= 0) vsnprintf(text, (size_t)n + 1, format, again);
    }
    va_end(again);
    return text;
}

ramet_status ramet__grow(ramet__mem *mem, void *items_ptr, int64_t *capacity, int64_t need, size_t size) {
    if (need <= *capacity) return RAMET_OK;
    const int64_t most = size ? (int64_t)((PTRDIFF_MAX - RAMET__ALIGN) / size) : 0;
    if (need > most) {
        ramet__alloc_status_set(RAMET_E_MEMORY);
        return ramet__fail(RAMET_E_MEMORY, "out of memory: an array of %lld elements of %zu bytes", (long long)need, size);
    }
    int64_t cap = *capacity > most / 2 ? most : *capacity + *capacity / 2;
    cap = RAMET__MIN(RAMET__MAX(RAMET__MAX(cap, need), 8), most);
    void *items;
    memcpy(&items, items_ptr, sizeof items);
    void *grown = ramet__realloc(mem, items, (size_t)cap * size);
    /* Under a tight budget the exact size may still fit. */
    if (!grown && cap > need) grown = ramet__realloc(mem, items, (size_t)(cap = need) * size);
    if (!grown) return ramet__alloc_status();
    memcpy(items_ptr, &grown, sizeof grown);
    *capacity = cap;
    return RAMET_OK;
}

/* Room for `more` bytes and the NUL. */
static int text_room(ramet__text *text, size_t more) {
    if (text->status) return 0;
    if (more > PTRDIFF_MAX / 2 || text->len > PTRDIFF_MAX / 2) {
        text->status = ramet__fail(RAMET_E_MEMORY, "out of memory: a text of more than %zu bytes", text->len);
        return 0;
    }
    int64_t cap = (int64_t)text->cap;
    text->status = ramet__grow(text->mem, &text->data, &cap, (int64_t)(text->len + more + 1), 1);
    if (text->status) return 0;
    text->cap = (size_t)cap;
    return 1;
}

void ramet__text_bytes(ramet__text *text, const void *bytes, size_t n) {
    if (!text_room(text, n)) return;
    if (n) memcpy(text->data + text->len, bytes, n);
    text->len += n;
    text->data[text->len] = 0;
}

void ramet__text_add(ramet__text *text, const char *format, ...) {
    if (!text_room(text, 64)) return;
    for (int round = 0; round < 2; round++) {
        va_list args;
        va_start(args, format);
        int n = vsnprintf(text->data + text->len, text->cap - text->len, format, args);
        va_end(args);
        if (n < 0) {
            text->data[text->len] = 0;
            text->status = ramet__fail(RAMET_E_INTERNAL, "a text could not be formatted");
            return;
        }
        if ((size_t)n < text->cap - text->len) {
            text->len += (size_t)n;
            return;
        }
        text->data[text->len] = 0;
        if (!text_room(text, (size_t)n)) return;
    }
}

void ramet__text_free(ramet__text *text) {
    ramet__free(text->data);
    *text = (ramet__text){.mem = text->mem};
}

char *ramet__text_take(ramet__text *text) {
    ramet__text_bytes(text, "", 0); /* an empty text is "" */
    ramet_status st = text->status;
    char *data = NULL;
    if (!st) {
        data = ramet__realloc(text->mem, text->data, text->len + 1);
        text->data = NULL;
    }
    ramet__text_free(text);
    text->status = st;
    return data;
}

typedef struct ramet__arena_block {
    struct ramet__arena_block *next;
    size_t size; /* of the payload, which begins at ARENA_HEAD */
} arena_block;

#define ARENA_HEAD ((sizeof(arena_block) + 15) / 16 * 16)
#define ARENA_FIRST ((size_t)4096)
#define ARENA_MOST ((size_t)1 << 18)

void *ramet__arena_alloc(ramet__arena *arena, size_t bytes) {
    if (bytes > PTRDIFF_MAX / 2) return ramet__alloc(arena->mem, SIZE_MAX); /* NULL with the message */
    bytes = RAMET__ROUND_UP(bytes, (size_t)16);
    arena_block *first = arena->first;
    if (!first || bytes > first->size - arena->used) {
        size_t next = first ? RAMET__MIN(first->size * 2, ARENA_MOST) : ARENA_FIRST;
        int alone = bytes > next / 4; /* a large piece gets a block of its own, behind the one being filled */
        arena_block *made = ramet__alloc(arena->mem, ARENA_HEAD + (alone ? bytes : next));
        if (!made) return NULL;
        made->size = alone ? bytes : next;
        if (alone && first) {
            made->next = first->next;
            first->next = made;
            return memset((char *)made + ARENA_HEAD, 0, bytes);
        }
        made->next = first;
        arena->first = first = made;
        arena->used = 0;
    }
    void *ptr = memset((char *)first + ARENA_HEAD + arena->used, 0, bytes);
    arena->used += bytes;
    return ptr;
}

char *ramet__arena_strndup(ramet__arena *arena, const char *text, size_t n) {
    char *copy = ramet__arena_alloc(arena, n < SIZE_MAX ? n + 1 : n);
    if (copy && n) memcpy(copy, text, n);
    return copy;
}

void ramet__arena_free(ramet__arena *arena) {
    for (arena_block *b = arena->first, *next; b; b = next) {
        next = b->next;
        ramet__free(b);
    }
    arena->first = NULL;
    arena->used = 0;
}

void ramet__text_float(ramet__text *text, const char *before, int32_t digits, double value) {
    char number[40];
    snprintf(number, sizeof number, "%.*g", digits, value);
    ramet__number_point(number);
    ramet__text_add(text, "%s%s", before, number);
}
