"""One sweep of blocked Gibbs sampling over a mixture of multinomials, all chains at once.

Every parameter has a leading dimension C: chains while fitting, kept draws while inferring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from serket.errors import DataError, StateError
from serket.messages import Categorical, Message
from serket.modules.gibbs import draw_labels
from serket.modules.niw import draw_dirichlet

__all__ = [
    "Heard",
    "Prior",
    "Profiles",
    "answers",
    "draw_profiles",
    "draw_tables",
    "heard_rows",
    "label_logits",
    "profile",
    "revived",
    "sweep",
    "table_scores",
    "word_scores",
]


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What a fit knows of N rows, shared by all chains (a leading chain dimension is allowed).

    Args:
        bias: ``(N, K)``, log-probabilities of the categories, nats, from the rest of the graph: once per row.
        counts: ``(N, V)``, not negative; a row of zeros says nothing.
        views: per module below ``(N, Y_j)``, how likely its evidence is under each of its categories.
        owned: whether the weights are this model's to learn; if not, ``bias`` alone speaks about the category.
    """

    bias: Tensor
    counts: Tensor
    views: tuple[Tensor, ...] = ()
    owned: bool = True


@dataclass(frozen=True, slots=True)
class Prior:
    """Pseudo-counts of the Dirichlet priors: per word, per cell of a table, per category."""

    words: float = 1.0
    tables: float = 1.0
    weights: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """Parameters of C mixtures: log word probabilities ``(C, K, V)``, tables of logs ``(C, K, Y_j)``, ``(C, K)``."""

    words: Tensor
    tables: tuple[Tensor, ...]
    log_weights: Tensor

    def __getitem__(self, chains: slice | Tensor) -> Self:
        return self._map(lambda part: part[chains])

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Put chains, or draws, one after another."""
        tables = tuple(torch.cat(each) for each in zip(*(part.tables for part in parts), strict=True))
        words, weights = (torch.cat([getattr(part, name) for part in parts]) for name in ("words", "log_weights"))
        return cls(words, tables, weights)

    def relabel(self, order: Tensor) -> Self:
        """Make category ``order[c, k]`` of mixture c its category k; ``order`` is ``(C, K)``."""
        chain = torch.arange(len(order), device=order.device).unsqueeze(-1)
        return self._map(lambda part: part[chain, order])

    def rename(self, view: int, order: Tensor) -> Self:
        """Make category ``order[y]`` of a view its category y; ``order`` is ``(Y,)``."""
        tables = list(self.tables)
        tables[view] = tables[view][..., order.to(tables[view].device)]
        return replace(self, tables=tuple(tables))

    def without_opinion(self, views: Sequence[Tensor]) -> Self:
        """Make the tables of views that no row tells anything of uniform: draws from their prior would be opinions."""
        silent = [bool((view == view[..., :1]).all()) for view in views]
        flat = (torch.full_like(table, -math.log(table.shape[-1])) for table in self.tables)
        tables = zip(self.tables, flat, silent, strict=True)
        return replace(self, tables=tuple(none if quiet else told for told, none, quiet in tables))

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        tables = {f"table{index}": table for index, table in enumerate(self.tables)}
        return {"words": self.words, "log_weights": self.log_weights, **tables}

    @classmethod
    def load(
        cls,
        state: Mapping[str, Tensor],
        who: str,
        words: tuple[int, ...],
        weights: tuple[int, ...],
        tables: Sequence[int],
    ) -> Self:
        """Take parameters out of a state, after their leading dimension of these shapes; -1 is any size.

        Raises:
            StateError: one is missing, or of another shape.
        """
        shapes = {"words": words, "log_weights": weights}
        shapes |= {f"table{index}": (*weights, size) for index, size in enumerate(tables)}
        for name, shape in shapes.items():
            found = tuple(state[name].shape) if name in state else ()
            if len(found) != len(shape) + 1 or any(a not in (-1, b) for a, b in zip(shape, found[1:], strict=True)):
                expected = ", ".join("words" if size < 0 else str(size) for size in shape)
                raise StateError(
                    f"the state of a {who} has no fitting '{name}'",
                    expected=f"(draws, {expected})",
                    found=str(found) if name in state else "nothing",
                )
        return cls(state["words"], tuple(state[f"table{index}"] for index in range(len(tables))), state["log_weights"])

    def to(self, like: Tensor) -> Self:
        """Return the parameters in the dtype and on the device of a tensor."""
        return self._map(lambda part: part.to(like))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(change(self.words), tuple(change(part) for part in self.tables), change(self.log_weights))


def sweep(
    profiles: Profiles, heard: Heard, prior: Prior, generator: torch.Generator, power: float = 1.0
) -> tuple[Profiles, Tensor, Tensor]:
    """Draw k | theta, pi, then theta, pi | k.

    Args:
        profiles: where C chains stand.
        heard: what is known of the rows.
        prior: the hyper-parameters.
        generator: the source of randomness.
        power: exponent on the likelihood while labels are drawn; below 1 while a fit looks for its mode.

    Returns:
        The parameters, labels ``(C, N)`` and, ``(C,)``, the log-likelihood of theta and pi before the sweep.
    """
    logits = label_logits(profiles, heard, power)
    labels = draw_labels(logits, generator)
    profiles = draw_profiles(labels, profiles.tables, heard, prior, generator)
    return profiles, labels, logits.logsumexp(-1).sum(-1)


def label_logits(profiles: Profiles, heard: Heard, power: float = 1.0) -> Tensor:
    """Log p(k_n = k | ...) up to a constant, ``(C, N, K)``: bias + log pi_k + log p(counts and messages of n | k)."""
    scores = word_scores(profiles.words, heard.counts)
    for table, view in zip(profiles.tables, heard.views, strict=True):
        scores = scores + (view @ table.exp().mT).log()
    return power * scores + heard.bias + profiles.log_weights.unsqueeze(-2)


def word_scores(words: Tensor, counts: Tensor) -> Tensor:
    """sum_v c_nv log phi_kv, ``(C, N, K)``, of words ``(C, K, V)``; one product for all chains."""
    if counts.dim() > 2:
        return torch.matmul(counts, words.mT)
    scores: Tensor = (counts @ words.flatten(0, 1).mT).unflatten(-1, words.shape[:2]).movedim(-2, 0)
    return scores


def draw_profiles(
    labels: Tensor, tables: Sequence[Tensor], heard: Heard, prior: Prior, generator: torch.Generator
) -> Profiles:
    """Draw theta, pi given labels ``(C, N)``; weights that are not owned are uniform."""
    members = one_hot(labels, heard.bias.shape[-1]).to(heard.bias)
    words = draw_dirichlet(prior.words + members.mT @ heard.counts, generator)
    drawn = draw_tables(labels, members, tables, heard.views, prior.tables, generator)
    rows = members.sum(-2)
    return Profiles(words, drawn, draw_dirichlet(prior.weights + rows, generator) if heard.owned else 0 * rows)


def draw_tables(
    labels: Tensor,
    members: Tensor,
    tables: Sequence[Tensor],
    views: Sequence[Tensor],
    pseudo: float,
    generator: torch.Generator,
) -> tuple[Tensor, ...]:
    """Draw y_jn | k_n, its message and the tables, then the tables given k and y; silent rows have no y."""
    drawn = []
    chain = torch.arange(len(labels), device=labels.device).unsqueeze(-1)
    for table, view in zip(tables, views, strict=True):
        told = (view != view[..., :1]).any(-1).unsqueeze(-1)
        y = draw_labels(table[chain, labels] + view.log(), generator)
        drawn.append(draw_dirichlet(pseudo + members.mT @ (one_hot(y, view.shape[-1]) * told).to(members), generator))
    return tuple(drawn)


def revived(profiles: Profiles, labels: Tensor, heard: Heard, generator: torch.Generator) -> Profiles:
    """Split categories: one without rows moves half-way onto some row, with the weight of that row's own.

    The prior does not place an empty category near data in many dimensions. The move does not leave the posterior
    invariant, and so belongs to the beginning of a fit.
    """
    components = heard.bias.shape[-1]
    empty = one_hot(labels, components).sum(-2) < 2
    pick = torch.randint(heard.counts.shape[-2], empty.shape, generator=generator, device=labels.device)
    chain = torch.arange(len(labels), device=labels.device).unsqueeze(-1)
    split = profiles.relabel(labels[chain, pick])
    chosen = heard.counts[pick] + 0.01
    own = (split.words.exp() + chosen / chosen.sum(-1, keepdim=True)).log().log_softmax(-1)
    kept, moved = profiles._map(lambda part: part), replace(split, words=own)

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(empty if a.dim() == 2 else empty.unsqueeze(-1), b, a)

    return Profiles(
        choose(kept.words, moved.words),
        tuple(map(choose, kept.tables, moved.tables)),
        choose(kept.log_weights, moved.log_weights),
    )


def heard_rows(counts: Tensor, category: Categorical, views: Sequence[Message], owned: bool, who: str) -> Heard:
    """Keep the rows that say anything, and, if weights are learnt, those whose category others know.

    Raises:
        DataError: fewer rows say anything than there are categories.
    """
    told = (counts > 0).any(-1)
    for view in views:
        told = told | ~view.is_vacuous()
    if int(told.sum()) < category.size:
        raise DataError(
            f"too few rows to fit {'an' if who == 'mlda' else 'a'} {who}",
            expected=f"at least {category.size} rows that say anything, for as many categories",
            found=f"{int(told.sum())} of {len(told)}",
            fix="make the category variable smaller, or give more rows",
        )
    rows = told | (~category.is_vacuous() & owned)
    probs = tuple(cast(Categorical, view).probs.to(counts)[rows] for view in views)
    return Heard(category.log_probs().to(counts)[rows], counts[rows], probs, owned)


def profile(heard: Heard, sizes: Sequence[int]) -> Tensor:
    """Square-root profiles of the words of each sense and of categories, side by side."""
    tiny = torch.finfo(heard.counts.dtype).tiny
    senses = [part / part.sum(-1, keepdim=True).clamp_min(tiny) for part in heard.counts.split(list(sizes), -1)]
    return torch.cat([part.sqrt() for part in (*senses, *heard.views)], -1)


def table_scores(tables: Sequence[Tensor], views: Sequence[Message], names: Sequence[str]) -> dict[str, Tensor]:
    """Log sum_y psi_ky m(y), ``(S, N, K)``, by name; rows whose message is vacuous hear exactly its constant."""
    scores = {}
    for name, table, view in zip(names, tables, views, strict=True):
        logits = cast(Categorical, view).logits
        each = (logits[:, None] + table.unsqueeze(1)).logsumexp(-1)
        scores[name] = torch.where(view.is_vacuous().unsqueeze(-1), logits[:, :1], each)
    return scores


def answers(
    parts: Mapping[str, Tensor], tables: Mapping[str, Tensor], category: Categorical, asked: frozenset[str]
) -> tuple[dict[str, Message], Tensor, Tensor]:
    """Average what draws say of the category and of the categories below it.

    Args:
        parts: log-likelihoods of each neighbour per draw, row and category, ``(S, N, K)``.
        tables: log psi of those that are categories below, ``(S, K, Y)``.
        category: the inbox.
        asked: the ports to answer.

    Returns:
        The messages, the log-evidence ``(N,)``, and its standard error over the draws.
    """
    scores = torch.stack(list(parts.values())).sum(0)
    messages: dict[str, Message] = {}
    if "category" in asked:
        messages["category"] = Categorical(_log_mean(scores))
    for name in (name for name in tables if name in asked):
        others = sum((part for other, part in parts.items() if other != name), torch.zeros_like(scores))
        weights = (others + category.logits).movedim(0, 1).flatten(1).softmax(-1)  # (N, S K)
        messages[name] = Categorical((weights @ tables[name].flatten(0, 1).exp()).log())
    joint = (scores + category.logits).logsumexp(-1)
    log_evidence = _log_mean(joint)
    share = torch.where(log_evidence.isfinite(), joint - log_evidence, 0.0).exp()
    error = (share - 1).square().sum(0).sqrt() / max(1.0, math.sqrt(len(share) * (len(share) - 1)))
    return messages, log_evidence, error


def _log_mean(scores: Tensor) -> Tensor:
    return scores.logsumexp(0) - math.log(len(scores))
