/* SPDX-License-Identifier: Apache-2.0 */
/* test_state.c - a sequence saved and loaded: what follows has the same bits; anything else than its own file is refused, and nothing changes. */
#include "../model/support.h"
#include "infer/session.h"
#include "ramet/session.h"

#define VOCAB 320
enum { MORE = 5 };

static ramet_session *session_in(ramet_model *m, int32_t mode, int64_t context) { /* mode 3: balanced with a cache in int8 */
    ramet_session_options o;
    ramet_session *s = NULL;
    ramet_session_options_init(&o, sizeof o);
    o.mode = mode == 3 ? RAMET_MODE_BALANCED : mode;
    o.cache = mode == 3 ? RAMET_CACHE_INT8 : RAMET_CACHE_DEFAULT;
    o.max_context = context;
    o.max_sequences = 3;
    o.max_rank = 4;
    OK(ramet_session_create(&s, m, &o));
    return s;
}

static void run(ramet_session *s, int32_t sequence, int64_t from, int64_t n) {
    int32_t ids[200], seq[200];
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)((from + i) * 37 % 301), seq[i] = sequence;
    OK(ramet_session_run(NULL, NULL, s, ids, seq, NULL, n, NULL, NULL));
}

/* Logits of MORE further tokens, one after another. */
static void further(float out[MORE][VOCAB], ramet_session *s, int32_t sequence) {
    for (int i = 0; i < MORE; i++) {
        const float *logits;
        OK(ramet_session_run(&logits, NULL, s, &(int32_t){100 + i}, &sequence, NULL, 1, NULL, NULL));
        memcpy(out[i], logits, sizeof out[i]);
    }
}

static void load_path(ramet_session *s, int32_t sequence, const char *path) {
    ramet_source source;
    ramet_source_from_path(&source, sizeof source, path);
    OK(ramet_session_load(s, sequence, &source));
}

static ramet_source memory(const void *data, uint64_t size) { return (ramet_source){.struct_size = sizeof(ramet_source), .kind = RAMET_SOURCE_MEMORY, .data = data, .length = size}; }

static ramet_adapter *learned(const ramet_model *m, int salt) {
    ramet_adapter *a = NULL;
    OK(ramet__adapter_new(&a, m, "q_proj,v_proj", 4, 4, 7));
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t j = 0; j < a->lora[i].n * 4; j++) a->lora[i].b[j] = (float)((j * 37 + salt) % 101 - 50) / 800;
    return a;
}

static void test_state_goes_on_with_the_same_bits(void **state) {
    static const int64_t lengths[] = {1, 20, 63, 64, 65, 128, 150};
    static float want[MORE][VOCAB], is[MORE][VOCAB];
    ramet_model *m = tiny();
    ramet_adapter *a = learned(m, 1);
    for (int i = 0; i < 4 * RAMET__COUNT(lengths); i++) {
        const int32_t mode = i % 4;
        const int64_t n = lengths[i / 4];
        const char *path = scratch(".seq"), *again = scratch(".again");
        ramet_session *s = session_in(m, mode, 200), *t = session_in(m, mode, 160);
        int32_t index, held[200], loaded[200];
        OK(ramet_session_attach(&index, s, a, 0.5f));
        OK(ramet_session_attach(&index, t, a, 0.5f));
        if (i & 1) {
            OK(ramet_session_use(s, 1, index));
            OK(ramet_session_use(t, 2, index));
        }
        run(s, 1, 0, n + 9); /* longer before: what stood behind the end is not saved */
        OK(ramet_session_truncate(s, 1, n));
        OK(ramet_session_save(s, 1, path));
        run(t, 2, 5, 70); /* is dropped */
        load_path(t, 2, path);
        assert_int_equal(ramet_session_length(t, 2), n);
        OK(ramet_session_tokens(held, n, s, 1));
        OK(ramet_session_tokens(loaded, n, t, 2));
        assert_memory_equal(held, loaded, (size_t)n * sizeof *held);
        assert_int_equal(held[n - 1], (n - 1) * 37 % 301);
        REFUSED(RAMET_E_ARGUMENT, "holds", ramet_session_tokens(held, n + 1, t, 2));
        OK(ramet_session_save(t, 2, again));
        /* the same state is the same file, and the same in memory */
        char *file[2], *data = NULL;
        size_t size[2];
        uint64_t bytes;
        OK(ramet__file_read_all(&file[0], &size[0], rt->mem, path, 0));
        OK(ramet__file_read_all(&file[1], &size[1], rt->mem, again, 0));
        OK(ramet_session_pack(&data, &bytes, t, 2));
        assert_true(size[0] == size[1] && size[0] == bytes);
        assert_memory_equal(file[0], file[1], size[0]);
        assert_memory_equal(file[0], data, size[0]);
        further(want, s, 1);
        further(is, t, 2);
        assert_memory_equal(want, is, sizeof want);
        /* from memory, into the sequence that has moved on; a fork of it shares what was loaded */
        const ramet_source source = memory(data, bytes);
        OK(ramet_session_load(t, 2, &source));
        OK(ramet_session_fork(t, 0, 2, n));
        further(is, t, 2);
        assert_memory_equal(want, is, sizeof want);
        further(is, t, 0);
        assert_memory_equal(want, is, sizeof want);
        ramet_string_free(data);
        for (int j = 0; j < 2; j++) ramet__free(file[j]);
        remove(path);
        remove(again);
        ramet_session_free(s);
        ramet_session_free(t);
    }
    ramet_adapter_free(a);
    ramet_model_free(m);
}

static void test_state_of_what_does_not_go_together(void **state) {
    ramet_model *m = tiny(), *other = NULL;
    ramet_adapter *a = learned(m, 1), *b = learned(m, 2);
    char *data = NULL, *with_a = NULL;
    uint64_t size, size_a;
    int32_t ia, ib, half;
    const char *q8 = getenv("RAMET_TINY_MODEL_Q8_0");
    if (!q8) skip();
    OK(ramet_model_load_path(&other, rt, q8));
    ramet_session *s = session_in(m, RAMET_MODE_BALANCED, 100), *t;
    OK(ramet_session_attach(&ia, s, a, 1));
    OK(ramet_session_attach(&ib, s, b, 1));
    OK(ramet_session_attach(&half, s, a, 0.5f));
    REFUSED(RAMET_E_STATE, "empty", ramet_session_pack(&data, &size, s, 0));
    assert_null(data);
    run(s, 0, 0, 70);
    OK(ramet_session_pack(&data, &size, s, 0));
    OK(ramet_session_use(s, 0, ia));
    OK(ramet_session_pack(&with_a, &size_a, s, 0));
    const ramet_source plain = memory(data, size), adapted = memory(with_a, size_a);
    REFUSED(RAMET_E_INCONSISTENT, "another adapter", ramet_session_load(s, 0, &plain));
    OK(ramet_session_load(s, 0, &adapted));
    OK(ramet_session_use(s, 0, ib));
    REFUSED(RAMET_E_INCONSISTENT, "another adapter", ramet_session_load(s, 0, &adapted));
    OK(ramet_session_use(s, 0, half));
    REFUSED(RAMET_E_INCONSISTENT, "another adapter", ramet_session_load(s, 0, &adapted));
    REFUSED(RAMET_E_INCONSISTENT, "another adapter", ramet_session_load(s, 1, &adapted));
    OK(ramet_session_load(s, 1, &plain));
    t = session_in(other, RAMET_MODE_BALANCED, 100);
    REFUSED(RAMET_E_INCONSISTENT, "another model", ramet_session_load(t, 0, &plain));
    ramet_session_free(t);
    for (int32_t mode = 0; mode < 3; mode += 2) {
        t = session_in(m, mode, 100);
        REFUSED(RAMET_E_INCONSISTENT, "another mode", ramet_session_load(t, 0, &plain));
        ramet_session_free(t);
    }
    t = session_in(m, RAMET_MODE_BALANCED, 69);
    REFUSED(RAMET_E_LIMIT, "max_context", ramet_session_load(t, 0, &plain));
    assert_int_equal(ramet_session_length(t, 0), 0);
    REFUSED(RAMET_E_ARGUMENT, "sequence 3", ramet_session_load(t, 3, &plain));
    REFUSED(RAMET_E_ARGUMENT, "source", ramet_session_load(t, 0, NULL));
    ramet_session_free(t);
    ramet_string_free(data);
    ramet_string_free(with_a);
    ramet_session_free(s);
    ramet_adapter_free(a);
    ramet_adapter_free(b);
    ramet_model_free(other);
    ramet_model_free(m);
}

/* Cut anywhere, and one bit turned in every byte of the header and in a spread of the rest: an error, and the sequence is as it was. */
static void test_state_damaged(void **state) {
    static float want[MORE][VOCAB], is[MORE][VOCAB];
    ramet_model *m = tiny();
    ramet_session *s = session_in(m, RAMET_MODE_BALANCED, 100);
    char *data = NULL;
    uint64_t size, header;
    run(s, 0, 3, 67);
    OK(ramet_session_pack(&data, &size, s, 0));
    memcpy(&header, data, 8);
    header += 8;
    run(s, 1, 0, 40);
    further(want, s, 1);
    OK(ramet_session_truncate(s, 1, 40));
    for (uint64_t n = 0; n < size; n += n < header + 300 ? 1 : 997) {
        ramet_source source = memory(data, n);
        char one = 0;
        if (!n) source.data = &one;
        assert_int_not_equal(ramet_session_load(s, 1, &source), RAMET_OK);
    }
    int64_t spaces = 0;
    for (uint64_t i = 0; i < size; i += i < header + 67 * 4 + 8 ? 1 : 101) {
        ramet_source source = memory(data, size);
        if (i >= 8 && i < header && data[i] == ' ' && i > header - 64) { /* padding: what is still JSON is still the file */
            spaces++;
            continue;
        }
        data[i] ^= (char)(1 << (i * 7 + i / 8) % 8);
        const ramet_status st = ramet_session_load(s, 1, &source);
        if (!st) fail_msg("byte %llu turned to %02x was taken", (unsigned long long)i, (unsigned char)data[i]);
        assert_true(strlen(ramet_last_error()) > 10);
        assert_int_equal(ramet_session_length(s, 1), 40);
        data[i] ^= (char)(1 << (i * 7 + i / 8) % 8);
    }
    assert_true(spaces < 64);
    further(is, s, 1);
    assert_memory_equal(want, is, sizeof want);
    const ramet_source source = memory(data, size);
    OK(ramet_session_load(s, 1, &source));
    assert_int_equal(ramet_session_length(s, 1), 67);
    ramet_string_free(data);
    ramet_session_free(s);
    ramet_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_goes_on_with_the_same_bits),
        cmocka_unit_test(test_state_of_what_does_not_go_together),
        cmocka_unit_test(test_state_damaged),
    };
    return cmocka_run_group_tests(tests, make_runtime, drop_runtime);
}
