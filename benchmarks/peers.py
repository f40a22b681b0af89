"""Composers over frozen modules against multimodal VAEs trained end to end: python benchmarks/peers.py.

Peers are those of multivae 1.0.3, from the package index, in an environment of its own that this script makes. Both
halves see the same splits of the digits and are scored by the same code. Cells are kept, so that the script resumes.
"""

import argparse
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np

from serket.data import another_split, load

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("SERKET_PEERS", Path.home() / ".cache" / "serket-peers"))
CHILD, VERSION = HERE / "peers_child.py", "v1"  # another version does not take old cells for its own
PEERS = ("MVAE", "MMVAE", "MoPoE", "MVTCAE", "JMVAE", "MMVAE+", "JNF")
# multivae asks for torchvision, of which there is none for this torch, and for torchmetrics, which only scores need.
NEEDS = (
    "torch==2.13.0 numpy scipy scikit-learn pydantic tqdm typing_extensions cloudpickle pandas pillow nltk matplotlib"
)
ALONE = "multivae==1.0.3 pythae==0.1.2 imageio"
STUB = '''"""Stands in for torchvision: every name resolves, and nothing works; training and encoding use none."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
'''


def environment():
    """Return the peers' Python, made if need be."""
    python = CACHE / "bin" / "python"
    done = CACHE / "made"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", CACHE], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", HERE.parent / "constraints.txt"]
        subprocess.run([*install, *NEEDS.split()], check=True)
        subprocess.run([*install, "--no-deps", *ALONE.split()], check=True)
        site = next(CACHE.glob("lib/python3*/site-packages")) / "torchvision"
        for name in ("__init__", "utils", "models", "transforms/__init__", "datasets/__init__", "datasets/utils"):
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / f"{name}.py").write_text(STUB)
        done.touch()
    return python


def peer_cells(views, splits, seeds, epochs):
    """Run what is not there yet, the quick peers first; return the file of every (peer, split, seed)."""
    python, folder = environment(), CACHE / "cells"
    folder.mkdir(exist_ok=True)
    data = load("digits", views)
    cells, jobs = {}, []
    wanted = product(range(seeds), range(splits), PEERS)
    for seed, split, peer in sorted(wanted, key=lambda one: (one[0], one[2].startswith("MMVAE"), one[1])):
        source = folder / f"{'-'.join(views)}.{split}.npz"
        if not source.exists():
            mine = another_split(data, split)
            arrays = {key: array.astype(np.float32) for key, array in mine.arrays.items()}
            np.savez(source, **arrays, train=mine.train, test=mine.test)
        out = cells[peer, split, seed] = folder / f"{source.stem}.{peer}.{seed}.{epochs}.{VERSION}.npz"
        if not out.exists():
            jobs.append(f"{source}\t{peer}\t{seed}\t{out}")
    if jobs:
        quiet = {"stderr": subprocess.DEVNULL, "input": "\n".join(jobs), "text": True}
        subprocess.run([python, "-W", "ignore", CHILD, str(epochs)], check=True, **quiet)
    return cells


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--views", default="pix,fou,kar", help="three of pix, fou, kar, fac, zer, mor")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=100)
    given = parser.parse_args()
    peer_cells(given.views.split(","), given.splits, given.seeds, given.epochs)


if __name__ == "__main__":
    main()
