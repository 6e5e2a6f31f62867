#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_nets_examples.py PROGRAM-TABLE FOLDER: the examples of small nets learn, on made-up data.    FOLDER: examples/nets"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
except ImportError:
    print("skipped: no numpy")
    sys.exit(77)
table, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
sys.path[:0] = [str(folder), str(pathlib.Path(__file__).resolve().parents[1] / "tools")]
import convnet  # noqa: E402
import make_bert  # noqa: E402
import ramet  # noqa: E402


class Examples(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = pathlib.Path(scratch.name)

    def run_it(self, *command):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_table(self):
        rng = np.random.default_rng(0)
        x = rng.uniform(-1, 1, (1500, 4))
        y = np.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.05 * rng.normal(size=1500)
        np.savetxt(self.scratch / "t.csv", np.column_stack([x, y]), delimiter=",", header="a,b,c,d,y", comments="")
        output = self.run_it(table, self.scratch / "t.csv", self.scratch / "net.safetensors")
        self.assertGreater(float(re.search(r"300 rows held out: R\^2 (\S+)", output).group(1)), 0.95, output)
        self.assertEqual(ramet.Variables(self.scratch / "net.safetensors")["w1"].shape, (32, 4))
        self.assertEqual(subprocess.run([table, self.scratch / "none.csv"], capture_output=True).returncode, 2)

    def test_convnet(self):
        rng = np.random.default_rng(0)
        def images(n):
            y = rng.integers(0, 10, n)
            x = rng.uniform(0, 0.4, (n, 28, 28))
            for i, k in enumerate(y):  # a bar at one of ten places
                x[i, 4 + 4 * (k % 5):7 + 4 * (k % 5), 6 + 8 * (k // 5):12 + 8 * (k // 5)] += 0.6
            return x.reshape(n, 784).astype(np.float32), y.astype(np.int32)
        v = convnet.variables()
        train, test = convnet.programs(v, 32)
        x, y = images(500)
        before = convnet.accuracy(test, x, y)
        for _ in range(60):
            a, b = images(32)
            train.run(x=a, y=b)
            v.step(learning_rate=2e-3)
        self.assertLess(before, 0.4)
        self.assertGreater(convnet.accuracy(test, x, y), 0.95)

    def test_readme(self):
        """The README's program learns which of ten columns is bright."""
        page = (folder.parents[1] / "README.md").read_text(encoding="utf-8")
        program = re.search(r"```python\n(v, g = ramet.Variables.*?)```", page, re.S).group(1)
        self.assertIn('"digits.safetensors"', program)
        program = program.replace("digits.safetensors", str(self.scratch / "digits.safetensors"))
        y = np.arange(64, dtype=np.int32) % 10
        x = np.random.default_rng(0).random((64, 784), np.float32) * 0.1
        x[np.arange(64)[:, None], 28 * np.arange(28) + 2 * y[:, None] + 4] = 1
        losses = []
        exec(program, {"ramet": ramet, "batches": [(x, y)] * 30, "print": lambda loss: losses.append(float(loss[0, 0]))})
        self.assertEqual(len(losses), 30)
        self.assertLess(losses[-1], 0.5 * losses[0])
        self.assertIn("out.weight", list(ramet.Variables(self.scratch / "digits.safetensors")))

    def test_classifier(self):
        make_bert.main(self.scratch / "bert")
        model, rng = ramet.load(self.scratch / "bert"), np.random.default_rng(1)
        words = [list(rng.choice(["the", "river", "flows", "."], 3)) + (["fish"] if i % 2 else []) for i in range(100)]
        texts, labels = [" ".join(rng.permutation(w)) for w in words], ["animal" if i % 2 else "water.and.ice" for i in range(100)]
        file = self.scratch / "c.safetensors"
        for options in ({"epochs": 60}, {"rank": 4}, {"full": True, "learning_rate": 2e-3}):
            losses = []
            made = ramet.Classifier.train(model, texts[:64], labels[:64], max_tokens=16, progress=lambda step, steps, loss: losses.append(loss), **options)
            self.assertLess(losses[-1], losses[0], options)
            made.save(file)
            again = ramet.Classifier(model, file)
            self.assertEqual(again.labels, ["animal", "water.and.ice"])
            np.testing.assert_array_equal(made.probabilities(texts[64:]), again.probabilities(texts[64:]))
            self.assertGreater(again.accuracy(texts[64:], labels[64:]), 0.7 if "epochs" in options else 0.9, options)
        with self.assertRaisesRegex(ValueError, "two kinds"):
            ramet.Classifier.train(model, texts, ["one"] * 100)
        ramet.Variables().save(file)
        with self.assertRaisesRegex(ValueError, "no classifier"):
            ramet.Classifier(model, file)

    def test_texts(self):
        make_bert.main(self.scratch / "bert")
        rng, files = np.random.default_rng(1), []
        for n in (120, 60):
            files.append(self.scratch / f"{n}.jsonl")
            rows = []
            for i in range(n):
                words = list(rng.choice(["the", "river", "flows", "."], 3)) + (["fish"] if i % 2 else [])
                rng.shuffle(words)
                rows.append(json.dumps({"text": " ".join(words), "label": "animal" if i % 2 else "water"}))
            files[-1].write_text("\n".join(rows))
        for tune, file in (("head", "head.safetensors"), ("lora", "adapter/adapter_model.safetensors"), ("full", "encoder.gguf")):
            output = self.run_it(sys.executable, folder / "texts.py", self.scratch / "bert", *files, "--tune", tune, "--rate", 5e-3, "--epochs", 60 if tune == "head" else 8,
                                 "--save", self.scratch / tune)
            self.assertGreater(float(re.search(r"2 labels, .* test accuracy (\S+) of 60", output).group(1)), 0.9, (tune, output))
            self.assertIn("out.weight", list(ramet.Variables(self.scratch / tune / "head.safetensors")))
            self.assertTrue((self.scratch / tune / file).is_file())
        for file in files:  # the number of fishes
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            file.write_text("\n".join(json.dumps({"text": row["text"], "label": row["text"].count("fish")}) for row in rows))
        output = self.run_it(sys.executable, folder / "texts.py", self.scratch / "bert", *files, "--tune", "lora", "--rate", 5e-3, "--epochs", 20)
        self.assertGreater(float(re.search(r"test R\^2 (\S+) of 60", output).group(1)), 0.8, output)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
