/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - read and write safetensors files (adapters, updates, briefs, checkpoints, Hugging Face weights). */
#ifndef RAMET__SAFETENSORS_H
#define RAMET__SAFETENSORS_H
#include "base/file.h"
#include "format/index.h"
#include "tensor/tensor.h"

/* Limits of this library: a longer header is E_FORMAT (the format's own limit), more tensors or dimensions E_LIMIT. */
#define RAMET__ST_MAX_HEADER 100000000
#define RAMET__ST_MAX_TENSORS 1000000
#define RAMET__ST_MAX_RANK 8

typedef enum { RAMET__ST_F32, RAMET__ST_F16, RAMET__ST_BF16, RAMET__ST_I32, RAMET__ST_I64, RAMET__ST_U8, RAMET__ST_I8, RAMET__ST_OTHER } ramet__st_dtype;
typedef struct ramet__st_tensor {
    const char *name;
    ramet__st_dtype dtype;
    const char *dtype_name;
    int32_t rank; int64_t dim[RAMET__ST_MAX_RANK];
    uint64_t offset;   /* absolute, in the file */
    uint64_t bytes;
} ramet__st_tensor;
typedef struct ramet__safetensors {
    ramet__arena arena;
    ramet__reader *reader;
    int64_t n_meta; const char **meta_key; const char **meta_value; /* __metadata__, file order */
    int64_t n_tensors; ramet__st_tensor *tensors;                   /* sorted by offset */
    ramet__index index, meta_index;
} ramet__safetensors;

/* Read the header; retains the reader. Tensor data is not touched, but every byte of the file is accounted for: tensors cover the data
 * without gap, overlap or rest. Errors: E_FORMAT (offset in the message), E_LIMIT, E_UNSUPPORTED (a dtype that the format lacks), E_IO,
 * E_MEMORY, E_BUDGET. */
ramet_status ramet__safetensors_open(ramet__safetensors **out, ramet__mem *mem, ramet__reader *reader);
void ramet__safetensors_free(ramet__safetensors *st);
const ramet__st_tensor *ramet__safetensors_find(const ramet__safetensors *st, const char *name);
const char *ramet__safetensors_meta(const ramet__safetensors *st, const char *key); /* NULL: absent */
/* Read a tensor whole; size must equal its bytes. */
ramet_status ramet__safetensors_read(const ramet__safetensors *st, const ramet__st_tensor *t, void *dst, uint64_t size);

/* Bytes an element and the name in files; 0 for OTHER. `name` may be NULL. */
int32_t ramet__st_dtype_bytes(ramet__st_dtype dtype, const char **name);

/* Writing: declare metadata and tensors, then give the bytes in the order declared. path NULL: into memory, to be taken, not committed. */
typedef struct ramet__st_writer ramet__st_writer;
ramet_status ramet__st_writer_open(ramet__st_writer **out, ramet__mem *mem, const char *path);
ramet_status ramet__st_meta(ramet__st_writer *w, const char *key, const char *value); /* copied; a key put twice is E_ARGUMENT on the first data */
ramet_status ramet__st_declare(ramet__st_writer *w, const char *name, ramet__st_dtype dtype, int32_t rank, const int64_t *dim);
ramet_status ramet__st_data(ramet__st_writer *w, const void *bytes, uint64_t size); /* the next declared tensor, whole or in parts */
ramet_status ramet__st_writer_commit(ramet__st_writer **w); /* frees; all or nothing; E_STATE when bytes are missing */
ramet_status ramet__st_writer_take(void **data, uint64_t *size, ramet__st_writer **w); /* frees the writer; the caller the data */
void ramet__st_writer_drop(ramet__st_writer **w);
#endif
