"""Linear dynamics over the time plate: a Kalman filter on streams, a smoother on recordings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from serket.errors import GraphError, ShapeError
from serket.messages import Family, Gaussian, Message
from serket.modules.layout import Layout
from serket.protocol import Evidence, Port, Reply, Role
from serket.registry import register

__all__ = ["Dynamics"]


@register("dynamics")
class Dynamics:
    """z_1 ~ N(m, P), z_t = A z_t-1 + b + noise of covariance Q over the rows of each sequence: the prior of every z_t.

    The reply at row t is what the other rows say of z_t: the prediction from those before (Kalman 1960) times the
    backward message from those after. In information form, with (eta, Lambda) what row t + 1 and those after it say,
    that is Lambda_b = A' (I + Lambda Q)^-1 Lambda A and eta_b = A' (I + Lambda Q)^-1 (eta - Lambda b) (Koller &
    Friedman 2009, section 14.2), exact where nothing is said, too. Not trained. The evidence of row t is the increment
    log p(m_t | m_1, ..., m_t-1). Computed in float64. On a stream one row follows another by ``stream: frame_ms``.

    Args:
        ports: ``state``, a Gaussian child.
        matrix: A, the identity unless given.
        noise: Q, a covariance per row of time, or one variance for all dimensions.
        offset: b, zero unless given.
        mean: m, zero unless given.
        covariance: P, a covariance, or one variance for all dimensions.

    Raises:
        ShapeError: a matrix does not fit the port.
        GraphError: Q or P is not a covariance.
    """

    ports: Mapping[str, Port] = {"state": Port(Role.CHILD, Family.GAUSSIAN)}
    plate = "time"
    exact = True

    def __init__(
        self,
        ports: Mapping[str, Port],
        noise: float | list[list[float]],
        matrix: list[list[float]] | None = None,
        offset: list[float] | None = None,
        mean: list[float] | None = None,
        covariance: float | list[list[float]] = 1.0,
    ) -> None:
        self.ports, self.size = ports, ports["state"].size or 0
        eye = torch.eye(self.size, dtype=torch.float64)
        self.matrix = eye if matrix is None else self._fitting("matrix", matrix, eye.shape)
        self.noise = self._spread("noise", noise)
        self.offset = self._fitting("offset", offset or [0.0] * self.size, eye.shape[:1])
        self.start = Gaussian.from_moments(
            self._fitting("mean", mean or [0.0] * self.size, eye.shape[:1]), self._spread("covariance", covariance)
        )

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Answer what the other rows of its sequence say of each row; exact evidence, by increments."""
        heard = cast(Gaussian, inbox["state"])
        layout = Layout.of(evidence)
        messages = Gaussian(heard.info.double(), heard.precision.double()).full()[layout.order]
        predicted = self._forward(messages, layout)
        increments = (predicted * messages).log_z() - predicted.log_z()
        reply: dict[str, Message] = {}
        if ports is None or "state" in ports:
            others = (predicted * self._backward(messages, layout))[layout.order.argsort()]
            reply["state"] = Gaussian(others.info.to(heard.dtype), others.precision.to(heard.dtype))
        return Reply(reply, log_evidence=increments[layout.order.argsort()].to(heard.dtype), bound="exact")

    def predicted(self, before: Gaussian | None, steps: int = 1) -> Gaussian:
        """Carry the filter on by so many rows of which nothing is heard; None is before the first row."""
        if before is None:
            before, steps = self.start.expand(1), steps - 1
        for _ in range(steps):
            before = self._next(before)
        return before

    def told(self, carried: Gaussian) -> Mapping[str, Message]:
        """Return p(z_t | what came before t)."""
        return {"state": carried}

    def updated(self, predicted: Gaussian, inbox: Mapping[str, Message]) -> Gaussian:
        """Take in the messages of this row."""
        heard = cast(Gaussian, inbox["state"])
        return predicted * Gaussian(heard.info.double(), heard.precision.double())

    def _next(self, filtered: Gaussian) -> Gaussian:
        """Return N(A m + b, A V A' + Q)."""
        matrix = self.matrix.to(filtered.device)
        mean = filtered.mean() @ matrix.T + self.offset.to(filtered.device)
        return Gaussian.from_moments(mean, matrix @ filtered.covariance() @ matrix.T + self.noise.to(filtered.device))

    def _forward(self, messages: Gaussian, layout: Layout) -> Gaussian:
        """Return p(z_t | rows before t) of all packed rows."""
        info, precision = torch.empty_like(messages.info), torch.empty_like(messages.precision)
        now = self.start.to(messages.dtype, messages.device).expand(0)
        for number, step in enumerate(layout.steps):
            count = step.stop - step.start
            now = self._next(now[slice(count)]) if number else self.start.to(now.dtype, now.device).expand(count)
            info[step], precision[step] = now.info, now.precision
            now = now * messages[step]
        return Gaussian(info, precision)

    def _backward(self, messages: Gaussian, layout: Layout) -> Gaussian:
        """Return the message of the rows after t at z_t, of all packed rows; vacuous at the end of a sequence."""
        info, precision = torch.zeros_like(messages.info), torch.zeros_like(messages.precision)
        matrix, noise = self.matrix.to(info.device), self.noise.to(info.device)
        eye, offset = torch.eye(self.size).to(info), self.offset.to(info.device)
        for step, after in zip(layout.steps[-2::-1], layout.steps[:0:-1], strict=True):
            said = messages[after] * Gaussian(info[after], precision[after])
            right = torch.cat([(said.info - said.precision @ offset).unsqueeze(-1), said.precision @ matrix], -1)
            pulled = matrix.T @ torch.linalg.solve(eye + said.precision @ noise, right)
            here = slice(step.start, step.start + after.stop - after.start)  # longest first: the others have ended
            info[here], precision[here] = pulled[..., 0], (pulled[..., 1:] + pulled[..., 1:].mT) / 2
        return Gaussian(info, precision)

    def _spread(self, name: str, value: float | list[list[float]]) -> Tensor:
        eye = torch.eye(self.size, dtype=torch.float64)
        spread = self._fitting(name, value, eye.shape) if isinstance(value, list) else value * eye
        if not bool((spread == spread.mT).all()) or bool(torch.linalg.cholesky_ex(spread).info):
            raise GraphError(
                f"{name} is not a covariance",
                expected="a variance above zero, or a symmetric positive definite matrix",
                found=str(value),
                fix="it is a variance per row of time, not a standard deviation",
            )
        return spread

    def _fitting(self, name: str, value: list[list[float]] | list[float], shape: torch.Size) -> Tensor:
        try:
            tensor = torch.tensor(value, dtype=torch.float64)
        except ValueError:
            tensor = torch.zeros(0)
        if tensor.shape != shape:
            raise ShapeError(
                f"{name} does not fit the state",
                expected=" x ".join(map(str, shape)),
                found=" x ".join(map(str, tensor.shape)) if tensor.numel() else "rows of unequal length",
            )
        return tensor
