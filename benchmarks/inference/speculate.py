#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Decoding with tokens guessed from the text itself beside plain decoding, interleaved in one run.

    benchmarks/inference/speculate.py MODEL.gguf [--draft 8] [--rounds 5] [--tokens 200] [--threads 2] [--mode balanced] [-o FILE]

Two texts: one to be copied, where guesses hit, and one to be continued freely, where most miss. Every round generates each once plainly and once with
guesses, in turns; tokens a second of the reply (the prompt's run is not counted), median and spread (lowest to highest) over the rounds. `same`: how many
of the tokens at the beginning are the same with and without; all in `exact` mode, where rounding does not depend on the rows of a run.
"""
import statistics
import time

from common import arguments, load, middle, show, write

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
    p = arguments(__doc__, rounds=5)
    p.add_argument("--draft", type=int, default=8)
    p.add_argument("--tokens", type=int, default=200)
    a = p.parse_args()
    _, model = load(a)
    session = model.session(mode=a.mode, max_context=1024, max_sequences=1, max_rank=0, max_outputs=a.draft + 1)
    prompts = {name: model.tokenizer.encode_chat([{"role": "user", "content": text}]) for name, text in TEXTS.items()}
    speeds = {name: {"plain": [], "draft": []} for name in prompts}
    replies = {}
    for _ in range(a.rounds + 1):  # the first warms up
        for name, prompt in prompts.items():
            for kind, draft in (("plain", 0), ("draft", a.draft)):
                replies[name, kind], speed = generate(session, prompt, a.tokens, draft)
                speeds[name][kind].append(speed)
    texts = {}
    for name, by_kind in speeds.items():
        plain, draft = replies[name, "plain"], replies[name, "draft"]
        same = next((i for i, (x, y) in enumerate(zip(plain, draft)) if x != y), min(len(plain), len(draft)))
        row = texts[name] = {kind: middle(v[1:]) for kind, v in by_kind.items()}
        row.update(tokens={"plain": len(plain), "draft": len(draft)}, same=same)
        row["ratio"] = round(statistics.median(d / p for d, p in zip(by_kind["draft"][1:], by_kind["plain"][1:])), 2)  # of pairs run one after the other
        print(f"{name}: plain {show(row['plain'])}, draft {a.draft} {show(row['draft'])} tokens/s, x{row['ratio']}; "
              f"{len(plain)} and {len(draft)} tokens, the first {same} the same")
    write(a, {"texts": texts})


if __name__ == "__main__":
    main()
