#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write kernels/ref/iq_grids.inc: the points that ggml's IQ encodings choose from, as the Python package gguf (0.19.0) lists them, 16 bits
each: 8 numbers of two bits, or 4 of four bits; what a code stands for is in decode_low.c. Usage: make_grids.py > kernels/ref/iq_grids.inc"""
import numpy as np
from gguf import quants

print("/* SPDX-License-Identifier: Apache-2.0 */")
print("/* Made by kernels/ref/make_grids.py from the Python package gguf 0.19.0: do not edit. */")
for name in ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"):
    words = np.frombuffer(bytes.fromhex(getattr(quants, name).grid_hex.decode()), "<u2")
    print(f"static const uint16_t grid_{name}[{len(words)}] = {{")
    for i in range(0, len(words), 20):
        print("    " + " ".join(f"{w}," for w in words[i:i + 20]))
    print("};")
