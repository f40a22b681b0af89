"""A linear-Gaussian factor: a sensor, a motion model, or a sum of causes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from serket.errors import GraphError, ShapeError
from serket.messages import Family, Gaussian, Message
from serket.protocol import Evidence, Port, Reply, Role
from serket.registry import register

__all__ = ["LinearGaussian"]


@register("linear_gaussian")
class LinearGaussian:
    """p(y | x) = N(y; W x + b, R), with x the parents one after another, and y at a ``child`` port or observed as data.

    As a potential over (x, y) with P = R^-1 (Roweis & Ghahramani 1999; Koller & Friedman 2009, section 14.2):
    Lambda = [[W'PW, -W'P], [-PW, P]], eta = [-W'Pb, Pb]. A reply multiplies the other ports' inboxes in and integrates
    everything but its own port out. Where only some dimensions of y are observed, P is the inverse of their block of R.

    Args:
        ports: ``given`` (parents, Gaussian, any number) and ``child``; leave ``child`` out if y is data.
        matrix: W, one row per dimension of y, one column per dimension of x.
        noise: R, symmetric and positive definite.
        offset: b, zero unless given.

    Raises:
        ShapeError: sizes of W, R, b and the ports do not agree.
        GraphError: R is not a covariance.
    """

    ports: Mapping[str, Port] = {
        "given": Port(Role.PARENT, Family.GAUSSIAN, many=True),
        "child": Port(Role.CHILD, Family.GAUSSIAN, optional=True),
    }
    exact = True
    masks = "dimension"

    def __init__(
        self,
        ports: Mapping[str, Port],
        matrix: list[list[float]],
        noise: list[list[float]],
        offset: list[float] | None = None,
    ) -> None:
        self.ports = ports
        self.parents = tuple(name for name in ports if name != "child")
        self.weight = _matrix("matrix", matrix)
        self.noise = _matrix("noise", noise)
        out, into = self.weight.shape
        self.offset = (
            torch.zeros(out, dtype=torch.float64) if offset is None else torch.tensor(offset, dtype=torch.float64)
        )
        wanted = (ports["child"].size if "child" in ports else out, sum(ports[name].size or 0 for name in self.parents))
        if wanted != (out, into):
            raise ShapeError(
                "matrix does not fit the ports",
                expected=f"{wanted[0]} x {wanted[1]} (child x given)",
                found=f"{out} x {into}",
            )
        if self.noise.shape != (out, out) or self.offset.shape != (out,):
            raise ShapeError(
                "noise or offset does not fit the matrix",
                expected=f"noise {out} x {out}, offset {out}",
                found=f"noise {_by(self.noise)}, offset {_by(self.offset)}",
            )
        if not bool((self.noise == self.noise.mT).all()) or bool(torch.linalg.cholesky_ex(self.noise).info):
            raise GraphError(
                "noise is not a covariance",
                expected="a symmetric positive definite matrix",
                found=str(self.noise.tolist()),
            )

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Multiply the inboxes into the factor and integrate; exact, with exact evidence."""
        inboxes = {name: cast(Gaussian, inbox[name]).full() for name in self.ports}
        first = next(iter(inboxes.values()))
        factor, constant, told = self._factor(evidence, first)
        if "child" in self.ports:
            told = ~inbox["child"].is_vacuous()
        spans, start = {}, 0
        for name in [*self.parents, *(["child"] if "child" in self.ports else [])]:
            spans[name] = slice(start, start + inboxes[name].size)
            start += inboxes[name].size
        messages: dict[str, Message] = {}
        for name, span in spans.items():
            if name in (self.ports if ports is None else ports):
                rest = {other: spans[other] for other in spans if other != name}
                message = _placed(factor, inboxes, rest).marginal(span)
                # With nothing below, the integral of p(y | x) over y is one: parents hear nothing, to the bit.
                messages[name] = message if name == "child" else message.mask(told)
        log_evidence = _placed(factor, inboxes, spans).log_z() + constant
        return Reply(messages, log_evidence=log_evidence, bound="exact")

    def predict(self, inbox: Mapping[str, Message], *, generator: torch.Generator) -> torch.distributions.Distribution:
        """Return p(y | beliefs) = N(W m + b, W V W' + R), the parents' beliefs taken as independent."""
        beliefs = [cast(Gaussian, inbox[name]) for name in self.parents]
        mean = torch.cat([belief.mean() for belief in beliefs], -1)
        weight, noise, offset = (t.to(mean) for t in (self.weight, self.noise, self.offset))
        spans = torch.split(weight, [belief.size for belief in beliefs], 1)
        covariance = noise + sum(part @ b.covariance() @ part.T for part, b in zip(spans, beliefs, strict=True))
        return torch.distributions.MultivariateNormal(mean @ weight.T + offset, covariance)

    def _factor(self, evidence: Evidence, like: Gaussian) -> tuple[Gaussian, Tensor, Tensor]:
        """Return the factor over (x, child), its constant in nats, and the rows in which y is observed at all."""
        weight, noise, offset = (t.to(like.device, like.dtype) for t in (self.weight, self.noise, self.offset))
        rows, out = len(evidence), len(weight)
        if "child" in self.ports:
            precision = torch.cholesky_inverse(torch.linalg.cholesky(noise))
            joint = torch.cat([-weight, torch.eye(out).to(weight)], 1)  # y - W x
            factor = Gaussian(offset @ precision @ joint, joint.mT @ precision @ joint)
            constant = -(offset @ precision @ offset + noise.logdet() + out * math.log(2 * math.pi)) / 2
            return factor.expand(rows), constant.expand(rows), evidence.present
        if evidence.values is None:
            zero = torch.zeros(rows).to(weight)
            return (
                Gaussian.vacuous((rows,), weight.shape[1], dtype=like.dtype, device=like.device).full(),
                zero,
                zero > 0,
            )
        values = evidence.values.to(like.dtype)
        if values.shape[1:] != (out,):
            raise ShapeError(
                "data do not fit the matrix",
                expected=f"(rows, {out}), a column per row of matrix",
                found=str(tuple(values.shape)),
                fix="change matrix, or the array",
            )
        seen = evidence.observed if evidence.observed.dim() == 2 else evidence.observed.unsqueeze(-1).expand(rows, out)
        both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
        block = torch.where(both, noise, torch.eye(out).to(noise))  # R of the observed, the identity elsewhere
        root = torch.linalg.cholesky(block)
        precision = torch.where(both, torch.cholesky_inverse(root), 0.0)
        gap = torch.where(seen, values - offset, 0.0).unsqueeze(-1)
        info = (weight.mT @ (precision @ gap)).squeeze(-1)
        constant = -(gap.mT @ precision @ gap).flatten() / 2 - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = constant - seen.to(values).sum(-1) * math.log(2 * math.pi) / 2
        return Gaussian(info, weight.mT @ precision @ weight), constant, evidence.present


def _placed(factor: Gaussian, inboxes: Mapping[str, Gaussian], spans: Mapping[str, slice]) -> Gaussian:
    """Multiply the inboxes of these ports into their spans of the factor."""
    info, precision = factor.info.clone(), factor.precision.clone()
    for name, span in spans.items():
        info[..., span] += inboxes[name].info
        precision[..., span, span] += inboxes[name].precision
    return Gaussian(info, precision)


def _matrix(name: str, values: list[list[float]]) -> Tensor:
    try:
        matrix = torch.tensor(values, dtype=torch.float64)
    except (ValueError, TypeError):
        matrix = torch.zeros(0)
    if matrix.dim() != 2:
        raise ShapeError(f"{name} is not a matrix", expected="a list of rows of equal length", found=str(values))
    return matrix


def _by(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
