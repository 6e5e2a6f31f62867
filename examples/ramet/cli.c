/* SPDX-License-Identifier: Apache-2.0 */
/* cli.c - options, progress, JSON text, loading: what all commands share. */
#include "cli.h"
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- options ---- */
int cli_usage(cli *c, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    fprintf(stderr, "ramet %s: ", c->command);
    vfprintf(stderr, format, ap);
    fprintf(stderr, "; see ramet %s --help\n", c->command);
    va_end(ap);
    return EXIT_USAGE;
}

static void command_help(const cli *c, const opt *opts) {
    for (int i = 0; i < n_commands; i++)
        if (!strcmp(commands[i].name, c->command)) printf("usage: ramet %s %s [options]\n%s\n\n", c->command, commands[i].arguments, commands[i].summary);
    for (const opt *o = opts; o->name; o++) {
        char left[48];
        snprintf(left, sizeof left, "%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("  %-24s %s\n", left, o->help);
    }
    printf("  %-24s %s\n  %-24s %s\n", "--threads N", "workers (default: one per processor)", "--json", "one JSON object on stdout");
}

static int take_value(cli *c, const opt *o, const char *text) {
    char *end = NULL;
    errno = 0;
    if (o->kind == OPT_INT) {
        long v = strtol(text, &end, 10);
        if (end == text || *end || errno || v < INT_MIN || v > INT_MAX) return cli_usage(c, "%s needs a whole number, not \"%s\"", o->name, text);
        *(int *)o->dest = (int)v;
    } else if (o->kind == OPT_LONG) {
        long long v = strtoll(text, &end, 10);
        if (end == text || *end || errno) return cli_usage(c, "%s needs a whole number, not \"%s\"", o->name, text);
        *(int64_t *)o->dest = v;
    } else if (o->kind == OPT_DOUBLE) {
        double v = strtod(text, &end);
        if (end != text && *end == '%' && !end[1]) { v /= 100; end++; }
        if (end == text || *end) return cli_usage(c, "%s needs a number, not \"%s\"", o->name, text);
        *(double *)o->dest = v;
    } else if (o->kind == OPT_BYTES) { /* uint64_t */
        double v = strtod(text, &end);
        const char *unit = end != text && *end ? strchr("KMG", *end) : NULL;
        for (long i = unit ? unit - "KMG" + 1 : 0; i > 0; i--) v *= 1024;
        if (unit) end++;
        if (end == text || *end || !(v >= 1 && v < 1e18)) return cli_usage(c, "%s needs a number of bytes such as 256M, not \"%s\"", o->name, text);
        *(uint64_t *)o->dest = (uint64_t)v;
    } else if (o->kind == OPT_TEXT) *(const char **)o->dest = text;
    else {
        list *l = o->dest;
        if (l->n == (int)(sizeof l->item / sizeof l->item[0])) return cli_usage(c, "%s is given more than %d times", o->name, l->n);
        l->item[l->n++] = text;
    }
    return 0;
}

int cli_parse(cli *c, int argc, char **argv, const opt *opts, const char **args, int min, int max, int *n_args, int *done) {
    const opt shared[] = {{"--json", OPT_FLAG, &c->json, NULL, ""}, {"--threads", OPT_INT, &c->threads, "N", ""}, {"--help", OPT_FLAG, &c->help, NULL, ""}, {"-h", OPT_FLAG, &c->help, NULL, ""}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int n = 0, plain = 0;
    *done = 0;
    for (int i = 0; i < argc; i++) {
        const opt *found = NULL;
        if (!plain && !strcmp(argv[i], "--")) { plain = 1; continue; }
        if (plain || argv[i][0] != '-' || !argv[i][1]) {
            if (n == max) return cli_usage(c, "\"%s\" is one argument too many", argv[i]);
            args[n++] = argv[i];
            continue;
        }
        for (const opt *o = opts; o->name && !found; o++) if (!strcmp(o->name, argv[i])) found = o;
        for (const opt *o = shared; o->name && !found; o++) if (!strcmp(o->name, argv[i])) found = o;
        if (!found) return cli_usage(c, "there is no option \"%s\"", argv[i]);
        if (found->kind == OPT_FLAG) { *(int *)found->dest = 1; continue; }
        if (++i == argc) return cli_usage(c, "%s needs a value (%s)", found->name, found->value);
        int code = take_value(c, found, argv[i]);
        if (code) return code;
        /* a list takes every following argument that is no option: --eval A B C */
        while (found->kind == OPT_LIST && i + 1 < argc && (argv[i + 1][0] != '-' || !argv[i + 1][1]))
            if ((code = take_value(c, found, argv[++i]))) return code;
    }
    if (c->help) {
        command_help(c, opts);
        *done = 1;
        return 0;
    }
    if (c->threads < 0) return cli_usage(c, "--threads must not be negative");
    if (n < min) return cli_usage(c, min == 1 ? "an argument is missing" : "it needs %d arguments", min);
    if (n_args) *n_args = n;
    return 0;
}

/* ---- progress, cancel ---- */
static volatile sig_atomic_t interrupted;
static double last_shown;
static int shown;

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

int cli_interrupted(void) { return interrupted; }

double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int32_t cli_progress(double fraction, const char *what, void *user) {
    double now = now_seconds();
    (void)user;
    if (isatty(2) && now - last_shown > .1) {
        last_shown = now;
        shown = 1;
        if (fraction >= 0) fprintf(stderr, "\r\033[K%s %3.0f%%", what, 100 * fraction);
        else fprintf(stderr, "\r\033[K%s", what);
        fflush(stderr);
    }
    return interrupted;
}

void cli_progress_clear(void) {
    if (shown) fprintf(stderr, "\r\033[K");
    shown = 0;
}

static void log_line(int32_t level, const char *line, void *user) {
    (void)user;
    cli_progress_clear();
    fprintf(stderr, "ramet: %s%s\n", level == RAMET_LOG_ERROR ? "error: " : level == RAMET_LOG_WARNING ? "warning: " : "", line);
}

int cli_fail(cli *c, const char *what) {
    cli_progress_clear();
    fprintf(stderr, "ramet %s: %s%s%s\n", c->command, what ? what : "", what ? ": " : "", ramet_last_error());
    return EXIT_FAILED;
}

int cli_start(cli *c) {
    ramet_runtime_options o;
    struct sigaction act = {.sa_handler = on_interrupt};
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = c->threads;
    o.log = log_line;
    if (ramet_runtime_create(&c->rt, &o)) return cli_fail(c, NULL);
    act.sa_flags = (int)SA_RESETHAND; /* a second Ctrl-C ends the program at once */
    sigaction(SIGINT, &act, NULL);
    return 0;
}

/* ---- JSON text ---- */
static void out_of_memory(void) {
    fprintf(stderr, "ramet: out of memory\n");
    exit(EXIT_FAILED);
}

static void j_room(jbuf *b, size_t more) {
    if (b->len + more + 1 <= b->cap) return;
    b->cap = 2 * (b->len + more + 1);
    if (!(b->data = realloc(b->data, b->cap))) out_of_memory();
}

void j_add(jbuf *b, const char *format, ...) {
    va_list ap, again;
    va_start(ap, format);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    j_room(b, (size_t)n);
    vsnprintf(b->data + b->len, (size_t)n + 1, format, again);
    va_end(again);
    b->len += (size_t)n;
}

void j_str(jbuf *b, const char *text, size_t n) {
    j_add(b, "\"");
    for (size_t i = 0; i < n; i++) {
        unsigned char ch = (unsigned char)text[i];
        if (ch == '"' || ch == '\\') j_add(b, "\\%c", ch);
        else if (ch < 0x20) j_add(b, "\\u%04x", ch);
        else {
            j_room(b, 1);
            b->data[b->len++] = (char)ch;
            b->data[b->len] = 0;
        }
    }
    j_add(b, "\"");
}

void j_free(jbuf *b) {
    free(b->data);
    *b = (jbuf){0};
}

/* A reader for small JSON texts: skips values by matching brackets, finds one by its path. */
static const char *j_skip(const char *p) {
    int depth = 0;
    for (; *p; p++) {
        if (*p == '"') {
            for (p++; *p && *p != '"'; p++) if (*p == '\\' && p[1]) p++;
            if (!*p) return p;
        } else if (*p == '{' || *p == '[') depth++;
        else if (*p == '}' || *p == ']') {
            if (!depth) return p;
            depth--;
        } else if (*p == ',' && !depth) return p;
    }
    return p;
}

static const char *j_space(const char *p) { return p + strspn(p, " \t\r\n"); }

static const char *j_find(const char *p, const char *path) {
    while (p && *path) {
        size_t n = strcspn(path, ".");
        p = j_space(p);
        if (*p == '{') {
            const char *found = NULL;
            for (p = j_space(p + 1); *p == '"' && !found;) {
                const char *key = p + 1, *end = strchr(key, '"'), *colon = end ? j_space(end + 1) : NULL;
                if (!colon || *colon != ':') return NULL;
                if ((size_t)(end - key) == n && !strncmp(key, path, n)) found = colon + 1;
                else {
                    p = j_skip(colon + 1);
                    p = j_space(*p == ',' ? p + 1 : p);
                }
            }
            p = found;
        } else if (*p == '[') {
            long want = strtol(path, NULL, 10);
            for (p++; want > 0 && *p && *p != ']'; want--) {
                p = j_skip(p);
                if (*p == ',') p++;
            }
            if (*p == ']') return NULL;
        } else return NULL;
        path += n;
        if (*path == '.') path++;
    }
    return p ? j_space(p) : NULL;
}

int j_number(double *out, const char *json, const char *path) {
    const char *p = j_find(json, path);
    char *end;
    if (!p) return 0;
    double v = strtod(p, &end);
    if (end == p) return 0;
    *out = v;
    return 1;
}

static unsigned long j_hex(const char *p) { return strnlen(p, 6) < 6 ? 0 : strtoul((char[]){p[2], p[3], p[4], p[5], 0}, NULL, 16); } /* of \uXXXX */

int j_text(char *out, size_t cap, const char *json, const char *path) {
    const char *p = j_find(json, path);
    size_t n = 0;
    if (!p || *p != '"') return 0;
    for (p++; *p && *p != '"' && n + 1 < cap; p++) {
        if (*p == '\\' && p[1] == 'u') {
            unsigned long u = j_hex(p);
            if (u >> 10 == 0x36 && p[6] == '\\' && p[7] == 'u') u = 0x10000 + ((u & 0x3FF) << 10) + (j_hex(p += 6) & 0x3FF); /* a pair of surrogates */
            const int more = u < 0x80 ? 0 : u < 0x800 ? 1 : u < 0x10000 ? 2 : 3;
            if (n + (size_t)more + 1 >= cap) break;
            out[n++] = (char)(more ? (0xF0 << (3 - more) & 0xFF) | u >> 6 * more : u);
            for (int i = more - 1; i >= 0; i--) out[n++] = (char)(0x80 | (u >> 6 * i & 0x3F));
            p += 5;
        } else out[n++] = *p == '\\' && p[1] ? *++p == 'n' ? '\n' : *p == 't' ? '\t' : *p : *p;
    }
    out[n] = 0;
    return 1;
}

/* ---- loading ---- */
char *read_file(const char *path, size_t *size) {
    FILE *f = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    size_t cap = 1 << 16, n = 0, got;
    char *data;
    if (!f) {
        fprintf(stderr, "ramet: %s: %s\n", path, strerror(errno));
        return NULL;
    }
    if (!(data = malloc(cap))) out_of_memory();
    while ((got = fread(data + n, 1, cap - n - 1, f)) > 0) {
        n += got;
        if (n + 1 == cap && !(data = realloc(data, cap *= 2))) out_of_memory();
    }
    int bad = ferror(f);
    if (f != stdin) fclose(f);
    if (bad) {
        fprintf(stderr, "ramet: %s: %s\n", path, strerror(errno));
        free(data);
        return NULL;
    }
    data[n] = 0;
    *size = n;
    return data;
}

ramet_model *load_model(cli *c, const char *path) {
    ramet_model *m = NULL;
    if (!c->rt && cli_start(c)) return NULL;
    if (ramet_model_load_path(&m, c->rt, path)) cli_fail(c, NULL);
    return m;
}

ramet_dataset *load_dataset(cli *c, ramet_model *m, const char *const *paths, int n) {
    ramet_dataset *d = NULL;
    if (ramet_dataset_create(&d, m)) {
        cli_fail(c, NULL);
        return NULL;
    }
    for (int i = 0; i < n; i++)
        if (ramet_dataset_add_file(d, paths[i])) {
            cli_fail(c, NULL);
            ramet_dataset_free(d);
            return NULL;
        }
    return d;
}

ramet_adapter *load_adapter(cli *c, const ramet_model *m, const char *spec, float *scale) {
    char path[4096];
    const char *colon = strrchr(spec, ':');
    char *end = NULL;
    ramet_adapter *a = NULL;
    *scale = 1;
    if (colon && colon[1]) {
        float v = strtof(colon + 1, &end);
        if (!*end) *scale = v;
        else colon = NULL;
    } else colon = NULL;
    snprintf(path, sizeof path, "%.*s", (int)(colon ? colon - spec : (long)strlen(spec)), spec);
    if (ramet_adapter_load(&a, m, path)) cli_fail(c, NULL);
    return a;
}

int mode_named(const char *name) {
    return !strcmp(name, "exact") ? RAMET_MODE_EXACT : !strcmp(name, "balanced") ? RAMET_MODE_BALANCED : !strcmp(name, "fast") ? RAMET_MODE_FAST : -1;
}

double student95(int64_t df) { /* Cornish-Fisher expansion about the normal; within 1% from 3 degrees on */
    double z = 1.959964, v = (double)df;
    if (df < 3) return df < 2 ? 12.706 : 4.303;
    return z + (z * z * z + z) / (4 * v) + (5 * pow(z, 5) + 16 * z * z * z + 3 * z) / (96 * v * v);
}
