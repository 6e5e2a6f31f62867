#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A classifier of texts, or a regression on them, on an encoder (all-MiniLM-L6-v2 or any BERT that ramet loads). Trained are a small head on frozen sentence
vectors (--tune head), low-rank pairs in the encoder too (lora), or the whole encoder (full).

    texts.py MODEL TRAIN.jsonl TEST.jsonl [--tune head|lora|full] [--epochs N] [--rate X] [--save FOLDER]

A line: {"text": "...", "label": "..."}; where all labels are numbers, they are predicted as numbers. FOLDER gets head.safetensors, and adapter/ (PEFT's) or
encoder.gguf."""
import argparse
import json
import pathlib

import numpy as np
import ramet

BATCH, TOKENS = 16, 128
DEFAULTS = {"head": (60, 2e-3), "lora": (8, 2e-3), "full": (4, 2e-4)}  # epochs, rate


def read(path):
    rows = [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def predictions(g, model, v, tune, outputs):
    net = ramet.Layers(g, v)
    if tune == "head":
        x = g.input("x", model.number("width"), axis="outs")
    else:
        rows = g.model(model, v, **({"rank": 8, "alpha": 16.0} if tune == "lora" else {"full": True}))
        x = rows.apply("segment_mean", g.input("seq", dtype="i32"))
    return net.linear(net.linear(x, "hidden", 64).apply("gelu"), "out", outputs)


def batch(model, tune, texts, vectors, pick):
    return {"x": vectors[pick]} if tune == "head" else ramet.text_rows(model, [texts[i] for i in pick], TOKENS)


def train(model, v, tune, texts, y, outputs, epochs, rate):
    g = ramet.Graph(BATCH * TOKENS, BATCH)
    found = predictions(g, model, v, tune, outputs)
    loss = found.apply("mse", g.input("y", 1, axis="outs")) if outputs == 1 else found.apply("cross_entropy", g.input("y", dtype="i32", axis="outs"))
    g.output("loss", loss)
    g.train(v, loss)
    program, vectors = ramet.Program(g, "balanced"), model.embed(texts) if tune == "head" else None
    order = np.random.default_rng(0)
    for _ in range(epochs):
        shuffled = order.permutation(len(texts))
        for at in range(0, len(texts), BATCH):
            pick = shuffled[at:at + BATCH]
            last = program.run(**batch(model, tune, texts, vectors, pick), y=y[pick])
            v.step(learning_rate=rate, weight_decay=0.01, clip=1.0)
    return float(last["loss"].item())


def predict(model, v, tune, texts, outputs):
    g = ramet.Graph(BATCH * TOKENS, BATCH)
    g.output("found", predictions(g, model, v, tune, outputs))
    program, vectors = ramet.Program(g, "balanced"), model.embed(texts) if tune == "head" else None
    picks = [np.arange(at, min(at + BATCH, len(texts))) for at in range(0, len(texts), BATCH)]
    return np.concatenate([program.run(len(pick), **batch(model, tune, texts, vectors, pick))["found"] for pick in picks])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--tune", choices=DEFAULTS, default="head")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--save")
    o = parser.parse_args()
    model, v = ramet.load(o.model), ramet.Variables()
    (texts, labels), (test_texts, test_labels) = read(o.train), read(o.test)
    numbers = all(isinstance(label, (int, float)) for label in labels)
    names = [] if numbers else sorted(set(labels))
    y = np.array(labels, np.float32) if numbers else np.array([names.index(label) for label in labels], np.int32)
    epochs, rate = o.epochs or DEFAULTS[o.tune][0], o.rate or DEFAULTS[o.tune][1]
    loss = train(model, v, o.tune, texts, y, len(names) or 1, epochs, rate)
    found = predict(model, v, o.tune, test_texts, len(names) or 1)
    if numbers:
        wrong, spread = np.square(found[:, 0] - test_labels).mean(), np.var(np.array(test_labels, np.float64))
        print(f"numbers, last training loss {loss:.4f}, test R^2 {1 - wrong / spread:.4f} of {len(test_labels)}")
    else:
        right = sum(names[i] == label for i, label in zip(found.argmax(1), test_labels))
        print(f"{len(names)} labels, last training loss {loss:.4f}, test accuracy {right / len(test_labels):.4f} of {len(test_labels)}")
    if o.save:
        folder, head = pathlib.Path(o.save), ramet.Variables()
        folder.mkdir(parents=True, exist_ok=True)
        for name in [n for n in v if n.startswith(("hidden.", "out."))]:
            head.add(name, v[name].shape)
            head[name] = v[name]
        head.save(folder / "head.safetensors")
        if o.tune == "lora":
            v.adapter(model, 16.0).save(folder / "adapter")
        if o.tune == "full":
            v.model(model, "F16").save(folder / "encoder.gguf")


if __name__ == "__main__":
    main()
