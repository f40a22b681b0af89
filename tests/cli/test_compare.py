"""``serket compare``: its files, its table, and what it says of a wrong name."""

import json
import re
from pathlib import Path

import pytest

from serket.comparison.specs import Spec, entered
from tests.cli.conftest import TINY
from tests.cli.test_commands import tiny  # noqa: F401


def test_a_comparison_writes_a_table_and_pictures(serket, tiny):  # noqa: F811
    command = ["compare", "tiny.yaml", "--composers", "linear_gaussian,linear_gaussian:private=0,product"]
    status, out, err = serket(*command, "--seeds", 1, "--splits", 2, "--pairs", "20,all", "--labels", 3, "--out", "c",
                              "--json", "c.json")  # fmt: skip
    assert status == 0, err
    written = {str(path.relative_to(tiny / "c")) for path in (tiny / "c").rglob("*") if path.is_file()}
    pictures = {f"figures/{name}.png" for name in ("subsets", "pairs", "imagined")}
    assert written == {"compare.json", "compare.txt"} | pictures
    assert not (tiny / "c.partial").exists()
    assert all(len(line) <= 80 for line in out.splitlines())
    table = json.loads((tiny / "c.json").read_text())
    assert table == json.loads((tiny / "c/compare.json").read_text())
    row = table["table"]["20 pairs"]["linear_gaussian:private=0"]
    assert {"joint", "strict", "subsets.a", "ari", "coherence", "calibration", "cpu_seconds", "parameters",
            "labels.3.accuracy.b"} <= set(row)  # fmt: skip
    assert row["joint"]["n"] == 2 and "views of one size" in table["table"]["all rows"]["product"]["cannot"]
    assert "cannot: composers.body: a product needs views of one size" in " ".join(out.split())
    assert out.startswith((tiny / "c/compare.txt").read_text()[:-1])
    assert err.count("compare: 12 steps") == 1

    status, out, _ = serket(*command[:3], "linear_gaussian", "--seeds", 1, "--splits", 1, "--json", "-", "--out", "c")
    assert status == 0 and json.loads(out)["table"]["all rows"]["linear_gaussian"]["joint"]["n"] == 1
    assert not (tiny / "c/figures/pairs.png").exists(), "a picture of an earlier comparison"


@pytest.mark.parametrize("name", ["linear_gausian", "joint:objektive"])
def test_an_unknown_name_is_told_with_those_that_exist(serket, tiny, name):  # noqa: F811
    status, _, err = serket("compare", "tiny.yaml", "--composers", name)
    assert status == 2 and f"--composers '{name}'" in err
    assert "linear_gaussian" in err or "option=value" in err


def test_where_no_composer_serves_the_status_is_2_and_the_reasons_are_told(serket, tiny):  # noqa: F811
    command = ["compare", "tiny.yaml", "--composers", "product,clusters", "--seeds", 1, "--splits", 1, "--out", "c"]
    status, out, err = serket(*command)
    assert status == 2 and "tiny: no composer serves any case" in err and "views of one size" in err
    assert "product   cannot: " in out and "clusters  cannot: " in out
    assert (tiny / "c/compare.txt").read_text() in out
    status, out, err = serket(*command, "--quiet")
    assert status == 2 and not out and "views of one size" in err


def test_an_option_at_fault_is_told_with_its_place_in_the_file(serket, tiny):  # noqa: F811
    status, out, err = serket("compare", "tiny.yaml", "--composers", "linear_gaussian,joint:objective=mwae")
    assert status == 2 and "--composers 'joint:objective=mwae' at tiny.yaml:13:3" in err and "'mvae'" in err
    assert not out and not [*(tiny / "runs").glob("*")]


TERMS = "translation, demi_cycle, cycle, contrastive, fused"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("workspace:losses=1", f"option losses expected: a mapping found: 1 available: {TERMS} "
         "fix: write workspace:losses.translation=1,"),
        ("workspace:losses=cycle+fused", "fix: write workspace:losses.translation=1,"),
        ("workspace:losses.cylce=1", f"unknown key 'cylce' in option losses available: {TERMS} fix: did you mean 'cycle'?"),
        ("coordinated:losses=1", "available: reconstruction, prior, kl, wasserstein, contrastive, cross_generation fix: "
         "write coordinated:losses.reconstruction=1,"),
        ("joint:hidden=3", "expected: a list found: 3 fix: write joint:hidden=3+, or a+b for two"),
        ("joint:thaw=a", "fix: write joint:thaw=a+, or a+b for two"),
        ("joint:fit=3", "option fit expected: a mapping found: 3 fix: write joint:fit.epochs=3,"),
        ("product:robust=a", "fix: write product:robust=0.5, or numbers with + between them"),
        ("joint:hiden=3+", "unknown option 'hiden' available: trust, calibration, feedback, fit, refit, objective, hidden, "),
        ("joint:type=kernel", "'type' is no option"),
        ("workspace:losses=1:losses.cycle=2", "'losses.cycle' is given twice"),
        ("kernel:fit.inducing=1:fit=2", "'fit' is given twice"),
    ],
)  # fmt: skip
def test_an_option_that_is_a_mapping_or_a_list_is_told_as_one_writes_it_here(serket, tiny, text, told):  # noqa: F811
    (tiny / "tiny.yaml").write_text(TINY.replace("size: 3", "size: 2"))  # which a product can serve, too
    status, _, err = serket("compare", "tiny.yaml", "--composers", text)
    assert status == 2 and f"--composers '{text}'" in err and told in " ".join(err.split())


def test_a_mapping_is_written_name_by_name(serket, tiny):  # noqa: F811
    command = ["compare", "tiny.yaml", "--seeds", 1, "--splits", 1, "--json", "-", "--quiet", "--composers"]
    texts = ["workspace:losses.translation=1:losses.fused=2:fit.epochs=1:hidden=4", "linear_gaussian:private=0"]
    status, out, err = serket(*command, ",".join(texts))
    assert status == 0 and "cannot" not in out, err
    spec = Spec.parse(texts[0])
    assert entered({"losses": {"cycle": 1, "fused": 1}}, spec.options) == {
        "losses": {"cycle": 1, "translation": 1, "fused": 2}, "fit": {"epochs": 1}, "hidden": 4}  # fmt: skip


def test_the_page_names_every_option_and_none_that_is_not_there(serket):
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    _, text, _ = serket("compare", "--help")
    there = set(re.findall(r"(?<!\S)--[a-z-]+", text)) - {"--help"}
    rows = [line for line in page.splitlines() if line.startswith("| `--")]
    assert {re.search(r"--[a-z]+", row)[0] for row in rows} <= there
    assert there - {"--data", "--test-fraction", "--strict", "--plugin", "--quiet"} <= set(
        re.findall(r"--[a-z]+", page)
    )
