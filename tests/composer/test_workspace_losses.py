"""The losses of a workspace against calculations by hand, row by row; who learns from which; and what peers trip over."""

import itertools
import math

import numpy as np
import pytest
import torch

from serket.composer.workspace.latent import LatentSpace
from serket.composer.workspace.losses import DEFAULT, Batch, losses_of, weights_of
from serket.composer.workspace.reading import Reading, Units, read
from serket.errors import GraphError
from serket.messages import Gaussian
from tests.composer.problems import generator, random

SIZES, SHARED, ROWS = (3, 2, 4), 2, 5
PAIRS = [(0, 1), (1, 2), (2, 0)]


class Linear:
    """A space without bends: e_m(o) = [mu, W] E_m, the mean of the views that are kept, d_m(s) = s D_m."""

    def token(self, weights, view, inputs):
        return inputs @ weights[f"into.{view}"]

    def gather(self, weights, tokens, strength, keep, memory=None):
        kept = keep.double() / keep.sum(1, keepdim=True).clamp_min(1)
        return torch.stack(
            [torch.where(keep[:, m : m + 1], kept[:, m : m + 1] * t, 0.0) for m, t in enumerate(tokens)]
        ).sum(0)

    def scatter(self, weights, state, view):
        return state @ weights[f"out.{view}"]


def units(size):
    return Units(torch.zeros(size).double(), torch.ones(size).double(), torch.tensor(1.0).double())


def readings(seed=0, present=None, rows=ROWS, sharp=False):
    g, found = generator(seed), []
    for m, size in enumerate(SIZES):
        precision = (1e12 if sharp else 2.0) * (0.2 + torch.rand(rows, size, generator=g, dtype=torch.float64))
        message = Gaussian(precision * random(g, rows, size), precision)
        found.append(read(message if present is None else message.mask(present[:, m]), units(size)))
    return found


def linear(seed=1):
    g = generator(seed)
    weights = {f"into.{m}": random(g, 2 * size, SHARED) for m, size in enumerate(SIZES)}
    weights |= {f"out.{m}": random(g, SHARED, size) for m, size in enumerate(SIZES)}
    return weights | {"rest": random(g, SHARED), "contrast": torch.tensor(0.7, dtype=torch.float64)}


PRESENT = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]]).bool()
KEEP = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 1, 1], [1, 1, 1], [1, 1, 0]]).bool()


def by_hand(weights, told, keep):
    """Every loss, in loops over rows, pairs and dimensions, from the messages' means x and shares W."""
    w = {name: value.numpy() for name, value in weights.items()}
    there = np.stack([one.present.numpy() for one in told], 1)
    means = [one.mean.numpy() for one in told]
    shares = [one.told.numpy() for one in told]

    def into(m, n):
        return np.concatenate([means[m][n], shares[m][n]]) @ w[f"into.{m}"]

    def error(m, n, guess):  # x = mu / W
        terms = [shares[m][n, d] * (means[m][n, d] / shares[m][n, d] - guess[d]) ** 2 for d in range(SIZES[m])]
        return sum(terms) / SIZES[m]

    def mean(groups):
        groups = [np.mean(values) for values in groups if values]
        return np.mean(groups)

    def unit(v):
        return (v - w["rest"]) / np.linalg.norm(v - w["rest"])

    rows = range(ROWS)
    found = {
        "demi_cycle": mean([[error(m, n, into(m, n) @ w[f"out.{m}"]) for n in rows if there[n, m]] for m in range(3)])
    }
    found["translation"] = mean(
        [[error(j, n, into(i, n) @ w[f"out.{j}"]) for n in rows if there[n, i] and there[n, j]] for i, j in PAIRS]
    )
    cycles = []
    for i, j in PAIRS:
        cycles.append([])
        for n in rows:
            if there[n, i]:
                across = into(i, n) @ w[f"out.{j}"]
                back = np.concatenate([across, np.ones(SIZES[j])]) @ w[f"into.{j}"]
                cycles[-1].append(error(i, n, back @ w[f"out.{i}"]))
    found["cycle"] = mean(cycles)
    contrasts = []
    for i, j in PAIRS:
        both = [n for n in rows if there[n, i] and there[n, j]]
        logits = math.exp(0.7) * np.array([[unit(into(i, a)) @ unit(into(j, b)) for b in both] for a in both])
        one = [np.log(np.exp(logits[k]).sum()) - logits[k, k] for k in range(len(both))]
        other = [np.log(np.exp(logits[:, k]).sum()) - logits[k, k] for k in range(len(both))]
        contrasts.append([(np.mean(one) + np.mean(other)) / 2])
    found["contrastive"] = mean(contrasts)
    fused = [[], [], []]
    for n in rows:
        kept = [m for m in range(3) if keep[n, m] and there[n, m]]
        if kept:
            state = np.mean([into(m, n) for m in kept], 0)
            for j in range(3):
                if there[n, j]:
                    fused[j].append(error(j, n, state @ w[f"out.{j}"]))
    found["fused"] = mean(fused)
    return found


@pytest.mark.parametrize("name", DEFAULT)
def test_every_loss_is_what_a_calculation_by_hand_gives(name):
    weights, told = linear(), readings(present=PRESENT)
    found = losses_of(Linear(), weights, Batch(told, PAIRS, KEEP), {name: 1.0})
    assert found.keys() == {name}
    assert math.isclose(float(found[name]), by_hand(weights, told, KEEP)[name], rel_tol=1e-12)
    together = losses_of(Linear(), weights, Batch(told, PAIRS, KEEP), DEFAULT)
    assert torch.equal(together[name], found[name]), "a loss is the same whatever others there are"


def test_errors_are_weighed_as_a_message_that_is_smoothed_weighs_them():
    """-2 log of the integral of N(z; guess, I) times the message, but for a constant; plain squares of sharp ones."""
    g = generator(3)
    for full in (False, True):
        root = random(g, ROWS, 3, 3)
        precision = root @ root.mT if full else root[..., 0] ** 2
        message = Gaussian((precision @ random(g, ROWS, 3, 1)).squeeze(-1) if full else precision * random(g, ROWS, 3),
                           precision)  # fmt: skip
        one, costs = read(message, units(3)), []
        for guess in (random(g, ROWS, 3), random(g, ROWS, 3)):
            around = Gaussian(guess, torch.ones_like(guess))
            costs.append(one.distance(guess) * 3 + 2 * ((message * around).log_z() - around.log_z()))
        torch.testing.assert_close(costs[0], costs[1], rtol=1e-9, atol=1e-9)
        exact = torch.linalg.solve(message.full().precision, message.info.unsqueeze(-1)).squeeze(-1)
        assert float(one.distance(exact).max()) < 1e-6, "nothing is lost where the message has its mean"
    sharp = readings(sharp=True)[0]
    torch.testing.assert_close(
        sharp.distance(torch.zeros_like(sharp.mean)), sharp.mean.square().mean(1), rtol=1e-9, atol=0
    )


def latent(told=None):
    space = LatentSpace(SIZES, SHARED, 4)
    like = torch.zeros((), dtype=torch.float64)
    weights = space.initial(like, generator(4)) | {"contrast": torch.tensor(0.7, dtype=torch.float64)}
    g = generator(5)  # decoders start at zero, and zero passes no gradient on
    weights = {n: v + 0.3 * torch.randn(v.shape, generator=g, dtype=v.dtype) for n, v in weights.items()}
    return space, {name: value.requires_grad_() for name, value in weights.items()}


def learners(name, pairs, keep, present=None):
    """The networks that a loss has a gradient in."""
    space, weights = latent()
    batch = Batch(readings(present=present), pairs, keep)
    value = losses_of(space, weights, batch, {name: 1.0})[name]
    grads = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    touched = {n for n, grad in zip(weights, grads, strict=True) if grad is not None and bool(grad.abs().max() > 0)}
    return {".".join(n.split(".")[:2]) for n in touched if n.startswith(("encoder", "decoder"))}


def test_gradients_flow_only_where_they_should():
    everyone = torch.ones(ROWS, 3, dtype=torch.bool)
    assert learners("translation", [(0, 1)], everyone) == {"encoder.0", "decoder.1"}
    assert learners("cycle", [(0, 1)], everyone) == {"encoder.0", "decoder.1", "encoder.1", "decoder.0"}
    assert learners("contrastive", [(0, 1)], everyone) == {"encoder.0", "encoder.1"}
    assert learners("demi_cycle", [], everyone) == {f"{net}.{m}" for net in ("encoder", "decoder") for m in range(3)}
    some = torch.tensor([True, False, True]).expand(ROWS, 3)
    decoders = {f"decoder.{m}" for m in range(3)}
    assert learners("fused", [], some) == {"encoder.0", "encoder.2"} | decoders
    # A view that no row has takes no part in anything.
    without = torch.tensor([True, True, False]).expand(ROWS, 3)
    for name, pairs in itertools.product(DEFAULT, (PAIRS, [(2, 1), (1, 0)])):
        assert not learners(name, pairs, everyone, without) & {"encoder.2"} or name == "cycle"
    assert learners("translation", [(0, 2)], everyone, without) == set(), "there is no pair to learn from"


@pytest.mark.parametrize("present", [
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]],  # no paired row
    [[1, 1, 1]] * 5,  # three domains, all paired
    [[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]],
    [[0, 0, 0]] * 5,
])  # fmt: skip
def test_a_step_may_lack_pairs_views_or_anything(present):
    space, weights = latent()
    present = torch.tensor(present).bool()
    found = losses_of(space, weights, Batch(readings(present=present), PAIRS, KEEP), DEFAULT)
    assert found.keys() == DEFAULT.keys() and all(bool(value.isfinite()) for value in found.values())
    paired = bool((present.sum(1) > 1).any())
    assert bool(found["translation"] > 0) == bool(found["contrastive"] > 0) == paired
    torch.stack(list(found.values())).sum().backward()
    assert all(bool(v.grad.isfinite().all()) for v in weights.values() if v.grad is not None)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_batch_of_any_size(rows):
    """One row is what it is in a batch: nothing broadcasts, nothing is squeezed. Batches of four and one differ."""
    space, weights = latent()
    told, keep = readings(rows=rows), torch.ones(rows, 3, dtype=torch.bool)
    whole = losses_of(space, weights, Batch(told, PAIRS, keep), DEFAULT)
    alone = [losses_of(space, weights, Batch([one[torch.tensor([n])] for one in told], PAIRS, keep[:1]), DEFAULT)
             for n in range(rows)]  # fmt: skip
    for name in DEFAULT.keys() - {"contrastive"}:
        torch.testing.assert_close(whole[name], torch.stack([one[name] for one in alone]).mean(), rtol=1e-12, atol=0)
    assert all(bool(one["contrastive"] == 0) for one in alone), "alone, a row is told from no other"


def test_a_view_that_is_left_out_changes_no_bit_whatever_it_holds():
    """Masking by weight is not masking: 0 times NaN is NaN."""
    space, weights = latent()
    told = readings()
    strength, keep = torch.ones(ROWS, 3).double(), KEEP.clone()
    tokens = [space.token(weights, m, one.inputs()) for m, one in enumerate(told)]
    planted = [torch.where(keep[:, m : m + 1], token, torch.nan) for m, token in enumerate(tokens)]
    noisy = torch.where(keep, strength, torch.nan)
    assert torch.equal(space.gather(weights, tokens, strength, keep), space.gather(weights, planted, noisy, keep))
    # And removed is the same as absent.
    fewer = LatentSpace(SIZES[:2], SHARED, 4)
    short = {n: v[:2] if n == "reliable" else v for n, v in weights.items()}
    gone = keep & torch.tensor([True, True, False])
    assert torch.equal(space.gather(weights, tokens, strength, gone),
                       fewer.gather(short, tokens[:2], strength[:, :2], keep[:, :2]))  # fmt: skip


def test_the_latent_state_is_a_weighted_mean_of_rest_and_views():
    space, weights = latent()
    g = generator(6)
    tokens, strength = [random(g, ROWS, SHARED) for _ in SIZES], torch.rand(ROWS, 3, generator=g, dtype=torch.float64)
    found = space.gather(weights, tokens, strength, KEEP)
    for n, d in itertools.product(range(ROWS), range(SHARED)):
        above, below = float(weights["rest"].detach()[d]), 1.0
        for m in range(3):
            if KEEP[n, m]:
                share = float(strength[n, m]) * math.log1p(math.exp(float(weights["reliable"].detach()[m, d])))
                above, below = above + share * float(tokens[m][n, d]), below + share
        assert math.isclose(float(found.detach()[n, d]), above / below, rel_tol=1e-12)


def test_weights_of_losses():
    assert weights_of(None) == DEFAULT
    assert weights_of({"translation": 1, "cycle": 2}) == weights_of({"translation": 1.0, "cycle": 2.0})
    assert weights_of({"translation": 1, "cycle": 0}) == {"translation": 1.0}
    for wrong in ({"cycles": 1.0}, {"translation": 1, "transaltion": 1.0}):
        with pytest.raises(GraphError) as caught:
            weights_of(wrong)
        assert all(name in str(caught.value) for name in DEFAULT) and caught.value.fix
    for wrong in ({"cycle": -1.0}, {"cycle": math.nan}, {"cycle": math.inf}, {"cycle": True}, {"cycle": 0}, {}):
        with pytest.raises(GraphError) as caught:
            weights_of(wrong)
        assert caught.value.fix


def test_a_view_in_which_nothing_is_told_reads_as_zeros():
    present = torch.tensor([True, False, True, False, True])
    for one in readings(present=present.unsqueeze(1).expand(ROWS, 3)):
        assert isinstance(one, Reading) and torch.equal(one.present, present)
        for part in (one.mean, one.told, one.best, one.strength):
            assert bool((part[~present] == 0).all()) and bool((part[present] != 0).all())
