"""A comparison as files: numbers, text and pictures."""

from __future__ import annotations

from pathlib import Path

from serket.comparison.pictures import by_pairs, by_subset, side_by_side
from serket.comparison.table import Comparison
from serket.errors import StateError
from serket.store.files import rendered, write

__all__ = ["claim", "save"]

PICTURES = {"subsets.png": by_subset, "pairs.png": by_pairs, "imagined.png": side_by_side}


def claim(folder: str | Path) -> Path:
    """Return the absolute path if a comparison may be written there.

    Raises:
        StateError: a file stands there, or a run, which is replaced as a whole and holds nothing else.
    """
    path = Path(folder).resolve()
    if path.exists() and not path.is_dir():
        raise StateError("a file stands where the comparison should", where=str(path), fix="choose another --out")
    if (path / "manifest.json").exists():
        raise StateError("a run stands where the comparison should", where=str(path), fix="choose another --out")
    return path


def save(table: Comparison, folder: str | Path) -> list[Path]:
    """Write ``compare.json``, ``compare.txt`` and the pictures there is something to draw for; return what is there.

    Raises:
        StateError: the folder is not free.
    """
    path = claim(folder)
    figures = path / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    write(path / "compare.json", rendered(table.as_dict()))
    write(path / "compare.txt", (str(table) + "\n").encode())
    drawn = [figures / name for name, draw in PICTURES.items() if draw(figures / name, table)]
    for name in PICTURES:
        if figures / name not in drawn:
            (figures / name).unlink(missing_ok=True)  # of an earlier comparison
    return [path / "compare.json", path / "compare.txt", *drawn]
