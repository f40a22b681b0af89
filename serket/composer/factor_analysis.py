"""Group factor analysis with latent observations: the exact E-step, and two exact M-steps.

    z_m = mu_m + A_m s + B_m p_m + e_m,   s ~ N(0, I),  p_m ~ N(0, I),  e_m ~ N(0, diag Psi_m)

The z_m are not seen, only messages exp(h' z - z' L z / 2) about them, one per row, with L = 0 where a view is missing.
A fit wants standardised units, mean 0 and variance 1 per dimension: the start, the prior of the loadings and the floor
of the noise are in them.
(Klami, Virtanen & Kaski 2013 for the model; Rubin & Thayer 1982 for EM; Liu & Rubin 1994 for the collapsed step.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serket.messages import Gaussian

__all__ = ["Reading", "View", "improve", "in_units", "initial", "read", "regressed"]

NOISE_FLOOR = 1e-3
CHUNK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Parameters of one view of D dimensions: mu ``(D,)``, A ``(D, S)``, B ``(D, P)``, Psi ``(D,)``."""

    mean: Tensor
    shared: Tensor
    private: Tensor
    noise: Tensor

    def to(self, like: Tensor) -> View:
        """Return the parameters with another's dtype and device."""
        return View(*(part.to(like) for part in (self.mean, self.shared, self.private, self.noise)))

    def in_units(self, location: Tensor, scale: Tensor) -> View:
        """Express a model of z as one of u = (z - location) / scale; s and p stay as they are."""
        column = scale.unsqueeze(1)
        return View(
            (self.mean - location) / scale, self.shared / column, self.private / column, self.noise / scale.square()
        )

    def out_of_units(self, location: Tensor, scale: Tensor) -> View:
        """Express a model of u as one of z = location + scale u."""
        return self.in_units(-location / scale, 1 / scale)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a view's messages say of s, with its z and p integrated out, and what is needed to put p back.

    Args:
        message: the potential over s, ``(rows, S)``, full.
        constant: log of its scale, nats, ``(rows,)``.
        weight: W = L - L V L, V = (Psi^-1 + L)^-1: the precision with which w = A s + B p is seen, diagonal or full.
        spread: V, covariance of z given s and p, diagonal or full.
        private_mean: u = D^-1 B' r with D = I + B' W B, ``(rows, P)``: the mean of p at s = 0.
        private_covariance: D^-1.
        slope: T = D^-1 B' W A: the mean of p falls by T s.
    """

    message: Gaussian
    constant: Tensor
    weight: Tensor
    spread: Tensor
    private_mean: Tensor
    private_covariance: Tensor
    slope: Tensor


def in_units(message: Gaussian, location: Tensor, scale: Tensor) -> tuple[Gaussian, Tensor]:
    """Express a message over z as one over u = (z - location) / scale.

    Returns:
        The message, and log m(location), nats, ``(rows,)``: what its integrals lack of those over z.
    """
    if message.diagonal:
        pulled, precision = message.precision * location, scale.square() * message.precision
    else:
        pulled = _times(message.precision, location.expand_as(message.info))
        precision = scale.unsqueeze(1) * message.precision * scale
    constant = ((message.info - pulled / 2) * location).sum(-1)
    return Gaussian(scale * (message.info - pulled), precision), constant


def read(view: View, message: Gaussian) -> Reading:
    """Integrate z and p out of N(z; mu + A s + B p, Psi) exp(h' z - z' L z / 2): the E-step of one view, exact.

    With e = h - L mu and r = e - L V e the potential over w is exp(r' w - w' W w / 2), and p leaves by the Schur
    complement: J = A' W A - (A' W B) D^-1 (B' W A), j = A' r - (A' W B) D^-1 B' r. No division by L: zero is exact.
    """
    mean, loading, private, noise = view.mean, view.shared, view.private, view.noise
    h, lam = message.info, message.precision
    if message.diagonal:
        inflated = 1 + lam * noise
        spread, weight = noise / inflated, lam / inflated
        gap = (h - lam * mean) / inflated
        quadratic = ((noise * h * h + 2 * h * mean - lam * mean * mean) / inflated).sum(-1)
        log_det = inflated.log().sum(-1)
    else:
        root = torch.linalg.cholesky(torch.diag_embed(1 / noise) + lam)
        spread = torch.cholesky_inverse(root)
        weight = lam - lam @ spread @ lam
        error = h - _times(lam, mean.expand_as(h))
        pulled = _times(spread, error)
        gap = error - _times(lam, pulled)
        quadratic = (h * mean).sum(-1) + (error * mean).sum(-1) + (error * pulled).sum(-1)
        log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + noise.log().sum()
    across = _sandwich(private, weight, loading)
    identity = torch.eye(private.shape[1]).to(h)
    factor = torch.linalg.cholesky(identity + _sandwich(private, weight, private))
    slope = torch.cholesky_solve(across, factor)
    seen = gap @ private
    private_mean = torch.cholesky_solve(seen.unsqueeze(-1), factor).squeeze(-1)
    info = gap @ loading - _times(across.mT, private_mean)
    precision = _sandwich(loading, weight, loading) - across.mT @ slope
    constant = (quadratic - log_det + (seen * private_mean).sum(-1)) / 2
    constant = constant - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Reading(
        Gaussian(info, precision), constant, weight, spread, private_mean, torch.cholesky_inverse(factor), slope
    )


def improve(
    views: Sequence[View], messages: Sequence[Gaussian], shrinkage: float, only: Collection[int] | None = None
) -> tuple[list[View], float]:
    """Take one EM step over all rows, in chunks, so that memory does not grow with them.

    With ``only`` these views learn and the others stay: a step up log p(their messages | those of the others).

    Returns:
        The new parameters, and the mean log evidence per row under the old ones, nats.
    """
    learn = range(len(views)) if only is None else only
    steps = {n: (_Collapsed if messages[n].diagonal else _Plain)(views[n]) for n in learn}
    size, rows = views[0].shared.shape[1], len(messages[0].info)
    total = 0.0
    for chunk in _chunks(rows):
        parts = [message[chunk] for message in messages]
        readings = [read(view, part) for view, part in zip(views, parts, strict=True)]
        like = parts[0]
        belief = Gaussian.standard((len(like.info),), size, dtype=like.dtype, device=like.device).full()
        base = belief.log_z()
        for reading in readings:
            belief = belief * reading.message
        total += float((belief.log_z() - base + sum(reading.constant for reading in readings)).sum())
        mean, covariance = belief.mean(), belief.covariance()
        for number, step in steps.items():
            step.add(parts[number], readings[number], *_together(mean, covariance, readings[number]))
    return [steps[n].solve(shrinkage) if n in steps else view for n, view in enumerate(views)], total / rows


def regressed(
    message: Gaussian, views: Sequence[View], others: Sequence[Gaussian], private: int, shrinkage: float
) -> View:
    """Start one more view: the ridge regression of its posterior means under N(0, I) on the s that the others tell.

    With x = [1, s] and E over p(s | others), in rows where the view and some other speak:
    [mu, A] = (sum E[z] E[x]') (sum E[x x'] + penalty)^-1; B and Psi as in :func:`initial`.
    """
    size, wide = views[0].shared.shape[1], 1 + views[0].shared.shape[1]
    paired = ~message.is_vacuous() & torch.stack([~other.is_vacuous() for other in others]).any(0)
    message, others = message[paired], [other[paired] for other in others]
    target = (message * Gaussian(torch.zeros_like(message.info), torch.ones_like(message.info))).mean()
    moments, means = target.new_zeros(wide, wide), []
    for chunk in _chunks(len(target)):
        belief = Gaussian.standard((len(target[chunk]),), size, dtype=target.dtype, device=target.device).full()
        for view, other in zip(views, others, strict=True):
            belief = belief * read(view, other[chunk]).message
        mean = belief.mean()
        means.append(torch.cat([torch.ones_like(mean[:, :1]), mean], 1))
        moments += means[-1].T @ means[-1]
        moments[1:, 1:] += belief.covariance().sum(0)
    x = torch.cat(means)
    c = torch.linalg.solve(moments + _penalty(moments, shrinkage), x.T @ target).T
    return View(c[:, 0], c[:, 1:], *_rest(target - x @ c.T, private))


def initial(messages: Sequence[Gaussian], shared: int, private: int) -> list[View]:
    """Start from joint principal components of the posterior means under N(0, I).

    Rows with every view are used if there are as many as shared dimensions, else all rows, a missing view at its mean:
    then the first components are of one view each, and EM does not align them. Residuals give B by their own principal
    components, and Psi by what is left.
    """
    present = torch.stack([~message.is_vacuous() for message in messages], 1)
    paired = present.all(1)
    use = paired if int(paired.sum()) >= shared else present.any(1)
    means, centred = [], []
    for message, here in zip(messages, present.T, strict=True):
        posterior = (message * Gaussian(torch.zeros_like(message.info), torch.ones_like(message.info))).mean()
        seen = here & use
        means.append(posterior[seen].sum(0) / seen.sum().clamp_min(1))
        centred.append(torch.where(here.unsqueeze(-1), posterior - means[-1], 0.0)[use])
    rows = len(centred[0])
    left = torch.linalg.svd(torch.cat(centred, 1), full_matrices=False)[0][:, :shared]
    scores = torch.nn.functional.pad(left * rows**0.5, (0, shared - left.shape[1]))
    views = []
    for mean, gap in zip(means, centred, strict=True):
        loading = gap.T @ scores / rows
        views.append(View(mean, loading, *_rest(gap - scores @ loading.T, private)))
    return views


def _rest(residual: Tensor, private: int) -> tuple[Tensor, Tensor]:
    """Return B, the first principal components of what s leaves ``(rows, D)``, and Psi, what they leave."""
    covariance = residual.T @ residual / len(residual)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:private], vectors.flip(1)[:, :private]
    extra = vectors * values.clamp_min(1e-6).sqrt()
    return extra, (covariance.diagonal() - extra.square().sum(1)).clamp_min(0.02) + 0.02


class _Collapsed:
    """M-step for diagonal messages, with z integrated out (ECME), which spares EM's slow drift.

    For each dimension d with c_d = [mu_d, A_d, B_d], x = [1, s, p], q = 1 + L Psi, R = E[x x']:
    (sum_n (L/q) R + penalty) c_d = sum_n (h/q) E[x], at the old Psi; then, at the new c,
    Psi_d = mean over rows that see d of Psi^2 E[(h - L c' x)^2] / q^2 + Psi / q.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        size, wide = len(view.mean), 1 + view.shared.shape[1] + view.private.shape[1]
        self.moments = view.mean.new_zeros(2, size, wide, wide)
        self.cross = view.mean.new_zeros(2, size, wide)
        self.squares, self.left, self.seen = view.mean.new_zeros(3, size)

    def add(self, message: Gaussian, reading: Reading, x: Tensor, second: Tensor) -> None:
        h, lam = message.info, message.precision
        inflated = 1 + lam * self.view.noise
        wide = second.shape[-1]
        flat = second.flatten(1)
        self.moments[0] += (reading.weight.T @ flat).view(-1, wide, wide)
        self.moments[1] += (reading.weight.square().T @ flat).view(-1, wide, wide)
        self.cross[0] += (h / inflated).T @ x
        self.cross[1] += (h * lam / inflated.square()).T @ x
        self.squares += (h / inflated).square().sum(0)
        self.left += torch.where(lam > 0, reading.spread, 0.0).sum(0)
        self.seen += (lam > 0).sum(0)

    def solve(self, shrinkage: float) -> View:
        penalty = _penalty(self.moments[0, 0], shrinkage)
        # A dimension that no row sees has c = 0, without shrinkage, too.
        unseen = torch.where(self.seen > 0, 0.0, 1.0)[:, None, None] * torch.eye(len(penalty)).to(penalty)
        c = torch.linalg.solve(self.moments[0] + penalty + unseen, self.cross[0].unsqueeze(-1)).squeeze(-1)
        error = self.squares - 2 * (c * self.cross[1]).sum(1) + torch.einsum("di,dij,dj->d", c, self.moments[1], c)
        noise = (self.view.noise.square() * error + self.left) / self.seen.clamp_min(1)
        return _view(c, torch.where(self.seen > 0, noise, self.view.noise), self.view)


class _Plain:
    """M-step for full messages: regression of E[z] on x over the rows that see the view."""

    def __init__(self, view: View) -> None:
        self.view = view
        size, wide = len(view.mean), 1 + view.shared.shape[1] + view.private.shape[1]
        self.c = torch.cat([view.mean.unsqueeze(1), view.shared, view.private], 1)
        self.moments, self.cross = view.mean.new_zeros(wide, wide), view.mean.new_zeros(size, wide)
        self.squares, self.seen = view.mean.new_zeros(size), 0

    def add(self, message: Gaussian, reading: Reading, x: Tensor, second: Tensor) -> None:
        here = ~message.is_vacuous()
        h, spread, x, second = message.info[here], reading.spread[here], x[here], second[here]
        # z | x ~ N(V (Psi^-1 c x + h), V): E[z x'] and the diagonal of E[z z'].
        slope = spread @ (self.c / self.view.noise.unsqueeze(1))
        offset = _times(spread, h)
        self.cross += (slope @ second).sum(0) + offset.T @ x
        pulled = (slope @ x.unsqueeze(-1)).squeeze(-1)
        squares = torch.einsum("ndi,nij,ndj->d", slope, second, slope)
        self.squares += squares + (offset * (2 * pulled + offset)).sum(0) + spread.diagonal(dim1=1, dim2=2).sum(0)
        self.moments += second.sum(0)
        self.seen += int(here.sum())

    def solve(self, shrinkage: float) -> View:
        if not self.seen:
            return self.view
        # For each d: (sum_n R + Psi_d penalty) c_d = sum_n E[z_d x], at the old Psi: the prior of c knows no Psi.
        penalty = self.view.noise[:, None, None] * _penalty(self.moments, shrinkage)
        c = torch.linalg.solve(self.moments + penalty, self.cross.unsqueeze(-1)).squeeze(-1)
        error = self.squares - 2 * (c * self.cross).sum(1) + torch.einsum("di,ij,dj->d", c, self.moments, c)
        return _view(c, error / self.seen, self.view)


def _together(mean: Tensor, covariance: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
    """Return E[x] and E[x x'] for x = [1, s, p], with p | s ~ N(u - T s, D^-1)."""
    rows, size = mean.shape
    p = reading.private_mean - _times(reading.slope, mean)
    x = torch.cat([mean.new_ones(rows, 1), mean, p], 1)
    second = x.unsqueeze(-1) * x.unsqueeze(-2)
    falls = reading.slope @ covariance
    second[:, 1 : 1 + size, 1 : 1 + size] += covariance
    second[:, 1 + size :, 1 : 1 + size] -= falls
    second[:, 1 : 1 + size, 1 + size :] -= falls.mT
    second[:, 1 + size :, 1 + size :] += reading.private_covariance + falls @ reading.slope.mT
    return x, second


def _penalty(like: Tensor, shrinkage: float) -> Tensor:
    """N(0, 1 / shrinkage) on the loadings, next to nothing on the mean: it keeps unseen directions at zero."""
    weights = like.new_full((like.shape[-1],), shrinkage)
    weights[0] = 1e-3
    return weights.diag()


def _view(c: Tensor, noise: Tensor, old: View) -> View:
    size = old.shared.shape[1]
    return View(c[:, 0], c[:, 1 : 1 + size], c[:, 1 + size :], noise.clamp_min(NOISE_FLOOR))


def _sandwich(left: Tensor, weight: Tensor, right: Tensor) -> Tensor:
    """X' W Y per row; for diagonal W one matrix product over all rows."""
    if weight.dim() == 3:
        return left.T @ weight @ right
    pairs = left.unsqueeze(2) * right.unsqueeze(1)
    return (weight @ pairs.flatten(1)).view(len(weight), left.shape[1], right.shape[1])


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, rows, CHUNK))
