#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ways of adapting beside PyTorch and PEFT in float64, on a small llama folder of random weights.     adapting.py LIBRARY FOLDER

A step of gradient descent with rate 1 shows a gradient: what it moves. Gradients by our "exact" mode are within 1e-5 of the largest. Skipped (exit code 77)
without torch, transformers, peft, numpy, safetensors."""
import os
import pathlib
import sys
import tempfile

try:
    import numpy as np
    import peft
    import torch
    import torch.nn.functional as F
    import transformers
    from safetensors.torch import load_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)
os.environ["RAMET_LIBRARY"] = sys.argv[1]
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bindings/python"))
import ramet  # noqa: E402

torch.manual_seed(0)
LIMIT, WINDOW, WINDOWS, failed = 1e-5, 32, 4, 0
rng = np.random.default_rng(0)
model = ramet.load(sys.argv[2])
vocabulary = model.number("vocabulary")
DESCENT = dict(optimizer="sgd", beta1=0.0, clip=0.0, warmup=0.0, schedule="constant", mode="exact", learning_rate=1.0, window=WINDOW, batch=WINDOWS)


def check(what, error, limit=LIMIT):
    global failed
    failed += not error <= limit
    print(f"{what:60} {error:.1e}" + ("" if error <= limit else "  too far"), flush=True)


def distance(got, want):
    return float((got - want).abs().max() / want.abs().max())


def network():
    return transformers.AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.float64, attn_implementation="eager")


def documents(n=WINDOWS, length=WINDOW):
    ids = rng.integers(3, vocabulary, (n, length)).astype(np.int32)
    data = ramet.Dataset(model)
    for row in ids:
        data.add_ids(row)
    return ids, data


def mean_loss(net, ids):
    ids = torch.tensor(ids, dtype=torch.long)
    return F.cross_entropy(net(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def saved(adapter, folder):
    adapter.save(folder)
    return load_file(f"{folder}/adapter_model.safetensors")


def with_adapter(folder):
    """PEFT's model of it, in training, and its trained tensors by the names of the file."""
    net = peft.PeftModel.from_pretrained(network(), folder, is_trainable=True).double()
    return net, {k.replace(".default.weight", ".weight" if "lora_magnitude" not in k else "").replace(".default", ""): p for k, p in net.named_parameters() if p.requires_grad}


def lora_gradients(what, make, loss, folder, learning_rate=0.01, **options):
    """Gradients of an adapter that has learned a little already: ours from a step, theirs by autograd."""
    first = make(steps=3, learning_rate=learning_rate, rank=4, optimizer="adamw", mode="exact", window=WINDOW, batch=WINDOWS, warmup=0.0, **options)
    list(first)
    tuner = make(initial=first.adapter(), steps=1, **DESCENT)
    before = saved(tuner.adapter(), f"{folder}/before")
    net, trained = with_adapter(f"{folder}/before")
    event = tuner.step()
    after = saved(tuner.adapter(), f"{folder}/after")
    value = loss(net)
    value.backward()
    check(f"{what}: loss", abs(event.loss / float(value.detach()) - 1))
    assert set(trained) == set(before), (set(trained) ^ set(before))
    for kind in sorted({name.split(".")[-1 if "magnitude" in name else -2] for name in before}):
        names = [name for name in before if kind in name]
        scale = max(float(trained[n].grad.abs().max()) for n in names)
        check(f"{what}: gradient of {kind}", max(float((before[n].double() - after[n].double() - trained[n].grad).abs().max()) for n in names) / scale)
    return tuner.adapter()


def dora(folder):
    ids, data = documents()
    adapter = lora_gradients("DoRA", lambda **o: ramet.Tuner(model, data, **o), lambda net: mean_loss(net, ids), folder, dora=1)
    net, _ = with_adapter(f"{folder}/after")
    with torch.no_grad():
        want = net(torch.tensor(ids[:1], dtype=torch.long)).logits[0]
        session = model.session(mode="exact", max_context=WINDOW, max_rows=WINDOW, max_outputs=WINDOW, max_sequences=1, max_rank=4, dora=1)
        session.use(session.attach(adapter))
        check("DoRA: logits with the adapter attached", distance(torch.tensor(session.run(ids[0], want=1)).double(), want))
        merged = model.merge(adapter)
        check("DoRA: logits of the merged model", distance(torch.tensor(merged(ids[0], mode="exact")).double(), want))
        check("DoRA: PEFT's own merge", distance(net.merge_and_unload()(torch.tensor(ids[:1], dtype=torch.long)).logits[0], want))


def dpo(folder):
    words = model.tokenizer
    pairs = [("Who was there?", " A friend, and the miller's son.", " Nobody."), ("The water", " fell as fast as it had risen.", " was it was."),
             ("", "Ice on the stones.", "On stones the ice is."), ("And then", " the year ended.", " the end of it all came over the hill.")]
    data = ramet.Dataset(model)
    for pair in pairs:
        data.add_pair(*pair)
    end = int(words.encode("<|endoftext|>", special=True)[0])

    def log_likelihood(net, prompt, answer):
        head, tail = words.encode(prompt).tolist(), words.encode(answer).tolist() + [end]
        ids = torch.tensor([head + tail])
        log = F.log_softmax(net(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
        return log[max(len(head) - 1, 0):].sum()

    def loss(net, beta=0.3):
        total = 0
        for pair in pairs:
            with torch.no_grad(), net.disable_adapter():
                q = [log_likelihood(net, pair[0], answer) for answer in pair[1:]]
            p = [log_likelihood(net, pair[0], answer) for answer in pair[1:]]
            total = total - F.logsigmoid(beta * ((p[0] - q[0]) - (p[1] - q[1]))) / len(pairs)
        return total

    for kind in (0, 1):
        lora_gradients(("DPO", "DPO of a DoRA")[kind], lambda **o: ramet.Tuner(model, data, **{"preference_beta": 0.3, **o, "window": 128}), loss, folder, learning_rate=3e-4, dora=kind)


def norms(_folder):
    ids, data = documents()
    names = {"attn_norm": "model.layers.%d.input_layernorm", "ffn_norm": "model.layers.%d.post_attention_layernorm", "output_norm": "model.norm"}
    tuner, net = ramet.Tuner(model, data, full=1, targets="norms", steps=1, **DESCENT), network()
    for name, p in net.named_parameters():
        p.requires_grad_("norm" in name)
    mean_loss(net, ids).backward()
    tuner.step()
    after, worst = tuner.result(), 0.0
    for name in model.tensors():
        was, now = model.tensor(name), after.tensor(name)
        kind = next((k for k in names if k in name), None)
        if kind is None:
            assert (was == now).all(), name
            continue
        layer = int(name.split(".")[1]) if "blk" in name else 0
        want = net.get_parameter((names[kind] % layer if "%" in names[kind] else names[kind]) + ".weight").grad
        worst = max(worst, distance(torch.tensor(was - now).double().flatten(), want))
    check("norms: gradients", worst)


def main():
    for part in (dora, norms, dpo):
        with tempfile.TemporaryDirectory() as folder:
            part(folder)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
