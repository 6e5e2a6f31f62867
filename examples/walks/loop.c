/* SPDX-License-Identifier: Apache-2.0 */
/* loop.c - parent to variant to update to parent, one turn. The two sides share files alone: the variant and the brief go down, the
 * update comes up; the variant's text TRAIN never does. OWN is the parent's own text, HELD_OUT what the gate measures.
 * usage: loop PARENT OWN TRAIN HELD_OUT, in an empty folder */
#include <ramet/ramet.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    ramet_runtime *runtime = NULL;
    ramet_model *parent = NULL, *variant = NULL;
    ramet_store *store = NULL;
    ramet_dataset *own = NULL, *train = NULL;
    ramet_tuner *tuner = NULL;
    ramet_adapter *learned = NULL;
    ramet_candidate *candidate = NULL;
    ramet_task *task[2] = {NULL, NULL};
    int32_t *ids = NULL, passed = 0;
    int64_t version = 1;
    char *verdict = NULL;
    int code = EXIT_FAILURE;
    if (argc != 5) return fprintf(stderr, "usage: loop PARENT OWN TRAIN HELD_OUT\n"), 2;
    const char *own_path = argv[2], *held_out_path = argv[4], *update_path = "update.safetensors";
    if (ramet_runtime_create(&runtime, NULL) || ramet_model_load_path(&parent, runtime, argv[1])) goto failed;

    /* The parent's side: a store with the parent as version 1, a brief, and a variant with fewer channels. */
    if (ramet_store_init(&store, runtime, "store", parent) || ramet_brief_create(store, "brief.safetensors", NULL)) goto failed;
    if (ramet_dataset_create(&own, parent) || ramet_dataset_add_file(own, own_path)) goto failed;
    ramet_prune_options prune;
    ramet_prune_options_init(&prune, sizeof prune);
    prune.keep = .8;
    prune.window = 128;
    prune.count = ramet_dataset_tokens(own) < 4096 ? ramet_dataset_tokens(own) : 4096;
    if (!(ids = malloc((size_t)(prune.count + 1) * sizeof *ids)) || ramet_dataset_read(ids, own, 0, prune.count)) goto failed;
    prune.ids = ids;
    if (ramet_prune(&variant, parent, &prune) || ramet_model_save(variant, "variant.gguf", NULL, NULL)) goto failed;

    /* The variant's side: adapt to its own text, then write what was learned as an update. */
    ramet_tuner_options tune;
    ramet_tuner_options_init(&tune, sizeof tune);
    tune.steps = 40;
    tune.window = 128;
    tune.learning_rate = 1e-3f;
    ramet_tuner_report report = {.struct_size = sizeof report};
    if (ramet_dataset_create(&train, variant) || ramet_dataset_add_file(train, argv[3])) goto failed;
    if (ramet_tuner_create(&tuner, variant, train, &tune) || ramet_tuner_step(&report, tuner, tune.steps, 0, NULL, NULL)) goto failed;
    ramet_update_options update;
    ramet_update_options_init(&update, sizeof update);
    update.task = "stories";
    update.examples = report.tokens;
    if (ramet_tuner_adapter(&learned, tuner)) goto failed;
    update.adapter = learned;
    if (ramet_update_create(update_path, variant, "brief.safetensors", &update)) goto failed;

    /* The parent's side again: absorb the update, measure the candidate, make it the new parent or leave everything as it is. */
    ramet_gate_options gate;
    ramet_gate_options_init(&gate, sizeof gate);
    gate.window = 128;
    gate.guards = 1; /* the last task, the parent's own text, only must not get worse */
    if (ramet_feed(&candidate, store, "lift", &update_path, 1, NULL)) goto failed;
    if (ramet_task_from_files(&task[0], runtime, "stories", &held_out_path, 1) || ramet_task_from_files(&task[1], runtime, "own", &own_path, 1)) goto failed;
    if (ramet_gate(&passed, &verdict, store, candidate, task, 2, &gate)) goto failed;
    if (passed && ramet_commit(&version, store, candidate)) goto failed;
    printf("%s\nthe gate says %s; the parent is version %lld\n", verdict, passed ? "better" : "not better", (long long)version);
    code = EXIT_SUCCESS;
failed:
    if (code) fprintf(stderr, "loop: %s\n", ramet_last_error());
    ramet_string_free(verdict);
    free(ids);
    ramet_task_free(task[0]);
    ramet_task_free(task[1]);
    ramet_candidate_free(candidate);
    ramet_adapter_free(learned);
    ramet_tuner_free(tuner);
    ramet_dataset_free(train);
    ramet_dataset_free(own);
    ramet_model_free(variant);
    ramet_store_free(store);
    ramet_model_free(parent);
    ramet_runtime_free(runtime);
    return code;
}
