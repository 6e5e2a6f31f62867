/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF: what is refused, and how. A valid small file is built in memory from a description; each row of the table changes the
 * description in one way, and the verdict must be the same by every way of reading, with an offset in the message. */
#include "format/gguf.h"
#include "support.h"
#include <time.h>

static ramet__mem *mem;
static int setup(void **state) { return ramet__mem_create(&mem, NULL, NULL, 0); }
static int teardown(void **state) {
    assert_all_freed(mem);
    ramet__mem_free(mem);
    remove(scratch_path());
    return 0;
}

/* ---- building -------------------------------------------------------------------------------------------------- */

typedef struct spec_kv { const char *key; uint64_t key_len; size_t key_n; uint32_t type; uint8_t value[64]; size_t value_n; } spec_kv;
typedef struct spec_tensor { const char *name; uint64_t name_len; size_t name_n; uint32_t rank; uint64_t dim[6]; uint32_t type; uint64_t offset; } spec_tensor;
typedef struct spec {
    char magic[4];
    uint32_t version;
    uint64_t n_tensors, n_kv;         /* as the file claims */
    spec_kv kv[4]; size_t kvs;        /* as there are */
    spec_tensor tensor[3]; size_t tensors;
    size_t align, data, cut;          /* data bytes after the padded header; cut: bytes taken off the end */
} spec;

static void set_key(spec_kv *kv, const char *key, size_t n) { kv->key = key; kv->key_len = n; kv->key_n = n; }
static void set_name(spec_tensor *t, const char *name, size_t n) { t->name = name; t->name_len = n; t->name_n = n; }
static void set_value(spec_kv *kv, uint32_t type, const void *value, size_t n) { kv->type = type; memcpy(kv->value, value,
        n); kv->value_n = n; }
static void set_u32(spec_kv *kv, uint32_t v) { set_value(kv, RAMET__GGUF_U32, &v, 4); }
static void set_array(spec_kv *kv, uint32_t element, uint64_t count) { /* 3 bytes of elements follow */
    set_value(kv, RAMET__GGUF_ARRAY, "", 0);
    memcpy(kv->value, &element, 4);
    memcpy(kv->value + 4, &count, 8);
    memcpy(kv->value + 12, "\1\0\1", 3);
    kv->value_n = 15;
}
static void set_dims(spec_tensor *t, uint32_t rank, uint64_t d0, uint64_t d1,
                     uint64_t d2) { t->rank = rank; t->dim[0] = d0; t->dim[1] = d1; t->dim[2] = d2; }

static spec valid_spec(void) {
    spec s = {.magic = {'G', 'G', 'U', 'F'}, .version = 3, .n_tensors = 2, .n_kv = 3, .kvs = 3, .tensors = 2, .align = 32,
              .data = 96};
    set_key(&s.kv[0], "general.architecture", 20);
    set_value(&s.kv[0], RAMET__GGUF_STRING, "\4\0\0\0\0\0\0\0test", 12);
    set_key(&s.kv[1], "general.alignment", 17);
    set_u32(&s.kv[1], 32);
    set_key(&s.kv[2], "x.flags", 7);
    set_array(&s.kv[2], RAMET__GGUF_BOOL, 3);
    set_name(&s.tensor[0], "first", 5);
    set_dims(&s.tensor[0], 2, 4, 2, 0);
    set_name(&s.tensor[1], "second", 6);
    set_dims(&s.tensor[1], 1, 64, 0, 0);
    s.tensor[1].type = 2; /* Q4_0: 36 bytes, padded to 64 */
    s.tensor[1].offset = 32;
    return s;
}

static bytes build(const spec *s) {
    bytes b = {0};
    add(&b, s->magic, 4);
    add32(&b, s->version);
    add64(&b, s->n_tensors);
    add64(&b, s->n_kv);
    for (size_t i = 0; i < s->kvs; i++) {
        add64(&b, s->kv[i].key_len);
        add(&b, s->kv[i].key, s->kv[i].key_n);
        add32(&b, s->kv[i].type);
        add(&b, s->kv[i].value, s->kv[i].value_n);
    }
    for (size_t i = 0; i < s->tensors; i++) {
        const spec_tensor *t = &s->tensor[i];
        add64(&b, t->name_len);
        add(&b, t->name, t->name_n);
        add32(&b, t->rank);
        for (uint32_t d = 0; d < t->rank && d < 6; d++) add64(&b, t->dim[d]);
        add32(&b, t->type);
        add64(&b, t->offset);
    }
    while (b.n % s->align) add8(&b, 0);
    for (size_t i = 0; i < s->data; i++) add8(&b, (uint8_t)i);
    b.n -= s->cut < b.n ? s->cut : b.n;
    return b;
}

static ramet_status open_bytes(const bytes *b, int way, ramet__gguf **g) {
    ramet__reader *reader = open_way(mem, b, way);
    ramet_status st = ramet__gguf_open(g, mem, reader);
    ramet__reader_free(reader);
    return st;
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

typedef struct verdict { const char *what; ramet_status status; const char *says; } verdict;
#define LONG_NAME "0123456789012345678901234567890123456789012345678901234567890123"

/* Change *s as row says; what is NULL after the last row. */
static verdict change(spec *s, int row) {
    int n = 0;
    spec_kv *kv = s->kv;
    spec_tensor *t = s->tensor;
#define CASE(what, status, says, ...) if (row == n++) { __VA_ARGS__; return (verdict){what, status, says}; }
#define F RAMET_E_FORMAT
#define L RAMET_E_LIMIT
#define U RAMET_E_UNSUPPORTED
    CASE("as it is", RAMET_OK, "", (void)0)
    CASE("magic", F, "byte 0", s->magic[3] = 'X')
    CASE("version 0", U, "version 0 at byte 4", s->version = 0)
    CASE("version 1", U, "version 1", s->version = 1)
    CASE("version 4", U, "version 4", s->version = 4)
    CASE("byte-swapped", U, "big-endian", s->version = 0x03000000)
    CASE("n_kv 2^64-1", L, "keys at byte 16", s->n_kv = UINT64_MAX)
    CASE("n_tensors 2^64-1", L, "tensors at byte 8", s->n_tensors = UINT64_MAX)
    CASE("n_kv whose size wraps", L, "byte 16", s->n_kv = UINT64_MAX / 14 + 1)
    CASE("n_tensors whose size wraps", L, "byte 8", s->n_tensors = UINT64_MAX / 25 + 1)
    CASE("more keys than bytes", F, "byte 16", s->n_kv = 1000)
    CASE("more tensors than bytes", F, "byte 8", s->n_tensors = 1000)
    CASE("one key more than there is", F, "byte", s->n_kv = 4)
    CASE("one tensor more than there is", F, "byte", s->n_tensors = 3)
    CASE("one key less", F, "byte", s->n_kv = 2)
    CASE("one tensor less", F, "byte", s->n_tensors = 1)
    CASE("key past the end", F, "byte", kv[0].key_len = 100000)
    CASE("key length wraps", F, "byte", kv[0].key_len = UINT64_MAX)
    CASE("key length wraps with the cursor", F, "byte", kv[0].key_len = UINT64_MAX - 31)
    CASE("string past the end", F, "byte", kv[0].value[1] = 0xff)
    CASE("string length wraps", F, "byte", memset(kv[0].value, 0xff, 8))
    CASE("empty key", F, "empty key at byte 24", set_key(&kv[0], "", 0))
    CASE("key with NUL", F, "NUL at byte 34", set_key(&kv[0], "ab\0cd", 5))
    CASE("key not UTF-8", F, "UTF-8 at byte 34", set_key(&kv[0], "ab\xff""cd", 5))
    CASE("key twice", F, "\"general.alignment\" occurs twice", set_key(&kv[2], "general.alignment", 17))
    CASE("value type 13", F, "value type is 13", kv[0].type = 13)
    CASE("value type -1", F, "byte", kv[0].type = UINT32_MAX)
    CASE("bool 2", F, "bool is 2", set_value(&kv[2], RAMET__GGUF_BOOL, "\2", 1))
    CASE("bool 2 in an array", F, "bool is 2", kv[2].value[13] = 2)
    CASE("array longer than the file", F, "array of 1000 elements", set_array(&kv[2], RAMET__GGUF_U8, 1000))
    CASE("array size wraps", F, "byte", set_array(&kv[2], RAMET__GGUF_U32, UINT64_MAX / 4 + 2))
    CASE("array of 2^63", F, "byte", set_array(&kv[2], RAMET__GGUF_U8, (uint64_t)1 << 63))
    CASE("array of 2^61 strings", F, "byte", set_array(&kv[2], RAMET__GGUF_STRING, (uint64_t)1 << 61))
    CASE("array of arrays", U, "array of arrays at byte", set_array(&kv[2], RAMET__GGUF_ARRAY, 3))
    CASE("unknown element type", F, "element type is 99", set_array(&kv[2], 99, (uint64_t)1 << 62))
    CASE("string in an array past the end", F, "byte", set_array(&kv[2], RAMET__GGUF_STRING, 1))
    CASE("alignment 0", F, "general.alignment", set_u32(&kv[1], 0))
    CASE("alignment 13", F, "is 13", set_u32(&kv[1], 13))
    CASE("alignment 2^31", F, "is 2147483648", set_u32(&kv[1], (uint32_t)1 << 31))
    CASE("alignment of another type", F, "must be a uint32", set_value(&kv[1], RAMET__GGUF_U64, "\40\0\0\0\0\0\0\0", 8))
    CASE("tensor name of 64 bytes", F, "64 bytes", set_name(&t[0], LONG_NAME, 64))
    CASE("tensor name past the end", F, "byte", t[0].name_len = UINT64_MAX - 7)
    CASE("tensor name empty", F, "empty", set_name(&t[0], "", 0))
    CASE("tensor name with NUL", F, "NUL", set_name(&t[0], "a\0b", 3))
    CASE("tensor name not UTF-8", F, "UTF-8", set_name(&t[0], "a\xc0\x80", 3))
    CASE("tensor name twice", F, "\"second\" occurs twice", set_name(&t[0], "second", 6))
    CASE("rank 5", F, "rank 5", t[0].rank = 5)
    CASE("rank 2^32-1", F, "rank 4294967295", t[0].rank = UINT32_MAX)
    CASE("negative dimension", F, "negative", t[0].dim[0] = UINT64_MAX - 3)
    CASE("product over INT64", F, "2^63 elements", set_dims(&t[0], 3, (uint64_t)1 << 31, (uint64_t)1 << 31, 4))
    CASE("product wraps to 0", F, "2^63 elements", set_dims(&t[0], 2, (uint64_t)1 << 32, (uint64_t)1 << 32, 0))
    CASE("product hidden by a zero", F, "2^63 elements", set_dims(&t[0], 3, (uint64_t)1 << 62, 4, 0))
    CASE("bytes over INT64", F, "2^63 bytes", set_dims(&t[0], 1, (uint64_t)1 << 62, 0, 0))
    CASE("padding wraps", F, "2^63", set_dims(&t[0], 1, INT64_MAX, 0, 0); t[0].type = 1; t[0].dim[0] = INT64_MAX / 2)
    CASE("running sum wraps", F, "2^63", set_dims(&t[0], 1, (uint64_t)1 << 60, 0, 0); set_dims(&t[1], 1, (uint64_t)1 << 60, 0,
            0); t[1].type = 0; t[1].offset = (uint64_t)1 << 62)
    CASE("type -1", F, "no encoding has number -1", t[0].type = UINT32_MAX)
    CASE("type 42", F, "no encoding has number 42", t[0].type = 42)
    CASE("retired type", U, "withdrawn", t[0].type = 4)
    CASE("retired type", U, "withdrawn", t[0].type = 31)
    CASE("Q8_K", U, "\"first\": encoding Q8_K", t[0].type = 15)
    CASE("Q4_K in short rows", F, "multiple of Q4_K's block of 256", t[0].type = 12)
    CASE("NVFP4", U, "NVFP4", t[1].type = 40)
    CASE("row not a multiple of its block", F, "multiple of Q4_0's block of 32", t[1].dim[0] = 48)
    CASE("scalar of a block encoding", F, "multiple", t[1].rank = 0)
    CASE("offset unaligned", F, "not a multiple of the alignment", t[1].offset = 33)
    CASE("offset overlaps", F, "gap or overlaps", t[1].offset = 0)
    CASE("offset leaves a gap", F, "gap or overlaps", t[1].offset = 64; s->data += 32)
    CASE("offset beyond the file", F, "byte", t[1].offset = (uint64_t)1 << 40)
    CASE("offset of the first not 0", F, "gap", t[0].offset = 32)
    CASE("region short", F, "cut short", t[1].dim[0] = 32 * 100)
    CASE("last byte missing", F, "byte", s->cut = 1)
    CASE("one byte too many", F, "1 bytes follow", s->data += 1)
    CASE("trailing payload", F, "32 bytes follow", s->data += 32)
    CASE("zero dimension", RAMET_OK, "", set_dims(&t[0], 2, 4, 0, 0); t[1].offset = 0; s->data = 64)
    CASE("rank 0", RAMET_OK, "", t[0].rank = 0)
    CASE("empty arrays", RAMET_OK, "", set_array(&kv[2], RAMET__GGUF_STRING, 0); kv[2].value_n = 12)
    CASE("alignment 64", RAMET_OK, "", set_u32(&kv[1], 64); s->align = 64; t[1].offset = 64; s->data = 128)
    CASE("no tensors, padded", RAMET_OK, "", s->n_tensors = s->tensors = s->data = 0)
    CASE("no tensors, not padded", RAMET_OK, "", s->n_tensors = s->tensors = s->data = 0; s->align = 1)
    CASE("no tensors, half padded", F, "byte", s->n_tensors = s->tensors = s->data = 0; s->cut = 1)
    CASE("no tensors, bytes after it", F, "follow", s->n_tensors = s->tensors = 0; s->data = 32)
    CASE("nothing at all", F, "cut short", s->cut = 96)
#undef CASE
#undef F
#undef L
#undef U
    return (verdict){0};
}

static void answers_as_the_table_says(void **state) {
    int row = 0;
    for (;; row++) {
        spec s = valid_spec();
        verdict v = change(&s, row);
        if (!v.what) break;
        bytes b = build(&s);
        char first[1024] = "";
        for (int way = 0; way < WAYS; way++) {
            ramet__gguf *g = NULL;
            ramet_status st = open_bytes(&b, way, &g);
            if (st != v.status)
                fail_msg("%s by %s: %s (%s)", v.what, way_names[way], ramet_status_name(st), st ? ramet_last_error() : "");
            assert_true((g == NULL) == (st != RAMET_OK));
            ramet__gguf_free(g);
            if (!st) continue;
            const char *m = ramet_last_error(), *at = strstr(m, "GGUF: ");
            if (!strstr(m, v.says) || !strstr(m, "byte ") || !at)
                fail_msg("%s by %s: the message is \"%s\"", v.what, way_names[way], m);
            if (way == 0) snprintf(first, sizeof first, "%s", at); /* after the reader's name */
            else assert_string_equal(at, first);
        }
        free(b.data);
    }
    assert_true(row > 70);
}

static void every_truncation_is_an_error(void **state) {
    spec s = valid_spec();
    bytes b = build(&s);
    for (size_t n = 0; n < b.n; n++) {
        bytes cut = {malloc(n + !n), n}; /* exact: reading past the end is seen by the sanitizers */
        memcpy(cut.data, b.data, n);
        for (int way = n ? 0 : 1; way < (n % 8 ? 2 : WAYS); way++) {
            ramet__gguf *g = NULL;
            ramet_status st = open_bytes(&cut, way, &g);
            if (st != RAMET_E_FORMAT || g) fail_msg("cut to %zu by %s: %s", n, way_names[way], ramet_status_name(st));
        }
        free(cut.data);
    }
    free(b.data);
}

/* ---- what is read ---------------------------------------------------------------------------------------------- */

static void reads_every_value(void **state) {
    spec s = valid_spec();
    s.kvs = 0;
    s.n_kv = 14;
    bytes head = {0}, tail = {0}, b = build(&s);
    add(&head, b.data, 24);
    static const struct { const char *key; uint32_t type; uint8_t n; uint8_t value[36]; } kvs[] = {
        {"u8", 0, 1, {200}}, {"i8", 1, 1, {200}}, {"u16", 2, 2, {0xff, 0xff}}, {"i16", 3, 2, {0xff, 0xff}},
            {"u32", 4, 4, {0, 0, 0, 0x80}}, {"i32", 5, 4, {0, 0, 0, 0x80}},
        {"f32", 6, 4, {0, 0, 0x20, 0x40}}, {"bool", 7, 1, {1}}, {"string", 8, 13, {5, 0, 0, 0, 0, 0, 0, 0, 'a', 0, 'b', 0xff, 'c'}},
            {"u64", 10, 8, {255, 255, 255, 255, 255, 255, 255, 255}},
        {"i64", 11, 8, {255, 255, 255, 255, 255, 255, 255, 255}}, {"f64", 12, 8, {0, 0, 0, 0, 0, 0, 4, 0x40}},
        {"strings", 9, 31, {8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 'x', 'y', 'z', 0, 0, 0, 0, 0, 0, 0, 0, 0}},
            {"shorts", 9, 16, {3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0xfe, 0xff}},
    };
    for (size_t i = 0; i < sizeof kvs / sizeof *kvs; i++) {
        add64(&head, strlen(kvs[i].key));
        add(&head, kvs[i].key, strlen(kvs[i].key));
        add32(&head, kvs[i].type);
        add(&head, kvs[i].value, kvs[i].n);
    }
    s.tensors = 2; /* the infos and data of the valid file, the header's padding made anew */
    add(&tail, b.data + 24, 5 + 8 + 4 + 16 + 12 + 6 + 8 + 4 + 8 + 12);
    add(&head, tail.data, tail.n);
    while (head.n % 32) add8(&head, 0);
    size_t data = head.n;
    for (int i = 0; i < 96; i++) add8(&head, (uint8_t)i);
    ramet__gguf *g = NULL;
    for (int way = 0; way < WAYS; way++) {
        if (open_bytes(&head, way, &g)) fail_msg("%s", ramet_last_error());
        int64_t i = 0;
        double f = 0;
        const char *text = NULL;
        static const struct { const char *key; int64_t want; } ints[] = {{"u8", 200}, {"i8", -56}, {"u16", 65535}, {"i16", -1},
                {"u32", 2147483648}, {"i32", -2147483648LL}, {"bool", 1}, {"i64", -1}, {"absent", 77}};
        for (size_t k = 0; k < sizeof ints / sizeof *ints; k++) {
            assert_int_equal(ramet__gguf_i64(&i, g, ints[k].key, 77), RAMET_OK);
            assert_int_equal(i, ints[k].want);
        }
        assert_int_equal(ramet__gguf_i64(&i, g, "u64", 0), RAMET_E_FORMAT); /* does not fit */
        assert_non_null(strstr(ramet_last_error(), "\"u64\""));
        assert_int_equal(ramet__gguf_i64(&i, g, "f32", 0), RAMET_E_FORMAT);
        assert_int_equal(ramet__gguf_i64(&i, g, "string", 0), RAMET_E_FORMAT);
        assert_int_equal(ramet__gguf_f64(&f, g, "f32", 0), RAMET_OK);
        assert_true(f == 2.5);
        assert_int_equal(ramet__gguf_f64(&f, g, "f64", 0), RAMET_OK);
        assert_true(f == 2.5);
        assert_int_equal(ramet__gguf_f64(&f, g, "i8", 0), RAMET_OK);
        assert_true(f == -56);
        assert_int_equal(ramet__gguf_f64(&f, g, "string", 0), RAMET_E_FORMAT);
        assert_int_equal(ramet__gguf_text(&text, g, "string", NULL), RAMET_E_FORMAT); /* it holds a NUL */
        assert_int_equal(ramet__gguf_text(&text, g, "absent", "x"), RAMET_OK);
        assert_string_equal(text, "x");
        assert_int_equal(ramet__gguf_text(&text, g, "u8", NULL), RAMET_E_FORMAT);
        const ramet__gguf_value *v = ramet__gguf_find(g, "string");
        assert_int_equal(v->v.s.len, 5);
        assert_memory_equal(v->v.s.text, "a\0b\xff" "c", 6);
        v = ramet__gguf_find(g, "strings");
        const ramet__gguf_string *strings = v->v.array;
        assert_int_equal(v->count, 2);
        assert_string_equal(strings[0].text, "xyz");
        assert_string_equal(strings[1].text, "");
        v = ramet__gguf_find(g, "shorts");
        assert_int_equal(v->element, RAMET__GGUF_I16);
        assert_int_equal(((const int16_t *)v->v.array)[1], -2);
        assert_null(ramet__gguf_find(g, "string2"));
        const ramet__gguf_tensor *t = ramet__gguf_tensor_find(g, "first");
        assert_int_equal(t->shape.rank, 2);
        assert_int_equal(t->shape.dim[0], 2); /* rows first, whatever the file says */
        assert_int_equal(t->shape.dim[1], 4);
        assert_int_equal(t->offset, data);
        assert_int_equal(t->bytes, 32);
        t = ramet__gguf_tensor_find(g, "second");
        assert_int_equal(t->enc, RAMET__ENC_Q4_0);
        assert_int_equal(t->offset, data + 32);
        assert_int_equal(t->bytes, 36);
        assert_null(ramet__gguf_tensor_find(g, "third"));
        ramet__gguf_free(g);
        g = NULL;
    }
    free(head.data);
    free(tail.data);
    free(b.data);
}

static void many_keys_are_bounded_and_quick(void **state) {
    for (int big = 0; big < 2; big++) {
        uint64_t n = big ? 1000000 : RAMET__GGUF_MAX_KV;
        bytes b = {malloc(24 + n * 20 + 64), 24 + n * 20};
        memset(b.data, 0, b.n);
        memcpy(b.data, "GGUF\3\0\0\0", 8);
        memcpy(b.data + 16, &n, 8);
        uint8_t *p = b.data + 24;
        for (uint64_t i = 0; i < n; i++, p += 20) {
            char key[8];
            snprintf(key, sizeof key, "k%06u", (unsigned)(big || i + 1 < n ? i : 7)); /* the last of the small file occurs twice */
            p[0] = 7;
            memcpy(p + 8, key, 7);
        }
        clock_t begin = clock();
        ramet__gguf *g = NULL;
        assert_int_equal(open_bytes(&b, BY_MEMORY, &g), big ? RAMET_E_LIMIT : RAMET_E_FORMAT);
        assert_non_null(strstr(ramet_last_error(), big ? "1000000 keys" : "\"k000007\" occurs twice"));
        double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
        if (seconds > 5) fail_msg("%llu keys took %.1f s: that is quadratic", (unsigned long long)n, seconds);
        free(b.data);
    }
}

static void a_file_that_shrinks_is_an_error(void **state) {
    spec s = valid_spec();
    bytes b = build(&s);
    ramet__gguf *g = NULL;
    ramet__reader *reader = open_way(mem, &b, BY_READING);
    assert_int_equal(truncate(scratch_path(), 60), 0);
    assert_int_equal(ramet__gguf_open(&g, mem, reader), RAMET_E_IO);
    assert_null(g);
    ramet__reader_free(reader);
    free(b.data);
}

static void failing_allocations_leave_nothing(void **state) {
    spec s = valid_spec();
    bytes b = build(&s);
    int done = 0;
    for (int64_t k = 0; !done; k++) {
        failing f = {INT64_MAX};
        ramet__mem *small = NULL;
        ramet__gguf *g = NULL;
        assert_int_equal(ramet__mem_create(&small, failing_alloc, &f, 0), RAMET_OK);
        ramet__reader *reader = open_way(small, &b, BY_BYTE_READS);
        f.left = k;
        ramet_status st = ramet__gguf_open(&g, small, reader);
        if (st && st != RAMET_E_MEMORY) fail_msg("allocation %lld: %s", (long long)k, ramet_last_error());
        done = st == RAMET_OK;
        ramet__gguf_free(g);
        ramet__reader_free(reader);
        assert_all_freed(small);
        ramet__mem_free(small);
        assert_true(k < 1000);
    }
    free(b.data);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

static bytes read_scratch(void) {
    bytes b = {0};
    char *text = NULL;
    if (ramet__file_read_all(&text, &b.n, mem, scratch_path(), 0)) fail_msg("%s", ramet_last_error());
    b.data = malloc(b.n + 1);
    memcpy(b.data, text, b.n);
    ramet__free(text);
    return b;
}

/* Everything that g holds, written anew. */
static ramet_status rewrite(const ramet__gguf *g, size_t step) {
    ramet_status st = RAMET_OK;
    ramet__gguf_writer *w = NULL;
    uint8_t part[64];
    RAMET__GO(ramet__gguf_writer_open(&w, mem, scratch_path()));
    for (int64_t i = 0; i < g->n_kv; i++) RAMET__GO(ramet__gguf_put(w, g->kv[i].key, &g->kv[i].value));
    for (int64_t i = 0; i < g->n_tensors; i++)
        RAMET__GO(ramet__gguf_declare(w, g->tensors[i].name, &g->tensors[i].shape, g->tensors[i].enc));
    for (int64_t i = 0; i < g->n_tensors; i++) {
        for (uint64_t at = 0; at < g->tensors[i].bytes; at += step) {
            uint64_t n = RAMET__MIN((uint64_t)step, g->tensors[i].bytes - at);
            RAMET__GO(ramet__reader_read(g->reader, part, g->tensors[i].offset + at, n));
            RAMET__GO(ramet__gguf_data(w, part, n));
        }
    }
    st = ramet__gguf_writer_commit(&w);
out:
    if (w) ramet__gguf_writer_drop(&w);
    return st;
}

static void writes_the_same_bytes_again(void **state) {
    static const int rows[] = {0, -1, -2};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        spec s = valid_spec();
        if (rows[r] == -1) { set_u32(&s.kv[1], 64); s.align = 64; s.tensor[1].offset = 64; s.data = 128; }
        if (rows[r] == -2) { set_dims(&s.tensor[0], 2, 4, 0, 0); s.tensor[1].offset = 0; s.data = 64; }
        bytes b = build(&s);
        memset(b.data + b.n - (s.data == 128 ? 28 : 28), 0, 28); /* our padding is zeros */
        if (rows[r] == -1) memset(b.data + b.n - 96, 0, 32);
        ramet__gguf *g = NULL;
        if (open_bytes(&b, BY_MEMORY, &g)) fail_msg("%s", ramet_last_error());
        if (rewrite(g, r ? 64 : 7)) fail_msg("%s", ramet_last_error());
        bytes again = read_scratch();
        assert_int_equal(again.n, b.n);
        assert_memory_equal(again.data, b.data, b.n);
        ramet__gguf_free(g);
        free(again.data);
        free(b.data);
    }
}

static void puts_read_back(void **state) {
    ramet__gguf_writer *w = NULL;
    ramet__gguf *g = NULL;
    ramet__shape shape = {2, {3, 32}};
    const float scores[3] = {1, -2, 0.5f};
    const ramet__gguf_string words[2] = {{"ab", 2}, {"", 0}};
    uint8_t data[3 * 34];
    int64_t i = 0;
    double f = 0;
    const char *text = NULL;
    for (size_t k = 0; k < sizeof data; k++) data[k] = (uint8_t)(k * 7);
    assert_int_equal(ramet__gguf_writer_open(&w, mem, scratch_path()), RAMET_OK);
    assert_int_equal(ramet__gguf_put_text(w, "t", "old", 3), RAMET_OK);
    assert_int_equal(ramet__gguf_put_u32(w, "u", 4000000000u), RAMET_OK);
    assert_int_equal(ramet__gguf_put_i64(w, "i", -5), RAMET_OK);
    assert_int_equal(ramet__gguf_put_f32(w, "f", 0.1f), RAMET_OK);
    assert_int_equal(ramet__gguf_put_bool(w, "b", 5), RAMET_OK);
    assert_int_equal(ramet__gguf_put_array(w, "scores", RAMET__GGUF_F32, 3, scores), RAMET_OK);
    assert_int_equal(ramet__gguf_put_array(w, "words", RAMET__GGUF_STRING, 2, words), RAMET_OK);
    assert_int_equal(ramet__gguf_put_text(w, "t", "newer", 5), RAMET_OK); /* replaces, in its place */
    assert_int_equal(ramet__gguf_declare(w, "w", &shape, RAMET__ENC_Q8_0), RAMET_OK);
    assert_int_equal(ramet__gguf_data(w, data, sizeof data), RAMET_OK);
    assert_int_equal(ramet__gguf_data(w, data, 0), RAMET_OK);
    if (ramet__gguf_writer_commit(&w)) fail_msg("%s", ramet_last_error());
    assert_null(w);
    bytes b = read_scratch();
    if (open_bytes(&b, BY_MEMORY, &g)) fail_msg("%s", ramet_last_error());
    assert_int_equal(g->n_kv, 7);
    assert_string_equal(g->kv[0].key, "t");
    assert_int_equal(ramet__gguf_text(&text, g, "t", NULL), RAMET_OK);
    assert_string_equal(text, "newer");
    assert_int_equal(ramet__gguf_i64(&i, g, "u", 0), RAMET_OK);
    assert_int_equal(i, 4000000000);
    assert_int_equal(ramet__gguf_i64(&i, g, "i", 0), RAMET_OK);
    assert_int_equal(i, -5);
    assert_int_equal(ramet__gguf_f64(&f, g, "f", 0), RAMET_OK);
    assert_true((float)f == 0.1f);
    assert_int_equal(ramet__gguf_i64(&i, g, "b", 0), RAMET_OK);
    assert_int_equal(i, 1);
    assert_memory_equal(ramet__gguf_find(g, "scores")->v.array, scores, sizeof scores);
    assert_string_equal(((const ramet__gguf_string *)ramet__gguf_find(g, "words")->v.array)[0].text, "ab");
    assert_true(ramet__shape_equal(&g->tensors[0].shape, &shape));
    assert_memory_equal(b.data + g->tensors[0].offset, data, sizeof data);
    ramet__gguf_free(g);
    free(b.data);
}

static void misuse_of_the_writer_is_refused(void **state) {
    ramet__gguf_writer *w = NULL;
    ramet__shape shape = {1, {32}}, odd = {1, {33}}, negative = {1, {-32}};
    ramet__gguf_value big = {.type = RAMET__GGUF_U8, .v.u = 256}, nested = {.type = RAMET__GGUF_ARRAY,
            .element = RAMET__GGUF_ARRAY};
    uint8_t data[35] = {0};
    remove(scratch_path());
    assert_int_equal(ramet__gguf_writer_open(&w, mem, scratch_path()), RAMET_OK);
    assert_int_equal(ramet__gguf_put_u32(w, "", 1), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__gguf_put_u32(w, "\xff", 1), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__gguf_put(w, "k", &big), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__gguf_put(w, "k", &nested), RAMET_E_UNSUPPORTED);
    assert_int_equal(ramet__gguf_put_u32(w, "general.alignment", 24), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__gguf_declare(w, LONG_NAME, &shape, RAMET__ENC_F32), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__gguf_declare(w, "a", &odd, RAMET__ENC_Q8_0), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__gguf_declare(w, "a", &negative, RAMET__ENC_F32), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__gguf_declare(w, "a", &shape, RAMET__ENC_Q8_0), RAMET_OK);
    assert_int_equal(ramet__gguf_data(w, data, 35), RAMET_E_STATE);
    assert_int_equal(ramet__gguf_data(w, data, 30), RAMET_OK);
    assert_int_equal(ramet__gguf_put_u32(w, "late", 1), RAMET_E_STATE);
    assert_int_equal(ramet__gguf_declare(w, "late", &shape, RAMET__ENC_F32), RAMET_E_STATE);
    assert_int_equal(ramet__gguf_writer_commit(&w), RAMET_E_STATE); /* 4 bytes are missing: no file */
    assert_null(w);
    assert_int_equal(ramet__path_kind(scratch_path()), 0);
    assert_int_equal(ramet__gguf_writer_open(&w, mem, scratch_path()), RAMET_OK);
    assert_int_equal(ramet__gguf_declare(w, "a", &shape, RAMET__ENC_Q8_0), RAMET_OK);
    assert_int_equal(ramet__gguf_declare(w, "a", &shape, RAMET__ENC_Q8_0), RAMET_OK);
    assert_int_equal(ramet__gguf_data(w, data, 34), RAMET_E_ARGUMENT); /* twice */
    ramet__gguf_writer_drop(&w);
    assert_int_equal(ramet__path_kind(scratch_path()), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_as_the_table_says), cmocka_unit_test(every_truncation_is_an_error),
            cmocka_unit_test(reads_every_value),
        cmocka_unit_test(many_keys_are_bounded_and_quick), cmocka_unit_test(a_file_that_shrinks_is_an_error),
            cmocka_unit_test(failing_allocations_leave_nothing),
        cmocka_unit_test(writes_the_same_bytes_again), cmocka_unit_test(puts_read_back),
            cmocka_unit_test(misuse_of_the_writer_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
