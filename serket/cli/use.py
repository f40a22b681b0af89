"""What a run is for: to infer, to imagine, to be measured."""

from __future__ import annotations

from typing import Annotated

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
