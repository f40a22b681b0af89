"""Metrics as tables for a terminal of 80 columns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from serket.retrieval import Retrieval

__all__ = ["print_metrics", "retrieval_table", "tables"]

_TITLES = {"probe_accuracy": "probe accuracy", "concept_ari": "concept ARI", "evidence": "evidence, nats"}


def retrieval_table(found: Retrieval, most: int = 10) -> Table:
    """Return the first rows of what was retrieved: the row, the examples' row ids, and the scores of first and last."""
    table = Table("row", "nearest", "score, nats", box=None, pad_edge=False, header_style="bold")
    for row, ids, scores in zip(found.row_id.tolist(), found.examples.tolist(), found.scores.tolist(), strict=True):
        if table.row_count == most:
            table.add_row("...", f"{len(found.row_id) - most} more rows", "")
            break
        shown = ", ".join(map(str, ids[:6])) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
        told = f"{scores[0]:.3g}" + (f" to {scores[-1]:.3g}" if len(scores) > 1 else "")
        table.add_row(str(row), shown, told)
    return table


def print_metrics(metrics: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what ``metrics.json`` holds: subsets and modules by measures, notes, what it took."""
    console = console or Console()
    for table in tables(metrics):
        console.print(table, "")
    for line in _rounds(metrics.get("rounds", [])):
        console.print(Text(line))
    for note in metrics.get("notes", ()):
        console.print(Text(f"note: {note}"))
    for key in ("rows", "seconds", "seed"):
        value = metrics.get(key)
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {number:.4g}" for name, number in value.items())
        if value is not None:
            console.print(Text(f"{key}: {value}", "dim"))


def _rounds(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say of every round what was kept, and what that made of the evidence."""
    lines = []
    for number in dict.fromkeys(step["round"] for step in steps):
        mine = [step for step in steps if step["round"] == number]
        kept = Counter(step["what"] for step in mine if step["kept"])
        told = ", ".join(name if times == 1 else f"{name} {times} times" for name, times in kept.items())
        after = max(max(step["evidence"], step["before"]) for step in mine)
        lines.append(
            f"round {number}: {'accepted' if kept else 'rejected'}, kept {sum(kept.values())} of {len(mine)} tries"
            f"{f' ({told})' if told else ''}, evidence {mine[0]['before']:.4g} -> {after:.4g} nats a row"
        )
    return lines


def tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Return the tables of :func:`print_metrics`.

    Args:
        metrics: ``subsets`` (subset to measure to number), ``coherence`` (``"fou>pix"`` to number), ``unlabelled``
            (measure to number, or to a number per module). All optional.
    """
    by_subset = {name: dict(measures) for name, measures in metrics.get("subsets", {}).items()}
    for name, value in _coherence(metrics.get("coherence", {})).items():
        by_subset.setdefault(name, {})["coherence"] = value
    by_module: dict[str, dict[str, Any]] = {}
    for measure, value in metrics.get("unlabelled", {}).items():
        for name, number in (value if isinstance(value, Mapping) else {"all": value}).items():
            by_module.setdefault(name, {})[measure] = number
    by_module |= {"all": by_module.pop("all")} if "all" in by_module else {}
    # Modules are not compared: each measures other data, in other units.
    made = [_table("given", by_subset, compared=True), _table("module", by_module, compared=False)]
    made += _reliability(metrics.get("reliability", {}))
    return [table for table in made if table is not None]


def _reliability(measured: Mapping[str, Any]) -> list[Table | None]:
    """Say of a calibrated model what its probabilities are worth; nothing here is the better the larger it is."""
    concepts = {
        name: {"calibration error": told["error"], "95 % quantile": told["quantile"]}
        for name, told in measured.get("concepts", {}).items()
    }
    coverage = {pair: {"inside 90 % intervals": share} for pair, share in measured.get("coverage", {}).items()}
    return [_table("concept given", concepts, compared=False), _table("imagined", coverage, compared=False)]


def _coherence(pairs: Mapping[str, Any]) -> dict[str, float]:
    """Return per source the mean over what it imagines: of ``fou>pix`` and ``fou>kar`` for ``fou``."""
    sources: dict[str, list[float]] = {}
    for pair, value in pairs.items():
        if ">" in pair and value is not None:
            sources.setdefault(pair.partition(">")[0], []).append(value)
    return {source: sum(values) / len(values) for source, values in sources.items()}


def _table(title: str, rows: Mapping[str, Mapping[str, Any]], *, compared: bool) -> Table | None:
    measures = list(dict.fromkeys(measure for row in rows.values() for measure in row))
    if not measures:
        return None
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    table.add_column(title, no_wrap=True)
    columns = []
    # Evidence is of other data in every row: it is shown, and not compared.
    for measure in measures:
        table.add_column(_TITLES.get(measure, measure.replace("_", " ")), justify="right")
        columns.append(_column([row.get(measure) for row in rows.values()], compared and measure != "evidence"))
    for name, *cells in zip(rows, *columns, strict=True):
        table.add_row(name, *cells)
    return table


def _column(values: list[float | None], compared: bool) -> list[Text]:
    """Return numbers with as many decimals as suit the largest, the best in bold."""
    values = [None if value is None or math.isnan(value) else value for value in values]
    numbers = [value for value in values if value is not None]
    largest = max(map(abs, numbers), default=0.0)
    decimals = 3 if largest < 10 else 2 if largest < 100 else 1
    best = max(numbers) if compared and len(set(numbers)) > 1 else None
    texts = ["" if value is None else f"{value:.{decimals}f}" for value in values]
    return [
        Text(text, "bold" if value is not None and value == best else "")
        for text, value in zip(texts, values, strict=True)
    ]
