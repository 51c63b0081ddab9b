#!/usr/bin/env python3
"""The training step of `quern bench mlp` in PyTorch and JAX: 784-256-10, relu, cross-entropy, Adam at 1e-3.

Prints one JSON line a row: {name, batch, peer, median_us, low_us, high_us, precision, synchronised, …}. Two rows a peer
and batch size: each step waited for ("synchronised"), and many steps enqueued with one wait at the end. Batches lie on
the device; bringing one there is not timed, as in ours. A peer that cannot run prints a row with "skipped": the reason.
Each peer and precision has a process of its own, which is ended where a row takes more than --seconds; "first_call_s" is
the time from the start of a row to the first result: trace, compilation, capture. "loss" is the loss of step 10, equal
for all; "product_error" the relative error of a product, which shows whether TF32 was used.

    python3 bench/peers/mlp_step.py --device cuda >peers.jsonl
    python3 bench/peers/join.py quern.json peers.jsonl
"""
import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time

PEERS = {   # those that compile for long come last
    "torch-eager": "PyTorch eager",
    "torch-eager-graph": "PyTorch eager + CUDA graph",
    "jax-jit": "JAX jit",
    "jax-scan": "JAX scan of 100 steps",
    "torch-compiled": "PyTorch compiled",                      # CUDA: mode reduce-overhead
    "torch-compiled-graph": "PyTorch compiled + CUDA graph",   # forward and backward compiled, the whole step captured
    "torch-functional": "PyTorch compiled whole step",         # Adam, too; CUDA: captured
}
SCAN = 100


# --- steppers: build(batch), reset(), load(set), step(), wait(), loss(); `steps_per_call` ---

class Stepper:
    steps_per_call = 1

    def loss_after(self):
        """The loss of the tenth step from the initial values, one input set after the other."""
        from common import LOSS_STEPS
        self.reset()
        for i in range(LOSS_STEPS):
            self.load(i)
            self.step()
        return self.loss()


class TorchStep(Stepper):
    """`variant`: eager | eager-graph | compiled | compiled-graph | functional."""

    def __init__(self, variant, device, precision, mode=""):
        import torch
        self.torch, self.variant, self.device = torch, variant, device
        self.graph = variant.endswith("-graph") or (variant == "functional" and device == "cuda")
        self.mode = mode or ("default" if device == "cpu" else "max-autotune-no-cudagraphs" if self.graph else "reduce-overhead")
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("this PyTorch sees no GPU")
        if self.graph and device != "cuda":
            raise RuntimeError("CUDA graphs need a GPU")
        torch.set_float32_matmul_precision("highest" if precision == "f32" else "high")
        self.version = f"PyTorch {torch.__version__}"

    def build(self, batch):
        from common import mlp_batches, mlp_parameters
        torch = self.torch
        torch.manual_seed(0)
        if hasattr(torch, "compiler"):
            torch.compiler.reset()   # one batch size after the other, each compiled for its shape
        self.initial = [torch.from_numpy(p).to(self.device) for p in mlp_parameters()]
        self.sets = [(torch.from_numpy(x).to(self.device), torch.from_numpy(y).long().to(self.device)) for x, y in mlp_batches(batch)]
        self.x, self.y = (t.clone() for t in self.sets[0])   # what a graph reads
        self.replay = None
        (self.build_functional if self.variant == "functional" else self.build_modules)()
        self.step()
        self.wait()
        if self.graph:
            self.capture()

    def build_modules(self):
        torch = self.torch
        model = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).to(self.device)
        self.parameters = list(model.parameters())
        # Eager is what most programs say; the others take the fastest update there is.
        options = {} if self.variant == "eager" else {"fused": True, "capturable": self.device == "cuda"}
        optimizer = torch.optim.Adam(self.parameters, lr=1e-3, **options)

        def loss_of(x, y):
            return torch.nn.functional.cross_entropy(model(x), y)
        if self.variant.startswith("compiled"):
            loss_of = torch.compile(loss_of, mode=self.mode, fullgraph=True, dynamic=False)

        def step():
            if self.variant == "compiled" and self.device == "cuda":
                torch.compiler.cudagraph_mark_step_begin()
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(self.x, self.y)
            loss.backward()
            optimizer.step()
            self.value = loss.detach()   # the autograd graph must not live on: its nodes remember their stream

        def reset():
            with torch.no_grad():
                for p, v in zip(self.parameters, self.initial):
                    p.copy_(v.t() if v.dim() == 2 else v)
                for state in optimizer.state.values():
                    for t in state.values():
                        t.zero_()
        self.run, self.reset_states = step, reset
        reset()

    def build_functional(self):
        """Forward, backward and Adam as one function of tensors, compiled as a whole."""
        torch = self.torch
        p = [v.clone() for v in self.initial]
        m, v = [torch.zeros_like(t) for t in p], [torch.zeros_like(t) for t in p]
        t = torch.zeros((), device=self.device)

        def loss_of(p, x, y):
            return torch.nn.functional.cross_entropy(torch.relu(x @ p[0] + p[1]) @ p[2] + p[3], y)

        def update(p, m, v, t, x, y):
            g, loss = torch.func.grad_and_value(loss_of)(p, x, y)
            t = t + 1
            m = [0.9 * a + 0.1 * b for a, b in zip(m, g)]
            v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g)]
            c1, c2 = 1 - 0.9**t, 1 - 0.999**t
            p = [w - 1e-3 * (a / c1) / (torch.sqrt(b / c2) + 1e-8) for w, a, b in zip(p, m, v)]
            return p, m, v, t, loss

        def in_place(p, m, v, t, x, y):
            p1, m1, v1, t1, loss = update(p, m, v, t, x, y)
            for old, new in zip([*p, *m, *v, t], [*p1, *m1, *v1, t1]):
                old.copy_(new)
            return loss
        compiled = torch.compile(in_place, mode=self.mode, fullgraph=True, dynamic=False)

        def step():
            self.value = compiled(p, m, v, t, self.x, self.y)

        def reset():
            for a, b in zip(p, self.initial):
                a.copy_(b)
            for a in [*m, *v, t]:
                a.zero_()
        self.run, self.reset_states = step, reset

    def capture(self):
        torch = self.torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.run()
        torch.cuda.current_stream().wait_stream(side)
        if self.variant != "functional":
            for p in self.parameters:
                p.grad = None   # so that the captured backward allocates gradients in the graph's pool
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.run()
        self.replay = graph.replay

    def step(self):
        (self.replay or self.run)()

    def reset(self):
        self.reset_states()
        self.wait()

    def load(self, i):
        x, y = self.sets[i % len(self.sets)]
        if not self.graph:
            self.x, self.y = x, y
            return
        self.x.copy_(x)
        self.y.copy_(y)
        self.wait()

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def loss(self):
        return self.value.item()

    def product_error(self):
        import numpy as np
        from common import uniform
        a, b = uniform(3, (512, 512)), uniform(4, (512, 512))
        exact = a.astype(np.float64) @ b.astype(np.float64)
        return error(self.torch.matmul(self.torch.from_numpy(a).to(self.device), self.torch.from_numpy(b).to(self.device)).cpu().numpy(), exact)


class JaxStep(Stepper):
    """`variant`: jit | scan."""

    def __init__(self, variant, device, precision):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        os.environ.setdefault("JAX_PLATFORMS", device)
        import jax
        self.jax, self.variant = jax, variant
        # "default" on a GPU is TF32; see docs.jax.dev, "Matmul precision".
        jax.config.update("jax_default_matmul_precision", "highest" if precision == "f32" else "default")
        jax.devices()   # throws where there is no such device
        self.version = f"JAX {jax.__version__}"
        self.steps_per_call = SCAN if variant == "scan" else 1

    def build(self, batch):
        from common import mlp_batches
        jax, jnp = self.jax, self.jax.numpy
        self.sets = [(jnp.asarray(x), jnp.asarray(y)) for x, y in mlp_batches(batch)]

        def loss_of(p, x, y):
            logits = jnp.maximum(x @ p[0] + p[1], 0) @ p[2] + p[3]
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))

        def update(state, x, y):
            p, m, v, t = state
            loss, g = jax.value_and_grad(loss_of)(p, x, y)
            t = t + 1
            m = [0.9 * a + 0.1 * b for a, b in zip(m, g)]
            v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g)]
            c1, c2 = 1 - 0.9**t, 1 - 0.999**t
            p = [w - 1e-3 * (a / c1) / (jnp.sqrt(b / c2) + 1e-8) for w, a, b in zip(p, m, v)]
            return (p, m, v, t), loss
        self.one = jax.jit(update, donate_argnums=0)
        self.many = jax.jit(lambda state, x, y: jax.lax.scan(lambda s, _: update(s, x, y), state, None, length=SCAN), donate_argnums=0)
        self.reset()
        self.load(0)
        self.step()
        self.wait()

    def step(self):
        self.state, self.value = (self.many if self.variant == "scan" else self.one)(self.state, *self.batch)

    def loss_after(self):
        variant, self.variant = self.variant, "jit"   # ten steps on changing batches, also for the scan
        loss = super().loss_after()
        self.variant = variant
        return loss

    def reset(self):
        from common import mlp_parameters
        jnp = self.jax.numpy
        p = [jnp.array(v) for v in mlp_parameters()]
        self.state = (p, [jnp.zeros_like(a) for a in p], [jnp.zeros_like(a) for a in p], jnp.zeros(()))
        self.jax.block_until_ready(self.state)

    def load(self, i):
        self.batch = self.sets[i % len(self.sets)]

    def wait(self):
        self.jax.block_until_ready((self.state, self.value))

    def loss(self):
        return float(self.value)

    def product_error(self):
        import numpy as np
        from common import uniform
        a, b = uniform(3, (512, 512)), uniform(4, (512, 512))
        return error(np.asarray(self.jax.jit(lambda a, b: a @ b)(a, b)), a.astype(np.float64) @ b.astype(np.float64))


def error(got, exact):
    import numpy as np
    return float(np.max(np.abs(got - exact)) / np.max(np.abs(exact)))


# --- measuring ---

def one_by_one(stepper, milliseconds=20, runs=200):
    """Microseconds of each step of one block, waited for; the same rule as ours."""
    from common import block, microseconds
    stepper.reset()

    def run(i):
        stepper.load(i)

        def go():
            stepper.step()
            stepper.wait()
        return microseconds(go) / stepper.steps_per_call
    return block(run, milliseconds, runs)


def together(stepper, milliseconds=50):
    """Microseconds a step of many that are enqueued, with one wait at the end."""
    from common import microseconds

    def go(calls):
        for _ in range(calls):
            stepper.step()
        stepper.wait()
    stepper.reset()
    stepper.load(0)
    trial = max(microseconds(lambda: go(5)) / 5, 1)
    calls = int(min(max(milliseconds * 1000 / trial, 10), 200)) if stepper.steps_per_call == 1 else 2
    stepper.reset()
    return microseconds(lambda: go(calls)) / calls / stepper.steps_per_call


def measure(peer, device, precision, batches, calls, budget, mode):
    """One peer in this process: prints its rows; measuring uses at most a quarter of the budget that the parent enforces."""
    from common import spread
    framework, variant = peer.split("-", 1)
    stepper = TorchStep(variant, device, precision, mode) if framework == "torch" else JaxStep(variant, device, precision)
    product_error = stepper.product_error()
    for batch in batches:
        start = time.monotonic()
        stepper.build(batch)
        first = time.monotonic() - start
        base = {"name": f"mlp step 784-256-10 batch {batch}", "batch": batch, "peer": PEERS[peer]}
        more = {"precision": precision, "version": stepper.version, "device": device, "first_call_s": round(first, 3),
                "loss": stepper.loss_after(), "product_error": product_error}
        for synchronised in ([True, False] if stepper.steps_per_call == 1 else [False]):
            one_by_one(stepper) if synchronised else together(stepper)   # warm-up
            times, begun = [], time.monotonic()
            while len(times) < calls and (len(times) < 10 or time.monotonic() - begun < budget / 4):
                times += one_by_one(stepper) if synchronised else [together(stepper)]
                if not synchronised and len(times) >= 11:
                    break   # each of these is the mean of many steps
            print(json.dumps({**base, **spread(times), **more, "synchronised": synchronised, "measured": len(times)}), flush=True)


# --- the parent: one process a peer and precision, a time limit a row ---

def rows_expected(peer):
    return 1 if peer.endswith("scan") else 2


def last_words(stderr):
    stderr.seek(0)
    lines = [line.strip() for line in stderr.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"


def supervise(peer, precision, batches, options):
    """Runs the peer's process, passes its rows on, ends it where one takes too long, goes on with the next batch."""
    batches = list(batches)
    while batches:
        command = [sys.executable, *(["-S"] if sys.flags.no_site else []), os.path.abspath(__file__), "--child", peer, "--device", options.device,
                   "--precision", precision, "--batches", ",".join(map(str, batches)), "--calls", str(options.calls), "--seconds", str(options.seconds), "--mode", options.mode]
        environment = dict(os.environ)
        if options.threads:
            environment.update(OMP_NUM_THREADS=str(options.threads), MKL_NUM_THREADS=str(options.threads))
        with tempfile.TemporaryFile() as stderr:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment, start_new_session=True)
            os.set_blocking(child.stdout.fileno(), False)
            reason, got, text, deadline = None, 0, b"", time.monotonic() + options.seconds
            with selectors.DefaultSelector() as selector:
                selector.register(child.stdout, selectors.EVENT_READ)
                while True:
                    if not selector.select(max(0, deadline - time.monotonic())):
                        reason = f"took more than {options.seconds:g} s"
                        break
                    data = os.read(child.stdout.fileno(), 65536)
                    if not data:
                        break
                    text += data
                    while b"\n" in text:
                        line, text = text.split(b"\n", 1)
                        if not line.startswith(b"{"):   # a library that talks
                            print(line.decode(errors="replace"), file=sys.stderr)
                            continue
                        print(line.decode(), flush=True)
                        got, deadline = got + 1, time.monotonic() + options.seconds
            try:
                os.killpg(child.pid, signal.SIGKILL)   # compile workers, too
            except ProcessLookupError:
                pass
            status = child.wait()
            done, partial = divmod(got, rows_expected(peer))
            batches = batches[done:]
            if not batches:
                return
            if reason is None:
                reason = last_words(stderr) if status else "it ended early"
            skipped = batches if got == 0 and "took more" not in reason else batches[:1]   # a missing framework stays missing
            for batch in skipped:
                row = {"name": f"mlp step 784-256-10 batch {batch}", "batch": batch, "peer": PEERS[peer], "precision": precision, "skipped": reason}
                print(json.dumps(row), flush=True)
            print(f"{PEERS[peer]}, {precision}, batch {', '.join(map(str, skipped))}: {reason}", file=sys.stderr)
            batches = batches[len(skipped):]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cpu")
    parser.add_argument("--batches", default="1,8,32,128,512")
    parser.add_argument("--precision", default="f32,tf32", help="f32 (TF32 off), tf32; on a CPU there is only f32")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: all")
    parser.add_argument("--calls", type=int, default=100, help="timed calls a row")
    parser.add_argument("--seconds", type=float, default=90, help="hard limit for a row, compilation included")
    parser.add_argument("--threads", type=int, default=0, help="CPU: run on so many cores; 0: all")
    parser.add_argument("--mode", default="", help="torch.compile's mode; default on a GPU: max-autotune-no-cudagraphs where the step is captured, else reduce-overhead")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    batches = [int(b) for b in options.batches.split(",")]
    if options.child:
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        return measure(options.child, options.device, options.precision, batches, options.calls, options.seconds, options.mode)
    if options.threads:   # inherited; JAX takes its number of threads from it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:options.threads])
    precisions = [p for p in options.precision.split(",") if options.device == "cuda" or p == "f32"]
    for precision in precisions:
        for peer in options.peers.split(","):
            if peer not in PEERS or precision not in ("f32", "tf32"):
                parser.error(f"{peer}, {precision}: peers are {', '.join(PEERS)}; precisions are f32 and tf32")
            supervise(peer, precision, batches, options)


if __name__ == "__main__":
    main()
