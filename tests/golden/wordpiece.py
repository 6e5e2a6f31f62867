#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares WordPiece ids with Hugging Face's tokenizers on a few MB of text: wordpiece.py TOK FOLDER

TOK is the program tests/tools/tok, FOLDER holds a BERT's tokenizer.json. Run by hand; needs the packages tokenizers and gguf. The
texts are those of tokenizer.py: prose, code, strings made to hurt and every code point."""
import os
import sys
import tempfile

from tokenizer import ours, texts, write_list
from tokenizers import Tokenizer

tok, folder = sys.argv[1:3]
peer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
peer.no_padding()
peer.no_truncation()
cases = list(texts([], []))
path = os.path.join(tempfile.mkdtemp(), "texts.lst")
write_list(path, cases)
bad = 0
for options, special in (((), False), (("--bos",), True)):
    wanted = [e.ids for e in peer.encode_batch(cases, add_special_tokens=special)]
    got = ours(tok, folder, path, *options)
    wrong = [i for i in range(len(cases)) if got[i] != wanted[i]]
    bad += len(wrong) + (len(got) != len(cases))
    print(f"{len(cases)} texts, {sum(len(c.encode()) for c in cases)} bytes, {sum(map(len, wanted))} ids, {len(wrong)} texts differ")
    for i in wrong[:5]:
        k = next((k for k, (a, b) in enumerate(zip(got[i], wanted[i])) if a != b), min(len(got[i]), len(wanted[i])))
        print("   text", i, "id", k, "ours", [peer.id_to_token(x) for x in got[i][k:k + 6]], "peer", [peer.id_to_token(x) for x in wanted[i][k:k + 6]])
sys.exit(bool(bad))
