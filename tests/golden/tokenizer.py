#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares ids with Hugging Face's tokenizers on a few MB of text: tokenizer.py TOK MODEL.gguf [WORKDIR]

TOK is the program tests/tools/tok. Needs the packages tokenizers, gguf and jinja2; without them or without the model the test is
skipped (exit code 77). The peer is built from the vocabulary and merges of the same GGUF file, and written as tokenizer.json, in both
forms of merges, so that the second loader is compared as well. Where MODEL.gguf.inp and .out lie beside the model, as for the
vocabularies in llama.cpp's models/, its own ids are compared too."""
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import sysconfig
import tempfile

try:
    import gguf
    import tokenizers
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

SPLITS = {"smollm": True, "starcoder": True, "refact": True, "gpt-2": False}


def read(path):
    fields = gguf.GGUFReader(path).fields
    return {k: f.contents() for k, f in fields.items() if k.startswith("tokenizer.")}


def peer(meta):
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    t = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(tokens)}, merges=merges))
    steps = [pre_tokenizers.Digits(individual_digits=True)] if SPLITS[meta["tokenizer.ggml.pre"]] else []
    t.pre_tokenizer = pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    plain = Tokenizer.from_str(t.to_str())  # as this library without SPECIAL: control tokens are not looked for
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s, kind in zip(tokens, types) if kind == 3])
    t.add_tokens([AddedToken(s, normalized=False) for s, kind in zip(tokens, types) if kind == 4])
    return t, plain


def texts(tokens, types):
    """Code and prose of every kind that this machine has, then strings made to hurt. The seed is fixed."""
    r = random.Random(7)
    total = 0
    files = sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
    r.shuffle(files)
    for path in files + sorted(pathlib.Path("/usr/share/i18n/locales").glob("*")):
        text = path.read_text("utf-8", "ignore")
        yield text
        total += len(text)
        if total > 2_000_000:
            break
    specials = [s for s, kind in zip(tokens, types) if kind in (3, 4)] or ["<|none|>"]
    ranges = [(32, 127), (0, 32), (128, 0x250), (0x300, 0x370), (0x370, 0x600), (0x600, 0xe00), (0x2000, 0x2070), (0x3040, 0x3100), (0x4e00, 0x9fff),
              (0xac00, 0xd7a4), (0xff00, 0xfff0), (0x1d400, 0x1d800), (0x1f300, 0x1fb00), (0x660, 0x66a), (0x2150, 0x218c), (0, 0xd800), (0xe000, 0x110000)]
    spaces = [" ", "  ", "\n", "\t", "\r\n", " \n", "\u00a0", "\u2003", "\u3000", "\u0085", "\x0b", "\u2028"]
    bits = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'", "1", "42", "\u00bd", "\u0664", "\u2163", "the", "The", "_", "...", "e\u0301"]
    for n in range(6000):
        out = []
        for _ in range(r.randint(1, 60)):
            kind = r.random()
            if kind < .25:
                out.append(r.choice(spaces) * r.choice((1, 1, 1, 2, 3, 9)))
            elif kind < .45:
                out.append(r.choice(bits))
            elif kind < .5:
                out.append(r.choice(specials))
            else:
                low, high = r.choice(ranges)
                out.append("".join(chr(r.randrange(low, high)) for _ in range(r.randint(1, 8))))
        yield "".join(out)
    for unit in ("a", " ", "\n", "ab", "\u00e9", "\u4e2d", "1", "!", "\U0001f600", " \n", "abcdefghij"):
        for n in (1, 47, 48, 49, 50, 1000, 20000):
            yield unit * n
    everything = [chr(c) for c in range(0x110000) if not 0xd800 <= c < 0xe000]
    for i in range(0, len(everything), 4096):  # every code point: between letters, after a space and before a digit
        yield "".join(f"a{c}b {c}1" for c in everything[i:i + 4096])


def ours(tok, model, path, *options):
    run = subprocess.run([tok, *options, model, path], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"tok failed: {run.stderr}")
    return [[int(x) for x in line.split()] for line in run.stdout.splitlines()]


def write_list(path, cases):
    with open(path, "wb") as out:
        for text in cases:
            raw = text.encode()
            out.write(struct.pack("<I", len(raw)) + raw)


def llama_cpp(tok, model, work):
    """Texts that differ from llama.cpp's own golden files, 0 where there are none."""
    if not os.path.exists(model + ".inp"):
        return 0
    with open(model + ".inp", encoding="utf-8", newline="") as f, open(model + ".out") as g:
        cases, wanted = f.read().split("\n__ggml_vocab_test__\n"), [[int(x) for x in line.split()] for line in g.read().split("\n")]
    write_list(os.path.join(work, "llama.lst"), cases)
    got = ours(tok, model, os.path.join(work, "llama.lst"))
    wrong = sum(a != b for a, b in zip(got, wanted, strict=False))
    print(f"llama.cpp {os.path.basename(model):27} {len(cases)} texts, {wrong} differ")
    return wrong + (len(got) != len(cases))


def main():
    tok, model = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else os.environ.get("RAMET_TEST_MODEL", "")
    if not os.path.exists(model):
        print("skipped: no model")
        sys.exit(77)
    meta = read(model)
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    with_special, plain = peer(meta)
    work = sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp()
    folders = []
    for name in ("strings", "pairs"):
        data = json.loads(with_special.to_str())
        if name == "strings":
            data["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
        folders.append(os.path.join(work, name))
        os.makedirs(folders[-1], exist_ok=True)
        with open(os.path.join(folders[-1], "tokenizer.json"), "w") as out:
            json.dump(data, out, ensure_ascii=name == "pairs")
    cases = list(texts(tokens, types))
    lists = os.path.join(work, "texts.lst")
    write_list(lists, cases)
    bad = llama_cpp(tok, model, work)
    for label, reference, options, models_ in (("special", with_special, ("--special",), [model] + folders), ("plain", plain, (), [model])):
        wanted = [e.ids for e in reference.encode_batch(cases, add_special_tokens=False)]
        for m in models_:
            got = ours(tok, m, lists, *options)
            assert len(got) == len(cases)
            wrong = [i for i in range(len(cases)) if got[i] != wanted[i]]
            bad += len(wrong)
            print(f"{label:8} {os.path.basename(m):28} {len(cases)} texts, {sum(len(c.encode()) for c in cases)} bytes, {sum(map(len, wanted))} ids, {len(wrong)} texts differ")
            for i in wrong[:5]:
                k = next((k for k, (a, b) in enumerate(zip(got[i], wanted[i])) if a != b), min(len(got[i]), len(wanted[i])))
                print("   text", i, "id", k, "ours", [tokens[x] for x in got[i][k:k + 6]], "peer", [tokens[x] for x in wanted[i][k:k + 6]])
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
