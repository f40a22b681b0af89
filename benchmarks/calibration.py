"""Calibration on digits: error of concept probabilities and coverage of intervals, per subset, before and after.

    python benchmarks/calibration.py [seed ...]

Fits the shipped graph on 85 % of the training rows, calibrates by labels on the rest, and prints a table per seed, of
the 400 test rows. Nothing is chosen on test rows.
"""

import sys
from dataclasses import replace

import serket
from serket.report.reliability import reliability


def main(seeds: list[int]) -> None:
    """Fit, calibrate, measure, print."""
    for seed in seeds:
        graph = replace(serket.load_graph("digits"), calibrate="labels")
        model = serket.fit(graph, seed=seed)
        data = model.dataset()
        after = reliability(model, data)
        bare = {name: replace(node, calibration={}) for name, node in model.graph.nodes.items()}
        model.graph = replace(model.graph, nodes=bare)
        before = reliability(model, data)
        print(f"\nseed {seed}: exponents {after['exponents']}; {model.seconds['calibrate']:.0f} s to calibrate\n")
        print("| concept given | accuracy | confidence | error | 95 % quantile | error before |")
        print("|---|---|---|---|---|---|")
        for name, told in after["concepts"].items():
            figures = [told[key] for key in ("accuracy", "confidence", "error", "quantile")]
            print(f"| {name} | " + " | ".join(f"{x:.3f}" for x in [*figures, before["concepts"][name]["error"]]) + " |")
        print("\n| imagined | inside 90 % | before |\n|---|---|---|")
        for name, share in after["coverage"].items():
            print(f"| {name} | {share:.3f} | {before['coverage'][name]:.3f} |")


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1])
