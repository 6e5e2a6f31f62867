/* SPDX-License-Identifier: Apache-2.0 */
/* test_calls.c - every operation that can be applied by name is applied, over variables: its gradient and the gradient of that against central
 * differences. A capital is a variable whose rows are the run's, "#name" an index below. */
#include "nets/nets.h"
#include "../graph/graph_test.h"

#define MOST 7
static const struct { const char *op, *settings, *in; int32_t second; } cases[] = {
    {"add", "", "x:3x4 y:3x4", 1}, {"sub", "", "x:3x4 b:4", 1}, {"mul", "", "x:3x4 b:1", 1}, {"scale", "by=-2", "x:3x4", 1},
    {"relu", "", "x:3x4", 1}, {"leaky_relu", "slope=.2", "x:3x4", 1}, {"abs", "", "x:3x4", 1}, {"silu", "", "x:3x4", 1}, {"gelu", "", "x:3x4", 1},
    {"sigmoid", "", "x:3x4", 1}, {"tanh", "", "x:3x4", 1}, {"softplus", "", "x:3x4", 1}, {"exp", "", "x:3x4", 1}, {"log", "", "p:3x4", 1},
    {"recip", "", "p:3x4", 1}, {"rsqrt", "", "p:3x4", 1}, {"sqrt", "", "p:3x4", 1}, {"step", "", "x:3x4", 1}, {"sum", "", "x:3x4", 1},
    {"mean", "", "x:3x4", 1}, {"sum_rows", "", "x:3x4", 1}, {"mean_rows", "", "x:3x4", 1}, {"row_sum", "", "x:3x4", 1}, {"row_mean", "", "x:3x4", 1},
    {"row_max", "", "x:3x4", 1}, {"row_scale", "", "x:3x4 s:3x1", 1}, {"row_fill", "columns=4", "s:3x1", 1}, {"l2_normalize", "", "x:3x4", 1},
    {"softmax", "groups=2", "x:3x4", 1}, {"lse", "", "x:3x4", 1}, {"slice", "at=1,count=2", "x:3x4", 1}, {"concat", "", "x:3x4 y:3x2 z:3x1", 1},
    {"linear", "", "x:3x4 w:2x4 b:2", 1}, {"conv2d", "height=3,width=4,kernel=2,stride=1,pad=1", "x:2x24 w:3x8 b:3", 1},
    {"max_pool2d", "height=4,width=3,size=2,stride=1", "x:2x24", 1}, {"avg_pool2d", "height=4,width=4,size=2", "x:2x32", 1},
    {"batch_norm", "eps=.01", "x:4x6 w:3 b:3", 1}, {"batch_norm_fixed", "eps=.01", "x:4x6 w:3 b:3 m:3 p:3", 1}, {"layer_norm", "", "x:3x4 w:4 b:4", 1},
    {"rms_norm", "", "x:3x4 w:4", 1}, {"gru_cell", "", "x:3x4 h:3x2 w:6x4 v:6x2 b:6 c:6", 1}, {"lstm_cell", "", "x:3x4 h:3x2 c:3x2 w:8x4 v:8x2 b:8 d:8", 1},
    {"kl", "", "x:3x4 y:3x4", 1}, {"mse", "", "x:3x4 y:3x4", 1}, {"huber", "delta=1.1", "x:3x4 y:3x4", 1}, {"binary_cross_entropy", "", "x:3x4 s:3x4", 1},
    {"pick", "", "X:3x4 #pick", 1}, {"onehot", "columns=5", "X:3x1 #picks", 1}, {"edit", "", "X:3x4 Y:3x4 #mask", 1}, {"embed", "", "x:4x3 #pick", 1},
    {"gather", "", "X:3x4 #out", 1}, {"segment_mean", "", "X:3x4 #segment", 1}, {"shift", "", "X:3x4 #seq", 1}, {"shift", "reversed=1", "X:3x4 #seq", 1},
    {"scan", "", "X:3x2 Y:3x2 #seq", 1}, {"scan", "reversed=1", "X:3x2 Y:3x2 #seq", 1}, {"dropout", "rate=.4,seed=3", "X:3x4 #step", 1},
    {"attention", "heads=2,kv_heads=1,head_dim=2", "Q:3x4 K:3x2 V:3x2 #seq", 1}, {"attention", "heads=1,kv_heads=1,head_dim=3,whole=1", "Q:3x3 K:3x3 V:3x3 #seq", 1},
    {"cross_entropy", "", "X:3x4 #label", 1}, {"info_nce", "temperature=.7", "X:3x4 Y:3x4 #seq #place", 1}, {"top_k", "k=2", "x:3x4", 1}, {"experts", "", "x:3x4 w:6x4 c:3x3", 1},
    {"margin", "margin=.3", "x:3x4 y:3x4", 1}, {"pairwise_logistic", "", "x:3x4 y:3x4", 1},
};
static const char *const elsewhere[] = {"stop_gradient", "reverse_gradient"}; /* no derivatives: test_nets.c, tests/graph/test_run.c */
static const int32_t numbers[3] = {0, 1, 2}, pick[3] = {2, -1, 0}, mask[3] = {0, 1, 0}, out[2] = {2, 0}, segment[3] = {1, 0, 1}, seq[3] = {0, 0, 1}, label[3] = {1, 3, 0}, place[3] = {1, -1, 0}, one_step = 5;
static const struct { const char *name; const int32_t *data; int32_t axis, columns; } indices[] = {
    {"rows", numbers, RAMET_AXIS_ROWS, 0}, {"pick", pick, RAMET_AXIS_ROWS, 0}, {"mask", mask, RAMET_AXIS_ROWS, 0}, {"out", out, RAMET_AXIS_OUTS, 0}, {"picks", pick, RAMET_AXIS_ROWS, 1},
    {"segment", segment, RAMET_AXIS_ROWS, 0}, {"seq", seq, RAMET_AXIS_ROWS, 0}, {"label", label, RAMET_AXIS_ROWS, 0}, {"place", place, RAMET_AXIS_ROWS, 0}, {"step", &one_step, RAMET_AXIS_STATIC, 1}};

typedef struct scene { ramet_runtime *rt; ramet_variables *v; int32_t n; char name[MOST][2]; int64_t rows[MOST], columns[MOST], count[MOST]; ramet_program *p; int32_t used[10]; } scene;

static int32_t index_of(scene *s, ramet_graph *g, const char *name) {
    int32_t i = 0, x;
    for (size_t n = strcspn(name, " "); strlen(indices[i].name) != n || strncmp(indices[i].name, name, n);) assert_true(++i < RAMET__COUNT(indices));
    OK(ramet_graph_input(&x, g, indices[i].name, RAMET_TYPE_I32, indices[i].axis, indices[i].columns));
    s->used[i] = 1;
    return x;
}

static double number(scene *s, const char *name) {
    const float *y;
    const char *given[10];
    const void *data[10];
    int32_t n = 0;
    for (int32_t i = 0; i < RAMET__COUNT(indices); i++)
        if (s->used[i]) {
            given[n] = indices[i].name;
            data[n++] = indices[i].data;
        }
    OK(ramet_program_run(s->p, n ? 3 : 0, n ? 2 : 0, given, data, n, NULL, NULL));
    OK(ramet_program_output(&y, NULL, NULL, s->p, name));
    return *y;
}
/* Along a direction, of the fourth order. */
static double slope(scene *s, const char *name, int32_t i, const float *d) {
    float at[64], moved[64];
    double found[2];
    OK(ramet_variables_read(at, s->count[i], s->v, s->name[i], 0));
    for (int32_t half = 0; half < 2; half++) {
        double h = half ? 0.01 : 0.02, f[2];
        for (int32_t k = 0; k < 2; k++) {
            for (int64_t j = 0; j < s->count[i]; j++) moved[j] = at[j] + (float)(k ? -h : h) * d[j];
            OK(ramet_variables_write(s->v, s->name[i], moved, s->count[i]));
            f[k] = number(s, name);
        }
        found[half] = (f[0] - f[1]) / (2 * h);
    }
    OK(ramet_variables_write(s->v, s->name[i], at, s->count[i]));
    return (4 * found[1] - found[0]) / 3;
}
/* sum(y * weights) + sum(y * y) / 4 of all results, so that no element counts like another */
static int32_t probe(ramet_graph *g, ramet_variables *v, int32_t y, int32_t i) {
    int64_t rows, columns;
    int32_t p, sum, square, in[2] = {y, y};
    char name[8];
    OK(ramet_graph_shape(NULL, &rows, &columns, g, y));
    snprintf(name, sizeof name, "q%d", i);
    OK(ramet_variables_add(v, name, 0, columns, "normal", 3, 0));
    OK(ramet_graph_variable(&p, g, v, name));
    OK(ramet_graph_apply(&square, 1, g, "mul", in, 2, NULL));
    OK(ramet_graph_apply(&square, 1, g, "scale", &square, 1, "by=.25"));
    in[1] = p;
    OK(ramet_graph_apply(&sum, 1, g, "mul", in, 2, NULL));
    in[0] = sum;
    in[1] = square;
    OK(ramet_graph_apply(&sum, 1, g, "add", in, 2, NULL));
    OK(ramet_graph_apply(&sum, 1, g, "sum", &sum, 1, NULL));
    return sum;
}
static void check(int32_t at) {
    scene s = {0};
    ramet_graph *g;
    int32_t given[MOST], in[MOST], n_given = 0, outs[4], grad[MOST], second[MOST], loss = -1, dot = -1;
    float direction[MOST][64];
    s.rt = test_runtime(1);
    OK(ramet_variables_create(&s.v, s.rt));
    OK(ramet_graph_create(&g, s.rt, 3, 2));
    for (const char *t = cases[at].in; *t;) {
        char *end;
        if (*t == '#') {
            given[n_given++] = index_of(&s, g, t + 1);
            t += strcspn(t, " ");
            t += *t == ' ';
            continue;
        }
        long rows = 0, columns = strtol(t + 2, &end, 10);
        if (*end == 'x') rows = columns, columns = strtol(end + 1, &end, 10);
        snprintf(s.name[s.n], 2, "%c", *t);
        s.rows[s.n] = rows;
        s.columns[s.n] = columns;
        s.count[s.n] = RAMET__MAX(rows, 1) * columns;
        OK(ramet_variables_add(s.v, s.name[s.n], rows, columns, *t == 'p' || *t == 's' ? "uniform:.4" : "normal", 5, 1));
        if (*t == 'p' || *t == 's') { /* between .2 and 1 */
            float x[64];
            OK(ramet_variables_read(x, s.count[s.n], s.v, s.name[s.n], 0));
            for (int64_t j = 0; j < s.count[s.n]; j++) x[j] += 0.6f;
            OK(ramet_variables_write(s.v, s.name[s.n], x, s.count[s.n]));
        }
        for (int64_t j = 0; j < s.count[s.n]; j++) direction[s.n][j] = uniform((uint64_t)s.n + 11, j);
        OK(ramet_graph_variable(&in[s.n], g, s.v, s.name[s.n]));
        given[n_given] = in[s.n];
        if (*t >= 'A' && *t <= 'Z') OK(ramet_graph_apply(&given[n_given], 1, g, "embed", (int32_t[]){in[s.n], index_of(&s, g, "rows")}, 2, NULL));
        n_given++;
        s.n++;
        t = end + (*end == ' ');
    }
    int32_t n_out = 0;
    while (n_out < 4 && !ramet_graph_apply(outs, n_out + 1, g, cases[at].op, given, n_given, cases[at].settings)) n_out++;
    if (!n_out) fail_msg("%s: %s", cases[at].op, ramet_last_error());
    for (int32_t i = 0; i < n_out; i++) {
        int32_t pair[2] = {loss, probe(g, s.v, outs[i], i)};
        if (loss < 0) loss = pair[1];
        else OK(ramet_graph_apply(&loss, 1, g, "add", pair, 2, NULL));
    }
    OK(ramet_graph_gradient(grad, g, loss, in, s.n));
    for (int32_t i = 0; i < s.n; i++) {
        char name[8];
        int32_t pair[2] = {grad[i], -1}, along;
        if (grad[i] < 0) continue; /* step */
        snprintf(name, sizeof name, "e%d", i);
        OK(ramet_variables_add(s.v, name, s.rows[i], s.columns[i], "zeros", 0, 0));
        OK(ramet_variables_write(s.v, name, direction[i], s.count[i]));
        OK(ramet_graph_variable(&pair[1], g, s.v, name));
        OK(ramet_graph_apply(&along, 1, g, "mul", pair, 2, NULL));
        OK(ramet_graph_apply(&along, 1, g, "sum", &along, 1, NULL));
        snprintf(name, sizeof name, "g%d", i);
        OK(ramet_graph_output(g, name, along));
        int32_t sum[2] = {dot, along};
        if (dot < 0) dot = along;
        else OK(ramet_graph_apply(&dot, 1, g, "add", sum, 2, NULL));
    }
    OK(ramet_graph_output(g, "loss", loss));
    if (dot >= 0 && cases[at].second) {
        OK(ramet_graph_output(g, "dot", dot));
        OK(ramet_graph_gradient(second, g, dot, in, s.n));
        for (int32_t i = 0; i < s.n; i++) {
            char name[8];
            int32_t pair[2] = {second[i], -1}, along;
            if (second[i] < 0 || grad[i] < 0) continue;
            snprintf(name, sizeof name, "e%d", i);
            OK(ramet_graph_variable(&pair[1], g, s.v, name));
            OK(ramet_graph_apply(&along, 1, g, "mul", pair, 2, NULL));
            OK(ramet_graph_apply(&along, 1, g, "sum", &along, 1, NULL));
            snprintf(name, sizeof name, "h%d", i);
            OK(ramet_graph_output(g, name, along));
        }
    }
    OK(ramet_program_create(&s.p, g, 0));
    ramet_graph_free(g);
    for (int32_t i = 0; i < s.n; i++)
        for (int32_t order = 1; order < 3; order++) {
            char name[16];
            const float *y;
            snprintf(name, sizeof name, "%c%d", order == 1 ? 'g' : 'h', i);
            number(&s, "loss");
            if (ramet_program_output(&y, NULL, NULL, s.p, name)) continue;
            double got = *y, want = slope(&s, order == 1 ? "loss" : "dot", i, direction[i]);
            if (!(fabs(got - want) <= 1e-2 * (fabs(want) + 0.2)))
                fail_msg("%s: derivative %d for %s: %.7g, differences %.7g", cases[at].op, order, s.name[i], got, want);
        }
    ramet_program_free(s.p);
    ramet_variables_free(s.v);
    ramet_runtime_free(s.rt);
}
static void test_calls_match_differences(void **state) {
    (void)state;
    for (int32_t i = 0; i < RAMET__COUNT(cases); i++) check(i);
}
static void test_every_call_is_somewhere(void **state) {
    (void)state;
    static const char *const names[] = {
#define RAMET__CALL(name, signature, summary) #name,
#include "nets/calls.def"
#undef RAMET__CALL
    };
    for (int32_t i = 0; i < RAMET__COUNT(names); i++) {
        int32_t found = 0;
        for (int32_t j = 0; j < RAMET__COUNT(cases); j++) found |= !strcmp(cases[j].op, names[i]);
        for (int32_t j = 0; j < RAMET__COUNT(elsewhere); j++) found |= !strcmp(elsewhere[j], names[i]);
        if (!found) fail_msg("no case applies '%s'", names[i]);
    }
}
int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_calls_match_differences), cmocka_unit_test(test_every_call_is_somewhere)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
