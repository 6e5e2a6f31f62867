#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes bert_tables.inc: run by hand with the `tokenizers` package installed, which is what must be matched.

For every code point the peer's BERT normalizer and pre-tokenizer say whether it is removed, white space, a Chinese character
or punctuation, and what it becomes in lower case without accents. Hangul syllables are decomposed by rule in wordpiece.c."""
import sys
import tokenizers
from tokenizers import normalizers, pre_tokenizers

WORD, REMOVED, SPACE, CHINESE, PUNCTUATION, ACCENT = range(6)
off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
clean = normalizers.BertNormalizer(**{**off, "clean_text": True})
chinese = normalizers.BertNormalizer(**{**off, "handle_chinese_chars": True})
plain = normalizers.BertNormalizer(**{**off, "lowercase": True, "strip_accents": True})
pre = pre_tokenizers.BertPreTokenizer()
starts, last, moves, longer = [], None, [], []
for code in range(0x110000):
    text = chr(code) if not 0xD800 <= code < 0xE000 else "a"
    cleaned, becomes = clean.normalize_str(text), plain.normalize_str("a" + text)[1:]
    kind = REMOVED if not cleaned else SPACE if cleaned == " " else CHINESE if chinese.normalize_str(text) == f" {text} " else ACCENT if not becomes else WORD
    if kind == WORD and len(pre.pre_tokenize_str(f"a{text}b")) == 3:
        kind = PUNCTUATION
    if kind != last:
        starts.append(code << 3 | kind)
        last = kind
    if kind in (REMOVED, SPACE, ACCENT) or becomes == text or 0xAC00 <= code < 0xD7A4 or text == "a":
        continue
    if len(becomes) > 1:
        longer.append((code, [ord(c) for c in becomes]))
        continue
    if moves:
        first, n, step, to = moves[-1]
        gap = code - first if n == 1 else step
        if ord(becomes) == to + n * gap and code == first + n * gap and gap in (1, 2) and n < 127:
            moves[-1] = (first, n + 1, gap, to)
            continue
    moves.append((code, 1, 1, ord(becomes)))


def write(out, name, numbers, bits=32):
    out.write(f"static const uint{bits}_t {name}[] = {{\n")
    for i in range(0, len(numbers), 14):
        out.write(" ".join(f"0x{n:x}," for n in numbers[i:i + 14]) + "\n")
    out.write("};\n")


with open(sys.argv[1] if len(sys.argv) > 1 else "bert_tables.inc", "w") as out:
    out.write("/* SPDX-License-Identifier: Apache-2.0 */\n")
    out.write(f"/* Written by make_bert.py from tokenizers {tokenizers.__version__}: first code point of each run << 3 | kind; first << 10 | bits 16 and 17\n"
              " * of what it becomes << 8 | step 2 << 7 | count, and the lower 16 bits of that; code point and the three it becomes, 0: fewer. */\n")
    write(out, "kinds", starts)
    write(out, "moves", [first << 10 | to >> 16 << 8 | (step == 2) << 7 | count for first, count, step, to in moves])
    write(out, "becomes", [to & 0xffff for first, count, step, to in moves], 16)
    write(out, "longer", [n for code, to in longer for n in [code, *to, *[0] * (3 - len(to))]])
