# SPDX-License-Identifier: Apache-2.0
"""Small texts that the tests make for themselves: sentences from a few lists, the same for the same seed."""
import json
import pathlib
import random

STYLES = {
    "stories": (["the nurse", "the cook", "a farmer", "the river", "an ant", "the old man"], ["carries", "waters", "counts", "remembers", "finds"],
                ["the garden", "a basket of figs", "her notes", "the north field", "three stones"], ["in the morning", "at noon", "before the rain", "after the harvest"]),
    "notes": (["this room", "that road", "the letter", "our boat", "the small bridge"], ["was", "is not", "became", "remained", "looked"],
              ["wet", "empty", "older than the town", "open to all", "hard to see"], ["for a week", "in winter", "as before", "to everyone there"]),
}


def paragraphs(style, seed, count):
    draw = random.Random(f"{style}{seed}")
    return [" ".join(" ".join(draw.choice(part) for part in STYLES[style]).capitalize() + "." for _ in range(20)) for _ in range(count // 20)]


def write(folder, style, seed, count, suffix=".txt"):
    """A file of so many sentences in paragraphs of twenty; .jsonl has a document a paragraph. Returns its path as text."""
    path = pathlib.Path(folder, f"{style}-{seed}-{count}{suffix}")
    parts = paragraphs(style, seed, count)
    path.write_text("".join(json.dumps({"text": p}) + "\n" for p in parts) if suffix == ".jsonl" else "\n\n".join(parts))
    return str(path)
