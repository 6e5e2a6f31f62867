#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the public headers promised stays binary compatible.    abi.py ABIDIFF ROOT [--write] COMPILER...

tests/lint/abi.txt holds the declarations and constants of the last promise (experimental.h promises nothing). It and the headers of today are both
compiled into a shared object of empty functions with debug information, and abidiff compares them: a function may be added, and a member at the end of
a struct that begins with struct_size; anything else fails. Constants are compared here. That the library exports what the headers declare is symbols.py's
part. --write makes the snapshot anew. Exits with 77 (skipped) where abidiff is not there (package abigail-tools)."""
import pathlib
import re
import subprocess
import sys
import tempfile

HEAD = "#include <stddef.h>\n#include <stdint.h>\n"
OWN = re.compile(r'# \d+ "(.*)"')


def constants(compiler, root):
    """Every RAMET_NAME that is a number, but versions."""
    text = subprocess.run([*compiler, "-E", "-dM", f"-I{root}/include", "-include", "ramet/ramet.h", "-xc", "/dev/null"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^#define (RAMET_(?!VERSION|ABI)\w+) (\(?-?\w+\)?)$", text, re.M)
    return "".join(f"#define {name} {value}\n" for name, value in sorted(found))


def snapshot(compiler, root):
    """The headers without comments, system headers and attributes, a declaration a line."""
    text = subprocess.run([*compiler, "-E", "-DRAMET_API=", f"-I{root}/include", "-include", "ramet/ramet.h", "-xc", "/dev/null"], capture_output=True, text=True, check=True).stdout
    lines, ours = [], False
    for line in text.splitlines():
        marker = OWN.match(line)
        if marker:
            ours = "/include/ramet/" in marker[1]
        elif ours:
            lines.append(line.replace('__attribute__((visibility("default")))', ""))
    text, depth, out = " ".join(" ".join(lines).split()), 0, []
    for part in re.split(r"(?<=[;{]) ", text):  # a declaration or a member a line
        several = depth and re.fullmatch(r"((?:const )?\w+) ([^()]*,[^()]*);", part)
        for line in [f"{several[1]} {name.strip()};" for name in several[2].split(",")] if several else [part]:
            out.append("  " * (depth and not line.startswith("}")) + line)
        depth += part.count("{") - part.count("}")
    return HEAD + constants(compiler, root) + "\n".join(out) + "\n"


def build(compiler, text, path):
    """A shared object with a body for every function that the text declares."""
    bodies = re.sub(r"^(?!typedef)(\w.*\bramet_\w+\(.*\));$", r"\1 { for (;;) {} }", text, flags=re.M)
    command = [*compiler, "-xc", "-", "-std=gnu11", "-g", "-O0", "-w", "-shared", "-fPIC", "-Wl,-soname,libramet", "-o", path]
    subprocess.run(command, input=bodies, text=True, check=True)


def changed_constants(old, new):
    old, new = (dict(re.findall(r"^#define (\w+) (.*)$", text, re.M)) for text in (old, new))
    return [f"{name} was {value}, is {new.get(name, 'gone')}" for name, value in old.items() if new.get(name) != value]


STRUCT = re.compile(r"^typedef struct (\w+) \{\n(  uint32_t struct_size;\n(?:  .*\n)*)\}", re.M)


def cut(compiler, old, new):
    """`new` without the members that it appends to structs of `old`, and those that old callers' struct_size would cover: they lie in the padding."""
    before, program, names = dict(STRUCT.findall(old)), new, []
    for name, members in STRUCT.findall(new):
        count = before.get(name, members).count("\n")
        more = members.splitlines()[count:]
        if not more:
            continue
        first = re.search(r"(\w+)\)?(?:\[\w+\])*(?:\(.*\))?;$", more[0])[1]
        kept = "".join(line + "\n" for line in members.splitlines()[:count])
        program += f"typedef struct cut_{name} {{\n{kept}}} cut_{name};\n_Static_assert(offsetof({name}, {first}) >= sizeof(cut_{name}), \"{name}: {first} lies in the padding\");\n"
        new = new.replace(f"typedef struct {name} {{\n{members}}}", f"typedef struct {name} {{\n{kept}}}")
    done = subprocess.run([*compiler, "-xc", "-", "-std=gnu11", "-w", "-fsyntax-only"], input=program, capture_output=True, text=True)
    return new, re.findall(r'error: static assertion failed: (.*)', done.stderr) or done.stderr.splitlines()


def compare(abidiff, compiler, old, new, folder):
    """What is no longer as promised, as text; empty when all is."""
    wrong = changed_constants(old, new)
    new, padding = cut(compiler, old, new)
    paths = [str(pathlib.Path(folder, name)) for name in ("promised.so", "now.so")]
    for text, path in zip((old, new), paths):
        build(compiler, text, path)
    done = subprocess.run([abidiff, "--no-added-syms", *paths], capture_output=True, text=True)
    return "\n".join([*wrong, *padding, (done.stdout + done.stderr) * (done.returncode != 0)]).strip()


def main():
    abidiff, root, *compiler = sys.argv[1:]
    write = compiler[0] == "--write"
    path, compiler = pathlib.Path(root, "tests/lint/abi.txt"), compiler[write:]
    now = snapshot(compiler, root)
    if write:
        path.write_text(now)
        return 0
    if not abidiff:
        print("abi: abidiff is not there; install abigail-tools")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        wrong = compare(abidiff, compiler, path.read_text(), now, folder)
    print(wrong or "abi: as promised")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
