"""The strict reader: what scalars mean, where things stand, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serket.errors import GraphError
from serket.graph.write import dump
from serket.graph.yaml import MAX_BYTES, MAX_DEPTH, read, tree_of


def value(text):
    return read(f"key: {text}\n", "f.yaml").plain()["key"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1e-4", 1e-4), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-3", -3), ("+7", 7), ("0", 0), ("0.5", 0.5),
     ("0x1F", 31), ("0o17", 15), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
     ("'on'", "on"), ('"012"', "012"), ("1_000", "1_000"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"),
     ("１２", "１２"), ("tRue", "tRue"), ("y", "y"), ("|-\n  on", "on")],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text, wanted):
    assert value(text) == wanted
    assert type(value(text)) is type(wanted)


@pytest.mark.parametrize("text", ["on", "Off", "YES", "no", "012", "-007", "01.5", ".nan", "-.inf", "1e999", "9" * 30,
                                  "9" * 5000, "0x" + "f" * 40])  # fmt: skip
def test_ambiguous_and_endless_scalars_are_refused(text):
    with pytest.raises(GraphError) as caught:
        value(text)
    assert caught.value.where == "f.yaml:1:6"


def test_on_and_off_are_words_of_feedback():
    assert read("feedback: off\na: {feedback: On}", "f.yaml").plain() == {"feedback": False, "a": {"feedback": True}}
    with pytest.raises(GraphError):
        read("feedback: yes", "f.yaml")
    with pytest.raises(GraphError):
        read("feedback: {a: on}", "f.yaml")


def test_everything_knows_its_place():
    tree = read("a:\n  - {b: 1}\n  - x\n", "f.yaml")
    assert tree.at("a").key == "f.yaml:1:1"
    assert tree.at("a", 0, "b").where == "f.yaml:2:9"
    assert tree.at("a", 0, "b").key == "f.yaml:2:6"
    assert tree.at("a", 1).where == "f.yaml:3:5"
    assert tree.at("a", 7, "b").where == tree.at("a").where


def test_depth_is_counted_before_anything_recurses():
    assert read("a: " + "[" * (MAX_DEPTH - 2) + "1" + "]" * (MAX_DEPTH - 2), "f.yaml")
    for text in ("[" * 20_000, "a: " + "{b: " * 20_000, "\n".join(" " * n + "a:" for n in range(500))):
        with pytest.raises(GraphError, match="nested too deep"):
            read(text, "f.yaml")


def test_a_large_file_is_refused_unread():
    with pytest.raises(GraphError, match="too large"):
        read("#" * (MAX_BYTES + 1), "f.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key():
    assert read("\ufeffa: 1\r\nb: 2\r\n", "f.yaml").plain() == {"a": 1, "b": 2}


REFUSED = ["a: \x07", "a: @b", "a: [1", "a: 'b", "? [a]\n: b", "*a", "--- &a\n", "!x", "%YAML 3.0\n---\na", "a: b: c"]
REFUSED += ["- a\nb: c", "...", "<<: 1", "a: !!str 1", "a: ! b", "%", 'a: "\\ud800"']


@pytest.mark.parametrize("text", REFUSED)
def test_whatever_is_refused_says_where(text):
    with pytest.raises(GraphError) as caught:
        read(text, "f.yaml")
    assert caught.value.where.startswith("f.yaml")


@given(st.text(alphabet="ab01.-+eEonx:{}[],'\"&*!<>|%@#? \n\t~_", max_size=40))
def test_any_text_gives_a_tree_or_an_error_of_ours(text):
    try:
        read(text, "f.yaml")
    except GraphError as error:
        assert error.where.startswith("f.yaml")


scalars = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
words = st.sampled_from(["on", "1e-3", "012", "~", "", "a b", "<<", "a: b", "- a", ".5", "0x1F", "true", "#", "é", "'"])
texts = words | st.text(max_size=8)
trees = st.recursive(
    scalars | texts, lambda t: st.lists(t, max_size=3) | st.dictionaries(texts, t, max_size=3), max_leaves=8
)


@given(st.dictionaries(texts, trees, min_size=1, max_size=4))
def test_what_is_written_reads_back(data):
    assert read(dump(data), "f.yaml").plain() == data
    assert tree_of(data, "graph").plain() == data


@pytest.mark.parametrize("data", [{1: 2}, {"a": float("nan")}, {"a": {"b": object()}}])
def test_plain_data_that_no_file_could_hold_is_refused(data):
    with pytest.raises(GraphError) as caught:
        tree_of(data, "graph")
    assert caught.value.where.startswith("graph")
