/* SPDX-License-Identifier: Apache-2.0 */
/* Optimizers, the schedule, sums over parameters. Golden numbers: PyTorch 2.13.0, torch.optim.AdamW(lr=0.01, betas=(0.9, 0.999), eps=1e-8,
 * weight_decay=0.1) and SGD(lr=0.01, momentum=0.9), also with nesterov=True, in float32. */
#include "support.h"

static ramet_runtime *runtime(int32_t threads) {
    ramet_runtime_options o;
    ramet_runtime *rt = NULL;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = threads;
    ok(ramet_runtime_create(&rt, &o));
    return rt;
}

static void follows(const char *name, float decay, const float want[3][4], float scale) {
    ramet_runtime *rt = runtime(1);
    const ramet__optimizer *o = ramet__optimizer_find(name);
    float p[4] = {0.5f, -1.25f, 2.0f, 0.001f}, m[2][4] = {{0}};
    void *state[2] = {m[0], m[1]};
    assert_non_null(o);
    for (int32_t t = 0; t < 3; t++) {
        const float given[4] = {0.1f * (float)(t + 1), -0.2f, 0.3f - 0.2f * (float)t, 1e-4f};
        float g[4];
        for (int32_t i = 0; i < 4; i++) g[i] = given[i] / scale;
        const ramet__optimizer_step u = {
            .kernels = rt->kernels, .step = t + 1, .rate = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .scale = scale};
        o->update(&u, p, g, state, 4, decay);
        for (int32_t i = 0; i < 4; i++) {
            assert_float_equal(p[i], want[t][i], 2e-6f * fabsf(want[t][i]) + 1e-8f);
            assert_true(g[i] == 0.0f);
        }
    }
    ramet_runtime_free(rt);
}

static void test_adamw_follows_pytorch(void **state) {
    const float want[3][4] = {{0.489500016f, -1.23874998f, 1.98800004f, -0.00899999961f},
                              {0.479358703f, -1.22751129f, 1.97730148f, -0.0189899988f},
                              {0.469299346f, -1.2162838f, 1.97083247f, -0.0289700087f}};
    (void)state;
    follows("adamw", 0.1f, want, 1.0f);
    follows("adamw", 0.1f, want, 0.25f); /* clipping scales the gradient before anything else */
}

static void test_sgd_follows_pytorch(void **state) {
    const float want[3][4] = {{0.499000013f, -1.24800003f, 1.99699998f, 0.00099900004f},
                              {0.496100008f, -1.24419999f, 1.99329996f, 0.000997100025f},
                              {0.490490019f, -1.23878002f, 1.99097002f, 0.000994389993f}};
    (void)state;
    follows("sgd", 0.0f, want, 1.0f);
    follows("sgd", 0.0f, want, 4.0f);
}

static void test_nesterov_follows_pytorch(void **state) {
    const float want[3][4] = {{0.498100013f, -1.24619997f, 1.99430001f, 0.000998100033f},
                              {0.49349001f, -1.24078f, 1.98996997f, 0.000995390001f},
                              {0.485440999f, -1.23390198f, 1.988873f, 0.000991950976f}};
    (void)state;
    follows("nesterov", 0.0f, want, 1.0f);
    follows("nesterov", 0.0f, want, 4.0f);
}

/* Beside AdamW on the same gradients, of sizes that differ by 1e3 in a block: the path of each parameter stays near, also where the second moment
 * changes by less than a code a step, and where its code is the smallest. */
static void test_adamw8_follows_adamw(void **state) {
    enum { N = 2 * RAMET__STATE_BLOCK + 77, STEPS = 200 };
    static float p[2][N], g[2][N], m[N], v[N], scale[2][3];
    static int8_t cm[N];
    static uint8_t cv[N];
    void *whole[] = {m, v}, *packed[] = {cm, cv, scale[0], scale[1]};
    ramet_runtime *rt = runtime(1);
    double far = 0, length = 0;
    (void)state;
    for (int64_t t = 0; t < STEPS; t++) {
        for (int64_t i = 0; i < N; i++) {
            const double size = pow(10, -3.0 * (double)(i % 64) / 64);
            const double noise = i % 3 ? 1.0 : ramet__rng_normal(3, (uint64_t)t, (uint64_t)i); /* constant gradients, and noise */
            g[0][i] = g[1][i] = (float)(size * noise * (t < STEPS / 2 ? 1 : 0.5));
        }
        const ramet__optimizer_step u = {
            .kernels = rt->kernels, .step = t + 1, .rate = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .scale = 1.0f};
        ramet__optimizer_adamw.update(&u, p[0], g[0], whole, N, 0.01f);
        ramet__optimizer_adamw8.update(&u, p[1], g[1], packed, N, 0.01f);
        assert_true(g[1][N - 1] == 0.0f);
    }
    for (int64_t i = 0; i < N; i++) {
        far += (p[0][i] - p[1][i]) * (p[0][i] - p[1][i]);
        length += p[0][i] * p[0][i];
        assert_true(fabsf(p[0][i] - p[1][i]) < 0.01f * 100);
    }
    print_message("adamw8: the paths end %.4f of their length apart\n", sqrt(far / length));
    assert_true(sqrt(far / length) < 0.1);
    ramet_runtime_free(rt);
}

static void test_schedule_values(void **state) {
    (void)state;
    const double cosine[] = {0.5, 1.0, 1.0, 0.1 + 0.45 * (1 + cos(3.14159265358979 / 7)), 0.1 + 0.45 * (1 + cos(2 * 3.14159265358979 / 7))};
    for (int64_t t = 0; t < 5; t++) assert_true(fabs(ramet__schedule(RAMET_SCHEDULE_COSINE, 2e-4, 0.2, t, 10) - 2e-4 * cosine[t]) < 1e-12);
    assert_true(fabs(ramet__schedule(RAMET_SCHEDULE_COSINE, 1, 0.2, 9, 10) - 0.1) < 1e-12); /* ends at a tenth */
    assert_true(ramet__schedule(RAMET_SCHEDULE_COSINE, 1, 0, 0, 10) == 1.0);
    assert_true(ramet__schedule(RAMET_SCHEDULE_COSINE, 1, 0, 0, 1) == 1.0);
    assert_true(ramet__schedule(RAMET_SCHEDULE_CONSTANT, 1, 0, 9, 10) == 1.0);
    assert_true(ramet__schedule(RAMET_SCHEDULE_CONSTANT, 1, 1, 4, 10) == 0.5); /* warm-up all the way */
    const double line[] = {1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1};
    for (int64_t t = 0; t < 10; t++) assert_true(fabs(ramet__schedule(RAMET_SCHEDULE_LINEAR, 1, 0, t, 10) - line[t]) < 1e-12);
    for (int64_t t = 0; t < 11; t++) assert_true(fabs(ramet__schedule(RAMET_SCHEDULE_WSD, 1, 0, t, 11) - (t <= 8 ? 1 : t == 9 ? 0.55 : 0.1)) < 1e-12);
    assert_true(ramet__schedule(RAMET_SCHEDULE_WSD, 1, 0.5, 2, 10) == 0.6);
    const char *const names[] = {"cosine", "constant", "linear", "wsd"}, *name = NULL; /* in the order of RAMET_SCHEDULE_* */
    for (int32_t i = 0; i < 4; i++) assert_true(ramet__schedule_list(i, &name, NULL) && !strcmp(name, names[i]));
    assert_false(ramet__schedule_list(4, &name, NULL) || ramet__schedule_list(-1, &name, NULL));
}

static ramet__params pool(ramet_runtime *rt, int64_t a, int64_t b) {
    ramet__params p = {.n = 2};
    p.param = ramet__calloc(rt->mem, 2, sizeof *p.param);
    assert_non_null(p.param);
    p.param[0] = (ramet__param){.name = ramet__strdup(rt->mem, "a"), .shape = {2, {a, 3}}, .decay = 1};
    p.param[1] = (ramet__param){.name = ramet__strdup(rt->mem, "b"), .shape = {1, {b}}};
    ok(ramet__params_init(&p, rt, ramet__optimizer_find("adamw")));
    return p;
}

static void test_params_same_bits_for_any_threads(void **state) {
    double first_norm = 0;
    float *first = NULL;
    size_t bytes = 0;
    (void)state;
    for (int32_t threads = 1; threads <= 4; threads++) {
        ramet_runtime *rt = runtime(threads);
        ramet__params p = pool(rt, 40001, 77777);
        double norm = 0, exact = 0;
        for (int64_t i = 0; i < p.n; i++)
            for (int64_t j = 0; j < p.param[i].count; j++) {
                p.param[i].value.data[j] = (float)sin((double)(j + i));
                p.param[i].grad.data[j] = (float)cos(0.37 * (double)j);
                exact += (double)p.param[i].grad.data[j] * (double)p.param[i].grad.data[j];
            }
        ok(ramet__params_norm(&norm, &p, rt, 1));
        assert_true(fabs(norm - sqrt(exact)) < 1e-6 * norm);
        const ramet__optimizer_step u = {
            .kernels = rt->kernels, .step = 1, .rate = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .scale = 1.0f};
        ok(ramet__params_update(&p, rt, &u, 0.5f));
        assert_true(fabs(p.param[1].value.data[5] - ((float)sin(6.0) - 0.01f * (cos(0.37 * 5) > 0 ? 1 : -1))) <
                    1e-6); /* no decay of vectors */
        assert_true(fabs(p.param[0].value.data[5] - ((float)sin(5.0) * 0.995f - 0.01f * (cos(0.37 * 5) > 0 ? 1 : -1))) < 1e-6);
        bytes = (size_t)p.total * sizeof(float);
        if (!first) {
            first = malloc(bytes);
            assert_non_null(first);
            memcpy(first, p.value, bytes);
            first_norm = norm;
        }
        assert_true(norm == first_norm);
        assert_memory_equal(first, p.value, bytes);
        p.param[0].grad.data[p.param[0].count - 1] = NAN;
        ok(ramet__params_norm(&norm, &p, rt, 1));
        assert_false(isfinite(norm));
        ramet__params_free(&p);
        ramet_runtime_free(rt);
    }
    free(first);
}

static void test_optimizers_are_listed(void **state) {
    const char *name = NULL, *detail = NULL;
    int32_t n = 0;
    (void)state;
    for (; ramet__optimizer_list(n, &name, &detail); n++) {
        assert_string_equal(ramet__optimizer_find(name)->name, name);
        const ramet__optimizer *o = ramet__optimizer_find(name);
        assert_true(*detail && o->n_states <= RAMET__STATES);
        for (int32_t i = 0; i < o->n_states; i++) assert_true(o->state[i].size == 1 || o->state[i].size == 4);
    }
    assert_int_equal(n, 4);
    assert_null(ramet__optimizer_find("adam"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw_follows_pytorch), cmocka_unit_test(test_sgd_follows_pytorch),
        cmocka_unit_test(test_nesterov_follows_pytorch), cmocka_unit_test(test_adamw8_follows_adamw), cmocka_unit_test(test_schedule_values),
        cmocka_unit_test(test_params_same_bits_for_any_threads), cmocka_unit_test(test_optimizers_are_listed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
