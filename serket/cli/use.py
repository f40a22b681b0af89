"""What a run is for: to infer, to imagine, to be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from serket.cli.shared import (
    DataOpt,
    DeviceOpt,
    FractionOpt,
    JsonOpt,
    OutOpt,
    PluginOpt,
    QuietOpt,
    RunArg,
    SeedOpt,
    StrictOpt,
    err,
    keys_of,
    npz,
    opened,
    plug,
    show,
    show_json,
    show_text,
    written,
)
from serket.errors import DataError
from serket.report.progress import Bars


def infer(
    run: RunArg,
    data: DataOpt = None,
    observe: Annotated[str | None, typer.Option("--observe", help="Data keys to use: a,b; else all there are.")] = None,
    out: OutOpt = None,
    max_iterations: Annotated[int, typer.Option("--max-iterations", min=1, help="Sweeps at most, on loops.")] = 200,
    seed: SeedOpt = None,
    strict: StrictOpt = False,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Infer every variable from whatever senses there are; --out writes the beliefs as .npz."""
    plug(plugin)
    from serket.report.arrays import beliefs_as_arrays, write_arrays
    from serket.report.beliefs import summary, summary_table

    model, dataset = opened(run, data, device, seed, quiet, strict=strict, missing_ok=True, test_fraction=0)
    result = model.infer(dataset, observe=keys_of(observe, dataset), max_iterations=max_iterations)
    if out is not None:
        write_arrays(npz(out, data), beliefs_as_arrays(result))
    if as_json:
        show_json(summary(result))
    elif not quiet:
        show_text(summary_table(result))
        written(out, "beliefs.npz")


def generate(
    run: RunArg,
    to: Annotated[str, typer.Option("--to", help="The data key to imagine.")],
    given: Annotated[
        str | None, typer.Option("--given", help="Data keys to imagine it from: a,b; else all others.")
    ] = None,
    data: DataOpt = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Draws per row.")] = 0,
    out: OutOpt = None,
    seed: SeedOpt = None,
    strict: StrictOpt = False,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Imagine one sense from others; --out writes mean, deviation and samples as .npz."""
    plug(plugin)
    from serket.report.arrays import imagination_as_arrays, write_arrays

    model, dataset = opened(run, data, device, seed, quiet, strict=strict, missing_ok=True, test_fraction=0)
    imagined = model.generate(to, dataset, observe=keys_of(given, dataset), samples=samples)
    arrays = imagination_as_arrays(to, imagined, dataset.row_id)
    if out is not None:
        write_arrays(npz(out, data), arrays)
    if as_json:
        show_json({name: list(array.shape) for name, array in arrays.items()})
    elif not quiet:
        for name, array in arrays.items():
            show_text(f"{name}  {' x '.join(map(str, array.shape))}")
        written(out, "imagined.npz")


def retrieve(
    run: RunArg,
    to: Annotated[str, typer.Option("--to", help="The data key of the examples.")],
    given: Annotated[
        str | None, typer.Option("--given", help="Data keys that call them to mind: a,b; else all others.")
    ] = None,
    data: DataOpt = None,
    among: Annotated[
        Path | None, typer.Option("--among", help="The stored examples; else the training rows of the run's data.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Examples per row.")] = 5,
    out: OutOpt = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw the first ten rows: nearest.png.")] = None,
    seed: SeedOpt = None,
    strict: StrictOpt = False,
    test_fraction: FractionOpt = 0.2,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Find the stored examples of one sense that others call to mind; without --data, for the run's test rows."""
    plug(plugin)
    from serket.inputs import dataset_for
    from serket.report.arrays import retrieval_as_arrays, write_arrays
    from serket.report.figures import draw_retrieved
    from serket.report.table import retrieval_table

    options: dict[str, Any] = {"strict": strict, "missing_ok": True, "test_fraction": test_fraction}
    model, dataset = opened(run, data, device, seed, quiet, **options)
    rows = dataset.test if data is None and len(dataset.test) else None
    shelf, stored = dataset, dataset.train
    if data is not None or among is not None:
        source = str(among) if among is not None else model.data.get("source")
        shelf = dataset_for(model.graph, source, seed=model.seed, **options)
        stored = shelf.train if among is None else shelf.numbers()
    found = model.retrieve(to, dataset, shelf, top=top, observe=keys_of(given, dataset), rows=rows, among_rows=stored)
    arrays = retrieval_as_arrays(to, found, shelf)
    if out is not None:
        write_arrays(npz(out, data), arrays)
    if picture is not None:
        draw_retrieved(picture, found, to, given or "the others", dataset, rows, shelf)
    if as_json:
        show_json({name: list(array.shape) for name, array in arrays.items()})
    elif not quiet:
        show_text(retrieval_table(found))
        written(out, "retrieved.npz")


def evaluate(
    run: RunArg,
    data: DataOpt = None,
    test_fraction: FractionOpt = 0.2,
    seed: SeedOpt = None,
    strict: StrictOpt = False,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Measure a run on test rows, for every subset of its senses."""
    plug(plugin)
    from serket.evaluate import evaluate as measure

    model, dataset = opened(run, data, device, seed, quiet, strict=strict, test_fraction=test_fraction)
    if not len(dataset.test):
        raise DataError("there are no test rows", where=dataset.name, fix="raise --test-fraction, or store 'test'")
    with Bars(err, quiet=quiet or as_json) as bars:
        metrics = measure(model, dataset, lambda *step: bars.step("evaluate", *step))
    show(metrics, as_json, quiet)
