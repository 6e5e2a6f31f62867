#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""2 and 4 processes tune as one does.    workers.py MODEL LIBRAMET.so PYTHON_PACKAGE mpi MPIRUN MPI_TUNE | torch TUNE.py

The example is run by 1, 2 and 4 processes. 2 processes with one micro-batch of 2 windows each must give one process's adapter with the same micro-batches bit
for bit (there is one sum of two numbers); others within rounding. Skipped (77) without torch."""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

model, library, package, kind, *how = sys.argv[1:]
if kind == "torch":
    try:
        import torch.distributed  # noqa: F401
        import numpy  # noqa: F401
    except ImportError as missing:
        print(f"skipped: {missing}")
        sys.exit(77)
STEPS = 10
env = {**os.environ, "RAMET_LIBRARY": library, "PYTHONPATH": package, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}


def floats(folder):
    data = (pathlib.Path(folder) / "adapter_model.safetensors").read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    json.loads(data[8:8 + n])
    return struct.unpack(f"<{(len(data) - 8 - n) // 4}f", data[8 + n:])


with tempfile.TemporaryDirectory() as work:
    text, told, found = f"{work}/text.txt", {}, {}
    pathlib.Path(text).write_text(pathlib.Path(__file__).read_text() * 2)
    for processes, micro in ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2)) if kind == "mpi" else ((1, 1), (2, 1), (4, 1)):
        out = f"{work}/{processes}-{micro}"
        if kind == "mpi":
            command = [how[0], "--oversubscribe", "-n", str(processes), how[1], model, text, out, str(STEPS), str(micro)]
        else:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), how[0], model, text, out, str(STEPS)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        print(done.stdout.strip().splitlines()[-1])
        assert f"{STEPS} steps by {processes} processes" in done.stdout, done.stdout
        found[processes, micro], told[processes, micro] = floats(out), float(done.stdout.split()[-1])
    one = found[1, 1]
    for key, values in found.items():
        far = (sum((a - b) ** 2 for a, b in zip(one, values)) / sum(a * a for a in one)) ** 0.5
        print(f"{key[0]} processes, micro-batches of {key[1]}: adapter {far:.2g} from that of one process, loss {told[key] / told[1, 1] - 1:+.2g}")
        assert len(values) == len(one) and far < 1e-3 and abs(told[key] / told[1, 1] - 1) < 1e-4
    if kind == "mpi":
        assert found[2, 2] == found[1, 2], "2 processes with one micro-batch each: other bits than one process"
