#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""file to logits: load a model, run a prompt, look at the logits, stream a reply.   usage: generate.py MODEL PROMPT"""
import sys

import ramet


def main(path: str, prompt: str) -> None:
    model = ramet.load(path)
    ids = model.tokenizer.encode(prompt, bos=True)
    logits = model(ids)  # [ids, vocabulary]: a view into the library's memory
    best = int(logits[-1].argmax())
    print(f"{len(ids)} ids in, the likeliest next is {best} with logit {logits[-1, best]:.3f}")
    for piece in model.generate(prompt, max_tokens=40, stream=True):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except ramet.Error as error:  # the library's own message
        sys.exit(f"generate: {error}")
