/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.h - GGUF v3 files: metadata and tensors, read with every field checked, and written so that llama.cpp loads them.
 * Layout facts: the ggml project's docs/gguf.md. Used by model/, adapter, info. */
#ifndef RAMET__GGUF_H
#define RAMET__GGUF_H
#include "base/file.h"
#include "format/index.h"
#include "tensor/tensor.h"

typedef enum { /* numbers as in the file */
    RAMET__GGUF_U8, RAMET__GGUF_I8, RAMET__GGUF_U16, RAMET__GGUF_I16, RAMET__GGUF_U32, RAMET__GGUF_I32, RAMET__GGUF_F32,
    RAMET__GGUF_BOOL, RAMET__GGUF_STRING, RAMET__GGUF_ARRAY, RAMET__GGUF_U64, RAMET__GGUF_I64, RAMET__GGUF_F64
} ramet__gguf_type;

int32_t ramet__gguf_type_bytes(ramet__gguf_type type); /* of one number or bool; 0 for STRING and ARRAY */

typedef struct ramet__gguf_string { const char *text; uint64_t len; } ramet__gguf_string; /* NUL added after len */
typedef struct ramet__gguf_value {
    ramet__gguf_type type;         /* ARRAY: element type in `element` */
    ramet__gguf_type element;
    uint64_t count;                /* array elements; 1 otherwise */
    union { uint64_t u; int64_t i; double f; ramet__gguf_string s; const void *array; /* numbers packed as in the file; STRING: ramet__gguf_string[count] */ } v;
} ramet__gguf_value;
typedef struct ramet__gguf_kv { const char *key; ramet__gguf_value value; } ramet__gguf_kv;
typedef struct ramet__gguf_tensor {
    const char *name;
    ramet__shape shape;            /* slowest first */
    ramet__enc enc;
    uint64_t offset;               /* absolute, in the file */
    uint64_t bytes;
} ramet__gguf_tensor;

typedef struct ramet__gguf { /* a read file; all memory in the arena; freed by ramet__gguf_free */
    ramet__arena arena;
    ramet__reader *reader;
    int64_t n_kv; ramet__gguf_kv *kv;
    int64_t n_tensors; ramet__gguf_tensor *tensors; /* file order */
    uint32_t alignment;
    ramet__index kv_index, tensor_index;
} ramet__gguf;

/* Limits of this library: beyond them E_LIMIT. */
#define RAMET__GGUF_MAX_KV 65536
#define RAMET__GGUF_MAX_TENSORS 131072

/* Read the whole header; retains the reader. Tensor data is not touched, but every byte of the file is accounted for: tensors lie
 * in file order, aligned, without gap, overlap or rest. Errors: E_FORMAT (offset in the message), E_LIMIT, E_UNSUPPORTED (version,
 * nested array, an encoding this build lacks: the message names tensor and encoding), E_IO, E_MEMORY, E_BUDGET. */
ramet_status ramet__gguf_open(ramet__gguf **out, ramet__mem *mem, ramet__reader *reader);
void ramet__gguf_free(ramet__gguf *gguf);
const ramet__gguf_value *ramet__gguf_find(const ramet__gguf *gguf, const char *key); /* log n; NULL: absent */
const ramet__gguf_tensor *ramet__gguf_tensor_find(const ramet__gguf *gguf, const char *name);
/* Getters by key: absent gives the fallback; a wrong type is E_FORMAT naming the key. Integers of any width convert if they fit. */
ramet_status ramet__gguf_i64(int64_t *out, const ramet__gguf *gguf, const char *key, int64_t fallback);
ramet_status ramet__gguf_f64(double *out, const ramet__gguf *gguf, const char *key, double fallback);
ramet_status ramet__gguf_text(const char **out, const ramet__gguf *gguf, const char *key, const char *fallback);

/* Writing: declare everything, then give tensors' bytes in the order declared. */
typedef struct ramet__gguf_writer ramet__gguf_writer;
ramet_status ramet__gguf_writer_open(ramet__gguf_writer **out, ramet__mem *mem, const char *path);
ramet_status ramet__gguf_put(ramet__gguf_writer *w, const char *key, const ramet__gguf_value *value); /* replaces an equal key, keeps its place */
ramet_status ramet__gguf_put_u32(ramet__gguf_writer *w, const char *key, uint32_t value);
ramet_status ramet__gguf_put_i64(ramet__gguf_writer *w, const char *key, int64_t value);
ramet_status ramet__gguf_put_f32(ramet__gguf_writer *w, const char *key, float value);
ramet_status ramet__gguf_put_bool(ramet__gguf_writer *w, const char *key, int32_t value);
ramet_status ramet__gguf_put_text(ramet__gguf_writer *w, const char *key, const char *text, size_t len);
ramet_status ramet__gguf_put_array(ramet__gguf_writer *w, const char *key, ramet__gguf_type element, uint64_t count, const void *array);
ramet_status ramet__gguf_declare(ramet__gguf_writer *w, const char *name, const ramet__shape *shape, ramet__enc enc);
ramet_status ramet__gguf_data(ramet__gguf_writer *w, const void *bytes, uint64_t size); /* the next declared tensor, whole or in parts */
ramet_status ramet__gguf_writer_commit(ramet__gguf_writer **w); /* frees; all or nothing */
void ramet__gguf_writer_drop(ramet__gguf_writer **w);
#endif
