#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The loop over domains and seeds: `ramet cycle` once a seed, then every method's candidate measured on test text.

    benchmarks/loop/loop.py [-o build/loop] [--domains medicine,cooking,programming,databases] [--seeds 0,1,2] [--methods lift,distill] [-- options of ramet cycle]

Nothing is timed; an hour or two on two cores. A seed whose folder already has its results is not run again. Writes OUT/loop.md, OUT/loop.json:
for every method and text the change of loss from parent to candidate (nats a token, negative is better), mean and standard deviation over
the seeds; how often the gate passed it; and what the variants gained. The seed moves the order of windows and the adapters' first
weights; texts, parent and splits are the same.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

TOPICS = {"medicine": "signs and symptoms of diseases", "cooking": "the preparation of dishes", "programming": "modules and functions of Python's standard library",
          "databases": "SQL commands and the administration of PostgreSQL"}  # what a domain is about, in words

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*command):
    """stdout of a command; its own messages go to the screen."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"loop: exit code {done.returncode}: {' '.join(map(str, command))}")
    return done.stdout


def one_seed(a, seed, domains, guards):
    """A cycle, and its candidates on test text -> {"turn": its record, "test": {method: {text: difference}}}."""
    out, found = a.out / f"seed-{seed}", a.out / f"seed-{seed}.json"
    if found.exists():
        return json.loads(found.read_text())
    if (out / "loop.json").exists():  # the cycle ended, its candidates were not all measured
        turn = json.loads((out / "loop.json").read_text())["turns"][0]
    elif out.exists():
        sys.exit(f"loop: {out} is left from a run that did not end; remove it")
    else:
        arguments = ["cycle", a.model, "-o", out, "--seed", seed, "--json"]
        for domain in domains:
            arguments += ["--domain", f"{domain}=" + ",".join(str(a.data / f"{domain}.{part}.jsonl") for part in ("train", "valid", "test"))]
            arguments += ["--topic", f"{domain}={TOPICS[domain]}"] if domain in TOPICS else []
        for guard in guards:
            arguments += [f"--{guard}", ",".join(str(a.data / f"{guard}.{part}.jsonl") for part in ("valid", "test"))]
        print(f"loop: seed {seed}", flush=True)
        turn = json.loads(run(a.ramet, *arguments, *a.options))["turns"][0]
    test = {}
    for method in (m["method"] for m in turn["methods"] if m["made"] and (not a.methods or m["method"] in a.methods.split(","))):
        print(f"loop: seed {seed}: {method} on test text", flush=True)
        test[method] = {}
        for text in domains + guards:
            told = json.loads(run(a.ramet, "eval", out / f"candidate-{method}.gguf", "--against", a.model, "--text", a.data / f"{text}.test.jsonl", "--max-tokens", a.tokens, "--json"))
            test[method][text] = {"difference": told["difference"], "interval": told["interval"]}
    record = {"turn": turn, "test": test}
    part = found.with_suffix(".part")
    part.write_text(json.dumps(record))
    os.replace(part, found)
    return record


def spread(values):
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else None, "each": values}


def cell(s):
    return f"{s['mean']:+.4f}" + (f" ± {s['sd']:.4f}" if s["sd"] is not None else "")


def summary(records, texts, domains):
    methods, variants = {}, {}
    for name in [m["method"] for m in records[0]["turn"]["methods"]]:
        rows = [next(m for m in r["turn"]["methods"] if m["method"] == name) for r in records]
        made = [r["test"][name] for r in records if name in r["test"]]
        made = made if len(made) == sum(m["made"] for m in rows) else []  # not measured in every seed
        methods[name] = {"shape": rows[0]["shape"], "passed": sum(m["passed"] for m in rows), "chosen": sum(m["chosen"] for m in rows),
                         "test": {t: dict(spread([d[t]["difference"] for d in made]), intervals=[d[t]["interval"] for d in made]) for t in texts} if made else {}}
    for shape in dict.fromkeys(v["shape"] for v in records[0]["turn"]["variants"]):
        variants[shape] = {d: spread([v["adapted"]["difference"] for r in records for v in r["turn"]["variants"] if (v["shape"], v["domain"]) == (shape, d)]) for d in domains}
    return {"parent": {t: records[0]["turn"]["test"][t]["parent"] for t in texts}, "methods": methods, "variants": variants}


def table(s, texts, domains, seeds):
    n = len(seeds)
    lines = [f"Change of test loss, nats a token; mean ± standard deviation over {n} seeds. Negative is better.", "",
             "| | " + " | ".join(texts) + " | gate |", "|---|" + "---|" * (len(texts) + 1),
             "| parent's loss | " + " | ".join(f"{s['parent'][t]:.4f}" for t in texts) + " | |"]
    for shape, row in s["variants"].items():
        lines.append(f"| {shape} variant, born to adapted | " + " | ".join(cell(row[t]) if t in domains else "" for t in texts) + " | |")
    for name, m in s["methods"].items():
        lines.append(f"| `{name}` from {m['shape']} variants | " + " | ".join(cell(m["test"][t]) if m["test"] else "" for t in texts)
                     + f" | {m['passed']} of {n}" + (f", chosen {m['chosen']}" if m["chosen"] else "") + " |")
    for name, m in s["methods"].items():
        if m["test"]:
            better = [(t, i is not None and i[1] < 0) for t in domains for i in m["test"][t]["intervals"]]
            lines.append(f"\n`{name}`: the 95% interval of the change lies below zero in {sum(b for _, b in better)} of {len(better)} (domains and seeds)"
                         + ("" if all(b for _, b in better) else ", not on " + ", ".join(t for t, b in better if not b)) + ".")
    return "\n".join(lines) + "\n"


def main():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ramet"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=pathlib.Path, default=ROOT / "build/loop")
    parser.add_argument("--ramet", type=pathlib.Path, default=ROOT / "build/examples/ramet/ramet")
    parser.add_argument("--domains", default="medicine,cooking,programming,databases")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tokens", type=int, default=8192, help="scored of each test text (default 8192)")
    parser.add_argument("--methods", help="the candidates measured on test text (default: all)")
    parser.add_argument("--cache", type=pathlib.Path, default=cache)
    parser.add_argument("--model", type=pathlib.Path, help="another parent; with --data nothing is fetched")
    parser.add_argument("--data", type=pathlib.Path, help="a folder with NAME.{train,valid,test}.jsonl")
    parser.add_argument("options", nargs="*", help="after --: options of ramet cycle")
    a = parser.parse_args()
    domains, seeds = a.domains.split(","), [int(s) for s in a.seeds.split(",")]
    if not (a.model and a.data):
        fetch = [sys.executable, ROOT / "examples/demo/fetch.py", "--cache", a.cache, "--domains", a.domains]
        print(run(*fetch, *(["--no-model"] if a.model else [])), end="", flush=True)
        a.model = a.model or a.cache / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
        a.data = a.data or a.cache / "data"
    guards = [g for g in ("general", "chat") if (a.data / f"{g}.test.jsonl").exists()]
    a.out.mkdir(parents=True, exist_ok=True)
    records = [one_seed(a, seed, domains, guards) for seed in seeds]
    texts = domains + guards
    s = summary(records, texts, domains)
    (a.out / "loop.json").write_text(json.dumps({"model": a.model.name, "domains": domains, "guards": guards, "seeds": seeds, "options": a.options, **s}, indent=1) + "\n")
    (a.out / "loop.md").write_text(table(s, texts, domains, seeds))
    print((a.out / "loop.md").read_text(), end="")


if __name__ == "__main__":
    main()
