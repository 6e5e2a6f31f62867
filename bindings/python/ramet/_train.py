# SPDX-License-Identifier: Apache-2.0
"""Data, tuner, evaluation."""
from __future__ import annotations

import ctypes as C
import os
from typing import Any, Callable, Iterator, Literal, NamedTuple, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from . import _library as L
from ._library import check, lib, make
from ._model import Adapter, Model, Path, ProgressFn, _path, as_ids, mode_number, names


class Dataset(L.Handle):
    """Tokens with document bounds and a flag per token: predict this one."""

    _free = "ramet_dataset_free"

    def __init__(self, model: Model, *files: Path) -> None:
        super().__init__(make("ramet_dataset_create", model))
        self._raised: Optional[BaseException] = None
        for file in files:
            self.add_file(file)

    @classmethod
    def stream(cls, model: Model, tokens: Any, read: Optional[Callable[[int, int], Any]] = None, *, name: str = "") -> Dataset:
        """Tokens that stay where they are, read window by window: an array of ids (a numpy.memmap too), or how many there are and
        read(start, count), which answers their ids, or ids and flags "predict this"; always the same. name: what checkpoints call the data."""
        self = cls.__new__(cls)
        self._raised = None
        if read is None:
            array = np.asarray(tokens)
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise ValueError(f"tokens must be whole numbers in one dimension, not {array.dtype} of shape {array.shape}")
            tokens, read = array.size, lambda start, count: array[start : start + count]

        def fill(ids: Any, predict: Any, start: int, count: int, _user: Any) -> int:
            try:
                found = read(start, count)
                if isinstance(found, tuple):
                    found, np.ctypeslib.as_array(predict, (count,))[:] = found
                np.ctypeslib.as_array(ids, (count,))[:] = found
                return 0
            except BaseException as error:
                self._raised = error
                return 1

        self._read = L.Tokens(fill)  # as long as the dataset, which its tuners hold
        L.Handle.__init__(self, make("ramet_dataset_create_source", model, int(tokens), name.encode(), self._read, None))
        return self

    def _reraise(self) -> None:
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised

    def add_text(self, text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        check(lib.ramet_dataset_add_text(self, data, len(data)))

    def add_ids(self, ids: Any, predict: Any = None) -> None:
        ids = as_ids(ids)
        flags = None if predict is None else np.ascontiguousarray(np.broadcast_to(predict, ids.shape), dtype=np.uint8)
        check(lib.ramet_dataset_add_ids(self, ids.ctypes.data, None if flags is None else flags.ctypes.data, ids.size))

    def add_chat(self, messages: Sequence[dict[str, str]]) -> None:
        """Only the assistant's turns are predicted."""
        check(lib.ramet_dataset_add_chat(self, len(messages), L.texts([m["role"] for m in messages]), L.texts([m["content"] for m in messages])))

    def add_pair(self, prompt: str, chosen: str, rejected: str) -> None:
        """A preference, for tuning by DPO: the first answer is better."""
        check(lib.ramet_dataset_add_pair(self, prompt.encode(), chosen.encode(), rejected.encode()))

    def add_file(self, path: Path) -> None:
        """.jsonl: a document a line ({"text"}, {"prompt","completion"} or {"messages"}) or preferences ({"prompt","chosen","rejected"}); .u16, .u32, .npy: ids; anything else: one document of text."""
        check(lib.ramet_dataset_add_file(self, _path(path)))

    @property
    def tokens(self) -> int:
        return int(lib.ramet_dataset_tokens(self))

    @property
    def documents(self) -> int:
        return int(lib.ramet_dataset_documents(self))

    def ids(self) -> npt.NDArray[np.int32]:
        out = np.empty(self.tokens, np.int32)
        try:
            check(lib.ramet_dataset_read(out.ctypes.data, self, 0, out.size))
        finally:
            self._reraise()
        return out


def as_dataset(model: Model, data: Union[Dataset, Path]) -> Dataset:
    return data if isinstance(data, Dataset) else Dataset(model, data)


class Event(NamedTuple):
    """One optimizer step."""

    step: int
    steps: int
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    seconds: float
    skipped: int
    evaluations: int
    evaluation_loss: float
    best_loss: float
    best_step: int
    bytes: int
    plan_bytes: int
    recomputed: float
    accuracy: float
    example_norm: float
    example_clipped: float


def schedule_number(name: str) -> int:
    have = list(names("schedules"))
    if name not in have:
        raise ValueError(f"schedule is one of {', '.join(have)}, not {name!r}")
    return have.index(name)


def byte_count(text: str) -> int:
    """"256M" -> 268435456"""
    number, unit = (text[:-1], text[-1]) if text[-1:] in "KMG" and text else (text, "")
    return int(float(number) * 1024 ** (" KMG".index(unit) if unit else 0))


class Tuner(L.Handle):
    """A model being adapted; iterate to advance it.

    options (see ramet/train.h): full, rank, alpha, targets, window, batch, micro_batch, steps, epochs, learning_rate, warmup, schedule (a name),
    weight_decay, clip, seed, teacher_weight, teacher_top, optimizer, rslora, dora, preference_beta, lora_plus, groups, average, average_decay, average_start, on_nonfinite
    ("stop", "skip"), spike_factor, evaluate_every, patience, teacher_divergence (1: reverse), teacher_skew, byte_budget (bytes, or "256M"); all_reduce: a function that sums an array over all workers in place, with
    worker and workers; example_clip: example_norms then has the norms of the last step's windows (1e30: measure only); state_path: a new file for the optimizer's state, that is gone with the tuner (state_keep=1: stays).
    """

    _free = "ramet_tuner_free"

    def __init__(self, model: Model, data: Union[Dataset, Path], *, mode: str = "balanced", teacher: Optional[Model] = None, initial: Optional[Adapter] = None,
                 evaluation: Union[Dataset, Path, None] = None, on_nonfinite: Literal["stop", "skip"] = "stop",
                 all_reduce: Optional[Callable[[npt.NDArray[np.float32]], None]] = None, **options: Any) -> None:
        self.model, self.data = model, as_dataset(model, data)
        if isinstance(options.get("targets"), (list, tuple)):
            options["targets"] = ",".join(options["targets"])
        if isinstance(options.get("schedule"), str):
            options["schedule"] = schedule_number(options["schedule"])
        if isinstance(options.get("byte_budget"), str):
            options["byte_budget"] = byte_count(options["byte_budget"])
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite is stop or skip, not {on_nonfinite!r}")
        if all_reduce is not None:
            def reduce(values: Any, count: int, _user: Any) -> int:
                return self._work.run(lambda: all_reduce(np.ctypeslib.as_array(values, (count,))))

            self._all_reduce = options["all_reduce"] = L.AllReduce(reduce)  # as long as the tuner
        self.example_norms = None
        if options.get("example_clip"):
            batch = options.get("batch", L.options(L.TunerOptions, "ramet_tuner_options_init", {}).batch)
            self.example_norms = np.zeros(max(batch // max(options.get("workers", 1), 1), 1), np.float32)
            options["example_norms"] = self.example_norms.ctypes.data
        self.evaluation = held_out = as_dataset(model, evaluation) if evaluation is not None else None
        o = L.options(L.TunerOptions, "ramet_tuner_options_init",
                      {"on_nonfinite": int(on_nonfinite == "skip"), "evaluation": held_out._pointer.value if held_out else None, "mode": mode_number(mode), "teacher": teacher._pointer.value if teacher else None, "initial": initial._pointer.value if initial else None, **options})
        super().__init__(make("ramet_tuner_create", model, self.data, C.byref(o)))
        self.done = False

    def step(self, max_steps: int = 1, deadline: float = 0.0, progress: Optional[ProgressFn] = None) -> Event:
        """Advance by at most max_steps, stopping when `deadline` seconds have passed (0: none)."""
        r, work = L.TunerReport(C.sizeof(L.TunerReport)), L.Work(progress)
        self._work = work
        try:
            work.call(lib.ramet_tuner_step, C.byref(r), self, max_steps, deadline, work.callback, None)
        finally:
            self.data._reraise()
            if self.evaluation is not None:
                self.evaluation._reraise()
        self.done = bool(r.done)
        return Event(*(getattr(r, field) for field in Event._fields))

    def describe(self) -> str:
        """The operations of a step with their room, and what a byte_budget lets be computed again."""
        return L.take_text(make("ramet_tuner_describe", self))

    def __iter__(self) -> Iterator[Event]:
        while not self.done:
            yield self.step()

    def save(self, path: Path) -> None:
        """A checkpoint: one file, from which a tuner made with the same arguments resumes byte for byte."""
        check(lib.ramet_tuner_save(self, _path(path)))

    def resume(self, path: Path) -> None:
        check(lib.ramet_tuner_resume(self, _path(path)))

    def adapter(self) -> Adapter:
        return Adapter(make("ramet_tuner_adapter", self))

    def result(self, encoding: Optional[str] = None) -> Model:
        """The model after full tuning."""
        return Model(make("ramet_tuner_model", self, encoding.encode() if encoding else None), self.model.runtime)


class Evaluation(NamedTuple):
    tokens: int
    loss: float
    standard_error: float
    perplexity: float
    windows: int
    seconds: float
    losses: npt.NDArray[np.float32]


def evaluate(model: Model, data: Union[Dataset, Path], *, score: str, mode: str, adapter: Optional[Adapter] = None, progress: Optional[ProgressFn] = None, **options: Any) -> Evaluation:
    if score not in ("half", "all"):
        raise ValueError(f"score is half or all, not {score!r}")
    dataset, work = as_dataset(model, data), L.Work(progress)
    losses = np.empty(dataset.tokens, np.float32)
    o = L.options(L.EvaluateOptions, "ramet_evaluate_options_init",
                  {"mode": mode_number(mode), "score": int(score == "all"), "adapter": adapter._pointer.value if adapter else None, "losses": losses.ctypes.data,
                   "losses_capacity": losses.size, "progress": work.callback, **options})
    e = L.Evaluation(C.sizeof(L.Evaluation))
    try:
        work.call(lib.ramet_evaluate, C.byref(e), model, dataset, C.byref(o))
    finally:
        dataset._reraise()
    return Evaluation(e.tokens, e.loss, e.standard_error, e.perplexity, e.windows, e.seconds, losses[: e.tokens])
