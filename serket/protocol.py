"""What a module promises: ports, infer, and, if it learns or generates, fit, state, load and predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from serket.messages import FAMILIES, Family, Message

__all__ = [
    "Bound",
    "ChecksFit",
    "Embeds",
    "Evidence",
    "Extends",
    "Filters",
    "FitReport",
    "Generative",
    "Includes",
    "Module",
    "Port",
    "Progress",
    "Reader",
    "Relabels",
    "Reply",
    "Role",
    "Thawable",
    "Thaws",
    "Trainable",
    "Traits",
    "couples_rows",
    "extrinsic",
    "traits",
    "uninformed",
]

Bound = Literal["exact", "lower", "estimate", "none"]
Includes = Literal["inbox", "own_prior"]
Progress = Callable[[int, int, str], None]
"""Called by ``fit`` with (steps done, steps in all, a short text such as ``ELBO -12.3``)."""


class Role(StrEnum):
    """How a module stands to a variable z: under a ``parent`` as p(. | z), or above a ``child`` as p(z | .)."""

    PARENT = "parent"
    CHILD = "child"


@dataclass(frozen=True, slots=True)
class Port:
    """A module's socket.

    On a class, ``size=None`` takes the bound variable's size and ``family=None`` its family, ``many`` lets YAML bind a
    list (``views: [a, b]`` becomes the ports ``views[0]`` and ``views[1]``), ``optional`` lets YAML leave it out. On an
    instance both are known.
    """

    role: Role
    family: Family | None
    size: int | None = None
    many: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Observed data for one module.

    Args:
        row_id: ``(rows,)`` int64, the identity of each row; random streams derive from it.
        values: ``(rows, D)``, or None where the module has no data. Slots that are not observed hold zeros.
        observed: ``(rows,)``, or ``(rows, D)`` for modules that take masks per dimension; bool, true is observed.
        sequence: ``(rows,)`` int64, the sequence each row belongs to, for modules of the time plate: rows of a sequence
            follow one another in time order. None: all rows given are one sequence.
    """

    row_id: Tensor
    values: Tensor | None = None
    observed: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    sequence: Tensor | None = None

    @classmethod
    def of(
        cls,
        values: Tensor,
        observed: Tensor | None = None,
        row_id: Tensor | None = None,
        sequence: Tensor | None = None,
    ) -> Evidence:
        """Build from values; without a mask every finite row is observed. What is not observed is zeroed."""
        finite = values.isfinite()
        mask = finite.flatten(1).all(-1) if observed is None else observed.to(torch.bool)
        wide = mask if mask.dim() == values.dim() else mask.reshape(-1, *(1,) * (values.dim() - 1))
        rows = torch.arange(len(values), device=values.device) if row_id is None else row_id
        return cls(rows, torch.where(wide, values, torch.zeros_like(values)), mask, sequence)

    @classmethod
    def none(cls, rows: int, device: torch.device | str = "cpu", sequence: Tensor | None = None) -> Evidence:
        """Return the evidence of a module without data."""
        row_id = torch.arange(rows, device=device)
        return cls(row_id, None, torch.zeros(rows, dtype=torch.bool, device=device), sequence)

    def __len__(self) -> int:
        return self.row_id.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Evidence:
        values = None if self.values is None else self.values[rows]
        sequence = None if self.sequence is None else self.sequence[rows]
        return Evidence(self.row_id[rows], values, self.observed[rows], sequence)

    @property
    def present(self) -> Tensor:
        """Per row, whether anything is observed, ``(rows,)`` bool."""
        return self.observed if self.observed.dim() == 1 else self.observed.any(-1)

    def nothing(self) -> Evidence:
        """Return the same rows with nothing observed."""
        values = None if self.values is None else torch.zeros_like(self.values)
        return replace(self, values=values, observed=torch.zeros_like(self.observed))

    def silent(self) -> Evidence:
        """Return the same rows as a module without data sees them."""
        return replace(self, values=None, observed=torch.zeros_like(self.row_id, dtype=torch.bool))


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What ``infer`` returns.

    Args:
        messages: one per port asked for; on a Gaussian port also :class:`serket.Particles` or :class:`serket.Point`.
        includes: per port, what the message still contains and :func:`extrinsic` has to divide out.
        tilted: ports whose reply may depend on their own inbox (expectation propagation); on others it must not.
        log_evidence: ``(rows,)``, nats: log of the integral of the factor times the inbox, both bare. A module of the
            time plate gives increments, log p(row t | rows before t of its sequence): their sum over rows is exact.
        bound: what ``log_evidence`` is of the true one.
        info: diagnostics, such as a Monte-Carlo error.
    """

    messages: Mapping[str, Message]
    includes: Mapping[str, frozenset[Includes]] = field(default_factory=dict)
    tilted: frozenset[str] = frozenset()
    log_evidence: Tensor | None = None
    bound: Bound = "none"
    info: Mapping[str, Tensor | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FitReport:
    """What a ``fit`` did: steps taken, whether it stopped by its own criterion, and a curve per quantity."""

    steps: int
    converged: bool = True
    history: Mapping[str, list[float]] = field(default_factory=dict)


@runtime_checkable
class Module(Protocol):
    """A factor over some variables with its own inference procedure.

    Optional attributes, read in one place (:func:`traits`): ``exact`` (replies are exact, with no projection), ``cost``
    (how time grows, if not linearly), ``note`` (why it offers no evidence, for ``serket check``), ``masks`` (``"row"``
    or ``"dimension"``), ``plate`` (``"time"`` if the rows of a sequence are answered together, else ``"row"``),
    ``listens`` (it has data but learns from messages too: it is fitted after the modules that need none), ``warm``
    (numbers among the options of ``fit``: at most so many in a refit from where it stands), ``choices`` (values worth
    comparing on validation rows, by option, or by ``fit.`` and a key of ``fit:``), ``thaw`` (modules that learn on
    with a composer, see :class:`Thaws`), and ``own_prior`` (a message without batch dimensions per port: used when the
    module owns a variable's prior, and divided out of replies that include it).
    """

    @property
    def ports(self) -> Mapping[str, Port]:
        """The sockets by name, in the order in which messages are folded."""
        ...

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Answer with a message per port (or per port asked for), changing nothing.

        Args:
            inbox: per port the product of what the rest of the graph says about its variable (the cavity); points in
                it are heard as the Gaussian of the same moments.
            evidence: the module's own data.
            generator: seeded from (seed, module name); draw per row with :func:`serket.rows.row_normal`.
            ports: compute only these replies; None is all.
        """
        ...


@runtime_checkable
class Trainable(Module, Protocol):
    """A module that learns. Options of ``fit`` with defaults are the keys of ``fit:`` in YAML."""

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        **options: Any,
    ) -> FitReport:
        """Learn from these rows, continuing from where the module stands.

        Args:
            evidence: training rows.
            inbox: what the rest of the graph says, as in :meth:`infer`; the module's own prior is not in it.
            generator: the only source of randomness.
            owned: parent ports whose prior this module owns, and so has to learn.
            progress: called as the fit goes on.
            options: the keys of ``fit:``.
        """
        ...

    def state(self) -> Mapping[str, Tensor]:
        """Return everything ``infer`` needs, by name."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back; afterwards replies are the same to the bit."""
        ...


@runtime_checkable
class ChecksFit(Trainable, Protocol):
    """A module that can tell, before any row is read, which options of ``fit`` do not go with its own."""

    def check_fit(self, **options: Any) -> None:
        """Refuse what :meth:`fit` would refuse of these options, all of them, defaults included.

        Raises:
            GraphError: its ``where`` is ``fit.`` and the name of the option.
        """
        ...


Reader = Callable[[Message], Tensor]
"""From a normalised message to a thawed module, rows ``(k rows,)``, k times over: log p(data | message), nats."""


@runtime_checkable
class Extends(Trainable, Protocol):
    """A composer that can take a view in, or learn one anew, while all else stays: to the bit, replies included.

    Its state is keyed by port, ``views[2].NAME``, and ``load`` takes one that lacks views: those were never fitted.
    Where such a view is vacuous, replies and evidence have the bits they have without it.
    """

    def fit_views(
        self,
        views: frozenset[str],
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        **options: Any,
    ) -> FitReport:
        """Learn what belongs to these ports, from where it stands or from the start; all else as in :meth:`fit`."""
        ...


@runtime_checkable
class Thawable(Trainable, Protocol):
    """A module that gradients can flow through: of the tensors in :meth:`parameters`, if those loaded require them.

    Then ``infer`` gives messages and ``log_evidence`` with gradients; else it computes none.
    """

    def parameters(self) -> Mapping[str, Tensor]:
        """Return the part of ``state()`` that is learnt by gradients."""
        ...


@runtime_checkable
class Thaws(Thawable, Protocol):
    """A composer that has modules learn on with it: what they climb together, as a function of messages."""

    thaw: tuple[str, ...]

    def value(
        self, inbox: Mapping[str, Message], readers: Mapping[str, Reader], *, generator: torch.Generator
    ) -> Tensor:
        """Return its objective of every row, nats, ``(rows,)``, with gradients.

        Args:
            inbox: as in :meth:`infer`; in every row some view speaks.
            readers: of thawed ports: what takes the place of the integral of a prediction times the inbox.
            generator: of its draws.
        """
        ...


@runtime_checkable
class Relabels(Module, Protocol):
    """A module whose categories have no meaning of their own, so that it can call them by other names."""

    def relabel(self, port: str, order: Tensor) -> None:
        """Make category ``order[k]`` of the variable at a port its category k; ``order`` is ``(K,)``, a permutation."""
        ...


@runtime_checkable
class Filters(Module, Protocol):
    """A module of the time plate that can follow a stream: it carries what the past says from one row to the next.

    What is carried is immutable, so that a stream can be taken up again where it was.
    """

    def predicted(self, before: Any, steps: int = 1) -> Any:
        """Carry what is known on by so many rows; ``before`` is None at the first row."""
        ...

    def told(self, carried: Any) -> Mapping[str, Message]:
        """Return what the past says, one row per port: the prior of this row's variable."""
        ...

    def updated(self, predicted: Any, inbox: Mapping[str, Message]) -> Any:
        """Take in what this row's readings say of the variable."""
        ...


@runtime_checkable
class Embeds(Module, Protocol):
    """A module that reads its data through something frozen: ``infer`` and ``fit`` are given what ``embed`` returns.

    So whoever gathers evidence embeds each row once, and may keep what it got: row by row the same input gives the
    same output, whatever else is in the batch.
    """

    def embed(self, values: Tensor) -> Tensor:
        """Return the embeddings of rows of raw data, ``(rows, ...)`` to ``(rows, E)``; rows it cannot read are NaN."""
        ...

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights and of all else that the embeddings depend on, in hexadecimal."""
        ...


@runtime_checkable
class Generative(Module, Protocol):
    """A module that can imagine its data."""

    def predict(self, inbox: Mapping[str, Message], *, generator: torch.Generator) -> torch.distributions.Distribution:
        """Return p(data | beliefs): batch shape ``(rows,)``, event shape as one row of data."""
        ...


@dataclass(frozen=True, slots=True)
class Traits:
    """The optional promises of a module, with their defaults."""

    exact: bool = False
    cost: str = "linear"
    note: str = ""
    masks: Literal["row", "dimension"] = "row"
    plate: Literal["row", "time"] = "row"
    listens: bool = False
    warm: Mapping[str, int] = field(default_factory=dict)
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    thaw: tuple[str, ...] = ()
    own_prior: Mapping[str, Message] = field(default_factory=dict)


def traits(module: Module) -> Traits:
    """Read a module's optional attributes."""
    named = {name: getattr(module, name) for name in Traits.__dataclass_fields__ if hasattr(module, name)}
    return Traits(**named)


def couples_rows(modules: Mapping[str, Module]) -> bool:
    """Tell whether some module is of the time plate, so that sequences have to stay whole."""
    return any(traits(module).plate == "time" for module in modules.values())


def uninformed(port: Port, rows: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Message:
    """Return a vacuous message that fits a port."""
    assert port.size is not None and port.family is not None, "ports of an instance have sizes and families"
    return FAMILIES[port.family].vacuous((rows,), port.size, dtype=dtype, device=device)


def extrinsic(reply: Reply, inbox: Mapping[str, Message], own_prior: Mapping[str, Message]) -> dict[str, Message]:
    """Divide out of every message exactly what its reply says it includes: the one place where this happens.

    m(z) = reply(z) / inbox(z)^[inbox included] / own_prior(z)^[own prior included]. A quotient by a training prior may
    have directions of negative precision, where a foreign encoder is wider than its prior: whoever passes the message
    on makes them vacuous, and counts them.
    """
    messages = {}
    for port, message in reply.messages.items():
        parts = reply.includes.get(port, frozenset())
        if "inbox" in parts:
            message = message / inbox[port]
        if "own_prior" in parts:
            message = message / own_prior[port].to(message.dtype, message.device).expand(*message.batch_shape)
        messages[port] = message
    return messages
