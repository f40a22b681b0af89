"""Compiled samplers with one line changed."""

import sys
import types
from pathlib import Path

import serket.modules

FOLDER = Path(serket.modules.__file__).parent


def plant(patch, name, old, new):
    """Compile one file anew with a mistake in it, in the place of the right one."""
    source = (FOLDER / f"{name}.py").read_text()
    assert old in source, f"{name}.py holds no {old!r}"
    wrong = types.ModuleType(f"serket.modules.{name}")
    patch.setitem(sys.modules, wrong.__name__, wrong)
    patch.setattr(serket.modules, name, wrong, raising=False)
    exec(source.replace("cache=True", "cache=False").replace(old, new), wrong.__dict__)
