"""Composers by name, with options in a form that no shell has to quote: ``joint:objective=mopoe:fit.epochs=50``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from serket.errors import GraphError, SerketError
from serket.graph.scalar import scalar
from serket.protocol import Module, traits
from serket.registry import lookup

__all__ = ["Spec", "candidates", "entered", "specs"]


_THE_GRAPHS = ("type", "ports", "data")


@dataclass(frozen=True, slots=True)
class Spec:
    """A composer to compare: the text it was asked for by, its type, and the options pinned in the text.

    An option ``fit.NAME`` is one of its ``fit:``, and so of every option that is a mapping.
    """

    text: str
    type: str
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read ``type:option=value:option=value``; values are YAML scalars, ``a+b`` is a list and ``a+`` one of one.

        Raises:
            GraphError: no composer type has the name, or an option has no value.
        """
        name, *parts = text.strip().split(":")
        lookup(name, "composer", where=f"--composers '{text}'")
        options: dict[str, Any] = {}
        for part in parts:
            option, equals, value = part.partition("=")
            if not equals or not option or not value:
                raise GraphError(
                    f"'{part}' is no option",
                    where=f"--composers '{text}'",
                    expected="option=value, after a colon",
                    fix=f"write {name}:objective=mopoe:fit.epochs=50, say",
                )
            if option.partition(".")[0] in _THE_GRAPHS:
                raise GraphError(f"'{option}' is no option", where=f"--composers '{text}'", expected=f"one of {name}",
                                 fix="leave it out: the graph says where a composer goes")  # fmt: skip
            whole = f"{option}."
            if again := [other for other in options if whole.startswith(f"{other}.") or f"{other}.".startswith(whole)]:
                raise GraphError(f"'{option}' is given twice", where=f"--composers '{text}'",
                                 found=f"{again[0]}, {option}", fix="remove one of them")  # fmt: skip
            options[option] = _value(value)
        return cls(text.strip(), name, options)

    def blame(self, error: SerketError, path: str, place: str | None) -> None:
        """Say of an error in an entry made of this, in place, what it is about: the text, not a file.

        Args:
            error: of the entry.
            path: the entry, such as ``composers.body``.
            place: ``file:line:column`` of what is in the file there.
        """
        error.where = f"--composers '{self.text}' at {place}"
        option = next((name for name in self.options if error.problem.endswith(f" {path}.{name}")), None)
        if error.problem.startswith("unknown key") and error.problem.endswith(f" in {path}"):
            error.problem = error.problem.removesuffix(f" in {path}").replace("key", "option", 1)
            error.available = tuple(name for name in error.available or () if name not in _THE_GRAPHS)
        error.problem = error.problem.replace(f"{path}.", "option ").removeprefix(f"{path}: ")
        if option is None:
            return
        whole = f"{self.type}:{option}"
        if error.expected == "a mapping":
            key = (error.fix or "").removeprefix("write {").removesuffix("}").replace(": ", "=")
            error.fix = f"write {whole}.{key if '=' in key else 'NAME=VALUE'}, and more such after colons"
        elif error.expected == "a list":
            error.fix = f"write {whole}={self.options[option]}+, or a+b for two"
        elif error.expected == "a number or a list":
            error.fix = f"write {whole}=0.5, or numbers with + between them"


def entered(entry: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of a graph with options over its own; ``a.b`` is b of the mapping a."""
    merged = dict(entry)
    for name, value in options.items():
        head, dot, tail = name.partition(".")
        inner = merged.get(head)
        merged[head] = entered(inner if isinstance(inner, Mapping) else {}, {tail: value}) if dot else value
    return merged


def _value(text: str) -> Any:
    value = scalar(text)
    if isinstance(value, str) and "+" in value:
        return [scalar(part) for part in value.split("+") if part]
    return value


def specs(names: str | Iterable[str]) -> list[Spec]:
    """Read composers, given one by one or as ``a,b,c``; each counts once.

    Raises:
        SerketError: there is none.
    """
    given = names.split(",") if isinstance(names, str) else list(names)
    found = [Spec.parse(text) for text in dict.fromkeys(text.strip() for text in given) if text]
    if not found:
        raise SerketError("no composer to compare", expected="names of types", fix="--composers linear_gaussian,kernel")
    return found


def candidates(module: Module, pinned: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the values to choose from, as options by name: what the type declares worth comparing, less the pinned."""
    open_options = {name: values for name, values in traits(module).choices.items() if name not in pinned}
    return [dict(zip(open_options, values, strict=True)) for values in product(*open_options.values())]
