/* SPDX-License-Identifier: Apache-2.0 */
/* pool.c - windows over images, channels last. max_pick takes, of each window, the element of `v` where `x` is largest (the first among
 * equals): max pooling is max_pick(x, x), with the gradient through v alone; max_place puts numbers back there. pool_sum adds windows up,
 * pool_spread is its transpose. Each pair is one another's derivative; which element is largest has none. */
#include "graph/op.h"
#include <string.h>

enum { HEIGHT, WIDTH, CHANNELS, DOWN, ACROSS, STRIDE, POSITIVE }; /* attr.i; POSITIVE: a fused relu_grad */

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int64_t out_height(const int64_t *a) { return (a[HEIGHT] - a[DOWN]) / a[STRIDE] + 1; }
static int64_t out_width(const int64_t *a) { return (a[WIDTH] - a[ACROSS]) / a[STRIDE] + 1; }
static int32_t attributes(ramet__graph *g, ramet__attr *attr, ramet__val x, int64_t height, int64_t width, int64_t down, int64_t across, int64_t stride) {
    if (!ramet__want(g, ramet__is_val(g, x) && ramet__graph_type(g, x) == RAMET__TYPE_F32, "pool", "no such value") ||
        !ramet__want(g, down > 0 && across > 0 && stride > 0 && height >= down && width >= across && height < 1 << 24 && width < 1 << 24, "pool",
                     "the window must be positive and not larger than the image"))
        return 0;
    int64_t cols = ramet__gcols(shape(g, x)), channels = cols / (height * width);
    *attr = (ramet__attr){.i = {height, width, channels, down, across, stride}};
    return ramet__want(g, channels > 0 && channels * height * width == cols, "pool", "rows of %lld numbers are not images of %lld x %lld",
                       (long long)cols, (long long)height, (long long)width);
}
static ramet__val node(ramet__graph *g, const ramet__op *op, ramet__val x, ramet__val v, const ramet__attr *attr, int32_t small) {
    ramet__val in[2] = {x, v};
    const int64_t *a = attr->i;
    ramet__gshape out = ramet__gshape2(shape(g, x)->axis, ramet__grows(shape(g, x)),
                                       (small ? out_height(a) * out_width(a) : a[HEIGHT] * a[WIDTH]) * a[CHANNELS]);
    return ramet__node_add(g, op, in, v < 0 ? 1 : 2, &out, 1, attr);
}
ramet__val ramet__op_max_pool(ramet__graph *g, ramet__val x, int64_t height, int64_t width, int64_t down, int64_t across, int64_t stride) {
    ramet__attr attr;
    return attributes(g, &attr, x, height, width, down, across, stride) ? node(g, &ramet__opdef_max_pick, x, x, &attr, 1) : -1;
}
ramet__val ramet__op_top(ramet__graph *g, ramet__val x) {
    ramet__attr attr;
    const int64_t n = ramet__is_val(g, x) ? ramet__gcols(shape(g, x)) : 1;
    if (!attributes(g, &attr, x, 1, n, 1, n, 1)) return -1;
    const ramet__gshape one = ramet__gshape2(shape(g, x)->axis, ramet__grows(shape(g, x)), 1);
    return node(g, &ramet__opdef_max_place, x, ramet__op_fill(g, ramet__graph_const(g, 1.0f), &one), &attr, 0);
}
ramet__val ramet__op_pool_sum(ramet__graph *g, ramet__val x, int64_t height, int64_t width, int64_t down, int64_t across, int64_t stride) {
    ramet__attr attr;
    return attributes(g, &attr, x, height, width, down, across, stride) ? node(g, &ramet__opdef_pool_sum, x, -1, &attr, 1) : -1;
}
static void pick_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[1] = node(g, &ramet__opdef_max_place, n->in[0], dout[0], &n->attr, 0);
}
static void place_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[1] = node(g, &ramet__opdef_max_pick, n->in[0], dout[0], &n->attr, 1);
}
static void sum_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = node(g, &ramet__opdef_pool_spread, dout[0], -1, &n->attr, 0);
}
static void spread_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    din[0] = node(g, &ramet__opdef_pool_sum, dout[0], -1, &n->attr, 1);
}

#define WINDOW(a, t)                                                                                                                        \
    for (int64_t iy_ = 0; iy_ < (a)[DOWN]; iy_++)                                                                                           \
        for (int64_t ix_ = 0, t = iy_ * (a)[WIDTH] * (a)[CHANNELS]; ix_ < (a)[ACROSS]; ix_++, t += (a)[CHANNELS])
static ramet_status max_prepare(ramet__plan *p, ramet__step *s) { /* where the elements of a window are */
    int64_t *at = s->extra = ramet__arena_alloc(&p->names, (size_t)(s->attr.i[DOWN] * s->attr.i[ACROSS]) * sizeof *at);
    if (!at) return ramet__alloc_status();
    WINDOW(s->attr.i, t) *at++ = t;
    return RAMET_OK;
}
static void max_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)scratch;
    const int64_t *a = s->attr.i, oh = out_height(a), ow = out_width(a), channels = a[CHANNELS], count = a[DOWN] * a[ACROSS], step = a[STRIDE] * channels;
    /* Windows that cover the image, each element once, need no zeros first. */
    const int32_t add = a[DOWN] != a[STRIDE] || a[ACROSS] != a[STRIDE] || oh * a[STRIDE] != a[HEIGHT] || ow * a[STRIDE] != a[WIDTH];
    for (int64_t r = r0; r < r1; r++) {
        const float *from = ramet__row(s->in[0], r), *v = ramet__row(s->in[1], r);
        float *y = ramet__row(s->out[0], r);
        if (s->op == &ramet__opdef_max_place && add) memset(y, 0, (size_t)s->out[0]->cols * sizeof *y);
        for (int64_t o = 0; o < oh; o++) {
            int64_t big = o * a[STRIDE] * a[WIDTH] * channels, small = o * ow * channels;
            if (s->op == &ramet__opdef_max_place) x->k->max_place(y + big, from + big, v + small, s->extra, count, channels, ow, step, add, (int32_t)a[POSITIVE]);
            else x->k->max_pick(y + small, from + big, v + big, s->extra, count, channels, ow, step);
        }
    }
}
static void sum_run(const ramet__step *s, const ramet__exec *x, int64_t r0, int64_t r1, void *scratch) {
    (void)scratch;
    const int64_t *a = s->attr.i, oh = out_height(a), ow = out_width(a), channels = a[CHANNELS];
    int32_t down = s->op == &ramet__opdef_pool_sum;
    for (int64_t r = r0; r < r1; r++) {
        const float *v = ramet__row(s->in[0], r);
        float *y = ramet__row(s->out[0], r);
        memset(y, 0, (size_t)s->out[0]->cols * sizeof *y);
        for (int64_t o = 0; o < oh * ow; o++)
            WINDOW(a, t) {
                int64_t big = (o / ow * a[WIDTH] + o % ow) * a[STRIDE] * channels + t, to = down ? o * channels : big, from = down ? big : o * channels;
                x->k->add(y + to, y + to, v + from, channels);
            }
    }
}
const ramet__op ramet__opdef_max_pick = {.name = "max_pick", .gradient = pick_gradient, .prepare = max_prepare, .rows = max_run};
const ramet__op ramet__opdef_max_place = {.name = "max_place", .gradient = place_gradient, .prepare = max_prepare, .rows = max_run};
const ramet__op ramet__opdef_pool_sum = {.name = "pool_sum", .gradient = sum_gradient, .rows = sum_run};
const ramet__op ramet__opdef_pool_spread = {.name = "pool_spread", .gradient = spread_gradient, .rows = sum_run};
