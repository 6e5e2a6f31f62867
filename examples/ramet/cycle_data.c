/* SPDX-License-Identifier: Apache-2.0 */
/* cycle_data.c - a domain's text cut into train, validation and test by document, never by line. */
#include "cycle.h"
#include <stdlib.h>
#include <string.h>

typedef struct piece { const char *at; size_t n; } piece;

/* The documents of a file: lines of a .jsonl, otherwise blocks of paragraphs of at least 2000 bytes. */
static piece *documents(const char *data, size_t size, int jsonl, int *count) {
    piece *p = NULL;
    int n = 0, cap = 0;
    for (size_t i = 0; i < size;) {
        size_t end = i;
        if (jsonl) while (end < size && data[end] != '\n') end++;
        else while (end < size && !(end - i >= 2000 && data[end] == '\n' && end + 1 < size && data[end + 1] == '\n')) end++;
        if (end > i) {
            if (n == cap && !(p = realloc(p, (size_t)(cap = 2 * cap + 64) * sizeof *p))) exit(EXIT_FAILED);
            p[n++] = (piece){data + i, end - i};
        }
        i = end + 1;
    }
    *count = n;
    return p;
}

static int write_part(const char *path, const piece *p, int n, int jsonl, int first, int last) {
    FILE *f = fopen(path, "wb");
    if (!f) return fprintf(stderr, "ramet cycle: cannot write %s\n", path), EXIT_FAILED;
    for (int i = 0; i < n; i++) {
        int tenth = (int)((unsigned)i * 7u % 10u); /* spread over the file: neighbours are often alike in kind */
        if (tenth < first || tenth > last) continue;
        if (jsonl) fwrite(p[i].at, 1, p[i].n, f);
        else {
            jbuf b = {0};
            j_add(&b, "{\"text\":");
            j_str(&b, p[i].at, p[i].n);
            fprintf(f, "%s}", b.data);
            j_free(&b);
        }
        fputc('\n', f);
    }
    return fclose(f) ? EXIT_FAILED : 0;
}

static int cut(const cycle *y, domain_text *t, const char *file, int with_train) {
    size_t size;
    int n, code = 0;
    char *data = read_file(file, &size);
    if (!data) return EXIT_FAILED;
    int jsonl = strlen(file) > 6 && !strcmp(file + strlen(file) - 6, ".jsonl");
    piece *p = documents(data, size, jsonl, &n);
    if (n < 10) {
        fprintf(stderr, "ramet cycle: %s: has %d documents; at least 10 are needed to split it by document\n", file, n);
        code = EXIT_FAILED;
    }
    snprintf(t->train, sizeof t->train, "%s/data/%s.train.jsonl", y->dir, t->name);
    snprintf(t->valid, sizeof t->valid, "%s/data/%s.valid.jsonl", y->dir, t->name);
    snprintf(t->test, sizeof t->test, "%s/data/%s.test.jsonl", y->dir, t->name);
    if (!code && with_train) code = write_part(t->train, p, n, jsonl, 0, 7) || write_part(t->valid, p, n, jsonl, 8, 8) || write_part(t->test, p, n, jsonl, 9, 9);
    if (!code && !with_train) code = write_part(t->valid, p, n, jsonl, 0, 4) || write_part(t->test, p, n, jsonl, 5, 9);
    free(p);
    free(data);
    return code;
}

/* "A" is cut; "TRAIN,VALID,TEST" (or "VALID,TEST" where nothing is trained) is taken as it is. */
static int take(const cycle *y, domain_text *t, const char *files, int with_train) {
    char all[1600], *part[4];
    int n = 0;
    snprintf(all, sizeof all, "%s", files);
    for (char *p = strtok(all, ","); p && n < 4; p = strtok(NULL, ",")) part[n++] = p;
    if (n == 1) return cut(y, t, part[0], with_train);
    if (n != 2 + with_train) return fprintf(stderr, "ramet cycle: %s: give one file, or %s\n", t->name, with_train ? "TRAIN,VALID,TEST" : "VALID,TEST"), EXIT_USAGE;
    if (with_train) snprintf(t->train, sizeof t->train, "%s", part[0]);
    snprintf(t->valid, sizeof t->valid, "%s", part[with_train]);
    snprintf(t->test, sizeof t->test, "%s", part[with_train + 1]);
    return 0;
}

int cycle_texts(cycle *y, const list *domains, const char *general, const char *chat) {
    if (domains->n < 1 || domains->n > MAX_DOMAINS) return cli_usage(y->c, "--domain NAME=FILE is needed, at most %d times", MAX_DOMAINS);
    for (int i = 0; i < domains->n; i++) {
        const char *spec = domains->item[i], *eq = strchr(spec, '=');
        domain_text *t = &y->texts[y->n_texts++];
        if (!eq || eq == spec || eq - spec >= (int)sizeof t->name || !eq[1]) return cli_usage(y->c, "--domain needs NAME=FILE, not \"%s\"", spec);
        snprintf(t->name, sizeof t->name, "%.*s", (int)(eq - spec), spec);
        if (strspn(t->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != strlen(t->name))
            return cli_usage(y->c, "a domain's name has letters, digits, _ and - only, not \"%s\"", t->name);
        int code = take(y, t, eq + 1, 1);
        if (code) return code;
        y->n_domains++;
    }
    const char *extra[2] = {general, chat};
    for (int i = 0; i < 2; i++) {
        if (!extra[i]) continue;
        domain_text *t = &y->texts[y->n_texts++];
        snprintf(t->name, sizeof t->name, "%s", i ? "chat" : "general");
        int code = take(y, t, extra[i], 0);
        if (code) return code;
        *(i ? &y->has_chat : &y->has_general) = 1;
    }
    return 0;
}
