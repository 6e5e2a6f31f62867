#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Print the version that include/ramet/base.h declares; with --abi the ABI version, which is the soname's number."""
import pathlib
import re
import sys

text = (pathlib.Path(__file__).resolve().parents[2] / "include/ramet/base.h").read_text()
names = ["ABI_VERSION"] if "--abi" in sys.argv else ["VERSION_MAJOR", "VERSION_MINOR", "VERSION_PATCH"]
print(".".join(re.search(rf"#define RAMET_{name} (\d+)", text).group(1) for name in names))
