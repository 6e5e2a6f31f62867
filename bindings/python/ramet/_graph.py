# SPDX-License-Identifier: Apache-2.0
"""Small nets: graphs, variables, programs (ramet/graph.h; not yet promised).

    v = ramet.Variables()
    g = ramet.Graph(max_rows=64)
    x, y = g.input("x", 784), g.input("y", dtype="i32")
    net = ramet.Layers(g, v)
    h = net.linear(x, "hidden", 128).relu()
    loss = net.linear(h, "out", 10).apply("cross_entropy", y)
    g.output("loss", loss)
    g.train(v, loss)
    p = ramet.Program(g)
    for images, digits in batches:
        print(p.run(x=images, y=digits)["loss"])
        v.step(learning_rate=1e-3)
"""
from __future__ import annotations

import ctypes as C
from typing import Any, Callable, Iterator, Literal, Mapping, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from . import _library as L
from ._library import check, lib, make
from ._model import Adapter, Model, Path, Runtime, _path, as_ids, mode_number
from ._model import runtime as default_runtime

Array = npt.NDArray[np.float32]
AXES = {"static": 0, "rows": 1, "outs": 2}
TYPES = {"f32": 0, "i32": 1}


class Variables(L.Handle):
    """Named float arrays of one or two dimensions that programs read and steps move."""

    _free = "ramet_variables_free"

    def __init__(self, path: Optional[Path] = None, *, runtime: Optional[Runtime] = None) -> None:
        super().__init__(make("ramet_variables_create", runtime or default_runtime()))
        if path is not None:
            self.load(path)

    def add(self, name: str, shape: Union[int, tuple[int, ...]], rule: str = "zeros", *, seed: int = 0, trainable: bool = True) -> None:
        """rule: zeros, ones, normal, uniform, he, glorot; all but zeros with an optional factor, "normal:.02"."""
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        if len(sizes) not in (1, 2) or min(sizes) < 1:
            raise ValueError(f"{name}: a variable has one or two dimensions, not {sizes}")
        check(lib.ramet_variables_add(self, name.encode(), sizes[0] if len(sizes) == 2 else 0, sizes[-1], rule.encode(), seed, int(trainable)))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        name, rows, columns, found = L.text(), L.i64(), L.i64(), {}
        for i in range(lib.ramet_variables_count(self)):
            check(lib.ramet_variables_at(C.byref(name), C.byref(rows), C.byref(columns), None, self, i))
            found[(name.value or b"").decode()] = (rows.value, columns.value) if rows.value else (columns.value,)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes())

    def __len__(self) -> int:
        return int(lib.ramet_variables_count(self))

    def _read(self, name: str, gradient: int) -> Array:
        out = np.empty(self._shapes().get(name, (1,)), np.float32)
        check(lib.ramet_variables_read(out.ctypes.data, out.size, self, name.encode(), gradient))
        return out

    def __getitem__(self, name: str) -> Array:
        return self._read(name, 0)

    def __setitem__(self, name: str, values: Any) -> None:
        data = np.ascontiguousarray(values, np.float32)
        check(lib.ramet_variables_write(self, name.encode(), data.ctypes.data, data.size))

    def gradient(self, name: str) -> Array:
        """What the programs of Graph.train have summed up since the last step."""
        return self._read(name, 1)

    def step(self, optimizer: str = "adamw", **options: Any) -> float:
        """learning_rate, beta1, beta2, epsilon, weight_decay, clip. Returns the norm of the gradients, which are then cleared."""
        norm = L.f64()
        check(lib.ramet_variables_step(C.byref(norm), self, C.byref(L.options(L.StepOptions, "ramet_step_options_init", {"optimizer": optimizer, **options}))))
        return norm.value

    def adapter(self, model: Model, alpha: float = 32.0) -> Adapter:
        """The pairs of Graph.model as an adapter of the model; alpha as there."""
        return Adapter(make("ramet_variables_adapter", self, model, alpha))

    def model(self, model: Model, encoding: Optional[str] = None) -> Model:
        """The model with the weights that Graph.model(full=True) made variables."""
        return Model(make("ramet_variables_model", self, model, encoding.encode() if encoding else None), model.runtime)

    def save(self, path: Path) -> None:
        check(lib.ramet_variables_save(self, _path(path)))

    def load(self, path: Path) -> None:
        """Values of variables that are there are overwritten, others are added."""
        check(lib.ramet_variables_load(self, _path(path)))


class Value:
    """A value of a graph. Arithmetic and methods add operations to it."""

    def __init__(self, graph: "Graph", index: int, dtype: str = "f32") -> None:
        self.graph, self.index, self.dtype = graph, index, dtype

    def apply(self, op: str, *others: "Optional[Operand]", **settings: float) -> "Value":
        """The operation's first result, this value as its first input."""
        return self.graph.apply(op, self, *others, **settings)[0]

    @property
    def columns(self) -> int:
        columns = L.i64()
        check(lib.ramet_graph_shape(None, None, C.byref(columns), self.graph, self.index))
        return columns.value

    def __add__(self, other: "Operand") -> "Value":
        return self.apply("add", other)

    def __sub__(self, other: "Operand") -> "Value":
        return self.apply("sub", other)

    def __mul__(self, other: "Operand") -> "Value":
        return self.apply("scale", by=other) if isinstance(other, (int, float)) else self.apply("mul", other)

    def __truediv__(self, other: "Operand") -> "Value":
        return self * (1 / other) if isinstance(other, (int, float)) else self.apply("mul", other.apply("recip"))

    def __rsub__(self, other: float) -> "Value":
        return -self + other

    def __neg__(self) -> "Value":
        return self * -1.0

    __radd__, __rmul__ = __add__, __mul__

    def relu(self) -> "Value":
        return self.apply("relu")

    def tanh(self) -> "Value":
        return self.apply("tanh")

    def sum(self) -> "Value":
        return self.apply("sum")

    def mean(self) -> "Value":
        return self.apply("mean")


Operand = Union[Value, float]


class Graph(L.Handle):
    """A graph for runs of at most max_rows rows and max_outs outs. ramet.names("graph") lists the operations with their signatures."""

    _free = "ramet_graph_free"

    def __init__(self, max_rows: int, max_outs: int = 0, *, runtime: Optional[Runtime] = None) -> None:
        self.runtime = runtime or default_runtime()
        super().__init__(make("ramet_graph_create", self.runtime, max_rows, max_outs))
        self.inputs: dict[str, tuple[str, str, int]] = {}
        self.outputs: list[str] = []

    def _value(self, function: str, *arguments: Any) -> Value:
        out = L.i32()
        check(getattr(lib, function)(C.byref(out), self, *arguments))
        return Value(self, out.value)

    def input(self, name: str, columns: int = 0, *, dtype: Literal["f32", "i32"] = "f32", axis: Literal["rows", "outs", "static"] = "rows") -> Value:
        """columns 0: one number or index a row."""
        value = self._value("ramet_graph_input", name.encode(), TYPES[dtype], AXES[axis], columns)
        value.dtype = dtype
        self.inputs[name] = (dtype, axis, columns)
        return value

    def constant(self, number: float) -> Value:
        return self._value("ramet_graph_constant", number)

    def variable(self, variables: Variables, name: str) -> Value:
        return self._value("ramet_graph_variable", variables, name.encode())

    def apply(self, op: str, *inputs: Optional[Operand], results: int = 1, **settings: float) -> list[Value]:
        """An operation by name: all its results, as many as are asked for. None: an input that is left out."""
        values = [-1 if v is None else v.index if isinstance(v, Value) else self.constant(v).index for v in inputs]
        outs = (L.i32 * results)()
        text = ",".join(f"{key}={float(value):.17g}" for key, value in settings.items())
        check(lib.ramet_graph_apply(outs, results, self, op.encode(), (L.i32 * max(len(values), 1))(*values), len(values), text.encode()))
        return [Value(self, i) for i in outs]

    def model(self, model: Model, variables: Optional[Variables] = None, **options: Any) -> Value:
        """A model's rows after its last norm, from the inputs of text_rows. full, rank, alpha, targets, seed: what of it is trained; none: frozen."""
        o = L.options(L.GraphModelOptions, "ramet_graph_model_options_init", {k: int(x) if isinstance(x, bool) else x for k, x in options.items()})
        value = self._value("ramet_graph_model", variables, model, C.byref(o))
        for name in ("tokens", "pos", "seq", *(("type",) if model.architecture == "bert" else ())):
            self.inputs[name] = ("i32", "rows", 0)
        return value

    def scan(self, step: Callable[..., Mapping[str, Value]], inputs: Mapping[str, Value], states: Mapping[str, int], seq: Value, *, given: Optional[Mapping[str, Value]] = None,
             reversed: bool = False, max_sequences: Optional[int] = None) -> dict[str, Value]:
        """A loop over the rows of each sequence: step(body, **inputs, **states) builds on the graph `body` what one step does, from one row of each input (of one that is no
        rows: all of it) and the states, {name: columns}, zero at first. It returns {name: value}, with the next value of every state; so does this, for all rows (of values
        that are no rows: their sum over steps). given: values that stand for variables of those names in the body. max_sequences: how many are run at once.

            h = g.scan(lambda body, x, h: {"h": (x + h.apply("linear", body.variable(v, "w"))).tanh()}, {"x": x}, {"h": 32}, seq)["h"]
        """
        axis, rows, columns = L.i32(), L.i64(), L.i64()
        check(lib.ramet_graph_shape(None, C.byref(rows), None, self, seq.index))
        body, names = Graph(min(max_sequences or rows.value, rows.value), runtime=self.runtime), [*inputs, *(given or {})]
        found, values = {}, [*inputs.values(), *(given or {}).values()]
        for name, value in inputs.items():
            check(lib.ramet_graph_shape(C.byref(axis), None, C.byref(columns), self, value.index))
            found[name] = body.input(name, columns.value, dtype="i32" if value.dtype == "i32" else "f32", axis="rows" if axis.value == 1 else "static")
        for name, count in states.items():
            found[name] = body.input(name, count)
        results = step(body, **found)
        for name, value in results.items():
            body.output(name, value)
        outs = (L.i32 * max(len(results), 1))()
        check(lib.ramet_graph_scan(outs, len(results), self, body, L.texts(names), (L.i32 * max(len(values), 1))(*[x.index for x in values]), len(values), seq.index, int(reversed)))
        del body._pointer  # the graph owns it now
        body._as_parameter_ = L.ptr()
        return {name: Value(self, i) for name, i in zip(results, outs)}

    def gradient(self, loss: Value, wrt: Sequence[Value]) -> list[Optional[Value]]:
        """d(loss)/d(each), more graph; None where the loss does not depend on it."""
        grads = (L.i32 * max(len(wrt), 1))()
        check(lib.ramet_graph_gradient(grads, self, loss.index, (L.i32 * max(len(wrt), 1))(*[v.index for v in wrt]), len(wrt)))
        return [Value(self, i) if i >= 0 else None for i in grads[: len(wrt)]]

    def train(self, variables: Variables, loss: Value) -> None:
        """Every run adds the loss's gradients to the variables' sums; Variables.step uses them."""
        check(lib.ramet_graph_train(self, variables, loss.index))

    def output(self, name: str, value: Value) -> None:
        check(lib.ramet_graph_output(self, name.encode(), value.index))
        self.outputs.append(name)

    def write(self, variables: Variables, name: str, value: Value, *, accumulate: bool = False) -> None:
        """At the end of every run the variable becomes the value, or is increased by it."""
        check(lib.ramet_graph_write(self, variables, name.encode(), value.index, int(accumulate)))


def text_rows(model: Model, texts: Sequence[Any], max_tokens: Optional[int] = None) -> dict[str, npt.NDArray[np.int32]]:
    """Inputs of Graph.model for texts or lists of ids, each cut at max_tokens (default: the model's context), an encoder's text before its closing [SEP]: seq is
    the number of a row's text."""
    limit = min(max_tokens or model.number("context"), model.number("context"))
    bert = model.architecture == "bert"
    parts = [model.tokenizer.encode(t, bos=True) if isinstance(t, str) else as_ids(t) for t in texts]
    parts = [p if len(p) <= limit else np.append(p[:limit - 1], p[-1]) if bert and isinstance(t, str) else p[:limit] for t, p in zip(texts, parts)]
    found = {"tokens": np.concatenate(parts), "pos": np.concatenate([np.arange(len(p)) for p in parts]), "seq": np.repeat(np.arange(len(parts)), [len(p) for p in parts])}
    if bert:
        found["type"] = np.zeros(len(found["tokens"]))
    return {name: np.ascontiguousarray(x, np.int32) for name, x in found.items()}


class Program(L.Handle):
    """A graph laid out to be run. times: measure its steps, for describe()."""

    _free = "ramet_program_free"

    def __init__(self, graph: Graph, mode: str = "exact", *, times: bool = False) -> None:
        super().__init__(make("ramet_program_create", graph, mode_number(mode) + (256 if times else 0)))
        self._inputs, self._outputs = dict(graph.inputs), list(graph.outputs)

    def run(self, outs: int = 0, /, **inputs: Any) -> dict[str, Array]:
        """Inputs by name, one row of an array for each row of the run. Returns the outputs. outs: how many, where no input says so."""
        counts, arrays = {"rows": 0, "outs": outs, "static": 1}, []
        for name, given in inputs.items():
            if name not in self._inputs:
                raise TypeError(f"there is no input {name!r}; there are {', '.join(self._inputs)}")
            dtype, axis, columns = self._inputs[name]
            array = np.ascontiguousarray(given, np.int32 if dtype == "i32" else np.float32)
            count, rest = divmod(array.size, max(columns, 1))
            if rest or (axis == "static" and count != 1) or (counts[axis] not in (0, count)):
                raise ValueError(f"input {name!r} of shape {array.shape} is not {counts[axis] or 'any number of'} rows of {max(columns, 1)}")
            counts[axis] = count
            arrays.append(array)
        names = L.texts(list(inputs))
        data = (L.ptr * max(len(arrays), 1))(*[a.ctypes.data for a in arrays])
        check(lib.ramet_program_run(self, counts["rows"], counts["outs"], names, data, len(arrays), L.Progress(), None))
        found = {}
        values, rows, columns_ = C.POINTER(L.f32)(), L.i64(), L.i64()
        for name in self._outputs:
            check(lib.ramet_program_output(C.byref(values), C.byref(rows), C.byref(columns_), self, name.encode()))
            found[name] = np.ctypeslib.as_array(values, (rows.value, columns_.value)).copy() if rows.value else np.empty((0, columns_.value), np.float32)
        return found

    def describe(self) -> str:
        """One line a step."""
        return L.take_text(make("ramet_program_describe", self))


class Layers:
    """Layers that make their variables under a name, "<name>.weight" and "<name>.bias", where they are not there yet."""

    def __init__(self, graph: Graph, variables: Variables, seed: int = 0) -> None:
        self.graph, self.variables, self.seed = graph, variables, seed

    def variable(self, name: str, shape: Union[int, tuple[int, int]], rule: str, trainable: bool = True) -> Value:
        if name not in set(self.variables):
            self.variables.add(name, shape, rule, seed=self.seed, trainable=trainable)
        return self.graph.variable(self.variables, name)

    def linear(self, x: Value, name: str, outputs: int, rule: str = "he") -> Value:
        return x.apply("linear", self.variable(f"{name}.weight", (outputs, x.columns), rule), self.variable(f"{name}.bias", outputs, "zeros"))

    def conv2d(self, x: Value, name: str, outputs: int, height: int, width: int, kernel: int, stride: int = 1, pad: int = 0, rule: str = "he") -> Value:
        weight = self.variable(f"{name}.weight", (outputs, kernel * kernel * x.columns // (height * width)), rule)
        return x.apply("conv2d", weight, self.variable(f"{name}.bias", outputs, "zeros"), height=height, width=width, kernel=kernel, stride=stride, pad=pad)

    def gru(self, x: Value, name: str, hidden: int, seq: Value, *, reversed: bool = False, max_sequences: Optional[int] = None) -> Value:
        """The states of a gated recurrent unit over each sequence; torch.nn.GRU's with weight_ih, weight_hh and their biases as variables."""
        rule = f"uniform:{hidden ** -0.5}"
        wi, bi = self.variable(f"{name}.weight_ih", (3 * hidden, x.columns), rule), self.variable(f"{name}.bias_ih", 3 * hidden, rule)
        self.variable(f"{name}.weight_hh", (3 * hidden, hidden), rule)
        self.variable(f"{name}.bias_hh", 3 * hidden, rule)

        def step(body: Graph, x: Value, h: Value) -> dict[str, Value]:
            return {"h": x.apply("gru_cell", h, None, body.variable(self.variables, f"{name}.weight_hh"), None, body.variable(self.variables, f"{name}.bias_hh"))}
        return self.graph.scan(step, {"x": x.apply("linear", wi, bi)}, {"h": hidden}, seq, reversed=reversed, max_sequences=max_sequences)["h"]

    def mixture(self, x: Value, name: str, outputs: int, experts: int, hidden: int, k: int, rule: str = "he") -> tuple[Value, Value]:
        """A mixture of experts (Shazeer 2017), each linear-gelu-linear: of every row the k likeliest by its gate, weighted by their shares; and the loss that keeps them equally
        busy (Fedus 2021: 1 when they are). A row costs what its k experts do. The weights of one expert follow those of another, the biases are columns."""
        gate, y, shares, busy = self.linear(x, f"{name}.gate", experts, "glorot").apply("softmax"), None, None, None
        wide, narrow = self.variable(f"{name}.in.weight", (experts * hidden, x.columns), rule), self.variable(f"{name}.out.weight", (experts * outputs, hidden), rule)
        biases = [self.variable(f"{name}.{part}.bias", (size, experts), "zeros") for part, size in (("in", hidden), ("out", outputs))]
        left = gate
        for _ in range(k):
            choice = left.apply("top_k", k=1)
            left = left - choice * 2
            share = (gate * choice).apply("row_sum")
            h = (x.apply("experts", wide, choice) + choice.apply("linear", biases[0])).apply("gelu")
            part = (h.apply("experts", narrow, choice) + choice.apply("linear", biases[1])).apply("row_scale", share)
            y, shares, busy = (part, share, choice) if y is None else (y + part, shares + share, busy + choice)
        return y.apply("row_scale", shares.apply("recip")), (busy.apply("mean_rows") * gate.apply("mean_rows")).sum() * (experts / k)

    def batch_norm(self, x: Value, name: str, channels: int, training: bool, momentum: float = 0.1, eps: float = 1e-5) -> Value:
        """training: by the run's statistics, which move the stored ones; else by the stored."""
        w, b = self.variable(f"{name}.weight", channels, "ones"), self.variable(f"{name}.bias", channels, "zeros")
        stored = {s: self.variable(f"{name}.{s}", channels, rule, False) for s, rule in (("mean", "zeros"), ("variance", "ones"))}
        if not training:
            return x.apply("batch_norm_fixed", w, b, *stored.values(), eps=eps)
        y, *found = self.graph.apply("batch_norm", x, w, b, results=3, eps=eps)
        for (key, old), new in zip(stored.items(), found):
            self.graph.write(self.variables, f"{name}.{key}", (new - old) * momentum, accumulate=True)
        return y
