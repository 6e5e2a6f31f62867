#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every registered thing has its test.    registered.py ROOT REGISTER.def TEST_FOLDER MACRO COLUMN

COLUMN says which argument of `MACRO(..., name, ...)` is the name, from 0. A line is tested when a test file of the folder includes the .def (its cases are generated from the lines)
or spells the name."""
import pathlib
import re
import sys

root, register, folder, macro, column = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])


def without_comments(text):
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.S)


rows = re.findall(rf"^\s*{macro}\(([^)]*)\)", without_comments((root / register).read_text()), flags=re.M)
names = sorted({row.split(",")[column].strip().strip('"') for row in rows})
tests = without_comments("\n".join(p.read_text() for p in sorted((root / folder).glob("*.c"))))
generated = re.search(r'#\s*include\s*"[\w./]*' + re.escape(pathlib.Path(register).name) + '"', tests)
missing = [n for n in names if not generated and not re.search(rf"(?<![A-Za-z0-9]){re.escape(n)}(?![A-Za-z0-9])", tests)]
for name in missing:
    print(f"{register}: {name} has no test in {folder}/")
print(f"registered: {len(names)} in {register}, {len(names) - len(missing)} tested" + (" by a generated list" if generated else ""))
sys.exit(bool(missing) or not names)
