"""A fitted model on recordings: sources, sinks, replay to the byte, the terminal and the picture."""

import io
import json
from functools import cache

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from rich.console import Console

import serket
from serket.data.generate.tracking import tracking
from serket.engine.inference import Inference
from serket.errors import DataError, GraphError, SerketError
from serket.graph.stream import StreamEntry
from serket.stream import Observation, from_arrays, measured, open_stream
from serket.stream.account import Account
from serket.stream.pipeline import Pipeline
from serket.stream.play import follow, play
from serket.stream.recorder import Recorder
from serket.stream.sinks import JsonLines
from serket.stream.timeline import COLOURS, Timeline
from serket.stream.view import View

KEYS = ("camera", "wheel")


@cache
def model():
    return serket.fit("tracking", tracking(sequences=4, length=20), workers=1)


@cache
def recording():
    """Six seconds of one thing: the camera at 2 Hz, the wheel at 10, and one lie of the camera."""
    data = tracking(sequences=1, length=60, seed=5)
    camera = np.array(data["camera"][::5])
    camera[6] += 40
    stamps = np.arange(60) * 100_000_000
    return {
        "camera": camera,
        "camera_stamp_ns": stamps[::5],
        "camera_recv_ns": stamps[::5] + 30_000_000,
        "wheel": data["wheel"],
        "wheel_stamp_ns": stamps,
        "wheel_recv_ns": stamps + 1_000_000,
        "position": data["position"],
    }


def played(source=None, **options):
    pipeline = open_stream(model(), **options)
    file, account = io.StringIO(), Account()
    play(pipeline, source or from_arrays(recording(), KEYS), [JsonLines(file), account])
    return file.getvalue(), pipeline, account


def test_a_stream_follows_what_moves_and_does_not_believe_a_lie():
    text, pipeline, _ = played()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 60
    assert {line["level"] for line in lines} == {"OK"}, "one lie is not two in a row"
    assert dict(pipeline.counts["camera"].dropped) == {"gate": 1}
    assert lines[30]["gated"]["camera"] > 5
    assert "camera" not in lines[30]["present"]
    mean = np.array([line["beliefs"]["motion"]["mean"][:2] for line in lines])
    assert np.sqrt(np.square(mean - recording()["position"]).mean()) < 0.4


def test_the_beliefs_are_those_of_a_kalman_filter():
    """By hand, in moments, for the first rows: predict, then take in what came."""
    text, _, _ = played()
    lines = [json.loads(line) for line in text.splitlines()][:25]
    step = np.eye(4) + np.eye(4, k=2)
    noise = np.diag([1e-9, 1e-9, 0.0004, 0.0004])
    mean, cov = np.zeros(4), np.diag([1, 1, 0.01, 0.01])
    for row, line in enumerate(lines):
        if row:
            mean, cov = step @ mean, step @ cov @ step.T + noise
        seen = [(np.eye(4)[2:], 0.01 * np.eye(2), recording()["wheel"][row])]
        seen += [(np.eye(4)[:2], 0.25 * np.eye(2), recording()["camera"][row // 5])] if row % 5 == 0 else []
        for look, spread, value in seen:
            gain = cov @ look.T @ np.linalg.inv(look @ cov @ look.T + spread)
            mean, cov = mean + gain @ (value - look @ mean), cov - gain @ look @ cov
        np.testing.assert_allclose(line["beliefs"]["motion"]["mean"], mean, atol=1e-5)
        np.testing.assert_allclose(line["beliefs"]["motion"]["cov"], cov, rtol=1e-4, atol=1e-6)


def test_a_replay_is_the_same_to_the_byte():
    heard = []
    pipeline, file = open_stream(model()), io.StringIO()
    play(pipeline, from_arrays(recording(), KEYS), [JsonLines(file)], heard=heard.append)
    again, _, _ = played(heard)
    assert again == file.getvalue()
    assert played()[0] == again


def test_what_is_heard_live_is_recorded_to_the_bit(tmp_path):
    """Of every type and shape, with stamps of its own; what no array can hold is counted; replayed, it is believed so."""
    rng = np.random.default_rng(0)
    told = list(from_arrays(recording(), KEYS))
    told += [Observation.of("eye", 7 + k, 10**10 + k, rng.random((2, 3, 4), dtype=np.float32)) for k in range(3)]
    told.sort(key=lambda one: one.recv_ns)
    wide = Observation("wheel", 5, 2 * 10**6, np.zeros(3))
    told.insert(1, wide)
    with Recorder(tmp_path / "live", (*KEYS, "eye", "ear")) as recorder:
        events = [(one.recv_ns, one) for one in told] + [(10**11, None)]
        assert list(recorder.through(iter(events))) == events
    assert recorder.left_out == {"wheel": 1}, "the first tells the size"
    again = list(from_arrays(recorder.path, (*KEYS, "eye", "ear")))
    assert [bits(one) for one in again] == [bits(one) for one in told if one is not wide]
    with pytest.raises(DataError, match="would replace what stands there"):
        Recorder(recorder.path, KEYS)
    assert [path.name for path in tmp_path.iterdir()] == ["live.npz"], "nothing else is left"


def bits(one):
    return one.sensor, one.stamp_ns, one.recv_ns, one.values.dtype, one.values.tobytes(), one.shape


def test_a_recorded_stream_is_believed_as_it_was(tmp_path):
    file = io.StringIO()
    with Recorder(tmp_path / "live.npz", KEYS) as recorder:
        events = ((one.recv_ns, one) for one in from_arrays(recording(), KEYS))
        follow(open_stream(model()), recorder.through(events), [JsonLines(file)])
    assert played(from_arrays(recorder.path, KEYS))[0] == file.getvalue()


def test_what_never_began_is_not_recorded(tmp_path):
    with pytest.raises(DataError, match="nobody"), Recorder(tmp_path / "live.npz", KEYS):
        raise DataError("nobody publishes")
    assert not list(tmp_path.iterdir())


def test_a_repeated_observation_changes_nothing():
    def thrice():
        for one in from_arrays(recording(), KEYS):
            for _ in range(3):
                yield Observation(one.sensor, one.stamp_ns, one.recv_ns, one.values)

    text, pipeline, _ = played(thrice())
    assert text == played()[0]
    assert pipeline.counts["wheel"].dropped["duplicate"] == 120


def test_data_without_stamps_are_taken_at_a_rate():
    data = tracking(sequences=1, length=10)
    found = list(from_arrays(data, KEYS, hz=10))
    assert [o.sensor for o in found][:3] == ["camera", "wheel", "wheel"]
    assert [o.stamp_ns for o in found if o.sensor == "camera"] == [0, 500_000_000], "rows of NaN are no readings"
    with pytest.raises(DataError, match="'camera' has no stamps") as caught:
        list(from_arrays(data, KEYS))
    assert "--hz" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"camera_stamp_ns": np.arange(12) * 0.5}, "stamps are no whole numbers"),
        ({"camera_stamp_ns": np.arange(3)}, "not one stamp per reading"),
        ({"wheel_recv_ns": np.zeros(60)}, "wheel_recv_ns"),
    ],
)
def test_stamps_that_cannot_be_read(change, match):
    with pytest.raises(DataError, match=match):
        list(from_arrays(recording() | change, KEYS))


def test_a_sensor_without_a_reading_is_there_and_silent():
    empty = recording() | {
        "camera": np.zeros((0, 2)),
        "camera_stamp_ns": np.zeros(0, int),
        "camera_recv_ns": np.zeros(0, int),
    }
    _, pipeline, _ = played(from_arrays(empty, KEYS))
    assert (pipeline.counts["camera"].received, pipeline.counts["wheel"].used) == (0, 60)
    assert list(from_arrays({key: values[:0] for key, values in recording().items()}, KEYS)) == []


def test_two_clocks_in_a_recording_without_times_of_receipt():
    bare = {key: values for key, values in recording().items() if not key.endswith("recv_ns")}
    since = 1_760_000_000 * 10**9
    two = bare | {"wheel_stamp_ns": bare["wheel_stamp_ns"] + since}
    with pytest.raises(DataError, match="'wheel' and 'camera' are stamped by two clocks") as caught:
        list(from_arrays(two, KEYS))
    assert "camera from 0.000 to 5.500 s, wheel from 1760000000.000 to 1760000005.900 s: no time in common" in str(
        caught.value
    )
    assert "{wheel: {offset_ms: 1760000000000}}" in str(caught.value) and "camera_recv_ns" in str(caught.value)
    entry = StreamEntry.model_validate({"sensors": {"wheel": {"offset_ms": 1.76e12}}})
    told = [
        (o.sensor, o.recv_ns, o.stamp_ns - since * (o.sensor == "wheel")) for o in from_arrays(two, KEYS, entry=entry)
    ]
    assert told == [(o.sensor, o.recv_ns, o.stamp_ns) for o in from_arrays(bare, KEYS)]


def test_images_keep_their_shape():
    told = next(from_arrays({"camera": np.zeros((2, 3, 4, 3)), "wheel": np.zeros((2, 2))}, KEYS, hz=1.0))
    assert (told.values.shape, told.shape) == ((36,), (3, 4, 3))
    assert [one.shape for one in from_arrays({"wheel": np.zeros((1, 2))}, KEYS, hz=1.0)] == [()]


def test_a_source_of_other_sensors():
    with pytest.raises(DataError, match="none of the model's sensors") as caught:
        list(from_arrays({"camra": np.zeros((2, 2))}, KEYS))
    assert "camera" in str(caught.value)


def test_readings_of_another_size_are_counted():
    wide = recording() | {"camera": np.zeros((12, 3))}
    text, pipeline, _ = played(from_arrays(wide, KEYS))
    assert dict(pipeline.counts["camera"].dropped) == {"shape": 12}
    assert json.loads(text.splitlines()[-1])["level"] == "DEGRADED"


def test_a_module_over_time_and_fading_exclude_each_other():
    entry = model().graph.stream.model_copy(update={"policy": "latest", "tau_ms": 100.0})
    with pytest.raises(GraphError, match="tau_ms reuses readings"):
        open_stream(model(), entry)


def test_a_reading_used_again_fades():
    """position: two sensors on one place. The gps of 100 ms ago counts as its message to the power exp(-100 / 100)."""
    fitted = serket.fit("position", workers=1)
    entry = StreamEntry.model_validate({"policy": "latest", "tau_ms": 100.0, "timeout_ms": 500.0})
    pipeline = open_stream(fitted, entry)
    outputs = pipeline.push(Observation("gps", 0, 0, np.array([1.0])))
    outputs += pipeline.push(Observation("wheel", 10**8, 10**8, np.array([0.5])))
    belief = outputs[1].inference.beliefs["x"]
    torch.testing.assert_close(belief.full().precision[0, 0, 0].item(), 1 + np.exp(-1) / 0.5)
    assert outputs[1].age_ns["gps"] == 10**8


class Broken:
    """A module that raises whatever it is asked, in place of another."""

    def __init__(self, module):
        self.ports = module.ports

    def infer(self, inbox, evidence, *, generator, ports=None):
        raise RuntimeError("the driver is gone")


def places(on_error, **sensors):
    """Four sets of a place; after the first the gps is broken, until it is made anew. Whether each set had it."""
    fitted = serket.fit("position", workers=1)
    pipeline = open_stream(fitted, StreamEntry.model_validate({"on_error": on_error, "sensors": sensors}))
    had = []
    for i in range(4):
        for key in ("gps", "wheel"):
            for output in pipeline.push(Observation(key, i * 10**8, i * 10**8, np.array([1.0]))):
                had.append("gps" in output.present)
        if i == 0:
            pipeline.engine.modules["gps"] = Broken(pipeline.engine.modules["gps"])
    return had, pipeline.counts["gps"].dropped["error"]


@pytest.mark.parametrize("sensors", [{}, {"wheel": {"on_error": "fail"}}], ids=["alone", "beside"])
def test_a_module_that_fails_is_skipped_or_made_anew(sensors):
    assert places("skip", **sensors) == ([True, False, False, False], 3)
    assert places("restart", **sensors) == ([True, False, True, True], 1)


def test_what_a_sensor_says_of_its_failures_goes_before_what_the_stream_says():
    assert places("fail", gps={"on_error": "skip"}) == ([True, False, False, False], 3)
    assert places("skip", gps={"on_error": "restart"}) == ([True, False, True, True], 1)
    with pytest.raises(SerketError, match="the driver is gone"):
        places("skip", gps={"on_error": "fail"})
    with pytest.raises(SerketError, match="the driver is gone"):
        places("fail", wheel={"on_error": "skip"})


def test_as_it_was_received_by_a_clock_that_is_told():
    """At rate 2 the last of 5.93 s is sent after 2.97 s, and no deadline waits for the next observation."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    seen = []

    class Watch:
        def put(self, output):
            seen.append((now[0], output.emitted_ns))

    play(open_stream(model()), from_arrays(recording(), KEYS), [Watch()], rate=2.0, sleep=sleep, clock=lambda: now[0])
    assert now[0] == pytest.approx(5.9 / 2, abs=0.03)
    assert len(seen) == 60
    start = recording()["wheel_recv_ns"][0]
    assert all(2 * wall == pytest.approx((emitted - start) / 1e9, abs=0.1) for wall, emitted in seen)


def test_measured_time_makes_sets_wait():
    assert measured(0.25) == 250_000_000
    _, pipeline, account = played(service=lambda _: 250_000_000)
    told = account.summary(pipeline)
    assert told["sensors"]["wheel"]["dropped"]["overload"] > 20
    assert told["ms"]["latency"]["p50"] >= 250
    assert set(told["ms"]) == {"latency", "camera", "wheel"}
    assert sum(told["levels"].values()) == told["sets"]


def test_the_account_says_why_health_was_bad():
    wide = recording() | {"camera": np.zeros((12, 3))}
    _, pipeline, account = played(from_arrays(wide, KEYS))
    told = account.summary(pipeline)
    assert list(told["reasons"].items()) == [
        ("camera: not as many numbers as the module was trained on", 54),  # from the second of twelve, at 0.53 s
        (
            "camera: nothing usable for 5.8 s",
            36,
        ),  # after 2.1 s, from the set of 0.0 s on, that waited for it until 0.1 s
    ]


def test_reasons_are_counted_without_their_numbers_and_in_bounded_memory():
    account, pipeline = Account(), open_stream(model())
    outputs = list(pipeline.run(from_arrays(recording(), KEYS)))
    for k, output in enumerate(outputs):
        share = "less than 1%" if k % 2 else f"{k}%"
        span = f"{k} ms" if k < 50 else f"{k / 10} s"
        output.reasons = (f"imu{k % 2}: silent for {span}", f"camera: counts {share}", f"arm: failed: {'x' * k}")
        account.put(output)
    told = account.summary(pipeline)["reasons"]
    assert list(told.items())[:3] == [
        ("camera: counts less than 1%", 60),
        ("imu0: silent for 5.8 s", 30),
        ("imu1: silent for 5.9 s", 30),
    ]
    assert len(told) == 10
    outputs[0].reasons = ("camera: counts 7% (before)",)
    account.put(outputs[0])
    assert account.summary(pipeline)["reasons"]["camera: counts 7%"] == 61, "held over, it is the same"
    for k in range(1000):
        outputs[0].reasons = (f"arm: failed: {'y' * k}",)
        account.put(outputs[0])
    assert len(account.reasons) == 100


def test_the_age_of_who_is_not_in_the_set_is_that_of_its_last_reading():
    """The camera of every 500 ms, received after 30; in between it grows, over its lie too, and nothing is its skew."""
    outputs = list(open_stream(model()).run(from_arrays(recording(), KEYS)))
    for output in outputs:
        there = "camera" in output.present
        last = output.time_ns - output.time_ns % 500_000_000
        last -= 500_000_000 * (last == 3_000_000_000)  # the lie is gated
        assert output.age_ns["camera"] == output.emitted_ns - last
        assert ("camera" in output.skew_ns) == there
        assert output.age_ns["wheel"] == output.emitted_ns - output.time_ns
    silent = {key: value for key, value in recording().items() if not key.startswith("camera")}
    assert all(set(o.age_ns) == {"wheel"} for o in open_stream(model()).run(from_arrays(silent, KEYS)))


def test_ages_are_forgotten_when_time_starts_anew():
    heard = list(from_arrays(recording(), KEYS))
    jumped = [Observation(o.sensor, o.stamp_ns - 10**13, o.recv_ns + 10**10, o.values) for o in heard]
    pipeline = open_stream(model())
    outputs = list(pipeline.run([*heard, *jumped]))
    assert pipeline.clock_resets == 1
    first = next(o for o in outputs if o.time_ns < 0)
    assert set(first.age_ns) <= set(first.present)


def test_the_terminal_shows_sensors_health_and_belief():
    pipeline = open_stream(model())
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with View(pipeline, console) as view:
        play(pipeline, from_arrays(recording(), KEYS), [view])
    text = console.file.getvalue()
    assert "camera" in text and "1 gate" in text and "OK" in text and "motion" in text
    assert max(map(len, text.splitlines())) < 2000


@pytest.mark.parametrize(("seconds", "age"), [(0.8, "800 ms"), (12, "12 s")])
def test_the_terminal_shows_the_age_of_who_is_not_in_the_set(seconds, age):
    pipeline = open_stream(model())
    first = [Observation(key, 0, 0, np.zeros(2)) for key in KEYS]
    outputs = [*pipeline.run([*first, Observation("wheel", round(seconds * 1e9), round(seconds * 1e9), np.zeros(2))])]
    console = Console(file=io.StringIO(), width=80)
    console.print(View(pipeline, console).drawn(outputs[-1]))
    row = next(line for line in console.file.getvalue().splitlines() if line.startswith(" camera"))
    assert outputs[-1].present == ("wheel",) and row.split()[1:3] == age.split()


def test_three_sensors_with_long_names_fit_80_columns():
    names = ["front_camera_rgb_and_depth", "left_gripper_forces", "joints"]

    class Says:
        state = 0

        def step(self, readings, time_ns, ages_ns):
            return Inference({}, dict.fromkeys(readings, 1234.5))

    pipeline, outputs = Pipeline(StreamEntry.model_validate({}), dict.fromkeys(names, 2), Says()), []
    for k in range(90):
        bad = {1: np.zeros(3), 2: np.full(2, np.nan)}.get(k % 8, np.zeros(2))
        outputs += pipeline.push(Observation(names[k % 3], (k - k % 7 // 6 * 20) * 10**7, k * 10**7, bad))
    console = Console(file=io.StringIO(), width=80)
    console.print(View(pipeline, console).drawn(outputs[-1]))
    lines = console.file.getvalue().splitlines()
    rows = [line for line in lines if line.startswith((" front_camera_rgb_a", " left_gripper_forces ", " joints "))]
    assert len(rows) == 3 and max(map(len, lines)) <= 80
    assert all(str(pipeline.counts[name].used) in row for name, row in zip(names, rows, strict=True))
    assert all(f"{pipeline.counts[name].dropped.total()}: " in row for name, row in zip(names, rows, strict=True))


def test_the_picture_has_who_was_present_and_how_well_it_was():
    """Rows from below: health, wheel, camera; the camera at every half second but its lie, at 3 s; NaN from 4 s on."""
    timeline, outputs = Timeline(list(KEYS)), []
    heard = list(from_arrays(recording(), KEYS))
    for one in heard:
        if one.sensor == "camera" and one.stamp_ns >= 4 * 10**9:
            one.values = np.full(2, np.nan)
    for output in open_stream(model()).run(heard):
        outputs.append(output)
        timeline.put(output)
    top, middle, bottom = timeline.figure().axes
    assert [label.get_text() for label in top.get_yticklabels()] == ["health", "wheel", "camera"]
    health, wheel, camera = (marks.get_offsets() for marks in top.collections)
    camera_at = [0.5 * k for k in range(8) if k != 6]
    np.testing.assert_allclose(camera, [[t, 2] for t in camera_at])
    np.testing.assert_allclose(wheel, [[k / 10, 1] for k in range(60)], atol=1e-9)
    np.testing.assert_allclose(health, [[k / 10, 0] for k in range(60)], atol=1e-9)
    drawn = [to_hex(colour) for colour in top.collections[0].get_facecolors()]
    assert drawn == [COLOURS[o.level] for o in outputs] and set(drawn) == {COLOURS["OK"], COLOURS["DEGRADED"]}
    means = np.array([o.inference.beliefs["motion"].mean()[0].tolist() for o in outputs])
    np.testing.assert_allclose(np.stack([line.get_ydata() for line in middle.lines], 1), means)
    entropies = [o.inference.beliefs["motion"].to_distribution().entropy()[0].item() for o in outputs]
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), entropies)


def test_the_picture_is_drawn():
    timeline = Timeline(list(KEYS))
    pipeline = open_stream(model())
    play(pipeline, from_arrays(recording(), KEYS), [timeline])
    assert timeline.drawn()[:4] == b"\x89PNG"
    assert Timeline(["camera"]).drawn()[:4] == b"\x89PNG", "of a stream without a set, too"
