/* SPDX-License-Identifier: Apache-2.0 */
/* tok - ids of texts, for tests/golden/tokenizer.py: tok [--special] [--repeat N] MODEL FILE...
 * MODEL is a GGUF file or a folder with tokenizer.json. One line of ids per FILE; with --repeat seconds per pass on stderr.
 * A FILE that ends in .lst holds many texts: a 4-byte little-endian length before each; one line of ids per text. */
#include "base/file.h"
#include "base/runtime.h"
#include "tokenizer/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int failed(const char *what) {
    fprintf(stderr, "tok: %s: %s\n", what, ramet_last_error());
    return 1;
}

static ramet_status load(ramet__tokenizer **t, ramet__mem *mem, const char *path) {
    char name[4096];
    char *json = NULL, *config = NULL;
    size_t size, config_size;
    size_t n = strlen(path);
    if (n > 5 && !strcmp(path + n - 5, ".gguf")) {
        ramet_source source;
        ramet__reader *reader;
        ramet__gguf *gguf;
        ramet_source_from_path(&source, sizeof(source), path);
        RAMET__TRY(ramet__reader_open(&reader, mem, &source));
        ramet_status st = ramet__gguf_open(&gguf, mem, reader);
        ramet__reader_free(reader);
        if (st) return st;
        st = ramet__tokenizer_from_gguf(t, mem, gguf);
        ramet__gguf_free(gguf);
        return st;
    }
    snprintf(name, sizeof(name), "%s/tokenizer.json", path);
    RAMET__TRY(ramet__file_read_all(&json, &size, mem, name, 0));
    snprintf(name, sizeof(name), "%s/tokenizer_config.json", path);
    if (ramet__file_read_all(&config, &config_size, mem, name, 0)) config = NULL;
    ramet_status st = ramet__tokenizer_from_json(t, mem, json, size, config, config ? config_size : 0);
    ramet__free(json);
    ramet__free(config);
    return st;
}

static int encode(const ramet__tokenizer *t, const char *text, size_t size, int32_t flags, int repeat) {
    int64_t n, cap = (int64_t)size + 2;
    int32_t *ids = malloc((size_t)cap * sizeof(ids[0]));
    double start = seconds();
    for (int i = 0; i < repeat; i++) if (!ids || ramet__tokenizer_encode(&n, ids, cap, t, text, size, flags)) return failed("encode");
    if (repeat > 1) fprintf(stderr, "%.1f MB/s\n", (double)size * repeat / (seconds() - start) / 1e6);
    for (int64_t i = 0; i < n; i++) printf(i ? " %d" : "%d", ids[i]);
    putchar('\n');
    free(ids);
    return 0;
}

int main(int argc, char **argv) {
    int32_t flags = 0;
    int at = 1, repeat = 1, rc = 0;
    for (; at < argc && argv[at][0] == '-'; at++) {
        if (!strcmp(argv[at], "--special")) flags |= RAMET__TOKENIZE_SPECIAL;
        else if (!strcmp(argv[at], "--bos")) flags |= RAMET__TOKENIZE_BOS;
        else if (!strcmp(argv[at], "--repeat") && at + 1 < argc) repeat = atoi(argv[++at]);
        else return fprintf(stderr, "tok: unknown option %s\n", argv[at]), 2;
    }
    if (argc - at < 2) return fprintf(stderr, "usage: tok [--special] [--bos] [--repeat N] MODEL FILE...\n"), 2;
    ramet_runtime_options options;
    ramet_runtime *runtime;
    ramet__tokenizer *t;
    ramet_runtime_options_init(&options, sizeof(options));
    options.threads = 1;
    if (ramet_runtime_create(&runtime, &options)) return failed("runtime");
    double start = seconds();
    if (load(&t, runtime->mem, argv[at])) return failed(argv[at]);
    if (repeat > 1) fprintf(stderr, "load %.3f s\n", seconds() - start);
    for (at++; at < argc && !rc; at++) {
        char *text;
        size_t size, n = strlen(argv[at]);
        if (ramet__file_read_all(&text, &size, runtime->mem, argv[at], 0)) return failed(argv[at]);
        if (n > 4 && !strcmp(argv[at] + n - 4, ".lst")) {
            for (size_t i = 0; !rc && i + 4 <= size;) {
                const unsigned char *u = (const unsigned char *)text + i;
                size_t len = u[0] | (size_t)u[1] << 8 | (size_t)u[2] << 16 | (size_t)u[3] << 24;
                if (len > size - i - 4) return fprintf(stderr, "tok: %s: cut off\n", argv[at]), 1;
                rc = encode(t, text + i + 4, len, flags, 1);
                i += 4 + len;
            }
        } else {
            rc = encode(t, text, size, flags, repeat);
        }
        ramet__free(text);
    }
    ramet__tokenizer_free(t);
    ramet_runtime_free(runtime);
    return rc;
}
