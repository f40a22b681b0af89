"""Brute force: what the engine is held against. Everything in float64, exponential cost, no cleverness."""

import itertools
import math

import torch

from serket.messages import Gaussian


def enumerate_tables(sizes, factors):
    """Marginals and log Z of prod factors, by visiting every joint state.

    sizes: {variable: K}; factors: list of (variables, tensor over them, not in logs).
    """
    names = list(sizes)
    total, marginals = 0.0, {name: torch.zeros(k, dtype=torch.float64) for name, k in sizes.items()}
    for state in itertools.product(*(range(sizes[name]) for name in names)):
        at = dict(zip(names, state, strict=True))
        weight = 1.0
        for scope, table in factors:
            weight *= float(table[tuple(at[name] for name in scope)])
        total += weight
        for name in names:
            marginals[name][at[name]] += weight
    return {name: m / total for name, m in marginals.items()}, math.log(total)


def dense_gaussian(sizes, factors):
    """Means, covariances and log Z of prod factors, by one big joint Gaussian.

    factors: list of (variables, offset b, matrix over the stacked variables, covariance R, observed y):
    N(y; b + matrix x, R).
    """
    names = list(sizes)
    starts = dict(zip(names, itertools.accumulate([0, *sizes.values()]), strict=False))
    dim = sum(sizes.values())
    info, precision = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
    constant = 0.0
    for scope, offset, matrix, noise, y in factors:
        wide = torch.zeros(len(y), dim, dtype=torch.float64)
        column = 0
        for name in scope:
            wide[:, starts[name] : starts[name] + sizes[name]] += matrix[:, column : column + sizes[name]]
            column += sizes[name]
        inverse = torch.linalg.inv(noise)
        gap = y - offset
        info += wide.T @ inverse @ gap
        precision += wide.T @ inverse @ wide
        constant -= float(gap @ inverse @ gap + torch.logdet(2 * math.pi * noise)) / 2
    covariance = torch.linalg.inv(precision)
    mean = covariance @ info
    log_z = float(Gaussian(info, precision).log_z()) + constant
    at = {name: slice(starts[name], starts[name] + sizes[name]) for name in names}
    return {n: (mean[at[n]], covariance[at[n], at[n]]) for n in names}, log_z
