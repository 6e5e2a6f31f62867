/* SPDX-License-Identifier: Apache-2.0 */
/* conv2d.c - convolution of images, channels last: a row is one image [height, width, channels], the matrix is [outputs, kernel * kernel *
 * channels]. A piece gathers the patches of POSITIONS results into memory of its own and multiplies them (Chellapilla et al. 2006). The
 * form is linear in image, matrix and gradient, so conv2d, conv2d_dx and conv2d_dw are one another's derivatives. */
#include "graph/op.h"
#include <string.h>

enum { HEIGHT, WIDTH, CHANNELS, KERNEL, STRIDE, PAD, OUTPUTS }; /* attr.i */
#define PATCH_FLOATS 40960 /* of a piece: half a second-level cache of 512 KiB with room beside it */
#define SLACK 8            /* floats that a short copy may write too far */
#define REDUCE 8192        /* floats of a matrix that are added up at a time */

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
    if (ramet__needs(g, n, 2)) din[2] = ramet__op_fold(g, ramet__op_sum_rows(g, dout[0]), n->attr.i[OUTPUTS]);
}
static void dx_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    if (ramet__needs(g, n, 0)) din[0] = conv(g, dout[0], n->in[1], n->attr.i);
    if (ramet__needs(g, n, 1)) din[1] = conv_dw(g, n->in[0], dout[0], &n->attr);
}
static void dw_gradient(ramet__graph *g, const ramet__node *n, const ramet__val *dout, ramet__val *din) {
    if (ramet__needs(g, n, 0)) din[0] = conv(g, n->in[1], dout[0], n->attr.i);
    if (ramet__needs(g, n, 1)) din[1] = conv_dx(g, n->in[0], dout[0], &n->attr);
}

/* ---- patches: row p of [positions, depth] is what result p of an image looks at ---- */
static int64_t positions(const int64_t *a) { return RAMET__MAX(16, PATCH_FLOATS / depth(a) / 16 * 16); }
static uint64_t patch_bytes(const int64_t *a) { return (uint64_t)(positions(a) * depth(a) + SLACK) * sizeof(float); }

/* The columns of an image's row that kernel row ky covers at ox: from *ix, *n of them, beginning at *skip in the patch; 0: none. */
typedef struct span { int64_t at, skip, n; } span;
static span covered(const int64_t *a, int64_t oy, int64_t ox, int64_t ky) {
    int64_t iy = oy * a[STRIDE] + ky - a[PAD], ix = ox * a[STRIDE] - a[PAD], end = RAMET__MIN(a[WIDTH], ix + a[KERNEL]), from = RAMET__MAX(0, ix);
    if (iy < 0 || iy >= a[HEIGHT] || from >= end) return (span){0, 0, 0};
    return (span){(iy * a[WIDTH] + from) * a[CHANNELS], (from - ix) * a[CHANNELS], (end - from) * a[CHANNELS]};
}
static void gather(float *to, const float *x, const int64_t *a, int64_t p0, int64_t p1) {
    int64_t ow = out_width(a), per_image = out_height(a) * ow, image = a[HEIGHT] * a[WIDTH] * a[CHANNELS], line = a[KERNEL] * a[CHANNELS];
    for (int64_t p = p0; p < p1; p++) {
        int64_t at = p % per_image, oy = at / ow, ox = at % ow;
        const float *from = x + p / per_image * image;
        for (int64_t ky = 0; ky < a[KERNEL]; ky++, to += line) {
            span s = covered(a, oy, ox, ky);
            if (s.n == line && line <= SLACK && s.at + SLACK <= image) memcpy(to, from + s.at, SLACK * sizeof *to); /* the rest is overwritten */
            else {
                if (s.n < line) memset(to, 0, (size_t)line * sizeof *to);
                memcpy(to + s.skip, from + s.at, (size_t)s.n * sizeof *to);
            }
        }
    }
}
static void scatter(const ramet__kernels *k, float *x, const float *from, const int64_t *a, int64_t p0, int64_t p1) {
    int64_t ow = out_width(a), per_image = out_height(a) * ow, image = a[HEIGHT] * a[WIDTH] * a[CHANNELS], line = a[KERNEL] * a[CHANNELS];
    for (int64_t p = p0; p < p1; p++) {
        int64_t at = p % per_image, oy = at / ow, ox = at % ow;
        float *to = x + p / per_image * image;
        for (int64_t ky = 0; ky < a[KERNEL]; ky++, from += line) {
            span s = covered(a, oy, ox, ky);
            if (s.n) k->add(to + s.at, to + s.at, from + s.skip, s.n);
        }
    }
}
/* Images of a piece: enough work for a thread, never a matter of the number of threads. */
static int64_t images(const int64_t *a) {
    return RAMET__MAX(1, 2000000 / (out_height(a) * out_width(a) * depth(a) * a[OUTPUTS] + 1));
}

/* ---- y = patches w^T: the matrix is turned over once in shared room ---- */
static ramet_status prepare(ramet__plan *p, ramet__step *s) {
    (void)p;
    s->scratch_bytes = patch_bytes(s->attr.i);
    if (s->op == &ramet__opdef_conv2d) s->shared_bytes = (uint64_t)(depth(s->attr.i) * s->attr.i[OUTPUTS]) * sizeof(float);
    return RAMET_OK;
}
static int64_t pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    return phase == 0 ? 1 : phase == 1 ? ramet__ceil_div(ramet__count(x, s->in[0]), images(s->attr.i)) : -1;
}
static void run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    const int64_t *a = s->attr.i, k = depth(a), n = a[OUTPUTS], per_image = out_height(a) * out_width(a), step = positions(a);
    float *turned = s->shared, *patches = scratch;
    if (phase == 0) {
        const float *w = s->in[1]->data;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < k; j++) turned[j * n + i] = w[i * k + j];
        return;
    }
    int64_t r0 = piece * images(a), r1 = RAMET__MIN(ramet__count(x, s->in[0]), r0 + images(a)), end = (r1 - r0) * per_image;
    const float *from = ramet__row(s->in[0], r0), *bias = s->in[2] ? s->in[2]->data : NULL;
    float *y = ramet__row(s->out[0], r0);
    for (int64_t p = 0; p < end; p += step) {
        int64_t m = RAMET__MIN(step, end - p);
        gather(patches, from, a, p, p + m);
        if (bias)
            for (int64_t i = 0; i < m; i++) memcpy(y + (p + i) * n, bias, (size_t)n * sizeof *y);
        x->k->gemm_nn(y + p * n, n, patches, k, turned, n, m, n, k, 1.0f, bias != NULL);
    }
}
const ramet__op ramet__opdef_conv2d = {.name = "conv2d", .gradient = gradient, .prepare = prepare, .pieces = pieces, .run = run};

/* ---- dx: patches of the gradient, added up where they came from ---- */
static int64_t dx_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) { return phase ? -1 : pieces(s, x, 1); }
static void dx_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    (void)phase;
    const int64_t *a = s->attr.i, k = depth(a), n = a[OUTPUTS], per_image = out_height(a) * out_width(a), step = positions(a);
    int64_t r0 = piece * images(a), r1 = RAMET__MIN(ramet__count(x, s->in[0]), r0 + images(a)), end = (r1 - r0) * per_image;
    const float *dy = ramet__row(s->in[0], r0);
    float *to = ramet__row(s->out[0], r0), *patches = scratch;
    memset(to, 0, (size_t)((r1 - r0) * s->out[0]->cols) * sizeof *to);
    for (int64_t p = 0; p < end; p += step) {
        int64_t m = RAMET__MIN(step, end - p);
        x->k->gemm_nn(patches, k, dy + p * n, n, s->in[1]->data, k, m, k, n, 1.0f, 0);
        scatter(x->k, to, patches, a, p, p + m);
    }
}
const ramet__op ramet__opdef_conv2d_dx = {.name = "conv2d_dx", .gradient = dx_gradient, .prepare = prepare, .pieces = dx_pieces, .run = dx_run};

/* ---- dw: a sum for each constant group of images, then the sums in order ---- */
#define GROUPS 16 /* at most: what they take is 16 matrices */
static int64_t group_rows(const ramet__step *s) { return RAMET__MAX(ramet__ceil_div(s->in[0]->fixed, GROUPS), images(s->attr.i)); }
static ramet_status dw_prepare(ramet__plan *p, ramet__step *s) {
    (void)p;
    s->scratch_bytes = patch_bytes(s->attr.i);
    s->shared_bytes = (uint64_t)(GROUPS * depth(s->attr.i) * s->attr.i[OUTPUTS]) * sizeof(float);
    return RAMET_OK;
}
static int64_t dw_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    return phase == 0   ? ramet__ceil_div(ramet__count(x, s->in[0]), group_rows(s))
           : phase == 1 ? ramet__ceil_div(depth(s->attr.i) * s->attr.i[OUTPUTS], REDUCE)
                        : -1;
}
static void dw_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    const int64_t *a = s->attr.i, k = depth(a), n = a[OUTPUTS], per_image = out_height(a) * out_width(a), step = positions(a);
    float *parts = s->shared, *patches = scratch;
    if (phase == 1) {
        int64_t from = piece * REDUCE, count = RAMET__MIN(REDUCE, k * n - from), groups = dw_pieces(s, x, 0);
        float *y = (float *)s->out[0]->data + from;
        memset(y, 0, (size_t)count * sizeof *y);
        for (int64_t i = 0; i < groups; i++) x->k->add(y, y, parts + i * k * n + from, count);
        return;
    }
    int64_t r0 = piece * group_rows(s), r1 = RAMET__MIN(ramet__count(x, s->in[0]), r0 + group_rows(s)), end = (r1 - r0) * per_image;
    const float *dy = ramet__row(s->in[0], r0), *from = ramet__row(s->in[1], r0);
    for (int64_t p = 0; p < end; p += step) {
        int64_t m = RAMET__MIN(step, end - p);
        gather(patches, from, a, p, p + m);
        x->k->gemm_tn(parts + piece * k * n, k, dy + p * n, n, patches, k, n, k, m, 1.0f, p > 0);
    }
}
const ramet__op ramet__opdef_conv2d_dw = {.name = "conv2d_dw", .gradient = dw_gradient, .prepare = dw_prepare, .pieces = dw_pieces, .run = dw_run};
