/* SPDX-License-Identifier: Apache-2.0 */
/* test_convolution.c - convolutions that balanced mode makes by other means than exact mode, of shapes that their tiles fit and do not fit: results and gradients. */
#include "../graph/graph_test.h"
#include "graph/ops/winograd.h"
#include "ramet/graph.h"
#include "ramet/session.h"

typedef struct shape { int64_t rows, height, width, channels, outputs, kernel, pad, relu, tiled; } shape;
static const shape shapes[] = {
    {70, 12, 12, 16, 32, 5, 0, 1, 1}, {9, 8, 8, 16, 16, 3, 1, 0, 1}, {6, 7, 9, 32, 16, 3, 1, 1, 1}, {2, 13, 6, 16, 48, 5, 2, 0, 1}, {1, 30, 62, 16, 16, 3, 0, 1, 1}, /* more tiles across than come together */
    {9, 8, 8, 8, 24, 3, 1, 0, 1}, {9, 8, 8, 16, 20, 3, 1, 0, 0}, {4, 4, 4, 16, 16, 3, 0, 0, 0}, {4, 9, 9, 16, 16, 7, 1, 0, 0}, {2, 8, 8, 16, 16, 3, 1, 0, 0},
};
enum { Y, DX, DW, DB, OUTS };
typedef struct results { float *data[OUTS]; int64_t count[OUTS]; } results;
static void results_free(results *r) {
    for (int32_t i = 0; i < OUTS; i++) free(r->data[i]);
}

/* The loss is the sum of the results, each times a number of its own. */
static results convolve(const shape *s, int32_t isa, int32_t threads, int32_t mode, int32_t *pairs, int32_t *tiles) {
    static const char *const variables[] = {"x", "w", "b"};
    const int64_t side[2] = {s->height + 2 * s->pad - s->kernel + 1, s->width + 2 * s->pad - s->kernel + 1}, cols = side[0] * side[1] * s->outputs;
    results r = {.count = {s->rows * cols, s->rows * s->height * s->width * s->channels, s->outputs * s->kernel * s->kernel * s->channels, s->outputs}};
    ramet_runtime_options o;
    ramet_runtime *rt;
    ramet_variables *v;
    ramet_graph *g;
    ramet_program *p;
    int32_t in[3], y, times, loss;
    int64_t rows, columns;
    char settings[128];
    const float *out;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = threads;
    o.isa = isa;
    OK(ramet_runtime_create(&rt, &o));
    *pairs = rt->kernels->pairs != NULL;
    *tiles = !*pairs && rt->kernels->winograd;
    OK(ramet_variables_create(&v, rt));
    OK(ramet_graph_create(&g, rt, s->rows, 1));
    OK(ramet_variables_add(v, "x", s->rows, r.count[DX] / s->rows, "uniform:1", 1, 1));
    OK(ramet_variables_add(v, "w", s->outputs, r.count[DW] / s->outputs, "uniform:.5", 2, 1));
    OK(ramet_variables_add(v, "b", 0, s->outputs, "uniform:1", 3, 1));
    OK(ramet_variables_add(v, "times", s->rows, cols, "uniform:1", 4, 0));
    for (int32_t i = 0; i < 3; i++) OK(ramet_graph_variable(&in[i], g, v, variables[i]));
    snprintf(settings, sizeof settings, "height=%d,width=%d,kernel=%d,pad=%d", (int)s->height, (int)s->width, (int)s->kernel, (int)s->pad);
    OK(ramet_graph_apply(&y, 1, g, "conv2d", in, 3, settings));
    if (s->relu) OK(ramet_graph_apply(&y, 1, g, "relu", &y, 1, NULL));
    OK(ramet_graph_variable(&times, g, v, "times"));
    OK(ramet_graph_apply(&loss, 1, g, "mul", (int32_t[]){times, y}, 2, NULL));
    OK(ramet_graph_apply(&loss, 1, g, "sum", &loss, 1, NULL));
    OK(ramet_graph_output(g, "y", y));
    OK(ramet_graph_train(g, v, loss));
    OK(ramet_program_create(&p, g, mode));
    OK(ramet_program_run(p, 1, 0, NULL, NULL, 0, NULL, NULL));
    OK(ramet_program_output(&out, &rows, &columns, p, "y"));
    for (int32_t i = 0; i < OUTS; i++) r.data[i] = malloc((size_t)r.count[i] * sizeof(float));
    memcpy(r.data[Y], out, (size_t)r.count[Y] * sizeof(float));
    for (int32_t i = 0; i < 3; i++) OK(ramet_variables_read(r.data[DX + i], r.count[DX + i], v, variables[i], 1));
    ramet_program_free(p);
    ramet_graph_free(g);
    ramet_variables_free(v);
    ramet_runtime_free(rt);
    return r;
}

static void test_balanced_convolutions_are_exact_ones_but_for_rounding(void **state) {
    (void)state;
    static const int32_t levels[] = {RAMET_ISA_REF, RAMET_ISA_SIMD, RAMET_ISA_AUTO};
    for (int32_t i = 0; i < RAMET__COUNT(shapes) * RAMET__COUNT(levels); i++) {
        const shape *s = &shapes[i % RAMET__COUNT(shapes)];
        const int32_t level = levels[i / RAMET__COUNT(shapes)];
        int32_t pairs, tiles, same = 1;
        results exact = convolve(s, level, 1, RAMET_MODE_EXACT, &pairs, &tiles), balanced = convolve(s, level, 1, RAMET_MODE_BALANCED, &pairs, &tiles);
        for (int32_t j = 0; j < OUTS; j++) {
            double far = 0, size = 0;
            for (int64_t n = 0; n < exact.count[j]; n++) {
                far += pow((double)balanced.data[j][n] - exact.data[j][n], 2);
                size += pow(exact.data[j][n], 2);
            }
            far = sqrt(far / size);
            /* in bf16 some results change their sign, and so the rectifier its mind */
            if (!(far < (!pairs ? 5e-6 : s->relu ? .15 : 2e-2))) fail_msg("level %d, shape %d, result %d: %g away", (int)level, (int)(i % RAMET__COUNT(shapes)), (int)j, far);
            if (j != DB && far > 0) same = 0;
        }
        if (!pairs) assert_int_equal(!same, s->tiled && tiles);
        for (int32_t threads = 2; threads < 4 && level == RAMET_ISA_AUTO; threads++) {
            results other = convolve(s, level, threads, RAMET_MODE_BALANCED, &pairs, &tiles);
            for (int32_t j = 0; j < OUTS; j++) assert_memory_equal(balanced.data[j], other.data[j], (size_t)balanced.count[j] * sizeof(float));
            results_free(&other);
        }
        results_free(&exact);
        results_free(&balanced);
    }
}

static void test_tiles_are_for_shapes_that_they_save_work_in(void **state) {
    (void)state;
    for (int32_t i = 0; i < RAMET__COUNT(shapes); i++) {
        const shape *s = &shapes[i];
        int64_t a[8] = {s->height, s->width, s->channels, s->kernel, 1, s->pad, s->outputs};
        assert_int_equal(ramet__winograd_pays(a, s->rows), s->tiled);
        assert_int_equal(ramet__winograd_pays(a, 0), 0);
        a[STRIDE] = 2;
        assert_int_equal(ramet__winograd_pays(a, s->rows), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_balanced_convolutions_are_exact_ones_but_for_rounding),
        cmocka_unit_test(test_tiles_are_for_shapes_that_they_save_work_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
