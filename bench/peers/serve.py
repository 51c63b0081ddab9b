"""The peers' side of `quern bench suite`: one JSON request a line on standard input, one JSON value a line as the answer.

{"start": {"threads", "variant"}} → {"version"};  {"prepare": {"op", "inputs", "parameters", "sets", …}} → {"check": the sum
over the outputs of mean |output|, or a loss, on a GPU also "samples": elements of each output in f64} or {"unsupported"};  {"measure": {"milliseconds", "runs"}} → {"us": […]}.
Whatever fails is {"error": the reason}. Needs no packages itself; common.py makes the data.
"""
import gc
import json
import os
import sys
import time

# Freed blocks stay with the process: without this, every large result of a framework is paid with page faults.
MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 26)}


OPS, MODELS = {}, {}   # what a program has, by the request's name


def op(f):
    OPS[f.__name__] = f
    return f


def model(f):
    MODELS[f.__name__] = f
    return f


class Prepared:
    """A case made ready: `run(i)` is timed, `load(i)` before it and `reset()` before every block are not."""

    def __init__(self, run, check, load=None, reset=None):
        self.run, self.check, self.load, self.reset = run, check, load, reset

    def measure(self, how):
        from common import block
        if self.reset:
            self.reset()

        def timed(i):
            if self.load:
                self.load(i)
            start = time.perf_counter_ns()
            self.run(i)
            return (time.perf_counter_ns() - start) / 1000
        return block(timed, how["milliseconds"], how["runs"])


class Compiled(Prepared):
    """`compile_once()` gives seconds."""

    def __init__(self, check, compile_once):
        self.check, self.compile_once = check, compile_once

    def measure(self, how):
        return [self.compile_once() * 1e6]


def train(run, load, reset, loss, loss_steps):
    """A training step, made ready: `loss()` is that of the latest run, compared after `loss_steps`."""
    reset()
    for i in range(loss_steps):
        load(i)
        run(i)
    return Prepared(run, loss(), load, reset)


def data_of(request):
    """The input sets and the parameters by name, as numpy arrays: the same bits as ours (bench/suite.cpp)."""
    import numpy as np
    from common import labels, stream_of, uniform

    def value(i, s, position):
        stream = stream_of(s, position)
        return labels(stream, i["shape"][0], i["classes"]) if i["classes"] else uniform(stream, i["shape"])
    sets = [[value(i, s, n) for n, i in enumerate(request["inputs"])] for s in range(request["sets"])]
    return sets, {p["name"]: uniform(p["stream"], p["shape"], p["scale"]) if p["scale"] > 0 else np.full(p["shape"], p["constant"], np.float32)
                  for p in request["parameters"]}


def mean_abs(outputs):
    import numpy as np
    return float(sum(np.abs(np.asarray(y)).mean(dtype=np.float64) for y in (outputs if isinstance(outputs, (tuple, list)) else [outputs])))


def serve(load):
    """`load(threads, variant)` → (version, prepare); `prepare(request)` → Prepared, or None for a case that it lacks."""
    if any(os.environ.get(k) != v for k, v in MEMORY.items()):
        os.environ.update(MEMORY)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])   # with its flags
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)   # what a framework prints is no answer
    prepare = current = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if "start" in request:
                threads = request["start"]["threads"]
                for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]:
                    os.environ[name] = str(threads)
                version, prepare = load(threads, request["start"]["variant"])
                answer = {"version": f"{version}, {threads} threads"}
            elif "prepare" in request:
                current = None   # frees the last case's memory first
                gc.collect()
                current = prepare(request["prepare"])
                answer = {"check": current.check} if current else {"unsupported": True}
                if getattr(current, "samples", None):
                    answer["samples"] = current.samples
            else:
                answer = {"us": current.measure(request["measure"])}
        except Exception as e:   # the reason is what the other side prints
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), file=answers, flush=True)
