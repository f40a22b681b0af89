"""Everything that a workspace has learnt, and what a view is told by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from serket.composer.workspace.confidence import Confidence
from serket.composer.workspace.latent import Space
from serket.composer.workspace.outlook import Outlook, spread
from serket.composer.workspace.reading import Units
from serket.messages import Gaussian
from serket.messages.gaussian import factored

__all__ = ["Standing"]


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """The weights of the space, the units of every view, how sure s is, and how sure each view is."""

    weights: Mapping[str, Tensor]
    units: Sequence[Units]
    confidence: Confidence
    outlooks: Sequence[Outlook]

    @classmethod
    def of(cls, state: Mapping[str, Tensor], names: Sequence[str]) -> Self:
        """Take it from tensors by name."""

        def held(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

        units = [Units(**held(f"{name}.units.")) for name in names]
        outlooks = [Outlook(**held(f"{name}.outlook.")) for name in names]
        return cls(held("weights."), units, Confidence(**held("confidence.")), outlooks)

    def tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return all tensors by name."""
        found = {f"weights.{name}": value for name, value in self.weights.items()}
        found |= _tensors("confidence", self.confidence)
        for name, units, outlook in zip(names, self.units, self.outlooks, strict=True):
            found |= _tensors(f"{name}.units", units) | _tensors(f"{name}.outlook", outlook)
        return found

    def to(self, like: Tensor) -> Self:
        """Return it in another type, on another device."""
        weights = {name: value.to(like) for name, value in self.weights.items()}
        outlooks = [one.to(like) for one in self.outlooks]
        return type(self)(weights, [one.to(like) for one in self.units], self.confidence.to(like), outlooks)

    def downward(
        self,
        space: Space,
        view: int,
        said: Gaussian,
        above: Gaussian,
        heard: Tensor,
        state: Tensor,
        strength: Tensor,
    ) -> Gaussian:
        """Return p(z_m | what is said of s, what the inbox says of it); the population where neither says a thing.

        Decoded from the state that the others led to, moved as far as the inbox moves the mean of s from ``heard``.

        Args:
            space: that the weights are of.
            view: m.
            said: what the other views say of s, a potential beside N(0, I).
            above: the inbox of ``shared``.
            heard: ``(rows, S)``, the mean of s by the other views.
            state: ``(rows, S)``, that they led to.
            strength: c_m of each view, ``(rows, M)``.
        """
        units, outlook, confidence = self.units[view], self.outlooks[view], self.confidence
        prior = Gaussian.standard((len(said.info),), said.size, dtype=said.dtype, device=said.device)
        population = Gaussian.from_moments(torch.zeros_like(outlook.population[0]), outlook.population)
        population = units.out(population.expand(len(said.info)))
        if not bool(outlook.paired):
            return population
        blank = (above.full().precision == prior.full().precision).flatten(1).all(1) & (above.info == 0).all(1)
        blank = said.is_vacuous() & (above.is_vacuous() | blank)
        belief = said * above.where(above.is_proper(), above * prior)
        if belief.diagonal:
            mean, steps = belief.mean(), belief.precision.rsqrt().unsqueeze(-1) * confidence.inverse
        else:
            factor, eye = factored(belief.precision), torch.eye(belief.size).to(belief.info)
            mean = torch.cholesky_solve(belief.info.unsqueeze(-1), factor).squeeze(-1)
            # Lambda = L L': the rows of L^-1 are a root of the covariance.
            steps = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False) @ confidence.inverse

        def scatter(state: Tensor) -> Tensor:
            return space.scatter(self.weights, state, view)

        state = state + (mean - heard) @ confidence.inverse
        moved = spread(scatter, state, steps)
        told = units.out(Gaussian.from_moments(scatter(state), outlook.covariance(moved, strength)))
        return population.where(blank, told)


def _tensors(prefix: str, held: Any) -> dict[str, Tensor]:
    return {f"{prefix}.{one.name}": getattr(held, one.name) for one in fields(held)}
