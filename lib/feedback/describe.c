/* SPDX-License-Identifier: Apache-2.0 */
/* describe.c - what a path is, for people: models and adapters by model/, the files of the way back here. For an update the
 * answer lists every part, so that its owner sees what would leave the device. */
#include "feedback/feedback.h"
#include <stdio.h>
#include <string.h>

static const char *dtype_group(const char *name) { /* the part of an update that a tensor belongs to */
    if (!strncmp(name, "delta.", 6)) return "delta";
    if (!strncmp(name, "lineage.", 8)) return "lineage";
    if (!strncmp(name, "probe.", 6)) return "probe";
    return "other";
}

static ramet_status describe_safetensors(char **json, ramet_runtime *rt, const ramet__safetensors *st_file, const char *kind) {
    static const char *const parts[] = {"delta", "lineage", "probe", "other"};
    uint64_t bytes[4] = {0}, count[4] = {0};
    ramet__text t = {.mem = rt->mem};
    for (int64_t i = 0; i < st_file->n_tensors; i++)
        for (int32_t p = 0; p < 4; p++)
            if (!strcmp(dtype_group(st_file->tensors[i].name), parts[p])) {
                bytes[p] += st_file->tensors[i].bytes;
                count[p]++;
            }
    ramet__text_add(&t, "{\"kind\":");
    ramet__json_quote(&t, kind, strlen(kind));
    ramet__text_add(&t, ",\"bytes\":%llu,\"parts\":{", (unsigned long long)ramet__reader_size(st_file->reader));
    int32_t first = 1;
    for (int32_t p = 0; p < 4; p++) {
        if (!count[p]) continue;
        ramet__text_add(&t, "%s\"%s\":{\"tensors\":%llu,\"bytes\":%llu}", first ? "" : ",", parts[p], (unsigned long long)count[p], (unsigned long long)bytes[p]);
        first = 0;
    }
    ramet__text_add(&t, "},\"metadata\":{");
    for (int64_t i = 0; i < st_file->n_meta; i++) {
        ramet__text_add(&t, "%s", i ? "," : "");
        ramet__json_quote(&t, st_file->meta_key[i], strlen(st_file->meta_key[i]));
        ramet__text_add(&t, ":");
        ramet__json_quote(&t, st_file->meta_value[i], strlen(st_file->meta_value[i]));
    }
    ramet__text_add(&t, "}");
    if (!strcmp(kind, "update")) /* what a person wants to know before it is sent */
        ramet__text_add(&t, ",\"leaves_the_device\":{\"weight_differences\":%llu,\"soft_labels\":%llu,\"lineage\":%llu,\"raw_text\":0}", (unsigned long long)bytes[0],
                        (unsigned long long)bytes[2], (unsigned long long)bytes[1]);
    ramet__text_add(&t, "}");
    ramet_status st = t.status;
    if (!st) st = (*json = ramet__text_take(&t)) ? RAMET_OK : ramet__alloc_status();
    ramet__text_free(&t);
    return st;
}

static ramet_status describe_store(char **json, ramet_runtime *rt, const char *path) {
    ramet_store *s = NULL;
    ramet_status st;
    ramet__text t = {.mem = rt->mem};
    RAMET__TRY(ramet_store_open(&s, rt, path));
    ramet__text_add(&t, "{\"kind\":\"store\",\"head\":%lld,\"versions\":[", (long long)s->head);
    for (int64_t i = 0; i < s->n_versions; i++)
        ramet__text_add(&t, "%s{\"version\":%lld,\"parent\":%lld,\"digest\":\"%s\"}", i ? "," : "", (long long)s->versions[i].number, (long long)s->versions[i].parent, s->versions[i].digest);
    ramet__text_add(&t, "]}");
    RAMET__GO(t.status);
    RAMET__NEW(*json, ramet__text_take(&t));
out:
    ramet__text_free(&t);
    ramet_store_free(s);
    return st;
}

ramet_status ramet_describe_path(char **json, ramet_runtime *runtime, const char *path) {
    ramet_source source;
    ramet__reader *reader = NULL;
    ramet__safetensors *file = NULL;
    char magic[9] = {0}, head[4096];
    ramet_status st;
    if (!json || !path) return ramet__fail(RAMET_E_ARGUMENT, "ramet_describe_path: json and path must not be NULL");
    RAMET__TRY(ramet__runtime_check(runtime));
    int32_t kind = ramet__path_kind(path);
    if (!kind) return ramet__fail(RAMET_E_NOT_FOUND, "%s: no such file or folder", path);
    if (kind == 2) {
        snprintf(head, sizeof head, "%s/HEAD", path);
        return ramet__path_kind(head) == 1 ? describe_store(json, runtime, path) : ramet__describe_model_file(json, runtime, path);
    }
    ramet_source_from_path(&source, sizeof source, path);
    source.untrusted = 1;
    RAMET__TRY(ramet__reader_open(&reader, runtime->mem, &source));
    if (ramet__reader_size(reader) < 9) { st = ramet__fail(RAMET_E_FORMAT, "%s: has %llu bytes, too few for anything that ramet reads", path, (unsigned long long)ramet__reader_size(reader)); goto out; }
    RAMET__GO(ramet__reader_read(reader, magic, 0, 9));
    if (magic[8] == '{') { /* a safetensors header follows its 8-byte length */
        RAMET__GO(ramet__safetensors_open(&file, runtime->mem, reader));
        const char *of = ramet__safetensors_meta(file, "ramet.kind");
        if (of) {
            st = describe_safetensors(json, runtime, file, of);
            goto out;
        }
    }
    st = ramet__describe_model_file(json, runtime, path);
out:
    ramet__safetensors_free(file);
    ramet__reader_free(reader);
    return st;
}
