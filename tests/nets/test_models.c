/* SPDX-License-Identifier: Apache-2.0 */
/* test_models.c - a llama inside a graph: frozen it is itself, gradients of pairs and weights by differences, adapters and models from variables,
 * what is refused. Encoders, and PyTorch beside, are in tests/golden/adapting.py. */
#include "../train/support.h"
#include "ramet/graph.h"

#define ROWS 9
static const char *const names[] = {"tokens", "pos", "seq", "last", "y"};
static const int32_t tokens[ROWS] = {5, 80, 11, 200, 7, 7, 93, 31, 4}, pos[ROWS] = {0, 1, 2, 3, 0, 1, 2, 3, 4}, seq[ROWS] = {0, 0, 0, 0, 1, 1, 1, 1, 1}, last[2] = {3, 8};
static const float y[2] = {.5f, -1};

typedef struct scene { ramet_model *m; ramet_variables *v; ramet_graph *g; ramet_program *p; } scene;

/* The mean square of a head at the last rows against y. */
static scene begin(ramet_model *m, const ramet_graph_model_options *o) {
    scene s = {.m = m};
    int32_t in[3], at, loss;
    ok(ramet_variables_create(&s.v, m->rt));
    ok(ramet_variables_add(s.v, "head", 1, 64, "normal:.1", 1, 1));
    ok(ramet_graph_create(&s.g, m->rt, 16, 2));
    ok(ramet_graph_model(&in[0], s.g, s.v, m, o));
    ok(ramet_graph_input(&in[1], s.g, "last", RAMET_TYPE_I32, RAMET_AXIS_OUTS, 0));
    ok(ramet_graph_apply(&at, 1, s.g, "gather", in, 2, NULL));
    in[0] = at;
    ok(ramet_graph_output(s.g, "rows", at));
    ok(ramet_graph_variable(&in[1], s.g, s.v, "head"));
    ok(ramet_graph_apply(&in[0], 1, s.g, "linear", in, 2, NULL));
    ok(ramet_graph_input(&in[1], s.g, "y", RAMET_TYPE_F32, RAMET_AXIS_OUTS, 1));
    ok(ramet_graph_apply(&loss, 1, s.g, "mse", in, 2, NULL));
    ok(ramet_graph_output(s.g, "loss", loss));
    ok(ramet_graph_train(s.g, s.v, loss));
    ok(ramet_program_create(&s.p, s.g, RAMET_MODE_EXACT));
    return s;
}

static double loss_of(const scene *s) {
    const void *data[] = {tokens, pos, seq, last, y};
    const float *loss;
    ok(ramet_program_run(s->p, ROWS, 2, names, data, 5, NULL, NULL));
    ok(ramet_program_output(&loss, NULL, NULL, s->p, "loss"));
    return *loss;
}

static void end(scene *s) {
    ramet_program_free(s->p);
    ramet_graph_free(s->g);
    ramet_variables_free(s->v);
}

static int setup(void **state) { return (*state = tiny(2)) ? 0 : -1; }
static int teardown(void **state) { ramet_model_free(*state); return 0; }

static void set(ramet_variables *v, const char *name, int64_t n) { /* a B that is not zero */
    float x[128 * 4];
    for (int64_t i = 0; i < n; i++) x[i] = (float)((i * 37) % 101 - 50) / 500;
    ok(ramet_variables_write(v, name, x, n));
}

static void gradient_is_the_difference(const scene *s, const char *name) {
    int64_t n = 0;
    for (int64_t i = 0; i < ramet_variables_count(s->v); i++) {
        const char *is;
        int64_t rows, columns;
        ok(ramet_variables_at(&is, &rows, &columns, NULL, s->v, i));
        if (!strcmp(is, name)) n = (rows ? rows : 1) * columns;
    }
    assert_true(n > 0);
    float *was = malloc((size_t)n * sizeof *was), *g = malloc((size_t)n * sizeof *g), *x = malloc((size_t)n * sizeof *x);
    double length = 0, side[2];
    ramet_step_options o;
    ramet_step_options_init(&o, sizeof o);
    o.learning_rate = 0;
    ok(ramet_variables_step(NULL, s->v, &o)); /* clears the sums */
    loss_of(s);
    ok(ramet_variables_read(g, n, s->v, name, 1));
    ok(ramet_variables_read(was, n, s->v, name, 0));
    for (int64_t i = 0; i < n; i++) length += (double)g[i] * g[i];
    length = sqrt(length);
    assert_true(length > 1e-4);
    for (int32_t j = 0; j < 2; j++) { /* along the gradient */
        for (int64_t i = 0; i < n; i++) x[i] = was[i] + (j ? -5e-3f : 5e-3f) * g[i] / (float)length;
        ok(ramet_variables_write(s->v, name, x, n));
        side[j] = loss_of(s);
    }
    ok(ramet_variables_write(s->v, name, was, n));
    assert_float_equal((side[0] - side[1]) / 1e-2 / length, 1, 2e-2);
    free(was);
    free(g);
    free(x);
}

static void test_pairs(void **state) {
    ramet_graph_model_options o;
    ramet_adapter *a = NULL;
    ramet_model *merged = NULL;
    const float *rows;
    float with[128];
    ramet_graph_model_options_init(&o, sizeof o);
    o.rank = 4;
    o.alpha = 8;
    o.targets = "q_proj,down_proj";
    scene s = begin(*state, &o), frozen;
    assert_int_equal(ramet_variables_count(s.v), 1 + 2 * 4);
    set(s.v, "blk.0.attn_q.weight.lora_b", 64 * 4);
    set(s.v, "blk.1.ffn_down.weight.lora_b", 64 * 4);
    gradient_is_the_difference(&s, "blk.0.attn_q.weight.lora_a");
    gradient_is_the_difference(&s, "blk.0.attn_q.weight.lora_b");
    gradient_is_the_difference(&s, "blk.1.ffn_down.weight.lora_b");
    loss_of(&s);
    ok(ramet_program_output(&rows, NULL, NULL, s.p, "rows"));
    memcpy(with, rows, sizeof with);
    ok(ramet_variables_adapter(&a, s.v, *state, 8)); /* merged and frozen it gives the same rows */
    ok(ramet_model_merge(&merged, *state, (const ramet_adapter *const[]){a}, NULL, 1, NULL, NULL, NULL));
    frozen = begin(merged, NULL);
    assert_int_equal(ramet_variables_count(frozen.v), 1);
    loss_of(&frozen);
    ok(ramet_program_output(&rows, NULL, NULL, frozen.p, "rows"));
    for (int32_t i = 0; i < 128; i++) assert_float_equal(rows[i], with[i], 1e-4);
    ramet_adapter *none = NULL;
    fails(ramet_variables_adapter(&none, frozen.v, *state, 8), RAMET_E_NOT_FOUND, "no pairs");
    end(&s);
    end(&frozen);
    ramet_adapter_free(a);
    ramet_model_free(merged);
}

static void test_weights(void **state) {
    ramet_graph_model_options o;
    ramet_model *m = NULL, *after = NULL;
    const float *rows;
    float with[128];
    ramet_graph_model_options_init(&o, sizeof o);
    o.full = 1;
    o.targets = "norms,v_proj";
    scene s = begin(*state, &o), frozen;
    assert_int_equal(ramet_variables_count(s.v), 1 + 5 + 2);
    gradient_is_the_difference(&s, "blk.0.attn_v.weight");
    gradient_is_the_difference(&s, "blk.1.ffn_norm.weight");
    ok(ramet_variables_step(NULL, s.v, NULL));
    const double loss = loss_of(&s);
    ok(ramet_program_output(&rows, NULL, NULL, s.p, "rows"));
    memcpy(with, rows, sizeof with);
    ok(ramet_variables_model(&after, s.v, *state, NULL));
    frozen = begin(after, NULL);
    assert_true(fabs(loss_of(&frozen) - loss) > 1e-9); /* another head */
    ok(ramet_program_output(&rows, NULL, NULL, frozen.p, "rows"));
    for (int32_t i = 0; i < 128; i++) assert_float_equal(rows[i], with[i], 1e-5);
    fails(ramet_variables_model(&m, frozen.v, *state, NULL), RAMET_E_NOT_FOUND, "no variable");
    fails(ramet_variables_model(&m, s.v, *state, "Q9"), RAMET_E_ARGUMENT, "Q9");
    end(&s);
    end(&frozen);
    ramet_model_free(after);
}

static void test_wrong_use(void **state) {
    ramet_model *m = *state;
    ramet_graph_model_options o;
    ramet_variables *v;
    ramet_graph *g;
    int32_t x = -1, y1 = -1;
    ramet_graph_model_options_init(&o, sizeof o);
    ok(ramet_variables_create(&v, m->rt));
    ok(ramet_graph_create(&g, m->rt, 16, 2));
    fails(ramet_graph_model(&x, NULL, v, m, &o), RAMET_E_ARGUMENT, "NULL");
    fails(ramet_graph_model(&x, g, v, NULL, &o), RAMET_E_ARGUMENT, "model is NULL");
    o.rank = 2;
    fails(ramet_graph_model(&x, g, NULL, m, &o), RAMET_E_ARGUMENT, "variables handle");
    o.full = 1;
    fails(ramet_graph_model(&x, g, v, m, &o), RAMET_E_ARGUMENT, "or neither");
    o.rank = 0;
    o.targets = "w";
    fails(ramet_graph_model(&x, g, v, m, &o), RAMET_E_ARGUMENT, "\"w\"");
    o.targets = "v_proj";
    ok(ramet_variables_add(v, "blk.0.attn_v.weight", 2, 2, "zeros", 0, 1));
    fails(ramet_graph_model(&x, g, v, m, &o), RAMET_E_INCONSISTENT, "'blk.0.attn_v.weight' has another shape");
    assert_int_equal(x, -1);
    ok(ramet_graph_model(&x, g, NULL, m, NULL)); /* the graph goes on, and the same model may come twice */
    ok(ramet_graph_model(&y1, g, NULL, m, NULL));
    ramet_graph_free(g);
    ramet_variables_free(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pairs), cmocka_unit_test(test_weights), cmocka_unit_test(test_wrong_use)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
