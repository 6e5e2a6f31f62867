/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_tune.c - measuring a model on a text and adapting it to one. */
#include "cli.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Half of the paired 95% interval of the mean difference over blocks of `each` tokens: one window's. */
static double paired_half(const float *a, const float *b, int64_t tokens, int64_t each, double difference) {
    int64_t blocks = (tokens + each - 1) / each;
    double var = 0;
    if (blocks < 2) return INFINITY;
    for (int64_t w = 0; w < blocks; w++) {
        int64_t end = (w + 1) * each < tokens ? (w + 1) * each : tokens;
        double d = 0;
        for (int64_t t = w * each; t < end; t++) d += (double)a[t] - b[t];
        d = d / (double)(end - w * each) - difference;
        var += d * d;
    }
    return student95(blocks - 1) * sqrt(var / ((double)blocks - 1) / (double)blocks);
}

int cmd_eval(cli *c, int argc, char **argv) {
    ramet_evaluate_options o;
    ramet_evaluate_options_init(&o, sizeof o);
    list files = {0};
    const char *score = "half", *lora = NULL, *mode = "balanced", *against = NULL, *path;
    const opt opts[] = {{"--text", OPT_LIST, &files, "FILE", "the text (.jsonl: a document a line)"}, {"-c", OPT_INT, &o.window, "N", "tokens of a window (default 512)"},
                        {"--score", OPT_TEXT, &score, "half|all", "predictions scored: of the second half of each window (default), or all"}, {"--lora", OPT_TEXT, &lora, "A[:scale]", "an adapter"},
                        {"--against", OPT_TEXT, &against, "OTHER", "a model to compare with: the paired difference and its 95% interval"}, {"--max-tokens", OPT_LONG, &o.max_tokens, "N", "stop after so many scored tokens"},
                        {"--mode", OPT_TEXT, &mode, "MODE", "exact, balanced (default), fast"}, {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    if (!files.n) return cli_usage(c, "--text is needed");
    if (strcmp(score, "half") && strcmp(score, "all")) return cli_usage(c, "--score is half or all, not \"%s\"", score);
    if ((o.mode = mode_named(mode)) < 0) return cli_usage(c, "--mode is exact, balanced or fast, not \"%s\"", mode);
    o.score = strcmp(score, "half") ? RAMET_SCORE_ALL : RAMET_SCORE_HALF;
    o.progress = cli_progress;
    ramet_evaluation e = {.struct_size = sizeof e}, other = {.struct_size = sizeof other};
    float *losses[2] = {NULL, NULL};
    double difference = 0, half = 0;
    ramet_model *m = load_model(c, path), *with = NULL;
    ramet_dataset *d = m ? load_dataset(c, m, files.item, files.n) : NULL;
    code = d ? 0 : EXIT_FAILED;
    if (!code && lora && !(o.adapter = load_adapter(c, m, lora, &o.adapter_scale))) code = EXIT_FAILED;
    if (!code && against && !(with = load_model(c, against))) code = EXIT_FAILED;
    if (!code && against) {
        o.losses_capacity = ramet_dataset_tokens(d);
        for (int i = 0; i < 2; i++) if (!(losses[i] = malloc((size_t)(o.losses_capacity + 1) * sizeof(float)))) code = EXIT_FAILED;
        o.losses = losses[0];
    }
    if (!code && ramet_evaluate(&e, m, d, &o)) code = cli_fail(c, NULL);
    if (!code && against) {
        ramet_adapter_free(o.adapter);
        o.adapter = NULL;
        o.losses = losses[1];
        if (ramet_evaluate(&other, with, d, &o)) code = cli_fail(c, against);
        else {
            int64_t each = o.score == RAMET_SCORE_HALF ? o.window - 1 - o.window / 2 : (e.tokens + e.windows - 1) / e.windows;
            difference = e.loss - other.loss;
            half = paired_half(losses[0], losses[1], e.tokens, each, difference);
        }
    }
    cli_progress_clear();
    if (!code && c->json) {
        printf("{\"tokens\":%" PRId64 ",\"loss\":%.6f,\"standard_error\":%.6f,\"perplexity\":%.6g,\"windows\":%d,\"seconds\":%.6g", e.tokens, e.loss, e.standard_error, e.perplexity, e.windows, e.seconds);
        if (against && isfinite(half)) printf(",\"difference\":%.6f,\"interval\":[%.6f,%.6f]", difference, difference - half, difference + half);
        else if (against) printf(",\"difference\":%.6f,\"interval\":null", difference);
        puts("}");
    } else if (!code) {
        printf("loss %.4f +- %.4f (standard error over %d windows), perplexity %.3f, %" PRId64 " tokens scored in %.1f s\n", e.loss, e.standard_error, e.windows, e.perplexity, e.tokens, e.seconds);
        if (against) printf("against %s: %.4f, difference %+.4f [%+.4f, %+.4f]\n", against, other.loss, difference, difference - half, difference + half);
    }
    free(losses[0]);
    free(losses[1]);
    ramet_adapter_free(o.adapter);
    ramet_dataset_free(d);
    ramet_model_free(with);
    ramet_model_free(m);
    return code;
}

static int write_result(cli *c, ramet_tuner *t, int full, const char *type, const char *path) {
    ramet_adapter *a = NULL;
    ramet_model *m = NULL;
    int failed = full ? ramet_tuner_model(&m, t, type) || ramet_model_save(m, path, cli_progress, NULL) : ramet_tuner_adapter(&a, t) || ramet_adapter_save(a, path);
    ramet_adapter_free(a);
    ramet_model_free(m);
    return failed ? cli_fail(c, NULL) : 0;
}

static int schedule_named(const char *name) { /* RAMET_SCHEDULE_*, -1 */
    const char *have;
    for (int i = 0; !ramet_list(&have, NULL, "schedules", i); i++) if (!strcmp(have, name)) return i;
    return -1;
}

int cmd_tune(cli *c, int argc, char **argv) {
    ramet_tuner_options o;
    ramet_tuner_options_init(&o, sizeof o);
    list data = {0}, held_out = {0};
    double alpha = o.alpha, lr = 0, warmup = o.warmup, clip = o.clip, decay = o.weight_decay, plus = o.lora_plus, average_decay = o.average_decay, average_start = o.average_start, spike = 0, skew = 0, beta = o.preference_beta, example = 0;
    int64_t seed = 0, every = 0;
    int skip = 0;
    const char *teacher = NULL, *resume = NULL, *checkpoint = NULL, *out = NULL, *mode = "balanced", *type = NULL, *lora = NULL, *schedule = "cosine", *path;
    const opt opts[] = {{"--data", OPT_LIST, &data, "FILE", ".txt: one document; .jsonl: a document or preference a line; .u16, .u32, .npy: ids"}, {"-o", OPT_TEXT, &out, "OUT", "adapter (.gguf, or a PEFT folder); with --full a model"},
                        {"--rank", OPT_INT, &o.rank, "N", "of the adapter (default 16)"}, {"--alpha", OPT_DOUBLE, &alpha, "X", "its scale is alpha / rank (default 32)"},
                        {"--target-modules", OPT_TEXT, &o.targets, "LIST", "q_proj,v_proj,... (default: all linear layers); with --full also norms (default: all)"}, {"--full", OPT_FLAG, &o.full, NULL, "tune every weight"},
                        {"--type", OPT_TEXT, &type, "NAME", "encoding of the result of --full (default F32)"}, {"--steps", OPT_LONG, &o.steps, "N", "optimizer steps"}, {"--epochs", OPT_DOUBLE, &o.epochs, "E", "or passes over the text (default 1)"},
                        {"--batch", OPT_INT, &o.batch, "B", "windows a step (default 4)"}, {"--micro-batch", OPT_INT, &o.micro_batch, "B", "windows run at once (default 2)"}, {"-c", OPT_INT, &o.window, "W", "tokens a window (default 256)"},
                        {"--lr", OPT_DOUBLE, &lr, "X", "learning rate (default 2e-4, with --full 2e-5)"}, {"--warmup", OPT_DOUBLE, &warmup, "F", "fraction of the steps (default .03)"},
                        {"--schedule", OPT_TEXT, &schedule, "NAME", "of the learning rate: cosine (default), ...: see ramet list schedules"}, {"--optimizer", OPT_TEXT, &o.optimizer, "NAME", "adamw (default), ...: see ramet list optimizers"},
                        {"--clip", OPT_DOUBLE, &clip, "X", "global gradient norm (default 1, 0: off)"}, {"--example-clip", OPT_DOUBLE, &example, "X", "norm of each window's own gradient (default 0: off)"}, {"--weight-decay", OPT_DOUBLE, &decay, "X", "(default 0)"}, {"--seed", OPT_LONG, &seed, "S", "order of windows, initial weights (default 0)"},
                        {"--rslora", OPT_FLAG, &o.rslora, NULL, "the adapter's scale is alpha / sqrt(rank)"}, {"--dora", OPT_FLAG, &o.dora, NULL, "with a trained magnitude for each output (a PEFT folder only)"}, {"--lora-plus", OPT_DOUBLE, &plus, "X", "learning rate of B over that of A (default 1)"},
                        {"--groups", OPT_TEXT, &o.groups, "LIST", "factors of the learning rate by name: \"blk.0.*=0;*.ffn_*=.5;*=1@100\"; 0 freezes, @STEP: from then on"},
                        {"--average", OPT_TEXT, &o.average, "ema|swa", "the result is the average of the weights after each step"},
                        {"--average-decay", OPT_DOUBLE, &average_decay, "X", "of ema (default .999)"}, {"--average-start", OPT_DOUBLE, &average_start, "F", "fraction of the steps before it begins (default 0, swa .75)"},
                        {"--eval", OPT_LIST, &held_out, "FILE", "measure on it; the result is the best state measured"}, {"--eval-every", OPT_LONG, &o.evaluate_every, "N", "steps (default 0: after the last)"},
                        {"--patience", OPT_INT, &o.patience, "N", "end after N evaluations without a new best"}, {"--skip-nonfinite", OPT_FLAG, &skip, NULL, "go on after a step with NaN or infinity, without it"},
                        {"--spike-factor", OPT_DOUBLE, &spike, "X", "skip steps whose loss or gradient norm is beyond X times the median"},
                        {"--teacher", OPT_TEXT, &teacher, "PARENT", "distil: match this model's predictions"}, {"--reverse", OPT_FLAG, &o.teacher_divergence, NULL, "by KL(student || teacher)"},
                        {"--skew", OPT_DOUBLE, &skew, "A", "mix so much of the first distribution into the second (default 0)"}, {"--beta", OPT_DOUBLE, &beta, "X", "of preferences (DPO; default .1)"}, {"--lora", OPT_TEXT, &lora, "A", "start from this adapter"}, {"--mode", OPT_TEXT, &mode, "MODE", "exact, balanced (default), fast"},
                        {"--budget", OPT_BYTES, &o.byte_budget, "256M", "most bytes beyond the weights; what does not fit is computed twice, with the same bits"},
                        {"--state-file", OPT_TEXT, &o.state_path, "FILE", "keep the optimizer's state in a new file instead of memory, while tuning"},
                        {"--checkpoint", OPT_TEXT, &checkpoint, "FILE", "write the tuner's state here, at the end and on Ctrl-C"}, {"--every", OPT_LONG, &every, "N", "and every N steps"}, {"--resume", OPT_TEXT, &resume, "CKPT", "continue from it"},
                        {NULL, OPT_FLAG, NULL, NULL, NULL}};
    int done, code = cli_parse(c, argc, argv, opts, &path, 1, 1, NULL, &done);
    if (code || done) return code;
    if (!data.n || !out) return cli_usage(c, "--data and -o are needed");
    if (every && !checkpoint) return cli_usage(c, "--every needs --checkpoint");
    if (type && !o.full) return cli_usage(c, "--type needs --full; an adapter is F32");
    if ((o.mode = mode_named(mode)) < 0) return cli_usage(c, "--mode is exact, balanced or fast, not \"%s\"", mode);
    if ((o.schedule = schedule_named(schedule)) < 0) return cli_usage(c, "--schedule \"%s\" is none of: ramet list schedules", schedule);
    o.alpha = (float)alpha;
    o.learning_rate = (float)lr;
    o.warmup = (float)warmup;
    o.clip = (float)clip;
    o.example_clip = (float)example;
    o.weight_decay = (float)decay;
    o.lora_plus = (float)plus;
    o.spike_factor = (float)spike;
    o.teacher_skew = (float)skew;
    o.preference_beta = (float)beta;
    o.on_nonfinite = skip ? RAMET_NONFINITE_SKIP : RAMET_NONFINITE_STOP;
    o.average_decay = (float)average_decay;
    o.average_start = (float)average_start;
    o.seed = (uint64_t)seed;
    ramet_tuner *t = NULL;
    ramet_tuner_report r = {.struct_size = sizeof r};
    double first = 0;
    float unused;
    ramet_status st = RAMET_OK;
    ramet_model *m = load_model(c, path);
    ramet_dataset *d = m ? load_dataset(c, m, data.item, data.n) : NULL;
    code = EXIT_FAILED;
    if (!d || (held_out.n && !(o.evaluation = load_dataset(c, m, held_out.item, held_out.n))) || (teacher && !(o.teacher = load_model(c, teacher))) || (lora && !(o.initial = load_adapter(c, m, lora, &unused)))) goto out;
    if (ramet_tuner_create(&t, m, d, &o) || (resume && ramet_tuner_resume(t, resume))) {
        code = cli_fail(c, NULL);
        goto out;
    }
    st = ramet_tuner_step(&r, t, 0, 0, NULL, NULL);
    if (!st && !c->json)
        fprintf(stderr, "%.1f MiB beyond the weights, %.1f of them activations and scratch; %.1f%% of the work is done a second time\n", (double)r.bytes / 1048576, (double)r.plan_bytes / 1048576, 100 * r.recomputed);
    while (!st && !r.done) {
        st = ramet_tuner_step(&r, t, 1, 0, cli_progress, NULL);
        if (st) break;
        if (r.step == 1) first = r.loss;
        char line[128];
        snprintf(line, sizeof line, "step %" PRId64 "/%" PRId64 "  loss %.4f  %.0f tok/s", r.step, r.steps, r.loss, r.seconds > 0 ? (double)r.tokens / r.seconds : 0);
        cli_progress((double)r.step / (double)r.steps, line, NULL);
        if (every && r.step % every == 0 && ramet_tuner_save(t, checkpoint)) st = RAMET_E_IO;
    }
    if (st && st != RAMET_E_CANCELLED) {
        code = cli_fail(c, NULL);
        goto out;
    }
    if (checkpoint && ramet_tuner_save(t, checkpoint)) {
        code = cli_fail(c, NULL);
        goto out;
    }
    if (st) {
        cli_progress_clear();
        fprintf(stderr, "ramet tune: stopped%s%s\n", checkpoint ? "; continue with --resume " : "; nothing written (--checkpoint FILE keeps the state)", checkpoint ? checkpoint : "");
        goto out;
    }
    if ((code = write_result(c, t, o.full, type, out))) goto out;
    cli_progress_clear();
    double speed = r.seconds > 0 ? (double)r.tokens / r.seconds : 0;
    if (c->json) {
        jbuf b = {0};
        j_add(&b, "{\"out\":");
        j_str(&b, out, strlen(out));
        printf("%s,\"steps\":%" PRId64 ",\"tokens\":%" PRId64 ",\"loss_first\":%.6f,\"loss\":%.6f,\"seconds\":%.6g,\"tok_s\":%.6g,\"bytes\":%" PRIu64 ",\"plan_bytes\":%" PRIu64 ",\"recomputed\":%.4f", b.data, r.step, r.tokens, first, r.loss, r.seconds, speed, r.bytes, r.plan_bytes, r.recomputed);
        if (skip || spike > 0) printf(",\"skipped\":%" PRId64, r.skipped);
        if (r.evaluations) printf(",\"evaluation_loss\":%.6f,\"best_loss\":%.6f,\"best_step\":%" PRId64, r.evaluation_loss, r.best_loss, r.best_step);
        if (example > 0) printf(",\"example_norm\":%.6g,\"example_clipped\":%.6g", r.example_norm, r.example_clipped);
        if (r.accuracy > 0) printf(",\"accuracy\":%.6g", r.accuracy);
        puts("}");
        j_free(&b);
    } else {
        printf("%s: %" PRId64 " steps, %" PRId64 " tokens, last loss %.4f, %.1f s (%.0f tok/s)\n", out, r.step, r.tokens, r.loss, r.seconds, speed);
        if (r.accuracy > 0) printf("last step: %.0f%% of the better answers are ahead\n", 100 * r.accuracy);
        if (r.skipped) printf("%" PRId64 " steps skipped\n", r.skipped);
        if (r.evaluations) printf("best of %" PRId64 " evaluations: loss %.4f after %" PRId64 " steps\n", r.evaluations, r.best_loss, r.best_step);
    }
out:
    ramet_tuner_free(t);
    ramet_adapter_free(o.initial);
    ramet_model_free(o.teacher);
    ramet_dataset_free(o.evaluation);
    ramet_dataset_free(d);
    ramet_model_free(m);
    return code;
}
