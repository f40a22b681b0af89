"""Model files: found without importing anything, of a bounded size, never unpickled."""

from __future__ import annotations

import hashlib
import importlib
import zipfile
import zlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import IO

from serket.errors import GraphError, StateError, suggestion

__all__ = ["found", "hashed", "installed", "located", "needed", "part"]

CONVERT = {
    ".pkl": "save an estimator by skops.io.dump(estimator, 'model.skops'), a network by safetensors.torch.save_file",
    ".joblib": "skops.io.dump(joblib.load(file), 'model.skops'), where you trust the file",
    ".pt": "safetensors.torch.save_file(torch.load(file, weights_only=True), 'model.safetensors')",
    ".npy": "arrays are data: store them in an .npz file",
    ".h5": "export the model to ONNX",
}
CONVERT |= {
    ".pickle": CONVERT[".pkl"],
    ".pth": CONVERT[".pt"],
    ".bin": CONVERT[".pt"],
    ".ckpt": CONVERT[".pt"],
    ".npz": CONVERT[".npy"],
    ".dill": CONVERT[".pkl"],
    ".keras": CONVERT[".h5"],
}


def found(path: str, suffixes: tuple[str, ...], largest_mb: float) -> Path:
    """Return the file a graph names: a path, or ``package:NAME/path`` for a file of an installed package.

    Raises:
        GraphError: there is none, it is a pickle or of another kind, or larger than the limit.
    """
    place = located(path)
    if place.suffix not in suffixes:
        kinds = " or ".join(suffixes)
        if place.suffix in CONVERT:
            raise GraphError(
                "a file that may execute code when it is loaded is refused",
                where=path,
                expected=kinds,
                found=place.suffix,
                fix=CONVERT[place.suffix],
            )
        raise GraphError("no such kind of model file", where=path, expected=kinds, found=place.suffix or "no suffix")
    if not place.is_file():
        near = [entry.name for entry in place.parent.glob("*") if entry.suffix in suffixes]
        raise GraphError(
            "there is no such model file",
            where=path,
            available=near,
            found=f"nothing at {place}",
            fix=suggestion(place.name, near) or "check the path; it is relative to the graph file",
        )
    return limited(place, largest_mb)


def part(folder: str, names: tuple[str, ...], largest_mb: float) -> list[Path]:
    """Return these files of a local folder, each within the limit.

    Raises:
        GraphError: the folder or one of the files is not there, or too large.
    """
    place = located(folder)
    if not place.is_dir():
        raise GraphError(
            "there is no such folder",
            where=folder,
            found=f"nothing at {place}",
            fix="download the model first; nothing is fetched",
        )
    for name in names:
        if not (place / name).is_file():
            there = sorted(entry.name for entry in place.iterdir() if entry.is_file())
            pickled = [entry for entry in there if Path(entry).suffix in CONVERT]
            fix = (
                f"{pickled[0]} may execute code and is refused: {CONVERT[Path(pickled[0]).suffix]}" if pickled else None
            )
            raise GraphError(f"the folder has no {name}", where=folder, available=there, fix=fix)
    return [limited(place / name, largest_mb) for name in names]


def located(path: str) -> Path:
    """Return where a path leads; a package is found, not imported."""
    if not path.startswith("package:"):
        return Path(path).expanduser()
    package, _, rest = path.removeprefix("package:").partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise GraphError(
            f"no package '{package}' is installed",
            where=path,
            expected="package:NAME/path/of/the/file",
            fix=f"pip install {package.replace('_', '-')}, or check the name",
        )
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    place = (root / rest).resolve()
    if not place.is_relative_to(root):
        raise GraphError("the path leaves its package", where=path, fix="name a file inside it")
    return place


def limited(place: Path, largest_mb: float) -> Path:
    """Return the file if it is not larger than the limit, nor what it unpacks to."""
    size = place.stat().st_size / 1e6
    if size <= largest_mb and place.suffix in (".pt2", ".skops"):
        with place.open("rb") as stream:
            size = max(size, _unpacked(stream, largest_mb * 1e6) / 1e6)
    if size > largest_mb:
        raise GraphError(
            "the model file is over the size limit",
            where=str(place),
            expected=f"{largest_mb:g} MB at most",
            found=f"{size:.3g} MB",
            fix=f"raise the limit: largest_mb: {size + 1:.0f}",
        )
    return place


def _unpacked(stream: IO[bytes], most: float) -> int:
    """Return how many bytes an archive unpacks to, with archives in it; beyond the most it looks no further."""
    if not zipfile.is_zipfile(stream):
        return 0
    try:
        with zipfile.ZipFile(stream) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            for entry in archive.infolist():
                if size > most:
                    break
                with archive.open(entry) as inner:
                    size += _unpacked(inner, most - size)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error):
        return 0  # the reader tells what is wrong with it
    return size


def hashed(settings: str, files: Iterable[Path]) -> str:
    """Return the SHA-256 of settings and of the contents of files.

    Raises:
        StateError: a file is gone.
    """
    digest = hashlib.sha256(settings.encode())
    for path in files:
        try:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise StateError(
                "the encoder's file cannot be read",
                where=str(path),
                found=error.strerror,
                fix="put it back, or refit with another",
            ) from None
    return digest.hexdigest()


def installed(package: str, extra: str) -> None:
    """Tell whether an optional package is there, importing nothing; raises like :func:`needed`."""
    if find_spec(package) is None:
        raise _absent(package, extra, "it is not installed")


def needed(package: str, extra: str) -> ModuleType:
    """Import an optional package.

    Raises:
        GraphError: it is not installed; the error names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise _absent(package, extra, str(error)) from None


def _absent(package: str, extra: str, found: str) -> GraphError:
    fix = f'pip install "serket-perception[{extra}]"'
    return GraphError(f"this type needs the package {package}", found=found, fix=fix)
