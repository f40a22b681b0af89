"""Image and speech digits: what each sense is worth apart, after mutual learning, and to a monolithic EM.

python benchmarks/mutual.py --data image_speech_digits.npz [--seeds 10] [--train 1600] [--out benchmarks/mutual.md]
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

import serket

GRAPH = "vae_gmm_speech"
SUBSETS = {"both": ("image", "speech"), "speech": ("speech",), "image": ("image",)}


def arrays(path, seed, train):
    """A split of the rows by the seed; labels score only."""
    with np.load(path) as file:
        image, speech, label = (file[key] for key in ("image", "speech", "label"))
    order = np.random.default_rng(seed).permutation(len(label))
    return {
        "image": image.astype("f4") / 255,
        "speech": speech.astype("f4"),
        "label": label,
        "train": np.sort(order[:train]),
        "test": np.sort(order[train:]),
    }


def scores(model, data):
    """ARI of the concept on test rows, per subset of senses."""
    test = data["test"]
    found = {name: model.infer({key: data[key][test] for key in keys}) for name, keys in SUBSETS.items()}
    return {name: adjusted_rand_score(data["label"][test], b["digit"].logits.argmax(-1)) for name, b in found.items()}


def monolithic(data, seed, tokens=20.0, components=18, starts=10):
    """EM for one category over principal components and tempered counts; k-means over both; best likelihood kept."""
    train, test = data["train"], data["test"]
    image = PCA(components, random_state=seed).fit(data["image"][train]).transform(data["image"])
    x = image / image[train].std(0).mean()
    total = data["speech"].sum(1, keepdims=True)
    c = data["speech"] * np.minimum(1, tokens / total)
    root = np.sqrt(data["speech"] / total)
    both = np.hstack([part / np.sqrt(part.var(0).sum()) for part in (x, root)])
    best = None
    for start in range(starts):
        labels = KMeans(10, n_init=1, random_state=100 * seed + start).fit(both[train]).labels_
        r = np.eye(10)[labels]
        for _ in range(60):
            means, roots, words, weights = _maximised(x[train], c[train], r)
            logits = _gaussian(x[train], means, roots) + c[train] @ words.T + weights
            evidence = logsumexp(logits, 1)
            r = np.exp(logits - evidence[:, None])
        if best is None or evidence.sum() > best[0]:
            best = evidence.sum(), means, roots, words, weights
    _, means, roots, words, weights = best
    seen = {"image": _gaussian(x[test], means, roots), "speech": c[test] @ words.T}
    logits = {name: sum(seen[key] for key in keys) + weights for name, keys in SUBSETS.items()}
    return {name: adjusted_rand_score(data["label"][test], each.argmax(1)) for name, each in logits.items()}


def _maximised(x, c, r):
    counts, size = r.sum(0), x.shape[1]
    means = (r.T @ x) / (counts[:, None] + 1e-2)
    roots = []
    for k in range(r.shape[1]):
        gap = x - means[k]
        scatter = (r[:, k : k + 1] * gap).T @ gap + 0.1 * (size + 2) * np.eye(size)
        roots.append(np.linalg.cholesky(scatter / (counts[k] + size + 2)))
    words = r.T @ c + 0.5
    return means, roots, np.log(words / words.sum(1, keepdims=True)), np.log(counts / counts.sum() + 1e-12)


def _gaussian(x, means, roots):
    parts = []
    for mean, root in zip(means, roots, strict=True):
        white = np.linalg.solve(root, (x - mean).T)
        parts.append(-0.5 * (white**2).sum(0) - np.log(np.diag(root)).sum())
    return np.stack(parts, 1)


def job(kind, path, seed, train):
    """One row of raw results."""
    torch.set_num_threads(1)
    data, begun = arrays(path, seed, train), time.perf_counter()
    graph = serket.load_graph(GRAPH)
    if kind == "monolithic EM":
        return {"kind": kind, "seed": seed, **monolithic(data, seed), "seconds": time.perf_counter() - begun}
    if kind == "apart":
        nodes = {name: replace(node, feedback=False) for name, node in graph.nodes.items()}
        graph = replace(graph, nodes=nodes, rounds=0)
    if kind == "shuffled":
        rows, mixed = data["train"], np.random.default_rng(seed).permutation(data["train"])
        data["speech"] = data["speech"].copy()
        data["speech"][rows] = data["speech"][mixed]
    model = serket.fit(graph, data, seed=seed, workers=1)
    rounds = sorted({step.round for step in model.rounds if step.kept})
    return {
        "kind": kind,
        "seed": seed,
        **scores(model, data),
        "accepted": rounds,
        "seconds": time.perf_counter() - begun,
    }


def table(rows):
    """Medians and spread, and what is asked of them."""
    heads = ["ARI, median (least, greatest)", "both", "speech alone", "image alone", "seeds", "seconds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for kind in kinds:
        mine = [row for row in rows if row["kind"] == kind]
        cells = [kind]
        for name in SUBSETS:
            values = [row[name] for row in mine]
            cells.append(f"{np.median(values):.3f} ({min(values):.3f}, {max(values):.3f})")
        cells += [str(len(mine)), f"{np.median([row['seconds'] for row in mine]):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    by = {kind: {row["seed"]: row for row in rows if row["kind"] == kind} for kind in kinds}
    joint, apart = by.get("joint", {}), by.get("apart", {})
    shared = sorted(joint.keys() & apart.keys())
    if shared:
        below = sum(joint[s]["both"] < max(apart[s]["speech"], apart[s]["image"]) for s in shared)
        own = sum(joint[s]["both"] < max(joint[s]["speech"], joint[s]["image"]) for s in shared)
        accepted = sum(bool(joint[s]["accepted"]) for s in shared)
        worth = np.median([joint[s]["image"] - apart[s]["image"] for s in shared])
        lines += [
            "",
            f"Seeds in which joint is below the better single sense: {below} of {len(shared)} as it was apart, "
            f"{own} as it is after joint learning. Seeds with an accepted round: {accepted} of {len(shared)}. "
            f"Feedback is worth {worth:.3f} to the image alone (median).",
        ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--train", type=int, default=1600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kinds", default="apart,joint,shuffled,monolithic EM")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--raw", type=Path, help="results so far, a JSON line each; what stands there is not run again")
    options = parser.parse_args()
    rows = (
        [json.loads(line) for line in options.raw.read_text().splitlines()]
        if options.raw and options.raw.exists()
        else []
    )
    done = {(row["kind"], row["seed"]) for row in rows}
    todo = [(k, s) for k in options.kinds.split(",") for s in range(options.seeds) if (k, s) not in done]
    with ProcessPoolExecutor(options.workers) as pool:
        running = [pool.submit(job, kind, options.data, seed, options.train) for kind, seed in todo]
        for one in as_completed(running):
            rows.append(one.result())
            print(rows[-1], file=sys.stderr, flush=True)
            if options.raw:
                with options.raw.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    order = options.kinds.split(",")
    text = table(sorted(rows, key=lambda row: (order.index(row["kind"]), row["seed"])))
    print(text)
    if options.out:
        command = f"python benchmarks/mutual.py --data image_speech_digits.npz --seeds {options.seeds}"
        command += f" --train {options.train}"
        options.out.write_text(f"# Mutual learning on image and speech digits\n\n`{command}`\n\n{text}")


if __name__ == "__main__":
    main()
