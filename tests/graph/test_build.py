"""From a file to a graph: bindings, options, priors, and the way back to text."""

import importlib.resources
from pathlib import Path

import pytest
import torch

from serket.errors import GraphError, ShapeError
from serket.graph.build import load_graph, parse_graph, shipped
from serket.graph.schema import json_schema
from serket.graph.write import to_yaml
from serket.messages import Family
from serket.protocol import Port, Role
from serket.registry import register

HEAD = """\
serket: 1
variables:
  a: {family: gaussian, size: 2}
  b: {family: gaussian, size: 2}
  k: {family: categorical, size: 3}
modules:
"""
TWO = """\
serket: 1
variables:
  a: {family: gaussian, size: 2}
  b: {family: gaussian, size: 2}
modules:
  m: {type: test_views, ports: {given: [a, b]}}
"""


@register("test_views")
class Views:
    """Stand-in with every kind of port, and options whose names pydantic has of its own."""

    ports = {
        "given": Port(Role.PARENT, Family.GAUSSIAN, many=True),
        "pair": Port(Role.PARENT, Family.GAUSSIAN, size=2, optional=True),
        "component": Port(Role.CHILD, Family.CATEGORICAL, size=4, optional=True),
    }

    def __init__(self, ports, copy: int = 1, limit: float = float("inf"), shape: tuple[int, ...] = (1, 2)):
        self.ports, self.given = ports, (copy, limit, shape)


@register("test_instance")
class OnlyInstances:
    """Stand-in whose ports depend on its options."""

    def __init__(self, count: int, size: int = 2):
        if count < 1:
            raise GraphError("count is too small", expected="count >= 1", found=str(count))
        self.ports = {f"views[{i}]": Port(Role.PARENT, Family.GAUSSIAN, size) for i in range(count)}


@register("test_trust", kind="composer")
class OwnTrust:
    """Stand-in with an option called trust."""

    ports = {"shared": Port(Role.PARENT, Family.GAUSSIAN), "views": Port(Role.CHILD, Family.GAUSSIAN, many=True)}

    def __init__(self, ports, trust: float = 1.0):
        self.ports, self.trust = ports, trust


def entry(text, variables="a b"):
    kept = "".join(line + "\n" for line in HEAD.splitlines() if line[2:3] in variables.split() or ": {" not in line)
    return parse_graph(f"{kept}  m: {{{text}}}\n").nodes["m"]


@pytest.mark.parametrize("name", ["digits", "rain", "position"])
def test_a_graph_that_ships_reads_builds_and_reads_back(name):
    graph = load_graph(name)
    text = to_yaml(graph)
    again = parse_graph(text, f"{name}.yaml")
    assert again.nodes == graph.nodes
    assert (again.name, again.data, again.rounds, again.seed) == (name, graph.data, graph.rounds, graph.seed)
    assert to_yaml(again) == text
    assert graph.build().keys() == graph.nodes.keys()
    assert graph.source == importlib.resources.files("serket").joinpath("graphs", f"{name}.yaml").read_text()


def test_digits_is_the_graph_of_the_design():
    graph = load_graph("digits")
    assert graph.nodes["body"].bindings == {
        "shared": "shared", "views[0]": "z_pix", "views[1]": "z_fou", "views[2]": "z_kar"}  # fmt: skip
    assert graph.nodes["body"].ports["views[1]"] == Port(Role.CHILD, Family.GAUSSIAN, 32)
    assert graph.nodes["pix"].fit == {"epochs": 100, "batch": 128, "learning_rate": 1e-3}
    assert graph.nodes["fou"].fit == {} and graph.nodes["fou"].options["hidden"] == [256]
    assert graph.is_tree() and graph.owners("shared") == [("concepts", "observation")]


def test_priors_are_exact_in_float64_and_survive_writing():
    variables = load_graph("rain").variables
    assert torch.allclose(variables["rain"].prior.probs, torch.tensor([0.8, 0.2], dtype=torch.float64), rtol=1e-15)
    prior = "prior: {mean: [0.1, -3], covariance: [[0.3, 0.1], [0.1, 0.7]]}"
    text = to_yaml(
        parse_graph(TWO.replace("a: {family: gaussian, size: 2}", f"a: {{family: gaussian, size: 2, {prior}}}"))
    )
    assert "prior: {mean: [0.1, -3.0], covariance: [[0.3, 0.1], [0.1, 0.7]]}" in text
    assert to_yaml(parse_graph(text)) == text


@pytest.mark.parametrize(
    ("ports", "bindings", "trust"),
    [("given: a", {"given[0]": "a"}, {}),
     ("given: [a]", {"given[0]": "a"}, {}),
     ("given: {variable: a, trust: 0.5}", {"given[0]": "a"}, {"given[0]": 0.5}),
     ("pair: b, given: [{variable: a, trust: 1}]", {"given[0]": "a", "pair": "b"}, {"pair": 0.25})],
)  # fmt: skip
def test_a_binding_is_a_name_a_list_or_a_mapping(ports, bindings, trust):
    edge = ", trust: 0.25" if "pair" in ports else ""
    node = entry(f"type: test_views, ports: {{{ports}}}{edge}", " ".join(sorted(set(bindings.values()))))
    assert list(node.bindings.items()) == list(bindings.items())
    assert node.trust == trust


def test_options_are_typed_and_their_defaults_filled_in():
    node = entry("type: test_views, ports: {given: a}, shape: [3], limit: 2", "a")
    assert node.options == {"copy": 1, "limit": 2.0, "shape": (3,)}
    assert node.build().given == (1, 2.0, (3,))
    for wrong in ("copy: 1.0", "copy: '1'", "copy: true", "shape: 3", "limit: x"):
        with pytest.raises(GraphError, match="wrong value"):
            entry(f"type: test_views, ports: {{given: a}}, {wrong}", "a")


def test_a_default_that_yaml_cannot_hold_comes_back_on_reading():
    graph = parse_graph(to_yaml(parse_graph(TWO)))
    assert graph.nodes["m"].options["limit"] == float("inf")
    assert "limit" not in to_yaml(graph)


def test_a_trust_that_is_the_class_s_own_is_its_option():
    composers = "composers:\n  c: {type: test_trust, ports: {shared: a, views: b}, trust: 7}\n"
    node = parse_graph(TWO + composers).nodes["c"]
    assert node.trust == {} and node.build().trust == 7


def test_feedback_is_on_unless_the_run_or_the_entry_says_off():
    text = (
        HEAD.replace("  k: {family: categorical, size: 3}\n", "") + "  m: {type: test_views, ports: {given: [a, b]}}\n"
    )
    assert parse_graph(text).nodes["m"].feedback
    off = parse_graph(TWO + "run: {feedback: off}\n")
    assert not off.nodes["m"].feedback and not parse_graph(to_yaml(off)).nodes["m"].feedback
    assert parse_graph(TWO.replace("b]}}", "b]}, feedback: on}") + "run: {feedback: off}\n").nodes["m"].feedback


def test_a_size_that_does_not_fit_names_both_places():
    with pytest.raises(ShapeError) as caught:
        entry("type: test_views, ports: {given: a, component: k}", "a k")
    assert str(caught.value) == (
        "graph.yaml:6:54: m.component is bound to a variable of another size\n  expected: size 4\n"
        "  found: variable 'k' is categorical of size 3, declared at graph.yaml:4:3\n"
        "  fix: write size: 4 at graph.yaml:4:3, or bind another variable"
    )


def test_ports_that_only_instances_know_are_checked_too():
    assert list(entry("type: test_instance, count: 2, ports: {views: [a, b]}").ports) == ["views[0]", "views[1]"]
    for text, problem in {
        "count: 3, ports: {views: [a, b]}": "wrong length",
        "count: 1, ports: {views: [a, b]}": "wrong length",
        "count: 2, ports: {view: [a, b]}": "unknown port 'view'",
        "count: 2, ports: {}": "needs the port 'views'",
        "count: 2, size: 3, ports: {views: [a, b]}": "another size",
        "count: 0, ports: {views: [a, b]}": "modules.m: count is too small",
    }.items():
        with pytest.raises((GraphError, ShapeError), match=problem):
            entry(f"type: test_instance, {text}")


def test_two_child_ports_are_allowed_if_the_variable_says_so():
    text = "serket: 1\nvariables:\n  z: {family: gaussian, size: 1}\n"
    text += "  a: {family: gaussian, size: 1, combine: product}\nmodules:\n"
    for name in "mn":
        text += f"  {name}: {{type: linear_gaussian, ports: {{given: z, child: a}}, matrix: [[1]], noise: [[1]]}}\n"
    assert len(parse_graph(text).owners("a")) == 2
    with pytest.raises(GraphError, match="2 prior owners"):
        parse_graph(text.replace(", combine: product", ""))


def test_a_graph_comes_from_a_path_a_name_or_a_dict(tmp_path, monkeypatch):
    text = shipped()["rain"].read_text()
    (tmp_path / "rain.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    plain = {"serket": 1, "variables": {"x": {"family": "gaussian", "size": 1}},
             "modules": {"m": {"type": "test_views", "ports": {"given": ("x",)}, "data": "on"}}}  # fmt: skip
    assert load_graph("rain.yaml").nodes == load_graph(Path("rain.yaml")).nodes == load_graph("rain").nodes
    assert load_graph("rain.yaml").nodes["lawn"].where == "rain.yaml:7:3"
    graph = load_graph(plain)
    assert parse_graph(graph.source).nodes == graph.nodes
    with pytest.raises(GraphError) as caught:
        load_graph(plain | {"modules": {"m": {"type": "test_view"}}})
    assert caught.value.where == "graph.modules.m.type"


def test_a_graph_that_is_not_there_lists_those_that_ship(tmp_path):
    with pytest.raises(GraphError, match="there is no graph 'digit'") as caught:
        load_graph("digit")
    assert "digits" in caught.value.available and caught.value.fix == "did you mean 'digits'?"
    with pytest.raises(GraphError, match="cannot be read"):
        load_graph(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("# caf\xe9".encode("latin-1"))
    with pytest.raises(GraphError, match="UTF-8"):
        load_graph(tmp_path / "latin.yaml")


def test_the_schema_for_editors_knows_every_type_and_its_options():
    schema = json_schema()
    vae = schema["$defs"]["module_vae"]
    assert vae["additionalProperties"] is False and vae["properties"]["hidden"]["type"] == "array"
    assert schema["$defs"]["module_vae_fit"]["properties"]["epochs"]["default"] == 100
    assert schema["$defs"]["module_vae_ports"]["required"] == ["latent"]
    section = next(iter(schema["properties"]["composers"]["patternProperties"].values()))
    assert {"$ref": "#/$defs/composer_linear_gaussian"} in section["oneOf"]
    assert schema["additionalProperties"] is False
