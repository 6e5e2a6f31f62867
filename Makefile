# SPDX-License-Identifier: Apache-2.0
# Two commands for a fresh machine. Below them is plain Meson: meson setup build && meson test -C build
.POSIX:
.PHONY: demo test clean
BUILD = build
# Where the demo keeps the model and texts that it fetches, and where it writes.
CACHE = $${XDG_CACHE_HOME:-$$HOME/.cache}/ramet
OUT = $(BUILD)/demo

demo:
	tests/bootstrap.sh $(BUILD)
	.venv/bin/ninja -C $(BUILD)
	.venv/bin/python examples/demo/fetch.py --cache "$(CACHE)"
	$(BUILD)/examples/ramet/ramet cycle "$(CACHE)/models/SmolLM2-135M-Instruct.Q4_1.gguf" \
	  --domain medicine="$(CACHE)/data/medicine.train.jsonl" --domain cooking="$(CACHE)/data/cooking.train.jsonl" -o $(OUT)

test:
	tests/bootstrap.sh $(BUILD)
	.venv/bin/ninja -C $(BUILD)
	.venv/bin/meson test -C $(BUILD) --no-rebuild --print-errorlogs

clean:
	rm -rf $(BUILD)
