#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every source file names its licence; none is longer than 1500 lines (tables, *.def and *_table.*, may be); what begins with #! can be run."""
import os
import pathlib
import re
import sys

SOURCE = re.compile(r".*\.(c|h|cpp|hpp|java|py|sh|def|inc|S|ini|toml|in|cmake|map)|meson\.(build|options)|Makefile|run")
TABLE = re.compile(r".*\.def|.*_table\.(c|h|inc)")
SKIP = re.compile(r"build.*|\.git|\.venv|__pycache__|subprojects|.*\.egg-info")

root = pathlib.Path(sys.argv[1])
failures, count = [], 0
for folder, folders, files in os.walk(root):
    folders[:] = sorted(f for f in folders if not (SKIP.fullmatch(f) and not os.path.exists(os.path.join(folder, f, "meson.build"))))
    for name in sorted(f for f in files if SOURCE.fullmatch(f)):
        path = pathlib.Path(folder, name)
        lines = path.read_text(errors="replace").splitlines()
        count += 1
        if not any("SPDX-License-Identifier: Apache-2.0" in line for line in lines[:4]):
            failures.append(f"{path.relative_to(root)}: no SPDX-License-Identifier line at the top")
        if len(lines) > 1500 and not TABLE.fullmatch(name):
            failures.append(f"{path.relative_to(root)}: {len(lines)} lines; split it")
        if lines and lines[0].startswith("#!") and os.name == "posix" and not os.access(path, os.X_OK):
            failures.append(f"{path.relative_to(root)}: begins with #! and is not executable; chmod +x")
print("\n".join(failures) or f"files: {count} have a licence line and a bearable length")
sys.exit(bool(failures) or not count)
