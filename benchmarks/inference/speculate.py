#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Decoding with tokens guessed from the text itself beside plain decoding, interleaved in one run.

    benchmarks/inference/speculate.py MODEL.gguf [--draft 8] [--rounds 5] [--tokens 200] [--threads 2] [--mode balanced] [-o FILE]

Two texts: one to be copied, where guesses hit, and one to be continued freely, where most miss. Every round generates each once plainly and once with
guesses, in turns; tokens a second of the reply (the prompt's run is not counted), median and spread (lowest to highest) over the rounds. `same`: how many
of the tokens at the beginning are the same with and without; all in `exact` mode, where rounding does not depend on the rows of a run.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = "amber birch cedar dune ember fjord grove heath islet jetty knoll lagoon meadow nook orchard pond quarry ridge spring tundra".split()
TEXTS = {"copy": "Repeat this list exactly, line by line.\n\n" + "\n".join(f"{i + 1}. {name}: {i * 37 % 100} stones" for i, name in enumerate(NAMES)),
         "free": "Write a short story about a lighthouse keeper who finds a letter."}


def generate(session, prompt, tokens, draft):
    """The reply's ids and its tokens a second, from the first token on."""
    ids, times = [], []

    def token(id, _text):
        times.append(time.perf_counter())
        ids.append(id)

    session.truncate(0)
    session.generate(prompt, token, max_tokens=tokens, draft=draft)
    return ids, (len(ids) - 1) / (times[-1] - times[0]) if len(ids) > 1 else float("nan")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model")
    p.add_argument("--draft", type=int, default=8)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--tokens", type=int, default=200)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--mode", default="balanced")
    p.add_argument("--library", type=pathlib.Path, default=ROOT / "build/lib/libramet.so")
    p.add_argument("-o", type=pathlib.Path)
    a = p.parse_args()
    os.environ["RAMET_LIBRARY"] = str(a.library)
    sys.path.insert(0, str(ROOT / "bindings/python"))
    import ramet
    model = ramet.load(a.model, runtime=ramet.Runtime(threads=a.threads))
    session = model.session(mode=a.mode, max_context=1024, max_sequences=1, max_rank=0, max_outputs=a.draft + 1)
    prompts = {name: model.tokenizer.encode_chat([{"role": "user", "content": text}]) for name, text in TEXTS.items()}
    speeds = {name: {"plain": [], "draft": []} for name in prompts}
    replies = {}
    for _ in range(a.rounds + 1):  # the first warms up
        for name, prompt in prompts.items():
            for kind, draft in (("plain", 0), ("draft", a.draft)):
                replies[name, kind], speed = generate(session, prompt, a.tokens, draft)
                speeds[name][kind].append(speed)
    result = {"model": pathlib.Path(a.model).name, "mode": a.mode, "draft": a.draft, "rounds": a.rounds, "texts": {}}
    for name, by_kind in speeds.items():
        plain, draft = replies[name, "plain"], replies[name, "draft"]
        same = next((i for i, (x, y) in enumerate(zip(plain, draft)) if x != y), min(len(plain), len(draft)))
        row = {kind: {"median": round(statistics.median(v[1:]), 1), "spread": [round(min(v[1:]), 1), round(max(v[1:]), 1)]} for kind, v in by_kind.items()}
        row.update(tokens={"plain": len(plain), "draft": len(draft)}, same=same)
        row["ratio"] = round(statistics.median(d / p for d, p in zip(by_kind["draft"][1:], by_kind["plain"][1:])), 2)  # of pairs run one after the other
        result["texts"][name] = row
        print(f"{name}: plain {row['plain']['median']} {row['plain']['spread']}, draft {a.draft} {row['draft']['median']} {row['draft']['spread']} tokens/s, "
              f"x{row['ratio']}; {len(plain)} and {len(draft)} tokens, the first {same} the same")
    if a.o:
        a.o.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
