/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_run.c - generating text, and how fast that goes. */
#include "cli.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct reply { cli *c; jbuf text, ids; int n; } reply;

static int32_t on_token(int32_t sequence, int32_t id, const char *text, size_t length, void *user) {
    reply *r = user;
    (void)sequence;
    j_add(&r->ids, "%s%d", r->n++ ? "," : "", id);
    if (r->c->json) j_add(&r->text, "%.*s", (int)length, text);
    else {
        fwrite(text, 1, length, stdout);
        fflush(stdout);
    }
    return cli_interrupted();
}

/* Let the session begin with what a file holds, if it is there, as far as that is how the prompt begins; at least one token is left to run. */
static int take_cached(int64_t *kept, ramet_session *s, const char *path, const int32_t *ids, int64_t count) {
    FILE *f = fopen(path, "rb");
    if (!f) return RAMET_OK;
    fclose(f);
    ramet_source source;
    ramet_source_from_path(&source, sizeof source, path);
    ramet_status st = ramet_session_load(s, 0, &source);
    if (st) return st;
    int64_t n = ramet_session_length(s, 0), same = 0;
    int32_t *had = malloc((size_t)n * sizeof *had);
    if (!had) return RAMET_E_MEMORY;
    if (!(st = ramet_session_tokens(had, n, s, 0)))
        while (same < n && same < count - 1 && had[same] == ids[same]) same++;
    free(had);
    *kept = same;
    return st ? st : ramet_session_truncate(s, 0, same);
}

int cmd_run(cli *c, int argc, char **argv) {
    const char *text = NULL, *file = NULL, *lora = NULL, *system = NULL, *mode = "balanced", *cache = NULL, *small = NULL, *path;
    int64_t n = 128, seed = 0, words = 0;
    int chat = 0, int8 = 0;
    double temp = 0, top_p = 1, min_p = 0;
    ramet_sampling s;
    ramet_sampling_init(&s, sizeof s);
    const opt opts[] = {{"-p", OPT_TEXT, &text, "TEXT", "the prompt"}, {"-f", OPT_TEXT, &file, "FILE", "or a file, - for standard input"}, {"-n", OPT_LONG, &n, "N", "most tokens to generate (default 128)"},
                        {"--chat", OPT_FLAG, &chat, NULL, "the prompt is a user's message: apply the chat template"}, {"--system", OPT_TEXT, &system, "TEXT", "system message, with --chat"},
                        {"--temp", OPT_DOUBLE, &temp, "T", "temperature (default 0: greedy)"}, {"--top-k", OPT_INT, &s.top_k, "K", "keep the K likeliest (default 0: off)"},
                        {"--top-p", OPT_DOUBLE, &top_p, "P", "keep the likeliest that sum to P (default 1: off)"}, {"--min-p", OPT_DOUBLE, &min_p, "M", "keep those of at least M times the likeliest (default 0: off)"},
                        {"--seed", OPT_LONG, &seed, "S", "of the draws (default 0)"},
                        {"--draft", OPT_INT, &s.draft, "N", "guess N tokens a run from what followed the same words before (default 0: off; 4 with --draft-model)"},
                        {"--draft-model", OPT_TEXT, &small, "SMALL", "a smaller model with the same vocabulary that guesses where the text does not repeat itself"},
                        {"--draft-vocabulary", OPT_LONG, &words, "N", "it guesses the first N ids alone, which is faster (default 0: all)"},
                        {"--lora", OPT_TEXT, &lora, "A[:scale]", "an adapter"},
                        {"--prompt-cache", OPT_TEXT, &cache, "FILE", "go on from what FILE holds of the prompt, and keep the whole text there"}, {"--mode", OPT_TEXT, &mode, "MODE", "exact, balanced (default), fast"},
                        {"--int8-cache", OPT_FLAG, &int8, NULL, "keys and values in int8: half the memory"},
                        {NULL, OPT_FLAG, NULL, NULL, NULL}};
    char *data = NULL;
    size_t size = 0;
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    if (!text == !file) return cli_usage(c, "give either -p or -f");
    if (system && !chat) return cli_usage(c, "--system needs --chat");
    if (n < 1) return cli_usage(c, "-n must be positive");
    if (words && !small) return cli_usage(c, "--draft-vocabulary needs --draft-model");
    if (small && !s.draft) s.draft = 4;
    if (s.draft < 0 || s.draft > 255) return cli_usage(c, "--draft is 0 to 255");
    if (mode_named(mode) < 0) return cli_usage(c, "--mode is exact, balanced or fast, not \"%s\"", mode);
    if (file && !(data = read_file(file, &size))) return EXIT_FAILED;
    if (text) size = strlen(text);
    s.temperature = (float)temp;
    s.top_p = (float)top_p;
    s.min_p = (float)min_p;
    s.seed = (uint64_t)seed;

    ramet_session_options so;
    ramet_session_options_init(&so, sizeof so);
    so.mode = mode_named(mode);
    so.cache = int8 ? RAMET_CACHE_INT8 : RAMET_CACHE_DEFAULT;
    if (so.max_outputs <= s.draft) so.max_outputs = s.draft + 1;
    ramet_session *session = NULL;
    ramet_adapter *adapter = NULL;
    int32_t *ids = NULL;
    int64_t count = 0, made = 0, kept = 0;
    reply r = {.c = c};
    ramet_model *m = load_model(c, path);
    code = EXIT_FAILED;
    if (!m || (small && !(so.draft_model = load_model(c, small)))) goto out;
    so.draft_vocabulary = words;
    const char *bytes = text ? text : data, *roles[] = {"system", "user"}, *contents[] = {system, bytes};
    for (int fill = 0; fill < 2; fill++) { /* first the count, then the ids */
        int from = system ? 0 : 1;
        if (chat ? ramet_chat_tokenize(&count, ids, fill ? count : 0, m, 2 - from, roles + from, contents + from, 1)
                 : ramet_tokenize(&count, ids, fill ? count : 0, m, bytes, size, RAMET_TOKENIZE_BOS)) goto failed;
        if (!fill && !(ids = malloc((size_t)(count + 1) * sizeof *ids))) goto out;
    }
    int64_t context;
    if (ramet_model_number(&context, m, "context")) goto failed;
    so.max_context = count + n < context ? count + n : context;
    if (cache) so.max_context = context;
    if (so.max_context < 16) so.max_context = 16;
    float scale = 1;
    double dora = 0;
    int32_t index;
    if (lora && (!(adapter = load_adapter(c, m, lora, &scale)) || ramet_adapter_number(&dora, adapter, "dora"))) goto out;
    so.dora = dora > 0;
    if (ramet_session_create(&session, m, &so)) goto failed;
    if (lora && (ramet_session_attach(&index, session, adapter, scale) || ramet_session_use(session, 0, index))) goto failed;
    if (cache && take_cached(&kept, session, cache, ids, count)) goto failed;
    double start = now_seconds();
    ramet_status st = ramet_session_generate(&made, session, 0, ids + kept, count - kept, n, &s, on_token, cli_progress, &r);
    double seconds = now_seconds() - start;
    if (st && st != RAMET_E_CANCELLED) goto failed;
    if (cache && ramet_session_length(session, 0) && ramet_session_save(session, 0, cache)) goto failed;
    if (c->json) {
        jbuf quoted = {0};
        j_str(&quoted, r.text.data ? r.text.data : "", r.text.len);
        printf("{\"text\":%s,\"ids\":[%s],\"prompt_tokens\":%" PRId64 ",\"cached_tokens\":%" PRId64 ",\"tokens\":%" PRId64 ",\"seconds\":%.6g,\"cancelled\":%s}\n", quoted.data, r.ids.data ? r.ids.data : "", count, kept, made, seconds,
               st ? "true" : "false");
        j_free(&quoted);
    } else putchar('\n');
    code = st ? EXIT_FAILED : 0;
    goto out;
failed:
    code = cli_fail(c, NULL);
out:
    j_free(&r.text);
    j_free(&r.ids);
    ramet_session_free(session);
    ramet_adapter_free(adapter);
    ramet_model_free(so.draft_model);
    ramet_model_free(m);
    free(ids);
    free(data);
    return code;
}

/* ---- bench ---- */
static void report(jbuf *b, const char *name, const double *speed, int n) {
    j_add(b, "\"%s\":{\"tok_s\":[", name);
    for (int i = 0; i < n; i++) j_add(b, "%s%.5g", i ? "," : "", speed[i]);
    j_add(b, "]}");
}

static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b; }

int cmd_bench(cli *c, int argc, char **argv) {
    const char *mode = "balanced", *path;
    int p = 512, n = 128, reps = 5, depth = 0, int8 = 0;
    const opt opts[] = {{"-p", OPT_INT, &p, "N", "tokens of prefill (default 512)"}, {"-n", OPT_INT, &n, "N", "tokens of decode (default 128)"}, {"-r", OPT_INT, &reps, "N", "repetitions (default 5)"},
                        {"-d", OPT_INT, &depth, "N", "context before decode (default 0)"}, {"--mode", OPT_TEXT, &mode, "MODE", "exact, balanced (default), fast"}, {"--int8-cache", OPT_FLAG, &int8, NULL, "keys and values in int8"},
                        {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    if (p < 1 || n < 1 || reps < 1 || reps > 100 || depth < 0) return cli_usage(c, "-p, -n and -r (at most 100) must be positive");
    if (mode_named(mode) < 0) return cli_usage(c, "--mode is exact, balanced or fast, not \"%s\"", mode);
    ramet_session_options so;
    ramet_session_options_init(&so, sizeof so);
    so.mode = mode_named(mode);
    so.cache = int8 ? RAMET_CACHE_INT8 : RAMET_CACHE_DEFAULT;
    so.max_context = (p > n + depth ? p : n + depth) + 1;
    so.max_rows = p < 512 ? p : 512;
    so.max_sequences = 1;
    so.max_outputs = 1;
    ramet_session *s = NULL;
    int64_t vocab = 0, outputs;
    int32_t *ids = NULL;
    const float *logits;
    double prefill[100], decode[100];
    ramet_model *m = load_model(c, path);
    code = EXIT_FAILED;
    if (!m) goto out;
    size_t room = (size_t)(p > depth ? p : depth) + 1;
    if (ramet_model_number(&vocab, m, "vocabulary") || !(ids = malloc(room * sizeof *ids)) || ramet_session_create(&s, m, &so)) goto failed;
    for (size_t i = 0; i < room; i++) ids[i] = (int32_t)((i * 7919 + 11) % (size_t)vocab);
    for (int r = -1; r < reps; r++) { /* one warm-up */
        if (ramet_session_truncate(s, 0, 0)) goto failed;
        double t = now_seconds();
        if (ramet_session_run(&logits, &outputs, s, ids, NULL, NULL, p, cli_progress, NULL)) goto failed;
        if (r >= 0) prefill[r] = p / (now_seconds() - t);
        if (ramet_session_truncate(s, 0, 0)) goto failed;
        if (depth && ramet_session_run(&logits, &outputs, s, ids, NULL, NULL, depth, cli_progress, NULL)) goto failed;
        t = now_seconds();
        for (int i = 0; i < n; i++)
            if (ramet_session_run(&logits, &outputs, s, ids + i % (int)room, NULL, NULL, 1, cli_progress, NULL)) goto failed;
        if (r >= 0) decode[r] = n / (now_seconds() - t);
    }
    cli_progress_clear();
    if (c->json) {
        jbuf b = {0};
        j_add(&b, "{");
        report(&b, "prefill", prefill, reps);
        j_add(&b, ",");
        report(&b, "decode", decode, reps);
        printf("%s,\"threads\":%d,\"isa\":\"%s\",\"mode\":\"%s\"}\n", b.data, ramet_runtime_threads(c->rt), ramet_runtime_isa(c->rt), mode);
        j_free(&b);
    } else {
        double *both[2] = {prefill, decode};
        for (int i = 0; i < 2; i++) {
            qsort(both[i], (size_t)reps, sizeof(double), by_value);
            printf("%s %4d  %8.1f tok/s  (%.1f .. %.1f)\n", i ? "decode " : "prefill", i ? n : p, both[i][reps / 2], both[i][0], both[i][reps - 1]);
        }
        printf("%d threads, %s, %s\n", ramet_runtime_threads(c->rt), ramet_runtime_isa(c->rt), mode);
    }
    code = 0;
    goto out;
failed:
    code = cli_fail(c, NULL);
out:
    ramet_session_free(s);
    free(ids);
    ramet_model_free(m);
    return code;
}
