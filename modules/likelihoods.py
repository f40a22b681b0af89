"""How data look given a decoder's output: Gaussian, Bernoulli or categorical."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, MixtureSameFamily, Normal

from serket.errors import DataError

__all__ = ["LIKELIHOODS", "Imagined", "Likelihood", "LikelihoodName", "follow"]

LikelihoodName = Literal["gaussian", "bernoulli", "categorical"]
State = Mapping[str, Tensor]
LEAST_VARIANCE = 1e-4  # learnt, in units of the data's
OTHER_UNITS = 0.9
"""Share of the variance of all dimensions that one may have and still be taken for one in the units of the others."""


class Likelihood(Protocol):
    """p(x | output) for one row of data; stateless, its fitted numbers come in as ``state``."""

    def fit_scaling(self, values: Tensor, variance: float | None) -> dict[str, Tensor]:
        """Return what is fitted on the training rows ``(rows, D)`` before the network is."""
        ...

    def inputs(self, values: Tensor, state: State) -> Tensor:
        """Turn data ``(..., D)`` into what the encoder sees."""
        ...

    def outputs(self, state: State) -> int:
        """Numbers the decoder puts out per row."""
        ...

    def log_prob(self, output: Tensor, inputs: Tensor, state: State) -> Tensor:
        """Return log p(data | output), nats, summed over D, of data as :meth:`inputs` hands them over."""
        ...

    def distribution(self, output: Tensor, state: State) -> Distribution:
        """Return p(. | output), event shape ``(D,)``."""
        ...


class GaussianLikelihood:
    """N(x; location + unit f(z), scale^2 exp(log_variance)): location and unit per dimension, one scale for all.

    One scale keeps the views' dimensions in proportion: small ones stay small, as in principal components. Where one
    dimension holds over nine tenths of the variance of all, they are in different units, and one scale would leave
    nothing of the others: then each has its own. The unit is the dimension's own deviation all the same: a network that
    answers in another is a noise to small dimensions, which the loss, small as well, does not mend.
    """

    def fit_scaling(self, values: Tensor, variance: float | None) -> dict[str, Tensor]:
        """Location: the mean per dimension. Scale: the root of the mean variance, or of each; 1 where none varies."""
        variances = values.var(0, correction=0)
        units = len(variances) > 1 and bool(variances.max() > OTHER_UNITS * variances.sum())
        spread = variances.sqrt() if units else variances.mean().sqrt()
        log_variance = -1.0 if variance is None else math.log(variance)
        return {
            "location": values.mean(0),
            "unit": variances.sqrt(),
            "scale": torch.where(spread > 0, spread, torch.ones_like(spread)),
            "log_variance": torch.full((), log_variance).to(values),
        }

    def inputs(self, values: Tensor, state: State) -> Tensor:
        """Centre and scale."""
        return (values - state["location"]) / state["scale"]

    def outputs(self, state: State) -> int:
        """One mean per dimension."""
        return state["location"].shape[0]

    def errors(self, output: Tensor, inputs: Tensor, state: State) -> Tensor:
        """Return (x_d - m_d)^2, scaled x and m."""
        mean = output * (state["unit"] / state["scale"])
        return F.mse_loss(mean, inputs.expand_as(mean), reduction="none")

    def log_prob(self, output: Tensor, inputs: Tensor, state: State) -> Tensor:
        """-sum_d [ (x_d - m_d)^2 / v + log(2 pi v) ] / 2 - sum_d log scale_d, scaled x and m, v = exp(log_variance)."""
        log_variance = state["log_variance"]
        square = self.errors(output, inputs, state).sum(-1) * (-log_variance).exp()
        constant = log_variance + math.log(2 * math.pi) + 2 * state["scale"].log().mean()
        return -(square + inputs.shape[-1] * constant) / 2

    def distribution(self, output: Tensor, state: State) -> Distribution:
        """Normal in the units of the data."""
        mean = state["location"] + state["unit"] * output
        deviation = state["scale"] * (state["log_variance"] / 2).exp()
        return Independent(Normal(mean, deviation.expand_as(mean)), 1)


class BernoulliLikelihood:
    """prod_d p_d^x_d (1 - p_d)^(1 - x_d) with p = sigmoid(f(z)), for data between 0 and 1."""

    def fit_scaling(self, values: Tensor, variance: float | None) -> dict[str, Tensor]:
        """Check the range; centre the encoder's input."""
        if bool(((values < 0) | (values > 1)).any()):
            found = f"{values.min().item():g} to {values.max().item():g}"
            raise DataError("bernoulli data lie outside [0, 1]", expected="0 to 1", found=found, fix="scale the array")
        return {"location": values.mean(0)}

    def inputs(self, values: Tensor, state: State) -> Tensor:
        """Centre."""
        return values - state["location"]

    def outputs(self, state: State) -> int:
        """One logit per dimension."""
        return state["location"].shape[0]

    def log_prob(self, output: Tensor, inputs: Tensor, state: State) -> Tensor:
        """sum_d x_d log p_d + (1 - x_d) log(1 - p_d), from the logits."""
        values = inputs + state["location"]
        return -F.binary_cross_entropy_with_logits(output, values.expand_as(output), reduction="none").sum(-1)

    def distribution(self, output: Tensor, state: State) -> Distribution:
        """Independent Bernoulli."""
        return Independent(Bernoulli(logits=output), 1)


class CategoricalLikelihood:
    """prod_d softmax(f_d(z))[x_d], for D columns of category numbers 0 .. K - 1."""

    def fit_scaling(self, values: Tensor, variance: float | None) -> dict[str, Tensor]:
        """Check that the data are whole numbers from 0; K is the largest plus one."""
        if bool((values < 0).any()) or bool((values != values.round()).any()):
            raise DataError("categorical data are not category numbers", expected="whole numbers from 0")
        return {"location": torch.zeros(values.shape[-1], int(values.max()) + 1).to(values)}

    def inputs(self, values: Tensor, state: State) -> Tensor:
        """One-hot, column after column."""
        size = state["location"].shape[-1]
        if bool(((values < 0) | (values >= size) | (values != values.round())).any()):
            raise DataError(
                "a category that was never seen in training",
                expected=f"whole numbers from 0 to {size - 1}",
                found=f"{values.min().item():g} to {values.max().item():g}",
                fix="train on rows that hold every category",
            )
        return F.one_hot(values.long(), size).flatten(-2).to(state["location"])

    def outputs(self, state: State) -> int:
        """K logits per column."""
        return state["location"].numel()

    def log_prob(self, output: Tensor, inputs: Tensor, state: State) -> Tensor:
        """sum_d log softmax(f_d)[x_d]."""
        log_probs = output.unflatten(-1, tuple(state["location"].shape)).log_softmax(-1)
        total: Tensor = (inputs * log_probs.flatten(-2)).sum(-1)
        return total

    def distribution(self, output: Tensor, state: State) -> Distribution:
        """Independent categorical per column."""
        return Independent(Categorical(logits=output.unflatten(-1, tuple(state["location"].shape))), 1)


LIKELIHOODS: Mapping[LikelihoodName, Likelihood] = {
    "gaussian": GaussianLikelihood(),
    "bernoulli": BernoulliLikelihood(),
    "categorical": CategoricalLikelihood(),
}


class Imagined(MixtureSameFamily):
    """p(x) under a belief of z: an even mixture over decoded draws of z; its mean is the decoding of the belief's mean.

    The average of the draws' decodings is the true mean, but a noisy one; the variance is about the mean given, so it
    covers their difference. ``component_distribution`` holds the draws.

    Args:
        centre: p(x | z = mean of the belief), batch ``(rows,)``.
        draws: p(x | z_j), batch ``(rows, draws)``.
    """

    def __init__(self, centre: Distribution, draws: Distribution) -> None:
        self.centre = centre
        even = Categorical(probs=torch.ones(draws.batch_shape).to(centre.mean))
        super().__init__(even, draws, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Mean of the decoding at the belief's mean, ``(rows, D)``."""
        return self.centre.mean


def follow(log_variance: Tensor, likelihood: Likelihood, decoded: Tensor, inputs: Tensor, state: State) -> None:
    """Move a learnt variance, in place, to the mean squared error of a batch, a tenth of the way in logarithms."""
    if isinstance(likelihood, GaussianLikelihood) and len(inputs):
        with torch.no_grad():
            error = likelihood.errors(decoded, inputs, state).mean()
            log_variance.lerp_(error.clamp_min(LEAST_VARIANCE).log(), 0.1)
