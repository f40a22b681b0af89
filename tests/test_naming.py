"""What concepts say of labels: shares where beliefs are sure, and the truth where they are not."""

import numpy as np
import torch

from serket.naming import label_shares


def test_impure_concepts_are_named_by_shares():
    beliefs = torch.eye(2, dtype=torch.float64).repeat_interleave(torch.tensor([30, 10]), 0)
    labels = torch.tensor([0] * 20 + [1] * 10 + [2] * 10)
    shares = [[20 + 1 / 3, 10 + 1 / 3, 1 / 3], [1 / 3, 1 / 3, 10 + 1 / 3]] / np.array([[31.0], [11.0]])
    for subsets in (1, 3):
        table = label_shares(beliefs.expand(subsets, -1, -1), labels, 3)
        np.testing.assert_allclose(table, shares)


def test_what_a_belief_leaves_open_is_not_what_a_concept_holds():
    """Pure concepts under unsure but calibrated beliefs: T is near the identity, where counting gives 0.7 to 0.8."""
    random = np.random.default_rng(0)
    beliefs = random.dirichlet([0.5, 0.5, 0.5], 20_000)
    labels = (random.random((20_000, 1)) > beliefs.cumsum(1)).sum(1)
    beliefs, labels = torch.from_numpy(beliefs), torch.from_numpy(labels)
    counted = label_shares(beliefs[None], labels, 3, steps=1)
    table = label_shares(beliefs[None], labels, 3, steps=200)
    assert float(counted.diagonal().max()) < 0.85
    assert float(table.diagonal().min()) > 0.97

    def score(naming):
        return float((beliefs @ naming)[range(len(labels)), labels].log().mean())

    assert score(table) > score(counted) + 0.05
    for _ in range(20):  # nothing nearby is better
        other = 0.98 * table + 0.02 * torch.from_numpy(random.dirichlet([1.0, 1.0, 1.0], 3))
        assert score(other) < score(table) + 1e-4
