#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_readme.py ROOT [--write]: each program that the README shows is the file that it names, every walk is shown, every link leads somewhere.

A program is a line `path` in backquotes that ends with a colon, and below it a fenced block."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
page = root / "README.md"
PROGRAM = re.compile(r"(`(examples/\S+)`:\n\n```\w+\n)(.*?)(```\n)", re.S)
if sys.argv[2:] == ["--write"]:
    page.write_text(PROGRAM.sub(lambda m: m[1] + (root / m[2]).read_text(encoding="utf-8") + m[4], page.read_text(encoding="utf-8")), encoding="utf-8")
readme = page.read_text(encoding="utf-8")
failures = []
shown = [(m[2], m[3]) for m in PROGRAM.finditer(readme)]
for path, text in shown:
    file = root / path
    if not file.exists():
        failures.append(f"README.md shows {path}, which does not exist")
    elif file.read_text(encoding="utf-8") != text:
        failures.append(f"README.md: the program under {path} is not the file's text; test_readme.py ROOT --write copies it")
walks = {str(p.relative_to(root)) for p in (root / "examples/walks").iterdir() if p.suffix in (".c", ".py")}
failures += [f"README.md does not show {path}" for path in sorted(walks - {path for path, _ in shown})]
for target in re.findall(r"\]\(([^)#:]+)\)", re.sub(r"<!--.*?-->", "", readme, flags=re.S)):
    if not (root / target).exists():
        failures.append(f"README.md links to {target}, which does not exist")
for command in re.findall(r"^    make (\w+)", readme, re.M):
    if not re.search(rf"^{command}:", (root / "Makefile").read_text(), re.M):
        failures.append(f"README.md has make {command}, the Makefile has not")
print("\n".join(failures) or f"README.md: {len(shown)} programs as in their files")
sys.exit(bool(failures) or len(walks) < 6)
