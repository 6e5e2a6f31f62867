#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Includes point down or to a neighbour, never up. The table of layers, lowest first; layers of one row are neighbours."""
import pathlib
import re
import sys

ROWS = [
    ["kernels"],
    ["lib/base", "include/ramet/base.h"],
    ["lib/tensor"],
    ["lib/graph"],
    ["lib/format", "lib/tokenizer"],
    ["lib/model", "include/ramet/model.h"],
    ["lib/infer", "include/ramet/session.h", "include/ramet/experimental.h"],
    ["lib/shrink", "lib/train", "include/ramet/shrink.h", "include/ramet/train.h"],
    ["lib/nets", "include/ramet/graph.h"],
    ["lib/feedback", "include/ramet/feedback.h"],
    ["include/ramet/ramet.h"],
]
OUTSIDE = ["bindings", "examples", "benchmarks", "tests/hosts"]  # see include/ and themselves only
# Kernels know libc's arithmetic, the compiler's intrinsics, SIMDe and themselves: no memory, no threads, no files, no system.
KERNEL_SYSTEM = re.compile(r"(assert|float|limits|math|stdalign|stdbool|stddef|stdint|string|[a-z0-9]*intrin|arm_neon|arm_sve|arm_bf16|arm_fp16)\.h|simde/.*")
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
SOURCES = (".c", ".h", ".cpp", ".hpp", ".def", ".inc", ".S")

root = pathlib.Path(sys.argv[1]).resolve()
rank = {layer: number for number, row in enumerate(ROWS) for layer in row}


def layer_of(path):
    """The table's entry for a file of the tree: the file itself, or the folder that it is in."""
    return next((e for e in [path, *(p.as_posix() for p in pathlib.PurePosixPath(path).parents)] if e in rank or e in OUTSIDE), None)


def find(file, name):
    for folder in (file.parent, root / "include", root / "lib", root / "kernels"):
        if (folder / name).is_file():
            return (folder / name).resolve().relative_to(root).as_posix()
    return None


failures, checked = [], 0
for top in ("include", "kernels", "lib", "bindings", "examples", "benchmarks", "tests/hosts"):
    for file in sorted(p for p in (root / top).rglob("*") if p.suffix in SOURCES):
        source = file.relative_to(root).as_posix()
        own = layer_of(source)
        if own is None:
            failures.append(f"{source}: no layer of the table holds this file")
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted, name = match.group(1) == '"', match.group(2)
            target = find(file, name)
            where = f"{source}:{number}: {name}"
            checked += 1
            if target is None:
                if own == "kernels" and not quoted and not KERNEL_SYSTEM.fullmatch(name):
                    failures.append(f"{where}: kernels know libc's arithmetic, intrinsics, SIMDe and themselves")
                continue
            to = layer_of(target)
            if own in OUTSIDE:
                if not target.startswith(("include/", own + "/")):
                    failures.append(f"{where}: {own}/ sees include/ only")
            elif to not in rank or rank[to] > rank[own]:
                failures.append(f"{where}: {own} is below {to}")
print("\n".join(failures) or f"layers: {checked} includes point down")
sys.exit(bool(failures))
