"""Group factor analysis: the E-step against one dense Gaussian, and EM's guarantees."""

import pytest
import torch

from serket.composer.factor_analysis import improve, initial, read
from serket.messages import Gaussian
from tests.composer.problems import dense, draw, generator, messages_about, random, views_of, with_gaps

KINDS = {"diagonal": (False, False), "full": (True, True), "mixed": (False, True)}


def told(g, views, rows, kind, missing=0.3):
    _, z = draw(g, views, rows)
    pairs = zip(*(messages_about(g, z, full=full) for full in KINDS[kind][: len(views)]), strict=True)
    return with_gaps(g, [pair[m] for m, pair in enumerate(pairs)], missing)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("private", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_the_e_step_is_the_dense_posterior(kind, private, seed):
    """s, p_m and the log evidence; the rows hold every pattern of missing views, and one dimension nobody sees."""
    g = generator(seed)
    views = views_of(g, (3, 4), 2, private)
    messages = told(g, views, 8, kind, missing=0.0)
    patterns = torch.tensor([[True, True], [True, False], [False, True], [False, False]]).repeat(2, 1)
    messages = [message.mask(patterns[:, m]) for m, message in enumerate(messages)]
    if messages[0].diagonal:
        messages[0].info[5, 1] = messages[0].precision[5, 1] = 0.0
    readings = [read(view, message) for view, message in zip(views, messages, strict=True)]
    belief = Gaussian.standard((8,), 2, dtype=torch.float64).full()
    base = belief.log_z()
    for reading in readings:
        belief = belief * reading.message
    log_evidence = belief.log_z() - base + readings[0].constant + readings[1].constant
    mean, cov = belief.mean(), belief.covariance()
    for row in range(8):
        truth_mean, truth_cov, log_z, at = dense(views, messages, row)
        close(mean[row], truth_mean[at["s"]])
        close(cov[row], truth_cov[at["s"], at["s"]])
        close(log_evidence[row], torch.tensor(log_z, dtype=torch.float64))
        for m, reading in enumerate(readings):  # p | s ~ N(u - T s, D^-1)
            slope = reading.slope[row]
            close(reading.private_mean[row] - slope @ mean[row], truth_mean[at["p"][m]])
            spread = reading.private_covariance[row] + slope @ cov[row] @ slope.T
            close(spread, truth_cov[at["p"][m], at["p"][m]])
            close(-slope @ cov[row], truth_cov[at["p"][m], at["s"]])
            if not patterns[row, m]:
                assert bool(reading.message[row : row + 1].is_vacuous()) and abs(float(reading.constant[row])) < 1e-12


def penalised(views, messages, shrinkage):
    """Log evidence of all rows plus the log prior of the loadings: what EM climbs."""
    total = improve(views, messages, shrinkage)[1] * len(messages[0].info)
    for view in views:
        loadings = torch.cat([view.shared, view.private], 1)
        total -= float(shrinkage * loadings.square().sum() + 1e-3 * view.mean.square().sum()) / 2
    return total


@pytest.mark.parametrize("shrinkage", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_em_never_goes_down(kind, shrinkage, seed):
    g = generator(10 + seed)
    views = views_of(g, (3, 4), 2, 1)
    messages = told(g, views, 60, kind)
    fitted, curve = initial(messages, 2, 1), []
    for _ in range(25):
        curve.append(penalised(fitted, messages, shrinkage))
        fitted, _ = improve(fitted, messages, shrinkage)
    steps = torch.tensor(curve, dtype=torch.float64).diff()
    assert float(steps.min()) > -1e-7, curve
    assert curve[-1] > curve[0] + 1


@pytest.mark.parametrize("shrinkage", [0.5, 3.0])
def test_diagonal_and_full_messages_have_one_optimum(shrinkage):
    """The collapsed and the plain M-step climb the same hill."""
    g = generator(0)
    views = views_of(g, (3, 3), 1, 0)
    messages = told(g, views, 50, "diagonal")
    tops = []
    for same in (messages, [message.full() for message in messages]):
        fitted = initial(same, 1, 0)
        for _ in range(600):
            fitted, _ = improve(fitted, same, shrinkage)
        tops.append((penalised(fitted, messages, shrinkage), fitted))
    assert abs(tops[0][0] - tops[1][0]) < 1e-4
    for a, b in zip(tops[0][1], tops[1][1], strict=True):
        torch.testing.assert_close(a.shared, b.shared, rtol=0, atol=1e-2)
        torch.testing.assert_close(a.noise, b.noise, rtol=0, atol=1e-2)


def test_a_step_of_both_kinds_starts_from_the_same_evidence():
    g = generator(1)
    views = views_of(g, (3, 4), 2, 1)
    messages = told(g, views, 20, "diagonal")
    one, other = improve(views, messages, 1.0)[1], improve(views, [m.full() for m in messages], 1.0)[1]
    truth = sum(dense(views, messages, row)[2] for row in range(20)) / 20
    assert one == pytest.approx(truth, rel=1e-10) and other == pytest.approx(truth, rel=1e-10)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_rows_in_chunks_are_rows(full, monkeypatch):
    g = generator(2)
    views = views_of(g, (3, 4), 2, 1)
    messages = told(g, views, 30, "full" if full else "diagonal")
    whole, evidence = improve(views, messages, 1.0)
    monkeypatch.setattr("serket.composer.factor_analysis.CHUNK", 7)
    parts, again = improve(views, messages, 1.0)
    assert evidence == pytest.approx(again, rel=1e-12)
    for a, b in zip(whole, parts, strict=True):
        for name in ("mean", "shared", "private", "noise"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shrinkage", [0.0, 1.0])
@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_a_view_that_never_speaks_does_no_harm(full, shrinkage):
    g = generator(3)
    views = views_of(g, (3, 4), 2, 1)
    heard, silent = told(g, views, 40, "full" if full else "diagonal", missing=0.0)
    silent = silent.mask(torch.zeros(40, dtype=torch.bool))
    fitted = initial([heard, silent], 2, 1)
    start = fitted[1].noise
    for _ in range(5):
        fitted, evidence = improve(fitted, [heard, silent], shrinkage)
    for view in fitted:
        for part in (view.mean, view.shared, view.private, view.noise):
            assert bool(part.isfinite().all())
    assert torch.equal(fitted[1].noise, start), "nothing was heard of it"
    alone = initial([heard], 2, 1)
    for _ in range(5):
        alone, evidence_alone = improve(alone, [heard], shrinkage)
    assert evidence == pytest.approx(evidence_alone, rel=1e-9)


@pytest.mark.parametrize("rows", [2, 3, 50])
def test_the_start_is_proper_for_few_rows_and_wide_private_parts(rows):
    g = generator(4)
    messages = told(g, views_of(g, (3, 4), 2, 1), rows, "diagonal", missing=0.0)
    views = initial(messages, 6, 5)  # more shared than rows can tell, more private than dimensions
    views, _ = improve(views, messages, 1.0)
    for view in views:
        assert bool((view.noise > 0).all()) and all(
            bool(p.isfinite().all()) for p in (view.mean, view.shared, view.private)
        )


def test_the_start_is_that_of_the_pairs_where_there_are_enough():
    g = generator(6)
    messages = told(g, views_of(g, (3, 4), 2, 1), 60, "diagonal", missing=0.0)
    rows = torch.arange(60)
    holed = [messages[0].mask(rows < 30), messages[1]]
    for a, b in zip(initial(holed, 2, 1), initial([message[:30] for message in messages], 2, 1), strict=True):
        assert torch.equal(a.mean, b.mean) and torch.equal(a.noise, b.noise)
        torch.testing.assert_close(a.shared.abs(), b.shared.abs())


def test_pairs_as_many_as_shared_dimensions_align_what_many_rows_of_one_view_would_not():
    """Of all rows the first components are of one view each, and from there EM does not find what they share."""
    g = generator(7)
    s, rows = random(g, 800, 4), torch.arange(800)
    z = [s @ random(g, 4, 4) + 0.1 * random(g, 800, 4) for _ in range(2)]
    messages = messages_about(g, z, precision=1e2)
    holed = [messages[0].mask((rows < 8) | (rows >= 400)), messages[1].mask(rows < 400)]
    views = initial(holed, 8, 0)
    for _ in range(6):
        views, _ = improve(views, holed, 1.0)
    truth = (z[1] - z[1].mean(0))[8:400]
    told = read(views[0], messages[0][8:400]).message * Gaussian.standard((392,), 8, dtype=torch.float64).full()
    guess = told.mean() @ views[1].shared.T + views[1].mean - z[1].mean(0)
    assert float((guess - truth).square().sum() / truth.square().sum()) < 0.2


def test_the_start_reads_missing_views_as_missing_not_as_zero():
    """The mean of a view starts from the rows that see it."""
    g = generator(5)
    z = [random(g, 40, 2) + 30, random(g, 40, 2)]
    messages = messages_about(g, z, precision=1e4)
    keep = torch.arange(40) % 4 == 0
    messages[0] = messages[0].mask(keep)
    start = initial(messages, 12, 0)  # ten paired rows are too few: all are used
    torch.testing.assert_close(start[0].mean, z[0][keep].mean(0), rtol=0, atol=0.05)
