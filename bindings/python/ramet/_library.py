# SPDX-License-Identifier: Apache-2.0
"""The C library through ctypes: structures, functions, errors. Everything public is in the package's other modules."""
from __future__ import annotations

import ctypes as C
import json
import os
import pathlib
import signal
import sys
import threading
from typing import Any, Callable, Optional

i32, u32, i64, u64, f32, f64, text, ptr = C.c_int32, C.c_uint32, C.c_int64, C.c_uint64, C.c_float, C.c_double, C.c_char_p, C.c_void_p
Progress = C.CFUNCTYPE(i32, f64, text, ptr)
AllReduce = C.CFUNCTYPE(i32, C.POINTER(f32), i64, ptr)
Tokens = C.CFUNCTYPE(i32, C.POINTER(i32), C.POINTER(C.c_uint8), i64, i64, ptr)
Token = C.CFUNCTYPE(i32, i32, i32, ptr, C.c_size_t, ptr)
Heard = C.CFUNCTYPE(i32, i64, i32, i32, ptr, C.c_size_t, ptr)


def _structure(name: str, *fields: tuple[str, Any]) -> type[C.Structure]:
    """A C struct that begins with struct_size."""
    return type(name, (C.Structure,), {"_fields_": [("struct_size", u32), *fields], "__slots__": ()})


RuntimeOptions = _structure("RuntimeOptions", ("threads", i32), ("alloc", ptr), ("alloc_user", ptr), ("byte_budget", u64), ("log", ptr), ("log_user", ptr), ("log_level", i32),
                            ("isa", i32), ("executor", ptr), ("executor_user", ptr))
Source = _structure("Source", ("kind", i32), ("path", text), ("descriptor", i32), ("untrusted", i32), ("offset", u64), ("length", u64), ("data", ptr), ("read", ptr), ("user", ptr))
TensorInfo = _structure("TensorInfo", ("rank", i32), ("dim", i64 * 4), ("name", text), ("encoding", text), ("bytes", u64))
SessionOptions = _structure("SessionOptions", ("mode", i32), ("max_context", i64), ("max_rows", i32), ("max_sequences", i32), ("max_rank", i32), ("max_outputs", i32), ("dora", i32), ("draft_model", ptr), ("draft_vocabulary", i64), ("cache", i32))
EmbedderOptions = _structure("EmbedderOptions", ("mode", i32), ("max_rows", i32), ("max_sequences", i32), ("max_rank", i32), ("dora", i32))
Sampling = _structure("Sampling", ("temperature", f32), ("top_k", i32), ("top_p", f32), ("min_p", f32), ("seed", u64), ("draft", i32))
BatcherOptions = _structure("BatcherOptions", ("chunk", i32), ("cache_bytes", u64))
Request = _structure("Request", ("adapter", i32), ("ids", ptr), ("count", i64), ("max_tokens", i64), ("sampling", ptr))
QuantizeOptions = _structure("QuantizeOptions", ("encoding", text), ("head", text), ("algorithm", text), ("progress", Progress), ("progress_user", ptr))
PruneOptions = _structure("PruneOptions", ("layers", i32), ("ffn", i64), ("keep", f64), ("ids", ptr), ("count", i64), ("window", i32), ("progress", Progress), ("progress_user", ptr))
RebaseOptions = _structure("RebaseOptions", ("ids", ptr), ("count", i64), ("window", i32), ("progress", Progress), ("progress_user", ptr))
TunerOptions = _structure("TunerOptions", ("full", i32), ("rank", i32), ("alpha", f32), ("targets", text), ("mode", i32), ("window", i32), ("batch", i32), ("micro_batch", i32),
                          ("steps", i64), ("epochs", f64), ("learning_rate", f32), ("warmup", f32), ("schedule", i32), ("weight_decay", f32), ("beta1", f32), ("beta2", f32),
                          ("epsilon", f32), ("clip", f32), ("seed", u64), ("teacher", ptr), ("teacher_weight", f32), ("teacher_top", i32), ("initial", ptr), ("optimizer", text),
                          ("rslora", i32), ("lora_plus", f32), ("groups", text), ("average", text), ("average_decay", f32), ("average_start", f32), ("on_nonfinite", i32),
                          ("spike_factor", f32), ("evaluation", ptr), ("evaluate_every", i64), ("patience", i32), ("all_reduce", AllReduce), ("all_reduce_user", ptr), ("worker", i32), ("workers", i32),
                          ("teacher_divergence", i32), ("teacher_skew", f32), ("byte_budget", u64), ("dora", i32), ("preference_beta", f32), ("example_clip", f32), ("example_norms", ptr), ("state_path", text), ("state_keep", i32))
TunerReport = _structure("TunerReport", ("done", i32), ("step", i64), ("steps", i64), ("loss", f64), ("gradient_norm", f64), ("learning_rate", f64), ("tokens", i64), ("seconds", f64),
                         ("skipped", i64), ("evaluations", i64), ("evaluation_loss", f64), ("best_loss", f64), ("best_step", i64), ("bytes", u64), ("plan_bytes", u64), ("recomputed", f64), ("accuracy", f64), ("example_norm", f64), ("example_clipped", f64))
EvaluateOptions = _structure("EvaluateOptions", ("window", i32), ("score", i32), ("mode", i32), ("max_tokens", i64), ("adapter", ptr), ("adapter_scale", f32), ("losses", ptr),
                             ("losses_capacity", i64), ("progress", Progress), ("progress_user", ptr))
Evaluation = _structure("Evaluation", ("windows", i32), ("tokens", i64), ("loss", f64), ("standard_error", f64), ("perplexity", f64), ("seconds", f64))
BriefOptions = _structure("BriefOptions", ("method", text), ("probe_paths", C.POINTER(text)), ("probe_count", i32), ("probe_windows", i32), ("probe_window", i32), ("seed", u64),
                           ("topics", C.POINTER(text)), ("topic_count", i32), ("topic_windows", i32), ("progress", Progress), ("progress_user", ptr))
UpdateOptions = _structure("UpdateOptions", ("what", i32), ("adapter", ptr), ("task", text), ("examples", i64), ("loss_before", f64), ("loss_after", f64), ("top", i32),
                           ("progress", Progress), ("progress_user", ptr))
FeedOptions = _structure("FeedOptions", ("weights", C.POINTER(f32)), ("weights_count", i32), ("options", text), ("encoding", text), ("progress", Progress), ("progress_user", ptr))
GateOptions = _structure("GateOptions", ("max_worse", f64), ("window", i32), ("max_tokens", i64), ("mode", i32), ("guards", i32), ("progress", Progress), ("progress_user", ptr))

GraphModelOptions = _structure("GraphModelOptions", ("full", i32), ("rank", i32), ("alpha", f32), ("targets", text), ("seed", u64))
StepOptions = _structure("StepOptions", ("optimizer", text), ("learning_rate", f32), ("beta1", f32), ("beta2", f32), ("epsilon", f32), ("weight_decay", f32), ("clip", f32))


class Error(Exception):
    """A call of the library failed; str() is the library's own message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.name = (lib.ramet_status_name(status) or b"").decode()


def _find() -> str:
    names = {"darwin": "libramet.dylib", "win32": "ramet.dll"}
    name = names.get(sys.platform, "libramet.so")
    override = os.environ.get("RAMET_LIBRARY")
    if override:
        return override
    here = pathlib.Path(__file__).parent
    for found in [here / name, *sorted(here.glob(name + ".*"))]:
        if found.exists():
            return str(found)
    return name  # the system's


def _load(path: str) -> C.CDLL:
    try:
        return C.CDLL(path)
    except OSError as e:
        raise ImportError(f"ramet: the library cannot be loaded ({e}); install the package with pip install ., or let RAMET_LIBRARY name a libramet.so that meson built") from None


lib = _load(_find())


def _declare(result: Any, name: str, *arguments: Any) -> None:
    function = getattr(lib, name)
    function.restype, function.argtypes = result, list(arguments)


_H = ptr  # a handle
_OUT = C.POINTER(ptr)
_I64 = C.POINTER(i64)
_I32 = C.POINTER(i32)
_ids = ptr  # int32 array
_rows: list[tuple[Any, ...]] = [
    (text, "ramet_version_string"), (text, "ramet_last_error"), (text, "ramet_status_name", i32), (None, "ramet_string_free", ptr),
    (None, "ramet_runtime_options_init", ptr, u32), (i32, "ramet_runtime_create", _OUT, ptr), (None, "ramet_runtime_free", _H), (i32, "ramet_runtime_threads", _H), (text, "ramet_runtime_isa", _H),
    (None, "ramet_runtime_bytes", _H, C.POINTER(u64), C.POINTER(u64)), (i32, "ramet_list", C.POINTER(text), C.POINTER(text), text, i32),
    (i32, "ramet_model_load_path", _OUT, _H, text), (None, "ramet_model_free", _H), (i32, "ramet_model_save", _H, text, Progress, ptr), (text, "ramet_model_architecture", _H),
    (i32, "ramet_model_number", _I64, _H, text), (text, "ramet_model_digest", _H), (i32, "ramet_model_describe", _OUT, _H), (i64, "ramet_model_tensor_count", _H),
    (i32, "ramet_model_tensor_at", ptr, _H, i64), (i32, "ramet_model_tensor_find", _I64, _H, text), (i32, "ramet_model_tensor_read", ptr, i64, _H, i64), (i32, "ramet_describe_path", _OUT, _H, text),
    (i32, "ramet_tokenize", _I64, _ids, i64, _H, text, C.c_size_t, i32), (i32, "ramet_detokenize", C.POINTER(C.c_size_t), ptr, C.c_size_t, _H, _ids, i64, i32),
    (i32, "ramet_chat_tokenize", _I64, _ids, i64, _H, i32, C.POINTER(text), C.POINTER(text), i32), (i32, "ramet_chat_format", _OUT, _H, i32, C.POINTER(text), C.POINTER(text), i32),
    (i32, "ramet_adapter_load", _OUT, _H, text), (i32, "ramet_adapter_save", _H, text), (None, "ramet_adapter_free", _H), (i32, "ramet_adapter_number", C.POINTER(f64), _H, text),
    (i32, "ramet_model_merge", _OUT, _H, _OUT, C.POINTER(f32), i32, text, Progress, ptr),
    (None, "ramet_session_options_init", ptr, u32), (i32, "ramet_session_create", _OUT, _H, ptr), (None, "ramet_session_free", _H), (i32, "ramet_session_attach", _I32, _H, _H, f32),
    (i32, "ramet_session_detach", _H, i32), (i32, "ramet_session_use", _H, i32, i32), (i32, "ramet_session_truncate", _H, i32, i64), (i32, "ramet_session_fork", _H, i32, i32, i64), (i64, "ramet_session_length", _H, i32),
    (i32, "ramet_session_tokens", _ids, i64, _H, i32), (i32, "ramet_session_save", _H, i32, text), (i32, "ramet_session_pack", _OUT, C.POINTER(u64), _H, i32), (i32, "ramet_session_load", _H, i32, ptr),
    (i32, "ramet_session_run", C.POINTER(C.POINTER(f32)), _I64, _H, _ids, ptr, ptr, i64, Progress, ptr), (None, "ramet_sampling_init", ptr, u32),
    (None, "ramet_embedder_options_init", ptr, u32), (i32, "ramet_embedder_create", _OUT, _H, ptr), (None, "ramet_embedder_free", _H),
    (i32, "ramet_embedder_attach", ptr, _H, _H, f32), (i32, "ramet_embedder_detach", _H, i32), (i32, "ramet_embedder_use", _H, i32),
    (i32, "ramet_embed", ptr, _H, ptr, ptr, i64, Progress, ptr),
    (None, "ramet_batcher_options_init", ptr, u32), (i32, "ramet_batcher_create", _OUT, _H, ptr), (None, "ramet_batcher_free", _H), (None, "ramet_request_init", ptr, u32),
    (i32, "ramet_batcher_submit", _I64, _H, ptr), (i32, "ramet_batcher_cancel", _H, i64), (i32, "ramet_batcher_step", _I64, _H, Heard, Progress, ptr), (i32, "ramet_batcher_describe", _OUT, _H),
    (i32, "ramet_session_describe", _OUT, _H), (i32, "ramet_session_generate", _I64, _H, i32, _ids, i64, i64, ptr, Token, Progress, ptr),
    (None, "ramet_quantize_options_init", ptr, u32), (i32, "ramet_quantize", _OUT, _H, ptr), (None, "ramet_prune_options_init", ptr, u32), (i32, "ramet_prune", _OUT, _H, ptr),
    (None, "ramet_rebase_options_init", ptr, u32), (i32, "ramet_rebase", _OUT, _H, _H, ptr), (i32, "ramet_adapter_lift", _OUT, _H, _H, _H),
    (i32, "ramet_dataset_create", _OUT, _H), (i32, "ramet_dataset_create_source", _OUT, _H, i64, text, Tokens, ptr), (i32, "ramet_dataset_add_text", _H, text, C.c_size_t), (i32, "ramet_dataset_add_ids", _H, _ids, ptr, i64),
    (i32, "ramet_dataset_add_chat", _H, i32, C.POINTER(text), C.POINTER(text)), (i32, "ramet_dataset_add_file", _H, text), (i32, "ramet_dataset_add_pair", _H, text, text, text), (None, "ramet_dataset_free", _H), (i64, "ramet_dataset_tokens", _H),
    (i64, "ramet_dataset_documents", _H), (i32, "ramet_dataset_read", ptr, _H, i64, i64),
    (None, "ramet_tuner_options_init", ptr, u32), (i32, "ramet_tuner_create", _OUT, _H, _H, ptr), (None, "ramet_tuner_free", _H), (i32, "ramet_tuner_step", ptr, _H, i64, f64, Progress, ptr), (i32, "ramet_tuner_describe", _OUT, _H),
    (i32, "ramet_tuner_save", _H, text), (i32, "ramet_tuner_resume", _H, text), (i32, "ramet_tuner_adapter", _OUT, _H), (i32, "ramet_tuner_model", _OUT, _H, text),
    (None, "ramet_evaluate_options_init", ptr, u32), (i32, "ramet_evaluate", ptr, _H, _H, ptr),
    (i32, "ramet_task_from_files", _OUT, _H, text, C.POINTER(text), i32), (None, "ramet_task_free", _H),
    (i32, "ramet_store_init", _OUT, _H, text, _H), (i32, "ramet_store_open", _OUT, _H, text), (None, "ramet_store_free", _H), (i32, "ramet_store_head", _I64, _OUT, _H), (i32, "ramet_store_undo", _I64, _H),
    (i32, "ramet_store_log", _OUT, _H), (None, "ramet_brief_options_init", ptr, u32), (i32, "ramet_brief_create", _H, text, ptr),
    (None, "ramet_update_options_init", ptr, u32), (i32, "ramet_update_create", text, _H, text, ptr), (None, "ramet_feed_options_init", ptr, u32),
    (i32, "ramet_feed", _OUT, _H, text, C.POINTER(text), i32, ptr), (i32, "ramet_candidate_save", _H, text), (i32, "ramet_candidate_load", _OUT, _H, text), (None, "ramet_candidate_free", _H),
    (i32, "ramet_candidate_model", _OUT, _H), (i32, "ramet_candidate_describe", _OUT, _H), (None, "ramet_gate_options_init", ptr, u32),
    (None, "ramet_graph_model_options_init", ptr, u32), (i32, "ramet_graph_model", _I32, _H, ptr, _H, ptr), (i32, "ramet_variables_adapter", _OUT, _H, _H, f32),
    (i32, "ramet_variables_model", _OUT, _H, _H, text), (i32, "ramet_variables_create", _OUT, _H), (None, "ramet_variables_free", _H), (i32, "ramet_variables_add", _H, text, i64, i64, text, u64, i32), (i64, "ramet_variables_count", _H),
    (i32, "ramet_variables_at", C.POINTER(text), _I64, _I64, _I32, _H, i64), (i32, "ramet_variables_read", ptr, i64, _H, text, i32), (i32, "ramet_variables_write", _H, text, ptr, i64),
    (i32, "ramet_variables_save", _H, text), (i32, "ramet_variables_load", _H, text), (None, "ramet_step_options_init", ptr, u32), (i32, "ramet_variables_step", C.POINTER(f64), _H, ptr),
    (i32, "ramet_graph_create", _OUT, _H, i64, i64), (None, "ramet_graph_free", _H), (i32, "ramet_graph_input", _I32, _H, text, i32, i32, i64), (i32, "ramet_graph_constant", _I32, _H, f32),
    (i32, "ramet_graph_variable", _I32, _H, _H, text), (i32, "ramet_graph_apply", _I32, i32, _H, text, _I32, i32, text), (i32, "ramet_graph_shape", _I32, _I64, _I64, _H, i32),
    (i32, "ramet_graph_gradient", _I32, _H, i32, _I32, i32), (i32, "ramet_graph_train", _H, _H, i32), (i32, "ramet_graph_output", _H, text, i32), (i32, "ramet_graph_write", _H, _H, text, i32, i32),
    (i32, "ramet_graph_scan", _I32, i32, _H, _H, C.POINTER(text), _I32, i32, i32, i32),
    (i32, "ramet_program_create", _OUT, _H, i32), (None, "ramet_program_free", _H), (i32, "ramet_program_run", _H, i64, i64, C.POINTER(text), ptr, i32, Progress, ptr),
    (i32, "ramet_program_output", C.POINTER(C.POINTER(f32)), _I64, _I64, _H, text), (i32, "ramet_program_describe", _OUT, _H),
    (i32, "ramet_gate", _I32, _OUT, _H, _H, _OUT, i32, ptr), (i32, "ramet_commit", _I64, _H, _H),
]
for _row in _rows:
    _declare(*_row)


def check(status: int) -> None:
    if status:
        raise Error(status, (lib.ramet_last_error() or b"").decode(errors="replace"))


class Work:
    """A progress callback around one long call. Ctrl-C ends the call cleanly: the library is asked to stop, and KeyboardInterrupt (or
    whatever the program's own handler raises) comes out of call() when the library has returned."""

    def __init__(self, progress: Optional[Callable[[float, str], Optional[bool]]] = None) -> None:
        self.raised: Optional[BaseException] = None
        self.inside = False  # the caller's own function is running: there a signal is raised where it stands

        def report(fraction: float, what: bytes, _user: Any) -> int:
            return self.run(progress, fraction, what.decode()) if progress else int(self.raised is not None)

        self.callback = Progress(report)

    def run(self, function: Callable[..., Any], *arguments: Any) -> int:
        """The caller's function inside a callback: its answer, or 1 after an exception, which call() raises."""
        if self.raised is not None:
            return 1
        try:
            self.inside = True
            return int(bool(function(*arguments)))
        except BaseException as error:
            self.raised = error
            return 1
        finally:
            self.inside = False

    def call(self, function: Any, *arguments: Any) -> None:
        # Python runs a signal's handler when it next enters Python code, which is at the first instruction of a callback, outside
        # of any try: what the handler raises would be printed and lost. So during the call a handler that keeps it stands in.
        handler: Any = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None

        def keep(number: int, frame: Any) -> None:
            if self.inside:
                handler(number, frame)
                return
            try:
                handler(number, frame)
            except BaseException as error:
                self.raised = error

        if callable(handler):
            signal.signal(signal.SIGINT, keep)
        try:
            status = function(*arguments)
        finally:
            if callable(handler):
                signal.signal(signal.SIGINT, handler)
        if self.raised is not None:
            raise self.raised
        check(status)


def options(structure: type[C.Structure], init: str, values: dict[str, Any]) -> C.Structure:
    """Defaults from the library, then the caller's values by name."""
    o = structure()
    getattr(lib, init)(C.byref(o), C.sizeof(o))
    known = {name for name, *_ in structure._fields_}
    for key, value in values.items():
        if key not in known or key == "struct_size":
            raise TypeError(f"there is no option {key!r}; there are {', '.join(sorted(known - {'struct_size', 'progress', 'progress_user'}))}")
        if value is not None:
            setattr(o, key, value.encode() if isinstance(value, str) else value)
    return o


def take_text(pointer: C.c_void_p) -> str:
    """A string that the library made and that is ours."""
    try:
        return C.string_at(pointer.value or 0).decode(errors="replace")
    finally:
        lib.ramet_string_free(pointer)


def take_object(pointer: C.c_void_p) -> dict[str, Any]:
    """The same for one JSON object."""
    found: dict[str, Any] = json.loads(take_text(pointer))
    return found


class Handle:
    """Owns one library handle."""

    _free = ""

    def __init__(self, pointer: C.c_void_p) -> None:
        self._as_parameter_ = self._pointer = C.c_void_p(pointer.value)

    def __del__(self) -> None:
        pointer = self.__dict__.pop("_pointer", None)
        if pointer and lib is not None:
            getattr(lib, self._free)(pointer)


def make(function: str, *arguments: Any, work: Optional[Work] = None) -> C.c_void_p:
    out = ptr()
    if work:
        work.call(getattr(lib, function), C.byref(out), *arguments)
    else:
        check(getattr(lib, function)(C.byref(out), *arguments))
    return out


def texts(items: list[str]) -> Any:
    return (text * max(len(items), 1))(*[item.encode() for item in items])
