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
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))
import make_bert  # noqa: E402
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


def distillation(folder):
    """KL to a teacher on its likeliest classes and one for the rest: forward, reverse, skewed."""
    ids, data = documents()
    source = ramet.Tuner(model, data, steps=4, learning_rate=0.02, rank=4, mode="exact", window=WINDOW, batch=WINDOWS, warmup=0.0)
    list(source)
    teacher = model.merge(source.adapter())
    source.adapter().save(f"{folder}/teacher")
    theirs = with_adapter(f"{folder}/teacher")[0].merge_and_unload()
    fresh = documents()[0]
    tokens = torch.tensor(fresh, dtype=torch.long)
    text = ramet.Dataset(model)
    for row in fresh:
        text.add_ids(row)

    def divergence(net, top, reverse, skew):
        with torch.no_grad():
            t = F.softmax(theirs(tokens).logits[:, :-1], -1)
            p, k = t.topk(top)
        q = F.softmax(net(tokens).logits[:, :-1], -1).gather(-1, k)
        if top < vocabulary:  # the rest is one class
            p, q = (torch.cat([x, 1 - x.sum(-1, keepdim=True)], -1) for x in (p, q))
        first, second = (q, (1 - skew) * p + skew * q) if reverse else (p, skew * p + (1 - skew) * q)
        return (first * (first.log() - second.log())).sum(-1).mean()

    for top in (vocabulary, 8):
        for reverse, skew in ((0, 0.0), (0, 0.1), (1, 0.1), (1, 0.5)):
            lora_gradients(f"KL {'reverse' if reverse else 'forward'}, skew {skew}, top {top}",
                           lambda **o: ramet.Tuner(model, text, **{"teacher": teacher, "teacher_top": top, "teacher_divergence": reverse, "teacher_skew": skew, **o}),
                           lambda net: divergence(net, top, reverse, skew), folder, learning_rate=3e-3)


def encoder(folder):
    """A BERT as a classifier, by LoRA and in full: mean over tokens, a linear head, cross-entropy; gradients, and ten AdamW steps."""
    make_bert.main(f"{folder}/bert")
    bert = ramet.load(f"{folder}/bert")
    words = [" ".join(rng.choice(["the", "river", "flows", "fish", "."], n)) for n in (3, 7, 5, 12)]
    given, labels = ramet.text_rows(bert, words), np.array([0, 2, 1, 2], np.int32)
    ids = [torch.tensor(given["tokens"][given["seq"] == i][None], dtype=torch.long) for i in range(4)]
    head = rng.standard_normal((3, bert.number("width"))).astype(np.float32)

    def loss(net, w):
        pooled = torch.stack([net(i, torch.ones_like(i)).last_hidden_state[0].mean(0) for i in ids])
        return F.cross_entropy(pooled @ w.T, torch.tensor(labels, dtype=torch.long))

    for kind, options in (("LoRA", dict(rank=4, alpha=8.0)), ("LoRA of all linear layers in PEFT's words", dict(rank=2, alpha=4.0, targets="query,dense")), ("full", dict(full=True))):
        v, g = ramet.Variables(), ramet.Graph(64, 4)
        v.add("head", head.shape)
        v["head"] = head
        h = g.model(bert, v, **options).apply("segment_mean", g.input("seq", dtype="i32"))
        value = h.apply("linear", g.variable(v, "head")).apply("cross_entropy", g.input("y", dtype="i32", axis="outs"))
        g.output("loss", value)
        g.train(v, value)
        program = ramet.Program(g)
        for name in v:  # B is not zero
            if name.endswith("lora_b"):
                v[name] = rng.standard_normal(v[name].shape) * 0.1
        net = transformers.BertModel.from_pretrained(f"{folder}/bert", attn_implementation="eager", add_pooling_layer=False, dtype=torch.float64).eval()
        if "rank" in options:
            v.adapter(bert, options["alpha"]).save(f"{folder}/{kind}")
            net = peft.PeftModel.from_pretrained(net, f"{folder}/{kind}", is_trainable=True).double().eval()
        w = torch.tensor(head, dtype=torch.float64, requires_grad=True)
        trained = [p for p in net.parameters() if p.requires_grad] + [w]
        rate = torch.optim.AdamW(trained, lr=1e-2, eps=1e-5, weight_decay=0.0)  # keys' biases have no gradient but rounding, which a small eps makes steps of
        worst, begin = 0.0, None
        for step in range(10):
            rate.zero_grad()
            want = loss(net, w)
            want.backward()
            got = float(program.run(**given, y=labels)["loss"].item())
            difference = abs(got - float(want.detach()))
            if begin is None:
                begin = float(want.detach())
                check(f"BERT {kind}: loss", difference / begin)
                theirs = sum(float((p.grad ** 2).sum()) for p in trained) ** 0.5
                check(f"BERT {kind}: gradient of the head", distance(torch.tensor(v.gradient("head")).double(), w.grad))
                norm = v.step(learning_rate=1e-2, epsilon=1e-5)
                check(f"BERT {kind}: norm of all gradients", abs(norm / theirs - 1))
            else:
                v.step(learning_rate=1e-2, epsilon=1e-5)
            worst = max(worst, difference / begin)  # the last losses are almost nothing
            rate.step()
        check(f"BERT {kind}: losses of ten AdamW steps, of the first", worst)
        with torch.no_grad():
            tuned = bert.merge(v.adapter(bert, options["alpha"])) if "rank" in options else v.model(bert)
            x = net(ids[1], torch.ones_like(ids[1])).last_hidden_state[0].mean(0)
            check(f"BERT {kind}: vectors of the model that results", distance(torch.tensor(tuned.embed([words[1]], mode="exact")[0]).double(), x / x.norm()), 1e-3)


def decoder(folder):
    """A llama with a head of numbers at each text's last token: LoRA, mean squared error."""
    texts = [rng.integers(3, vocabulary, n).astype(np.int32) for n in (5, 9, 3)]
    v, g = ramet.Variables(), ramet.Graph(32, 3)
    v.add("head", (1, model.number("width")), "normal:.1")
    h = g.model(model, v, rank=4, alpha=8.0).apply("gather", g.input("last", dtype="i32", axis="outs"))
    value = h.apply("linear", g.variable(v, "head")).apply("mse", g.input("y", 1, axis="outs"))
    g.output("loss", value)
    g.train(v, value)
    for name in v:
        if name.endswith("lora_b"):
            v[name] = rng.standard_normal(v[name].shape) * 0.1
    given, y = ramet.text_rows(model, texts), np.array([0.5, -1, 2], np.float32)
    got = float(ramet.Program(g).run(**given, last=np.cumsum([len(t) for t in texts]) - 1, y=y)["loss"].item())
    v.adapter(model, 8.0).save(f"{folder}/pairs")
    net, trained = with_adapter(f"{folder}/pairs")
    w = torch.tensor(v["head"], dtype=torch.float64)
    out = torch.stack([net.base_model.model.model(torch.tensor(t[None], dtype=torch.long)).last_hidden_state[0, -1] @ w[0] for t in texts])
    want = ((out - torch.tensor(y).double()) ** 2).mean()
    want.backward()
    check("llama with a head: loss", abs(got / float(want.detach()) - 1))
    theirs = sum(float((p.grad ** 2).sum()) for p in trained.values())
    ours = sum(float((v.gradient(n).astype(np.float64) ** 2).sum()) for n in v if "lora" in n)
    check("llama with a head: norm of the pairs' gradients", abs((ours / theirs) ** 0.5 - 1))


def main():
    for part in (dora, norms, dpo, distillation, encoder, decoder):
        with tempfile.TemporaryDirectory() as folder:
            part(folder)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
