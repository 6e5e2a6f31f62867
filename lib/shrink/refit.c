/* SPDX-License-Identifier: Apache-2.0 */
/* refit.c - what is left of a layer's FFN channels takes over what the removed ones did.
 *
 * With a the activations that enter the parent's ffn_down W on calibration text, C the sum of a a^T and K the channels that stay, the columns W' with
 * the least |W a - W' a_K|^2 + l |W' - W_K|^2 solve W' (C_KK + l I) = W C_.K + l W_K; l is a hundredth of the mean of C's diagonal. Ridge regression
 * layer by layer, by a Cholesky factor in blocks: n_ff^2 floats a layer, and n_ff^3 / 3 operations. */
#include "kernels.h"
#include "ramet/experimental.h"
#include "shrink/shrink.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK = 64, STRIPE = 192 };
#define GROUP_BYTES ((uint64_t)1 << 30) /* sums held at once; a larger model's text is read again for the next layers */

ramet_status ramet__calibration_check(ramet__calibration *text, const ramet_model *m, const char *call) {
    if (!text->ids || text->count < 1) return ramet__fail(RAMET_E_ARGUMENT, "%s: calibration tokens are needed (options.ids, options.count)", call);
    if (!text->window) text->window = (int32_t)RAMET__MIN(512, (int64_t)m->h.n_ctx);
    if (text->window < 2 || text->window > m->h.n_ctx) return ramet__fail(RAMET_E_ARGUMENT, "%s: window %d is not in 2..%lld", call, text->window, (long long)m->h.n_ctx);
    return RAMET_OK;
}

typedef struct refit {
    ramet_model *parent;
    const ramet__kernels *k;
    const ramet__lineage *map;
    int32_t first, count;   /* the group: layers of the variant */
    int64_t n_ff, kept, window, rows; /* rows: of the window that ran last */
    float *act;             /* [count, window, n_ff] */
    float *sums;            /* [count, n_ff, n_ff], the lower half */
    ramet__weight **down;   /* [map->n_layer] */
    ramet__choose_enc choose;
    void *user;
} refit;

static int32_t source_layer(const refit *f, int32_t i) { return f->map->layer ? f->map->layer[i] : i; }

static int32_t keep_act(const char *name, const float *values, int64_t rows, int64_t cols, void *user) {
    refit *f = user;
    int layer = 0, n = 0;
    if (sscanf(name, "blk.%d.%n", &layer, &n) != 1 || strcmp(name + n, "ffn_act")) return 0;
    for (int32_t i = 0; i < f->count; i++)
        if (source_layer(f, f->first + i) == layer) memcpy(f->act + i * f->window * f->n_ff, values, (size_t)rows * (size_t)cols * sizeof *values);
    f->rows = rows;
    return 0;
}

/* Rows STRIPE * s of one layer's sum, up to the diagonal. */
static ramet_status add_stripe(void *context, int64_t piece, int32_t worker) {
    refit *f = context;
    (void)worker;
    int64_t n = f->n_ff, stripes = (n + STRIPE - 1) / STRIPE, layer = piece / stripes, from = piece % stripes * STRIPE, to = RAMET__MIN(from + STRIPE, n);
    const float *a = f->act + layer * f->window * n;
    f->k->gemm_tn(f->sums + layer * n * n + from * n, n, a + from, n, a, n, to - from, to, f->rows, 1, 1);
    return RAMET_OK;
}

/* Lower factor of a [n, n] in place; 0 when a is not positive definite in floats. */
static int32_t factor(const ramet__kernels *k, float *a, int64_t n) {
    for (int64_t j = 0; j < n; j += BLOCK) {
        int64_t w = RAMET__MIN(BLOCK, n - j);
        if (j) k->gemm_nt(a + j * n + j, n, a + j * n, n, a + j * n, n, n - j, w, j, -1, 1);
        for (int64_t r = j; r < n; r++)
            for (int64_t c = j; c < j + w && c <= r; c++) {
                float s = a[r * n + c] - k->dot(a + r * n + j, a + c * n + j, c - j);
                if (r == c && !(s > 0)) return 0;
                a[r * n + c] = r == c ? sqrtf(s) : s / a[c * n + c];
            }
    }
    return 1;
}

/* x [m, n] := x (l l^T)^-1 */
static void solve(const ramet__kernels *k, float *x, int64_t m, const float *l, int64_t n) {
    for (int64_t j = 0; j < n; j += BLOCK) { /* y l^T = x */
        int64_t w = RAMET__MIN(BLOCK, n - j);
        if (j) k->gemm_nt(x + j, n, x, n, l + j * n, n, m, w, j, -1, 1);
        for (int64_t r = 0; r < m; r++)
            for (int64_t c = j; c < j + w; c++) x[r * n + c] = (x[r * n + c] - k->dot(x + r * n + j, l + c * n + j, c - j)) / l[c * n + c];
    }
    for (int64_t j = (n - 1) / BLOCK * BLOCK; j >= 0; j -= BLOCK) { /* x l = y */
        int64_t end = RAMET__MIN(j + BLOCK, n);
        if (end < n) k->gemm_nn(x + j, n, x + end, n, l + end * n + j, n, m, end - j, n - end, -1, 1);
        for (int64_t r = 0; r < m; r++)
            for (int64_t c = end - 1; c >= j; c--) {
                x[r * n + c] /= l[c * n + c];
                k->axpy(x + r * n + j, -x[r * n + c], l + c * n + j, c - j);
            }
    }
}

static ramet_status fit_layer(void *context, int64_t piece, int32_t worker) {
    refit *f = context;
    (void)worker;
    const int32_t layer = f->first + (int32_t)piece, *kept = f->map->ff + (int64_t)layer * f->kept;
    const int64_t n = f->n_ff, m = f->kept;
    char name[RAMET__NAME_MAX], source[RAMET__NAME_MAX];
    float *sum = f->sums + piece * n * n, *w = NULL, *all = NULL, *x = NULL, *a = NULL;
    ramet_status st;
    snprintf(name, sizeof name, "blk.%d.ffn_down.weight", layer);
    snprintf(source, sizeof source, "blk.%d.ffn_down.weight", source_layer(f, layer));
    const ramet__weight *src = ramet__model_weight(f->parent, source);
    const int64_t d = ramet__shape_rows(ramet__weight_shape(src));
    ramet__mem *mem = f->parent->rt->mem;
    RAMET__NEW(w, ramet__alloc(mem, (size_t)(d * n) * sizeof *w));
    RAMET__NEW(all, ramet__alloc(mem, (size_t)(d * n) * sizeof *all));
    RAMET__NEW(x, ramet__alloc(mem, (size_t)(d * m) * sizeof *x));
    RAMET__NEW(a, ramet__alloc(mem, (size_t)(m * m) * sizeof *a));
    double mean = 0;
    for (int64_t r = 0; r < n; r++) {
        mean += sum[r * n + r] / (double)n;
        for (int64_t c = 0; c < r; c++) sum[c * n + r] = sum[r * n + c];
    }
    const float ridge = (float)(mean * .01) + 1e-20f; /* a layer that never fires keeps its weights */
    for (int64_t r = 0; r < m; r++) {
        for (int64_t c = 0; c < m; c++) a[r * m + c] = sum[kept[r] * n + kept[c]];
        a[r * m + r] += ridge;
    }
    ramet__weight_decode(w, src, 0, d);
    f->k->gemm_nn(all, n, w, n, sum, n, d, n, n, 1, 0);
    for (int64_t r = 0; r < d; r++)
        for (int64_t c = 0; c < m; c++) x[r * m + c] = all[r * n + kept[c]] + ridge * w[r * n + kept[c]];
    if (!factor(f->k, a, m)) {
        st = ramet__fail(RAMET_E_NUMERIC, "%s: the activations of layer %d on the calibration text cannot be told apart; give more text", f->parent->name, source_layer(f, layer));
        goto out;
    }
    solve(f->k, x, d, a, m);
    const ramet__enc enc = ramet__enc_fit(ramet__encoding_to_write(f->choose(name, src, f->user)), m);
    const ramet__encoding *to = ramet__encoding_get(enc);
    const ramet__shape shape = {.rank = 2, .dim = {d, m}};
    RAMET__GO(ramet__weight_new(&f->down[layer], f->parent->rt, name, enc, &shape));
    uint8_t *rows = ramet__weight_mutable(f->down[layer]);
    for (int64_t r = 0; r < d; r++) to->encode(rows + (uint64_t)r * ramet__encoded_bytes(to, m), x + r * m, m);
out:
    ramet__free(w); ramet__free(all); ramet__free(x); ramet__free(a);
    return st;
}

ramet_status ramet__refit(ramet__weight **down, ramet_model *parent, const ramet__lineage *map, ramet__choose_enc choose, void *user, const ramet__calibration *text) {
    refit f = {.parent = parent, .k = parent->rt->kernels, .map = map, .n_ff = parent->h.n_ff, .kept = map->n_ff, .window = text->window, .down = down,
               .choose = choose, .user = user};
    const uint64_t a_layer = (uint64_t)(f.n_ff * (f.n_ff + f.window)) * sizeof(float);
    const int32_t group = (int32_t)RAMET__MAX(RAMET__MIN(GROUP_BYTES / a_layer, (uint64_t)map->n_layer), 1);
    const int64_t stripes = (f.n_ff + STRIPE - 1) / STRIPE;
    ramet_status st;
    RAMET__NEW(f.act, ramet__alloc(parent->rt->mem, (size_t)group * (size_t)(f.window * f.n_ff) * sizeof *f.act));
    RAMET__NEW(f.sums, ramet__alloc(parent->rt->mem, (size_t)group * (size_t)(f.n_ff * f.n_ff) * sizeof *f.sums));
    for (f.first = 0; f.first < map->n_layer; f.first += f.count) {
        f.count = RAMET__MIN(group, map->n_layer - f.first);
        memset(f.sums, 0, (size_t)f.count * (size_t)(f.n_ff * f.n_ff) * sizeof *f.sums);
        for (int64_t at = 0; at < text->count; at += f.window) {
            int64_t n = RAMET__MIN(f.window, text->count - at);
            RAMET__GO(ramet__progress(text->progress, text->progress_user, (f.first + (double)at / (double)text->count * f.count) / map->n_layer, "fitting what is left to what was there"));
            RAMET__GO(ramet_model_tap(parent, text->ids + at, n, "blk.", RAMET_MODE_BALANCED, keep_act, &f));
            RAMET__GO(ramet__parallel_for(parent->rt->threads, f.count * stripes, add_stripe, &f, NULL));
        }
        RAMET__GO(ramet__parallel_for(parent->rt->threads, f.count, fit_layer, &f, NULL));
    }
out:
    ramet__free(f.act);
    ramet__free(f.sums);
    return st;
}
