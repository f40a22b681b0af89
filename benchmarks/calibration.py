"""Calibration on digits: error of concept probabilities and coverage of intervals, per subset.

    python benchmarks/calibration.py [--composer kernel] [seed ...]

Fits the shipped graph, or the same with another composer in its place, on 85 % of the training rows, calibrates by
labels on the rest, and prints a table per seed, of the 400 test rows. Nothing is chosen on test rows.
"""

import argparse

import yaml

import serket
from serket.graph import to_yaml
from serket.report.reliability import reliability


def main(composer: str | None, seeds: list[int]) -> None:
    """Fit, calibrate, measure, print."""
    text = yaml.safe_load(to_yaml(serket.load_graph("digits")))
    text["run"]["calibrate"] = "labels"
    if composer:
        text["composers"]["body"] = {"type": composer, "ports": text["composers"]["body"]["ports"]}
    for seed in seeds:
        model = serket.fit(text, seed=seed)
        found = reliability(model, model.dataset())
        print(f"\nSeed {seed}: exponents {found['exponents']}, {model.seconds['calibrate']:.0f} s to calibrate.\n")
        print("| concept given | accuracy | confidence | error | 95 % quantile |\n|---|---|---|---|---|")
        for name, told in found["concepts"].items():
            figures = (told[key] for key in ("accuracy", "confidence", "error", "quantile"))
            print(f"| {name} | " + " | ".join(f"{x:.3f}" for x in figures) + " |")
        print("\n| imagined | inside 90 % |\n|---|---|")
        for name, share in found["coverage"].items():
            print(f"| {name} | {share:.3f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--composer")
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    main(given.composer, given.seeds)
