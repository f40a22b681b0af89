"""How often the nearest stored example shows the right digit, beside imagined ones and a Euclidean neighbour.

serket run digits --out runs/digits && PYTHONPATH=. python benchmarks/retrieval.py runs/digits > benchmarks/retrieval.md
"""

import sys
from itertools import permutations

import torch

import serket
from serket.evaluate import integrated
from serket.report.metrics import probe, probe_accuracy


def main(directory: str) -> None:
    """Print a table: test rows given, training rows stored, of the graph without concepts."""
    model = serket.load(directory)
    data = model.dataset()
    train, test, label = data.train, data.test, data.label
    below = integrated(model)
    print("Given one view of a test row of digits, the share in which what comes of another shows the right digit: the")
    print("first of the retrieved training rows, the majority of ten, the nearest by the Euclidean distance of latent")
    print("means, and the imagined mean, as read by a classifier (coherence). `benchmarks/retrieval.py`, seed 0.\n")
    print("| given > to | retrieved | of ten | Euclidean | imagined |\n|---|---|---|---|---|")
    for given, to in permutations(model.keys, 2):
        options = {"observe": given, "active": below}
        found = model.retrieve(to, data, data, top=10, rows=test, among_rows=train, **options)
        digits = torch.from_numpy(label[found.places.numpy()])
        first = float((digits[:, 0].numpy() == label[test]).mean())
        most = float((digits.mode(1).values.numpy() == label[test]).mean())
        z = next(node.bindings["latent"] for node in model.graph.nodes.values() if node.data == to)
        stored = model.infer(data, observe=to, rows=train, active=below)[z].mean()
        near = torch.cdist(model.infer(data, rows=test, **options)[z].mean(), stored).argmin(1)
        euclid = float((label[train][near.numpy()] == label[test]).mean())
        taught = probe(data.evidence(to, train).values, label[train])
        imagined = probe_accuracy(taught, model.generate(to, data, rows=test, **options).mean, label[test])
        print(f"| {given} > {to} | {first:.3f} | {most:.3f} | {euclid:.3f} | {imagined:.3f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
