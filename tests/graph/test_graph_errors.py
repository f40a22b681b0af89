"""Every mistake in a graph file has one golden text: where, what was expected, what was found, and the fix."""

from pathlib import Path

import pytest

from serket import registry
from serket.composer.linear_gaussian import LinearGaussianComposer
from serket.errors import GraphError, SerketError
from serket.graph.build import parse_graph
from serket.modules.linear_gaussian import LinearGaussian
from serket.modules.table import Table
from serket.modules.vae import VAE

GOLDEN = Path(__file__).parents[1] / "golden" / "graph"

RAIN = """\
serket: 1
variables:
  rain: {family: categorical, size: 2, prior: [0.8, 0.2]}
  wet:  {family: categorical, size: 2}
modules:
  lawn:   {type: table, ports: {given: [rain], child: wet}, values: [[0.9, 0.1], [0.2, 0.8]]}
  sensor: {type: table, ports: {given: [wet]}, data: reading, values: [[0.95, 0.05], [0.1, 0.9]]}
"""
PLACE = """\
serket: 1
variables:
  x: {family: gaussian, size: 2, prior: {mean: [0, 0], covariance: [[1, 0], [0, 1]]}}
modules:
  gps:   {type: linear_gaussian, ports: {given: x}, data: gps, matrix: [[1, 0]], noise: [[0.5]]}
"""
VIEWS = """\
serket: 1
variables:
  z: {family: gaussian, size: 4}
  s: {family: gaussian, size: 4}
modules:
  eye: {type: vae, data: eye, ports: {latent: z}, hidden: [8], fit: {epochs: 3}}
composers:
  body: {type: linear_gaussian, ports: {shared: s, views: [z]}, private: 1}
"""
SECOND = "  twin:   {type: table, ports: {given: [rain], child: wet}, values: [[0.5, 0.5], [0.5, 0.5]]}\n"
APART = """\
  dice: {family: categorical, size: 2}
modules:
  cup:    {type: table, ports: {given: [dice]}, data: throw, values: [[0.5, 0.5], [0.5, 0.5]]}
"""

CASES = {
    "alias": RAIN.replace("{family: categorical, size: 2}", "*two"),
    "anchor": RAIN.replace("wet:  {", "wet: &two {"),
    "apart": RAIN.replace("modules:\n", APART),
    "bare_on": RAIN.replace("data: reading", "data: on"),
    "bare_on_key": RAIN.replace("wet", "on"),
    "child_under_many": RAIN.replace("child: wet", "child: [wet]"),
    "covariance": PLACE.replace("[0, 1]]}", "[0, -1]]}"),
    "cut_short": RAIN.replace("0.8]]}", "0.8]]"),
    "duplicate_key": RAIN + "  lawn: {type: table}\n",
    "empty": "# nothing yet\n",
    "feedback": RAIN + "run: {feedback: 1}\n",
    "family": PLACE.replace("linear_gaussian", "table").replace("matrix: [[1, 0]], noise: [[0.5]]", "values: [[1, 0]]"),
    "leading_zero": RAIN.replace("size: 2}", "size: 012}"),
    "merge_key": RAIN.replace("wet:  {", "wet:  {<<: {size: 2}, "),
    "missing_type": RAIN.replace("type: table, ports: {given: [wet]}", "ports: {given: [wet]}"),
    "name": RAIN.replace("sensor:", "../etc/passwd:"),
    "nan": RAIN.replace("0.95", ".nan"),
    "no_child_data": RAIN.replace("ports: {given: [wet]}, data: reading, ", "ports: {}, "),
    "no_option": PLACE.replace(", noise: [[0.5]]", ""),
    "not_a_mapping": "- serket\n",
    "not_text": RAIN.replace("wet:  {", "1: {"),
    "prior_sum": RAIN.replace("[0.8, 0.2]", "[0.8, 0.3]"),
    "prior_kind": RAIN.replace("[0.8, 0.2]", "{mean: [0], covariance: [[1]]}"),
    "prior_size": RAIN.replace("[0.8, 0.2]", "[0.5, 0.3, 0.2]"),
    "quoted_number": VIEWS.replace("epochs: 3", 'epochs: "3"'),
    "same_name": VIEWS.replace("body:", "eye:"),
    "size": RAIN.replace("[[0.9, 0.1], [0.2, 0.8]]", "[[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]"),
    "tab": RAIN.replace("  wet:", "\twet:"),
    "tag": RAIN.replace("data: reading", "data: !!python/object/apply:os.system [ls]"),
    "too_deep": RAIN.replace("[[0.95, 0.05], [0.1, 0.9]]", "[" * 20 + "1" + "]" * 20),
    "trust": PLACE.replace("data: gps", "data: gps, trust: 2"),
    "twice": RAIN.replace("given: [wet]", "given: [wet, wet]"),
    "two_documents": RAIN + "---\n" + RAIN,
    "two_owners": RAIN + SECOND,
    "type": RAIN.replace("type: table, ports: {given: [wet]}", "type: tabel, ports: {given: [wet]}"),
    "typo_in_fit": VIEWS.replace("epochs", "epoch"),
    "typo_in_option": VIEWS.replace("hidden", "hiden"),
    "typo_in_section": RAIN.replace("modules:", "module:"),
    "typo_in_variable": RAIN.replace("size: 2, prior", "sise: 2, prior"),
    "unbound_port": VIEWS.replace("{latent: z}", "{}"),
    "unbound_variable": RAIN.replace("modules:", "  sun: {family: categorical, size: 2}\nmodules:"),
    "undeclared": RAIN.replace("child: wet", "child: wett"),
    "unknown_port": VIEWS.replace("latent: z", "latents: z"),
    "version": RAIN.replace("serket: 1", "serket: 2"),
    "wrong_value": VIEWS.replace("hidden: [8]", "hidden: 8"),
}


FEW = {
    ("module", "table"): Table,
    ("module", "linear_gaussian"): LinearGaussian,
    ("module", "vae"): VAE,
    ("composer", "linear_gaussian"): LinearGaussianComposer,
}


@pytest.mark.parametrize("case", CASES)
def test_the_text_is_the_golden_one(case, monkeypatch):
    registry.registered("module")
    monkeypatch.setattr(registry, "_CLASSES", FEW)  # so that the lists of what is available stay as they are
    with pytest.raises(SerketError) as caught:
        parse_graph(CASES[case], "robot.yaml").build()
    assert f"{caught.value}\n" == (GOLDEN / f"{case}.txt").read_text()


def test_there_is_no_golden_text_without_a_case():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


WORKSPACE = VIEWS.replace("type: linear_gaussian", "type: workspace").replace("private: 1", "losses: ")


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ("1", "8:67: wrong value for composers.body.losses\n  expected: a mapping\n  found: 1\n  available: translation, "
         "demi_cycle, cycle, contrastive, fused\n  fix: write {translation: 1}"),
        ("[cycle]", "fix: write {translation: 1}"),
        ("{cylce: 1}", "8:68: unknown key 'cylce' in composers.body.losses\n  available: translation, demi_cycle, cycle, "
         "contrastive, fused\n  fix: did you mean 'cycle'?"),
        ("{cycle: much}", "8:75: wrong value for composers.body.losses.cycle\n  expected: a number"),
    ],
)  # fmt: skip
def test_names_of_losses_are_known_to_the_file_s_checks(losses, told):
    with pytest.raises(GraphError) as caught:
        parse_graph(WORKSPACE.replace("losses: ", f"losses: {losses}"), "robot.yaml")
    assert told in str(caught.value) and str(caught.value).startswith("robot.yaml:8:")


STREAM = PLACE + "stream: "


@pytest.mark.parametrize(
    ("section", "texts"),
    [
        ("{sensors: {gps: {expect_hz: 30}}}", ["two rates above zero", "found: 30\n", "fix: write [27, 33]"]),
        ("{sensors: {gps: {expect_hz: [30]}}}", ["two rates above zero", "found: [30]\n", "fix: write [27, 33]"]),
        ("{sensors: {gps: {expect_hz: [25, 35, 45]}}}", ["two rates above zero", "fix: write [25, 45]"]),
        ("{sensors: {gps: {expect_hz: [0, 25]}}}", ["found: [0, 25]", "fix: write [22.5, 27.5]"]),
        ("{sensors: {gps: {expect_hz: [35, 25]}}}", ["the least first", "fix: write [25, 35]"]),
        ("{sensors: {gps: {expect_hz: []}}}", ["fix: write [27, 33], for 30 Hz"]),
        ('{sensors: {gps: {expect_hz: ["25", 35]}}}', ["gps.expect_hz[0]", "fix: write it without quotes"]),
        ("{gate: {mahalanobis: 5}}", ["unknown key 'gate' in stream", "fix: it belongs under sensors: KEY:"]),
        ("{required: true}", ["fix: it belongs under sensors: KEY:"]),
        ("{mahalanobis: 5}", ["fix: it belongs under sensors: KEY: gate:"]),
        ("{sensors: {gps: {tolerance_ms: 5}}}", ["fix: it belongs under stream:"]),
        ("{sensors: {gps: {queue: {serket: 1}}}}", ["fix: it belongs at the top of the file"]),
        ("{sensors: {gps: {gate: 5}}}", ["found: 5\n", "fix: write {mahalanobis: 5}"]),
        ("{sensors: {gps: {queue: 8}}}", ["fix: write {size: 8}"]),
        ("{sensors: {gps: {gate: -5}}}", ["fix: change it to a mapping"]),
        ('{sensors: {gps: {topic: ""}}}', ["expected: text that is not empty"]),
    ],
)
def test_what_is_wrong_with_a_stream_is_told_with_what_would_be_right(section, texts):
    with pytest.raises(GraphError) as caught:
        parse_graph(f"{STREAM}{section}\n", "robot.yaml")
    assert [text for text in ["robot.yaml:6:", *texts] if text not in str(caught.value)] == []


def test_more_sensors_than_there_are_cannot_be_present():
    with pytest.raises(GraphError, match=r"robot\.yaml:6:23: min_present is more than there are sensors") as caught:
        parse_graph(f"{STREAM}{{min_present: 2}}\n", "robot.yaml")
    assert "expected: at most 1\n  found: 2\n  available: gps" in str(caught.value)
    assert parse_graph(f"{STREAM}{{min_present: 1}}\n").stream.min_present == 1


def test_fading_beside_a_module_over_time_is_refused_where_it_stands():
    drift = STREAM.replace("stream:", "  drift: {type: dynamics, ports: {state: x}, noise: 0.01}\nstream:")
    drift = drift.replace(", prior: {mean: [0, 0], covariance: [[1, 0], [0, 1]]}", "")
    with pytest.raises(GraphError, match=r"robot\.yaml:7:34: tau_ms reuses readings"):
        parse_graph(f"{drift}{{policy: latest, tau_ms: 100}}\n", "robot.yaml")
