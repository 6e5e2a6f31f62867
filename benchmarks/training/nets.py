#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""nets.py - a convnet on MNIST to 99% test accuracy, ramet beside PyTorch (fp32, and bf16 by autocast; channels last or first): the same net, first weights, batches, order and optimizer; fifty batches of
one, fifty of the other, seconds of training alone. Needs torch and numpy. On a machine that others use, threads that wait for
one another waste PyTorch's time; seconds of processors with --threads 1 are what remains comparable.

    nets.py [--cache DIR] [--seeds 1] [--epochs 3] [--batch 64] [--mode balanced] [--images 60000] [--threads 2] [--steps]

Net: conv 5x5 to 16, ReLU, max pool 2; conv 5x5 to 32, ReLU, max pool 2; linear to 128, ReLU; linear to 10. Adam, rate from 2e-3 along a line to zero
after the last of --epochs.
--steps: one epoch, and where our time goes.
"""
import argparse
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bindings/python"), str(ROOT / "examples/nets")]
os.environ.setdefault("RAMET_LIBRARY", str(ROOT / "build/lib/libramet.so"))
import numpy as np  # noqa: E402
import ramet  # noqa: E402
from fetch import fetch  # noqa: E402
import convnet  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--cache")
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--mode", default="balanced")
parser.add_argument("--images", type=int, default=60000, help="the first so many of the training set")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--steps", action="store_true")
o = parser.parse_args()
RATE, GOAL, TURN = 2e-3, 0.99, 50


RUNTIME = ramet.Runtime(threads=o.threads)


class Ours:
    def __init__(self, v):
        self.name, self.v = "ramet", v
        self.train, self.test = convnet.programs(v, o.batch, RUNTIME, o.mode, times=o.steps)

    def epoch(self, x, y, order, rates):
        for at, rate in zip(range(0, len(order), o.batch), rates):
            pick = order[at:at + o.batch]
            self.train.run(x=x[pick], y=y[pick])
            self.v.step(learning_rate=rate)

    def accuracy(self, x, y):
        return convnet.accuracy(self.test, x, y)


class Torch:
    def __init__(self, v, channels_last, bf16=False):
        import torch
        self.t, self.bf16, self.name = torch, bf16, "torch" + (" bf16" if bf16 else "") + (" channels last" if channels_last else "")
        torch.set_num_threads(o.threads)
        n = torch.nn
        self.net = n.Sequential(n.Conv2d(1, 16, 5), n.ReLU(), n.MaxPool2d(2), n.Conv2d(16, 32, 5), n.ReLU(), n.MaxPool2d(2), n.Flatten(), n.Linear(512, 128), n.ReLU(), n.Linear(128, 10))
        with torch.no_grad():  # ours are channels last
            for i, name, shape in ((0, "conv1", (16, 5, 5, 1)), (3, "conv2", (32, 5, 5, 16)), (7, "hidden", (128, 4, 4, 32)), (9, "out", None)):
                w = torch.tensor(v[f"{name}.weight"])
                self.net[i].weight.copy_((w.reshape(shape).permute(0, 3, 1, 2) if shape else w).reshape(self.net[i].weight.shape))
                self.net[i].bias.copy_(torch.tensor(v[f"{name}.bias"]))
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = self.net.to(memory_format=self.format)
        self.adam = torch.optim.Adam(self.net.parameters(), RATE, fused=True)

    def epoch(self, x, y, order, rates):
        t = self.t
        x, y, order = t.from_numpy(x).reshape(-1, 1, 28, 28), t.from_numpy(y).long(), t.from_numpy(order)
        for at, rate in zip(range(0, len(order), o.batch), rates):
            pick = order[at:at + o.batch]
            self.adam.param_groups[0]["lr"] = rate
            self.adam.zero_grad(set_to_none=True)
            with t.autocast("cpu", t.bfloat16, enabled=self.bf16):
                loss = t.nn.functional.cross_entropy(self.net(x[pick].contiguous(memory_format=self.format)), y[pick])
            loss.backward()
            self.adam.step()

    def accuracy(self, x, y):
        with self.t.no_grad():
            return float((self.net(self.t.from_numpy(x).reshape(-1, 1, 28, 28)).argmax(1).numpy() == y).mean())


data = np.load(fetch(o.cache))
x, tx = [np.ascontiguousarray(data[k], np.float32) / 255 for k in ("train_x", "test_x")]
y, ty = [data[k].astype(np.int32) for k in ("train_y", "test_y")]
x, y = x[:o.images], y[:o.images]
flops = 3 * 2 * (576 * 25 * 16 + 64 * 400 * 32 + 512 * 128 + 1280) - 2 * 576 * 25 * 16  # an image: forward, dX (not of the first), dW
for seed in range(o.seeds):
    v = convnet.variables(seed, RUNTIME)
    sides = [Ours(v)] + ([] if o.steps else [Torch(v, last, half) for half in (False, True) for last in (False, True)])
    seconds, reached = {s.name: [] for s in sides}, {}
    for epoch in range(1 if o.steps else o.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(x))
        batches = -(-len(x) // o.batch)
        rates = [RATE * (1 - (epoch * batches + i) / (o.epochs * batches)) for i in range(batches)]
        spent = {s.name: np.zeros(2) for s in sides}
        for at in range(0, len(order), TURN * o.batch):
            for s in sides:
                begin = np.array([time.perf_counter(), time.process_time()])
                s.epoch(x, y, order[at:at + TURN * o.batch], rates[at // o.batch:])
                spent[s.name] += np.array([time.perf_counter(), time.process_time()]) - begin
        for s in sides:
            seconds[s.name].append(spent[s.name][0])
            got = s.accuracy(tx, ty)
            if got >= GOAL:
                reached.setdefault(s.name, (epoch + 1, sum(seconds[s.name])))
            print(f"seed {seed} epoch {epoch + 1} {s.name:20} {seconds[s.name][-1]:6.2f} s ({spent[s.name][1]:.1f} s of processors)  accuracy {got:.4f}  {flops * len(x) / seconds[s.name][-1] / 1e9:5.0f} GFLOP/s", flush=True)
        if epoch == 0 and len(sides) > 2:  # the best of its settings goes on
            sides[1:] = [min(sides[1:], key=lambda s: seconds[s.name][0])]
        if len(reached) == len(sides):
            break
    if o.steps:
        print(sides[0].train.describe())
        continue
    for s in sides:
        print(f"seed {seed} {s.name:20} {GOAL:.0%} " + ("after %d epochs, %.2f s" % reached[s.name] if s.name in reached else "not reached") + f"; median epoch {np.median(seconds[s.name]):.2f} s")
    ours, theirs = sides[0].name, sides[1].name
    print(f"seed {seed} an epoch is {np.median(seconds[theirs]) / np.median(seconds[ours]):.2f} times as fast as PyTorch's best setting"
          + (f", {GOAL:.0%} is reached {reached[theirs][1] / reached[ours][1]:.2f} times as fast" if len(reached) == 2 else ""))
