"""A written and a spoken digit under one mlda: what both tell, against the better sense, on rows held out from fitting.

    python benchmarks/mlda_speech.py ../shared/data/image_speech_digits.npz --seeds 10

Seed s draws the division into 1600 rows to learn from and 400 to judge by, and all randomness of the fits. Alone, a
sense has a concept of its own: a VAE and a mixture of ten components, or an mlda on speech. Adjusted Rand indices.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import numpy as np
import torch
import yaml
from sklearn.metrics import adjusted_rand_score

import serket
from serket.data import Dataset, load


def apart(*names: str) -> dict[str, Any]:
    """Some modules of the graph that ships, with nothing above them; the mixture has a component per digit."""
    tree = yaml.safe_load(serket.load_graph("vae_gmm_mlda").source)
    tree["modules"] = {name: tree["modules"][name] for name in names}
    for one in tree["modules"].values():
        one["ports"].pop("categories", None)
    used = {variable for one in tree["modules"].values() for variable in one["ports"].values()}
    tree["variables"]["shape"]["size"] = tree["variables"]["digit"]["size"]
    tree["variables"] = {name: one for name, one in tree["variables"].items() if name in used}
    return {**tree, "run": {"rounds": 0}}


def ari(model: serket.Model, data: Dataset, variable: str, keys: list[str]) -> float:
    found = model.infer(data, rows=data.test, observe=keys)[variable].logits.argmax(-1)
    return float(adjusted_rand_score(data.label[data.test], found))


def measure(arrays: dict[str, Any], seed: int, rows: int = 1600) -> dict[str, float]:
    """Fit apart and together; ARI on the rows held out."""
    order = np.random.default_rng(seed).permutation(len(arrays["label"]))
    data = load({**arrays, "train": order[:rows], "test": order[rows:]}, ["image", "speech"])
    image, speech = (
        serket.fit(apart(*names), data, seed=seed, workers=1) for names in (("vision", "shapes"), ("things",))
    )
    found = {
        "image apart": ari(image, data, "shape", ["image"]),
        "speech apart": ari(speech, data, "digit", ["speech"]),
    }
    start = time.perf_counter()
    model = serket.fit("vae_gmm_mlda", data, seed=seed, workers=1)
    found["seconds"] = time.perf_counter() - start
    for name, keys in (("image", ["image"]), ("speech", ["speech"]), ("both", ["image", "speech"])):
        found[name] = ari(model, data, "digit", keys)
    found["kept"] = sum(step.kept for step in model.rounds) / len(model.rounds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(options.data) as file:
        arrays = dict(file)
    rows = []
    for seed in range(options.first, options.first + options.seeds):
        rows.append(measure(arrays, seed))
        print(seed, " ".join(f"{name} {value:.3f}" for name, value in rows[-1].items()), flush=True)
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        print(f"{name:14s} median {np.median(values):.3f}  {values.min():.3f} to {values.max():.3f}")
    better = [row["both"] >= max(row[name] for name in row if name.startswith(("image", "speech"))) for row in rows]
    print(f"both senses at least as good as the better one, apart or not: {sum(better)} of {len(better)} seeds")


if __name__ == "__main__":
    sys.exit(main())
