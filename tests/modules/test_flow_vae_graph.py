"""Graph beacons: what a flow_vae learns of held-out rows that a vae in its place does not."""

import math
from importlib.resources import files

import pytest
import torch

import serket
from serket.data.generate import GENERATED
from serket.graph import parse_graph
from serket.messages import Gaussian

GRAPH = (files("serket") / "graphs" / "beacons.yaml").read_text()
PLAIN = GRAPH.replace("type: flow_vae", "type: vae")
DRAWS = 1000


def learnt(text, seed):
    """Of held-out rows: log p(range) in nats a row, by importance sampling, and the share named rightly by range."""
    data = GENERATED["beacons"]()
    test, model = data["test"], serket.fit(parse_graph(text), seed=seed, workers=1)
    heard = {"range": data["range"][test]}
    names = model.generate("word", given=heard).mean[:, 0]
    place, module = model.infer(heard)["place"].full(), model.modules["ranges"]
    weights = {name: value.double() for name, value in module.weights.items()}
    inputs = module.likelihood.inputs(torch.from_numpy(heard["range"]), weights)
    belief = Gaussian(place.info.double(), place.precision.double()) ** 0.5  # wider: no place is left out
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(DRAWS, len(test), 2, generator=g, dtype=torch.float64)
    z = belief.shift(draws)
    with torch.no_grad():
        joint = module.likelihood.log_prob(module._decode(weights, z), inputs, weights) - z.square().sum(-1) / 2
    spread = torch.linalg.slogdet(belief.covariance())[1] / 2
    log_weights = joint + draws.square().sum(-1) / 2 + spread
    log_p = log_weights.logsumexp(0) - math.log(DRAWS)
    return float(log_p.mean()), float((names.numpy() == data["label"][test]).mean())


@pytest.mark.stat
@pytest.mark.parametrize("seed", range(5))
def test_a_plain_encoder_in_its_place_costs_evidence(seed):
    flow, named = learnt(GRAPH, seed)
    vae, named_by_vae = learnt(PLAIN, seed)
    print(f"seed {seed}: flow_vae {flow:.3f} {named:.3f}, vae {vae:.3f} {named_by_vae:.3f}")
    assert flow > vae + 0.3


def test_a_plain_encoder_costs_evidence_early_on():
    """A short form: of forty epochs, at a higher rate."""
    brief = [text.replace("learning_rate: 3e-3", "learning_rate: 1e-2, epochs: 40") for text in (GRAPH, PLAIN)]
    assert "epochs: 40" in brief[0]
    flow, vae = (learnt(text, 0)[0] for text in brief)
    assert flow > vae + 0.2
