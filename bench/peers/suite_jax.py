"""JAX on the CPU beside `quern bench suite`; the protocol is that of serve.py. Everything is one jit function a case.

Parameters come in the order of bench/suite_models.cpp; states of training steps are donated. Images lie as [n, h, w, c].
XLA takes as many threads as the process has processors, so it gets as many.
"""
import os
import tempfile
import time

from serve import MODELS, OPS, Compiled, Prepared, data_of, mean_abs, model, op, serve, train


def loss_of(logits, label):
    import jax
    import jax.numpy as jnp
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1).mean()


def normalize(x, scale, shift):
    import jax
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * scale + shift


# --- plain ops: request → function of the inputs ---

@op
def matmul(jnp, request):
    ta, tb = (c == "t" for c in request["layout"])
    return lambda a, b: jnp.matmul(a.T if ta else a, b.T if tb else b)


@op
def softmax(jnp, request):
    import jax
    return jax.nn.softmax


@op
def softmax_grad(jnp, request):
    return lambda y, g: y * (g - jnp.sum(g * y, axis=-1, keepdims=True))


@op
def layer_norm(jnp, request):
    return normalize


@op
def layer_norm_grad(jnp, request):
    import jax
    return lambda x, w, b, g: jax.vjp(normalize, x, w, b)[1](g)


@op
def cross_entropy(jnp, request):
    return loss_of


@op
def cross_entropy_grad(jnp, request):
    import jax
    return jax.grad(loss_of)


@op
def sum0(jnp, request):
    return lambda x: x.sum(0)


@op
def sum1(jnp, request):
    return lambda x: x.sum(1)


@op
def transpose(jnp, request):
    return lambda x: x.T


@op
def chain_tanh(jnp, request):
    return lambda a, b: jnp.tanh(jnp.maximum(a * 2 + b, 0)) * a


@op
def chain_sigmoid(jnp, request):
    import jax
    return lambda a, b, c: (a * b + c) * jax.nn.sigmoid(a) - b


@op
def chain_exp(jnp, request):
    return lambda a: jnp.exp(-a * a) * 0.5 + jnp.abs(a)


# --- models: (jnp, request, p, *inputs) → loss or output; p: parameters by name ---

def dense(p, x, name):
    return x @ p[name + ".weight"] + p[name + ".bias"]


def norm(p, x, name):
    return normalize(x, p[name + ".scale"], p[name + ".shift"])


def conv3(p, x, name):
    import jax
    return jax.lax.conv_general_dilated(x, p[name + ".weight"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + p[name + ".bias"]


@model
def mlp_step(jnp, request, p, x, label):
    return loss_of(dense(p, jnp.maximum(dense(p, x, "hidden0"), 0), "out"), label)


@model
def heads_step(jnp, request, p, x, *label):
    for width in (512, 256, 128):
        x = jnp.maximum(dense(p, x, f"hidden{width}"), 0)
    return sum(loss_of(dense(p, x, f"head{h}"), y) for h, y in enumerate(label))


@model
def cnn_step(jnp, request, p, x, label):
    import jax
    for i in range(2):
        x = jax.lax.reduce_window(jnp.maximum(conv3(p, x, f"conv{i}"), 0), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)   # as the matrix wants it
    return loss_of(dense(p, jnp.maximum(dense(p, x, "hidden"), 0), "out"), label)


@model
def residual(jnp, request, p, x):
    return jnp.maximum(conv3(p, jnp.maximum(conv3(p, x, "conv0"), 0), "conv1") + x, 0)


@model
def lstm(jnp, request, p, x):
    import jax

    def f(p):
        hidden = p["h.weight"].shape[0]

        def step(state, z):
            h, c = state
            i, f, g, o = jnp.split(z + h @ p["h.weight"], 4, 1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h
        zero = jnp.zeros((x.shape[1], hidden))
        y = jax.lax.scan(step, (zero, zero), x @ p["x.weight"] + p["bias"])[1]
        return (y * y).mean()
    loss, g = jax.value_and_grad(f)(p)
    return [loss, *g.values()]


def block(jnp, request, p, x, name, causal=True):
    import jax
    b, t, c = x.shape
    heads = request["heads"]
    q, k, v = (s.reshape(b, t, heads, -1).transpose(0, 2, 1, 3) for s in jnp.split(dense(p, norm(p, x, name + ".norm0"), name + ".qkv"), 3, 2))
    if not causal:
        k, v = (jnp.concatenate([p[f"{name}.{n}.cache"], s], 2) for n, s in (("k", k), ("v", v)))
    scores = q @ k.transpose(0, 1, 3, 2) * (c // heads) ** -0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones((t, t), bool)), scores, -jnp.inf)
    x = x + dense(p, (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(b, t, c), name + ".out")
    return x + dense(p, jax.nn.gelu(dense(p, norm(p, x, name + ".norm1"), name + ".up"), approximate=False), name + ".down")


@model
def block_step(jnp, request, p, x):
    y = block(jnp, request, p, x, "block")
    return (y * y).mean()


@model
def gpt_step(jnp, request, p, token, label):
    x = (p["token.table"][token] + p["place.table"][:token.shape[0]])[None]
    for i in range(request["layers"]):
        x = block(jnp, request, p, x, f"block{i}")
    return loss_of(norm(p, x, "norm")[0] @ p["token.table"].T, label)


@model
def decode(jnp, request, p, token):
    x = (p["token.table"][token] + p["place.table"][request["past"]])[None]
    for i in range(request["layers"]):
        x = block(jnp, request, p, x, f"block{i}", causal=False)
    return norm(p, x, "norm")[0] @ p["token.table"].T


def adam(jax, jnp, f, decay):
    """A training step of the loss f; its state is (parameters, moments, moments, step)."""
    def step(state, *x):
        p, m, v, t = state
        loss, g = jax.value_and_grad(f)(p, *x)
        t = t + 1
        root = jnp.sqrt(1 - 0.999**t)   # corrections taken out of the elements, as ours are
        rate, epsilon = 1e-3 * root / (1 - 0.9**t), 1e-8 * root
        tree = jax.tree_util.tree_map
        m = tree(lambda a, b: 0.9 * a + 0.1 * b, m, g)
        v = tree(lambda a, b: 0.999 * a + 0.001 * b * b, v, g)
        p = tree(lambda w, a, b: w - rate * a / (jnp.sqrt(b) + epsilon) - 1e-3 * decay * w, p, m, v)
        return (p, m, v, t), loss
    return jax.jit(step, donate_argnums=0)


def image(x, rank4="nhwc"):
    return x if x.ndim != 4 else x.transpose(0, 2, 3, 1) if rank4 == "nhwc" else x.transpose(2, 3, 1, 0)


def load(threads, variant):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp
    from jax.experimental.compilation_cache import compilation_cache
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_default_matmul_precision", "highest")

    def use_cache(folder):
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()

    def prepare(request):
        name = request["op"]
        if name not in OPS and name not in MODELS:
            return None
        jax.clear_caches()
        use_cache(None)   # the last case's folder is gone
        arrays, values = data_of(request)
        sets = [[jnp.asarray(image(x)) for x in s] for s in arrays]
        p = {k: jnp.asarray(image(x, "hwio") if k.endswith(".weight") else x) for k, x in values.items()}
        if name in OPS:
            f = jax.jit(OPS[name](jnp, request))

            def run(i):
                return jax.block_until_ready(f(*sets[i % len(sets)]))
            return Prepared(run, mean_abs(run(0)))

        def g(p, *x):
            return MODELS[name](jnp, request, p, *x)
        if not request["trains"]:
            h = jax.jit(g)

            def forward(i):
                return jax.block_until_ready(h(p, *sets[i % len(sets)]))
            return Prepared(forward, mean_abs(forward(0)))
        decay = 0.01 if name in ("heads_step", "block_step", "gpt_step") else 0.0
        step = adam(jax, jnp, g, decay)
        now = {}

        def reset():
            zeros = jax.tree_util.tree_map(jnp.zeros_like, p)
            now["state"] = jax.block_until_ready((jax.tree_util.tree_map(jnp.copy, p), zeros, jax.tree_util.tree_map(jnp.copy, zeros), jnp.zeros(())))

        def run_step(i):
            now["state"], now["loss"] = jax.block_until_ready(step(now["state"], *now["x"]))
        prepared = train(run_step, lambda i: now.update(x=sets[i % len(sets)]), reset, lambda: float(now["loss"]), request["loss_steps"])
        if "compile" not in request:
            return prepared
        cache = tempfile.TemporaryDirectory() if request["compile"] == "warm" else None   # lives as long as the case

        def compile_once():
            jax.clear_caches()
            use_cache(cache and cache.name)
            start = time.perf_counter()
            adam(jax, jnp, g, decay).lower(now["state"], *sets[0]).compile()
            return time.perf_counter() - start
        compile_once()   # fills the cache
        return Compiled(prepared.check, compile_once)
    return f"JAX {jax.__version__}, {variant}", prepare


if __name__ == "__main__":
    serve(load)
