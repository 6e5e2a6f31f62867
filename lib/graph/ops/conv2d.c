/* SPDX-License-Identifier: Apache-2.0 */
/* conv2d.c - convolution of images, channels last: a row is one image [height, width, channels], the matrix is [outputs, kernel * kernel *
 * channels]. An image is copied into a frame of zeros; there a line of results is a product whose rows lie at the stride's distance, and no
 * patch is gathered. The form is linear in image, matrix and gradient, so conv2d, conv2d_dx and conv2d_dw are one another's derivatives. */
#include "graph/ops/winograd.h"
#include <string.h>

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

/* ---- an image in a frame of zeros, in a worker's memory: what reaches over the edge reads, or adds to, the frame ---- */
static int64_t framed_width(const int64_t *a) { return a[WIDTH] + 2 * a[PAD]; }
static int64_t framed_height(const int64_t *a) { return a[HEIGHT] + 2 * a[PAD]; }
static int64_t framed(const int64_t *a) { return framed_height(a) * framed_width(a) * a[CHANNELS] + SLACK; }
static void frame(const int64_t *a, float *to, const float *from, int32_t back) { /* back: out of the frame */
    const int64_t line = a[WIDTH] * a[CHANNELS];
    to += (a[PAD] * framed_width(a) + a[PAD]) * a[CHANNELS];
    for (int64_t y = 0; y < a[HEIGHT]; y++, to += framed_width(a) * a[CHANNELS], from += line)
        if (back) memcpy((float *)(uintptr_t)from, to, (size_t)line * sizeof *to);
        else memcpy(to, from, (size_t)line * sizeof *to);
}
/* Images of a piece: enough work for a thread, never a matter of the number of threads. */
static int64_t images(const int64_t *a) { return RAMET__MAX(1, 2000000 / (out_height(a) * out_width(a) * depth(a) * a[OUTPUTS] + 1)); }

/* In balanced mode pairs of bf16 stand for floats where the CPU multiplies them; see kernels.h for which two make a pair. */
static int32_t brain(const ramet__plan *p) { return p->rt->kernels->pairs && ramet__plan_arithmetic(p) == RAMET__BRAIN; }
/* And where it does not, there may be fewer multiplications: decided when a plan is made. */
static int32_t decide(const ramet__plan *p, ramet__step *s) {
    const ramet__kernels *k = p->rt->kernels;
    if (k->winograd && !k->pairs && ramet__plan_arithmetic(p) != RAMET__EXACT && ramet__winograd_pays(s->attr.i, s->in[0]->fixed)) s->extra = s;
    return s->extra != NULL;
}
static int32_t by_tiles(const ramet__step *s) { return s->extra != NULL; }
static int64_t piece_images(const ramet__step *s) { return by_tiles(s) ? RAMET__MAX(images(s->attr.i), ramet__winograd_images(s->attr.i)) : images(s->attr.i); }
static int64_t half(int64_t n) { return (n + 1) / 2; }
static void pairs_of_lines(const ramet__kernels *k, float *to, const float *from, int64_t lines, int64_t n) { /* two lines of n numbers make one */
    for (int64_t i = 0; i < lines; i += 2, to += n, from += 2 * n) k->pairs(to, from, i + 1 < lines ? from + n : NULL, n);
}
static const float *pairs_apart(const ramet__kernels *k, float *to, const float *from, int64_t n, int64_t apart) { /* each with the one so far on */
    k->pairs(to, from, from + apart, n - apart);
    k->pairs(to + n - apart, from + n - apart, NULL, apart);
    return to;
}

/* ---- y and dx: the matrix in shared room, for y turned over, for dx as it is; behind it its pairs ---- */
static int64_t matrix(const int64_t *a) { return depth(a) * a[OUTPUTS]; }
static ramet_status prepare(ramet__plan *p, ramet__step *s) {
    const int64_t *a = s->attr.i, both = brain(p);
    if (decide(p, s)) {
        s->scratch_bytes = (uint64_t)ramet__winograd_scratch(a) * sizeof(float);
        s->shared_bytes = (uint64_t)(ramet__winograd_matrix(a) + ramet__winograd_room(a)) * sizeof(float);
        return RAMET_OK;
    }
    s->scratch_bytes = (uint64_t)(framed(a) + (both ? s->op == &ramet__opdef_conv2d ? framed(a) : s->in[0]->cols : 0)) * sizeof(float);
    s->shared_bytes = (uint64_t)(matrix(a) + (both ? (a[KERNEL] * a[KERNEL] * (a[CHANNELS] + 1)) * (a[OUTPUTS] + 1) : 0) + SLACK) * sizeof(float);
    return RAMET_OK;
}
static int64_t pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    return phase == 0 ? 1 : phase == 1 ? ramet__ceil_div(ramet__count(x, s->in[0]), piece_images(s)) : -1;
}
static void share(const ramet__step *s, const ramet__exec *x) {
    const int64_t *a = s->attr.i, k = depth(a), n = a[OUTPUTS], tap = a[KERNEL] * a[CHANNELS];
    const float *w = s->in[1]->data;
    float *to = s->shared, *pairs = to + matrix(a);
    if (by_tiles(s)) {
        ramet__winograd_share(x->k, a, to, w, to + ramet__winograd_matrix(a), s->op == &ramet__opdef_conv2d_dx);
        return;
    }
    if (s->op == &ramet__opdef_conv2d_dx) {
        if (brain(x->plan)) pairs_of_lines(x->k, pairs, w, n, k);
        else memcpy(to, w, (size_t)(n * k) * sizeof *to);
        return;
    }
    for (int64_t o = 0; o < n; o++)
        for (int64_t t = 0; t < k; t++) to[t * n + o] = w[o * k + t];
    for (int64_t ky = 0; brain(x->plan) && ky < a[KERNEL]; ky++) pairs_of_lines(x->k, pairs + ky * half(tap) * n, to + ky * tap * n, tap, n);
}
static void run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    const int64_t *a = s->attr.i, n = a[OUTPUTS], c = a[CHANNELS], line = framed_width(a) * c, tap = a[KERNEL] * c, oh = out_height(a), ow = out_width(a);
    float *image = scratch;
    if (phase == 0) {
        share(s, x);
        return;
    }
    const int32_t both = brain(x->plan);
    const int64_t r0 = piece * piece_images(s), r1 = RAMET__MIN(ramet__count(x, s->in[0]), r0 + piece_images(s));
    if (by_tiles(s)) {
        float *in = s->in[0]->data, *out = s->out[0]->data, *bias = s->in[2] ? s->in[2]->data : NULL;
        if (s->op == &ramet__opdef_conv2d_dx) ramet__winograd_run(x->k, a, RAMET__WINOGRAD_DX, out, in, s->shared, NULL, 0, r0, r1, scratch);
        else ramet__winograd_run(x->k, a, RAMET__WINOGRAD_Y, in, out, s->shared, bias, s->attr.f[0] > 0.0f, r0, r1, scratch);
        return;
    }
    const float *w = (const float *)s->shared + (both ? matrix(a) : 0);
    float *pairs = image + framed(a);
    memset(image, 0, (size_t)framed(a) * sizeof *image);
    for (int64_t r = r0; r < r1; r++) {
        const float *from = ramet__row(s->in[0], r);
        if (s->op == &ramet__opdef_conv2d) {
            frame(a, image, from, 0);
            from = both ? pairs_apart(x->k, pairs, image, framed(a), 1) : image;
            for (int64_t y = 0; y < oh; y++)
                (both ? x->k->conv_row_pairs : x->k->conv_row)(ramet__row(s->out[0], r) + y * ow * n, from + y * a[STRIDE] * line, a[STRIDE] * c, line, w, a[KERNEL], tap,
                                                               s->in[2] ? s->in[2]->data : NULL, ow, n);
            if (s->attr.f[0] > 0.0f) x->k->relu(ramet__row(s->out[0], r), ramet__row(s->out[0], r), s->out[0]->cols);
            continue;
        }
        float *to = a[PAD] ? image : ramet__row(s->out[0], r);
        memset(to, 0, (size_t)(framed(a) - SLACK) * sizeof *to);
        if (both) from = pairs_apart(x->k, pairs, from, s->in[0]->cols, 1);
        for (int64_t ky = 0; ky < a[KERNEL]; ky++)
            (both ? x->k->conv_dx_pairs : x->k->conv_dx)(to + ky * line, a[STRIDE] * c, a[STRIDE] * line, from, w + ky * tap, depth(a), oh, ow, n, tap);
        if (a[PAD]) frame(a, image, ramet__row(s->out[0], r), 1);
    }
}
static double work(const ramet__plan *p, const ramet__step *s) {
    (void)p;
    return (double)(s->out[0]->fixed * s->out[0]->cols) * (double)depth(s->attr.i);
}
const ramet__op ramet__opdef_conv2d = {.name = "conv2d", .work = work, .gradient = gradient, .prepare = prepare, .pieces = pieces, .run = run};
const ramet__op ramet__opdef_conv2d_dx = {.name = "conv2d_dx", .gradient = dx_gradient, .prepare = prepare, .pieces = pieces, .run = run};

/* ---- dw [depth, outputs], turned over at the end: a sum for each constant group of images, then the sums in order. Where a line of the kernel is short, an
 * image's columns are laid out kernel line beside kernel line, so that all that a result sees is one run of numbers. ---- */
#define SHORT 16
#define GROUPS 16 /* at most: what they take is 16 matrices */
static int64_t group_rows(const ramet__step *s) { return RAMET__MAX(ramet__ceil_div(s->in[0]->fixed, GROUPS), piece_images(s)); }
static int64_t reduce_rows(const ramet__step *s) { return RAMET__MAX(1, REDUCE / s->attr.i[OUTPUTS]); }
static int64_t spread(const int64_t *a) { return a[KERNEL] * a[CHANNELS] < SHORT ? out_height(a) * framed_width(a) * a[KERNEL] * a[CHANNELS] : 0; }
static ramet_status dw_prepare(ramet__plan *p, ramet__step *s) {
    const int64_t *a = s->attr.i, pairs = RAMET__MAX(framed(a), spread(a)), dy = out_height(a) * half(out_width(a)) * a[OUTPUTS];
    const int32_t tiled = decide(p, s);
    const int64_t groups = ramet__ceil_div(s->in[0]->fixed, group_rows(s));
    if (tiled) {
        s->scratch_bytes = (uint64_t)ramet__winograd_scratch(a) * sizeof(float);
        s->shared_bytes = (uint64_t)(groups * ramet__winograd_matrix(a) + ramet__winograd_room(a)) * sizeof(float);
        return RAMET_OK;
    }
    s->scratch_bytes = (uint64_t)(framed(a) + spread(a) + (brain(p) ? pairs + dy : s->in[0]->cols) + SLACK) * sizeof(float);
    s->shared_bytes = (uint64_t)(groups * depth(a) * a[OUTPUTS]) * sizeof(float);
    return RAMET_OK;
}
/* Rows of outputs that a group's sum has */
static int64_t sum_rows(const ramet__step *s) { return by_tiles(s) ? ramet__winograd_matrix(s->attr.i) / s->attr.i[OUTPUTS] : depth(s->attr.i); }
static int64_t dw_pieces(const ramet__step *s, const ramet__exec *x, int32_t phase) {
    if (phase == 0) return ramet__ceil_div(ramet__count(x, s->in[0]), group_rows(s));
    if (phase == 1) return ramet__ceil_div(sum_rows(s), reduce_rows(s));
    return phase == 2 && by_tiles(s) ? 1 : -1;
}
static void spread_lines(const int64_t *a, float *to, const float *image) {
    const int64_t c = a[CHANNELS], width = framed_width(a);
    for (int64_t y = 0; y < out_height(a); y++)
        for (int64_t ky = 0; ky < a[KERNEL]; ky++) {
            const float *from = image + (y * a[STRIDE] + ky) * width * c;
            float *at = to + (y * width * a[KERNEL] + ky) * c;
            if (c == 1)
                for (int64_t x = 0; x < width; x++) at[x * a[KERNEL]] = from[x];
            else
                for (int64_t x = 0; x < width; x++, from += c, at += a[KERNEL] * c)
                    for (int64_t i = 0; i < c; i++) at[i] = from[i];
        }
}
static void dw_run(const ramet__step *s, const ramet__exec *x, int32_t phase, int64_t piece, void *scratch) {
    const int64_t *a = s->attr.i, k = depth(a), n = a[OUTPUTS], c = a[CHANNELS], kernel = a[KERNEL], rows = ramet__count(x, s->in[0]);
    float *parts = s->shared, *image = scratch, *wide = image + framed(a), *dy = wide + spread(a);
    const int64_t line = framed_width(a) * c, tap = kernel * c, is_spread = spread(a) > 0, both = brain(x->plan), all = sum_rows(s);
    if (phase == 2) {
        ramet__winograd_dw_end(x->k, a, s->out[0]->data, parts, parts + dw_pieces(s, x, 0) * all * n);
        return;
    }
    if (phase == 1) { /* parts of what was spread are [kernel across, kernel down, channels, outputs] */
        const int64_t groups = dw_pieces(s, x, 0), t0 = piece * reduce_rows(s), t1 = RAMET__MIN(all, t0 + reduce_rows(s));
        for (int64_t i = 1; i < groups; i++) x->k->add(parts + t0 * n, parts + t0 * n, parts + i * all * n + t0 * n, (t1 - t0) * n);
        for (int64_t t = t0; t < t1 && !by_tiles(s); t++) {
            const int64_t to = is_spread ? (t / c % kernel * kernel + t / c / kernel) * c + t % c : t;
            float *y = (float *)s->out[0]->data + to;
            for (int64_t o = 0; o < n; o++) y[o * k] = parts[t * n + o];
        }
        return;
    }
    const int64_t r0 = piece * group_rows(s), r1 = RAMET__MIN(rows, r0 + group_rows(s));
    float *part = parts + piece * all * n;
    if (by_tiles(s)) {
        ramet__winograd_run(x->k, a, RAMET__WINOGRAD_DW, s->in[1]->data, s->in[0]->data, part, NULL, 0, r0, r1, scratch);
        return;
    }
    memset(image, 0, (size_t)framed(a) * sizeof *image);
    for (int64_t r = r0; r < r1; r++) {
        const float *back = ramet__row(s->in[0], r);
        frame(a, image, ramet__row(s->in[1], r), 0);
        const int32_t more = r > r0;
        const int64_t step = a[STRIDE] * (is_spread ? tap : c), image_line = is_spread ? line * kernel : a[STRIDE] * line;
        const float *image_at = is_spread ? wide : image;
        if (is_spread) spread_lines(a, wide, image);
        if (both) {
            const int64_t size = is_spread ? spread(a) : framed(a), ow = out_width(a);
            image_at = pairs_apart(x->k, dy + out_height(a) * half(ow) * n + SLACK, image_at, size, RAMET__MIN(step, size));
            for (int64_t y = 0; y < out_height(a); y++) pairs_of_lines(x->k, dy + y * half(ow) * n, back + y * ow * n, ow, n);
            back = dy;
        } else if (n % 16) back = memcpy(dy, back, (size_t)s->in[0]->cols * sizeof *dy); /* kernels read on to the end of a vector */
        for (int64_t ky = 0; ky < (is_spread ? 1 : kernel); ky++)
            (both ? x->k->conv_dw_pairs : x->k->conv_dw)(part + ky * tap * n, image_at + ky * line, step, image_line, back, out_height(a), out_width(a), n,
                                                         is_spread ? k : tap, more);
    }
}
const ramet__op ramet__opdef_conv2d_dw = {.name = "conv2d_dw", .gradient = dw_gradient, .prepare = dw_prepare, .pieces = dw_pieces, .run = dw_run};
