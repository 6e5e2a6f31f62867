#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# wheel.sh: `pip install .` into an environment of its own, then the package's tests with the library that came inside. Fetches meson-python
# and numpy; so it is run by name:  tests/bindings/wheel.sh
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check .
ls -l "$work"/venv/lib/python3*/site-packages/ramet/libramet*
python3 tests/tools/make_model.py "$work/tiny.gguf"
cd "$work" # so that the package is found where it was installed
unset RAMET_LIBRARY PYTHONPATH LD_LIBRARY_PATH || true
RAMET_TINY_MODEL="$work/tiny.gguf" "$work/venv/bin/python" "$OLDPWD/tests/bindings/test_python.py"
