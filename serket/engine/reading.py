"""A reading of a stream as an encoder takes it: in the shape and type of the rows it was fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from serket.errors import DataError
from serket.protocol import Embeds

__all__ = ["Layout", "Readings"]

Layout = tuple[str, Sequence[int]]
"""Type and shape of a row, such as ``("uint8", (224, 224, 3))``."""


class Readings:
    """Embeds readings one by one; the last of each sensor is not embedded again when it is used again.

    Args:
        layouts: by data key; a key without one is taken as it comes.
        device: where readings go.
    """

    def __init__(self, layouts: Mapping[str, Layout], device: str) -> None:
        self.layouts, self.device = dict(layouts), device
        self._last: dict[str, tuple[Any, Tensor]] = {}

    def embedded(self, key: str, values: Any, module: Embeds) -> Tensor:
        """Return the embedding of one reading, ``(1, E)``.

        Raises:
            DataError: it has another size or type than the rows the model was fitted on, or comes out as NaN or Inf.
        """
        last = self._last.get(key)
        if last is not None and last[0] is values:
            return last[1]
        tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
        with torch.no_grad():
            made = module.embed(self._laid_out(key, tensor).to(self.device)).detach()
        if not bool(made.isfinite().all()):
            raise DataError("NaN or Inf from the encoder", where=key)
        self._last[key] = values, made
        return made

    def _laid_out(self, key: str, tensor: Tensor) -> Tensor:
        if key not in self.layouts:
            return tensor.unsqueeze(0)
        name, shape = self.layouts[key]
        dtype = getattr(torch, name)
        size = torch.Size(shape).numel()
        if tensor.numel() != size:
            found = f"{tensor.numel()} numbers"
            raise DataError("a reading of another size", where=key, expected=f"{tuple(shape)}", found=found)
        typed = tensor.to(dtype)
        if not dtype.is_floating_point and tensor.is_floating_point() and not bool((typed == tensor).all()):
            # Sound of -1 to 1 given to an encoder of 16-bit samples would be silence.
            fix = "scale it where it comes from, or fit on data as the stream has them"
            raise DataError("a reading of another type", where=key, expected=name, found=str(tensor.dtype), fix=fix)
        return typed.reshape(1, *shape)
