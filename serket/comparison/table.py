"""The outcome of a comparison: cells, what they come to over splits and seeds, and the table of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from serket.report.metrics import joined, subsets

__all__ = ["CHOSEN", "Cell", "Comparison", "Spread"]

CHOSEN = "(chosen)"
"""Stands for the composer that validation rows choose, in each split its own."""

WIDTH, MOST_KEYS = 80, 6
MEASURES = {
    "joint": "joint",
    "strict": "strict",
    "ari": "ARI",
    "coherence": "coherence",
    "calibration": "ECE",
    "explained": "explained",
    "validation": "validation",
    "cpu_seconds": "fit CPU s",
    "choosing_cpu_seconds": "choose CPU s",
    "parameters": "parameters",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One composer in one case, on one split with one seed; ``values`` as :func:`serket.compare` measures them."""

    composer: str
    case: str
    split: int
    seed: int
    values: Mapping[str, Any]

    @property
    def cannot(self) -> str | None:
        """Why the composer cannot serve the case, if it cannot."""
        reason = self.values.get("cannot")
        return None if reason is None else str(reason)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over splits and seeds; the deviation is 0 of a single number."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of some numbers, or None of none."""
        if not values:
            return None
        return cls(fmean(values), stdev(values) if len(values) > 1 else 0.0, len(values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What :func:`serket.compare` returns: print it, or take ``spread`` of a measure.

    Args:
        graph, data: their names.
        views: the data keys under the composer, in order.
        composers, cases: what was compared, as asked for.
        labelled: whether the data have labels.
        cells: every outcome.
        rows: how many to train and to test.
        shape: width and height of the view that is shown imagined, if it is a picture.
    """

    graph: str
    data: str
    views: tuple[str, ...]
    composers: tuple[str, ...]
    cases: tuple[str, ...]
    labelled: bool
    cells: tuple[Cell, ...]
    rows: Mapping[str, int]
    shape: tuple[int, int] | None = None

    def of(self, composer: str, case: str) -> list[Cell]:
        """Return the cells of a composer in a case; of ``(chosen)``, those of the composer chosen in each split."""
        chosen = self.chosen(case) if composer == CHOSEN else {}
        return [cell for cell in self.cells if cell.composer == chosen.get(cell.split, composer) and cell.case == case]

    def spread(self, composer: str, measure: str, case: str | None = None) -> Spread | None:
        """Return a measure over splits and seeds, ``subsets.fou`` or ``labels.10.accuracy.kar`` where it is nested.

        None where it was not measured, in all cells of the row.
        """
        found = (_at(cell.values, measure) for cell in self.of(composer, case or self.cases[-1]))
        return Spread.of([float(value) for value in found if value is not None])

    def cannot(self, composer: str, case: str) -> str | None:
        """Return why a composer cannot serve a case, if it could not in some split and seed."""
        cells = self.of(composer, case)
        reasons = [cell.cannot for cell in cells if cell.cannot is not None]
        if not reasons:
            return None
        return reasons[0] if len(reasons) == len(cells) else f"in {len(reasons)} of {len(cells)} cells {reasons[0]}"

    @property
    def served(self) -> bool:
        """Whether any composer serves any case."""
        return any(cell.cannot is None for cell in self.cells)

    def best(self, case: str | None = None) -> str | None:
        """Return the composer that validation rows of all splits choose: the best mean of ``validation``.

        To go on with: they are test rows of other splits, so what it scores in them is no estimate.
        """
        found = {name: self.spread(name, "validation", case) for name in self.composers}
        known = {name: spread for name, spread in found.items() if spread is not None and spread.mean == spread.mean}
        most = max((spread.n for spread in known.values()), default=0)
        means = {name: spread.mean for name, spread in known.items() if spread.n == most}
        return max(means, key=means.__getitem__) if means else None

    def chosen(self, case: str | None = None) -> dict[int, str]:
        """Return per split the composer that its own validation rows choose: the best mean over seeds."""
        splits = {split: tuple(cell for cell in self.cells if cell.split == split) for split in self.splits}
        found = {split: replace(self, cells=cells).best(case) for split, cells in splits.items()}
        return {split: name for split, name in found.items() if name is not None}

    @property
    def splits(self) -> list[int]:
        """Their numbers, in order."""
        return sorted({cell.split for cell in self.cells})

    @property
    def sections(self) -> dict[str, dict[str, str]]:
        """Per section of the table its columns: title by measure."""
        whole = {name: title for name, title in MEASURES.items() if self._measures(name)}
        names = [joined(subset) for subset in subsets(self.views, MOST_KEYS)]
        each = {f"subsets.{name}": name for name in names if self._measures(f"subsets.{name}")}
        found = {"measures": whole, "accuracy by subset": each}
        numbers = {number for cell in self.cells for number in cell.values.get("labels", {})}
        for number in sorted(numbers, key=int):
            taught = f"{number} labels a class on {self.views[0]}, read from"
            found[taught] = {f"labels.{number}.accuracy.{name}": name for name in (*self.views, joined(self.views))}
        return {title: columns for title, columns in found.items() if columns}

    def _measures(self, name: str) -> bool:
        return any(_at(cell.values, name) is not None for cell in self.cells)

    def as_dict(self) -> dict[str, Any]:
        """Return the table and every cell as plain data."""
        table: dict[str, Any] = {}
        names = {name for columns in self.sections.values() for name in columns}
        for case in self.cases:
            for composer in self.composers:
                spreads = {name: self.spread(composer, name, case) for name in sorted(names)}
                row: dict[str, Any] = {name: asdict(spread) for name, spread in spreads.items() if spread is not None}
                reason = self.cannot(composer, case)
                table.setdefault(case, {})[composer] = row | ({"cannot": reason} if reason else {})
        about = {"graph": self.graph, "data": self.data, "views": list(self.views), "rows": dict(self.rows)}
        best = {case: self.best(case) for case in self.cases}
        chosen = {case: {str(split): name for split, name in self.chosen(case).items()} for case in self.cases}
        about |= {"best_on_validation": best, "chosen_by_split": chosen}
        return about | {"table": table, "cells": [asdict(cell) for cell in self.cells]}

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def save(self, folder: str | Path) -> list[Path]:
        """Write numbers, text and pictures; see :func:`serket.comparison.save.save`."""
        from serket.comparison.save import save

        return save(self, folder)

    def lines(self, width: int = WIDTH) -> list[str]:
        """Return the table as text, wide ones in parts that fit the width."""
        runs = len({(cell.split, cell.seed) for cell in self.cells})
        lines = [f"{self.graph} on {self.data}: {', '.join(self.views)}; mean and standard deviation of {runs} runs"]
        for case in self.cases:
            for title, columns in (self.sections or {"measures": {}}).items():
                lines += ["", f"{case}: {title}" if len(self.cases) > 1 or title != "measures" else case]
                for part in _parts(list(columns), self._first, width):
                    lines += self._part(case, {name: columns[name] for name in part}, width)
            if chosen := self.chosen(case):
                lines += ["", *_wrapped(f"chosen on validation rows: {_counted(chosen)}", width, 4)]
        thawed = {(c.composer, name) for c in self.cells for name in c.values.get("thawed", ())}
        lines += [f"note: {composer} has changed module {name}" for composer, name in sorted(thawed)]
        return lines

    @property
    def _first(self) -> int:
        return max(map(len, (*self.composers, CHOSEN)))

    def _part(self, case: str, columns: Mapping[str, str], width: int) -> list[str]:
        first = self._first
        lines = [f"{'':<{first}}" + "".join(f"{title:>14}" for title in columns.values())] if columns else []
        lines += ["-" * len(line) for line in lines]
        for composer in (*self.composers, *[CHOSEN] * (len(self.splits) > 1 < len(self.composers))):
            spreads = {name: self.spread(composer, name, case) for name in columns}
            if any(spreads.values()):
                lines.append(f"{composer:<{first}}" + "".join(_cell(spread, name) for name, spread in spreads.items()))
            if composer != CHOSEN and (reason := self.cannot(composer, case)):
                lines += _wrapped(f"{composer:<{first}}  cannot: {reason}", width, first + 4)
        return lines


def _at(values: Mapping[str, Any], path: str) -> Any:
    """Follow a path of keys, as far as they go; a key may hold what is left of the path."""
    for name in path.split("."):
        if not isinstance(values, Mapping) or name not in values:
            return None
        values = values[name]
    return values


def _parts(names: Sequence[str], first: int, width: int) -> Iterable[Sequence[str]]:
    each = max((width - first) // 14, 1)
    return (names[start : start + each] for start in range(0, max(len(names), 1), each))


def _cell(spread: Spread | None, name: str) -> str:
    if spread is None:
        return f"{'-':>14}"
    if name == "parameters":
        return f"{spread.mean:>14.0f}"
    decimals = 1 if name.endswith("cpu_seconds") else 3
    sd = f" ±{spread.sd:.{decimals}f}" if spread.n > 1 else ""
    return f"{f'{spread.mean:.{decimals}f}{sd}':>14}"


def _counted(chosen: Mapping[int, str]) -> str:
    """Write one name, or each with its splits."""
    names = dict.fromkeys(chosen.values())
    splits = {name: ", ".join(str(split) for split in chosen if chosen[split] == name) for name in names}
    return (
        "; ".join(f"{name} in split {text}" for name, text in splits.items()) if len(names) > 1 else next(iter(names))
    )


def _wrapped(text: str, width: int, indent: int) -> list[str]:
    from textwrap import wrap

    return wrap(text, width, subsequent_indent=" " * indent, drop_whitespace=True)
