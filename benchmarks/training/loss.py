#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""loss.py - what LoRA learns, ramet beside PyTorch + PEFT: the held-out loss after the same steps, over domains and seeds.

    loss.py LIBRAMET.so MODEL.gguf [--data ~/.cache/ramet/data] [--domains medicine,cooking,programming] [--seeds 0,1,2] [--steps 300] [--shape 2x128]
                        [--rate 5e-4] [--held-out 16384] [--threads 2] [--json FILE]

DATA is what examples/demo/fetch.py makes. Pairs of rank 16 on all linear layers. Both begin at the same random pairs and see the same windows in the same order
with the same learning rates (the tuner's: warm-up, then a cosine) and clipping, by AdamW; rows
see their own document alone. ramet trains in `balanced` on the file as it is; PyTorch in float32 on its dequantized
weights as a Hugging Face model. The pairs of both are then measured by ramet in `exact` on the same held-out tokens. The last lines say how far apart the means are, and
the losses while training, step by step: between the two on one seed, and between PyTorch's seeds. Seeds choose windows and first pairs. Runs that FILE has already are taken from it. Needs numpy, torch, transformers, peft, gguf, safetensors, tokenizers.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("library")
parser.add_argument("model")
parser.add_argument("--data", default="~/.cache/ramet/data")
parser.add_argument("--domains", default="medicine,cooking,programming")
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--shape", default="2x128", help="windows x tokens of a step")
parser.add_argument("--rate", type=float, default=5e-4)
parser.add_argument("--held-out", type=int, default=16384, help="tokens")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--json", help="a line a run is appended to it")
o = parser.parse_args()
ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ["RAMET_LIBRARY"] = o.library
sys.path[:0] = [str(ROOT / "bindings/python"), str(ROOT / "tests/golden")]
import llama_reference  # noqa: E402
import numpy as np  # noqa: E402
import peft  # noqa: E402
import ramet  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

BATCH, WINDOW = map(int, o.shape.split("x"))
torch.set_num_threads(o.threads)


def ours(model, data, seed, start):
    """The adapter, what it saw, (windows, learning rate) of every step, and its losses. Its first pairs go to the folder `start`."""
    ids, windows, seen, losses = data.ids(), [], [], []
    ids = ids[:(len(ids) - 1) // WINDOW * WINDOW + 1]  # whole windows

    def read(at, count):
        windows.append(ids[at:at + count])
        return windows[-1]
    tuner = ramet.Tuner(model, ramet.Dataset.stream(model, len(ids), read), rank=16, window=WINDOW, batch=BATCH, steps=o.steps, learning_rate=o.rate, seed=seed)
    tuner.adapter().save(start)
    while not tuner.done:
        windows.clear()
        event = tuner.step()
        seen.append((np.stack(windows), event.learning_rate))
        losses.append(event.loss)
    return tuner.adapter(), seen, losses


def documents(ids, end_of_text):
    """What transformers is given so that rows see their own document alone, as ramet's do."""
    document = torch.cumsum(ids == end_of_text, 1) - (ids == end_of_text).long()
    place = torch.arange(ids.shape[1])
    begins = torch.cat([torch.ones_like(ids[:, :1], dtype=torch.bool), document[:, 1:] != document[:, :-1]], 1)
    first = torch.cummax(torch.where(begins, place, 0), 1).values
    seen = (document[:, :, None] == document[:, None, :]) & (place[:, None] >= place)
    return {"input_ids": ids, "position_ids": place - first, "attention_mask": seen[:, None]}


def theirs(base, seen, start, end, end_of_text):
    net = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), start, is_trainable=True)
    trained = [p for p in net.parameters() if p.requires_grad]
    adam, losses = torch.optim.AdamW(trained, weight_decay=0.0), []
    for windows, rate in seen:
        ids = torch.from_numpy(windows).long()
        loss = torch.nn.functional.cross_entropy(net(**documents(ids[:, :-1], end_of_text)).logits.flatten(0, 1), ids[:, 1:].masked_fill(ids[:, :-1] == end_of_text, -100).flatten())
        loss.backward()
        losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adam.param_groups[0]["lr"] = rate
        adam.step()
        adam.zero_grad(set_to_none=True)
    net.save_pretrained(end)
    return losses


def distances(found):
    """Of the losses while training, of a moving mean over 10 steps: between the sides with one domain and seed, and between two seeds of PyTorch."""
    smooth = lambda losses: np.convolve(losses, np.full(10, 0.1), "valid")
    apart = lambda a, b: float(np.abs(smooth(a) - smooth(b)).mean())
    sides = [apart(f["losses"][0], f["losses"][1]) for f in found]
    seeds = [apart(f["losses"][1], g["losses"][1]) for i, f in enumerate(found) for g in found[:i] if f["domain"] == g["domain"]]
    return sides, seeds


def main():
    runtime = ramet.Runtime(threads=o.threads)
    model = ramet.load(o.model, runtime=runtime)
    known = [json.loads(line) for line in open(o.json)] if o.json and os.path.exists(o.json) else []
    found, before, closed = [], {}, ramet.Dataset(model)
    closed.add_text("a")
    end_of_text = int(closed.ids()[-1])
    with tempfile.TemporaryDirectory() as work:
        base = f"{work}/base"
        llama_reference.write_folder(llama_reference.Reference(o.model), o.model, base, False)
        for seed in map(int, o.seeds.split(",")):
            for domain in o.domains.split(","):
                wanted = {"domain": domain, "seed": seed, "steps": o.steps, "shape": o.shape, "rate": o.rate, "held_out": o.held_out}
                f = next((k for k in known if wanted.items() <= k.items()), None)
                if not f:
                    train, test = (ramet.Dataset(model, pathlib.Path(o.data).expanduser() / f"{domain}.{part}.jsonl") for part in ("train", "test"))
                    loss = lambda adapter: model.evaluate(test, mode="exact", window=256, max_tokens=o.held_out, adapter=adapter).loss
                    start, end = f"{work}/{domain}-{seed}-start", f"{work}/{domain}-{seed}-end"
                    times = [time.perf_counter()]
                    adapter, seen, losses = ours(model, train, seed, start)
                    times.append(time.perf_counter())
                    losses = losses, theirs(base, seen, start, end, end_of_text)
                    times.append(time.perf_counter())
                    before[domain] = before.get(domain) or loss(None)
                    f = dict(wanted, before=before[domain], ramet=loss(adapter), peft=loss(model.adapter(end)), seconds=[b - a for a, b in zip(times, times[1:])], losses=losses)
                    if o.json:
                        with open(o.json, "a") as file:
                            file.write(json.dumps(f) + "\n")
                found.append(f)
                print(f"{domain}, seed {seed}: {f['before']:.4f} -> ramet {f['ramet']:.4f} ({f['seconds'][0]:.0f} s), PEFT {f['peft']:.4f} ({f['seconds'][1]:.0f} s), {100 * (f['ramet'] / f['peft'] - 1):+.3f}%", flush=True)
    mean = {side: statistics.mean(f[side] for f in found) for side in ("ramet", "peft")}
    print(f"all {len(found)}: ramet {mean['ramet']:.4f}, PEFT {mean['peft']:.4f}, {100 * (mean['ramet'] / mean['peft'] - 1):+.3f}%")
    sides, seeds = distances(found)
    between = f"PyTorch's seeds {statistics.mean(seeds):.4f} apart (least {min(seeds):.4f})" if seeds else "one seed alone"
    print(f"losses while training, nats a token, mean over the steps: ramet and PyTorch {statistics.mean(sides):.4f} apart (most {max(sides):.4f}), {between}")


if __name__ == "__main__":
    main()
