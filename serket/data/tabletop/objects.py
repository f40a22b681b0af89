"""Twenty categories of objects, of which some look alike, and some feel alike."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

__all__ = ["CATEGORIES", "Thing", "draw"]


@dataclass(frozen=True)
class Kind:
    """A category: its form, and the means of what varies.

    Args:
        form: what is seen: the name of a build in :mod:`serket.data.tabletop.scene`.
        mass: kilograms, at size 1.
        friction: sliding friction against the fingers.
        offset: the centre of mass, in half lengths of the object along its long axis.
        softness: time constant of its contact, seconds.
    """

    form: str
    mass: float
    friction: float = 0.8
    offset: float = 0.0
    softness: float = 0.005


CATEGORIES: dict[str, Kind] = {
    "can_empty": Kind("can", 0.04),
    "can_full": Kind("can", 0.25),
    "can_striped": Kind("can_striped", 0.25),
    "block_hollow": Kind("block", 0.06),
    "block_solid": Kind("block", 0.30),
    "block_banded": Kind("block_banded", 0.30),
    "ball_smooth": Kind("ball", 0.12, friction=0.22),
    "ball_rough": Kind("ball", 0.12, friction=1.2),
    "sponge": Kind("slab", 0.10, softness=0.06),
    "brick": Kind("slab", 0.14),
    "bottle_empty": Kind("bottle", 0.05),
    "bottle_full": Kind("bottle", 0.28),
    "egg_hollow": Kind("egg", 0.03),
    "egg_solid": Kind("egg", 0.15),
    "rod_even": Kind("rod", 0.15),
    "rod_weighted": Kind("rod", 0.15, offset=0.6),
    "mug": Kind("mug", 0.20),
    "jar": Kind("jar", 0.20),
    "tee": Kind("tee", 0.20),
    "dumbbell": Kind("dumbbell", 0.20),
}
"""By name, in the order of the labels. Can, block, ball, slab, bottle, egg and rod come in two that look the same; the
striped can and the banded block feel like the full can and the solid block."""


@dataclass(frozen=True)
class Thing:
    """One object, as it lies on the table.

    Args:
        kind: its category.
        size: a factor on all lengths.
        colour, accent: red, green, blue in [0, 1]; the accent is that of stripes, lids and handles.
        mass: kilograms.
        friction: sliding friction against the fingers.
        offset: as of :class:`Kind`.
        softness: seconds.
        x, y: metres from the middle.
        yaw: radians.
    """

    kind: Kind
    size: float
    colour: tuple[float, float, float]
    accent: tuple[float, float, float]
    mass: float
    friction: float
    offset: float
    softness: float
    x: float
    y: float
    yaw: float


def draw(category: int, test: bool, rng: np.random.Generator) -> Thing:
    """Draw an object. Size, hue, place and yaw of a test object lie where those of no training object do.

    Each of their ranges is cut into five equal parts; the last three tenths of each are for testing.
    """
    kind = list(CATEGORIES.values())[category]

    def part() -> float:
        within = 0.7 + 0.3 * rng.random() if test else 0.7 * rng.random()
        return float((rng.integers(5) + within) / 5)

    size, hue = 0.8 + 0.4 * part(), part()
    bright = rng.uniform(0.6, 0.95)
    return Thing(
        kind,
        size,
        colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 0.9), bright),
        colorsys.hsv_to_rgb((hue + rng.uniform(0.35, 0.65)) % 1, rng.uniform(0.5, 0.9), 0.45 * bright),
        kind.mass * size**3 * float(np.exp(0.1 * rng.normal())),
        kind.friction * float(np.exp(0.1 * rng.normal())),
        kind.offset * rng.choice([-1, 1]) * rng.uniform(0.8, 1.2),
        kind.softness * float(np.exp(0.1 * rng.normal())),
        0.006 * (2 * part() - 1),
        0.01 * (2 * part() - 1),
        0.35 * (2 * part() - 1),
    )
