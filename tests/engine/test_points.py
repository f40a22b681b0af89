"""Points in a graph: beliefs against brute-force weighting; modules hear Gaussians; what is said of evidence."""

import math
from dataclasses import replace

import pytest
import torch

from serket.engine import Result, run
from serket.errors import MessageError
from serket.graph import load_graph
from serket.messages import Gaussian, Particles, Point
from serket.protocol import Evidence, Port, Reply, Role
from serket.report.arrays import beliefs_as_arrays
from serket.report.beliefs import summary
from serket.training.mutual import judged
from tests.engine.wire import pack, unpack

F64, ROWS, COUNT = torch.float64, 4, 5
SENSE = {"type": "linear_gaussian", "matrix": [[1, 0.3], [0, 1]], "noise": [[0.5, 0.1], [0.1, 0.4]]}
TREE = {
    "serket": 1,
    "variables": {
        "x": {"family": "gaussian", "size": 2, "prior": {"mean": [1, -1], "covariance": [[2, 0.5], [0.5, 1]]}},
        "y": {"family": "gaussian", "size": 2},
    },
    "modules": {
        "offers": {**SENSE, "data": "offers", "ports": {"given": "x"}},
        "sense": {**SENSE, "data": "sense", "ports": {"given": "x"}},
        "link": {**SENSE, "ports": {"given": "x", "child": "y"}},
        "low": {**SENSE, "data": "low", "ports": {"given": "y"}},
    },
}
POINTS = torch.randn(ROWS, COUNT, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
WEIGHTS = torch.randn(ROWS, COUNT, generator=torch.Generator().manual_seed(2), dtype=F64)


class Offers:
    """Offers points where it has data, and remembers what it heard."""

    ports = {"given[0]": Port(Role.PARENT, "gaussian", 2)}
    exact = True

    def __init__(self, points=POINTS, log_weights=WEIGHTS):
        self.points, self.log_weights, self.heard = points, log_weights, []

    def infer(self, inbox, evidence, *, generator, ports=None):
        self.heard.append(inbox["given[0]"])
        rows = len(evidence)
        message = Particles.of(self.points[:rows], self.log_weights[:rows], evidence.present)
        told = (message * inbox["given[0]"]).log_z()
        return Reply({"given[0]": message} if ports else {}, log_evidence=told, bound="exact")


def problem(spec=TREE, absent=(), **given):
    graph = load_graph(spec)
    modules = {**graph.build(), "offers": Offers(), **given}
    g = torch.Generator().manual_seed(3)
    evidence = {}
    for name, node in graph.nodes.items():
        if node.data:
            values = torch.randn(ROWS, 2, generator=g, dtype=F64)
            values[list(absent) if name == "offers" else []] = torch.nan
            evidence[name] = Evidence.of(values)
    return graph, modules, evidence


def solve(*args, **options):
    graph, modules, evidence = problem(*args, **options)
    return run(graph, modules, evidence), modules, evidence


def cavity_of_offers(evidence, row):
    """What all but the offers say of x, dense: the prior, the sense, and the chain below."""
    matrix, noise = torch.tensor(SENSE["matrix"], dtype=F64), torch.tensor(SENSE["noise"], dtype=F64)
    cov = torch.tensor([[2, 0.5], [0.5, 1]], dtype=F64)
    precision, info = cov.inverse(), cov.inverse() @ torch.tensor([1, -1], dtype=F64)
    below = matrix @ noise @ matrix.T + noise  # of the low sense given x
    for a, s, x in ((matrix, noise, evidence["sense"]), (matrix @ matrix, below, evidence["low"])):
        precision, info = precision + a.T @ s.inverse() @ a, info + a.T @ s.inverse() @ x.values[row]
    return info, precision


def test_beliefs_are_brute_force_weighting():
    result, modules, evidence = solve(absent=[2])
    for row in (0, 1, 3):
        info, precision = cavity_of_offers(evidence, row)
        weights = [
            math.exp(w + info @ z - z @ precision @ z / 2) for z, w in zip(POINTS[row], WEIGHTS[row], strict=True)
        ]
        share = torch.tensor(weights, dtype=F64) / sum(weights)
        mean = share @ POINTS[row]
        gap = POINTS[row] - mean
        torch.testing.assert_close(result["x"].mean()[row], mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            result["x"].covariance()[row], gap.T @ (share[:, None] * gap), rtol=1e-10, atol=1e-10
        )
    info, precision = cavity_of_offers(evidence, 2)
    torch.testing.assert_close(result["x"].mean()[2], torch.linalg.solve(precision, info), rtol=1e-10, atol=1e-10)
    assert isinstance(result["x"], Particles) and isinstance(result["y"], Gaussian)
    assert not result.exact and result.bound == "estimate" and result.reason == "a message is projected or estimated"
    assert bool(result.contribution.isfinite().all()) and bool((result.contribution >= 0).all())
    assert float(result.contribution[2, 0]) == 0 and bool((result.contribution[[0, 1, 3]] > 0).all())
    assert bool(result.conflict.isfinite().all())


def test_a_module_hears_points_as_a_gaussian_and_never_its_own():
    result, modules, evidence = solve()
    assert all(type(heard) is Gaussian for heard in modules["offers"].heard)
    other = Offers(POINTS + 3.0, -WEIGHTS)
    run(*problem(offers=other))
    assert torch.equal(other.heard[-1].info, modules["offers"].heard[-1].info)
    # y hears the moments of the x cavity of the link, times the low sense.
    spec = {**TREE, "modules": {name: TREE["modules"][name] for name in ("offers", "sense", "link")}}
    alone = solve(spec)[0]
    matrix, noise = torch.tensor(SENSE["matrix"], dtype=F64), torch.tensor(SENSE["noise"], dtype=F64)
    torch.testing.assert_close(alone["y"].mean(), alone["x"].mean() @ matrix.T, rtol=1e-8, atol=1e-8)
    expected = matrix @ alone["x"].covariance() @ matrix.T + noise
    torch.testing.assert_close(alone["y"].covariance(), expected, rtol=1e-7, atol=1e-7)


def test_alone_under_its_prior_the_answer_and_its_evidence_are_exact():
    spec = {**TREE, "variables": {"x": TREE["variables"]["x"]}, "modules": {"offers": TREE["modules"]["offers"]}}
    result = solve(spec)[0]
    prior = torch.distributions.MultivariateNormal(
        torch.tensor([1, -1], dtype=F64), torch.tensor([[2, 0.5], [0.5, 1]], dtype=F64)
    )
    assert result.exact and result.bound == "exact"
    expected = (WEIGHTS + prior.log_prob(POINTS)).logsumexp(-1)
    torch.testing.assert_close(result.log_evidence, expected, rtol=1e-10, atol=1e-10)


def test_evidence_of_a_projected_cavity_counts_the_whole_cavity():
    """With points so close together that they are a Gaussian to anyone, the estimate is the truth."""
    tight = Offers(0.3 + 1e-3 * POINTS, WEIGHTS)
    spec = {**TREE, "variables": {"x": TREE["variables"]["x"]},
            "modules": {name: TREE["modules"][name] for name in ("offers", "sense")}}  # fmt: skip
    result, _, evidence = solve(spec, offers=tight)
    prior = torch.distributions.MultivariateNormal(
        torch.tensor([1, -1], dtype=F64), torch.tensor([[2, 0.5], [0.5, 1]], dtype=F64)
    )
    matrix, noise = torch.tensor(SENSE["matrix"], dtype=F64), torch.tensor(SENSE["noise"], dtype=F64)
    sense = torch.distributions.MultivariateNormal(tight.points @ matrix.T, noise)
    told = WEIGHTS + prior.log_prob(tight.points) + sense.log_prob(evidence["sense"].values.unsqueeze(1))
    assert result.bound == "estimate"
    torch.testing.assert_close(result.log_evidence, told.logsumexp(-1), rtol=0, atol=1e-4)
    # Log p(x_m | rest) - log p(x_m), both ways round the same.
    exact = told.logsumexp(-1) - (WEIGHTS + prior.log_prob(tight.points)).logsumexp(-1)
    marginal = torch.distributions.MultivariateNormal(
        matrix @ prior.loc, matrix @ prior.covariance_matrix @ matrix.T + noise
    ).log_prob(evidence["sense"].values)
    torch.testing.assert_close(result.conflict, exact - marginal, rtol=0, atol=1e-6)


def test_two_lists_at_one_variable_are_refused_by_name_but_where_one_is_absent():
    modules = {**TREE["modules"], "again": TREE["modules"]["offers"]}
    graph, built, evidence = problem({**TREE, "modules": modules}, again=Offers())
    with pytest.raises(MessageError) as caught:
        run(graph, built, evidence)
    assert str(caught.value) == (
        "offers.given[0] and again.given[0] at 'x': rows 0, 1, 2, 3: Particles times Particles: two sets of points have no "
        "product\n  expected: points in one of the factors at most; the others Gaussian\n  fix: project one of them onto a "
        "Gaussian: message.projected(); or give each its own variable, and join them by a linear_gaussian module"
    )
    silent = {**evidence, "again": evidence["again"].nothing()}
    one, other = run(graph, built, silent), run(*problem())
    torch.testing.assert_close(one["x"].mean(), other["x"].mean(), rtol=0, atol=0)


class Knows(Offers):
    """Sends the first of its points as certain."""

    def infer(self, inbox, evidence, *, generator, ports=None):
        message = Point.of(self.points[: len(evidence), 0], evidence.present)
        told = (message * inbox["given[0]"]).log_z()
        return Reply({"given[0]": message} if ports else {}, log_evidence=told, bound="exact")


def test_certain_values_stand_in_beliefs_and_contradict_each_other_by_name():
    modules = {**TREE["modules"], "again": TREE["modules"]["offers"]}
    graph, built, evidence = problem({**TREE, "modules": modules}, absent=[2], offers=Knows(), again=Knows())
    result = run(graph, built, evidence)
    assert torch.equal(result["x"].mean(), POINTS[:, 0]) and bool(result.contribution.isfinite().all())
    assert bool(result["y"].variance().isfinite().all()) and bool(result.conflict.isfinite().all())
    built["again"] = Knows(POINTS + torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=F64)[:, None, None])
    with pytest.raises(
        MessageError, match=r"offers.given\[0\] and again.given\[0\] at 'x': rows 3: two certain values"
    ):
        run(graph, built, evidence)


def test_impossible_points_are_dropped_and_counted():
    weights = WEIGHTS.clone()
    weights[1] = -math.inf
    result = solve(offers=Offers(log_weights=weights))[0]
    assert result.improper == {"offers.given[0]": 1}
    without = run(*problem(absent=[1]))
    torch.testing.assert_close(result["x"].mean(), without["x"].mean(), rtol=1e-12, atol=1e-12)


def test_points_travel_as_bytes():
    graph, modules, evidence = problem(absent=[2])
    plain = run(graph, modules, evidence)
    sent = run(graph, modules, evidence, relay=lambda reply: unpack(pack(reply)))
    for name in plain:
        assert all(torch.equal(values, sent[name].tensors()[part]) for part, values in plain[name].tensors().items())
    assert torch.equal(plain.log_evidence, sent.log_evidence) and torch.equal(plain.conflict, sent.conflict)
    point = Reply({"z": Point.of(POINTS[:, 0])})
    got = unpack(pack(point)).messages["z"]
    assert isinstance(got, Point) and torch.equal(got.value, POINTS[:, 0])


def test_results_join_and_are_written_with_moments():
    graph, modules, evidence = problem(absent=[2])
    whole = run(graph, modules, evidence)
    parts = []
    for rows, count in ((slice(0, 1), 5), (slice(1, 4), 3)):
        modules["offers"] = Offers(POINTS[rows, :count], WEIGHTS[rows, :count])
        parts.append(run(graph, modules, {name: one[rows] for name, one in evidence.items()}))
    joined = Result.joined(parts)
    assert joined["x"].points.shape == (4, 5, 2)
    torch.testing.assert_close(joined["x"].mean()[0], whole["x"].mean()[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(joined["x"].mean()[1:], parts[1]["x"].mean(), rtol=0, atol=0)
    arrays = beliefs_as_arrays(whole)
    assert arrays["x.mean"].shape == (4, 2) and arrays["x.cov"].shape == (4, 2, 2)
    assert summary(whole)["variables"]["x"]["std"] == pytest.approx(float(whole["x"].variance().sqrt().mean()))


def test_on_a_loop_points_are_heard_undamped():
    loop = {**TREE["modules"], "again": {**SENSE, "ports": {"given": "y", "child": "w"}},
            "close": {**SENSE, "matrix": [[0.2, 0, 0.1, 0], [0, 0.2, 0, 0.1]], "ports": {"given": ["x", "w"]}, "data": "close"}}  # fmt: skip
    spec = {**TREE, "modules": loop, "variables": {**TREE["variables"], "w": {"family": "gaussian", "size": 2}}}
    result = solve(spec)[0]
    assert result.converged and isinstance(result["x"], Particles) and not result.exact


class Bad(Offers):
    def infer(self, inbox, evidence, **options):
        reply = super().infer(inbox, evidence, **options)
        return replace(reply, messages={port: self.spoil(one) for port, one in reply.messages.items()})


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda m: Particles.of(m.points * math.nan, m.log_weights), "NaN or infinity in its points"),
        (lambda m: Particles.of(m.points, m.log_weights + math.inf), "NaN or infinity in its log_weights"),
        (lambda m: Particles.of(m.points[..., :1], m.log_weights), r"Gaussian, Particles or Point of shape \(4, 2\)"),
    ],
)
def test_malformed_points_are_refused(spoil, text):
    bad = Bad()
    bad.spoil = spoil
    with pytest.raises(MessageError, match=text):
        solve(offers=bad)


def test_prediction_from_points_counts_their_weight_once():
    """Where the graph offers no evidence, e times the weights is one nat for the sense that offers them alone."""
    spec = {**TREE, "modules": {**TREE["modules"], "low": {**TREE["modules"]["low"], "trust": 0.5}}}
    found = []
    for weights in (WEIGHTS, WEIGHTS + 1):
        graph, modules, evidence = problem(spec, offers=Offers(POINTS, weights))
        found.append(judged(graph, modules, evidence, seed=0, dtype=F64))
    assert found[1] - found[0] == pytest.approx(1.0)
