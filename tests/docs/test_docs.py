"""What the documents show is run as printed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from serket import load
from serket.graph import check, load_graph, parse_graph
from serket.model import Model
from serket.modules.frozen.reading import Frozen
from serket.registry import lookup
from serket.report.types import describe
from tests.cli.conftest import serket  # noqa: F401

ROOT = Path(__file__).parents[2]


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


def test_the_template_of_a_module_works(serket, tmp_path):  # noqa: F811
    (tmp_path / "thermometer.py").write_text(blocks("docs/writing-a-module.md", "python")[0])
    (tmp_path / "rooms.yaml").write_text(blocks("docs/writing-a-module.md", "yaml")[0])
    np.savez(tmp_path / "readings.npz", kitchen=np.array([22.0, np.nan]), window=np.array([14.0, 14.0]))
    command = blocks("docs/writing-a-module.md", "sh")[0].split()
    assert command[0] == "serket"
    status, _, err = serket(*command[1:])
    assert status == 0, err
    with np.load(tmp_path / "beliefs.npz") as beliefs:
        precision = 1 / 25 + 1 + 1 / 9
        mean = (20 / 25 + 22 + 14 / 9) / precision
        np.testing.assert_allclose(beliefs["heat.mean"][0], [mean], rtol=1e-12)
        np.testing.assert_allclose(beliefs["heat.cov"][1], [[1 / (1 / 25 + 1 / 9)]], rtol=1e-12)
        # log N(22, 14; 20, [[26, 25], [25, 34]])
        cov, gap = np.array([[26.0, 25.0], [25.0, 34.0]]), np.array([2.0, -6.0])
        truth = -0.5 * (gap @ np.linalg.solve(cov, gap) + np.log(np.linalg.det(2 * np.pi * cov)))
        np.testing.assert_allclose(beliefs["log_evidence"][0], truth, rtol=1e-10)


def test_the_module_that_learns_works(serket, tmp_path):  # noqa: F811
    (tmp_path / "gauge.py").write_text(blocks("docs/writing-a-module.md", "python")[1])
    (tmp_path / "gauges.yaml").write_text(blocks("docs/writing-a-module.md", "yaml")[1])
    rng = np.random.default_rng(0)
    heat = rng.normal(20, 5, 2000)
    kitchen, window = heat + 3 + rng.normal(0, 1, 2000), heat - 1 + rng.normal(0, 2, 2000)
    kitchen[::10] = np.nan
    split = {"train": np.arange(1600), "test": np.arange(1600, 2000)}
    np.savez(tmp_path / "readings.npz", kitchen=kitchen, window=window, **split)
    for line in blocks("docs/writing-a-module.md", "sh")[1].splitlines():
        name, *command = line.split()
        assert name == "serket"
        status, _, err = serket(*command)
        assert status == 0, err
    modules = load(tmp_path / "runs/gauges").modules
    state = {name: {k: v.item() for k, v in module.state().items()} for name, module in modules.items()}
    for name, readings in {"kitchen": kitchen[:1600], "window": window[:1600]}.items():
        assert state[name]["offset"] == pytest.approx(np.nanmean(readings) - 20)
        assert state[name]["variance"] == pytest.approx(np.nanvar(readings) - 25)
    with np.load(tmp_path / "imagined.npz") as imagined:
        precision = 1 / 25 + 1 / state["kitchen"]["variance"]
        mean = (20 / 25 + (kitchen[1] - state["kitchen"]["offset"]) / state["kitchen"]["variance"]) / precision
        np.testing.assert_allclose(imagined["window"][1], [mean + state["window"]["offset"]], rtol=1e-9)
        np.testing.assert_allclose(imagined["window.std"][1] ** 2, [1 / precision + state["window"]["variance"]])
        np.testing.assert_allclose(imagined["window"][0], [20 + state["window"]["offset"]], rtol=1e-9)


GRAPHS = [text for text in blocks("docs/graphs.md", "yaml") if text.startswith("serket: 1")]


@pytest.mark.parametrize("text", GRAPHS)
def test_graphs_in_the_reference_load(text):
    check(parse_graph(text))


def test_there_are_graphs_in_the_reference():
    assert len(GRAPHS) >= 5


def test_every_option_is_in_the_reference():
    page = (ROOT / "docs/graphs.md").read_text()
    for kind, types in describe().items():
        for name, about in types.items():
            if not lookup(name, kind).__module__.startswith("serket."):
                continue  # other tests register toys
            title = f"### `{name}`" + (f", the {kind}" if name == "linear_gaussian" else "")
            section = page.split(title + "\n")[1].split("\n##")[0]
            if issubclass(lookup(name, kind), Frozen):
                section += page.split("### Frozen encoders\n")[1].split("\n##")[0]
            options = about["options"] + [f"fit.{option}" for option in about["fit"]]
            for option in options + [f"port {port.partition(':')[0]}" for port in about["ports"]]:
                written = option.partition("=")[0]
                sought = f"| port `{written[5:]}` |" if written.startswith("port ") else f"| `{written}` |"
                assert sought in section, f"{kind} {name}: {written}"


def test_the_readme_shows_the_graph_that_ships():
    assert parse_graph(blocks("README.md", "yaml")[0], "digits.yaml") == load_graph("digits")


def test_your_own_data_works_as_the_readme_says(serket, tmp_path):  # noqa: F811
    make, use = blocks("README.md", "python")
    (tmp_path / "mine.yaml").write_text(blocks("README.md", "yaml")[1])
    exec(make, {})
    for line in next(text for text in blocks("README.md", "sh") if "mine.yaml" in text).splitlines():
        status, _, err = serket(*line.partition("#")[0].split()[1:])
        assert status == 0, err
    metrics = json.loads((tmp_path / "runs/mine/metrics.json").read_text())
    assert min(metrics["unlabelled"]["prediction"].values()) > 0.5, metrics
    said = {}
    exec(use, said)
    assert said["imagined"].samples.shape == (500, 5, 8)


def test_messages_are_as_their_page_says():
    said = {}
    for text in blocks("docs/messages.md", "python"):
        exec(text, said)
    assert len(said) > 8


def test_a_function_offers_hypotheses_as_the_reference_says():
    (text,) = blocks("docs/graphs.md", "python")
    exec(text, {})
    graph = parse_graph(
        "serket: 1\nvariables: {word: {family: categorical, size: 5}}\n"
        "modules: {ear: {type: black_box, data: sound, ports: {hypothesis: word}, function: loudest, missing: 0}}"
    )
    sound = np.array([[3.0, 1.0, 2.0, 0.0, -1.0]])
    probs = Model(graph, graph.build(), 0, "cpu").infer({"sound": sound})["word"].probs[0].numpy()
    truth = np.exp([3.0, 1.0, 2.0, -np.inf, -np.inf])
    np.testing.assert_allclose(probs, truth / truth.sum(), rtol=1e-12)


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
