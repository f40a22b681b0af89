"""Data are read as they are, or refused with the array, the rows and the fix."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from serket.data import EMBEDDED, load
from serket.errors import DataError, SerketError, ShapeError

NAN = float("nan")


@pytest.fixture
def file(tmp_path):
    def save(name="rows.npz", **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return save


def test_digits():
    data = load("digits", ["pix", "fou", "kar", "fac", "zer", "mor"])
    assert {key: array.shape[1] for key, array in data.arrays.items()} == {
        "pix": 240,
        "fou": 76,
        "kar": 64,
        "fac": 216,
        "zer": 47,
        "mor": 6,
    }
    assert all(array.dtype == np.float32 for array in data.arrays.values())
    assert (len(data.train), len(data.test), data.rows) == (1600, 400, 2000)
    assert np.bincount(data.label).tolist() == [200] * 10 and data.notes == ()
    digests = {key: hashlib.sha256(array.tobytes()).hexdigest()[:12] for key, array in data.arrays.items()}
    assert digests == DIGESTS
    assert EMBEDDED["digits"].stat().st_size < 2.2e6


# Of the float32 arrays as they came from the source.
DIGESTS = {
    "pix": "1b6c55fcecb9",
    "fou": "89ff0f9e8094",
    "kar": "e466a3675171",
    "fac": "dceb63be53b7",
    "zer": "e5f43c8bdacd",
    "mor": "e66a7018485f",
}


def test_only_the_arrays_asked_for_are_read(file):
    path = file(pix=np.ones((3, 2)), objects=np.array([None, 1, 2]))
    assert list(load(path, ["pix"]).arrays) == ["pix"]


def test_types_stay(file):
    arrays = {"a": np.ones((3, 2)), "b": np.ones((3, 2), np.float32), "c": np.ones((3, 2), np.uint8)}
    data = load(file(**arrays, d=np.ones(3, np.float16), e=np.ones(3, ">f4"), f=np.ones(3, bool)), [*"abcdef"])
    types = {key: array.dtype for key, array in data.arrays.items()}
    assert types == {"a": "f8", "b": "f4", "c": "u1", "d": "f4", "e": "f4", "f": "u1"}


def test_tensors_and_lists():
    tensor = torch.ones(3, 2, requires_grad=True)
    data = load({"a": tensor, "b": [[1.0], [2.0], [3.0]], "c": tensor.bfloat16()}, ["a", "b", "c"])
    assert data.name == "data" and data.arrays["a"].dtype == np.float32 == data.arrays["c"].dtype


def test_relative_paths_are_tried_here_then_near_the_graph(file, tmp_path, monkeypatch):
    path = file(pix=np.ones((3, 2)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(path.name, ["pix"], near=tmp_path).name == "rows.npz"
    with pytest.raises(DataError, match="no data set"):
        load(path.name, ["pix"])


def test_a_split_is_drawn_once_per_seed(file):
    path = file(pix=np.ones((10, 2)))
    one, same, other = (load(path, ["pix"], test_fraction=0.3, seed=seed) for seed in (1, 1, 2))
    assert len(one.test) == 3 and sorted([*one.train, *one.test]) == list(range(10))
    assert one.test.tolist() == same.test.tolist() != other.test.tolist()
    assert one.sha256 == same.sha256 != other.sha256
    assert one.notes == () and len(load(path, ["pix"], test_fraction=0).test) == 0


def test_half_a_split_is_completed(file):
    data = load(file(pix=np.ones((5, 2)), train=[0, 2]), ["pix"])
    assert data.test.tolist() == [1, 3, 4]


def test_sequences_are_not_torn_apart(file):
    data = load(file(pix=np.ones((12, 2)), pix_sequence=np.repeat([7, 8, 9], 4)), ["pix"], test_fraction=0.3)
    assert len(data.test) == 4 and len(np.unique(data.sequences["pix"][data.test])) == 1
    single = load(file(pix=np.ones((12, 2)), pix_sequence=np.zeros(12, int)), ["pix"])
    assert len(single.train) == 12 and single.notes == ("test: no rows",)


def test_unmarked_nan_rows_are_missing_and_noted(file):
    pix = np.ones((5, 2))
    pix[1, 0], pix[3] = np.inf, NAN
    path = file(pix=pix, pix_mask=np.array([True, True, True, False, True]))
    data = load(path, ["pix"])
    assert data.masks["pix"].tolist() == [True, False, True, False, True] and data.quarantined == {"pix": [1]}
    assert data.notes == ("pix: NaN or Inf in 1 of 5 rows (1), so missing; mark them in pix_mask",)
    with pytest.raises(DataError) as error:
        load(path, ["pix"], strict=True)
    assert str(error.value) == (
        "rows.npz: pix, rows 1: NaN or Inf\n"
        "  expected: finite numbers wherever the mask is true\n"
        "  fix: mark them false in pix_mask"
    )


def test_missing_keys(file):
    path = file(pix=np.ones((3, 2)), fou=np.ones((3, 2)), fou_mask=np.ones(3, bool), label=[0, 1, 2])
    with pytest.raises(DataError) as error:
        load(path, ["pix", "fuo"])
    text = "rows.npz: no array 'fuo'\n  available: pix, fou\n  fix: did you mean 'fou'?"
    assert str(error.value) == text
    data = load(path, ["pix", "touch"], missing_ok=True)
    assert data.missing == ("touch",) and data.notes == ("touch: not in rows.npz, so missing in every row",)
    with pytest.raises(DataError, match="no array 'touch'"):
        load(path, ["touch"], missing_ok=True)


def test_almost_named_arrays_are_noted(file):
    extra = {
        "pixmask": np.ones(3),
        "labels": np.ones(3),
        "depth": np.ones(3),
        "pix2": np.ones(3),
        "pix2_mask": np.ones(3),
    }
    notes = load(file(pix=np.ones((3, 2)), **extra), ["pix"]).notes
    assert notes == ("pixmask: not used; did you mean 'pix_mask'?", "labels: not used; did you mean 'label'?")


PIX = np.ones((3, 2))
WRONG = {
    "rows differ": (
        {"pix": PIX, "fou": np.ones((4, 2))},
        ShapeError,
        "rows.npz: arrays have different numbers",
        "pix 3, fou 4",
    ),
    "no rows": ({"pix": np.ones((0, 2))}, ShapeError, "rows.npz: pix: no rows", "(0, 2)"),
    "a number": ({"pix": 3.0}, ShapeError, "rows.npz: pix: no rows", "()"),
    "text": ({"pix": ["a", "b"]}, DataError, "rows.npz: pix: not numbers", "text"),
    "complex": ({"pix": PIX + 1j}, DataError, "rows.npz: pix: not numbers", "complex128"),
    "objects": ({"pix": np.array([None, 1])}, DataError, "rows.npz: pix: Python objects", "np.asarray"),
    "mask of numbers": (
        {"pix": PIX, "pix_mask": [1, 1, 0]},
        DataError,
        "rows.npz: pix_mask: not a mask",
        "astype(bool)",
    ),
    "short mask": (
        {"pix": PIX, "pix_mask": np.ones(2, bool)},
        ShapeError,
        "rows.npz: pix_mask: the mask",
        "(3,) or (3, 2)",
    ),
    "sequence": ({"pix": PIX, "pix_sequence": [0.5, 1, 1]}, DataError, "rows.npz: pix_sequence: not whole", "float64"),
    "row ids twice": (
        {"pix": PIX, "row_id": [4, 5, 4]},
        DataError,
        "rows.npz: row_id, rows 2: row ids occur twice",
        "one id",
    ),
    "row ids short": ({"pix": PIX, "row_id": [4, 5]}, ShapeError, "rows.npz: row_id: wrong shape", "(3,)"),
    "label short": ({"pix": PIX, "label": [4, 5]}, ShapeError, "rows.npz: label: wrong shape", "(3,)"),
    "label NaN": ({"pix": PIX, "label": [4, 5, NAN]}, DataError, "rows.npz: label: not classes", "float64"),
    "train outside": ({"pix": PIX, "train": [0, 3]}, DataError, "rows.npz: train: no such rows", "0 to 2"),
    "train negative": ({"pix": PIX, "train": [0, -1]}, DataError, "rows.npz: train: no such rows", "found: -1"),
    "overlap": ({"pix": PIX, "train": [0, 1], "test": [1, 2]}, DataError, "train and test: rows used twice", "rows 1"),
    "test of floats": ({"pix": PIX, "test": [0.0, 1.0]}, DataError, "rows.npz: test: not whole numbers", "astype(int)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_are_refused(file, case):
    arrays, kind, start, detail = WRONG[case]
    keys = [key for key in ("pix", "fou") if key in arrays]
    with pytest.raises(kind) as error:
        data = load(file(**arrays), keys)
        data.evidence("pix")  # text may be read: by what embeds it
    assert start in str(error.value) and detail in str(error.value)


def test_reserved_keys_and_bad_fractions(file):
    path = file(pix=PIX, label=[0, 1, 2])
    with pytest.raises(DataError, match="reserved"):
        load(path, ["label"])
    with pytest.raises(DataError, match="share"):
        load(path, ["pix"], test_fraction=1.0)
    with pytest.raises(DataError, match="different lengths"):
        load({"pix": [[1.0], [1.0, 2.0]]}, ["pix"])


def test_files_that_are_no_npz(tmp_path):
    np.save(tmp_path / "one.npy", PIX)
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"pix": PIX}))
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=r"no \.npz file"):
            load(path, ["pix"])
    with pytest.raises(DataError, match="did you mean 'digits'"):
        load("digit", ["pix"])


def test_damaged_files_are_refused_or_read_as_they_were(file, tmp_path):
    data = file(pix=PIX, fou=PIX).read_bytes()
    damaged = tmp_path / "damaged.npz"
    changed = [data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :] for place in range(len(data))]
    for content in changed + [data[:end] for end in range(0, len(data), 9)]:
        damaged.write_bytes(content)
        try:
            assert np.array_equal(load(Path(damaged), ["pix"]).arrays["pix"], PIX)
        except SerketError:
            continue
