#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rules find what they are for: each is run on a small tree that breaks it.    test_rules.py CC NM [STRIP]"""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
COMPILER, NM, STRIP = ["cc"], "nm", ""
LICENCE = "/* SPDX-License-Identifier: Apache-2.0 */\n"


class Rules(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        self.root = pathlib.Path(self.scratch.name)

    def write(self, files):
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def run_rule(self, rule, *arguments):
        done = subprocess.run([sys.executable, HERE / rule, *map(str, arguments)], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def assert_finds(self, wanted, rule, *arguments):
        code, output = self.run_rule(rule, *arguments)
        self.assertEqual(code, 1, output)
        for text in wanted:
            self.assertIn(text, output)

    def test_layers(self):
        good = {"include/ramet/base.h": "", "lib/train/t.h": "", "lib/base/b.h": "", "lib/train/t.c": '#include "base/b.h"\n#include "t.h"\n',
                "examples/e/e.c": "#include <ramet/base.h>\n#include <stdio.h>\n", "kernels/k.c": "#include <math.h>\n"}
        self.write(good)
        self.assertEqual(self.run_rule("layers.py", self.root)[0], 0)
        self.write({"lib/base/b.c": '#include "train/t.h"\n', "kernels/k.c": '#include "base/b.h"\n#include <pthread.h>\n#include <stdio.h>\n',
                    "examples/e/e.c": '#include "base/b.h"\n', "lib/new/n.c": ""})
        self.assert_finds(["lib/base/b.c:1", "kernels/k.c:1", "kernels/k.c:2", "kernels/k.c:3", "examples/e/e.c:1", "lib/new/n.c: no layer"],
                          "layers.py", self.root)

    def test_files(self):
        self.write({"lib/a.c": LICENCE, "build/x.c": ""})
        self.assertEqual(self.run_rule("files.py", self.root)[0], 0)
        self.write({"lib/b.c": "int x;\n", "lib/long.c": LICENCE + "\n" * 1500, "lib/rows_table.h": LICENCE + "\n" * 1500,
                    "tests/run.py": "#!/usr/bin/env python3\n# SPDX-License-Identifier: Apache-2.0\n"})
        code, output = self.run_rule("files.py", self.root)
        self.assertEqual((code, output.count("\n")), (1, 3), output)
        self.assertIn("run.py: begins with #!", output)
        self.assertIn("b.c: no SPDX", output)
        self.assertIn("long.c: 1501 lines", output)

    def test_registered(self):
        self.write({"a.def": "/* RAMET__A(zero) */\nRAMET__A(one, 1)\nRAMET__A(two, 2)\n", "tests/test_a.c": "/* one two */\nvoid test_one_works(void);"})
        self.assert_finds(["two has no test"], "registered.py", self.root, "a.def", "tests", "RAMET__A", 0)
        self.write({"tests/test_a.c": '#include "x/a.def"\n'})
        self.assertEqual(self.run_rule("registered.py", self.root, "a.def", "tests", "RAMET__A", 0)[0], 0)

    def compile(self, source, *flags):
        self.write({"x.c": source})
        subprocess.run([*COMPILER, *flags, str(self.root / "x.c"), "-o", str(self.root / "x.o")], check=True)
        subprocess.run(["ar", "rc", str(self.root / "x.a"), str(self.root / "x.o")], check=True)
        return self.root / "x.a"

    def test_objects(self):
        good = self.compile("#include <string.h>\nstatic const char *const t[] = {\"a\"};\nconst char *f(int i, char *p) { memset(p, 0, 9); return t[i]; }\n", "-c", "-fPIC")
        for rule in ("kernels", "library"):
            self.assertEqual(self.run_rule("objects.py", NM, rule, good)[0], 0)
        bad = self.compile("#include <assert.h>\n#include <stdio.h>\n#include <stdlib.h>\nint g; static int h = 3; static _Thread_local int t;\n"
                           "void *f(int i) { assert(i); h += i; t += h; puts(\"x\"); if (i > 5) abort(); return malloc(g + t); }\n", "-c", "-fPIC")
        self.assert_finds(["refers to malloc"], "objects.py", NM, "kernels", bad)
        self.assert_finds(["refers to abort", "refers to __assert_fail", "refers to puts", "global g", "global h", "thread-local t"], "objects.py", NM, "library", bad)

    def test_symbols(self):
        self.write({"include/ramet/a.h": "RAMET_API int ramet_one(void);\n/* RAMET_API int ramet_no(void); */\nRAMET_API const char *ramet_two(int a,\n int b);\n"})
        self.write({"x.c": "int ramet_one(void) { return 1; }\nint ramet__leak(void) { return 2; }\n"})
        library = self.root / "x.so"
        subprocess.run([*COMPILER, "-shared", "-fPIC", str(self.root / "x.c"), "-o", str(library)], check=True)
        self.assert_finds(["ramet__leak"], "symbols.py", NM, self.root, library, "exported")
        self.assert_finds(["ramet_two: declared in a.h"], "symbols.py", NM, self.root, library, "declared")

    @unittest.skipUnless(sys.argv[3:], "no strip")
    def test_size(self):
        self.write({"x.c": "const char text[5000] = {1};\n"})
        library = self.root / "x.so"
        subprocess.run([*COMPILER, "-g", "-shared", "-fPIC", str(self.root / "x.c"), "-o", str(library)], check=True)
        self.assert_finds(["bytes stripped"], "size.py", STRIP, library, 5000)
        self.assertEqual(self.run_rule("size.py", STRIP, library, 100000)[0], 0)

    def test_headers(self):
        self.write({"include/ramet/a.h": "#ifndef A\n#define A\nint f(uint32_t x);\n#endif\n"})
        self.assert_finds(["a.h: does not compile alone"], "headers.py", self.root, "c", "c99", *COMPILER)

    @unittest.skipUnless(shutil.which("abidiff"), "no abidiff")
    def test_abi(self):
        good = """#ifndef A
#define A
#include <stdint.h>
#define RAMET_ONE 1
typedef struct ramet_thing ramet_thing;
typedef struct ramet_options {
    uint32_t struct_size;
    int32_t first, second;
    float *third;
    int64_t last[2];
} ramet_options;
typedef struct ramet_pair { int32_t a, b; } ramet_pair;
typedef int32_t (*ramet_fn)(int32_t x, void *user);
RAMET_API int32_t ramet_make(ramet_thing **out, const ramet_options *options);
RAMET_API void ramet_call(ramet_thing *thing, ramet_fn fn, const ramet_pair *pair);
#endif
"""
        def change(*pairs):
            text = good
            for old, new in pairs:
                self.assertIn(old, text)
                text = text.replace(old, new)
            self.write({"include/ramet/ramet.h": text})
            return self.run_rule("abi.py", "abidiff", self.root, *COMPILER)
        self.write({"include/ramet/ramet.h": good})
        (self.root / "tests/lint").mkdir(parents=True)
        self.assertEqual(self.run_rule("abi.py", "", self.root, "--write", *COMPILER)[0], 0)
        self.assertEqual(self.run_rule("abi.py", "", self.root, *COMPILER)[0], 77)
        appended = ("last[2];", "last[2]; double more; const char *name;")
        for pairs in ([], [appended], [("#endif", "RAMET_API int32_t ramet_new(ramet_thing *thing);\n#endif")], [("ramet_options;", "ramet_options;\n#define RAMET_TWO 2")],
                      [("(ramet_thing **out", "(ramet_thing **result")]):
            self.assertEqual(change(*pairs)[0], 0, (pairs, change(*pairs)[1]))
        for word, *pairs in (["third", ("    float *third;\n", "")], ["second", ("first, second", "first")], ["first", ("int32_t first", "int64_t first")],
                             ["third", ("float *third", "double *third")], ["first", ("first, second", "second, first")], ["last", ("last[2]", "last[3]")],
                             ["middle", ("float *third", "int64_t middle; float *third")], ["first", ("int32_t first", "float first"), appended],
                             ["third", ("    float *third;\n", ""), appended], ["middle", ("first, second", "first, second, middle, other"), appended],
                             ["ramet_pair", ("a, b;", "a, b, c;")], ["ramet_make", ("RAMET_API int32_t ramet_make(ramet_thing **out, const ramet_options *options);", "")],
                             ["ramet_make", ("int32_t ramet_make(ramet_thing **out, ", "int32_t ramet_make(")], ["ramet_make", ("int32_t ramet_make", "int64_t ramet_make")],
                             ["ramet_fn", ("(int32_t x, void", "(int64_t x, void")], ["RAMET_ONE was 1, is 2", ("ONE 1", "ONE 2")], ["gone", ("#define RAMET_ONE 1", "")]):
            code, output = change(*pairs)
            self.assertEqual(code, 1, (pairs, output))
            self.assertIn(word, output)
        padded = ("int64_t last[2];", "int64_t last[2]; int32_t odd;")
        change(padded)
        self.assertEqual(self.run_rule("abi.py", "", self.root, "--write", *COMPILER)[0], 0)
        code, output = change((padded[0], padded[1] + " int32_t more;"))
        self.assertEqual(code, 1, output)
        self.assertIn("more lies in the padding", output)
        self.assertEqual(change((padded[0], padded[1] + " int64_t more; int32_t (*fn)(int32_t x);"))[0], 0)


if __name__ == "__main__":
    COMPILER, NM, *rest = sys.argv[1].split(), *sys.argv[2:]
    STRIP = rest[0] if rest else ""
    unittest.main(verbosity=0, argv=sys.argv[:1])
