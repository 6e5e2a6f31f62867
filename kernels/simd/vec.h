/* SPDX-License-Identifier: Apache-2.0 */
/* vec.h - the vector that the sources of this folder are written in: 8 floats over SIMDe (levels simd and avx2) or NEON, or 16 floats of
 * AVX-512 when RAMET__VEC512 is defined. RAMET__SUFFIX is the level's name; FN(x) is a function's name at this level. */
#ifndef RAMET__VEC_H
#define RAMET__VEC_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#define RAMET__PASTE2(a, b) a##b
#define RAMET__PASTE(a, b) RAMET__PASTE2(a, b)
#define FN(name) RAMET__PASTE(ramet__##name##_, RAMET__SUFFIX)
/* The level whose fp32 functions this one takes: its own, but for a level that adds integer products to another. */
#ifdef RAMET__BASE
#define FN_BASE(name) RAMET__PASTE(ramet__##name##_, RAMET__BASE)
#else
#define FN_BASE FN
#endif
#if defined(__GNUC__) && defined(__aarch64__)
#define ONE_ADDRESS(p) __asm__("" : "+r"(p)) /* what p points to is reached by it alone, so that neighbours load as a pair */
#else
#define ONE_ADDRESS(p) (void)(p)
#endif
#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline, unused))
#define NOINLINE __attribute__((noinline))
#define PREFETCH(p, level) __builtin_prefetch((const void *)(p), 0, level) /* 3: to L1, 2: to L2 */
#else
#define INLINE static inline
#define NOINLINE
#define PREFETCH(p, level) (void)(p)
#endif
#if defined(RAMET__EMULATE_AVX512) && (defined(RAMET__VEC512) || defined(RAMET__AVXVNNI))
#include "x86_avx512/emulated.h"
#endif
/* GCC would put an addition off to the end, with every product kept in memory until then */
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__aarch64__)) && !(defined(RAMET__EMULATE_AVX512) && defined(RAMET__VEC512))
#ifdef __aarch64__
#define HERE(v) __asm__("" : "+w"(v)) /* of one register */
#else
#define HERE(v) __asm__("" : "+x"(v))
#endif
#define IN_MEMORY(p) __asm__("" : "+r"(p) : : "memory") /* what p points to is read from there, not kept in registers that there are not */
#else
#define HERE(v) (void)(v)
#define IN_MEMORY(p) (void)(p)
#endif
#if defined(__clang__) && defined(__aarch64__)
#define IN_TURN(v) __asm__ volatile("" : "+w"(v)) /* clang would take one row after the other, and keep in memory what all meet */
#else
#define IN_TURN(v) (void)(v)
#endif
#if defined(__clang__) && defined(__AVX512BF16__)
#define SAME_PAIRS(v) HERE(v) /* clang 16 crashes over one number in all lanes that is read as pairs of bf16 */
#else
#define SAME_PAIRS(v) (void)(v)
#endif
#if defined(__GNUC__) && (defined(__AVX2__) || defined(__ARM_NEON))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)") /* a count would multiply loops that are no constants yet */
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#else
#define UNROLL /* SIMDe on bare SSE2 is loops already */
#endif

#ifdef RAMET__VEC512
#ifndef RAMET__EMULATE_AVX512
#include <immintrin.h>
#endif
#define VL 16
typedef __m512 vf;
typedef __m512i vi;
INLINE vf vzero(void) { return _mm512_setzero_ps(); }
INLINE vf vset(float x) { return _mm512_set1_ps(x); }
INLINE vf vload(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vstore(float *p, vf a) { _mm512_storeu_ps(p, a); }
INLINE __mmask16 vmask(int64_t n) { return (__mmask16)((1u << n) - 1u); }
/* the first n < VL elements; the rest reads as zero and is not written */
INLINE vf vload_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(vmask(n), p); }
INLINE void vstore_n(float *p, vf a, int64_t n) { _mm512_mask_storeu_ps(p, vmask(n), a); }
INLINE vf vadd(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vsub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf vmul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vdiv(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf vsqrt(vf a) { return _mm512_sqrt_ps(a); }
INLINE vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf vwhere(vf a, vf b, vf yes, vf no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), no, yes); } /* a > b */
INLINE vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vfnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE vf vabs(vf a) { return _mm512_abs_ps(a); }
INLINE vf vround(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf vhalf(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INLINE vf vbrain(const void *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16)); }
INLINE vi viload(const void *p) { return _mm512_loadu_si512(p); }
INLINE void vistore(void *p, vi a) { _mm512_storeu_si512(p, a); }
INLINE vi viset(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vi viset8(int8_t x) { return _mm512_set1_epi8(x); }
INLINE vi viand(vi a, vi b) { return _mm512_and_si512(a, b); }
INLINE vi vior(vi a, vi b) { return _mm512_or_si512(a, b); }
INLINE vi vixor(vi a, vi b) { return _mm512_xor_si512(a, b); }
INLINE vi viadd(vi a, vi b) { return _mm512_add_epi32(a, b); }
#define visrl(a, n) _mm512_srli_epi32(a, n)
#define visll(a, n) _mm512_slli_epi32(a, n)
INLINE vf vcvt(vi a) { return _mm512_cvtepi32_ps(a); }
INLINE vi vtoi(vf a) { return _mm512_cvtps_epi32(a); }
INLINE vf vcast(vi a) { return _mm512_castsi512_ps(a); }
INLINE vi vicast(vf a) { return _mm512_castps_si512(a); }
INLINE vf vu8(const void *p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p))); }
INLINE vf vi8(const void *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p))); }
INLINE void vstore_i8(int8_t *p, vi a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }
/* four floats from each of four places, one a 128-bit lane */
INLINE vf vlanes(const float *const p[VL / 4]) {
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(p[0]));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p[1]), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p[2]), 2);
    return _mm512_insertf32x4(v, _mm_loadu_ps(p[3]), 3);
}
#define visra(a, n) _mm512_srai_epi32(a, n)
#define vswap(a) _mm512_permute_ps(a, 0xb1) /* neighbours change places */
INLINE vi visub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
/* sums of squares in double: two accumulators of VL / 2 */
typedef struct vd { __m512d lo, hi; } vd;
INLINE vd vd_zero(void) { return (vd){_mm512_setzero_pd(), _mm512_setzero_pd()}; }
INLINE vd vd_square(vd s, vf x) {
    __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(x)), hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
    return (vd){_mm512_fmadd_pd(lo, lo, s.lo), _mm512_fmadd_pd(hi, hi, s.hi)};
}
INLINE double vd_sum(vd s) { return _mm512_reduce_add_pd(_mm512_add_pd(s.lo, s.hi)); }
#define vilo32(a, b) _mm512_unpacklo_epi32(a, b)
#define vihi32(a, b) _mm512_unpackhi_epi32(a, b)
#define vilo64(a, b) _mm512_unpacklo_epi64(a, b)
#define vihi64(a, b) _mm512_unpackhi_epi64(a, b)
/* Sums of lanes j, j+8; then 4, 2, 1: the tree that ref uses. */
INLINE float vsum(vf a) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE float vtop(vf a) { return _mm512_reduce_max_ps(a); }
#elif defined(__aarch64__) && defined(__ARM_NEON)
/* SIMDe's 256-bit types are unions, which GCC keeps in memory here: 8 floats as two registers */
#include <arm_neon.h>
#define RAMET__NEON
#define VL 8
typedef struct vf { float32x4_t lo, hi; } vf;
typedef struct vi { int32x4_t lo, hi; } vi;
#define RAMET__HALVES(t, f, ...) ((t){f(lo, __VA_ARGS__), f(hi, __VA_ARGS__)})
#define RAMET__ONE(part, f, a) f((a).part)
#define RAMET__TWO(part, f, a, b) f((a).part, (b).part)
#define RAMET__THREE(part, f, a, b, c) f((a).part, (b).part, (c).part)
#define RAMET__OP(part, op, a, b) ((a).part op (b).part)
INLINE vf vset(float x) { return (vf){vdupq_n_f32(x), vdupq_n_f32(x)}; }
INLINE vf vzero(void) { return vset(0.0f); }
INLINE vf vload(const float *p) { return (vf){vld1q_f32(p), vld1q_f32(p + 4)}; }
INLINE void vstore(float *p, vf a) {
    vst1q_f32(p, a.lo);
    vst1q_f32(p + 4, a.hi);
}
INLINE vf vadd(vf a, vf b) { return RAMET__HALVES(vf, RAMET__OP, +, a, b); }
INLINE vf vsub(vf a, vf b) { return RAMET__HALVES(vf, RAMET__OP, -, a, b); }
INLINE vf vmul(vf a, vf b) { return RAMET__HALVES(vf, RAMET__OP, *, a, b); }
INLINE vf vdiv(vf a, vf b) { return RAMET__HALVES(vf, RAMET__OP, /, a, b); }
INLINE vf vsqrt(vf a) { return RAMET__HALVES(vf, RAMET__ONE, vsqrtq_f32, a); }
INLINE vf vfma(vf a, vf b, vf c) { return RAMET__HALVES(vf, RAMET__THREE, vfmaq_f32, c, a, b); }
INLINE vf vfnma(vf a, vf b, vf c) { return RAMET__HALVES(vf, RAMET__THREE, vfmsq_f32, c, a, b); }
INLINE vf vabs(vf a) { return RAMET__HALVES(vf, RAMET__ONE, vabsq_f32, a); }
INLINE vf vround(vf a) { return RAMET__HALVES(vf, RAMET__ONE, vrndnq_f32, a); }
/* as x86 has them: the second operand when one is NaN */
INLINE float32x4_t vmax4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
INLINE float32x4_t vmin4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
INLINE vf vmax(vf a, vf b) { return RAMET__HALVES(vf, RAMET__TWO, vmax4, a, b); }
INLINE vf vmin(vf a, vf b) { return RAMET__HALVES(vf, RAMET__TWO, vmin4, a, b); }
INLINE vf vwhere(vf a, vf b, vf yes, vf no) { return (vf){vbslq_f32(vcgtq_f32(a.lo, b.lo), yes.lo, no.lo), vbslq_f32(vcgtq_f32(a.hi, b.hi), yes.hi, no.hi)}; }
INLINE vi viset(int32_t x) { return (vi){vdupq_n_s32(x), vdupq_n_s32(x)}; }
INLINE vi viset8(int8_t x) { return (vi){vreinterpretq_s32_s8(vdupq_n_s8(x)), vreinterpretq_s32_s8(vdupq_n_s8(x))}; }
INLINE vi viload(const void *p) { return (vi){vreinterpretq_s32_u8(vld1q_u8(p)), vreinterpretq_s32_u8(vld1q_u8((const uint8_t *)p + 16))}; }
INLINE void vistore(void *p, vi a) {
    vst1q_u8(p, vreinterpretq_u8_s32(a.lo));
    vst1q_u8((uint8_t *)p + 16, vreinterpretq_u8_s32(a.hi));
}
INLINE vi viand(vi a, vi b) { return RAMET__HALVES(vi, RAMET__OP, &, a, b); }
INLINE vi vior(vi a, vi b) { return RAMET__HALVES(vi, RAMET__OP, |, a, b); }
INLINE vi vixor(vi a, vi b) { return RAMET__HALVES(vi, RAMET__OP, ^, a, b); }
INLINE vi viadd(vi a, vi b) { return RAMET__HALVES(vi, RAMET__TWO, vaddq_s32, a, b); }
INLINE vi visub(vi a, vi b) { return RAMET__HALVES(vi, RAMET__TWO, vsubq_s32, a, b); }
#define RAMET__SHIFT(part, op, a, n) vreinterpretq_s32_u32(vreinterpretq_u32_s32((a).part) op vdupq_n_u32((uint32_t)(n)))
INLINE vi visrl(vi a, const int n) { return RAMET__HALVES(vi, RAMET__SHIFT, >>, a, n); }
INLINE vi visll(vi a, const int n) { return RAMET__HALVES(vi, RAMET__SHIFT, <<, a, n); }
INLINE vi visra(vi a, const int n) { return (vi){a.lo >> vdupq_n_s32(n), a.hi >> vdupq_n_s32(n)}; }
INLINE vf vcvt(vi a) { return RAMET__HALVES(vf, RAMET__ONE, vcvtq_f32_s32, a); }
INLINE vi vtoi(vf a) { return RAMET__HALVES(vi, RAMET__ONE, vcvtnq_s32_f32, a); }
INLINE vf vcast(vi a) { return RAMET__HALVES(vf, RAMET__ONE, vreinterpretq_f32_s32, a); }
INLINE vi vicast(vf a) { return RAMET__HALVES(vi, RAMET__ONE, vreinterpretq_s32_f32, a); }
INLINE vf vhalf(const void *p) {
    const uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(p));
    return (vf){vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(h))), vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(h)))};
}
INLINE vf vbrain(const void *p) {
    const uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(p));
    return (vf){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)), vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(h), 16))};
}
INLINE vf vu8(const void *p) {
    const uint16x8_t h = vmovl_u8(vld1_u8(p));
    return (vf){vcvtq_f32_u32(vmovl_u16(vget_low_u16(h))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(h)))};
}
INLINE vf vi8(const void *p) {
    const int16x8_t h = vmovl_s8(vld1_s8(p));
    return (vf){vcvtq_f32_s32(vmovl_s16(vget_low_s16(h))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(h)))};
}
INLINE void vstore_i8(int8_t *p, vi a) { vst1_s8(p, vqmovn_s16(vcombine_s16(vqmovn_s32(a.lo), vqmovn_s32(a.hi)))); }
INLINE vf vlanes(const float *const p[VL / 4]) { return (vf){vld1q_f32(p[0]), vld1q_f32(p[1])}; }
INLINE vf vswap(vf a) { return RAMET__HALVES(vf, RAMET__ONE, vrev64q_f32, a); }
#define RAMET__ZIP64(f, a, b) vreinterpretq_s32_s64(f(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)))
INLINE vi vilo32(vi a, vi b) { return RAMET__HALVES(vi, RAMET__TWO, vzip1q_s32, a, b); }
INLINE vi vihi32(vi a, vi b) { return RAMET__HALVES(vi, RAMET__TWO, vzip2q_s32, a, b); }
INLINE vi vilo64(vi a, vi b) { return (vi){RAMET__ZIP64(vzip1q_s64, a.lo, b.lo), RAMET__ZIP64(vzip1q_s64, a.hi, b.hi)}; }
INLINE vi vihi64(vi a, vi b) { return (vi){RAMET__ZIP64(vzip2q_s64, a.lo, b.lo), RAMET__ZIP64(vzip2q_s64, a.hi, b.hi)}; }
typedef struct vd { float64x2_t lo0, lo1, hi0, hi1; } vd;
INLINE vd vd_zero(void) { return (vd){vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0)}; }
INLINE float64x2_t vd_one(float64x2_t s, float64x2_t x) { return vfmaq_f64(s, x, x); }
INLINE vd vd_square(vd s, vf x) {
    return (vd){vd_one(s.lo0, vcvt_f64_f32(vget_low_f32(x.lo))), vd_one(s.lo1, vcvt_high_f64_f32(x.lo)), vd_one(s.hi0, vcvt_f64_f32(vget_low_f32(x.hi))),
                vd_one(s.hi1, vcvt_high_f64_f32(x.hi))};
}
INLINE double vd_sum(vd s) {
    const float64x2_t a = s.lo0 + s.hi0, b = s.lo1 + s.hi1, t = a + b;
    return t[0] + t[1];
}
INLINE float vsum(vf a) {
    const float32x4_t q = a.lo + a.hi;
    const float32x2_t d = vget_low_f32(q) + vget_high_f32(q);
    return d[0] + d[1];
}
INLINE float vtop(vf a) { return vmaxnmvq_f32(vmaxnmq_f32(a.lo, a.hi)); }
#else
#include <simde/x86/avx2.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#define VL 8
typedef simde__m256 vf;
typedef simde__m256i vi;
INLINE vf vzero(void) { return simde_mm256_setzero_ps(); }
INLINE vf vset(float x) { return simde_mm256_set1_ps(x); }
INLINE vf vload(const float *p) { return simde_mm256_loadu_ps(p); }
INLINE void vstore(float *p, vf a) { simde_mm256_storeu_ps(p, a); }
INLINE vf vadd(vf a, vf b) { return simde_mm256_add_ps(a, b); }
INLINE vf vsub(vf a, vf b) { return simde_mm256_sub_ps(a, b); }
INLINE vf vmul(vf a, vf b) { return simde_mm256_mul_ps(a, b); }
INLINE vf vdiv(vf a, vf b) { return simde_mm256_div_ps(a, b); }
INLINE vf vsqrt(vf a) { return simde_mm256_sqrt_ps(a); }
INLINE vf vmax(vf a, vf b) { return simde_mm256_max_ps(a, b); }
INLINE vf vmin(vf a, vf b) { return simde_mm256_min_ps(a, b); }
INLINE vf vwhere(vf a, vf b, vf yes, vf no) { return simde_mm256_blendv_ps(no, yes, simde_mm256_cmp_ps(a, b, SIMDE_CMP_GT_OQ)); }
INLINE vf vfma(vf a, vf b, vf c) { return simde_mm256_fmadd_ps(a, b, c); }
INLINE vf vfnma(vf a, vf b, vf c) { return simde_mm256_fnmadd_ps(a, b, c); }
INLINE vi viload(const void *p) { return simde_mm256_loadu_si256(p); }
INLINE void vistore(void *p, vi a) { simde_mm256_storeu_si256(p, a); }
INLINE vi viset(int32_t x) { return simde_mm256_set1_epi32(x); }
INLINE vi viset8(int8_t x) { return simde_mm256_set1_epi8(x); }
INLINE vi viand(vi a, vi b) { return simde_mm256_and_si256(a, b); }
INLINE vi vior(vi a, vi b) { return simde_mm256_or_si256(a, b); }
INLINE vi vixor(vi a, vi b) { return simde_mm256_xor_si256(a, b); }
INLINE vi viadd(vi a, vi b) { return simde_mm256_add_epi32(a, b); }
#define visrl(a, n) simde_mm256_srli_epi32(a, n)
#define visll(a, n) simde_mm256_slli_epi32(a, n)
INLINE vf vcvt(vi a) { return simde_mm256_cvtepi32_ps(a); }
INLINE vi vtoi(vf a) { return simde_mm256_cvtps_epi32(a); }
INLINE vf vcast(vi a) { return simde_mm256_castsi256_ps(a); }
INLINE vi vicast(vf a) { return simde_mm256_castps_si256(a); }
INLINE vf vabs(vf a) { return vcast(viand(vicast(a), viset(0x7fffffff))); }
INLINE vf vround(vf a) { return simde_mm256_round_ps(a, SIMDE_MM_FROUND_TO_NEAREST_INT | SIMDE_MM_FROUND_NO_EXC); }
INLINE vf vbrain(const void *p) { return vcast(visll(simde_mm256_cvtepu16_epi32(simde_mm_loadu_si128(p)), 16)); }
#ifdef __F16C__
INLINE vf vhalf(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
#else
/* IEEE half to single by integer steps: exponent rebased by an exact multiplication, infinity and NaN put back. */
INLINE vf vhalf(const void *p) {
    vi h = simde_mm256_cvtepu16_epi32(simde_mm_loadu_si128(p));
    vi sign = visll(viand(h, viset(0x8000)), 16), mag = visll(viand(h, viset(0x7fff)), 13);
    vf f = vmul(vcast(mag), vcast(viset(0x77800000)));
    vi top = simde_mm256_cmpgt_epi32(mag, viset(0x0f7fffff)); /* exponent all ones */
    return vcast(vior(vior(vicast(f), viand(top, viset(0x7f800000))), sign));
}
#endif
INLINE vi vwiden_u8(const void *p) { return simde_mm256_cvtepu8_epi32(simde_mm_loadl_epi64(p)); }
INLINE vf vu8(const void *p) { return vcvt(vwiden_u8(p)); }
INLINE vf vi8(const void *p) { return vcvt(simde_mm256_cvtepi8_epi32(simde_mm_loadl_epi64(p))); }
INLINE void vstore_i8(int8_t *p, vi a) {
    simde__m128i w = simde_mm_packs_epi32(simde_mm256_castsi256_si128(a), simde_mm256_extracti128_si256(a, 1));
    simde_mm_storel_epi64((simde__m128i *)(void *)p, simde_mm_packs_epi16(w, w));
}
INLINE vf vlanes(const float *const p[VL / 4]) {
    return simde_mm256_insertf128_ps(simde_mm256_castps128_ps256(simde_mm_loadu_ps(p[0])), simde_mm_loadu_ps(p[1]), 1);
}
#define visra(a, n) simde_mm256_srai_epi32(a, n)
#define vswap(a) simde_mm256_permute_ps(a, 0xb1)
INLINE vi visub(vi a, vi b) { return simde_mm256_sub_epi32(a, b); }
typedef struct vd { simde__m256d lo, hi; } vd;
INLINE vd vd_zero(void) { return (vd){simde_mm256_setzero_pd(), simde_mm256_setzero_pd()}; }
INLINE vd vd_square(vd s, vf x) {
    simde__m256d lo = simde_mm256_cvtps_pd(simde_mm256_castps256_ps128(x)), hi = simde_mm256_cvtps_pd(simde_mm256_extractf128_ps(x, 1));
    return (vd){simde_mm256_fmadd_pd(lo, lo, s.lo), simde_mm256_fmadd_pd(hi, hi, s.hi)};
}
INLINE double vd_sum(vd s) {
    double t[4];
    simde_mm256_storeu_pd(t, simde_mm256_add_pd(s.lo, s.hi));
    return (t[0] + t[2]) + (t[1] + t[3]);
}
#define vilo32(a, b) simde_mm256_unpacklo_epi32(a, b)
#define vihi32(a, b) simde_mm256_unpackhi_epi32(a, b)
#define vilo64(a, b) simde_mm256_unpacklo_epi64(a, b)
#define vihi64(a, b) simde_mm256_unpackhi_epi64(a, b)
INLINE float vsum(vf a) {
    simde__m128 q = simde_mm_add_ps(simde_mm256_castps256_ps128(a), simde_mm256_extractf128_ps(a, 1));
    q = simde_mm_add_ps(q, simde_mm_movehl_ps(q, q));
    return simde_mm_cvtss_f32(simde_mm_add_ss(q, simde_mm_movehdup_ps(q)));
}
INLINE float vtop(vf a) {
    simde__m128 q = simde_mm_max_ps(simde_mm256_castps256_ps128(a), simde_mm256_extractf128_ps(a, 1));
    q = simde_mm_max_ps(q, simde_mm_movehl_ps(q, q));
    return simde_mm_cvtss_f32(simde_mm_max_ss(q, simde_mm_movehdup_ps(q)));
}
#endif
#ifndef RAMET__VEC512
INLINE vf vload_n(const float *p, int64_t n) {
    float t[VL] = {0};
    for (int64_t i = 0; i < n; i++) t[i] = p[i];
    return vload(t);
}
INLINE void vstore_n(float *p, vf a, int64_t n) {
    float t[VL];
    vstore(t, a);
    for (int64_t i = 0; i < n; i++) p[i] = t[i];
}
#endif
/* upper halves of bytes */
#ifdef RAMET__NEON
INLINE vi vupper(vi a) { return (vi){vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(a.lo), 4)), vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(a.hi), 4))}; }
#else
INLINE vi vupper(vi a) { return viand(visrl(a, 4), viset8(15)); }
#endif
#define HALVES (16 / VL) /* vectors in 16 floats */
/* up to VL elements of which n are left */
INLINE vf vget(const float *p, int64_t n) { return n >= VL ? vload(p) : n > 0 ? vload_n(p, n) : vzero(); }
INLINE void vput(float *p, vf x, int64_t n) { if (n >= VL) vstore(p, x); else if (n > 0) vstore_n(p, x, n); }
#define FULL(n) ((n) & ~(int64_t)(VL - 1))
#endif
