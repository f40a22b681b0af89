"""Any Python function as an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from serket.errors import GraphError
from serket.modules.frozen.fingerprints import fingerprint_of
from serket.modules.frozen.reading import Frozen
from serket.registry import encoder_of, register

__all__ = ["Callable"]


@register("callable")
@dataclass(kw_only=True, eq=False, repr=False)
class Callable(Frozen):
    """A function registered by ``@serket.encoder(name)``: numpy ``(rows, ...)`` to ``(rows, E)``.

    A ``torch.nn.Module`` that is registered gets tensors, in evaluation mode.

    Args:
        function: its name; options of every frozen encoder as in :class:`Frozen`.
    """

    function: str

    def prepare(self) -> None:
        """Find the function."""
        self._named = encoder_of(self.function)
        if not callable(self._named.function):
            raise GraphError(
                f"'{self.function}' is no function",
                found=type(self._named.function).__name__,
                fix=f"type: sklearn, estimator: {self.function}, if it is an estimator",
            )

    def encode(self, values: Tensor) -> Any:
        """Call it."""
        function = self._named.function
        if isinstance(function, torch.nn.Module):
            function.eval()
            return function.to(values.device)(values)
        return function(values.cpu().numpy())

    def identity(self) -> str:
        """Hash its code and all it holds, or the version it states."""
        return fingerprint_of(self._named.function, self.function, self._named.version)

    def place(self) -> str:
        """Tell which."""
        return f"function '{self.function}'"
