"""The figures of the digits graph, over seeds: python benchmarks/digits.py [--seeds 3].

Runs `serket run digits` as a user does, once per seed, and writes benchmarks/digits.md. Nothing is chosen on test rows.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median

HERE = Path(__file__).parent
STRICT = ("fou", "kar", "pix", "fou+kar", "fou+pix", "kar+pix")
TARGETS = {
    "joint probe": ">= 0.97",
    "strict subsets, mean of six": ">= 0.90",
    "coherence, mean of six": ">= 0.68 (goal 0.72)",
    "concept ARI, joint": "-",
    "composer fit, s": "<= 2",
    "whole demo, s": "<= 120",
}


def measure(seed: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "serket.cli", "run", "digits", "--seed", str(seed), "--out", str(folder)]
    start = time.perf_counter()
    subprocess.run([*command, "--quiet"], check=True)
    wall = time.perf_counter() - start
    metrics = json.loads((folder / "metrics.json").read_text())
    subsets = metrics["subsets"]
    return {
        "joint probe": subsets["fou+kar+pix"]["probe_accuracy"],
        "strict subsets, mean of six": mean(subsets[name]["probe_accuracy"] for name in STRICT),
        "coherence, mean of six": metrics["coherence"]["mean"],
        "concept ARI, joint": subsets["fou+kar+pix"]["concept_ari"],
        "composer fit, s": metrics["seconds"]["body"],
        "whole demo, s": wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(seed, Path(folder) / str(seed)) for seed in seeds]
    lines = [
        "# Digits",
        "",
        f"`python benchmarks/digits.py --seeds {len(rows)}`, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}. UCI multiple features: 1600 rows to learn from, 400 to test on.",
        "",
        "| figure | asked for | median | " + " | ".join(f"seed {seed}" for seed in seeds) + " |",
        "|---|---|---|" + "---|" * len(rows),
    ]
    for name, target in TARGETS.items():
        values = [row[name] for row in rows]
        digits = 1 if name.endswith(", s") else 3
        cells = " | ".join(f"{value:.{digits}f}" for value in values)
        lines.append(f"| {name} | {target} | **{median(values):.{digits}f}** | {cells} |")
    text = "\n".join(lines) + "\n"
    (HERE / "digits.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
