"""An ONNX file, by onnxruntime."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from serket.errors import GraphError
from serket.modules.frozen.files import found, hashed, installed, needed
from serket.modules.frozen.reading import Frozen
from serket.registry import register

__all__ = ["Onnx"]

# Of ONNX's protocol buffers, by field number, what leads to tensors.
MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
SKIPPED = {1: 8, 3: 0, 4: 0, 5: 4}  # bytes of a value by its wire type; the fields of a group are read as its owner's
EXTERNAL, PLACE = 13, 14  # fields of a tensor: its entries of an external file, and whether it is in one


@register("onnx")
@dataclass(kw_only=True, eq=False, repr=False)
class Onnx(Frozen):
    """A network in an ONNX file, on the CPU; one input, one output.

    The file is data, and whole: one whose tensors are in other files is refused. Operators outside the standard sets
    are refused by onnxruntime, and no external library is loaded.
    Rows are cast to the type of the input. A network of fixed batch size is run so many rows at a time, the last batch
    padded with its last row. Half-precision outputs are widened to float32.

    Args:
        file: a path, or ``package:NAME/path``.
        input: the name of the input, if there are several.
        output: the name of the output; the first if not given.

    Options of every frozen encoder as in :class:`Frozen`.
    """

    paths: ClassVar[tuple[str, ...]] = ("file",)
    file: str
    input: str | None = None
    output: str | None = None

    def prepare(self) -> None:
        """Find the file and the package."""
        self._path = found(self.file, (".onnx",), self.largest_mb)
        self._files = [self._path]
        installed("onnxruntime", "onnx")
        if _is_split(self._path):
            raise GraphError(
                "tensors of the network are in another file",
                where=self.file,
                expected="one file, which is what its size and hash are told of",
                found="external data",
                fix='save it in one: onnx.save(onnx.load(file), "whole.onnx", save_as_external_data=False)',
            )
        self._session: Any = None

    def _opened(self) -> Any:
        if self._session is None:
            runtime = needed("onnxruntime", "onnx")
            options = runtime.SessionOptions()
            options.log_severity_level, options.intra_op_num_threads = 4, 1
            try:
                session = runtime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime's errors have no common base
                raise GraphError(
                    "onnxruntime cannot open the file",
                    where=self.file,
                    found=str(error).splitlines()[0][:200],
                    fix="check it: onnx.checker.check_model(file)",
                ) from None
            self._input = _named("input", self.input, session.get_inputs(), self.file, several=False)
            self._output = _named("output", self.output, session.get_outputs(), self.file, several=True)
            self._session = session
        return self._session

    def encode(self, values: Tensor) -> Any:
        """Run it on a batch."""
        session = self._opened()
        rows = values.cpu().numpy().astype(_type_of(self._input.type), copy=False)
        first = self._input.shape[0] if self._input.shape else None
        step = first if isinstance(first, int) and first > 0 else max(len(rows), 1)
        parts = []
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            filled = np.concatenate([some, np.repeat(some[-1:], step - len(some), 0)]) if len(some) < step else some
            (out,) = session.run([self._output.name], {self._input.name: filled})
            parts.append(out[: len(some)])
        return np.concatenate(parts)

    def expected(self) -> str | None:
        """Tell the shape of the input."""
        return f"rows of shape {self._input.shape[1:]}, {self._input.type}" if self._session is not None else None

    def identity(self) -> str:
        """Hash the file and the names of input and output."""
        return hashed(f"onnx {self.input} {self.output}", [self._path])

    def place(self) -> str:
        """Tell which file."""
        return self.file


def _is_split(path: Path) -> bool:
    """Tell whether tensors are in other files, reading no tensor; of a damaged file it says no: onnxruntime tells."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        waiting = [("model", 0, len(data))]
        try:
            while waiting:
                kind, at, end = waiting.pop()
                while at < end:
                    tag, at = _number(data, at)
                    field, wire = tag >> 3, tag & 7
                    value, at = _number(data, at) if wire in (0, 2) else (0, at + SKIPPED[wire])
                    if kind == "tensor" and (field == EXTERNAL or (field == PLACE and value)):
                        return True
                    if wire == 2:
                        if field in MESSAGES.get(kind, {}):
                            waiting.append((MESSAGES[kind][field], at, at + value))
                        at += value
        except (IndexError, KeyError):
            return False
    return False


def _number(data: mmap.mmap, at: int) -> tuple[int, int]:
    """Return the number that starts here in base 128, and where it ends."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise IndexError("no number is that long")


def _type_of(name: str) -> Any:
    kinds = {"float": "f4", "double": "f8", "float16": "f2", "uint8": "u1", "int8": "i1", "int32": "i4", "int64": "i8"}
    kind = name.removeprefix("tensor(").removesuffix(")")
    if kind not in kinds:
        raise GraphError("the network's input is not made of numbers", found=name, fix="export it with a numeric input")
    return np.dtype(kinds[kind])


def _named(what: str, name: str | None, there: Any, file: str, several: bool) -> Any:
    known = [one.name for one in there]
    if name is None and (len(known) == 1 or several):
        return there[0]
    if name not in known or (not several and len(known) > 1):
        problem = (
            f"the network has no {what} '{name}'"
            if name is not None and name not in known
            else (f"the network has {len(known)} {what}s: only one can be fed")
        )
        raise GraphError(
            problem, where=file, available=known, fix=f"name an {what} that exists, or export a network of one"
        )
    return there[known.index(name)]
