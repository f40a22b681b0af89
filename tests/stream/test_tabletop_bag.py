"""An episode of the tabletop as a robot records it: a ROS 2 bag, to the number, and streamed through the graph."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from typer.testing import CliRunner

import serket
from serket.cli import app
from serket.data import load
from serket.data.tabletop import __main__ as recorder
from serket.data.tabletop.bag import write_bag
from serket.data.tabletop.compact import compact, streamed
from serket.data.tabletop.record import episode
from serket.errors import DataError
from serket.stream.bags import from_bag

pytest.importorskip("rosbags.rosbag2")
SENSES = ("camera", "touch", "joints")
TOPICS = {key: key for key in SENSES}


@cache
def moments():
    return streamed(0, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The graph that ships, hardly fitted: forty episodes."""
    data = load("tabletop", [*SENSES, "name"])
    first = data.train[: 8 * 40]
    arrays = {key: np.asarray(data.arrays[key])[first] for key in SENSES}
    arrays |= {"name": np.asarray(data.label)[first, None].astype(np.float32), "name_mask": np.arange(len(first)) < 240}
    arrays |= {"camera_sequence": np.arange(len(first)) // 8, "train": np.arange(240), "test": np.arange(240, 320)}
    graph = serket.load_graph("tabletop")
    nodes = {name: replace(node, fit={"epochs": 6}) if node.data in SENSES else node
             for name, node in graph.nodes.items()}  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "tabletop"
    serket.fit(replace(graph, nodes=nodes), arrays, workers=1).save(folder)
    return folder


def played(run, source, folder, *options):
    out = folder / f"out{len([*folder.glob('*.jsonl')])}.jsonl"
    done = CliRunner().invoke(
        app, ["stream", str(run), "--source", str(source), "--sink", str(out), "--json", *options]
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), out.read_text()


def test_an_episode_in_a_bag(tmp_path):
    one = episode(0, 1, frames=[10, 60, 110])
    write_bag(tmp_path / "bag", one)
    read = list(from_bag(tmp_path / "bag", TOPICS))
    assert [o.recv_ns for o in read] == sorted(o.recv_ns for o in read) and len(read) == 3 + 400 + 400
    for key in TOPICS:
        mine = [o for o in read if o.sensor == key]
        assert [o.stamp_ns for o in mine] == one[f"{key}_stamp_ns"].tolist()
        np.testing.assert_array_equal(np.stack([o.values for o in mine]), one[key].reshape(len(mine), -1))
    assert {o.shape for o in read if o.sensor == "camera"} == {(64, 64, 4)}
    with pytest.raises(DataError, match="the bag cannot be written"):
        write_bag(tmp_path / "bag", one)


def test_a_stream_is_of_the_moments_that_ship():
    rows, one = compact([1], 0, test=True), moments()
    assert one["camera_stamp_ns"].tolist() == [i * 100_000_000 for i in range(1, 41)]
    chosen = np.searchsorted(one["camera_stamp_ns"], rows["stamp_ns"])
    for key in SENSES:
        np.testing.assert_array_equal(one[f"{key}_stamp_ns"], one["camera_stamp_ns"])
        np.testing.assert_array_equal(one[key][chosen], rows[key])
        assert one[key].dtype == rows[key].dtype


def test_a_robots_bag_through_the_robots_graph(run, tmp_path):
    write_bag(tmp_path / "bag", moments())
    told, lines = played(run, tmp_path / "bag", tmp_path)
    assert told["sets"] == 40 and "ERROR" not in told["levels"]
    full = {"received": 40, "used": 40, "held": 0, "dropped": {}}
    assert told["sensors"] == {"name": full | {"received": 0, "used": 0}} | dict.fromkeys(SENSES, full)
    assert told["ms"]["latency"]["p50"] == 0, "nobody waits for names"
    last = json.loads(lines.splitlines()[-1])["beliefs"]["object"]["probs"]
    assert len(last) == 20 and sum(last) == pytest.approx(1, abs=1e-4) and last[1] > 0.1, "a full can"
    np.savez(tmp_path / "episode.npz", **moments())
    assert played(run, tmp_path / "episode.npz", tmp_path)[1] == lines


def test_names_are_heard_as_often_as_they_come(run, tmp_path):
    told, _ = played(run, "tabletop", tmp_path, "--hz", "2", "--sequence", "0")
    assert told["sensors"]["name"]["used"] == 8, "the first episode is named"
    assert [reason for reason in told["reasons"] if "Hz, expected" in reason] == []


def test_the_recorder_refuses_a_bag_of_many_episodes():
    done = subprocess.run(
        [sys.executable, "-m", "serket.data.tabletop", "--bag", "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "add --episode N or --full N" in done.stderr


def test_the_recorder_tells_small_files_in_kilobytes_and_writes_both(tmp_path, capsys, monkeypatch):
    out, bag = tmp_path / "e.npz", tmp_path / "bag"
    monkeypatch.setattr(recorder, "streamed", lambda *_: moments())
    monkeypatch.setattr(sys, "argv", ["tabletop", "--episode", "1", "--out", str(out), "--bag", str(bag)])
    recorder.main()
    (of_bag, of_file) = capsys.readouterr().out.splitlines()
    assert of_file == f"{out}: {out.stat().st_size / 1e3:.0f} kB" and of_bag.startswith(f"{bag}: ")
    assert " 0" not in of_file + of_bag
