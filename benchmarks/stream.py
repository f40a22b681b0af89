"""What the engine and the synchroniser cost beside torch: python benchmarks/stream.py [--sets 2000] [--runs 5].

The torch calls of one set are recorded as the engine makes them, and replayed in a loop, as a program written by hand
for this graph would make them: no messages, no graph, no bookkeeping. Writes benchmarks/stream.md.
"""

import argparse
import gc
import os
import platform
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

import serket
from serket.engine.inference import Inference
from serket.engine.step import Stepper
from serket.graph.stream import StreamEntry
from serket.stream.observation import Observation
from serket.stream.pipeline import Pipeline

HERE = Path(__file__).parent
GRAPH = {
    "serket": 1,
    "variables": {"z": {"family": "gaussian", "size": 8}, "kind": {"family": "categorical", "size": 10}},
    "modules": {
        "see": {"type": "vae", "data": "see", "ports": {"latent": "z"}, "hidden": [256], "fit": {"epochs": 5}},
        "feel": {"type": "vae", "data": "feel", "ports": {"latent": "z"}, "hidden": [64], "fit": {"epochs": 5}},
        "kinds": {"type": "gmm", "ports": {"component": "kind", "observation": "z"}, "fit": {"restarts": 1}},
    },
}
METADATA = ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda", "names", "grad_fn", "grad")


class Tape(TorchFunctionMode):
    """Records calls into torch; reading a tensor's shape or type is none."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        owner = getattr(func, "__self__", None)
        getter = getattr(func, "__name__", "") == "__get__"
        if not (getter and getattr(owner, "__name__", "") in METADATA):
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


class Nothing:
    state = None

    def step(self, readings, time_ns, ages_ns):
        return EMPTY


EMPTY = Inference({})


def timed(function, inputs):
    gc.disable()
    found = []
    for one in inputs:
        start = time.perf_counter()
        function(one)
        found.append(time.perf_counter() - start)
    gc.enable()
    return np.array(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--million", type=int, default=1_000_000, help="sets through the pipeline, for its memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rng = np.random.default_rng(0)
    data = {"see": rng.normal(size=(600, 240)).astype("f4"), "feel": rng.normal(size=(600, 60)).astype("f4")}
    with torch.enable_grad():
        model = serket.fit(GRAPH, data, workers=1)
    stepper = Stepper(model.graph, model.modules, dtype=model.dtype)
    rows = [{key: torch.from_numpy(values[i]) for key, values in data.items()} for i in range(600)]
    for row in rows[:100]:
        stepper.step(row)
    with Tape() as tape:
        stepper.step(rows[0])
    calls = tape.calls

    def by_hand(_):
        for func, args, kwargs in calls:
            func(*args, **kwargs)

    inputs = [rows[i % 600] for i in range(options.sets)]
    ours, hand = [], []
    for _ in range(options.runs):
        ours.append(timed(stepper.step, inputs))
        hand.append(timed(by_hand, inputs))
    p50 = statistics.median(np.median(a) / np.median(b) for a, b in zip(ours, hand, strict=True))
    p99 = statistics.median(np.quantile(a, 0.99) / np.quantile(b, 0.99) for a, b in zip(ours, hand, strict=True))
    step_us = 1e6 * statistics.median(map(np.median, hand))
    entry = StreamEntry.model_validate({"tolerance_ms": 5.0})
    readings = [np.zeros(240, dtype="f4"), np.zeros(60, dtype="f4")]

    def stream(sets):
        for i in range(sets):
            stamp = i * 33_000_000
            yield Observation("see", stamp, stamp, readings[0])
            yield Observation("feel", stamp, stamp + 1, readings[1])

    sync = []
    for _ in range(options.runs):
        pipeline = Pipeline(entry, {"see": 240, "feel": 60}, Nothing())
        start = time.perf_counter()
        for _ in pipeline.run(stream(options.sets)):
            pass
        sync.append((time.perf_counter() - start) / options.sets)
    sync_us = 1e6 * statistics.median(sync)
    pipeline = Pipeline(entry, {"see": 240, "feel": 60}, Nothing())
    memory = []
    for number, _ in enumerate(pipeline.run(stream(options.million))):
        if number in (options.million // 10, options.million - 1):
            memory.append(_resident())
    growth = memory[-1] / memory[0] - 1
    text = "\n".join(
        [
            "# Streams",
            "",
            f"`python benchmarks/stream.py --sets {options.sets} --runs {options.runs}`, {platform.machine()}, "
            f"{os.cpu_count()} cores, Python {platform.python_version()}, one thread. Two VAEs and a Gaussian mixture, "
            f"a set at a time: {len(calls)} torch calls, which take {step_us:.0f} us when replayed by hand.",
            "",
            "| figure | asked for | found |",
            "|---|---|---|",
            f"| engine, median of a set, in calls by hand | <= 1.3 | {p50:.2f} |",
            f"| engine, 99th percentile, in theirs, median of {options.runs} runs | <= 2 | {p99:.2f} |",
            f"| synchroniser and queues, per set, in calls by hand | <= 0.05 | {sync_us / step_us:.3f} |",
            f"| memory after {options.million} sets, over that after a tenth of them | < 1.05 | {1 + growth:.3f} |",
        ]
    )
    (HERE / "stream.md").write_text(text + "\n")
    print(text)


def _resident():
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
