"""Dirichlet-multinomials: words that come in bursts. Densities, and a Gibbs sweep that is exact for real counts too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from serket.modules.counts import countable
from serket.modules.gibbs import draw_labels
from serket.modules.multinomial import Heard, Prior, Profiles, draw_profiles, label_logits

__all__ = ["TYPICAL", "Bursts", "draw_concentration", "log_rising", "sweep"]

TYPICAL = 100.0
"""A priori, within an order of magnitude, the total concentration of a category: a document far longer is bursty."""


@dataclass(frozen=True, slots=True, eq=False)
class Bursts:
    """Counts, the same for all chains or each with its own, taken apart: c = m + f, m whole, 0 <= f < 1.

    Args:
        row: of each whole token, counted over all chains, ``(T,)``.
        word: of each.
        before: f plus the tokens before it in its cell.
        parts: rows, words and fractions of the cells with f > 0.
        totals: tokens of each row, ``(C, N)``.
    """

    row: Tensor
    word: Tensor
    before: Tensor
    parts: tuple[Tensor, Tensor, Tensor]
    totals: Tensor

    @classmethod
    def of(cls, counts: Tensor) -> Self:
        """Take counts ``(N, V)`` or ``(C, N, V)`` apart; raises DataError where there are too many."""
        counts = countable(counts)
        totals = counts.sum(-1) if counts.dim() > 2 else counts.sum(-1).unsqueeze(0)
        cells = counts.flatten(0, -2)
        row, word = cells.nonzero().unbind(1)
        value = cells[row, word]
        whole = value.floor()
        some = value > whole
        tokens = whole.long()
        first = (tokens.cumsum(0) - tokens).repeat_interleave(tokens)
        place = torch.arange(len(first), device=counts.device) - first
        before = (value - whole).repeat_interleave(tokens) + place
        parts = row[some], word[some], (value - whole)[some]
        return cls(row.repeat_interleave(tokens), word.repeat_interleave(tokens), before, parts, totals)


def log_rising(alpha: Tensor, bursts: Bursts) -> Tensor:
    """Log B(a_k + c_n) / B(a_k), nats, ``(C, N, K)``, under ``(C, K, V)``: the likelihood of c_n without coefficient.

    Gamma(a + f + m) / Gamma(a + f) is a product of m factors, one per whole token.
    """
    chains, rows = bursts.totals.shape
    by_word = alpha.mT  # (C, V, K)
    told = (by_word[bursts.row // rows, bursts.word] + bursts.before.unsqueeze(-1)).log()
    scores: Tensor = told.new_zeros(chains * rows, alpha.shape[-2]).index_add_(0, bursts.row, told)
    row, word, part = bursts.parts
    own = by_word[row // rows, word]
    scores.index_add_(0, row, (own + part.unsqueeze(-1)).lgamma() - own.lgamma())
    whole = alpha.sum(-1).unsqueeze(-2)
    scores = scores.reshape(chains, rows, -1)
    return scores + whole.lgamma() - (whole + bursts.totals.unsqueeze(-1)).lgamma()


def sweep(
    profiles: Profiles, heard: Heard, bursts: Bursts, prior: Prior, generator: torch.Generator
) -> tuple[Profiles, Tensor, Tensor]:
    """Draw k | a, pi, then a, pi | k, as :func:`serket.modules.multinomial.sweep` does; words hold log a."""
    bare = replace(heard, counts=heard.counts[..., :0])
    empty = replace(profiles, words=profiles.words[..., :0])
    logits = label_logits(empty, bare) + log_rising(profiles.words.exp(), bursts)
    labels = draw_labels(logits, generator)
    drawn = draw_profiles(labels, profiles.tables, bare, prior, generator)
    words = draw_concentration(profiles.words.exp(), labels, bursts, prior.words, generator).log()
    return replace(drawn, words=words), labels, logits.logsumexp(-1).sum(-1)


def draw_concentration(
    alpha: Tensor, labels: Tensor, bursts: Bursts, pseudo: float, generator: torch.Generator
) -> Tensor:
    """Draw a_kv | k, counts, ``(C, K, V)``, where a_kv ~ Gamma(pseudo, r_k) and r_k ~ Exp(TYPICAL / (V pseudo)).

    With auxiliary variables every factor of the likelihood becomes one of a gamma density in a:


    - Gamma(a + f + m) / Gamma(a + f) is a sum over t of a^t: each of the m whole tokens, after i others, is one of the
      t with probability a / (a + f + i) (the tables of Teh et al. 2006, appendix A);
    - Gamma(a + f) / Gamma(a) is a times the integral of u^(a + f - 1) (1 - u)^-f du, up to a constant;
    - Gamma(A) / Gamma(A + N) is the integral of u^(A - 1) (1 - u)^(N - 1) du, up to a constant.
    """
    chains, rows = bursts.totals.shape
    categories, words = alpha.shape[-2:]
    owner = (torch.arange(chains, device=labels.device).unsqueeze(-1) * categories + labels).flatten()  # (C N,)
    flat = alpha.reshape(-1)
    place = owner[bursts.row] * words + bursts.word
    own = flat[place]
    uniform = torch.rand(own.shape, generator=generator, dtype=own.dtype, device=own.device)
    tables = torch.zeros_like(flat).index_add_(0, place, (uniform * (own + bursts.before) < own).to(own))
    row, word, part = bursts.parts
    place = owner[row] * words + word
    tables.index_add_(0, place, torch.ones_like(part))
    gap = _minus_log_beta(flat[place] + part, 1 - part, generator)
    rates = torch.zeros_like(flat).index_add_(0, place, gap).view_as(alpha)
    total = alpha.sum(-1)
    told = bursts.totals.flatten() > 0
    gap = _minus_log_beta(total.flatten()[owner][told], bursts.totals.flatten()[told], generator)
    per_category = torch.zeros_like(total).flatten().index_add_(0, owner[told], gap).view_as(total)
    shape = torch.full_like(total, 1 + words * pseudo)
    rate = torch._standard_gamma(shape, generator=generator) / (TYPICAL / (words * pseudo) + total)
    drawn = _log_gamma(pseudo + tables.view_as(alpha), generator) - (rates + (per_category + rate).unsqueeze(-1)).log()
    return drawn.clamp(-80.0, 80.0).exp()


def _log_gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the log of a Gamma(shape, 1) variable, finite however small the shape."""
    uniform = torch.rand(shape.shape, generator=generator, dtype=shape.dtype, device=shape.device)
    uniform = uniform.clamp_min(torch.finfo(shape.dtype).tiny)
    return torch._standard_gamma(shape + 1, generator=generator).log() + uniform.log() / shape


def _minus_log_beta(a: Tensor, b: Tensor, generator: torch.Generator) -> Tensor:
    """Draw -log u for u ~ Beta(a, b)."""
    gap = _log_gamma(b, generator) - _log_gamma(a, generator)
    return torch.nn.functional.softplus(gap, threshold=80.0)
