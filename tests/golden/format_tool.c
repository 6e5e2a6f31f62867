/* SPDX-License-Identifier: Apache-2.0 */
/* format_tool.c - what check_formats.py drives, to compare this library with the reference packages of each format:
 *   format_tool encode NAME < floats > blocks        format_tool decode NAME < blocks > floats
 *   format_tool gguf IN OUT                          read all, write all again
 *   format_tool safetensors IN OUT                   likewise (dtypes that can be written)
 *   format_tool json IN                              read, write again to stdout */
#include "format/gguf.h"
#include "format/json.h"
#include "format/safetensors.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ramet__mem *mem;

static ramet_status open_path(ramet__reader **reader, const char *path) {
    ramet_source source;
    ramet_source_from_path(&source, sizeof source, path);
    return ramet__reader_open(reader, mem, &source);
}

static int convert(const char *name, int encode) {
    int32_t found = ramet__encoding_find(name);
    if (found < 0) return 2;
    const ramet__encoding *e = ramet__encoding_get((ramet__enc)found);
    float x[256];
    uint8_t coded[256 * 4];
    size_t blocks = 256 / (size_t)e->block, in = encode ? 4 * (size_t)e->block : (size_t)e->bytes,
        out = encode ? (size_t)e->bytes : 4 * (size_t)e->block, n;
    void *src = encode ? (void *)x : coded, *dst = encode ? coded : (void *)x;
    while ((n = fread(src, in, blocks, stdin)) > 0) {
        if (encode) e->encode(coded, x, (int64_t)n * e->block);
        else e->decode(x, coded, (int64_t)n * e->block);
        if (fwrite(dst, out, n, stdout) != n) return 1;
    }
    return 0;
}

static ramet_status copy_gguf(const char *from, const char *to) {
    ramet_status st = RAMET_OK;
    ramet__reader *reader = NULL;
    ramet__gguf *g = NULL;
    ramet__gguf_writer *w = NULL;
    RAMET__GO(open_path(&reader, from));
    RAMET__GO(ramet__gguf_open(&g, mem, reader));
    RAMET__GO(ramet__gguf_writer_open(&w, mem, to));
    for (int64_t i = 0; i < g->n_kv; i++) RAMET__GO(ramet__gguf_put(w, g->kv[i].key, &g->kv[i].value));
    for (int64_t i = 0; i < g->n_tensors; i++)
        RAMET__GO(ramet__gguf_declare(w, g->tensors[i].name, &g->tensors[i].shape, g->tensors[i].enc));
    for (int64_t i = 0; i < g->n_tensors; i++)
        RAMET__GO(ramet__gguf_data(w, ramet__reader_map(reader, g->tensors[i].offset, g->tensors[i].bytes), g->tensors[i].bytes));
    st = ramet__gguf_writer_commit(&w);
out:
    if (w) ramet__gguf_writer_drop(&w);
    ramet__gguf_free(g);
    ramet__reader_free(reader);
    return st;
}

static ramet_status copy_safetensors(const char *from, const char *to) {
    ramet_status st = RAMET_OK;
    ramet__reader *reader = NULL;
    ramet__safetensors *s = NULL;
    ramet__st_writer *w = NULL;
    RAMET__GO(open_path(&reader, from));
    RAMET__GO(ramet__safetensors_open(&s, mem, reader));
    RAMET__GO(ramet__st_writer_open(&w, mem, to));
    for (int64_t i = 0; i < s->n_meta; i++) RAMET__GO(ramet__st_meta(w, s->meta_key[i], s->meta_value[i]));
    for (int64_t i = 0; i < s->n_tensors; i++)
        RAMET__GO(ramet__st_declare(w, s->tensors[i].name, s->tensors[i].dtype, s->tensors[i].rank, s->tensors[i].dim));
    for (int64_t i = 0; i < s->n_tensors; i++)
        RAMET__GO(ramet__st_data(w, ramet__reader_map(reader, s->tensors[i].offset, s->tensors[i].bytes), s->tensors[i].bytes));
    st = ramet__st_writer_commit(&w);
out:
    if (w) ramet__st_writer_drop(&w);
    ramet__safetensors_free(s);
    ramet__reader_free(reader);
    return st;
}

static void print_json(ramet__text *out, const ramet__json *v) {
    switch (v->type) {
    case RAMET__JSON_NULL: ramet__text_add(out, "null"); break;
    case RAMET__JSON_BOOL: ramet__text_add(out, v->integer ? "true" : "false"); break;
    case RAMET__JSON_NUMBER:
        if (v->is_integer) ramet__text_add(out, "%lld", (long long)v->integer);
        else ramet__json_number(out, v->number);
        break;
    case RAMET__JSON_STRING: ramet__json_quote(out, v->text, v->len); break;
    case RAMET__JSON_ARRAY:
    case RAMET__JSON_OBJECT:
        ramet__text_add(out, v->type == RAMET__JSON_ARRAY ? "[" : "{");
        for (size_t i = 0; i < v->len; i++) {
            if (i) ramet__text_add(out, ",");
            if (v->type == RAMET__JSON_OBJECT) {
                ramet__json_quote(out, v->keys[i], v->key_len[i]);
                ramet__text_add(out, ":");
            }
            print_json(out, &v->items[i]);
        }
        ramet__text_add(out, v->type == RAMET__JSON_ARRAY ? "]" : "}");
    }
}

static ramet_status copy_json(const char *from) {
    ramet_status st = RAMET_OK;
    ramet__arena arena = {.mem = mem};
    ramet__text out = {.mem = mem};
    const ramet__json *v = NULL;
    char *text = NULL;
    size_t size = 0;
    RAMET__GO(ramet__file_read_all(&text, &size, mem, from, 0));
    RAMET__GO(ramet__json_parse(&v, &arena, text, size, NULL));
    print_json(&out, v);
    RAMET__GO(out.status);
    fwrite(out.data, 1, out.len, stdout);
out:
    ramet__text_free(&out);
    ramet__free(text);
    ramet__arena_free(&arena);
    return st;
}

int main(int argc, char **argv) {
    ramet_status st = RAMET_E_ARGUMENT;
    if (ramet__mem_create(&mem, NULL, NULL, 0)) return 1;
    if (argc == 3 && !strcmp(argv[1], "encode")) return convert(argv[2], 1);
    if (argc == 3 && !strcmp(argv[1], "decode")) return convert(argv[2], 0);
    if (argc == 4 && !strcmp(argv[1], "gguf")) st = copy_gguf(argv[2], argv[3]);
    else if (argc == 4 && !strcmp(argv[1], "safetensors")) st = copy_safetensors(argv[2], argv[3]);
    else if (argc == 3 && !strcmp(argv[1], "json")) st = copy_json(argv[2]);
    else return 2;
    ramet__mem_free(mem);
    if (st) fprintf(stderr, "%s: %s\n", ramet_status_name(st), ramet_last_error());
    return st != 0;
}
