/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - read and write safetensors files (adapters, updates, briefs, checkpoints, Hugging Face weights). */
#ifndef RAMET__SAFETENSORS_H
#define RAMET__SAFETENSORS_H
#include "base/file.h"
#include "tensor/tensor.h"

typedef enum { RAMET__ST_F32, RAMET__ST_F16, RAMET__ST_BF16, RAMET__ST_I32, RAMET__ST_I64, RAMET__ST_U8, RAMET__ST_I8, RAMET__ST_OTHER } ramet__st_dtype;
typedef struct ramet__st_tensor {
    const char *name;
    ramet__st_dtype dtype;
    const char *dtype_name;
    int32_t rank; int64_t dim[8];
    uint64_t offset;   /* absolute, in the file */
    uint64_t bytes;
} ramet__st_tensor;
typedef struct ramet__safetensors {
    ramet__arena arena;
    ramet__reader *reader;
    int64_t n_meta; const char **meta_key; const char **meta_value; /* __metadata__, file order */
    int64_t n_tensors; ramet__st_tensor *tensors;                   /* sorted by offset */
} ramet__safetensors;

ramet_status ramet__safetensors_open(ramet__safetensors **out, ramet__mem *mem, ramet__reader *reader); /* retains reader */
void ramet__safetensors_free(ramet__safetensors *st);
const ramet__st_tensor *ramet__safetensors_find(const ramet__safetensors *st, const char *name);
const char *ramet__safetensors_meta(const ramet__safetensors *st, const char *key); /* NULL: absent */
/* Read a tensor whole; size must equal its bytes. */
ramet_status ramet__safetensors_read(const ramet__safetensors *st, const ramet__st_tensor *t, void *dst, uint64_t size);

/* Writing: declare metadata and tensors, then give the bytes in the order declared. */
typedef struct ramet__st_writer ramet__st_writer;
ramet_status ramet__st_writer_open(ramet__st_writer **out, ramet__mem *mem, const char *path);
ramet_status ramet__st_meta(ramet__st_writer *w, const char *key, const char *value); /* copied */
ramet_status ramet__st_declare(ramet__st_writer *w, const char *name, ramet__st_dtype dtype, int32_t rank, const int64_t *dim);
ramet_status ramet__st_data(ramet__st_writer *w, const void *bytes, uint64_t size);
ramet_status ramet__st_writer_commit(ramet__st_writer **w);
void ramet__st_writer_drop(ramet__st_writer **w);
#endif
