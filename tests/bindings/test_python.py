#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Python package on the tiny model: every class and method, errors, streaming, Ctrl-C, memory. Exits with 77 (skipped) without numpy."""
import gc
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import weakref

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))
import texts

try:
    import numpy as np
except ImportError:
    print("test_python: numpy is not there; pip install numpy")
    sys.exit(77)
import ramet

MODEL = os.environ["RAMET_TINY_MODEL"]


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = ramet.load(MODEL)
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.train, cls.held_out = texts.write(folder.name, "stories", 1, 200), texts.write(folder.name, "stories", 2, 100)
        cls.own = texts.write(folder.name, "notes", 1, 200)

    def tuner(self, model=None, **options):
        return ramet.Tuner(model or self.model, self.train, **{"steps": 4, "window": 64, "batch": 2, "rank": 4, "learning_rate": 1e-2, **options})

    def adapter(self, model=None, **options):
        tuner = self.tuner(model, **options)
        tuner.step(max_steps=100)
        return tuner.adapter()

    def fails(self, name, word, function, *arguments, **options):
        with self.assertRaises(ramet.Error) as caught:
            function(*arguments, **options)
        self.assertEqual(caught.exception.name, name, str(caught.exception))
        self.assertIn(word, str(caught.exception))


class Looking(Case):
    def test_a_library_that_is_not_there(self):
        done = subprocess.run([sys.executable, "-c", "import ramet"], capture_output=True, text=True, env={**os.environ, "RAMET_LIBRARY": str(self.folder / "none.so")})
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"ImportError: ramet: the library cannot be loaded \(.*none\.so.*\); .*RAMET_LIBRARY")

    def test_runtime(self):
        rt = ramet.Runtime(threads=1, isa="ref")
        self.assertEqual((rt.threads, rt.isa), (1, "ref"))
        before = rt.bytes
        model = ramet.load(MODEL, runtime=rt)
        logits = model([5, 6, 7], mode="exact")
        self.assertGreater(rt.bytes[0], before[0])
        self.assertGreaterEqual(rt.bytes[1], rt.bytes[0])
        np.testing.assert_allclose(logits, self.model([5, 6, 7], mode="exact"), atol=1e-4)
        self.assertIs(ramet.runtime(), ramet.runtime())
        with self.assertRaisesRegex(ValueError, "avx512"):
            ramet.Runtime(isa="sse9")
        self.fails("RAMET_E_BUDGET", "budget", lambda: ramet.load(MODEL, runtime=ramet.Runtime(byte_budget=4096)).session())

    def test_embed(self):
        sys.path.insert(0, str(pathlib.Path(texts.__file__).parent))
        import make_bert
        make_bert.main(self.folder / "bert")
        model, lines = ramet.load(self.folder / "bert"), ["the river flows.", "fish", "The RIVER, a fish!"]
        vectors = model.embed(lines, mode="exact")
        self.assertEqual((vectors.shape, vectors.dtype), ((3, 32), np.float32))
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        embedder = model.embedder(mode="exact", max_sequences=1)  # a run a text
        np.testing.assert_array_equal(embedder(lines), vectors)
        np.testing.assert_array_equal(embedder([model.tokenizer.encode(t, bos=True) for t in lines]), vectors)
        self.assertEqual(model.embed([]).shape, (0, 32))
        variables, graph = ramet.Variables(), ramet.Graph(16)
        graph.model(model, variables, rank=2)
        for name in variables:
            variables[name] = np.random.default_rng(0).normal(size=variables[name].shape)
        adapter = variables.adapter(model)
        index = embedder.attach(adapter, 0.5)
        embedder.use(index)
        np.testing.assert_allclose(embedder(lines), model.merge(adapter, scales=[0.5]).embed(lines, mode="exact"), atol=1e-5)
        embedder.detach(index)
        np.testing.assert_array_equal(embedder(lines), vectors)
        self.fails("RAMET_E_UNSUPPORTED", "bert", self.model.embed, lines)
        self.fails("RAMET_E_UNSUPPORTED", "bert", model.session)
        self.fails("RAMET_E_ARGUMENT", "48", embedder, [[1] * 49])
        whole = model.tokenizer.encode(lines[2], bos=True)
        cut = ramet.text_rows(model, [lines[2], lines[1], whole], 4)  # a text keeps its [SEP], ids are cut as they are
        self.assertEqual(cut["tokens"].tolist(), [*whole[:3], whole[-1], *model.tokenizer.encode(lines[1], bos=True), *whole[:4]])
        self.assertNotEqual(whole[3], whole[-1])

    def test_names(self):
        self.assertIn("llama", ramet.names("archs"))
        self.assertLessEqual({"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0"}, set(ramet.names("encodings")))
        self.assertLessEqual({"average", "task_arithmetic", "ties", "lift", "distill"}, set(ramet.names("methods")))
        for kind in ("ops", "kernels", "isas"):
            self.assertTrue(all(ramet.names(kind)), kind)
        self.fails("RAMET_E_ARGUMENT", "flavours", ramet.names, "flavours")

    def test_model(self):
        m = self.model
        self.assertEqual(m.architecture, "llama")
        self.assertEqual([m.number(n) for n in ("vocabulary", "layers", "width", "heads", "kv_heads", "head_width", "ffn_width", "context")], [320, 2, 64, 4, 2, 16, 128, 256])
        self.assertRegex(m.digest, "^[0-9a-f]{64}$")
        self.assertEqual(m.describe()["kind"], "model")
        tensors = m.tensors()
        self.assertEqual(tensors["blk.0.ffn_up.weight"], ((128, 64), "F32"))
        self.assertEqual(sum(int(np.prod(shape)) for shape, _ in tensors.values()), m.number("parameters"))
        self.assertEqual(m.tensor("blk.1.attn_k.weight").shape, (32, 64))
        self.fails("RAMET_E_NOT_FOUND", "blk.9", m.tensor, "blk.9.attn_k.weight")
        self.fails("RAMET_E_NOT_FOUND", "colour", m.number, "colour")
        copy = self.folder / "copy.gguf"
        m.save(copy)
        self.assertEqual(ramet.load(copy).digest, m.digest)
        self.assertEqual(ramet.describe(copy)["kind"], "model")

    def test_files_that_are_not_models(self):
        self.fails("RAMET_E_NOT_FOUND", "/no/such.gguf", ramet.load, "/no/such.gguf")
        broken = self.folder / "broken.gguf"
        broken.write_bytes(pathlib.Path(MODEL).read_bytes()[:5000])
        self.fails("RAMET_E_FORMAT", "broken.gguf", ramet.load, broken)
        self.fails("RAMET_E_FORMAT", "stories", ramet.load, self.train)

    def test_tokenizer(self):
        t = self.model.tokenizer
        for text in ("the river is on the hill", "", "naïve 😀\n\t", "a\0b"):
            self.assertEqual(t.decode(t.encode(text)), text)
        self.assertEqual(t.encode("x").dtype, np.int32)
        self.assertEqual(t.encode("<|im_end|>", special=True).tolist(), [2])
        self.assertNotIn(2, t.encode("<|im_end|>"))
        self.assertEqual((t.decode([2]), t.decode([2], special=True)), ("", "<|im_end|>"))
        prompt = t.chat([{"role": "user", "content": "hello"}])
        self.assertIn("<|im_start|>user\nhello<|im_end|>", prompt)
        self.assertTrue(prompt.endswith("<|im_start|>assistant\n"))
        self.assertFalse(t.chat([{"role": "user", "content": "hello"}], open_reply=False).endswith("assistant\n"))
        self.fails("RAMET_E_ARGUMENT", "9999", t.decode, [9999])


class Running(Case):
    def test_logits(self):
        ids = self.model.tokenizer.encode("the river is on the hill")
        logits = self.model(ids, mode="exact")
        self.assertEqual(logits.shape, (len(ids), 320))
        np.testing.assert_allclose(logits[:4], self.model(ids[:4], mode="exact"), atol=1e-5)  # a row depends on those before alone
        for bad in ([[1, 2]],):
            with self.assertRaisesRegex(ValueError, "one-dimensional"):
                self.model(bad)
        self.fails("RAMET_E_ARGUMENT", "5000", self.model, [1, 5000])
        with self.assertRaisesRegex(ValueError, "balanced"):
            self.model(ids, mode="quick")

    def test_a_view_keeps_its_session(self):
        session = self.model.session(max_outputs=4)
        alive, view = weakref.ref(session), session.run([5, 6, 7, 8], want=1)
        kept = view.copy()
        part = view[1:3][:, ::2]
        del session, view
        gc.collect()
        self.assertIsNotNone(alive())
        for _ in range(20):  # memory that was freed would be used again here
            self.model(list(range(3, 60)))
        np.testing.assert_array_equal(part, kept[1:3][:, ::2])
        self.assertFalse(part.flags.owndata or part.flags.writeable)
        del part
        gc.collect()
        self.assertIsNone(alive())

    def test_session(self):
        ids = self.model.tokenizer.encode("before the rain")
        whole = self.model(ids, mode="exact").copy()
        s = self.model.session(mode="exact", max_context=64, max_sequences=2)
        for i, id in enumerate(ids):
            np.testing.assert_allclose(s.run([id])[0], whole[i], atol=1e-4)
        self.assertEqual((s.length(), s.length(1)), (len(ids), 0))
        both = s.run([ids[0], ids[0]], sequence=[0, 1])
        self.assertEqual(both.shape, (2, 320))
        np.testing.assert_allclose(both[1], whole[0], atol=1e-4)
        s.truncate(2)
        self.assertEqual(s.length(), 2)
        np.testing.assert_allclose(s.run(ids[2:3])[0], whole[2], atol=1e-4)
        bytes_of = []
        for cache in (None, "int8"):
            one = self.model.session(cache=cache)
            np.testing.assert_allclose(one.run(ids)[0], whole[-1], atol=0.1)
            bytes_of.append(one.describe()["cache_bytes"])
        self.assertLess(bytes_of[1], 0.65 * bytes_of[0])
        self.assertRaises(ValueError, self.model.session, cache="int4")
        s.fork(1, keep=2)
        self.assertEqual((s.length(), s.length(1)), (3, 2))
        np.testing.assert_array_equal(s.run(ids[2:3], sequence=[1]), self.model.session(mode="exact").run(ids[:3]))
        self.fails("RAMET_E_ARGUMENT", "holds 3", s.fork, 1, keep=4)
        other, path = self.model.session(mode="exact"), self.folder / "saved.seq"
        other.load(s.pack(), 3)
        np.testing.assert_array_equal(other.tokens(3), s.tokens())
        other.save(path, 3)
        next = s.run([7]).copy()
        s.load(path, 1)
        np.testing.assert_array_equal(s.run([7], sequence=[1]), next)
        self.fails("RAMET_E_INCONSISTENT", "another mode", self.model.session().load, path)
        self.fails("RAMET_E_FORMAT", "<memory>", s.load, b"nothing of the kind")
        self.assertEqual(s.run([5, 6], want=[0, 0]).shape, (0, 320))
        self.fails("RAMET_E_LIMIT", "", s.run, [5] * 64)
        with self.assertRaisesRegex(TypeError, "max_context"):
            self.model.session(max_contxt=3)

    def test_batcher(self):
        texts = ["the river", "before the rain", "the river and the rain", "a"] * 3
        prompts = [self.model.tokenizer.encode(t) for t in texts]
        batcher = ramet.Batcher(self.model.session(mode="exact", max_context=64, max_sequences=4), chunk=3)
        numbers = [batcher.submit(p, max_tokens=5 + i, temperature=float(i % 2), seed=i) for i, p in enumerate(prompts[:-1])]
        batcher.cancel(numbers.pop(4))
        got = {n: [] for n in numbers}
        for event in batcher:
            if len(numbers) == len(prompts) - 2:
                numbers.append(batcher.submit(prompts[-1], max_tokens=3))
                got[numbers[-1]] = []
            got[event.request].append(event)
        for n in numbers:
            i, alone = n - 1, []
            self.model.session(mode="exact", max_context=64).generate(prompts[i], lambda id, text: alone.append((id, text)) and None, max_tokens=3 if n == numbers[-1] else 5 + i,
                                                                        temperature=float(i % 2) if n != numbers[-1] else 0.0, seed=i)
            self.assertEqual([(e.id, e.text) for e in got[n][:-1]], alone)
            self.assertIn(got[n][-1].kind, ("end", "length"))
        self.assertEqual((batcher.left, batcher.step(), batcher.describe()["running"]), (0, [], 0))
        self.fails("RAMET_E_NOT_FOUND", "is done", batcher.cancel, numbers[0])
        self.fails("RAMET_E_ARGUMENT", "empty", batcher.submit, [])

    def test_generate(self):
        text = self.model.generate("the river", max_tokens=12)
        self.assertEqual("".join(self.model.generate("the river", max_tokens=12, stream=True)), text)
        drawn = dict(max_tokens=12, temperature=1.0, top_k=50, top_p=0.9, min_p=0.01)
        one, again, other = (self.model.generate("the river", seed=s, **drawn) for s in (1, 1, 2))
        self.assertEqual(one, again)
        self.assertNotEqual(one, other)
        for more in ({}, dict(seed=3, **drawn)):
            more.update(mode="exact", max_tokens=40)
            self.assertEqual(self.model.generate("the river the river", draft=12, **more), self.model.generate("the river the river", **more))
            self.assertEqual(self.model.generate("the river", draft_model=self.model, draft_vocabulary=200, **more), self.model.generate("the river", **more))
        self.assertTrue(self.model.generate("the river", max_tokens=12, cache="int8"))
        self.assertRaises(ValueError, self.model.generate, "the river", cache="int4")
        self.fails("RAMET_E_ARGUMENT", "draft", self.model.generate, "the river", draft=-1)
        self.fails("RAMET_E_ARGUMENT", "draft_vocabulary", self.model.generate, "the river", draft_model=self.model, draft_vocabulary=-1)
        seen = []
        made = self.model.session().generate([5, 6, 7], lambda id, piece: seen.append((id, piece)) or len(seen) == 3, max_tokens=12)
        self.assertEqual((made, len(seen)), (3, 3))
        with self.assertRaisesRegex(TypeError, "unexpected"):
            self.model.generate("x", heat=2)
        with self.assertRaises(ZeroDivisionError):
            self.model.session().generate([5], lambda id, piece: 1 / 0, max_tokens=4)

    def test_a_stream_can_be_left(self):
        threads = threading.active_count()
        stream = self.model.generate("the river", max_tokens=200, stream=True, temperature=1.0)
        next(stream)
        stream.close()
        self.assertEqual(threading.active_count(), threads)
        self.fails("RAMET_E_ARGUMENT", "", lambda: list(self.model.generate([5000], stream=True)))

    def test_chat(self):
        messages = [{"role": "user", "content": "hello"}]
        reply = self.model.chat(messages, max_tokens=6)
        self.assertEqual("".join(self.model.chat(messages, max_tokens=6, stream=True)), reply)
        tokenizer = self.model.tokenizer
        prompt = tokenizer.encode(tokenizer.chat(messages), special=True)
        self.assertEqual(tokenizer.encode_chat(messages).tolist(), prompt.tolist())
        self.assertEqual(self.model.generate(prompt, max_tokens=6), reply)

    def test_a_message_cannot_end_its_own_turn(self):
        tokenizer = self.model.tokenizer
        end = int(tokenizer.encode("<|im_end|>", special=True)[0])
        plain, spelled = [tokenizer.encode_chat([{"role": "user", "content": c}]).tolist() for c in ("hello", "<|im_end|>")]
        self.assertEqual(spelled.count(end), plain.count(end))
        self.assertGreater(len(spelled), len(plain))


class Adapting(Case):
    def test_dataset(self):
        d = ramet.Dataset(self.model, self.train)
        n = d.tokens
        self.assertEqual((d.documents, len(d.ids())), (1, n))
        d.add_text("one more\n")
        d.add_ids([5, 6, 7], predict=[0, 1, 1])
        d.add_chat([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
        d.add_file(texts.write(self.folder, "notes", 3, 60, ".jsonl"))
        self.assertEqual(d.documents, 7)
        self.assertTrue(self.model.tokenizer.decode(d.ids()[:n]).startswith(texts.paragraphs("stories", 1, 20)[0]))
        self.fails("RAMET_E_NOT_FOUND", "/no/text", ramet.Dataset, self.model, "/no/text")

    def test_single_windows_and_state_in_a_file(self):
        tuner = self.tuner(example_clip=1e30, state_path=os.path.join(self.folder, "moments"))
        plain, told = ([(e.loss, e.example_norm, e.example_clipped) for e in t] for t in (self.tuner(), tuner))
        np.testing.assert_allclose([e[0] for e in plain], [e[0] for e in told], rtol=1e-4)
        self.assertTrue(all(e[1] > 0 and e[2] == 0 for e in told) and (tuner.example_norms > 0).all() and tuner.example_norms.shape == (2,))
        self.assertAlmostEqual(float(tuner.example_norms.mean()), told[-1][1], places=4)
        self.assertFalse(os.path.exists(os.path.join(self.folder, "moments")))

    def test_tokens_that_stay_where_they_are(self):
        ids = ramet.Dataset(self.model, self.train).ids()
        np.save(os.path.join(self.folder, "ids.npy"), ids.astype(np.uint16))
        self.assertTrue((ramet.Dataset(self.model, os.path.join(self.folder, "ids.npy")).ids() == ids).all())
        losses = [[e.loss for e in ramet.Tuner(self.model, data, steps=2, window=64, batch=2, rank=4)]
                  for data in (ramet.Dataset.stream(self.model, np.load(os.path.join(self.folder, "ids.npy"), mmap_mode="r")),
                               ramet.Dataset.stream(self.model, len(ids), lambda start, count: (ids[start : start + count], 1), name="again"))]
        self.assertEqual(losses[0], losses[1])
        with self.assertRaises(ZeroDivisionError):
            list(ramet.Tuner(self.model, ramet.Dataset.stream(self.model, 100, lambda start, count: 1 // 0), window=64))
        with self.assertRaises(ValueError):
            ramet.Dataset.stream(self.model, np.ones((2, 2)))

    def test_preferences(self):
        pairs = ramet.Dataset(self.model)
        for word in ("one", "two", "three"):
            pairs.add_pair(f"Say {word}: ", word + ".", "no " + word)
        events = list(ramet.Tuner(self.model, pairs, steps=8, window=64, batch=3, learning_rate=1e-2, rank=4, preference_beta=0.3))
        self.assertAlmostEqual(events[0].loss, np.log(2), delta=1e-3)
        self.assertTrue(events[-1].loss < 0.5 and events[-1].accuracy == 1)

    def test_dora(self):
        adapter = self.adapter(dora=1)
        adapter.save(self.folder / "dora")
        again = self.model.adapter(self.folder / "dora")
        self.assertTrue(again.dora and not self.adapter().dora)
        self.assertEqual(self.model.generate("a", adapter=adapter, max_tokens=8, mode="exact"), self.model.merge(again).generate("a", max_tokens=8, mode="exact"))

    def test_tuner(self):
        before = self.model.evaluate(self.held_out, window=64)
        tuner = self.tuner(steps=10)
        events = list(tuner)
        self.assertEqual([e.step for e in events], list(range(1, 11)))
        self.assertTrue(tuner.done and events[-1].steps == 10 and events[-1].tokens > events[0].tokens > 0)
        self.assertLess(events[-1].loss, events[0].loss - 0.5)
        adapter = tuner.adapter()
        self.assertEqual(adapter.rank, 4)
        after = self.model.evaluate(self.held_out, window=64, adapter=adapter)
        self.assertLess(after.loss, before.loss - 0.5)
        self.assertEqual(len(after.losses), after.tokens)
        self.assertAlmostEqual(float(after.losses.mean()), after.loss, places=4)
        self.assertAlmostEqual(np.exp(after.loss), after.perplexity, places=2)
        every = self.model.evaluate(self.held_out, window=64, score="all", max_tokens=500)
        self.assertGreaterEqual(every.tokens, 500)
        for name, options in (("half", {"score": "most"}), ("exact", {"mode": "quick"})):
            with self.assertRaisesRegex(ValueError, name):
                self.model.evaluate(self.held_out, **options)
        with self.assertRaisesRegex(TypeError, "learning_rate"):
            self.tuner(learning_rat=1)
        with self.assertRaisesRegex(ValueError, "linear, wsd"):
            self.tuner(schedule="sometimes")
        with self.assertRaisesRegex(ValueError, "stop or skip"):
            self.tuner(on_nonfinite="go")
        last = list(self.tuner(steps=5, evaluation=self.held_out, evaluate_every=2, patience=4, on_nonfinite="skip", spike_factor=50.0))[-1]
        self.assertTrue(last.evaluations == 3 and 0 < last.best_loss <= last.evaluation_loss and last.skipped == 0)
        counts = []
        for event in self.tuner(steps=2, all_reduce=lambda values: counts.append(values.size)):  # one worker: the sum is what is there
            self.assertTrue(event.loss > 0)
        self.assertTrue(len(counts) == 2 and counts[0] == counts[1] > 1000)
        with self.assertRaisesRegex(ZeroDivisionError, "zero"):
            self.tuner(steps=2, all_reduce=lambda values: 1 // 0).step()
        whole = self.tuner(steps=2)
        tight = self.tuner(steps=2, byte_budget=whole.step(0).bytes - 1)
        self.assertTrue(tight.step(0).recomputed > whole.step(0).recomputed and "computed again" in tight.describe())
        self.assertEqual([e.loss for e in whole], [e.loss for e in tight])
        self.fails("RAMET_E_BUDGET", "at least", self.tuner, byte_budget="64K")
        rates = [e.learning_rate for e in self.tuner(steps=5, schedule="linear", warmup=0, optimizer="nesterov")]
        self.assertAlmostEqual(rates[4] / rates[0], 0.1, places=6)
        self.fails("RAMET_E_ARGUMENT", "no_proj", self.tuner, targets=["q_proj", "no_proj"])
        self.assertLess(self.adapter(targets=["q_proj"]).parameters, adapter.parameters)

    def test_a_checkpoint_resumes_byte_for_byte(self):
        path, ends = self.folder / "t.ckpt", []
        straight = self.tuner(steps=6)
        straight.step(max_steps=6)
        first = self.tuner(steps=6)
        for event in first:
            if event.step == 3:
                first.save(path)
                break
        second = self.tuner(steps=6)
        second.resume(path)
        self.assertEqual([e.step for e in second], [4, 5, 6])
        for i, tuner in enumerate((straight, second)):
            out = self.folder / f"end{i}.gguf"
            tuner.adapter().save(out)
            ends.append(out.read_bytes())
        self.assertEqual(*ends)
        self.assertEqual(ramet.describe(path)["kind"], "checkpoint")
        self.fails("RAMET_E_INCONSISTENT", "rank", self.tuner(steps=6, rank=8).resume, path)

    def test_deadline(self):
        tuner = self.tuner(steps=100000)
        start = time.monotonic()
        event = tuner.step(max_steps=100000, deadline=0.2)
        self.assertLess(time.monotonic() - start, 5)
        self.assertLess(event.step, 100000)
        self.assertFalse(tuner.done)

    def test_full_tuning_and_a_teacher(self):
        tuner = self.tuner(full=1, learning_rate=3e-3)
        tuner.step(max_steps=4)
        tuned = tuner.result("Q8_0")
        self.assertLess(tuned.evaluate(self.held_out, window=64).loss, self.model.evaluate(self.held_out, window=64).loss)
        self.assertEqual(tuned.tensors()["blk.0.ffn_up.weight"][1], "Q8_0")
        self.fails("RAMET_E_STATE", "", tuner.adapter)
        student = self.model.prune(pathlib.Path(self.own).read_text(), ffn=64, window=64)
        losses = [e.loss for e in self.tuner(student, teacher=self.model, steps=30, learning_rate=3e-3)]
        self.assertLess(sum(losses[-3:]), 0.9 * sum(losses[:3]))

    def test_adapters(self):
        adapter = self.adapter()
        ids = self.model.tokenizer.encode("the nurse finds")
        bare = self.model(ids, mode="exact").copy()
        merged = self.model.merge(adapter)
        changed = merged(ids, mode="exact").copy()
        self.assertGreater(np.abs(changed - bare).max(), 1e-2)
        session = self.model.session(mode="exact", max_outputs=len(ids))
        index = session.attach(adapter)
        session.use(index)
        np.testing.assert_allclose(session.run(ids, want=1), changed, atol=1e-3)
        session.truncate()
        session.use(-1)
        np.testing.assert_allclose(session.run(ids, want=1), bare, atol=1e-4)
        session.detach(index)
        for name in ("a.gguf", "peft"):
            adapter.save(self.folder / name)
            back = self.model.adapter(self.folder / name)
            self.assertEqual((back.rank, back.parameters), (adapter.rank, adapter.parameters))
            np.testing.assert_allclose(self.model.merge(back)(ids, mode="exact"), changed, atol=1e-4)
        again = self.tuner(initial=back, learning_rate=1e-9, steps=1)  # 0 would be the default's rate
        again.step()
        np.testing.assert_allclose(self.model.merge(again.adapter())(ids, mode="exact"), changed, atol=1e-4)
        half = self.model.merge(adapter, adapter, scales=[0.5, 0.5], encoding="F32")
        np.testing.assert_allclose(half(ids, mode="exact"), changed, atol=1e-3)
        self.assertEqual(self.model.generate(ids, max_tokens=5, adapter=adapter), merged.generate(ids, max_tokens=5))
        self.fails("RAMET_E_NOT_FOUND", "/no/lora", self.model.adapter, "/no/lora")

    def test_parts_outlive_what_they_came_from(self):
        model = ramet.load(MODEL)
        tuner = self.tuner(model)
        session = model.session()
        del model
        gc.collect()
        tuner.step()
        adapter = tuner.adapter()
        session.attach(adapter)
        del tuner, adapter
        gc.collect()
        session.use(0)
        self.assertTrue(np.isfinite(session.run([5, 6])).all())


class Interrupting(Case):
    def interrupt_after(self, seconds):
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        self.addCleanup(timer.cancel)
        return time.monotonic()

    def test_ctrl_c_during_tuning(self):
        reference = self.tuner(steps=3)
        reference.step(max_steps=3)
        reference.adapter().save(self.folder / "reference.gguf")
        for _ in range(3):
            tuner = self.tuner(steps=100000, window=128, batch=8)
            start = self.interrupt_after(0.2)
            with self.assertRaises(KeyboardInterrupt):
                tuner.step(max_steps=100000)
            self.assertLess(time.monotonic() - start, 3)
            self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)
            event = tuner.step(max_steps=1)  # goes on from where it was
            self.assertGreaterEqual(event.step, 1)
            tuner.save(self.folder / "interrupted.ckpt")
            self.tuner(steps=100000, window=128, batch=8).resume(self.folder / "interrupted.ckpt")
        again = self.tuner(steps=3)
        again.step(max_steps=3)
        again.adapter().save(self.folder / "again.gguf")
        self.assertEqual((self.folder / "again.gguf").read_bytes(), (self.folder / "reference.gguf").read_bytes())

    def test_an_interrupted_tuner_ends_as_one_that_was_not(self):
        options = dict(steps=12, window=128, batch=8)
        straight, cut, hits = self.tuner(**options), self.tuner(**options), 0
        straight.step(max_steps=12)
        while not cut.done:
            self.interrupt_after(0.05 * (1 + hits))  # longer each time, so that a slow machine gets on too
            end = time.monotonic() + 5  # a signal that falls into a destructor is lost: Python only prints it
            try:
                while time.monotonic() < end:
                    cut.step(max_steps=12)
            except KeyboardInterrupt:
                hits += 1
        self.assertGreater(hits, 0)
        for name, tuner in (("straight", straight), ("cut", cut)):
            tuner.adapter().save(self.folder / f"{name}.gguf")
        self.assertEqual((self.folder / "straight.gguf").read_bytes(), (self.folder / "cut.gguf").read_bytes())

    def test_ctrl_c_during_generation(self):
        hits = 0
        for _ in range(5):  # a signal that falls into a destructor is lost
            self.interrupt_after(0.05)
            end = time.monotonic() + 0.5
            try:
                while time.monotonic() < end:
                    self.model.generate("the river", max_tokens=200, temperature=1.0, seed=hits)
            except KeyboardInterrupt:
                hits += 1
        self.assertGreater(hits, 0)
        self.assertTrue(self.model.generate("the river", max_tokens=3))

    def test_a_handler_of_the_program(self):
        calls = []
        old = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
        self.addCleanup(signal.signal, signal.SIGINT, old)
        tuner = self.tuner(steps=100000)
        self.interrupt_after(0.1)
        tuner.step(max_steps=100000, deadline=0.4)  # it does not raise, so the work goes on
        self.assertEqual(calls, [signal.SIGINT])

    def test_progress(self):
        seen = []
        self.tuner().step(max_steps=2, progress=lambda fraction, what: seen.append((fraction, what)))
        self.assertTrue(seen and all(-1 <= f <= 1 and what for f, what in seen))
        self.fails("RAMET_E_CANCELLED", "", self.tuner().step, progress=lambda *_: True)
        with self.assertRaises(ZeroDivisionError):
            self.model.prune(list(range(3, 300)), keep=0.8, window=64, progress=lambda *_: 1 / 0)


class Shrinking(Case):
    def test_quantize(self):
        loss = self.model.evaluate(self.held_out, window=64).loss
        for encoding in ("Q8_0", "Q5_0", "Q4_1", "Q4_0", "BF16", "F16"):
            q = self.model.quantize(encoding)
            self.assertEqual(q.tensors()["blk.0.ffn_up.weight"][1], encoding)
            self.assertLess(q.number("bytes"), self.model.number("bytes"))
            self.assertAlmostEqual(q.evaluate(self.held_out, window=64).loss, loss, delta=0.3)
        self.fails("RAMET_E_ARGUMENT", "Q3_X", self.model.quantize, "Q3_X")

    def test_prune_rebase_lift(self):
        variant = self.model.prune(pathlib.Path(self.own).read_text(), ffn=32, window=64)
        self.assertEqual(variant.number("ffn_width"), 96)
        shorter = self.model.prune(ramet.Dataset(self.model, self.own).ids(), layers=1, ffn=0, window=64)
        self.assertEqual((shorter.number("layers"), shorter.number("ffn_width")), (1, 128))
        self.assertLess(self.model.prune([5, 6, 7] * 100, keep=0.7).number("parameters"), self.model.number("parameters"))
        adapter = self.adapter(variant)
        lifted = adapter.lift(variant, self.model)
        parent = self.model.merge(lifted)
        self.assertLess(parent.evaluate(self.held_out, window=64).loss, self.model.evaluate(self.held_out, window=64).loss)
        rebased = variant.rebase(parent)
        fitted = variant.rebase(parent, list(range(200)), window=64)
        self.assertNotEqual(fitted.digest, rebased.digest)
        self.assertEqual(rebased.number("ffn_width"), 96)
        self.assertNotEqual(rebased.digest, variant.digest)
        np.testing.assert_allclose(rebased.tensor("token_embd.weight"), parent.tensor("token_embd.weight"))
        self.assertEqual(self.model.prune(pathlib.Path(self.own).read_text(), ffn=32, window=64).digest, variant.digest)


class FeedingBack(Case):
    def test_loop(self):
        here = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        store = ramet.Store.init(here / "store", self.model)
        self.assertEqual((store.version, store.head.digest), (1, self.model.digest))
        self.fails("RAMET_E_STATE", "store", ramet.Store.init, here / "store", self.model)
        self.fails("RAMET_E_STATE", "1", store.undo)
        brief = store.brief(here / "brief.st", probe=[self.own], probe_windows=4, probe_window=64, topics=["stories"], topic_windows=2)
        told = ramet.describe(brief.path)
        self.assertEqual((told["kind"], told["metadata"]["ramet.topics"]), ("brief", "stories"))
        variants = {"lift": self.model.prune(pathlib.Path(self.own).read_text(), ffn=32, window=64), "ties": self.model.quantize("Q8_0")}
        for method, variant in variants.items():
            tuner = self.tuner(variant, steps=20)
            tuner.step(max_steps=20)
            sent = variant.update(brief.path, tuner.adapter(), here / method, what=("delta", "logits"), task="stories", examples=1000, loss_before=6.0, loss_after=5.0)
            self.assertEqual((sent["kind"], sent["leaves_the_device"]["raw_text"]), ("update", 0))
            self.assertGreater(sent["leaves_the_device"]["soft_labels"], 0)
        with self.assertRaises(KeyError):
            variant.update(brief.path, tuner.adapter(), here / "x", what=("text",), examples=1)
        self.fails("RAMET_E_ARGUMENT", "examples", variant.update, brief.path, tuner.adapter(), here / "x", examples=0)

        candidate = store.absorb([here / "ties"], "ties", weights=[1.0], density=0.5)
        self.assertEqual(candidate.describe()["method"], "ties")
        self.fails("RAMET_E_REFUSED", "gate", store.commit, candidate)
        lift = store.absorb([here / "lift"], "lift", encoding="F32", scale=1.0)
        self.assertNotEqual(lift.model.digest, self.model.digest)
        verdict = store.gate(lift, {"stories": self.held_out}, guards={"own": self.own}, window=64, max_worse=0.5)
        self.assertTrue(verdict["passed"], verdict)
        self.assertEqual([t["task"] for t in verdict["tasks"]], ["stories", "own"])
        self.assertEqual([t["guard"] for t in verdict["tasks"]], [False, True])
        lift.save(here / "lift.gguf")
        self.assertEqual(store.load_candidate(here / "lift.gguf").model.digest, lift.model.digest)
        self.assertEqual(store.load_candidate().model.digest, lift.model.digest)
        self.assertEqual(store.commit(store.load_candidate()), 2)
        self.assertEqual(store.head.digest, lift.model.digest)
        self.fails("RAMET_E_REFUSED", "HEAD", store.gate, candidate, {"stories": self.held_out}, window=64)
        self.fails("RAMET_E_REFUSED", "", store.absorb, [here / "lift"], "lift")  # an update counts once

        again = ramet.Store(here / "store")
        self.assertEqual((again.version, again.undo(), again.version), (2, 1, 1))
        self.assertEqual(again.head.digest, self.model.digest)
        events = [row["event"] for row in again.log()]
        self.assertEqual([e for e in events if e in ("commit", "undo", "refuse")], ["commit", "refuse", "undo"], events)
        self.fails("RAMET_E_NOT_FOUND", "nowhere", ramet.Store, here / "nowhere")
        self.fails("RAMET_E_NOT_FOUND", "magic", store.absorb, [here / "ties"], "magic")
        self.fails("RAMET_E_ARGUMENT", "density", store.absorb, [here / "ties"], "ties", densty=1.0)


class Nets(Case):
    def regression(self, mode="exact"):
        rng = np.random.default_rng(0)
        v, g = ramet.Variables(), ramet.Graph(32)
        net, x, y = ramet.Layers(g, v), g.input("x", 3), g.input("y", 2)
        out = net.linear(x, "out", 2)
        loss = out.apply("mse", y)
        g.output("y", out)
        g.output("loss", loss)
        g.train(v, loss)
        p = ramet.Program(g, mode)
        for _ in range(500):
            x = rng.normal(size=(32, 3)).astype(np.float32)
            found = p.run(x=x, y=x @ [[1, 2], [3, 4], [5, 6]] + [7, 8])
            self.assertGreater(v.step(learning_rate=0.1), 0)
        return v, p, found

    def test_regression(self):
        v, p, found = self.regression()
        self.assertLess(found["loss"].item(), 1e-6)
        np.testing.assert_allclose(v["out.weight"], [[1, 3, 5], [2, 4, 6]], atol=1e-2)
        self.assertEqual(found["y"].shape, (32, 2))
        self.assertIn("linear", p.describe())
        path = self.folder / "net.safetensors"
        v.save(path)
        again = ramet.Variables(path)
        self.assertEqual(list(again), ["out.weight", "out.bias"])
        np.testing.assert_array_equal(again["out.bias"], v["out.bias"])

    def test_arithmetic_and_second_order(self):
        v, g = ramet.Variables(), ramet.Graph(1)
        v.add("x", 3)
        v["x"] = [1, 2, -3]
        x = g.variable(v, "x")
        y = ((2 - x) * x / 4 + (x - 1.0) / x.apply("exp") - -x).sum()
        first, = g.gradient(y, [x])
        second, none = g.gradient(first.sum(), [x, g.constant(5)])
        self.assertIsNone(none)
        for name, value in (("y", y), ("first", first), ("second", second)):
            g.output(name, value)
        found, t = ramet.Program(g).run(), np.array([1, 2, -3.0])
        np.testing.assert_allclose(found["y"].item(), ((2 - t) * t / 4 + (t - 1) * np.exp(-t) + t).sum(), rtol=1e-6)
        np.testing.assert_allclose(found["first"][0], (2 - 2 * t) / 4 + (2 - t) * np.exp(-t) + 1, rtol=1e-6)
        np.testing.assert_allclose(found["second"][0], -0.5 + (t - 3) * np.exp(-t), rtol=1e-6)

    def test_stored_statistics(self):
        v, found = ramet.Variables(), []
        x = np.random.default_rng(1).normal(3, 2, (16, 8)).astype(np.float32)
        for training in (True, False):
            g = ramet.Graph(16)
            g.output("y", ramet.Layers(g, v).batch_norm(g.input("x", 8), "norm", 4, training, momentum=1.0))
            found.append(ramet.Program(g).run(x=x)["y"])
        np.testing.assert_allclose(v["norm.mean"], x.reshape(-1, 4).mean(0), rtol=1e-5)
        np.testing.assert_allclose(found[0], found[1], atol=1e-5)

    def test_wrong_use(self):
        v, p, _ = self.regression()
        g = ramet.Graph(4)
        x = g.input("x", 6)
        self.fails("RAMET_E_NOT_FOUND", "conv9d", x.apply, "conv9d")
        self.fails("RAMET_E_ARGUMENT", "must be given", x.apply, "conv2d", x, height=2)
        self.assertRaises(ValueError, v.add, "w", (1, 2, 3))
        self.assertRaises(TypeError, p.run, z=1)
        self.assertRaises(ValueError, p.run, x=np.zeros(4))
        self.assertRaises(ValueError, p.run, x=np.zeros((4, 3)), y=np.zeros((5, 2)))
        self.fails("RAMET_E_ARGUMENT", "missing", p.run, x=np.zeros((4, 3)))
        self.assertIn("conv2d", ramet.names("graph"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
