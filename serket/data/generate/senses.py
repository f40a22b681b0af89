"""Twenty everyday things, seen, heard and read: drawings, spoken words and captions; few come together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["senses"]

Array = NDArray[Any]

SIDE, SAMPLES = 96, 20480
POOL, JUDGED, TESTED = 34, 6, 24
"""Rows a thing: to learn from; to learn from or to choose by; to test on. No two of these share a voice or phrasing."""

# Which drawings, voices, names and phrases of senses.npz each kind of row takes: first and one past the last.
PARTS = {"drawing": (0, 4, 5, 7), "voice": (0, 8, 10, 14), "name": (0, 4, 5, 8), "phrase": (0, 5, 6, 9)}


def senses(pairs: int = 5, seed: int = 0) -> dict[str, Array]:
    """Return pictures, spoken words, captions and names of twenty things, 40 training and 24 test rows each.

    So many training rows a thing have all three senses and a name; the others have one sense, whose is not said. In
    test rows drawings are of families, words in voices, and captions of names and phrases that no training row has.
    Drawings are turned, moved, tinted and set on other grounds; words are moved, faint and in noise. ``image`` is
    ``(1280, 96, 96, 3)`` uint8, ``sound`` ``(1280, 20480)`` int16 at 16 kHz, ``caption`` ``(1280,)`` text, ``name`` the
    thing's number, in no test row, ``label`` the same for every row, to score by; ``judged`` marks the training rows to
    choose by.

    Args:
        pairs: complete training rows a thing, 0 to 40.
        seed: which rows these are; the rows are always the same ones.
    """
    rng = np.random.default_rng(0)
    with np.load(Path(__file__).with_name("senses.npz"), allow_pickle=False) as file:
        kept = {key: file[key] for key in file.files}
    things = len(kept["thing"])
    part = np.tile(np.repeat(np.arange(3), (POOL, JUDGED, TESTED)), things)
    thing = np.repeat(np.arange(things), POOL + JUDGED + TESTED)
    low, high = np.array([*PARTS.values()])[:, part], np.array([*PARTS.values()])[:, part + 1]
    drawing, voice, name, phrase = rng.integers(low, high)
    which = (thing, voice, rng.integers(0, kept["length"].shape[2], len(thing)))
    train = np.flatnonzero(part < 2)
    order = np.random.default_rng(seed).random((things, POOL + JUDGED)).argsort(1)
    complete = np.ones(len(thing), bool)
    complete[train] = (order.argsort(1) < pairs).ravel()
    alone = np.random.default_rng([seed, 1]).integers(0, 3, len(thing))
    named = complete & (part < 2)
    length = kept["length"]
    start = (np.cumsum(length) - length.ravel()).reshape(length.shape)[which]
    blocks = np.split(np.arange(len(thing)), things)  # pictures in a hundred megabytes, not in a thousand
    return {
        "image": np.concatenate([_pictures(kept["drawing"][thing[rows], drawing[rows]], rng) for rows in blocks]),
        "sound": np.concatenate([_sounds(kept["sound"], start[rows], length[which][rows], rng) for rows in blocks]),
        "caption": np.char.replace(kept["phrase"][phrase], "{}", kept["name"][thing, name]),
        "name": thing,
        **{f"{key}_mask": complete | (alone == sense) for sense, key in enumerate(("image", "sound", "caption"))},
        "name_mask": named,
        "label": thing,
        "judged": part == 1,
        "train": train,
        "test": np.flatnonzero(part == 2),
    }


def _pictures(drawings: Array, rng: np.random.Generator) -> Array:
    """Return drawings ``(rows, S, S, 4)``, colours times opacity, turned, moved and tinted, on grounds of colour."""
    rows, centre = len(drawings), (SIDE - 1) / 2
    angle, scale = rng.uniform(-0.35, 0.35, rows), rng.uniform(0.95, 1.35, rows).astype(np.float32)
    mirror = rng.choice([-1.0, 1.0], rows)
    shift = rng.uniform(-8, 8, (rows, 2, 1, 1)).astype(np.float32)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle) * mirror, np.cos(angle) * mirror], 1).astype(
        np.float32
    )
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")).astype(np.float32) - np.float32(
        centre
    )
    turned = np.einsum("nij,jyx->niyx", (turn * scale[:, None]).reshape(rows, 2, 2), grid)
    spot = turned + np.float32(centre) + shift
    corner = np.floor(spot)
    part, corner = spot - corner, corner.astype(int)
    padded = np.pad(drawings, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(-1, 4)
    ground = rng.uniform(60, 256, (2, rows, 1, 1, 3)).astype(np.float32)
    slope = np.linspace(0, 1, SIDE, dtype=np.float32)[:, None, None]
    made = ground[0] * slope + ground[1] * (1 - slope) + np.zeros((1, 1, SIDE, 1), np.float32)
    seen = np.zeros((rows, SIDE, SIDE, 4), np.float32)
    first = (np.arange(rows) * (SIDE + 2) ** 2)[:, None, None]
    for down in (0, 1):
        for right in (0, 1):
            y, x = np.clip(corner[:, 0] + down, -1, SIDE), np.clip(corner[:, 1] + right, -1, SIDE)
            weight = abs(1 - down - part[:, 0]) * abs(1 - right - part[:, 1])
            seen += weight[..., None] * padded[first + (y + 1) * (SIDE + 2) + x + 1]
    opaque = seen[..., 3:] / 255
    tint = rng.uniform(0.75, 1.15, (rows, 1, 1, 3)).astype(np.float32)
    made = seen[..., :3] * tint + made * (1 - opaque)
    made += 6 * rng.standard_normal((rows, SIDE, SIDE, 1), np.float32)
    return np.asarray(np.clip(made, 0, 255).astype(np.uint8))


def _sounds(stored: Array, start: Array, length: Array, rng: np.random.Generator) -> Array:
    """Return words ``(rows, samples)``, mu-law undone, each begun a little later or earlier, fainter, and in noise."""
    rows = len(start)
    place = np.arange(SAMPLES) - rng.integers(1600, 4800, (rows, 1))
    spoken = (place >= 0) & (place < length[:, None])
    code = (stored[np.where(spoken, start[:, None] + place, 0)].astype(np.float32) - 128) / 127
    wave = np.where(spoken, np.sign(code) * np.expm1(np.abs(code) * np.log(np.float32(256))) / 255, 0)
    level = np.sqrt(np.square(wave).sum(1) / length)
    noise = rng.standard_normal(wave.shape, np.float32) * (level * 10 ** rng.uniform(-1.5, -0.6, rows))[:, None]
    return np.asarray(np.clip((wave + noise) * rng.uniform(5000, 30000, (rows, 1)), -32768, 32767).astype(np.int16))
