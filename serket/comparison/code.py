"""A name for the code that fits and measures: what other code has made is made again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from serket import store

__all__ = ["code_of"]

HOUSE = Path(__file__).parents[1]


def code_of(types: Iterable[Callable[..., Any]]) -> str:
    """Return a name for the code of Serket, all of it, and for the files of types, which may be others'."""
    files = {kind.__module__: getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in types}
    texts = {name: Path(file).read_text(encoding="utf-8") for name, file in files.items() if file}
    return store.fingerprint(house=_house(), types=texts)


@cache
def _house() -> str:
    """Hash every source file, once a process: numbers depend on more code than imports of a composer tell."""
    files = {file.relative_to(HOUSE): file for folder in (HOUSE, HOUSE / "modules") for file in folder.rglob("*.py")}
    return store.fingerprint(**{name.as_posix(): files[name].read_text(encoding="utf-8") for name in sorted(files)})
