"""What the documents show is run as printed."""

import re
from pathlib import Path

import numpy as np

from serket.graph import load_graph, parse_graph
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


def test_the_readme_shows_the_graph_that_ships():
    assert parse_graph(blocks("README.md", "yaml")[0], "digits.yaml") == load_graph("digits")


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
