"""Which reasons health gives, from when to when: counted in what tells of them, outputs or a sensor's readings."""

import numpy as np
import pytest

from serket.engine.inference import Inference
from serket.graph.stream import StreamEntry
from serket.stream.health import BEFORE, CLEAR_AFTER, Health, Level
from serket.stream.observation import Observation
from serket.stream.pipeline import Pipeline

MS = 1_000_000
SLOW, FAST = 2, 10  # Hz


class Says:
    """An engine that says one thing of the camera's readings, by their number."""

    state, carries = 0, False

    def __init__(self, wrong, **told):
        self.wrong, self.told = wrong, told

    def step(self, readings, time_ns, ages_ns):
        if "camera" not in readings or int(readings["camera"][0]) not in self.wrong:
            return Inference({})
        return Inference({}, **{field: {"camera": value} for field, value in self.told.items()})


def two(engine, spoilt=(), until=20, slow=SLOW, **options):
    """Ten seconds of a camera at 2 Hz, 1 ms after the wheel at 10; a reading is its number. A set per reading of the wheel."""
    sensors = {"camera": {"expect_hz": [1, 3]}, "wheel": {"expect_hz": [9, 11]}}
    entry = StreamEntry.model_validate({"policy": "approximate", "timeout_ms": 50.0, "sensors": sensors} | options)
    found = [Observation("wheel", i * 100 * MS, i * 100 * MS, np.zeros(1)) for i in range(10 * FAST)]
    for i in range(min(until, int(10 * slow))):
        value = np.full(1, np.nan if i in spoilt else float(i))
        stamp = round(i * 1e9 / slow)
        found.append(Observation("camera", stamp, stamp + MS, value))
    pipeline = Pipeline(entry, {"camera": 1, "wheel": 1}, engine)
    return list(pipeline.run(sorted(found, key=lambda o: o.recv_ns)))


TOLD = {
    "gated": (9.5, "camera: 9.5 standard deviations from what was believed without it"),
    "beyond": (0.25, "camera: unlike what it was trained on, counts 25%"),
    "failed": ("the lens is gone", "camera: its module failed: the lens is gone"),
}


@pytest.mark.parametrize("field", TOLD)
def test_a_slow_sensor_is_judged_by_its_readings(field):
    """Readings 4 to 9 of the camera, at 2.0 to 4.5 s: the second, at 2.5 s, counts; 10 to 14 are well, 7.0 s forgets."""
    value, text = TOLD[field]
    outputs = two(Says(range(4, 10), **{field: value}))
    told = [text in o.reasons for o in outputs]
    assert [o.time_ns // MS for o in outputs] == list(range(0, 10_000, 100))
    assert told == [25 <= k < 50 for k in range(100)]
    assert [text + BEFORE in o.reasons for o in outputs] == [50 <= k < 70 for k in range(100)], "held, and said to be"


def test_one_lie_is_none_and_two_far_apart_are_none():
    assert not any(o.reasons for o in two(Says({4}, gated=9.5)))
    assert not any(o.reasons for o in two(Says({4, 10}, gated=9.5))), "five were well between"
    assert any(o.reasons for o in two(Says({4, 9}, gated=9.5))), "four were"


@pytest.mark.parametrize("every", [2, 3, 5])
def test_frames_of_nan_in_turn_with_good_ones_are_reported(every):
    """The camera's second NaN is heard of by the set of its time, and never are there five without."""
    outputs = two(Says(()), spoilt=range(0, 20, every))
    first = every * FAST // SLOW
    assert [o.level for o in outputs] == [Level.OK] * first + [Level.DEGRADED] * (100 - first)
    text = "camera: NaN or infinity in it"
    assert {o.reasons for o in outputs[first:]} == {(text,), (text + BEFORE,)}


def test_a_lie_that_is_used_again_is_told_once():
    entry = {"policy": "latest", "timeout_ms": 600.0}
    assert not any(o.reasons for o in two(Says({4}, gated=9.5), **entry))
    assert any("camera: 9.5" in reason for o in two(Says({4, 5}, gated=9.5), **entry) for reason in o.reasons)


def test_a_sensor_that_falls_silent_is_not_judged_for_ever_by_its_last_readings():
    """Lies at 1.0 and 1.5 s, then nothing: silent after 2 s, of which five outputs forget the lies. Sets wait for 50 ms."""
    outputs = two(Says({2, 3}, gated=9.5), until=4)
    assert ["camera: 9.5" in o.reasons[0] if o.reasons else False for o in outputs] == [
        15 <= k < 39 for k in range(100)
    ]
    assert [any("silent" in r for r in o.reasons) for o in outputs] == [k >= 36 for k in range(100)]


@pytest.mark.parametrize(
    ("slow", "told", "first"), [(0.8, "0.8", 6300), (0.95, "", 0), (2, "", 0), (3.25, "", 0), (5, "5.0", 1100)]
)
def test_a_rate_that_is_not_expected_is_reported(slow, told, first):
    """Of 1 to 3 Hz, a tenth is allowed; five intervals tell, to 6.25 and 1.0 s; the second output from then on counts."""
    outputs = two(Says(()), slow=slow, until=100)
    wrong = [o for o in outputs if told and o.time_ns >= first * MS]
    assert {o.reasons for o in wrong} == ({(f"camera: {told} Hz, expected 1 to 3",)} if told else set())
    assert [o.level for o in outputs] == [Level.OK] * (len(outputs) - len(wrong)) + [Level.DEGRADED] * len(wrong)


def test_reasons_are_the_worst_first_and_an_error_counts_at_once():
    health = Health()
    bad, worse = (Level.DEGRADED, "bad"), (Level.ERROR, "worse")
    assert health.update({("", "a"): bad}) == (Level.OK, ())
    assert health.update({("", "a"): bad, ("", "b"): worse}) == (Level.ERROR, ("worse", "bad"))
    after = [health.update({}) for _ in range(CLEAR_AFTER)]
    assert after[:-1] == [(Level.ERROR, ("worse" + BEFORE, "bad" + BEFORE))] * (CLEAR_AFTER - 1)
    assert after[-1] == (Level.OK, ())


class Carries(Says):
    """As the engine of a graph with a module over time."""

    carries = True


@pytest.mark.parametrize("field", ["gated", "failed"])
@pytest.mark.parametrize("engine", [Says, Carries])
@pytest.mark.parametrize("policy", ["approximate", "latest"])
def test_what_is_required_must_be_believed(policy, engine, field):
    """Twenty lies of a required camera at 2 Hz; with ``latest`` they stand beside the wheel for half a second."""
    sensors = {"camera": {"required": True}, "wheel": {}}
    wrong = engine(range(20), **{field: TOLD[field][0]})
    if policy == "latest" and engine is Says:
        wrong.step = lambda *_: Inference({}, **{field: {"camera": TOLD[field][0]}})  # heard again in each set
    outputs = two(wrong, policy=policy, timeout_ms=600.0 if policy == "latest" else 50.0, sensors=sensors)
    lied = [o for o in outputs if policy == "latest" or o.time_ns % (500 * MS) == 0]
    assert {o.level for o in lied} == {Level.ERROR}
    text = "camera: required, and not believed in the set"
    assert all(text in o.reasons for o in lied[1:]), "the first of latest may be the wheel alone"
    well = two(engine(()), policy=policy, timeout_ms=600.0 if policy == "latest" else 50.0, sensors=sensors)
    assert not any(text in o.reasons for o in well)


def test_min_present_counts_what_was_believed():
    outputs = two(Says(range(10), gated=9.5), slow=FAST, until=100, min_present=2, sensors={})
    text = "1 of 2 sensors in the set believed, min_present is 2"
    assert [o.level for o in outputs[:10]] == [Level.ERROR] * 10 and all(text in o.reasons for o in outputs[:10])
    assert {o.present for o in outputs[:10]} == {("wheel",)}
    assert {o.level for o in outputs[20:]} == {Level.OK}


def test_lies_alone_are_an_error_when_nothing_was_believed_for_silence_ms():
    """Of a camera alone at 2 Hz: readings 4 and 6 to 9 lie, from 3.0 s on; 2.5 s was believed, silence_ms is 1 s."""
    outputs = [o for o in two(Says({4, 6, 7, 8, 9}, gated=9.5), sensors={}, until=20) if o.time_ns % (500 * MS) == 0]
    assert {o.level for o in outputs} <= {Level.OK, Level.DEGRADED}, "the wheel is believed"
    entry = StreamEntry.model_validate({"policy": "approximate", "timeout_ms": 50.0})
    pipeline = Pipeline(entry, {"camera": 1}, Says({4, 6, 7, 8, 9}, gated=9.5))
    alone = [Observation("camera", i * 500 * MS, i * 500 * MS, np.full(1, float(i))) for i in range(20)]
    levels = [o.level for o in pipeline.run(alone)]
    assert levels[:6] == [Level.OK] * 6 and levels[6:8] == [Level.DEGRADED] * 2
    assert levels[8:14] == [Level.ERROR] * 6 and levels[15] == Level.OK
