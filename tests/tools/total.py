#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One line about a run of the tests: "61 passed, 0 failed, 4 skipped".    total.py BUILD/meson-logs/testlog.json"""
import json
import sys

counts = {"passed": 0, "failed": 0, "skipped": 0}
kinds = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped", "IGNORED": "skipped"}
with open(sys.argv[1], encoding="utf-8") as log:
    for line in log:
        test = json.loads(line)
        kind = kinds.get(test["result"], "failed")
        counts[kind] += 1
        if kind == "failed":
            print(f"{test['result'].lower()}: {test['name']}")
print(", ".join(f"{number} {kind}" for kind, number in counts.items()))
sys.exit(counts["failed"] > 0 or counts["passed"] == 0)
