/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_model.c - looking at files, and the commands that turn one model into another. */
#include "cli.h"
#include <ramet/experimental.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Print flat JSON members as "key  value" lines for people; nested values as they are. */
static void print_json_table(const char *json) {
    int depth = 0, quoted = 0;
    for (const char *p = json; *p; p++) {
        if (quoted) {
            if (*p == '\\' && p[1]) { putchar(*p++); putchar(*p); continue; }
            if (*p == '"') quoted = 0;
            else putchar(*p);
            continue;
        }
        if (*p == '"') quoted = 1;
        else if (*p == '{' || *p == '[') {
            if (depth++) printf("\n%*s", 2 * (depth - 1), "");
        } else if (*p == '}' || *p == ']') depth--;
        else if (*p == ',') printf("\n%*s", 2 * (depth - 1), "");
        else if (*p == ':') printf("  ");
        else putchar(*p);
    }
    putchar('\n');
}

int cmd_info(cli *c, int argc, char **argv) {
    const opt opts[] = {{NULL, OPT_FLAG, NULL, NULL, NULL}};
    const char *path;
    char *json;
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    if ((code = cli_start(c))) return code;
    if (ramet_describe_path(&json, c->rt, path)) return cli_fail(c, NULL);
    if (c->json) puts(json);
    else print_json_table(json);
    ramet_string_free(json);
    return 0;
}

int cmd_list(cli *c, int argc, char **argv) {
    const opt opts[] = {{NULL, OPT_FLAG, NULL, NULL, NULL}};
    const char *kind, *name, *detail;
    int done, code = cli_parse(c, argc, argv, opts, &kind, 1, 1, NULL, &done);
    if (code || done) return code;
    ramet_status st = ramet_list(&name, &detail, kind, 0);
    if (st == RAMET_E_ARGUMENT) return cli_usage(c, "%s", ramet_last_error());
    jbuf b = {0};
    j_add(&b, "{\"%s\":[", kind);
    for (int32_t i = 0; !ramet_list(&name, &detail, kind, i); i++) {
        if (!c->json) printf("%-36s %s\n", name, detail);
        j_add(&b, "%s{\"name\":", i ? "," : "");
        j_str(&b, name, strlen(name));
        j_add(&b, ",\"detail\":");
        j_str(&b, detail, strlen(detail));
        j_add(&b, "}");
    }
    if (c->json) printf("%s]}\n", b.data);
    j_free(&b);
    return 0;
}

int cmd_tokenize(cli *c, int argc, char **argv) {
    const char *text = NULL, *file = NULL, *path;
    int special = 0;
    const opt opts[] = {{"-p", OPT_TEXT, &text, "TEXT", "the text"}, {"-f", OPT_TEXT, &file, "FILE", "or a file, - for standard input"},
                        {"--special", OPT_FLAG, &special, NULL, "spelled-out control tokens count"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    char *data = NULL;
    size_t size = 0;
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    if (!text == !file) return cli_usage(c, "give either -p or -f");
    if (file && !(data = read_file(file, &size))) return EXIT_FAILED;
    if (text) size = strlen(text);
    ramet_model *m = load_model(c, path);
    int64_t n = 0;
    int32_t *ids = NULL;
    code = EXIT_FAILED;
    if (!m) goto out;
    int32_t flags = special ? RAMET_TOKENIZE_SPECIAL : 0;
    const char *bytes = text ? text : data;
    if (ramet_tokenize(&n, NULL, 0, m, bytes, size, flags) || !(ids = malloc((size_t)(n + 1) * sizeof *ids)) || ramet_tokenize(&n, ids, n, m, bytes, size, flags)) {
        cli_fail(c, NULL);
        goto out;
    }
    printf(c->json ? "{\"ids\":[" : "");
    for (int64_t i = 0; i < n; i++) printf(c->json ? "%s%d" : "%s%d", i ? c->json ? "," : " " : "", ids[i]);
    puts(c->json ? "]}" : "");
    code = 0;
out:
    free(ids);
    free(data);
    ramet_model_free(m);
    return code;
}

/* ---- one model in, one out ---- */
static int save(cli *c, ramet_model *in, ramet_model *out, const char *path) {
    int64_t bytes[2] = {0, 0}, params[2] = {0, 0};
    if (ramet_model_save(out, path, cli_progress, NULL)) return cli_fail(c, NULL);
    ramet_model *both[2] = {in, out};
    for (int i = 0; i < 2; i++)
        if (ramet_model_number(&bytes[i], both[i], "bytes") || ramet_model_number(&params[i], both[i], "parameters")) return cli_fail(c, NULL);
    cli_progress_clear();
    if (c->json) {
        jbuf b = {0};
        j_add(&b, "{\"out\":");
        j_str(&b, path, strlen(path));
        printf("%s,\"bytes\":%" PRId64 ",\"parameters\":%" PRId64 ",\"bytes_before\":%" PRId64 ",\"parameters_before\":%" PRId64 "}\n", b.data, bytes[1], params[1], bytes[0], params[0]);
        j_free(&b);
    } else
        printf("%s: %.1f MB, %.1fM parameters (from %.1f MB, %.1fM)\n", path, (double)bytes[1] / 1e6, (double)params[1] / 1e6, (double)bytes[0] / 1e6, (double)params[0] / 1e6);
    return 0;
}

int cmd_quantize(cli *c, int argc, char **argv) {
    const char *type = NULL, *algorithm = "nearest", *head = NULL, *calib = NULL, *path[2];
    const opt opts[] = {{"--type", OPT_TEXT, &type, "NAME", "encoding of the linear weights (ramet list encodings)"}, {"--head", OPT_TEXT, &head, "NAME", "of embedding and output head (default Q8_0)"},
                        {"--algorithm", OPT_TEXT, &algorithm, "NAME", "nearest (the default)"}, {"--calib", OPT_TEXT, &calib, "FILE", "text for algorithms that look at activations"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, path, 2, 2, NULL, &done);
    if (code || done) return code;
    if (!type) return cli_usage(c, "--type is needed");
    if (calib && !strcmp(algorithm, "nearest")) return cli_usage(c, "algorithm nearest takes no --calib");
    ramet_quantize_options o;
    ramet_quantize_options_init(&o, sizeof o);
    o.encoding = type;
    o.head = head;
    o.algorithm = algorithm;
    o.progress = cli_progress;
    ramet_model *in = load_model(c, path[0]), *out = NULL;
    code = !in ? EXIT_FAILED : ramet_quantize(&out, in, &o) ? cli_fail(c, NULL) : save(c, in, out, path[1]);
    ramet_model_free(out);
    ramet_model_free(in);
    return code;
}

enum { CALIBRATION = 16384 }; /* tokens that prune and rebase read */

/* The first `tokens` tokens of a calibration text; NULL after a message. */
static int32_t *calibration(cli *c, int64_t *count, ramet_model *m, const char *path, int64_t tokens) {
    ramet_dataset *d = load_dataset(c, m, &path, 1);
    int32_t *ids = NULL;
    if (!d) return NULL;
    int64_t n = ramet_dataset_tokens(d);
    if (!(ids = malloc((size_t)(n ? n : 1) * sizeof *ids)) || ramet_dataset_read(ids, d, 0, n)) {
        cli_fail(c, NULL);
        free(ids);
        ids = NULL;
    }
    ramet_dataset_free(d);
    *count = n < tokens ? n : tokens;
    return ids;
}

int cmd_prune(cli *c, int argc, char **argv) {
    ramet_prune_options o;
    ramet_prune_options_init(&o, sizeof o);
    const char *calib = NULL, *path[2];
    int64_t tokens = CALIBRATION;
    const opt opts[] = {{"--layers", OPT_INT, &o.layers, "N", "layers to remove"}, {"--ffn", OPT_LONG, &o.ffn, "N", "FFN channels to remove in each layer (multiple of 32)"},
                        {"--keep", OPT_DOUBLE, &o.keep, "FRACTION", "or the fraction of the layers' parameters to keep (default .7)"},
                        {"--calib", OPT_TEXT, &calib, "FILE", "calibration text"}, {"--tokens", OPT_LONG, &tokens, "N", "of it that are used (default 16384)"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, path, 2, 2, NULL, &done);
    if (code || done) return code;
    if (!calib) return cli_usage(c, "--calib is needed");
    if (tokens < 1) return cli_usage(c, "--tokens must be positive");
    ramet_model *in = load_model(c, path[0]), *out = NULL;
    int32_t *ids = in ? calibration(c, &o.count, in, calib, tokens) : NULL;
    o.ids = ids;
    o.progress = cli_progress;
    code = !ids ? EXIT_FAILED : ramet_prune(&out, in, &o) ? cli_fail(c, NULL) : save(c, in, out, path[1]);
    free(ids);
    ramet_model_free(out);
    ramet_model_free(in);
    return code;
}

int cmd_rebase(cli *c, int argc, char **argv) {
    ramet_rebase_options o;
    ramet_rebase_options_init(&o, sizeof o);
    const char *calib = NULL, *path[3];
    int64_t tokens = CALIBRATION;
    const opt opts[] = {{"--calib", OPT_TEXT, &calib, "FILE", "calibration text, for a variant without some FFN channels"},
                        {"--tokens", OPT_LONG, &tokens, "N", "of it that are used (default 16384)"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, path, 3, 3, NULL, &done);
    if (code || done) return code;
    if (tokens < 1) return cli_usage(c, "--tokens must be positive");
    ramet_model *variant = load_model(c, path[0]), *parent = variant ? load_model(c, path[1]) : NULL, *out = NULL;
    int32_t *ids = parent && calib ? calibration(c, &o.count, parent, calib, tokens) : NULL;
    o.ids = ids;
    o.progress = cli_progress;
    code = !parent || (calib && !ids) ? EXIT_FAILED : ramet_rebase(&out, variant, parent, &o) ? cli_fail(c, NULL) : save(c, variant, out, path[2]);
    free(ids);
    ramet_model_free(out);
    ramet_model_free(parent);
    ramet_model_free(variant);
    return code;
}

int cmd_merge(cli *c, int argc, char **argv) {
    list lora = {0};
    const char *out_path = NULL, *type = NULL, *path;
    const opt opts[] = {{"--lora", OPT_LIST, &lora, "A[:scale]", "an adapter (more than one: their sum)"}, {"-o", OPT_TEXT, &out_path, "OUT", "the merged model"},
                        {"--type", OPT_TEXT, &type, "NAME", "encoding of the changed weights (default: each its own)"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    if (!lora.n || !out_path) return cli_usage(c, "--lora and -o are needed");
    ramet_model *m = load_model(c, path), *out = NULL;
    ramet_adapter *a[64] = {NULL};
    float scale[64];
    code = m ? 0 : EXIT_FAILED;
    for (int i = 0; i < lora.n && !code; i++)
        if (!(a[i] = load_adapter(c, m, lora.item[i], &scale[i]))) code = EXIT_FAILED;
    if (!code) code = ramet_model_merge(&out, m, (const ramet_adapter *const *)a, scale, lora.n, type, cli_progress, NULL) ? cli_fail(c, NULL) : save(c, m, out, out_path);
    for (int i = 0; i < lora.n; i++) ramet_adapter_free(a[i]);
    ramet_model_free(out);
    ramet_model_free(m);
    return code;
}

/* The ids of one text go behind those before it; 1 on success. */
static int add_ids(const ramet_model *m, int32_t **ids, int64_t *total, const char *text, size_t size) {
    int64_t n = 0;
    int32_t *more;
    if (ramet_tokenize(&n, NULL, 0, m, text, size, RAMET_TOKENIZE_BOS) || !(more = realloc(*ids, (size_t)(*total + n + 1) * sizeof **ids))) return 0;
    *ids = more;
    if (ramet_tokenize(&n, *ids + *total, n, m, text, size, RAMET_TOKENIZE_BOS)) return 0;
    *total += n;
    return 1;
}

int cmd_embed(cli *c, int argc, char **argv) {
    const char *text = NULL, *file = NULL, *mode = "balanced", *lora = NULL, *path;
    const opt opts[] = {{"-p", OPT_TEXT, &text, "TEXT", "the text"}, {"-f", OPT_TEXT, &file, "FILE", "or a file with a text a line, - for standard input"},
                        {"--lora", OPT_TEXT, &lora, "A[:scale]", "an adapter"}, {"--mode", OPT_TEXT, &mode, "MODE", "exact, balanced (default), fast"},
                        {NULL, OPT_FLAG, NULL, NULL, NULL}};
    char *data = NULL;
    size_t size = 0;
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    if (!text == !file) return cli_usage(c, "give either -p or -f");
    if (mode_named(mode) < 0) return cli_usage(c, "--mode is exact, balanced or fast, not \"%s\"", mode);
    if (file && !(data = read_file(file, &size))) return EXIT_FAILED;
    if (text) size = strlen(text);
    ramet_embedder_options o;
    ramet_embedder_options_init(&o, sizeof o);
    o.mode = mode_named(mode);
    ramet_embedder *e = NULL;
    ramet_adapter *adapter = NULL;
    float scale = 1;
    double dora = 0;
    int32_t index;
    ramet_model *m = load_model(c, path);
    int64_t width = 0, total = 0, count = 0, *offsets = calloc(size + 2, sizeof *offsets);
    int32_t *ids = NULL;
    float *out = NULL;
    code = EXIT_FAILED;
    if (!m) goto out;
    if (lora && (!(adapter = load_adapter(c, m, lora, &scale)) || ramet_adapter_number(&dora, adapter, "dora"))) goto out;
    o.dora = dora > 0;
    if (ramet_embedder_create(&e, m, &o) || (lora && (ramet_embedder_attach(&index, e, adapter, scale) || ramet_embedder_use(e, index)))) goto failed;
    if (!offsets || ramet_model_number(&width, m, "width")) goto failed;
    const char *at = text ? text : data, *end = at + size;
    do { /* -p is one text, of -f every line */
        const char *stop = text ? NULL : memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        if (!add_ids(m, &ids, &total, at, (size_t)(stop - at))) goto failed;
        offsets[++count] = total;
        at = stop + 1;
    } while (at < end);
    if (!(out = malloc((size_t)(count * width) * sizeof *out)) || ramet_embed(out, e, ids, offsets, count, cli_progress, NULL)) goto failed;
    cli_progress_clear();
    if (c->json) printf("{\"width\":%lld,\"tokens\":%lld,\"embeddings\":[", (long long)width, (long long)total);
    for (int64_t i = 0; i < count; i++) {
        if (c->json) printf(i ? ",[" : "[");
        for (int64_t k = 0; k < width; k++) printf("%s%.9g", k ? c->json ? "," : " " : "", (double)out[i * width + k]);
        printf(c->json ? "]" : "\n");
    }
    if (c->json) puts("]}");
    code = 0;
    goto out;
failed:
    cli_fail(c, NULL);
out:
    free(out);
    free(ids);
    free(offsets);
    free(data);
    ramet_embedder_free(e);
    ramet_adapter_free(adapter);
    ramet_model_free(m);
    return code;
}
