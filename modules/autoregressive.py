"""A masked autoregressive network as the density of a sense under a category."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, MinLen
from torch import Tensor
from torch.distributions import Normal

from serket.errors import DataError
from serket.modules.density import ClassDensity, varying
from serket.modules.likelihoods import LIKELIHOODS, LikelihoodName
from serket.modules.network import initial
from serket.protocol import Port
from serket.registry import register

__all__ = ["Autoregressive"]

Count = Annotated[int, Ge(1)]


@register("autoregressive")
class Autoregressive(ClassDensity):
    """p(x | given = k) = prod_d p(x_d | x_1 .. x_{d-1}, k), one masked network for all D factors (MADE, Germain 2015).

    Hidden unit h has a degree m(h) in 0 .. D - 1 and sees units of its degree or less; column d sees units of degree
    below d, so columns before it alone (section 4.1); the category reaches every unit. Message and evidence are exact;
    see :class:`~serket.modules.density.ClassDensity`. Columns are taken in the order of the array: give sequences in
    time order. A row in which a column is missing is missing: what is left of it has no closed form.

    Args:
        ports: ``given``, a categorical parent.
        hidden: widths of the hidden layers.
        likelihood: of a column: bernoulli (data in [0, 1]), categorical (category numbers), or gaussian, with mean and
            variance from the columns before.
        noise: deviation of the noise added to gaussian data while training, in units of a column's deviation.
    """

    def __init__(
        self,
        ports: Mapping[str, Port],
        hidden: Annotated[list[Count], MinLen(1)] = [128],  # noqa: B006
        likelihood: LikelihoodName = "bernoulli",
        noise: Annotated[float, Ge(0)] = 0.05,
    ) -> None:
        super().__init__(ports, noise if likelihood == "gaussian" else 0.0)
        self.hidden, self.name, self.likelihood = list(hidden), likelihood, LIKELIHOODS[likelihood]

    def _initial(self, values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        if self.name == "gaussian":
            weights = dict(zip(("location", "scale"), varying(values), strict=True))
        else:
            weights = self.likelihood.fit_scaling(values, None)
        inputs, outputs = self._widths(weights)
        sizes = [inputs + self.categories, *self.hidden, outputs]
        return weights | initial("net", sizes, values, generator)

    def _inputs(self, weights: Mapping[str, Tensor], values: Tensor) -> Tensor:
        if self.name == "bernoulli" and bool(((values < 0) | (values > 1)).any()):
            found = f"{values.min().item():g} to {values.max().item():g}"
            raise DataError("bernoulli data lie outside [0, 1]", expected="0 to 1", found=found, fix="scale the array")
        return self.likelihood.inputs(values, weights)

    def _log_prob(self, weights: Mapping[str, Tensor], inputs: Tensor, given: Tensor) -> Tensor:
        output = self._outputs(weights, inputs, given)
        if self.name != "gaussian":
            return self.likelihood.log_prob(output, inputs, weights)
        mean, deviation = self._gaussian(output)
        each: Tensor = Normal(mean, deviation, validate_args=False).log_prob(inputs) - weights["scale"].log()
        return each.sum(-1)

    def _map(self, weights: Mapping[str, Tensor], uniform: Tensor, given: Tensor) -> Tensor:
        """Column after column, by inversion of its distribution given those before."""
        values, size = torch.zeros_like(uniform), uniform.shape[-1]
        with torch.no_grad():
            for column in range(size):
                output = self._outputs(weights, self._inputs(weights, values), given).unflatten(-1, (size, -1))
                chosen, u = output[:, column], uniform[:, column]
                if self.name == "bernoulli":
                    drawn = (u < chosen[:, 0].sigmoid()).to(values)
                elif self.name == "categorical":
                    reached = u.unsqueeze(-1) > chosen.softmax(-1).cumsum(-1)
                    drawn = reached.sum(-1).clamp_max(chosen.shape[-1] - 1).to(values)
                else:
                    mean, deviation = (part[:, 0] for part in self._gaussian(chosen))
                    drawn = mean + deviation * torch.special.ndtri(u)
                    drawn = weights["location"][column] + weights["scale"][column] * drawn
                values[:, column] = drawn
        return values

    def _category_probs(self, weights: Mapping[str, Tensor], drawn: Tensor) -> Tensor | None:
        if self.name != "categorical":
            return None
        return F.one_hot(drawn.long(), weights["location"].shape[-1]).to(drawn).mean(1)

    def _outputs(self, weights: Mapping[str, Tensor], inputs: Tensor, given: Tensor) -> Tensor:
        x = torch.cat([inputs, given], -1)
        for layer, mask in enumerate(self._masks(weights)):
            x = F.relu(x) if layer else x
            x = F.linear(x, mask.to(x) * weights[f"net.{layer}.weight"], weights[f"net.{layer}.bias"])
        return x

    def _masks(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Return, per layer, which unit sees which: ``(to, from)`` bool. Categories are of degree 0, columns 1 .. D."""
        size = len(weights["location"])
        columns = torch.arange(1, size + 1, device=weights["location"].device)
        inputs, outputs = (width // size for width in self._widths(weights))
        below = torch.cat([columns.repeat_interleave(inputs), columns.new_zeros(self.categories)])
        masks: list[Tensor] = []
        for width in self.hidden:
            degrees = torch.arange(width, device=columns.device) % size
            masks.append(degrees.unsqueeze(-1) >= below)
            below = degrees
        return [*masks, columns.repeat_interleave(outputs).unsqueeze(-1) > below]

    def _widths(self, weights: Mapping[str, Tensor]) -> Sequence[int]:
        """Numbers that go in and come out, for all columns."""
        count = weights["location"].numel()
        return count, 2 * count if self.name == "gaussian" else count

    @staticmethod
    def _gaussian(output: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation per column, in scaled units, of outputs ``(..., 2 D)``."""
        mean, raw = output.unflatten(-1, (-1, 2)).unbind(-1)
        return mean, F.softplus(raw + math.log(math.e - 1)) + 1e-3
