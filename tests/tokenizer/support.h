/* SPDX-License-Identifier: Apache-2.0 */
/* support.h - for the tests of this folder: a tokenizer from a GGUF file or from its bytes. */
#ifndef TOKENIZER_SUPPORT_H
#define TOKENIZER_SUPPORT_H
#include "base/file.h"
#include "tokenizer/tokenizer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static inline ramet_status try_gguf(ramet__tokenizer **t, ramet__mem *mem, const ramet_source *source) {
    ramet__reader *reader;
    ramet__gguf *gguf;
    RAMET__TRY(ramet__reader_open(&reader, mem, source));
    ramet_status st = ramet__gguf_open(&gguf, mem, reader);
    ramet__reader_free(reader);
    if (st) return st;
    st = ramet__tokenizer_from_gguf(t, mem, gguf);
    ramet__gguf_free(gguf);
    return st;
}

static inline ramet__tokenizer *load_gguf(ramet__mem *mem, const char *path) {
    ramet_source source;
    ramet__tokenizer *t = NULL;
    assert_non_null(path);
    ramet_source_from_path(&source, sizeof(source), path);
    if (try_gguf(&t, mem, &source)) fail_msg("%s: %s", path, ramet_last_error());
    return t;
}
#endif
