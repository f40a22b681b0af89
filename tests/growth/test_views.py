"""One view learnt while the others stay: it climbs log p(its messages | theirs), to the top, and they keep their bits."""

import pytest
import torch

from serket.composer.factor_analysis import View, improve, regressed
from serket.errors import DataError, MessageError
from serket.messages import Family, Gaussian
from serket.protocol import Evidence, Extends, Port, Role
from serket.registry import lookup
from tests.composer.problems import draw, generator, messages_about, views_of, with_gaps

SIZES = (3, 2, 4)


def problem(seed, rows=300, full=False):
    g = generator(seed)
    planted = views_of(g, SIZES, 2, 1)
    _, z = draw(g, planted, rows)
    return planted, with_gaps(g, messages_about(g, z, full), 0.3)


def dense(view, others, message, told):
    """log p(message of one view | messages of the others), summed over rows: from one dense Gaussian over all z."""
    views, messages = [*others, view], [*told, message]
    total = torch.zeros((), dtype=torch.float64)
    loading, private = torch.cat([v.shared for v in views]), [v.private @ v.private.T + v.noise.diag() for v in views]
    prior = Gaussian.from_moments(torch.cat([v.mean for v in views]), loading @ loading.T + torch.block_diag(*private))
    for some, sign in ((messages, 1), (messages[:-1], -1)):
        some = [*some, *[m.mask(torch.zeros(len(m.info), dtype=torch.bool)) for m in messages[len(some) :]]]
        info = torch.cat([m.info for m in some], 1)
        precision = torch.stack(
            [torch.block_diag(*parts) for parts in zip(*(m.full().precision for m in some), strict=True)]
        )
        whole = prior.expand(len(info)) * Gaussian(info, precision)
        total = total + sign * whole.log_z().sum()
    return total


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_a_view_climbs_to_where_the_gradient_is_zero(full):
    planted, messages = problem(0, rows=60, full=full)
    others, told, message = planted[:2], messages[:2], messages[2]
    view = regressed(message, others, told, private=1, shrinkage=0.0)
    values = [float(dense(view, others, message, told))]
    for _ in range(3):
        view = improve([*others, view], [*told, message], 0.0, {2})[0][2]
        values.append(float(dense(view, others, message, told)))
    assert sorted(values) == values and values[-1] > values[0] + 1e-3
    for _ in range(3000):
        view = improve([*others, view], [*told, message], 0.0, {2})[0][2]
    parts = [part.clone().requires_grad_() for part in (view.mean, view.shared, view.private, view.noise.log())]
    dense(View(*parts[:3], parts[3].exp()), others, message, told).backward()
    free = view.noise > 1.01e-3  # the others are held at the floor
    assert bool(free.any()) and max(float(part.abs().max()) for part in (parts[1].grad, parts[3].grad[free])) < 0.02
    # Planted: the same away from the top is steep.
    off = [parts[0].detach(), (parts[1] + 0.1).detach().requires_grad_(), parts[2].detach(), parts[3].exp().detach()]
    dense(View(*off), others, message, told).backward()
    assert float(off[1].grad.abs().max()) > 1


def test_the_start_is_a_regression_on_what_the_others_tell():
    """With s and z told exactly it is ridge regression, and the planted loadings come back."""
    g = generator(3)
    planted = views_of(g, (4, 3), 2, 0)
    planted[0] = View(planted[0].mean, planted[0].shared, planted[0].private, torch.full((4,), 1e-8).double())
    s, z = draw(g, planted, 4000)
    sharp = [Gaussian(1e8 * one, torch.full_like(one, 1e8)) for one in z]
    view = regressed(sharp[1], planted[:1], sharp[:1], private=0, shrinkage=0.0)
    x = torch.cat([torch.ones_like(s[:, :1]), s], 1)
    truth = torch.linalg.lstsq(x, z[1]).solution.T
    torch.testing.assert_close(torch.cat([view.mean[:, None], view.shared], 1), truth, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(view.shared, planted[1].shared, rtol=0, atol=0.1)


def test_others_keep_their_bits_and_replies_without_the_view_too():
    _, messages = problem(1)
    ports = {"shared": Port(Role.PARENT, Family.GAUSSIAN, 2)}
    ports |= {f"views[{n}]": Port(Role.CHILD, Family.GAUSSIAN, size) for n, size in enumerate(SIZES)}
    kind = lookup("linear_gaussian", "composer")
    flat = Gaussian.vacuous((300,), 2, dtype=torch.float64)
    inbox = {"shared": flat, **{f"views[{n}]": message for n, message in enumerate(messages)}}
    two = {name: message for name, message in inbox.items() if name != "views[2]"}
    old, new = kind({n: ports[n] for n in two}, private=1), kind(ports, private=1)
    evidence, g = Evidence.none(300), generator(0)
    old.fit(evidence, two, generator=g)
    assert isinstance(new, Extends)
    new.load(old.state())
    with pytest.raises(MessageError, match=r"views\[2\] was never fitted"):
        new.infer(inbox, evidence, generator=g)
    new.fit_views(frozenset({"views[2]"}), evidence, inbox, generator=g)
    assert all(torch.equal(value, new.state()[name]) for name, value in old.state().items())
    silent = {**inbox, "views[2]": inbox["views[2]"].mask(torch.zeros(300, dtype=torch.bool))}
    one, other = old.infer(two, evidence, generator=g), new.infer(silent, evidence, generator=g)
    assert torch.equal(one.log_evidence, other.log_evidence)
    for name, message in one.messages.items():
        assert all(torch.equal(v, other.messages[name].tensors()[part]) for part, v in message.tensors().items()), name
    told = new.infer(inbox, evidence, generator=g).messages["shared"]
    speaks = ~messages[2].is_vacuous()
    assert torch.equal((told.precision != one.messages["shared"].precision).flatten(1).any(1), speaks)


def test_rows_in_which_a_view_is_alone_count_but_pairs_are_needed():
    planted, messages = problem(2)
    ports = {"shared": Port(Role.PARENT, Family.GAUSSIAN, 2)}
    ports |= {f"views[{n}]": Port(Role.CHILD, Family.GAUSSIAN, size) for n, size in enumerate(SIZES)}
    composer = lookup("linear_gaussian", "composer")(ports, private=1)
    parts = ("mean", "shared", "private", "noise")
    composer.load({f"views[{n}].{p}": getattr(planted[n], p) for n in (0, 1) for p in parts})
    alone = ~messages[0].is_vacuous() | ~messages[1].is_vacuous()
    inbox = {"shared": Gaussian.vacuous((300,), 2, dtype=torch.float64)}
    inbox |= {f"views[{n}]": message for n, message in enumerate(messages)}
    unpaired = {**inbox, "views[2]": messages[2].mask(~alone)}
    with pytest.raises(DataError, match=r"views\[2\] hangs together"):
        composer.fit_views(frozenset({"views[2]"}), Evidence.none(300), unpaired, generator=generator(0))
    composer.fit_views(frozenset({"views[2]"}), Evidence.none(300), inbox, generator=generator(0))
    told = composer.views["views[2]"]
    composer.load({f"views[{n}].{p}": getattr(planted[n], p) for n in (0, 1) for p in parts})
    paired = {**inbox, "views[2]": messages[2].mask(alone)}
    composer.fit_views(frozenset({"views[2]"}), Evidence.none(300), paired, generator=generator(0))
    assert not torch.equal(told.noise, composer.views["views[2]"].noise)
