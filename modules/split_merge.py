"""Split-merge moves: clusters that came to share a component part, and halves of one meet again; for numba.

Jain & Neal (2004), section 3.2, on labelled components. Two rows i and j are drawn. If they share label b, its rows are
parted between b, which j keeps, and a, drawn among the E labels that no row holds, for i; else all rows of a, the label
of i, join b. The parting comes from restricted Gibbs scans, the last of which has the proposal probability q. A split
is accepted with probability min(1, p(parted) E / (p(joined) q)), a merge with min(1, p(joined) q / (p(parted) E)); E
counts the labels that are free once joined, and p is p(labels | z), parameters and weights integrated out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from serket.modules.label_scan import draw, log_prior, log_weights, uniform
from serket.modules.student import (
    Bank,
    Tables,
    bank_of,
    clear,
    copy,
    fill,
    insert,
    log_marginal,
    log_predictive,
    rebuild,
    remove,
)

__all__ = ["moves"]

Array = Any


@njit(cache=True)
def scan(
    bank: Bank,
    a: int,
    b: int,
    points: Array,
    present: Array,
    bias: Array,
    mine: Array,
    fixed: Array,
    stream: Array,
    alpha: float,
    kind: int,
    t: Tables,
    forced: Array,
) -> float:
    """Draw in turn whether each row of ``mine`` goes to slot A (label a) or B (label b); returns log q.

    ``fixed`` are rows whose place is 0 (A) or 1 (B); with ``forced`` not empty every row goes where it says.
    """
    components = bias.shape[1]
    slots = (components, components + 1)
    weights, logits, log_q = np.zeros(components), np.zeros(2), 0.0
    for n in mine:
        x, old = points[n], fixed[n]
        bank.total[a if old == 0 else b] -= 1
        log_weights(bank.total[:components], alpha, kind, weights)
        logits[0], logits[1] = weights[a] + bias[n, a], weights[b] + bias[n, b]
        if present[n]:
            logits[0] += log_predictive(bank, slots[0], x, t, old == 0)
            logits[1] += log_predictive(bank, slots[1], x, t, old == 1)
        ours = logits[0], logits[1]
        new, norm = draw(logits, stream)
        if len(forced):
            new = forced[n]
        log_q += ours[new] - norm
        bank.total[a if new == 0 else b] += 1
        fixed[n] = new
        if present[n] and new != old:
            if not remove(bank, slots[old], x, t):
                rebuild(bank, slots[old], points, present, fixed + components, t)
            insert(bank, slots[new], x, t)
    return log_q


@njit(cache=True)
def move(
    bank: Bank,
    points: Array,
    present: Array,
    bias: Array,
    labels: Array,
    stream: Array,
    alpha: float,
    kind: int,
    scans: int,
    t: Tables,
) -> bool:
    """Propose one split or merge, in place; returns whether it was accepted."""
    rows, components = bias.shape
    i, j = int(uniform(stream) * rows), int(uniform(stream) * (rows - 1))
    j += j >= i
    a, b = labels[i], labels[j]
    split = a == b
    empty = np.nonzero(bank.total[:components] == 0)[0]
    if split and not len(empty):
        return False
    if split:
        a = empty[int(uniform(stream) * len(empty))]
    free = len(empty) if split else len(empty) + 1
    both = np.nonzero((labels == a) | (labels == b))[0]
    mine = both[(both != i) & (both != j)]
    before = bank.total.copy()
    old = log_prior(before, components, alpha, kind)

    # The launch state: i in slot A, j in slot B, the others tossed; it knows nothing of who is where now.
    where = np.full(rows, -1, np.int64)
    now = np.zeros(rows, np.int64)
    for slot in range(2):
        clear(bank, components + slot, t)
        bank.total[b if slot else a] = 0
    for n in both:
        where[n] = int(uniform(stream) * 2)
        if n == i or n == j:
            where[n] = n == j
        now[n] = labels[n] == b
        bank.total[b if where[n] else a] += 1
        if present[n]:
            insert(bank, components + where[n], points[n], t)
    none = np.zeros(0, np.int64)
    for _ in range(scans):
        scan(bank, a, b, points, present, bias, mine, where, stream, alpha, kind, t, none)
    log_q = scan(
        bank, a, b, points, present, bias, mine, where, stream, alpha, kind, t, none if split else now
    ) - math.log(free)

    parted = log_marginal(bank, components, t) + log_marginal(bank, components + 1, t)
    clear(bank, components + 2, t)
    gain = 0.0
    for n in both:
        gain += bias[n, a if where[n] == 0 else b] - bias[n, b]
        if present[n]:
            insert(bank, components + 2, points[n], t)
    gain += parted - log_marginal(bank, components + 2, t)
    if split:
        gain += log_prior(bank.total, components, alpha, kind) - old
    else:
        bank.total[a], bank.total[b] = 0, len(both)
        gain += old - log_prior(bank.total, components, alpha, kind)
    gain -= log_q
    if not split:
        gain = -gain
    if math.log(uniform(stream) + 1e-300) >= gain:
        bank.total[:] = before
        return False
    for n in both:
        labels[n] = a if split and where[n] == 0 else b
    if split:
        copy(bank, components, a)
        copy(bank, components + 1, b)
    else:
        clear(bank, a, t)
        copy(bank, components + 2, b)
    return True


@njit(cache=True)
def moves(
    points: Array,
    present: Array,
    bias: Array,
    labels: Array,
    streams: Array,
    alpha: float,
    kind: int,
    t: Tables,
    times: int,
    scans: int,
) -> Array:
    """Propose ``times`` moves to every chain of ``labels`` ``(C, N)``, in place; returns how many were accepted."""
    accepted = np.zeros(len(labels))
    for c in range(len(labels)):
        bank = bank_of(bias.shape[2] + 3, points.shape[2], t)
        z, told, says = points[c % len(points)], present[c % len(present)], bias[c % len(bias)]
        fill(bank, z, told, labels[c], t)
        for _ in range(times):
            accepted[c] += move(bank, z, told, says, labels[c], streams[c : c + 1], alpha, kind, scans, t)
    return accepted
