"""What inference returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from serket.messages import Atoms, Gaussian, Message, alike
from serket.protocol import Bound

__all__ = ["Result", "stacked"]

OVER_VECTORS = (Gaussian, Atoms)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Result(Mapping[str, Message]):
    """Beliefs by variable, and what is to be said about them; itself a mapping from variable to belief.

    Args:
        beliefs: the product of all messages at each variable, its prior once.
        row_id: ``(rows,)``.
        modules: the modules that read data, in file order: the columns of ``present`` and ``contribution``.
        present: ``(rows, modules)`` bool, whether the module had data.
        contribution: ``(rows, modules)``, nats: KL(belief || belief without the module's message) at its variables, the
            information gained from it; 0 where it is absent.
        conflict: ``(rows,)``, nats: the least over modules of log p(x_m | rest) - log p(x_m). Near or above 0 the
            senses agree; far below 0 one of them contradicts the rest.
        log_evidence: ``(rows,)``, nats, or None with the reason in ``reason``. Where a module joins the rows of a
            sequence they are increments, log p(row t | rows before t), as far as it goes: their sum is what counts.
        bound: what ``log_evidence`` is of the true one: exact, lower, estimate or none.
        exact: a forest whose modules are all exact, with no projection.
        converged: whether messages stopped changing in every row; always true on a tree of exact modules.
        iterations: sweeps made, 1 for the two passes on a tree.
        history: greatest change of a belief, KL in nats, per sweep.
        improper: rows in which a message had to be replaced, by edge ``module.port``.
        info: diagnostics of the modules, ``module.name``.
    """

    beliefs: Mapping[str, Message]
    row_id: Tensor
    modules: tuple[str, ...]
    present: Tensor
    contribution: Tensor
    conflict: Tensor
    log_evidence: Tensor | None
    bound: Bound
    reason: str | None
    exact: bool
    converged: bool
    iterations: int
    history: tuple[float, ...] = ()
    improper: Mapping[str, int] = field(default_factory=dict)
    info: Mapping[str, Tensor | float] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence[Result]) -> Result:
        """Put results of consecutive rows together."""
        first = parts[0]
        evidences = [part.log_evidence for part in parts if part.log_evidence is not None]
        bounds = [part.bound for part in parts]
        weakest = max(bounds, key=("exact", "lower", "estimate", "none").index)
        improper: Counter[str] = Counter()
        for part in parts:
            improper.update(part.improper)
        return cls(
            beliefs={name: stacked([part.beliefs[name] for part in parts]) for name in first.beliefs},
            row_id=torch.cat([part.row_id for part in parts]),
            modules=first.modules,
            present=torch.cat([part.present for part in parts]),
            contribution=torch.cat([part.contribution for part in parts]),
            conflict=torch.cat([part.conflict for part in parts]),
            log_evidence=torch.cat(evidences) if len(evidences) == len(parts) else None,
            bound=weakest,
            reason=parts[bounds.index(weakest)].reason,
            exact=all(part.exact for part in parts),
            converged=all(part.converged for part in parts),
            iterations=max(part.iterations for part in parts),
            history=max((part.history for part in parts), key=len),
            improper=dict(improper),
            info={name: _joined_info([part.info.get(name) for part in parts]) for name in first.info},
        )

    def __getitem__(self, variable: str) -> Message:
        if variable not in self.beliefs:
            raise KeyError(f"no variable '{variable}'; there are {', '.join(self.beliefs)}")
        return self.beliefs[variable]

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name}: {type(one).__name__}({one.size})" for name, one in self.beliefs.items())
        kind = f"exact={self.exact}, converged={self.converged}, bound={self.bound!r}"
        return f"Beliefs({len(self.row_id)} rows; {kinds}; {kind})"

    def __iter__(self) -> Iterator[str]:
        return iter(self.beliefs)

    def __len__(self) -> int:
        return len(self.beliefs)


def stacked(parts: Sequence[Message]) -> Message:
    """Put messages of consecutive rows together; diagonal ones stay diagonal."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], OVER_VECTORS):
        parts = alike(cast(Sequence[Gaussian | Atoms], parts))
    names = parts[0].tensors()
    return type(parts[0])(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def _joined_info(parts: Sequence[Tensor | float | None]) -> Tensor | float:
    rows = [part for part in parts if isinstance(part, Tensor) and part.dim()]
    return torch.cat(rows) if len(rows) == len(parts) else cast(float, parts[0])
