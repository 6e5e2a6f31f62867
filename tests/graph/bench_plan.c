/* SPDX-License-Identifier: Apache-2.0 */
/* bench_plan.c - how fast a plan runs on a SmolLM2-135M-shaped graph with random weights: one row after 128 positions,
 * a prefill of 512 rows, a LoRA training step of 512 rows in two sequences. Not a test; prints rates and, with "steps",
 * each step's time. bench_plan [threads] [Q4_0|F32|...] [steps] */
#include "graph_test.h"
#include <time.h>

enum { LAYERS = 30, D = 576, F = 1536, V = 49152, HEADS = 9, KV = 3, HD = 64, RANK = 16, BLOCK = 64, R = 512 };
static const int64_t n_of[7] = {576, 192, 192, 576, 1536, 1536, 576}, k_of[7] = {576, 576, 576, 576, 576, 576, 1536};
static ramet__weight *norm, *linear[LAYERS * 7], *head;

static double seconds(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static double cpu(void) { return (double)clock() / CLOCKS_PER_SEC; } /* of all threads: tells more on a busy machine */
static ramet__val lin(ramet__graph *g, int32_t i, ramet__val x, int32_t slots) {
    ramet__slot s = {-1, -1};
    if (slots) s = ramet__graph_slot(g, ramet__weight_name(linear[i]), n_of[i % 7], k_of[i % 7]);
    return ramet__op_linear(g, x, ramet__graph_weight(g, linear[i]), -1, slots ? &s : NULL);
}
static ramet__val build(ramet__graph *g, int32_t cached, int32_t slots) {
    ramet__cache_layout layout = {LAYERS, KV, HD, BLOCK};
    ramet__val pos = ramet__graph_input(g, "pos", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0),
               seq = ramet__graph_input(g, "seq", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0),
               w = ramet__graph_weight(g, norm);
    ramet__val x = ramet__op_embed(g, ramet__graph_weight(g, head),
                                   ramet__graph_input(g, "tokens", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0));
    for (int32_t l = 0; l < LAYERS; l++) {
        int32_t i = l * 7;
        ramet__val n = ramet__op_rms_norm(g, x, w, 1e-5f),
                   q = ramet__op_rope(g, lin(g, i, n, slots), pos, HEADS, HD, HD, 1e5f, 0),
                   k = ramet__op_rope(g, lin(g, i + 1, n, slots), pos, KV, HD, HD, 1e5f, 0);
        ramet__val v = lin(g, i + 2, n, slots);
        ramet__val a = cached ? ramet__op_cache_attention(g, q, k, v, seq, pos, &layout, l, HEADS)
                              : ramet__op_attention(g, q, k, v, seq, HEADS, KV, HD);
        x = ramet__op_add(g, x, lin(g, i + 3, a, slots));
        n = ramet__op_rms_norm(g, x, w, 1e-5f);
        ramet__val gate = ramet__op_silu(g, lin(g, i + 4, n, slots));
        x = ramet__op_add(g, x, lin(g, i + 6, ramet__op_mul(g, gate, lin(g, i + 5, n, slots)), slots));
    }
    x = ramet__op_gather(g, ramet__op_rms_norm(g, x, w, 1e-5f),
                         ramet__graph_input(g, "outs", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0));
    return ramet__op_linear(g, x, ramet__graph_weight(g, head), -1, NULL);
}
static void report(const char *what, ramet__plan *p, const ramet__run *run, int32_t times, int64_t rows,
                   int32_t steps) {
    OK(ramet__plan_run(p, run));
    double best = 1e30, work = cpu();
    for (int32_t i = 0; i < times; i++) {
        double t = seconds();
        OK(ramet__plan_run(p, run));
        best = fmin(best, seconds() - t);
    }
    work = (cpu() - work) / times;
    printf("%-8s %8.1f rows/s  %8.2f ms, %8.2f ms of processor time  %6.1f MiB\n", what, (double)rows / best,
           best * 1000, work * 1000, (double)ramet__plan_bytes(p) / 1048576.0);
    if (!steps) return;
    struct {
        const ramet__op *op;
        int64_t cols;
        double us;
        int32_t n;
    } sum[64];
    int32_t n = 0;
    for (int64_t i = 0; i < p->n_steps; i++) {
        const ramet__step *s = &p->steps[i];
        int32_t j = 0;
        while (j < n && (sum[j].op != s->op || sum[j].cols != s->out[0]->cols)) j++;
        if (j == n && n < 64) {
            sum[n].op = s->op;
            sum[n].cols = s->out[0]->cols;
            sum[n].us = 0;
            sum[n++].n = 0;
        }
        sum[j].us += (double)s->nanoseconds / 1000.0 / (double)s->runs;
        sum[j].n++;
    }
    for (int32_t j = 0; j < n; j++)
        printf("    %-18s %6lld  %4d x  %10.1f us\n", sum[j].op->name, (long long)sum[j].cols, sum[j].n, sum[j].us);
}

int main(int argc, char **argv) {
    ramet_runtime *rt = test_runtime(argc > 1 ? atoi(argv[1]) : 0);
    int32_t e = argc > 2 ? ramet__encoding_find(argv[2]) : RAMET__ENC_Q4_0, steps = argc > 3;
    if (e < 0) return 1;
    norm = make_weight(rt, "norm", RAMET__ENC_F32, D, 0, 1);
    for (int32_t i = 0; i < LAYERS * 7; i++) {
        char name[24];
        snprintf(name, sizeof name, "linear%d", i);
        linear[i] = make_weight(rt, name, (ramet__enc)e, n_of[i % 7], k_of[i % 7], 0.1f);
    }
    head = make_weight(rt, "head", RAMET__ENC_Q8_0, V, D, 0.1f);
    static int32_t tokens[R], pos[R], seq[R], outs[R], labels[R];
    static float weight[R];
    ramet__cache_layout layout = {LAYERS, KV, HD, BLOCK};
    void *blocks[16];
    for (int32_t b = 0; b < 16; b++) blocks[b] = calloc(1, ramet__cache_block_bytes(&layout));
    ramet__seq_view view = {blocks, 16};
    for (int32_t i = 0; i < R; i++) {
        tokens[i] = i * 37 % V;
        pos[i] = i;
        outs[i] = R - 1;
    }
    ramet__graph *g;
    ramet__plan *p;
    ramet__plan_options o = {.mode = RAMET__MODE_BALANCED, .max_context = 1024, .timing = steps};
    OK(ramet__graph_create(&g, rt, R, 1, 0));
    ramet__graph_output(g, "logits", build(g, 1, 0));
    OK(ramet__plan_create(&p, g, &o));
    ramet__run run = {.rows = R, .outs = 1, .seqs = &view, .n_seqs = 1};
    give(&run, "tokens", tokens);
    give(&run, "pos", pos);
    give(&run, "seq", seq);
    give(&run, "outs", outs);
    report("prefill", p, &run, 3, R, steps);
    ramet__plan_free(p);
    OK(ramet__plan_create(&p, g, &o));
    ramet__graph_free(g);
    run.rows = 1;
    pos[0] = 128;
    outs[0] = 0;
    report("decode", p, &run, 50, 1, steps);
    ramet__plan_free(p);

    OK(ramet__graph_create(&g, rt, R, R, RANK));
    ramet__val loss = ramet__op_cross_entropy(
        g, build(g, 0, 1), ramet__graph_input(g, "labels", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0),
        ramet__graph_input(g, "weight", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 0), NULL);
    static ramet__val wrt[LAYERS * 14], grad[LAYERS * 14];
    static ramet__slot_entry entry[LAYERS * 7];
    static ramet__var sums[LAYERS * 14];
    for (int32_t i = 0; i < LAYERS * 7; i++) {
        ramet__slot s = ramet__graph_slot(g, ramet__weight_name(linear[i]), n_of[i % 7], k_of[i % 7]);
        wrt[2 * i] = s.a;
        wrt[2 * i + 1] = s.b;
        entry[i] = (ramet__slot_entry){random_floats(RANK * k_of[i % 7], 1, 0.02f),
                                       random_floats(RANK * n_of[i % 7], 2, 0.02f), 2, RANK};
        sums[2 * i] = make_var("sum", RANK, k_of[i % 7], 0);
        sums[2 * i + 1] = make_var("sum", n_of[i % 7], RANK, 0);
    }
    OK(ramet__graph_gradient(g, loss, wrt, LAYERS * 14, grad));
    for (int32_t i = 0; i < LAYERS * 14; i++) ramet__op_write(g, &sums[i], grad[i], 1);
    ramet__graph_output(g, "loss", loss);
    OK(ramet__plan_create(&p, g, &o));
    ramet__graph_free(g);
    const ramet__slot_entry *list[1] = {entry};
    ramet__run train = {.rows = R, .outs = R, .adapters = list, .n_adapters = 1};
    for (int32_t i = 0; i < R; i++) {
        pos[i] = i % 256;
        seq[i] = i / 256;
        outs[i] = i;
        labels[i] = i * 31 % V;
        weight[i] = 1.0f / R;
    }
    give(&train, "tokens", tokens);
    give(&train, "pos", pos);
    give(&train, "seq", seq);
    give(&train, "outs", outs);
    give(&train, "labels", labels);
    give(&train, "weight", weight);
    report("lora", p, &train, 2, R, steps);
    ramet__plan_free(p);
    return 0;
}
