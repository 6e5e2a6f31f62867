/* SPDX-License-Identifier: Apache-2.0 */
/* test_nets_oom.c - the first, second, third ... allocation fails while a small net is made, planned, run, saved and loaded. */
#include "../tools/failing.h"
#include "ramet/graph.h"
#include <unistd.h>

static ramet_status attempt(ramet_runtime *rt, void *path) {
    ramet_status st = RAMET_OK;
    ramet_variables *v = NULL, *again = NULL;
    ramet_graph *g = NULL;
    ramet_program *p = NULL;
    int32_t in[3], y, loss;
    const char *names[] = {"x"};
    const float x[2 * 16] = {1};
    const void *data[] = {x};
    MAKE(v, ramet_variables_create(&v, rt));
    GO(ramet_variables_add(v, "w", 2, 9, "he", 1, 1));
    GO(ramet_variables_add(v, "b", 0, 2, "zeros", 1, 1));
    MAKE(g, ramet_graph_create(&g, rt, 2, 1));
    GO(ramet_graph_input(&in[0], g, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 16));
    GO(ramet_graph_variable(&in[1], g, v, "w"));
    GO(ramet_graph_variable(&in[2], g, v, "b"));
    GO(ramet_graph_apply(&y, 1, g, "conv2d", in, 3, "height=4,width=4,kernel=3"));
    GO(ramet_graph_apply(&y, 1, g, "max_pool2d", &y, 1, "height=2,width=2,size=2"));
    GO(ramet_graph_apply(&loss, 1, g, "sum", &y, 1, NULL));
    GO(ramet_graph_train(g, v, loss));
    GO(ramet_graph_output(g, "loss", loss));
    MAKE(p, ramet_program_create(&p, g, 0));
    GO(ramet_program_run(p, 2, 0, names, data, 1, NULL, NULL));
    GO(ramet_variables_step(NULL, v, NULL));
    GO(ramet_variables_save(v, path));
    MAKE(again, ramet_variables_create(&again, rt));
    GO(ramet_variables_add(again, "b", 0, 2, "zeros", 1, 1));
    GO(ramet_variables_load(again, path));
out:
    ramet_program_free(p);
    ramet_graph_free(g);
    ramet_variables_free(v);
    ramet_variables_free(again);
    return st;
}
static ramet_status attempt_model(ramet_runtime *rt, void *unused) {
    ramet_status st = RAMET_OK;
    ramet_model *m = NULL, *after = NULL;
    ramet_variables *v = NULL;
    ramet_graph *g = NULL;
    ramet_program *p = NULL;
    ramet_adapter *a = NULL;
    ramet_graph_model_options o;
    int32_t rows, loss;
    const char *names[] = {"tokens", "pos", "seq"};
    const int32_t two[2] = {0, 1}, zeros[2] = {0, 0};
    const void *data[] = {two, two, zeros};
    (void)unused;
    ramet_graph_model_options_init(&o, sizeof o);
    o.full = 1;
    o.targets = "norms";
    MAKE(m, ramet_model_load_path(&m, rt, getenv("RAMET_TINY_MODEL")));
    MAKE(v, ramet_variables_create(&v, rt));
    MAKE(g, ramet_graph_create(&g, rt, 2, 1));
    GO(ramet_graph_model(&rows, g, v, m, &o));
    o.full = 0;
    o.rank = 1;
    o.targets = "v_proj";
    GO(ramet_graph_model(&rows, g, v, m, &o));
    GO(ramet_graph_apply(&loss, 1, g, "sum", &rows, 1, NULL));
    GO(ramet_graph_train(g, v, loss));
    MAKE(p, ramet_program_create(&p, g, 0));
    GO(ramet_program_run(p, 2, 0, names, data, 3, NULL, NULL));
    MAKE(a, ramet_variables_adapter(&a, v, m, 1));
    MAKE(after, ramet_variables_model(&after, v, m, NULL));
out:
    ramet_program_free(p);
    ramet_graph_free(g);
    ramet_variables_free(v);
    ramet_adapter_free(a);
    ramet_model_free(after);
    ramet_model_free(m);
    return st;
}
static ramet_status attempt_scan(ramet_runtime *rt, void *unused) {
    ramet_status st = RAMET_OK;
    ramet_variables *v = NULL;
    ramet_graph *g = NULL, *body = NULL;
    ramet_program *p = NULL;
    int32_t in[3], x, seq, y, loss;
    const char *const names[] = {"x", "seq"};
    const float rows[4] = {1, 2, 3, 4};
    const int32_t seqs[4] = {0, 0, 0, 1};
    const void *data[] = {rows, seqs};
    (void)unused;
    MAKE(v, ramet_variables_create(&v, rt));
    GO(ramet_variables_add(v, "w", 1, 1, "ones", 1, 1));
    MAKE(g, ramet_graph_create(&g, rt, 4, 0));
    GO(ramet_graph_input(&x, g, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 1));
    GO(ramet_graph_input(&seq, g, "seq", RAMET_TYPE_I32, RAMET_AXIS_ROWS, 0));
    MAKE(body, ramet_graph_create(&body, rt, 2, 0));
    GO(ramet_graph_input(&in[0], body, "h", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 1));
    GO(ramet_graph_variable(&in[1], body, v, "w"));
    GO(ramet_graph_apply(&in[0], 1, body, "linear", in, 2, NULL));
    GO(ramet_graph_input(&in[1], body, "x", RAMET_TYPE_F32, RAMET_AXIS_ROWS, 1));
    GO(ramet_graph_apply(&y, 1, body, "add", in, 2, NULL));
    GO(ramet_graph_output(body, "h", y));
    GO(ramet_graph_scan(&y, 1, g, body, names, &x, 1, seq, 0));
    body = NULL;
    GO(ramet_graph_apply(&loss, 1, g, "sum", &y, 1, NULL));
    GO(ramet_graph_train(g, v, loss));
    MAKE(p, ramet_program_create(&p, g, 0));
    GO(ramet_program_run(p, 4, 0, names, data, 2, NULL, NULL));
    float sum;
    GO(ramet_variables_read(&sum, 1, v, "w", 1));
    assert_true(sum == 5); /* of 1, 3, 6 and 4 */
out:
    ramet_program_free(p);
    ramet_graph_free(g);
    ramet_graph_free(body);
    ramet_variables_free(v);
    return st;
}
static void test_a_loop_with_a_body(void **state) {
    (void)state;
    fail_each(attempt_scan, NULL, 60);
}
static void test_a_model_inside(void **state) {
    (void)state;
    fail_each(attempt_model, NULL, 100);
}
static void test_a_small_net(void **state) {
    (void)state;
    char path[] = "/tmp/ramet-nets-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    fail_each(attempt, path, 40);
    unlink(path);
}
int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_small_net), cmocka_unit_test(test_a_model_inside), cmocka_unit_test(test_a_loop_with_a_body)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
