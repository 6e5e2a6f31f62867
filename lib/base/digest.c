/* SPDX-License-Identifier: Apache-2.0 */
/* digest.c - SHA-256 (FIPS 180-4) and CRC-32C (Castagnoli, reflected polynomial 0x82F63B78; RFC 3720). */
#include "file.h"
#include <string.h>

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t ror(uint32_t x, int n) { return x >> n | x << (32 - n); }

#define ROUND(a, b, c, d, e, f, g, h_, i)                                                             \
    {                                                                                                 \
        const uint32_t t = h_ + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + (g ^ (e & (f ^ g))) + sha_k[i] + w[i]; \
        d += t;                                                                                       \
        h_ = t + (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) | (c & (a | b)));                   \
    }

static void sha_blocks(uint32_t h[8], const uint8_t *p, size_t blocks) {
    for (; blocks > 0; blocks--, p += 64) {
        uint32_t w[64], s[8];
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
        for (int i = 16; i < 64; i++)
            w[i] = w[i - 16] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
                   (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
        memcpy(s, h, sizeof s);
        for (int i = 0; i < 64; i += 8) { /* eight rounds turn the names once around */
            ROUND(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], i)
            ROUND(s[7], s[0], s[1], s[2], s[3], s[4], s[5], s[6], i + 1)
            ROUND(s[6], s[7], s[0], s[1], s[2], s[3], s[4], s[5], i + 2)
            ROUND(s[5], s[6], s[7], s[0], s[1], s[2], s[3], s[4], i + 3)
            ROUND(s[4], s[5], s[6], s[7], s[0], s[1], s[2], s[3], i + 4)
            ROUND(s[3], s[4], s[5], s[6], s[7], s[0], s[1], s[2], i + 5)
            ROUND(s[2], s[3], s[4], s[5], s[6], s[7], s[0], s[1], i + 6)
            ROUND(s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[0], i + 7)
        }
        for (int i = 0; i < 8; i++) h[i] += s[i];
    }
}

void ramet__sha256_init(ramet__sha256 *s) {
    static const uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->h, h, sizeof h);
    s->bytes = 0;
}

void ramet__sha256_add(ramet__sha256 *s, const void *data, size_t size) {
    const uint8_t *p = data;
    const size_t held = s->bytes % 64;
    s->bytes += size;
    if (held) {
        const size_t take = RAMET__MIN(64 - held, size);
        if (take) memcpy(s->block + held, p, take);
        if (held + take < 64) return;
        sha_blocks(s->h, s->block, 1);
        p += take;
        size -= take;
    }
    sha_blocks(s->h, p, size / 64);
    if (size % 64) memcpy(s->block, p + size / 64 * 64, size % 64);
}

void ramet__sha256_hex(ramet__sha256 *s, char hex[65]) {
    const uint64_t bits = s->bytes * 8;
    uint8_t tail[72] = {0x80}; /* pads to 56 mod 64, then the length, big-endian */
    const size_t pad = (119 - s->bytes % 64) % 64 + 1;
    for (int i = 0; i < 8; i++) tail[pad + (size_t)i] = (uint8_t)(bits >> (56 - 8 * i));
    ramet__sha256_add(s, tail, pad + 8);
    for (int i = 0; i < 64; i++) hex[i] = "0123456789abcdef"[s->h[i / 8] >> (28 - 4 * (i % 8)) & 15];
    hex[64] = 0;
}

/* crc_table[j][v]: what v in bits 4j.. of a word makes of the remainder once the word is read: half a kilobyte, a quarter slower than four tables of 256 numbers */
static const uint32_t crc_table[8][16] = {
    {0x00000000, 0xdd45aab8, 0xbf672381, 0x62228939, 0x7b2231f3, 0xa6679b4b, 0xc4451272, 0x1900b8ca,
     0xf64463e6, 0x2b01c95e, 0x49234067, 0x9466eadf, 0x8d665215, 0x5023f8ad, 0x32017194, 0xef44db2c},
    {0x00000000, 0xe964b13d, 0xd725148b, 0x3e41a5b6, 0xaba65fe7, 0x42c2eeda, 0x7c834b6c, 0x95e7fa51,
     0x52a0c93f, 0xbbc47802, 0x8585ddb4, 0x6ce16c89, 0xf90696d8, 0x106227e5, 0x2e238253, 0xc747336e},
    {0x00000000, 0xa541927e, 0x4f6f520d, 0xea2ec073, 0x9edea41a, 0x3b9f3664, 0xd1b1f617, 0x74f06469,
     0x38513ec5, 0x9d10acbb, 0x773e6cc8, 0xd27ffeb6, 0xa68f9adf, 0x03ce08a1, 0xe9e0c8d2, 0x4ca15aac},
    {0x00000000, 0x70a27d8a, 0xe144fb14, 0x91e6869e, 0xc76580d9, 0xb7c7fd53, 0x26217bcd, 0x56830647,
     0x8b277743, 0xfb850ac9, 0x6a638c57, 0x1ac1f1dd, 0x4c42f79a, 0x3ce08a10, 0xad060c8e, 0xdda47104},
    {0x00000000, 0x13a29877, 0x274530ee, 0x34e7a899, 0x4e8a61dc, 0x5d28f9ab, 0x69cf5132, 0x7a6dc945,
     0x9d14c3b8, 0x8eb65bcf, 0xba51f356, 0xa9f36b21, 0xd39ea264, 0xc03c3a13, 0xf4db928a, 0xe7790afd},
    {0x00000000, 0x3fc5f181, 0x7f8be302, 0x404e1283, 0xff17c604, 0xc0d23785, 0x809c2506, 0xbf59d487,
     0xfbc3faf9, 0xc4060b78, 0x844819fb, 0xbb8de87a, 0x04d43cfd, 0x3b11cd7c, 0x7b5fdfff, 0x449a2e7e},
    {0x00000000, 0xf26b8303, 0xe13b70f7, 0x1350f3f4, 0xc79a971f, 0x35f1141c, 0x26a1e7e8, 0xd4ca64eb,
     0x8ad958cf, 0x78b2dbcc, 0x6be22838, 0x9989ab3b, 0x4d43cfd0, 0xbf284cd3, 0xac78bf27, 0x5e133c24},
    {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
     0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75},
};

uint32_t ramet__crc32c(uint32_t crc, const void *data, size_t size) {
    const uint8_t *p = data;
    crc = ~crc;
    for (; size >= 4; size -= 4, p += 4) {
        const uint32_t w = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = crc_table[0][w & 15] ^ crc_table[1][w >> 4 & 15] ^ crc_table[2][w >> 8 & 15] ^ crc_table[3][w >> 12 & 15] ^ crc_table[4][w >> 16 & 15] ^
              crc_table[5][w >> 20 & 15] ^ crc_table[6][w >> 24 & 15] ^ crc_table[7][w >> 28];
    }
    for (; size > 0; size--, p++) {
        const uint32_t b = (crc ^ *p) & 255;
        crc = crc >> 8 ^ crc_table[6][b & 15] ^ crc_table[7][b >> 4];
    }
    return ~crc;
}
