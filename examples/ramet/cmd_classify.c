/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_classify.c - labels of texts: a linear layer on the mean of a model's rows, the model frozen, with low-rank pairs, or trained whole. Everything but the model
 * lies in one file of variables, the same as Python's ramet.Classifier: classifier.weight, .bias, .settings (rank, -1: all weights; alpha;
 * tokens a text), .label.<number>.<text>, and the pairs or weights. */
#include "cli.h"
#include "ramet/graph.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 16 };
#define LABEL "classifier.label."

typedef struct sample { int32_t *ids; int64_t n; char *label; } sample;
typedef struct samples { sample *item; int64_t n; } samples;
typedef struct classifier {
    ramet_model *m;
    ramet_variables *v;
    char **label;
    int n;
    float set[3]; /* rank, alpha, tokens */
    int64_t width;
} classifier;
enum { MEANS, LEARN, LEARN_LAYER, PREDICT }; /* what a program does: means of rows; steps, of the layer alone from means; probabilities */

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int tokens_of(const classifier *k, sample *s, const char *text, size_t size) {
    int64_t most = (int64_t)k->set[2];
    if (ramet_tokenize(&s->n, NULL, 0, k->m, text, size, RAMET_TOKENIZE_BOS) || !(s->ids = malloc((size_t)(s->n + 1) * sizeof *s->ids)) ||
        ramet_tokenize(&s->n, s->ids, s->n, k->m, text, size, RAMET_TOKENIZE_BOS))
        return 0;
    if (s->n > most) {
        if (!strcmp(ramet_model_architecture(k->m), "bert")) s->ids[most - 1] = s->ids[s->n - 1]; /* the closing [SEP] */
        s->n = most;
    }
    return 1;
}
static int add(const classifier *k, samples *all, const char *text, const char *label) {
    sample *more = realloc(all->item, (size_t)(all->n + 1) * sizeof *more);
    if (!more) return 0;
    all->item = more;
    sample *s = &all->item[all->n];
    *s = (sample){0};
    if (!tokens_of(k, s, text, strlen(text)) || !(s->label = strdup(label))) return 0;
    if (!s->n) s->ids[s->n++] = 0; /* an empty text has one row */
    all->n++;
    return 1;
}
/* {"text": "...", "label": "..."} a line; exit code */
static int load(cli *c, const classifier *k, samples *all, const char *path) {
    size_t size = 0;
    char *data = read_file(path, &size), *text = data ? malloc(size + 1) : NULL, label[200];
    int code = text ? 0 : EXIT_FAILED;
    int64_t number = 0;
    for (char *at = data, *next; !code && at && *at; at = next) {
        char *end = strchr(at, '\n');
        double x;
        next = end ? end + 1 : at + strlen(at);
        if (end) *end = 0;
        number++;
        if (!at[strspn(at, " \t\r")]) continue;
        if (!j_text(text, size + 1, at, "text") || (!j_text(label, sizeof label, at, "label") && !j_number(&x, at, "label"))) {
            fprintf(stderr, "ramet classify: %s, line %" PRId64 ": no {\"text\": \"...\", \"label\": \"...\"}\n", path, number);
            code = EXIT_FAILED;
        } else {
            if (!j_text(label, sizeof label, at, "label")) snprintf(label, sizeof label, "%.9g", x);
            if (!add(k, all, text, label)) code = cli_fail(c, path);
        }
    }
    free(text);
    free(data);
    return code;
}

static int32_t call(ramet_graph *g, const char *op, int32_t a, int32_t b, int32_t bias) {
    int32_t y = -1;
    return ramet_graph_apply(&y, 1, g, op, (int32_t[]){a, b, bias}, bias >= 0 ? 3 : b >= 0 ? 2 : 1, NULL) ? -1 : y; /* -1 goes on to a failure below */
}
static ramet_program *program(cli *c, const classifier *k, int what) {
    const int64_t tokens = (int64_t)k->set[2];
    int32_t rows = -1, seq = -1, x = -1, w = -1, b = -1, y = -1;
    ramet_graph *g = NULL;
    ramet_program *p = NULL;
    ramet_graph_model_options o;
    ramet_graph_model_options_init(&o, sizeof o);
    o.full = k->set[0] < 0;
    o.rank = k->set[0] > 0 ? (int32_t)k->set[0] : 0;
    o.alpha = k->set[1];
    int bad = ramet_graph_create(&g, c->rt, BATCH * tokens, BATCH) != 0;
    if (what == LEARN_LAYER) bad = bad || ramet_graph_input(&x, g, "x", RAMET_TYPE_F32, RAMET_AXIS_OUTS, k->width);
    else bad = bad || ramet_graph_model(&rows, g, k->v, k->m, &o) || ramet_graph_input(&seq, g, "seq", RAMET_TYPE_I32, RAMET_AXIS_ROWS, 0) || (x = call(g, "segment_mean", rows, seq, -1)) < 0;
    if (what != MEANS)
        bad = bad || ramet_graph_variable(&w, g, k->v, "classifier.weight") || ramet_graph_variable(&b, g, k->v, "classifier.bias") || (x = call(g, "linear", x, w, b)) < 0;
    if (what == PREDICT) bad = bad || (x = call(g, "softmax", x, -1, -1)) < 0;
    if (what == LEARN || what == LEARN_LAYER)
        bad = bad || ramet_graph_input(&y, g, "y", RAMET_TYPE_I32, RAMET_AXIS_OUTS, 0) || (x = call(g, "cross_entropy", x, y, -1)) < 0 || ramet_graph_train(g, k->v, x);
    bad = bad || ramet_graph_output(g, "out", x) || ramet_program_create(&p, g, RAMET_MODE_BALANCED);
    if (bad) cli_fail(c, NULL);
    ramet_graph_free(g);
    return p;
}

/* One batch of samples pick[0..n) (means: their rows of the frozen model); the output, NULL: it failed. */
static const float *run(cli *c, const classifier *k, ramet_program *p, const samples *all, const int64_t *pick, int n, const float *means, const int32_t *y) {
    int32_t *in[4] = {NULL}, here[BATCH];
    int64_t rows = 0, at = 0;
    float *x = NULL;
    const float *out = NULL;
    const char *names[6] = {"tokens", "pos", "seq", "type"};
    const void *data[6];
    const int bert = !strcmp(ramet_model_architecture(k->m), "bert");
    int inputs = means ? 0 : 3 + bert, ok = 1;
    for (int i = 0; i < n && !means; i++) rows += all->item[pick[i]].n;
    for (int j = 0; j < inputs; j++) ok = ok && (in[j] = calloc((size_t)rows, sizeof **in));
    if (means) ok = (x = malloc((size_t)(n * k->width) * sizeof *x)) != NULL;
    for (int i = 0; i < n && ok; i++) {
        if (means) memcpy(x + i * k->width, means + pick[i] * k->width, (size_t)k->width * sizeof *x);
        for (int64_t t = 0; t < all->item[pick[i]].n && !means; t++, at++) {
            in[0][at] = all->item[pick[i]].ids[t];
            in[1][at] = (int32_t)t;
            in[2][at] = i;
        }
        if (y) here[i] = y[pick[i]];
    }
    for (int j = 0; j < inputs; j++) data[j] = in[j];
    if (means) names[inputs] = "x", data[inputs++] = x;
    if (y) names[inputs] = "y", data[inputs++] = here;
    if (!ok || ramet_program_run(p, rows, n, names, data, inputs, cli_progress, NULL) || ramet_program_output(&out, NULL, NULL, p, "out")) cli_fail(c, NULL), out = NULL;
    for (int j = 0; j < 4; j++) free(in[j]);
    free(x);
    return out;
}
/* A program's output for all samples, one after another; caller frees. */
static float *for_all(cli *c, const classifier *k, const samples *all, int what, int64_t columns) {
    ramet_program *p = program(c, k, what);
    float *out = p ? malloc((size_t)(all->n * columns + 1) * sizeof *out) : NULL;
    for (int64_t at = 0; out && at < all->n; at += BATCH) {
        int64_t pick[BATCH];
        const int n = all->n - at < BATCH ? (int)(all->n - at) : BATCH;
        for (int i = 0; i < n; i++) pick[i] = at + i;
        const float *found = run(c, k, p, all, pick, n, NULL, NULL);
        if (found) memcpy(out + at * columns, found, (size_t)(n * columns) * sizeof *out);
        else free(out), out = NULL;
    }
    ramet_program_free(p);
    return out;
}
static int best(const float *p, int n) {
    int at = 0;
    for (int i = 1; i < n; i++)
        if (p[i] > p[at]) at = i;
    return at;
}

static int learn(cli *c, classifier *k, const samples *all, double epochs, double rate, uint64_t seed, int64_t *steps, double *loss) {
    const int frozen = k->set[0] == 0;
    float *means = NULL;
    ramet_program *p = NULL;
    int64_t *order = malloc((size_t)all->n * sizeof *order), batches = (all->n + BATCH - 1) / BATCH;
    int32_t *y = malloc((size_t)all->n * sizeof *y);
    char name[240];
    int code = EXIT_FAILED;
    k->label = malloc((size_t)all->n * sizeof *k->label);
    if (!order || !y || !k->label) goto out;
    for (int64_t i = 0; i < all->n; i++) k->label[i] = all->item[order[i] = i].label;
    qsort(k->label, (size_t)all->n, sizeof *k->label, by_text);
    for (int64_t i = 0; i < all->n; i++)
        if (!i || strcmp(k->label[i], k->label[k->n - 1])) k->label[k->n++] = k->label[i];
    for (int64_t i = 0; i < all->n; i++) y[i] = (int32_t)((char **)bsearch(&all->item[i].label, k->label, (size_t)k->n, sizeof *k->label, by_text) - k->label);
    if (k->n < 2) {
        fprintf(stderr, "ramet classify: the data has %d label; two are needed\n", k->n);
        goto out;
    }
    int bad = ramet_variables_add(k->v, "classifier.settings", 0, 3, "zeros", 0, 0) || ramet_variables_write(k->v, "classifier.settings", k->set, 3) ||
              ramet_variables_add(k->v, "classifier.weight", k->n, k->width, "glorot", seed, 1) || ramet_variables_add(k->v, "classifier.bias", 0, k->n, "zeros", 0, 1);
    for (int i = 0; i < k->n && !bad; i++) {
        snprintf(name, sizeof name, LABEL "%d.%s", i, k->label[i]);
        bad = ramet_variables_add(k->v, name, 0, 1, "zeros", 0, 0) != 0;
    }
    if (bad) {
        cli_fail(c, NULL);
        goto out;
    }
    if ((frozen && !(means = for_all(c, k, all, MEANS, k->width))) || !(p = program(c, k, frozen ? LEARN_LAYER : LEARN))) goto out;
    *steps = (int64_t)(epochs * (double)batches);
    ramet_step_options o;
    ramet_step_options_init(&o, sizeof o);
    o.weight_decay = 0.01f;
    o.clip = 1;
    for (int64_t step = 0; step < *steps; step++) {
        const int64_t at = step % batches * BATCH;
        for (int64_t i = all->n - 1; at == 0 && i > 0; i--) { /* Fisher-Yates by Knuth's generator */
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            const int64_t j = (int64_t)((seed >> 33) % (uint64_t)(i + 1)), t = order[i];
            order[i] = order[j];
            order[j] = t;
        }
        const float *found = run(c, k, p, all, order + at, all->n - at < BATCH ? (int)(all->n - at) : BATCH, means, y);
        o.learning_rate = (float)(rate * (1 - (double)step / (double)*steps));
        if (!found) goto out;
        *loss = (double)*found;
        if (ramet_variables_step(NULL, k->v, &o)) {
            cli_fail(c, NULL);
            goto out;
        }
        snprintf(name, sizeof name, "step %" PRId64 "/%" PRId64 "  loss %.4f", step + 1, *steps, *loss);
        cli_progress((double)(step + 1) / (double)*steps, name, NULL);
    }
    code = 0;
out:
    cli_progress_clear();
    ramet_program_free(p);
    free(means);
    free(order);
    free(y);
    return code;
}
/* What a file says; exit code */
static int open_file(cli *c, classifier *k, const char *path) {
    const char *name;
    int64_t columns = 0;
    if (ramet_variables_load(k->v, path)) return cli_fail(c, path);
    const int64_t n = ramet_variables_count(k->v);
    if (!(k->label = calloc((size_t)n + 1, sizeof *k->label)) || ramet_variables_read(k->set, 3, k->v, "classifier.settings", 0)) return cli_fail(c, path);
    for (int64_t i = 0; i < n; i++) {
        if (ramet_variables_at(&name, NULL, &columns, NULL, k->v, i)) return cli_fail(c, path);
        if (!strcmp(name, "classifier.weight") && columns != k->width) {
            fprintf(stderr, "ramet classify: %s is for a model of width %" PRId64 ", this one has %" PRId64 "\n", path, columns, k->width);
            return EXIT_FAILED;
        }
        char *dot = NULL;
        if (strncmp(name, LABEL, strlen(LABEL))) continue;
        const long at = strtol(name + strlen(LABEL), &dot, 10);
        if (at < 0 || at >= n || *dot != '.' || k->label[at]) return cli_fail(c, path);
        k->label[at] = (char *)(uintptr_t)dot + 1;
        k->n++;
    }
    return k->set[2] >= 1 && k->set[2] <= 65536 ? 0 : cli_fail(c, path);
}

int cmd_classify(cli *c, int argc, char **argv) {
    list data = {0}, held_out = {0}, texts = {0};
    classifier k = {.set = {0, 16, 128}};
    samples train = {0}, test = {0};
    const char *out = NULL, *with = NULL, *path;
    double alpha = 16, epochs = 0, lr = 0, loss = 0;
    int64_t seed = 0, steps = 0, right = 0;
    int32_t rank = 0, full = 0, tokens = 128;
    const opt opts[] = {{"--data", OPT_LIST, &data, "FILE", "learn from {\"text\", \"label\"} a line"}, {"-o", OPT_TEXT, &out, "OUT", "what was learned, but for the model"}, {"--with", OPT_TEXT, &with, "FILE", "or use what was learned"},
                        {"--rank", OPT_INT, &rank, "N", "LoRA pairs on all linear layers"}, {"--alpha", OPT_DOUBLE, &alpha, "X", "their scale is alpha / rank (default 16)"}, {"--full", OPT_FLAG, &full, NULL, "or every weight (default: the model is frozen)"},
                        {"--epochs", OPT_DOUBLE, &epochs, "E", "passes (default 60, with --rank 8, with --full 4)"}, {"--lr", OPT_DOUBLE, &lr, "X", "learning rate (default 2e-3, with --full 2e-4)"},
                        {"-c", OPT_INT, &tokens, "N", "tokens a text at most (default 128)"}, {"--seed", OPT_LONG, &seed, "S", "order of texts, initial weights (default 0)"},
                        {"--eval", OPT_LIST, &held_out, "FILE", "print the accuracy on it"}, {"-p", OPT_LIST, &texts, "TEXT", "print its label"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    if (!with == !data.n || !out != !data.n) return cli_usage(c, "give --data and -o to learn, or --with");
    if (rank < 0 || tokens < 1 || tokens > 65536 || (full && rank) || epochs < 0 || lr < 0) return cli_usage(c, "--rank, -c, --epochs or --lr is out of range, or --rank and --full are both given");
    float *p = NULL;
    code = EXIT_FAILED;
    if (!(k.m = load_model(c, path))) goto out;
    if (ramet_variables_create(&k.v, c->rt) || ramet_model_number(&k.width, k.m, "width")) {
        cli_fail(c, NULL);
        goto out;
    }
    if (with) {
        if ((code = open_file(c, &k, with))) goto out;
    } else {
        k.set[0] = full ? -1.0f : (float)rank;
        k.set[1] = (float)alpha;
        k.set[2] = (float)tokens;
        for (int i = 0; i < data.n; i++)
            if ((code = load(c, &k, &train, data.item[i]))) goto out;
        if ((code = learn(c, &k, &train, epochs > 0 ? epochs : rank ? 8 : full ? 4 : 60, lr > 0 ? lr : full ? 2e-4 : 2e-3, (uint64_t)seed, &steps, &loss))) goto out;
        code = EXIT_FAILED;
        if (ramet_variables_save(k.v, out)) {
            cli_fail(c, out);
            goto out;
        }
    }
    code = 0;
    for (int i = 0; i < held_out.n && !code; i++) code = load(c, &k, &test, held_out.item[i]);
    const int64_t measured = test.n;
    for (int i = 0; i < texts.n && !code; i++)
        if (!add(&k, &test, texts.item[i], "")) code = cli_fail(c, NULL);
    if (code || (test.n && !(p = for_all(c, &k, &test, PREDICT, k.n)))) {
        code = EXIT_FAILED;
        goto out;
    }
    cli_progress_clear();
    for (int64_t i = 0; i < measured; i++) right += !strcmp(test.item[i].label, k.label[best(p + i * k.n, k.n)]);
    jbuf b = {0};
    j_add(&b, "{\"labels\":[");
    for (int i = 0; i < k.n; i++) j_add(&b, i ? "," : ""), j_str(&b, k.label[i], strlen(k.label[i]));
    j_add(&b, "]");
    if (out) j_add(&b, ",\"steps\":%" PRId64 ",\"loss\":%.6f", steps, loss);
    if (measured) j_add(&b, ",\"accuracy\":%.6f,\"texts\":%" PRId64, (double)right / (double)measured, measured);
    if (!c->json && out) printf("%s: %d labels, %" PRId64 " texts, %" PRId64 " steps, last loss %.4f\n", out, k.n, train.n, steps, loss);
    if (!c->json && measured) printf("accuracy %.4f of %" PRId64 "\n", (double)right / (double)measured, measured);
    if (texts.n) j_add(&b, ",\"found\":[");
    for (int64_t i = measured; i < test.n; i++) {
        const int at = best(p + i * k.n, k.n);
        j_add(&b, "%s{\"label\":", i > measured ? "," : "");
        j_str(&b, k.label[at], strlen(k.label[at]));
        j_add(&b, ",\"probability\":%.6f}", (double)p[i * k.n + at]);
        if (!c->json) printf("%s %.4f\n", k.label[at], (double)p[i * k.n + at]);
    }
    if (c->json) printf("%s%s}\n", b.data, texts.n ? "]" : "");
    j_free(&b);
out:
    free(p);
    for (int64_t i = 0; i < train.n; i++) free(train.item[i].ids), free(train.item[i].label);
    for (int64_t i = 0; i < test.n; i++) free(test.item[i].ids), free(test.item[i].label);
    free(train.item);
    free(test.item);
    free(k.label);
    ramet_variables_free(k.v);
    ramet_model_free(k.m);
    return code;
}
