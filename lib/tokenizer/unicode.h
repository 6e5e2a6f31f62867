/* SPDX-License-Identifier: Apache-2.0 */
/* unicode.h - the few facts about characters that pre-tokenizers ask for. */
#ifndef RAMET__UNICODE_H
#define RAMET__UNICODE_H
#include <stddef.h>
#include <stdint.h>

typedef enum {
    RAMET__CHAR_OTHER,
    RAMET__CHAR_LETTER,     /* \p{L} */
    RAMET__CHAR_NUMBER,     /* \p{N} */
    RAMET__CHAR_SPACE,      /* \s: White_Space */
    RAMET__CHAR_DIGIT_ONLY  /* newer numbers, which the peer's digit splitter knows and its regular expressions do not */
} ramet__char_class;

ramet__char_class ramet__unicode_class(uint32_t code);
/* The character at s < end and its width in bytes. A byte that does not begin a well-formed sequence (overlong, surrogate, above
 * U+10FFFF, cut off) is one character of width 1 and gives U+FFFD. */
uint32_t ramet__utf8_next(const char *s, const char *end, uint32_t *width);
/* Writes 1 to 4 bytes; code must be a scalar value. */
uint32_t ramet__utf8_put(char *dst, uint32_t code);
#endif
