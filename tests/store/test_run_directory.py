"""A run directory is whole, or refused."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from serket.errors import StateError
from serket.store import claim, read_run, update_file, write_run

STATES = {
    "pix": {"weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).t(), "count": torch.tensor(7)},
    "body": {"mean": torch.tensor([0.1, float("nan")], dtype=torch.float64), "kept": torch.tensor([True, False])},
    "table": {},
}


def stored(path, **changes):
    parts = {
        "graph_yaml": "serket: 1\n",
        "states": STATES,
        "metrics": {"seed": 0, "subsets": {"pix": {"probe_accuracy": torch.tensor(0.5), "bad": float("nan")}}},
        "manifest": {"seed": 0, "device": torch.device("cpu"), "data": {"name": "digits", "sha256": "ab"}},
        "figures": lambda folder: (folder / "graph.png").write_bytes(b"picture"),
        "events": [{"kind": "start"}],
    }
    return write_run(path, **{**parts, **changes})


def bits(state):
    return {key: (tensor.dtype, tensor.shape, tensor.numpy().tobytes()) for key, tensor in state.items()}


def contents(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_round_trip_is_equal_to_the_bit(tmp_path):
    run = read_run(stored(tmp_path / "a" / "run"))
    assert {name: bits(state) for name, state in run.states.items()} == {n: bits(s) for n, s in STATES.items()}
    assert run.graph_yaml == "serket: 1\n"
    assert run.metrics == {"seed": 0, "subsets": {"pix": {"probe_accuracy": 0.5, "bad": None}}}
    assert run.manifest["seed"] == 0 and run.manifest["device"] == "cpu"
    assert set(run.manifest["versions"]) == {"serket", "torch", "numpy", "safetensors", "python"}
    assert set(contents(run.directory)) == {*run.manifest["files"], "manifest.json", "events.jsonl"}
    assert json.loads((run.directory / "events.jsonl").read_text())["kind"] == "start"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["run"]


FILES = ["graph.yaml", "metrics.json", "manifest.json", "figures/graph.png", "modules/pix.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_refused_and_named(tmp_path, name):
    path = stored(tmp_path / "run")
    data = (path / name).read_bytes()
    places = range(0, 8 * len(data), max(1, len(data) // 25))
    for place in places:
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        (path / name).write_bytes(changed)
        with pytest.raises(StateError) as error:
            read_run(path)
        assert error.value.where == str(path / name)
        assert error.value.fix
    (path / name).write_bytes(data)
    read_run(path)


@pytest.mark.parametrize("name", FILES)
def test_truncated_and_missing_files_are_refused_and_named(tmp_path, name):
    path = stored(tmp_path / "run")
    (path / name).write_bytes((path / name).read_bytes()[:-1])
    with pytest.raises(StateError) as error:
        read_run(path)
    assert name in error.value.where
    (path / name).unlink()
    with pytest.raises(StateError) as error:
        read_run(path)
    assert (name if name != "manifest.json" else "no run directory") in str(error.value)


def test_the_error_of_a_changed_file(tmp_path):
    path = stored(tmp_path / "run")
    (path / "graph.yaml").write_text("serket: 2\n")
    with pytest.raises(StateError) as error:
        read_run(path)
    hashes = [sha256(text).hexdigest()[:12] for text in (b"serket: 1\n", b"serket: 2\n")]
    assert str(error.value).replace(str(path), "RUN") == (
        "RUN/graph.yaml: the file is not as it was written\n"
        f"  expected: SHA-256 {hashes[0]}\n"
        f"  found: SHA-256 {hashes[1]}\n"
        "  fix: restore it from a copy, or delete the folder and fit again; to change 'stream:', edit the graph file "
        "it was made from, and serket run that"
    )


def test_a_module_of_another_run_is_refused(tmp_path):
    path = stored(tmp_path / "run")
    (path / "modules" / "spy.safetensors").write_bytes(b"")
    with pytest.raises(StateError, match="spy"):
        read_run(path)


def test_no_run(tmp_path):
    with pytest.raises(StateError) as error:
        read_run(tmp_path / "nothing")
    assert error.value.fix == "serket run GRAPH --out DIR"
    (tmp_path / ".nothing.12.old").mkdir()
    with pytest.raises(StateError, match="mv "):
        read_run(tmp_path / "nothing")


def test_a_failure_in_the_middle_leaves_the_old_run(tmp_path):
    path = stored(tmp_path / "run")
    before = contents(path)

    def fail(folder: Path):
        (folder / "half.png").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(path, figures=fail, graph_yaml="other")
    assert contents(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_failing_rename_puts_the_old_run_back(tmp_path, monkeypatch):
    path = stored(tmp_path / "run")
    before = contents(path)
    rename = Path.rename

    def fail(self, target):
        if self.suffix == ".new":
            raise OSError("disk")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="disk"):
        stored(path, graph_yaml="other")
    assert contents(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_an_old_run_is_replaced_with_nothing_left_over(tmp_path):
    path = stored(tmp_path / "run")
    stored(path, states={"fou": {}}, graph_yaml="new")
    assert set(read_run(path).states) == {"fou"}
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("stranger", ["thesis.txt", ".git", "manifest.json"])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path, stranger):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / stranger).write_text('{"kind": "holiday"}')
    with pytest.raises(StateError, match=stranger):
        stored(tmp_path / "mine")
    assert contents(tmp_path) == {f"mine/{stranger}": b'{"kind": "holiday"}'}


def test_files_put_into_a_run_are_not_lost(tmp_path):
    path = stored(tmp_path / "run")
    (path / "inferred.npz").write_bytes(b"mine")
    with pytest.raises(StateError, match=r"inferred\.npz"):
        stored(path)
    assert (path / "inferred.npz").read_bytes() == b"mine"
    read_run(path)


def test_claim(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert claim(tmp_path / "new") == tmp_path / "new"
    assert claim(tmp_path / "empty") == tmp_path / "empty"
    with pytest.raises(StateError, match="a file stands"):
        claim(tmp_path / "file")
    stored(tmp_path / "empty")
    read_run(tmp_path / "empty")


def test_update_replaces_one_file_and_its_hash(tmp_path):
    path = stored(tmp_path / "run")
    update_file(path, "metrics.json", b"{}")
    update_file(path, "figures/subsets.png", b"more")
    run = read_run(path)
    assert run.metrics == {} and "figures/subsets.png" in run.manifest["files"]
    assert not [file for file in contents(path) if "waiting" in file]
    assert claim(path) == path


@pytest.mark.parametrize("crash_at", [0, 1, 2])
def test_update_survives_a_crash_between_its_steps(tmp_path, monkeypatch, crash_at):
    path = stored(tmp_path / "run")
    replace, calls = Path.replace, []

    def crash(self, target):
        calls.append(target)
        if len(calls) - 1 == crash_at:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        update_file(path, "metrics.json", b"{}")
    monkeypatch.undo()
    assert (read_run(path).metrics == {}) == (crash_at == 2)
    update_file(path, "metrics.json", b"[]")
    assert read_run(path).metrics == []
