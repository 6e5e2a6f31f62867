#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""training.py - LoRA and full tuning of ramet beside PyTorch (LoRA by PEFT), in fp32 and bf16, interleaved in one run.

    training.py MODEL.gguf [--work lora,full] [--shape 4x256] [--threads 2] [--budget 256M] [--also example_clip,state_path] [--rounds 5] [--peers fp32,bf16]
                           [--python PYTHON] [--build DIR] [--json FILE]

The model is a llama GGUF; PyTorch gets its weights dequantized, as a Hugging Face LlamaForCausalLM. SHAPE is windows x tokens of an optimizer
step. LoRA has rank 16 on all linear layers. Every side runs in a process of its own with its own best batch: PyTorch takes the whole step at
once, ramet runs of 512 rows (at least one window). They take turns: a round is one optimizer step of each, forward, backward and update; the
first is not counted. Medians and the spread (lowest to highest) are over the rounds. With --budget a third ramet runs under that many bytes.
Memory is the peak of the resident set of the process and, for ramet, what the tuner says that it holds beyond the weights.

Share of the machine: operations of a token (2 a weight going forward and 2 for its input's gradient, with full tuning 2 more; the embedding's
look-up none; attention's products as well) against the bf16 or fp32 peak that tests/kernels/checker measures first in the same run, as many
processes at once as there are threads. --json appends the results to a file, one object a line.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RANK, RATE, ROWS = 16, 1e-4, 512


class Ramet:
    def __init__(self, a):
        sys.path.insert(0, str(ROOT / "bindings/python"))
        import numpy as np
        import ramet
        runtime = ramet.Runtime(threads=a.threads)
        self.model = ramet.load(a.model, runtime=runtime)
        data = ramet.Dataset(self.model)
        data.add_ids(np.random.default_rng(0).integers(100, 40000, 16 * a.windows * a.window + 1))
        self.tuner = ramet.Tuner(self.model, data, full=int(a.work == "full"), rank=RANK, window=a.window, batch=a.windows, micro_batch=max(1, ROWS // a.window), steps=1000,
                                 learning_rate=RATE, schedule="constant", byte_budget=a.budget,
                                 **({"example_clip": 1.0} if "example_clip" in a.kind else {}), **({"state_path": f"{a.json or 'training'}.state"} if "state_path" in a.kind else {}))

    def step(self):
        return self.tuner.step().loss

    def holds(self):
        r = self.tuner.step(0)
        return {"held": r.bytes, "recomputed": r.recomputed}


class Torch:
    def __init__(self, a):
        import gguf
        import numpy as np
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
        torch.set_num_threads(a.threads)
        self.torch, self.windows = torch, a.windows
        reader = gguf.GGUFReader(a.model)
        field = lambda key: reader.fields["llama." + key].contents()
        w = {t.name: torch.from_numpy(np.array(gguf.dequantize(t.data, t.tensor_type), dtype=np.float32)) for t in reader.tensors}
        config = LlamaConfig(vocab_size=w["token_embd.weight"].shape[0], hidden_size=field("embedding_length"), intermediate_size=field("feed_forward_length"),
                             num_hidden_layers=field("block_count"), num_attention_heads=field("attention.head_count"), num_key_value_heads=field("attention.head_count_kv"),
                             rms_norm_eps=field("attention.layer_norm_rms_epsilon"), rope_theta=field("rope.freq_base"), max_position_embeddings=field("context_length"),
                             tie_word_embeddings="output.weight" not in w, use_cache=False)
        self.model = LlamaForCausalLM(config)
        names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
                 "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
        for name, x in w.items():  # speed alone is measured: the order of rotary pairs in q and k is left as GGUF has it
            part = name.removesuffix(".weight")
            block = re.match(r"blk\.(\d+)\.(\w+)", part)
            self.model.get_parameter((f"model.layers.{block[1]}.{names[block[2]]}" if block else names[part]) + ".weight").data.copy_(x)
        if a.kind == "bf16":
            self.model = self.model.to(torch.bfloat16)
        if a.work == "lora":
            from peft import LoraConfig, get_peft_model
            self.model = get_peft_model(self.model, LoraConfig(r=RANK, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0, fused=True)
        self.ids = torch.from_numpy(np.random.default_rng(0).integers(100, 40000, (16, a.windows, a.window)))
        self.at = 0

    def step(self):
        ids = self.ids[self.at % 16]
        self.at += 1
        loss = self.model(input_ids=ids, labels=ids).loss
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def holds(self):
        return {}


def worker(a):
    side = (Ramet if a.kind.startswith("ramet") else Torch)(a)
    print(json.dumps({"ready": 1}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        loss = side.step()
        seconds = time.perf_counter() - begin
        peak = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1)) * 1024
        print(json.dumps({"seconds": seconds, "loss": loss, "peak": peak, **side.holds()}), flush=True)


class Worker:
    def __init__(self, a, kind, work, shape, threads, budget):
        command = [a.python, __file__, a.model, "--worker", kind, "--work", work, "--shape", shape, "--threads", str(threads), "--budget", str(budget)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ, RAMET_LIBRARY=str(a.library)))
        if not self.process.stdout.readline():
            sys.exit(f"training: {kind} did not start; its own message is above")

    def step(self):
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def peaks(a, threads):
    """GFLOP/s of {"fp32", "bf16"}, summed over as many processes at once as there are threads."""
    runs = [subprocess.Popen([str(a.checker), "--bench", "--only", "none"], stdout=subprocess.PIPE, text=True) for _ in range(threads)]
    best = {"fp32": 0.0, "bf16": 0.0}
    texts = [r.communicate()[0] for r in runs]
    for name in best:
        best[name] = sum(max(float(x) for x in re.findall(name + r" (\S+) GFLOP/s", text)) for text in texts)
    return best


def operations(a, work, window):
    """Of one token of a step, as the head of this file counts them."""
    info = json.loads(subprocess.run([str(a.ramet), "info", a.model, "--json"], check=True, capture_output=True, text=True).stdout)
    products = info["parameters"] - (0 if info["tied"] else info["vocabulary"] * info["width"])
    attention = info["layers"] * 2 * info["width"] * window / 2  # multiplications of scores and sums, causal
    return (4 if work == "lora" else 6) * products + 2 * attention * 3


def run(a, work, shape, threads):
    windows, window = map(int, shape.split("x"))
    kinds = ["ramet"] + (["ramet under " + a.budget] if a.budget and work == "lora" else []) + ["ramet, " + k for k in a.also.split(",") if k] + [k for k in a.peers.split(",") if k]
    machine, each = peaks(a, threads), operations(a, work, window)
    workers = {k: Worker(a, k, work, shape, threads, a.budget if "under" in k else "") for k in kinds}
    told = {k: [] for k in kinds}
    for r in range(a.rounds + 1):
        for k in kinds if r % 2 else kinds[::-1]:
            got = workers[k].step()
            if r:
                told[k].append(got)
    for w in workers.values():
        w.close()
    limit = max(machine.values())
    print(f"\n{work}, {shape} tokens a step, {threads} thread{'s' * (threads > 1)}; peaks: fp32 {machine['fp32']:.0f}, bf16 {machine['bf16']:.0f} GFLOP/s", flush=True)
    rates = {k: sorted(windows * window / t["seconds"] for t in told[k]) for k in kinds}
    median = {k: statistics.median(v) for k, v in rates.items()}
    better = max((median[k] for k in kinds if not k.startswith("ramet")), default=None)
    for k in kinds:
        last = told[k][-1]
        name = k if k.startswith("ramet") else "PyTorch " + k
        share = median[k] * each / (machine["bf16"] if k != "fp32" and machine["bf16"] else machine["fp32"]) / 1e9
        print(f"  {name:18} {median[k]:7.1f} tok/s [{rates[k][0]:.1f}-{rates[k][-1]:.1f}]  {100 * share:3.0f}% of {'fp32' if k == 'fp32' or not machine['bf16'] else 'bf16'}  peak RSS {last['peak'] / 2**20:5.0f} MiB"
              + (f"  holds {last['held'] / 2**20:.0f} MiB, {100 * last['recomputed']:.1f}% twice" if "held" in last else "")
              + (f"  {median[k] / better:.2f}x PyTorch" if k.startswith("ramet") and better else ""), flush=True)
    if a.json:
        with open(a.json, "a") as f:
            f.write(json.dumps({"work": work, "shape": shape, "threads": threads, "machine": machine, "limit": limit, "operations": each,
                                "sides": {k: {"tok_s": rates[k], **{x: told[k][-1][x] for x in ("peak", "held", "recomputed") if x in told[k][-1]}} for k in kinds}}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--work", default="lora,full")
    parser.add_argument("--shape", default="4x256")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--budget", default="256M", help="of the third side, LoRA alone; empty: none")
    parser.add_argument("--also", default="", help="sides with an option of the tuner: example_clip, state_path (a file in the current folder)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default="fp32,bf16", help="of PyTorch; empty: none")
    parser.add_argument("--python", default=sys.executable, help="interpreter with numpy and, for the peers, torch, transformers, peft, gguf")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--json")
    parser.add_argument("--worker", dest="kind", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.kind:
        a.windows, a.window = map(int, a.shape.split("x"))
        a.threads, a.budget = int(a.threads), a.budget or None
        return worker(a)
    a.library, a.checker, a.ramet = a.build / "lib/libramet.so", a.build / "tests/kernels/checker", a.build / "examples/ramet/ramet"
    for path in (a.library, a.checker, a.ramet, pathlib.Path(a.model)):
        if not path.exists():
            sys.exit(f"training: {path} is not there" + ("; build with meson setup build && ninja -C build, or give --build" if a.build in path.parents else ""))
    for threads in map(int, a.threads.split(",")):
        for work in a.work.split(","):
            for shape in a.shape.split(","):
                run(a, work, shape, threads)


if __name__ == "__main__":
    main()
