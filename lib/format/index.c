/* SPDX-License-Identifier: Apache-2.0 */
/* index.c - see index.h. */
#include "format/index.h"
#include <string.h>

static uint64_t hash_name(const char *name, size_t len) { /* FNV-1a, then mixed */
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++) h = (h ^ (uint8_t)name[i]) * 0x100000001b3u;
    h ^= h >> 32;
    return h * 0x9e3779b97f4a7c15u;
}

static int order_name(const char *a, size_t a_len, const char *b, size_t b_len) {
    size_t n = RAMET__MIN(a_len, b_len);
    int c = n ? memcmp(a, b, n) : 0;
    return c ? c : (a_len > b_len) - (a_len < b_len);
}

static int order(const void *pa, const void *pb) {
    const ramet__index_entry *a = pa, *b = pb;
    if (a->hash != b->hash) return a->hash < b->hash ? -1 : 1;
    int c = order_name(a->name, a->len, b->name, b->len);
    return c ? c : (a->at > b->at) - (a->at < b->at);
}

ramet_status ramet__index_init(ramet__index *index, ramet__arena *arena, int64_t n) {
    ramet_status st = RAMET_OK;
    ramet__index_entry *entry = NULL;
    if (n) RAMET__NEW(entry, ramet__arena_alloc(arena, (size_t)n * sizeof *entry));
    index->n = n;
    index->entry = entry;
out:
    return st;
}

static void sift(uint8_t *e, int64_t root, int64_t n, size_t size, int (*before)(const void *a, const void *b)) {
    uint8_t x[256];
    memcpy(x, e + (size_t)root * size, size);
    for (int64_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && before(e + (size_t)child * size, e + (size_t)(child + 1) * size) < 0) child++;
        if (before(x, e + (size_t)child * size) >= 0) break;
        memcpy(e + (size_t)root * size, e + (size_t)child * size, size);
    }
    memcpy(e + (size_t)root * size, x, size);
}

void ramet__sort(void *items, int64_t n, size_t size, int (*before)(const void *a, const void *b)) {
    uint8_t *e = items, last[256];
    for (int64_t i = n / 2 - 1; i >= 0; i--) sift(e, i, n, size, before);
    for (int64_t i = n - 1; i > 0; i--) {
        memcpy(last, e + (size_t)i * size, size);
        memcpy(e + (size_t)i * size, e, size);
        memcpy(e, last, size);
        sift(e, 0, i, size, before);
    }
}

int64_t ramet__index_sort(ramet__index *index) {
    ramet__index_entry *e = index->entry;
    int64_t n = index->n, twice = -1;
    for (int64_t i = 0; i < n; i++) e[i].hash = hash_name(e[i].name, e[i].len);
    ramet__sort(e, n, sizeof *e, order);
    for (int64_t i = 1; i < n; i++) {
        if (e[i].hash != e[i - 1].hash || order_name(e[i].name, e[i].len, e[i - 1].name, e[i - 1].len)) continue;
        if (twice < 0 || e[i].at < twice) twice = e[i].at;
    }
    return twice;
}

int64_t ramet__index_find(const ramet__index *index, const char *name, size_t len) {
    uint64_t hash = hash_name(name, len);
    int64_t low = 0, high = index->n; /* the first entry that is not before (hash, name) */
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        const ramet__index_entry *e = &index->entry[mid];
        int before = e->hash != hash ? e->hash < hash : order_name(e->name, e->len, name, len) < 0;
        if (before) low = mid + 1;
        else high = mid;
    }
    if (low == index->n) return -1;
    const ramet__index_entry *e = &index->entry[low];
    return e->hash == hash && !order_name(e->name, e->len, name, len) ? e->at : -1;
}

size_t ramet__utf8_valid(const char *bytes, size_t n) {
    const uint8_t *s = (const uint8_t *)bytes;
    size_t i = 0;
    while (i < n) {
        uint8_t c = s[i];
        if (c < 0x80) { i++; continue; }
        size_t more = c >= 0xc2 && c <= 0xdf ? 1 : (c & 0xf0) == 0xe0 ? 2 : c >= 0xf0 && c <= 0xf4 ? 3 : 0;
        if (!more || n - i <= more) break;
        uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        if (s[i + 1] < low || s[i + 1] > high) break;
        if (more > 1 && (s[i + 2] & 0xc0) != 0x80) break;
        if (more > 2 && (s[i + 3] & 0xc0) != 0x80) break;
        i += more + 1;
    }
    return i;
}
