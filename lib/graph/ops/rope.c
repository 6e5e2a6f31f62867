/* SPDX-License-Identifier: Apache-2.0 */
/* rope.c - rotary position embedding (Su et al. 2021). The gradient turns back. Cosines and sines are a table of the
 * plan, computed in double. */
#include "graph/op.h"
#include <string.h>

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
/* attr: heads, head_dim, rot, halves; base, sign */
ramet__val ramet__op_rope_signed(ramet__graph *g, ramet__val x, ramet__val pos, const ramet__attr *attr, float sign) {
    ramet__attr a = *attr;
    a.f[1] = sign;
    ramet__val in[2] = {x, pos};
    ramet__gshape out = *shape(g, x);
    return ramet__node_add(g, &ramet__opdef_rope, in, 2, &out, 1, &a);
}
ramet__val ramet__op_rope(ramet__graph *g, ramet__val x, ramet__val pos, int64_t heads, int64_t head_dim, int64_t rot,
                          float base, int32_t halves) {
    if (!ramet__want(g, ramet__is_val(g, x) && ramet__is_val(g, pos) && ramet__graph_type(g, pos) == RAMET__TYPE_I32,
                     "rope", "needs rows and their positions"))
        return -1;
    if (!ramet__want(g, heads > 0 && head_dim > 0 && heads * head_dim == ramet__gcols(shape(g, x)), "rope",
                     "columns are not heads x head_dim"))
        return -1;
    if (!ramet__want(g, rot > 0 && rot <= head_dim && rot % 2 == 0 && base > 0, "rope",
                     "rot must be even and at most head_dim, base positive"))
        return -1;
    if (!ramet__want(g,
                     shape(g, pos)->axis == shape(g, x)->axis &&
                         ramet__grows(shape(g, pos)) == ramet__grows(shape(g, x)) && ramet__gcols(shape(g, pos)) == 1,
                     "rope", "needs one position a row"))
        return -1;
    ramet__attr attr = {.i = {heads, head_dim, rot, halves != 0}, .f = {base, 1.0f}};
    return ramet__op_rope_signed(g, x, pos, &attr, 1.0f);
}
static void gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = ramet__op_rope_signed(g, dout[0], n->in[1], &n->attr, -n->attr.f[1]);
}
static ramet_status prepare(ramet__plan *p, ramet__step *s) {
    const float *cs = NULL;
    RAMET__TRY(ramet__plan_rope(p, s->attr.i[2], s->attr.f[0], &cs));
    s->extra = (void *)(uintptr_t)cs;
    return ramet__plan_check_ids(p, s->in[1], 0, p->max_context, "rope");
}
static void run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)scratch;
    const int32_t *pos = s->in[1]->data;
    const float *cs = s->extra;
    for (int64_t r = r0; r < r1; r++) {
        float *y = ramet__row(s->out[0], r);
        if (s->out[0]->data != s->in[0]->data) memcpy(y, ramet__row(s->in[0], r), (size_t)s->out[0]->cols * sizeof *y);
        x->k->rope(y, s->attr.i[0], s->attr.i[1], s->attr.i[2], cs + pos[r] * s->attr.i[2], s->attr.f[1],
                   (int32_t)s->attr.i[3]);
    }
}
const ramet__op ramet__opdef_rope = {
    .name = "rope", .overwrites = {1}, .gradient = gradient, .prepare = prepare, .rows = run};
