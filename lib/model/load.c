/* SPDX-License-Identifier: Apache-2.0 */
/* load.c - the public ways in: options, and which kind of thing a source is. */
#include "model/internal.h"
#include <string.h>

static const ramet_model_options defaults = {.struct_size = sizeof(ramet_model_options), .tokenizer = 1};

ramet_status ramet__name_file(ramet_status st, const char *name) {
    if (st && strncmp(ramet_last_error(), name, strlen(name))) ramet__prefix(st, "%s: ", name);
    return st;
}

ramet_status ramet__model_check_tokenizer(const ramet_model *m) {
    const int32_t n = ramet__tokenizer_size(m->tokenizer);
    if (n <= m->h.n_vocab) return RAMET_OK;
    return ramet__fail(RAMET_E_INCONSISTENT, "the tokenizer has %d tokens, the embedding only %lld rows", n, (long long)m->h.n_vocab);
}

void ramet_model_options_init(ramet_model_options *options, uint32_t struct_size) {
    ramet__options_init(options, struct_size, &defaults, sizeof defaults);
}

ramet_status ramet_model_load(ramet_model **out, ramet_runtime *runtime, const ramet_source *source, const ramet_model_options *options) {
    ramet_model_options o = defaults;
    ramet_source s = {.struct_size = sizeof s};
    ramet__reader *reader = NULL;
    ramet_status st;
    RAMET__TRY(ramet__runtime_check(runtime));
    if (!out || !source) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_load: %s is NULL", out ? "source" : "out");
    if (options) RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_model_load"));
    RAMET__TRY(ramet__options(&s, sizeof s, source, "ramet_model_load"));
    if (s.kind == RAMET_SOURCE_PATH && s.path && ramet__path_kind(s.path) == 2) return ramet__model_load_hf(out, runtime, s.path, s.untrusted, &o);
    RAMET__TRY(ramet__reader_open(&reader, runtime->mem, &s));
    st = ramet__model_load_gguf(out, runtime, reader, &o);
    ramet__reader_free(reader);
    return st;
}

ramet_status ramet_model_load_path(ramet_model **out, ramet_runtime *runtime, const char *path) {
    ramet_source source;
    if (!path) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_load_path: path is NULL");
    ramet_source_from_path(&source, sizeof source, path);
    return ramet_model_load(out, runtime, &source, NULL);
}
