# SPDX-License-Identifier: Apache-2.0
"""Runtime, model, tokenizer, adapter, session."""
from __future__ import annotations

import codecs
import ctypes as C
import json
import os
import queue
import threading
from typing import TYPE_CHECKING, Any, Callable, Iterator, Literal, Optional, Sequence, Union, overload

import numpy as np
import numpy.typing as npt

from . import _library as L
from ._library import check, lib, make

if TYPE_CHECKING:
    from ._train import Dataset, Evaluation

Path = Union[str, "os.PathLike[str]"]
ProgressFn = Callable[[float, str], Optional[bool]]
MODES = {"exact": 0, "balanced": 1, "fast": 2}
ISAS = {"auto": -1, "ref": 0, "simd": 1, "avx2": 2, "avx512": 3, "amx": 4, "dotprod": 5, "avxvnni": 6, "i8mm": 7}


def _path(path: Path) -> bytes:
    return os.fsencode(path)


def mode_number(mode: str) -> int:
    if mode not in MODES:
        raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
    return MODES[mode]


class Runtime(L.Handle):
    """Threads, byte budget and instruction set. Most programs use the shared one that load() makes."""

    _free = "ramet_runtime_free"

    def __init__(self, threads: int = 0, byte_budget: int = 0, isa: str = "auto") -> None:
        if isa not in ISAS:
            raise ValueError(f"isa is one of {', '.join(ISAS)}, not {isa!r}")
        o = L.options(L.RuntimeOptions, "ramet_runtime_options_init", {"threads": threads, "byte_budget": byte_budget, "isa": ISAS[isa]})
        super().__init__(make("ramet_runtime_create", C.byref(o)))

    @property
    def threads(self) -> int:
        return int(lib.ramet_runtime_threads(self))

    @property
    def isa(self) -> str:
        return str(lib.ramet_runtime_isa(self), "utf-8")

    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes held now, and the most ever held."""
        now, peak = L.u64(), L.u64()
        lib.ramet_runtime_bytes(self, C.byref(now), C.byref(peak))
        return now.value, peak.value


_shared: Optional[Runtime] = None
_lock = threading.Lock()


def runtime() -> Runtime:
    """The runtime that load() uses when none is given; made on first use with one thread per processor."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = Runtime()
        return _shared


def load(path: Path, *, runtime: Optional[Runtime] = None) -> "Model":
    """A model from a GGUF file or a Hugging Face folder (config.json, *.safetensors, tokenizer.json)."""
    rt = runtime or globals()["runtime"]()
    return Model(make("ramet_model_load_path", rt, _path(path)), rt)


def describe(path: Path) -> dict[str, Any]:
    """What a file or folder is: model, adapter, brief, update, checkpoint, store; and what would leave the device."""
    return L.take_object(make("ramet_describe_path", runtime(), _path(path)))


def names(kind: Literal["archs", "encodings", "ops", "graph", "methods", "kernels", "isas", "optimizers", "schedules"]) -> dict[str, str]:
    """What this build has: name -> one line about it."""
    found: dict[str, str] = {}
    name, detail = L.text(), L.text()
    while not lib.ramet_list(C.byref(name), C.byref(detail), kind.encode(), len(found)):
        found[(name.value or b"").decode()] = (detail.value or b"").decode()
    if not found:
        check(lib.ramet_list(C.byref(name), C.byref(detail), kind.encode(), 0))
    return found


def as_ids(ids: Any) -> npt.NDArray[np.int32]:
    array = np.ascontiguousarray(ids, dtype=np.int32)
    if array.ndim != 1:
        raise ValueError(f"ids must be one-dimensional, not of shape {array.shape}")
    return array


class Tokenizer:
    """Text to ids and back."""

    def __init__(self, model: "Model") -> None:
        self._model = model

    def encode(self, text: str, *, special: bool = False, bos: bool = False) -> npt.NDArray[np.int32]:
        """special: spelled-out control tokens ("<|im_start|>") count; off, user text never becomes control ids."""
        data, count, flags = text.encode("utf-8", "surrogatepass"), L.i64(), int(special) | 2 * int(bos)
        check(lib.ramet_tokenize(C.byref(count), None, 0, self._model, data, len(data), flags))
        ids = np.empty(count.value, np.int32)
        check(lib.ramet_tokenize(C.byref(count), ids.ctypes.data, ids.size, self._model, data, len(data), flags))
        return ids

    def decode(self, ids: Any, *, special: bool = False) -> str:
        ids, length = as_ids(ids), C.c_size_t()
        check(lib.ramet_detokenize(C.byref(length), None, 0, self._model, ids.ctypes.data, ids.size, int(special)))
        buffer = C.create_string_buffer(length.value + 1)
        check(lib.ramet_detokenize(C.byref(length), buffer, len(buffer), self._model, ids.ctypes.data, ids.size, int(special)))
        return buffer.raw[: length.value].decode(errors="replace")

    def chat(self, messages: Sequence[dict[str, str]], *, open_reply: bool = True) -> str:
        """Messages [{"role", "content"}] as one prompt by the model's template; encode it with special=True."""
        roles, contents = L.texts([m["role"] for m in messages]), L.texts([m["content"] for m in messages])
        return L.take_text(make("ramet_chat_format", self._model, len(messages), roles, contents, int(open_reply)))


    def encode_chat(self, messages: Sequence[dict[str, str]], *, open_reply: bool = True) -> npt.NDArray[np.int32]:
        """Messages as ids, ready to run: a content that spells a control token stays text."""
        roles, contents, count = L.texts([m["role"] for m in messages]), L.texts([m["content"] for m in messages]), L.i64()
        check(lib.ramet_chat_tokenize(C.byref(count), None, 0, self._model, len(messages), roles, contents, int(open_reply)))
        ids = np.empty(count.value, np.int32)
        check(lib.ramet_chat_tokenize(C.byref(count), ids.ctypes.data, ids.size, self._model, len(messages), roles, contents, int(open_reply)))
        return ids


class Adapter(L.Handle):
    """A low-rank change to a model's weights."""

    _free = "ramet_adapter_free"

    def save(self, path: Path) -> None:
        """A path that ends in .gguf: what llama.cpp's --lora takes; otherwise a PEFT folder."""
        check(lib.ramet_adapter_save(self, _path(path)))

    def _number(self, name: str) -> float:
        value = L.f64()
        check(lib.ramet_adapter_number(C.byref(value), self, name.encode()))
        return value.value

    @property
    def rank(self) -> int:
        return int(self._number("rank"))

    @property
    def parameters(self) -> int:
        return int(self._number("parameters"))

    @property
    def dora(self) -> bool:
        return bool(self._number("dora"))

    def lift(self, variant: "Model", parent: "Model") -> "Adapter":
        """This adapter of a pruned variant, carried onto the parent through the variant's lineage."""
        return Adapter(make("ramet_adapter_lift", self, variant, parent))


class Session(L.Handle):
    """A model being run. One thread at a time."""

    _free = "ramet_session_free"

    def __init__(self, model: "Model", *, mode: str = "balanced", draft_model: Optional["Model"] = None, cache: Optional[Literal["int8"]] = None, **options: Any) -> None:
        if cache not in (None, "int8"):
            raise ValueError(f"cache is None or 'int8', not {cache!r}")
        o = L.options(L.SessionOptions, "ramet_session_options_init", {"mode": mode_number(mode), "draft_model": draft_model._pointer.value if draft_model else None,
                                                                              "cache": int(cache == "int8"), **options})
        super().__init__(make("ramet_session_create", model, C.byref(o)))
        self.model = model
        self._vocabulary = model.number("vocabulary")
        self._attached: dict[int, Adapter] = {}

    def attach(self, adapter: Adapter, scale: float = 1.0) -> int:
        index = L.i32()
        check(lib.ramet_session_attach(C.byref(index), self, adapter, scale))
        self._attached[index.value] = adapter
        return index.value

    def detach(self, index: int) -> None:
        check(lib.ramet_session_detach(self, index))
        self._attached.pop(index, None)

    def use(self, adapter_index: int, sequence: int = 0) -> None:
        check(lib.ramet_session_use(self, sequence, adapter_index))

    def truncate(self, keep: int = 0, sequence: int = 0) -> None:
        check(lib.ramet_session_truncate(self, sequence, keep))

    def fork(self, to: int, sequence: int = 0, keep: Optional[int] = None) -> None:
        """Sequence `to` becomes the first `keep` (None: all) tokens of `sequence`, with its adapter; nothing is computed again."""
        check(lib.ramet_session_fork(self, to, sequence, self.length(sequence) if keep is None else keep))

    def length(self, sequence: int = 0) -> int:
        return int(lib.ramet_session_length(self, sequence))

    def tokens(self, sequence: int = 0) -> npt.NDArray[np.int32]:
        """What a sequence holds."""
        ids = np.empty(self.length(sequence), np.int32)
        check(lib.ramet_session_tokens(ids.ctypes.data, ids.size, self, sequence))
        return ids

    def describe(self) -> dict[str, Any]:
        """Its mode, limits, and the bytes of its plan and of its keys and values."""
        return L.take_object(make("ramet_session_describe", self))

    def save(self, path: Path, sequence: int = 0) -> None:
        """A sequence's tokens, keys and values as a file, to go on from with the same bits."""
        check(lib.ramet_session_save(self, sequence, _path(path)))

    def pack(self, sequence: int = 0) -> bytes:
        """What save() writes."""
        data, size = C.c_void_p(), L.u64()
        check(lib.ramet_session_pack(C.byref(data), C.byref(size), self, sequence))
        try:
            return C.string_at(data, size.value)
        finally:
            lib.ramet_string_free(data)

    def load(self, saved: Union[Path, bytes], sequence: int = 0) -> None:
        """Give a sequence what save() or pack() made with the same model, mode and adapter (use() it first)."""
        source = L.Source(C.sizeof(L.Source))
        if isinstance(saved, bytes):
            source.kind, source.data, source.length = 2, C.cast(saved, C.c_void_p), len(saved)
        else:
            source.path = _path(saved)
        check(lib.ramet_session_load(self, sequence, C.byref(source)))

    def run(self, ids: Any, *, sequence: Any = None, want: Any = None, progress: Optional[ProgressFn] = None) -> npt.NDArray[np.float32]:
        """Append ids and return logits [outputs, vocabulary] of the wanted rows (default: the last of each sequence): a view into the
        session, valid until its next call."""
        ids, logits, outputs, work = as_ids(ids), C.POINTER(L.f32)(), L.i64(), L.Work(progress)
        seq = None if sequence is None else as_ids(np.broadcast_to(sequence, ids.shape))
        flags = None if want is None else np.ascontiguousarray(np.broadcast_to(want, ids.shape), dtype=np.uint8)
        work.call(lib.ramet_session_run, C.byref(logits), C.byref(outputs), self, ids.ctypes.data, None if seq is None else seq.ctypes.data,
                  None if flags is None else flags.ctypes.data, ids.size, work.callback, None)
        if not outputs.value:
            return np.empty((0, self._vocabulary), np.float32)
        return _view(logits, (outputs.value, self._vocabulary), self)

    def generate(self, prompt: Any, on_token: Callable[[int, bytes], Any], *, max_tokens: int = 128, sequence: int = 0, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0,
                 min_p: float = 0.0, seed: int = 0, draft: int = 0, progress: Optional[ProgressFn] = None) -> int:
        """Run ids and generate, calling on_token(id, bytes of text that are now complete); its true answer stops. Returns how many."""
        ids, made, work = as_ids(prompt), L.i64(), L.Work(progress)
        sampling = L.options(L.Sampling, "ramet_sampling_init", {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed,
                                                                          "draft": draft})

        def token(_sequence: int, id: int, data: int, length: int, _user: Any) -> int:
            return work.run(on_token, id, C.string_at(data, length) if length else b"")

        work.call(lib.ramet_session_generate, C.byref(made), self, sequence, ids.ctypes.data, ids.size, max_tokens, C.byref(sampling), L.Token(token), work.callback, None)
        return made.value


class Embedder(L.Handle):
    """An encoder being run. One thread at a time."""

    _free = "ramet_embedder_free"

    def __init__(self, model: "Model", *, mode: str = "balanced", **options: Any) -> None:
        o = L.options(L.EmbedderOptions, "ramet_embedder_options_init", {"mode": mode_number(mode), **options})
        super().__init__(make("ramet_embedder_create", model, C.byref(o)))
        self.model = model
        self._width = model.number("width")

    def attach(self, adapter: Adapter, scale: float = 1.0) -> int:
        """An index for use()."""
        index = L.i32()
        check(lib.ramet_embedder_attach(C.byref(index), self, adapter, scale))
        return index.value

    def detach(self, index: int) -> None:
        check(lib.ramet_embedder_detach(self, index))

    def use(self, adapter_index: int) -> None:
        """The adapter of the following calls, -1: none."""
        check(lib.ramet_embedder_use(self, adapter_index))

    def __call__(self, texts: Sequence[Any], *, progress: Optional[ProgressFn] = None) -> npt.NDArray[np.float32]:
        """Vectors [len(texts), width] of length 1, of texts or of lists of ids."""
        if not len(texts):
            return np.empty((0, self._width), np.float32)
        parts = [self.model.tokenizer.encode(t, bos=True) if isinstance(t, str) else as_ids(t) for t in texts]
        offsets = np.cumsum([0] + [p.size for p in parts], dtype=np.int64)
        ids, out, work = as_ids(np.concatenate(parts)), np.empty((len(parts), self._width), np.float32), L.Work(progress)
        work.call(lib.ramet_embed, out.ctypes.data, self, ids.ctypes.data, offsets.ctypes.data, len(parts), work.callback, None)
        return out


def _view(pointer: Any, shape: tuple[int, int], owner: Any) -> npt.NDArray[np.float32]:
    """An array over the library's memory. It and its views keep the owner alive, a copy does not."""
    memory: Any = (L.f32 * (shape[0] * shape[1])).from_address(C.addressof(pointer.contents))
    memory._owner = owner
    array: npt.NDArray[np.float32] = np.frombuffer(memory, np.float32).reshape(shape)
    array.flags.writeable = False
    return array


class Model(L.Handle):
    """Immutable; may be shared between threads."""

    _free = "ramet_model_free"

    def __init__(self, pointer: C.c_void_p, rt: Runtime) -> None:
        super().__init__(pointer)
        self.runtime = rt
        self.tokenizer = Tokenizer(self)

    # ---- what it is ----
    def number(self, name: str) -> int:
        """vocabulary, layers, width, heads, kv_heads, head_width, ffn_width, context, parameters, bytes."""
        value = L.i64()
        check(lib.ramet_model_number(C.byref(value), self, name.encode()))
        return value.value

    @property
    def architecture(self) -> str:
        return str(lib.ramet_model_architecture(self), "utf-8")

    @property
    def digest(self) -> str:
        digest = lib.ramet_model_digest(self)
        if digest is None:
            raise L.Error(-15, lib.ramet_last_error().decode())
        return str(digest, "utf-8")

    def describe(self) -> dict[str, Any]:
        return L.take_object(make("ramet_model_describe", self))

    def tensors(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """name -> (shape, encoding)."""
        found, info = {}, L.TensorInfo(C.sizeof(L.TensorInfo))
        for i in range(lib.ramet_model_tensor_count(self)):
            check(lib.ramet_model_tensor_at(C.byref(info), self, i))
            found[info.name.decode()] = (tuple(info.dim[: info.rank]), info.encoding.decode())
        return found

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """One weight, decoded."""
        index, info = L.i64(), L.TensorInfo(C.sizeof(L.TensorInfo))
        check(lib.ramet_model_tensor_find(C.byref(index), self, name.encode()))
        check(lib.ramet_model_tensor_at(C.byref(info), self, index))
        array = np.empty(tuple(info.dim[: info.rank]), np.float32)
        check(lib.ramet_model_tensor_read(array.ctypes.data, array.size, self, index))
        return array

    def save(self, path: Path, progress: Optional[ProgressFn] = None) -> None:
        work = L.Work(progress)
        work.call(lib.ramet_model_save, self, _path(path), work.callback, None)

    # ---- running ----
    def session(self, **options: Any) -> Session:
        return Session(self, **options)

    def embedder(self, **options: Any) -> Embedder:
        return Embedder(self, **options)

    def embed(self, texts: Sequence[Any], **options: Any) -> npt.NDArray[np.float32]:
        """Vectors [len(texts), width] of length 1 from an encoder; embedder() keeps what this makes for each call."""
        return Embedder(self, **options)(texts)

    def __call__(self, ids: Any, *, mode: str = "balanced") -> npt.NDArray[np.float32]:
        """Logits [len(ids), vocabulary] of one sequence: a view that keeps its own session alive."""
        ids = as_ids(ids)
        n = max(int(ids.size), 1)
        return Session(self, mode=mode, max_context=n, max_rows=n, max_outputs=n, max_sequences=1).run(ids, want=1)

    @overload
    def generate(self, prompt: Any, *, stream: Literal[False] = False, **options: Any) -> str: ...
    @overload
    def generate(self, prompt: Any, *, stream: Literal[True], **options: Any) -> Iterator[str]: ...
    def generate(self, prompt: Any, *, max_tokens: int = 128, stream: bool = False, adapter: Optional[Adapter] = None, adapter_scale: float = 1.0, mode: str = "balanced",
                 special: bool = False, draft_model: Optional["Model"] = None, draft_vocabulary: int = 0, cache: Optional[Literal["int8"]] = None,
                 **sampling: Any) -> Union[str, Iterator[str]]:
        """The continuation of a text or of ids. sampling: temperature, top_k, top_p, min_p, seed, draft (4 with a draft_model). stream: an iterator of pieces of text."""
        sampling.setdefault("draft", 4 if draft_model else 0)
        ids = self.tokenizer.encode(prompt, special=special, bos=True) if isinstance(prompt, str) else as_ids(prompt)
        context = min(self.number("context"), int(ids.size) + max_tokens)
        session = Session(self, mode=mode, max_context=max(context, 16), max_sequences=1, max_outputs=max(8, sampling["draft"] + 1), dora=int(adapter is not None and adapter.dora),
                          draft_model=draft_model, draft_vocabulary=draft_vocabulary, cache=cache)
        if adapter is not None:
            session.use(session.attach(adapter, adapter_scale))
        if stream:
            return _stream(session, ids, max_tokens, sampling)
        parts: list[bytes] = []
        session.generate(ids, lambda _id, data: parts.append(data), max_tokens=max_tokens, **sampling)
        return b"".join(parts).decode(errors="replace")

    @overload
    def chat(self, messages: Sequence[dict[str, str]], *, stream: Literal[False] = False, **options: Any) -> str: ...
    @overload
    def chat(self, messages: Sequence[dict[str, str]], *, stream: Literal[True], **options: Any) -> Iterator[str]: ...
    def chat(self, messages: Sequence[dict[str, str]], *, stream: bool = False, **options: Any) -> Union[str, Iterator[str]]:
        """The assistant's reply to [{"role": "user", "content": ...}, ...]; options as in generate."""
        prompt = self.tokenizer.encode_chat(messages)
        return self.generate(prompt, stream=True, **options) if stream else self.generate(prompt, **options)

    # ---- adapters ----
    def adapter(self, path: Path) -> Adapter:
        """A LoRA adapter for this model: GGUF or PEFT."""
        return Adapter(make("ramet_adapter_load", self, _path(path)))

    def merge(self, *adapters: Adapter, scales: Optional[Sequence[float]] = None, encoding: Optional[str] = None, progress: Optional[ProgressFn] = None) -> "Model":
        n, work = len(adapters), L.Work(progress)
        handles = (L.ptr * max(n, 1))(*[a._pointer.value for a in adapters])
        factors = (L.f32 * max(n, 1))(*(scales or [1.0] * n))
        return Model(make("ramet_model_merge", self, handles, factors, n, encoding.encode() if encoding else None, work.callback, None, work=work), self.runtime)

    # ---- shrinking ----
    def quantize(self, encoding: str = "Q4_0", *, head: Optional[str] = None, algorithm: str = "nearest", progress: Optional[ProgressFn] = None) -> "Model":
        work = L.Work(progress)
        o = L.options(L.QuantizeOptions, "ramet_quantize_options_init", {"encoding": encoding, "head": head, "algorithm": algorithm, "progress": work.callback})
        return Model(make("ramet_quantize", self, C.byref(o), work=work), self.runtime)

    def prune(self, calibration: Any, *, layers: Optional[int] = None, ffn: Optional[int] = None, keep: Optional[float] = None, window: Optional[int] = None,
              progress: Optional[ProgressFn] = None) -> "Model":
        """A smaller dense model. calibration: text or ids."""
        ids = self.tokenizer.encode(calibration) if isinstance(calibration, str) else as_ids(calibration)
        work = L.Work(progress)
        o = L.options(L.PruneOptions, "ramet_prune_options_init",
                      {"layers": layers, "ffn": ffn, "keep": keep, "window": window, "ids": ids.ctypes.data, "count": ids.size, "progress": work.callback})
        return Model(make("ramet_prune", self, C.byref(o), work=work), self.runtime)

    def rebase(self, parent: "Model", calibration: Any = None, *, window: Optional[int] = None, progress: Optional[ProgressFn] = None) -> "Model":
        """The same variant of a newer parent. calibration: text or ids, for a variant without some FFN channels."""
        ids = None if calibration is None else parent.tokenizer.encode(calibration) if isinstance(calibration, str) else as_ids(calibration)
        work = L.Work(progress)
        o = L.options(L.RebaseOptions, "ramet_rebase_options_init", {"window": window, "ids": None if ids is None else ids.ctypes.data,
                      "count": None if ids is None else ids.size, "progress": work.callback})
        return Model(make("ramet_rebase", self, parent, C.byref(o), work=work), parent.runtime)

    # ---- measuring, feeding back ----
    def evaluate(self, data: Union["Dataset", Path], *, score: str = "half", mode: str = "balanced", **options: Any) -> "Evaluation":
        from ._train import evaluate

        return evaluate(self, data, score=score, mode=mode, **options)

    def update(self, brief: Path, adapter: Adapter, path: Path, *, examples: int, what: Sequence[str] = ("delta",), progress: Optional[ProgressFn] = None, **options: Any) -> dict[str, Any]:
        """Write what this variant learned as an update for the brief's parent; returns what leaves the device."""
        bits = {"delta": 1, "logits": 2}
        work = L.Work(progress)
        o = L.options(L.UpdateOptions, "ramet_update_options_init",
                      {"what": sum({bits[w] for w in what}), "adapter": adapter._pointer.value, "examples": examples, "progress": work.callback, **options})
        work.call(lib.ramet_update_create, _path(path), self, _path(brief), C.byref(o))
        return describe(path)


def _stream(session: Session, ids: npt.NDArray[np.int32], max_tokens: int, sampling: dict[str, Any]) -> Iterator[str]:
    """Generation runs in a thread of its own; leaving the iterator stops it."""
    pieces: queue.Queue[Any] = queue.Queue(maxsize=64)
    stopped = threading.Event()

    def work() -> None:
        def token(_id: int, data: bytes) -> bool:
            while not stopped.is_set():
                try:
                    pieces.put(data, timeout=0.1)
                    return False
                except queue.Full:
                    continue
            return True

        end: Any = None
        try:
            session.generate(ids, token, max_tokens=max_tokens, progress=lambda *_: stopped.is_set(), **sampling)
        except BaseException as error:
            end = error
        while not stopped.is_set():
            try:
                pieces.put(end, timeout=0.1)
                return
            except queue.Full:
                continue

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        while isinstance(piece := pieces.get(), bytes):
            if part := decoder.decode(piece):
                yield part
        if piece is not None:
            raise piece
    finally:
        stopped.set()
        thread.join()
