"""A normalising flow as the density of a sense under a category."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, MinLen
from torch import Tensor, nn

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
        self._nets: dict[Any, nn.Module] = {}

    def _initial(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        location, scale = varying(values)
        weights = {"location": location, "scale": scale}
        for name, like in self._net(values).named_parameters():
            # As zuko draws them, but from the generator; the last layers small: at first f is nearly the identity.
            into = like.shape[-1] if like.dim() > 1 else weights[f"net.{name.removesuffix('bias')}weight"].shape[-1]
            drawn = torch.rand(like.shape, generator=generator, dtype=values.dtype, device=values.device)
            weights[f"net.{name}"] = (2 * drawn - 1) / math.sqrt(into)
        return weights

    def _inputs(self, weights: Mapping[str, Tensor], values: Tensor) -> Tensor:
        return (values - weights["location"]) / weights["scale"]

    def _log_prob(self, weights: Mapping[str, Tensor], inputs: Tensor, given: Tensor) -> Tensor:
        return self._call(weights, inputs, given, False) - weights["scale"].log().sum()

    def _map(self, weights: Mapping[str, Tensor], uniform: Tensor, given: Tensor) -> Tensor:
        with torch.no_grad():
            drawn = self._call(weights, torch.special.ndtri(uniform), given, True)
        return weights["location"] + weights["scale"] * drawn

    def _call(self, weights: Mapping[str, Tensor], x: Tensor, given: Tensor, inverse: bool) -> Tensor:
        parameters = {name[4:]: value for name, value in weights.items() if name.startswith("net.")}
        found: Tensor = torch.func.functional_call(self._net(x), parameters, (x, given, inverse))
        return found

    def _net(self, like: Tensor) -> nn.Module:
        """Return the flow's shape, in the dtype and on the device of data; its own parameters are never used."""
        key = (like.shape[-1], like.dtype, like.device)
        if key not in self._nets:
            from zuko.flows import NSF  # not before it is needed

            with torch.random.fork_rng(devices=[]):  # it draws parameters when it is built
                flow = NSF(like.shape[-1], self.categories, transforms=self.transforms, bins=self.bins,
                           hidden_features=self.hidden)  # fmt: skip
            self._nets[key] = _Callable(flow).to(like.device, like.dtype)
        return self._nets[key]


class _Callable(nn.Module):
    """log p(x | c), or x of a standard normal: in one call, in which parameters can be replaced."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, c: Tensor, inverse: bool) -> Tensor:
        law = self.flow(c)
        found: Tensor = law.transform.inv(x) if inverse else law.log_prob(x)
        return found
