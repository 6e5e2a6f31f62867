/* SPDX-License-Identifier: Apache-2.0 */
/* layers.c - calls that are made of several operations: norms over a run, recurrent cells, losses. What they are made of has derivatives of
 * any order, so they have. */
#include "nets/nets.h"

#define CALL(name) static void call_##name(ramet__graph *g, const ramet__val *in, const double *set, ramet__val *out)
#define SETLESS (void)set
static int64_t columns(const ramet__graph *g, ramet__val v) { return ramet__gcols(ramet__graph_shape(g, v)); }
static ramet__val add(ramet__graph *g, ramet__val a, ramet__val b) { return ramet__op_add(g, a, b); }
static ramet__val sub(ramet__graph *g, ramet__val a, ramet__val b) { return ramet__op_sub(g, a, b); }
static ramet__val mul(ramet__graph *g, ramet__val a, ramet__val b) { return ramet__op_mul(g, a, b); }
static ramet__val number(ramet__graph *g, double x) { return ramet__graph_const(g, (float)x); }
static ramet__val row_mean(ramet__graph *g, ramet__val x) {
    return ramet__op_scale(g, ramet__op_row_sum(g, x), 1.0f / (float)RAMET__MAX(1, columns(g, x)));
}
static ramet__val absolute(ramet__graph *g, ramet__val x) { return add(g, ramet__op_relu(g, x), ramet__op_relu(g, ramet__op_scale(g, x, -1.0f))); }

CALL(leaky_relu) { out[0] = sub(g, ramet__op_relu(g, in[0]), ramet__op_scale(g, ramet__op_relu(g, ramet__op_scale(g, in[0], -1.0f)), (float)set[0])); }
CALL(abs) { SETLESS, out[0] = absolute(g, in[0]); }
CALL(sqrt) { SETLESS, out[0] = mul(g, in[0], ramet__op_rsqrt(g, in[0])); }
CALL(mean) { SETLESS, out[0] = ramet__op_over_rows(g, ramet__op_scale(g, ramet__op_sum(g, in[0]), 1.0f / (float)columns(g, in[0])), in[0]); }
CALL(mean_rows) { SETLESS, out[0] = ramet__op_over_rows(g, ramet__op_sum_rows(g, in[0]), in[0]); }
CALL(row_mean) { SETLESS, out[0] = row_mean(g, in[0]); }
CALL(row_max) { SETLESS, out[0] = ramet__op_row_sum(g, ramet__op_max_pool(g, in[0], 1, columns(g, in[0]), 1, columns(g, in[0]), 1)); }
CALL(top_k) {
    const int64_t n = columns(g, in[0]), k = (int64_t)set[0];
    ramet__val left = in[0], mask = -1;
    if (!ramet__want(g, k >= 1 && k <= n, "top_k", "k is %lld; 1 to %lld are possible", (long long)k, (long long)n)) return;
    for (int64_t i = 0; i < k; i++) {
        ramet__val top = ramet__op_top(g, left);
        mask = i ? add(g, mask, top) : top;
        left = sub(g, left, ramet__op_scale(g, top, 1e30f));
    }
    out[0] = mask;
}
CALL(avg_pool2d) {
    int64_t size = (int64_t)set[2], stride = set[3] != 0 ? (int64_t)set[3] : size;
    out[0] = ramet__op_scale(g, ramet__op_pool_sum(g, in[0], (int64_t)set[0], (int64_t)set[1], size, size, stride), (float)(1.0 / (double)(size * size)));
}
CALL(concat) {
    SETLESS;
    int64_t all = 0, at = 0;
    for (int32_t i = 0; i < RAMET__CALL_IN; i++) all += in[i] < 0 ? 0 : columns(g, in[i]);
    for (int32_t i = 0; i < RAMET__CALL_IN; i++) {
        if (in[i] < 0) continue;
        ramet__val part = ramet__op_place(g, in[i], at, all);
        out[0] = out[0] < 0 ? part : add(g, out[0], part);
        at += columns(g, in[i]);
    }
}

/* ---- batch norm: w's channels are the innermost of the columns ---- */
static ramet__val channel_mean(ramet__graph *g, ramet__val x, int64_t channels) {
    return ramet__op_over_rows(g, ramet__op_scale(g, ramet__op_fold(g, ramet__op_sum_rows(g, x), channels), (float)channels / (float)RAMET__MAX(1, columns(g, x))), x);
}
static ramet__val normed(ramet__graph *g, ramet__val centred, ramet__val variance, ramet__val w, ramet__val b, double eps) {
    int64_t n = columns(g, centred);
    ramet__val scale = mul(g, ramet__op_rsqrt(g, add(g, variance, number(g, eps))), w);
    return add(g, mul(g, centred, ramet__op_repeat(g, scale, n)), ramet__op_repeat(g, b, n));
}
CALL(batch_norm) {
    int64_t channels = columns(g, in[1]);
    ramet__val mean = channel_mean(g, in[0], channels), centred = sub(g, in[0], ramet__op_repeat(g, mean, columns(g, in[0])));
    ramet__val variance = channel_mean(g, mul(g, centred, centred), channels);
    out[0] = normed(g, centred, variance, in[1], in[2], set[0]);
    out[1] = mean;
    out[2] = variance;
}
CALL(batch_norm_fixed) { out[0] = normed(g, sub(g, in[0], ramet__op_repeat(g, in[3], columns(g, in[0]))), in[4], in[1], in[2], set[0]); }

/* ---- recurrent cells, with the gates in PyTorch's order ---- */
static ramet__val part(ramet__graph *g, ramet__val x, int64_t i, int64_t n) { return ramet__op_slice(g, x, i * n, n); }
static ramet__val taken(ramet__graph *g, ramet__val x, ramet__val w, ramet__val bias) { return w < 0 ? x : ramet__op_linear(g, x, w, bias, NULL); }
CALL(gru_cell) {
    SETLESS;
    int64_t n = columns(g, in[1]);
    ramet__val a = taken(g, in[0], in[2], in[4]), b = ramet__op_linear(g, in[1], in[3], in[5], NULL);
    ramet__val reset = ramet__op_sigmoid(g, add(g, part(g, a, 0, n), part(g, b, 0, n)));
    ramet__val update = ramet__op_sigmoid(g, add(g, part(g, a, 1, n), part(g, b, 1, n)));
    ramet__val fresh = ramet__op_tanh(g, add(g, part(g, a, 2, n), mul(g, reset, part(g, b, 2, n))));
    out[0] = add(g, fresh, mul(g, update, sub(g, in[1], fresh)));
}
CALL(lstm_cell) {
    SETLESS;
    int64_t n = columns(g, in[1]);
    ramet__val a = add(g, taken(g, in[0], in[3], in[5]), ramet__op_linear(g, in[1], in[4], in[6], NULL));
    ramet__val take = ramet__op_sigmoid(g, part(g, a, 0, n)), forget = ramet__op_sigmoid(g, part(g, a, 1, n));
    ramet__val fresh = ramet__op_tanh(g, part(g, a, 2, n)), show = ramet__op_sigmoid(g, part(g, a, 3, n));
    out[1] = add(g, mul(g, forget, in[2]), mul(g, take, fresh));
    out[0] = mul(g, show, ramet__op_tanh(g, out[1]));
}

/* ---- losses: a term a row, weighted, or their mean ---- */
static ramet__val weights(ramet__graph *g, ramet__val weight, ramet__val like) {
    if (weight >= 0) return weight;
    ramet__gshape rows = ramet__row_shape(ramet__graph_shape(g, like));
    return ramet__op_over_rows(g, ramet__op_fill(g, number(g, 1), &rows), like);
}
static void loss(ramet__graph *g, ramet__val terms, ramet__val weight, ramet__val *out) {
    out[1] = row_mean(g, terms);
    out[0] = ramet__op_sum(g, mul(g, out[1], weights(g, weight, terms)));
}
CALL(cross_entropy) { SETLESS, out[0] = ramet__op_cross_entropy(g, in[0], in[1], weights(g, in[2], in[0]), &out[1]); }
CALL(kl) { SETLESS, out[0] = ramet__op_kl(g, in[0], in[1], weights(g, in[2], in[0]), &out[1]); }
CALL(info_nce) {
    const ramet__heads one = {1, 1, columns(g, in[0]), 1};
    ramet__val logits = ramet__op_head_nt(g, in[0], in[1], in[2], &one, (float)(1 / set[0]), -1e30f);
    out[0] = ramet__op_cross_entropy(g, logits, in[3], weights(g, in[4], logits), &out[1]);
}
CALL(mse) { SETLESS, out[0] = ramet__op_mse(g, in[0], in[1], weights(g, in[2], in[0]), &out[1]); }
CALL(huber) { /* m (|d| - m/2) with m = min(|d|, delta) */
    ramet__val d = absolute(g, sub(g, in[0], in[1])), m = sub(g, d, ramet__op_relu(g, sub(g, d, number(g, set[0]))));
    loss(g, mul(g, m, sub(g, d, ramet__op_scale(g, m, 0.5f))), in[2], out);
}
CALL(binary_cross_entropy) { SETLESS, loss(g, sub(g, ramet__op_softplus(g, in[0]), mul(g, in[0], in[1])), in[2], out); }
CALL(margin) { loss(g, ramet__op_relu(g, add(g, sub(g, in[1], in[0]), number(g, set[0]))), in[2], out); }
CALL(pairwise_logistic) { SETLESS, loss(g, ramet__op_softplus(g, sub(g, in[1], in[0])), in[2], out); }

void ramet__layer_build(ramet__graph *g, ramet__call call, const ramet__val *in, const double *set, ramet__val *out) {
    switch (call) {
    case RAMET__CALL_leaky_relu: call_leaky_relu(g, in, set, out); break;
    case RAMET__CALL_abs: call_abs(g, in, set, out); break;
    case RAMET__CALL_sqrt: call_sqrt(g, in, set, out); break;
    case RAMET__CALL_mean: call_mean(g, in, set, out); break;
    case RAMET__CALL_mean_rows: call_mean_rows(g, in, set, out); break;
    case RAMET__CALL_row_mean: call_row_mean(g, in, set, out); break;
    case RAMET__CALL_row_max: call_row_max(g, in, set, out); break;
    case RAMET__CALL_top_k: call_top_k(g, in, set, out); break;
    case RAMET__CALL_avg_pool2d: call_avg_pool2d(g, in, set, out); break;
    case RAMET__CALL_concat: call_concat(g, in, set, out); break;
    case RAMET__CALL_batch_norm: call_batch_norm(g, in, set, out); break;
    case RAMET__CALL_batch_norm_fixed: call_batch_norm_fixed(g, in, set, out); break;
    case RAMET__CALL_gru_cell: call_gru_cell(g, in, set, out); break;
    case RAMET__CALL_lstm_cell: call_lstm_cell(g, in, set, out); break;
    case RAMET__CALL_cross_entropy: call_cross_entropy(g, in, set, out); break;
    case RAMET__CALL_kl: call_kl(g, in, set, out); break;
    case RAMET__CALL_info_nce: call_info_nce(g, in, set, out); break;
    case RAMET__CALL_mse: call_mse(g, in, set, out); break;
    case RAMET__CALL_huber: call_huber(g, in, set, out); break;
    case RAMET__CALL_binary_cross_entropy: call_binary_cross_entropy(g, in, set, out); break;
    case RAMET__CALL_margin: call_margin(g, in, set, out); break;
    case RAMET__CALL_pairwise_logistic: call_pairwise_logistic(g, in, set, out); break;
    default: break; /* calls.c has the others */
    }
}
