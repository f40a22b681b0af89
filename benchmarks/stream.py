"""What the engine and the synchroniser cost beside torch: python benchmarks/stream.py [--sets 2000] [--runs 5].

The engine is held against two loops. One is a program written by hand for this graph alone, benchmarks/stream_hand.py,
whose every output is checked against the engine's. The other replays the torch calls that the engine made of one set,
shapes and types aside: what is above it is Python between the calls, not calls that a program by hand would not make.
The three take turns, set by set. Writes benchmarks/stream.md.
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
from stream_hand import ByHand, difference
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
    state, carries = None, False

    def step(self, readings, time_ns, ages_ns):
        return EMPTY

    def start_anew(self):
        pass


EMPTY = Inference({})


def timed(functions, inputs):
    """Return seconds by function and input; the functions take turns."""
    gc.disable()
    found = []
    for one in inputs:
        moments = [time.perf_counter()]
        for function in functions:
            function(one)
            moments.append(time.perf_counter())
        found.append(np.diff(moments))
    gc.enable()
    return np.array(found).T


def greatest_difference(model, data):
    """Return that between engine and program, in double precision, over a hundred sets."""
    states = {name: module.state() for name, module in model.modules.items()}
    stepper, by_hand = Stepper(model.graph, model.modules, dtype=torch.float64), ByHand(states, torch.float64)
    sets = [{key: torch.from_numpy(values[i]).double() for key, values in data.items()} for i in range(100)]
    return max(difference(stepper.step(one), by_hand(one)) for one in sets)


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

    def replay(_):
        for func, args, kwargs in calls:
            func(*args, **kwargs)

    apart = greatest_difference(model, data)
    if apart > 1e-6:
        raise SystemExit(f"the engine and the program by hand are {apart:.2g} apart")
    by_hand = ByHand({name: module.state() for name, module in model.modules.items()}, model.dtype)
    inputs = [rows[i % 600] for i in range(options.sets)]
    runs = [timed([stepper.step, by_hand, replay], inputs) for _ in range(options.runs)]
    engine_us, hand_us, replay_us = 1e6 * np.median([np.median(run, 1) for run in runs], 0)
    p50 = [statistics.median(np.median(run[0]) / np.median(run[k]) for run in runs) for k in (1, 2)]
    p99 = [statistics.median(np.divide(*np.quantile(run[[0, k]], 0.99, axis=1)) for run in runs) for k in (1, 2)]
    entry = StreamEntry.model_validate({"tolerance_ms": 5.0})
    readings = [np.zeros(240, dtype="f4"), np.zeros(60, dtype="f4")]

    def stream(sets):
        for i in range(sets):
            stamp = i * 33_000_000
            yield Observation("see", stamp, stamp, readings[0])
            yield Observation("feel", stamp, stamp + 1, readings[1])

    sync, sync_cpu = [], []
    for _ in range(options.runs):
        pipeline = Pipeline(entry, {"see": 240, "feel": 60}, Nothing())
        cpu = time.process_time()
        start = time.perf_counter()
        for _ in pipeline.run(stream(options.sets)):
            pass
        sync.append((time.perf_counter() - start) / options.sets)
        sync_cpu.append((time.process_time() - cpu) / options.sets)
    sync_us, cpu_us = 1e6 * statistics.median(sync), 1e6 * statistics.median(sync_cpu)
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
            f"{os.cpu_count()} cores at a load of {os.getloadavg()[0]:.0f}, Python {platform.python_version()}, "
            "one thread. Two VAEs and a Gaussian mixture, "
            f"a set at a time, which takes the engine {engine_us:.0f} us.",
            "",
            "- **By hand**: a program for this graph alone, in torch ([stream_hand.py](stream_hand.py)): belief over",
            "  z, probabilities of the kinds, contribution of each sensor, and conflict; what no reading changes is",
            f"  computed beforehand. {hand_us:.0f} us. Its numbers are the engine's, to {apart:.0e} in float64.",
            "  What the engine takes beyond it is the price of any graph and any subset of the senses: modules that",
            "  check what they hear and offer evidence, too, and messages that are checked to be finite.",
            f"- **Replayed**: the {len(calls)} torch calls that the engine makes of a set, again and again, of which a",
            f"  program by hand would not make all. {replay_us:.0f} us. What the engine takes beyond it is Python.",
            "",
            "| figure | asked for | by hand | replayed |",
            "|---|---|---|---|",
            f"| engine, median of a set, over that of the loop | <= 1.3 | {p50[0]:.2f} | {p50[1]:.2f} |",
            f"| engine, 99th percentile, over the loop's, median of {options.runs} runs | <= 2 | {p99[0]:.2f} "
            f"| {p99[1]:.2f} |",
            f"| synchroniser and queues, per set, over a set of the loop | <= 0.05 | {sync_us / hand_us:.3f} "
            f"| {sync_us / replay_us:.3f} |",
            f"| the same in processor time, {cpu_us:.0f} us: less what others took of a shared machine | <= 0.05 "
            f"| {cpu_us / hand_us:.3f} | {cpu_us / replay_us:.3f} |",
            "",
            "| figure | asked for | found |",
            "|---|---|---|",
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
