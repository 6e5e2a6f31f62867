/* SPDX-License-Identifier: Apache-2.0 */
/* calls.c - operations of the graph as calls by name: inputs and settings in the order of their signature in calls.def. */
#include "nets/nets.h"

#define INT(i) ((int64_t)set[i])
#define CASE(name, value)                                                                                                                   \
    case RAMET__CALL_##name: out[0] = value; break;

void ramet__call_build(ramet__graph *g, ramet__call call, const ramet__val *in, const double *set, ramet__val *out) {
    switch (call) {
    CASE(add, ramet__op_add(g, in[0], in[1]))
    CASE(sub, ramet__op_sub(g, in[0], in[1]))
    CASE(mul, ramet__op_mul(g, in[0], in[1]))
    CASE(scale, ramet__op_scale(g, in[0], (float)set[0]))
    CASE(relu, ramet__op_relu(g, in[0]))
    CASE(silu, ramet__op_silu(g, in[0]))
    CASE(gelu, ramet__op_gelu(g, in[0]))
    CASE(sigmoid, ramet__op_sigmoid(g, in[0]))
    CASE(tanh, ramet__op_tanh(g, in[0]))
    CASE(softplus, ramet__op_softplus(g, in[0]))
    CASE(exp, ramet__op_exp(g, in[0]))
    CASE(log, ramet__op_log(g, in[0]))
    CASE(recip, ramet__op_recip(g, in[0]))
    CASE(rsqrt, ramet__op_rsqrt(g, in[0]))
    CASE(step, ramet__op_step(g, in[0]))
    CASE(sum, ramet__op_sum(g, in[0]))
    CASE(sum_rows, ramet__op_sum_rows(g, in[0]))
    CASE(row_sum, ramet__op_row_sum(g, in[0]))
    CASE(row_scale, ramet__op_row_scale(g, in[0], in[1]))
    CASE(row_fill, ramet__op_row_fill(g, in[0], INT(0)))
    CASE(l2_normalize, ramet__op_l2_normalize(g, in[0]))
    CASE(softmax, ramet__op_softmax(g, in[0], INT(0)))
    CASE(lse, ramet__op_lse(g, in[0]))
    CASE(slice, ramet__op_slice(g, in[0], INT(0), INT(1)))
    CASE(pick, ramet__op_pick(g, in[0], in[1]))
    CASE(onehot, ramet__op_onehot(g, in[0], in[1], INT(0)))
    CASE(edit, ramet__op_edit(g, in[0], in[1], in[2]))
    CASE(embed, ramet__op_embed(g, in[0], in[1]))
    CASE(gather, ramet__op_gather(g, in[0], in[1]))
    CASE(segment_mean, ramet__op_segment_mean(g, in[0], in[1]))
    CASE(shift, ramet__op_shift(g, in[0], in[1], set[0] != 0))
    CASE(scan, ramet__op_scan(g, in[0], in[1], in[2], set[0] != 0))
    CASE(linear, ramet__op_linear(g, in[0], in[1], in[2], NULL))
    CASE(experts, ramet__op_experts(g, in[0], in[1], in[2]))
    CASE(conv2d, ramet__op_conv2d(g, in[0], in[1], in[2], INT(0), INT(1), INT(2), INT(3), INT(4)))
    CASE(max_pool2d, ramet__op_max_pool(g, in[0], INT(0), INT(1), INT(2), INT(2), set[3] != 0 ? INT(3) : INT(2)))
    CASE(layer_norm, ramet__op_layer_norm(g, in[0], in[1], in[2], (float)set[0]))
    CASE(rms_norm, ramet__op_rms_norm(g, in[0], in[1], (float)set[0]))
    CASE(dropout, ramet__op_dropout(g, in[0], in[1], set[0], INT(1)))
    CASE(attention, set[3] != 0 ? ramet__op_attention_whole(g, in[0], in[1], in[2], in[3], INT(0), INT(1), INT(2))
                                : ramet__op_attention(g, in[0], in[1], in[2], in[3], INT(0), INT(1), INT(2)))
    CASE(stop_gradient, ramet__op_stop_gradient(g, in[0]))
    CASE(reverse_gradient, ramet__op_reverse_gradient(g, in[0], (float)set[0]))
    default: ramet__layer_build(g, call, in, set, out);
    }
}
