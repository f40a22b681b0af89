"""Many frames, one episode: against the unrolled product, value by value and as one dense Gaussian."""

import pytest
import torch

from serket.errors import GraphError
from serket.messages import Categorical, Family, Gaussian
from serket.modules import Broadcast, Pool
from serket.protocol import Evidence, Port, Role

SEQUENCE = torch.tensor([5, 5, 5, 5, 2, 9, 9])
GROUPS = [slice(0, 4), slice(4, 5), slice(5, 7)]
TYPES = {Pool: (Role.PARENT, Role.CHILD), Broadcast: (Role.CHILD, Role.PARENT)}
both = pytest.mark.parametrize("cls", TYPES)


def made(cls, family, size):
    above, below = TYPES[cls]
    return cls({"episode": Port(above, family, size), "frames": Port(below, family, size)})


def told(module, inbox):
    evidence = Evidence.none(7, sequence=SEQUENCE)
    return module.infer(inbox, evidence, generator=torch.Generator())


def gaussian(seed, full=True):
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(7, 2, 2, generator=g, dtype=torch.float64)
    info = torch.randn(7, 2, generator=g, dtype=torch.float64)
    return Gaussian(info, root @ root.mT + 0.1 * torch.eye(2)) if full else Gaussian(info, root[..., 0] ** 2 + 0.1)


@both
def test_categories_are_those_of_the_unrolled_table(cls):
    """Sum over s and all z of n(s) prod_t delta(z_t = s) m_t(z_t), by listing every value of everything."""
    g = torch.Generator().manual_seed(0)
    inbox = {name: Categorical(torch.randn(7, 3, generator=g, dtype=torch.float64)) for name in ("episode", "frames")}
    inbox["frames"].logits[1, 0] = -torch.inf
    inbox["frames"].logits[2] = 0
    reply = told(made(cls, Family.CATEGORICAL, 3), inbox)
    for group in GROUPS:
        heard = inbox["frames"].logits[group].exp()
        prior = inbox["episode"].logits[group][0].exp()
        count = len(heard)
        axes = torch.cartesian_prod(*[torch.arange(3)] * (count + 1)).reshape(-1, count + 1)  # s, z_1, ..., z_T
        axes = axes[(axes[:, 1:] == axes[:, :1]).all(1)]
        for row in range(count):
            weight, without = torch.ones(len(axes)).double(), torch.ones(len(axes)).double()
            for place in range(count):
                weight = weight * heard[place][axes[:, place + 1]]
                without = without * (heard[place][axes[:, place + 1]] if place != row else 1)
            episode = torch.stack([weight[axes[:, 0] == k].sum() for k in range(3)])
            frame = torch.stack([(without * prior[axes[:, 0]])[axes[:, row + 1] == k].sum() for k in range(3)])
            found = {name: one[group][slice(row, row + 1)].probs[0] for name, one in reply.messages.items()}
            torch.testing.assert_close(found["episode"], episode / episode.sum(), rtol=1e-12, atol=0)
            torch.testing.assert_close(found["frames"], frame / frame.sum(), rtol=1e-12, atol=0)
    assert reply.log_evidence is None and reply.bound == "none"


@both
@pytest.mark.parametrize("full", [True, False])
def test_gaussians_are_those_of_the_unrolled_one(cls, full):
    """Frames equal to s but for a noise of 1e-9, conditioned as one dense Gaussian over s and all frames."""
    inbox = {"episode": gaussian(0, full), "frames": gaussian(1, full)}
    reply = told(made(cls, Family.GAUSSIAN, 2), inbox)
    tie = 1e9
    for group in GROUPS:
        heard, prior = inbox["frames"][group].full(), inbox["episode"][group].full()
        count = len(heard.info)
        for row in range(count):
            precision = torch.zeros(count + 1, 2, count + 1, 2, dtype=torch.float64)
            info = torch.zeros(count + 1, 2, dtype=torch.float64)
            precision[0, :, 0] += prior.precision[0]
            info[0] += prior.info[0]
            for place in range(count):
                for a, b, sign in ((0, 0, 1), (place + 1, place + 1, 1), (0, place + 1, -1), (place + 1, 0, -1)):
                    precision[a, :, b] += sign * tie * torch.eye(2, dtype=torch.float64)
                if place != row:
                    precision[place + 1, :, place + 1] += heard.precision[place]
                    info[place + 1] += heard.info[place]
            covariance = torch.linalg.inv(precision.reshape(2 * count + 2, -1)).reshape(count + 1, 2, count + 1, 2)
            mean = torch.einsum("aibj,bj->ai", covariance, info)
            found = reply.messages["frames"][group].full()
            torch.testing.assert_close(found[row : row + 1].mean()[0], mean[row + 1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                found.precision[row].inverse(), covariance[row + 1, :, row + 1], rtol=1e-4, atol=1e-5
            )
            episode = reply.messages["episode"][group].full()
            torch.testing.assert_close(episode.precision[row], heard.precision.sum(0), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(episode.info[row], heard.info.sum(0), rtol=1e-12, atol=1e-12)


@both
def test_what_is_said_of_the_episode_counts_once(cls):
    """A sense of the episode stands on all of its rows; only the first is heard."""
    inbox = {"episode": gaussian(0), "frames": gaussian(1)}
    first = torch.tensor([True, False, False, False, True, True, False])
    once = told(made(cls, Family.GAUSSIAN, 2), {**inbox, "episode": inbox["episode"].mask(first)})
    often = told(made(cls, Family.GAUSSIAN, 2), inbox)
    for name in ("episode", "frames"):
        assert torch.equal(once.messages[name].info, often.messages[name].info)


@both
def test_a_dominant_frame_leaves_the_others_their_digits(cls):
    """Left out, not divided out: beside a precision of 1e20 the others keep all their digits."""
    frames = gaussian(1)
    frames.precision[0] *= 1e20
    reply = told(made(cls, Family.GAUSSIAN, 2), {"episode": gaussian(0), "frames": frames})
    expected = gaussian(0).precision[0] + gaussian(1).precision[1:4].sum(0)
    torch.testing.assert_close(reply.messages["frames"].precision[0], expected, rtol=1e-14, atol=0)


@both
def test_mixed_forms_and_no_rows(cls):
    module = made(cls, Family.GAUSSIAN, 2)
    for full in (True, False):
        reply = told(module, {"episode": gaussian(0, full), "frames": gaussian(1, not full)})
        other = told(module, {"episode": gaussian(0, full).full(), "frames": gaussian(1, not full).full()})
        for name in ("episode", "frames"):
            torch.testing.assert_close(reply.messages[name].full().precision, other.messages[name].precision)
    empty = {name: Gaussian.vacuous((0,), 2) for name in ("episode", "frames")}
    assert len(module.infer(empty, Evidence.none(0), generator=torch.Generator()).messages["frames"].info) == 0


@both
def test_ports_are_one_quantity(cls):
    with pytest.raises(GraphError, match="one quantity") as caught:
        cls({"episode": Port(Role.PARENT, Family.CATEGORICAL, 3), "frames": Port(Role.CHILD, Family.CATEGORICAL, 4)})
    assert "categorical(3)" in str(caught.value) and "categorical(4)" in str(caught.value)
