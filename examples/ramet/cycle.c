/* SPDX-License-Identifier: Apache-2.0 */
/* cycle.c - the whole loop on one machine: a parent gives birth to variants, each adapts to its own domain in a process of its own,
 * sends an update, and the parent tries every method and keeps the best candidate that passes its gate.
 *
 * The method is chosen on validation text; what is reported is measured on test text, which nothing was chosen by. */
#include "cycle.h"
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_dir(const cycle *y, const char *name) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", y->dir, name);
    if (mkdir(path, 0777) && errno != EEXIST) return fprintf(stderr, "ramet cycle: %s: %s\n", path, strerror(errno)), EXIT_FAILED;
    return 0;
}

static void stage(const cycle *y, const char *what) {
    if (!y->c->json) fprintf(stderr, "[%4.0f s] %s\n", now_seconds() - y->started, what);
}

static void read_measure(measure *m, const char *json, int compared) {
    double v = 0;
    *m = (measure){.low = NAN, .high = NAN};
    j_number(&m->loss, json, "loss");
    if (j_number(&v, json, "tokens")) m->tokens = (int64_t)v;
    if (!compared) return;
    j_number(&m->difference, json, "difference");
    j_number(&m->low, json, "interval.0");
    j_number(&m->high, json, "interval.1");
}

static const char *limit(const cycle *y) { /* of scored tokens, as text; one cycle at a time in a process */
    static char text[24];
    snprintf(text, sizeof text, "%" PRId64, y->eval_tokens);
    return text;
}

static int speed(cycle *y, double *tok_s, const char *model) {
    char *out = NULL;
    const char *args[] = {"bench", model, "-p", "128", "-n", "32", "-r", "3", NULL};
    int code = cycle_run(y, &out, args);
    double v[3] = {0};
    for (int i = 0; i < 3 && !code; i++) {
        char key[32];
        snprintf(key, sizeof key, "decode.tok_s.%d", i);
        j_number(&v[i], out, key);
    }
    double low = fmin(v[0], fmin(v[1], v[2])), high = fmax(v[0], fmax(v[1], v[2]));
    *tok_s = v[0] + v[1] + v[2] - low - high; /* the median of three */
    free(out);
    return code;
}

/* ---- birth ---- */
static int birth(cycle *y) {
    char *out = NULL, keep[24];
    int code = 0;
    stage(y, "variants are born: one in 4 bits, one pruned");
    y->shapes[0].name = "4-bit";
    y->shapes[1].name = "pruned";
    snprintf(keep, sizeof keep, "%g", y->keep);
    for (int i = 0; i < N_SHAPES && !code; i++) {
        shape *s = &y->shapes[i];
        snprintf(s->path, sizeof s->path, "%s/variants/%s-%d.gguf", y->dir, s->name, y->turn);
        const char *quantize[] = {"quantize", y->head, s->path, "--type", "Q4_0", NULL};
        const char *prune[] = {"prune", y->head, s->path, "--keep", keep, "--calib", y->probe, NULL};
        char elder[600];
        snprintf(elder, sizeof elder, "%s/variants/%s-%d.gguf", y->dir, s->name, y->turn - 1);
        const char *rebase[] = {"rebase", elder, y->head, s->path, "--calib", y->probe, NULL};
        code = cycle_run(y, &out, y->turn > 1 ? rebase : i ? prune : quantize);
        if (!code && !(j_number(&s->bytes, out, "bytes") && j_number(&s->parameters, out, "parameters"))) code = EXIT_FAILED;
        free(out);
        if (!code) code = speed(y, &s->tok_s, s->path);
    }
    return code;
}

/* ---- life ---- */
static void eval_job(cycle *y, job *j, const char *model, const char *file, const char *lora, const char *against) {
    int n = 0;
    const char *args[] = {"eval", model, "--text", file, "--max-tokens", limit(y)};
    for (; n < (int)(sizeof args / sizeof args[0]); n++) j->args[n] = args[n];
    if (lora) { j->args[n++] = "--lora"; j->args[n++] = lora; }
    if (against) { j->args[n++] = "--against"; j->args[n++] = against; }
    j->args[n] = NULL;
}

static int adapt(cycle *y) {
    job *jobs = calloc(MAX_DOMAINS * N_SHAPES, sizeof *jobs);
    char number[6][24], (*more)[4][40] = calloc(MAX_DOMAINS * N_SHAPES, sizeof *more);
    int code = 0;
    if (!jobs || !more) exit(EXIT_FAILED);
    y->n_children = 0;
    for (int d = 0; d < y->n_domains; d++)
        for (int s = 0; s < N_SHAPES; s++) {
            child *k = &y->children[y->n_children++];
            *k = (child){.shape = s, .domain = d};
            snprintf(k->lora, sizeof k->lora, "%s/variants/%s-%s-%d.lora.gguf", y->dir, y->shapes[s].name, y->texts[d].name, y->turn);
            snprintf(k->update, sizeof k->update, "%s/updates/%s-%s-%d.safetensors", y->dir, y->shapes[s].name, y->texts[d].name, y->turn);
        }
    stage(y, "each adapts to its own domain, in a process of its own");
    snprintf(number[0], sizeof number[0], "%d", y->steps);
    snprintf(number[1], sizeof number[1], "%d", y->batch);
    snprintf(number[2], sizeof number[2], "%d", y->window);
    snprintf(number[3], sizeof number[3], "%d", y->rank);
    snprintf(number[4], sizeof number[4], "%d", y->seed + y->turn - 1);
    snprintf(number[5], sizeof number[5], "%g", y->lr);
    for (int i = 0; i < y->n_children; i++) {
        const child *k = &y->children[i];
        const char *args[] = {"tune", y->shapes[k->shape].path, "--data", y->texts[k->domain].train, "--steps", number[0], "--batch", number[1], "-c", number[2], "--rank", number[3],
                              "--seed", number[4], "--lr", number[5], "-o", k->lora, NULL};
        memcpy(jobs[i].args, args, sizeof args);
    }
    code = cycle_run_all(y, jobs, y->n_children);
    for (int i = 0; i < y->n_children; i++) {
        if (!code) j_number(&y->children[i].tokens, jobs[i].out, "tokens");
        if (!code) j_number(&y->children[i].seconds, jobs[i].out, "seconds");
        free(jobs[i].out);
    }
    if (code) goto out;
    stage(y, "each measures itself and writes an update");
    memset(jobs, 0, MAX_DOMAINS * N_SHAPES * sizeof *jobs);
    for (int i = 0; i < y->n_children; i++) {
        const child *k = &y->children[i];
        eval_job(y, &jobs[i], y->shapes[k->shape].path, y->texts[k->domain].test, k->lora, y->shapes[k->shape].path);
    }
    code = cycle_run_all(y, jobs, y->n_children);
    for (int i = 0; i < y->n_children; i++) {
        child *k = &y->children[i];
        if (!code) {
            read_measure(&k->after, jobs[i].out, 1);
            k->before = (measure){.loss = k->after.loss - k->after.difference, .tokens = k->after.tokens};
        }
        free(jobs[i].out);
    }
    if (code) goto out;
    memset(jobs, 0, MAX_DOMAINS * N_SHAPES * sizeof *jobs);
    for (int i = 0; i < y->n_children; i++) {
        child *k = &y->children[i];
        snprintf(more[i][0], sizeof more[i][0], "%.0f", k->tokens);
        snprintf(more[i][1], sizeof more[i][1], "%.6f", k->before.loss);
        snprintf(more[i][2], sizeof more[i][2], "%.6f", k->after.loss);
        const char *args[] = {"update", y->shapes[k->shape].path, "--brief", y->brief, "--lora", k->lora, "--task", y->texts[k->domain].name, "--examples", more[i][0], "--loss-before", more[i][1],
                              "--loss-after", more[i][2], "--what", k->shape ? "delta,logits" : "delta", "-o", k->update, NULL};
        memcpy(jobs[i].args, args, sizeof args);
    }
    code = cycle_run_all(y, jobs, y->n_children);
    for (int i = 0; i < y->n_children; i++) {
        if (!code) j_number(&y->children[i].update_bytes, jobs[i].out, "bytes");
        free(jobs[i].out);
    }
out:
    free(jobs);
    free(more);
    return code;
}

/* ---- the way back ---- */
/* Which updates a method gets: those of variants of the parent's own shape, or of the pruned ones. */
static const struct { const char *method; int shape; } plans[] = {{"average", 0}, {"task_arithmetic", 0}, {"ties", 0}, {"lift", 1}, {"distill", 1}};

static int make_candidate(cycle *y, verdict *v) {
    const char *args[40];
    char *out = NULL;
    int n = 0, code;
    args[n++] = "feed";
    args[n++] = y->store;
    for (int i = 0; i < y->n_children; i++) if (y->children[i].shape == v->shape) args[n++] = y->children[i].update;
    const char *tail[] = {"--method", v->method, "-o", v->path, NULL};
    memcpy(args + n, tail, sizeof tail);
    v->ran = !(code = cycle_run(y, &out, args));
    if (code) snprintf(v->why, sizeof v->why, "not made");
    else {
        j_number(&v->bytes, out, "bytes");
        j_number(&v->rounding, out, "rounding_norm");
    }
    free(out);
    return code;
}

static int pass_gate(cycle *y, verdict *v) {
    const char *args[40];
    char *out = NULL, named[MAX_TEXTS][600];
    int n = 0, code;
    const char *gate[] = {"gate", y->store, v->path, "--max-tokens", limit(y), "--eval"};
    for (; n < (int)(sizeof gate / sizeof gate[0]); n++) args[n] = gate[n];
    for (int i = 0; i < y->n_texts; i++) {
        snprintf(named[i], sizeof named[i], "%s=%s", y->texts[i].name, y->texts[i].valid);
        if (i == y->n_domains) args[n++] = "--guard";
        args[n++] = named[i];
    }
    args[n] = NULL;
    code = cycle_run(y, &out, args);
    v->passed = !code;
    v->worst = -1e9;
    j_number(&v->gain, out, "mean_gain");
    for (int i = 0; i < y->n_texts; i++) {
        static const char *const parts[] = {"candidate", "difference", "interval.0", "interval.1"};
        double value[4] = {0, 0, NAN, NAN}, relative;
        for (int k = 0; k < 4; k++) {
            char key[48];
            snprintf(key, sizeof key, "tasks.%d.%s", i, parts[k]);
            j_number(&value[k], out, key);
        }
        v->text[i] = (measure){value[0], value[1], value[2], value[3], 0};
        relative = value[1] / fmax(value[0] - value[1], 1e-9);
        if (relative > v->worst) {
            v->worst = relative;
            if (relative > .01) snprintf(v->why, sizeof v->why, "%s %+.1f%%", y->texts[i].name, 100 * relative);
        }
    }
    if (!v->passed && !*v->why) snprintf(v->why, sizeof v->why, "no gain on average");
    free(out);
    return code > 1 ? code : 0;
}

static int absorb(cycle *y) {
    char line[160];
    int code = 0, tried = 0;
    y->n_verdicts = 0;
    y->chosen = -1;
    for (size_t i = 0; i < sizeof plans / sizeof plans[0] && !cli_interrupted(); i++) {
        verdict *v = &y->verdicts[y->n_verdicts++];
        *v = (verdict){.method = plans[i].method, .shape = plans[i].shape};
        if (y->turn == 1) snprintf(v->path, sizeof v->path, "%s/candidate-%s.gguf", y->dir, v->method);
        else snprintf(v->path, sizeof v->path, "%s/candidate-%s-%d.gguf", y->dir, v->method, y->turn); /* a turn's parent stays as it is */
        snprintf(line, sizeof line, "the parent absorbs the %s variants' updates: %s", y->shapes[v->shape].name, v->method);
        stage(y, line);
        if (!(code = make_candidate(y, v))) code = pass_gate(y, v);
        tried += !code;
        if (v->passed && (y->chosen < 0 || v->gain > y->verdicts[y->chosen].gain)) y->chosen = y->n_verdicts - 1;
    }
    return tried ? 0 : code ? code : EXIT_FAILED;
}

/* Measure on test text, then commit what validation chose. Its gate is passed again, since the last gate decides what waits. */
static int conclude(cycle *y) {
    job *jobs = calloc(MAX_TEXTS, sizeof *jobs);
    int code = 0;
    if (!jobs) exit(EXIT_FAILED);
    verdict *v = y->chosen >= 0 ? &y->verdicts[y->chosen] : NULL;
    stage(y, v ? "parent and new parent on test text" : "no candidate passed; the parent on test text");
    for (int i = 0; i < y->n_texts; i++) eval_job(y, &jobs[i], v ? v->path : y->head, y->texts[i].test, NULL, v ? y->head : NULL);
    code = cycle_run_all(y, jobs, y->n_texts);
    for (int i = 0; i < y->n_texts; i++) {
        if (!code) {
            read_measure(&y->new_test[i], jobs[i].out, v != NULL);
            y->old_test[i] = (measure){.loss = y->new_test[i].loss - y->new_test[i].difference, .tokens = y->new_test[i].tokens};
        }
        free(jobs[i].out);
    }
    free(jobs);
    for (int i = 0; i < 2 && !code && *y->prompt; i++) {
        char *out = NULL;
        const char *args[] = {"run", i && v ? v->path : y->head, "-p", y->prompt, "-n", "48", NULL};
        code = cycle_run(y, &out, args);
        if (!code) j_text(y->reply[i], sizeof y->reply[i], out, "text");
        free(out);
    }
    if (!code && v) {
        code = speed(y, &y->new_tok_s, v->path);
        y->new_bytes = v->bytes;
        verdict again = *v;
        if (!code) code = pass_gate(y, &again);
        const char *commit[] = {"commit", y->store, NULL};
        if (!code) code = cycle_run(y, NULL, commit);
        snprintf(y->head, sizeof y->head, "%s", v->path);
    }
    return code;
}

/* The held-out prompt, by a fixed rule: the first 24 words of the first test document of the first domain. */
static void choose_prompt(cycle *y) {
    size_t size;
    char *data = read_file(y->texts[0].test, &size), *eol = data ? strchr(data, '\n') : NULL, first[4096] = "";
    int words = 0;
    if (eol) *eol = 0;
    if (data && !j_text(first, sizeof first, data, "text")) snprintf(first, sizeof first, "%.4000s", data);
    size_t n = 0;
    for (; first[n] && n + 1 < sizeof y->prompt; n++)
        if (first[n] == ' ' && ++words == 24) break;
    snprintf(y->prompt, sizeof y->prompt, "%.*s", (int)n, first);
    free(data);
}

static int one_turn(cycle *y) {
    char windows[2][24], *out = NULL;
    const char *brief[16 + 2 * MAX_DOMAINS];
    int code, n = 0;
    struct stat st;
    snprintf(y->brief, sizeof y->brief, "%s/brief-%d.safetensors", y->dir, y->turn);
    snprintf(windows[0], sizeof windows[0], "%d", y->probe_windows);
    snprintf(windows[1], sizeof windows[1], "%d", y->topic_windows);
    const char *const head[] = {"brief", y->store, "-o", y->brief, "--probe", y->probe, "--windows", windows[0], "-c", "128", "--topic-windows", windows[1]};
    for (; n < (int)(sizeof head / sizeof head[0]); n++) brief[n] = head[n];
    for (int d = 0; d < y->n_domains; d++) {
        brief[n++] = "--topic";
        brief[n++] = y->texts[d].name;
        for (int i = 0; i < y->topics.n; i++) {
            size_t k = strlen(y->texts[d].name);
            if (!strncmp(y->topics.item[i], y->texts[d].name, k) && y->topics.item[i][k] == '=') brief[n - 1] = y->topics.item[i];
        }
    }
    brief[n] = NULL;
    stage(y, "the parent writes a brief");
    if ((code = cycle_run(y, NULL, brief))) return code;
    y->brief_bytes = stat(y->brief, &st) ? 0 : (double)st.st_size;
    if ((code = speed(y, &y->parent_tok_s, y->head))) return code;
    const char *info[] = {"info", y->head, NULL};
    if ((code = cycle_run(y, &out, info))) return code;
    j_number(&y->parent_bytes, out, "bytes");
    free(out);
    if ((code = birth(y)) || (code = adapt(y)) || (code = absorb(y)) || (code = conclude(y))) return code;
    cycle_json(y);
    if (!y->c->json) cycle_print(y);
    return 0;
}

int cmd_cycle(cli *c, int argc, char **argv) {
    cycle *y = calloc(1, sizeof *y);
    list domains = {0};
    const char *general = NULL, *chat = NULL;
    if (!y) exit(EXIT_FAILED);
    y->c = c;
    y->steps = 24;
    y->batch = 4;
    y->window = 256;
    y->rank = 16;
    y->lr = 5e-4;
    y->keep = .85;
    y->turns = 1;
    y->probe_windows = 48;
    y->topic_windows = 64;
    y->eval_tokens = 4080;
    y->started = now_seconds();
    const opt opts[] = {{"--domain", OPT_LIST, &domains, "NAME=FILE", "a variant's own text (FILE is split by document), or NAME=TRAIN,VALID,TEST"}, {"-o", OPT_TEXT, &y->dir, "DIR", "a new folder for everything that is made"},
                        {"--general", OPT_TEXT, &general, "FILE", "text that nothing is trained on: it may not get worse (or VALID,TEST)"}, {"--chat", OPT_TEXT, &chat, "FILE", "the same, in chat format (.jsonl with messages)"},
                        {"--probe", OPT_TEXT, &y->probe, "FILE", "the parent's own text, for calibration and soft labels (default: the general validation text)"}, {"--steps", OPT_INT, &y->steps, "N", "of tuning, each variant (default 24)"},
                        {"--batch", OPT_INT, &y->batch, "B", "windows a step (default 4)"}, {"-c", OPT_INT, &y->window, "W", "tokens a window (default 256)"}, {"--rank", OPT_INT, &y->rank, "N", "of the adapters (default 16)"},
                        {"--lr", OPT_DOUBLE, &y->lr, "X", "learning rate (default 5e-4)"}, {"--keep", OPT_DOUBLE, &y->keep, "FRACTION", "of the pruned variant's layers (default .85)"},
                        {"--eval-tokens", OPT_LONG, &y->eval_tokens, "N", "scored of each text (default 4080)"}, {"--probe-windows", OPT_INT, &y->probe_windows, "N", "of 128 tokens in the brief (default 48)"},
                        {"--topic", OPT_LIST, &y->topics, "NAME=ABOUT", "what a domain is about, in words (default: its name); the parent writes probe text about it"},
                        {"--topic-windows", OPT_INT, &y->topic_windows, "N", "that the parent writes about each (default 64)"},
                        {"--turns", OPT_INT, &y->turns, "N", "of the loop (default 1)"}, {"--seed", OPT_INT, &y->seed, "S", "(default 0)"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, &y->parent, 1, 1, NULL, &done);
    if (code || done) goto out;
    if (!y->dir) { code = cli_usage(c, "-o is needed"); goto out; }
    if (y->turns < 1 || y->steps < 1 || y->eval_tokens < 1 || y->topic_windows < 1) { code = cli_usage(c, "--turns, --steps, --eval-tokens and --topic-windows must be positive"); goto out; }
    if (strlen(y->dir) > 400) { code = cli_usage(c, "-o is too long a path"); goto out; }
    if ((code = cli_start(c))) goto out;
    ssize_t n = readlink("/proc/self/exe", y->self, sizeof y->self - 1);
    if (n <= 0) { fprintf(stderr, "ramet cycle: this system does not say where the program is\n"); code = EXIT_FAILED; goto out; }
    if (mkdir(y->dir, 0777) && errno != EEXIST) { fprintf(stderr, "ramet cycle: %s: %s\n", y->dir, strerror(errno)); code = EXIT_FAILED; goto out; }
    if ((code = make_dir(y, "data")) || (code = make_dir(y, "variants")) || (code = make_dir(y, "updates")) || (code = cycle_texts(y, &domains, general, chat))) goto out;
    for (int i = 0; i < y->topics.n; i++) {
        int d = 0;
        const size_t k = strcspn(y->topics.item[i], "=");
        while (d < y->n_domains && (strlen(y->texts[d].name) != k || strncmp(y->topics.item[i], y->texts[d].name, k))) d++;
        if (d == y->n_domains || !y->topics.item[i][k]) { code = cli_usage(c, "--topic is NAME=ABOUT with a domain's name, not \"%s\"", y->topics.item[i]); goto out; }
    }
    if (!y->probe) y->probe = y->has_general ? y->texts[y->n_domains].valid : NULL;
    if (!y->probe) { code = cli_usage(c, "--probe FILE or --general FILE is needed: the parent's own text"); goto out; }
    snprintf(y->store, sizeof y->store, "%s/store", y->dir);
    snprintf(y->head, sizeof y->head, "%s", y->parent);
    choose_prompt(y);
    const char *init[] = {"init", y->store, y->parent, NULL};
    if ((code = cycle_run(y, NULL, init))) goto out;
    for (y->turn = 1; y->turn <= y->turns && !code; y->turn++) code = one_turn(y);
    if (!code) code = cycle_write(y);
out:
    j_free(&y->turns_json);
    free(y);
    return code;
}
