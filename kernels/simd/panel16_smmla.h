/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_smmla.h - many rows of panel16_int8.c with the int8 matrix product of ARMv8.6; a part of that file. The sums of a row are added in the same
 * order as there, so its bits are those of the row alone. */
#ifndef RAMET__PANEL16_SMMLA_H
#define RAMET__PANEL16_SMMLA_H
/* smmla: the four sums of 8 products of two rows and two outputs. Two rows' parts of a block, zeros where a row has none: */
typedef struct pair { const int8_t *x[2]; float d[2], s[2]; int32_t start[2], high[2]; } pair;

INLINE void take(const int enc, pair *p, int i, const int8_row *first, int64_t blocks, int64_t b, int64_t at, int32_t there) {
#define PART(array) ((const void *)((const uint8_t *)(const void *)((array) + b) + at))
    static const int8_t none[32] = {0};
    const int kind = kind_of(enc);
    const float *d = PART(first->d);
    p->x[i] = there ? first->q + b * 32 + at : none;
    p->d[i] = there ? d[0] : 0.0f;
    p->s[i] = there ? d[blocks] : 0.0f;
    p->start[i] = !there || kind == MINIMUM || kind == BYTE ? 0 : *(const int32_t *)PART(first->start[kind == SIXTEEN ? 3 : which_of(enc)]);
    p->high[i] = there && kind == SIXTEEN ? *(const int32_t *)PART(first->start[4]) : 0;
#undef PART
}

/* sum[o] += two rows times outputs 2o and 2o + 1: lanes (row, output) 00 01 10 11 */
INLINE void add_pair(const int kind, float32x4_t sum[4], int8x16_t w[4][4], const float32x4_t d[4], const float32x4_t d1[4], const float32x4_t m[4], const pair *p) {
    int8x16_t x[4];
    const float32x4_t scale = vcombine_f32(vdup_n_f32(p->d[0]), vdup_n_f32(p->d[1])), s = vcombine_f32(vdup_n_f32(p->s[0]), vdup_n_f32(p->s[1]));
    const int32x4_t start = vcombine_s32(vdup_n_s32(p->start[0]), vdup_n_s32(p->start[1])), high = vcombine_s32(vdup_n_s32(p->high[0]), vdup_n_s32(p->high[1]));
    UNROLL for (int j = 0; j < 4; j++) x[j] = vcombine_s8(vld1_s8(p->x[0] + 8 * j), vld1_s8(p->x[1] + 8 * j));
    UNROLL for (int o = 0; o < 4; o++) {
        int32x4_t low = vmmlaq_s32(vmmlaq_s32(start, x[0], w[o][0]), x[1], w[o][1]), rest = vmmlaq_s32(vmmlaq_s32(kind == SIXTEEN ? high : low, x[2], w[o][2]), x[3], w[o][3]);
        if (kind == SIXTEEN) sum[o] = vfmaq_f32(sum[o], vfmaq_f32(vmulq_f32(vcvtq_f32_s32(low), d[o]), vcvtq_f32_s32(rest), d1[o]), scale);
        else sum[o] = vfmaq_f32(sum[o], vcvtq_f32_s32(rest), vmulq_f32(d[o], scale));
        if (kind == MINIMUM) sum[o] = vfmaq_f32(sum[o], m[o], s);
    }
}
INLINE void by_twos(float32x4_t to[4], vf v) {
    to[0] = vcombine_f32(vget_low_f32(v.lo), vget_low_f32(v.lo));
    to[1] = vcombine_f32(vget_high_f32(v.lo), vget_high_f32(v.lo));
    to[2] = vcombine_f32(vget_low_f32(v.hi), vget_low_f32(v.hi));
    to[3] = vcombine_f32(vget_high_f32(v.hi), vget_high_f32(v.hi));
}
INLINE vf one_of(const float32x4_t sum[4], const int second) {
    float32x2_t part[4];
    UNROLL for (int o = 0; o < 4; o++) part[o] = second ? vget_high_f32(sum[o]) : vget_low_f32(sum[o]);
    return (vf){vcombine_f32(part[0], part[1]), vcombine_f32(part[2], part[3])};
}

/* Rows row.. against a vector of outputs, n.., in pairs; the last of an odd number is a pair with itself. */
INLINE void many(const int enc, const ramet__product_args *a, int64_t row, int64_t n) {
    const int64_t blocks = a->k / 32, rest = (int64_t)one_row(a->k), rows = a->m - row < GROUP ? a->m - row : GROUP;
    const uint8_t *panel = (const uint8_t *)a->packed + n / 16 * p16_bytes(enc, a->k);
    const int8_row first = int8_row_at((const uint8_t *)a->x + row * a->x_stride, a->k);
    float32x4_t sum[GROUP / 2][4];
    for (int64_t r = 0; r < rows; r += 2) UNROLL for (int o = 0; o < 4; o++) sum[r / 2][o] = vdupq_n_f32(0.0f);
    for (int64_t b = 0; b < blocks; b++) {
        const p16_place at = p16_at(enc, panel, b);
        const int h = (int)(n % 16 / VL);
        vi q[8];
        vf v, v1, vm, unused;
        float32x4_t d[4], d1[4], m[4];
        int8x16_t w[4][4];
        p16_load(enc, q, &at, h);
        p16_scale(enc, 0, &v, &vm, &at, h);
        p16_scale(enc, 1, &v1, &unused, &at, h);
        by_twos(d, v);
        by_twos(d1, v1);
        by_twos(m, vm);
        UNROLL for (int j = 0; j < 4; j++) UNROLL for (int half = 0; half < 2; half++) {
            int32x4_t s[2];
            UNROLL for (int i = 0; i < 2; i++) {
                const vi all = kind_of(enc) == BYTE ? vixor(q[2 * j + i], viset8((int8_t)0x80)) : q[2 * j + i];
                s[i] = half ? all.hi : all.lo;
            }
            w[2 * half][j] = vreinterpretq_s8_s32(vzip1q_s32(s[0], s[1]));
            w[2 * half + 1][j] = vreinterpretq_s8_s32(vzip2q_s32(s[0], s[1]));
        }
        for (int64_t r = 0; r < rows; r += 2) {
            const int64_t at_x[2] = {r * a->x_stride, (r + 1 < rows ? r + 1 : r) * a->x_stride};
            int32_t left[2];
            pair p;
            UNROLL for (int i = 0; i < 2; i++) {
                take(enc, &p, i, &first, blocks, b, at_x[i], 1);
                left[i] = *(const float *)(const void *)((const uint8_t *)(const void *)(first.d + b) + at_x[i] + rest) != 0.0f;
            }
            add_pair(kind_of(enc), sum[r / 2], w, d, d1, m, &p);
            if (!(left[0] | left[1])) continue;
            UNROLL for (int i = 0; i < 2; i++) take(enc, &p, i, &first, blocks, b, at_x[i] + rest, left[i]);
            add_pair(kind_of(enc), sum[r / 2], w, d, d1, m, &p);
        }
    }
    const vf bias = a->bias ? vget(a->bias + n, a->to - n) : vzero();
    for (int64_t r = 0; r < rows; r += 2) {
        finish(a, row + r, n, bias, one_of(sum[r / 2], 0));
        if (r + 1 < rows) finish(a, row + r + 1, n, bias, one_of(sum[r / 2], 1));
    }
}
#endif
