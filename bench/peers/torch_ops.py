"""PyTorch beside `quern bench --peer torch`: reads one JSON request a line, answers with one JSON value a line.

{"start": {"threads", "device"}} → {"version"};  {"prepare": {"op", "shapes", "sets"}} → {"check": mean |output|, or a
loss};  {"measure": {"milliseconds", "runs", "synchronised"}} → {"us": […]}. Whatever fails is {"error": the reason}.
Eager mode, f32 with TF32 off. Relies on common.py and, for the training step, on mlp_step.py beside it.
"""
import json
import sys

from serve import OPS, op


@op
def matmul(torch, a, b):
    return torch.matmul(a, b)


@op
def gelu(torch, x):
    return torch.nn.functional.gelu(x)


@op
def exp(torch, x):
    return torch.exp(x)


@op
def tanh(torch, x):
    return torch.tanh(x)


@op
def mul_add(torch, a, b, c):
    return torch.addcmul(c, a, b)


@op
def chain(torch, a, b):
    return torch.tanh(torch.relu(a * 2 + b)) * a


@op
def softmax(torch, x):
    return torch.softmax(x, -1)


@op
def layer_norm(torch, x, w, b):
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), w, b)


class Ops:
    """One case of simple ops, over several input sets."""

    def __init__(self, torch, device, request):
        from common import stream_of, uniform
        self.torch, self.device, self.function = torch, device, OPS[request["op"]]
        self.sets = [[torch.from_numpy(uniform(stream_of(s, i), shape)).to(device) for i, shape in enumerate(request["shapes"])]
                     for s in range(request["sets"])]
        with torch.inference_mode():
            self.check = self.function(torch, *self.sets[0]).double().abs().mean().item()

    def measure(self, how):
        from common import block, microseconds
        synchronize = self.torch.cuda.synchronize if self.device == "cuda" else lambda: None

        def run(i):
            inputs = self.sets[i % len(self.sets)]

            def go():
                self.function(self.torch, *inputs)
                synchronize()
            return microseconds(go)
        with self.torch.inference_mode():
            return block(run, how["milliseconds"], how["runs"])


class Product:
    """A product of bf16 with what follows it, `together` of them in one CUDA graph, over several input sets."""

    def __init__(self, torch, request):
        from common import stream_of, uniform
        self.torch, self.together = torch, request["together"]
        ta, tb = (c == "T" for c in request["layout"])
        once = [torch.from_numpy(uniform(stream_of(0, i), shape)).cuda().to(torch.bfloat16) for i, shape in enumerate(request["shapes"])]
        sets = [once] + [[t.clone() for t in once] for _ in range(1, request["sets"])]   # the same values in other places

        def run(a, b, bias=None):
            a, b = a.t() if ta else a, b.t() if tb else b
            return torch.matmul(a, b) if bias is None else torch.tanh(torch.addmm(bias, a, b))
        self.check = run(*sets[0]).double().abs().mean().item()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for s in sets:
                run(*s)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for r in range(self.together):
                run(*sets[r % len(sets)])

    def measure(self, how):
        from common import block, microseconds

        def go():
            self.graph.replay()
            self.torch.cuda.synchronize()
        return [t / self.together for t in block(lambda i: microseconds(go), how["milliseconds"], how["runs"])]


class Attention:
    """Attention of bf16 by the fastest of PyTorch's kernels that take it, its gradients too where asked for, `together` in one CUDA graph, over several input sets."""

    def __init__(self, torch, request):
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from common import microseconds, stream_of, uniform
        self.torch, self.together = torch, request["together"]
        once = [torch.from_numpy(uniform(stream_of(0, i), shape)).cuda().to(torch.bfloat16) for i, shape in enumerate(request["shapes"])]
        sets = [once] + [[t.clone() for t in once] for _ in range(1, request["sets"])]
        gradients = request.get("gradients", False)

        shared = {"enable_gqa": True} if request["shapes"][0][1] != request["shapes"][1][1] else {}

        def attend(q, k, v):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=request["causal"], **shared)

        def run(q, k, v, w=None):
            if not gradients:
                return attend(q, k, v)
            leaves = [x.detach().requires_grad_() for x in (q, k, v)]
            return torch.autograd.grad(attend(*leaves), leaves, w)[0]
        best = None
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
            try:
                with sdpa_kernel(backend):
                    self.check = run(*once).double().abs().mean().item()
                    stream = torch.cuda.Stream()
                    with torch.cuda.stream(stream):
                        run(*once)
                    torch.cuda.synchronize()
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph):
                        for r in range(self.together):
                            run(*sets[r % len(sets)])
            except RuntimeError as e:
                print(f"{backend}: {e}", file=sys.stderr)
                continue

            def go():
                graph.replay()
                torch.cuda.synchronize()
            go()
            time = min(microseconds(go) for _ in range(3))
            if best is None or time < best:
                best, self.graph = time, graph
        if best is None:
            raise RuntimeError("no kernel of this PyTorch takes it")

    measure = Product.measure


class Step:
    """The training step of mlp_step.py, eager."""

    def __init__(self, device, request):
        from mlp_step import TorchStep
        self.step = TorchStep("eager", device, "f32")
        self.step.build(request["batch"])
        self.check = self.step.loss_after()

    def measure(self, how):
        from mlp_step import one_by_one, together
        return one_by_one(self.step, how["milliseconds"], how["runs"]) if how["synchronised"] else [together(self.step)]


def main():
    torch, device, current = None, "cpu", None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if "start" in request:
                import torch   # noqa: PLC0415: its absence is an answer
                device = request["start"]["device"]
                torch.set_num_threads(request["start"]["threads"])
                torch.set_float32_matmul_precision("highest")
                if device == "cuda" and not torch.cuda.is_available():
                    raise RuntimeError("this PyTorch sees no GPU")
                answer = {"version": f"{torch.__version__}, {device}, {torch.get_num_threads()} threads, eager, TF32 off"}
            elif "prepare" in request:
                current = None   # frees the last case's memory first
                prepare = request["prepare"]
                current = Step(device, prepare) if prepare["op"] == "mlp_step" else Product(torch, prepare) if prepare["op"] == "product" else Attention(torch, prepare) if prepare["op"] == "attention" else Ops(torch, device, prepare)
                answer = {"check": current.check}
            else:
                answer = {"us": current.measure(request["measure"])}
        except Exception as e:   # the reason is what the other side prints
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
