#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_walks.py FOLDER-OF-BUILT-WALKS PYTHON-WALKS: the README's programs run on the tiny model and do what the README says;
the C and the Python one say the same."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))
import texts

built, scripts = map(pathlib.Path, sys.argv[1:3])
MODEL = os.environ["RAMET_TINY_MODEL"]
try:
    import numpy  # noqa: F401: the package needs it
    python = "RAMET_LIBRARY" in os.environ
except ImportError:
    python = False
if not python:
    print("test_walks: no numpy or no shared library here: the Python walks are not run")


class Walks(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.train = texts.write(self.folder.name, "stories", 1, 300)
        self.held_out = texts.write(self.folder.name, "stories", 2, 100)
        self.own = texts.write(self.folder.name, "notes", 1, 300)

    def run_walk(self, name, *arguments, fails=None):
        """The screens of the C program and, where it can run, of the Python one; each in a folder of its own."""
        screens = []
        for program in [[built / f"walk_{name}"]] + ([[sys.executable, scripts / f"{name}.py"]] if python else []):
            here = tempfile.mkdtemp(dir=self.folder.name)
            done = subprocess.run([*program, *arguments], cwd=here, capture_output=True, text=True, timeout=120)
            if fails is None:
                self.assertEqual((done.returncode, done.stderr), (0, ""), program)
                screens.append((pathlib.Path(here), done.stdout))
            else:
                self.assertEqual(done.returncode, fails, program)
                screens.append((pathlib.Path(here), done.stderr))
        return screens

    def test_generate(self):
        screens = self.run_walk("generate", MODEL, "the river")
        for _, out in screens:
            self.assertRegex(out, r"^\d+ ids in, the likeliest next is \d+ with logit -?\d+\.\d+\n")
            self.assertEqual(out, screens[0][1])

    def test_tune(self):
        first = self.run_walk("tune", MODEL, self.train, self.held_out, "my.ckpt", "my.gguf")
        for here, out in first:
            before, after = map(float, re.findall(r"held-out loss \w+: ([\d.]+)", out))
            self.assertLess(after, before - 0.5)
            self.assertEqual(re.findall(r"step (\d+) of 40", out), ["10", "20", "30", "40"])
            self.assertEqual(out, first[0][1])
            self.assertGreater((here / "my.ckpt").stat().st_size, 0)
            self.assertEqual((here / "my.gguf").read_bytes()[:4], b"GGUF")
        # From the finished checkpoint nothing is trained again, and the result is the same.
        checkpoint = first[0][0] / "my.ckpt"
        for here, out in self.run_walk("tune", MODEL, self.train, self.held_out, checkpoint, "again.gguf"):
            self.assertEqual(out.splitlines()[-1], first[0][1].splitlines()[-1])
            self.assertEqual((here / "again.gguf").read_bytes(), (first[0][0] / "my.gguf").read_bytes())

    def test_loop(self):
        for here, out in self.run_walk("loop", MODEL, self.own, self.train, self.held_out):
            self.assertIn("the gate says better; the parent is version 2", out)
            self.assertLess((here / "variant.gguf").stat().st_size, pathlib.Path(MODEL).stat().st_size)
            sent = b"".join(p.read_bytes() for p in (here / "update.safetensors", here / "brief.safetensors"))
            self.assertNotIn(b"basket of figs", sent)

    def test_failures_name_the_file(self):
        for _, error in self.run_walk("generate", "/no/such.gguf", "x", fails=1):
            self.assertIn("/no/such.gguf", error)
        for _, error in self.run_walk("tune", MODEL, self.train, "/no/held", "c", "a.gguf", fails=1):
            self.assertIn("/no/held", error)
        for _, error in self.run_walk("loop", MODEL, "/no/own", self.train, self.held_out, fails=1):
            self.assertIn("/no/own", error)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
