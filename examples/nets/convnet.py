#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A convnet that reads digits: conv 5x5, pool, conv 5x5, pool, two linear layers.

    convnet.py [--cache DIR] [--epochs 3] [--save FILE]    downloads MNIST once (fetch.py), trains, prints the test accuracy
"""
import argparse
import time

import numpy as np
import ramet


def variables(seed=0, runtime=None):
    v = ramet.Variables(runtime=runtime)
    for name, shape in (("conv1", (16, 25)), ("conv2", (32, 400)), ("hidden", (128, 512)), ("out", (10, 128))):
        v.add(f"{name}.weight", shape, "he", seed=seed)
        v.add(f"{name}.bias", shape[0])
    return v


def logits(g, v):
    net, x = ramet.Layers(g, v), g.input("x", 784)
    x = net.conv2d(x, "conv1", 16, height=28, width=28, kernel=5).relu().apply("max_pool2d", height=24, width=24, size=2)
    x = net.conv2d(x, "conv2", 32, height=12, width=12, kernel=5).relu().apply("max_pool2d", height=8, width=8, size=2)
    return net.linear(net.linear(x, "hidden", 128).relu(), "out", 10)


def programs(v, batch, runtime=None, mode="exact", times=False):
    """One that trains on (x, y) and gives the loss, one that gives logits for x."""
    g = ramet.Graph(batch, runtime=runtime)
    loss = logits(g, v).apply("cross_entropy", g.input("y", dtype="i32"))
    g.output("loss", loss)
    g.train(v, loss)
    test = ramet.Graph(500, runtime=runtime)
    test.output("logits", logits(test, v))
    return ramet.Program(g, mode, times=times), ramet.Program(test, mode)


def accuracy(program, x, y):
    hits = [(program.run(x=x[at:at + 500])["logits"].argmax(1) == y[at:at + 500]).sum() for at in range(0, len(x), 500)]
    return float(sum(hits)) / len(x)


def main():
    from fetch import fetch
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--save")
    o = parser.parse_args()
    data = np.load(fetch(o.cache))
    x, tx = [data[k].astype(np.float32) / 255 for k in ("train_x", "test_x")]
    y, ty = [data[k].astype(np.int32) for k in ("train_y", "test_y")]
    v = variables()
    train, test = programs(v, 64)
    for epoch in range(o.epochs):
        begin, order = time.perf_counter(), np.random.default_rng(epoch).permutation(len(x))
        for at in range(0, len(x), 64):
            pick = order[at:at + 64]
            train.run(x=x[pick], y=y[pick])
            v.step(learning_rate=1e-3)
        print(f"epoch {epoch + 1}: test accuracy {accuracy(test, tx, ty):.4f}, {time.perf_counter() - begin:.1f} s")
    if o.save:
        v.save(o.save)


if __name__ == "__main__":
    main()
