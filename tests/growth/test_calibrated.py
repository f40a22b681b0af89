"""Exponents of a model that stands: those its own fit would have found, by rows that no module has seen."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import serket
from serket.calibration import calibrated
from serket.cli.app import app
from serket.errors import DataError, DataWarning
from serket.graph import parse_graph
from tests.growth.test_growth import hashes
from tests.growth.worlds import graph, senses


@pytest.fixture(scope="module")
def model():
    return serket.fit(parse_graph(graph(extra="run: {calibrate: senses}")), senses(), seed=1, workers=1)


def exponents(model):
    return {name: dict(node.calibration) for name, node in model.graph.nodes.items() if node.calibration}


def test_a_model_gets_the_exponents_that_its_fit_gave_it(model):
    """From the same held-out rows; what a refit has taken comes back, as the refit saw none of them either."""
    assert exponents(model)
    again = calibrated(model, senses())
    assert exponents(again) == exponents(model) and hashes(again) == hashes(model)
    assert again.changes[-1]["exponents"] == exponents(model) and again.changes[-1]["rows"] == 30
    with pytest.warns(DataWarning, match="exponents are gone"):
        refitted = serket.refit(model, "a", senses(), fresh=True)
    assert "a" not in exponents(refitted) and "a" in exponents(model)
    assert "a" in exponents(calibrated(refitted, senses()))


def test_every_row_of_other_data_counts_and_rows_that_were_learned_from_are_refused(model):
    plain = serket.fit(parse_graph(graph()), senses(), seed=1, workers=1)
    with pytest.raises(DataError, match="every row was fitted on") as caught:
        calibrated(plain, senses())
    assert "--data FILE" in caught.value.fix
    new = {key: value[200:] for key, value in senses().items() if len(value) == 300}  # those the fit left for testing
    told = calibrated(plain, new, by="labels")
    assert told.changes[-1]["rows"] == 100 and told.graph.calibrate == "labels" and exponents(told)
    assert hashes(told) == hashes(plain) and not exponents(plain)
    with pytest.raises(DataError, match="no labels to calibrate by"):
        calibrated(plain, {key: value for key, value in new.items() if key != "label"}, by="labels")


def test_the_command_writes_exponents_and_figures_and_leaves_every_state(tmp_path):
    np.savez(tmp_path / "things.npz", **senses())
    (tmp_path / "graph.yaml").write_text(graph(extra="run: {calibrate: senses}"))
    model = serket.fit(tmp_path / "graph.yaml", seed=1, workers=1)
    model.data["source"] = str(tmp_path / "things.npz")
    bare = {name: replace(node, calibration={}) for name, node in model.graph.nodes.items()}
    replace(model, graph=replace(model.graph, nodes=bare)).save(tmp_path / "run")
    states = tmp_path / "run"
    before = {path.name: path.read_bytes() for path in states.rglob("*.safetensors")}
    done = CliRunner().invoke(app, ["calibrate", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    after = {path.name: path.read_bytes() for path in states.rglob("*.safetensors")}
    assert before and before == after
    loaded = serket.load(tmp_path / "run")
    assert exponents(loaded) == exponents(model)
    assert "reliability" in json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name, of in exponents(model).items():
        for what, value in of.items():
            assert any(line.split() == [name, what, f"{value:.3g}"] for line in done.output.splitlines())
    assert max(map(len, done.output.splitlines())) <= 80
