/* SPDX-License-Identifier: Apache-2.0 */
/* instructions.c - y[m, n] = x[m, k] . W[n, k]^T, done `times` times on one thread, for instructions.py to count: by this library's kernels,
 * or with -DPEER by ggml's. Activations are prepared each time. One block of 32 activations in eight stands out of its row.
 * instructions LEVEL ENCODING M N K TIMES */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 1;
static uint32_t next(void) { return (uint32_t)((state = state * UINT64_C(6364136223846793005) + 1) >> 33); }
static void *bytes(size_t n) {
    void *p = NULL;
    if (posix_memalign(&p, 64, (n + 63) / 64 * 64)) exit(1);
    memset(p, 0, n);
    return p;
}
static float *activations(int64_t m, int64_t k) {
    float *x = bytes((size_t)(m * k) * 4);
    for (int64_t i = 0; i < m * k; i++) x[i] = ((float)(next() % 2001) / 1000.0f - 1.0f) * (i % 256 == 5 ? 20.0f : 1.0f);
    return x;
}
/* Blocks of 32 with a half first, or two of them */
static uint8_t *weights(int64_t size, int64_t block, int minimum) {
    uint8_t *w = bytes((size_t)size);
    for (int64_t i = 0; i < size; i++) w[i] = (uint8_t)next();
    for (int64_t i = 0; i < size; i += block) memcpy(w + i, "\x00\x2c\x00\x24", minimum ? 4 : 2);
    return w;
}

#ifdef PEER
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    const int64_t m = atoll(argv[3]), n = atoll(argv[4]), k = atoll(argv[5]), times = atoll(argv[6]);
    const enum ggml_type type = !strcmp(argv[2], "Q4_0") ? GGML_TYPE_Q4_0 : !strcmp(argv[2], "Q4_1") ? GGML_TYPE_Q4_1 : GGML_TYPE_Q8_0;
    struct ggml_init_params params = {1 << 20, NULL, 1};
    struct ggml_context *c = ggml_init(params), *d = ggml_init(params);
    struct ggml_tensor *w = ggml_new_tensor_2d(c, type, k, n), *x = ggml_new_tensor_2d(d, GGML_TYPE_F32, k, m), *y = ggml_mul_mat(d, w, x);
    struct ggml_cgraph *g = ggml_new_graph(d);
    ggml_build_forward_expand(g, y);
    ggml_backend_t backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(backend, 1);
    /* As llama.cpp loads weights: repacked where there is a form for it */
    ggml_backend_dev_get_extra_bufts_t extra = (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(ggml_backend_cpu_reg(), "ggml_backend_dev_get_extra_bufts");
    ggml_backend_buffer_t at = ggml_backend_alloc_ctx_tensors_from_buft(c, extra(ggml_backend_get_device(backend))[0]);
    const int repacked = w->extra != NULL;
    if (!repacked) {
        ggml_backend_buffer_free(at);
        w->buffer = NULL;
        w->data = NULL;
        ggml_backend_alloc_ctx_tensors(c, backend);
    }
    ggml_backend_alloc_ctx_tensors(d, backend);
    ggml_backend_tensor_set(w, weights((int64_t)ggml_nbytes(w), (int64_t)ggml_type_size(type), type == GGML_TYPE_Q4_1), 0, ggml_nbytes(w));
    ggml_backend_tensor_set(x, activations(m, k), 0, ggml_nbytes(x));
    for (int64_t i = 0; i < times; i++)
        if (ggml_backend_graph_compute(backend, g) != GGML_STATUS_SUCCESS) return 1;
    printf("%d %g\n", repacked, (double)ggml_get_data_f32(y)[m * n - 1]);
    return 0;
}
#else
#include "base/cpu.h"
#include "kernels.h"

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    const int32_t isa = ramet__cpu_isa_from_name(argv[1]);
    const int64_t m = atoll(argv[3]), n = atoll(argv[4]), k = atoll(argv[5]), times = atoll(argv[6]), block = !strcmp(argv[2], "Q4_0") ? 18 : !strcmp(argv[2], "Q4_1") ? 20 : 34;
    if (ramet__cpu_reach(ramet__cpu_detect(), isa) != isa) return fprintf(stderr, "instructions: this CPU has no %s\n", argv[1]), 1;
    const ramet__product *p = ramet__kernels_product(ramet__kernels_get(isa, ramet__cpu_mask(ramet__cpu_detect(), isa)), argv[2], RAMET__REDUCED);
    const uint64_t row = p->scheme->prepared_bytes(k);
    void *packed = bytes((size_t)p->packing->bytes(n, k)), *prepared = bytes((size_t)(row * (uint64_t)m));
    p->packing->pack(packed, weights(n * k / 32 * block, block, block == 20), n, k, 0, n);
    float *x = activations(m, k), *y = bytes((size_t)(m * n) * 4);
    const ramet__product_args a = {.m = m, .n = n, .k = k, .to = n, .x = prepared, .x_stride = (int64_t)row, .packed = packed, .y = y, .y_stride = n, .scratch = bytes((size_t)p->scheme->scratch_bytes(m, n, k))};
    for (int64_t i = 0; i < times; i++) {
        for (int64_t r = 0; r < m; r++) p->scheme->prepare((uint8_t *)prepared + row * (uint64_t)r, x + r * k, k);
        p->forward(&a);
    }
    printf("1 %g\n", (double)y[m * n - 1]);
    return 0;
}
#endif
