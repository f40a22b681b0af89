"""`serket stream` and `serket replay`: what they print, write and refuse."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from serket.cli import app
from serket.cli.stream import _show
from serket.stream import from_arrays


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tracking"
    done = CliRunner().invoke(app, ["run", "tracking", "--out", str(folder), "--quiet"])
    assert done.exit_code == 0, done.output
    return folder


PLAY = ["--source", "tracking", "--hz", "10", "--sequence", "16"]


def serket(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_stream_then_the_same_again_to_the_byte(run, tmp_path):
    first, again = tmp_path / "first.jsonl", tmp_path / "again.jsonl"
    done = serket("stream", run, *PLAY, "--sink", first)
    assert done.exit_code == 0, done.output
    assert "sets: 60, 10 a second; OK 60" in done.output
    assert "camera: received 12, used 12" in done.output
    assert (run / "stream" / "stream.png").read_bytes()[:4] == b"\x89PNG"
    assert serket("replay", run, "--out", again).exit_code == 0
    assert again.read_bytes() == first.read_bytes()
    assert len(first.read_text().splitlines()) == 60
    assert serket("evaluate", run, "--quiet").exit_code == 0, "a run with a stream in it is still a run"


def test_a_recording_for_rerun(run, tmp_path):
    out = tmp_path / "out.rrd"
    done = serket("stream", run, *PLAY, "--rerun", out)
    assert done.exit_code == 0, done.output
    assert "out.rrd" in done.output and out.read_bytes()[:4] == b"RRF2"
    assert "cannot be written" in str(serket("stream", run, *PLAY, "--rerun", tmp_path / "no" / "out.rrd").exception)


def test_json_is_the_account(run):
    done = serket("stream", run, *PLAY, "--json")
    told = json.loads(done.stdout)
    assert told["sensors"]["wheel"] == {"received": 60, "used": 60, "held": 0, "dropped": {}}
    assert told["levels"] == {"OK": 60}


def test_it_says_at_the_end_why_it_was_degraded(run, tmp_path):
    stamps = np.arange(60) * 100_000_000
    wide = {"camera": np.zeros((60, 3)), "wheel": np.zeros((60, 2))}
    np.savez(tmp_path / "wide.npz", **wide, **{f"{key}_stamp_ns": stamps for key in wide})
    done = serket("stream", run, "--source", tmp_path / "wide.npz")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert any("camera: not as many numbers as the module was trained on" in line for line in lines)
    assert any(line.startswith("  in ") and "camera: nothing usable for" in line for line in lines)


def test_a_long_reason_is_cut_at_80_columns(capsys):
    account = {"sets": 1, "per_second": None, "levels": {"DEGRADED": 1}, "sensors": {}, "ms": {}}
    account |= {"missed_deadlines": 0, "clock_resets": 0, "revisions": 0}
    _show(account | {"reasons": {f"camera: {'x' * k}": 1 for k in range(62, 72)}})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  in 1: camera: ")]
    assert len(lines) == 5 and max(map(len, lines)) == 80
    assert [line.endswith("...") for line in lines] == [k > 80 - 16 for k in range(62, 67)]


def test_it_runs_at_a_pace(run):
    assert serket("stream", run, *PLAY, "--rate", "50", "--quiet").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--source", "tracking"], "'camera' has no stamps"),
        (["--source", "digits"], "none of the model's sensors"),
        ([*PLAY[:-1], "99"], "no sequence 99"),
        ([*PLAY, "--rate", "fast"], "no such rate"),
        (["--source", "nothing.npz"], "no data set 'nothing.npz'"),
        (["--source", "nothing.npz"], "of a folder of .npy files, or of a ROS 2 bag, or ros2 for live topics"),
        (["--source", "nothing.npz"], "check the path, or pass --source FILE"),
    ],
)
def test_mistakes(run, arguments, text):
    done = serket("stream", run, *arguments)
    assert text in str(done.exception)


@pytest.mark.parametrize("rows", [5, 40])
def test_a_stream_of_which_nothing_is_used_fails_and_says_why(run, tmp_path, rows):
    """Half a second is over before any output; after four, predictions have gone out, and they are no success."""
    recording, stamps = tmp_path / "wide.npz", np.arange(rows) * 10**8
    np.savez(recording, camera=np.zeros((rows, 3)), wheel=np.zeros((rows, 1)), camera_stamp_ns=stamps, wheel_stamp_ns=stamps)  # fmt: skip
    done = serket("stream", run, "--source", recording)
    assert done.exit_code != 0
    assert f"sets: {0 if rows == 5 else 3}" in done.output
    assert "no reading was used" in str(done.exception)
    assert f"camera: {rows} received, {rows} shape (not as many numbers as the module was trained on)" in str(
        done.exception
    )


class FakeNode:
    """Speaks as a robot would, of what a recording holds."""

    def __init__(self, topics, entry, **_):
        self.topics, self.wire = topics, SimpleNamespace(name="fake")
        self.mailbox = SimpleNamespace(lost=dict)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait(self, *_):
        pass

    def stop(self):
        pass

    def events(self, seconds):
        for one in from_arrays("tracking", ("camera", "wheel"), hz=10, sequence=16):
            yield one.recv_ns, one


def test_a_live_stream_is_recorded_and_replayed(run, tmp_path, monkeypatch):
    monkeypatch.setattr("serket.cli.live.Node", FakeNode)
    kept, first, again = tmp_path / "live.npz", tmp_path / "first.jsonl", tmp_path / "again.jsonl"
    done = serket("stream", run, "--source", "ros2", "--record", kept)
    assert done.exit_code == 0, done.output
    assert f"written to {kept}" in done.output
    assert serket("replay", run, "--out", first).exit_code == 0
    assert serket("stream", run, *PLAY, "--sink", again).exit_code == 0
    assert first.read_bytes() == again.read_bytes(), "as if it had been played from where it came"
    assert "would replace" in str(serket("stream", run, "--source", "ros2", "--record", kept).exception)
    assert "is a recording already" in str(serket("stream", run, *PLAY, "--record", tmp_path / "x").exception)
    assert serket("stream", run, "--source", "ros2").exit_code == 0
    assert "was live, and not recorded" in str(serket("replay", run).exception)
    assert "not there again" in str(serket("replay", run, "--source", "ros2").exception)


def recording(path, **change):
    stamps = np.arange(50) * 100_000_000
    arrays = {"camera": np.zeros((50, 2)), "wheel": np.zeros((50, 2))}
    arrays |= {f"{key}_{what}_ns": stamps for key in ("camera", "wheel") for what in ("stamp", "recv")}
    np.savez(path, **arrays | change)
    return path


def test_a_source_that_changed_is_not_replayed(run, tmp_path):
    path = recording(tmp_path / "a.npz")
    assert serket("stream", run, "--source", path).exit_code == 0
    assert serket("replay", run).exit_code == 0
    recording(path, camera=np.ones((50, 2)))
    done = serket("replay", run)
    assert "the source is not what was streamed" in str(done.exception) and f"--source {path}" in str(done.exception)
    assert serket("replay", run, "--source", path).exit_code == 0


def test_most_of_a_sensor_lost_is_told(run, tmp_path):
    back = np.arange(50)[::-1] * 10_000_000
    done = serket("stream", run, "--source", recording(tmp_path / "a.npz", camera_stamp_ns=back))
    assert done.exit_code == 0
    assert "warning: camera: 49 of 50 readings dropped (out_of_order): " in done.output
    assert "its stamps run backwards: sort a recording by them, or state reorder_ms" in done.output
    wide = recording(tmp_path / "b.npz", camera=np.zeros((50, 4, 4, 3)), wheel=np.zeros((50, 9)))
    done = serket("stream", run, "--source", wide)
    assert "no reading was used" in str(done.exception)
    assert "not as many numbers as the module was trained on: 4 x 4 x 3 for 2; record what" in done.output


def test_nothing_to_replay(tmp_path):
    done = serket("replay", "tracking")
    assert "a graph keeps nothing of what was streamed" in str(done.exception)
    assert "serket replay tracking --source FILE" in str(done.exception)
    assert serket("replay", "tracking", *PLAY).exit_code == 0
    fresh = tmp_path / "fresh"
    assert serket("run", "tracking", "--out", fresh, "--quiet").exit_code == 0
    assert "nothing was streamed yet" in str(serket("replay", fresh).exception)


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_beliefs_replace_nothing(run, tmp_path, ending):
    out = tmp_path / f"beliefs.{ending}"
    assert serket("stream", run, "--source", "tracking", "--sink", out).exit_code != 0
    assert not out.exists(), "of a mistake nothing is left that stands in the way"
    assert serket("stream", run, *PLAY, "--sink", out).exit_code == 0
    lines = out.read_bytes()
    assert len([json.loads(line) for line in lines.splitlines()]) == 60
    for again in (["stream", run, *PLAY, "--sink", out], ["replay", run, "--out", out]):
        done = serket(*again)
        assert "beliefs would replace what stands there" in str(done.exception)
        assert "remove it, or choose another name" in str(done.exception)
    assert out.read_bytes() == lines


def test_bags_in_and_out(run, tmp_path):
    """Beliefs written as a bag are observations of whoever listens."""
    beliefs = tmp_path / "beliefs"
    assert serket("stream", run, *PLAY, "--sink", beliefs).exit_code == 0
    assert (beliefs / "metadata.yaml").is_file()
    done = serket("stream", run, "--source", beliefs)
    assert "none of the sensors' topics" in str(done.exception)
    assert "/serket/motion (std_msgs/msg/Float64MultiArray)" in str(done.exception)
    for again in (["stream", run, *PLAY, "--sink", beliefs], ["replay", run, *PLAY, "--out", beliefs]):
        done = serket(*again)
        assert "cannot be written" in str(done.exception) and "--sink" not in str(done.exception)
        assert "fix: remove it, or choose another name" in str(done.exception)
