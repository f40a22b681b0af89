"""The linear-Gaussian factor alone: errors, masks per dimension, limits. (Trees: tests/engine.)"""

import itertools
import math

import pytest
import torch

from serket.errors import GraphError, ShapeError
from serket.messages import Family, Gaussian
from serket.modules import LinearGaussian
from serket.protocol import Evidence, Port, Role


def parent(size):
    return Port(Role.PARENT, Family.GAUSSIAN, size)


def child(size):
    return Port(Role.CHILD, Family.GAUSSIAN, size)


def infer(module, inbox, evidence=None):
    rows = len(next(iter(inbox.values())).info)
    return module.infer(inbox, evidence or Evidence.none(rows), generator=torch.Generator())


def covariance(g, size):
    root = torch.randn(size, size, generator=g, dtype=torch.float64)
    return root @ root.T + 0.3 * torch.eye(size, dtype=torch.float64)


def random(g, *shape):
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"matrix": [[1.0, 0.0], [0.0]], "noise": [[1.0]]}, ShapeError, "matrix is not a matrix"),
        ({"matrix": [1.0, 0.0], "noise": [[1.0]]}, ShapeError, "matrix is not a matrix"),
        ({"matrix": [[1.0]], "noise": [[1.0]]}, ShapeError, r"(?s)expected: 1 x 2 \(child x given\).*found: 1 x 1"),
        ({"matrix": [[1.0, 0.0]], "noise": [[1.0, 0.0], [0.0, 1.0]]}, ShapeError, r"noise 2 x 2"),
        ({"matrix": [[1.0, 0.0]], "noise": [[1.0]], "offset": [1.0, 2.0]}, ShapeError, r"(?s)expected: .*offset 1.*found: .*offset 2"),
        ({"matrix": [[1.0, 0.0]], "noise": [[0.0]]}, GraphError, "not a covariance"),
        ({"matrix": [[1.0, 0.0]], "noise": [[-1.0]]}, GraphError, "positive definite"),
        ({"matrix": [[1.0, 0.0]], "noise": [[math.nan]]}, GraphError, "not a covariance"),
        ({"matrix": [[1.0, 0.0], [0.0, 1.0]], "noise": [[1.0, 0.5], [0.2, 1.0]]}, GraphError, "symmetric"),
    ],
    ids=["ragged", "flat", "width", "noise", "offset", "zero", "negative", "nan", "asymmetric"],
)  # fmt: skip
def test_bad_options_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        LinearGaussian({"given[0]": parent(2)}, **options)


def test_the_child_has_the_height_of_the_matrix():
    with pytest.raises(ShapeError, match=r"(?s)expected: 3 x 2.*found: 2 x 2"):
        LinearGaussian({"given[0]": parent(2), "child": child(3)}, [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])


def test_data_of_another_width_are_refused():
    module = LinearGaussian({"given[0]": parent(1)}, [[1.0], [2.0]], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ShapeError, match=r"(?s)\(rows, 2\).*\(1, 3\)"):
        infer(module, {"given[0]": Gaussian.standard((1,), 1)}, Evidence.of(torch.zeros(1, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_masks_per_dimension_against_the_dense_gaussian(seed):
    """Every pattern of observed dimensions, with correlated noise and an offset: the observed block of R is inverted."""
    g = torch.Generator().manual_seed(seed)
    weight, noise, offset, y = random(g, 3, 2), covariance(g, 3), 5 * random(g, 3), random(g, 3)
    prior = Gaussian.from_moments(random(g, 2), covariance(g, 2))
    module = LinearGaussian({"given[0]": parent(2)}, weight.tolist(), noise.tolist(), offset.tolist())
    patterns = list(itertools.product([True, False], repeat=3))
    observed = torch.tensor(patterns)
    evidence = Evidence.of(torch.where(observed, y, torch.nan), observed)
    reply = infer(module, {"given[0]": prior.expand(len(patterns))}, evidence)
    mean, cov = prior.mean(), prior.covariance()
    for row, pattern in enumerate(patterns):
        seen = torch.tensor(pattern).nonzero().flatten()
        w, r = weight[seen], noise[seen][:, seen]
        message = reply.messages["given[0]"][row : row + 1]
        if not len(seen):
            assert bool(message.is_vacuous()) and float(reply.log_evidence[row]) == float(prior.log_z())
            continue
        total = w @ cov @ w.T + r
        gap = y[seen] - offset[seen] - w @ mean
        gain = cov @ w.T @ torch.linalg.inv(total)
        belief = prior.expand(1) * message
        torch.testing.assert_close(belief.mean()[0], mean + gain @ gap, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(belief.covariance()[0], cov - gain @ w @ cov, rtol=1e-10, atol=1e-10)
        density = -(gap @ torch.linalg.solve(total, gap) + torch.logdet(2 * math.pi * total)) / 2
        # The inbox is bare, so its own normaliser comes on top.
        assert float(reply.log_evidence[row]) == pytest.approx(float(density + prior.log_z()), abs=1e-10)


def test_child_and_parents_with_an_offset():
    """Down: N(W m + b, W V W' + R); up: what is said of y, with y and the other parent integrated out."""
    g = torch.Generator().manual_seed(4)
    wa, wb, noise, offset = random(g, 2, 2), random(g, 2, 1), covariance(g, 2), 5 * random(g, 2)
    module = LinearGaussian({"given[0]": parent(2), "given[1]": parent(1), "child": child(2)},
                            torch.cat([wa, wb], 1).tolist(), noise.tolist(), offset.tolist())  # fmt: skip
    a, b, y = (Gaussian.from_moments(random(g, d), covariance(g, d)).expand(1) for d in (2, 1, 2))
    messages = infer(module, {"given[0]": a, "given[1]": b, "child": y}).messages
    spread = wb @ b.covariance()[0] @ wb.T + noise
    down = messages["child"]
    torch.testing.assert_close(down.mean()[0], wa @ a.mean()[0] + wb @ b.mean()[0] + offset)
    torch.testing.assert_close(down.covariance()[0], wa @ a.covariance()[0] @ wa.T + spread)
    told = torch.linalg.inv(spread + y.covariance()[0])
    up = messages["given[0]"]
    torch.testing.assert_close(up.precision[0], wa.T @ told @ wa)
    torch.testing.assert_close(up.info[0], wa.T @ told @ (y.mean()[0] - offset - wb @ b.mean()[0]))


def test_a_flat_parent_leaves_only_what_others_know():
    """Towards the child: where x may be anything, y = W x + e says only what is orthogonal to W."""
    ports = {"given[0]": parent(1), "child": child(2)}
    module = LinearGaussian(ports, [[1.0], [0.0]], [[0.5, 0.0], [0.0, 0.25]], [3.0, 7.0])
    said = Gaussian.standard((1,), 2, dtype=torch.float64)
    reply = infer(module, {"given[0]": Gaussian.vacuous((1,), 1, dtype=torch.float64), "child": said})
    down = reply.messages["child"]
    torch.testing.assert_close(down.precision[0], torch.tensor([[0.0, 0.0], [0.0, 4.0]]).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(down.info[0], torch.tensor([0.0, 28.0]).double(), rtol=0, atol=1e-14)
    assert float(reply.log_evidence) < math.inf  # the child's message makes x proper
    # All directions of y free: nothing, but for rounding.
    g = torch.Generator().manual_seed(0)
    free = LinearGaussian(
        {"given[0]": parent(3), "child": child(2)}, random(g, 2, 3).tolist(), covariance(g, 2).tolist()
    )
    inbox = {"given[0]": Gaussian.vacuous((1,), 3, dtype=torch.float64), "child": said}
    free_down = infer(free, inbox).messages["child"]
    assert float(free_down.precision.abs().max()) < 1e-12 and float(free_down.info.abs().max()) < 1e-12


def test_wide_parents_approach_the_flat_limit():
    module = LinearGaussian({"given[0]": parent(1), "child": child(2)}, [[1.0], [0.5]], [[0.5, 0.1], [0.1, 0.25]])
    said = Gaussian.vacuous((1,), 2, dtype=torch.float64)
    flat = infer(module, {"given[0]": Gaussian.vacuous((1,), 1, dtype=torch.float64), "child": said}).messages["child"]
    for lam, tolerance in ((1e-4, 1e-3), (1e-8, 1e-7)):
        wide = Gaussian(torch.zeros(1, 1), torch.full((1, 1), lam))
        near = infer(module, {"given[0]": Gaussian(wide.info.double(), wide.precision.double()), "child": said})
        torch.testing.assert_close(near.messages["child"].precision, flat.precision, rtol=0, atol=tolerance)


def test_predictions_are_the_marginal_of_the_data():
    g = torch.Generator().manual_seed(5)
    weight, noise, offset = random(g, 3, 2), covariance(g, 3), random(g, 3)
    module = LinearGaussian(
        {"given[0]": parent(1), "given[1]": parent(1)}, weight.tolist(), noise.tolist(), offset.tolist()
    )
    a, b = (Gaussian.from_moments(random(g, 2, 1), covariance(g, 1).expand(2, 1, 1)) for _ in range(2))
    imagined = module.predict({"given[0]": a, "given[1]": b}, generator=torch.Generator())
    spread = torch.stack([torch.block_diag(a.covariance()[n], b.covariance()[n]) for n in range(2)])
    torch.testing.assert_close(imagined.mean, torch.cat([a.mean(), b.mean()], 1) @ weight.T + offset)
    torch.testing.assert_close(imagined.covariance_matrix, weight @ spread @ weight.T + noise)
