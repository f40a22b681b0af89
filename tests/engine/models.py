"""Small fitted models for tests of the whole: like digits, with conflict, and exact ones."""

from functools import cache

import numpy as np
import torch

import serket
from serket.messages import Gaussian, Particles

ROWS = 60
DIGITS = {
    "serket": 1,
    "variables": {
        "z_a": {"family": "gaussian", "size": 3},
        "z_b": {"family": "gaussian", "size": 2},
        "z_c": {"family": "gaussian", "size": 2},
        "shared": {"family": "gaussian", "size": 2},
        "kind": {"family": "categorical", "size": 3},
    },
    "modules": {
        "a": {"type": "vae", "data": "a", "ports": {"latent": "z_a"}, "hidden": [8], "fit": {"epochs": 4, "batch": 16}},
        "b": {"type": "vae", "data": "b", "ports": {"latent": "z_b"}, "hidden": [8], "fit": {"epochs": 4, "batch": 16}},
        "c": {"type": "linear_gaussian", "data": "c", "ports": {"given": "z_c"}, "matrix": [[1, 0], [0.5, 1], [0, 2]],
              "noise": [[0.5, 0, 0], [0, 0.5, 0.1], [0, 0.1, 0.5]]},
        "kinds": {"type": "gmm", "ports": {"component": "kind", "observation": "shared"}, "draws": 4,
                  "fit": {"sweeps": 16, "restarts": 2}},
    },
    "composers": {
        "body": {"type": "linear_gaussian", "ports": {"shared": "shared", "views": ["z_a", "z_b", "z_c"]}, "private": 1},
    },
}  # fmt: skip
_SENSOR = {"type": "linear_gaussian", "matrix": [[1, 0], [0, 1]], "noise": [[0.2, 0], [0, 0.2]]}
ROBUST = {
    "serket": 1,
    "variables": {name: {"family": "gaussian", "size": 2} for name in ("z_a", "z_b", "z_c", "s")},
    "modules": {name: {**_SENSOR, "data": name, "ports": {"given": f"z_{name}"}} for name in ("a", "b", "c")},
    "composers": {"vote": {"type": "product", "robust": 0.1, "ports": {"shared": "s", "views": ["z_a", "z_b", "z_c"]}}},
}
RAIN = {
    "serket": 1,
    "variables": {"rain": {"family": "categorical", "size": 2, "prior": [0.8, 0.2]}, "wet": {"family": "categorical", "size": 2}},
    "modules": {
        "lawn": {"type": "table", "ports": {"given": ["rain"], "child": "wet"}, "values": [[0.9, 0.1], [0.2, 0.8]]},
        "a": {"type": "table", "ports": {"given": ["wet"]}, "data": "a", "values": [[0.95, 0.05], [0.1, 0.9]]},
        "b": {"type": "table", "ports": {"given": ["wet"]}, "data": "b", "values": [[0.7, 0.3], [0.4, 0.6]]},
    },
}  # fmt: skip
POSITION = {
    "serket": 1,
    "variables": {"x": {"family": "gaussian", "size": 2, "prior": {"mean": [1, 2], "covariance": [[2, 0.5], [0.5, 1]]}}},
    "modules": {
        "a": {"type": "linear_gaussian", "ports": {"given": "x"}, "data": "a", "matrix": [[1, 0.3]], "noise": [[0.5]]},
        "b": {"type": "linear_gaussian", "ports": {"given": "x"}, "data": "b", "matrix": [[0, 1], [1, 1]],
              "noise": [[0.1, 0], [0, 0.3]]},
    },
}  # fmt: skip
OFFERS = {
    "serket": 1,
    "variables": {"x": POSITION["variables"]["x"], "y": {"family": "gaussian", "size": 2}},
    "modules": {
        "a": {"type": "black_box", "ports": {"hypothesis": "x"}, "data": "a", "function": "around"},
        "b": {"type": "linear_gaussian", "ports": {"given": "x"}, "data": "b", "matrix": [[1, 0.3]], "noise": [[0.5]]},
        "link": {"type": "linear_gaussian", "ports": {"given": "x", "child": "y"}, "matrix": [[1, 0.2], [0, 1]],
                 "noise": [[0.3, 0], [0, 0.3]]},
    },
}  # fmt: skip
SPECS = {"digits": DIGITS, "robust": ROBUST, "rain": RAIN, "position": POSITION, "offers": OFFERS}
WIDTHS = {
    "digits": {"a": 6, "b": 4, "c": 3},
    "robust": {"a": 2, "b": 2, "c": 2},
    "position": {"a": 1, "b": 2},
    "offers": {"a": 2, "b": 1},
}


@serket.hypotheses("around")
def around(values, generator):
    """Six points about a reading, weighted as a function of it."""
    angle = torch.arange(6).to(values)
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    return values.unsqueeze(1) + ring, torch.cos(angle + values[:, :1])


def readings(name, rows=ROWS, seed=0):
    """Senses that have something in common; float64."""
    rng = np.random.default_rng(seed)
    if name == "rain":
        return {key: rng.integers(0, 2, (rows, 1)).astype(float) for key in ("a", "b")}
    common = rng.normal(size=(rows, 2)) + 3 * (np.arange(rows) % 3)[:, None]
    senses = {}
    for key, width in WIDTHS[name].items():
        mix = np.eye(2) if name == "robust" else rng.normal(size=(2, width))
        senses[key] = common @ mix + 0.4 * rng.normal(size=(rows, width))
    return senses


@cache
def model(name):
    return serket.fit(SPECS[name], readings(name), seed=0, test_fraction=0.0, workers=1)


def numbers(result):
    """Everything a result says that is a tensor, by name."""
    found = {"conflict": result.conflict, "contribution": result.contribution, "present": result.present}
    found |= {} if result.log_evidence is None else {"log_evidence": result.log_evidence}
    for variable, belief in result.items():
        belief = belief.full() if isinstance(belief, Gaussian | Particles) else belief
        belief = belief.padded(8) if isinstance(belief, Particles) else belief  # lists of any length compare
        found |= {f"{variable}.{part}": values for part, values in belief.tensors().items()}
    return found
