/* SPDX-License-Identifier: Apache-2.0 */
/* utf8.c - see utf8.h. Well-formed sequences as in the Unicode standard, table 3-7: no surrogates, overlong forms or numbers
 * past U+10FFFF; each longest well-formed beginning that goes no further becomes one U+FFFD. */
#include "infer/utf8.h"

static int32_t length(uint8_t first) { /* of a character that begins so; 0: none does */
    if (first < 0x80) return 1;
    if (first < 0xC2) return 0;
    return first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
}

static int32_t follows(const ramet__utf8 *u, uint8_t b) {
    uint8_t low = 0x80, high = 0xBF;
    if (u->have == 1) {
        if (u->part[0] == 0xE0) low = 0xA0;
        else if (u->part[0] == 0xED) high = 0x9F;
        else if (u->part[0] == 0xF0) low = 0x90;
        else if (u->part[0] == 0xF4) high = 0x8F;
    }
    return b >= low && b <= high;
}

static void wrong(ramet__text *text, ramet__utf8 *u) {
    ramet__text_bytes(text, "\xEF\xBF\xBD", 3);
    u->have = 0;
}

void ramet__utf8_add(ramet__text *text, ramet__utf8 *u, const char *bytes, size_t n, int32_t end) {
    for (size_t i = 0; i < n; i++) {
        const uint8_t b = (uint8_t)bytes[i];
        if (u->have && !follows(u, b)) wrong(text, u);
        if (!u->have && !length(b)) {
            wrong(text, u);
            continue;
        }
        u->part[u->have++] = b;
        if (u->have == length(u->part[0])) {
            ramet__text_bytes(text, (const char *)u->part, (size_t)u->have);
            u->have = 0;
        }
    }
    if (end && u->have) wrong(text, u);
}
