/* SPDX-License-Identifier: Apache-2.0 */
/* attention.c - attention in blocks of 64 keys with a running softmax, and its gradient (after Dao 2023, "FlashAttention-2").
 * A block of keys is turned over once (a cache has it so) and read by every row and every head of the group. All sums are FMA chains in a fixed
 * order; a row's bits do not depend on the rows beside it: keys that it must not see weigh exactly zero. */
#include "blocks.h"
#include "registry.h"
#include "simd/exp.h"
#include "simd/tile.h"

enum { KEYS = 64, ROWS = 96, GRAD_ROWS = 64, FETCH_ROWS = 16 };

static int64_t padded(int64_t hd) { return (hd + TILE_N - 1) / TILE_N * TILE_N; }
static const tile_out fresh = {1.0f, NULL, 0, 0}, onward = {1.0f, NULL, 0, 1};

/* What is read soon, asked for a little at a time beside the arithmetic, LEAD lines before it is used: a cache's blocks lie far apart, so the hardware
 * does not see them coming. Parts are keys and values of block after block. To L2, which has more reads under way than L1. */
enum { LEAD = 128 };
typedef struct ahead { const void *const *k, *const *v; int64_t part, parts, bytes; const char *next, *end; } ahead;
INLINE void ask(ahead *f, int lines) {
    for (; lines-- > 0; f->next += 64) {
        if (f->next == f->end) {
            if (f->part == f->parts) return;
            f->next = (f->part % 2 ? f->v : f->k)[f->part / 2];
            f->end = f->next + f->bytes;
            f->part++;
        }
        PREFETCH(f->next, 2);
    }
}

/* c[m, n] (+)= a . b, all of n */
static void product(ahead *f, float *c, int64_t ldc, int64_t m, int64_t n, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t ldb,
                    int64_t depth, const tile_out *t) {
    for (int64_t j = 0; j < n; j += TILE_N) {
        ask(f, 32);
        tile_rows(c + j, ldc, m, n - j < TILE_N ? n - j : TILE_N, a, a_row, a_step, b + j, ldb, depth, t);
    }
}

/* rows x hd side by side, each filled up with zeros to `to` */
static void copy_rows(float *dst, int64_t to, const float *src, int64_t stride, int64_t rows, int64_t hd) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < to; i += VL) vstore(dst + r * to + i, vget(src + r * stride + i, hd - i));
}

/* n numbers of `size` bytes (floats, halves, int8 without their scales) as floats */
INLINE void widen(float *dst, const void *src, int64_t n, int64_t size) {
    int64_t i = 0;
    if (size == 4) {
        memcpy(dst, src, (size_t)n * 4);
        return;
    }
    if (size == 1) {
        for (; i + VL <= n; i += VL) vstore(dst + i, vi8((const uint8_t *)src + i));
        for (; i < n; i++) dst[i] = (float)((const int8_t *)src)[i];
        return;
    }
    for (; i + VL <= n; i += VL) vstore(dst + i, vhalf((const uint16_t *)src + i));
    for (; i < n; i++) dst[i] = ramet__half_f32(((const uint16_t *)src)[i]);
}

/* The same FMA chains as tile_rows, for so few rows that a block of a cache is used as it is read: R rows x ACROSS vectors of c[., n], n whole
 * vectors; b: int8 or halves [depth][n]. The first to read a block asks for what comes later, as many lines as it takes. */
#if defined(RAMET__VEC512) || defined(__AVX2__) || defined(RAMET__NEON)
enum { ACROSS = 4, FEW = 8 };
#else
enum { ACROSS = 2, FEW = 0 }; /* the floor shares tile_rows */
#endif
INLINE void few_run(const int R, const int size, ahead *f, float *c, int64_t ldc, int64_t n, const float *a, int64_t a_row, const char *b,
                    int64_t depth, int more) {
    for (int64_t j = 0; j < n; j += ACROSS * VL) {
        const int64_t last = n - j < ACROSS * VL ? (n - j) / VL - 1 : ACROSS - 1; /* vectors beyond it are computed twice, and stored once */
        vf sum[3][ACROSS];
        int64_t at[ACROSS];
        UNROLL for (int v = 0; v < ACROSS; v++) {
            at[v] = j + (v < last ? v : last) * VL;
            UNROLL for (int r = 0; r < R; r++) sum[r][v] = more ? vload(c + r * ldc + at[v]) : vzero();
        }
        for (int64_t i = 0; i < depth; i++) {
            vf each[3];
            UNROLL for (int r = 0; r < R; r++) each[r] = vset(a[r * a_row + i]);
            if (f && i % 4 == 0) ask(f, 4 * ACROSS * VL * size / 64);
            UNROLL for (int v = 0; v < ACROSS; v++) {
                const char *from = b + (i * n + at[v]) * size;
                vf w = size == 1 ? vi8((const uint8_t *)from) : vhalf((const uint16_t *)(const void *)from);
                UNROLL for (int r = 0; r < R; r++) sum[r][v] = vfma(each[r], w, sum[r][v]);
            }
        }
        UNROLL for (int v = 0; v < ACROSS; v++)
            UNROLL for (int r = 0; r < R; r++) vstore(c + r * ldc + at[v], sum[r][v]);
    }
}
INLINE void few_rows(const int size, ahead *f, float *c, int64_t ldc, int64_t m, int64_t n, const float *a, int64_t a_row, const void *b, int64_t depth,
                     int more) {
    for (; m >= 3; m -= 3, c += 3 * ldc, a += 3 * a_row, f = NULL) few_run(3, size, f, c, ldc, n, a, a_row, b, depth, more);
    for (; m; m--, c += ldc, a += a_row, f = NULL) few_run(1, size, f, c, ldc, n, a, a_row, b, depth, more);
}
NOINLINE static void few(int64_t size, ahead *f, float *c, int64_t ldc, int64_t m, int64_t n, const float *a, int64_t a_row, const void *b, int64_t depth,
                         int more) {
    if (size == 1) few_rows(1, f, c, ldc, m, n, a, a_row, b, depth, more);
    else few_rows(2, f, c, ldc, m, n, a, a_row, b, depth, more);
}

uint64_t FN(attention_scratch)(int64_t rows, int64_t group, int64_t hd, int64_t block) {
    uint64_t p = (uint64_t)padded(hd);
    return ramet__round64(4u * ((uint64_t)hd * KEYS + KEYS * p + ROWS * (2 * p + KEYS + 2)));
}

/* p[0..KEYS) = exp(s - top) for the first `seen`, else 0; answers their sum and raises the running maximum */
INLINE float weights(float *s, int64_t seen, float *top, float *shrink) {
    vf m = vset(*top);
    int64_t i = 0;
    for (; i + VL <= seen; i += VL) m = vmax(vload(s + i), m);
    float best = vtop(m);
    for (; i < seen; i++) best = s[i] > best ? s[i] : best;
    vf total = vzero(), b = vset(best);
    for (i = 0; i < KEYS; i += VL) {
        vf e = vzero();
        if (i < seen) {
            e = vexp(vsub(vload(s + i), b));
            if (seen - i < VL) {
                float t[VL] = {0};
                vput(t, e, seen - i);
                e = vload(t);
            }
        }
        vstore(s + i, e);
        total = vadd(total, e);
    }
    *shrink = best == *top ? 1.0f : expf(*top - best);
    *top = best;
    return vsum(total);
}

/* Scales of the keys or values from key to key + here, then zeros */
static void scales(float *dst, const void *const *table, int64_t key, int64_t here, int64_t block, int64_t hd) {
    memset(dst, 0, KEYS * sizeof *dst);
    for (int64_t j = 0, run; j < here; j += run) {
        const int64_t at = (key + j) % block;
        run = block - at < here - j ? block - at : here - j;
        memcpy(dst + j, (const char *)table[(key + j) / block] + ramet__kv_scales(block * hd) + at * (int64_t)sizeof *dst, (size_t)run * sizeof *dst);
    }
}
INLINE void times(float *s, const float *by) {
    for (int64_t i = 0; i < KEYS; i += VL) vstore(s + i, vmul(vload(s + i), vload(by + i)));
}

void FN(attention)(float *o, int64_t o_row, float *lse, int64_t lse_row, const float *q, int64_t q_row, int64_t rows, int64_t group, int64_t hd,
                   const void *const *k_block, const void *const *v_block, int32_t layout, int64_t kv_row, int64_t block, const int32_t *limit,
                   float scale, void *scratch) {
    int64_t size = layout == RAMET__KV_CACHE_INT8 ? 1 : layout == RAMET__KV_CACHE_F16 ? 2 : 4, wide = padded(hd), all = rows * group;
    float by[2][KEYS]; /* int8's scales of keys, of values */
    float *kt = scratch, *vp = kt + hd * KEYS, *qs = vp + KEYS * wide, *acc = qs + ROWS * wide, *s = acc + ROWS * wide, *top = s + ROWS * KEYS, *total = top + ROWS;
    for (int64_t first = 0; first < all; first += ROWS) {
        int64_t count = all - first < ROWS ? all - first : ROWS, most = 0;
        for (int64_t i = 0; i < count; i++) {
            int64_t r = (first + i) / group, h = (first + i) % group;
            const float *src = q + r * q_row + h * hd;
            for (int64_t d = 0; d < wide; d += VL) {
                vstore(qs + i * wide + d, vmul(vget(src + d, hd - d), vset(scale)));
                vstore(acc + i * wide + d, vzero());
            }
            top[i] = -INFINITY;
            total[i] = 0.0f;
            if (limit[r] > most) most = limit[r];
        }
        const int cached = layout != RAMET__KV_ROWS && block == KEYS, as_read = cached && size < 4 && count <= FEW && hd % VL == 0;
        ahead soon = {k_block, v_block, 0, cached && count <= FETCH_ROWS ? (most + KEYS - 1) / KEYS * 2 : 0, KEYS * hd * size + (size == 1 ? KEYS * 4 : 0), NULL, NULL};
        ask(&soon, LEAD);
        for (int64_t key = 0; key < most; key += KEYS) {
            int64_t here = most - key < KEYS ? most - key : KEYS;
            const float *keys = kt;
            if (as_read) few(size, &soon, s, KEYS, count, KEYS, qs, wide, k_block[key / KEYS], hd, 0);
            else if (cached && size == 4) keys = k_block[key / KEYS];
            else {
                if (here < KEYS) memset(kt, 0, (size_t)(hd * KEYS) * 4);
                for (int64_t j = 0; j < here;) {
                    int64_t at = (key + j) % block, run = block - at < here - j ? block - at : here - j;
                    const char *k = (const char *)k_block[(key + j) / block] + (layout == RAMET__KV_ROWS ? at * kv_row : at) * size;
                    if (layout == RAMET__KV_ROWS) tile_turn(kt + j, KEYS, (const float *)(const void *)k, kv_row, run, hd);
                    else
                        for (int64_t d = 0; d < hd; d++) {
                            widen(kt + d * KEYS + j, k + d * block * size, run, size);
                            ask(&soon, 1);
                        }
                    j += run;
                }
            }
            if (!as_read) product(&soon, s, KEYS, count, here, qs, wide, 1, keys, KEYS, hd, &fresh);
            if (size == 1) scales(by[0], k_block, key, here, block, hd), scales(by[1], v_block, key, here, block, hd);
            for (int64_t i = 0; i < count; i++) {
                int64_t seen = (int64_t)limit[(first + i) / group] - key;
                float shrink;
                if (seen <= 0) {
                    memset(s + i * KEYS, 0, KEYS * 4);
                    continue;
                }
                if (size == 1) times(s + i * KEYS, by[0]);
                float sum = weights(s + i * KEYS, seen < KEYS ? seen : KEYS, top + i, &shrink);
                if (size == 1) times(s + i * KEYS, by[1]);
                total[i] = total[i] * shrink + sum;
                if (shrink != 1.0f)
                    for (int64_t d = 0; d < wide; d += VL) vstore(acc + i * wide + d, vmul(vload(acc + i * wide + d), vset(shrink)));
            }
            if (as_read) few(size, &soon, acc, wide, count, hd, s, KEYS, v_block[key / KEYS], here, 1);
            for (int64_t j = 0; !as_read && j < here;) {
                int64_t at = (key + j) % block, run = block - at < here - j ? block - at : here - j;
                int64_t row = layout == RAMET__KV_ROWS ? kv_row : hd;
                const void *values = (const char *)v_block[(key + j) / block] + at * row * size;
                const float *v = values;
                if (size < 4)
                    for (int64_t r = 0; r < run; r++) {
                        widen(vp + r * wide, (const char *)values + r * hd * size, hd, size);
                        ask(&soon, 1);
                    }
                else if (wide != hd) copy_rows(vp, wide, v, row, run, hd);
                if (size < 4 || wide != hd) v = vp, row = wide;
                product(&soon, acc, wide, count, wide, s + j, KEYS, 1, v, row, run, &onward);
                j += run;
            }
        }
        for (int64_t i = 0; i < count; i++) {
            int64_t r = (first + i) / group, h = (first + i) % group;
            vf inverse = vset(total[i] > 0.0f ? 1.0f / total[i] : 0.0f);
            for (int64_t d = 0; d < hd; d += VL) vput(o + r * o_row + h * hd + d, vmul(vload(acc + i * wide + d), inverse), hd - d);
            if (lse) lse[r * lse_row + h] = limit[r] > 0 ? top[i] + logf(total[i]) : -INFINITY;
        }
    }
}

uint64_t FN(attention_grad_scratch)(int64_t rows, int64_t group, int64_t hd) {
    uint64_t p = (uint64_t)padded(hd);
    return ramet__round64(4u * (2u * (uint64_t)hd * KEYS + 3u * KEYS * p + 2u * GRAD_ROWS * p + 2u * GRAD_ROWS * KEYS + (uint64_t)(rows * group)));
}

/* For each block of keys, then rows that see it: p = exp(s - lse), dv += p^T do, ds = p (do.v - do.o) scale, dk += ds^T q, dq += ds k. */
void FN(attention_grad)(float *dq, float *dk, float *dv, const float *q, const float *k, const float *v, const float *o, const float *d_o,
                        const float *lse, int64_t lse_row, int64_t q_row, int64_t kv_row, int64_t rows, int64_t group, int64_t hd,
                        int32_t causal, float scale, void *scratch) {
    int64_t wide = padded(hd);
    float *kt = scratch, *vt = kt + hd * KEYS, *kp = vt + hd * KEYS, *dks = kp + KEYS * wide, *dvs = dks + KEYS * wide, *qp = dvs + KEYS * wide;
    ahead none = {NULL, NULL, 0, 0, 0, NULL, NULL};
    float *dop = qp + GRAD_ROWS * wide, *p = dop + GRAD_ROWS * wide, *ds = p + GRAD_ROWS * KEYS, *delta = ds + GRAD_ROWS * KEYS;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < group; h++) {
            vf sum = vzero();
            int64_t at = r * q_row + h * hd;
            for (int64_t i = 0; i < hd; i += VL) sum = vfma(vget(d_o + at + i, hd - i), vget(o + at + i, hd - i), sum);
            delta[r * group + h] = vsum(sum);
        }
    for (int64_t key = 0; key < rows; key += KEYS) {
        int64_t here = rows - key < KEYS ? rows - key : KEYS;
        if (here < KEYS) memset(kt, 0, (size_t)(2 * hd * KEYS) * 4);
        tile_turn(kt, KEYS, k + key * kv_row, kv_row, here, hd);
        tile_turn(vt, KEYS, v + key * kv_row, kv_row, here, hd);
        copy_rows(kp, wide, k + key * kv_row, kv_row, here, hd);
        memset(dks, 0, (size_t)(2 * KEYS * wide) * 4);
        for (int64_t h = 0; h < group; h++)
            for (int64_t row = causal ? key : 0; row < rows; row += GRAD_ROWS) {
                int64_t count = rows - row < GRAD_ROWS ? rows - row : GRAD_ROWS;
                copy_rows(qp, wide, q + row * q_row + h * hd, q_row, count, hd);
                copy_rows(dop, wide, d_o + row * q_row + h * hd, q_row, count, hd);
                product(&none, p, KEYS, count, KEYS, qp, wide, 1, kt, KEYS, hd, &fresh);
                product(&none, ds, KEYS, count, KEYS, dop, wide, 1, vt, KEYS, hd, &fresh);
                for (int64_t r = 0; r < count; r++) {
                    int64_t seen = causal ? row + r - key + 1 : here;
                    vf l = vset(lse[(row + r) * lse_row + h]), d = vset(delta[(row + r) * group + h]), sc = vset(scale);
                    for (int64_t i = 0; i < KEYS; i += VL) {
                        float *pi = p + r * KEYS + i, *di = ds + r * KEYS + i;
                        vf e = vexp(vsub(vmul(vload(pi), sc), l)), g = vload(di);
                        if (seen - i < VL) {
                            float t[VL] = {0};
                            vput(t, e, seen - i);
                            e = vload(t);
                        }
                        vstore(pi, e);
                        vstore(di, vmul(vmul(e, vsub(g, d)), sc));
                    }
                }
                product(&none, dvs, wide, here, wide, p, 1, KEYS, dop, wide, count, &onward);
                product(&none, dks, wide, here, wide, ds, 1, KEYS, qp, wide, count, &onward);
                product(&none, dq + row * q_row + h * hd, q_row, count, hd, ds, KEYS, 1, kp, wide, here, key ? &onward : &fresh);
            }
        for (int64_t j = 0; j < here; j++)
            for (int64_t i = 0; i < hd; i += VL) {
                vput(dk + (key + j) * kv_row + i, vload(dks + j * wide + i), hd - i);
                vput(dv + (key + j) * kv_row + i, vload(dvs + j * wide + i), hd - i);
            }
    }
}
