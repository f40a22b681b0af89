"""What the contract suite tests: a type with options, what it reads, and random messages for its ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from serket.errors import GraphError
from serket.graph.graph import instance
from serket.messages import FAMILIES, Categorical, Dirichlet, Family, Gaussian
from serket.protocol import Evidence, Port, Role, Trainable, traits
from serket.registry import class_ports, lookup

ROWS = 6
FIT_ROWS = 48
ABSENT = (1, 4)  # rows without data, wherever a module reads data
PLACES = (0, 0, 0, 1, 2, 2)  # sequences of three rows, one and two, for modules of the time plate


def generator(seed):
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, eq=False)
class Case:
    """A type with options, and ``data(generator, rows) -> (rows, D)`` in float64 if it reads data."""

    kind: str
    type: str
    name: str
    ports: Mapping[str, Port]
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Callable | None = None
    fit_options: Mapping[str, Any] = field(default_factory=dict)
    full: bool = False
    deterministic: bool = False  # its fit, whatever the seed
    causal: bool = False  # of the time plate: rows hear earlier ones only
    taught: bool = False  # it learns nothing unless its parent ports hear categories

    def __str__(self):
        return f"{self.type}-{self.kind}-{self.name}"

    @property
    def time(self):
        return traits(self.fresh()).plate == "time"

    def sequence(self, rows=ROWS):
        return torch.tensor([PLACES[row % 6] - 3 * (row // 6) for row in range(rows)]) if self.time else None

    @property
    def groups(self):
        """Rows that are answered together."""
        return [slice(0, 3), slice(3, 4), slice(4, 6)] if self.time else [slice(row, row + 1) for row in range(ROWS)]

    @property
    def categories(self):
        named = self.type == "classifier" and self.options.get("targets") != "gaussian"
        return self.type == "table" or named or self.options.get("likelihood") == "categorical"

    def fresh(self):
        """A module as a graph builds it, untrained; GraphError where its ports are not those of the class."""
        cls = lookup(self.type, self.kind)
        declared = class_ports(cls)
        if declared is None:  # its instances know: names as they are
            declared = instance(cls, self.ports, self.options, str(self), None).ports
        _same_ports(self, cls, declared)
        return instance(cls, self.ports, self.options, str(self), None)

    @cache  # noqa: B019
    def checked(self) -> Case:
        """Itself, if it can be built; tried once."""
        self.fresh()
        return self

    def fitted(self):
        """A module with a fitted state of its own, no tensor shared with another."""
        module = self.fresh()
        if isinstance(module, Trainable):
            module.load({name: value.clone() for name, value in _state(self).items()})
        return module

    def fit(self, module, seed=0, rows=FIT_ROWS, **inputs):
        """Fit on the training rows, as the owner of every parent port."""
        evidence = inputs.get("evidence") or self.evidence(100, rows)
        inbox = inputs.get("inbox") or self.training_inbox(rows)
        owned = frozenset(name for name, port in self.ports.items() if port.role == Role.PARENT)
        return module.fit(evidence, inbox, generator=generator(seed), owned=owned, **self.fit_options)

    def training_inbox(self, rows):
        """Two groups of correlated messages on Gaussian child ports, nothing on parent ports unless taught."""
        g = generator(101)
        shared = torch.randn(rows, 2, generator=g, dtype=torch.float64) + 3 * (torch.arange(rows) % 2).unsqueeze(1)
        inbox = {}
        for name, port in self.ports.items():
            inbox[name] = nothing(port, rows)
            if port.role == Role.CHILD and port.family == Family.GAUSSIAN:
                potential = message(g, port, rows, self.full)
                z = shared @ torch.randn(2, port.size, generator=g, dtype=torch.float64)
                pulled = potential.full().precision @ z.unsqueeze(-1)
                inbox[name] = Gaussian(pulled.squeeze(-1) + 0.3 * potential.info, potential.precision)
            elif self.taught or (port.role == Role.CHILD and port.family != Family.GAUSSIAN):
                own = torch.nn.functional.one_hot(torch.arange(rows) % 2, port.size).double()
                inbox[name] = message(g, port, rows) * FAMILIES[port.family](4 * own)
        return inbox

    def values(self, seed, rows=ROWS):
        return self.data(generator(seed), rows)

    def evidence(self, seed, rows=ROWS, dtype=torch.float64, absent=ABSENT):
        """Random data with some rows absent, NaN planted there; row ids that are not the row numbers."""
        ids = 1000 + 7 * torch.arange(rows)
        if self.data is None:
            return Evidence(ids, None, torch.zeros(rows, dtype=torch.bool), self.sequence(rows))
        values = self.values(seed, rows).to(dtype)
        values[list(absent)] = torch.nan
        return Evidence.of(values, row_id=ids, sequence=self.sequence(rows))

    def inbox(self, seed, rows=ROWS, dtype=torch.float64):
        """Random proper messages."""
        g = generator(seed)
        return {name: cast(message(g, port, rows, self.full), dtype) for name, port in self.ports.items()}

    def infer(self, module, inbox, evidence, seed=0, ports=None):
        return module.infer(inbox, evidence, generator=generator(seed), ports=ports)


def _same_ports(case, cls, declared):
    """Raise GraphError unless a case has the ports that are declared: name, role, and family and size where told."""
    taken, fitting = set(), True
    for name, port in case.ports.items():
        stem = name if name in declared else name.partition("[")[0]
        own = declared.get(stem)
        fitting &= own is not None and own.many == (stem != name) and own.role == port.role
        fitting &= own is not None and own.family in (None, port.family) and own.size in (None, port.size)
        taken.add(stem)
    if not fitting or any(name not in taken and not port.optional for name, port in declared.items()):
        raise GraphError(f"the ports of the Case are not those of {cls.__name__}", where=f"Case {case}",
                         expected=_told(declared), found=_told(case.ports),
                         fix=f"give the Case the ports of {cls.__name__}, or rename those of the class")  # fmt: skip


def _told(ports):
    words = [(name + "[...]" * port.many, port.role, port.family, port.size and f"size {port.size}")
             for name, port in ports.items()]  # fmt: skip
    return ", ".join(f"{name} ({', '.join(str(part) for part in about if part)})" for name, *about in words) or "none"


@cache
def _state(case):
    module = case.fresh()
    case.fit(module)
    return dict(module.state())


def cast(one, dtype):
    return type(one)(**{name: values.to(dtype) for name, values in one.tensors().items()})


def message(g, port, rows, full=False):
    """A random proper message in float64."""
    if port.family == Family.CATEGORICAL:
        return Categorical(2 * torch.randn(rows, port.size, generator=g, dtype=torch.float64))
    if port.family == Family.DIRICHLET:
        return Dirichlet(6 * torch.rand(rows, port.size, generator=g, dtype=torch.float64) ** 3)
    info = 2 * torch.randn(rows, port.size, generator=g, dtype=torch.float64)
    root = torch.randn(rows, port.size, port.size, generator=g, dtype=torch.float64)
    if full:
        return Gaussian(info, root @ root.mT + 0.5 * torch.eye(port.size))
    return Gaussian(info, root[..., 0] ** 2 + 0.5)


def nothing(port, rows, dtype=torch.float64):
    return FAMILIES[port.family].vacuous((rows,), port.size, dtype=dtype)


def parent(size, family=Family.GAUSSIAN):
    return Port(Role.PARENT, family, size)


def child(size, family=Family.GAUSSIAN):
    return Port(Role.CHILD, family, size)


def normal(size):
    return lambda g, rows: 2 * torch.randn(rows, size, generator=g, dtype=torch.float64) + 1


def whole(columns, size):
    return lambda g, rows: torch.randint(size, (rows, columns), generator=g).double()


def clumps(g, rows):
    centres = torch.tensor([[0.0, 0.0], [4.0, 1.0], [-3.0, 5.0]], dtype=torch.float64)
    return centres[torch.arange(rows) % 3] + torch.randn(rows, 2, generator=g, dtype=torch.float64)


def bags(g, rows):
    profile = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]], dtype=torch.float64)
    return torch.poisson(8 * profile[torch.arange(rows) % 2], generator=g)
