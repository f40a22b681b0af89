"""The page on streams has every option of `stream:` with its default, and its graph is one."""

import re

import pytest

from serket.graph import check, parse_graph
from serket.graph.stream import SensorEntry, StreamEntry
from serket.stream.counters import REASONS
from tests.docs.test_docs import ROOT, blocks

PAGE = (ROOT / "docs/streams.md").read_text()
ELSE = {"topic": "its data key", "on_error": "that of `stream`"}


def rows(head):
    """The rows of the table under a heading of columns, cells apart."""
    lines = PAGE.split(f"| {head} |", 1)[1].splitlines()[2:]
    table = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def defaults(entry):
    """By key, as it is written, the default: of an option in an option, of each."""
    found = {}
    for name, field in entry.model_fields.items():
        value = field.default
        found |= {f"{name}.{key}": one for key, one in value.model_dump().items()} if name == "queue" else {name: value}
    return found


def written(value):
    return (
        "none"
        if value in (None, {})
        else f"`{str(value).lower()}`"
        if isinstance(value, bool | str)
        else f"`{value:g}`"
    )


@pytest.mark.parametrize("entry", [StreamEntry, SensorEntry])
def test_every_option_is_in_the_table_with_its_default(entry):
    table = rows("key | unit | default | what it is")
    parted = next(i for i, row in enumerate(table) if row[0] == "`sensors`") + 1
    told = {
        key.strip("`"): default for key, _, default, _ in (table[:parted] if entry is StreamEntry else table[parted:])
    }
    expected = {key: written(value) for key, value in defaults(entry).items()}
    if entry is SensorEntry:
        expected["gate.mahalanobis"] = expected.pop("gate")
        expected |= ELSE
    assert told == expected


def test_every_option_in_milliseconds_has_its_unit():
    for key, unit, *_ in rows("key | unit | default | what it is"):
        assert (unit == "ms") == key.strip("`").endswith("_ms"), key


def test_every_reason_is_told_in_the_words_of_the_account():
    assert {key.strip("`"): text for key, text in rows("reason | what happened")} == REASONS


def test_its_graph_is_one():
    (text,) = blocks("docs/streams.md", "yaml")
    check(parse_graph(text))


def test_its_links_lead_somewhere():
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", PAGE, re.M)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors
