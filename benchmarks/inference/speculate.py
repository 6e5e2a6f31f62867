#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Decoding with guessed tokens beside plain decoding, interleaved in one run.

    benchmarks/inference/speculate.py MODEL.gguf [--with SMALL.gguf] [--vocabulary N] [--draft 8] [--rounds 5] [--tokens 200] [--threads 2] [--mode balanced] [-o FILE]

Guesses come from the text itself, and with --with from a smaller model of the same vocabulary as well, which makes at most 4 (all ids, or the first N).
Four texts: one to be copied, where look-ups hit, and three that are written freely. Every round generates each once plainly and once with
guesses of each kind, in turns; tokens a second of the reply (the prompt's run is not counted), median and spread (lowest to highest) over the rounds. `same`: how
many of the tokens at the beginning are the same with and without; all in `exact` mode, where rounding does not depend on the rows of a run.
Then what decides: what a run of several rows costs in runs of one, and for the smaller model what a step of it costs in those, and how often its likeliest token is the model's own
along the plain replies.
"""
import statistics
import sys
import time

import numpy as np

from common import arguments, load, middle, show, write

GUESSES = 4  # most of a smaller model
NAMES = "amber birch cedar dune ember fjord grove heath islet jetty knoll lagoon meadow nook orchard pond quarry ridge spring tundra".split()
TEXTS = {"copy": "Repeat this list exactly, line by line.\n\n" + "\n".join(f"{i + 1}. {name}: {i * 37 % 100} stones" for i, name in enumerate(NAMES)),
         "story": "Write a short story about a lighthouse keeper who finds a letter.",
         "poem": "Write a poem about autumn.",
         "answer": "Explain how photosynthesis works."}


def generate(session, prompt, tokens, draft):
    """The reply's ids and its tokens a second, from the first token on."""
    ids, times = [], []

    def token(id, _text):
        times.append(time.perf_counter())
        ids.append(id)

    session.truncate(0)
    session.generate(prompt, token, max_tokens=tokens, draft=draft)
    return ids, (len(ids) - 1) / (times[-1] - times[0]) if len(ids) > 1 else float("nan")


def costs(sessions, rounds):
    """{(who, rows): median seconds of a run behind 64 tokens}, in turns."""
    times = {(who, rows): [] for who in sessions for rows in range(1, GUESSES + 2) if rows == 1 or who == "model"}
    for session in sessions.values():
        session.truncate(0)
        session.run(np.arange(100, 164))
    for _ in range(20 * rounds):
        for (who, rows), seen in times.items():
            begin = time.perf_counter()
            sessions[who].run(np.arange(100, 100 + rows), want=[1] * rows)
            seen.append(time.perf_counter() - begin)
            sessions[who].truncate(64)
    return {key: statistics.median(seen) for key, seen in times.items()}


def agreement(small, vocabulary, prompt, reply):
    session, reply = small.session(max_context=1024, max_outputs=len(reply)), np.array(reply, np.int32)
    session.run(prompt[:-1])
    logits = session.run(np.concatenate([prompt[-1:], reply[:-1]]), want=[1] * len(reply))
    return float(np.mean(logits[:, :vocabulary or None].argmax(-1) == reply))


def main():
    p = arguments(__doc__, rounds=5)
    p.add_argument("--draft", type=int, default=8)
    p.add_argument("--tokens", type=int, default=200)
    p.add_argument("--with", dest="small", metavar="SMALL.gguf")
    p.add_argument("--vocabulary", type=int, default=0)
    a = p.parse_args()
    ramet, model = load(a)
    options = dict(mode=a.mode, max_context=1024, max_sequences=1, max_rank=0, max_outputs=max(a.draft, GUESSES) + 1)
    session = model.session(**options)
    kinds = {"plain": (session, 0), "look-up": (session, a.draft)}
    if a.small:
        try:
            small = ramet.load(a.small, runtime=model.runtime)
        except ramet.Error as e:
            sys.exit(f"speculate: {e}")
        kinds["draft model"] = (model.session(**options, draft_model=small, draft_vocabulary=a.vocabulary), GUESSES)
    prompts = {name: model.tokenizer.encode_chat([{"role": "user", "content": text}]) for name, text in TEXTS.items()}
    speeds = {name: {kind: [] for kind in kinds} for name in prompts}
    replies = {}
    for _ in range(a.rounds + 1):  # the first warms up
        for name, prompt in prompts.items():
            for kind, (who, draft) in kinds.items():
                replies[name, kind], speed = generate(who, prompt, a.tokens, draft)
                speeds[name][kind].append(speed)
    texts = {}
    for name, by_kind in speeds.items():
        plain = replies[name, "plain"]
        row = texts[name] = {}
        for kind, v in by_kind.items():
            reply = replies[name, kind]
            ratio = statistics.median(x / y for x, y in zip(v[1:], by_kind["plain"][1:]))  # of pairs run one after the other
            same = next((i for i, (x, y) in enumerate(zip(plain, reply)) if x != y), min(len(plain), len(reply)))
            row[kind] = {**middle(v[1:]), "ratio": round(ratio, 2), "tokens": len(reply), "same": same}
            print(f"{name}, {kind}: {show(row[kind])} tokens/s, x{ratio:.2f}; {len(reply)} tokens, the first {same} as plain")
    took = costs({"model": session, **({"small": small.session(max_context=1024, max_rank=0)} if a.small else {})}, a.rounds)
    result = {"texts": texts, "rows": [round(took["model", rows] / took["model", 1], 2) for rows in range(1, GUESSES + 2)]}
    print(f"a run of 1 to {GUESSES + 1} rows takes {result['rows']} of one")
    if a.small:
        result["step"] = round(took["small", 1] / took["model", 1], 2)  # with its whole head
        result["agree"] = {name: round(agreement(small, a.vocabulary, prompt, replies[name, "plain"]), 3) for name, prompt in prompts.items()}
        print(f"a step of the draft model with its whole head takes {result['step']} of one; its likeliest token is the model's own: " + ", ".join(f"{name} {100 * v:.0f}%" for name, v in result["agree"].items()))
    write(a, result)


if __name__ == "__main__":
    main()
