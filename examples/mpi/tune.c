/* SPDX-License-Identifier: Apache-2.0 */
/* tune.c - LoRA tuning by several processes: mpirun -n 4 mpi_tune MODEL DATA ADAPTER [STEPS [MICRO_BATCH]]. Every process loads the model and the
 * data and tunes on its part of each batch; MPI_Allreduce sums the gradients, so all hold the same weights, and the first one writes them. */
#include <limits.h>
#include <mpi.h>
#include <ramet/ramet.h>
#include <stdio.h>
#include <stdlib.h>

static int32_t all_reduce(float *values, int64_t count, void *user) {
    const int64_t most = 1 << 28; /* MPI counts in int */
    int code = MPI_SUCCESS;
    (void)user;
    for (int64_t at = 0; at < count && code == MPI_SUCCESS; at += most)
        code = MPI_Allreduce(MPI_IN_PLACE, values + at, (int)(count - at < most ? count - at : most), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    return code;
}

int main(int argc, char **argv) {
    ramet_runtime_options runtime_options;
    ramet_tuner_options o;
    ramet_tuner_report r;
    ramet_runtime *rt = NULL;
    ramet_model *model = NULL;
    ramet_dataset *data = NULL;
    ramet_tuner *tuner = NULL;
    ramet_adapter *adapter = NULL;
    int worker, workers, failed = 0;
    if (MPI_Init(&argc, &argv) != MPI_SUCCESS) return 1;
    MPI_Comm_rank(MPI_COMM_WORLD, &worker);
    MPI_Comm_size(MPI_COMM_WORLD, &workers);
    if (argc < 4) {
        if (!worker) fprintf(stderr, "usage: mpirun -n N mpi_tune MODEL DATA ADAPTER [STEPS [MICRO_BATCH]]\n");
        MPI_Finalize();
        return 2;
    }
    ramet_runtime_options_init(&runtime_options, sizeof runtime_options);
    runtime_options.threads = 1;
    ramet_tuner_options_init(&o, sizeof o);
    o.window = 64;
    o.batch = 4;
    o.micro_batch = argc > 5 ? atoi(argv[5]) : 1;
    o.steps = argc > 4 ? atoi(argv[4]) : 20;
    o.learning_rate = 1e-3f;
    o.all_reduce = all_reduce;
    o.worker = worker;
    o.workers = workers;
    r.struct_size = sizeof r;
    failed = ramet_runtime_create(&rt, &runtime_options) || ramet_model_load_path(&model, rt, argv[1]) || ramet_dataset_create(&data, model) ||
             ramet_dataset_add_file(data, argv[2]) || ramet_tuner_create(&tuner, model, data, &o) || ramet_tuner_step(&r, tuner, o.steps, 0, NULL, NULL) ||
             (!worker && (ramet_tuner_adapter(&adapter, tuner) || ramet_adapter_save(adapter, argv[3])));
    if (failed) {
        fprintf(stderr, "worker %d: %s\n", worker, ramet_last_error());
        MPI_Abort(MPI_COMM_WORLD, 1); /* the others may be waiting for this one */
    }
    if (!worker) printf("%lld steps by %d processes, %lld tokens, loss %.9g\n", (long long)r.step, workers, (long long)r.tokens, r.loss);
    ramet_adapter_free(adapter);
    ramet_tuner_free(tuner);
    ramet_dataset_free(data);
    ramet_model_free(model);
    ramet_runtime_free(rt);
    MPI_Finalize();
    return 0;
}
