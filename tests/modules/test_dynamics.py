"""Linear dynamics against one dense Gaussian over all times, and its filter against its smoother."""

import numpy as np
import pytest
import torch

import serket
from serket.data.generate.tracking import tracking
from serket.errors import GraphError, ShapeError
from serket.messages import Gaussian
from serket.modules.dynamics import Dynamics
from serket.protocol import Evidence, Port, Role

PORTS = {"state": Port(Role.CHILD, "gaussian", 2)}
OPTIONS = {
    "matrix": [[1.0, 0.5], [-0.3, 0.8]],
    "noise": [[0.4, 0.1], [0.1, 0.3]],
    "offset": [0.2, -0.1],
    "mean": [1.0, 2.0],
    "covariance": [[2.0, 0.3], [0.3, 1.0]],
}
LENGTHS = (4, 1, 3)


def module(**options):
    return Dynamics(PORTS, **(OPTIONS | options))


def messages(seed=0, vacuous=(1, 6)):
    g = torch.Generator().manual_seed(seed)
    rows = sum(LENGTHS)
    root = torch.randn(rows, 2, 1, generator=g, dtype=torch.float64)
    sent = Gaussian(torch.randn(rows, 2, generator=g, dtype=torch.float64), root @ root.mT)  # of rank one
    mask = torch.ones(rows, dtype=torch.bool)
    mask[list(vacuous)] = False
    return sent.mask(mask)


def evidence():
    sequence = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    return Evidence.none(sum(LENGTHS), sequence=sequence)


def infer(one, sent):
    return one.infer({"state": sent}, evidence(), generator=torch.Generator())


def dense(one, steps):
    """Information form of p(z_1, ..., z_steps)."""
    size = 2 * steps
    info, precision = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    start = one.start
    info[:2] += start.info
    precision[:2, :2] += start.precision
    inverse = torch.linalg.inv(one.noise)
    factor = torch.cat([-one.matrix, torch.eye(2, dtype=torch.float64)], 1)
    for t in range(steps - 1):
        here = slice(2 * t, 2 * t + 4)
        info[here] += factor.T @ inverse @ one.offset
        precision[here, here] += factor.T @ inverse @ factor
    return info, precision


def log_z(info, precision):
    return float(Gaussian(info.unsqueeze(0), precision.unsqueeze(0)).log_z())


@pytest.mark.parametrize("options", [{}, {"noise": 0.25, "covariance": 3.0, "matrix": None}])
def test_replies_and_evidence_are_those_of_the_joint_gaussian(options):
    one, sent = module(**options), messages()
    reply = infer(one, sent)
    start = 0
    for length in LENGTHS:
        info, precision = dense(one, length)
        base = log_z(info, precision)
        rows = range(start, start + length)
        for t, row in enumerate(rows):
            others, matrix = info.clone(), precision.clone()
            for u, other in enumerate(rows):
                if u != t:
                    others[2 * u : 2 * u + 2] += sent.info[other]
                    matrix[2 * u : 2 * u + 2, 2 * u : 2 * u + 2] += sent.precision[other]
            told = Gaussian(others[None], matrix[None]).marginal(slice(2 * t, 2 * t + 2))
            torch.testing.assert_close(reply.messages["state"].info[row], told.info[0], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(reply.messages["state"].precision[row], told.precision[0], rtol=1e-9, atol=1e-9)
            info_so_far, matrix_so_far = info.clone(), precision.clone()
            for u, other in enumerate(rows[: t + 1]):
                info_so_far[2 * u : 2 * u + 2] += sent.info[other]
                matrix_so_far[2 * u : 2 * u + 2, 2 * u : 2 * u + 2] += sent.precision[other]
            total = float(reply.log_evidence[start : row + 1].sum())
            assert total == pytest.approx(log_z(info_so_far, matrix_so_far) - base, abs=1e-9)
        start += length


def test_the_filter_carries_what_the_rows_before_say():
    one, sent = module(), messages()
    carried = None
    for row in range(LENGTHS[0]):
        predicted = one.predicted(carried)
        later = torch.arange(sum(LENGTHS)) < row
        told = infer(one, sent.mask(later)).messages["state"][slice(row, row + 1)]
        torch.testing.assert_close(one.told(predicted)["state"].full().info, told.info, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(one.told(predicted)["state"].full().precision, told.precision, rtol=1e-9, atol=1e-9)
        carried = one.updated(predicted, {"state": sent[slice(row, row + 1)]})


def test_steps_without_a_reading_add_up_and_widen():
    one = module()
    first = one.updated(one.predicted(None), {"state": messages()[slice(0, 1)]})
    thrice, once = one.predicted(first, 3), one.predicted(one.predicted(one.predicted(first)))
    torch.testing.assert_close(thrice.precision, once.precision)
    walk = module(matrix=None)
    widths = [float(walk.predicted(first, k).covariance()[0].diagonal().sum()) for k in range(5)]
    assert widths == sorted(widths)
    assert torch.equal(walk.predicted(first, 0).info, first.info)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"matrix": [[1.0]]}, ShapeError, "matrix does not fit the state"),
        ({"matrix": [[1.0, 0.0], [1.0]]}, ShapeError, "rows of unequal length"),
        ({"offset": [1.0]}, ShapeError, "offset"),
        ({"noise": 0.0}, GraphError, "noise is not a covariance"),
        ({"noise": [[1.0, 2.0], [2.0, 1.0]]}, GraphError, "noise is not a covariance"),
        ({"covariance": -1.0}, GraphError, "covariance is not a covariance"),
    ],
)
def test_matrices_that_do_not_fit(options, error, match):
    with pytest.raises(error, match=match):
        module(**options)


def test_leaving_it_out_loses_what_moves():
    """The graph `tracking`: how far the position is off on held-out sequences, filtered and smoothed or row by row."""
    graph = serket.load_graph("tracking")
    truth = tracking()["position"]
    model = serket.fit(graph, workers=1)
    data = model.dataset()
    off = {}
    for name, active in {"with": None, "without": frozenset({"camera", "wheel"})}.items():
        mean = model.infer(data, rows=data.test, active=active).beliefs["motion"].mean()[:, :2].numpy()
        off[name] = float(np.sqrt(np.square(mean - truth[data.test]).mean()))
    held = data.arrays["camera"][data.test].reshape(-1, 5, 2)[:, :1].repeat(5, 1).reshape(-1, 2)  # the last one seen
    off["held"] = float(np.sqrt(np.square(held - truth[data.test]).mean()))
    assert off["with"] < 0.25 < 0.5 < off["held"] < off["without"]
