"""PyTorch beside `quern bench suite`; the protocol is that of serve.py. Variants: eager, compile (torch.compile; no products).

Parameters come in the order of bench/suite_models.cpp; what a step keeps between forward and backward (the statistics of
layer norm) is given to a derivative that is timed alone. Optimizers are the fused ones. Convolutions compiled
as channels last, else as they are.
"""
import getpass
import os
import tempfile
import time

from serve import MODELS, OPS, Compiled, Prepared, data_of, mean_abs, model, op, serve, train

# --- plain ops: (torch, request, *inputs) → (a function of tensors, its arguments) ---

@op
def matmul(torch, request, a, b):
    ta, tb = (c == "t" for c in request["layout"])
    return (lambda a, b: torch.matmul(a.t() if ta else a, b.t() if tb else b)), (a, b)


@op
def softmax(torch, request, x):
    return (lambda x: torch.softmax(x, -1)), (x,)


@op
def softmax_grad(torch, request, y, g):
    return (lambda g, y: torch.ops.aten._softmax_backward_data(g, y, -1, torch.float32)), (g, y)


@op
def layer_norm(torch, request, x, w, b):
    return (lambda x, w, b: torch.nn.functional.layer_norm(x, (x.shape[-1],), w, b)), (x, w, b)


@op
def layer_norm_grad(torch, request, x, w, b, g):
    _, mean, rstd = torch.native_layer_norm(x, (x.shape[-1],), w, b, 1e-5)
    return (lambda *t: torch.ops.aten.native_layer_norm_backward(t[0], t[1], [t[1].shape[-1]], t[2], t[3], t[4], t[5], [True, True, True])), (g, x, mean, rstd, w, b)


@op
def cross_entropy(torch, request, x, label):
    return torch.nn.functional.cross_entropy, (x, label)


@op
def cross_entropy_grad(torch, request, x, label):
    def f(x, label):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(torch.nn.functional.cross_entropy(x, label), x)
    return f, (x, label)


@op
def sum0(torch, request, x):
    return (lambda x: x.sum(0)), (x,)


@op
def sum1(torch, request, x):
    return (lambda x: x.sum(1)), (x,)


@op
def transpose(torch, request, x):
    return (lambda x: x.t().contiguous()), (x,)


@op
def chain_tanh(torch, request, a, b):
    return (lambda a, b: torch.tanh(torch.relu(a * 2 + b)) * a), (a, b)


@op
def chain_sigmoid(torch, request, a, b, c):
    return (lambda a, b, c: torch.addcmul(c, a, b) * torch.sigmoid(a) - b), (a, b, c)


@op
def chain_exp(torch, request, a):
    return (lambda a: torch.exp(-a * a) * 0.5 + torch.abs(a)), (a,)


# --- models: (F, request, p, *inputs) → loss or output; p: parameters by name, matrices as [out, in] ---

def dense(F, p, x, name):
    return F.linear(x, p[name + ".weight"], p[name + ".bias"])


def norm(F, p, x, name):
    return F.layer_norm(x, (x.shape[-1],), p[name + ".scale"], p[name + ".shift"])


@model
def mlp_step(F, request, p, x, label):
    return F.cross_entropy(dense(F, p, F.relu(dense(F, p, x, "hidden0")), "out"), label)


@model
def heads_step(F, request, p, x, *label):
    for width in (512, 256, 128):
        x = F.relu(dense(F, p, x, f"hidden{width}"))
    return sum(F.cross_entropy(dense(F, p, x, f"head{h}"), y) for h, y in enumerate(label))


@model
def cnn_step(F, request, p, x, label):
    for i in range(2):
        x = F.max_pool2d(F.relu(F.conv2d(x, p[f"conv{i}.weight"], p[f"conv{i}.bias"], padding=1)), 2)
    return F.cross_entropy(dense(F, p, F.relu(dense(F, p, x.flatten(1), "hidden")), "out"), label)


@model
def residual(F, request, p, x):
    y = F.relu(F.conv2d(x, p["conv0.weight"], p["conv0.bias"], padding=1))
    return F.relu(F.conv2d(y, p["conv1.weight"], p["conv1.bias"], padding=1) + x)


def block(F, request, p, x, name, causal=True):
    import torch
    b, t, c = x.shape
    q, k, v = (s.view(b, t, request["heads"], -1).transpose(1, 2) for s in dense(F, p, norm(F, p, x, name + ".norm0"), name + ".qkv").split(c, 2))
    if not causal:
        k, v = (torch.cat([p[f"{name}.{n}.cache"], s], 2) for n, s in (("k", k), ("v", v)))
    x = x + dense(F, p, F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).reshape(b, t, c), name + ".out")
    return x + dense(F, p, F.gelu(dense(F, p, norm(F, p, x, name + ".norm1"), name + ".up")), name + ".down")


@model
def block_step(F, request, p, x):
    return block(F, request, p, x, "block").square().mean()


@model
def gpt_step(F, request, p, token, label):
    time = request.get("time", token.shape[0])
    x = F.embedding(token, p["token.table"]).view(-1, time, p["token.table"].shape[1]) + p["place.table"][:time]
    for i in range(request["layers"]):
        x = block(F, request, p, x, f"block{i}")
    return F.cross_entropy(F.linear(norm(F, p, x, "norm").flatten(0, 1), p["token.table"]), label)


@model
def decode(F, request, p, token):
    x = (F.embedding(token, p["token.table"]) + p["place.table"][request["past"]]).view(1, 1, -1)
    for i in range(request["layers"]):
        x = block(F, request, p, x, f"block{i}", causal=False)
    return F.linear(norm(F, p, x, "norm")[0], p["token.table"])


def prepare_lstm(torch, sets, values):
    """torch.nn.LSTM: its matrices are ours transposed, and of its two biases the second one is zero."""
    layer = torch.nn.LSTM(*values["x.weight"].shape[:1], values["h.weight"].shape[0])
    with torch.no_grad():
        for to, value in [(layer.weight_ih_l0, values["x.weight"].T), (layer.weight_hh_l0, values["h.weight"].T), (layer.bias_ih_l0, values["bias"])]:
            to.copy_(torch.from_numpy(value))
        layer.bias_hh_l0.zero_()
    wanted = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0]

    def run(i):
        loss = layer(sets[i % len(sets)][0])[0].square().mean()
        return [loss, *torch.autograd.grad(loss, wanted)]
    return Prepared(run, mean_abs([y.detach() for y in run(0)]))


def prepare_model(torch, request, sets, values, compiled):
    F, name, last = torch.nn.functional, request["op"], torch.channels_last

    def tensor(key, value):
        t = torch.from_numpy(value)
        t = t.t().contiguous() if key.endswith(".weight") and t.dim() == 2 else t
        return t.to(memory_format=last) if compiled and t.dim() == 4 and not key.endswith(".cache") else t
    p = {k: tensor(k, v) for k, v in values.items()}
    sets = [[x.to(memory_format=last) if compiled and x.dim() == 4 else x for x in s] for s in sets]

    def f(p, *x):
        return MODELS[name](F, request, p, *x)
    if compiled:
        f = torch.compile(f, fullgraph=True, dynamic=False)
    if not request["trains"]:
        def forward(i):
            with torch.inference_mode():
                return f(p, *sets[i % len(sets)])
        return Prepared(forward, mean_abs(forward(0)))
    initial = {k: v.clone() for k, v in p.items()}
    for v in p.values():
        v.requires_grad_()
    adamw = name in ("heads_step", "block_step", "gpt_step")
    optimizer = torch.optim.AdamW(p.values(), lr=1e-3, weight_decay=0.01, fused=True) if adamw else torch.optim.Adam(p.values(), lr=1e-3, fused=True)
    now = {"x": sets[0]}

    def run(i):
        optimizer.zero_grad(set_to_none=True)
        loss = f(p, *now["x"])
        loss.backward()
        optimizer.step()
        now["loss"] = loss.detach()

    def reset():
        with torch.no_grad():
            for k, v in p.items():
                v.copy_(initial[k])
            for state in optimizer.state.values():
                for t in state.values():
                    t.zero_()
    prepared = train(run, lambda i: now.update(x=sets[i % len(sets)]), reset, lambda: now["loss"].item(), request["loss_steps"])
    if "compile" in request:
        return Compiled(prepared.check, lambda: compile_seconds(torch, request, p, sets[0]))
    return prepared


def compile_seconds(torch, request, p, x):
    """Forward and backward, traced and compiled: what the first call takes longer than the second. cold: without the cache on disk."""
    from torch._inductor.utils import clear_caches, fresh_cache
    import contextlib

    def step(f):
        start = time.perf_counter()
        f(p, *x).backward()
        return time.perf_counter() - start
    torch.compiler.reset()
    clear_caches()
    with fresh_cache() if request["compile"] == "cold" else contextlib.nullcontext():
        f = torch.compile(lambda p, *x: MODELS[request["op"]](torch.nn.functional, request, p, *x), fullgraph=True, dynamic=False)
        first = step(f)
        return first - step(f)


def load(threads, variant):
    # What was compiled for two threads would be found again, and run, for one.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}_{threads}_threads"))
    import torch
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    compiled = variant == "compile"

    def prepare(request):
        name = request["op"]
        if name not in OPS and name not in MODELS and name != "lstm" or compiled and name in ("matmul", "lstm") or "compile" in request and not compiled:
            return None
        arrays, values = data_of(request)
        sets = [[torch.from_numpy(x) if x.dtype.kind == "f" else torch.from_numpy(x).long() for x in s] for s in arrays]
        if compiled:
            torch.compiler.reset()   # each case is compiled for its shapes
        if name == "lstm":
            return prepare_lstm(torch, sets, values)
        if name in MODELS:
            return prepare_model(torch, request, sets, values, compiled)
        with torch.no_grad():
            pairs = [OPS[name](torch, request, *s) for s in sets]
            f = torch.compile(pairs[0][0], dynamic=False) if compiled else pairs[0][0]

        def run(i):
            with torch.no_grad():
                return f(*pairs[i % len(pairs)][1])
        return Prepared(run, mean_abs(run(0)))
    return f"PyTorch {torch.__version__}, {variant}", prepare


if __name__ == "__main__":
    serve(load)
