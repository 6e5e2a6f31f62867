# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks that run ramet in their own process share: arguments, loading the model, the file of results."""
import argparse
import json
import os
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def arguments(doc, rounds):
    p = argparse.ArgumentParser(description=doc.splitlines()[0])
    p.add_argument("model")
    p.add_argument("--rounds", type=int, default=rounds, help="that are counted; one more warms up")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--mode", default="balanced")
    p.add_argument("--library", type=pathlib.Path, default=ROOT / "build/lib/libramet.so")
    p.add_argument("-o", type=pathlib.Path, metavar="FILE", help="write the results as JSON")
    return p


def load(a):
    """(the module, the model)"""
    if not a.library.exists():
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {a.library} is not there; build with meson setup build && ninja -C build, or give --library")
    os.environ["RAMET_LIBRARY"] = str(a.library)
    sys.path.insert(0, str(ROOT / "bindings/python"))
    import ramet
    try:
        return ramet, ramet.load(a.model, runtime=ramet.Runtime(threads=a.threads))
    except ramet.Error as e:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {e}")


def middle(values, digits=1):
    """Median and spread (lowest to highest)."""
    return {"median": round(statistics.median(values), digits), "spread": [round(min(values), digits), round(max(values), digits)]}


def show(row):
    return f"{row['median']} [{row['spread'][0]}-{row['spread'][1]}]"


def write(a, result):
    head = {k: v for k, v in vars(a).items() if k not in ("model", "library", "o", "peer", "worker")}
    if a.o:
        a.o.write_text(json.dumps({"model": pathlib.Path(a.model).name, **head, **result}, indent=1) + "\n")
