"""The graph that ships with an n-best list: leaving the list out, or all but its first line, costs on held-out rows."""

import pytest
import torch

from serket.data.generate import GENERATED
from serket.data.generate.keypad import keypad
from serket.graph import load_graph, shipped
from serket.graph.write import to_yaml
from serket.graph.yaml import read
from serket.model import Model
from serket.modules.recognisers import KEYPAD_PRIOR, keypad_tones


def spec():
    return read(to_yaml(load_graph("nbest")), "nbest").plain()


def without(module):
    cut = spec()
    del cut["modules"][module]
    return cut


def heard_as(**options):
    changed = spec()
    changed["modules"]["ear"] = {k: v for k, v in {**changed["modules"]["ear"], **options}.items() if v is not None}
    return changed


VARIANTS = {
    "whole": spec,
    "no list": lambda: without("ear"),
    "no camera": lambda: without("camera"),
    "first line": lambda: heard_as(function="first_tone_pair"),
    "prior kept": lambda: heard_as(includes_prior=None, prior=None),
}


def scores(seeds):
    """Per variant the share of keys named right, and minus the log-probability of the key, nats a row; medians."""
    found = {}
    for name, variant in VARIANTS.items():
        graph = load_graph(variant())
        model = Model(graph, graph.build(), 0, "cpu")
        runs = []
        for seed in range(seeds):
            data = keypad(seed=seed)
            key = torch.tensor(data["label"][data["test"]])
            probs = model.infer({k: data[k][data["test"]] for k in model.keys})["key"].probs
            right = (probs.argmax(-1) == key).double().mean()
            runs.append(torch.stack([right, -probs.gather(-1, key[:, None]).log().double().mean()]))
        found[name] = torch.stack(runs).median(0).values.tolist()
    return found


def judged(found):
    (right, loss), rest = found["whole"], {name: value for name, value in found.items() if name != "whole"}
    least = {"no list": (0.3, 0.7), "no camera": (0.06, 0.25), "first line": (0.06, 0.9), "prior kept": (0.02, 0.06)}
    for name, (other_right, other_loss) in rest.items():
        assert right - other_right > least[name][0] and other_loss - loss > least[name][1], (name, found)


def test_leaving_parts_out_costs():
    judged(scores(3))


@pytest.mark.stat
def test_leaving_parts_out_costs_over_seeds():
    judged(scores(20))


def test_the_recogniser_hears_what_the_data_are_made_of():
    data = keypad(rows=4000, deviation=0.0)
    there = ~torch.tensor(data["tones"]).isnan().any(-1)
    tones = torch.tensor(data["tones"])[there]
    assert torch.equal(tones, keypad_tones().double()[torch.tensor(data["label"])[there]])
    assert sum(KEYPAD_PRIOR) == pytest.approx(1) and spec()["modules"]["ear"]["prior"] == list(KEYPAD_PRIOR)
    assert "nbest" in shipped() and "keypad" in GENERATED
