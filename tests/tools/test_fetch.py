#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demo's texts are split honestly: by group, the same way each time, without shared runs or boilerplate.    test_fetch.py FETCH.py"""
import importlib.util
import pathlib
import sys
import tempfile
import unittest

spec = importlib.util.spec_from_file_location("fetch", sys.argv.pop())
fetch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fetch)


def prose(number, length=40):
    return " ".join(f"w{number}x{i}" for i in range(length))


class Split(unittest.TestCase):
    def test_groups_stay_together_and_nothing_is_lost(self):
        documents = [(f"g{n // 4}", f"{prose(n)} group{n // 4}") for n in range(800)]
        parts = fetch.split(documents, True)
        self.assertEqual(sum(map(len, parts.values())), 800)
        for name, low, high in (("test", 40, 120), ("valid", 16, 70), ("train", 620, 740)):
            self.assertTrue(low < len(parts[name]) < high, f"{name} has {len(parts[name])}")
        groups = [{d.split()[-1] for d in part} for part in parts.values()]
        self.assertFalse(groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
        self.assertEqual(parts, fetch.split(list(reversed(documents)), True))

    def test_a_shared_run_is_dropped_from_training(self):
        documents = [(f"g{n}", prose(n)) for n in range(400)]
        before = fetch.split(documents, True)
        stolen = " ".join(before["test"][0].split()[5:5 + fetch.RUN])
        victim = next(g for g, d in documents if d == before["train"][0])
        documents = [(g, d + " " + stolen if g == victim else d) for g, d in documents]
        after = fetch.split(documents, True)
        self.assertEqual(len(after["train"]), len(before["train"]) - 1)
        self.assertEqual(after["test"], before["test"])

    def test_boilerplate_is_dropped(self):
        parts = fetch.split([(f"g{n}", prose(0) + f" end{n}") for n in range(50)], True)
        self.assertEqual(sum(map(len, parts.values())), 1)

    def test_general_text_has_no_training_part(self):
        self.assertEqual(set(fetch.split([("a", prose(1))], False)), {"valid", "test"})


class Readers(unittest.TestCase):
    def read(self, reader, text):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "x")
            path.write_text(text, encoding="utf-8")
            return list(reader(path))

    def test_medicine(self):
        long = " ".join(["word"] * 30)
        got = self.read(fetch.medicine, f'head\n[Term]\nid: 1\ndef: "{long} \\"q\\"." [x]\ncomment: More [PMID:1].\nis_a: HP:7 ! p\n'
                                        f'[Term]\nid: 2\ndef: "Short." []\nis_a: HP:7\n[Term]\nid: 3\ndef: "{long}" []\nis_obsolete: true\n')
        self.assertEqual(got, [("HP:7", f'{long} "q". More .')])

    def test_chat(self):
        got = self.read(fetch.chat, "categories:\n- t\nconversations:\n" + "".join(f"- - q{i}\n  - an answer of words\n  - other\n" for i in range(5)))
        self.assertEqual(len(got), 1)
        self.assertEqual([m["role"] for m in got[0][1]], ["user", "assistant"] * 4)
        self.assertEqual(got[0][1][1]["content"], "an answer of words")


if __name__ == "__main__":
    unittest.main(verbosity=0)
