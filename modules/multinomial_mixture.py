"""A mixture over count vectors: one category per row, fitted by blocked Gibbs sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from serket.errors import GraphError, StateError
from serket.messages import Categorical, Family, Message
from serket.modules.count_mixture import CountMixture
from serket.modules.counts import coefficient, matched, profile_seeds, read_counts, tempered
from serket.modules.labels import matching, reference
from serket.modules.multinomial import (
    Heard,
    Prior,
    Profiles,
    answers,
    draw_profiles,
    heard_rows,
    label_logits,
    profile,
    revived,
    sweep,
    table_scores,
    word_scores,
)
from serket.modules.polya import TYPICAL, Bursts, log_rising
from serket.modules.polya import sweep as sweep_bursts
from serket.modules.sweeps import enough
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["MultinomialMixture"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]


@register("multinomial_mixture")
class MultinomialMixture:
    """p(words | category = k) = prod_v phi_kv^c_v, of counts c that are data, or come as a message at ``words``.

    phi_k ~ Dirichlet(prior, ..., prior), and, if the weights are its own, pi ~ Dirichlet(alpha, ..., alpha) (Nigam et
    al. 2000). Counts need not be whole: c_v is an exponent. Every variable at ``categories`` hangs on the category
    through a table that is learnt, p(y_j | category = k) = psi_jky with psi_jk ~ Dirichlet(1, ..., 1).

    The state is S label-aligned draws; ``infer`` averages over them and is deterministic:

    - to ``category``: log (1/S) sum_s p(counts_n | k) prod_j sum_y psi_jky m_j(y). The weights are not in it: they are
      ``own_prior``. A row of zeros, an empty document, says nothing, and so does a row without evidence.
    - to ``categories[j]``: the predictive table sum_k p(k | all but j) psi_jky.
    - to ``words``: p(pi) = sum_k p(k | all but the words) [pi = phi_k], projected onto the Dirichlet of the same mean
      and total variance.

    Args:
        ports: ``category`` (parent, K categories), ``words`` (child, V words) and ``categories`` (children).
        draws: S, kept draws.
        prior: pseudo-count per word.
        alpha: of the Dirichlet on the weights, per category.
        overdispersed: words are Dirichlet-multinomial given the category: once a word occurs it occurs again (Madsen et
            al. 2005). a_kv ~ Gamma(prior, r_k) takes the place of phi; counts that are not whole are drawn for exactly.
        tokens: read a row's counts as at most so many tokens: words come in bursts, and count for less than they are.
            Evidence is that of the counts as they are read: compare no two values of ``tokens`` by it.

    Raises:
        GraphError: an option is not positive.
    """

    ports: Mapping[str, Port] = {
        "category": Port(Role.PARENT, Family.CATEGORICAL),
        "words": Port(Role.CHILD, Family.DIRICHLET, optional=True),
        "categories": Port(Role.CHILD, Family.CATEGORICAL, many=True, optional=True),
    }
    exact = False

    def __init__(
        self,
        ports: Mapping[str, Port],
        draws: Count = 8,
        prior: Positive = 0.5,
        alpha: Positive = 1.0,
        tokens: Positive | None = None,
        overdispersed: bool = False,
    ) -> None:
        _positive(draws=draws, prior=prior, alpha=alpha, tokens=1.0 if tokens is None else tokens)
        self.ports = ports
        self.draws, self.prior, self.alpha, self.tokens = draws, prior, alpha, tokens
        self.overdispersed = overdispersed
        self.components = ports["category"].size or 0
        self.views = [name for name in ports if name.startswith("categories")]
        self._least = (4 if overdispersed else 2) * draws
        self.warm = {"sweeps": max(20, self._least)}
        self._kept: Profiles | None = None
        self._total = torch.ones(())

    @property
    def own_prior(self) -> Mapping[str, Message]:
        """The averaged weights, as a message on ``category``; uniform where the weights were given up."""
        if self._kept is None:
            return {"category": Categorical.vacuous((), self.components)}
        return {"category": Categorical(self._kept.log_weights.logsumexp(0).log_softmax(-1))}

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        sweeps: Count = 60,
        restarts: Count = 5,
        restart: bool = False,
    ) -> FitReport:
        """Draw parameters by blocked Gibbs, all chains at once, in float32.

        The first time, ``restarts`` chains start from k-means on square-root profiles and run half the sweeps, at first
        with a likelihood raised to a power that grows to one; the chain with the highest mean log-likelihood over the
        second quarter runs the other half, whose draws are kept. A refit continues from the last draw with one chain.
        Labels keep their identity, unless the inbox on ``category`` agrees with another naming better, by more than 0.1
        of its probability a row.

        Args:
            evidence: counts, if ``words`` is not bound; rows that say nothing are left out.
            inbox: log-bias on the category, once per row; messages on words and on categories below.
            generator: the only source of randomness.
            owned: if ``category`` is in it, weights are learnt; else the inbox alone says what is likely.
            progress: called after every tenth sweep.
            sweeps: at least twice ``draws``.
            restarts: chains of a first fit.
            restart: forget the present state and fit as if for the first time.

        Raises:
            GraphError: an option is out of range.
            DataError: fewer rows that say anything than categories, or counts that are negative or not finite.
            ShapeError: other words than at the fit that this one continues.
        """
        _positive(sweeps=sweeps, restarts=restarts)
        self.check_fit(sweeps=sweeps)
        warm = None if restart or self._kept is None else self._kept
        heard = self._hear(evidence, inbox, "category" in owned, warm)
        prior = Prior(self.prior, 1.0, self.alpha)
        if warm is None:
            labels = profile_seeds(profile(heard, [heard.counts.shape[-1]]), self.components, restarts, generator)
            flat = [torch.zeros(restarts, self.components, view.shape[-1]).to(view) for view in heard.views]
            profiles = draw_profiles(labels, flat, heard, prior, generator)
        else:
            profiles = warm[-1:].to(heard.bias)
            labels = self._logits(profiles, heard).argmax(-1)
        order = matching(labels, reference(heard.bias, labels))
        profiles, labels = profiles.relabel(order), order.argsort(-1).gather(-1, labels)

        burn = sweeps // 2
        begin = burn + burn // 2 if self.overdispersed else burn
        stride = (sweeps - begin) // self.draws
        bursts = Bursts.of(heard.counts) if self.overdispersed else None
        # At first a row weighs as if it held two tokens.
        cold = min(1.0, 2 / float(heard.counts.sum(-1).mean().clamp_min(2)))
        history: list[float] = []
        total = torch.zeros(len(labels)).to(heard.bias)
        kept: list[Profiles] = []
        drawn: list[Tensor] = []
        for step in range(1, sweeps + 1):
            power = 1.0 if warm else cold ** max(0.0, 1 - step / (burn // 2 + 1))
            if bursts and (warm or step > burn):
                profiles, latest, score = sweep_bursts(profiles, heard, bursts, prior, generator)
            else:
                profiles, latest, score = sweep(profiles, heard, prior, generator, power)
            if step <= burn // 2 and warm is None:
                profiles = revived(profiles, latest, heard, generator)
            history.append(float(score.max()) / len(heard.bias))
            total = total + score if burn // 2 < step <= burn else total
            if step == burn:
                best = total.argmax().reshape(1)
                profiles, labels = profiles[best], labels[best]
                if bursts and not warm:
                    profiles = replace(profiles, words=profiles.words + math.log(TYPICAL))
            if step > begin and (sweeps - step) % stride == 0:
                kept.append(profiles)
                drawn.append(latest)
            if progress and step % 10 == 0:
                progress(step, sweeps, f"log-likelihood {history[-1]:.3f} a row")
        every = torch.cat(drawn[-self.draws :])
        order = matching(every, reference(heard.bias, labels if warm else every[-1:]))
        self._kept = Profiles.cat(kept[-self.draws :]).relabel(order).without_opinion(heard.views)
        self._total = heard.counts.sum() / (heard.counts.sum(-1) > 0).sum().clamp_min(1)
        return FitReport(sweeps, history={"log_likelihood": history})

    def check_fit(self, *, sweeps: int, **_: Any) -> None:
        """Refuse too few sweeps; see :class:`serket.protocol.ChecksFit`."""
        enough(sweeps, self.draws, self._least)

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Average over the kept draws; see the class for the formulas. Deterministic.

        ``info["monte_carlo_error"]`` ``(rows,)`` is the standard error of ``log_evidence`` over the draws, nats.

        Raises:
            StateError: the module was never fitted.
            DataError: counts that are negative or not finite.
            ShapeError: other words than those fitted.
        """
        category = cast(Categorical, inbox["category"])
        kept = self._fitted(category.logits)
        asked = frozenset(self.ports) if ports is None else ports
        size = kept.words.shape[-1]
        counts = tempered(read_counts(evidence, inbox, "words", like=category.logits, size=size), self.tokens)
        words = self._word_scores(kept.words, counts)  # (S, rows, K)
        if "words" not in self.ports:
            words = words + coefficient(counts).unsqueeze(-1)
        parts = {"words": torch.where((counts == 0).all(-1, keepdim=True), 0.0, words)}
        parts |= table_scores(kept.tables, [inbox[name] for name in self.views], self.views)
        messages, log_evidence, error = answers(parts, dict(zip(self.views, kept.tables, strict=True)), category, asked)
        if "words" in asked:
            others = sum((part for name, part in parts.items() if name != "words"), torch.zeros_like(words))
            weights = (others + category.logits).movedim(0, 1).flatten(1).softmax(-1)  # (rows, S K)
            phi, total = self._parts(kept)
            square = phi.square().sum(-1)
            if total is not None:  # of a Dirichlet about phi
                square = (total * square + 1) / (total + 1)
            messages["words"] = matched(weights @ phi, weights @ square)
        info = {"monte_carlo_error": error}
        return Reply(messages, log_evidence=log_evidence, bound="estimate", info=info)

    def predict(self, inbox: Mapping[str, Message], *, generator: torch.Generator) -> CountMixture:
        """Return p(counts | beliefs about the category), for documents of the mean total: batch ``(rows,)``, event V.

        Raises:
            GraphError: a ``words`` port is bound, so there are no data to imagine.
        """
        if "words" in self.ports:
            raise GraphError(
                "a multinomial_mixture with a words port has no data to predict",
                fix="predict from the module below, or leave the port out and give the module data",
            )
        category = cast(Categorical, inbox["category"])
        kept = self._fitted(category.logits)
        mixing = category.log_probs().repeat(1, len(kept.words)) - math.log(len(kept.words))
        phi, total = self._parts(kept)
        return CountMixture(mixing, [phi], self._total.to(phi).reshape(1), None if total is None else [total])

    def relabel(self, port: str, order: Tensor) -> None:
        """Call the category that was ``order[k]`` by the name k in every draw, or in its table."""
        if self._kept is None:
            return
        if port in self.views:
            self._kept = self._kept.rename(self.views.index(port), order)
        else:
            self._kept = self._kept.relabel(order.to(self._kept.words.device).expand(len(self._kept.words), -1))

    def state(self) -> Mapping[str, Tensor]:
        """Return the draws and the mean total of a document; nothing before the first fit."""
        return {} if self._kept is None else {**self._kept.tensors(), "total": self._total}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back; raises StateError where a tensor is missing or of another shape."""
        if not state:
            self._kept = None
            return
        tables = [self.ports[name].size or 0 for name in self.views]
        kept = Profiles.load(state, "multinomial_mixture", (self.components, -1), (self.components,), tables)
        if "total" not in state:
            raise StateError("the state of a multinomial_mixture has no 'total'", expected="the mean total of a row")
        self._kept, self._total = kept, state["total"]

    def _fitted(self, like: Tensor) -> Profiles:
        """Return the state in the dtype and on the device of a tensor."""
        if self._kept is None:
            raise StateError(
                "a multinomial_mixture has to be fitted before it can infer", fix="call fit, or load a state"
            )
        return self._kept.to(like)

    def _parts(self, kept: Profiles) -> tuple[Tensor, Tensor | None]:
        """Word probabilities of every draw and category ``(S K, V)``, and the concentrations ``(S K,)`` about them."""
        words = kept.words.flatten(0, 1)
        return words.softmax(-1), words.logsumexp(-1).exp() if self.overdispersed else None

    def _word_scores(self, words: Tensor, counts: Tensor) -> Tensor:
        """Log-likelihood of counts ``(N, V)`` under each draw or chain, ``(C, N, K)``."""
        if not self.overdispersed:
            return word_scores(words, counts)
        bursts = Bursts.of(counts)
        return torch.cat([log_rising(one.exp().unsqueeze(0), bursts) for one in words])

    def _logits(self, profiles: Profiles, heard: Heard) -> Tensor:
        bare = replace(heard, counts=heard.counts[:, :0]), replace(profiles, words=profiles.words[..., :0])
        return label_logits(bare[1], bare[0]) + self._word_scores(profiles.words, heard.counts)

    def _hear(self, evidence: Evidence, inbox: Mapping[str, Message], owned: bool, warm: Profiles | None) -> Heard:
        """Gather what is known of the rows that say anything."""
        category = cast(Categorical, inbox["category"])
        like = torch.zeros((), device=category.device)
        counts = read_counts(evidence, inbox, "words", like=like, size=None if warm is None else warm.words.shape[-1])
        views = [inbox[name] for name in self.views]
        return heard_rows(tempered(counts, self.tokens), category, views, owned, "multinomial_mixture")


def _positive(**options: float) -> None:
    for name, value in options.items():
        if not value > 0:
            raise GraphError(
                f"'{name}' of a multinomial_mixture is out of range", expected="a number above zero", found=str(value)
            )
