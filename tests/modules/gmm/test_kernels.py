"""Every kernel against the joint (Geweke), and against mistakes planted in it."""

from dataclasses import replace

import pytest

from serket.modules import gibbs, quadratic
from tests.modules.gmm.planted import plant
from tests.modules.gmm.sampling import KERNELS, geweke


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kernel_leaves_the_joint_invariant(kernel, seed):
    assert geweke(kernel, seed) <= 4


def law(change):
    """A mistake in the posterior of the parameters that the draw is given."""

    def plant(patch):
        right = gibbs.draw_gaussians
        for module in (gibbs, quadratic):
            patch.setattr(module, "draw_gaussians", lambda law, g: right(change(law), g))

    return plant


def mean_without_prior(law):
    return replace(law, mean=law.mean * (law.kappa / (law.kappa - 0.5).clamp_min(0.1)).unsqueeze(-1))


def stale_mean(patch):
    right = gibbs.draw_gaussians
    for module in (gibbs, quadratic):
        patch.setattr(module, "draw_gaussians", lambda law, g: (law.mean, right(law, g)[1]))


def scatter_without_prior(patch):
    for module, name in ((gibbs, "posterior"), (quadratic, "from_moments")):
        right = getattr(module, name)
        patch.setattr(module, name, lambda *a, right=right: right(*a[:3], replace(a[3], scatter=0.3 * a[3].scatter)))


def message_twice(patch):
    right = gibbs.draw_latents
    patch.setattr(gibbs, "draw_latents", lambda m, labels, eta, lam, g: right(m, labels, 2 * eta, 2 * lam, g))


def weights_twice(patch):
    right = quadratic.weights

    def wrong(mixture):
        matrix = right(mixture)
        matrix[..., -1] *= 2
        return matrix

    patch.setattr(quadratic, "weights", wrong)


def label_off_by_one(patch):
    right = quadratic.statistics

    def wrong(*arguments):
        labels, moments, score = right(*arguments)
        return labels, (*moments[:3], moments[3].roll(1, -1)), score

    patch.setattr(quadratic, "statistics", wrong)


def bias_twice(patch):
    right = quadratic.Design.of.__func__

    def wrong(cls, seen):
        return right(cls, replace(seen, bias=2 * seen.bias))

    patch.setattr(quadratic.Design, "of", classmethod(wrong))


@pytest.mark.parametrize(
    ("mutation", "kernel"),
    [
        (law(lambda law: replace(law, kappa=law.kappa**2)), "blocked"),  # a variance used as a deviation
        (law(mean_without_prior), "blocked"),
        (law(lambda law: replace(law, dof=law.dof + 1)), "blocked"),
        (stale_mean, "blocked"),
        (scatter_without_prior, "blocked"),
        (weights_twice, "blocked"),
        (label_off_by_one, "blocked"),
        (bias_twice, "blocked"),
        (message_twice, "per row"),
        (message_twice, "given z"),
        (stale_mean, "shared"),
    ],
)
def test_planted_mistakes_are_caught(monkeypatch, mutation, kernel):
    mutation(monkeypatch)
    assert geweke(kernel, 0, chains=3000) > 4


PLANTED = {
    "own datum left in its component": ("label_scan", "x, t, k == old)", "x, t, False)", "collapsed"),
    "label off by one": ("label_scan", "labels[n] = new", "labels[n] = (new + 1) % components", "collapsed"),
    "message twice": ("label_scan", "logits[k] += bias[n, k]", "logits[k] += 2 * bias[n, k]", "collapsed"),
    "tail off by one": ("label_scan", "out[k] = after\n", "out[k] = after + total[k]\n", "collapsed, sticks"),
    "free labels forgotten": ("split_merge", "- math.log(free)", "- 0.0", "collapsed, split-merge"),
    "free labels miscounted": ("split_merge", "len(empty) + 1", "len(empty)", "collapsed, split-merge"),
    "proposal forgotten": ("split_merge", "gain -= log_q", "pass", "collapsed, split-merge"),
    "merges taken for splits": ("split_merge", "gain = -gain", "pass", "collapsed, split-merge"),
    "sticks swapped for nothing": ("label_scan", "labels[n] = b\n", "pass\n", "collapsed, sticks"),
}


@pytest.mark.parametrize("mistake", ["message twice", "merges taken for splits"])
def test_mistakes_planted_in_compiled_kernels_are_caught(monkeypatch, mistake):
    """One in the collapsed kernel, one in its split-merge moves; all of them in the long form."""
    name, old, new, kernel = PLANTED[mistake]
    plant(monkeypatch, name, old, new)
    assert geweke(kernel, 0, chains=1000) > 4


@pytest.mark.stat
@pytest.mark.parametrize("mistake", PLANTED)
def test_mistakes_planted_in_compiled_kernels_are_caught_long(monkeypatch, mistake):
    name, old, new, kernel = PLANTED[mistake]
    plant(monkeypatch, name, old, new)
    assert geweke(kernel, 0, chains=10_000) > 4
