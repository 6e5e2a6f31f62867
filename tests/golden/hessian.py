#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Hessian-vector product of a llama's loss for all its weights, beside PyTorch in float64.

    hessian.py HESSIAN_TOOL MODEL.gguf [SEQUENCES LENGTH]

Three sequences of 40 random tokens by default, one random direction through all weights. Skipped (exit code 77) without torch, numpy, gguf
and safetensors. Everything within 1e-4 of the norm, all weights together and each alone.
"""
import os
import subprocess
import sys
import tempfile

try:
    import gguf  # noqa: F401
    import numpy as np
    import torch
    from safetensors.numpy import load_file, save_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from train_reference import Llama  # noqa: E402

LIMIT = 1e-4


def main(tool: str, model: str, sequences: int = 3, length: int = 40) -> int:
    torch.set_num_threads(2)
    llama, rng = Llama(model, torch.float64), np.random.default_rng(1)
    vocabulary = len(llama.w["token_embd.weight"])
    ids = rng.integers(0, vocabulary, (sequences, length + 1))
    along = {name: (rng.standard_normal(w.shape) * float(w.std())).astype(np.float32) for name, w in llama.w.items()}
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("in.safetensors", "out.safetensors")]
        both = {name: np.ascontiguousarray(x.astype(np.int32)) for name, x in (("tokens", ids[:, :-1]), ("labels", ids[:, 1:]))}
        save_file({**along, **both}, paths[0])
        subprocess.run([tool, model, *paths], check=True)
        mine = load_file(paths[1])

    names, leaves = list(llama.w), [w.requires_grad_() for w in llama.w.values()]
    # the fused attention of PyTorch has no second derivative
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = llama.loss(torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1:].copy()), {})
        grads = torch.autograd.grad(loss, leaves, create_graph=True)
        dot = sum((g * torch.from_numpy(along[n]).double()).sum() for n, g in zip(names, grads))
        seconds = torch.autograd.grad(dot, leaves)
    failed = 0
    print(f"loss {float(mine['loss'][0]):.7f} / {float(loss.detach()):.7f}")
    for what, theirs in (("grad", grads), ("hvp", seconds)):
        theirs = {n: t.detach().numpy() for n, t in zip(names, theirs)}
        away = {n: float(np.linalg.norm(mine[f"{what}/{n}"] - t)) for n, t in theirs.items()}
        size = {n: float(np.linalg.norm(t)) for n, t in theirs.items()}
        together = sum(a * a for a in away.values()) ** 0.5 / sum(s * s for s in size.values()) ** 0.5
        worst = max(names, key=lambda n: away[n] / size[n])
        good = together <= LIMIT and away[worst] / size[worst] <= LIMIT
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {what}: {together:.3g} of its norm, the worst weight ({worst}) "
              f"{away[worst] / size[worst]:.3g} (at most {LIMIT:g})")
    return int(failed > 0)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:3], *map(int, sys.argv[3:5])))
