"""Measures, tables that fit a terminal, pictures that are the same to the byte."""

import io
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from serket.data import load
from serket.errors import DataError, GraphError
from serket.report import (
    concept_ari,
    imagined_grid,
    joined,
    print_metrics,
    probe,
    probe_accuracy,
    subset_accuracy,
    subsets,
)
from serket.report.arrays import write_arrays
from serket.report.status import say, status

METRICS = {
    "subsets": {
        "fou": {"probe_accuracy": 0.7825, "concept_ari": 0.612},
        "pix": {"probe_accuracy": 0.96, "concept_ari": None},
        "fou+pix": {"probe_accuracy": 0.9725, "concept_ari": float("nan")},
    },
    "coherence": {"fou>pix": 0.75, "fou>kar": 0.74, "pix>fou": 0.81, "mean": 0.77},
    "unlabelled": {"evidence": {"pix": -201.3, "fou": -88.2}, "conflict": {"pix": 0.02, "fou": 0.1}},
    "seconds": {"pretrain": 22.13},
    "rows": {"train": 1600, "test": 400},
    "seed": 0,
}


def printed(metrics, **options):
    console = Console(width=80, file=io.StringIO(), **options)
    print_metrics(metrics, console)
    return console.file.getvalue()


def test_subsets():
    assert [joined(s) for s in subsets(["pix", "fou", "kar"])] == [
        "fou",
        "kar",
        "pix",
        "fou+kar",
        "fou+pix",
        "kar+pix",
        "fou+kar+pix",
    ]
    assert joined(["pix", "fou"]) == "fou+pix"


def test_the_probe_reaches_what_the_view_is_known_to_hold():
    data = load("digits", ["fou"])
    views = torch.from_numpy(data.arrays["fou"])
    fitted = probe(views[data.train], data.label[data.train])
    assert abs(probe_accuracy(fitted, views[data.test], data.label[data.test]) - 0.84) < 0.01
    with pytest.raises(DataError, match="one class"):
        probe(np.ones((3, 2)), np.ones(3))


def test_ari_ignores_the_names_of_clusters():
    assert concept_ari([0, 0, 1, 1], torch.tensor([5, 5, 2, 2])) == 1.0
    assert concept_ari(["a", "a", "b", "b"], [0, 1, 0, 1]) < 0.1


def test_the_table():
    assert [line.rstrip() for line in printed(METRICS).splitlines()] == TABLE.splitlines()


TABLE = """\
given     probe accuracy   concept ARI   coherence
──────────────────────────────────────────────────
fou                0.782         0.612       0.745
pix                0.960                     0.810
fou+pix            0.973

module   evidence, nats   conflict
──────────────────────────────────
pix              -201.3      0.020
fou               -88.2      0.100

rows: train 1600, test 400
seconds: pretrain 22.13
seed: 0
"""


def test_the_best_is_bold_and_modules_are_not_compared():
    text = printed(METRICS, force_terminal=True)
    bold = [part.split("\x1b[0m")[0].strip() for part in text.split("\x1b[1m")[1:]]
    assert bold == ["0.810", "0.973"]


def test_tables_fit_80_columns_with_six_views_and_without_labels():
    names = [joined(s) for s in subsets(["fac", "fou", "kar", "mor", "pix", "zer"])]
    measures = {"probe_accuracy": 0.9, "concept_ari": 1.0, "evidence": -310.25, "coherence": 0.5}
    text = printed({"subsets": {name: measures for name in names}})
    assert all(name in text for name in names) and max(map(len, text.splitlines())) <= 80
    unlabelled = printed({"unlabelled": {**METRICS["unlabelled"], "evidence": -289.5}})
    assert "probe" not in unlabelled and "−" not in unlabelled and "-289.5" in unlabelled
    assert printed({}) == ""


SIZES = {"pictures": (15, 16), "curves": None}


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("spread", [True, False])
def test_imagined_grids_are_drawn_the_same_twice(tmp_path, kind, samples, spread):
    true = np.random.default_rng(0).random((2, 240))
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path in paths:
        std = true / 2 if spread else None
        drawn = np.repeat(true[:, None], samples, axis=1)
        imagined_grid(path, torch.from_numpy(true), true, drawn, SIZES[kind], "fou", "pix", std)
    assert paths[0].read_bytes() == paths[1].read_bytes() and paths[0].read_bytes().startswith(b"\x89PNG")


def test_constant_numbers_can_be_drawn(tmp_path):
    ones = np.ones((1, 1))
    imagined_grid(tmp_path / "one.png", ones, ones, ones[:, None], None, "fou", "pix", ones)


@pytest.mark.parametrize(
    "metrics", [METRICS, {"unlabelled": METRICS["unlabelled"]}, {"unlabelled": {"evidence": 1}}, {}]
)
def test_subset_accuracy(tmp_path, metrics):
    subset_accuracy(tmp_path / "subsets.png", metrics)
    assert (tmp_path / "subsets.png").stat().st_size > 1000


def test_no_global_state_of_matplotlib_is_touched(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    subset_accuracy(tmp_path / "subsets.png", METRICS)
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_notes_are_printed_under_the_tables():
    text = printed(
        {**METRICS, "notes": ["subsets: of 7 data keys only single ones, all but one, and all are measured"]}
    )
    assert "note: subsets: of 7 data keys only" in text and max(map(len, text.splitlines())) <= 80


def test_of_many_keys_few_subsets():
    assert subsets("abcd", 4) == subsets("abcd")
    assert ["".join(s) for s in subsets("abcd", 3)] == [*"abcd", "abc", "abd", "acd", "bcd", "abcd"]


def test_arrays_have_any_name_and_are_no_more_than_was_given(tmp_path):
    given = {
        "file": torch.arange(3),
        "args": np.eye(2),
        "z/a": np.array(True),
        "names": np.array(["a", "b"]),
        "kwds": 1.5,
    }
    for _ in range(2):
        write_arrays(tmp_path / "new" / "a.npz", given)
    with np.load(tmp_path / "new" / "a.npz", allow_pickle=False) as back:
        assert set(back) == set(given)
        for name, value in given.items():
            np.testing.assert_array_equal(back[name], np.asarray(value))
    before = (tmp_path / "new" / "a.npz").read_bytes()
    with pytest.raises(ValueError, match="pickle"):
        write_arrays(tmp_path / "new" / "a.npz", {"a": np.ones(2), "b": np.array([{}], dtype=object)})
    assert (tmp_path / "new" / "a.npz").read_bytes() == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]


def test_errors_hang_under_their_field_at_the_width_of_a_terminal():
    names = [f"silence_ms_{k}" for k in range(12)]
    error = GraphError("unknown key 'gate' in stream", where="robot.yaml:6:10", available=names, fix="one of these")

    def told(**options):
        file = io.StringIO()

        def fail():
            raise error

        assert status(fail, Console(file=file, width=40, color_system=None, **options)) == 2
        return file.getvalue()

    assert told() == f"error: {error}\n", "what is not a terminal gets its lines as they are"
    lines = told(force_terminal=True).splitlines()
    assert max(map(len, lines)) <= 40 and " ".join(" ".join(lines).split()) == " ".join(f"error: {error}".split())
    assert lines[:2] == ["error: robot.yaml:6:10: unknown key", "       'gate' in stream"]
    assert lines[2].startswith("  available: silence_ms_0") and lines[3].startswith(" " * 13 + "silence_ms_")


def test_a_path_longer_than_the_terminal_stays_whole():
    file = io.StringIO()
    say(Console(file=file, width=20, force_terminal=True, color_system=None), f"note: {'a/b-c/' * 9}d is there")
    assert file.getvalue() == f"note:\n      {'a/b-c/' * 9}d\n      is there\n"
