#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""data to checkpoint: adapt a model to a text with LoRA; start it again and it continues.

usage: tune.py MODEL TRAIN HELD_OUT CHECKPOINT ADAPTER.gguf"""
import os
import sys

import ramet


def main(path: str, train: str, held_out: str, checkpoint: str, out: str) -> None:
    model = ramet.load(path)
    before = model.evaluate(held_out, window=128)
    print(f"held-out loss before: {before.loss:.4f} +- {before.standard_error:.4f}")
    tuner = ramet.Tuner(model, train, steps=40, window=128, rank=8, learning_rate=1e-3)
    if os.path.exists(checkpoint):
        tuner.resume(checkpoint)
    for event in tuner:  # one optimizer step each; Ctrl-C stops between two nodes of the graph
        if event.step % 10 == 0:
            tuner.save(checkpoint)
            print(f"step {event.step} of {event.steps}: loss {event.loss:.4f}")
    adapter = tuner.adapter()
    after = model.evaluate(held_out, window=128, adapter=adapter)
    print(f"held-out loss after: {after.loss:.4f} +- {after.standard_error:.4f}")
    adapter.save(out)


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except ramet.Error as error:
        sys.exit(f"tune: {error}")
