"""Thin, odd and wrong input, for every composer of a shared latent and its views: finite replies, or an error with a fix.

New types come under these tests with their first case in ``tests/contract/cases.py``.
"""

from dataclasses import replace
from inspect import Parameter
from typing import Literal, get_args, get_origin

import pytest
import torch

from serket.engine import run
from serket.engine.exchange import check_reply
from serket.errors import GraphError, SerketError, ShapeError
from serket.graph import load_graph
from serket.messages import Gaussian
from serket.protocol import Evidence, Role, Trainable, extrinsic, traits
from serket.registry import class_ports, lookup, options_of, registered
from serket.testing.case import child, generator, parent
from tests.contract.cases import CASES

ROWS = 40
OURS = {n: cls for n, cls in registered("composer").items() if cls.__module__.startswith("serket.")}
TYPES = [n for n, cls in OURS.items() if {"shared", "views"} <= set(class_ports(cls) or ())]
every = pytest.mark.parametrize("type_", TYPES)


def test_the_composers_of_a_shared_latent_are_here():
    assert {"product", "linear_gaussian", "mixture_of_experts", "mixture_of_products"} <= set(TYPES)


def built(type_, sizes, shared=2):
    """A case of the type with views of these sizes; its options, but those that count views."""
    first = next(case for case in CASES if (case.kind, case.type) == ("composer", type_))
    ports = {"shared": parent(shared)} | {f"views[{m}]": child(size) for m, size in enumerate(sizes)}
    return replace(first, ports=ports, full=False)


def correlated(sizes, rows=ROWS, seed=0):
    """Float32 messages about latents that are linear in two shared numbers."""
    g = generator(seed)
    s = torch.randn(rows, 2, generator=g)
    found = {"shared": Gaussian.standard((rows,), 2)}
    for m, size in enumerate(sizes):
        z = s @ torch.randn(2, size, generator=g) + 0.3 * torch.randn(rows, size, generator=g) + 1
        precision = 4 + 4 * torch.rand(rows, size, generator=g)
        found[f"views[{m}]"] = Gaussian(precision * z, precision)
    return found


def masked(inbox, keep):
    """Make the rows of a view vacuous where its mask is false."""
    return inbox | {name: inbox[name].mask(rows) for name, rows in keep.items()}


def said(error):
    assert error.fix and error.found and (error.expected or error.available or error.where), str(error)


def answers(case, inbox):
    """Fit if it learns, then infer from all views, from one, and from none: everything finite, beliefs proper.

    Returns:
        The beliefs at ``shared`` from all views, or None if the fit refused with an error that says what to do.
    """
    rows = len(inbox["shared"].info)
    module, evidence = case.fresh(), Evidence.none(rows)
    if isinstance(module, Trainable):
        try:
            case.fit(module, evidence=evidence, inbox=inbox)
        except SerketError as error:
            said(error)
            return None
    beliefs = []
    for kept in (set(case.ports), {"shared", "views[0]"}, {"shared"}):
        heard = {n: m.mask(torch.full((rows,), n in kept)) if n != "shared" else m for n, m in inbox.items()}
        reply = module.infer(heard, evidence, generator=generator(0))
        check_reply(case.type, module, reply, frozenset(case.ports), rows)
        told = extrinsic(reply, heard, traits(module).own_prior)
        whole = told["shared"] * heard["shared"]
        assert bool(whole.is_proper().all()), (case.type, kept)
        for name, port in case.ports.items():
            if port.role == Role.CHILD:
                assert bool((told[name] * heard[name]).is_semidefinite().all()), (case.type, kept, name)
        beliefs.append(whole)
    assert bool(told["shared"].is_vacuous().all()), "nothing in, nothing out"
    return beliefs[0]


@every
def test_one_view(type_):
    case = built(type_, [2])
    assert answers(case, correlated([2])) is not None


@every
def test_two_views_with_the_same_data(type_):
    inbox = correlated([2, 2])
    inbox["views[1]"] = inbox["views[0]"]
    assert answers(built(type_, [2, 2]), inbox) is not None


@every
def test_a_view_with_a_single_row(type_):
    answers(built(type_, [2, 2]), masked(correlated([2, 2]), {"views[1]": torch.arange(ROWS) == 7}))


@every
def test_views_of_unequal_sizes(type_):
    """Mapped, or refused by the name of the view and the size it should have."""
    try:
        case = built(type_, [2, 5])
        case.fresh()
    except ShapeError as error:
        said(error)
        assert error.where == "views[1]" and "size 2" in error.expected and "linear_gaussian" in error.fix
        return
    assert answers(case, correlated([2, 5])) is not None


@every
@pytest.mark.parametrize("whole", [False, True], ids=["a dimension", "the whole view"])
def test_a_constant_latent(type_, whole):
    inbox = correlated([2, 2])
    told = inbox["views[1]"]
    still = torch.tensor([True, whole])
    precision = torch.where(still, 5.0, told.precision)
    inbox["views[1]"] = Gaussian(torch.where(still, 15.0, told.info), precision)
    assert answers(built(type_, [2, 2]), inbox) is not None


@every
def test_no_complete_row(type_):
    even = torch.arange(ROWS) % 2 == 0
    answers(built(type_, [2, 2]), masked(correlated([2, 2]), {"views[0]": even, "views[1]": ~even}))


@every
def test_no_row_at_all(type_):
    """Nothing to learn from is an error that says so; what needs no fit answers with the prior."""
    nobody = torch.zeros(ROWS, dtype=torch.bool)
    inbox = masked(correlated([2, 2]), {"views[0]": nobody, "views[1]": nobody})
    learns = hasattr(lookup(type_, "composer"), "fit")
    assert (answers(built(type_, [2, 2]), inbox) is None) == learns


@every
def test_huge_and_tiny_precisions(type_):
    """A view a million times surer than another: float32 in, no NaN out."""
    inbox = correlated([2, 2])
    inbox["views[0]"] = Gaussian(inbox["views[0]"].info * 1e3, inbox["views[0]"].precision * 1e3)
    inbox["views[1]"] = Gaussian(inbox["views[1]"].info * 1e-3, inbox["views[1]"].precision * 1e-3)
    assert answers(built(type_, [2, 2]), inbox) is not None


def graph(type_, **entry):
    """Two sensors under a composer, from a mapping as YAML would give it."""
    sensor = {"type": "linear_gaussian", "matrix": [[1, 0], [0, 1]], "noise": [[1.0, 0], [0, 1.0]]}
    return load_graph({
        "serket": 1,
        "variables": {name: {"family": "gaussian", "size": 2} for name in ("za", "zb", "s")},
        "modules": {name: {**sensor, "data": name, "ports": {"given": f"z{name}"}} for name in "ab"},
        "composers": {"body": {"type": type_, "ports": {"shared": "s", "views": ["za", "zb"]}, **entry}},
    })  # fmt: skip


def options(type_):
    """(section, name, parameter) of what YAML may set."""
    cls = lookup(type_, "composer")
    found = [("", name, p) for name, p in options_of(cls.__init__).items()]
    return found + [("fit", n, p) for n, p in (options_of(cls.fit) if hasattr(cls, "fit") else {}).items()]


def words(annotation):
    """The words an annotation allows, however deep."""
    if get_origin(annotation) is Literal:
        return [word for word in get_args(annotation) if isinstance(word, str)]
    return [word for part in get_args(annotation) for word in words(part)]


def written(section, name, value):
    return {section: {name: value}} if section else {name: value}


NAMED = [
    (t, section, name, words(p.annotation)) for t in TYPES for section, name, p in options(t) if words(p.annotation)
]
NUMBERS = [(t, section, name, p.default) for t in TYPES for section, name, p in options(t)
           if p.default is not Parameter.empty and type(p.default) in (int, float) and float(p.default).is_integer()]  # fmt: skip


@pytest.mark.parametrize(
    ("type_", "section", "name", "known"), NAMED, ids=lambda v: str(v) if isinstance(v, str) else ""
)
def test_an_unknown_word_is_refused_with_the_known_ones(type_, section, name, known):
    with pytest.raises(GraphError) as caught:
        graph(type_, **written(section, name, "nonsense"))
    for word in known:
        assert f"'{word}'" in str(caught.value) or f"{word}" in str(caught.value), (name, word)
    assert "nonsense" in str(caught.value) and caught.value.fix


@every
@pytest.mark.parametrize("section", ["", "fit"])
def test_an_unknown_option_is_refused(type_, section):
    with pytest.raises(GraphError) as caught:
        graph(type_, **written(section, "weihgt", 1))
    learns = hasattr(lookup(type_, "composer"), "fit")
    assert ("weihgt" if learns or not section else "unknown key 'fit'") in str(caught.value) and caught.value.fix


@pytest.mark.parametrize("type_", [t for t in TYPES if "losses" in options_of(lookup(t, "composer").__init__)])
def test_an_unknown_loss_is_refused_with_the_known_ones(type_):
    with pytest.raises(GraphError) as caught:
        graph(type_, losses={"nonsense": 1}).build()
    assert "nonsense" in str(caught.value) and len(caught.value.available) > 2 and caught.value.fix
    name = caught.value.available[0]
    one, other = (graph(type_, losses={name: weight}) for weight in (1, 1.0))
    assert one.nodes["body"].options == other.nodes["body"].options


@pytest.mark.parametrize(("type_", "section", "name", "value"), NUMBERS, ids=str)
def test_integers_and_floats_are_equal(type_, section, name, value):
    """An option that is 1.0 by default may be written 1; a whole number written 8.0 is 8, or refused in so many words."""
    node = graph(type_, **written(section, name, int(value))).nodes["body"]
    held = (node.fit if section else node.options)[name]
    assert held == value and type(held) is type(value)
    try:
        node = graph(type_, **written(section, name, float(value))).nodes["body"]
    except GraphError as error:
        assert name in str(error) and error.fix
    else:
        assert (node.fit if section else node.options)[name] == value


@every
def test_nan_in_an_absent_view_changes_no_bit(type_):
    """Law 3 through the engine: sensor b absent with NaN planted, with trash planted, and not there at all."""
    case = built(type_, [2, 2])
    one = graph(type_, **case.options)
    modules = one.build()
    if isinstance(modules["body"], Trainable):
        case.fit(modules["body"], evidence=Evidence.none(ROWS), inbox=correlated([2, 2]))
    values = torch.randn(6, 2, generator=generator(3))
    seen = torch.tensor([True, False] * 3)
    found = []
    for trash in (torch.nan, -1e30, 0.0):
        planted = torch.where(seen.unsqueeze(1), values, torch.full_like(values, trash))
        b = Evidence.of(planted, seen)
        result = run(one, modules, {"a": Evidence.of(values), "b": b}, on_no_convergence="ignore")
        found.append({name: result[name].tensors() for name in ("s", "za", "zb")})
    for other in found[1:]:
        for name, parts in found[0].items():
            assert all(torch.equal(parts[part], other[name][part]) for part in parts), name
    alone = run(one, modules, {"a": Evidence.of(values)[~seen]}, on_no_convergence="ignore")
    for name, parts in found[0].items():
        for part, numbers in alone[name].tensors().items():
            torch.testing.assert_close(parts[part][~seen], numbers, rtol=1e-5, atol=1e-5)
