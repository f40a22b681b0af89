"""Collapsed Gibbs sampling of labels: parameters and weights integrated out, a row at a time; for numba.

p(k_n = k | rest) is bias_nk times E[pi_k | other labels] times the Student predictive of z_n given the other rows of
component k (Neal 2000, algorithm 3, with K components). The bias counts once per row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from serket.modules.student import Bank, Tables, bank_of, fill, insert, log_predictive, rebuild, remove

__all__ = ["chain", "draw", "fills", "log_prior", "log_weights", "sweep", "uniform"]

Array = Any
FREE, DIRICHLET, STICKS = 0, 1, 2
"""Weights: not this model's, Dirichlet(alpha, ..., alpha), or truncated stick-breaking."""


@njit(cache=True)
def uniform(stream: Array) -> float:
    """Draw from [0, 1) and move a splitmix64 stream ``(1,)`` uint64 on (Steele, Lea & Flood 2014)."""
    stream[0] += np.uint64(0x9E3779B97F4A7C15)
    z = stream[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float((z >> np.uint64(11)) / 9007199254740992.0)


@njit(cache=True)
def log_weights(total: Array, alpha: float, kind: int, out: Array) -> None:
    """Write log E[pi_k | counts], up to a constant: log(alpha + n_k), or with sticks broken in the order of labels.

    Sticks: E[V_k] = (1 + n_k) / (1 + alpha + n_k + n_>k) of what is left (Ishwaran & James 2001, section 5.2).
    """
    after, components = 0, len(out)
    for k in range(components - 1, -1, -1):
        if kind == DIRICHLET:
            out[k] = math.log(alpha + total[k])
        elif kind == STICKS:
            out[k] = after
            after += total[k]
        else:
            out[k] = 0.0
    if kind == STICKS:
        left = 0.0
        for k in range(components - 1):
            tail = out[k]
            whole = math.log(1 + alpha + total[k] + tail)
            out[k] = left + math.log(1.0 + total[k]) - whole
            left += math.log(alpha + tail) - whole
        out[components - 1] = left


@njit(cache=True)
def log_prior(total: Array, components: int, alpha: float, kind: int) -> float:
    """Log p(labels), weights integrated out, up to a constant: products of gamma, or of beta functions (sticks)."""
    value, after = 0.0, 0
    for k in range(components - 1, -1, -1):
        if kind == DIRICHLET:
            value += math.lgamma(alpha + total[k])
        elif kind == STICKS and k < components - 1:
            value += math.lgamma(1.0 + total[k]) + math.lgamma(alpha + after)
            value -= math.lgamma(1 + alpha + total[k] + after)
        after += total[k]
    return value


@njit(cache=True)
def draw(logits: Array, stream: Array) -> tuple[int, float]:
    """Draw an index with probability proportional to exp(logits), which it overwrites; and their logsumexp."""
    top = logits.max()
    total = 0.0
    for k in range(len(logits)):
        total += math.exp(logits[k] - top)
        logits[k] = total
    threshold = uniform(stream) * total
    chosen = 0
    while logits[chosen] <= threshold and chosen < len(logits) - 1:
        chosen += 1
    return chosen, top + math.log(total)


@njit(cache=True)
def swap(bias: Array, labels: Array, stream: Array, alpha: float) -> None:
    """Propose that pairs of components exchange their places among the sticks, in place; by Metropolis-Hastings.

    Sticks are broken in the order of labels, which single rows can hardly change (Papaspiliopoulos & Roberts 2008).
    """
    components = bias.shape[1]
    total = np.zeros(components, np.int64)
    for n in range(len(labels)):
        total[labels[n]] += 1
    for a in range(components):
        b = int(uniform(stream) * components)
        gain = -log_prior(total, components, alpha, STICKS)
        total[a], total[b] = total[b], total[a]
        gain += log_prior(total, components, alpha, STICKS)
        for n in range(len(labels)):
            if labels[n] == a:
                gain += bias[n, b] - bias[n, a]
            elif labels[n] == b:
                gain += bias[n, a] - bias[n, b]
        if math.log(uniform(stream) + 1e-300) < gain:
            for n in range(len(labels)):
                if labels[n] == a:
                    labels[n] = b
                elif labels[n] == b:
                    labels[n] = a
        else:
            total[a], total[b] = total[b], total[a]


@njit(cache=True)
def chain(
    bank: Bank,
    points: Array,
    present: Array,
    bias: Array,
    labels: Array,
    stream: Array,
    alpha: float,
    kind: int,
    t: Tables,
) -> float:
    """Draw every label of one chain in turn, in place; returns the sum of the logs of the normalisers, nats."""
    components = bias.shape[1]
    logits, score = np.zeros(components), 0.0
    for n in range(len(labels)):
        x, old = points[n], labels[n]
        bank.total[old] -= 1
        log_weights(bank.total, alpha, kind, logits)
        for k in range(components):
            logits[k] += bias[n, k]
            if present[n]:
                logits[k] += log_predictive(bank, k, x, t, k == old)
        new, norm = draw(logits, stream)
        bank.total[new] += 1
        labels[n] = new
        score += norm
        if present[n] and new != old:
            if not remove(bank, old, x, t):
                rebuild(bank, old, points, present, labels, t)
            insert(bank, new, x, t)
    return score


@njit(cache=True)
def sweep(
    points: Array,
    present: Array,
    bias: Array,
    labels: Array,
    streams: Array,
    alpha: float,
    kind: int,
    t: Tables,
) -> Array:
    """Sweep over the labels ``(C, N)`` of all chains, in place; points, presence and bias are per chain or for all."""
    scores = np.zeros(len(labels))
    for c in range(len(labels)):
        bank = bank_of(bias.shape[2], points.shape[2], t)
        z, told, says = points[c % len(points)], present[c % len(present)], bias[c % len(bias)]
        if kind == STICKS:
            swap(says, labels[c], streams[c : c + 1], alpha)
        fill(bank, z, told, labels[c], t)
        scores[c] = chain(bank, z, told, says, labels[c], streams[c : c + 1], alpha, kind, t)
        if kind == DIRICHLET:
            scores[c] -= len(labels[c]) * math.log(len(labels[c]) - 1 + alpha * bias.shape[2])
    return scores


@njit(cache=True)
def fills(points: Array, present: Array, labels: Array, components: int, t: Tables) -> tuple[Array, Array, Array]:
    """Return rows with data ``(C, K)``, posterior means and factors of scatters, given labels ``(C, N)``."""
    chains, size = len(labels), points.shape[2]
    counts, means = np.zeros((chains, components)), np.zeros((chains, components, size))
    factors = np.zeros((chains, components, size, size))
    for c in range(chains):
        bank = bank_of(components, size, t)
        fill(bank, points[c % len(points)], present[c % len(present)], labels[c], t)
        counts[c], means[c], factors[c] = bank.count, bank.mean, bank.factor
    return counts, means, factors
