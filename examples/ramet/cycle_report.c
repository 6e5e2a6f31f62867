/* SPDX-License-Identifier: Apache-2.0 */
/* cycle_report.c - what a cycle found: on the screen, as loop.json, and as a picture. */
#include "cycle.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const child *child_of(const cycle *y, int of_shape, int domain) {
    for (int i = 0; i < y->n_children; i++)
        if (y->children[i].shape == of_shape && y->children[i].domain == domain) return &y->children[i];
    return &y->children[0];
}

static void interval(const measure *m) {
    if (isnan(m->low)) printf("%7.4f%26s", m->loss, "");
    else printf("%7.4f  %+.4f [%+.4f,%+.4f]", m->loss, m->difference, m->low, m->high);
}

void cycle_print(const cycle *y) {
    const verdict *v = y->chosen >= 0 ? &y->verdicts[y->chosen] : NULL;
    double up = 0;
    printf("\nTurn %d. Losses are nats a token on test text; brackets: the paired 95%% interval of the change.\n\n", y->turn);
    printf("parent            %7.1f MB  %6.1f tok/s\n", y->parent_bytes / 1e6, y->parent_tok_s);
    for (int s = 0; s < N_SHAPES; s++) {
        printf("%s %-14s %7.1f MB  %6.1f tok/s\n", s + 1 == N_SHAPES ? "`-" : "|-", y->shapes[s].name, y->shapes[s].bytes / 1e6, y->shapes[s].tok_s);
        for (int d = 0; d < y->n_domains; d++) {
            const child *k = child_of(y, s, d);
            printf("%s  %s in %-11s born %7.4f  adapted ", s + 1 == N_SHAPES ? " " : "|", d + 1 == y->n_domains ? "`-" : "|-", y->texts[d].name, k->before.loss);
            interval(&k->after);
            printf("  update %.2f MB\n", k->update_bytes / 1e6);
        }
    }
    printf("\n%-12s %8s %16s %16s   %s\n", "", "parent", "4-bit: born>now", "pruned: born>now", v ? "new parent" : "no new parent");
    for (int i = 0; i < y->n_texts; i++) {
        printf("%-12s %8.4f ", y->texts[i].name, y->old_test[i].loss);
        for (int s = 0; s < N_SHAPES; s++) {
            if (i < y->n_domains) printf("  %6.4f>%6.4f ", child_of(y, s, i)->before.loss, child_of(y, s, i)->after.loss);
            else printf("%16s ", "");
        }
        printf("  ");
        if (v) interval(&y->new_test[i]);
        printf("%s\n", i >= y->n_domains ? "  (never trained on)" : "");
    }
    printf("\nMethods at the gate (validation text; allowed: no text more than 1%% worse)\n");
    for (int i = 0; i < y->n_verdicts; i++) {
        const verdict *m = &y->verdicts[i];
        printf("  %-16s from the %-7s variants  ", m->method, y->shapes[m->shape].name);
        if (m->ran) printf("mean gain %+.4f  worst text %+.2f%%  %.1f MB  %s%s%s%s\n", m->gain, 100 * m->worst, m->bytes / 1e6, m->passed ? "passed" : "failed: ", m->passed ? "" : m->why,
                           i == y->chosen ? "  <- chosen" : "", "");
        else printf("%s\n", m->why);
    }
    for (int i = 0; i < y->n_children; i++) up += y->children[i].update_bytes;
    printf("\nsent down: %.2f MB brief and the variants; sent up: %.2f MB in %d updates; raw text sent: 0 bytes\n", y->brief_bytes / 1e6, up / 1e6, y->n_children);
    if (v) printf("new parent: %.1f MB (parent %.1f), %.1f tok/s (parent %.1f), committed as the store's HEAD; ramet undo %s takes it back\n", y->new_bytes / 1e6, y->parent_bytes / 1e6, y->new_tok_s, y->parent_tok_s, y->store);
    printf("\nThe first 24 words of the first %s test document, continued greedily:\n  %s\n  parent:     %s\n", y->texts[0].name, y->prompt, y->reply[0]);
    if (v) printf("  new parent: %s\n", y->reply[1]);
    printf("\nall files: %s (loop.json, loop.svg, commands.log)   time: %.0f s\n", y->dir, now_seconds() - y->started);
    printf("for your own texts: %s cycle %s --domain NAME=FILE.txt --domain OTHER=FILE.jsonl --general FILE.txt -o NEWDIR\n", y->self, y->parent);
}

/* ---- JSON ---- */
static void j_num(jbuf *b, const char *key, double v) {
    if (isfinite(v)) j_add(b, "\"%s\":%.6g", key, v);
    else j_add(b, "\"%s\":null", key);
}

static void j_measure(jbuf *b, const char *key, const measure *m) {
    j_add(b, "\"%s\":{", key);
    j_num(b, "loss", m->loss);
    j_add(b, ",");
    j_num(b, "difference", m->difference);
    j_add(b, ",");
    j_num(b, "low", m->low);
    j_add(b, ",");
    j_num(b, "high", m->high);
    j_add(b, "}");
}

static void j_quoted(jbuf *b, const char *key, const char *text) {
    j_add(b, "\"%s\":", key);
    j_str(b, text, strlen(text));
}

void cycle_json(cycle *y) {
    jbuf *b = &y->turns_json;
    const verdict *v = y->chosen >= 0 ? &y->verdicts[y->chosen] : NULL;
    double up = 0;
    j_add(b, "%s{\"turn\":%d,\"parent\":{\"bytes\":%.0f,\"tok_s\":%.4g},\"variants\":[", y->turn > 1 ? "," : "", y->turn, y->parent_bytes, y->parent_tok_s);
    for (int i = 0; i < y->n_children; i++) {
        const child *k = &y->children[i];
        const shape *s = &y->shapes[k->shape];
        j_add(b, "%s{\"shape\":\"%s\",\"domain\":\"%s\",\"bytes\":%.0f,\"parameters\":%.0f,\"tok_s\":%.4g,\"tuned_tokens\":%.0f,\"tuned_seconds\":%.4g,\"update_bytes\":%.0f,", i ? "," : "", s->name, y->texts[k->domain].name,
              s->bytes, s->parameters, s->tok_s, k->tokens, k->seconds, k->update_bytes);
        j_measure(b, "born", &k->before);
        j_add(b, ",");
        j_measure(b, "adapted", &k->after);
        j_add(b, "}");
        up += k->update_bytes;
    }
    j_add(b, "],\"methods\":[");
    for (int i = 0; i < y->n_verdicts; i++) {
        const verdict *m = &y->verdicts[i];
        j_add(b, "%s{\"method\":\"%s\",\"shape\":\"%s\",\"made\":%s,\"passed\":%s,\"chosen\":%s,", i ? "," : "", m->method, y->shapes[m->shape].name, m->ran ? "true" : "false", m->passed ? "true" : "false", i == y->chosen ? "true" : "false");
        j_quoted(b, "why", m->why);
        j_add(b, ",\"bytes\":%.0f,\"mean_gain\":%.6g,\"worst_relative\":%.6g,\"validation\":{", m->bytes, m->gain, m->worst);
        for (int t = 0; t < y->n_texts && m->ran; t++) {
            if (t) j_add(b, ",");
            j_measure(b, y->texts[t].name, &m->text[t]);
        }
        j_add(b, "}}");
    }
    j_add(b, "],\"test\":{");
    for (int t = 0; t < y->n_texts; t++) {
        j_add(b, "%s\"%s\":{\"trained\":%s,\"parent\":%.6g,", t ? "," : "", y->texts[t].name, t < y->n_domains ? "true" : "false", y->old_test[t].loss);
        j_measure(b, "new_parent", &y->new_test[t]);
        j_add(b, "}");
    }
    j_add(b, "},\"chosen\":%s%s%s,\"new_parent\":{\"bytes\":%.0f,\"tok_s\":%.4g},\"sent_down\":%.0f,\"sent_up\":%.0f,\"raw_text_sent\":0,", v ? "\"" : "", v ? v->method : "null", v ? "\"" : "", y->new_bytes, y->new_tok_s, y->brief_bytes, up);
    j_quoted(b, "prompt", y->prompt);
    j_add(b, ",");
    j_quoted(b, "parent_reply", y->reply[0]);
    j_add(b, ",");
    j_quoted(b, "new_parent_reply", v ? y->reply[1] : "");
    j_add(b, ",\"seconds\":%.4g}", now_seconds() - y->started);
}

/* ---- the picture: for each text parent, variants before and after, new parent, as bars of loss ---- */
static void bar(FILE *f, double x, double width, double loss, double top, double scale, const char *colour, const char *label) {
    double h = loss > 0 ? loss * scale : 0;
    fprintf(f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"><title>%s %.4f</title></rect>\n", x, top - h, width, h, colour, label, loss);
    if (loss > 0) fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"10\" text-anchor=\"middle\" fill=\"#333\">%.2f</text>\n", x + width / 2, top - h - 3, loss);
}

static int write_svg(const cycle *y) {
    static const char *const colours[] = {"#7a7a7a", "#b9d3ee", "#4a86c5", "#f3cf9b", "#d98a1f", "#2e8b57"};
    static const char *const labels[] = {"parent", "4-bit variant, born", "4-bit variant, adapted", "pruned variant, born", "pruned variant, adapted", "new parent"};
    char path[600];
    double max = 1, base = 250, group = 190;
    snprintf(path, sizeof path, "%s/loop.svg", y->dir);
    FILE *f = fopen(path, "w");
    if (!f) return fprintf(stderr, "ramet cycle: cannot write %s\n", path), EXIT_FAILED;
    for (int i = 0; i < y->n_children; i++) max = fmax(max, y->children[i].before.loss);
    for (int i = 0; i < y->n_texts; i++) max = fmax(max, fmax(y->old_test[i].loss, y->new_test[i].loss));
    double scale = 190 / max, width = fmax(40 + group * y->n_texts, 640);
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"330\" font-family=\"sans-serif\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", width);
    fprintf(f, "<text x=\"20\" y=\"24\" font-size=\"15\">Test loss (nats a token): a parent, its variants, and what they gave back</text>\n");
    for (int t = 0; t < y->n_texts; t++) {
        double x = 30 + group * t;
        int domain = t < y->n_domains;
        bar(f, x, 24, y->old_test[t].loss, base, scale, colours[0], labels[0]);
        for (int s = 0; s < N_SHAPES && domain; s++) {
            bar(f, x + 28 + 56 * s, 24, child_of(y, s, t)->before.loss, base, scale, colours[1 + 2 * s], labels[1 + 2 * s]);
            bar(f, x + 54 + 56 * s, 24, child_of(y, s, t)->after.loss, base, scale, colours[2 + 2 * s], labels[2 + 2 * s]);
        }
        if (y->chosen >= 0) bar(f, x + (domain ? 140 : 28), 24, y->new_test[t].loss, base, scale, colours[5], labels[5]);
        fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"13\">%s%s</text>\n", x, base + 18, y->texts[t].name, domain ? "" : " (not trained on)");
    }
    for (int i = 0; i < 6; i++)
        fprintf(f, "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"%d\" font-size=\"11\">%s</text>\n", 20 + 205 * (i % 3), 282 + 20 * (i / 3), colours[i], 37 + 205 * (i % 3), 292 + 20 * (i / 3), labels[i]);
    fprintf(f, "</svg>\n");
    return fclose(f) ? EXIT_FAILED : 0;
}

int cycle_write(const cycle *y) {
    char path[600];
    snprintf(path, sizeof path, "%s/loop.json", y->dir);
    FILE *f = fopen(path, "w");
    if (!f) return fprintf(stderr, "ramet cycle: cannot write %s\n", path), EXIT_FAILED;
    fprintf(f, "{\"seed\":%d,\"steps\":%d,\"turns\":[%s]}\n", y->seed, y->steps, y->turns_json.data);
    if (fclose(f)) return EXIT_FAILED;
    if (y->c->json) printf("{\"seed\":%d,\"steps\":%d,\"turns\":[%s]}\n", y->seed, y->steps, y->turns_json.data);
    return write_svg(y);
}
