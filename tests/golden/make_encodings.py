#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write tests/tensor/golden_encodings.h: blocks of floats and what the Python package gguf (0.19.0), the ggml project's own
reference, makes of them. Usage: make_encodings.py > tests/tensor/golden_encodings.h"""
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

NAMES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0"]
READ_ONLY = {"Q5_1": (24, 32, (0, 2)), "Q4_K": (144, 256, (0, 2)), "Q5_K": (176, 256, (0, 2)), "Q6_K": (210, 256, (208,)), "IQ4_NL": (18, 32, (0,)),
             "Q2_K": (84, 256, (80, 82)), "Q3_K": (110, 256, (108,)), "IQ2_XXS": (66, 256, (0,)), "IQ2_XS": (74, 256, (0,)), "IQ3_XXS": (98, 256, (0,)),
             "IQ1_S": (50, 256, (0,)), "IQ3_S": (110, 256, (0,)), "IQ2_S": (82, 256, (0,)), "IQ4_XS": (136, 256, (0,)), "IQ1_M": (56, 256, ()),
             "TQ1_0": (54, 256, (52,)), "TQ2_0": (66, 256, (64,)), "MXFP4": (17, 32, ())}


def blocks():
    rng = np.random.default_rng(7)
    ramp = np.linspace(-1, 1, 32)
    return np.array([
        rng.standard_normal(32),
        rng.standard_normal(32) * 0.02,
        np.zeros(32),
        np.full(32, 0.1),
        rng.standard_normal(32) * 1e-7,          # scales that are fp16 denormals
        rng.standard_normal(32) * 3e4,           # fp16 overflows to infinity in places
        np.where(np.arange(32) == 5, 3.0, 0.0),  # one value
        np.round(ramp * 8) / 8,                  # ties
        -np.abs(rng.standard_normal(32)) - 1,    # one sign
    ], dtype=np.float32)


def table(name, words, fmt):
    print(f"static const {name} = {{")
    for i in range(0, len(words), 16):
        print("    " + " ".join(fmt % int(w) + "," for w in words[i:i + 16]))
    print("};")


if __name__ == "__main__":
    x = blocks()
    print("/* SPDX-License-Identifier: Apache-2.0 */")
    print("/* Made by tests/golden/make_encodings.py from the Python package gguf 0.19.0: do not edit. Floats are written as their bits. */")
    print(f"enum {{ GOLDEN_BLOCKS = {len(x)} }};")
    table("uint32_t golden_input[]", x.view(np.uint32).ravel(), "0x%08x")
    for name in NAMES:
        coded = quantize(x, T[name])
        table(f"uint8_t golden_{name}_bytes[]", coded.view(np.uint8).ravel(), "0x%02x")
        table(f"uint32_t golden_{name}_values[]", dequantize(coded, T[name]).astype(np.float32).view(np.uint32).ravel(), "0x%08x")
    # read only: random bytes with scales that are numbers
    rng = np.random.default_rng(8)
    for name, (size, block, halves) in READ_ONLY.items():
        coded = rng.integers(0, 256, (512 // block, size), dtype=np.uint8)
        for at in halves:
            coded[:, at:at + 2] = rng.uniform(-2, 2, (512 // block, 1)).astype(np.float16).view(np.uint8)
        if name == "IQ1_M":  # d in four nibbles
            coded[:, 55] = coded[:, 55] & 0x8F | 0x30
        if name == "MXFP4":
            coded[:, 0] = 110 + coded[:, 0] // 16
            coded[:3, 0] = 0, 1, 2
        table(f"uint8_t golden_{name}_bytes[]", coded.ravel(), "0x%02x")
        table(f"uint32_t golden_{name}_values[]", dequantize(coded, T[name]).astype(np.float32).view(np.uint32).ravel(), "0x%08x")
