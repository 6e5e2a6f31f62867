#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare ramet's training with PyTorch on a real llama GGUF: loss, gradients of LoRA pairs and of all weights, ten AdamW steps.

    train_reference.py LIBRAMET.so [MODEL.gguf] [--full] [--speed] [--steps N]

The model is by default the one that RAMET_TEST_MODEL names. Skipped (exit code 77) without a model or the packages: torch, numpy, gguf
and safetensors. The PyTorch model is written out here over the dequantized weights; pairs A and B are read from ramet's checkpoint. Four windows of 256 tokens from the scripts of this folder make a batch. For the gradients a batch is the four windows twice, in
micro-batches of four: the checkpoint after the first micro-batch holds exactly half of the mean gradient.

"exact" is compared with PyTorch in float64: in float32 its attention uses a fast exponential that alone moves these gradients by 1.4e-4
of their norm (the script prints it). With --steps N only losses are compared: N steps over 48 windows of the same scripts, in
the library's order, beside PyTorch in float32. "balanced" multiplies in bf16 going forward (without that instruction: with activations of
8 bits) and in bf16 going back.
"""
import argparse
import ctypes as c
import glob
import os
import sys
import tempfile
import time

try:
    import gguf
    import numpy as np
    import torch
    import torch.nn.functional as F
    from safetensors import safe_open
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

WINDOW, WINDOWS, RANK, ALPHA, RATE, STEPS = 256, 4, 16, 32.0, 1e-3, 10


class TunerOptions(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("full", c.c_int32), ("rank", c.c_int32), ("alpha", c.c_float), ("targets", c.c_char_p), ("mode", c.c_int32),
                ("window", c.c_int32), ("batch", c.c_int32), ("micro_batch", c.c_int32), ("steps", c.c_int64), ("epochs", c.c_double),
                ("learning_rate", c.c_float), ("warmup", c.c_float), ("schedule", c.c_int32), ("weight_decay", c.c_float), ("beta1", c.c_float),
                ("beta2", c.c_float), ("epsilon", c.c_float), ("clip", c.c_float), ("seed", c.c_uint64), ("teacher", c.c_void_p),
                ("teacher_weight", c.c_float), ("teacher_top", c.c_int32), ("initial", c.c_void_p), ("optimizer", c.c_char_p)]


class Report(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("done", c.c_int32), ("step", c.c_int64), ("steps", c.c_int64), ("loss", c.c_double),
                ("gradient_norm", c.c_double), ("learning_rate", c.c_double), ("tokens", c.c_int64), ("seconds", c.c_double)]


class EvaluateOptions(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("window", c.c_int32), ("score", c.c_int32), ("mode", c.c_int32), ("max_tokens", c.c_int64), ("adapter", c.c_void_p),
                ("adapter_scale", c.c_float), ("losses", c.POINTER(c.c_float)), ("losses_capacity", c.c_int64), ("progress", c.c_void_p), ("progress_user", c.c_void_p)]


class Evaluation(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("windows", c.c_int32), ("tokens", c.c_int64), ("loss", c.c_double), ("standard_error", c.c_double),
                ("perplexity", c.c_double), ("seconds", c.c_double)]


class Ramet:
    """The few calls of the library that this script makes."""

    def __init__(self, path):
        self.lib = c.CDLL(path)
        self.lib.ramet_last_error.restype = c.c_char_p
        self.lib.ramet_dataset_tokens.restype = c.c_int64

    def do(self, name, *args):
        if getattr(self.lib, name)(*args):
            raise SystemExit(f"{name}: {self.lib.ramet_last_error().decode()}")

    def new(self, name, *args):
        out = c.c_void_p()
        self.do(name, c.byref(out), *args)
        return out

    def data(self, model, ids):
        data = self.new("ramet_dataset_create", model)
        self.do("ramet_dataset_add_ids", data, ids.ctypes.data_as(c.c_void_p), None, c.c_int64(len(ids)))
        return data

    def tuner(self, model, data, **changed):
        o = TunerOptions()
        self.lib.ramet_tuner_options_init(c.byref(o), c.c_uint32(c.sizeof(o)))
        for key, value in changed.items():
            setattr(o, key, value)
        return self.new("ramet_tuner_create", model, data, c.byref(o))

    def step(self, tuner, steps, deadline=0.0):
        r = Report(struct_size=c.sizeof(Report))
        self.do("ramet_tuner_step", c.byref(r), tuner, c.c_int64(steps), c.c_double(deadline), None, None)
        return r

    def checkpoint(self, tuner):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "checkpoint")
            self.do("ramet_tuner_save", tuner, path.encode())
            with safe_open(path, "pt") as f:
                return {name: f.get_tensor(name).clone() for name in f.keys()}

    def evaluate(self, model, data, **changed):
        o = EvaluateOptions()
        self.lib.ramet_evaluate_options_init(c.byref(o), c.c_uint32(c.sizeof(o)))
        for key, value in changed.items():
            setattr(o, key, value)
        e = Evaluation(struct_size=c.sizeof(Evaluation))
        self.do("ramet_evaluate", c.byref(e), model, data, c.byref(o))
        return e


class Llama:
    """A llama as GGUF stores it (rotary pairs interleaved)."""

    def __init__(self, path, dtype):
        reader = gguf.GGUFReader(path)
        field = lambda key: reader.fields["llama." + key].contents()
        self.layers, self.heads, self.kv = field("block_count"), field("attention.head_count"), field("attention.head_count_kv")
        self.eps, self.base = field("attention.layer_norm_rms_epsilon"), field("rope.freq_base")
        self.w = {t.name: torch.from_numpy(np.array(gguf.dequantize(t.data, t.tensor_type), dtype=np.float32)).to(dtype) for t in reader.tensors}

    def norm(self, x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.w[name]

    def linear(self, x, name, pairs):
        y = F.linear(x, self.w[name])
        return y + (ALPHA / RANK) * F.linear(F.linear(x, pairs[name][0]), pairs[name][1]) if name in pairs else y

    def rope(self, x):
        d = x.shape[-1]
        angle = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * self.base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

    def loss(self, ids, labels, pairs):
        x = F.embedding(ids, self.w["token_embd.weight"])
        n, t, width = x.shape
        for i in range(self.layers):
            p = f"blk.{i}."
            h = self.norm(x, p + "attn_norm.weight")
            q, k, v = (self.linear(h, f"{p}attn_{s}.weight", pairs).view(n, t, -1, width // self.heads).transpose(1, 2) for s in "qkv")
            q, k = self.rope(q), self.rope(k)
            k, v = (s.repeat_interleave(self.heads // self.kv, 1) for s in (k, v))
            h = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, width)
            x = x + self.linear(h, p + "attn_output.weight", pairs)
            h = self.norm(x, p + "ffn_norm.weight")
            h = F.silu(self.linear(h, p + "ffn_gate.weight", pairs)) * self.linear(h, p + "ffn_up.weight", pairs)
            x = x + self.linear(h, p + "ffn_down.weight", pairs)
        x = self.norm(x, "output_norm.weight")
        logits = F.linear(x, self.w.get("output.weight", self.w["token_embd.weight"]))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))


def pairs_of(state, section="value", dtype=torch.float32):
    names = sorted(n[len(section) + 1:-len(".lora_a")] for n in state if n.startswith(section + "/") and n.endswith(".lora_a"))
    return {n: [state[f"{section}/{n}.lora_{x}"].to(dtype, copy=True) for x in "ab"] for n in names}


def permutation(seed, stream, n):
    """The library's order of n <= 64 windows in an epoch: ranks of Philox 4x32-10 words (lib/base/rng.c)."""
    def word(counter):
        c0, c1, c2, c3 = counter, 0, stream & 0xFFFFFFFF, stream >> 32
        k0, k1 = seed & 0xFFFFFFFF, seed >> 32
        for _ in range(10):
            p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
            c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & 0xFFFFFFFF, p0 >> 32 ^ c3 ^ k1, p0 & 0xFFFFFFFF
            k0, k1 = k0 + 0x9E3779B9 & 0xFFFFFFFF, k1 + 0xBB67AE85 & 0xFFFFFFFF
        return c1 << 32 | c0
    words = [word(i) for i in range(n)]
    return [sorted(words).index(w) for w in words]


failures = []


def check(what, value, limit):
    good = value <= limit
    print(f"{'ok  ' if good else 'FAIL'} {what}: {value:.3g} (at most {limit:g})", flush=True)
    if not good:
        failures.append(what)


def distance(mine, theirs):
    return (sum(float((mine[n] - theirs[n]).norm()) ** 2 for n in theirs) / sum(float(theirs[n].norm()) ** 2 for n in theirs)) ** 0.5


def compare(what, mine, theirs, limit):
    """Differences relative to the norm of the gradient: of all tensors together, and of the worst one alone."""
    far, where = max((float((mine[n] - theirs[n]).norm() / theirs[n].norm()), n) for n in theirs)
    check(f"{what}, {len(theirs)} tensors together", distance(mine, theirs), limit)
    check(f"{what}, the worst tensor ({where})", far, 10 * limit)


def schedule(step, steps):
    """Warm-up over a fifth of the steps, then a cosine to a tenth."""
    warm = -(-steps // 5)
    return RATE * ((step + 1) / warm if step < warm else 0.1 + 0.45 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - 1 - warm))))


def losses_of(r, model, single, ids, steps):
    """The losses of many steps over 48 windows of 128 tokens, two a step, in both modes beside PyTorch's."""
    width, batch_size = 128, 2
    seed, epochs, count = 1, {}, min(48, (len(ids) - 1) // width)
    data = r.data(model, np.ascontiguousarray(ids[:count * width + 1]))
    x, y = (torch.from_numpy(s.astype(np.int64)).view(count, width) for s in (ids[:count * width], ids[1:count * width + 1]))
    new = lambda mode: r.tuner(model, data, rank=RANK, alpha=ALPHA, mode=mode, window=width, steps=steps, learning_rate=RATE, warmup=0.2,
                               batch=batch_size, micro_batch=1, seed=seed)
    tuners = {"exact": new(0), "balanced": new(1)}
    pairs = pairs_of(r.checkpoint(tuners["exact"]))
    leaves = [p.requires_grad_() for pair in pairs.values() for p in pair]
    optimizer = torch.optim.AdamW(leaves, lr=RATE, weight_decay=0.0)
    worst = dict.fromkeys(tuners, 0.0)
    for step in range(steps):
        batch = []
        for at in range(step * batch_size, (step + 1) * batch_size):
            epoch = at // count
            epochs[epoch] = epochs.get(epoch) or permutation(seed, 0x77696E646F777300 + epoch, count)
            batch.append(epochs[epoch][at % count])
        optimizer.zero_grad()
        loss = single.loss(x[batch], y[batch], pairs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = schedule(step, steps)
        optimizer.step()
        want, got = float(loss.detach()), {name: r.step(tuner, 1).loss for name, tuner in tuners.items()}
        for name in tuners:
            worst[name] = max(worst[name], abs(got[name] / want - 1))
        if step % 5 == 4 or step == 0:
            mine = ", ".join(f"{name} {value:.6f} ({100 * (value / want - 1):+.4f}%)" for name, value in got.items())
            print(f"     step {step}: loss {want:.6f}, {mine}", flush=True)
    for name, value in worst.items():
        check(f"{name}: the farthest loss of {steps} steps", value, 1e-2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lib")
    parser.add_argument("model", nargs="?", default=os.environ.get("RAMET_TEST_MODEL"))
    parser.add_argument("--full", action="store_true", help="gradients of all weights as well (about 8 GB)")
    parser.add_argument("--speed", action="store_true", help="tokens a second of both, 4 x 256 tokens a step")
    parser.add_argument("--steps", type=int, default=0, help="compare the losses of this many steps, and nothing else")
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    if not a.model:
        print("skipped: RAMET_TEST_MODEL is not set")
        return 77
    torch.set_num_threads(a.threads)
    r, single = Ramet(a.lib), Llama(a.model, torch.float32)
    model = r.new("ramet_model_load_path", r.new("ramet_runtime_create", None), a.model.encode())

    text = "\n".join(open(p).read() for p in sorted(glob.glob(os.path.join(os.path.dirname(__file__), "*.py")))).encode()
    count, ids = c.c_int64(), np.zeros(len(text), np.int32)
    r.do("ramet_tokenize", c.byref(count), ids.ctypes.data_as(c.c_void_p), c.c_int64(len(ids)), model, text, c.c_size_t(len(text)), 0)
    if a.steps:
        losses_of(r, model, single, ids[:count.value], a.steps)
        return int(bool(failures))
    n = WINDOW * WINDOWS
    ids = np.ascontiguousarray(ids[:n + 1])
    data = r.data(model, ids)
    x, y = (torch.from_numpy(s.astype(np.int64)).view(WINDOWS, WINDOW) for s in (ids[:-1], ids[1:]))

    for mode, name, loss_limit, grad_limit in ((0, "exact", 1e-6, 2e-5), (1, "balanced", 5e-3, 5e-2)):
        options = dict(rank=RANK, alpha=ALPHA, mode=mode, window=WINDOW, steps=STEPS, learning_rate=RATE, warmup=0.2)
        tuner = r.tuner(model, data, batch=WINDOWS, micro_batch=2, **options)
        t = single if mode else Llama(a.model, torch.float64)
        pairs = pairs_of(r.checkpoint(tuner), dtype=torch.float32 if mode else torch.float64)
        leaves = [p.requires_grad_() for pair in pairs.values() for p in pair]
        optimizer = torch.optim.AdamW(leaves, lr=RATE, weight_decay=0.0)
        for step in range(STEPS if mode else 4):
            rate = schedule(step, STEPS)
            optimizer.zero_grad()
            loss = t.loss(x, y, pairs)
            loss.backward()
            if step == 3:  # B has moved by now: all gradients are there. Both at ramet's pairs
                initial = r.new("ramet_tuner_adapter", tuner)
                mine = r.tuner(model, data, batch=2 * WINDOWS, micro_batch=WINDOWS, initial=initial, **options)
                r.step(mine, 1, 1e-9)
                state = r.checkpoint(mine)
                kinds = {torch.float32: single} | ({} if mode else {torch.float64: t})
                theirs = {}
                for dtype, net in kinds.items():
                    same = pairs_of(state, dtype=dtype)
                    for p in (p for pair in same.values() for p in pair):
                        p.requires_grad_()
                    net.loss(x, y, same).backward()
                    theirs[dtype] = {f"{k}.{'ab'[i]}": p.grad for k, pair in same.items() for i, p in enumerate(pair)}
                got = {f"{k}.{'ab'[i]}": 2 * g for k, pair in pairs_of(state, "grad").items() for i, g in enumerate(pair)}
                compare(f"{name}: LoRA gradients", got, theirs[torch.float32 if mode else torch.float64], grad_limit)
                if not mode:
                    print(f"     PyTorch's float32 gradients against its float64: {distance(*theirs.values()):.3g} together")
                r.lib.ramet_tuner_free(mine)
                r.lib.ramet_adapter_free(initial)
            norm = float(torch.nn.utils.clip_grad_norm_(leaves, 1.0))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            report = r.step(tuner, 1)
            want = float(loss.detach())
            print(f"     {name} step {step}: loss {report.loss:.6f} / {want:.6f}, gradient norm {report.gradient_norm:.5f} / {norm:.5f}")
            check(f"{name}: learning rate of step {step}", abs(report.learning_rate - rate), 1e-9)
            check(f"{name}: loss of step {step}", abs(report.loss / want - 1), loss_limit if step == 0 else 1e-2)
        r.lib.ramet_tuner_free(tuner)

    double, t = Llama(a.model, torch.float64), single
    losses = (c.c_float * n)()
    e = r.evaluate(model, data, window=WINDOW, mode=0, losses=losses, losses_capacity=n)
    with torch.no_grad():
        second = y.clone()
        second[:, :WINDOW // 2] = second[:, -1] = -100  # not scored
        want = float(double.loss(x, second, {}))
    check(f"evaluate: {e.tokens} tokens, loss {e.loss:.6f} / {want:.6f}", abs(e.loss / want - 1), 1e-6)

    if a.full:
        for w in double.w.values():
            w.requires_grad_()
        double.loss(x, y, {}).backward()
        for mode, name, limit in ((0, "exact", 2e-5), (1, "balanced", 5e-2)):
            tuner = r.tuner(model, data, full=1, mode=mode, window=WINDOW, batch=2 * WINDOWS, micro_batch=WINDOWS, steps=2)
            r.step(tuner, 1, 1e-9)
            state = r.checkpoint(tuner)
            r.lib.ramet_tuner_free(tuner)
            compare(f"{name}: full gradients", {k: 2 * state["grad/" + k] for k in double.w}, {k: w.grad for k, w in double.w.items()}, limit)
    del double

    if a.speed:
        speed = {}
        for mode, name in ((0, "exact"), (1, "balanced"), (2, "fast")):
            tuner = r.tuner(model, data, rank=RANK, alpha=ALPHA, mode=mode, window=WINDOW, batch=WINDOWS, micro_batch=2, steps=100)
            r.step(tuner, 1)
            first = r.step(tuner, 0)
            last = r.step(tuner, 4)
            speed["ramet " + name] = (last.tokens - first.tokens) / (last.seconds - first.seconds)
            r.lib.ramet_tuner_free(tuner)
        begin = time.time()
        for step in range(3):
            if step == 1:
                begin = time.time()
            optimizer.zero_grad()
            t.loss(x, y, pairs).backward()
            optimizer.step()
        speed["PyTorch float32"] = 2 * n / (time.time() - begin)
        for mode, name in ((0, "exact"), (1, "balanced"), (2, "fast")):
            big = r.data(model, np.ascontiguousarray(np.tile(ids[:n], 8)))
            e = r.evaluate(model, big, window=512, mode=mode)
            speed[f"ramet {name}, evaluation (512, half)"] = e.windows * 512 / e.seconds
        for name, value in speed.items():
            print(f"     {name}: {value:.0f} tokens/s")
    if failures:
        print(f"{len(failures)} comparisons failed")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
