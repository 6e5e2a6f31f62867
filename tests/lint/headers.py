#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each public header compiles alone, without a warning.    headers.py ROOT LANGUAGE STANDARD COMPILER..."""
import pathlib
import subprocess
import sys

root, language, standard, *compiler = sys.argv[1:]
headers, failed = sorted((pathlib.Path(root) / "include/ramet").glob("*.h")), 0
for header in headers:
    # Twice: the second time the guard must leave nothing.
    program = f"#include <ramet/{header.name}>\n#include <ramet/{header.name}>\nint main(void) {{ return 0; }}\n"
    command = [*compiler, "-x", language, f"-std={standard}", "-pedantic", "-Wall", "-Wextra", "-Wundef", "-Werror", "-fsyntax-only", "-I",
               f"{root}/include", "-"]
    if subprocess.run(command, input=program, text=True).returncode:
        print(f"{header.name}: does not compile alone as {standard}")
        failed = 1
print(f"headers: {len(headers)} as {standard}")
sys.exit(failed or not headers)
