"""A foreign posterior composed with another sensor: what comes out is the closed form, once its own prior is out."""

import importlib

import numpy as np
import pytest
import torch

import serket
from serket import protocol

step, run = (importlib.import_module(f"serket.engine.{name}") for name in ("step", "run"))  # run is a function, too

X = np.linspace(-3, 3, 7)[:, None]
RIGHT = {"mean": [1.0], "covariance": [[4.0]]}  # the prior that the encoder was trained under
NOISE, OTHER = 0.5, 0.2  # variances of what each sensor measures
PRIOR = {"mean": [-0.5], "covariance": [[2.0]]}  # of the model it is now part of
CLASSES = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])  # p(symbol | class), a row a class
TRAINED, NOW = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.2, 0.6])
SENSOR = np.array([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])


@serket.encoder("posterior_1d")
def posterior(x):
    """N(z; mean, variance) given x = z + noise, under N(1, 4)."""
    variance = 1 / (1 / 4 + 1 / NOISE)
    mean = variance * (1 / 4 + x / NOISE)
    return np.concatenate([mean, np.full_like(mean, variance)], 1)


@serket.encoder("posterior_logits")
def logits(symbol):
    return np.log(TRAINED * CLASSES[:, symbol[:, 0].astype(int)].T) + 3.0  # known up to a constant


@serket.encoder("posterior_probabilities")
def probabilities(symbol):
    joint = TRAINED * CLASSES[:, symbol[:, 0].astype(int)].T
    return joint / joint.sum(1, keepdims=True)


def gaussian(prior):
    foreign = {"type": "callable", "function": "posterior_1d", "reading": "gaussian", "prior": prior}
    graph = {
        "serket": 1,
        "variables": {"z": {"family": "gaussian", "size": 1, "prior": PRIOR}},
        "modules": {
            "foreign": {**foreign, "data": "x", "ports": {"latent": "z"}},
            "other": {
                "type": "linear_gaussian",
                "ports": {"given": "z"},
                "data": "y",
                "matrix": [[1]],
                "noise": [[OTHER]],
            },
        },
    }
    data = {"x": X, "y": X[::-1].copy() + 0.1}
    beliefs = serket.fit(graph, data, test_fraction=0).infer(data)
    return beliefs["z"].mean()[:, 0].numpy(), beliefs["z"].variance()[:, 0].numpy()


def categorical(**options):
    graph = {
        "serket": 1,
        "variables": {"z": {"family": "categorical", "size": 3, "prior": NOW.tolist()}},
        "modules": {
            "foreign": {"type": "callable", "data": "x", "ports": {"latent": "z"}, **options},
            "other": {"type": "table", "ports": {"given": ["z"]}, "data": "y", "values": SENSOR.tolist()},
        },
    }
    data = {"x": np.repeat(np.arange(3.0), 2)[:, None], "y": np.tile([0.0, 1.0], 3)[:, None]}
    return serket.fit(graph, data, test_fraction=0).infer(data)["z"].probs.numpy()


def closed_form():
    """The product of both likelihoods and the prior of the model, done by hand: precisions add."""
    y = X[::-1] + 0.1
    precision = 1 / PRIOR["covariance"][0][0] + 1 / NOISE + 1 / OTHER
    return ((PRIOR["mean"][0] / 2 + X / NOISE + y / OTHER) / precision)[:, 0], 1 / precision


def by_enumeration():
    x, y = np.repeat(np.arange(3), 2), np.tile([0, 1], 3)
    joint = NOW * CLASSES[:, x].T * SENSOR[:, y].T
    return joint / joint.sum(1, keepdims=True)


@pytest.mark.parametrize(
    "function, options", [("posterior_logits", {}), ("posterior_probabilities", {"form": "probabilities"})]
)
def test_categories_are_enumerated(function, options):
    found = categorical(function=function, prior=TRAINED.tolist(), **options)
    np.testing.assert_allclose(found, by_enumeration(), rtol=0, atol=1e-10)


def test_a_gaussian_is_the_closed_form():
    mean, variance = gaussian(RIGHT)
    right, spread = closed_form()
    np.testing.assert_allclose(mean, right, rtol=0, atol=1e-10)
    np.testing.assert_allclose(variance, spread, rtol=0, atol=1e-10)


def test_without_the_division_both_are_wrong(monkeypatch):
    """And by how much is known: the encoder's own prior is in the belief a second time."""
    for place in (step, run):
        monkeypatch.setattr(place, "extrinsic", lambda reply, inbox, own: dict(reply.messages))
    mean, variance = gaussian(RIGHT)
    right, spread = closed_form()
    precision = 1 / spread + 1 / 4
    np.testing.assert_allclose(variance, 1 / precision, atol=1e-10)
    np.testing.assert_allclose(mean, (right / spread + 1 / 4) / precision, atol=1e-10)
    assert np.abs(mean - right).min() > 1e-3 and np.abs(variance - spread).min() > 1e-3
    twice = by_enumeration() * TRAINED
    twice = twice / twice.sum(1, keepdims=True)
    found = categorical(function="posterior_logits", prior=TRAINED.tolist())
    np.testing.assert_allclose(found, twice, atol=1e-10)
    assert np.abs(found - by_enumeration()).max() > 0.05


def test_another_prior_than_its_own_is_wrong():
    mean, _ = gaussian("standard")
    assert np.abs(mean - closed_form()[0]).min() > 1e-3


def test_evidence_is_that_of_the_reading():
    """log of the integral of p(x | z) / p(x) under N(0.3, 2), in one dimension by a fine grid."""
    port = protocol.Port(protocol.Role.PARENT, serket.Family.GAUSSIAN, 1)
    module = serket.registry.lookup("callable", "module")(
        ports={"latent": port}, function="posterior_1d", reading="gaussian", prior=RIGHT
    )
    evidence = serket.Evidence.of(module.embed(torch.from_numpy(X)))
    inbox = {"latent": serket.Gaussian.from_moments(torch.full((7, 1), 0.3).double(), torch.full((7, 1), 2.0).double())}
    module.fit(evidence, inbox, generator=torch.Generator())
    reply = module.infer(inbox, evidence, generator=torch.Generator())
    z = np.linspace(-20, 20, 200001)

    def log_normal(x, mean, variance):
        return -((x - mean) ** 2) / variance / 2 - np.log(2 * np.pi * variance) / 2

    ratio = log_normal(X, z, NOISE) - log_normal(X, 1.0, 4 + NOISE)
    # The inbox is bare: exp(eta z - z^2 / (2 * 2)).
    expected = np.log(np.trapezoid(np.exp(ratio + 0.15 * z - z**2 / 4), z, axis=1))
    np.testing.assert_allclose(reply.log_evidence, expected, atol=1e-8)
