/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_store.c - the way back: a store, briefs down, updates up, candidates, the gate, commit and undo. */
#include "cli.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static ramet_store *open_store(cli *c, const char *folder) {
    ramet_store *s = NULL;
    if (!c->rt && cli_start(c)) return NULL;
    if (ramet_store_open(&s, c->rt, folder)) cli_fail(c, NULL);
    return s;
}

static void print_version(const cli *c, const char *what, int64_t version) {
    if (c->json) printf("{\"version\":%" PRId64 "}\n", version);
    else printf("%s version %" PRId64 "\n", what, version);
}

int cmd_init(cli *c, int argc, char **argv) {
    const opt opts[] = {{NULL, OPT_FLAG, NULL, NULL, NULL}};
    const char *path[2];
    int done, code = cli_parse(c, argc, argv, opts, path, 2, 2, NULL, &done);
    if (code || done) return code;
    ramet_store *s = NULL;
    ramet_model *m = load_model(c, path[1]);
    code = !m ? EXIT_FAILED : ramet_store_init(&s, c->rt, path[0], m) ? cli_fail(c, NULL) : 0;
    if (!code) print_version(c, "HEAD is", 1);
    ramet_store_free(s);
    ramet_model_free(m);
    return code;
}

int cmd_brief(cli *c, int argc, char **argv) {
    ramet_brief_options o;
    ramet_brief_options_init(&o, sizeof o);
    list probe = {0}, topics = {0};
    int64_t seed = 0;
    const char *out = NULL, *path;
    const opt opts[] = {{"-o", OPT_TEXT, &out, "BRIEF", "the brief"}, {"--method", OPT_TEXT, &o.method, "NAME", "that the round is for (default: any)"},
                        {"--probe", OPT_LIST, &probe, "FILE", "text on which soft labels are wanted (for distill)"}, {"--windows", OPT_INT, &o.probe_windows, "N", "of it (default 64)"},
                        {"-c", OPT_INT, &o.probe_window, "W", "tokens a window (default 256)"},
                        {"--topic", OPT_LIST, &topics, "NAME[=ABOUT]", "the parent itself writes text about it, for variants with this --task"},
                        {"--topic-windows", OPT_INT, &o.topic_windows, "N", "of each topic (default 64)"}, {"--seed", OPT_LONG, &seed, "S", "choice of windows, and what the parent writes"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    if (!out) return cli_usage(c, "-o is needed");
    o.probe_paths = probe.item;
    o.probe_count = probe.n;
    o.topics = topics.item;
    o.topic_count = topics.n;
    o.progress = cli_progress;
    o.seed = (uint64_t)seed;
    ramet_store *s = open_store(c, path);
    int64_t version = 0;
    code = !s ? EXIT_FAILED : ramet_brief_create(s, out, &o) || ramet_store_head(&version, NULL, s) ? cli_fail(c, NULL) : 0;
    if (!code) print_version(c, "brief of", version);
    ramet_store_free(s);
    return code;
}

int cmd_update(cli *c, int argc, char **argv) {
    ramet_update_options o;
    ramet_update_options_init(&o, sizeof o);
    const char *brief = NULL, *lora = NULL, *what = "delta", *out = NULL, *path;
    float scale = 1;
    const opt opts[] = {{"--brief", OPT_TEXT, &brief, "BRIEF", "of the parent"}, {"--lora", OPT_TEXT, &lora, "A", "what the variant learned"}, {"-o", OPT_TEXT, &out, "UPDATE", "the update"},
                        {"--what", OPT_TEXT, &what, "LIST", "delta (default), logits, or delta,logits"}, {"--task", OPT_TEXT, &o.task, "NAME", "a name for the parent's ledger"},
                        {"--examples", OPT_LONG, &o.examples, "N", "tokens it was tuned on"}, {"--loss-before", OPT_DOUBLE, &o.loss_before, "X", "on the variant's own held-out text"},
                        {"--loss-after", OPT_DOUBLE, &o.loss_after, "X", "the same, after tuning"}, {"--top", OPT_INT, &o.top, "K", "classes a soft label (default 64)"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    if (!brief || !lora || !out) return cli_usage(c, "--brief, --lora and -o are needed");
    if (o.examples < 1) return cli_usage(c, "--examples N is needed: how many tokens the variant was tuned on");
    o.what = !strcmp(what, "delta") ? RAMET_UPDATE_DELTA : !strcmp(what, "logits") ? RAMET_UPDATE_LOGITS : !strcmp(what, "delta,logits") || !strcmp(what, "logits,delta") ? RAMET_UPDATE_DELTA | RAMET_UPDATE_LOGITS : 0;
    if (!o.what) return cli_usage(c, "--what is delta, logits or delta,logits, not \"%s\"", what);
    o.progress = cli_progress;
    char *json = NULL;
    ramet_model *m = load_model(c, path);
    code = !m || !(o.adapter = load_adapter(c, m, lora, &scale)) ? EXIT_FAILED : 0;
    if (!code && scale != 1) code = cli_usage(c, "an update carries the adapter as it is, without a scale");
    if (!code) code = ramet_update_create(out, m, brief, &o) || ramet_describe_path(&json, c->rt, out) ? cli_fail(c, NULL) : 0;
    cli_progress_clear();
    if (!code && c->json) puts(json);
    else if (!code) {
        double bytes = 0, delta = 0, soft = 0;
        j_number(&bytes, json, "bytes");
        j_number(&delta, json, "leaves_the_device.weight_differences");
        j_number(&soft, json, "leaves_the_device.soft_labels");
        printf("%s: %.2f MB leave the device: weight differences %.2f, soft labels %.2f, raw text 0\n", out, bytes / 1e6, delta / 1e6, soft / 1e6);
    }
    ramet_string_free(json);
    ramet_adapter_free(o.adapter);
    ramet_model_free(m);
    return code;
}

/* A recipe is a JSON file: {"method":"ties","options":"density=.5","weights":"1,2","encoding":"auto"} */
static int read_recipe(cli *c, const char *path, char fields[4][256]) {
    static const char *const names[] = {"method", "options", "weights", "encoding"};
    size_t size;
    char *text = read_file(path, &size);
    int any = 0;
    if (!text) return EXIT_FAILED;
    for (int i = 0; i < 4; i++) any |= j_text(fields[i], 256, text, names[i]);
    free(text);
    if (any) return 0;
    fprintf(stderr, "ramet feed: %s: no recipe: one JSON object with texts method, options, weights, encoding\n", path);
    (void)c;
    return EXIT_FAILED;
}

int cmd_feed(cli *c, int argc, char **argv) {
    ramet_feed_options o;
    ramet_feed_options_init(&o, sizeof o);
    const char *method = NULL, *weights = NULL, *recipe = NULL, *out = NULL, *path[65];
    char fields[4][256] = {{0}};
    float w[64];
    const opt opts[] = {{"--method", OPT_TEXT, &method, "NAME", "ramet list methods"}, {"-o", OPT_TEXT, &out, "CANDIDATE", "the candidate"}, {"--weights", OPT_TEXT, &weights, "w,..", "one for each update"},
                        {"--opt", OPT_TEXT, &o.options, "name=x,..", "the method's own options"}, {"--encoding", OPT_TEXT, &o.encoding, "NAME", "of changed weights (default auto)"},
                        {"--recipe", OPT_TEXT, &recipe, "FILE.json", "these settings from a file"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int n, done, code = cli_parse(c, argc, argv, opts, path, 2, 65, &n, &done);
    if (code || done) return code;
    if (recipe) {
        if ((code = read_recipe(c, recipe, fields))) return code;
        if (!method && *fields[0]) method = fields[0];
        if (!o.options && *fields[1]) o.options = fields[1];
        if (!weights && *fields[2]) weights = fields[2];
        if (!o.encoding && *fields[3]) o.encoding = fields[3];
    }
    if (!method || !out) return cli_usage(c, "--method and -o are needed");
    if (weights) {
        const char *p = weights;
        for (o.weights_count = 0; *p && o.weights_count < 64; o.weights_count++) {
            char *end;
            w[o.weights_count] = strtof(p, &end);
            if (end == p || (*end && *end != ',')) return cli_usage(c, "--weights is a list of numbers, not \"%s\"", weights);
            p = *end ? end + 1 : end;
        }
        o.weights = w;
    }
    o.progress = cli_progress;
    ramet_candidate *cand = NULL;
    char *json = NULL;
    ramet_store *s = open_store(c, path[0]);
    code = !s ? EXIT_FAILED : ramet_feed(&cand, s, method, path + 1, n - 1, &o) || ramet_candidate_save(cand, out) || ramet_candidate_describe(&json, cand) ? cli_fail(c, NULL) : 0;
    cli_progress_clear();
    if (!code && c->json) puts(json);
    else if (!code) {
        double bytes = 0, before = 0, change = 0, rounding = 0, changed = 0;
        j_number(&bytes, json, "bytes");
        j_number(&before, json, "parent_bytes");
        j_number(&change, json, "change_norm");
        j_number(&rounding, json, "rounding_norm");
        j_number(&changed, json, "changed_weights");
        printf("%s: %s changed %.0f weights by %.3g (rounding %.3g); %.1f MB, parent %.1f MB\n", out, method, changed, change, rounding, bytes / 1e6, before / 1e6);
    }
    ramet_string_free(json);
    ramet_candidate_free(cand);
    ramet_store_free(s);
    return code;
}

int cmd_gate(cli *c, int argc, char **argv) {
    ramet_gate_options o;
    ramet_gate_options_init(&o, sizeof o);
    list eval = {0}, guard = {0};
    const char *path[2];
    const opt opts[] = {{"--eval", OPT_LIST, &eval, "[NAME=]FILE", "held-out texts that should get better"}, {"--guard", OPT_LIST, &guard, "[NAME=]FILE", "texts that only may not get worse"},
                        {"--max-worse", OPT_DOUBLE, &o.max_worse, "1%", "allowed loss of any one (default 1%)"}, {"-c", OPT_INT, &o.window, "W", "tokens a window (default 512)"},
                        {"--max-tokens", OPT_LONG, &o.max_tokens, "N", "scored, each"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, path, 2, 2, NULL, &done);
    if (code || done) return code;
    if (!eval.n) return cli_usage(c, "--eval is needed");
    o.progress = cli_progress;
    o.guards = guard.n;
    ramet_task *task[128] = {NULL};
    ramet_candidate *cand = NULL;
    char *json = NULL;
    int32_t passed = 0;
    ramet_store *s = open_store(c, path[0]);
    code = !s ? EXIT_FAILED : ramet_candidate_load(&cand, s, path[1]) ? cli_fail(c, NULL) : 0;
    for (int i = 0; i < eval.n + guard.n && !code; i++) {
        const char *spec = i < eval.n ? eval.item[i] : guard.item[i - eval.n], *eq = strchr(spec, '='), *file = eq ? eq + 1 : spec;
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(eq ? eq - spec : (long)strlen(spec)), spec);
        if (ramet_task_from_files(&task[i], c->rt, name, &file, 1)) code = cli_fail(c, NULL);
    }
    if (!code && ramet_gate(&passed, &json, s, cand, task, eval.n + guard.n, &o)) code = cli_fail(c, NULL);
    cli_progress_clear();
    if (!code && c->json) puts(json);
    else if (!code) {
        for (int i = 0; i < eval.n + guard.n; i++) {
            char key[64], name[64] = "";
            double v[5] = {0};
            static const char *const parts[] = {"parent", "candidate", "difference", "interval.0", "interval.1"};
            snprintf(key, sizeof key, "tasks.%d.task", i);
            j_text(name, sizeof name, json, key);
            for (int k = 0; k < 5; k++) {
                snprintf(key, sizeof key, "tasks.%d.%s", i, parts[k]);
                if (!j_number(&v[k], json, key)) v[k] = NAN;
            }
            printf("%-24s parent %.4f  candidate %.4f  %+.4f [%+.4f, %+.4f]%s\n", name, v[0], v[1], v[2], v[3], v[4], i >= eval.n ? "  guard" : "");
        }
        puts(passed ? "passed: ramet commit makes it the new parent" : "failed: the parent stays as it is");
    }
    if (!code && !passed) code = EXIT_FAILED;
    for (int i = 0; i < eval.n + guard.n; i++) ramet_task_free(task[i]);
    ramet_string_free(json);
    ramet_candidate_free(cand);
    ramet_store_free(s);
    return code;
}

int cmd_commit(cli *c, int argc, char **argv) {
    const opt opts[] = {{NULL, OPT_FLAG, NULL, NULL, NULL}};
    const char *path;
    int64_t version = 0;
    ramet_candidate *cand = NULL;
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    ramet_store *s = open_store(c, path);
    code = !s ? EXIT_FAILED : ramet_candidate_load(&cand, s, NULL) || ramet_commit(&version, s, cand) ? cli_fail(c, NULL) : 0;
    if (!code) print_version(c, "HEAD is", version);
    ramet_candidate_free(cand);
    ramet_store_free(s);
    return code;
}

int cmd_undo(cli *c, int argc, char **argv) {
    const opt opts[] = {{NULL, OPT_FLAG, NULL, NULL, NULL}};
    const char *path;
    int64_t version = 0;
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    ramet_store *s = open_store(c, path);
    code = !s ? EXIT_FAILED : ramet_store_undo(&version, s) ? cli_fail(c, NULL) : 0;
    if (!code) print_version(c, "HEAD is", version);
    ramet_store_free(s);
    return code;
}

int cmd_log(cli *c, int argc, char **argv) {
    const opt opts[] = {{NULL, OPT_FLAG, NULL, NULL, NULL}};
    const char *path;
    char *json = NULL;
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    ramet_store *s = open_store(c, path);
    code = !s ? EXIT_FAILED : ramet_store_log(&json, s) ? cli_fail(c, NULL) : 0;
    if (!code && c->json) printf("{\"ledger\":%s}\n", json);
    else if (!code) {
        char when[32], event[32], key[64], method[64], why[512];
        for (int i = 0;; i++) {
            double v;
            snprintf(key, sizeof key, "%d.event", i);
            if (!j_text(event, sizeof event, json, key)) break;
            snprintf(key, sizeof key, "%d.time", i);
            j_text(when, sizeof when, json, key);
            printf("%s  %-8s", when, event);
            snprintf(key, sizeof key, "%d.version", i);
            if (j_number(&v, json, key)) printf(" version %.0f", v);
            snprintf(key, sizeof key, "%d.to", i);
            if (j_number(&v, json, key)) printf(" to version %.0f", v);
            snprintf(key, sizeof key, "%d.method", i);
            if (j_text(method, sizeof method, json, key)) printf(" %s", method);
            snprintf(key, sizeof key, "%d.mean_gain", i);
            if (j_number(&v, json, key)) printf(" mean gain %.4f", v);
            snprintf(key, sizeof key, "%d.why", i);
            if (j_text(why, sizeof why, json, key)) printf(": %s", why);
            putchar('\n');
        }
    }
    ramet_string_free(json);
    ramet_store_free(s);
    return code;
}
