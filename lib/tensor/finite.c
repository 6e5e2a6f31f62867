/* SPDX-License-Identifier: Apache-2.0 */
/* finite.c - are all numbers of encoded rows finite? A block is, when its scales are; so only they are read. */
#include "tensor/tensor.h"
#include <math.h>
#include <string.h>

/* Half-precision numbers (scale, minimum) that a block begins with; 0: not known here, then blocks are decoded. */
static const int32_t halves[RAMET__ENC_COUNT] = {
    [RAMET__ENC_Q4_0] = 1, [RAMET__ENC_Q4_1] = 2, [RAMET__ENC_Q5_0] = 1, [RAMET__ENC_Q8_0] = 1,
};

static int32_t decoded(const ramet__encoding *e, const uint8_t *p, int64_t n) {
    float f[256];
    for (int64_t i = 0; i < n;) {
        int64_t step = RAMET__MIN(n - i, (int64_t)(256 / e->block) * e->block);
        e->decode(f, p + ramet__encoded_bytes(e, i), step);
        for (int64_t j = 0; j < step; j++)
            if (!isfinite(f[j])) return 0;
        i += step;
    }
    return 1;
}

/* All-ones exponent: NaN or infinity. Runs of 16-bit numbers, `stride` bytes apart. */
static int32_t shorts(const uint8_t *p, int64_t n, int64_t stride, uint16_t mask) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + i * stride, 2);
        bad |= (h & mask) == mask;
    }
    return !bad;
}

int32_t ramet__encoding_finite(ramet__enc enc, const void *rows, int64_t n) {
    const ramet__encoding *e = ramet__encoding_get(enc);
    const uint8_t *p = rows;
    if (enc == RAMET__ENC_F16) return shorts(p, n, 2, 0x7c00);
    if (enc == RAMET__ENC_BF16) return shorts(p, n, 2, 0x7f80);
    if (enc == RAMET__ENC_F32) return shorts(p + 2, n, 4, 0x7f80); /* upper half, little-endian */
    if (!halves[enc]) return decoded(e, p, n);
    for (int32_t i = 0; i < halves[enc]; i++)
        if (!shorts(p + 2 * i, n / e->block, e->bytes, 0x7c00)) return 0;
    return 1;
}
