#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Instructions that a product takes on ARM, here and in llama.cpp, counted under qemu-user.

    tests/kernels/instructions.py BUILD [--cache DIR] [--rows 1,8,64] [--out 192] [--width 576] [--clang clang-16] [--json FILE]

BUILD is a cross-build for aarch64 (tests/hosts/aarch64.sh SOURCE BUILD). The peer is the ggml of PyPI's llama-cpp-python 0.3.36 (its source package, by pip
download), built with the same compiler for armv8.2-a with dotprod, and for that with i8mm; weights are repacked where it has a form for that. Counted is a product
of --rows activations, their rounding included, on one thread: twice less once, so that nothing else counts. Wants gcc-aarch64-linux-gnu, g++-aarch64-linux-gnu,
qemu-user and cmake. --clang builds the peer by clang, as phones' programs are; BUILD should then be clang's too (CC=clang tests/hosts/aarch64.sh ...). An instruction is no measure of time, but what there is without a machine.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERSION, TARGET = "0.3.36", "aarch64-linux-gnu"
LEVELS = {"dotprod": "armv8.2-a+dotprod", "i8mm": "armv8.2-a+dotprod+i8mm"}


def run(*command, **more):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"instructions: {' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def compilers(clang):
    """The commands of a C and a C++ compiler for ARM."""
    return ([clang, f"--target={TARGET}"], [clang.replace("clang", "clang++"), f"--target={TARGET}"]) if clang else ([TARGET + "-gcc"], [TARGET + "-g++"])


def peer(cache, level, clang):
    """The harness with ggml of one level in it."""
    out = cache / (f"{level}-{clang}" if clang else level)
    c, cxx = compilers(clang)
    if not (out / "peer").exists():
        source = next(cache.glob("llama_cpp_python-*/vendor/llama.cpp"), None)
        if not source:
            run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", "-d", cache, f"llama-cpp-python=={VERSION}")
            run("tar", "xzf", next(cache.glob("*.tar.gz")), "-C", cache)
            source = next(cache.glob("llama_cpp_python-*/vendor/llama.cpp"))
        print(f"instructions: building ggml for {LEVELS[level]}", flush=True)
        options = {"CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": "aarch64", "CMAKE_C_COMPILER": c[0], "CMAKE_CXX_COMPILER": cxx[0], "CMAKE_C_COMPILER_TARGET": TARGET, "CMAKE_CXX_COMPILER_TARGET": TARGET, "CMAKE_BUILD_TYPE": "Release",
                   "BUILD_SHARED_LIBS": "OFF", "GGML_NATIVE": "OFF", "GGML_OPENMP": "OFF", "GGML_CPU_ARM_ARCH": LEVELS[level], **{f"LLAMA_{x}": "OFF" for x in ("BUILD_COMMON", "BUILD_TESTS", "BUILD_TOOLS", "BUILD_EXAMPLES", "BUILD_SERVER", "CURL")}}
        run("cmake", "-S", source, "-B", out, *(f"-D{k}={v}" for k, v in options.items()))
        run("cmake", "--build", out, "-j", os.cpu_count(), "--target", "ggml")
        libraries = sorted(out.rglob("libggml*.a"), key=lambda p: ["libggml.a", "libggml-cpu.a", "libggml-base.a"].index(p.name))
        run(*c, "-O2", "-DPEER", "-c", ROOT / "tests/kernels/instructions.c", "-I", source / "ggml/include", "-o", out / "peer.o")
        run(*cxx, "-static", out / "peer.o", *libraries, "-lpthread", "-o", out / "peer")
    return out / "peer"


def count(program, *arguments):
    command = ["qemu-aarch64", "-cpu", "max", "-singlestep", "-d", "exec,nochain", "-D", "/dev/stderr", str(program), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as q:
        lines = 0
        while part := q.stderr.read(1 << 22):
            lines += part.count(b"Trace ")
        said = q.stdout.read().split()
    if q.returncode:
        sys.exit(f"instructions: exit code {q.returncode}: {' '.join(command)}")
    return lines, float(said[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "ramet/instructions")
    parser.add_argument("--rows", default="1,8,64")
    parser.add_argument("--out", type=int, default=192)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--encodings", default="Q4_0,Q4_1,Q8_0")
    parser.add_argument("--clang", metavar="NAME", help="in place of GCC")
    parser.add_argument("--json", type=pathlib.Path)
    a = parser.parse_args()
    if not (a.build / "lib/libramet_core.a").exists():
        sys.exit(f"instructions: {a.build}/lib/libramet_core.a is not there; tests/hosts/aarch64.sh {ROOT} {a.build} makes it")
    c, cxx = compilers(a.clang)
    for tool in (c[0], cxx[0], "qemu-aarch64", "cmake"):
        if not shutil.which(tool):
            sys.exit(f"instructions: there is no {tool}; --help names the packages")
    a.cache.mkdir(parents=True, exist_ok=True)
    ours = a.cache / "ramet"
    run(*c, "-O2", "-static", ROOT / "tests/kernels/instructions.c", "-I", ROOT / "kernels", "-I", ROOT / "lib", "-I", ROOT / "include", a.build / "lib/libramet_core.a", "-lm", "-lpthread", "-o", ours)
    found = []
    print(f"instructions a multiplication, {a.out} outputs of {a.width} inputs\n\n| level | encoding | rows | ramet | llama.cpp | llama.cpp / ramet |\n|---|---|---|---|---|---|")
    for level in LEVELS:
        other = peer(a.cache, level, a.clang)
        for encoding in a.encodings.split(","):
            for rows in map(int, a.rows.split(",")):
                each = []
                for program in (ours, other):
                    (once, y), (twice, _) = (count(program, level, encoding, rows, a.out, a.width, times) for times in (1, 2))
                    each.append({"instructions": twice - once, "last": y})
                work = rows * a.out * a.width
                if abs(each[0]["last"] - each[1]["last"]) > 0.1 * abs(each[0]["last"]) + 1:
                    sys.exit(f"instructions: {encoding}: the last output is {each[0]['last']} here and {each[1]['last']} there: not the same product")
                found.append({"level": level, "encoding": encoding, "rows": rows, "ramet": each[0]["instructions"], "peer": each[1]["instructions"]})
                print(f"| {level} | {encoding} | {rows} | {each[0]['instructions'] / work:.4f} | {each[1]['instructions'] / work:.4f} | {each[1]['instructions'] / each[0]['instructions']:.2f} |", flush=True)
    if a.json:
        a.json.write_text(json.dumps({"out": a.out, "width": a.width, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
