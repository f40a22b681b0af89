"""What a graph can name: the registered types, their ports and options."""

from __future__ import annotations

import inspect
from typing import Any

from serket.registry import Kind, class_ports, options_of, registered

__all__ = ["describe"]


def describe() -> dict[str, dict[str, dict[str, Any]]]:
    """Return per kind and type name: ``ports``, ``options``, ``fit`` (as ``name=default``) and ``summary``."""
    kinds: tuple[Kind, ...] = ("module", "composer")
    return {kind: {name: _about(cls) for name, cls in registered(kind).items()} for kind in kinds}


def _about(cls: type) -> dict[str, Any]:
    ports = []
    for name, port in (class_ports(cls) or {}).items():
        many, optional = " (list)" if port.many else "", " (optional)" if port.optional else ""
        ports.append(f"{name}: {port.family or 'any family'} {port.role}{many}{optional}")
    fit = getattr(cls, "fit", None)
    return {
        "ports": ports,
        "options": _options(cls),
        "fit": _options(fit) if fit else [],
        "summary": (inspect.getdoc(cls) or "").split("\n")[0],
    }


def _options(function: Any) -> list[str]:
    empty = inspect.Parameter.empty
    return [n if p.default is empty else f"{n}={p.default}" for n, p in options_of(function).items()]
