/* SPDX-License-Identifier: Apache-2.0 */
/* Encodings against the bytes and values of ggml's reference quantizers (golden_encodings.h says where they come from), and the
 * rounding of single numbers against an exhaustive definition. */
#include "tensor/tensor.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include "golden_encodings.h"

static uint32_t bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static float from_bits(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }

static const struct { const char *name; const uint8_t *bytes; size_t size; const uint32_t *values; } golden[] = {
#define ROW(NAME) {#NAME, golden_##NAME##_bytes, sizeof golden_##NAME##_bytes, golden_##NAME##_values}
    ROW(F16), ROW(BF16), ROW(Q4_0), ROW(Q4_1), ROW(Q5_0), ROW(Q8_0),
};

static void encodes_as_the_reference(void **state) {
    float x[GOLDEN_BLOCKS * 32];
    uint8_t got[sizeof x + 1]; /* one byte off: blocks may lie at odd addresses */
    memcpy(x, golden_input, sizeof x);
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        const ramet__encoding *e = ramet__encoding_get((ramet__enc)ramet__encoding_find(golden[i].name));
        assert_int_equal(ramet__encoded_bytes(e, GOLDEN_BLOCKS * 32), golden[i].size);
        e->encode(got + 1, x, GOLDEN_BLOCKS * 32);
        for (size_t j = 0; j < golden[i].size; j++)
            if (got[1 + j] != golden[i].bytes[j])
                fail_msg("%s: byte %zu is %02x, reference %02x", golden[i].name, j, got[1 + j], golden[i].bytes[j]);
    }
}

static void decodes_as_the_reference(void **state) {
    float got[GOLDEN_BLOCKS * 32];
    uint8_t src[sizeof got + 1];
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        const ramet__encoding *e = ramet__encoding_get((ramet__enc)ramet__encoding_find(golden[i].name));
        memcpy(src + 1, golden[i].bytes, golden[i].size);
        e->decode(got, src + 1, GOLDEN_BLOCKS * 32);
        for (int j = 0; j < GOLDEN_BLOCKS * 32; j++) {
            float want = from_bits(golden[i].values[j]);
            if (isnan(want) ? !isnan(got[j]) : bits(got[j]) != bits(want))
                fail_msg("%s: value %d is %a, reference %a", golden[i].name, j, got[j], want);
        }
    }
}

#define READ(NAME, bad0, bad1) {#NAME, golden_##NAME##_bytes, sizeof golden_##NAME##_bytes, golden_##NAME##_values, {bad0, bad1}}
static void decodes_what_it_cannot_write(void **state) {
    /* `bad`: bytes of a block that make a scale NaN or infinite when all bits are set */
    static const struct { const char *name; const uint8_t *bytes; size_t size; const uint32_t *values; size_t bad[2]; } read_only[] = {
        READ(Q5_1, 1, 1), READ(Q4_K, 3, 3), READ(Q5_K, 1, 1), READ(Q6_K, 209, 209),
        READ(IQ4_NL, 1, 1), READ(Q2_K, 81, 83), READ(Q3_K, 109, 109), READ(IQ2_XXS, 1, 1),
        READ(IQ2_XS, 1, 1), READ(IQ3_XXS, 1, 1), READ(IQ1_S, 1, 1), READ(IQ3_S, 1, 1),
        READ(IQ2_S, 1, 1), READ(IQ4_XS, 1, 1), READ(IQ1_M, 53, 55), READ(TQ1_0, 53, 53),
        READ(TQ2_0, 65, 65), READ(MXFP4, 0, 0),
    };
    float got[512];
    uint8_t src[1024];
    for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
        ramet__enc enc = (ramet__enc)ramet__encoding_find(read_only[i].name);
        const ramet__encoding *e = ramet__encoding_get(enc);
        assert_int_equal(ramet__encoded_bytes(e, 512), read_only[i].size);
        assert_null(e->encode);
        assert_int_equal(ramet__encoding_to_write(enc), RAMET__ENC_Q8_0);
        memcpy(src + 1, read_only[i].bytes, read_only[i].size);
        assert_true(ramet__encoded_finite(enc, src + 1, 512));
        e->decode(got, src + 1, 512);
        for (int j = 0; j < 512; j++)
            if (bits(got[j]) != read_only[i].values[j]) fail_msg("%s: value %d is %a, reference %a", e->name, j, got[j], from_bits(read_only[i].values[j]));
        uint8_t *last = src + 1 + read_only[i].size - (size_t)e->bytes;
        last[read_only[i].bad[0]] = last[read_only[i].bad[1]] = 0xff;
        assert_false(ramet__encoded_finite(enc, src + 1, 512));
    }
}

static void floats_are_kept_bit_for_bit(void **state) {
    static const uint32_t values[] = {0x80000000, 1, 0x3f9d70a4, 0x7f7fffff, 0xff800000, 0x7fc00001};
    const ramet__encoding *e = ramet__encoding_get(RAMET__ENC_F32);
    uint8_t bytes[sizeof values + 1];
    float back[6], x[6];
    memcpy(x, values, sizeof x);
    assert_int_equal(ramet__encoded_bytes(e, 6), sizeof values);
    e->encode(bytes + 1, x, 6);
    assert_memory_equal(bytes + 1, values, sizeof values);
    e->decode(back, bytes + 1, 6);
    assert_memory_equal(back, values, sizeof values);
}

static void half_floats_round_to_nearest_even(void **state) {
    for (uint32_t h = 0; h < 0x7c00; h++) { /* every finite positive half, and the midpoints between neighbours */
        float low = ramet__f16_to_f32((uint16_t)h), high = h + 1 < 0x7c00 ? ramet__f16_to_f32((uint16_t)(h + 1)) : 65536.0f;
        double value = h < 0x400 ? ldexp(h, -24) : ldexp(1024 + (h & 1023), (int)(h >> 10) - 25);
        assert_true((double)low == value);
        assert_int_equal(ramet__f32_to_f16(low), h);
        assert_int_equal(ramet__f32_to_f16(-low), h | 0x8000);
        float middle = (float)(((double)low + (double)high) / 2);
        assert_int_equal(ramet__f32_to_f16(middle), h & 1 ? h + 1 : h);
        assert_int_equal(ramet__f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(ramet__f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
    }
    assert_int_equal(ramet__f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(ramet__f32_to_f16(1e30f), 0x7c00);
    assert_true(isnan(ramet__f16_to_f32(ramet__f32_to_f16(NAN))));
    assert_true(isnan(ramet__f16_to_f32(ramet__f32_to_f16(from_bits(0x7f800001)))));
    assert_true(isinf(ramet__f16_to_f32(0xfc00)));
}

static void brain_floats_round_to_nearest_even(void **state) {
    assert_int_equal(ramet__f32_to_bf16(1.0f), 0x3f80);
    assert_int_equal(ramet__f32_to_bf16(from_bits(0x3f808000)), 0x3f80);
    assert_int_equal(ramet__f32_to_bf16(from_bits(0x3f818000)), 0x3f82);
    assert_int_equal(ramet__f32_to_bf16(from_bits(0x3f808001)), 0x3f81);
    assert_int_equal(ramet__f32_to_bf16(from_bits(0x7f7fffff)), 0x7f80);
    assert_true(isnan(ramet__bf16_to_f32(ramet__f32_to_bf16(from_bits(0x7f800001)))));
    assert_int_equal(bits(ramet__bf16_to_f32(0xc0a0)), 0xc0a00000);
}

static void hostile_numbers_are_clamped(void **state) { /* no undefined conversion: the sanitizers watch this */
    float x[32];
    uint8_t out[64];
    static const uint32_t nasty[] = {0x7fc00000, 0x7f800000, 0xff800000, 1, 0x80000001, 0x7f7fffff, 0xff7fffff, 0};
    for (uint32_t mask = 0; mask < 256; mask++) {
        for (int i = 0; i < 32; i++) x[i] = from_bits(mask >> (i % 8) & 1 ? nasty[i % 8] : nasty[(mask + (uint32_t)i) % 7]);
        for (int e = 0; e < RAMET__ENC_COUNT && ramet__encoding_get((ramet__enc)e)->encode; e++) {
            uint8_t big[128];
            ramet__encoding_get((ramet__enc)e)->encode(big, x, 32);
        }
    }
    for (int i = 0; i < 32; i++) x[i] = i % 2 ? 1e-40f : -1e-40f; /* 1/d overflows: the scale rounds to 0, so do the values */
    ramet__encoding_get(RAMET__ENC_Q4_0)->encode(out, x, 32);
    ramet__encoding_get(RAMET__ENC_Q4_0)->decode(x, out, 32);
    for (int i = 0; i < 32; i++) assert_true(x[i] == 0);
}

static void nan_and_infinity_are_found(void **state) {
    for (int e = 0; e < RAMET__ENC_COUNT && ramet__encoding_get((ramet__enc)e)->encode; e++) {
        const ramet__encoding *enc = ramet__encoding_get((ramet__enc)e);
        float x[96];
        uint8_t out[96 * 4];
        for (int i = 0; i < 96; i++) x[i] = (float)(i - 40) * 0.25f;
        enc->encode(out, x, 96);
        assert_true(ramet__encoded_finite((ramet__enc)e, out, 96));
        x[95] = INFINITY;
        enc->encode(out, x, 96);
        assert_false(ramet__encoded_finite((ramet__enc)e, out, 96));
        assert_true(ramet__encoded_finite((ramet__enc)e, out, 64));
    }
    uint8_t q41[20] = {0, 0, 0, 0x7e}; /* a NaN minimum beside a good scale */
    assert_false(ramet__encoded_finite(RAMET__ENC_Q4_1, q41, 32));
}

static void names_and_numbers(void **state) {
    assert_int_equal(ramet__encoding_find("q4_1"), RAMET__ENC_Q4_1);
    assert_int_equal(ramet__encoding_find("Q4_1"), RAMET__ENC_Q4_1);
    assert_int_equal(ramet__encoding_find("Q4_"), -1);
    assert_int_equal(ramet__encoding_find("Q8_K"), -1);
    assert_int_equal(ramet__encoding_find(NULL), -1);
    assert_int_equal(ramet__encoding_from_gguf(30), RAMET__ENC_BF16);
    assert_int_equal(ramet__encoding_from_gguf(15), -1);
    assert_int_equal(ramet__encoding_from_gguf(UINT32_MAX), -1);
    assert_int_equal(ramet__encoding_from_hf("BF16"), RAMET__ENC_BF16);
    assert_int_equal(ramet__encoding_from_hf("I64"), -1);
    assert_null(ramet__encoding_get(RAMET__ENC_COUNT));
}

static void shapes(void **state) {
    ramet__shape a = {2, {576, 1536}}, b = {2, {576, 1536}}, c = {3, {576, 1536, 1}},
        big = {4, {INT64_MIN, INT64_MIN, INT64_MAX, INT64_MAX}}, none = {0, {0}};
    char text[96];
    assert_true(ramet__shape_equal(&a, &b));
    assert_false(ramet__shape_equal(&a, &c));
    b.dim[1] = 7;
    assert_false(ramet__shape_equal(&a, &b));
    ramet__shape_text(text, &a);
    assert_string_equal(text, "[576, 1536]");
    ramet__shape_text(text, &none);
    assert_string_equal(text, "[]");
    ramet__shape_text(text, &big);
    assert_string_equal(text, "[-9223372036854775808, -9223372036854775808, 9223372036854775807, 9223372036854775807]");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodes_as_the_reference), cmocka_unit_test(decodes_as_the_reference), cmocka_unit_test(decodes_what_it_cannot_write),
            cmocka_unit_test(floats_are_kept_bit_for_bit),
        cmocka_unit_test(half_floats_round_to_nearest_even),
        cmocka_unit_test(brain_floats_round_to_nearest_even), cmocka_unit_test(hostile_numbers_are_clamped),
            cmocka_unit_test(nan_and_infinity_are_found),
        cmocka_unit_test(names_and_numbers), cmocka_unit_test(shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
