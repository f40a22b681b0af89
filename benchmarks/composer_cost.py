"""How a composer's time grows with the senses: python benchmarks/composer_cost.py [--runs 5] [--types a,b].

CPU seconds of one process on one thread, at 5 and at 10 views of 16 dimensions, in alternating runs: of ``infer`` at
the shared latent, of ``infer`` at every port, and of ``fit``, shortened where it has epochs or iterations. The ratio is
that of the medians; wanted is at most 2.5, or a cost that the type declares. Writes benchmarks/composer_cost.md.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from serket.messages import Family, Gaussian
from serket.protocol import Evidence, Port, Role, Trainable, traits
from serket.registry import class_ports, lookup, options_of, registered

FEW, MANY, SIZE, ROWS, FIT_ROWS = 5, 10, 16, 1000, 500
FEW_ROWS = 20  # where the cost is 2^views
SHORT = {"epochs": 2, "iterations": 2}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "product": [{}, {"rule": "covariance_intersection"}, {"robust": 0.1}],
    "coordinated": [
        {},
        *({"distance": one} for one in ("kl", "wasserstein", "cca")),
        {"criterion": "cross_generation"},
    ],
    "joint": [
        {"objective": objective}
        for objective in ("jmvae", "telbo", "mvae", "mmvae", "mopoe", "mvtcae", "mmjsd", "mmvae_plus", "dmvae")
    ],
    "workspace": [{}, {"slots": 8}],
}


def messages(views: int, rows: int) -> dict[str, Gaussian]:
    """Messages about views that are linear in a shared latent."""
    g = torch.Generator().manual_seed(0)
    s = torch.randn(rows, 4, generator=g)
    inbox = {"shared": Gaussian.standard((rows,), SIZE)}
    for view in range(views):
        z = s @ torch.randn(4, SIZE, generator=g) / 2 + 0.3 * torch.randn(rows, SIZE, generator=g)
        precision = 1 + 3 * torch.rand(rows, SIZE, generator=g)
        inbox[f"views[{view}]"] = Gaussian(precision * z, precision)
    return inbox


def tasks(type_: str, options: dict[str, Any], views: int) -> tuple[dict[str, Callable[[], Any]], str]:
    """What is timed, by name, of one type at a number of views; and the cost it declares."""
    ports = {"shared": Port(Role.PARENT, Family.GAUSSIAN, SIZE)}
    ports |= {f"views[{view}]": Port(Role.CHILD, Family.GAUSSIAN, SIZE) for view in range(views)}
    cls = lookup(type_, "composer")
    module = cls(ports=ports, **options)
    found: dict[str, Callable[[], Any]] = {}
    if isinstance(module, Trainable):
        closed = options.get("distance") == "cca"
        short = {name: value for name, value in SHORT.items() if name in options_of(cls.fit) and not closed}
        taught = messages(views, FIT_ROWS)

        def fit() -> None:
            nobody = Evidence.none(FIT_ROWS)
            cls(ports=ports, **options).fit(nobody, taught, generator=torch.Generator().manual_seed(0), **short)

        module.fit(Evidence.none(FIT_ROWS), taught, generator=torch.Generator().manual_seed(0), **short)
        found["fit"] = fit
    rows = FEW_ROWS if "2^" in traits(module).cost else ROWS
    inbox = messages(views, rows)

    def infer(asked: frozenset[str] | None) -> Callable[[], Any]:
        return lambda: module.infer(inbox, Evidence.none(rows), generator=torch.Generator().manual_seed(0), ports=asked)

    return {"shared": infer(frozenset({"shared"})), "every port": infer(None), **found}, traits(module).cost


def measure(type_: str, options: dict[str, Any], runs: int) -> str:
    """One row of the table."""
    (few, _), (many, cost) = tasks(type_, options, FEW), tasks(type_, options, MANY)
    cells = []
    for name in ("shared", "every port", "fit"):
        if name not in few:
            cells += ["-", "-"]
            continue
        seconds: tuple[list[float], list[float]] = ([], [])
        for run in range(runs + 1):
            for spent, task in zip(seconds, (few[name], many[name]), strict=True):
                start = time.process_time()
                task()
                if run:  # the first warms up
                    spent.append(time.process_time() - start)
        short, long = median(seconds[0]), median(seconds[1])
        cells += [f"{short:.3f}", f"{long / short:.2f}"]
    said = ", ".join(f"{key}: {value}" for key, value in options.items())
    return f"| `{type_}`{' ' + said if said else ''} | {' | '.join(cells)} | {cost} |"


def main() -> None:
    """Measure every composer of a shared latent, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--types", default="")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    types = [n for n, cls in registered("composer").items() if {"shared", "views"} <= set(class_ports(cls) or ())]
    rows = []
    for type_ in chosen.types.split(",") if chosen.types else types:
        for options in VARIANTS.get(type_, [{}]):
            try:
                rows.append(measure(type_, options, chosen.runs))
            except Exception as error:  # a type that refuses ten views says so in its row
                rows.append(f"| `{type_}` {options or ''} | {type(error).__name__}: {str(error).splitlines()[0]} |")
            print(rows[-1], flush=True)
    if not chosen.types:
        text = [
            "# How a composer's time grows with the senses",
            "",
            f"`python benchmarks/composer_cost.py --runs {chosen.runs}`, {platform.machine()}, one thread, torch "
            f"{torch.__version__}. CPU seconds at {FEW} views of {SIZE} dimensions ({ROWS} rows inferred, {FEW_ROWS} "
            f"where the cost is 2^views; {FIT_ROWS} fitted, {SHORT['epochs']} epochs or iterations), and the ratio of "
            f"{MANY} views to {FEW}: medians of alternating runs of one process. Wanted: at most 2.5, or declared.",
            "",
            "| composer | shared, s | ratio | every port, s | ratio | fit, s | ratio | declared cost |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
        ]
        Path(__file__).with_suffix(".md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
