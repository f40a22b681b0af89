"""What is fitted once the encoders stand: weights of the pool, decoders of what others say, and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from serket.composer.coordinated.closeness import Code
from serket.composer.coordinated.geometric_pool import pooled, potential, under_standard
from serket.composer.coordinated.soft_layers import SoftLayers
from serket.composer.coordinated.view import CoordinatedView, Reading
from serket.messages import Gaussian

__all__ = ["calibrated", "pool_weights", "refined", "residual_covariance"]

PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)
PSEUDO_ROWS = 5.0


def calibrated(
    views: Sequence[CoordinatedView], readings: Sequence[Reading], held: Tensor, generator: torch.Generator
) -> tuple[list[CoordinatedView], Tensor]:
    """Weigh the views, fit decoders to what some others say, and measure how far off they are on the rows held out.

    Args:
        views: with encoders that stand.
        readings: of the rows of the fit.
        held: ``(rows,)`` bool; if none is, the same rows do for both.
        generator: of the subsets of others that views are predicted from.

    Returns:
        The views, and the weights of the pool, ``(M,)``.
    """
    judge = held if bool(held.any()) else ~held
    codes = [potential(view.encode(one)) for view, one in zip(views, readings, strict=True)]
    equal = codes[0].info.new_full((len(views),), 1 / len(views))
    decoders = [view.decoder for view in _refined(views, codes, readings, equal, ~held, generator)]
    weights = pool_weights(decoders, [one[judge] for one in codes], [one.at(judge) for one in readings])
    views = _refined(views, codes, readings, weights, ~held, generator)
    cases = []
    for least in range(1, min(3, max(len(views) - 1, 1)) + 1):
        most = len(views) - 1 if least == 3 else least
        beliefs, others = _some_others(codes, readings, weights, least, most, generator)
        case = []
        for view, one, belief, count in zip(views, readings, beliefs, others, strict=True):
            rows = one.present & (count >= least)
            # Where no row will do: any with another view.
            rows = rows if int(rows.sum()) > 1 else one.present & (count > 0)
            rows = rows & judge if int((rows & judge).sum()) > 1 else rows
            case.append(residual_covariance(view.decoder, _at(belief, rows), one.mean[rows], one.variance[rows]))
        cases.append(case)
    done = []
    for view, *found in zip(views, *cases, strict=True):
        residual, carried = (torch.stack(one) for one in zip(*found, strict=True))
        done.append(replace(view, residual=residual, carried=carried))
    return done, weights


def _refined(
    views: Sequence[CoordinatedView],
    codes: Sequence[Gaussian],
    readings: Sequence[Reading],
    weights: Tensor,
    learn: Tensor,
    generator: torch.Generator,
) -> list[CoordinatedView]:
    """Fit every decoder to pools of some of the others, drawn twice."""
    drawn = [_some_others(codes, readings, weights, 1, len(views) - 1, generator) for _ in range(2)]
    found = []
    for m, (view, one) in enumerate(zip(views, readings, strict=True)):
        rows = one.present & (drawn[0][1][m] > 0) & learn
        beliefs = [_at(belief[m], rows) for belief, _ in drawn]
        found.append(replace(view, decoder=refined(view.decoder, beliefs, [one.mean[rows]] * 2)))
    return found


def _some_others(
    codes: Sequence[Gaussian],
    readings: Sequence[Reading],
    weights: Tensor,
    least: int,
    most: int,
    generator: torch.Generator,
) -> tuple[list[Code], list[Tensor]]:
    """Return, per view, the belief from ``least`` to ``most`` of the others (or all there are), drawn at random.

    Also returns how many others a row has, ``(rows,)`` each. Views are drawn by rank, the same for every target: one
    that is among them itself is replaced by the next. So the cost is linear in views. A single view is its own other.
    """
    present = torch.stack([one.present for one in readings], 1)
    if len(readings) == 1:
        return [under_standard(codes[0])], [present[:, 0].long()]
    keys = torch.rand(present.shape, generator=generator, dtype=weights.dtype, device=present.device)
    rank = torch.where(present, keys, 2.0).argsort(1).argsort(1)
    count = torch.randint(least, most + 1, present.shape[:1], generator=generator, device=present.device)
    chosen, one_more = (list((present & (rank < c.unsqueeze(1))).T) for c in (count, count + 1))
    without, _ = pooled(codes, one_more, weights)
    _, everything = pooled(codes, chosen, weights)
    beliefs = [under_standard(one.where(here, everything)) for one, here in zip(without, one_more, strict=True)]
    return beliefs, [present.sum(1) - one.present.long() for one in readings]


def refined(decoder: SoftLayers, beliefs: Sequence[Code], targets: Sequence[Tensor]) -> SoftLayers:
    """Add to a decoder the ridge regression of what it leaves, on what its outputs are linear in; penalty by LOO.

    The leave-one-out error of row n is e_n / (1 - H_nn), H = F (F'F + lambda I)^-1 F' (Allen 1974).

    Args:
        decoder: to start from.
        beliefs: of s, a list of batches.
        targets: z, as many ``(rows, D)``.
    """
    features = torch.cat([decoder.features(belief.mean, belief.variance) for belief in beliefs])
    left = torch.cat(list(targets)) - features @ decoder.weights.T - decoder.offset
    centre, level = features.mean(0), left.mean(0)
    features, left = features - centre, left - level
    values, basis = torch.linalg.eigh(features.T @ features)
    values, rotated = values.clamp_min(0.0), features @ basis
    pulled = rotated.T @ left

    def error(penalty: float) -> float:
        leverage = (rotated.square() / (values + penalty)).sum(-1, keepdim=True) + 1 / len(left)
        rest = left - rotated @ (pulled / (values + penalty).unsqueeze(-1))
        return float((rest / (1 - leverage).clamp_min(1e-6)).square().sum())

    penalty = min(PENALTIES, key=error)
    change = (basis @ (pulled / (values + penalty).unsqueeze(-1))).T
    return decoder.with_outputs(decoder.weights + change, decoder.offset + level - change @ centre)


def residual_covariance(decoder: SoftLayers, belief: Code, target: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Return R ``(D, D)`` and t in [0, 1], for which N(E z, t G V G' + R) is as wide as the errors, on average.

    R = S - t mean G V G' with S = mean (z - E z)(z - E z)', and t the largest for which R has no negative direction. In
    S correlations shrink as if five more rows had none, and a few rows count for a little less than they are.

    Args:
        decoder: of the view.
        belief: of s, in rows held out.
        target: mean of z, ``(rows, D)``.
        spread: variance of z, ``(rows, D)``.
    """
    value, slope = decoder.through(belief.mean, belief.variance, target.shape[1])
    rest, rows = target - value, len(target)
    second = rest.T @ rest / rows + spread.mean(0).diag()
    second = (second * rows + second.diagonal().diag() * PSEUDO_ROWS) / (rows + PSEUDO_ROWS) * (1 + 2 / rows)
    second = second + 1e-6 * second.diagonal().amax().clamp_min(1e-6) * torch.eye(len(second)).to(second)
    explained = torch.einsum("nik,nk,njk->ij", slope, belief.variance, slope) / rows
    root = torch.linalg.cholesky(second)
    half = torch.linalg.solve_triangular(root, explained, upper=False)
    relative = torch.linalg.solve_triangular(root, half.T, upper=False)
    carried = 0.999 / torch.linalg.eigvalsh(relative)[-1].clamp_min(0.999)
    return second - carried * explained, carried


def pool_weights(
    decoders: Sequence[SoftLayers], codes: Sequence[Gaussian], readings: Sequence[Reading], steps: int = 60
) -> Tensor:
    """Return weights ``(M,)`` that sum to 1, with which the pool of the others predicts each view best.

    Minimises the squared error per row and dimension, plus a penalty on log-weights that fades with the rows. Two
    views weigh alike: nothing but the two themselves could tell which of them is nearer to what they share.
    """
    views, rows, present = len(codes), len(readings[0].present), [one.present for one in readings]
    if views <= 2:
        return codes[0].info.new_full((views,), 1 / views)
    logits = codes[0].info.new_zeros(views).requires_grad_()
    descent = torch.optim.Adam([logits], lr=0.1)
    paired = torch.stack(present).sum(0) > 1
    for _ in range(steps):
        beliefs, _ = pooled(codes, present, logits.softmax(0))
        loss = logits.square().sum() / rows
        for decoder, one, message in zip(decoders, readings, beliefs, strict=True):
            told = one.present & paired
            belief = under_standard(message[told])
            guess = decoder.features(belief.mean, belief.variance) @ decoder.weights.T + decoder.offset
            loss = loss + (one.mean[told] - guess).square().mean(1).sum() / rows
        descent.zero_grad()
        torch.autograd.backward(loss)
        descent.step()
    return logits.detach().softmax(0)


def _at(code: Code, rows: Tensor) -> Code:
    return Code(code.mean[rows], code.variance[rows])
