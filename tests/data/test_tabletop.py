"""The data set of the tabletop: what ships, and the recorder that made it."""

import subprocess
import sys

import numpy as np
import pytest

from serket.data import EMBEDDED, load
from serket.data.tabletop import CATEGORIES
from serket.data.tabletop.compact import compact, joined, shrunk, summary
from serket.data.tabletop.objects import draw
from serket.data.tabletop.record import episode

KEYS = ["camera", "touch", "joints", "name"]
PER = 8  # rows of an episode


@pytest.fixture(scope="module")
def data():
    return load("tabletop", KEYS)


def test_what_ships(data):
    assert {key: array.shape[1:] for key, array in data.arrays.items()} == {
        "camera": (16, 16, 4), "touch": (24,), "joints": (30,), "name": (1,)}  # fmt: skip
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in data.arrays.values())
    assert EMBEDDED["tabletop"].stat().st_size <= 6e6
    episodes = data.sequence.reshape(-1, PER)
    assert (episodes == episodes[:, :1]).all() and len(np.unique(episodes[:, 0])) == len(episodes)
    assert len(data.test) >= 400 * PER and not np.isin(data.sequence[data.test], data.sequence[data.train]).any()
    counts = np.bincount(data.label[data.test].astype(int))
    assert len(counts) == len(CATEGORIES) == 20 and counts.min() == counts.max()


def test_names_are_mostly_missing_and_never_told_of_test_rows(data):
    told = data.masks["name"]
    assert 0.3 < told[data.train].mean() < 0.5 and not told[data.test].any()
    assert (data.arrays["name"][told, 0] == data.label[told]).all()


def test_sizes_colours_and_poses_of_the_test_lie_where_none_of_training_do():
    def within(test):
        rng = np.random.default_rng(0)
        things = [draw(3, test, rng) for _ in range(200)]
        size = np.array([(thing.size - 0.8) / 0.4 for thing in things])
        yaw = np.array([(thing.yaw / 0.35 + 1) / 2 for thing in things])
        return np.stack([size, yaw]) * 5 % 1

    assert (within(False) < 0.7).all() and (within(True) > 0.7 - 1e-9).all()


def test_the_recorder_is_the_same_by_seed():
    first = episode(0, 5, test=True, frames=[20])
    again, other = episode(0, 5, test=True, frames=[20]), episode(1, 5, test=True, frames=[20])
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    assert (first["touch"] != other["touch"]).any() and (first["camera"] != other["camera"]).any()
    assert first["camera"].shape == (1, 64, 64, 4) and first["camera_stamp_ns"].tolist() == [700_000_000]
    assert first["touch"].dtype == first["joints"].dtype == np.float32
    assert first["touch"].shape == (400, 12) and first["joints"].shape == (400, 15)
    assert (np.diff(first["touch_stamp_ns"]) == 10_000_000).all()


def test_weight_is_felt_and_not_seen():
    """A full can weighs several newtons more on the joint that lifts than an empty one, and looks the same."""
    empty, full = (episode(0, number, frames=[]) for number in (0, 1))
    loads = [one["joints"][250:285, 10].mean() - one["joints"][60:75, 10].mean() for one in (empty, full)]
    assert loads[1] > loads[0] + 0.5 and empty["label"] == 0 and full["label"] == 1


def test_rows_are_moments_of_an_episode():
    rows = compact([7], 0, test=False)
    assert rows["camera"].shape == (PER, 16, 16, 4) and rows["touch"].dtype == np.float16
    assert ((rows["stamp_ns"] - 1) // 500_000_000).tolist() == list(range(PER))
    both = joined(rows, compact([7], 0, test=True))
    assert both["camera_sequence"].tolist() == [7] * PER + [15] * PER
    assert both["test"].tolist() == list(range(PER, 2 * PER))


def test_the_recorder_makes_what_ships(data):
    """Until the fingers touch: after that another processor may round a slip the other way."""
    rows = compact([3], 0, test=True)
    shipped = data.test[3 * PER : 4 * PER][:2]
    for key, most in (("camera", 3), ("touch", 0.01), ("joints", 0.01)):
        assert np.abs(rows[key][:2].astype(float) - data.arrays[key][shipped]).max() <= most
    assert rows["label"][0] == data.label[shipped[0]]


def test_shrinking_and_summaries():
    pictures = np.zeros((1, 64, 64, 4), np.uint8)
    pictures[0, 4:8, 8:12, 2] = 200
    small = shrunk(pictures)
    assert small[0, 1, 2].tolist() == [0, 0, 200, 0] and small.sum() == 200
    readings = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(summary(readings)[1], [*readings[10:].mean(0), *readings[10:].std(0)])


def test_without_mujoco_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['mujoco'] = None\n"
        "from serket.errors import SerketError\nfrom serket.data.tabletop.record import episode\n"
        "try: episode(0, 0)\nexcept SerketError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "serket-perception[sim]" in told


def test_what_is_written_is_named_as_numpy_does(tmp_path, monkeypatch, capsys):
    from serket.data.tabletop import __main__ as recorder

    monkeypatch.setattr(recorder, "streamed", lambda seed, number: {"camera": np.zeros(3)})
    for name in ("e3", "e4.npz", "e5.2"):
        out = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["tabletop", "--episode", "3", "--out", str(out)])
        recorder.main()
        kept = out if name == "e4.npz" else tmp_path / f"{name}.npz"
        assert kept.is_file() and f"{kept}: " in capsys.readouterr().out
