#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare `ramet eval` with llama.cpp: mean negative log-likelihood by the rule of its perplexity tool with -c 512.

    perplexity.py RAMET MODEL.gguf TEXT [WINDOWS]

Disjoint windows of 512 tokens without a beginning-of-text id; the predictions made from positions 256..510 are scored. Skipped (exit
code 77) without llama_cpp and numpy. llama.cpp rounds activations to 8 bits where weights are quantized, so the limit is 1% of the loss.
"""
import json
import subprocess
import sys

try:
    import llama_cpp
    import numpy as np
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

WINDOW = 512


def main(ramet: str, model: str, text: str, windows: int) -> int:
    def run(*arguments: str) -> dict:
        return json.loads(subprocess.run([ramet, *arguments, "--json"], check=True, capture_output=True, text=True).stdout)

    ids = run("tokenize", model, "-f", text)["ids"][: windows * WINDOW]
    windows = len(ids) // WINDOW
    scored = windows * (WINDOW - 1 - WINDOW // 2)
    peer = llama_cpp.Llama(model, n_ctx=WINDOW, n_batch=WINDOW, n_threads=2, logits_all=True, verbose=False)
    total = 0.0
    for w in range(windows):
        window = ids[w * WINDOW : (w + 1) * WINDOW]
        peer.reset()
        peer.eval(window)
        logits = np.asarray(peer.scores[WINDOW // 2 : WINDOW - 1], np.float64)
        top = logits.max(axis=1, keepdims=True)
        lse = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        total += float((lse - logits[np.arange(len(logits)), window[WINDOW // 2 + 1 :]]).sum())
    theirs, bad = total / scored, 0
    print(f"llama.cpp: {theirs:.5f} over {scored} tokens")
    for mode in ("exact", "balanced"):
        ours = run("eval", model, "--text", text, "--max-tokens", str(scored), "--mode", mode)
        difference = ours["loss"] / theirs - 1
        bad += ours["tokens"] != scored or abs(difference) > 0.01
        print(f"ramet {mode}: {ours['loss']:.5f} over {ours['tokens']} tokens, {100 * difference:+.3f}%")
    return 1 if bad else 0


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:4], int(sys.argv[4]) if len(sys.argv) > 4 else 4))
