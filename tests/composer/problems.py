"""Worlds for the linear-Gaussian composer: random parameters, messages about data drawn from them, dense truth."""

import math

import torch

from serket.composer.factor_analysis import View
from serket.messages import Gaussian


def generator(seed):
    return torch.Generator().manual_seed(seed)


def random(g, *shape):
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def views_of(g, sizes, shared, private):
    """Random parameters; noise of 0.1 to 0.4."""
    return [
        View(2 * random(g, d), random(g, d, shared), 0.7 * random(g, d, private),
             0.1 + 0.3 * torch.rand(d, generator=g, dtype=torch.float64))
        for d in sizes
    ]  # fmt: skip


def draw(g, views, rows):
    """Draw s ``(rows, S)`` and z per view ``(rows, D)``."""
    s = random(g, rows, views[0].shared.shape[1])
    z = []
    for v in views:
        p = random(g, rows, v.private.shape[1])
        z.append(v.mean + s @ v.shared.T + p @ v.private.T + random(g, rows, len(v.mean)) * v.noise.sqrt())
    return s, z


def messages_about(g, z, full=False, precision=4.0):
    """A message per row about z, of random precision: N(z + noise; z, Lambda^-1) as a potential over z."""
    told = []
    for one in z:
        rows, size = one.shape
        if full:
            root = random(g, rows, size, size) / size**0.5
            lam = precision * (root @ root.mT + 0.3 * torch.eye(size, dtype=torch.float64))
        else:
            lam = precision * (0.3 + torch.rand(rows, size, generator=g, dtype=torch.float64))
        potential = Gaussian(torch.zeros_like(one), lam)
        centre = one + potential.shift(random(g, rows, size))
        wide = potential.full().precision
        told.append(Gaussian((wide @ centre.unsqueeze(-1)).squeeze(-1), lam))
    return told


def with_gaps(g, messages, fraction):
    """Make a fraction of the messages vacuous, at random, but never all of a row."""
    rows = len(messages[0].info)
    keep = torch.rand(rows, len(messages), generator=g, dtype=torch.float64) >= fraction
    keep[torch.arange(rows), torch.randint(len(messages), (rows,), generator=g)] = True
    return [message.mask(keep[:, m]) for m, message in enumerate(messages)]


def dense(views, messages, row, prior=None):
    """One joint Gaussian over (s, p_1 .. p_M, z_1 .. z_M) with the messages of a row: (mean, covariance, log Z, slices).

    The prior over s is N(0, I), or a bare potential; log Z is the integral of everything, messages bare.
    """
    shared = views[0].shared.shape[1]
    widths = [shared, *(v.private.shape[1] for v in views), *(len(v.mean) for v in views)]
    starts = [sum(widths[:i]) for i in range(len(widths) + 1)]
    at = [slice(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    info = torch.zeros(starts[-1], dtype=torch.float64)
    lam = torch.zeros(starts[-1], starts[-1], dtype=torch.float64)
    constant = 0.0
    for index in range(1 if prior else 0, 1 + len(views)):
        lam[at[index], at[index]] += torch.eye(widths[index], dtype=torch.float64)
        constant -= widths[index] * math.log(2 * math.pi) / 2
    if prior:
        info[at[0]] += prior.info[row]
        lam[at[0], at[0]] += prior.full().precision[row]
    for m, (view, message) in enumerate(zip(views, messages, strict=True)):
        p, z = at[1 + m], at[1 + len(views) + m]
        wide = torch.zeros(len(view.mean), starts[-1], dtype=torch.float64)  # z - A s - B p ~ N(mu, Psi)
        wide[:, z], wide[:, at[0]], wide[:, p] = (
            torch.eye(len(view.mean), dtype=torch.float64),
            -view.shared,
            -view.private,
        )
        info += wide.T @ (view.mean / view.noise)
        lam += wide.T @ (wide / view.noise.unsqueeze(1))
        constant -= float((view.mean**2 / view.noise + (2 * math.pi * view.noise).log()).sum()) / 2
        info[z] += message.info[row]
        lam[z, z] += message.full().precision[row]
    covariance = torch.linalg.inv(lam)
    mean = covariance @ info
    log_z = float(info @ mean - torch.logdet(lam) + starts[-1] * math.log(2 * math.pi)) / 2 + constant
    return mean, covariance, log_z, {"s": at[0], "p": at[1 : 1 + len(views)], "z": at[1 + len(views) :]}
