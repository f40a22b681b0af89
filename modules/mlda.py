"""Multimodal latent Dirichlet allocation, with a category per row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from serket.errors import GraphError, ShapeError, StateError
from serket.messages import Categorical, Family, Message
from serket.modules.count_mixture import CountMixture
from serket.modules.counts import coefficient, matched, profile_seeds, read_counts, tempered
from serket.modules.labels import matching, reference
from serket.modules.lda import Corpus, Prior, Standing, bases, draw_phi, drawn_start, own_start, relabelled, sweep
from serket.modules.multinomial import Heard, Profiles, answers, heard_rows, label_logits, profile, table_scores
from serket.modules.sweeps import enough
from serket.modules.theta import integrate
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["MLDA"]

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]


@register("mlda")
class MLDA:
    """Words of several senses from topics of the row; the row's category says which topic it is likely to be about.

    category_n ~ pi, theta_n | category = k ~ Dirichlet(alpha + strength [z = k]), every token of sense m has a topic
    z ~ theta_n and is a word w ~ phi^m_z, phi^m_z ~ Dirichlet(prior, ..., prior) (Nakamura, Nagai & Iwahashi 2009, with
    a category on top). Topics beyond the number of categories are nobody's own: what all rows share. A fractional count
    is a token of that weight. Every variable at ``categories`` hangs on the category through a table that is learnt.
    The inbox on ``category`` acts once per row, on the category.

    The state is S label-aligned draws of phi, tables and weights; ``infer`` averages over them and is deterministic:

    - to ``category``: log (1/S) sum_s p(counts_n | k) prod_j sum_y psi_jky m_j(y), theta summed out by importance
      sampling with fixed points (:mod:`serket.modules.theta`). The weights are not in it: they are ``own_prior``.
    - to ``categories[j]``: the predictive table sum_k p(k | all but j) psi_jky.
    - to ``words[m]``: the Dirichlet that has the mean and the total variance of sum_z theta_nz phi^m_z given all but m.

    Sampling runs on the CPU, whatever the device; ``infer`` does not.

    Args:
        ports: ``category`` (parent, K categories), ``words`` (children, a sense each), ``categories`` (children).
        topics: Z, at least K; none is K.
        draws: S, kept draws.
        prior: pseudo-count per word.
        alpha: pseudo-count of a row per topic; small: few topics in a row.
        strength: what a category adds to its own topic's.
        splits: widths of the senses that lie side by side in the data; none is one sense.
        tokens: scale a row's counts of a sense down to at most so many.
        points: of the integral over theta, all draws together; none is 65536 / V, between 1024 and 8192.

    Raises:
        GraphError: an option is out of range.
    """

    ports: Mapping[str, Port] = {
        "category": Port(Role.PARENT, Family.CATEGORICAL),
        "words": Port(Role.CHILD, Family.DIRICHLET, many=True, optional=True),
        "categories": Port(Role.CHILD, Family.CATEGORICAL, many=True, optional=True),
    }
    exact = False
    masks = "dimension"

    def __init__(
        self,
        ports: Mapping[str, Port],
        topics: Count | None = None,
        draws: Count = 4,
        prior: Positive = 0.1,
        alpha: Positive = 0.5,
        strength: Positive = 5.0,
        splits: list[Count] | None = None,
        tokens: Positive | None = None,
        points: Count | None = None,
    ) -> None:
        _positive(draws=draws, prior=prior, alpha=alpha, strength=strength)
        _positive(**{name: value for name, value in {"tokens": tokens, "points": points}.items() if value is not None})
        self.ports = ports
        self.components = ports["category"].size or 0
        self.topics = self.components if topics is None else topics
        if self.topics < self.components:
            raise GraphError(
                "an mlda needs a topic per category",
                expected=f"topics >= {self.components}",
                found=str(topics),
                fix="raise topics, or make the category variable smaller",
            )
        self.draws, self.splits, self.tokens, self.points = draws, splits, tokens, points
        self.warm = {"sweeps": max(20, 2 * draws)}
        self.prior = Prior(prior, alpha, strength)
        self.senses = [name for name in ports if name.startswith("words")]
        self.views = [name for name in ports if name.startswith("categories")]
        self.note = "" if tokens is None else f"counts are scaled down to {tokens:g} tokens a row"
        self._kept: Profiles | None = None
        self._totals = torch.zeros(0)

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
        restarts: Count = 3,
        restart: bool = False,
    ) -> FitReport:
        """Draw topics by collapsed Gibbs, categories, tables and weights in blocks.

        The first time, ``restarts`` chains start from k-means on square-root profiles and run half the sweeps; the one
        with the highest mean log-probability of words and topics over the second quarter runs the other half, in which
        draws are kept. A refit continues from the last draw with one chain. Labels keep their identity, unless the
        inbox on ``category`` agrees with another naming better, by more than 0.1 of its probability a row.

        Args:
            evidence: counts; a sense is observed if all its columns are, and rows that say nothing are left out.
            inbox: log-bias on the category, once per row; messages on words and on categories below.
            generator: the only source of randomness.
            owned: if ``category`` is in it, weights are learnt; else the inbox alone says what is likely.
            progress: called after every tenth sweep.
            sweeps: at least twice ``draws``.
            restarts: chains of a first fit.
            restart: forget the present state and fit as if for the first time.

        Raises:
            GraphError: an option is out of range, or ``splits`` does not fit the data.
            DataError: fewer rows that say anything than categories, or counts that are negative or not finite.
            ShapeError: other words than at the fit that this one continues.
        """
        _positive(sweeps=sweeps, restarts=restarts)
        self.check_fit(sweeps=sweeps)
        warm = None if restart or self._kept is None else self._kept
        heard, sizes = self._hear(evidence, inbox, "category" in owned, warm)
        corpus, standing = self._start(heard, sizes, warm, restarts, generator)
        burn, stride = sweeps // 2, (sweeps - sweeps // 2) // self.draws
        labels, total, history = standing.labels, torch.zeros(len(standing.labels)), list[float]()
        kept: list[Profiles] = []
        drawn: list[Tensor] = []
        for step in range(1, sweeps + 1):
            scored = step <= burn or step % 10 == 0
            standing, by_word, score = sweep(corpus, standing, heard, self.topics, self.prior, generator, scored)
            if scored:
                history.append(float(score.max()) / len(heard.bias))
            total = total + score.cpu() if burn // 2 < step <= burn else total
            if step == burn:
                best = int(total.argmax())
                corpus, standing, labels = corpus[best], standing.chain(best, corpus), labels[best : best + 1]
            if step > burn and (sweeps - step) % stride == 0:
                phi = draw_phi(by_word, corpus.block, generator)
                kept.append(Profiles(phi, standing.tables, standing.log_weights))
                drawn.append(standing.labels)
            if progress and step % 10 == 0:
                progress(step, sweeps, f"log-probability {history[-1]:.3f} a row")
        every = torch.cat(drawn[-self.draws :])
        order = matching(every, reference(heard.bias, labels if warm else every[-1:]))
        self._kept = relabelled(Profiles.cat(kept[-self.draws :]), order).without_opinion(heard.views)
        totals = [part.sum(-1) for part in heard.counts.split(sizes, -1)]
        self._totals = torch.tensor([float(part.sum()) / max(1, int((part > 0).sum())) for part in totals])
        return FitReport(sweeps, history={"log_probability": history})

    def check_fit(self, *, sweeps: int, **_: Any) -> None:
        """Refuse too few sweeps; see :class:`serket.protocol.ChecksFit`."""
        enough(sweeps, self.draws, 2 * self.draws)

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
        counts, sizes = self._counts(evidence, inbox, category.logits, kept.words.shape[-1])
        each = counts.split(sizes, -1)
        words, _, _ = self._integrate(counts, kept)
        order = [coefficient(part) for part in each[len(self.senses) :]]
        parts = {"words": words + sum(order, torch.zeros_like(words[0, :, 0])).unsqueeze(-1)}
        parts |= table_scores(kept.tables, [inbox[name] for name in self.views], self.views)
        messages, evidences, error = answers(parts, dict(zip(self.views, kept.tables, strict=True)), category, asked)
        extra = sum((part for name, part in parts.items() if name != "words"), torch.zeros_like(words))
        for m, name in enumerate(self.senses):
            if name in asked:
                # A variance is a difference of moments: float64, or rounding would tell batches apart.
                others = torch.cat([0 * part if m == other else part for other, part in enumerate(each)], -1).double()
                exact = self._fitted(others)
                _, first, second = self._integrate(others, exact, (extra + category.logits).double())
                assert first is not None and second is not None
                phi = exact.words.split(sizes, -1)[m]
                mean = torch.einsum("snz,szv->nv", first, phi.exp())
                gram = phi.exp() @ phi.exp().mT
                told = matched(mean, torch.einsum("snyz,syz->n", second, gram))
                messages[name] = told.to(category.dtype, category.device)
        info = {"monte_carlo_error": error}
        if self.tokens is not None:
            return Reply(messages, info=info)
        return Reply(messages, log_evidence=evidences, bound="estimate", info=info)

    def predict(self, inbox: Mapping[str, Message], *, generator: torch.Generator) -> CountMixture:
        """Return p(counts | beliefs about the category), for documents of the mean total: batch ``(rows,)``, event V.

        A part per category and draw: a Dirichlet-multinomial per sense, with the mean and total variance of its words.

        Raises:
            GraphError: the module reads no data, so there are none to imagine.
        """
        category = cast(Categorical, inbox["category"])
        kept = self._fitted(category.logits)
        sizes = self._sizes(kept.words.shape[-1])
        if len(sizes) == len(self.senses):
            raise GraphError("an mlda without data has none to predict", fix="predict from the modules below it")
        base = bases(self.components, self.topics, self.prior).to(category.logits)
        whole = base.sum(-1, keepdim=True)
        square = (base.unsqueeze(-1) * base.unsqueeze(-2) + torch.diag_embed(base)) / (whole * (whole + 1)).unsqueeze(
            -1
        )
        means, concentrations = [], []
        for phi in kept.words.exp().split(sizes, -1)[len(self.senses) :]:
            mean = ((base / whole) @ phi).flatten(0, 1)  # (S K, V)
            part = matched(mean, torch.einsum("kyz,syz->sk", square, phi @ phi.mT).flatten())
            means.append(mean)
            concentrations.append(part.concentration.sum(-1))
        mixing = category.log_probs().repeat(1, len(kept.words)) - math.log(len(kept.words))
        totals = self._totals[len(self.senses) :].to(category.logits)
        return CountMixture(mixing, means, totals, concentrations)

    def relabel(self, port: str, order: Tensor) -> None:
        """Call the category that was ``order[k]`` by the name k in every draw, with its own topic, or in its table."""
        if self._kept is None:
            return
        if port in self.views:
            self._kept = self._kept.rename(self.views.index(port), order)
        else:
            self._kept = relabelled(self._kept, order.to(self._kept.words.device).expand(len(self._kept.words), -1))

    def state(self) -> Mapping[str, Tensor]:
        """Return the draws and the mean total of a row per sense; nothing before the first fit."""
        return {} if self._kept is None else {**self._kept.tensors(), "totals": self._totals}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back; raises StateError where a tensor is missing or of another shape."""
        if not state:
            self._kept = None
            return
        tables = [self.ports[name].size or 0 for name in self.views]
        self._kept = Profiles.load(state, "mlda", (self.topics, -1), (self.components,), tables)
        sizes = self._sizes(self._kept.words.shape[-1])
        if "totals" not in state or state["totals"].shape != (len(sizes),):
            raise StateError(
                "the state of an mlda has no fitting 'totals'",
                expected=f"({len(sizes)},)",
                found=str(tuple(state["totals"].shape)) if "totals" in state else "nothing",
            )
        self._totals = state["totals"]

    def _fitted(self, like: Tensor) -> Profiles:
        """Return the state in the dtype and on the device of a tensor."""
        if self._kept is None:
            raise StateError("an mlda has to be fitted before it can infer", fix="call fit, or load a state")
        return self._kept.to(like)

    def _sizes(self, words: int) -> list[int]:
        """Widths of the senses: those at the ports, then those in the data, ``words`` in all."""
        told = [self.ports[name].size or 0 for name in self.senses]
        rest = words - sum(told)
        own = list(self.splits or ([rest] if rest else []))
        if rest != sum(own):
            raise ShapeError(
                "'splits' of an mlda does not fit the data",
                expected=f"{rest} columns in all",
                found=" + ".join(map(str, own)),
                fix="write the width of every sense that stands in the data",
            )
        return told + own

    def _counts(
        self, evidence: Evidence, inbox: Mapping[str, Message], like: Tensor, words: int | None
    ) -> tuple[Tensor, list[int]]:
        """Return the counts of all senses side by side, ``(rows, V)``, and their widths."""
        told = sum(self.ports[name].size or 0 for name in self.senses)
        if words is None:
            words = told + (0 if evidence.values is None else evidence.values.shape[-1])
        elif evidence.values is not None and evidence.values.shape[-1] != words - told:
            found = str(evidence.values.shape[-1])
            raise ShapeError(
                "not the words this mlda was fitted on", where="data", expected=str(words - told), found=found
            )
        sizes = self._sizes(words)
        silent = replace(evidence, values=None)
        parts = [read_counts(silent, inbox, name, like=like) for name in self.senses]
        at = 0
        for size in sizes[len(self.senses) :]:
            columns = slice(at, at := at + size)
            part = silent
            if evidence.values is not None:
                wide = evidence.observed.dim() > 1
                part = replace(
                    evidence,
                    values=evidence.values[:, columns],
                    observed=evidence.observed[:, columns].all(-1) if wide else evidence.observed,
                )
            parts.append(read_counts(part, {}, "data", like=like, size=size))
        parts = [tempered(part, self.tokens) for part in parts]
        return torch.cat(parts, -1) if parts else torch.zeros(len(evidence), 0).to(like), sizes

    def _integrate(
        self, counts: Tensor, kept: Profiles, extra: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        words = counts.shape[-1]
        if not words:
            return torch.zeros(len(kept.log_weights), len(counts), self.components).to(counts), None, None
        points = self.points or min(8192, max(1024, 65536 // words))
        return integrate(counts, kept.words.exp(), bases(self.components, self.topics, self.prior), points, extra)

    def _hear(
        self, evidence: Evidence, inbox: Mapping[str, Message], owned: bool, warm: Profiles | None
    ) -> tuple[Heard, list[int]]:
        """Gather what is known of the rows that say anything, and the widths of the senses."""
        category = cast(Categorical, inbox["category"])
        bias = category.log_probs().float()
        counts, sizes = self._counts(evidence, inbox, bias, None if warm is None else warm.words.shape[-1])
        return heard_rows(counts, category, [inbox[name] for name in self.views], owned, "mlda"), sizes

    def _start(
        self, heard: Heard, sizes: list[int], warm: Profiles | None, restarts: int, generator: torch.Generator
    ) -> tuple[Corpus, Standing]:
        """Cut the counts into tokens, and find where chains begin."""
        corpus = Corpus.of(heard.counts, sizes, 1 if warm else restarts)
        if warm is None:
            labels = profile_seeds(profile(heard, sizes), self.components, restarts, generator)
            order = matching(labels, reference(heard.bias, labels))
            labels = order.argsort(-1).gather(-1, labels)
            tables = tuple(torch.zeros(restarts, self.components, view.shape[-1]).to(view) for view in heard.views)
            weights = torch.zeros(restarts, self.components).to(heard.bias)
            topics = own_start(corpus, labels, self.components, self.topics, generator)
        else:
            warm = warm[-1:].to(heard.bias)
            base = bases(self.components, self.topics, self.prior).to(heard.bias)
            mixed = (base / base.sum(-1, keepdim=True)) @ warm.words.exp()
            labels = label_logits(replace(warm, words=mixed.log()), heard).argmax(-1)
            order = matching(labels, reference(heard.bias, labels))
            warm, labels = relabelled(warm, order), order.argsort(-1).gather(-1, labels)
            tables, weights = warm.tables, warm.log_weights
            topics = drawn_start(corpus, labels, warm.words, self.prior, generator)
        return corpus, Standing(topics, labels, tables, weights)


def _positive(**options: float) -> None:
    for name, value in options.items():
        if not value > 0:
            raise GraphError(f"'{name}' of an mlda is out of range", expected="a number above zero", found=str(value))
