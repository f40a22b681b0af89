"""Expectation maximisation for a concept over many views: starts over all views together, then exact steps.

The log-likelihood of a row is log sum_k pi_k n_k prod_m s_mk^t_m with s_mk the integral of p(z_m | k) times the
message, n the concept's inbox and t_m the tempering. What climbs is its sum plus the log-priors, each
view's times t_m.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from serket.composer.clusters.emissions import Counts, Emission, Seen
from serket.errors import DataError, listed
from serket.messages import Categorical, Dirichlet, Gaussian, Message
from serket.messages.matching import matching, reference

__all__ = ["Look", "Rules", "Standing", "climb", "begun", "look_of", "predictive", "share_of", "starting"]

TOKENS = 20.0
"""Counts a row of an overdispersed view is worth in a start, where it stands in as multinomial."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a view's messages are in a fit.

    Args:
        seen: natural parameters, as its emission takes them.
        rough: the same with one precision for all rows: starts need no factor per row.
        present: ``(N,)``, rows that say something.
        features: ``(N, F)``, for k-means: centred, of total variance 1, zero where absent.
    """

    seen: Any
    rough: Any
    present: Tensor
    features: Tensor

    def __getitem__(self, rows: Tensor) -> Look:
        def part(seen: Any) -> Any:
            if isinstance(seen, Seen):
                shared = len(seen.precision) == 1
                return Seen(seen.info[rows], seen.precision if shared else seen.precision[rows])
            return seen[rows]

        return Look(part(self.seen), part(self.rough), self.present[rows], self.features[rows])


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds during a fit: ``(N, K)`` bias in nats, whether weights are learnt, their Dirichlet(1 + alpha)."""

    bias: Tensor
    owned: bool
    alpha: float
    exponents: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """Where a fit stands: one emission per view, and log-weights ``(K,)``."""

    emissions: tuple[Emission, ...]
    log_weights: Tensor

    def relabelled(self, order: Tensor) -> Standing:
        """Make component ``order[k]`` component k."""
        return Standing(tuple(one.relabelled(order) for one in self.emissions), self.log_weights[order])


def look_of(message: Message) -> Look:
    """Gather a view's messages: Gaussian ones in units of the pooled population, counts, or categories.

    Raises:
        DataError: counts below zero.
        MessageError: a row that excludes every category.
    """
    present = ~message.is_vacuous()
    if isinstance(message, Dirichlet):
        if bool((message.counts < 0).any()):
            rows = listed((message.counts < 0).any(1).nonzero().flatten().tolist())
            raise DataError("a view hears counts below zero", where=f"rows {rows}",
                            expected="counts, whole or not, from 0",
                            fix="check the counts; of messages send Dirichlet.clipped()")  # fmt: skip
        share = message.counts / message.counts.sum(1, keepdim=True).clamp_min(1e-300)
        return Look(message.counts, message.counts, present, _standard(share.sqrt(), present))  # Hellinger distance
    if isinstance(message, Categorical):
        return Look(message.logits, message.logits, present, _standard(message.probs, present))
    assert isinstance(message, Gaussian)
    guess = (message * Gaussian(torch.zeros_like(message.info), torch.ones_like(message.info))).mean()
    told = message.precision[present]
    shared = told.mean(0, keepdim=True) if len(told) else torch.zeros_like(message.precision[:1])
    pulled = shared * guess if shared.dim() == 2 else guess @ shared[0]
    rough = Seen(pulled + guess, shared)  # the same posterior means under N(0, I)
    alike = len(told) == 0 or bool((told == told[:1]).all())
    seen = rough if alike else Seen(message.info, message.precision)
    return Look(seen, rough, present, _standard(guess, present))


def share_of(
    standing: Standing, looks: Sequence[Any], present: Sequence[Tensor], rules: Rules
) -> tuple[Tensor, Tensor]:
    """Return responsibilities ``(N, K)`` and the log-likelihood of each row, tempered, ``(N,)``."""
    logits = rules.bias + standing.log_weights
    for emission, seen, here, exponent in zip(standing.emissions, looks, present, rules.exponents, strict=True):
        logits = logits + exponent * torch.where(here.unsqueeze(1), emission.score(seen), 0.0)
    return logits.softmax(1), logits.logsumexp(1)


def climb(
    standing: Standing,
    looks: Sequence[Look],
    rules: Rules,
    steps: int,
    *,
    rough: bool = False,
    told: Callable[[float], None] | None = None,
) -> tuple[Standing, float, list[float]]:
    """Take EM steps; return where they lead, what was climbed there, and the log-likelihood a row before each step."""
    seen, present = [one.rough if rough else one.seen for one in looks], [one.present for one in looks]
    curve: list[float] = []
    for _ in range(steps):
        share, likelihood = share_of(standing, seen, present, rules)
        curve.append(float(likelihood.mean()))
        if told:
            told(curve[-1])
        standing = _maximised(
            standing.emissions, share, seen, present, rules, [one.improve for one in standing.emissions]
        )
    height = float(share_of(standing, seen, present, rules)[1].sum())
    height += rules.alpha * float(standing.log_weights.sum()) if rules.owned else 0.0
    for emission, exponent in zip(standing.emissions, rules.exponents, strict=True):
        height += exponent * emission.log_prior()
    return standing, height, curve


def starting(
    blank: Sequence[Emission],
    looks: Sequence[Look],
    rules: Rules,
    generator: torch.Generator,
    *,
    components: int,
    starts: int,
    steps: int = 25,
) -> list[Tensor]:
    """Climb roughly from many starts; return the responsibilities they lead to, ``(N, K)`` each, the best first.

    In a start a Gaussian view has one precision for all rows, and an overdispersed one is multinomial, worth 20 counts
    a row: no row needs factors or gamma functions of its own.
    """
    features = torch.cat([look.features for look in looks], 1)
    standin, exponents = list(blank), list(rules.exponents)
    for m, emission in enumerate(blank):
        if isinstance(emission, Counts) and not emission.fixed:
            standin[m] = replace(emission, fixed=True)
            exponents[m] *= min(1.0, TOKENS / max(1e-300, float(looks[m].seen.sum(1)[looks[m].present].mean())))
    easy = replace(rules, exponents=tuple(exponents))
    found: list[tuple[float, Tensor]] = []
    for labels in _seeds(features, components, starts, generator):
        order = matching(labels.unsqueeze(0), reference(rules.bias.log_softmax(1), labels.unsqueeze(0)))[0]
        share = one_hot(order.argsort()[labels], components).to(features)
        standing = begun(standin, share, looks, easy, rough=True)
        standing, height, _ = climb(standing, looks, easy, steps, rough=True)
        share = share_of(standing, [one.rough for one in looks], [one.present for one in looks], easy)[0]
        if not any(bool((share.argmax(1) == other.argmax(1)).all()) for _, other in found):
            found.append((height, share))
    return [share for _, share in sorted(found, key=lambda one: -one[0])]


def predictive(standing: Standing, looks: Sequence[Look], rules: Rules) -> tuple[Tensor, Tensor]:
    """Return per view the mean of log p(view | the other views), the view itself untempered, nats; and its scale.

    log sum_k p(k | others, tempered) s_ak, over rows in which the view and another one speak: what tempering is chosen
    by, for the tempered likelihood of all always prefers less (DESIGN, 9.4). The scale is what a wrong concept
    costs, mean of max_k log s_ak - sum_k pi_k log s_ak: a view that overstates its evidence overstates its gains, too.
    """
    scores = [torch.where(one.present.unsqueeze(1), emission.score(one.rough), 0.0)
              for emission, one in zip(standing.emissions, looks, strict=True)]  # fmt: skip
    present = torch.stack([one.present for one in looks])
    total = rules.bias + standing.log_weights
    for exponent, score in zip(rules.exponents, scores, strict=True):
        total = total + exponent * score
    gains, scales = [], []
    for m, (exponent, score) in enumerate(zip(rules.exponents, scores, strict=True)):
        rows = present[m] & (present.sum(0) > 1)
        rest = (total - exponent * score)[rows].log_softmax(1)
        gains.append((rest + score[rows]).logsumexp(1).sum() / rows.sum().clamp_min(1))
        told = score[rows].amax(1) - score[rows] @ standing.log_weights.softmax(0)
        scales.append(told.sum() / rows.sum().clamp_min(1))
    return torch.stack(gains), torch.stack(scales)


def begun(
    emissions: Sequence[Emission], share: Tensor, looks: Sequence[Look], rules: Rules, *, rough: bool = False
) -> Standing:
    """Take an M-step from responsibilities alone."""
    seen, present = [one.rough if rough else one.seen for one in looks], [one.present for one in looks]
    return _maximised(emissions, share, seen, present, rules, [one.begin for one in emissions])


def _maximised(
    emissions: Sequence[Emission],
    share: Tensor,
    looks: Sequence[Any],
    present: Sequence[Tensor],
    rules: Rules,
    verbs: Sequence[Callable[[Any, Tensor], Emission]],
) -> Standing:
    parts = []
    for emission, verb, seen, here in zip(emissions, verbs, looks, present, strict=True):
        # a view of which no row speaks stays as it is: N(0, I), or even tables
        parts.append(verb(seen, torch.where(here.unsqueeze(1), share, 0.0)) if bool(here.any()) else emission)
    count = share.sum(0) + rules.alpha
    return Standing(tuple(parts), count.log().log_softmax(0) if rules.owned else torch.zeros_like(count))


def _seeds(features: Tensor, components: int, starts: int, generator: torch.Generator) -> Tensor:
    """Label rows by k-means from k-means++ (Arthur & Vassilvitskii 2007), ``(starts, N)``."""
    tiny = torch.finfo(features.dtype).tiny
    nearest = features.new_ones(starts, len(features))
    centres = features.new_zeros(starts, 0, features.shape[1])
    for component in range(components):
        seed = features[nearest.multinomial(1, generator=generator)]
        away = torch.cdist(seed, features).squeeze(1).square() + tiny
        nearest = torch.minimum(nearest, away) if component else away
        centres = torch.cat([centres, seed], 1)
    for _ in range(15):
        members = one_hot(_nearest(features, centres), components).to(features)
        counts = members.sum(1).unsqueeze(-1)
        centres = torch.where(counts > 0, members.mT @ features / counts.clamp_min(1), centres)
    return _nearest(features, centres)


def _nearest(features: Tensor, centres: Tensor) -> Tensor:
    return (centres.square().sum(-1).unsqueeze(1) - 2 * features @ centres.mT).argmin(-1)


def _standard(features: Tensor, present: Tensor) -> Tensor:
    """Centre, scale to a total variance of 1, and put zeros where nothing is known."""
    if not bool(present.any()):
        return torch.zeros_like(features)
    centred = features - features[present].mean(0)
    scale = centred[present].square().sum(1).mean().sqrt()
    return torch.where(present.unsqueeze(1), centred / scale.clamp_min(1e-12), 0.0)
