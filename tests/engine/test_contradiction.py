"""One row that contradicts itself is mended and counted; the others do not notice."""

import pytest
import torch

from serket.engine import run
from serket.errors import MessageError
from serket.graph import load_graph
from serket.protocol import Evidence

GRAPH = {
    "serket": 1,
    "variables": {"z": {"family": "categorical", "size": 2}},
    "modules": {
        "left": {"type": "table", "ports": {"given": "z"}, "data": "left", "values": [[1, 0], [0, 1]]},
        "right": {"type": "table", "ports": {"given": "z"}, "data": "right", "values": [[1, 0], [0.2, 0.8]]},
    },
}


def evidence(left, right):
    one = torch.tensor([left, right], dtype=torch.float64).unsqueeze(-1)
    ids = torch.arange(len(left)) + 700
    return {"left": Evidence.of(one[0], row_id=ids), "right": Evidence.of(one[1], row_id=ids)}


@pytest.mark.parametrize("improper", ["vacuous", "clip", "keep"])
def test_the_other_rows_are_as_without_it(improper):
    graph = load_graph(GRAPH)
    # Row 1: left says z = 0 for certain, right says z = 1 for certain.
    result = run(graph, graph.build(), evidence([0, 0, 1], [0, 1, 1]), improper=improper)
    clean = run(graph, graph.build(), evidence([0, 1], [0, 1]))
    assert torch.equal(result["z"].probs[[0, 2]], clean["z"].probs)
    assert bool(result["z"].probs.isfinite().all()) and not result.exact and clean.exact
    assert set(result.improper) == {"left.given[0]", "right.given[0]"} and set(result.improper.values()) == {1}
    assert torch.equal(result.log_evidence[[0, 2]], clean.log_evidence) and not bool(result.log_evidence.isnan().any())
    assert float(result.conflict[1]) < -50 < float(result.conflict[[0, 2]].min())


def test_raise_names_the_variable_the_modules_and_the_row():
    graph = load_graph(GRAPH)
    with pytest.raises(MessageError, match=r"(?s)left.*right.*'z'.*rows 701"):
        run(graph, graph.build(), evidence([0, 0, 1], [0, 1, 1]), improper="raise")
