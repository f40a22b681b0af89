"""The page on composers: its table holds what the types say of themselves, its lines of YAML build, its links arrive."""

import re
from typing import get_args

import pytest

from serket.composer.joint.composer import Name
from serket.graph import parse_graph
from serket.graph.check import check
from serket.protocol import traits
from serket.registry import lookup, registered
from tests.contract.cases import CASES
from tests.docs.test_docs import ROOT, blocks

PAGE = (ROOT / "docs/composers.md").read_text()
ROWS = {row[0]: row for row in (
    [cell.strip() for cell in re.sub(r"\[`(\w+)`\]\([^)]*\)", r"\1", line).strip("|").split("|")]
    for line in PAGE.splitlines() if line.startswith("| [`")
)}  # fmt: skip


def test_every_composer_has_a_row():
    ours = {name for name, cls in registered("composer").items() if cls.__module__.startswith("serket.")}
    assert ROWS.keys() == ours
    assert all(re.search(rf"\b{objective}\b", PAGE) for objective in get_args(Name))
    assert len(PAGE.splitlines()) <= 150


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_the_type_says(name):
    """Of its first case: whether it is exact, whether its cost is plainly linear, whether it offers evidence."""
    case = next(case for case in CASES if (case.kind, case.type) == ("composer", name))
    module = case.fitted()
    exact, cost, evidence = ROWS[name][3:6]
    if name != "clusters":  # exact towards the concept only
        assert exact.startswith("yes") == traits(module).exact
    assert cost.startswith("linear") == (traits(module).cost.split(",")[0] == "linear") or "2^views" in cost
    bound = case.infer(module, case.inbox(1), case.evidence(0)).bound
    assert evidence.startswith(bound) or (bound == "lower" and evidence == "lower bound")
    assert lookup(name, "composer") is type(module)


def test_the_lines_to_swap_build():
    first, others = blocks("docs/composers.md", "yaml")
    text = (ROOT / "graphs/digits.yaml").read_text()
    assert first.rstrip("\n") in text
    for line in others.splitlines():
        assert line.strip().startswith("body: {type: ")
        report = check(parse_graph(text.replace(first.rstrip("\n"), line), "digits.yaml"))
        assert report.prior_owners["shared"].node == "concepts"


def test_links_arrive():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        page = (ROOT / "docs" / path).read_text()
        titles = [re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
                  for line in page.splitlines() if line.startswith("#")]  # fmt: skip
        assert not anchor or anchor in titles, target
    for path in ("README.md", "docs/graphs.md", "docs/compare.md"):
        assert "composers.md" in (ROOT / path).read_text(), path
