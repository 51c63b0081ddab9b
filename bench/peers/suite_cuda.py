"""PyTorch and JAX on a GPU beside `quern bench suite cuda`; the protocol is that of serve.py, with "together" runs in one.

Variants: torch (eager), torch-compile (max-autotune), cublaslt (the fastest of what its heuristic proposes), all as CUDA graphs of
many runs; jax (jit of one run on every input set). Training steps follow one another on one batch: in a CUDA graph, with JAX in a scan.
PyTorch makes the data, as numpy would take seconds. "samples" are elements of the outputs that PyTorch computes in f64.
"""
import os

from serve import MODELS, OPS, Prepared, model, op, serve
from suite_torch import OPS as SHARED   # noqa: F401: layer_norm, softmax, sums and their derivatives, models, registered

SAMPLES = 4096   # also in bench/repeated.cpp
BETA1, BETA2, EPSILON, RATE, DECAY = 0.9, 0.999, 1e-8, 1e-3, 0.01


@op
def product(torch, request, a, b, bias=None):
    ta, tb = (c == "T" for c in request["layout"])
    if a.dtype == torch.float8_e4m3fn:
        one = torch.ones((), device="cuda")

        def scaled(a, b):   # it takes both along the sum
            a, b = a.t().contiguous() if ta else a, b if tb else b.t().contiguous()
            return torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16)
        return scaled, (a, b)

    def f(a, b, bias=None):
        a, b = a.t() if ta else a, b.t() if tb else b
        return torch.matmul(a, b) if bias is None else torch.tanh(torch.addmm(bias, a, b))
    return f, (a, b) if bias is None else (a, b, bias)


@op
def conv2d(torch, request, x, w, g=None):   # cuDNN
    strides, padding = [request["stride"]] * 2, [request["padding"]] * 2

    def nchw(t):
        return t.permute(0, 3, 1, 2)

    def f(x, w, g=None):
        if g is None:
            y = torch.nn.functional.conv2d(nchw(x), nchw(w), stride=strides, padding=padding)
        else:
            data = request["what"] == "data"
            y = torch.ops.aten.convolution_backward(nchw(g), nchw(x), nchw(w), None, strides, padding, [1, 1], False, [0, 0], 1, [data, not data, False])[0 if data else 1]
        return y.permute(0, 2, 3, 1)
    return f, (x, w) if g is None else (x, w, g)


@op
def cross_entropy_wide(torch, request, x, label):
    return (lambda x, label: torch.nn.functional.cross_entropy(x if x.dtype == torch.float64 else x.float(), label)), (x, label.long())


@op
def bias_gelu(torch, request, x, b):
    return (lambda x, b: torch.nn.functional.gelu(x + b)), (x, b)


@op
def transpose_add(torch, request, x):
    return (lambda x: x + x.t()), (x,)


@op
def embedding_gradient(torch, request, table, u, i):   # atomic additions, in any order
    return (lambda table, u, i: torch.zeros_like(table).index_add_(0, i, u)), (table, u, i.long())


@op
def adamw(torch, request, p, g, step, m, v):
    def f(p, g, step, m, v):
        t = step + 1
        m1, v1 = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
        next_p = p - RATE * (m1 / (1 - BETA1**t)) / (torch.sqrt(v1 / (1 - BETA2**t)) + EPSILON) - RATE * DECAY * p
        return m1, v1, next_p
    return f, (p, g, step, m, v)


@model
def heads(F, request, p, x):
    for width in (512, 256, 128):
        x = F.relu(F.linear(x, p[f"hidden{width}.weight"], p[f"hidden{width}.bias"]))
    return tuple(F.linear(x, p[f"head{h}.weight"], p[f"head{h}.bias"]) for h in range(3))


JAX = {}


def jax_op(f):
    JAX[f.__name__] = f
    return f


@jax_op
def layer_norm(jax, jnp, request, x, w, b):
    x, w, b = (t.astype(jnp.float32) for t in (x, w, b))
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    return (centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * w + b).astype(jnp.bfloat16)


@jax_op
def layer_norm_grad(jax, jnp, request, x, w, b, g):
    return jax.vjp(lambda *t: layer_norm(jax, jnp, request, *t), x, w, b)[1](g)


@jax_op
def softmax(jax, jnp, request, x):
    return jax.nn.softmax(x.astype(jnp.float32)).astype(jnp.bfloat16)


@jax_op
def cross_entropy_wide(jax, jnp, request, x, label):   # noqa: F811: of the other framework
    return -jnp.take_along_axis(jax.nn.log_softmax(x.astype(jnp.float32)), label[:, None], 1).mean()


@jax_op
def bias_gelu(jax, jnp, request, x, b):   # noqa: F811
    return jax.nn.gelu(x.astype(jnp.float32) + b.astype(jnp.float32), approximate=False).astype(jnp.bfloat16)


@jax_op
def embedding_gradient(jax, jnp, request, table, u, i):   # noqa: F811
    return jnp.zeros_like(table).at[i].add(u)


@jax_op
def sum0(jax, jnp, request, x):
    return x.sum(0)


@jax_op
def sum1(jax, jnp, request, x):
    return x.sum(1)


@jax_op
def transpose_add(jax, jnp, request, x):   # noqa: F811
    return x + x.T


@jax_op
def product(jax, jnp, request, a, b, bias=None):   # noqa: F811
    y = jnp.matmul(a.T if request["layout"][0] == "T" else a, b.T if request["layout"][1] == "T" else b)
    return y if bias is None else jnp.tanh(y + bias)


@jax_op
def adamw(jax, jnp, request, p, g, step, m, v):   # noqa: F811
    t = step + 1
    m1, v1 = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
    return m1, v1, p - RATE * (m1 / (1 - BETA1**t)) / (jnp.sqrt(v1 / (1 - BETA2**t)) + EPSILON) - RATE * DECAY * p


def signed(u):
    return u - (1 << 64) if u >= 1 << 63 else u


def uniform(torch, stream, shape, dtype, scale, shift=0.0):
    """The same bits as bench/data.h, made on the GPU."""
    out = torch.empty(shape, device="cuda", dtype=dtype)
    flat = out.view(-1)
    for start in range(0, flat.numel(), 1 << 26):
        n = min(1 << 26, flat.numel() - start)
        z = torch.arange(start, start + n, device="cuda") + signed(((stream << 32) + 0x9E3779B97F4A7C15) % (1 << 64))
        for shift_by, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            z = (z ^ (z >> shift_by & ((1 << 64 - shift_by) - 1))) * signed(factor)
        flat[start:start + n] = ((z >> 40 & 0xFFFFFF).float() * 2.0**-23 - 1) * scale + shift
    return out


def data_of(torch, request):
    """One input set."""
    from common import labels, stream_of
    out = []
    for position, i in enumerate(request["inputs"]):
        stream = stream_of(0, position)
        if i["classes"]:
            out.append(torch.from_numpy(labels(stream, i["shape"][0], i["classes"])).cuda())
        else:
            dtype = {"bf16": torch.bfloat16, "f8e4m3": torch.float8_e4m3fn}.get(i["dtype"], torch.float32)
            out.append(uniform(torch, stream, i["shape"], dtype, i["scale"], i["shift"]))
    return out


def tuple_of(y):
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)


def sampled(torch, outputs):
    return [y.reshape(-1)[torch.arange(min(y.numel(), SAMPLES), device="cuda") * 2654435761 % y.numel()].double().tolist() for y in outputs]


def mean_abs(torch, outputs):
    return sum(y.abs().mean(dtype=torch.float64 if y.numel() < 1 << 27 else torch.float32).item() for y in outputs)


class Replayed(Prepared):
    """`replay()` runs the case so many times."""

    def __init__(self, torch, replay, times, check):
        self.torch, self.replay, self.times, self.check = torch, replay, times, check

    def measure(self, how):
        from common import block, microseconds

        def go():
            self.replay()
            self.torch.cuda.synchronize()
        return [t / self.times for t in block(lambda i: microseconds(go), how["milliseconds"], how["runs"])]   # a block is as long as any other


def parameters_of(torch, request, transposed):
    """By name; `transposed`: matrices as [out, in], as torch.nn has them."""
    p = {q["name"]: uniform(torch, q["stream"], q["shape"], torch.float32, q["scale"]) if q["scale"] > 0 else torch.full(q["shape"], q["constant"], device="cuda", dtype=torch.float32)
         for q in request["parameters"]}
    return {k: v.t().contiguous() if transposed and v.dim() == 2 else v for k, v in p.items()}


def lstm(torch, p):
    """torch.nn.LSTM (cuDNN): forward, the loss, and the parameters' gradients. Of its two biases the second one is zero."""
    layer = torch.nn.LSTM(p["x.weight"].shape[1], p["h.weight"].shape[1], dtype=p["bias"].dtype, device="cuda")
    for to, value in [(layer.weight_ih_l0, p["x.weight"]), (layer.weight_hh_l0, p["h.weight"]), (layer.bias_ih_l0, p["bias"]), (layer.bias_hh_l0, torch.zeros_like(p["bias"]))]:
        to.data.copy_(value)
    wanted = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0]

    def f(x):
        with torch.enable_grad():
            loss = layer(x)[0].square().mean()
            g = torch.autograd.grad(loss, wanted)
        return loss.detach(), g[0].t(), g[1].t(), g[2]
    return f


def function_of(torch, request, inputs):
    """A function of tensors and its arguments; of a model, its parameters are arguments, too."""
    if request["op"] in OPS:
        return OPS[request["op"]](torch, request, *inputs)
    p = parameters_of(torch, request, True)
    p = {k: v.to(inputs[0].dtype) for k, v in p.items()}
    if request["op"] == "lstm":
        return lstm(torch, p), inputs
    n = len(inputs)
    return (lambda *t: MODELS[request["op"]](torch.nn.functional, request, dict(zip(p, t[n:])), *t[:n])), (*inputs, *p.values())


def exact_samples(torch, request, inputs):
    """None where another peer has told them."""
    if not request["exact"]:
        return []
    f, args = function_of(torch, request, [t.double() if t.is_floating_point() else t for t in inputs])
    with torch.backends.cudnn.flags(benchmark=False):
        samples = sampled(torch, tuple_of(f(*args)))
    del f, args
    torch.cuda.empty_cache()
    return samples


def prepare_torch(torch, request, compiled):
    inputs = data_of(torch, request)
    f, args = function_of(torch, request, inputs)
    samples = exact_samples(torch, request, inputs)
    if compiled:
        torch._dynamo.reset()
        f = torch.compile(f, fullgraph=True, dynamic=False, mode="max-autotune-no-cudagraphs")   # the graph is ours
    sets = [args] + [tuple(t.clone() for t in args) for _ in range(1, request["sets"])]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for s in sets:
            y = f(*s)
        check = mean_abs(torch, tuple_of(y))
        del y
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for r in range(request["together"]):
            f(*sets[r % len(sets)])
    prepared = Replayed(torch, graph.replay, request["together"], check)
    prepared.samples, prepared.kept = samples, (graph, sets)
    return prepared


def prepare_cublaslt(torch, library, request):
    inputs = data_of(torch, request)
    if len(inputs) != 2:   # a bias and an activation that it has not
        return None
    ta, tb = (c == "T" for c in request["layout"])
    a, b = inputs
    sets = [(a.clone(), b.clone(), torch.empty(a.shape[ta], b.shape[1 - tb], dtype=a.dtype, device="cuda")) for _ in range(request["sets"])]

    def recorded(run, times):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for r in range(times):
                run(*sets[r % len(sets)])
        return graph

    def seconds(run):
        run(*sets[0])
        torch.cuda.synchronize()
        graph = recorded(run, min(10, request["together"]))
        times = []
        for _ in range(4):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        return min(times[1:])
    best = min(library.product(a, b, ta, tb, request.get("matmul") == "tf32"), key=seconds)
    best(*sets[0])
    graph = recorded(best, request["together"])
    prepared = Replayed(torch, graph.replay, request["together"], mean_abs(torch, (sets[0][2],)))
    prepared.samples, prepared.kept = exact_samples(torch, request, inputs), (graph, sets)
    return prepared


class FusedAdamW(Replayed):
    """The optimizer's own fused kernel, in place; what it computes is checked by the formula."""

    def __init__(self, torch, request):
        p, g, _, m, v = data_of(torch, request)
        checked = prepare_torch(torch, request, False)
        p = torch.nn.Parameter(p)
        p.grad = g
        optimizer = torch.optim.AdamW([p], lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, weight_decay=DECAY, fused=True, capturable=True)
        optimizer.step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(request["together"]):
                optimizer.step()
        super().__init__(torch, graph.replay, request["together"], checked.check)
        self.samples, self.kept = checked.samples, (graph, optimizer, p)


def prepare_step(torch, request, compiled):
    """A training step: products in bf16 by autocast, masters f32, the optimizer's fused kernel."""
    from serve import MODELS, train
    from serve import data_of as arrays_of
    arrays, _ = arrays_of({**request, "parameters": []})
    p = {k: (v.t().contiguous() if k.endswith(".weight") and v.dim() == 2 else v).requires_grad_() for k, v in parameters_of(torch, request, False).items()}
    sets = [[torch.from_numpy(x).cuda().long() for x in s] for s in arrays]
    initial = {k: v.detach().clone() for k, v in p.items()}

    def f(p, *x):
        with torch.autocast("cuda", torch.bfloat16):
            return MODELS[request["op"]](torch.nn.functional, request, p, *x)
    if compiled:
        torch._dynamo.reset()
        f = torch.compile(f, fullgraph=True, dynamic=False)
    optimizer = torch.optim.AdamW(p.values(), lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, weight_decay=DECAY, fused=True)
    now = {"x": sets[0]}

    def run(i):
        with torch.enable_grad():
            optimizer.zero_grad(set_to_none=True)
            loss = f(p, *now["x"])
            loss.backward()
            optimizer.step()
        now["loss"] = loss.detach()
        torch.cuda.synchronize()

    def reset():
        for k, v in p.items():
            v.data.copy_(initial[k])
        for state in optimizer.state.values():
            for t in state.values():
                t.zero_()
        torch.cuda.synchronize()
    return train(run, lambda i: now.update(x=sets[i % len(sets)]), reset, lambda: now["loss"].item(), request["loss_steps"])
class Steps(Replayed):
    """A training step so many times, from its parameters' first values in every block; the check is the last loss."""

    def __init__(self, torch, replay, times, reset, loss):
        super().__init__(torch, replay, times, None)
        self.restart = reset
        reset()
        replay()
        torch.cuda.synchronize()
        self.check = float(loss())

    def measure(self, how):
        self.restart()
        return super().measure(how)


def decay_of(request):
    return DECAY if request["op"] == "heads_step" else 0.0


def torch_steps(torch, request, compiled):
    """torch: eager with the fused optimizer; torch-compile: forward, backward and update as one compiled function. Both as CUDA graphs."""
    x = [t if t.is_floating_point() else t.long() for t in data_of(torch, request)]
    values, decay = parameters_of(torch, request, True), decay_of(request)
    names, initial = list(values), [v.clone() for v in values.values()]
    p = list(values.values())
    last = {}

    def loss_of(p, *x):
        return MODELS[request["op"]](torch.nn.functional, request, dict(zip(names, p)), *x)
    if compiled:
        m, v, t = [torch.zeros_like(w) for w in p], [torch.zeros_like(w) for w in p], torch.zeros((), device="cuda")

        def update(p, m, v, t, *x):
            g, loss = torch.func.grad_and_value(loss_of)(p, *x)
            t1 = t + 1
            m1 = [BETA1 * a + (1 - BETA1) * b for a, b in zip(m, g)]
            v1 = [BETA2 * a + (1 - BETA2) * b * b for a, b in zip(v, g)]
            c1, c2 = 1 - BETA1**t1, 1 - BETA2**t1
            p1 = [w - RATE * (a / c1) / (torch.sqrt(b / c2) + EPSILON) - RATE * decay * w for w, a, b in zip(p, m1, v1)]
            for old, new in zip([*p, *m, *v, t], [*p1, *m1, *v1, t1]):
                old.copy_(new)
            return loss
        torch._dynamo.reset()
        whole = torch.compile(update, fullgraph=True, dynamic=False, mode="max-autotune-no-cudagraphs")

        def step():
            last["loss"] = whole(p, m, v, t, *x)
        moments = [*m, *v, t]
    else:
        for w in p:
            w.requires_grad_()
        optimizer = (torch.optim.AdamW(p, lr=RATE, weight_decay=decay, fused=True, capturable=True) if decay else torch.optim.Adam(p, lr=RATE, fused=True, capturable=True))

        def step():
            with torch.enable_grad():
                optimizer.zero_grad(set_to_none=True)
                loss = loss_of(p, *x)
                loss.backward()
            optimizer.step()
            last["loss"] = loss.detach()
        moments = None
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    if not compiled:
        moments = [s for state in optimizer.state.values() for s in state.values()]
        optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(request["together"]):
            step()

    def reset():
        for a, b in zip(p, initial):
            a.detach().copy_(b)
        for a in moments:
            a.zero_()
        torch.cuda.synchronize()
    prepared = Steps(torch, graph.replay, request["together"], reset, lambda: last["loss"].item())
    prepared.kept = (graph, x, p, moments, last)
    return prepared


def jax_steps(torch, jax, jnp, request):
    """All the steps as one scan."""
    import suite_jax
    x = [jnp.asarray(t.cpu().numpy()) for t in data_of(torch, request)]
    p = {k: jnp.asarray(v.cpu().numpy()) for k, v in parameters_of(torch, request, False).items()}
    step = suite_jax.adam(jax, jnp, lambda p, *x: MODELS[request["op"]](jnp, request, p, *x), decay_of(request))
    many = jax.jit(lambda state, *x: jax.lax.scan(lambda s, _: step(s, *x), state, None, length=request["together"]), donate_argnums=0)
    now = {}

    def reset():
        zeros = jax.tree_util.tree_map(jnp.zeros_like, p)
        now["state"] = jax.block_until_ready((jax.tree_util.tree_map(jnp.copy, p), zeros, jax.tree_util.tree_map(jnp.copy, zeros), jnp.zeros(())))

    def replay():
        now["state"], now["losses"] = many(now["state"], *x)
        jax.block_until_ready(now["losses"])
    return Steps(Synchronized, replay, request["together"], reset, lambda: now["losses"][-1])


class Synchronized:   # as the torch module stands in Replayed
    class cuda:
        @staticmethod
        def synchronize():
            return None


@jax_op
def heads(jax, jnp, request, x, *values):   # noqa: F811
    p = dict(zip([q["name"] for q in request["parameters"]], values))
    for width in (512, 256, 128):
        x = jnp.maximum(x @ p[f"hidden{width}.weight"] + p[f"hidden{width}.bias"], 0)
    return tuple(x @ p[f"head{h}.weight"] + p[f"head{h}.bias"] for h in range(3))


def prepare_jax(torch, jax, jnp, request):
    f = JAX[request["op"]]
    first = [jax.dlpack.from_dlpack(t) for t in [*data_of(torch, request), *parameters_of(torch, request, False).values()]]
    sets = [first] + [[x + 0 for x in first] for _ in range(1, request["sets"])]
    run = jax.jit(lambda sets: [f(jax, jnp, request, *s) for s in sets])
    outputs = jax.block_until_ready(run(sets))
    check = float(sum(jnp.abs(y.astype(jnp.float32)).mean() for y in tuple_of(outputs[0])))
    del outputs
    rounds = max(1, request["together"] // len(sets))

    def replay():
        for _ in range(rounds):
            y = run(sets)
        jax.block_until_ready(y)
    return Replayed(Synchronized, replay, rounds * len(sets), check)


def load(threads, variant):
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import torch
    if not torch.cuda.is_available():
        raise RuntimeError("this PyTorch sees no GPU")
    torch.set_grad_enabled(False)
    torch.backends.cudnn.benchmark = True   # the fastest of its algorithms
    if variant == "jax":
        import jax
        import jax.numpy as jnp
        import suite_jax   # noqa: F401: its models are registered in place of PyTorch's
        if jax.default_backend() != "gpu":
            raise RuntimeError("this JAX sees no GPU")

    if variant == "cublaslt":
        from cublaslt import Library
        library = Library(torch)

    def prepare(request):
        torch.cuda.empty_cache()
        name, tf32 = request["op"], request.get("matmul") == "tf32"
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        if variant == "jax":
            jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32 else "highest")
        if request.get("matmul") == "f8" and variant in ("cublaslt", "jax"):   # which are not asked for it here
            return None
        if variant == "cublaslt":
            return prepare_cublaslt(torch, library, request) if name == "product" else None
        if name == "gpt_step":
            return prepare_step(torch, request, variant == "torch-compile") if variant != "jax" else None
        if request.get("trains"):
            return jax_steps(torch, jax, jnp, request) if variant == "jax" else torch_steps(torch, request, variant == "torch-compile")
        if variant == "jax":
            return prepare_jax(torch, jax, jnp, request) if name in JAX else None
        if name not in OPS and name not in MODELS and name != "lstm" or variant == "torch-compile" and name in ("product", "conv2d", "lstm"):   # tuning twenty products takes minutes
            return None
        if name == "adamw" and variant == "torch":
            return FusedAdamW(torch, request)
        return prepare_torch(torch, request, variant == "torch-compile")
    version = {"jax": lambda: "JAX " + jax.__version__, "cublaslt": lambda: f"cuBLASLt {library.lib.cublasLtGetVersion()}"}.get(variant, lambda: "PyTorch " + torch.__version__)()
    how = {"torch": "eager, CUDA graphs", "torch-compile": "compiled max-autotune, CUDA graphs (GPT-2's step: default mode, no graph)", "cublaslt": "fastest of 8 proposals, CUDA graphs", "jax": "jit"}[variant]
    return f"{version}, {how}, f32 exact but where a case says tf32, bf16 as in the case's name", prepare


if __name__ == "__main__":
    serve(load)
