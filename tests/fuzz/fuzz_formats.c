/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_formats.c - a deterministic mutation fuzzer over the readers of files: valid seeds, broken in counter-based ways. A case is a
 * function of its number alone. The readers must answer, never crash, and give everything back; run it under the sanitizers.
 *   fuzz_formats [CASES [FIRST]]     default 20000 from 0; a failure prints the number of its case */
#include "base/rng.h"
#include "format/gguf.h"
#include "format/json.h"
#include "format/safetensors.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX = 4096, SEEDS = 6 };
typedef struct blob { uint8_t data[MAX]; size_t n; int32_t reader; } blob; /* reader: 0 json, 1 gguf, 2 safetensors */
typedef struct dice { uint64_t stream, at; } dice;

static uint64_t below(dice *d, uint64_t n) { return ramet__rng_below(20260, d->stream, d->at++, n); }

static void put(blob *b, const void *p, size_t n) { memcpy(b->data + b->n, p, n); b->n += n; }
static void put32(blob *b, uint32_t v) { put(b, &v, 4); }
static void put64(blob *b, uint64_t v) { put(b, &v, 8); }
static void put_name(blob *b, const char *s) { put64(b, strlen(s)); put(b, s, strlen(s)); }

static void make_gguf(blob *b) {
    *b = (blob){.reader = 1};
    put(b, "GGUF", 4);
    put32(b, 3);
    put64(b, 3);
    put64(b, 5);
    put_name(b, "general.architecture"); put32(b, 8); put_name(b, "llama");
    put_name(b, "general.alignment"); put32(b, 4); put32(b, 32);
    put_name(b, "words"); put32(b, 9); put32(b, 8); put64(b, 3); put_name(b, "a"); put_name(b, ""); put_name(b, "xyz");
    put_name(b, "flags"); put32(b, 9); put32(b, 7); put64(b, 3); put(b, "\1\0\1", 3);
    put_name(b, "eps"); put32(b, 6); put32(b, 0x3727c5ac);
    put_name(b, "one"); put32(b, 2); put64(b, 4); put64(b, 2); put32(b, 0); put64(b, 0);
    put_name(b, "two"); put32(b, 1); put64(b, 64); put32(b, 2); put64(b, 32);
    put_name(b, "three"); put32(b, 3); put64(b, 32); put64(b, 1); put64(b, 1); put32(b, 8); put64(b, 96);
    while (b->n % 32) put(b, "", 1);
    for (int i = 0; i < 160; i++) put(b, "\x2a", 1);
}

static void make_safetensors(blob *b, const char *header, size_t data) {
    *b = (blob){.reader = 2};
    put64(b, strlen(header));
    put(b, header, strlen(header));
    for (size_t i = 0; i < data; i++) put(b, "\x2a", 1);
}

static void make_json(blob *b, const char *text) {
    *b = (blob){.reader = 0};
    put(b, text, strlen(text));
}

static void mutate(blob *b, dice *d) {
    static const uint64_t edges[] = {0, 1, 2, 3, 7, 8, 31, 32, 63, 64, 127, 128, 255, 256, 65535, 65536, 0x7fffffff, 0x80000000,
                                     0xffffffff, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0xfffffffffffffff8,
                                     0x2000000000000000};
    static const char *const tokens[] = {"{", "}", "[", "]", ",", ":", "\"", "\\", "\\u", "\\ud800", "0", "-", "1e9", "1e999",
                                         "null", "\"a\":", "9223372036854775808", "\xff", "\xed\xa0\x80", "{\"a\":1,\"a\":1}",
                                         "data_offsets", "[[[["};
    size_t at = (size_t)below(d, b->n + 1), width, n;
    uint64_t v;
    switch (below(d, 8)) {
    case 0: if (at < b->n) b->data[at] ^= (uint8_t)(1u << below(d, 8)); break;
    case 1: if (at < b->n) b->data[at] = (uint8_t)below(d, 256); break;
    case 2: b->n = at; break;
    case 3: /* an edge number over 1, 2, 4 or 8 bytes */
        width = (size_t)1 << below(d, 4);
        v = edges[below(d, sizeof edges / sizeof *edges)] + below(d, 3) - 1;
        if (at + width <= b->n) memcpy(b->data + at, &v, width);
        break;
    case 4: /* repeat a part */
        n = (size_t)below(d, 64);
        if (at + n > b->n || b->n + n > MAX) break;
        memmove(b->data + at + n, b->data + at, b->n - at);
        b->n += n;
        break;
    case 5: /* take a part out */
        n = (size_t)below(d, 32);
        if (at + n > b->n) break;
        memmove(b->data + at, b->data + at + n, b->n - at - n);
        b->n -= n;
        break;
    case 6: { /* put a token in */
        const char *token = tokens[below(d, sizeof tokens / sizeof *tokens)];
        n = strlen(token);
        if (b->n + n > MAX) break;
        memmove(b->data + at + n, b->data + at, b->n - at);
        memcpy(b->data + at, token, n);
        b->n += n;
        break;
    }
    default: /* keep a safetensors length true, so that what is behind it is reached */
        if (b->reader == 2 && b->n > 8) { v = b->n - 8 - below(d, 3) * 20; memcpy(b->data, &v, 8); }
        break;
    }
}

static int64_t one_byte(void *dst, uint64_t offset, uint64_t size, void *user) {
    const blob *b = user;
    if (offset >= b->n || !size) return 0;
    memcpy(dst, b->data + offset, 1);
    return 1;
}

/* Read it in one way; touch all that was read. */
static ramet_status read_blob(ramet__mem *mem, const blob *b, uint8_t *exact, int by_callback) {
    ramet_status st = RAMET_OK;
    if (b->reader == 0) {
        ramet__arena arena = {.mem = mem};
        const ramet__json *v = NULL;
        st = ramet__json_parse(&v, &arena, (const char *)exact, b->n, NULL);
        if (!st) ramet__json_get(v, "a");
        ramet__arena_free(&arena);
        return st;
    }
    ramet_source source = {.struct_size = sizeof source, .kind = by_callback ? RAMET_SOURCE_CALLBACKS : RAMET_SOURCE_MEMORY,
                           .data = exact, .length = b->n, .read = one_byte, .user = (void *)(uintptr_t)b};
    ramet__reader *reader = NULL;
    st = ramet__reader_open(&reader, mem, &source);
    if (st) return st;
    uint8_t sum = 0, *copy = malloc(MAX);
    if (b->reader == 1) {
        ramet__gguf *g = NULL;
        st = ramet__gguf_open(&g, mem, reader);
        for (int64_t i = 0; !st && i < g->n_tensors; i++) {
            /* accepted, but not there */
            if (g->tensors[i].bytes > MAX || ramet__reader_read(reader, copy, g->tensors[i].offset, g->tensors[i].bytes))
                st = RAMET_E_INTERNAL;
            else if (g->tensors[i].bytes) sum ^= copy[g->tensors[i].bytes - 1];
        }
        ramet__gguf_free(g);
    } else {
        ramet__safetensors *s = NULL;
        st = ramet__safetensors_open(&s, mem, reader);
        for (int64_t i = 0; !st && i < s->n_tensors; i++) {
            if (s->tensors[i].bytes > MAX || ramet__safetensors_read(s, &s->tensors[i], copy, s->tensors[i].bytes))
                st = RAMET_E_INTERNAL;
            else if (s->tensors[i].bytes) sum ^= copy[s->tensors[i].bytes - 1];
        }
        ramet__safetensors_free(s);
    }
    exact[0] ^= sum & 0; /* the sum is used */
    free(copy);
    ramet__reader_free(reader);
    return st;
}

int main(int argc, char **argv) {
    uint64_t cases = argc > 1 ? strtoull(argv[1], NULL, 0) : 20000, first = argc > 2 ? strtoull(argv[2], NULL, 0) : 0, accepted = 0,
        bare = 0, now = 0;
    static blob seeds[SEEDS];
    ramet__mem *mem = NULL;
    make_gguf(&seeds[0]);
    make_gguf(&seeds[1]);
    make_safetensors(&seeds[2],
                     "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},\"b\":{\"dtype\":\"F4\",\"shape\":[8],\"data_offsets\":[16,20]}}", 20);
    make_safetensors(&seeds[3], "{}", 0);
    make_json(&seeds[4], "{\"a\":[1,-2.5e-3,true,false,null],\"b\":{\"c\":\"\\u00e9\\ud83d\\ude00\\n\",\"d\":{}},\"e\":\"\xc3\xa9\"}");
    make_json(&seeds[5], "{\"k0\":0,\"k1\":1,\"k2\":2,\"k3\":3,\"k4\":4,\"k5\":5,\"k6\":6,\"k7\":7,\"k8\":8,\"k9\":[[],[[]]]}");
    if (ramet__mem_create(&mem, NULL, NULL, 1 << 26)) return 1; /* a budget: a claim in a small file must not take memory */
    ramet__mem_bytes(mem, &bare, NULL);
    for (uint64_t c = first; c < first + cases; c++) {
        dice d = {c, 0};
        blob b = seeds[below(&d, SEEDS)];
        for (uint64_t i = below(&d, 6); i > 0; i--) mutate(&b, &d);
        uint8_t *exact = malloc(b.n + !b.n); /* no byte behind it */
        if (!exact) return 1;
        memcpy(exact, b.data, b.n);
        ramet_status one = b.n || b.reader == 0 ? read_blob(mem, &b, exact, 0) : RAMET_E_FORMAT, two = read_blob(mem, &b, exact, 1);
        free(exact);
        ramet__mem_bytes(mem, &now, NULL);
        accepted += one == RAMET_OK;
        if (one != two || one == RAMET_E_INTERNAL || one == RAMET_E_MEMORY || one == RAMET_E_BUDGET || now != bare) {
            fprintf(stderr, "case %llu: %s and %s, %llu bytes kept: %s\n", (unsigned long long)c, ramet_status_name(one),
                    ramet_status_name(two), (unsigned long long)(now - bare), ramet_last_error());
            return 1;
        }
    }
    ramet__mem_free(mem);
    printf("%llu cases, %llu of them valid\n", (unsigned long long)cases, (unsigned long long)accepted);
    return accepted == 0 || accepted == cases; /* then it did not test anything */
}
