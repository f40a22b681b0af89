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

__all__ = ["Spec", "candidates", "specs"]


@dataclass(frozen=True, slots=True)
class Spec:
    """A composer to compare: the text it was asked for by, its type, and the options pinned in the text.

    An option ``fit.NAME`` is one of its ``fit:``.
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
        lookup(name, "composer", where=f"composer '{text}'")
        options: dict[str, Any] = {}
        for part in parts:
            option, equals, value = part.partition("=")
            if not equals or not option or not value:
                raise GraphError(
                    f"'{part}' is no option",
                    where=f"composer '{text}'",
                    expected="option=value, after a colon",
                    fix=f"write {name}:objective=mopoe:fit.epochs=50, say",
                )
            options[option] = _value(value)
        return cls(text.strip(), name, options)


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
