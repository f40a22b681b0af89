"""Composers over frozen modules against multimodal VAEs trained end to end: python benchmarks/peers.py [--workers 2].

Peers are those of multivae 1.0.3, from the package index, in an environment of its own that this script makes. Both
halves see the same splits of the digits and are scored by the same code; the composer is chosen on validation rows, the
best peer of each column on the very figures. Cells are kept, so that the script resumes. Writes benchmarks/peers.md and
benchmarks/peers.json, which holds what a bootstrap over rows needs.
"""

import argparse
import os
import platform
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
from peers_score import judge, scored, table

from serket.comparison import compare
from serket.data import another_split, load
from serket.registry import class_ports, options_of, registered
from serket.store import Partial

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("SERKET_PEERS", Path.home() / ".cache" / "serket-peers"))
CHILD, VERSION = HERE / "peers_child.py", "v1"  # another version does not take old cells for its own
PEERS = ("MVAE", "MMVAE", "MoPoE", "MVTCAE", "JMVAE", "MMVAE+", "JNF")
SCALES = ("", ", one scale")  # of columns, or of views: benchmarks/peers_child.py
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
DISTANCES = (":distance=kl", ":distance=wasserstein", ":distance=contrastive", ":distance=cca")
VARIANTS = {"coordinated": (*DISTANCES, ":criterion=cross_generation"), "workspace": ("", ":slots=8")}
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}


def environment():
    """Return the peers' Python, made if need be."""
    python, done = CACHE / "bin" / "python", CACHE / "made"
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


def peer_cells(data, given, train=True):
    """Run what is not there yet, the quick peers first; return the file of every (peer, split, seed) that is there."""
    folder = CACHE / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    cells, jobs = {}, []
    wanted = product(range(given.seeds), range(given.splits), [peer + scale for scale in SCALES for peer in PEERS])
    for seed, split, peer in sorted(wanted, key=lambda one: (one[0], one[2].startswith("MMVAE"), one[1])):
        source = folder / f"{'-'.join(data.arrays)}.{split}.npz"
        if not source.exists():
            mine = another_split(data, split)
            arrays = {key: array.astype(np.float32) for key, array in mine.arrays.items()}
            np.savez(source, **arrays, train=mine.train, test=mine.test)
        out = folder / f"{source.stem}.{peer}.{seed}.{given.epochs}.{VERSION}.npz"
        if not out.exists():
            jobs.append(f"{source}\t{peer}\t{seed}\t{out}")
        cells[peer, split, seed] = out
    if jobs and train:
        command = [environment(), "-W", "ignore", CHILD, str(given.epochs)]
        pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.DEVNULL, "env": os.environ | ONE_THREAD, "text": True}
        running = [subprocess.Popen(command, **pipes) for _ in range(min(given.workers, len(jobs)))]
        for number, child in enumerate(running):
            child.stdin.write("\n".join(jobs[number :: len(running)]))
            child.stdin.close()
        if any(child.wait() for child in running):
            raise SystemExit("a peer failed; the same command goes on")
    return {key: out for key, out in cells.items() if out.exists()}


def gallery():
    """Return every composer that takes a shared latent and views, with each objective or criterion it names."""
    names = []
    for name, cls in registered("composer").items():
        if set(class_ports(cls) or ()) != {"shared", "views"}:
            continue
        options = options_of(cls)
        if name in VARIANTS:
            names += [f"{name}{variant}" for variant in VARIANTS[name]]
            continue
        words = [
            f"{name}:{option}={word}"
            for option in ("objective", "criterion")
            if option in options and get_origin(options[option].annotation) is Literal
            for word in get_args(options[option].annotation)
        ]
        names += words or [name]
    return names


def graph_of(views):
    """Return the graph digits over these views, as it ships but for the names."""
    latents = {f"z_{key}": {"family": "gaussian", "size": 32} for key in views}
    return {
        "serket": 1,
        "variables": latents | {"shared": {"family": "gaussian", "size": 32}},
        "modules": {k: {"type": "vae", "data": k, "ports": {"latent": f"z_{k}"}, "hidden": [256]} for k in views},
        "composers": {"body": {"type": "linear_gaussian", "ports": {"shared": "shared", "views": [*latents]}}},
    }


def our_cells(job):
    """Compare composers on one split; in a process of its own."""
    views, composers, split, seeds = job
    with Partial(CACHE / f"ours.{'-'.join(views)}.{split}") as kept:
        return compare(
            graph_of(views),
            load("digits", views),
            composers,
            seeds=seeds,
            splits=[split],
            labels=[10],
            workers=1,
            kept=kept,
            report=lambda done, total, text: print(f"{done}/{total} {text}", file=sys.stderr, flush=True),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", default="pix,fou,kar", help="three of pix, fou, kar, fac, zer, mor")
    parser.add_argument("--composers", help="else every one there is")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--only", choices=["peers", "ours"], help="run one half, and write no table")
    parser.add_argument("--as-is", action="store_true", help="train no peer: score those that are there")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of peers.md and peers.json")
    given = parser.parse_args()
    views = given.views.split(",")
    data = load("digits", views)
    composers = given.composers.split(",") if given.composers else gallery()
    cells = {} if given.only == "ours" else peer_cells(data, given, train=not given.as_is)
    if given.only == "peers":
        return
    os.environ.update(ONE_THREAD)  # before the processes that compute are started
    jobs = [(views, composers, split, given.seeds) for split in range(given.splits)]
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        ours = list(pool.map(our_cells, jobs))
    if given.only == "ours":
        print(*ours, sep="\n\n")
        return
    methods = scored(data, cells, ours)
    about = (
        f"`python {' '.join(['benchmarks/peers.py', *sys.argv[1:]])}`, splits: {given.splits}, seeds: {given.seeds}, "
        f"{platform.machine()}, Python {platform.python_version()}. multivae 1.0.3, {given.epochs} epochs, latent 16."
    )
    text, numbers = table(methods, judge(methods, ours), about)
    name = "peers" if views == ["pix", "fou", "kar"] else f"peers-{'-'.join(views)}"
    (given.out / f"{name}.md").write_text(text)
    (given.out / f"{name}.json").write_text(numbers)
    print(text)


if __name__ == "__main__":
    main()
