/* SPDX-License-Identifier: Apache-2.0 */
/* utf8.h - bytes in, whole characters out: tokens of a byte-level vocabulary may end inside a character. Used by generate.c. */
#ifndef RAMET__UTF8_H
#define RAMET__UTF8_H
#include "base/alloc.h"

typedef struct ramet__utf8 { uint8_t part[4]; int32_t have; } ramet__utf8; /* a character's beginning; start with zeros */
/* Append what is complete to `text`; bytes that are no UTF-8 become U+FFFD. end: nothing follows, an unfinished character is wrong too. */
void ramet__utf8_add(ramet__text *text, ramet__utf8 *u, const char *bytes, size_t n, int32_t end);
#endif
