"""A normalising flow as the density of a sense under a category."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, MinLen
from torch import Tensor, nn

from serket.modules.bijection import Bijection
from serket.modules.density import ClassDensity, varying
from serket.protocol import Port
from serket.registry import register

__all__ = ["Flow"]

Count = Annotated[int, Ge(1)]


@register("flow")
class Flow(ClassDensity):
    """p(x | given = k) = N(f(x; k); 0, I) |det df/dx|, with f a neural spline flow (Durkan et al. 2019).

    f is a chain of autoregressive rational-quadratic splines (of the library zuko), in units of the columns' mean and
    deviation: any smooth shape, such as rings and crescents, where a Gaussian has one bump. Message and evidence are
    exact; see :class:`~serket.modules.density.ClassDensity`.

    Without a word on the categories they are those of k-means, refined: a flow follows whatever shape it is given, so
    that they mean little. Use a ``gmm`` to find concepts, and a flow where something else tells of them.

    Args:
        ports: ``given``, a categorical parent.
        transforms: splines in the chain, orders of the columns alternating.
        hidden: widths of the hidden layers of each.
        bins: pieces of a spline.
        noise: deviation of the noise added to the data while training, in units of a column's deviation; 0 is none, and
            then a column that does not vary, or is rounded, has no bound.
    """

    def __init__(
        self,
        ports: Mapping[str, Port],
        transforms: Count = 2,
        hidden: Annotated[list[Count], MinLen(1)] = [64],  # noqa: B006
        bins: Annotated[int, Ge(2)] = 8,
        noise: Annotated[float, Ge(0)] = 0.05,
    ) -> None:
        super().__init__(ports, noise)
        self.transforms, self.hidden, self.bins = transforms, list(hidden), bins
        self._flow = Bijection(self._build)

    def _initial(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        location, scale = varying(values)
        return {"location": location, "scale": scale, **self._flow.initial(values, self.categories, generator)}

    def _inputs(self, weights: Mapping[str, Tensor], values: Tensor) -> Tensor:
        return (values - weights["location"]) / weights["scale"]

    def _log_prob(self, weights: Mapping[str, Tensor], inputs: Tensor, given: Tensor) -> Tensor:
        found: Tensor = self._flow(weights, inputs, given, "log_prob")
        return found - weights["scale"].log().sum()

    def _map(self, weights: Mapping[str, Tensor], uniform: Tensor, given: Tensor) -> Tensor:
        with torch.no_grad():
            drawn: Tensor = self._flow(weights, torch.special.ndtri(uniform), given, "inverse")
        return weights["location"] + weights["scale"] * drawn

    def _build(self, columns: int, context: int) -> nn.Module:
        from zuko.flows import NSF  # not before it is needed

        flow: nn.Module = NSF(columns, context, transforms=self.transforms, bins=self.bins, hidden_features=self.hidden)
        return flow
