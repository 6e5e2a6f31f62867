#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What more threads give: prefill, decode and LoRA steps with one thread and with more, in turns, beside what the memory gives at the same time.

    benchmarks/inference/threads.py MODEL.gguf [--threads 2] [--rounds 7] [--no-lora] [--library FILE] [-o FILE]

A round measures each work with one thread and with --threads, and reading 256 MiB by one process and by as many at once (tests/kernels/checker), so that
a machine whose memory is shared shows it. Medians and the spread (lowest to highest) are over rounds, the first is not counted; a ratio is the
median of the rounds' own ratios. Decode is at a context of 32; LoRA has rank 16 on all linear layers, 4 x 256 tokens a step.
"""
import re
import statistics
import subprocess
import sys
import time

import numpy as np

from common import arguments, load, middle, show, write

PREFILL, DECODE, WINDOW, BATCH = 512, 64, 256, 4


class Side:
    def __init__(self, ramet, a, threads):
        self.threads, self.checker = threads, a.library.parent.parent / "tests/kernels/checker"
        model = ramet.load(a.model, runtime=ramet.Runtime(threads=threads))
        self.ids = np.random.default_rng(0).integers(100, 40000, 16 * WINDOW * BATCH + 1).astype(np.int32)
        self.session = model.session(max_context=PREFILL + 256, max_rank=0)
        if a.lora:
            data = ramet.Dataset(model)
            data.add_ids(self.ids)
            self.tuner = ramet.Tuner(model, data, rank=16, window=WINDOW, batch=BATCH, micro_batch=2, steps=1000, learning_rate=1e-4, schedule="constant")

    def prefill(self):
        self.session.truncate(0)
        begin = time.perf_counter()
        self.session.run(self.ids[:PREFILL])
        return PREFILL / (time.perf_counter() - begin)

    def decode(self):
        self.session.truncate(0)
        self.session.run(self.ids[:32])
        begin = time.perf_counter()
        for i in range(DECODE):
            self.session.run(self.ids[i:i + 1])
        return DECODE / (time.perf_counter() - begin)

    def lora(self):
        begin = time.perf_counter()
        self.tuner.step()
        return WINDOW * BATCH / (time.perf_counter() - begin)

    def reading(self):
        runs = [subprocess.Popen([str(self.checker), "--bench", "--only", "none", "--isa", "simd"], stdout=subprocess.PIPE, text=True) for _ in range(self.threads)]
        return sum(float(re.search(r"MiB (\S+) GB/s", r.communicate()[0]).group(1)) for r in runs)


def main():
    parser = arguments(__doc__, 7)
    parser.add_argument("--no-lora", dest="lora", action="store_false")
    a = parser.parse_args()
    if a.threads < 2:
        sys.exit("threads: --threads must be 2 or more")
    ramet = load(a)[0]
    sides = [Side(ramet, a, n) for n in (1, a.threads)]
    works = [("prefill 512", "prefill", "tok/s"), ("decode at 32", "decode", "tok/s"), ("reading 256 MiB", "reading", "GB/s")] + ([("LoRA 4x256", "lora", "tok/s")] if a.lora else [])
    found = {work: ([], []) for _, work, _ in works}
    for r in range(a.rounds + 1):  # the first is not counted
        for _, work, _ in works:
            for i in ((0, 1) if r % 2 else (1, 0)):
                rate = getattr(sides[i], work)()
                if r:
                    found[work][i].append(rate)
    result = {}
    for name, work, unit in works:
        one, more = found[work]
        result[work] = {"one": middle(one), "more": middle(more), "ratio": middle([m / o for o, m in zip(one, more)], 2)}
        print(f"{name:16} 1 thread {show(result[work]['one'])} {unit}  {a.threads} threads {show(result[work]['more'])}  {show(result[work]['ratio'])}x", flush=True)
    write(a, result)


if __name__ == "__main__":
    main()
