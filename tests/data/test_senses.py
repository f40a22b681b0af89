"""Twenty things: which rows have what, and that test rows share neither drawing, voice nor wording with the others."""

from pathlib import Path

import numpy as np
import pytest

import serket
from serket.data import load
from serket.data.generate.senses import PARTS, senses

KEPT = Path(serket.__file__).parent / "data" / "generate" / "senses.npz"


@pytest.fixture(scope="module")
def rows():
    return senses()


@pytest.fixture(scope="module")
def kept():
    with np.load(KEPT) as file:
        return {key: file[key] for key in file.files}


def test_parts_do_not_overlap_and_use_all_that_is_stored(kept):
    stored = dict(
        zip(
            PARTS,
            (kept["drawing"].shape[1], kept["length"].shape[1], kept["name"].shape[1], len(kept["phrase"])),
            strict=True,
        )
    )
    for what, (start, *inner, end) in PARTS.items():
        assert [start, *inner, end] == sorted({start, *inner, end}), what
        assert (start, end) == (0, stored[what]), what
    assert PARTS["voice"][2] >= 8  # voices to learn from
    assert len(np.unique(kept["name"])) == kept["name"].size  # no two things share a synonym


def test_test_captions_are_of_names_and_phrases_of_their_own(rows, kept):
    split = {part: set(rows["caption"][rows[part]].tolist()) for part in ("train", "test")}
    for part, which in (("train", slice(0, 5)), ("test", slice(5, 8))):
        phrases = kept["phrase"][slice(0, 6) if part == "train" else slice(6, 9)]
        possible = {phrase.format(name) for phrase in phrases for name in kept["name"][:, which].ravel()}
        assert split[part] <= possible
    assert not split["train"] & split["test"]


def test_five_rows_a_thing_are_complete_and_named_and_the_others_have_one_sense(rows):
    masks = np.stack([rows[f"{key}_mask"] for key in ("image", "sound", "caption")])[:, rows["train"]]
    named = rows["name_mask"][rows["train"]]
    assert np.bincount(rows["label"][rows["train"]][named]).tolist() == [5] * 20
    assert (masks.sum(0) == np.where(named, 3, 1)).all() and (masks[:, ~named].sum(1) > 200).all()
    assert all(rows[f"{key}_mask"][rows["test"]].all() for key in ("image", "sound", "caption"))
    assert np.bincount(rows["label"][rows["test"]]).tolist() == [24] * 20


def test_the_rows_are_the_same_for_any_number_of_pairs(rows):
    fewer = senses(pairs=1, seed=3)
    for key in ("image", "sound", "caption", "label", "train", "test"):
        assert np.array_equal(rows[key], fewer[key]), key
    assert fewer["name_mask"][fewer["train"]].sum() == 20


def test_pictures_differ_and_words_are_heard(rows):
    image, sound = rows["image"].astype(float), rows["sound"].astype(float)
    assert len(np.unique(rows["image"].reshape(1280, -1), axis=0)) == 1280
    assert image.std((1, 2, 3)).min() > 15
    middle, edge = sound[:, 5600:8000].std(1), sound[:, -2000:].std(1)
    assert np.median(middle / edge) > 4 and np.abs(sound).max() <= 32768


def test_it_is_a_data_set():
    data = load("senses", ["image", "sound", "caption", "name"])
    assert data.arrays["caption"].dtype == np.uint8 and data.arrays["image"].shape[1:] == (96, 96, 3)
    assert len(data.test) == 480 and not data.notes
