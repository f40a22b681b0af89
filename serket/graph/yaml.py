"""YAML as data: a strict reader whose every key and value knows its file, line and column."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from serket.errors import GraphError
from serket.graph.scalar import Scalar, scalar

__all__ = ["MAX_BYTES", "MAX_DEPTH", "Tree", "read", "tree_of"]

MAX_DEPTH = 16
MAX_BYTES = 1_000_000
_SWITCHES = {"on": True, "off": False}
_TOKENS = {"scalar": "a word", "block end": "the end of a block", "stream end": "the end of the file",
           "block mapping start": "an indented key", "block sequence start": "an indented list"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tree:
    """A value and where it stands, ``file:line:column``, 1-based; ``key`` is where its key stands, if it has one."""

    value: dict[str, Tree] | list[Tree] | Scalar
    where: str
    key: str | None = None

    def plain(self) -> Any:
        """Return dicts, lists and scalars, without places."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        return [child.plain() for child in self.value] if isinstance(self.value, list) else self.value

    def step(self, name: str | int) -> Tree | None:
        """Return the child under a key or an index, or None."""
        if isinstance(self.value, dict):
            return self.value.get(str(name))
        if isinstance(self.value, list) and isinstance(name, int) and name < len(self.value):
            return self.value[name]
        return None

    def at(self, *steps: str | int) -> Tree:
        """Follow keys and indices as far as they go."""
        tree = self
        for step in steps:
            tree = tree.step(step) or tree
        return tree


def read(text: str, name: str) -> Tree:
    """Parse one YAML document into a tree; nothing in it can name code.

    Scalars follow the core schema of YAML 1.2 (section 10.3.2), and what earlier versions read otherwise is refused:
    ``012``, and ``yes``, ``no``, ``on``, ``off`` but for ``on`` and ``off`` under a key ``feedback``.

    Args:
        text: the document.
        name: what errors call it, a path as the user wrote it.

    Raises:
        GraphError: no document, or more than one; syntax; duplicate keys; keys that are not text; tags, anchors,
            aliases, merge keys; numbers that are not finite; more than MAX_DEPTH levels or MAX_BYTES bytes.
    """
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise GraphError("the file is too large", where=name, expected=f"at most {MAX_BYTES} bytes",
                         fix="keep arrays in the data file, not in the graph")  # fmt: skip
    try:
        events = (event for event in yaml.parse(text, Loader=yaml.SafeLoader))
        return _Reader(events, name).document()
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, name) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise GraphError("a character that YAML does not allow", where=f"{name}:{line}:{column}",
                         found=f"U+{ord(str(error.character)):04X}", fix="remove it") from None  # fmt: skip


@dataclass(slots=True)
class _Reader:
    """Turns the parser's events into a tree; reading events, not nodes, shows tags and depth before any recursion."""

    events: Iterator[yaml.Event]
    name: str

    def document(self) -> Tree:
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            raise self._empty()
        tree = self._tree(next(self.events), 1, None)
        if tree.value is None:
            raise self._empty()
        next(self.events)
        extra = next(self.events)
        if not isinstance(extra, yaml.StreamEndEvent):
            raise GraphError("a second document begins here", where=self._at(extra), expected="one graph in one file",
                             fix="remove the line '---', or split the file")  # fmt: skip
        return tree

    def _tree(self, event: yaml.Event, depth: int, key: str | None, under: str | None = None) -> Tree:
        where = self._at(event)
        self._refuse_tricks(event, where)
        if depth > MAX_DEPTH:
            raise GraphError("nested too deep", where=where, expected=f"at most {MAX_DEPTH} levels",
                             fix="keep arrays in the data file, not in the graph")  # fmt: skip
        if isinstance(event, yaml.ScalarEvent):
            return Tree(self._scalar(event, where, under), where, key)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Tree] = []
            while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
                items.append(self._tree(item, depth + 1, None))
            return Tree(items, where, key)
        children: dict[str, Tree] = {}
        while not isinstance(entry := next(self.events), yaml.MappingEndEvent):
            name, at = self._key(entry), self._at(entry)
            if name in children:
                raise GraphError(f"the key '{name}' is given twice", where=at, expected="each key once",
                                 found=f"the first at {children[name].key}", fix="remove or rename one")  # fmt: skip
            children[name] = self._tree(next(self.events), depth + 1, at, name)
        return Tree(children, where, key)

    def _key(self, event: yaml.Event) -> str:
        where = self._at(event)
        self._refuse_tricks(event, where)
        if isinstance(event, yaml.ScalarEvent) and event.style is None and event.value == "<<":
            raise GraphError("merge keys are not read", where=where, found="<<",
                             fix="write the keys out in every place")  # fmt: skip
        key = self._scalar(event, where, None) if isinstance(event, yaml.ScalarEvent) else None
        if not isinstance(key, str):
            found = event.value if isinstance(event, yaml.ScalarEvent) else "a list or a mapping"
            fix = f'write "{found}" in quotes' if isinstance(event, yaml.ScalarEvent) else "use a plain word as the key"
            raise GraphError(
                "a key that is not text", where=where, expected="a name", found=found or "nothing", fix=fix
            )
        return key

    def _scalar(self, event: yaml.ScalarEvent, where: str, under: str | None) -> Scalar:
        if any("\ud800" <= character <= "\udfff" for character in event.value):
            raise GraphError(
                "half a character", where=where, found=ascii(event.value), fix="write the character itself"
            )
        if event.style is not None:
            return str(event.value)
        if under == "feedback" and event.value.lower() in _SWITCHES:
            return _SWITCHES[event.value.lower()]
        try:
            return scalar(event.value)
        except GraphError as error:
            error.where = where
            raise

    def _refuse_tricks(self, event: yaml.Event, where: str) -> None:
        if (anchor := getattr(event, "anchor", None)) is not None:
            found = f"*{anchor}" if isinstance(event, yaml.AliasEvent) else f"&{anchor}"
            raise GraphError("anchors and aliases are not read", where=where, found=found,
                             fix="write the value out in every place")  # fmt: skip
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = str(tag).replace("tag:yaml.org,2002:", "!!")
            raise GraphError("tags are not read: a graph is data", where=where, found=shown,
                             fix="remove the tag; to use a class of yours, register it and write its name after "
                             "'type:'")  # fmt: skip

    def _at(self, event: yaml.Event) -> str:
        return _place(self.name, event.start_mark)

    def _empty(self) -> GraphError:
        return GraphError(
            "the file is empty", where=self.name, expected="a graph", fix="begin with the line 'serket: 1'"
        )


def _place(name: str, mark: Any) -> str:
    return name if mark is None else f"{name}:{mark.line + 1}:{mark.column + 1}"


def _syntax(error: yaml.MarkedYAMLError, name: str) -> GraphError:
    """Say what PyYAML said, in the house's form."""
    problem, where = str(error.problem or error.context), _place(name, error.problem_mark or error.context_mark)
    if "'\\t'" in problem:
        return GraphError("a tab where YAML allows spaces only", where=where, fix="replace the tab by spaces")
    for token, word in _TOKENS.items():
        problem = problem.replace(f"'<{token}>'", word)
    between = f"between line {error.context_mark.line + 1} and here" if error.context_mark else "here or just before"
    return GraphError(f"this is not YAML: {problem}", where=where,
                      fix=f"look for a missing colon, quote, bracket or indent {between}")  # fmt: skip


def tree_of(value: Any, where: str) -> Tree:
    """Give plain Python data the form :func:`read` gives a file; ``where`` is a dotted path.

    Raises:
        GraphError: a key that is not text, or a value that YAML could not hold.
    """
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise GraphError("a key that is not text", where=where, found=repr(wrong[0]), fix="use a str as the key")
        return Tree({key: tree_of(child, f"{where}.{key}") for key, child in value.items()}, where, where)
    if isinstance(value, list | tuple):
        return Tree([tree_of(child, f"{where}[{index}]") for index, child in enumerate(value)], where, where)
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return Tree(value, where, where)
    raise GraphError("a value that a graph cannot hold", where=where, found=repr(value)[:80],
                     expected="dicts, lists, text, finite numbers, true, false or none",
                     fix="convert it first, for example with .tolist()")  # fmt: skip
