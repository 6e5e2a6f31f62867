/* SPDX-License-Identifier: Apache-2.0 */
/* conv2d.c - convolution of images, channels last: a row is one image [height, width, channels], the matrix is [outputs, kernel * kernel *
 * channels]. An image is copied into a frame of zeros; there a line of results is a product whose rows lie at the stride's distance, and no
 * patch is gathered. The form is linear in image, matrix and gradient, so conv2d, conv2d_dx and conv2d_dw are one another's derivatives. */
#include "graph/op.h"
#include <string.h>

enum { HEIGHT, WIDTH, CHANNELS, KERNEL, STRIDE, PAD, OUTPUTS }; /* attr.i */
#define SLACK 32    /* floats that kernels may read too far */
#define REDUCE 8192 /* floats of a matrix that are added up at a time */

static const ramet__gshape *shape(const ramet__graph *g, ramet__val v) { return ramet__graph_shape(g, v); }
static int64_t side(int64_t n, const int64_t *a) { return (n + 2 * a[PAD] - a[KERNEL]) / a[STRIDE] + 1; }
static int64_t out_height(const int64_t *a) { return side(a[HEIGHT], a); }
static int64_t out_width(const int64_t *a) { return side(a[WIDTH], a); }
static int64_t depth(const int64_t *a) { return a[KERNEL] * a[KERNEL] * a[CHANNELS]; }

ramet__val ramet__op_conv2d(ramet__graph *g, ramet__val x, ramet__val w, ramet__val bias, int64_t height, int64_t width, int64_t kernel,
                            int64_t stride, int64_t pad) {
    const char *op = "conv2d";
    if (!ramet__want(g, ramet__is_val(g, x) && ramet__is_val(g, w) && ramet__graph_type(g, x) == RAMET__TYPE_F32, op, "no such value") ||
        !ramet__want(g, height > 0 && width > 0 && kernel > 0 && stride > 0 && pad >= 0 && pad < kernel && height < 65536 && width < 65536, op,
                     "height, width, kernel and stride must be positive, pad smaller than the kernel"))
        return -1;
    int64_t cols = ramet__gcols(shape(g, x)), channels = cols / (height * width);
    char tx[96], tw[96];
    ramet__gshape_text(tx, shape(g, x));
    ramet__gshape_text(tw, shape(g, w));
    if (!ramet__want(g, shape(g, x)->rank == 2 && channels > 0 && channels * height * width == cols, op, "rows %s are not images of %lld x %lld",
                     tx, (long long)height, (long long)width) ||
        !ramet__want(g, kernel <= height + 2 * pad && kernel <= width + 2 * pad, op, "the kernel is larger than the image") ||
        !ramet__want(g, shape(g, w)->rank == 2 && shape(g, w)->axis == RAMET__AXIS_STATIC && shape(g, w)->dim[1] == kernel * kernel * channels, op,
                     "the matrix %s must have kernel * kernel * channels = %lld columns", tw, (long long)(kernel * kernel * channels)))
        return -1;
    int64_t outputs = shape(g, w)->dim[0];
    if (bias >= 0 && !ramet__want(g, ramet__is_val(g, bias) && ramet__grows(shape(g, bias)) == 1 && ramet__gcols(shape(g, bias)) == outputs, op,
                                  "the bias must have one number an output"))
        return -1;
    ramet__attr attr = {.i = {height, width, channels, kernel, stride, pad, outputs}};
    ramet__val in[3] = {x, w, bias};
    ramet__gshape out = ramet__gshape2(shape(g, x)->axis, ramet__grows(shape(g, x)), out_height(attr.i) * out_width(attr.i) * outputs);
    return ramet__node_add(g, &ramet__opdef_conv2d, in, 3, &out, 1, &attr);
}
static ramet__val conv(ramet__graph *g, ramet__val x, ramet__val w, const int64_t *a) {
    return ramet__op_conv2d(g, x, w, -1, a[HEIGHT], a[WIDTH], a[KERNEL], a[STRIDE], a[PAD]);
}
static ramet__val conv_dx(ramet__graph *g, ramet__val dy, ramet__val w, const ramet__attr *attr) {
    ramet__val in[2] = {dy, w};
    ramet__gshape out = ramet__gshape2(shape(g, dy)->axis, ramet__grows(shape(g, dy)), attr->i[HEIGHT] * attr->i[WIDTH] * attr->i[CHANNELS]);
    return ramet__node_add(g, &ramet__opdef_conv2d_dx, in, 2, &out, 1, attr);
}
static ramet__val conv_dw(ramet__graph *g, ramet__val dy, ramet__val x, const ramet__attr *attr) {
    ramet__val in[2] = {dy, x};
    ramet__gshape out = ramet__gshape2(RAMET__AXIS_STATIC, attr->i[OUTPUTS], depth(attr->i));
    return ramet__node_add(g, &ramet__opdef_conv2d_dw, in, 2, &out, 1, attr);
}
static void gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    if (ramet__needs(g, n, 0)) din[0] = conv_dx(g, dout[0], n->in[1], &n->attr);
    if (ramet__needs(g, n, 1)) din[1] = conv_dw(g, dout[0], n->in[0], &n->attr);
    if (ramet__needs(g, n, 2)) din[2] = ramet__op_sum_rows(g, ramet__op_fold(g, dout[0], n->attr.i[OUTPUTS]));
}
static void dx_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    if (ramet__needs(g, n, 0)) din[0] = conv(g, dout[0], n->in[1], n->attr.i);
    if (ramet__needs(g, n, 1)) din[1] = conv_dw(g, n->in[0], dout[0], &n->attr);
}
static void dw_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    if (ramet__needs(g, n, 0)) din[0] = conv(g, n->in[1], dout[0], n->attr.i);
    if (ramet__needs(g, n, 1)) din[1] = conv_dx(g, n->in[0], dout[0], &n->attr);
}

/* ---- padded images in a worker's memory: what reaches over the edge reads zeros ---- */
static int64_t padded_width(const ramet__step *s) {
    return s->attr.i[WIDTH] + (s->op == &ramet__opdef_conv2d_dx ? s->attr.i[KERNEL] - 1 : 2 * s->attr.i[PAD]);
}
static int64_t padded_floats(const ramet__step *s) {
    int64_t height = padded_width(s) - s->attr.i[WIDTH] + s->attr.i[HEIGHT];
    return height * padded_width(s) * s->attr.i[s->op == &ramet__opdef_conv2d_dx ? OUTPUTS : CHANNELS] + SLACK;
}
/* [height, width, depth] at (edge, edge) of a padded image of zeros, `apart` lines and columns from one another */
static void pad(const ramet__step *s, float *to, const float *from, int64_t height, int64_t width, int64_t channels, int64_t edge, int64_t apart) {
    int64_t line = padded_width(s) * channels;
    to += (edge * padded_width(s) + edge) * channels;
    for (int64_t y = 0; y < height; y++, to += line * apart) {
        if (apart == 1) memcpy(to, from, (size_t)(width * channels) * sizeof *to);
        else
            for (int64_t x = 0; x < width; x++) memcpy(to + x * apart * channels, from + x * channels, (size_t)channels * sizeof *to);
        from += width * channels;
    }
}
/* Images of a piece: enough work for a thread, never a matter of the number of threads. */
static int64_t images(const int64_t *a) { return RAMET__MAX(1, 2000000 / (out_height(a) * out_width(a) * depth(a) * a[OUTPUTS] + 1)); }

/* ---- y, and dx, which is the same with the matrix the other way round: the matrix as conv_row reads it in shared room ---- */
static ramet_status prepare(ramet__plan *p, ramet__step *s) {
    (void)p;
    s->scratch_bytes = (uint64_t)padded_floats(s) * sizeof(float);
    s->shared_bytes = (uint64_t)(depth(s->attr.i) * s->attr.i[OUTPUTS] + SLACK) * sizeof(float);
    return RAMET_OK;
}
static int64_t pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    return phase == 0 ? 1 : phase == 1 ? ramet__ceil_div(ramet__count(x, s->in[0]), images(s->attr.i)) : -1;
}
static void turn(const ramet__step *s) {
    const int64_t *a = s->attr.i, k = depth(a), n = a[OUTPUTS], c = a[CHANNELS], taps = a[KERNEL] * a[KERNEL];
    const float *w = s->in[1]->data;
    float *to = s->shared;
    for (int64_t o = 0; o < n; o++)
        for (int64_t t = 0; t < taps; t++)
            for (int64_t i = 0; i < c; i++) to[s->op == &ramet__opdef_conv2d ? (t * c + i) * n + o : ((taps - 1 - t) * n + o) * c + i] = w[o * k + t * c + i];
}
static void run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    if (phase == 0) {
        turn(s);
        return;
    }
    const int64_t *a = s->attr.i, back = s->op == &ramet__opdef_conv2d_dx, from = back ? a[OUTPUTS] : a[CHANNELS], n = back ? a[CHANNELS] : a[OUTPUTS];
    int64_t lines = back ? a[HEIGHT] : out_height(a), m = back ? a[WIDTH] : out_width(a), stride = back ? 1 : a[STRIDE], line = padded_width(s) * from;
    int64_t edge = back ? a[KERNEL] - 1 - a[PAD] : a[PAD], end = edge + (back ? (out_height(a) - 1) * a[STRIDE] + 1 : a[HEIGHT]);
    const float *bias = !back && s->in[2] ? s->in[2]->data : NULL;
    float *padded = scratch;
    memset(padded, 0, (size_t)padded_floats(s) * sizeof *padded);
    for (int64_t r = piece * images(a); r < RAMET__MIN(ramet__count(x, s->in[0]), (piece + 1) * images(a)); r++) {
        if (back) pad(s, padded, ramet__row(s->in[0], r), out_height(a), out_width(a), from, edge, a[STRIDE]);
        else pad(s, padded, ramet__row(s->in[0], r), a[HEIGHT], a[WIDTH], from, edge, 1);
        for (int64_t y = 0; y < lines; y++) { /* lines first to last of the kernel see more than zeros; one at least is read */
            int64_t top = y * stride, first = RAMET__MIN(RAMET__MAX(0, edge - top), a[KERNEL] - 1), last = RAMET__MAX(first + 1, RAMET__MIN(a[KERNEL], end - top));
            x->k->conv_row(ramet__row(s->out[0], r) + y * m * n, padded + (top + first) * line, stride * from, line,
                           (const float *)s->shared + first * a[KERNEL] * from * n, last - first, a[KERNEL] * from, bias, m, n);
        }
    }
}
static double work(const ramet__plan *p, const ramet__step *s) {
    (void)p;
    return (double)(s->out[0]->fixed * s->out[0]->cols) * (double)depth(s->attr.i);
}
const ramet__op ramet__opdef_conv2d = {.name = "conv2d", .work = work, .gradient = gradient, .prepare = prepare, .pieces = pieces, .run = run};
const ramet__op ramet__opdef_conv2d_dx = {.name = "conv2d_dx", .gradient = dx_gradient, .prepare = prepare, .pieces = pieces, .run = run};

/* ---- dw: a sum for each constant group of images, then the sums in order ---- */
#define GROUPS 16 /* at most: what they take is 16 matrices */
static int64_t group_rows(const ramet__step *s) { return RAMET__MAX(ramet__ceil_div(s->in[0]->fixed, GROUPS), images(s->attr.i)); }
static ramet_status dw_prepare(ramet__plan *p, ramet__step *s) {
    (void)p;
    s->scratch_bytes = (uint64_t)padded_floats(s) * sizeof(float);
    s->shared_bytes = (uint64_t)(GROUPS * depth(s->attr.i) * s->attr.i[OUTPUTS]) * sizeof(float);
    return RAMET_OK;
}
static int64_t dw_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    return phase == 0   ? ramet__ceil_div(ramet__count(x, s->in[0]), group_rows(s))
           : phase == 1 ? ramet__ceil_div(depth(s->attr.i) * s->attr.i[OUTPUTS], REDUCE)
                        : -1;
}
static void dw_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    const int64_t *a = s->attr.i, k = depth(a), n = a[OUTPUTS], line = padded_width(s) * a[CHANNELS], tap = a[KERNEL] * a[CHANNELS];
    float *parts = s->shared, *padded = scratch;
    if (phase == 1) {
        int64_t from = piece * REDUCE, count = RAMET__MIN(REDUCE, k * n - from), groups = dw_pieces(s, x, 0);
        float *y = (float *)s->out[0]->data + from;
        memset(y, 0, (size_t)count * sizeof *y);
        for (int64_t i = 0; i < groups; i++) x->k->add(y, y, parts + i * k * n + from, count);
        return;
    }
    memset(padded, 0, (size_t)padded_floats(s) * sizeof *padded);
    int64_t r0 = piece * group_rows(s);
    for (int64_t r = r0; r < RAMET__MIN(ramet__count(x, s->in[0]), r0 + group_rows(s)); r++) {
        pad(s, padded, ramet__row(s->in[1], r), a[HEIGHT], a[WIDTH], a[CHANNELS], a[PAD], 1);
        for (int64_t ky = 0; ky < a[KERNEL]; ky++)
            x->k->conv_dw(parts + piece * k * n + ky * tap, k, ramet__row(s->in[0], r), padded + ky * line, a[STRIDE] * a[CHANNELS], a[STRIDE] * line,
                          out_height(a), out_width(a), n, tap, r > r0);
    }
}
const ramet__op ramet__opdef_conv2d_dw = {.name = "conv2d_dw", .gradient = dw_gradient, .prepare = dw_prepare, .pieces = dw_pieces, .run = dw_run};
