#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare encodings and files with the reference packages (gguf 0.19.0, safetensors, numpy). Usage: check_formats.py FORMAT_TOOL
Exit code 77 (skipped) when a package is missing. RAMET_TEST_MODEL, a GGUF file, is rewritten and compared when it is set."""
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    from gguf import GGMLQuantizationType as T, GGUFReader, GGUFWriter
    from gguf.quants import dequantize, quantize
    from safetensors.numpy import load_file, save_file
    from safetensors import safe_open
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

TOOL = sys.argv[1]
rng = np.random.default_rng(11)


def tool(*args, data=None):
    done = subprocess.run([TOOL, *map(str, args)], input=data, capture_output=True)
    assert done.returncode == 0, (args, done.stderr.decode())
    return done.stdout


def check_encodings():
    n = 1 << 18
    scale = np.exp(rng.uniform(-30, 15, size=(n // 32, 1)))
    kinds = {
        "normal": rng.standard_normal(n), "small": rng.standard_normal(n) * 1e-3, "scaled": (rng.standard_normal((n // 32, 32)) * scale).ravel(),
        "sparse": rng.standard_normal(n) * (rng.random(n) < 0.1), "integers": rng.integers(-20, 20, n).astype(float), "tiny": rng.standard_normal(n) * 1e-30,
    }
    for name in ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0"]:
        for kind, x in kinds.items():
            x = (x.astype(np.float32) + np.float32(0)).reshape(-1, 256)  # no -0: of a block of zeros the package and ggml's C differ in d's sign
            with np.errstate(all="ignore"):
                want = quantize(x, T[name])
                back = dequantize(want, T[name]).astype(np.float32)
            got = tool("encode", name, data=x.tobytes())
            assert got == want.tobytes(), f"{name} of {kind}: encoded bytes differ"
            values = np.frombuffer(tool("decode", name, data=got), np.float32)
            same = (values.view(np.uint32) == back.ravel().view(np.uint32)) | (np.isnan(values) & np.isnan(back.ravel()))
            assert same.all(), f"{name} of {kind}: {np.count_nonzero(~same)} values differ"
        blocks = rng.integers(0, 256, len(got), dtype=np.uint8)  # any bytes decode alike
        values = np.frombuffer(tool("decode", name, data=blocks.tobytes()), np.float32)
        with np.errstate(all="ignore"):
            back = dequantize(blocks.reshape(-1, want.shape[-1] * want.itemsize).view(want.dtype), T[name]).astype(np.float32).ravel()
        same = (values.view(np.uint32) == back.view(np.uint32)) | (np.isnan(values) & np.isnan(back))
        assert same.all(), f"{name} of random bytes: {np.count_nonzero(~same)} values differ"
        print(f"encodings: {name} equal on {len(kinds)} x {n} values")


def fields(path):
    reader = GGUFReader(path)
    kv = {k: ([t.name for t in f.types], [p.tobytes() for p in f.parts]) for k, f in reader.fields.items()}
    return list(reader.fields), kv, [(t.name, t.tensor_type, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors]


def check_gguf(folder):
    path, again = folder / "a.gguf", folder / "b.gguf"
    w = GGUFWriter(path, "test")
    w.add_uint8("t.u8", 200); w.add_int8("t.i8", -3); w.add_uint16("t.u16", 65535); w.add_int16("t.i16", -300); w.add_uint32("t.u32", 1 << 31)
    w.add_int32("t.i32", -5); w.add_float32("t.f32", 0.1); w.add_bool("t.bool", True); w.add_string("t.text", "h\u00e9"); w.add_uint64("t.u64", 1 << 63)
    w.add_int64("t.i64", -(1 << 62)); w.add_float64("t.f64", 0.1); w.add_array("t.words", ["a", "", "\U0001f600"]); w.add_array("t.numbers", [1, -2, 3]); w.add_array("t.floats", [0.5, 1.5])
    w.add_array("t.flags", [True, False])
    w.add_tensor("odd", rng.standard_normal((3, 5)).astype(np.float32))
    w.add_tensor("half", rng.standard_normal((7, 3)).astype(np.float16))
    for name in ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "BF16"]:
        w.add_tensor(name, quantize(rng.standard_normal((3, 64)).astype(np.float32), T[name]), raw_dtype=T[name])
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    tool("gguf", path, again)
    assert fields(path) == fields(again), "a file made by gguf changes when rewritten"
    assert path.read_bytes() == again.read_bytes(), "a file made by gguf is not byte-equal when rewritten"
    print("gguf: a file of every type is byte-equal when rewritten")
    model = os.environ.get("RAMET_TEST_MODEL")
    if model and not Path(model).is_dir():
        tool("gguf", model, again)
        assert fields(model) == fields(again), f"{model} changes when rewritten"
        same = Path(model).read_bytes() == again.read_bytes()
        print(f"gguf: {model}: metadata and data are equal when rewritten; the files are {'byte-equal' if same else 'not byte-equal'}")


def check_safetensors(folder):
    path, again = folder / "a.safetensors", folder / "b.safetensors"
    tensors = {"x": rng.standard_normal((3, 5)).astype(np.float32), "h": rng.standard_normal(7).astype(np.float16), "i": np.arange(6, dtype=np.int64).reshape(2, 3),
               "j": np.arange(5, dtype=np.int32), "u": np.arange(3, dtype=np.uint8), "b": np.arange(3, dtype=np.int8), "none": np.zeros((0, 4), np.float32), "scalar": np.array(2, np.float32)}
    save_file(tensors, path, metadata={"format": "np", "a\"b": "c\nd\u00e9"})
    tool("safetensors", path, again)
    back = load_file(again)
    assert set(back) == set(tensors)
    for k, v in tensors.items():
        assert back[k].dtype == v.dtype and back[k].shape == v.shape and (back[k] == v).all(), k
    with safe_open(again, "np") as f:
        assert f.metadata() == {"format": "np", "a\"b": "c\nd\u00e9"}
    save_file({}, path)
    tool("safetensors", path, again)
    assert load_file(again) == {}
    print("safetensors: read from and written for the reference package")


def check_json(folder):
    path = folder / "a.json"
    values = [struct.unpack("<d", struct.pack("<Q", int(b)))[0] for b in rng.integers(0, 1 << 64, 20000, dtype=np.uint64)]
    values = [v for v in values if np.isfinite(v)] + [1e22, 1e23, 5e-324, 2.2250738585072014e-308, 0.1, 1 / 3]
    document = {"numbers": values, "integers": [0, -1, 2**63 - 1, -(2**63)], "text": "".join(map(chr, [*range(1, 0xd800, 7), *range(0xe000, 0x110000, 997)])), "\u0000": {"": []}, "nested": [[[{}]]]}
    for ascii_only in (True, False):
        path.write_text(json.dumps(document, ensure_ascii=ascii_only), encoding="utf-8")
        assert json.loads(tool("json", path)) == document
    print(f"json: {len(values)} numbers and every kind of text read and written as Python does")


with tempfile.TemporaryDirectory() as name:
    check_encodings()
    check_gguf(Path(name))
    check_safetensors(Path(name))
    check_json(Path(name))
