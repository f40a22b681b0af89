"""Time on a stream: sets at any rate, beside a Kalman filter by hand whose rows are one frame apart."""

import numpy as np
import pytest
import torch

import serket
from serket.engine.step import Stepper

FRAME = 100_000_000
NOISE = {"camera": 0.25, "wheel": 0.01}
MOVES = {
    "serket": 1,
    "variables": {"motion": {"family": "gaussian", "size": 2}},
    "modules": {
        "camera": {"type": "linear_gaussian", "data": "camera", "ports": {"given": "motion"}, "matrix": [[1, 0]], "noise": [[0.25]]},
        "wheel": {"type": "linear_gaussian", "data": "wheel", "ports": {"given": "motion"}, "matrix": [[0, 1]], "noise": [[0.01]]},
        "inertia": {"type": "dynamics", "ports": {"state": "motion"}, "matrix": [[1, 1], [0, 1]],
                    "noise": [[1e-6, 0], [0, 4e-4]], "covariance": [[1, 0], [0, 0.5]]},
    },
}  # fmt: skip


def stepper(**options):
    graph = serket.load_graph(MOVES)
    return Stepper(graph, graph.build(), dtype=torch.float64, **({"frame_ns": FRAME} | options))


def reading(value):
    return torch.tensor([float(value)], dtype=torch.float64)


class ByHand:
    """Rows are one frame apart; a set belongs to the nearest row, counted from the first."""

    def __init__(self):
        self.mean, self.cov, self.row, self.first = np.zeros(2), np.diag([1.0, 0.5]), 0, None

    def step(self, readings, time):
        self.first = time if self.first is None else self.first
        matrix = np.array([[1.0, 1.0], [0.0, 1.0]])
        while self.row < np.floor((time - self.first) / FRAME + 0.5):
            self.mean, self.cov = matrix @ self.mean, matrix @ self.cov @ matrix.T + np.diag([1e-6, 4e-4])
            self.row += 1
        for sensor, value in readings.items():
            look = np.eye(2)[:1] if sensor == "camera" else np.eye(2)[1:]
            gain = self.cov @ look.T / (look @ self.cov @ look.T + NOISE[sensor])
            self.mean, self.cov = self.mean + gain @ (value - look @ self.mean), self.cov - gain @ look @ self.cov


@pytest.mark.parametrize("frames", [0.2, 0.4, 0.6, 1.0, 1.5, 2.3])
def test_at_any_rate_the_beliefs_are_those_of_a_kalman_filter(frames):
    engine, hand, rng = stepper(), ByHand(), np.random.default_rng(0)
    for i in range(40):
        time = 7 + round(i * frames * FRAME)
        readings = {"wheel": rng.normal(1, 0.1)} | ({"camera": rng.normal(time / FRAME, 0.5)} if i % 4 == 0 else {})
        found = engine.step({name: reading(value) for name, value in readings.items()}, time).beliefs["motion"]
        hand.step(readings, time)
        np.testing.assert_allclose(found.mean()[0].numpy(), hand.mean, rtol=0, atol=1e-8)
        np.testing.assert_allclose(found.covariance()[0].numpy(), hand.cov, rtol=0, atol=1e-8)


@pytest.mark.parametrize("ms", [20, 40, 49, 60, 100, 130])
def test_where_it_is_after_ten_seconds_does_not_depend_on_how_often_it_is_told(ms):
    """A hundred rows at one per row: at 100, whether the wheel spoke every 20 ms or every 130."""
    engine, told = stepper(), None
    engine.step({"camera": reading(0), "wheel": reading(1)}, 0)
    for time in range(ms * 1_000_000, 10_000_000_001, ms * 1_000_000):
        told = engine.step({"wheel": reading(1)}, time).beliefs["motion"].mean()[0]
    # The first reading of the wheel weighs against N(0, 0.5); all others only confirm it.
    assert float(told[1]) == pytest.approx(1, abs=0.01) and float(told[0]) == pytest.approx(100, abs=1.5)


def test_a_set_of_before_belongs_to_the_row_that_stands_and_costs_no_time():
    """As with policy latest, where one sensor is slower on its way: the next row is one on from the latest."""
    engine, hand = stepper(), ByHand()
    for time in (0, 9 * FRAME, 5 * FRAME, 10 * FRAME):
        found = engine.step({"wheel": reading(1)}, time).beliefs["motion"]
        hand.step({"wheel": 1.0}, time)
    np.testing.assert_allclose(found.mean()[0].numpy(), hand.mean, atol=1e-9)
    assert engine.state.time_ns == 10 * FRAME


def test_after_a_leap_of_years_time_goes_on_from_there():
    engine = stepper()
    engine.step({"wheel": reading(1)}, 0)
    engine.step({}, 10**18)
    before = engine.state.filters["inertia"]
    found = engine.step({}, 10**18 + FRAME).beliefs["motion"]
    torch.testing.assert_close(found.mean()[0, 0], before.mean()[0].sum(), rtol=1e-6, atol=1e-6)


def test_when_the_clocks_start_anew_the_next_set_is_the_next_row():
    engine, hand = stepper(), ByHand()
    for time in (0, FRAME):
        engine.step({"wheel": reading(1)}, time + 10**12)
    engine.start_anew()
    for time in (0, FRAME, 2 * FRAME):
        found = engine.step({"wheel": reading(1)}, time).beliefs["motion"]
    for time in range(5):
        hand.step({"wheel": 1.0}, time * FRAME)
    np.testing.assert_allclose(found.mean()[0].numpy(), hand.mean, atol=1e-9)
