"""Imports point down the house (STYLE), nothing heavy is imported for nothing, nothing is evaluated or unpickled."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
    for folder in ("serket", "modules")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.is_relative_to(ROOT / "serket" / "modules")  # a link to modules/
}
# Who stands on whom; a room imports only what is strictly below it, and itself.
FLOORS = [["errors"], ["messages", "rows"], ["draws", "naming", "predictive", "protocol"], ["registry"], ["graph", "data", "store"],
          ["engine"], ["embedding"],
          ["training", "inputs", "imagination", "retrieval", "scaffold"], ["model"], ["calibration"], ["fitting", "growth"], ["report"],
          ["comparison", "stream"],
          ["cli", "testing"]]  # fmt: skip
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
LIBRARY = {"messages", "protocol", "registry", "errors", "rows"}


def imports(path):
    """Return (line, module) for every import, wherever it stands; ``from a import b`` counts as a and a.b."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the full name"
            found += [(node.lineno, node.module)] if node.module != "serket" else [
                (node.lineno, f"serket.{alias.name}") for alias in node.names]  # fmt: skip
    return found


def rooms(path):
    """Return (line, room) of every import from serket."""
    return [(line, room_of(module)) for line, module in imports(path) if module.startswith("serket.")]


def room_of(name):
    """The second word; scores belong to the room of their tables and pictures."""
    room = name.split(".")[1] if name.startswith("serket.") else "modules"
    return "report" if room == "evaluate" else room


def test_every_file_has_a_floor():
    assert len(FILES) > 40
    assert {room_of(name) for name in FILES} - FLOOR.keys() <= {"modules", "composer", "__init__"}


@pytest.mark.parametrize("name", [n for n in FILES if room_of(n) in FLOOR])
def test_imports_point_down(name):
    room = room_of(name)
    for line, other in rooms(FILES[name]):
        if name == "serket.registry" and other in ("modules", "composer"):
            assert _inside(FILES[name], line) == "_installed", "only when types are looked up"
            continue
        assert other == room or FLOOR.get(other, 99) < FLOOR[room], f"{name}:{line} imports serket.{other}"


def _inside(path, line):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0):
            return node.name
    return None


@pytest.mark.parametrize("name", [n for n in FILES if room_of(n) in ("modules", "composer")])
def test_modules_and_composers_know_only_messages_and_the_protocol(name):
    own = room_of(name)
    for line, other in rooms(FILES[name]):
        assert other == own or other in LIBRARY, f"{name}:{line} imports serket.{other}"


def test_one_module_does_not_know_another():
    """A file of a registered class imports helpers, never another registered class."""
    registers = {n for n in FILES if room_of(n) in ("modules", "composer") and "@register(" in FILES[n].read_text()}
    assert len(registers) >= 6
    for name in registers:
        for line, module in imports(FILES[name]):
            plain = module.removeprefix("serket.") if module.startswith("serket.modules") else module
            assert plain not in registers, f"{name}:{line} imports {module}"


BANNED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__"}
LOADS = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("torch", "save")}


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_unpickled_or_evaluated(name):
    path = FILES[name]
    for line, module in imports(path):
        assert module.split(".")[0] not in BANNED, f"{name}:{line}"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name):
                assert called.id not in CALLS, f"{name}:{node.lineno}: {called.id}"
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                assert (called.value.id, called.attr) not in LOADS, (
                    f"{name}:{node.lineno}: {called.value.id}.{called.attr}"
                )
                pickles = any(k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in node.keywords)
                assert not pickles, f"{name}:{node.lineno}: allow_pickle"


def test_importing_serket_imports_nothing_heavy():
    heavy = ("matplotlib", "sklearn", "pandas", "ray", "IPython")
    code = f"import serket, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", done.stdout
