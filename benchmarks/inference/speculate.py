#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Decoding with tokens guessed from the text itself beside plain decoding, interleaved in one run.

    benchmarks/inference/speculate.py MODEL.gguf [--draft 8] [--rounds 5] [--tokens 200] [--threads 2] [--mode balanced] [--with SMALL.gguf] [-o FILE]

Two texts: one to be copied, where guesses hit, and one to be continued freely, where most miss. Every round generates each once plainly and once with
guesses, in turns; tokens a second of the reply (the prompt's run is not counted), median and spread (lowest to highest) over the rounds. `same`: how many
of the tokens at the beginning are the same with and without; all in `exact` mode, where rounding does not depend on the rows of a run.

--with: what a smaller model of the same words could give as the guesser, without building it in: how often its greedy token is the model's own along the
plain replies, what a step of it and a run of several rows cost in steps of the model (medians, in turns), and the best ratio to plain decoding
that follows (Leviathan et al. 2023): (1 + a + ... + a^g) / (g * step + run of g + 1 rows) for g guesses that each hold with probability a.
"""
import statistics
import time

import numpy as np

from common import arguments, load, middle, show, write

GUESSES = 4  # most of a smaller model
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


def cost(sessions, rounds):
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


def worth(model, small, prompts, replies, a):
    options = dict(mode=a.mode, max_context=1024, max_sequences=1, max_rank=0)
    took = cost({"model": model.session(**options, max_outputs=GUESSES + 1), "small": small.session(**options)}, a.rounds)
    step, runs = took["small", 1] / took["model", 1], [took["model", g + 1] / took["model", 1] for g in range(GUESSES + 1)]
    session, result = small.session(**options, max_outputs=a.tokens), {"step": round(step, 2), "runs": [round(v, 2) for v in runs]}
    for name, prompt in prompts.items():
        reply = np.array(replies[name, "plain"], np.int32)
        session.truncate(0)
        session.run(prompt[:-1])
        agree = float(np.mean(session.run(np.concatenate([prompt[-1:], reply[:-1]]), want=[1] * len(reply)).argmax(-1) == reply))
        best = max((sum(agree ** i for i in range(g + 1)) / (g * step + runs[g]), g) for g in range(1, GUESSES + 1))
        result[name] = {"agree": round(agree, 3), "ratio": round(best[0], 2), "guesses": best[1]}
        print(f"{name}: the smaller model agrees in {100 * agree:.0f}%, a step of it costs {step:.2f}, runs of 1 to {GUESSES + 1} rows {result['runs']}: at best x{best[0]:.2f}, "
              f"guesses: {best[1]}")
    return result


def main():
    p = arguments(__doc__, rounds=5)
    p.add_argument("--draft", type=int, default=8)
    p.add_argument("--tokens", type=int, default=200)
    p.add_argument("--with", dest="small", metavar="SMALL.gguf")
    a = p.parse_args()
    ramet, model = load(a)
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
    write(a, {"texts": texts, **({"with": worth(model, ramet.load(a.small, runtime=model.runtime), prompts, replies, a)} if a.small else {})})


if __name__ == "__main__":
    main()
