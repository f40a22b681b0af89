"""A user's mistake: status 2, a text that says where, what, and the fix, and never a traceback.

Each case is a golden text in tests/golden/cli. To write one anew, delete its file and run the test twice.
"""

import errno
from pathlib import Path

import numpy as np
import pytest

from serket.store import Partial
from tests.cli.conftest import POSITION, RAIN, TINY

GOLDEN = Path(__file__).parents[1] / "golden" / "cli"


def data(**changes):
    g = np.random.default_rng(0)
    a, b = g.normal(size=(40, 4)).astype("f4"), g.normal(size=(40, 3)).astype("f4")
    return {key: value for key, value in {"a": a, "b": b, **changes}.items() if value is not None}


def with_nan(rows):
    a = data()["a"]
    a[rows] = np.nan
    return a


CASES = {
    # name: (arrays or None, edit of the graph, command)
    "fewer_rows": (data(b=np.zeros((39, 3), "f4")), None, "run tiny.yaml"),
    "no_such_array": (data(b=None, bb=data()["b"]), None, "run tiny.yaml"),
    "no_data_file": (None, None, "run tiny.yaml"),
    "nan_under_strict": (data(a=with_nan([3, 7])), None, "run tiny.yaml --strict"),
    "text_for_numbers": (data(a=np.array(["x"] * 40)), None, "run tiny.yaml"),
    "objects": (data(a=np.array([{}] * 40, dtype=object)), None, "run tiny.yaml"),
    "mask_of_another_shape": (data(a_mask=np.ones((40, 2), bool)), None, "run tiny.yaml"),
    "diverges": (data(), ("epochs: 3}}\n  b", "epochs: 3, learning_rate: 1e30}}\n  b"), "run tiny.yaml"),
    "too_few_rows": (data(a=np.ones((2, 4)), b=np.ones((2, 3))), ("size: 2}\nmod", "size: 9}\nmod"), "run tiny.yaml"),
    "unknown_key": (data(), ("hidden: [8]", "hiden: [8]"), "run tiny.yaml"),
    "unknown_type": (data(), ("type: vae, data: a", "type: vea, data: a"), "check tiny.yaml"),
    "no_such_graph": (None, None, "run digts"),
    "no_such_run": (None, None, "infer nowhere --data tiny.npz"),
    "untrained": (data(), None, "infer tiny.yaml --data tiny.npz"),
    "no_such_plugin": (data(), None, "check tiny.yaml --plugin nothing.py"),
    "no_such_device": (data(), None, "run tiny.yaml --device warp"),
    "device_of_no_numbers": (data(), None, "run tiny.yaml --device meta"),
    "out_is_taken": (data(), None, "run tiny.yaml --out ."),
    "unknown_sense": (data(reading=np.zeros(3)), "rain", "infer rain.yaml --data tiny.npz --observe raeding"),
    "cannot_be_imagined": (data(reading=np.zeros(3)), "rain", "generate rain.yaml --data tiny.npz --to wet"),
    "reading_out_of_range": (data(reading=np.array([0, 1, 2])), "rain", "infer rain.yaml --data tiny.npz"),
    "wrong_columns": (data(gps=np.zeros((3, 2)), wheel=np.zeros((3, 1))), "position", "infer position.yaml --data tiny.npz"),
    "no_data_named": (None, "position", "infer position.yaml"),
    "picture_format": (None, "position", "draw position.yaml --out graph.gif"),
    "compare_no_place": (None, "position", "compare position.yaml --composers product"),
    "compare_pairs": (data(), None, "compare tiny.yaml --composers product --pairs few"),
    "compare_labels": (data(), None, "compare tiny.yaml --composers product --labels ten"),
    "compare_unlabelled": (data(), None, "compare tiny.yaml --composers product --labels 10"),
    "compare_out_is_a_file": (data(), None, "compare tiny.yaml --composers product --out tiny.npz"),
    "no_such_folder": (None, "position", "draw position.yaml --out nowhere/graph.mmd"),
    "out_is_a_folder": (data(gps=np.zeros((3, 1)), wheel=np.zeros((3, 1))), "position", "infer position.yaml --data tiny.npz --out d.npz"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_mistakes_are_told(serket, tmp_path, name):
    arrays, edit, command = CASES[name]
    graphs = {"tiny": TINY, "rain": RAIN, "position": POSITION}
    if isinstance(edit, tuple):
        assert edit[0] in TINY
        graphs["tiny"] = TINY.replace(*edit)
    if name == "out_is_a_folder":
        (tmp_path / "d.npz").mkdir()
    for graph, text in graphs.items():
        (tmp_path / f"{graph}.yaml").write_text(text)
    if arrays is not None:
        np.savez(tmp_path / "tiny.npz", **arrays)
    status, out, err = serket(*command.split(), *(["--quiet"] if "run " in command else []))
    text = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("note:"))
    assert status == 2 and "Traceback" not in err and not out, err
    golden = GOLDEN / f"{name}.txt"
    if not golden.exists():
        golden.write_text(text)
        pytest.fail(f"wrote {golden}: read it, then run again")
    assert text == golden.read_text()


@pytest.fixture
def run(serket, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    np.savez(tmp_path / "tiny.npz", **data())
    assert serket("run", "tiny.yaml", "--out", "r", "--quiet")[0] == 0
    return tmp_path / "r"


@pytest.mark.parametrize("file", ["modules/a.safetensors", "graph.yaml", "metrics.json", "manifest.json"])
def test_a_damaged_run_is_refused_by_its_hash_and_named(serket, run, file):
    content = bytearray((run / file).read_bytes())
    content[len(content) // 2] ^= 1
    (run / file).write_bytes(content)
    status, _, err = serket("infer", "r", "--out", "b.npz")
    assert status == 2 and file in err and "fix:" in err and "Traceback" not in err
    assert "SHA-256" in err or file == "manifest.json"  # which holds its own hash
    assert not (run.parent / "b.npz").exists()


def test_a_missing_state_is_named(serket, run):
    (run / "modules/body.safetensors").unlink()
    status, _, err = serket("infer", "r")
    assert status == 2 and "modules/body.safetensors" in err and "fix:" in err


def test_nan_rows_are_set_aside_and_counted(serket, run):
    np.savez("new.npz", **data(a=with_nan([3, 7])))
    status, _, err = serket("infer", "r", "--data", "new.npz", "--out", "b.npz")
    assert status == 0 and "a: NaN or Inf in 2 of 40 rows (3, 7)" in err
    with np.load("b.npz") as beliefs:
        assert beliefs["present"][:, 0].sum() == 38 and np.isfinite(beliefs["shared.mean"]).all()


def test_other_columns_than_in_training_are_refused(serket, run):
    np.savez("new.npz", **data(a=np.zeros((40, 5), "f4")))
    status, _, err = serket("infer", "r", "--data", "new.npz")
    assert status == 2 and "a: data do not fit the VAE" in err and "(rows, 4)" in err and "(40, 5)" in err


def test_all_senses_missing_is_the_prior_not_a_crash(serket, run):
    np.savez("new.npz", **data(a_mask=np.zeros(40, bool), b_mask=np.zeros(40, bool)))
    assert serket("infer", "r", "--data", "new.npz", "--out", "b.npz", "--quiet")[0] == 0
    with np.load("b.npz") as beliefs:
        assert not beliefs["present"].any() and (beliefs["contribution"] == 0).all()
        assert (
            np.ptp(beliefs["shared.mean"], axis=0).max() < 1e-6 and np.ptp(beliefs["kind.probs"], axis=0).max() < 1e-6
        )


def test_a_loop_that_does_not_converge_warns_and_goes_on(serket, tmp_path):
    (tmp_path / "loop.yaml").write_text(
        "serket: 1\n"
        "variables:\n  a: {family: categorical, size: 2}\n  b: {family: categorical, size: 2}\n"
        "modules:\n"
        "  same:  {type: table, ports: {given: [a, b]}, data: same, values: [[[0.001, 0.999], [0.999, 0.001]],"
        " [[0.999, 0.001], [0.002, 0.998]]]}\n"
        "  other: {type: table, ports: {given: [a, b]}, data: other, values: [[[0.999, 0.001], [0.001, 0.999]],"
        " [[0.002, 0.998], [0.999, 0.001]]]}\n"
    )
    np.savez(tmp_path / "d.npz", same=np.zeros(1, int), other=np.ones(1, int))
    status, out, err = serket("infer", "loop.yaml", "--data", "d.npz", "--max-iterations", "2", "--json")
    assert status == 0 and "warning: messages did not converge in 2 sweeps" in err and "trust" in err
    assert '"converged": false' in out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk at hand")
def test_a_full_disk_is_named_with_a_fix(serket):
    status, _, err = serket("schema", "--out", "/dev/full")
    assert (status, err) == (
        2,
        "error: /dev/full: No space left on device\n  fix: make room, or choose another --out\n",
    )


def test_a_disk_that_fills_up_while_arrays_are_written(serket, tmp_path, monkeypatch):
    (tmp_path / "position.yaml").write_text(POSITION)
    np.savez(tmp_path / "d.npz", gps=np.zeros((3, 1)), wheel=np.zeros((3, 1)))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    status, _, err = serket("infer", "position.yaml", "--data", "d.npz", "--out", "b.npz")
    assert status == 2 and "error: b.npz: No space left" in err and "fix: make room" in err
    assert {path.name for path in tmp_path.iterdir()} == {"position.yaml", "d.npz"}


def test_a_second_run_into_one_folder_is_refused(serket, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    np.savez(tmp_path / "tiny.npz", **data())
    with Partial(tmp_path / "r"):
        status, _, err = serket("run", "tiny.yaml", "--out", "r", "--quiet")
    assert (status, err) == (
        2,
        "error: r.partial: another run is writing here\n  fix: wait until it is done, or choose another --out\n",
    )
    assert not (tmp_path / "r").exists() and [path.name for path in (tmp_path / "r.partial").iterdir()] == ["lock"]


def test_usage_errors_are_status_2(serket):
    assert serket("run")[0] == 2
    assert serket("infer", "r", "--obsreve", "a")[0] == 2
    assert serket("dance")[0] == 2
