/* SPDX-License-Identifier: Apache-2.0 */
/* test_shrink_oom.c - the first, second, third ... allocation fails while a model is quantized and pruned, and its variant put on another parent. */
#include "../model/support.h"
#include "../tools/failing.h"

static ramet_status shrink(ramet_runtime *runtime, void *user) {
    ramet_status st;
    ramet_model *model = NULL, *quantized = NULL, *pruned = NULL, *rebased = NULL;
    ramet_quantize_options q;
    ramet_prune_options p;
    ramet_rebase_options r;
    int32_t ids[32];
    (void)user;
    for (int32_t i = 0; i < 32; i++) ids[i] = 3 + i * 7;
    ramet_quantize_options_init(&q, sizeof q);
    ramet_prune_options_init(&p, sizeof p);
    p.layers = 1;
    p.ffn = 32;
    p.ids = ids;
    p.count = 32;
    p.window = 16;
    ramet_rebase_options_init(&r, sizeof r);
    r.ids = ids;
    r.count = 32;
    r.window = 16;
    MAKE(model, ramet_model_load_path(&model, runtime, tiny_path()));
    MAKE(quantized, ramet_quantize(&quantized, model, &q));
    MAKE(pruned, ramet_prune(&pruned, model, &p));
    MAKE(rebased, ramet_rebase(&rebased, pruned, model, &r));
out:
    ramet_model_free(rebased);
    ramet_model_free(pruned);
    ramet_model_free(quantized);
    ramet_model_free(model);
    return st;
}

static void test_quantize_and_prune(void **state) { fail_each(shrink, NULL, 100); }

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_quantize_and_prune)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
