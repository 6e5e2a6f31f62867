/* SPDX-License-Identifier: Apache-2.0 */
/* hf.c - see hf.h. Names in the index come from outside: a shard must be a plain file of the folder itself. */
#include "format/hf.h"
#include <string.h>
#include <sys/stat.h>

enum { MAX_SHARDS = 4096, MAX_JSON = 64 << 20, MAX_TOKENIZER = 1 << 30 };

typedef struct entry { const ramet__safetensors *st; const ramet__st_tensor *t; } entry;
struct ramet__hf {
    ramet__mem *mem;
    ramet__arena arena;
    char *folder;
    int32_t untrusted;
    const ramet__json *config;
    char *tokenizer; size_t tokenizer_size;
    char *tokenizer_config; size_t tokenizer_config_size;
    ramet__safetensors **shards; int64_t n_shards;
    entry *tensors; int64_t n_tensors;
    ramet__index index; /* of tensor names; empty when there is one file, which has its own */
};

/* folder/name into the arena. */
static ramet_status join(const char **path, ramet__hf *hf, const char *name) {
    ramet_status st = RAMET_OK;
    size_t n = strlen(hf->folder), m = strlen(name), slash = n && hf->folder[n - 1] != '/';
    char *p;
    RAMET__NEW(p, ramet__arena_alloc(&hf->arena, n + slash + m + 1));
    memcpy(p, hf->folder, n);
    if (slash) p[n] = '/';
    memcpy(p + n + slash, name, m + 1);
    *path = p;
out:
    return st;
}

/* A text of the folder; stays NULL when there is no such file. */
static ramet_status read_text(char **text, size_t *size, ramet__hf *hf, const char *name, uint64_t limit) {
    const char *path = NULL;
    RAMET__TRY(join(&path, hf, name));
    return ramet__path_kind(path) ? ramet__file_read_all(text, size, hf->mem, path, limit) : RAMET_OK;
}

static ramet_status read_json(const ramet__json **out, ramet__hf *hf, const char *name) {
    char *text = NULL;
    size_t size = 0;
    ramet_status st = read_text(&text, &size, hf, name, MAX_JSON);
    if (!st && text) {
        st = ramet__json_parse(out, &hf->arena, text, size, NULL);
        if (!st && (*out)->type != RAMET__JSON_OBJECT)
            st = ramet__fail(RAMET_E_FORMAT, "JSON: not an object at byte %llu", (unsigned long long)(*out)->offset);
        if (st) st = ramet__prefix(st, "%s/%s: ", hf->folder, name);
    }
    ramet__free(text);
    return st;
}

ramet_status ramet__hf_json(const ramet__json **out, const ramet__hf *hf, const char *name) {
    return read_json(out, (ramet__hf *)(uintptr_t)hf, name); /* into the folder's arena */
}

static ramet_status open_file(ramet__safetensors **out, ramet__hf *hf, const char *path) {
    ramet__reader *reader = NULL;
    ramet_source source;
    ramet_source_from_path(&source, sizeof source, path);
    source.untrusted = hf->untrusted;
    ramet_status st = ramet__reader_open(&reader, hf->mem, &source);
    if (!st) st = ramet__safetensors_open(out, hf->mem, reader);
    ramet__reader_free(reader);
    return st;
}

static int plain_name(const ramet__json *v) {
    return v->len && strlen(v->text) == v->len && !strpbrk(v->text, "/\\:") && strcmp(v->text, ".") != 0 &&
        strcmp(v->text, "..") != 0;
}

static ramet_status open_shard(ramet__safetensors **out, ramet__hf *hf, const ramet__json *name) {
    const char *path = NULL;
    struct stat info;
    if (!plain_name(name))
        return ramet__fail(RAMET_E_FORMAT, "%s/model.safetensors.index.json: shard \"%.64s\" at byte %llu is not a plain file name",
                           hf->folder, name->text, (unsigned long long)name->offset);
    RAMET__TRY(join(&path, hf, name->text));
    if (lstat(path, &info))
        return ramet__fail(RAMET_E_NOT_FOUND, "%s: no such file, but model.safetensors.index.json names it at byte %llu", path,
                           (unsigned long long)name->offset);
    if (!S_ISREG(info.st_mode))
        return ramet__fail(RAMET_E_FORMAT,
                           "%s: a symbolic link or no file, which model.safetensors.index.json must not name (byte %llu); "
                           "copy the file here", path, (unsigned long long)name->offset);
    return open_file(out, hf, path);
}

/* Open every shard that the map names, once, and give each tensor its shard. */
static ramet_status open_shards(ramet__hf *hf, const ramet__json *map) {
    ramet_status st = RAMET_OK;
    ramet__index names = {0};
    int64_t n = (int64_t)map->len;
    RAMET__GO(ramet__index_init(&names, &hf->arena, n));
    for (int64_t i = 0; i < n; i++) {
        const ramet__json *v = &map->items[i];
        if (v->type != RAMET__JSON_STRING) {
            st = ramet__fail(RAMET_E_FORMAT, "%s/model.safetensors.index.json: the shard of \"%.64s\" is not a string at byte %llu",
                             hf->folder, map->keys[i], (unsigned long long)v->offset);
            goto out;
        }
        ramet__index_set(&names, i, v->text, v->len);
    }
    ramet__index_sort(&names); /* equal names are neighbours now */
    RAMET__NEW(hf->shards, ramet__arena_alloc(&hf->arena, (size_t)MAX_SHARDS * sizeof *hf->shards));
    RAMET__NEW(hf->tensors, ramet__arena_alloc(&hf->arena, (size_t)(n + 1) * sizeof *hf->tensors));
    RAMET__GO(ramet__index_init(&hf->index, &hf->arena, n));
    for (int64_t i = 0; i < n; i++) {
        const ramet__index_entry *e = &names.entry[i], *before = i ? e - 1 : NULL;
        if (!before || before->len != e->len || memcmp(before->name, e->name, e->len) != 0) {
            if (hf->n_shards == MAX_SHARDS) {
                st = ramet__fail(RAMET_E_LIMIT, "%s/model.safetensors.index.json: more than %d shards", hf->folder, MAX_SHARDS);
                goto out;
            }
            RAMET__GO(open_shard(&hf->shards[hf->n_shards], hf, &map->items[e->at]));
            hf->n_shards++;
        }
        const ramet__safetensors *shard = hf->shards[hf->n_shards - 1];
        const char *name = map->keys[e->at];
        const ramet__st_tensor *t = strlen(name) == map->key_len[e->at] ? ramet__safetensors_find(shard, name) : NULL;
        if (!t) {
            st = ramet__fail(RAMET_E_INCONSISTENT,
                             "%s: has no tensor \"%.64s\", but model.safetensors.index.json says so at byte %llu",
                             ramet__reader_name(shard->reader), name, (unsigned long long)map->items[e->at].offset);
            goto out;
        }
        hf->tensors[e->at] = (entry){shard, t};
        ramet__index_set(&hf->index, e->at, t->name, strlen(t->name));
    }
    hf->n_tensors = n;
    ramet__index_sort(&hf->index);
out:
    return st;
}

static ramet_status open_weights(ramet__hf *hf) {
    ramet_status st = RAMET_OK;
    const char *path = NULL;
    const ramet__json *index = NULL;
    RAMET__GO(join(&path, hf, "model.safetensors"));
    if (ramet__path_kind(path)) {
        RAMET__NEW(hf->shards, ramet__arena_alloc(&hf->arena, sizeof *hf->shards));
        RAMET__GO(open_file(&hf->shards[0], hf, path));
        hf->n_shards = 1;
        hf->n_tensors = hf->shards[0]->n_tensors;
        return RAMET_OK;
    }
    RAMET__GO(read_json(&index, hf, "model.safetensors.index.json"));
    if (!index)
        return ramet__fail(RAMET_E_NOT_FOUND, "%s: neither model.safetensors nor model.safetensors.index.json is there",
                           hf->folder);
    const ramet__json *map = ramet__json_get(index, "weight_map");
    if (!map || map->type != RAMET__JSON_OBJECT)
        return ramet__fail(RAMET_E_FORMAT, "%s/model.safetensors.index.json: no object \"weight_map\" in the object at byte %llu",
                           hf->folder, (unsigned long long)index->offset);
    RAMET__GO(open_shards(hf, map));
out:
    return st;
}

ramet_status ramet__hf_open(ramet__hf **out, ramet__mem *mem, const char *folder, int32_t untrusted) {
    ramet_status st = RAMET_OK;
    ramet__hf *hf;
    if (ramet__path_kind(folder) != 2) return ramet__fail(RAMET_E_NOT_FOUND, "%s: no such folder", folder);
    RAMET__NEW(hf, ramet__calloc(mem, 1, sizeof *hf));
    hf->mem = hf->arena.mem = mem;
    hf->untrusted = untrusted;
    RAMET__NEW(hf->folder, ramet__arena_strndup(&hf->arena, folder, strlen(folder)));
    RAMET__GO(read_json(&hf->config, hf, "config.json"));
    if (!hf->config) {
        st = ramet__fail(RAMET_E_NOT_FOUND, "%s: config.json is not there; is this a Hugging Face model folder?", folder);
        goto out;
    }
    RAMET__GO(read_text(&hf->tokenizer, &hf->tokenizer_size, hf, "tokenizer.json", MAX_TOKENIZER));
    RAMET__GO(read_text(&hf->tokenizer_config, &hf->tokenizer_config_size, hf, "tokenizer_config.json", MAX_JSON));
    RAMET__GO(open_weights(hf));
    *out = hf;
    hf = NULL;
out:
    ramet__hf_free(hf);
    return st;
}

void ramet__hf_free(ramet__hf *hf) {
    if (!hf) return;
    for (int64_t i = 0; i < hf->n_shards; i++) ramet__safetensors_free(hf->shards[i]);
    ramet__free(hf->tokenizer);
    ramet__free(hf->tokenizer_config);
    ramet__arena_free(&hf->arena);
    ramet__free(hf);
}

int64_t ramet__hf_count(const ramet__hf *hf) { return hf->n_tensors; }

void ramet__hf_at(const ramet__hf *hf, int64_t at, const ramet__safetensors **st, const ramet__st_tensor **t) {
    *st = hf->tensors ? hf->tensors[at].st : hf->shards[0];
    *t = hf->tensors ? hf->tensors[at].t : &hf->shards[0]->tensors[at];
}

ramet_status ramet__hf_find(const ramet__hf *hf, const char *name, const ramet__safetensors **st, const ramet__st_tensor **t) {
    const ramet__index *index = hf->tensors ? &hf->index : &hf->shards[0]->index;
    int64_t at = ramet__index_find(index, name, strlen(name));
    if (at < 0) return ramet__fail(RAMET_E_NOT_FOUND, "%s: there is no tensor \"%.128s\"", hf->folder, name);
    ramet__hf_at(hf, at, st, t);
    return RAMET_OK;
}

const ramet__json *ramet__hf_config(const ramet__hf *hf) { return hf->config; }

const char *ramet__hf_tokenizer(const ramet__hf *hf, size_t *size) {
    *size = hf->tokenizer_size;
    return hf->tokenizer;
}

const char *ramet__hf_tokenizer_config(const ramet__hf *hf, size_t *size) {
    *size = hf->tokenizer_config_size;
    return hf->tokenizer_config;
}
