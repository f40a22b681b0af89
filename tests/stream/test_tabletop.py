"""The graph `tabletop` in small, on a stream: a sense that dies, a sense that lies."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import serket
from serket.data import load
from serket.stream import from_arrays, open_stream

SENSES = ("touch", "joints")
KINDS = 20


@cache
def rows():
    """The first 160 training episodes without their pictures, all of them named, and thirty that are not."""
    data = load("tabletop", [*SENSES])
    first = data.train[: 8 * 190]
    arrays = {key: np.asarray(data.arrays[key])[first] for key in SENSES}
    label = np.asarray(data.label)[first]
    named = np.arange(len(first)) < 8 * 160
    return {
        **arrays,
        "name": label[:, None].astype(np.float32),
        "name_mask": named,
        "touch_sequence": np.arange(len(first)) // 8,
        "label": label,
        "train": np.flatnonzero(named),
        "test": np.flatnonzero(~named),
    }


@cache
def model():
    """The graph that ships without the camera."""
    graph = serket.load_graph("tabletop")
    kept = {name: graph.nodes[name] for name in ("names", "episode", "touch", "joints")}
    kept = {name: replace(node, fit={"epochs": 15}) if node.data in SENSES else node
            for name, node in kept.items()}  # fmt: skip
    return serket.fit(replace(graph, nodes=kept), rows(), workers=1)


def test_a_row_of_the_stream_is_as_long_as_one_that_the_chain_was_fitted_on():
    data = load("tabletop", ["moment_ns"])
    apart = np.diff(np.asarray(data.arrays["moment_ns"]).reshape(-1, 8), axis=1)
    assert serket.load_graph("tabletop").stream.frame_ms == pytest.approx(apart.mean() / 1e6, rel=0.01)


def episode(number, **shift):
    data = rows()
    chosen = data["test"][8 * number : 8 * number + 8]
    stamps = np.arange(8) * 500_000_000
    source = {}
    for sense in SENSES:
        off = shift.get(sense, 0.0) * data[sense][data["train"]].std(0)
        source |= {sense: (data[sense][chosen] + off).astype(np.float32), f"{sense}_stamp_ns": stamps}
    return source


def played(source):
    return list(open_stream(model()).run(from_arrays(source, SENSES)))


def test_what_leaves_an_episode_is_what_the_batch_believes():
    outputs = played(episode(0))
    assert len(outputs) == 8 and {str(one.level) for one in outputs} == {"OK"}
    batch = model().infer({**rows()}, observe=SENSES, rows=rows()["test"][:8])["object"].probs
    assert np.allclose(outputs[-1].inference.beliefs["object"].probs[0], batch[-1], atol=1e-4)  # nothing comes after it


def test_episodes_are_told_better_than_by_chance():
    probs = model().infer({**rows()}, observe=SENSES, rows=rows()["test"])["object"].probs.reshape(-1, 8, KINDS)
    right = probs[:, -1].argmax(-1).numpy() == rows()["label"][rows()["test"]][::8]
    assert right.mean() >= 0.3  # of thirty; chance is one in twenty


@pytest.mark.parametrize("sense", SENSES)
def test_a_sense_that_lies_is_hardly_heard_and_health_says_so(sense):
    for number in range(3):
        told = played(episode(number, **{sense: 10.0}))
        assert all(one.inference.beyond[sense] < 0.1 for one in told)
        assert str(told[-1].level) == "DEGRADED"
        assert any(r.startswith(f"{sense}: unlike what it was trained on, counts ") for r in told[-1].reasons)
        source = {key: value for key, value in episode(number).items() if not key.startswith(sense)}
        absent = played(source)[-1].inference.beliefs["object"].probs[0]
        honest = played(episode(number))[-1].inference.beliefs["object"].probs[0]
        lied = told[-1].inference.beliefs["object"].probs[0]
        assert abs(lied - absent).sum() < max(0.4, float(abs(honest - absent).sum()))
