"""What inference returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from serket.messages import Message
from serket.protocol import Bound

__all__ = ["Result"]


@dataclass(frozen=True, slots=True, eq=False)
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
        log_evidence: ``(rows,)``, nats, or None with the reason in ``reason``.
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

    def __getitem__(self, variable: str) -> Message:
        return self.beliefs[variable]

    def __iter__(self) -> Iterator[str]:
        return iter(self.beliefs)

    def __len__(self) -> int:
        return len(self.beliefs)
