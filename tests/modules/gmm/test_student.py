"""Components updated a row at a time against closed forms, and mistakes planted in them."""

import math

import numpy as np
import pytest
import torch
from scipy.special import multigammaln
from scipy.stats import multivariate_t

from serket.modules.niw import Prior
from tests.modules.gmm.planted import plant
from tests.modules.gmm.toys import generator

PRIOR = Prior(alpha=1.0, kappa=0.4, scatter=0.3, dof=5.0)


def closed(x):
    """kappa, mean, Psi, dof of a component, and log p(x) (Murphy 2007, section 9)."""
    n, size = x.shape
    kappa, dof = PRIOR.kappa + n, PRIOR.dof + n
    mean = x.sum(0) / kappa
    psi = PRIOR.scatter * np.eye(size) + x.T @ x - kappa * np.outer(mean, mean)
    value = multigammaln(dof / 2, size) - multigammaln(PRIOR.dof / 2, size) - n * size / 2 * math.log(math.pi)
    value += PRIOR.dof * size / 2 * math.log(PRIOR.scatter) - dof / 2 * np.linalg.slogdet(psi)[1]
    return kappa, mean, psi, dof, value + size / 2 * math.log(PRIOR.kappa / kappa)


def predictive(x, others):
    kappa, mean, psi, dof, _ = closed(others)
    df = dof - len(x) + 1
    return multivariate_t(mean, psi * (kappa + 1) / (kappa * df), df).logpdf(x)


def largest_error():
    """Rows join and leave; every quantity against its closed form."""
    from serket.modules import student

    x = 2 + torch.randn(12, 3, generator=generator(), dtype=torch.float64).numpy()
    t = student.tables(PRIOR, 3, 12)
    bank, errors = student.bank_of(2, 3, t), []

    def check(rows):
        inside = x[rows]
        errors.append(student.log_marginal(bank, 0, t) - closed(inside)[-1])
        errors.append(student.log_predictive(bank, 0, x[11], t, False) - predictive(x[11], inside))
        errors.append(np.abs(bank.factor[0] @ bank.factor[0].T - closed(inside)[2]).max())
        if len(rows):
            rest = predictive(x[rows[0]], x[rows[1:]])
            errors.append(student.log_predictive(bank, 0, x[rows[0]], t, True) - rest)

    check([])
    for n in range(11):
        student.insert(bank, 0, x[n], t)
    check(list(range(11)))
    for n in range(10):
        errors.append(0.0 if student.remove(bank, 0, x[n], t) else math.inf)
    check([10])
    student.remove(bank, 0, x[10], t)
    check([])
    labels = np.array([0, 1] * 6)
    student.fill(bank, x, np.arange(12) != 4, labels, t)
    check([0, 2, 6, 8, 10])
    assert bank.total.tolist() == [6, 6]
    return max(abs(float(error)) for error in errors)


def test_components_equal_closed_forms():
    assert largest_error() < 1e-9


MISTAKES = {
    "wrong sign of the downdate": ("(factor[i, j] - s * v[i]) * over", "(factor[i, j] + s * v[i]) * over"),
    "own row left in the scatter": ("rest = max(1 - a * q, 1e-300)", "rest = 1.0"),
    "a square used as a root": ("math.sqrt(kappa / (kappa + 1))", "kappa / (kappa + 1)"),
    "stale mean": ("bank.mean[k, i] += gap / (kappa + 1)", "pass"),
    "prior dropped": ("kappa = t.kappa + n\n", "kappa = 1.0 * n\n"),
}


LONG = [pytest.param(name, marks=() if name == "stale mean" else pytest.mark.stat) for name in MISTAKES]


@pytest.mark.parametrize("mistake", LONG)
def test_planted_mistakes_are_caught(monkeypatch, mistake):
    plant(monkeypatch, "student", *MISTAKES[mistake])
    assert largest_error() > 1e-3
