/* SPDX-License-Identifier: Apache-2.0 */
/* Chats as their Jinja templates render them, and ids that what users write cannot forge. */
#include "base/runtime.h"
#include "golden_chat.h"
#include "support.h"
#include "tokenizer/vocabulary.h"

static ramet_runtime *runtime;
static ramet__mem *mem;
static ramet__tokenizer *tiny;

static int setup(void **state) {
    if (ramet_runtime_create(&runtime, NULL)) return 1;
    mem = runtime->mem;
    tiny = load_gguf(mem, getenv("RAMET_TINY_MODEL"));
    return 0;
}

static int teardown(void **state) {
    ramet__tokenizer_free(tiny);
    ramet_runtime_free(runtime);
    return 0;
}

static void renders_as_the_template_does(void **state) {
    for (size_t i = 0; i < sizeof(chats) / sizeof(chats[0]); i++) {
        const chat *c = &chats[i];
        char *text = NULL;
        tiny->chat_template = c->template;
        if (ramet__chat_format(&text, mem, tiny, c->n, c->roles, c->contents, c->prompt)) fail_msg("%s", ramet_last_error());
        assert_string_equal(text, c->wanted);
        ramet_string_free(text);
    }
}

static void encodes_as_the_rendered_text(void **state) {
    for (size_t i = 0; i < sizeof(chats) / sizeof(chats[0]); i++) {
        const chat *c = &chats[i];
        int32_t wanted[512], ids[512], forged = 0;
        int64_t n_wanted, n = -1;
        for (int32_t k = 0; k < c->n; k++) forged |= strstr(c->contents[k], "<|im_end|>") != NULL;
        tiny->chat_template = c->template;
        if (ramet__tokenizer_encode(&n_wanted, wanted, 512, tiny, c->wanted, strlen(c->wanted), RAMET__TOKENIZE_SPECIAL))
            fail_msg("%s", ramet_last_error());
        if (ramet__chat_encode(&n, ids, 512, tiny, c->n, c->roles, c->contents, c->prompt)) fail_msg("%s", ramet_last_error());
        if (!forged) {
            assert_int_equal(n, n_wanted);
            assert_memory_equal(ids, wanted, (size_t)n * sizeof(ids[0]));
        }
        int32_t ends = 0, turns = c->n; /* one end a message, the default system message included, and none from contents */
        for (int64_t k = 0; k < n; k++) ends += ids[k] == 2;
        turns += c->template != no_default && c->n && strcmp(c->roles[0], "system");
        assert_int_equal(ends, turns);
        int64_t small = -1;
        ids[5] = -7;
        if (n <= 5) continue;
        assert_int_equal(ramet__chat_encode(&small, ids, 5, tiny, c->n, c->roles, c->contents, c->prompt), RAMET_E_LIMIT);
        assert_int_equal(small, n);
        assert_int_equal(ids[5], -7);
        assert_int_equal(ids[4], wanted[4]);
    }
}

static void refuses_what_it_does_not_know(void **state) {
    const char *role = "user", *content = "x", *none = NULL;
    static const char *const templates[] = { NULL, "{{ '[INST]' + messages[0]['content'] + '[/INST]' }}", "<|im_start|> alone" };
    for (size_t i = 0; i < sizeof(templates) / sizeof(templates[0]); i++) {
        char *text = NULL;
        int64_t n = -1;
        tiny->chat_template = templates[i];
        assert_int_equal(ramet__chat_format(&text, mem, tiny, 1, &role, &content, 0), RAMET_E_UNSUPPORTED);
        assert_int_equal(ramet__chat_encode(&n, NULL, 0, tiny, 1, &role, &content, 0), RAMET_E_UNSUPPORTED);
        assert_true(!text && n == -1);
    }
    char *text = NULL;
    tiny->chat_template = no_default;
    assert_int_equal(ramet__chat_format(&text, mem, tiny, 1, &role, &none, 0), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__chat_format(&text, mem, tiny, 1, NULL, &content, 0), RAMET_E_ARGUMENT);
    assert_int_equal(ramet__chat_format(&text, mem, tiny, -1, &role, &content, 0), RAMET_E_ARGUMENT);
    static const char json[] = "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"model\":{\"type\":\"BPE\","
                               "\"vocab\":{\"a\":0},\"merges\":[]}}";
    ramet__tokenizer *bare = NULL;
    assert_int_equal(ramet__tokenizer_from_json(&bare, mem, json, sizeof(json) - 1, NULL, 0), RAMET_OK);
    bare->chat_template = no_default;
    assert_int_equal(ramet__chat_format(&text, mem, bare, 1, &role, &content, 0), RAMET_E_INCONSISTENT);
    assert_non_null(strstr(ramet_last_error(), "<|im_start|>"));
    ramet__tokenizer_free(bare);
    assert_null(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(renders_as_the_template_does),
        cmocka_unit_test(encodes_as_the_rendered_text),
        cmocka_unit_test(refuses_what_it_does_not_know),
    };
    return cmocka_run_group_tests_name("chat", tests, setup, teardown);
}
