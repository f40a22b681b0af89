"""What the commands share: their options, how they load, and how they tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from serket.errors import DataError
from serket.report.status import say

if TYPE_CHECKING:
    from serket.data import Dataset
    from serket.model import Model

err = Console(stderr=True, highlight=False)

GraphArg = Annotated[str, typer.Argument(help="A graph file, or the name of one that ships: digits.", metavar="GRAPH")]
RunArg = Annotated[str, typer.Argument(help="A run directory, or a graph in which nothing is trained.", metavar="RUN")]
DataOpt = Annotated[
    Path | None, typer.Option("--data", help="An .npz file, or an embedded name; else the graph's own.")
]
OutOpt = Annotated[Path | None, typer.Option("--out", help="Where to write.")]
SeedOpt = Annotated[int | None, typer.Option("--seed", min=0, help="Of all randomness; else the graph's own.")]
DeviceOpt = Annotated[str, typer.Option("--device", help="cpu, cuda or another torch device.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
StrictOpt = Annotated[bool, typer.Option("--strict", help="Refuse NaN and Inf that no mask explains.")]
FractionOpt = Annotated[float, typer.Option("--test-fraction", help="Rows to test on, if the data have no split.")]
PluginOpt = Annotated[list[str] | None, typer.Option("--plugin", help="A Python file or module that registers types.")]


def plug(plugins: list[str] | None) -> None:
    """Import the plugins named."""
    from serket.registry import plug

    for plugin in plugins or []:
        plug(plugin)


def model_of(run: str, device: str, seed: int | None) -> Model:
    """Load a run; or build a graph in which nothing needs training."""
    from serket.graph import load_graph, shipped
    from serket.inputs import check_device
    from serket.model import Model, load
    from serket.protocol import Trainable

    path = Path(run)
    if path.is_dir() or (run not in shipped() and not path.is_file()):
        model = load(path, device=check_device(device))
        model.seed = model.seed if seed is None else seed
        return model
    described = load_graph(run)
    built = described.build()
    untrained = [name for name, module in built.items() if isinstance(module, Trainable)]
    if untrained:
        raise DataError(
            f"{', '.join(untrained)} must be trained first",
            where=run,
            fix=f"serket run {run}, then give its directory here",
        )
    return Model(described, built, described.seed if seed is None else seed, check_device(device))


def opened(
    run: str, data: Path | None, device: str, seed: int | None, quiet: bool, **options: Any
) -> tuple[Model, Dataset]:
    """Load a run and its data, or those told; options as in :func:`serket.data.load`."""
    from serket.inputs import dataset_for

    model = model_of(run, device, seed)
    dataset = dataset_for(model.graph, str(data) if data else model.data.get("source"), seed=model.seed, **options)
    tell(dataset, quiet)
    tell_uncalibrated(model, quiet)
    return model, dataset


def tell_uncalibrated(model: Model, quiet: bool) -> None:
    """Print which frozen modules take part in products though nobody has calibrated them."""
    from serket.graph import uncalibrated

    for note in [] if quiet else uncalibrated(model.graph, model.modules):
        say(err, f"warning: {note}")


def source_of(named: str | None, data: Path | None, folder: Path | None) -> str:
    """Return where data can be found again from any folder: an embedded name, or an absolute path."""
    from serket.data import EMBEDDED, GENERATED

    text = str(data) if data else named or ""
    if text in EMBEDDED or text in GENERATED:
        return text
    here = Path(text)
    return str(here.resolve() if here.exists() or folder is None else (folder / here).resolve())


def keys_of(text: str | None, dataset: Dataset) -> list[str] | None:
    """Return the keys in ``a,b``; None is all there are."""
    if text is None:
        return None
    keys = [key.strip() for key in text.split(",") if key.strip()]
    for key in keys:
        if key in dataset.missing:
            raise DataError(f"no array '{key}'", where=dataset.name, available=dataset.arrays)
    return keys


def npz(out: Path, data: Path | None = None) -> Path:
    """Return where to write, with its ending; not over the data it was made from."""
    if data is not None and out.exists() and data.exists() and out.samefile(data):
        raise DataError("the output would replace the data", where=str(out), fix="choose another --out")
    return out if out.suffix == ".npz" else out.with_name(out.name + ".npz")


def written(out: Path | None, such_as: str) -> None:
    """Say where something was written, or how to have it written."""
    show_text(f"written to {near(npz(out))}" if out else f"nothing is written: pass --out {such_as}")


def save(path: Path, text: str) -> None:
    """Write a text; a failure names the path."""
    from serket.store.files import naming

    with naming(path):
        path.write_text(text, encoding="utf-8")


def near(path: Path) -> str:
    """Return a path relative to here, if it is below."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def tell(dataset: Dataset, quiet: bool) -> None:
    """Print what a reader of the results should know of the data."""
    for note in dataset.notes if not quiet else ():
        say(err, f"note: {note}")


def show(metrics: dict[str, Any], as_json: bool, quiet: bool) -> None:
    """Print metrics, as JSON or as tables."""
    from serket.report.table import print_metrics
    from serket.store.files import rendered

    if as_json:
        print(rendered(metrics).decode().rstrip())
    elif not quiet:
        print_metrics(metrics)


def show_json(value: Any) -> None:
    """Print JSON on standard output."""
    print(json.dumps(value, indent=2))


def show_text(*parts: Any, **options: Any) -> None:
    """Print texts and tables, never as markup."""
    Console(highlight=False).print(*parts, markup=False, soft_wrap=all(isinstance(p, str) for p in parts), **options)
