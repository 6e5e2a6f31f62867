/* SPDX-License-Identifier: Apache-2.0 */
/* Variants of the tiny model: what quantizing, pruning, rebasing and lifting keep and change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "ramet/experimental.h"
#include "shrink/shrink.h"

static ramet_runtime *rt;
static ramet_model *tiny;
static int32_t calibration[512];

static void ok(ramet_status st) {
    if (st) fail_msg("%s: %s", ramet_status_name(st), ramet_last_error());
}

static int setup(void **state) {
    (void)state;
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 2;
    const char *path = getenv("RAMET_TINY_MODEL");
    if (!path || ramet_runtime_create(&rt, &o) || ramet_model_load_path(&tiny, rt, path)) return -1;
    for (int i = 0; i < 512; i++) calibration[i] = (int32_t)ramet__rng_below(7, 0, (uint64_t)i, (uint64_t)tiny->h.n_vocab);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    ramet_model_free(tiny);
    ramet_runtime_free(rt);
    return 0;
}

static ramet_model *pruned(int32_t layers, int64_t ffn) {
    ramet_prune_options o;
    ramet_model *m = NULL;
    ramet_prune_options_init(&o, sizeof o);
    o.layers = layers;
    o.ffn = ffn;
    o.ids = calibration;
    o.count = 512;
    o.window = 64;
    ok(ramet_prune(&m, tiny, &o));
    return m;
}

static float *decoded(const ramet_model *m, const char *name, int64_t *rows, int64_t *cols) {
    const ramet__weight *w = ramet__model_weight(m, name);
    assert_non_null(w);
    *rows = ramet__shape_rows(ramet__weight_shape(w));
    *cols = ramet__shape_cols(ramet__weight_shape(w));
    float *v = malloc((size_t)(*rows * *cols) * sizeof *v);
    ramet__weight_decode(v, w, 0, *rows);
    return v;
}

static void test_quantize_rounds_to_nearest_and_shares_the_rest(void **state) {
    (void)state;
    ramet_quantize_options o;
    ramet_model *q = NULL;
    ramet_quantize_options_init(&o, sizeof o);
    o.encoding = "Q8_0";
    ok(ramet_quantize(&q, tiny, &o));
    assert_ptr_equal(ramet__model_weight(q, "blk.0.attn_norm.weight"), ramet__model_weight(tiny, "blk.0.attn_norm.weight"));
    const ramet__weight *w = ramet__model_weight(q, "blk.1.ffn_up.weight");
    assert_int_equal(ramet__weight_enc(w), RAMET__ENC_Q8_0);
    int64_t rows, cols;
    float *a = decoded(tiny, "blk.1.ffn_up.weight", &rows, &cols), *b = decoded(q, "blk.1.ffn_up.weight", &rows, &cols);
    for (int64_t i = 0; i < rows * cols; i += 32) { /* Q8_0: half a step of max/127, and fp16 rounding of the scale on 127 steps */
        float max = 0;
        for (int k = 0; k < 32; k++) max = fmaxf(max, fabsf(a[i + k]));
        for (int k = 0; k < 32; k++) assert_true(fabsf(a[i + k] - b[i + k]) <= max / 127 * .5f + max * 0x1p-11f + 1e-9f);
    }
    assert_string_equal(q->lineage->parent_digest, ramet_model_digest(tiny));
    assert_non_null(strstr(q->lineage->steps, "\"step\":\"quantize\""));
    free(a);
    free(b);
    ramet_model_free(q);
}

static void test_quantize_names_what_it_does_not_know(void **state) {
    (void)state;
    ramet_quantize_options o;
    ramet_model *q = NULL;
    ramet_quantize_options_init(&o, sizeof o);
    o.encoding = "Q3_X";
    assert_int_equal(ramet_quantize(&q, tiny, &o), RAMET_E_ARGUMENT);
    assert_non_null(strstr(ramet_last_error(), "Q3_X"));
    o.encoding = "Q4_0";
    o.algorithm = "magic";
    assert_int_equal(ramet_quantize(&q, tiny, &o), RAMET_E_UNSUPPORTED);
    assert_null(q);
}

static void test_prune_keeps_rows_and_columns_of_the_parent(void **state) {
    (void)state;
    ramet_model *m = pruned(1, 32);
    int64_t rows, cols, prows, pcols;
    assert_int_equal(m->h.n_layer, tiny->h.n_layer - 1);
    assert_int_equal(m->h.n_ff, tiny->h.n_ff - 32);
    const ramet__lineage *l = m->lineage;
    char name[64];
    for (int32_t i = 0; i < m->h.n_layer; i++) {
        const int32_t *ff = l->ff + i * l->n_ff;
        for (int64_t c = 1; c < l->n_ff; c++) assert_true(ff[c] > ff[c - 1]);
        snprintf(name, sizeof name, "blk.%d.ffn_up.weight", l->layer[i]);
        float *parent_up = decoded(tiny, name, &prows, &pcols);
        snprintf(name, sizeof name, "blk.%d.ffn_up.weight", i);
        float *up = decoded(m, name, &rows, &cols);
        for (int64_t r = 0; r < rows; r++) assert_memory_equal(up + r * cols, parent_up + ff[r] * cols, (size_t)cols * sizeof(float));
        free(up); free(parent_up);
    }
    ramet_model_free(m);
}

/* ---- the fit, beside normal equations summed and solved in double ---- */
typedef struct seen { double *sum; int64_t n; int32_t layer; } seen;
static int32_t add_outer(const char *name, const float *a, int64_t rows, int64_t cols, void *user) {
    seen *s = user;
    char want[64];
    snprintf(want, sizeof want, "blk.%d.ffn_act", s->layer);
    if (strcmp(name, want)) return 0;
    assert_int_equal(cols, s->n);
    for (int64_t r = 0; r < rows; r++, a += cols)
        for (int64_t i = 0; i < cols; i++)
            for (int64_t j = 0; j < cols; j++) s->sum[i * cols + j] += (double)a[i] * a[j];
    return 0;
}

/* x [d, m] with x a = b, by Gauss-Jordan */
static void solve(double *x, double *a, int64_t m, int64_t d) {
    for (int64_t p = 0; p < m; p++)
        for (int64_t r = 0; r < m; r++) {
            if (r == p) continue;
            double f = a[p * m + r] / a[p * m + p]; /* columns, since x stands on the left */
            for (int64_t i = 0; i < m; i++) a[i * m + r] -= f * a[i * m + p];
            for (int64_t i = 0; i < d; i++) x[i * m + r] -= f * x[i * m + p];
        }
    for (int64_t p = 0; p < m; p++)
        for (int64_t i = 0; i < d; i++) x[i * m + p] /= a[p * m + p];
}

static void check_fit(const ramet_model *m, ramet_model *parent) {
    const ramet__lineage *l = m->lineage;
    const int64_t n = parent->h.n_ff, k = m->h.n_ff;
    for (int32_t i = 0; i < m->h.n_layer; i++) {
        const int32_t *kept = l->ff + i * k;
        seen s = {calloc((size_t)(n * n), sizeof(double)), n, l->layer[i]};
        for (int at = 0; at < 512; at += 64) ok(ramet_model_tap(parent, calibration + at, 64, "blk.", RAMET_MODE_BALANCED, add_outer, &s));
        int64_t d, cols;
        char name[64];
        snprintf(name, sizeof name, "blk.%d.ffn_down.weight", l->layer[i]);
        float *w = decoded(parent, name, &d, &cols);
        snprintf(name, sizeof name, "blk.%d.ffn_down.weight", i);
        float *got = decoded(m, name, &d, &cols);
        double ridge = 0, *a = calloc((size_t)(k * k), sizeof *a), *x = calloc((size_t)(d * k), sizeof *x), error = 0, change = 0, scale = 0;
        for (int64_t r = 0; r < n; r++) ridge += .01 * s.sum[r * n + r] / (double)n;
        for (int64_t r = 0; r < k; r++)
            for (int64_t c = 0; c < k; c++) a[r * k + c] = s.sum[kept[r] * n + kept[c]] + (r == c ? ridge : 0);
        for (int64_t r = 0; r < d; r++)
            for (int64_t c = 0; c < k; c++) {
                x[r * k + c] = ridge * w[r * n + kept[c]];
                for (int64_t j = 0; j < n; j++) x[r * k + c] += w[r * n + j] * s.sum[j * n + kept[c]];
            }
        solve(x, a, k, d);
        for (int64_t r = 0; r < d; r++)
            for (int64_t c = 0; c < k; c++) {
                error += pow(got[r * k + c] - x[r * k + c], 2);
                change += pow(w[r * n + kept[c]] - x[r * k + c], 2);
                scale += pow(x[r * k + c], 2);
            }
        assert_true(change > .01 * scale); /* the fit does something */
        if (error > 1e-8 * scale) fail_msg("layer %d: %g of the fitted weights' square", i, error / scale);
        free(s.sum); free(w); free(got); free(a); free(x);
    }
}

static void test_kept_channels_take_over_what_the_removed_did(void **state) {
    (void)state;
    ramet_model *m = pruned(1, 32);
    check_fit(m, tiny);
    ramet_model_free(m);
}

static void test_prune_refuses_what_cannot_be(void **state) {
    (void)state;
    ramet_prune_options o;
    ramet_model *m = NULL;
    ramet_prune_options_init(&o, sizeof o);
    assert_int_equal(ramet_prune(&m, tiny, &o), RAMET_E_ARGUMENT); /* no calibration */
    o.ids = calibration;
    o.count = 64;
    o.window = 64;
    o.layers = tiny->h.n_layer;
    assert_int_equal(ramet_prune(&m, tiny, &o), RAMET_E_ARGUMENT);
    o.layers = 0;
    o.ffn = 33;
    assert_int_equal(ramet_prune(&m, tiny, &o), RAMET_E_ARGUMENT);
    assert_non_null(strstr(ramet_last_error(), "multiples of 32"));
    assert_null(m);
}

static void test_rebase_on_the_same_parent_gives_the_same_variant(void **state) {
    (void)state;
    ramet_model *m = pruned(1, 32), *again = NULL, *cut = NULL, *none = NULL;
    ramet_rebase_options o;
    ramet_rebase_options_init(&o, sizeof o);
    o.ids = calibration;
    o.count = 512;
    o.window = 64;
    ok(ramet_rebase(&again, m, tiny, &o));
    assert_string_equal(ramet_model_digest(again), ramet_model_digest(m));
    assert_string_equal(again->lineage->parent_digest, ramet_model_digest(tiny));
    ok(ramet_rebase(&cut, m, tiny, NULL)); /* without text: the parent's columns */
    int64_t rows, cols, pcols;
    float *down = decoded(cut, "blk.0.ffn_down.weight", &rows, &cols);
    char name[64];
    snprintf(name, sizeof name, "blk.%d.ffn_down.weight", m->lineage->layer[0]);
    float *whole = decoded(tiny, name, &rows, &pcols);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) assert_true(down[r * cols + c] == whole[r * pcols + m->lineage->ff[c]]);
    assert_int_equal(ramet_rebase(&none, tiny, m, NULL), RAMET_E_INCONSISTENT); /* not born of anyone */
    o.window = 1;
    assert_int_equal(ramet_rebase(&none, m, tiny, &o), RAMET_E_ARGUMENT);
    assert_non_null(strstr(ramet_last_error(), "window 1"));
    free(down); free(whole);
    ramet_model_free(cut);
    ramet_model_free(again);
    ramet_model_free(m);
}

static void test_lineage_composes_through_two_steps(void **state) {
    (void)state;
    ramet_model *m = pruned(1, 32), *q = NULL;
    ramet_quantize_options o;
    ramet_quantize_options_init(&o, sizeof o);
    o.encoding = "Q4_0";
    ok(ramet_quantize(&q, m, &o));
    assert_string_equal(q->lineage->parent_digest, ramet_model_digest(tiny)); /* not of the model in between */
    assert_memory_equal(q->lineage->ff, m->lineage->ff, (size_t)(m->h.n_layer * m->h.n_ff) * sizeof(int32_t));
    assert_memory_equal(q->lineage->layer, m->lineage->layer, (size_t)m->h.n_layer * sizeof(int32_t));
    assert_non_null(strstr(q->lineage->steps, "prune"));
    assert_non_null(strstr(q->lineage->steps, "quantize"));
    ramet_model_free(q);
    ramet_model_free(m);
}

static void test_lift_lands_where_the_variant_was_cut_from(void **state) {
    (void)state;
    ramet_model *m = pruned(1, 32);
    ramet_adapter *a = NULL, *up = NULL;
    ok(ramet__adapter_new(&a, m, NULL, 4, 8, 1));
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t k = 0; k < a->lora[i].n * a->lora[i].rank; k++) a->lora[i].b[k] = (float)ramet__rng_normal(3, (uint64_t)i, (uint64_t)k);
    ok(ramet_adapter_lift(&up, a, m, tiny));
    const ramet__lineage *l = m->lineage;
    char small_name[64], large_name[64];
    static const char *const patterns[] = {"blk.%d.ffn_down.weight", "blk.%d.ffn_gate.weight", "blk.%d.attn_q.weight"};
    for (int p = 0; p < 3; p++) {
        snprintf(small_name, sizeof small_name, patterns[p], 0);
        snprintf(large_name, sizeof large_name, patterns[p], l->layer[0]);
        const ramet__weight *ws = ramet__model_weight(m, small_name), *wl = ramet__model_weight(tiny, large_name);
        int64_t n = ramet__shape_rows(ramet__weight_shape(ws)), k = ramet__shape_cols(ramet__weight_shape(ws));
        int64_t N = ramet__shape_rows(ramet__weight_shape(wl)), K = ramet__shape_cols(ramet__weight_shape(wl));
        float *ds = calloc((size_t)(n * k), sizeof *ds), *dl = calloc((size_t)(N * K), sizeof *dl), *want = calloc((size_t)(N * K), sizeof *want), one = 1;
        const ramet_adapter *pa = a, *pu = up;
        ramet__adapter_delta(ds, &pa, &one, 1, ws);
        ramet__adapter_delta(dl, &pu, &one, 1, wl);
        for (int64_t r = 0; r < n; r++)
            for (int64_t c = 0; c < k; c++) want[(p == 1 ? l->ff[r] : r) * K + (p == 0 ? l->ff[c] : c)] = ds[r * k + c];
        for (int64_t i = 0; i < N * K; i++) assert_true(dl[i] == want[i]); /* zero where the variant has nothing, exactly */
        free(ds); free(dl); free(want);
    }
    snprintf(large_name, sizeof large_name, "blk.%d.attn_q.weight", l->layer[0] ? 0 : 1); /* the layer that was removed */
    assert_null(ramet__adapter_find(up, large_name));
    ramet_adapter_free(up);
    ramet_adapter_free(a);
    ramet_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantize_rounds_to_nearest_and_shares_the_rest), cmocka_unit_test(test_quantize_names_what_it_does_not_know),
        cmocka_unit_test(test_prune_keeps_rows_and_columns_of_the_parent), cmocka_unit_test(test_kept_channels_take_over_what_the_removed_did), cmocka_unit_test(test_prune_refuses_what_cannot_be),
        cmocka_unit_test(test_rebase_on_the_same_parent_gives_the_same_variant), cmocka_unit_test(test_lineage_composes_through_two_steps),
        cmocka_unit_test(test_lift_lands_where_the_variant_was_cut_from),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
