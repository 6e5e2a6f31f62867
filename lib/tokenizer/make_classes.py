#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes unicode_classes.inc: run by hand with the `tokenizers` package installed, which is what must be matched.

The classes of every code point are asked of the peer itself: letter, number and white space of its regular expressions
(Oniguruma) and numeric of its digit splitter (Rust), which know different Unicode versions."""
import sys
import tokenizers
from tokenizers import Regex, pre_tokenizers as pre

OTHER, LETTER, NUMBER, SPACE, DIGIT_ONLY = range(5)
is_class = [pre.Split(Regex(p), "removed") for p in (r"\p{L}", r"\p{N}", r"\s")]
digits = pre.Digits(individual_digits=True)


def classify(code):
    if 0xD800 <= code < 0xE000:
        return OTHER
    text = chr(code)
    letter, number, space = (not split.pre_tokenize_str(text) for split in is_class)
    numeric = len(digits.pre_tokenize_str(f"a{text}a")) == 3
    assert letter + number + space <= 1 and (numeric or not number) and not (numeric and (letter or space))
    return LETTER if letter else SPACE if space else NUMBER if number else DIGIT_ONLY if numeric else OTHER


starts, last = [], None
for code in range(0x110000):
    c = classify(code)
    if c != last:
        starts.append(code << 3 | c)
        last = c
with open(sys.argv[1] if len(sys.argv) > 1 else "unicode_classes.inc", "w") as out:
    out.write("/* SPDX-License-Identifier: Apache-2.0 */\n")
    out.write(f"/* Written by make_classes.py from tokenizers {tokenizers.__version__}: first code point of each run << 3 | class. */\n")
    for i in range(0, len(starts), 14):
        out.write(" ".join(f"0x{s:x}," for s in starts[i:i + 14]) + "\n")
