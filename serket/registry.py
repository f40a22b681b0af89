"""Names to classes: the only way a type in a YAML file becomes code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Literal, TypeVar

from serket.errors import GraphError, suggestion
from serket.protocol import Port

__all__ = ["Kind", "class_ports", "lookup", "options_of", "plug", "register", "registered"]

Kind = Literal["module", "composer"]
_CLASSES: dict[tuple[Kind, str], type] = {}
_INJECTED = {"self", "ports", "evidence", "inbox", "generator", "owned", "progress"}
C = TypeVar("C", bound=type)


def register(name: str, *, kind: Kind = "module") -> Callable[[C], C]:
    """Make a class available as ``type: name`` under ``modules:`` or ``composers:``; use it as a decorator.

    Raises:
        GraphError: another class of this kind has the name.
    """

    def keep(cls: C) -> C:
        known = _CLASSES.setdefault((kind, name), cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise GraphError(
                f"two {kind} classes are registered as '{name}'",
                found=f"{known.__module__}.{known.__qualname__} and {cls.__module__}.{cls.__qualname__}",
                fix="register one of them under another name",
            )
        _CLASSES[kind, name] = cls
        return cls

    return keep


@cache
def _installed() -> None:
    """Import the modules that ship, then those that installed packages offer as entry points."""
    import serket.composer
    import serket.modules  # noqa: F401

    for point in entry_points(group="serket.modules"):
        register(point.name)(point.load())


def registered(kind: Kind) -> Mapping[str, type]:
    """Return the classes of a kind by type name, sorted."""
    _installed()
    return {name: cls for (of, name), cls in sorted(_CLASSES.items()) if of == kind}


def lookup(name: str, kind: Kind, where: str | None = None) -> type:
    """Return the class of a type name.

    Raises:
        GraphError: no class has the name; the error lists those that exist.
    """
    classes = registered(kind)
    if name not in classes:
        raise GraphError(
            f"no {kind} type is called '{name}'",
            where=where,
            available=classes,
            fix=suggestion(name, classes) or "write one of these, or register yours and pass --plugin",
        )
    return classes[name]


def class_ports(cls: type) -> Mapping[str, Port] | None:
    """Return the ports declared on the class, or None if only its instances know them."""
    ports = inspect.getattr_static(cls, "ports", None)
    return ports if isinstance(ports, Mapping) else None


def options_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of ``__init__`` or ``fit`` that YAML may set: all but those the engine passes."""
    parameters = inspect.signature(function, eval_str=True).parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in parameters.items() if name not in _INJECTED and p.kind in kinds}


def plug(plugin: str) -> None:
    """Import a plugin so that its ``@register`` lines run: a Python file, or the name of an importable module.

    Raises:
        GraphError: there is no such file or module, or it fails.
    """
    path = Path(plugin)
    try:
        if path.suffix == ".py":
            spec = spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None, "a .py file has a loader"
            module = module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
        else:
            import_module(plugin)
    except Exception as error:
        if isinstance(error, GraphError):
            raise
        raise GraphError(
            "the plugin cannot be imported",
            where=plugin,
            found=f"{type(error).__name__}: {error}",
            fix="pass a file that ends in .py, or the name of an installed module",
        ) from error
