#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write a tiny BERT with random weights as a Hugging Face folder: config.json, model.safetensors, tokenizer.json. Standard library only.

    make_bert.py FOLDER

The same bytes on every machine: 2 layers, width 32, 4 heads, 64 feed-forward channels, 40 words, 48 positions.
"""
import json
import pathlib
import struct
import sys

from make_model import uniform

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrst", *("##" + c for c in "abcdefghi"), "the", "river", "flows", ".", ",", "fish"]
WIDTH, FF, LAYERS, CONTEXT = 32, 64, 2, 48


def shapes():
    yield from {"word_embeddings.weight": (len(WORDS), WIDTH), "position_embeddings.weight": (CONTEXT, WIDTH), "token_type_embeddings.weight": (2, WIDTH),
                "LayerNorm.weight": (WIDTH,), "LayerNorm.bias": (WIDTH,)}.items()
    for n in range(LAYERS):
        for part, rows, cols in (("attention.self.query", WIDTH, WIDTH), ("attention.self.key", WIDTH, WIDTH), ("attention.self.value", WIDTH, WIDTH),
                                 ("attention.output.dense", WIDTH, WIDTH), ("intermediate.dense", FF, WIDTH), ("output.dense", WIDTH, FF)):
            yield f"encoder.layer.{n}.{part}.weight", (rows, cols)
            yield f"encoder.layer.{n}.{part}.bias", (rows,)
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            yield f"encoder.layer.{n}.{part}.weight", (WIDTH,)
            yield f"encoder.layer.{n}.{part}.bias", (WIDTH,)


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    random, head, blob = uniform(9), {}, b""
    for name, shape in shapes():
        name = name if name.startswith("encoder") else "embeddings." + name
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        middle = 1.0 if "LayerNorm.weight" in name else 0.0
        data = struct.pack(f"<{count}f", *(middle + 0.4 * next(random) for _ in range(count)))
        head[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + blob)
    (folder / "config.json").write_text(json.dumps({
        "model_type": "bert", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": FF, "vocab_size": len(WORDS),
        "max_position_embeddings": CONTEXT, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "position_embedding_type": "absolute"}))
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": w, "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False} for i, w in enumerate(WORDS[:5])],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {w: {"id": w, "ids": [WORDS.index(w)], "tokens": [w]} for w in ("[CLS]", "[SEP]")}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {w: i for i, w in enumerate(WORDS)}}}))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
