#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A draft model for speculate.py: the model without most of its layers, taught by the model on replies that it wrote itself.

    benchmarks/inference/sibling.py MODEL.gguf OUT.gguf TEXT.jsonl... [--layers 8] [--requests 600] [--epochs 2] [--threads 2] [--library FILE]

Words of the texts ("text" of each line; examples/demo/fetch.py makes such) fill the requests: stories, lists, advice, poems. The model answers them, half greedily; `prune` removes the layers that change the
stream least; all weights of what is left are tuned in F32 towards the model's distribution (KL), windows of 256, two a step. Prints the loss of the last 8192 tokens, which are held
out, before and after. SmolLM2-135M to 8 of 30 layers: 138,095 tokens, 508 steps, 32 minutes with two threads of a shared Zen 3.
"""
import argparse
import json
import pathlib
import random
import re
import sys
import tempfile

import numpy as np

from common import ROOT, load

KINDS = ("Write a short story about {}.", "Explain {} to a child.", "What is {}?", "List five facts about {}.", "Give me advice on {}.", "Write a poem about {}.", "How does {} work?",
         "Summarize what people should know about {}.", "Write an email to a friend about {}.", "Describe {} in detail.", "Repeat this list exactly, line by line.\n\n{}", "Rewrite this text in a formal tone: {}")
HELD_OUT, WINDOW = 8192, 256


def requests(texts, count):
    rng, words = random.Random(0), []
    for path in texts:
        for line in path.read_text().splitlines():
            found = re.findall(r"[A-Za-z][a-z]{3,}(?: [a-z]{4,})?", json.loads(line)["text"][:400])
            words += rng.sample(found, min(2, len(found)))
    words = sorted(set(words))
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        if kind.startswith("Repeat"):
            filling = "\n".join(f"{j + 1}. {rng.choice(words)}: {rng.randrange(100)}" for j in range(rng.randrange(5, 20)))
        else:
            filling = " ".join(rng.sample(words, 15)) if kind.startswith("Rewrite") else rng.choice(words)
        yield kind.format(filling)


def replies(ramet, model, texts, count):
    """Ids of all conversations, one after another."""
    batcher = ramet.Batcher(model.session(max_sequences=16, max_outputs=16, max_rank=0, max_context=512), cache_bytes=512 << 20)
    said, end = {}, [int(i) for i in model.tokenizer.encode("<|im_end|>", special=True)]
    for i, text in enumerate(requests(texts, count)):
        ids = model.tokenizer.encode_chat([{"role": "user", "content": text}])
        said[batcher.submit(ids, max_tokens=220, temperature=0.0 if i % 2 else 0.7, seed=i)] = [int(x) for x in ids]
    for event in batcher:
        if event.kind == "token":
            said[event.request].append(event.id)
        else:
            said[event.request] += end
    return np.array(sum(said.values(), []), np.int32)


def dataset(ramet, model, ids):
    d = ramet.Dataset(model)
    d.add_ids(ids)
    return d


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model")
    p.add_argument("out")
    p.add_argument("texts", nargs="+", type=pathlib.Path)
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--requests", type=int, default=600)
    p.add_argument("--epochs", type=float, default=2)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--library", type=pathlib.Path, default=ROOT / "build/lib/libramet.so")
    a = p.parse_args()
    for path in a.texts:
        if not path.exists():
            sys.exit(f"sibling: {path} is not there")
    ramet, model = load(a)
    ids = replies(ramet, model, a.texts, a.requests)
    kept = max(WINDOW, len(ids) - HELD_OUT)
    print(f"{len(ids)} tokens of replies", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        born = pathlib.Path(folder) / "born.gguf"
        model.prune(ids[:HELD_OUT], layers=model.number("layers") - a.layers, window=WINDOW).save(born)
        small = ramet.load(born, runtime=model.runtime)
        held_out = dataset(ramet, small, ids[kept:])
        before = small.evaluate(held_out, window=WINDOW).loss
        tuner = ramet.Tuner(small, dataset(ramet, small, ids[:kept]), full=1, teacher=model, window=WINDOW, batch=2, micro_batch=2, epochs=a.epochs, learning_rate=1e-3, warmup=0.05,
                            schedule="linear", seed=1)
        for event in tuner:
            if event.step % 40 == 0:
                print(f"step {event.step} of {event.steps}: KL {event.loss:.3f}", flush=True)
        small = tuner.result("F32")
        after = small.evaluate(dataset(ramet, small, ids[kept:]), window=WINDOW).loss
        small.quantize("Q4_1").save(a.out)
    print(f"loss of {len(ids) - kept} tokens of other replies: born {before:.3f}, taught {after:.3f}, the model {model.evaluate(dataset(ramet, model, ids[kept:]), window=WINDOW).loss:.3f}")


if __name__ == "__main__":
    main()
