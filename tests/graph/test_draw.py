"""A graph as Mermaid text and as a picture."""

import struct
import subprocess
import sys

import pytest

from serket.graph.build import load_graph, parse_graph
from serket.graph.draw import _directed, _labels, _layout, mermaid, picture

LOOP = """\
serket: 1
variables:
  a: {family: categorical, size: 2}
  b: {family: categorical, size: 2}
modules:
  end: {type: table, ports: {given: a, child: b}, values: [0], trust: 0.5}
  back: {type: table, ports: {given: b, child: a}, data: 'a "quoted" key', values: [0]}
"""


def test_mermaid_follows_the_generative_direction():
    assert mermaid(load_graph("rain")).splitlines()[:10] == [
        "flowchart TD",
        '  v0(["rain<br/>categorical 2"])',
        '  v1(["wet<br/>categorical 2"])',
        '  m2["lawn<br/>table"]',
        '  m3["sensor<br/>table"]',
        '  d4[("reading")]',
        "  v0 --> m2",
        "  v1 --> m3",
        "  m2 --> v1",
        "  m3 --> d4",
    ]


def test_mermaid_needs_no_words_of_its_own_as_names():
    text = mermaid(parse_graph(LOOP))
    assert '[("a #quot;quoted#quot; key")]' in text
    assert "v0 -->|trust 0.5| m2" in text


def source(name):
    return parse_graph(LOOP) if name == "loop" else load_graph(name)


@pytest.mark.parametrize("name", ["digits", "rain", "position", "loop"])
def test_a_picture_is_a_png_without_a_display(name, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    picture(source(name), tmp_path / "graph.png")
    head = (tmp_path / "graph.png").read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:])
    assert head.startswith(b"\x89PNG") and 300 < width < 3000 and 300 < height < 3000


@pytest.mark.parametrize("name", ["digits", "rain", "position", "loop"])
def test_no_box_lies_on_another(name):
    network = _directed(source(name))
    widths = {place: 0.1 * max(map(len, label)) for place, label in _labels(network)}
    points, _ = _layout(network, widths)
    for one, (x, y) in points.items():
        for other, (x_other, y_other) in points.items():
            apart = (widths.get(one, 0) + widths.get(other, 0)) / 2
            assert one == other or y != y_other or abs(x - x_other) > apart


def test_importing_does_not_import_matplotlib():
    code = "import sys, serket.graph.draw; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
