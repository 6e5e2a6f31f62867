#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sentence embeddings a second beside ONNX Runtime and PyTorch, interleaved in one run.

    benchmarks/inference/embed.py FOLDER [--threads 2] [--rounds 9] [--tokens 128]

FOLDER is a BERT as Hugging Face keeps it. Needs torch, transformers, onnx and onnxruntime. Compared at one text and at 32 of --tokens
tokens each: ramet with the folder's weights (exact, balanced) and with the same model as Q8_0 (balanced); PyTorch fp32; ONNX Runtime fp32,
and its dynamic int8 quantization (onnxruntime.quantization.quantize_dynamic). Every round runs each once; medians and the
spread (lowest to highest) are over the rounds. The last column is the lowest cosine to PyTorch's fp32 vectors.
"""
import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
p.add_argument("folder")
p.add_argument("--threads", type=int, default=2)
p.add_argument("--rounds", type=int, default=9)
p.add_argument("--tokens", type=int, default=128)
a = p.parse_args()
os.environ["OMP_NUM_THREADS"] = str(a.threads)
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bindings/python"))
import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402
import ramet  # noqa: E402
import torch  # noqa: E402
from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: E402
from transformers import AutoModel  # noqa: E402

torch.set_num_threads(a.threads)
ort.set_default_logger_severity(3)
work = pathlib.Path(tempfile.mkdtemp())


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = AutoModel.from_pretrained(a.folder, attn_implementation="eager").eval()

    def forward(self, ids, mask):
        h = self.net(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
        return torch.nn.functional.normalize(h.sum(1) / mask.sum(1, keepdim=True))


net = Net().eval()  # the export sets back what it found
ids = torch.randint(1000, net.net.config.vocab_size, (32, a.tokens), generator=torch.Generator().manual_seed(1))
ids[:, 0], ids[:, -1] = 101, 102
mask = torch.ones_like(ids)
full, small = str(work / "fp32.onnx"), str(work / "int8.onnx")
with torch.no_grad():
    torch.onnx.export(net, (ids[:2], mask[:2]), full, input_names=["ids", "mask"], output_names=["y"], opset_version=17, dynamo=False,
                      dynamic_axes={"ids": {0: "n", 1: "t"}, "mask": {0: "n", 1: "t"}})
quantize_dynamic(full, small, weight_type=QuantType.QInt8)


def onnx(path):
    o = ort.SessionOptions()
    o.intra_op_num_threads, o.inter_op_num_threads = a.threads, 1
    s = ort.InferenceSession(path, o, providers=["CPUExecutionProvider"])
    return lambda n: s.run(None, {"ids": ids[:n].numpy(), "mask": mask[:n].numpy()})[0]


def pytorch(n):
    with torch.inference_mode():
        return net(ids[:n], mask[:n]).numpy()


def ours(model, mode):
    e = model.embedder(mode=mode)
    texts = [row.numpy().astype(np.int32) for row in ids]
    return lambda n: e(texts[:n])


model = ramet.load(a.folder, runtime=ramet.Runtime(threads=a.threads))
works = {"ramet F32 exact": ours(model, "exact"), "ramet F32 balanced": ours(model, "balanced"), "ramet Q8_0 balanced": ours(model.quantize("Q8_0"), "balanced"),
         "onnxruntime fp32": onnx(full), "onnxruntime int8": onnx(small), "pytorch fp32": pytorch}
reference = pytorch(32)
print(f"{a.tokens} tokens a text, {a.threads} threads, {a.rounds} rounds; onnxruntime {ort.__version__}, torch {torch.__version__}")
for n in (1, 32):
    seconds = {name: [] for name in works}
    for r in range(a.rounds + 1):  # the first warms up
        for name, run in works.items():
            repeat, begin = (8 if n == 1 else 1), time.perf_counter()
            for _ in range(repeat):
                run(n)
            if r:
                seconds[name].append((time.perf_counter() - begin) / repeat)
    base = statistics.median(seconds["onnxruntime fp32"])
    for name, s in seconds.items():
        y = works[name](n)
        cosine = float((y * reference[:n]).sum(1).min())
        print(f"batch {n:2} {name:20} {n / statistics.median(s):8.1f} texts/s ({n / max(s):.1f} to {n / min(s):.1f})  {base / statistics.median(s):5.2f} x onnxruntime fp32  "
              f"cosine {cosine:.6f}  max difference {np.abs(y - reference[:n]).max():.1e}")
