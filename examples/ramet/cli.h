/* SPDX-License-Identifier: Apache-2.0 */
/* cli.h - what the commands of `ramet` share: options, output, progress, errors. The program uses the public API alone. */
#ifndef CLI_H
#define CLI_H
#include <ramet/ramet.h>
#include <stdio.h>

#define EXIT_FAILED 1
#define EXIT_USAGE 2

/* One option of a command. FLAG sets *(int *) to 1; LIST appends to a struct list; the others overwrite. */
typedef enum { OPT_FLAG, OPT_INT, OPT_LONG, OPT_DOUBLE, OPT_BYTES, OPT_TEXT, OPT_LIST } opt_kind;
typedef struct opt { const char *name; opt_kind kind; void *dest; const char *value; const char *help; } opt;
typedef struct list { const char *item[64]; int n; } list;

typedef struct cli {
    int json, threads, help;
    const char *command;
    ramet_runtime *rt;
} cli;

typedef struct command {
    const char *name, *arguments, *summary;
    int (*run)(cli *c, int argc, char **argv);
} command;
extern const command commands[];
extern const int n_commands;

/* Parse argv by `opts` (ended by a NULL name; --json --threads --help are added). Positional arguments go to args (at least min, at
 * most max). Returns 0, or the exit code to end with (2 after a message, 0 after help: then *done is 1). */
int cli_parse(cli *c, int argc, char **argv, const opt *opts, const char **args, int min, int max, int *n_args, int *done);
int cli_start(cli *c);                     /* the runtime; exit code */
int cli_fail(cli *c, const char *what);    /* print the library's message, return EXIT_FAILED */
int cli_usage(cli *c, const char *format, ...);

/* Progress on a terminal's stderr; cancelled by Ctrl-C. Pass as progress callback with user = NULL. */
int32_t cli_progress(double fraction, const char *what, void *user);
void cli_progress_clear(void);
int cli_interrupted(void);

/* JSON text, growing. */
typedef struct jbuf { char *data; size_t len, cap; } jbuf;
void j_add(jbuf *b, const char *format, ...);
void j_str(jbuf *b, const char *text, size_t n); /* quoted */
void j_free(jbuf *b);
/* Numbers and texts of a flat or nested JSON text by key path "tasks.0.loss": what another ramet process printed, a recipe, a document. */
int j_number(double *out, const char *json, const char *path);
int j_text(char *out, size_t cap, const char *json, const char *path);

char *read_file(const char *path, size_t *size);       /* NULL on failure, message printed; caller frees */
ramet_model *load_model(cli *c, const char *path);     /* NULL: message printed */
/* Tokens of text files as a dataset; NULL: message printed. */
ramet_dataset *load_dataset(cli *c, ramet_model *m, const char *const *paths, int n);
/* "FILE[:scale]" */
ramet_adapter *load_adapter(cli *c, const ramet_model *m, const char *spec, float *scale);
double now_seconds(void);
double student95(int64_t degrees_of_freedom);          /* two-sided 95% point of Student's t */
int mode_named(const char *name);                      /* RAMET_MODE_*, -1 */

#define COMMAND(name) int cmd_##name(cli *c, int argc, char **argv);
COMMAND(info) COMMAND(list) COMMAND(tokenize) COMMAND(embed) COMMAND(run) COMMAND(eval) COMMAND(quantize) COMMAND(prune) COMMAND(rebase) COMMAND(tune) COMMAND(classify) COMMAND(merge)
COMMAND(init) COMMAND(brief) COMMAND(update) COMMAND(feed) COMMAND(gate) COMMAND(commit) COMMAND(undo) COMMAND(log) COMMAND(bench) COMMAND(cycle)
#undef COMMAND
#endif
