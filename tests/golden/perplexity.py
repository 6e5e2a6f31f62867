#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare `ramet eval` with llama.cpp: mean negative log-likelihood by the rule of its perplexity tool with -c 512.

    perplexity.py RAMET MODEL.gguf TEXT [WINDOWS] [--written]

Disjoint windows of 512 tokens without a beginning-of-text id; the predictions made from positions 256..510 are scored. With --written,
files that RAMET makes of the model are compared as well: its weights as F32 and, from those, in every other encoding; layers removed,
channels removed. Skipped (exit code 77) without llama_cpp and numpy, here or in the Python that LLAMA_PEER names. The limit is 0.3% of the
loss, in exact and in balanced mode.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

WINDOW, LIMIT = 512, 3e-3


def losses(model, windows, lora=""):
    """llama.cpp's mean loss over windows of ids: half of each is scored. Runs where llama_cpp is importable."""
    import llama_cpp
    import numpy as np

    size = len(windows[0])
    # one thread: more of them spin at barriers, which takes for ever where other programs run
    peer = llama_cpp.Llama(model, n_ctx=size, n_batch=size, n_threads=1, n_threads_batch=1, logits_all=True, lora_path=lora or None,
                           verbose=False)
    total, scored = 0.0, 0
    for window in windows:
        peer.reset()
        peer.eval(window)
        logits = np.asarray(peer.scores[size // 2 : size - 1], np.float64)
        top = logits.max(axis=1, keepdims=True)
        lse = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        total += float((lse - logits[np.arange(len(logits)), window[size // 2 + 1 :]]).sum())
        scored += len(logits)
    return total / scored


def peer_loss(model, windows, lora=""):
    """The same through LLAMA_PEER's Python, or this one; None without either."""
    python = os.environ.get("LLAMA_PEER", sys.executable)
    done = subprocess.run([python, os.path.abspath(__file__), "--peer", model, lora], input=json.dumps(windows), capture_output=True,
                          text=True)
    if done.returncode:
        print("llama.cpp:", *done.stderr.strip().splitlines()[-1:], flush=True)
        return None
    return float(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ramet")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("windows", nargs="?", type=int, default=4)
    parser.add_argument("--written", action="store_true")
    a = parser.parse_args()
    if a.text.endswith(".jsonl"):
        parser.error("TEXT must be plain text: of a .jsonl file ramet reads the texts, the peer here the lines")
    try:
        subprocess.run([os.environ.get("LLAMA_PEER", sys.executable), "-c", "import llama_cpp, numpy"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        print("skipped: no llama_cpp or numpy")
        return 77

    def run(*arguments):
        done = subprocess.run([a.ramet, *arguments, "--json"], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout)

    ids = run("tokenize", a.model, "-f", a.text)["ids"][: a.windows * WINDOW]
    windows = [ids[i : i + WINDOW] for i in range(0, len(ids) // WINDOW * WINDOW, WINDOW)]
    scored, bad = len(windows) * (WINDOW - 1 - WINDOW // 2), []

    def compare(name, path):
        theirs = peer_loss(path, windows)
        if theirs is None:
            bad.append(f"{name}: llama.cpp does not run it")
            return
        line = f"{name} ({os.path.getsize(path) / 1e6:.0f} MB): llama.cpp {theirs:.5f}"
        for mode in ("exact", "balanced"):
            ours = run("eval", path, "--text", a.text, "--max-tokens", str(scored), "--mode", mode)
            difference = ours["loss"] / theirs - 1
            if ours["tokens"] != scored or abs(difference) > LIMIT:
                bad.append(f"{name} {mode}")
            line += f", {mode} {ours['loss']:.5f} ({100 * difference:+.3f}%)"
        print(line, flush=True)

    print(f"{scored} scored tokens")
    compare("as given", a.model)
    if a.written:
        with tempfile.TemporaryDirectory() as folder:
            plain, path = f"{folder}/plain.gguf", f"{folder}/model.gguf"
            run("quantize", a.model, plain, "--type", "F32", "--head", "F32")
            compare("F32", plain)
            for encoding in ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "F16", "BF16"):
                run("quantize", plain, path, "--type", encoding, "--head", "Q8_0" if encoding[0] == "Q" else encoding)
                compare(encoding, path)
            for name, cut in (("layers removed", ("--layers", "4", "--ffn", "0")), ("channels removed", ("--layers", "0", "--ffn", "384"))):
                for model, encoding in ((a.model, "as given"), (plain, "F32")):
                    run("prune", model, path, "--calib", a.text, "--tokens", "2048", *cut)
                    compare(f"{name}, {encoding}", path)
    if bad:
        print("over the limit: " + "; ".join(bad))
    return int(bool(bad))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        print(losses(sys.argv[2], json.load(sys.stdin), sys.argv[3]))
        sys.exit(0)
    sys.exit(main())
