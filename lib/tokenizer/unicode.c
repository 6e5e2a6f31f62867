/* SPDX-License-Identifier: Apache-2.0 */
/* unicode.c - character classes by binary search in one table of runs (6 KB), and strict UTF-8 (RFC 3629). */
#include "tokenizer/unicode.h"

static const uint32_t class_runs[] = {
#include "tokenizer/unicode_classes.inc"
};

ramet__char_class ramet__unicode_class(uint32_t code) {
    uint32_t low = 0, high = (uint32_t)(sizeof(class_runs) / sizeof(class_runs[0]));
    while (high - low > 1) { /* the run that begins at or before code is in [low, high) */
        uint32_t middle = (low + high) / 2;
        if (class_runs[middle] >> 3 <= code) low = middle;
        else high = middle;
    }
    return (ramet__char_class)(class_runs[low] & 7);
}

uint32_t ramet__utf8_next(const char *s, const char *end, uint32_t *width) {
    const uint8_t *u = (const uint8_t *)s;
    ptrdiff_t left = end - s;
    *width = 1;
    if (u[0] < 0x80) return u[0];
    if (u[0] >= 0xC2 && u[0] <= 0xDF && left >= 2 && (u[1] & 0xC0) == 0x80) {
        *width = 2;
        return (uint32_t)(u[0] & 0x1F) << 6 | (u[1] & 0x3Fu);
    }
    if ((u[0] & 0xF0) == 0xE0 && left >= 3 && (u[1] & 0xC0) == 0x80 && (u[2] & 0xC0) == 0x80) {
        uint32_t code = (uint32_t)(u[0] & 0x0F) << 12 | (uint32_t)(u[1] & 0x3F) << 6 | (u[2] & 0x3Fu);
        if (code >= 0x800 && (code < 0xD800 || code > 0xDFFF)) {
            *width = 3;
            return code;
        }
    }
    if (u[0] >= 0xF0 && u[0] <= 0xF4 && left >= 4 && (u[1] & 0xC0) == 0x80 && (u[2] & 0xC0) == 0x80 && (u[3] & 0xC0) == 0x80) {
        uint32_t code = (uint32_t)(u[0] & 7) << 18 | (uint32_t)(u[1] & 0x3F) << 12 | (uint32_t)(u[2] & 0x3F) << 6 | (u[3] & 0x3Fu);
        if (code >= 0x10000 && code <= 0x10FFFF) {
            *width = 4;
            return code;
        }
    }
    return 0xFFFD;
}

uint32_t ramet__utf8_put(char *dst, uint32_t code) {
    if (code < 0x80) {
        dst[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        dst[0] = (char)(0xC0 | code >> 6);
        dst[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        dst[0] = (char)(0xE0 | code >> 12);
        dst[1] = (char)(0x80 | (code >> 6 & 0x3F));
        dst[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    dst[0] = (char)(0xF0 | code >> 18);
    dst[1] = (char)(0x80 | (code >> 12 & 0x3F));
    dst[2] = (char)(0x80 | (code >> 6 & 0x3F));
    dst[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}
