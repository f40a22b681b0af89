"""Checking a tree against a model, with errors at the place in the file they are about."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from serket.errors import GraphError, suggestion
from serket.graph.schema import A_NAME
from serket.graph.yaml import Tree

__all__ = ["validate"]

M = TypeVar("M", bound=BaseModel)
Location = tuple[int | str, ...]
_EXPECTED = {
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "none_required": "null",
    "too_short": "at least one entry",
    "string_too_short": "text that is not empty",
}


def validate(model: type[M], tree: Tree, path: str) -> M:
    """Check a tree as strictly as JSON: no text for numbers, no 1.0 for 1, but lists for tuples.

    Args:
        model: what is expected.
        tree: what stands in the file.
        path: the tree's own place in the file, such as ``modules.pix``; empty for the whole file.

    Raises:
        GraphError: at the place in the file of the first thing that is wrong; unknown keys come first.
    """
    try:
        return model.model_validate_json(json.dumps(tree.plain()))
    except ValidationError as error:
        mistakes = sorted(error.errors(include_url=False), key=lambda mistake: mistake["type"] != "extra_forbidden")
        first = mistakes[0]
        spot, inside = _walk(tree, first["loc"], path)
        if first["type"] in ("extra_forbidden", "missing"):
            raise _wrong_key(first, model, spot, inside, path) from None
        keys = _mapping_keys(model, first["loc"])
        if first["loc"][-1:] == ("[key]",) and keys:
            raise _unknown("key", str(first["input"]), inside.rpartition(".")[0], spot, keys) from None
        if first["loc"][-1:] == ("[key]",):
            raise GraphError("this cannot be a name", where=spot.key, found=str(first["input"]), fix="rename it",
                             expected="letters, digits, - and _, no digit first") from None  # fmt: skip
        if first["type"] == "value_error":  # said by a model of ours: the problem; the fix
            problem, _, fix = str(first["ctx"]["error"]).partition("; ")
            found = None if isinstance(spot.value, dict) else _shown(spot)
            problem = f"{inside}: {problem}" if inside else problem
            raise GraphError(problem, where=spot.where, found=found, fix=fix) from None
        # The branches of a union complain one by one about the same place.
        same = [_expected(mistake) for mistake in mistakes if _walk(tree, mistake["loc"], path)[0] is spot]
        expected = " or ".join(dict.fromkeys(same))
        found = _shown(spot)
        fix = f"change it to {expected}"
        if "number" in expected and isinstance(spot.value, str):
            fix = "write it without quotes" if spot.value.replace(".", "").isdigit() else fix
        known = keys if keys and expected == "a mapping" else None
        if expected == "a list" and not isinstance(spot.value, dict | list):
            fix = f"put it in brackets: [{found}]"
        if expected == "a mapping" and (key := _key_for(spot.plain(), _chain(model, first["loc"])[-1][1])):
            fix = f"write {{{key}: {found}}}"
        elif known:
            fix = f"write {{{known[0]}: {found if type(spot.value) in (int, float) else 1}}}"
        raise GraphError(f"wrong value for {inside or 'the graph'}", where=spot.where, expected=expected,
                         found=found, available=known, fix=fix) from None  # fmt: skip


def _shown(spot: Tree) -> str:
    found = json.dumps(spot.plain(), ensure_ascii=False)
    return found if len(found) <= 80 else found[:77] + "..."


def _walk(tree: Tree, location: Location, path: str) -> tuple[Tree, str]:
    """Follow pydantic's location as far as the tree goes; names of union branches are not in the tree."""
    for step in location:
        if (below := tree.step(step)) is not None:
            tree, path = below, f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}".lstrip(".")
    return tree, path


def _wrong_key(mistake: Any, model: type[BaseModel], spot: Tree, path: str, top: str) -> GraphError:
    name, known, missing = str(mistake["loc"][-1]), _keys(model, mistake["loc"][:-1]), mistake["type"] == "missing"
    inside = path if missing else path.rpartition(".")[0]
    noun = "port" if inside.split(".")[2:] == ["ports"] else "key"
    if missing:
        fix = f"add '{name}:' and the name of a variable" if noun == "port" else f"add '{name}: ...'"
        fix = "begin the file with 'serket: 1'" if name == "serket" else fix
        return GraphError(f"{inside or 'the graph'} needs the {noun} '{name}'", where=spot.key or spot.where,
                          available=known, fix=fix)  # fmt: skip
    place = _elsewhere(name, _chain(model, mistake["loc"][:-1], top))
    return _unknown(noun, name, inside, spot, known, place)


def _unknown(noun: str, name: str, inside: str, spot: Tree, known: list[str], place: str | None = None) -> GraphError:
    return GraphError(f"unknown {noun} '{name}'" + f" in {inside}" * bool(inside), where=spot.key, available=known,
                      fix=place or suggestion(name, known) or f"write one of these, or remove '{name}'")  # fmt: skip


def _mapping_keys(model: type[BaseModel], location: Location) -> list[str]:
    """Return the names that may be keys of the plain mapping at a location; none if any name may, or there is none."""
    for depth, step in enumerate(location):
        for name, field in _chain(model, location[:depth])[-1][1].model_fields.items():
            if step == (field.alias or name):
                for part in (field.annotation, *get_args(field.annotation)):
                    if get_origin(part) is dict and get_origin(get_args(part)[0]) is Literal:
                        return [str(key) for key in get_args(get_args(part)[0])]
    return []


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _keys(model: type[BaseModel], location: Location) -> list[str]:
    """Return the keys of the innermost model at a location."""
    return _names(_chain(model, location)[-1][1])


def _chain(model: type[BaseModel], location: Location, top: str = "") -> list[tuple[str, type[BaseModel]]]:
    """Return the models from the outermost, at ``top``, to the innermost at a location, and the key of each."""
    chain = [(top, model)]
    for step in location:
        for name, field in chain[-1][1].model_fields.items():
            if step == (field.alias or name):
                chain += [(str(step), inner) for inner in _models(field.annotation)[:1]]
                break
    return chain


def _elsewhere(name: str, chain: list[tuple[str, type[BaseModel]]]) -> str | None:
    """Return where a key belongs that is right some levels down, or up."""
    if below := _below(name, chain[-1][1]):
        return f"it belongs under {below}:"
    above = next((key for key, model in chain[-2::-1] if name in _names(model)), None)
    return None if above is None else f"it belongs under {above}:" if above else "it belongs at the top of the file"


def _below(name: str, model: type[BaseModel]) -> str | None:
    for key, field in model.model_fields.items():
        step = f"{field.alias or key}{': KEY' * (get_origin(field.annotation) is dict)}"
        for inner in _models(field.annotation):
            if name in _names(inner):
                return step
            if deeper := _below(name, inner):
                return f"{step}: {deeper}"
    return None


def _key_for(value: Any, model: type[BaseModel]) -> str | None:
    """Return the key under which a value alone would be right."""
    for key in _names(model):
        with suppress(ValidationError):
            model.model_validate_json(json.dumps({key: value}))
            return key
    return None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _expected(mistake: Any) -> str:
    if mistake["loc"][-1:] == (A_NAME,):
        return A_NAME
    if mistake["type"] == "bool_type" and "feedback" in mistake["loc"]:
        return "on or off"
    text = str(mistake["msg"]).removeprefix("Input should be ")
    return _EXPECTED.get(mistake["type"]) or (f"a number {text}" if text.startswith(("greater", "less")) else text)
