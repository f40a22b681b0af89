"""Data sets that the project generates: a function each, the same arrays on every call, fast enough for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serket.data.generate.beacons import beacons
from serket.data.generate.corners import corners
from serket.data.generate.counting import counting
from serket.data.generate.episodes import episodes, landmarks
from serket.data.generate.fruit import fruit
from serket.data.generate.grasps import grasps
from serket.data.generate.keypad import keypad
from serket.data.generate.lawn import lawn
from serket.data.generate.named import digits_named
from serket.data.generate.objects import objects
from serket.data.generate.orbit import orbit
from serket.data.generate.panels import panels
from serket.data.generate.senses import senses
from serket.data.generate.spoken import spoken
from serket.data.generate.tracking import tracking

__all__ = ["GENERATED"]

GENERATED: Mapping[str, Callable[[], dict[str, Any]]] = {
    "beacons": beacons,
    "corners": corners,
    "counting": counting,
    "digits_named": digits_named,
    "episodes": episodes,
    "fruit": fruit,
    "grasps": grasps,
    "keypad": keypad,
    "landmarks": landmarks,
    "lawn": lawn,
    "objects": objects,
    "orbit": orbit,
    "panels": panels,
    "senses": senses,
    "spoken": spoken,
    "tracking": tracking,
}
"""By the name that ``data:`` and ``--data`` take."""
