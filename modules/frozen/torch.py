"""A torch network: a class the user registers, with its weights, or an exported program."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from serket.errors import GraphError
from serket.modules.frozen.files import found, hashed
from serket.modules.frozen.program import opened
from serket.modules.frozen.reading import Frozen
from serket.modules.frozen.weights import filled, tensors_of
from serket.registry import network_of, place_of, register

__all__ = ["Torch"]


@register("torch")
@dataclass(kw_only=True, eq=False, repr=False)
class Torch(Frozen):
    """A network in evaluation mode, without gradients, in float32, on the device of the rows.

    Either ``network``, a class or function registered by ``@serket.network(name)``, with ``weights`` in a safetensors
    file; or ``program``, an archive of ``torch.export.save``, of which only ATen operators on tensors are accepted
    (see :mod:`serket.modules.frozen.program`). Half-precision weights are widened to float32.

    Args:
        network: its name.
        weights: a path, or ``package:NAME/path``.
        arguments: of the class or function.
        program: a path, or ``package:NAME/path``.

    Options of every frozen encoder as in :class:`Frozen`.
    """

    paths: ClassVar[tuple[str, ...]] = ("weights", "program")
    network: str | None = None
    weights: str | None = None
    arguments: dict[str, Any] | None = None
    program: str | None = None

    def prepare(self) -> None:
        """Find the network and its file."""
        if (self.network is None) == (self.program is None) or (self.network is None) != (self.weights is None):
            given = [name for name in ("network", "weights", "program") if getattr(self, name) is not None]
            raise GraphError(
                "a torch encoder is a network with its weights, or a program",
                found=", ".join(given) or "neither",
                fix="network: NAME and weights: FILE.safetensors, or program: FILE.pt2",
            )
        self._make = network_of(self.network) if self.network else None
        suffixes = (".safetensors",) if self.weights else (".pt2",)
        self._path = found(self.weights or self.program or "", suffixes, self.largest_mb)
        self._files = [self._path]
        self._network: torch.nn.Module | None = None

    def _opened(self) -> torch.nn.Module:
        if self._network is None:
            self._network = opened(self._path) if self._make is None else self._built()
        return self._network

    def _built(self) -> torch.nn.Module:
        assert self._make is not None
        try:
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and thrown away
                network = self._make(**(self.arguments or {}))
        except TypeError as error:
            raise GraphError(
                f"network '{self.network}' cannot be made",
                where=place_of(self._make),
                found=str(error),
                fix="mend arguments:",
            ) from error
        return filled(network, tensors_of(self._path), self.weights or "")

    def encode(self, values: Tensor) -> Any:
        """Run it on a batch; whole numbers become float32."""
        network = self._opened().to(values.device)
        return network(values if self.program else values.float())

    def identity(self) -> str:
        """Hash the weights, the arguments and the source of the network."""
        try:
            source = inspect.getsource(self._make) if self._make else ""
        except (OSError, TypeError):
            source = place_of(self._make) if self._make else ""
        return hashed(f"torch {self.network} {sorted((self.arguments or {}).items())} {source}", [self._path])

    def place(self) -> str:
        """Tell which file."""
        return self.weights or self.program or ""
