"""Who owns each prior, in the order of law 2, and what `serket check` says before anything runs."""

import pytest
import torch

from serket.graph.build import load_graph, parse_graph
from serket.graph.check import check, prior_owners
from serket.messages import Categorical, Family, Gaussian
from serket.protocol import Port, Role, traits
from serket.registry import register


@register("test_owner")
class Owner:
    """Stand-in that declares a prior of its own, and a cost."""

    ports = {
        "given": Port(Role.PARENT, Family.GAUSSIAN, optional=True),
        "kind": Port(Role.PARENT, Family.CATEGORICAL, optional=True),
        "child": Port(Role.CHILD, Family.GAUSSIAN, optional=True),
    }

    def __init__(self, ports, cost: str = "linear", mean: float = 3.0, note: str = ""):
        self.ports, self.cost, self.exact, self.note = ports, cost, True, note
        size = ports["given"].size if "given" in ports else 0
        self.own_prior = {"given": Gaussian(torch.full((size,), mean), torch.ones(size))} if size else {}


def graph(variables, modules):
    return parse_graph(f"serket: 1\nvariables:\n{variables}modules:\n{modules}")


def owners(built, active=None):
    return prior_owners(built, built.build(), active)


X = "  x: {family: gaussian, size: 1}\n"
PRIOR = "  x: {family: gaussian, size: 1, prior: {mean: [5], covariance: [[2]]}}\n"
BELOW = "  below: {type: test_owner, ports: {given: x}, data: d}\n"
ABOVE = "  above: {type: test_owner, ports: {child: x}}\n"


def test_law_2_in_its_order():
    child = owners(graph(PRIOR, BELOW + ABOVE))["x"]
    assert (child.kind, child.node, child.port, child.message) == ("child", "above", "child", None)
    own = owners(graph(X, BELOW))["x"]
    assert (own.kind, str(own)) == ("own", "below.given") and own.message.info.item() == 3
    prior = owners(graph(PRIOR, BELOW))["x"]
    assert (prior.kind, str(prior)) == ("graph", "graph") and prior.message.mean().item() == 5
    default = owners(graph(X, BELOW + BELOW.replace("below", "beside")))["x"]
    assert (default.kind, str(default)) == ("default", "N(0, I) (default)")
    assert default.message.variance().item() == 1 and default.message.batch_shape == ()


def test_two_owners_are_a_product_if_the_variable_says_so():
    both = owners(graph(X.replace("1}", "1, combine: product}"), BELOW + ABOVE + ABOVE.replace("above", "over")))["x"]
    assert (both.kind, str(both), both.message) == ("combine", "above.child x over.child", None)


def test_only_active_nodes_own():
    built = graph(PRIOR, BELOW + ABOVE)
    assert owners(built, frozenset({"below"}))["x"].kind == "graph"
    built = graph(X, BELOW + BELOW.replace("below", "beside") + ABOVE)
    assert owners(built, frozenset({"below"}))["x"].kind == "own"
    assert owners(built, frozenset({"below", "beside"}))["x"].kind == "default"
    assert owners(built, frozenset())["x"].kind == "default"


def test_a_categorical_defaults_to_uniform():
    owner = owners(
        graph("  k: {family: categorical, size: 3}\n", "  m: {type: test_owner, ports: {kind: k}, data: d}\n")
    )["k"]
    assert str(owner) == "uniform (default)"
    assert isinstance(owner.message, Categorical) and torch.allclose(
        owner.message.probs, torch.full((3,), 1 / 3).double()
    )


@pytest.mark.parametrize("name", ["rain", "position"])
def test_the_exact_graphs_are_exact_and_warn_of_nothing(name):
    report = check(load_graph(name)).as_dict()
    assert report.keys() == {"prior_owners", "tree", "exact", "cost", "warnings"}
    assert report["tree"] is True and report["exact"] is True and report["warnings"] == []
    assert set(report["cost"].values()) == {"linear"}


def test_digits_is_owned_from_the_top():
    report = check(load_graph("digits")).as_dict()
    assert report["prior_owners"] == {
        "z_pix": "body.views[0]",
        "z_fou": "body.views[1]",
        "z_kar": "body.views[2]",
        "shared": "concepts.observation",
        "digit": "concepts.component",
    }
    assert report["tree"] is True and report["exact"] is False


def warnings(variables, modules):
    return list(check(graph(variables, modules)).warnings)


def test_what_check_warns_of():
    beside = BELOW.replace("below", "beside")
    assert warnings(X, BELOW) == []
    assert warnings(X, BELOW + beside) == [
        "x: nothing owns its prior, so it is N(0, I) (default); write 'prior:' to choose another",
        "x: the prior is N(0, I) (default), so below gives up its own",
        "x: the prior is N(0, I) (default), so beside gives up its own",
    ]
    assert warnings(PRIOR, BELOW + ABOVE) == [
        "x: above.child owns the prior, so the one under 'prior:' is not used; remove one of them",
        "x: the prior is above.child, so below gives up its own",
    ]
    assert warnings(X, BELOW.replace("data: d", "data: d, trust: 0.5, cost: cubic in rows")) == [
        "below.given: its messages are raised to the power 0.5, so no log evidence is reported",
        "below: its cost is cubic in rows, not linear",
    ]
    assert warnings(X, BELOW.replace(", data: d", "")) == ["below: without data or a child port, it has nothing to say"]


def test_predictions_between_any_two_readings_are_warned_of():
    """silence_ms is put off by whoever speaks: only the fastest counts, and only where every rate is known."""

    def told(sensors, silence=""):
        text = f"serket: 1\nvariables:\n{X}modules:\n{BELOW}{BELOW.replace('below', 'slow').replace(': d}', ': s}')}"
        report = check(parse_graph(f"{text}stream:\n  {silence}sensors: {{{sensors}}}\n", "robot.yaml"))
        return [warning for warning in report.warnings if "silence_ms" in warning]

    slow, fast = "s: {expect_hz: [0.1, 1]}", "d: {expect_hz: [25, 35]}"
    assert told(slow) == told(f"{slow}, {fast}") == []
    (text,) = told(f"{slow}, d: {{expect_hz: [0.5, 1]}}", "silence_ms: 900\n  ")
    assert text.startswith("robot.yaml:8:15: silence_ms is 900, but no sensor is faster than d, 2000 ms from one")
    assert text.endswith("write silence_ms: 4000")
    assert told(f"{slow}, d: {{expect_hz: [0.5, 1]}}", "silence_ms: 4000\n  ") == []


def test_exact_needs_a_tree_exact_modules_full_trust_and_no_product():
    assert check(graph(X, BELOW)).exact
    assert not check(graph(X, BELOW.replace("data: d", "data: d, trust: 0.5"))).exact
    assert not check(
        graph(X.replace("1}", "1, combine: product}"), BELOW + ABOVE + ABOVE.replace("above", "over"))
    ).exact
    pair = X + X.replace("x", "y")
    loop = "".join(
        f"  {name}: {{type: test_owner, ports: {{given: {a}, child: {b}}}}}\n" for name, a, b in ["mxy", "nyx"]
    )
    report = check(graph(pair, loop))
    assert not report.tree and not report.exact
    assert report.warnings[-1].startswith("cycle through m, n, by way of x, y: ")


def test_a_modules_note_is_told_and_what_it_says_is_not_exact():
    report = check(graph(X, BELOW.replace("data: d", "data: d, note: it guesses")))
    assert report.warnings == ("below: it guesses",) and not report.exact
    assert traits(Owner({})).note == ""
