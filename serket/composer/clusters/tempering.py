"""How far each view is believed: exponents on its likelihood, chosen by what the views say of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from serket.composer.clusters.emissions import Categories, Emission
from serket.composer.clusters.expectation import Look, Rules, begun, climb, predictive, starting

__all__ = ["tempered"]

NOTCH = 0.25
LEAST = 1e-3


def tempered(
    blank: Sequence[Emission], looks: Sequence[Look], rules: Rules, generator: torch.Generator, components: int
) -> tuple[float, ...]:
    """Lower one view's exponent at a time, by a fourth, as long as held-out rows are predicted better across views.

    15 % of the rows with two views or more are held out. The criterion is ``predictive``, each view's in units of its
    scale in the first fit: one that overstates its evidence does not drown the others. Candidates are fitted from the
    same starts. Categories are left as they are: one symbol is no excess of evidence. Where fewer than 20 rows
    can be held out, nothing is changed.
    """
    several = torch.stack([one.present for one in looks]).sum(0) > 1
    rows = torch.arange(len(several), device=several.device)
    pairs = rows[several]
    held = pairs[torch.randperm(len(pairs), generator=generator, device=pairs.device)[: len(pairs) * 15 // 100]]
    if len(held) < 20 or len(rows) - len(held) < components:
        return rules.exponents
    train = rows[~torch.isin(rows, held)]
    seed = generator.initial_seed()

    def worth(exponents: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        learn, judge = (replace(rules, bias=rules.bias[part], exponents=exponents) for part in (train, held))
        some = [look[train] for look in looks]
        stream = torch.Generator(device=generator.device).manual_seed(seed)
        share: Tensor = starting(blank, some, learn, stream, components=components, starts=3, steps=12)[0]
        standing = climb(begun(blank, share, some, learn, rough=True), some, learn, 3, rough=True)[0]
        return predictive(standing, [look[held] for look in looks], judge)

    exponents = rules.exponents
    first, scale = worth(exponents)
    scale, best = scale.clamp_min(1e-3), 0.0
    while True:
        lower = [tuple(e * NOTCH if m == at else e for m, e in enumerate(exponents)) for at, one in enumerate(blank)
                 if not isinstance(one, Categories) and exponents[at] * NOTCH >= LEAST]  # fmt: skip
        tried = [(float(((worth(one)[0] - first) / scale).sum()), one) for one in lower]
        if not tried or max(tried)[0] <= best:
            return exponents
        best, exponents = max(tried)
