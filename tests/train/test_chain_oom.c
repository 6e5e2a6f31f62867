/* SPDX-License-Identifier: Apache-2.0 */
/* test_chain_oom.c - the first, second, third ... allocation fails while a model is loaded, tuned, written and merged: the call that meets it
 * answers E_MEMORY, or does without; what was made before it can be freed, and every block goes back. */
#include "support.h"
#include "../tools/failing.h"
#include "../tools/folder.h"

static int32_t count_up(int32_t *ids, uint8_t *predict, int64_t from, int64_t count, void *user) {
    (void)user;
    (void)predict;
    for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)((from + i) % 50);
    return 0;
}

static ramet_status tune(ramet_runtime *rt, void *user) {
    (void)user;
    ramet_status st;
    ramet_model *model = NULL, *merged = NULL;
    ramet_dataset *data = NULL, *ids = NULL, *pairs = NULL;
    ramet_tuner *tuner = NULL, *other = NULL, *preferring = NULL;
    ramet_adapter *adapter = NULL, *dora = NULL;
    ramet_tuner_options o;
    const float scale = 1;
    const char *text = scratch("oom.gguf"), *folder = scratch("oom-peft");
    ramet_tuner_options_init(&o, sizeof o);
    o.rank = 2;
    o.window = 8;
    o.batch = o.micro_batch = 1;
    o.steps = 2;
    o.average = "ema";
    o.groups = "blk.0.*=0";
    MAKE(model, ramet_model_load_path(&model, rt, getenv("RAMET_TINY_MODEL")));
    MAKE(data, ramet_dataset_create(&data, model));
    for (size_t i = 0; i < 4; i++) GO(ramet_dataset_add_text(data, prose[i], strlen(prose[i])));
    o.evaluation = data;
    o.evaluate_every = 1;
    MAKE(tuner, ramet_tuner_create(&tuner, model, data, &o));
    GO(ramet_tuner_step(NULL, tuner, 1, 0, NULL, NULL));
    o.dora = 1;
    MAKE(ids, ramet_dataset_create_source(&ids, model, 40, "up", count_up, NULL));
    o.evaluation = ids;
    MAKE(other, ramet_tuner_create(&other, model, ids, &o));
    GO(ramet_tuner_step(NULL, other, 1, 0, NULL, NULL));
    MAKE(pairs, ramet_dataset_create(&pairs, model));
    GO(ramet_dataset_add_pair(pairs, "a", "b", "c"));
    o.evaluation = NULL;
    o.evaluate_every = 0;
    MAKE(preferring, ramet_tuner_create(&preferring, model, pairs, &o));
    GO(ramet_tuner_step(NULL, preferring, 1, 0, NULL, NULL));
    MAKE(dora, ramet_tuner_adapter(&dora, other));
    GO(ramet_adapter_save(dora, folder));
    ramet_adapter_free(dora);
    dora = NULL;
    MAKE(dora, ramet_adapter_load(&dora, model, folder));
    MAKE(adapter, ramet_tuner_adapter(&adapter, tuner));
    MAKE(merged, ramet_model_merge(&merged, model, (const ramet_adapter *const[]){adapter}, &scale, 1, NULL, NULL, NULL));
    GO(ramet_adapter_save(adapter, text));
    GO(ramet_tuner_save(tuner, text));
    GO(ramet_model_save(merged, text, NULL, NULL));
out:
    remove(text);
    folder_remove(folder);
    ramet_adapter_free(adapter);
    ramet_adapter_free(dora);
    ramet_model_free(merged);
    ramet_tuner_free(tuner);
    ramet_tuner_free(other);
    ramet_tuner_free(preferring);
    ramet_dataset_free(pairs);
    ramet_dataset_free(ids);
    ramet_dataset_free(data);
    ramet_model_free(model);
    return st;
}

static void test_load_tune_and_write(void **state) {
    (void)state;
    fail_each(tune, NULL, 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_load_tune_and_write)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
