"""What the peer programs share: the inputs of `quern bench` (the same bits, see bench/data.h) and its way of timing.

Relies on numpy alone. Streams, block rule and quantiles must stay those of bench/data.h and bench/harness.cpp.
"""
import time

import numpy as np

INPUTS, HIDDEN, CLASSES, SETS, LOSS_STEPS = 784, 256, 10, 4, 10   # bench/mlp_step.cpp


def bits(stream, n, start=0):
    """splitmix64 of (stream, index) for n indices."""
    with np.errstate(over="ignore"):
        z = (np.uint64(stream) << np.uint64(32)) + np.arange(start, start + n, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(stream, shape, scale=1.0):
    """float32 in [-scale, scale)."""
    out = np.empty(int(np.prod(shape)), np.float32)
    for start in range(0, out.size, 1 << 20):   # large ones part by part: the bits alone are twice as long
        part = bits(stream, min(out.size - start, 1 << 20), start)
        out[start:start + part.size] = ((part >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)) * np.float32(scale)
    return out.reshape(shape)


def labels(stream, n, classes):
    return ((bits(stream, n) >> np.uint64(33)) % np.uint64(classes)).astype(np.int32)


def stream_of(input_set, position):
    return 64 * (input_set + 1) + position


def mlp_parameters():
    """hidden weight [784, 256], bias, output weight [256, 10], bias."""
    return (uniform(1, (INPUTS, HIDDEN), (6.0 / INPUTS) ** 0.5), np.zeros(HIDDEN, np.float32),
            uniform(2, (HIDDEN, CLASSES), (6.0 / (HIDDEN + CLASSES)) ** 0.5), np.zeros(CLASSES, np.float32))


def mlp_batches(batch):
    return [(uniform(stream_of(s, 0), (batch, INPUTS)), labels(stream_of(s, 1), batch, CLASSES)) for s in range(SETS)]


def block(run, milliseconds=20, runs=200):
    """Microseconds of each run but the first, until the time or the number of runs is used. `run(i)` times itself."""
    run(0)
    times = []
    while not times or (sum(times) < milliseconds * 1000 and len(times) < runs):
        times.append(run(len(times) + 1))
    return times


def microseconds(f):
    start = time.perf_counter_ns()
    f()
    return (time.perf_counter_ns() - start) / 1000


def spread(times):
    times = sorted(times)
    n = len(times)
    return {"median_us": times[n // 2], "low_us": times[n // 10], "high_us": times[n * 9 // 10]}
