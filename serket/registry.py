"""Names to classes and functions: the only way a name in a YAML file becomes code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from serket.errors import GraphError, suggestion
from serket.protocol import Port

__all__ = [
    "Encoder",
    "Kind",
    "class_ports",
    "encoder",
    "encoder_of",
    "hypotheses",
    "hypotheses_of",
    "lookup",
    "network",
    "network_of",
    "options_of",
    "place_of",
    "plug",
    "register",
    "registered",
]

Kind = Literal["module", "composer"]


@dataclass(frozen=True, slots=True)
class Encoder:
    """What ``@serket.encoder`` registered, and the version it states, if any."""

    function: Any
    version: str | None = None


_CLASSES: dict[tuple[Kind, str], type] = {}
_FUNCTIONS: dict[str, Callable[..., Any]] = {}
_ENCODERS: dict[str, Encoder] = {}
_NETWORKS: dict[str, Callable[..., Any]] = {}
_INJECTED = {"self", "ports", "evidence", "inbox", "generator", "owned", "progress"}
C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])


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


def hypotheses(name: str) -> Callable[[F], F]:
    """Make a function available as ``function: name`` of a ``black_box``; use it as a decorator.

    The function is ``offer(values, generator) -> (hypotheses, log_weights)``: from ``(rows, D)`` observed values, L
    hypotheses a row, ``(rows, L)`` category numbers or ``(rows, L, D)`` vectors or counts, and their log-weights
    ``(rows, L)``, nats, -inf for places of the list that are empty.

    Raises:
        GraphError: another function has the name.
    """

    def keep(function: F) -> F:
        known = _FUNCTIONS.setdefault(name, function)
        if (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
            raise GraphError(
                f"two functions are registered as '{name}'",
                found=f"{place_of(known)} and {place_of(function)}",
                fix="register one of them under another name",
            )
        _FUNCTIONS[name] = function
        return function

    return keep


def hypotheses_of(name: str) -> Callable[..., Any]:
    """Return the function that offers hypotheses under this name.

    Raises:
        GraphError: there is none; the error lists those that exist.
    """
    _installed()
    if name not in _FUNCTIONS:
        near = suggestion(name, _FUNCTIONS) or f'decorate yours with @serket.hypotheses("{name}").'
        raise GraphError(
            f"no function that offers hypotheses is called '{name}'",
            available=sorted(_FUNCTIONS),
            fix=f"{near} If the function is yours: --plugin, with its file",
        )
    return _FUNCTIONS[name]


def encoder(name: str, *, version: str | None = None) -> Callable[[F], F]:
    """Make a function or a fitted estimator available to ``callable`` and ``sklearn``; use it as a decorator.

    The function is ``encode(values) -> embeddings``: from a numpy array ``(rows, ...)``, in the shape of the data, to
    ``(rows, E)``, row by row; rows it cannot read are NaN. An estimator is passed: ``serket.encoder("pca")(fitted)``.
    Installed packages offer theirs by the entry-point group ``serket.encoders``.

    Args:
        name: what YAML calls it; registered again, the last one counts if it is of the same function or class.
        version: stands for its weights and code where they cannot be hashed; raise it when they change.

    Raises:
        GraphError: another encoder has the name.
    """

    def keep(function: F) -> F:
        known = _ENCODERS.get(name)
        if known is not None:
            _same("encoders", name, known.function, function)
        _ENCODERS[name] = Encoder(function, version)
        return function

    return keep


def network(name: str) -> Callable[[F], F]:
    """Make a ``torch.nn.Module`` class, or a function that makes one, available to ``torch``; use it as a decorator.

    Its weights come from a file; installed packages offer theirs by the entry-point group ``serket.networks``.

    Raises:
        GraphError: another network has the name.
    """

    def keep(function: F) -> F:
        if name in _NETWORKS:
            _same("networks", name, _NETWORKS[name], function)
        _NETWORKS[name] = function
        return function

    return keep


def encoder_of(name: str) -> Encoder:
    """Return what is registered under the name of an encoder; raises like :func:`hypotheses_of`."""
    return cast(Encoder, _offered("encoder", name, _ENCODERS, encoder))


def network_of(name: str) -> Callable[..., Any]:
    """Return what is registered under the name of a network; raises like :func:`hypotheses_of`."""
    return cast(Callable[..., Any], _offered("network", name, _NETWORKS, network))


def _offered(what: str, name: str, known: Mapping[str, Any], keep: Callable[[str], Callable[[Any], Any]]) -> Any:
    points = entry_points(group=f"serket.{what}s")
    if name not in known:
        for point in points.select(name=name):  # only the one asked for is imported
            keep(name)(point.load())
    if name not in known:
        there = sorted({*known, *points.names})
        near = suggestion(name, there) or f'decorate yours with @serket.{what}("{name}").'
        raise GraphError(
            f"no {what} is called '{name}'", available=there, fix=f"{near} If it is yours: --plugin, with its file"
        )
    return known[name]


def _same(what: str, name: str, known: Any, new: Any) -> None:
    """Refuse two things of one name, but for what a notebook defines again."""

    def who(thing: Any) -> tuple[str, str]:
        own = thing if hasattr(thing, "__qualname__") else type(thing)
        return own.__module__, own.__qualname__

    if who(known) != who(new):
        raise GraphError(
            f"two {what} are registered as '{name}'",
            found=f"{place_of(known)} and {place_of(new)}",
            fix="register one of them under another name",
        )


def place_of(function: Callable[..., Any]) -> str:
    """Return where a function is defined: ``name at file:line``."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{name} at {code.co_filename}:{code.co_firstlineno}" if code else name


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
            fix=f"{suggestion(name, classes) or 'write one of these.'} If the type is yours: --plugin, with its file",
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
    if path.suffix == ".py" and not path.is_file():
        near = [str(other) for other in path.parent.glob("*.py")]
        fix = suggestion(plugin, near) or "check the path"
        raise GraphError("there is no such plugin file", where=plugin, available=sorted(near)[:10] or None, fix=fix)
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
