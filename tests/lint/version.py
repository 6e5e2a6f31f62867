#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Print the version that include/ramet/base.h declares; the build takes it from there."""
import pathlib
import re

text = (pathlib.Path(__file__).resolve().parents[2] / "include/ramet/base.h").read_text()
print(".".join(re.search(rf"#define RAMET_VERSION_{part} (\d+)", text).group(1) for part in ("MAJOR", "MINOR", "PATCH")))
