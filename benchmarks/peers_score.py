"""Scores of both halves of benchmarks/peers.py by the same functions, and the paired bootstrap between them."""

import json
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

import numpy as np

from serket.comparison.scores import clustering, imagined_scores, probe_scores, strict
from serket.data import another_split
from serket.report.metrics import joined, probe, subsets

REPLICATES = 2000
CHOSEN = "chosen on validation rows"
KINDS = {"peer": "*peers*", "composer": "*composers, modules frozen*", "chosen": "*split by split*"}
SECONDS = ("cpu_seconds", "choosing_cpu_seconds")


@dataclass
class Method:
    """A peer or a composer: per (split, seed) its figures, and per test row what was told right."""

    kind: str
    cells: dict = field(default_factory=dict)
    cannot: str | None = None

    def spread(self, column):
        found = [cell["figures"][column] for cell in self.cells.values() if column in cell["figures"]]
        return (fmean(found), stdev(found) if len(found) > 1 else 0.0) if found else None


def scored(data, peer_files, tables):
    """Return every method by name, and, as one more, what validation rows choose split by split.

    A peer is credited with the better of its two ways to imagine, each method with the better of two ways to cluster.
    """
    methods, splits = {}, {}
    for (peer, split, seed), file in peer_files.items():
        if split not in splits:
            splits[split] = _split(data, split)
        cell = _peer_cell(np.load(file), *splits[split], seed)
        methods.setdefault(peer, Method("peer")).cells[split, seed] = cell
    for method in methods.values():
        if best := _better(method, "coherence", ("point", "mean")):
            for cell in method.cells.values():
                cell["figures"]["coherence"], cell["coherent"] = cell[best]["coherence"], cell[best]["coherent"]
    for table in tables:
        for cell in table.cells:
            method = methods.setdefault(cell.composer, Method("composer"))
            if cell.cannot:
                method.cannot = cell.cannot
                continue
            values = cell.values
            figures = {name: values[name] for name in ("joint", "strict", "parameters", *SECONDS)}
            figures |= {"coherence": values["coherence"], **values["subsets"]}
            rows = {name: {k: np.asarray(v) for k, v in values[name].items()} for name in ("right", "coherent")}
            method.cells[cell.split, cell.seed] = {"figures": figures, **rows, **_clusters(values)}
    for method in methods.values():
        if best := _better(method, "ari", ("mixture", "kmeans")):
            for cell in method.cells.values():
                cell["figures"]["ari"], cell["named"] = cell[best]["ari"], np.asarray(cell[best]["named"])
        for (split, _), cell in method.cells.items():
            cell["truth"] = data.label[another_split(data, split).test]
    if picks := choices(tables):
        every = {name: methods[name].cells.items() for name in set(picks.values())}
        cells = {key: cell for name, found in every.items() for key, cell in found if picks.get(key[0]) == name}
        methods[CHOSEN] = Method("chosen", dict(sorted(cells.items())))
    return methods


def choices(tables):
    """Return by split the composer that its own validation rows choose; those of other splits are test rows of it."""
    return {split: name for table in tables for split, name in table.chosen("all rows").items()}


def _better(method, measure, ways):
    """Return the way with the better mean over a method's cells, if they have it both ways."""
    means = {
        way: fmean(cell[way][measure] for cell in method.cells.values())
        for way in ways
        if method.cells and all(way in cell for cell in method.cells.values())
    }
    return max(means, key=means.get, default=None)


def _clusters(found):
    return {"mixture": {"ari": found["ari"], "named": found["named"]}, "kmeans": found["kmeans"]}


def _split(data, split):
    mine = another_split(data, split)
    readers = {}
    for key in mine.arrays:
        readers[key] = probe(mine.evidence(key, mine.train).values.numpy(), mine.label[mine.train])
    return mine, readers


def _peer_cell(stored, mine, readers, seed):
    keys, truth = sorted(mine.arrays), mine.label[mine.test]
    read = {joined(subset): stored[joined(subset)] for subset in subsets(keys)}
    whole = joined(keys)
    scores = probe_scores(stored["train"], mine.label[mine.train], read, truth)
    found = clustering(stored["train"], read[whole], truth, len(np.unique(truth)), seed)
    figures = {
        **scores["accuracy"],
        "joint": scores["accuracy"][whole],
        "strict": strict(scores["accuracy"], whole),
        "cpu_seconds": float(stored["seconds"]),
        "parameters": int(stored["parameters"]),
    }
    cell = {"figures": figures, **_clusters(found)}
    cell["right"] = {name: np.asarray(rows) for name, rows in scores["right"].items()}
    for way in ("point", "mean"):
        pairs = {f"{given}>{to}" for given in keys for to in keys if given != to}
        told = {
            pair: imagined_scores(readers[pair.split(">")[1]], stored[f"{pair}.{way}"], truth) for pair in sorted(pairs)
        }
        coherent = {pair: np.asarray(rows) for pair, (_, rows) in told.items()}
        cell[way] = {"coherence": fmean(share for share, _ in told.values()), "coherent": coherent}
    return cell


def columns_of(methods):
    """Return the columns that are compared: joint, each view alone, strict, ARI, coherence."""
    some = next(cell for method in methods.values() for cell in method.cells.values())
    singles = [name for name in some["right"] if "+" not in name]
    return ["joint", *singles, "strict", "ari", "coherence"]


def judge(methods, tables):
    """Set what validation rows choose, split by split, against the best peer of each column."""
    judged = {}
    peers = {name: method for name, method in methods.items() if method.kind == "peer"}
    for column in columns_of(methods) if peers and CHOSEN in methods else ():
        best = max(peers, key=lambda name: peers[name].spread(column)[0])
        mean, low, high = bootstrap(methods[CHOSEN], peers[best], column)
        mark = "above" if low > 0 else "below" if high < 0 else "even"
        judged[column] = {"peer": best, "difference": mean, "low": low, "high": high, "mark": mark}
    validation = {
        split: {name: spread.mean for name in table.composers if (spread := _of_split(table, split, name))}
        for table in tables
        for split in table.splits
    }
    return {"chosen": choices(tables), "validation": validation, "columns": judged}


def _of_split(table, split, name):
    cells = tuple(cell for cell in table.cells if cell.split == split)
    return replace(table, cells=cells).spread(name, "validation", "all rows")


def bootstrap(one, other, column):
    """Return the mean difference and its 95 % interval, splits and then the test rows in them drawn with replacement.

    Pairs are cells of the same split and seed, and in them the same rows.
    """
    generator = np.random.default_rng(0)
    pairs = sorted(set(one.cells) & set(other.cells))
    by_split = {split: [(one.cells[p], other.cells[p]) for p in pairs if p[0] == split] for split, _ in pairs}
    splits = list(by_split)

    def difference(split, rows):
        return fmean(figure(a, column, rows) - figure(b, column, rows) for a, b in by_split[split])

    everything = {split: np.arange(len(cells[0][0]["truth"])) for split, cells in by_split.items()}
    mean = fmean(difference(split, everything[split]) for split in splits)
    found = []
    for _ in range(REPLICATES):
        drawn = generator.choice(splits, len(splits))
        found.append(fmean(difference(s, generator.choice(everything[s], len(everything[s]))) for s in drawn))
    return mean, *np.percentile(found, [2.5, 97.5]).tolist()


def figure(cell, column, rows):
    """Return a figure of a cell on some of its test rows."""
    if column == "ari":
        return rand_index(cell["truth"][rows], cell["named"][rows])
    return row_scores(cell, column)[rows].mean()


def row_scores(cell, column):
    """Return per test row what a figure is the mean of; kept with the cell."""
    kept = cell.setdefault("scores", {})
    if column not in kept:
        whole = max(cell["right"], key=len)
        if column == "coherence":
            parts = [*cell["coherent"].values()]
        elif column == "strict":
            parts = [rows for name, rows in cell["right"].items() if name != whole]
        else:
            parts = [cell["right"][whole if column == "joint" else column]]
        kept[column] = np.mean(parts, axis=0)
    return kept[column]


def rand_index(truth, named):
    """Return the adjusted Rand index (Hubert & Arabie 1985), from the table of counts."""
    truth, named = np.unique(truth, return_inverse=True)[1], np.unique(named, return_inverse=True)[1]
    counts = np.bincount(truth * (named.max() + 1) + named).astype(float)
    table = np.zeros((truth.max() + 1) * (named.max() + 1))
    table[: len(counts)] = counts
    table = table.reshape(truth.max() + 1, -1)

    def pairs(counts):
        return (counts * (counts - 1) / 2).sum()

    rows, columns, every = pairs(table.sum(1)), pairs(table.sum(0)), len(truth) * (len(truth) - 1) / 2
    expected, most = rows * columns / every, (rows + columns) / 2
    return 1.0 if most == expected else (pairs(table) - expected) / (most - expected)


def table(methods, judged, about):
    """Return both halves as Markdown and as JSON."""
    columns = columns_of(methods)
    runs = {name: len(method.cells) for name, method in methods.items()}
    lines = ["# Composers over frozen modules, and peers trained end to end", "", about, ""]
    lines += [
        f"| | {' | '.join(columns).replace('ari', 'ARI')} | CPU s | choosing CPU s | parameters | runs |",
        f"|---|{'---|' * (len(columns) + 4)}",
    ]
    for kind, title in KINDS.items():
        group = {name: method for name, method in methods.items() if method.kind == kind}
        lines.append(f"| {title} |{' |' * (len(columns) + 4)}")
        tops = {c: max((m.spread(c)[0] for m in group.values() if m.cells), default=None) for c in columns}
        for name, method in group.items():
            if not method.cells:
                lines.append(f"| {name} | cannot: {method.cannot} |{' |' * (len(columns) + 3)}")
                continue
            cells = []
            for column in columns:
                mean, sd = method.spread(column)
                text = f"{mean:.3f} ±{sd:.3f}" if runs[name] > 1 else f"{mean:.3f}"
                cells.append(f"**{text}**" if mean == tops[column] else text)
            taken = [f"{spread[0]:.1f}" if (spread := method.spread(part)) else "-" for part in SECONDS]
            parameters = f"{method.spread('parameters')[0]:.0f}"
            lines.append(f"| {name} | {' | '.join([*cells, *taken, parameters, str(runs[name])])} |")
    chosen = "; ".join(f"split {split}: {name}" for split, name in sorted(judged["chosen"].items()))
    lines += ["", "Mean and standard deviation over splits and seeds. CPU s is what the fit took, of peers the whole "
              "training, of composers the composer: modules were trained before, and alone. Choosing CPU s is what it "
              "took besides to choose a composer's options on validation rows. ARI is of the better of k-means and a "
              "Gaussian mixture, for each method the one of the better mean.", "",
              f"Each split's own validation rows choose (mean over seeds): {chosen}. Against the best peer of each "
              f"column, by a bootstrap over splits and rows ({REPLICATES} replicates, paired):", "",
              "| | best peer | difference | 95 % | |", "|---|---|---|---|---|"]  # fmt: skip
    if len({count for count in runs.values() if count}) > 1:
        lines.insert(4, "**Not every run is there yet**: rows of fewer runs are of other splits or seeds.\n")
    for column, found in judged["columns"].items():
        interval = f"{found['low']:+.3f} to {found['high']:+.3f}"
        name, gain = column.replace("ari", "ARI"), found["difference"]
        lines.append(f"| {name} | {found['peer']} | {gain:+.3f} | {interval} | {found['mark']} |")
    plain = {
        name: {"kind": m.kind, "cannot": m.cannot, "cells": [_plain(key, cell) for key, cell in m.cells.items()]}
        for name, m in methods.items()
    }
    numbers = {"about": about, "columns": columns, **judged, "methods": plain}
    return "\n".join(lines) + "\n", json.dumps(numbers, default=float) + "\n"


def _plain(key, cell):
    """Return a cell for JSON; what is 0 or 1 per row as hexadecimal, the first row its highest bit."""
    bits = {part: {name: np.packbits(rows).tobytes().hex() for name, rows in cell[part].items()}
            for part in ("right", "coherent")}  # fmt: skip
    named = " ".join(map(str, cell["named"].tolist()))
    return {"split": key[0], "seed": key[1], "figures": cell["figures"], **bits, "named": named}
