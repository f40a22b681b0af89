"""What every sampler is held against: parallel Geweke, simulation-based calibration, co-assignments (REFERENCE, 10)."""

import numpy as np
import torch
from scipy.stats import chisquare


def largest_z(ends, prior):
    """Largest |z| between functions of chains' end points and of fresh draws: dicts of ``(chains,)`` tensors.

    Parallel Geweke: independent chains start at the prior and alternate {data | parameters; kernel}; their end points
    are then i.i.d. draws of the joint, as the fresh ones are, so that no autocorrelation has to be estimated.
    """
    assert ends.keys() == prior.keys() and len(ends) >= 6
    worst = {}
    for name, a in ends.items():
        a, b = a.double(), prior[name].double()
        spread = (a.var() / len(a) + b.var() / len(b)).sqrt()
        worst[name] = float((a.mean() - b.mean()).abs() / spread) if spread > 0 else 0.0
    return max(worst.values())


def uniform_p(ranks, draws, bins=20):
    """Smallest p, Bonferroni over quantities, that ranks ``(replications, quantities)`` in 0..draws are uniform."""
    ranks = np.asarray(ranks)
    edges = np.linspace(0, draws + 1, bins + 1)
    expected = np.diff(np.ceil(edges)) / (draws + 1) * len(ranks)
    counts = [np.histogram(column, np.ceil(edges) - 0.5)[0] for column in ranks.T]
    return min(1.0, min(chisquare(count, expected).pvalue for count in counts) * ranks.shape[1])


def co_assignment(labels):
    """How often two rows share a label: ``(N, N)`` from ``(chains, N)``."""
    return (labels.unsqueeze(-1) == labels.unsqueeze(-2)).to(torch.float64).mean(0)
