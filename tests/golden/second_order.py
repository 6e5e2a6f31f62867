#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""second_order.py - gradients of gradients beside PyTorch, in float64 there: MAML's sinusoid (Finn et al. 2017: an inner step inside the graph, a 40-40 net),
the critic's step of a WGAN-GP (Gulrajani et al. 2017), and operations against torch's. Relative difference at most 1e-5.    second_order.py [LIBRARY]"""
import os
import pathlib
import sys

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)
if sys.argv[1:]:
    os.environ["RAMET_LIBRARY"] = sys.argv[1]
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bindings/python"))
import ramet  # noqa: E402

torch.set_default_dtype(torch.float64)
LIMIT, failed = 1e-5, 0


def compare(what, got, want):
    global failed
    want = want.detach().numpy().reshape(np.shape(got))
    error = np.abs(got - want).max() / max(np.abs(want).max(), 1e-30)
    failed += not error <= LIMIT
    print(f"{what:34} {error:.1e}" + ("" if error <= LIMIT else "  too far"))


def parameters(v):
    return {name: torch.tensor(v[name].astype(np.float64), requires_grad=True) for name in v}


def maml():
    rng, v, g = np.random.default_rng(0), ramet.Variables(), ramet.Graph(10)
    sizes = [1, 40, 40, 1]
    for i in range(3):
        v.add(f"w{i}", (sizes[i + 1], sizes[i]), "he", seed=1)
        v.add(f"b{i}", sizes[i + 1], "normal:.1", seed=1)
    given = {k: g.input(k, 1) for k in ("xa", "ya", "xb", "yb")}
    names = list(v)
    values = [g.variable(v, n) for n in names]

    def net(x, p):
        for i in range(3):
            x = x.apply("linear", p[2 * i], p[2 * i + 1])
            x = x.relu() if i < 2 else x
        return x
    inner = net(given["xa"], values).apply("mse", given["ya"])
    moved = [p - d * 0.01 for p, d in zip(values, g.gradient(inner, values))]
    outer = net(given["xb"], moved).apply("mse", given["yb"])
    g.output("loss", outer)
    g.train(v, outer)
    x = {k: rng.uniform(-5, 5, (10, 1)).astype(np.float32) for k in ("xa", "xb")}
    data = {**x, "ya": 2 * np.sin(x["xa"] + 1), "yb": 2 * np.sin(x["xb"] + 1)}
    loss = ramet.Program(g).run(**data)["loss"]
    t, p = {k: torch.tensor(a.astype(np.float32).astype(np.float64)) for k, a in data.items()}, parameters(v)

    def net_t(x, p):
        for i in range(3):
            x = F.linear(x, p[f"w{i}"], p[f"b{i}"])
            x = F.relu(x) if i < 2 else x
        return x
    d = torch.autograd.grad(F.mse_loss(net_t(t["xa"], p), t["ya"]), list(p.values()), create_graph=True)
    want = F.mse_loss(net_t(t["xb"], {n: q - 0.01 * e for (n, q), e in zip(p.items(), d)}), t["yb"])
    want.backward()
    compare("maml: loss after the inner step", loss, want)
    for n in p:
        compare(f"maml: d/d{n}", v.gradient(n), p[n].grad)


def wgan():
    rng, v, g = np.random.default_rng(1), ramet.Variables(), ramet.Graph(16)
    real, fake, mixed = (g.input(k, 2) for k in ("real", "fake", "mixed"))
    net = ramet.Layers(g, v, seed=3)

    def critic(x):
        h = net.linear(x, "a", 32).apply("leaky_relu", slope=0.2)
        return net.linear(net.linear(h, "b", 32).tanh(), "c", 1)
    slope, = g.gradient(critic(mixed).sum(), [mixed])
    length = (slope * slope).apply("row_sum").apply("sqrt")
    loss = critic(fake).mean() - critic(real).mean() + ((length - 1.0) * (length - 1.0)).mean() * 10
    g.output("loss", loss)
    g.train(v, loss)
    data = {k: rng.normal(size=(16, 2)).astype(np.float32) for k in ("real", "fake")}
    data["mixed"] = (0.3 * data["real"] + 0.7 * data["fake"]).astype(np.float32)
    got = ramet.Program(g).run(**data)["loss"]
    t, p = {k: torch.tensor(a.astype(np.float64)) for k, a in data.items()}, parameters(v)
    t["mixed"].requires_grad_(True)

    def critic_t(x):
        h = F.leaky_relu(F.linear(x, p["a.weight"], p["a.bias"]), 0.2)
        return F.linear(torch.tanh(F.linear(h, p["b.weight"], p["b.bias"])), p["c.weight"], p["c.bias"])
    d, = torch.autograd.grad(critic_t(t["mixed"]).sum(), t["mixed"], create_graph=True)
    want = critic_t(t["fake"]).mean() - critic_t(t["real"]).mean() + 10 * ((d.norm(dim=1) - 1) ** 2).mean()
    want.backward()
    compare("wgan-gp: loss", got, want)
    for n in p:
        compare(f"wgan-gp: d/d{n}", v.gradient(n), torch.zeros_like(p[n]) if p[n].grad is None else p[n].grad)


def images(x, height, width):  # rows, channels last -> torch
    return x.reshape(len(x), height, width, -1).permute(0, 3, 1, 2)


def rows(x):
    return x.permute(0, 2, 3, 1).reshape(len(x), -1)


def contrast():
    """InfoNCE of rows of length 1, each with its own, in two groups; the two largest of each row."""
    rng, v, g = np.random.default_rng(2), ramet.Variables(), ramet.Graph(7)
    for name in ("w", "u"):
        v.add(name, (4, 5), "normal:.5", seed=len(name) + ord(name))
    x, y = (g.input(n, 5).apply("linear", g.variable(v, w)).apply("l2_normalize") for n, w in (("x", "w"), ("y", "u")))
    loss = x.apply("info_nce", y, g.input("seq", dtype="i32"), g.input("labels", dtype="i32"), temperature=0.2)
    g.output("loss", loss)
    g.output("top", g.input("x", 5).apply("top_k", k=2))
    g.train(v, loss)
    data = {n: rng.normal(size=(7, 5)).astype(np.float32) for n in ("x", "y")}
    found = ramet.Program(g).run(**data, seq=[0] * 4 + [1] * 3, labels=[0, 1, 2, 3, 0, 1, 2])
    p, t = parameters(v), {k: torch.tensor(a.astype(np.float64)) for k, a in data.items()}
    a, b = F.normalize(F.linear(t["x"], p["w"])), F.normalize(F.linear(t["y"], p["u"]))
    want = sum(F.cross_entropy(a[r] @ b[r].T / 0.2, torch.arange(len(r)), reduction="sum") for r in (range(4), range(4, 7))) / 7
    want.backward()
    compare("info_nce: loss", found["loss"], want)
    for n in p:
        compare(f"info_nce: d/d{n}", v.gradient(n), p[n].grad)
    compare("top_k", found["top"], torch.zeros(7, 5, dtype=torch.float64).scatter(1, t["x"].topk(2).indices, 1.0))


def recurrent():
    """A net of one's own over sequences of 5, 1 and 3 rows, and a GRU: results, gradients, and those of the length of a gradient."""
    rng, v, g = np.random.default_rng(3), ramet.Variables(), ramet.Graph(16)
    for name, shape in (("w", (6, 6)), ("u", (6, 4)), ("b", 6), ("gate", 6)):
        v.add(name, shape, "normal:.4", seed=len(name) + ord(name[0]))
    net, x, seq = ramet.Layers(g, v, seed=5), g.input("x", 4), g.input("seq", dtype="i32")

    def step(body, x, h, m):
        w, u, b, gate = (body.variable(v, n) for n in ("w", "u", "b", "gate"))
        new = (x.apply("linear", u) + h.apply("linear", w, b)).tanh()
        kept = (m * gate).apply("sigmoid")
        h = kept * h + (1.0 - kept) * new
        return {"h": h, "m": m * 0.9 + h * h, "y": h * new}

    def gru(x, seq):
        return net.gru(net.gru(x, "gru", 5, seq), "back", 3, seq, reversed=True)
    found = g.scan(step, {"x": x}, {"h": 6, "m": 6}, seq)
    out = gru(x, seq)
    loss = (found["y"] * found["y"] + found["m"]).sum() + (out * out * out).sum()
    slope, = g.gradient(loss, [x])
    for name, value in (("y", found["y"]), ("m", found["m"]), ("gru", out), ("slope", slope)):
        g.output(name, value)
    g.train(v, loss + (slope * slope).sum())
    length, data = [5, 1, 3], rng.normal(size=(9, 4)).astype(np.float32)
    got = ramet.Program(g).run(x=data, seq=np.repeat([7, 2, 4], length))
    p, t = parameters(v), torch.tensor(data.astype(np.float64), requires_grad=True)
    parts = {"y": [], "m": [], "gru": []}
    layers = {}
    for name, n, hidden in (("gru", 4, 5), ("back", 5, 3)):
        layers[name] = {k: p[f"{name}.{k}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    for rows_ in torch.split(t, length):
        h = m = torch.zeros(6)
        for row in rows_:
            new = torch.tanh(p["u"] @ row + p["w"] @ h + p["b"])
            kept = torch.sigmoid(m * p["gate"])
            h = kept * h + (1 - kept) * new
            m = m * 0.9 + h * h
            parts["y"].append(h * new)
            parts["m"].append(m)
        for name, order in (("gru", 1), ("back", -1)):
            q, state, out_ = layers[name], None, []
            for row in list(rows_)[::order]:
                state = torch.zeros(1, q["weight_hh"].shape[1]) if state is None else state
                state = torch.gru_cell(row[None], state, q["weight_ih"], q["weight_hh"], q["bias_ih"], q["bias_hh"])
                out_.append(state[0])
            rows_ = torch.stack(out_[::order])
        parts["gru"].append(rows_)
    want = {"y": torch.stack(parts["y"]), "m": torch.stack(parts["m"]), "gru": torch.cat(parts["gru"])}
    loss_t = (want["y"] ** 2 + want["m"]).sum() + (want["gru"] ** 3).sum()
    want["slope"], = torch.autograd.grad(loss_t, t, create_graph=True)
    (loss_t + (want["slope"] ** 2).sum()).backward()
    for name in got:
        compare(f"recurrent: {name}", got[name], want[name])
    for n in p:
        compare(f"recurrent: d/d{n}", v.gradient(n), p[n].grad)


def mixture():
    """Two of five experts a row, with the loss that keeps them busy; gradients, and those of the length of a gradient."""
    E, K, H = 5, 2, 6
    rng, v, g = np.random.default_rng(4), ramet.Variables(), ramet.Graph(9)
    net, x = ramet.Layers(g, v, seed=2), g.input("x", 4)
    y, busy = net.mixture(x, "m", 3, E, H, K)
    v["m.in.bias"], v["m.out.bias"], v["m.gate.weight"] = rng.normal(size=(H, E)), rng.normal(size=(3, E)), rng.normal(size=(E, 4))
    loss = (y * y).sum() + busy * 0.3
    slope, = g.gradient(loss, [x])
    for name, value in (("y", y), ("busy", busy), ("slope", slope)):
        g.output(name, value)
    g.train(v, loss + (slope * slope).sum())
    data = rng.normal(size=(9, 4)).astype(np.float32)
    got, p, t = ramet.Program(g).run(x=data), parameters(v), torch.tensor(data.astype(np.float64), requires_grad=True)
    gate = F.softmax(F.linear(t, p["m.gate.weight"], p["m.gate.bias"]), 1)
    top, which = gate.topk(K)
    share = top / top.sum(1, keepdim=True)
    rows_ = []
    for r in range(9):  # only the experts that were chosen
        out = 0
        for s, e in zip(share[r], which[r].tolist()):
            h = F.gelu(p["m.in.weight"][e * H:(e + 1) * H] @ t[r] + p["m.in.bias"][:, e])
            out = out + s * (p["m.out.weight"][e * 3:(e + 1) * 3] @ h + p["m.out.bias"][:, e])
        rows_.append(out)
    want = {"y": torch.stack(rows_), "busy": E * (F.one_hot(which, E).sum(1).double().mean(0) / K * gate.mean(0)).sum()}
    loss_t = (want["y"] ** 2).sum() + 0.3 * want["busy"]
    want["slope"], = torch.autograd.grad(loss_t, t, create_graph=True)
    (loss_t + (want["slope"] ** 2).sum()).backward()
    for name in got:
        compare(f"mixture: {name}", got[name], want[name])
    for n in p:
        compare(f"mixture: d/d{n}", v.gradient(n), p[n].grad)


def operations():
    H, W = 6, 7
    kernel = lambda w, c: w.reshape(len(w), 3, 3, c).permute(0, 3, 1, 2)

    def gru(x, h, wi, wh, bi, bh):
        return torch.gru_cell(x, h, wi, wh, bi, bh)

    def batch_norm(x, w, b):
        return rows(F.batch_norm(images(x, H, W), None, None, w, b, True))
    cases = [
        ("conv2d", (5, H * W * 2), [(3, 18), 3], dict(height=H, width=W, kernel=3, stride=2, pad=1), lambda x, w, b: rows(F.conv2d(images(x, H, W), kernel(w, 2), b, 2, 1))),
        ("conv2d", (3, H * W * 4), [(20, 36), 20], dict(height=H, width=W, kernel=3), lambda x, w, b: rows(F.conv2d(images(x, H, W), kernel(w, 4), b))),
        ("max_pool2d", (5, H * W * 3), [], dict(height=H, width=W, size=3, stride=2), lambda x: rows(F.max_pool2d(images(x, H, W), 3, 2))),
        ("avg_pool2d", (5, H * W * 3), [], dict(height=H, width=W, size=2), lambda x: rows(F.avg_pool2d(images(x, H, W), 2))),
        ("batch_norm", (5, H * W * 3), [3, 3], {}, batch_norm),
        ("gru_cell", (5, 4), [(5, 3), (9, 4), (9, 3), 9, 9], {}, gru),
        ("lstm_cell", (5, 4), [(5, 3), (5, 3), (12, 4), (12, 3), 12, 12], {}, lambda x, h, c, *p: torch.lstm_cell(x, (h, c), *p)[0]),
        ("huber", (5, 4), [(5, 4)], dict(delta=0.7), lambda x, y: F.huber_loss(x, y, delta=0.7)),
        ("binary_cross_entropy", (5, 4), [(5, 4)], {}, F.binary_cross_entropy_with_logits),
        ("margin", (5, 4), [(5, 4)], dict(margin=0.3), lambda a, b: F.margin_ranking_loss(a, b, torch.ones(5, 4), margin=0.3)),
        ("softplus", (5, 4), [], {}, F.softplus), ("l2_normalize", (5, 4), [], {}, F.normalize), ("row_max", (5, 4), [], {}, lambda x: x.max(1)[0]),
        ("gelu", (5, 4), [], {}, F.gelu), ("leaky_relu", (5, 4), [], dict(slope=0.1), lambda x: F.leaky_relu(x, 0.1)),
    ]
    for op, shape, others, settings, function in cases:
        v, g = ramet.Variables(), ramet.Graph(1)
        for i, s in enumerate([shape, *others]):
            v.add(f"p{i}", s, "normal:.7", seed=i)
        y = g.apply(op, *[g.variable(v, n) for n in v], **settings)[0]
        g.output("y", y)
        g.train(v, (y * y * y).sum())
        got, p = ramet.Program(g).run()["y"], parameters(v)
        want = function(*p.values())
        compare(op, got, want)
        (want ** 3).sum().backward()
        for n in p:
            compare(f"{op}: d/d{n}", v.gradient(n), p[n].grad)


maml()
contrast()
wgan()
recurrent()
mixture()
operations()
print(f"{failed} too far" if failed else f"all within {LIMIT:g}")
sys.exit(bool(failed))
