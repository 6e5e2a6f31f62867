#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Many requests through ramet.Batcher beside the same requests one after another, in turns.

    benchmarks/inference/batcher.py MODEL.gguf [--requests 24] [--every 16] [--sequences 8] [--rounds 5] [--peer PYTHON] [-o FILE]

A fixed list: request i has 16 to 128 tokens of random ids and wants 32 to 128 more. It comes when all together have made `every` * i tokens (or nobody else
is there), so that both ways meet the same crowd. Greedy; a request ends early where the model says so. One after another: in a session, and in
llama.cpp where PYTHON (default: LLAMA_PEER) has llama-cpp-python. Printed: tokens made a second of the whole list, and the time from coming to the
first token, its median and its worst; each the median over the rounds and the spread (lowest to highest).
"""
import collections
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from common import arguments, load, middle, show, write

Request = collections.namedtuple("Request", "ids tokens after")


def requests(count, every, vocabulary):
    random = np.random.default_rng(0)
    return [Request(random.integers(100, min(40000, vocabulary), 16 + i * 37 % 113).astype(np.int32), 32 + i * 53 % 97, i * every) for i in range(count)]


class Run:
    """One time through the list: who has come, and when each had its first token."""

    def __init__(self, asked):
        self.asked, self.came, self.first, self.made, self.begin = asked, [], {}, 0, time.perf_counter()

    def arrivals(self, idle):
        """Requests that come now."""
        new = []
        while len(self.came) < len(self.asked) and (self.asked[len(self.came)].after <= self.made or (idle and not new)):
            new.append(len(self.came))
            self.came.append(time.perf_counter())
        return new

    def token(self, i):
        self.made += 1
        self.first.setdefault(i, time.perf_counter())

    def result(self):
        waits = [1e3 * (self.first[i] - self.came[i]) for i in self.first]
        return {"tok_s": self.made / (time.perf_counter() - self.begin), "first_ms": statistics.median(waits), "worst_ms": max(waits), "tokens": self.made}


def batched(ramet, session, asked):
    batcher, run, numbers = ramet.Batcher(session), Run(asked), {}
    while len(run.came) < len(asked) or batcher.left:
        for i in run.arrivals(not batcher.left):
            numbers[batcher.submit(asked[i].ids, max_tokens=asked[i].tokens)] = i
        for event in batcher.step():
            if event.kind == "token":
                run.token(numbers[event.request])
    return run.result()


def in_turn(generate, asked):
    """generate(request, token): calls token() as each is there."""
    run = Run(asked)
    queue = collections.deque(run.arrivals(True))
    while queue:
        i = queue.popleft()

        def token():
            run.token(i)
            queue.extend(run.arrivals(False))

        generate(asked[i], token)
        if not queue:
            queue.extend(run.arrivals(True))
    return run.result()


def in_session(session):
    def generate(request, token):
        session.truncate(0)
        session.generate(request.ids, lambda _id, _text: token(), max_tokens=request.tokens)
    return generate


def in_llama(llama):
    vocabulary = llama.l.llama_model_get_vocab(llama.model)
    words = llama.l.llama_vocab_n_tokens(vocabulary)

    def generate(request, token):
        llama.clear()
        ids = request.ids
        for _ in range(request.tokens):
            llama.run(ids, [0] * len(ids))
            best = int(np.ctypeslib.as_array(llama.l.llama_get_logits_ith(llama.context, -1), (words,)).argmax())
            if llama.l.llama_vocab_is_eog(vocabulary, best):
                break
            token()
            ids = [best]
    return generate


def worker(a):
    """The peer's process: says how many words its model has, then answers a line of requests' count and distance with a result."""
    from inference import Llama
    llama = Llama(a.model, a.threads, "auto")
    generate, words = in_llama(llama), llama.l.llama_vocab_n_tokens(llama.l.llama_model_get_vocab(llama.model))
    print(words, flush=True)
    for _ in sys.stdin:
        print(json.dumps(in_turn(generate, requests(a.requests, a.every, words))), flush=True)


def main():
    p = arguments(__doc__, rounds=5)
    p.add_argument("--requests", type=int, default=24)
    p.add_argument("--every", type=int, default=16)
    p.add_argument("--sequences", type=int, default=8)
    p.add_argument("--peer", default=os.environ.get("LLAMA_PEER"), metavar="PYTHON")
    p.add_argument("--worker", action="store_true")
    a = p.parse_args()
    if a.worker:
        return worker(a)
    ramet, model = load(a)
    asked = requests(a.requests, a.every, model.number("vocabulary"))
    many = model.session(mode=a.mode, max_context=512, max_sequences=a.sequences, max_outputs=a.sequences, max_rank=0)
    one = model.session(mode=a.mode, max_context=512, max_sequences=1, max_rank=0)
    ways = {"batcher": lambda: batched(ramet, many, asked), "one by one": lambda: in_turn(in_session(one), asked)}
    if a.peer:
        peer = subprocess.Popen([a.peer, __file__, a.model, "--worker", "--threads", str(a.threads), "--requests", str(a.requests), "--every", str(a.every)],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not peer.stdout.readline():
            sys.exit("batcher: the peer did not load the model; its own message is above")

        def ask():
            peer.stdin.write("\n")
            peer.stdin.flush()
            return json.loads(peer.stdout.readline())

        ways["llama.cpp"] = ask
    results = {way: [] for way in ways}
    for r in range(a.rounds + 1):  # the first is not counted
        for way in list(ways)[:: 1 if r % 2 else -1]:
            results[way].append(ways[way]())
    rows = {way: {key: middle([v[key] for v in row[1:]]) for key in row[0]} for way, row in results.items()}
    for way, row in rows.items():
        print(f"{way:12}{show(row['tok_s'])} tok/s; first token {show(row['first_ms'])} ms, the worst {show(row['worst_ms'])} ms; {row['tokens']['median']:.0f} tokens")
    write(a, {"ways": rows})


if __name__ == "__main__":
    main()
