#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two controls of the loop, on the folder that `ramet cycle -o FOLDER` left (benchmarks/loop/loop.py keeps one for each seed):

    benchmarks/loop/controls.py FOLDER [--ramet RAMET] [--data DATA] [--tokens N]

untuned   the pruned variants send what they know without having learned anything: lift and distill must gain nothing on any domain
alone     the updates are fed again into a copy of the store, in a folder of their own: the same candidate, from briefs and updates alone

Prints the changes of test loss with their 95% intervals, and OK or FAILED for each; exit code 1 when one failed. Some minutes.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ramet"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--ramet", type=pathlib.Path, default=ROOT / "build/examples/ramet/ramet")
    parser.add_argument("--data", type=pathlib.Path, default=cache / "data")
    parser.add_argument("--tokens", type=int, default=8160, help="scored of each test text")
    a = parser.parse_args()
    domains = sorted({p.name[len("pruned-"):-len("-1.safetensors")] for p in (a.folder / "updates").glob("pruned-*-1.safetensors")})
    if not domains:
        sys.exit(f"controls: {a.folder} has no updates of pruned variants: it is not what `ramet cycle -o` left")
    failed = []

    def ramet(*arguments):
        done = subprocess.run([str(x) for x in (a.ramet, *arguments, "--json")], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"controls: exit code {done.returncode}: ramet {' '.join(map(str, arguments))}")
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def verdict(name, fine):
        print(f"{name}: {'OK' if fine else 'FAILED'}\n", flush=True)
        failed.extend([] if fine else [name])

    with tempfile.TemporaryDirectory(dir=a.folder) as room:
        room = pathlib.Path(room)
        store = room / "store"
        shutil.copytree(a.folder / "store", store)
        if (store / "versions/0002.gguf").exists():  # the cycle committed its choice
            ramet("undo", store)
        parent = store / "versions/0001.gguf"

        def change(model, text):
            told = ramet("eval", model, "--against", parent, "--text", a.data / f"{text}.test.jsonl", "--max-tokens", a.tokens)
            return told["difference"], told["interval"]

        variant = a.folder / "variants/pruned-1.gguf"
        ramet("tune", variant, "--data", a.data / f"{domains[0]}.train.jsonl", "--steps", 1, "--batch", 1, "-c", 64, "--rank", 16, "--lr", "1e-12", "-o", room / "idle.gguf")
        for d in domains:
            ramet("update", variant, "--brief", a.folder / "brief-1.safetensors", "--lora", room / "idle.gguf", "--task", d, "--examples", 64, "--what", "delta,logits", "-o", room / f"{d}.update")
        gains = []
        for method in ("lift", "distill"):
            ramet("feed", store, *(room / f"{d}.update" for d in domains), "--method", method, "-o", room / "candidate.gguf")
            for d in domains:
                difference, interval = change(room / "candidate.gguf", d)
                print(f"untuned, {method}: {d} {difference:+.4f} [{interval[0]:+.4f},{interval[1]:+.4f}]", flush=True)
                gains.append(interval[1] < 0)
        verdict("untuned", not any(gains))

        updates = [shutil.copy(a.folder / f"updates/pruned-{d}-1.safetensors", room / f"{d}.safetensors") for d in domains]
        ramet("feed", store, *updates, "--method", "lift", "-o", room / "again.gguf")
        told = ramet("eval", room / "again.gguf", "--against", a.folder / "candidate-lift.gguf", "--text", a.data / f"{domains[0]}.test.jsonl", "--max-tokens", a.tokens)
        print(f"alone: its loss differs from the cycle's candidate by {told['difference']} {told['interval']}")
        verdict("alone", told["difference"] == 0 and told["interval"] == [0, 0])
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
