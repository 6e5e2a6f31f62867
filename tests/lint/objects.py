#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the compiled objects may not refer to or hold.

    objects.py NM kernels LIBRARY.a...   no allocator, no thread, no file
    objects.py NM library LIBRARY.a...   no abort, assert, exit, output or signal handler; no writable global; the only
                                         thread-local is the last error's, in status.c
"""
import re
import subprocess
import sys

ALLOCATOR = re.compile(r"malloc|calloc|realloc|reallocarray|free|posix_memalign|aligned_alloc|memalign|valloc|pvalloc|mmap(64)?|munmap|mremap|s?brk"
                       r"|strn?dup|v?asprintf|pthread_.*|thrd_.*|mtx_.*|f?open(64)?|f?read|f?write|fclose|ramet__(alloc|mem|arena).*")
HOSTILE = re.compile(r"abort|__assert.*|_?[eE]xit|quick_exit|(__)?v?printf(_chk)?|puts|putchar|perror|std(out|err|in)|signal|sigaction|raise|kill|system"
                     r"|atexit|__cxa_atexit|setlocale|srand|rand|longjmp|_longjmp")
SECTION = re.compile(r"\.(data(?!\.rel\.ro)|bss)|\*COM\*")

nm, rule, *libraries = sys.argv[1:]
failures, objects = [], set()
for library in libraries:
    member = library
    # sysv rows: name | value | class | type | size | line | section
    listing = subprocess.run([nm, "-f", "sysv", library], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        head = re.match(r"(?:Symbols from |Undefined symbols from )?(?:.*\[)?([^\[\]]*\.o)\]?:$", line)
        if head:
            member = head.group(1)
            objects.add((library, member))
        columns = [c.strip() for c in line.split("|")]
        if len(columns) != 7 or columns[0] == "Name":
            continue
        name, kind, section = columns[0].split("@")[0], columns[2], columns[6]
        if kind in ("U", "w") and (ALLOCATOR if rule == "kernels" else HOSTILE).fullmatch(name):
            failures.append(f"{member}: refers to {name}")
        if rule == "library" and columns[3] == "TLS" and kind != "U" and "status.c" not in member:
            failures.append(f"{member}: thread-local {name}; only status.c has one")
        if rule == "library" and columns[3] not in ("TLS", "SECTION") and (SECTION.match(section) or kind == "C"):
            failures.append(f"{member}: writable global {name} in {section}")
if not objects:
    failures.append("no object was found in " + (" ".join(libraries) or "nothing"))
print("\n".join(failures) or f"objects: {len(objects)} keep to the rule '{rule}'")
sys.exit(bool(failures))
