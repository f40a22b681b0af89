"""Seconds of every sampler as ratios: python benchmarks/samplers.py [--repeats 15].

One core, one run. The unit is one 512 x 512 x 512 float32 torch matmul, timed between the samplers; each row is the
median of its repeats. Writes benchmarks/samplers.md. Every row is a function that returns rows of the table.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from threadpoolctl import threadpool_limits

from serket.modules import gibbs, lda, multinomial, polya, quadratic
from serket.modules.collapsed import Collapsed
from serket.modules.multinomial import Heard
from serket.modules.niw import Prior
from serket.modules.seen import Seen

HERE = Path(__file__).parent


class Row(NamedTuple):
    """One figure: what, how long, and as what ratio it was asked for."""

    what: str
    seconds: float
    ratio: float
    of: str
    asked: str


def timed(call: Callable[[], object], repeats: int) -> float:
    """Median seconds, after one call that is not counted."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def unit(repeats: int) -> float:
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    return timed(lambda: a @ b, 5 * repeats)


def mixture(rows: int, size: int, components: int) -> tuple[Seen, Prior, torch.Tensor, torch.Generator]:
    """Overlapping clusters, standardised, float32, and their labels."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(components, (1, rows), generator=g)
    points = torch.randn(components, size, generator=g)[labels[0]] + 0.7 * torch.randn(rows, size, generator=g)
    points = (points - points.mean(0)) / points.std(0)
    flat = torch.zeros(rows, components).log_softmax(-1)
    seen = Seen(flat, torch.ones(rows, dtype=torch.bool), points=points)
    return seen, Prior(1.0, 0.1, 0.1, size + 2.0), labels, g


def gmm_small(repeats: int) -> Iterator[Row]:
    """A sweep of each form at N=3000, d=18, K=10."""
    seen, prior, labels, g = mixture(3000, 18, 10)
    parameters = gibbs.draw_mixture(seen.points, labels, 10, seen, prior, g)
    design, collapsed = quadratic.Design.of(seen), Collapsed(seen, prior)
    matmul = unit(repeats)
    blocked = timed(lambda: quadratic.sweep(parameters, design, prior, g), 4 * repeats)
    yield Row("gmm, blocked sweep, N=3000, d=18, K=10", blocked, blocked / matmul, "matmul", "<= 0.9")
    matmul = unit(repeats)
    state = [collapsed.sweep(seen.points, labels, g)[0]]

    def sweep() -> None:
        state[0] = collapsed.sweep(seen.points, state[0], g)[0]

    sweeps = timed(sweep, 2 * repeats)
    yield Row("gmm, collapsed sweep, N=3000, d=18, K=10", sweeps, sweeps / matmul, "matmul", "<= 4")
    moves = timed(lambda: collapsed.moves(seen.points, labels, 1, g), 2 * repeats)
    yield Row("gmm, one split-merge move, the same", moves, moves / matmul, "matmul", "-")


def gmm_large(repeats: int) -> Iterator[Row]:
    """A blocked sweep at N=1e6, d=16, K=32, against its own two products on a design that is at hand."""
    seen, prior, labels, g = mixture(1_000_000, 16, 32)
    some = Seen(seen.bias[:20_000], seen.present[:20_000], points=seen.points[:20_000])
    parameters = gibbs.draw_mixture(some.points, labels[:, :20_000], 32, some, prior, g)
    design = quadratic.Design.of(seen)
    weights = quadratic.weights(parameters)[0].float()
    block = 8192
    phi = torch.randn(block, weights.shape[1] - 1)
    columns = weights[:, :-1].T.contiguous()
    members = torch.rand(block, 32)

    def products() -> None:
        total = torch.zeros(32, phi.shape[1])
        for start in range(0, 1_000_000, block):
            n = min(block, 1_000_000 - start)
            phi[:n] @ columns
            total += members[:n].T @ phi[:n]

    pairs = [(timed(products, 1), timed(lambda: quadratic.sweep(parameters, design, prior, g), 1))
             for _ in range(max(3, repeats // 3))]  # fmt: skip
    two, whole = (median(column) for column in zip(*pairs, strict=True))
    ratio = median(sweep / product for product, sweep in pairs)
    yield Row("gmm, two products of N x 153 float32, blocks of 8192 in cache, N=1e6, K=32", two, 1.0, "itself", "-")
    yield Row("gmm, blocked sweep, N=1e6, d=16, K=32", whole, ratio, "its two products", "<= 2.5")


def counts(rows: int, words: int, tokens: int, topics: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts of rows that are mostly about one topic each, and that topic, ``(1, rows)``."""
    g = torch.Generator().manual_seed(0)
    phi = torch._standard_gamma(torch.full((topics, words), 0.05), generator=g)
    labels = torch.randint(topics, (1, rows), generator=g)
    theta = 0.7 * torch.nn.functional.one_hot(labels[0], topics) + 0.3 / topics
    return torch.poisson(tokens / rows * theta @ (phi / phi.sum(-1, keepdim=True)), generator=g), labels


def mlda_sweep(repeats: int) -> Iterator[Row]:
    """A sweep over 100,000 tokens at V=2400, K=10; a token is a count of one."""
    told, labels = counts(500, 2400, 100_000, 10)
    g = torch.Generator().manual_seed(0)
    corpus = lda.Corpus.of(told, [2400])
    heard = Heard(torch.zeros(500, 10), told)
    topics = lda.own_start(corpus, labels, 10, 10, g)
    state = [lda.Standing(topics, labels, (), torch.zeros(1, 10))]

    def sweep() -> None:
        state[0] = lda.sweep(corpus, state[0], heard, 10, lda.Prior(), g, scored=False)[0]

    matmul = unit(repeats)
    seconds = timed(sweep, 4 * repeats) * 100_000 / len(corpus.word)
    yield Row("mlda, sweep of 100,000 tokens, V=2400, K=10", seconds, seconds / matmul, "matmul", "<= 1.15")


def mixture_of_counts(repeats: int) -> Iterator[Row]:
    """A sweep of each form of the count mixture at N=2000, V=2400, K=10, 205 tokens a row."""
    told, labels = counts(2000, 2400, 410_000, 10)
    g, prior = torch.Generator().manual_seed(0), multinomial.Prior(words=0.5)
    heard, bursts = Heard(torch.zeros(2000, 10), told), polya.Bursts.of(told)
    profiles = multinomial.draw_profiles(labels, [], heard, prior, g)
    loud = multinomial.Profiles(profiles.words + 5.0, (), profiles.log_weights)
    for what, sweep in (
        ("plain", lambda: multinomial.sweep(profiles, heard, prior, g)),
        ("overdispersed", lambda: polya.sweep(loud, heard, bursts, prior, g)),
    ):
        matmul = unit(repeats)
        seconds = timed(sweep, repeats)
        yield Row(f"multinomial_mixture, {what}, N=2000, V=2400, K=10", seconds, seconds / matmul, "matmul", "-")


ROWS: list[Callable[[int], Iterator[Row]]] = [gmm_small, mlda_sweep, mixture_of_counts, gmm_large]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    with threadpool_limits(1):
        matmul = unit(repeats)
        rows = [Row("matmul 512 x 512 x 512, float32", matmul, 1.0, "itself", "-")]
        rows += [row for each in ROWS for row in each(repeats)]
    lines = [
        "# Samplers",
        "",
        f"`python benchmarks/samplers.py --repeats {repeats}`, one core of {os.cpu_count()}, {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}. Medians.",
        "",
        "| | ms | ratio | to | asked for |",
        "|---|---|---|---|---|",
        *(f"| {row.what} | {1e3 * row.seconds:.2f} | {row.ratio:.2f} | {row.of} | {row.asked} |" for row in rows),
    ]
    text = "\n".join(lines) + "\n"
    (HERE / "samplers.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
