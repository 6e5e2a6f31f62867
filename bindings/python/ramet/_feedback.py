# SPDX-License-Identifier: Apache-2.0
"""The way back: store, brief, candidate."""
from __future__ import annotations

import ctypes as C
import json
from typing import Any, Mapping, NamedTuple, Optional, Sequence

from . import _library as L
from ._library import check, lib, make
from ._model import Model, Path, ProgressFn, Runtime, _path, mode_number
from . import _model


class Brief(NamedTuple):
    path: Path


class Candidate(L.Handle):
    """The parent that would result."""

    _free = "ramet_candidate_free"

    def __init__(self, pointer: C.c_void_p, rt: Runtime) -> None:
        super().__init__(pointer)
        self.runtime = rt

    def describe(self) -> dict[str, Any]:
        return L.take_object(make("ramet_candidate_describe", self))

    def save(self, path: Path) -> None:
        check(lib.ramet_candidate_save(self, _path(path)))

    @property
    def model(self) -> Model:
        return Model(make("ramet_candidate_model", self), self.runtime)


class _Task(L.Handle):
    _free = "ramet_task_free"


class Store(L.Handle):
    """A folder of a parent's versions: Store(folder) opens one, Store.init(folder, model) makes one."""

    _free = "ramet_store_free"

    def __init__(self, folder: Path, *, runtime: Optional[Runtime] = None, _pointer: Optional[C.c_void_p] = None) -> None:
        self.runtime = runtime or _model.runtime()
        super().__init__(_pointer or make("ramet_store_open", self.runtime, _path(folder)))

    @classmethod
    def init(cls, folder: Path, model: Model) -> "Store":
        return cls(folder, runtime=model.runtime, _pointer=make("ramet_store_init", model.runtime, _path(folder), model))

    @property
    def version(self) -> int:
        value = L.i64()
        check(lib.ramet_store_head(C.byref(value), None, self))
        return value.value

    @property
    def head(self) -> Model:
        model = L.ptr()
        check(lib.ramet_store_head(None, C.byref(model), self))
        return Model(model, self.runtime)

    def brief(self, path: Path, *, probe: Sequence[Path] = (), topics: Sequence[str] = (), progress: Optional[ProgressFn] = None, **options: Any) -> Brief:
        """Write what goes down to variants. The parent itself writes probe inputs about each topic ("NAME" or "NAME=what to write about"), for variants whose task has its name.
        options: method, probe_windows, probe_window, topic_windows, seed."""
        work, paths, names = L.Work(progress), L.texts([str(p) for p in probe]), L.texts(list(topics))
        o = L.options(L.BriefOptions, "ramet_brief_options_init",
                      {"probe_count": len(probe), "probe_paths": C.cast(paths, C.POINTER(L.text)) if probe else None, "topic_count": len(topics),
                       "topics": C.cast(names, C.POINTER(L.text)) if topics else None, "progress": work.callback, **options})
        work.call(lib.ramet_brief_create, self, _path(path), C.byref(o))
        return Brief(path)

    def absorb(self, updates: Sequence[Path], method: str, *, weights: Optional[Sequence[float]] = None, encoding: Optional[str] = None, progress: Optional[ProgressFn] = None,
               **method_options: float) -> Candidate:
        """Fold updates into a candidate by a method (ramet.names("methods"))."""
        work = L.Work(progress)
        factors = (L.f32 * len(weights))(*weights) if weights else None
        text = ",".join(f"{key}={value!r}" for key, value in method_options.items())
        o = L.options(L.FeedOptions, "ramet_feed_options_init",
                      {"weights": C.cast(factors, C.POINTER(L.f32)) if factors else None, "weights_count": len(weights or ()), "options": text or None, "encoding": encoding, "progress": work.callback})
        paths = (L.text * max(len(updates), 1))(*[_path(u) for u in updates])
        return Candidate(make("ramet_feed", self, method.encode(), paths, len(updates), C.byref(o), work=work), self.runtime)

    def load_candidate(self, path: Optional[Path] = None) -> Candidate:
        """From a file; without one, the candidate that passed its gate last."""
        return Candidate(make("ramet_candidate_load", self, _path(path) if path is not None else None), self.runtime)

    def gate(self, candidate: Candidate, texts: Mapping[str, Path], guards: Optional[Mapping[str, Path]] = None, *, mode: str = "balanced", progress: Optional[ProgressFn] = None,
             **options: Any) -> dict[str, Any]:
        """Measure against HEAD on held-out texts {name: file}; guards only may not get worse. The answer has "passed"."""
        work, passed, report = L.Work(progress), L.i32(), L.ptr()
        rows = [*texts.items(), *(guards or {}).items()]
        tasks = [_Task(make("ramet_task_from_files", self.runtime, name.encode(), (L.text * 1)(_path(file)), 1)) for name, file in rows]
        handles = (L.ptr * max(len(tasks), 1))(*[t._pointer.value for t in tasks])
        o = L.options(L.GateOptions, "ramet_gate_options_init", {"mode": mode_number(mode), "guards": len(guards or {}), "progress": work.callback, **options})
        work.call(lib.ramet_gate, C.byref(passed), C.byref(report), self, candidate, handles, len(tasks), C.byref(o))
        return L.take_object(report)

    def commit(self, candidate: Candidate) -> int:
        """Make a candidate that passed its gate the new HEAD; returns its version."""
        version = L.i64()
        check(lib.ramet_commit(C.byref(version), self, candidate))
        return version.value

    def undo(self) -> int:
        version = L.i64()
        check(lib.ramet_store_undo(C.byref(version), self))
        return version.value

    def log(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(L.take_text(make("ramet_store_log", self)))
        return found
