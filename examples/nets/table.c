/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - a net that learns a table of numbers: features, then the target, a row a line, separated by commas.    table FILE.csv [SAVE-TO]
 *
 * Columns are brought to mean 0 and deviation 1; every fifth row is held out. Prints R^2 on what was held out: 1 is perfect, 0 is the mean. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ramet/graph.h>

#define BATCH 32
#define HIDDEN 32
#define STEPS 3000
#define MOST 64 /* columns */

static void check(ramet_status status) {
    if (!status) return;
    fprintf(stderr, "table: %s\n", ramet_last_error());
    exit(1);
}
static int32_t apply(ramet_graph *g, const char *op, int32_t a, int32_t b, int32_t c) {
    int32_t in[3], y;
    in[0] = a, in[1] = b, in[2] = c;
    check(ramet_graph_apply(&y, 1, g, op, in, c >= 0 ? 3 : b >= 0 ? 2 : 1, NULL));
    return y;
}
static int32_t variable(ramet_graph *g, ramet_variables *v, const char *name) {
    int32_t value;
    check(ramet_graph_variable(&value, g, v, name));
    return value;
}
/* Rows of numbers; lines that hold other things (a header) are skipped. */
static float *read_table(const char *path, int64_t *rows, int64_t *columns) {
    FILE *file = fopen(path, "r");
    char line[8192];
    float *data = NULL;
    int64_t room = 0;
    if (!file) return NULL;
    *rows = *columns = 0;
    while (fgets(line, sizeof line, file)) {
        float row[MOST];
        int64_t n = 0;
        char *at = line, *end;
        for (; n < MOST; at = end + 1) {
            row[n] = strtof(at, &end);
            if (end == at) break;
            n++;
            if (*end != ',') break;
        }
        if (n < 2 || (*columns && n != *columns)) continue;
        *columns = n;
        if (*rows == room) {
            float *more = realloc(data, (size_t)(room = 2 * room + 64) * (size_t)n * sizeof *data);
            if (!more) break;
            data = more;
        }
        memcpy(data + (*rows)++ * n, row, (size_t)n * sizeof *row);
    }
    fclose(file);
    return data;
}
static void standardize(float *data, int64_t rows, int64_t columns) {
    int64_t r, c;
    for (c = 0; c < columns; c++) {
        double sum = 0, square = 0, mean, deviation;
        for (r = 0; r < rows; r++) sum += data[r * columns + c];
        mean = sum / (double)rows;
        for (r = 0; r < rows; r++) square += (data[r * columns + c] - mean) * (data[r * columns + c] - mean);
        deviation = sqrt(square / (double)rows);
        for (r = 0; r < rows; r++) data[r * columns + c] = (float)((data[r * columns + c] - mean) / (deviation > 0 ? deviation : 1));
    }
}

int main(int argc, char **argv) {
    const char *names[2] = {"x", "y"};
    const void *inputs[2];
    int64_t rows, columns, features, step, r, held = 0;
    ramet_runtime *rt;
    ramet_variables *v;
    ramet_graph *g;
    ramet_program *p;
    ramet_step_options o;
    int32_t x, y, h, out, loss;
    double error = 0, sum = 0, square = 0;
    float *data = argc > 1 ? read_table(argv[1], &rows, &columns) : NULL;
    if (!data || rows < 2 * BATCH) {
        fprintf(stderr, "table: usage: table FILE.csv [SAVE-TO]; a file of at least %d rows of at most %d numbers\n", 2 * BATCH, MOST);
        free(data);
        return 2;
    }
    standardize(data, rows, columns);
    features = columns - 1;
    check(ramet_runtime_create(&rt, NULL));
    check(ramet_variables_create(&v, rt));
    check(ramet_variables_add(v, "w1", HIDDEN, features, "he", 1, 1));
    check(ramet_variables_add(v, "b1", 0, HIDDEN, "zeros", 0, 1));
    check(ramet_variables_add(v, "w2", 1, HIDDEN, "he", 1, 1));
    check(ramet_variables_add(v, "b2", 0, 1, "zeros", 0, 1));
    check(ramet_graph_create(&g, rt, BATCH, 0));
    check(ramet_graph_input(&x, g, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, features));
    check(ramet_graph_input(&y, g, "y", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 1));
    h = apply(g, "silu", apply(g, "linear", x, variable(g, v, "w1"), variable(g, v, "b1")), -1, -1);
    out = apply(g, "linear", h, variable(g, v, "w2"), variable(g, v, "b2"));
    loss = apply(g, "huber", out, y, -1);
    check(ramet_graph_train(g, v, loss));
    check(ramet_graph_output(g, "loss", loss));
    check(ramet_program_create(&p, g, 0));
    ramet_graph_free(g);

    ramet_step_options_init(&o, sizeof o);
    o.learning_rate = 3e-3f;
    o.weight_decay = 0.1f;
    for (step = 0; step < STEPS; step++) {
        float in[BATCH * MOST], target[BATCH];
        const float *now;
        for (r = 0; r < BATCH; r++) { /* rows that are not held out, in an order that jumps about */
            int64_t at = (int64_t)(((uint64_t)(step * BATCH + r) * 2654435761u) % (uint64_t)(rows - rows / 5));
            at += at / 4; /* 0 1 2 3 . 5 6 7 8 . */
            if (at >= rows) at = 0;
            memcpy(in + r * features, data + at * columns, (size_t)features * sizeof *in);
            target[r] = data[at * columns + features];
        }
        inputs[0] = in, inputs[1] = target;
        check(ramet_program_run(p, BATCH, 0, names, inputs, 2, NULL, NULL));
        check(ramet_variables_step(NULL, v, &o));
        o.learning_rate = 3e-3f * (float)(STEPS - step) / STEPS;
        if (step % 500 == 0) {
            check(ramet_program_output(&now, NULL, NULL, p, "loss"));
            printf("step %4d: loss %.4f\n", (int)step, (double)*now);
        }
    }
    ramet_program_free(p);

    /* the same variables in a program that only predicts */
    check(ramet_graph_create(&g, rt, 1, 0));
    check(ramet_graph_input(&x, g, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, features));
    h = apply(g, "silu", apply(g, "linear", x, variable(g, v, "w1"), variable(g, v, "b1")), -1, -1);
    check(ramet_graph_output(g, "y", apply(g, "linear", h, variable(g, v, "w2"), variable(g, v, "b2"))));
    check(ramet_program_create(&p, g, 0));
    ramet_graph_free(g);
    for (r = 4; r < rows; r += 5, held++) {
        const float *found;
        double target = data[r * columns + features];
        inputs[0] = data + r * columns;
        check(ramet_program_run(p, 1, 0, names, inputs, 1, NULL, NULL));
        check(ramet_program_output(&found, NULL, NULL, p, "y"));
        error += (*found - target) * (*found - target);
        sum += target;
        square += target * target;
    }
    printf("%d rows held out: R^2 %.3f\n", (int)held, 1 - error / (square - sum * sum / (double)held));
    if (argc > 2) check(ramet_variables_save(v, argv[2]));
    ramet_program_free(p);
    ramet_variables_free(v);
    ramet_runtime_free(rt);
    free(data);
    return 0;
}
