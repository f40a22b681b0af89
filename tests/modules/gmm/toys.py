"""Mixtures to try, messages and data to try them on."""

import math

import torch

from serket.messages import Categorical, Family, Gaussian
from serket.modules.gmm import GaussianMixture
from serket.protocol import Evidence, Port, Role

OWN = frozenset({"component"})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(components, size=None, **options):
    ports = {"component": Port(Role.PARENT, Family.CATEGORICAL, components)}
    if size:
        ports["observation"] = Port(Role.CHILD, Family.GAUSSIAN, size)
    return GaussianMixture(ports, **options)


def vacuous(rows, components, dtype=torch.float64):
    return Categorical.vacuous((rows,), components, dtype=dtype)


def loaded(draws, components, size, seed=0, port=True):
    """A module with a random state, and messages, biases and points to try it on."""
    g = generator(seed)
    root = torch.randn(draws, components, size, size, generator=g, dtype=torch.float64)
    state = {
        "means": 1.5 * torch.randn(draws, components, size, generator=g, dtype=torch.float64),
        "cholesky": torch.linalg.cholesky(root @ root.mT + 0.3 * torch.eye(size, dtype=torch.float64)),
        "log_weights": torch.randn(draws, components, generator=g, dtype=torch.float64).log_softmax(-1),
        "location": torch.randn(size, generator=g, dtype=torch.float64),
        "scale": torch.rand(size, generator=g, dtype=torch.float64) + 0.5,
    }
    module = build(components, size if port else None)
    module.load(state)
    return module, state


def messages(rows, size, seed=1, dtype=torch.float64):
    g = generator(seed)
    root = torch.randn(rows, size, size, generator=g, dtype=dtype)
    return Gaussian(torch.randn(rows, size, generator=g, dtype=dtype), root @ root.mT)


def inbox_of(rows, components, size=None, seed=1, dtype=torch.float64):
    boxes = {"component": Categorical(torch.randn(rows, components, generator=generator(seed), dtype=dtype))}
    return {**boxes, "observation": messages(rows, size, seed, dtype)} if size else boxes


def clusters(seed, rows=200, spread=8.0, dtype=torch.float64):
    """Four separated clusters in the plane, and their labels."""
    corners = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=dtype) * spread
    labels = torch.arange(rows) % 4
    return corners[labels] + torch.randn(rows, 2, generator=generator(seed), dtype=dtype), labels


def as_messages(points, precision=4.0):
    noise = torch.randn(points.shape, generator=generator(99), dtype=points.dtype) / precision**0.5
    return Gaussian(precision * (points + noise), torch.full_like(points, precision))


def labels_of(module, evidence, inbox):
    return module.infer(inbox, evidence, generator=generator()).messages["component"].logits.argmax(-1)


def fitted(points, seed=0, form="points", bias=None, owned=OWN, components=4, module=None, **options):
    rows = len(points)
    inbox = {"component": bias or vacuous(rows, components, points.dtype)}
    evidence = Evidence.of(points)
    if form == "messages":
        inbox["observation"], evidence = as_messages(points), Evidence.none(rows)
    module = module or build(components, points.shape[1] if form == "messages" else None)
    options = {"sweeps": 60, "restarts": 3, **options}
    report = module.fit(evidence, inbox, generator=generator(seed), owned=owned, **options)
    assert all(math.isfinite(value) for value in report.history["log_likelihood"])
    return module, labels_of(module, evidence, inbox)
