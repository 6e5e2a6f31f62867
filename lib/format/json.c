/* SPDX-License-Identifier: Apache-2.0 */
/* json.c - see json.h. One pass, no recursion: open containers are on a stack; their values are collected on another stack and
 * copied to the arena, side by side, when the container closes. Grammar: RFC 8259. */
#include "format/json.h"
#include "format/index.h"
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL_OBJECT = 8 }; /* up to here keys are compared one by one */

typedef struct key { const char *text; uint32_t len; uint64_t offset; } key;
typedef struct level { ramet__json_type type; int64_t first_value, first_key; uint64_t offset; } level;

typedef struct parser {
    ramet__arena *arena;
    const char *text;
    size_t size, at;
    uint64_t values, max_values;
    uint32_t max_depth;
    ramet_status too_deep;
    ramet__json *value; int64_t n_value, value_cap; /* finished values of open containers */
    key *keys; int64_t n_key, key_cap;              /* keys of open objects */
    level *levels; int64_t n_level, level_cap;
} parser;

static ramet_status bad(size_t offset, const char *what) {
    return ramet__fail(RAMET_E_FORMAT, "JSON: %s at byte %llu", what, (unsigned long long)offset);
}

static void skip_space(parser *p) {
    while (p->at < p->size) {
        char c = p->text[p->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') break;
        p->at++;
    }
}

/* ---- strings --------------------------------------------------------------------------------------------------- */

static int hex4(const char *s) {
    int v = 0;
    for (int i = 0; i < 4; i++) {
        int c = (uint8_t)s[i], small = c | 0x20, d = -1;
        if (c >= '0' && c <= '9') d = c - '0';
        if (small >= 'a' && small <= 'f') d = small - 'a' + 10;
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

static size_t put_utf8(char *d, uint32_t c) {
    if (c < 0x80) {
        d[0] = (char)c;
        return 1;
    }
    size_t more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = {0, 0xc0, 0xe0, 0xf0};
    d[0] = (char)(lead[more] | c >> 6 * more);
    for (size_t i = 1; i <= more; i++) d[i] = (char)(0x80 | (c >> 6 * (more - i) & 63));
    return more + 1;
}

/* One escape at s (after the backslash, before end); writes its bytes, returns characters used, 0 when it is wrong. */
static size_t unescape(char *d, size_t *written, const char *s, const char *end) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *at;
    if (s == end) return 0;
    if (*s && (at = strchr(from, *s)) != NULL) {
        *d = to[at - from];
        *written = 1;
        return 1;
    }
    int u = *s == 'u' && end - s >= 5 ? hex4(s + 1) : -1;
    if (u < 0 || (u >= 0xdc00 && u <= 0xdfff)) return 0;
    if (u < 0xd800 || u > 0xdbff) { *written = put_utf8(d, (uint32_t)u); return 5; }
    int low = end - s >= 11 && s[5] == '\\' && s[6] == 'u' ? hex4(s + 7) : -1;
    if (low < 0xdc00 || low > 0xdfff) return 0;
    *written = put_utf8(d, 0x10000 + (((uint32_t)u & 0x3ff) << 10 | ((uint32_t)low & 0x3ff)));
    return 11;
}

/* p->at is after the opening quote. */
static ramet_status parse_string(parser *p, const char **out, size_t *len) {
    ramet_status st = RAMET_OK;
    const char *s = p->text;
    size_t begin = p->at, end = begin, escapes = 0;
    char *d;
    for (; end < p->size && s[end] != '"'; end++) {
        if ((uint8_t)s[end] < 0x20) return bad(end, "control character in a string (write it as \\uXXXX)");
        if (s[end] != '\\') continue;
        escapes++;
        end++; /* whatever is escaped does not end the string; a quote at the very end is caught below */
        if (end < p->size && (uint8_t)s[end] < 0x20) return bad(end, "control character in a string (write it as \\uXXXX)");
    }
    if (end >= p->size) return bad(begin - 1, "string without its closing quote");
    size_t raw = end - begin, valid = ramet__utf8_valid(s + begin, raw);
    if (valid < raw) return bad(begin + valid, "bytes that are not UTF-8");
    p->at = end + 1;
    if (!escapes) {
        RAMET__NEW(d, ramet__arena_strndup(p->arena, s + begin, raw));
        *out = d;
        *len = raw;
        return RAMET_OK;
    }
    RAMET__NEW(d, ramet__arena_alloc(p->arena, raw + 1)); /* an escape is never shorter than what it stands for */
    *out = d;
    for (size_t i = begin; i < end;) {
        if (s[i] != '\\') { *d++ = s[i++]; continue; }
        size_t written = 0, used = unescape(d, &written, s + i + 1, s + end);
        if (!used) return bad(i, s[i + 1] == 'u' ? "bad \\u escape or lone surrogate" : "unknown escape");
        d += written;
        i += 1 + used;
    }
    *d = 0;
    *len = (size_t)(d - *out);
out:
    return st;
}

/* ---- numbers --------------------------------------------------------------------------------------------------- */

static int is_digit(const parser *p, size_t at) { return at < p->size && p->text[at] >= '0' && p->text[at] <= '9'; }

/* strtod rounds correctly but wants the locale's decimal point; `text` holds a checked number with a '.' or none. */
static double to_double(char *text) {
    char *dot = strchr(text, '.'), *end, sample[16];
    double v = strtod(text, &end);
    if (!*end || !dot) return v;
    if (snprintf(sample, sizeof sample, "%.1f", 0.5) < 3) return v;
    *dot = sample[1]; /* locales have a one-byte point in practice ("0,5") */
    v = strtod(text, &end);
    return v;
}

static ramet_status parse_number(parser *p, ramet__json *v) {
    size_t begin = p->at, i = begin, point = 0, exponent = 0;
    int negative = p->text[i] == '-', fits = 1;
    uint64_t u = 0;
    i += (size_t)negative;
    if (!is_digit(p, i)) return bad(begin, "'-' without a number");
    if (p->text[i] == '0' && is_digit(p, i + 1)) return bad(begin, "number with a leading zero");
    for (; is_digit(p, i); i++) {
        uint64_t digit = (uint64_t)(p->text[i] - '0'), limit = (uint64_t)INT64_MAX + (uint64_t)negative;
        if (u > (limit - digit) / 10) fits = 0;
        else u = u * 10 + digit;
    }
    if (i < p->size && p->text[i] == '.') {
        point = i++;
        if (!is_digit(p, i)) return bad(begin, "number without digits after its point");
        while (is_digit(p, i)) i++;
    }
    if (i < p->size && (p->text[i] == 'e' || p->text[i] == 'E')) {
        exponent = i++;
        if (i < p->size && (p->text[i] == '+' || p->text[i] == '-')) i++;
        if (!is_digit(p, i)) return bad(begin, "number without digits in its exponent");
        while (is_digit(p, i)) i++;
    }
    v->type = RAMET__JSON_NUMBER;
    p->at = i;
    if (!point && !exponent && fits) {
        v->is_integer = 1;
        v->integer = negative ? (int64_t)(0 - u) : (int64_t)u;
        v->number = negative && !u ? -0.0 : (double)v->integer;
        return RAMET_OK;
    }
    char copy[1100]; /* 1 + 308 digits name any double exactly enough; longer ones exist only to trouble us */
    if (i - begin >= sizeof copy)
        return ramet__fail(RAMET_E_LIMIT, "JSON: number of %zu characters at byte %zu; at most %zu", i - begin, begin,
                           sizeof copy - 1);
    memcpy(copy, p->text + begin, i - begin);
    copy[i - begin] = 0;
    v->number = to_double(copy);
    if (!isfinite(v->number)) return ramet__fail(RAMET_E_LIMIT, "JSON: number beyond the range of a double at byte %zu", begin);
    return RAMET_OK;
}

/* ---- containers ------------------------------------------------------------------------------------------------ */

static ramet_status open_container(parser *p, ramet__json_type type) {
    if (p->n_level >= (int64_t)p->max_depth)
        return ramet__fail(p->too_deep, "JSON: nesting deeper than %u at byte %zu", p->max_depth, p->at);
    RAMET__TRY(ramet__grow(p->arena->mem, &p->levels, &p->level_cap, p->n_level + 1, sizeof *p->levels));
    p->levels[p->n_level++] = (level){type, p->n_value, p->n_key, p->at};
    p->at++;
    return RAMET_OK;
}

static ramet_status twice(const key *k) {
    return ramet__fail(RAMET_E_FORMAT, "JSON: key \"%.64s\" occurs twice in one object, again at byte %llu", k->text,
                       (unsigned long long)k->offset);
}

/* Copy keys to the arena and see that none occurs twice. */
static ramet_status close_object(parser *p, ramet__json *v, const key *keys, int64_t n) {
    ramet_status st = RAMET_OK;
    const char **text;
    uint32_t *len;
    ramet__index *index;
    RAMET__NEW(text, ramet__arena_alloc(p->arena, (size_t)n * sizeof *text));
    RAMET__NEW(len, ramet__arena_alloc(p->arena, (size_t)n * sizeof *len));
    for (int64_t i = 0; i < n; i++) { text[i] = keys[i].text; len[i] = keys[i].len; }
    v->keys = text;
    v->key_len = len;
    if (n <= SMALL_OBJECT) {
        for (int64_t i = 1; i < n; i++)
            for (int64_t j = 0; j < i; j++)
                if (len[i] == len[j] && !memcmp(text[i], text[j], len[i])) return twice(&keys[i]);
        return RAMET_OK;
    }
    RAMET__NEW(index, ramet__arena_alloc(p->arena, sizeof *index));
    RAMET__GO(ramet__index_init(index, p->arena, n));
    for (int64_t i = 0; i < n; i++) ramet__index_set(index, i, text[i], len[i]);
    int64_t again = ramet__index_sort(index);
    if (again >= 0) return twice(&keys[again]);
    v->index = index;
out:
    return st;
}

/* The innermost container ends: its values leave the stack, it becomes a value itself. */
static ramet_status close_container(parser *p, ramet__json *v) {
    ramet_status st = RAMET_OK;
    level l = p->levels[--p->n_level];
    int64_t n = p->n_value - l.first_value;
    ramet__json *items;
    memset(v, 0, sizeof *v);
    v->type = l.type;
    v->offset = l.offset;
    v->len = (size_t)n;
    if (n) {
        RAMET__NEW(items, ramet__arena_alloc(p->arena, (size_t)n * sizeof *items));
        memcpy(items, p->value + l.first_value, (size_t)n * sizeof *items);
        v->items = items;
        if (l.type == RAMET__JSON_OBJECT) RAMET__GO(close_object(p, v, p->keys + l.first_key, n));
    }
    p->n_value = l.first_value;
    p->n_key = l.first_key;
    p->at++;
out:
    return st;
}

static ramet_status parse_key(parser *p) {
    key k = {.offset = p->at};
    size_t len = 0;
    if (p->at >= p->size || p->text[p->at] != '"')
        return bad(p->at, p->at < p->size ? "an object wants a key in quotes here," : "text ends inside an object");
    p->at++;
    RAMET__TRY(parse_string(p, &k.text, &len));
    if (len > UINT32_MAX)
        return ramet__fail(RAMET_E_LIMIT, "JSON: key of %zu bytes at byte %llu", len, (unsigned long long)k.offset);
    k.len = (uint32_t)len;
    skip_space(p);
    if (p->at >= p->size || p->text[p->at] != ':') return bad(p->at, "a key wants ':' after it,");
    p->at++;
    RAMET__TRY(ramet__grow(p->arena->mem, &p->keys, &p->key_cap, p->n_key + 1, sizeof *p->keys));
    p->keys[p->n_key++] = k;
    return RAMET_OK;
}

static int literal(parser *p, const char *word) {
    size_t n = strlen(word);
    if (p->size - p->at < n || memcmp(p->text + p->at, word, n) != 0) return 0;
    p->at += n;
    return 1;
}

static ramet_status parse_scalar(parser *p, ramet__json *v) {
    memset(v, 0, sizeof *v);
    v->offset = p->at;
    char c = p->text[p->at];
    if (c == '"') {
        p->at++;
        v->type = RAMET__JSON_STRING;
        return parse_string(p, &v->text, &v->len);
    }
    if (c == '-' || (c >= '0' && c <= '9')) return parse_number(p, v);
    if (literal(p, "null")) return RAMET_OK;
    if (literal(p, "true")) { v->type = RAMET__JSON_BOOL; v->integer = 1; return RAMET_OK; }
    if (literal(p, "false")) { v->type = RAMET__JSON_BOOL; return RAMET_OK; }
    return bad(p->at, "not a JSON value");
}

static ramet_status run(parser *p, ramet__json *root) {
    ramet__json v;
    for (;;) { /* one turn: a value begins here */
        skip_space(p);
        if (p->at >= p->size) return bad(p->at, "text ends where a value should begin,");
        if (++p->values > p->max_values)
            return ramet__fail(RAMET_E_LIMIT, "JSON: more than %llu values, at byte %zu", (unsigned long long)p->max_values, p->at);
        char c = p->text[p->at];
        if (c == '{' || c == '[') {
            RAMET__TRY(open_container(p, c == '{' ? RAMET__JSON_OBJECT : RAMET__JSON_ARRAY));
            skip_space(p);
            if (p->at >= p->size || p->text[p->at] != (c == '{' ? '}' : ']')) {
                if (c == '{') RAMET__TRY(parse_key(p));
                continue;
            }
            RAMET__TRY(close_container(p, &v));
        } else {
            RAMET__TRY(parse_scalar(p, &v));
        }
        for (;;) { /* a value ended: put it where it belongs; it may end its container too */
            if (!p->n_level) { *root = v; return RAMET_OK; }
            RAMET__TRY(ramet__grow(p->arena->mem, &p->value, &p->value_cap, p->n_value + 1, sizeof *p->value));
            p->value[p->n_value++] = v;
            int object = p->levels[p->n_level - 1].type == RAMET__JSON_OBJECT;
            skip_space(p);
            if (p->at >= p->size) return bad(p->at, object ? "text ends inside an object" : "text ends inside an array");
            if (p->text[p->at] == ',') {
                p->at++;
                skip_space(p);
                if (object) RAMET__TRY(parse_key(p));
                break;
            }
            if (p->text[p->at] != (object ? '}' : ']'))
                return bad(p->at, object ? "neither ',' nor '}' after a value" : "neither ',' nor ']' after a value");
            RAMET__TRY(close_container(p, &v));
        }
    }
}

ramet_status ramet__json_parse(const ramet__json **out, ramet__arena *arena, const char *text, size_t size,
                               const ramet__json_limits *limits) {
    ramet_status st = RAMET_OK;
    ramet__json *root;
    parser p = {.arena = arena, .text = text, .size = size};
    p.max_depth = limits && limits->depth ? limits->depth : 64;
    p.max_values = limits && limits->values ? limits->values : 50000000;
    p.too_deep = limits && limits->too_deep ? limits->too_deep : RAMET_E_LIMIT;
    RAMET__NEW(root, ramet__arena_alloc(arena, sizeof *root));
    RAMET__GO(run(&p, root));
    skip_space(&p);
    if (p.at < size) { st = bad(p.at, "something after the value"); goto out; }
    *out = root;
out:
    ramet__free(p.value);
    ramet__free(p.keys);
    ramet__free(p.levels);
    return st;
}

/* ---- getters --------------------------------------------------------------------------------------------------- */

const ramet__json *ramet__json_get(const ramet__json *object, const char *name) {
    if (!object || object->type != RAMET__JSON_OBJECT) return NULL;
    size_t n = strlen(name);
    if (object->len > SMALL_OBJECT) {
        int64_t i = ramet__index_find(object->index, name, n);
        return i < 0 ? NULL : &object->items[i];
    }
    for (size_t i = 0; i < object->len; i++)
        if (object->key_len[i] == n && !memcmp(object->keys[i], name, n)) return &object->items[i];
    return NULL;
}

const char *ramet__json_type_name(ramet__json_type type) {
    static const char *const names[] = {"null", "bool", "number", "string", "array", "object"};
    return names[type];
}

static ramet_status wrong(const ramet__json *v, const char *name, const char *wanted) {
    return ramet__fail(RAMET_E_FORMAT, "JSON: \"%s\" must be %s, but is %s at byte %llu", name, wanted,
                       ramet__json_type_name(v->type), (unsigned long long)v->offset);
}

ramet_status ramet__json_i64(int64_t *out, const ramet__json *object, const char *name, int64_t fallback) {
    const ramet__json *v = ramet__json_get(object, name);
    if (v && v->type != RAMET__JSON_NULL && !(v->type == RAMET__JSON_NUMBER && v->is_integer))
        return wrong(v, name, "an integer of at most 64 bits");
    *out = v && v->type == RAMET__JSON_NUMBER ? v->integer : fallback;
    return RAMET_OK;
}

ramet_status ramet__json_f64(double *out, const ramet__json *object, const char *name, double fallback) {
    const ramet__json *v = ramet__json_get(object, name);
    if (v && v->type != RAMET__JSON_NULL && v->type != RAMET__JSON_NUMBER) return wrong(v, name, "a number");
    *out = v && v->type == RAMET__JSON_NUMBER ? v->number : fallback;
    return RAMET_OK;
}

ramet_status ramet__json_string(const char **out, const ramet__json *object, const char *name, const char *fallback) {
    const ramet__json *v = ramet__json_get(object, name);
    if (v && v->type != RAMET__JSON_NULL && v->type != RAMET__JSON_STRING) return wrong(v, name, "a string");
    if (v && v->type == RAMET__JSON_STRING && strlen(v->text) != v->len)
        return ramet__fail(RAMET_E_FORMAT, "JSON: \"%s\" holds a NUL character at byte %llu", name, (unsigned long long)v->offset);
    *out = v && v->type == RAMET__JSON_STRING ? v->text : fallback;
    return RAMET_OK;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

void ramet__json_quote(ramet__text *text, const char *s, size_t n) {
    static const char hex[] = "0123456789abcdef";
    ramet__text_bytes(text, "\"", 1);
    size_t from = 0, valid = ramet__utf8_valid(s, n); /* bytes from..i are still to be copied as they are */
    for (size_t i = 0; i < n;) {
        uint8_t c = (uint8_t)s[i];
        if (i < valid && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) { i++; continue; }
        ramet__text_bytes(text, s + from, i - from);
        if (i >= valid) {
            ramet__text_bytes(text, "\xef\xbf\xbd", 3);
            valid = i + 1 + ramet__utf8_valid(s + i + 1, n - i - 1);
        } else if (c == '"' || c == '\\') {
            char pair[2] = {'\\', (char)c};
            ramet__text_bytes(text, pair, 2);
        } else if (c == '\n' || c == '\t' || c == '\r') {
            ramet__text_bytes(text, c == '\n' ? "\\n" : c == '\t' ? "\\t" : "\\r", 2);
        } else {
            char u[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            ramet__text_bytes(text, u, 6);
        }
        from = ++i;
    }
    ramet__text_bytes(text, s + from, n - from);
    ramet__text_bytes(text, "\"", 1);
}

void ramet__json_number(ramet__text *text, double value) {
    char digits[40];
    if (!isfinite(value)) { ramet__text_bytes(text, "null", 4); return; }
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (precision == 17 || strtod(digits, NULL) == value) break; /* written and read in the same locale */
    }
    for (char *c = digits; *c; c++)
        if (!strchr("0123456789+-e", *c)) *c = '.';
    ramet__text_bytes(text, digits, strlen(digits));
}
