"""Few pairs, half of the views missing, ten labels a class: composers over the frozen modules of the graph digits.

    python benchmarks/few.py [--splits 3] [--seeds 1] [--composers relative,kernel,linear_gaussian]

What is finished is kept beside it, so that it resumes. Writes benchmarks/few.md.
"""

import argparse
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
EVERY = 10**6
"""More labels than any class has."""
PAIRS, HALF = ("50 pairs", "200 pairs"), "0.5 of the views missing"
ROWS = {
    # row: (figure to reach, measure, case)
    "strict mean, 50 pairs": ("0.85", "strict", PAIRS[0]),
    "strict mean, 200 pairs": ("0.90", "strict", PAIRS[1]),
    "strict mean, half of the views missing": ("0.92", "strict", HALF),
    "coherence, 50 pairs": ("", "coherence", PAIRS[0]),
    "coherence, 200 pairs": ("", "coherence", PAIRS[1]),
    "coherence, half of the views missing": ("", "coherence", HALF),
    "labels on pix, read from kar: ten a class": ("0.85", "labels.10.accuracy.kar", "all rows"),
    "labels on pix, read from kar: all": ("", f"labels.{EVERY}.accuracy.kar", "all rows"),
    "labels on pix, read from fou: ten a class": ("all - 0.05", "labels.10.accuracy.fou", "all rows"),
    "labels on pix, read from fou: all": ("", f"labels.{EVERY}.accuracy.fou", "all rows"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--composers", default="relative,kernel,linear_gaussian")
    given = parser.parse_args()
    os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}  # before torch reads them
    from serket.comparison import compare
    from serket.store import Partial

    options = {"seeds": given.seeds, "splits": given.splits, "workers": 1, "report": told}
    with Partial(HERE / "few") as kept:
        few = compare("digits", None, given.composers, pairs=[50, 200], missing=0.5, kept=kept, **options)
        paired = compare("digits", None, given.composers, labels=[10, EVERY], kept=kept, **options)
        table = replace(few, cases=few.cases + paired.cases, cells=few.cells + paired.cells)
        text = written(table, f"splits: {given.splits}, seeds: {given.seeds}")
        (HERE / "few.md").write_text(text)
        kept.remove()
    print(text)


def told(done, total, text):
    print(f"{done}/{total} {text}", file=sys.stderr, flush=True)


def written(table, runs):
    """Return the table as Markdown: a row per figure, a column per composer."""
    command = " ".join(["python benchmarks/few.py", *sys.argv[1:]])
    lines = [
        f"`{command}`: digits, {runs}, {platform.machine()}, Python {platform.python_version()}. Mean and standard",
        "deviation over splits and seeds. Of few pairs the other rows are single views in shuffled order. Labels",
        "are so many of a class, on pix alone, where all rows are paired. Options are chosen on validation rows.",
        "",
        f"| | to reach | {' | '.join(table.composers)} |",
        f"|---|---|{'---|' * len(table.composers)}",
    ]
    for title, (aim, measure, case) in ROWS.items():
        cells = (table.cannot(name, case) or shown(table.spread(name, measure, case)) for name in table.composers)
        lines.append(f"| {title} | {aim} | {' | '.join(cells)} |")
    seconds = [max(cell.values.get("cpu_seconds", 0) for cell in table.cells if cell.composer == name)
               for name in table.composers]  # fmt: skip
    lines.append(f"| longest fit, CPU s | 10 | {' | '.join(f'{number:.1f}' for number in seconds)} |")
    return "\n".join(lines) + "\n"


def shown(spread):
    return f"{spread.mean:.3f} ±{spread.sd:.3f}" if spread.n > 1 else f"{spread.mean:.3f}"


if __name__ == "__main__":
    main()
