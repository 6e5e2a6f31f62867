/* SPDX-License-Identifier: Apache-2.0 */
/* status.c - the per-thread message behind ramet_last_error, and the names of the status codes. */
#include "alloc.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGE_BYTES 1024

/* The one thread-local of the library. */
static _Thread_local struct {
    ramet_status alloc_status;
    char message[MESSAGE_BYTES];
} last;

static const char *const status_names[] = {
    "RAMET_OK", "RAMET_E_ARGUMENT", "RAMET_E_MEMORY", "RAMET_E_BUDGET", "RAMET_E_IO", "RAMET_E_FORMAT", "RAMET_E_LIMIT",
    "RAMET_E_UNSUPPORTED", "RAMET_E_INCONSISTENT", "RAMET_E_CANCELLED", "RAMET_E_STATE", "RAMET_E_NOT_FOUND",
    "RAMET_E_REFUSED", "RAMET_E_NUMERIC", "RAMET_E_FORK", "RAMET_E_INTERNAL",
};

const char *ramet_status_name(ramet_status status) {
    if (status > 0 || status <= -RAMET__COUNT(status_names)) return "unknown";
    return status_names[-status];
}

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

uint32_t ramet_version(void) {
    return (uint32_t)RAMET_VERSION_MAJOR << 16 | (uint32_t)RAMET_VERSION_MINOR << 8 | (uint32_t)RAMET_VERSION_PATCH;
}

const char *ramet_version_string(void) {
    return TEXT(RAMET_VERSION_MAJOR) "." TEXT(RAMET_VERSION_MINOR) "." TEXT(RAMET_VERSION_PATCH);
}

const char *ramet_last_error(void) { return last.message; }

ramet_status ramet__alloc_status(void) { return last.alloc_status ? last.alloc_status : RAMET_E_MEMORY; }
void ramet__alloc_status_set(ramet_status status) { last.alloc_status = status; }

/* A message is one line, and arguments may come from files: no control characters, and no UTF-8 sequence cut at the end. */
static void set_message(const char *text, size_t n) {
    if (n > MESSAGE_BYTES - 1) n = MESSAGE_BYTES - 1;
    if (n == MESSAGE_BYTES - 1) {
        size_t lead = n;
        while (lead > 0 && n - lead < 3 && ((unsigned char)text[lead - 1] & 0xC0) == 0x80) lead--;
        if (lead > 0 && (unsigned char)text[lead - 1] >= 0xC0) n = lead - 1;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        last.message[i] = c < 0x20 || c == 0x7F ? ' ' : (char)c;
    }
    last.message[n] = 0;
}

static size_t print(char *dst, size_t size, const char *format, va_list args) {
    int n = vsnprintf(dst, size, format, args);
    if (n < 0) n = 0;
    dst[n == 0 ? 0 : RAMET__MIN((size_t)n, size - 1)] = 0;
    return RAMET__MIN((size_t)n, size - 1);
}

ramet_status ramet__fail(ramet_status status, const char *format, ...) {
    char text[MESSAGE_BYTES]; /* apart from last.message, which may be among the arguments */
    va_list args;
    va_start(args, format);
    size_t n = print(text, sizeof text, format, args);
    va_end(args);
    set_message(text, n);
    return status;
}

ramet_status ramet__prefix(ramet_status status, const char *format, ...) {
    char text[2 * MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    size_t n = print(text, MESSAGE_BYTES, format, args);
    va_end(args);
    size_t old = strlen(last.message);
    memcpy(text + n, last.message, old);
    set_message(text, n + old);
    return status;
}

/* strerror_r has two forms; both are served. */
static const char *pick_text(const char *text, const char *buffer) { (void)buffer; return text; }
static const char *pick_code(int code, const char *buffer) { return code == 0 ? buffer : "unknown error"; }

ramet_status ramet__fail_errno(int code, const char *format, ...) {
    char text[MESSAGE_BYTES], reason[128] = "";
    va_list args;
    va_start(args, format);
    size_t n = print(text, sizeof text - sizeof reason - 8, format, args);
    va_end(args);
    const char *why = _Generic(strerror_r(code, reason, sizeof reason), char *: pick_text, int: pick_code)(
        strerror_r(code, reason, sizeof reason), reason);
    int more = snprintf(text + n, sizeof text - n, ": %s", why);
    set_message(text, more < 0 ? n : RAMET__MIN(n + (size_t)more, sizeof text - 1));
    if (code == ENOENT || code == ENOTDIR) return RAMET_E_NOT_FOUND;
    return code == ENOMEM ? RAMET_E_MEMORY : RAMET_E_IO;
}

double ramet__number(const char *text, char **end) {
    char copy[64], sample[16], *dot, *stop;
    const size_t n = strspn(text, "+-.0123456789abcdefABCDEFxXpP");
    *end = (char *)(uintptr_t)text;
    if (n >= sizeof copy) return 0.0;
    memcpy(copy, text, n);
    copy[n] = 0;
    dot = strchr(copy, '.');
    if (dot && snprintf(sample, sizeof sample, "%.1f", 0.5) == 3) *dot = sample[1]; /* locales have a point of one byte in practice ("0,5") */
    const double value = strtod(copy, &stop);
    *end += stop - copy;
    return value;
}

void ramet__number_point(char *printed) {
    for (; *printed; printed++)
        if (*printed == ',') *printed = '.';
}
