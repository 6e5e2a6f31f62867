#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A whole model against references: logits and greedy text of the library beside

  * a float64 llama in NumPy over the model's own dequantized weights,
  * the same model as a Hugging Face folder that this script writes (F32 and BF16; safetensors, tokenizers),
  * PyTorch in float32 over the F32 folder, where transformers and torch are importable: greedy text of the folder and of its GGUF,
  * llama.cpp, where llama-cpp-python is importable (LLAMA_PEER names the interpreter that has it): files that the library writes
    load there and give the same text, an adapter among them.

    llama_reference.py LIBRAMET.so      with the model in RAMET_TEST_MODEL; exit code 77 (skipped) without

Needs numpy, gguf, safetensors, tokenizers. Prints one line a comparison; fails when one is over its bound.
"""
import ctypes as C
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

try:
    import gguf
    import numpy as np
    from safetensors.numpy import save_file
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

MODEL = os.environ.get("RAMET_TEST_MODEL")
PROMPTS = ["The capital of France is", "Once upon a time, in a small village by the sea,", "def fibonacci(n):\n    ",
           "Water boils at a temperature of", "The three branches of government are", "To make a good soup, first",
           "In 1969, people first", "A list of prime numbers: 2, 3, 5,", "The difference between weather and climate is",
           "SELECT name FROM users WHERE"]
EXACT, BALANCED = 0, 1


# ---- the library through its C interface ----

class Library:
    def __init__(self, path):
        self.lib = lib = C.CDLL(path)
        for name in ("ramet_last_error", "ramet_model_digest"):
            getattr(lib, name).restype = C.c_char_p
        self.runtime = C.c_void_p()
        self.ok(lib.ramet_runtime_create(C.byref(self.runtime), None))

    def ok(self, status):
        if status:
            raise SystemExit(f"status {status}: {self.lib.ramet_last_error().decode()}")

    def load(self, path):
        model = C.c_void_p()
        self.ok(self.lib.ramet_model_load_path(C.byref(model), self.runtime, path.encode()))
        return model

    def save(self, model, path):
        self.ok(self.lib.ramet_model_save(model, path.encode(), None, None))

    def ids(self, model, text):
        n, out = C.c_int64(), (C.c_int32 * 4096)()
        self.ok(self.lib.ramet_tokenize(C.byref(n), out, C.c_int64(4096), model, text.encode(), C.c_size_t(len(text.encode())), 0))
        return list(out[:n.value])

    def text(self, model, ids):
        n, out = C.c_size_t(), C.create_string_buffer(65536)
        self.ok(self.lib.ramet_detokenize(C.byref(n), out, C.c_size_t(65536), model, (C.c_int32 * len(ids))(*ids), C.c_int64(len(ids)), 0))
        return out.raw[:n.value].decode()

    def session(self, model, mode=EXACT, outputs=64):
        options = (C.c_uint8 * 64)()
        self.lib.ramet_session_options_init(options, 40)
        struct.pack_into("<Ii", options, 0, 40, mode)
        struct.pack_into("<i", options, 28, outputs)
        session = C.c_void_p()
        self.ok(self.lib.ramet_session_create(C.byref(session), model, options))
        return session

    def run(self, session, ids, vocabulary, every=False):
        logits, outs = C.POINTER(C.c_float)(), C.c_int64()
        want = (C.c_uint8 * len(ids))(*([1] * len(ids))) if every else None
        self.ok(self.lib.ramet_session_run(C.byref(logits), C.byref(outs), session, (C.c_int32 * len(ids))(*ids), None, want,
                                           C.c_int64(len(ids)), None, None))
        return np.ctypeslib.as_array(logits, (outs.value, vocabulary)).copy()

    def logits(self, model, ids, vocabulary, mode=EXACT):
        session = self.session(model, mode, max(64, len(ids)))
        out = self.run(session, ids, vocabulary, every=True)
        self.lib.ramet_session_free(session)
        return out

    def greedy(self, model, ids, count, vocabulary, mode=EXACT, adapter=None):
        session = self.session(model, mode)
        if adapter:
            index = C.c_int32()
            self.ok(self.lib.ramet_session_attach(C.byref(index), session, adapter, C.c_float(1)))
            self.ok(self.lib.ramet_session_use(session, 0, index))
        out, row = [], self.run(session, ids, vocabulary)
        for _ in range(count):
            out.append(int(row[0].argmax()))
            row = self.run(session, out[-1:], vocabulary)
        self.lib.ramet_session_free(session)
        return out

    def quantize(self, model, encoding):
        options = (C.c_uint8 * 64)()
        self.lib.ramet_quantize_options_init(options, 48)
        struct.pack_into("<Q", options, 8, C.cast(C.c_char_p(encoding), C.c_void_p).value)
        out = C.c_void_p()
        self.ok(self.lib.ramet_quantize(C.byref(out), model, options))
        return out

    def adapter(self, model, path):
        adapter = C.c_void_p()
        self.ok(self.lib.ramet_adapter_load(C.byref(adapter), model, path.encode()))
        return adapter


# ---- the reference ----

class Reference:
    """Llama in float64 over dequantized weights, with a cache."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        key = lambda name: reader.fields["llama." + name].contents()
        self.layers, self.heads, self.kv = key("block_count"), key("attention.head_count"), key("attention.head_count_kv")
        self.eps, self.base = key("attention.layer_norm_rms_epsilon"), key("rope.freq_base")
        self.f32 = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
        self.w = {name: w.astype(np.float64) for name, w in self.f32.items()}
        self.vocabulary, self.width = self.w["token_embd.weight"].shape
        self.head = self.w["blk.0.attn_q.weight"].shape[0] // self.heads

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.w[name + ".weight"]

    def rope(self, x, start):
        angle = (start + np.arange(len(x)))[:, None] * self.base ** (-np.arange(0, self.head, 2) / self.head)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        out = np.empty_like(x)
        out[..., 0::2], out[..., 1::2] = x[..., 0::2] * cos - x[..., 1::2] * sin, x[..., 0::2] * sin + x[..., 1::2] * cos
        return out

    def run(self, ids, cache):
        start = len(cache.get((0, "k"), ()))
        x = self.w["token_embd.weight"][ids]
        linear = lambda x, layer, name: x @ self.w[f"blk.{layer}.{name}.weight"].T
        for i in range(self.layers):
            h = self.norm(x, f"blk.{i}.attn_norm")
            q = self.rope(linear(h, i, "attn_q").reshape(len(ids), self.heads, self.head), start)
            for name, new in (("k", self.rope(linear(h, i, "attn_k").reshape(len(ids), self.kv, self.head), start)),
                              ("v", linear(h, i, "attn_v").reshape(len(ids), self.kv, self.head))):
                cache[i, name] = np.concatenate([cache[i, name], new]) if start else new
            k, v = (np.repeat(cache[i, name], self.heads // self.kv, 1) for name in "kv")
            score = np.einsum("thd,shd->hts", q, k) / np.sqrt(self.head)
            score[:, np.arange(len(k))[None] > start + np.arange(len(ids))[:, None]] = -np.inf
            p = np.exp(score - score.max(-1, keepdims=True))
            o = np.einsum("hts,shd->thd", p / p.sum(-1, keepdims=True), v).reshape(len(ids), -1)
            x = x + linear(o, i, "attn_output")
            h = self.norm(x, f"blk.{i}.ffn_norm")
            gate = linear(h, i, "ffn_gate")
            x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, i, "ffn_up"), i, "ffn_down")
        return self.norm(x, "output_norm") @ self.w.get("output.weight", self.w["token_embd.weight"]).T

    def greedy(self, ids, count):
        cache, out = {}, []
        row = self.run(ids, cache)[-1]
        for _ in range(count):
            out.append(int(row.argmax()))
            row = self.run(out[-1:], cache)[-1]
        return out


def write_folder(ref, path, folder, bf16):
    """The model as Hugging Face has it: rows of q and k in halves, config.json, tokenizer.json."""
    os.makedirs(folder, exist_ok=True)
    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj"}
    out = {}
    for name, w in ref.f32.items():
        if name.startswith("blk."):
            _, layer, kind, _ = name.split(".")
            if kind in ("attn_q", "attn_k"):
                w = w.reshape(-1, ref.head // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
            hf = f"model.layers.{layer}.{names[kind]}.weight"
        else:
            hf = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}[name]
        out[hf] = np.ascontiguousarray(w)
    if bf16:
        import torch
        from safetensors.torch import save_file as save_torch
        save_torch({k: torch.from_numpy(v).to(torch.bfloat16) for k, v in out.items()}, folder + "/model.safetensors")
    else:
        save_file(out, folder + "/model.safetensors")
    reader = gguf.GGUFReader(path)
    key = lambda name: reader.fields[name].contents()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": ref.width, "num_hidden_layers": ref.layers,
              "num_attention_heads": ref.heads, "num_key_value_heads": ref.kv, "intermediate_size": ref.w["blk.0.ffn_up.weight"].shape[0],
              "vocab_size": ref.vocabulary, "max_position_embeddings": key("llama.context_length"), "rms_norm_eps": float(ref.eps),
              "rope_theta": float(ref.base), "hidden_act": "silu", "tie_word_embeddings": "output.weight" not in ref.w}
    json.dump(config, open(folder + "/config.json", "w"))
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    tokens, types = key("tokenizer.ggml.tokens"), key("tokenizer.ggml.token_type")
    t = Tokenizer(models.BPE({s: i for i, s in enumerate(tokens)}, [tuple(m.split(" ")) for m in key("tokenizer.ggml.merges")]))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s, kind in zip(tokens, types) if kind == 3])
    t.save(folder + "/tokenizer.json")
    json.dump({"bos_token": tokens[1], "eos_token": tokens[2], "chat_template": key("tokenizer.chat_template")}, open(folder + "/tokenizer_config.json", "w"))


def write_adapter(ref, path, rank=4, alpha=8.0):
    """A LoRA adapter as llama.cpp's converter writes it, with weights that move the logits."""
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(path, "llama")
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", alpha)
    for i in range(ref.layers):
        for kind in ("attn_q", "attn_v", "ffn_down"):
            n, k = ref.f32[f"blk.{i}.{kind}.weight"].shape
            w.add_tensor(f"blk.{i}.{kind}.weight.lora_a", (rng.standard_normal((rank, k)) / np.sqrt(k)).astype(np.float32))
            w.add_tensor(f"blk.{i}.{kind}.weight.lora_b", (rng.standard_normal((n, rank)) * 0.05).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def torch_model(folder, dtype="float32"):
    """The folder as transformers and PyTorch run it; None without them."""
    try:
        import torch
        from transformers import LlamaForCausalLM
    except ImportError:
        return None
    return LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="eager").eval()


def torch_logits(net, prompts):
    import torch
    with torch.no_grad():
        return [net(torch.tensor([ids])).logits[0].float().numpy() for ids in prompts]


def torch_greedy(net, ids, count):
    import torch
    out, step, cache = [], ids, None
    with torch.no_grad():
        for _ in range(count):
            done = net(torch.tensor([step]), past_key_values=cache, use_cache=True)
            cache, step = done.past_key_values, [int(done.logits[0, -1].argmax())]
            out += step
    return out


PEER = """
import sys, json, llama_cpp
path, adapter, count, prompts = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
m = llama_cpp.Llama(path, n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False, logits_all=False, lora_path=adapter or None)
out = []
for ids in prompts:
    m.reset()
    made = []
    for token in m.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0):
        made.append(token)
        if len(made) == count: break
    out.append(made)
print(json.dumps(out))
"""


def peer(path, adapter, count, prompts):
    python = os.environ.get("LLAMA_PEER")
    if not python:
        return None
    done = subprocess.run([python, "-c", PEER, path, adapter, str(count), json.dumps(prompts)], capture_output=True, text=True)
    if done.returncode:
        print("llama.cpp:", done.stderr.strip().splitlines()[-1:])
        return []
    return json.loads(done.stdout.strip().splitlines()[-1])


DISTANCE = """
import sys, json, llama_cpp, numpy as np
m = llama_cpp.Llama(sys.argv[1], n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False, logits_all=True)
out = []
for ids in json.loads(sys.argv[2]):
    m.reset()
    m.eval(ids)
    out.append(np.array(m.scores[:len(ids)]))
np.savez(sys.argv[3], *out)
"""


def peer_logits(prompts):
    """llama.cpp's logits of the model's own file; None without it."""
    python = os.environ.get("LLAMA_PEER")
    if not python:
        return None
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run([python, "-c", DISTANCE, MODEL, json.dumps(prompts), f"{work}/logits.npz"], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"llama.cpp: {done.stderr.strip()[-400:]}")
        with np.load(f"{work}/logits.npz") as there:
            return [there[f"arr_{i}"] for i in range(len(prompts))]


def relative(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def agreeing(a, b):
    return sum(x == y for x, y in zip(a, b))


def stepwise(lib, model, ids, vocabulary, mode):
    """A text at once and token by token: largest difference of logits, relative, and of the mean loss."""
    whole, session = lib.logits(model, ids, vocabulary, mode), lib.session(model, mode)
    steps = np.concatenate([lib.run(session, [token], vocabulary) for token in ids])
    lib.lib.ramet_session_free(session)

    def loss(logits):
        x = logits[:-1].astype(np.float64)
        return float(np.mean(x.max(1) + np.log(np.exp(x - x.max(1, keepdims=True)).sum(1)) - x[np.arange(len(x)), ids[1:]]))
    return relative(steps, whole), abs(loss(steps) / loss(whole) - 1)


def main():
    lib, ref, failed = Library(sys.argv[1]), Reference(MODEL), []

    def report(what, value, bound):
        good = value <= bound
        print(f"{'ok  ' if good else 'FAIL'} {what}: {value:.3g} (at most {bound:g})", flush=True)
        if not good:
            failed.append(what)

    model = lib.load(MODEL)
    v, prompts = ref.vocabulary, [lib.ids(model, p) for p in PROMPTS]
    reference = [ref.run(ids, {}) for ids in prompts]
    ours = [lib.logits(model, ids, v) for ids in prompts]
    report("exact logits against float64, relative", max(map(relative, ours, reference)), 1e-4)
    balanced = [lib.logits(model, ids, v, BALANCED) for ids in prompts]
    report("balanced logits against float64, relative", max(map(relative, balanced, reference)), 3e-2)
    theirs = peer_logits(prompts)
    if theirs:
        print(f"      llama.cpp's logits of the same file, relative: {max(map(relative, theirs, reference)):.3g}")
    count = 64
    texts = [lib.greedy(model, ids, count, v) for ids in prompts]
    wanted = [ref.greedy(ids, count) for ids in prompts]
    report(f"prompts whose {count} greedy tokens differ from float64's", len(prompts) - agreeing(texts, wanted), 0)
    print("     ", repr(PROMPTS[0] + lib.text(model, texts[0][:16])))

    work = tempfile.mkdtemp()
    try:
        for bf16 in (False, True):
            folder = f"{work}/hf-{'bf16' if bf16 else 'f32'}"
            write_folder(ref, MODEL, folder, bf16)
            hf = lib.load(folder)
            if any(lib.ids(hf, p) != ids for p, ids in zip(PROMPTS, prompts)):
                failed.append("ids of the folder's tokenizer")
            there = [lib.logits(hf, ids, v) for ids in prompts]
            report(f"Hugging Face folder ({'BF16' if bf16 else 'F32'}) against float64, relative", max(map(relative, there, reference)), 2e-2 if bf16 else 1e-4)
            lib.save(hf, f"{folder}.gguf")
            again = lib.load(f"{folder}.gguf")
            same = all(np.array_equal(lib.logits(again, ids, v), x) for ids, x in zip(prompts, there))
            report(f"the folder saved as GGUF: bits differ ({'BF16' if bf16 else 'F32'})", 0 if same else 1, 0)
            net = torch_model(folder, "bfloat16" if bf16 else "float32")
            if net and bf16:
                print(f"      PyTorch in bf16 against float64, relative: {max(map(relative, torch_logits(net, prompts), reference)):.3g}")
            elif net:
                texts32 = [torch_greedy(net, ids, count) for ids in prompts]
                for what, m in (("folder", hf), ("GGUF", again)):
                    mine = [lib.greedy(m, ids, count, v) for ids in prompts]
                    differ = len(prompts) - agreeing(mine, texts32)
                    report(f"prompts whose {count} greedy tokens differ from PyTorch's, F32 {what}", differ, 0)
                del net
            if lib.lib.ramet_model_digest(again) != lib.lib.ramet_model_digest(hf):
                failed.append("digest of folder and GGUF")
            for m in (hf, again):
                lib.lib.ramet_model_free(m)

        lib.save(model, f"{work}/again.gguf")
        again = lib.load(f"{work}/again.gguf")
        report("digest after a rewrite differs", int(lib.lib.ramet_model_digest(again) != lib.lib.ramet_model_digest(model)), 0)
        with open(__file__, encoding="utf-8") as own:
            plain, text = lib.load(f"{work}/hf-f32.gguf"), lib.ids(model, own.read(6000))[:512]
        eight = lib.quantize(plain, b"Q8_0")
        for name, m in (("as given", model), ("Q8_0", eight), ("F32", plain)):
            for mode, bound in ((EXACT, 1e-5), (BALANCED, 1e-3)):
                logits, loss = stepwise(lib, m, text, v, mode)
                how = f"{name}, {'balanced' if mode else 'exact'} (logits {logits:.2g})"
                report(f"loss of a text token by token against at once, {how}", loss, bound)
        # llama.cpp rounds activations beside quantized weights, so near ties fall the other way there: greedy texts are compared on F32, and of the file
        # that was written again its own are, from the file as it was
        few, n = prompts[:4], 24
        write_adapter(ref, f"{work}/adapter.gguf")
        adapter = lib.adapter(plain, f"{work}/adapter.gguf")
        lib.ok(lib.lib.ramet_adapter_save(adapter, f"{work}/ours.gguf".encode()))
        changed = [lib.greedy(plain, ids, n, v, adapter=adapter) for ids in few]
        plain_texts = [lib.greedy(plain, ids, n, v) for ids in few]
        for what, file, lora, mine, bound in (("the F32 folder's file", "hf-f32", "", plain_texts, 1), ("our adapter file", "hf-f32", f"{work}/ours.gguf", changed, 1),
                                              ("the rewritten file", "again", "", peer(MODEL, "", n, few), 0)):
            theirs = peer(f"{work}/{file}.gguf", lora, n, few)
            if theirs is None:
                print("     llama.cpp: LLAMA_PEER is not set")
                break
            common = [next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), n) for a, b in zip(mine, theirs)]
            print(f"     llama.cpp on {what}: common greedy beginnings {common} of {n}")
            report(f"llama.cpp on {what}: prompts whose first {n} tokens differ", sum(c < n for c in common) if theirs else 99, bound)
    finally:
        shutil.rmtree(work)
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    if not MODEL or len(sys.argv) < 2:
        print("skipped: RAMET_TEST_MODEL is not set")
        sys.exit(77)
    main()
