# SPDX-License-Identifier: Apache-2.0
"""Texts and their labels: a linear layer on the mean of a model's rows, the model frozen, with low-rank pairs, or trained whole (ramet/graph.h; not yet promised).

    c = ramet.Classifier.train(ramet.load("minilm.gguf"), texts, labels, rank=8)
    print(c.predict(["is it raining?"]), c.accuracy(test_texts, test_labels))
    c.save("weather.safetensors")
    c = ramet.Classifier(model, "weather.safetensors")
"""
from __future__ import annotations

from typing import Callable, Iterator, Optional, Sequence

import numpy as np
import numpy.typing as npt

from ._graph import Graph, Layers, Program, Value, Variables, text_rows
from ._model import Model, Path

HEAD, LABEL = "classifier", "classifier.label."
BATCH = 16


class Classifier:
    """A file of save() has everything but the model: labels, layer, pairs or weights."""

    def __init__(self, model: Model, path: Optional[Path] = None) -> None:
        self.model, self.variables = model, Variables(path, runtime=model.runtime) if path is not None else Variables(runtime=model.runtime)
        self.labels: list[str] = []
        if path is None:
            return
        held = set(self.variables)
        if f"{HEAD}.settings" not in held:
            raise ValueError(f"{path} holds no classifier")
        width = self.variables[f"{HEAD}.weight"].shape[1]
        if width != model.number("width"):
            raise ValueError(f"{path} is for a model of width {width}, this one has {model.number('width')}")
        self.labels = [name[len(LABEL):].split(".", 1)[1] for name in sorted((n for n in held if n.startswith(LABEL)), key=lambda n: int(n[len(LABEL):].split(".")[0]))]
        self._plan()

    @classmethod
    def train(cls, model: Model, texts: Sequence[str], labels: Sequence[str], *, rank: int = 0, alpha: float = 16.0, full: bool = False, epochs: Optional[int] = None,
              learning_rate: Optional[float] = None, max_tokens: int = 128, seed: int = 0, progress: Optional[Callable[[int, int, float], None]] = None) -> "Classifier":
        """rank: LoRA pairs on all linear layers; full: every weight; neither: only the layer. progress(step, steps, loss)."""
        if len(texts) != len(labels) or len(set(labels)) < 2:
            raise ValueError(f"{len(texts)} texts with {len(labels)} labels of {len(set(labels))} kinds: as many as texts, of two kinds or more, are needed")
        self = cls(model)
        self.labels = sorted(set(map(str, labels)))
        v = self.variables
        v.add(f"{HEAD}.settings", 3, trainable=False)
        v[f"{HEAD}.settings"] = [-1 if full else rank, alpha, max_tokens]
        for i, label in enumerate(self.labels):
            v.add(f"{LABEL}{i}.{label}", 1, trainable=False)
        y = np.array([self.labels.index(str(label)) for label in labels], np.int32)
        frozen = not rank and not full
        epochs = epochs or (60 if frozen else 4 if full else 8)
        rate = learning_rate or (2e-4 if full else 2e-3)
        g = Graph(BATCH * max_tokens, BATCH, runtime=model.runtime)
        if frozen:
            self._plan()
            rows = np.concatenate([found["mean"] for found in self._batches(texts)])
            x = g.input("x", rows.shape[1], axis="outs")
        else:
            x = self._mean(g)
        loss = self._layer(g, x, seed).apply("cross_entropy", g.input("y", dtype="i32", axis="outs"))
        g.output("loss", loss)
        g.train(v, loss)
        program, order, steps = Program(g, "balanced"), np.random.default_rng(seed), epochs * -(-len(texts) // BATCH)
        for step in range(steps):
            at = step * BATCH % (-(-len(texts) // BATCH) * BATCH)
            shuffled = order.permutation(len(texts)) if at == 0 else shuffled
            pick = shuffled[at:at + BATCH]
            given = {"x": rows[pick]} if frozen else text_rows(model, [texts[i] for i in pick], max_tokens)
            last = program.run(**given, y=y[pick])
            v.step(learning_rate=rate * (1 - step / steps), weight_decay=0.01, clip=1.0)
            if progress:
                progress(step + 1, steps, float(last["loss"].item()))
        self._plan()
        return self

    def _mean(self, g: Graph) -> Value:
        rank, alpha, _ = (float(x) for x in self.variables[f"{HEAD}.settings"])
        return g.model(self.model, self.variables, **({"full": True} if rank < 0 else {"rank": int(rank), "alpha": alpha} if rank else {})).apply("segment_mean", g.input("seq", dtype="i32"))

    def _layer(self, g: Graph, x: Value, seed: int = 0) -> Value:
        return Layers(g, self.variables, seed).linear(x, HEAD, len(self.labels), "glorot")

    def _plan(self) -> None:
        self._tokens = int(self.variables[f"{HEAD}.settings"][2])
        g = Graph(BATCH * self._tokens, BATCH, runtime=self.model.runtime)
        mean = self._mean(g)
        g.output("mean", mean)
        if f"{HEAD}.weight" in set(self.variables):
            g.output("p", self._layer(g, mean).apply("softmax"))
        self._program = Program(g, "balanced")

    def _batches(self, texts: Sequence[str]) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
        for at in range(0, len(texts), BATCH):
            part = texts[at:at + BATCH]
            yield self._program.run(len(part), **text_rows(self.model, part, self._tokens))

    def probabilities(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """[texts, labels], in the order of .labels"""
        return np.concatenate([found["p"] for found in self._batches(texts)])

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [self.labels[i] for i in self.probabilities(texts).argmax(1)]

    def accuracy(self, texts: Sequence[str], labels: Sequence[str]) -> float:
        return float(np.mean([a == str(b) for a, b in zip(self.predict(texts), labels)]))

    def save(self, path: Path) -> None:
        self.variables.save(path)
