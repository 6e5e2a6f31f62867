/* SPDX-License-Identifier: Apache-2.0 */
/* The way back on the tiny model: briefs, updates, every method, the gate, commit, undo, a second turn, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "feedback/feedback.h"

static ramet_runtime *rt;
static ramet_model *tiny;
static char folder[256];

static void ok(ramet_status st) {
    if (st) fail_msg("%s: %s", ramet_status_name(st), ramet_last_error());
}

static char *at(const char *name) { /* a path in the test's folder; four may be in use at once */
    static char paths[4][512];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

static void write_text(const char *path, const char *word) { /* a text that a model learns at once */
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int d = 0; d < 24; d++) {
        fprintf(f, "{\"text\":\"");
        for (int i = 0; i < 60; i++) fprintf(f, "%s %c ", word, 'a' + (i * 7 + d) % 5);
        fprintf(f, "\"}\n");
    }
    fclose(f);
}

static int setup(void **state) {
    (void)state;
    ramet_runtime_options o;
    ramet_runtime_options_init(&o, sizeof o);
    o.threads = 2;
    const char *path = getenv("RAMET_TINY_MODEL"), *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/ramet-loop-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder) || !path || ramet_runtime_create(&rt, &o) || ramet_model_load_path(&tiny, rt, path)) return -1;
    write_text(at("one.jsonl"), "rivers run");
    write_text(at("two.jsonl"), "stones keep");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char command[400];
    ramet_model_free(tiny);
    ramet_runtime_free(rt);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static ramet_adapter *tuned(ramet_model *m, const char *file, int64_t steps) {
    ramet_dataset *d = NULL;
    ramet_tuner *t = NULL;
    ramet_tuner_options o;
    ramet_tuner_report r = {.struct_size = sizeof r};
    ramet_adapter *a = NULL;
    ok(ramet_dataset_create(&d, m));
    ok(ramet_dataset_add_file(d, file));
    ramet_tuner_options_init(&o, sizeof o);
    o.steps = steps;
    o.window = 64;
    o.batch = 4;
    o.rank = 4;
    o.alpha = 8;
    o.learning_rate = 5e-3f;
    ok(ramet_tuner_create(&t, m, d, &o));
    do ok(ramet_tuner_step(&r, t, 8, 0, NULL, NULL));
    while (!r.done);
    ok(ramet_tuner_adapter(&a, t));
    ramet_tuner_free(t);
    ramet_dataset_free(d);
    return a;
}

static double loss_of(ramet_model *m, const char *file) {
    ramet_dataset *d = NULL;
    ramet_evaluate_options o;
    ramet_evaluation e = {.struct_size = sizeof e};
    ok(ramet_dataset_create(&d, m));
    ok(ramet_dataset_add_file(d, file));
    ramet_evaluate_options_init(&o, sizeof o);
    o.window = 64;
    o.max_tokens = 1024;
    ok(ramet_evaluate(&e, m, d, &o));
    ramet_dataset_free(d);
    return e.loss;
}

static ramet_store *new_store(const char *name) {
    ramet_store *s = NULL;
    ok(ramet_store_init(&s, rt, at(name), tiny));
    return s;
}

static void brief(ramet_store *s, const char *path, const char *probe) {
    ramet_brief_options o;
    const char *paths[1] = {probe};
    ramet_brief_options_init(&o, sizeof o);
    o.probe_paths = paths;
    o.probe_count = probe ? 1 : 0;
    o.probe_windows = 8;
    o.probe_window = 64;
    ok(ramet_brief_create(s, path, &o));
}

static ramet_status update_of(const char *path, ramet_model *m, const char *brief_path, ramet_adapter *a, int32_t what, const char *task) {
    ramet_update_options o;
    ramet_update_options_init(&o, sizeof o);
    o.adapter = a;
    o.what = what;
    o.task = task;
    o.examples = 1000;
    o.top = 16;
    return ramet_update_create(path, m, brief_path, &o);
}

static ramet_status update(const char *path, ramet_model *m, const char *brief_path, ramet_adapter *a, int32_t what) {
    return update_of(path, m, brief_path, a, what, "rivers \"quoted\"");
}

static ramet_model *prune(ramet_model *m) {
    static int32_t ids[256];
    ramet_prune_options o;
    ramet_model *out = NULL;
    for (int i = 0; i < 256; i++) ids[i] = (int32_t)ramet__rng_below(7, 0, (uint64_t)i, (uint64_t)m->h.n_vocab);
    ramet_prune_options_init(&o, sizeof o);
    o.layers = 1;
    o.ffn = 32;
    o.ids = ids;
    o.count = 256;
    o.window = 64;
    ok(ramet_prune(&out, m, &o));
    return out;
}

static ramet_model *in_q8_0(ramet_model *m) {
    ramet_quantize_options o;
    ramet_model *out = NULL;
    ramet_quantize_options_init(&o, sizeof o);
    o.encoding = "Q8_0";
    ok(ramet_quantize(&out, m, &o));
    return out;
}

static int32_t gate(ramet_store *s, ramet_candidate *c, const char *file, char **json) {
    ramet_task *t = NULL;
    ramet_gate_options o;
    int32_t passed = -1;
    ramet_gate_options_init(&o, sizeof o);
    o.window = 64;
    o.max_tokens = 1024;
    ok(ramet_task_from_files(&t, rt, "held out", &file, 1));
    ok(ramet_gate(&passed, json, s, c, &t, 1, &o));
    ramet_task_free(t);
    return passed;
}

/* ---- tests ---- */
static void test_two_turns_of_the_loop(void **state) {
    (void)state;
    ramet_store *s = new_store("turns");
    ramet_model *variant = NULL, *head = NULL, *rebased = NULL;
    ramet_candidate *c = NULL;
    char *json = NULL;
    int64_t version = 0;
    variant = in_q8_0(tiny);
    brief(s, at("b1"), NULL);
    ramet_adapter *a = tuned(variant, at("one.jsonl"), 24);
    ok(update(at("u1"), variant, at("b1"), a, RAMET_UPDATE_DELTA));
    ok(update(at("late"), variant, at("b1"), a, RAMET_UPDATE_DELTA)); /* sent only after the parent moved on */
    const char *u1 = at("u1");
    double before = loss_of(tiny, at("one.jsonl"));
    ok(ramet_feed(&c, s, "average", &u1, 1, NULL));
    assert_int_equal(ramet_commit(&version, s, c), RAMET_E_REFUSED); /* not measured yet */
    assert_int_equal(gate(s, c, at("one.jsonl"), &json), 1);
    assert_non_null(strstr(json, "\"passed\":true"));
    ramet_string_free(json);
    ok(ramet_commit(&version, s, c));
    assert_int_equal(version, 2);
    ramet_candidate_free(c);
    ok(ramet_store_head(&version, &head, s));
    double after = loss_of(head, at("one.jsonl"));
    assert_true(after < before - .3); /* nats; the variant learned more than that */
    assert_int_equal(ramet_feed(&c, s, "average", &u1, 1, NULL), RAMET_E_REFUSED); /* replayed */
    assert_non_null(strstr(ramet_last_error(), "absorbed before"));

    ok(ramet_rebase(&rebased, variant, head, NULL));
    brief(s, at("b2"), NULL);
    assert_int_equal(update(at("u2"), variant, at("b2"), a, RAMET_UPDATE_DELTA), RAMET_E_INCONSISTENT); /* still of version 1 */
    assert_non_null(strstr(ramet_last_error(), "rebase"));
    ramet_adapter *a2 = tuned(rebased, at("two.jsonl"), 24);
    ok(update(at("u2"), rebased, at("b2"), a2, RAMET_UPDATE_DELTA));
    const char *both[2] = {at("u2"), at("late")};
    ok(ramet_feed(&c, s, "task_arithmetic", both, 2, NULL));
    ok(ramet_candidate_describe(&json, c));
    assert_non_null(strstr(json, "\"commits_old\":0"));
    assert_non_null(strstr(json, "\"weight\":0.7,\"commits_old\":1")); /* an older parent's update counts less */
    ramet_string_free(json);
    assert_int_equal(gate(s, c, at("two.jsonl"), NULL), 1);
    ok(ramet_commit(&version, s, c));
    assert_int_equal(version, 3);
    ok(ramet_store_undo(&version, s));
    assert_int_equal(version, 2);
    ramet_model *back = NULL;
    ok(ramet_store_head(NULL, &back, s));
    assert_string_equal(ramet_model_digest(back), ramet_model_digest(head));
    ok(ramet_store_log(&json, s));
    assert_non_null(strstr(json, "\"event\":\"undo\""));
    assert_non_null(strstr(json, "rivers \\\"quoted\\\"")); /* outside text is quoted, not pasted */
    ramet_string_free(json);
    ok(ramet_store_undo(&version, s));
    assert_int_equal(ramet_store_undo(&version, s), RAMET_E_STATE);
    ramet_candidate_free(c);
    ramet_adapter_free(a);
    ramet_adapter_free(a2);
    ramet_model_free(back);
    ramet_model_free(rebased);
    ramet_model_free(head);
    ramet_model_free(variant);
    ramet_store_free(s);
}

/* What of `change` arrived in b over a: 1 is all of it. */
static double arrived(const ramet__weight *a, const ramet__weight *b, const float *change, float *va, float *vb) {
    const ramet__shape *shape = ramet__weight_shape(a);
    double along = 0, all = 0;
    ramet__weight_decode(va, a, 0, ramet__shape_rows(shape));
    ramet__weight_decode(vb, b, 0, ramet__shape_rows(shape));
    for (int64_t i = 0; i < ramet__shape_count(shape); i++) {
        along += ((double)vb[i] - va[i]) * change[i];
        all += (double)change[i] * change[i];
    }
    return along / all;
}

static void test_a_parent_in_q8_0_takes_small_changes_without_growing(void **state) {
    (void)state;
    ramet_model *parent = NULL, *variant = NULL, *nearest = NULL, *chosen = NULL, *again = NULL;
    ramet_store *s = new_store("small");
    ramet_candidate *c = NULL;
    ramet_feed_options o;
    int64_t version;
    variant = in_q8_0(tiny);
    brief(s, at("sb"), NULL);
    ramet_adapter *a = tuned(variant, at("one.jsonl"), 24);
    ok(update(at("su"), variant, at("sb"), a, RAMET_UPDATE_DELTA));
    const char *u = at("su");
    ramet_feed_options_init(&o, sizeof o);
    o.encoding = "Q8_0";
    ok(ramet_feed(&c, s, "average", &u, 1, &o));
    assert_int_equal(gate(s, c, at("one.jsonl"), NULL), 1);
    ok(ramet_commit(&version, s, c));
    ramet_candidate_free(c);
    ramet_adapter_free(a);
    ramet_model_free(variant);

    ok(ramet_store_head(NULL, &parent, s)); /* in Q8_0 now */
    variant = in_q8_0(parent);
    brief(s, at("sb2"), NULL);
    a = tuned(variant, at("two.jsonl"), 2);
    ok(update(at("su2"), variant, at("sb2"), a, RAMET_UPDATE_DELTA));
    u = at("su2");
    o.options = "scale=.12"; /* what is left is below half a step of the encoding */
    ok(ramet_feed(&c, s, "task_arithmetic", &u, 1, &o));
    ok(ramet_candidate_model(&nearest, c));
    ramet_candidate_free(c);
    o.encoding = "auto";
    ok(ramet_feed(&c, s, "task_arithmetic", &u, 1, &o));
    ok(ramet_candidate_model(&chosen, c));
    ramet_candidate_free(c);
    ok(ramet_feed(&c, s, "task_arithmetic", &u, 1, &o));
    ok(ramet_candidate_model(&again, c));
    ramet_candidate_free(c);
    assert_string_equal(ramet_model_digest(chosen), ramet_model_digest(again)); /* chance is counted, not drawn */
    for (int64_t i = 0; i < parent->n_weights; i++) {
        const ramet__weight *w = parent->weights[i];
        if (!ramet__adapter_find(a, ramet__weight_name(w))) continue;
        int64_t count = ramet__shape_count(ramet__weight_shape(w));
        float *room = malloc((size_t)count * 3 * sizeof *room), scale = .12f;
        const ramet_adapter *const adapters[1] = {a};
        assert_non_null(room);
        ramet__adapter_delta(room, adapters, &scale, 1, w);
        double kept = arrived(w, chosen->weights[i], room, room + count, room + 2 * count), lost = 1 - arrived(w, nearest->weights[i], room, room + count, room + 2 * count);
        assert_int_equal(ramet__weight_enc(chosen->weights[i]), RAMET__ENC_Q8_0);
        assert_true(fabs(kept - 1) <= .1);
        assert_true(lost > .5); /* to the nearest, the change is lost */
        free(room);
    }
    ramet_model_free(parent);
    ramet_model_free(variant);
    ramet_model_free(nearest);
    ramet_model_free(chosen);
    ramet_model_free(again);
    ramet_adapter_free(a);
    ramet_store_free(s);
}

static void test_lift_and_distill_from_a_pruned_variant(void **state) {
    (void)state;
    ramet_store *s = new_store("pruned");
    ramet_model *variant = prune(tiny), *m = NULL;
    ramet_candidate *c = NULL;
    brief(s, at("pb"), at("one.jsonl"));
    ramet_adapter *a = tuned(variant, at("one.jsonl"), 40);
    ok(update(at("pu"), variant, at("pb"), a, RAMET_UPDATE_DELTA | RAMET_UPDATE_LOGITS));
    const char *u = at("pu");
    double before = loss_of(tiny, at("one.jsonl"));

    ok(ramet_feed(&c, s, "lift", &u, 1, NULL));
    ok(ramet_candidate_model(&m, c));
    char name[64];
    snprintf(name, sizeof name, "blk.%d.attn_q.weight", variant->lineage->layer[0] ? 0 : 1);
    const ramet__weight *cut = ramet__model_weight(m, name), *own = ramet__model_weight(tiny, name);
    assert_int_equal(ramet__weight_bytes(cut), ramet__weight_bytes(own)); /* the layer that the variant lacks keeps its bits */
    assert_memory_equal(ramet__weight_data(cut), ramet__weight_data(own), ramet__weight_bytes(own));
    assert_true(loss_of(m, at("one.jsonl")) < before);
    ramet_model_free(m);
    ramet_candidate_free(c);

    ramet_feed_options o;
    ramet_feed_options_init(&o, sizeof o);
    o.options = "epochs=20,rate=5e-3,rank=8";
    ok(ramet_feed(&c, s, "distill", &u, 1, &o));
    ok(ramet_candidate_model(&m, c));
    assert_true(loss_of(m, at("one.jsonl")) < before - .2);
    ramet_model_free(m);
    ramet_candidate_free(c);

    brief(s, at("empty"), NULL); /* without probe text there is nothing to label */
    assert_int_equal(update(at("none"), variant, at("empty"), a, RAMET_UPDATE_LOGITS), RAMET_E_ARGUMENT);
    ok(update(at("delta"), variant, at("empty"), a, RAMET_UPDATE_DELTA));
    u = at("delta");
    assert_int_equal(ramet_feed(&c, s, "distill", &u, 1, NULL), RAMET_E_REFUSED);
    assert_non_null(strstr(ramet_last_error(), "soft labels"));
    ramet_adapter_free(a);
    ramet_model_free(variant);
    ramet_store_free(s);
}

static ramet__safetensors *opened(const char *path, ramet__reader **reader) {
    ramet_source source;
    ramet__safetensors *file = NULL;
    ramet_source_from_path(&source, sizeof source, path);
    ok(ramet__reader_open(reader, rt->mem, &source));
    ok(ramet__safetensors_open(&file, rt->mem, *reader));
    return file;
}

static void read_i32(int32_t *out, int64_t count, const char *path, const char *name) {
    ramet__reader *reader = NULL;
    ramet__safetensors *file = opened(path, &reader);
    const ramet__st_tensor *t = ramet__safetensors_find(file, name);
    assert_non_null(t);
    assert_int_equal(t->bytes, (uint64_t)count * sizeof *out);
    ok(ramet__safetensors_read(file, t, out, t->bytes));
    ramet__safetensors_free(file);
    ramet__reader_free(reader);
}

/* Mean log-probability of the first of each row's 16 classes. */
static double mean_belief(ramet_model *m, const int32_t *text, const int32_t *classes, int64_t windows, int64_t window) {
    ramet_session *s = NULL;
    ramet_session_options o;
    const float *logits;
    int64_t outputs;
    double sum = 0;
    uint8_t want[64];
    memset(want, 1, sizeof want);
    ramet_session_options_init(&o, sizeof o);
    o.max_outputs = (int32_t)window;
    o.max_context = window;
    ok(ramet_session_create(&s, m, &o));
    for (int64_t w = 0; w < windows; w++) {
        ok(ramet_session_truncate(s, 0, 0));
        ok(ramet_session_run(&logits, &outputs, s, text + w * window, NULL, want, window, NULL, NULL));
        for (int64_t r = 0; r < window; r++, logits += m->h.n_vocab) {
            double z = 0;
            for (int64_t i = 0; i < m->h.n_vocab; i++) z += exp((double)logits[i]);
            sum += (double)logits[classes[(w * window + r) * 16]] - log(z);
        }
    }
    ramet_session_free(s);
    return sum / (double)(windows * window);
}

static void test_topics(void **state) {
    (void)state;
    enum { WINDOW = 64, TOPIC = 3, ALL = 4 + 2 * TOPIC };
    static int32_t text[ALL * WINDOW], again[ALL * WINDOW], topic[ALL], which[ALL], favoured[TOPIC * WINDOW * 16];
    static const char *const topics[] = {"rivers", "clay pots=how a pot is made"};
    ramet_store *s = new_store("topics");
    ramet_brief_options o;
    ramet_candidate *c = NULL;
    const char *paths[1] = {at("two.jsonl")};
    char kept[512];
    snprintf(kept, sizeof kept, "%s", paths[0]);
    paths[0] = kept;
    ramet_brief_options_init(&o, sizeof o);
    o.probe_paths = paths;
    o.probe_count = 1;
    o.probe_windows = 4;
    o.probe_window = WINDOW;
    o.topics = topics;
    o.topic_count = 2;
    o.topic_windows = TOPIC;
    o.seed = 3;
    ok(ramet_brief_create(s, at("topics-1"), &o));
    ok(ramet_brief_create(s, at("topics-2"), &o));
    read_i32(text, ALL * WINDOW, at("topics-1"), "probe.text");
    read_i32(again, ALL * WINDOW, at("topics-2"), "probe.text");
    read_i32(topic, ALL, at("topics-1"), "probe.topic");
    assert_memory_equal(text, again, sizeof text); /* the seed decides what the parent writes */
    for (int w = 0; w < ALL; w++) assert_int_equal(topic[w], w < 4 ? -1 : (w - 4) / TOPIC);
    for (int i = 4 * WINDOW; i < ALL * WINDOW; i++) assert_true(text[i] >= 0 && text[i] < tiny->h.n_vocab && !ramet_token_is_end(tiny, text[i]));
    for (int w = 4; w + 1 < ALL; w++) assert_memory_not_equal(text + w * WINDOW, text + (w + 1) * WINDOW, WINDOW * sizeof *text);

    ramet_model *variant = prune(tiny), *m = NULL;
    ramet_adapter *a = tuned(variant, at("one.jsonl"), 40);
    ok(update_of(at("pots"), variant, at("topics-1"), a, RAMET_UPDATE_LOGITS, "clay pots"));
    ok(update_of(at("other"), variant, at("topics-1"), a, RAMET_UPDATE_LOGITS, "clay"));
    read_i32(which, TOPIC, at("pots"), "probe.which");
    for (int i = 0; i < TOPIC; i++) assert_int_equal(which[i], 4 + TOPIC + i);
    read_i32(which, 4, at("other"), "probe.which"); /* a task that is no topic: the windows from files */
    for (int i = 0; i < 4; i++) assert_int_equal(which[i], i);

    /* with no change taken over, all targets are the parent's own labels, on topics and anchors: it stays as it is */
    const char *pots = strcpy(kept, at("pots"));
    ramet_feed_options f;
    ramet_feed_options_init(&f, sizeof f);
    f.options = "strength=0,epochs=8,rate=1e-3,rank=8"; /* AdamW makes steps of noise, too, so a small rate */
    ok(ramet_feed(&c, s, "distill", &pots, 1, &f));
    ok(ramet_candidate_model(&m, c));
    const double general = loss_of(tiny, at("two.jsonl")), still = loss_of(m, at("two.jsonl")) - general;
    assert_true(fabs(still) < .02);
    ramet_model_free(m);
    ramet_candidate_free(c);
    f.options = "strength=1,epochs=20,rate=5e-3,rank=8";
    ok(ramet_feed(&c, s, "distill", &pots, 1, &f));
    ok(ramet_candidate_model(&m, c));
    read_i32(favoured, TOPIC * WINDOW * 16, pots, "probe.ids"); /* what the variant believes most there, the parent now believes more */
    assert_true(mean_belief(m, text + (4 + TOPIC) * WINDOW, favoured, TOPIC, WINDOW) > mean_belief(tiny, text + (4 + TOPIC) * WINDOW, favoured, TOPIC, WINDOW) + .2);
    ramet_model_free(m);
    ramet_candidate_free(c);

    ramet__reader *reader = NULL;
    ramet__safetensors *file = opened(pots, &reader); /* a list of windows out of order */
    const ramet__st_tensor *t = ramet__safetensors_find(file, "probe.which");
    FILE *out = fopen(pots, "r+b");
    assert_int_equal(fseek(out, (long)t->offset, SEEK_SET), 0);
    const long place = (long)t->offset;
    ramet__safetensors_free(file);
    ramet__reader_free(reader);
    which[0] = ALL;
    assert_int_equal(fwrite(which, sizeof *which, 1, out), 1);
    fclose(out);
    assert_int_equal(ramet_feed(&c, s, "distill", &pots, 1, NULL), RAMET_E_REFUSED);
    assert_non_null(strstr(ramet_last_error(), "rising"));
    out = fopen(pots, "r+b");
    assert_int_equal(fseek(out, place, SEEK_SET), 0);
    which[0] = 4; /* of "rivers" */
    assert_int_equal(fwrite(which, sizeof *which, 1, out), 1);
    fclose(out);
    assert_int_equal(ramet_feed(&c, s, "distill", &pots, 1, NULL), RAMET_E_REFUSED);
    assert_non_null(strstr(ramet_last_error(), "more than one topic"));

    o.topic_windows = 0;
    assert_int_equal(ramet_brief_create(s, at("topics-3"), &o), RAMET_E_ARGUMENT);
    o.topic_windows = 2;
    static const char *const twice[] = {"rivers", "rivers=again"}, *const lines[] = {"rivers", "two\nlines"};
    o.topics = twice;
    assert_int_equal(ramet_brief_create(s, at("topics-3"), &o), RAMET_E_ARGUMENT);
    o.topics = lines;
    assert_int_equal(ramet_brief_create(s, at("topics-3"), &o), RAMET_E_ARGUMENT);
    ramet_adapter_free(a);
    ramet_model_free(variant);
    ramet_store_free(s);
}

/* Merged weights against the papers' formulas, computed here in double from the adapters. */
static ramet_adapter *random_adapter(ramet_model *m, uint64_t seed) {
    ramet_adapter *a = NULL;
    ok(ramet__adapter_new(&a, m, "q_proj", 2, 2, seed));
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t k = 0; k < a->lora[i].n * a->lora[i].rank; k++) a->lora[i].b[k] = .02f * (float)ramet__rng_normal(seed, (uint64_t)i, (uint64_t)k);
    return a;
}

static int descending(const void *a, const void *b) { return *(const float *)a < *(const float *)b ? 1 : *(const float *)a > *(const float *)b ? -1 : 0; }

static void test_merges_follow_their_formulas(void **state) {
    (void)state;
    ramet_store *s = new_store("formulas");
    enum { N = 3 };
    const char *names[N] = {"f0", "f1", "f2"}, *paths[N];
    char kept[N][512];
    float *delta[N], *base, *got, one = 1;
    const ramet__weight *w = ramet__model_weight(tiny, "blk.1.attn_q.weight");
    int64_t rows = ramet__shape_rows(ramet__weight_shape(w)), count = ramet__shape_count(ramet__weight_shape(w));
    const float weights[N] = {1, 2, .5f};
    base = malloc((size_t)count * sizeof *base);
    got = malloc((size_t)count * sizeof *got);
    ramet__weight_decode(base, w, 0, rows);
    brief(s, at("fb"), NULL);
    for (int u = 0; u < N; u++) {
        ramet_adapter *a = random_adapter(tiny, 10 + (uint64_t)u);
        const ramet_adapter *pa = a;
        delta[u] = malloc((size_t)count * sizeof(float));
        ramet__adapter_delta(delta[u], &pa, &one, 1, w);
        snprintf(kept[u], sizeof kept[u], "%s/%s", folder, names[u]);
        paths[u] = kept[u];
        ok(update(kept[u], tiny, at("fb"), a, RAMET_UPDATE_DELTA)); /* the parent itself, as an adopted variant of its own shape */
        ramet_adapter_free(a);
    }
    float least[N];
    for (int u = 0; u < N; u++) {
        float *sorted = malloc((size_t)count * sizeof *sorted);
        for (int64_t i = 0; i < count; i++) sorted[i] = fabsf(delta[u][i]);
        qsort(sorted, (size_t)count, sizeof *sorted, descending);
        least[u] = sorted[(int64_t)llround(.2 * (double)count) - 1];
        free(sorted);
    }
    static const struct { const char *method, *options; } cases[] = {{"average", NULL}, {"task_arithmetic", "scale=.4"}, {"ties", "density=.2,scale=1.5"}};
    for (int k = 0; k < 3; k++) {
        ramet_feed_options o;
        ramet_candidate *c = NULL;
        ramet_model *m = NULL;
        ramet_feed_options_init(&o, sizeof o);
        o.weights = weights;
        o.weights_count = N;
        o.options = cases[k].options;
        o.encoding = "F32";
        ok(ramet_feed(&c, s, cases[k].method, paths, N, &o));
        ok(ramet_candidate_model(&m, c));
        ramet__weight_decode(got, ramet__model_weight(m, "blk.1.attn_q.weight"), 0, rows);
        for (int64_t i = 0; i < count; i++) {
            double sum = 0, total = 0, want = 0;
            for (int u = 0; u < N; u++) {
                double d = delta[u][i];
                if (k == 2 && fabs(d) < least[u]) continue;
                sum += weights[u] * d;
                total += weights[u];
            }
            if (k == 0) want = sum / total;
            else if (k == 1) want = .4 * sum;
            else {
                double agreed = 0, of = 0;
                for (int u = 0; u < N; u++) {
                    double d = delta[u][i];
                    if (fabs(d) < least[u] || d == 0 || (d > 0) != (sum > 0)) continue;
                    agreed += weights[u] * d;
                    of += weights[u];
                }
                want = of > 0 ? 1.5 * agreed / of : 0;
            }
            assert_true(fabs(got[i] - (base[i] + want)) <= 1e-6);
        }
        ramet_model_free(m);
        ramet_candidate_free(c);
    }
    for (int u = 0; u < N; u++) free(delta[u]);
    free(base);
    free(got);
    ramet_store_free(s);
}

static void rewrite(const char *from, const char *to, const char *find, const char *put, size_t n) {
    FILE *f = fopen(from, "rb");
    assert_non_null(f);
    static char data[1 << 20];
    size_t size = fread(data, 1, sizeof data, f);
    fclose(f);
    char *hit = NULL;
    for (size_t i = 0; i + strlen(find) <= size && !hit; i++) if (!memcmp(data + i, find, strlen(find))) hit = data + i;
    assert_non_null(hit);
    memcpy(hit + strlen(find), put, n);
    f = fopen(to, "wb");
    fwrite(data, 1, size, f);
    fclose(f);
}

static void test_bad_updates_are_refused_and_entered_in_the_ledger(void **state) {
    (void)state;
    ramet_store *s = new_store("refusals");
    ramet_adapter *a = random_adapter(tiny, 5);
    ramet_candidate *c = NULL;
    char *json = NULL;
    const char *u = at("bad");
    brief(s, at("rb"), NULL);
    a->lora[0].b[3] = NAN;
    ok(update(u, tiny, at("rb"), a, RAMET_UPDATE_DELTA));
    assert_int_equal(ramet_feed(&c, s, "average", &u, 1, NULL), RAMET_E_REFUSED);
    assert_non_null(strstr(ramet_last_error(), "NaN"));
    a->lora[0].b[3] = 1e9f;
    ok(update(u, tiny, at("rb"), a, RAMET_UPDATE_DELTA));
    assert_int_equal(ramet_feed(&c, s, "average", &u, 1, NULL), RAMET_E_REFUSED);
    assert_non_null(strstr(ramet_last_error(), "norm"));
    a->lora[0].b[3] = .01f;
    ok(update(u, tiny, at("rb"), a, RAMET_UPDATE_DELTA));
    rewrite(u, at("alien"), "\"ramet.parent\":\"", "0000", 4);
    const char *alien = at("alien");
    assert_int_equal(ramet_feed(&c, s, "average", &alien, 1, NULL), RAMET_E_REFUSED);
    assert_non_null(strstr(ramet_last_error(), "parent"));
    const char *twice[2] = {u, u};
    ok(ramet_feed(&c, s, "average", twice, 2, NULL)); /* the first counts, its copy is refused */
    ok(ramet_candidate_describe(&json, c));
    assert_non_null(strstr(json, "\"updates\":[{"));
    assert_null(strstr(json, "},{\"digest\""));
    ramet_string_free(json);
    ramet_candidate_free(c);
    assert_int_equal(ramet_feed(&c, s, "lift", &u, 1, NULL), RAMET_E_REFUSED); /* of the parent's own shape */
    assert_int_equal(ramet_feed(&c, s, "nonsense", &u, 1, NULL), RAMET_E_NOT_FOUND);
    ramet_feed_options o;
    ramet_feed_options_init(&o, sizeof o);
    o.options = "density=2";
    assert_int_equal(ramet_feed(&c, s, "ties", &u, 1, &o), RAMET_E_ARGUMENT);
    o.options = "colour=1";
    assert_int_equal(ramet_feed(&c, s, "ties", &u, 1, &o), RAMET_E_ARGUMENT);
    ok(ramet_store_log(&json, s));
    int refusals = 0;
    for (const char *p = json; (p = strstr(p, "\"event\":\"refuse\"")); p++) refusals++;
    assert_int_equal(refusals, 5); /* NaN, norm, alien, copy, shape */
    ramet_string_free(json);
    ramet_adapter_free(a);
    ramet_store_free(s);
}

static void test_every_truncation_of_an_update_is_an_error(void **state) {
    (void)state;
    ramet_store *s = new_store("truncations");
    ramet_adapter *a = random_adapter(tiny, 6);
    ramet_candidate *c = NULL;
    brief(s, at("tb"), NULL);
    ok(update(at("whole"), tiny, at("tb"), a, RAMET_UPDATE_DELTA));
    FILE *f = fopen(at("whole"), "rb");
    static char data[1 << 20];
    size_t size = fread(data, 1, sizeof data, f);
    fclose(f);
    const char *cut = at("cut");
    for (size_t n = 0; n < size; n += n < 64 ? 1 : 997) {
        f = fopen(cut, "wb");
        fwrite(data, 1, n, f);
        fclose(f);
        ramet_status st = ramet_feed(&c, s, "average", &cut, 1, NULL);
        assert_true(st == RAMET_E_FORMAT || st == RAMET_E_REFUSED);
    }
    ramet_adapter_free(a);
    ramet_store_free(s);
}

static void test_failed_gate_leaves_head(void **state) {
    (void)state;
    ramet_store *s = new_store("gate");
    ramet_adapter *a = random_adapter(tiny, 8);
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t k = 0; k < a->lora[i].n * a->lora[i].rank; k++) a->lora[i].b[k] *= 20; /* noise, inside the norm bound */
    ramet_candidate *c = NULL, *loaded = NULL;
    int64_t version;
    brief(s, at("gb"), NULL);
    ramet_adapter *good = tuned(tiny, at("two.jsonl"), 16);
    ok(update(at("good"), tiny, at("gb"), good, RAMET_UPDATE_DELTA));
    const char *g = at("good");
    ok(ramet_feed(&c, s, "average", &g, 1, NULL)); /* make HEAD good at this text first, so that noise must harm */
    assert_int_equal(gate(s, c, at("two.jsonl"), NULL), 1);
    ok(ramet_candidate_load(&loaded, s, NULL)); /* what another process would commit */
    ramet_candidate_free(c);
    ok(ramet_commit(&version, s, loaded));
    ramet_candidate_free(loaded);
    assert_int_equal(ramet_candidate_load(&loaded, s, NULL), RAMET_E_NOT_FOUND); /* nothing waits any more */
    ramet_model *head = NULL;
    ok(ramet_store_head(&version, &head, s));
    brief(s, at("gb2"), NULL);
    ok(update(at("noise"), head, at("gb2"), a, RAMET_UPDATE_DELTA));
    const char *u = at("noise");
    ok(ramet_feed(&c, s, "average", &u, 1, NULL));
    char *fresh = NULL, *kept = NULL;
    assert_int_equal(gate(s, c, at("two.jsonl"), &fresh), 0);
    assert_int_equal(gate(s, c, at("two.jsonl"), &kept), 0); /* HEAD's losses are read back, not measured again: the same verdict */
    assert_string_equal(fresh, kept);
    ramet_string_free(fresh);
    ramet_string_free(kept);
    assert_int_equal(ramet_commit(&version, s, c), RAMET_E_REFUSED);
    ok(ramet_store_head(&version, NULL, s));
    assert_int_equal(version, 2);
    ramet_candidate_free(c);
    ramet_model_free(head);
    ramet_adapter_free(good);
    ramet_adapter_free(a);
    ramet_store_free(s);
}

static void test_store_and_files_describe_themselves(void **state) {
    (void)state;
    ramet_store *s = new_store("described"), *again = NULL;
    ramet_adapter *a = random_adapter(tiny, 9);
    char *json = NULL;
    brief(s, at("db"), at("one.jsonl"));
    ok(update(at("du"), tiny, at("db"), a, RAMET_UPDATE_DELTA | RAMET_UPDATE_LOGITS));
    static const struct { const char *name, *expect; } cases[] = {{"described", "\"kind\":\"store\",\"head\":1"}, {"db", "\"kind\":\"brief\""}, {"du", "\"raw_text\":0"}};
    for (int i = 0; i < 3; i++) {
        ok(ramet_describe_path(&json, rt, at(cases[i].name)));
        assert_non_null(strstr(json, cases[i].expect));
        ramet_string_free(json);
    }
    assert_int_equal(ramet_store_init(&again, rt, at("described"), tiny), RAMET_E_STATE);
    assert_int_equal(ramet_store_open(&again, rt, at("nowhere")), RAMET_E_NOT_FOUND);
    assert_int_equal(access(at("nowhere"), F_OK), -1);
    ramet_adapter_free(a);
    ramet_store_free(s);
}

static int32_t one_document(const char **text, size_t *length, int64_t index, void *user) {
    (void)user;
    *text = "rivers run a b c";
    *length = strlen(*text);
    return index < 3;
}

static void test_tasks_come_from_callbacks(void **state) {
    (void)state;
    ramet_task_callbacks cb = {.struct_size = sizeof cb, .kind = RAMET_TASK_TEXT, .document = one_document};
    ramet_task *t = NULL;
    ramet_dataset *d = NULL;
    ok(ramet_task_create(&t, rt, "three", &cb));
    ok(ramet_task_dataset(&d, t, tiny));
    assert_int_equal(ramet_dataset_documents(d), 3);
    ramet_dataset_free(d);
    ramet_task_free(t);
    cb.kind = RAMET_TASK_ENVIRONMENT;
    assert_int_equal(ramet_task_create(&t, rt, "game", &cb), RAMET_E_UNSUPPORTED);
    assert_non_null(strstr(ramet_last_error(), "environment"));
    cb.kind = 17;
    assert_int_equal(ramet_task_create(&t, rt, "what", &cb), RAMET_E_ARGUMENT);
}

static void test_slot_exchanges_the_live_model(void **state) {
    (void)state;
    ramet_slot *slot = NULL;
    ramet_model *a = NULL, *b = prune(tiny), *c = NULL;
    ok(ramet_slot_create(&slot, tiny));
    ok(ramet_slot_get(&a, slot));
    assert_ptr_equal(a, tiny);
    ok(ramet_slot_set(slot, b));
    ok(ramet_slot_get(&c, slot));
    assert_ptr_equal(c, b);
    assert_int_equal(a->h.n_layer, tiny->h.n_layer); /* who opened the old one keeps it */
    ramet_slot_free(slot);
    ramet_model_free(a);
    ramet_model_free(b);
    ramet_model_free(c);
}

static void test_list_names_everything_once(void **state) {
    (void)state;
    static const char *const expect[] = {"average", "task_arithmetic", "ties", "lift", "distill"};
    const char *name, *detail;
    for (int32_t i = 0; i < 5; i++) {
        ok(ramet_list(&name, &detail, "methods", i));
        assert_string_equal(name, expect[i]);
    }
    assert_int_equal(ramet_list(&name, &detail, "methods", 5), RAMET_E_NOT_FOUND);
    assert_int_equal(ramet_list(&name, &detail, "wheels", 0), RAMET_E_ARGUMENT);
    static const char *const kinds[] = {"archs", "encodings", "ops", "kernels", "isas", "optimizers", "schedules"};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) ok(ramet_list(&name, &detail, kinds[k], 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_turns_of_the_loop), cmocka_unit_test(test_a_parent_in_q8_0_takes_small_changes_without_growing),
        cmocka_unit_test(test_lift_and_distill_from_a_pruned_variant), cmocka_unit_test(test_topics), cmocka_unit_test(test_merges_follow_their_formulas),
        cmocka_unit_test(test_bad_updates_are_refused_and_entered_in_the_ledger), cmocka_unit_test(test_every_truncation_of_an_update_is_an_error),
        cmocka_unit_test(test_failed_gate_leaves_head), cmocka_unit_test(test_store_and_files_describe_themselves), cmocka_unit_test(test_tasks_come_from_callbacks),
        cmocka_unit_test(test_slot_exchanges_the_live_model), cmocka_unit_test(test_list_names_everything_once),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
