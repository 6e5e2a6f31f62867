#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters beside the package peft, on the transformers model of the model's own weights, in float64.

    peft_reference.py LIBRAMET.so [MODEL.gguf]

The model is by default the one that RAMET_TEST_MODEL names. peft makes adapters with random pairs (rank 8 on q and v, on all linear layers,
rank-stabilized on two); each must give the same loss here on the Hugging Face folder and on its F32 GGUF, saved by us as PEFT the same
loss in peft, and saved by us as GGUF the same loss in llama.cpp, where it is importable or LLAMA_PEER names a Python that has it. Skipped
(exit code 77) without a model or the packages: torch, transformers, peft, numpy, gguf, safetensors, tokenizers.
"""
import ctypes as c
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
try:
    import numpy as np
    import peft
    import torch
    import llama_reference as reference
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)
from perplexity import peer_loss  # noqa: E402
from train_reference import Ramet  # noqa: E402

WINDOW, WINDOWS = 256, 2
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {"q and v": dict(target_modules=["q_proj", "v_proj"]), "all linear layers": dict(target_modules=LINEAR),
            "rank-stabilized, o and down": dict(target_modules=["o_proj", "down_proj"], use_rslora=True)}
TEXT = open(reference.__file__.replace(".pyc", ".py")).read()
failures = []


def check(what, value, want, limit):
    good = value is not None and abs(value / want - 1) <= limit
    difference = f"{value:.6f} / {want:.6f} ({100 * (value / want - 1):+.5f}%)" if value else "no answer"
    print(f"{'ok  ' if good else 'FAIL'} {what}: {difference}", flush=True)
    if not good:
        failures.append(what)


def torch_loss(net, windows):
    """Half of each window is scored, as ramet_evaluate does."""
    total = 0.0
    with torch.no_grad():
        for window in windows:
            ids = torch.tensor([window])
            logits = net(ids).logits[0, WINDOW // 2:-1].double()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, WINDOW // 2 + 1:]))
    return total / len(windows)


def main():
    path = sys.argv[2] if len(sys.argv) > 2 else os.environ.get("RAMET_TEST_MODEL")
    if len(sys.argv) < 2 or not path:
        print("skipped: RAMET_TEST_MODEL is not set")
        return 77
    r, rng = Ramet(sys.argv[1]), np.random.default_rng(1)
    runtime = r.new("ramet_runtime_create", None)
    with tempfile.TemporaryDirectory() as work:
        folder, file = f"{work}/folder", f"{work}/plain.gguf"
        reference.write_folder(reference.Reference(path), path, folder, False)
        models = {"folder": r.new("ramet_model_load_path", runtime, folder.encode())}
        r.do("ramet_model_save", models["folder"], file.encode(), None, None)
        models["GGUF"] = r.new("ramet_model_load_path", runtime, file.encode())
        count, ids = c.c_int64(), np.zeros(len(TEXT), np.int32)
        r.do("ramet_tokenize", c.byref(count), ids.ctypes.data_as(c.c_void_p), c.c_int64(len(ids)), models["GGUF"], TEXT.encode(),
             c.c_size_t(len(TEXT.encode())), 0)
        ids = np.ascontiguousarray(ids[:WINDOW * WINDOWS])
        windows = ids.reshape(WINDOWS, WINDOW).tolist()
        loss = lambda which, adapter: r.evaluate(models[which], r.data(models[which], ids), window=WINDOW, mode=0, adapter=adapter).loss
        load = lambda which, where: r.new("ramet_adapter_load", models[which], where.encode())

        net = reference.torch_model(folder, "float64")
        base = torch_loss(net, windows)
        for which in models:
            check(f"no adapter, {which}", loss(which, None), base, 1e-4)
        for name, options in ADAPTERS.items():
            there = f"{work}/{name}"
            net = peft.get_peft_model(net, peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM", **options))
            with torch.no_grad():
                for key, p in net.named_parameters():
                    if "lora_" in key:
                        size = p.shape[1] ** -0.5 if "lora_A" in key else 0.05
                        p.copy_(torch.from_numpy((rng.standard_normal(tuple(p.shape)) * size).astype(np.float32)))
            want = torch_loss(net, windows)
            print(f"     {name}: the adapter changes the loss by {want - base:+.4f}")
            if abs(want / base - 1) < 1e-3:
                failures.append(f"{name}: the adapter changes nothing")
            net.float().save_pretrained(there)  # all numbers are float32's: nothing is lost
            net = net.double().unload()
            for which in models:
                adapter = load(which, there)
                check(f"{name}, peft's on the {which}", loss(which, adapter), want, 1e-4)
                r.do("ramet_adapter_save", adapter, f"{there}-{which}".encode())
                r.do("ramet_adapter_save", adapter, f"{there}-{which}.gguf".encode())
                check(f"{name}, ours as GGUF, read again on the {which}", loss(which, load(which, f"{there}-{which}.gguf")), want, 1e-4)
                back = peft.PeftModel.from_pretrained(net, f"{there}-{which}")
                check(f"{name}, ours of the {which} in peft", torch_loss(back, windows), want, 1e-4)
                net = back.unload()
                theirs = peer_loss(file, windows, f"{there}-{which}.gguf")
                check(f"{name}, ours of the {which} as GGUF in llama.cpp", theirs, want, 3e-3)
        for m in models.values():
            r.lib.ramet_model_free(m)
    if failures:
        print(f"{len(failures)} comparisons failed")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
