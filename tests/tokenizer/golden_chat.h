/* SPDX-License-Identifier: Apache-2.0 */
/* Chats as jinja2 3.1.6 renders them (trim_blocks, lstrip_blocks, as transformers does). with_default is SmolLM2-Instruct's template. */
typedef struct chat { const char *template; int32_t n; const char *roles[4], *contents[4]; int32_t prompt; const char *wanted; } chat;
static const char with_default[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYo"
    "u are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' "
    "+ message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %"
    "}{{ '<|im_start|>assistant\n' }}{% endif %}";
static const char escaped_default[] =
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>"
    "\\n' }}{%- else %}{{- '<|im_start|>system\\nIt\\'s a \"test\".\\tYes.<|im_end|>\\n' }}{%- endif %}{%- for mess"
    "age in messages %}{%- if not (loop.first and message.role == 'system') %}{{- '<|im_start|>' + message.role + '"
    "\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_s"
    "tart|>assistant\\n' }}{%- endif %}";
static const char no_default[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
static const chat chats[] = {
    { with_default, 1, { "user" }, { "Hello" }, 0,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start"
        "|>user\nHello<|im_end|>\n" },
    { with_default, 1, { "user" }, { "Hello" }, 1,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start"
        "|>user\nHello<|im_end|>\n<|im_start|>assistant\n" },
    { with_default, 4, { "system", "user", "assistant", "user" }, { "Be brief.", "a\n b  ", "", "<|im_end|>\?" }, 0,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\n b  <|im_end|>\n<|im_start|>assistant\n<|im_end|"
        ">\n<|im_start|>user\n<|im_end|>\?<|im_end|>\n" },
    { with_default, 4, { "system", "user", "assistant", "user" }, { "Be brief.", "a\n b  ", "", "<|im_end|>\?" }, 1,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\n b  <|im_end|>\n<|im_start|>assistant\n<|im_end|"
        ">\n<|im_start|>user\n<|im_end|>\?<|im_end|>\n<|im_start|>assistant\n" },
    { with_default, 2, { "assistant", "system" }, { "x", "late" }, 0,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start"
        "|>assistant\nx<|im_end|>\n<|im_start|>system\nlate<|im_end|>\n" },
    { with_default, 2, { "assistant", "system" }, { "x", "late" }, 1,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start"
        "|>assistant\nx<|im_end|>\n<|im_start|>system\nlate<|im_end|>\n<|im_start|>assistant\n" },
    { with_default, 0, { NULL }, { NULL }, 0,
        "" },
    { with_default, 0, { NULL }, { NULL }, 1,
        "<|im_start|>assistant\n" },
    { escaped_default, 1, { "user" }, { "Hello" }, 0,
        "<|im_start|>system\nIt's a \"test\".\tYes.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n" },
    { escaped_default, 1, { "user" }, { "Hello" }, 1,
        "<|im_start|>system\nIt's a \"test\".\tYes.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant"
        "\n" },
    { escaped_default, 4, { "system", "user", "assistant", "user" }, { "Be brief.", "a\n b  ", "", "<|im_end|>\?" }, 0,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\n b  <|im_end|>\n<|im_start|>assistant\n<|im_end|"
        ">\n<|im_start|>user\n<|im_end|>\?<|im_end|>\n" },
    { escaped_default, 4, { "system", "user", "assistant", "user" }, { "Be brief.", "a\n b  ", "", "<|im_end|>\?" }, 1,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\n b  <|im_end|>\n<|im_start|>assistant\n<|im_end|"
        ">\n<|im_start|>user\n<|im_end|>\?<|im_end|>\n<|im_start|>assistant\n" },
    { escaped_default, 2, { "assistant", "system" }, { "x", "late" }, 0,
        "<|im_start|>system\nIt's a \"test\".\tYes.<|im_end|>\n<|im_start|>assistant\nx<|im_end|>\n<|im_start|>system"
        "\nlate<|im_end|>\n" },
    { escaped_default, 2, { "assistant", "system" }, { "x", "late" }, 1,
        "<|im_start|>system\nIt's a \"test\".\tYes.<|im_end|>\n<|im_start|>assistant\nx<|im_end|>\n<|im_start|>system"
        "\nlate<|im_end|>\n<|im_start|>assistant\n" },
    { no_default, 1, { "user" }, { "Hello" }, 0,
        "<|im_start|>user\nHello<|im_end|>\n" },
    { no_default, 1, { "user" }, { "Hello" }, 1,
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n" },
    { no_default, 4, { "system", "user", "assistant", "user" }, { "Be brief.", "a\n b  ", "", "<|im_end|>\?" }, 0,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\n b  <|im_end|>\n<|im_start|>assistant\n<|im_end|"
        ">\n<|im_start|>user\n<|im_end|>\?<|im_end|>\n" },
    { no_default, 4, { "system", "user", "assistant", "user" }, { "Be brief.", "a\n b  ", "", "<|im_end|>\?" }, 1,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\n b  <|im_end|>\n<|im_start|>assistant\n<|im_end|"
        ">\n<|im_start|>user\n<|im_end|>\?<|im_end|>\n<|im_start|>assistant\n" },
    { no_default, 2, { "assistant", "system" }, { "x", "late" }, 0,
        "<|im_start|>assistant\nx<|im_end|>\n<|im_start|>system\nlate<|im_end|>\n" },
    { no_default, 2, { "assistant", "system" }, { "x", "late" }, 1,
        "<|im_start|>assistant\nx<|im_end|>\n<|im_start|>system\nlate<|im_end|>\n<|im_start|>assistant\n" },
    { no_default, 0, { NULL }, { NULL }, 0,
        "" },
    { no_default, 0, { NULL }, { NULL }, 1,
        "<|im_start|>assistant\n" },
};
