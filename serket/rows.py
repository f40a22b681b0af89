"""Random numbers that belong to a row, whatever batch the row travels in."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from serket.errors import DataError, listed

__all__ = ["chunks", "runs", "row_normal", "row_uniform", "seeded"]


def seeded(seed: int, *names: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose seed derives from (seed, names), so that no module's draws depend on another's."""
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def runs(sequence: Tensor | None, rows: int) -> Tensor:
    """Return the lengths of the sequences, in row order, ``(sequences,)`` int64; without ids all rows are one.

    Raises:
        DataError: the rows of a sequence do not follow one another: nothing would tell their order in time.
    """
    if sequence is None or rows == 0:
        return torch.full((min(rows, 1),), rows)
    ids, lengths = sequence.unique_consecutive(return_counts=True)
    _, times = ids.unique(return_counts=True)
    if bool((times > 1).any()):
        again = ids.unique()[times > 1].tolist()
        raise DataError(
            "the rows of a sequence do not follow one another",
            where=f"sequences {listed(again)}",
            expected="rows in time order, one sequence after the other",
            fix="sort the rows: order = numpy.argsort(sequence, kind='stable')",
        )
    found: Tensor = lengths
    return found


def chunks(rows: int, size: int, sequence: Tensor | None = None, whole: bool = False) -> list[slice]:
    """Cut rows into slices of at most ``size``; if sequences are to stay ``whole``, only where one ends.

    A sequence longer than ``size`` is a slice of its own; one slice at least, of no row if there is none.
    """
    ends = runs(sequence, rows).cumsum(0) if whole else torch.arange(size, rows + size, size)
    cuts, start = [], 0
    while start < rows:
        last = int(torch.searchsorted(ends, start + size, right=True)) - 1
        end = int(ends[last]) if last >= 0 else 0
        # No end within reach: the sequence that begins here is longer than a slice.
        end = end if end > start else int(ends[last + 1])
        cuts.append(slice(start, min(end, rows)))
        start = end
    return cuts or [slice(0, 0)]


def row_uniform(
    generator: torch.Generator, row_id: Tensor, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return ``(rows, *shape)`` uniform numbers in (0, 1), a function of (generator's seed, row id, position).

    A counter-based stream: splitmix64 (Steele, Lea & Flood 2014) of the counter, twice. The generator is not advanced,
    so repeated calls give the same numbers: common random numbers from sweep to sweep.
    """
    count = math.prod(shape)
    start = torch.tensor(_signed(generator.initial_seed()), dtype=torch.int64, device=row_id.device)
    position = torch.arange(count, device=row_id.device)
    stream = _splitmix(_splitmix(row_id.to(torch.int64) ^ start).unsqueeze(-1) + position)
    # 24 bits are exact in float32; half a step keeps 0 and 1 out.
    bits = _shift(stream, 40)
    return ((bits.to(torch.float64) + 0.5) / 2**24).reshape(-1, *shape).to(dtype).clamp(1e-7, 1 - 1e-7)


def row_normal(
    generator: torch.Generator, row_id: Tensor, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return ``(rows, *shape)`` standard normal numbers, the inverse distribution function of :func:`row_uniform`."""
    uniform = row_uniform(generator, row_id, shape, dtype=torch.float64)
    noise: Tensor = torch.special.ndtri(uniform)
    return noise.to(dtype)


def _splitmix(counter: Tensor) -> Tensor:
    z = counter * _signed(0x9E3779B97F4A7C15) + _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Fold an unsigned 64-bit number into torch's int64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
