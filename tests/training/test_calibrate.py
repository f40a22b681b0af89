"""Exponents: planted over-confidence is found, calibrated models keep 1, and a run comes back to the bit."""

import dataclasses

import numpy as np
import pytest
import torch

import serket
from serket.errors import DataError, GraphError
from serket.graph import check, to_yaml
from serket.graph.build import parse_graph
from serket.inputs import gather
from serket.modules.linear_gaussian import LinearGaussian
from serket.predictive import marginal_cdf, marginal_log_prob, seen, sharpened, varying
from serket.protocol import Evidence
from serket.training.calibrate import _drawn, calibrate, patterns

SENSOR = {"type": "linear_gaussian", "matrix": [[1.0, 0.0], [0.0, 1.0]]}
serket.encoder("case_points")(lambda values: values)
NOISE = {"a": 0.5, "b": 1.0, "c": 0.3}


def position(**changes):
    modules = {
        name: {**SENSOR, "data": name, "ports": {"given": "x"}, "noise": [[v, 0.0], [0.0, v]]}
        for name, v in NOISE.items()
    }
    for name, change in changes.items():
        modules[name] |= change
    return {"serket": 1, "variables": {"x": {"family": "gaussian", "size": 2}}, "modules": modules}


def readings(rows, seed=0):
    """What the graph says: x ~ N(0, I), every sensor x + noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 2))
    return {name: x + v**0.5 * random.normal(size=(rows, 2)) for name, v in NOISE.items()}


@dataclasses.dataclass(eq=False)
class Boasting:
    """A module whose messages are those of another to a power: surer than it may be."""

    inner: LinearGaussian
    power: float
    imagines: bool = True

    def __post_init__(self):
        self.ports = self.inner.ports
        if self.imagines:
            self.predict = self.inner.predict

    def infer(self, inbox, evidence, *, generator, ports=None):
        reply = self.inner.infer(inbox, evidence, generator=generator, ports=ports)
        messages = {port: message**self.power for port, message in reply.messages.items()}
        return dataclasses.replace(reply, messages=messages)


def fitted(power=None, rows=1500, name="a", imagines=True, data=None, seed=0):
    model = serket.fit(serket.load_graph(position()), data or readings(rows), test_fraction=0)
    modules = dict(model.modules)
    if power is not None:
        modules[name] = Boasting(modules[name], power, imagines)
    dataset = model._dataset(data or readings(rows))
    held = gather(model.graph, modules, dataset, None, dtype=torch.float64)
    return calibrate(model.graph, modules, held, seed=seed, dtype=torch.float64)


@pytest.mark.parametrize("imagines", [True, False])
def test_planted_over_confidence_is_found(monkeypatch, imagines):
    monkeypatch.setattr("serket.training.calibrate.MOST_ROWS", 1500)
    graph, notes = fitted(power=3.0, imagines=imagines)
    # The information in 1500 rows puts the standard error of log t near 0.05.
    assert graph.nodes["a"].calibration["given[0]"] == pytest.approx(1 / 3, rel=0.2)
    assert graph.nodes["b"].calibration == {"given[0]": pytest.approx(1, rel=0.25)}
    assert notes == []


def test_planted_under_confidence_is_found(monkeypatch):
    monkeypatch.setattr("serket.training.calibrate.MOST_ROWS", 1500)
    graph, _ = fitted(power=0.25, name="c")
    assert graph.nodes["c"].calibration["given[0]"] == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize("seed", range(3))
def test_a_calibrated_model_keeps_its_exponents_and_its_evidence(seed):
    graph, _ = fitted(rows=400, data=readings(400, seed))
    found = {name: node.calibration["given[0]"] for name, node in graph.nodes.items()}
    assert all(0.6 < exponent < 1.7 for exponent in found.values())
    assert sum(exponent == 1 for exponent in found.values()) >= 2


def test_dimensions_that_are_not_observed_are_not_scored():
    """Masked slots hold zeros, 20 away from the data: as data they would pull every exponent down."""
    data = {name: values + 20 for name, values in readings(400).items()}
    graph = position()
    graph["variables"]["x"]["prior"] = {"mean": [20.0, 20.0], "covariance": [[1.0, 0.0], [0.0, 1.0]]}
    masked = np.ones((400, 2), dtype=bool)
    masked[::5, 1] = False
    model = serket.fit({**graph, "run": {"calibrate": "senses"}}, {**data, "c_mask": masked}, test_fraction=0)
    assert all(0.5 < node.calibration["given[0]"] < 2 for node in model.graph.nodes.values())


@pytest.mark.parametrize("missing", [0, 5])
def test_a_missing_row_makes_no_constant_dimension_vary(missing):
    values = torch.full((20, 3), 7.0)
    values[:, 0] = torch.arange(20)
    there = torch.arange(20) != missing
    values[missing] = 0
    assert varying(values, there).tolist() == [True, False, False]
    each = there[:, None] & torch.tensor([True, True, False])
    assert varying(values, each).tolist() == [True, False, False]
    assert seen(values, there).sum() == 19 * 3


def test_exponents_act_on_the_message_and_take_exact_evidence_away():
    plain = serket.fit(position(), readings(20), test_fraction=0)
    tempered = serket.fit(position(a={"calibration": {"given[0]": 0.5}}), readings(20), test_fraction=0)
    both = serket.fit(position(a={"calibration": {"given[0]": 0.5}, "trust": 0.5}), readings(20), test_fraction=0)
    data = readings(5, 1)
    precision = {name: m.infer(data)["x"].full().precision[0, 0, 0].item() for name, m in
                 {"plain": plain, "tempered": tempered, "both": both}.items()}  # fmt: skip
    assert precision["plain"] == pytest.approx(1 + 1 / 0.5 + 1 / 1.0 + 1 / 0.3)
    assert precision["tempered"] == pytest.approx(1 + 0.5 / 0.5 + 1 / 1.0 + 1 / 0.3)
    assert precision["both"] == pytest.approx(1 + 0.25 / 0.5 + 1 / 1.0 + 1 / 0.3)
    result = tempered.infer(data)
    assert result.log_evidence is None and result.bound == "none" and not result.exact
    assert "calibrated to 0.5" in result.reason
    assert any("calibrated to the power 0.5" in warning for warning in check(tempered.graph).warnings)


def test_exponents_of_one_change_no_bit():
    plain = serket.fit(position(), readings(20), test_fraction=0)
    ones = serket.fit(position(a={"calibration": {"given[0]": 1.0}}), readings(20), test_fraction=0)
    data = readings(5, 1)
    one, other = plain.infer(data), ones.infer(data)
    assert torch.equal(one["x"].info, other["x"].info) and torch.equal(one.log_evidence, other.log_evidence)
    assert other.exact


def test_a_stream_hears_the_same_exponents():
    from serket.engine.step import Stepper

    model = serket.fit(position(a={"calibration": {"given[0]": 0.5}}), readings(20), test_fraction=0)
    data = readings(1, 1)
    stepped = Stepper(model.graph, model.modules, dtype=torch.float64).step({k: v[0] for k, v in data.items()})
    torch.testing.assert_close(stepped.beliefs["x"].full().precision, model.infer(data)["x"].full().precision)


def vaes(**run):
    return {
        "serket": 1,
        "variables": {"z_a": {"family": "gaussian", "size": 2}, "z_b": {"family": "gaussian", "size": 2},
                      "s": {"family": "gaussian", "size": 2}, "kind": {"family": "categorical", "size": 2}},
        "modules": {
            **{name: {"type": "vae", "data": name, "ports": {"latent": f"z_{name}"}, "hidden": [8],
                      "fit": {"epochs": 5, "batch": 32}} for name in "ab"},
            "kinds": {"type": "gmm", "ports": {"component": "kind", "observation": "s"}, "draws": 2,
                      "fit": {"sweeps": 10, "restarts": 2}},
        },
        "composers": {"body": {"type": "linear_gaussian", "private": 1, "ports": {"shared": "s", "views": ["z_a", "z_b"]}}},
        "run": run,
    }  # fmt: skip


def pairs(rows=160, seed=0):
    random = np.random.default_rng(seed)
    kind = random.integers(2, size=rows)
    s = 3.0 * kind[:, None] + random.normal(size=(rows, 2))
    return {name: (s @ random.normal(size=(2, 3)) + random.normal(size=(rows, 3))) for name in "ab"} | {"label": kind}


@pytest.mark.parametrize("how", ["senses", "labels"])
def test_a_calibrated_run_comes_back_to_the_bit(tmp_path, how):
    model = serket.fit(vaes(calibrate=how), pairs(), test_fraction=0.2)
    calibration = {name: dict(node.calibration) for name, node in model.graph.nodes.items()}
    assert set(calibration["a"]) == {"latent", "data"} and set(calibration["kinds"]) == {"component"}
    assert calibration["body"] == {}
    assert "calibrate" in model.seconds
    model.save(tmp_path / "run")
    back = serket.load(tmp_path / "run")
    assert {name: dict(node.calibration) for name, node in back.graph.nodes.items()} == calibration
    data = {key: values for key, values in pairs(20, 1).items() if key != "label"}
    one, other = model.infer(data), back.infer(data)
    assert all(torch.equal(one[v].tensors()[p], other[v].tensors()[p]) for v in one for p in one[v].tensors())
    one, other = (m.generate("b", {"a": data["a"]}, samples=3) for m in (model, back))
    assert torch.equal(one.std, other.std) and torch.equal(one.samples, other.samples)


def test_without_calibration_nothing_changes():
    text = to_yaml(serket.load_graph(vaes()))
    assert "calibrat" not in text
    assert to_yaml(parse_graph(to_yaml(serket.load_graph(vaes(calibrate="senses"))))).count("calibrate: senses") == 1


def test_the_data_exponent_narrows_what_is_imagined_about_the_same_mean():
    model = serket.fit(vaes(), pairs(), test_fraction=0)
    data = {"a": pairs(20, 1)["a"]}
    before = model.generate("b", data)
    nodes = dict(model.graph.nodes)
    nodes["b"] = dataclasses.replace(nodes["b"], calibration={"data": 4.0})
    model.graph = dataclasses.replace(model.graph, nodes=nodes)
    after = model.generate("b", data)
    weights = model.modules["b"].weights
    noise = weights["scale"].square() * weights["log_variance"].exp()
    assert torch.equal(before.mean, after.mean)
    torch.testing.assert_close(
        before.std.square() - after.std.square(), (0.75 * noise).expand(20, 3), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("family", ["normal", "many", "bernoulli", "categorical"])
def test_sharpened_is_the_density_to_the_power_normalised(family):
    generator = torch.Generator().manual_seed(0)
    if family == "normal":
        d = torch.distributions.Normal(torch.zeros(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64))
        x = torch.linspace(-30, 30, 20001, dtype=torch.float64)[:, None]
        weight = x[1, 0] - x[0, 0]
    elif family == "many":
        root = torch.tensor([[1.0, 0.0], [0.5, 0.7]], dtype=torch.float64)
        d = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), scale_tril=root)
        line = torch.linspace(-12, 12, 601, dtype=torch.float64)
        x, weight = torch.cartesian_prod(line, line), (line[1] - line[0]) ** 2
    else:
        logits = torch.randn(4 if family == "categorical" else 1, generator=generator, dtype=torch.float64)
        kind = torch.distributions.Categorical if family == "categorical" else torch.distributions.Bernoulli
        d, x, weight = kind(logits=logits), torch.arange(float(len(logits)) if len(logits) > 1 else 2.0), 1.0
        x = x.double() if family == "categorical" else x.double()[:, None]
    power = (d.log_prob(x) * 3).exp().reshape(-1)
    expected = power / (power.sum() * weight)
    torch.testing.assert_close(sharpened(d, 3.0).log_prob(x).exp().reshape(-1), expected, rtol=1e-6, atol=1e-9)


def test_marginals_of_a_mixture_are_those_of_its_draws():
    root = torch.tensor([[1.0, 0.0], [0.8, 0.3]], dtype=torch.float64)
    means = torch.tensor([[[0.0, 0.0], [3.0, -1.0]]], dtype=torch.float64)
    parts = torch.distributions.MultivariateNormal(means, scale_tril=root)
    weights = torch.distributions.Categorical(probs=torch.tensor([[0.3, 0.7]], dtype=torch.float64))
    d = torch.distributions.MixtureSameFamily(weights, parts)
    x, deviation = torch.tensor([[1.0, 0.5]], dtype=torch.float64), torch.tensor([1.0, (0.64 + 0.09) ** 0.5])
    each = torch.distributions.Normal(means[0], deviation.double())
    torch.testing.assert_close(marginal_cdf(d, x)[0], 0.3 * each.cdf(x)[0] + 0.7 * each.cdf(x)[1])
    density = 0.3 * each.log_prob(x)[0].exp() + 0.7 * each.log_prob(x)[1].exp()
    torch.testing.assert_close(marginal_log_prob(d, x)[0], density.log())


def test_patterns_are_all_proper_subsets_or_few():
    assert len(patterns("abc")) == 6 and ("a", "c") in patterns("abc") and ("a", "b", "c") not in patterns("abc")
    assert len(patterns("abcdefg")) == 14


def test_one_sense_cannot_be_calibrated():
    graph = position()
    graph["modules"] = {"a": graph["modules"]["a"]}
    with pytest.raises(DataError, match="one sense alone"):
        serket.fit({**graph, "run": {"calibrate": "senses"}}, {"a": readings(30)["a"]}, test_fraction=0)


def test_no_held_out_rows():
    graph = serket.load_graph(position())
    with pytest.raises(DataError, match="no held-out rows"):
        calibrate(graph, graph.build(), {}, seed=0, dtype=torch.float64)
    data = {name: values[:1] for name, values in readings(30).items()}
    with pytest.raises(serket.SerketError, match="rows to judge by"):
        serket.fit({**position(), "run": {"calibrate": "senses"}}, data, test_fraction=0)


def test_a_module_that_never_speaks_is_left_alone_and_named():
    data = readings(60)
    data["c"][:] = np.nan
    with pytest.warns(UserWarning, match="c speaks in no held-out row"):
        model = serket.fit({**position(), "run": {"calibrate": "senses"}}, data, test_fraction=0)
    assert model.graph.nodes["c"].calibration == {} and model.graph.nodes["a"].calibration


def test_a_module_that_meets_no_other_is_left_alone_and_named():
    data, even = readings(60), np.arange(60) % 2 == 0
    data |= {"a_mask": even, "b_mask": even, "c_mask": ~even}
    data["c_mask"][0] = True  # in one row all three speak: too few
    with pytest.warns(UserWarning, match="c shares fewer than two held-out rows"):
        model = serket.fit({**position(), "run": {"calibrate": "senses"}}, data, test_fraction=0)
    assert model.graph.nodes["c"].calibration == {} and model.graph.nodes["a"].calibration
    del data["b"], data["b_mask"]
    graph = position()
    del graph["modules"]["b"]
    with pytest.raises(DataError, match="share held-out rows"):
        serket.fit({**graph, "run": {"calibrate": "senses"}}, data, test_fraction=0)


def test_rows_to_calibrate_on_are_drawn_from_the_whole_file():
    """A file may be sorted; where rows couple, sequences stay whole, the one that is longer than the limit too."""
    rows = Evidence.of(torch.zeros(4000, 1))
    one = _drawn(rows, False, 0)
    assert len(one) == 500 and torch.equal(one, one.unique()) and torch.equal(one, _drawn(rows, False, 0))
    # Uniform without replacement: standard deviation of the mean 48.
    assert float(one.double().mean()) == pytest.approx(2000, abs=4 * 48) and not torch.equal(
        one, _drawn(rows, False, 1)
    )
    sequence = torch.arange(40).repeat_interleave(100)
    some = _drawn(dataclasses.replace(rows, sequence=sequence), True, 0)
    assert len(some) == 500 and all((sequence[some] == s).sum() == 100 for s in sequence[some].unique())
    assert sequence[some].max() > 10 and torch.equal(some, some.unique())
    assert len(_drawn(rows, True, 0)) == 4000


UNSURE = "looks: frozen, and not calibrated"


def test_a_frozen_module_is_said_to_be_uncalibrated_until_it_is():
    """In check, and in the commands, which ask the model."""
    from serket.graph import uncalibrated

    graph = position()
    graph["modules"] |= {"looks": {"type": "callable", "data": "looks", "ports": {"latent": "x"},
                                   "function": "case_points", "scaling": "overall"}}  # fmt: skip
    data = readings(60)
    data["looks"] = data["a"].copy()
    assert [w for w in check(serket.load_graph(graph)).warnings if UNSURE in w]
    before = serket.fit(graph, data, test_fraction=0)
    assert [w for w in uncalibrated(before.graph, before.modules) if UNSURE in w]
    after = serket.fit({**graph, "run": {"calibrate": "senses"}}, data, test_fraction=0)
    assert not uncalibrated(after.graph, after.modules) and not [w for w in check(after.graph).warnings if UNSURE in w]


@pytest.mark.parametrize("quiet", [False, True])
def test_commands_tell_what_is_uncalibrated(quiet, capsys):
    from serket.cli.shared import tell_uncalibrated

    graph = position()
    graph["modules"] |= {"looks": {"type": "callable", "data": "looks", "ports": {"latent": "x"},
                                   "function": "case_points"}}  # fmt: skip
    described = serket.load_graph(graph)
    tell_uncalibrated(serket.Model(described, described.build()), quiet)
    assert (UNSURE in capsys.readouterr().err) is not quiet


def test_no_labels_to_calibrate_by():
    data = {key: values for key, values in pairs(40).items() if key != "label"}
    with pytest.raises(DataError, match="no labels"):
        serket.fit(vaes(calibrate="labels"), data, test_fraction=0)


@pytest.mark.parametrize(("given", "text"), [
    ({"latnt": 0.5}, "no port 'latnt' to calibrate"), ({"given[0]": 0.0}, "calibration"), ({"given[0]": "high"}, "a number"),
])  # fmt: skip
def test_a_wrong_calibration_is_told(given, text):
    with pytest.raises(GraphError, match=text):
        serket.load_graph(position(a={"calibration": given}))
