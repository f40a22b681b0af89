"""Sets, presence masks, health and every counter of simulated streams, as predicted by hand (see simulation.py)."""

import itertools

import numpy as np
import pytest

from serket.stream.health import Level
from serket.stream.observation import Observation
from tests.stream.simulation import (
    ALL,
    CAMERA,
    HZ,
    MS,
    SECONDS,
    SETS,
    TOUCH,
    dropped,
    frames,
    levels,
    masks,
    ordered,
    play,
)  # fmt: skip

WAITING = ["approximate", "settled"]
PLAIN = {ALL: 10 * SECONDS, CAMERA: 20 * SECONDS, TOUCH: 10 * SECONDS}


@pytest.mark.parametrize("policy", ["exact", *WAITING])
def test_three_rates(policy):
    outputs, pipeline = play(frames(), policy)
    assert len(outputs) == SETS
    assert masks(outputs) == PLAIN
    assert not dropped(pipeline)
    assert set(levels(outputs)) == {Level.OK}
    assert [o.time_ns for o in outputs] == sorted(o.time_ns for o in outputs)


def test_a_set_goes_out_as_soon_as_it_may():
    """Settled: at once, for no other is due so soon; without rates, when touch (50) and joints (100) have passed it."""
    outputs, _ = play(frames())
    assert [(o.time_ns // MS, o.emitted_ns // MS) for o in outputs[:4]] == [(0, 0), (33, 33), (50, 50), (66, 66)]
    outputs, _ = play(frames(), sensors={name: {"expect_hz": None} for name in HZ})
    assert [(o.time_ns // MS, o.emitted_ns // MS) for o in outputs[:4]] == [(0, 0), (33, 100), (50, 100), (66, 100)]
    outputs, _ = play(frames(), "approximate")
    assert [(o.time_ns // MS, o.emitted_ns // MS) for o in outputs[:4]] == [(0, 0), (33, 100), (50, 100), (66, 100)]


def test_latest_sends_a_set_for_every_reading_beside_the_last_of_the_others():
    outputs, pipeline = play(frames(), "latest")
    assert len(outputs) == sum(HZ.values()) * SECONDS
    assert masks(outputs)[ALL] == len(outputs) - 2, "but the first two"
    assert {name: count.used for name, count in pipeline.counts.items()} == {n: hz * SECONDS for n, hz in HZ.items()}
    assert max(o.age_ns["joints"] for o in outputs if "joints" in o.age_ns) == 100 * MS


@pytest.mark.parametrize("policy", WAITING)
def test_jitter_within_tolerance_changes_nothing(policy):
    outputs, pipeline = play(frames(jitter_ms=2.0), policy)
    assert masks(outputs) == PLAIN
    assert not dropped(pipeline)
    assert set(levels(outputs)) == {Level.OK}


@pytest.mark.parametrize("policy", WAITING)
def test_a_sensor_400_ms_late_is_missed_and_reported(policy):
    outputs, pipeline = play(frames({"camera": 400}), policy)
    # Its very last frame is later than the last set of touch: a set of its own.
    assert masks(outputs) == {frozenset({"touch", "joints"}): 10 * SECONDS, TOUCH: 10 * SECONDS, CAMERA: 1}
    assert dropped(pipeline) == {"camera": {"late": 30 * SECONDS - 1}}
    # Nothing of it until 400 ms: only the first set waits. Silent counts from 67 ms after that (it leaves at 100 ms), from
    # the second output on: those at 150 and 200 ms both leave at 200, or each at once.
    first = {"approximate": 4, "settled": 5}[policy]
    assert [level == Level.DEGRADED for level in levels(outputs)] == [i >= first for i in range(len(outputs))]
    assert [o.emitted_ns // MS for o in outputs[3:6]] == ([200, 200, 300] if first == 4 else [150, 200, 250])
    assert "camera: silent" in outputs[first].reasons[0]
    assert outputs[50].reasons == ("camera: its set had gone out", "camera: nothing usable for 2.5 s")


@pytest.mark.parametrize("policy", WAITING)
def test_a_longer_timeout_waits_for_it(policy):
    outputs, pipeline = play(frames({"camera": 400}), policy, timeout_ms=500.0)
    assert masks(outputs) == PLAIN
    assert not dropped(pipeline)


@pytest.mark.parametrize("policy", WAITING)
def test_a_sensor_that_dies_stops_nothing(policy):
    alive = [o for o in frames() if o.sensor != "camera" or o.stamp_ns < 5e9]
    outputs, pipeline = play(alive, policy)
    half = SECONDS // 2
    both = frozenset({"touch", "joints"})
    assert masks(outputs) == {ALL: 10 * half, CAMERA: 20 * half, TOUCH: 10 * SECONDS, both: 10 * half}
    assert not dropped(pipeline)
    after = [o for o in outputs if o.time_ns >= 5e9]
    assert len(after) == 20 * half, "every reading of touch still makes a set"
    # The last frame came at 4.967 s: silent from 5.033 s on, and it counts from the second output on. Settled, the set of
    # 5.0 s goes out at 5.1 s; approximate, those of 4.95 and 4.967 s still wait for it, until 5.05 and 5.067 s.
    first = len(outputs) - len(after) + (1 if policy == "settled" else -1)
    assert set(levels(outputs[:first])) == {Level.OK}
    assert set(levels(outputs[first:])) == {Level.DEGRADED}
    silent = (after[1].emitted_ns - round(149e9 / 30)) / 1e6
    assert after[1].reasons == (f"camera: silent for {silent:.0f} ms",) and silent > 2000 / 30
    assert max(o.latency_ns for o in outputs) == 100 * MS, "the deadline"


@pytest.mark.parametrize("policy", WAITING)
def test_a_required_sensor_that_dies_is_an_error_and_still_no_silence(policy):
    alive = [o for o in frames() if o.sensor != "camera" or o.stamp_ns < 5e9]
    outputs, pipeline = play(alive, policy, sensors={"camera": {"required": True}})
    sets = 20 * SECONDS // 2
    after = [o for o in outputs if o.time_ns >= 5e9]
    assert len(after) == sets
    assert {(o.present, o.level) for o in after} == {((), Level.ERROR)}
    assert "camera: required, and not in the set" in after[0].reasons
    lost = dropped(pipeline)
    assert lost["touch"]["incomplete"] == sets + 10 * SECONDS // 2, "and those between frames before"
    assert set(lost["touch"]) == {"incomplete"}


@pytest.mark.parametrize("policy", WAITING)
def test_a_sensor_that_comes_back_is_heard_again(policy):
    alive = [o for o in frames() if o.sensor != "camera" or not 5e9 <= o.stamp_ns < 7e9]
    outputs, _ = play(alive, policy)
    assert len(outputs) == SETS - 2 * 20
    back = [o for o in outputs if o.time_ns >= 7e9]
    # Its rate is that of the last five intervals: the gap is in them for five frames; then five outputs to forget.
    assert back[0].level == Level.DEGRADED
    assert set(levels([o for o in outputs if o.time_ns >= 7.6e9])) == {Level.OK}


@pytest.mark.parametrize("policy", ["exact", *WAITING, "latest"])
def test_a_frame_repeated_changes_nothing(policy):
    once, _ = play(frames(), policy)
    thrice = [o for one in frames() for o in ([one] * 3 if one.sensor == "camera" else [one])]
    copies = [Observation(o.sensor, o.stamp_ns, o.recv_ns, o.values) for o in thrice]
    outputs, pipeline = play(copies, policy)
    assert [(o.time_ns, o.emitted_ns, o.present) for o in outputs] == [
        (o.time_ns, o.emitted_ns, o.present) for o in once
    ]
    assert dropped(pipeline) == {"camera": {"duplicate": 2 * 30 * SECONDS}}


def swapped():
    """Touch comes in pairs, the later one first, both when the later one was due."""
    touch = [o for o in frames() if o.sensor == "touch"]
    others = [o for o in frames() if o.sensor != "touch"]
    for first, second in (
        itertools.batched(touch, 2) if hasattr(itertools, "batched") else zip(touch[::2], touch[1::2], strict=True)
    ):
        others += [Observation("touch", second.stamp_ns, second.recv_ns, second.values),
                   Observation("touch", first.stamp_ns, second.recv_ns + 1, first.values)]  # fmt: skip
    return sorted(others, key=lambda o: o.recv_ns)


@pytest.mark.parametrize("policy", WAITING)
def test_what_comes_out_of_order_waits_for_its_turn(policy):
    outputs, pipeline = play(swapped(), policy, sensors={"touch": {"reorder_ms": 60.0}}, timeout_ms=200.0)
    assert masks(outputs) == PLAIN
    assert not dropped(pipeline)
    outputs, pipeline = play(swapped(), policy)
    assert dropped(pipeline) == {"touch": {"out_of_order": 10 * SECONDS}}, "the earlier of each pair"
    assert masks(outputs) == {frozenset({"camera", "joints"}): 10 * SECONDS, CAMERA: 20 * SECONDS, TOUCH: 10 * SECONDS}


@pytest.mark.parametrize("policy", WAITING)
def test_one_clock_that_jumps_is_not_believed(policy):
    jumped = [
        Observation(o.sensor, o.stamp_ns + 10**10 * (o.sensor == "camera" and o.stamp_ns >= 5e9), o.recv_ns, o.values)
        for o in frames()
    ]
    outputs, pipeline = play(jumped, policy)
    assert len(outputs) == SETS // 2 + 20 * SECONDS // 2
    assert dropped(pipeline) == {"camera": {"clock": 15 * SECONDS}}
    assert pipeline.clock_resets == 0
    assert outputs[-1].reasons[0] == "camera: its stamp is off its clock by more than jump_ms"
    assert "camera: nothing usable" in outputs[-1].reasons[1]
    assert outputs[-1].level == Level.DEGRADED


@pytest.mark.parametrize("policy", WAITING)
def test_when_every_clock_jumps_time_starts_anew(policy):
    """As when a bag is played again: the first frame of each sensor is doubted, then all are believed."""
    jumped = [
        Observation(o.sensor, o.stamp_ns - 3600 * 10**9 * (o.stamp_ns >= 5e9), o.recv_ns, o.values) for o in frames()
    ]
    outputs, pipeline = play(jumped, policy)
    assert len(outputs) == SETS - 1
    assert dropped(pipeline) == {name: {"clock": 1} for name in HZ}
    assert pipeline.clock_resets == 1


def burst():
    """Touch delivers its readings of the fifth second together, at 5.0 s, before anything else then."""
    return ordered(
        Observation(
            o.sensor, o.stamp_ns, 5 * 10**9 if o.sensor == "touch" and 4e9 <= o.stamp_ns < 5e9 else o.recv_ns, o.values
        )
        for o in frames()
    )


def test_a_burst_is_used_as_far_as_its_sets_are_open():
    """At 5.0 s the sets up to 4.9 s have gone: of touch's 20, 4.0 to 4.9 s are late, 19; of ten sets of its own one stays."""
    outputs, pipeline = play(burst())
    assert dropped(pipeline) == {"touch": {"late": 19}}
    assert len(outputs) == SETS - 9


@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", [7, 8, 9]), ("drop_newest", [0, 1, 2])])
def test_a_queue_that_is_full_drops_and_counts(overflow, kept):
    """Ten readings at once, a second apart; the sets wait for the others, so that three fill the queue."""
    wave = [Observation("touch", i * 10**8, 10**9, np.full(2, float(i))) for i in range(10)]
    seen = []

    class Watch:
        state = None

        def step(self, readings, time_ns, ages_ns):
            seen.extend(float(values[0]) for values in readings.values())
            from serket.engine.inference import Inference

            return Inference({})

    queue = {"size": 3, "policy": overflow}
    rates = {"touch": {"queue": queue, "expect_hz": None}}
    outputs, pipeline = play(wave, engine=Watch(), sensors=rates, jump_ms=10_000.0)
    assert seen == kept
    assert dropped(pipeline) == {"touch": {"queue": 7}}
    assert len(outputs) == 3


def test_a_queue_that_blocks_loses_nothing():
    wave = [Observation("touch", i * 10**8, 10**9, np.zeros(2)) for i in range(10)]
    rates = {"touch": {"queue": {"size": 3, "policy": "block"}, "expect_hz": None}}
    outputs, pipeline = play(wave, sensors=rates, jump_ms=10_000.0)
    assert not dropped(pipeline)
    assert masks(outputs) == {TOUCH: 10}


@pytest.mark.parametrize("policy", WAITING)
def test_frames_of_nan_never_enter(policy):
    spoilt = [
        Observation(o.sensor, o.stamp_ns, o.recv_ns, np.full(2, np.nan) if i % 3 == 0 else o.values)
        for sensor in HZ
        for i, o in enumerate(one for one in frames() if one.sensor == sensor)
        if sensor == "camera"
    ] + [o for o in frames() if o.sensor != "camera"]
    outputs, pipeline = play(ordered(spoilt), policy)
    both = frozenset({"touch", "joints"})
    assert masks(outputs) == {both: 10 * SECONDS, CAMERA: 20 * SECONDS, TOUCH: 10 * SECONDS}
    assert dropped(pipeline) == {"camera": {"not_finite": 10 * SECONDS}}
    # Two frames in five readings count, and never are five in a row without. Settled, the second is heard of by the set of
    # 100 ms, the fifth; approximate, the sets up to 100 ms wait until then, the second for 33 ms more.
    clear = 4 if policy == "settled" else 1
    expected = [Level.OK] * clear + [Level.DEGRADED] * (SETS - clear)
    assert levels(outputs) == expected


def test_a_reading_of_another_size_never_enters():
    wrong = Observation("camera", 0, 0, np.zeros(3))
    outputs, pipeline = play([wrong, *[o for o in frames() if o.stamp_ns > 0 or o.sensor != "camera"]])
    assert dropped(pipeline) == {"camera": {"shape": 1}}
    assert len(outputs) == SETS


@pytest.mark.parametrize("waiting", [1, 4])
def test_twice_too_much_work(waiting):
    """Sets take 50 ms each and come at 40 a second: beside an independent model of the queue."""
    free, _ = play(frames(), "approximate")
    arrivals = [(o.emitted_ns, frozenset(o.present)) for o in free]
    busy, queue, done, lost = -1, [], [], []
    for now, present in arrivals:
        while queue and busy <= now:
            start = max(busy, queue[0][0])
            done.append((start, queue.pop(0)[1]))
            busy = start + 50 * MS
        queue.append((now, present))
        if busy <= now:
            done.append((now, queue.pop(0)[1]))
            busy = now + 50 * MS
        elif len(queue) + 1 > waiting:
            lost.append(queue.pop(0)[1])
    done += [(0, present) for _, present in queue]
    outputs, pipeline = play(frames(), "approximate", service=lambda _: 50 * MS, max_in_flight=waiting)
    assert [frozenset(o.present) for o in outputs] == [present for _, present in done]
    assert {name: count.dropped["overload"] for name, count in pipeline.counts.items()} == {
        name: sum(name in present for present in lost) for name in HZ
    }
    # Four sets come together every 100 ms, the first alone: with none waiting one of four is served; with three waiting
    # two of four, and the last three when all is over.
    batches = 10 * SECONDS - 1
    assert len(outputs) == (1 + batches + 1 if waiting == 1 else 1 + 2 * batches + 3)
    assert outputs[-1].level == Level.DEGRADED


def test_a_missed_deadline_is_counted_and_reported():
    outputs, pipeline = play(frames(), "approximate", service=lambda _: 20 * MS, deadline_ms=50.0)
    assert pipeline.missed_deadlines == sum(o.latency_ns > 50 * MS for o in outputs) > 0
    assert any("deadline: " in reason for o in outputs for reason in o.reasons)


def test_when_all_fall_silent_predictions_go_out_as_errors():
    outputs, _ = play([*frames()[:60], Observation("camera", 6 * 10**9, 6 * 10**9, np.zeros(2))])
    quiet = [o for o in outputs if not o.present]
    last = frames()[59].recv_ns
    assert [o.emitted_ns for o in quiet] == [last + s * 10**9 for s in (1, 2, 3, 4, 5)]
    assert {o.level for o in quiet} == {Level.ERROR}


@pytest.mark.parametrize("policy", ["settled", "approximate", "exact"])
def test_a_sensor_that_never_came_is_waited_for_once(policy):
    """One set waits 100 ms for joints; then sets go out with camera and touch, and from 5 s on with joints, too."""
    stamps = [i * 100 * MS for i in range(100)]
    late = {"joints": 50}
    told = [
        Observation(name, stamp, stamp + k * MS, np.zeros(2))
        for i, stamp in enumerate(stamps)
        for k, name in enumerate(("joints", "camera", "touch"))
        if i >= late.get(name, 0)
    ]
    rates = {name: {"expect_hz": [10.0, 10.0]} for name in HZ}
    outputs, pipeline = play(told, policy, sensors=rates)
    assert len(outputs) == 100 and [len(one.present) for one in outputs] == [2] * 50 + [3] * 50
    assert [one.latency_ns // MS for one in outputs] == [100] + [1] * 49 + [2] * 50
    assert all(count.dropped.total() == 0 for count in pipeline.counts.values())
    outputs, _ = play(told, policy, sensors=rates | {"joints": rates["joints"] | {"required": True}})
    assert [one.latency_ns // MS for one in outputs][:49] == [100] * 49
