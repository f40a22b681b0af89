"""Components with their parameters integrated out: rank-one updates of factors, Student predictives; for numba.

After n rows a component is NIW(m, kappa_n, Psi_n, nu_n). A row that leaves or joins changes Psi_n by a rank-one term
and its Cholesky factor in O(D^2). Sources: Murphy (2007), section 9 (predictive and marginal); Golub & Van Loan (4th
ed.), section 6.5 (updating and downdating a factor). All in float64. Imported only when it is needed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from scipy.special import gammaln, multigammaln

from serket.modules.niw import Prior

__all__ = [
    "Bank",
    "Tables",
    "bank_of",
    "clear",
    "copy",
    "fill",
    "insert",
    "log_marginal",
    "log_predictive",
    "rebuild",
    "remove",
    "tables",
]

Array = Any


class Tables(NamedTuple):
    """The prior, and what depends on the number of rows only: terms of the predictive and of the marginal, nats."""

    kappa: float
    scatter: float
    dof: float
    predictive: Array
    marginal: Array


class Bank(NamedTuple):
    """Components: rows with data and rows in all ``(K,)``, means ``(K, D)``, factors ``(K, D, D)``.

    ``factor[k]`` is L with Psi_k = L L', lower triangular; ``inverse[k]`` holds one over its diagonal.
    """

    count: Array
    total: Array
    mean: Array
    factor: Array
    inverse: Array
    log_det: Array
    work: Array


def tables(prior: Prior, size: int, rows: int) -> Tables:
    """Tabulate for 0 to ``rows`` rows."""
    n = np.arange(rows + 2)
    kappa, dof = prior.kappa + n, prior.dof + n
    predictive = (
        gammaln((dof + 1) / 2) - gammaln((dof + 1 - size) / 2) - size / 2 * np.log(math.pi * (kappa + 1) / kappa)
    )
    marginal = multigammaln(dof / 2, size) - multigammaln(prior.dof / 2, size) - n * size / 2 * math.log(math.pi)
    marginal += size / 2 * (prior.dof * math.log(prior.scatter) + np.log(prior.kappa / kappa))
    return Tables(prior.kappa, prior.scatter, prior.dof, predictive, marginal)


@njit(cache=True)
def bank_of(components: int, size: int, t: Tables) -> Bank:
    """Return components without rows."""
    bank = Bank(
        np.zeros(components, np.int64),
        np.zeros(components, np.int64),
        np.zeros((components, size)),
        np.zeros((components, size, size)),
        np.zeros((components, size)),
        np.zeros(components),
        np.zeros(size),
    )
    for k in range(components):
        clear(bank, k, t)
    return bank


@njit(cache=True)
def clear(bank: Bank, k: int, t: Tables) -> None:
    """Take all data out of a component."""
    bank.count[k] = 0
    bank.mean[k] = 0.0
    bank.factor[k] = 0.0
    for i in range(bank.mean.shape[1]):
        bank.factor[k, i, i] = math.sqrt(t.scatter)
    finish(bank, k)


@njit(cache=True)
def finish(bank: Bank, k: int) -> None:
    """Store the inverse diagonal of L, and log det L."""
    total, product = 0.0, 1.0
    for i in range(bank.mean.shape[1]):
        pivot = bank.factor[k, i, i]
        bank.inverse[k, i] = 1.0 / pivot
        product *= pivot
        if not 1e-100 < product < 1e100:  # one logarithm for many factors
            total += math.log(product)
            product = 1.0
    bank.log_det[k] = total + math.log(product)


@njit(cache=True)
def insert(bank: Bank, k: int, x: Array, t: Tables) -> None:
    """Add a row: m' = (kappa m + x) / (kappa + 1), Psi' = Psi + kappa / (kappa + 1) (x - m)(x - m)'."""
    size, v, factor = len(x), bank.work, bank.factor[k]
    kappa = t.kappa + bank.count[k]
    root = math.sqrt(kappa / (kappa + 1))
    for i in range(size):
        gap = x[i] - bank.mean[k, i]
        v[i] = root * gap
        bank.mean[k, i] += gap / (kappa + 1)
    for j in range(size):
        pivot = math.sqrt(factor[j, j] ** 2 + v[j] ** 2)
        c, s, over = pivot / factor[j, j], v[j] / factor[j, j], factor[j, j] / pivot
        factor[j, j] = pivot
        for i in range(j + 1, size):
            factor[i, j] = (factor[i, j] + s * v[i]) * over
            v[i] = c * v[i] - s * factor[i, j]
    bank.count[k] += 1
    finish(bank, k)


@njit(cache=True)
def remove(bank: Bank, k: int, x: Array, t: Tables) -> bool:
    """Take a row out, the reverse of :func:`insert`; false where rounding leaves no factor: then rebuild."""
    if bank.count[k] == 1:
        clear(bank, k, t)
        return True
    size, v, factor = len(x), bank.work, bank.factor[k]
    kappa = t.kappa + bank.count[k]
    root = math.sqrt(kappa / (kappa - 1))
    bank.count[k] -= 1
    for i in range(size):
        gap = x[i] - bank.mean[k, i]
        v[i] = root * gap
        bank.mean[k, i] -= gap / (kappa - 1)
    for j in range(size):
        square = factor[j, j] ** 2 - v[j] ** 2
        if not square > 1e-12 * factor[j, j] ** 2:
            return False
        pivot = math.sqrt(square)
        c, s, over = pivot / factor[j, j], v[j] / factor[j, j], factor[j, j] / pivot
        factor[j, j] = pivot
        for i in range(j + 1, size):
            factor[i, j] = (factor[i, j] - s * v[i]) * over
            v[i] = c * v[i] - s * factor[i, j]
    finish(bank, k)
    return True


@njit(cache=True)
def rebuild(bank: Bank, k: int, points: Array, present: Array, labels: Array, t: Tables) -> None:
    """Build a component anew from the rows that hold its label."""
    clear(bank, k, t)
    for n in range(len(labels)):
        if present[n] and labels[n] == k:
            insert(bank, k, points[n], t)


@njit(cache=True)
def fill(bank: Bank, points: Array, present: Array, labels: Array, t: Tables) -> None:
    """Put every row into the component of its label, all at once; the bank is empty.

    Psi_n = Psi + sum_n (z_n - zbar)(z_n - zbar)' + kappa n / kappa_n zbar zbar', m_n = n zbar / kappa_n.
    """
    size, v = points.shape[1], bank.work
    for n in range(len(labels)):
        k = labels[n]
        bank.total[k] += 1
        if present[n]:
            bank.count[k] += 1
            for i in range(size):
                bank.mean[k, i] += points[n, i]
    for k in range(len(bank.count)):
        bank.mean[k] /= max(bank.count[k], 1)
        pull = t.kappa * bank.count[k] / (t.kappa + bank.count[k])
        for i in range(size):
            for j in range(i + 1):
                bank.factor[k, i, j] = pull * bank.mean[k, i] * bank.mean[k, j] + (t.scatter if i == j else 0.0)
    for n in range(len(labels)):
        if present[n]:
            k = labels[n]
            for i in range(size):
                v[i] = points[n, i] - bank.mean[k, i]
                for j in range(i + 1):
                    bank.factor[k, i, j] += v[i] * v[j]
    for k in range(len(bank.count)):
        bank.factor[k] = np.linalg.cholesky(bank.factor[k])
        bank.mean[k] *= bank.count[k] / (t.kappa + bank.count[k])
        finish(bank, k)


@njit(cache=True)
def log_predictive(bank: Bank, k: int, x: Array, t: Tables, own: bool) -> float:
    """Log of the Student density of x given the other rows of component k; ``own``: x is one of them, and left out.

    With q = (x - m)' Psi^-1 (x - m): log t = table - log det L - (nu + 1) / 2 log(1 + kappa / (kappa + 1) q). Without
    its own row Psi is Psi - a (x - m)(x - m)', a = kappa / (kappa - 1), and so q / (1 - a q), det (1 - a q), and x - m
    is longer by the factor a.
    """
    size, v, factor, inverse = len(x), bank.work, bank.factor[k], bank.inverse[k]
    n = bank.count[k]
    q = 0.0
    for i in range(size):  # solve L v = x - m
        left = x[i] - bank.mean[k, i]
        for j in range(i):
            left -= factor[i, j] * v[j]
        v[i] = left * inverse[i]
        q += v[i] * v[i]
    log_det = bank.log_det[k]
    if own:
        n -= 1
        a = (t.kappa + n + 1) / (t.kappa + n)
        rest = max(1 - a * q, 1e-300)
        log_det += math.log(rest) / 2
        q *= a * a / rest
    kappa = t.kappa + n
    return float(t.predictive[n] - log_det - (t.dof + n + 1) / 2 * math.log1p(kappa / (kappa + 1) * q))


@njit(cache=True)
def log_marginal(bank: Bank, k: int, t: Tables) -> float:
    """Log of the density of all rows of component k, its parameters integrated out (Murphy 2007, eq. for p(D))."""
    n = bank.count[k]
    return float(t.marginal[n] - (t.dof + n) * bank.log_det[k])


@njit(cache=True)
def copy(bank: Bank, source: int, target: int) -> None:
    """Put one component's rows with data in the place of another's; totals stay."""
    bank.count[target] = bank.count[source]
    bank.mean[target] = bank.mean[source]
    bank.factor[target] = bank.factor[source]
    bank.inverse[target] = bank.inverse[source]
    bank.log_det[target] = bank.log_det[source]
