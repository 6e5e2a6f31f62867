/* SPDX-License-Identifier: Apache-2.0 */
/* status.h - status plus a per-thread message. Everything above uses ramet__fail() to answer an error. */
#ifndef RAMET__STATUS_H
#define RAMET__STATUS_H
#include "ramet/base.h"

#if defined(__GNUC__)
#  define RAMET__PRINTF(f, a) __attribute__((format(printf, f, a)))
#  define RAMET__RARE __attribute__((cold)) /* what leads to it is compiled for size */
#else
#  define RAMET__PRINTF(f, a)
#  define RAMET__RARE
#endif

/* Set this thread's message and return `status`. One line: what, where (file, byte offset, argument), what to do. */
ramet_status ramet__fail(ramet_status status, const char *format, ...) RAMET__PRINTF(2, 3) RAMET__RARE;
/* Put a context in front of the current message ("model.gguf: " ...) and return `status`. */
ramet_status ramet__prefix(ramet_status status, const char *format, ...) RAMET__PRINTF(2, 3) RAMET__RARE;

/* The same for a failed system call: adds what the errno value `code` means. E_NOT_FOUND, E_MEMORY or E_IO by the code. */
ramet_status ramet__fail_errno(int code, const char *format, ...) RAMET__PRINTF(2, 3) RAMET__RARE;

/* Return from the calling function / jump to `out` with the status in a local `ramet_status st`. */
#define RAMET__TRY(call) do { ramet_status st_ = (call); if (st_) return st_; } while (0)
#define RAMET__GO(call) do { st = (call); if (st) goto out; } while (0)
#define RAMET__MIN(a, b) ((a) < (b) ? (a) : (b))
#define RAMET__MAX(a, b) ((a) > (b) ? (a) : (b))
#define RAMET__COUNT(array) ((int32_t)(sizeof(array) / sizeof((array)[0])))

/* strtod with a '.' whatever the host's locale is; finite, a number of 63 bytes at most, else *end is `text`. And a number that printf
 * made: its decimal comma becomes a '.'. */
double ramet__number(const char *text, char **end);
void ramet__number_point(char *printed);

#define RAMET__ROUND_UP(x, to) (((x) + (to) - 1) / (to) * (to))
#endif
