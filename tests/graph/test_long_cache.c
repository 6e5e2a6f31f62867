/* SPDX-License-Identifier: Apache-2.0 */
/* test_long_cache.c - attention over a cache of several ranges of keys: against its definition in double, and the same bits for any number of threads
 * and of rows in a run. */
#include "blocks.h"
#include "graph_test.h"

enum { HEADS = 6, KV = 2, HD = 16, BLOCK = 64, LEN = 600, MOST = 40, BLOCKS = (LEN + BLOCK - 1) / BLOCK };

/* Number d of a key or value of HD */
static double stored(const float *x, int d, int32_t type) {
    float top = 0;
    for (int i = 0; i < HD; i++) top = fmaxf(top, fabsf(x[i]));
    if (type == RAMET__CACHE_INT8) return rint((double)(x[d] * (127 / top))) * (double)(top / 127);
    return type ? (double)ramet__half_f32(ramet__f32_half(x[d])) : (double)x[d];
}

static void attend(double *y, const float *q, const float *k, const float *v, int64_t keys, int32_t type) {
    for (int h = 0; h < HEADS; h++) {
        double score[LEN], top = -1e300, total = 0;
        const float *kh = k + h / (HEADS / KV) * HD, *vh = v + h / (HEADS / KV) * HD;
        for (int64_t j = 0; j < keys; j++) {
            score[j] = 0;
            for (int d = 0; d < HD; d++) score[j] += (double)q[h * HD + d] * stored(kh + j * KV * HD, d, type);
            score[j] /= sqrt((double)HD);
            top = fmax(top, score[j]);
        }
        for (int64_t j = 0; j < keys; j++) total += score[j] = exp(score[j] - top);
        for (int d = 0; d < HD; d++) {
            y[h * HD + d] = 0;
            for (int64_t j = 0; j < keys; j++) y[h * HD + d] += score[j] / total * stored(vh + j * KV * HD, d, type);
        }
    }
}

/* Rows first..LEN-1 in runs of at most `step`, into y; the cache holds what came before. */
static void go(ramet__plan *p, float *y, const float *q, const float *k, const float *v, void *const *blocks, int64_t first, int64_t step) {
    ramet__seq_view view = {blocks, BLOCKS};
    int32_t seq[MOST] = {0}, pos[MOST];
    for (int64_t r = first; r < LEN; r += step) {
        ramet__run run = {.rows = RAMET__MIN(step, LEN - r), .seqs = &view, .n_seqs = 1};
        for (int32_t i = 0; i < run.rows; i++) pos[i] = (int32_t)r + i;
        give(&run, "q", q + r * HEADS * HD);
        give(&run, "k", k + r * KV * HD);
        give(&run, "v", v + r * KV * HD);
        give(&run, "seq", seq);
        give(&run, "pos", pos);
        OK(ramet__plan_run(p, &run));
        memcpy(y + r * HEADS * HD, output(p, "y"), sizeof(float) * (size_t)run.rows * HEADS * HD);
    }
}

static void several_ranges(int32_t type) {
    float *q = random_floats(LEN * HEADS * HD, 1, 2), *k = random_floats(LEN * KV * HD, 2, 2), *v = random_floats(LEN * KV * HD, 3, 1);
    float *first = NULL;
    ramet__cache_layout layout = {.layers = 1, .n_kv = KV, .head_dim = HD, .block = BLOCK, .type = type};
    for (int32_t threads = 1; threads <= 4; threads++) {
        ramet_runtime *rt = test_runtime(threads);
        ramet__graph *g;
        ramet__plan *p;
        void *blocks[BLOCKS];
        float *y = malloc(LEN * HEADS * HD * sizeof *y), *again = malloc(LEN * HEADS * HD * sizeof *y);
        for (int b = 0; b < BLOCKS; b++) blocks[b] = aligned_alloc(64, (size_t)ramet__cache_block_bytes(&layout));
        OK(ramet__graph_create(&g, rt, MOST, 0, 0));
        ramet__val qv = ramet__graph_input(g, "q", RAMET__TYPE_F32, RAMET__AXIS_ROWS, HEADS * HD), kv = ramet__graph_input(g, "k", RAMET__TYPE_F32, RAMET__AXIS_ROWS, KV * HD);
        ramet__val vv = ramet__graph_input(g, "v", RAMET__TYPE_F32, RAMET__AXIS_ROWS, KV * HD), sv = ramet__graph_input(g, "seq", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
        ramet__val pv = ramet__graph_input(g, "pos", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
        ramet__graph_output(g, "y", ramet__op_cache_attention(g, qv, kv, vv, sv, pv, &layout, 0, HEADS));
        OK(ramet__plan_create(&p, g, &(ramet__plan_options){.mode = RAMET__MODE_EXACT, .max_context = LEN}));
        go(p, y, q, k, v, blocks, 0, MOST);
        for (int64_t r = 0; r < LEN && !first; r += 13) {
            double want[HEADS * HD];
            attend(want, q + r * HEADS * HD, k, v, r + 1, type);
            near(y + r * HEADS * HD, want, HEADS * HD, 2e-6, "rows of a long cache");
        }
        if (!first) {
            first = malloc(LEN * HEADS * HD * sizeof *y);
            memcpy(first, y, LEN * HEADS * HD * sizeof *y);
        }
        assert_memory_equal(y, first, LEN * HEADS * HD * sizeof *y);
        static const int64_t steps[] = {1, 3, 16, 17};
        for (int32_t i = 0; i < RAMET__COUNT(steps); i++) {
            const int64_t from = 500; /* over the end of a range */
            go(p, again, q, k, v, blocks, from, steps[i]);
            assert_memory_equal(again + from * HEADS * HD, first + from * HEADS * HD, (LEN - from) * HEADS * HD * sizeof *y);
        }
        for (int b = 0; b < BLOCKS; b++) free(blocks[b]);
        free(y), free(again);
        ramet__plan_free(p);
        ramet__graph_free(g);
        ramet_runtime_free(rt);
    }
    free(first), free(q), free(k), free(v);
}
static void test_long_cache_of_floats(void **state) { (void)state, several_ranges(0); }
static void test_long_cache_of_halves(void **state) { (void)state, several_ranges(1); }
static void test_long_cache_of_int8(void **state) { (void)state, several_ranges(RAMET__CACHE_INT8); }

/* A long run's gradient is made by pieces of query heads: the numbers of whole groups, the same bits for any number of threads, beside a short run. */
static void test_gradient_of_a_long_run(void **state) {
    (void)state;
    enum { ROWS = LEN + 40 }; /* of the long one and a short one */
    static const char *const names[] = {"q", "k", "v"};
    static const int64_t cols[] = {HEADS * HD, KV * HD, KV * HD};
    float *in[3] = {random_floats(ROWS * HEADS * HD, 1, 1), random_floats(ROWS * KV * HD, 2, 1), random_floats(ROWS * KV * HD, 3, 1)}, *whole[3] = {0}, *parts[3] = {0};
    int32_t seq[ROWS];
    for (int i = 0; i < ROWS; i++) seq[i] = i >= LEN;
    for (int32_t threads = 1; threads <= 3; threads++)
        for (int32_t context = 1; context <= LEN; context += LEN - 1) {
            ramet_runtime *rt = test_runtime(threads);
            ramet__graph *g;
            ramet__plan *p;
            ramet__val v[3], grad[3];
            OK(ramet__graph_create(&g, rt, ROWS, 0, 0));
            for (int i = 0; i < 3; i++) v[i] = ramet__graph_input(g, names[i], RAMET__TYPE_F32, RAMET__AXIS_ROWS, cols[i]);
            ramet__val o = ramet__op_attention(g, v[0], v[1], v[2], ramet__graph_input(g, "seq", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0), HEADS, KV, HD);
            OK(ramet__graph_gradient(g, ramet__op_sum(g, ramet__op_mul(g, o, o)), v, 3, grad));
            static const char *const outs[] = {"dq", "dk", "dv"};
            for (int i = 0; i < 3; i++) ramet__graph_output(g, outs[i], grad[i]);
            ramet__plan_options options = {.mode = RAMET__MODE_EXACT, .max_context = context};
            OK(ramet__plan_create(&p, g, &options));
            ramet__graph_free(g);
            ramet__run r = {.rows = ROWS};
            for (int i = 0; i < 3; i++) give(&r, names[i], in[i]);
            give(&r, "seq", seq);
            OK(ramet__plan_run(p, &r));
            for (int i = 0; i < 3; i++) {
                float **to = context == 1 ? &whole[i] : &parts[i];
                const size_t bytes = (size_t)(ROWS * cols[i]) * sizeof **to;
                if (*to) assert_memory_equal(output(p, outs[i]), *to, bytes);
                else memcpy(*to = malloc(bytes), output(p, outs[i]), bytes);
            }
            ramet__plan_free(p);
            ramet_runtime_free(rt);
        }
    for (int i = 0; i < 3; i++) {
        int32_t other = 0;
        for (int64_t j = 0; j < ROWS * cols[i]; j++) {
            if (!(fabs((double)parts[i][j] - (double)whole[i][j]) <= 1e-5 * (1 + fabs((double)whole[i][j])))) fail_msg("%s[%d] is %.9g in parts, %.9g whole", names[i], (int)j, (double)parts[i][j], (double)whole[i][j]);
            other += parts[i][j] != whole[i][j];
        }
        if (i) assert_true(other > 0); /* it was cut: sums of heads came in another order */
        free(parts[i]);
        free(whole[i]);
        free(in[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradient_of_a_long_run), cmocka_unit_test(test_long_cache_of_floats), cmocka_unit_test(test_long_cache_of_halves), cmocka_unit_test(test_long_cache_of_int8)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
