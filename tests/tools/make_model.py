#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write a tiny llama model with random weights as GGUF v3: the fixture of the unit tests. Standard library only.

    make_model.py OUT.gguf [--layers 2] [--width 64] [--heads 4] [--kv-heads 2] [--ffn 128] [--context 256]
                           [--encoding F32|F16|BF16|Q8_0|Q4_K] [--untied] [--seed 1] [--folder FOLDER]
    make_model.py OUT.gguf --random Q4_K ...

--random takes random bits as blocks of that encoding (Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K), with scales that give weights the same variance:
hundreds of MB in a second, to measure with; Python 3.9. --folder writes the same model as a Hugging Face folder too: config.json, model.safetensors, tokenizer.json, tokenizer_config.json.

The same arguments give the same bytes on every machine. What is inside:

  architecture   llama: rotary base 10000, RMS-norm epsilon 1e-5, output tied to the embedding unless --untied
  tensors        token_embd, output_norm, [output,] blk.N.{attn_norm, attn_q, attn_k, attn_v, attn_output, ffn_norm, ffn_gate,
                 ffn_up, ffn_down}; norms are always F32, the rest has --encoding
  tokenizer      "gpt2" byte-level BPE, pre-tokenizer "smollm", 320 ids:
                 0 <|endoftext|>  1 <|im_start|> (bos)  2 <|im_end|> (eos, padding)  3..258 the 256 bytes, in byte order
                 259..319 the 61 merges below, in order of rank
  chat template  ChatML with SmolLM2's shape: a default system message when the first message is not one
"""
import argparse
import json
import os
import random as bits
import struct

MERGES = """Ġ t|h e|Ġ a|i n|Ġt he|r e|o n|Ġ s|e r|Ġ w|n d|a t|Ġ o|o u|i s|Ġ c|e n|i t|o r|e s|Ġ b|Ġ f|e d|a n|in g|Ġ p|Ġo f|Ġa nd|a l|Ġ m|
a r|Ġt o|Ġ h|Ġ d|l l|Ġ in|r o|l e|o m|i c|Ġt h|Ġ l|Ġ n|v e|i on|Ġb e|Ġ is|a s|Ġ re|o t|s t|e l|Ġ g|e c|u r|c h|Ġf or|en t|Ġ u|i l|Ġw as"""
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful "
    "assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
ENCODINGS = {"F32": 0, "F16": 1, "Q8_0": 8, "BF16": 30, "Q4_K": 12}
BLOCKS = {"Q8_0": 32, "Q4_K": 256}
# GGUF type, file type, elements and bytes of a block, where d is, where the minimum is and as how many d, standard deviation of random bits in d
RANDOM = {"Q5_0": (6, 8, 32, 22, 0, None, 0, 9.23), "Q5_1": (7, 9, 32, 24, 0, 2, -15.5, 9.23), "Q8_0": (8, 7, 32, 34, 0, None, 0, 73.9),
          "Q4_K": (12, 15, 256, 144, 0, 2, 7.5, 257), "Q5_K": (13, 17, 256, 176, 0, 2, 15.5, 526), "Q6_K": (14, 18, 256, 210, 208, None, 0, 1366)}
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def byte_letters():
    """The printable letter that stands for each byte in byte-level BPE (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {b: chr(b) for b in plain}, 0
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + extra)
            extra += 1
    return [letters[b] for b in range(256)]


def uniform(seed):
    """SplitMix64 as numbers in -1..1: the same on every platform."""
    state, mask = seed & (2**64 - 1), 2**64 - 1
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        yield ((z ^ (z >> 31)) >> 11) / 2**52 - 1


def half(v):
    return struct.unpack("<e", struct.pack("<e", v))[0]


def encode_q4_k(values):
    """Blocks of 256: w = d * scale * q - dmin * minimum, scale and minimum of 32 elements in six bits each."""
    out = bytearray()
    for start in range(0, len(values), 256):
        parts = [values[start + 32 * j:start + 32 * j + 32] for j in range(8)]
        lows = [max(0.0, -min(p)) for p in parts]
        d, dmin = half(max((max(p) + low) / 15 for p, low in zip(parts, lows)) / 63), half(max(lows) / 63)
        scales = [min(63, round((max(p) + low) / 15 / d)) if d else 0 for p, low in zip(parts, lows)]
        minimums = [min(63, round(low / dmin)) if dmin else 0 for low in lows]
        codes = [[max(0, min(15, round((v + dmin * m) / (d * s)))) if d * s else 0 for v in p] for p, s, m in zip(parts, scales, minimums)]
        out += struct.pack("<ee", d, dmin)
        out += bytes(scales[j] | scales[j + 4] >> 4 << 6 for j in range(4)) + bytes(minimums[j] | minimums[j + 4] >> 4 << 6 for j in range(4))
        out += bytes(scales[j + 4] & 15 | (minimums[j + 4] & 15) << 4 for j in range(4))
        for j in range(0, 8, 2):
            out += bytes(low | high << 4 for low, high in zip(codes[j], codes[j + 1]))
    return bytes(out)


def random_blocks(count, columns, encoding, deviation, source):
    _, _, block, size, at, minimum, times, spread = RANDOM[encoding]
    if columns % block:
        raise SystemExit(f"make_model: {encoding} wants rows of a multiple of {block}, not {columns}")
    blocks = count // block
    out, d = bytearray(source.randbytes(blocks * size)), deviation / spread
    for place, number in ((at, d), (minimum, d * times)):
        for i, byte in enumerate(struct.pack("<e", number)) if place is not None else ():
            out[place + i::size] = bytes([byte]) * blocks
    return bytes(out)


def encode(values, encoding):
    if encoding == "Q4_K":
        return encode_q4_k(values)
    if encoding == "F32":
        return struct.pack(f"<{len(values)}f", *values)
    if encoding == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    if encoding == "BF16":
        bits = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
        return struct.pack(f"<{len(bits)}H", *((b + 0x7FFF + ((b >> 16) & 1)) >> 16 for b in bits))
    out = bytearray()
    for start in range(0, len(values), 32):
        block = values[start:start + 32]
        scale = half(max(map(abs, block)) / 127)
        quants = [max(-127, min(127, round(v / scale))) if scale else 0 for v in block]
        out += struct.pack("<e32b", scale, *quants)
    return bytes(out)


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, v):
    if kind == STRING:
        return string(v)
    if kind == BOOL:
        return struct.pack("<B", v)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f"}[kind], v)


def pair(key, kind, v, element=None):
    head = string(key) + struct.pack("<I", kind)
    if kind != ARRAY:
        return head + value(kind, v)
    return head + struct.pack("<IQ", element, len(v)) + b"".join(value(element, x) for x in v)


HF_NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj", "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def write_folder(a, tensors, tokens, merges):
    """The model as Hugging Face has it: rows of q and k by halves, not pairs."""
    head, offset, blobs = {}, 0, []
    for name, encoding, shape, blob in tensors:
        kind = name.split(".")[-1]
        if kind in ("attn_q", "attn_k"):
            row, half = len(blob) // shape[0], a.width // a.heads // 2
            rows = [blob[r * row:(r + 1) * row] for r in range(shape[0])]
            blob = b"".join(rows[first + 2 * j + second] for first in range(0, shape[0], 2 * half) for second in (0, 1) for j in range(half))
        layer = name.split(".")[1] if "." in name else None
        head[(f"model.layers.{layer}." if layer else "") + HF_NAMES[kind] + ".weight"] = {
            "dtype": encoding, "shape": list(shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(a.folder, exist_ok=True)
    special = [{"id": i, "content": tokens[i], "special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False} for i in range(3)]
    texts = {
        "config.json": {"model_type": "llama", "hidden_size": a.width, "num_hidden_layers": a.layers, "num_attention_heads": a.heads,
                        "num_key_value_heads": a.kv_heads, "intermediate_size": a.ffn, "vocab_size": len(tokens), "max_position_embeddings": a.context,
                        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": not a.untied},
        "tokenizer.json": {"version": "1.0", "added_tokens": special, "normalizer": None, "post_processor": None, "decoder": {"type": "ByteLevel"},
                           "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                             {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
                           "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}},
        "tokenizer_config.json": {"bos_token": tokens[1], "eos_token": tokens[2], "unk_token": tokens[0], "pad_token": tokens[2],
                                  "add_prefix_space": False, "chat_template": TEMPLATE},
    }
    for name, value in texts.items():
        with open(os.path.join(a.folder, name), "w", encoding="utf-8") as out:
            json.dump(value, out)
    with open(os.path.join(a.folder, "model.safetensors"), "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    for name, default in (("layers", 2), ("width", 64), ("heads", 4), ("kv-heads", 2), ("ffn", 128), ("context", 256), ("seed", 1)):
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--encoding", choices=ENCODINGS, default="F32")
    parser.add_argument("--untied", action="store_true")
    parser.add_argument("--folder")
    parser.add_argument("--random", choices=RANDOM)
    a = parser.parse_args()

    merges = MERGES.replace("\n", "").split("|")
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_letters(), *(m.replace(" ", "") for m in merges)]
    if len(set(tokens)) != 320 or any(part not in tokens for m in merges for part in m.split(" ")):
        raise SystemExit("make_model: the table of merges is not 61 new pairs of known tokens")
    head_width = a.width // a.heads
    kv_width = head_width * a.kv_heads
    keys = [
        ("general.architecture", STRING, "llama"), ("general.type", STRING, "model"), ("general.name", STRING, "ramet test fixture"),
        ("llama.block_count", U32, a.layers), ("llama.context_length", U32, a.context), ("llama.embedding_length", U32, a.width),
        ("llama.feed_forward_length", U32, a.ffn), ("llama.attention.head_count", U32, a.heads),
        ("llama.attention.head_count_kv", U32, a.kv_heads), ("llama.rope.freq_base", F32, 10000.0),
        ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5), ("llama.vocab_size", U32, len(tokens)),
        ("llama.rope.dimension_count", U32, head_width), ("general.file_type", U32, 
            RANDOM[a.random][1] if a.random else {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32, "Q4_K": 15}[a.encoding]),
        ("general.quantization_version", U32, 2),
        ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, "smollm"),
        ("tokenizer.ggml.tokens", ARRAY, tokens, STRING), ("tokenizer.ggml.token_type", ARRAY, [3] * 3 + [1] * 317, I32),
        ("tokenizer.ggml.merges", ARRAY, merges, STRING), ("tokenizer.ggml.bos_token_id", U32, 1), ("tokenizer.ggml.eos_token_id", U32, 2),
        ("tokenizer.ggml.unknown_token_id", U32, 0), ("tokenizer.ggml.padding_token_id", U32, 2),
        ("tokenizer.ggml.add_space_prefix", BOOL, False), ("tokenizer.ggml.add_bos_token", BOOL, False),
        ("tokenizer.chat_template", STRING, TEMPLATE),
    ]
    matrices = [("token_embd", len(tokens), a.width)]
    for n in range(a.layers):
        matrices += [(f"blk.{n}.attn_norm", a.width), (f"blk.{n}.attn_q", a.width, a.width), (f"blk.{n}.attn_k", kv_width, a.width),
                     (f"blk.{n}.attn_v", kv_width, a.width), (f"blk.{n}.attn_output", a.width, a.width), (f"blk.{n}.ffn_norm", a.width),
                     (f"blk.{n}.ffn_gate", a.ffn, a.width), (f"blk.{n}.ffn_up", a.ffn, a.width), (f"blk.{n}.ffn_down", a.width, a.ffn)]
    matrices += [("output_norm", a.width)] + ([("output", len(tokens), a.width)] if a.untied else [])

    random, source, infos, blobs, offset, tensors = uniform(a.seed), bits.Random(a.seed), b"", [], 0, []
    for name, *shape in matrices:
        encoding = (a.random or a.encoding) if len(shape) == 2 else "F32"
        if not a.random and encoding in BLOCKS and shape[1] % BLOCKS[encoding]:
            raise SystemExit(f"make_model: {name}: {encoding} wants rows of a multiple of {BLOCKS[encoding]}, not {shape[1]}")
        if len(shape) == 1:
            data = [1 + next(random) / 4 for _ in range(shape[0])]
        elif a.random:
            blob = random_blocks(shape[0] * shape[1], shape[1], encoding, 0.26 if name == "token_embd" else shape[1] ** -0.5, source)
        else:  # a uniform number has variance 1/3: outputs keep about the variance of the inputs, logits about 2
            bound = 0.45 if name == "token_embd" else (3 / shape[1]) ** 0.5
            data = [bound * next(random) for _ in range(shape[0] * shape[1])]
        if len(shape) == 1 or not a.random:
            blob = encode(data, encoding)
        tensors.append((name, encoding, shape, blob))
        blob += bytes(-len(blob) % 32)
        infos += string(name + ".weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), RANDOM[encoding][0] if encoding in RANDOM else ENCODINGS[encoding], offset)
        blobs.append(blob)
        offset += len(blob)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(matrices), len(keys)) + b"".join(pair(*k) for k in keys) + infos
    with open(a.out, "wb") as out:
        out.write(head + bytes(-len(head) % 32) + b"".join(blobs))
    if a.folder:
        if a.random or a.encoding in BLOCKS:
            raise SystemExit(f"make_model: a Hugging Face folder has no {a.random or a.encoding}")
        write_folder(a, tensors, tokens, merges)


if __name__ == "__main__":
    main()
