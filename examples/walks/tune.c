/* SPDX-License-Identifier: Apache-2.0 */
/* tune.c - data to checkpoint: adapt a model to a text with LoRA, a checkpoint after every ten steps; start it again and it continues.
 * usage: tune MODEL TRAIN HELD_OUT CHECKPOINT ADAPTER.gguf */
#include <ramet/ramet.h>
#include <stdio.h>
#include <stdlib.h>

static ramet_status measure(ramet_model *model, ramet_dataset *text, ramet_adapter *adapter, const char *what) {
    ramet_evaluation found = {.struct_size = sizeof found};
    ramet_evaluate_options options;
    ramet_evaluate_options_init(&options, sizeof options);
    options.window = 128;
    options.adapter = adapter;
    ramet_status status = ramet_evaluate(&found, model, text, &options);
    if (!status) printf("held-out loss %s: %.4f +- %.4f\n", what, found.loss, found.standard_error);
    return status;
}

int main(int argc, char **argv) {
    ramet_runtime *runtime = NULL;
    ramet_model *model = NULL;
    ramet_dataset *train = NULL, *held_out = NULL;
    ramet_tuner *tuner = NULL;
    ramet_adapter *adapter = NULL;
    ramet_tuner_options options;
    ramet_tuner_report report = {.struct_size = sizeof report};
    int code = EXIT_FAILURE;
    if (argc != 6) return fprintf(stderr, "usage: tune MODEL TRAIN HELD_OUT CHECKPOINT ADAPTER.gguf\n"), 2;
    const char *checkpoint = argv[4];

    if (ramet_runtime_create(&runtime, NULL) || ramet_model_load_path(&model, runtime, argv[1])) goto failed;
    if (ramet_dataset_create(&train, model) || ramet_dataset_add_file(train, argv[2])) goto failed;
    if (ramet_dataset_create(&held_out, model) || ramet_dataset_add_file(held_out, argv[3])) goto failed;
    if (measure(model, held_out, NULL, "before")) goto failed;

    ramet_tuner_options_init(&options, sizeof options); /* the defaults, then what is to be different */
    options.steps = 40;
    options.window = 128;
    options.rank = 8;
    options.learning_rate = 1e-3f;
    if (ramet_tuner_create(&tuner, model, train, &options)) goto failed;
    ramet_status status = ramet_tuner_resume(tuner, checkpoint);
    if (status && status != RAMET_E_NOT_FOUND) goto failed; /* no checkpoint yet is no failure */
    do {
        if (ramet_tuner_step(&report, tuner, 10, 0, NULL, NULL) || ramet_tuner_save(tuner, checkpoint)) goto failed;
        printf("step %lld of %lld: loss %.4f\n", (long long)report.step, (long long)report.steps, report.loss);
    } while (!report.done);

    if (ramet_tuner_adapter(&adapter, tuner) || measure(model, held_out, adapter, "after")) goto failed;
    if (ramet_adapter_save(adapter, argv[5])) goto failed;
    code = EXIT_SUCCESS;
failed:
    if (code) fprintf(stderr, "tune: %s\n", ramet_last_error());
    ramet_adapter_free(adapter);
    ramet_tuner_free(tuner);
    ramet_dataset_free(held_out);
    ramet_dataset_free(train);
    ramet_model_free(model);
    ramet_runtime_free(runtime);
    return code;
}
