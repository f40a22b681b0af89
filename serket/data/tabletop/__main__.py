"""``python -m serket.data.tabletop``: record the data set again, or more of it; a tenth of a second per episode."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from serket.data.tabletop.bag import write_bag
from serket.data.tabletop.compact import compact, joined, streamed
from serket.data.tabletop.record import episode
from serket.errors import SerketError


def main() -> None:
    """Record, and write an .npz file or a ROS 2 bag; status 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m serket.data.tabletop", description=__doc__)
    parser.add_argument("--train", type=int, default=1000, help="episodes to learn from")
    parser.add_argument("--test", type=int, default=440, help="episodes to test on")
    parser.add_argument("--seed", type=int, default=0)
    one = parser.add_mutually_exclusive_group()
    how = "ten pictures and summaries of forces and joints a second"
    text = f"instead episode N of test objects alone, any N, as the graph tabletop reads a stream: {how}"
    one.add_argument("--episode", type=int, metavar="N", help=text)
    one.add_argument(
        "--full", type=int, metavar="N", help="instead episode N of test objects alone, at full rate and size"
    )
    parser.add_argument(
        "--bag", type=Path, metavar="FOLDER", help="an episode as a ROS 2 bag (mcap); with --out both are written"
    )
    parser.add_argument("--out", type=Path, help="an .npz file; tabletop.npz, if there is no --bag")
    told = parser.parse_args()
    number = told.full if told.episode is None else told.episode
    if number is None and told.bag:
        parser.error("--bag is for one episode: add --episode N or --full N")
    if told.seed < 0 or (number or 0) < 0:
        parser.error("seeds and numbers start at 0")
    try:
        if number is not None:
            arrays = episode(told.seed, number, test=True) if told.episode is None else streamed(told.seed, number)
        else:
            arrays = joined(
                compact(range(told.train), told.seed, test=False), compact(range(told.test), told.seed, test=True)
            )
        if told.bag:
            write_bag(told.bag, arrays)
    except SerketError as error:
        parser.exit(2, f"error: {error}\n")
    out: Path | None = told.out or (None if told.bag else Path("tabletop.npz"))
    if out is not None and out.suffix != ".npz":  # as numpy has it
        out = out.with_name(f"{out.name}.npz")
    for path in filter(None, (told.bag, out)):
        if path is not told.bag:
            np.savez_compressed(path, **arrays)
        files = path.iterdir() if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files)
        print(f"{path}: {size / 1e6:.1f} MB" if size >= 1e6 else f"{path}: {size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
