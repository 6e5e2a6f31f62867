#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What rounding costs: loss of texts in `balanced`, with a cache in int8 too, and `fast` beside `exact`, prefilled and decoded token by token, over the same tokens.

    benchmarks/inference/accuracy.py MODEL.gguf TEXT... [--windows 32] [--threads 2] [-o FILE]

TEXT is plain or .jsonl with "text" (examples/demo/fetch.py makes such). Disjoint windows of 512 tokens, without a beginning-of-text id; the
predictions made from positions 256..510 are scored, as `ramet eval` does. Prefill: a window in one run. Decode: 256 tokens in one run, the rest one a
run, eight windows beside each other. Prints the change of the mean loss in nats (about the relative change of perplexity) with the 95% interval over windows.
"""
import argparse
import json
import pathlib
import sys

import numpy as np

from common import ROOT, load

WINDOW, TOGETHER = 512, 8


def losses(logits, targets):
    """Negative log-likelihood of each target: a row of logits each."""
    top = logits.max(-1)
    return top + np.log(np.exp(logits - top[:, None]).sum(-1, dtype=np.float64)) - logits[np.arange(len(targets)), targets]


def prefilled(session, windows):
    out = []
    for ids in windows:
        session.truncate(0)
        want = np.zeros(WINDOW, np.uint8)
        want[WINDOW // 2:-1] = 1
        out.append(losses(session.run(ids, want=want), ids[WINDOW // 2 + 1:]).mean())
    return np.array(out)


def decoded(session, windows):
    out = []
    for at in range(0, len(windows), TOGETHER):
        part = np.array(windows[at:at + TOGETHER])
        order, total = np.arange(len(part), dtype=np.int32), np.zeros(len(part))
        for sequence in order:
            session.truncate(0, int(sequence))
        session.run(np.ascontiguousarray(part[:, :WINDOW // 2].ravel()), sequence=np.repeat(order, WINDOW // 2))
        for i in range(WINDOW // 2, WINDOW - 1):
            total += losses(session.run(np.ascontiguousarray(part[:, i]), sequence=order), part[:, i + 1])
        out += list(total / (WINDOW // 2 - 1))
    return np.array(out)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model")
    p.add_argument("texts", nargs="+", type=pathlib.Path)
    p.add_argument("--windows", type=int, default=32, help="of each text, at most")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--library", type=pathlib.Path, default=ROOT / "build/lib/libramet.so")
    p.add_argument("-o", type=pathlib.Path)
    a = p.parse_args()
    for path in a.texts:
        if not path.exists():
            sys.exit(f"accuracy: {path} is not there")
    model = load(a)[1]
    room = dict(max_context=WINDOW, max_rows=WINDOW, max_outputs=WINDOW, max_sequences=TOGETHER)
    sessions = {mode: model.session(mode=mode, **room) for mode in ("exact", "balanced", "fast")}
    sessions["int8 cache"] = model.session(cache="int8", **room)
    rows = []
    for path in a.texts:
        text = path.read_text()
        text = "\n\n".join(json.loads(line)["text"] for line in text.splitlines()) if path.suffix == ".jsonl" else text
        ids = np.array(model.tokenizer.encode(text), np.int32)
        windows = [ids[i:i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)][:a.windows]
        if len(windows) < 2:
            sys.exit(f"accuracy: {path} has {len(ids)} tokens, two windows want {2 * WINDOW}")
        for how in (prefilled, decoded):
            exact = how(sessions["exact"], windows)
            for mode in list(sessions)[1:]:
                change = how(sessions[mode], windows) - exact
                half = 1.96 * change.std(ddof=1) / len(windows) ** 0.5
                rows.append({"text": path.name, "how": how.__name__, "mode": mode, "windows": len(windows), "exact": exact.mean(), "change": change.mean(), "half": half})
                print(f"{path.name:28} {how.__name__:9} {len(windows):3} windows: exact {exact.mean():.4f}, {mode:10} {change.mean():+.5f} "
                      f"[{change.mean() - half:+.5f},{change.mean() + half:+.5f}]", flush=True)
    if a.o:
        a.o.write_text(json.dumps({"model": pathlib.Path(a.model).name, "threads": a.threads, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
