"""Collapsed Gibbs sampling of topics, a token at a time: the inner loop of latent Dirichlet allocation, compiled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["draw_topics", "sweep_topics", "tally_topics"]

Array = NDArray[Any]


@njit(cache=True)
def _uniform(counter: np.uint64) -> float:
    """Return a number in [0, 1) of a splitmix64 stream (Steele, Lea & Flood 2014), given its counter."""
    z = (counter ^ (counter >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64(np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(11))) * (1.0 / 9007199254740992.0)


@njit(cache=True)
def _pick(running: Array, mark: float) -> int:
    """Return the place at which running sums pass a mark, without a branch."""
    place = 0
    for z in range(len(running) - 1):
        place += running[z] <= mark
    return place


@njit(cache=True, fastmath=True)
def _rising(x: float, w: float) -> float:
    """Log of Gamma(x + w) / Gamma(x)."""
    return math.lgamma(x + w) - math.lgamma(x)


@njit(cache=True, fastmath=True, error_model="numpy")
def sweep_topics(
    start: Array, word: Array, size: Array, block: Array, topics: Array,
    by_row: Array, by_word: Array, by_block: Array, rows: int, seed: int,
) -> None:  # fmt: skip
    """Draw every token's topic given all others, theta and phi integrated out (Griffiths & Steyvers 2004, eq. 5).

    p(z_i = z) is proportional to r_z^(w) q_zv^(w) / t_z^(w), with x^(w) = Gamma(x + w) / Gamma(x), w the weight of the
    token, 1 but for the last of a cell whose count is not whole, and r, q, t the pseudo-counts plus the tokens of z but
    for its own: of the row, of the word, and of the block of words (the sense).

    Most tokens keep their topic. So a whole token is not taken out and put back: the running sum goes over all tokens,
    what its own adds to its present topic is taken off the sum, and only a token that moves is written.

    Args:
        start: ``(R + 1,)``, where the tokens of each row begin; the rows of chain c are c rows, ..., c rows + rows - 1.
        word: ``(T,)``, the word of each token.
        size: ``(T,)``, the weight of each.
        block: ``(V,)``, to which sense a word belongs.
        topics: ``(T,)``; changed in place, as are
        by_row: ``(R, Z)``,
        by_word: ``(C, V, Z)``, and
        by_block: ``(C, M, Z)``, pseudo-counts included.
        rows: rows of a chain.
        seed: of the stream.
    """
    count = by_row.shape[1]
    running, inverse, less = np.empty(count), np.empty(count), np.empty(count)
    counter = np.uint64(seed)
    for r in range(len(start) - 1):
        c = r // rows
        m = np.intp(-1)
        for i in range(start[r], start[r + 1]):
            v, old, w = np.intp(word[i]), np.intp(topics[i]), size[i]
            if block[v] != m:
                m = np.intp(block[v])
                for z in range(count):
                    inverse[z] = 1.0 / by_block[c, m, z]
                    less[z] = 1.0 / (by_block[c, m, z] - 1.0)
            total, own = 0.0, 0.0
            if w == 1.0:
                for z in range(count):
                    total += by_row[r, z] * by_word[c, v, z] * inverse[z]
                    running[z] = total
                without = (by_row[r, old] - 1.0) * (by_word[c, v, old] - 1.0) * less[old]
                own = by_row[r, old] * by_word[c, v, old] * inverse[old] - without
            else:
                for z in range(count):
                    left = w if z == old else 0.0
                    log = _rising(by_row[r, z] - left, w) + _rising(by_word[c, v, z] - left, w)
                    total += math.exp(log - _rising(by_block[c, m, z] - left, w))
                    running[z] = total
            counter += np.uint64(0x9E3779B97F4A7C15)
            mark = _uniform(counter) * (total - own)
            new = _pick(running, mark + own if mark >= running[old] - own else mark)
            if new != old:
                topics[i] = new
                for place, step in ((old, -w), (new, w)):
                    by_row[r, place] += step
                    by_word[c, v, place] += step
                    by_block[c, m, place] += step
                    inverse[place] = 1.0 / by_block[c, m, place]
                    less[place] = 1.0 / (by_block[c, m, place] - 1.0)


@njit(cache=True)
def tally_topics(
    start: Array, word: Array, size: Array, topics: Array, by_row: Array, by_word: Array, rows: int
) -> None:
    """Add the weights of tokens to ``by_row`` ``(R, Z)`` and to ``by_word`` ``(C, V, Z)``."""
    for r in range(len(start) - 1):
        for i in range(start[r], start[r + 1]):
            by_row[r, topics[i]] += size[i]
            by_word[r // rows, word[i], topics[i]] += size[i]


@njit(cache=True)
def draw_topics(
    start: Array, word: Array, size: Array, topics: Array, by_row: Array, phi: Array, rows: int, seed: int
) -> None:
    """Draw topics one after another given phi ``(C, V, Z)``, theta integrated out over the tokens before: a start.

    ``by_row`` ``(R, Z)`` holds the pseudo-counts of theta, and counts the tokens afterwards.
    """
    running = np.empty(by_row.shape[1])
    counter = np.uint64(seed)
    for r in range(len(start) - 1):
        for i in range(start[r], start[r + 1]):
            total = 0.0
            for z in range(len(running)):
                total += by_row[r, z] * phi[r // rows, word[i], z]
                running[z] = total
            counter += np.uint64(0x9E3779B97F4A7C15)
            topics[i] = _pick(running, _uniform(counter) * total)
            by_row[r, topics[i]] += size[i]
