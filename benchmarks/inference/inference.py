#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prefill, decode, decode of several sequences, start and memory of ramet beside llama.cpp, interleaved in one run.

    benchmarks/inference/inference.py MODEL.gguf... [--quantize Q4_K_M,Q5_0,Q5_K_M,Q6_K] [--synthetic [Q4_K,Q5_K,Q6_K]]
                                      [--peer PYTHON] [--threads 2] [--isa avx2] [-o DIR]

--quantize lets the peer write the first model in those of its types, and measures these files too. --synthetic measures models of 1.1
billion random weights (tests/tools/make_model.py --random), larger than caches, every matrix of that encoding. Both are kept in BUILD/inference.
PYTHON is an interpreter that has llama-cpp-python and numpy (default: this one, or LLAMA_PEER); without it ramet is timed alone. Both
run in processes of their own, which take turns: every round times each work once here and once there; medians and the spread (lowest
to highest) are over the rounds. The machine's limits are measured in the same run: reading memory and dot products, by
tests/kernels/checker on as many processes as there are threads. Share of a limit: prefill, operations (2 a weight outside the embedding
and a token) of the peak of dot products, int8 or bf16, whichever is higher; decode, stored bytes of the weights that a token reads of the read bandwidth (256 MiB, over all caches).
The mode is `balanced`; llama.cpp runs with flash attention, its own default arithmetic. --isa masks ramet (the peer must be built likewise).
"""
import argparse
import ctypes
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONG, BATCH = 2000, 8
PAUSE = 0.3  # seconds before a work: OpenMP's threads, the peer's, spin for 0.2 after theirs


# ---- workers: read {"work", ...} lines, answer {"seconds"} ----

class Ramet:
    def __init__(self, model, threads, isa):
        sys.path.insert(0, str(ROOT / "bindings/python"))
        import numpy
        import ramet
        self.np, begin = numpy, time.perf_counter()
        self.model = ramet.load(model, runtime=ramet.Runtime(threads=threads, isa=isa))
        self.session = self.model.session(max_context=LONG + 256, max_sequences=BATCH, max_rank=0)
        self.session.run([1])
        self.start = time.perf_counter() - begin

    def clear(self):
        for sequence in range(BATCH):
            self.session.truncate(0, sequence)

    def run(self, ids, sequences):
        return self.session.run(ids, sequence=sequences)


class Llama:
    def __init__(self, model, threads, isa):
        import llama_cpp
        import numpy
        self.np, self.l, begin = numpy, llama_cpp, time.perf_counter()
        self.log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.log, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), parameters)
        c = llama_cpp.llama_context_default_params()
        c.n_ctx, c.n_batch, c.n_ubatch, c.n_seq_max = BATCH * 512, 512, 512, BATCH
        c.n_threads = c.n_threads_batch = threads
        c.flash_attn_type, c.kv_unified = 1, True
        self.context = llama_cpp.llama_init_from_model(self.model, c)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.length = [0] * BATCH
        self.run([1], [0])
        self.start = time.perf_counter() - begin

    def clear(self):
        self.l.llama_memory_clear(self.l.llama_get_memory(self.context), True)
        self.length = [0] * BATCH

    def run(self, ids, sequences):
        for at in range(0, len(ids), 512):
            b, part = self.batch, ids[at:at + 512]
            b.n_tokens = len(part)
            for i, token in enumerate(part):
                sequence = int(sequences[at + i])
                b.token[i], b.pos[i], b.n_seq_id[i] = int(token), self.length[sequence], 1
                b.seq_id[i][0] = sequence
                last = at + i + 1 == len(ids) or int(sequences[at + i + 1]) != sequence
                b.logits[i] = int(last)
                self.length[sequence] += 1
            if self.l.llama_decode(self.context, b):
                sys.exit("llama_decode failed")


def quantize(source, target, name):
    import llama_cpp
    log = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(log, ctypes.c_void_p())
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}"), True
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)):
        sys.exit(f"inference: llama.cpp did not quantize {source} to {name}")


def worker(kind, model, threads, isa, vocabulary):
    it = (Ramet if kind == "ramet" else Llama)(model, threads, isa)
    np = it.np
    random = np.random.default_rng(0)
    text = random.integers(100, min(40000, vocabulary), 4096).astype(np.int32)
    zeros = np.zeros(4096, np.int32)
    peak = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1)) * 1024
    print(json.dumps({"start": it.start, "peak": peak}), flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        it.clear()
        n, before, several = ask["n"], ask["before"], ask["sequences"]
        for sequence in range(several):
            if before:
                it.run(text[:before], zeros[:before] + sequence)
        ids, order = text[:several], np.arange(several, dtype=np.int32)
        begin = time.perf_counter()
        if ask["work"] == "prefill":
            it.run(text[:n], zeros[:n])
        else:
            for i in range(n):
                it.run(ids, order)
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


class Worker:
    def __init__(self, python, kind, model, vocabulary, a):
        env = dict(os.environ, RAMET_LIBRARY=str(a.library))
        self.process = subprocess.Popen([python, __file__, "--worker", kind, model, "--threads", str(a.threads), "--isa", a.isa,
                                         "--vocabulary", str(vocabulary)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=env)
        self.hello = json.loads(self.process.stdout.readline() or "null")
        if not self.hello:
            sys.exit(f"inference: {kind} did not load {model}; its own message is above")

    def ask(self, **work):
        time.sleep(PAUSE)
        self.process.stdin.write(json.dumps(work) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def limits(a):
    """{"int8": G operations/s, "fp32", "bytes": GB/s of 256 MiB}, summed over as many processes at once as there are threads."""
    flags = open("/proc/cpuinfo").read()
    isa = a.isa if a.isa != "auto" else "amx" if "amx_bf16" in flags else "avx512" if "avx512" in flags else "avx2"
    command = [str(a.checker), "--bench", "--only", "none", "--isa", isa]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(a.threads)]
    texts = [r.communicate()[0].splitlines()[0] for r in runs]
    found = [re.search(r"fp32 (\S+) GFLOP/s, int8 (\S+) GOP/s, bf16 (\S+) GFLOP/s.*MiB (\S+) GB/s, 24 MiB (\S+) GB/s", t) for t in texts]
    return dict(zip(("fp32", "int8", "bf16", "bytes", "bytes24"), (sum(float(f.group(i)) for f in found) for i in range(1, 6))))


def files(a, have):
    """The models to measure; those that are made are kept."""
    folder = a.build / "inference"
    models = list(a.models)
    if a.quantize and not (have and a.models):
        sys.exit("inference: --quantize wants a model and the peer that writes the files (--peer)")
    for name in filter(None, a.quantize.split(",")):
        target = folder / f"{pathlib.Path(a.models[0]).stem}-{name}.gguf"
        folder.mkdir(exist_ok=True)
        if not target.exists():
            subprocess.run([a.peer, __file__, "--quantized", a.models[0], str(target), name], check=True)
        models.append(str(target))
    for name in filter(None, a.synthetic.split(",")):
        target = folder / f"synthetic-{name}.gguf"
        folder.mkdir(exist_ok=True)
        if not target.exists():
            subprocess.run([sys.executable, ROOT / "tests/tools/make_model.py", target, "--random", name, "--layers", "18", "--width", "2048", "--heads", "32",
                            "--kv-heads", "8", "--ffn", "8192", "--context", "4096"], check=True)
        models.append(str(target))
    return models or sys.exit("inference: no model; name one, or give --synthetic")


def cost(model, a):
    """(operations a token of prefill, stored bytes of the weights that a token of decode reads, bytes of each earlier token's keys and values, words)."""
    info = json.loads(subprocess.run([str(a.ramet), "info", model, "--json"], check=True, capture_output=True, text=True).stdout)
    table = info["vocabulary"] * info["width"]
    inner = info["parameters"] - table * (1 if info["tied"] else 2)
    cached = info["layers"] * info["kv_heads"] * info["head_width"] * 2 * 2
    return 2 * inner, info["bytes"] - (0 if info["tied"] else info["parts"]["embedding"]), cached, info["vocabulary"]


def main():
    if len(sys.argv) > 2 and sys.argv[1] == "--worker":
        o = argparse.ArgumentParser()
        o.add_argument("--worker"), o.add_argument("model"), o.add_argument("--threads", type=int), o.add_argument("--isa")
        o.add_argument("--vocabulary", type=int)
        w = o.parse_args()
        return worker(w.worker, w.model, w.threads, w.isa, w.vocabulary)
    if len(sys.argv) == 5 and sys.argv[1] == "--quantized":
        return quantize(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--quantize", default="", metavar="TYPES", help="types of llama.cpp's quantizer")
    parser.add_argument("--synthetic", nargs="?", default="", const="Q4_K,Q5_K,Q6_K", metavar="ENCODINGS")
    parser.add_argument("--peer", default=os.environ.get("LLAMA_PEER", sys.executable), help="interpreter with llama-cpp-python")
    parser.add_argument("--python", default=None, help="interpreter for ramet (numpy); default: the peer's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--isa", default="auto")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("-o", "--out", type=pathlib.Path)
    a = parser.parse_args()
    a.library, a.checker = a.build / "lib/libramet.so", a.build / "tests/kernels/checker"
    a.ramet = a.build / "examples/ramet/ramet"
    for path in (a.library, a.checker, a.ramet, *map(pathlib.Path, a.models)):
        if not path.exists():
            sys.exit(f"inference: {path} is not there" + ("; build with meson setup build && ninja -C build, or give --build" if a.build in path.parents else ""))
    have = subprocess.run([a.peer, "-c", "import llama_cpp"], capture_output=True).returncode == 0
    if not have:
        print("inference: no llama-cpp-python in the peer's interpreter; ramet alone", file=sys.stderr)
    works = [("prefill 512", dict(work="prefill", n=512, before=0, sequences=1), 512), ("decode at 32", dict(work="decode", n=48, before=32, sequences=1), 48),
             (f"decode at {LONG}", dict(work="decode", n=32, before=LONG, sequences=1), 32), (f"decode, {BATCH} sequences", dict(work="decode", n=16, before=32, sequences=BATCH), 16 * BATCH)]
    machine = limits(a)  # and once more after each model: what neighbours took of one measurement they may leave to the other
    print(f"{a.threads} threads, isa {a.isa}: fp32 {machine['fp32']:.0f} GFLOP/s, int8 {machine['int8']:.0f} GOP/s, bf16 {machine['bf16']:.0f} GFLOP/s, reading {machine['bytes']:.1f} GB/s (24 MiB: {machine['bytes24']:.1f})", flush=True)
    results = []
    for model in files(a, have):
        operations, stored, cached, vocabulary = cost(model, a)
        kinds = ["ramet"] + (["llama.cpp"] if have else [])
        workers = {k: Worker(a.python or a.peer if k == "ramet" else a.peer, k, model, vocabulary, a) for k in kinds}
        seconds = {k: {name: [] for name, _, _ in works} for k in kinds}
        for r in range(a.rounds + 1):  # the first is not counted
            for name, ask, _ in works:
                for k in kinds if r % 2 else kinds[::-1]:
                    t = workers[k].ask(**ask)
                    if r:
                        seconds[k][name].append(t)
        machine = {what: max(v, machine[what]) for what, v in limits(a).items()}
        peak = max("int8", "bf16", key=machine.get)
        print(f"\n{pathlib.Path(model).name}; limits so far: {peak} {machine[peak]:.0f} G/s, reading {machine['bytes']:.1f} GB/s", flush=True)
        for name, ask, tokens in works:
            row = {k: sorted(tokens / t for t in seconds[k][name]) for k in kinds}
            line = f"  {name:22}" + "  ".join(f"{k} {statistics.median(v):7.1f} tok/s [{v[0]:.1f}-{v[-1]:.1f}]" for k, v in row.items())
            ratio = statistics.median(row["ramet"]) / statistics.median(row["llama.cpp"]) if have else None
            middle = statistics.median(row["ramet"])
            share = middle * operations / machine[peak] / 1e9 if "prefill" in name else None if str(BATCH) + " seq" in name else middle * (stored + cached * (ask["before"] + ask["n"] / 2)) / machine["bytes"] / 1e9
            print(line + (f"  {ratio:.2f}x" if have else "") + (f"  {100 * share:.0f}% of the {peak + ' peak' if 'prefill' in name else 'read bandwidth'}" if share else ""), flush=True)
            results.append({"model": pathlib.Path(model).name, "work": name, "tok_s": row, "ratio": ratio, "share": share})
        for k in kinds:
            print(f"  {k}: load to first token {workers[k].hello['start']:.3f} s, peak memory then {workers[k].hello['peak'] / 1e6:.0f} MB", flush=True)
            results.append({"model": pathlib.Path(model).name, "work": "start", "who": k, **workers[k].hello})
            workers[k].close()
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / "inference.json").write_text(json.dumps({"threads": a.threads, "isa": a.isa, "machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
