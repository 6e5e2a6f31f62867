#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Eight sequences in one run, each with an adapter of its own, beside the same run without any, in turns.

    benchmarks/inference/adapters.py MODEL.gguf [--rank 16] [--targets q_proj,v_proj] [--sequences 8] [--rounds 9] [--threads 2] [--mode balanced] [-o FILE]

Adapters of random numbers. Prefill: 64 tokens a sequence in one run; decode: a token a sequence, 24 runs from 32 tokens on. Every round times both works
with and without adapters, one after the other; medians and spread (lowest to highest) are over the rounds, the loss is the median of the pairs'.
"""
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np

from common import arguments, load, middle, show, write

PREFILL, BEFORE, DECODE = 64, 32, 24


def adapter(folder, model, rank, targets, random):
    """A PEFT folder of random A and B."""
    places = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn"}
    inner = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    shapes, header, data = model.tensors(), {}, []
    for layer in range(model.number("layers")):
        for target in targets:
            (outputs, inputs), _ = shapes[f"blk.{layer}.{inner[target]}.weight"]
            for name, shape in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
                values = (random.standard_normal(shape) * 0.02).astype("<f4").tobytes()
                start = sum(map(len, data))
                header[f"base_model.model.model.layers.{layer}.{places.get(target, 'mlp')}.{target}.{name}.weight"] = {
                    "dtype": "F32", "shape": shape, "data_offsets": [start, start + len(values)]}
                data.append(values)
    folder.mkdir()
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets}))
    return model.adapter(folder)


def once(session, work, sequences, ids):
    """Tokens a second of one work."""
    order = np.arange(sequences, dtype=np.int32)
    for sequence in range(sequences):
        session.truncate(0, sequence)
    if work == "prefill":
        begin = time.perf_counter()
        session.run(np.tile(ids[:PREFILL], sequences), sequence=np.repeat(order, PREFILL))
        return sequences * PREFILL / (time.perf_counter() - begin)
    session.run(np.tile(ids[:BEFORE], sequences), sequence=np.repeat(order, BEFORE))
    begin = time.perf_counter()
    for i in range(DECODE):
        session.run(np.repeat(ids[i:i + 1], sequences), sequence=order)
    return sequences * DECODE / (time.perf_counter() - begin)


def main():
    p = arguments(__doc__, rounds=9)
    p.add_argument("--rank", type=int, default=16)
    p.add_argument("--targets", default="q_proj,v_proj")
    p.add_argument("--sequences", type=int, default=8)
    a = p.parse_args()
    _, model = load(a)
    random = np.random.default_rng(0)
    ids = random.integers(100, model.number("vocabulary"), PREFILL).astype(np.int32)
    options = dict(mode=a.mode, max_context=256, max_sequences=a.sequences, max_rank=a.rank, max_outputs=a.sequences)
    sessions = {"none": model.session(**options), "adapters": model.session(**options)}
    with tempfile.TemporaryDirectory() as folder:
        for sequence in range(a.sequences):
            made = adapter(pathlib.Path(folder) / str(sequence), model, a.rank, a.targets.split(","), random)
            sessions["adapters"].use(sessions["adapters"].attach(made), sequence)
    speeds = {work: {kind: [] for kind in sessions} for work in ("prefill", "decode")}
    for r in range(a.rounds + 1):  # the first is not counted
        for work, row in speeds.items():
            for kind in list(sessions)[:: 1 if r % 2 else -1]:
                row[kind].append(once(sessions[kind], work, a.sequences, ids))
    works = {}
    for work, row in speeds.items():
        works[work] = {kind: middle(v[1:]) for kind, v in row.items()}
        loss = works[work]["loss"] = statistics.median(1 - x / y for x, y in zip(row["adapters"][1:], row["none"][1:]))
        print(f"{work:8}" + ", ".join(f"{kind} {show(works[work][kind])}" for kind in row) + f" tok/s: {100 * loss:.1f}% slower with them")
    write(a, {"works": works})


if __name__ == "__main__":
    main()
