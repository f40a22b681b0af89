"""A frozen encoder of a few lines, which counts the rows it is asked for."""

import hashlib

import numpy as np
import torch

from serket.messages import Family, Gaussian
from serket.protocol import Port, Reply, Role
from serket.registry import register

UNREAD = 200  # a row that begins with it cannot be read

asked: list[torch.Tensor] = []
"""Every batch any encoder was given, since it was last cleared."""


@register("test_encoder")
class Encoder:
    """z = tanh(W x / 100) of the bytes of a row, with noise 0.1."""

    ports = {"latent": Port(Role.PARENT, Family.GAUSSIAN)}

    def __init__(self, ports, weights: int = 0) -> None:
        self.ports, self.weights = ports, weights

    def embed(self, values):
        asked.append(values.clone())
        x = values.flatten(1).double() / 100
        size = self.ports["latent"].size
        matrix = torch.randn(x.shape[1], size, generator=torch.Generator().manual_seed(self.weights), dtype=x.dtype)
        bad = x[:, :1] == UNREAD / 100
        # Row by row: a product of one row is that row of the product of many, to the bit.
        made = torch.tanh((x.unsqueeze(2) * matrix).sum(1)).float()
        return torch.where(bad, torch.nan, made)

    def fingerprint(self):
        return hashlib.sha256(f"test_encoder {self.weights}".encode()).hexdigest()

    def infer(self, inbox, evidence, *, generator, ports=None):
        size, rows = self.ports["latent"].size, len(evidence)
        dtype = inbox["latent"].dtype
        values = torch.zeros(rows, size, dtype=dtype) if evidence.values is None else evidence.values.to(dtype)
        precision = 100.0 * evidence.present.to(dtype)
        message = Gaussian(values * precision[:, None], precision[:, None].expand(rows, size).contiguous())
        return Reply({"latent": message} if ports is None or ports else {})


def sets(rows=40, seed=0, shape=(4, 3, 2)):
    """Pictures as uint8, and a vector of floats beside them."""
    g = np.random.default_rng(seed)
    pictures = g.integers(0, UNREAD, (rows, *shape), dtype=np.uint8)
    return {"image": pictures, "touch": g.normal(size=(rows, 2)).astype(np.float32)}


GRAPH = {
    "serket": 1,
    "variables": {
        "z_image": {"family": "gaussian", "size": 3},
        "z_touch": {"family": "gaussian", "size": 2},
        "shared": {"family": "gaussian", "size": 2},
    },
    "modules": {
        "eye": {"type": "test_encoder", "data": "image", "ports": {"latent": "z_image"}},
        "hand": {
            "type": "vae",
            "data": "touch",
            "ports": {"latent": "z_touch"},
            "hidden": [4],
            "fit": {"epochs": 2},
        },
    },
    "composers": {"body": {"type": "linear_gaussian", "ports": {"shared": "shared", "views": ["z_image", "z_touch"]}}},
}


def rows_asked():
    return sum(len(batch) for batch in asked)
