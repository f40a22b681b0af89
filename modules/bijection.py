"""Bijections of the library zuko as functions of plain tensors by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["Bijection"]

Way = Literal["log_prob", "inverse", "forward"]


class Bijection:
    """A conditional flow whose parameters are given at every call: it keeps the shape, never the numbers.

    Args:
        build: from (columns, numbers of context) to a zuko flow.
    """

    def __init__(self, build: Callable[[int, int], nn.Module]) -> None:
        self.build = build
        self._nets: dict[Any, nn.Module] = {}

    def initial(self, like: Tensor, context: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw parameters for columns ``(rows, D)`` as zuko draws them, but from the generator."""
        drawn: dict[str, Tensor] = {}
        for name, shape in self._net(like, context).named_parameters():
            into = shape.shape[-1] if shape.dim() > 1 else drawn[f"net.{name.removesuffix('bias')}weight"].shape[-1]
            uniform = torch.rand(shape.shape, generator=generator, dtype=like.dtype, device=like.device)
            drawn[f"net.{name}"] = (2 * uniform - 1) / math.sqrt(into)
        return drawn

    def __call__(self, weights: Mapping[str, Tensor], x: Tensor, context: Tensor, way: Way) -> Any:
        """Return log p(x | c); or x of a standard normal; or, the other way, the image of a normal and log |det|.

        Args:
            weights: those that start with ``net.`` are used.
            x: ``(..., D)``.
            context: ``(..., C)``, with as many leading dimensions.
            way: ``log_prob``: of x, the base being N(0, I); ``inverse``: from the base to x, a column at a time;
                ``forward``: the bijection as it is evaluated fastest, in one pass.
        """
        parameters = {name[4:]: value for name, value in weights.items() if name.startswith("net.")}
        return torch.func.functional_call(self._net(x, context.shape[-1]), parameters, (x, context, way))

    def _net(self, like: Tensor, context: int) -> nn.Module:
        """Return the shape, in the dtype and on the device of data; its own parameters are never used."""
        key = (like.shape[-1], context, like.dtype, like.device)
        if key not in self._nets:
            with torch.random.fork_rng(devices=[]):  # it draws parameters when it is built
                flow = self.build(like.shape[-1], context)
            self._nets[key] = _Callable(flow).to(like.device, like.dtype)
        return self._nets[key]


class _Callable(nn.Module):
    """A flow in one call, in which parameters can be replaced."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, c: Tensor, way: Way) -> Any:
        law = self.flow(c)
        if way == "log_prob":
            return law.log_prob(x)
        return law.transform.inv(x) if way == "inverse" else law.transform.call_and_ladj(x)
