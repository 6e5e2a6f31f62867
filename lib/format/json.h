/* SPDX-License-Identifier: Apache-2.0 */
/* json.h - a strict JSON reader (RFC 8259) into one arena, with limits, and helpers to write JSON text.
 * Errors carry the byte offset. Depth, size and element counts are bounded; duplicate keys are an error. */
#ifndef RAMET__JSON_H
#define RAMET__JSON_H
#include "base/alloc.h"

struct ramet__index;
typedef enum { RAMET__JSON_NULL, RAMET__JSON_BOOL, RAMET__JSON_NUMBER, RAMET__JSON_STRING, RAMET__JSON_ARRAY, RAMET__JSON_OBJECT } ramet__json_type;
typedef struct ramet__json {
    ramet__json_type type;
    int32_t is_integer;      /* number without fraction or exponent that fits int64 */
    union {
        int64_t integer;     /* also 0/1 for bool */
        const struct ramet__index *index; /* object of more than a few keys */
    };
    union {
        double number;
        const uint32_t *key_len; /* object: bytes of each key, which may hold NULs */
    };
    const char *text;        /* string: UTF-8, NUL-terminated (may hold NULs: see len) */
    size_t len;              /* string bytes; array and object element count */
    const struct ramet__json *items;   /* array: len values; object: len values */
    const char *const *keys;           /* object: len NUL-terminated keys, in file order */
    uint64_t offset;         /* where it began, for messages */
} ramet__json;

typedef struct ramet__json_limits {
    uint32_t depth;          /* of arrays and objects in one another; 0: 64 */
    uint64_t values;         /* in all; 0: 50 million */
    ramet_status too_deep;   /* the answer to too deep nesting; 0: RAMET_E_LIMIT */
} ramet__json_limits;
/* Parse exactly `size` bytes (white space around the value allowed). *out lives in the arena. Errors: E_FORMAT, E_LIMIT, E_MEMORY,
 * E_BUDGET; the message has the byte offset and no file name: put it in front with ramet__prefix. */
ramet_status ramet__json_parse(const ramet__json **out, ramet__arena *arena, const char *text, size_t size, const ramet__json_limits *limits);
const ramet__json *ramet__json_get(const ramet__json *object, const char *key); /* NULL if absent or not an object; log n for large objects */
const char *ramet__json_type_name(ramet__json_type type); /* "string" */
/* Typed getters with default: absent or null gives the default; wrong type is E_FORMAT naming key and offset. */
ramet_status ramet__json_i64(int64_t *out, const ramet__json *object, const char *key, int64_t fallback);
ramet_status ramet__json_f64(double *out, const ramet__json *object, const char *key, double fallback);
ramet_status ramet__json_string(const char **out, const ramet__json *object, const char *key, const char *fallback);
/* Append a quoted, escaped JSON string. Bytes that are not UTF-8 become U+FFFD. */
void ramet__json_quote(ramet__text *text, const char *s, size_t n);
/* Append the shortest number that reads back as `value`, with a '.' in every locale; "null" for NaN and infinities. */
void ramet__json_number(ramet__text *text, double value);
#endif
