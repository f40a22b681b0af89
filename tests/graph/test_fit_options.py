"""Options under ``fit:`` and ``refit:`` are refused when the graph is built, where they stand, whatever the type."""

import typing
from functools import partial

import pytest
import torch
from annotated_types import Ge, Gt

from serket.errors import GraphError, SerketError
from serket.graph.build import parse_graph
from serket.graph.write import dump
from serket.protocol import ChecksFit, Role
from serket.registry import options_of
from tests.contract.cases import CASES

LEARN = {case.type + case.kind: case for case in reversed(CASES) if hasattr(type(case.fresh()), "fit")}
OPEN = {name: case for name, case in LEARN.items() if options_of(type(case.fresh()).fit)}


def text(case, **sections):
    """A graph file with a case's module alone."""
    ports, variables = {}, {}
    for name, port in case.ports.items():
        stem, many, _ = name.partition("[")
        variables[variable := f"v{len(variables)}"] = {"family": str(port.family), "size": port.size}
        ports[stem] = [*ports.get(stem, []), variable] if many else variable
    entry = {"type": case.type, "ports": ports, **({"data": "x"} if case.data else {}), **case.options, **sections}
    below = {"below": {"type": "table", "ports": {"given": ["u"]}, "data": "y", "values": [[1.0]]}}
    variables["u"] = {"family": "categorical", "size": 1}
    modules = {"modules": below, "composers": {"m": entry}} if case.kind == "composer" else {"modules": {"m": entry}}
    return dump({"serket": 1, "variables": variables, **modules})


def refused(case, **sections):
    """The error, and the text from where it says that it is."""
    written = text(case, **sections)
    with pytest.raises(GraphError) as caught:
        parse_graph(written, "robot.yaml")
    _, line, column = caught.value.where.split(":")
    return caught.value, written.splitlines()[int(line) - 1][int(column) - 1 :]


@pytest.mark.parametrize("section", ["fit", "refit"])
@pytest.mark.parametrize("name", OPEN)
def test_an_option_that_is_unknown_or_of_another_type_is_refused_where_it_stands(name, section):
    case = OPEN[name]
    for option in (options := options_of(type(case.fresh()).fit)):
        error, there = refused(case, **{section: {f"{option}x": 1}})
        assert f"unknown key '{option}x'" in error.problem and there.startswith(f"{option}x")
        assert list(error.available) == list(options) and f"'{option}'" in error.fix
        error, there = refused(case, **{section: {option: "?"}})
        assert error.problem.endswith(f".m.{section}.{option}") and there.startswith("'?'") and error.expected


class Begun(Exception):
    """The fit has got to its first step: all options are taken."""


def corners(annotation):
    """Values at the edge of what a type takes."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Annotated:
        least = [mark for mark in annotation.__metadata__ if isinstance(mark, Ge | Gt)][0]
        low = least.ge if isinstance(least, Ge) else least.gt + 1e-3
        return [int(low) if annotation.__origin__ is int else float(low)]
    if annotation is bool:
        return [False, True]
    return [value for part in typing.get_args(annotation) for value in corners(part)]


EVERY = [
    pytest.param(case, id=str(case), marks=[] if case is OPEN[case.type + case.kind] else pytest.mark.stat)
    for case in CASES
    if case.type + case.kind in OPEN
]


@pytest.mark.parametrize("case", EVERY)
def test_what_a_fit_refuses_of_its_options_is_refused_before(case):
    """Every option at the edge of its type: either the graph is refused, or the fit begins."""

    def begun(*_):
        raise Begun

    defaults = {name: p.default for name, p in options_of(type(case.fresh()).fit).items()}
    owned = frozenset(name for name, port in case.ports.items() if port.role == Role.PARENT)
    for name, parameter in options_of(type(case.fresh()).fit).items():
        for value in corners(parameter.annotation):
            module, options = case.fresh(), {**case.fit_options, name: value}
            fit = partial(
                type(module).fit, evidence=case.evidence(100, 48), inbox=case.training_inbox(48), owned=owned, **options
            )
            try:
                if isinstance(module, ChecksFit):
                    module.check_fit(**{**defaults, **options})
            except GraphError as error:
                assert error.where.startswith("fit.") and error.fix
                with pytest.raises(GraphError):
                    fit(module, generator=torch.Generator().manual_seed(0))
                continue
            try:
                fit(module, progress=begun, generator=torch.Generator().manual_seed(0))
            except (Begun, SerketError) as error:
                assert not isinstance(error, GraphError), f"{name}: {value}: {error}"


WHOLE = """\
serket: 1
variables:
  z: {family: gaussian, size: 2}
  y: {family: gaussian, size: 2}
  s: {family: gaussian, size: 2}
  k: {family: categorical, size: 3}
modules:
  a: {type: vae, data: a, ports: {latent: z}}
  b: {type: vae, data: b, ports: {latent: y}}
  m: MODULE
composers:
  body: {type: TYPE, ports: {shared: s, views: [z, y]}, OPTIONS}
"""
GMM = "{type: gmm, ports: {component: k, observation: s}}"


@pytest.mark.parametrize(
    ("module", "kind", "options", "value", "told"),
    [
        ("{type: gmm, ports: {component: k, observation: s}, draws: 20, OPTIONS}", "product", "fit: {sweeps: 39}", "39",
         "modules.m: too few sweeps for the draws|sweeps >= 40, with draws: 20"),
        ("{type: gmm, ports: {component: k, observation: s}, draws: 101}", "product", "trust: 1", "{type: gmm",
         "modules.m: too few sweeps|sweeps >= 202"),
        ("{type: gmm, ports: {component: k, observation: s}, OPTIONS}", "product", "refit: {sweeps: 5}", "5}",
         "modules.m: too few sweeps|sweeps >= 16"),
        (GMM, "coordinated", "distance: cca, fit: {batch: 8, epochs: 9}", "9}",
         "composers.body: fit.epochs, fit.batch would have no effect|no fit.epochs, fit.batch with distance: cca"),
        (GMM, "coordinated", "fit: {shrinkage: 2}", "2}", "composers.body: fit.shrinkage would have no effect"),
        (GMM, "workspace", "fit: {detach: true}", "true}", "composers.body: fit.detach would have no effect|memory: false"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused_where_they_stand(module, kind, options, value, told):
    module, own = (module.replace("OPTIONS", options), "") if "OPTIONS" in module else (module, options)
    written = WHOLE.replace("MODULE", module).replace("TYPE", kind).replace(", OPTIONS", f", {own}" * bool(own))
    with pytest.raises(GraphError) as caught:
        parse_graph(written, "robot.yaml").build()
    _, line, column = caught.value.where.split(":")
    assert written.splitlines()[int(line) - 1][int(column) - 1 :].startswith((value, f"m: {value}"))
    assert [part for part in told.split("|") if part not in str(caught.value)] == [] and caught.value.fix


def test_rounds_of_a_mixture_of_bursts_have_sweeps_enough():
    """Its refits took 20 sweeps of the 32 it needs: refused in the first round, when all else was fitted."""
    case = next(case for case in CASES if case.type == "multinomial_mixture")
    module = type(case.fresh())(ports=case.ports, draws=8, overdispersed=True)
    module.check_fit(sweeps=module.warm["sweeps"])
    with pytest.raises(GraphError, match="too few sweeps"):
        module.check_fit(sweeps=31)
