#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""experts.py - a mixture of experts, forward and backward: Layers.mixture, the same work with all experts computed, and PyTorch (fp32, and bf16 by autocast).

    experts.py [--shape 8,2,384,1536] [--rows 512] [--rounds 15] [--threads 2]

SHAPE is experts, how many a row, width, hidden. PyTorch goes from expert to expert with the rows that chose it (index_select, two linears, index_add). The sides take turns in
one process; medians and the lowest and highest of the rounds in milliseconds. Needs numpy and torch.
"""
import argparse
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bindings/python"))
os.environ.setdefault("RAMET_LIBRARY", str(ROOT / "build/lib/libramet.so"))
import numpy as np  # noqa: E402
import ramet  # noqa: E402
import torch  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--shape", default="8,2,384,1536")
parser.add_argument("--rows", type=int, default=512)
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--threads", type=int, default=2)
o = parser.parse_args()
E, K, WIDTH, HIDDEN = map(int, o.shape.split(","))
torch.set_num_threads(o.threads)
RUNTIME = ramet.Runtime(threads=o.threads)
DATA = np.random.default_rng(0).normal(size=(o.rows, WIDTH)).astype(np.float32)


def ours(dense):
    v, g = ramet.Variables(runtime=RUNTIME), ramet.Graph(o.rows, runtime=RUNTIME)
    net, x = ramet.Layers(g, v), g.input("x", WIDTH)
    y = net.linear(net.linear(x, "in", E * HIDDEN).apply("gelu"), "out", WIDTH) if dense else net.mixture(x, "m", WIDTH, E, HIDDEN, K)[0]
    loss = (y * y).mean()
    g.output("loss", loss)
    g.train(v, loss)
    program = ramet.Program(g, "balanced")
    return lambda: program.run(x=DATA)


def theirs(half):
    x, gate = torch.from_numpy(DATA), torch.nn.Linear(WIDTH, E)
    experts = [torch.nn.Sequential(torch.nn.Linear(WIDTH, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, WIDTH)) for _ in range(E)]

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            top, which = gate(x).softmax(1).topk(K)
            share, y = top / top.sum(1, keepdim=True), torch.zeros(len(x), WIDTH)
            for e, expert in enumerate(experts):
                rows, slot = (which == e).nonzero(as_tuple=True)
                y = y.index_add(0, rows, expert(x[rows]).float() * share[rows, slot, None].float())
        (y * y).mean().backward()
    return step


sides = {"ramet": ours(False), "ramet, all experts": ours(True), "PyTorch fp32": theirs(False), "PyTorch bf16": theirs(True)}
spent = {name: [] for name in sides}
for r in range(o.rounds + 2):
    for name, step in sides.items():
        begin = time.perf_counter()
        step()
        if r > 1:
            spent[name].append(1e3 * (time.perf_counter() - begin))
for name, ms in spent.items():
    print(f"{name:20} {np.median(ms):7.1f} ms [{min(ms):.1f}-{max(ms):.1f}]  {np.median(ms) / np.median(spent['ramet']):.2f}x")
