"""What modules see of a data set."""

import numpy as np
import pytest
import torch

from serket.data import load
from serket.errors import DataError

MASK = np.array([[True, True], [True, False], [False, False], [True, True]])
VALUES = np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, 5.0], [7.0, 8.0]])


@pytest.fixture
def data():
    arrays = {"pix": VALUES, "pix_mask": MASK, "count": np.array([1, 2, 3, 60000], np.uint16), "row_id": [9, 8, 7, 6]}
    split = {"train": [0, 3], "test": [1, 2], "label": list("abca"), "pix_sequence": [0, 0, 1, 1]}
    return load({**arrays, **split}, ["pix", "count", "sound"], missing_ok=True)


def test_rows_are_observed_if_all_their_dimensions_are(data):
    evidence = data.evidence("pix")
    assert evidence.observed.tolist() == [True, False, False, True]
    assert evidence.values.tolist() == [[1, 2], [0, 0], [0, 0], [7, 8]] and evidence.values.dtype == torch.float32
    assert evidence.row_id.tolist() == [9, 8, 7, 6]


def test_masks_per_dimension(data):
    evidence = data.evidence("pix", masks="dimension", dtype=torch.float64)
    assert evidence.observed.tolist() == MASK.tolist()
    assert evidence.values.tolist() == [[1, 2], [3, 0], [0, 0], [7, 8]] and evidence.values.dtype == torch.float64
    assert data.evidence("count", masks="dimension").observed.shape == (4,)


def test_whole_numbers_stay_whole(data):
    values = data.evidence("count").values
    assert values.shape == (4, 1) and values[3] == 60000 and not values.is_floating_point()


def test_missing_keys_observe_nothing(data):
    evidence = data.evidence("sound", [0, 1])
    assert evidence.values is None and evidence.observed.tolist() == [False, False]
    with pytest.raises(DataError, match="did you mean 'pix'"):
        data.evidence("pxi")


@pytest.mark.parametrize("rows", [[3, 1], np.array([3, 1]), torch.tensor([3, 1]), slice(3, 0, -2)])
def test_rows(data, rows):
    assert data.evidence("pix", rows).row_id.tolist() == [6, 8]
    assert data.subset(rows).row_id.tolist() == [6, 8]


def test_no_rows(data):
    assert data.evidence("pix", []).values.shape == (0, 2)
    assert data.evidence("count", np.zeros(4, bool)).values.shape == (0, 1)


def test_pictures_become_rows_and_memory_is_shared():
    pictures = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    values = load({"pix": pictures}, ["pix"]).evidence("pix").values
    assert values.shape == (4, 15) and values.data_ptr() == pictures.ctypes.data


def test_read_only_arrays():
    frozen = np.ones((2, 2), np.float32)
    frozen.flags.writeable = False
    assert load({"pix": frozen}, ["pix"]).evidence("pix").values.sum() == 4


def test_numbers_too_large_for_the_type(data):
    large = load({"pix": [[1.0], [1e300]]}, ["pix"])
    with pytest.raises(DataError, match="rows 1: values beyond torch.float32"):
        large.evidence("pix")
    assert large.evidence("pix", dtype=torch.float64).values[1] == 1e300


def test_subsets_keep_what_belongs_together(data):
    part = data.subset([3, 1, 2])
    assert part.rows == 3 and part.label.tolist() == ["a", "b", "c"] and part.sequences["pix"].tolist() == [1, 0, 1]
    assert part.train.tolist() == [0] and part.test.tolist() == [1, 2]
    assert part.masks["pix"].tolist() == MASK[[3, 1, 2]].tolist() and part.missing == ("sound",)
    assert part.sha256 != data.sha256 == data.subset(range(4)).sha256


def test_the_hash_is_of_the_content(tmp_path):
    arrays = {"pix": np.ones((3, 2)), "fou": np.zeros((3, 1))}
    np.savez(tmp_path / "one.npz", **arrays)
    np.savez_compressed(tmp_path / "two.npz", fou=arrays["fou"], pix=arrays["pix"])
    one, two = (load(tmp_path / name, ["pix", "fou"]) for name in ("one.npz", "two.npz"))
    assert one.sha256 == two.sha256 == load(arrays, ["fou", "pix"]).sha256
    arrays["pix"][0, 0] = 2
    assert load(arrays, ["pix", "fou"]).sha256 != one.sha256
