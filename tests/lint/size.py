#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The shared library, stripped, stays below a number of bytes.    size.py STRIP LIBRARY LIMIT"""
import pathlib
import subprocess
import sys
import tempfile

strip, library, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
with tempfile.TemporaryDirectory() as folder:
    stripped = pathlib.Path(folder, "stripped")
    subprocess.run([strip, "-o", stripped, library], check=True)
    size = stripped.stat().st_size
print(f"size: {size} bytes stripped, the limit is {limit}")
sys.exit(size >= limit)
