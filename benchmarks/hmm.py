"""A hidden Markov model composed of a mixture and a chain, on points that walk round the corners of a square.

Per seed, on one sequence of 100 points (4 states, standard deviation 0.2): the mixture alone; the mixture and a chain
over its messages; both after rounds of mutual learning, a round being kept if the evidence does not fall; and the
``hmm`` module, which fits everything at once. Labels score only.

    python benchmarks/hmm.py --seeds 20 --rounds 3
"""

from __future__ import annotations

import argparse
import time
from typing import Any, cast

import numpy as np
from scipy.optimize import linear_sum_assignment

import serket
from serket.data import Dataset, load
from serket.data.generate.corners import corners
from serket.model import Model
from serket.protocol import Trainable
from serket.training.compose import listen

STATE = {"state": {"family": "categorical", "size": 4}}
ALONE = {"serket": 1, "variables": STATE, "modules": {
    "points": {"type": "gmm", "data": "point", "ports": {"component": "state"}}}}  # fmt: skip
COMPOSED = {**ALONE, "modules": {**ALONE["modules"], "order": {"type": "markov", "ports": {"state": "state"}}}}  # type: ignore[dict-item]
MONOLITHIC = {**ALONE, "modules": {"points": {"type": "hmm", "data": "point", "ports": {"state": "state"}}}}


def accuracy(model: Model, data: Dataset) -> float:
    """Share of rows in their own state, states matched to labels by the Hungarian method."""
    found = cast(Any, model.infer(data)["state"]).probs.argmax(-1).numpy()
    table = np.zeros((4, 4))
    np.add.at(table, (cast(Any, data.label), found), 1)
    return float(table[linear_sum_assignment(-table)].sum() / len(found))


def evidence(model: Model, data: Dataset) -> float:
    """Log evidence of all rows, nats: what says whether a round is kept."""
    return float(cast(Any, model.infer(data).log_evidence).sum())


def refit(model: Model, data: Dataset, name: str) -> bool:
    """Refit one module under what the others say; put it back if the evidence falls."""
    module, before = cast(Trainable, model.modules[name]), evidence(model, data)
    kept = dict(module.state())
    gathered = {"points": data.evidence("point", dtype=cast(Any, model.dtype))}
    standing = frozenset(model.modules) - {name}
    listen(model.graph, model.modules, gathered, name, standing, seed=model.seed, dtype=cast(Any, model.dtype)).run()
    if evidence(model, data) >= before:
        return True
    module.load(kept)
    return False


def measure(seed: int, rounds: int) -> dict[str, float]:
    """Accuracies of one seed: alone, composed, after rounds, monolithic."""
    data = load(corners(sequences=1, length=100, seed=seed), ["point"], test_fraction=0)
    found = {"alone": accuracy(serket.fit(ALONE, data, seed=seed, workers=1), data)}
    model = serket.fit(COMPOSED, data, seed=seed, workers=1)
    found["composed"] = accuracy(model, data)
    accepted = [refit(model, data, name) for _ in range(rounds) for name in ("points", "order")]
    found |= {"rounds": accuracy(model, data), "accepted": float(np.mean(accepted)) if accepted else 0.0}
    return found | {"monolithic": accuracy(serket.fit(MONOLITHIC, data, seed=seed, workers=1), data)}


def main() -> None:
    """Print a row per seed, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    begun, rows = time.perf_counter(), []
    print("| seed | alone | composed | after rounds | accepted | monolithic |\n|---|---|---|---|---|---|")
    for seed in range(options.seeds):
        rows.append(measure(seed, options.rounds))
        print(f"| {seed} | " + " | ".join(f"{value:.2f}" for value in rows[-1].values()) + " |", flush=True)
    for name, pick in (("median", np.median), ("least", np.min)):
        print(f"| {name} | " + " | ".join(f"{pick([row[key] for row in rows]):.3f}" for key in rows[0]) + " |")
    below = sum(row[key] < row["alone"] for row in rows for key in ("composed", "rounds"))
    print(f"\nbelow the mixture alone: {below} of {2 * len(rows)}; {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
