# SPDX-License-Identifier: Apache-2.0
# Two commands for a fresh machine. Below them is plain Meson: meson setup build && meson test -C build
.POSIX:
.PHONY: demo test clean
BUILD = build
# Where the demo keeps the model and texts that it fetches; it writes into $(BUILD)/demo.
CACHE = $${XDG_CACHE_HOME:-$$HOME/.cache}/ramet

demo:
	tests/bootstrap.sh $(BUILD)
	.venv/bin/ninja -C $(BUILD)
	.venv/bin/python examples/demo/fetch.py --cache "$(CACHE)"
	rm -rf $(BUILD)/demo
	data="$(CACHE)/data"; parts() { echo "$$data/$$1.train.jsonl,$$data/$$1.valid.jsonl,$$data/$$1.test.jsonl"; }; \
	$(BUILD)/examples/ramet/ramet cycle "$(CACHE)/models/SmolLM2-135M-Instruct.Q4_1.gguf" -o $(BUILD)/demo \
	  --domain medicine="$$(parts medicine)" --domain cooking="$$(parts cooking)" \
	  --topic medicine="signs and symptoms of diseases" --topic cooking="the preparation of dishes" \
	  --general "$$data/general.valid.jsonl,$$data/general.test.jsonl" --chat "$$data/chat.valid.jsonl,$$data/chat.test.jsonl" --eval-tokens 3060

test:
	tests/bootstrap.sh $(BUILD)
	.venv/bin/ninja -C $(BUILD)
	rm -f $(BUILD)/meson-logs/testlog.json
	status=0; .venv/bin/meson test -C $(BUILD) --no-rebuild --print-errorlogs || status=$$?; \
	.venv/bin/python tests/tools/total.py $(BUILD)/meson-logs/testlog.json && exit $$status

clean:
	rm -rf $(BUILD)
