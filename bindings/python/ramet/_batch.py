# SPDX-License-Identifier: Apache-2.0
"""Many requests at once over one session."""
from __future__ import annotations

import ctypes as C
from typing import Any, Iterator, NamedTuple, Optional

from . import _library as L
from ._library import check, lib, make
from ._model import ProgressFn, Session, as_ids

KINDS = ("token", "end", "length", "failed")


class BatchEvent(NamedTuple):
    """kind: "token" (one more: its id, and the bytes of text that are now complete), or why the request is done: "end" (by the model), "length"
    (max_tokens or a full context), "failed" (text says why)."""

    request: int
    kind: str
    id: int
    text: bytes


class Batcher(L.Handle):
    """Requests join and leave while others decode. The session's sequences are the batcher's while it lives.

        batcher = ramet.Batcher(model.session(max_sequences=16, max_outputs=16))
        batcher.submit(ids, max_tokens=200)
        for event in batcher:
            print(event.request, event.kind, event.text)
    """

    _free = "ramet_batcher_free"

    def __init__(self, session: Session, **options: Any) -> None:
        """chunk: most prompt tokens of a step in which others decode (64); cache_bytes: most bytes of keys and values (0: no limit)."""
        o = L.options(L.BatcherOptions, "ramet_batcher_options_init", options)
        super().__init__(make("ramet_batcher_create", session, C.byref(o)))
        self.session = session
        self.left = 0

    def submit(self, ids: Any, *, max_tokens: int = 128, adapter: int = -1, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, seed: int = 0) -> int:
        """Queue a prompt of ids; the answer names it in events. adapter: what session.attach() gave."""
        ids, number = as_ids(ids), L.i64()
        sampling = L.options(L.Sampling, "ramet_sampling_init", {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed})
        request = L.options(L.Request, "ramet_request_init", {"adapter": adapter, "ids": ids.ctypes.data, "count": ids.size, "max_tokens": max_tokens,
                                                                    "sampling": C.addressof(sampling)})
        check(lib.ramet_batcher_submit(C.byref(number), self, C.byref(request)))
        self.left += 1
        return number.value

    def cancel(self, request: int) -> None:
        check(lib.ramet_batcher_cancel(self, request))
        self.left -= 1

    def step(self, *, progress: Optional[ProgressFn] = None) -> list[BatchEvent]:
        """One run, and what it gave."""
        events: list[BatchEvent] = []
        left, work = L.i64(), L.Work(progress)

        def heard(number: int, event: int, id: int, data: int, length: int, _user: Any) -> int:
            events.append(BatchEvent(number, KINDS[event], id, C.string_at(data, length) if length else b""))
            return 0

        work.call(lib.ramet_batcher_step, C.byref(left), self, L.Heard(heard), work.callback, None)
        self.left = left.value
        return events

    def __iter__(self) -> Iterator[BatchEvent]:
        """Events until no request is left; more may be submitted meanwhile."""
        while self.left:
            yield from self.step()

    def describe(self) -> dict[str, Any]:
        return L.take_object(make("ramet_batcher_describe", self))
