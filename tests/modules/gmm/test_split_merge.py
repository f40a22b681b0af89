"""Clusters that all rows left come back."""

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from serket.errors import GraphError
from serket.modules import chains
from serket.modules.collapsed import Collapsed
from serket.modules.niw import Prior
from serket.modules.seen import Seen
from serket.protocol import Evidence
from tests.modules.gmm.toys import as_messages, build, clusters, fitted, generator


def found(patch, seed, form, method, moves, components=6, **options):
    """ARI, and clusters in use in the median draw, when every row of four clusters in six dimensions starts in one component."""
    patch.setattr(chains, "seeds", lambda z, p, k, many, g: torch.zeros(many, len(z), dtype=torch.int64))
    patch.setattr(chains, "revived", lambda mixture, *_: mixture)  # the heuristic of the blocked form
    points = torch.cat([clusters(seed + 10 * copy)[0] for copy in range(3)], 1)
    module = build(components, 6 if form == "messages" else None, alpha=0.05, **options)
    chosen = {"method": method, "split_merge": moves, "sweeps": 600 if method == "blocked" else 240, "restarts": 1}
    fitted(points, seed, form, components=components, module=module, **chosen)
    inbox, evidence = {"component": module.own_prior["component"].expand(len(points))}, Evidence.of(points)
    if form == "messages":
        inbox["observation"], evidence = as_messages(points), Evidence.none(len(points))
    reply = module.infer(inbox, evidence, generator=generator()).messages["component"]
    labels = (reply * inbox["component"]).logits.argmax(-1)
    return adjusted_rand_score(clusters(seed)[1], labels), int(
        (module.state()["log_weights"].exp() > 0.02).sum(-1).median()
    )


@pytest.mark.parametrize("form", ["points", "messages"])
@pytest.mark.parametrize("method", ["blocked", "collapsed"])
@pytest.mark.parametrize("seed", range(2))
def test_the_right_number_of_clusters_comes_back(monkeypatch, seed, method, form):
    score, used = found(monkeypatch, seed, form, method, moves=2)
    assert score > 0.9 and used == 4


@pytest.mark.parametrize("method", ["blocked", "collapsed"])
def test_without_the_moves_they_stay_away(monkeypatch, method):
    assert min(found(monkeypatch, seed, "points", method, moves=0)[1] for seed in range(3)) < 4


@pytest.mark.parametrize("seed", range(3))
def test_broken_sticks_use_as_many_as_there_are(monkeypatch, seed):
    score, used = found(monkeypatch, seed, "points", "collapsed", 2, components=12, weights="stick_breaking")
    assert score > 0.9 and used == 4


def test_moves_at_the_edges():
    """Two rows, one component or no free label: nothing to part, and nothing that breaks."""
    for components in (1, 2):
        points = torch.tensor([[0.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
        seen = Seen(torch.zeros(2, components).double(), torch.ones(2, dtype=torch.bool), points=points)
        integrated = Collapsed(seen, Prior(1.0, 0.1, 0.1, 4.0))
        labels, accepted = integrated.moves(
            points, torch.tensor([[0, components - 1]]), 50, torch.Generator().manual_seed(0)
        )
        assert bool((labels < components).all()) and (components > 1 or float(accepted) == 0)


def test_other_devices_are_refused():
    seen = Seen(torch.zeros(3, 2, device="meta"), torch.ones(3, dtype=torch.bool), points=torch.zeros(3, 2))
    with pytest.raises(GraphError, match="blocked"):
        Collapsed(seen, Prior(1.0, 0.1, 0.1, 4.0))
