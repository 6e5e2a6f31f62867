#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_structures.py ROOT: the Python package's structures and functions are those of the headers: the same members, types and
order, the same number and kinds of parameters. Standard library alone."""
import ctypes as C
import importlib.util
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
spec = importlib.util.spec_from_file_location("ramet_library", root / "bindings/python/ramet/_library.py")
L = importlib.util.module_from_spec(spec)
spec.loader.exec_module(L)
headers = "\n".join(p.read_text() for p in sorted((root / "include/ramet").glob("*.h")))
plain = re.sub(r"^\s*#.*$", "", re.sub(r"/\*.*?\*/", "", headers, flags=re.S), flags=re.M)

NUMBERS = {"int32_t": C.c_int32, "uint32_t": C.c_uint32, "int64_t": C.c_int64, "uint64_t": C.c_uint64, "float": C.c_float, "double": C.c_double,
           "size_t": C.c_size_t, "ramet_status": C.c_int32}
POINTERS = (C.c_void_p, C.c_char_p)
failures = []


def is_pointer(kind):
    return kind in POINTERS or isinstance(kind, type) and issubclass(kind, (C._Pointer, C._CFuncPtr))


def fits(declared, kind):
    """Does the ctypes type fit the C type, given as text without the name?"""
    declared = re.sub(r"\bconst\b", "", declared).replace(" ", "")
    if "*" in declared or declared.endswith("_fn"):
        wanted = NUMBERS.get(declared[:-1]) if declared.count("*") == 1 else None
        pointed = getattr(kind, "_type_", None) if isinstance(kind, type) and issubclass(kind, C._Pointer) else None
        return is_pointer(kind) and (pointed is None or wanted is None or pointed is wanted)
    return kind is NUMBERS.get(declared)


def names_and_types(text):
    """"double beta1, beta2" and "int64_t dim[4]" -> [(name, type, count)]"""
    first, *more = text.split(",")
    kind, name = re.fullmatch(r"(.*?)(\w+(?:\[\d+\])?)", first.strip(), re.S).groups()
    for n in [name, *more]:
        base, _, count = n.strip().rstrip("]").partition("[")
        yield base, kind.strip(), int(count or 0)


structs, compared = {}, 0
for name, body in re.findall(r"typedef struct (ramet_\w+) \{(.*?)\}", plain, re.S):
    members = [m.strip() for m in body.split(";") if m.strip()]
    if not any("(*" in m for m in members):
        structs[name] = [row for m in members for row in names_and_types(m)]

for name, kind in sorted(vars(L).items()):
    if not (isinstance(kind, type) and issubclass(kind, C.Structure) and kind is not C.Structure):
        continue
    c_name = "ramet_" + re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    if c_name not in structs:
        failures.append(f"{name}: no struct {c_name} in the headers")
        continue
    compared += 1
    theirs, ours = structs[c_name], kind._fields_
    if [t[0] for t in theirs] != [o[0] for o in ours]:
        failures.append(f"{c_name}: the header has {[t[0] for t in theirs]}, the package {[o[0] for o in ours]}")
        continue
    for (member, declared, count), (_, ctype) in zip(theirs, ours):
        single = ctype._type_ if count else ctype
        if not fits(declared, single) or (count and ctype._length_ != count):
            failures.append(f"{c_name}.{member}: the header has {declared}{[count] if count else ''}, the package {ctype.__name__}")
    init = getattr(L.lib, c_name + "_init", None)
    if init is not None:
        room = (C.c_uint8 * (C.sizeof(kind) + 32))(*[0xAA] * (C.sizeof(kind) + 32))
        init(C.byref(room), C.sizeof(kind))
        if C.cast(room, C.POINTER(C.c_uint32))[0] != C.sizeof(kind) or any(b != 0xAA for b in room[C.sizeof(kind):]):
            failures.append(f"{c_name}_init: a struct_size other than told, or bytes written beyond it")

functions = {name: (result.strip(), [a.strip() for a in arguments.split(",")] if arguments.strip() != "void" else [])
             for result, name, arguments in re.findall(r"RAMET_API\s+([\w\s*]+?)\b(ramet_\w+)\(([^;]*?)\);", plain)}
for name in functions:
    if not hasattr(L.lib, name):
        failures.append(f"{name} is declared in a header and is not in the library")
declared = {row[1]: row for row in L._rows}
for name, (result, _, *arguments) in declared.items():
    if name not in functions:
        failures.append(f"{name} is used by the package and declared in no header")
        continue
    c_result, c_arguments = functions[name]
    if (result is None) != (c_result == "void") or result is not None and not fits(c_result, result):
        failures.append(f"{name}: the header returns {c_result}, the package expects {getattr(result, '__name__', None)}")
    if len(arguments) != len(c_arguments):
        failures.append(f"{name}: the header has {len(c_arguments)} parameters, the package {len(arguments)}")
        continue
    for text, kind in zip(c_arguments, arguments):
        parameter = re.fullmatch(r"(.*?)(\w+)", text, re.S).group(1) if not text.endswith("*") else text
        if not fits(parameter, kind):
            failures.append(f"{name}: the header has {text!r}, the package {kind.__name__}")
print("\n".join(failures) or f"structures: {compared} structs and {len(declared)} functions as in the headers; all {len(functions)} declared functions are there")
sys.exit(bool(failures) or compared < 10 or len(declared) < 50 or len(functions) < len(declared))
