"""Three small senses of two kinds of thing, and a composer whose one option matters."""

import numpy as np
import torch

from serket.comparison import run
from serket.data import load
from serket.messages import Family, Gaussian
from serket.protocol import Port, Reply, Role
from serket.registry import register

GRAPH = {
    "serket": 1,
    "variables": {**{f"z_{key}": {"family": "gaussian", "size": 2} for key in "abc"},
                  "shared": {"family": "gaussian", "size": 2}, "kind": {"family": "categorical", "size": 2}},
    "modules": {
        **{key: {"type": "vae", "data": key, "ports": {"latent": f"z_{key}"}, "hidden": [6], "fit": {"epochs": 60, "batch": 16, "learning_rate": 0.01}}
           for key in "abc"},
        "concepts": {"type": "gmm", "ports": {"component": "kind", "observation": "shared"}},
    },
    "composers": {"body": {"type": "linear_gaussian",
                           "ports": {"shared": "shared", "views": ["z_a", "z_b", "z_c"]}, "private": 1}},
}  # fmt: skip


def data(rows=90, seed=0, **more):
    g = np.random.default_rng(seed)
    label = g.integers(0, 2, rows)
    views = {key: (0.5 * g.normal(size=(rows, 3)) + 2 * sign * label[:, None]).astype("f4")
             for key, sign in zip("abc", (1, -1, 1), strict=True)}  # fmt: skip
    return load({**views, "label": label, "test": np.arange(0, rows, 3), **more}, list("abc"))


@register("fickle", kind="composer")
class Fickle:
    """Passes on the product of its views, or, tuned to be deaf, nothing at all."""

    ports = {"shared": Port(Role.PARENT, Family.GAUSSIAN), "views": Port(Role.CHILD, Family.GAUSSIAN, many=True)}
    choices = {"deaf": (True, False)}

    def __init__(self, ports, deaf: bool = True):
        self.ports, self.deaf = ports, deaf
        self.own_prior = {"shared": Gaussian.standard((), ports["shared"].size)}

    def infer(self, inbox, evidence, *, generator, ports=None):
        replies = {}
        for port in self.ports if ports is None else ports:
            others = [m for name, m in inbox.items() if name != port and not (self.deaf and name != "shared")]
            reply = Gaussian.vacuous((len(evidence),), 2, dtype=torch.float32)
            for message in others:
                reply = reply * message
            replies[port] = reply
        return Reply(replies)


def compared(composers, graph=GRAPH, source=None, **options):
    options = {"seeds": 1, "splits": 1, "workers": 1, **options}
    return run.compare(graph, data() if source is None else source, composers, **options)
