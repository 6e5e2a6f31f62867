/* SPDX-License-Identifier: Apache-2.0 */
/* tensor.h - encodings (how numbers lie in bytes) and shapes. encodings.def is the table; names are ggml's, for files. */
#ifndef RAMET__TENSOR_H
#define RAMET__TENSOR_H
#include "base/alloc.h"

/* Internal numbers: never written to a file. RAMET__ENC_F32 ... in the order of encodings.def. */
typedef enum {
#define RAMET__ENCODING(NAME, block, bytes, gguf_type, hf_dtype, summary) RAMET__ENC_##NAME,
#include "tensor/encodings.def"
#undef RAMET__ENCODING
    RAMET__ENC_COUNT
} ramet__enc;

typedef struct ramet__encoding {
    const char *name;        /* "Q4_0" */
    int32_t block;           /* elements a block */
    int32_t bytes;           /* bytes a block */
    int32_t gguf_type;       /* ggml_type in GGUF files, -1: none */
    const char *hf_dtype;    /* safetensors dtype, NULL: none */
    const char *summary;
    void (*decode)(float *dst, const void *src, int64_t n);   /* n a multiple of block; the definition of the format */
    void (*encode)(void *dst, const float *src, int64_t n);   /* round to nearest, as ggml's reference quantizer does; NULL: read only */
} ramet__encoding;

const ramet__encoding *ramet__encoding_get(ramet__enc enc);            /* never NULL for a valid number */
/* The encoding of that name to write tensors in. E_ARGUMENT: none has it; E_UNSUPPORTED: one that is only read. `what` begins the message. */
ramet_status ramet__encoding_named(ramet__enc *out, const char *name, const char *what);
/* What a changed tensor of this encoding is written in: itself, or Q8_0 for one that is only read. */
ramet__enc ramet__encoding_to_write(ramet__enc enc);
int32_t ramet__encoding_find(const char *name);                        /* case-insensitive; -1: none */
int32_t ramet__encoding_from_gguf(uint32_t type);                      /* -1: not supported */
int32_t ramet__encoding_from_hf(const char *dtype);                    /* -1: not supported */
/* Bytes of n elements; n must be a multiple of the block. */
static inline uint64_t ramet__encoded_bytes(const ramet__encoding *e, int64_t n) { return (uint64_t)(n / e->block) * (uint64_t)e->bytes; }

/* 1 when no value of n encoded ones is NaN or infinite (for blocks: no scale or minimum is). Reads scales only: cheap. */
int32_t ramet__encoded_finite(ramet__enc enc, const void *data, int64_t n);

#define RAMET__MAX_RANK 4
/* dim[0] is the slowest (rows), dim[rank-1] the contiguous one. A weight of linear is [N outputs, K inputs]. GGUF files list
 * them the other way round; format/gguf turns them. */
typedef struct ramet__shape { int32_t rank; int64_t dim[RAMET__MAX_RANK]; } ramet__shape;
static inline int64_t ramet__shape_count(const ramet__shape *s) { int64_t n = 1; for (int32_t i = 0; i < s->rank; i++) n *= s->dim[i]; return n; }
static inline int64_t ramet__shape_cols(const ramet__shape *s) { return s->rank ? s->dim[s->rank - 1] : 1; }
static inline int64_t ramet__shape_rows(const ramet__shape *s) { int64_t c = ramet__shape_cols(s); return c ? ramet__shape_count(s) / c : 0; }
int32_t ramet__shape_equal(const ramet__shape *a, const ramet__shape *b);
void ramet__shape_text(char text[96], const ramet__shape *s); /* "[576, 1536]" */
/* Rounding of single numbers, used by encodings and kernels' tests. */
float ramet__f16_to_f32(uint16_t h);
uint16_t ramet__f32_to_f16(float f); /* nearest even */
float ramet__bf16_to_f32(uint16_t h);
uint16_t ramet__f32_to_bf16(float f);
#endif
