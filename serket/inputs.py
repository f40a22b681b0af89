"""What a graph reads: data sets, evidence, types and devices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from serket.data import Dataset
from serket.data import load as load_data
from serket.embedding import embedded
from serket.engine.reading import Layout
from serket.errors import DataError, DataWarning, GraphError, SerketError
from serket.graph import Graph
from serket.protocol import Embeds, Evidence, Module, couples_rows, traits
from serket.rows import runs

__all__ = ["Array", "check_device", "check_rows", "dataset_for", "dtype_of", "gather", "layouts", "raw_keys"]

Array = Any
Report = Callable[[str, int, int, str], None]


def dataset_for(graph: Graph, data: Dataset | Mapping[str, Array] | str | Path | None, **options: Any) -> Dataset:
    """Load the data a graph reads, from where it is told or from the graph's own ``data:``."""
    if isinstance(data, Dataset):
        return data
    source = data if data is not None else graph.data
    keys = list(dict.fromkeys(node.data for node in graph.nodes.values() if node.data is not None))
    if not keys:
        raise GraphError("no module of the graph reads data", where=graph.name, fix="give a module data: KEY")
    if source is None:
        raise DataError(
            "the graph names no data",
            where=graph.name,
            expected=f"an .npz file with {', '.join(keys)}",
            fix="pass --data FILE, or write data: FILE in the graph",
        )
    return load_data(source, keys, near=graph.folder, **options)


def gather(
    graph: Graph,
    modules: Mapping[str, Module],
    dataset: Dataset,
    rows: Any = None,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    observe: Sequence[str] | None = None,
    report: Report | None = None,
    warn: bool = True,
) -> dict[str, Evidence]:
    """Return the evidence of every node that reads data; warn where a module that needs whole rows gets gaps.

    A module that embeds gets the embeddings of what it observes (:func:`serket.embedding.embedded`). Modules of the
    time plate take each row for the one after the last of its sequence: rows of a sequence that do not follow one
    another are refused, and where rows in between are left out there is a warning.

    Args:
        graph: whose nodes.
        modules: by node name.
        dataset: what they read.
        rows: as in :meth:`serket.data.Dataset.evidence`.
        dtype: of floating values.
        device: where evidence goes.
        observe: data keys that are looked at; None is all.
        report: told of rows that have to be embedded.
        warn: False, where parts of rows are gathered that :func:`check_rows` has seen.
    """
    if warn:
        check_rows(graph, modules, dataset, rows)
    evidence = {}
    for node in graph.nodes.values():
        module = modules[node.name]
        if node.data is None:
            continue
        if isinstance(module, Embeds):
            seen = observe is None or node.data in observe
            evidence[node.name] = (
                embedded(node.name, module, dataset, node.data, rows, dtype=dtype, device=device, report=report)
                if seen
                else dataset.silent(rows, device)
            )
            continue
        one = dataset.evidence(node.data, rows, dtype=dtype, device=device, masks=traits(module).masks)
        evidence[node.name] = one if observe is None or node.data in observe else one.nothing()
    return evidence


def check_rows(graph: Graph, modules: Mapping[str, Module], dataset: Dataset, rows: Any = None) -> None:
    """Refuse rows out of time order, and warn of gaps."""
    if couples_rows(modules):
        _check_order(dataset, rows)
    for node in graph.nodes.values():
        mask = dataset.masks.get(node.data or "")
        if mask is not None and mask.ndim > 1 and traits(modules[node.name]).masks == "row":
            flat = mask.reshape(len(mask), -1)
            gaps = int((flat.any(1) & ~flat.all(1)).sum())
            if gaps:
                warnings.warn(
                    f"{node.name} needs whole rows of {node.data}: {gaps} of {len(mask)} have gaps and are missing",
                    DataWarning,
                    stacklevel=4,
                )


def _check_order(dataset: Dataset, rows: Any) -> None:
    place = dataset.numbers(rows)
    sequence = None if dataset.sequence is None else torch.from_numpy(dataset.sequence[place])
    lengths = runs(sequence, len(place))
    number = np.repeat(np.arange(len(lengths)), lengths.numpy())
    step = np.diff(place)[np.diff(number) == 0]
    if (step < 1).any():
        raise DataError(
            "the rows of a sequence are not in time order",
            where=dataset.name,
            expected="rows of a sequence in the order of the data",
            fix="choose rows in ascending order",
        )
    if gaps := int((step > 1).sum()):
        fix = f"; name the sequences ({next(iter(dataset.arrays))}_sequence), and whole ones are held out"
        warnings.warn(
            f"{dataset.name}: {gaps} gaps within sequences: the rows on either side of one count as neighbours in time"
            + ("" if dataset.sequences else fix),
            DataWarning,
            stacklevel=5,
        )


def raw_keys(graph: Graph) -> frozenset[str]:
    """Return the data keys that only modules read that embed: their arrays are in a shape and type of their own."""
    embedding = {node.data: hasattr(node.cls, "embed") for node in graph.nodes.values() if node.data is not None}
    for node in graph.nodes.values():
        if node.data is not None:
            embedding[node.data] &= hasattr(node.cls, "embed")
    return frozenset(key for key, embeds in embedding.items() if embeds)


def layouts(graph: Graph, dataset: Dataset) -> dict[str, Layout]:
    """Return type and shape of a row of each array that only encoders read."""
    there = {key: dataset.raw(key, slice(0, 1)) for key in sorted(raw_keys(graph)) if key in dataset.arrays}
    return {key: (array.dtype.name, array.shape[1:]) for key, array in there.items()}


def dtype_of(dataset: Dataset, raw: Collection[str] = ()) -> torch.dtype:
    """Return the widest floating type of the arrays, float64 if all are whole numbers.

    What only encoders read (``raw``) has no say; if there is nothing else, embeddings are float32.
    """
    arrays = [array for key, array in dataset.arrays.items() if key not in raw]
    kinds = {array.dtype for array in arrays if array.dtype.kind == "f"}
    return torch.float32 if kinds == {np.dtype("f4")} or not arrays else torch.float64


def check_device(device: str) -> str:
    """Return a device that works.

    Raises:
        SerketError: there is none of this name here.
    """
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        found = str(error).splitlines()[0][:70]
        raise SerketError(
            f"no device '{device}'", expected="cpu, cuda, cuda:1, ...", found=found, fix="use cpu"
        ) from None
    return device
