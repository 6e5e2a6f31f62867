#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""parent to variant to update to parent, one turn. OWN is the parent's own text, HELD_OUT what the gate measures.

usage: loop.py PARENT OWN TRAIN HELD_OUT, in an empty folder"""
import sys

import ramet


def main(path: str, own: str, train: str, held_out: str) -> None:
    # The parent's side: a store with the parent as version 1, a brief, and a variant with fewer channels.
    parent = ramet.load(path)
    store = ramet.Store.init("store", parent)
    store.brief("brief.safetensors")
    calibration = ramet.Dataset(parent, own).ids()[:4096]
    parent.prune(calibration, keep=0.8, window=128).save("variant.gguf")

    # The variant's side: adapt to its own text, then write what was learned as an update. The text stays here.
    variant = ramet.load("variant.gguf")
    tuner = ramet.Tuner(variant, train, steps=40, window=128, learning_rate=1e-3)
    for event in tuner:
        pass
    sent = variant.update("brief.safetensors", tuner.adapter(), "update.safetensors", task="stories", examples=event.tokens)
    print(f"leaves the device: {sent['leaves_the_device']}")

    # The parent's side again: absorb the update, measure the candidate, make it the new parent or leave everything as it is.
    candidate = store.absorb(["update.safetensors"], "lift")
    verdict = store.gate(candidate, {"stories": held_out}, guards={"own": own}, window=128)
    for task in verdict["tasks"]:
        print(f"{task['task']}: parent {task['parent']:.4f}, candidate {task['candidate']:.4f}")
    if verdict["passed"]:
        store.commit(candidate)
    print(f"the gate says {'better' if verdict['passed'] else 'not better'}; the parent is version {store.version}")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except ramet.Error as error:
        sys.exit(f"loop: {error}")
