#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What libramet exports is what the public headers declare.

    symbols.py NM ROOT LIBRARY exported    every exported symbol is declared
    symbols.py NM ROOT LIBRARY declared    every declared function is exported
"""
import pathlib
import re
import subprocess
import sys

nm, root, library, direction = sys.argv[1:]
declared = {}
for header in sorted((pathlib.Path(root) / "include/ramet").glob("*.h")):
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header.read_text(), flags=re.S)
    for match in re.finditer(r"\bRAMET_API\b(?!\s+__)[^;(]*?\b(\w+)\s*\(", text):
        declared[match.group(1)] = header.name
listing = subprocess.run([nm, "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
exported = {line.split()[-1] for line in listing.splitlines()}
if direction == "exported":
    failures = [f"{name}: exported, and no public header declares it" for name in sorted(exported - set(declared))]
else:
    failures = [f"{name}: declared in {declared[name]}, and not exported" for name in sorted(set(declared) - exported)]
print("\n".join(failures) or f"symbols: {len(exported)} exported, {len(declared)} declared")
sys.exit(bool(failures))
