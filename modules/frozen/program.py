"""A torch.export archive, opened without running anything in it.

``torch.export.load`` trusts its file: it unpickles weights, constants and sample inputs, evaluates symbolic sizes as
Python (sympy), resolves operator names by attribute and turns guards into code. So the archive is read here first:
only names of the ATen operators and of arithmetic pass, sizes are plain expressions, no tensor is pickled; and what
torch gets is a copy without sample inputs, guards and traces.
"""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from serket.errors import GraphError

__all__ = ["opened"]

OPERATOR = re.compile(
    r"torch\.ops\.aten\.\w+(\.\w+)?|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge)|torch\.sym_(max|min|int|float|not)"
)
UNSAFE_OPERATOR = re.compile(r"torch\.ops\.aten\.(from_file|save|_save|load)\b")
NAME = re.compile(r"[\w.+-]*")  # names end up in the code that torch generates: they call nothing
SIZE = re.compile(r"(?:[\s()+*/,<>=A-Za-z\d-]|(?<=\d)\.(?=\d)|'[su]\d+')*")  # linear in its length
WORDS = {
    "Symbol",
    "Integer",
    "Rational",
    "positive",
    "nonnegative",
    "integer",
    "True",
    "False",
    "Max",
    "Min",
    "Mod",
    "FloorDiv",
    "CleanDiv",
    "PythonMod",
    "Add",
    "Mul",
    "Pow",
    "IntTrueDiv",
    "s",
    "u",
    "oo",
}
TREES = {"builtins.tuple", "builtins.list", "builtins.dict", None}


def opened(path: Path) -> torch.nn.Module:
    """Return the network of an archive.

    Raises:
        GraphError: it is none, or needs what could execute code: the error names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            copy = _copied(archive, str(path))
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise GraphError(
            "the archive cannot be read",
            where=str(path),
            expected="a .pt2 file of torch.export.save",
            found=f"{type(error).__name__}: {error}",
            fix="save it again with this version of torch",
        ) from None
    logger = logging.getLogger("torch.export")
    quiet, logger.disabled = logger.disabled, True  # it would print a traceback
    try:
        program = torch.export.load(copy)
        network: torch.nn.Module = program.module(check_guards=False)
    except Exception as error:  # of another version, or damaged: whatever torch raises
        raise GraphError(
            "torch cannot open the archive",
            where=str(path),
            found=str(error).splitlines()[0][:200],
            fix="save it again with this version of torch",
        ) from None
    finally:
        logger.disabled = quiet
    return network


def _copied(archive: zipfile.ZipFile, where: str) -> io.BytesIO:
    """Return the archive without what torch would unpickle or evaluate and the network does not need."""
    copy, models = io.BytesIO(), 0
    with zipfile.ZipFile(copy, "w") as clean:
        for entry in archive.infolist():  # each once, as their sizes were summed; not by name, which may be given twice
            name = entry.filename
            inner = name.split("/", 1)[-1]
            content = b"" if inner.startswith("data/sample_inputs/") else archive.read(entry)
            if inner.startswith("models/"):
                models += 1
                content = json.dumps(_checked(json.loads(content), where)).encode()
            elif inner.endswith("_config.json") and inner.startswith(("data/weights/", "data/constants/")):
                for key, entry in json.loads(content)["config"].items():
                    if entry.get("use_pickle", True) or not str(entry.get("path_name", "")).startswith(
                        ("weight_", "tensor_")
                    ):
                        raise _refused(where, f"'{key}' is pickled")
            elif content and not re.fullmatch(
                r"data/(weights/weight_|constants/tensor_)\d+|archive_format|archive_version|byteorder|\.data/\w+",
                inner,
            ):
                raise _refused(where, f"a file {inner}")
            clean.writestr(name, content)
    if not models:
        raise KeyError("models")
    copy.seek(0)
    return copy


def _checked(model: Any, where: str) -> Any:
    model["guards_code"] = []
    for key, value in _entries(model):
        if key == "target" and isinstance(value, str):
            if not OPERATOR.fullmatch(value) or UNSAFE_OPERATOR.match(value):
                raise _refused(where, f"the operator {value}")
        elif key == "expr_str" and isinstance(value, str):
            words = set(re.findall(r"[A-Za-z]+", value))
            if not SIZE.fullmatch(value) or not words <= WORDS or len(value) > 500:
                raise _refused(where, f"the size {value[:60]}")
        elif isinstance(value, str) and '"type"' in value and "spec" in str(key):
            used = {
                found for part, found in _entries(json.loads(value)) if part == "type" and not isinstance(found, dict)
            }
            if not used <= TREES:
                raise _refused(
                    where, f"inputs or outputs of type {', '.join(sorted(str(one) for one in used - TREES))}"
                )
        elif isinstance(value, str) and key != "as_string" and not NAME.fullmatch(value):
            raise _refused(where, f"the name {value[:60]}")
        elif key == "custom_obj" or key == "as_custom_obj" or (key == "custom_obj_values" and value):
            raise _refused(where, "an object that is no tensor")
    return model


def _entries(thing: Any) -> Iterator[tuple[str, Any]]:
    """Walk all entries of a document; traces of where a node came from are dropped on the way."""
    if isinstance(thing, dict):
        if isinstance(thing.get("metadata"), dict):
            thing["metadata"] = {}
        for key, value in thing.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(thing, list):
        for value in thing:
            yield "", value
            yield from _entries(value)


def _refused(where: str, what: str) -> GraphError:
    return GraphError(
        "the archive needs what could execute code, and is refused",
        where=where,
        found=what,
        expected="a network of ATen operators on tensors",
        fix="use network: and weights: file.safetensors, or export it to ONNX",
    )
