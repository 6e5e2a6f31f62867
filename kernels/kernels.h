/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.h - the table of kernels that one ISA level gives, and the packings of weights they read.
 *
 * A kernel is one function for one operation, type and ISA: pointers, sizes and strides only. No allocation, threads,
 * logging or graph here. kernels/ref is the definition; kernels/simd is written once over SIMDe; kernels/x86_* where it
 * pays. registry.def has one line per kernel and generates declaration, dispatch, test and benchmark.
 * Strides count elements, not bytes. "exact" functions give a row the same bits whatever rows stand beside it.
 */
#ifndef RAMET__KERNELS_H
#define RAMET__KERNELS_H
#include <stddef.h>
#include <stdint.h>

/* ---- packings and products ----------------------------------------------------------------------------------------
 * A weight W [n outputs, k inputs] in some encoding is packed once; a packing has readers for one row of activations, for
 * many, for the transposed product, and back to numbers. in_place packings read the encoded rows as they are in the file
 * (bytes() is 0, pack is NULL, `packed` is the rows themselves). All readers take panel ranges that are multiples of
 * n_block (forward) or k_block (transposed), except that the last range may end at n or k. */
typedef struct ramet__packing {
    char name[12];            /* "rows", "panel16", "tile16x64"; names stand inside: a pointer to each would cost more */
    char encoding[12];        /* "Q4_0": the encoding of the source rows */
    int32_t n_block, k_block; /* ranges given to readers are multiples of these */
    int32_t in_place;
    uint64_t (*bytes)(int64_t n, int64_t k);                                   /* of the packed form */
    void (*pack)(void *packed, const void *rows, int64_t n, int64_t k, int64_t n0, int64_t n1);   /* rows n0..n1 of the source; ranges may be packed in parallel */
    void (*unpack)(void *rows, const void *packed, int64_t n, int64_t k, int64_t n0, int64_t n1); /* back to encoded rows, bit-exact */
    void (*decode)(float *dst, const void *packed, int64_t n, int64_t k, int64_t row);            /* one row of W as k floats (embedding) */
} ramet__packing;

/* y[m, n0..n1) = x[m,k] . W[n0..n1, k]^T (+ bias) (+ y when accumulate).   */
typedef struct ramet__product_args {
    int64_t m, n, k;          /* whole sizes; m rows of activations are done */
    int64_t from, to;         /* forward: outputs n0..n1; transposed: inputs k0..k1 */
    const void *x;            /* forward: m activations prepared by `prepare` (x_stride bytes apart); transposed: dy floats */
    int64_t x_stride;         /* forward: bytes between prepared rows; transposed: floats between rows of dy, bytes when rounded */
    int32_t rounded;          /* transposed: x are rows that `round` made */
    const void *packed;
    float *y; int64_t y_stride; /* forward: y[m,n]; transposed: dx[m,k]; column 0 is column 0 of the whole */
    const float *bias;        /* forward: n floats or NULL */
    int32_t accumulate;       /* add to what y holds */
    void *scratch;            /* `scratch` bytes, 64-aligned, private to the call */
} ramet__product_args;

/* What a product does to numbers. Exact: fp32 throughout, fixed order of sums over k. Brain: activations and weights in bf16, fp32 sums; or in int16 by blocks.
 * Reduced: what is fastest, int8 activations where weights are quantized. */
enum { RAMET__REDUCED, RAMET__EXACT, RAMET__BRAIN };

/* int8 products round a block of activations twice when its largest value's square exceeds so many mean squares of its row; in mode fast, none. */
#define RAMET__STANDS_OUT 20

/* What the products of one arithmetic over one layout of weights share, whatever the encoding. */
/* What a call should be given at most, for the caches' sake: rows of activations and outputs (back: inputs), of outer rows and columns of c. The more rows,
 * the less often weights are decoded, the more columns, the less often what rows need is done. */
typedef struct ramet__piece { int32_t rows, cols; } ramet__piece;
enum { RAMET__FORWARD, RAMET__BACK, RAMET__OUTER };

static inline uint64_t ramet__rounded_bytes(int64_t n) { return (uint64_t)((n + 31) / 32 * 68); } /* 16 bits each, and a scale */
typedef struct ramet__scheme {
    char name[20];            /* "panel16_int8" */
    int32_t arithmetic;       /* RAMET__REDUCED, RAMET__EXACT or RAMET__BRAIN */
    uint64_t (*prepared_bytes)(int64_t k);                       /* of one prepared row of activations, a multiple of 64 */
    void (*prepare)(void *dst, const float *x, int64_t k);       /* one row: copy, round to bf16, quantize by blocks ... */
    uint64_t (*scratch_bytes)(int64_t m, int64_t n, int64_t k);  /* for one call with at most m rows, either direction */
    ramet__piece piece[3];    /* RAMET__FORWARD, RAMET__BACK, RAMET__OUTER */
    /* c[m,n] = a[k,m]^T b[k,n] (+ c) in its arithmetic, as gemm_tn; scratch: of any call of the others; rounded: rows of b are what `round` makes, in place of
     * their floats. NULL: it has none. */
    void (*outer)(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, int32_t accumulate, int32_t rounded, void *scratch);
    /* A row of dy as transposed would round it each time it is asked: up to ramet__rounded_bytes(n), also in place of its floats. NULL: it does not round. */
    void (*round)(uint16_t *dst, const float *dy, int64_t n);
    void (*prepare_fast)(void *dst, const float *x, int64_t k);  /* coarser than prepare, for mode fast, read by the same forward. NULL: there is none. */
    int32_t rounds;           /* a prepared row is what `round` makes, filled with zeros to 64 bytes */
} ramet__scheme;

/* One way to multiply: a scheme and a packing. */
typedef struct ramet__product {
    const ramet__scheme *scheme;
    const ramet__packing *packing;
    void (*forward)(const ramet__product_args *a);    /* any m >= 1: switches inside between one row and many */
    void (*transposed)(const ramet__product_args *a); /* dx[m, k0..k1) = dy[m,n] . W[n, k0..k1) */
} ramet__product;

enum { RAMET__KV_ROWS, RAMET__KV_CACHE, RAMET__KV_CACHE_F16, RAMET__KV_CACHE_INT8 }; /* how attention finds keys and values */
static inline uint64_t ramet__kv_scales(int64_t numbers) { return ((uint64_t)numbers + 3) / 4 * 4; } /* where the scales stand behind so many int8 */

typedef void ramet__attention_fn(float *o, int64_t o_row, float *lse, int64_t lse_row, const float *q, int64_t q_row, int64_t rows, int64_t group,
    int64_t hd, const void *const *k_block, const void *const *v_block, int32_t layout, int64_t kv_row, int64_t block,
    const int32_t *limit, float scale, void *scratch);
typedef void ramet__attention_grad_fn(float *dq, float *dk, float *dv, const float *q, const float *k, const float *v, const float *o, const float *d_o,
    const float *lse, int64_t lse_row, int64_t q_row, int64_t kv_row, int64_t rows, int64_t group, int64_t hd,
    int32_t causal, float scale, void *scratch);

/* ---- the table ------------------------------------------------------------------------------------------------- */
/* Transforms of a convolution by minimal filtering (Winograd), a tile of 6 x 6 of the image for m x m results (Lavin & Gray 2016): B^T of an image's tile; B, added to the gradient of the image; A of
 * 2 x 2 or 4 x 4 gradients of results; A^T, to so many results. */
enum { RAMET__WINOGRAD_IMAGE, RAMET__WINOGRAD_BACK, RAMET__WINOGRAD_SPREAD2, RAMET__WINOGRAD_SPREAD4, RAMET__WINOGRAD_RESULT2, RAMET__WINOGRAD_RESULT4 };

typedef struct ramet__kernels {
    const char *isa;          /* "ref", "simd", "avx2", "avx512", "amx" ... */

    /* y = a + b; y = a * b; y += s * x; y = s * x; sums in double-free fixed order of 16 lanes */
    void (*add)(float *y, const float *a, const float *b, int64_t n);
    void (*mul)(float *y, const float *a, const float *b, int64_t n);
    void (*axpy)(float *y, float s, const float *x, int64_t n);
    void (*scale)(float *y, float s, const float *x, int64_t n);
    void (*to_half)(uint16_t *y, const float *x, int64_t n);      /* IEEE half, nearest even; beyond 65504: infinity */
    float (*dot)(const float *a, const float *b, int64_t n);
    float (*sum)(const float *x, int64_t n);
    float (*max)(const float *x, int64_t n);
    double (*sumsq)(const float *x, int64_t n);
    int32_t (*finite)(const float *x, int64_t n);                 /* 1 when no NaN or infinity */

    /* y = x / rms(x) * w.  grad: dx (+= when accumulate); dw += dy * x / rms (dw may be NULL) */
    void (*rms_norm)(float *y, const float *x, const float *w, int64_t n, float eps);
    void (*rms_norm_grad)(float *dx, float *dw, const float *x, const float *w, const float *dy, int64_t n, float eps);

    /* y = (x - mean) / sqrt(variance + eps) * w + b */
    void (*layer_norm)(float *y, const float *x, const float *w, const float *b, int64_t n, float eps);

    /* y = x * the normal distribution's Phi(x), with an absolute error of 4e-7 |x| (the form with erf); grad: dx */
    void (*gelu)(float *y, const float *x, int64_t n);
    void (*gelu_grad)(float *dx, const float *x, const float *dy, int64_t n);

    /* y = x where not negative, else 0; dx = dy where x > 0, else 0 */
    void (*relu)(float *y, const float *x, int64_t n);
    void (*relu_grad)(float *dx, const float *x, const float *dy, int64_t n);

    /* `windows` of n channels, `step` apart, element i of window part t at at[t] + i: y[windows, n] = v where x is largest, the first among equals. And dy back
     * to there: added, or (add 0) with zeros in the window's other parts; positive: only where x is above zero. */
    void (*max_pick)(float *y, const float *x, const float *v, const int64_t *at, int64_t count, int64_t n, int64_t windows, int64_t step);
    void (*max_place)(float *dx, const float *x, const float *dy, const int64_t *at, int64_t count, int64_t n, int64_t windows, int64_t step, int32_t add, int32_t positive);

    /* One line of a convolution, channels last: y[m,n] = bias (or NULL) + sum over kernel lines l and depth d (kernel width x channels) of
     * x[i * x_row + l * x_line + d] w[l * depth + d, n]. And back, over image lines l and i < m: dx[l * x_line + i * x_row + d] += sum over o < n of
     * dy[l * m + i, o] w[o * ldw + d], lines being apart from one another; dw[depth, n] (+)= sum of x[l * x_line + i * x_row + d] dy[l * m + i, n].
     * 32 floats after w, and after dy of conv_dw, must be readable. */
    void (*conv_row)(float *y, const float *x, int64_t x_row, int64_t x_line, const float *w, int64_t lines, int64_t depth, const float *bias, int64_t m, int64_t n);
    void (*conv_dx)(float *dx, int64_t x_row, int64_t x_line, const float *dy, const float *w, int64_t ldw, int64_t lines, int64_t m, int64_t n, int64_t depth);
    void (*conv_dw)(float *dw, const float *x, int64_t x_row, int64_t x_line, const float *dy, int64_t lines, int64_t m, int64_t n, int64_t depth, int32_t accumulate);

    /* y = T x T^T of one tile for each of n channels, a multiple of 8, T being what `kind` says; RESULT: + bias, or NULL. Lines and neighbours lie so many floats apart.
     * NULL where vectors are not of registers. */
    void (*winograd)(int32_t kind, float *y, int64_t y_line, int64_t y_step, const float *x, int64_t x_line, int64_t x_step, const float *bias, int64_t n);

    /* Convolution in bf16 with fp32 sums, NULL where the CPU has no such product. Pairs of two bf16 stand in place of floats, the one that lies further
     * on in the sum in the upper half; b NULL: zeros. conv_row: x[t] with x[t + 1], w by kernel line [(depth + 1) / 2, n]. conv_dx: dy[t] with dy[t + 1],
     * w [(n + 1) / 2, ldw]. conv_dw: x[t] with x[t + x_row], dy by line [(m + 1) / 2, n]. Counts are those of numbers, not of pairs. */
    void (*pairs)(float *y, const float *a, const float *b, int64_t n);
    void (*conv_row_pairs)(float *y, const float *x, int64_t x_row, int64_t x_line, const float *w, int64_t lines, int64_t depth, const float *bias, int64_t m, int64_t n);
    void (*conv_dx_pairs)(float *dx, int64_t x_row, int64_t x_line, const float *dy, const float *w, int64_t ldw, int64_t lines, int64_t m, int64_t n, int64_t depth);
    void (*conv_dw_pairs)(float *dw, const float *x, int64_t x_row, int64_t x_line, const float *dy, int64_t lines, int64_t m, int64_t n, int64_t depth, int32_t accumulate);

    /* y = silu(g) * u; grad: dg, du */
    void (*silu)(float *y, const float *x, int64_t n);
    void (*silu_grad)(float *dx, const float *x, const float *dy, int64_t n);
    void (*swiglu)(float *y, const float *g, const float *u, int64_t n);
    void (*swiglu_grad)(float *dg, float *du, const float *g, const float *u, const float *dy, int64_t n);

    /* Rotate pairs of one row in place: heads x head_dim, the first `rot` of each head. pair j is (2j, 2j+1), or (j, j+rot/2)
     * when `halves`. cs: cos,sin for each pair at this position; sign -1 undoes the rotation (the gradient). */
    void (*rope)(float *x, int64_t heads, int64_t head_dim, int64_t rot, const float *cs, float sign, int32_t halves);

    /* softmax family over one row */
    void (*softmax)(float *y, const float *x, int64_t n);
    float (*logsumexp)(const float *x, int64_t n);
    /* x := exp(x - lse) * s, then x[label] -= s (label < 0: no subtraction): gradient of cross-entropy in place */
    void (*softmax_minus_onehot)(float *x, float lse, int64_t label, float s, int64_t n);

    /* Attention of `rows` queries of one kv head's group against keys 0..len-1 in blocks (inference) or flat rows (training).
     * q: [rows, group, hd] strides q_row (between rows) and hd between heads of the group; o likewise with o_row.
     * limit[r]: keys 0..limit[r]-1 are visible to row r. k_block[b], v_block[b]: `block` consecutive keys and values as `layout` says:
     * KV_ROWS: floats, a key every kv_row. KV_CACHE: floats, keys turned over [hd, block], values [block, hd]; KV_CACHE_F16: the same in
     * halves (kv_row unused); KV_CACHE_INT8: in int8, a key's or value's scale among `block` floats at ramet__kv_scales(block * hd). lse: [rows, group] (stride lse_row), may be NULL.
     * exact: each row's result is independent of the others in the call. scratch: attention_scratch(rows, group, hd, block) bytes. */
    ramet__attention_fn *attention;
    /* Gradient for one kv head of one segment of `rows` rows; causal: row r sees keys 0..r, else all. dq, dk, dv are written (not added);
     * q, o, do, dq: [rows, group, hd] with stride q_row; k, v, dk, dv: [rows, hd] with stride kv_row; lse: [rows, group], lse_row. */
    ramet__attention_grad_fn *attention_grad;
    uint64_t (*attention_scratch)(int64_t rows, int64_t group, int64_t hd, int64_t block);
    uint64_t (*attention_grad_scratch)(int64_t rows, int64_t group, int64_t hd);
    /* The same with every product in bf16 and fp32 sums; NULL where they are not there or not faster. */
    ramet__attention_fn *attention_brain;
    ramet__attention_grad_fn *attention_grad_brain;
    uint64_t (*attention_brain_scratch)(int64_t rows, int64_t group, int64_t hd, int64_t block);
    uint64_t (*attention_grad_brain_scratch)(int64_t rows, int64_t group, int64_t hd);

    /* General fp32 products, row-major with strides, fixed order of sums over k, c += alpha * a.b when accumulate else =.
     * nt: c[m,n] = a[m,k] b[n,k]^T;  nn: c[m,n] = a[m,k] b[k,n];  tn: c[m,n] = a[k,m]^T b[k,n] */
    void (*gemm_nt)(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, float alpha, int32_t accumulate);
    void (*gemm_nn)(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, float alpha, int32_t accumulate);
    void (*gemm_tn)(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, float alpha, int32_t accumulate);

    /* AdamW (Loshchilov & Hutter 2019), decoupled decay, on n parameters: g is scaled by g_scale first (clipping, averaging) and zeroed after.
     * c1 = 1/(1-beta1^t), c2 = 1/(1-beta2^t). */
    void (*adamw)(float *p, float *m, float *v, float *g, int64_t n, float lr, float beta1, float beta2, float eps, float decay, float c1, float c2, float g_scale);

    int32_t brain_rows; /* from so many rows on, its products in bf16 or int16 are faster than the reduced ones; 0: never */
    uint32_t table; /* which products it has: ramet__kernels_products */
} ramet__kernels;

/* The table for a level (RAMET_ISA_* number) and the CPU flags allowed there (RAMET__CPU_*). Static storage. Levels not built: the next lower. */
const ramet__kernels *ramet__kernels_get(int32_t isa, uint32_t cpu);
/* The best product for an encoding in the wanted arithmetic; brain falls back to reduced, reduced to exact. Never NULL for an encoding
 * that ref has. The answers for one encoding share one packing, so one packed copy serves all. */
const ramet__product *ramet__kernels_product(const ramet__kernels *k, const char *encoding, int32_t arithmetic);
/* All products of a table, best first: begin with *i = 0; NULL after the last. */
const ramet__product *ramet__kernels_products(const ramet__kernels *k, int32_t *i);
/* For ramet_list("kernels", i): name "avx512/linear/Q4_0/panel16/exact", detail; 0 when i is past the end. */
int32_t ramet__kernels_list(int32_t i, const char **name, const char **detail);
#endif
