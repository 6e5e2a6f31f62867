/* SPDX-License-Identifier: Apache-2.0 */
/* test_gradient.c - gradients and Hessian-vector products of every operation against central differences. Each case
 * builds a loss over variables; differences are taken at two steps and extrapolated (error of the fourth order). */
#include "graph_test.h"

#define R 5
#define O 3
#define MAX_VARS 8

typedef struct scene {
    ramet_runtime *rt;
    ramet__graph *g;
    ramet__var var[MAX_VARS];
    int32_t n;
    ramet__weight *weight[4];
    int32_t n_weights;
    ramet__enc enc;
} scene;
typedef ramet__val (*build_fn)(scene *s);

static const int32_t ids[R] = {3, 0, 3, -1, 6}, pos[R] = {0, 1, 2, 0, 1}, seq[R] = {4, 4, 4, 9, 9}, outs[O] = {4, 1, 1},
                     labels[O] = {2, -1, 6}, mask[R] = {0, 1, 0, 0, 2}, segment[R] = {0, 0, 2, 1, 1}, some[R * 2] = {3, 3, 0, 6, -1, 2, -1, -1, 5, 4};
static const float weights[O] = {0.5f, 1.0f, 2.0f};
static const int32_t top_ids[O * 3] = {2, 0, 5, 1, -1, -1, 6, 3, 4};
static const float top_p[O * 3] = {0.5f, 0.2f, 0.1f, 0.9f, 0, 0, 0.3f, 0.3f, 0.4f};

static ramet__val var(scene *s, const char *name, int64_t n, int64_t k, float size) {
    int32_t i = 0;
    while (i < s->n && strcmp(s->var[i].name, name)) i++;
    if (i == s->n) s->var[s->n++] = make_var(name, n, k, size);
    return ramet__graph_var(s->g, &s->var[i]);
}
static ramet__val encoded(scene *s, int32_t i, const char *name, int64_t n, int64_t k) {
    if (i >= s->n_weights) s->weight[s->n_weights++] = make_weight(s->rt, name, s->enc, n, k, 0.5f);
    return ramet__graph_weight(s->g, s->weight[i]);
}
static ramet__val in_rows(scene *s, const char *name) {
    return ramet__graph_input(s->g, name, RAMET__TYPE_I32, RAMET__AXIS_ROWS, 0);
}
static ramet__val in_outs(scene *s, const char *name) {
    return ramet__graph_input(s->g, name, RAMET__TYPE_I32, RAMET__AXIS_OUTS, 0);
}
/* Rows [R, cols] that depend on a variable. */
static ramet__val rows_of(scene *s, const char *name, int64_t cols) {
    return ramet__op_embed(s->g, var(s, name, 7, cols, 1.0f), in_rows(s, "ids"));
}
/* A number that weighs every element differently: sum(x * sin-like constants * x) */
static ramet__val number(scene *s, ramet__val x, const char *probe) {
    int64_t cols = ramet__gcols(ramet__graph_shape(s->g, x));
    ramet__val p = var(s, probe, cols, 0, 1.0f);
    return ramet__op_add(s->g, ramet__op_sum(s->g, ramet__op_mul(s->g, x, p)),
                         ramet__op_scale(s->g, ramet__op_sum(s->g, ramet__op_mul(s->g, x, x)), 0.25f));
}

static ramet__val case_add(scene *s) {
    return number(
        s, ramet__op_add(s->g, ramet__op_add(s->g, rows_of(s, "a", 4), rows_of(s, "b", 4)), var(s, "c", 4, 0, 1)), "p");
}
static ramet__val case_sub(scene *s) {
    return number(
        s, ramet__op_sub(s->g, ramet__op_sub(s->g, rows_of(s, "a", 4), rows_of(s, "b", 4)), var(s, "c", 1, 0, 1)), "p");
}
static ramet__val case_mul(scene *s) {
    return number(
        s, ramet__op_mul(s->g, ramet__op_mul(s->g, rows_of(s, "a", 4), rows_of(s, "b", 4)), var(s, "c", 1, 0, 1)), "p");
}
static ramet__val case_scale(scene *s) { return number(s, ramet__op_scale(s->g, rows_of(s, "a", 4), -1.7f), "p"); }
static ramet__val case_silu(scene *s) { return number(s, ramet__op_silu(s->g, rows_of(s, "a", 20)), "p"); }
static ramet__val case_sigmoid(scene *s) { return number(s, ramet__op_sigmoid(s->g, rows_of(s, "a", 4)), "p"); }
static ramet__val case_exp(scene *s) { return number(s, ramet__op_exp(s->g, rows_of(s, "a", 4)), "p"); }
static ramet__val positive(scene *s) {
    return ramet__op_add(s->g, ramet__op_mul(s->g, rows_of(s, "a", 4), rows_of(s, "a", 4)),
                         ramet__graph_const(s->g, 0.7f));
}
static ramet__val case_log(scene *s) { return number(s, ramet__op_log(s->g, positive(s)), "p"); }
static ramet__val case_recip(scene *s) { return number(s, ramet__op_recip(s->g, positive(s)), "p"); }
static ramet__val case_rsqrt(scene *s) { return number(s, ramet__op_rsqrt(s->g, positive(s)), "p"); }
/* numbers far apart and far from zero: no difference crosses a kink */
static ramet__val apart(scene *s, ramet__val x, int64_t cols) {
    return ramet__op_add(s->g, x, ramet__graph_input(s->g, cols == 20 ? "sides" : "order", RAMET__TYPE_F32, RAMET__AXIS_ROWS, cols));
}
static ramet__val case_relu(scene *s) {
    ramet__val x = apart(s, rows_of(s, "a", 20), 20);
    return number(s, ramet__op_mul(s->g, ramet__op_relu(s->g, x), x), "p");
}
static ramet__val case_tanh(scene *s) { return number(s, ramet__op_tanh(s->g, rows_of(s, "a", 4)), "p"); }
static ramet__val case_softplus(scene *s) { return number(s, ramet__op_softplus(s->g, rows_of(s, "a", 4)), "p"); }
static ramet__val case_slice(scene *s) {
    ramet__val x = rows_of(s, "a", 6);
    return number(s, ramet__op_add(s->g, ramet__op_place(s->g, ramet__op_slice(s->g, ramet__op_mul(s->g, x, x), 1, 3), 4, 7),
                                   ramet__op_place(s->g, x, 1, 7)), "p");
}
static ramet__val case_fold(scene *s) {
    ramet__val x = rows_of(s, "a", 6), c = ramet__op_fold(s->g, ramet__op_sum_rows(s->g, x), 2);
    return ramet__op_add(s->g, number(s, ramet__op_repeat(s->g, ramet__op_fold(s->g, ramet__op_mul(s->g, x, x), 3), 9), "p"),
                         number(s, ramet__op_over_rows(s->g, ramet__op_repeat(s->g, c, 4), x), "q"));
}
static ramet__val case_dropout(scene *s) {
    ramet__val step = ramet__graph_input(s->g, "step", RAMET__TYPE_I32, RAMET__AXIS_STATIC, 1), x = rows_of(s, "a", 6);
    return number(s, ramet__op_dropout(s->g, ramet__op_mul(s->g, x, x), step, 0.4, 3), "p");
}
static ramet__val case_conv2d(scene *s) { /* 4 x 5 pixels of 2 channels, padded */
    ramet__val y = ramet__op_conv2d(s->g, rows_of(s, "a", 40), var(s, "w", 3, 18, 0.5f), var(s, "b", 3, 0, 1), 4, 5, 3, 1, 1);
    return number(s, ramet__op_silu(s->g, y), "p");
}
static ramet__val case_conv2d_stride(scene *s) { /* short copies, a stride, no bias */
    ramet__val y = ramet__op_conv2d(s->g, rows_of(s, "a", 42), var(s, "w", 4, 9, 0.5f), -1, 6, 7, 3, 2, 1);
    return number(s, ramet__op_silu(s->g, y), "p");
}
static ramet__val case_max_pool(scene *s) {
    ramet__val x = rows_of(s, "a", 40);
    return number(s, ramet__op_max_pool(s->g, apart(s, ramet__op_mul(s->g, x, x), 40), 4, 5, 2, 2, 2), "p");
}
static ramet__val case_pool_sum(scene *s) {
    ramet__val x = rows_of(s, "a", 40);
    return number(s, ramet__op_pool_sum(s->g, ramet__op_mul(s->g, x, x), 4, 5, 3, 2, 1), "p");
}
static ramet__val case_swiglu(scene *s) {
    return number(s, ramet__op_mul(s->g, ramet__op_silu(s->g, rows_of(s, "a", 20)), rows_of(s, "b", 20)), "p");
}
static ramet__val case_sums(scene *s) {
    ramet__val x = rows_of(s, "a", 4), r = ramet__op_row_sum(s->g, x), c = ramet__op_sum_rows(s->g, x);
    return ramet__op_add(
        s->g,
        number(s,
               ramet__op_row_scale(s->g, ramet__op_row_fill(s->g, r, 4), ramet__op_row_sum(s->g, rows_of(s, "b", 3))),
               "p"),
        number(s, c, "q"));
}
static ramet__val case_softmax(scene *s) { return number(s, ramet__op_softmax(s->g, rows_of(s, "a", 9), 1), "p"); }
static ramet__val case_lse(scene *s) { return number(s, ramet__op_lse(s->g, rows_of(s, "a", 9)), "p"); }
static ramet__val case_pick(scene *s) {
    return number(s,
                  ramet__op_onehot(s->g,
                                   ramet__op_keep(s->g, ramet__op_pick(s->g, rows_of(s, "a", 7), in_rows(s, "ids")),
                                                  in_rows(s, "ids")),
                                   in_rows(s, "ids"), 8),
                  "p");
}
static ramet__val case_pick_some(scene *s) { /* several columns a row, one of them twice in the first */
    ramet__val k = ramet__graph_input(s->g, "some", RAMET__TYPE_I32, RAMET__AXIS_ROWS, 2), x = rows_of(s, "a", 7);
    return number(s, ramet__op_onehot(s->g, ramet__op_pick(s->g, ramet__op_mul(s->g, x, x), k), k, 8), "p");
}
static ramet__val case_edit(scene *s) {
    return number(s, ramet__op_edit(s->g, rows_of(s, "a", 4), rows_of(s, "b", 4), in_rows(s, "mask")), "p");
}
static ramet__val case_gather(scene *s) {
    return number(s, ramet__op_gather(s->g, rows_of(s, "a", 4), in_outs(s, "outs")), "p");
}
static ramet__val case_experts(scene *s) { /* rows of both experts, which is no variable's business */
    ramet__val choice = ramet__op_slice(s->g, ramet__graph_input(s->g, "order", RAMET__TYPE_F32, RAMET__AXIS_ROWS, 40), 1, 2);
    return number(s, ramet__op_experts(s->g, rows_of(s, "a", 4), var(s, "w", 6, 4, 1.0f), choice), "p");
}
static ramet__val case_fill(scene *s) {
    ramet__gshape shape = *ramet__graph_shape(s->g, rows_of(s, "a", 4));
    return number(s, ramet__op_mul(s->g, ramet__op_fill(s->g, var(s, "c", 4, 0, 1), &shape), rows_of(s, "a", 4)), "p");
}
static ramet__val case_rms_norm(scene *s) {
    return number(s, ramet__op_rms_norm(s->g, rows_of(s, "a", 20), var(s, "w", 20, 0, 1), 1e-3f), "p");
}
static ramet__val case_rope(scene *s) {
    return number(s, ramet__op_rope(s->g, rows_of(s, "a", 16), in_rows(s, "pos"), 2, 8, 6, 100.0f, 0), "p");
}
static ramet__val case_rope_halves(scene *s) {
    return number(s, ramet__op_rope(s->g, rows_of(s, "a", 16), in_rows(s, "pos"), 2, 8, 8, 100.0f, 1), "p");
}
static ramet__val case_linear(scene *s) {
    return number(s, ramet__op_linear(s->g, rows_of(s, "a", 20), var(s, "w", 6, 20, 1), var(s, "b", 6, 0, 1), NULL),
                  "p");
}
static ramet__val case_linear_encoded(scene *s) {
    return number(
        s, ramet__op_silu(s->g, ramet__op_linear(s->g, rows_of(s, "a", 32), encoded(s, 0, "W", 18, 32), -1, NULL)),
        "p");
}
static ramet__val case_attention(scene *s) {
    return number(s,
                  ramet__op_attention(s->g, rows_of(s, "a", 32), rows_of(s, "k", 16), rows_of(s, "v", 16),
                                      in_rows(s, "seq"), 4, 2, 8),
                  "p");
}
static const ramet__heads heads = {4, 2, 3};
static ramet__val case_head_nt(scene *s) {
    return number(
        s, ramet__op_head_nt(s->g, rows_of(s, "a", 12), rows_of(s, "k", 6), in_rows(s, "seq"), &heads, 0.6f, 0), "p");
}
static ramet__val case_head_nn(scene *s) {
    return number(
        s, ramet__op_head_nn(s->g, rows_of(s, "s", 4 * R), rows_of(s, "k", 6), in_rows(s, "seq"), &heads, 0.6f), "p");
}
static ramet__val case_head_tn(scene *s) {
    return number(
        s, ramet__op_head_tn(s->g, rows_of(s, "s", 4 * R), rows_of(s, "a", 12), in_rows(s, "seq"), &heads, 0.6f), "p");
}
static ramet__val case_groups(scene *s) {
    ramet__val x = ramet__op_softmax(s->g, rows_of(s, "a", 12), 3),
               y = ramet__op_group_sum(s->g, rows_of(s, "b", 8), 4);
    return number(s, ramet__op_mul(s->g, x, ramet__op_row_fill(s->g, y, 12)), "p");
}
static ramet__val case_step(scene *s) { /* a ramp */
    ramet__val x = rows_of(s, "a", 4);
    return number(s, ramet__op_mul(s->g, ramet__op_mul(s->g, x, x), ramet__op_step(s->g, x)), "p");
}
static ramet__val case_scan(scene *s) {
    return number(s, ramet__op_scan(s->g, rows_of(s, "a", 3), rows_of(s, "x", 3), in_rows(s, "seq"), 0), "p");
}
static ramet__val case_scan_reversed(scene *s) {
    return number(s, ramet__op_scan(s->g, rows_of(s, "a", 3), rows_of(s, "x", 3), in_rows(s, "seq"), 1), "p");
}
/* A net of one's own: the state h and, in results, rows, a sum over steps, a matrix that is made in every step, one that is given in the place of a variable. */
static ramet__val recurrent(scene *s, int64_t at_once, int32_t reversed) {
    ramet__graph *g = s->g, *b = NULL;
    ramet__val x = rows_of(s, "a", 3), given = var(s, "u", 3, 3, 0.5f), out[3] = {-1, -1, -1};
    OK(ramet__graph_create(&b, s->rt, at_once, 0, 0));
    s->g = b;
    ramet__val h = ramet__graph_input(b, "h", RAMET__TYPE_F32, RAMET__AXIS_ROWS, 3), v = ramet__graph_input(b, "x", RAMET__TYPE_F32, RAMET__AXIS_ROWS, 3),
               w = var(s, "w", 3, 3, 0.5f), u = var(s, "u", 3, 3, 0.5f);
    ramet__val z = ramet__op_linear(b, h, ramet__op_mul(b, w, w), var(s, "b", 3, 0, 1), NULL), y = ramet__op_tanh(b, ramet__op_add(b, v, z));
    s->g = g;
    ramet__graph_output(b, "y", ramet__op_mul(b, y, ramet__op_linear(b, v, u, -1, NULL)));
    ramet__graph_output(b, "h", y);
    ramet__graph_output(b, "s", ramet__op_sum_rows(b, ramet__op_mul(b, y, v)));
    ramet__op_scan_body(g, b, (ramet__val[]){v, u}, (ramet__val[]){x, ramet__op_mul(g, given, given)}, 2, in_rows(s, "seq"), reversed, out);
    if (ramet__graph_status(g)) ramet__graph_free(b);
    return ramet__op_add(g, ramet__op_add(g, number(s, out[0], "p"), number(s, out[1], "q")), number(s, out[2], "r"));
}
static ramet__val case_scan_body(scene *s) { return recurrent(s, 2, 0); }
static ramet__val case_scan_body_one_at_once(scene *s) { return recurrent(s, 1, 1); }
static ramet__val case_shift(scene *s) {
    ramet__val x = rows_of(s, "x", 3), of = in_rows(s, "seq");
    return number(
        s,
        ramet__op_mul(s->g, ramet__op_shift(s->g, x, of, 0), ramet__op_shift(s->g, ramet__op_mul(s->g, x, x), of, 1)),
        "p");
}
static ramet__val case_attention_whole(scene *s) {
    return number(s,
                  ramet__op_attention_whole(s->g, rows_of(s, "a", 32), rows_of(s, "k", 16), rows_of(s, "v", 16),
                                            in_rows(s, "seq"), 4, 2, 8),
                  "p");
}
static ramet__val case_gelu(scene *s) { return number(s, ramet__op_gelu(s->g, rows_of(s, "a", 20)), "p"); }
static ramet__val case_gelu_tanh(scene *s) { return number(s, ramet__op_gelu_tanh(s->g, rows_of(s, "a", 20)), "p"); }
static ramet__val case_erf(scene *s) { return number(s, ramet__op_erf(s->g, rows_of(s, "a", 4)), "p"); }
static ramet__val case_layer_norm(scene *s) {
    return number(s, ramet__op_layer_norm(s->g, rows_of(s, "a", 20), var(s, "w", 20, 0, 1), var(s, "b", 20, 0, 1), 1e-3f),
                  "p");
}
static ramet__val case_pool(scene *s) {
    return number(s, ramet__op_l2_normalize(s->g, ramet__op_segment_mean(s->g, rows_of(s, "a", 6), in_rows(s, "segment"))),
                  "p");
}
static ramet__val loss_weight(scene *s) {
    return ramet__graph_input(s->g, "weight", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 0);
}
static ramet__val picked(scene *s, const char *name) {
    return ramet__op_gather(s->g, rows_of(s, name, 8), in_outs(s, "outs"));
}
static ramet__val case_cross_entropy(scene *s) {
    ramet__val row, l = ramet__op_cross_entropy(s->g, picked(s, "a"), in_outs(s, "labels"), loss_weight(s), &row);
    return ramet__op_add(s->g, l, ramet__op_sum(s->g, ramet__op_mul(s->g, row, row)));
}
static ramet__val case_kl_top(scene *s) {
    ramet__val row, k = ramet__graph_input(s->g, "top_ids", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 3),
                    p = ramet__graph_input(s->g, "top_p", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 3);
    ramet__val l = ramet__op_kl_top(s->g, picked(s, "a"), k, p, loss_weight(s), &row);
    return ramet__op_add(s->g, l, ramet__op_sum(s->g, ramet__op_mul(s->g, row, row)));
}
static ramet__val skewed(scene *s, ramet__val logits, int32_t reverse, float skew) {
    ramet__val row, k = ramet__graph_input(s->g, "top_ids", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 3),
                    p = ramet__graph_input(s->g, "top_p", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 3);
    return ramet__op_kl_skewed(s->g, logits, k, p, loss_weight(s), reverse, skew, &row);
}
static ramet__val case_kl_skewed(scene *s) { return skewed(s, picked(s, "a"), 0, 0.25f); }
static ramet__val case_kl_reverse(scene *s) { return skewed(s, picked(s, "a"), 1, 0.25f); }
static ramet__val case_kl(scene *s) { return ramet__op_kl(s->g, picked(s, "a"), picked(s, "b"), loss_weight(s), NULL); }
static ramet__val case_mse(scene *s) {
    return ramet__op_mse(s->g, picked(s, "a"), picked(s, "b"), loss_weight(s), NULL);
}
static ramet__val case_head(scene *s) { /* fuses into head_loss */
    ramet__val x = ramet__op_gather(s->g, rows_of(s, "a", 32), in_outs(s, "outs"));
    return ramet__op_cross_entropy(s->g, ramet__op_linear(s->g, x, encoded(s, 0, "W", 48, 32), -1, NULL),
                                   in_outs(s, "labels"), loss_weight(s), NULL);
}
static ramet__val case_head_kl(scene *s) {
    ramet__val x = ramet__op_gather(s->g, rows_of(s, "a", 32), in_outs(s, "outs"));
    ramet__val k = ramet__graph_input(s->g, "top_ids", RAMET__TYPE_I32, RAMET__AXIS_OUTS, 3),
               p = ramet__graph_input(s->g, "top_p", RAMET__TYPE_F32, RAMET__AXIS_OUTS, 3);
    return ramet__op_kl_top(s->g, ramet__op_linear(s->g, x, encoded(s, 0, "W", 48, 32), -1, NULL), k, p, loss_weight(s),
                            NULL);
}
static ramet__val case_head_reverse(scene *s) {
    ramet__val x = ramet__op_gather(s->g, rows_of(s, "a", 32), in_outs(s, "outs"));
    return skewed(s, ramet__op_linear(s->g, x, encoded(s, 0, "W", 48, 32), -1, NULL), 1, 0.5f);
}
/* One whole layer: every fusion at once. */
static ramet__val case_layer(scene *s) {
    ramet__graph *g = s->g;
    ramet__val x = rows_of(s, "x", 32), n = ramet__op_rms_norm(g, x, var(s, "n", 32, 0, 1), 1e-3f),
               w = encoded(s, 0, "W", 32, 32), v = encoded(s, 1, "V", 64, 32), d = encoded(s, 2, "D", 32, 64);
    ramet__val q = ramet__op_rope(g, ramet__op_linear(g, n, w, -1, NULL), in_rows(s, "pos"), 4, 8, 8, 100.0f, 0),
               k = ramet__op_linear(g, n, var(s, "k", 16, 32, 0.5f), -1, NULL);
    ramet__val a =
        ramet__op_attention(g, q, ramet__op_rope(g, k, in_rows(s, "pos"), 2, 8, 8, 100.0f, 0),
                            ramet__op_linear(g, n, var(s, "v", 16, 32, 0.5f), -1, NULL), in_rows(s, "seq"), 4, 2, 8);
    x = ramet__op_add(g, x, ramet__op_linear(g, a, w, -1, NULL));
    ramet__val m = ramet__op_rms_norm(g, x, var(s, "m", 32, 0, 1), 1e-3f);
    ramet__val f = ramet__op_mul(g, ramet__op_silu(g, ramet__op_linear(g, m, v, -1, NULL)),
                                 ramet__op_linear(g, m, var(s, "u", 64, 32, 0.5f), -1, NULL));
    x = ramet__op_add(g, x, ramet__op_linear(g, f, d, -1, NULL));
    ramet__val y =
        ramet__op_linear(g, ramet__op_gather(g, x, in_outs(s, "outs")), encoded(s, 3, "H", 48, 32), -1, NULL);
    return ramet__op_cross_entropy(g, y, in_outs(s, "labels"), loss_weight(s), NULL);
}

typedef struct test_case {
    const char *name;
    build_fn build;
    int32_t second, encodings;
} test_case;
static const test_case cases[] = {
    {"add", case_add, 1, 0},
    {"sub", case_sub, 1, 0},
    {"mul", case_mul, 1, 0},
    {"scale", case_scale, 1, 0},
    {"silu", case_silu, 1, 0},
    {"sigmoid", case_sigmoid, 1, 0},
    {"exp", case_exp, 1, 0},
    {"log", case_log, 1, 0},
    {"recip", case_recip, 1, 0},
    {"rsqrt", case_rsqrt, 1, 0},
    {"relu", case_relu, 1, 0},
    {"tanh", case_tanh, 1, 0},
    {"softplus", case_softplus, 1, 0},
    {"slice place", case_slice, 1, 0},
    {"fold repeat over_rows", case_fold, 1, 0},
    {"dropout", case_dropout, 1, 0},
    {"conv2d", case_conv2d, 1, 0},
    {"conv2d stride", case_conv2d_stride, 1, 0},
    {"max_pool", case_max_pool, 1, 0},
    {"pool_sum", case_pool_sum, 1, 0},
    {"swiglu", case_swiglu, 1, 0},
    {"sums", case_sums, 1, 0},
    {"softmax", case_softmax, 1, 0},
    {"lse", case_lse, 1, 0},
    {"pick onehot keep", case_pick, 1, 0},
    {"pick some", case_pick_some, 1, 0},
    {"edit", case_edit, 1, 0},
    {"gather", case_gather, 1, 0},
    {"experts", case_experts, 1, 0},
    {"fill", case_fill, 1, 0},
    {"rms_norm", case_rms_norm, 1, 0},
    {"rope", case_rope, 1, 0},
    {"rope halves", case_rope_halves, 1, 0},
    {"linear", case_linear, 1, 0},
    {"linear encoded", case_linear_encoded, 1, 1},
    {"attention", case_attention, 0, 0},
    {"attention whole", case_attention_whole, 1, 0},
    {"gelu", case_gelu, 1, 0},
    {"gelu tanh", case_gelu_tanh, 1, 0},
    {"erf", case_erf, 1, 0},
    {"layer_norm", case_layer_norm, 1, 0},
    {"segment_mean l2_normalize", case_pool, 1, 0},
    {"head_nt", case_head_nt, 1, 0},
    {"head_nn", case_head_nn, 1, 0},
    {"head_tn", case_head_tn, 1, 0},
    {"groups", case_groups, 1, 0},
    {"step", case_step, 1, 0},
    {"scan", case_scan, 1, 0},
    {"scan reversed", case_scan_reversed, 1, 0},
    {"scan body", case_scan_body, 1, 0},
    {"scan body reversed, one sequence at once", case_scan_body_one_at_once, 1, 0},
    {"shift", case_shift, 1, 0},
    {"cross_entropy", case_cross_entropy, 1, 0},
    {"kl_top", case_kl_top, 1, 0},
    {"kl skewed", case_kl_skewed, 1, 0},
    {"kl reverse", case_kl_reverse, 1, 0},
    {"kl", case_kl, 1, 0},
    {"mse", case_mse, 1, 0},
    {"head_loss", case_head, 0, 1},
    {"head_loss kl_top", case_head_kl, 0, 1},
    {"head_loss reverse", case_head_reverse, 0, 1},
    {"head_loss twice", case_head, 1, 0},
    {"head_loss kl_top twice", case_head_kl, 1, 0},
    {"layer", case_layer, 0, 1},
    {"layer twice", case_layer, 1, 1},
};

/* Operations that some plan of this program held. */
static const ramet__op *seen[128];
static int32_t n_seen;
static int32_t was_seen(const ramet__op *op) {
    for (int32_t i = 0; i < n_seen; i++)
        if (seen[i] == op) return 1;
    return 0;
}

static void run(ramet__plan *p) {
    static const int32_t step = 5;
    float sides[R * 20], order[R * 40];
    for (int32_t i = 0; i < R * 20; i++) sides[i] = i * 7 % 3 ? 2.5f : -2.5f;
    for (int32_t i = 0; i < R * 40; i++) /* no two alike in a window of 2 x 2 pixels of a row of 5, 2 channels */
        order[i] = 1.5f * (float)((i % 40 / 10 % 2 * 2 + i % 10 / 2 % 2) ^ ((i / 40 + i) & 3));
    ramet__run r = {.rows = R, .outs = O};
    give(&r, "ids", ids);
    const struct {
        const char *name;
        const void *data;
    } more[] = {{"pos", pos},        {"seq", seq},         {"outs", outs},   {"labels", labels}, {"mask", mask},
                {"weight", weights}, {"top_ids", top_ids}, {"top_p", top_p}, {"some", some},   {"segment", segment}, {"step", &step}, {"sides", sides}, {"order", order}};
    for (int32_t i = 0; i < RAMET__COUNT(more); i++)
        for (int64_t j = 0; j < p->n_inputs; j++)
            if (!strcmp(p->inputs[j]->name, more[i].name)) give(&r, more[i].name, more[i].data);
    OK(ramet__plan_run(p, &r));
}
static double value_at(ramet__plan *p, const char *name, int64_t i) {
    run(p);
    return output(p, name)[i];
}
/* Moves a variable by h along d and back, extrapolated: f(name[i])' along d */
static double slope(ramet__plan *p, const char *name, int64_t i, ramet__var *v, const float *d, double h) {
    int64_t n = ramet__shape_count(&v->shape);
    float *saved = malloc((size_t)n * sizeof *saved);
    double s[2];
    memcpy(saved, v->data, (size_t)n * sizeof *saved);
    for (int32_t k = 0; k < 2; k++) {
        double f[2], step = k ? h / 2 : h;
        for (int32_t sign = 0; sign < 2; sign++) {
            for (int64_t j = 0; j < n; j++) v->data[j] = saved[j] + (float)(sign ? -step : step) * d[j];
            f[sign] = value_at(p, name, i);
        }
        s[k] = (f[0] - f[1]) / (2 * step);
    }
    memcpy(v->data, saved, (size_t)n * sizeof *saved);
    free(saved);
    return (4 * s[1] - s[0]) / 3;
}
static void compare(const char *test, const char *what, double got, double want, double scale) {
    if (fabs(got - want) <= 4e-3 * (fabs(want) + scale)) return;
    print_error("%s: %s: gradient %.8g, differences %.8g (scale %.3g)\n", test, what, got, want, scale);
    fail();
}

static void check(const test_case *c, ramet__enc enc) {
    scene s = {.rt = test_runtime(2), .enc = enc};
    ramet__plan *p = NULL;
    ramet__plan_options po = {.mode = RAMET__MODE_EXACT, .max_context = 8};
    ramet__val wrt[MAX_VARS], grad[MAX_VARS], second[MAX_VARS], dot = -1;
    float *direction[MAX_VARS];
    char name[8];
    for (int32_t pass = 0; pass < 2; pass++) { /* the first counts the variables */
        OK(ramet__graph_create(&s.g, s.rt, R, O, 0));
        ramet__val loss = c->build(&s);
        OK(ramet__graph_status(s.g));
        if (pass == 0) {
            ramet__graph_free(s.g);
            continue;
        }
        ramet__graph_output(s.g, "loss", loss);
        for (int32_t i = 0; i < s.n; i++) wrt[i] = ramet__graph_var(s.g, &s.var[i]);
        OK(ramet__graph_gradient(s.g, loss, wrt, s.n, grad));
    }
    for (int32_t i = 0; i < s.n; i++) {
        assert_true(grad[i] >= 0);
        snprintf(name, sizeof name, "g%d", i);
        ramet__graph_output(s.g, name, grad[i]);
        direction[i] = random_floats(ramet__shape_count(&s.var[i].shape), 99 + (uint64_t)i, 1.0f);
    }
    static ramet__var along[MAX_VARS];
    if (c->second) {
        for (int32_t i = 0; i < s.n; i++) { /* sum(grad * direction) */
            along[i] = (ramet__var){"direction", s.var[i].shape, direction[i]};
            ramet__val t = ramet__op_sum(s.g, ramet__op_mul(s.g, grad[i], ramet__graph_var(s.g, &along[i])));
            dot = dot < 0 ? t : ramet__op_add(s.g, dot, t);
        }
        OK(ramet__graph_gradient(s.g, dot, wrt, s.n, second));
        for (int32_t i = 0; i < s.n; i++) {
            snprintf(name, sizeof name, "h%d", i);
            if (second[i] >= 0) ramet__graph_output(s.g, name, second[i]);
        }
        ramet__graph_output(s.g, "dot", dot);
    }
    OK(ramet__plan_create(&p, s.g, &po));
    ramet__graph_free(s.g);
    for (int64_t i = 0; i < p->n_steps; i++)
        if (!was_seen(p->steps[i].op)) seen[n_seen++] = p->steps[i].op;
    for (int32_t i = 0; i < s.n; i++) {
        int64_t n = ramet__shape_count(&s.var[i].shape);
        double got = 0, norm = 0;
        snprintf(name, sizeof name, "g%d", i);
        run(p);
        const float *g = output(p, name);
        for (int64_t j = 0; j < n; j++) {
            got += (double)g[j] * direction[i][j];
            norm += (double)g[j] * g[j];
        }
        compare(c->name, s.var[i].name, got, slope(p, "loss", 0, &s.var[i], direction[i], 0.02), 0.1 * sqrt(norm));
        for (int64_t t = 0; t < RAMET__MIN(3, n); t++) { /* single elements */
            int64_t j = (int64_t)ramet__rng_below(3, 5, (uint64_t)t, (uint64_t)n);
            float *unit = calloc((size_t)n, sizeof *unit);
            unit[j] = 1;
            run(p);
            double one = output(p, name)[j];
            compare(c->name, s.var[i].name, one, slope(p, "loss", 0, &s.var[i], unit, 0.04),
                    0.1 * sqrt(norm / (double)n) + 1e-3);
            free(unit);
        }
        if (!c->second || second[i] < 0) continue;
        double twice = 0;
        norm = 0;
        snprintf(name, sizeof name, "h%d", i);
        run(p);
        const float *h = output(p, name);
        for (int64_t j = 0; j < n; j++) {
            twice += (double)h[j] * direction[i][j];
            norm += (double)h[j] * h[j];
        }
        compare(c->name, "second order", twice, slope(p, "dot", 0, &s.var[i], direction[i], 0.02),
                0.1 * sqrt(norm) + 1e-3);
    }
    for (int32_t i = 0; i < s.n; i++) {
        free(direction[i]);
        free(s.var[i].data);
    }
    ramet__plan_free(p);
    for (int32_t i = 0; i < s.n_weights; i++) ramet__weight_free(s.weight[i]);
    ramet_runtime_free(s.rt);
}

static void test_gradients_match_differences(void **state) {
    (void)state;
    for (int32_t i = 0; i < RAMET__COUNT(cases); i++) check(&cases[i], RAMET__ENC_F32);
}
static void test_gradients_through_encoded_weights(void **state) {
    (void)state;
    for (int32_t i = 0; i < RAMET__COUNT(cases); i++)
        if (cases[i].encodings)
            for (int32_t e = 1; e < RAMET__ENC_COUNT && ramet__encoding_get((ramet__enc)e)->encode; e++) check(&cases[i], (ramet__enc)e);
}

/* What stands for an operation while differentiating gives its numbers, */
static void test_expansions_give_the_same_numbers(void **state) {
    (void)state;
    static const ramet__op *const want[] = {&ramet__opdef_silu_grad,          &ramet__opdef_rms_norm_grad,
                                            &ramet__opdef_rms_norm_dw,        &ramet__opdef_attention_grad,
                                            &ramet__opdef_cross_entropy_grad, &ramet__opdef_kl_top_grad};
    int32_t found[RAMET__COUNT(want)] = {0};
    for (int32_t i = 0; i < RAMET__COUNT(cases); i++) {
        scene s = {.rt = test_runtime(2), .enc = RAMET__ENC_F32};
        ramet__plan *p = NULL;
        ramet__plan_options po = {.mode = RAMET__MODE_EXACT, .max_context = 8};
        ramet__val wrt[MAX_VARS], grad[MAX_VARS];
        char name[24];
        OK(ramet__graph_create(&s.g, s.rt, R, O, 0));
        ramet__val loss = cases[i].build(&s);
        for (int32_t j = 0; j < s.n; j++) wrt[j] = ramet__graph_var(s.g, &s.var[j]);
        OK(ramet__graph_gradient(s.g, loss, wrt, s.n, grad));
        int32_t pairs = 0;
        int64_t nodes = s.g->n_nodes, size[16];
        for (int64_t at = 0; at < nodes; at++) {
            ramet__node n = s.g->nodes[at];
            ramet__val out[RAMET__NODE_OUT] = {0};
            if (!n.op->expand) continue;
            for (int32_t j = 0; j < RAMET__COUNT(want); j++) found[j] |= want[j] == n.op;
            n.op->expand(s.g, &n, out);
            OK(ramet__graph_status(s.g));
            for (int32_t j = 0; j < n.n_out; j++, pairs++) {
                assert_true(pairs < RAMET__COUNT(size));
                const ramet__gshape *shape = ramet__graph_shape(s.g, n.out[j]);
                assert_true(ramet__same_shape(shape, ramet__graph_shape(s.g, out[j])));
                size[pairs] = ramet__gcols(shape) * (shape->axis == RAMET__AXIS_STATIC ? ramet__grows(shape)
                                                     : shape->axis == RAMET__AXIS_ROWS ? R
                                                                                       : O);
                snprintf(name, sizeof name, "node%d", pairs);
                ramet__graph_output(s.g, name, n.out[j]);
                snprintf(name, sizeof name, "expand%d", pairs);
                ramet__graph_output(s.g, name, out[j]);
            }
        }
        ramet__graph_output(s.g, "loss", loss);
        OK(ramet__plan_create(&p, s.g, &po));
        ramet__graph_free(s.g);
        run(p);
        for (int32_t j = 0; j < pairs; j++) {
            double exact[512];
            assert_true(size[j] <= RAMET__COUNT(exact));
            snprintf(name, sizeof name, "node%d", j);
            const float *y = output(p, name);
            for (int64_t k = 0; k < size[j]; k++) exact[k] = y[k];
            snprintf(name, sizeof name, "expand%d", j);
            near(output(p, name), exact, size[j], 2e-6, cases[i].name);
        }
        for (int32_t j = 0; j < s.n; j++) free(s.var[j].data);
        ramet__plan_free(p);
        for (int32_t j = 0; j < s.n_weights; j++) ramet__weight_free(s.weight[j]);
        ramet_runtime_free(s.rt);
    }
    for (int32_t j = 0; j < RAMET__COUNT(want); j++)
        if (!found[j]) fail_msg("no case holds '%s'", want[j]->name);
}

/* What is registered is differentiated here, but for what test_run.c and test_forward.c are about. */
static void test_every_operation_took_part(void **state) {
    (void)state;
    static const char *const elsewhere[] = {"cache_attention", "slot_nt",          "slot_nn", "slot_tn", "tap",
                                            "stop_gradient",   "reverse_gradient", "version", "window_square", "linear_swiglu", "linear_gelu"};
    static const ramet__op *const ops[] = {
#define RAMET__OP(name, summary) &ramet__opdef_##name,
#include "graph/ops.def"
#undef RAMET__OP
    };
    for (int32_t i = 0; i < RAMET__COUNT(ops); i++) {
        int32_t other = 0;
        for (int32_t j = 0; j < RAMET__COUNT(elsewhere); j++) other |= !strcmp(elsewhere[j], ops[i]->name);
        if (!other && !was_seen(ops[i])) fail_msg("no case reaches operation '%s'", ops[i]->name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_match_differences), cmocka_unit_test(test_gradients_through_encoded_weights),
        cmocka_unit_test(test_expansions_give_the_same_numbers), cmocka_unit_test(test_every_operation_took_part)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
