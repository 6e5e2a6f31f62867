/* SPDX-License-Identifier: Apache-2.0 */
/* attention.c - attention and its gradient with every product in bf16 and fp32 sums, by AMX: blocks of 64 keys with a running softmax as in
 * simd/attention.c (after Dao 2023, "FlashAttention-2"). Softmax, its gradient and all that is kept from block to block are fp32. A row's bits do not depend on
 * the rows beside it: keys that it must not see weigh exactly zero.
 *
 * Of a product's two sides one is rows of bf16 (`x` of strip_tiles.h), the other pairs of rows (`w`): turned() makes w of a matrix that stands turned over,
 * woven() of one that stands as it is multiplied. */
#include "blocks.h"
#include "registry.h"
#include "simd/tile.h"
#include "x86_avx512/pairs_bf16.h"
#include "x86_avx512/strip_tiles.h"

enum { KEYS = STRIP, ROWS = 96, GRAD_ROWS = STRIP, PAIRS = KEYS / 2 };

static int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }
static int64_t strips(int64_t hd) { return (hd + STRIP - 1) / STRIP; }
static void multiply(float *y, int64_t ldy, int64_t rows, int64_t width, int start, const uint16_t *x, int64_t ldx, const uint16_t *w, int64_t pairs) {
    ramet__tiles_amx(y, ldy, rows, width, start, (const uint32_t *)(const void *)x, ldx / 2, w, pairs);
}

INLINE void put_half(uint16_t *dst, vf x) { _mm256_storeu_si256((__m256i *)(void *)dst, (__m256i)_mm512_cvtneps_pbh(x)); }
/* dst[0..to) = scale src[0..n), then zeros; `to` is a multiple of 16 */
INLINE void round_row(uint16_t *dst, int64_t to, const float *src, int64_t n, float scale) {
    for (int64_t i = 0; i < to; i += 16) put_half(dst + i, vmul(vget(src + i, n - i), vset(scale)));
}
/* dst[pairs of columns][STRIP][2], its columns from..from + rows = the rows of src[rows][depth], of bf16; depth is even */
INLINE void turned(uint16_t *dst, int64_t from, const uint16_t *src, int64_t lds, int64_t rows, int64_t depth) {
    tile_turn((float *)(void *)(dst + 2 * from), STRIP, (const float *)(const void *)src, lds / 2, rows, depth / 2);
}
/* Halves or floats as a vector, n of them */
INLINE vf get(const void *p, int64_t i, int64_t size, int64_t n) {
    if (size == 4) return vget((const float *)p + i, n);
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(n >= 16 ? 0xffffu : n > 0 ? vmask(n) : 0, (const uint16_t *)p + i));
}
/* dst[(depth + 1) / 2][STRIP][2] in strips of `pairs` of them = src[depth][columns]: what is missing to the last pair and the last vector is zero */
INLINE void woven(uint16_t *dst, int64_t pairs, const void *src, int64_t lds, int64_t size, int64_t depth, int64_t columns) {
    for (int64_t l = 0; l < depth; l += 2)
        for (int64_t i = 0; i < columns; i += 16) {
            const vf even = get(src, l * lds + i, size, columns - i), odd = l + 1 < depth ? get(src, (l + 1) * lds + i, size, columns - i) : vzero();
            vistore(dst + ((i / STRIP * pairs + l / 2) * STRIP + i % STRIP) * 2, pairs_of(even, odd));
        }
}

/* ---- forward ---- */
typedef struct room { uint16_t *q, *p, *rows, *k, *v; float *s, *acc, *top, *total; } room;
static uint64_t room_bytes(room *r, void *at, int64_t hd) {
    const int64_t deep = whole(hd, 32), wide = whole(hd, 16);
    char *c = at;
    uint64_t bytes = 0;
#define TAKE(field, n) r->field = (void *)(c + bytes), bytes += ramet__round64((uint64_t)(n) * sizeof *r->field)
    TAKE(q, ROWS * deep);
    TAKE(p, ROWS * KEYS);
    TAKE(rows, KEYS * deep);
    TAKE(k, deep * KEYS);
    TAKE(v, strips(hd) * PAIRS * STRIP * 2);
    TAKE(s, ROWS * KEYS);
    TAKE(acc, ROWS * wide);
    TAKE(top, ROWS);
    TAKE(total, ROWS * 16);
    return bytes;
}
uint64_t ramet__attention_brain_scratch_amx(int64_t rows, int64_t group, int64_t hd, int64_t block) {
    (void)rows, (void)group, (void)block;
    room r;
    return room_bytes(&r, NULL, hd);
}

/* Keys key..key + here as pairs of their numbers, values as pairs of keys; both are followed by zeros. */
static void take(const room *r, const void *const *k_block, const void *const *v_block, int32_t layout, int64_t kv_row, int64_t block, int64_t hd, int64_t key, int64_t here) {
    const int64_t size = layout == RAMET__KV_CACHE_F16 ? 2 : 4, deep = whole(hd, 32), row = layout == RAMET__KV_ROWS ? kv_row : hd;
    if (here < KEYS) memset(r->k, 0, (size_t)(deep * KEYS) * 2), memset(r->v, 0, (size_t)(strips(hd) * PAIRS * STRIP) * 4);
    else if (deep != hd) memset(r->k + whole(hd, 2) * KEYS, 0, (size_t)((deep - whole(hd, 2)) * KEYS) * 2);
    for (int64_t j = 0; j < here;) {
        const int64_t at = (key + j) % block, run = block - at < here - j ? block - at : here - j;
        const char *k = k_block[(key + j) / block], *v = (const char *)v_block[(key + j) / block] + at * row * size;
        if (layout == RAMET__KV_ROWS) {
            for (int64_t i = 0; i < run; i++) round_row(r->rows + i * deep, deep, (const float *)(const void *)k + (at + i) * kv_row, hd, 1.0f);
            turned(r->k, j, r->rows, deep, run, deep);
        } else
            for (int64_t d = 0; d < hd; d += 2)
                for (int64_t i = 0; i < run; i += 16) {
                    const vf even = get(k, d * block + at + i, size, run - i), odd = d + 1 < hd ? get(k, (d + 1) * block + at + i, size, run - i) : vzero();
                    _mm512_mask_storeu_epi32(r->k + (d / 2 * KEYS + j + i) * 2, run - i >= 16 ? 0xffffu : vmask(run - i), pairs_of(even, odd));
                }
        if (j % 2 == 0 && (run % 2 == 0 || j + run == here)) woven(r->v + j * STRIP, PAIRS, v, row, size, run, hd);
        else /* a pair of two blocks */
            for (int64_t i = 0; i < run; i++)
                for (int64_t d = 0; d < hd; d++) {
                    const vf one = get(v, i * row + d, size, 1);
                    uint16_t half[16];
                    put_half(half, one);
                    r->v[((d / STRIP * PAIRS + (j + i) / 2) * STRIP + d % STRIP) * 2 + (j + i) % 2] = half[0];
                }
        j += run;
    }
}

#define LOG2E 1.44269504f
/* 2^x: a polynomial of degree 3 over [-1/2, 1/2], within 1e-4 of the value, which is less than bf16 sees. From -126 down 2^-126: what lies below takes
 * processors a hundred times as long. NaN stays NaN. */
INLINE vf brain_exp2(vf x) {
    x = vmax(vset(-126.0f), x);
    const vf n = vround(x), r = vsub(x, n);
    vf p = vfma(vset(0x1.c3f6c4p-5f), r, vset(0x1.f0dddep-3f));
    p = vfma(p, r, vset(0x1.62f31ap-1f));
    return _mm512_scalef_ps(vfma(p, r, vset(0x1.fff694p-1f)), n);
}

/* Which of 16 keys from i on a row sees */
INLINE __mmask16 those(int64_t seen, int64_t i) { return seen >= i + 16 ? 0xffffu : seen > i ? vmask(seen - i) : 0; }
INLINE float top_of(const float *s, int64_t seen, float top) {
    vf m = vset(top);
    UNROLL for (int i = 0; i < KEYS; i += 16) m = _mm512_mask_max_ps(m, those(seen, i), m, vload(s + i));
    return vtop(m);
}
/* p[0..KEYS) = exp(s - top) for the first `seen`, else 0, added to 16 sums, which shrink before */
INLINE void weights(uint16_t *p, const float *s, int64_t seen, float top, float shrink, float *total) {
    vf sum = vmul(vload(total), vset(shrink));
    UNROLL for (int i = 0; i < KEYS; i += 16) {
        vf e = brain_exp2(vfma(vload(s + i), vset(LOG2E), vset(-LOG2E * top)));
        if (seen < KEYS) e = _mm512_maskz_mov_ps(those(seen, i), e);
        put_half(p + i, e);
        sum = vadd(sum, e);
    }
    vstore(total, sum);
}
/* The softmax of 16 rows over a block of keys; n of them are there. seen: keys of the block that each sees. */
INLINE void soften(const room *m, int64_t row, int64_t n, const int32_t *seen, int64_t wide, int more) {
    float tops[16], shrink[16];
    for (int i = 0; i < 16; i++) {
        tops[i] = m->top[row + i];
        if (i < n) tops[i] = seen[i] >= KEYS ? top_of(m->s + (row + i) * KEYS, KEYS, tops[i]) : top_of(m->s + (row + i) * KEYS, seen[i], tops[i]);
    }
    const vf old = vload(m->top + row), new = vload(tops);
    const __mmask16 grew = _mm512_cmp_ps_mask(old, new, _CMP_LT_OQ);
    vstore(shrink, _mm512_mask_mov_ps(vset(1.0f), grew, brain_exp2(vmul(vsub(old, new), vset(LOG2E)))));
    vstore(m->top + row, new);
    for (int64_t i = 0; i < n; i++) {
        uint16_t *p = m->p + (row + i) * KEYS;
        const float *s = m->s + (row + i) * KEYS;
        if (seen[i] >= KEYS) weights(p, s, KEYS, tops[i], shrink[i], m->total + (row + i) * 16);
        else weights(p, s, seen[i], tops[i], shrink[i], m->total + (row + i) * 16);
    }
    if (more && grew)
        for (int64_t i = 0; i < n; i++)
            for (int64_t d = 0; d < wide; d += 16) vstore(m->acc + (row + i) * wide + d, vmul(vload(m->acc + (row + i) * wide + d), vset(shrink[i])));
}

void ramet__attention_brain_amx(float *o, int64_t o_row, float *lse, int64_t lse_row, const float *q, int64_t q_row, int64_t rows, int64_t group, int64_t hd,
                                const void *const *k_block, const void *const *v_block, int32_t layout, int64_t kv_row, int64_t block, const int32_t *limit,
                                float scale, void *scratch) {
    const int64_t all = rows * group, deep = whole(hd, 32), wide = whole(hd, 16);
    room m;
    room_bytes(&m, scratch, hd);
    for (int64_t first = 0; first < all; first += ROWS) {
        const int64_t count = all - first < ROWS ? all - first : ROWS;
        int64_t most = 0;
        for (int64_t i = 0; i < ROWS; i++) m.top[i] = -INFINITY;
        for (int64_t i = 0; i < count; i++) {
            const int64_t r = (first + i) / group, h = (first + i) % group;
            round_row(m.q + i * deep, deep, q + r * q_row + h * hd, hd, scale);
            vstore(m.total + i * 16, vzero());
            if (limit[r] > most) most = limit[r];
        }
        for (int64_t key = 0; key < most; key += KEYS) {
            const int64_t here = most - key < KEYS ? most - key : KEYS;
            take(&m, k_block, v_block, layout, kv_row, block, hd, key, here);
            multiply(m.s, KEYS, count, KEYS, 0, m.q, deep, m.k, deep / 2);
            for (int64_t i = 0; i < count; i += 16) {
                int32_t seen[16];
                for (int64_t j = 0; j < 16; j++) seen[j] = i + j < count ? limit[(first + i + j) / group] - (int32_t)key : 0;
                soften(&m, i, count - i < 16 ? count - i : 16, seen, wide, key > 0);
            }
            for (int64_t d = 0; d < hd; d += STRIP)
                multiply(m.acc + d, wide, count, wide - d < STRIP ? wide - d : STRIP, key > 0, m.p, KEYS, m.v + d / STRIP * PAIRS * STRIP * 2, (here + 1) / 2);
        }
        for (int64_t i = 0; i < count; i++) {
            const int64_t r = (first + i) / group, h = (first + i) % group;
            const float total = vsum(vload(m.total + i * 16));
            const vf inverse = vset(1.0f / total);
            for (int64_t d = 0; d < hd; d += 16)
                vput(o + r * o_row + h * hd + d, limit[r] > 0 ? vmul(vload(m.acc + i * wide + d), inverse) : vzero(), hd - d);
            if (lse) lse[r * lse_row + h] = limit[r] > 0 ? m.top[i] + logf(total) : -INFINITY;
        }
    }
}

/* ---- gradient ----
 * Scores stand turned over, keys down and queries across: then weights and their gradients are the rows that dv and dk multiply, and a query's log-sum-exp
 * lies beside its neighbour's. */
typedef struct grad_room {
    uint16_t *k, *v, *kt;      /* of all keys: rows; and the numbers of each block of keys as rows [block][wide][KEYS] */
    float *dk, *dv;            /* sums of all keys */
    uint16_t *rows, *qt, *dot; /* of a block of queries: rows; turned, as pairs of their numbers */
    uint16_t *qw, *dow;        /* as pairs of queries */
    uint16_t *p, *ds, *dsw;    /* [keys][queries]; and ds as pairs of keys */
    float *s, *dp, *dqt, *lse, *delta;
} grad_room;
static uint64_t grad_bytes(grad_room *r, void *at, int64_t rows, int64_t hd) {
    const int64_t deep = whole(hd, 32), wide = whole(hd, 16), all = whole(rows, KEYS);
    char *c = at;
    uint64_t bytes = 0;
    TAKE(k, all * deep);
    TAKE(v, all * deep);
    TAKE(kt, all * wide);
    TAKE(dk, all * wide);
    TAKE(dv, all * wide);
    TAKE(rows, GRAD_ROWS * deep);
    TAKE(qt, deep * STRIP);
    TAKE(dot, deep * STRIP);
    TAKE(qw, strips(hd) * PAIRS * STRIP * 2);
    TAKE(dow, strips(hd) * PAIRS * STRIP * 2);
    TAKE(p, KEYS * GRAD_ROWS);
    TAKE(ds, KEYS * GRAD_ROWS);
    TAKE(dsw, KEYS * GRAD_ROWS);
    TAKE(s, KEYS * GRAD_ROWS);
    TAKE(dp, KEYS * GRAD_ROWS);
    TAKE(dqt, wide * GRAD_ROWS);
    TAKE(lse, GRAD_ROWS);
    TAKE(delta, GRAD_ROWS);
#undef TAKE
    return bytes;
}
uint64_t ramet__attention_grad_brain_scratch_amx(int64_t rows, int64_t group, int64_t hd) {
    (void)group;
    grad_room r;
    return grad_bytes(&r, NULL, rows, hd);
}

/* Of a block of queries of one head: what does not change from block to block of keys. */
static void take_queries(const grad_room *m, const float *q, const float *o, const float *d_o, int64_t q_row, const float *lse, int64_t lse_row, int64_t count, int64_t hd) {
    const int64_t deep = whole(hd, 32);
    if (count < GRAD_ROWS) {
        memset(m->qt, 0, (size_t)(deep * STRIP) * 2);
        memset(m->dot, 0, (size_t)(deep * STRIP) * 2);
        memset(m->qw, 0, (size_t)(strips(hd) * PAIRS * STRIP) * 4);
        memset(m->dow, 0, (size_t)(strips(hd) * PAIRS * STRIP) * 4);
    }
    for (int64_t r = 0; r < count; r++) round_row(m->rows + r * deep, deep, q + r * q_row, hd, 1.0f);
    turned(m->qt, 0, m->rows, deep, count, deep);
    for (int64_t r = 0; r < count; r++) round_row(m->rows + r * deep, deep, d_o + r * q_row, hd, 1.0f);
    turned(m->dot, 0, m->rows, deep, count, deep);
    woven(m->qw, PAIRS, q, q_row, 4, count, hd);
    woven(m->dow, PAIRS, d_o, q_row, 4, count, hd);
    for (int64_t r = 0; r < GRAD_ROWS; r++) {
        vf sum = vzero();
        for (int64_t i = 0; r < count && i < hd; i += 16) sum = vfma(vget(d_o + r * q_row + i, hd - i), vget(o + r * q_row + i, hd - i), sum);
        m->delta[r] = vsum(sum);
        m->lse[r] = r < count ? -LOG2E * lse[r * lse_row] : -INFINITY; /* rows that are not there weigh next to nothing, and are zero */
    }
}

/* For each block of queries, then keys that they see: p = exp(s - lse), dv += p do, ds = p (dp - do.o) scale, dk += ds q, dq += ds^T k. */
void ramet__attention_grad_brain_amx(float *dq, float *dk, float *dv, const float *q, const float *k, const float *v, const float *o, const float *d_o,
                                     const float *lse, int64_t lse_row, int64_t q_row, int64_t kv_row, int64_t rows, int64_t group, int64_t hd, int32_t causal,
                                     float scale, void *scratch) {
    const int64_t deep = whole(hd, 32), wide = whole(hd, 16), all = whole(rows, KEYS);
    const vf sc = vset(scale), sc2 = vset(scale * LOG2E), count_up = vcvt(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    grad_room m;
    grad_bytes(&m, scratch, rows, hd);
    memset(m.dk, 0, (size_t)(all * wide) * 4);
    memset(m.dv, 0, (size_t)(all * wide) * 4);
    for (int64_t r = 0; r < all; r++) {
        round_row(m.k + r * deep, deep, k + r * kv_row, r < rows ? hd : 0, 1.0f);
        round_row(m.v + r * deep, deep, v + r * kv_row, r < rows ? hd : 0, 1.0f);
    }
    for (int64_t key = 0; key < all; key += KEYS) { /* floats turned over, then rounded */
        const int64_t here = rows - key < KEYS ? rows - key : KEYS;
        for (int64_t d = 0; d < wide; d += 16) {
            float t[16 * KEYS];
            const int64_t n = hd - d < 16 ? hd - d : 16;
            if (here < KEYS || n < 16) memset(t, 0, sizeof t);
            tile_turn(t, KEYS, k + key * kv_row + d, kv_row, here, n);
            for (int64_t i = 0; i < 16; i++) round_row(m.kt + key * wide + (d + i) * KEYS, KEYS, t + i * KEYS, KEYS, 1.0f);
        }
    }
    for (int64_t h = 0; h < group; h++)
        for (int64_t row = 0; row < rows; row += GRAD_ROWS) {
            const int64_t count = rows - row < GRAD_ROWS ? rows - row : GRAD_ROWS, at = row * q_row + h * hd, end = causal ? row + count : rows;
            take_queries(&m, q + at, o + at, d_o + at, q_row, lse + row * lse_row + h, lse_row, count, hd);
            for (int64_t key = 0; key < end; key += KEYS) {
                const int64_t here = rows - key < KEYS ? rows - key : KEYS;
                multiply(m.s, GRAD_ROWS, here, GRAD_ROWS, 0, m.k + key * deep, deep, m.qt, deep / 2);
                multiply(m.dp, GRAD_ROWS, here, GRAD_ROWS, 0, m.v + key * deep, deep, m.dot, deep / 2);
                if (here < KEYS) memset(m.dsw, 0, KEYS * GRAD_ROWS * 2);
                for (int64_t j = 0; j < here; j++) {
                    float *ds = m.dp + j * GRAD_ROWS;
                    const vf hidden = vset((float)(key + j - row)); /* queries before it do not see this key */
                    UNROLL for (int i = 0; i < GRAD_ROWS; i += 16) {
                        vf e = brain_exp2(vfma(vload(m.s + j * GRAD_ROWS + i), sc2, vload(m.lse + i)));
                        if (causal && key + KEYS > row) e = vwhere(hidden, vadd(count_up, vset((float)i)), vzero(), e);
                        const vf g = vmul(vmul(e, vsub(vload(ds + i), vload(m.delta + i))), sc);
                        put_half(m.p + j * GRAD_ROWS + i, e);
                        put_half(m.ds + j * GRAD_ROWS + i, g);
                        vstore(ds + i, g);
                    }
                }
                woven(m.dsw, PAIRS, m.dp, GRAD_ROWS, 4, here, GRAD_ROWS);
                for (int64_t d = 0; d < hd; d += STRIP) {
                    const int64_t width = wide - d < STRIP ? wide - d : STRIP, strip = d / STRIP * PAIRS * STRIP * 2;
                    multiply(m.dv + key * wide + d, wide, here, width, 1, m.p, GRAD_ROWS, m.dow + strip, PAIRS);
                    multiply(m.dk + key * wide + d, wide, here, width, 1, m.ds, GRAD_ROWS, m.qw + strip, PAIRS);
                }
                multiply(m.dqt, GRAD_ROWS, wide, GRAD_ROWS, key > 0, m.kt + key * wide, KEYS, m.dsw, PAIRS);
            }
            tile_turn(dq + at, q_row, m.dqt, GRAD_ROWS, hd, count);
        }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < hd; i += 16) {
            vput(dk + r * kv_row + i, vload(m.dk + r * wide + i), hd - i);
            vput(dv + r * kv_row + i, vload(m.dv + r * wide + i), hd - i);
        }
}
