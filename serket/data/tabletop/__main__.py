"""``python -m serket.data.tabletop``: record the data set again, or more of it; a tenth of a second per episode."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from serket.data.tabletop.compact import compact, joined
from serket.data.tabletop.record import episode


def main() -> None:
    """Record, and write an .npz file."""
    parser = argparse.ArgumentParser(prog="python -m serket.data.tabletop", description=__doc__)
    parser.add_argument("--train", type=int, default=1000, help="episodes to learn from")
    parser.add_argument("--test", type=int, default=440, help="episodes to test on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", type=int, metavar="N", help="instead test episode N alone, at full rate and size")
    parser.add_argument("--out", type=Path, default=Path("tabletop.npz"))
    told = parser.parse_args()
    if told.full is not None:
        arrays = episode(told.seed, told.full, test=True)
    else:
        arrays = joined(
            compact(range(told.train), told.seed, test=False), compact(range(told.test), told.seed, test=True)
        )
    np.savez_compressed(told.out, **arrays)
    print(f"{told.out}: {told.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
