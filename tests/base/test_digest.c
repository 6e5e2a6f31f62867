/* SPDX-License-Identifier: Apache-2.0 */
#include "base_test.h"
#include "base/file.h"

static void sha(char hex[65], const void *data, size_t size) {
    ramet__sha256 s;
    ramet__sha256_init(&s);
    ramet__sha256_add(&s, data, size);
    ramet__sha256_hex(&s, hex);
}

/* FIPS 180-4 examples and the empty message. */
static void test_sha256_published_vectors(void **state) {
    char hex[65];
    sha(hex, "", 0);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha(hex, "abc", 3);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha(hex, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56);
    assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *a = malloc(1000000);
    memset(a, 'a', 1000000);
    sha(hex, a, 1000000);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(a);
}

static void test_sha256_does_not_depend_on_the_cuts(void **state) {
    unsigned char data[300];
    for (int i = 0; i < 300; i++) data[i] = (unsigned char)(i * 7);
    for (size_t size = 0; size <= 300; size += size < 140 ? 1 : 13) {
        char whole[65], cut[65];
        sha(whole, data, size);
        for (size_t step = 1; step < 130; step += 21) {
            ramet__sha256 s;
            ramet__sha256_init(&s);
            for (size_t at = 0; at < size; at += step) ramet__sha256_add(&s, data + at, RAMET__MIN(step, size - at));
            ramet__sha256_add(&s, NULL, 0);
            ramet__sha256_hex(&s, cut);
            assert_string_equal(cut, whole);
        }
    }
}

/* RFC 3720, B.4, and the check value of the CRC catalogue. */
static void test_crc32c_published_vectors(void **state) {
    unsigned char data[32];
    assert_int_equal(ramet__crc32c(0, "123456789", 9), 0xE3069283);
    memset(data, 0, 32);
    assert_int_equal(ramet__crc32c(0, data, 32), 0x8A9136AA);
    memset(data, 255, 32);
    assert_int_equal(ramet__crc32c(0, data, 32), 0x62A8AB43);
    for (int i = 0; i < 32; i++) data[i] = (unsigned char)i;
    assert_int_equal(ramet__crc32c(0, data, 32), 0x46DD794E);
    for (int i = 0; i < 32; i++) data[i] = (unsigned char)(31 - i);
    assert_int_equal(ramet__crc32c(0, data, 32), 0x113FDB5C);
    for (size_t cut = 0; cut <= 32; cut++)
        assert_int_equal(ramet__crc32c(ramet__crc32c(0, data, cut), data + cut, 32 - cut), 0x113FDB5C);
    assert_int_equal(ramet__crc32c(0, NULL, 0), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256_published_vectors),
        cmocka_unit_test(test_sha256_does_not_depend_on_the_cuts),
        cmocka_unit_test(test_crc32c_published_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
