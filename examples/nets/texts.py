#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A classifier of texts: sentence vectors of an encoder (all-MiniLM-L6-v2 or any BERT that ramet loads), frozen, and a small head that is trained on them.

    texts.py MODEL TRAIN.jsonl TEST.jsonl [--save HEAD] [--epochs 60]    a line: {"text": "...", "label": "..."}
"""
import argparse
import json
import pathlib

import numpy as np
import ramet


def read(path):
    rows = [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def head(v, x, classes, hidden=64):
    net = ramet.Layers(x.graph, v)
    return net.linear(net.linear(x, "hidden", hidden).apply("gelu"), "out", classes)


def train(v, x, y, classes, epochs, batch=32, rate=2e-3):
    g = ramet.Graph(batch)
    step = g.input("step", 1, dtype="i32", axis="static")
    given = g.input("x", x.shape[1]).apply("dropout", step, rate=0.1)
    loss = head(v, given, classes).apply("cross_entropy", g.input("y", dtype="i32"))
    g.output("loss", loss)
    g.train(v, loss)
    program, steps = ramet.Program(g), 0
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(x))
        for at in range(0, len(x), batch):
            pick, steps = order[at:at + batch], steps + 1
            found = program.run(x=x[pick], y=y[pick], step=steps)
            v.step(learning_rate=rate, weight_decay=0.01)
    return float(found["loss"].item())


def predict(v, x, classes):
    g = ramet.Graph(len(x))
    g.output("logits", head(v, g.input("x", x.shape[1]), classes))
    return ramet.Program(g).run(x=x)["logits"].argmax(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--save")
    parser.add_argument("--epochs", type=int, default=60)
    o = parser.parse_args()
    model = ramet.load(o.model)
    (texts, labels), (test_texts, test_labels) = read(o.train), read(o.test)
    names = sorted(set(labels))
    x, y = np.asarray(model.embed(texts)), np.array([names.index(label) for label in labels], np.int32)
    v = ramet.Variables()
    loss = train(v, x, y, len(names), o.epochs)
    found = predict(v, np.asarray(model.embed(test_texts)), len(names))
    right = sum(names[i] == label for i, label in zip(found, test_labels))
    print(f"{len(names)} labels, last training loss {loss:.4f}, test accuracy {right / len(test_labels):.4f} of {len(test_labels)}")
    if o.save:
        v.save(o.save)


if __name__ == "__main__":
    main()
