"""Multimodal latent Dirichlet allocation with a category per row: its parameters, and one sweep over all chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from serket.modules.counts import countable
from serket.modules.gibbs import draw_labels
from serket.modules.multinomial import Heard, Profiles, draw_tables
from serket.modules.niw import draw_dirichlet

__all__ = [
    "Corpus",
    "Prior",
    "Standing",
    "bases",
    "category_scores",
    "draw_phi",
    "drawn_start",
    "own_start",
    "relabelled",
    "sweep",
]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Prior:
    """Pseudo-counts: per word, topic of a row, category's own topic on top, cell of a table, weight."""

    words: float = 0.1
    topics: float = 0.1
    strength: float = 5.0
    tables: float = 1.0
    weights: float = 1.0


@dataclass(frozen=True, slots=True)
class Corpus:
    """Tokens of C chains, row by row: a cell of count 2.5 is two whole tokens and one of weight one half.

    Args:
        start: ``(C N + 1,)``, where the tokens of each row begin.
        word: ``(T,)``.
        size: ``(T,)``, weights in (0, 1].
        block: ``(V,)``, the sense of each word; the words of a sense are neighbours.
        rows: N, rows of a chain.
    """

    start: Array
    word: Array
    size: Array
    block: Array
    rows: int

    @classmethod
    def of(cls, counts: Tensor, sizes: Sequence[int], chains: int = 1) -> Self:
        """Cut counts ``(N, V)``, the same for all chains, into tokens; ``sizes`` are the widths of the senses."""
        cells = countable(counts).cpu().numpy().astype(np.float64)
        row, word = np.nonzero(cells)
        count = cells[row, word]
        tokens = np.ceil(count).astype(np.int64)
        last = np.cumsum(tokens) - 1
        size = np.ones(int(tokens.sum()))
        size[last] = count - (tokens - 1)
        per_row = np.bincount(row, tokens, minlength=len(cells)).astype(np.int64)
        start = np.concatenate([[0], np.cumsum(np.tile(per_row, chains))])
        word = np.tile(np.repeat(word, tokens), chains).astype(np.int32)
        return cls(
            start, word, np.tile(size, chains), np.repeat(np.arange(len(sizes)), sizes).astype(np.int32), len(cells)
        )

    def __getitem__(self, chain: int) -> Self:
        """Select one chain."""
        start = self.start[chain * self.rows : (chain + 1) * self.rows + 1]
        tokens = slice(start[0], start[-1])
        return replace(self, start=start - start[0], word=self.word[tokens], size=self.size[tokens])

    @property
    def owner(self) -> Array:
        """The row of each token, counted over all chains, ``(T,)``."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """Where C chains stand: topics ``(T,)``, categories ``(C, N)``, log tables ``(C, K, Y_j)``, weights ``(C, K)``."""

    topics: Array
    labels: Tensor
    tables: tuple[Tensor, ...]
    log_weights: Tensor

    def chain(self, c: int, corpus: Corpus) -> Self:
        """Select one chain."""
        tokens = slice(corpus.start[c * corpus.rows], corpus.start[(c + 1) * corpus.rows])
        one, tables = slice(c, c + 1), tuple(table[c : c + 1] for table in self.tables)
        return type(self)(self.topics[tokens].copy(), self.labels[one], tables, self.log_weights[one])


def bases(categories: int, topics: int, prior: Prior) -> Tensor:
    """Parameters of theta_n given a category, ``(K, Z)``: alpha for every topic, and more for the category's own."""
    return prior.topics + prior.strength * torch.eye(categories, topics, dtype=torch.float64)


def sweep(
    corpus: Corpus,
    standing: Standing,
    heard: Heard,
    count: int,
    prior: Prior,
    generator: torch.Generator,
    scored: bool = True,
) -> tuple[Standing, Tensor, Tensor]:
    """Draw topics | categories with theta, phi summed out; categories | topics; tables and weights | categories.

    Args:
        corpus: the tokens.
        standing: where the chains stand; it is not changed.
        heard: the rest: a bias per row, messages from categories below. Its counts are not read.
        count: Z.
        prior: the hyper-parameters.
        generator: the source of randomness.
        scored: whether the words are in the last result.

    Returns:
        Where they stand now, the parameters of phi given topics, ``(C, V, Z)``, and, ``(C,)``, the log-probability of
        words and topics, with theta and phi summed out and so without their constants.
    """
    from serket.modules.tokens import sweep_topics, tally_topics

    chains, rows = standing.labels.shape
    topics = standing.topics.copy()
    base = bases(heard.bias.shape[-1], count, prior)
    by_row = base[standing.labels.cpu()].flatten(0, 1).numpy()
    by_word = np.full((chains, len(corpus.block), count), prior.words)
    tally_topics(corpus.start, corpus.word, corpus.size, topics, by_row, by_word, rows)
    edges = np.flatnonzero(np.diff(corpus.block, prepend=-1))
    by_block = np.add.reduceat(by_word, edges, axis=1)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    sweep_topics(corpus.start, corpus.word, corpus.size, corpus.block, topics, by_row, by_word, by_block, rows, seed)
    tokens = torch.from_numpy(by_row).reshape(chains, rows, count) - base[standing.labels.cpu()]
    tokens = tokens.clamp_min(0.0).to(heard.bias)  # no token left: rounding alone
    logits = category_scores(tokens, heard, standing.tables, prior) + standing.log_weights.unsqueeze(-2)
    labels = draw_labels(logits, generator)
    members = one_hot(labels, logits.shape[-1]).to(heard.bias)
    tables = draw_tables(labels, members, standing.tables, heard.views, prior.tables, generator)
    held = members.sum(-2)
    log_weights = draw_dirichlet(prior.weights + held, generator) if heard.owned else torch.zeros_like(held)
    score = logits.logsumexp(-1).sum(-1)
    if scored:
        words = torch.from_numpy(by_word).lgamma().sum((1, 2)) - torch.from_numpy(by_block).lgamma().sum((1, 2))
        score = score + words.to(score)
    return Standing(topics, labels, tables, log_weights), torch.from_numpy(by_word).to(heard.bias), score


def category_scores(tokens: Tensor, heard: Heard, tables: Sequence[Tensor], prior: Prior) -> Tensor:
    """Log p(k_n = k | topics, messages) but for the weights, ``(C, N, K)``; theta is summed out.

    Of prod_z Gamma(base_kz + n_z) / Gamma(base_kz) only the category's own topic differs from one category to the next.
    """
    own = tokens[..., : heard.bias.shape[-1]]
    high, low = prior.topics + prior.strength, prior.topics
    ends = torch.tensor([low, high], dtype=own.dtype, device=own.device).lgamma()
    scores = (high + own).lgamma() - (low + own).lgamma() + (ends[0] - ends[1]) + heard.bias
    for table, view in zip(tables, heard.views, strict=True):
        scores = scores + (view @ table.exp().mT).log()
    return scores


def draw_phi(by_word: Tensor, block: Array, generator: torch.Generator) -> Tensor:
    """Draw log phi, a distribution over the words of each sense, from their Dirichlets ``(C, V, Z)``: ``(C, Z, V)``."""
    widths = np.bincount(block).tolist()
    parts = [draw_dirichlet(part, generator) for part in by_word.mT.split(widths, -1)]
    return torch.cat(parts, -1) if parts else by_word.mT


def drawn_start(corpus: Corpus, labels: Tensor, log_phi: Tensor, prior: Prior, generator: torch.Generator) -> Array:
    """Draw topics to start from, one token after another given phi ``(C, Z, V)`` and categories ``(C, N)``."""
    from serket.modules.tokens import draw_topics

    count = log_phi.shape[-2]
    base = bases(count, count, prior)
    topics = np.zeros(len(corpus.word), dtype=np.int32)
    phi = np.ascontiguousarray(log_phi.exp().mT.cpu().numpy().astype(np.float64))
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    by_row = base[labels.cpu()].flatten(0, 1).numpy()
    draw_topics(corpus.start, corpus.word, corpus.size, topics, by_row, phi, corpus.rows, seed)
    return topics


def own_start(corpus: Corpus, labels: Tensor, categories: int, count: int, generator: torch.Generator) -> Array:
    """Give every token the topic of its row's category, or, where there are topics of no category, one of those."""
    topics: Array = labels.cpu().numpy().reshape(-1)[corpus.owner].astype(np.int32)
    if count > categories:
        spare = torch.randint(categories, count, topics.shape, generator=generator, device=generator.device)
        away = torch.rand(topics.shape, generator=generator, device=generator.device) < 0.5
        return np.where(away.cpu().numpy(), spare.cpu().numpy(), topics).astype(np.int32)
    return topics


def relabelled(profiles: Profiles, order: Tensor) -> Profiles:
    """Make category ``order[c, k]`` and its own topic k; topics of no category keep their places."""
    named = Profiles(profiles.log_weights, profiles.tables, profiles.log_weights).relabel(order)
    spare = torch.arange(order.shape[-1], profiles.words.shape[-2], device=order.device).expand(len(order), -1)
    place = torch.cat([order, spare], 1).unsqueeze(-1).expand(-1, -1, profiles.words.shape[-1])
    return replace(named, words=profiles.words.gather(1, place))
