"""Naming twenty things by three encoders that others trained, given 1, 5 or 20 paired examples of each.

python benchmarks/senses.py [--draws 10] [--validate] [--out benchmarks/senses.md]

Needs the extra `senses`. The first run embeds 1280 rows a sense, later ones none. With --validate,
rows to judge by are scored in place of test rows, and are not learnt from: what the graph says was chosen by them.
"""

import argparse
import os
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
from torch.nn.functional import normalize

import serket
from serket.data.generate.senses import senses
from serket.messages import projected

KEYS = ("image", "sound", "caption")
SUBSETS = [s for size in (1, 2, 3) for s in combinations(KEYS, size)]
PAIRS = (1, 5, 20)


def few(rows, pairs, seed, final):
    """Which training rows are complete; rows to judge by are left out, and scored in place of test rows."""
    train = rows["train"] if final else rows["train"][~rows["judged"][rows["train"]]]
    score = rows["test"] if final else rows["train"][rows["judged"][rows["train"]]]
    things = rows["label"].max() + 1
    order = np.random.default_rng(seed).random((things, len(train) // things)).argsort(1).argsort(1)
    complete = np.zeros(len(rows["label"]), bool)
    complete[train] = (order < pairs).ravel()
    alone = np.random.default_rng([seed, 1]).integers(0, 3, len(complete))
    seen = np.isin(np.arange(len(complete)), score)
    masks = {f"{key}_mask": seen | complete | (alone == sense) for sense, key in enumerate(KEYS)}
    return {
        **{key: rows[key] for key in (*KEYS, "name", "label")},
        **masks,
        "name_mask": complete,
        "train": train,
        "test": score,
    }


def scored(model, data):
    """Per subset, whether each row is named right; and whether the nearest stored picture, by angle, is right."""
    test, label = data["test"], data["label"]
    right = {}
    for subset in SUBSETS:
        shared = projected(model.infer(data, observe=list(subset), rows=test)["shared"])
        named = model.modules["names"].predict({"latent": shared}, generator=torch.Generator())
        right[subset] = named.base_dist.probs[:, 0].argmax(-1).numpy() == label[test]
    pictures = data["train"][data["image_mask"][data["train"]]]
    stored = normalize(model.infer(data, observe=["image"], rows=pictures)["shared"].mean())
    for given in ("sound", "caption"):
        asked = normalize(model.infer(data, observe=[given], rows=test)["shared"].mean())
        right[(given, ">", "image")] = label[pictures][(asked @ stored.mT).argmax(1).numpy()] == label[test]
    return right


def interval(differences):
    """Mean and 95 % interval of a difference of accuracies, in points: over draws and rows, rows resampled."""
    rows = np.mean(differences, 0) * 100  # per row, the mean over draws of the pairs
    spread = np.random.default_rng(0).choice(rows, (2000, len(rows))).mean(1)
    return f"{rows.mean():+.1f} ({np.quantile(spread, 0.025):+.1f}, {np.quantile(spread, 0.975):+.1f})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, right = senses(), {}
    for pairs in PAIRS:
        for seed in range(given.draws):
            data = few(rows, pairs, seed, not given.validate)
            for which, hits in scored(serket.fit("senses", data, seed=seed), data).items():
                right.setdefault((pairs, which), []).append(hits)
            print(f"{pairs} pairs, draw {seed}: all {np.mean(right[pairs, KEYS][-1]):.3f}", flush=True)
    lines = [
        "| named right, mean of draws (least) | " + " | ".join(f"{n} a thing" for n in PAIRS) + " |",
        "|---|" + "---|" * 3,
    ]
    for which in dict.fromkeys(which for _, which in right):
        means = [[np.mean(hits) for hits in right[n, which]] for n in PAIRS]
        cells = " | ".join(f"{np.mean(one):.3f} ({min(one):.3f})" for one in means)
        lines.append(f"| {' '.join(which) if '>' in which else ' + '.join(which)} | {cells} |")
    lines += [
        "",
        "| what a sense adds, points (95 % over rows) | " + " | ".join(f"{n} a thing" for n in PAIRS) + " |",
        "|---|" + "---|" * 3,
    ]
    for less in SUBSETS:
        for key in sorted(set(KEYS) - set(less)):
            more = next(subset for subset in SUBSETS if set(subset) == {*less, key})
            cells = [interval(np.float64(right[n, more]) - np.float64(right[n, less])) for n in PAIRS]
            lines.append(f"| {key} to {' + '.join(less)} | {' | '.join(cells)} |")
    print(text := "\n".join(lines))
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
