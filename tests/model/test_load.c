/* SPDX-License-Identifier: Apache-2.0 */
/* test_load.c - models from GGUF over every way of reading, what is refused, and a rewrite that keeps everything. */
#include "support.h"

static char *whole(size_t *size) {
    char *data = NULL;
    OK(ramet__file_read_all(&data, size, rt->mem, tiny_path(), 0));
    return data;
}

static void write_whole(const char *path, const void *data, size_t size) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static int64_t from_memory(void *dst, uint64_t offset, uint64_t size, void *user) {
    memcpy(dst, (const char *)user + offset, size);
    return (int64_t)size;
}

static int64_t one_byte(void *dst, uint64_t offset, uint64_t size, void *user) {
    memcpy(dst, (const char *)user + offset, 1);
    return size > 0;
}

/* The model at `path` is refused alike by every way of reading. */
static void refused_every_way(ramet_status status, const char *part, const char *path) {
    enum { BEFORE = 100 };
    char *data = NULL, *pack;
    size_t size;
    OK(ramet__file_read_all(&data, &size, rt->mem, path, 0));
    assert_non_null(pack = calloc(1, size + 2 * BEFORE));
    memcpy(pack + BEFORE, data, size);
    write_whole(scratch(".pack"), pack, size + 2 * BEFORE);
    FILE *f = fopen(scratch(".pack"), "rb");
    assert_non_null(f);
    const ramet_source sources[] = {
        {.struct_size = sizeof *sources, .kind = RAMET_SOURCE_PATH, .path = path},
        {.struct_size = sizeof *sources, .kind = RAMET_SOURCE_PATH, .path = path, .untrusted = 1},
        {.struct_size = sizeof *sources, .kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = fileno(f), .offset = BEFORE, .length = size},
        {.struct_size = sizeof *sources, .kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = fileno(f), .offset = BEFORE, .length = size, .untrusted = 1},
        {.struct_size = sizeof *sources, .kind = RAMET_SOURCE_MEMORY, .data = data, .length = size},
        {.struct_size = sizeof *sources, .kind = RAMET_SOURCE_CALLBACKS, .read = one_byte, .length = size, .user = data},
    };
    char first[1024] = "";
    for (int32_t i = 0; i < RAMET__COUNT(sources); i++) {
        ramet_model *bad = NULL;
        REFUSED(status, part, ramet_model_load(&bad, rt, &sources[i], NULL));
        assert_null(bad);
        const char *says = strchr(ramet_last_error(), ':'); /* after the source's name */
        assert_non_null(says);
        if (!i) snprintf(first, sizeof first, "%s", says);
        assert_string_equal(says, first);
    }
    fclose(f);
    remove(scratch(".pack"));
    ramet__free(data);
    free(pack);
}

static void test_load_every_way(void **state) {
    size_t size;
    char *data = whole(&size), digest[65] = "";
    FILE *f = fopen(scratch(".pack"), "wb"); /* the model inside a package, 100 bytes in */
    assert_non_null(f);
    for (int i = 0; i < 100; i++) fputc('x', f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fputs("after", f);
    fclose(f);
    f = fopen(scratch(".pack"), "rb");
    const ramet_source sources[] = {
        {.struct_size = sizeof *sources, .kind = RAMET_SOURCE_PATH, .path = tiny_path()},
        {.struct_size = sizeof *sources, .kind = RAMET_SOURCE_PATH, .path = tiny_path(), .untrusted = 1},
        {.struct_size = sizeof *sources, .kind = RAMET_SOURCE_DESCRIPTOR, .descriptor = fileno(f), .offset = 100, .length = size},
        {.struct_size = sizeof *sources, .kind = RAMET_SOURCE_MEMORY, .data = data, .length = size},
        {.struct_size = sizeof *sources, .kind = RAMET_SOURCE_CALLBACKS, .read = from_memory, .length = size, .user = data},
    };
    for (int32_t i = 0; i < RAMET__COUNT(sources); i++) {
        ramet_model *m = NULL;
        int64_t n;
        OK(ramet_model_load(&m, rt, &sources[i], NULL));
        assert_string_equal(ramet_model_architecture(m), "llama");
        OK(ramet_model_number(&n, m, "layers"));
        assert_int_equal(n, 2);
        OK(ramet_model_number(&n, m, "parameters"));
        assert_int_equal(n, 320 * 64 + 64 + 2 * (2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128));
        REFUSED(RAMET_E_NOT_FOUND, "colour", ramet_model_number(&n, m, "colour"));
        if (!i) strcpy(digest, ramet_model_digest(m));
        assert_string_equal(ramet_model_digest(m), digest);
        ramet_model_free(m);
    }
    fclose(f);
    remove(scratch(".pack"));
    ramet__free(data);
}

static const char *const folder_names[] = {"config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"};

/* The fixture's folder, in which `old` in config.json is `new`. */
static void copy_folder(const char *folder, const char *old, const char *new) {
    const char *from = getenv("RAMET_TINY_FOLDER");
    assert_non_null(from);
    OK(ramet__dir_make(folder));
    for (int32_t i = 0; i < 4; i++) {
        char path[320], changed[2048], *data = NULL;
        size_t size;
        snprintf(path, sizeof path, "%s/%s", from, folder_names[i]);
        OK(ramet__file_read_all(&data, &size, rt->mem, path, 0));
        snprintf(path, sizeof path, "%s/%s", folder, folder_names[i]);
        const char *at = i ? NULL : strstr(data, old);
        assert_true(i || at);
        if (at) size = (size_t)snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - data), data, new, at + strlen(old));
        write_whole(path, at ? changed : data, size);
        ramet__free(data);
    }
}

static void remove_folder(const char *folder) {
    for (int32_t i = 0; i < 4; i++) {
        char path[320];
        snprintf(path, sizeof path, "%s/%s", folder, folder_names[i]);
        OK(ramet__file_remove(path));
    }
    assert_int_equal(rmdir(folder), 0);
}

static void test_load_folder_refuses(void **state) {
    static const struct { const char *old, *new; ramet_status status; const char *part; } cases[] = {
        {"\"llama\"", "\"gpt9\"", RAMET_E_UNSUPPORTED, "\"gpt9\""},
        {"\"llama\"", "7", RAMET_E_FORMAT, "model_type"},
        {"\"model_type\"", "\"type_of_model\"", RAMET_E_INCONSISTENT, "model_type"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0", RAMET_E_INCONSISTENT, "layers is 0"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": -2", RAMET_E_INCONSISTENT, "layers"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 2.5", RAMET_E_FORMAT, "num_hidden_layers"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 2147483648", RAMET_E_LIMIT, "num_hidden_layers"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", RAMET_E_INCONSISTENT, "is missing"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", RAMET_E_UNSUPPORTED, "model.layers.1."},
        {"\"num_hidden_layers\": 2", "\"layers\": 2", RAMET_E_INCONSISTENT, "num_hidden_layers"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 0", RAMET_E_INCONSISTENT, "num_attention_heads"},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 0", RAMET_E_INCONSISTENT, "key-value heads is 0"},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", RAMET_E_INCONSISTENT, "evenly"},
        {"\"hidden_size\": 64", "\"hidden_size\": 128", RAMET_E_INCONSISTENT, "[320, 64]"},
        {"\"intermediate_size\": 128", "\"intermediate_size\": 64", RAMET_E_INCONSISTENT, "[128, 64]"},
        {"\"vocab_size\": 320", "\"vocab_size\": 319", RAMET_E_INCONSISTENT, "[320, 64]"},
        {"1e-05", "1e999", RAMET_E_LIMIT, "range of a double"},
        {"1e-05", "1e39", RAMET_E_INCONSISTENT, "epsilon"},
        {"1e-05", "-1", RAMET_E_INCONSISTENT, "epsilon"},
        {"1e-05", "NaN", RAMET_E_FORMAT, "byte"},
        {"10000.0", "0", RAMET_E_INCONSISTENT, "rotary base"},
        {"10000.0", "10000.0, \"rope_scaling\": {\"rope_type\": \"yarn\"}", RAMET_E_UNSUPPORTED, "\"yarn\""},
        {"\"silu\"", "\"gelu\"", RAMET_E_UNSUPPORTED, "hidden_act"},
        {": true}", ": false}", RAMET_E_INCONSISTENT, "lm_head.weight"},
        {": true}", ": true", RAMET_E_FORMAT, "byte"},
        {": true}", ": true}}", RAMET_E_FORMAT, "byte"},
        {"{\"model_type\"", "[\"model_type\"", RAMET_E_FORMAT, "byte"},
    };
    char folder[160];
    snprintf(folder, sizeof folder, "%s", scratch(".folder"));
    for (int32_t i = 0; i < RAMET__COUNT(cases); i++) {
        copy_folder(folder, cases[i].old, cases[i].new);
        for (int32_t untrusted = 0; untrusted < 2; untrusted++) {
            ramet_source source;
            ramet_model *bad = NULL;
            ramet_source_from_path(&source, sizeof source, folder);
            source.untrusted = untrusted;
            REFUSED(cases[i].status, cases[i].part, ramet_model_load(&bad, rt, &source, NULL));
            assert_non_null(strstr(ramet_last_error(), folder));
            assert_null(bad);
        }
    }
    remove_folder(folder);
}

/* A Hugging Face folder gives the same model; and what was read instead of mapped is independent of its files afterwards. */
static void test_load_folder_and_untrusted(void **state) {
    const char *from = getenv("RAMET_TINY_FOLDER"), *file = scratch(".copy.gguf");
    char folder[160], path[320];
    size_t size;
    char *data = whole(&size);
    ramet_model *want = tiny(), *m = NULL;
    assert_non_null(from);
    OK(ramet_model_load_path(&m, rt, from));
    assert_string_equal(ramet_model_digest(m), ramet_model_digest(want));
    ramet_model_free(m);
    snprintf(folder, sizeof folder, "%s", scratch(".folder"));
    write_whole(file, data, size);
    ramet__free(data);
    copy_folder(folder, "{", "{ ");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    for (int32_t i = 0; i < 2; i++) {
        ramet_source source;
        ramet_source_from_path(&source, sizeof source, i ? folder : file);
        source.untrusted = 1;
        OK(ramet_model_load(&m, rt, &source, NULL));
        assert_int_equal(truncate(i ? path : file, 0), 0); /* mapped pages would be gone now */
        assert_string_equal(ramet_model_digest(m), ramet_model_digest(want));
        ramet_model_free(m);
    }
    remove(file);
    remove_folder(folder);
    ramet_model_free(want);
}

static void test_load_order_and_tensors(void **state) {
    ramet_model *m = tiny();
    ramet_tensor_info info = {.struct_size = sizeof info};
    int64_t at;
    assert_int_equal(ramet_model_tensor_count(m), 1 + 2 * 9 + 1);
    OK(ramet_model_tensor_find(&at, m, "blk.1.ffn_down.weight"));
    assert_int_equal(at, 1 + 9 + 8);
    OK(ramet_model_tensor_at(&info, m, at));
    assert_string_equal(info.name, "blk.1.ffn_down.weight");
    assert_string_equal(info.encoding, "F32");
    assert_int_equal(info.rank, 2);
    assert_int_equal(info.dim[0], 64);
    assert_int_equal(info.dim[1], 128);
    float *f = malloc(64 * 128 * sizeof *f);
    OK(ramet_model_tensor_read(f, 64 * 128, m, at));
    assert_memory_equal(f, ramet__weight_data(m->weights[at]), 64 * 128 * sizeof *f);
    REFUSED(RAMET_E_ARGUMENT, "8192", ramet_model_tensor_read(f, 64, m, at));
    REFUSED(RAMET_E_NOT_FOUND, "blk.2", ramet_model_tensor_find(&at, m, "blk.2.ffn_down.weight"));
    REFUSED(RAMET_E_ARGUMENT, "20 weights", ramet_model_tensor_at(&info, m, 20));
    free(f);
    ramet_model_free(m);
}

#define U32KEY(k, n) {k, {.type = RAMET__GGUF_U32, .count = 1, .v.u = (n)}}
#define I32KEY(k, n) {k, {.type = RAMET__GGUF_I32, .count = 1, .v.i = (n)}}
#define F32KEY(k, n) {k, {.type = RAMET__GGUF_F32, .count = 1, .v.f = (n)}}
#define TEXTKEY(k, t) {k, {.type = RAMET__GGUF_STRING, .count = 1, .v.s = {t, sizeof t - 1}}}

static void test_load_refuses_bad_numbers(void **state) {
    static const struct { ramet__gguf_kv kv; ramet_status status; const char *part; } cases[] = {
        {TEXTKEY("general.architecture", "mamba"), RAMET_E_UNSUPPORTED, "\"mamba\""},
        {TEXTKEY("general.type", "adapter"), RAMET_E_UNSUPPORTED, "this is an adapter"},
        {U32KEY("llama.block_count", 0), RAMET_E_INCONSISTENT, "layers is 0"},
        {U32KEY("llama.block_count", 1), RAMET_E_UNSUPPORTED, "blk.1."},
        {U32KEY("llama.block_count", 3), RAMET_E_INCONSISTENT, "blk.2.attn_norm.weight is missing"},
        {U32KEY("llama.block_count", 2147483648u), RAMET_E_LIMIT, "llama.block_count"},
        {U32KEY("llama.block_count", 2147483647u), RAMET_E_LIMIT, "layers"},
        {U32KEY("llama.attention.head_count", 0), RAMET_E_INCONSISTENT, "head_count"},
        {U32KEY("llama.attention.head_count_kv", 0), RAMET_E_INCONSISTENT, "key-value heads is 0"},
        {U32KEY("llama.attention.head_count_kv", 3), RAMET_E_INCONSISTENT, "evenly"},
        {U32KEY("llama.attention.head_count_kv", 4), RAMET_E_INCONSISTENT, "blk.0.attn_k.weight is [32, 64]"},
        {U32KEY("llama.attention.key_length", 32), RAMET_E_UNSUPPORTED, "value_length"},
        {U32KEY("llama.embedding_length", 0), RAMET_E_INCONSISTENT, "width"},
        {U32KEY("llama.embedding_length", 128), RAMET_E_INCONSISTENT, "token_embd.weight is [320, 64]"},
        {U32KEY("llama.feed_forward_length", 64), RAMET_E_INCONSISTENT, "ffn_gate.weight"},
        {U32KEY("llama.context_length", 0), RAMET_E_INCONSISTENT, "context"},
        {U32KEY("llama.vocab_size", 321), RAMET_E_INCONSISTENT, "321"},
        {U32KEY("llama.rope.dimension_count", 7), RAMET_E_INCONSISTENT, "rotary dimensions"},
        {U32KEY("llama.rope.dimension_count", 32), RAMET_E_INCONSISTENT, "rotary dimensions"},
        {U32KEY("llama.expert_count", 8), RAMET_E_UNSUPPORTED, "experts"},
        {U32KEY("llama.attention.sliding_window", 512), RAMET_E_UNSUPPORTED, "sliding"},
        {TEXTKEY("llama.rope.scaling.type", "yarn"), RAMET_E_UNSUPPORTED, "\"yarn\""},
        {F32KEY("llama.attention.layer_norm_rms_epsilon", NAN), RAMET_E_INCONSISTENT, "epsilon"},
        {F32KEY("llama.attention.layer_norm_rms_epsilon", -1), RAMET_E_INCONSISTENT, "epsilon"},
        {F32KEY("llama.rope.freq_base", NAN), RAMET_E_INCONSISTENT, "rotary base"},
        {F32KEY("llama.rope.freq_base", 0), RAMET_E_INCONSISTENT, "rotary base"},
        {F32KEY("llama.attention.layer_norm_rms_epsilon", INFINITY), RAMET_E_INCONSISTENT, "epsilon"},
        {F32KEY("llama.rope.freq_base", INFINITY), RAMET_E_INCONSISTENT, "rotary base"},
        {F32KEY("llama.block_count", 2), RAMET_E_FORMAT, "llama.block_count"},
        {I32KEY("llama.block_count", -1), RAMET_E_INCONSISTENT, "layers"},
        {I32KEY("llama.attention.head_count", -4), RAMET_E_INCONSISTENT, "head_count"},
        {I32KEY("llama.context_length", INT32_MIN), RAMET_E_INCONSISTENT, "context"},
        {TEXTKEY("llama.attention.head_count", "four"), RAMET_E_FORMAT, "llama.attention.head_count"},
        {U32KEY("split.count", 2), RAMET_E_UNSUPPORTED, "2 parts"},
        {TEXTKEY("ramet.lineage.steps", "no json"), RAMET_E_FORMAT, "ramet.lineage.steps"},
    };
    ramet_model *m = tiny();
    for (int32_t i = 0; i < RAMET__COUNT(cases); i++) {
        char path[96];
        ramet_model *bad = NULL;
        snprintf(path, sizeof path, "%s", scratch(".gguf"));
        OK(ramet__model_save(m, path, &cases[i].kv, 1, NULL, NULL));
        refused_every_way(cases[i].status, cases[i].part, path);
        REFUSED(cases[i].status, path, ramet_model_load_path(&bad, rt, path));
    }
    remove(scratch(".gguf"));
    ramet_model_free(m);
}

/* The tiny model with one of its weights in another encoding, and one byte range of it changed. */
static ramet_model *with(const ramet_model *m, const char *name, ramet__enc enc, int64_t at, const void *bytes, size_t n) {
    ramet__weight *weights[64], *w = NULL;
    ramet_model *out = NULL;
    for (int64_t i = 0; i < m->n_weights; i++) weights[i] = m->weights[i];
    const int64_t cols = ramet__shape_cols(ramet__weight_shape(ramet__model_weight(m, name))), rows = ramet__shape_rows(ramet__weight_shape(ramet__model_weight(m, name)));
    OK(ramet__weight_new(&w, rt, name, enc, ramet__weight_shape(ramet__model_weight(m, name))));
    float *f = malloc((size_t)(rows * cols) * sizeof *f);
    ramet__weight_decode(f, ramet__model_weight(m, name), 0, rows);
    ramet__encoding_get(enc)->encode(ramet__weight_mutable(w), f, rows * cols);
    memcpy((char *)ramet__weight_mutable(w) + at, bytes, n);
    for (int64_t i = 0; i < m->n_weights; i++)
        if (!strcmp(ramet__weight_name(weights[i]), name)) weights[i] = w;
    OK(ramet__model_derive(&out, m, &m->h, weights, m->n_weights, NULL));
    ramet__weight_free(w);
    free(f);
    return out;
}

static void test_load_refuses_nan_in_any_encoding(void **state) {
    static const struct { ramet__enc enc; int64_t at; uint32_t bits; size_t n; } cases[] = {
        {RAMET__ENC_F32, 4 * 4095, 0x7fc00000, 4}, {RAMET__ENC_F32, 4 * 77, 0xff800000, 4}, {RAMET__ENC_F16, 2 * 4095, 0x7e00, 2}, {RAMET__ENC_BF16, 0, 0xff80, 2},
        {RAMET__ENC_Q4_0, 18 * 127, 0x7c00, 2}, {RAMET__ENC_Q4_1, 20 * 127, 0x7e00, 2}, {RAMET__ENC_Q4_1, 2, 0xfc00, 2}, {RAMET__ENC_Q5_0, 22, 0x7c00, 2}, {RAMET__ENC_Q8_0, 34 * 127, 0xfe00, 2},
    };
    ramet_model *m = tiny(), *good, *bad, *out = NULL;
    for (int32_t i = 0; i < RAMET__COUNT(cases); i++) {
        good = with(m, "blk.1.attn_q.weight", cases[i].enc, 0, "", 0);
        bad = with(m, "blk.1.attn_q.weight", cases[i].enc, cases[i].at, &cases[i].bits, cases[i].n);
        OK(ramet_model_save(good, scratch(".gguf"), NULL, NULL));
        OK(ramet_model_load_path(&out, rt, scratch(".gguf")));
        ramet_model_free(out);
        out = NULL;
        OK(ramet_model_save(bad, scratch(".gguf"), NULL, NULL));
        char path[96];
        snprintf(path, sizeof path, "%s", scratch(".gguf"));
        refused_every_way(RAMET_E_INCONSISTENT, "blk.1.attn_q.weight holds NaN", path);
        ramet_model_free(good);
        ramet_model_free(bad);
    }
    const float nan = NAN;
    bad = with(m, "output_norm.weight", RAMET__ENC_F32, 63 * 4, &nan, 4);
    OK(ramet_model_save(bad, scratch(".gguf"), NULL, NULL));
    REFUSED(RAMET_E_INCONSISTENT, "output_norm.weight", ramet_model_load_path(&out, rt, scratch(".gguf")));
    ramet_model_free(bad);
    remove(scratch(".gguf"));
    ramet_model_free(m);
}

/* Saved and loaded: the same weights, tokenizer, metadata, lineage; saved again: the same bytes. */
static void test_save_keeps_everything(void **state) {
    ramet_model *m = tiny(), *v = NULL, *back = NULL;
    ramet__lineage *l = NULL;
    const char *const one = scratch("-1.gguf"), *const two = scratch("-2.gguf");
    OK(ramet__lineage_new(&l, rt->mem, 2, 128, 1));
    l->layer[0] = 3, l->layer[1] = 5;
    for (int i = 0; i < 256; i++) l->ff[i] = 2 * (i % 128);
    l->parent_digest = ramet__strdup(rt->mem, ramet_model_digest(m));
    l->steps = ramet__strdup(rt->mem, "[{\"step\":\"prune\"}]");
    OK(ramet__model_derive(&v, m, &m->h, m->weights, m->n_weights, l));
    assert_string_equal(ramet_model_digest(v), ramet_model_digest(m));
    OK(ramet_model_save(v, one, NULL, NULL));
    OK(ramet_model_load_path(&back, rt, one));
    assert_string_equal(ramet_model_digest(back), ramet_model_digest(m));
    assert_non_null(back->lineage);
    assert_int_equal(back->lineage->layer[1], 5);
    assert_int_equal(back->lineage->ff[255], 254);
    assert_string_equal(back->lineage->parent_digest, ramet_model_digest(m));
    assert_null(back->lineage->root_digest);
    assert_string_equal(back->lineage->steps, "[{\"step\":\"prune\"}]");
    for (int64_t i = 0; i < m->meta->n_kv; i++) {
        const ramet__gguf_value *is = ramet__gguf_find(back->meta, m->meta->kv[i].key);
        if (!is) fail_msg("the key %s was lost", m->meta->kv[i].key);
        assert_int_equal(is->type, m->meta->kv[i].value.type);
        assert_int_equal(is->count, m->meta->kv[i].value.count);
    }
    int32_t ids[64];
    int64_t n;
    OK(ramet_tokenize(&n, ids, 64, back, "the man of the house", 20, 0));
    char text[64];
    size_t length;
    OK(ramet_detokenize(&length, text, sizeof text, back, ids, n, 0));
    assert_string_equal(text, "the man of the house");
    REFUSED(RAMET_E_LIMIT, "21 bytes", ramet_detokenize(&length, text, 20, back, ids, n, 0));
    char *json = NULL;
    OK(ramet_model_describe(&json, back));
    assert_non_null(strstr(json, "\"layers\":[3,5]"));
    ramet_string_free(json);
    OK(ramet_model_save(back, two, NULL, NULL));
    char *a = NULL, *b = NULL;
    size_t an, bn;
    OK(ramet__file_read_all(&a, &an, rt->mem, one, 0));
    OK(ramet__file_read_all(&b, &bn, rt->mem, two, 0));
    assert_int_equal(an, bn);
    assert_memory_equal(a, b, an);
    ramet__free(a);
    ramet__free(b);
    remove(one);
    remove(two);
    ramet_model_free(back);
    ramet_model_free(v);
    ramet_model_free(m);
}

/* Tensors that are no weights of the model: each is a sound file. */
static void test_load_refuses_other_shapes(void **state) {
    static const struct { const char *name; ramet__shape shape; ramet_status status; const char *part; } cases[] = {
        {"blk.0.attn_q.weight", {2, {0, 64}}, RAMET_E_INCONSISTENT, "blk.0.attn_q.weight is [0, 64]"},
        {"blk.0.attn_q.weight", {2, {64, 0}}, RAMET_E_INCONSISTENT, "blk.0.attn_q.weight is [64, 0]"},
        {"blk.0.attn_q.weight", {1, {4096}}, RAMET_E_INCONSISTENT, "blk.0.attn_q.weight"},
        {"blk.0.attn_q.weight", {3, {1, 64, 64}}, RAMET_E_INCONSISTENT, "blk.0.attn_q.weight"},
        {"blk.0.ffn_down.weight", {2, {128, 64}}, RAMET_E_INCONSISTENT, "blk.0.ffn_down.weight is [128, 64]"},
        {"blk.1.attn_norm.weight", {1, {63}}, RAMET_E_INCONSISTENT, "blk.1.attn_norm.weight"},
        {"blk.1.attn_norm.weight", {0, {0}}, RAMET_E_INCONSISTENT, "blk.1.attn_norm.weight"},
        {"token_embd.weight", {2, {0, 64}}, RAMET_E_INCONSISTENT, "token_embd.weight"},
        {"token_embd.weight", {2, {319, 64}}, RAMET_E_INCONSISTENT, "token_embd.weight"},
        {"output_norm.weight", {1, {0}}, RAMET_E_INCONSISTENT, "output_norm.weight"},
    };
    static const uint8_t zeros[1 << 17];
    ramet_model *m = tiny();
    for (int32_t i = 0; i < RAMET__COUNT(cases); i++) {
        ramet__gguf_writer *w = NULL;
        char path[96];
        snprintf(path, sizeof path, "%s", scratch(".gguf"));
        OK(ramet__gguf_writer_open(&w, rt->mem, path));
        for (int64_t k = 0; k < m->meta->n_kv; k++) OK(ramet__gguf_put(w, m->meta->kv[k].key, &m->meta->kv[k].value));
        for (int32_t pass = 0; pass < 2; pass++)
            for (int64_t t = 0; t < m->n_weights; t++) {
                const char *name = ramet__weight_name(m->weights[t]);
                const ramet__shape *s = strcmp(name, cases[i].name) ? ramet__weight_shape(m->weights[t]) : &cases[i].shape;
                uint64_t bytes = 4;
                for (int32_t d = 0; d < s->rank; d++) bytes *= (uint64_t)s->dim[d];
                assert_true(bytes <= sizeof zeros);
                if (pass) OK(ramet__gguf_data(w, zeros, bytes));
                else OK(ramet__gguf_declare(w, name, s, RAMET__ENC_F32));
            }
        OK(ramet__gguf_writer_commit(&w));
        refused_every_way(cases[i].status, cases[i].part, path);
    }
    remove(scratch(".gguf"));
    ramet_model_free(m);
}

static int32_t never(double fraction, const char *what, void *user) { return fraction >= *(double *)user; }

static void test_load_and_save_cancel(void **state) {
    ramet_model *m = tiny(), *none = NULL;
    ramet_model_options o;
    ramet_source source;
    double at = 0.5;
    ramet_model_options_init(&o, sizeof o);
    o.progress = never;
    o.progress_user = &at;
    ramet_source_from_path(&source, sizeof source, tiny_path());
    REFUSED(RAMET_E_CANCELLED, "", ramet_model_load(&none, rt, &source, &o));
    assert_null(none);
    REFUSED(RAMET_E_CANCELLED, "", ramet_model_save(m, scratch(".gguf"), never, &at));
    assert_int_equal(ramet__path_kind(scratch(".gguf")), 0);
    ramet_model_free(m);
}

static void test_derive_checks(void **state) {
    ramet_model *m = tiny(), *out = NULL;
    ramet__hparams h = m->h;
    h.n_layer = 1; /* the first layer alone: a smaller model that shares its pages */
    ramet__weight *fewer[11];
    int64_t n = 0;
    for (int64_t i = 0; i < m->n_weights; i++)
        if (strncmp(ramet__weight_name(m->weights[i]), "blk.1.", 6)) fewer[n++] = m->weights[i];
    assert_int_equal(n, 11);
    OK(ramet__model_derive(&out, m, &h, fewer, n, NULL));
    assert_ptr_equal(ramet__model_weight(out, "blk.0.ffn_up.weight"), ramet__model_weight(m, "blk.0.ffn_up.weight"));
    ramet_model_free(out);
    out = NULL;
    REFUSED(RAMET_E_INCONSISTENT, "20 weights", ramet__model_derive(&out, m, &h, m->weights, m->n_weights, NULL));
    REFUSED(RAMET_E_INCONSISTENT, "is missing", ramet__model_derive(&out, m, &m->h, fewer, n, NULL));
    h = m->h;
    h.n_ff = 64;
    REFUSED(RAMET_E_INCONSISTENT, "ffn_gate", ramet__model_derive(&out, m, &h, m->weights, m->n_weights, NULL));
    assert_null(out);
    ramet_model_free(m);
}

static void test_arch_names(void **state) {
    const ramet__arch *a = ramet__arch_find("llama");
    const char *name, *detail;
    int32_t layer = -2;
    assert_non_null(a);
    assert_null(ramet__arch_find("llam"));
    assert_true(ramet__arch_list(0, &name, &detail));
    assert_string_equal(name, "llama");
    assert_string_equal(ramet__arch_spec(a, "blk.12.ffn_up.weight", 0, &layer)->target, "up_proj");
    assert_int_equal(layer, 12);
    assert_string_equal(ramet__arch_spec(a, "model.layers.7.self_attn.q_proj.weight", 1, &layer)->target, "q_proj");
    assert_int_equal(layer, 7);
    assert_non_null(ramet__arch_spec(a, "token_embd.weight", 0, &layer));
    assert_int_equal(layer, -1);
    assert_null(ramet__arch_spec(a, "blk.00.ffn_up.weight", 0, NULL));
    assert_null(ramet__arch_spec(a, "blk.-1.ffn_up.weight", 0, NULL));
    assert_null(ramet__arch_spec(a, "blk.99999999999.ffn_up.weight", 0, NULL));
    assert_null(ramet__arch_spec(a, "blk.0.ffn_up.weights", 0, NULL));
    /* rows of q: pairs (2j, 2j+1) of ours are (j, j + half) of Hugging Face's */
    const ramet__hparams h = {.n_head = 2, .n_kv = 1, .head_dim = 8, .rope_dim = 8};
    static const int64_t want[16] = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};
    for (int64_t r = 0; r < 16; r++) assert_int_equal(a->hf_row(&h, "blk.0.attn_q.weight", r), want[r]);
    assert_int_equal(a->hf_row(&h, "blk.0.attn_v.weight", 1), 1);
    assert_true(ramet__target_listed("q_proj, v_proj", "v_proj"));
    assert_false(ramet__target_listed("q_proj, v_proj", "v"));
    assert_true(ramet__target_listed(NULL, "v_proj"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arch_names),
        cmocka_unit_test(test_load_every_way),
        cmocka_unit_test(test_load_folder_and_untrusted),
        cmocka_unit_test(test_load_folder_refuses),
        cmocka_unit_test(test_load_order_and_tensors),
        cmocka_unit_test(test_load_refuses_bad_numbers),
        cmocka_unit_test(test_load_refuses_nan_in_any_encoding),
        cmocka_unit_test(test_load_refuses_other_shapes),
        cmocka_unit_test(test_load_and_save_cancel),
        cmocka_unit_test(test_derive_checks),
        cmocka_unit_test(test_save_keeps_everything),
    };
    return cmocka_run_group_tests(tests, make_runtime, drop_runtime);
}
