/* SPDX-License-Identifier: Apache-2.0 */
/* emulated.h - the intrinsics beyond AVX2 that the kernels use, for CPUs without them (meson setup -Demulate=avx512): SIMDe's, and below those that
 * its older releases lack or that differ from the CPU's in the last bits. To test the levels, not to be fast. */
#ifndef RAMET__EMULATED_512_H
#define RAMET__EMULATED_512_H
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define EMULATED static inline __attribute__((always_inline, unused))
#define LANES(n, type, result, expression)                    \
    type out;                                                  \
    for (int i = 0; i < (n); i++) ((result *)&out)[i] = expression; \
    return out

typedef float f_lane __attribute__((may_alias));
typedef double d_lane __attribute__((may_alias));
typedef int32_t i_lane __attribute__((may_alias));
typedef uint16_t h_lane __attribute__((may_alias));
typedef int8_t b_lane __attribute__((may_alias));
typedef uint8_t u_lane __attribute__((may_alias));
typedef int16_t s_lane __attribute__((may_alias));
#define LANE(type, v, i) (((const type *)&(v))[i])

EMULATED __m512 emu_cvtepi32_ps(__m512i a) { LANES(16, __m512, f_lane, (float)LANE(i_lane, a, i)); }
EMULATED __m512i emu_cvtps_epi32(__m512 a) { LANES(16, __m512i, i_lane, _mm_cvtss_si32(_mm_set_ss(LANE(f_lane, a, i)))); }
EMULATED __m512i emu_cvtepi8_epi32(__m128i a) { LANES(16, __m512i, i_lane, LANE(b_lane, a, i)); }
EMULATED __m512i emu_cvtepu8_epi32(__m128i a) { LANES(16, __m512i, i_lane, LANE(u_lane, a, i)); }
EMULATED __m512i emu_cvtepu16_epi32(__m256i a) { LANES(16, __m512i, i_lane, LANE(h_lane, a, i)); }
EMULATED __m128i emu_cvtepi32_epi8(__m512i a) { LANES(16, __m128i, b_lane, (int8_t)LANE(i_lane, a, i)); }
EMULATED __m512d emu_cvtps_pd(__m256 a) { LANES(8, __m512d, d_lane, LANE(f_lane, a, i)); }
EMULATED __m512 emu_cvtph_ps(__m256i a) { LANES(16, __m512, f_lane, _cvtsh_ss(LANE(h_lane, a, i))); }
EMULATED __m256i emu_cvtps_ph(__m512 a) { LANES(16, __m256i, h_lane, _cvtss_sh(LANE(f_lane, a, i), _MM_FROUND_TO_NEAREST_INT)); }
EMULATED __m512 emu_scalef_ps(__m512 a, __m512 b) { LANES(16, __m512, f_lane, scalbnf(LANE(f_lane, a, i), (int)floorf(fminf(fmaxf(LANE(f_lane, b, i), -1e4f), 1e4f)))); }

EMULATED __m512 emu_maskz_loadu_ps(__mmask16 m, const void *p) { LANES(16, __m512, f_lane, m >> i & 1 ? ((const f_lane *)p)[i] : 0.0f); }
EMULATED __m512i emu_maskz_loadu_epi16(__mmask32 m, const void *p) { LANES(32, __m512i, h_lane, m >> i & 1 ? ((const h_lane *)p)[i] : 0); }
EMULATED __m256i emu_256_maskz_loadu_epi16(__mmask16 m, const void *p) { LANES(16, __m256i, h_lane, m >> i & 1 ? ((const h_lane *)p)[i] : 0); }
EMULATED void emu_mask_storeu_epi32(void *p, __mmask16 m, __m512i a) {
    for (int i = 0; i < 16; i++)
        if (m >> i & 1) ((i_lane *)p)[i] = LANE(i_lane, a, i);
}
EMULATED void emu_mask_storeu_ps(void *p, __mmask16 m, __m512 a) {
    for (int i = 0; i < 16; i++)
        if (m >> i & 1) ((f_lane *)p)[i] = LANE(f_lane, a, i);
}
/* halves are folded onto each other, as compilers do */
EMULATED double emu_reduce_add_pd(__m512d a) {
    double v[8];
    memcpy(v, &a, sizeof v);
    for (int n = 4; n; n /= 2)
        for (int i = 0; i < n; i++) v[i] += v[i + n];
    return v[0];
}
EMULATED float emu_reduce_max_ps(__m512 a) {
    float v[16];
    memcpy(v, &a, sizeof v);
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) v[i] = v[i] > v[i + n] ? v[i] : v[i + n];
    return v[0];
}

/* bf16: rounded to the nearest even, subnormal numbers are zero */
EMULATED uint16_t emu_brain(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    if ((b & 0x7f800000u) == 0) return (uint16_t)(b >> 16 & 0x8000u);
    return (uint16_t)(x != x ? b >> 16 | 0x40u : (b + 0x7fffu + (b >> 16 & 1u)) >> 16);
}
EMULATED __m256i emu_cvtneps_pbh(__m512 a) { LANES(16, __m256i, h_lane, emu_brain(LANE(f_lane, a, i))); }
EMULATED __m512i emu_cvtne2ps_pbh(__m512 high, __m512 low) { LANES(32, __m512i, h_lane, emu_brain(i < 16 ? LANE(f_lane, low, i) : LANE(f_lane, high, i - 16))); }

/* AVX-VNNI */
EMULATED __m256i emu_dpbusd(__m256i sum, __m256i a, __m256i b) {
    for (int i = 0; i < 32; i++) ((i_lane *)&sum)[i / 4] += LANE(u_lane, a, i) * LANE(b_lane, b, i);
    return sum;
}
EMULATED __m256i emu_dpwssd(__m256i sum, __m256i a, __m256i b) {
    for (int i = 0; i < 16; i++) ((i_lane *)&sum)[i / 2] += LANE(s_lane, a, i) * LANE(s_lane, b, i);
    return sum;
}

EMULATED __m256 emu_extractf32x8(__m512 a, int half) { LANES(8, __m256, f_lane, LANE(f_lane, a, 8 * half + i)); }
EMULATED __m512 emu_permute(__m512 a, int order) { LANES(16, __m512, f_lane, LANE(f_lane, a, i / 4 * 4 + (order >> 2 * (i % 4) & 3))); }
EMULATED __m512i emu_srai_epi32(__m512i a, int n) { LANES(16, __m512i, i_lane, LANE(i_lane, a, i) >> n); }

#undef _mm512_extractf32x8_ps
#undef _mm512_permute_ps
#undef _mm512_cvtps_ph
#undef _mm512_scalef_ps
#define _mm512_extractf32x8_ps emu_extractf32x8
#define _mm512_permute_ps emu_permute
#define _mm512_srai_epi32 emu_srai_epi32
#define _mm512_cvtepi32_ps emu_cvtepi32_ps
#define _mm512_cvtps_epi32 emu_cvtps_epi32
#define _mm512_cvtepi8_epi32 emu_cvtepi8_epi32
#define _mm512_cvtepu8_epi32 emu_cvtepu8_epi32
#define _mm512_cvtepu16_epi32 emu_cvtepu16_epi32
#define _mm512_cvtepi32_epi8 emu_cvtepi32_epi8
#define _mm512_cvtps_pd emu_cvtps_pd
#define _mm512_cvtph_ps emu_cvtph_ps
#define _mm512_cvtps_ph(a, rounding) emu_cvtps_ph(a)
#define _mm512_scalef_ps emu_scalef_ps
#define _mm512_maskz_loadu_ps emu_maskz_loadu_ps
#define _mm512_maskz_loadu_epi16 emu_maskz_loadu_epi16
#define _mm256_maskz_loadu_epi16 emu_256_maskz_loadu_epi16
#define _mm512_mask_storeu_epi32 emu_mask_storeu_epi32
#define _mm512_mask_storeu_ps emu_mask_storeu_ps
#define _mm512_reduce_add_pd emu_reduce_add_pd
#define _mm512_reduce_max_ps emu_reduce_max_ps
#define _mm512_cvtneps_pbh emu_cvtneps_pbh
#define _mm512_cvtne2ps_pbh emu_cvtne2ps_pbh
#define _mm256_dpbusd_avx_epi32 emu_dpbusd
#define _mm256_dpwssd_avx_epi32 emu_dpwssd
#endif
